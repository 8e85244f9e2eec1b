//! The bytes are those that `FORMAT.md` shows.

use backhaul_journal::{Options, Preallocate, Urgency};

use crate::support::{directory, new_disk, open, read, small};

const FORMAT: &str = include_str!("../FORMAT.md");
const SEGMENT: &str = "0000000000000001.seg";
const SNAPSHOT: &str = "0000000000000003-0000.snap";

/// The bytes in the hex dump that follows a file's name in `FORMAT.md`.
fn example(name: &str) -> Vec<u8> {
    let (_, after) = FORMAT
        .split_once(&format!("**`{name}`**"))
        .expect("the example is there");
    let block = after.split("```").nth(1).expect("the example is a code block");
    let lines = block
        .lines()
        .filter(|line| line.starts_with(|first: char| first.is_ascii_hexdigit()));
    let columns = lines.map(|line| line.split('|').next().unwrap().split_whitespace().skip(1));
    columns
        .flatten()
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

#[expect(clippy::format_collect, reason = "only run to show what a changed format looks like")]
fn hex_dump(bytes: &[u8]) -> String {
    let lines = bytes.chunks(16).enumerate();
    lines
        .map(|(line, bytes)| {
            format!(
                "{:04x}  {}\n",
                line * 16,
                bytes.iter().map(|byte| format!("{byte:02x} ")).collect::<String>()
            )
        })
        .collect()
}

#[test]
fn the_writer_makes_the_bytes_of_the_worked_example() {
    let disk = new_disk();
    let options = Options {
        preallocate: Preallocate::None,
        ..small()
    };
    let (journal, _, _) = open(&disk, options);
    journal.append(b"hello", Urgency::Normal).unwrap();
    let last = journal.append(b"worlds", Urgency::Normal).unwrap();
    journal.sync(last).unwrap();
    journal
        .checkpoint(&mut |snapshot| snapshot.record(b"two greetings"))
        .unwrap();
    journal.close().unwrap();
    for name in [SEGMENT, SNAPSHOT] {
        let made = disk.content(&directory().join(name));
        assert!(made == example(name), "{name} is now\n{}", hex_dump(&made));
    }
}

#[test]
fn the_bytes_of_the_worked_example_are_read() {
    let disk = new_disk();
    open(&disk, small()).0.close().unwrap();
    disk.put(&directory().join(SEGMENT), &example(SEGMENT));
    let (report, found) = read(&disk).unwrap();
    assert_eq!(found.records, [(1, b"hello".to_vec()), (2, b"worlds".to_vec())]);
    assert!(report.clean);
    disk.put(&directory().join(SNAPSHOT), &example(SNAPSHOT));
    let (_, found) = read(&disk.lose_unsynced()).unwrap();
    assert_eq!(
        (found.snapshot, found.records.len()),
        (vec![b"two greetings".to_vec()], 0)
    );
}
