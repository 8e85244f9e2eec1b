//! Moves what arrives to the sink: compares what is held already, gathers, counts.

use std::time::{Duration, Instant};

use crate::problem::Problem;
use crate::{Head, Sink, Start};

/// Longest time that received bytes wait for the buffer to fill. A slow transfer would otherwise keep seconds of work
/// where a crash loses them.
const FLUSH_AFTER: Duration = Duration::from_millis(500);

/// What is gathered before it is written: no more than libcurl reads at once.
const BUFFER_BYTES_MIN: usize = 4 * 1024;
const BUFFER_BYTES_MAX: usize = 256 * 1024;

/// Why no more is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The sink takes no more.
    Refused,
    /// What was asked for once more is not what is held.
    Differs,
    /// More came than is due.
    TooLong,
}

/// What arrives, on its way to the sink.
pub(super) struct Intake<'a, 's> {
    sink: &'s mut dyn Sink,
    /// What is told before the first byte.
    head: Head,
    has_begun: bool,
    /// Held bytes that come once more before those that count.
    overlap: &'a [u8],
    /// Bytes that must come behind the overlap, where known.
    due: Option<u64>,
    /// Bytes that came behind the overlap.
    received: u64,
    buffer: Vec<u8>,
    room: usize,
    waiting_since: Option<Instant>,
    has_refused: bool,
}

impl<'a, 's> Intake<'a, 's> {
    pub(super) fn new(
        sink: &'s mut dyn Sink,
        head: Head,
        overlap: &'a [u8],
        due: Option<u64>,
        buffer_bytes: usize,
    ) -> Self {
        let wanted = buffer_bytes.clamp(BUFFER_BYTES_MIN, BUFFER_BYTES_MAX);
        let needed = due.and_then(|due| usize::try_from(due).ok()).unwrap_or(wanted);
        Self {
            sink,
            head,
            has_begun: false,
            overlap,
            due,
            received: 0,
            buffer: Vec::new(),
            room: wanted.min(needed).max(1),
            waiting_since: None,
            has_refused: false,
        }
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }

    /// The code of the reply that announces the bytes.
    pub(super) fn answered(&mut self, code: u16) {
        self.head.status_code = code;
    }

    /// The server could go on from an offset.
    pub(super) fn is_resumable(&mut self) {
        self.head.resumable = Some(true);
    }

    /// What comes goes on behind what is held.
    pub(super) fn has_continued(&self) -> bool {
        matches!(self.head.start, Start::Continue { .. })
    }

    /// How much of the file there is with what came.
    pub(super) fn position(&self) -> u64 {
        let begin = match self.head.start {
            Start::Continue { offset_bytes } => offset_bytes,
            Start::Beginning | Start::Restart(_) => 0,
        };
        begin + self.received
    }

    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Result<(), Stop> {
        let again = bytes.len().min(self.overlap.len());
        let (expected, rest) = self.overlap.split_at(again);
        if bytes[..again] != *expected {
            return Err(Stop::Differs);
        }
        self.overlap = rest;
        bytes = &bytes[again..];
        if bytes.is_empty() {
            return Ok(());
        }
        self.begin()?;
        let left = self.due.map_or(u64::MAX, |due| due - self.received.min(due));
        let fits = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        self.gather(&bytes[..fits])?;
        if fits < bytes.len() { Err(Stop::TooLong) } else { Ok(()) }
    }

    fn gather(&mut self, mut bytes: &[u8]) -> Result<(), Stop> {
        self.received += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.buffer.capacity() == 0 {
                self.buffer.reserve_exact(self.room);
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.room - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == self.room {
                self.flush()?;
            }
        }
        if !self.buffer.is_empty() && self.waiting_since.is_none() {
            self.waiting_since = Some(Instant::now());
        }
        self.tick()
    }

    /// Hands over what has waited for long.
    pub(super) fn tick(&mut self) -> Result<(), Stop> {
        if self.waiting_since.is_some_and(|since| since.elapsed() >= FLUSH_AFTER) {
            return self.flush();
        }
        Ok(())
    }

    /// Hands over what came, all of it.
    pub(super) fn flush(&mut self) -> Result<(), Stop> {
        self.waiting_since = None;
        if self.buffer.is_empty() || self.has_refused {
            return Ok(());
        }
        let outcome = self.sink.write(&self.buffer);
        self.buffer.clear();
        self.heed(outcome.is_ok())
    }

    /// Tells of the answer where no byte did.
    pub(super) fn begin(&mut self) -> Result<(), Stop> {
        if self.has_begun {
            return Ok(());
        }
        self.has_begun = true;
        let outcome = self.sink.begin(&self.head);
        self.heed(outcome.is_ok())
    }

    /// The transfer is over, and well: all that was held already has come once more.
    pub(super) fn finish(&mut self) -> Result<(), Stop> {
        if !self.overlap.is_empty() {
            return Err(Stop::Differs);
        }
        self.begin()?;
        self.flush()
    }

    fn heed(&mut self, is_taken: bool) -> Result<(), Stop> {
        self.has_refused |= !is_taken;
        if is_taken { Ok(()) } else { Err(Stop::Refused) }
    }
}

/// Tells a sink of an answer that brings nothing.
pub(super) fn begin_and_end(sink: &mut dyn Sink, head: &Head) -> Result<(), Problem> {
    sink.begin(head).map_err(|_| Problem::refused())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HeaderFields, Refused, Validators};

    /// Notes how much comes at once.
    #[derive(Default)]
    struct Sizes(Vec<usize>);

    impl Sink for Sizes {
        fn begin(&mut self, _: &Head) -> Result<(), Refused> {
            Ok(())
        }

        fn write(&mut self, bytes: &[u8]) -> Result<(), Refused> {
            self.0.push(bytes.len());
            Ok(())
        }
    }

    fn head() -> Head {
        Head {
            start: Start::Beginning,
            actual_url: String::new(),
            status_code: 150,
            resumable: Some(false),
            provable: false,
            on_trust: false,
            content_type: None,
            modified: None,
            mirrors: Vec::new(),
            headers: HeaderFields::default(),
            validators: Validators::default(),
        }
    }

    #[test]
    fn no_more_is_gathered_than_was_asked_for_than_is_due_or_than_a_read_has() {
        let mebibyte = Some(1 << 20);
        for (asked, due, most) in [
            (1 << 20, mebibyte, 256 << 10),
            (512 << 10, None, 256 << 10),
            (64 << 10, mebibyte, 64 << 10),
            (512 << 10, Some(10_000), 10_000),
            (0, mebibyte, 4 << 10),
        ] {
            let mut sizes = Sizes::default();
            let mut intake = Intake::new(&mut sizes, head(), &[], due, asked);
            let mut left = usize::try_from(due.unwrap_or(1 << 20)).unwrap_or(0);
            while left > 0 {
                let now = left.min(16 << 10);
                assert!(intake.take(&vec![7; now]).is_ok());
                left -= now;
            }
            assert!(intake.finish().is_ok());
            assert_eq!(sizes.0.iter().max(), Some(&most), "{asked} {due:?}");
        }
    }
}
