//! What can be set for an engine, and where its state is.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::budget::{Budget, MEMORY_LIMITS};
use crate::error::Error;
use crate::history::Retention;
use crate::retry::RetryPolicy;

/// Settings of one engine; every field has a documented default.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Config {
    /// Attempts that may run at the same time; 1 to 256, 4 by default.
    pub jobs_max: usize,
    /// Attempts of them that may run at one host (scheme, host and port of the URL that is asked, before redirects); no
    /// other limit than `jobs_max` by default, as one that is too low would slow down lists that worked without. Several
    /// connections of one attempt count once.
    pub jobs_per_host_max: Option<NonZeroUsize>,
    /// How failed attempts are repeated.
    pub retry: RetryPolicy,
    /// How long ended operations are kept.
    pub retention: Retention,
    /// Time limits of one attempt.
    pub limits: backhaul_backends::Limits,
    /// How much a crash may cost: 16 MiB or 5 s of a transfer by default, 128 MiB or 120 s with [`Window::flash_friendly`].
    pub window: Window,
    /// Bytes per second for all transfers together; none by default.
    pub rate_max: Option<NonZeroU64>,
    /// How one large file is fetched over several connections.
    pub connections: Connections,
    /// Operations that one state directory holds; 1,000,000 by default.
    pub operations_max: usize,
    /// Of them those of one app; as many as of all by default.
    pub operations_per_app_max: usize,
    /// Longest request body that [`crate::Engine::spool`] takes in, in bytes; 1 GiB by default. The file of
    /// [`crate::Body::File`] has no such limit.
    pub body_bytes_max: u64,
    /// Read buffer of one connection, in bytes, up to which it grows while it fills quickly; 512 KiB by default. Fewer and
    /// larger calls cost less, as long as what was read is still in the processor's cache when it is written (1 GiB over
    /// loopback in a minimal program took 0.80 s of CPU with 64 KiB, 0.63 s with 256 KiB and 0.49 s with 512 KiB, medians of
    /// 9; on a machine under load 512 KiB was no better).
    pub buffer_bytes: usize,
    /// The most memory that the engine lets itself take, in bytes: 6 MiB to 1 TiB; no limit by default. Buffers, connections
    /// and at last jobs are cut so that all of them fit, the queue stands in a file, and no more operations are accepted
    /// than there is room for what is in memory of each (see `README.md`, "Small devices"). What the system keeps of
    /// files (the page cache) and of connections is no part of it.
    pub memory_limit: Option<u64>,
    /// Directories that destinations must be in; anywhere where empty.
    pub roots: Vec<PathBuf>,
    /// Certificates that HTTPS trusts, in PEM; the device's own where none.
    pub ca_bundle: Option<PathBuf>,
    /// The proxies of every operation that asks for none itself, for the protocols that can be led through one
    /// ([`Capabilities::proxies`](backhaul_backends::Capabilities)). `None`, the default, stands for those of the
    /// environment where the daemon, a command or [`Service::open`](crate::Service::open) opens the engine
    /// ([`with_environment_proxies`](crate::with_environment_proxies)), and for none where [`Engine::open`](crate::Engine::open)
    /// does.
    pub proxies: Option<backhaul_backends::Proxies>,
    /// FTP servers open the data connections towards this device, instead of the other way round; `false` by default, as few
    /// networks let them through.
    pub ftp_active: bool,
    /// Directories with helper programs, `backhaul-backend-SCHEME`, each for a scheme that nothing else here speaks; see
    /// `docs/BACKENDS.md`. None by default; the command looks in [`crate::PACKAGED_HELPERS`].
    pub helper_path: Vec<PathBuf>,
    /// The engine is there for one command only: its first journal segment is small, a new journal is made with its first
    /// records, and the mark of a clean end is not synced, so that a power cut soon after it looks like one before. `false` by
    /// default.
    pub is_short_lived: bool,
    /// Bytes by which the journal grows before it is shortened, or four times its last snapshot, whichever is more; 1 MiB
    /// by default.
    pub checkpoint_bytes: u64,
    /// A damaged journal is salvaged instead of refused: what is intact becomes the journal, the damaged one is kept as
    /// `journal.corrupt-N`, and what the disk holds is checked before it is trusted. For devices that nobody attends;
    /// `false` by default.
    pub salvage: bool,
    /// Whether several processes of one device may share a state directory on NFS, CIFS, 9p or FUSE, whose locks may
    /// not exclude anybody; `false` by default.
    pub allow_network_file_system: bool,
}

/// How one large file is fetched over several connections: only where the server proves that all of them carry one
/// representation, or a digest of it is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Most connections of one transfer; 1 to 16, 4 by default.
    pub max: usize,
    /// All of them from the first byte on. Otherwise, which is the default, one connection has [`Connections::after`] to
    /// show that it is fast enough.
    pub at_once: bool,
    /// How long one connection is watched; 2 s by default.
    pub after: Duration,
    /// More are opened where the rest would take longer than this at the rate seen so far; 4 s by default.
    pub rest_max: Duration,
    /// Fewest bytes that are worth a connection; 1 MiB by default.
    pub bytes_min: u64,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            max: 4,
            at_once: false,
            after: Duration::from_secs(2),
            rest_max: Duration::from_secs(4),
            bytes_min: 1 << 20,
        }
    }
}

/// How much of a transfer a crash may cost: bytes are claimed in steps, and reading stops where too much is unclaimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// A progress record is taken after this many bytes; 8 MiB by default.
    pub claim_bytes: u64,
    /// … or this long after the first unclaimed byte; 2.5 s by default.
    pub claim_after: Duration,
    /// Reading stops where this many bytes are not claimed; 16 MiB by default.
    pub unclaimed_bytes_max: u64,
    /// … or where the oldest of them is this old; 5 s by default.
    pub unclaimed_age_max: Duration,
    /// Files up to this size take the short path, without progress records, while younger than
    /// `unclaimed_age_max`; 1 MiB by default.
    pub short_path_bytes_max: u64,
}

impl Window {
    /// For flash that is to last: a progress record after 64 MiB or 60 s, so that a long transfer costs an eighth of the
    /// flushes. A crash or a power cut costs at most 128 MiB or 120 s of a transfer, whichever is less, which are fetched
    /// again. What is accepted, and what has its final name, is as durable as with [`Window::default`]. What is not claimed is
    /// in the part file and takes no memory but the page cache, which the kernel writes back and frees as it does otherwise.
    #[must_use]
    pub fn flash_friendly() -> Self {
        Self {
            claim_bytes: 64 << 20,
            claim_after: Duration::from_secs(60),
            unclaimed_bytes_max: 128 << 20,
            unclaimed_age_max: Duration::from_secs(120),
            ..Self::default()
        }
    }

    /// Whether so many bytes, the first of them of this age, are to be claimed.
    pub(crate) fn is_claim_due(&self, unclaimed_bytes: u64, age: Option<Duration>) -> bool {
        unclaimed_bytes >= self.claim_bytes || age.is_some_and(|age| age >= self.claim_after)
    }

    /// Whether a crash would cost so much that nothing more is read before a claim.
    pub(crate) fn is_full(&self, unclaimed_bytes: u64, age: Option<Duration>) -> bool {
        unclaimed_bytes >= self.unclaimed_bytes_max || age.is_some_and(|age| age >= self.unclaimed_age_max)
    }
}

impl Default for Window {
    fn default() -> Self {
        Self {
            claim_bytes: 8 << 20,
            claim_after: Duration::from_millis(2_500),
            unclaimed_bytes_max: 16 << 20,
            unclaimed_age_max: Duration::from_secs(5),
            short_path_bytes_max: 1 << 20,
        }
    }
}

impl Config {
    /// Cut to what the limit of memory leaves; and how much of the packed operations stays in memory, and how many complete
    /// files may wait for their names, where it says so.
    ///
    /// # Errors
    /// [`Error::Invalid`]: the limit cannot be kept.
    pub(crate) fn within_memory(mut self) -> Result<(Self, Budget), Error> {
        if let Some(limit) = self.memory_limit.filter(|limit| !MEMORY_LIMITS.contains(limit)) {
            let (least, most) = (MEMORY_LIMITS.start(), MEMORY_LIMITS.end());
            let problem = format!("cannot be kept: {least} to {most} bytes");
            return Err(Error::invalid("memory-limit", limit.to_string(), problem));
        }
        let asked = Budget {
            jobs_max: self.jobs_max,
            connections_max: self.connections.max,
            buffer_bytes: self.buffer_bytes,
            operations_max: self.operations_max,
            retention: self.retention,
            shelf_bytes: None,
            ready_max: None,
        };
        let budget = asked.fit(self.memory_limit);
        self.jobs_max = budget.jobs_max;
        self.connections.max = budget.connections_max;
        self.buffer_bytes = budget.buffer_bytes;
        self.operations_max = budget.operations_max;
        self.retention = budget.retention;
        Ok((self, budget))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            jobs_max: 4,
            jobs_per_host_max: None,
            retry: RetryPolicy::default(),
            retention: Retention::default(),
            limits: backhaul_backends::Limits::default(),
            window: Window::default(),
            rate_max: None,
            connections: Connections::default(),
            operations_max: 1_000_000,
            operations_per_app_max: 1_000_000,
            body_bytes_max: 1 << 30,
            buffer_bytes: 512 << 10,
            memory_limit: None,
            roots: Vec::new(),
            ca_bundle: None,
            proxies: None,
            ftp_active: false,
            helper_path: Vec::new(),
            is_short_lived: false,
            checkpoint_bytes: 1 << 20,
            salvage: false,
            allow_network_file_system: false,
        }
    }
}

/// How the names of damaged journals begin.
const EVIDENCE: &str = "journal.corrupt-";

/// Where everything stands inside a state directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) directory: PathBuf,
}

impl Layout {
    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_path_buf(),
        }
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.directory.join("LOCK")
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.directory.join("journal")
    }

    /// Where a salvage copies to, until the copy is whole.
    pub(crate) fn salvage(&self) -> PathBuf {
        self.directory.join("journal.salvage")
    }

    /// Where a damaged journal is kept.
    pub(crate) fn evidence(&self, number: u32) -> PathBuf {
        self.directory.join(format!("{EVIDENCE}{number}"))
    }

    /// The number of a damaged journal that is kept under this name.
    pub(crate) fn evidence_number(name: &str) -> Option<u32> {
        let digits = name.strip_prefix(EVIDENCE)?;
        let number = digits.parse().ok()?;
        (format!("{number}") == digits).then_some(number)
    }

    /// Where request bodies stand that came as a stream.
    pub(crate) fn spool(&self) -> PathBuf {
        self.directory.join("spool")
    }

    /// The name that queued operations have on the disk for a moment, where memory is limited.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.directory.join("scratch")
    }

    pub(crate) fn vault(&self) -> PathBuf {
        self.directory.join("vault")
    }
}

/// The first of several directories, which systemd joins with colons in its variables.
///
/// Source: systemd.exec(5), `RuntimeDirectory=`.
pub(crate) fn first_of_list(list: PathBuf) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let bytes = list.as_os_str().as_bytes();
    match bytes.iter().position(|byte| *byte == b':') {
        Some(end) => PathBuf::from(std::ffi::OsStr::from_bytes(&bytes[..end])),
        None => list,
    }
}

/// The state directory where none is given: `$STATE_DIRECTORY`, `/var/lib/backhaul` for root,
/// `$XDG_STATE_HOME/backhaul`, `~/.local/state/backhaul`, in this order. `variable` reads the environment.
///
/// Source: XDG Base Directory Specification 0.8; systemd.exec(5), `StateDirectory=`.
pub(crate) fn default_state_directory(is_root: bool, variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
    if let Some(given) = absolute("STATE_DIRECTORY") {
        return Some(first_of_list(given));
    }
    if is_root {
        return Some(PathBuf::from("/var/lib/backhaul"));
    }
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    state.map(|state| state.join("backhaul"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_due_and_reading_stops_by_bytes_or_by_the_age_of_the_first_unclaimed_one() {
        let (window, flash) = (Window::default(), Window::flash_friendly());
        let age = |ms| Some(Duration::from_millis(ms));
        // Bytes that are not claimed, age of the first of them, whether a claim is due, whether nothing more is read.
        let rows = [
            (0, None, false, false),
            (1, age(2_499), false, false),
            (1, age(2_500), true, false),
            (1, age(4_999), true, false),
            (1, age(5_000), true, true),
            ((8 << 20) - 1, age(0), false, false),
            (8 << 20, age(0), true, false),
            ((16 << 20) - 1, age(0), true, false),
            (16 << 20, age(0), true, true),
        ];
        for (bytes, age, is_due, is_full) in rows {
            assert_eq!(window.is_claim_due(bytes, age), is_due, "{bytes} {age:?}");
            assert_eq!(window.is_full(bytes, age), is_full, "{bytes} {age:?}");
        }
        let rows = [
            (0, None, false, false),
            (1, age(59_999), false, false),
            (1, age(60_000), true, false),
            (1, age(119_999), true, false),
            (1, age(120_000), true, true),
            ((64 << 20) - 1, age(0), false, false),
            (64 << 20, age(0), true, false),
            ((128 << 20) - 1, age(0), true, false),
            (128 << 20, age(0), true, true),
        ];
        for (bytes, age, is_due, is_full) in rows {
            assert_eq!(
                flash.is_claim_due(bytes, age),
                is_due,
                "flash-friendly: {bytes} {age:?}"
            );
            assert_eq!(flash.is_full(bytes, age), is_full, "flash-friendly: {bytes} {age:?}");
        }
    }

    #[test]
    fn the_state_directory_is_looked_for_in_the_documented_order() {
        let find = |is_root, set: &[(&str, &str)]| {
            let set: Vec<_> = set.to_vec();
            default_state_directory(is_root, move |name| {
                set.iter()
                    .find(|(set, _)| *set == name)
                    .map(|(_, value)| PathBuf::from(value))
            })
        };
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(find(true, &[("STATE_DIRECTORY", "/s"), ("HOME", "/h")]), path("/s"));
        assert_eq!(find(true, &[("STATE_DIRECTORY", "/first:/second")]), path("/first"));
        assert_eq!(find(true, &[("HOME", "/h")]), path("/var/lib/backhaul"));
        assert_eq!(
            find(false, &[("XDG_STATE_HOME", "/x"), ("HOME", "/h")]),
            path("/x/backhaul")
        );
        assert_eq!(
            find(false, &[("XDG_STATE_HOME", "relative"), ("HOME", "/h")]),
            path("/h/.local/state/backhaul")
        );
        assert_eq!(find(false, &[]), None);
    }
}
