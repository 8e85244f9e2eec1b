//! Opens the connections of one transfer, and ends them with the interrupt.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::target::{Target, bracketed};
use crate::net::{self, Patience};
use crate::problem::{Problem, connection_problem};
use crate::{Binding, Interrupt, Proxy};

/// Connections of one transfer. libcurl owns the sockets; copies of their descriptors are kept here, so that a raise of the
/// interrupt ends every wait for them.
pub(super) struct Sockets<'a> {
    interrupt: &'a Interrupt,
    proxy: Option<&'a Proxy>,
    /// Where data connections go: to the server that the control connection leads to, whatever its replies say. A server
    /// that could name another one would have us knock at doors of its choice.
    host: String,
    /// The address at the other end of the control connection, where no proxy stands between.
    peer: Option<IpAddr>,
    control: Option<TcpStream>,
    bound: Vec<(Arc<TcpStream>, Binding)>,
    /// Until when a data connection must be there, from the first try on.
    data_until: Option<Instant>,
    connect: Duration,
    /// Why there is no data connection.
    fault: Option<Problem>,
}

impl<'a> Sockets<'a> {
    /// Opens the control connection.
    pub(super) fn open(
        target: &Target,
        proxy: Option<&'a Proxy>,
        interrupt: &'a Interrupt,
        until: Instant,
        connect: Duration,
    ) -> Result<Self, Problem> {
        let patience = Patience { interrupt, until };
        let control = net::dial(proxy, &target.host, target.port, &patience)?;
        let peer = control.peer_addr().map_err(|error| connection_problem(&error))?.ip();
        let peer = peer.to_canonical();
        let mut sockets = Self {
            interrupt,
            proxy,
            host: if proxy.is_some() {
                target.host.clone()
            } else {
                peer.to_string()
            },
            peer: proxy.is_none().then_some(peer),
            control: None,
            bound: Vec::new(),
            data_until: None,
            connect,
            fault: None,
        };
        sockets.bind(&control)?;
        sockets.control = Some(control);
        Ok(sockets)
    }

    /// What tells libcurl where the host is, so that it does not look for it. Through a proxy it is nowhere; nothing is
    /// opened there.
    pub(super) fn resolution(&self, target: &Target) -> Option<String> {
        if target.host.parse::<IpAddr>().is_ok() {
            return None;
        }
        let address = self.peer.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)).to_string();
        Some(format!("{}:{}:{}", target.host, target.port, bracketed(&address)))
    }

    /// The control connection when it is first asked for, then data connections.
    pub(super) fn connect(&mut self, port: u16) -> Option<OwnedFd> {
        if let Some(control) = self.control.take() {
            return Some(control.into());
        }
        let until = *self.data_until.get_or_insert_with(|| Instant::now() + self.connect);
        let patience = Patience {
            interrupt: self.interrupt,
            until,
        };
        let dialled = net::dial(self.proxy, &self.host, port, &patience).map_err(Problem::from);
        let bound = dialled.and_then(|stream| self.bind(&stream).map(|()| stream));
        match bound {
            Ok(stream) => Some(stream.into()),
            Err(problem) => {
                self.fault = Some(Problem {
                    text: format!("no data connection: {}", problem.text),
                    ..problem
                });
                None
            }
        }
    }

    /// The server opened the data connection. Only the one that we talk to may.
    pub(super) fn accepted(&mut self, socket: BorrowedFd<'_>) -> Result<(), Problem> {
        let broken = |error: std::io::Error| connection_problem(&error);
        let stream = TcpStream::from(socket.try_clone_to_owned().map_err(broken)?);
        let from = stream
            .peer_addr()
            .map(|address: SocketAddr| address.ip().to_canonical());
        let from = from.map_err(broken)?;
        if self.peer != Some(from) {
            return Err(Problem::bad_reply(&format!(
                "a data connection from {from}, which is another host"
            )));
        }
        self.hold(stream);
        Ok(())
    }

    fn bind(&mut self, stream: &TcpStream) -> Result<(), Problem> {
        let copy = stream.try_clone().map_err(|error| connection_problem(&error))?;
        self.hold(copy);
        Ok(())
    }

    fn hold(&mut self, copy: TcpStream) {
        let copy = Arc::new(copy);
        let binding = self.interrupt.bind(copy.clone());
        self.bound.push((copy, binding));
    }

    /// Why there was no data connection.
    pub(super) fn take_fault(&mut self) -> Option<Problem> {
        self.fault.take()
    }

    /// Ends every connection. libcurl would say goodbye and wait for an answer.
    pub(super) fn close(&self, says_goodbye: bool) {
        for (number, (stream, _)) in self.bound.iter().enumerate() {
            if number == 0 && says_goodbye {
                // Nobody needs it, so nobody asks whether it arrived.
                let _ = (&**stream).write(b"QUIT\r\n");
            }
            // A socket that is gone already needs no shutdown.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}
