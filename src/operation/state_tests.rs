//! State by event, walked whole.

use std::path::PathBuf;

use super::*;
use crate::operation::digest::StoredDigest;
use crate::operation::{
    Beside, Collision, CostPolicy, Kind, Lack, Origin, Priority, Reason, SpoolId, StoredBody, StoredHeaders,
    StoredValidators, TransferStatus, stored_digests,
};
use backhaul_backends::{Digest, DigestAlgorithm};

pub(crate) const NOW: Now = Now {
    boot_ms: 1_000,
    wall_ms: 50_000,
    boot_id: [1; 16],
};

pub(crate) fn spec() -> Spec {
    Spec {
        kind: Kind::Download,
        url: "http://host/file".into(),
        destination: PathBuf::from("/data/file"),
        app: "app".into(),
        owner_uid: 0,
        group: None,
        headers: Vec::new(),
        has_secrets: false,
        sha256: None,
        expected_bytes: None,
        collision: Collision::Fail,
        priority: Priority::Default,
        expected_type: None,
        recoverable: Vec::new(),
        digests: Vec::new(),
        mirrors: Vec::new(),
        cost_policy: CostPolicy::Default,
        proxy: None,
        random_access: false,
        method: backhaul_backends::Method::GET,
        body: None,
        completion_group: None,
    }
}

fn created() -> Operation {
    Operation::created(TransferId([7; 16]), Shared::new(spec()), 1, 50_000)
}

pub(crate) fn after(events: &[Event]) -> Operation {
    events.iter().fold(created(), |state, event| {
        match state.clone().apply(event.clone(), 60_000) {
            Ok(next) => next,
            Err(rejected) => panic!("{event:?} on {state:?}: {rejected}"),
        }
    })
}

fn error() -> Shared<OperationError> {
    Shared::new(OperationError {
        status: 14,
        code: None,
        message: "no".into(),
    })
}

pub(crate) fn waited() -> Event {
    Event::Waited {
        until: Deadline::after(NOW, 500),
        reason: WaitReason::BackOff,
        failures_in_row: 1,
        error: error(),
        round: None,
    }
}

fn blocked() -> Event {
    Event::Blocked {
        condition: Condition::NoNetwork,
        probe_at: Deadline::after(NOW, 500),
        error: error(),
        room_bytes: None,
        try_at: Deadline::after(NOW, 9_000),
    }
}

pub(crate) fn claim(durable_bytes: u64) -> Event {
    Event::Progressed(Shared::new(Claim {
        generation: 0,
        durable_bytes,
        beyond: None,
        on_trust: None,
        crc32: 1,
        validators: StoredValidators::default(),
        origin: Origin::default(),
    }))
}

pub(crate) fn intent() -> Event {
    Event::Publishing(Intent {
        generation: 0,
        final_name: b"file".to_vec(),
        device: 1,
        inode: 2,
        len_bytes: 3,
        crc32: 4,
        boot_id: [1; 16],
        directory_device: None,
        directory_inode: None,
    })
}

pub(crate) fn restarted() -> Event {
    Event::Restarted {
        generation: 1,
        restarts: 1,
        bytes_wasted: 10,
        cause: "changed".into(),
    }
}

pub(crate) fn needed() -> Event {
    Event::Amended(Amendment::Needed(error()))
}

pub(crate) fn made() -> Event {
    Event::Amended(Amendment::Made {
        spec: Shared::new(Spec {
            url: "http://other/file".into(),
            expected_type: Some("image/*".into()),
            recoverable: vec![401, 403],
            method: backhaul_backends::Method::PUT,
            body: Some(Box::new(StoredBody::Spooled {
                id: SpoolId([3; 16]),
                len_bytes: 9,
                crc32: 8,
            })),
            ..spec()
        }),
        sealed_revision: 1,
    })
}

pub(crate) const CLAIMED: Event = Event::Claimed { attempts: 1 };

/// Every state worth telling apart, with the events that lead to it.
pub(crate) fn states() -> Vec<(&'static str, Operation)> {
    let failed = Outcome::Failed((*error()).clone());
    vec![
        ("idle", created()),
        ("queued", after(&[Event::Started])),
        ("running", after(&[Event::Started, CLAIMED])),
        ("running paused", after(&[Event::Started, CLAIMED, Event::Paused])),
        ("waiting", after(&[Event::Started, CLAIMED, waited()])),
        ("blocked", after(&[Event::Started, CLAIMED, blocked()])),
        ("recoverable", after(&[Event::Started, CLAIMED, needed()])),
        (
            "recoverable paused",
            after(&[Event::Started, CLAIMED, needed(), Event::Paused]),
        ),
        ("paused", after(&[Event::Started, Event::Paused])),
        ("publishing", after(&[Event::Started, CLAIMED, intent()])),
        ("ending", after(&[Event::Started, Event::Ending(failed.clone())])),
        (
            "completed",
            after(&[Event::Started, CLAIMED, intent(), Event::Ended(Outcome::Completed)]),
        ),
        (
            "canceled",
            after(&[Event::Ending(Outcome::Canceled), Event::Ended(Outcome::Canceled)]),
        ),
        (
            "failed",
            after(&[Event::Started, Event::Ending(failed.clone()), Event::Ended(failed)]),
        ),
    ]
}

#[test]
fn every_event_is_taken_in_the_listed_states_and_refused_in_all_others_which_stay_as_they_are() {
    let live = [
        "idle",
        "queued",
        "running",
        "running paused",
        "waiting",
        "blocked",
        "recoverable",
        "recoverable paused",
        "paused",
        "publishing",
    ];
    let ended = ["completed", "canceled", "failed"];
    let running = ["running", "running paused"];
    let table: Vec<(Event, Vec<&str>)> = vec![
        (
            Event::Created {
                spec: Shared::new(spec()),
                started: false,
                batch: None,
            },
            vec![],
        ),
        (Event::Started, vec!["idle"]),
        (Event::Promoted, live.to_vec()),
        (
            Event::Paused,
            vec!["queued", "running", "waiting", "blocked", "recoverable", "publishing"],
        ),
        (
            Event::Resumed,
            live.iter().copied().filter(|state| *state != "idle").collect(),
        ),
        (CLAIMED, vec!["queued", "running", "waiting", "blocked"]),
        (claim(5), running.to_vec()),
        (
            restarted(),
            vec![
                "idle",
                "queued",
                "running",
                "running paused",
                "blocked",
                "paused",
                "publishing",
            ],
        ),
        (Event::Released, vec!["running", "running paused", "publishing"]),
        (waited(), vec!["running", "running paused", "publishing"]),
        (blocked(), vec!["running", "running paused", "publishing"]),
        (intent(), vec!["running", "running paused", "publishing"]),
        (
            Event::Ending(Outcome::Canceled),
            live.iter().copied().filter(|state| *state != "publishing").collect(),
        ),
        (Event::Ended(Outcome::Completed), vec!["publishing"]),
        (Event::Ended(Outcome::Canceled), [&live[..], &["ending"]].concat()),
        (Event::Acknowledged, ended.to_vec()),
        (Event::Removed, ended.to_vec()),
        (Event::Forgotten, ended.to_vec()),
        (Event::Examined { unplaced: false }, vec![]),
        (needed(), running.to_vec()),
        (
            made(),
            vec![
                "idle",
                "queued",
                // Only where a crash took the worker.
                "running",
                "running paused",
                "waiting",
                "blocked",
                "recoverable",
                "recoverable paused",
                "paused",
            ],
        ),
    ];
    for (event, allowed) in table {
        for (name, state) in states() {
            let mut next = state.clone();
            let taken = next.advance(event.clone(), 60_000).is_ok();
            assert_eq!(taken, allowed.contains(&name), "{event:?} on {name}");
            assert!(taken || next == state, "{event:?} on {name} changes it");
        }
    }
}

#[test]
fn a_claim_of_another_generation_or_of_fewer_bytes_never_counts() {
    let running = after(&[Event::Started, CLAIMED, claim(10)]);
    assert!(running.clone().apply(claim(9), 0).is_err());
    let restarted = running
        .apply(restarted(), 0)
        .unwrap_or_else(|rejected| panic!("{rejected}"));
    assert_eq!(
        (restarted.durable_bytes(), restarted.generation, restarted.bytes_wasted),
        (0, 1, 10)
    );
    assert!(restarted.apply(claim(20), 0).is_err());
}

#[test]
fn durable_progress_resets_the_count_of_failures_and_nothing_else_does() {
    let failed = after(&[Event::Started, CLAIMED, waited(), Event::Claimed { attempts: 2 }]);
    assert_eq!(failed.failures_in_row, 1);
    assert_eq!(
        after(&[
            Event::Started,
            CLAIMED,
            waited(),
            Event::Claimed { attempts: 2 },
            claim(1)
        ])
        .failures_in_row,
        0
    );
}

#[test]
fn bytes_that_were_had_before_are_no_progress_after_a_restart() {
    let failed = [
        Event::Started,
        CLAIMED,
        claim(10),
        waited(),
        Event::Claimed { attempts: 2 },
        restarted(),
    ];
    let again = |durable_bytes| {
        let Event::Progressed(claim) = claim(durable_bytes) else {
            unreachable!()
        };
        let claim = Claim {
            generation: 1,
            ..(*claim).clone()
        };
        let state = after(&failed).apply(Event::Progressed(Shared::new(claim)), 0);
        state.unwrap_or_else(|rejected| panic!("{rejected}")).failures_in_row
    };
    assert_eq!((again(10), again(11)), (1, 0));
}

#[test]
fn a_pause_keeps_what_the_engine_has_got_to() {
    let paused = after(&[Event::Started, CLAIMED, waited(), Event::Paused]);
    assert_eq!(paused.deadline(), None);
    let resumed = paused
        .apply(Event::Resumed, 0)
        .unwrap_or_else(|rejected| panic!("{rejected}"));
    assert!(resumed.deadline().is_some(), "the back-off still counts after a pause");
    let pushed = resumed
        .apply(Event::Resumed, 0)
        .unwrap_or_else(|rejected| panic!("{rejected}"));
    assert_eq!(pushed.phase, Phase::Ready, "a resume of one that waits tries at once");
}

#[test]
fn an_error_that_its_owner_can_mend_keeps_all_bytes_and_one_resume_ends_it_also_after_a_pause() {
    let stopped = after(&[Event::Started, CLAIMED, claim(10), waited(), CLAIMED, needed()]);
    assert_eq!(stopped.durable_bytes(), 10);
    assert_eq!(stopped.failures_in_row, 0, "it begins anew, with all its attempts");
    assert_eq!(stopped.status(), TransferStatus::PausedRecoverableWebErrorStatus);
    assert_eq!(stopped.deadline(), None);
    let paused = after(&[Event::Started, CLAIMED, claim(10), needed(), Event::Paused]);
    assert_eq!(paused.status(), TransferStatus::PausedByApplication);
    for state in [stopped, paused] {
        let Ok(resumed) = state.apply(Event::Resumed, 0) else {
            panic!("it can be resumed")
        };
        assert_eq!(
            (resumed.status(), resumed.durable_bytes()),
            (TransferStatus::Queued, 10)
        );
    }
}

#[test]
fn the_word_for_what_is_missing_follows_from_the_error() {
    for (status, reason) in [
        (401, Reason::NeedsCredential),
        (407, Reason::NeedsCredential),
        (1007, Reason::NeedsCredential),
        (403, Reason::NeedsNewUrl),
        (404, Reason::NeedsNewUrl),
        (5, Reason::NeedsNewUrl),
    ] {
        let error = Shared::new(OperationError {
            status,
            ..(*error()).clone()
        });
        let needed = Event::Amended(Amendment::Needed(error));
        let stopped = after(&[Event::Started, CLAIMED, needed]);
        assert_eq!(stopped.reason(Lack::Slot), Some(reason), "{status}");
        assert_eq!(stopped.reason(Lack::Engine), Some(reason), "no engine would end it");
    }
}

#[test]
fn bytes_that_are_held_are_another_sources_once_another_server_has_answered() {
    let from = |url: &str| Event::Responded(Shared::new(Response::of(url)));
    let source = |urls: &[&str]| {
        let answers = urls.iter().map(|url| from(url));
        let events: Vec<Event> = [Event::Started, CLAIMED, from("http://host/a"), claim(10)]
            .into_iter()
            .chain(answers)
            .collect();
        after(&events).claim.as_ref().map(|claim| claim.origin.source)
    };
    assert_eq!(source(&["http://host/b", "http://host/c?***"]), Some(0));
    // What the other one answered was proven; whether that holds for what it says next is not known.
    assert_eq!(source(&["http://host:81/a", "http://host:81/a"]), Some(u32::MAX));
    assert_eq!(source(&["https://host/a", "http://host/a"]), Some(u32::MAX));
}

#[test]
fn a_change_keeps_bytes_and_wish_and_another_request_waits_for_nothing() {
    let before = after(&[Event::Started, CLAIMED, claim(10), waited(), Event::Paused]);
    let Ok(changed) = before.clone().apply(made(), 0) else {
        panic!("it is at rest")
    };
    assert_eq!(
        (&changed.phase, changed.wish, changed.durable_bytes()),
        (&Phase::Ready, before.wish, 10)
    );
    let source = |state: &Operation| state.claim.as_ref().map(|claim| claim.origin.source);
    assert_eq!(
        (source(&before), source(&changed)),
        (Some(0), Some(u32::MAX)),
        "they came from another server"
    );
    assert_eq!(
        (changed.spec.url.as_str(), changed.sealed_revision),
        ("http://other/file", 1)
    );
    assert_eq!(changed.failures_in_row, 0, "another request has all its attempts");
    let other = |spec| {
        let spec = Shared::new(spec);
        let sealed_revision = 0;
        before
            .clone()
            .apply(Event::Amended(Amendment::Made { spec, sealed_revision }), 0)
    };
    let priority = Priority::High;
    let ranked = other(Spec { priority, ..spec() });
    assert_eq!(ranked.as_ref().map(source), Ok(Some(0)), "the same server");
    let waits = ranked.map(|state| (state.failures_in_row, state.phase));
    assert_eq!(waits, Ok((1, before.phase.clone())), "the same request");
    for (destination, app) in [("/data/other", "app"), ("/data/file", "other")] {
        let (destination, app) = (PathBuf::from(destination), app.to_owned());
        let moved = other(Spec {
            destination,
            app,
            ..spec()
        });
        assert!(moved.is_err());
    }
}

#[test]
fn after_a_reboot_the_earlier_of_wall_time_and_delay_counts() {
    let deadline = Deadline::after(NOW, 10_000);
    let at = |wall_ms, boot_ms, boot| Now {
        boot_ms,
        wall_ms,
        boot_id: [boot; 16],
    };
    assert_eq!(
        deadline.rebased(at(51_000, 2_000, 1)).boot_ms(),
        11_000,
        "the same boot changes nothing"
    );
    assert_eq!(
        deadline.rebased(at(54_000, 100, 2)).boot_ms(),
        6_100,
        "the wall clock shows what is left"
    );
    assert_eq!(deadline.rebased(at(99_000, 100, 2)).boot_ms(), 100, "it has passed");
    assert_eq!(
        deadline.rebased(at(0, 100, 2)).boot_ms(),
        10_100,
        "a clock that went back starves nobody"
    );
}

#[test]
fn every_state_has_a_status_and_one_that_does_not_move_has_a_reason() {
    for (name, state) in states() {
        let moves = name.starts_with("running") || state.has_ended();
        assert_eq!(state.reason(Lack::Slot).is_none(), moves, "{name}");
        assert_eq!(
            state.status().is_ended(),
            state.has_ended() || name == "ending",
            "{name}"
        );
    }
}

#[test]
fn a_published_name_is_told_where_it_is_not_the_one_asked_for() {
    let Event::Publishing(intent) = intent() else {
        unreachable!()
    };
    let other = Event::Publishing(Intent {
        final_name: b"file (2)".to_vec(),
        ..intent
    });
    let done = after(&[Event::Started, CLAIMED, other, Event::Ended(Outcome::Completed)]);
    assert_eq!(done.published_name.as_deref(), Some(&b"file (2)"[..]));
}

const ELSEWHERE: Origin = Origin { source: 2, mixed: true };

fn digest() -> Vec<StoredDigest> {
    let digest = Digest::new(DigestAlgorithm::Sha512, [5; 64]);
    stored_digests(digest.as_slice())
}

fn headers() -> StoredHeaders {
    let validators = StoredValidators::default();
    let beside = Beside {
        validators: &validators,
        content_type: Some("text/plain"),
    };
    let sent = [("Content-Type", "text/plain"), ("X-Own", "1")];
    StoredHeaders::new(&sent.into_iter().collect(), beside)
}

/// Every shape of event, for the tests of the codec.
pub(crate) fn events() -> Vec<Event> {
    let failed = Outcome::Failed((*error()).clone());
    let response = Response {
        validators: StoredValidators {
            etag: Some("\"e\"".into()),
            total_bytes: Some(9),
            ..StoredValidators::default()
        },
        actual_url: "http://host/other".into(),
        status_code: 206,
        resumable: true,
        content_type: Some("text/plain".into()),
        digests: digest(),
        mirrors: vec!["http://mirror/file".into()],
        origin: ELSEWHERE,
        headers: headers(),
    };
    let everywhere = Spec {
        sha256: Some([9; 32]),
        digests: digest(),
        mirrors: vec!["http://a/".into(), "http://b/".into()],
        method: backhaul_backends::Method::POST,
        body: Some(Box::new(StoredBody::File {
            path: "/data/body".into(),
            len_bytes: 1 << 40,
            modified_ns: 1_700_000_000_123_456_789,
            inode: 7,
            boot_id: [1; 16],
        })),
        ..spec()
    };
    let Event::Progressed(plain) = claim(7) else {
        unreachable!()
    };
    let elsewhere = Claim {
        origin: ELSEWHERE,
        ..(*plain).clone()
    };
    vec![
        Event::Created {
            spec: Shared::new(everywhere),
            started: true,
            batch: None,
        },
        Event::Progressed(Shared::new(elsewhere)),
        Event::Waited {
            until: Deadline::after(NOW, 0),
            reason: WaitReason::BackOff,
            failures_in_row: 0,
            error: error(),
            round: Some(Round {
                next: 1,
                tried: 1,
                useless: 1,
                stays: 0,
                ..Round::default()
            }),
        },
        Event::Created {
            spec: Shared::new(spec()),
            started: false,
            batch: None,
        },
        Event::Started,
        Event::Paused,
        Event::Resumed,
        CLAIMED,
        Event::Responded(Shared::new(response)),
        claim(5),
        restarted(),
        Event::Released,
        waited(),
        blocked(),
        intent(),
        Event::Ending(Outcome::Canceled),
        Event::Ended(Outcome::Completed),
        Event::Ended(failed),
        Event::Acknowledged,
        Event::Removed,
        Event::Forgotten,
        Event::Examined { unplaced: true },
        needed(),
        made(),
        Event::Promoted,
    ]
}
