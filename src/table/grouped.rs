//! Groups in the table: a change of one moves its operations where they belong from then on; and who runs, which gives
//! the others of a group their turn.

use std::borrow::Cow;
use std::num::NonZeroUsize;

use super::{Table, place, spot};
use crate::groups::Groups;
use crate::operation::{
    Completion, CompletionEvent, CompletionFact, CompletionGroupId, Group, GroupFact, Lack, Now, Operation, Phase,
    TransferId,
};

/// Waits that a decision takes for over, at most; the next decision has the rest (chosen without measurement).
const MATURE_MAX: usize = 64;

impl Table {
    /// The operation that starts next, if a slot is free. Of those whose moment has come so many at most are seen to, earliest
    /// first, that a burst holds up no decision; the moment of the next one then lies in the past, which asks for another
    /// decision at once.
    pub(crate) fn next_start(&mut self, now: Now) -> Option<TransferId> {
        for _ in 0..MATURE_MAX {
            let Some(position) = self.queue.take_due(now.boot_ms) else {
                break;
            };
            let operation = self.at(position).and_then(|id| self.find(id));
            if let Some(entry) = operation.and_then(|operation| self.entry(&operation)) {
                self.queue.mature(&entry);
            }
        }
        self.queue.next().and_then(|position| self.at(position))
    }

    pub(crate) fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Applies one fact about a transfer group that the journal holds at `lsn`.
    pub(crate) fn apply_group(&mut self, fact: GroupFact, lsn: u64) {
        let (app, name) = match &fact {
            GroupFact::Set(group) => (&group.app, &group.name),
            GroupFact::Removed { app, name } => (app, name),
        };
        let live = self.groups.live(app, name);
        self.requeued(&live, |groups| groups.apply(fact, lsn));
    }

    /// Puts in a transfer group from a snapshot.
    pub(crate) fn restore_group(&mut self, group: &Group, as_of: u64) {
        let live = self.groups.live(&group.app, &group.name);
        self.requeued(&live, |groups| groups.restore(group, as_of));
    }

    /// Changes how these operations are queued.
    fn requeued(&mut self, ids: &[TransferId], change: impl FnOnce(&mut Groups)) {
        self.put_in_queue(ids, false);
        change(&mut self.groups);
        self.put_in_queue(ids, true);
    }

    fn put_in_queue(&mut self, ids: &[TransferId], add: bool) {
        for id in ids {
            if let Some(entry) = self.find(*id).and_then(|operation| self.entry(&operation)) {
                self.queue.put(&entry, add);
            }
        }
    }

    /// Who has to go to the front of a group so that this operation is its first and all behind it stay behind it: the one
    /// named first goes first. None where it is the first, is in no group, or is at work.
    pub(crate) fn rotation(&self, subject: &Operation) -> Vec<TransferId> {
        let Some(name) = subject.spec.group.as_deref() else {
            return Vec::new();
        };
        let live = self.groups.live(&subject.spec.app, name);
        let live = live.into_iter().filter_map(|id| self.find(id));
        let mut spots: Vec<_> = live
            .filter(|operation| operation.is_at_rest())
            .map(|operation| (spot(&operation), operation.id))
            .collect();
        spots.sort_unstable();
        match spots.iter().position(|(_, id)| *id == subject.id) {
            Some(place) if place > 0 => spots[place..].iter().rev().map(|(_, id)| *id).collect(),
            _ => Vec::new(),
        }
    }

    /// Applies one fact about a completion group that the journal holds at `lsn`.
    pub(crate) fn apply_completion(&mut self, fact: CompletionFact, lsn: u64) {
        let id = fact.id;
        let changes_hold = matches!(
            fact.event,
            CompletionEvent::Created { .. }
                | CompletionEvent::Done
                | CompletionEvent::Failed { .. }
                | CompletionEvent::Removed
        );
        if changes_hold {
            self.reheld(id, |groups| groups.apply_completion(fact, lsn));
        } else {
            self.groups.apply_completion(fact, lsn);
        }
    }

    /// Puts in a completion group from a snapshot.
    pub(crate) fn restore_completion(&mut self, completion: Completion, as_of: u64) {
        self.reheld(completion.id, |groups| groups.restore_completion(completion, as_of));
    }

    /// Changes whether the ends of its operations must stay known. They are looked at one by one: unpacked all at once, those of
    /// a large group would take more memory than all else.
    fn reheld(&mut self, id: CompletionGroupId, change: impl FnOnce(&mut Groups)) {
        let before = self.groups.holds_members(id);
        change(&mut self.groups);
        let now = self.groups.holds_members(id);
        if before == now {
            return;
        }
        for member in self.groups.members(id) {
            if let Some(operation) = self.find(member).map(Cow::into_owned) {
                self.history.put(&operation, before, false);
                self.history.put(&operation, now, true);
            }
        }
    }

    /// Commands of completion groups that are to be run, with the moments from which on, earliest first. None where only
    /// some operations count: those who wait for them wait for nothing else.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u64, CompletionGroupId)> {
        self.groups.runs().filter(|_| self.only.is_none())
    }

    /// The first moment after now at which a command is to be run.
    pub(super) fn next_run(&self, now: Now) -> Option<u64> {
        self.groups.next_run(now.boot_ms).filter(|_| self.only.is_none())
    }

    /// Notes that an attempt begins, or that it is over: that gives its slot to others.
    pub(crate) fn set_running(&mut self, id: TransferId, runs: bool) {
        if !runs {
            self.queue.end(id);
        } else if let Some(operation) = self.find(id) {
            let (place, group) = (place(&operation), self.groups.number_of(&operation));
            self.queue.start(id, place, group);
        }
    }

    /// For a table that was replayed beside its engine: the attempts that run there are those that the journal knows of.
    pub(crate) fn assume_running(&mut self, per_host_max: Option<NonZeroUsize>) {
        self.limit_hosts(per_host_max);
        for operation in self.rows.in_order() {
            if operation.phase == Phase::Running {
                let group = self.groups.number_of(&operation);
                self.queue.start(operation.id, place(&operation), group);
            }
        }
    }

    /// What an operation lacks that may start.
    pub(crate) fn lack(&self, operation: &Operation) -> Lack {
        let group = self.groups.serialized(operation);
        if self.only.as_ref().is_some_and(|only| !only.contains(&operation.id)) {
            Lack::Choice
        } else if group.is_some_and(|group| self.queue.is_behind(group, operation.id, spot(operation))) {
            Lack::GroupTurn
        } else if self.queue.is_full(place(operation).host) {
            Lack::HostSlot
        } else {
            Lack::Slot
        }
    }

    /// The operation at a position in the queue.
    pub(super) fn at(&self, position: i64) -> Option<TransferId> {
        match u64::try_from(position) {
            Ok(order) => self.rows.at(order),
            Err(_) => self.promoted.get(&position).copied(),
        }
    }

    pub(super) fn index_promoted(&mut self, operation: &Operation, add: bool) {
        let position = spot(operation).position();
        if operation.promoted.is_none() {
        } else if add {
            self.promoted.insert(position, operation.id);
        } else {
            self.promoted.remove(&position);
        }
    }
}
