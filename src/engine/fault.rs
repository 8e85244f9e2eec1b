//! Why this side could not go on with a transfer.

use std::fmt;
use std::io;
use std::path::Path;

use backhaul_backends::{Failure, WebErrorStatus};

use crate::error::Error;
use crate::operation::OperationError;

/// Why this side could not go on with a transfer.
#[derive(Debug)]
pub(crate) enum Fault {
    /// There is no room.
    DiskFull(String),
    /// A file could not be read or written; the next attempt may fare better.
    Local(String),
    /// The content is not what was asked for; it never will be.
    Unacceptable(OperationError),
    /// The source is not what it should be, as if the backend had said so.
    Source(Failure),
    /// The operation was ended, paused or stopped meanwhile.
    Superseded,
    /// The engine itself cannot go on.
    Engine(Error),
}

impl Fault {
    /// Classifies an answer of the operating system.
    pub(crate) fn io(tried: &str, path: &Path, error: &io::Error) -> Self {
        let message = format!("cannot {tried} '{}': {error}", path.display());
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull(message),
            io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory => Self::unacceptable(WebErrorStatus::FILE_ACCESS, message),
            _ => Self::Local(message),
        }
    }

    /// Keeps one of several faults: the first that says something of its own.
    pub(crate) fn keep(kept: &mut Option<Self>, new: Self) {
        if matches!(kept, None | Some(Self::Superseded)) {
            *kept = Some(new);
        }
    }

    /// A content that is not what was asked for.
    pub(crate) fn unacceptable(status: WebErrorStatus, message: String) -> Self {
        Self::Unacceptable(OperationError::new(status.0, None, message))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DiskFull(message) | Self::Local(message) => formatter.write_str(message),
            Self::Unacceptable(error) => formatter.write_str(&error.message),
            Self::Source(failure) => formatter.write_str(&failure.message),
            Self::Superseded => formatter.write_str("the operation was ended, paused or stopped meanwhile"),
            Self::Engine(error) => error.fmt(formatter),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::NotNow { .. } | Error::UnknownId(_) => Self::Superseded,
            error => Self::Engine(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the table of errors says of a status.
    fn then(status: WebErrorStatus) -> &'static str {
        let lines = include_str!("../../backends/ERRORS.md").lines();
        let mut rows = lines.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
        let number = status.0.to_string();
        let row = rows.find(|cells| cells.get(1) == Some(&number.as_str()));
        row.map_or_else(|| panic!("no row for {status}"), |cells| cells[4])
    }

    #[test]
    fn what_the_operating_system_answers_is_treated_as_the_table_of_errors_says() {
        use io::ErrorKind as E;
        let rows = [
            (E::StorageFull, WebErrorStatus::DISK_FULL),
            (E::QuotaExceeded, WebErrorStatus::DISK_FULL),
            (E::ReadOnlyFilesystem, WebErrorStatus::FILE_ACCESS),
            (E::PermissionDenied, WebErrorStatus::FILE_ACCESS),
            (E::FileTooLarge, WebErrorStatus::FILE_ACCESS),
            (E::NotFound, WebErrorStatus::FILE_ACCESS),
            (E::Other, WebErrorStatus::FILE_ACCESS),
        ];
        for (kind, status) in rows {
            let word = match Fault::io("write", Path::new("/a"), &kind.into()) {
                Fault::DiskFull(_) => "waits",
                Fault::Local(_) => "retried",
                Fault::Unacceptable(error) => {
                    assert_eq!(error.status, status.0, "{kind}");
                    "fails"
                }
                fault => panic!("{kind}: {fault:?}"),
            };
            assert!(then(status).split(" or ").any(|one| one == word), "{kind}: {word}");
        }
    }
}
