//! The bytes of a frame: the unit of atomicity and of checksums.

#![forbid(unsafe_code)]

use crate::checksum::crc;
use crate::format::{
    ALIGNMENT_BYTES, BODY_BYTES_MAX, FRAME_HEADER_BYTES, NUMBER_MAX, RECORD_BYTES_MAX, RECORD_PREFIX_BYTES, u16_at,
    u32_at, u64_at,
};

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameKind {
    /// Records.
    Batch,
    /// Nothing: it vouches that all before it was durable when the journal was closed.
    Close,
    /// The end of a snapshot, with its totals.
    SnapshotEnd,
    /// Records that a salvage could not find; their numbers stay taken.
    Gap,
    /// A kind of a later version that may be passed over.
    Skippable(u8),
}

impl FrameKind {
    pub(crate) fn code(self) -> u8 {
        match self {
            FrameKind::Batch => 1,
            FrameKind::Close => 2,
            FrameKind::SnapshotEnd => 3,
            FrameKind::Gap => 4,
            FrameKind::Skippable(code) => code,
        }
    }

    fn of(code: u8) -> Option<FrameKind> {
        match code {
            1 => Some(FrameKind::Batch),
            2 => Some(FrameKind::Close),
            3 => Some(FrameKind::SnapshotEnd),
            4 => Some(FrameKind::Gap),
            0x80.. => Some(FrameKind::Skippable(code)),
            _ => None,
        }
    }
}

/// Header of a frame, without its own checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub body_crc: u32,
    pub body_len: usize,
    pub record_count: u16,
    pub kind: FrameKind,
    pub first_lsn: u64,
    /// Every LSN below this one was durable when the frame was written.
    pub durable_lsn: u64,
}

/// Why 32 bytes are not the header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameFault {
    /// The checksum or a field that it covers is wrong.
    Invalid,
    /// The checksum is right; the kind or a flag is of a later version.
    Unsupported,
}

impl FrameHeader {
    pub(crate) fn decode(bytes: &[u8; FRAME_HEADER_BYTES], seed: u32) -> Result<FrameHeader, FrameFault> {
        // Kind 0 is what untouched space looks like; turning it down first makes the search over zeros cheap.
        if bytes[14] == 0 || crc(seed, &bytes[4..]) != u32_at(bytes, 0) {
            return Err(FrameFault::Invalid);
        }
        let Some(kind) = FrameKind::of(bytes[14]) else {
            return Err(FrameFault::Unsupported);
        };
        if bytes[15] != 0 {
            return Err(FrameFault::Unsupported);
        }
        let body_len = usize::try_from(u32_at(bytes, 8)).map_err(|_| FrameFault::Invalid)?;
        if body_len > BODY_BYTES_MAX {
            return Err(FrameFault::Invalid);
        }
        Ok(FrameHeader {
            body_crc: u32_at(bytes, 4),
            body_len,
            record_count: u16_at(bytes, 12),
            kind,
            first_lsn: u64_at(bytes, 16),
            durable_lsn: u64_at(bytes, 24),
        })
    }

    /// Bytes of the whole frame in the file.
    pub(crate) fn frame_bytes(&self) -> usize {
        FRAME_HEADER_BYTES + padded(self.body_len)
    }

    /// First LSN after the frame, where the body keeps to the rules of its kind and the number to its bound.
    pub(crate) fn end_lsn(&self, body: &[u8]) -> Option<u64> {
        let span = match self.kind {
            FrameKind::Batch if self.record_count > 0 && records_fit(body, self.record_count) => {
                u64::from(self.record_count)
            }
            FrameKind::Close if body.is_empty() && self.record_count == 0 => 0,
            FrameKind::SnapshotEnd if body.len() == SnapshotEnd::BYTES && self.record_count == 0 => 0,
            FrameKind::Gap if body.len() == 8 && self.record_count == 0 => u64_at(body, 0),
            FrameKind::Skippable(_) => u64::from(self.record_count),
            _ => return None,
        };
        self.first_lsn.checked_add(span).filter(|&end_lsn| end_lsn < NUMBER_MAX)
    }
}

/// Lays down the header of a frame that is being built, as far as it is known.
pub(crate) fn begin_frame(frames: &mut Vec<u8>, kind: FrameKind, first_lsn: u64) {
    let start = frames.len();
    frames.resize(start + FRAME_HEADER_BYTES, 0);
    frames[start + 14] = kind.code();
    frames[start + 16..start + 24].copy_from_slice(&first_lsn.to_le_bytes());
}

/// Ends the frame that begins at `start` and whose body reaches to the end of `frames`.
pub(crate) fn end_frame(frames: &mut Vec<u8>, start: usize, record_count: u16) {
    let body_len = frames.len() - start - FRAME_HEADER_BYTES;
    debug_assert!(body_len <= BODY_BYTES_MAX);
    let body_len = u32::try_from(body_len).expect("a body has at most 65,528 bytes");
    frames.resize(padded(frames.len()), 0);
    frames[start + 8..start + 12].copy_from_slice(&body_len.to_le_bytes());
    frames[start + 12..start + 14].copy_from_slice(&record_count.to_le_bytes());
}

/// Fills in the durable LSN and the checksums of a whole frame.
pub(crate) fn seal_frame(frame: &mut [u8], seed: u32, durable_lsn: u64) {
    frame[24..32].copy_from_slice(&durable_lsn.to_le_bytes());
    let body_crc = crc(seed, &frame[FRAME_HEADER_BYTES..]);
    frame[4..8].copy_from_slice(&body_crc.to_le_bytes());
    let header_crc = crc(seed, &frame[4..FRAME_HEADER_BYTES]);
    frame[0..4].copy_from_slice(&header_crc.to_le_bytes());
}

/// The fields of a frame at the front of bytes that this process has built; nothing is checked.
#[derive(Clone, Copy)]
pub(crate) struct Built<'a>(pub &'a [u8]);

impl Built<'_> {
    /// Bytes of the whole frame.
    pub(crate) fn frame_bytes(self) -> usize {
        let body_len = usize::try_from(u32_at(self.0, 8)).expect("a body has at most 65,528 bytes");
        FRAME_HEADER_BYTES + padded(body_len)
    }

    pub(crate) fn record_count(self) -> u16 {
        u16_at(self.0, 12)
    }

    pub(crate) fn first_lsn(self) -> u64 {
        u64_at(self.0, 16)
    }

    /// First LSN after the frame.
    pub(crate) fn end_lsn(self) -> u64 {
        let span = match self.0[14] {
            code if code == FrameKind::Gap.code() => u64_at(self.0, FRAME_HEADER_BYTES),
            _ => u64::from(self.record_count()),
        };
        self.first_lsn() + span
    }

    pub(crate) fn body_crc_bytes(self) -> [u8; 4] {
        u32_at(self.0, 4).to_le_bytes()
    }
}

/// Rounds up to where the next frame begins.
pub(crate) fn padded(len: usize) -> usize {
    len.next_multiple_of(ALIGNMENT_BYTES)
}

/// The records of a body, which must have been checked by [`FrameHeader::end_lsn`].
pub(crate) fn records(body: &[u8]) -> Records<'_> {
    Records { rest: body }
}

/// Iterator over the records of a body; it ends at the first that does not fit.
pub(crate) struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.rest.split_first_chunk::<RECORD_PREFIX_BYTES>()?;
        let (record, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
        self.rest = rest;
        Some(record)
    }
}

fn records_fit(body: &[u8], count: u16) -> bool {
    let mut records = records(body);
    let found = records
        .by_ref()
        .take_while(|record| record.len() <= RECORD_BYTES_MAX)
        .count();
    found == usize::from(count) && records.rest.is_empty()
}

/// Body of the last frame of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotEnd {
    pub records: u64,
    /// CRC-32 over the body checksums of all frames before, in order, four bytes each.
    pub crc: u32,
    pub parts: u32,
    /// Every record below was durable in the log before the snapshot got its name, and none above has an effect in it.
    pub reach_lsn: u64,
}

impl SnapshotEnd {
    pub(crate) const BYTES: usize = 24;

    pub(crate) fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0..8].copy_from_slice(&self.records.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.crc.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.parts.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.reach_lsn.to_le_bytes());
        bytes
    }

    /// `body` must have [`SnapshotEnd::BYTES`] bytes, as [`FrameHeader::end_lsn`] has checked.
    pub(crate) fn decode(body: &[u8]) -> SnapshotEnd {
        SnapshotEnd {
            records: u64_at(body, 0),
            crc: u32_at(body, 8),
            parts: u32_at(body, 12),
            reach_lsn: u64_at(body, 16),
        }
    }
}
