//! Reading beside a writer, verifying, dumping and salvaging.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use backhaul_journal::{
    Error, FrameKind, Journal, LINEAGE_BYTES, Lsn, Options, Replay, ReplayError, Tail, Urgency, Verdict, dump, read,
    salvage, verify,
};

use crate::support::{self, Call, Collected, Fault, SimDisk, directory, new_disk, open, small, try_open};

fn into() -> PathBuf {
    PathBuf::from("/state/salvaged")
}

fn segment(seq: u64) -> PathBuf {
    directory().join(format!("{seq:016x}.seg"))
}

fn record(number: u64) -> Vec<u8> {
    format!("record {number} {}", "z".repeat(400)).into_bytes()
}

fn append(journal: &Journal, from: u64, to: u64) {
    for number in from..=to {
        journal
            .sync(journal.append(&record(number), Urgency::Normal).unwrap())
            .unwrap();
    }
}

/// Thirty records in several segments, closed.
fn journal_of_thirty() -> SimDisk {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    append(&journal, 1, 30);
    journal.close().unwrap();
    disk
}

fn flip(disk: &SimDisk, path: &Path, offset: usize) {
    let mut bytes = disk.content(path);
    bytes[offset] ^= 0x40;
    disk.put(path, &bytes);
}

/// Opens what a salvage made.
fn open_salvaged(disk: &SimDisk) -> (backhaul_journal::Report, Collected) {
    let mut collected = Collected::default();
    let lock = support::lock(disk);
    let (journal, report) = Journal::open(disk.storage(), &into(), lock, small(), &mut collected).unwrap();
    journal
        .sync(journal.append(b"on we go", Urgency::Normal).unwrap())
        .unwrap();
    journal.close().unwrap();
    (report, collected)
}

#[test]
fn reading_needs_no_lock_and_writes_nothing() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    append(&journal, 1, 3);
    let (changes, before) = (disk.changes(), disk.everything());
    let (report, found) = support::read(&disk).unwrap();
    assert_eq!((found.records.len(), report.next, report.proven), (3, Lsn(4), Lsn(3)));
    assert_eq!(verify(&disk.storage(), &directory()).unwrap().verdict(), Verdict::Clean);
    assert_eq!((disk.changes(), disk.everything() == before), (changes, true));
}

#[test]
fn where_there_is_no_journal_the_error_says_so() {
    let disk = new_disk();
    assert!(matches!(support::read(&disk), Err(Error::NoJournal(path)) if path == directory()));
    disk.storage().create_directory(&directory(), 0o700).unwrap();
    assert!(matches!(support::read(&disk), Err(Error::NoJournal(_))));
    assert!(matches!(
        verify(&disk.storage(), &directory()),
        Err(Error::NoJournal(_))
    ));
    assert!(matches!(
        salvage(&disk.storage(), &directory(), &into()),
        Err(Error::NoJournal(_))
    ));
    assert_eq!(disk.names(Path::new("/state")).len(), 0);
}

/// Two checkpoints while a reader is at its second segment, whose file they remove.
fn checkpoint_under_the_reader(disk: &SimDisk) {
    let (journal, _, _) = open(disk, small());
    append(&journal, 1, 30);
    let mut journal = Some(journal);
    let mut opened = 0;
    disk.fail_with(move |call, path| {
        opened += u32::from(call == Call::Open && path.extension().is_some_and(|kind| kind == "seg"));
        if opened == 8
            && let Some(journal) = journal.take()
        {
            for number in [31, 32] {
                append(&journal, number, number);
                journal
                    .checkpoint(&mut |snapshot| snapshot.record(b"all so far"))
                    .unwrap();
            }
        }
        None::<Fault>
    });
}

#[test]
fn reading_starts_over_when_a_checkpoint_removes_files_under_it() {
    let disk = new_disk();
    checkpoint_under_the_reader(&disk);
    let (report, found) = support::read(&disk).unwrap();
    assert_eq!(
        (found.snapshot.len(), found.records.len(), report.next),
        (1, 0, Lsn(33))
    );
}

#[test]
fn a_replay_that_cannot_start_over_ends_with_an_error() {
    struct Once;
    impl Replay for Once {
        fn snapshot(&mut self, _record: &[u8]) -> Result<(), ReplayError> {
            Ok(())
        }
        fn record(&mut self, _lsn: Lsn, _record: &[u8]) -> Result<(), ReplayError> {
            Ok(())
        }
    }
    let disk = new_disk();
    checkpoint_under_the_reader(&disk);
    assert!(matches!(
        read(&disk.storage(), &directory(), &mut Once),
        Err(Error::Changing(_))
    ));
}

#[test]
fn a_refusing_replay_stops_the_open_and_changes_nothing() {
    struct Refuses;
    impl Replay for Refuses {
        fn snapshot(&mut self, _record: &[u8]) -> Result<(), ReplayError> {
            Ok(())
        }
        fn record(&mut self, lsn: Lsn, _record: &[u8]) -> Result<(), ReplayError> {
            if lsn == Lsn(3) {
                Err("of a later version".into())
            } else {
                Ok(())
            }
        }
    }
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    append(&journal, 1, 3);
    drop(journal);
    let lock = support::lock(&disk);
    let before = disk.everything();
    let answer = Journal::open(disk.storage(), &directory(), lock, small(), &mut Refuses);
    assert!(matches!(answer, Err(Error::Refused(Some(Lsn(3)), cause)) if cause.to_string() == "of a later version"));
    assert_eq!(disk.everything(), before);
}

#[test]
fn unknown_names_are_reported_and_left_alone() {
    let disk = journal_of_thirty();
    let strange = directory().join("notes.txt");
    disk.put(&strange, b"mine");
    disk.put(&directory().join("00000000000000ff.tmp"), b"left over");
    let (_, report, _) = open(&disk, small());
    assert_eq!(report.unknown, ["notes.txt"]);
    assert_eq!(disk.content(&strange), b"mine");
    assert!(!disk.names(&directory()).contains(&"00000000000000ff.tmp".to_owned()));
}

#[test]
fn verify_tells_clean_from_torn_from_corrupt() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    append(&journal, 1, 10);
    drop(journal);
    let clean = verify(&disk.storage(), &directory()).unwrap();
    assert_eq!(
        (clean.verdict(), clean.clean),
        (Verdict::Clean, false),
        "intact, but the last group is unproven"
    );
    let last = clean.segments.last().unwrap();
    assert_eq!(
        (last.next, last.proven, clean.segments[0].first),
        (Lsn(11), Lsn(10), Lsn(1))
    );
    assert_eq!(clean.segments.iter().map(|segment| segment.frames).sum::<u64>(), 10);

    let (torn, end) = (disk.kill(), 64 + 448 * usize::try_from(last.frames).unwrap());
    flip(&torn, &segment(last.seq), end - 20);
    let report = verify(&torn.storage(), &directory()).unwrap();
    assert_eq!((report.verdict(), report.next), (Verdict::Torn, Lsn(10)));
    assert!(matches!(
        report.tail,
        Tail::Torn {
            maybe_acknowledged: true,
            ..
        }
    ));

    flip(&disk, &segment(1), 64 + 448 + 100);
    flip(&disk, &segment(1), 64 + 5 * 448 + 100);
    let report = verify(&disk.storage(), &directory()).unwrap();
    assert_eq!(report.verdict(), Verdict::Corrupt);
    assert_eq!(report.segments[0].bad, [512..960, 2304..2752]);
    assert_eq!(report.corruption.unwrap().lsn, Lsn(2));
}

#[test]
fn dump_shows_every_record_with_its_place() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    journal.append(b"one", Urgency::Normal).unwrap();
    journal.append(b"two", Urgency::Normal).unwrap();
    journal.checkpoint(&mut |snapshot| snapshot.record(b"state")).unwrap();
    journal.close().unwrap();
    let mut shown = Vec::new();
    let mut show = |entry: &backhaul_journal::Entry<'_>| {
        let text = entry.record.map(|record| String::from_utf8_lossy(record).into_owned());
        shown.push((entry.file.to_owned(), entry.offset_bytes, entry.kind, entry.lsn.0, text));
        ControlFlow::Continue(())
    };
    dump(&disk.storage(), &directory(), &mut show).unwrap();
    let (snapshot, log) = ("0000000000000003-0000.snap", "0000000000000001.seg");
    let expected = [
        (snapshot, 64, FrameKind::Batch, 0, Some("state")),
        (snapshot, 104, FrameKind::SnapshotEnd, 1, None),
        (log, 64, FrameKind::Batch, 1, Some("one")),
        (log, 64, FrameKind::Batch, 2, Some("two")),
        (log, 112, FrameKind::Close, 3, None),
    ];
    assert_eq!(
        shown,
        expected.map(|(file, at, kind, lsn, text)| (file.to_owned(), at, kind, lsn, text.map(str::to_owned)))
    );

    let mut count = 0;
    dump(&disk.storage(), &directory(), &mut |_| {
        count += 1;
        ControlFlow::Break(())
    })
    .unwrap();
    assert_eq!(count, 1);
}

#[test]
fn salvage_copies_what_is_intact_and_lists_what_is_not() {
    let disk = journal_of_thirty();
    // Records 2, 3 and 13; each segment holds eight records of 448 bytes.
    for (seq, offset) in [(1, 64 + 448 + 50), (1, 64 + 2 * 448 + 10), (2, 64 + 5 * 448 - 300)] {
        flip(&disk, &segment(seq), offset);
    }
    assert!(matches!(try_open(&disk, small()), Err(Error::Corrupt(_))));
    let before = disk.everything();
    let salvaged = salvage(&disk.storage(), &directory(), &into()).unwrap();
    assert_eq!(salvaged.gaps, [(Lsn(2), Lsn(4)), (Lsn(13), Lsn(14))]);
    assert_eq!((salvaged.records, salvaged.missing, salvaged.next), (27, 3, Lsn(32)));
    assert!(
        before.iter().all(|(path, bytes)| disk.content(path) == *bytes),
        "the source is untouched"
    );

    let disk = disk.lose_unsynced();
    let (report, found) = open_salvaged(&disk);
    let numbers = (1..=30).filter(|number| ![2, 3, 13].contains(number));
    assert_eq!(
        found.records,
        numbers.map(|number| (number, record(number))).collect::<Vec<_>>()
    );
    // One number more: it stands for what may have been lost at the very end.
    assert_eq!((report.missing, report.id, report.clean), (4, salvaged.id, true));
    assert_ne!(salvaged.id, *b"0123456789abcdef");
}

#[test]
fn a_copy_keeps_the_first_bytes_of_the_id_however_often_it_is_salvaged() {
    let disk = journal_of_thirty();
    let first = salvage(&disk.storage(), &directory(), &into()).unwrap();
    let again = PathBuf::from("/state/again");
    let second = salvage(&disk.storage(), &into(), &again).unwrap();
    for id in [first.id, second.id] {
        assert_eq!(id[..LINEAGE_BYTES], b"0123456789abcdef"[..LINEAGE_BYTES]);
    }
    assert_ne!(first.id, second.id);
}

#[test]
fn a_replay_is_told_of_every_place_where_records_were_lost_and_of_the_end_of_every_salvage() {
    #[derive(Default)]
    struct Told(Vec<(u64, u64)>, u64);
    impl Replay for Told {
        fn snapshot(&mut self, _record: &[u8]) -> Result<(), ReplayError> {
            Ok(())
        }
        fn record(&mut self, lsn: Lsn, _record: &[u8]) -> Result<(), ReplayError> {
            self.1 = lsn.0;
            Ok(())
        }
        fn gap(&mut self, first: Lsn, next: Lsn) {
            assert_eq!(self.1 + 1, first.0, "in its place among the records");
            self.0.push((first.0, next.0));
            self.1 = next.0 - 1;
        }
    }
    let disk = journal_of_thirty();
    flip(&disk, &segment(1), 64 + 448 + 50);
    salvage(&disk.storage(), &directory(), &into()).unwrap();
    // Also once the journal has gone on in a segment of its own.
    for more in 0..2 {
        let mut told = Told::default();
        let lock = support::lock(&disk);
        let (journal, _) = Journal::open(disk.storage(), &into(), lock, small(), &mut told).unwrap();
        assert_eq!(told.0, [(2, 3), (31, 32)], "{more}");
        let last = journal.append(b"more", Urgency::Normal).unwrap();
        journal.sync(last).unwrap();
    }
}

#[test]
fn records_that_only_the_header_of_an_empty_segment_speaks_of_are_missing() {
    let disk = journal_of_thirty();
    disk.storage().remove(&segment(3)).unwrap();
    let mut last = disk.content(&segment(4));
    last[64..].fill(0);
    disk.put(&segment(4), &last);
    let salvaged = salvage(&disk.storage(), &directory(), &into()).unwrap();
    assert_eq!(
        (salvaged.records, salvaged.gaps.clone()),
        (16, vec![(Lsn(17), Lsn(25))])
    );
}

#[test]
fn salvage_reads_a_segment_whose_header_is_lost() {
    for seq in [1, 2, 4] {
        let disk = journal_of_thirty();
        let mut bytes = disk.content(&segment(seq));
        bytes[..64].fill(0);
        disk.put(&segment(seq), &bytes);
        let salvaged = salvage(&disk.storage(), &directory(), &into()).unwrap();
        assert_eq!((salvaged.records, salvaged.missing), (30, 0), "segment {seq}");
        assert_eq!(open_salvaged(&disk).1.records.len(), 30);
    }
}

#[test]
fn what_is_salvaged_by_the_id_of_a_snapshot_is_also_dumped() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    append(&journal, 1, 2);
    journal.checkpoint(&mut |snapshot| snapshot.record(b"two")).unwrap();
    append(&journal, 3, 4);
    journal.close().unwrap();
    for name in disk.names(&directory()).iter().filter(|name| !name.contains('-')) {
        flip(&disk, &directory().join(name), 8);
    }
    let mut dumped = Vec::new();
    dump(&disk.storage(), &directory(), &mut |entry| {
        dumped.extend(entry.record.map(<[u8]>::to_vec));
        ControlFlow::Continue(())
    })
    .unwrap();
    salvage(&disk.storage(), &directory(), &into()).unwrap();
    let (_, found) = open_salvaged(&disk);
    let salvaged: Vec<_> = found.records.into_iter().map(|(_, record)| record).collect();
    assert_eq!(salvaged, [record(3), record(4)]);
    assert!(salvaged.iter().all(|record| dumped.contains(record)));
}

#[test]
fn salvage_passes_over_a_segment_that_a_later_one_voids() {
    let disk = journal_of_thirty();
    let mut header = disk.content(&segment(1))[..64].to_vec();
    header[20..24].fill(0);
    for (seq, first) in [(6, 31), (7, 40), (8, 31)] {
        header[24..32].copy_from_slice(&u64::to_le_bytes(seq));
        header[32..40].copy_from_slice(&u64::to_le_bytes(first));
        let sum = crc32fast::hash(&header[..60]);
        header[60..].copy_from_slice(&sum.to_le_bytes());
        disk.put(&segment(seq), &header);
    }
    let salvaged = salvage(&disk.storage(), &directory(), &into()).unwrap();
    assert_eq!((salvaged.records, salvaged.missing, salvaged.next), (30, 0, Lsn(32)));
}

#[test]
fn salvage_marks_a_missing_segment_as_a_gap() {
    let disk = journal_of_thirty();
    disk.storage().remove(&segment(2)).unwrap();
    let salvaged = salvage(&disk.storage(), &directory(), &into()).unwrap();
    assert_eq!((salvaged.records, salvaged.missing), (22, 8));
    let (report, found) = open_salvaged(&disk);
    assert_eq!((found.records.len(), report.missing), (22, 9));
}

#[test]
fn salvage_takes_the_newest_whole_snapshot_and_the_log_from_there() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    append(&journal, 1, 10);
    journal.checkpoint(&mut |snapshot| snapshot.record(b"ten")).unwrap();
    append(&journal, 11, 20);
    journal.checkpoint(&mut |snapshot| snapshot.record(b"twenty")).unwrap();
    append(&journal, 21, 22);
    journal.close().unwrap();
    flip(&disk, &directory().join("0000000000000015-0000.snap"), 100);
    let salvaged = salvage(&disk.storage(), &directory(), &into()).unwrap();
    assert_eq!((salvaged.snapshot, salvaged.snapshot_damaged), (Some(Lsn(11)), false));
    assert_eq!(
        (salvaged.records, salvaged.missing, salvaged.snapshot_records),
        (12, 0, 1)
    );
    let (_, found) = open_salvaged(&disk);
    assert_eq!(found.snapshot, [b"ten"]);
    assert_eq!(
        found.records.iter().map(|(lsn, _)| *lsn).collect::<Vec<_>>(),
        (11..=22).collect::<Vec<_>>()
    );
}

#[test]
fn salvage_takes_what_is_left_of_a_damaged_snapshot_if_there_is_no_whole_one() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    append(&journal, 1, 10);
    let state = |number: u8| vec![number; 5000];
    journal
        .checkpoint(&mut |snapshot| (0..5).try_for_each(|number| snapshot.record(&state(number))))
        .unwrap();
    append(&journal, 11, 11);
    journal.close().unwrap();
    flip(&disk, &directory().join("000000000000000b-0000.snap"), 64 + 5040 + 500);
    // Else the log would say it all.
    disk.storage().remove(&segment(1)).unwrap();
    let salvaged = salvage(&disk.storage(), &directory(), &into()).unwrap();
    assert_eq!((salvaged.snapshot, salvaged.snapshot_damaged), (Some(Lsn(11)), true));
    assert_eq!((salvaged.snapshot_records, salvaged.records), (4, 1));
    let (_, found) = open_salvaged(&disk);
    assert_eq!(found.snapshot, [0, 2, 3, 4].map(state));
    assert_eq!(found.records, [(11, record(11))]);
}

#[test]
fn salvage_copies_the_whole_log_rather_than_what_is_left_of_a_damaged_snapshot() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    append(&journal, 1, 12);
    journal.checkpoint(&mut |snapshot| snapshot.record(b"twelve")).unwrap();
    append(&journal, 13, 14);
    journal.close().unwrap();
    flip(&disk, &directory().join("000000000000000d-0000.snap"), 100);
    let (_, before) = support::read(&disk).unwrap();
    assert_eq!(before.records.len(), 14);
    let salvaged = salvage(&disk.storage(), &directory(), &into()).unwrap();
    assert_eq!((salvaged.snapshot, salvaged.records, salvaged.missing), (None, 14, 0));
    assert_eq!(open_salvaged(&disk).1, before);
}

#[test]
fn salvage_goes_only_into_an_empty_directory_and_shows_when_it_did_not_finish() {
    let disk = journal_of_thirty();
    disk.storage().create_directory(&into(), 0o700).unwrap();
    disk.put(&into().join("something"), b"");
    assert!(matches!(salvage(&disk.storage(), &directory(), &into()), Err(Error::NotEmpty(path)) if path == into()));
    disk.storage().remove(&into().join("something")).unwrap();
    disk.fail_with(|call, path| {
        let last = call == Call::Remove && path.ends_with("INCOMPLETE");
        last.then(|| std::io::Error::from_raw_os_error(5))
    });
    assert!(salvage(&disk.storage(), &directory(), &into()).is_err());
    disk.fail_no_more();
    let lock = support::lock(&disk);
    let answer = Journal::open(
        disk.storage(),
        &into(),
        lock,
        Options::default(),
        &mut Collected::default(),
    );
    assert!(matches!(answer, Err(Error::Incomplete(path)) if path == into()));
}
