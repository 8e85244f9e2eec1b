//! A relay of bytes between the client and one server. It looks into nothing; it counts what passes towards the client,
//! can hold the stream at an exact byte, and can cut every connection, so that a test needs no clock to stop a transfer.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

const CHUNK_BYTES: usize = 64 * 1024;

/// Listens on a port of its own until it is dropped; then every connection is cut.
pub(crate) struct Relay {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    server: u16,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Bytes that went to clients.
    passed: u64,
    /// No more than this many bytes may pass.
    limit: u64,
    /// Goes up with every cut; a connection that began before the last one is over.
    cuts: u64,
    over: bool,
    open: Vec<TcpStream>,
}

impl Relay {
    /// Relays to a server on a loopback port.
    pub(crate) fn to(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State {
            passed: 0,
            limit: u64::MAX,
            cuts: 0,
            over: false,
            open: Vec::new(),
        };
        let shared = Arc::new(Shared {
            server,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        let acceptor = thread::spawn(move || accept(&listener, &accepting));
        Self {
            port,
            shared,
            acceptor: Some(acceptor),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Bytes of heads and bodies that went to clients so far, over all connections.
    pub(crate) fn passed_bytes(&self) -> u64 {
        self.shared.lock().passed
    }

    /// Lets this many more bytes pass, and then no more until [`Relay::release`].
    pub(crate) fn hold_after(&self, bytes: u64) {
        let mut state = self.shared.lock();
        state.limit = state.passed + bytes;
    }

    /// Lets everything pass.
    pub(crate) fn release(&self) {
        self.shared.lock().limit = u64::MAX;
        self.shared.changed.notify_all();
    }

    /// Ends every connection; what is held of them never arrives.
    pub(crate) fn cut(&self) {
        let mut state = self.shared.lock();
        state.cuts += 1;
        for stream in state.open.drain(..) {
            // One that has ended already cannot be shut down.
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.shared.changed.notify_all();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.cut();
        // Wakes the acceptor.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    /// A panic of another thread leaves nothing half done in here.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits until bytes may pass on a connection that began at `cuts`: how many of `wanted`; `None` once it was cut.
    fn admit(&self, cuts: u64, wanted: usize) -> Option<usize> {
        let mut state = self.lock();
        loop {
            if state.cuts != cuts {
                return None;
            }
            let left = usize::try_from(state.limit - state.passed).unwrap_or(usize::MAX);
            let admitted = wanted.min(left);
            if admitted > 0 {
                state.passed += admitted as u64;
                return Some(admitted);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        let Ok(client) = client else { continue };
        let mut state = shared.lock();
        if state.over {
            return;
        }
        // A server that is down looks to the client like a connection that ends at once.
        let Ok(server) = TcpStream::connect(("127.0.0.1", shared.server)) else {
            continue;
        };
        state.open.push(client.try_clone().unwrap());
        state.open.push(server.try_clone().unwrap());
        let cuts = state.cuts;
        drop(state);
        let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || carry_requests(from_client, to_server));
        let shared = Arc::clone(shared);
        thread::spawn(move || carry_responses(&shared, cuts, server, client));
    }
}

fn carry_requests(mut client: TcpStream, mut server: TcpStream) {
    let _ = std::io::copy(&mut client, &mut server);
    // The client is gone, and nobody reads an answer any more.
    let _ = server.shutdown(Shutdown::Both);
}

fn carry_responses(shared: &Shared, cuts: u64, mut server: TcpStream, mut client: TcpStream) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(read @ 1..) = server.read(&mut chunk) {
        let mut rest = &chunk[..read];
        while !rest.is_empty() {
            let admitted = shared.admit(cuts, rest.len());
            let written = admitted.is_some_and(|count| client.write_all(&rest[..count]).is_ok());
            if !written {
                let _ = client.shutdown(Shutdown::Both);
                let _ = server.shutdown(Shutdown::Both);
                return;
            }
            rest = &rest[admitted.unwrap_or(0)..];
        }
    }
    let _ = client.shutdown(Shutdown::Write);
}
