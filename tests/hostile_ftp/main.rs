//! A hostile FTP server of our own: whatever it answers, whatever the file becomes meanwhile and however the lives of its
//! client end, what gets its final name is one version of the file, whole.
//!
//! `BACKHAUL_SPLICES` says how many runs are drawn, and `BACKHAUL_TEST_SEED` with which seed they begin.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod channel;
mod client;
mod draw;
#[expect(dead_code, reason = "each test program uses its own part of this module")]
#[path = "../support/hostile/mod.rs"]
mod lives;
mod refused;
mod resource;
mod rows;
mod script;
mod server;
mod splices;
mod talk;
mod transfer;
#[expect(dead_code, reason = "each test program uses its own part of this module")]
#[path = "../../journal/tests/support/trials.rs"]
mod trials;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use splices::Totals;
use trials::{Repeat, figure, number_from};

/// Runs where the environment does not say otherwise.
const RUNS: u64 = 1_000;
/// They wait for silences, disks and processes more than they compute.
const THREADS: usize = 16;
/// So many runs meet every fault and every outcome.
const RUNS_OF_ALL: u64 = 1_000;
/// More than a whole program of clients takes, and far less than answers without end would.
const RESIDENT_KIB_MAX: u64 = 512 * 1024;

#[test]
fn never_splice_whatever_a_hostile_ftp_server_does_and_however_its_clients_end() {
    let first = trials::seed();
    let end = first + number_from("BACKHAUL_SPLICES").unwrap_or(RUNS);
    let (next, totals) = (AtomicU64::new(first), Mutex::new(Totals::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            let _repeat = Repeat(format!(
                "repeat with: BACKHAUL_TEST_SEED={seed} BACKHAUL_SPLICES=1 cargo test --test hostile_ftp -- a_hostile_ftp_server"
            ));
            let outcome = splices::run(seed);
            totals.lock().unwrap().add(&outcome);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(work);
        }
    });
    let totals = totals.into_inner().unwrap();
    report(&totals, first);
    let resident = most_resident_kib();
    assert!(resident < RESIDENT_KIB_MAX, "{resident} KiB of memory were taken");
    if totals.runs >= RUNS_OF_ALL {
        expect_all(&totals);
    }
}

fn report(totals: &Totals, first: u64) {
    let listed = |counts: Vec<(String, u64)>| {
        let texts: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
        texts.join(", ")
    };
    let endings = totals.endings.iter().map(|(name, count)| ((*name).to_owned(), *count));
    figure(&format!(
        "{} runs against a hostile FTP server from seed {first} on, none spliced: {} lives ended ({}), {} sessions, {} \
         commands, {} refused, {} transfers from an offset, {} restarts; {} completed",
        totals.runs,
        totals.endings.values().sum::<u64>(),
        listed(endings.collect()),
        totals.sessions,
        totals.commands,
        totals.refused,
        totals.rests,
        totals.restarts,
        totals.completed,
    ));
    let errors = totals.errors.iter().map(|(name, count)| (name.clone(), *count));
    figure(&format!("their errors: {}", listed(errors.collect())));
    figure(&format!(
        "{} faults of {} kinds; the longest answer was given up after {} bytes",
        totals.faults.values().sum::<u64>(),
        totals.faults.len(),
        totals.longest_answer,
    ));
}

/// Runs in which something never happened would not have tested it.
fn expect_all(totals: &Totals) {
    let missing: Vec<&&str> = script::FAULTS
        .iter()
        .filter(|fault| !totals.faults.contains_key(**fault))
        .collect();
    assert!(missing.is_empty(), "no run met these faults: {missing:?}");
    let unlisted: Vec<&&str> = totals
        .faults
        .keys()
        .filter(|fault| !script::FAULTS.contains(*fault))
        .collect();
    assert!(unlisted.is_empty(), "these are no faults of the list: {unlisted:?}");
    for ending in ["killed", "closed", "dropped", "paused"] {
        assert!(totals.endings.contains_key(ending), "no life was {ending}");
    }
    let seen = [totals.completed, totals.rests, totals.restarts, totals.refused];
    assert!(
        seen.iter().all(|count| *count > 0),
        "an outcome was never met: {seen:?}"
    );
    for error in ["LengthMismatch", "DigestMismatch"] {
        assert!(totals.errors.contains_key(error), "no run ended with {error}");
    }
}

/// The most memory that this process ever had, in KiB.
fn most_resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
