//! The whole product of what is held, asked, expected and answered.

use super::super::Decision::{Accept, AskRest, AskWhole, Fail, Redirect};
use super::super::*;
use super::rows::{LATER, OLD, OLDER, held, reply};

/// Nothing; offset 4 under every kind of validator, with and without a tail; and the gap from 4 to 8.
fn all_held() -> Vec<Option<Held>> {
    let mut all = vec![None];
    for etag in ["", "\"a\"", "W/\"a\""] {
        for modified in ["", OLD, LATER] {
            for total in [None, Some(10), Some(4)] {
                let plain = held(etag, modified, total);
                all.push(Some(Held {
                    tail: vec![0; 3],
                    ..plain.clone()
                }));
                all.push(Some(Held {
                    end_bytes: Some(8),
                    ..plain.clone()
                }));
                all.push(Some(plain));
            }
        }
    }
    all
}

fn all_replies() -> Vec<Reply> {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let ranges = [
        "",
        "bytes 4-9/10",
        "bytes 1-9/10",
        "bytes 1-2/10",
        "bytes 0-9/10",
        "bytes 4-7/10",
        "bytes 4-9/*",
        "bytes */10",
        "bytes */4",
    ];
    let tags = [
        ("", ""),
        ("\"a\"", ""),
        ("\"b\"", ""),
        ("W/\"a\"", OLD),
        ("", OLD),
        ("", OLDER),
    ];
    let mut all = Vec::new();
    for status in [200, 203, 204, 206, 302, 304, 404, 412, 416, 503] {
        for range in ranges {
            for (etag, modified) in tags {
                for framing in [
                    Framing::Close,
                    Framing::Chunked,
                    Framing::Length(6),
                    Framing::Length(10),
                ] {
                    for coding in ["", "gzip"] {
                        all.push(Reply {
                            framing,
                            foreign_coding: text(coding),
                            content_range: text(range),
                            etag: text(etag),
                            last_modified: text(modified),
                            date: text(LATER),
                            location: text("/x"),
                            ..reply(status)
                        });
                    }
                }
            }
        }
    }
    all
}

/// Every question that can come up in an attempt.
fn all_asks(terms: Terms<'_>) -> Vec<Ask> {
    let first = ask(terms);
    let mut all = vec![first.clone()];
    if terms.held.is_some() {
        all.push(Ask::Whole {
            given_up: Some(Restart::Changed),
        });
    }
    if let Ask::Rest(rest) = first {
        for (turn, rival) in [(2, None), (2, Some("\"b\"")), (3, Some("\"c\""))] {
            all.push(Ask::Rest(Rest {
                if_range: None,
                rival: rival.map(str::to_owned),
                turn,
                ..rest.clone()
            }));
        }
    }
    all
}

#[test]
fn no_answer_of_the_whole_product_joins_bytes_that_are_not_proven_one() {
    let replies = all_replies();
    let mut count = 0_u64;
    for held in all_held() {
        for digest_expected in [false, true] {
            let held = held.clone().map(|held| Held {
                digest_expected,
                ..held
            });
            for expected_bytes in [None, Some(10)] {
                let terms = Terms {
                    held: held.as_ref(),
                    expected_bytes,
                    ..Terms::default()
                };
                for ask in all_asks(terms) {
                    for reply in &replies {
                        let decision = decide(&ask, terms, reply, SystemTime::UNIX_EPOCH);
                        assert_sound(terms, &ask, reply, &decision);
                        count += 1;
                    }
                }
            }
        }
    }
    assert!(count > 1_000_000, "{count}");
}

#[test]
fn an_attempt_asks_a_bounded_number_of_times() {
    let replies = all_replies();
    for held in all_held() {
        let terms = Terms {
            held: held.as_ref(),
            ..Terms::default()
        };
        for reply in &replies {
            let mut ask = ask(terms);
            let mut questions = 1;
            loop {
                ask = match decide(&ask, terms, reply, SystemTime::UNIX_EPOCH) {
                    AskRest(rest) => Ask::Rest(rest),
                    AskWhole(why) => Ask::Whole { given_up: Some(why) },
                    _ => break,
                };
                questions += 1;
                assert!(questions <= u32::from(RESTS_MAX) + 1, "{held:?} {reply:?}");
            }
        }
    }
}

fn assert_sound(terms: Terms<'_>, ask: &Ask, reply: &Reply, decision: &Decision) {
    let sound = match decision {
        Accept(accepted) => is_sound(terms, ask, reply, accepted),
        // Otherwise an attempt could go on asking for ever.
        AskWhole(_) => matches!(ask, Ask::Rest(_)),
        AskRest(next) => matches!(ask, Ask::Rest(rest) if rest.turn < next.turn && next.turn <= RESTS_MAX),
        Redirect(_) => reply.status == 302,
        Fail(problem) => !problem.text.is_empty(),
    };
    assert!(sound, "{terms:?} {ask:?} {reply:?} {decision:?}");
}

fn is_sound(terms: Terms<'_>, ask: &Ask, reply: &Reply, accepted: &Accepted) -> bool {
    let carries = matches!(reply.status, 200 | 203 | 206) && reply.foreign_coding.is_none();
    match (&accepted.start, terms.held, ask) {
        (Start::Beginning, None, _) | (Start::Restart(_), Some(_), _) => carries && reply.status != 206,
        (Start::Continue { offset_bytes }, Some(held), Ask::Rest(rest)) => {
            let range = reply.content_range.as_deref().unwrap_or_default();
            let fits = if reply.status == 416 {
                range == "bytes */4"
            } else {
                carries && range.starts_with(&format!("bytes {}-", rest.first))
            };
            let overlap = held.offset_bytes - rest.first;
            let proven = is_proven(&held.validators, reply, rest);
            let by_digest = held.digest_expected && accepted.on_trust;
            *offset_bytes == held.offset_bytes
                && fits
                && accepted.overlap_bytes as u64 == overlap
                && (proven || by_digest)
                && accepted.on_trust != proven
                && accepted.validators.total_bytes.is_some()
        }
        _ => false,
    }
}

/// Written anew, from the rules of what is a proof.
fn is_proven(held: &Validators, reply: &Reply, rest: &Rest) -> bool {
    let range = reply.content_range.as_deref().unwrap_or_default();
    let total: Option<u64> = range.rsplit('/').next().and_then(|total| total.parse().ok());
    if held.total_bytes.is_some() && total.is_some() && held.total_bytes != total {
        return false;
    }
    let times_differ = contradict(held.last_modified.as_deref(), reply.last_modified.as_deref());
    let tags_differ = contradict(held.etag.as_deref(), reply.etag.as_deref());
    if reply.status == 416 {
        return !tags_differ && !times_differ;
    }
    let time_is_one = proof::strong_last_modified(held).is_some()
        && held.last_modified == reply.last_modified
        && total.is_some()
        && held.total_bytes == total;
    if tags_differ {
        // Only a tag that is another each time says nothing.
        return time_is_one && rest.rival.is_some() && rest.rival != reply.etag;
    }
    time_is_one || (proof::strong_etag(held).is_some() && held.etag == reply.etag)
}

fn contradict(held: Option<&str>, new: Option<&str>) -> bool {
    held.zip(new)
        .is_some_and(|(held, new)| held.trim_start_matches("W/") != new.trim_start_matches("W/"))
}
