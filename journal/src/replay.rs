//! Records on their way back to the application.

use crate::error::ReplayError;

/// Number of a record: each is one above the record before it. The first is 1, so that `Lsn(0)` is before everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// Takes the records that a journal holds, in order, and builds state from them.
///
/// It must do nothing else: the state counts only once the call that replays has returned `Ok`, and a refusal or an
/// error in the middle leaves a state to be thrown away.
pub trait Replay {
    /// A record of the newest intact snapshot. All of these come first, in the order they were written.
    ///
    /// # Errors
    /// Whatever keeps the record from being taken; replaying stops, and the journal is not opened.
    fn snapshot(&mut self, record: &[u8]) -> Result<(), ReplayError>;

    /// A record of the log at or above the LSN of the snapshot.
    ///
    /// # Errors
    /// As [`Replay::snapshot`].
    fn record(&mut self, lsn: Lsn, record: &[u8]) -> Result<(), ReplayError>;

    /// Records were lost here: those from `first` to before `next`, as far as numbers tell, and every salvage leaves one
    /// such place at the end of its copy. What follows may rest on what is missing.
    fn gap(&mut self, _first: Lsn, _next: Lsn) {}

    /// Forgets everything taken so far, because it will be delivered anew. Only [`read`](crate::read) asks for it, where
    /// a writer's checkpoint removed files under the reader.
    ///
    /// # Errors
    /// The default refuses, and reading ends with [`Error::Changing`](crate::Error::Changing).
    fn reset(&mut self) -> Result<(), ReplayError> {
        Err("this replay cannot start over".into())
    }
}
