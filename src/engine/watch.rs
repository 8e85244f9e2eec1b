//! Who looks on: which operations and completion groups have changed since an observer looked last.
//!
//! An engine never waits for an observer. What changes is noted once for each of them, however often it changes; an
//! observer that does not look is told that it missed something, and reads everything again from where it stood.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::Engine;
use super::core::State;
use crate::operation::{CompletionGroupId, TransferId};

/// Changes noted for one observer at most; with more than that it has to read all again.
const NOTED_MAX: usize = 4_096;

/// What has changed, or is gone. Completion groups, which are few, are told first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Changed {
    CompletionGroup(CompletionGroupId),
    Operation(TransferId),
}

/// What has changed since an observer looked last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Noted {
    /// Each one once.
    pub(crate) changed: BTreeSet<Changed>,
    /// There were too many of them; `changed` is empty.
    pub(crate) overflowed: bool,
    /// An attempt began or ended: whoever shows progress has to look how many run.
    pub(crate) attempts: bool,
    /// The engine has stopped: nothing changes any more.
    pub(crate) stopped: bool,
}

impl Noted {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What was noted later comes on top.
    pub(crate) fn add(&mut self, later: Self) {
        self.changed.extend(later.changed);
        self.overflowed |= later.overflowed || self.changed.len() > 2 * NOTED_MAX;
        self.attempts |= later.attempts;
        self.stopped |= later.stopped;
    }

    /// As many of them as are told at once.
    pub(crate) fn take_part(&mut self, max: usize) -> Vec<Changed> {
        let mut part = Vec::new();
        while part.len() < max
            && let Some(changed) = self.changed.pop_first()
        {
            part.push(changed);
        }
        part
    }
}

/// One that looks on. Dropping it ends that.
pub(crate) struct Observer {
    noted: Mutex<Noted>,
    changed: Condvar,
    /// Called at the first change after a look, under the engine's lock: it must not block.
    wake: Option<Box<dyn Fn() + Send + Sync>>,
}

impl Observer {
    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has changed since the last call; never blocks.
    pub(crate) fn take(&self) -> Noted {
        std::mem::take(&mut *self.lock())
    }

    /// The same, after waiting until something has, or until the time is over.
    pub(crate) fn wait(&self, time: Option<Duration>) -> Noted {
        let mut noted = self.lock();
        if noted.is_empty() {
            noted = if let Some(time) = time {
                let waited = self.changed.wait_timeout_while(noted, time, |noted| noted.is_empty());
                waited.unwrap_or_else(PoisonError::into_inner).0
            } else {
                let waited = self.changed.wait_while(noted, |noted| noted.is_empty());
                waited.unwrap_or_else(PoisonError::into_inner)
            };
        }
        std::mem::take(&mut *noted)
    }

    fn note(&self, note: impl FnOnce(&mut Noted)) {
        let mut noted = self.lock();
        let is_first = noted.is_empty();
        note(&mut noted);
        let wakes = is_first && !noted.is_empty();
        drop(noted);
        if wakes {
            self.changed.notify_all();
            if let Some(wake) = &self.wake {
                wake();
            }
        }
    }
}

/// All observers of an engine.
#[derive(Default)]
pub(crate) struct Observers(Vec<Weak<Observer>>);

impl Observers {
    fn each(&mut self, note: impl Fn(&mut Noted)) {
        self.0.retain(|observer| match observer.upgrade() {
            Some(observer) => {
                observer.note(&note);
                true
            }
            None => false,
        });
    }

    /// An operation or a completion group has changed.
    pub(crate) fn changed(&mut self, changed: Changed) {
        if self.0.is_empty() {
            return;
        }
        self.each(|noted| {
            if noted.changed.len() < NOTED_MAX {
                noted.changed.insert(changed);
            } else {
                noted.overflowed = true;
            }
            if noted.overflowed {
                noted.changed.clear();
            }
        });
    }

    /// An attempt began or ended.
    pub(crate) fn attempts_changed(&mut self) {
        self.each(|noted| noted.attempts = true);
    }

    /// The engine stops.
    pub(crate) fn stopped(&mut self) {
        self.each(|noted| noted.stopped = true);
    }
}

impl State {
    /// How many attempts run.
    pub(crate) fn running(&self) -> usize {
        self.attempts.len()
    }

    /// The engine stops, or has stopped.
    pub(super) fn has_nothing_to_come(&self) -> bool {
        self.stopping || self.has_stopped
    }
}

impl Engine {
    /// Begins to look on. `wake` is called at the first change after each look.
    pub(crate) fn observe(&self, wake: Option<Box<dyn Fn() + Send + Sync>>) -> Arc<Observer> {
        let observer = Arc::new(Observer {
            noted: Mutex::default(),
            changed: Condvar::new(),
            wake,
        });
        let mut state = self.core.state();
        state.observers.0.push(Arc::downgrade(&observer));
        if state.has_nothing_to_come() {
            state.observers.stopped();
        }
        observer
    }

    /// Where those stand that have been told everything up to now: behind what is durable. A crash would give the numbers
    /// of later records to others, and who stood behind them would miss these.
    pub(crate) fn cursor(&self) -> u64 {
        // Under the lock: what has been recorded has been noted, too.
        let _state = self.core.state();
        self.core.next_lsn().min(self.core.journal.durable().0)
    }

    /// How many attempts run now.
    pub(crate) fn running_count(&self) -> usize {
        self.core.state().running()
    }
}
