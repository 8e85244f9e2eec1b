//! Where the bytes of packed operations stand: in memory, or wherever whoever gives a table its shelf puts them. Pure.

use std::borrow::Cow;
use std::fmt;

/// Keeps bytes by places that it gives out. What is put on it need not survive the process: the journal tells it again.
pub(crate) trait Shelf: fmt::Debug + Send {
    /// Takes bytes in. It always can: what has no room elsewhere stays in memory.
    fn put(&mut self, bytes: &[u8]) -> Place;

    /// What was put at a place. `None` where it cannot be read any more: whoever made the shelf has been told, and lets
    /// nothing be recorded from then on.
    fn get(&self, place: Place) -> Option<Cow<'_, [u8]>>;

    /// Nobody asks for a place again.
    fn free(&mut self, place: Place);

    /// Begins to leave what is mostly garbage behind, where it is time for that: from now on some places are stale, until
    /// [`Shelf::end_move`].
    fn begin_move(&mut self) -> bool {
        false
    }

    /// Whether the bytes of a place are to be put anew. The place then need not be freed.
    fn is_stale(&self, _place: Place) -> bool {
        false
    }

    /// No stale place is left.
    fn end_move(&mut self) {}
}

/// Where bytes stand on a shelf; what the number means the shelf knows. The largest number is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(pub(crate) u32);

/// Pieces of one list that are allocated together: one that doubles would leave half of its room empty.
const CHUNK: usize = 512;

/// A shelf in memory.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    chunks: Vec<Vec<Box<[u8]>>>,
    /// Numbers to be given out again.
    free: Vec<u32>,
    held: usize,
}

/// So many things at once no memory holds.
const NUMBERS_MAX: usize = 1 << 30;

impl Shelf for Memory {
    fn put(&mut self, bytes: &[u8]) -> Place {
        self.held += 1;
        if let Some(number) = self.free.pop()
            && let Some(room) = self.room(number)
        {
            *room = bytes.into();
            return Place(number);
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            // The first one is for tables of a few.
            let room = if self.chunks.is_empty() { 0 } else { CHUNK };
            self.chunks.push(Vec::with_capacity(room));
        }
        let full = (self.chunks.len() - 1) * CHUNK;
        let Some(last) = self.chunks.last_mut() else {
            unreachable!("one was put in above")
        };
        last.push(bytes.into());
        match u32::try_from(full + last.len() - 1) {
            Ok(number) if full < NUMBERS_MAX => Place(number),
            _ => unreachable!("their bytes alone fill the memory of any machine"),
        }
    }

    fn get(&self, place: Place) -> Option<Cow<'_, [u8]>> {
        let number = usize::try_from(place.0).ok()?;
        let bytes = self.chunks.get(number / CHUNK)?.get(number % CHUNK)?;
        Some(Cow::Borrowed(bytes))
    }

    fn free(&mut self, place: Place) {
        let Some(room) = self.room(place.0) else { return };
        *room = Box::default();
        self.held -= 1;
        if self.held == 0 {
            *self = Self::default();
        } else {
            self.free.push(place.0);
        }
    }
}

impl Memory {
    fn room(&mut self, number: u32) -> Option<&mut Box<[u8]>> {
        let number = usize::try_from(number).ok()?;
        self.chunks.get_mut(number / CHUNK)?.get_mut(number % CHUNK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_memory_is_there_until_it_is_freed_and_its_room_is_used_again() {
        let mut shelf = Memory::default();
        let bytes = |number: usize| vec![u8::try_from(number % 251).unwrap_or_default(); number % 40];
        let places: Vec<Place> = (0..3 * CHUNK).map(|number| shelf.put(&bytes(number))).collect();
        for place in places.iter().skip(1).step_by(2) {
            shelf.free(*place);
        }
        let again: Vec<Place> = (0..CHUNK).map(|number| shelf.put(&bytes(number + 7))).collect();
        assert_eq!(shelf.chunks.len(), 3);
        for (number, place) in again.iter().enumerate() {
            assert_eq!(shelf.get(*place).as_deref(), Some(&*bytes(number + 7)));
        }
        for (number, place) in places.iter().enumerate().step_by(2) {
            assert_eq!(shelf.get(*place).as_deref(), Some(&*bytes(number)));
            shelf.free(*place);
        }
        for place in again {
            shelf.free(place);
        }
        assert!(shelf.chunks.is_empty() && shelf.free.is_empty());
    }
}
