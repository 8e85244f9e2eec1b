//! The response state machine: what is held and what was asked, times what came, gives what to do. Pure; every rule
//! names its section of RFC 9110.
//!
//! | asked | came | decision |
//! |---|---|---|
//! | whole | 200, 203 (15.3.1, 15.3.4) | accept from 0 |
//! | whole | 206 (15.3.7) | fail: nobody asked for a part |
//! | rest | 206 at the asked offset (14.4), proven the same (8.8) | accept, continue |
//! | rest | 206 proven another | ask for the whole: changed |
//! | rest | 206 without proof, at another offset, or multipart (14.6) | ask for the whole: no proof |
//! | rest | 200, 203 (13.1.5, 14.2) | accept from 0: changed, or range ignored |
//! | rest | 416 with `bytes */N` (15.5.17), all N held and announced as the whole | accept as complete |
//! | rest | 416 otherwise | ask for the whole: beyond the end, or changed |
//! | any | 301, 302, 303, 307, 308 with Location (15.4) | redirect |
//! | any | content-encoding (8.4) or transfer-coding (RFC 9112, 6.1) nobody asked for | fail |
//! | any | 408, 425, 429, 500, 502, 503, 504 | fail, a later attempt may succeed, after Retry-After (10.2.3) |
//! | any | other | fail for good |
//!
//! Asking for the whole happens at most once: it is asked without Range, and no answer to that asks again.

use std::time::{Duration, SystemTime};

use super::problem::Problem;
use crate::proof::{self, Sameness};
use crate::{Digest, Held, Restart, Start, Validators, WebErrorStatus};

/// What is asked of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// The whole resource, and why held bytes are given up for it, if any are held.
    Whole { given_up: Option<Restart> },
    /// The rest from an offset, under `If-Range` where the validators allow one (section 13.1.5).
    Rest {
        offset_bytes: u64,
        if_range: Option<String>,
    },
}

/// How the end of the body is known (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// By Content-Length.
    Length(u64),
    /// By a last chunk.
    Chunked,
    /// By the end of the connection alone.
    Close,
}

/// The parts of a response that decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) framing: Framing,
    /// Codings other than `identity` and `chunked`, as sent.
    pub(super) foreign_coding: Option<String>,
    pub(super) content_range: Option<String>,
    pub(super) content_type: Option<String>,
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
    pub(super) date: Option<String>,
    pub(super) accept_ranges: Option<String>,
    pub(super) location: Option<String>,
    pub(super) retry_after: Option<String>,
    /// Of the whole representation, strongest first.
    pub(super) digests: Vec<Digest>,
    /// References of the field Link that name the same bytes elsewhere, best first.
    pub(super) mirrors: Vec<String>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Take the body.
    Accept(Accepted),
    /// Drop the body and ask for the whole resource.
    AskWhole(Restart),
    /// Ask there.
    Redirect(String),
    /// End the attempt.
    Fail(Problem),
}

/// A response that carries the resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) start: Start,
    pub(super) validators: Validators,
    pub(super) resumable: bool,
    pub(super) body: Body,
}

/// What must come in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Nothing: what is held is complete already.
    Nothing,
    /// This many bytes, or any number where unknown; with `then_more`, they are not yet the rest of the resource.
    Bytes { length: Option<u64>, then_more: bool },
}

/// A satisfied Content-Range (section 14.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) total: Option<u64>,
}

/// What to ask for. Without a validator that could prove the answer, a part is not worth asking for.
pub(super) fn ask(held: Option<&Held>) -> Ask {
    let Some(held) = held.filter(|held| held.offset_bytes > 0) else {
        return Ask::Whole { given_up: None };
    };
    let offset_bytes = held.offset_bytes;
    if proven_by_digest(held) {
        // The condition of another server, or one that is not needed, would only bring the whole.
        return Ask::Rest {
            offset_bytes,
            if_range: None,
        };
    }
    if let Some(tag) = proof::strong_etag(&held.validators) {
        return Ask::Rest {
            offset_bytes,
            if_range: Some(tag.to_owned()),
        };
    }
    match proof::strong_last_modified(&held.validators) {
        // The total is part of the proof by time.
        Some(time) if held.validators.total_bytes.is_some() && !held.foreign => {
            // A date is allowed in If-Range only where no entity tag is known (section 13.1.5); beside a weak tag the
            // range is asked for plainly and the answer compared.
            let if_range = held.validators.etag.is_none().then(|| time.to_owned());
            Ask::Rest { offset_bytes, if_range }
        }
        // The answer may tell the same digest.
        _ if !held.validators.digests.is_empty() => Ask::Rest {
            offset_bytes,
            if_range: None,
        },
        _ => Ask::Whole {
            given_up: Some(Restart::NoProof),
        },
    }
}

/// Bytes of another source that only a digest of the whole can prove.
fn proven_by_digest(held: &Held) -> bool {
    held.foreign && (held.digest_expected || !held.validators.digests.is_empty())
}

/// What to do with a response.
pub(super) fn decide(
    ask: &Ask,
    held: Option<&Held>,
    expected_bytes: Option<u64>,
    reply: &Reply,
    now: SystemTime,
) -> Decision {
    match (reply.status, ask) {
        (200 | 203 | 206, _) if reply.foreign_coding.is_some() => Decision::Fail(foreign_coding(reply)),
        (200 | 203, _) => whole(ask, held, expected_bytes, reply),
        (206, Ask::Rest { offset_bytes, .. }) => part(*offset_bytes, held, expected_bytes, reply),
        (206, Ask::Whole { .. }) => invalid(reply, "a part (206) although the whole was asked for"),
        (416, Ask::Rest { offset_bytes, .. }) => unsatisfied(*offset_bytes, held, expected_bytes, reply),
        (301 | 302 | 303 | 307 | 308, _) => match &reply.location {
            Some(location) => Decision::Redirect(location.clone()),
            None => Decision::Fail(Problem::http_status(reply.status, None)),
        },
        (100..=299 | 304, _) => invalid(reply, &format!("{} where content was asked for", reply.status)),
        _ => Decision::Fail(Problem::http_status(reply.status, retry_after(reply, now))),
    }
}

/// Sections 15.3.1 and 15.3.4: the whole resource, also in answer to a range that the server ignored or whose
/// condition failed.
fn whole(ask: &Ask, held: Option<&Held>, expected_bytes: Option<u64>, reply: &Reply) -> Decision {
    let announced = if let Framing::Length(length) = reply.framing {
        Some(length)
    } else {
        None
    };
    let validators = validators(reply, announced);
    let start = match (ask, held) {
        (Ask::Whole { given_up: None }, _) | (_, None) => Start::Beginning,
        (Ask::Whole { given_up: Some(reason) }, _) => Start::Restart(*reason),
        (Ask::Rest { .. }, Some(held)) => Start::Restart(match proof::compare_held(held, &validators) {
            Sameness::Different => Restart::Changed,
            Sameness::Same | Sameness::Unproven => Restart::RangeIgnored,
        }),
    };
    if let Some(problem) = wrong_total(announced, expected_bytes, reply) {
        return Decision::Fail(problem);
    }
    Decision::Accept(Accepted {
        start,
        validators,
        resumable: says_ranges(reply),
        body: Body::Bytes {
            length: announced.or(expected_bytes),
            then_more: false,
        },
    })
}

/// Section 15.3.7: a part is taken only at the asked offset and under proof.
fn part(offset_bytes: u64, held: Option<&Held>, expected_bytes: Option<u64>, reply: &Reply) -> Decision {
    let range = reply.content_range.as_deref().and_then(parse_content_range);
    let (Some(range), Some(held)) = (range.filter(|range| range.first == offset_bytes), held) else {
        return Decision::AskWhole(Restart::NoProof);
    };
    let new = validators(reply, range.total);
    match proof::compare_held(held, &new) {
        Sameness::Different => return Decision::AskWhole(Restart::Changed),
        Sameness::Unproven => return Decision::AskWhole(Restart::NoProof),
        Sameness::Same => {}
    }
    let validators = merge(held, new);
    // Where nobody ever said how long the resource is, the end of a part proves nothing.
    let Some(total) = validators.total_bytes else {
        return Decision::AskWhole(Restart::NoProof);
    };
    // A part without a total of its own that reaches beyond the known one belongs to something else.
    if range.last >= total {
        return Decision::AskWhole(Restart::Changed);
    }
    let length = range.last - range.first + 1;
    if let Framing::Length(announced) = reply.framing
        && announced != length
    {
        return Decision::Fail(length_mismatch(&format!(
            "Content-Length {announced} contradicts Content-Range of {length} bytes"
        )));
    }
    if let Some(problem) = wrong_total(Some(total), expected_bytes, reply) {
        return Decision::Fail(problem);
    }
    Decision::Accept(Accepted {
        start: Start::Continue { offset_bytes },
        validators,
        resumable: true,
        body: Body::Bytes {
            length: Some(length),
            then_more: range.last + 1 < total,
        },
    })
}

/// Section 15.5.17: a server that has nothing from the offset on may mean that all is held already. That stands only
/// where the response that the held bytes came from announced the same length: then they are one whole representation.
fn unsatisfied(offset_bytes: u64, held: Option<&Held>, expected_bytes: Option<u64>, reply: &Reply) -> Decision {
    let current = reply.content_range.as_deref().and_then(parse_unsatisfied_range);
    let Some(held) = held else {
        return Decision::AskWhole(Restart::BeyondEnd);
    };
    let sameness = proof::compare_held(held, &validators(reply, current));
    match (current, held.validators.total_bytes, sameness) {
        (_, _, Sameness::Different) => Decision::AskWhole(Restart::Changed),
        (Some(current), announced, sameness)
            if current == offset_bytes && (announced == Some(current) || sameness == Sameness::Same) =>
        {
            match wrong_total(current.into(), expected_bytes, reply) {
                Some(problem) => Decision::Fail(problem),
                None => Decision::Accept(Accepted {
                    start: Start::Continue { offset_bytes },
                    validators: Validators {
                        total_bytes: Some(current),
                        ..held.validators.clone()
                    },
                    resumable: true,
                    body: Body::Nothing,
                }),
            }
        }
        _ => Decision::AskWhole(Restart::BeyondEnd),
    }
}

fn validators(reply: &Reply, total_bytes: Option<u64>) -> Validators {
    Validators {
        etag: reply.etag.clone(),
        last_modified: reply.last_modified.clone(),
        date: reply.date.clone(),
        total_bytes,
        digests: reply.digests.clone(),
    }
}

/// A part need not repeat what the whole said (section 15.3.7). A Last-Modified keeps the Date it came with. What one
/// server says on its own account is never taken for the word of another.
fn merge(held: &Held, new: Validators) -> Validators {
    let (held, foreign) = (&held.validators, held.foreign);
    if foreign {
        return Validators {
            total_bytes: new.total_bytes.or(held.total_bytes),
            digests: merged_digests(&held.digests, new.digests),
            ..new
        };
    }
    let date = if new.last_modified.is_some() {
        new.date
    } else {
        held.date.clone()
    };
    Validators {
        etag: new.etag.or_else(|| held.etag.clone()),
        last_modified: new.last_modified.or_else(|| held.last_modified.clone()),
        date,
        total_bytes: new.total_bytes.or(held.total_bytes),
        digests: merged_digests(&held.digests, new.digests),
    }
}

/// What either of two responses of one representation says of it, strongest first.
fn merged_digests(held: &[Digest], mut new: Vec<Digest>) -> Vec<Digest> {
    for digest in held {
        if !new.iter().any(|other| other.algorithm() == digest.algorithm()) {
            new.push(digest.clone());
        }
    }
    new.sort_by_key(|digest| std::cmp::Reverse(digest.algorithm()));
    new
}

/// A page where something of another size is expected is what captive portals send, and passes.
fn wrong_total(total: Option<u64>, expected: Option<u64>, reply: &Reply) -> Option<Problem> {
    let (total, expected) = (total?, expected?);
    if total == expected {
        return None;
    }
    let problem = length_mismatch(&format!("the server announces {total} bytes, {expected} are expected"));
    let page = reply
        .content_type
        .as_deref()
        .is_some_and(|kind| kind.to_ascii_lowercase().starts_with("text/html"));
    Some(if page {
        let text = format!("{}; it sends a web page, perhaps to have somebody log in", problem.text);
        Problem::transient(problem.status, text)
    } else {
        problem
    })
}

fn length_mismatch(text: &str) -> Problem {
    Problem::permanent(WebErrorStatus::LENGTH_MISMATCH, text)
}

fn invalid(reply: &Reply, text: &str) -> Decision {
    let status = WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE;
    let problem = Problem::permanent(status, format!("the server answered {text}"));
    Decision::Fail(Problem {
        code: Some(reply.status),
        ..problem
    })
}

/// Section 8.4: the bytes of a coding are not the bytes of the resource, and offsets into them mean nothing.
fn foreign_coding(reply: &Reply) -> Problem {
    let coding = reply.foreign_coding.as_deref().unwrap_or_default();
    let text = format!("the server sent the content in the coding {coding}, although identity was asked for");
    let status = WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE;
    Problem {
        code: Some(reply.status),
        ..Problem::permanent(status, text)
    }
}

/// Section 14.3.
fn says_ranges(reply: &Reply) -> bool {
    let units = reply.accept_ranges.as_deref().unwrap_or_default();
    units.split(',').any(|unit| unit.trim().eq_ignore_ascii_case("bytes"))
}

/// Section 10.2.3: seconds, or a date, which counts from the server's own clock where it says its time.
fn retry_after(reply: &Reply, now: SystemTime) -> Option<Duration> {
    let text = reply.retry_after.as_deref()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More seconds than fit are as good as for ever.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::from(u32::MAX))));
    }
    let server_now = reply.date.as_deref().and_then(proof::date).unwrap_or(now);
    Some(proof::date(text)?.duration_since(server_now).unwrap_or(Duration::ZERO))
}

/// `bytes FIRST-LAST/TOTAL` or `bytes FIRST-LAST/*` (section 14.4).
pub(super) fn parse_content_range(text: &str) -> Option<ContentRange> {
    let (range, total) = byte_range(text)?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(number(total)?) };
    let range = ContentRange {
        first: number(first)?,
        last: number(last)?,
        total,
    };
    let inside = range.total.is_none_or(|total| range.last < total);
    (range.first <= range.last && range.last < u64::MAX && inside).then_some(range)
}

/// `bytes */TOTAL` (section 14.4).
pub(super) fn parse_unsatisfied_range(text: &str) -> Option<u64> {
    number(byte_range(text)?.strip_prefix("*/")?)
}

fn byte_range(text: &str) -> Option<&str> {
    let (unit, range) = text.trim().split_once(' ')?;
    unit.eq_ignore_ascii_case("bytes").then_some(range.trim())
}

/// Digits only: no sign, no space.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod product;
#[cfg(test)]
mod tests;
