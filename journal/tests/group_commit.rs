//! One write and one sync for all who wait; one failure told to all who wait.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use backhaul_journal::{Error, Journal, Lsn, Options, Urgency};

use crate::support::{Call, Fault, SimDisk, new_disk, open, small};

const FOLLOWERS: usize = 8;

/// A disk whose next sync waits, tells that it does, and then ends as it is told.
fn hold_next_sync(disk: &SimDisk) -> (Receiver<()>, Sender<Ending>) {
    let (entered, has_entered) = channel();
    let (release, released) = channel();
    let mut held = false;
    disk.fail_with(move |call, _| {
        if held || call != Call::Sync {
            return None;
        }
        held = true;
        entered.send(()).unwrap();
        match released.recv().unwrap() {
            Ending::Good => None,
            Ending::Failure => Some(io::Error::from_raw_os_error(5)),
            Ending::Panic => panic!("the disk panics"),
        }
    });
    (has_entered, release)
}

enum Ending {
    Good,
    Failure,
    Panic,
}

/// One thread leads a commit that is held; eight more append meanwhile and wait; then the commit ends.
fn lead_with_followers(
    disk: &SimDisk,
    journal: &Arc<Journal>,
    ending: Ending,
) -> Vec<thread::Result<Result<(), Error>>> {
    let (entered, release) = hold_next_sync(disk);
    let first = journal.append(b"leader", Urgency::Normal).unwrap();
    let leader = thread::spawn({
        let journal = Arc::clone(journal);
        move || journal.sync(first)
    });
    entered.recv().unwrap();
    let (appended, all_appended) = channel();
    let followers: Vec<_> = (0..FOLLOWERS)
        .map(|_| {
            let (journal, appended) = (Arc::clone(journal), appended.clone());
            thread::spawn(move || {
                let lsn = journal.append(b"follower", Urgency::Normal).unwrap();
                appended.send(()).unwrap();
                journal.sync(lsn)
            })
        })
        .collect();
    (0..FOLLOWERS).for_each(|_| all_appended.recv().unwrap());
    release.send(ending).unwrap();
    std::iter::once(leader)
        .chain(followers)
        .map(thread::JoinHandle::join)
        .collect()
}

#[test]
fn each_group_costs_one_write_and_one_sync() {
    let disk = new_disk();
    let (journal, _, _) = open(
        &disk,
        Options {
            segment_bytes: 65536,
            first_segment_bytes: 65536,
            ..small()
        },
    );
    let (writes, syncs) = (disk.calls(Call::Write), disk.calls(Call::Sync));
    for group in 1..=20 {
        let lsn = journal.append(&[7; 100], Urgency::Normal).unwrap();
        journal.sync(lsn).unwrap();
        assert_eq!(
            (disk.calls(Call::Write) - writes, disk.calls(Call::Sync) - syncs),
            (group, group)
        );
    }
    let stats = journal.stats();
    assert_eq!((stats.groups, stats.records, stats.group_records_max), (20, 20, 1));
    assert_eq!(
        stats.bytes,
        20 * 136,
        "32 bytes of frame, 2 of length, 100 of record, 2 of padding"
    );
}

#[test]
fn records_that_are_synced_together_share_a_frame_and_a_sync() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    let syncs = disk.calls(Call::Sync);
    for _ in 0..8 {
        journal.append(&[7; 100], Urgency::Normal).unwrap();
    }
    journal.sync(Lsn(8)).unwrap();
    journal.sync(Lsn(3)).unwrap();
    assert_eq!(disk.calls(Call::Sync) - syncs, 1);
    assert_eq!(journal.stats().bytes, 32 + 8 * 102);
}

#[test]
fn all_who_wait_behind_a_commit_share_the_next() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    let journal = Arc::new(journal);
    let syncs = disk.calls(Call::Sync);
    let ends = lead_with_followers(&disk, &journal, Ending::Good);
    assert!(ends.into_iter().all(|end| end.unwrap().is_ok()));
    assert_eq!(disk.calls(Call::Sync) - syncs, 2);
    assert_eq!(journal.stats().group_records_max, FOLLOWERS as u64);
    let (_, _, collected) = open(&disk.lose_unsynced(), small());
    assert_eq!(collected.records.len(), 1 + FOLLOWERS);
}

#[test]
fn a_failed_sync_is_told_to_everybody_and_never_tried_again() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    let journal = Arc::new(journal);
    let acknowledged = journal.append(b"acknowledged", Urgency::Normal).unwrap();
    journal.sync(acknowledged).unwrap();
    let syncs = disk.calls(Call::Sync);
    let ends = lead_with_followers(&disk, &journal, Ending::Failure);
    assert_eq!(ends.len(), 1 + FOLLOWERS);
    for end in ends {
        assert!(matches!(end.unwrap(), Err(Error::Poisoned(cause)) if matches!(*cause, Error::Io("sync", ..))));
    }
    assert!(matches!(
        journal.append(b"later", Urgency::Critical),
        Err(Error::Poisoned(_))
    ));
    assert!(matches!(journal.checkpoint(&mut |_| Ok(())), Err(Error::Poisoned(_))));
    journal
        .sync(acknowledged)
        .expect("what was durable before the failure still is");
    assert!(matches!(
        Arc::into_inner(journal).unwrap().close(),
        Err(Error::Poisoned(_))
    ));
    assert_eq!(disk.calls(Call::Sync) - syncs, 1);
    let (_, _, lost) = open(&disk.lose_unsynced(), small());
    assert_eq!(lost.texts(), ["acknowledged"]);
    let (_, _, kept) = open(&disk.kill(), small());
    assert_eq!(kept.texts(), ["acknowledged", "leader"]);
}

#[test]
fn a_leader_that_panics_leaves_nobody_waiting() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    let mut ends = lead_with_followers(&disk, &Arc::new(journal), Ending::Panic).into_iter();
    assert!(ends.next().unwrap().is_err(), "the leader's thread ends with its panic");
    for end in ends {
        assert!(matches!(end.unwrap(), Err(Error::Poisoned(cause)) if matches!(*cause, Error::Panicked(_))));
    }
}

#[test]
fn one_thread_appends_any_number_within_a_bounded_buffer() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    let largest = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&largest);
    let counted = disk.clone();
    disk.fail_with(move |call, path| {
        if call == Call::Rename {
            let mut largest = seen.lock().unwrap();
            *largest = counted.content(path).len().max(*largest);
        }
        None::<Fault>
    });
    for _ in 0..2000 {
        journal.append(&[1; 1000], Urgency::Normal).unwrap();
    }
    journal.sync(Lsn(2000)).unwrap();
    assert!(journal.stats().groups >= 8);
    assert!(
        *largest.lock().unwrap() <= 256 * 1024 + 4096,
        "no group is larger than the buffer"
    );
    drop(journal);
    disk.fail_no_more();
    let (_, _, collected) = open(&disk.lose_unsynced(), small());
    assert_eq!(collected.records.len(), 2000);
}

#[test]
fn short_writes_are_continued() {
    let disk = new_disk();
    disk.set_write_max(7);
    let (journal, _, _) = open(&disk, small());
    let lsn = journal.append(&[9; 500], Urgency::Normal).unwrap();
    journal.sync(lsn).unwrap();
    let (_, _, collected) = open(&disk.lose_unsynced(), small());
    assert_eq!(collected.records, [(1, vec![9; 500])]);
}

#[test]
fn what_cannot_be_a_record_is_refused_and_takes_no_number() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    assert!(matches!(
        journal.append(&vec![0; 32 * 1024 + 1], Urgency::Normal),
        Err(Error::TooLarge(..))
    ));
    assert!(matches!(
        journal.append_batch(&[], Urgency::Normal),
        Err(Error::EmptyBatch)
    ));
    let large = vec![0; 32 * 1024];
    assert!(matches!(
        journal.append_batch(&[&large, &large], Urgency::Normal),
        Err(Error::TooLarge(..))
    ));
    assert!(matches!(journal.sync(Lsn(1)), Err(Error::NotAppended(Lsn(1), Lsn(1)))));
    assert_eq!(journal.append(&large, Urgency::Normal).unwrap(), Lsn(1));
    assert_eq!(journal.append(b"", Urgency::Normal).unwrap(), Lsn(2));
    journal.close().unwrap();
    let (_, _, collected) = open(&disk.lose_unsynced(), small());
    assert_eq!(collected.records, [(1, large), (2, Vec::new())]);
}
