//! The arguments as they are typed. Those that may hold secrets have no `Debug`.

#![expect(
    clippy::doc_markdown,
    reason = "the comments are the help of the command, for people"
)]

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use super::exit;
use crate::address::{parse_digest, parse_sha256};
use crate::budget::MEMORY_LIMITS;
use crate::{Collision, CompletionGroupId, Digest, Method, Priority, Settings, TransferId, WebErrorStatus};

/// Transfers files in the background, across crashes, power cuts, lost networks and changed files.
#[derive(Parser)]
#[command(name = "backhaul", version, after_help = exit::HELP, max_term_width = 110)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Clone, Debug, ClapArgs)]
pub(super) struct Global {
    /// Directory that holds the journal and the vault
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,
    /// Socket that the engine listens on (default: $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR/backhaul or, for root, /run/backhaul,
    /// and there io.backhaul.Transfer)
    #[arg(long, global = true, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
    /// Name under which operations are created and listed
    #[arg(long, global = true, value_name = "NAME", default_value = "backhaul")]
    pub(super) app: String,
    /// PEM file with the certificates that HTTPS trusts
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) ca_bundle: Option<PathBuf>,
    /// Destinations must be inside this directory; may be given several times
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) root: Vec<PathBuf>,
    /// Directory with helper programs for further protocols, backhaul-backend-SCHEME; may be given several times (default:
    /// /usr/lib/backhaul/backends)
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) helper_path: Vec<PathBuf>,
    /// Allow a state directory on NFS, CIFS, 9p or FUSE, whose locks may not exclude other machines
    #[arg(long, global = true)]
    pub(super) allow_network_fs: bool,
    /// Say more; twice for still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Create downloads, run them and wait for their end; the same command again goes on where it was
    Get {
        #[command(flatten)]
        download: Download,
        #[command(flatten)]
        running: Running,
        /// Print the ended operations as a JSON array on standard output
        #[arg(long)]
        json: bool,
        /// Say nothing of transfers: the exit code tells how they ended, and 'list' why
        #[arg(short, long)]
        quiet: bool,
    },
    /// Create downloads and print their ids, once they are durable; 'run' transfers them
    Add {
        #[command(flatten)]
        download: Download,
        /// Leave them idle until 'start'
        #[arg(long)]
        hold: bool,
    },
    /// Start operations that were added on hold
    Start(Ids),
    /// Let operations stand still
    Pause(Ids),
    /// Let paused operations go on; those that wait, or stopped with an error that can be mended, try at once
    Resume(Ids),
    /// Change the URL, headers or priority of an operation that does not run; its bytes stay. One that is paused, or
    /// stopped with an error that can be mended, then needs 'resume'
    Set {
        /// Which one
        id: TransferId,
        #[command(flatten)]
        changes: ChangeArgs,
    },
    /// Cancel operations and remove their partial files
    Cancel(Ids),
    /// Remove the records of operations that have ended
    Remove(Ids),
    /// Acknowledge the ends of operations, so that the history may drop them
    Ack(Ids),
    /// Transfer what was added, until SIGTERM
    Run {
        /// End when nothing can go on by itself
        #[arg(long)]
        until_idle: bool,
        /// Where the journal is damaged, go on with what is intact: the damaged one is kept as journal.corrupt-N, and what
        /// the disk holds is checked again before it is trusted
        #[arg(long)]
        salvage: bool,
        #[command(flatten)]
        running: Running,
    },
    /// Serve other programs: transfer what they hand over, until SIGTERM; SIGHUP reads the configuration anew
    Daemon(DaemonArgs),
    /// Wait until operations have ended in the engine that runs
    Wait {
        #[command(flatten)]
        ids: Ids,
        /// Give up after this many seconds
        #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds)]
        timeout: Option<Duration>,
    },
    /// List operations in the order of their creation
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
        /// Also those of other apps
        #[arg(long)]
        all_apps: bool,
        /// Only those of this transfer group
        #[arg(long, value_name = "NAME")]
        group: Option<String>,
    },
    /// Show all about one operation
    Show {
        /// Which one
        id: TransferId,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show what all operations do, live, until interrupted
    Watch {
        /// Print each change as one line of JSON
        #[arg(long)]
        json: bool,
        /// Also those of other apps
        #[arg(long)]
        all_apps: bool,
        /// Only what has changed since an earlier watch: the cursor that it printed last
        #[arg(long, value_name = "CURSOR")]
        since: Option<u64>,
    },
    /// Say why operations do not move, and what will move them
    Explain {
        /// Which one; all that have not ended where none is given
        id: Option<TransferId>,
    },
    /// Groups of operations, which run side by side or one after the other
    #[command(subcommand)]
    Group(Group),
    /// Sets of operations with one action when all of them have ended
    #[command(subcommand)]
    Completion(Completion),
    /// Clean up after an application
    #[command(subcommand)]
    App(App),
    /// Check, print or repair the journal
    #[command(subcommand)]
    Journal(Journal),
    /// Print completions for a shell
    #[cfg(feature = "manual")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    #[cfg(feature = "manual")]
    Man,
}

#[derive(Debug, Subcommand)]
pub(super) enum Group {
    /// Make a group, or show the one that is there
    Create {
        /// Its name: 1 to 128 bytes
        name: String,
        /// How its operations run
        #[arg(long, value_enum)]
        behavior: Option<BehaviorArg>,
    },
    /// List the groups of the app
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Change how the operations of a group run
    Set {
        /// Which group
        name: String,
        /// How its operations run
        #[arg(long, value_enum)]
        behavior: BehaviorArg,
    },
    /// Remove a group that no live operation is in
    Remove {
        /// Which group
        name: String,
    },
    /// Make an operation the first of its group; those before it go behind those after it
    Current {
        /// Which operation
        id: TransferId,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum BehaviorArg {
    /// Side by side
    Parallel,
    /// One after the other
    Serialized,
}

#[derive(Debug, Subcommand)]
pub(super) enum Completion {
    /// Make a completion group and print its id; operations join it with 'add --completion-group ID'
    Create {
        /// A name for people
        #[arg(long)]
        name: Option<String>,
        /// Command that is run once all have ended, with a report in JSON on its standard input: an absolute path, then
        /// arguments, after '--'. It is run again where it fails or has not ended after 10 minutes, 5 times in all, and
        /// after the engine has stopped or crashed meanwhile; without one the group stands as fired until 'completion
        /// ack'. It is stored in clear text
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Seal it: nothing joins any more, and it fires when all have ended
    Enable {
        /// Which one
        id: CompletionGroupId,
    },
    /// List the completion groups of the app
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Acknowledge one that has fired
    Ack {
        /// Which one
        id: CompletionGroupId,
    },
    /// Remove the record of one that is done, has failed, or was never enabled
    Remove {
        /// Which one
        id: CompletionGroupId,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum App {
    /// Cancel all operations of an app, and remove its partial files, records, groups and secrets, as when it is uninstalled;
    /// files that are complete stay
    Forget {
        /// Which app
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Journal {
    /// Check every record; changes nothing. Exit code 0 clean, 1 torn tail, 2 corrupt
    Verify,
    /// Print every record
    Dump,
    /// Copy what is intact into a new journal directory; the old one stays as it is
    Repair {
        /// Where to; must not exist yet
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
}

#[derive(Debug, ClapArgs)]
pub(super) struct Ids {
    /// Which operations
    #[arg(required = true, value_name = "ID")]
    pub(super) ids: Vec<TransferId>,
}

#[derive(ClapArgs)]
#[group(required = true, multiple = true)]
pub(super) struct ChangeArgs {
    /// The same resource from elsewhere. To another scheme, host or port neither password nor secret headers follow
    #[arg(long, value_name = "URL")]
    pub(super) url: Option<String>,
    /// Request header; replaces those of the same name
    #[arg(long, value_name = "NAME: VALUE")]
    pub(super) header: Vec<String>,
    /// Request header whose value is sealed and never shown; replaces those of the same name
    #[arg(long, value_name = "NAME: VALUE")]
    pub(super) secret_header: Vec<String>,
    /// Drop all headers so far, secret ones included
    #[arg(long)]
    pub(super) clear_headers: bool,
    /// Rank among those that wait
    #[arg(long, value_enum)]
    pub(super) priority: Option<PriorityArg>,
    /// Another proxy, 'direct' for none, or 'default' for that of the engine; password and user name so far stay only with
    /// the same proxy
    #[arg(long, value_name = "URL")]
    pub(super) proxy: Option<String>,
}

#[derive(ClapArgs)]
pub(super) struct Download {
    /// What to fetch; '-' reads the list from standard input
    #[arg(value_name = "URL")]
    pub(super) urls: Vec<String>,
    /// Destination: a file, or a directory with a '/' at its end (default: the name in the URL, in this directory)
    #[arg(short, long, value_name = "PATH")]
    pub(super) output: Option<PathBuf>,
    /// Read URLs from a file, one a line, each with an optional destination after it; '-' is standard input
    #[arg(short, long, value_name = "FILE")]
    pub(super) input: Option<PathBuf>,
    /// Method of the request. The answer to any other than GET is fetched from zero in each attempt, and the server may get
    /// the request more than once
    #[arg(long, value_name = "METHOD", default_value_t)]
    pub(super) method: Method,
    /// File to send along, whole in each attempt: it must stay as it is until the operation has ended. '-' takes a copy of
    /// standard input, of 1 GiB at most. Its media type is a header: --header 'Content-Type: ...'. An answer is read once
    /// all of it is sent: a server that reads no further until its answer is taken can be sent a few MiB
    #[arg(long, value_name = "FILE")]
    pub(super) body: Option<PathBuf>,
    /// SHA-256 that the content must have, in hexadecimal or base64
    #[arg(long, value_name = "DIGEST", value_parser = sha256)]
    pub(super) sha256: Option<[u8; 32]>,
    /// Digest that the content must have: the algorithm is sha-256, sha-384, sha-512 or, weak, sha-1; the value is in
    /// hexadecimal or base64; may be given several times, and then all must fit
    #[arg(long, value_name = "ALGORITHM:VALUE", value_parser = digest)]
    pub(super) digest: Vec<Digest>,
    /// Another URL of the same bytes, gone to where the first fails; credentials and secret headers stay with the origin
    /// of the first; may be given several times, best first
    #[arg(long, value_name = "URL")]
    pub(super) mirror: Vec<String>,
    /// Length that the content must have
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true, value_parser = bytes)]
    pub(super) size: Option<u64>,
    /// Media type that the content must have where the server names one, like application/zip or image/*; a web page in
    /// its place is taken for that of a network that wants a login, and tried again
    #[arg(long = "type", value_name = "TYPE")]
    pub(super) media_type: Option<String>,
    /// Errors that stop the transfer with all its bytes instead of ending it, until 'set' and 'resume': numbers or names,
    /// like 401,Forbidden (default: none)
    #[arg(long, value_name = "STATUS", value_delimiter = ',')]
    pub(super) recoverable: Vec<WebErrorStatus>,
    /// Request header
    #[arg(long, value_name = "NAME: VALUE")]
    pub(super) header: Vec<String>,
    /// Request header whose value is sealed and never shown
    #[arg(long, value_name = "NAME: VALUE")]
    pub(super) secret_header: Vec<String>,
    /// Transfer group that it joins; one that is not there is made
    #[arg(long, value_name = "NAME")]
    pub(super) group: Option<String>,
    /// Completion group that it joins
    #[arg(long, value_name = "ID")]
    pub(super) completion_group: Option<CompletionGroupId>,
    /// What to do where the destination exists
    #[arg(long, value_enum, default_value_t)]
    pub(super) collision: CollisionArg,
    /// Rank among those that wait
    #[arg(long, value_enum, default_value_t)]
    pub(super) priority: PriorityArg,
    /// Proxy to go through: http://[USER:PASSWORD@]HOST:PORT, socks5://... or socks5h://... (which looks the name of the server
    /// up itself), or 'direct' for none; user name and password are sealed and never shown (default: that of the engine, which
    /// is that of its configuration or environment)
    #[arg(long, value_name = "URL")]
    pub(super) proxy: Option<String>,
}

#[derive(Clone, Debug, ClapArgs)]
pub(super) struct Running {
    /// Transfers at the same time (default: 4)
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) jobs: Option<u16>,
    /// Transfers at the same time from one scheme, host and port (default: as many as --jobs)
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) jobs_per_host: Option<u16>,
    /// Bytes per second for all transfers together, with k, M or G for powers of 1024
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true, value_parser = rate)]
    pub(super) limit_rate: Option<NonZeroU64>,
    /// Most memory that the engine lets itself take, with k, M or G for powers of 1024; from 6M on. Buffers, connections and
    /// jobs are cut to it, the queue stands in a file, and fewer operations may be queued
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, value_parser = memory_limit)]
    pub(super) memory_limit: Option<u64>,
    /// Record progress every 64 MiB or 60 s instead of every 8 MiB or 2.5 s, which spares flash: after a power cut or a crash at
    /// most 128 MiB or 120 s of a transfer, whichever is less, are fetched again, instead of 16 MiB or 5 s
    #[arg(long)]
    pub(super) flash_friendly: bool,
    /// Connections for one large file, from its first byte on, where the server says that it serves ranges and proves that
    /// they carry one version of it. Without this a second one is opened only for a file that one connection takes long for,
    /// up to 4
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub(super) connections: Option<u16>,
    /// Failed attempts in a row, without progress between them, that are followed by another (default: 19)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(super) retries: Option<u32>,
    /// Longest time to connect (default: 30)
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds)]
    pub(super) connect_timeout: Option<Duration>,
    /// Longest time from the request to the response (default: 60)
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds)]
    pub(super) response_timeout: Option<Duration>,
    /// Longest silence within a response (default: 60)
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds)]
    pub(super) stall_timeout: Option<Duration>,
    /// Let FTP servers open the data connections towards this device (active mode), instead of the other way round
    #[arg(long)]
    pub(super) ftp_active: bool,
}

impl Running {
    /// The options that were given.
    pub(super) fn given(&self) -> Vec<&'static str> {
        let Self {
            jobs,
            jobs_per_host,
            limit_rate,
            memory_limit,
            flash_friendly,
            connections,
            retries,
            connect_timeout,
            response_timeout,
            stall_timeout,
            ftp_active,
        } = self;
        let all = [
            ("--jobs", jobs.is_some()),
            ("--jobs-per-host", jobs_per_host.is_some()),
            ("--limit-rate", limit_rate.is_some()),
            ("--memory-limit", memory_limit.is_some()),
            ("--flash-friendly", *flash_friendly),
            ("--connections", connections.is_some()),
            ("--retries", retries.is_some()),
            ("--connect-timeout", connect_timeout.is_some()),
            ("--response-timeout", response_timeout.is_some()),
            ("--stall-timeout", stall_timeout.is_some()),
            ("--ftp-active", *ftp_active),
        ];
        all.into_iter()
            .filter(|(_, is_given)| *is_given)
            .map(|(name, _)| name)
            .collect()
    }

    /// Puts what was given in the place of what a configuration file says.
    pub(super) fn set(&self, settings: &mut Settings) {
        fn put<T>(value: &mut T, given: Option<T>) {
            if let Some(given) = given {
                *value = given;
            }
        }
        put(&mut settings.jobs, self.jobs.map(usize::from));
        settings.jobs_per_host = self.jobs_per_host.map(usize::from).or(settings.jobs_per_host);
        settings.limit_rate = self.limit_rate.or(settings.limit_rate);
        settings.memory_limit = self.memory_limit.or(settings.memory_limit);
        settings.connections = self.connections.map(usize::from).or(settings.connections);
        put(
            &mut settings.retries,
            self.retries.and_then(|retries| usize::try_from(retries).ok()),
        );
        put(&mut settings.connect_timeout, self.connect_timeout);
        put(&mut settings.response_timeout, self.response_timeout);
        put(&mut settings.stall_timeout, self.stall_timeout);
        settings.flash_friendly |= self.flash_friendly;
        settings.ftp_active |= self.ftp_active;
    }
}

#[derive(Clone, Debug, ClapArgs)]
pub(super) struct DaemonArgs {
    /// Configuration file (default: backhaul.toml in $CONFIGURATION_DIRECTORY, in /etc/backhaul for root, or in
    /// $XDG_CONFIG_HOME/backhaul or ~/.config/backhaul)
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// End after this time without work and without clients
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds)]
    pub(super) exit_idle: Option<Duration>,
    #[command(flatten)]
    pub(super) running: Running,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum CollisionArg {
    /// End in an error
    #[default]
    Fail,
    /// Replace it, atomically
    Replace,
    /// Take the first free 'name (2).ext'
    Unique,
}

impl From<CollisionArg> for Collision {
    fn from(arg: CollisionArg) -> Self {
        match arg {
            CollisionArg::Fail => Self::Fail,
            CollisionArg::Replace => Self::Replace,
            CollisionArg::Unique => Self::Unique,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum PriorityArg {
    /// After all others; but every 8th transfer to start is the oldest, whatever its rank
    Low,
    /// In the order of creation
    #[default]
    Default,
    /// Before all others
    High,
}

impl From<PriorityArg> for Priority {
    fn from(arg: PriorityArg) -> Self {
        match arg {
            PriorityArg::Low => Self::Low,
            PriorityArg::Default => Self::Default,
            PriorityArg::High => Self::High,
        }
    }
}

fn sha256(text: &str) -> Result<[u8; 32], String> {
    parse_sha256(text).map_err(|error| error.to_string())
}

fn digest(text: &str) -> Result<Digest, String> {
    parse_digest(text).map_err(|error| error.to_string())
}

fn rate(text: &str) -> Result<NonZeroU64, String> {
    NonZeroU64::new(bytes(text)?).ok_or_else(|| "must be at least 1".into())
}

fn memory_limit(text: &str) -> Result<u64, String> {
    let limit = bytes(text)?;
    if MEMORY_LIMITS.contains(&limit) {
        return Ok(limit);
    }
    Err(format!(
        "cannot be kept: 6M to 1024G ({} to {} bytes)",
        MEMORY_LIMITS.start(),
        MEMORY_LIMITS.end()
    ))
}

/// A number of bytes, with k, M or G for powers of 1024.
fn bytes(text: &str) -> Result<u64, String> {
    let shift = match text.bytes().last() {
        Some(b'k' | b'K') => 10,
        Some(b'M' | b'm') => 20,
        Some(b'G' | b'g') => 30,
        _ => 0,
    };
    let digits = if shift > 0 { &text[..text.len() - 1] } else { text };
    let number = digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse::<u64>().ok())
        .flatten();
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| "is no number of bytes; write it like 500000, 500k, 20M or 1G".into())
}

/// A number of seconds, above 0 and at most a year.
fn seconds(text: &str) -> Result<Duration, String> {
    let number = text
        .parse::<f64>()
        .ok()
        .filter(|number| *number > 0.0 && *number <= 31_536_000.0);
    number
        .map(Duration::from_secs_f64)
        // Less than a nanosecond is none at all.
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "is no number of seconds above 0 and up to a year".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn sizes_are_read_with_their_unit_and_never_wrap() {
        assert_eq!(bytes("0"), Ok(0));
        assert_eq!(bytes("20M"), Ok(20 << 20));
        assert_eq!(bytes("3k"), Ok(3 << 10));
        for wrong in ["", "k", "-1", "1.5M", "18446744073709551615G", "12x", "+3"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert!(rate("0").is_err());
    }

    #[test]
    fn seconds_are_above_zero_and_finite() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["0", "-1", "inf", "NaN", "x", "1e300", "1e-10"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
