//! CRC-32 with a start value that binds a frame to its file.

#![forbid(unsafe_code)]

use crc32fast::Hasher;

/// CRC-32 of `bytes`, going on from `seed`.
pub(crate) fn crc(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// The start value of every checksum in a segment.
///
/// For one message, different start values give different checksums, so a frame of another segment of the same journal
/// never verifies here.
pub(crate) fn segment_seed(journal_id: &[u8; 16], segment_seq: u64) -> u32 {
    crc(crc(0, journal_id), &segment_seq.to_le_bytes())
}

/// The start value of every checksum in one part of a snapshot.
pub(crate) fn snapshot_seed(journal_id: &[u8; 16], lsn: u64, part: u32) -> u32 {
    crc(crc(crc(0, journal_id), &lsn.to_le_bytes()), &part.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_common_crc_32() {
        assert_eq!(crc(0, b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn neighbouring_segments_have_different_seeds() {
        let id = [7; 16];
        assert_ne!(segment_seed(&id, 1), segment_seed(&id, 2));
        assert_ne!(snapshot_seed(&id, 1, 0), snapshot_seed(&id, 1, 1));
    }
}
