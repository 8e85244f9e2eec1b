//! Each lie, crash, silence and flood is an error of its attempt alone, classified, and shows no secret.

use std::time::Duration;

use backhaul_backends::{Credential, Failure, FailureKind, Header, Limits, Request, WebErrorStatus};

use crate::lab::{content, fetch, held, request};

const TRANSIENT: FailureKind = FailureKind::Transient { retry_after: None };

fn failure_of(url: &str) -> (Failure, Vec<u8>) {
    let (result, kept) = fetch(&request(url));
    let failure = result.expect_err(url);
    assert!(failure.message.len() < 1000, "{}", failure.message);
    assert!(!failure.message.contains(char::is_control), "{:?}", failure.message);
    (failure, kept.bytes)
}

#[test]
fn whatever_breaks_the_protocol_is_named_and_ends_the_attempt_for_good() {
    for (act, words) in [
        ("bad-hello", "not 'backhaul 1' first, but 'backhaul 2'"),
        ("bad-head", "what has no place there: 'no-such-field 1'"),
        ("twice", "what has no place there: 'etag x'"),
        ("long-line", "a line of more than 8192 bytes"),
        ("binary-line", "a line that is no UTF-8"),
        ("bad-frame", "65537 bytes at once"),
        ("empty-frame", "0 bytes at once"),
        ("more/100", "more than the 100 bytes that it announced"),
        ("after-end/100", "more after 'end'"),
        ("echo-line", "what has no place there"),
        ("complain", "more than 1048576 bytes to standard error"),
    ] {
        let (failure, _) = failure_of(&format!("lab:{act}"));
        assert_eq!(failure.kind, FailureKind::Permanent, "{act}: {failure}");
        assert_eq!(
            failure.status,
            WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE,
            "{act}: {failure}"
        );
        assert!(failure.message.contains(words), "{act}: {failure}");
        assert!(failure.message.starts_with("lab:"), "{failure}");
        assert!(failure.message.contains("backhaul-backend-lab: "), "{failure}");
    }
}

#[test]
fn an_end_before_the_end_may_be_tried_again_and_keeps_what_came() {
    let cut = 200_000;
    for (act, status, words, came) in [
        (
            "cut/200000",
            WebErrorStatus::DISCONNECTED,
            "it ended before its work was done, with exit status: 0",
            cut,
        ),
        (
            "crash/200000",
            WebErrorStatus::DISCONNECTED,
            "with exit status: 3; its last words: the disk is on fire",
            cut,
        ),
        (
            "die-at-once",
            WebErrorStatus::DISCONNECTED,
            "with exit status: 1; its last words: no such thing",
            0,
        ),
        ("killed", WebErrorStatus::DISCONNECTED, "with signal: 9", 0),
        (
            "fewer/1000",
            WebErrorStatus::LENGTH_MISMATCH,
            "it ended after 1000 bytes, 1001 were announced",
            1000,
        ),
        (
            "fail-after-all/1000",
            WebErrorStatus::DISCONNECTED,
            "it ended after its last byte, with exit status: 4",
            1000,
        ),
    ] {
        let (failure, bytes) = failure_of(&format!("lab:{act}"));
        assert_eq!((failure.kind, failure.status), (TRANSIENT, status), "{act}: {failure}");
        assert!(failure.message.contains(words), "{act}: {failure}");
        assert!(bytes == content(came, 0), "{act}: {} bytes", bytes.len());
    }
}

#[test]
fn a_helper_says_itself_what_may_be_done_about_a_failure_and_nothing_of_this_device() {
    let wait = FailureKind::Transient {
        retry_after: Some(Duration::from_secs(7)),
    };
    for (act, kind, status, code, words) in [
        (
            "missing",
            FailureKind::Permanent,
            WebErrorStatus::NOT_FOUND,
            Some(404),
            "NotFound: there is nothing",
        ),
        (
            "later",
            wait,
            WebErrorStatus::SERVICE_UNAVAILABLE,
            Some(503),
            "try [31m again",
        ),
        (
            "broken-in-the-middle/50",
            FailureKind::Unreachable,
            WebErrorStatus::SERVER_UNREACHABLE,
            None,
            "gone",
        ),
        (
            "local",
            FailureKind::Permanent,
            WebErrorStatus::UNKNOWN,
            None,
            "Unknown: x",
        ),
    ] {
        let (failure, _) = failure_of(&format!("lab:{act}"));
        assert_eq!(
            (failure.kind, failure.status, failure.code),
            (kind, status, code),
            "{act}: {failure}"
        );
        assert!(failure.message.contains(words), "{act}: {failure}");
    }
}

#[test]
fn silence_ends_by_the_limit_for_what_is_waited_for() {
    let (long, short) = (Duration::from_secs(60), Duration::from_millis(200));
    let limits = |connect, response, stall| Limits {
        connect,
        response,
        stall,
    };
    for (act, limits, came) in [
        ("hang-hello", limits(short, long, long), 0),
        ("hang-head", limits(long, short, long), 0),
        ("drip", limits(long, short, long), 0),
        ("hang-data/70000", limits(long, long, short), 70_000),
        ("hang-frame", limits(long, long, short), 500),
        ("hang-end/1000", limits(long, long, short), 1000),
        ("close-and-hang/1000", limits(long, long, short), 1000),
    ] {
        let asked = Request {
            limits,
            ..request(&format!("lab:{act}"))
        };
        let (result, kept) = fetch(&asked);
        let failure = result.expect_err(act);
        assert_eq!(
            (failure.kind, failure.status),
            (TRANSIENT, WebErrorStatus::TIMEOUT),
            "{act}: {failure}"
        );
        assert!(failure.message.contains("within 0.2 s"), "{act}: {failure}");
        assert_eq!(kept.bytes.len(), came, "{act}");
    }
}

#[test]
fn a_program_that_cannot_be_started_is_named() {
    for scheme in ["broken", "none"] {
        let (failure, _) = failure_of(&format!("{scheme}:x"));
        assert_eq!(failure.kind, FailureKind::Permanent, "{failure}");
        assert_eq!(failure.status, WebErrorStatus::UNSUPPORTED_SCHEME);
        assert!(failure.message.contains("it could not be started"), "{failure}");
    }
}

#[test]
fn what_is_said_to_standard_error_harms_nothing_that_goes_well() {
    let (result, kept) = fetch(&request("lab:chatter/300000"));
    result.unwrap();
    assert!(kept.bytes == content(300_000, 0));
}

#[test]
fn secrets_travel_over_standard_input_alone_and_no_error_shows_them() {
    let secret = |act: &str| Request {
        headers: vec![Header {
            name: "Authorization".into(),
            value: "Bearer header-secret".into(),
            secret: true,
        }],
        credential: Some(Credential {
            user: "user-secret".into(),
            password: "pass secret".into(),
        }),
        ..request(&format!("lab:{act}?token=query%2Fsecret"))
    };
    let hidden = [
        "header-secret",
        "user-secret",
        "pass secret",
        "pass%20secret",
        "query/secret",
        "query%2Fsecret",
        "query%252Fsecret",
    ];
    for act in ["echo", "echo-raw", "echo-line", "crash/10"] {
        let (result, _) = fetch(&secret(act));
        let failure = result.expect_err(act);
        assert!(failure.message.contains("***"), "{act}: {failure}");
        for word in hidden {
            assert!(!failure.message.contains(word), "{act}: {failure}");
        }
    }
    let (result, kept) = fetch(&secret("self"));
    result.unwrap();
    let seen = String::from_utf8_lossy(&kept.bytes);
    assert!(
        seen.contains("backhaul-backend-lab") && seen.contains("cwd /\n"),
        "{seen}"
    );
    for word in hidden {
        assert!(!seen.contains(word), "{word} is in the environment or the arguments");
    }
    assert!(
        !seen.contains("CARGO"),
        "what is not for a helper is in its environment"
    );
}

#[test]
fn a_failed_attempt_leaves_what_the_next_one_continues() {
    let (result, first) = fetch(&request("lab:crash/200000"));
    result.unwrap_err();
    let again = Request {
        held: Some(held(&first, 200_000)),
        ..request("lab:full/1000000")
    };
    let (result, second) = fetch(&again);
    result.unwrap();
    assert!([first.bytes, second.bytes].concat() == content(1_000_000, 0));
}
