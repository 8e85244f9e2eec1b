//! Content that tells where it came from: every block of 16 bytes says of which version it is and where it belongs.

use std::fmt::Write as _;

pub(crate) const BLOCK_BYTES: usize = 16;

/// The bytes of a version.
pub(crate) fn content(seed: u64, number: usize, bytes: usize) -> Vec<u8> {
    let tag = tag(seed, number).to_le_bytes();
    let mut content = Vec::with_capacity(bytes + BLOCK_BYTES);
    for index in 0..bytes.div_ceil(BLOCK_BYTES) as u64 {
        content.extend_from_slice(&tag);
        content.extend_from_slice(&index.to_le_bytes());
    }
    content.truncate(bytes);
    content
}

fn tag(seed: u64, number: usize) -> u64 {
    let mixed = (seed ^ ((number as u64) << 56) ^ 0x5eed_5eed).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

/// Says of which version, and of which blocks of it, a file is made; at most the first few runs of blocks.
pub(crate) fn origin(file: &[u8], seed: u64, versions: usize) -> String {
    const RUNS_MAX: usize = 8;
    let mut text = format!("{} bytes:", file.len());
    let mut runs = 0;
    let mut expected = None;
    for (place, block) in file.chunks(BLOCK_BYTES).enumerate() {
        let found = block_of(block, seed, versions);
        if found.is_none() || found != expected {
            runs += 1;
            if runs > RUNS_MAX {
                return text + " …";
            }
            let _ = match found {
                Some((number, index)) => write!(text, " from block {place}: version {number}, its block {index} on;"),
                None => write!(text, " block {place}: of no version, or cut;"),
            };
        }
        expected = found.map(|(number, index)| (number, index + 1));
    }
    text
}

fn block_of(block: &[u8], seed: u64, versions: usize) -> Option<(usize, u64)> {
    let (first, second) = (block.get(..8)?, block.get(8..16)?);
    let number = (0..versions).find(|number| tag(seed, *number).to_le_bytes() == first)?;
    Some((number, u64::from_le_bytes(second.try_into().ok()?)))
}

#[test]
fn a_spliced_file_tells_where_it_was_spliced() {
    let mut file = content(7, 0, 64);
    file.truncate(32);
    file.extend_from_slice(&content(7, 1, 64)[32..]);
    assert_eq!(
        origin(&file, 7, 2),
        "64 bytes: from block 0: version 0, its block 0 on; from block 2: version 1, its block 2 on;"
    );
}
