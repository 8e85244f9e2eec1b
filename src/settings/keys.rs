//! The table of keys: name, default, meaning, and which field of [`Settings`] each sets, within which bounds.

use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::budget::MEMORY_LIMITS;

use super::{LogLevel, ProxySetting, Settings};

/// Most operations, and ends, that can be asked for; chosen without measurement.
const OPERATIONS_MAX: usize = 10_000_000;
/// Most clients that can be asked for, as each needs a file descriptor; chosen without measurement.
const CLIENTS_MAX: usize = 65_536;
/// Longest path of a socket, in bytes, without the zero at its end.
///
/// Source: unix(7), `sun_path`.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// One key of a configuration file.
#[derive(Debug)]
#[non_exhaustive]
pub struct SettingsKey {
    /// As it is written.
    pub name: &'static str,
    /// Its default, as it is written; `None` where it has no value unless set.
    pub default: Option<&'static str>,
    /// A value as it is written, where there is no default.
    pub example: &'static str,
    /// What it sets, without its bounds, in words that end no sentence.
    pub meaning: &'static str,
    /// Whether a running daemon takes a new value over when it reloads; otherwise it must be restarted.
    pub reload: bool,
    pub(super) field: Field,
}

impl SettingsKey {
    /// The values that are right, as errors and documentation name them.
    #[must_use]
    pub fn allowed(&self) -> String {
        self.field.allowed()
    }
}

/// A field of [`Settings`] by its type, and its bounds.
#[derive(Debug)]
pub(super) enum Field {
    Count(fn(&mut Settings) -> &mut usize, RangeInclusive<usize>),
    CountOrNone(fn(&mut Settings) -> &mut Option<usize>, RangeInclusive<usize>),
    /// A count of bytes, which may be written with a unit.
    Bytes(fn(&mut Settings) -> &mut usize, RangeInclusive<usize>),
    /// The same where it may have no value.
    BytesOrNone(fn(&mut Settings) -> &mut Option<u64>, RangeInclusive<u64>),
    RateOrNone(fn(&mut Settings) -> &mut Option<NonZeroU64>),
    Seconds(fn(&mut Settings) -> &mut Duration),
    SecondsOrNone(fn(&mut Settings) -> &mut Option<Duration>),
    Flag(fn(&mut Settings) -> &mut bool),
    /// An absolute path of at most this many bytes.
    PathOrNone(fn(&mut Settings) -> &mut Option<PathBuf>, usize),
    Paths(fn(&mut Settings) -> &mut Vec<PathBuf>),
    /// A proxy, or `direct`.
    ProxyOrNone(fn(&mut Settings) -> &mut Option<ProxySetting>),
    /// Servers without a proxy.
    Exceptions(fn(&mut Settings) -> &mut Vec<String>),
    Level(fn(&mut Settings) -> &mut LogLevel),
}

impl Field {
    pub(super) fn allowed(&self) -> String {
        match self {
            Self::Count(_, range) | Self::CountOrNone(_, range) => format!("{} to {}", range.start(), range.end()),
            Self::Bytes(_, range) => byte_counts(range, "64k"),
            Self::BytesOrNone(_, range) => byte_counts(range, "12M"),
            Self::RateOrNone(_) => {
                "bytes per second from 1 on, or text with k, M or G for powers of 1024, like \"20M\"".into()
            }
            Self::Seconds(_) | Self::SecondsOrNone(_) => "seconds above 0, at most 31536000".into(),
            Self::Flag(_) => "true or false".into(),
            Self::PathOrNone(_, bytes_max) => format!("an absolute path in quotes, of at most {bytes_max} bytes"),
            Self::Paths(_) => "a list of absolute paths in quotes, like [\"/srv\", \"/data\"]".into(),
            Self::ProxyOrNone(_) => {
                "a proxy in quotes, like \"http://USER:PASSWORD@HOST:PORT\", the same with socks5 or \
                                     socks5h (which looks names up itself), or \"direct\""
                    .into()
            }
            Self::Exceptions(_) => {
                "a list of names, which mean their subdomains too, addresses, networks like \"10.0.0.0/8\", \
                                    each but networks with :PORT for one port only, or \"*\" for all"
                    .into()
            }
            Self::Level(_) => {
                let names = LogLevel::ALL.map(|level| format!("\"{}\"", level.name()));
                names.join(", ")
            }
        }
    }

    pub(super) fn copy(&self, from: &Settings, to: &mut Settings) {
        match self {
            Self::Count(field, _) | Self::Bytes(field, _) => copy(*field, from, to),
            Self::CountOrNone(field, _) => copy(*field, from, to),
            Self::BytesOrNone(field, _) => copy(*field, from, to),
            Self::RateOrNone(field) => copy(*field, from, to),
            Self::Seconds(field) => copy(*field, from, to),
            Self::SecondsOrNone(field) => copy(*field, from, to),
            Self::Flag(field) => copy(*field, from, to),
            Self::PathOrNone(field, _) => copy(*field, from, to),
            Self::Paths(field) => copy(*field, from, to),
            Self::ProxyOrNone(field) => copy(*field, from, to),
            Self::Exceptions(field) => copy(*field, from, to),
            Self::Level(field) => copy(*field, from, to),
        }
    }

    pub(super) fn is_same(&self, one: &Settings, other: &Settings) -> bool {
        let mut changed = one.clone();
        self.copy(other, &mut changed);
        changed == *one
    }
}

fn byte_counts<T: std::fmt::Display>(range: &RangeInclusive<T>, example: &str) -> String {
    let (least, most) = (range.start(), range.end());
    format!("{least} to {most} bytes, or text with k, M or G for powers of 1024, like \"{example}\"")
}

fn copy<T: Clone>(field: fn(&mut Settings) -> &mut T, from: &Settings, to: &mut Settings) {
    let mut from = from.clone();
    field(to).clone_from(field(&mut from));
}

const fn key(name: &'static str, default: &'static str, field: Field, meaning: &'static str) -> SettingsKey {
    SettingsKey {
        name,
        default: Some(default),
        example: default,
        meaning,
        reload: false,
        field,
    }
}

const fn unset(name: &'static str, example: &'static str, field: Field, meaning: &'static str) -> SettingsKey {
    SettingsKey {
        name,
        default: None,
        example,
        meaning,
        reload: false,
        field,
    }
}

const fn reloads(key: SettingsKey) -> SettingsKey {
    SettingsKey { reload: true, ..key }
}

/// All keys, by what they are about.
pub(super) static KEYS: &[SettingsKey] = &[
    key(
        "jobs",
        "4",
        Field::Count(|settings| &mut settings.jobs, 1..=256),
        "transfers at the same time",
    ),
    unset(
        "jobs-per-host",
        "2",
        Field::CountOrNone(|settings| &mut settings.jobs_per_host, 1..=256),
        "transfers at the same time from one scheme, host and port; without it as many as `jobs`",
    ),
    unset(
        "limit-rate",
        "\"20M\"",
        Field::RateOrNone(|settings| &mut settings.limit_rate),
        "rate of all transfers together; without it as fast as possible",
    ),
    unset(
        "memory-limit",
        "\"12M\"",
        Field::BytesOrNone(|settings| &mut settings.memory_limit, MEMORY_LIMITS),
        "most memory that the engine lets itself take: buffers, connections and jobs are cut to it, the queue stands in a file, \
         and fewer operations may be queued; without it none of that",
    ),
    key(
        "flash-friendly",
        "false",
        Field::Flag(|settings| &mut settings.flash_friendly),
        "record progress every 64 MiB or 60 s instead of every 8 MiB or 2.5 s, which spares flash: after a power cut or a crash \
         at most 128 MiB or 120 s of a transfer, whichever is less, are fetched again, instead of 16 MiB or 5 s",
    ),
    unset(
        "connections",
        "4",
        Field::CountOrNone(|settings| &mut settings.connections, 1..=16),
        "connections for one large file, from its first byte on, where the server says that it serves ranges and proves that \
         they carry one version of it; without it a second one is opened only for a file that one connection takes long for, up to 4",
    ),
    key(
        "retries",
        "19",
        Field::Count(|settings| &mut settings.retries, 0..=1_000_000),
        "failed attempts in a row, without progress between them, that are followed by another",
    ),
    key(
        "connect-timeout",
        "30",
        Field::Seconds(|settings| &mut settings.connect_timeout),
        "longest time to connect",
    ),
    key(
        "response-timeout",
        "60",
        Field::Seconds(|settings| &mut settings.response_timeout),
        "longest time from the request to the response",
    ),
    key(
        "stall-timeout",
        "60",
        Field::Seconds(|settings| &mut settings.stall_timeout),
        "longest silence within a response",
    ),
    key(
        "ftp-active",
        "false",
        Field::Flag(|settings| &mut settings.ftp_active),
        "FTP servers open the data connections towards this device (active mode), instead of the other way round",
    ),
    unset(
        "ca-bundle",
        "\"/etc/ssl/certs/ca-certificates.crt\"",
        Field::PathOrNone(|settings| &mut settings.ca_bundle, 4_095),
        "PEM file with the certificates that HTTPS trusts; without it those of the device",
    ),
    unset(
        "proxy",
        "\"http://proxy.example:3128\"",
        Field::ProxyOrNone(|settings| &mut settings.proxy),
        "proxy of every operation that names none; `direct` for no proxy; without it those of the environment: `http_proxy`, \
         `https_proxy`, `ftp_proxy` and `all_proxy`, but for the servers of `no_proxy`",
    ),
    key(
        "no-proxy",
        "[]",
        Field::Exceptions(|settings| &mut settings.no_proxy),
        "servers that are asked without a proxy, whether that is `proxy` or one of the environment, whose `no_proxy` counts only \
         where the list is empty; names are compared as they are written",
    ),
    key(
        "roots",
        "[]",
        Field::Paths(|settings| &mut settings.roots),
        "directories that destinations must be in; anywhere where the list is empty",
    ),
    key(
        "helper-path",
        "[\"/usr/lib/backhaul/backends\"]",
        Field::Paths(|settings| &mut settings.helper_path),
        "directories with helper programs for further protocols, `backhaul-backend-SCHEME` (see docs/BACKENDS.md); none \
         where the list is empty",
    ),
    key(
        "allow-network-fs",
        "false",
        Field::Flag(|settings| &mut settings.allow_network_fs),
        "allow a state directory on NFS, CIFS, 9p or FUSE, whose locks may not exclude other machines",
    ),
    key(
        "salvage",
        "true",
        Field::Flag(|settings| &mut settings.salvage),
        "where the journal is damaged, go on with what is intact, and keep the damaged one as journal.corrupt-N",
    ),
    unset(
        "state-dir",
        "\"/var/lib/backhaul\"",
        Field::PathOrNone(|settings| &mut settings.state_dir, 4_095),
        "directory that holds the journal and the vault; without it `$STATE_DIRECTORY`, `/var/lib/backhaul` for root, \
         `$XDG_STATE_HOME/backhaul` or `~/.local/state/backhaul`",
    ),
    unset(
        "socket",
        "\"/run/backhaul/io.backhaul.Transfer\"",
        Field::PathOrNone(|settings| &mut settings.socket, SOCKET_PATH_BYTES_MAX),
        "socket of the local interface; without it one in `$RUNTIME_DIRECTORY`, `$XDG_RUNTIME_DIR/backhaul` or \
         `/run/backhaul`",
    ),
    key(
        "acknowledged-max",
        "1000",
        Field::Count(|settings| &mut settings.acknowledged_max, 0..=OPERATIONS_MAX),
        "acknowledged ends that are kept",
    ),
    key(
        "acknowledged-days",
        "7",
        Field::Count(|settings| &mut settings.acknowledged_days, 0..=3_650),
        "days for which an acknowledged end is kept at most",
    ),
    key(
        "unacknowledged-max",
        "10000",
        Field::Count(|settings| &mut settings.unacknowledged_max, 1..=OPERATIONS_MAX),
        "ends that are kept although nobody has acknowledged them; beyond it the oldest go and are counted as lost",
    ),
    key(
        "operations-max",
        "1000000",
        Field::Count(|settings| &mut settings.operations_max, 1..=OPERATIONS_MAX),
        "operations that the state directory holds",
    ),
    unset(
        "operations-per-app-max",
        "10000",
        Field::CountOrNone(|settings| &mut settings.operations_per_app_max, 1..=OPERATIONS_MAX),
        "operations of one app; without it as many as `operations-max`",
    ),
    reloads(key(
        "message-bytes-max",
        "\"1M\"",
        Field::Bytes(|settings| &mut settings.message_bytes_max, 4 << 10..=16 << 20),
        "longest call on the socket; who sends a longer one is disconnected, and the commands send up to 350 KiB at once",
    )),
    reloads(key(
        "connections-max",
        "2048",
        Field::Count(|settings| &mut settings.connections_max, 1..=CLIENTS_MAX),
        "clients that are connected at the same time",
    )),
    reloads(key(
        "connections-per-peer-max",
        "2048",
        Field::Count(|settings| &mut settings.connections_per_peer_max, 1..=CLIENTS_MAX),
        "clients of one user that are connected at the same time",
    )),
    reloads(key(
        "monitors-max",
        "1536",
        Field::Count(|settings| &mut settings.monitors_max, 1..=CLIENTS_MAX),
        "clients that monitor at the same time",
    )),
    reloads(unset(
        "exit-idle",
        "60",
        Field::SecondsOrNone(|settings| &mut settings.exit_idle),
        "time without work and without clients after which the daemon ends, to be started again by its socket; without it \
         never",
    )),
    reloads(key(
        "log",
        "\"warn\"",
        Field::Level(|settings| &mut settings.log),
        "what is logged: this, and what is more important; `BACKHAUL_LOG` wins",
    )),
];
