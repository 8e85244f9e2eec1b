//! What is recorded of every file, in the form of a record: field by field what the attributes of the types say, by which they
//! are read. What stands under `skip_if` there is left out here.

use std::os::unix::ffi::OsStrExt;

use super::codec::Fact;
use super::event::{Event, Intent, Outcome, Response, StoredValidators};
use super::form::{Form, Put, encode_as_put};
use super::shared::Shared;
use super::spec::{Kind, Spec, is_default};
use super::state::{Operation, Phase, Wish};

encode_as_put!(Spec, Response, StoredValidators, Intent, Operation, Fact);

impl<T: Put> Put for Shared<T> {
    fn put(&self, form: &mut Form<'_>) {
        T::put(self, form);
    }
}

impl Put for Fact {
    fn put(&self, form: &mut Form<'_>) {
        form.map(|map| {
            map.key(0).id(&self.id.0);
            map.number(1, self.at_ms);
            map.put(2, &self.event);
        });
    }
}

/// Those of every file by hand; of the others few are recorded.
impl Put for Event {
    fn put(&self, form: &mut Form<'_>) {
        match self {
            Self::Created { spec, started, batch } => {
                form.variant(0, if batch.is_some() { 3 } else { 2 });
                spec.put(form);
                form.flag(*started);
                if let Some(batch) = batch {
                    form.id(&batch.0);
                }
            }
            Self::Claimed { attempts } => {
                form.variant(4, 1);
                form.number(u64::from(*attempts));
            }
            Self::Responded(response) => {
                form.variant(5, 1);
                response.put(form);
            }
            Self::Publishing(intent) => {
                form.variant(11, 1);
                intent.put(form);
            }
            Self::Ended(outcome) => {
                form.variant(13, 1);
                outcome.put(form);
            }
            Self::Acknowledged => form.variant(14, 0),
            other => form.derived(other),
        }
    }
}

impl Put for Outcome {
    fn put(&self, form: &mut Form<'_>) {
        match self {
            Self::Completed => form.variant(0, 0),
            other => form.derived(other),
        }
    }
}

impl Put for Intent {
    fn put(&self, form: &mut Form<'_>) {
        form.map(|map| {
            map.number(0, u64::from(self.generation));
            map.key(1).bytes(&self.final_name);
            map.number(2, self.device);
            map.number(3, self.inode);
            map.number(4, self.len_bytes);
            map.number(5, u64::from(self.crc32));
            map.key(6).id(&self.boot_id);
            map.some_number(7, self.directory_device);
            map.some_number(8, self.directory_inode);
        });
    }
}

impl Put for StoredValidators {
    fn put(&self, form: &mut Form<'_>) {
        form.map(|map| {
            map.some_text(0, self.etag.as_ref());
            map.some_text(1, self.last_modified.as_ref());
            map.some_text(2, self.date.as_ref());
            map.some_number(3, self.total_bytes);
        });
    }
}

impl Put for Response {
    fn put(&self, form: &mut Form<'_>) {
        form.map(|map| {
            map.put(0, &self.validators);
            map.text(1, &self.actual_url);
            map.number(2, u64::from(self.status_code));
            map.key(3).flag(self.resumable);
            map.some_text(4, self.content_type.as_ref());
            map.list(5, &self.digests);
            map.list(6, &self.mirrors);
            map.derived(7, Some(&self.origin).filter(|origin| !origin.is_default()));
            map.put_some(8, Some(&self.headers).filter(|headers| !headers.is_empty()));
        });
    }
}

impl Put for Spec {
    fn put(&self, form: &mut Form<'_>) {
        form.map(|map| {
            match self.kind {
                Kind::Download => map.key(0).variant(0, 0),
            }
            map.text(1, &self.url);
            map.key(2).bytes(self.destination.as_os_str().as_bytes());
            map.text(3, &self.app);
            map.count(4, u64::from(self.owner_uid));
            map.some_text(5, self.group.as_ref());
            map.list(6, &self.headers);
            if self.has_secrets {
                map.key(7).flag(true);
            }
            if let Some(sha256) = &self.sha256 {
                map.key(8).bytes(sha256);
            }
            map.some_number(9, self.expected_bytes);
            map.derived(10, unless_default(&self.collision));
            map.derived(11, unless_default(&self.priority));
            map.list(12, &self.digests);
            map.some_text(13, self.expected_type.as_ref());
            map.list(14, &self.recoverable);
            map.list(15, &self.mirrors);
            map.derived(16, self.completion_group.as_ref());
            if !self.method.is_get() {
                map.text(17, self.method.as_str());
            }
            map.derived(18, self.body.as_ref());
            if self.random_access {
                map.key(19).flag(true);
            }
            map.derived(20, unless_default(&self.cost_policy));
            map.some_text(21, self.proxy.as_ref());
        });
    }
}

fn unless_default<T: Default + PartialEq>(value: &T) -> Option<&T> {
    Some(value).filter(|value| !is_default(*value))
}

impl Put for Wish {
    fn put(&self, form: &mut Form<'_>) {
        let number = match self {
            Self::Hold => 0,
            Self::Run => 1,
            Self::Pause => 2,
        };
        form.variant(number, 0);
    }
}

/// Those of every file that is packed by hand.
impl Put for Phase {
    fn put(&self, form: &mut Form<'_>) {
        match self {
            Self::Ready => form.variant(0, 0),
            Self::Ended(outcome) => {
                form.variant(6, 1);
                outcome.put(form);
            }
            other => form.derived(other),
        }
    }
}

impl Put for Operation {
    fn put(&self, form: &mut Form<'_>) {
        form.map(|map| {
            map.key(0).id(&self.id.0);
            map.put(1, &self.spec);
            map.number(2, self.order);
            map.put(3, &self.wish);
            map.put(4, &self.phase);
            map.count(5, u64::from(self.generation));
            map.derived(6, self.claim.as_ref());
            map.put_some(7, self.response.as_ref());
            map.count(8, u64::from(self.attempts));
            map.count(9, u64::from(self.failures_in_row));
            map.count(10, u64::from(self.restarts));
            map.count(11, self.bytes_wasted);
            map.derived(12, self.error.as_ref());
            map.number(13, self.created_at_ms);
            map.some_number(14, self.ended_at_ms);
            map.some_number(15, self.acknowledged_at_ms);
            map.some_number(16, self.published_bytes);
            if let Some(name) = &self.published_name {
                map.key(17).bytes(name);
            }
            map.count(18, self.best_bytes);
            map.derived(19, self.batch.as_ref());
            map.derived(20, self.doubt.as_ref());
            map.count(21, u64::from(self.sealed_revision));
            map.some_number(22, self.promoted);
            map.derived(24, unless_default(&self.round));
            map.some_number(25, self.published_inode);
        });
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use std::path::PathBuf;

    use backhaul_backends::{Digest, DigestAlgorithm, Method};

    use super::super::form::bytes_of;
    use super::Intent;
    use crate::operation::state::tests::{CLAIMED, NOW, intent, spec, states};
    use crate::operation::{
        BatchId, Beside, Claim, Collision, CompletionGroupId, CostPolicy, Deadline, Doubt, Entry, Event, Extent, Fact,
        Operation, OperationError, Origin, Outcome, Phase, Priority, RequestHeader, Response, Round, Shared, Spec,
        SpoolId, StoredBody, StoredHeaders, StoredValidators, Stretch, TransferId, Wish, encode, pack, stored_digests,
        unpack,
    };

    /// One in which every field says something.
    fn full_spec() -> Spec {
        let digest = Digest::new(DigestAlgorithm::Sha512, vec![9; 64]).unwrap();
        Spec {
            destination: PathBuf::from("/data/a directory/file"),
            owner_uid: 1_000,
            group: Some("group".into()),
            headers: vec![RequestHeader {
                name: "Accept".into(),
                value: "text/html".repeat(40),
            }],
            has_secrets: true,
            sha256: Some([5; 32]),
            expected_bytes: Some(1 << 33),
            collision: Collision::Unique,
            priority: Priority::High,
            expected_type: Some("image/*".into()),
            recoverable: vec![401, -3],
            digests: stored_digests(&[digest]),
            mirrors: vec!["http://mirror/file".into(); 2],
            cost_policy: CostPolicy::Always,
            proxy: Some("direct".into()),
            random_access: true,
            method: Method::PUT,
            body: Some(Box::new(StoredBody::Spooled {
                id: SpoolId([3; 16]),
                len_bytes: 9,
                crc32: 8,
            })),
            completion_group: Some(CompletionGroupId([6; 16])),
            ..spec()
        }
    }

    fn full_response() -> Response {
        let validators = StoredValidators {
            etag: Some("\"1\"".into()),
            last_modified: Some("Sun, 06 Nov 1994 08:49:37 GMT".into()),
            date: Some("Sun, 06 Nov 1994 08:49:38 GMT".into()),
            total_bytes: Some(70_000),
        };
        let fields = [("Server", "x".repeat(300)), ("Long", "y".repeat(9_000))];
        let beside = Beside {
            validators: &validators,
            content_type: None,
        };
        Response {
            headers: StoredHeaders::new(&fields.into_iter().collect(), beside),
            content_type: Some("text/plain".into()),
            digests: full_spec().digests,
            mirrors: full_spec().mirrors,
            origin: full_origin(),
            validators,
            ..Response::of("http://host/elsewhere")
        }
    }

    fn full_origin() -> Origin {
        Origin { source: 2, mixed: true }
    }

    fn full_operation() -> Operation {
        let error = OperationError::new(-7, Some(404), "no".into());
        let stretch = Stretch {
            first: 9,
            end: 300,
            crc32: 1,
        };
        Operation {
            wish: Wish::Pause,
            phase: Phase::Ending(Outcome::Failed(error.clone())),
            generation: 1,
            claim: Some(Shared::new(Claim {
                generation: 1,
                durable_bytes: 1 << 20,
                crc32: u32::MAX,
                validators: full_response().validators,
                beyond: Some(vec![stretch]),
                on_trust: Some(true),
                origin: full_origin(),
            })),
            response: Some(Shared::new(full_response())),
            attempts: 24,
            failures_in_row: 255,
            restarts: 256,
            bytes_wasted: u64::MAX,
            error: Some(Shared::new(error)),
            ended_at_ms: Some(23),
            acknowledged_at_ms: Some(65_535),
            published_bytes: Some(65_536),
            published_inode: Some(u64::from(u32::MAX)),
            published_name: Some(b"file (2)".to_vec()),
            best_bytes: 1 << 32,
            batch: Some(BatchId([8; 16])),
            doubt: Some(Doubt::Unplaced),
            sealed_revision: 2,
            round: Round {
                next: 1,
                rest_until: Some(Deadline::after(NOW, 500)),
                ..Round::default()
            },
            promoted: Some(77),
            ..Operation::created(TransferId([3; 16]), Shared::new(full_spec()), 5, 1_700_000_000_000)
        }
    }

    fn fact(event: Event) -> Vec<u8> {
        let mut bytes = Vec::new();
        let id = TransferId([3; 16]);
        let at_ms = 1_700_000_000_000;
        encode(&Entry::Fact(Fact { id, at_ms, event }), &mut bytes);
        bytes
    }

    #[test]
    fn what_is_written_by_hand_is_to_the_byte_what_the_derived_code_wrote() {
        let created = |spec, batch| Event::Created {
            spec: Shared::new(spec),
            started: true,
            batch,
        };
        let of_every_file = [
            created(spec(), None),
            CLAIMED,
            Event::Responded(Shared::new(Response::of("http://host/file"))),
            intent(),
            Event::Ended(Outcome::Completed),
            Event::Acknowledged,
        ];
        let mut snapshot = Vec::new();
        let operation = Box::new(full_operation());
        encode(&Entry::Operation { as_of: 300, operation }, &mut snapshot);
        // Lengths and sums of what the derived code of minicbor 2.3.1 gave for the same values.
        let rows = [
            (of_every_file.into_iter().flat_map(fact).collect(), (322, 112_685_201)),
            (fact(created(full_spec(), Some(BatchId([8; 16])))), (736, 1_541_423_892)),
            (
                fact(Event::Responded(Shared::new(full_response()))),
                (591, 2_207_883_705),
            ),
            (
                states().iter().flat_map(|(_, state)| pack(state)).collect(),
                (1_272, 2_368_174_332),
            ),
            (pack(&full_operation()), (1_545, 2_870_934_608)),
            (snapshot, (1_551, 2_823_665_050)),
        ];
        let rows = rows.map(|(bytes, expected): (Vec<u8>, _)| ((bytes.len(), crc32fast::hash(&bytes)), expected));
        let (written, expected): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        assert_eq!(written, expected);
        assert_eq!(unpack(&pack(&full_operation()), Extent::Whole), Some(full_operation()));
        let without = Operation {
            response: None,
            ..full_operation()
        };
        assert!(full_operation().response.is_some());
        assert_eq!(unpack(&pack(&full_operation()), Extent::WithoutResponse), Some(without));
    }

    #[test]
    fn an_intent_keeps_the_directory_and_one_of_before_has_none() {
        let Event::Publishing(before) = intent() else {
            unreachable!()
        };
        let now = Intent {
            directory_device: Some(5),
            directory_inode: Some(6),
            ..before.clone()
        };
        for intent in [before, now] {
            assert_eq!(minicbor::decode::<Intent>(&bytes_of(&intent)).unwrap(), intent);
        }
    }
}
