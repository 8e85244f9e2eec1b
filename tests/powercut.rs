//! Real power cuts: real downloads from a real nginx onto a real file system, which is shut down without its log being
//! flushed, mounted again, and gone on with. `tests/powercut` runs many of them.

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use support::crashes::Crashes;
use support::loop_disk::alone;
use support::strace::injecting;
use support::{figure, left_out, number_from};

/// Cuts of each file system, where nobody says how many.
const CUTS: u64 = 6;
/// Cuts of a control, which ends with the first that loses something where nobody says how many.
const CONTROL_CUTS_MAX: u64 = 100;
/// A hint that the kernel may ignore at any time; what it has begun to write hides syncs that are missing.
const HINT: &str = "?sync_file_range";
const ALL_SYNCS: &str = "?fsync,?fdatasync,?sync_file_range";
/// Those of the files that are published, and of their names; the journal's own, but for the first, are others.
const SYNCS_OF_FILES: &str = "?fsync,?sync_file_range";

#[test]
fn ext4_keeps_what_was_acknowledged_through_power_cuts() {
    alone("ext4_keeps_what_was_acknowledged_through_power_cuts", || keeps("ext4"));
}

#[test]
fn xfs_keeps_what_was_acknowledged_through_power_cuts() {
    alone("xfs_keeps_what_was_acknowledged_through_power_cuts", || keeps("xfs"));
}

// The controls: cuts that lose nothing even without syncs would prove nothing with them.

#[test]
fn ext4_loses_acknowledged_work_without_syncs() {
    let name = "ext4_loses_acknowledged_work_without_syncs";
    alone(name, || loses("ext4", ALL_SYNCS));
}

#[test]
fn xfs_loses_acknowledged_work_without_syncs() {
    alone("xfs_loses_acknowledged_work_without_syncs", || loses("xfs", ALL_SYNCS));
}

#[test]
fn ext4_loses_acknowledged_work_without_syncs_of_files() {
    let name = "ext4_loses_acknowledged_work_without_syncs_of_files";
    alone(name, || loses("ext4", SYNCS_OF_FILES));
}

#[test]
fn xfs_loses_acknowledged_work_without_syncs_of_files() {
    let name = "xfs_loses_acknowledged_work_without_syncs_of_files";
    alone(name, || loses("xfs", SYNCS_OF_FILES));
}

fn keeps(kind: &'static str) {
    let without_hint = injecting(HINT, "retval=0", Path::new("/dev/null"));
    let mut crashes = match Crashes::by_power_cut(kind, vec![Vec::new(), without_hint]) {
        Ok(crashes) => crashes,
        Err(why) => return left_out(&format!("no {kind} can be mounted from a file here: {why}")),
    };
    let cuts_max = number_from("BACKHAUL_CUTS").unwrap_or(CUTS);
    let started = Instant::now();
    crashes.lose_nothing(cuts_max);
    let counts = &crashes.counts;
    figure(&format!(
        "power cuts of {kind}: {cuts_max} in {} s (seed {}); {} operations and {} ends acknowledged before a cut, none \
         lost; big files continued {} times, {} KiB of them fetched again a cut, at most 16384",
        started.elapsed().as_secs(),
        crashes.seed,
        counts.accepted,
        counts.ends,
        counts.continued,
        (counts.fetched_again >> 10) / cuts_max.max(1),
    ));
}

fn loses(kind: &'static str, syncs: &str) {
    let starter = injecting(syncs, "retval=0", Path::new("/dev/null"));
    let mut crashes = match Crashes::by_power_cut(kind, vec![starter]) {
        Ok(crashes) => crashes,
        Err(why) => return left_out(&format!("no {kind} can be mounted from a file here: {why}")),
    };
    let wanted = number_from("BACKHAUL_CUTS");
    let (mut cuts, mut with_loss, mut kinds) = (0, 0, BTreeMap::<&str, u64>::new());
    while cuts < wanted.unwrap_or(CONTROL_CUTS_MAX) && (wanted.is_some() || with_loss == 0) {
        let losses = crashes.crash();
        cuts += 1;
        let lost: BTreeSet<&str> = losses.iter().map(|loss| loss.kind).collect();
        for kind in &lost {
            *kinds.entry(kind).or_default() += 1;
        }
        if !lost.is_empty() {
            with_loss += 1;
            crashes.begin();
        }
    }
    figure(&format!(
        "control, power cuts of {kind} without {}: {with_loss} of {cuts} lost something (seed {}): {kinds:?}",
        syncs.replace('?', ""),
        crashes.seed
    ));
    let moment = crashes.moment();
    assert!(
        with_loss > 0,
        "{moment} --control: nothing was lost, so this proves nothing"
    );
}
