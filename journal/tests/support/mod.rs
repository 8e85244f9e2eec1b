//! What the tests of the journal share: a disk in memory that can crash, fail and fill up, and a replay that collects.

pub(crate) mod memory;

use std::path::{Path, PathBuf};

use backhaul_journal::{Error, Journal, Lock, Lsn, Options, Preallocate, Replay, ReplayError, Report};

pub(crate) use memory::{Call, MemoryDisk, Unsynced};

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

pub(crate) fn lock(disk: &MemoryDisk) -> Lock {
    Lock::acquire(&disk.storage(), Path::new("/state/LOCK"), false).expect("nobody holds the lock")
}

/// Reads the journal without a lock.
pub(crate) fn read(disk: &MemoryDisk) -> Result<(Report, Collected), Error> {
    let mut collected = Collected::default();
    let report = backhaul_journal::read(&disk.storage(), &directory(), &mut collected)?;
    Ok((report, collected))
}

/// Opens the journal of a disk, with what it replays.
pub(crate) fn try_open(disk: &MemoryDisk, options: Options) -> Result<(Journal, Report, Collected), Error> {
    let mut collected = Collected::default();
    let (journal, report) = Journal::open(disk.storage(), &directory(), lock(disk), options, &mut collected)?;
    Ok((journal, report, collected))
}

pub(crate) fn open(disk: &MemoryDisk, options: Options) -> (Journal, Report, Collected) {
    try_open(disk, options).expect("the journal opens")
}
