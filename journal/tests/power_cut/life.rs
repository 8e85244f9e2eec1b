//! The life of a journal on a simulated disk: work, failing calls, kills and power cuts, also in the middle of a
//! recovery, each followed by a comparison with the model. Every decision comes from [`Choices`].

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backhaul_journal::simulation::{Call, Choices, Fault, SimDisk};
use backhaul_journal::{Error, Journal, Lock, Lsn, Options, Preallocate, Urgency};

use super::model::{Fate, Model, directory};

/// Steps of a life that ends by itself.
const STEPS_MAX: usize = 40;
/// Crashes within one recovery.
const RECOVERY_CRASHES_MAX: usize = 3;
/// A record that leaves little room in a segment of 4 KiB.
const BIG: usize = 2500;

/// What the application does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// Appends so many records of so many bytes, one by one.
    Append(usize, usize),
    /// Appends so many records of so many bytes as one batch.
    Batch(usize, usize),
    /// Makes everything durable.
    Sync,
    /// Makes a snapshot, while which so many records are appended.
    Checkpoint(usize),
    /// Closes the journal and opens it again.
    Close,
    /// Drops the journal, as a process that ends, and opens it again.
    Restart,
}

/// How a call to the disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Io,
    Full,
    Interrupted,
    Short,
    /// A short write, and no room for the rest of it.
    ShortThenFull,
    SyncLoses,
    SyncReverts,
}

pub(crate) const FAILURES: [Failure; 7] = [
    Failure::Io,
    Failure::Full,
    Failure::Interrupted,
    Failure::Short,
    Failure::ShortThenFull,
    Failure::SyncLoses,
    Failure::SyncReverts,
];

/// Disks that were judged after a crash.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) images: u64,
    /// Those among them that come from a crash inside a recovery.
    pub(crate) inside_recovery: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, more: Self) {
        self.images += more.images;
        self.inside_recovery += more.inside_recovery;
    }
}

pub(crate) struct Life {
    pub(crate) disk: SimDisk,
    pub(crate) model: Model,
    pub(crate) options: Options,
    journal: Option<Journal>,
    /// Set once a call failed, so that errors are to be expected until the next open.
    failing: Arc<AtomicBool>,
    /// Whether the disk has no room, so that errors are to be expected after that as well.
    is_full: bool,
    /// The model at each number of changes to the disk, where that is wanted.
    pub(crate) history: Option<Vec<(u64, Model)>>,
    pub(crate) counts: Counts,
    opens: u64,
}

impl Life {
    /// An empty disk.
    pub(crate) fn new(preallocate: Preallocate, sector_bytes: usize, reserve: bool) -> Self {
        Self {
            disk: SimDisk::with_sectors(sector_bytes),
            model: Model::default(),
            options: Options {
                segment_bytes: 4096,
                segment_bytes_max: 8192,
                first_segment_bytes: 4096,
                preallocate,
                reserve,
                ..Options::default()
            },
            journal: None,
            failing: Arc::default(),
            is_full: false,
            history: None,
            counts: Counts::default(),
            opens: 0,
        }
    }

    /// The life that goes on from another one's disk.
    pub(crate) fn branch(&self, disk: SimDisk, model: Model) -> Self {
        Self {
            disk,
            model,
            options: self.options,
            journal: None,
            failing: Arc::default(),
            is_full: false,
            history: None,
            counts: Counts {
                images: 1,
                inside_recovery: 0,
            },
            opens: self.opens,
        }
    }

    /// Options with an id that no other journal of this life got, for the case that one is made.
    fn options(&mut self) -> Options {
        self.opens += 1;
        let mut id = [7; 16];
        id[..8].copy_from_slice(&self.opens.to_le_bytes());
        Options {
            journal_id: Some(id),
            ..self.options
        }
    }

    /// Makes the directory above the journal's where it is missing, as an application does; one that was there has a name
    /// that lasts before it is relied on. Says whether it is new.
    fn make_above(&self) -> Result<bool, Error> {
        let (storage, above) = (self.disk.storage(), Path::new("/state"));
        let made = match storage.stat(above) {
            Ok(_) => storage.sync_directory(Path::new("/")).map(|()| false),
            Err(_) => storage.create_directory(above, 0o700).map(|()| true),
        };
        made.map_err(|error| Error::Io("make", above.to_owned(), error))
    }

    fn note(&mut self) {
        if let Some(history) = &mut self.history {
            history.push((self.disk.changes(), self.model.clone()));
        }
    }

    /// The value of an answer; an error only where one is to be expected.
    fn taken<T>(&self, answer: Result<T, Error>) -> Option<T> {
        let error = match answer {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let may_fail = self.failing.load(Ordering::Relaxed) || self.disk.has_stopped();
        assert!(may_fail, "nothing failed, and yet: {error:?}");
        let is_damage = matches!(
            error,
            Error::Corrupt(_) | Error::Unsupported(..) | Error::Incomplete(_) | Error::NotAppended(..)
        );
        assert!(!is_damage, "a failing call is taken for damage: {error:?}");
        self.failing.store(true, Ordering::Relaxed);
        None
    }

    /// Opens the journal if it is not open.
    pub(crate) fn open(&mut self) -> bool {
        if self.journal.is_none() {
            let made = self.make_above();
            let Some(new_above) = self.taken(made) else {
                return false;
            };
            let options = Options {
                new_above,
                ..self.options()
            };
            let answer = self.model.open(&self.disk, options, Fate::Crashed);
            self.journal = self.taken(answer);
            if self.journal.is_some() {
                self.failing.store(self.is_full, Ordering::Relaxed);
                self.note();
            }
        }
        self.journal.is_some()
    }

    /// Does something, as far as the disk lets it.
    pub(crate) fn apply(&mut self, op: Op) {
        if !self.open() {
            return;
        }
        match op {
            Op::Append(count, len) => (0..count).for_each(|_| self.append(1, len, false)),
            Op::Batch(count, len) => self.append(count, len, true),
            Op::Sync => self.sync(),
            Op::Checkpoint(appends) => self.checkpoint(appends),
            Op::Close => {
                self.close();
                self.open();
            }
            Op::Restart => {
                self.journal = None;
                self.open();
            }
        }
    }

    pub(crate) fn close(&mut self) {
        if let Some(journal) = self.journal.take() {
            let answer = journal.close();
            if self.taken(answer).is_some() {
                self.model.close(self.options.brief);
                self.note();
            }
        }
    }

    fn append(&mut self, count: usize, len: usize, as_batch: bool) {
        let records = self.model.push(count, len);
        self.note();
        let Some(journal) = &self.journal else { return };
        let answer = if as_batch {
            let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
            journal.append_batch(&records, Urgency::Normal)
        } else {
            journal.append(&records[0], Urgency::Critical)
        };
        match self.taken(answer) {
            Some(lsn) => assert_eq!(lsn, Lsn(self.model.appended() as u64)),
            None => self.model.pop(count),
        }
        self.acknowledge();
    }

    fn sync(&mut self) {
        let Some(journal) = &self.journal else { return };
        let last = Lsn(self.model.appended() as u64);
        let answer = journal.sync(last);
        if self.taken(answer).is_some() {
            assert!(self.journal.as_ref().is_some_and(|journal| journal.durable() > last));
        }
        self.acknowledge();
    }

    fn checkpoint(&mut self, appends: usize) {
        let Some(journal) = &self.journal else { return };
        let (model, history, disk) = (&mut self.model, &mut self.history, &self.disk);
        let mut is_new = false;
        let answer = journal.checkpoint(&mut |snapshot| {
            is_new = true;
            for _ in 0..appends {
                let records = model.push(1, 20);
                if let Some(history) = history {
                    history.push((disk.changes(), model.clone()));
                }
                journal
                    .append(&records[0], Urgency::Normal)
                    .inspect_err(|_| model.pop(1))?;
            }
            model.state().iter().try_for_each(|record| snapshot.record(record))
        });
        // One that was found by the open may stand in the page cache only.
        if let Some(lsn) = self.taken(answer).filter(|_| is_new) {
            self.model.checkpoint(lsn);
        }
        self.acknowledge();
    }

    fn acknowledge(&mut self) {
        if let Some(journal) = &self.journal {
            self.model.acknowledge(journal);
        }
        self.note();
    }

    /// Lets the nth call from now on that can fail in this way do so.
    pub(crate) fn fail(&mut self, failure: Failure, nth: usize) -> Arc<AtomicBool> {
        let (failing, has_come) = (Arc::clone(&self.failing), Arc::new(AtomicBool::new(false)));
        let (mut left, come) = (nth, Arc::clone(&has_come));
        self.disk.fail_with(move |call, _| {
            let is_meant = match failure {
                Failure::Io | Failure::Full | Failure::Interrupted => true,
                Failure::Short => call == Call::Write,
                Failure::ShortThenFull => call == Call::Write || come.load(Ordering::Relaxed),
                Failure::SyncLoses | Failure::SyncReverts => matches!(call, Call::Sync | Call::SyncDirectory),
            };
            if !is_meant || left == usize::MAX {
                return None;
            }
            if left > 0 {
                left -= 1;
                return None;
            }
            let is_first = !come.swap(true, Ordering::Relaxed);
            if failure == Failure::ShortThenFull && is_first {
                return Some(Fault::Short(9));
            }
            left = usize::MAX;
            let is_error = !matches!(failure, Failure::Interrupted | Failure::Short);
            failing.fetch_or(is_error, Ordering::Relaxed);
            Some(match failure {
                Failure::Io => io::Error::from_raw_os_error(5).into(),
                Failure::Full | Failure::ShortThenFull => io::Error::from(io::ErrorKind::StorageFull).into(),
                Failure::Interrupted => io::Error::from(io::ErrorKind::Interrupted).into(),
                Failure::Short => Fault::Short(9),
                Failure::SyncLoses => Fault::SyncLoses(io::Error::from_raw_os_error(5)),
                Failure::SyncReverts => Fault::SyncReverts(io::Error::from_raw_os_error(5)),
            })
        });
        has_come
    }

    /// The machine is another one from now on: what is left of the disk, and no process.
    pub(crate) fn go_on_with(&mut self, disk: SimDisk) {
        self.journal = None;
        self.disk = disk;
        self.failing = Arc::default();
        self.is_full = false;
    }

    /// Judges what a crash left, goes on with it for a moment, and throws it away.
    pub(crate) fn judge(&mut self, image: SimDisk, choices: &mut Choices) {
        let mut other = self.branch(image, self.model.clone());
        other.recover(choices);
        other.apply(Op::Append(1, 20));
        other.apply(Op::Sync);
        if choices.one_in(4) {
            let disk = other.disk.cut_power(choices);
            other.go_on_with(disk);
            other.counts.images += 1;
            other.recover(choices);
        }
        self.counts.add(other.counts);
    }

    /// Opens the journal after a crash, perhaps with further crashes in the middle of that.
    pub(crate) fn recover(&mut self, choices: &mut Choices) {
        for _ in 0..RECOVERY_CRASHES_MAX {
            if choices.below(4) != 1 {
                break;
            }
            self.disk.stop_after(choices.below(12) as u64);
            self.open();
            let disk = self.crash(choices);
            self.go_on_with(disk);
            self.counts.images += 1;
            self.counts.inside_recovery += 1;
        }
        if choices.below(8) == 1 {
            self.look();
        }
        assert!(self.open());
    }

    /// Reads the journal without opening it.
    pub(crate) fn look(&self) {
        let answer = self.model.look(&self.disk, Fate::Crashed);
        self.taken(answer);
    }

    fn crash(&self, choices: &mut Choices) -> SimDisk {
        match choices.below(4) {
            0 => self.disk.kill(),
            1 => self.disk.kill().cut_power(choices),
            _ => self.disk.cut_power(choices),
        }
    }
}

/// A whole life; panics where a promise is broken. This is what a fuzzer runs.
pub(crate) fn live(choices: &mut Choices) -> Counts {
    let preallocate = [Preallocate::None, Preallocate::Zero][choices.below(2)];
    let sector_bytes = [64, 512, 24, 4096][choices.below(4)];
    let mut life = Life::new(preallocate, sector_bytes, choices.one_in(4));
    life.options.brief = sector_bytes == 4096;
    for _ in 0..STEPS_MAX {
        if choices.is_used_up() {
            break;
        }
        life.step(choices);
    }
    life.crash_and_recover(choices);
    if choices.one_in(4) {
        life.rot(choices);
    }
    life.counts
}

impl Life {
    fn step(&mut self, choices: &mut Choices) {
        match choices.below(16) {
            0..=8 => {
                let op = choose_op(choices);
                self.apply(op);
                if choices.one_in(2) {
                    self.apply(Op::Sync);
                }
            }
            9 | 10 => {
                let failure = FAILURES[choices.below(FAILURES.len())];
                self.fail(failure, choices.below(16));
            }
            11 => {
                // Until the next crash.
                self.disk.set_capacity(self.disk.used() + choices.below(8192));
                self.failing.store(true, Ordering::Relaxed);
                self.is_full = true;
            }
            12 => self.disk.set_write_max(choices.below(64) + 1),
            13 => self.try_to_open_twice(),
            _ => self.crash_and_recover(choices),
        }
    }

    pub(crate) fn try_to_open_twice(&mut self) {
        if self.open() && !self.failing.load(Ordering::Relaxed) {
            self.disk.fail_no_more();
            let second = Lock::acquire(&self.disk.storage(), Path::new("/state/LOCK"), false);
            assert!(
                matches!(second, Err(Error::Locked { .. })),
                "two writers have one journal"
            );
        }
    }

    fn crash_and_recover(&mut self, choices: &mut Choices) {
        if choices.below(4) > 0 {
            self.disk.stop_after(choices.below(10) as u64);
            let op = choose_op(choices);
            self.apply(op);
            self.apply(Op::Sync);
        }
        for _ in 0..choices.below(4) {
            let image = self.crash(choices);
            self.judge(image, choices);
        }
        let disk = self.crash(choices);
        self.go_on_with(disk);
        self.counts.images += 1;
        self.recover(choices);
    }

    /// One flipped bit: refused, or harmless, or in what nothing vouched for.
    fn rot(&mut self, choices: &mut Choices) {
        let disk = self.disk.kill();
        let Some(before) = self.model.look(&disk, Fate::Crashed).unwrap() else {
            return;
        };
        let names = disk.names(&directory());
        let path = directory().join(&names[choices.below(names.len())]);
        disk.edit(&path, |bytes| {
            if !bytes.is_empty() {
                let bit = choices.below(bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        });
        let fate = Fate::Rotten {
            proven: before.proven.0,
        };
        match self.model.look(&disk, fate) {
            Ok(_) | Err(Error::Corrupt(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
        match self.model.open(&disk, self.options, fate) {
            Ok(_) | Err(Error::Corrupt(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn choose_op(choices: &mut Choices) -> Op {
    let len = |choices: &mut Choices| [20, 0, 5, 100, 700, BIG][choices.below(6)];
    match choices.below(8) {
        0..=2 => Op::Append(1 + choices.below(3), len(choices)),
        3 => Op::Batch(1 + choices.below(4), len(choices)),
        4 => Op::Sync,
        5 => Op::Checkpoint(choices.below(3)),
        6 => Op::Close,
        _ => Op::Restart,
    }
}
