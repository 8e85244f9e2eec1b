//! What of a running transfer is durable: watermark, fdatasync, progress record, in this order and no other.
//!
//! Invariants: a claim is appended only for bytes whose sync returned `Ok` after they were written (R1, R2); the first
//! claim of a part also waits for the directory entry (R3); reading stops where the unclaimed bytes reach the window,
//! by size or by age, so that a crash costs at most one window. Bytes that make a file whole are claimed by nobody.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backhaul_journal::steps;

use super::access::Gate;
use super::attempt::Attempt;
use super::core::Core;
use super::fault::Fault;
use super::part::Part;
use crate::operation::{Claim, Event, Response, Shared, Stretch, TransferId};
use crate::pieces::Pieces;

/// The claims of one attempt.
pub(crate) struct Ledger {
    core: Arc<Core>,
    basis: Basis,
    state: Mutex<State>,
    changed: Condvar,
}

/// What all claims of one attempt share.
pub(crate) struct Basis {
    pub(crate) id: TransferId,
    pub(crate) generation: u32,
    pub(crate) part: Part,
    pub(crate) directory: PathBuf,
    pub(crate) response: Shared<Response>,
    pub(crate) attempt: Arc<Attempt>,
    /// Those who read what is there meanwhile.
    pub(super) gate: Arc<Gate>,
}

struct State {
    /// What is written to the part file.
    pieces: Pieces,
    claimed_bytes: u64,
    /// Some bytes continue others without proof.
    on_trust: bool,
    /// When the first unclaimed byte was written, on the boot-time clock.
    unclaimed_since_ms: Option<u64>,
    name_is_durable: bool,
    /// The claimer sleeps. Otherwise it looks by itself before it does, and waking it costs a system call.
    claimer_sleeps: bool,
    claims: Claims,
    /// Why they failed; until somebody took it.
    fault: Option<Fault>,
}

/// Whether claims are made.
#[derive(Clone, Copy, PartialEq)]
enum Claims {
    Open,
    /// None could be made any more.
    Failed,
    Closed,
}

/// What is written to the part file at a moment.
struct Watermark {
    received_bytes: u64,
    held: (u64, u32, Vec<Stretch>),
    on_trust: bool,
    name_is_durable: bool,
}

impl State {
    fn watermark(&self) -> Watermark {
        Watermark {
            received_bytes: self.pieces.received_bytes(),
            held: self.pieces.held(),
            on_trust: self.on_trust,
            name_is_durable: self.name_is_durable,
        }
    }

    fn unclaimed_bytes(&self) -> u64 {
        self.pieces.received_bytes() - self.claimed_bytes
    }
}

impl Ledger {
    /// A ledger for a part of which what `pieces` hold is claimed already.
    pub(crate) fn new(core: &Arc<Core>, basis: Basis, pieces: Pieces, on_trust: bool) -> Arc<Self> {
        let claimed_bytes = pieces.received_bytes();
        let state = State {
            pieces,
            claimed_bytes,
            on_trust,
            unclaimed_since_ms: None,
            name_is_durable: claimed_bytes > 0,
            claimer_sleeps: false,
            claims: Claims::Open,
            fault: None,
        };
        let state = Mutex::new(state);
        Arc::new(Self {
            core: Arc::clone(core),
            basis,
            state,
            changed: Condvar::new(),
        })
    }

    /// Does something with the pieces.
    pub(crate) fn with_pieces<T>(&self, act: impl FnOnce(&mut Pieces) -> T) -> T {
        act(&mut self.state().pieces)
    }

    /// Whether some bytes rest on a digest alone.
    pub(crate) fn is_on_trust(&self) -> bool {
        self.state().on_trust
    }

    /// From now on some bytes rest on a digest alone.
    pub(crate) fn note_trust(&self) {
        self.state().on_trust = true;
    }

    /// Tells that a piece is there up to `next`, with this CRC-32. Returns when the window has room again, or never will
    /// have: then one connection gets the fault, and the others hear that they are superseded.
    pub(crate) fn advance(&self, piece: usize, next: u64, crc32: u32) -> Result<(), Fault> {
        let mut state = self.state();
        state.pieces.advance(piece, next, crc32);
        self.basis.gate.announce();
        // The claimer sleeps without end while all is claimed; the first unclaimed byte starts its clock.
        let is_first = state.unclaimed_since_ms.is_none();
        state.unclaimed_since_ms.get_or_insert_with(|| self.now_ms());
        if !self.core.is_threaded() {
            let is_due = self.claim_is_due(&state);
            drop(state);
            return if is_due { self.claim() } else { Ok(()) };
        }
        // What is whole is not claimed any more: nobody else would wake the connections that wait for a claim.
        if state.pieces.is_complete() || state.claimer_sleeps && (is_first || self.claim_is_due(&state)) {
            self.changed.notify_all();
        }
        while state.claims == Claims::Open && self.window_is_full(&state) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.claims == Claims::Failed {
            return Err(state.fault.take().unwrap_or(Fault::Superseded));
        }
        Ok(())
    }

    /// Claims everything that was written: syncs the data, then records it, durably.
    pub(crate) fn claim(&self) -> Result<(), Fault> {
        let mut watermark = {
            let state = self.state();
            if state.unclaimed_bytes() == 0 {
                return Ok(());
            }
            state.watermark()
        };
        let sampled_at_ms = self.now_ms();
        self.sync_data(watermark.name_is_durable)?;
        if !steps::is_taken("watermark before the sync of the data") {
            watermark = self.state().watermark();
        }
        let (durable_bytes, crc32, beyond) = watermark.held;
        let claim = Claim {
            generation: self.basis.generation,
            durable_bytes,
            crc32,
            validators: self.basis.response.validators.clone(),
            beyond: (!beyond.is_empty()).then_some(beyond),
            on_trust: watermark.on_trust.then_some(true),
            origin: self.basis.response.origin,
        };
        let claim = Shared::new(claim);
        let progressed = Event::Progressed(claim.clone());
        let lsn = self.core.record(&mut self.core.state(), self.basis.id, progressed)?;
        if steps::is_taken("sync of a claim") {
            self.core.sync(lsn)?;
        }
        self.basis.attempt.set_durable(Some(claim));
        let mut state = self.state();
        state.claimed_bytes = watermark.received_bytes;
        state.name_is_durable = true;
        // Bytes that came in while the sync ran are younger than the sample.
        state.unclaimed_since_ms = (state.unclaimed_bytes() > 0).then_some(sampled_at_ms);
        self.changed.notify_all();
        Ok(())
    }

    /// Makes durable what was written, and the name of the part file where it is new.
    fn sync_data(&self, name_is_durable: bool) -> Result<(), Fault> {
        let file = &self.basis.part.file;
        if steps::is_taken("sync of the data before a claim") {
            let synced = if name_is_durable {
                file.sync_data()
            } else {
                file.sync_all()
            };
            synced.map_err(|error| Fault::io("sync", &self.basis.part.path, &error))?;
        }
        if !name_is_durable && steps::is_taken("directory sync before a part's first claim") {
            let storage = &self.core.environment.storage;
            let synced = storage.sync_directory(&self.basis.directory);
            synced.map_err(|error| Fault::io("sync", &self.basis.directory, &error))?;
        }
        Ok(())
    }

    /// Claims whenever it is due, until closed. Runs on a thread of its own, so that reading goes on meanwhile. Whoever waits
    /// for a claim waits for nothing else: however this ends, it tells them.
    pub(crate) fn claim_until_closed(&self) {
        let claimed = catch_unwind(AssertUnwindSafe(|| self.claim_while_open()));
        // What it panicked with has been printed.
        let claimed = claimed.unwrap_or_else(|_| Err(self.panicked()));
        let Err(fault) = claimed else { return };
        let mut state = self.state();
        state.claims = Claims::Failed;
        state.fault = Some(fault);
        drop(state);
        self.changed.notify_all();
        self.core.interrupt(self.basis.id);
    }

    fn panicked(&self) -> Fault {
        let path = self.basis.part.path.display();
        Fault::Local(format!(
            "cannot claim what was written to '{path}': the thread that does so panicked, which is a defect of this program; \
             report it with what was printed"
        ))
    }

    fn claim_while_open(&self) -> Result<(), Fault> {
        loop {
            let mut state = self.state();
            while state.claims != Claims::Closed && !self.claim_is_due(&state) {
                state.claimer_sleeps = true;
                state = match self.until_due(&state) {
                    Some(wait) => {
                        self.changed
                            .wait_timeout(state, wait)
                            .unwrap_or_else(PoisonError::into_inner)
                            .0
                    }
                    None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                };
                state.claimer_sleeps = false;
            }
            if state.claims == Claims::Closed {
                return Ok(());
            }
            drop(state);
            self.claim()?;
        }
    }

    /// Ends [`Ledger::claim_until_closed`]; gives back the fault that ended it before, if one did.
    pub(crate) fn close(&self) -> Option<Fault> {
        let mut state = self.state();
        state.claims = Claims::Closed;
        self.changed.notify_all();
        state.fault.take()
    }

    /// What is whole goes to the publisher, whose intent vouches for all of it: a claim before that would only cost.
    fn claim_is_due(&self, state: &State) -> bool {
        let window = &self.core.config.window;
        !state.pieces.is_complete() && window.is_claim_due(state.unclaimed_bytes(), self.unclaimed_age(state))
    }

    fn window_is_full(&self, state: &State) -> bool {
        let window = &self.core.config.window;
        !state.pieces.is_complete() && window.is_full(state.unclaimed_bytes(), self.unclaimed_age(state))
    }

    fn unclaimed_age(&self, state: &State) -> Option<Duration> {
        state
            .unclaimed_since_ms
            .map(|since_ms| Duration::from_millis(self.now_ms().saturating_sub(since_ms)))
    }

    /// How long until the age of the unclaimed bytes makes a claim due; `None` where it never will.
    fn until_due(&self, state: &State) -> Option<Duration> {
        let due = self.core.config.window.claim_after;
        let age = self.unclaimed_age(state).filter(|_| !state.pieces.is_complete());
        age.map(|age| due.saturating_sub(age).max(Duration::from_millis(1)))
    }

    fn now_ms(&self) -> u64 {
        self.core.now().boot_ms
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use backhaul_backends::{MemoryBackend, Resource, WebErrorStatus};
    use backhaul_journal::simulation::{Call, SimDisk};

    use super::super::attempt::Attempt;
    use super::super::part::Part;
    use super::super::{Engine, NewDownload, OperationView, Until};
    use super::{Basis, Ledger};
    use crate::config::{Config, Window};
    use crate::environment::Environment;
    use crate::error::Error;
    use crate::operation::{Response, Shared, TransferStatus};
    use crate::pieces::Pieces;

    #[test]
    fn who_waits_for_a_claim_goes_on_when_another_connection_brings_the_rest() {
        let home = tempfile::tempdir().unwrap();
        let window = Window {
            claim_bytes: 1,
            unclaimed_bytes_max: 1,
            ..Window::default()
        };
        let config = Config {
            window,
            ..Config::default()
        };
        let backends = vec![Arc::new(MemoryBackend::new()) as _];
        let engine = Engine::open(&home.path().join("state"), config, Environment::system(), backends).unwrap();
        let held = NewDownload {
            url: "mem://host/0".into(),
            destination: home.path().join("0"),
            hold: true,
            ..NewDownload::default()
        };
        let id = engine.create(&[held]).unwrap()[0];
        let core = Arc::clone(&engine.core);
        core.set_threaded(true);
        let basis = Basis {
            id,
            generation: 0,
            part: Part::create(&core.environment.storage, home.path().join("part")).unwrap(),
            directory: home.path().to_path_buf(),
            response: Shared::new(Response::of("mem://host/0")),
            attempt: Arc::new(Attempt::new(&core.find(id).unwrap())),
            gate: core.gates.gate(id),
        };
        // Two pieces of one byte each, and nobody who claims.
        let mut pieces = Pieces::new(0, 0, &[], Some(2));
        pieces.spread(2, 1);
        let ledger = Ledger::new(&core, basis, pieces, false);
        let (done, outcome) = channel();
        let first = Arc::clone(&ledger);
        std::thread::spawn(move || done.send(first.advance(0, 1, 0).is_ok()));
        // It has the lock from there on until it waits.
        while ledger.with_pieces(|pieces| pieces.received_bytes()) == 0 {
            std::thread::yield_now();
        }
        ledger.advance(1, 2, 0).unwrap();
        assert_eq!(outcome.recv_timeout(Duration::from_secs(60)), Ok(true));
    }

    /// What comes of a download whose claimer panics at the sync of its data, so often: what the operation is then, what a
    /// read brought that waited for its last bytes, and how the run ended.
    fn after_panics(panics_max: u64) -> (OperationView, Result<Vec<u8>, Error>, Result<(), Error>) {
        let disk = SimDisk::new();
        disk.put_directory(Path::new("/data"));
        let mut config = Config {
            window: Window {
                claim_bytes: 8 << 10,
                unclaimed_bytes_max: 8 << 10,
                short_path_bytes_max: 0,
                ..Window::default()
            },
            buffer_bytes: 4 << 10,
            ..Config::default()
        };
        config.retry.delay_first = Duration::from_millis(1);
        config.retry.delay_max = Duration::from_millis(8);
        let memory = MemoryBackend::new();
        memory.put("mem://host/0", Resource::new(vec![1; 64 << 10], "\"1\""));
        let environment = Environment {
            storage: disk.storage(),
            ..Environment::system()
        };
        let engine = Engine::open(Path::new("/state"), config, environment, vec![Arc::new(memory)]).unwrap();
        let download = NewDownload {
            url: "mem://host/0".into(),
            destination: "/data/0".into(),
            ..NewDownload::default()
        };
        let (id, engine) = (engine.create(&[download]).unwrap()[0], Arc::new(engine));
        let panics = AtomicU64::new(0);
        disk.fail_each_with(move |call, path| {
            let is_claim = call == Call::Sync && path.starts_with("/data");
            let is_due = is_claim && std::thread::current().name() == Some("claimer");
            assert!(
                !is_due || panics.fetch_add(1, Ordering::SeqCst) >= panics_max,
                "a panic that is asked for"
            );
            None::<std::io::Error>
        });
        let (told, read) = channel();
        let reader = Arc::clone(&engine);
        std::thread::spawn(move || told.send(reader.read_at(id, (64 << 10) - 10, 10, Duration::from_secs(600))));
        let (done, ran) = channel();
        let running = Arc::clone(&engine);
        std::thread::spawn(move || done.send(running.run(Until::Idle, None, |_| ())));
        let ran = ran.recv_timeout(Duration::from_secs(60)).unwrap();
        let read = read.recv_timeout(Duration::from_secs(60)).unwrap();
        (engine.view(id).unwrap(), read.map(|outcome| outcome.bytes), ran)
    }

    #[test]
    fn a_claimer_that_panics_each_time_fails_its_download_and_whoever_waits_for_it_is_told() {
        let (view, read, ran) = after_panics(u64::MAX);
        ran.unwrap();
        let error = view.error.unwrap();
        assert_eq!((view.status, view.attempts), (TransferStatus::Error, 2));
        assert_eq!(error.status, WebErrorStatus::FILE_ACCESS);
        assert!(
            error.message.starts_with("cannot claim what was written to '/data/"),
            "{}",
            error.message
        );
        assert!(matches!(read, Err(Error::Unsuccessful { .. })), "{read:?}");
    }

    #[test]
    fn after_a_claimer_that_panics_once_the_next_attempt_brings_the_file_and_whoever_waits_for_it_has_it() {
        let (view, read, ran) = after_panics(1);
        ran.unwrap();
        assert_eq!((view.status, view.attempts), (TransferStatus::Completed, 2));
        assert_eq!(read.unwrap(), [1; 10]);
    }

    #[test]
    fn whoever_reads_and_whoever_claims_never_sleep_at_the_same_time_for_ever() {
        const FILES: usize = 16;
        let home = tempfile::tempdir().unwrap();
        // What is due is at once too much to read on, so that each waits for the other all the time.
        let window = Window {
            claim_bytes: 8 << 10,
            claim_after: Duration::from_secs(3600),
            unclaimed_bytes_max: 8 << 10,
            unclaimed_age_max: Duration::from_secs(3600),
            short_path_bytes_max: 0,
        };
        let config = Config {
            window,
            jobs_max: 8,
            buffer_bytes: 4 << 10,
            ..Config::default()
        };
        let memory = MemoryBackend::new();
        let files: Vec<NewDownload> = (0..FILES)
            .map(|number| {
                let url = format!("mem://host/{number}");
                memory.put(&url, Resource::new(vec![1; 128 << 10], "\"1\""));
                NewDownload {
                    url,
                    destination: home.path().join(number.to_string()),
                    ..NewDownload::default()
                }
            })
            .collect();
        let backends = vec![Arc::new(memory) as _];
        let engine = Engine::open(&home.path().join("state"), config, Environment::system(), backends).unwrap();
        let ids = engine.create(&files).unwrap();
        let engine = Arc::new(engine);
        let (done, outcome) = channel();
        let running = Arc::clone(&engine);
        std::thread::spawn(move || done.send(running.run(Until::Idle, None, |_| ())));
        outcome.recv_timeout(Duration::from_secs(120)).unwrap().unwrap();
        for id in ids {
            assert_eq!(engine.view(id).unwrap().status, TransferStatus::Completed);
        }
    }
}
