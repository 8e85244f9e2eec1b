//! What the workers share: the table under its lock, the journal behind it, and what is in flight.
//!
//! Invariants: an event is in the table only if the journal took it, in the same order; whoever promises something
//! waits for the journal's sync first; no file of a transfer is touched under the lock.

use std::borrow::Cow;
use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use backhaul_backends::{Interrupt, Registry};
use backhaul_journal::{Journal, Lock, Lsn};

use super::access::Gates;
use super::attempt::Attempt;
use super::completion::Commands;
use super::ready::Ready;
use super::room::{BATCH_MAX, Room};
use super::scratch::Trouble;
use super::uploads::Uploads;
use super::waiting::Asleep;
use super::watch::Observers;
use crate::config::Config;
use crate::environment::Environment;
use crate::error::Error;
use crate::hashed::ById;
use crate::operation::{Completion, Condition, Event, Now, Operation, Phase, TransferId};
use crate::scheduler::{self, Action, Plan, Slots};
use crate::table::Table;
use crate::vault::Vault;

/// Records after which an idle worker tries to shorten the journal again: it may have failed (chosen without measurement).
const SHORTEN_EVERY: u64 = 1_024;
/// Operations that are recorded under one hold of the lock, at most: taking it for each costs as much as the record, and
/// others wait meanwhile.
pub(super) const TOGETHER_MAX: usize = 16;
/// Drafts that are made files in a row (measured with 10,000 files of 1 KiB: 32 to 128 take the same).
pub(super) const WRITTEN_TOGETHER: usize = 64;

pub(crate) struct Core {
    pub(crate) environment: Environment,
    pub(crate) config: Config,
    pub(crate) room: Room,
    pub(crate) state_directory: PathBuf,
    /// Device and inode that it had when it was opened.
    pub(super) place: (u64, u64),
    pub(crate) backends: Registry,
    pub(crate) vault: Vault,
    pub(crate) journal: Journal,
    pub(super) lock: Lock,
    /// Operations cannot be read any more: nothing is recorded then.
    pub(super) trouble: Arc<Trouble>,
    threaded: AtomicBool,
    /// The last record of this engine, where there is one.
    pub(super) last: Mutex<Option<Lsn>>,
    /// Number of the first record that this engine may write.
    pub(super) first_lsn: u64,
    state: Mutex<State>,
    /// Held from the check of a creation to its record, so that no two are accepted for one destination.
    pub(crate) creating: Mutex<()>,
    pub(super) uploads: Mutex<Uploads>,
    /// Work may have come up for the workers, for the publisher; something has changed for those who watch.
    pub(crate) work: Condvar,
    pub(crate) publisher: Condvar,
    pub(crate) watchers: Condvar,
    /// Where those who read files that are fetched meet those who fetch them.
    pub(super) gates: Gates,
}

/// What a state directory holds, opened.
pub(crate) struct Stored {
    pub(crate) directory: PathBuf,
    pub(crate) place: (u64, u64),
    pub(crate) journal: Journal,
    pub(crate) vault: Vault,
    pub(crate) table: Table,
    pub(crate) lock: Lock,
    pub(crate) trouble: Arc<Trouble>,
    /// Number of the next record.
    pub(crate) next_lsn: u64,
}

pub(crate) struct State {
    pub(crate) table: Table,
    pub(crate) attempts: ById<Arc<Attempt>>,
    /// Complete files on the disk that wait for the publisher.
    pub(crate) ready: VecDeque<Ready>,
    /// Complete files that are still in memory.
    pub(crate) drafts: Vec<Ready>,
    pub(super) asleep: Asleep,
    /// Complete files in the hands of the publisher, or of a worker that writes them out.
    pub(crate) publishing: usize,
    /// Directories in which what earlier processes removed stays removed, whatever happens.
    pub(crate) settled: BTreeSet<PathBuf>,
    pub(crate) stopping: bool,
    /// It was at work and is no more: nobody has anything to wait for.
    pub(crate) has_stopped: bool,
    /// What made the engine stop by itself.
    pub(crate) fault: Option<Error>,
    /// Operations that ended in an error since the engine was opened.
    pub(crate) failed: u64,
    /// Operations that ended, however, since the engine was opened.
    pub(crate) ended: u64,
    /// Which ones, where the engine works on a bounded set only, and whether they completed.
    pub(crate) ends: Vec<(TransferId, bool)>,
    /// How many of these those who watch were woken for.
    pub(super) ends_told: usize,
    pub(crate) observers: Observers,
    /// Something was done since memory was given back.
    pub(crate) has_worked: bool,
    /// Operations that an engine for chosen ones works on for others.
    pub(crate) besides: BTreeSet<TransferId>,
    pub(crate) commands: Commands,
    /// When the next request body is to be dropped that nobody goes on with, on the boot-time clock in milliseconds.
    pub(super) uploads_due_ms: Option<u64>,
    /// Number of the record from which on the journal may be shortened again where there is no other work.
    pub(crate) shorten_from: u64,
    /// Room for the bytes of a record: all are made under one lock.
    pub(super) record: Vec<u8>,
}

/// A piece of work for one thread.
pub(crate) enum Work {
    Attempt(Box<Operation>, Arc<Attempt>),
    WriteOut(Vec<Ready>),
    Publish(Vec<Ready>),
    Finish(Box<Operation>),
    Sweep(Box<Operation>),
    Command(Box<Completion>, Interrupt),
    DropUploads,
    /// The journal has grown without any other work.
    Shorten,
}

/// What a thread may take.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Worker,
    Publisher,
}

impl Core {
    pub(crate) fn new(
        environment: Environment,
        config: Config,
        room: Room,
        backends: Registry,
        stored: Stored,
    ) -> Self {
        let Stored {
            directory,
            place,
            journal,
            vault,
            table,
            lock,
            trouble,
            next_lsn,
        } = stored;
        let state = State {
            table,
            attempts: ById::default(),
            ready: VecDeque::new(),
            drafts: Vec::new(),
            asleep: Asleep::default(),
            publishing: 0,
            settled: BTreeSet::new(),
            stopping: false,
            has_stopped: false,
            fault: None,
            failed: 0,
            ended: 0,
            ends: Vec::new(),
            ends_told: 0,
            observers: Observers::default(),
            // Opening is work, too.
            has_worked: true,
            besides: BTreeSet::new(),
            commands: Commands::default(),
            uploads_due_ms: None,
            shorten_from: 0,
            record: Vec::new(),
        };
        Self {
            environment,
            config,
            room,
            state_directory: directory,
            place,
            backends,
            vault,
            journal,
            lock,
            trouble,
            threaded: AtomicBool::new(false),
            last: Mutex::new(None),
            first_lsn: next_lsn,
            state: Mutex::new(state),
            creating: Mutex::new(()),
            uploads: Mutex::default(),
            work: Condvar::new(),
            publisher: Condvar::new(),
            watchers: Condvar::new(),
            gates: Gates::default(),
        }
    }

    pub(crate) fn now(&self) -> Now {
        self.environment.clock.now()
    }

    /// Whether attempts may use threads of their own; a stepped engine uses none.
    pub(crate) fn is_threaded(&self) -> bool {
        self.threaded.load(Ordering::Relaxed)
    }

    pub(crate) fn set_threaded(&self, threaded: bool) {
        self.threaded.store(threaded, Ordering::Relaxed);
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.despite_panic(self.state.lock())
    }

    /// An operation as it is now.
    pub(crate) fn find(&self, id: TransferId) -> Option<Operation> {
        self.state().table.find(id).map(Cow::into_owned)
    }

    /// Stops the engine because it cannot go on. The first cause is kept.
    pub(crate) fn fail(&self, error: Error) {
        self.state().fault.get_or_insert(error);
        self.stop();
    }

    /// Ends all attempts and lets every thread go; what was transferred so far is claimed.
    pub(crate) fn stop(&self) {
        let interrupts: Vec<Interrupt> = {
            let mut state = self.state();
            state.stopping = true;
            state.observers.stopped();
            let attempts = state.attempts.values().map(|attempt| &attempt.interrupt);
            attempts.chain(state.commands.running.values()).cloned().collect()
        };
        for interrupt in interrupts {
            interrupt.raise();
        }
        self.gates.announce_all();
        self.wake_all();
    }

    /// Ends the attempt of one operation, if one runs.
    pub(crate) fn interrupt(&self, id: TransferId) {
        let attempt = self.state().attempts.get(&id).cloned();
        if let Some(attempt) = attempt {
            attempt.interrupt.raise();
        }
    }

    pub(crate) fn wake_all(&self) {
        self.work.notify_all();
        self.publisher.notify_all();
        self.watchers.notify_all();
    }

    /// Waits for work; `None` when the engine stops. Whoever comes with a file that is there hands it over.
    pub(crate) fn next(&self, role: Role, ready: Option<Ready>) -> Option<Work> {
        let mut state = self.state();
        if let Some(ready) = ready {
            self.end_attempt(&mut state, ready.id, Some(ready));
        }
        loop {
            if role == Role::Publisher
                && let Some(until_ms) = self.gathers(&mut state)
            {
                state = self.sleep(state, role, Some(until_ms));
                continue;
            }
            let wake_at_ms = match self.pick(&mut state, role) {
                Ok(work) => return Some(work),
                Err(_) if state.stopping && self.may_leave(&state, role) => return None,
                Err(_) if role == Role::Worker && self.begin_to_shorten(&mut state) => return Some(Work::Shorten),
                Err(wake_at_ms) => wake_at_ms,
            };
            state = self.sleep(state, role, wake_at_ms);
        }
    }

    /// Whether a worker that has nothing else to do is to shorten the journal: what clients change has no work behind it.
    fn begin_to_shorten(&self, state: &mut State) -> bool {
        let next_lsn = self.next_lsn();
        let is_due = next_lsn >= state.shorten_from && self.journal.checkpoint_due();
        if is_due {
            state.shorten_from = next_lsn + SHORTEN_EVERY;
        }
        is_due
    }

    /// Work that is there now, for a stepped engine.
    pub(crate) fn next_now(&self) -> Option<Work> {
        let mut state = self.state();
        if let Ok(work) = self.pick(&mut state, Role::Publisher) {
            return Some(work);
        }
        loop {
            match self.pick(&mut state, Role::Worker) {
                Ok(work) => return Some(work),
                // More waits are over than one decision looks at.
                Err(Some(wake_at_ms)) if wake_at_ms <= self.now().boot_ms => {}
                Err(_) => return None,
            }
        }
    }

    /// Takes a piece of work, or tells when to look again.
    fn pick(&self, state: &mut State, role: Role) -> Result<Work, Option<u64>> {
        if role == Role::Publisher {
            if state.uploads_due_ms.is_some_and(|due_ms| due_ms <= self.now().boot_ms) {
                // It is worked out anew when they are gone.
                state.uploads_due_ms = None;
                return Ok(Work::DropUploads);
            }
            return Self::pick_batch(state).map(Work::Publish).ok_or(state.uploads_due_ms);
        }
        if let Err(error) = self.trouble.check() {
            self.fail_now(state, error);
        }
        if state.stopping {
            return Err(None);
        }
        if state.drafts.len() >= WRITTEN_TOGETHER {
            state.publishing += state.drafts.len();
            // The slot that has become free is somebody else's.
            if state.asleep.workers > 0 {
                self.work.notify_one();
            }
            return Ok(Work::WriteOut(std::mem::take(&mut state.drafts)));
        }
        let now = self.now();
        loop {
            let has_room = state.complete() + state.publishing < self.room.ready_max;
            let jobs_max = if has_room { self.room.jobs_max } else { 0 };
            let slots = |state: &State| Slots {
                jobs_max,
                running: state.attempts.len(),
                commands: state.commands.running.len(),
            };
            let free = slots(state);
            let plan = scheduler::plan(&mut state.table, now, free);
            let Some(&action) = plan.actions.first() else {
                return Err(plan.wake_at_ms);
            };
            match self.take(state, action, now) {
                Ok(None) => {}
                Ok(Some(work)) => {
                    let free = slots(state);
                    // Another worker may sleep without knowing of what is left, or of a moment set since it fell asleep.
                    if state.asleep.workers > 0 && scheduler::plan(&mut state.table, now, free) != Plan::default() {
                        self.work.notify_one();
                    }
                    return Ok(work);
                }
                Err(error) => {
                    self.fail_now(state, error);
                    return Err(None);
                }
            }
        }
    }

    /// The same as [`Core::fail`] under the lock; the worker that goes ends the attempts.
    fn fail_now(&self, state: &mut State, error: Error) {
        state.fault.get_or_insert(error);
        state.stopping = true;
        self.wake_all();
    }

    /// Complete files that wait for the publisher now, if any do. The history is swept before, and none are given where the
    /// journal is to be shortened: a stream of files that never ends must not keep the publisher from either.
    pub(crate) fn take_ready(&self) -> Option<Vec<Ready>> {
        if let Err(error) = self.sweep_history() {
            self.fail(error);
            return None;
        }
        if self.journal.checkpoint_due() {
            return None;
        }
        let mut state = self.state();
        if state.may_publish() {
            Self::pick_batch(&mut state)
        } else {
            None
        }
    }

    fn pick_batch(state: &mut State) -> Option<Vec<Ready>> {
        let files = state.ready.len().min(BATCH_MAX);
        let drafts = state.drafts.len().min(BATCH_MAX - files);
        let batch: Vec<Ready> = state.ready.drain(..files).chain(state.drafts.drain(..drafts)).collect();
        if batch.is_empty() {
            return None;
        }
        state.publishing += batch.len();
        Some(batch)
    }

    /// Takes something into the hands of a worker; nothing where what blocks an operation is still there.
    fn take(&self, state: &mut State, action: Action, now: Now) -> Result<Option<Work>, Error> {
        let id = match action {
            Action::Run(id) => return self.begin_command(state, id).map(Some),
            Action::Start(id) | Action::Finish(id) | Action::Sweep(id) => id,
        };
        // First of all, so that it is unpacked once.
        state.table.set_busy(id, true);
        if let Action::Start(_) = action {
            if self.stays_blocked(&state.table, id, now) {
                state.table.set_busy(id, false);
                state.table.postpone(id, now, self.config.retry.probe_every);
                return Ok(None);
            }
            let attempts = state.table.find(id).map_or(0, |operation| operation.attempts) + 1;
            self.record(state, id, Event::Claimed { attempts })?;
        }
        let operation = state.table.find(id).map(Cow::into_owned).ok_or(Error::UnknownId(id))?;
        Ok(Some(match action {
            Action::Start(_) => {
                let attempt = Arc::new(Attempt::new(&operation));
                state.attempts.insert(id, Arc::clone(&attempt));
                state.table.set_running(id, true);
                state.observers.attempts_changed();
                state.has_worked = true;
                Work::Attempt(Box::new(operation), attempt)
            }
            Action::Finish(_) => Work::Finish(Box::new(operation)),
            _ => Work::Sweep(Box::new(operation)),
        }))
    }

    /// Looks at the condition that blocks an operation, without spending an attempt or a record on it.
    fn stays_blocked(&self, table: &Table, id: TransferId, now: Now) -> bool {
        let Some(operation) = table.find(id) else { return false };
        let Phase::Blocked {
            condition,
            room_bytes,
            try_at,
            ..
        } = operation.phase
        else {
            return false;
        };
        // What the look cannot see, only an attempt can find out.
        if try_at.boot_ms() <= now.boot_ms {
            return false;
        }
        match condition {
            Condition::NoNetwork => !self.environment.network.is_online(),
            Condition::DiskFull => {
                let available = self.environment.storage.available_bytes(operation.spec.directory());
                available.is_ok_and(|available| available < operation.room_needed(room_bytes))
            }
        }
    }

    /// An attempt has come to nothing more than its claims.
    pub(crate) fn attempt_is_over(&self, id: TransferId) {
        self.gates.hide(id);
        self.end_attempt(&mut self.state(), id, None);
    }

    /// An attempt is over; its slot is free. The operation stays in hand where it goes on to be published.
    pub(crate) fn end_attempt(&self, state: &mut State, id: TransferId, ready: Option<Ready>) {
        state.attempts.remove(&id);
        state.table.set_running(id, false);
        state.observers.attempts_changed();
        match ready {
            Some(ready) if ready.part.is_draft() => state.drafts.push(ready),
            Some(ready) => state.ready.push_back(ready),
            None => state.table.set_busy(id, false),
        }
        self.tell(state);
        // It also waits for the last attempt.
        self.wake_publisher(state);
    }

    /// Drafts have become files, which the publisher goes on with.
    pub(crate) fn hand_on(&self, written: Vec<Ready>) {
        let mut state = self.state();
        state.publishing -= written.len();
        state.ready.extend(written);
        self.wake_publisher(&state);
    }

    fn wake_publisher(&self, state: &State) {
        if state.asleep.publisher && (state.may_publish() || state.asleep.gathering_since_ms.is_none()) {
            self.publisher.notify_one();
        }
    }

    /// Operations leave the hands of a worker or of the publisher.
    pub(crate) fn let_go(&self, ids: &[TransferId], published: usize) {
        for id in ids {
            self.gates.hide(*id);
        }
        for some in ids.chunks(TOGETHER_MAX) {
            let table = &mut self.state().table;
            for id in some {
                table.set_busy(*id, false);
            }
        }
        let mut state = self.state();
        state.publishing -= published;
        self.tell(&mut state);
        if state.asleep.workers > 0 {
            drop(state);
            self.work.notify_one();
        }
    }

    /// Nothing is left that could go on by itself, of what this engine is there for.
    pub(crate) fn is_idle(state: &State) -> bool {
        let is_idle = state.table.is_idle()
            && state.attempts.is_empty()
            && state.complete() == 0
            && state.publishing == 0
            && state.commands.running.is_empty();
        // What it works on for others besides does not keep it.
        is_idle || (!state.besides.is_empty() && state.is_at_rest_but_for_others())
    }
}
