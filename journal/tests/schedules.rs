//! Group commit, rotation, checkpoints and the end of the journal, in schedules drawn by chance.
//!
//! The threads of a test run one at a time, and at each lock, wait, delay and call to the disk a scheduler decides who
//! goes on. Where threads are left and none of them can go on, a wake-up was lost, and the test fails.
//!
//! `cargo test -p backhaul-journal --features shuttle --test schedules`, with these in the environment:
//!
//! - `BACKHAUL_SCHEDULES`: schedules for each test, 10,000 where it is not set. One half is drawn evenly, the other with
//!   few changes of thread, at places drawn by chance (PCT).
//! - `BACKHAUL_TEST_SEED`: what they are drawn from, 1 where it is not set.
//! - `BACKHAUL_REPLAY`: one schedule, as a failure prints it, in place of all these.
//!
//! Nothing here needs a model of weak memory: the journal shares its state under one lock and has no atomics.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[expect(dead_code, reason = "the other tests of the journal need all of it")]
mod support;

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use std::{any, env};

use backhaul_journal::{Error, Journal, Lsn, Options, Urgency};
use shuttle::rand::{Rng as _, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler};
use shuttle::sync::Mutex;
use shuttle::thread::{JoinHandle, sleep, spawn};
use shuttle::{Config, Runner};

use backhaul_journal::simulation::Choices;
use support::{Call, Fault, SimDisk, encode, new_disk, open, read, rebuild, small};

/// Changes of thread that a bug needs at most to be found soon by the second half of the schedules.
const PCT_DEPTH: usize = 4;
/// A schedule of the largest test takes some hundred steps.
const STEPS_MAX: usize = 100_000;
/// Two of these do not fit into one group.
const LARGE_BYTES: usize = 32 * 1024;
/// Two of these do not fit into one segment of 4 KiB.
const HALF_SEGMENT_BYTES: usize = 2000;

// ---- the tests ----

#[test]
fn an_ok_of_sync_means_that_the_record_was_synced_before() {
    explore(|| {
        let world = World::new(small());
        let watcher = world.watch_durable();
        world.write_from_threads(3, 2, 40);
        watcher.join().unwrap();
        world.close_and_find(6);
    });
}

#[test]
fn a_rotation_among_commits_loses_no_record_and_no_wakeup() {
    explore(|| {
        let world = World::new(small());
        let watcher = world.watch_durable();
        world.write_from_threads(3, 2, HALF_SEGMENT_BYTES);
        watcher.join().unwrap();
        assert!(world.journal.stats().rotations >= 2);
        world.close_and_find(6);
    });
}

#[test]
fn a_commit_delay_keeps_every_promise() {
    explore(|| {
        let world = World::new(Options {
            commit_delay: Duration::from_millis(1),
            ..small()
        });
        let watcher = world.watch_durable();
        world.write_from_threads(3, 2, 40);
        watcher.join().unwrap();
        world.close_and_find(6);
    });
}

#[test]
fn an_append_that_waits_for_room_gets_it() {
    explore(|| {
        let world = World::new(Options {
            group_bytes_max: 0,
            ..small()
        });
        world.in_threads(3, |world, writer| {
            for round in 1..=2 {
                world.journal.append(&large(writer, round), Urgency::Normal).unwrap();
            }
        });
        assert!(
            world.journal.stats().groups >= 5,
            "no more than one record waits for a commit"
        );
        world.journal.sync(Lsn(6)).unwrap();
        assert!(world.is_durable(&large(2, 2)));
        world.close_and_find(6);
    });
}

#[test]
fn a_batch_becomes_durable_as_a_whole_among_single_records() {
    explore(|| {
        let world = World::new(small());
        world.in_threads(3, |world, writer| {
            for round in 1..=2 {
                let pair = [1, 2].map(|half| encode(writer, 2 * round + half));
                let batch = [pair[0].as_slice(), pair[1].as_slice()];
                let lsn = world.journal.append_batch(&batch, Urgency::Normal).unwrap();
                // The first of the two: it must bring the other with it.
                world.journal.sync(Lsn(lsn.0 - 1)).unwrap();
                assert!(world.is_durable(&pair[0]) && world.is_durable(&pair[1]));
                let single = encode(writer, 100 + round);
                world
                    .journal
                    .sync(world.journal.append(&single, Urgency::Normal).unwrap())
                    .unwrap();
                assert!(world.is_durable(&single));
            }
        });
        world.close_and_find(18);
    });
}

#[test]
fn checkpoints_beside_appends_and_rotations_lose_nothing_acknowledged() {
    const ROUNDS: u64 = 3;
    explore(|| {
        let world = World::new(small());
        // The lock is held while a record is appended, as an application has to.
        let table = Arc::new(Mutex::new(BTreeMap::new()));
        let acknowledged: Arc<[AtomicU64; 2]> = Arc::default();
        let mut threads = Vec::new();
        for writer in [0, 1] {
            let (world, table, acknowledged) = (world.clone(), Arc::clone(&table), Arc::clone(&acknowledged));
            threads.push(spawn(move || {
                for round in 1..=ROUNDS {
                    let lsn = {
                        let mut table = table.lock().unwrap();
                        let mut record = encode(writer, round);
                        record.resize(HALF_SEGMENT_BYTES, 0);
                        let lsn = world.journal.append(&record, Urgency::Normal).unwrap();
                        table.insert(writer, round);
                        lsn
                    };
                    world.journal.sync(lsn).unwrap();
                    acknowledged[usize::try_from(writer).unwrap()].store(round, Ordering::SeqCst);
                }
            }));
        }
        threads.push(spawn({
            let (world, table) = (world.clone(), Arc::clone(&table));
            move || {
                for _ in 0..2 {
                    let write = &mut |snapshot: &mut backhaul_journal::SnapshotWriter<'_>| {
                        let table = table.lock().unwrap();
                        table.iter().try_for_each(|(w, r)| snapshot.record(&encode(*w, *r)))
                    };
                    world.journal.checkpoint(write).unwrap();
                }
            }
        }));
        threads.push(spawn({
            let (world, acknowledged) = (world.clone(), Arc::clone(&acknowledged));
            move || {
                for _ in 0..3 {
                    sleep(Duration::ZERO);
                    let before = [0, 1].map(|writer: usize| acknowledged[writer].load(Ordering::SeqCst));
                    let (_, found) = read(&world.cut_power()).expect("a power cut leaves no damage");
                    let found = rebuild(&found);
                    for (writer, round) in (0..).zip(before) {
                        assert!(
                            found.get(&writer).copied().unwrap_or(0) >= round,
                            "{found:?} {before:?}"
                        );
                    }
                }
            }
        }));
        join_all(threads);
        let found = world.close().1;
        assert_eq!(rebuild(&found), BTreeMap::from([(0, ROUNDS), (1, ROUNDS)]));
    });
}

#[test]
fn whoever_leads_a_commit_that_fails_tells_all_and_nothing_is_acknowledged_after_it() {
    explore(|| {
        let world = World::new(small());
        let failure = Failure::draw(&world.disk);
        world.in_threads(3, |world, writer| {
            for round in 1..=2 {
                let mut record = encode(writer, round);
                record.resize(HALF_SEGMENT_BYTES, 0);
                let commit = || world.journal.sync(world.journal.append(&record, Urgency::Normal)?);
                match catch_unwind(AssertUnwindSafe(commit)) {
                    Ok(Ok(())) => assert!(world.is_durable(&record)),
                    Ok(Err(Error::Poisoned(cause))) => {
                        assert!(matches!(*cause, Error::Io(..) | Error::Panicked(_)), "{cause:?}");
                        break;
                    }
                    Err(payload) if payload.is::<DiskPanics>() => break,
                    Err(payload) => resume_unwind(payload),
                    Ok(Err(error)) => panic!("{error:?}"),
                }
            }
        });
        if failure.has_come() {
            let answer = world.journal.append(b"later", Urgency::Critical);
            assert!(matches!(answer, Err(Error::Poisoned(_))));
            assert!(matches!(
                world.journal.checkpoint(&mut |_| Ok(())),
                Err(Error::Poisoned(_))
            ));
            let durable = world.journal.durable();
            let journal = Arc::into_inner(world.journal).unwrap();
            assert!(matches!(journal.close(), Err(Error::Poisoned(_))));
            let (report, _) = read(&world.disk.lose_unsynced()).unwrap();
            assert!(report.next >= durable);
        } else {
            world.disk.fail_no_more();
            world.close_and_find(6);
        }
    });
}

#[test]
fn a_full_disk_refuses_no_critical_record_and_keeps_nobody_waiting() {
    explore(|| {
        let world = World::new(Options {
            reserve: true,
            group_bytes_max: 0,
            ..small()
        });
        world.disk.set_capacity(world.disk.used() + 1000);
        let mut threads: Vec<JoinHandle<()>> = Vec::new();
        for (writer, urgency) in [(0, Urgency::Critical), (1, Urgency::Critical), (2, Urgency::Normal)] {
            let world = world.clone();
            threads.push(spawn(move || {
                for round in 1..=3 {
                    let mut record = encode(writer, round);
                    record.resize(HALF_SEGMENT_BYTES, 0);
                    match world.journal.append(&record, urgency) {
                        Ok(lsn) => {
                            world.journal.sync(lsn).unwrap();
                            assert!(world.is_durable(&record));
                        }
                        Err(Error::DiskFull(_)) if urgency == Urgency::Normal => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }));
        }
        threads.push(spawn({
            let disk = world.disk.clone();
            move || {
                sleep(Duration::ZERO);
                disk.set_capacity(usize::MAX);
            }
        }));
        join_all(threads);
        let last = world.journal.append(b"room again", Urgency::Normal).unwrap();
        world.close_and_find(usize::try_from(last.0).unwrap());
    });
}

#[test]
fn whoever_is_the_last_to_let_go_closes_a_journal_with_everything_in_it() {
    explore(|| {
        let world = World::new(small());
        let disk = world.disk.clone();
        let journal = Arc::clone(&world.journal);
        drop(world);
        let threads: Vec<_> = (0..3)
            .map(|writer| {
                let journal = Arc::clone(&journal);
                spawn(move || {
                    for round in 1..=2 {
                        let lsn = journal.append(&encode(writer, round), Urgency::Normal).unwrap();
                        if thread_rng().r#gen() {
                            journal.sync(lsn).unwrap();
                        }
                    }
                    Arc::into_inner(journal).is_some_and(|journal| journal.close().is_ok())
                })
            })
            .collect();
        let mut closed = Arc::into_inner(journal).is_some_and(|journal| journal.close().is_ok());
        for thread in threads {
            closed |= thread.join().unwrap();
        }
        assert!(closed);
        find(&disk, 6);
    });
}

// ---- what they share ----

/// A journal on a disk whose every call lets other threads run first.
#[derive(Clone)]
struct World {
    disk: SimDisk,
    journal: Arc<Journal>,
}

impl World {
    fn new(options: Options) -> World {
        let disk = new_disk();
        let (journal, _, _) = open(&disk, options);
        if options.reserve {
            // It is set aside by the first commit; the records of the test begin after this one.
            journal
                .sync(journal.append(b"first", Urgency::Normal).unwrap())
                .unwrap();
        }
        // Not `yield_now`, after which PCT would let the thread run last.
        disk.fail_each_with(|_, _| {
            sleep(Duration::ZERO);
            None::<Fault>
        });
        World {
            disk,
            journal: Arc::new(journal),
        }
    }

    /// Runs so many threads to their end.
    fn in_threads(&self, count: u64, run: impl Fn(&World, u64) + Clone + Send + 'static) {
        let threads = (0..count).map(|writer| {
            let (world, run) = (self.clone(), run.clone());
            spawn(move || run(&world, writer))
        });
        join_all(threads.collect());
    }

    /// Appends and syncs in several threads, each of which looks at the disk as soon as it may.
    fn write_from_threads(&self, writers: u64, rounds: u64, len_bytes: usize) {
        self.in_threads(writers, move |world, writer| {
            for round in 1..=rounds {
                let mut record = encode(writer, round);
                record.resize(len_bytes, 0);
                let lsn = world.journal.append(&record, Urgency::Normal).unwrap();
                world.journal.sync(lsn).unwrap();
                assert!(world.is_durable(&record), "record {} was acknowledged too early", lsn.0);
                assert!(world.journal.durable() > lsn);
            }
        });
    }

    /// A thread that compares what the journal calls durable with what is.
    fn watch_durable(&self) -> JoinHandle<()> {
        let world = self.clone();
        spawn(move || {
            for _ in 0..3 {
                let durable = world.journal.durable();
                let (report, _) = read(&world.cut_power()).expect("a power cut leaves no damage");
                assert!(report.next >= durable, "{} is not durable yet", durable.0 - 1);
                sleep(Duration::ZERO);
            }
        })
    }

    /// The disk after a power cut now, with some of what was not synced.
    fn cut_power(&self) -> SimDisk {
        self.disk.cut_power(&mut Choices::seeded(thread_rng().r#gen()))
    }

    /// Whether a record would survive any power cut now.
    fn is_durable(&self, record: &[u8]) -> bool {
        let (_, found) = read(&self.disk.lose_unsynced()).unwrap();
        found.records.iter().any(|(_, bytes)| bytes == record)
    }

    fn close(self) -> (backhaul_journal::Report, support::Collected) {
        let journal = Arc::into_inner(self.journal).expect("the other threads are gone");
        journal.close().unwrap();
        read(&self.disk.lose_unsynced()).unwrap()
    }

    fn close_and_find(self, records: usize) {
        let disk = self.disk.clone();
        self.close();
        find(&disk, records);
    }
}

fn join_all(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
}

/// A journal that was closed holds so many different records, all proven.
fn find(disk: &SimDisk, records: usize) {
    let (report, found) = read(&disk.lose_unsynced()).unwrap();
    assert!(report.clean, "{report:?}");
    let mut different: Vec<_> = found.records.iter().map(|(_, bytes)| bytes).collect();
    different.sort();
    different.dedup();
    assert_eq!((found.records.len(), different.len()), (records, records));
}

fn large(writer: u64, round: u64) -> Vec<u8> {
    let mut record = vec![0; LARGE_BYTES];
    record[..16].copy_from_slice(&encode(writer, round));
    record
}

/// How a commit's thread ends where the disk panics. No panic hook sees it, so that it is not taken for a failure.
struct DiskPanics;

/// The one call to the disk that goes wrong.
struct Failure(Arc<AtomicBool>);

impl Failure {
    /// Draws the call, and whether it ends with an error or with a panic. No change of the disk may follow it.
    fn draw(disk: &SimDisk) -> Failure {
        let (nth, panics) = (thread_rng().gen_range(0..24), thread_rng().r#gen::<bool>());
        let come = Arc::new(AtomicBool::new(false));
        let (seen, calls) = (Arc::clone(&come), AtomicU64::new(0));
        disk.fail_each_with(move |call, path| {
            sleep(Duration::ZERO);
            let changes = [Call::Create, Call::Write, Call::Sync, Call::Rename, Call::SyncDirectory];
            if !changes.contains(&call) {
                return None;
            }
            assert!(
                !come.load(Ordering::SeqCst),
                "{call:?} of {} after the failure",
                path.display()
            );
            if calls.fetch_add(1, Ordering::SeqCst) != nth {
                return None;
            }
            come.store(true, Ordering::SeqCst);
            if panics {
                resume_unwind(Box::new(DiskPanics));
            }
            Some(io::Error::from_raw_os_error(5))
        });
        Failure(seen)
    }

    fn has_come(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Runs a test in as many schedules as the environment says.
fn explore<F: Fn() + Send + Sync + 'static>(test: F) {
    let name = any::type_name::<F>().trim_end_matches("::{{closure}}");
    let name = name.rsplit("::").next().unwrap();
    let ends = catch_unwind(AssertUnwindSafe(|| run(test)));
    let mut stderr = io::stderr();
    match ends {
        Ok(schedules) => writeln!(stderr, "figure: {name}: {schedules} schedules").unwrap(),
        Err(payload) => {
            writeln!(
                stderr,
                "to see it again, with the string of the failing schedule:\n  BACKHAUL_REPLAY=STRING cargo test \
                 -p backhaul-journal --features shuttle --test schedules -- {name} --nocapture"
            )
            .unwrap();
            resume_unwind(payload)
        }
    }
}

fn run<F: Fn() + Send + Sync + 'static>(test: F) -> usize {
    let mut config = Config::new();
    config.stack_size = 256 * 1024;
    config.max_steps = shuttle::MaxSteps::FailAfter(STEPS_MAX);
    if let Ok(schedule) = env::var("BACKHAUL_REPLAY") {
        return Runner::new(ReplayScheduler::new_from_encoded(schedule.trim()), config).run(test);
    }
    let number = |name, otherwise| env::var(name).map_or(otherwise, |text| text.parse().expect(name));
    let (seed, schedules) = (number("BACKHAUL_TEST_SEED", 1), number("BACKHAUL_SCHEDULES", 10_000));
    let half = usize::try_from(schedules).unwrap().div_ceil(2);
    let test = Arc::new(test);
    let even = Arc::clone(&test);
    Runner::new(RandomScheduler::new_from_seed(seed, half), config.clone()).run(move || even())
        + Runner::new(PctScheduler::new_from_seed(seed, PCT_DEPTH, half), config).run(move || test())
}
