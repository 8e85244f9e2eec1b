//! A resource with a history, and what a server says of it.

use std::fmt;
use std::sync::Arc;

use crate::lives::content::content;

/// One state that the resource was in.
#[derive(Clone)]
pub(crate) struct Version {
    pub(crate) bytes: Arc<Vec<u8>>,
    pub(crate) etag: Option<String>,
    pub(crate) time: Option<Time>,
}

impl fmt::Debug for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes, {:?}, {:?}", self.len(), self.etag, self.time)
    }
}

/// When a version says that it was made.
#[derive(Clone, Debug)]
pub(crate) struct Time {
    pub(crate) modified: String,
    /// The server's clock in its responses; a second or more after `modified` makes that a strong validator.
    pub(crate) date: Option<String>,
}

impl Version {
    pub(crate) fn new(seed: u64, number: usize, bytes: usize) -> Self {
        Self {
            bytes: Arc::new(content(seed, number, bytes)),
            etag: None,
            time: None,
        }
    }

    pub(crate) fn tagged(self, tag: &str) -> Self {
        Self {
            etag: Some(tag.into()),
            ..self
        }
    }

    /// Made at this second of an hour that is long over.
    pub(crate) fn made_at(self, second: u32) -> Self {
        let date = Some(clock(3_599));
        self.timed(second, date)
    }

    /// Served in the second in which it was made: another version of that second may follow.
    pub(crate) fn made_just_now(self, second: u32) -> Self {
        let date = Some(clock(second));
        self.timed(second, date)
    }

    /// Served by a server that does not say its time.
    pub(crate) fn made_at_without_clock(self, second: u32) -> Self {
        self.timed(second, None)
    }

    fn timed(self, second: u32, date: Option<String>) -> Self {
        let modified = clock(second);
        Self {
            time: Some(Time { modified, date }),
            ..self
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// A second of one hour, as HTTP writes it (RFC 9110, section 5.6.7).
fn clock(second: u32) -> String {
    format!("Sun, 06 Nov 1994 08:{:02}:{:02} GMT", second / 60 % 60, second % 60)
}
