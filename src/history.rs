//! Ended operations by the time of their end, and which of them are not kept any longer. Pure.

use std::time::Duration;

use crate::operation::{Operation, TransferId, millis};
use crate::sorted::SortedSet;

/// How long ended operations are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Acknowledged ends kept at most.
    pub acknowledged_max: usize,
    /// Longest time that an acknowledged end is kept.
    pub acknowledged_for: Duration,
    /// Unacknowledged ends kept at most; beyond it the oldest go and are counted as lost.
    pub unacknowledged_max: usize,
}

impl Default for Retention {
    /// 1,000 acknowledged ends for 7 days; 10,000 unacknowledged ones.
    fn default() -> Self {
        Self {
            acknowledged_max: 1_000,
            acknowledged_for: Duration::from_secs(7 * 24 * 3600),
            unacknowledged_max: 10_000,
        }
    }
}

/// Those that have ended, by the wall-clock time of their end in milliseconds.
#[derive(Debug, Default)]
pub(crate) struct History {
    acknowledged: SortedSet<(u64, TransferId)>,
    unacknowledged: SortedSet<(u64, TransferId)>,
    /// Those whose completion group is not delivered yet, acknowledged or not; they stay.
    held: SortedSet<(u64, TransferId)>,
}

impl History {
    /// Adds an operation, or takes it out, where it has ended. `held`: its completion group is not delivered yet.
    pub(crate) fn put(&mut self, operation: &Operation, held: bool, add: bool) {
        let Some(ended_at_ms) = operation.ended_at_ms else {
            return;
        };
        let ended = match operation.acknowledged_at_ms {
            _ if held => &mut self.held,
            Some(_) => &mut self.acknowledged,
            None => &mut self.unacknowledged,
        };
        ended.put((ended_at_ms, operation.id), add);
    }

    /// Those whose end nobody may have acknowledged: oldest first, then the held ones.
    pub(crate) fn unacknowledged(&self) -> impl Iterator<Item = TransferId> {
        self.unacknowledged.iter().chain(self.held.iter()).map(|(_, id)| id)
    }

    /// Those whose end somebody has acknowledged, oldest first.
    pub(crate) fn acknowledged(&self) -> impl Iterator<Item = TransferId> {
        self.acknowledged.iter().map(|(_, id)| id)
    }

    /// Up to `max` of those that there is no room or time for, oldest first.
    pub(crate) fn expired(&self, wall_ms: u64, retention: &Retention, max: usize) -> Vec<TransferId> {
        let keep_ms = millis(retention.acknowledged_for);
        let surplus = self.acknowledged.len().saturating_sub(retention.acknowledged_max);
        let is_old = |ended_at_ms: u64| wall_ms.saturating_sub(ended_at_ms) > keep_ms;
        let acknowledged = self.acknowledged.iter().enumerate();
        let acknowledged =
            acknowledged.take_while(|(index, (ended_at_ms, _))| *index < surplus || is_old(*ended_at_ms));
        let lost = self.unacknowledged.len().saturating_sub(retention.unacknowledged_max);
        let unacknowledged = self.unacknowledged.iter().take(lost);
        acknowledged
            .map(|(_, (_, id))| id)
            .chain(unacknowledged.map(|(_, id)| id))
            .take(max)
            .collect()
    }
}
