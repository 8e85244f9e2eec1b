//! Signals: the first asks for an end, the second makes one.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use super::Failure;
use crate::threads::{self, Role};
use crate::{Engine, Error};

/// Notes SIGINT and SIGTERM, and stops an engine on them; a second signal ends the process, which loses one window at most.
/// Until the signals are heeded the first one ends it: what it does until then may wait for others for long.
pub(super) struct SignalWatch {
    handle: Handle,
    thread: std::thread::JoinHandle<()>,
    noted: Arc<Noted>,
}

#[derive(Default)]
struct Noted {
    signal: AtomicI32,
    /// Somebody looks whether one came.
    is_heeded: AtomicBool,
    engine: Mutex<Weak<Engine>>,
}

impl Noted {
    fn stop(&self) {
        let engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        if let Some(engine) = engine {
            engine.stop();
        }
    }
}

impl SignalWatch {
    pub(super) fn start() -> Result<Self, Failure> {
        let failed = |error| Failure::from(Error::io("watch for", "signals", error));
        let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
        let handle = signals.handle();
        let noted = Arc::new(Noted::default());
        let writer = Arc::clone(&noted);
        let thread = threads::for_a(Role::Signals).spawn(move || {
            for signal in signals.forever() {
                let is_first = writer.signal.swap(signal, Ordering::SeqCst) == 0;
                if !is_first || !writer.is_heeded.load(Ordering::SeqCst) {
                    std::process::exit(128 + signal);
                }
                writer.stop();
            }
        });
        Ok(Self {
            handle,
            thread: thread.map_err(failed)?,
            noted,
        })
    }

    /// From now on somebody looks whether a signal came, and ends by himself.
    pub(super) fn heed(&self) {
        self.noted.is_heeded.store(true, Ordering::SeqCst);
    }

    /// From now on a signal stops this engine; one that has come already does so at once.
    pub(super) fn stops(&self, engine: &Arc<Engine>) {
        self.heed();
        *self.noted.engine.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(engine);
        if self.seen().is_some() {
            self.noted.stop();
        }
    }

    /// The signal that came, if one did.
    pub(super) fn seen(&self) -> Option<i32> {
        Some(self.noted.signal.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }

    /// No signal is waited for any more; gives the one that came.
    pub(super) fn end(self) -> Option<i32> {
        self.handle.close();
        let seen = self.seen();
        // It only waits for signals; a panic in it has been printed.
        let _ = self.thread.join();
        seen
    }
}
