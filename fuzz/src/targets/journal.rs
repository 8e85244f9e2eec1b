//! Targets over the bytes of a journal: whatever stands in its files, reading neither panics nor changes anything, its
//! parts agree with each other, and what can be opened can be opened again.

use std::collections::BTreeMap;

use backhaul_journal::simulation::Choices;
use backhaul_journal::{Error, Tail, Verdict, read};

use super::directory::{Directory, Told, part_name, segment_name};
use super::forge::Forge;
use super::naive::{End, Log};

/// Files in one directory; more of them reach no code that these do not.
const FILES_MAX: usize = 6;

/// Any bytes as the one segment of a journal.
pub(crate) fn segment_raw(bytes: &[u8]) {
    let directory = Directory::new();
    directory.put(&segment_name(1), bytes);
    look_at_one_segment(&directory);
}

/// A segment whose checksums hold, with faults above and below them.
pub(crate) fn segment_fixup(bytes: &[u8]) {
    let mut choices = Choices::from_bytes(bytes);
    let mut forge = Forge(&mut choices);
    let directory = Directory::new();
    let (segment, _) = forge.segment(1, 1);
    directory.put(&segment_name(1), &segment);
    look_at_one_segment(&directory);
}

fn look_at_one_segment(directory: &Directory) {
    let looks = directory.look();
    if looks.read.is_ok() {
        let verified = looks
            .verified
            .as_ref()
            .expect("a segment that can be read can be verified");
        assert_ne!(verified.verdict(), Verdict::Corrupt, "what can be read is not corrupt");
        assert!(looks.dumped.is_some(), "a segment that can be read can be dumped");
    }
    directory.open_twice(&looks);
}

/// Several files, each with any bytes under a name that a journal knows or does not.
pub(crate) fn open_dir(bytes: &[u8]) {
    let directory = Directory::new();
    let mut rest = bytes;
    for _ in 0..FILES_MAX {
        let Some(([kind, number, low, high], after)) = rest.split_first_chunk() else {
            break;
        };
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
        let (content, after) = after.split_at(len);
        directory.put(&name(*kind, *number), content);
        rest = after;
    }
    let looks = directory.look();
    directory.open_twice(&looks);
}

fn name(kind: u8, number: u8) -> String {
    let (high, low) = (u64::from(number >> 4), u32::from(number & 15));
    match kind % 16 {
        0..=5 => segment_name(u64::from(number)),
        6..=9 => part_name(high, low),
        10 => format!("{number:016x}.tmp"),
        11 => format!("{high:016x}-{low:04x}.tmp"),
        12 => ["reserve", "LOCK", "INCOMPLETE", "", "é.seg"][usize::from(number % 5)].to_owned() + "",
        13 => segment_name(u64::MAX - u64::from(number)),
        14 => format!("{number:016X}.seg"),
        _ => format!("{number}"),
    }
}

/// Snapshots, whole and not, beside a log that reaches around them.
pub(crate) fn snapshot(bytes: &[u8]) {
    let directory = forged(bytes, true);
    let looks = directory.look();
    directory.open_twice(&looks);
}

fn forged(bytes: &[u8], has_snapshots: bool) -> Directory {
    let mut choices = Choices::from_bytes(bytes);
    let mut forge = Forge(&mut choices);
    let directory = Directory::new();
    let next = forge.log(&directory);
    if has_snapshots {
        for _ in 0..forge.0.below(3) {
            let lsn = forge.0.below(16) as u64;
            forge.snapshot(&directory, lsn, next.max(lsn));
        }
    }
    directory
}

/// The real reader against one of a hundred lines: where the short one reads a log, the real one reads the same records;
/// where it finds damage, the real one does.
pub(crate) fn differential(bytes: &[u8]) {
    let directory = forged(bytes, false);
    let segments: BTreeMap<u64, Vec<u8>> = (1..16)
        .filter_map(|seq| Some((seq, directory.disk.find(&directory.path.join(segment_name(seq)))?)))
        .collect();
    let mut told = Told::default();
    let outcome = read(&directory.disk.storage(), &directory.path, &mut told);
    let log = Log::read(&segments);
    match (&outcome, log.end) {
        (Ok(report), End::Whole | End::Torn) => {
            assert_eq!(
                told.records, log.records,
                "the records are not those that the format gives"
            );
            assert_eq!(
                report.next.0, log.next,
                "the next LSN is not the one that the format gives"
            );
            assert_eq!(
                report.tail == Tail::Clean,
                log.end == End::Whole,
                "the end is not the one that the format gives"
            );
        }
        // Which of two faults is met first is not a matter of the format.
        (Err(Error::Corrupt(_) | Error::Unsupported(..)), End::Damage | End::Later) => {}
        (outcome, end) => panic!("by the format the log ends with {end:?}, and the reader says {outcome:?}"),
    }
}

/// A copy of what is intact in a damaged directory: it can be opened, it holds only what was there, and all of what could
/// be read.
pub(crate) fn salvage(bytes: &[u8]) {
    let source = forged(bytes, true);
    let looks = source.look();
    let before = source.disk.everything();
    let copy = source.beside("/copy");
    let answer = backhaul_journal::salvage(&source.disk.storage(), &source.path, &copy.path);
    source.assert_kept(&before, "that were salvaged");
    let Ok(salvaged) = answer else {
        let half = read(&source.disk.storage(), &copy.path, &mut Told::default());
        assert!(half.is_err(), "a copy that is not complete can be read");
        return;
    };
    let (journal, report, told) = copy.open().expect("a salvaged copy can be opened");
    drop(journal);
    assert_eq!(
        report.id, salvaged.id,
        "the copy is another journal than the one that was told of"
    );
    // A dump also looks at snapshots that are not copied, and may meet a later format there.
    if let Some(dumped) = &looks.dumped {
        for (lsn, record) in &told.records {
            assert!(dumped.has(*lsn, record), "record {lsn} of the copy was never there");
        }
        for record in &told.snapshot {
            assert!(
                dumped.has_in_snapshot(record),
                "a record of the copy's snapshot was never there"
            );
        }
    }
    let last_gap = told.gaps.last().expect("a salvaged copy ends with a gap");
    assert_eq!(last_gap.1, report.next.0, "a salvaged copy does not end with its gap");
    if looks.read.is_ok() {
        assert_eq!(
            told.records, looks.told.records,
            "a record that could be read was not copied"
        );
        assert_eq!(
            told.snapshot, looks.told.snapshot,
            "a snapshot that could be read was not copied"
        );
    }
}
