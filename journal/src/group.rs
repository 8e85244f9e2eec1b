//! Frames in memory, on their way to one write.

#![forbid(unsafe_code)]

use crate::checksum::crc;
use crate::format::{BODY_BYTES_SOFT, FRAME_HEADER_BYTES, RECORD_PREFIX_BYTES};
use crate::frame::{Built, FrameHeader, FrameKind, begin_frame, end_frame, padded, seal_frame};

/// Memory that an empty group keeps: the records of a whole batch of publications fit.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// Frames back to back, with consecutive LSNs. Checksums and the durable LSN are filled in by [`Group::seal`], when it
/// is known which file they go to.
#[derive(Debug, Default)]
pub(crate) struct Group {
    bytes: Vec<u8>,
    open: Option<OpenFrame>,
    first: u64,
    next: u64,
    records: u64,
}

/// The last frame of the group, which still takes records.
#[derive(Debug)]
struct OpenFrame {
    start: usize,
    record_count: u16,
}

impl Group {
    pub(crate) fn new(first: u64) -> Group {
        Group {
            first,
            next: first,
            ..Group::default()
        }
    }

    /// Empties the group and keeps its memory, but for what only a long list needed.
    pub(crate) fn clear(&mut self, first: u64) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES_MAX);
        self.open = None;
        self.first = first;
        self.next = first;
        self.records = 0;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// First LSN after the group.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// Bytes that the group takes in a file.
    pub(crate) fn len_bytes(&self) -> usize {
        padded(self.bytes.len())
    }

    /// The sealed frames.
    pub(crate) fn bytes(&self) -> &[u8] {
        debug_assert!(self.open.is_none());
        &self.bytes
    }

    /// Whether a body of this length, in a frame of its own, keeps the group within `bytes_max`.
    pub(crate) fn fits(&self, body_len: usize, bytes_max: usize) -> bool {
        self.len_bytes() + FRAME_HEADER_BYTES + padded(body_len) <= bytes_max
    }

    /// Adds one record, to the last frame where that has room. The caller has checked the record's length.
    pub(crate) fn push(&mut self, record: &[u8]) {
        let body_len = self
            .open
            .as_ref()
            .map_or(0, |open| self.bytes.len() - open.start - FRAME_HEADER_BYTES);
        if body_len > 0 && body_len + RECORD_PREFIX_BYTES + record.len() > BODY_BYTES_SOFT {
            self.close_frame();
        }
        if self.open.is_none() {
            self.open_frame(FrameKind::Batch, self.next);
        }
        self.push_record(record);
    }

    /// Adds records in one frame of their own. The caller has checked the lengths.
    pub(crate) fn push_batch(&mut self, records: &[&[u8]]) {
        self.close_frame();
        self.open_frame(FrameKind::Batch, self.next);
        for record in records {
            self.push_record(record);
        }
        self.close_frame();
    }

    /// Adds a frame as it was read, from another file or of a kind without records.
    pub(crate) fn push_frame(&mut self, header: &FrameHeader, body: &[u8], end_lsn: u64) {
        self.close_frame();
        if self.bytes.is_empty() {
            self.first = header.first_lsn;
        }
        let start = self.bytes.len();
        begin_frame(&mut self.bytes, header.kind, header.first_lsn);
        self.bytes.extend_from_slice(body);
        end_frame(&mut self.bytes, start, header.record_count);
        self.next = end_lsn;
        self.records += u64::from(header.record_count);
    }

    /// Adds a frame without records.
    pub(crate) fn push_mark(&mut self, kind: FrameKind, body: &[u8], end_lsn: u64) {
        let header = FrameHeader {
            body_crc: 0,
            body_len: body.len(),
            record_count: 0,
            kind,
            first_lsn: self.next,
            durable_lsn: 0,
        };
        self.push_frame(&header, body, end_lsn);
    }

    /// Takes frames that end at or below an LSN away from the front.
    pub(crate) fn drop_below(&mut self, lsn: u64) {
        debug_assert!(self.open.is_none());
        let mut cut = 0;
        let mut first = self.next;
        while cut < self.bytes.len() {
            let frame = Built(&self.bytes[cut..]);
            if frame.end_lsn() > lsn {
                first = frame.first_lsn();
                break;
            }
            self.records -= u64::from(frame.record_count());
            cut += frame.frame_bytes();
        }
        self.bytes.drain(..cut);
        self.first = first;
    }

    /// Fills in the durable LSN and the checksums for the file with this seed; again, where another file takes over.
    pub(crate) fn seal(&mut self, seed: u32, durable_lsn: u64) {
        self.close_frame();
        let mut rest = &mut self.bytes[..];
        while !rest.is_empty() {
            let (frame, after) = rest.split_at_mut(Built(rest).frame_bytes());
            seal_frame(frame, seed, durable_lsn);
            rest = after;
        }
    }

    /// Goes on with a checksum over the body checksums of all frames, which must be sealed.
    pub(crate) fn fold_body_crcs(&self, mut sum: u32) -> u32 {
        let mut rest = &self.bytes[..];
        while !rest.is_empty() {
            sum = crc(sum, &Built(rest).body_crc_bytes());
            rest = &rest[Built(rest).frame_bytes()..];
        }
        sum
    }

    fn open_frame(&mut self, kind: FrameKind, first_lsn: u64) {
        let start = self.bytes.len();
        begin_frame(&mut self.bytes, kind, first_lsn);
        self.open = Some(OpenFrame { start, record_count: 0 });
    }

    fn push_record(&mut self, record: &[u8]) {
        let len = u16::try_from(record.len()).expect("the caller has checked the record against its limit");
        let open = self.open.as_mut().expect("the caller has opened a frame");
        open.record_count += 1;
        self.bytes.extend_from_slice(&len.to_le_bytes());
        self.bytes.extend_from_slice(record);
        self.next += 1;
        self.records += 1;
    }

    fn close_frame(&mut self) {
        if let Some(open) = self.open.take() {
            end_frame(&mut self.bytes, open.start, open.record_count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_records_share_a_frame_and_large_ones_do_not() {
        let mut group = Group::new(5);
        group.push(&[1; 100]);
        group.push(&[2; 100]);
        assert_eq!(group.len_bytes(), FRAME_HEADER_BYTES + padded(204));
        group.push(&[3; 8192]);
        assert_eq!(group.len_bytes(), 2 * FRAME_HEADER_BYTES + padded(204) + padded(8194));
        assert_eq!((group.first(), group.next(), group.records()), (5, 8, 3));
    }

    #[test]
    fn a_batch_has_a_frame_of_its_own() {
        let mut group = Group::new(1);
        group.push(b"a");
        group.push_batch(&[b"b", b"c"]);
        group.push(b"d");
        group.seal(0, 1);
        assert_eq!(group.len_bytes(), 3 * (FRAME_HEADER_BYTES + 8));
        assert_eq!(group.next(), 5);
    }

    #[test]
    fn dropping_from_the_front_keeps_whole_frames() {
        let mut group = Group::new(1);
        group.push_batch(&[b"a", b"b"]);
        group.push_batch(&[b"c", b"d"]);
        group.drop_below(2);
        assert_eq!((group.first(), group.records()), (1, 4));
        group.drop_below(4);
        assert_eq!((group.first(), group.records()), (3, 2));
        group.drop_below(5);
        assert!(group.is_empty());
        assert_eq!(group.first(), 5);
    }

    #[test]
    fn a_record_fits_exactly_up_to_the_limit() {
        let group = Group::new(1);
        assert!(group.fits(10, FRAME_HEADER_BYTES + 16));
        assert!(!group.fits(17, FRAME_HEADER_BYTES + 16));
    }
}
