//! Who sleeps until there is work, and for how long.

use std::sync::MutexGuard;
use std::time::Duration;

use super::core::{Core, Role, State};
use super::room::BATCH_MAX;
use crate::operation::millis;

/// How long nothing happens before memory that was needed for work is given back.
const QUIET: Duration = Duration::from_secs(1);
/// While so many attempts run, the publisher waits a moment for more files to come, so that they share its syncs (chosen:
/// fewer would not fill a batch in that time).
const MANY_ATTEMPTS: usize = 8;
/// How long it waits at most (measured with 10,000 files of 1 KiB: about what the syncs of a batch take).
const GATHER: Duration = Duration::from_millis(20);
/// Ends that those who watch are woken for: whoever acknowledges them finds most of them unpacked then.
const ENDS_TOLD_MIN: usize = 64;
/// The clock that sleeps stands still while the device is suspended; the boot-time clock is looked at this often.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// Who waits for work and has to be woken: telling somebody who does not costs a system call.
#[derive(Default)]
pub(crate) struct Asleep {
    pub(super) workers: usize,
    pub(super) publisher: bool,
    /// Since when complete files wait for more, on the boot-time clock in milliseconds.
    pub(super) gathering_since_ms: Option<u64>,
}

impl State {
    /// Complete files that are in nobody's hands.
    pub(super) fn complete(&self) -> usize {
        self.ready.len() + self.drafts.len()
    }

    /// A batch is full, or more files would take their time to come.
    pub(super) fn may_publish(&self) -> bool {
        self.complete() >= BATCH_MAX || self.attempts.len() < MANY_ATTEMPTS || self.stopping
    }
}

impl Core {
    /// Until when the publisher waits for more files than there are, if it is worth it.
    pub(super) fn gathers(&self, state: &mut State) -> Option<u64> {
        if state.complete() == 0 || state.may_publish() {
            state.asleep.gathering_since_ms = None;
            return None;
        }
        let now_ms = self.now().boot_ms;
        let since_ms = *state.asleep.gathering_since_ms.get_or_insert(now_ms);
        let until_ms = since_ms.saturating_add(millis(GATHER));
        if until_ms <= now_ms {
            state.asleep.gathering_since_ms = None;
            return None;
        }
        Some(until_ms)
    }

    /// Waits until work may have come up, or until a moment of the boot-time clock.
    pub(super) fn sleep<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        role: Role,
        until_ms: Option<u64>,
    ) -> MutexGuard<'a, State> {
        let condition = match role {
            Role::Worker => {
                state.asleep.workers += 1;
                &self.work
            }
            Role::Publisher => {
                state.asleep.publisher = true;
                &self.publisher
            }
        };
        let mut state = match until_ms {
            Some(until_ms) => {
                let wait = Duration::from_millis(until_ms.saturating_sub(self.now().boot_ms).max(1)).min(SLEEP_MAX);
                self.despite_panic(condition.wait_timeout(state, wait)).0
            }
            None => self.despite_panic(condition.wait(state)),
        };
        match role {
            Role::Worker => state.asleep.workers -= 1,
            Role::Publisher => state.asleep.publisher = false,
        }
        state
    }

    /// Those who watch wait for the end of all work, and for many ends; waking them for less would cost more than the work.
    pub(super) fn tell(&self, state: &mut State) {
        let has_many = state.ends.len() - state.ends_told >= ENDS_TOLD_MIN;
        if has_many || Self::is_idle(state) {
            state.ends_told = state.ends.len();
            self.watchers.notify_all();
        }
    }

    /// Waits on behalf of those who watch: until somebody has something for them, or until the time is over.
    pub(crate) fn watch<'a>(&self, state: MutexGuard<'a, State>, time: Option<Duration>) -> MutexGuard<'a, State> {
        let has_quietened = state.has_worked && Self::is_idle(&state);
        let quiet = has_quietened.then_some(QUIET);
        let Some(first) = time.into_iter().chain(quiet).min() else {
            return self.despite_panic(self.watchers.wait(state));
        };
        let (mut state, timeout) = self.despite_panic(self.watchers.wait_timeout(state, first));
        // Not at every pause: what is given back has to be asked for again.
        if quiet == Some(first) && timeout.timed_out() && Self::is_idle(&state) {
            state.has_worked = false;
            crate::sys::give_back_memory();
        }
        state
    }
}
