//! Fixed scripts, in which every moment and, where there are not too many, every outcome of a power cut is tried.

use backhaul_journal::Preallocate;
use backhaul_journal::simulation::{Choices, SimDisk};

use crate::life::{Counts, FAILURES, Failure, Life, Op};
use crate::model::Model;

pub(crate) struct Script {
    pub(crate) name: &'static str,
    preallocate: Preallocate,
    sector_bytes: usize,
    /// Of a process that writes little and ends soon.
    brief: bool,
    ops: &'static [Op],
}

/// How far a search goes.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// Outcomes of one moment that are tried in turn.
    pub(crate) outcomes: usize,
    /// Where there are more, so many that are drawn.
    pub(crate) drawn: usize,
    /// Of so many outcomes, one is followed by crashes at every moment of its recovery.
    pub(crate) recoveries: usize,
}

const fn script(name: &'static str, preallocate: Preallocate, sector_bytes: usize, ops: &'static [Op]) -> Script {
    Script {
        name,
        preallocate,
        sector_bytes,
        brief: false,
        ops,
    }
}

const fn brief(name: &'static str, preallocate: Preallocate, sector_bytes: usize, ops: &'static [Op]) -> Script {
    Script {
        brief: true,
        ..script(name, preallocate, sector_bytes, ops)
    }
}

const GROUPS: &[Op] = &[
    Op::Append(1, 20),
    Op::Sync,
    Op::Batch(2, 10),
    Op::Sync,
    Op::Append(1, 5),
    Op::Batch(2, 5),
    Op::Append(1, 5),
    Op::Sync,
];
const ENDS: &[Op] = &[
    Op::Append(2, 5),
    Op::Sync,
    Op::Close,
    Op::Append(1, 20),
    Op::Restart,
    Op::Append(1, 5),
    Op::Sync,
    Op::Restart,
    Op::Batch(2, 20),
    Op::Sync,
    Op::Close,
];
/// A journal that gets nothing at first, and is let go of by a process after the other.
const NOTHING: &[Op] = &[
    Op::Checkpoint(0),
    Op::Close,
    Op::Restart,
    Op::Checkpoint(1),
    Op::Close,
    Op::Append(1, 20),
    Op::Close,
    Op::Checkpoint(0),
    Op::Close,
    Op::Append(2, 5),
    Op::Sync,
];
const CHECKPOINTS: &[Op] = &[
    Op::Append(1, 5),
    Op::Sync,
    Op::Checkpoint(0),
    Op::Append(1, 5),
    Op::Restart,
    Op::Checkpoint(2),
    Op::Append(1, 5),
    Op::Checkpoint(1),
    Op::Append(1, 5),
    Op::Sync,
];
const ROTATIONS: &[Op] = &[
    Op::Append(1, 2500),
    Op::Sync,
    Op::Append(1, 2500),
    Op::Sync,
    Op::Checkpoint(1),
    Op::Append(1, 2500),
    Op::Checkpoint(1),
    Op::Append(1, 2500),
    Op::Append(1, 20),
    Op::Sync,
    Op::Checkpoint(0),
    Op::Append(1, 20),
    Op::Close,
];

pub(crate) const SCRIPTS: &[Script] = &[
    script("groups, growing", Preallocate::None, 64, GROUPS),
    script("groups, preallocated", Preallocate::Zero, 64, GROUPS),
    script("ends, growing", Preallocate::None, 64, ENDS),
    script("ends, preallocated", Preallocate::Zero, 512, ENDS),
    script("checkpoints, growing", Preallocate::None, 128, CHECKPOINTS),
    script("checkpoints, preallocated", Preallocate::Zero, 512, CHECKPOINTS),
    script("rotations, growing", Preallocate::None, 1024, ROTATIONS),
    script("rotations, preallocated", Preallocate::Zero, 512, ROTATIONS),
    brief("groups, brief", Preallocate::Zero, 64, GROUPS),
    brief("ends, brief and growing", Preallocate::None, 64, ENDS),
    brief("ends, brief and preallocated", Preallocate::Zero, 512, ENDS),
    brief("nothing, brief", Preallocate::Zero, 512, NOTHING),
    brief("checkpoints, brief", Preallocate::None, 128, CHECKPOINTS),
];

/// The disk at every moment of a script, with what was promised then.
pub(crate) struct Run {
    life: Life,
    moments: Vec<(SimDisk, Model)>,
}

impl Script {
    fn life(&self, reserve: bool) -> Life {
        let mut life = Life::new(self.preallocate, self.sector_bytes, reserve);
        life.options.brief = self.brief;
        life
    }

    pub(crate) fn run(&self) -> Run {
        let mut life = self.life(false);
        let moments = moments(&mut life, |life| self.ops.iter().for_each(|op| life.apply(*op)));
        Run { life, moments }
    }

    /// Lets every call of one script fail in turn, and judges what is left after a kill and after power cuts.
    pub(crate) fn fail_everywhere(&self, failure: Failure) -> Counts {
        let mut counts = Counts::default();
        for nth in 0.. {
            let mut life = self.life(true);
            let has_come = life.fail(failure, nth);
            self.ops.iter().for_each(|op| life.apply(*op));
            if !has_come.load(std::sync::atomic::Ordering::Relaxed) {
                break;
            }
            life.disk.fail_no_more();
            let mut choices = Choices::seeded(nth as u64);
            let mut images = vec![life.disk.kill(), life.disk.lose_unsynced()];
            images.extend((0..4).map(|_| life.disk.cut_power(&mut choices)));
            for image in images {
                life.judge(image, &mut choices);
            }
            counts.add(life.counts);
        }
        counts
    }
}

/// Does something, and keeps the disk and the promises of every moment of it.
fn moments(life: &mut Life, work: impl FnOnce(&mut Life)) -> Vec<(SimDisk, Model)> {
    let before = life.disk.changes();
    life.history = Some(vec![(before, life.model.clone())]);
    life.disk.keep_moments();
    work(life);
    let history = life.history.take().unwrap_or_default();
    let moments = life.disk.moments();
    let mut promised = 0;
    (before..)
        .zip(moments)
        .map(|(changes, disk)| {
            while history.get(promised + 1).is_some_and(|(since, _)| *since <= changes) {
                promised += 1;
            }
            (disk, history[promised].1.clone())
        })
        .collect()
}

impl Run {
    pub(crate) fn moments(&self) -> usize {
        self.moments.len()
    }

    /// Tries the outcomes of a power cut at one moment, and a kill; says whether those were all.
    pub(crate) fn crash_at(&self, moment: usize, bounds: Bounds) -> (Counts, bool) {
        let (disk, model) = &self.moments[moment];
        let mut counts = Counts::default();
        counts.add(self.survive(disk.kill(), model, Some(8)));
        let mut choices = Choices::exhaustive();
        for number in 0..bounds.outcomes {
            let image = disk.cut_power(&mut choices);
            counts.add(self.survive(image, model, (number % bounds.recoveries == 0).then_some(1)));
            if !choices.next_round() {
                return (counts, true);
            }
        }
        let mut choices = Choices::seeded(moment as u64);
        for number in 0..bounds.drawn {
            let image = disk.cut_power(&mut choices);
            counts.add(self.survive(image, model, (number % bounds.recoveries == 0).then_some(1)));
        }
        (counts, false)
    }

    /// Recovers and goes on; then so many times with a power cut at each moment of that.
    fn survive(&self, image: SimDisk, model: &Model, cuts: Option<usize>) -> Counts {
        let mut life = self.life.branch(image, model.clone());
        let go_on = |life: &mut Life| {
            life.apply(Op::Append(1, 20));
            life.apply(Op::Sync);
        };
        let Some(cuts) = cuts else {
            go_on(&mut life);
            return life.counts;
        };
        let mut choices = Choices::seeded(0);
        life.look();
        for (disk, model) in moments(&mut life, go_on) {
            for _ in 0..cuts {
                let mut again = self.life.branch(disk.cut_power(&mut choices), model.clone());
                again.open();
                again.counts.inside_recovery = 1;
                life.counts.add(again.counts);
            }
        }
        life.counts
    }
}

pub(crate) fn failures() -> impl Iterator<Item = (&'static Script, Failure)> {
    SCRIPTS
        .iter()
        .flat_map(|script| FAILURES.into_iter().map(move |failure| (script, failure)))
}
