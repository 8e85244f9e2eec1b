//! A power cut at any moment of a salvage, and of a checkpoint whose snapshot has several files.

use std::path::{Path, PathBuf};

use backhaul_journal::simulation::{Choices, SimDisk};
use backhaul_journal::{Error, Journal, Lock, Options, Preallocate, Urgency, read, salvage};

use crate::life::{Life, Op};
use crate::model::{Nothing, directory};

/// A little more than one file of a snapshot takes.
const PARTS_BYTES: usize = (16 << 20) + (1 << 18);

/// A copy is whole or is refused, whatever a power cut leaves of it; and whole once the salvage has returned.
pub(crate) fn crash_during_salvage(drawn: usize) -> u64 {
    let mut life = Life::new(Preallocate::None, 64, false);
    for op in [
        Op::Append(2, 20),
        Op::Sync,
        Op::Checkpoint(1),
        Op::Append(3, 100),
        Op::Close,
    ] {
        life.apply(op);
    }
    let disk = life.disk.lose_unsynced();
    let copy = Path::new("/state/copy");
    disk.keep_moments();
    salvage(&disk.storage(), &directory(), copy).unwrap();
    let moments = disk.moments();
    let (last, mut images) = (moments.len() - 1, 0);
    for (moment, disk) in moments.into_iter().enumerate() {
        for seed in 0..drawn {
            let image = disk.cut_power(&mut Choices::seeded(seed as u64));
            images += 1;
            match life.model.read_copy(&image, copy) {
                Ok(report) => {
                    let next = life.model.appended() as u64 + 2;
                    assert_eq!((report.next.0, report.missing), (next, 1), "the copy is a part");
                }
                Err(Error::NoJournal(_) | Error::Incomplete(_)) => assert!(moment < last, "the copy is gone"),
                Err(error) => panic!("moment {moment}: {error:?}"),
            }
        }
    }
    images
}

/// A snapshot of several files is there as a whole or not at all.
pub(crate) fn crash_during_large_checkpoint(drawn: usize) -> u64 {
    let disk = SimDisk::with_sectors(64 << 10);
    disk.put_directory(Path::new("/state"));
    let lock = Lock::acquire(&disk.storage(), Path::new("/state/LOCK"), false).unwrap();
    let options = Options::default();
    let (journal, _) = Journal::open(disk.storage(), &directory(), lock, options, &mut Nothing).unwrap();
    let lsn = journal.append(b"record", Urgency::Normal).unwrap();
    journal.sync(lsn).unwrap();
    let record = vec![7; 32 << 10];
    let mut is_last = false;
    journal
        .checkpoint(&mut |snapshot| {
            for _ in 0..PARTS_BYTES / record.len() {
                snapshot.record(&record)?;
            }
            // Only the end is of interest: the files are written.
            is_last = true;
            disk.keep_moments();
            Ok(())
        })
        .unwrap();
    assert!(is_last);
    let parts = |disk: &SimDisk| -> Vec<PathBuf> {
        let names = disk.names(&directory());
        names
            .iter()
            .filter(|name| name.rsplit('.').next() == Some("snap"))
            .map(PathBuf::from)
            .collect()
    };
    assert_eq!(parts(&disk).len(), 2);
    let mut images = 0;
    for disk in disk.moments() {
        for seed in 0..drawn {
            let image = disk.cut_power(&mut Choices::seeded(seed as u64));
            let report = read(&image.storage(), &directory(), &mut Nothing).unwrap();
            assert!(report.damaged_snapshots.is_empty(), "{:?}: {report:?}", parts(&image));
            images += 1;
        }
    }
    images
}

/// Who holds the lock is the only writer.
pub(crate) fn open_twice() {
    let mut life = Life::new(Preallocate::None, 512, false);
    life.try_to_open_twice();
}
