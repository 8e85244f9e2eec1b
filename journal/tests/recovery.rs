//! Opening a journal after every way of ending.

use std::path::Path;

use crate::support::{SimDisk, Unsynced, crash, directory, new_disk, open, read, small, try_open};
use backhaul_journal::simulation::Choices;
use backhaul_journal::{Error, Lsn, Options, Tail, Urgency, Verdict, salvage};

#[test]
fn a_new_journal_is_made_with_its_directory() {
    let disk = new_disk();
    let (journal, report, collected) = open(&disk, small());
    assert!(report.created && report.clean);
    assert_eq!((report.next, collected.records.len()), (Lsn(1), 0));
    assert_eq!(journal.id(), *b"0123456789abcdef");
    assert_eq!(disk.lose_unsynced().names(&directory()), ["0000000000000001.seg"]);
}

#[test]
fn what_was_synced_comes_back_after_a_crash() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    let first = journal.append(b"one", Urgency::Normal).unwrap();
    let last = journal.append_batch(&[b"two", b"three"], Urgency::Normal).unwrap();
    assert_eq!((first, last), (Lsn(1), Lsn(3)));
    assert_eq!(journal.durable(), Lsn(1));
    journal.sync(last).unwrap();
    assert_eq!(journal.durable(), Lsn(4));
    journal.append(b"never synced", Urgency::Normal).unwrap();
    for unsynced in [Unsynced::Lost, Unsynced::Kept] {
        let (_, report, collected) = open(&crash(&disk, unsynced), small());
        assert_eq!(collected.texts(), ["one", "two", "three"]);
        assert_eq!((report.next, report.proven, report.relogged), (Lsn(4), Lsn(1), 3));
        assert_eq!((report.tail, report.clean), (Tail::Clean, false));
    }
}

#[test]
fn a_clean_close_leaves_nothing_to_write_at_the_next_open() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    let last = journal.append(b"one", Urgency::Normal).unwrap();
    journal.sync(last).unwrap();
    journal.close().unwrap();
    let disk = disk.lose_unsynced();
    let before = disk.everything();
    let (journal, report, collected) = open(&disk, small());
    assert_eq!(collected.texts(), ["one"]);
    assert_eq!(
        (report.relogged, report.clean, report.verdict()),
        (0, true, Verdict::Clean)
    );
    journal.close().unwrap();
    assert_eq!(disk.changes(), 0, "only the lock file's text may change");
    assert_eq!(disk.everything().len(), before.len());
}

#[test]
fn the_first_append_after_a_clean_open_makes_the_segment() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    journal.append(b"one", Urgency::Normal).unwrap();
    journal.close().unwrap();
    let (journal, _, _) = open(&disk, small());
    let two = journal.append(b"two", Urgency::Normal).unwrap();
    assert_eq!(disk.names(&directory()).len(), 1);
    journal.sync(two).unwrap();
    assert_eq!(
        disk.names(&directory()),
        ["0000000000000001.seg", "0000000000000002.seg"]
    );
    drop(journal);
    let (_, _, collected) = open(&disk.lose_unsynced(), small());
    assert_eq!(collected.texts(), ["one", "two"]);
}

#[test]
fn a_directory_that_a_killed_process_made_is_durable_before_anything_in_it_counts() {
    let disk = new_disk();
    disk.stop_after(1);
    assert!(try_open(&disk, small()).is_err());
    let disk = disk.kill();
    assert_eq!(
        disk.storage().list(&directory()).unwrap().len(),
        0,
        "it is there, and empty"
    );
    let (journal, _, _) = open(&disk, small());
    journal.sync(journal.append(b"one", Urgency::Normal).unwrap()).unwrap();
    let (_, _, collected) = open(&disk.lose_unsynced(), small());
    assert_eq!(collected.texts(), ["one"]);
}

/// What the first start of an application does: it makes a directory where it is missing, and one that was there gets a name
/// that lasts; then the journal in it, with one record.
fn start(disk: &SimDisk, brief: bool) -> Result<(), Error> {
    let (storage, above) = (disk.storage(), Path::new("/state"));
    let new_above = storage.stat(above).is_err();
    let made = if new_above {
        storage.create_directory(above, 0o700)
    } else {
        storage.sync_directory(Path::new("/"))
    };
    made.map_err(|error| Error::Io("make", above.to_owned(), error))?;
    let options = Options {
        brief,
        new_above,
        reserve: true,
        ..small()
    };
    let (journal, _, _) = try_open(disk, options)?;
    journal.sync(journal.append(b"first", Urgency::Normal)?)
}

#[test]
fn a_power_cut_at_any_moment_of_the_first_start_leaves_a_journal_that_opens_with_all_that_was_acknowledged() {
    for (brief, seed) in [true, false]
        .into_iter()
        .flat_map(|brief| (0..40).map(move |seed| (brief, seed)))
    {
        for changes in 0.. {
            let disk = SimDisk::new();
            disk.stop_after(changes);
            let is_acknowledged = start(&disk, brief).is_ok();
            let mut choices = Choices::seeded(seed);
            // A killed process may have been there before.
            let before = if seed % 2 == 0 { disk.kill() } else { disk.clone() };
            let image = before.cut_power(&mut choices);
            start(&image, brief).unwrap();
            let count = 1 + usize::from(is_acknowledged);
            let found = read(&image.lose_unsynced()).unwrap().1.records.len();
            assert!((count..=2).contains(&found), "{found} after {changes} changes");
            if is_acknowledged {
                break;
            }
        }
    }
}

#[test]
fn a_journal_whose_numbers_have_run_out_is_read_and_takes_no_more() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    journal.close().unwrap();
    let path = directory().join("0000000000000001.seg");
    for first_lsn in [1_u64 << 62, (1 << 63) - 1] {
        disk.edit(&path, |bytes| {
            bytes.truncate(64);
            bytes[20..24].fill(0);
            let sum = crc32fast::hash(&bytes[..60]);
            bytes[60..64].copy_from_slice(&sum.to_le_bytes());
            bytes.extend_from_slice(&gap(first_lsn));
        });
        assert_eq!(read(&disk).unwrap().0.next, Lsn(first_lsn));
        assert!(matches!(try_open(&disk, small()), Err(Error::TooMany(..))));
        let into = Path::new("/state").join(format!("copy-{first_lsn}"));
        let answer = salvage(&disk.storage(), &directory(), &into);
        assert!(matches!(answer, Err(Error::TooMany(..))));
    }
}

#[test]
fn a_copy_whose_last_gap_would_take_the_last_number_is_not_made() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    journal.close().unwrap();
    disk.edit(&directory().join("0000000000000001.seg"), |bytes| {
        bytes.truncate(64);
        bytes[20..24].fill(0);
        let sum = crc32fast::hash(&bytes[..60]);
        bytes[60..64].copy_from_slice(&sum.to_le_bytes());
        bytes.extend_from_slice(&gap((1 << 62) - 1));
    });
    let answer = salvage(&disk.storage(), &directory(), Path::new("/state/copy"));
    assert!(matches!(answer, Err(Error::TooMany(..))));
    assert!(try_open(&disk, small()).is_ok());
}

/// A frame of the first segment that says that every record below an LSN is lost.
fn gap(upto: u64) -> Vec<u8> {
    let seed = crc32fast::hash(&[&b"0123456789abcdef"[..], &1_u64.to_le_bytes()].concat());
    let sum = |bytes: &[u8]| {
        let mut sum = crc32fast::Hasher::new_with_initial(seed);
        sum.update(bytes);
        sum.finalize().to_le_bytes()
    };
    let body = (upto - 1).to_le_bytes();
    let fields = [
        &sum(&body)[..],
        &8_u32.to_le_bytes(),
        &[0, 0, 4, 0],
        &1_u64.to_le_bytes(),
        &1_u64.to_le_bytes(),
    ]
    .concat();
    [&sum(&fields)[..], &fields, &body].concat()
}
