//! A file with a history, and what a server says of it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::lives::content::content;

/// One state that the file was in.
#[derive(Clone)]
pub(crate) struct Version {
    pub(crate) bytes: Arc<Vec<u8>>,
}

impl fmt::Debug for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes", self.bytes.len())
    }
}

impl Version {
    /// Nothing in it is as in any other version.
    pub(crate) fn new(seed: u64, number: usize, bytes: usize) -> Self {
        Self {
            bytes: Arc::new(content(seed, number, bytes)),
        }
    }

    /// As this one, but for one stretch: only what the server says of it tells them apart where the rest is compared.
    pub(crate) fn edited(&self, seed: u64, number: usize, stretch: Range<usize>) -> Self {
        let mut bytes = (*self.bytes).clone();
        let other = content(seed, number, bytes.len());
        bytes[stretch.clone()].copy_from_slice(&other[stretch]);
        Self { bytes: Arc::new(bytes) }
    }

    /// This one and more behind it.
    pub(crate) fn grown(&self, seed: u64, number: usize, more: usize) -> Self {
        let old = self.bytes.len();
        let mut bytes = content(seed, number, old + more);
        bytes[..old].copy_from_slice(&self.bytes);
        Self { bytes: Arc::new(bytes) }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// How the versions tell their times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Times {
    /// Each has one of its own, long ago.
    Distinct,
    /// One for all, long ago: only the lengths tell them apart.
    Same,
    /// Never told.
    None,
    /// The true time at which the server came to have it, which is now or a little before.
    Now,
}

impl Times {
    /// What MDTM says of a version (RFC 3659, section 2.3).
    pub(crate) fn of(self, version: usize, made: SystemTime) -> Option<String> {
        match self {
            Self::Distinct => Some(time_val(long_ago(version as u64))),
            Self::Same => Some(time_val(long_ago(0))),
            Self::None => None,
            Self::Now => Some(time_val(made)),
        }
    }
}

/// A second of the year 2002, in which no version was made.
pub(crate) fn changing(count: u64) -> String {
    time_val(UNIX_EPOCH + Duration::from_secs(1_010_000_000 + count))
}

fn long_ago(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_577_836_800 + second)
}

fn time_val(time: SystemTime) -> String {
    let shown = humantime::format_rfc3339_seconds(time).to_string();
    shown.chars().filter(char::is_ascii_digit).collect()
}

#[test]
fn times_are_told_as_rfc_3659_has_them() {
    assert_eq!(Times::Distinct.of(7, UNIX_EPOCH).as_deref(), Some("20200101000007"));
}
