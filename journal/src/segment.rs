//! The writing end of the log: the active segment, the next one, and the reserve for a full disk.

use std::io;

use crate::checksum::segment_seed;
use crate::directory::{Directory, segment_name, segment_temporary};
use crate::error::{Error, is_full};
use crate::format::{FILE_HEADER_BYTES, FRAME_HEADER_BYTES, FileHeader, SEGMENT_MAGIC};
use crate::frame::FrameKind;
use crate::group::Group;
use crate::open::{above, sync_above};
use crate::options::Options;
use crate::reserve::Reserve;
use crate::steps;
use crate::storage::StorageFile;

/// Segments are made in multiples of this, the page and block size of most devices.
const BLOCK_BYTES: usize = 4096;
/// Zeros written by one call. Chosen without measurement.
const ZEROS_BYTES: usize = 64 * 1024;
/// Kept free at the end of each segment, so that a close always has room.
const CLOSE_BYTES: usize = FRAME_HEADER_BYTES;

/// What only one thread at a time may do to the log.
pub(crate) struct Log {
    directory: Directory,
    journal_id: [u8; 16],
    options: Options,
    zero_fill: bool,
    active: Option<Active>,
    next_seq: u64,
    segments_made: u64,
    /// The journal has no file yet, and the name of its directory may not be durable.
    pub is_new: bool,
    pub reserve: Reserve,
    pub counts: LogCounts,
}

/// What the log has done to the disk.
#[derive(Clone, Copy, Default)]
pub(crate) struct LogCounts {
    pub syncs: u64,
    pub writes: u64,
    pub rotations: u64,
}

/// The segment that groups are written to. Only this process has written to it.
struct Active {
    file: Box<dyn StorageFile>,
    seq: u64,
    seed: u32,
    end: usize,
    limit: usize,
    frames: bool,
}

/// A segment and its first LSN.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentEntry {
    pub seq: u64,
    pub base_lsn: u64,
}

impl Log {
    pub(crate) fn new(
        directory: Directory,
        journal_id: [u8; 16],
        options: Options,
        zero_fill: bool,
        next_seq: u64,
        reserve: Reserve,
    ) -> Log {
        Log {
            directory,
            journal_id,
            options,
            zero_fill,
            active: None,
            next_seq,
            segments_made: 0,
            is_new: false,
            reserve,
            counts: LogCounts::default(),
        }
    }

    /// Makes a group durable: one write and one sync, or a new segment with the group in it. Everything below the
    /// group must be durable already. After an error nothing more may be written.
    /// There are `segments` so far.
    pub(crate) fn commit(&mut self, group: &mut Group, segments: usize) -> Result<Option<SegmentEntry>, Error> {
        let must_rotate = self.must_rotate(group);
        if let Some(active) = self.active.as_mut().filter(|_| !must_rotate) {
            group.seal(active.seed, group.first());
            match active.append(group.bytes(), &mut self.counts) {
                Ok(()) => {
                    if steps::is_taken("sync of a group") {
                        self.sync_active()?;
                    }
                    return Ok(None);
                }
                // What was written of the group is void: the next segment begins with the group's first LSN.
                Err(error) if is_full(&error) => {}
                Err(error) => return Err(self.active_error("write", error)),
            }
        }
        self.rotate(group, segments).map(Some)
    }

    /// Whether the active segment has no room for a group.
    pub(crate) fn must_rotate(&self, group: &Group) -> bool {
        self.active
            .as_ref()
            .is_none_or(|active| active.end + group.len_bytes() + CLOSE_BYTES > active.limit)
    }

    /// Vouches for everything below `next_lsn`, all of which must be durable.
    pub(crate) fn close(&mut self, next_lsn: u64) -> Result<(), Error> {
        let Some(active) = self.active.as_mut().filter(|active| active.frames) else {
            // Nothing was written, or nothing but a header, which vouches for what is below it.
            return Ok(());
        };
        let mut group = Group::new(next_lsn);
        group.push_mark(FrameKind::Close, &[], next_lsn);
        group.seal(active.seed, next_lsn);
        if let Err(error) = active.append(group.bytes(), &mut self.counts) {
            return Err(self.active_error("write", error));
        }
        if !self.options.brief && steps::is_taken("sync of a close") {
            self.sync_active()?;
        }
        Ok(())
    }

    /// Begins a segment with a group in it, which may be empty.
    ///
    /// The file is filled and synced under a temporary name by the thread that commits, when the segment before it is
    /// full. Making it earlier, or in a thread of its own, would save this one caller some milliseconds in some thousand
    /// records, for one more sync or one more thread; the group rides in the same sync as the new file.
    pub(crate) fn rotate(&mut self, group: &mut Group, segments: usize) -> Result<SegmentEntry, Error> {
        let least = (FILE_HEADER_BYTES + group.len_bytes() + CLOSE_BYTES).next_multiple_of(BLOCK_BYTES);
        // With the reserve spent, room is for records, not for zeros.
        if !self.reserve.is_spent() {
            let segment_bytes = self.options.segment_bytes as usize;
            let grown_bytes = segment_bytes.saturating_mul((segments / 2).max(1));
            let grown_bytes = grown_bytes.min(self.options.segment_bytes_max as usize);
            let wanted: &[usize] = match self.segments_made {
                0 => &[self.options.first_segment_bytes as usize],
                // A disk that has no room for the former may have some for the latter.
                _ => &[grown_bytes, segment_bytes],
            };
            for wanted in wanted {
                match self.make_segment(group, least.max(*wanted)) {
                    Err(error) if is_full_error(&error) => {}
                    answer => return answer,
                }
            }
            self.reserve.spend(&self.directory)?;
        }
        self.make_segment(group, least).map_err(|error| self.full(error))
    }

    /// Sets the reserve aside where it is missing and there is room: for a segment, or a group that is larger, and a
    /// snapshot.
    pub(crate) fn refill_reserve(&mut self, snapshot_bytes: u64) {
        let (segment_bytes, group_bytes) = (self.options.segment_bytes, self.options.group_bytes_max);
        let bytes = u64::from(segment_bytes.max(group_bytes)) + BLOCK_BYTES as u64 + snapshot_bytes;
        self.reserve.refill(&self.directory, bytes, u64::from(segment_bytes));
    }

    fn full(&self, error: Error) -> Error {
        if is_full_error(&error) {
            Error::DiskFull(self.directory.path.clone())
        } else {
            error
        }
    }

    fn make_segment(&mut self, group: &mut Group, len_bytes: usize) -> Result<SegmentEntry, Error> {
        let seq = self.next_seq;
        let temporary = segment_temporary(seq);
        let active = match self.fill_segment(group, &temporary, len_bytes) {
            Ok(active) => active,
            Err(error) => {
                // What stays is removed by the next open.
                let _ = self.directory.remove(&temporary);
                return Err(error);
            }
        };
        // A process that was killed may have named the segment before this one and not synced the name; if it were lost
        // in a power cut that this one's name survives, the log would have a hole.
        if self.segments_made == 0 && steps::is_taken("directory sync before a process names its first segment") {
            self.directory.sync_to_go_on()?;
        }
        if self.is_new {
            self.sync_names_above()?;
            self.is_new = false;
        }
        let (from, to) = (self.directory.join(&temporary), self.directory.join(&segment_name(seq)));
        self.directory
            .storage
            .rename(&from, &to)
            .map_err(Error::io("rename", &from))?;
        if steps::is_taken("directory sync after a segment got its name") {
            self.directory.sync()?;
        }
        self.counts.rotations += 1;
        self.segments_made += 1;
        self.next_seq += 1;
        self.active = Some(active);
        Ok(SegmentEntry {
            seq,
            base_lsn: group.first(),
        })
    }

    /// A journal that is found has a name that lasts. On most file systems the sync of the file has taken it along.
    fn sync_names_above(&self) -> Result<(), Error> {
        let (storage, path) = (&*self.directory.storage, &*self.directory.path);
        if steps::is_taken("sync of the directory above a new journal") {
            sync_above(storage, path)?;
        }
        if self.options.new_above && steps::is_taken("sync of the directory above a new one above a journal") {
            sync_above(storage, above(path))?;
        }
        Ok(())
    }

    /// Writes header, group and zeros, and syncs them once: the name comes only after that.
    fn fill_segment(&mut self, group: &mut Group, temporary: &str, len_bytes: usize) -> Result<Active, Error> {
        let path = self.directory.join(temporary);
        let seed = segment_seed(&self.journal_id, self.next_seq);
        let capacity = if self.zero_fill { len_bytes } else { 0 };
        let header = FileHeader {
            magic: SEGMENT_MAGIC,
            compat_flags: 0,
            capacity_bytes: u32::try_from(capacity).expect("options keep segments below 64 MiB"),
            number: self.next_seq,
            lsn: group.first(),
            journal_id: self.journal_id,
        };
        group.seal(seed, group.first());
        let file = self
            .directory
            .storage
            .create(&path, 0o600)
            .map_err(Error::io("create", &path))?;
        let end = FILE_HEADER_BYTES + group.len_bytes();
        let written = file
            .write_all_at(&header.encode(), 0)
            .and_then(|()| file.write_all_at(group.bytes(), FILE_HEADER_BYTES as u64))
            .and_then(|()| write_zeros(&*file, end, capacity));
        written.map_err(Error::io("write", &path))?;
        if self.is_new && !group.is_empty() {
            // It would come right after these records; so most file systems take it in the same commit.
            self.refill_reserve(0);
        }
        self.counts.syncs += 1;
        if steps::is_taken("sync of a segment before its name") {
            file.sync_data().map_err(Error::io("sync", &path))?;
        }
        Ok(Active {
            file,
            seq: self.next_seq,
            seed,
            end,
            limit: len_bytes,
            frames: !group.is_empty(),
        })
    }

    fn sync_active(&mut self) -> Result<(), Error> {
        let Some(active) = &self.active else {
            return Ok(());
        };
        self.counts.syncs += 1;
        // A failed sync is never tried again on this file: the kernel may have dropped the pages and forgotten them.
        active
            .file
            .sync_data()
            .map_err(|error| self.active_error("sync", error))
    }

    fn active_error(&self, what: &'static str, error: io::Error) -> Error {
        let seq = self.active.as_ref().map_or(self.next_seq, |active| active.seq);
        Error::Io(what, self.directory.join(&segment_name(seq)), error)
    }
}

impl Active {
    fn append(&mut self, bytes: &[u8], counts: &mut LogCounts) -> io::Result<()> {
        counts.writes += 1;
        self.file.write_all_at(bytes, self.end as u64)?;
        self.end += bytes.len();
        self.frames = true;
        Ok(())
    }
}

fn write_zeros(file: &dyn StorageFile, from: usize, to: usize) -> io::Result<()> {
    let zeros = vec![0; ZEROS_BYTES.min(to.saturating_sub(from))];
    let mut offset = from;
    while offset < to {
        let count = zeros.len().min(to - offset);
        file.write_all_at(&zeros[..count], offset as u64)?;
        offset += count;
    }
    Ok(())
}

/// Only creating and writing leave a file that nothing relies on; a failed sync is final whatever its reason.
fn is_full_error(error: &Error) -> bool {
    matches!(error, Error::Io("create" | "write", _, error) if is_full(error))
}
