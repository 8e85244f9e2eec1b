//! Files of a journal whose checksums hold, whatever else is wrong with them. Written after `journal/FORMAT.md` alone.

use backhaul_journal::simulation::Choices;

use super::directory::{Directory, part_name, segment_name};

pub(crate) const ID: [u8; 16] = *b"0123456789abcdef";
const SEGMENT_MAGIC: [u8; 8] = *b"\x89BKJ\r\n\x1A\n";
const SNAPSHOT_MAGIC: [u8; 8] = *b"\x89BKS\r\n\x1A\n";
/// Frames in one file; more of them reach no code that these do not.
const FRAMES_MAX: usize = 12;
const SEGMENTS_MAX: usize = 4;
/// Numbers at the edges of what the format and its writer allow.
const EDGES: [u64; 8] = [0, 1, 1 << 32, 1 << 62, (1 << 62) - 3, (1 << 63) - 2, 1 << 63, u64::MAX];

pub(crate) fn crc(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

pub(crate) fn segment_seed(id: &[u8; 16], seq: u64) -> u32 {
    crc(crc(0, id), &seq.to_le_bytes())
}

fn part_seed(lsn: u64, part: u32) -> u32 {
    crc(crc(crc(0, &ID), &lsn.to_le_bytes()), &part.to_le_bytes())
}

/// Makes files as a fuzzer says: mostly as a writer would, now and then not.
pub(crate) struct Forge<'c>(pub(crate) &'c mut Choices);

/// One frame before it is sealed.
struct Frame {
    kind: u8,
    count: u16,
    first: u64,
    durable: u64,
    body: Vec<u8>,
}

impl Forge<'_> {
    /// True one time in `of`, and never once the fuzzer's bytes are used up, so that a short input is a sound file.
    fn seldom(&mut self, of: usize) -> bool {
        self.0.below(of) + 1 == of
    }

    /// A number, or one near the edges of what is allowed.
    fn number(&mut self, usual: u64) -> u64 {
        if !self.seldom(24) {
            return usual;
        }
        match self.0.below(4) {
            0 => usual.wrapping_add(1),
            1 => usual.wrapping_sub(1),
            2 => usual.wrapping_add(self.0.below(1 << 16) as u64),
            _ => EDGES[self.0.below(EDGES.len())],
        }
    }

    fn header(&mut self, magic: [u8; 8], number: u64, lsn: u64) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..8].copy_from_slice(&magic);
        bytes[8] = 1;
        bytes[10] = 64;
        bytes[24..32].copy_from_slice(&number.to_le_bytes());
        bytes[32..40].copy_from_slice(&lsn.to_le_bytes());
        bytes[40..56].copy_from_slice(&ID);
        if self.seldom(32) {
            // A version, a feature, a capacity or an id that is not the usual one.
            let place = 8 + self.0.below(52);
            bytes[place] ^= 1 << self.0.below(8);
        }
        let sum = crc(0, &bytes[..60]);
        bytes[60..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// A segment from an LSN on, and the LSN after its last frame.
    pub(crate) fn segment(&mut self, seq: u64, first: u64) -> (Vec<u8>, u64) {
        let named = self.number(seq);
        let mut bytes = self.header(SEGMENT_MAGIC, named, first);
        let (mut next, mut group) = (first, first);
        for _ in 0..self.0.below(FRAMES_MAX) {
            let frame = self.segment_frame(next, group);
            let end = next.wrapping_add(frame.span());
            self.put(&mut bytes, segment_seed(&ID, seq), frame);
            next = end;
            if self.0.below(2) == 1 {
                group = next;
            }
        }
        self.end(&mut bytes);
        (bytes, next)
    }

    fn segment_frame(&mut self, next: u64, group: u64) -> Frame {
        let kind = [1, 1, 1, 1, 1, 2, 4, 128, 3, 5, 255, 0][self.0.below(12)];
        let first = self.number(next);
        let usual = [group, first][self.0.below(2)].min(first);
        let durable = self.number(usual);
        let (count, body) = match kind {
            1 => self.records(first),
            4 => (0, (1 + self.0.below(3) as u64).to_le_bytes().to_vec()),
            3 => (0, vec![0; 24]),
            128.. => (
                u16::try_from(self.0.below(4)).expect("below 4"),
                vec![7; self.0.below(20)],
            ),
            _ => (0, Vec::new()),
        };
        Frame {
            kind,
            count,
            first,
            durable,
            body,
        }
    }

    /// Records that say their LSN, so that one at another's place shows.
    fn records(&mut self, first: u64) -> (u16, Vec<u8>) {
        let count = 1 + self.0.below(3);
        let mut body = Vec::new();
        for index in 0..count {
            let len = [4, 0, 1, 9, 40, 300][self.0.below(6)];
            let text = first.wrapping_add(index as u64).to_le_bytes();
            let record: Vec<u8> = text.iter().copied().cycle().take(len).collect();
            let claimed = if self.seldom(48) { self.0.below(1 << 16) } else { len };
            body.extend_from_slice(&u16::try_from(claimed & 0xFFFF).expect("it was masked").to_le_bytes());
            body.extend_from_slice(&record);
        }
        let claimed = if self.seldom(48) { self.0.below(6) } else { count };
        (u16::try_from(claimed).expect("at most 5"), body)
    }

    /// Seals a frame, at times with a fault that its checksums cover or do not.
    fn put(&mut self, bytes: &mut Vec<u8>, seed: u32, mut frame: Frame) {
        let start = bytes.len();
        let body_len = frame.body.len();
        frame.body.resize(body_len.next_multiple_of(8), 0);
        let mut header = vec![0; 32];
        let claimed = if self.seldom(48) {
            self.0.below(1 << 17)
        } else {
            body_len
        };
        header[4..8].copy_from_slice(&crc(seed, &frame.body).to_le_bytes());
        header[8..12].copy_from_slice(&u32::try_from(claimed).expect("below 1 << 17").to_le_bytes());
        header[12..14].copy_from_slice(&frame.count.to_le_bytes());
        header[14] = frame.kind;
        header[15] = u8::from(self.seldom(64));
        header[16..24].copy_from_slice(&frame.first.to_le_bytes());
        header[24..32].copy_from_slice(&frame.durable.to_le_bytes());
        let sum = crc(seed, &header[4..]);
        header[..4].copy_from_slice(&sum.to_le_bytes());
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(&frame.body);
        if self.seldom(24) {
            let place = start + self.0.below(bytes.len() - start);
            bytes[place] ^= 1 << self.0.below(8);
        }
    }

    /// What follows the frames, and what became of the whole file.
    fn end(&mut self, bytes: &mut Vec<u8>) {
        match self.0.below(8) {
            1 => bytes.resize(bytes.len() + self.0.below(100), 0),
            2 => bytes.resize(bytes.len() + self.0.below(100), 0xA5),
            3 => bytes.truncate(bytes.len() - self.0.below(64).min(bytes.len())),
            4 => {
                let from = self.0.below(bytes.len());
                let len = self.0.below(600).min(bytes.len() - from);
                let to = self.0.below(bytes.len() - len + 1);
                bytes.copy_within(from..from + len, to);
            }
            5 => {
                let from = self.0.below(bytes.len());
                let len = self.0.below(600).min(bytes.len() - from);
                bytes[from..from + len].fill(0);
            }
            _ => {}
        }
    }

    /// Consecutive segments, each from where the one before ends, and the LSN after the last one.
    pub(crate) fn log(&mut self, directory: &Directory) -> u64 {
        let mut first = self.number(1);
        let mut seq = 1;
        for _ in 0..=self.0.below(SEGMENTS_MAX) {
            let (bytes, next) = self.segment(seq, first);
            directory.put(&segment_name(seq), &bytes);
            let void = self.0.below(4).saturating_sub(2) as u64;
            first = self.number(next.saturating_sub(void));
            seq = if self.seldom(16) { seq + 2 } else { seq + 1 };
        }
        first
    }

    /// A snapshot in one or more parts.
    pub(crate) fn snapshot(&mut self, directory: &Directory, lsn: u64, reach: u64) {
        let parts = 1 + u32::try_from(self.0.below(6).saturating_sub(3)).expect("below 3");
        let (mut next, mut sum) = (0, 0);
        for part in 0..parts {
            let named = self.number(u64::from(part));
            let mut bytes = self.header(SNAPSHOT_MAGIC, named, lsn);
            let seed = part_seed(lsn, part);
            for _ in 0..self.0.below(4) {
                let first = self.number(next);
                let (count, body) = self.records(first);
                let kind = if self.seldom(16) {
                    [2, 3, 4, 128][self.0.below(4)]
                } else {
                    1
                };
                let frame = Frame {
                    kind,
                    count,
                    first,
                    durable: 0,
                    body,
                };
                next += frame.span();
                sum = crc(sum, &frame.body_sum(seed));
                self.put(&mut bytes, seed, frame);
            }
            if part + 1 == parts {
                let frame = self.snapshot_end(next, sum, parts, reach);
                self.put(&mut bytes, seed, frame);
            }
            self.end_part(&mut bytes);
            if !self.seldom(24) {
                directory.put(&part_name(lsn, part), &bytes);
            }
        }
    }

    fn snapshot_end(&mut self, records: u64, sum: u32, parts: u32, reach: u64) -> Frame {
        let mut body = self.number(records).to_le_bytes().to_vec();
        body.extend_from_slice(&sum.to_le_bytes());
        body.extend_from_slice(
            &u32::try_from(self.number(u64::from(parts)) & 0xFFFF)
                .expect("masked")
                .to_le_bytes(),
        );
        body.extend_from_slice(&self.number(reach).to_le_bytes());
        Frame {
            kind: 3,
            count: 0,
            first: records,
            durable: 0,
            body,
        }
    }

    /// As [`Forge::end`], and seldom: nothing follows in a sound part.
    fn end_part(&mut self, bytes: &mut Vec<u8>) {
        if self.seldom(8) {
            self.end(bytes);
        }
    }
}

impl Frame {
    fn span(&self) -> u64 {
        match (self.kind, self.body.first()) {
            (4, Some(count)) => u64::from(*count),
            _ => u64::from(self.count),
        }
    }

    fn body_sum(&self, seed: u32) -> [u8; 4] {
        let mut body = self.body.clone();
        body.resize(body.len().next_multiple_of(8), 0);
        crc(seed, &body).to_le_bytes()
    }
}
