//! Connections that wait for another request.
//!
//! ureq has a pool of its own. It counts the connections of each server anew, and compares their keys, for every one that
//! is taken or given back, and knows nothing of the ways that lead to a server; so it is left empty, and the connector is
//! asked each time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ureq::unversioned::transport::{Buffers, NextTimeout, Transport};

use super::attempt::Attempt;
use super::buffers::WireBuffers;
use super::wire::{Server, Wire};

/// How long a connection is kept without use; most servers close it not long after.
const IDLE_MAX: Duration = Duration::from_secs(15);

/// Idle connections.
#[derive(Debug)]
pub(super) struct Idle {
    line: Mutex<Line<Box<Wire>>>,
}

impl Idle {
    /// At most so many wait, to whichever servers.
    pub(super) fn new(max: usize) -> Self {
        Self {
            line: Mutex::new(Line::new(max)),
        }
    }

    /// A connection to the server that goes the way of the attempt and is still there. Those that are not are closed.
    pub(super) fn take(&self, server: Server<'_>, attempt: &Attempt) -> Option<Box<Wire>> {
        // Ends: each turn takes one out.
        loop {
            let mut wire = self.next(server, attempt)?;
            if wire.serves(attempt) {
                return Some(wire);
            }
        }
    }

    /// Not looked at under the lock: that asks the system.
    fn next(&self, server: Server<'_>, attempt: &Attempt) -> Option<Box<Wire>> {
        let mut line = self.line();
        // The moments in a line are in order, because they are taken under its lock.
        line.take(Instant::now(), |wire| wire.leads_to(server, attempt))
    }

    /// Keeps one that can wait.
    pub(super) fn keep(&self, wire: Box<Wire>) {
        let mut line = self.line();
        line.join(wire, Instant::now());
    }

    #[cfg(feature = "fuzzing")]
    pub(super) fn len(&self) -> usize {
        self.line().waiting.len()
    }

    fn line(&self) -> MutexGuard<'_, Line<Box<Wire>>> {
        // Each change of the line is whole.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who waits and since when, the one that waits longest first. It looks at no clock: each moment is given, and none lies
/// before the last.
#[derive(Debug)]
struct Line<T> {
    waiting: VecDeque<(Instant, T)>,
    max: usize,
}

impl<T> Line<T> {
    fn new(max: usize) -> Self {
        let waiting = VecDeque::new();
        Self { waiting, max }
    }

    /// Takes out the one that waits longest of those that fit.
    fn take(&mut self, now: Instant, fits: impl Fn(&T) -> bool) -> Option<T> {
        self.drop_old(now);
        let at = self.waiting.iter().position(|(_, other)| fits(other))?;
        self.waiting.remove(at).map(|(_, found)| found)
    }

    /// One more waits; where that is too many, the one that waits longest goes.
    fn join(&mut self, newcomer: T, now: Instant) {
        self.waiting.push_back((now, newcomer));
        self.drop_old(now);
        while self.waiting.len() > self.max {
            self.waiting.pop_front();
        }
    }

    fn drop_old(&mut self, now: Instant) {
        let is_old = |(since, _): &(Instant, T)| now.duration_since(*since) >= IDLE_MAX;
        while self.waiting.front().is_some_and(is_old) {
            self.waiting.pop_front();
        }
    }
}

/// A connection while ureq has it. When ureq would put it into its pool, it goes back to the attempt instead, and from there to
/// the idle ones. Small, because ureq
/// moves it about.
#[derive(Debug)]
pub(super) struct Lease {
    /// `None` once it went back.
    wire: Option<Box<Wire>>,
    idle: Arc<Idle>,
    /// What ureq would find where the connection went back; it does not look.
    nothing: Option<Box<WireBuffers>>,
}

impl Lease {
    pub(super) fn new(wire: Box<Wire>, idle: Arc<Idle>) -> Self {
        Self {
            wire: Some(wire),
            idle,
            nothing: None,
        }
    }

    fn wire(&mut self) -> Result<&mut Wire, ureq::Error> {
        self.wire.as_deref_mut().ok_or(ureq::Error::ConnectionFailed)
    }
}

impl Transport for Lease {
    fn buffers(&mut self) -> &mut dyn Buffers {
        match &mut self.wire {
            Some(wire) => wire.buffers(),
            None => &mut **self.nothing.get_or_insert_with(|| Box::new(WireBuffers::new(0))),
        }
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        self.wire()?.transmit_output(amount)
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        self.wire()?.await_input()
    }

    /// Asked when a connection would go to the pool of ureq, and at no other moment, as nothing is ever there.
    fn is_open(&mut self) -> bool {
        if let Some(mut wire) = self.wire.take()
            && wire.can_wait()
            && let Some(attempt) = Attempt::current()
        {
            attempt.hand_back(wire, &self.idle);
        }
        false
    }

    fn is_tls(&self) -> bool {
        self.wire.as_ref().is_some_and(|wire| wire.is_tls())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use ureq::http::uri::Authority;

    use super::*;
    use crate::http::route::Route;
    use crate::http::target::Target;
    use crate::http::wire::Socket;
    use crate::{Interrupt, Limits, Proxies, Proxy};

    const ALMOST: Duration = Duration::from_millis(14_999);

    fn line_of(max: usize, names: &[&'static str], now: Instant) -> Line<&'static str> {
        let mut line = Line::new(max);
        for name in names {
            line.join(*name, now);
        }
        line
    }

    fn all(mut line: Line<&'static str>, now: Instant) -> Vec<&'static str> {
        std::iter::from_fn(|| line.take(now, |_| true)).collect()
    }

    #[test]
    fn the_one_that_waits_longest_goes_when_there_are_too_many_and_is_taken_first_otherwise() {
        let now = Instant::now();
        assert_eq!(all(line_of(3, &["a", "b", "c"], now), now), ["a", "b", "c"]);
        assert_eq!(all(line_of(3, &["a", "b", "c", "d", "e"], now), now), ["c", "d", "e"]);
    }

    #[test]
    fn where_none_may_wait_none_is_kept() {
        let now = Instant::now();
        let mut line = line_of(0, &["a", "b"], now);
        assert!(line.waiting.is_empty());
        assert_eq!(line.take(now, |_| true), None);
    }

    #[test]
    fn what_waited_15_s_is_never_handed_out_and_what_waited_less_is() {
        let began = Instant::now();
        let mut line = line_of(9, &["a"], began);
        line.join("b", began + Duration::from_millis(1));
        assert_eq!(line.take(began + ALMOST, |name| *name == "a"), Some("a"));
        let mut line = line_of(9, &["a"], began);
        line.join("b", began + Duration::from_millis(1));
        assert_eq!(line.take(began + IDLE_MAX, |name| *name == "a"), None);
        assert_eq!(line.take(began + IDLE_MAX, |_| true), Some("b"), "1 ms less");
        assert_eq!(all(line_of(9, &["a", "b"], began), began + 2 * IDLE_MAX), [""; 0]);
    }

    #[test]
    fn what_is_too_old_makes_room_when_another_comes() {
        let began = Instant::now();
        let mut line = line_of(9, &["a", "b"], began);
        line.join("c", began + IDLE_MAX);
        assert_eq!(line.waiting.len(), 1);
    }

    #[test]
    fn what_does_not_fit_goes_on_waiting() {
        let now = Instant::now();
        let mut line = line_of(9, &["a", "b"], now);
        assert_eq!(line.take(now, |name| *name == "c"), None);
        assert_eq!(line.take(now, |name| *name == "b"), Some("b"));
        assert_eq!(all(line, now), ["a"]);
    }

    const PLAIN: Server<'_> = Server {
        is_secure: false,
        authority: "h.example:81",
    };

    fn way(proxy: &str) -> Option<Arc<Route>> {
        let proxies = Proxies::all(Proxy::parse(proxy).unwrap());
        let target = Target::parse("http://h.example:81/").unwrap().0;
        Route::of(&proxies, &target).map(Arc::new)
    }

    /// A connection to [`PLAIN`] by this way, its other end, and room for it.
    fn waiting(route: Option<Arc<Route>>) -> (Idle, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let authority = Authority::from_static("h.example:81");
        let idle = Idle::new(1);
        idle.keep(Box::new(Wire::plain(authority, Socket::new(near)).on(route)));
        (idle, listener.accept().unwrap().0)
    }

    #[test]
    fn a_connection_is_handed_out_for_its_own_server_scheme_and_way_alone() {
        let attempt = Attempt::enter(&Interrupt::new(), Limits::default());
        let secure = Server {
            is_secure: true,
            ..PLAIN
        };
        let other = Server {
            authority: "h.example:82",
            ..PLAIN
        };
        let [direct, one, two] = [None, way("http://one@proxy:1"), way("http://two@proxy:1")];
        for (opened, asked, server, fits) in [
            (&direct, &direct, PLAIN, true),
            (&one, &one, PLAIN, true),
            (&direct, &direct, other, false),
            (&direct, &direct, secure, false),
            (&direct, &one, PLAIN, false),
            (&one, &direct, PLAIN, false),
            (&one, &two, PLAIN, false),
        ] {
            let (idle, _far) = waiting(opened.clone());
            attempt.take_route(asked.clone());
            let what = format!("{opened:?} {asked:?} {server:?}");
            assert_eq!(idle.take(server, &attempt).is_some(), fits, "{what}");
            attempt.take_route(opened.clone());
            assert_eq!(
                idle.take(PLAIN, &attempt).is_some(),
                !fits,
                "it waits on for others: {what}"
            );
        }
    }

    #[test]
    fn a_connection_that_ended_or_spoke_while_it_waited_is_closed() {
        use std::io::{Read, Write};
        let attempt = Attempt::enter(&Interrupt::new(), Limits::default());
        let (idle, mut far) = waiting(None);
        far.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").unwrap();
        assert!(idle.take(PLAIN, &attempt).is_none());
        // What was not read makes a reset of the end.
        assert!(!far.read(&mut [0]).is_ok_and(|amount| amount > 0));
        let (idle, far) = waiting(None);
        far.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(idle.take(PLAIN, &attempt).is_none());
    }

    #[test]
    fn a_request_that_wants_a_fresh_connection_is_given_none_that_waited() {
        let attempt = Attempt::enter(&Interrupt::new(), Limits::default());
        attempt.begin_exchange(true);
        let (idle, _far) = waiting(None);
        assert!(idle.take(PLAIN, &attempt).is_none());
    }

    #[test]
    fn only_a_connection_that_was_read_to_its_end_under_a_trusted_framing_waits() {
        let attempt = Attempt::enter(&Interrupt::new(), Limits::default());
        // Whether the framing is trusted before it is handed back, after that, or never; and whether bytes are left.
        for (before, after, left, waits) in [
            (true, false, false, true),
            (false, true, false, true),
            (false, false, false, false),
            (true, false, true, false),
            (false, true, true, false),
        ] {
            attempt.begin_exchange(false);
            let (idle, _far) = waiting(None);
            let idle = Arc::new(idle);
            let mut lease = Lease::new(idle.take(PLAIN, &attempt).unwrap(), Arc::clone(&idle));
            if left {
                lease.buffers().input_append_buf()[0] = b'x';
                lease.buffers().input_appended(1);
            }
            if before {
                attempt.trust_framing(false);
            }
            assert!(!lease.is_open(), "ureq is to keep nothing");
            if after {
                attempt.trust_framing(false);
            }
            attempt.begin_exchange(false);
            let found = idle.take(PLAIN, &attempt).is_some();
            assert_eq!(found, waits, "{before} {after} {left}");
        }
    }

    #[test]
    fn a_connection_waits_only_once_the_chunks_of_its_response_are_clear() {
        let attempt = Attempt::enter(&Interrupt::new(), Limits::default());
        for (body, waits) in [
            (&b"3\r\none\r\n0\r\n\r\n"[..], true),
            (b"+3\r\none\r\n0\r\n\r\n", false),
            (b"", false),
        ] {
            attempt.begin_exchange(false);
            let (idle, _far) = waiting(None);
            let idle = Arc::new(idle);
            let mut lease = Lease::new(idle.take(PLAIN, &attempt).unwrap(), Arc::clone(&idle));
            attempt.trust_framing(true);
            lease.buffers().input_append_buf()[..body.len()].copy_from_slice(body);
            lease.buffers().input_appended(body.len());
            lease.buffers().input_consume(body.len());
            lease.is_open();
            assert_eq!(idle.take(PLAIN, &attempt).is_some(), waits, "{}", body.escape_ascii());
        }
    }
}
