//! What went wrong in an attempt, classified, as long as it does not know where: shared by the backends.

use std::io;
#[cfg(feature = "http")]
use std::time::Duration;

use crate::net::{self, is_unreachable};
use crate::{Failure, FailureKind, WebErrorStatus};

/// A [`Failure`] that does not know yet where it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) kind: FailureKind,
    pub(crate) status: WebErrorStatus,
    pub(crate) code: Option<u16>,
    pub(crate) text: String,
}

impl Problem {
    pub(crate) fn permanent(status: WebErrorStatus, text: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::Permanent,
            status,
            code: None,
            text: text.into(),
        }
    }

    pub(crate) fn transient(status: WebErrorStatus, text: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::Transient { retry_after: None },
            ..Self::permanent(status, text)
        }
    }

    pub(crate) fn interrupted() -> Self {
        let kind = FailureKind::Interrupted;
        Self {
            kind,
            ..Self::permanent(WebErrorStatus::OPERATION_CANCELED, "interrupted")
        }
    }

    pub(crate) fn refused() -> Self {
        let kind = FailureKind::SinkRefused;
        Self {
            kind,
            ..Self::permanent(WebErrorStatus::FILE_ACCESS, "the bytes could not be stored")
        }
    }

    /// Says where it happened.
    pub(crate) fn at(self, place: &str) -> Failure {
        let message = if place.is_empty() {
            self.text
        } else {
            format!("{place}: {}", self.text)
        };
        Failure {
            kind: self.kind,
            status: self.status,
            code: self.code,
            message,
        }
    }

    pub(crate) fn with_code(self, code: Option<u16>) -> Self {
        Self { code, ..self }
    }

    #[cfg(feature = "http")]
    pub(crate) fn after(self, retry_after: Option<Duration>) -> Self {
        Self {
            kind: FailureKind::Transient { retry_after },
            ..self
        }
    }
}

impl From<net::Fault> for Problem {
    fn from(fault: net::Fault) -> Self {
        match fault {
            net::Fault::Interrupted => Self::interrupted(),
            net::Fault::TimedOut => Self::transient(WebErrorStatus::TIMEOUT, "no connection within the time limit"),
            net::Fault::Name(text) => name_problem(&text),
            net::Fault::Connect(address, error) => connect_problem(address, &error),
        }
    }
}

/// A name that does not exist will hardly exist on the next attempt, while a name server that gives no answer says
/// that the network is away. The standard library tells the two apart only in words, those of the C library.
fn name_problem(text: &str) -> Problem {
    const ANSWERED: &[&str] = &[
        "Name or service not known",
        "No address associated with",
        "Name does not resolve",
        "Name has no usable address",
        "not a name",
    ];
    let problem = Problem::transient(
        WebErrorStatus::HOST_NAME_NOT_RESOLVED,
        format!(
            "the host name could not be resolved: {}",
            text.trim_start_matches("failed to lookup address information: ")
        ),
    );
    if ANSWERED.iter().any(|words| text.contains(words)) {
        return problem;
    }
    Problem {
        kind: FailureKind::Unreachable,
        ..problem
    }
}

fn connect_problem(address: std::net::SocketAddr, error: &io::Error) -> Problem {
    let text = format!("no connection to {address}: {error}");
    if is_unreachable(error) {
        let kind = FailureKind::Unreachable;
        return Problem {
            kind,
            ..Problem::permanent(WebErrorStatus::SERVER_UNREACHABLE, text)
        };
    }
    Problem::transient(WebErrorStatus::CANNOT_CONNECT, text)
}

/// An established connection that broke.
pub(crate) fn connection_problem(error: &io::Error) -> Problem {
    let text = format!("the connection broke: {error}");
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            Problem::transient(WebErrorStatus::CONNECTION_RESET, text)
        }
        io::ErrorKind::TimedOut => Problem::transient(WebErrorStatus::TIMEOUT, text),
        _ if is_unreachable(error) => {
            let kind = FailureKind::Unreachable;
            Problem {
                kind,
                ..Problem::permanent(WebErrorStatus::SERVER_UNREACHABLE, text)
            }
        }
        _ => Problem::transient(WebErrorStatus::CONNECTION_ABORTED, text),
    }
}
