//! Carries bytes between ureq and a socket, plain or under TLS: bound to the interrupt of the attempt it works for,
//! within that attempt's limits, and remembering how the stream ended.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::RecvFlags;
use ureq::Error;
use ureq::http::uri::Authority;
use ureq::unversioned::transport::Buffers;

use super::attempt::{Attempt, Fault, Phase};
use super::buffers::WireBuffers;
use super::route::Route;
use super::tls::ClientConnection;
use crate::Binding;

/// Longest wait in one system call. After each, the interrupt and the limits are looked at, and what was read so far
/// can go on to the sink.
pub(super) const TICK: Duration = Duration::from_millis(250);

/// Input of a plain connection, for heads, small bodies and chunks (chosen without measurement).
const PLAIN_INPUT_BYTES: usize = 64 * 1024;

/// So much unread input is an answer, whatever it looks like: what comes unasked under TLS is shorter.
const ANSWER_BYTES: u64 = 16 * 1024;

/// Input under TLS, where one read gives one record of at most 16 KiB. It must hold a whole response head.
const TLS_INPUT_BYTES: usize = 48 * 1024;

/// A connected socket.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Arc<TcpStream>,
    /// Present while an attempt uses the connection.
    binding: Option<Binding>,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream: Arc::new(stream),
            binding: None,
            read_timeout: None,
            write_timeout: None,
        }
    }

    pub(super) fn bind(&mut self, attempt: &Attempt) {
        self.binding = Some(attempt.interrupt.bind(self.stream.clone()));
    }

    /// The same socket for a reader of its own; the binding stays here.
    fn share(&self) -> Self {
        Self {
            stream: Arc::clone(&self.stream),
            binding: None,
            read_timeout: None,
            write_timeout: None,
        }
    }

    /// The next wait: a tick, or what is left of the phase.
    fn next_wait(attempt: &Attempt) -> io::Result<Duration> {
        if attempt.interrupt.is_raised() {
            return Err(attempt.fail(Fault::Interrupted));
        }
        let left = attempt
            .left()
            .ok_or_else(|| attempt.fail(Fault::TimedOut(attempt.phase())))?;
        // The kernel counts in microseconds at best and takes 0 for no limit.
        Ok(left.min(TICK).max(Duration::from_millis(1)))
    }

    /// Reads what there is; a socket that a raise shut down reads as ended. In the body, [`io::ErrorKind::WouldBlock`] after a silent tick; otherwise it waits on.
    pub(super) fn read(&mut self, attempt: &Attempt, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let wait = Self::next_wait(attempt)?;
            if self.read_timeout != Some(wait) {
                self.stream
                    .set_read_timeout(Some(wait))
                    .map_err(|error| attempt.fail(Fault::Connection(error)))?;
                self.read_timeout = Some(wait);
            }
            match (&*self.stream).read(buffer) {
                Ok(0) => return Ok(0),
                Ok(amount) => {
                    attempt.note_bytes();
                    return Ok(amount);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    attempt.note_silence(Instant::now().checked_sub(wait).unwrap_or_else(Instant::now));
                    if attempt.phase() == Phase::Body {
                        return Err(error);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(attempt.fail(Fault::Connection(error))),
            }
        }
    }

    fn write(&mut self, attempt: &Attempt, bytes: &[u8]) -> io::Result<usize> {
        loop {
            if attempt.sends_body() && attempt.left().is_none() && self.is_answered() {
                return Err(attempt.fail(Fault::Unheard(attempt.body_bytes())));
            }
            let wait = Self::next_wait(attempt)?;
            if self.write_timeout != Some(wait) {
                self.stream
                    .set_write_timeout(Some(wait))
                    .map_err(|error| attempt.fail(Fault::Connection(error)))?;
                self.write_timeout = Some(wait);
            }
            if attempt.sends_body() && self.is_refused_early() {
                return Err(attempt.fail(Fault::Refused));
            }
            match (&*self.stream).write(bytes) {
                Ok(amount) => {
                    attempt.note_sent();
                    return Ok(amount);
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(attempt.fail(Fault::Connection(error))),
            }
        }
    }

    /// Whether an answer lies there that is no success, while the request is still being sent. Under TLS what lies there
    /// looks like none.
    ///
    /// Source: RFC 9112, section 9.3: whoever sends a body watches for such an answer.
    fn is_refused_early(&self) -> bool {
        matches!(self.status_class(), Some(b'3'..=b'9'))
    }

    /// Whether an answer lies there unread that is a success, or long.
    fn is_answered(&self) -> bool {
        self.status_class() == Some(b'2')
            || rustix::io::ioctl_fionread(&*self.stream).is_ok_and(|bytes| bytes > ANSWER_BYTES)
    }

    /// The first digit of the status of an answer that lies there unread.
    fn status_class(&self) -> Option<u8> {
        let mut beginning = [0; 10];
        let is_answer = self.read_now(&mut beginning, RecvFlags::PEEK).is_ok() && beginning.starts_with(b"HTTP/1.");
        is_answer.then_some(beginning[9])
    }

    /// Reads without waiting.
    fn read_now(&self, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
        let (_, amount) = rustix::net::recv(&*self.stream, buffer, flags | RecvFlags::DONTWAIT)?;
        Ok(amount)
    }
}

/// A socket in the service of an attempt, as rustls wants it.
struct Serving<'a> {
    socket: &'a mut Socket,
    attempt: &'a Attempt,
}

impl Read for Serving<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read(self.attempt, buffer)
    }
}

impl Write for Serving<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(self.attempt, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The server that a connection leads to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Server<'a> {
    pub(super) is_secure: bool,
    /// Host and port, as the URL has them: in lower case.
    pub(super) authority: &'a str,
}

/// What ureq sends and receives through.
#[derive(Debug)]
pub(super) struct Wire {
    /// Host and port of the server.
    authority: Authority,
    socket: Socket,
    tls: Option<Box<ClientConnection>>,
    buffers: WireBuffers,
    /// The server did not want the rest of a request body, which then goes nowhere; no other request can follow it.
    has_refused: bool,
    /// The proxy that it leads through.
    route: Option<Arc<Route>>,
}

impl Wire {
    pub(super) fn plain(authority: Authority, socket: Socket) -> Self {
        Self {
            authority,
            socket,
            tls: None,
            buffers: WireBuffers::new(PLAIN_INPUT_BYTES),
            has_refused: false,
            route: None,
        }
    }

    /// Says which way it was opened.
    pub(super) fn on(self, route: Option<Arc<Route>>) -> Self {
        Self { route, ..self }
    }

    /// Makes the handshake.
    pub(super) fn secure(
        authority: Authority,
        mut socket: Socket,
        mut tls: ClientConnection,
        attempt: &Attempt,
    ) -> io::Result<Self> {
        while tls.is_handshaking() {
            flush_tls(&mut tls, &mut socket, attempt)?;
            if tls.is_handshaking() && feed_tls(&mut tls, &mut socket, attempt)? == 0 {
                return Err(attempt.fail(Fault::Cut));
            }
        }
        flush_tls(&mut tls, &mut socket, attempt)?;
        Ok(Self {
            authority,
            socket,
            tls: Some(Box::new(tls)),
            buffers: WireBuffers::new(TLS_INPUT_BYTES),
            has_refused: false,
            route: None,
        })
    }

    fn send(&mut self, amount: usize, attempt: &Attempt) -> io::Result<()> {
        let mut bytes = &self.buffers.output()[..amount];
        let for_proxy;
        if let Some(route) = self.route.as_deref().filter(|route| route.is_relayed())
            && attempt.begins_request()
        {
            let wrong = || Fault::Connection(io::Error::other("a request that does not begin with its first line"));
            let front = route.front_of_request(bytes);
            for_proxy = front.ok_or_else(|| attempt.fail(wrong()))?;
            bytes = &for_proxy;
        }
        match &mut self.tls {
            None => {
                while !bytes.is_empty() {
                    let written = self.socket.write(attempt, bytes)?;
                    attempt.note_taken(written);
                    bytes = &bytes[written..];
                }
            }
            Some(tls) => {
                while !bytes.is_empty() {
                    let taken = tls.writer().write(bytes)?;
                    bytes = &bytes[taken..];
                    flush_tls(tls, &mut self.socket, attempt)?;
                    attempt.note_taken(taken);
                }
            }
        }
        Ok(())
    }

    fn receive(&mut self, attempt: &Attempt) -> io::Result<usize> {
        if attempt.wants_direct() && self.tls.is_none() {
            attempt.lend(self.socket.share());
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if attempt.is_framing_endless() {
            return Err(attempt.fail(Fault::EndlessFraming));
        }
        let room = self.buffers.input_append_buf();
        if room.is_empty() {
            // The limit on the response head keeps this from happening; a read into nothing would look like the end.
            return Err(attempt.fail(Fault::Connection(io::Error::other(
                "a line longer than the input buffer",
            ))));
        }
        let amount = match &mut self.tls {
            None => self.socket.read(attempt, room)?,
            Some(tls) => receive_tls(tls, &mut self.socket, attempt, room)?,
        };
        if amount == 0 {
            attempt.note_end();
        }
        self.buffers.input_appended(amount);
        Ok(amount)
    }

    /// Whether an idle connection is still there and silent, as it must be.
    fn is_idle(&mut self) -> bool {
        match &mut self.tls {
            None => would_block(self.socket.read_now(&mut [0], RecvFlags::PEEK)),
            Some(tls) => is_idle_tls(tls, &self.socket),
        }
    }
}

impl Wire {
    fn server(&self) -> Server<'_> {
        Server {
            is_secure: self.is_tls(),
            authority: self.authority.as_str(),
        }
    }

    pub(super) fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    pub(super) fn transmit_output(&mut self, amount: usize) -> Result<(), Error> {
        let attempt = current()?;
        if self.socket.binding.is_none() {
            self.socket.bind(&attempt);
            attempt.note_reuse();
        }
        attempt.enter_phase(Phase::Response);
        if !self.has_refused
            && let Err(error) = self.send(amount, &attempt)
        {
            // What rustls still has to send would come before anything that can be read.
            if self.tls.is_some() || !attempt.body_was_refused() {
                return Err(error.into());
            }
            self.has_refused = true;
        }
        attempt.enter_phase(Phase::Response);
        Ok(())
    }

    pub(super) fn await_input(&mut self) -> Result<bool, Error> {
        let attempt = current()?;
        Ok(self.receive(&attempt)? > 0)
    }

    /// Lets a connection go that nobody uses any more, and its buffers with it; whether it can carry another request, which
    /// none can whose server said more than was read.
    pub(super) fn can_wait(&mut self) -> bool {
        self.socket.binding = None;
        let is_read = self.buffers.input().is_empty();
        self.buffers.release();
        // One that the server closes is found when it is wanted again; what comes under TLS meanwhile is taken in now.
        is_read && !self.has_refused && (self.tls.is_none() || self.is_idle())
    }

    /// Whether it leads to this server, the way that the attempt goes.
    pub(super) fn leads_to(&self, server: Server<'_>, attempt: &Attempt) -> bool {
        self.server() == server && attempt.goes(self.route.as_deref())
    }

    /// Whether one that waited can carry the request of this attempt.
    pub(super) fn serves(&mut self, attempt: &Attempt) -> bool {
        !attempt.wants_fresh() && self.is_idle()
    }

    pub(super) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }
}

fn current() -> Result<std::rc::Rc<Attempt>, Error> {
    Attempt::current().ok_or_else(|| Error::Io(io::Error::other("a connection was used outside an attempt")))
}

fn flush_tls(tls: &mut ClientConnection, socket: &mut Socket, attempt: &Attempt) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(&mut Serving { socket, attempt })?;
    }
    Ok(())
}

/// Moves what came from the socket into rustls; 0 at the end of the stream.
fn feed_tls(tls: &mut ClientConnection, socket: &mut Socket, attempt: &Attempt) -> io::Result<usize> {
    let amount = tls.read_tls(&mut Serving { socket, attempt })?;
    if let Err(error) = tls.process_new_packets() {
        // The other side hears of the alert where it still can; the error counts either way.
        let _ = flush_tls(tls, socket, attempt);
        return Err(attempt.fail(Fault::Tls(Box::new(error))));
    }
    flush_tls(tls, socket, attempt)?;
    Ok(amount)
}

/// Plain bytes from rustls; 0 only after `close_notify`.
fn receive_tls(
    tls: &mut ClientConnection,
    socket: &mut Socket,
    attempt: &Attempt,
    room: &mut [u8],
) -> io::Result<usize> {
    loop {
        match tls.reader().read(room) {
            Ok(amount) => return Ok(amount),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                feed_tls(tls, socket, attempt)?;
            }
            // rustls calls it so when the stream ended without close_notify.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(attempt.fail(Fault::Cut)),
            Err(error) => return Err(attempt.fail(Fault::Connection(error))),
        }
    }
}

/// Session tickets may still arrive on an idle connection and are taken in; anything else must not.
fn is_idle_tls(tls: &mut ClientConnection, socket: &Socket) -> bool {
    struct Now<'a>(&'a Socket);
    impl Read for Now<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read_now(buffer, RecvFlags::empty())
        }
    }
    loop {
        match tls.read_tls(&mut Now(socket)) {
            Ok(0) => return false,
            Ok(_) => {}
            error => return would_block(error) && tls.reader().read(&mut [0]).is_err(),
        }
        match tls.process_new_packets() {
            Ok(state) if !state.peer_has_closed() && state.plaintext_bytes_to_read() == 0 => {}
            _ => return false,
        }
    }
}

fn would_block(result: io::Result<usize>) -> bool {
    result.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}
