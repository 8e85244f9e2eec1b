//! Records made durable one by one, each before its thread goes on.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use backhaul_journal::{Journal, Lock, Lsn, Options, Replay, ReplayError, Urgency};
use rusqlite::Connection;

use crate::{Figures, Target, storage};

const RECORD: [u8; 100] = [7; 100];
/// What such a record takes in the journal where it is alone in its frame.
const FRAME: [u8; 136] = [7; 136];
/// Of the floor's file, as the journal makes its segments.
const SEGMENT_BYTES: usize = 256 * 1024;
const SEGMENT_HEADER_BYTES: usize = 64;

pub fn round(scratch: &Path, round: usize, time: Duration, figures: &mut Figures) {
    let directory = scratch.join(format!("commits-{round}"));
    fs::create_dir(&directory).expect("the scratch directory can be written");
    alone(&directory, time, figures);
    let sqlite_alone = sqlite_per_second(&directory, 1, time);
    figures.add("SQLite, 1 thread", "commits/s", None, sqlite_alone);
    for threads in [16, 64] {
        let journal = journal_per_second(&directory, threads, time);
        let sqlite = sqlite_per_second(&directory, threads, time);
        figures.add(&format!("journal, {threads} threads"), "commits/s", None, journal);
        figures.add(&format!("SQLite, {threads} threads"), "commits/s", None, sqlite);
        let ratio = journal / sqlite.max(sqlite_alone);
        figures.add(
            &format!("journal : SQLite at its best, {threads} threads"),
            "times",
            Some(Target::AtLeast(8.0)),
            ratio,
        );
    }
    fs::remove_dir_all(&directory).expect("the scratch directory can be removed");
}

/// One thread: the journal and the bare disk in turns, record by record, so that both meet the same disk. Who goes first
/// changes too.
fn alone(directory: &Path, time: Duration, figures: &mut Figures) {
    let journal = open(directory);
    let mut floor = Floor::new(directory);
    let (mut in_journal, mut on_disk) = (Vec::new(), Vec::new());
    let end = Instant::now() + 2 * time;
    while Instant::now() < end {
        in_journal.push(measure(|| commit(&journal)));
        for _ in 0..2 {
            let offset = floor.offset();
            on_disk.push(measure(|| floor.commit(offset)));
        }
        in_journal.push(measure(|| commit(&journal)));
    }
    let (journal, floor) = (median(&mut in_journal), median(&mut on_disk));
    figures.add("floor: pwrite and fdatasync, p50", "us", None, floor * 1e6);
    figures.add("journal: append and sync, 1 thread, p50", "us", None, journal * 1e6);
    figures.add(
        "journal : floor, p50",
        "times",
        Some(Target::AtMost(1.15)),
        journal / floor,
    );
}

/// A file of zeros, as the journal's, written to front to back.
struct Floor {
    file: File,
    end: usize,
}

impl Floor {
    fn new(directory: &Path) -> Floor {
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(true)
            .open(directory.join("floor"))
            .expect("a file");
        let mut floor = Floor { file, end: 0 };
        floor.fill();
        floor
    }

    fn fill(&mut self) {
        self.file.set_len(0).expect("the file can be cut");
        self.file
            .write_all_at(&vec![0; SEGMENT_BYTES], 0)
            .expect("there is room");
        self.file.sync_all().expect("the disk syncs");
        self.end = SEGMENT_HEADER_BYTES;
    }

    fn offset(&mut self) -> u64 {
        if self.end + FRAME.len() > SEGMENT_BYTES {
            self.fill();
        }
        let offset = self.end as u64;
        self.end += FRAME.len();
        offset
    }

    fn commit(&self, offset: u64) {
        self.file.write_all_at(&FRAME, offset).expect("there is room");
        self.file.sync_data().expect("the disk syncs");
    }
}

fn journal_per_second(directory: &Path, threads: usize, time: Duration) -> f64 {
    let journal = open(directory);
    let rate = per_second(threads, time, |_| commit(&journal));
    drop(journal);
    fs::remove_dir_all(directory.join("journal")).expect("the journal can be removed");
    rate
}

/// One connection, which the threads share in turn: SQLite takes one writer at a time, so that threads with connections
/// of their own would only poll for the file's lock.
fn sqlite_per_second(directory: &Path, threads: usize, time: Duration) -> f64 {
    let path = directory.join("sqlite");
    let connection = Connection::open(&path).expect("SQLite opens");
    let mode: String = connection
        .query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))
        .expect("SQLite answers");
    connection
        .execute_batch("PRAGMA synchronous=FULL; CREATE TABLE record (lsn INTEGER PRIMARY KEY, body BLOB)")
        .expect("SQLite makes a table");
    let synchronous: u32 = connection
        .query_row("PRAGMA synchronous", [], |row| row.get(0))
        .expect("SQLite answers");
    assert_eq!((mode.as_str(), synchronous), ("wal", 2), "SQLite syncs each commit");
    let connection = Mutex::new(connection);
    let rate = per_second(threads, time, |_| {
        let connection = connection.lock().expect("no thread panics");
        let mut insert = connection
            .prepare_cached("INSERT INTO record (body) VALUES (?1)")
            .expect("SQLite prepares");
        insert.execute([&RECORD[..]]).expect("SQLite commits");
    });
    drop(connection);
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(directory.join(format!("sqlite{suffix}")));
    }
    rate
}

fn per_second(threads: usize, time: Duration, commit: impl Fn(usize) + Sync) -> f64 {
    let start = Barrier::new(threads);
    let (commits, seconds) = thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|thread| {
                let (start, commit) = (&start, &commit);
                scope.spawn(move || {
                    start.wait();
                    let begun = Instant::now();
                    let mut commits = 0_u32;
                    while begun.elapsed() < time {
                        commit(thread);
                        commits += 1;
                    }
                    (commits, begun.elapsed().as_secs_f64())
                })
            })
            .collect();
        let each = all.into_iter().map(|thread| thread.join().expect("no thread panics"));
        each.fold((0, 0.0_f64), |sum, one| (sum.0 + one.0, sum.1.max(one.1)))
    });
    f64::from(commits) / seconds
}

fn open(directory: &Path) -> Journal {
    let lock = Lock::acquire(&storage(), &directory.join("LOCK"), false).expect("nobody holds the lock");
    let (journal, _) = Journal::open(
        storage(),
        &directory.join("journal"),
        lock,
        Options::default(),
        &mut Nothing,
    )
    .expect("the journal opens");
    journal
}

fn commit(journal: &Journal) {
    let lsn = journal.append(&RECORD, Urgency::Normal).expect("the journal takes it");
    journal.sync(lsn).expect("the disk syncs");
}

fn measure(call: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    call();
    begun.elapsed().as_secs_f64()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

struct Nothing;

impl Replay for Nothing {
    fn snapshot(&mut self, _record: &[u8]) -> Result<(), ReplayError> {
        Ok(())
    }

    fn record(&mut self, _lsn: Lsn, _record: &[u8]) -> Result<(), ReplayError> {
        Ok(())
    }
}
