//! Each single call to the disk fails once, and a crash follows: what was acknowledged is there, in order, and nothing
//! that was not appended.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backhaul_journal::{Error, Journal, Lsn, Options, Urgency};

use crate::support::{SimDisk, Unsynced, crash, lock, new_disk, open, small, try_open};

/// EIO, ENOSPC.
const ERRORS: [i32; 2] = [5, 28];

/// What a run of the script got acknowledged.
#[derive(Default)]
struct Run {
    appended: u64,
    acknowledged: u64,
}

fn record(number: u64) -> Vec<u8> {
    format!("record {number} {}", "y".repeat(300)).into_bytes()
}

impl Run {
    fn append(&mut self, journal: &Journal, count: u64) -> Result<(), Error> {
        for _ in 0..count {
            let lsn = journal.append(&record(self.appended + 1), Urgency::Normal)?;
            self.appended = lsn.0;
        }
        journal.sync(Lsn(self.appended))?;
        self.acknowledged = self.appended;
        Ok(())
    }

    /// Makes a journal, rotates, checkpoints twice, closes, and opens again.
    fn script(&mut self, disk: &SimDisk) -> Result<(), Error> {
        let options = Options {
            reserve: true,
            ..small()
        };
        let (journal, _, _) = try_open(disk, options)?;
        for _ in 0..4 {
            self.append(&journal, 2)?;
            self.append(&journal, 3)?;
            // A failed checkpoint is no reason to stop.
            let appended = self.appended;
            let _ = journal.checkpoint(&mut |snapshot| snapshot.record(&appended.to_le_bytes()));
        }
        journal.close()?;
        let (journal, _, _) = try_open(disk, options)?;
        self.append(&journal, 3)?;
        drop(journal);
        let (journal, _, _) = try_open(disk, options)?;
        self.append(&journal, 1)?;
        journal.close()
    }

    fn check(&self, disk: &SimDisk, way: &str) {
        let (journal, report, found) = try_open(disk, small()).unwrap_or_else(|error| panic!("{way}: {error:?}"));
        let covered = found
            .snapshot
            .first()
            .map_or(0, |bytes| u64::from_le_bytes(bytes.as_slice().try_into().unwrap()));
        let recovered = report.next.0 - 1;
        assert!(
            recovered >= self.acknowledged,
            "{way}: {recovered} of {} acknowledged",
            self.acknowledged
        );
        // A record whose append failed may be there all the same, but none beyond it.
        assert!(
            recovered <= self.appended + 1,
            "{way}: {recovered} of {}",
            self.appended
        );
        let expected: Vec<_> = (covered + 1..=recovered)
            .map(|number| (number, record(number)))
            .collect();
        assert_eq!(found.records, expected, "{way}");
        let next = journal.append(&record(recovered + 1), Urgency::Normal).unwrap();
        journal.sync(next).unwrap_or_else(|error| panic!("{way}: {error:?}"));
    }
}

/// Makes the nth call from now on fail.
fn fail_nth(disk: &SimDisk, nth: u64, error: i32) -> Arc<AtomicU64> {
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    disk.fail_with(move |_, _| {
        (counted.fetch_add(1, Ordering::Relaxed) + 1 == nth).then(|| io::Error::from_raw_os_error(error))
    });
    calls
}

#[test]
fn no_failing_call_loses_an_acknowledged_record() {
    for error in ERRORS {
        for nth in 1.. {
            let disk = new_disk();
            let calls = fail_nth(&disk, nth, error);
            let mut run = Run::default();
            let answer = run.script(&disk);
            if calls.load(Ordering::Relaxed) < nth {
                answer.unwrap();
                assert!(nth > 100, "the script makes {nth} calls");
                break;
            }
            disk.fail_no_more();
            for unsynced in [Unsynced::Lost, Unsynced::Kept] {
                run.check(
                    &crash(&disk, unsynced),
                    &format!("call {nth} fails with {error}, unsynced {unsynced:?}"),
                );
            }
        }
    }
}

#[test]
fn a_crash_at_any_call_of_an_open_loses_nothing() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    let mut run = Run::default();
    run.append(&journal, 2).unwrap();
    run.append(&journal, 3).unwrap();
    drop(journal);
    for before in [Unsynced::Lost, Unsynced::Kept] {
        for nth in 1.. {
            let crashed = crash(&disk, before);
            let calls = fail_nth(&crashed, nth, 5);
            let answer = try_open(&crashed, small());
            if calls.load(Ordering::Relaxed) < nth {
                answer.unwrap();
                assert!(nth > 8, "an open with a tail makes {nth} calls");
                break;
            }
            assert!(answer.is_err(), "call {nth}");
            crashed.fail_no_more();
            for unsynced in [Unsynced::Lost, Unsynced::Kept] {
                run.check(
                    &crash(&crashed, unsynced),
                    &format!("open fails at call {nth}, unsynced {unsynced:?}"),
                );
            }
        }
    }
}

#[test]
fn opening_again_and_again_after_a_kill_keeps_every_record() {
    let disk = new_disk();
    for round in 0..20 {
        let (journal, report, found) = open(&disk, small());
        assert_eq!((found.records.len() as u64, report.next.0), (round, round + 1));
        journal
            .sync(journal.append(&record(round + 1), Urgency::Normal).unwrap())
            .unwrap();
    }
    drop(lock(&disk));
    let (_, _, found) = open(&disk.lose_unsynced(), small());
    assert_eq!(
        found.records,
        (1..=20).map(|number| (number, record(number))).collect::<Vec<_>>()
    );
}
