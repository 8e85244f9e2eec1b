//! Damage to what the disk holds of a transfer: to the bytes that a claim speaks of, and to the complete file before and
//! after it got its name.

use std::path::{Path, PathBuf};

use backhaul::Catalog;
use backhaul_journal::FileSystem;
use backhaul_journal::simulation::SimDisk;

use super::model::{DATA, Model, Proof, Served, is_publishing};
use super::scripts::PLAIN;
use super::trials::{Repeat, in_parallel};
use super::world::{Op, World};

const SECTOR_BYTES: usize = 512;
const LEN: usize = 3000;
/// Where the server cuts the first attempt, and so the end of the claim.
const CUT: u64 = 2600;

/// What happens to the bytes of a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip(usize),
    Cut(usize),
    Zero(usize),
    /// This sector takes the place of that.
    Copy(usize, usize),
}

impl Damage {
    fn all(len: usize) -> Vec<Self> {
        let sectors = len.div_ceil(SECTOR_BYTES);
        let copies = (0..sectors).flat_map(|from| (0..sectors).map(move |to| Self::Copy(from, to)));
        let mut all: Vec<Self> = (0..len * 8).map(Self::Flip).collect();
        all.extend((0..len).map(Self::Cut));
        all.extend((0..sectors).map(Self::Zero));
        all.extend(copies.filter(|copy| !matches!(copy, Self::Copy(from, to) if from == to)));
        all
    }

    fn to(self, bytes: &mut Vec<u8>) {
        let sector = |number: usize, len: usize| number * SECTOR_BYTES..((number + 1) * SECTOR_BYTES).min(len);
        match self {
            Self::Flip(bit) => bytes[bit / 8] ^= 1 << (bit % 8),
            Self::Cut(at) => bytes.truncate(at),
            Self::Zero(number) => {
                let range = sector(number, bytes.len());
                bytes[range].fill(0);
            }
            Self::Copy(from, to) => {
                let (mut source, target) = (sector(from, bytes.len()), sector(to, bytes.len()));
                let len = source.len().min(target.len());
                source.end = source.start + len;
                bytes.copy_within(source, target.start);
            }
        }
    }
}

/// A disk, what was promised, and the file that is damaged.
struct Case {
    what: &'static str,
    world: World,
    disk: SimDisk,
    model: Model,
    path: PathBuf,
    /// So many bytes of the file count.
    counted: usize,
}

impl Case {
    fn damage(&self, damage: Damage) {
        let image = self.disk.kill();
        image.edit(&self.path, |bytes| damage.to(bytes));
        let model = Model {
            is_rotten: true,
            ..self.model.clone()
        };
        let mut world = self.world.branch(image, model, true);
        world.finish(&Catalog::default());
    }
}

fn cases() -> Vec<Case> {
    let served = Served {
        proof: Proof::Strong,
        len: LEN,
        version: 0,
        is_withdrawn: false,
        has_refused: false,
    };
    let mut world = World::new(vec![served], FileSystem::Other, SECTOR_BYTES);
    for op in [Op::CutAt(0, CUT), Op::Create(vec![PLAIN]), Op::Step(50)] {
        world.apply(&op);
    }
    let part = Path::new(DATA).join(&world.disk.names(Path::new(DATA))[0]);
    // What was promised up to here is promised of all that follows.
    let model = world.model.clone();
    let claimed = Case {
        what: "the claimed bytes",
        disk: world.disk.kill(),
        model: model.clone(),
        path: part.clone(),
        counted: usize::try_from(CUT).unwrap(),
        world: world.branch(world.disk.kill(), model.clone(), false),
    };
    world.disk.keep_moments();
    for op in [Op::Pass(std::time::Duration::from_secs(60)), Op::Step(50)] {
        world.apply(&op);
    }
    let moments = world.disk.moments();
    let publishing = |name: &Path| {
        moments.iter().find(|disk| {
            let catalog = world.branch(disk.lose_unsynced(), model.clone(), true).look(disk);
            disk.find(name).is_some() && catalog.operations.iter().any(is_publishing)
        })
    };
    let destination = Path::new(DATA).join(PLAIN.name);
    let complete = [
        ("the complete file before it has its name", part),
        ("the published file", destination),
    ];
    let complete = complete.map(|(what, path)| Case {
        what,
        disk: publishing(&path)
            .unwrap_or_else(|| panic!("{what} was never there"))
            .kill(),
        model: model.clone(),
        path,
        counted: LEN,
        world: world.branch(world.disk.kill(), model.clone(), false),
    });
    std::iter::once(claimed).chain(complete).collect()
}

/// Damages everything that counts, in every way. Returns how often.
pub(crate) fn damage_everything() -> usize {
    let cases = cases();
    let all: Vec<(&Case, Damage)> = cases
        .iter()
        .flat_map(|case| Damage::all(case.counted).into_iter().map(move |damage| (case, damage)))
        .collect();
    in_parallel(&all, |(case, damage)| {
        let _repeat = Repeat(format!("with {damage:?} of {}", case.what));
        case.damage(*damage);
    });
    all.len()
}
