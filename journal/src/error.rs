//! What can go wrong, where, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Lsn;

/// What a [`Replay`](crate::Replay) answers when it cannot take a record.
pub type ReplayError = Box<dyn std::error::Error + Send + Sync>;

/// Why the journal could not do what was asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Another process, or another part of this one, holds this lock file.
    Locked {
        /// The lock file.
        path: PathBuf,
        /// What the holder wrote about itself, as `pid 123`; nothing where it left no legible text.
        holder: Option<String>,
    },
    /// Damage that no crash explains. Nothing on the disk was changed.
    Corrupt(Box<Corruption>),
    /// Made by another version of the format: a file, and what about it is unknown here.
    Unsupported(PathBuf, String),
    /// A record, batch or file beyond its limit: what, its bytes, the most bytes.
    TooLarge(&'static str, u64, u64),
    /// More things than the format allows: what, how many, the most.
    TooMany(&'static str, u64, u64),
    /// No room on the file system of this directory; with the reserve spent only critical records are taken.
    DiskFull(PathBuf),
    /// An earlier failure left it unknown what is on the disk; only opening the journal anew tells.
    Poisoned(Arc<Error>),
    /// The file system that holds this path is reached over a network or FUSE, where locks may not exclude anybody.
    NetworkFileSystem(PathBuf),
    /// The replay did not take a record: its LSN, or nothing for a record of the snapshot, and the replay's reason.
    Refused(Option<Lsn>, ReplayError),
    /// There is no journal in this directory.
    NoJournal(PathBuf),
    /// A salvage into this directory did not finish, so it holds only a part.
    Incomplete(PathBuf),
    /// A salvage goes only into a new or empty directory; this one holds something.
    NotEmpty(PathBuf),
    /// A writer removed files faster than this directory could be read.
    Changing(PathBuf),
    /// This LSN was never handed out; the next one is given.
    NotAppended(Lsn, Lsn),
    /// A batch without records has no LSN.
    EmptyBatch,
    /// A thread panicked while it wrote to the journal in this directory.
    Panicked(PathBuf),
    /// The operating system refused: what was tried, on which path, and its answer.
    Io(&'static str, PathBuf, io::Error),
}

/// Where damage was found that no crash explains.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Corruption {
    /// The damaged file, or the directory where a file is missing.
    pub path: PathBuf,
    /// First damaged byte in the file.
    pub offset_bytes: u64,
    /// First record that cannot be had.
    pub lsn: Lsn,
    /// Every record below this one had been made durable.
    pub proven: Lsn,
    /// What is wrong.
    pub reason: &'static str,
}

impl Error {
    /// Makes the closure that `map_err` wants: what was tried, and on what.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |error| Error::Io(what, path.to_owned(), error)
    }

    /// Not one header of the journal in this directory can be read.
    pub(crate) fn unreadable(directory: &Path) -> Error {
        Error::Corrupt(Box::new(Corruption {
            path: directory.to_owned(),
            offset_bytes: 0,
            lsn: Lsn(0),
            proven: Lsn(0),
            reason: "not one file has a readable header",
        }))
    }

    /// Whether a full disk is the cause, directly or of the poisoning.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        match self {
            Error::DiskFull(_) => true,
            Error::Poisoned(cause) => cause.is_disk_full(),
            Error::Io(_, _, error) => is_full(error),
            _ => false,
        }
    }
}

/// Whether the operating system's answer means that there is no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Locked {
                path,
                holder: Some(holder),
            } => write!(out, "{} is locked by {holder}", path.display()),
            Error::Locked { path, holder: None } => write!(out, "{} is locked by another process", path.display()),
            Error::Corrupt(corruption) => corruption.fmt(out),
            Error::Unsupported(path, what) => {
                write!(
                    out,
                    "{}: {what}, which this version cannot read; use a newer version",
                    path.display()
                )
            }
            Error::TooLarge(what, bytes, max) => write!(out, "{what} of {bytes} bytes; the most is {max}"),
            Error::TooMany(what, count, max) => write!(out, "{count} {what}; the most is {max}"),
            Error::DiskFull(path) => write!(out, "no space for the journal in {}; free some", path.display()),
            Error::Poisoned(_) => write!(out, "an earlier failure stopped the journal; open it anew"),
            Error::NetworkFileSystem(path) => {
                write!(
                    out,
                    "{} is on a network or FUSE file system, where a lock may not hold",
                    path.display()
                )
            }
            Error::Refused(Some(lsn), _) => write!(out, "record {} was refused by its reader", lsn.0),
            Error::Refused(None, _) => write!(out, "a record of the snapshot was refused by its reader"),
            Error::NoJournal(path) => write!(out, "there is no journal in {}", path.display()),
            Error::Incomplete(path) => {
                write!(
                    out,
                    "{} holds an unfinished salvage; delete it and salvage again",
                    path.display()
                )
            }
            Error::NotEmpty(path) => write!(out, "{} is not empty; name a new directory", path.display()),
            Error::Changing(path) => {
                write!(out, "{} changed while it was read; read it again", path.display())
            }
            Error::NotAppended(lsn, next) => write!(out, "record {} was never appended; the next is {}", lsn.0, next.0),
            Error::EmptyBatch => write!(out, "a batch needs at least one record"),
            Error::Panicked(path) => write!(out, "a thread panicked while writing to {}", path.display()),
            Error::Io(what, path, _) => write!(out, "cannot {what} {}", path.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Poisoned(cause) => Some(&**cause),
            Error::Refused(_, cause) => Some(&**cause),
            Error::Io(_, _, error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} is damaged at byte {} (record {}; durable up to {}): {}; salvage it into a new directory",
            self.path.display(),
            self.offset_bytes,
            self.lsn.0,
            self.proven.0,
            self.reason
        )
    }
}
