//! A journal cut at each byte.

use std::path::PathBuf;

use backhaul_journal::{Error, Lsn, Options, Preallocate, Tail, Urgency};

use crate::support::{MemoryDisk, directory, open, read, small};

const GROUPS: u64 = 10;

fn segment() -> PathBuf {
    directory().join("0000000000000001.seg")
}

/// A disk with one segment, and where each group ends in it.
fn log(preallocate: Preallocate) -> (MemoryDisk, Vec<usize>) {
    let disk = MemoryDisk::new();
    let (journal, _, _) = open(&disk, Options { preallocate, ..small() });
    let mut ends = vec![64];
    for number in 1..=GROUPS {
        let length = usize::try_from(number * 7).unwrap();
        let first = journal.append(&vec![1; length], Urgency::Normal).unwrap();
        journal.append(&vec![2; length], Urgency::Normal).unwrap();
        journal.sync(Lsn(first.0 + 1)).unwrap();
        ends.push(64 + usize::try_from(journal.stats().bytes).unwrap());
    }
    (disk, ends)
}

#[test]
fn a_growing_log_cut_anywhere_holds_exactly_the_groups_before_the_cut() {
    let (disk, ends) = log(Preallocate::None);
    let whole = disk.content(&segment());
    assert_eq!(whole.len(), *ends.last().unwrap());
    for cut in 0..=whole.len() {
        disk.put(&segment(), &whole[..cut]);
        if cut < 64 {
            assert!(matches!(read(&disk), Err(Error::Corrupt(_))), "cut at {cut}");
            continue;
        }
        let (report, found) = read(&disk).unwrap();
        let groups = ends.iter().filter(|&&end| end <= cut).count() - 1;
        assert_eq!(found.records.len(), 2 * groups, "cut at {cut}");
        assert_eq!(report.tail == Tail::Clean, ends.contains(&cut), "cut at {cut}");
    }
}

#[test]
fn a_preallocated_log_cut_anywhere_is_damaged() {
    let (disk, _) = log(Preallocate::Zero);
    let whole = disk.content(&segment());
    assert_eq!(whole.len(), 4096);
    for cut in 0..whole.len() {
        disk.put(&segment(), &whole[..cut]);
        assert!(matches!(read(&disk), Err(Error::Corrupt(_))), "cut at {cut}");
    }
}

#[test]
fn a_last_group_torn_at_any_byte_is_dropped_alone() {
    for preallocate in [Preallocate::Zero, Preallocate::None] {
        let (disk, ends) = log(preallocate);
        let whole = disk.content(&segment());
        let (start, end) = (ends[ends.len() - 2], ends[ends.len() - 1]);
        for kept in start..end {
            for ahead in [false, true] {
                let mut bytes = whole.clone();
                // Sectors reach the disk in any order, so the torn part may be the front as well.
                let lost = if ahead { start..kept + 1 } else { kept..end };
                bytes[lost].fill(0);
                if bytes == whole {
                    continue;
                }
                let copy = disk.copy();
                copy.put(&segment(), &bytes);
                let (journal, report, found) = open(&copy, Options { preallocate, ..small() });
                let records = usize::try_from(GROUPS - 1).unwrap() * 2;
                assert_eq!(found.records.len(), records, "{preallocate:?}, {kept} kept, {ahead}");
                assert_eq!(
                    report.relogged, 2,
                    "the group before the torn one is vouched for by nothing that is left"
                );
                journal.sync(journal.append(b"next", Urgency::Normal).unwrap()).unwrap();
                let (_, again) = read(&copy).unwrap();
                assert_eq!(again.records.len(), records + 1);
            }
        }
    }
}

#[test]
fn a_segment_cut_in_the_middle_of_the_log_is_damaged() {
    let disk = MemoryDisk::new();
    let (journal, _, _) = open(
        &disk,
        Options {
            preallocate: Preallocate::None,
            ..small()
        },
    );
    for _ in 0..20 {
        journal
            .sync(journal.append(&[1; 500], Urgency::Normal).unwrap())
            .unwrap();
    }
    let whole = disk.content(&segment());
    for cut in (0..whole.len()).step_by(8) {
        disk.put(&segment(), &whole[..cut]);
        assert!(matches!(read(&disk), Err(Error::Corrupt(_))), "cut at {cut}");
    }
}
