//! Connections that wait for another request.
//!
//! ureq has a pool of its own. It counts the connections of each server anew, and compares their keys, for every one that
//! is taken or given back, and knows nothing of the ways that lead to a server; so it is left empty, and the connector is
//! asked each time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ureq::unversioned::transport::{Buffers, NextTimeout, Transport};

use super::attempt::Attempt;
use super::buffers::WireBuffers;
use super::wire::{Server, Wire};

/// How long a connection is kept without use; most servers close it not long after.
const IDLE_MAX: Duration = Duration::from_secs(15);

/// Idle connections, the one that waits longest first.
#[derive(Debug)]
pub(super) struct Idle {
    waiting: Mutex<VecDeque<Waiting>>,
    /// Most that wait, to whichever servers.
    max: usize,
}

#[derive(Debug)]
struct Waiting {
    wire: Box<Wire>,
    since: Instant,
}

impl Idle {
    pub(super) fn new(max: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            max,
        }
    }

    /// A connection to the server that is still there and goes the way of the attempt. Those to it that are not, or do not,
    /// are closed.
    pub(super) fn take(&self, server: Server<'_>, attempt: &Attempt) -> Option<Box<Wire>> {
        // Ends: each turn takes one out.
        loop {
            let mut wire = self.next(server)?;
            if wire.serves(attempt) {
                return Some(wire);
            }
        }
    }

    /// Not looked at under the lock: that asks the system.
    fn next(&self, server: Server<'_>) -> Option<Box<Wire>> {
        let now = Instant::now();
        let mut waiting = self.waiting();
        drop_old(&mut waiting, now);
        let at = waiting.iter().position(|other| other.wire.server() == server)?;
        waiting.remove(at).map(|found| found.wire)
    }

    fn keep(&self, wire: Box<Wire>) {
        let now = Instant::now();
        let mut waiting = self.waiting();
        waiting.push_back(Waiting { wire, since: now });
        drop_old(&mut waiting, now);
        while waiting.len() > self.max {
            waiting.pop_front();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        // Each change of the queue is whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn drop_old(waiting: &mut VecDeque<Waiting>, now: Instant) {
    while waiting
        .front()
        .is_some_and(|first| now.duration_since(first.since) >= IDLE_MAX)
    {
        waiting.pop_front();
    }
}

/// A connection while ureq has it. When ureq would put it into its pool, it goes back to the idle ones. Small, because ureq
/// moves it about.
#[derive(Debug)]
pub(super) struct Lease {
    /// `None` once it went back.
    wire: Option<Box<Wire>>,
    idle: Arc<Idle>,
    /// What ureq would find where the connection went back; it does not look.
    nothing: Option<Box<WireBuffers>>,
}

impl Lease {
    pub(super) fn new(wire: Box<Wire>, idle: Arc<Idle>) -> Self {
        Self {
            wire: Some(wire),
            idle,
            nothing: None,
        }
    }

    fn wire(&mut self) -> Result<&mut Wire, ureq::Error> {
        self.wire.as_deref_mut().ok_or(ureq::Error::ConnectionFailed)
    }
}

impl Transport for Lease {
    fn buffers(&mut self) -> &mut dyn Buffers {
        match &mut self.wire {
            Some(wire) => wire.buffers(),
            None => &mut **self.nothing.get_or_insert_with(|| Box::new(WireBuffers::new(0))),
        }
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        self.wire()?.transmit_output(amount)
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        self.wire()?.await_input()
    }

    /// Asked when a connection would go to the pool of ureq, and at no other moment, as nothing is ever there.
    fn is_open(&mut self) -> bool {
        if let Some(mut wire) = self.wire.take()
            && wire.can_wait()
        {
            self.idle.keep(wire);
        }
        false
    }

    fn is_tls(&self) -> bool {
        self.wire.as_ref().is_some_and(|wire| wire.is_tls())
    }
}
