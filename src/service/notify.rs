//! What a service manager is told, and what it hands over: `sd_notify` and socket activation, in the little of them that is
//! needed. Where none of it is there (busybox init, a shell, a container) every call does nothing.
//!
//! Source: `sd_notify(3)`, `sd_watchdog_enabled(3)`, `sd_listen_fds(3)`.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::time::{ClockId, clock_gettime};

use crate::error::Error;
use crate::sys;

/// What the service manager meant for this process alone: programs that it starts must not inherit any of it.
pub(crate) const VARIABLES: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
];

/// Longest status, in bytes; the rest is cut off. Chosen without measurement.
const STATUS_BYTES_MAX: usize = 256;

/// How long a service manager that reads nothing may hold up who tells it something. Chosen without measurement, below the
/// 2 s in which the daemon stops.
const SEND_MAX: Duration = Duration::from_millis(500);

/// The service manager, where there is one that wants to be told.
///
/// What cannot be told is logged and lost: no manager is worth a daemon that does not work.
#[derive(Debug)]
pub(crate) struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
}

impl Notify {
    /// The one that `$NOTIFY_SOCKET` names, a path or, after `@`, an abstract name.
    pub(crate) fn from_environment() -> Self {
        Self::new(|name| std::env::var_os(name))
    }

    fn new(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let Some(name) = variable("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Self { to: None };
        };
        let connected = address(name.as_bytes()).and_then(|address| Ok((socket()?, address)));
        let to = connected
            .inspect_err(|error| log::warn!("NOTIFY_SOCKET '{}': cannot be used: {error}", name.display()))
            .ok();
        Self { to }
    }

    /// The daemon serves: it has started, or is done with a reload.
    pub(crate) fn ready(&self) {
        self.send("READY=1");
    }

    /// The daemon has begun to stop.
    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// The daemon reads its configuration anew; [`Notify::ready`] says that it is done.
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let now = Duration::try_from(now).unwrap_or_default();
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.as_micros()));
    }

    /// What the daemon is doing, for people; on one line, and at most [`STATUS_BYTES_MAX`] bytes of it.
    pub(crate) fn status(&self, text: &str) {
        self.send(&format!("STATUS={}", status_line(text)));
    }

    /// The daemon is alive; to be told every [`watchdog_interval`].
    pub(crate) fn watchdog(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, message: &str) {
        let Some((socket, address)) = &self.to else { return };
        let sent = loop {
            match socket.send_to_addr(message.as_bytes(), address) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => break sent,
            }
        };
        if let Err(error) = sent {
            log::warn!("NOTIFY_SOCKET: cannot tell '{}': {error}", message.escape_debug());
        }
    }
}

/// A status must not smuggle in a line of its own.
fn status_line(text: &str) -> String {
    let mut line = String::new();
    for letter in text.chars() {
        if line.len() + letter.len_utf8() > STATUS_BYTES_MAX {
            break;
        }
        line.push(if letter.is_control() { ' ' } else { letter });
    }
    line
}

fn address(name: &[u8]) -> io::Result<SocketAddr> {
    match name {
        [b'@', name @ ..] if !name.is_empty() => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(OsString::from_vec(name.to_vec())),
        _ => Err(io::Error::other("neither an absolute path nor '@' and a name")),
    }
}

fn socket() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(SEND_MAX))?;
    Ok(socket)
}

/// How often [`Notify::watchdog`] must be told, where a service manager watches over this process: half of the time after
/// which it takes silence for death.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    interval(|name| std::env::var_os(name), std::process::id())
}

fn interval(variable: impl Fn(&str) -> Option<OsString>, own_pid: u32) -> Option<Duration> {
    if let Some(pid) = variable("WATCHDOG_PID")
        && number::<u32>(&pid) != Some(own_pid)
    {
        return None;
    }
    let microseconds = number::<u64>(&variable("WATCHDOG_USEC")?)?;
    // Less than two microseconds have no half.
    (microseconds >= 2).then(|| Duration::from_micros(microseconds / 2))
}

/// The socket that a service manager has made and handed over; `None` where it has not. It closes when other programs are
/// started, and waits for clients when asked for one, whatever was set before.
///
/// # Errors
/// [`Error::Invalid`] where something was handed over to this process that is not exactly one listening UNIX stream socket,
/// or for the second time.
pub(crate) fn listen_fds() -> Result<Option<UnixListener>, Error> {
    if !is_handed_over(|name| std::env::var_os(name), std::process::id())? {
        return Ok(None);
    }
    let descriptor = sys::take_inherited_descriptor().ok_or_else(|| {
        Error::invalid(
            "LISTEN_FDS",
            "1",
            format!("descriptor {} is not open, or was taken before", sys::LISTEN_FDS_START),
        )
    })?;
    listener(descriptor).map(Some)
}

/// Whether exactly one descriptor is there for this process.
fn is_handed_over(variable: impl Fn(&str) -> Option<OsString>, own_pid: u32) -> Result<bool, Error> {
    // What was meant for a parent of this process, or is no number, is not meant for it.
    if variable("LISTEN_PID").and_then(|pid| number::<u32>(&pid)) != Some(own_pid) {
        return Ok(false);
    }
    let Some(given) = variable("LISTEN_FDS") else {
        return Ok(false);
    };
    let refused = |problem: &str| Error::invalid("LISTEN_FDS", given.to_string_lossy(), problem);
    match number::<u32>(&given) {
        None => return Err(refused("is no number of sockets: the service manager sets 1")),
        Some(0) => return Ok(false),
        Some(1) => {}
        Some(_) => {
            return Err(refused(
                "are too many sockets: give exactly one (ListenStream= in the socket unit)",
            ));
        }
    }
    match variable("LISTEN_FDNAMES") {
        Some(names) if names.as_bytes().contains(&b':') => Err(Error::invalid(
            "LISTEN_FDNAMES",
            names.to_string_lossy(),
            "names several sockets where LISTEN_FDS counts 1",
        )),
        _ => Ok(true),
    }
}

/// A descriptor from outside, as the socket that it must be.
fn listener(descriptor: OwnedFd) -> Result<UnixListener, Error> {
    let refused = |problem: &str| {
        let value = sys::LISTEN_FDS_START.to_string();
        Error::invalid(
            "LISTEN_FDS",
            value,
            format!("{problem}: give a listening UNIX stream socket (ListenStream=/PATH)"),
        )
    };
    let family = sockopt::socket_domain(&descriptor).map_err(|_| refused("is no socket"))?;
    if family != AddressFamily::UNIX {
        return Err(refused("is no UNIX socket"));
    }
    if sockopt::socket_type(&descriptor).map_err(|_| refused("has no type"))? != SocketType::STREAM {
        return Err(refused("is no stream socket"));
    }
    if !sockopt::socket_acceptconn(&descriptor).map_err(|_| refused("does not say whether it listens"))? {
        return Err(refused("does not listen"));
    }
    let set = |error: io::Error| Error::io("set up", "the socket of the service manager", error);
    fcntl_setfd(&descriptor, FdFlags::CLOEXEC).map_err(|error| set(error.into()))?;
    let listener = UnixListener::from(descriptor);
    listener.set_nonblocking(false).map_err(set)?;
    Ok(listener)
}

/// A number as service managers write it: digits, and nothing else.
fn number<T: std::str::FromStr>(text: &OsString) -> Option<T> {
    let text = text.to_str()?;
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests;
