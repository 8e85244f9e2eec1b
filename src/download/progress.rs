//! How far a download is: as one look, and as an iterator that waits for the next.

use std::ops::Range;
use std::time::Duration;

use crate::engine::OperationView;
use crate::error::Error;
use crate::operation::{Reason, TransferId, TransferStatus};
use crate::service::{Monitor, Service};

/// One consistent look at how far a download is.
///
/// Stands for `BackgroundDownloadProgress`. It differs in that what may be unknown is an `Option`, not 0, and that nothing is
/// true for one report only: `HasRestarted` is a count that grows, [`DownloadProgress::restarts`], and `HasResponseChanged`
/// is, too, [`DownloadProgress::attempts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DownloadProgress {
    /// Bytes that are there, without headers; fewer than before after a restart. Stands for `BytesReceived`.
    pub bytes_received: u64,
    /// Bytes that there will be, where known. Stands for `TotalBytesToReceive`.
    pub total_bytes: Option<u64>,
    /// What it is doing. Stands for `Status`.
    pub status: TransferStatus,
    /// The one reason why it does not move.
    pub reason: Option<Reason>,
    /// How often it began again from zero.
    pub restarts: u32,
    /// How often it was tried. Each attempt may have brought another response than the one before it.
    pub attempts: u32,
}

impl From<&OperationView> for DownloadProgress {
    fn from(view: &OperationView) -> Self {
        Self {
            bytes_received: view.bytes_done,
            total_bytes: view.bytes_total,
            status: view.status,
            reason: view.reason,
            restarts: view.restarts,
            attempts: view.attempts,
        }
    }
}

/// What becomes of one operation, look by look: waits for something to change since the last one.
pub(super) struct Watch {
    service: Service,
    id: TransferId,
    /// Made at the first look.
    monitor: Option<Monitor>,
}

impl Watch {
    pub(super) fn new(service: &Service, id: TransferId) -> Self {
        Self {
            service: service.clone(),
            id,
            monitor: None,
        }
    }

    /// The operation as it is: at once the first time, then after the next change, or when the time is over.
    ///
    /// # Errors
    /// [`Error::UnknownId`] where its record is gone; [`Error::Disconnected`] where the engine has stopped.
    pub(super) fn next_within(&mut self, time: Option<Duration>) -> Result<OperationView, Error> {
        let Some(monitor) = &mut self.monitor else {
            // What changes between this and the look is told afterwards.
            self.monitor = Some(self.service.monitor_from_now(self.id)?);
            return self.service.view(self.id);
        };
        match monitor.next_within(time)? {
            Some(update) => {
                let mut operations = update.operations.into_iter();
                // An update without it may say that too much has changed to be told.
                operations
                    .find(|view| view.id == self.id)
                    .map_or_else(|| self.service.view(self.id), Ok)
            }
            None => self.service.view(self.id),
        }
    }
}

/// Looks at a download, one after each change, until it ends; the last one shows the end.
///
/// `next` blocks until something has changed. What changes meanwhile is seen in one look. A download that stands still gives
/// none: one that nobody has started, or that waits to be resumed. It ends early, without a look at the end, where the
/// record of the download is removed or its engine has stopped; [`DownloadOperation::wait`](super::DownloadOperation::wait)
/// tells that error.
pub struct Progress {
    watch: Watch,
    last: Option<DownloadProgress>,
    is_over: bool,
}

impl Progress {
    pub(super) fn new(service: &Service, id: TransferId) -> Self {
        Self {
            watch: Watch::new(service, id),
            last: None,
            is_over: false,
        }
    }
}

impl Iterator for Progress {
    type Item = DownloadProgress;

    fn next(&mut self) -> Option<DownloadProgress> {
        while !self.is_over {
            let Ok(view) = self.watch.next_within(None) else {
                self.is_over = true;
                return None;
            };
            let progress = DownloadProgress::from(&view);
            self.is_over = view.has_ended();
            if self.last != Some(progress) {
                self.last = Some(progress);
                return Some(progress);
            }
        }
        None
    }
}

impl std::iter::FusedIterator for Progress {}

impl std::fmt::Debug for Progress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Progress")
            .field("id", &self.watch.id)
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

/// What came to be there of a download since the event before.
///
/// Stands for `BackgroundTransferRangesDownloadedEventArgs`. It differs in that there is no deferral: what comes while an
/// event is worked on is in the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RangesDownloaded {
    /// Bytes `start..end` that are there now and were not, in order and with gaps between; after a restart all that are
    /// there. Stands for `AddedRanges`.
    pub added: Vec<Range<u64>>,
    /// The download began again from zero: whatever was read of it before is of another file. Stands for
    /// `WasDownloadRestarted`.
    pub was_restarted: bool,
}

/// What comes to be there of a download, event by event, until it ends.
///
/// `next` blocks until something is there; the first event tells all that is there already. It ends where [`Progress`] does.
///
/// Stands for the event `RangesDownloaded`.
pub struct RangesDownloadedEvents {
    watch: Watch,
    generation: Option<u32>,
    ranges: Vec<(u64, u64)>,
    is_over: bool,
}

impl RangesDownloadedEvents {
    pub(super) fn new(service: &Service, id: TransferId) -> Self {
        Self {
            watch: Watch::new(service, id),
            generation: None,
            ranges: Vec::new(),
            is_over: false,
        }
    }

    /// What has come since the last look; `None` where the download is gone.
    fn look(&mut self) -> Option<RangesDownloaded> {
        let view = self.watch.next_within(None).ok()?;
        self.is_over = view.has_ended();
        let (generation, ranges) = self.watch.service.downloaded_ranges(self.watch.id).ok()?;
        let was_restarted = self.generation.is_some_and(|before| before != generation);
        if was_restarted {
            self.ranges.clear();
        }
        let added = beyond(&ranges, &self.ranges);
        (self.generation, self.ranges) = (Some(generation), ranges);
        Some(RangesDownloaded { added, was_restarted })
    }
}

impl Iterator for RangesDownloadedEvents {
    type Item = RangesDownloaded;

    fn next(&mut self) -> Option<RangesDownloaded> {
        while !self.is_over {
            let Some(event) = self.look() else {
                self.is_over = true;
                return None;
            };
            if event != RangesDownloaded::default() {
                return Some(event);
            }
        }
        None
    }
}

impl std::iter::FusedIterator for RangesDownloadedEvents {}

impl std::fmt::Debug for RangesDownloadedEvents {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("RangesDownloadedEvents")
            .field("id", &self.watch.id)
            .field("ranges", &self.ranges)
            .finish_non_exhaustive()
    }
}

/// What is in ranges and was not before. Both are in order, with gaps between.
fn beyond(ranges: &[(u64, u64)], before: &[(u64, u64)]) -> Vec<Range<u64>> {
    let mut added = Vec::new();
    let mut old = before.iter().copied().peekable();
    for (mut first, end) in ranges.iter().copied() {
        while first < end {
            match old.peek().copied() {
                Some((_, old_end)) if old_end <= first => {
                    old.next();
                }
                Some((old_first, old_end)) if old_first <= first => first = old_end.min(end),
                Some((old_first, _)) => {
                    let next = old_first.min(end);
                    added.push(first..next);
                    first = next;
                }
                None => {
                    added.push(first..end);
                    first = end;
                }
            }
        }
    }
    added
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_since_is_what_is_there_and_was_not() {
        let rows: [(&[(u64, u64)], &[(u64, u64)], &[Range<u64>]); 7] = [
            (&[(0, 9)], &[], &[0..9]),
            (&[(0, 9)], &[(0, 9)], &[]),
            (&[(0, 9)], &[(0, 4)], &[4..9]),
            (&[(0, 9)], &[(2, 4), (6, 7)], &[0..2, 4..6, 7..9]),
            (&[(0, 4), (8, 12)], &[(0, 2), (8, 9)], &[2..4, 9..12]),
            (&[(4, 6), (8, 9)], &[(0, 5)], &[5..6, 8..9]),
            (&[], &[(0, 5)], &[]),
        ];
        for (now, before, added) in rows {
            assert_eq!(beyond(now, before), added, "{now:?} {before:?}");
        }
    }
}
