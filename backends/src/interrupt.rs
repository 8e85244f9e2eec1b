//! Ends an attempt from another thread: a blocked read, connect or wait returns at once.

use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Shared by the one who runs an attempt and those who may end it. Once raised it stays raised.
#[derive(Debug, Default)]
pub struct Interrupt {
    state: Mutex<State>,
    raised: Condvar,
}

#[derive(Debug, Default)]
struct State {
    raised: bool,
    sockets: Vec<Arc<TcpStream>>,
}

impl Interrupt {
    /// One that is not raised.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the attempt: shuts down every socket that is bound, wakes every sleeper.
    pub fn raise(&self) {
        let mut state = self.state();
        state.raised = true;
        for socket in state.sockets.drain(..) {
            // A socket that is gone already needs no shutdown.
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.raised.notify_all();
    }

    /// Whether somebody raised it.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.state().raised
    }

    /// Waits, and returns early with `true` when raised.
    #[must_use]
    pub fn sleep(&self, duration: Duration) -> bool {
        let end = Instant::now() + duration;
        let mut state = self.state();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if state.raised || left.is_zero() {
                return state.raised;
            }
            state = self.raised.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Binds a socket, so that [`Interrupt::raise`] shuts it down; one bound after the raise is shut down at once.
    pub fn bind(&self, socket: Arc<TcpStream>) {
        let mut state = self.state();
        if state.raised {
            let _ = socket.shutdown(Shutdown::Both);
        } else {
            state.sockets.push(socket);
        }
    }

    /// Lets go of every bound socket, which others may use from now on.
    pub fn unbind(&self) {
        self.state().sockets.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is one flag and a list; no panic can leave it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
