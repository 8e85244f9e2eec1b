//! Why an attempt ended, as a backend classifies it. What follows from it is not decided here.

use std::fmt;
use std::time::Duration;

use crate::WebErrorStatus;

/// Why an attempt ended without the whole resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What may be done about it.
    pub kind: FailureKind,
    /// The error as the API names it.
    pub status: WebErrorStatus,
    /// HTTP status or FTP reply, where one was received.
    pub code: Option<u16>,
    /// One line: what was tried, on what, and the answer. Never holds a secret.
    pub message: String,
}

/// What may be done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureKind {
    /// A later attempt may succeed.
    Transient {
        /// The server's own wish (Retry-After), as a delay from now.
        retry_after: Option<Duration>,
    },
    /// No route, no interface, no name server: nothing was said by the other side.
    Unreachable,
    /// The certificate is not valid yet: the clock of this device may be wrong.
    ClockNotSet,
    /// In the middle of a transfer, the place that a redirect led to refuses: the link may have run out. The next attempt
    /// asks the original URL again, which may lead to a fresh one. Worth one more attempt, and no more.
    StaleTarget,
    /// The same request will fail the same way.
    Permanent,
    /// [`crate::Interrupt::raise`] ended the attempt.
    Interrupted,
    /// The sink refused; the caller asks it why.
    SinkRefused,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
