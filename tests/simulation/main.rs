//! The whole engine on a simulated disk: power cuts, kills and failing calls at every moment, each followed by a
//! recovery, a comparison with all that was promised, and a run to the end.
//!
//! `BACKHAUL_LIVES` says how many disks the random lives leave behind, and `BACKHAUL_TEST_SEED` with which seed they
//! begin.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod guard;
mod life;
mod model;
mod mutants;
mod rot;
mod scripts;
#[path = "../../journal/tests/support/trials.rs"]
mod trials;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use backhaul_journal::FileSystem;
use backhaul_journal::simulation::Choices;

use life::live;
use scripts::{Bounds, scripts};
use trials::{Repeat, figure, in_parallel, number_from};
use world::BREAKS;

/// Disks that random lives leave behind where the environment does not say otherwise.
const IMAGES: u64 = 60_000;

#[test]
fn a_crash_at_any_moment_of_a_script_loses_nothing_promised_and_publishes_nothing_wrong() {
    let bounds = Bounds {
        drawn: 12,
        recoveries: 9,
    };
    let scripts = scripts();
    let file_systems = [FileSystem::Other, FileSystem::Ext4];
    let both = scripts
        .iter()
        .flat_map(|script| file_systems.map(|file_system| (script, script.run(file_system))));
    let runs: Vec<_> = both.collect();
    let moments: Vec<_> = runs
        .iter()
        .flat_map(|(script, run)| (0..run.moments()).map(move |moment| (script, run, moment)))
        .collect();
    let images = AtomicU64::new(0);
    in_parallel(&moments, |(script, run, moment)| {
        let _repeat = Repeat(format!("at moment {moment} of the script '{}'", script.name));
        images.fetch_add(run.crash_at(*moment, bounds), Ordering::Relaxed);
    });
    figure(&format!(
        "the engine crashed at all {} moments of {} scripts: {} disks judged",
        moments.len(),
        scripts.len(),
        images.into_inner()
    ));
}

#[test]
fn a_failing_call_loses_nothing_promised_and_publishes_nothing_wrong() {
    let scripts = scripts();
    let all: Vec<_> = scripts
        .iter()
        .flat_map(|script| BREAKS.map(|how| (script, how)))
        .collect();
    let images = AtomicU64::new(0);
    in_parallel(&all, |(script, how)| {
        let _repeat = Repeat(format!("with {how:?} in the script '{}'", script.name));
        images.fetch_add(script.fail_everywhere(*how), Ordering::Relaxed);
    });
    figure(&format!(
        "every call of the engine failed in {} ways: {} disks judged",
        BREAKS.len(),
        images.into_inner()
    ));
}

#[test]
fn damage_to_what_the_disk_holds_of_a_transfer_is_never_published_as_complete() {
    let count = rot::damage_everything();
    figure(&format!(
        "every flipped bit, every cut, every zeroed or duplicated sector of claimed bytes and complete files: {count} \
         damages, none published"
    ));
}

#[test]
fn a_random_life_loses_nothing_promised_and_publishes_nothing_wrong() {
    let seed = trials::seed();
    let wanted = number_from("BACKHAUL_LIVES").unwrap_or(IMAGES);
    let (images, next) = (AtomicU64::new(0), AtomicU64::new(seed));
    // One life alone where one is to be repeated.
    in_parallel(&[(); 64][..usize::try_from(wanted.min(64)).unwrap()], |()| {
        while images.load(Ordering::Relaxed) < wanted {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let _repeat = Repeat(format!(
                "repeat with: BACKHAUL_TEST_SEED={seed} BACKHAUL_LIVES=1 cargo test --test simulation -- a_random_life"
            ));
            images.fetch_add(live(&mut Choices::seeded(seed)), Ordering::Relaxed);
        }
    });
    figure(&format!(
        "random lives of the engine: {} disks judged; {} lives from seed {seed} on",
        images.into_inner(),
        next.into_inner() - seed
    ));
}
