//! What went wrong in an attempt, classified, as long as it does not know where: shared by the backends.

#[cfg(any(feature = "http", feature = "ftp"))]
mod network;

#[cfg(any(feature = "http", feature = "ftp"))]
use std::time::Duration;

#[cfg(any(feature = "http", feature = "ftp"))]
pub(crate) use self::network::connection_problem;
#[cfg(feature = "http")]
pub(crate) use self::network::proxy_login_problem;
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

    #[cfg(any(feature = "http", feature = "ftp"))]
    pub(crate) fn with_code(self, code: Option<u16>) -> Self {
        Self { code, ..self }
    }

    /// As an HTTP status that is no success has it.
    ///
    /// Source: RFC 9110, section 15.
    #[cfg(any(feature = "http", feature = "ftp"))]
    pub(crate) fn by_status(self, code: u16, retry_after: Option<Duration>) -> Self {
        let problem = self.with_code(Some(code));
        match code {
            // Section 15: a status outside of all classes is as good as a 5xx.
            408 | 421 | 425 | 429 | 500 | 502 | 503 | 504 | 511 | 600.. => problem.after(retry_after),
            // Section 15: an unknown status is as good as the first of its class.
            500..600 if problem.status == WebErrorStatus::UNEXPECTED_SERVER_ERROR => problem.after(retry_after),
            _ => problem,
        }
    }

    #[cfg(any(feature = "http", feature = "ftp"))]
    pub(crate) fn after(self, retry_after: Option<Duration>) -> Self {
        Self {
            kind: FailureKind::Transient { retry_after },
            ..self
        }
    }
}
