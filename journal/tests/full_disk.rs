//! No space left: what is refused, what still works, and that it works again later.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backhaul_journal::{Error, Lsn, Options, Preallocate, Urgency};

use crate::support::{Call, Fault, SimDisk, directory, new_disk, open, small, try_open};

fn with_reserve() -> Options {
    Options {
        reserve: true,
        ..small()
    }
}

/// Fills the journal until a normal record is refused, and returns how many were acknowledged.
fn fill(disk: &SimDisk, journal: &backhaul_journal::Journal) -> u64 {
    disk.set_capacity(disk.used() + 8192);
    let mut acknowledged = 0;
    loop {
        match journal.append(&[1; 500], Urgency::Normal) {
            Ok(lsn) => journal.sync(lsn).unwrap(),
            Err(Error::DiskFull(_)) => return acknowledged,
            Err(error) => panic!("{error}"),
        }
        acknowledged += 1;
    }
}

#[test]
fn a_full_disk_refuses_normal_records_and_takes_critical_ones() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, with_reserve());
    journal
        .sync(journal.append(b"first", Urgency::Normal).unwrap())
        .unwrap();
    assert!(disk.names(&directory()).contains(&"reserve".to_owned()));
    let acknowledged = fill(&disk, &journal);
    assert!(acknowledged > 10);
    assert!(
        !disk.names(&directory()).contains(&"reserve".to_owned()),
        "the reserve is given up"
    );
    let critical = journal.append(b"completed", Urgency::Critical).unwrap();
    journal.sync(critical).unwrap();
    assert_eq!(critical, Lsn(acknowledged + 2));

    disk.set_capacity(usize::MAX);
    journal
        .sync(journal.append(b"room again", Urgency::Normal).unwrap())
        .unwrap();
    assert!(
        disk.names(&directory()).contains(&"reserve".to_owned()),
        "and set aside again"
    );
    journal.close().unwrap();
    let (_, report, collected) = open(&disk.lose_unsynced(), with_reserve());
    assert_eq!(collected.records.len() as u64, acknowledged + 3);
    assert!(report.clean);
}

#[test]
fn where_a_grown_segment_has_no_room_a_small_one_comes_before_the_reserve_is_given_up() {
    let disk = new_disk();
    let options = Options {
        segment_bytes_max: 1 << 20,
        ..with_reserve()
    };
    let (journal, _, _) = open(&disk, options);
    let append = || {
        journal
            .append(&[1; 1000], Urgency::Normal)
            .and_then(|lsn| journal.sync(lsn))
    };
    while journal.stats().rotations < 4 {
        append().unwrap();
    }
    let (rotations, removals) = (journal.stats().rotations, disk.calls(Call::Remove));
    // Less than two small ones take, and more than one.
    disk.set_capacity(disk.used() + 6000);
    while journal.stats().rotations == rotations {
        append().unwrap();
    }
    // What was begun of the grown one is gone, and nothing else.
    assert_eq!(disk.calls(Call::Remove), removals + 1);
    assert!(disk.names(&directory()).contains(&"reserve".to_owned()));
    journal.close().unwrap();
    let (_, report, _) = open(&disk.lose_unsynced(), options);
    assert!(report.clean);
}

#[test]
fn a_brief_journal_has_its_reserve_with_its_first_records_so_that_a_disk_that_fills_up_then_stops_nothing_critical() {
    let disk = new_disk();
    let options = Options {
        brief: true,
        ..with_reserve()
    };
    let (journal, _, _) = open(&disk, options);
    assert_eq!(disk.names(&directory()).len(), 0);
    // It is there before the one sync of all that is new, so that a file system takes both in one commit.
    let (seen, looking) = (Arc::new(AtomicBool::new(false)), disk.clone());
    let noted = Arc::clone(&seen);
    disk.fail_with(move |call, _| {
        if call == Call::Sync {
            let names = looking.names(&directory());
            noted.fetch_or(names.contains(&"reserve".to_owned()), Ordering::Relaxed);
        }
        None::<Fault>
    });
    journal
        .sync(journal.append(b"first", Urgency::Normal).unwrap())
        .unwrap();
    assert!(seen.load(Ordering::Relaxed));
    disk.fail_no_more();
    disk.set_capacity(disk.used());
    let mut last = Lsn(1);
    while let Ok(lsn) = journal.append(&[1; 500], Urgency::Critical)
        && journal.sync(lsn).is_ok()
    {
        last = lsn;
    }
    // The first segment holds at most 7 of them.
    assert!(last.0 > 7, "the disk took {} records", last.0);
    let (_, _, collected) = open(&disk.lose_unsynced(), options);
    assert_eq!(collected.records.len() as u64, last.0);
}

#[test]
fn a_disk_that_is_full_while_a_journal_is_made_keeps_none_from_opening_once_there_is_room() {
    for brief in [true, false] {
        let options = Options {
            brief,
            ..with_reserve()
        };
        for free in (0..10_000).step_by(100) {
            let disk = new_disk();
            disk.set_capacity(free);
            let made = try_open(&disk, options);
            let made = made.and_then(|(journal, ..)| journal.sync(journal.append(&[1; 2000], Urgency::Normal)?));
            let is_acknowledged = match made {
                Ok(()) => true,
                Err(error) if error.is_disk_full() => false,
                Err(error) => panic!("{error:?}"),
            };
            // A segment, and the text of the lock file.
            assert!(is_acknowledged || free < 4096 + 300, "{free} bytes were free");
            let disk = disk.kill();
            disk.set_capacity(usize::MAX);
            let (journal, _, collected) = open(&disk, options);
            assert_eq!(
                collected.records.len(),
                usize::from(is_acknowledged),
                "{free} bytes were free"
            );
            journal
                .sync(journal.append(b"on we go", Urgency::Normal).unwrap())
                .unwrap();
            let names = disk.names(&directory());
            assert!(names.iter().all(|name| !name.contains("tmp")), "{names:?}");
        }
    }
}

#[test]
fn the_group_that_found_the_disk_full_is_written_with_the_reserve() {
    for preallocate in [Preallocate::Zero, Preallocate::None] {
        let disk = new_disk();
        let (journal, _, _) = open(
            &disk,
            Options {
                preallocate,
                ..with_reserve()
            },
        );
        journal
            .sync(journal.append(b"first", Urgency::Normal).unwrap())
            .unwrap();
        disk.set_capacity(disk.used());
        let mut last = Lsn(0);
        for _ in 0..20 {
            last = journal.append(&[1; 500], Urgency::Normal).unwrap();
        }
        journal.sync(last).unwrap();
        let (_, _, collected) = open(&disk.lose_unsynced(), with_reserve());
        assert_eq!(collected.records.len(), 21, "{preallocate:?}");
    }
}

#[test]
fn with_the_reserve_used_up_the_journal_stops_and_opens_again_when_there_is_room() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, with_reserve());
    journal
        .sync(journal.append(b"first", Urgency::Normal).unwrap())
        .unwrap();
    let acknowledged = fill(&disk, &journal);
    let mut critical = 0;
    let error = loop {
        let lsn = journal.append(&[2; 500], Urgency::Critical).unwrap();
        match journal.sync(lsn) {
            Ok(()) => critical += 1,
            Err(error) => break error,
        }
    };
    assert!(error.is_disk_full(), "{error:?}");
    assert!(critical > 0);
    drop(journal);
    let crashed = disk.kill();
    crashed.set_capacity(usize::MAX);
    let (journal, _, collected) = open(&crashed, with_reserve());
    assert_eq!(collected.records.len() as u64, 1 + acknowledged + critical);
    journal
        .sync(journal.append(b"on we go", Urgency::Normal).unwrap())
        .unwrap();
}

#[test]
fn without_a_reserve_a_full_disk_stops_the_journal_and_loses_nothing() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    disk.set_capacity(disk.used());
    let mut acknowledged = 0;
    let error = loop {
        let lsn = journal.append(&[1; 500], Urgency::Normal).unwrap();
        match journal.sync(lsn) {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&error, Error::Poisoned(cause) if matches!(**cause, Error::DiskFull(_))),
        "{error:?}"
    );
    let (_, _, collected) = open(&disk.lose_unsynced(), small());
    assert_eq!(collected.records.len(), acknowledged);
}
