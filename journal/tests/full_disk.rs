//! No space left: what is refused, what still works, and that it works again later.

use backhaul_journal::{Error, Lsn, Options, Preallocate, Urgency};

use crate::support::{SimDisk, directory, new_disk, open, small};

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
