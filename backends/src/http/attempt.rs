//! What one attempt shares with the transport that carries it.
//!
//! The agent and its pool serve every attempt, and ureq hands a transport nothing of the request it works for. Both run
//! on the thread of the attempt, so the attempt lies in a thread-local while it lasts and the transport finds it there.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::chunks::Chunks;
use super::fields;
use super::idle::Idle;
use super::route::Route;
use super::tls;
use super::wire::{Socket, Wire};
use crate::{HeaderFields, Interrupt, Limits, net};

/// Most bytes of a body that come without one of its content: sizes of chunks, and fields behind the last of them, which
/// may be as long as a head. ureq reads on for as long as they come, and nothing that they pass through ever sees them: no
/// limit on the rate, and silence it is not.
const FRAMING_BYTES_MAX: usize = super::HEAD_BYTES_MAX;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Attempt>>> = const { RefCell::new(None) };
}

/// What went wrong below HTTP.
#[derive(Debug)]
pub(super) enum Fault {
    /// The attempt was interrupted.
    Interrupted,
    /// No connection was made.
    Net(net::Fault),
    /// A phase took too long.
    TimedOut(Phase),
    /// No root certificates could be had.
    Roots(String),
    /// TLS broke, before or after the handshake.
    Tls(Box<tls::Error>),
    /// The other side closed without `close_notify`, or in the handshake.
    Cut,
    /// The connection broke.
    Connection(io::Error),
    /// The request body cannot be read.
    Body(io::Error),
    /// The server answered before it had the request body, and not with a success.
    Refused,
    /// The server took no more of the request body after so many bytes, while its answer was waiting to be read.
    Unheard(u64),
    /// Chunk sizes or trailer fields without end, and no content between them.
    EndlessFraming,
}

/// What the transport is doing; each phase has its own limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Look-up, TCP connect and TLS handshake together.
    Connect,
    /// Sending the request and waiting for the head of the response.
    Response,
    /// Reading the body: the limit is on silence.
    Body,
}

/// One attempt, while it runs.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) interrupt: Interrupt,
    limits: Limits,
    phase: Cell<Phase>,
    phase_began: Cell<Instant>,
    silent_since: Cell<Option<Instant>>,
    fault: RefCell<Option<Fault>>,
    ended: Cell<bool>,
    reused: Cell<bool>,
    heard: Cell<bool>,
    fresh_only: Cell<bool>,
    direct: Cell<bool>,
    lent: RefCell<Option<Socket>>,
    sends_body: Cell<bool>,
    body_bytes: Cell<u64>,
    refused_after: Cell<Option<u64>>,
    shown: RefCell<HeaderFields>,
    route: RefCell<Option<Arc<Route>>>,
    request_begun: Cell<bool>,
    request_bytes: Cell<usize>,
    framing_bytes: Cell<usize>,
    ending: RefCell<Ending>,
}

/// What becomes of the connection once the response is over.
#[derive(Debug, Default)]
enum Ending {
    /// Not known: the head of the response was not looked at yet.
    #[default]
    Open,
    /// The response is over, and its head was not looked at yet: one without a body is over before that.
    Returned(Box<Wire>, Arc<Idle>),
    /// It may wait for another request.
    Kept,
    /// It may, if the chunks of the response turn out to be clear.
    Chunked(Chunks),
}

/// Ends the attempt's time as the current one of its thread.
pub(super) struct Entered(Rc<Attempt>);

impl std::ops::Deref for Entered {
    type Target = Attempt;

    fn deref(&self) -> &Attempt {
        &self.0
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.with_borrow_mut(|current| *current = None);
    }
}

impl Attempt {
    /// Makes a new attempt the current one of this thread.
    pub(super) fn enter(interrupt: &Interrupt, limits: Limits) -> Entered {
        let attempt = Rc::new(Self {
            interrupt: interrupt.clone(),
            limits,
            phase: Cell::new(Phase::Connect),
            phase_began: Cell::new(Instant::now()),
            silent_since: Cell::new(None),
            fault: RefCell::new(None),
            ended: Cell::new(false),
            reused: Cell::new(false),
            heard: Cell::new(false),
            fresh_only: Cell::new(false),
            direct: Cell::new(false),
            lent: RefCell::new(None),
            sends_body: Cell::new(false),
            body_bytes: Cell::new(0),
            refused_after: Cell::new(None),
            shown: RefCell::default(),
            route: RefCell::new(None),
            request_begun: Cell::new(false),
            request_bytes: Cell::new(usize::MAX),
            framing_bytes: Cell::new(0),
            ending: RefCell::default(),
        });
        CURRENT.with_borrow_mut(|current| *current = Some(Rc::clone(&attempt)));
        Entered(attempt)
    }

    /// The attempt that runs on this thread.
    pub(super) fn current() -> Option<Rc<Self>> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Forgets the last exchange of request and response; with `fresh_only` no pooled connection will do.
    pub(super) fn begin_exchange(&self, fresh_only: bool) {
        self.fault.replace(None);
        self.ended.set(false);
        self.reused.set(false);
        self.heard.set(false);
        self.fresh_only.set(fresh_only);
        self.direct.set(false);
        self.lent.replace(None);
        self.sends_body.set(false);
        self.body_bytes.set(0);
        self.refused_after.set(None);
        self.shown.take();
        self.request_begun.set(false);
        self.framing_bytes.set(0);
        self.ending.take();
        self.enter_phase(Phase::Connect);
    }

    /// How long the next request is, at least, without what ureq adds to its head; one that carries a body counts as endless.
    pub(super) fn expect_request(&self, bytes: usize) {
        self.request_bytes.set(bytes);
    }

    pub(super) fn request_bytes(&self) -> usize {
        self.request_bytes.get()
    }

    /// Goes this way from the next exchange on: straight to the server where `None`.
    pub(super) fn take_route(&self, route: Option<Arc<Route>>) {
        self.route.replace(route);
    }

    pub(super) fn route(&self) -> Option<Arc<Route>> {
        self.route.borrow().clone()
    }

    /// Whether a connection that was opened this way is one that this attempt would open.
    pub(super) fn goes(&self, route: Option<&Route>) -> bool {
        self.route.borrow().as_deref() == route
    }

    /// Whether these are the first bytes of the request; once for each exchange.
    pub(super) fn begins_request(&self) -> bool {
        !self.request_begun.replace(true)
    }

    pub(super) fn enter_phase(&self, phase: Phase) {
        self.phase.set(phase);
        self.phase_began.set(Instant::now());
        self.silent_since.set(None);
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Time left in this phase; `None` once it is over.
    pub(super) fn left(&self) -> Option<Duration> {
        let (limit, since) = match self.phase.get() {
            Phase::Connect => (self.limits.connect, Some(self.phase_began.get())),
            Phase::Response => (self.limits.response, Some(self.phase_began.get())),
            Phase::Body => (self.limits.stall, self.silent_since.get()),
        };
        let left = limit.saturating_sub(since.map_or(Duration::ZERO, |since| since.elapsed()));
        (!left.is_zero()).then_some(left)
    }

    /// The other side said nothing since `since`.
    pub(super) fn note_silence(&self, since: Instant) {
        if self.silent_since.get().is_none() {
            self.silent_since.set(Some(since));
        }
    }

    /// Bytes came.
    pub(super) fn note_bytes(&self) {
        self.heard.set(true);
        self.silent_since.set(None);
    }

    /// Bytes of the request went out: the limit on a response is one on silence while a long body is sent.
    pub(super) fn note_sent(&self) {
        if self.phase.get() == Phase::Response {
            self.phase_began.set(Instant::now());
        }
    }

    /// Whether a request body is being sent, so that an answer would come too early.
    pub(super) fn sends_body(&self) -> bool {
        self.sends_body.get()
    }

    pub(super) fn begin_body(&self) {
        self.sends_body.set(true);
    }

    /// The connection took so many more bytes of what is sent. Head and body never go out together.
    pub(super) fn note_taken(&self, bytes: usize) {
        if self.sends_body.get() {
            self.body_bytes.set(self.body_bytes.get() + bytes as u64);
        }
    }

    /// How much of the request body the connection has taken.
    pub(super) fn body_bytes(&self) -> u64 {
        self.body_bytes.get()
    }

    /// How much of the request body the connection had taken when the server wanted no more of it, if that happened.
    pub(super) fn refused_after(&self) -> Option<u64> {
        self.refused_after.get()
    }

    /// The server does not want the rest of the request body. Whether that is why sending failed: then there may be an
    /// answer all the same, and that says more (RFC 9112, section 9.3).
    pub(super) fn body_was_refused(&self) -> bool {
        let is_refused = self.sends_body.get()
            && match &*self.fault.borrow() {
                Some(Fault::Refused) => true,
                Some(Fault::Connection(error)) => {
                    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
                }
                _ => false,
            };
        if is_refused {
            self.sends_body.set(false);
            self.refused_after.set(Some(self.body_bytes.get()));
            self.fault.take();
        }
        is_refused
    }

    /// ureq has read so much. A head is consumed in one piece, and ureq keeps neither its order nor the case of its names, so
    /// what can be shown of it is kept here.
    pub(super) fn note_consumed(&self, bytes: &[u8]) {
        if self.phase.get() != Phase::Response {
            self.framing_bytes.set(self.framing_bytes.get() + bytes.len());
            if let Ending::Chunked(chunks) = &mut *self.ending.borrow_mut() {
                chunks.follow(bytes);
            }
        } else if bytes.starts_with(b"HTTP/") {
            self.shown.replace(fields::as_sent(bytes));
        }
    }

    /// ureq gave content: what it consumed until then was not in vain.
    pub(super) fn note_content(&self) {
        self.framing_bytes.set(0);
    }

    /// Whether more than a head was consumed since there was content, and more of it is wanted.
    pub(super) fn is_framing_endless(&self) -> bool {
        self.phase.get() == Phase::Body && self.framing_bytes.get() > FRAMING_BYTES_MAX
    }

    /// The fields of the last head.
    pub(super) fn take_shown(&self) -> HeaderFields {
        self.shown.take()
    }

    /// The other side ended the stream in good order.
    pub(super) fn note_end(&self) {
        self.ended.set(true);
    }

    /// A connection from the pool is in use.
    pub(super) fn note_reuse(&self) {
        self.reused.set(true);
    }

    pub(super) fn wants_fresh(&self) -> bool {
        self.fresh_only.get()
    }

    /// A connection is done with, and could carry another request. It waits only for one whose framing is beyond doubt, and is
    /// closed with the exchange where that is never said.
    pub(super) fn hand_back(&self, wire: Box<Wire>, idle: &Arc<Idle>) {
        let mut ending = self.ending.borrow_mut();
        match &*ending {
            Ending::Open | Ending::Returned(..) => *ending = Ending::Returned(wire, Arc::clone(idle)),
            Ending::Chunked(chunks) if !chunks.are_clear() => {}
            Ending::Kept | Ending::Chunked(_) => idle.keep(wire),
        }
    }

    /// Where the response ends is beyond doubt, as far as its head says, so that its connection may carry another request.
    pub(super) fn trust_framing(&self, is_chunked: bool) {
        let trusted = if is_chunked {
            Ending::Chunked(Chunks::default())
        } else {
            Ending::Kept
        };
        if let Ending::Returned(wire, idle) = self.ending.replace(trusted) {
            idle.keep(wire);
        }
    }

    /// Whether the rest of the body is to be read from the socket itself.
    pub(super) fn want_direct(&self, direct: bool) {
        self.direct.set(direct);
    }

    pub(super) fn wants_direct(&self) -> bool {
        self.direct.get()
    }

    /// Leaves the socket for whoever reads the body.
    pub(super) fn lend(&self, socket: Socket) {
        self.lent.replace(Some(socket));
    }

    pub(super) fn take_lent(&self) -> Option<Socket> {
        self.lent.take()
    }

    /// Keeps what went wrong, and gives the error that passes it through ureq. ureq takes some kinds for the end of a
    /// body, so that error is always of kind `Other`.
    pub(super) fn fail(&self, fault: Fault) -> io::Error {
        // A raise shuts the socket down, which looks like any fault of the network; the cause is the raise.
        let fault = if self.interrupt.is_raised() {
            Fault::Interrupted
        } else {
            fault
        };
        self.fault.borrow_mut().get_or_insert(fault);
        io::Error::other("the transport kept the cause")
    }

    /// What went wrong below HTTP, if anything did.
    pub(super) fn take_fault(&self) -> Option<Fault> {
        self.fault.take()
    }

    /// Whether the stream ended in good order: by FIN, and under TLS after `close_notify`.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.get() && self.fault.borrow().is_none() && !self.interrupt.is_raised()
    }

    /// Whether a pooled connection died before it said anything: the server had closed it, and the request may go out
    /// again on a fresh one.
    pub(super) fn reused_connection_was_dead(&self) -> bool {
        let lost = matches!(&*self.fault.borrow(), None | Some(Fault::Cut | Fault::Connection(_)));
        self.reused.get() && !self.heard.get() && lost && !self.interrupt.is_raised()
    }
}
