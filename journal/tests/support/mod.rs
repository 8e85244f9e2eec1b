//! What the tests of the journal share: a disk in memory that can crash, fail and fill up, and a replay that collects.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use backhaul_journal::{Error, Journal, Lock, Lsn, Options, Preallocate, Replay, ReplayError, Report};

pub(crate) use backhaul_journal::simulation::{Call, Fault, SimDisk};

/// What a crash does to everything that was not synced; what lies in between is for the tests of power cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsynced {
    Lost,
    Kept,
}

/// An empty disk with the directory `/state`.
pub(crate) fn new_disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.put_directory(Path::new("/state"));
    disk
}

/// The disk after a power cut or a kill.
pub(crate) fn crash(disk: &SimDisk, unsynced: Unsynced) -> SimDisk {
    match unsynced {
        Unsynced::Lost => disk.lose_unsynced(),
        Unsynced::Kept => disk.kill(),
    }
}

/// Where the tests keep their journal.
pub(crate) fn directory() -> PathBuf {
    PathBuf::from("/state/journal")
}

/// Collects what is replayed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Collected {
    pub(crate) snapshot: Vec<Vec<u8>>,
    pub(crate) records: Vec<(u64, Vec<u8>)>,
}

impl Replay for Collected {
    fn snapshot(&mut self, record: &[u8]) -> Result<(), ReplayError> {
        assert!(self.records.is_empty(), "the snapshot comes first");
        self.snapshot.push(record.to_vec());
        Ok(())
    }

    fn record(&mut self, lsn: Lsn, record: &[u8]) -> Result<(), ReplayError> {
        if let Some((last, _)) = self.records.last() {
            assert!(lsn.0 > *last, "record {} came after {last}", lsn.0);
        }
        self.records.push((lsn.0, record.to_vec()));
        Ok(())
    }

    fn reset(&mut self) -> Result<(), ReplayError> {
        *self = Collected::default();
        Ok(())
    }
}

impl Collected {
    pub(crate) fn texts(&self) -> Vec<String> {
        self.records
            .iter()
            .map(|(_, record)| String::from_utf8_lossy(record).into_owned())
            .collect()
    }
}

/// Options with small segments and a fixed id.
pub(crate) fn small() -> Options {
    Options {
        segment_bytes: 4096,
        first_segment_bytes: 4096,
        preallocate: Preallocate::Zero,
        reserve: false,
        journal_id: Some(*b"0123456789abcdef"),
        ..Options::default()
    }
}

pub(crate) fn lock(disk: &SimDisk) -> Lock {
    Lock::acquire(&disk.storage(), Path::new("/state/LOCK"), false).expect("nobody holds the lock")
}

/// Reads the journal without a lock.
pub(crate) fn read(disk: &SimDisk) -> Result<(Report, Collected), Error> {
    let mut collected = Collected::default();
    let report = backhaul_journal::read(&disk.storage(), &directory(), &mut collected)?;
    Ok((report, collected))
}

/// Opens the journal of a disk, with what it replays.
pub(crate) fn try_open(disk: &SimDisk, options: Options) -> Result<(Journal, Report, Collected), Error> {
    let mut collected = Collected::default();
    let lock = Lock::acquire(&disk.storage(), Path::new("/state/LOCK"), false)?;
    let (journal, report) = Journal::open(disk.storage(), &directory(), lock, options, &mut collected)?;
    Ok((journal, report, collected))
}

pub(crate) fn open(disk: &SimDisk, options: Options) -> (Journal, Report, Collected) {
    try_open(disk, options).expect("the journal opens")
}

/// A record that says how far a writer has come; more bytes may follow.
pub(crate) fn encode(writer: u64, round: u64) -> Vec<u8> {
    [writer.to_le_bytes(), round.to_le_bytes()].concat()
}

/// The table that a replay makes. A record may come again whose effect the snapshot has; it never goes back further.
pub(crate) fn rebuild(collected: &Collected) -> BTreeMap<u64, u64> {
    let mut table = BTreeMap::new();
    let number = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let decode = |bytes: &[u8]| (number(bytes, 0), number(bytes, 8));
    table.extend(collected.snapshot.iter().map(|bytes| decode(bytes)));
    for (_, bytes) in &collected.records {
        let (writer, round) = decode(bytes);
        let known = table.get(&writer).copied().unwrap_or(0);
        assert!(round <= known + 1, "round {} of writer {writer} is missing", known + 1);
        table.insert(writer, known.max(round));
    }
    table
}
