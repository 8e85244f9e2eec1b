//! The whole product of what is held, asked, expected and answered.

use super::Decision::{Accept, AskWhole, Fail, Redirect};
use super::tests::{LATER, OLD, OLDER, held, reply};
use super::*;

/// Nothing, and offset 4 under every kind of validator.
fn all_held() -> Vec<Option<Held>> {
    let mut all = vec![None];
    for etag in ["", "\"a\"", "W/\"a\""] {
        for modified in ["", OLD, LATER] {
            for total in [None, Some(10), Some(4)] {
                all.push(Some(held(etag, modified, total)));
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

#[test]
fn never_splice_in_the_whole_product() {
    let replies = all_replies();
    for held in all_held() {
        let again = held.is_some().then_some(Ask::Whole {
            given_up: Some(Restart::Changed),
        });
        for ask in [Some(ask(held.as_ref())), again].into_iter().flatten() {
            for reply in &replies {
                for expected in [None, Some(10)] {
                    let decision = decide(&ask, held.as_ref(), expected, reply, SystemTime::UNIX_EPOCH);
                    assert_sound(held.as_ref(), &ask, reply, &decision);
                }
            }
        }
    }
}

fn assert_sound(held: Option<&Held>, ask: &Ask, reply: &Reply, decision: &Decision) {
    let sound = match decision {
        Accept(accepted) => is_sound(held, ask, reply, accepted),
        // Otherwise an attempt could go on asking for ever.
        AskWhole(_) => matches!(ask, Ask::Rest { .. }),
        Redirect(_) => reply.status == 302,
        Fail(problem) => !problem.text.is_empty(),
    };
    assert!(sound, "{held:?} {ask:?} {reply:?} {decision:?}");
}

fn is_sound(held: Option<&Held>, ask: &Ask, reply: &Reply, accepted: &Accepted) -> bool {
    let carries = matches!(reply.status, 200 | 203 | 206) && reply.foreign_coding.is_none();
    match (&accepted.start, held) {
        (Start::Beginning, None) | (Start::Restart(_), Some(_)) => carries && reply.status != 206,
        (Start::Continue { offset_bytes }, Some(held)) => {
            let asked = matches!(ask, Ask::Rest { offset_bytes: asked, .. } if asked == offset_bytes);
            let range = reply.content_range.as_deref().unwrap_or_default();
            let fits = if reply.status == 416 {
                range == "bytes */4"
            } else {
                carries && range.starts_with("bytes 4-")
            };
            asked && fits && is_proven(&held.validators, reply) && accepted.validators.total_bytes.is_some()
        }
        _ => false,
    }
}

fn is_proven(held: &Validators, reply: &Reply) -> bool {
    let strong = proof::strong_etag(held).is_some() || proof::strong_last_modified(held).is_some();
    strong
        && !contradict(held.etag.as_deref(), reply.etag.as_deref())
        && !contradict(held.last_modified.as_deref(), reply.last_modified.as_deref())
}

fn contradict(held: Option<&str>, new: Option<&str>) -> bool {
    held.zip(new)
        .is_some_and(|(held, new)| held.trim_start_matches("W/") != new.trim_start_matches("W/"))
}
