//! What goes to a helper and comes from it: lines and runs of bytes, each within its time, and out of each wait as soon as it
//! is interrupted.

use std::io::{self, PipeReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::wire::LINE_BYTES_MAX;
use crate::problem::Problem;
use crate::{Failure, Interrupt, WebErrorStatus};

/// Most bytes that a helper may write to its standard error in one attempt.
const COMPLAINT_BYTES_MAX: usize = 1 << 20;

/// Longest line of it that is kept. Of a longer one nothing is: where it is cut a secret may be cut, too, and be a secret
/// still.
const COMPLAINT_LINE_BYTES_MAX: usize = 4096;

/// Shortest time limit that a socket takes.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// The other side said what it must not, or nothing any more.
pub(super) enum Fault {
    Problem(Problem),
    /// What it offers is not what was asked for.
    Failure(Failure),
    /// It has closed its side.
    Ended,
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// Our side of one process.
pub(super) struct Channel<'a> {
    socket: Arc<UnixStream>,
    complaints: Option<PipeReader>,
    complained: Complained,
    /// What was read and not taken yet lies in `[start, end)`.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    interrupt: &'a Interrupt,
}

impl<'a> Channel<'a> {
    /// Reads so many bytes at once. The socket is to be bound to the interrupt before.
    pub(super) fn new(
        socket: Arc<UnixStream>,
        complaints: PipeReader,
        buffer_bytes: usize,
        interrupt: &'a Interrupt,
    ) -> Self {
        Self {
            socket,
            complaints: Some(complaints),
            complained: Complained::default(),
            buffer: vec![0; buffer_bytes.max(LINE_BYTES_MAX)].into_boxed_slice(),
            start: 0,
            end: 0,
            interrupt,
        }
    }

    /// Writes a text whole, within the time given.
    pub(super) fn say(&mut self, text: &str, limit: Duration) -> Result<(), Fault> {
        let until = Instant::now() + limit;
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let left = until.saturating_duration_since(Instant::now()).max(TIMEOUT_MIN);
            let written = self
                .socket
                .set_write_timeout(Some(left))
                .and_then(|()| (&*self.socket).write(rest));
            match written {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if self.interrupt.is_raised() => return Err(Problem::interrupted().into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(silence("took nothing in", limit).into());
                }
                // What it said before it closed its side may say why.
                Err(_) => return Err(Fault::Ended),
            }
            if Instant::now() >= until && !rest.is_empty() {
                return Err(silence("took too long to take in what was asked for", limit).into());
            }
        }
        Ok(())
    }

    /// The next line, without its end, as long as it comes before `until`.
    pub(super) fn line(&mut self, until: Instant, limit: Duration) -> Result<String, Fault> {
        let mut looked = 0;
        loop {
            let held = &self.buffer[self.start..self.end];
            let fresh = &held[looked..held.len().min(LINE_BYTES_MAX)];
            if let Some(at) = fresh.iter().position(|byte| *byte == b'\n') {
                let line = &held[..looked + at];
                let text = std::str::from_utf8(line).map(str::to_owned);
                self.start += looked + at + 1;
                return text.map_err(|_| violation("a line that is no UTF-8").into());
            }
            looked = held.len();
            if looked >= LINE_BYTES_MAX {
                return Err(violation(&format!("a line of more than {LINE_BYTES_MAX} bytes")).into());
            }
            self.fill(until, limit)?;
        }
    }

    /// Takes from what is there of the next `count` bytes, and waits where nothing is.
    pub(super) fn bytes(&mut self, count: usize, limit: Duration) -> Result<&[u8], Fault> {
        if self.start == self.end {
            self.fill(Instant::now() + limit, limit)?;
        }
        let taken = count.min(self.end - self.start);
        self.start += taken;
        Ok(&self.buffer[self.start - taken..self.start])
    }

    /// Waits so long for it to close its side, without another word; whether it has.
    pub(super) fn expect_end(&mut self, within: Duration) -> Result<bool, Fault> {
        if self.start == self.end {
            if !self.hears(Instant::now() + within)? {
                return Ok(false);
            }
            match self.fill(Instant::now(), within) {
                Err(Fault::Ended) => return Ok(true),
                result => result?,
            }
        }
        Err(violation("more after 'end'").into())
    }

    /// Reads at least one byte more.
    fn fill(&mut self, until: Instant, limit: Duration) -> Result<(), Fault> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        self.wait(until, limit)?;
        let read = loop {
            match (&*self.socket).read(&mut self.buffer[self.end..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        match read {
            _ if self.interrupt.is_raised() => Err(Problem::interrupted().into()),
            Ok(count) if count > 0 => {
                self.end += count;
                Ok(())
            }
            // A process that is gone with something unread resets its socket.
            _ => Err(Fault::Ended),
        }
    }

    fn wait(&mut self, until: Instant, limit: Duration) -> Result<(), Fault> {
        if self.hears(until)? {
            Ok(())
        } else {
            Err(silence("said nothing", limit).into())
        }
    }

    /// Waits until there is something to read, and whether it was before that; takes in what is complained of meanwhile.
    fn hears(&mut self, until: Instant) -> Result<bool, Fault> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(timeout) = Timespec::try_from(left) else {
                return Ok(false);
            };
            let (heard, complained) = match self.look(&timeout) {
                Err(Errno::INTR) => continue,
                Err(error) => {
                    let text = format!("it could not be waited for: {error}");
                    return Err(Problem::transient(WebErrorStatus::CONNECTION_ABORTED, text).into());
                }
                Ok(ready) => ready,
            };
            if complained {
                self.take_complaint()?;
            }
            if heard {
                return Ok(true);
            }
            if self.interrupt.is_raised() {
                return Err(Problem::interrupted().into());
            }
            if left.is_zero() {
                return Ok(false);
            }
        }
    }

    /// Whether there is something to read from its output, and from its standard error.
    fn look(&self, timeout: &Timespec) -> Result<(bool, bool), Errno> {
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let output = PollFd::new(&*self.socket, PollFlags::IN);
        let Some(complaints) = &self.complaints else {
            let mut polled = [output];
            poll(&mut polled, Some(timeout))?;
            return Ok((is_ready(&polled[0]), false));
        };
        let mut polled = [output, PollFd::new(complaints, PollFlags::IN)];
        poll(&mut polled, Some(timeout))?;
        Ok((is_ready(&polled[0]), is_ready(&polled[1])))
    }

    fn take_complaint(&mut self) -> Result<(), Fault> {
        let Some(complaints) = &mut self.complaints else {
            return Ok(());
        };
        let mut bytes = [0; 4096];
        match complaints.read(&mut bytes) {
            Ok(count) if count > 0 => self.complained.take(&bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => self.complaints = None,
        }
        if self.complained.taken_bytes > COMPLAINT_BYTES_MAX {
            self.complaints = None;
            return Err(violation(&format!("more than {COMPLAINT_BYTES_MAX} bytes to standard error")).into());
        }
        Ok(())
    }

    /// The last line that it wrote to its standard error, if it wrote one; to be asked once it has ended.
    pub(super) fn last_complaint(&mut self) -> Option<String> {
        // What is there is read without a wait: something that it has started may hold the pipe open.
        for _ in 0..COMPLAINT_BYTES_MAX / 4096 {
            let Some(complaints) = &self.complaints else { break };
            let mut polled = [PollFd::new(complaints, PollFlags::IN)];
            let is_there = poll(&mut polled, Some(&Timespec::default())).is_ok_and(|count| count > 0);
            if !is_there || self.take_complaint().is_err() {
                break;
            }
        }
        self.complained.last_line()
    }
}

/// The end of what was written to standard error.
#[derive(Default)]
struct Complained {
    /// The last line that was no blank one and is whole.
    last: Vec<u8>,
    /// The line that is not whole yet.
    open: Vec<u8>,
    taken_bytes: usize,
}

impl Complained {
    fn take(&mut self, bytes: &[u8]) {
        self.taken_bytes += bytes.len();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = (COMPLAINT_LINE_BYTES_MAX + 1).saturating_sub(self.open.len());
            self.open.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                let whole = std::mem::take(&mut self.open);
                if !whole.trim_ascii().is_empty() {
                    self.last = whole;
                }
            }
        }
    }

    fn last_line(&self) -> Option<String> {
        let lines = [&self.open, &self.last];
        let line = lines.into_iter().find(|line| !line.trim_ascii().is_empty())?;
        Some(if line.len() > COMPLAINT_LINE_BYTES_MAX {
            format!("a line of more than {COMPLAINT_LINE_BYTES_MAX} bytes")
        } else {
            String::from_utf8_lossy(line.trim_ascii()).into_owned()
        })
    }
}

/// It broke the protocol by this; it would do so again.
pub(super) fn violation(what: &str) -> Problem {
    let text = format!("it breaks the protocol of helpers: it sent {what}");
    Problem::permanent(WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE, text)
}

fn silence(what: &str, limit: Duration) -> Problem {
    let text = format!("it {what} within {} s", limit.as_secs_f32());
    Problem::transient(WebErrorStatus::TIMEOUT, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_complaints_the_last_line_is_kept_and_nothing_grows() {
        let mut complained = Complained::default();
        assert_eq!(complained.last_line(), None);
        complained.take(b"first\nlast \x1b[31mone\n\n \n");
        assert_eq!(complained.last_line().as_deref(), Some("last \x1b[31mone"));
        complained.take(b"and mo");
        complained.take(b"re");
        assert_eq!(complained.last_line().as_deref(), Some("and more"));
        complained.take(&vec![b'x'; 100_000]);
        assert!(complained.open.len() <= COMPLAINT_LINE_BYTES_MAX + 1);
        assert!(
            !complained.last_line().is_some_and(|line| line.contains('x')),
            "a part of a secret is one"
        );
        complained.take(b"\nlast\n");
        assert_eq!(complained.last_line().as_deref(), Some("last"));
    }
}
