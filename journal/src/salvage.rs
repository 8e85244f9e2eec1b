//! Copying what is intact out of a damaged journal.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::damaged::{Bounds, Outline, open_segment, outline, walk};
use crate::directory::{Directory, INCOMPLETE, Layout};
use crate::error::Error;
use crate::format::{FIRST_LSN, check_writable};
use crate::frame::{FrameKind, records};
use crate::group::Group;
use crate::open::{make_directory, random_id, sync_above};
use crate::options::{Options, Preallocate};
use crate::read::existing;
use crate::reader::{Frame, FrameReader};
use crate::replay::Lsn;
use crate::reserve::Reserve;
use crate::segment::Log;
use crate::snapshot::{self, SnapshotWriter};
use crate::steps;
use crate::storage::Storage;

/// Most gaps listed; further ones are only counted in the missing records.
const GAPS_MAX: usize = 256;
/// First bytes of a journal's id, which a salvage keeps for its copy: names that an application made of them for files
/// of its own stay right, however often a journal is salvaged.
pub const LINEAGE_BYTES: usize = 4;
/// Bytes of frames collected before each commit of the copy. With one more frame they are still below a group's limit.
const GROUP_BYTES: usize = 128 * 1024;

/// What a salvage copied, and what it could not find.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Salvaged {
    /// The id of the copy, which is a new journal.
    pub id: [u8; 16],
    /// The LSN of the snapshot that was copied.
    pub snapshot: Option<Lsn>,
    /// Records copied of the snapshot.
    pub snapshot_records: u64,
    /// Whether records of the snapshot are missing. How many is not known.
    pub snapshot_damaged: bool,
    /// Records copied of the log.
    pub records: u64,
    /// Records of the log that could not be found. What was lost at the very end without a trace is not among them, nor
    /// is the number that stands for it.
    pub missing: u64,
    /// The first of them: from the first LSN to the one after the last. At most 256.
    pub gaps: Vec<(Lsn, Lsn)>,
    /// LSN of the next record in the copy.
    pub next: Lsn,
}

/// Copies what is intact of the journal in `from` into a new journal in `into`, which must be missing or empty. Records
/// keep their numbers, and the copy's id keeps its first [`LINEAGE_BYTES`]. The source is only read; no writer may have it
/// open meanwhile.
///
/// The copy always ends with a gap, of one number where none is known to be missing: what stood at the very end may have
/// gone without a trace, and [`Replay::gap`](crate::Replay::gap) tells so from then on.
///
/// Until the copy is complete and durable, the new directory is marked and cannot be opened.
///
/// # Errors
/// [`Error::NoJournal`], [`Error::NotEmpty`], [`Error::Corrupt`] where not one header can be read,
/// [`Error::Unsupported`], [`Error::DiskFull`], [`Error::Io`].
pub fn salvage(storage: &Arc<dyn Storage>, from: &Path, into: &Path) -> Result<Salvaged, Error> {
    let source = Directory::new(storage, from);
    let target = Directory::new(storage, into);
    let layout = existing(&source)?;
    let (Some(old_id), outlines) = outline(&source, &layout)? else {
        return Err(Error::unreadable(&source.path));
    };
    begin(&target)?;
    let mut new_id = random_id(&target)?;
    new_id[..LINEAGE_BYTES].copy_from_slice(&old_id[..LINEAGE_BYTES]);
    let choice = Choice::new(&source, &layout, &old_id, &outlines)?;
    let mut copy = Copy::new(&target, new_id, choice.lsn.unwrap_or(FIRST_LSN));
    for outline in &outlines {
        // What a segment begins with was durable up to there, whether or not a frame of it is left to say so.
        let first = outline.first.unwrap_or(0);
        copy.skip_to(outline.limit.map_or(first, |limit| first.min(limit)))?;
        let mut reader = open_segment(&source, outline, &old_id)?;
        walk(&mut reader, outline.bounds(), &mut |_, frame| copy.take(frame))?;
    }
    // The numbers of records with an effect in the snapshot stay taken, found or not.
    copy.skip_to(choice.reach)?;
    copy.finish()?;
    let mut salvaged = copy.salvaged;
    if let Some(lsn) = choice.lsn {
        salvaged.snapshot = Some(Lsn(lsn));
        salvaged.snapshot_damaged = choice.damaged;
        let mut writer = SnapshotWriter::new(&target, new_id, lsn)?;
        salvaged.snapshot_records = choice.copy(&source, &layout, &old_id, &mut writer)?;
        writer.finish(salvaged.next.0)?;
    }
    target.remove(INCOMPLETE)?;
    if steps::is_taken("directory sync after a salvage") {
        target.sync()?;
    }
    Ok(salvaged)
}

/// Makes the new directory and marks it as unfinished.
fn begin(target: &Directory) -> Result<(), Error> {
    match target.storage.list(&target.path) {
        Ok(names) if names.is_empty() => {}
        Ok(_) => return Err(Error::NotEmpty(target.path.clone())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_directory(target)?,
        Err(error) => return Err(Error::Io("list", target.path.clone(), error)),
    }
    // Also where it was there: whoever made it may have been killed before its name was durable.
    if steps::is_taken("sync of the directory above a salvage's copy") {
        sync_above(&*target.storage, &target.path)?;
    }
    let mark = target.join(INCOMPLETE);
    target
        .storage
        .create(&mark, 0o600)
        .map_err(Error::io("create", &mark))?;
    // Its name is durable before any segment has one: the directory is synced before the first gets its.
    Ok(())
}

/// The snapshot to copy: the newest that is whole; else none, where the log reaches back to the first record; else the
/// newest.
struct Choice {
    lsn: Option<u64>,
    damaged: bool,
    reach: u64,
}

impl Choice {
    fn new(source: &Directory, layout: &Layout, id: &[u8; 16], outlines: &[Outline]) -> Result<Choice, Error> {
        let newest = snapshot::newest(source, layout, id)?;
        if let Some(whole) = newest.whole {
            return Ok(Choice {
                lsn: Some(whole.lsn.0),
                damaged: false,
                reach: whole.reach.0,
            });
        }
        let newest = newest.damaged.first().map(|(lsn, _)| lsn.0);
        // The log says all that a snapshot does, and where it is damaged, which record is missing.
        let lsn = newest.filter(|_| !reaches_back(outlines));
        Ok(Choice {
            lsn,
            damaged: lsn.is_some(),
            reach: newest.unwrap_or(FIRST_LSN),
        })
    }

    fn copy(
        &self,
        source: &Directory,
        layout: &Layout,
        id: &[u8; 16],
        writer: &mut SnapshotWriter<'_>,
    ) -> Result<u64, Error> {
        let Some(lsn) = self.lsn else {
            return Ok(0);
        };
        let mut copied = 0;
        let mut take = |record: &[u8]| {
            copied += 1;
            writer.record(record)
        };
        if !self.damaged {
            let answer = snapshot::walk(source, lsn, id, &mut take)?;
            return answer.map(|_| copied).map_err(|_| Error::Changing(source.path.clone()));
        }
        for &part in layout.snapshots.get(&lsn).into_iter().flatten() {
            let mut reader = FrameReader::snapshot_part(source, lsn, part)?;
            if reader
                .part_header(lsn, part)?
                .is_ok_and(|header| header.journal_id == *id)
            {
                walk(
                    &mut reader,
                    Bounds::of_snapshot(),
                    &mut |_, frame| match frame.header.kind {
                        FrameKind::Batch => records(frame.body).try_for_each(&mut take),
                        _ => Ok(()),
                    },
                )?;
            }
        }
        Ok(copied)
    }
}

/// Whether consecutive segments with readable headers lead from the newest back to the first record.
fn reaches_back(outlines: &[Outline]) -> bool {
    let newest = outlines.last().map(|outline| outline.seq);
    for outline in outlines.iter().rev() {
        match outline.first {
            Some(first) if outline.followed || Some(outline.seq) == newest => {
                if first <= FIRST_LSN {
                    return true;
                }
            }
            _ => return false,
        }
    }
    false
}

/// The log of the copy.
struct Copy {
    log: Log,
    group: Group,
    begun: bool,
    salvaged: Salvaged,
}

impl Copy {
    fn new(target: &Directory, id: [u8; 16], lsn: u64) -> Copy {
        let options = Options {
            segment_bytes: 16 * 1024 * 1024,
            first_segment_bytes: 16 * 1024 * 1024,
            preallocate: Preallocate::None,
            reserve: false,
            ..Options::default()
        };
        Copy {
            log: Log::new(target.clone(), id, options.bounded(), false, 1, Reserve::Off),
            group: Group::new(lsn),
            begun: false,
            salvaged: Salvaged {
                id,
                snapshot: None,
                snapshot_records: 0,
                snapshot_damaged: false,
                records: 0,
                missing: 0,
                gaps: Vec::new(),
                next: Lsn(lsn),
            },
        }
    }

    fn take(&mut self, frame: &Frame<'_>) -> Result<(), Error> {
        let header = &frame.header;
        let next = self.salvaged.next.0;
        // The snapshot may begin in the middle of a frame, which the log of the copy then begins with. Any other frame
        // that reaches back has been had from another place.
        let first_of_all = !self.begun && self.group.is_empty();
        if frame.end_lsn <= next || (header.first_lsn < next && !first_of_all) {
            return Ok(());
        }
        check_writable(frame.end_lsn)?;
        self.skip_to(header.first_lsn)?;
        self.group.push_frame(header, frame.body, frame.end_lsn);
        if header.kind == FrameKind::Gap {
            self.note_gap(header.first_lsn.max(next), frame.end_lsn);
        } else {
            self.salvaged.records += frame.end_lsn - header.first_lsn.max(next);
        }
        self.salvaged.next = Lsn(frame.end_lsn);
        if self.group.len_bytes() >= GROUP_BYTES {
            self.commit()?;
        }
        Ok(())
    }

    /// Marks records up to an LSN as missing.
    fn skip_to(&mut self, lsn: u64) -> Result<(), Error> {
        let next = self.salvaged.next.0;
        if lsn <= next {
            return Ok(());
        }
        check_writable(lsn)?;
        self.note_gap(next, lsn);
        self.mark_gap(lsn);
        if self.group.len_bytes() >= GROUP_BYTES {
            self.commit()?;
        }
        Ok(())
    }

    fn mark_gap(&mut self, lsn: u64) {
        let count = lsn - self.salvaged.next.0;
        self.group.push_mark(FrameKind::Gap, &count.to_le_bytes(), lsn);
        self.salvaged.next = Lsn(lsn);
    }

    fn note_gap(&mut self, first: u64, next: u64) {
        self.salvaged.missing += next - first;
        if self.salvaged.gaps.len() < GAPS_MAX {
            self.salvaged.gaps.push((Lsn(first), Lsn(next)));
        }
    }

    fn commit(&mut self) -> Result<(), Error> {
        self.log.commit(&mut self.group, 1)?;
        self.begun = true;
        self.group.clear(self.salvaged.next.0);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Error> {
        let end = self.salvaged.next.0 + 1;
        check_writable(end)?;
        self.mark_gap(end);
        self.commit()?;
        self.log.close(self.salvaged.next.0)
    }
}
