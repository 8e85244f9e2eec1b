//! The thread that waits for all sockets at once.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::ServerLimits;
use super::link::Link;
use super::pool::{CALLS_MAX, Pool, WAITING_CALLS_MAX};
use super::shared::{Shared, Token};
use super::telling::Telling;
use super::traffic::Step;
use crate::budget::Clients;
use crate::engine::Engine;
use crate::service::fault::Fault;
use crate::service::message::refusal;
use crate::service::socket::{Socket, peer};

/// Events that are taken from the system at once.
const EVENTS_MAX: usize = 256;
/// Times that one connection is read from before others have their turn.
const ROUNDS_MAX: usize = 16;
/// Connections that are accepted before others have their turn.
const ACCEPTS_MAX: usize = 64;
/// Pause after the system had no file descriptor for another connection, unless one ends before.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// How long calls in progress may take when the server stops, and how long its threads may take besides.
const WIND_DOWN_MAX: Duration = Duration::from_millis(700);
const THREADS_END_MAX: Duration = Duration::from_millis(200);
/// Open files that are left to the rest of the process: what the engine does not count.
const FILES_BESIDES: usize = 16;
/// Fewest connections, however few files the system allows.
const CONNECTIONS_MIN: usize = 8;

/// Why connections end when the server does.
pub(super) const STOPPED: &str = "the service has stopped";

/// The bell's number among the events. Sockets have those from 0 on, connections those from [`FIRST_TOKEN`] on.
const BELL: u64 = u64::MAX;
const FIRST_TOKEN: Token = 1 << 16;

pub(super) struct EventLoop {
    pub(super) engine: Arc<Engine>,
    pub(super) limits: ServerLimits,
    pub(super) shared: Arc<Shared>,
    pub(super) links: HashMap<Token, Link>,
    pub(super) pool: Pool,
    /// For calls that wait for more than a disk.
    pub(super) waiting_pool: Pool,
    pub(super) telling: Telling,
    epoll: OwnedFd,
    sockets: Vec<Socket>,
    /// Connections of each user.
    peers: HashMap<u32, usize>,
    next_token: Token,
    /// When something is to be done for a connection if nothing happens before.
    due: BTreeSet<(Instant, Token)>,
    /// When the sockets are listened to again, where the system had no file descriptor.
    accept_at: Option<Instant>,
    /// The server stops.
    pub(super) is_winding_down: bool,
}

impl EventLoop {
    pub(super) fn new(
        engine: Arc<Engine>,
        sockets: Vec<Socket>,
        limits: ServerLimits,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, shared.bell(), EventData::new_u64(BELL), EventFlags::IN)?;
        let clients = within_memory(limits, &engine);
        let limits = fitting(limits, &engine);
        let mut event_loop = Self {
            engine,
            limits,
            shared,
            links: HashMap::new(),
            pool: Pool::new(clients.calls_max),
            waiting_pool: Pool::new(clients.waiting_calls_max),
            telling: Telling::new(),
            epoll,
            sockets,
            peers: HashMap::new(),
            next_token: FIRST_TOKEN,
            due: BTreeSet::new(),
            accept_at: None,
            is_winding_down: false,
        };
        for socket in &event_loop.sockets {
            socket.listener.set_nonblocking(true)?;
        }
        event_loop.listen()?;
        Ok(event_loop)
    }

    pub(super) fn run(&mut self) {
        while !self.shared.is_stopping() {
            if let Err(error) = self.turn(self.next_moment()) {
                log::error!("the service has stopped: {error}");
                break;
            }
        }
        self.wind_down();
    }

    // ---- turns ----

    /// When something is to be done although nothing happens.
    fn next_moment(&self) -> Option<Instant> {
        let due = self.due.first().map(|(at, _)| *at);
        let told = self.telling.next_moment();
        [due, self.accept_at, told].into_iter().flatten().min()
    }

    /// Waits until something happens, or until a moment, and does what follows.
    fn turn(&mut self, until: Option<Instant>) -> io::Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
        let time = until.map(|until| timespec(until.saturating_duration_since(Instant::now())));
        match epoll::wait(&self.epoll, spare_capacity(&mut events), time.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        #[cfg(test)]
        self.shared.turns.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        for event in events {
            match event.data.u64() {
                BELL => self.shared.silence(),
                token if token >= FIRST_TOKEN => self.happened(token, event.flags),
                socket => self.accept(usize::try_from(socket).unwrap_or(usize::MAX)),
            }
        }
        if let Some(limits) = self.shared.take_limits() {
            self.limits = fitting(limits, &self.engine);
        }
        for done in self.shared.take_done() {
            self.finish(done);
        }
        let now = Instant::now();
        if self.shared.take_noted() {
            self.telling.is_noted(now);
        }
        self.look_at_clock(now);
        Ok(())
    }

    fn look_at_clock(&mut self, now: Instant) {
        if self.accept_at.is_some_and(|at| at <= now) {
            self.listen_again();
        }
        while let Some((at, token)) = self.due.first().copied()
            && at <= now
        {
            self.due.remove(&(at, token));
            self.is_late(token, now);
        }
        self.tell_what_is_due(now);
    }

    /// A client has not read for too long, or has waited as long as it wanted to.
    fn is_late(&mut self, token: Token, now: Instant) {
        let Some(link) = self.links.get_mut(&token) else { return };
        link.due = None;
        if link
            .stalled_since
            .is_none_or(|since| since + self.limits.stall_max > now)
        {
            return self.look(token);
        }
        let problem = format!(
            "the client has read nothing for {} s",
            self.limits.stall_max.as_secs_f32()
        );
        link.say_at_last(refusal(&Fault::disconnected(&problem)));
        self.end(token);
    }

    // ---- connections ----

    /// Listens to the sockets.
    fn listen(&mut self) -> io::Result<()> {
        for (number, socket) in self.sockets.iter().enumerate() {
            let number = EventData::new_u64(number as u64);
            epoll::add(&self.epoll, &socket.listener, number, EventFlags::IN)?;
        }
        Ok(())
    }

    fn listen_again(&mut self) {
        self.accept_at = None;
        if let Err(error) = self.listen() {
            log::warn!("the service cannot listen again: {error}");
            self.pause_accepting();
        }
    }

    /// A connection that cannot be accepted stays where it is, and would be told of without end.
    fn pause_accepting(&mut self) {
        for socket in &self.sockets {
            let _ = epoll::delete(&self.epoll, &socket.listener);
        }
        self.accept_at = Some(Instant::now() + ACCEPT_PAUSE);
    }

    fn accept(&mut self, number: usize) {
        for _ in 0..ACCEPTS_MAX {
            let Some(socket) = self.sockets.get(number) else { return };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(&socket.listener, flags) {
                Ok(stream) => self.admit(stream.into()),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    log::warn!("the service cannot accept a connection: {error}");
                    self.pause_accepting();
                    return;
                }
            }
        }
    }

    fn admit(&mut self, stream: UnixStream) {
        let uid = match self.check_peer(&stream) {
            Ok(uid) => uid,
            Err(fault) => {
                Link::new(stream, 0, 0).say_at_last(refusal(&fault));
                return;
            }
        };
        let token = self.next_token;
        let data = EventData::new_u64(token);
        if let Err(error) = epoll::add(&self.epoll, &stream, data, EventFlags::IN) {
            log::warn!("the service cannot look at a connection: {error}");
            return;
        }
        self.next_token += 1;
        *self.peers.entry(uid).or_default() += 1;
        self.links
            .insert(token, Link::new(stream, uid, self.limits.message_bytes_max));
        self.shared.set_connections(self.links.len());
    }

    fn check_peer(&self, stream: &UnixStream) -> Result<u32, Fault> {
        let Some(uid) = peer(stream) else {
            return Err(Fault::permission_denied());
        };
        let full = |what: &str, max: usize| Fault::disconnected(&format!("{what}: the limit of {max} is reached"));
        if self.links.len() >= self.limits.connections_max {
            return Err(full("connections", self.limits.connections_max));
        }
        let per_peer_max = self.limits.connections_per_peer_max;
        if self.peers.get(&uid).is_some_and(|count| *count >= per_peer_max) {
            return Err(full("connections of one user", per_peer_max));
        }
        Ok(uid)
    }

    /// Ends a connection at once.
    pub(super) fn end(&mut self, token: Token) {
        let Some(link) = self.links.remove(&token) else { return };
        if let Some(at) = link.due {
            self.due.remove(&(at, token));
        }
        if let Some(count) = self.peers.get_mut(&link.uid) {
            *count -= 1;
            if *count == 0 {
                self.peers.remove(&link.uid);
            }
        }
        self.telling.remove(token, link.named);
        drop(link);
        self.shared.set_connections(self.links.len());
        if self.accept_at.is_some() {
            self.listen_again();
        }
    }

    // ---- messages ----

    fn happened(&mut self, token: Token, flags: EventFlags) {
        let Some(link) = self.links.get_mut(&token) else { return };
        // Nobody is left at the other end. What was sent before is done all the same.
        if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            link.traffic.abandon();
            // It would be told of without end.
            let _ = epoll::delete(&self.epoll, &link.stream);
            link.interest = None;
        }
        self.pump(token);
    }

    /// Writes, reads and begins what can be.
    pub(super) fn pump(&mut self, token: Token) {
        let mut rounds = 0;
        loop {
            let Some(link) = self.links.get_mut(&token) else { return };
            // Nobody tells again of one that has hung up; what it has sent before is bounded by the system.
            let may_read = rounds < ROUNDS_MAX || link.interest.is_none();
            let has_more = may_read && link.move_bytes();
            rounds += 1;
            match link.traffic.step() {
                Step::Begin(message) => self.begin(token, message),
                Step::TooLong => {
                    let max = self.limits.message_bytes_max;
                    let problem = format!("a call is longer than {max} bytes, which is the limit");
                    self.break_off(token, &problem);
                }
                Step::Nothing if has_more => {}
                Step::Nothing => break,
            }
        }
        // One that looks on has perhaps taken its last update.
        self.go_on(token);
    }

    /// Looks at what a connection waits for now.
    pub(super) fn settle(&mut self, token: Token) {
        let Some(link) = self.links.get_mut(&token) else { return };
        if link.traffic.is_over() {
            return self.end(token);
        }
        let wanted = link.wanted();
        if link.interest.is_some_and(|interest| interest != wanted) {
            link.interest = Some(wanted);
            let changed = epoll::modify(&self.epoll, &link.stream, EventData::new_u64(token), wanted);
            if let Err(error) = changed {
                log::warn!("the service cannot look at a connection: {error}");
                return self.end(token);
            }
        }
        let stalled = link.stalled_since.map(|since| since + self.limits.stall_max);
        let due = stalled.or_else(|| self.telling.waits.end(token));
        if due != link.due {
            let before = std::mem::replace(&mut link.due, due);
            before.map(|at| self.due.remove(&(at, token)));
            due.map(|at| self.due.insert((at, token)));
        }
    }

    /// Ends a connection after a reason.
    pub(super) fn break_off(&mut self, token: Token, problem: &str) {
        if let Some(link) = self.links.get_mut(&token) {
            link.traffic.send(refusal(&Fault::disconnected(problem)).into());
            link.traffic.close();
        }
    }

    // ---- the end ----

    /// Lets calls in progress end for a while, then ends every connection with a reason.
    fn wind_down(&mut self) {
        let end = Instant::now() + WIND_DOWN_MAX;
        for socket in self.sockets.drain(..) {
            let _ = epoll::delete(&self.epoll, &socket.listener);
        }
        self.accept_at = None;
        self.is_winding_down = true;
        let tokens: Vec<Token> = self.links.keys().copied().collect();
        for token in tokens {
            match self.links.get_mut(&token) {
                Some(link) if link.is_working() => link.traffic.close(),
                _ => {
                    self.end_call(token, None);
                    self.break_off(token, STOPPED);
                }
            }
            self.pump(token);
        }
        while !self.links.is_empty() && Instant::now() < end {
            if self.turn(Some(end)).is_err() {
                break;
            }
        }
        for link in self.links.values_mut() {
            link.say_at_last(refusal(&Fault::disconnected(STOPPED)));
        }
        self.links.clear();
        let end = Instant::now() + THREADS_END_MAX;
        self.pool.stop(end);
        self.waiting_pool.stop(end);
        self.shared.set_connections(0);
    }
}

/// Limits as far as the system has room for them.
fn fitting(limits: ServerLimits, engine: &Engine) -> ServerLimits {
    let clients = within_memory(limits, engine);
    ServerLimits {
        message_bytes_max: clients.message_bytes_max,
        connections_max: clients.connections_max.min(room_for_connections(engine)),
        monitors_max: clients.monitors_max,
        ..limits
    }
}

/// Limits as far as the limit of memory has room for them.
fn within_memory(limits: ServerLimits, engine: &Engine) -> Clients {
    let asked = Clients {
        message_bytes_max: limits.message_bytes_max,
        connections_max: limits.connections_max,
        monitors_max: limits.monitors_max,
        calls_max: CALLS_MAX,
        waiting_calls_max: WAITING_CALLS_MAX,
    };
    asked.fit(engine.memory_limit())
}

/// Connections for which the limit of open files has room beside those of the engine.
fn room_for_connections(engine: &Engine) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    files
        .saturating_sub(engine.files_max() + FILES_BESIDES)
        .max(CONNECTIONS_MIN)
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}
