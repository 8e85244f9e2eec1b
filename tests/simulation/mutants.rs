//! Each step of the engine that a promise rests on is left out in turn, and must be missed.

use std::collections::BTreeSet;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;

use backhaul_journal::simulation::Choices;
use backhaul_journal::{FileSystem, steps};

use super::life::live;
use super::scripts::{Bounds, scripts};
use super::trials::{Quiet, figure, in_parallel};

const STEPS: &[&str] = &[
    "commit of a list",
    "comparison with the claim",
    "comparison with the intent",
    "directory sync above a directory that is there",
    "directory sync above a new directory",
    "directory sync after a given-up part is removed",
    "directory sync after a recovered rename",
    "directory sync after a spooled body got its name",
    "directory sync after secrets got their name",
    "directory sync after the renames",
    "directory sync where a part is gone already",
    "directory sync before a part's first claim",
    "directory sync before an end",
    "removal of secrets that nobody needs",
    "removal of spooled bodies that nobody needs",
    "sync of a claim",
    "sync of a complete file before its intent",
    "sync of a creation",
    "sync of a restart before its part goes",
    "sync of a spooled body",
    "sync of a wish or of a failure",
    "sync of secrets before their name",
    "sync of the data before a claim",
    "sync of the ends",
    "sync of the intents before the renames",
    "sync of the state directory at the start",
];

/// A step of the journal that it takes because the engine says that it is due.
const STEP_OF_THE_JOURNAL: &str = "sync of the directory above a new one above a journal";

/// Steps that only a second thread can miss; see `tests/races.rs`.
const STEPS_OF_RACES: &[&str] = &["sync of the intent to end", "watermark before the sync of the data"];

/// What misses a step, cheapest first.
const TRIALS: &[(&str, fn())] = &[
    ("some random lives", || lives(0..150)),
    ("scripts", crash_scripts),
    ("random lives", || lives(150..8_000)),
];

fn crash_scripts() {
    let bounds = Bounds {
        drawn: 3,
        recoveries: 20,
    };
    for script in scripts() {
        let run = script.run(FileSystem::Other);
        for moment in 0..run.moments() {
            run.crash_at(moment, bounds);
        }
    }
}

fn lives(seeds: Range<u64>) {
    for seed in seeds {
        live(&mut Choices::seeded(seed));
    }
}

/// The first trial that misses something.
fn first_to_miss() -> Option<&'static str> {
    let missed = TRIALS.iter().find(|(_, trial)| {
        let _quiet = Quiet::begin();
        catch_unwind(AssertUnwindSafe(trial)).is_err()
    });
    missed.map(|(name, _)| *name)
}

#[test]
fn every_step_that_is_left_out_is_missed() {
    let missed = Mutex::new(Vec::new());
    let all: Vec<&'static str> = STEPS.iter().copied().chain([STEP_OF_THE_JOURNAL]).collect();
    in_parallel(&all, |step| {
        let by = steps::without(step, first_to_miss);
        missed.lock().unwrap().push((*step, by));
    });
    let missed = missed.into_inner().unwrap();
    let unseen: Vec<_> = missed.iter().filter(|(_, by)| by.is_none()).collect();
    assert!(unseen.is_empty(), "nobody missed {unseen:?}");
    figure(&format!(
        "of {} steps of the engine that were left out, all were missed",
        all.len()
    ));
}

#[test]
fn the_list_of_steps_is_that_of_the_sources() {
    let mut found = BTreeSet::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for directory in [root.clone(), root.join("engine")] {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let text = std::fs::read_to_string(&path).unwrap();
                let names = text
                    .split("is_taken(\"")
                    .skip(1)
                    .filter_map(|rest| rest.split('"').next());
                found.extend(names.map(str::to_owned));
            }
        }
    }
    let listed = STEPS.iter().chain(STEPS_OF_RACES);
    let listed: BTreeSet<String> = listed.map(|step| (*step).to_owned()).collect();
    assert_eq!(found, listed);
}
