//! Gives connections to ureq, idle or new. It opens a new one to the server or to the proxy that leads there, and makes the
//! handshake of TLS; within the limits of the attempt, and out of each wait as soon as it is interrupted.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::http::uri::Authority;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{ConnectionDetails, Connector, NextTimeout};

use super::attempt::{Attempt, Fault, Phase};
use super::idle::{Idle, Lease};
use super::route::Route;
use super::tls::TlsSetup;
use super::wire::{Server, Socket, Wire};
use crate::net::{self, Patience};

/// ureq asks for addresses before it asks for a connection. There are none to be had here: a look-up for a connection
/// that exists already would be wasted, so the [`WireConnector`] makes it.
#[derive(Debug)]
pub(super) struct NoResolver {
    /// To be copied: to make it anew takes longer.
    none: ResolvedSocketAddrs,
}

impl NoResolver {
    pub(super) fn new() -> Self {
        let unset = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Self {
            none: ResolvedSocketAddrs::from_fn(|_| unset),
        }
    }
}

impl Resolver for NoResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        Ok(self.none.clone())
    }
}

#[derive(Debug)]
pub(super) struct WireConnector {
    tls: TlsSetup,
    idle: Arc<Idle>,
}

impl WireConnector {
    /// Keeps at most so many connections for another request.
    pub(super) fn new(tls: TlsSetup, idle_max: usize) -> Self {
        let idle = Arc::new(Idle::new(idle_max));
        Self { tls, idle }
    }

    fn open(&self, uri: &Uri, authority: &Authority, needs_tls: bool, attempt: &Attempt) -> io::Result<Wire> {
        attempt.enter_phase(Phase::Connect);
        let host = uri
            .host()
            .unwrap_or_default()
            .trim_start_matches('[')
            .trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if needs_tls { 443 } else { 80 });
        // The set-up can fail without a network, so it comes first.
        let tls = if needs_tls {
            Some(self.tls.client(host).map_err(|fault| attempt.fail(fault))?)
        } else {
            None
        };
        let route = attempt.route();
        let stream = dial(route.as_deref(), host, port, attempt)?;
        let mut socket = Socket::new(stream);
        socket.bind(attempt);
        let wire = match tls {
            None => Wire::plain(authority.clone(), socket),
            Some(tls) => Wire::secure(authority.clone(), socket, tls, attempt)?,
        };
        Ok(wire.on(route))
    }
}

/// A connection to the server, or to the proxy that answers in its place.
fn dial(route: Option<&Route>, host: &str, port: u16, attempt: &Attempt) -> io::Result<TcpStream> {
    let left = attempt.left().unwrap_or_default();
    let patience = Patience {
        interrupt: &attempt.interrupt,
        until: Instant::now() + left,
    };
    let dialled = match route {
        Some(route) if route.is_relayed() => net::reach(&route.proxy, &patience),
        route => net::dial(route.map(|route| &route.proxy), host, port, &patience),
    };
    dialled.map_err(|fault| attempt.fail(Fault::Net(fault)))
}

impl Connector<()> for WireConnector {
    type Out = Lease;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Lease>, ureq::Error> {
        let attempt = Attempt::current().ok_or(ureq::Error::ConnectionFailed)?;
        let needs_tls = details.needs_tls();
        let authority = details.uri.authority().ok_or(ureq::Error::ConnectionFailed)?;
        let server = Server {
            is_secure: needs_tls,
            authority: authority.as_str(),
        };
        let wire = match self.idle.take(server, &attempt) {
            Some(wire) => wire,
            None => Box::new(self.open(details.uri, authority, needs_tls, &attempt)?),
        };
        Ok(Some(Lease::new(wire, Arc::clone(&self.idle))))
    }
}
