//! Going through a file over whatever damage it has.

#![forbid(unsafe_code)]

use std::ops::Range;

use crate::checksum::segment_seed;
use crate::directory::{Directory, Layout};
use crate::error::Error;
use crate::format::{ALIGNMENT_BYTES, FILE_HEADER_BYTES};
use crate::reader::{Found, Frame, FrameReader};

/// Most bad ranges kept for one file; the last one then reaches to the end of the last damage.
const RANGES_MAX: usize = 64;

/// Where and how to look for the frames of one file.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// Frames below this LSN are none of this file's, and the first begins with it, where that is known.
    pub lsn: Option<u64>,
    /// From this LSN on, a later segment has the say.
    pub limit: Option<u64>,
    /// Whether the file may end in a torn group, whose rest does not count.
    pub may_be_torn: bool,
}

impl Bounds {
    /// A snapshot is whole before it gets its name, so nothing in it can be torn.
    pub(crate) fn of_snapshot() -> Bounds {
        Bounds {
            lsn: None,
            limit: None,
            may_be_torn: false,
        }
    }
}

/// What was found in one file.
#[derive(Default)]
pub(crate) struct Walked {
    pub frames: u64,
    pub next: u64,
    pub proven: u64,
    pub bad: Vec<Range<u64>>,
}

/// Hands out every intact frame that counts, with its offset, until `each` wants no more.
pub(crate) fn walk(
    reader: &mut FrameReader,
    bounds: Bounds,
    each: &mut dyn FnMut(u64, &Frame<'_>) -> Result<(), Error>,
) -> Result<Walked, Error> {
    let mut walked = Walked {
        next: bounds.lsn.unwrap_or(0),
        ..Walked::default()
    };
    let mut offset = FILE_HEADER_BYTES as u64;
    // Where the file's first LSN is not known, the first frame says it.
    let mut anywhere = bounds.lsn.is_none();
    let mut proof = Proof {
        searched: offset,
        durable_lsn: 0,
    };
    while bounds.limit != Some(walked.next) {
        if let Found::Frame(frame) = reader.frame(offset, None)?
            && counts(&frame, walked.next, bounds.limit)
            && (anywhere || frame.header.first_lsn == walked.next)
        {
            each(offset, &frame)?;
            walked.frames += 1;
            walked.next = frame.end_lsn;
            walked.proven = walked.proven.max(frame.header.durable_lsn);
            offset += frame.header.frame_bytes() as u64;
            anywhere = false;
            continue;
        }
        if bounds.may_be_torn && !proof.holds(reader, offset, walked.next)? {
            break;
        }
        let next = find_frame(reader, offset, walked.next, bounds.limit)?;
        // A file that simply ends has lost nothing that its own bytes could tell of.
        if next.is_none() && bounds.limit.is_none() && reader.is_zero_from(offset)? {
            break;
        }
        note(&mut walked.bad, offset..next.unwrap_or(reader.len_bytes).max(offset));
        let Some(next) = next else {
            break;
        };
        offset = next;
        anywhere = true;
    }
    Ok(walked)
}

/// The search for a header that proves that there were frames before it. It never looks at a place twice, however many
/// holes a file has: the LSN that is to be proven only grows.
struct Proof {
    searched: u64,
    durable_lsn: u64,
}

impl Proof {
    fn holds(&mut self, reader: &mut FrameReader, offset: u64, lsn: u64) -> Result<bool, Error> {
        if self.searched >= offset && self.durable_lsn > lsn {
            return Ok(true);
        }
        let durable_lsn = &mut self.durable_lsn;
        let found = reader.find_header(self.searched.max(offset), |header| {
            *durable_lsn = header.durable_lsn;
            *durable_lsn > lsn
        })?;
        self.searched = found.unwrap_or(reader.len_bytes);
        Ok(found.is_some())
    }
}

fn counts(frame: &Frame<'_>, lsn: u64, limit: Option<u64>) -> bool {
    frame.header.first_lsn >= lsn && limit.is_none_or(|limit| frame.end_lsn <= limit)
}

fn find_frame(reader: &mut FrameReader, from: u64, lsn: u64, limit: Option<u64>) -> Result<Option<u64>, Error> {
    let mut from = from;
    while let Some(offset) = reader.find_header(from, |header| header.first_lsn >= lsn)? {
        if let Found::Frame(frame) = reader.frame(offset, None)?
            && counts(&frame, lsn, limit)
        {
            return Ok(Some(offset));
        }
        from = offset + ALIGNMENT_BYTES as u64;
    }
    Ok(None)
}

fn note(bad: &mut Vec<Range<u64>>, range: Range<u64>) {
    let full = bad.len() == RANGES_MAX;
    match bad.last_mut() {
        Some(last) if full => last.end = range.end,
        _ if range.is_empty() => {}
        _ => bad.push(range),
    }
}

/// A segment as far as the headers tell.
pub(crate) struct Outline {
    pub seq: u64,
    /// First LSN, if the header can be read.
    pub first: Option<u64>,
    /// Where a later segment takes over, as far as a readable header says so.
    pub limit: Option<u64>,
    /// Whether it is the one that directly follows whose header says so.
    pub followed: bool,
}

/// All segments, oldest first, and the journal's id as the newest readable header of one has it, or else of a snapshot.
pub(crate) fn outline(directory: &Directory, layout: &Layout) -> Result<(Option<[u8; 16]>, Vec<Outline>), Error> {
    let mut id = None;
    // The number of files is bounded, and growing step by step would take twice the memory.
    let mut outlines: Vec<Outline> = Vec::with_capacity(layout.segments.len());
    let mut limit = None;
    for &seq in layout.segments.iter().rev() {
        let header = FrameReader::segment(directory, seq)?.segment_header(seq)?.ok();
        let header = header.filter(|header| *id.get_or_insert(header.journal_id) == header.journal_id);
        outlines.push(Outline {
            seq,
            first: header.map(|header| header.lsn),
            limit,
            followed: outlines
                .last()
                .is_some_and(|newer| newer.seq == seq + 1 && newer.first.is_some()),
        });
        // A segment that lies between may begin above a later one; then all of it is void.
        limit = header.map(|header| header.lsn).into_iter().chain(limit).min();
    }
    outlines.reverse();
    if id.is_none() {
        id = snapshot_id(directory, layout)?;
    }
    Ok((id, outlines))
}

/// The journal's id as the newest readable header of a snapshot has it.
fn snapshot_id(source: &Directory, layout: &Layout) -> Result<Option<[u8; 16]>, Error> {
    for (&lsn, parts) in layout.snapshots.iter().rev() {
        for &part in parts {
            if let Ok(header) = FrameReader::snapshot_part(source, lsn, part)?.part_header(lsn, part)? {
                return Ok(Some(header.journal_id));
            }
        }
    }
    Ok(None)
}

/// Opens a segment for [`walk`], also where its header is lost.
pub(crate) fn open_segment(directory: &Directory, outline: &Outline, id: &[u8; 16]) -> Result<FrameReader, Error> {
    let mut reader = FrameReader::segment(directory, outline.seq)?;
    reader.seed = segment_seed(id, outline.seq);
    Ok(reader)
}

impl Outline {
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds {
            lsn: self.first,
            limit: self.limit,
            may_be_torn: self.limit.is_none(),
        }
    }
}
