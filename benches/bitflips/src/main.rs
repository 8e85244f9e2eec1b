//! Flips single bits in a synced log and opens it again, once for each bit of a sample, in each of several logs.
//!
//! ```text
//! cargo run --release --manifest-path benches/bitflips/Cargo.toml [-- BITS [SEED]]
//! ```
//!
//! A log gets 1,000 records of 90 bytes, each synced by itself, and loses its process without a clean end. Each bit is
//! flipped in a copy, which a process of its own opens for writing as after a crash. The last ten records are left
//! alone: what no later record vouches for, no log can tell from a torn write.

mod logs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use logs::{LOGS, Log};

const RECORDS: usize = 1_000;
const RECORDS_UNTOUCHED: usize = 10;
const OPEN_SECONDS_MAX: u64 = 20;

/// What an open made of a damaged log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// It gives an error and no records.
    Refused,
    /// The bit does not matter: every record is there.
    Whole,
    /// It opens without a word, and records are missing.
    LostInSilence,
    /// It opens without a word, and a record is not what was written.
    Wrong,
    /// The process panics, aborts or does not come back.
    Died,
}

const VERDICTS: [(Verdict, &str); 5] = [
    (Verdict::Refused, "refused"),
    (Verdict::Whole, "whole"),
    (Verdict::LostInSilence, "lost in silence"),
    (Verdict::Wrong, "wrong record"),
    (Verdict::Died, "died"),
];

pub(crate) fn record(number: usize) -> Vec<u8> {
    (0..90_usize)
        .map(|index| (number.wrapping_mul(31) ^ index.wrapping_mul(number | 1)).to_le_bytes()[index % 2])
        .chain(number.to_le_bytes())
        .skip(8)
        .collect()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        // The processes that open the copies.
        ["open", name, directory] => open(name, Path::new(directory)),
        [] => compare(2_000, 1),
        [bits] => compare(bits.parse().expect("BITS is a number"), 1),
        [bits, seed] => compare(
            bits.parse().expect("BITS is a number"),
            seed.parse().expect("SEED is a number"),
        ),
        _ => panic!("usage: bitflips [BITS [SEED]]"),
    }
}

fn compare(bits: u64, seed: u64) -> ExitCode {
    println!("{bits} single bits flipped in a synced log of {RECORDS} records, seed {seed}; each then opened\n");
    print!("{:24}", "log");
    VERDICTS.iter().for_each(|(_, name)| print!("{name:>17}"));
    println!("{:>21}", "fewest records left");
    let mut ours_is_clean = true;
    for log in LOGS {
        let (counts, fewest) = tally(log, bits, seed);
        print!("{:24}", log.title);
        counts.iter().for_each(|count| print!("{count:>17}"));
        println!("{:>21}", fewest.map_or("-".to_owned(), |fewest| fewest.to_string()));
        let is_clean = counts[2..].iter().sum::<u64>() == 0;
        ours_is_clean &= is_clean || log.name != "backhaul";
    }
    ExitCode::from(u8::from(!ours_is_clean))
}

fn tally(log: &Log, bits: u64, mut seed: u64) -> ([u64; 5], Option<usize>) {
    let scratch = tempfile::tempdir().expect("a scratch directory can be made");
    let (sound, damaged) = (scratch.path().join("sound"), scratch.path().join("damaged"));
    fs::create_dir(&sound).expect("a directory can be made");
    (log.write)(&sound);
    let (verdict, _) = judge(log, &sound, &damaged, |_| ());
    assert_eq!(
        verdict,
        Verdict::Whole,
        "{}: a log without damage opens whole",
        log.title
    );
    let spans = spans(log, &sound);
    let total: u64 = spans.iter().map(|(_, start, end)| (end - start) as u64 * 8).sum();
    let mut counts = [0; 5];
    let mut fewest = None;
    for _ in 0..bits {
        let mut bit = random(&mut seed) % total;
        let (path, start, _) = spans
            .iter()
            .find(|(_, start, end)| {
                let here = (end - start) as u64 * 8;
                let is_here = bit < here;
                bit -= if is_here { 0 } else { here };
                is_here
            })
            .expect("the bit is below the total");
        let flip = |bytes: &mut Vec<u8>| bytes[start + (bit / 8) as usize] ^= 1 << (bit % 8);
        let (verdict, left) = judge(log, &sound, &damaged, |copy| {
            let path = copy.join(path.strip_prefix(&sound).expect("the file is in the log's directory"));
            let mut bytes = fs::read(&path).expect("a copy can be read");
            flip(&mut bytes);
            fs::write(&path, bytes).expect("a copy can be written");
        });
        counts[verdict as usize] += 1;
        if verdict == Verdict::LostInSilence {
            fewest = Some(fewest.map_or(left, |fewest: usize| fewest.min(left)));
        }
    }
    (counts, fewest)
}

/// The files of a log and in each the bytes that are written, but for those of the last records.
fn spans(log: &Log, directory: &Path) -> Vec<(PathBuf, usize, usize)> {
    let mut files = files(directory);
    files.retain(|path| (log.is_log)(&path.file_name().unwrap_or_default().to_string_lossy()));
    files.sort();
    let mut spans: Vec<_> = files
        .into_iter()
        .map(|path| {
            let bytes = fs::read(&path).expect("a log can be read");
            let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            (path, 0, end)
        })
        .collect();
    let used: usize = spans.iter().map(|(_, _, end)| end).sum();
    let last = spans.last_mut().expect("there is a log file");
    last.2 = last.2.saturating_sub(used / RECORDS * RECORDS_UNTOUCHED);
    spans
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory can be listed");
    entries
        .flat_map(|entry| {
            let path = entry.expect("an entry can be read").path();
            if path.is_dir() { files(&path) } else { vec![path] }
        })
        .collect()
}

/// Copies a log, damages the copy, and lets a process of its own open it.
fn judge(log: &Log, sound: &Path, copy: &Path, damage: impl FnOnce(&Path)) -> (Verdict, usize) {
    let _ = fs::remove_dir_all(copy);
    copy_directory(sound, copy);
    damage(copy);
    let program = std::env::current_exe().expect("this program has a path");
    let mut child = Command::new(program)
        .args(["open", log.name])
        .arg(copy)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("this program can be started");
    let started = Instant::now();
    while child.try_wait().expect("a child can be waited for").is_none() {
        if started.elapsed() > Duration::from_secs(OPEN_SECONDS_MAX) {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    let output = child.wait_with_output().expect("a child can be waited for");
    let text = String::from_utf8_lossy(&output.stdout);
    match text.trim().split_once(' ') {
        _ if output.status.code() == Some(3) => (Verdict::Refused, 0),
        _ if !output.status.success() => (Verdict::Died, 0),
        Some(("right", count)) => match count.parse().expect("a count is printed") {
            RECORDS => (Verdict::Whole, RECORDS),
            count => (Verdict::LostInSilence, count),
        },
        _ => (Verdict::Wrong, 0),
    }
}

fn open(name: &str, directory: &Path) -> ExitCode {
    let log = LOGS.iter().find(|log| log.name == name).expect("there is such a log");
    match (log.open)(directory) {
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(3)
        }
        Ok(records) => {
            // Right are the first ones in order, none left out in between; what is missing at the end is lost.
            let is_right = records
                .iter()
                .enumerate()
                .all(|(number, bytes)| *bytes == record(number));
            let is_gap = !is_right
                && records
                    .iter()
                    .all(|bytes| (0..RECORDS).any(|number| *bytes == record(number)));
            println!(
                "{} {}",
                if is_right || is_gap { "right" } else { "wrong" },
                records.len()
            );
            ExitCode::SUCCESS
        }
    }
}

fn copy_directory(from: &Path, to: &Path) {
    for path in files(from) {
        let target = to.join(path.strip_prefix(from).expect("the file is in the directory"));
        fs::create_dir_all(target.parent().expect("a file has a directory")).expect("a directory can be made");
        fs::copy(&path, target).expect("a file can be copied");
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
