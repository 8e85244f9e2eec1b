//! Fixed scripts, crashed at every call to the disk, and at every call of the recovery that follows.

use std::time::Duration;

use backhaul::{Collision, WebErrorStatus};
use backhaul_backends::FailureKind;
use backhaul_journal::FileSystem;
use backhaul_journal::simulation::{Choices, SimDisk};

use super::model::{Model, Proof, Served};
use super::world::{Break, Digest, New, Op, Wish, World};

/// Changes after a failed call at which the device may crash.
const MOMENTS_AFTER_FAULT: usize = 6;

/// How far a search goes.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// Power cuts that are drawn at each moment, besides a kill and one that loses all.
    pub(crate) drawn: usize,
    /// Of so many moments, a power cut at one is followed by crashes at every moment of its recovery; a kill always is.
    pub(crate) recoveries: usize,
}

pub(crate) struct Script {
    pub(crate) name: &'static str,
    served: Vec<Served>,
    ops: Vec<Op>,
    connections: usize,
}

/// The device at every moment of a script, with what was promised then.
pub(crate) struct Run {
    world: World,
    moments: Vec<(SimDisk, Model)>,
}

pub(crate) const PLAIN: New = New {
    url: 0,
    name: "a",
    collision: Collision::Fail,
    digest: None,
    is_secret: false,
    is_post: false,
    is_long: false,
    hold: false,
    recoverable: &[],
};

/// What every script has besides, for an operation that is created only after a crash.
const AFTERWARDS: Served = served(Proof::Strong, 30);

const fn served(proof: Proof, len: usize) -> Served {
    Served {
        proof,
        len,
        version: 0,
        is_withdrawn: false,
        has_refused: false,
    }
}

fn script(name: &'static str, served: Vec<Served>, ops: Vec<Op>) -> Script {
    Script {
        name,
        served,
        ops,
        connections: 1,
    }
}

fn script_over(connections: usize, name: &'static str, served: Vec<Served>, ops: Vec<Op>) -> Script {
    Script {
        connections,
        ..script(name, served, ops)
    }
}

fn new(new: New) -> Op {
    Op::Create(vec![new])
}

const ALL: Op = Op::Step(50);
const LATER: Op = Op::Pass(Duration::from_secs(601));

/// Short ones first.
pub(crate) fn scripts() -> Vec<Script> {
    let mut scripts = servers();
    scripts.extend(segments());
    scripts.push(posts());
    scripts.extend(creations());
    scripts.extend(wishes());
    scripts.push(checkpoints());
    scripts
}

fn strong(len: usize) -> Vec<Served> {
    vec![served(Proof::Strong, len)]
}

/// Several connections for one file, of which the last pieces come first.
fn segments() -> Vec<Script> {
    vec![
        script_over(
            3,
            "cut in pieces",
            strong(6_000),
            vec![Op::CutAt(0, 1_000), new(PLAIN), ALL, LATER, ALL],
        ),
        script_over(
            3,
            "changed between pieces",
            strong(5_000),
            vec![Op::CutAt(0, 1_500), new(PLAIN), ALL, Op::Change(0), LATER, ALL],
        ),
        script_over(
            4,
            "a digest over pieces",
            vec![served(Proof::Nothing, 4_000)],
            vec![
                Op::CutAt(0, 900),
                new(New {
                    digest: Some(Digest::Now),
                    ..PLAIN
                }),
                ALL,
                LATER,
                ALL,
            ],
        ),
    ]
}

/// Bodies are sent along, one after a cut and one never.
fn posts() -> Script {
    script(
        "posted",
        vec![served(Proof::Strong, 3_000), served(Proof::Strong, 700)],
        vec![
            Op::CutAt(0, 2_500),
            new(New { is_post: true, ..PLAIN }),
            ALL,
            LATER,
            ALL,
            new(New {
                url: 1,
                name: "b.img",
                is_post: true,
                hold: true,
                ..PLAIN
            }),
            Op::Wish(Wish::Cancel, 1),
            ALL,
        ],
    )
}

/// Servers that cut, change, refuse and have no proof.
fn servers() -> Vec<Script> {
    vec![
        script(
            "a network that wants a login",
            strong(700),
            vec![
                Op::Portal(0, true),
                new(New {
                    digest: Some(Digest::Now),
                    ..PLAIN
                }),
                ALL,
                LATER,
                ALL,
                Op::Portal(0, false),
                LATER,
                ALL,
            ],
        ),
        script(
            "cut twice",
            strong(9_000),
            vec![
                Op::CutAt(0, 3_000),
                Op::CutAt(0, 6_500),
                new(PLAIN),
                ALL,
                LATER,
                ALL,
                LATER,
                ALL,
            ],
        ),
        script(
            "changed meanwhile",
            strong(6_000),
            vec![Op::CutAt(0, 5_000), new(PLAIN), ALL, Op::Change(0), LATER, ALL],
        ),
        script(
            "no proof",
            vec![served(Proof::Nothing, 5_000)],
            vec![Op::CutAt(0, 4_000), new(PLAIN), ALL, LATER, ALL],
        ),
        script(
            "another digest",
            strong(3_000),
            vec![
                new(New {
                    digest: Some(Digest::Next),
                    ..PLAIN
                }),
                ALL,
                new(New {
                    digest: Some(Digest::Now),
                    ..PLAIN
                }),
                ALL,
            ],
        ),
        script(
            "refused and gone",
            vec![served(Proof::Strong, 4_000), served(Proof::Unannounced, 3_000)],
            vec![
                Op::Fail(0, FailureKind::Transient { retry_after: None }),
                Op::CutAt(0, 2_500),
                Op::Create(vec![
                    PLAIN,
                    New {
                        url: 1,
                        name: "b",
                        ..PLAIN
                    },
                ]),
                ALL,
                LATER,
                ALL,
                Op::Withdraw(0),
                LATER,
                ALL,
            ],
        ),
    ]
}

fn creations() -> Vec<Script> {
    vec![
        script(
            "long lists",
            vec![served(Proof::Strong, 10); 6],
            vec![
                // The first one has no room behind what is there and fills a segment; the second one goes behind it in there.
                Op::WriteMax(4096),
                new(New {
                    url: 5,
                    name: "f",
                    ..PLAIN
                }),
                Op::Create(vec![
                    New { is_long: true, ..PLAIN },
                    New {
                        url: 1,
                        name: "b",
                        is_long: true,
                        ..PLAIN
                    },
                ]),
                Op::Create(vec![
                    New {
                        url: 2,
                        name: "c",
                        is_long: true,
                        ..PLAIN
                    },
                    New {
                        url: 3,
                        name: "d",
                        is_long: true,
                        ..PLAIN
                    },
                    New {
                        url: 4,
                        name: "e",
                        is_long: true,
                        ..PLAIN
                    },
                ]),
                ALL,
            ],
        ),
        script("one file", strong(7_000), vec![new(PLAIN), ALL]),
        script(
            "secrets at last",
            vec![served(Proof::Strong, 10), served(Proof::Strong, 20)],
            vec![
                new(PLAIN),
                // The vault is made in a state directory that was there.
                new(New {
                    url: 1,
                    name: "b",
                    is_secret: true,
                    ..PLAIN
                }),
                ALL,
            ],
        ),
        script(
            "a list",
            vec![
                served(Proof::Strong, 700),
                served(Proof::Nothing, 0),
                served(Proof::Strong, 1025),
            ],
            vec![
                Op::Create(vec![
                    PLAIN,
                    New {
                        url: 1,
                        name: "b",
                        is_secret: true,
                        ..PLAIN
                    },
                    New {
                        url: 2,
                        name: "c",
                        hold: true,
                        ..PLAIN
                    },
                ]),
                ALL,
                Op::Wish(Wish::Start, 2),
                ALL,
                Op::Wish(Wish::Acknowledge, 1),
                Op::Wish(Wish::Remove, 1),
                Op::Close,
            ],
        ),
    ]
}

/// What the application and others do meanwhile.
fn wishes() -> Vec<Script> {
    vec![
        script(
            "canceled and removed",
            strong(8_000),
            vec![
                Op::CutAt(0, 7_000),
                new(New {
                    is_secret: true,
                    ..PLAIN
                }),
                ALL,
                Op::Wish(Wish::Cancel, 0),
                Op::Wish(Wish::Acknowledge, 0),
                Op::Wish(Wish::Remove, 0),
                new(PLAIN),
                Op::WishAt(Wish::Cancel, 1, 9),
                ALL,
            ],
        ),
        script(
            "paused in the middle",
            strong(8_000),
            vec![
                new(PLAIN),
                Op::WishAt(Wish::Pause, 0, 7),
                Op::Restart,
                Op::Wish(Wish::Resume, 0),
                ALL,
            ],
        ),
        script(
            "refused and mended",
            strong(3_000),
            vec![
                Op::CutAt(0, 2_500),
                new(New {
                    is_secret: true,
                    recoverable: &[WebErrorStatus::FORBIDDEN],
                    ..PLAIN
                }),
                ALL,
                Op::Fail(0, FailureKind::Permanent),
                LATER,
                ALL,
                Op::Wish(Wish::Change, 0),
                Op::Restart,
                Op::Wish(Wish::Change, 0),
                Op::Wish(Wish::Resume, 0),
                ALL,
            ],
        ),
        script(
            "names that are taken",
            vec![
                served(Proof::Strong, 2_000),
                served(Proof::Strong, 600),
                served(Proof::Strong, 3_000),
            ],
            vec![
                Op::Put("b"),
                Op::Put("c.x"),
                new(PLAIN),
                new(New {
                    url: 1,
                    name: "b",
                    collision: Collision::Replace,
                    ..PLAIN
                }),
                new(New {
                    url: 2,
                    name: "c.x",
                    collision: Collision::Unique,
                    ..PLAIN
                }),
                Op::Put("a"),
                ALL,
            ],
        ),
    ]
}

/// So much journal that it is shortened several times.
fn checkpoints() -> Script {
    let mut ops = vec![new(New { hold: true, ..PLAIN }), Op::Wish(Wish::Start, 0)];
    for turn in 0..40 {
        ops.push(Op::Wish(Wish::Pause, 0));
        ops.push(Op::Wish(Wish::Resume, 0));
        if turn % 8 == 7 {
            ops.push(Op::Close);
        }
    }
    ops.push(ALL);
    script("checkpoints", vec![served(Proof::Strong, 2_500)], ops)
}

impl Script {
    fn world(&self, file_system: FileSystem) -> World {
        let mut served = self.served.clone();
        served.push(AFTERWARDS);
        let mut world = World::new(served, file_system, 512);
        world.model.connections = self.connections;
        world
    }

    pub(crate) fn run(&self, file_system: FileSystem) -> Run {
        let mut world = self.world(file_system);
        let moments = moments(&mut world, |world| self.ops.iter().for_each(|op| world.apply(op)));
        Run { world, moments }
    }

    /// Lets every call of the script fail in turn, and judges a crash at the moments after that and at the end. Returns how
    /// many disks were judged.
    pub(crate) fn fail_everywhere(&self, how: Break) -> u64 {
        let mut images = 0;
        for nth in 0.. {
            let mut world = self.world(FileSystem::Other);
            let failed_at = world.break_at(how, nth);
            let moments = moments(&mut world, |world| self.ops.iter().for_each(|op| world.apply(op)));
            let Some(failed_at) = *failed_at.lock().unwrap() else {
                break;
            };
            let mut choices = Choices::seeded(nth as u64);
            let first = usize::try_from(failed_at).unwrap();
            // An interruption or a short write is none for the engine.
            let count = if world.model.is_faulty { MOMENTS_AFTER_FAULT } else { 0 };
            let after = moments.iter().skip(first).take(count);
            for (number, (disk, model)) in after.chain(moments.last()).enumerate() {
                let power_cut = if (nth + number) % 2 == 0 {
                    disk.lose_unsynced()
                } else {
                    disk.cut_power(&mut choices)
                };
                for (image, is_power_cut) in [(disk.kill(), false), (power_cut, true)] {
                    let mut after = world.branch(image, model.clone(), is_power_cut);
                    let catalog = after.look(disk);
                    after.finish(&catalog);
                    images += 1;
                }
            }
        }
        images
    }
}

/// Does something, and keeps the disk and the promises of every moment of it.
fn moments(world: &mut World, work: impl FnOnce(&mut World)) -> Vec<(SimDisk, Model)> {
    let before = world.disk.changes();
    world.history = Some(vec![(before, world.model.clone())]);
    world.disk.keep_moments();
    work(world);
    let history = world.history.take().unwrap_or_default();
    let mut promised = 0;
    (before..)
        .zip(world.disk.moments())
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

    /// Judges what a kill and power cuts at one moment leave. Returns how many disks were judged.
    pub(crate) fn crash_at(&self, moment: usize, bounds: Bounds) -> u64 {
        let (disk, model) = &self.moments[moment];
        let mut choices = Choices::seeded(moment as u64);
        let mut images = vec![(disk.kill(), false), (disk.lose_unsynced(), true)];
        images.extend((0..bounds.drawn).map(|_| (disk.cut_power(&mut choices), true)));
        let mut judged = 0;
        for (number, (image, is_power_cut)) in images.into_iter().enumerate() {
            let mut world = self.world.branch(image, model.clone(), is_power_cut);
            let catalog = world.look(disk);
            judged += 1;
            if number == 0 || number < 3 && moment % bounds.recoveries == number {
                judged += crash_inside_recovery(&mut world, &mut choices);
            } else {
                world.finish(&catalog);
            }
        }
        judged
    }
}

/// Recovers and goes on, and judges a crash at each moment of that.
fn crash_inside_recovery(world: &mut World, choices: &mut Choices) -> u64 {
    let url = world.model.served.len() - 1;
    let moments = moments(world, |world| {
        world.apply(&new(New {
            url,
            name: "afterwards",
            is_secret: true,
            ..PLAIN
        }));
        world.apply(&Op::Step(10));
        world.apply(&LATER);
        world.apply(&Op::Step(10));
    });
    for (disk, model) in &moments {
        let (image, is_power_cut) = match choices.below(3) {
            0 => (disk.kill(), false),
            1 => (disk.lose_unsynced(), true),
            _ => (disk.cut_power(choices), true),
        };
        let mut again = world.branch(image, model.clone(), is_power_cut);
        let catalog = again.look(disk);
        again.finish(&catalog);
    }
    moments.len() as u64
}
