//! What one event changes: worked out before the journal has it, and taken after that.

use std::borrow::Cow;

use super::{Stays, Table};
use crate::operation::{Event, Extent, Operation, Rejected, TransferId};
use crate::rows::Open;

/// What one event makes of an operation. Of one that stands open in the rows, `before` is not given: it is taken from there.
#[derive(Debug)]
pub(crate) enum Step {
    Changes {
        before: Option<Box<Operation>>,
        next: Box<Operation>,
        /// It goes to the front of its group, which depends on when that was recorded.
        is_promoted: bool,
    },
    /// It is no operation any more.
    Leaves {
        id: TransferId,
        before: Option<Box<Operation>>,
        is_forgotten: bool,
    },
}

/// Whether an operation leaves with an event, and whether it is forgotten then.
pub(super) fn leaves(event: &Event) -> Option<bool> {
    match event {
        Event::Removed => Some(false),
        Event::Forgotten => Some(true),
        _ => None,
    }
}

impl Table {
    /// What an event makes of an operation; changes nothing until [`Table::take_step`].
    ///
    /// # Errors
    /// [`Rejected`] where the event does not fit, or where the operation counts only together with others that are still
    /// being recorded: to a replay any event of it would prove that they had been accepted.
    pub(crate) fn step(&self, id: TransferId, event: Event, at_ms: u64) -> Result<Step, Rejected> {
        if self.batch_of(id).is_some() {
            return Err(Rejected {
                event: "changed",
                state: "belongs to a list that is not accepted yet",
            });
        }
        let leaves = leaves(&event);
        // No index asks for the response of what has ended, and nobody else is told of what leaves.
        let extent = leaves.map_or(Extent::Whole, |_| Extent::WithoutResponse);
        let before = self.rows.find_within(id, extent).ok_or(Rejected {
            event: "found",
            state: "was removed",
        })?;
        let open_as_none = |before: Cow<'_, Operation>| match before {
            Cow::Borrowed(_) => None,
            Cow::Owned(before) => Some(Box::new(before)),
        };
        if let Some(is_forgotten) = leaves {
            before.may_leave()?;
            let before = open_as_none(before);
            return Ok(Step::Leaves {
                id,
                before,
                is_forgotten,
            });
        }
        let is_promoted = event == Event::Promoted;
        let mut next = Box::new(Operation::clone(&before));
        next.advance(event, at_ms)?;
        let before = open_as_none(before);
        Ok(Step::Changes {
            before,
            next,
            is_promoted,
        })
    }

    /// Takes a step that the journal holds at `lsn`; gives the operation that left with it. Nothing has changed since
    /// [`Table::step`] gave it.
    pub(crate) fn take_step(&mut self, step: Step, lsn: u64) -> Option<Box<Operation>> {
        match step {
            Step::Leaves {
                id,
                before,
                is_forgotten,
            } => {
                let before = before.or_else(|| self.rows.lift(id).map(|open| open.operation))?;
                let lost = is_forgotten && before.acknowledged_at_ms.is_none();
                self.unacknowledged_lost += u64::from(lost && lsn >= self.totals_as_of);
                self.remove(&before);
                Some(before)
            }
            Step::Changes {
                before,
                mut next,
                is_promoted,
            } => {
                debug_assert_eq!(next.batch, None, "{}: what does not count yet is not changed", next.id);
                let is_packed = before.is_some();
                let before = before.map(|before| Open::of(before, lsn + 1));
                let before = before.or_else(|| self.rows.lift(next.id))?;
                if is_promoted {
                    next.promoted = Some(lsn);
                }
                self.replace(before, is_packed, next, lsn + 1);
                None
            }
        }
    }

    /// Puts a later state of an operation in the place of one that stands here. What does not change stays untouched: most
    /// steps move an operation in few of the indexes. Its position, app and group never change.
    fn replace(&mut self, mut stands: Open, is_packed: bool, next: Box<Operation>, as_of: u64) {
        let before = &*stands.operation;
        let is_same = before.spec.is_same(&next.spec);
        let in_groups = is_same && before.has_ended() == next.has_ended();
        let ends = |operation: &Operation| (operation.ended_at_ms, operation.acknowledged_at_ms);
        let stays = Stays {
            in_groups,
            among_live: is_same && before.is_live() == next.is_live() && before.promoted == next.promoted,
            among_unsettled: before.is_reopened_otherwise() == next.is_reopened_otherwise(),
            // What holds it there is its group.
            in_history: in_groups && ends(before) == ends(&next),
            in_hand: self.busy.contains(&next.id),
        };
        self.index_but(before, false, stays);
        self.index_but(&next, true, stays);
        if is_packed {
            self.rows.replace(*next, as_of, stays.in_hand);
        } else {
            stands.operation = next;
            stands.as_of = as_of;
            self.rows.set_down(stands);
        }
    }
}

#[cfg(test)]
impl Table {
    /// Leaves an operation half taken, as a panic in a step would.
    pub(crate) fn lift(&mut self, id: TransferId) {
        self.rows.lift(id);
    }
}
