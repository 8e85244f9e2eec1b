//! Shortening the journal: all operations as they are, in one snapshot.

use std::sync::PoisonError;

use super::core::Core;
use crate::error::Error;
use crate::operation::{Entry, TransferId, encode};

/// Operations of a snapshot that are encoded under one hold of the lock.
const SNAPSHOT_STEP: usize = 256;

impl Core {
    /// Writes a snapshot where the journal has grown enough. Transfers go on meanwhile.
    ///
    /// A snapshot that fails loses nothing: the journal goes on without, and the next one may succeed.
    pub(crate) fn checkpoint_if_due(&self) {
        if let Err(error) = self.checkpoint_now_if_due() {
            log::warn!("the journal could not be shortened: {error}");
        }
    }

    fn checkpoint_now_if_due(&self) -> Result<(), Error> {
        if !self.journal.checkpoint_due() {
            return Ok(());
        }
        self.journal.checkpoint(&mut |writer| {
            let ids = self.state().table.ids();
            for ids in ids.chunks(SNAPSHOT_STEP) {
                for bytes in self.encoded(ids) {
                    writer.record(&bytes)?;
                }
            }
            // The totals come last: what is forgotten after them still has its row in the snapshot, and is counted anew.
            writer.record(&self.encoded_totals())
        })?;
        Ok(())
    }

    fn encoded_totals(&self) -> Vec<u8> {
        let state = self.state();
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let as_of = last.map_or(state.table.totals_as_of(), |lsn| lsn.0 + 1);
        let unacknowledged_lost = state.table.unacknowledged_lost();
        let mut bytes = Vec::new();
        encode(
            &Entry::Totals {
                unacknowledged_lost,
                as_of,
            },
            &mut bytes,
        );
        bytes
    }

    fn encoded(&self, ids: &[TransferId]) -> Vec<Vec<u8>> {
        let state = self.state();
        let entries = ids.iter().map(|id| {
            let mut bytes = Vec::new();
            state.table.encode(*id, &mut bytes);
            bytes
        });
        // One that left meanwhile has none.
        entries.filter(|bytes| !bytes.is_empty()).collect()
    }
}
