//! What can go wrong outside a single transfer: one enum, each with what was tried, on what, and what to do.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use backhaul_backends::WebErrorStatus;

use crate::operation::{CompletionGroupId, TransferId, TransferStatus};

/// Why a call failed. Nothing was changed and nothing lost.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// An argument is not acceptable.
    Invalid {
        /// Which one.
        field: Cow<'static, str>,
        /// What was given; secrets are not shown.
        value: String,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// No operation has this id.
    UnknownId(TransferId),
    /// Another process works on this state directory.
    Locked {
        /// The lock file.
        path: PathBuf,
        /// What the lock file says of its holder.
        holder: Option<String>,
    },
    /// A live operation has this destination or URL already.
    Conflict {
        /// Which of the two.
        field: Cow<'static, str>,
        /// What was given.
        value: String,
        /// The operation that has it.
        id: TransferId,
        /// What it is doing.
        status: TransferStatus,
    },
    /// A live operation for this URL and destination is not held to what is asked for.
    Expectation {
        /// Which expectation.
        field: Cow<'static, str>,
        /// What was given.
        value: String,
        /// The operation.
        id: TransferId,
        /// What it is doing.
        status: TransferStatus,
    },
    /// The destination exists, and the collision rule is to fail.
    DestinationExists(PathBuf),
    /// The operation is in a state that does not allow this.
    NotNow {
        /// Which operation.
        id: TransferId,
        /// The state, and what it does not allow.
        problem: String,
    },
    /// The operation ended without its content, so that there is nothing to read.
    Unsuccessful {
        /// Which operation.
        id: TransferId,
        /// How it ended.
        status: TransferStatus,
        /// The error that ended it, where one did.
        error: Option<WebErrorStatus>,
        /// Why, in one line.
        problem: String,
    },
    /// No transfer group of this app has this name.
    UnknownGroup {
        /// The app.
        app: String,
        /// The name.
        name: String,
    },
    /// Operations of a transfer group that is to be removed have not ended.
    GroupInUse {
        /// The app.
        app: String,
        /// The name.
        name: String,
        /// How many.
        live_members: usize,
    },
    /// No completion group has this id.
    UnknownCompletionGroup(CompletionGroupId),
    /// The completion group is in a state that does not allow this.
    CompletionGroupNotNow {
        /// Which group.
        id: CompletionGroupId,
        /// The state, and what it does not allow.
        problem: String,
    },
    /// A limit of this service is reached.
    LimitReached {
        /// Which limit.
        limit: Cow<'static, str>,
        /// Its value.
        max: u64,
    },
    /// A sealed secret cannot be opened or stored.
    Vault {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: Cow<'static, str>,
    },
    /// The journal is damaged, and could not be salvaged.
    NotSalvaged {
        /// The damage.
        damage: Arc<backhaul_journal::Error>,
        /// Why it could not, and what to do.
        problem: String,
    },
    /// The journal refuses.
    Journal(Arc<backhaul_journal::Error>),
    /// What an engine in another process answered, where it has no closer name here.
    Service(Arc<str>),
    /// The connection to the engine in another process has ended, and why. What was asked for last may have been done or not.
    Disconnected(Arc<str>),
    /// The operating system refused: what was tried, on which file, and its answer.
    Io(Cow<'static, str>, PathBuf, Arc<io::Error>),
}

impl Error {
    pub(crate) fn invalid(field: &'static str, value: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid {
            field: Cow::Borrowed(field),
            value: value.into(),
            problem: problem.into(),
        }
    }

    pub(crate) fn limit(limit: &'static str, max: u64) -> Self {
        Self::LimitReached {
            limit: Cow::Borrowed(limit),
            max,
        }
    }

    pub(crate) fn io(tried: &'static str, path: impl Into<PathBuf>, error: io::Error) -> Self {
        Self::Io(Cow::Borrowed(tried), path.into(), Arc::new(error))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { field, value, problem } => {
                write!(formatter, "{field} '{}': {problem}", value.escape_debug())
            }
            Self::UnknownId(id) => write!(
                formatter,
                "id '{id}': no such operation here; 'list' shows those there are"
            ),
            Self::Locked { path, holder } => {
                let holder = holder.as_deref().map_or("another process", str::trim);
                write!(
                    formatter,
                    "state directory is locked by {holder} ({}); wait for it or stop it",
                    path.display()
                )
            }
            Self::Conflict {
                field,
                value,
                id,
                status,
            } => {
                write!(
                    formatter,
                    "{field} '{value}': operation {id} has it already and is {status}; cancel that one first"
                )?;
                if *field == "destination" {
                    write!(formatter, ", or give it another URL or headers with 'set {id}'")?;
                }
                Ok(())
            }
            Self::Expectation {
                field,
                value,
                id,
                status,
            } => write!(
                formatter,
                "{field} '{value}': operation {id} is {status} without being held to it; cancel that one first"
            ),
            Self::DestinationExists(path) => write!(
                formatter,
                "destination '{}': exists; give another one, or choose --collision replace or unique",
                path.display()
            ),
            Self::NotNow { id, problem } => write!(formatter, "id '{id}': {problem}"),
            Self::Unsuccessful {
                id, status, problem, ..
            } => {
                write!(
                    formatter,
                    "id '{id}': is {status} and has no content: {problem}; fetch it anew"
                )
            }
            Self::UnknownGroup { .. }
            | Self::GroupInUse { .. }
            | Self::UnknownCompletionGroup(_)
            | Self::CompletionGroupNotNow { .. } => self.fmt_group(formatter),
            Self::LimitReached { limit, max } => write!(formatter, "{limit}: the limit of {max} is reached"),
            Self::Vault { path, problem } => write!(formatter, "vault file '{}': {problem}", path.display()),
            Self::NotSalvaged { damage, problem } => {
                write!(formatter, "{damage}: that failed, and nothing was changed: {problem}")
            }
            Self::Journal(error) => journal(formatter, error),
            Self::Service(message) => formatter.write_str(message),
            Self::Disconnected(message) => write!(formatter, "the engine has closed the connection: {message}"),
            Self::Io(tried, path, error) => write!(formatter, "cannot {tried} '{}': {error}", path.display()),
        }
    }
}

fn journal(formatter: &mut fmt::Formatter<'_>, error: &backhaul_journal::Error) -> fmt::Result {
    match error {
        corrupt @ backhaul_journal::Error::Corrupt(_) => write!(
            formatter,
            "{corrupt}: 'backhaul run --salvage' goes on with what is intact and keeps the rest; \
             to look first, 'backhaul journal verify', then 'backhaul journal repair --to DIR'"
        ),
        other => fmt::Display::fmt(other, formatter),
    }
}

impl Error {
    /// Those that are about groups.
    fn fmt_group(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownGroup { app, name } => write!(
                formatter,
                "group '{}': app '{app}' has no such transfer group; make it first",
                name.escape_debug()
            ),
            Self::GroupInUse { name, live_members, .. } => write!(
                formatter,
                "group '{}': {live_members} of its operations have not ended; cancel them or wait for them first",
                name.escape_debug()
            ),
            Self::UnknownCompletionGroup(id) => {
                write!(formatter, "completion group '{id}': there is no such group here")
            }
            Self::CompletionGroupNotNow { id, problem } => write!(formatter, "completion group '{id}': {problem}"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Journal(error) => std::error::Error::source(error.as_ref()),
            _ => None,
        }
    }
}

impl From<backhaul_journal::Error> for Error {
    fn from(error: backhaul_journal::Error) -> Self {
        match error {
            backhaul_journal::Error::Locked { path, holder } => Self::Locked { path, holder },
            error => Self::Journal(Arc::new(error)),
        }
    }
}
