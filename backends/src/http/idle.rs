//! Connections that wait for another request.
//!
//! ureq has a pool of its own. It counts the connections of each server anew, and compares their keys, for every one that
//! is taken or given back, and knows nothing of the ways that lead to a server; so it is left empty, and the connector is
//! asked each time.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ureq::http::uri::Authority;
use ureq::unversioned::transport::{Buffers, NextTimeout, Transport};

use std::sync::Arc;

use super::attempt::Attempt;
use super::buffers::WireBuffers;
use super::wire::Wire;

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
    server: Server,
    wire: Wire,
    since: Instant,
}

/// The server that a connection was opened for.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) is_secure: bool,
    /// Host and port, in the letters of its URL.
    pub(super) authority: Authority,
}

impl Server {
    fn is(&self, other: &Self) -> bool {
        self.is_secure == other.is_secure && self.authority.as_str() == other.authority.as_str()
    }
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
    pub(super) fn take(&self, server: &Server, attempt: &Attempt) -> Option<Wire> {
        // Ends: each turn takes one out.
        loop {
            let mut wire = self.next(server)?;
            if wire.serves(attempt) {
                return Some(wire);
            }
        }
    }

    /// Not looked at under the lock: that asks the system.
    fn next(&self, server: &Server) -> Option<Wire> {
        let now = Instant::now();
        let mut waiting = self.waiting();
        drop_old(&mut waiting, now);
        let at = waiting.iter().position(|other| other.server.is(server))?;
        waiting.remove(at).map(|found| found.wire)
    }

    fn keep(&self, server: Server, wire: Wire) {
        let now = Instant::now();
        let mut waiting = self.waiting();
        waiting.push_back(Waiting {
            server,
            wire,
            since: now,
        });
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

/// A connection while ureq has it. When ureq would put it into its pool, it goes back to the idle ones.
#[derive(Debug)]
pub(super) struct Lease {
    /// `None` once it went back.
    wire: Option<Wire>,
    server: Server,
    idle: Arc<Idle>,
    /// What ureq finds where the connection went back; it does not look.
    nothing: WireBuffers,
}

impl Lease {
    pub(super) fn new(wire: Wire, server: Server, idle: Arc<Idle>) -> Self {
        Self {
            wire: Some(wire),
            server,
            idle,
            nothing: WireBuffers::new(0),
        }
    }

    fn wire(&mut self) -> Result<&mut Wire, ureq::Error> {
        self.wire.as_mut().ok_or(ureq::Error::ConnectionFailed)
    }
}

impl Transport for Lease {
    fn buffers(&mut self) -> &mut dyn Buffers {
        match &mut self.wire {
            Some(wire) => wire.buffers(),
            None => &mut self.nothing,
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
            self.idle.keep(self.server.clone(), wire);
        }
        false
    }

    fn is_tls(&self) -> bool {
        self.wire.as_ref().is_some_and(Wire::is_tls)
    }
}
