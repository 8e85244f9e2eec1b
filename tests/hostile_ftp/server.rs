//! An FTP server on plain sockets that does in each connection what its script says, and what it should once the script is
//! over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use crate::lives::killer::Killer;
use crate::resource::{Times, Version};
use crate::script::Session;
use crate::talk::Talk;

const CONNECTIONS_MAX: usize = 64;

/// What is served.
pub(crate) struct Scene {
    pub(crate) versions: Vec<Version>,
    pub(crate) times: Times,
    pub(crate) script: Vec<Session>,
    /// The client knows a digest: no lie can make a wrong file look right.
    pub(crate) is_free: bool,
}

/// What a server has seen and done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) sessions: usize,
    /// What it was asked, session by session, and how it answered.
    pub(crate) talk: Vec<String>,
    pub(crate) commands: usize,
    /// Versions of which a byte, or the end, was sent, or that were there while another was sent.
    pub(crate) served: BTreeSet<usize>,
    pub(crate) body_bytes: u64,
    /// Transfers from another byte than the first.
    pub(crate) rests: u64,
    /// Answers that refused something.
    pub(crate) refused: u64,
    /// How often each fault was done.
    pub(crate) faults: BTreeMap<&'static str, u64>,
    /// The client went where a server has no business to send it.
    pub(crate) went_elsewhere: bool,
    /// The longest answer that the client took before it gave up, in bytes.
    pub(crate) longest_answer: u64,
}

pub(crate) struct Server {
    pub(crate) shared: Arc<Shared>,
    port: u16,
    acceptor: Option<JoinHandle<()>>,
}

pub(crate) struct Shared {
    state: Mutex<State>,
    streams: Mutex<Vec<TcpStream>>,
    connections: AtomicUsize,
    closing: AtomicBool,
    killer: Killer,
    pub(crate) versions: Vec<Version>,
    pub(crate) times: Times,
    pub(crate) is_free: bool,
}

pub(crate) struct State {
    pub(crate) current: usize,
    /// When the current version came to be.
    pub(crate) made: SystemTime,
    /// Times that were made up.
    pub(crate) made_up: u64,
    pub(crate) record: Record,
    script: VecDeque<Session>,
}

impl Server {
    pub(crate) fn start(scene: Scene) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                current: 0,
                made: SystemTime::now(),
                made_up: 0,
                record: Record::default(),
                script: scene.script.into(),
            }),
            streams: Mutex::default(),
            connections: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            killer: Killer::new(),
            versions: scene.versions,
            times: scene.times,
            is_free: scene.is_free,
        });
        let accepting = Arc::clone(&shared);
        let acceptor = Some(thread::spawn(move || accepting.accept(&listener)));
        Self { shared, port, acceptor }
    }

    pub(crate) fn url(&self) -> String {
        format!("ftp://127.0.0.1:{}/folder/file", self.port)
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
        // Wakes the acceptor.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        for stream in self.shared.streams().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
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
                let (session, number) = shared.begin_session();
                // A client that is gone ends its connection, whatever the error is called.
                let _ = Talk::new(&shared, &stream, session, number).serve();
                let _ = stream.shutdown(Shutdown::Both);
                shared.connections.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }

    fn begin_session(&self) -> (Session, usize) {
        let mut state = self.state();
        let session = state.script.pop_front().unwrap_or_default();
        state.record.sessions += 1;
        if let Some(version) = session.version
            && version != state.current
        {
            state.become_version(version);
            state.met("replaced between sessions");
        }
        (session, state.record.sessions)
    }

    pub(crate) fn kill_if_due(&self) {
        let (commands, bytes) = {
            let record = &self.state().record;
            (record.commands, record.body_bytes)
        };
        self.killer.kill_if_due(commands, bytes);
    }

    /// The file goes on to its next version, if it has one.
    pub(crate) fn turn(&self) -> bool {
        let mut state = self.state();
        let next = state.current + 1;
        let has_next = next < self.versions.len();
        if has_next {
            state.become_version(next);
        }
        has_next
    }
}

impl State {
    fn become_version(&mut self, version: usize) {
        self.current = version;
        self.made = SystemTime::now();
    }

    pub(crate) fn met(&mut self, fault: &'static str) {
        *self.record.faults.entry(fault).or_default() += 1;
    }
}
