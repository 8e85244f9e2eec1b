//! A journal's directory on a simulated disk, looked at in every way there is.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use backhaul_journal::simulation::SimDisk;
use backhaul_journal::{
    Error, Journal, Lock, Lsn, Options, Preallocate, Replay, ReplayError, Report, Urgency, Verdict, dump, read, verify,
};

use super::counting::measure;

/// Most bytes of heap held at once while a journal is read, whatever its bytes are.
const HELD_BYTES_MAX: usize = 1024 * 1024;
/// How often each byte may be read by `read`, `verify` and `dump` together: by each of them once for its frames, once for
/// the proof that the end is torn and once for the search behind damage, and each snapshot once more to find whether it is
/// whole.
const READS_MAX: u64 = 16;
/// What is read of each file beyond that: its header, by everybody who asks it for its first LSN.
const HEADERS_BYTES_MAX: u64 = 8 * 1024;

/// What a replay was told, in the order it was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) snapshot: Vec<Vec<u8>>,
    pub(crate) records: Vec<(u64, Vec<u8>)>,
    pub(crate) gaps: Vec<(u64, u64)>,
}

impl Replay for Told {
    fn snapshot(&mut self, record: &[u8]) -> Result<(), ReplayError> {
        assert!(
            self.records.is_empty(),
            "a record of the log came before the snapshot's"
        );
        self.snapshot.push(record.to_vec());
        Ok(())
    }

    fn record(&mut self, lsn: Lsn, record: &[u8]) -> Result<(), ReplayError> {
        let last = self.records.last().map_or(0, |(last, _)| *last);
        assert!(
            lsn.0 > last || self.records.is_empty(),
            "record {} came after {last}",
            lsn.0
        );
        self.records.push((lsn.0, record.to_vec()));
        Ok(())
    }

    fn gap(&mut self, first: Lsn, next: Lsn) {
        self.gaps.push((first.0, next.0));
    }
}

/// Everything intact, as a dump shows it: the records of each snapshot by its LSN, and those of the log by theirs. One
/// that stands in two segments is there twice.
#[derive(Debug, Default)]
pub(crate) struct Dumped {
    snapshots: BTreeMap<u64, Vec<Vec<u8>>>,
    log: BTreeMap<u64, Vec<Vec<u8>>>,
}

impl Dumped {
    pub(crate) fn has(&self, lsn: u64, record: &[u8]) -> bool {
        self.log
            .get(&lsn)
            .is_some_and(|records| records.iter().any(|found| found == record))
    }

    pub(crate) fn has_in_snapshot(&self, record: &[u8]) -> bool {
        let mut records = self.snapshots.values().flatten();
        records.any(|found| found == record)
    }
}

/// Runs something that reads, and sees how much memory that takes; what it collects counts as well, and is little.
pub(crate) fn held<T>(what: &str, call: impl FnOnce() -> T) -> T {
    let (answer, _, most) = measure(call);
    assert!(most <= HELD_BYTES_MAX, "{what} holds {most} bytes of heap at once");
    answer
}

/// A directory with files of a fuzzer's making.
pub(crate) struct Directory {
    pub(crate) disk: SimDisk,
    pub(crate) path: PathBuf,
}

/// What looking at a directory brought to light.
pub(crate) struct Looks {
    pub(crate) read: Result<Report, Error>,
    pub(crate) told: Told,
    pub(crate) verified: Result<Report, Error>,
    /// Nothing where the dump met something that only a later version knows.
    pub(crate) dumped: Option<Dumped>,
}

pub(crate) fn segment_name(seq: u64) -> String {
    format!("{seq:016x}.seg")
}

pub(crate) fn part_name(lsn: u64, part: u32) -> String {
    format!("{lsn:016x}-{part:04x}.snap")
}

impl Directory {
    pub(crate) fn new() -> Self {
        let path = PathBuf::from("/j");
        let disk = SimDisk::new();
        disk.put_directory(&path);
        Self { disk, path }
    }

    /// A directory that a reader may find: what was made elsewhere, on the same disk.
    pub(crate) fn beside(&self, path: &str) -> Self {
        Self {
            disk: self.disk.clone(),
            path: path.into(),
        }
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        self.disk.put(&self.path.join(name), bytes);
    }

    /// Reads the directory in every way, and sees that these agree, change nothing, and take neither more memory nor more
    /// reads than they may.
    pub(crate) fn look(&self) -> Looks {
        let before = self.disk.everything();
        let storage = self.disk.storage();
        let read_bytes = self.disk.read_bytes();
        let mut told = Told::default();
        let outcome = held("read", || read(&storage, &self.path, &mut told));
        let verified = held("verify", || verify(&storage, &self.path));
        let dumped = held("dump", || self.dump());
        self.assert_linear(read_bytes, before.values().map(Vec::len).sum(), before.len());
        assert_eq!(self.disk.everything(), before, "reading changed a file");
        match (&outcome, &verified) {
            (Ok(report), Ok(verified)) => {
                assert_eq!(
                    verified.corruption, None,
                    "what can be read is called damaged by verify"
                );
                assert_eq!(
                    (verified.next, verified.id),
                    (report.next, report.id),
                    "read and verify disagree"
                );
            }
            (Err(Error::Corrupt(_)), Ok(verified)) => {
                assert_eq!(
                    verified.verdict(),
                    Verdict::Corrupt,
                    "what cannot be read is no damage to verify"
                );
            }
            _ => {}
        }
        if let (Ok(report), Some(dumped)) = (&outcome, &dumped) {
            for (lsn, record) in &told.records {
                assert!(dumped.has(*lsn, record), "record {lsn} is read and not dumped");
            }
            let snapshot = report
                .snapshot
                .and_then(|snapshot| dumped.snapshots.get(&snapshot.lsn.0));
            // A frame of a kind that may be passed over takes numbers as well.
            let numbers = report.snapshot.map_or(0, |snapshot| snapshot.records);
            assert!(
                told.snapshot.len() as u64 <= numbers,
                "a snapshot has more records than it says"
            );
            // Parts beyond the snapshot's end may be left of one that was cut short.
            let snapshot = snapshot.map_or(&[][..], Vec::as_slice);
            assert!(snapshot.starts_with(&told.snapshot), "the snapshot is dumped otherwise");
        }
        Looks {
            read: outcome,
            told,
            verified,
            dumped,
        }
    }

    fn dump(&self) -> Option<Dumped> {
        let mut dumped = Dumped::default();
        let answer = dump(&self.disk.storage(), &self.path, &mut |entry| {
            let Some(record) = entry.record else {
                return ControlFlow::Continue(());
            };
            let (stem, extension) = entry.file.split_once('.').expect("a journal's files have an extension");
            let records = if extension == "snap" {
                let lsn = stem.split('-').next().and_then(|lsn| u64::from_str_radix(lsn, 16).ok());
                let lsn = lsn.expect("a snapshot's name begins with its LSN");
                dumped.snapshots.entry(lsn).or_default()
            } else {
                dumped.log.entry(entry.lsn.0).or_default()
            };
            records.push(record.to_vec());
            ControlFlow::Continue(())
        });
        answer.is_ok().then_some(dumped)
    }

    /// The work of a reader may not grow faster than what it reads.
    fn assert_linear(&self, read_bytes: u64, bytes: usize, files: usize) {
        let read_bytes = self.disk.read_bytes() - read_bytes;
        let read_bytes_max = READS_MAX * bytes as u64 + HEADERS_BYTES_MAX * files as u64;
        assert!(
            read_bytes <= read_bytes_max,
            "{read_bytes} bytes are read of {files} files with {bytes} bytes"
        );
    }

    /// Opens the directory for writing, if that can be.
    pub(crate) fn open(&self) -> Result<(Journal, Report, Told), Error> {
        let options = Options {
            segment_bytes: 4096,
            first_segment_bytes: 4096,
            preallocate: Preallocate::None,
            reserve: false,
            journal_id: Some([1; 16]),
            ..Options::default()
        };
        let storage = self.disk.storage();
        let lock = Lock::acquire(&storage, Path::new("/lock"), true)?;
        let mut told = Told::default();
        let (journal, report) = Journal::open(storage, &self.path, lock, options, &mut told)?;
        Ok((journal, report, told))
    }

    /// Opens the directory twice and writes to it. What reading found is what opening finds, and again; what opening
    /// refuses it leaves alone, and what it takes it never changes.
    pub(crate) fn open_twice(&self, looks: &Looks) {
        let before = self.disk.everything();
        let has_journal = !matches!(looks.read, Err(Error::NoJournal(_)));
        let (journal, report, told) = match self.open() {
            Ok(opened) => opened,
            Err(error) => {
                self.assert_kept(&before, "that could not be opened");
                assert_eq!(self.names(), names_in(&before), "a refused open made or removed a file");
                let explained = looks.read.is_err() || matches!(error, Error::Unsupported(..) | Error::TooMany(..));
                assert!(explained, "what can be read cannot be opened: {error:?}");
                return;
            }
        };
        self.assert_kept(&before, "that were opened");
        if has_journal {
            let read = looks.read.as_ref().expect("what can be opened can be read");
            assert_eq!((report.next, report.id), (read.next, read.id), "read and open disagree");
            assert_eq!(told, looks.told, "open replays something else than read");
        }
        let last = journal
            .append(b"more", Urgency::Normal)
            .expect("an opened journal takes a record");
        journal.sync(last).expect("an opened journal makes a record durable");
        drop(journal);
        let (journal, again, mut told_again) = self.open().expect("what was opened once can be opened again");
        assert!(
            again.id == report.id && again.proven >= report.next,
            "an open took back what it had vouched for"
        );
        let more = told_again.records.pop();
        assert_eq!(more, Some((last.0, b"more".to_vec())), "an appended record is gone");
        assert_eq!(
            told_again, told,
            "the second open replays something else than the first"
        );
        self.assert_kept(&before, "that were opened twice");
        journal.close().expect("an opened journal can be closed");
    }

    /// Every file but temporary ones is as it was.
    pub(crate) fn assert_kept(&self, before: &BTreeMap<PathBuf, Vec<u8>>, what: &str) {
        for (path, bytes) in before {
            let is_temporary = path.extension().is_some_and(|extension| extension == "tmp");
            let is_kept = is_temporary || path == Path::new("/lock") || self.disk.find(path).as_ref() == Some(bytes);
            assert!(is_kept, "{} is another file among those {what}", path.display());
        }
    }

    fn names(&self) -> Vec<PathBuf> {
        names_in(&self.disk.everything())
    }
}

fn names_in(files: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<PathBuf> {
    let names = files.keys().filter(|path| *path != Path::new("/lock"));
    names.cloned().collect()
}
