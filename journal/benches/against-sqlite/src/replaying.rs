//! A journal read back, with and without a table made of it.

use std::collections::HashMap;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use backhaul_journal::{Journal, Lock, Lsn, Options, Replay, ReplayError, Urgency, read};

use crate::{Figures, Target, storage};

const RECORDS: u32 = 500_000;
/// Operations that the records are about.
const IDS: u32 = 50_000;
const SCANNED_BYTES: u64 = 1024 * 1024;
const FILE_HEADER_BYTES: usize = 64;
const FRAME_HEADER_BYTES: usize = 32;

/// Journals that are read again and again.
pub struct Logs {
    /// How many records share a frame, and where the journal is.
    replayed: [(u32, PathBuf); 2],
    scanned: PathBuf,
}

impl Logs {
    pub fn build(scratch: &Path) -> Logs {
        let replayed = [1, 16].map(|together| {
            let directory = scratch.join(format!("replay-{together}"));
            let journal = open(scratch, &directory);
            for first in (0..RECORDS).step_by(together as usize) {
                append(&journal, first, together);
            }
            journal.close().expect("the disk syncs");
            (together, directory)
        });
        let scanned = scratch.join("scan");
        let journal = open(scratch, &scanned);
        let mut next = 0;
        // Some 340 KiB wait for no commit yet, at most.
        while journal.stats().bytes < SCANNED_BYTES {
            append(&journal, next, 1);
            next += 1;
        }
        journal.close().expect("the disk syncs");
        Logs { replayed, scanned }
    }
}

fn open(scratch: &Path, directory: &Path) -> Journal {
    let lock = Lock::acquire(&storage(), &scratch.join("LOCK"), false).expect("nobody holds the lock");
    let (journal, _) = Journal::open(storage(), directory, lock, Options::default(), &mut Table::default())
        .expect("the journal opens");
    journal
}

/// Records of 100 bytes, as the progress of a download: whose, of which kind, how far.
fn append(journal: &Journal, first: u32, count: u32) {
    let records: Vec<[u8; 100]> = (first..first + count)
        .map(|number| {
            let mut record = [0; 100];
            let id = u128::from(number % IDS).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_0C30_6B5B_1E57);
            record[..16].copy_from_slice(&id.to_le_bytes());
            record[16] = 3;
            record[24..28].copy_from_slice(&number.to_le_bytes());
            record
        })
        .collect();
    let batch: Vec<&[u8]> = records.iter().map(|record| &record[..]).collect();
    journal
        .append_batch(&batch, Urgency::Normal)
        .expect("the journal takes it");
}

pub fn round(logs: &Logs, figures: &mut Figures) {
    for (together, directory) in &logs.replayed {
        let name = match together {
            1 => "1 record a frame".to_owned(),
            count => format!("{count} records a frame"),
        };
        let begun = Instant::now();
        let mut table = Table::default();
        read(&storage(), directory, &mut table).expect("the journal is whole");
        let seconds = begun.elapsed().as_secs_f64();
        assert_eq!((table.records, table.rows.len()), (RECORDS, IDS as usize));
        let files = segments(directory);
        let begun = Instant::now();
        let split: u32 = files.iter().map(|bytes| check_and_split(bytes)).sum();
        let floor = begun.elapsed().as_secs_f64();
        assert_eq!(split, RECORDS);
        let millions = f64::from(RECORDS) / 1e6;
        figures.add(
            &format!("floor: CRC and split, {name}"),
            "million/s",
            None,
            millions / floor,
        );
        figures.add(
            &format!("replay into a table, {name}"),
            "million/s",
            Some(Target::AtLeast(1.0)),
            millions / seconds,
        );
    }
    let begun = Instant::now();
    let mut table = Count(0);
    let report = read(&storage(), &logs.scanned, &mut table).expect("the journal is whole");
    let seconds = begun.elapsed().as_secs_f64();
    let bytes: u64 = report.segments.iter().map(|segment| segment.len_bytes).sum();
    assert!(bytes >= SCANNED_BYTES && table.0 > 0);
    let per_mib = seconds * SCANNED_BYTES as f64 / bytes as f64;
    figures.add("scan of 1 MiB", "ms", Some(Target::AtMost(10.0)), per_mib * 1e3);
}

/// The whole segments, in memory.
fn segments(directory: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(directory).expect("the journal is there");
    let paths = entries.map(|entry| entry.expect("the journal can be listed").path());
    let segments = paths.filter(|path| path.extension().is_some_and(|extension| extension == "seg"));
    segments
        .map(|path| fs::read(path).expect("the segment can be read"))
        .collect()
}

/// The least that any reader has to do: both checksums of each frame, and each record's place. Nothing is compared.
fn check_and_split(bytes: &[u8]) -> u32 {
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let (mut offset, mut records) = (FILE_HEADER_BYTES, 0);
    while offset + FRAME_HEADER_BYTES <= bytes.len() && number(offset) != 0 {
        let body = offset + FRAME_HEADER_BYTES;
        let body_len = number(offset + 8) as usize;
        let end = body + body_len.next_multiple_of(8);
        black_box(crc32fast::hash(&bytes[offset + 4..body]));
        black_box(crc32fast::hash(&bytes[body..end]));
        let mut at = body;
        while at < body + body_len {
            let len = usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
            black_box(&bytes[at + 2..at + 2 + len]);
            at += 2 + len;
            records += 1;
        }
        offset = end;
    }
    records
}

/// Operations by id, as the application of this journal keeps them.
#[derive(Default)]
struct Table {
    rows: HashMap<[u8; 16], Box<Row>>,
    records: u32,
}

#[derive(Default)]
struct Row {
    as_of: u64,
    kind: u8,
    bytes: u64,
    events: u32,
}

impl Replay for Table {
    fn snapshot(&mut self, _record: &[u8]) -> Result<(), ReplayError> {
        Err("these journals have no snapshot".into())
    }

    fn record(&mut self, lsn: Lsn, record: &[u8]) -> Result<(), ReplayError> {
        let (id, rest) = record.split_first_chunk::<16>().ok_or("a record without an id")?;
        let row = self.rows.entry(*id).or_default();
        row.as_of = lsn.0 + 1;
        row.kind = rest[0];
        row.bytes = u64::from_le_bytes(rest[8..16].try_into()?);
        row.events += 1;
        self.records += 1;
        Ok(())
    }
}

struct Count(u64);

impl Replay for Count {
    fn snapshot(&mut self, _record: &[u8]) -> Result<(), ReplayError> {
        Ok(())
    }

    fn record(&mut self, _lsn: Lsn, _record: &[u8]) -> Result<(), ReplayError> {
        self.0 += 1;
        Ok(())
    }
}
