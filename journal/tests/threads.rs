//! Many threads at once, and power cuts while they are at it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use backhaul_journal::{Journal, Options, SnapshotWriter, Urgency};

use crate::support::{Call, Fault, Unsynced, crash, encode, new_disk, open, read, rebuild, small};

const WRITERS: usize = 6;
/// So many at least, and more while not all threads have come to write.
const CUTS: usize = 60;
const CUTS_MAX: usize = 100_000;

/// How far each writer has come, as an application would keep it: the lock is held while a record is appended.
#[derive(Default)]
struct Table(Mutex<BTreeMap<u64, u64>>);

impl Table {
    fn append(&self, journal: &Journal, writer: u64, round: u64) -> backhaul_journal::Lsn {
        let mut table = self.0.lock().unwrap();
        let lsn = journal.append(&encode(writer, round), Urgency::Normal).unwrap();
        table.insert(writer, round);
        lsn
    }

    fn write(&self, snapshot: &mut SnapshotWriter<'_>) -> Result<(), backhaul_journal::Error> {
        let table = self.0.lock().unwrap();
        table
            .iter()
            .try_for_each(|(writer, round)| snapshot.record(&encode(*writer, *round)))
    }
}

/// Ends the other threads when this one ends, also by a failed assertion.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn power_cuts_among_writers_and_checkpoints_lose_nothing_acknowledged() {
    let disk = new_disk();
    let (journal, _, _) = open(
        &disk,
        Options {
            reserve: true,
            ..small()
        },
    );
    let table = Table::default();
    let acknowledged: Vec<AtomicU64> = (0..WRITERS).map(|_| AtomicU64::new(0)).collect();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for (acknowledged, writer) in acknowledged.iter().zip(0..) {
            let (journal, table, done) = (&journal, &table, &done);
            scope.spawn(move || {
                for round in 1.. {
                    if done.load(Ordering::SeqCst) {
                        break;
                    }
                    let lsn = table.append(journal, writer, round);
                    journal.sync(lsn).unwrap();
                    acknowledged.store(round, Ordering::SeqCst);
                }
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                journal.checkpoint(&mut |snapshot| table.write(snapshot)).unwrap();
            }
        });
        let _ends = Ends(&done);
        let all_write = || acknowledged.iter().all(|round| round.load(Ordering::SeqCst) > 0);
        for cut in (0..CUTS_MAX).take_while(|cut| *cut < CUTS || !all_write()) {
            let before: Vec<u64> = acknowledged.iter().map(|round| round.load(Ordering::SeqCst)).collect();
            let crashed = crash(&disk, if cut % 2 == 0 { Unsynced::Lost } else { Unsynced::Kept });
            let (_, collected) = read(&crashed).unwrap_or_else(|error| panic!("after {before:?}: {error:?}"));
            let found = rebuild(&collected);
            for (writer, round) in (0..).zip(&before) {
                assert!(
                    found.get(&writer).copied().unwrap_or(0) >= *round,
                    "writer {writer}: {found:?} {before:?}"
                );
            }
        }
    });
    let rounds: BTreeMap<u64, u64> = (0..)
        .zip(acknowledged.iter().map(|round| round.load(Ordering::SeqCst)))
        .collect();
    assert_eq!(journal.stats().records, rounds.values().sum());
    journal.close().unwrap();
    let (_, _, collected) = open(&disk, small());
    assert_eq!(rebuild(&collected), rounds);
}

#[test]
fn readers_beside_a_busy_writer_never_see_damage() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    let table = Table::default();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1.. {
                if done.load(Ordering::SeqCst) {
                    break;
                }
                let lsn = table.append(&journal, 0, round);
                journal.sync(lsn).unwrap();
                if round % 100 == 0 {
                    journal.checkpoint(&mut |snapshot| table.write(snapshot)).unwrap();
                }
            }
        });
        let _ends = Ends(&done);
        let has_written = || journal.stats().checkpoints > 0;
        for _ in (0..CUTS_MAX).take_while(|cut| *cut < CUTS || !has_written()) {
            match read(&disk) {
                Ok((_, collected)) => drop(rebuild(&collected)),
                Err(backhaul_journal::Error::Changing(_)) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    });
}

#[test]
fn a_commit_delay_gathers_records_and_changes_nothing_else() {
    let disk = new_disk();
    let (journal, _, _) = open(
        &disk,
        Options {
            commit_delay: Duration::from_millis(1),
            ..small()
        },
    );
    let table = Table::default();
    thread::scope(|scope| {
        for writer in 0..WRITERS as u64 {
            let (journal, table) = (&journal, &table);
            scope.spawn(move || {
                for round in 1..=10 {
                    journal.sync(table.append(journal, writer, round)).unwrap();
                }
            });
        }
    });
    assert_eq!(journal.stats().records, 60);
    let (_, _, collected) = open(&disk.lose_unsynced(), small());
    assert!(rebuild(&collected).values().all(|round| *round == 10));
}

#[test]
fn on_a_slow_device_a_sync_serves_nearly_half_of_the_threads_with_one_write() {
    // Enough that the first commits, when not all threads run yet, do not decide.
    for (threads, rounds) in [(16, 100), (64, 60)] {
        let disk = new_disk();
        let (journal, _, _) = open(
            &disk,
            Options {
                first_segment_bytes: 1 << 20,
                ..small()
            },
        );
        let (writes, syncs) = (disk.calls(Call::Write), disk.calls(Call::Sync));
        // The device is slower than the threads, so that the count does not hang on how fast this machine is.
        let appended = Arc::new(AtomicU64::new(0));
        disk.fail_with({
            let appended = Arc::clone(&appended);
            move |call, _| {
                let mut before = u64::MAX;
                while call == Call::Sync && before != appended.load(Ordering::SeqCst) {
                    before = appended.load(Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(2));
                }
                None::<Fault>
            }
        });
        let start = Barrier::new(threads);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    start.wait();
                    for _ in 0..rounds {
                        let lsn = journal.append(&[7; 100], Urgency::Normal).unwrap();
                        appended.fetch_add(1, Ordering::SeqCst);
                        journal.sync(lsn).unwrap();
                    }
                });
            }
        });
        let stats = journal.stats();
        assert_eq!(stats.records, (threads * rounds) as u64);
        assert_eq!(
            (disk.calls(Call::Write) - writes, disk.calls(Call::Sync) - syncs),
            (stats.groups, stats.groups)
        );
        assert!(stats.records * 10 >= stats.groups * threads as u64 * 4, "{stats:?}");
        // Eight or more in a frame would take 107 each; the few smaller groups are the first and the last.
        assert!(stats.bytes <= stats.records * 110, "{stats:?}");
    }
}
