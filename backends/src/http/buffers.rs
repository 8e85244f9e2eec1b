//! The two buffers of a connection, which an idle connection does without.

use ureq::unversioned::transport::Buffers;

use super::attempt::Attempt;

/// Room for the request head, of which one line must fit, and for parts of a request body. It is kept for the life of the
/// connection: memory that was given back and taken again would have to be cleared.
const OUTPUT_BYTES: usize = 64 * 1024;

/// The same for a request without a body whose head is no longer than half of it, as nearly all are. ureq adds some fields
/// of its own.
const SMALL_OUTPUT_BYTES: usize = 8 * 1024;

/// Input begins small, which is enough for a small file, and grows once when a read fills it.
const FIRST_INPUT_BYTES: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct WireBuffers {
    input_bytes_max: usize,
    input: Vec<u8>,
    /// Unconsumed input is `input[start..end]`.
    start: usize,
    end: usize,
    output: Vec<u8>,
    progress: bool,
}

impl WireBuffers {
    pub(super) fn new(input_bytes_max: usize) -> Self {
        Self {
            input_bytes_max,
            input: Vec::new(),
            start: 0,
            end: 0,
            output: Vec::new(),
            progress: false,
        }
    }

    /// Gives back what an idle connection does not need; nothing may be unconsumed.
    pub(super) fn release(&mut self) {
        if self.input.len() > FIRST_INPUT_BYTES {
            self.input = Vec::new();
        }
        (self.start, self.end, self.progress) = (0, 0, false);
    }
}

impl WireBuffers {
    fn grow(&mut self) {
        let mut larger = vec![0; self.input_bytes_max];
        let unconsumed = &self.input[self.start..self.end];
        larger[..unconsumed.len()].copy_from_slice(unconsumed);
        (self.start, self.end) = (0, unconsumed.len());
        self.input = larger;
    }
}

impl Buffers for WireBuffers {
    fn output(&mut self) -> &mut [u8] {
        let is_small = Attempt::current().is_some_and(|attempt| attempt.request_bytes() <= SMALL_OUTPUT_BYTES / 2);
        let bytes = if is_small { SMALL_OUTPUT_BYTES } else { OUTPUT_BYTES };
        if self.output.len() < bytes {
            self.output = vec![0; bytes];
        }
        &mut self.output
    }

    fn input(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        let was_full = self.end == self.input.len();
        if self.input.is_empty() {
            self.input = vec![0; FIRST_INPUT_BYTES.min(self.input_bytes_max)];
        } else if was_full && self.input.len() < self.input_bytes_max {
            self.grow();
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.input.len() {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.input[self.end..]
    }

    fn input_appended(&mut self, amount: usize) {
        assert!(
            amount <= self.input.len() - self.end,
            "no more can be appended than there was room for"
        );
        self.end += amount;
    }

    fn input_consume(&mut self, amount: usize) {
        assert!(amount <= self.end - self.start, "no more can be consumed than there is");
        let consumed = &self.input[self.start..self.start + amount];
        if let Some(attempt) = Attempt::current() {
            attempt.note_consumed(consumed);
        }
        self.progress = amount > 0;
        self.start += amount;
    }

    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        self.output();
        self.input_append_buf();
        (&mut self.input[self.end..], &mut self.output)
    }

    fn can_use_input(&self) -> bool {
        self.start < self.end && self.progress
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(buffers: &mut WireBuffers, bytes: &[u8]) {
        buffers.input_append_buf()[..bytes.len()].copy_from_slice(bytes);
        buffers.input_appended(bytes.len());
    }

    #[test]
    fn what_is_unconsumed_survives_growth_and_compaction() {
        let mut buffers = WireBuffers::new(40_000);
        append(&mut buffers, &vec![1; FIRST_INPUT_BYTES]);
        buffers.input_consume(FIRST_INPUT_BYTES - 2);
        append(&mut buffers, &[2, 3]);
        assert_eq!(buffers.input(), [1, 1, 2, 3], "it grew");
        let room = buffers.input_append_buf().len();
        append(&mut buffers, &vec![4; room]);
        buffers.input_consume(4 + room - 1);
        append(&mut buffers, &[5]);
        assert_eq!(buffers.input(), [4, 5], "it moved to the front");
    }

    #[test]
    fn a_full_buffer_has_no_room_left() {
        let mut buffers = WireBuffers::new(20_000);
        append(&mut buffers, &vec![1; FIRST_INPUT_BYTES]);
        let room = buffers.input_append_buf().len();
        append(&mut buffers, &vec![1; room]);
        assert_eq!(buffers.input().len(), 20_000);
        assert!(buffers.input_append_buf().is_empty());
    }

    #[test]
    fn input_without_progress_is_not_offered_again() {
        let mut buffers = WireBuffers::new(20_000);
        append(&mut buffers, b"half a line");
        buffers.input_consume(0);
        assert!(!buffers.can_use_input());
        buffers.input_consume(1);
        assert!(buffers.can_use_input());
    }
}
