//! Opens connections: looks a name up, tries each address, makes the handshake; within the limits of the attempt, and
//! out of each wait as soon as it is interrupted.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{ConnectionDetails, Connector, NextTimeout};

use super::attempt::{Attempt, Fault, Phase};
use super::roots::TlsSetup;
use super::wire::{Socket, Wire};

/// Longest wait before the interrupt is looked at again.
const SLICE: Duration = Duration::from_millis(50);

/// Look-ups that may be under way at once. An interrupted one runs on until the system's resolver gives up, so this
/// bounds the threads that a dead name server can tie down.
const LOOKUPS_MAX: usize = 64;

/// Stack of a look-up thread; glibc's resolver is content with half of it (chosen without measurement).
const LOOKUP_STACK_BYTES: usize = 256 * 1024;

static LOOKUPS: AtomicUsize = AtomicUsize::new(0);

/// ureq asks for addresses before it looks into its pool. There are none to be had here: a look-up for a connection
/// that exists already would be wasted, so the [`WireConnector`] makes it.
#[derive(Debug)]
pub(super) struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        Ok(self.empty())
    }
}

#[derive(Debug)]
pub(super) struct WireConnector {
    tls: Arc<TlsSetup>,
}

impl WireConnector {
    pub(super) fn new(tls: Arc<TlsSetup>) -> Self {
        Self { tls }
    }

    fn open(&self, uri: &Uri, needs_tls: bool, attempt: &Attempt) -> io::Result<Wire> {
        attempt.enter_phase(Phase::Connect);
        let host = uri
            .host()
            .unwrap_or_default()
            .trim_start_matches('[')
            .trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if needs_tls { 443 } else { 80 });
        // The set-up can fail without a network, so it comes first.
        let tls = if needs_tls {
            Some(self.client(host, attempt)?)
        } else {
            None
        };
        let stream = connect_any(&look_up(host, port, attempt)?, attempt)?;
        let mut socket = Socket::new(stream);
        socket.bind(attempt);
        match tls {
            None => Ok(Wire::plain(socket)),
            Some(tls) => Wire::secure(socket, tls, attempt),
        }
    }

    fn client(&self, host: &str, attempt: &Attempt) -> io::Result<ClientConnection> {
        let config = self.tls.config().map_err(|text| attempt.fail(Fault::Roots(text)))?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| attempt.fail(Fault::Name("not a name that a certificate can carry".to_owned())))?;
        ClientConnection::new(config, name).map_err(|error| attempt.fail(Fault::Tls(Box::new(error))))
    }
}

impl Connector<()> for WireConnector {
    type Out = Wire;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Wire>, ureq::Error> {
        let attempt = Attempt::current().ok_or(ureq::Error::ConnectionFailed)?;
        Ok(Some(self.open(details.uri, details.needs_tls(), &attempt)?))
    }
}

/// The addresses of a host. The system's resolver cannot be interrupted, so it runs on a thread of its own, which is
/// abandoned when the attempt ends first.
fn look_up(host: &str, port: u16, attempt: &Attempt) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let answer = start_look_up(host, port).map_err(|text| attempt.fail(Fault::Name(text)))?;
    loop {
        let wait = next_wait(attempt)?;
        match answer.recv_timeout(wait) {
            Ok(Ok(addresses)) if addresses.is_empty() => return Err(attempt.fail(Fault::Name("no address".to_owned()))),
            Ok(Ok(addresses)) => return Ok(addresses),
            Ok(Err(error)) => return Err(attempt.fail(Fault::Name(error.to_string()))),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(attempt.fail(Fault::Name("the look-up ended without an answer".to_owned())));
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
fn connect_any(addresses: &[SocketAddr], attempt: &Attempt) -> io::Result<TcpStream> {
    let mut refusal: Option<(SocketAddr, io::Error)> = None;
    for (index, address) in addresses.iter().enumerate() {
        let left = attempt
            .left()
            .ok_or_else(|| attempt.fail(Fault::TimedOut(Phase::Connect)))?;
        let budget = if index + 1 == addresses.len() { left } else { left / 2 };
        match connect(*address, budget, attempt) {
            Ok(stream) => return Ok(stream),
            Err(error) if attempt.interrupt.is_raised() => return Err(attempt.fail(Fault::Connect(*address, error))),
            Err(error) => {
                if refusal.as_ref().is_none_or(|(_, earlier)| is_unreachable(earlier)) {
                    refusal = Some((*address, error));
                }
            }
        }
    }
    Err(match refusal {
        Some((_, error)) if error.kind() == io::ErrorKind::TimedOut => attempt.fail(Fault::TimedOut(Phase::Connect)),
        Some((address, error)) => attempt.fail(Fault::Connect(address, error)),
        None => attempt.fail(Fault::Name("no address".to_owned())),
    })
}

/// Whether nothing was said by the other side: there was no way to it.
pub(super) fn is_unreachable(error: &io::Error) -> bool {
    use io::ErrorKind::{HostUnreachable, NetworkDown, NetworkUnreachable};
    matches!(error.kind(), HostUnreachable | NetworkUnreachable | NetworkDown)
}

fn connect(address: SocketAddr, budget: Duration, attempt: &Attempt) -> io::Result<TcpStream> {
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
        let wait = next_wait(attempt)?.min(budget.saturating_sub(start.elapsed()));
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

fn next_wait(attempt: &Attempt) -> io::Result<Duration> {
    if attempt.interrupt.is_raised() {
        return Err(attempt.fail(Fault::Interrupted));
    }
    let left = attempt
        .left()
        .ok_or_else(|| attempt.fail(Fault::TimedOut(Phase::Connect)))?;
    Ok(left.min(SLICE))
}
