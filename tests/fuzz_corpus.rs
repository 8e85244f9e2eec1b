//! Replays what the fuzz targets keep in `fuzz/seeds`, each file through its target, and sees that every target is listed,
//! built and has seeds. `tests/fuzz` goes on from the same seeds.
//!
//! A program of its own, because it counts what every thread takes from the allocator.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../fuzz/src/targets/mod.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use targets::counting::{Counting, measure};

macro_rules! list {
    ($($module:ident::$name:ident,)*) => {
        /// Every target: its module, its name, and what it does with bytes.
        const TARGETS: &[(&str, &str, fn(&[u8]))] =
            &[$((stringify!($module), stringify!($name), targets::$module::$name)),*];
    };
}
targets::for_each_target!(list);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most bytes of heap that reading an input holds at once.
const HELD_BYTES_MAX: usize = 1024 * 1024;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// Names in a directory, without their extensions.
fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    entries.map(|entry| stem(entry.unwrap().path())).collect()
}

/// Says which input broke a promise.
struct Repeat(PathBuf);

impl Drop for Repeat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "with the input {}", self.0.display());
        }
    }
}

#[test]
fn every_seed_of_every_target_keeps_the_promises() {
    let mut count = 0;
    for (module, name, run) in TARGETS {
        let directory = fuzz().join("seeds").join(name);
        for seed in names(&directory) {
            let repeat = Repeat(directory.join(seed));
            let bytes = fs::read(&repeat.0).unwrap();
            let ((), _, most) = measure(|| run(&bytes));
            // Those of the journal have whole disks in memory, and measure what a reader holds beside them.
            let is_bounded = ["journal", "ops_crash", "engine_crash"].contains(module) || most <= HELD_BYTES_MAX;
            assert!(is_bounded, "{most} bytes of heap are held for {} bytes", bytes.len());
            count += 1;
        }
    }
    let _ = writeln!(
        std::io::stderr(),
        "figure: fuzz seeds: {count} of {} targets replayed",
        TARGETS.len()
    );
}

#[test]
fn a_long_hostile_segment_is_read_in_linear_time_and_little_memory() {
    let seed = fs::read(fuzz().join("seeds/segment_raw/headers_without_bodies")).unwrap();
    let (header, frames) = seed.split_at(64);
    // The target counts what is read and held of it.
    for len in [64 << 10, 256 << 10, 1 << 20] {
        let bytes = [header, &frames.repeat(len / frames.len())].concat();
        targets::journal::segment_raw(&bytes);
    }
}

#[test]
fn every_target_is_listed_and_built_and_has_seeds() {
    let listed: BTreeSet<String> = TARGETS.iter().map(|(_, name, _)| (*name).to_owned()).collect();
    assert_eq!(
        names(&fuzz().join("fuzz_targets")),
        listed,
        "fuzz_targets and the list are not the same"
    );
    assert_eq!(
        names(&fuzz().join("seeds")),
        listed,
        "seeds and the list are not the same"
    );
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in &listed {
        assert!(
            manifest.contains(&format!("name = \"{name}\"")),
            "fuzz/Cargo.toml does not build {name}"
        );
        let source = fs::read_to_string(fuzz().join("fuzz_targets").join(format!("{name}.rs"))).unwrap();
        assert!(
            source.contains(&format!("backhaul_fuzz::{name}(bytes)")),
            "the program {name} runs another target"
        );
        let seeds = names(&fuzz().join("seeds").join(name));
        assert!(!seeds.is_empty(), "the target {name} has no seeds");
    }
}
