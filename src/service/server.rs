//! An engine behind local sockets, for other processes.
//!
//! One thread waits for all sockets at once; it accepts, reads, cuts messages and writes, and never blocks. Calls are
//! done by a few threads more, which are there only while there are calls. Nothing wakes up while nothing happens.

pub(crate) mod asked;
mod calls;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod description_tests;
mod event_loop;
mod fanout;
#[cfg(feature = "fuzzing")]
pub(crate) mod heard;
mod link;
mod pool;
mod shared;
mod telling;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests;
pub(crate) mod traffic;
mod waits;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use self::event_loop::EventLoop;
use self::shared::Shared;
use super::methods::groups::report;
use super::socket::Socket;
use crate::engine::Engine;
use crate::error::Error;
use crate::threads::{self, Role};

/// How much a server takes on.
#[expect(clippy::struct_field_names, reason = "each is the most of something")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServerLimits {
    /// Longest call, in bytes; 1 MiB by default.
    pub(crate) message_bytes_max: usize,
    /// Connections; 2048 by default, and never more than the limit of open files leaves beside the engine's.
    pub(crate) connections_max: usize,
    /// Connections of one user; 2048 by default.
    pub(crate) connections_per_peer_max: usize,
    /// Connections that look on or wait; 1536 by default, so that others come through.
    pub(crate) monitors_max: usize,
    /// How long a client may read nothing of what it is sent before it is disconnected; 60 s by default.
    pub(crate) stall_max: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            message_bytes_max: 1 << 20,
            connections_max: 2_048,
            connections_per_peer_max: 2_048,
            monitors_max: 1_536,
            stall_max: Duration::from_secs(60),
        }
    }
}

/// A server at work. Dropping it ends all connections, each with a reason, after what is in progress, which has most of a
/// second for that.
pub(crate) struct Server {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves an engine on these sockets, which may be none of its own (see [`Socket::inherited`]).
    ///
    /// # Errors
    /// [`Error::Io`]: the system gives no file descriptor or no thread.
    pub(crate) fn start(engine: Arc<Engine>, sockets: Vec<Socket>, limits: ServerLimits) -> Result<Self, Error> {
        engine.report_by(report);
        let failed = |error| Error::io("set up", "service", error);
        let shared = Arc::new(Shared::new().map_err(failed)?);
        let mut event_loop = EventLoop::new(engine, sockets, limits, Arc::clone(&shared)).map_err(failed)?;
        let thread = threads::for_a(Role::Service).spawn(move || event_loop.run());
        let thread = thread.map_err(|error| Error::io("start a thread for", "service", error))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Other limits from now on. Connections that there are already stay, and keep their limit of messages.
    pub(crate) fn set_limits(&self, limits: ServerLimits) {
        self.shared.set_limits(limits);
    }

    /// Connections that there are now.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections()
    }

    /// Calls `told` with the number of connections whenever the last one has ended or a first one has come, on the
    /// server's thread: it must not block. Called at once, too, so that nothing is missed.
    pub(crate) fn watch_connections(&self, told: impl Fn(usize) + Send + 'static) {
        self.shared.watch_connections(Box::new(told));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            let _ = thread.join();
        }
    }
}
