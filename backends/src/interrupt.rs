//! Ends an attempt from another thread: a blocked read, connect or wait returns at once.

use std::fmt::Debug;
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Shared by the one who runs an attempt and those who may end it. Once raised it stays raised. Clones are the same
/// interrupt.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    raised: Condvar,
}

#[derive(Debug, Default)]
struct State {
    raised: bool,
    bound: Vec<Arc<dyn Severable>>,
    children: Vec<Weak<Shared>>,
}

/// What an [`Interrupt`] can end while somebody waits for it.
pub trait Severable: Debug + Send + Sync {
    /// Ends every read and write on it, those under way and those to come. It does not block, and nobody hears of a failure.
    fn sever(&self);
}

impl Severable for TcpStream {
    fn sever(&self) {
        // A socket that is gone already needs no shutdown.
        let _ = self.shutdown(Shutdown::Both);
    }
}

impl Severable for UnixStream {
    fn sever(&self) {
        // As above.
        let _ = self.shutdown(Shutdown::Both);
    }
}

/// Holds a socket under an [`Interrupt`]. Once it is dropped, no raise touches the socket any more, so that a pooled
/// connection can go to another attempt.
#[derive(Debug)]
#[must_use = "the socket is let go when this is dropped"]
pub struct Binding {
    shared: Arc<Shared>,
    socket: Arc<dyn Severable>,
}

impl Interrupt {
    /// One that is not raised.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the attempt: shuts down every socket that is bound, wakes every sleeper.
    pub fn raise(&self) {
        self.shared.raise();
    }

    /// Another interrupt that is raised with this one, and may be raised alone.
    #[must_use]
    pub fn child(&self) -> Self {
        let child = Self::new();
        let mut state = self.shared.state();
        if state.raised {
            drop(state);
            child.raise();
        } else {
            state.children.retain(|child| child.strong_count() > 0);
            state.children.push(Arc::downgrade(&child.shared));
        }
        child
    }

    /// Whether somebody raised it.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.shared.state().raised
    }

    /// Waits, and returns early with `true` when raised.
    #[must_use]
    pub fn sleep(&self, duration: Duration) -> bool {
        let start = Instant::now();
        let mut state = self.shared.state();
        loop {
            let left = duration.saturating_sub(start.elapsed());
            if state.raised || left.is_zero() {
                return state.raised;
            }
            state = self
                .shared
                .raised
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Binds a socket, so that [`Interrupt::raise`] shuts it down for as long as the binding lives; one bound after
    /// the raise is shut down at once.
    pub fn bind(&self, socket: Arc<dyn Severable>) -> Binding {
        let mut state = self.shared.state();
        if state.raised {
            socket.sever();
        } else {
            state.bound.push(Arc::clone(&socket));
        }
        drop(state);
        Binding {
            shared: Arc::clone(&self.shared),
            socket,
        }
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        // A raise holds the same lock while it shuts sockets down, so after this line it is either over or never comes.
        self.shared
            .state()
            .bound
            .retain(|socket| !Arc::ptr_eq(socket, &self.socket));
    }
}

impl Shared {
    fn raise(&self) {
        let children = {
            let mut state = self.state();
            state.raised = true;
            for socket in state.bound.drain(..) {
                socket.sever();
            }
            self.raised.notify_all();
            std::mem::take(&mut state.children)
        };
        // Parents have children and never the other way round, so this ends.
        for child in children.iter().filter_map(Weak::upgrade) {
            child.raise();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is one flag and a list; no panic can leave it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (Arc<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Arc::new(near), listener.accept().unwrap().0)
    }

    #[test]
    fn a_raise_ends_a_read_on_a_bound_socket() {
        let (near, _far) = pair();
        let interrupt = Interrupt::new();
        let _binding = interrupt.bind(near.clone());
        interrupt.raise();
        assert_eq!((&*near).read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_socket_bound_after_the_raise_is_shut_down_at_once() {
        let (near, _far) = pair();
        let interrupt = Interrupt::new();
        interrupt.raise();
        let _binding = interrupt.bind(near.clone());
        assert_eq!((&*near).read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_child_is_raised_with_its_parent_and_not_the_other_way_round() {
        let parent = Interrupt::new();
        let (first, second) = (parent.child(), parent.child());
        first.raise();
        assert!(!parent.is_raised() && !second.is_raised());
        parent.raise();
        assert!(second.is_raised() && parent.child().is_raised());
    }

    #[test]
    fn a_socket_that_was_let_go_survives_the_raise() {
        use std::io::Write;
        let (near, mut far) = pair();
        let interrupt = Interrupt::new();
        drop(interrupt.bind(near.clone()));
        interrupt.raise();
        far.write_all(b"x").unwrap();
        assert_eq!((&*near).read(&mut [0]).unwrap(), 1);
    }
}
