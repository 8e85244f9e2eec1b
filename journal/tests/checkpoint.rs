//! Rotation, snapshots, and what is removed after them.

use std::path::PathBuf;

use backhaul_journal::{Error, Journal, Lsn, Options, Urgency};

use crate::support::{Call, SimDisk, directory, new_disk, open, read, small, try_open};

fn append(journal: &Journal, from: u64, count: u64) {
    for number in from..from + count {
        journal
            .append(
                format!("record {number:04} {}", "x".repeat(200)).as_bytes(),
                Urgency::Normal,
            )
            .unwrap();
        journal.sync(Lsn(number)).unwrap();
    }
}

fn checkpoint(journal: &Journal, texts: &[&str]) -> Lsn {
    journal
        .checkpoint(&mut |snapshot| texts.iter().try_for_each(|text| snapshot.record(text.as_bytes())))
        .unwrap()
}

fn segments(disk: &SimDisk) -> Vec<String> {
    named(disk, "seg")
}

fn snapshots(disk: &SimDisk) -> Vec<String> {
    named(disk, "snap")
}

fn named(disk: &SimDisk, kind: &str) -> Vec<String> {
    let names = disk.names(&directory()).into_iter();
    names
        .filter(|name| name.split_once('.').is_some_and(|(_, found)| found == kind))
        .collect()
}

fn path(name: &str) -> PathBuf {
    directory().join(name)
}

#[test]
fn records_go_on_from_segment_to_segment() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    append(&journal, 1, 100);
    assert!(segments(&disk).len() > 5);
    assert_eq!(journal.stats().rotations, segments(&disk).len() as u64);
    let (_, report, collected) = open(&disk.lose_unsynced(), small());
    assert_eq!(collected.records.len(), 100);
    assert_eq!(report.segments.len(), segments(&disk).len());
}

#[test]
fn segments_grow_with_their_number_up_to_the_most_that_one_may_have_and_are_small_again_after_a_checkpoint() {
    let disk = new_disk();
    let options = Options {
        segment_bytes_max: 12_288,
        ..small()
    };
    let (journal, _, _) = open(&disk, options);
    let sizes = || -> Vec<usize> {
        let names = segments(&disk).into_iter();
        names.map(|name| disk.content(&path(&name)).len()).collect()
    };
    let append = |count: u64| {
        for _ in 0..count {
            let lsn = journal.append(&[1; 400], Urgency::Normal).unwrap();
            journal.sync(lsn).unwrap();
        }
    };
    append(100);
    let grown = sizes();
    assert_eq!(grown[..7], [4096, 4096, 4096, 4096, 8192, 8192, 12_288]);
    for text in ["one", "other"] {
        checkpoint(&journal, &[text]);
        append(30);
    }
    let kept = sizes();
    assert!(kept.len() < grown.len() && kept.last() < Some(&12_288), "{kept:?}");
    let (_, _, collected) = open(&disk.lose_unsynced(), options);
    assert_eq!(collected.records.len(), 30);
}

#[test]
fn a_snapshot_takes_the_place_of_the_records_below_it() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    append(&journal, 1, 30);
    assert_eq!(checkpoint(&journal, &["a", "b"]), Lsn(31));
    append(&journal, 31, 2);
    for disk in [disk.lose_unsynced(), disk.kill()] {
        let (_, report, collected) = open(&disk, small());
        assert_eq!(collected.snapshot, [b"a", b"b"]);
        assert_eq!(
            collected.records.iter().map(|(lsn, _)| *lsn).collect::<Vec<_>>(),
            [31, 32]
        );
        assert_eq!(report.snapshot.unwrap().lsn, Lsn(31));
    }
}

#[test]
fn two_snapshots_are_kept_with_the_segments_of_the_older() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    append(&journal, 1, 30);
    checkpoint(&journal, &["first"]);
    let all = segments(&disk);
    append(&journal, 31, 30);
    checkpoint(&journal, &["second"]);
    assert!(
        !segments(&disk).contains(&all[0]),
        "what only the log before the first snapshot needs is gone"
    );
    assert!(segments(&disk).contains(all.last().unwrap()));
    append(&journal, 61, 30);
    checkpoint(&journal, &["third"]);
    assert_eq!(
        snapshots(&disk),
        ["000000000000003d-0000.snap", "000000000000005b-0000.snap"]
    );
    append(&journal, 91, 1);
    drop(journal);

    let mut bytes = disk.content(&path("000000000000005b-0000.snap"));
    bytes[80] ^= 1;
    disk.put(&path("000000000000005b-0000.snap"), &bytes);
    let (journal, report, collected) = open(&disk, small());
    assert_eq!(collected.snapshot, [b"second"]);
    assert_eq!(
        collected.records.iter().map(|(lsn, _)| *lsn).collect::<Vec<_>>(),
        (61..=91).collect::<Vec<_>>()
    );
    assert_eq!(
        report.damaged_snapshots.iter().map(|(lsn, _)| *lsn).collect::<Vec<_>>(),
        [Lsn(91)]
    );

    checkpoint(&journal, &["fourth"]);
    assert_eq!(
        snapshots(&disk),
        ["000000000000003d-0000.snap", "000000000000005c-0000.snap"],
        "the damaged one goes"
    );
}

#[test]
fn an_open_keeps_the_older_snapshot_until_there_is_a_newer_one() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    append(&journal, 1, 1);
    checkpoint(&journal, &["first"]);
    append(&journal, 2, 1);
    checkpoint(&journal, &["second"]);
    journal.close().unwrap();
    let (journal, _, _) = open(&disk, small());
    assert_eq!(checkpoint(&journal, &["not called, nothing was appended"]), Lsn(3));
    assert_eq!(snapshots(&disk).len(), 2);
    append(&journal, 3, 1);
    checkpoint(&journal, &["third"]);
    assert_eq!(
        snapshots(&disk),
        ["0000000000000003-0000.snap", "0000000000000004-0000.snap"]
    );
}

#[test]
fn records_appended_while_a_snapshot_is_written_are_durable_before_it_counts() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    append(&journal, 1, 1);
    let covered = journal.checkpoint(&mut |snapshot| {
        journal.append(b"meanwhile", Urgency::Normal)?;
        snapshot.record(b"with the effect of record 2")
    });
    assert_eq!(covered.unwrap(), Lsn(2));
    let (_, report, collected) = open(&disk.lose_unsynced(), small());
    assert_eq!(collected.records, [(2, b"meanwhile".to_vec())]);
    assert_eq!(report.snapshot.unwrap().reach, Lsn(3));
}

#[test]
fn a_failed_checkpoint_leaves_the_journal_as_it_was() {
    for failing in [Call::Create, Call::Write, Call::Sync, Call::Rename] {
        let disk = new_disk();
        let (journal, _, _) = open(&disk, small());
        append(&journal, 1, 3);
        disk.fail_with(move |call, path| {
            let snapshot = path.to_string_lossy().contains('-');
            (snapshot && call == failing).then(|| std::io::Error::from_raw_os_error(5))
        });
        let answer = journal.checkpoint(&mut |snapshot| snapshot.record(b"state"));
        assert!(matches!(answer, Err(Error::Io(..))), "{failing:?}");
        assert_eq!(disk.names(&directory()), ["0000000000000001.seg"], "{failing:?}");
        append(&journal, 4, 1);
        disk.fail_no_more();
        checkpoint(&journal, &["state"]);
        journal.close().unwrap();
        let (_, _, collected) = open(&disk, small());
        assert_eq!(
            (collected.snapshot.len(), collected.records.len()),
            (1, 0),
            "{failing:?}"
        );
    }
}

#[test]
fn a_snapshot_that_its_writer_gives_up_leaves_nothing() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    append(&journal, 1, 1);
    let answer = journal.checkpoint(&mut |snapshot| {
        snapshot.record(b"half")?;
        Err(Error::EmptyBatch)
    });
    assert!(matches!(answer, Err(Error::EmptyBatch)));
    let too_large = journal.checkpoint(&mut |snapshot| snapshot.record(&vec![0; 32 * 1024 + 1]));
    assert!(matches!(too_large, Err(Error::TooLarge(..))));
    assert_eq!(disk.names(&directory()), ["0000000000000001.seg"]);
}

#[test]
fn a_large_snapshot_spans_files_and_comes_back_whole() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    append(&journal, 1, 1);
    let record = vec![7; 32 * 1024];
    journal
        .checkpoint(&mut |snapshot| (0..1100).try_for_each(|_| snapshot.record(&record)))
        .unwrap();
    assert_eq!(snapshots(&disk).len(), 3);
    drop(journal);
    let (report, collected) = read(&disk.lose_unsynced()).unwrap();
    assert_eq!((report.snapshot.unwrap().parts, collected.snapshot.len()), (3, 1100));
    assert!(collected.snapshot.iter().all(|found| *found == record));

    let last = path(snapshots(&disk).last().unwrap());
    let mut bytes = disk.content(&last);
    bytes.truncate(bytes.len() - 56);
    disk.put(&last, &bytes);
    let (report, collected) = read(&disk).unwrap();
    assert_eq!(
        (
            report.damaged_snapshots.len(),
            collected.snapshot.len(),
            collected.records.len()
        ),
        (1, 0, 1)
    );
}

#[test]
fn a_checkpoint_is_due_by_bytes_and_then_is_not() {
    let disk = new_disk();
    let options = Options {
        segment_bytes: 1 << 20,
        ..small()
    };
    let (journal, _, _) = open(&disk, options);
    let record = [1; 1000];
    while !journal.checkpoint_due() {
        journal.append(&record, Urgency::Normal).unwrap();
    }
    let stats = journal.stats();
    assert!((1 << 20..(1 << 20) + 600_000).contains(&stats.bytes), "{}", stats.bytes);
    checkpoint(&journal, &["state"]);
    assert!(!journal.checkpoint_due());
    assert_eq!(journal.stats().checkpoints, 1);
    drop(journal);
    let (journal, _, _) = open(&disk, options);
    assert!(!journal.checkpoint_due());
}

#[test]
fn a_checkpoint_is_due_beyond_512_segments() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    // One record fills a segment beyond its half, and all of them stay below 1 MiB.
    for _ in 0..513 {
        assert!(!journal.checkpoint_due());
        journal
            .sync(journal.append(&[1; 1968], Urgency::Normal).unwrap())
            .unwrap();
    }
    assert!(journal.checkpoint_due());
    journal.close().unwrap();
    assert_eq!(segments(&disk).len(), 513);
    let (journal, _, _) = open(&disk, small());
    assert!(journal.checkpoint_due());
    checkpoint(&journal, &["state"]);
    assert!(!journal.checkpoint_due());
}

#[test]
fn the_writer_stops_before_the_directory_has_more_files_than_a_reader_takes() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    let record = [1; 3000];
    let refused = loop {
        let lsn = match journal.append_batch(&[&record], Urgency::Normal) {
            Ok(lsn) => lsn,
            Err(error) => break error,
        };
        if let Err(error) = journal.sync(lsn) {
            break error;
        }
    };
    assert!(matches!(refused, Error::Poisoned(cause) if matches!(*cause, Error::TooMany(..))));
    assert_eq!(segments(&disk).len(), 3072);
    drop(journal);
    let (journal, report, _) = open(&disk, small());
    checkpoint(&journal, &["state"]);
    assert!(
        segments(&disk).len() < 3,
        "with so many files, one generation has to do"
    );
    append(&journal, report.next.0, 1);
}

#[test]
fn unsynced_removals_that_come_back_in_part_do_no_harm() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    append(&journal, 1, 60);
    let old = disk.everything();
    checkpoint(&journal, &["first"]);
    append(&journal, 61, 1);
    checkpoint(&journal, &["second"]);
    append(&journal, 62, 1);
    journal.close().unwrap();
    for name in ["0000000000000001.seg", "0000000000000003.seg"] {
        disk.put(&path(name), &old[&path(name)]);
    }
    let (journal, _, collected) = try_open(&disk, small()).unwrap();
    assert_eq!((collected.snapshot.len(), collected.records.len()), (1, 1));
    checkpoint(&journal, &["third"]);
    assert!(
        !segments(&disk)
            .iter()
            .any(|name| name < &"0000000000000004.seg".to_owned())
    );
}
