//! Ends the life of a client at a moment that its server sees: after so many requests, or after so many bytes.

use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use backhaul::{Environment, read_catalog};
use rustix::process::{Pid, Signal, kill_process};

/// How long the server holds back, before it kills, for the client to claim what it has.
const CLAIM_PATIENCE: Duration = Duration::from_millis(150);

/// When the life of a client ends: at the request or at the byte of a body with this number, counted over all lives.
#[derive(Clone, Debug)]
pub(crate) struct Kill {
    pub(crate) at: Moment,
    /// First the client may claim what it has.
    pub(crate) after_a_claim: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment {
    Request(usize),
    Byte(u64),
    /// Somebody is at it already.
    Now,
}

impl Kill {
    /// Counted on from what there was before.
    pub(crate) fn counted_from(&self, requests: usize, bytes: u64) -> Self {
        let at = match self.at {
            Moment::Request(number) => Moment::Request(requests + number),
            Moment::Byte(number) => Moment::Byte(bytes + number),
            Moment::Now => Moment::Now,
        };
        Self { at, ..self.clone() }
    }
}

/// A client whose life may be ended.
#[derive(Clone)]
pub(crate) struct Victim {
    pub(crate) end: End,
    /// Its state directory.
    pub(crate) state: PathBuf,
}

/// How a life is ended.
#[derive(Clone)]
pub(crate) enum End {
    /// The process is killed.
    Process(Pid),
    /// Whoever listens at the other side does it.
    Bell(Sender<()>),
}

/// Who ends lives.
pub(crate) struct Killer {
    state: Mutex<State>,
    /// Where `read_catalog` looks.
    environment: Environment,
}

#[derive(Default)]
struct State {
    armed: Option<(Kill, Victim)>,
    kills: u32,
}

impl Killer {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            environment: Environment::system(),
        }
    }

    pub(crate) fn arm(&self, kill: Kill, victim: Victim) {
        self.state().armed = Some((kill, victim));
    }

    /// From now on no life is ended; a process may be reaped.
    pub(crate) fn disarm(&self) {
        self.state().armed = None;
    }

    /// Lives that were ended.
    pub(crate) fn kills(&self) -> u32 {
        self.state().kills
    }

    /// Ends the life for which it is time, when there were so many requests and bytes.
    pub(crate) fn kill_if_due(&self, requests: usize, bytes: u64) {
        let Some((kill, victim)) = self.state().take_due(requests, bytes) else {
            return;
        };
        if kill.after_a_claim {
            self.await_claim(&victim.state);
        }
        let mut state = self.state();
        // Where it was disarmed meanwhile, the process has ended by itself, and its number may be another's.
        if state.armed.take().is_some() {
            let has_ended = match victim.end {
                End::Process(pid) => kill_process(pid, Signal::KILL).is_ok(),
                End::Bell(bell) => bell.send(()).is_ok(),
            };
            state.kills += u32::from(has_ended);
        }
    }

    /// Waits for the journal to hold a claim that it did not hold before. Where nothing is left to claim, it takes no
    /// harm to go on.
    fn await_claim(&self, directory: &Path) {
        let done = || {
            let catalog = read_catalog(directory, &self.environment).ok()?;
            catalog.operations.first().map(|view| view.bytes_done)
        };
        let (before, started) = (done(), Instant::now());
        while started.elapsed() < CLAIM_PATIENCE && done() <= before {
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whose life is to end now; said once.
    fn take_due(&mut self, requests: usize, bytes: u64) -> Option<(Kill, Victim)> {
        let (kill, victim) = self.armed.as_mut()?;
        let is_due = match kill.at {
            Moment::Request(number) => requests >= number,
            Moment::Byte(number) => bytes >= number,
            Moment::Now => false,
        };
        let due = is_due.then(|| (kill.clone(), victim.clone()))?;
        kill.at = Moment::Now;
        Some(due)
    }
}
