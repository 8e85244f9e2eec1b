//! Batches: operations that count all together, once the last of them stands.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::{Stays, Table};
use crate::operation::{BatchId, TransferId};
use crate::sorted::Positions;

impl Table {
    /// From now on the operations of a batch count. Their `as_of` stays that of their creation, so that no two have one:
    /// nothing but their commit can have happened since. What stands in the rows says nothing of a batch and stays, too.
    pub(crate) fn commit(&mut self, batch: BatchId) {
        for order in self.uncommitted.remove(&batch.0).unwrap_or_default().iter() {
            let found = self.rows.at(order).and_then(|id| self.find(id).map(Cow::into_owned));
            if let Some(operation) = found {
                self.index_committed(&operation, true, Stays::default());
            }
        }
    }

    /// The batch of an operation that does not count yet.
    pub(super) fn batch_of(&self, id: TransferId) -> Option<BatchId> {
        if self.uncommitted.is_empty() {
            return None;
        }
        let order = self.rows.order(id)?;
        let mut batches = self.uncommitted.iter();
        let batch = batches.find(|(_, orders)| orders.contains(order));
        batch.map(|(batch, _)| BatchId(*batch))
    }

    /// The commit of a batch may be among what was lost. Its operations count, as what was accepted must not go in silence,
    /// but for those whose destination another one has taken meanwhile.
    pub(super) fn commit_what_may_be(&mut self) {
        for id in self.uncommitted() {
            let Some((mut operation, as_of)) = self.take(id) else {
                continue;
            };
            if self.live_for_destination(&operation.spec.destination).is_none() {
                operation.batch = None;
                self.insert(operation, as_of);
            }
        }
    }

    /// Forgets the operations of batches that were never committed: they were never accepted.
    pub(crate) fn drop_uncommitted(&mut self) {
        for id in self.uncommitted() {
            self.take(id);
        }
    }

    pub(super) fn uncommitted(&self) -> BTreeSet<TransferId> {
        let orders = self.uncommitted.values().flat_map(Positions::iter);
        orders.filter_map(|order| self.rows.at(order)).collect()
    }
}
