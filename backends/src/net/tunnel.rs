//! Asks an HTTP proxy for a tunnel.
//!
//! Source: RFC 9110, section 9.3.6; RFC 9112, sections 2.2, 3.2.3 and 4; RFC 7617 for the user name and the password.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::handshake::Handshake;
use super::{Fault, ProxyFault};
use crate::{Credential, Proxy};

/// Longest answer that a proxy may give, without what follows it.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Bytes looked at in one go.
const LOOK_BYTES: usize = 1024;

/// Afterwards the connection leads to the server, and what the server sent is still to be read.
pub(super) fn open(handshake: &mut Handshake<'_>, host: &str, port: u16) -> Result<(), Fault> {
    let place = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let login = authorization(handshake.proxy)
        .map(|value| format!("Proxy-Authorization: {value}\r\n"))
        .unwrap_or_default();
    let request = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{login}\r\n");
    handshake.send(request.as_bytes())?;
    let head = receive_head(handshake)?;
    let code = status(&head).map_err(|what| handshake.fault(ProxyFault::Garbled(what)))?;
    match code {
        // No other field of the head says anything of what follows, not even a length.
        200..300 => Ok(()),
        100..200 => Err(handshake.fault(ProxyFault::Garbled("it answered CONNECT with an interim status"))),
        code => Err(handshake.fault(ProxyFault::Status(code))),
    }
}

/// The value of Proxy-Authorization, where the proxy is asked under a name.
pub(crate) fn authorization(proxy: &Proxy) -> Option<String> {
    let Credential { user, password } = proxy.credential()?;
    Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

/// The head of the answer with the empty line at its end, and not one byte more.
fn receive_head(handshake: &mut Handshake<'_>) -> Result<Vec<u8>, Fault> {
    let mut head = Vec::new();
    let mut seen = [0; LOOK_BYTES];
    while head.len() < HEAD_BYTES_MAX {
        let amount = handshake.look(&mut seen)?;
        let before = head.len();
        head.extend_from_slice(&seen[..amount]);
        let end = head_end(&head, before);
        head.truncate(end.unwrap_or(head.len()));
        let taken = head.len() - before;
        handshake.receive(&mut seen[..taken])?;
        if end.is_some() {
            return Ok(head);
        }
        // Whoever speaks another protocol may never send an empty line.
        let beginning = &head[..head.len().min(b"HTTP/1.".len())];
        if !b"HTTP/1.".starts_with(beginning) {
            return Err(handshake.fault(ProxyFault::Garbled("its answer is not HTTP")));
        }
    }
    Err(handshake.fault(ProxyFault::Garbled("the head of its answer is longer than 16 KiB")))
}

/// Where the first empty line ends, of which the last byte is at `from` or behind it. A line may end without CR.
fn head_end(head: &[u8], from: usize) -> Option<usize> {
    let is_end = |end: &usize| head[..*end].ends_with(b"\n\r\n") || head[..*end].ends_with(b"\n\n");
    (from + 1..=head.len()).find(is_end)
}

/// The status code of a head.
fn status(head: &[u8]) -> Result<u16, &'static str> {
    const WRONG: &str = "the first line of its answer is no status line";
    let rest = [&b"HTTP/1.1 "[..], b"HTTP/1.0 "]
        .iter()
        .find_map(|version| head.strip_prefix(*version))
        .ok_or(WRONG)?;
    let (digits, after) = rest.split_at_checked(3).ok_or(WRONG)?;
    let is_whole = matches!(after.first(), Some(b' ' | b'\r' | b'\n'));
    let code = std::str::from_utf8(digits)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match code.and_then(|text| text.parse().ok()) {
        Some(code @ 100..) if is_whole => Ok(code),
        _ => Err(WRONG),
    }
}
