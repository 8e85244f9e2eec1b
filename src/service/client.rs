//! A client of an engine in another process: one connection, one call after the other.

use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::fault::{Fault, INTERFACE, Refused};
use super::message::{Incoming, REPLY_BYTES_MAX, Reply, call};
use super::methods::{Describe, Method};
use super::socket::peer;
use crate::engine::Description;
use crate::error::Error;

/// How long an engine may take to answer one call. What takes longer by its nature (`Wait`) sets its own time.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// Bytes that are read at once.
const READ_BYTES: usize = 16 << 10;

/// A connection to an engine in another process; calls of several threads come one after the other.
#[derive(Clone)]
pub(crate) struct Client {
    socket: Arc<PathBuf>,
    connection: Arc<Mutex<Connection>>,
    pub(crate) description: Arc<Description>,
}

/// One stream of messages in each direction.
pub(crate) struct Connection {
    stream: UnixStream,
    incoming: Incoming,
    /// A call has got no answer: one that comes late must not be taken for that to another call.
    owes_answer: bool,
}

impl Client {
    /// Connects, and asks who is there.
    ///
    /// # Errors
    /// [`Error::Io`] where nobody listens; otherwise what it answers.
    pub(crate) fn connect(socket: &Path) -> Result<Self, Error> {
        Self::introduced(socket, Connection::open(socket)?)
    }

    /// The same where root or the user of this process listens; anybody else is asked nothing, and not waited for.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub(crate) fn connect_trusted(socket: &Path) -> Result<Option<Self>, Error> {
        let connection = Connection::open(socket)?;
        let is_trusted = peer(&connection.stream).is_some();
        is_trusted.then(|| Self::introduced(socket, connection)).transpose()
    }

    fn introduced(socket: &Path, mut connection: Connection) -> Result<Self, Error> {
        // Further connections are made later, when the current directory may be another one. A path of a socket is short.
        let socket = std::fs::canonicalize(socket).map_err(|error| Error::io("find", socket, error))?;
        let description = connection.ask(&Describe {}, ANSWER_MAX)?;
        Ok(Self {
            socket: Arc::new(socket),
            connection: Arc::new(Mutex::new(connection)),
            description: Arc::new(description),
        })
    }

    /// A client of the same state directory, over a connection that owes this one nothing.
    ///
    /// # Errors
    /// As [`Client::connect`]; [`Error::Disconnected`] where the engine there works on another state directory by now.
    pub(crate) fn connect_again(&self) -> Result<Self, Error> {
        let again = Self::connect(&self.socket)?;
        let place = |client: &Self| (client.description.device, client.description.inode);
        if place(&again) != place(self) {
            return Err(ended("another engine listens there by now"));
        }
        Ok(again)
    }

    /// Whether the engine there works on this state directory.
    pub(crate) fn works_on(&self, state_directory: &Path) -> bool {
        let identity = (self.description.device, self.description.inode);
        std::fs::metadata(state_directory).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == identity)
    }

    pub(crate) fn call<M: Method>(&self, method: &M) -> Result<M::Reply, Refused> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        connection.ask(method, ANSWER_MAX)
    }

    /// A connection of its own, for what answers more than once or late.
    ///
    /// # Errors
    /// [`Error::Disconnected`]: nobody listens there any more.
    pub(crate) fn another(&self) -> Result<Connection, Error> {
        Connection::open(&self.socket).map_err(|error| match error {
            Error::Io(_, _, cause) if is_gone(&cause) => ended("it has ended"),
            error => error,
        })
    }
}

fn encoded<T: Serialize>(name: &str, parameters: &T, more: bool) -> Result<Vec<u8>, Error> {
    call(&format!("{INTERFACE}.{name}"), parameters, more)
        .map_err(|error| Error::invalid("call", name, format!("cannot be sent to the engine: {error}")))
}

/// Whether this says that nobody listens on a socket.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        refused.error
    }
}

impl Connection {
    fn open(socket: &Path) -> Result<Self, Error> {
        let stream = UnixStream::connect(socket).map_err(|error| Error::io("connect to", socket, error))?;
        stream
            .set_write_timeout(Some(ANSWER_MAX))
            .map_err(|error| Error::io("set up", socket, error))?;
        Ok(Self::on(stream))
    }

    fn on(stream: UnixStream) -> Self {
        Self {
            stream,
            incoming: Incoming::new(REPLY_BYTES_MAX),
            owes_answer: false,
        }
    }

    fn ask<M: Method>(&mut self, method: &M, time: Duration) -> Result<M::Reply, Refused> {
        if self.owes_answer {
            return Err(ended("it has not answered an earlier call; connect again").into());
        }
        let call = encoded(M::NAME, method, false)?;
        self.owes_answer = true;
        self.write(&call)?;
        let answer = self.message(Some(time))?;
        self.owes_answer = false;
        parse(&answer).map(|(reply, _)| reply)
    }

    /// Sends a call. `more`: several replies are wanted.
    pub(crate) fn send<T: Serialize>(&mut self, name: &str, parameters: &T, more: bool) -> Result<(), Error> {
        self.write(&encoded(name, parameters, more)?)
    }

    fn write(&mut self, call: &[u8]) -> Result<(), Error> {
        // What it has answered before it hung up says more than the broken pipe.
        match self.stream.write_all(call) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                Err(ended(&error.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// The next of several replies; `None` where the time is over before it has begun to come.
    pub(crate) fn receive_within<T: DeserializeOwned>(&mut self, time: Option<Duration>) -> Result<Option<T>, Refused> {
        if let Some(time) = time
            && self.incoming.rest_bytes() == 0
            && !self.is_readable(time)?
        {
            return Ok(None);
        }
        self.receive(None).map(|(value, _)| Some(value))
    }

    fn is_readable(&self, time: Duration) -> Result<bool, Error> {
        let mut polled = [rustix::event::PollFd::new(&self.stream, rustix::event::PollFlags::IN)];
        let time = rustix::event::Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        match rustix::event::poll(&mut polled, Some(&time)) {
            Ok(count) => Ok(count > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(ended(&error.to_string())),
        }
    }

    /// The next reply, and whether others follow it.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self, time: Option<Duration>) -> Result<(T, bool), Refused> {
        parse(&self.message(time)?)
    }

    fn message(&mut self, time: Option<Duration>) -> Result<Vec<u8>, Error> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ended("it does not answer"),
            _ => ended(&error.to_string()),
        };
        // For all of it, however slowly it comes.
        let end = time.and_then(|time| Instant::now().checked_add(time));
        let mut buffer = [0; READ_BYTES];
        loop {
            match self.incoming.next() {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(_) => return Err(ended("its answer is too long")),
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(ended("it does not answer"));
            }
            self.stream.set_read_timeout(left).map_err(failed)?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ended("it has ended")),
                Ok(count) => self.incoming.push(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

/// What a reply says, and whether others follow it.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, bool), Refused> {
    let reply: Reply<'_> =
        serde_json::from_slice(bytes).map_err(|error| ended(&format!("its answer is no reply: {error}")))?;
    let parameters = reply.parameters.map_or("{}", RawValue::get);
    if let Some(error) = reply.error {
        let parameters: Map<String, Value> = serde_json::from_str(parameters).unwrap_or_default();
        return Err(Fault::received(error.into_owned(), parameters).into());
    }
    let value =
        serde_json::from_str(parameters).map_err(|error| ended(&format!("its answer is not understood: {error}")))?;
    Ok((value, reply.continues))
}

fn ended(problem: &str) -> Error {
    Error::Disconnected(Arc::from(problem))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;
    use crate::service::methods::groups::Groups;

    #[test]
    fn an_answer_that_comes_late_is_none_to_the_next_call() {
        let (here, mut there) = UnixStream::pair().unwrap();
        let mut connection = Connection::on(here);
        let groups = || serde_json::from_str::<Groups>("{}").unwrap();
        let first = connection.ask(&groups(), Duration::from_millis(10));
        assert!(matches!(first.map(|_| ()).unwrap_err().error, Error::Disconnected(_)));
        there.write_all(b"{\"parameters\":{\"groups\":[]}}\0").unwrap();
        let second = connection.ask(&groups(), Duration::from_secs(10));
        assert!(matches!(second.map(|_| ()).unwrap_err().error, Error::Disconnected(_)));
    }
}
