//! Replays the seeds of those fuzz targets that need nothing but the journal. `tests/fuzz_corpus.rs` of the root package
//! replays all, and sees that none is forgotten.
//!
//! A program of its own, because it counts what every thread takes from the allocator.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod counting;
#[path = "../../fuzz/src/targets/directory.rs"]
mod directory;
#[path = "../../fuzz/src/targets/forge.rs"]
mod forge;
#[path = "../../fuzz/src/targets/journal.rs"]
mod journal;
#[path = "power_cut/life.rs"]
mod life;
#[path = "power_cut/model.rs"]
#[expect(dead_code, reason = "the tests of power cuts ask it for more")]
mod model;
#[path = "../../fuzz/src/targets/naive.rs"]
mod naive;
#[path = "../../fuzz/src/targets/ops_crash.rs"]
mod ops_crash;

use std::fs;
use std::path::Path;

use counting::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs a target with each of its seeds.
fn replay(name: &str, run: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(name);
    let seeds: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(!seeds.is_empty(), "{name} has no seeds");
    for seed in seeds {
        run(&fs::read(seed).unwrap());
    }
}

#[test]
fn what_the_fuzzers_found_worth_keeping_keeps_the_promises() {
    replay("segment_raw", journal::segment_raw);
    replay("segment_fixup", journal::segment_fixup);
    replay("open_dir", journal::open_dir);
    replay("snapshot", journal::snapshot);
    replay("differential", journal::differential);
    replay("salvage", journal::salvage);
    replay("ops_crash", ops_crash::ops_crash);
}
