//! Where the bytes of a body come from: out of ureq, or for a large plain body straight from the socket, which spares
//! copying each byte once more.

use std::io::{self, Read};

use super::attempt::Attempt;
use super::response::Framing;
use super::wire::Socket;

/// From this length on the socket is read directly. ureq then does not see the end of the body, so the connection is
/// closed after it: below this, keeping it is worth more than the copy (chosen without measurement).
const DIRECT_BYTES_MIN: u64 = 1024 * 1024;

/// The body of one response.
pub(super) struct Source<'a> {
    attempt: &'a Attempt,
    through_ureq: ureq::BodyReader<'static>,
    socket: Option<Socket>,
    /// Bytes still to come, where Content-Length says so.
    due: Option<u64>,
}

impl<'a> Source<'a> {
    pub(super) fn new(attempt: &'a Attempt, body: ureq::Body, framing: Framing) -> Self {
        let (direct, due) = match framing {
            Framing::Length(length) => (length >= DIRECT_BYTES_MIN, Some(length)),
            // Such a connection has no future in any case.
            Framing::Close => (true, None),
            Framing::Chunked => (false, None),
        };
        attempt.want_direct(direct);
        Self {
            attempt,
            through_ureq: body.into_reader(),
            socket: None,
            due,
        }
    }

    /// The head and some of the body come in one read, and ureq hands that out first. When it wants more, the transport
    /// lends its socket instead and reports that it would block.
    fn read_buffered(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.through_ureq.read(buffer) {
            Ok(amount) => {
                if amount > 0 {
                    self.attempt.note_content();
                }
                Ok(Some(amount))
            }
            Err(error) => {
                self.socket = self.attempt.take_lent();
                if self.socket.is_some() { Ok(None) } else { Err(error) }
            }
        }
    }

    fn read_socket(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = self.due.map_or(buffer.len(), |due| {
            buffer.len().min(usize::try_from(due).unwrap_or(usize::MAX))
        });
        let Some(socket) = self.socket.as_mut().filter(|_| room > 0) else {
            return Ok(0);
        };
        let amount = socket.read(self.attempt, &mut buffer[..room])?;
        if amount == 0 {
            self.attempt.note_end();
        }
        Ok(amount)
    }
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let buffered = if self.socket.is_none() {
            self.read_buffered(buffer)?
        } else {
            None
        };
        let amount = match buffered {
            Some(amount) => amount,
            None => self.read_socket(buffer)?,
        };
        self.due = self.due.map(|due| due.saturating_sub(amount as u64));
        Ok(amount)
    }
}
