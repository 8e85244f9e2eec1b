//! Targets over the engine's own records: what is read is written back the same, and a replay has one outcome, however
//! often a record comes and from which snapshot it goes on.

use backhaul::fuzzing::{Entry, Offers, Replayed, commit, creation, happening};
use backhaul_journal::simulation::Choices;

use super::directory::held;

/// Records of one log; more of them reach no state that these do not.
const RECORDS_MAX: usize = 16;
/// As many operations as drawn records speak of; a batch may add one that none does.
const OPERATIONS: u8 = 3;

/// Any bytes as a record: read, written and read again it says the same.
pub(crate) fn record_codec(bytes: &[u8]) {
    let Some(entry) = held("decoding a record", || Entry::decode(bytes)) else {
        return;
    };
    let written = entry.encode();
    let again = Entry::decode(&written).expect("a record that was written can be read");
    assert_eq!(again, entry, "a record says something else once it was written");
    assert_eq!(again.encode(), written, "a record is written in two ways");
}

/// Records in any order and number.
pub(crate) fn transfer_replay(bytes: &[u8]) {
    let mut choices = Choices::from_bytes(bytes);
    if choices.below(4) == 1 {
        replay_anything(&bytes[1..]);
        return;
    }
    let (k, from) = (choices.below(RECORDS_MAX + 1), choices.below(RECORDS_MAX + 1));
    let log = log(&mut choices);
    let k = k.min(log.len());
    replay_log(&log, k, from.min(k));
}

/// A log as an engine may write it: every operation is created once, those of a batch at once, and a batch is committed
/// after them or never.
fn log(choices: &mut Choices) -> Vec<Vec<u8>> {
    let (mut created, mut batches) = (0, 0);
    let mut log = Vec::new();
    while log.len() < RECORDS_MAX && !choices.is_used_up() {
        match choices.below(8) {
            0 if batches > 0 => log.push(commit(u8::try_from(choices.below(batches)).unwrap_or_default())),
            1 if created < OPERATIONS => {
                log.push(creation(created, None, &mut |bound| choices.below(bound)));
                created += 1;
            }
            2 | 3 if created < OPERATIONS => {
                let batch = u8::try_from(batches).unwrap_or_default();
                batches += 1;
                for _ in 0..=choices.below(2) {
                    log.push(creation(created, Some(batch), &mut |bound| choices.below(bound)));
                    created += 1;
                }
            }
            _ => log.push(happening(&mut |bound| choices.below(bound))),
        }
    }
    log
}

/// Replays a log whole, once more, and from a snapshot of its first `k` records with those from `from` on again.
fn replay_log(log: &[Vec<u8>], k: usize, from: usize) {
    let end = log.len() as u64 + 1;
    let mut whole = replayed(log, log.len());
    let state = (whole.records(end), whole.offers());
    let mut resumed = restored(&replayed(log, k).records(k as u64 + 1));
    replay(&mut resumed, log, from);
    assert_same(&(resumed.records(end), resumed.offers()), &state, "from a snapshot");
    assert!(
        resumed.has_rows_of(&whole),
        "a snapshot does not hold all of an operation"
    );
    resumed.reopen();
    replay(&mut whole, log, 0);
    let twice = (whole.records(end), whole.offers());
    // The last record has the totals, which count what is forgotten each time; a snapshot says which it has counted.
    let operations = |(records, offers): (Vec<Vec<u8>>, Offers)| (records[..records.len() - 1].to_vec(), offers);
    assert_same(&operations(twice), &operations(state), "of the whole log once more");
    whole.reopen();
    assert_eq!(
        whole.offers(),
        resumed.offers(),
        "two engines with one journal start otherwise"
    );
}

fn assert_same(found: &(Vec<Vec<u8>>, Offers), expected: &(Vec<Vec<u8>>, Offers), how: &str) {
    for (found, expected) in found.0.iter().zip(&expected.0) {
        assert_eq!(
            Entry::decode(found),
            Entry::decode(expected),
            "a replay {how} makes another operation"
        );
    }
    assert_eq!(found, expected, "a replay {how} makes another table");
}

fn replayed(log: &[Vec<u8>], count: usize) -> Replayed {
    let mut table = Replayed::default();
    replay(&mut table, &log[..count], 0);
    table
}

fn replay(table: &mut Replayed, log: &[Vec<u8>], from: usize) {
    for (lsn, record) in (1..).zip(log).skip(from) {
        assert!(
            table.record(lsn, record),
            "record {lsn}, as an engine writes it, is refused"
        );
    }
}

fn restored(snapshot: &[Vec<u8>]) -> Replayed {
    let mut table = Replayed::default();
    for record in snapshot {
        assert!(table.snapshot(record), "a snapshot's own record is refused");
    }
    table
}

/// Drawn and foreign records in any order, with gaps between them: whatever comes, the table can be written down and made
/// again.
fn replay_anything(bytes: &[u8]) {
    let (mut table, mut rest, mut lsn) = (Replayed::default(), bytes, 1);
    while let Some(([kind, len], after)) = rest.split_first_chunk()
        && lsn < RECORDS_MAX as u64
    {
        let (record, after) = after.split_at(usize::from(*len).min(after.len()));
        let mut choices = Choices::from_bytes(record);
        let draw = &mut |bound| choices.below(bound);
        match kind % 8 {
            0 | 1 => _ = table.record(lsn, record),
            2 => _ = table.snapshot(record),
            3 => table.gap(lsn.saturating_sub(u64::from(*len) % 4), lsn),
            4 => _ = table.record(lsn, &creation(len % 3, (len & 4 != 0).then_some(len % 2), draw)),
            5 => _ = table.record(lsn, &commit(len % 2)),
            _ => _ = table.record(lsn, &happening(draw)),
        }
        lsn += 1;
        rest = after;
    }
    let written = table.records(lsn);
    let again = restored(&written);
    assert_same(
        &(again.records(lsn), again.offers()),
        &(written, table.offers()),
        "of a snapshot alone",
    );
    table.reopen();
}
