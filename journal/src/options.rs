//! How a journal is written.

use std::time::Duration;

use crate::format::{FILE_BYTES_MAX, FRAME_BYTES_MAX, GROUP_BYTES_MAX};
use crate::storage::FileSystem;

/// How a journal is written. Values beyond what the format allows are brought to the nearest allowed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of a segment: 4 KiB to 64 MiB, 256 KiB by default. A group that is larger gets a larger segment.
    pub segment_bytes: u32,
    /// Most bytes of a segment where there are four or more: each has then `segment_bytes` for every two that there are, up to
    /// this, so that a long log takes fewer of them, each of which costs two syncs. At least `segment_bytes`, to which the
    /// default, 0, comes, and at most 64 MiB.
    pub segment_bytes_max: u32,
    /// Bytes of the first segment that this process makes, 64 KiB by default. A short-lived process does well with 4 to
    /// 8 KiB.
    pub first_segment_bytes: u32,
    /// Whether segments are filled with zeros when they are made.
    pub preallocate: Preallocate,
    /// Bytes of frames that may wait for a commit: at most 256 KiB, which is the default, and at least 65,560.
    pub group_bytes_max: u32,
    /// How long a commit waits for more records, so that fewer syncs wear the device. None by default.
    pub commit_delay: Duration,
    /// Bytes of records after which [`Journal::checkpoint_due`](crate::Journal::checkpoint_due) asks for a checkpoint, or
    /// four times the last snapshot, whichever is more; 1 MiB by default.
    pub checkpoint_bytes: u64,
    /// Whether space for one segment and one snapshot is set aside for [`Urgency::Critical`] records on a full disk. On
    /// by default.
    pub reserve: bool,
    /// For a process that writes little and ends soon. A new journal gets its first file with its first records, in one sync;
    /// until then there is none, and [`Journal::id`](crate::Journal::id) is not durable. The mark of a clean end is written
    /// but not synced: a power cut soon after costs the next open what it costs after a crash. Off by default.
    pub brief: bool,
    /// Whether the directory above the journal's is new as well: a new journal then makes the name of that one durable, too,
    /// before its first file counts. Off by default.
    pub new_above: bool,
    /// The id of a journal that is being made, where the application has its own source of ids. Random by default.
    pub journal_id: Option<[u8; 16]>,
}

/// Whether segments are filled with zeros when they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preallocate {
    /// On ext4 and XFS, where a sync into space written before costs a quarter of the bytes and half the flushes; not
    /// elsewhere, where it gains nothing.
    Auto,
    /// Always.
    Zero,
    /// Never. A log that lost its whole end to damage then looks shorter, not damaged.
    None,
}

/// Whether a record is taken while the disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Refused with [`Error::DiskFull`](crate::Error::DiskFull) once the reserve is spent.
    Normal,
    /// May use the reserve: completion, failure, removal.
    Critical,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: 256 * 1024,
            segment_bytes_max: 0,
            first_segment_bytes: 64 * 1024,
            preallocate: Preallocate::Auto,
            group_bytes_max: 256 * 1024,
            commit_delay: Duration::ZERO,
            checkpoint_bytes: 1 << 20,
            reserve: true,
            brief: false,
            new_above: false,
            journal_id: None,
        }
    }
}

impl Options {
    pub(crate) fn bounded(mut self) -> Options {
        // The largest file has to hold a segment and be a multiple of a block; both ends of the range are.
        let file_max = u32::try_from(FILE_BYTES_MAX).expect("64 MiB is below 4 GiB");
        let group = |bytes| u32::try_from(bytes).expect("a group is below 4 GiB");
        self.segment_bytes = self.segment_bytes.clamp(4096, file_max) & !4095;
        self.segment_bytes_max = self.segment_bytes_max.clamp(self.segment_bytes, file_max) & !4095;
        self.first_segment_bytes = self.first_segment_bytes.clamp(4096, file_max) & !4095;
        self.group_bytes_max = self
            .group_bytes_max
            .clamp(group(FRAME_BYTES_MAX), group(GROUP_BYTES_MAX));
        self
    }
}

impl Preallocate {
    pub(crate) fn zero_fill(self, file_system: FileSystem) -> bool {
        match self {
            Preallocate::Auto => matches!(file_system, FileSystem::Ext4 | FileSystem::Xfs),
            Preallocate::Zero => true,
            Preallocate::None => false,
        }
    }
}
