//! Moves the body to the sink, and decides whether its end is the end of the resource.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::attempt::Attempt;
use super::response::{Body, Framing};
use crate::problem::Problem;
use crate::{Sink, WebErrorStatus};

/// Longest time that received bytes wait for the buffer to fill. A slow transfer would otherwise keep seconds of work
/// where a crash loses them.
const FLUSH_AFTER: Duration = Duration::from_millis(500);

const BUFFER_BYTES_MIN: usize = 4 * 1024;
const BUFFER_BYTES_MAX: usize = 1024 * 1024;

/// What a body begins with: a small or slow one never needs more.
const FIRST_BYTES: usize = 16 * 1024;

/// A buffer of at most this size lies on the stack.
const SMALL_BYTES: usize = 1024;

/// A buffer that was filled and written this quickly was too small, and becomes four times as large: from 256 KiB/s on
/// it grows, and beyond 256 KiB only above 4 MiB/s. One that was not half full when its bytes had waited for long
/// shrinks again (chosen without measurement).
const FULL_WITHIN: Duration = Duration::from_millis(62);
const GROWTH: usize = 4;

/// Reads that many bytes from the beginning of a body; all of them or an error.
pub(super) fn read_exact(attempt: &Attempt, reader: &mut dyn Read, length: usize) -> Result<Vec<u8>, Problem> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match reader.read(&mut bytes[filled..]) {
            Ok(0) if attempt.interrupt.is_raised() => return Err(Problem::interrupted()),
            Ok(0) => {
                return Err(attempt
                    .take_fault()
                    .map_or_else(|| disconnected(filled as u64), Problem::from));
            }
            Ok(amount) => filled += amount,
            Err(error) if goes_on(&error) => {}
            Err(error) => return Err(broken(attempt, &error, filled as u64)),
        }
    }
    Ok(bytes)
}

/// What is moved from and to, and under which terms.
pub(super) struct Transfer<'a> {
    pub(super) attempt: &'a Attempt,
    pub(super) sink: &'a mut dyn Sink,
    pub(super) framing: Framing,
    /// Bytes that must come, where known.
    pub(super) length: Option<u64>,
    /// They are not yet the rest of the resource.
    pub(super) then_more: bool,
}

impl Transfer<'_> {
    /// Everything that was received reaches the sink, however it ends.
    pub(super) fn run(&mut self, reader: &mut dyn Read, buffer_bytes: usize) -> Result<(), Problem> {
        let mut room = Room::new(self.room_max(buffer_bytes));
        let mut small = [0; SMALL_BYTES];
        let mut large = Vec::new();
        let mut filled = 0;
        let mut received: u64 = 0;
        let mut waiting_since = None;
        // The writing counts too: what a limit on the rate holds up needs no large buffer.
        let mut turned_at = Instant::now();
        loop {
            let buffer = room.of(&mut small, &mut large);
            let outcome = reader.read(&mut buffer[filled..]);
            if let Ok(amount @ 1..) = outcome {
                received += amount as u64;
                filled += amount;
                let since = *waiting_since.get_or_insert_with(Instant::now);
                let excess = self.excess(received);
                if excess == 0 && filled < buffer.len() && since.elapsed() < FLUSH_AFTER {
                    continue;
                }
                if excess > 0 {
                    filled = filled.saturating_sub(usize::try_from(excess).unwrap_or(usize::MAX));
                }
            }
            if filled > 0 {
                self.sink.write(&buffer[..filled]).map_err(|_| Problem::refused())?;
                let now = Instant::now();
                room.adapt(filled, now.duration_since(turned_at));
                filled = 0;
                turned_at = now;
            }
            waiting_since = None;
            match outcome {
                Ok(0) => return self.end(received),
                Ok(_) if self.excess(received) > 0 => return Err(self.too_long()),
                Err(error) if !goes_on(&error) => return Err(broken(self.attempt, &error, received)),
                _ => {}
            }
        }
    }

    fn room_max(&self, buffer_bytes: usize) -> usize {
        let wanted = buffer_bytes.clamp(BUFFER_BYTES_MIN, BUFFER_BYTES_MAX);
        let needed = self
            .length
            .and_then(|length| usize::try_from(length).ok())
            .unwrap_or(wanted);
        // Never empty: a read into nothing would look like the end.
        wanted.min(needed).max(1)
    }

    fn excess(&self, received: u64) -> u64 {
        self.length.map_or(0, |length| received.saturating_sub(length))
    }

    fn too_long(&self) -> Problem {
        let length = self.length.unwrap_or_default();
        let text = format!("the server sends more than the {length} bytes that are due");
        Problem::permanent(WebErrorStatus::LENGTH_MISMATCH, text)
    }

    /// The reader says that the body is over. Behind a length or a last chunk stands the framing; behind the mere end
    /// of a connection, only an orderly one.
    fn end(&self, received: u64) -> Result<(), Problem> {
        if self.attempt.interrupt.is_raised() {
            return Err(Problem::interrupted());
        }
        if self.framing == Framing::Close && !self.attempt.has_ended() {
            return Err(self
                .attempt
                .take_fault()
                .map_or_else(|| disconnected(received), Problem::from));
        }
        match self.length {
            Some(length) if received < length && self.framing != Framing::Chunked => Err(disconnected(received)),
            Some(length) if received != length => {
                let text = format!("the server ended the content after {received} bytes, {length} are due");
                Err(Problem::permanent(WebErrorStatus::LENGTH_MISMATCH, text))
            }
            _ if self.then_more => Err(Problem::transient(
                WebErrorStatus::DISCONNECTED,
                "the server sent only a part of the rest; more must be asked for",
            )),
            _ => Ok(()),
        }
    }
}

/// How large the buffer of a body is to be, by how quickly it fills.
#[derive(Debug)]
struct Room {
    bytes: usize,
    max: usize,
}

impl Room {
    /// A buffer of that size, which is empty of what is still wanted when the size has changed.
    fn of<'a>(&self, small: &'a mut [u8; SMALL_BYTES], large: &'a mut Vec<u8>) -> &'a mut [u8] {
        if self.bytes <= SMALL_BYTES {
            return &mut small[..self.bytes];
        }
        if large.len() != self.bytes {
            // The old one goes first.
            drop(std::mem::take(large));
            *large = vec![0; self.bytes];
        }
        large
    }

    fn new(max: usize) -> Self {
        let bytes = FIRST_BYTES.min(max);
        Self { bytes, max }
    }

    /// Looks at how much was written and how long it took to read and write it; whether another size follows from that. The
    /// buffer must hold nothing then.
    fn adapt(&mut self, written: usize, took: Duration) -> bool {
        let before = self.bytes;
        if written == self.bytes && took < FULL_WITHIN {
            self.bytes = self.max.min(self.bytes * GROWTH);
        } else if written < self.bytes / 2 && took >= FLUSH_AFTER {
            self.bytes = self.max.min(FIRST_BYTES).max(self.bytes / GROWTH);
        }
        self.bytes != before
    }
}

fn broken(attempt: &Attempt, error: &io::Error, received: u64) -> Problem {
    if let Some(fault) = attempt.take_fault() {
        return fault.into();
    }
    if attempt.interrupt.is_raised() {
        return Problem::interrupted();
    }
    if attempt.has_ended() {
        return disconnected(received);
    }
    let text = format!("the content cannot be read after {received} bytes: {error}");
    Problem::transient(WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE, text)
}

/// A silent tick, or a signal: nothing is lost and reading goes on.
fn goes_on(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn disconnected(received: u64) -> Problem {
    let text = format!("the server closed the connection early, after {received} bytes of this response");
    Problem::transient(WebErrorStatus::DISCONNECTED, text)
}

impl Body {
    /// Length and whether more must follow.
    pub(super) fn terms(self) -> Option<(Option<u64>, bool)> {
        match self {
            Self::Nothing => None,
            Self::Bytes { length, then_more } => Some((length, then_more)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICKLY: Duration = Duration::from_millis(1);

    fn grown(max: usize) -> Room {
        let mut room = Room::new(max);
        while room.adapt(room.bytes, QUICKLY) {}
        room
    }

    #[test]
    fn what_fills_quickly_grows_to_its_bound_and_never_beyond() {
        for max in [4096, FIRST_BYTES, 50_000, 512 * 1024] {
            assert_eq!(grown(max).bytes, max);
        }
    }

    #[test]
    fn what_fills_slowly_stays_small_and_becomes_small_again() {
        let mut room = Room::new(512 * 1024);
        assert!(
            !room.adapt(room.bytes, FULL_WITHIN),
            "it takes too long for a larger one"
        );
        assert!(!room.adapt(room.bytes / 2, QUICKLY), "it was not full");
        let mut room = grown(512 * 1024);
        assert!(!room.adapt(room.bytes, FULL_WITHIN), "full all the same");
        while room.adapt(1, FLUSH_AFTER) {}
        assert_eq!(room.bytes, FIRST_BYTES);
        let mut room = grown(4096);
        assert!(!room.adapt(1, FLUSH_AFTER), "it is not made larger by that");
    }
}
