//! What goes well, and who decides what is continued.

use std::time::Instant;

use backhaul_backends::{
    Backend, Capabilities, Credential, FailureKind, Header, Held, Interrupt, Request, Restart, Start, UrlForm,
    WebErrorStatus,
};

use crate::lab::{Kept, backend, content, fetch, held, request};

const LENGTH: usize = 300_000;
const CUT: usize = 100_003;

/// Cuts a first attempt, and goes on with another act.
fn go_on(act: &str, change: impl FnOnce(&mut Held)) -> (Start, Kept) {
    let (_, first) = fetch(&request(&format!("lab:full/{LENGTH}")));
    let mut held = held(&first, CUT);
    change(&mut held);
    let second = Request {
        held: Some(held),
        ..request(&format!("lab:{act}/{LENGTH}"))
    };
    let (result, kept) = fetch(&second);
    result.unwrap();
    (kept.heads[0].start.clone(), kept)
}

#[test]
fn a_download_comes_whole_in_runs_no_larger_than_the_buffer() {
    for (act, length) in [
        ("full", LENGTH),
        ("full", 0),
        ("full", 1),
        ("small-frames", 50_000),
        ("unannounced", LENGTH),
    ] {
        for buffer_bytes in [4096, 64 << 10, 1 << 20] {
            let asked = Request {
                buffer_bytes,
                ..request(&format!("lab:{act}/{length}"))
            };
            let (result, kept) = fetch(&asked);
            result.unwrap();
            assert!(kept.bytes == content(length, 0), "{act} {length}");
            assert!(kept.run_bytes <= buffer_bytes);
            let head = &kept.heads[0];
            assert_eq!(
                (&head.start, head.resumable, head.provable),
                (&Start::Beginning, Some(true), true)
            );
            let total = (act != "unannounced").then_some(length as u64);
            assert_eq!(head.validators.total_bytes, total);
        }
    }
}

#[test]
fn held_bytes_are_continued_under_proof_and_what_follows_is_the_rest() {
    let (start, kept) = go_on("full", |_| ());
    assert_eq!(
        start,
        Start::Continue {
            offset_bytes: CUT as u64
        }
    );
    assert!(kept.bytes == content(LENGTH, 0)[CUT..]);
    // Nothing of it is left.
    let (_, first) = fetch(&request("lab:full/5000"));
    let all = Request {
        held: Some(held(&first, 5000)),
        ..request("lab:full/5000")
    };
    let (result, kept) = fetch(&all);
    result.unwrap();
    assert_eq!(
        (kept.bytes.len(), &kept.heads[0].start),
        (0, &Start::Continue { offset_bytes: 5000 })
    );
}

#[test]
fn what_is_not_proven_is_never_continued() {
    for (act, why, seed) in [
        ("changed", Restart::Changed, 1),
        ("unproven", Restart::NoProof, 0),
        ("whole-only", Restart::RangeIgnored, 0),
    ] {
        let (start, kept) = go_on(act, |_| ());
        assert_eq!(start, Start::Restart(why), "{act}");
        assert!(kept.bytes == content(LENGTH, seed), "{act}");
    }
    let (start, kept) = go_on("unproven", |held| held.digest_expected = true);
    assert_eq!(
        start,
        Start::Continue {
            offset_bytes: CUT as u64
        }
    );
    assert!(kept.heads[0].on_trust && kept.bytes == content(LENGTH, 0)[CUT..]);
}

#[test]
fn a_helper_that_lies_about_its_validators_is_found_out_by_the_bytes_that_are_held() {
    let (start, kept) = go_on("liar", |_| ());
    assert_eq!(start, Start::Restart(Restart::Changed));
    assert!(kept.bytes == content(LENGTH, 1));
}

#[test]
fn what_is_expected_is_held_against_what_is_announced_and_what_comes() {
    let expects = |act: &str, bytes: Option<u64>, media_type: Option<&str>| {
        let asked = Request {
            expected_bytes: bytes,
            expected_type: media_type.map(str::to_owned),
            ..request(&format!("lab:{act}"))
        };
        let (result, kept) = fetch(&asked);
        (result, kept.bytes.len())
    };
    let (result, came) = expects("full/1000", Some(999), None);
    let failure = result.unwrap_err();
    assert_eq!(
        (failure.kind, failure.status, came),
        (FailureKind::Permanent, WebErrorStatus::LENGTH_MISMATCH, 0)
    );
    let (result, came) = expects("unannounced/1000", Some(999), None);
    let failure = result.unwrap_err();
    assert_eq!(
        (failure.kind, failure.status, came),
        (FailureKind::Permanent, WebErrorStatus::LENGTH_MISMATCH, 0)
    );
    let failure = expects("unannounced/1000", Some(1001), None).0.unwrap_err();
    assert_eq!(
        (failure.kind, failure.status),
        (FailureKind::Permanent, WebErrorStatus::LENGTH_MISMATCH)
    );
    let (result, came) = expects("page/1000", None, Some("image/*"));
    let failure = result.unwrap_err();
    let passes = FailureKind::Transient { retry_after: None };
    assert_eq!(
        (failure.kind, failure.status, came),
        (passes, WebErrorStatus::UNEXPECTED_CONTENT_TYPE, 0)
    );
    expects("full/1000", Some(1000), Some("image/*")).0.unwrap();
}

#[test]
fn a_helper_is_told_all_it_needs_line_by_line() {
    let asked = Request {
        headers: vec![
            Header {
                name: "X-A".into(),
                value: "b c".into(),
                secret: false,
            },
            Header {
                name: "X-B".into(),
                value: "d%\u{e9}".into(),
                secret: true,
            },
        ],
        credential: Some(Credential {
            user: "ann".into(),
            password: "p w".into(),
        }),
        expected_bytes: None,
        ..request("lab:request?a=b%20c")
    };
    let (result, kept) = fetch(&asked);
    result.unwrap();
    let told = String::from_utf8(kept.bytes).unwrap();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(
        lines,
        [
            "backhaul 1",
            "url lab:request?a=b%2520c",
            "credential ann p%20w",
            "header X-A b%20c",
            "secret-header X-B d%25%C3%A9",
            "limits 30000 60000 60000",
            "buffer 65536",
            "go"
        ]
    );
    assert_eq!(kept.heads[0].actual_url, "lab:request");
}

#[test]
fn a_helper_can_be_a_shell_script_of_a_few_lines() {
    let (result, kept) = fetch(&request("shell://host/x"));
    result.unwrap();
    assert_eq!(kept.bytes, b"hello\n");
    let rest = Request {
        held: Some(held(&kept, 2)),
        ..request("shell://host/x")
    };
    let (result, kept) = fetch(&rest);
    result.unwrap();
    assert_eq!(kept.bytes, b"llo\n");
}

#[test]
fn each_program_serves_its_scheme_and_says_what_no_helper_can() {
    let backend = backend();
    assert_eq!(backend.schemes(), ["bare", "broken", "lab", "none", "served", "shell"]);
    let expected = Capabilities {
        resume: true,
        headers: true,
        urls: UrlForm::Any,
        ..Capabilities::default()
    };
    assert_eq!(backend.capabilities(), expected);
    let result = backend.download(&request("other:x"), &mut Kept::default(), &Interrupt::new());
    assert_eq!(result.unwrap_err().status, WebErrorStatus::UNSUPPORTED_SCHEME);
}

/// A sink that only counts.
#[derive(Default)]
struct Counted(u64);

impl backhaul_backends::Sink for Counted {
    fn begin(&mut self, _: &backhaul_backends::Head) -> Result<(), backhaul_backends::Refused> {
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), backhaul_backends::Refused> {
        self.0 += bytes.len() as u64;
        Ok(())
    }
}

#[test]
fn a_large_file_is_no_matter_of_minutes() {
    let length = 256 << 20;
    let mut counted = Counted::default();
    let start = Instant::now();
    backend()
        .download(&request(&format!("lab:full/{length}")), &mut counted, &Interrupt::new())
        .unwrap();
    assert_eq!(counted.0, length);
    let seconds = start.elapsed().as_secs_f64();
    // The bound guards against a loop over single bytes, and against nothing finer.
    assert!(seconds < 60.0, "{seconds} s");
}
