//! What queued operations take of memory, by an allocator that counts. One test, so that nobody else allocates meanwhile.

#[path = "support/held.rs"]
mod held;

use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use backhaul::{Config, Engine, Environment, NewDownload};
use backhaul_backends::MemoryBackend;

use held::{Counting, HELD_BYTES};

/// Just below what doubles the table of ids: the count at which each operation's share is neither flattered nor spoilt.
const QUEUED: usize = 50_000;
/// What one queued operation may take of the heap, indexes and all, with a URL of 60 bytes and a destination of 60: 64 MiB
/// hold 100,000 of them, with a third to spare for the rest of the process and for what an allocator wastes.
const BYTES_EACH_MAX: usize = 420;

#[global_allocator]
static COUNTING: Counting = Counting;

/// Most that is in memory of one whose bytes stand in a file, because memory is limited: what the limit counts for each.
const BYTES_EACH_OUTSIDE_MAX: usize = 45;
/// Enough for so many beside eight jobs.
const LIMIT: u64 = 12 << 20;
const QUEUED_WITHIN_LIMIT: usize = 100_000;

fn open(state: &Path, memory_limit: Option<u64>) -> Engine {
    let backend = Arc::new(MemoryBackend::new());
    let config = Config {
        memory_limit,
        jobs_max: 8,
        ..Config::default()
    };
    Engine::open(state, config, Environment::system(), vec![backend]).expect("it opens")
}

/// Creates downloads with these numbers.
fn create(engine: &Engine, data: &Path, numbers: Range<usize>) {
    let digits = 60 - data.as_os_str().len().min(50);
    for first in numbers.clone().step_by(5_000) {
        let download = |number: usize| NewDownload {
            url: format!("mem://host.example.org/some/directory/{number:021}"),
            destination: data.join(format!("{number:0digits$}")),
            app: "some.app".into(),
            ..NewDownload::default()
        };
        let list: Vec<NewDownload> = (first..numbers.end.min(first + 5_000)).map(download).collect();
        engine.create(&list).expect("all are created");
    }
}

fn held_bytes() -> usize {
    HELD_BYTES.load(Ordering::Relaxed)
}

#[test]
fn a_queued_operation_costs_a_few_hundred_bytes_and_few_where_memory_is_limited_also_after_a_restart() {
    let home = tempfile::tempdir().expect("a directory");
    let data = home.path().join("data");
    std::fs::create_dir(&data).expect("a directory");
    for (name, limit, queued, each_max) in [
        ("free", None, QUEUED, BYTES_EACH_MAX),
        ("limited", Some(LIMIT), QUEUED_WITHIN_LIMIT, BYTES_EACH_OUTSIDE_MAX),
    ] {
        let state = home.path().join(name);
        let engine = open(&state, limit);
        // The first ones stay in memory in any case.
        let kept = limit.map_or(0, |_| queued / 2);
        create(&engine, &data, 0..kept);
        let before = held_bytes();
        create(&engine, &data, kept..queued);
        let created = (held_bytes() - before) / (queued - kept);
        engine.close().expect("it closes");
        let before = held_bytes();
        let engine = open(&state, limit);
        // Those that stay in memory are a fixed share of the limit, however many there are.
        let share = limit.map_or(0, |limit| usize::try_from(limit / 32).expect("a small number"));
        let opened = (held_bytes() - before).saturating_sub(share) / queued;
        drop(engine);
        let _ = writeln!(
            std::io::stderr(),
            "figure: a queued operation holds {created} bytes of heap, and {opened} after a restart ({name} memory)"
        );
        assert!(created <= each_max && opened <= each_max, "{created} and {opened}");
    }
}
