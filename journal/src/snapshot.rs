//! Snapshots: the application's state as of an LSN, in files of their own.

#![forbid(unsafe_code)]

use std::io;

use crate::checksum::{crc, snapshot_seed};
use crate::directory::{Directory, Layout, PARTS_MAX, snapshot_name, snapshot_temporary};
use crate::error::Error;
use crate::format::{
    FILE_HEADER_BYTES, FileHeader, GROUP_BYTES_MAX, NUMBER_MAX, RECORD_BYTES_MAX, RECORD_PREFIX_BYTES, SNAPSHOT_MAGIC,
};
use crate::frame::{FrameKind, SnapshotEnd, records};
use crate::group::Group;
use crate::reader::{Found, FrameReader};
use crate::replay::Lsn;
use crate::report::SnapshotReport;
use crate::steps;
use crate::storage::StorageFile;

/// A part that has reached this is followed by another. Chosen without measurement, well below the limit of a file.
const PART_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes collected before each write. Chosen without measurement.
const WRITE_BYTES: usize = GROUP_BYTES_MAX / 4;

/// Takes the records of a snapshot while it is being made.
pub struct SnapshotWriter<'a> {
    directory: &'a Directory,
    journal_id: [u8; 16],
    lsn: u64,
    part: u32,
    file: Box<dyn StorageFile>,
    part_bytes: u64,
    bytes: u64,
    group: Group,
    crc: u32,
    published: bool,
}

impl std::fmt::Debug for SnapshotWriter<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("SnapshotWriter")
            .field("lsn", &self.lsn)
            .field("part", &self.part)
            .finish_non_exhaustive()
    }
}

impl<'a> SnapshotWriter<'a> {
    pub(crate) fn new(directory: &'a Directory, journal_id: [u8; 16], lsn: u64) -> Result<SnapshotWriter<'a>, Error> {
        // A checkpoint that failed at this LSN may have left its part, and nothing can be writing one now.
        directory.remove(&snapshot_temporary(lsn, 0))?;
        let file = create_part(directory, journal_id, lsn, 0)?;
        Ok(SnapshotWriter {
            directory,
            journal_id,
            lsn,
            part: 0,
            file,
            part_bytes: FILE_HEADER_BYTES as u64,
            bytes: FILE_HEADER_BYTES as u64,
            group: Group::new(0),
            crc: 0,
            published: false,
        })
    }

    /// Adds a record of the application's state.
    ///
    /// # Errors
    /// [`Error::TooLarge`] beyond 32 KiB, [`Error::TooMany`] beyond what a snapshot can hold, and what the file system
    /// refuses. The checkpoint fails with it; the journal goes on.
    pub fn record(&mut self, record: &[u8]) -> Result<(), Error> {
        if record.len() > RECORD_BYTES_MAX {
            return Err(Error::TooLarge(
                "a record",
                record.len() as u64,
                RECORD_BYTES_MAX as u64,
            ));
        }
        if !self.group.fits(RECORD_PREFIX_BYTES + record.len(), WRITE_BYTES) {
            self.flush()?;
            if self.part_bytes >= PART_BYTES {
                self.next_part()?;
            }
        }
        self.group.push(record);
        Ok(())
    }

    /// Writes the end, makes all parts durable and gives them their names. Everything below `reach_lsn` must be durable
    /// in the log.
    pub(crate) fn finish(mut self, reach_lsn: u64) -> Result<SnapshotReport, Error> {
        self.flush()?;
        let end = SnapshotEnd {
            records: self.group.next(),
            crc: self.crc,
            parts: self.part + 1,
            reach_lsn,
        };
        let records = end.records;
        self.group.push_mark(FrameKind::SnapshotEnd, &end.encode(), records);
        self.flush()?;
        self.sync_part()?;
        self.publish()?;
        Ok(SnapshotReport {
            lsn: Lsn(self.lsn),
            records,
            bytes: self.bytes,
            parts: end.parts,
            reach: Lsn(reach_lsn),
        })
    }

    /// The first part gets its name last and after the others are durable, so that a snapshot with a first part is
    /// whole whatever a crash does to the directory.
    fn publish(&mut self) -> Result<(), Error> {
        for part in (1..=self.part).rev() {
            self.rename_part(part)?;
        }
        if self.part > 0 && steps::is_taken("directory sync before the first part got its name") {
            self.directory.sync()?;
        }
        self.rename_part(0)?;
        // From here on the snapshot may be seen, so it must not be taken back.
        self.published = true;
        if steps::is_taken("directory sync after a snapshot got its name") {
            self.directory.sync()?;
        }
        Ok(())
    }

    fn rename_part(&self, part: u32) -> Result<(), Error> {
        let from = self.directory.join(&snapshot_temporary(self.lsn, part));
        let to = self.directory.join(&snapshot_name(self.lsn, part));
        self.directory
            .storage
            .rename(&from, &to)
            .map_err(Error::io("rename", &from))
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.group.seal(snapshot_seed(&self.journal_id, self.lsn, self.part), 0);
        self.crc = self.group.fold_body_crcs(self.crc);
        self.file
            .write_all_at(self.group.bytes(), self.part_bytes)
            .map_err(|error| self.io("write", error))?;
        self.part_bytes += self.group.bytes().len() as u64;
        self.bytes += self.group.bytes().len() as u64;
        self.group.clear(self.group.next());
        Ok(())
    }

    fn next_part(&mut self) -> Result<(), Error> {
        self.sync_part()?;
        if self.part + 1 == PARTS_MAX {
            return Err(Error::TooMany(
                "parts of a snapshot",
                u64::from(PARTS_MAX) + 1,
                u64::from(PARTS_MAX),
            ));
        }
        self.directory.remove(&snapshot_temporary(self.lsn, self.part + 1))?;
        self.file = create_part(self.directory, self.journal_id, self.lsn, self.part + 1)?;
        self.part += 1;
        self.part_bytes = FILE_HEADER_BYTES as u64;
        self.bytes += self.part_bytes;
        Ok(())
    }

    fn sync_part(&self) -> Result<(), Error> {
        if !steps::is_taken("sync of a snapshot's part") {
            return Ok(());
        }
        self.file.sync_all().map_err(|error| self.io("sync", error))
    }

    fn io(&self, what: &'static str, error: io::Error) -> Error {
        Error::Io(
            what,
            self.directory.join(&snapshot_temporary(self.lsn, self.part)),
            error,
        )
    }
}

impl Drop for SnapshotWriter<'_> {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        for part in 0..=self.part {
            // What stays is removed by the next open.
            let _ = self.directory.remove(&snapshot_temporary(self.lsn, part));
            if part > 0 {
                let _ = self.directory.remove(&snapshot_name(self.lsn, part));
            }
        }
    }
}

fn create_part(directory: &Directory, id: [u8; 16], lsn: u64, part: u32) -> Result<Box<dyn StorageFile>, Error> {
    let path = directory.join(&snapshot_temporary(lsn, part));
    let header = FileHeader {
        magic: SNAPSHOT_MAGIC,
        compat_flags: 0,
        capacity_bytes: 0,
        number: u64::from(part),
        lsn,
        journal_id: id,
    };
    let file = directory
        .storage
        .create(&path, 0o600)
        .map_err(Error::io("create", &path))?;
    if let Err(error) = file.write_all_at(&header.encode(), 0) {
        let _ = directory.storage.remove(&path);
        return Err(Error::Io("write", path, error));
    }
    Ok(file)
}

/// The newest snapshot that is whole, and why the newer ones are not.
#[derive(Default)]
pub(crate) struct Newest {
    pub whole: Option<SnapshotReport>,
    pub damaged: Vec<(Lsn, &'static str)>,
}

/// Looks for the newest snapshot that is whole. Nothing is delivered yet, so that a fault at the
/// end of a snapshot leaves the replay untouched.
pub(crate) fn newest(directory: &Directory, layout: &Layout, journal_id: &[u8; 16]) -> Result<Newest, Error> {
    let mut newest = Newest::default();
    for (&lsn, parts) in layout.snapshots.iter().rev() {
        // A checkpoint that a crash cut short may leave later parts, never the first.
        if !parts.contains(&0) {
            continue;
        }
        match walk(directory, lsn, journal_id, &mut |_| Ok(()))? {
            Ok(report) => {
                newest.whole = Some(report);
                break;
            }
            Err(reason) => newest.damaged.push((Lsn(lsn), reason)),
        }
    }
    Ok(newest)
}

/// Hands out the records of one snapshot; the inner error says what is wrong with its bytes.
pub(crate) fn walk(
    directory: &Directory,
    lsn: u64,
    journal_id: &[u8; 16],
    each: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<Result<SnapshotReport, &'static str>, Error> {
    let mut so_far = SoFar {
        next: 0,
        crc: 0,
        bytes: 0,
        end: None,
    };
    for part in 0..PARTS_MAX {
        let mut reader = match FrameReader::snapshot_part(directory, lsn, part) {
            Err(Error::Io(_, _, error)) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Err("a part of the snapshot is missing"));
            }
            answer => answer?,
        };
        match reader.part_header(lsn, part)? {
            Ok(header) if header.journal_id == *journal_id => {}
            Ok(_) => return Ok(Err("the snapshot is of another journal")),
            Err(reason) => return Ok(Err(reason)),
        }
        if let Err(reason) = so_far.walk_part(&mut reader, each)? {
            return Ok(Err(reason));
        }
        let Some(end) = so_far.end else {
            continue;
        };
        if end.parts != part + 1 || end.reach_lsn < lsn || end.reach_lsn >= NUMBER_MAX {
            return Ok(Err("the snapshot's end does not match its files"));
        }
        return Ok(Ok(SnapshotReport {
            lsn: Lsn(lsn),
            records: end.records,
            bytes: so_far.bytes,
            parts: end.parts,
            reach: Lsn(end.reach_lsn),
        }));
    }
    Ok(Err("the snapshot has no end"))
}

/// What has been read of a snapshot.
struct SoFar {
    next: u64,
    crc: u32,
    bytes: u64,
    end: Option<SnapshotEnd>,
}

impl SoFar {
    fn walk_part(
        &mut self,
        reader: &mut FrameReader,
        each: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<Result<(), &'static str>, Error> {
        self.bytes += reader.len_bytes;
        let (mut offset, len_bytes) = (FILE_HEADER_BYTES as u64, reader.len_bytes);
        while offset < len_bytes {
            let Found::Frame(frame) = reader.frame(offset, Some(self.next))? else {
                return Ok(Err("a frame of the snapshot is damaged"));
            };
            offset += frame.header.frame_bytes() as u64;
            match frame.header.kind {
                FrameKind::Batch => records(frame.body).try_for_each(&mut *each)?,
                FrameKind::Skippable(_) => {}
                FrameKind::SnapshotEnd => {
                    let end = SnapshotEnd::decode(frame.body);
                    if end.records != self.next || end.crc != self.crc || offset != len_bytes {
                        return Ok(Err("the snapshot's end does not match its records"));
                    }
                    self.end = Some(end);
                    return Ok(Ok(()));
                }
                FrameKind::Close | FrameKind::Gap => return Ok(Err("a frame has no place in a snapshot")),
            }
            self.next = frame.end_lsn;
            self.crc = crc(self.crc, &frame.header.body_crc.to_le_bytes());
        }
        Ok(Ok(()))
    }
}
