//! Reading a journal from its directory: which files count, where the log ends, and whether that end is a crash's.
//!
//! Nothing here writes. The rule that tells a torn tail from damage rests on one invariant of the writer: a group is
//! written only after the group before it was synced. So an intact frame proves that everything below its durable LSN
//! was on the disk, and what is missing below that was lost later.

#![forbid(unsafe_code)]

use crate::directory::{Directory, Layout, segment_name};
use crate::error::{Corruption, Error};
use crate::format::{FILE_HEADER_BYTES, FIRST_LSN, FileHeader, GROUP_BYTES_MAX};
use crate::frame::{FrameHeader, FrameKind, records};
use crate::group::Group;
use crate::reader::{Found, Frame, FrameReader};
use crate::replay::{Lsn, Replay};
use crate::report::{Report, SegmentReport, Tail};
use crate::segment::SegmentEntry;
use crate::snapshot;
use crate::steps;

/// Everything that reading a journal brings to light.
pub(crate) struct Scan {
    pub report: Report,
    /// The frames that nothing vouches for, whole.
    pub unproven: Group,
    /// All segments on the disk, oldest first. Those before the one that replay began with have 0 for a first LSN.
    pub segments: Vec<SegmentEntry>,
    /// Bytes of frames that replay needs on top of the snapshot.
    pub bytes_since_snapshot: u64,
    /// A file that only a later version may write beside, if there is one.
    pub unwritable: Option<String>,
}

/// Reads the whole journal and hands its records to `replay`.
pub(crate) fn scan(directory: &Directory, layout: &Layout, replay: &mut dyn Replay) -> Result<Scan, Error> {
    let Some(newest) = layout.segments.last() else {
        return Err(missing(directory, 0, "there are snapshots and no segment"));
    };
    let mut reader = FrameReader::segment(directory, *newest)?;
    let id = segment_header(&mut reader, *newest, 0)?.journal_id;
    let snapshot::Newest {
        whole: snapshot,
        damaged,
    } = snapshot::newest(directory, layout, &id)?;
    let from = snapshot.map_or(FIRST_LSN, |snapshot| snapshot.lsn.0);
    let chain = chain(directory, layout, &id, from)?;
    if let Some(snapshot) = &snapshot {
        deliver_snapshot(directory, snapshot.lsn.0, &id, replay)?;
    }
    let reach = snapshot.map_or(from, |snapshot| snapshot.reach.0);
    let mut walk = Walk::new(replay, from, reach, &chain);
    for (index, entry) in chain.iter().enumerate() {
        let limit = chain.get(index + 1).map(|next| next.lsn);
        let mut reader = FrameReader::segment(directory, entry.number)?;
        segment_header(&mut reader, entry.number, walk.lsn)?;
        walk.segment(&mut reader, entry, limit)?;
    }
    let mut report = walk.report(id);
    report.snapshot = snapshot;
    report.damaged_snapshots = damaged;
    report.unknown.clone_from(&layout.unknown);
    Ok(Scan {
        segments: entries(layout, &chain),
        bytes_since_snapshot: walk.bytes_since_snapshot,
        unwritable: chain
            .iter()
            .find(|header| header.compat_flags != 0)
            .map(|header| segment_name(header.number)),
        unproven: walk.unproven,
        report,
    })
}

fn entries(layout: &Layout, chain: &[FileHeader]) -> Vec<SegmentEntry> {
    let first = chain.first().map_or(0, |entry| entry.number);
    let older = layout
        .segments
        .range(..first)
        .map(|&seq| SegmentEntry { seq, base_lsn: 0 });
    let chained = chain.iter().map(|entry| SegmentEntry {
        seq: entry.number,
        base_lsn: entry.lsn,
    });
    older.chain(chained).collect()
}

fn deliver_snapshot(directory: &Directory, lsn: u64, id: &[u8; 16], replay: &mut dyn Replay) -> Result<(), Error> {
    let answer = snapshot::walk(directory, lsn, id, &mut |record| {
        replay.snapshot(record).map_err(|cause| Error::Refused(None, cause))
    })?;
    // It was whole a moment ago: the file is changing or the medium is failing under the reader.
    answer.map(|_| ()).map_err(|reason| missing(directory, lsn, reason))
}

/// The segments that hold the records from an LSN on, oldest first. Older ones are not opened: gaps among them are
/// what an unsynced deletion leaves.
fn chain(directory: &Directory, layout: &Layout, id: &[u8; 16], from: u64) -> Result<Vec<FileHeader>, Error> {
    let mut chain: Vec<FileHeader> = Vec::new();
    for &seq in layout.segments.iter().rev() {
        if chain.last().is_some_and(|newer| newer.number != seq + 1) {
            break;
        }
        let mut reader = FrameReader::segment(directory, seq)?;
        let header = segment_header(&mut reader, seq, from)?;
        if header.journal_id != *id {
            return Err(corrupt(&reader, 0, from, from, "the segment is of another journal"));
        }
        if chain.last().is_some_and(|newer| newer.lsn < header.lsn) {
            return Err(corrupt(
                &reader,
                0,
                header.lsn,
                header.lsn,
                "the segment begins after the one that follows it",
            ));
        }
        chain.push(header);
        if header.lsn <= from {
            chain.reverse();
            return Ok(chain);
        }
    }
    Err(missing(directory, from, "a segment is missing"))
}

fn segment_header(reader: &mut FrameReader, seq: u64, lsn: u64) -> Result<FileHeader, Error> {
    match reader.segment_header(seq)? {
        Ok(header) => Ok(header),
        Err(reason) => Err(corrupt(reader, 0, lsn, lsn, reason)),
    }
}

fn corrupt(reader: &FrameReader, offset_bytes: u64, lsn: u64, proven: u64, reason: &'static str) -> Error {
    Error::Corrupt(Box::new(Corruption {
        path: reader.path.clone(),
        offset_bytes,
        lsn: Lsn(lsn),
        proven: Lsn(proven),
        reason,
    }))
}

fn missing(directory: &Directory, lsn: u64, reason: &'static str) -> Error {
    Error::Corrupt(Box::new(Corruption {
        path: directory.path.clone(),
        offset_bytes: 0,
        lsn: Lsn(lsn),
        proven: Lsn(lsn),
        reason,
    }))
}

/// The way through the log's frames.
struct Walk<'r> {
    replay: &'r mut dyn Replay,
    /// Records below are in the snapshot.
    from: u64,
    /// The snapshot vouches that the log was durable up to here.
    reach: u64,
    lsn: u64,
    proven: u64,
    unproven: Group,
    bytes_since_snapshot: u64,
    missing: u64,
    closed: bool,
    tail: Tail,
    segments: Vec<SegmentReport>,
}

impl<'r> Walk<'r> {
    fn new(replay: &'r mut dyn Replay, from: u64, reach: u64, chain: &[FileHeader]) -> Walk<'r> {
        Walk {
            replay,
            from,
            reach,
            lsn: chain.first().map_or(from, |entry| entry.lsn),
            proven: chain.last().map_or(reach, |entry| entry.lsn.max(reach)),
            unproven: Group::new(from),
            bytes_since_snapshot: 0,
            missing: 0,
            closed: false,
            tail: Tail::Clean,
            // The number of files is bounded, and growing step by step would take twice the memory.
            segments: Vec::with_capacity(chain.len()),
        }
    }

    /// Goes through one segment up to where the next one takes over, or to the end of the log.
    fn segment(&mut self, reader: &mut FrameReader, header: &FileHeader, limit: Option<u64>) -> Result<(), Error> {
        self.closed = false;
        let mut report = SegmentReport {
            seq: header.number,
            len_bytes: reader.len_bytes,
            first: Lsn(header.lsn),
            next: Lsn(header.lsn),
            frames: 0,
            proven: Lsn(header.lsn),
            bad: Vec::new(),
        };
        let mut offset = FILE_HEADER_BYTES as u64;
        while limit != Some(self.lsn) {
            let evidence = match reader.frame(offset, Some(self.lsn))? {
                Found::Frame(frame) => {
                    if limit.is_some_and(|limit| frame.end_lsn > limit) {
                        return Err(corrupt(
                            reader,
                            offset,
                            self.lsn,
                            self.proven,
                            "a frame reaches into the next segment",
                        ));
                    }
                    report.frames += 1;
                    report.proven = report.proven.max(Lsn(frame.header.durable_lsn));
                    offset += frame.header.frame_bytes() as u64;
                    self.take(&frame, limit.is_none())?;
                    None
                }
                Found::Nothing => Some(self.why_not_torn(reader, offset, limit)?),
            };
            match evidence {
                None => {}
                Some(End::Torn) => break,
                Some(End::Late) => reader.forget(),
                Some(End::Damage(reason)) => return Err(corrupt(reader, offset, self.lsn, self.proven, reason)),
            }
            if self.unproven.len_bytes() > GROUP_BYTES_MAX {
                return Err(corrupt(
                    reader,
                    offset,
                    self.lsn,
                    self.proven,
                    "more is unproven than one commit writes",
                ));
            }
        }
        report.next = Lsn(self.lsn);
        self.segments.push(report);
        if limit.is_none() {
            self.end(reader, header, offset)?;
        }
        Ok(())
    }

    /// Decides what a place without a frame is.
    fn why_not_torn(&mut self, reader: &mut FrameReader, offset: u64, limit: Option<u64>) -> Result<End, Error> {
        if limit.is_some() && steps::is_taken("proof by a later segment") {
            return Ok(End::Damage(
                "no frame, although a later segment proves that there was one",
            ));
        }
        if self.lsn < self.reach && steps::is_taken("proof by a snapshot") {
            return Ok(End::Damage("no frame, although a snapshot proves that there was one"));
        }
        let lsn = self.lsn;
        let proves = |header: &FrameHeader| header.durable_lsn > lsn || !steps::is_taken("proof by a durable LSN only");
        if !steps::is_taken("proof by a later frame") || reader.find_header(offset, proves)?.is_none() {
            return Ok(End::Torn);
        }
        // Beside a live writer, the frame may have come between the two looks.
        reader.forget();
        match reader.frame(offset, Some(lsn))? {
            Found::Frame(_) => Ok(End::Late),
            Found::Nothing => Ok(End::Damage(
                "no frame, although a later frame proves that there was one",
            )),
        }
    }

    fn take(&mut self, frame: &Frame<'_>, last_segment: bool) -> Result<(), Error> {
        let header = &frame.header;
        self.closed = header.kind == FrameKind::Close;
        self.proven = self.proven.max(header.durable_lsn);
        if frame.end_lsn > self.from {
            self.bytes_since_snapshot += header.frame_bytes() as u64;
        }
        match header.kind {
            FrameKind::Batch => self.deliver(header.first_lsn, frame.body)?,
            FrameKind::Gap => self.gap(header.first_lsn.max(self.from), frame.end_lsn),
            FrameKind::Close | FrameKind::SnapshotEnd | FrameKind::Skippable(_) => {}
        }
        if last_segment {
            self.unproven.drop_below(header.durable_lsn);
            if frame.end_lsn > header.first_lsn {
                self.unproven.push_frame(header, frame.body, frame.end_lsn);
            }
        }
        self.lsn = frame.end_lsn;
        Ok(())
    }

    fn gap(&mut self, first_lsn: u64, end_lsn: u64) {
        if first_lsn < end_lsn {
            self.missing += end_lsn - first_lsn;
            self.replay.gap(Lsn(first_lsn), Lsn(end_lsn));
        }
    }

    fn deliver(&mut self, first_lsn: u64, body: &[u8]) -> Result<(), Error> {
        for (lsn, record) in (first_lsn..).zip(records(body)) {
            if lsn >= self.from {
                let lsn = Lsn(lsn);
                self.replay
                    .record(lsn, record)
                    .map_err(|cause| Error::Refused(Some(lsn), cause))?;
            }
        }
        Ok(())
    }

    /// Looks at what follows the last frame of the log.
    fn end(&mut self, reader: &mut FrameReader, header: &FileHeader, offset: u64) -> Result<(), Error> {
        // What a snapshot or a segment's header vouches for may begin in the middle of a frame; such a frame stays.
        self.unproven.drop_below(self.proven);
        let as_made = reader.len_bytes <= offset.max(u64::from(header.capacity_bytes));
        if !(as_made && reader.is_zero_from(offset)?) {
            self.tail = Tail::Torn {
                segment: header.number,
                offset_bytes: offset,
                len_bytes: reader.len_bytes.saturating_sub(offset),
                maybe_acknowledged: !self.closed,
            };
        }
        Ok(())
    }

    fn report(&mut self, id: [u8; 16]) -> Report {
        let mut report = Report::new(id, self.lsn);
        report.proven = Lsn(self.proven);
        report.missing = self.missing;
        report.tail = self.tail;
        report.clean = self.unproven.is_empty() && self.tail == Tail::Clean;
        report.segments = std::mem::take(&mut self.segments);
        report
    }
}

/// What a place without a frame is.
enum End {
    /// The end of the log, as a crash may leave it.
    Torn,
    /// A frame after all, written meanwhile.
    Late,
    /// Damage: the frame was durable once.
    Damage(&'static str),
}
