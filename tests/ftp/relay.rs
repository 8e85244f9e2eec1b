//! A relay between the client and one FTP server. It reads the control connection, notes every command, and leads the data
//! connections of passive mode through itself: it counts their bytes, can hold them at an exact one, and can cut either
//! kind of connection, so that a test needs no clock to stop a transfer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
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
    server: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Bytes of data that went to clients.
    passed: u64,
    /// No more than this many bytes may pass.
    limit: u64,
    /// Goes up with every cut of data connections; one that began before the last is over.
    cuts: u64,
    over: bool,
    control: Vec<TcpStream>,
    data: Vec<TcpStream>,
    /// Control connections that the server ended.
    ended: u64,
    /// Lines that clients sent, without their ends.
    commands: Vec<String>,
}

impl Relay {
    /// Relays to a server.
    pub(crate) fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State {
            limit: u64::MAX,
            ..State::default()
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

    /// Bytes of files that went to clients so far, over all connections.
    pub(crate) fn passed_bytes(&self) -> u64 {
        self.shared.lock().passed
    }

    /// What clients have sent so far, over all connections.
    pub(crate) fn commands(&self) -> Vec<String> {
        self.shared.lock().commands.clone()
    }

    /// Control connections that the server has ended so far.
    pub(crate) fn ended_by_server(&self) -> u64 {
        self.shared.lock().ended
    }

    /// Lets this many more bytes of data pass, and then no more until [`Relay::release`].
    pub(crate) fn hold_after(&self, bytes: u64) {
        let mut state = self.shared.lock();
        state.limit = state.passed + bytes;
    }

    /// Lets everything pass.
    pub(crate) fn release(&self) {
        self.shared.lock().limit = u64::MAX;
        self.shared.changed.notify_all();
    }

    /// Ends every data connection; what is held of them never arrives.
    pub(crate) fn cut_data(&self) {
        let mut state = self.shared.lock();
        state.cuts += 1;
        end_all(&mut state.data);
        self.shared.changed.notify_all();
    }

    /// Ends every control connection.
    pub(crate) fn cut_control(&self) {
        end_all(&mut self.shared.lock().control);
    }

    /// Ends every connection.
    pub(crate) fn cut(&self) {
        self.cut_control();
        self.cut_data();
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

fn end_all(streams: &mut Vec<TcpStream>) {
    for stream in streams.drain(..) {
        // One that has ended already cannot be shut down.
        let _ = stream.shutdown(Shutdown::Both);
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
        let Ok(server) = TcpStream::connect(shared.server) else {
            continue;
        };
        state.control.push(client.try_clone().unwrap());
        state.control.push(server.try_clone().unwrap());
        drop(state);
        let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let noting = Arc::clone(shared);
        thread::spawn(move || carry_commands(&noting, from_client, to_server));
        let shared = Arc::clone(shared);
        thread::spawn(move || carry_replies(&shared, server, client));
    }
}

fn carry_commands(shared: &Shared, client: TcpStream, mut server: TcpStream) {
    let mut reader = BufReader::new(client);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        shared.lock().commands.push(text);
        if server.write_all(&line).is_err() {
            break;
        }
        line.clear();
    }
    // The client is gone, and nobody reads a reply any more.
    let _ = server.shutdown(Shutdown::Both);
}

fn carry_replies(shared: &Arc<Shared>, server: TcpStream, mut client: TcpStream) {
    let mut reader = BufReader::new(server);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let rewritten = with_own_port(shared, &String::from_utf8_lossy(&line));
        let sent = rewritten.as_deref().map_or(&line[..], str::as_bytes);
        if client.write_all(sent).is_err() {
            break;
        }
        line.clear();
    }
    shared.lock().ended += 1;
    let _ = client.shutdown(Shutdown::Both);
}

/// A reply that names a port for data (RFC 959, 227; RFC 2428, 229), with a port of ours in its place.
fn with_own_port(shared: &Arc<Shared>, reply: &str) -> Option<String> {
    if let Some(rest) = reply.strip_prefix("227 ") {
        let numbers: Vec<u16> = rest
            .split(|letter: char| !letter.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .collect();
        let [.., high, low] = numbers[..] else { return None };
        let port = lead(shared, high * 256 + low);
        return Some(format!(
            "227 Entering Passive Mode (127,0,0,1,{},{}).\r\n",
            port / 256,
            port % 256
        ));
    }
    let rest = reply.strip_prefix("229 ")?;
    let (_, port) = rest.split_once("|||")?;
    let port = lead(shared, port.split('|').next()?.parse().ok()?);
    Some(format!("229 Entering Extended Passive Mode (|||{port}|)\r\n"))
}

/// Leads one data connection to a port of the server; gives the port at which it is waited for.
fn lead(shared: &Arc<Shared>, port: u16) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let own = listener.local_addr().unwrap().port();
    let server = SocketAddr::new(shared.server.ip(), port);
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        let Ok((client, _)) = listener.accept() else { return };
        let mut state = shared.lock();
        let Ok(server) = TcpStream::connect(server) else { return };
        state.data.push(client.try_clone().unwrap());
        state.data.push(server.try_clone().unwrap());
        let cuts = state.cuts;
        drop(state);
        carry_data(&shared, cuts, server, client);
    });
    own
}

fn carry_data(shared: &Shared, cuts: u64, mut server: TcpStream, mut client: TcpStream) {
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
    // A server may wait for the end of the other direction before it says that all was sent.
    let _ = server.shutdown(Shutdown::Both);
}
