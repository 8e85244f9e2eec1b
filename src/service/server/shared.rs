//! What the thread of the event loop shares with all others: a bell, and what they have done.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::ServerLimits;
use super::fanout::Message;
use crate::operation::TransferId;
use crate::service::monitor::Told;

/// Names a connection; never given twice.
pub(crate) type Token = u64;

/// What a thread has done for a connection.
pub(crate) struct Done {
    pub(crate) token: Token,
    /// For which of its calls.
    pub(crate) serial: u64,
    pub(crate) outcome: Outcome,
}

/// What came of a call.
pub(crate) enum Outcome {
    /// The bytes of its answer.
    Answer(Vec<u8>),
    /// A monitor is told this, and more is to be looked for where it is not caught up.
    CaughtUp(Box<Told>, Message),
    /// One that waits goes on waiting for these.
    Open(BTreeSet<TransferId>),
}

type Watching = Box<dyn Fn(usize) + Send>;

pub(crate) struct Shared {
    /// Wakes the event loop.
    bell: OwnedFd,
    done: Mutex<Vec<Done>>,
    stopping: AtomicBool,
    /// The engine has changed.
    noted: AtomicBool,
    connections: AtomicUsize,
    /// Limits that hold from the next turn on.
    limits: Mutex<Option<ServerLimits>>,
    told: Mutex<Option<Watching>>,
    /// How often the event loop woke up.
    #[cfg(test)]
    pub(crate) turns: std::sync::atomic::AtomicU64,
}

impl Shared {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            done: Mutex::default(),
            stopping: AtomicBool::new(false),
            noted: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            limits: Mutex::default(),
            told: Mutex::default(),
            #[cfg(test)]
            turns: std::sync::atomic::AtomicU64::new(0),
        })
    }

    pub(crate) fn bell(&self) -> &OwnedFd {
        &self.bell
    }

    /// Wakes the event loop.
    pub(crate) fn ring(&self) {
        // It fails only where it has rung 2^64 times in vain.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// The bell was heard.
    pub(crate) fn silence(&self) {
        let _ = rustix::io::read(&self.bell, &mut [0_u8; 8]);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Done>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread has done something for a connection.
    pub(crate) fn done(&self, done: Done) {
        self.lock().push(done);
        self.ring();
    }

    pub(crate) fn take_done(&self) -> Vec<Done> {
        std::mem::take(&mut *self.lock())
    }

    /// The engine has changed: called under its lock.
    pub(crate) fn note(&self) {
        self.noted.store(true, Ordering::Release);
        self.ring();
    }

    pub(crate) fn take_noted(&self) -> bool {
        self.noted.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn set_limits(&self, limits: ServerLimits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = Some(limits);
        self.ring();
    }

    pub(crate) fn take_limits(&self) -> Option<ServerLimits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.ring();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }

    pub(crate) fn watch_connections(&self, told: Watching) {
        let mut watching = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told(self.connections());
        *watching = Some(told);
    }

    pub(crate) fn set_connections(&self, count: usize) {
        let watching = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.connections.swap(count, Ordering::AcqRel);
        if (before == 0) != (count == 0)
            && let Some(told) = watching.as_ref()
        {
            told(count);
        }
    }
}
