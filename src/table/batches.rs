//! Batches: operations that count all together, once the last of them stands.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::{Stays, Table, chooses, place};
use crate::operation::{BatchId, Operation, Phase, Priority, TransferId, Wish};
use crate::queue::{Entry, Place, Spot, Wait};
use crate::sorted::Positions;

/// Operations that do not count yet.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Their orders, and how many those are.
    pub(super) orders: Positions,
    count: usize,
    /// How they will be queued, so that they need not be unpacked for that: those of a list mostly go to one host.
    runs: Vec<Run>,
    /// For one of them more is to be done, or they did not come in their order.
    is_mixed: bool,
}

/// Those of a batch from an order on that are queued alike, up to the next run.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: u64,
    place: Place,
    /// Nothing where they are on hold.
    turn: Option<Priority>,
}

impl Batch {
    fn add(&mut self, operation: &Operation) {
        let (spec, order) = (&operation.spec, operation.order);
        self.orders.put(order, true);
        self.count += 1;
        let is_new = operation.phase == Phase::Ready && operation.promoted.is_none();
        let is_grouped = spec.group.is_some() || spec.completion_group.is_some();
        let last = self.runs.last();
        self.is_mixed |= !is_new || is_grouped || last.is_some_and(|last| order < last.first);
        let run = Run {
            first: order,
            place: place(operation),
            turn: (operation.wish == Wish::Run).then_some(spec.priority),
        };
        if last.is_none_or(|last| (last.place, last.turn) != (run.place, run.turn)) {
            self.runs.push(run);
        }
    }

    /// Takes out one that was added; tells whether it was the last one.
    pub(super) fn remove(&mut self, order: u64) -> bool {
        self.orders.put(order, false);
        self.count = self.count.saturating_sub(1);
        self.orders.is_empty()
    }

    /// Whoever waits for a turn, with its order.
    fn entries(&self) -> impl Iterator<Item = (u64, Entry)> {
        let mut runs = self.runs.iter().peekable();
        let mut run = None;
        self.orders.iter().filter_map(move |order| {
            while let Some(next) = runs.next_if(|next| next.first <= order) {
                run = Some(next);
            }
            let Run { place, turn, .. } = *run?;
            let entry = turn.map(|priority| Entry {
                spot: Spot::new(priority, order, None),
                place,
                wait: Wait::Turn(priority),
                group: None,
            });
            Some((order, entry?))
        })
    }
}

impl Table {
    /// Notes that an operation does not count until its batch does.
    pub(super) fn wait_for(&mut self, batch: BatchId, operation: &Operation) {
        self.uncommitted.entry(batch.0).or_default().add(operation);
    }

    /// From now on the operations of a batch count. Their `as_of` stays that of their creation, so that no two have one:
    /// nothing but their commit can have happened since. What stands in the rows says nothing of a batch and stays, too.
    pub(crate) fn commit(&mut self, batch: BatchId) {
        let batch = self.uncommitted.remove(&batch.0).unwrap_or_default();
        if batch.is_mixed {
            for order in batch.orders.iter() {
                let found = self.rows.at(order).and_then(|id| self.find(id).map(Cow::into_owned));
                if let Some(operation) = found {
                    self.index_committed(&operation, true, Stays::default());
                }
            }
            return;
        }
        for (order, entry) in batch.entries() {
            let only = self.only.as_ref();
            if only.is_none() || self.rows.at(order).is_some_and(|id| chooses(only, id)) {
                self.queue.put(&entry, true);
            }
        }
    }

    /// Whether any operation is live that counts.
    pub(super) fn has_live(&self) -> bool {
        // What does not count yet is live, and nothing else is in that index.
        let waiting: usize = self.uncommitted.values().map(|batch| batch.count).sum();
        self.destinations.len() != waiting
    }

    /// The batch of an operation that does not count yet.
    pub(super) fn batch_of(&self, id: TransferId) -> Option<BatchId> {
        if self.uncommitted.is_empty() {
            return None;
        }
        let order = self.rows.order(id)?;
        let mut batches = self.uncommitted.iter();
        let batch = batches.find(|(_, of)| of.orders.contains(order));
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
        let orders = self.uncommitted.values().flat_map(|batch| batch.orders.iter());
        orders.filter_map(|order| self.rows.at(order)).collect()
    }
}
