//! Looking at a journal without changing or needing anything: `verify` and `dump`.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::damaged::{Bounds, Outline, open_segment, outline, walk};
use crate::directory::{Directory, Layout, segment_name, snapshot_name};
use crate::error::{Corruption, Error, ReplayError};
use crate::format::FILE_HEADER_BYTES;
use crate::frame::{FrameKind, records};
use crate::read::{ATTEMPTS_MAX, existing};
use crate::reader::{Frame, FrameReader};
use crate::recovery::scan;
use crate::replay::{Lsn, Replay};
use crate::report::{Report, SegmentReport, Verdict};
use crate::snapshot;
use crate::storage::Storage;

/// Checks every byte of the journal in a directory, without a lock, and writes nothing.
///
/// Damage is not an error here: the report has the first that keeps the journal from being opened, the snapshots that
/// cannot be used, and the bad ranges of every segment. Beside a live writer the end may move.
///
/// # Errors
/// [`Error::NoJournal`], [`Error::Incomplete`], [`Error::Unsupported`], [`Error::TooLarge`], [`Error::TooMany`],
/// [`Error::Changing`], [`Error::Io`].
pub fn verify(storage: &Arc<dyn Storage>, directory: &Path) -> Result<Report, Error> {
    let directory = Directory::new(storage, directory);
    for _ in 0..ATTEMPTS_MAX {
        let layout = existing(&directory)?;
        let answer = verify_once(&directory, &layout);
        let sound = answer.as_ref().is_ok_and(|report| report.verdict() != Verdict::Corrupt);
        // A file that a writer removed meanwhile looks like damage.
        if sound || layout.is_within(&existing(&directory)?) {
            return answer;
        }
    }
    Err(Error::Changing(directory.path))
}

fn verify_once(directory: &Directory, layout: &Layout) -> Result<Report, Error> {
    let mut report = match scan(directory, layout, &mut Nothing) {
        Ok(scan) => scan.report,
        Err(Error::Corrupt(corruption)) => damaged_report(*corruption, layout),
        Err(error) => return Err(error),
    };
    let (id, outlines) = outline(directory, layout)?;
    let Some(id) = id else {
        return Ok(report);
    };
    report.id = id;
    report.segments.clear();
    report.segments.reserve_exact(outlines.len());
    for outline in &outlines {
        report.segments.push(verify_segment(directory, outline, &id)?);
    }
    let used = report.snapshot.map(|snapshot| snapshot.lsn);
    for (&lsn, parts) in layout.snapshots.iter().rev() {
        let known = used == Some(Lsn(lsn)) || report.damaged_snapshots.iter().any(|(damaged, _)| damaged.0 == lsn);
        if known || !parts.contains(&0) {
            continue;
        }
        match snapshot::walk(directory, lsn, &id, &mut |_| Ok(()))? {
            Ok(found) if report.snapshot.is_none() => report.snapshot = Some(found),
            Ok(_) => {}
            Err(reason) => report.damaged_snapshots.push((Lsn(lsn), reason)),
        }
    }
    Ok(report)
}

fn damaged_report(corruption: Corruption, layout: &Layout) -> Report {
    let mut report = Report::new([0; 16], corruption.lsn.0);
    report.clean = false;
    report.proven = corruption.proven;
    report.unknown.clone_from(&layout.unknown);
    report.corruption = Some(corruption);
    report
}

fn verify_segment(directory: &Directory, outline: &Outline, id: &[u8; 16]) -> Result<SegmentReport, Error> {
    let mut reader = open_segment(directory, outline, id)?;
    let mut bounds = outline.bounds();
    if !outline.followed {
        // What followed was removed, or this is the last: where this one should end is not known.
        bounds.may_be_torn = true;
    }
    let mut walked = walk(&mut reader, bounds, &mut |_, _| Ok(()))?;
    if outline.first.is_none() {
        walked.bad.insert(0, 0..FILE_HEADER_BYTES as u64);
    }
    let first = outline.first.unwrap_or(0);
    Ok(SegmentReport {
        seq: outline.seq,
        len_bytes: reader.len_bytes,
        first: Lsn(first),
        next: Lsn(walked.next),
        frames: walked.frames,
        proven: Lsn(walked.proven.max(first)),
        bad: walked.bad,
    })
}

/// One intact record, or one intact frame without records, as [`dump`] shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry<'a> {
    /// Name of the file in the journal's directory.
    pub file: &'a str,
    /// Where its frame begins.
    pub offset_bytes: u64,
    /// What the frame holds.
    pub kind: FrameKind,
    /// The record's number; in a snapshot, its place in there from 0 on.
    pub lsn: Lsn,
    /// Every record below this one was durable when the frame was written; 0 in a snapshot.
    pub durable: Lsn,
    /// The record, or nothing for a frame that holds none.
    pub record: Option<&'a [u8]>,
}

/// Shows everything intact in a journal, damaged or not: first the snapshots, then the segments, oldest first. `each`
/// ends it by breaking. Takes no lock and writes nothing.
///
/// # Errors
/// As [`verify`], and [`Error::Io`] where a writer removes a file meanwhile.
pub fn dump(
    storage: &Arc<dyn Storage>,
    directory: &Path,
    each: &mut dyn FnMut(&Entry<'_>) -> ControlFlow<()>,
) -> Result<(), Error> {
    let directory = Directory::new(storage, directory);
    let layout = existing(&directory)?;
    match dump_all(&directory, &layout, each) {
        Err(Error::Refused(None, cause)) if cause.is::<Enough>() => Ok(()),
        answer => answer,
    }
}

fn dump_all(
    directory: &Directory,
    layout: &Layout,
    each: &mut dyn FnMut(&Entry<'_>) -> ControlFlow<()>,
) -> Result<(), Error> {
    for (&lsn, parts) in &layout.snapshots {
        for &part in parts {
            let name = snapshot_name(lsn, part);
            let mut reader = FrameReader::snapshot_part(directory, lsn, part)?;
            // Without its header a part's checksums have no start value, so nothing in it can be told from noise.
            if reader.part_header(lsn, part)?.is_ok() {
                walk(&mut reader, Bounds::of_snapshot(), &mut |offset, frame| {
                    show(&name, offset, frame, each)
                })?;
            }
        }
    }
    let (id, outlines) = outline(directory, layout)?;
    for outline in &outlines {
        let Some(id) = &id else {
            break;
        };
        let name = segment_name(outline.seq);
        let mut reader = open_segment(directory, outline, id)?;
        walk(&mut reader, outline.bounds(), &mut |offset, frame| {
            show(&name, offset, frame, each)
        })?;
    }
    Ok(())
}

fn show(
    file: &str,
    offset_bytes: u64,
    frame: &Frame<'_>,
    each: &mut dyn FnMut(&Entry<'_>) -> ControlFlow<()>,
) -> Result<(), Error> {
    let mut entry = Entry {
        file,
        offset_bytes,
        kind: frame.header.kind,
        lsn: Lsn(frame.header.first_lsn),
        durable: Lsn(frame.header.durable_lsn),
        record: None,
    };
    if entry.kind != FrameKind::Batch {
        return go_on(each(&entry));
    }
    for record in records(frame.body) {
        entry.record = Some(record);
        go_on(each(&entry))?;
        entry.lsn.0 += 1;
    }
    Ok(())
}

fn go_on(answer: ControlFlow<()>) -> Result<(), Error> {
    match answer {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Refused(None, Box::new(Enough))),
    }
}

/// Ends a dump whose reader wants no more.
#[derive(Debug)]
struct Enough;

impl std::fmt::Display for Enough {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("no more is wanted")
    }
}

impl std::error::Error for Enough {}

/// A replay that builds nothing.
struct Nothing;

impl Replay for Nothing {
    fn snapshot(&mut self, _record: &[u8]) -> Result<(), ReplayError> {
        Ok(())
    }

    fn record(&mut self, _lsn: Lsn, _record: &[u8]) -> Result<(), ReplayError> {
        Ok(())
    }
}
