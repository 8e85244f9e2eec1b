//! Power cuts, kills, failing calls and rot, by the million, on a simulated disk.
//!
//! `BACKHAUL_IMAGES` says how many disks the random lives leave behind, and `BACKHAUL_TEST_SEED` with which seed they
//! begin.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod life;
mod model;
mod mutants;
mod rescue;
mod rot;
mod scripts;
#[path = "../support/trials.rs"]
mod trials;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use backhaul_journal::Preallocate;
use backhaul_journal::simulation::Choices;

use life::{Counts, live};
use rot::{Damage, End, Synced, Tally};
use scripts::{Bounds, SCRIPTS};
use trials::{Quiet, Repeat, figure, in_parallel, number_from};

/// Disks that random lives leave behind where the environment does not say otherwise.
const IMAGES: u64 = 700_000;

#[test]
fn a_power_cut_at_any_moment_of_a_script_loses_nothing_promised() {
    let bounds = Bounds {
        outcomes: 2187,
        drawn: 300,
        recoveries: 8,
    };
    let runs: Vec<_> = SCRIPTS.iter().map(|script| (script, script.run())).collect();
    let moments: Vec<_> = runs
        .iter()
        .flat_map(|(script, run)| (0..run.moments()).map(move |moment| (script, run, moment)))
        .collect();
    let total = Mutex::new((Counts::default(), 0));
    in_parallel(&moments, |(script, run, moment)| {
        let _repeat = Repeat(format!("at moment {moment} of the script '{}'", script.name));
        let (counts, is_all) = run.crash_at(*moment, bounds);
        let mut total = total.lock().unwrap();
        total.0.add(counts);
        total.1 += usize::from(is_all);
    });
    let (counts, exhausted) = total.into_inner().unwrap();
    figure(&format!(
        "power cuts at every moment of {} scripts: {} disks judged, {} of them from a crash inside a recovery; {exhausted} of {} moments in every outcome",
        SCRIPTS.len(),
        counts.images,
        counts.inside_recovery,
        moments.len()
    ));
}

#[test]
fn a_failing_call_loses_nothing_promised() {
    let total = Mutex::new(Counts::default());
    in_parallel(&scripts::failures().collect::<Vec<_>>(), |(script, failure)| {
        let _repeat = Repeat(format!("with {failure:?} in the script '{}'", script.name));
        let counts = script.fail_everywhere(*failure);
        total.lock().unwrap().add(counts);
    });
    let counts = total.into_inner().unwrap();
    figure(&format!("every call failed in 7 ways: {} disks judged", counts.images));
}

#[test]
fn a_random_life_loses_nothing_promised() {
    let seed = trials::seed();
    let wanted = number_from("BACKHAUL_IMAGES").unwrap_or(IMAGES);
    let (images, inside, next) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(seed));
    // One life alone where one is to be repeated.
    in_parallel(&[(); 64][..usize::try_from(wanted.min(64)).unwrap()], |()| {
        while images.load(Ordering::Relaxed) < wanted {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let _repeat = Repeat(format!(
                "repeat with: BACKHAUL_TEST_SEED={seed} BACKHAUL_IMAGES=1 cargo test -p backhaul-journal --test power_cut -- a_random_life"
            ));
            let counts = live(&mut Choices::seeded(seed));
            images.fetch_add(counts.images, Ordering::Relaxed);
            inside.fetch_add(counts.inside_recovery, Ordering::Relaxed);
        }
    });
    figure(&format!(
        "random lives: {} disks judged, {} of them from a crash inside a recovery; {} lives from seed {seed} on",
        images.into_inner(),
        inside.into_inner(),
        next.into_inner() - seed
    ));
}

#[test]
fn a_power_cut_during_a_salvage_leaves_a_whole_copy_or_one_that_is_refused() {
    let images = rescue::crash_during_salvage(2000);
    figure(&format!("power cuts during a salvage: {images} disks judged"));
}

#[test]
fn a_power_cut_during_a_large_checkpoint_leaves_a_whole_snapshot_or_none() {
    let images = rescue::crash_during_large_checkpoint(40);
    figure(&format!("power cuts during a large checkpoint: {images} disks judged"));
}

/// Damages all files of a journal of 64 KiB, whose work is shared by all processors.
fn damage_everywhere(damages: impl Fn(&Synced, &std::path::Path) -> Vec<Damage> + Sync) -> Tally {
    let total = Mutex::new(Tally::default());
    for (preallocate, end) in [(Preallocate::Zero, End::Group), (Preallocate::None, End::Closed)] {
        let synced = Synced::new(64 << 10, 16 << 10, preallocate, end);
        let work: Vec<_> = synced
            .paths()
            .into_iter()
            .flat_map(|path| {
                let damages = damages(&synced, &path);
                let pieces: Vec<_> = damages.chunks(10_000).map(<[Damage]>::to_vec).collect();
                pieces.into_iter().map(move |piece| (path.clone(), piece))
            })
            .collect();
        in_parallel(&work, |(path, damages)| {
            let tally = synced.damage(path, damages.iter().copied());
            assert_eq!(tally.all(), damages.len() as u64);
            total.lock().unwrap().add(tally);
        });
    }
    total.into_inner().unwrap()
}

fn figure_of(what: &str, tally: Tally) {
    let Tally { refused, torn, whole } = tally;
    figure(&format!(
        "{what} of two synced journals of 64 KiB: {refused} refused, {torn} cost records of the last group only, {whole} nothing, 0 lost anything in silence"
    ));
    assert!(refused > 0 && torn > 0 && whole > 0);
}

#[test]
fn every_flipped_bit_is_refused_or_harmless_or_in_the_last_group() {
    let tally = damage_everywhere(|synced, path| {
        // Of the second journal one bit in each byte, to save time.
        let bits = 0..synced.len(path) * 8;
        let step = if synced.is_closed { 9 } else { 1 };
        bits.step_by(step).map(Damage::Flip).collect()
    });
    figure_of("every flipped bit", tally);
}

#[test]
fn a_cut_at_every_byte_is_refused_or_harmless_or_in_the_last_group() {
    let tally = damage_everywhere(|synced, path| (0..synced.len(path)).map(Damage::Cut).collect());
    figure_of("a cut at every byte", tally);
}

#[test]
fn every_lost_garbled_or_misdirected_sector_is_refused_or_harmless_or_in_the_last_group() {
    let tally = damage_everywhere(Synced::sector_damages);
    figure_of("every zeroed, garbled or duplicated sector", tally);
}
