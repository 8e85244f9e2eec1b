//! A journal cut at each byte.

use std::path::PathBuf;

use backhaul_journal::{Error, Lsn, Options, Preallocate, Tail, Urgency};

use crate::support::{SimDisk, directory, new_disk, open, read, small};

const GROUPS: u64 = 10;

fn segment() -> PathBuf {
    directory().join("0000000000000001.seg")
}

/// A disk with one segment, and where each group ends in it.
fn log(preallocate: Preallocate) -> (SimDisk, Vec<usize>) {
    let disk = new_disk();
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
                let copy = disk.kill();
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
    let disk = new_disk();
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

/// Frames of one size, so that each fits in the place of another.
fn even_log(preallocate: Preallocate) -> (SimDisk, Vec<usize>) {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, Options { preallocate, ..small() });
    for number in 1..=8_u8 {
        journal
            .sync(journal.append(&[number; 100], Urgency::Normal).unwrap())
            .unwrap();
    }
    (disk, (0..8).map(|frame| 64 + frame * 136).collect())
}

#[test]
fn a_frame_in_the_place_of_another_is_never_taken_for_it() {
    let (disk, frames) = even_log(Preallocate::Zero);
    let whole = disk.content(&segment());
    for &from in &frames {
        for (index, &to) in frames.iter().enumerate() {
            if from == to {
                continue;
            }
            let mut bytes = whole.clone();
            bytes.copy_within(from..from + 136, to);
            disk.put(&segment(), &bytes);
            match read(&disk) {
                Err(Error::Corrupt(_)) => assert!(index < 7, "nothing vouches for the last frame"),
                Err(error) => panic!("{error}"),
                Ok((report, found)) => {
                    assert_eq!((index, found.records.len()), (7, 7), "{from} over {to}");
                    assert!(found.records.iter().all(|(lsn, record)| *lsn == u64::from(record[0])));
                    assert!(matches!(report.tail, Tail::Torn { .. }));
                }
            }
        }
    }
}

#[test]
fn frames_of_a_torn_group_that_did_arrive_are_no_sign_of_damage() {
    for lost in 0..4 {
        let disk = new_disk();
        let (journal, _, _) = open(
            &disk,
            Options {
                first_segment_bytes: 8192,
                ..small()
            },
        );
        journal
            .sync(journal.append(b"acknowledged", Urgency::Normal).unwrap())
            .unwrap();
        let start = 64 + usize::try_from(journal.stats().bytes).unwrap();
        for _ in 0..4 {
            journal.append_batch(&[&[5; 100]], Urgency::Normal).unwrap();
        }
        journal.sync(Lsn(5)).unwrap();
        let mut bytes = disk.content(&segment());
        bytes[start + lost * 136..start + (lost + 1) * 136].fill(0);
        disk.put(&segment(), &bytes);
        let (report, found) = read(&disk).unwrap();
        assert_eq!(found.records.len(), 1 + lost, "frame {lost} of the group is lost");
        assert_eq!(matches!(report.tail, Tail::Torn { .. }), lost < 3);
        // What came after the lost frame was never acknowledged, and must not come back behind other records.
        drop(journal);
        let (journal, _, _) = open(&disk, small());
        journal.sync(journal.append(b"next", Urgency::Normal).unwrap()).unwrap();
        let (_, found) = read(&disk).unwrap();
        assert_eq!(found.records.last().unwrap(), &(2 + lost as u64, b"next".to_vec()));
    }
}

#[test]
fn a_log_that_ends_before_what_its_snapshot_reaches_is_damaged() {
    let disk = new_disk();
    let (journal, _, _) = open(
        &disk,
        Options {
            preallocate: Preallocate::None,
            ..small()
        },
    );
    let mut ends = Vec::new();
    for number in 1..=8_u8 {
        if number == 5 {
            let covered = journal.checkpoint(&mut |snapshot| {
                journal.append(&[number; 100], Urgency::Normal)?;
                snapshot.record(b"state")
            });
            assert_eq!(covered.unwrap(), Lsn(5));
        } else {
            journal
                .sync(journal.append(&[number; 100], Urgency::Normal).unwrap())
                .unwrap();
        }
        ends.push(64 + usize::try_from(journal.stats().bytes).unwrap());
    }
    let whole = disk.content(&segment());
    for (index, end) in ends.into_iter().enumerate() {
        disk.put(&segment(), &whole[..end]);
        assert_eq!(read(&disk).is_ok(), index + 1 >= 5, "with {} records left", index + 1);
    }
}
