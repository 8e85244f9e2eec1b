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
/// CRC-32 of the bytes that follow.
const CRC_BYTES: usize = 4;

/// A place: two bits for the kind, then the offset in the file, then the length.
const LEN_BITS: u32 = 22;
const OFFSET_BITS: u32 = 40;
const IN_MEMORY: u64 = 0;

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

/// Whether operations could not be read any more, and why.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    is_there: AtomicBool,
    first: Mutex<Option<Error>>,
}

impl Trouble {
    fn raise(&self, path: &Path, error: io::Error) {
        let error = Error::io("read back queued operations from the scratch file of", path, error);
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
    garbage: u64,
}

impl fmt::Debug for Scratch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Scratch");
        shown.field("memory_bytes", &self.memory_bytes).finish_non_exhaustive()
    }
}

impl Shelf for Scratch {
    fn put(&mut self, bytes: Vec<u8>) -> Place {
        let cost = bytes.len() + ALLOCATION_BYTES;
        if self.memory_bytes + cost > self.shelving.memory_bytes_max {
            match self.write(&bytes) {
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
        let Some((is_odd, offset, len)) = parts(place) else {
            return self.memory.get(place);
        };
        match self.read(is_odd, offset, len) {
            Ok(bytes) => Some(Cow::Owned(bytes)),
            Err(error) => {
                let directory = self.shelving.path.parent().unwrap_or(&self.shelving.path);
                self.shelving.trouble.raise(directory, error);
                None
            }
        }
    }

    fn free(&mut self, place: Place) {
        let Some((is_odd, _, len)) = parts(place) else {
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
            heap.garbage += (len + CRC_BYTES) as u64;
            if heap.garbage == heap.end && heap.file.set_len(0).is_ok() {
                (heap.end, heap.garbage) = (0, 0);
            }
        }
    }

    fn begin_move(&mut self) -> bool {
        let is_due = |heap: &Heap| heap.end >= self.move_bytes_min && heap.garbage > heap.end / 2;
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
        parts(place).is_some_and(|(is_odd, _, _)| is_odd != self.is_odd)
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
        if bytes.len() >= 1 << LEN_BITS || heap.end >= 1 << OFFSET_BITS {
            return Ok(None);
        }
        let mut frame = Vec::with_capacity(CRC_BYTES + bytes.len());
        frame.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
        frame.extend_from_slice(bytes);
        heap.file.write_all_at(&frame, heap.end)?;
        let kind = if self.is_odd { 2 } else { 1 };
        let place = kind << (OFFSET_BITS + LEN_BITS) | heap.end << LEN_BITS | bytes.len() as u64;
        heap.end += frame.len() as u64;
        Ok(Some(Place(place)))
    }

    fn read(&self, is_odd: bool, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let heap = if is_odd == self.is_odd { &self.file } else { &self.old };
        let heap = heap.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let mut frame = vec![0; CRC_BYTES + len];
        let mut filled = 0;
        while filled < frame.len() {
            match heap.file.read_at(&mut frame[filled..], offset + filled as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        let bytes = frame.split_off(CRC_BYTES);
        if crc32fast::hash(&bytes).to_le_bytes()[..] != frame[..] {
            return Err(io::Error::other("it is not what was written there"));
        }
        Ok(bytes)
    }
}

impl Heap {
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
        let (end, garbage) = (0, 0);
        Ok(Self { file, end, garbage })
    }
}

/// Kind, offset and length of a place in a file; `None` where it is in memory.
fn parts(place: Place) -> Option<(bool, u64, usize)> {
    let kind = place.0 >> (OFFSET_BITS + LEN_BITS);
    let offset = place.0 >> LEN_BITS & ((1 << OFFSET_BITS) - 1);
    let len = usize::try_from(place.0 & ((1 << LEN_BITS) - 1)).ok()?;
    (kind != IN_MEMORY).then_some((kind == 2, offset, len))
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
        let mut places: Vec<Place> = (0..COUNT).map(|number| shelf.put(bytes(number, 0))).collect();
        let mut moves = 0;
        for round in 1..20 {
            for (number, place) in places.iter_mut().enumerate() {
                shelf.free(*place);
                *place = shelf.put(bytes(number, round));
            }
            if shelf.begin_move() {
                moves += 1;
                for place in &mut places {
                    assert!(shelf.is_stale(*place));
                    let there = shelf.get(*place).map(Cow::into_owned).unwrap_or_default();
                    *place = shelf.put(there);
                }
                shelf.end_move();
            }
            for (number, place) in places.iter().enumerate() {
                assert_eq!(shelf.get(*place).as_deref(), Some(&*bytes(number, round)));
                let Some((_, offset, _)) = parts(*place) else {
                    panic!("it is in the file")
                };
                assert!(offset < (3 * COUNT * (BYTES + CRC_BYTES)) as u64);
            }
        }
        assert!(moves >= 5 && trouble.check().is_ok());
        for place in places {
            shelf.free(place);
        }
        // The file is empty again.
        let place = shelf.put(bytes(0, 0));
        assert_eq!(parts(place).map(|(_, offset, _)| offset), Some(0));
    }
}
