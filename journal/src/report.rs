//! What was found in a journal.

use std::ffi::OsString;
use std::ops::Range;

use crate::error::Corruption;
use crate::replay::Lsn;

/// What opening, reading or verifying a journal found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The random number that the journal got when it was made.
    pub id: [u8; 16],
    /// Whether opening made the journal.
    pub created: bool,
    /// The snapshot that was used.
    pub snapshot: Option<SnapshotReport>,
    /// Snapshots that could not be used, newest first, and why.
    pub damaged_snapshots: Vec<(Lsn, &'static str)>,
    /// LSN of the next record.
    pub next: Lsn,
    /// Every record below this one is vouched for by something written after it was durable.
    pub proven: Lsn,
    /// Records that opening wrote anew, because nothing vouched for them.
    pub relogged: u64,
    /// Records that an earlier salvage could not find, and one for each salvage: what was lost at the very end leaves no
    /// trace.
    pub missing: u64,
    /// How the log ends.
    pub tail: Tail,
    /// Whether the log ends with everything vouched for, as after a close.
    pub clean: bool,
    /// The segments that were read, oldest first.
    pub segments: Vec<SegmentReport>,
    /// Names in the directory that are not of a journal; they are never touched.
    pub unknown: Vec<OsString>,
    /// The first damage that keeps the journal from being opened; only [`verify`](crate::verify) returns it in here.
    pub corruption: Option<Corruption>,
}

/// A snapshot that was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotReport {
    /// It holds the effect of every record below this one.
    pub lsn: Lsn,
    /// Its records.
    pub records: u64,
    /// Its bytes in all parts.
    pub bytes: u64,
    /// Its files.
    pub parts: u32,
    /// Every record below was durable in the log when the snapshot got its name, and no later one has an effect in it.
    pub reach: Lsn,
}

/// One segment of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentReport {
    /// Number of the segment, which names its file.
    pub seq: u64,
    /// Length of the file.
    pub len_bytes: u64,
    /// First LSN, as its header says; 0 where the header is damaged.
    pub first: Lsn,
    /// LSN after its last intact frame that counts.
    pub next: Lsn,
    /// Intact frames that count.
    pub frames: u64,
    /// The highest durable LSN that a frame of this segment vouches for.
    pub proven: Lsn,
    /// Byte ranges that should hold frames and do not; at most 256 in all segments together.
    pub bad: Vec<Range<u64>>,
}

/// How a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// With its last intact frame, and nothing after it.
    Clean,
    /// With bytes that are no frame, as a crash leaves them.
    Torn {
        /// The segment's number.
        segment: u64,
        /// Where the bytes begin.
        offset_bytes: u64,
        /// How many there are to the end of the file.
        len_bytes: u64,
        /// Whether they may have been acknowledged records: rot in the very last group looks like a crash. False where
        /// the journal had been closed.
        maybe_acknowledged: bool,
    },
}

/// What [`verify`](crate::verify) makes of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every byte is as it was written.
    Clean,
    /// The end is torn, as by a crash.
    Torn,
    /// Something is damaged that no crash explains.
    Corrupt,
}

impl Report {
    pub(crate) fn new(id: [u8; 16], next: u64) -> Report {
        Report {
            id,
            created: false,
            snapshot: None,
            damaged_snapshots: Vec::new(),
            next: Lsn(next),
            proven: Lsn(next),
            relogged: 0,
            missing: 0,
            tail: Tail::Clean,
            clean: true,
            segments: Vec::new(),
            unknown: Vec::new(),
            corruption: None,
        }
    }

    /// The report in one word.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let bad = self.segments.iter().any(|segment| !segment.bad.is_empty());
        if self.corruption.is_some() || !self.damaged_snapshots.is_empty() || bad {
            Verdict::Corrupt
        } else if self.tail == Tail::Clean {
            Verdict::Clean
        } else {
            Verdict::Torn
        }
    }
}
