//! The two buffers of a connection, which an idle connection does without.

use ureq::unversioned::transport::Buffers;

/// Room for the request head; one header line must fit. Untouched pages cost nothing.
const OUTPUT_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct WireBuffers {
    input_bytes: usize,
    input: Vec<u8>,
    /// Unconsumed input is `input[start..end]`.
    start: usize,
    end: usize,
    output: Vec<u8>,
    progress: bool,
}

impl WireBuffers {
    pub(super) fn new(input_bytes: usize) -> Self {
        Self {
            input_bytes,
            input: Vec::new(),
            start: 0,
            end: 0,
            output: Vec::new(),
            progress: false,
        }
    }

    /// Gives the memory back; nothing may be unconsumed.
    pub(super) fn release(&mut self) {
        *self = Self::new(self.input_bytes);
    }
}

impl Buffers for WireBuffers {
    fn output(&mut self) -> &mut [u8] {
        if self.output.is_empty() {
            self.output = vec![0; OUTPUT_BYTES];
        }
        &mut self.output
    }

    fn input(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        if self.input.is_empty() {
            self.input = vec![0; self.input_bytes];
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
