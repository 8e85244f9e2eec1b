//! A hostile HTTP server of our own: whatever it answers, whatever the resource becomes meanwhile and whenever the client
//! is killed, what gets its final name is one version of the resource, whole.
//!
//! `BACKHAUL_SPLICES` says how many runs are drawn, and `BACKHAUL_TEST_SEED` with which seed they begin.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod answer;
mod client;
mod draw;
#[expect(dead_code, reason = "each test program uses its own part of this module")]
#[path = "../support/hostile/mod.rs"]
mod lives;
mod reply;
mod resource;
mod rows;
mod server;
mod splices;
#[expect(dead_code, reason = "each test program uses its own part of this module")]
#[path = "../../journal/tests/support/trials.rs"]
mod trials;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use trials::{Repeat, figure, number_from};

/// Runs where the environment does not say otherwise.
const RUNS: u64 = 1_000;
/// They wait for disks and processes more than they compute.
const THREADS: usize = 8;

#[test]
fn never_splice_whatever_a_hostile_server_does_and_whenever_its_client_is_killed() {
    let first = trials::seed();
    let end = first + number_from("BACKHAUL_SPLICES").unwrap_or(RUNS);
    let (next, totals) = (AtomicU64::new(first), Mutex::new(splices::Totals::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            let _repeat = Repeat(format!(
                "repeat with: BACKHAUL_TEST_SEED={seed} BACKHAUL_SPLICES=1 cargo test --test hostile -- a_hostile_server"
            ));
            let (record, kills, view) = splices::run(seed);
            totals.lock().unwrap().add(&record, kills, &view);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(work);
        }
    });
    let totals = totals.into_inner().unwrap();
    let errors: Vec<String> = totals
        .errors
        .iter()
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    figure(&format!(
        "{} runs against a hostile server from seed {first} on, none spliced: {} kills, {} requests, {} parts, {} \
         of them between others, {} restarts; {} completed",
        totals.runs, totals.kills, totals.requests, totals.parts, totals.pieces, totals.restarts, totals.completed,
    ));
    figure(&format!("their errors: {}", errors.join(", ")));
}
