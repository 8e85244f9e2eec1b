//! The data connection: how it is told of and how it comes about.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::talk::SILENCE_MAX;

/// Where the client is sent, and must not go.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Ports that are tried for one that is free at both addresses.
const TRIES_MAX: usize = 64;

pub(crate) enum Channel {
    None,
    /// The client connects here; and, where it was told of another address, perhaps there.
    Here {
        listener: TcpListener,
        elsewhere: Option<TcpListener>,
    },
    /// The client listens there.
    There(SocketAddr),
}

impl Channel {
    /// Listens; with `is_foreign` at the same port of another address as well.
    pub(crate) fn listen(is_foreign: bool) -> io::Result<Self> {
        for _ in 0..TRIES_MAX {
            let listener = TcpListener::bind(("127.0.0.1", 0))?;
            let port = listener.local_addr()?.port();
            let elsewhere = is_foreign.then(|| TcpListener::bind((ELSEWHERE, port))).transpose();
            if let Ok(elsewhere) = elsewhere {
                return Ok(Self::Here { listener, elsewhere });
            }
        }
        Err(io::Error::other("no port is free at both addresses"))
    }

    /// Where a client that has the address of an EPRT or a PORT listens (RFC 2428, section 2; RFC 959, section 4.1.2).
    pub(crate) fn towards(is_extended: bool, argument: &str) -> Option<Self> {
        let address = if is_extended {
            let mut parts = argument.split('|').skip(2);
            let ip: IpAddr = parts.next()?.parse().ok()?;
            SocketAddr::new(ip, parts.next()?.parse().ok()?)
        } else {
            let numbers: Vec<u8> = argument.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
            let [a, b, c, d, high, low] = numbers.try_into().ok()?;
            SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low])))
        };
        address.ip().is_loopback().then_some(Self::There(address))
    }

    pub(crate) fn port(&self) -> io::Result<u16> {
        match self {
            Self::Here { listener, .. } => Ok(listener.local_addr()?.port()),
            Self::There(_) | Self::None => Ok(0),
        }
    }

    pub(crate) fn foreign_address(&self) -> Option<Ipv4Addr> {
        matches!(self, Self::Here { elsewhere: Some(_), .. }).then_some(ELSEWHERE)
    }

    /// The answer to EPSV or PASV. The former names an address only where it must not.
    pub(crate) fn text(is_extended: bool, address: Option<Ipv4Addr>, port: u16) -> String {
        if is_extended {
            let address = address.map_or("||".to_owned(), |address| format!("|1|{address}"));
            return format!("229 there (|{}|{port}|)", &address[1..]);
        }
        let [a, b, c, d] = address.unwrap_or(Ipv4Addr::LOCALHOST).octets();
        let [high, low] = port.to_be_bytes();
        format!("227 there ({a},{b},{c},{d},{high},{low})")
    }

    /// The client has connected to the other address.
    pub(crate) fn was_used_elsewhere(&self) -> bool {
        let Self::Here {
            elsewhere: Some(elsewhere),
            ..
        } = self
        else {
            return false;
        };
        elsewhere.set_nonblocking(true).is_ok() && elsewhere.accept().is_ok()
    }

    /// The connection itself, unless the client goes away before it comes about.
    pub(crate) fn open(&self, control: &TcpStream) -> io::Result<TcpStream> {
        let stream = match self {
            Self::None => return Err(io::Error::other("no data connection was asked for")),
            Self::There(address) => TcpStream::connect_timeout(address, SILENCE_MAX)?,
            Self::Here { listener, .. } => {
                let mut ready = [
                    PollFd::new(listener, PollFlags::IN),
                    PollFd::new(control, PollFlags::IN),
                ];
                let patience = Timespec::try_from(SILENCE_MAX).map_err(io::Error::other)?;
                poll(&mut ready, Some(&patience))?;
                if ready[0].revents().is_empty() {
                    return Err(io::Error::other("the client did not come"));
                }
                listener.accept()?.0
            }
        };
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        Ok(stream)
    }
}
