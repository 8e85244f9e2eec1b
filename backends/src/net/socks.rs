//! Asks a SOCKS proxy for a connection.
//!
//! Source: RFC 1928; RFC 1929 for user name and password.

use std::net::IpAddr;

use super::handshake::Handshake;
use super::{Fault, ProxyFault};
use crate::Credential;

const VERSION: u8 = 5;
const NO_LOGIN: u8 = 0;
const LOGIN: u8 = 2;
const NO_METHOD: u8 = 0xff;
/// Version of the negotiation of RFC 1929.
const LOGIN_VERSION: u8 = 1;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const DOMAIN: u8 = 3;
const IPV6: u8 = 4;

/// Where the proxy is to connect to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    Address(IpAddr),
    Name(&'a str),
}

impl<'a> Place<'a> {
    pub(super) fn of(host: &'a str) -> Self {
        host.parse().map_or(Self::Name(host), Self::Address)
    }
}

/// What a reply other than success (0) means (RFC 1928, section 6).
pub(crate) fn meaning(reply: u8) -> &'static str {
    match reply {
        1 => "it failed",
        2 => "its rules do not allow it",
        3 => "it has no way to the network",
        4 => "it cannot reach the host, or does not know its name",
        5 => "the host refused the connection",
        6 => "the host is too far away for it",
        7 => "it makes no connections for others",
        8 => "it does not know this kind of address",
        _ => "its reply has no meaning",
    }
}

/// Whether another address of the same server may fare better.
pub(super) fn may_depend_on_address(reply: u8) -> bool {
    !matches!(reply, 2 | 7)
}

/// Afterwards the connection leads to the server, and what the server sent is still to be read.
pub(super) fn open(handshake: &mut Handshake<'_>, place: &Place<'_>, port: u16) -> Result<(), Fault> {
    log_in(handshake)?;
    let mut request = vec![VERSION, CONNECT, 0];
    match place {
        Place::Address(IpAddr::V4(address)) => {
            request.push(IPV4);
            request.extend_from_slice(&address.octets());
        }
        Place::Address(IpAddr::V6(address)) => {
            request.push(IPV6);
            request.extend_from_slice(&address.octets());
        }
        Place::Name(name) => {
            let length =
                u8::try_from(name.len()).map_err(|_| Fault::Name("the name is longer than 255 bytes".to_owned()))?;
            request.extend_from_slice(&[DOMAIN, length]);
            request.extend_from_slice(name.as_bytes());
        }
    }
    request.extend_from_slice(&port.to_be_bytes());
    handshake.send(&request)?;
    receive_reply(handshake)
}

fn log_in(handshake: &mut Handshake<'_>) -> Result<(), Fault> {
    let credential = handshake.proxy.credential();
    let offer: &[u8] = match credential {
        None => &[VERSION, 1, NO_LOGIN],
        Some(_) => &[VERSION, 2, NO_LOGIN, LOGIN],
    };
    handshake.send(offer)?;
    let [version, method] = receive(handshake)?;
    check_version(handshake, version)?;
    match (method, credential) {
        (NO_LOGIN, _) => Ok(()),
        (LOGIN, Some(credential)) => send_credential(handshake, credential),
        (NO_METHOD, None) => Err(handshake.fault(ProxyFault::NoCredential)),
        (NO_METHOD, Some(_)) => Err(handshake.fault(ProxyFault::WrongCredential)),
        _ => Err(handshake.fault(ProxyFault::Garbled("it chose a way to log in that was not offered"))),
    }
}

fn send_credential(handshake: &mut Handshake<'_>, credential: &Credential) -> Result<(), Fault> {
    let mut message = vec![LOGIN_VERSION];
    for text in [&credential.user, &credential.password] {
        // A proxy takes in no credential that is longer.
        let length = u8::try_from(text.len()).map_err(|_| handshake.fault(ProxyFault::WrongCredential))?;
        message.push(length);
        message.extend_from_slice(text.as_bytes());
    }
    handshake.send(&message)?;
    // Some proxies answer with the version of SOCKS; only the verdict counts.
    let [_, verdict] = receive(handshake)?;
    if verdict == 0 {
        Ok(())
    } else {
        Err(handshake.fault(ProxyFault::WrongCredential))
    }
}

fn receive_reply(handshake: &mut Handshake<'_>) -> Result<(), Fault> {
    let [version, reply] = receive(handshake)?;
    check_version(handshake, version)?;
    if reply != 0 {
        // What else it says does not matter, and some say nothing else.
        return Err(handshake.fault(ProxyFault::Reply(reply)));
    }
    let [_, kind] = receive(handshake)?;
    let length = match kind {
        IPV4 => 4,
        IPV6 => 16,
        DOMAIN => usize::from(receive::<1>(handshake)?[0]),
        _ => return Err(handshake.fault(ProxyFault::Garbled("its reply names a place in an unknown form"))),
    };
    // The address on its far side, which nobody needs, and its port.
    let mut place = vec![0; length + 2];
    handshake.receive(&mut place)
}

fn check_version(handshake: &Handshake<'_>, version: u8) -> Result<(), Fault> {
    if version == VERSION {
        return Ok(());
    }
    Err(handshake.fault(ProxyFault::Garbled("its answer is not that of SOCKS version 5")))
}

fn receive<const LENGTH: usize>(handshake: &mut Handshake<'_>) -> Result<[u8; LENGTH], Fault> {
    let mut bytes = [0; LENGTH];
    handshake.receive(&mut bytes)?;
    Ok(bytes)
}
