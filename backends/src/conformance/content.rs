//! Content that is a function from offset to byte, so that it can be larger than any memory.

use std::ops::Range;

/// Bytes of one word: each is mixed from its place in the content.
const WORD_BYTES: u64 = 8;

/// The content of a resource. Two of another seed differ almost everywhere, and so do two stretches of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Which content it is.
    pub seed: u32,
    /// How long it is, in bytes.
    pub total_bytes: u64,
}

impl Content {
    /// Fills a buffer with what begins at an offset.
    ///
    /// # Panics
    /// Where it reaches beyond the end.
    pub fn fill(&self, offset: u64, buffer: &mut [u8]) {
        let end = offset.checked_add(buffer.len() as u64);
        assert!(
            end.is_some_and(|end| end <= self.total_bytes),
            "{} bytes from {offset} are asked for, {} are there",
            buffer.len(),
            self.total_bytes
        );
        let (mut at, mut filled) = (offset, 0);
        while filled < buffer.len() {
            let word = mixed((at / WORD_BYTES) ^ (u64::from(self.seed) << 40)).to_le_bytes();
            let rest = &word[usize::try_from(at % WORD_BYTES).unwrap_or_default()..];
            let amount = rest.len().min(buffer.len() - filled);
            buffer[filled..filled + amount].copy_from_slice(&rest[..amount]);
            filled += amount;
            at += amount as u64;
        }
    }

    /// The bytes of a range.
    ///
    /// # Panics
    /// As [`Content::fill`], and where the range is larger than memory.
    #[must_use]
    pub fn bytes(&self, range: Range<u64>) -> Vec<u8> {
        let length = usize::try_from(range.end.saturating_sub(range.start)).expect("a range that fits in memory");
        let mut bytes = vec![0; length];
        self.fill(range.start, &mut bytes);
        bytes
    }

    /// Hands on the bytes of a range in order, in pieces of at most 64 KiB; `false` once `take` wants no more.
    pub fn pieces(&self, range: Range<u64>, mut take: impl FnMut(&[u8]) -> bool) -> bool {
        let mut piece = vec![0; 64 * 1024];
        let mut at = range.start;
        while at < range.end {
            let amount = usize::try_from(range.end - at).map_or(piece.len(), |left| left.min(piece.len()));
            self.fill(at, &mut piece[..amount]);
            if !take(&piece[..amount]) {
                return false;
            }
            at += amount as u64;
        }
        true
    }

    /// The first offset at which bytes that begin at `offset` are not the content.
    pub(super) fn first_difference(&self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let inside = self.total_bytes.saturating_sub(offset).min(bytes.len() as u64);
        let right = self.bytes(offset..offset + inside);
        let same = right
            .iter()
            .zip(bytes)
            .take_while(|(right, byte)| right == byte)
            .count();
        (same < bytes.len()).then(|| offset + same as u64)
    }
}

/// Spreads every bit of a number over all of another: the finisher of `SplitMix64`.
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_the_same_however_it_is_cut_and_repeats_neither_across_4_gib_nor_across_seeds() {
        let content = Content {
            seed: 1,
            total_bytes: (5 << 30) + 100,
        };
        let whole = content.bytes(0..100);
        let parts = [content.bytes(0..13), content.bytes(13..16), content.bytes(16..100)];
        assert_eq!(parts.concat(), whole);
        assert_eq!(content.first_difference(0, &whole), None);
        assert_eq!(content.first_difference(1, &whole), Some(1));
        assert_ne!(content.bytes(1 << 32..(1 << 32) + 100), whole);
        assert_ne!(Content { seed: 2, ..content }.bytes(0..100), whole);
        let short = Content {
            total_bytes: 50,
            ..content
        };
        assert_eq!(
            short.first_difference(0, &whole),
            Some(50),
            "what lies beyond the end is wrong"
        );
    }
}
