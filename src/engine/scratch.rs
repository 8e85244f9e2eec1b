//! Packed operations in a file, for engines whose memory is limited. The journal is what counts: the file has no name, is
//! never synced, and is made anew from the journal with every start.
//!
//! Invariant: once bytes of it could not be read, nothing is recorded any more, and no snapshot is finished: what the table
//! then holds may be less than what the journal does.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use backhaul_journal::{Storage, StorageFile};

use crate::config::Layout;
use crate::error::Error;
use crate::shelf::{Memory, Place, Shelf};

/// A file is left for another one when more than half of it is garbage and it is at least this long (chosen without
/// measurement).
const MOVE_BYTES_MIN: u64 = 256 << 10;
/// What one allocation costs besides its bytes: its place in a list, and what glibc adds and rounds up.
const ALLOCATION_BYTES: usize = 32;
/// What stands before the bytes: their length, and their CRC-32, little-endian.
const HEADER_BYTES: usize = 8;
/// Frames begin at multiples of this, so that a place is a short number.
const ALIGN_BYTES: u64 = 16;
/// So much of a frame is read at once; the rest of a longer one is read then (chosen: most are shorter).
const FIRST_BYTES: usize = 512;

/// A place: two bits for the kind, then the offset in the file, in units of [`ALIGN_BYTES`]: 16 GiB are enough. Of two kinds
/// of files are the places that are left and those that are new, and the last kind is none.
const OFFSET_BITS: u32 = 30;
const IN_MEMORY: u32 = 0;

/// Makes the shelves of one engine: one, and another where a replay begins anew.
#[derive(Clone)]
pub(crate) struct Shelving {
    storage: Arc<dyn Storage>,
    /// The name that the file has for a moment.
    path: PathBuf,
    /// So many bytes stay in memory before the file is used.
    memory_bytes_max: usize,
    trouble: Arc<Trouble>,
}

impl Shelving {
    /// None where memory is not limited.
    pub(super) fn within(
        memory_bytes_max: Option<usize>,
        storage: &Arc<dyn Storage>,
        layout: &Layout,
        trouble: &Arc<Trouble>,
    ) -> Option<Self> {
        Some(Self {
            storage: Arc::clone(storage),
            path: layout.scratch(),
            memory_bytes_max: memory_bytes_max?,
            trouble: Arc::clone(trouble),
        })
    }

    pub(super) fn shelf(&self) -> Box<dyn Shelf> {
        Box::new(Scratch {
            shelving: self.clone(),
            memory: Memory::default(),
            memory_bytes: 0,
            file: None,
            is_odd: false,
            old: None,
            move_bytes_min: MOVE_BYTES_MIN,
            has_warned: false,
        })
    }
}

/// Whether the table may hold less than the journal, and why: operations could not be read any more, or a panic left a
/// change half done.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    is_there: AtomicBool,
    first: Mutex<Option<Error>>,
}

impl Trouble {
    fn raise(&self, path: &Path, error: io::Error) {
        self.note(Error::io(
            "read back queued operations from the scratch file of",
            path,
            error,
        ));
    }

    pub(super) fn note(&self, error: Error) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(error);
        self.is_there.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_there(&self) -> bool {
        self.is_there.load(Ordering::SeqCst)
    }

    /// Nothing is to be recorded after it.
    ///
    /// # Errors
    /// The first error.
    pub(super) fn check(&self) -> Result<(), Error> {
        if !self.is_there() {
            return Ok(());
        }
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.clone().map_or(Ok(()), Err)
    }
}

struct Scratch {
    shelving: Shelving,
    memory: Memory,
    memory_bytes: usize,
    file: Option<Heap>,
    /// Which of two kinds the places in `file` are of.
    is_odd: bool,
    /// What is being left.
    old: Option<Heap>,
    move_bytes_min: u64,
    has_warned: bool,
}

/// One file that grows at its end.
struct Heap {
    file: Box<dyn StorageFile>,
    end: u64,
    /// Frames that were written, and how many of them nobody asks for any more.
    frames: u64,
    garbage: u64,
}

impl fmt::Debug for Scratch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Scratch");
        shown.field("memory_bytes", &self.memory_bytes).finish_non_exhaustive()
    }
}

impl Shelf for Scratch {
    fn put(&mut self, bytes: &[u8]) -> Place {
        let cost = bytes.len() + ALLOCATION_BYTES;
        if self.memory_bytes + cost > self.shelving.memory_bytes_max {
            match self.write(bytes) {
                Ok(Some(place)) => return place,
                // A disk that is full, most of all. What it may cost then is memory.
                Err(error) if !self.has_warned => {
                    self.has_warned = true;
                    let path = self.shelving.path.display();
                    log::warn!("queued operations stay in memory, as the scratch file '{path}' takes no more: {error}");
                }
                Ok(None) | Err(_) => {}
            }
        }
        self.memory_bytes += cost;
        self.memory.put(bytes)
    }

    fn get(&self, place: Place) -> Option<Cow<'_, [u8]>> {
        let Some((is_odd, offset)) = parts(place) else {
            return self.memory.get(place);
        };
        match self.read(is_odd, offset) {
            Ok(bytes) => Some(Cow::Owned(bytes)),
            Err(error) => {
                let directory = self.shelving.path.parent().unwrap_or(&self.shelving.path);
                self.shelving.trouble.raise(directory, error);
                None
            }
        }
    }

    fn free(&mut self, place: Place) {
        let Some((is_odd, _)) = parts(place) else {
            let bytes = self.memory.get(place).map_or(0, |bytes| bytes.len() + ALLOCATION_BYTES);
            self.memory_bytes -= bytes;
            return self.memory.free(place);
        };
        let heap = if is_odd == self.is_odd {
            &mut self.file
        } else {
            &mut self.old
        };
        if let Some(heap) = heap {
            heap.garbage += 1;
            if heap.garbage == heap.frames && heap.file.set_len(0).is_ok() {
                (heap.end, heap.frames, heap.garbage) = (0, 0, 0);
            }
        }
    }

    fn begin_move(&mut self) -> bool {
        let is_due = |heap: &Heap| heap.end >= self.move_bytes_min && heap.garbage > heap.frames / 2;
        let Some(end) = self.file.as_ref().filter(|heap| is_due(heap)).map(|heap| heap.end) else {
            return false;
        };
        let Ok(heap) = Heap::make(&self.shelving) else {
            // Not with every change again.
            self.move_bytes_min = end * 2;
            return false;
        };
        self.old = self.file.replace(heap);
        self.is_odd = !self.is_odd;
        self.move_bytes_min = MOVE_BYTES_MIN;
        true
    }

    fn is_stale(&self, place: Place) -> bool {
        parts(place).is_some_and(|(is_odd, _)| is_odd != self.is_odd)
    }

    fn end_move(&mut self) {
        self.old = None;
    }
}

impl Scratch {
    /// `None` where it is too large for a place.
    fn write(&mut self, bytes: &[u8]) -> io::Result<Option<Place>> {
        let heap = match &mut self.file {
            Some(heap) => heap,
            none => none.insert(Heap::make(&self.shelving)?),
        };
        let (Ok(unit), Ok(len)) = (u32::try_from(heap.end / ALIGN_BYTES), u32::try_from(bytes.len())) else {
            return Ok(None);
        };
        if unit >= 1 << OFFSET_BITS {
            return Ok(None);
        }
        let mut frame = Vec::with_capacity(HEADER_BYTES + bytes.len());
        frame.extend_from_slice(&len.to_le_bytes());
        frame.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
        frame.extend_from_slice(bytes);
        heap.file.write_all_at(&frame, heap.end)?;
        let kind = if self.is_odd { 2 } else { 1 };
        heap.end += (frame.len() as u64).next_multiple_of(ALIGN_BYTES);
        heap.frames += 1;
        Ok(Some(Place(kind << OFFSET_BITS | unit)))
    }

    fn read(&self, is_odd: bool, offset: u64) -> io::Result<Vec<u8>> {
        let heap = if is_odd == self.is_odd { &self.file } else { &self.old };
        let heap = heap.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let first = usize::try_from(heap.end.saturating_sub(offset)).map_or(FIRST_BYTES, |left| left.min(FIRST_BYTES));
        let mut frame = vec![0; first];
        let filled = heap.fill(&mut frame, 0, offset, HEADER_BYTES)?;
        let [a, b, c, d, crc @ ..] = frame
            .first_chunk::<HEADER_BYTES>()
            .copied()
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let len = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let left = heap.end.saturating_sub(offset);
        if len as u64 > left {
            return Err(wrong());
        }
        frame.resize(HEADER_BYTES + len, 0);
        heap.fill(&mut frame, filled, offset, HEADER_BYTES + len)?;
        let bytes = frame.split_off(HEADER_BYTES);
        if crc32fast::hash(&bytes) != u32::from_le_bytes(crc) {
            return Err(wrong());
        }
        Ok(bytes)
    }
}

fn wrong() -> io::Error {
    io::Error::other("it is not what was written there")
}

impl Heap {
    /// Reads on into a frame of which the first bytes are there, until at least so many are; gives how many.
    fn fill(&self, frame: &mut [u8], mut filled: usize, offset: u64, least: usize) -> io::Result<usize> {
        while filled < least {
            let rest = frame.get_mut(filled..).unwrap_or_default();
            match self.file.read_at(rest, offset + filled as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(filled)
    }

    /// A file that nobody else can come to, and that goes with the process.
    fn make(shelving: &Shelving) -> io::Result<Self> {
        let (storage, path) = (&shelving.storage, &shelving.path);
        let file = match storage.create(path, 0o600) {
            // A crash came between the two steps.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                storage.remove(path)?;
                storage.create(path, 0o600)?
            }
            result => result?,
        };
        storage.remove(path)?;
        let (end, frames, garbage) = (0, 0, 0);
        Ok(Self {
            file,
            end,
            frames,
            garbage,
        })
    }
}

/// Kind and offset of a place in a file; `None` where it is in memory.
fn parts(place: Place) -> Option<(bool, u64)> {
    let kind = place.0 >> OFFSET_BITS;
    let unit = place.0 & ((1 << OFFSET_BITS) - 1);
    (kind != IN_MEMORY).then_some((kind == 2, u64::from(unit) * ALIGN_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use backhaul_journal::simulation::SimDisk;

    #[test]
    fn what_changes_without_end_leaves_no_more_garbage_than_there_is_content() {
        const COUNT: usize = 1_000;
        const BYTES: usize = 300;
        let disk = SimDisk::new();
        let trouble = Arc::default();
        let layout = Layout::new(Path::new("/"));
        let Some(shelving) = Shelving::within(Some(0), &disk.storage(), &layout, &trouble) else {
            panic!("its memory is limited")
        };
        let mut shelf = shelving.shelf();
        let bytes = |number: usize, round: usize| vec![u8::try_from((number + round) % 251).unwrap_or(0); BYTES];
        let mut places: Vec<Place> = (0..COUNT).map(|number| shelf.put(&bytes(number, 0))).collect();
        let mut moves = 0;
        for round in 1..20 {
            for (number, place) in places.iter_mut().enumerate() {
                shelf.free(*place);
                *place = shelf.put(&bytes(number, round));
            }
            if shelf.begin_move() {
                moves += 1;
                for place in &mut places {
                    assert!(shelf.is_stale(*place));
                    let there = shelf.get(*place).map(Cow::into_owned).unwrap_or_default();
                    *place = shelf.put(&there);
                }
                shelf.end_move();
            }
            for (number, place) in places.iter().enumerate() {
                assert_eq!(shelf.get(*place).as_deref(), Some(&*bytes(number, round)));
                let Some((_, offset)) = parts(*place) else {
                    panic!("it is in the file")
                };
                assert!(offset < (3 * COUNT * (BYTES + HEADER_BYTES).next_multiple_of(16)) as u64);
            }
        }
        assert!(moves >= 5 && trouble.check().is_ok());
        for place in places {
            shelf.free(place);
        }
        // The file is empty again.
        let place = shelf.put(&bytes(0, 0));
        assert_eq!(parts(place).map(|(_, offset)| offset), Some(0));
    }
}
