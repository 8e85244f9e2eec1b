//! Damage of every kind at every place of a synced journal: never a wrong record, and never a lost one in silence but in
//! the last group, which nothing vouches for yet.

use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use backhaul_journal::simulation::SimDisk;
use backhaul_journal::{Error, Preallocate, Report, Tail, dump, salvage, verify};

use crate::life::{Life, Op};
use crate::model::{Fate, Model, directory};

const SECTOR: usize = 512;
/// Of so many damaged journals, one is also verified and salvaged.
const SALVAGED: usize = 499;

/// A journal that is durable as a whole.
pub(crate) struct Synced {
    disk: SimDisk,
    model: Model,
    next: u64,
    /// The last segment: where each frame begins, and its first LSN.
    frames: Vec<(usize, u64)>,
    /// Where the frames begin that nothing vouches for.
    unproven: usize,
    /// The newest snapshot vouches for what is below.
    reach: u64,
    last: PathBuf,
    pub(crate) is_closed: bool,
}

/// How a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With a group, which nothing vouches for.
    Group,
    /// With a group after a snapshot that reaches into the last segment, and vouches for what is before it.
    Snapshot,
    Closed,
}

/// What became of a damaged journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) refused: u64,
    /// Records of the last group are gone, and the report says that this may be.
    pub(crate) torn: u64,
    pub(crate) whole: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, more: Self) {
        self.refused += more.refused;
        self.torn += more.torn;
        self.whole += more.whole;
    }

    pub(crate) fn all(self) -> u64 {
        self.refused + self.torn + self.whole
    }
}

/// One way to damage a file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Damage {
    Flip(usize),
    Cut(usize),
    Fill(usize, u8),
    /// One sector's content in the place of another.
    Misdirect {
        from: usize,
        to: usize,
    },
    /// Bytes of a frame moved onto those of another, as long.
    Move {
        from: usize,
        to: usize,
        len: usize,
    },
}

impl Synced {
    /// About so many bytes of segments, groups of several frames, batches and two snapshots.
    pub(crate) fn new(bytes: usize, segment_bytes: u32, preallocate: Preallocate, end: End) -> Self {
        let mut life = Life::new(preallocate, SECTOR, false);
        life.options.segment_bytes = segment_bytes;
        life.options.first_segment_bytes = segment_bytes;
        let used = |life: &Life| life.disk.used();
        let mut round = 0;
        while used(&life) < bytes || round < 4 {
            round += 1;
            life.apply(Op::Append(2, 30 + round % 7 * 150));
            life.apply(Op::Sync);
            life.apply(Op::Batch(3, 300));
            life.apply(Op::Append(1, 60));
            life.apply(Op::Sync);
            if round == 1 || round == 3 {
                life.apply(Op::Checkpoint(1));
            }
        }
        // The last groups are of one size, and the very last has more than one frame.
        for _ in 0..3 {
            life.apply(Op::Append(1, 100));
            life.apply(Op::Sync);
        }
        if end == End::Snapshot {
            life.apply(Op::Checkpoint(1));
        }
        life.apply(Op::Batch(1, 100));
        life.apply(Op::Batch(1, 100));
        life.apply(Op::Sync);
        if end == End::Closed {
            life.close();
        }
        Self::of(&life)
    }

    fn of(life: &Life) -> Self {
        let disk = life.disk.lose_unsynced();
        let model = life.model.clone();
        let report = model.read(&disk, &directory(), Fate::Crashed).unwrap();
        let segment = report.segments.last().unwrap();
        let last = directory().join(format!("{:016x}.seg", segment.seq));
        let mut frames: Vec<(usize, u64)> = Vec::new();
        dump(&disk.storage(), &directory(), &mut |entry| {
            let offset = usize::try_from(entry.offset_bytes).unwrap();
            if last.ends_with(entry.file) && frames.last().is_none_or(|(last, _)| *last != offset) {
                frames.push((offset, entry.lsn.0));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        let unproven = frames.iter().find(|(_, lsn)| *lsn >= report.proven.0);
        Self {
            unproven: unproven.map_or(usize::MAX, |(offset, _)| *offset),
            next: report.next.0,
            reach: report.snapshot.map_or(0, |snapshot| snapshot.reach.0),
            disk,
            model,
            frames,
            last,
            is_closed: report.proven == report.next,
        }
    }

    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let names = self.disk.names(&directory());
        names.iter().map(|name| directory().join(name)).collect()
    }

    pub(crate) fn len(&self, path: &Path) -> usize {
        self.disk.content(path).len()
    }

    /// Every way in which sectors of a file can be lost or garbled, or frames of the last segment be mixed up.
    pub(crate) fn sector_damages(&self, path: &Path) -> Vec<Damage> {
        let sectors = self.len(path).div_ceil(SECTOR);
        let mut damages = Vec::new();
        for sector in 0..sectors {
            damages.extend([0, 0xA5, 0xFF].map(|pattern| Damage::Fill(sector, pattern)));
            damages.extend((0..sectors).map(|from| Damage::Misdirect { from, to: sector }));
        }
        if path == self.last {
            for (from, to) in self
                .frames
                .iter()
                .flat_map(|from| self.frames.iter().map(move |to| (from, to)))
            {
                damages.push(Damage::Move {
                    from: from.0,
                    to: to.0,
                    len: 136,
                });
            }
        }
        damages
    }

    /// Damages one file in each of these ways, and checks what reading makes of it.
    pub(crate) fn damage(&self, path: &Path, damages: impl Iterator<Item = Damage>) -> Tally {
        let disk = self.disk.kill();
        let sound = disk.content(path);
        let mut bytes = sound.clone();
        let mut tally = Tally::default();
        for (number, damage) in damages.enumerate() {
            let range = damage.apply(&sound, &mut bytes);
            if bytes == sound {
                tally.whole += 1;
                continue;
            }
            let _repeat = crate::Repeat(format!("{}: {damage:?}", path.display()));
            disk.put(path, &bytes);
            self.judge(&disk, damage, self.excuse(path, &range), &mut tally);
            if number % SALVAGED == 0 {
                self.judge_tools(&disk);
            }
        }
        tally
    }

    /// The first record that damage in a range may take away in silence: none, unless the range begins in the group that
    /// nothing vouches for, or reaches the very last frame, before which nothing vouches for what the same damage took.
    fn excuse(&self, path: &Path, range: &Range<usize>) -> Option<u64> {
        let (last, _) = self.frames.last()?;
        if path != self.last || (range.end <= *last && range.start < self.unproven) {
            return None;
        }
        let frame = self.frames.iter().rfind(|(offset, _)| *offset <= range.start);
        frame.map(|(_, lsn)| *lsn).filter(|lsn| *lsn >= self.reach)
    }

    /// The header of a segment alone proves that the segment before it was whole.
    pub(crate) fn damage_before_an_empty_segment(&self) {
        let disk = self.disk.kill();
        let report = self.model.read(&disk, &directory(), Fate::Crashed).unwrap();
        let [.., before, last] = &report.segments[..] else {
            panic!("two segments are read");
        };
        disk.edit(&self.last, |bytes| bytes.truncate(64));
        let path = directory().join(format!("{:016x}.seg", before.seq));
        for len in 64..self.len(&path) {
            let disk = disk.kill();
            disk.edit(&path, |bytes| bytes.truncate(len));
            let fate = Fate::Rotten { proven: last.first.0 };
            match self.model.read(&disk, &directory(), fate) {
                Ok(_) | Err(Error::Corrupt(_)) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    fn judge(&self, disk: &SimDisk, damage: Damage, excuse: Option<u64>, tally: &mut Tally) {
        let fate = Fate::Rotten {
            proven: excuse.unwrap_or(self.next),
        };
        let report: Report = match self.model.read(disk, &directory(), fate) {
            Ok(report) => report,
            Err(Error::Corrupt(_)) => {
                tally.refused += 1;
                return;
            }
            Err(error) => panic!("{error:?}"),
        };
        if report.next.0 == self.next {
            tally.whole += 1;
            return;
        }
        // A file that was cut between two frames, and was made without a length to keep, looks shorter.
        let says_so = matches!(
            report.tail,
            Tail::Torn {
                maybe_acknowledged: true,
                ..
            }
        );
        assert!(says_so || matches!(damage, Damage::Cut(_)), "{:?}", report.tail);
        tally.torn += 1;
    }

    /// The tools for damaged journals take whatever comes, and never make a record up.
    fn judge_tools(&self, disk: &SimDisk) {
        let disk = disk.kill();
        let storage = disk.storage();
        verify(&storage, &directory()).unwrap();
        dump(&storage, &directory(), &mut |_| ControlFlow::Continue(())).unwrap();
        let copy = Path::new("/state/copy");
        let salvaged = match salvage(&storage, &directory(), copy) {
            Ok(salvaged) => salvaged,
            Err(Error::Corrupt(_)) => return,
            Err(error) => panic!("{error:?}"),
        };
        if !salvaged.snapshot_damaged {
            self.model.read_copy(&disk, copy).unwrap();
        }
    }
}

impl Damage {
    /// Makes damaged bytes of sound ones, and says where they differ.
    fn apply(self, sound: &[u8], bytes: &mut Vec<u8>) -> Range<usize> {
        bytes.clear();
        bytes.extend_from_slice(sound);
        let sector = |number: usize| number * SECTOR..((number + 1) * SECTOR).min(sound.len());
        match self {
            Self::Flip(bit) => {
                bytes[bit / 8] ^= 1 << (bit % 8);
                bit / 8..bit / 8 + 1
            }
            Self::Cut(len) => {
                bytes.truncate(len);
                len..sound.len()
            }
            Self::Fill(number, pattern) => {
                bytes[sector(number)].fill(pattern);
                sector(number)
            }
            Self::Misdirect { from, to } => {
                let len = sector(from).len().min(sector(to).len());
                bytes.copy_within(from * SECTOR..from * SECTOR + len, to * SECTOR);
                to * SECTOR..to * SECTOR + len
            }
            Self::Move { from, to, len } => {
                let len = len.min(sound.len() - from.max(to));
                bytes.copy_within(from..from + len, to);
                to..to + len
            }
        }
    }
}
