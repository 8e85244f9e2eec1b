//! Opens connections for every backend: looks a name up and tries each address, or has a proxy do so, within a time limit,
//! and out of each wait as soon as it is interrupted.

mod handshake;
mod socks;
mod tunnel;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use self::handshake::Handshake;
pub(crate) use self::socks::meaning as socks_meaning;
#[cfg(feature = "http")]
pub(crate) use self::tunnel::authorization;
use crate::{Interrupt, Proxy, ProxyProtocol};

/// Longest wait before the interrupt is looked at again.
const SLICE: Duration = Duration::from_millis(50);

/// Addresses of a server that a proxy is asked for, one after the other. Each takes a connection of its own.
const SERVER_ADDRESSES_MAX: usize = 4;

/// Look-ups that may be under way at once. An interrupted one runs on until the system's resolver gives up, so this
/// bounds the threads that a dead name server can tie down.
const LOOKUPS_MAX: usize = 64;

/// Stack of a look-up thread; glibc's resolver is content with half of it (chosen without measurement).
const LOOKUP_STACK_BYTES: usize = 256 * 1024;

static LOOKUPS: AtomicUsize = AtomicUsize::new(0);

/// Why no connection was made.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The attempt was interrupted.
    Interrupted,
    /// Not within the time limit.
    TimedOut,
    /// The name could not be looked up; the resolver's words.
    Name(String),
    /// No address accepted a connection; the last one and its answer.
    Connect(SocketAddr, io::Error),
    /// The proxy, as it is shown, and why it leads nowhere.
    Proxy(String, ProxyFault),
}

/// Why a proxy leads nowhere. None of it says anything of the server but what the proxy said.
#[derive(Debug)]
pub(crate) enum ProxyFault {
    /// No connection to the proxy itself.
    Away(Box<Fault>),
    /// It did not answer within the time limit.
    Silent,
    /// The connection to it broke before it had answered.
    Broken(io::Error),
    /// It closed the connection before it had answered.
    Closed,
    /// It does not speak as its protocol wants; what was wrong.
    Garbled(&'static str),
    /// Its answer to CONNECT, which is no success.
    Status(u16),
    /// It wants a user name and a password, and none is given.
    NoCredential,
    /// It does not take the user name and the password.
    WrongCredential,
    /// Its reply, as RFC 1928, section 6, counts them.
    Reply(u8),
}

impl ProxyFault {
    pub(crate) fn of(self, proxy: &Proxy) -> Fault {
        Fault::Proxy(proxy.to_string(), self)
    }
}

/// How long whoever opens a connection waits, and what ends every wait at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience<'a> {
    pub(crate) interrupt: &'a Interrupt,
    pub(crate) until: Instant,
}

impl Patience<'_> {
    /// What is left of it.
    fn left(&self) -> Result<Duration, Fault> {
        if self.interrupt.is_raised() {
            return Err(Fault::Interrupted);
        }
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(Fault::TimedOut) } else { Ok(left) }
    }

    fn next_wait(&self) -> Result<Duration, Fault> {
        self.left().map(|left| left.min(SLICE))
    }
}

/// Opens a connection to a port of a host, through a proxy where one is given. The stream blocks and sends at once
/// (`TCP_NODELAY`); nobody has bound it to the interrupt yet, and nothing was read from it that comes from the host.
pub(crate) fn dial(proxy: Option<&Proxy>, host: &str, port: u16, patience: &Patience<'_>) -> Result<TcpStream, Fault> {
    let Some(proxy) = proxy else {
        return connect_any(&look_up(host, port, patience)?, patience);
    };
    match proxy.protocol() {
        ProxyProtocol::Http => {
            let mut handshake = Handshake::new(reach(proxy, patience)?, proxy, patience);
            tunnel::open(&mut handshake, host, port)?;
            Ok(handshake.end())
        }
        ProxyProtocol::Socks5Hostname => dial_socks(proxy, &socks::Place::of(host), port, patience),
        ProxyProtocol::Socks5 => dial_each(proxy, &look_up(host, port, patience)?, patience),
    }
}

/// Opens a connection to a proxy.
pub(crate) fn reach(proxy: &Proxy, patience: &Patience<'_>) -> Result<TcpStream, Fault> {
    let reached = look_up(proxy.host(), proxy.port(), patience).and_then(|addresses| connect_any(&addresses, patience));
    reached.map_err(|fault| match fault {
        Fault::Interrupted => fault,
        fault => ProxyFault::Away(Box::new(fault)).of(proxy),
    })
}

fn dial_socks(proxy: &Proxy, place: &socks::Place<'_>, port: u16, patience: &Patience<'_>) -> Result<TcpStream, Fault> {
    let mut handshake = Handshake::new(reach(proxy, patience)?, proxy, patience);
    socks::open(&mut handshake, place, port)?;
    Ok(handshake.end())
}

/// Asks a SOCKS proxy for each address of a server in order, as long as it says no more than that one leads nowhere.
fn dial_each(proxy: &Proxy, addresses: &[SocketAddr], patience: &Patience<'_>) -> Result<TcpStream, Fault> {
    let mut addresses = addresses.iter().take(SERVER_ADDRESSES_MAX).peekable();
    while let Some(address) = addresses.next() {
        let place = socks::Place::Address(address.ip());
        match dial_socks(proxy, &place, address.port(), patience) {
            Err(Fault::Proxy(_, ProxyFault::Reply(reply)))
                if socks::may_depend_on_address(reply) && addresses.peek().is_some() => {}
            result => return result,
        }
    }
    Err(Fault::Name("no address".to_owned()))
}

/// The addresses of a host. The system's resolver cannot be interrupted, so it runs on a thread of its own, which is
/// abandoned when the attempt ends first.
fn look_up(host: &str, port: u16, patience: &Patience<'_>) -> Result<Vec<SocketAddr>, Fault> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let answer = start_look_up(host, port).map_err(Fault::Name)?;
    loop {
        let wait = patience.next_wait()?;
        match answer.recv_timeout(wait) {
            Ok(Ok(addresses)) if addresses.is_empty() => return Err(Fault::Name("no address".to_owned())),
            Ok(Ok(addresses)) => return Ok(addresses),
            Ok(Err(error)) => return Err(Fault::Name(error.to_string())),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Fault::Name("the look-up ended without an answer".to_owned()));
            }
        }
    }
}

type Answer = io::Result<Vec<SocketAddr>>;

fn start_look_up(host: &str, port: u16) -> Result<mpsc::Receiver<Answer>, String> {
    if LOOKUPS.fetch_add(1, Ordering::Relaxed) >= LOOKUPS_MAX {
        LOOKUPS.fetch_sub(1, Ordering::Relaxed);
        return Err(format!(
            "temporary failure: {LOOKUPS_MAX} look-ups are waiting for a name server already"
        ));
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    let host = host.to_owned();
    let look_up = move || {
        let answer = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
        LOOKUPS.fetch_sub(1, Ordering::Relaxed);
        // Nobody listens any more once the attempt was interrupted.
        let _ = sender.send(answer);
    };
    let thread = thread::Builder::new()
        .name("backhaul-lookup".to_owned())
        .stack_size(LOOKUP_STACK_BYTES);
    if let Err(error) = thread.spawn(look_up) {
        LOOKUPS.fetch_sub(1, Ordering::Relaxed);
        return Err(format!("temporary failure: no thread for the look-up: {error}"));
    }
    Ok(receiver)
}

/// Tries each address in order. One that answers outweighs one that cannot be reached in what is reported.
fn connect_any(addresses: &[SocketAddr], patience: &Patience<'_>) -> Result<TcpStream, Fault> {
    let mut refusal: Option<(SocketAddr, io::Error)> = None;
    for (index, address) in addresses.iter().enumerate() {
        let left = patience.left()?;
        let budget = if index + 1 == addresses.len() { left } else { left / 2 };
        match connect(*address, budget, patience) {
            Ok(stream) => return Ok(stream),
            Err(_) if patience.interrupt.is_raised() => return Err(Fault::Interrupted),
            Err(error) => {
                if refusal.as_ref().is_none_or(|(_, earlier)| is_unreachable(earlier)) {
                    refusal = Some((*address, error));
                }
            }
        }
    }
    Err(match refusal {
        Some((_, error)) if error.kind() == io::ErrorKind::TimedOut => Fault::TimedOut,
        Some((address, error)) => Fault::Connect(address, error),
        None => Fault::Name("no address".to_owned()),
    })
}

/// Whether nothing was said by the other side: there was no way to it.
pub(crate) fn is_unreachable(error: &io::Error) -> bool {
    use io::ErrorKind::{HostUnreachable, NetworkDown, NetworkUnreachable};
    matches!(error.kind(), HostUnreachable | NetworkUnreachable | NetworkDown)
}

fn connect(address: SocketAddr, budget: Duration, patience: &Patience<'_>) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &address) {
        // An interrupted connect goes on in the background like one in progress.
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let start = Instant::now();
    loop {
        let wait = patience
            .next_wait()
            .map_err(|_| io::ErrorKind::TimedOut)?
            .min(budget.saturating_sub(start.elapsed()));
        let wait = Timespec::try_from(wait).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut polled = [PollFd::new(&socket, PollFlags::OUT)];
        match rustix::event::poll(&mut polled, Some(&wait)) {
            Ok(0) if start.elapsed() >= budget => return Err(io::ErrorKind::TimedOut.into()),
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => break,
            Err(error) => return Err(error.into()),
        }
    }
    rustix::net::sockopt::socket_error(&socket)??;
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests;
