//! The table, row by row.

use super::super::Decision::{Accept, AskRest, AskWhole, Fail, Redirect};
use super::super::*;
use crate::FailureKind;

pub(super) const OLD: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
pub(super) const OLDER: &str = "Sat, 05 Nov 1994 08:49:37 GMT";
pub(super) const LATER: &str = "Sun, 06 Nov 1994 08:50:37 GMT";

pub(super) fn held(etag: &str, modified: &str, total_bytes: Option<u64>) -> Held {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let validators = Validators {
        etag: text(etag),
        last_modified: text(modified),
        date: text(LATER),
        total_bytes,
        digests: Vec::new(),
    };
    Held {
        offset_bytes: 4,
        end_bytes: None,
        tail: Vec::new(),
        validators,
        content_type: None,
        ..Held::default()
    }
}

fn strong() -> Held {
    held("\"a\"", "", Some(10))
}

pub(super) fn reply(status: u16) -> Reply {
    Reply {
        status,
        framing: Framing::Close,
        foreign_coding: None,
        content_range: None,
        content_type: None,
        etag: None,
        last_modified: None,
        date: None,
        accept_ranges: None,
        location: None,
        retry_after: None,
        digests: Vec::new(),
        mirrors: Vec::new(),
    }
}

pub(super) fn part(range: &str, etag: &str) -> Reply {
    Reply {
        content_range: Some(range.to_owned()),
        etag: Some(etag.to_owned()),
        ..reply(206)
    }
}

pub(super) fn answer(held: Option<&Held>, expected_bytes: Option<u64>, reply: &Reply) -> Decision {
    let terms = Terms {
        held,
        expected_bytes,
        ..Terms::default()
    };
    decide(&ask(terms), terms, reply, SystemTime::UNIX_EPOCH)
}

/// One word for a decision, for tables.
pub(super) fn word(decision: &Decision) -> &'static str {
    match decision {
        Accept(Accepted {
            body: Body::Nothing, ..
        }) => "complete",
        Accept(Accepted {
            body: Body::Bytes { then_more: true, .. },
            ..
        }) => "continue, more to come",
        Accept(Accepted {
            start: Start::Beginning,
            ..
        }) => "begin",
        Accept(Accepted { on_trust: true, .. }) => "continue, on trust",
        Accept(Accepted {
            start: Start::Continue { .. },
            ..
        }) => "continue",
        Accept(Accepted {
            start: Start::Restart(Restart::Changed),
            ..
        }) => "restart, changed",
        Accept(Accepted {
            start: Start::Restart(Restart::RangeIgnored),
            ..
        }) => "restart, range ignored",
        Accept(Accepted {
            start: Start::Restart(Restart::NoProof),
            ..
        }) => "restart, no proof",
        Accept(Accepted {
            start: Start::Restart(Restart::BeyondEnd),
            ..
        }) => "restart, beyond end",
        Accept(Accepted {
            start: Start::Restart(Restart::Method),
            ..
        }) => "restart, method",
        AskRest(_) => "ask rest again",
        AskWhole(Restart::Changed) => "ask whole, changed",
        AskWhole(Restart::NoProof) => "ask whole, no proof",
        AskWhole(Restart::BeyondEnd) => "ask whole, beyond end",
        AskWhole(Restart::RangeIgnored) => "ask whole, range ignored",
        AskWhole(Restart::Method) => "ask whole, method",
        Redirect(_) => "redirect",
        Fail(problem) if problem.status == WebErrorStatus::LENGTH_MISMATCH => "fail, length",
        Fail(problem) if problem.kind == FailureKind::Permanent => "fail",
        Fail(_) => "fail, again",
    }
}

#[test]
fn with_another_method_than_get_held_bytes_are_given_up_before_anything_is_asked() {
    let asked = |held: Option<&Held>| {
        ask_without_range(Terms {
            held,
            ..Terms::default()
        })
    };
    let given_up = |given_up| Ask::Whole { given_up };
    assert_eq!(asked(None), given_up(None));
    assert_eq!(asked(Some(&Held::default())), given_up(None), "nothing is held");
    for held in [strong(), held("\"a\"", OLD, Some(10))] {
        let ask = asked(Some(&held));
        assert_eq!(ask, given_up(Some(Restart::Method)));
        let terms = Terms {
            held: Some(&held),
            ..Terms::default()
        };
        let answers = [(reply(200), "restart, method"), (part("bytes 4-9/10", "\"a\""), "fail")];
        for (reply, expected) in answers {
            assert_eq!(word(&decide(&ask, terms, &reply, SystemTime::UNIX_EPOCH)), expected);
        }
    }
}

#[test]
fn a_part_is_asked_for_only_where_its_answer_could_be_proven() {
    let rest = |if_range: Option<&str>| {
        Ask::Rest(Rest {
            first: 4,
            last: None,
            if_range: if_range.map(str::to_owned),
            rival: None,
            turn: 1,
        })
    };
    let ask = |held: Option<&Held>| {
        ask(Terms {
            held,
            ..Terms::default()
        })
    };
    let given_up = Ask::Whole {
        given_up: Some(Restart::NoProof),
    };
    #[rustfmt::skip]
    let rows = [
        ("13.1.5 strong tag", strong(), rest(Some("\"a\""))),
        ("13.1.5 tag before date", held("\"a\"", OLD, Some(10)), rest(Some("\"a\""))),
        ("13.1.5 date where no tag is known", held("", OLD, Some(10)), rest(Some(OLD))),
        ("13.1.5 no date beside a tag, even a weak one", held("W/\"a\"", OLD, Some(10)), rest(None)),
        ("8.8.1 weak tag proves nothing", held("W/\"a\"", "", Some(10)), given_up.clone()),
        ("8.8.2.2 date of the same second", held("", LATER, Some(10)), given_up.clone()),
        ("time without length proves nothing", held("", OLD, None), given_up.clone()),
        ("no validator", held("", "", Some(10)), given_up),
    ];
    for (rule, held, expected) in rows {
        assert_eq!(ask(Some(&held)), expected, "{rule}");
    }
    assert_eq!(ask(None), Ask::Whole { given_up: None });
    assert_eq!(
        ask(Some(&Held {
            offset_bytes: 0,
            ..strong()
        })),
        Ask::Whole { given_up: None }
    );
}

#[test]
fn a_206_continues_only_at_the_asked_offset_and_under_proof() {
    let with = |reply: Reply, framing| Reply { framing, ..reply };
    let by_time = |modified: &str, range: &str| Reply {
        etag: None,
        last_modified: Some(modified.to_owned()),
        ..part(range, "")
    };
    #[rustfmt::skip]
    let rows = [
        ("14.4 the asked rest", strong(), part("bytes 4-9/10", "\"a\""), "continue"),
        ("14.1 unit in any case", strong(), part("Bytes 4-9/10", "\"a\""), "continue"),
        ("14.4 total unsaid but known", strong(), part("bytes 4-9/*", "\"a\""), "continue"),
        ("14.4 total unsaid and exceeded", strong(), part("bytes 4-10/*", "\"a\""), "ask whole, changed"),
        ("14.4 total never said", held("\"a\"", "", None), part("bytes 4-9/*", "\"a\""), "ask whole, no proof"),
        ("14.4 total said now", held("\"a\"", "", None), part("bytes 4-9/10", "\"a\""), "continue"),
        ("15.3.7.2 less than asked", strong(), part("bytes 4-7/10", "\"a\""), "continue, more to come"),
        ("14.4 earlier offset", strong(), part("bytes 3-9/10", "\"a\""), "ask whole, no proof"),
        ("14.4 later offset", strong(), part("bytes 5-9/10", "\"a\""), "ask whole, no proof"),
        ("14.4 from the beginning", strong(), part("bytes 0-9/10", "\"a\""), "ask whole, no proof"),
        ("14.4 other total", strong(), part("bytes 4-10/11", "\"a\""), "ask whole, changed"),
        ("8.8.3 other tag", strong(), part("bytes 4-9/10", "\"b\""), "ask whole, changed"),
        ("8.8.3 tag turned weak", strong(), part("bytes 4-9/10", "W/\"a\""), "ask whole, no proof"),
        ("8.8 no validator", strong(), Reply { etag: None, ..part("bytes 4-9/10", "") }, "ask whole, no proof"),
        ("14.6 no Content-Range", strong(), reply(206), "ask whole, no proof"),
        ("14.4 reversed", strong(), part("bytes 4-3/10", "\"a\""), "ask whole, no proof"),
        ("14.4 beyond its total", strong(), part("bytes 4-10/10", "\"a\""), "ask whole, no proof"),
        ("14.4 signs", strong(), part("bytes +4-9/10", "\"a\""), "ask whole, no proof"),
        ("14.4 other unit", strong(), part("lines 4-9/10", "\"a\""), "ask whole, no proof"),
        ("14.4 not a number", strong(), part("bytes 4-18446744073709551616/10", "\"a\""), "ask whole, no proof"),
        ("14.4 largest number", strong(), part("bytes 4-18446744073709551615/*", "\"a\""), "ask whole, no proof"),
        ("8.8.2.2 same time", held("", OLD, Some(10)), by_time(OLD, "bytes 4-9/10"), "continue"),
        ("8.8.2.2 beside a weak tag", held("W/\"a\"", OLD, Some(10)), by_time(OLD, "bytes 4-9/10"), "continue"),
        ("8.8.2.2 other time", held("", OLD, Some(10)), by_time(OLDER, "bytes 4-9/10"), "ask whole, changed"),
        ("time without total", held("", OLD, Some(10)), by_time(OLD, "bytes 4-9/*"), "ask whole, no proof"),
        ("8.6 agreeing lengths", strong(), with(part("bytes 4-9/10", "\"a\""), Framing::Length(6)), "continue"),
        ("8.6 other length", strong(), with(part("bytes 4-9/10", "\"a\""), Framing::Length(7)), "fail, length"),
        ("chunked part", strong(), with(part("bytes 4-9/10", "\"a\""), Framing::Chunked), "continue"),
    ];
    for (rule, held, reply, expected) in rows {
        assert_eq!(word(&answer(Some(&held), None, &reply)), expected, "{rule}");
    }
    assert_eq!(
        word(&answer(None, None, &part("bytes 0-9/10", "\"a\""))),
        "fail",
        "15.3.7 a part nobody asked for"
    );
}

#[test]
fn a_whole_answer_is_taken_from_the_beginning() {
    let whole = |status, etag: &str, length| {
        let framing = if length > 0 {
            Framing::Length(length)
        } else {
            Framing::Close
        };
        Reply {
            etag: Some(etag.to_owned()),
            framing,
            ..reply(status)
        }
    };
    #[rustfmt::skip]
    let rows = [
        ("15.3.1", None, whole(200, "\"a\"", 10), "begin"),
        ("15.3.4 transformed on the way", None, whole(203, "\"a\"", 10), "begin"),
        ("13.1.5 range ignored, perhaps for its condition", Some(strong()), whole(200, "\"a\"", 10), "ask rest again"),
        ("14.2 range ignored", Some(held("W/\"a\"", OLD, Some(10))), whole(200, "W/\"a\"", 10), "restart, range ignored"),
        ("13.1.5 condition failed", Some(strong()), whole(200, "\"b\"", 10), "restart, changed"),
        ("13.1.5 other length", Some(strong()), whole(200, "\"a\"", 11), "restart, changed"),
        ("15.3.4 in answer to a range", Some(strong()), whole(203, "\"b\"", 10), "restart, changed"),
        ("no proof was possible", Some(held("", "", Some(10))), whole(200, "\"a\"", 10), "restart, no proof"),
    ];
    for (rule, held, reply, expected) in rows {
        assert_eq!(word(&answer(held.as_ref(), None, &reply)), expected, "{rule}");
    }
    for reason in [Restart::Changed, Restart::NoProof, Restart::BeyondEnd] {
        let ask = Ask::Whole { given_up: Some(reason) };
        let held = strong();
        let terms = Terms {
            held: Some(&held),
            ..Terms::default()
        };
        let decision = decide(&ask, terms, &whole(200, "\"a\"", 10), SystemTime::UNIX_EPOCH);
        assert!(matches!(decision, Accept(Accepted { start: Start::Restart(kept), .. }) if kept == reason));
    }
}

#[test]
fn a_416_completes_only_what_was_announced_as_whole() {
    let all = |etag: &str, total| Held {
        offset_bytes: 10,
        ..held(etag, "", total)
    };
    let unsatisfied = |range: &str, etag: &str| Reply {
        status: 416,
        ..part(range, etag)
    };
    let silent = |range: &str| Reply {
        etag: None,
        ..unsatisfied(range, "")
    };
    #[rustfmt::skip]
    let rows = [
        ("15.5.17 all is held", all("\"a\"", Some(10)), silent("bytes */10"), "complete"),
        ("15.5.17 all is held, and said so", all("\"a\"", Some(10)), unsatisfied("bytes */10", "\"a\""), "complete"),
        ("length never announced", all("\"a\"", None), silent("bytes */10"), "ask whole, beyond end"),
        ("length never announced, tag equal", all("\"a\"", None), unsatisfied("bytes */10", "\"a\""), "complete"),
        ("other tag", all("\"a\"", Some(10)), unsatisfied("bytes */10", "\"b\""), "ask whole, changed"),
        ("shorter now", all("\"a\"", Some(10)), silent("bytes */5"), "ask whole, changed"),
        ("longer now", all("\"a\"", Some(10)), silent("bytes */11"), "ask whole, changed"),
        ("shorter than held", all("\"a\"", None), silent("bytes */5"), "ask whole, beyond end"),
        ("not all is held", strong(), silent("bytes */10"), "ask whole, beyond end"),
        ("15.5.17 no length", all("\"a\"", Some(10)), reply(416), "ask whole, beyond end"),
        ("14.4 malformed", all("\"a\"", Some(10)), silent("bytes */ten"), "ask whole, beyond end"),
    ];
    for (rule, held, reply, expected) in rows {
        assert_eq!(word(&answer(Some(&held), None, &reply)), expected, "{rule}");
    }
    assert_eq!(
        word(&answer(None, None, &reply(416))),
        "fail",
        "15.5.17 without a range"
    );
}

#[test]
fn lengths_that_contradict_the_expected_one_are_refused_before_the_first_byte() {
    let ten = Reply {
        framing: Framing::Length(10),
        ..reply(200)
    };
    assert_eq!(word(&answer(None, Some(10), &ten)), "begin");
    assert_eq!(word(&answer(None, Some(11), &ten)), "fail, length");
    assert_eq!(
        word(&answer(Some(&strong()), Some(11), &part("bytes 4-9/10", "\"a\""))),
        "fail, length"
    );
    let unsaid = answer(None, Some(11), &reply(200));
    assert!(matches!(
        unsaid,
        Accept(Accepted {
            body: Body::Bytes { length: Some(11), .. },
            ..
        })
    ));
    let page = Reply {
        content_type: Some("Text/HTML; charset=utf-8".to_owned()),
        ..ten
    };
    let Fail(problem) = answer(None, Some(11), &page) else {
        panic!("a page of another length is refused")
    };
    assert!(
        matches!(problem.kind, FailureKind::Transient { .. }),
        "a captive portal passes"
    );
}

#[test]
fn other_statuses_redirect_or_fail_as_their_sections_say() {
    let rows = [
        ("15.2", 101, "fail"),
        ("15.3.3", 202, "fail"),
        ("15.3.5", 204, "fail"),
        ("15.3.6", 205, "fail"),
        ("RFC 4918", 207, "fail"),
        ("15.4.1", 300, "fail"),
        ("15.4.2", 301, "redirect"),
        ("15.4.3", 302, "redirect"),
        ("15.4.4", 303, "redirect"),
        ("15.4.5", 304, "fail"),
        ("15.4.6", 305, "fail"),
        ("15.4.8", 307, "redirect"),
        ("15.4.9", 308, "redirect"),
        ("15.5.1", 400, "fail"),
        ("15.5.2", 401, "fail"),
        ("15.5.4", 403, "fail"),
        ("15.5.5", 404, "fail"),
        ("15.5.8", 407, "fail"),
        ("15.5.9", 408, "fail, again"),
        ("15.5.11", 410, "fail"),
        ("15.5.13", 412, "fail"),
        ("RFC 8470", 425, "fail, again"),
        ("RFC 6585", 429, "fail, again"),
        ("RFC 7725", 451, "fail"),
        ("15.6.1", 500, "fail, again"),
        ("15.6.2", 501, "fail"),
        ("15.6.3", 502, "fail, again"),
        ("15.6.4", 503, "fail, again"),
        ("15.6.5", 504, "fail, again"),
        ("15.6.6", 505, "fail"),
        ("RFC 4918", 507, "fail"),
        ("15.5.20", 421, "fail, again"),
        ("RFC 6585", 511, "fail, again"),
        ("15 unknown 3xx", 399, "fail"),
        ("15 unknown 4xx", 499, "fail"),
        ("15 unknown 5xx", 599, "fail, again"),
        ("15 outside", 999, "fail, again"),
    ];
    for (rule, status, expected) in rows {
        let reply = Reply {
            location: Some("/x".to_owned()),
            ..reply(status)
        };
        for held in [None, Some(strong())] {
            let decision = answer(held.as_ref(), None, &reply);
            assert_eq!(word(&decision), expected, "{rule} {status}");
            if let Fail(problem) = decision {
                assert_eq!(problem.code, Some(status));
            }
        }
    }
}

#[test]
fn retry_after_counts_from_the_servers_own_clock() {
    let since_now = proof::date(LATER).and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    #[rustfmt::skip]
    let rows = [
        ("seconds", "120", Some(OLD), Some(Duration::from_secs(120))),
        ("a date", LATER, Some(OLD), Some(Duration::from_secs(60))),
        ("a date that is past", OLD, Some(LATER), Some(Duration::ZERO)),
        ("a date without a Date counts from here", LATER, None, since_now),
        ("more seconds than fit", "99999999999999999999999", None, Some(Duration::from_secs(u64::from(u32::MAX)))),
        ("nonsense", "soon", None, None),
        ("negative", "-1", None, None),
        ("nothing", "", None, None),
    ];
    for (rule, text, date, expected) in rows {
        let reply = Reply {
            retry_after: Some(text.to_owned()),
            date: date.map(str::to_owned),
            ..reply(503)
        };
        let Fail(problem) = answer(None, None, &reply) else {
            panic!("503 fails")
        };
        assert_eq!(problem.kind, FailureKind::Transient { retry_after: expected }, "{rule}");
    }
}

#[test]
fn a_coding_that_nobody_asked_for_is_never_stored() {
    for status in [200, 203, 206] {
        for held in [None, Some(strong())] {
            let coded = Reply {
                status,
                foreign_coding: Some("gzip".to_owned()),
                ..part("bytes 4-9/10", "\"a\"")
            };
            let Fail(problem) = answer(held.as_ref(), None, &coded) else {
                panic!("{status} with a coding fails")
            };
            assert!(problem.text.contains("gzip"));
        }
    }
}

#[test]
fn a_continued_response_keeps_the_validators_that_it_does_not_repeat() {
    let held = held("\"a\"", OLD, Some(10));
    let Accept(accepted) = answer(Some(&held), None, &part("bytes 4-9/*", "\"a\"")) else {
        panic!("the tag proves it");
    };
    assert_eq!(accepted.validators, held.validators);
}

#[test]
fn a_page_in_place_of_the_rest_ends_the_attempt_and_a_part_under_proof_does_not() {
    let page = |status| Reply {
        content_type: Some("text/html".to_owned()),
        ..reply(status)
    };
    let held = strong();
    for status in [200, 203] {
        let problem = not_the_content(Some(&held), None, &page(status)).expect("held bytes are no page");
        assert!(matches!(problem.kind, FailureKind::Transient { .. }));
        assert_eq!(problem.status, WebErrorStatus::UNEXPECTED_CONTENT_TYPE);
        assert_eq!(
            not_the_content(None, None, &page(status)),
            None,
            "a page may be the content"
        );
        let other = Reply {
            content_type: Some("image/png".to_owned()),
            ..reply(status)
        };
        let problem = not_the_content(None, Some("application/zip"), &other).expect("another type");
        assert_eq!(problem.kind, FailureKind::Permanent);
    }
    let nothing_held = Held {
        offset_bytes: 0,
        ..strong()
    };
    assert_eq!(not_the_content(Some(&nothing_held), None, &page(200)), None);
    for status in [206, 302, 404] {
        assert_eq!(not_the_content(Some(&held), None, &page(status)), None);
    }
}

#[test]
fn a_redirect_without_a_place_is_named() {
    for location in [None, Some(""), Some("  ")] {
        let reply = Reply {
            location: location.map(str::to_owned),
            ..reply(302)
        };
        let Fail(problem) = answer(None, None, &reply) else {
            panic!("it leads nowhere")
        };
        assert_eq!(
            (problem.status, problem.code),
            (WebErrorStatus::REDIRECT_FAILED, Some(302))
        );
    }
}
