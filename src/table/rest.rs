//! What only has to be brought to its end: publications that were left unfinished, and ends whose part file may still be
//! there.

use std::borrow::Cow;
use std::time::Duration;

use super::{Table, chooses, put};
use crate::operation::{Now, Operation, Phase, TransferId, millis};

/// What is left to do of an operation: to end it, or to finish its publication; and its place among those of its kind.
#[derive(Clone, Copy)]
pub(super) struct Rest {
    is_ending: bool,
    key: (u64, TransferId),
}

impl Table {
    /// Operations that have begun to end and that no worker holds.
    pub(crate) fn sweepable(&self) -> impl Iterator<Item = (u64, TransferId)> {
        self.ending.iter().copied()
    }

    /// Operations whose publication was left unfinished, with the moment at which to look at them, earliest first.
    pub(crate) fn finishable(&self) -> impl Iterator<Item = (u64, TransferId)> {
        self.finishing.iter().copied()
    }

    /// An unfinished publication, or an end whose part file is still there, is left alone for a while. Gives how often
    /// that was so.
    pub(crate) fn postpone_finish(&mut self, id: TransferId, now: Now, delay: Duration) -> u32 {
        let Some(operation) = self.find(id).map(Cow::into_owned) else {
            return 0;
        };
        if !matches!(operation.phase, Phase::Publishing(_) | Phase::Ending(_)) {
            return 0;
        }
        self.leave(self.rest(&operation), false);
        let (_, times) = self.postponed.get(&id).copied().unwrap_or_default();
        let until_ms = now.boot_ms.saturating_add(millis(delay));
        self.postponed.insert(id, (until_ms, times + 1));
        self.leave(self.rest(&operation), true);
        times + 1
    }

    /// How often an unfinished publication was left alone.
    pub(crate) fn finish_failures(&self, id: TransferId) -> u32 {
        self.postponed.get(&id).map_or(0, |(_, times)| *times)
    }

    /// What is left to do of an operation that only has to be brought to its end, if no worker holds it.
    pub(super) fn rest(&self, operation: &Operation) -> Option<Rest> {
        let id = operation.id;
        let is_ending = match operation.phase {
            Phase::Publishing(_) if chooses(self.only.as_ref(), id) => false,
            Phase::Ending(_) => true,
            _ => return None,
        };
        if operation.batch.is_some() || self.busy.contains(&id) {
            return None;
        }
        let (until_ms, _) = self.postponed.get(&id).copied().unwrap_or_default();
        Some(Rest {
            is_ending,
            key: (until_ms, id),
        })
    }

    /// Leaves that to whoever is free, or takes it from there.
    pub(super) fn leave(&mut self, rest: Option<Rest>, add: bool) {
        match rest {
            Some(Rest { is_ending: true, key }) => put(&mut self.ending, key, add),
            Some(Rest { key, .. }) => put(&mut self.finishing, key, add),
            None => {}
        }
    }
}
