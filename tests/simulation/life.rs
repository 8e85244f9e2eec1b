//! A random life of a device: downloads, wishes, a server and a disk that fail, kills and power cuts, also in the middle
//! of a recovery. Every decision comes from [`Choices`].

use std::path::Path;
use std::time::Duration;

use backhaul::{Collision, WebErrorStatus};
use backhaul_backends::FailureKind;
use backhaul_journal::FileSystem;
use backhaul_journal::simulation::Choices;

use super::model::{DATA, Proof, Served, is_part};
use super::world::{BREAKS, Digest, New, Op, Wish, World, trace};

/// Things that happen in a life.
const OPS: usize = 30;
/// Crashes within one recovery.
const RECOVERY_CRASHES_MAX: usize = 3;
const NAMES: [&str; 4] = ["a", "b.img", "c.tar.gz", "ü"];
const LENGTHS: [usize; 8] = [0, 1, 700, 1024, 1025, 3000, 5000, 9000];

/// Lives, and returns how many disks were judged.
pub(crate) fn live(choices: &mut Choices) -> u64 {
    let file_systems = [FileSystem::Other, FileSystem::Ext4];
    let file_system = file_systems[choices.below(file_systems.len())];
    let sector_bytes = [512, 128, 1024][choices.below(3)];
    let served = (0..3).map(|_| choose_served(choices)).collect();
    let mut world = World::new(served, file_system, sector_bytes);
    world.model.connections = [1, 1, 3][choices.below(3)];
    for _ in 0..OPS {
        match choices.below(16) {
            0..=9 => {
                let op = choose_op(choices, &world);
                world.apply(&op);
            }
            10 => {
                let how = BREAKS[choices.below(BREAKS.len())];
                world.break_at(how, choices.below(30));
            }
            11 if choices.one_in(4) => world.fill_disk(choices.below(12_000)),
            11 => world.apply(&Op::WriteMax(choices.below(600) + 1)),
            _ => crash(&mut world, choices),
        }
    }
    crash(&mut world, choices);
    world.images
}

fn crash(world: &mut World, choices: &mut Choices) {
    if choices.below(4) > 0 {
        // In the middle of something.
        let more = choices.below(24) as u64;
        trace(|| format!("stops after {more} more changes"));
        world.disk.stop_after(more);
        for _ in 0..2 {
            let op = choose_op(choices, world);
            world.apply(&op);
        }
        world.apply(&Op::Step(8));
    }
    for _ in 0..choices.below(4) {
        let (image, is_power_cut) = world.crash(choices);
        world.judge(image, is_power_cut);
    }
    for _ in 0..=choices.below(RECOVERY_CRASHES_MAX) {
        let (image, is_power_cut) = world.crash(choices);
        let before = world.disk.clone();
        world.go_on_with(image, is_power_cut);
        world.look(&before);
        world.images += 1;
        if choices.one_in(8) {
            rot(world, choices);
        }
        let more = choices.below(30) as u64;
        trace(|| format!("stops after {more} more changes"));
        world.disk.stop_after(more);
        world.apply(&Op::Step(choices.below(6)));
    }
    let (image, is_power_cut) = world.crash(choices);
    world.judge(image.kill(), is_power_cut);
    world.go_on_with(image, is_power_cut);
}

/// One byte of a part file changes while nobody looks.
fn rot(world: &mut World, choices: &mut Choices) {
    let parts: Vec<String> = world.disk.names(Path::new(DATA));
    let parts: Vec<&String> = parts.iter().filter(|name| is_part(name)).collect();
    if parts.is_empty() {
        return;
    }
    let path = Path::new(DATA).join(parts[choices.below(parts.len())]);
    world.disk.edit(&path, |bytes| {
        if !bytes.is_empty() {
            let at = choices.below(bytes.len());
            bytes[at] ^= 0x10;
        }
    });
    world.model.is_rotten = true;
}

fn choose_served(choices: &mut Choices) -> Served {
    let proofs = [
        Proof::Strong,
        Proof::Strong,
        Proof::Unannounced,
        Proof::Nothing,
        Proof::Whole,
    ];
    Served {
        proof: proofs[choices.below(proofs.len())],
        len: LENGTHS[choices.below(LENGTHS.len())],
        version: 0,
        is_withdrawn: false,
        has_refused: false,
    }
}

fn choose_op(choices: &mut Choices, world: &World) -> Op {
    let urls = world.model.served.len();
    let asked = world.model.asked.len();
    let name = |choices: &mut Choices| NAMES[choices.below(NAMES.len())];
    match choices.below(20) {
        0..=3 => Op::Create((0..=choices.below(3)).map(|url| choose_new(url, choices)).collect()),
        4..=8 => Op::Step(1 + choices.below(8)),
        9 => Op::Pass(Duration::from_secs([1, 5, 601][choices.below(3)])),
        10..=12 => Op::Wish(choose_wish(choices), choices.below(asked.max(1))),
        13 => Op::WishAt(choose_wish(choices), choices.below(asked.max(1)), choices.below(16)),
        14 | 15 => Op::CutAt(choices.below(urls), choices.below(9_000) as u64),
        16 => {
            let kinds = [
                FailureKind::Transient { retry_after: None },
                FailureKind::Unreachable,
                FailureKind::Permanent,
            ];
            Op::Fail(choices.below(urls), kinds[choices.below(kinds.len())])
        }
        17 => match choices.below(6) {
            0 => Op::Withdraw(choices.below(urls)),
            1 => Op::Offline,
            _ => Op::Change(choices.below(urls)),
        },
        18 => match choices.below(4) {
            0 => Op::Put(name(choices)),
            1 => Op::PutAtRename(name(choices)),
            2 => Op::Settle,
            _ => Op::Take(name(choices)),
        },
        _ => match choices.below(2) {
            0 => Op::Close,
            _ => Op::Restart,
        },
    }
}

fn choose_wish(choices: &mut Choices) -> Wish {
    let wishes = [
        Wish::Start,
        Wish::Pause,
        Wish::Resume,
        Wish::Cancel,
        Wish::Acknowledge,
        Wish::Remove,
        Wish::Change,
    ];
    wishes[choices.below(wishes.len())]
}

fn choose_new(url: usize, choices: &mut Choices) -> New {
    let collisions = [Collision::Fail, Collision::Replace, Collision::Unique];
    New {
        url,
        name: NAMES[choices.below(NAMES.len())],
        collision: collisions[choices.below(collisions.len())],
        digest: match choices.below(6) {
            0 => Some(Digest::Now),
            1 => Some(Digest::Next),
            _ => None,
        },
        is_secret: choices.one_in(4),
        is_post: choices.one_in(5),
        is_long: choices.one_in(8),
        hold: choices.one_in(6),
        recoverable: if choices.one_in(4) {
            &[WebErrorStatus::FORBIDDEN]
        } else {
            &[]
        },
    }
}
