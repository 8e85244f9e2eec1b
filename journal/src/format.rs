//! The bytes on the disk. `FORMAT.md` is the specification; this file is its one implementation.

#![forbid(unsafe_code)]

use crate::checksum::crc;
use crate::error::Error;

/// First bytes of a segment: as in PNG, damage by text-mode or 7-bit transfers shows.
pub(crate) const SEGMENT_MAGIC: [u8; 8] = *b"\x89BKJ\r\n\x1A\n";
/// First bytes of a snapshot part.
pub(crate) const SNAPSHOT_MAGIC: [u8; 8] = *b"\x89BKS\r\n\x1A\n";
/// The one format version there is.
pub(crate) const FORMAT_MAJOR: u16 = 1;
/// Bytes of a segment's or snapshot part's header.
pub(crate) const FILE_HEADER_BYTES: usize = 64;
/// Bytes of a frame's header.
pub(crate) const FRAME_HEADER_BYTES: usize = 32;
/// Frames begin at multiples of this.
pub(crate) const ALIGNMENT_BYTES: usize = 8;
/// Most bytes of one record.
pub const RECORD_BYTES_MAX: usize = 32 * 1024;
/// Most bytes of a frame's body, padding excluded; so a batch has at most these, with two more for each record.
pub const BODY_BYTES_MAX: usize = 65_528;
/// A frame takes no further record beyond this. CRC-32 finds every error of up to three bits only up to about 11 KiB.
pub(crate) const BODY_BYTES_SOFT: usize = 8 * 1024;
/// Most bytes of a whole frame.
pub(crate) const FRAME_BYTES_MAX: usize = FRAME_HEADER_BYTES + BODY_BYTES_MAX;
/// Bytes before each record in a body.
pub(crate) const RECORD_PREFIX_BYTES: usize = 2;
/// Most bytes of frames written by one commit, and so of what a crash can leave unproven.
pub(crate) const GROUP_BYTES_MAX: usize = 256 * 1024;
/// Most bytes of one file.
pub(crate) const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Most journal files in one directory.
pub(crate) const FILES_MAX: usize = 4096;
/// The first record's number; 0 is before everything.
pub(crate) const FIRST_LSN: u64 = 1;
/// LSNs and segment numbers stay below this, so that counting on from what a file says never overflows.
pub(crate) const NUMBER_MAX: u64 = 1 << 63;
/// No writer goes on from a number at or above this one, so that none ever makes what a reader refuses.
const WRITABLE_MAX: u64 = 1 << 62;

/// Header of a segment, or of one part of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub magic: [u8; 8],
    /// Features that a reader may not know: with any set the file is read, never written beside.
    pub compat_flags: u32,
    /// Bytes laid down as zeros when the file was made; a shorter file is damaged.
    pub capacity_bytes: u32,
    /// `segment_seq`, or the part's index in its snapshot.
    pub number: u64,
    /// First LSN of the segment, or the LSN that the snapshot covers (exclusive).
    pub lsn: u64,
    pub journal_id: [u8; 16],
}

/// Why the first 64 bytes of a file are not a header of this version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    Damaged(&'static str),
    Unsupported(String),
}

impl FileHeader {
    pub(crate) fn encode(&self) -> [u8; FILE_HEADER_BYTES] {
        let mut bytes = [0; FILE_HEADER_BYTES];
        bytes[0..8].copy_from_slice(&self.magic);
        bytes[8..10].copy_from_slice(&FORMAT_MAJOR.to_le_bytes());
        bytes[10..12].copy_from_slice(&64_u16.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.compat_flags.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.capacity_bytes.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.number.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.lsn.to_le_bytes());
        bytes[40..56].copy_from_slice(&self.journal_id);
        let sum = crc(0, &bytes[..60]);
        bytes[60..64].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; FILE_HEADER_BYTES], magic: [u8; 8]) -> Result<FileHeader, HeaderFault> {
        // The checksum comes first: a flipped bit in the version must read as damage, not as a newer version.
        if bytes[0..8] != magic {
            return Err(HeaderFault::Damaged("the file does not begin with its magic bytes"));
        }
        if crc(0, &bytes[..60]) != u32_at(bytes, 60) {
            return Err(HeaderFault::Damaged("the file's header fails its checksum"));
        }
        let major = u16_at(bytes, 8);
        if major != FORMAT_MAJOR {
            return Err(HeaderFault::Unsupported(format!("format version {major}")));
        }
        if u16_at(bytes, 10) != 64 || u32_at(bytes, 12) != 0 || u32_at(bytes, 56) != 0 {
            return Err(HeaderFault::Unsupported("a feature flag of a later format".to_owned()));
        }
        let mut journal_id = [0; 16];
        journal_id.copy_from_slice(&bytes[40..56]);
        Ok(FileHeader {
            magic,
            compat_flags: u32_at(bytes, 16),
            capacity_bytes: u32_at(bytes, 20),
            number: u64_at(bytes, 24),
            lsn: u64_at(bytes, 32),
            journal_id,
        })
    }
}

/// Refuses to write from an LSN or a segment number on that only damage or a forger can have brought about.
pub(crate) fn check_writable(number: u64) -> Result<(), Error> {
    if number >= WRITABLE_MAX {
        return Err(Error::TooMany(
            "records or segments ever made",
            number,
            WRITABLE_MAX - 1,
        ));
    }
    Ok(())
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
