//! Reading one file frame by frame, in fixed memory, whatever its bytes are.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use crate::checksum::{crc, segment_seed, snapshot_seed};
use crate::directory::{Directory, segment_name, snapshot_name};
use crate::error::Error;
use crate::format::{
    ALIGNMENT_BYTES, FILE_BYTES_MAX, FILE_HEADER_BYTES, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FileHeader, HeaderFault,
    NUMBER_MAX, SEGMENT_MAGIC, SNAPSHOT_MAGIC,
};
use crate::frame::{FrameFault, FrameHeader, padded};
use crate::steps;
use crate::storage::{Access, StorageFile};

/// Bytes that are read at once: two of the largest frames. However many headers claim however much, the window moves on
/// by one frame at least before it is filled anew, so that no byte is read more than twice in one way through a file.
const WINDOW_BYTES: usize = 2 * FRAME_BYTES_MAX;

/// One open segment or snapshot part.
pub(crate) struct FrameReader {
    file: Box<dyn StorageFile>,
    pub path: PathBuf,
    pub len_bytes: u64,
    pub seed: u32,
    window: Vec<u8>,
    /// Bytes of the window that are the file's.
    window_len: usize,
    window_offset: u64,
}

/// A frame whose checksums hold and whose body keeps to its kind's rules.
pub(crate) struct Frame<'a> {
    pub header: FrameHeader,
    pub body: &'a [u8],
    /// First LSN after it.
    pub end_lsn: u64,
}

/// What stands where a frame may begin.
pub(crate) enum Found<'a> {
    Frame(Frame<'a>),
    /// No frame: zeros, a torn frame, damage, or the end of the file.
    Nothing,
}

impl FrameReader {
    /// Opens a segment; the seed is that of `journal_id`, or 0 until the header was read.
    pub(crate) fn segment(directory: &Directory, seq: u64) -> Result<FrameReader, Error> {
        FrameReader::open(directory, &segment_name(seq))
    }

    pub(crate) fn snapshot_part(directory: &Directory, lsn: u64, part: u32) -> Result<FrameReader, Error> {
        FrameReader::open(directory, &snapshot_name(lsn, part))
    }

    fn open(directory: &Directory, name: &str) -> Result<FrameReader, Error> {
        let path = directory.join(name);
        let file = directory
            .storage
            .open(&path, Access::Read)
            .map_err(Error::io("open", &path))?;
        let len_bytes = file.stat().map_err(Error::io("stat", &path))?.len_bytes;
        if len_bytes > FILE_BYTES_MAX {
            return Err(Error::TooLarge("a journal file", len_bytes, FILE_BYTES_MAX));
        }
        Ok(FrameReader {
            file,
            path,
            len_bytes,
            seed: 0,
            window: Vec::new(),
            window_len: 0,
            window_offset: 0,
        })
    }

    /// Reads a segment's header and sets the seed by it; the inner error says what is wrong with the bytes.
    pub(crate) fn segment_header(&mut self, seq: u64) -> Result<Result<FileHeader, &'static str>, Error> {
        let header = match self.header(SEGMENT_MAGIC)? {
            Ok(header) => header,
            Err(reason) => return Ok(Err(reason)),
        };
        if header.number != seq {
            return Ok(Err("the header's segment number is not that of the file's name"));
        }
        if header.lsn >= NUMBER_MAX {
            return Ok(Err("the header's first LSN is out of range"));
        }
        self.seed = segment_seed(&header.journal_id, seq);
        Ok(Ok(header))
    }

    /// As [`FrameReader::segment_header`], of one part of a snapshot.
    pub(crate) fn part_header(&mut self, lsn: u64, part: u32) -> Result<Result<FileHeader, &'static str>, Error> {
        let header = match self.header(SNAPSHOT_MAGIC)? {
            Ok(header) => header,
            Err(reason) => return Ok(Err(reason)),
        };
        if header.number != u64::from(part) || header.lsn != lsn {
            return Ok(Err("the header's numbers are not those of the file's name"));
        }
        self.seed = snapshot_seed(&header.journal_id, lsn, part);
        Ok(Ok(header))
    }

    fn header(&mut self, magic: [u8; 8]) -> Result<Result<FileHeader, &'static str>, Error> {
        let len_bytes = self.len_bytes;
        let Some(bytes) = self.bytes(0, FILE_HEADER_BYTES)?.first_chunk::<FILE_HEADER_BYTES>() else {
            return Ok(Err("the file is shorter than its header"));
        };
        match FileHeader::decode(bytes, magic) {
            Ok(header) if u64::from(header.capacity_bytes) > len_bytes => {
                Ok(Err("the file is shorter than it was made"))
            }
            Ok(header) => Ok(Ok(header)),
            Err(HeaderFault::Damaged(reason)) => Ok(Err(reason)),
            Err(HeaderFault::Unsupported(what)) => Err(Error::Unsupported(self.path.clone(), what)),
        }
    }

    /// The frame at an offset, if it is whole and its first LSN is `lsn` (any, where none is given).
    pub(crate) fn frame(&mut self, offset_bytes: u64, lsn: Option<u64>) -> Result<Found<'_>, Error> {
        let Some(header) = self.frame_header(offset_bytes)? else {
            return Ok(Found::Nothing);
        };
        let elsewhere = lsn.is_some_and(|lsn| lsn != header.first_lsn) && steps::is_taken("check of a frame's LSN");
        if elsewhere || header.durable_lsn > header.first_lsn {
            return Ok(Found::Nothing);
        }
        let (seed, frame_bytes) = (self.seed, header.frame_bytes());
        // The header's checksum holds, so the length is what was written; what is left of the file bounds it again.
        let Some(body) = self
            .bytes(offset_bytes, frame_bytes)?
            .get(FRAME_HEADER_BYTES..frame_bytes)
        else {
            return Ok(Found::Nothing);
        };
        debug_assert_eq!(body.len(), padded(header.body_len));
        if crc(seed, body) != header.body_crc {
            return Ok(Found::Nothing);
        }
        let body = &body[..header.body_len];
        match header.end_lsn(body) {
            Some(end_lsn) => Ok(Found::Frame(Frame { header, body, end_lsn })),
            None => Ok(Found::Nothing),
        }
    }

    /// The header at an offset, if its checksum holds, whatever became of the body.
    pub(crate) fn frame_header(&mut self, offset_bytes: u64) -> Result<Option<FrameHeader>, Error> {
        let seed = self.seed;
        let Some(bytes) = self
            .bytes(offset_bytes, FRAME_HEADER_BYTES)?
            .first_chunk::<FRAME_HEADER_BYTES>()
        else {
            return Ok(None);
        };
        match FrameHeader::decode(bytes, seed) {
            Ok(header) => Ok(Some(header)),
            Err(FrameFault::Invalid) => Ok(None),
            Err(FrameFault::Unsupported) => Err(Error::Unsupported(
                self.path.clone(),
                format!("the kind of frame at byte {offset_bytes}"),
            )),
        }
    }

    /// Offset of the first header at or after an offset for which `wanted` holds.
    pub(crate) fn find_header(
        &mut self,
        from_bytes: u64,
        mut wanted: impl FnMut(&FrameHeader) -> bool,
    ) -> Result<Option<u64>, Error> {
        let mut offset = from_bytes.next_multiple_of(ALIGNMENT_BYTES as u64);
        while offset + FRAME_HEADER_BYTES as u64 <= self.len_bytes {
            if self.frame_header(offset)?.is_some_and(|header| wanted(&header)) {
                return Ok(Some(offset));
            }
            offset += ALIGNMENT_BYTES as u64;
        }
        Ok(None)
    }

    /// Whether every byte from an offset to the end of the file is zero.
    pub(crate) fn is_zero_from(&mut self, from_bytes: u64) -> Result<bool, Error> {
        let mut offset = from_bytes;
        while offset < self.len_bytes {
            let bytes = self.bytes(offset, 1)?;
            if bytes.is_empty() {
                break;
            }
            if bytes.iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
            offset += bytes.len() as u64;
        }
        Ok(true)
    }

    /// Forgets what was read ahead, so that a writer's later bytes are seen.
    pub(crate) fn forget(&mut self) {
        self.window_len = 0;
    }

    /// Bytes at an offset: at least `need`, or all there are before the end of the file.
    fn bytes(&mut self, offset_bytes: u64, need: usize) -> Result<&[u8], Error> {
        debug_assert!(need <= FRAME_BYTES_MAX);
        let reaches_end = self.window_offset + self.window_len as u64 == self.len_bytes;
        if self
            .skip(offset_bytes)
            .is_none_or(|skip| self.window_len - skip < need && !reaches_end)
        {
            self.fill(offset_bytes)?;
        }
        Ok(self
            .skip(offset_bytes)
            .map_or(&[], |skip| &self.window[skip..self.window_len]))
    }

    /// Where an offset lies in the window.
    fn skip(&self, offset_bytes: u64) -> Option<usize> {
        let skip = usize::try_from(offset_bytes.checked_sub(self.window_offset)?).ok()?;
        (skip < self.window_len).then_some(skip)
    }

    fn fill(&mut self, offset_bytes: u64) -> Result<(), Error> {
        let left = self.len_bytes.saturating_sub(offset_bytes);
        let want = usize::try_from(left).map_or(WINDOW_BYTES, |left| left.min(WINDOW_BYTES));
        self.window_len = 0;
        self.window_offset = offset_bytes;
        if self.window.len() < want {
            self.window = vec![0; want];
        }
        let mut filled = 0;
        while filled < want {
            let answer = self
                .file
                .read_at(&mut self.window[filled..want], offset_bytes + filled as u64);
            match answer.map_err(Error::io("read", &self.path))? {
                0 => break,
                count => filled += count,
            }
        }
        self.window_len = filled;
        Ok(())
    }
}
