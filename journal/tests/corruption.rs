//! Damage of every kind at every place of a small synced log: never a wrong record, and never a lost one in silence
//! except in the very last group, which nothing vouches for yet.

use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use backhaul_journal::{Error, Lsn, Options, Preallocate, Tail, Urgency, Verdict, dump, verify};

use crate::support::{Collected, SimDisk, directory, new_disk, open, read, small, try_open};

const SECTOR: usize = 512;
const LAST: &str = "0000000000000002.seg";

/// A log of several groups, and what was acknowledged.
struct Log {
    disk: SimDisk,
    all: Collected,
    /// Offset of each frame in the last segment, with its first LSN.
    frames: Vec<(usize, u64)>,
}

/// Two segments, a snapshot, groups of one and two records.
fn log(closed: bool, preallocate: Preallocate) -> Log {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, Options { preallocate, ..small() });
    for group in 0..12_u8 {
        let record = vec![group; 150 + usize::from(group) * 31];
        let first = journal.append(&record, Urgency::Normal).unwrap();
        let last = match group % 3 {
            0 => journal.append_batch(&[b"two", b"three"], Urgency::Normal).unwrap(),
            _ => first,
        };
        journal.sync(last).unwrap();
        if group == 1 {
            journal.checkpoint(&mut |snapshot| snapshot.record(b"state")).unwrap();
        }
    }
    // Long enough for a second segment, short enough for a quick test.
    let last = journal.append(&[99; 900], Urgency::Normal).unwrap();
    journal.sync(last).unwrap();
    if closed {
        journal.close().unwrap();
    }
    let (_, all) = read(&disk).unwrap();
    assert_eq!(disk.names(&directory()).len(), 3);
    let mut frames = Vec::new();
    dump(&disk.storage(), &directory(), &mut |entry| {
        let offset = usize::try_from(entry.offset_bytes).unwrap();
        if entry.file == LAST && frames.last().is_none_or(|(last, _)| *last != offset) {
            frames.push((offset, entry.lsn.0));
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(frames.len() > 1);
    Log { disk, all, frames }
}

impl Log {
    fn paths(&self) -> Vec<PathBuf> {
        self.disk
            .names(&directory())
            .iter()
            .map(|name| directory().join(name))
            .collect()
    }

    /// Damages one file in many ways and checks what reading makes of each.
    fn damage(&self, path: &Path, ways: impl Iterator<Item = (String, Range<usize>, Vec<u8>)>) -> Tally {
        let sound = self.disk.content(path);
        let mut tally = Tally::default();
        for (way, range, bytes) in ways {
            if bytes == sound {
                continue;
            }
            self.disk.put(path, &bytes);
            let excuse = self.excuse(path, &range);
            self.judge(&format!("{}: {way}", path.display()), excuse, &mut tally);
        }
        self.disk.put(path, &sound);
        tally
    }

    /// The first record that damage in a range may take away in silence: none, unless the damage reaches the very last
    /// frame, before which nothing vouches for what the same damage took.
    fn excuse(&self, path: &Path, range: &Range<usize>) -> Option<u64> {
        let (last, _) = self.frames.last()?;
        if !path.ends_with(LAST) || range.end <= *last {
            return None;
        }
        self.frames
            .iter()
            .rfind(|(offset, _)| *offset <= range.start)
            .map(|(_, lsn)| *lsn)
    }

    fn judge(&self, way: &str, excuse: Option<u64>, tally: &mut Tally) {
        let (report, found) = match read(&self.disk) {
            Err(Error::Corrupt(_)) => {
                tally.refused += 1;
                return;
            }
            Err(error) => panic!("{way}: {error}"),
            Ok(answer) => answer,
        };
        let from = found.records.first().map_or(self.all.records[0].0, |(lsn, _)| *lsn);
        if report.damaged_snapshots.is_empty() {
            assert_eq!(found.snapshot, self.all.snapshot, "{way}");
        } else {
            assert_eq!(
                (from, found.snapshot.len()),
                (1, 0),
                "{way}: the log holds all from the start"
            );
        }
        let whole: Vec<_> = found
            .records
            .iter()
            .filter(|(lsn, _)| *lsn >= self.all.records[0].0)
            .cloned()
            .collect();
        assert!(self.all.records.starts_with(&whole), "{way}: a record is wrong");
        if whole.len() == self.all.records.len() {
            tally.whole += 1;
            return;
        }
        let first_lost = self.all.records[whole.len()].0;
        assert!(
            excuse.is_some_and(|excuse| first_lost >= excuse),
            "{way}: record {first_lost} was lost in silence"
        );
        assert!(
            matches!(
                report.tail,
                Tail::Torn {
                    maybe_acknowledged: true,
                    ..
                }
            ),
            "{way}: {:?}",
            report.tail
        );
        tally.torn += 1;
    }
}

#[derive(Debug, Default)]
struct Tally {
    refused: usize,
    torn: usize,
    whole: usize,
}

#[test]
fn whatever_stands_alone_in_the_place_of_the_first_segment_and_is_none_is_damage_and_left_as_it_is() {
    let disk = new_disk();
    let (journal, _, _) = open(&disk, small());
    for _ in 0..3 {
        journal.sync(journal.append(b"kept", Urgency::Normal).unwrap()).unwrap();
    }
    drop(journal);
    let path = directory().join("0000000000000001.seg");
    let sound = disk.content(&path);
    let damaged = |at: Range<usize>| {
        let mut bytes = sound.clone();
        bytes[at].fill(0);
        bytes
    };
    let contents = [
        Vec::new(),
        vec![0; 4096],
        b"a note of somebody else".to_vec(),
        vec![0xFF; 300_000],
        // Its header, or its first group, which later ones vouch for.
        damaged(0..64),
        damaged(64..100),
        damaged(0..100),
    ];
    for bytes in contents {
        disk.put(&path, &bytes);
        for options in [small(), Options { brief: true, ..small() }] {
            assert!(
                matches!(try_open(&disk, options), Err(Error::Corrupt(_))),
                "{} bytes",
                bytes.len()
            );
        }
        assert!(matches!(read(&disk), Err(Error::Corrupt(_))));
        assert_eq!(disk.names(&directory()), ["0000000000000001.seg"]);
        assert_eq!(disk.content(&path), bytes);
    }
}

#[test]
fn every_flipped_bit_is_refused_or_harmless_or_in_the_last_group() {
    for (closed, preallocate) in [(false, Preallocate::Zero), (true, Preallocate::None)] {
        let log = log(closed, preallocate);
        for path in log.paths() {
            let sound = log.disk.content(&path);
            let flips = (0..sound.len() * 8).map(|bit| {
                let mut bytes = sound.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                (format!("bit {bit}"), bit / 8..bit / 8 + 1, bytes)
            });
            let tally = log.damage(&path, flips);
            let snapshot = path.to_string_lossy().contains('-');
            assert!(snapshot || tally.refused > 0, "{}: {tally:?}", path.display());
            assert_eq!(tally.refused + tally.torn + tally.whole, sound.len() * 8);
        }
    }
}

#[test]
fn every_lost_garbled_or_misdirected_sector_is_refused_or_harmless_or_in_the_last_group() {
    for (closed, preallocate) in [(false, Preallocate::Zero), (true, Preallocate::None)] {
        let log = log(closed, preallocate);
        for path in log.paths() {
            let sound = log.disk.content(&path);
            let sectors = sound.len().div_ceil(SECTOR);
            let mut ways = Vec::new();
            for sector in 0..sectors {
                let range = sector * SECTOR..((sector + 1) * SECTOR).min(sound.len());
                for (way, pattern) in [("zero", 0), ("garbled", 0xA5), ("ones", 0xFF)] {
                    let mut bytes = sound.clone();
                    bytes[range.clone()].fill(pattern);
                    ways.push((format!("sector {sector} {way}"), range.clone(), bytes));
                }
                for other in 0..sectors {
                    let from = other * SECTOR..((other + 1) * SECTOR).min(sound.len());
                    let count = from.len().min(range.len());
                    let mut bytes = sound.clone();
                    bytes.copy_within(from.start..from.start + count, range.start);
                    ways.push((format!("sector {other} over {sector}"), range.clone(), bytes));
                }
            }
            log.damage(&path, ways.into_iter());
        }
    }
}

#[test]
fn a_segment_in_the_place_of_another_is_refused() {
    let log = log(true, Preallocate::Zero);
    let [first, second] = ["0000000000000001.seg", "0000000000000002.seg"].map(|name| directory().join(name));
    let (one, two) = (log.disk.content(&first), log.disk.content(&second));
    log.disk.put(&second, &one);
    assert!(matches!(read(&log.disk), Err(Error::Corrupt(_))));
    // The frames of the first segment behind the header of the second: same journal, same numbers, another seed.
    let mut mixed = two[..64].to_vec();
    mixed.extend_from_slice(&one[64..]);
    log.disk.put(&second, &mixed);
    let (report, found) = read(&log.disk).unwrap();
    assert!(found.records.iter().all(|(lsn, _)| *lsn < report.segments[1].first.0));
    assert!(matches!(report.tail, Tail::Torn { .. }));
}

#[test]
fn a_missing_segment_is_refused() {
    let log = log(true, Preallocate::Zero);
    let path = directory().join("0000000000000001.seg");
    log.disk.storage().remove(&path).unwrap();
    let Err(Error::Corrupt(corruption)) = read(&log.disk) else {
        panic!("a missing segment was not noticed");
    };
    assert_eq!(
        (corruption.path, corruption.reason),
        (directory(), "a segment is missing")
    );
}

#[test]
fn a_refused_open_changes_nothing_and_says_where() {
    let log = log(false, Preallocate::Zero);
    let path = directory().join("0000000000000001.seg");
    let mut bytes = log.disk.content(&path);
    bytes[1000] ^= 4;
    log.disk.put(&path, &bytes);
    log.disk.put(&directory().join("0000000000000009.tmp"), b"left over");
    drop(crate::support::lock(&log.disk));
    let before = log.disk.everything();
    let Err(Error::Corrupt(corruption)) = try_open(&log.disk, small()) else {
        panic!("the damage was not noticed");
    };
    assert_eq!(log.disk.everything(), before);
    assert_eq!(corruption.path, path);
    assert!(
        corruption.offset_bytes <= 1000 && corruption.offset_bytes > 400,
        "{corruption}"
    );
    assert!(
        corruption.lsn > Lsn(1) && corruption.proven >= corruption.lsn,
        "{corruption:?}"
    );
}

#[test]
fn a_file_of_a_later_format_is_unsupported_and_not_damaged() {
    let log = log(true, Preallocate::Zero);
    let path = directory().join("0000000000000002.seg");
    let sound = log.disk.content(&path);
    let changed = |offset: usize, value: u8, sum_at: usize, sum: &dyn Fn(&[u8]) -> u32| {
        let mut bytes = sound.clone();
        bytes[offset] = value;
        let sum = sum(&bytes);
        bytes[sum_at..sum_at + 4].copy_from_slice(&sum.to_le_bytes());
        bytes
    };
    let header_sum = |bytes: &[u8]| crc32fast::hash(&bytes[..60]);
    for (offset, value) in [(8, 2), (12, 1), (56, 1)] {
        log.disk.put(&path, &changed(offset, value, 60, &header_sum));
        assert!(matches!(read(&log.disk), Err(Error::Unsupported(..))), "byte {offset}");
        assert!(
            matches!(verify(&log.disk.storage(), &directory()), Err(Error::Unsupported(..))),
            "byte {offset}"
        );
    }
    // A compatible feature may be read, but nothing may be written beside it.
    log.disk.put(&path, &changed(16, 1, 60, &header_sum));
    read(&log.disk).unwrap();
    assert!(matches!(try_open(&log.disk, small()), Err(Error::Unsupported(..))));

    let mut seed = crc32fast::Hasher::new();
    seed.update(b"0123456789abcdef");
    seed.update(&2_u64.to_le_bytes());
    let seed = seed.finalize();
    let frame_sum = |bytes: &[u8]| {
        let mut sum = crc32fast::Hasher::new_with_initial(seed);
        sum.update(&bytes[68..96]);
        sum.finalize()
    };
    for (offset, value) in [(64 + 14, 0x7F), (64 + 15, 1)] {
        log.disk.put(&path, &changed(offset, value, 64, &frame_sum));
        assert!(matches!(read(&log.disk), Err(Error::Unsupported(..))), "byte {offset}");
    }
    // A kind from 0x80 on is passed over, with the numbers of its records.
    log.disk.put(&path, &changed(64 + 14, 0x80, 64, &frame_sum));
    let (_, found) = read(&log.disk).unwrap();
    assert_eq!(found.records.len() + 1, log.all.records.len());
}

#[test]
fn verify_finds_the_damage_that_reading_finds() {
    let log = log(true, Preallocate::Zero);
    let report = verify(&log.disk.storage(), &directory()).unwrap();
    assert_eq!(report.verdict(), Verdict::Clean);
    for path in log.paths() {
        let sound = log.disk.content(&path);
        for offset in (0..sound.len()).step_by(41) {
            let mut bytes = sound.clone();
            bytes[offset] ^= 0x10;
            log.disk.put(&path, &bytes);
            let opens = read(&log.disk);
            let verdict = verify(&log.disk.storage(), &directory()).unwrap().verdict();
            match opens {
                Err(_) => assert_eq!(verdict, Verdict::Corrupt, "{} at {offset}", path.display()),
                Ok((report, _)) if !report.damaged_snapshots.is_empty() => assert_eq!(verdict, Verdict::Corrupt),
                Ok((report, _)) if report.tail != Tail::Clean => assert_eq!(verdict, Verdict::Torn),
                // Bytes behind the place where the next segment took over mean nothing.
                Ok(_) => assert_eq!(verdict, Verdict::Clean, "{} at {offset}", path.display()),
            }
        }
        log.disk.put(&path, &sound);
    }
}
