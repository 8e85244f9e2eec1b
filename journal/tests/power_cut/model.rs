//! What an application may expect of its journal, and how a recovered journal is compared with that.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use backhaul_journal::simulation::SimDisk;
use backhaul_journal::{Error, Journal, Lock, Lsn, Options, Replay, ReplayError, Report, Verdict, dump, read, verify};

/// Records of a snapshot beside the one that counts.
const FILLERS: usize = 2;

pub(crate) fn directory() -> PathBuf {
    PathBuf::from("/state/journal")
}

/// Everything that was appended, and what of it was promised.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    /// By LSN, from 1 on.
    records: Vec<Record>,
    /// A checksum over the first so many records: the application's state.
    sums: Vec<u64>,
    /// So many were acknowledged, or handed out by an open.
    certain: usize,
    /// The LSN of the newest snapshot that was acknowledged.
    snapshot: u64,
    /// Records when the journal was opened.
    opened_with: usize,
    /// Whether a close vouched for records that were appended since the open, and nothing was appended since.
    closed: bool,
    numbers: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    /// Given once in a life, also to records that are lost.
    number: u32,
    len: u16,
    ends_batch: bool,
}

/// What happened to the disk before it is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// A crash: nothing promised may be missing, and nothing may be called damage.
    Crashed,
    /// Damage to bytes above which nothing was proven: records from this LSN on may be missing.
    Rotten { proven: u64 },
}

impl Default for Model {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            sums: vec![0],
            certain: 0,
            snapshot: 0,
            opened_with: 0,
            closed: false,
            numbers: 0,
        }
    }
}

impl Model {
    /// Writes down records of this length that are about to be appended together, and returns their bytes.
    pub(crate) fn push(&mut self, count: usize, len: usize) -> Vec<Vec<u8>> {
        self.closed = false;
        (1..=count)
            .map(|index| {
                self.numbers += 1;
                let record = Record {
                    number: self.numbers,
                    len: u16::try_from(len).unwrap(),
                    ends_batch: index == count,
                };
                let sum = self.sums[self.records.len()];
                self.records.push(record);
                self.sums
                    .push(sum.wrapping_mul(0x0100_0000_01B3) ^ u64::from(record.number) ^ len as u64);
                let mut bytes = Vec::new();
                record.fill(&mut bytes);
                bytes
            })
            .collect()
    }

    /// Forgets the last records, which were not taken.
    pub(crate) fn pop(&mut self, count: usize) {
        self.cut(self.records.len() - count);
    }

    fn cut(&mut self, count: usize) {
        self.records.truncate(count);
        self.sums.truncate(count + 1);
    }

    pub(crate) fn appended(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn acknowledge(&mut self, journal: &Journal) {
        let durable = usize::try_from(journal.durable().0).unwrap() - 1;
        assert!(durable <= self.records.len(), "more is durable than was appended");
        self.certain = self.certain.max(durable);
    }

    pub(crate) fn close(&mut self, is_brief: bool) {
        self.certain = self.records.len();
        // Without records of its own, a close relies on what it found, which may stand in the page cache only; and so does
        // the mark of a brief one.
        self.closed = !is_brief && self.records.len() > self.opened_with;
    }

    pub(crate) fn checkpoint(&mut self, lsn: Lsn) {
        self.snapshot = lsn.0;
    }

    /// The records of a snapshot of the state as it is now.
    pub(crate) fn state(&self) -> Vec<Vec<u8>> {
        let count = self.records.len();
        let mut first = (count as u64).to_le_bytes().to_vec();
        first.extend_from_slice(&self.sums[count].to_le_bytes());
        let mut records = vec![first];
        records.resize(1 + FILLERS, vec![u8::try_from(count & 0xFF).unwrap(); 40]);
        records
    }

    /// Opens the journal of a disk, and compares what it holds; from then on all of that is certain.
    pub(crate) fn open(&mut self, disk: &SimDisk, options: Options, fate: Fate) -> Result<Journal, Error> {
        let lock = Lock::acquire(&disk.storage(), Path::new("/state/LOCK"), false)?;
        let mut seen = Seen::new(self);
        let (journal, report) = Journal::open(disk.storage(), &directory(), lock, options, &mut seen)?;
        let state = seen.end(&report);
        self.judge(&report, state, fate);
        if self.closed && fate == Fate::Crashed {
            assert_eq!(report.relogged, 0, "the close was forgotten");
        }
        let left: Vec<String> = disk.names(&directory());
        assert!(
            !left.iter().any(|name| name.rsplit('.').next() == Some("tmp")),
            "left behind by the open: {left:?}"
        );
        let recovered = usize::try_from(report.next.0).unwrap() - 1;
        self.cut(recovered);
        self.certain = recovered;
        self.opened_with = recovered;
        Ok(journal)
    }

    /// Reads the journal of a disk without opening it.
    pub(crate) fn read(&self, disk: &SimDisk, directory: &Path, fate: Fate) -> Result<Report, Error> {
        let mut seen = Seen::new(self);
        let report = read(&disk.storage(), directory, &mut seen)?;
        let state = seen.end(&report);
        self.judge(&report, state, fate);
        Ok(report)
    }

    /// Reads a copy that a salvage made, in which records may be missing, and the number after the last one always is.
    pub(crate) fn read_copy(&self, disk: &SimDisk, directory: &Path) -> Result<Report, Error> {
        read(&disk.storage(), directory, &mut Seen::new(self))
    }

    /// Reads the journal of a disk in every way there is; `None` where there is none yet.
    pub(crate) fn look(&self, disk: &SimDisk, fate: Fate) -> Result<Option<Report>, Error> {
        let report = match self.read(disk, &directory(), fate) {
            Err(Error::NoJournal(_)) if self.certain == 0 => return Ok(None),
            answer => answer?,
        };
        let verified = verify(&disk.storage(), &directory())?;
        assert_eq!(verified.next, report.next, "read and verify disagree");
        if fate == Fate::Crashed {
            assert_ne!(verified.verdict(), Verdict::Corrupt, "a crash is called damage");
        }
        dump(&disk.storage(), &directory(), &mut |_| ControlFlow::Continue(()))?;
        Ok(Some(report))
    }

    fn judge(&self, report: &Report, state: usize, fate: Fate) {
        let recovered = usize::try_from(report.next.0).unwrap() - 1;
        let (certain, appended) = (self.certain, self.records.len());
        assert!(recovered <= appended, "{recovered} recovered, {appended} appended");
        assert!(
            state <= recovered,
            "the snapshot holds the effect of {state} records, the log only {recovered}"
        );
        let is_whole = recovered == 0 || self.records[recovered - 1].ends_batch;
        assert!(is_whole, "a batch was cut at record {recovered}");
        assert_eq!((report.missing, report.unknown.len()), (0, 0));
        match fate {
            Fate::Crashed => {
                assert!(
                    recovered >= certain,
                    "{certain} records were promised, {recovered} are there"
                );
                assert!(
                    report.damaged_snapshots.is_empty(),
                    "a crash damaged a snapshot: {report:?}"
                );
                let lsn = report.snapshot.map_or(0, |snapshot| snapshot.lsn.0);
                assert!(
                    lsn >= self.snapshot,
                    "the snapshot at {} is gone, that at {lsn} is used",
                    self.snapshot
                );
            }
            Fate::Rotten { proven } => assert!(
                recovered as u64 + 1 >= proven,
                "{recovered} records are there, all below {proven} were proven: lost in silence"
            ),
        }
    }
}

impl Record {
    fn fill(self, bytes: &mut Vec<u8>) {
        bytes.clear();
        bytes.extend(self.number.to_le_bytes());
        bytes.resize(usize::from(self.len), (self.number & 0xFF) as u8 | 1);
        bytes.truncate(usize::from(self.len));
    }
}

/// Compares what is replayed with the model, record by record.
struct Seen<'m> {
    model: &'m Model,
    snapshot_records: usize,
    /// Records whose effect the snapshot holds.
    state: usize,
    next: Option<u64>,
    first: Option<u64>,
    expected: Vec<u8>,
}

impl<'m> Seen<'m> {
    fn new(model: &'m Model) -> Self {
        Self {
            model,
            snapshot_records: 0,
            state: 0,
            next: None,
            first: None,
            expected: Vec::new(),
        }
    }

    /// Checks that the records were dense, and returns how many have an effect in the snapshot.
    fn end(self, report: &Report) -> usize {
        let from = report.snapshot.map_or(1, |snapshot| snapshot.lsn.0);
        match (self.first, self.next) {
            (Some(first), Some(next)) => assert_eq!((first, next), (from, report.next.0), "records are missing"),
            _ => assert_eq!(report.next.0, from, "no record was replayed"),
        }
        let records = if report.snapshot.is_some() { 1 + FILLERS } else { 0 };
        assert_eq!(
            self.snapshot_records, records,
            "records of the snapshot are missing or too many"
        );
        assert!(
            report.snapshot.is_none() || self.state as u64 + 1 >= from,
            "the snapshot lacks records that it covers"
        );
        self.state
    }
}

impl Replay for Seen<'_> {
    fn snapshot(&mut self, record: &[u8]) -> Result<(), ReplayError> {
        assert!(self.first.is_none(), "the snapshot comes first");
        if self.snapshot_records == 0 {
            let (count, sum) = record.split_first_chunk::<8>().unwrap();
            self.state = usize::try_from(u64::from_le_bytes(*count)).unwrap();
            let expected = self.model.sums.get(self.state);
            assert_eq!(
                expected.map(|sum| sum.to_le_bytes()).as_ref().map(<[u8; 8]>::as_slice),
                Some(sum),
                "the snapshot is of another state"
            );
        } else {
            assert_eq!(
                record,
                [u8::try_from(self.state & 0xFF).unwrap(); 40],
                "a record of the snapshot is wrong"
            );
        }
        self.snapshot_records += 1;
        Ok(())
    }

    fn record(&mut self, lsn: Lsn, record: &[u8]) -> Result<(), ReplayError> {
        assert!(
            self.next.is_none_or(|next| next == lsn.0),
            "record {} came after {:?}",
            lsn.0,
            self.next
        );
        let index = usize::try_from(lsn.0).unwrap() - 1;
        let expected = self.model.records.get(index);
        let expected = expected.unwrap_or_else(|| panic!("record {} was never appended", lsn.0));
        expected.fill(&mut self.expected);
        assert_eq!(record, self.expected, "record {} is another one", lsn.0);
        self.first.get_or_insert(lsn.0);
        self.next = Some(lsn.0 + 1);
        Ok(())
    }

    fn gap(&mut self, first: Lsn, next: Lsn) {
        assert!(self.next.is_none_or(|next| next == first.0));
        self.next = Some(next.0);
    }

    fn reset(&mut self) -> Result<(), ReplayError> {
        *self = Self::new(self.model);
        Ok(())
    }
}

/// A replay that keeps nothing.
pub(crate) struct Nothing;

impl Replay for Nothing {
    fn snapshot(&mut self, _record: &[u8]) -> Result<(), ReplayError> {
        Ok(())
    }

    fn record(&mut self, _lsn: Lsn, _record: &[u8]) -> Result<(), ReplayError> {
        Ok(())
    }
}
