//! An HTTP/1.1 server on plain sockets that answers by a script, and as it should once the script is over. It can kill
//! its client when it has sent so many bytes or got so many requests.

use std::collections::{BTreeSet, VecDeque};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::answer::{Answer, Asked};
use crate::lives::killer::Killer;
use crate::reply::{Reply, World, reply};
use crate::resource::Version;

const REQUEST_HEAD_BYTES_MAX: usize = 16 * 1024;
const CONNECTIONS_MAX: usize = 64;
/// Sent at once; between two of them the client may be killed.
const SEND_BYTES: usize = 16 * 1024;
/// Silence after which a connection is given up; far beyond what a client that lives needs.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What is served.
pub(crate) struct Scene {
    pub(crate) versions: Vec<Version>,
    pub(crate) page: Vec<u8>,
    pub(crate) script: Vec<Answer>,
}

/// What a server has seen and done.
#[derive(Clone, Default)]
pub(crate) struct Record {
    pub(crate) asked: Vec<Asked>,
    /// Versions of which a response was begun.
    pub(crate) served: BTreeSet<usize>,
    pub(crate) page_served: bool,
    pub(crate) body_bytes: u64,
}

impl Record {
    /// Parts that were asked for up to a byte before the last, and given.
    pub(crate) fn pieces(&self) -> u64 {
        let pieces = self
            .asked
            .iter()
            .filter(|asked| asked.status == 206 && asked.last.is_some());
        pieces.count() as u64
    }
}

pub(crate) struct Server {
    shared: Arc<Shared>,
    ports: [u16; 2],
    acceptors: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    streams: Mutex<Vec<TcpStream>>,
    connections: AtomicUsize,
    closing: AtomicBool,
    killer: Killer,
}

struct State {
    versions: Arc<Vec<Version>>,
    page: Arc<Vec<u8>>,
    current: usize,
    script: VecDeque<Answer>,
    record: Record,
}

impl Server {
    /// Serves on two ports of this host, which are two origins.
    pub(crate) fn start(scene: Scene) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                versions: Arc::new(scene.versions),
                page: Arc::new(scene.page),
                current: 0,
                script: scene.script.into(),
                record: Record::default(),
            }),
            streams: Mutex::default(),
            connections: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            killer: Killer::new(),
        });
        let listeners = [(); 2].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
        let ports = [0, 1].map(|index: usize| listeners[index].local_addr().unwrap().port());
        // A redirect says the second port before it is known.
        for answer in &mut shared.state().script {
            answer.name_port(ports[1]);
        }
        let accept = |listener: TcpListener| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.accept(&listener))
        };
        let acceptors = listeners.into_iter().map(accept).collect();
        Self {
            shared,
            ports,
            acceptors,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/file", self.ports[0])
    }

    pub(crate) fn record(&self) -> Record {
        self.shared.state().record.clone()
    }

    /// Who ends the lives of clients when this server says so.
    pub(crate) fn killer(&self) -> &Killer {
        &self.shared.killer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        for port in self.ports {
            // Wakes the acceptor.
            let _ = TcpStream::connect(("127.0.0.1", port));
        }
        for acceptor in self.acceptors.drain(..) {
            let _ = acceptor.join();
        }
        for stream in self.shared.streams().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while let Ok((stream, _)) = listener.accept() {
            if self.closing.load(Ordering::SeqCst) {
                return;
            }
            if self.connections.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS_MAX {
                self.connections.fetch_sub(1, Ordering::SeqCst);
                continue;
            }
            self.streams().push(stream.try_clone().unwrap());
            let shared = Arc::clone(self);
            thread::spawn(move || {
                // A client that is gone ends its connection, whatever the error is called.
                let _ = shared.serve(&stream);
                let _ = stream.shutdown(Shutdown::Both);
                shared.connections.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }

    fn serve(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        while let Some(asked) = read_request(stream)? {
            let reply = self.answer(asked);
            self.kill_if_due();
            stream.write_all(&reply.head)?;
            for piece in reply.body.chunks(SEND_BYTES) {
                stream.write_all(piece)?;
                self.state().record.body_bytes += piece.len() as u64;
                self.kill_if_due();
            }
            if reply.close {
                break;
            }
        }
        Ok(())
    }

    fn answer(&self, mut asked: Asked) -> Reply {
        let mut state = self.state();
        if asked.path.starts_with("/loop") {
            // Two places that send each other on belong to one answer of the script.
            state.record.asked.push(asked.clone());
            let place = if asked.path == "/loop" { "/loop/back" } else { "/loop" };
            let around = Answer::new(crate::answer::Form::Redirect(302, place.into()));
            return state.reply(&around, &asked);
        }
        let answer = state.script.pop_front().unwrap_or_else(Answer::right);
        if let Some(version) = answer.version {
            state.current = version;
        }
        let reply = state.reply(&answer, &asked);
        asked.status = reply.status;
        state.record.asked.push(asked);
        if reply.serves_version {
            let current = state.current;
            state.record.served.insert(current);
        }
        state.record.page_served |= reply.serves_page;
        reply
    }

    fn kill_if_due(&self) {
        let (requests, bytes) = {
            let record = &self.state().record;
            (record.asked.len(), record.body_bytes)
        };
        self.killer.kill_if_due(requests, bytes);
    }
}

impl State {
    fn reply(&self, answer: &Answer, asked: &Asked) -> Reply {
        let world = World {
            versions: &self.versions,
            current: self.current,
            page: &self.page,
            request: self.record.asked.len(),
        };
        reply(answer, asked, &world)
    }
}

fn read_request(mut stream: &TcpStream) -> std::io::Result<Option<Asked>> {
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut piece)? {
            0 => return Ok(None),
            _ if head.len() > REQUEST_HEAD_BYTES_MAX => return Ok(None),
            bytes => head.extend_from_slice(&piece[..bytes]),
        }
    }
    let text = String::from_utf8_lossy(&head);
    Ok(Some(
        Asked::parse(&text).unwrap_or_else(|| panic!("no request: {text}")),
    ))
}
