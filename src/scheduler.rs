//! What runs next. Pure: `plan(table, now, slots) -> plan`; a decision costs what it returns, not what is queued.

use crate::operation::{CompletionGroupId, Now, TransferId};
use crate::table::Table;

/// Limits of one engine. That of one host is the table's, whose indexes keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slots {
    /// Attempts that may run at the same time.
    pub(crate) jobs_max: usize,
    /// Attempts that run now.
    pub(crate) running: usize,
    /// Commands of completion groups that run now.
    pub(crate) commands: usize,
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
    /// Run the command of a completion group.
    Run(CompletionGroupId),
}

/// Commands that run at the same time.
const COMMANDS_MAX: usize = 4;

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
/// Sweeps and finishes need no slot, and commands have slots of their own. Of starts a plan names one at most, as each changes who is next; who that is says
/// `queue`. The table changes in nothing but which of its waits are known to be over.
pub(crate) fn plan(table: &mut Table, now: Now, slots: Slots) -> Plan {
    let start = table.next_start(now).filter(|_| slots.running < slots.jobs_max);
    let is_due = |due_ms: u64| due_ms <= now.boot_ms;
    let sweeps = table.sweepable().take_while(|(due_ms, _)| is_due(*due_ms));
    let sweeps = sweeps.take(SWEEPS_MAX).map(|(_, id)| Action::Sweep(id));
    let finishes = table.finishable().take_while(|(due_ms, _)| is_due(*due_ms));
    let finishes = finishes.take(SWEEPS_MAX).map(|(_, id)| Action::Finish(id));
    let runs = table.runs().take_while(|(due_ms, _)| is_due(*due_ms));
    let runs = runs
        .take(COMMANDS_MAX.saturating_sub(slots.commands))
        .map(|(_, id)| Action::Run(id));
    let actions = sweeps
        .chain(finishes)
        .chain(runs)
        .chain(start.map(Action::Start))
        .collect();
    let wake_at_ms = table.next_moment(now);
    Plan { actions, wake_at_ms }
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
