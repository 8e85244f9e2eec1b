//! Reading without a lock, beside a writer if need be.

use std::path::Path;
use std::sync::Arc;

use crate::directory::{Directory, Layout};
use crate::error::Error;
use crate::recovery::scan;
use crate::replay::Replay;
use crate::report::Report;
use crate::storage::Storage;

/// How often reading starts over because a writer removed files meanwhile. It removes some only after each checkpoint.
pub(crate) const ATTEMPTS_MAX: u32 = 8;

/// Replays the journal in a directory without a lock, and writes nothing.
///
/// Beside a live writer the result is the journal as of some moment during the call. Records at or above
/// [`Report::proven`] are delivered too; after a power cut they may turn out never to have been durable.
///
/// Where a writer's checkpoint removes files under the reader, everything is delivered anew after
/// [`Replay::reset`]; a state counts only once this has returned `Ok`.
///
/// # Errors
/// [`Error::NoJournal`], [`Error::Changing`], and as [`Journal::open`](crate::Journal::open).
pub fn read(storage: &Arc<dyn Storage>, directory: &Path, replay: &mut dyn Replay) -> Result<Report, Error> {
    let directory = Directory::new(storage, directory);
    let mut layout = existing(&directory)?;
    for _ in 0..ATTEMPTS_MAX {
        let failure = match scan(&directory, &layout, replay) {
            Ok(scan) => return Ok(scan.report),
            Err(refused @ Error::Refused(..)) => return Err(refused),
            Err(failure) => failure,
        };
        let now = existing(&directory)?;
        if layout.is_within(&now) {
            return Err(failure);
        }
        layout = now;
        replay.reset().map_err(|_| Error::Changing(directory.path.clone()))?;
    }
    Err(Error::Changing(directory.path))
}

/// The names in a directory that must hold a whole journal.
pub(crate) fn existing(directory: &Directory) -> Result<Layout, Error> {
    match directory.layout()? {
        Some(layout) if layout.incomplete => Err(Error::Incomplete(directory.path.clone())),
        Some(layout) if !layout.is_empty() => Ok(layout),
        _ => Err(Error::NoJournal(directory.path.clone())),
    }
}
