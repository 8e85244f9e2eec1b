//! How far a download is: as one look, and as an iterator that waits for the next.

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

    /// The operation as it is: at once the first time, then after the next change.
    ///
    /// # Errors
    /// [`Error::UnknownId`] where its record is gone; [`Error::Disconnected`] where the engine has stopped.
    pub(super) fn next(&mut self) -> Result<OperationView, Error> {
        let Some(monitor) = &mut self.monitor else {
            // What changes between this and the look is told afterwards.
            self.monitor = Some(self.service.monitor_from_now(self.id)?);
            return self.service.view(self.id);
        };
        match monitor.next_within(None)? {
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
            let Ok(view) = self.watch.next() else {
                self.is_over = true;
                return None;
            };
            let progress = DownloadProgress::from(&view);
            self.is_over = view.ended_at_ms.is_some();
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
