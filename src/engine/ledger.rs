//! What of a running transfer is durable: watermark, fdatasync, progress record, in this order and no other.
//!
//! Invariants: a claim is appended only for bytes whose sync returned `Ok` after they were written (R1, R2); the first
//! claim of a part also waits for the directory entry (R3); reading stops where the unclaimed bytes reach the window,
//! by size or by age, so that a crash costs at most one window.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backhaul_journal::steps;

use super::core::Core;
use super::fault::Fault;
use super::part::Part;
use crate::operation::{Claim, Event, Response, Shared, TransferId, millis};

/// The claims of one attempt.
pub(crate) struct Ledger {
    core: Arc<Core>,
    id: TransferId,
    generation: u32,
    part: Part,
    directory: PathBuf,
    response: Shared<Response>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Written to the part file, with their CRC-32.
    received_bytes: u64,
    crc32: u32,
    claimed_bytes: u64,
    /// When the first unclaimed byte was written, on the boot-time clock.
    unclaimed_since_ms: Option<u64>,
    name_is_durable: bool,
    closed: bool,
    fault: Option<Fault>,
}

impl Ledger {
    /// A ledger for a part of which `claimed_bytes` are claimed already.
    pub(crate) fn new(
        core: &Arc<Core>,
        id: TransferId,
        generation: u32,
        part: Part,
        directory: PathBuf,
        response: Shared<Response>,
        claimed_bytes: u64,
    ) -> Arc<Self> {
        let state = State {
            received_bytes: claimed_bytes,
            crc32: 0,
            claimed_bytes,
            unclaimed_since_ms: None,
            name_is_durable: claimed_bytes > 0,
            closed: false,
            fault: None,
        };
        let state = Mutex::new(state);
        Arc::new(Self {
            core: Arc::clone(core),
            id,
            generation,
            part,
            directory,
            response,
            state,
            changed: Condvar::new(),
        })
    }

    /// Tells that the part now holds `received_bytes` with this CRC-32. Returns when the window has room again.
    pub(crate) fn advance(&self, received_bytes: u64, crc32: u32) -> Result<(), Fault> {
        let mut state = self.state();
        state.received_bytes = received_bytes;
        state.crc32 = crc32;
        // The claimer sleeps without end while all is claimed; the first unclaimed byte starts its clock.
        let is_first = state.unclaimed_since_ms.is_none();
        state.unclaimed_since_ms.get_or_insert_with(|| self.now_ms());
        if !self.core.is_threaded() {
            let is_due = self.claim_is_due(&state);
            drop(state);
            return if is_due { self.claim() } else { Ok(()) };
        }
        if is_first || self.claim_is_due(&state) {
            self.changed.notify_all();
        }
        while state.fault.is_none() && self.window_is_full(&state) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.fault.take().map_or(Ok(()), Err)
    }

    /// Claims everything that was written: syncs the data, then records it, durably.
    pub(crate) fn claim(&self) -> Result<(), Fault> {
        let mut watermark = {
            let state = self.state();
            if state.received_bytes == state.claimed_bytes {
                return Ok(());
            }
            (state.received_bytes, state.crc32, state.name_is_durable)
        };
        let sampled_at_ms = self.now_ms();
        self.sync_data(watermark.2)?;
        if !steps::is_taken("watermark before the sync of the data") {
            let state = self.state();
            watermark = (state.received_bytes, state.crc32, state.name_is_durable);
        }
        let (received_bytes, crc32, _) = watermark;
        let claim = Claim {
            generation: self.generation,
            durable_bytes: received_bytes,
            crc32,
            validators: self.response.validators.clone(),
            origin: self.response.origin,
        };
        let progressed = Event::Progressed(Shared::new(claim));
        let lsn = self.core.record(&mut self.core.state(), self.id, progressed)?;
        if steps::is_taken("sync of a claim") {
            self.core.sync(lsn)?;
        }
        let mut state = self.state();
        state.claimed_bytes = received_bytes;
        state.name_is_durable = true;
        // Bytes that came in while the sync ran are younger than the sample.
        state.unclaimed_since_ms = (state.received_bytes > received_bytes).then_some(sampled_at_ms);
        self.changed.notify_all();
        Ok(())
    }

    /// Makes durable what was written, and the name of the part file where it is new.
    fn sync_data(&self, name_is_durable: bool) -> Result<(), Fault> {
        let file = &self.part.file;
        if steps::is_taken("sync of the data before a claim") {
            let synced = if name_is_durable {
                file.sync_data()
            } else {
                file.sync_all()
            };
            synced.map_err(|error| Fault::io("sync", &self.part.path, &error))?;
        }
        if !name_is_durable && steps::is_taken("directory sync before a part's first claim") {
            let storage = &self.core.environment.storage;
            let synced = storage.sync_directory(&self.directory);
            synced.map_err(|error| Fault::io("sync", &self.directory, &error))?;
        }
        Ok(())
    }

    /// Claims whenever it is due, until closed. Runs on a thread of its own, so that reading goes on meanwhile.
    pub(crate) fn claim_until_closed(&self) {
        loop {
            let mut state = self.state();
            while !state.closed && !self.claim_is_due(&state) {
                state = match self.until_due(&state) {
                    Some(wait) => {
                        self.changed
                            .wait_timeout(state, wait)
                            .unwrap_or_else(PoisonError::into_inner)
                            .0
                    }
                    None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                };
            }
            if state.closed {
                return;
            }
            drop(state);
            if let Err(fault) = self.claim() {
                self.state().fault = Some(fault);
                self.core.interrupt(self.id);
                self.changed.notify_all();
                return;
            }
        }
    }

    /// Ends [`Ledger::claim_until_closed`]; gives back the fault that ended it before, if one did.
    pub(crate) fn close(&self) -> Option<Fault> {
        let mut state = self.state();
        state.closed = true;
        self.changed.notify_all();
        state.fault.take()
    }

    fn claim_is_due(&self, state: &State) -> bool {
        let window = &self.core.config.window;
        state.received_bytes - state.claimed_bytes >= window.claim_bytes
            || self
                .unclaimed_age(state)
                .is_some_and(|age_ms| age_ms >= millis(window.claim_after))
    }

    fn window_is_full(&self, state: &State) -> bool {
        let window = &self.core.config.window;
        state.received_bytes - state.claimed_bytes >= window.unclaimed_bytes_max
            || self
                .unclaimed_age(state)
                .is_some_and(|age_ms| age_ms >= millis(window.unclaimed_age_max))
    }

    fn unclaimed_age(&self, state: &State) -> Option<u64> {
        state
            .unclaimed_since_ms
            .map(|since_ms| self.now_ms().saturating_sub(since_ms))
    }

    /// How long until the age of the unclaimed bytes makes a claim due.
    fn until_due(&self, state: &State) -> Option<Duration> {
        let due_ms = millis(self.core.config.window.claim_after);
        self.unclaimed_age(state)
            .map(|age_ms| Duration::from_millis(due_ms.saturating_sub(age_ms).max(1)))
    }

    fn now_ms(&self) -> u64 {
        self.core.now().boot_ms
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
