//! Journal entries as bytes and back: CBOR (RFC 8949) maps keyed by small integers.
//!
//! Evolution rule: a reader skips fields it does not know, and refuses entries, events and enum values it does not
//! know. New optional fields therefore need no new format; a new event does not get lost on an old reader.

use std::fmt;

use minicbor::{Decode, Encode};

use super::event::{BatchId, Event};
use super::form::{Form, Put, bytes_of};
use super::group::{Completion, CompletionFact, Group, GroupFact};
use super::id::TransferId;
use super::state::{Extent, Operation};

/// What one journal record says.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(context_bound = "AsRef<Extent>")]
pub(crate) enum Entry {
    /// Something happened to an operation.
    #[n(0)]
    Fact(#[n(0)] Fact),
    /// Snapshot: an operation as of a position in the journal; facts below `as_of` are contained in it.
    #[n(1)]
    Operation {
        #[n(0)]
        as_of: u64,
        #[n(1)]
        operation: Box<Operation>,
    },
    /// All operations that were created with this batch count from here on.
    #[n(3)]
    Committed {
        #[n(0)]
        batch: BatchId,
    },
    /// Snapshot: totals that belong to no operation.
    #[n(2)]
    Totals {
        /// Ends that went out of the history without having been acknowledged.
        #[n(0)]
        unacknowledged_lost: u64,
        /// First LSN that is not contained in them.
        #[n(1)]
        as_of: u64,
    },
    /// Something happened to a transfer group.
    #[n(4)]
    GroupFact(#[n(0)] GroupFact),
    /// Snapshot: a transfer group as of a position in the journal.
    #[n(5)]
    Group {
        #[n(0)]
        as_of: u64,
        #[n(1)]
        group: Group,
    },
    /// Something happened to a completion group.
    #[n(6)]
    CompletionFact(#[n(0)] CompletionFact),
    /// Snapshot: a completion group as of a position in the journal.
    #[n(7)]
    Completion {
        #[n(0)]
        as_of: u64,
        #[n(1)]
        completion: Completion,
    },
}

/// Something that happened to an operation.
#[derive(Clone, Debug, PartialEq, Eq, Decode)]
#[cbor(map)]
pub(crate) struct Fact {
    #[n(0)]
    pub(crate) id: TransferId,
    /// Wall clock, milliseconds since 1970.
    #[n(1)]
    pub(crate) at_ms: u64,
    #[n(2)]
    pub(crate) event: Event,
}

/// A record that this version cannot read.
#[derive(Debug)]
pub(crate) struct Undecodable(minicbor::decode::Error);

impl fmt::Display for Undecodable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "a record that this version of backhaul does not know ({}); use the version that wrote it",
            self.0
        )
    }
}

impl std::error::Error for Undecodable {}

/// The bytes of an entry, appended to `buffer`.
pub(crate) fn encode(entry: &Entry, buffer: &mut Vec<u8>) {
    match entry {
        Entry::Fact(fact) => encode_fact(fact, buffer),
        other => Form::at_end_of(buffer).derived(other),
    }
}

/// The bytes of [`Entry::Fact`], appended to `buffer`.
pub(crate) fn encode_fact(fact: &Fact, buffer: &mut Vec<u8>) {
    let mut form = Form::at_end_of(buffer);
    form.variant(0, 1);
    fact.put(&mut form);
}

/// Reads one entry; bytes after it are refused.
///
/// # Errors
/// [`Undecodable`] where the bytes are not an entry that this version knows.
pub(crate) fn decode(bytes: &[u8]) -> Result<Entry, Undecodable> {
    let mut decoder = minicbor::Decoder::new(bytes);
    let entry = decoder.decode_with(&mut Extent::Whole).map_err(Undecodable)?;
    if decoder.position() == bytes.len() {
        Ok(entry)
    } else {
        Err(Undecodable(
            minicbor::decode::Error::message("bytes after the end").at(decoder.position()),
        ))
    }
}

#[cfg(test)]
thread_local! {
    /// How often this thread has opened a packed operation: what a listing costs, exactly.
    pub(crate) static OPENED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// An operation as the bytes of its journal form: a fraction of the room that it takes open.
pub(crate) fn pack(operation: &Operation) -> Vec<u8> {
    bytes_of(operation)
}

/// The same in the place of what `bytes` hold.
pub(crate) fn pack_into(operation: &Operation, bytes: &mut Vec<u8>) {
    bytes.clear();
    operation.put(&mut Form::at_end_of(bytes));
}

/// The operation of [`pack`]; `None` where these are not its bytes.
pub(crate) fn unpack(bytes: &[u8], mut extent: Extent) -> Option<Operation> {
    #[cfg(test)]
    OPENED.with(|opened| opened.set(opened.get() + 1));
    minicbor::decode_with(bytes, &mut extent).ok()
}

/// The bytes of [`Entry::Operation`], appended to `buffer`, without a look at what those of the operation say.
pub(crate) fn encode_packed(packed: &[u8], as_of: u64, buffer: &mut Vec<u8>) {
    let mut encoder = minicbor::Encoder::new(&mut *buffer);
    let head = encoder.array(2).and_then(|encoder| encoder.u8(1));
    let fields = head.and_then(|encoder| encoder.array(2)?.u64(as_of));
    match fields {
        Ok(_) => buffer.extend_from_slice(packed),
        Err(error) => unreachable!("writing to memory cannot fail: {error}"),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;
    use crate::operation::state::tests::{events, spec};
    use crate::operation::{CompletionAction, CompletionGroupId, Operation, Shared, Spec, TransferBehavior};

    fn bytes_of(entry: &Entry) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(entry, &mut bytes);
        bytes
    }

    fn entries() -> Vec<Entry> {
        let fact = |event| {
            Entry::Fact(Fact {
                id: TransferId([3; 16]),
                at_ms: 77,
                event,
            })
        };
        let operation = Operation::created(TransferId([3; 16]), Shared::new(spec()), 5, 77);
        let mut entries: Vec<Entry> = events().into_iter().map(fact).collect();
        entries.push(Entry::Operation {
            as_of: 9,
            operation: Box::new(operation),
        });
        entries.push(Entry::Committed {
            batch: BatchId([1; 16]),
        });
        entries.push(Entry::Totals {
            unacknowledged_lost: 2,
            as_of: 9,
        });
        entries.extend(groups());
        entries
    }

    fn groups() -> Vec<Entry> {
        let (app, name) = (String::from("app"), String::from("name"));
        let group = |behavior| Group {
            app: app.clone(),
            name: name.clone(),
            behavior,
        };
        let id = CompletionGroupId([4; 16]);
        let completions = super::super::group::tests::events().into_iter();
        let completions = completions.map(|event| Entry::CompletionFact(CompletionFact { id, at_ms: 7, event }));
        let created = Completion::created(id, app.clone(), None, CompletionAction::Event, (5, 7));
        let mut entries = vec![
            Entry::GroupFact(GroupFact::Set(group(TransferBehavior::Parallel))),
            Entry::GroupFact(GroupFact::Removed {
                app: app.clone(),
                name: name.clone(),
            }),
            Entry::Group {
                as_of: 9,
                group: group(TransferBehavior::Serialized),
            },
            Entry::Completion {
                as_of: 9,
                completion: created,
            },
        ];
        entries.extend(completions);
        entries
    }

    #[test]
    fn every_entry_reads_back_as_it_was_written() {
        for entry in entries() {
            assert_eq!(decode(&bytes_of(&entry)).unwrap(), entry);
        }
    }

    #[test]
    fn a_packed_operation_opens_as_it_was_and_makes_the_same_entry_of_a_snapshot() {
        for entry in entries() {
            let Entry::Operation { as_of, operation } = &entry else {
                continue;
            };
            let packed = pack(operation);
            assert_eq!(unpack(&packed, Extent::Whole).as_ref(), Some(&**operation));
            let mut written = Vec::new();
            encode_packed(&packed, *as_of, &mut written);
            assert_eq!(written, bytes_of(&entry));
        }
    }

    #[test]
    fn what_has_neither_mirrors_nor_digests_is_written_as_before_there_were_any() {
        // Numbers of fields that these maps always had; each is followed by its first key, 0.
        let rows = [
            (
                events_of(|event| matches!(event, Event::Created { spec, .. } if spec.mirrors.is_empty())),
                12,
            ),
            (
                events_of(|event| matches!(event, Event::Progressed(claim) if claim.origin.is_default())),
                4,
            ),
        ];
        for (entries, fields) in rows {
            assert!(!entries.is_empty());
            for entry in entries {
                let Entry::Fact(fact) = &entry else { unreachable!() };
                let written = match &fact.event {
                    Event::Created { spec, .. } => minicbor::to_vec(spec).unwrap(),
                    Event::Progressed(claim) => minicbor::to_vec(claim).unwrap(),
                    _ => unreachable!(),
                };
                let present = minicbor::Decoder::new(&written).map().unwrap().unwrap();
                assert!(present <= fields, "{present} fields of {entry:?}");
                assert_eq!(decode(&bytes_of(&entry)).unwrap(), entry);
            }
        }
    }

    fn events_of(is_wanted: impl Fn(&Event) -> bool) -> Vec<Entry> {
        let mut entries = entries();
        entries.retain(|entry| matches!(entry, Entry::Fact(fact) if is_wanted(&fact.event)));
        entries
    }

    fn largest_headers() -> crate::operation::StoredHeaders {
        use crate::operation::{Beside, StoredHeaders, StoredValidators};
        let validators = StoredValidators::default();
        let beside = Beside {
            validators: &validators,
            content_type: None,
        };
        let sent = std::iter::repeat_n(("X", "y".repeat(24)), 1_000);
        StoredHeaders::new(&sent.collect(), beside)
    }

    #[test]
    fn the_largest_operation_fits_one_record_of_the_journal() {
        use crate::operation::{
            Claim, Deadline, Now, OperationError, Origin, Outcome, Phase, Response, Round, SOURCES_MAX, SPEC_BYTES_MAX,
            StoredValidators, Stretch, stored_digests,
        };
        use backhaul_backends::{Digest, DigestAlgorithm};
        let text = |bytes: usize| "x".repeat(bytes);
        let mut large = spec();
        large.url = text(SPEC_BYTES_MAX - large.encoded_bytes());
        assert!(large.encoded_bytes() >= SPEC_BYTES_MAX - 32);
        let validators = StoredValidators {
            etag: Some(text(512)),
            last_modified: Some(text(64)),
            date: Some(text(64)),
            total_bytes: Some(u64::MAX),
        };
        let origin = Origin {
            source: u32::MAX,
            mixed: true,
        };
        let digests = [DigestAlgorithm::Sha512, DigestAlgorithm::Sha256]
            .map(|algorithm| Digest::new(algorithm, vec![1; algorithm.len_bytes()]).unwrap());
        let stretch = Stretch {
            first: u64::MAX - 1,
            end: u64::MAX,
            crc32: u32::MAX,
        };
        let error = OperationError::new(-1, Some(u16::MAX), text(9_000));
        let now = Now {
            boot_ms: u64::MAX,
            wall_ms: u64::MAX,
            boot_id: [255; 16],
        };
        let operation = Operation {
            claim: Some(Shared::new(Claim {
                generation: u32::MAX,
                durable_bytes: u64::MAX,
                crc32: u32::MAX,
                validators: validators.clone(),
                beyond: Some(vec![stretch; 256]),
                on_trust: Some(true),
                origin,
            })),
            response: Some(Shared::new(Response {
                validators,
                actual_url: text(1024),
                status_code: 203,
                resumable: true,
                content_type: Some(text(255)),
                digests: stored_digests(&digests),
                mirrors: vec![text(256); 8],
                origin,
                headers: largest_headers(),
            })),
            error: Some(Shared::new(error.clone())),
            phase: Phase::Ending(Outcome::Failed(error)),
            round: (1..SOURCES_MAX).fold(
                Round::default().with_rest(0, Deadline::after(now, u64::MAX)),
                |round, source| round.with_rest(source, Deadline::after(Now { boot_ms: 0, ..now }, 0)),
            ),
            published_name: Some(vec![b'x'; 255]),
            ..Operation::created(TransferId([255; 16]), Shared::new(large), u64::MAX, u64::MAX)
        };
        let entry = Entry::Operation {
            as_of: u64::MAX,
            operation: Box::new(operation),
        };
        let len = bytes_of(&entry).len();
        assert!(len <= backhaul_journal::RECORD_BYTES_MAX, "{len}");
    }

    #[test]
    fn every_prefix_of_an_entry_and_every_byte_after_it_is_refused() {
        for entry in entries() {
            let mut bytes = bytes_of(&entry);
            for len in 0..bytes.len() {
                assert!(decode(&bytes[..len]).is_err(), "{len} of {entry:?}");
            }
            bytes.push(0);
            assert!(decode(&bytes).is_err());
        }
    }

    #[test]
    fn a_field_that_a_later_version_added_is_skipped() {
        // Entry 0, Fact as a map with the known fields 0, 1, 2 (event 1, Started) and the unknown field 200.
        let mut bytes = Vec::new();
        let mut encoder = minicbor::Encoder::new(&mut bytes);
        encoder.array(2).unwrap().u8(0).unwrap().array(1).unwrap();
        encoder
            .map(4)
            .unwrap()
            .u8(0)
            .unwrap()
            .bytes(&[3; 16])
            .unwrap()
            .u8(1)
            .unwrap()
            .u8(77)
            .unwrap();
        encoder.u8(200).unwrap().str("new").unwrap();
        encoder
            .u8(2)
            .unwrap()
            .array(2)
            .unwrap()
            .u8(1)
            .unwrap()
            .array(0)
            .unwrap();
        let expected = Fact {
            id: TransferId([3; 16]),
            at_ms: 77,
            event: Event::Started,
        };
        assert_eq!(decode(&bytes).unwrap(), Entry::Fact(expected));
    }

    /// Fields of a map by their keys, as they stand in a form that this version did not write.
    fn without(bytes: &[u8], keys: &[u64]) -> Vec<u8> {
        let mut decoder = minicbor::Decoder::new(bytes);
        let count = decoder.map().unwrap().unwrap();
        let mut kept = Vec::new();
        let mut left = 0;
        for _ in 0..count {
            let start = decoder.position();
            let key = decoder.u64().unwrap();
            decoder.skip().unwrap();
            if !keys.contains(&key) {
                left += 1;
                kept.extend_from_slice(&bytes[start..decoder.position()]);
            }
        }
        let mut out = Vec::new();
        minicbor::Encoder::new(&mut out).map(left).unwrap();
        [out, kept].concat()
    }

    #[test]
    fn what_a_version_without_recoverable_errors_and_changes_wrote_is_read() {
        let bytes = minicbor::to_vec(spec()).unwrap();
        assert_eq!(minicbor::decode::<Spec>(&without(&bytes, &[13, 14])).unwrap(), spec());
        let operation = Operation::created(TransferId([3; 16]), Shared::new(spec()), 5, 77);
        let bytes = minicbor::to_vec(&operation).unwrap();
        let older = without(&bytes, &[21]);
        assert_eq!(unpack(&older, Extent::Whole).unwrap(), operation);
    }

    #[test]
    fn sources_of_which_an_earlier_version_knew_no_more_than_the_longest_rest_are_all_left_alone_for_it() {
        use crate::operation::state::tests::NOW;
        use crate::operation::{Deadline, Round};
        let longest = Deadline::after(NOW, 900);
        let round = Round::default().with_rest(0, longest);
        let bytes = minicbor::to_vec(round.with_rest(1, Deadline::after(NOW, 100))).unwrap();
        let read = minicbor::decode::<Round>(&without(&bytes, &[6])).unwrap();
        assert_eq!(read, round.with_rest(1, longest));
    }

    #[test]
    fn an_event_that_this_version_does_not_know_is_refused_not_ignored() {
        let mut bytes = bytes_of(&Entry::Fact(Fact {
            id: TransferId([3; 16]),
            at_ms: 77,
            event: Event::Started,
        }));
        let position = bytes.len() - 2;
        assert_eq!(bytes[position], 1, "the number of the event");
        bytes[position] = 23;
        assert!(
            decode(&bytes)
                .unwrap_err()
                .to_string()
                .contains("use the version that wrote it")
        );
    }
}
