//! What runs next. Pure: `plan(table, now, limits) -> plan`; a decision costs what it returns, not what is queued.

use crate::operation::{Now, TransferId};
use crate::table::Table;

/// Limits of one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slots {
    /// Attempts that may run at the same time.
    pub(crate) jobs_max: usize,
    /// Attempts that run now.
    pub(crate) running: usize,
}

/// What the scheduler wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make an attempt.
    Start(TransferId),
    /// Finish a publication that was left unfinished.
    Finish(TransferId),
    /// Remove what an operation that is ending left behind, then end it.
    Sweep(TransferId),
}

/// Sweeps in one plan; the next plan has the rest.
const SWEEPS_MAX: usize = 64;

/// What to do now, and when to look again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    /// The next moment at which a wait ends, on the boot-time clock in milliseconds.
    pub(crate) wake_at_ms: Option<u64>,
}

/// Decides what to do now.
///
/// Sweeps and finishes need no slot. Free slots go first to operations whose moment has come, in the order of their moments: they
/// were started before those that never ran. Then by priority, then by age.
pub(crate) fn plan(table: &Table, now: Now, slots: Slots) -> Plan {
    let free = slots.jobs_max.saturating_sub(slots.running);
    let due = table
        .timers()
        .take_while(|(due_ms, _)| *due_ms <= now.boot_ms)
        .map(|(_, id)| id);
    let starts = due.chain(table.ready()).filter(|id| !table.is_busy(*id)).take(free);
    let is_due = |due_ms: u64| due_ms <= now.boot_ms;
    let sweeps = table.sweepable().take_while(|(due_ms, _)| is_due(*due_ms));
    let sweeps = sweeps.take(SWEEPS_MAX).map(|(_, id)| Action::Sweep(id));
    let finishes = table.finishable().take_while(|(due_ms, _)| is_due(*due_ms));
    let finishes = finishes.take(SWEEPS_MAX).map(|(_, id)| Action::Finish(id));
    let actions = sweeps.chain(finishes).chain(starts.map(Action::Start)).collect();
    let later = |(due_ms, _): (u64, TransferId)| (!is_due(due_ms)).then_some(due_ms);
    let wake_at_ms = table
        .timers()
        .find_map(later)
        .into_iter()
        .chain(table.finishable().find_map(later))
        .chain(table.sweepable().find_map(later))
        .min();
    Plan { actions, wake_at_ms }
}
