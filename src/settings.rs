//! What a configuration file can set: one TOML table, whose keys are in [`Settings::keys`].

mod keys;
mod read;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::num::{NonZeroU64, NonZeroUsize};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{Config, Connections, Window, first_of_list};
use crate::history::Retention;
use crate::retry::RetryPolicy;

pub use self::keys::SettingsKey;
use backhaul_backends::{Proxies, Proxy};

/// Largest configuration file, in bytes: a hundred times one that sets every key. Chosen without measurement.
pub const SETTINGS_FILE_BYTES_MAX: u64 = 64 << 10;

/// Everything that a configuration file can set. A field that is `None` has no value of its own; what holds then is said in
/// the table of keys, as is the meaning of each field.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own")]
pub struct Settings {
    /// Transfers at the same time; 1 to 256.
    pub jobs: usize,
    /// Transfers at the same time from one host; 1 to 256.
    pub jobs_per_host: Option<usize>,
    /// Bytes per second for all transfers together.
    pub limit_rate: Option<NonZeroU64>,
    /// Most memory that the engine lets itself take, in bytes; 6 MiB to 1 TiB. See [`Config::memory_limit`].
    pub memory_limit: Option<u64>,
    /// Whether progress is recorded seldom, so that flash lasts longer and a crash costs more. See [`Window::flash_friendly`].
    pub flash_friendly: bool,
    /// Connections for one file from its first byte on; 1 to 16.
    pub connections: Option<usize>,
    /// Failed attempts in a row that are followed by another; 0 to 1,000,000.
    pub retries: usize,
    /// Longest time to connect; above 0, at most a year.
    pub connect_timeout: Duration,
    /// Longest time from the request to the response; above 0, at most a year.
    pub response_timeout: Duration,
    /// Longest silence within a response; above 0, at most a year.
    pub stall_timeout: Duration,
    /// Whether FTP servers open the data connections.
    pub ftp_active: bool,
    /// PEM file with the certificates that HTTPS trusts; absolute.
    pub ca_bundle: Option<PathBuf>,
    /// The proxy of every operation that names none; those of the environment where `None`.
    pub proxy: Option<ProxySetting>,
    /// Servers that are asked without a proxy, be it `proxy` or, in the daemon, one of the environment: names with their
    /// subdomains, addresses, networks, as in [`Proxies::except`]; at most 512.
    pub no_proxy: Vec<String>,
    /// Directories that destinations must be in; absolute, and as written: symlinks are not resolved. Anywhere where empty.
    pub roots: Vec<PathBuf>,
    /// Directories with helper programs; absolute.
    pub helper_path: Vec<PathBuf>,
    /// Whether the state directory may be on NFS, CIFS, 9p or FUSE.
    pub allow_network_fs: bool,
    /// Whether a damaged journal is salvaged instead of refused.
    pub salvage: bool,
    /// Where journal and vault are; absolute.
    pub state_dir: Option<PathBuf>,
    /// The socket of the local interface; absolute, at most 107 bytes.
    pub socket: Option<PathBuf>,
    /// Acknowledged ends kept at most; 0 to 10,000,000.
    pub acknowledged_max: usize,
    /// Days that an acknowledged end is kept at most; 0 to 3,650.
    pub acknowledged_days: usize,
    /// Unacknowledged ends kept at most; 1 to 10,000,000.
    pub unacknowledged_max: usize,
    /// Operations that the state directory holds; 1 to 10,000,000.
    pub operations_max: usize,
    /// Operations of one app; 1 to 10,000,000. See [`Settings::operations_per_app_max`].
    pub operations_per_app_max: Option<usize>,
    /// Longest message on the socket, in bytes; 4 KiB to 16 MiB.
    pub message_bytes_max: usize,
    /// Clients that are connected at the same time; 1 to 65,536.
    pub connections_max: usize,
    /// Of them those of one user; 1 to 65,536.
    pub connections_per_peer_max: usize,
    /// Of them those that monitor; 1 to 65,536.
    pub monitors_max: usize,
    /// Time without work and without clients after which the daemon ends; above 0, at most a year.
    pub exit_idle: Option<Duration>,
    /// What is logged.
    pub log: LogLevel,
}

/// What `proxy` is in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProxySetting {
    /// No proxy, whatever the environment says.
    Direct,
    /// One for everything.
    Through(Proxy),
}

/// What is logged: this and all that is more important.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum LogLevel {
    /// What failed and needs somebody.
    Error,
    /// What went wrong and was got over.
    Warn,
    /// What begins and ends.
    Info,
    /// Decisions.
    Debug,
    /// Every step.
    Trace,
}

impl LogLevel {
    /// All of them, from the quietest on.
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// Its name in a configuration file and in `BACKHAUL_LOG`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl Default for Settings {
    /// Those of [`Config`], but a damaged journal is salvaged: nobody attends a daemon. The limits of the local interface
    /// were chosen without measurement.
    fn default() -> Self {
        let config = Config::default();
        Self {
            jobs: config.jobs_max,
            jobs_per_host: None,
            limit_rate: None,
            memory_limit: None,
            flash_friendly: false,
            connections: None,
            retries: 19,
            connect_timeout: config.limits.connect,
            response_timeout: config.limits.response,
            stall_timeout: config.limits.stall,
            ftp_active: config.ftp_active,
            ca_bundle: None,
            proxy: None,
            no_proxy: Vec::new(),
            roots: Vec::new(),
            helper_path: vec![PathBuf::from(crate::PACKAGED_HELPERS)],
            allow_network_fs: false,
            salvage: true,
            state_dir: None,
            socket: None,
            acknowledged_max: config.retention.acknowledged_max,
            acknowledged_days: 7,
            unacknowledged_max: config.retention.unacknowledged_max,
            operations_max: config.operations_max,
            operations_per_app_max: None,
            message_bytes_max: 1 << 20,
            connections_max: 2_048,
            connections_per_peer_max: 2_048,
            monitors_max: 1_536,
            exit_idle: None,
            log: LogLevel::Warn,
        }
    }
}

/// Where a configuration file is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsFile {
    /// Its path.
    pub path: PathBuf,
    /// Somebody named it, so that it must be there; a file in a place of its own accord may be missing.
    pub is_required: bool,
}

impl SettingsFile {
    /// `given`, or else `$CONFIGURATION_DIRECTORY/backhaul.toml` (in the first of several), `/etc/backhaul/backhaul.toml`
    /// for root, `$XDG_CONFIG_HOME/backhaul/backhaul.toml`, `~/.config/backhaul/backhaul.toml`, in this order; `None` where
    /// nothing of that is known. `variable` reads the environment; what is not absolute there is as if not set.
    ///
    /// Source: XDG Base Directory Specification 0.8; systemd.exec(5), `ConfigurationDirectory=`.
    #[must_use]
    pub fn find(given: Option<PathBuf>, is_root: bool, variable: impl Fn(&str) -> Option<PathBuf>) -> Option<Self> {
        if let Some(path) = given {
            let is_required = true;
            return Some(Self { path, is_required });
        }
        let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
        let configured = variable("CONFIGURATION_DIRECTORY").map(first_of_list);
        let directory = if let Some(directory) = configured.filter(|path| path.is_absolute()) {
            directory
        } else if is_root {
            PathBuf::from("/etc/backhaul")
        } else {
            let home = || absolute("HOME").map(|home| home.join(".config"));
            absolute("XDG_CONFIG_HOME").or_else(home)?.join("backhaul")
        };
        Some(Self {
            path: directory.join("backhaul.toml"),
            is_required: false,
        })
    }
}

/// A configuration file that cannot be used. Shown on one line: file, line, key, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    /// The file.
    pub path: PathBuf,
    /// The line of it, counted from 1, where one is at fault.
    pub line: Option<usize>,
    /// The key, as written, where one is at fault.
    pub key: Option<String>,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display().to_string();
        write!(formatter, "{}", read::on_one_line(&path))?;
        if let Some(line) = self.line {
            write!(formatter, " line {line}")?;
        }
        if let Some(key) = &self.key {
            write!(formatter, ": {}", read::shown(key))?;
        }
        write!(formatter, ": {}", read::on_one_line(&self.problem))
    }
}

impl std::error::Error for SettingsError {}

impl Settings {
    /// All keys, in the order in which they are documented.
    #[must_use]
    pub fn keys() -> &'static [SettingsKey] {
        keys::KEYS
    }

    /// Reads a configuration file; then `options` sets what the command line gave, which wins. Without a file, and without
    /// one in a place that is only looked at, the defaults hold.
    ///
    /// # Errors
    /// [`SettingsError`] where the file cannot be read, is larger than [`SETTINGS_FILE_BYTES_MAX`], or says what
    /// [`Settings::parse`] refuses.
    pub fn load(file: Option<&SettingsFile>, options: impl FnOnce(&mut Self)) -> Result<Self, SettingsError> {
        let mut settings = match file {
            Some(file) => Self::load_file(file)?,
            None => Self::default(),
        };
        options(&mut settings);
        Ok(settings)
    }

    fn load_file(file: &SettingsFile) -> Result<Self, SettingsError> {
        match read_file(&file.path) {
            Ok(bytes) => Self::parse(&file.path, &bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !file.is_required => Ok(Self::default()),
            Err(error) => Err(SettingsError {
                path: file.path.clone(),
                line: None,
                key: None,
                problem: format!("cannot be read: {error}"),
            }),
        }
    }

    /// Reads the text of a configuration file; `path` is only named in errors.
    ///
    /// # Errors
    /// [`SettingsError`] with the first line that is no TOML in UTF-8, or has an unknown key, one that was there before, or
    /// a value of the wrong type or out of range; or where all is longer than [`SETTINGS_FILE_BYTES_MAX`].
    ///
    /// Source: TOML 1.1.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, SettingsError> {
        read::parse(path, text)
    }

    /// What holds after `new` was loaded by a running service: the keys that may change then ([`SettingsKey::reload`]) have their
    /// new values, the others stay. Beside it the names of those that need a restart to change.
    #[must_use]
    pub fn reloaded(&self, new: &Self) -> (Self, Vec<&'static str>) {
        let mut merged = self.clone();
        let mut needs_restart = Vec::new();
        for key in Self::keys() {
            if key.reload {
                key.field.copy(new, &mut merged);
            } else if !key.field.is_same(self, new) {
                needs_restart.push(key.name);
            }
        }
        (merged, needs_restart)
    }

    /// What an engine needs of it. The roots are taken as they are: resolve them first, for destinations are compared with
    /// their symlinks resolved.
    #[must_use]
    pub fn config(&self) -> Config {
        let defaults = Config::default();
        let connections = match self.connections {
            Some(max) => Connections {
                max,
                at_once: true,
                ..defaults.connections
            },
            None => defaults.connections,
        };
        Config {
            jobs_max: self.jobs,
            jobs_per_host_max: self.jobs_per_host.and_then(NonZeroUsize::new),
            retry: RetryPolicy {
                failures_max: u32::try_from(self.retries).unwrap_or(u32::MAX).saturating_add(1),
                ..defaults.retry
            },
            retention: Retention {
                acknowledged_max: self.acknowledged_max,
                acknowledged_for: Duration::from_secs(self.acknowledged_days as u64 * 24 * 3600),
                unacknowledged_max: self.unacknowledged_max,
            },
            limits: crate::Limits {
                connect: self.connect_timeout,
                response: self.response_timeout,
                stall: self.stall_timeout,
            },
            rate_max: self.limit_rate,
            memory_limit: self.memory_limit,
            window: if self.flash_friendly {
                Window::flash_friendly()
            } else {
                defaults.window
            },
            connections,
            operations_max: self.operations_max,
            operations_per_app_max: self.operations_per_app_max(),
            roots: self.roots.clone(),
            ca_bundle: self.ca_bundle.clone(),
            proxies: self.proxies(),
            ftp_active: self.ftp_active,
            helper_path: self.helper_path.clone(),
            salvage: self.salvage,
            allow_network_file_system: self.allow_network_fs,
            ..defaults
        }
    }

    /// The proxies that are set.
    fn proxies(&self) -> Option<Proxies> {
        match self.proxy.clone()? {
            ProxySetting::Direct => Some(Proxies::direct()),
            ProxySetting::Through(proxy) => Some(self.without_exceptions(Proxies::all(proxy))),
        }
    }

    /// The same, but for the servers of `no_proxy`; where there are none, as they are. A list that was read was checked; of
    /// any other nothing counts.
    pub(crate) fn without_exceptions(&self, proxies: Proxies) -> Proxies {
        if self.no_proxy.is_empty() {
            return proxies;
        }
        let less = proxies.clone().except(&self.no_proxy.join(","));
        less.unwrap_or(proxies)
    }

    /// Operations of one app at most: as set, or as many as there may be of all.
    #[must_use]
    pub fn operations_per_app_max(&self) -> usize {
        self.operations_per_app_max
            .unwrap_or(self.operations_max)
            .min(self.operations_max)
    }
}

/// The bytes of a regular file, at most one more than may be.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    // A pipe without a writer would be waited for without end.
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(SETTINGS_FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
