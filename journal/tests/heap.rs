//! Memory: none is taken by an append once the buffers are there, and reading anything takes less than 1 MiB.
//!
//! A program of its own, because it counts what every thread takes from the allocator.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod counting;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backhaul_journal::{
    Disk, Error, Journal, Lock, Lsn, Options, Preallocate, Replay, ReplayError, Storage, Urgency, dump, read, verify,
};

use counting::{Counting, measure};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LIMIT: usize = 1024 * 1024;

struct Nothing;

impl Replay for Nothing {
    fn snapshot(&mut self, _record: &[u8]) -> Result<(), ReplayError> {
        Ok(())
    }

    fn record(&mut self, _lsn: Lsn, _record: &[u8]) -> Result<(), ReplayError> {
        Ok(())
    }
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("heap-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn disk() -> Arc<dyn Storage> {
    Arc::new(Disk)
}

fn options() -> Options {
    Options {
        journal_id: Some(*b"0123456789abcdef"),
        preallocate: Preallocate::None,
        ..Options::default()
    }
}

fn open(scratch: &Scratch) -> Journal {
    let lock = Lock::acquire(&disk(), &scratch.0.join("LOCK"), true).unwrap();
    Journal::open(disk(), &scratch.0.join("journal"), lock, options(), &mut Nothing)
        .unwrap()
        .0
}

#[test]
fn an_append_and_its_sync_take_no_memory_once_the_buffers_are_there() {
    let scratch = Scratch::new("append");
    let journal = open(&scratch);
    let record = [7; 100];
    let batch: [&[u8]; 2] = [&record, &record];
    let round = || {
        for _ in 0..20 {
            journal.append(&record, Urgency::Normal).unwrap();
            let last = journal.append_batch(&batch, Urgency::Critical).unwrap();
            journal.sync(last).unwrap();
        }
    };
    round();
    round();
    let ((), calls, _) = measure(round);
    assert_eq!(calls, 0);
}

/// Reads a directory in every way and says how much memory the worst took.
fn most_while_reading(directory: &Path) -> usize {
    let storage = disk();
    let (_, _, reading) = measure(|| read(&storage, directory, &mut Nothing).map(drop));
    let (_, _, verifying) = measure(|| verify(&storage, directory).map(drop));
    let (_, _, dumping) = measure(|| dump(&storage, directory, &mut |_| std::ops::ControlFlow::Continue(())));
    reading.max(verifying).max(dumping)
}

#[test]
fn reading_a_directory_full_of_segments_stays_below_1_mib() {
    let scratch = Scratch::new("files");
    let journal = open(&scratch);
    journal
        .sync(journal.append(&[1; 50], Urgency::Normal).unwrap())
        .unwrap();
    journal.close().unwrap();
    let directory = scratch.0.join("journal");
    let first = fs::read(directory.join("0000000000000001.seg")).unwrap();
    for seq in 2..=4096_u64 {
        let mut header = first[..64].to_vec();
        header[24..32].copy_from_slice(&seq.to_le_bytes());
        header[32..40].copy_from_slice(&2_u64.to_le_bytes());
        let sum = crc32fast::hash(&header[..60]);
        header[60..].copy_from_slice(&sum.to_le_bytes());
        fs::write(directory.join(format!("{seq:016x}.seg")), header).unwrap();
    }
    let report = read(&disk(), &directory, &mut Nothing).unwrap();
    assert_eq!((report.segments.len(), report.next), (4096, Lsn(2)));
    let most = most_while_reading(&directory);
    assert!(most < LIMIT, "{most}");
    fs::write(directory.join("0000000000001001.seg"), b"").unwrap();
    let answer = read(&disk(), &directory, &mut Nothing);
    assert!(matches!(answer, Err(Error::TooMany(_, 4097, 4096))));
}

#[test]
fn reading_hostile_bytes_stays_below_1_mib_and_never_panics() {
    let scratch = Scratch::new("hostile");
    let journal = open(&scratch);
    for number in 0..200_u32 {
        journal
            .append(&[number.to_le_bytes()[0]; 3000], Urgency::Normal)
            .unwrap();
        if number % 20 == 0 {
            journal.sync(Lsn(u64::from(number) + 1)).unwrap();
        }
    }
    journal
        .checkpoint(&mut |snapshot| (0..200).try_for_each(|_| snapshot.record(&[3; 3000])))
        .unwrap();
    journal.close().unwrap();
    let directory = scratch.0.join("journal");
    let files: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap() % below
    };
    for _ in 0..300 {
        let path = &files[random(files.len())];
        let sound = fs::read(path).unwrap();
        if sound.is_empty() {
            continue;
        }
        let mut bytes = sound.clone();
        for _ in 0..=random(8) {
            let at = random(bytes.len());
            let len = (1 << random(12)).min(bytes.len() - at);
            let value = u8::try_from(random(256)).unwrap();
            bytes[at..at + len].fill(value);
        }
        if random(4) == 0 {
            bytes.truncate(random(bytes.len()));
        }
        fs::write(path, &bytes).unwrap();
        let most = most_while_reading(&directory);
        assert!(most < LIMIT, "{most}");
        fs::write(path, &sound).unwrap();
    }
}

#[test]
fn an_unproven_tail_beyond_any_group_is_refused_before_it_fills_the_memory() {
    let scratch = Scratch::new("tail");
    let journal = open(&scratch);
    journal.close().unwrap();
    let directory = scratch.0.join("journal");
    let path = directory.join("0000000000000001.seg");
    let mut bytes = fs::read(&path).unwrap();
    let seed = crc32fast::hash(&[&b"0123456789abcdef"[..], &1_u64.to_le_bytes()].concat());
    let sum = |bytes: &[u8]| {
        let mut sum = crc32fast::Hasher::new_with_initial(seed);
        sum.update(bytes);
        sum.finalize().to_le_bytes()
    };
    let body = [&(30_000_u16).to_le_bytes()[..], &vec![5; 30_000], &[0; 6]].concat();
    for lsn in 1..=1000_u64 {
        let mut header = vec![0; 4];
        header.extend_from_slice(&sum(&body));
        header.extend_from_slice(&30_002_u32.to_le_bytes());
        header.extend_from_slice(&[1, 0, 1, 0]);
        header.extend_from_slice(&lsn.to_le_bytes());
        header.extend_from_slice(&1_u64.to_le_bytes());
        let header_sum = sum(&header[4..]);
        header[..4].copy_from_slice(&header_sum);
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(&body);
    }
    fs::write(&path, &bytes).unwrap();
    let Err(Error::Corrupt(corruption)) = read(&disk(), &directory, &mut Nothing) else {
        panic!("a tail of 30 MB was taken for one group");
    };
    assert_eq!(corruption.reason, "more is unproven than one commit writes");
    let most = most_while_reading(&directory);
    assert!(most < LIMIT, "{most}");
    bytes.resize(64 * 1024 * 1024 + 1, 0);
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(
        read(&disk(), &directory, &mut Nothing),
        Err(Error::TooLarge(..))
    ));
}
