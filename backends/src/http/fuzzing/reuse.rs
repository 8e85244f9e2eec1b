//! Servers that keep their connections: the pool and the transport are the real ones, and only the network is not there. Each
//! connection is a pair of sockets, and what its server says lies in there before anybody waits for it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

use crate::http::attempt::Attempt;
use crate::http::connector::NoResolver;
use crate::http::idle::{Idle, Lease};
use crate::http::wire::{Server, Socket, Wire};
use crate::http::{HttpBackend, settings};
use crate::{Backend, Failure, Interrupt, Request, Sink};

thread_local! {
    static NETWORK: RefCell<Network> = RefCell::default();
}

/// An answer with this byte at its end, which is not said, is the last of its connection.
const CLOSES: u8 = 0xFE;

/// A request, and the server that was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// The server that the request was for.
    pub host: String,
    /// The one that the connection was made to.
    pub opened_for: String,
    /// How many requests went over the connection before.
    pub earlier: usize,
    /// All that the server had been sent by then.
    pub heard: Vec<u8>,
    /// All that it had said.
    pub said: Vec<u8>,
    /// What it says from then on.
    pub answer: Vec<u8>,
}

/// Servers and one backend that asks them.
#[derive(Debug)]
pub struct Servers {
    backend: HttpBackend,
    idle: Arc<Idle>,
}

impl Servers {
    /// They say these bytes, one answer for each request whichever of them it is sent to, in pieces of at most so many bytes. At
    /// most so many connections wait.
    #[must_use]
    pub fn new(answers: &[&[u8]], piece_bytes: usize, idle_max: usize) -> Self {
        NETWORK.set(Network {
            answers: answers.iter().map(|answer| answer.to_vec()).collect(),
            piece_bytes: piece_bytes.max(1),
            ..Network::default()
        });
        let idle = Arc::new(Idle::new(idle_max));
        let connector = Pairing(Arc::clone(&idle));
        Self {
            backend: HttpBackend::on(ureq::Agent::with_parts(
                settings("fuzzing".to_owned()),
                connector,
                NoResolver::new(),
            )),
            idle,
        }
    }

    /// Also gives the requests of this download.
    pub fn download(&self, request: &Request, sink: &mut dyn Sink) -> (Result<(), Failure>, Vec<Turn>) {
        let result = self.backend.download(request, sink, &Interrupt::new());
        (
            result,
            NETWORK.with_borrow_mut(|network| std::mem::take(&mut network.turns)),
        )
    }

    /// How many connections wait.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.idle.len()
    }
}

#[derive(Default)]
struct Network {
    answers: VecDeque<Vec<u8>>,
    piece_bytes: usize,
    ends: Vec<End>,
    turns: Vec<Turn>,
}

/// The end of a connection where its server is.
struct End {
    host: String,
    /// Where its wire lies: of all that lay there, the last one still does.
    wire: usize,
    /// `None` once it was closed.
    stream: Option<UnixStream>,
    requests: usize,
    is_asked: bool,
    closes: bool,
    heard: Vec<u8>,
    said: Vec<u8>,
    /// How much of that was read.
    read: usize,
    unsaid: VecDeque<u8>,
}

impl Network {
    /// Whoever has anything left to say says it before the next request.
    fn settle(&mut self) {
        for end in &mut self.ends {
            end.say(usize::MAX);
            end.close_if_told();
        }
    }

    /// The connection of a wire that is to carry another request.
    fn find(&mut self, wire: usize) -> Option<usize> {
        let number = self.ends.iter().rposition(|end| end.wire == wire)?;
        self.ends[number].is_asked = false;
        Some(number)
    }

    fn add(&mut self, host: &str, wire: usize, stream: UnixStream) -> usize {
        self.ends.push(End {
            host: host.to_owned(),
            wire,
            stream: Some(stream),
            requests: 0,
            is_asked: false,
            closes: false,
            heard: Vec::new(),
            said: Vec::new(),
            read: 0,
            unsaid: VecDeque::new(),
        });
        self.ends.len() - 1
    }

    /// Bytes came; the first of a request are answered at once, as nothing in them changes the answer.
    fn hear(&mut self, number: usize, host: &str) {
        let end = &mut self.ends[number];
        let heard = end.heard.clone();
        end.listen();
        if std::mem::replace(&mut end.is_asked, true) {
            return;
        }
        let mut answer = self.answers.pop_front().unwrap_or_default();
        // A server without a word has nothing more to say at all.
        end.closes = answer.is_empty() || answer.last() == Some(&CLOSES);
        if answer.last() == Some(&CLOSES) {
            answer.pop();
        }
        self.turns.push(Turn {
            host: host.to_owned(),
            opened_for: end.host.clone(),
            earlier: end.requests,
            heard,
            said: end.said.clone(),
            answer: answer.clone(),
        });
        end.requests += 1;
        end.unsaid.extend(answer);
        end.say(self.piece_bytes);
    }

    /// Somebody waits for more than was said: where there is none, the server closes. `all` is wanted by one who reads past
    /// the transport.
    fn go_on(&mut self, number: usize, all: bool) {
        let end = &mut self.ends[number];
        if !all && end.read < end.said.len() {
            return;
        }
        let is_over = end.unsaid.is_empty();
        end.say(if all { usize::MAX } else { self.piece_bytes });
        if is_over || all {
            end.stream = None;
        }
    }
}

impl End {
    /// Takes in what was sent, so that nothing is left when it closes.
    fn listen(&mut self) {
        if let Some(stream) = &mut self.stream {
            let mut room = [0; 1024];
            while let Ok(amount @ 1..) = stream.read(&mut room) {
                self.heard.extend_from_slice(&room[..amount]);
            }
        }
    }

    fn say(&mut self, bytes_max: usize) {
        let bytes: Vec<u8> = self.unsaid.drain(..self.unsaid.len().min(bytes_max)).collect();
        let said = self.stream.as_mut().map(|stream| stream.write_all(&bytes));
        if matches!(said, Some(Ok(()))) {
            self.said.extend_from_slice(&bytes);
        } else {
            // Nobody is there any more.
            self.stream = None;
        }
    }

    fn close_if_told(&mut self) {
        if self.closes && self.unsaid.is_empty() {
            self.listen();
            self.stream = None;
        }
    }
}

/// Makes pairs of sockets.
#[derive(Debug)]
struct Pairing(Arc<Idle>);

impl Pairing {
    /// The wire, and the number of its connection.
    fn connect(&self, details: &ConnectionDetails, attempt: &Attempt) -> io::Result<Option<(Box<Wire>, usize)>> {
        // Without a handshake there is no TLS.
        let Some(authority) = details.uri.authority().filter(|_| !details.needs_tls()) else {
            return Ok(None);
        };
        let server = Server {
            is_secure: false,
            authority: authority.as_str(),
        };
        if let Some(wire) = self.0.take(server, attempt) {
            let number = NETWORK.with_borrow_mut(|network| network.find(place(&wire)));
            return Ok(number.map(|number| (wire, number)));
        }
        let (near, far) = UnixStream::pair()?;
        far.set_nonblocking(true)?;
        let mut socket = Socket::new(TcpStream::from(OwnedFd::from(near)));
        socket.bind(attempt);
        let wire = Box::new(Wire::plain(authority.clone(), socket));
        let number = NETWORK.with_borrow_mut(|network| network.add(authority.as_str(), place(&wire), far));
        Ok(Some((wire, number)))
    }
}

fn place(wire: &Wire) -> usize {
    std::ptr::from_ref(wire).addr()
}

impl Connector<()> for Pairing {
    type Out = Watched;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Watched>, ureq::Error> {
        let attempt = Attempt::current().ok_or(ureq::Error::ConnectionFailed)?;
        NETWORK.with_borrow_mut(Network::settle);
        let connected = self.connect(details, &attempt)?;
        Ok(connected.map(|(wire, number)| Watched {
            lease: Lease::new(wire, Arc::clone(&self.0)),
            number,
            host: details.uri.authority().map(ToString::to_string).unwrap_or_default(),
        }))
    }
}

/// A connection whose server says what is due before anybody waits for it.
#[derive(Debug)]
struct Watched {
    lease: Lease,
    number: usize,
    host: String,
}

impl Transport for Watched {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.lease.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let result = self.lease.transmit_output(amount, timeout);
        NETWORK.with_borrow_mut(|network| network.hear(self.number, &self.host));
        result
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let is_direct = Attempt::current().is_some_and(|attempt| attempt.wants_direct());
        NETWORK.with_borrow_mut(|network| network.go_on(self.number, is_direct));
        let before = self.lease.buffers().input().len();
        let result = self.lease.await_input(timeout);
        let read = self.lease.buffers().input().len() - before;
        NETWORK.with_borrow_mut(|network| network.ends[self.number].read += read);
        result
    }

    fn is_open(&mut self) -> bool {
        self.lease.is_open()
    }

    fn is_tls(&self) -> bool {
        self.lease.is_tls()
    }
}
