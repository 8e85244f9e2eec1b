//! Each step that durability rests on is left out in turn, and must be missed.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;

use backhaul_journal::simulation::Choices;
use backhaul_journal::{Preallocate, steps};

use crate::life::{Failure, live};
use crate::rot::{Damage, End, Synced};
use crate::scripts::{Bounds, SCRIPTS, failures};
use crate::{figure, in_parallel, rescue};

const STEPS: &[&str] = &[
    "check of a frame's LSN",
    "copy of the unproven tail",
    "directory sync after a salvage",
    "directory sync after a segment got its name",
    "directory sync after a snapshot got its name",
    "directory sync before a process names its first segment",
    "directory sync before the first part got its name",
    "lock",
    "poisoning",
    "proof by a durable LSN only",
    "proof by a later frame",
    "proof by a later segment",
    "proof by a snapshot",
    "removal of leftovers",
    "sync of a close",
    "sync of a group",
    "sync of a segment before its name",
    "sync of a snapshot's part",
    "sync of the directory above a new journal",
    "sync of the directory above a new one above a journal",
    "sync of the directory above a salvage's copy",
    "sync of the log before a snapshot's end",
];

/// What misses a step, cheapest first.
const TRIALS: &[(&str, fn())] = &[
    ("two writers", rescue::open_twice),
    ("salvage", || _ = rescue::crash_during_salvage(20)),
    ("scripts", scripts),
    ("failing calls", failing_calls),
    ("rot", rot),
    ("random lives", lives),
    ("large snapshots", || _ = rescue::crash_during_large_checkpoint(40)),
];

fn scripts() {
    let bounds = Bounds {
        outcomes: 60,
        drawn: 20,
        recoveries: 20,
    };
    for script in SCRIPTS {
        let run = script.run();
        for moment in 0..run.moments() {
            run.crash_at(moment, bounds);
        }
    }
}

fn failing_calls() {
    let of_interest = |failure| matches!(failure, Failure::Io | Failure::SyncLoses | Failure::ShortThenFull);
    for (script, failure) in failures().filter(|(_, failure)| of_interest(*failure)) {
        script.fail_everywhere(failure);
    }
}

fn rot() {
    for end in [End::Group, End::Snapshot, End::Closed] {
        let synced = Synced::new(10 << 10, 4096, Preallocate::None, end);
        for path in synced.paths() {
            synced.damage(&path, synced.sector_damages(&path).into_iter());
            let len = synced.len(&path);
            synced.damage(&path, (0..len).map(Damage::Cut));
            synced.damage(&path, (0..len).map(|byte| Damage::Flip(byte * 8 + byte % 8)));
        }
        if end == End::Group {
            synced.damage_before_an_empty_segment();
        }
    }
}

fn lives() {
    for seed in 0..500 {
        live(&mut Choices::seeded(seed));
    }
}

/// The first trial that misses something.
fn first_to_miss() -> Option<&'static str> {
    let missed = TRIALS.iter().find(|(_, trial)| {
        let _quiet = crate::Quiet::begin();
        catch_unwind(AssertUnwindSafe(trial)).is_err()
    });
    missed.map(|(name, _)| *name)
}

#[test]
fn every_step_that_is_left_out_is_missed() {
    let missed = Mutex::new(Vec::new());
    // And with nothing left out, nothing is missed.
    let all: Vec<Option<&'static str>> = STEPS.iter().copied().map(Some).chain([None]).collect();
    in_parallel(&all, |step| match step {
        Some(step) => {
            let by = steps::without(step, first_to_miss);
            missed.lock().unwrap().push((*step, by));
        }
        None => assert_eq!(first_to_miss(), None, "see the other tests"),
    });
    let missed = missed.into_inner().unwrap();
    let unseen: Vec<_> = missed.iter().filter(|(_, by)| by.is_none()).collect();
    assert!(unseen.is_empty(), "nobody missed {unseen:?}");
    figure(&format!(
        "of the journal's {} steps that were left out, all were missed",
        STEPS.len()
    ));
}

#[test]
fn the_list_of_steps_is_that_of_the_sources() {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap() {
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
    let listed: BTreeSet<String> = STEPS.iter().map(|step| (*step).to_owned()).collect();
    assert_eq!(found, listed);
}
