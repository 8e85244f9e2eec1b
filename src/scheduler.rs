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
/// Sweeps need no slot. Free slots go first to operations whose moment has come, in the order of their moments: they
/// were started before those that never ran. Then by priority, then by age.
pub(crate) fn plan(table: &Table, now: Now, slots: Slots) -> Plan {
    let free = slots.jobs_max.saturating_sub(slots.running);
    let due = table
        .timers()
        .take_while(|(due_ms, _)| *due_ms <= now.boot_ms)
        .map(|(_, id)| id);
    let starts = due.chain(table.ready()).filter(|id| !table.is_busy(*id)).take(free);
    let actions = table
        .sweepable()
        .take(SWEEPS_MAX)
        .map(Action::Sweep)
        .chain(starts.map(Action::Start))
        .collect();
    let wake_at_ms = table
        .timers()
        .map(|(due_ms, _)| due_ms)
        .find(|due_ms| *due_ms > now.boot_ms);
    Plan { actions, wake_at_ms }
}
