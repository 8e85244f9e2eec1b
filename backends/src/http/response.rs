//! The response state machine: what is held and what was asked, times what came, gives what to do. Pure; every rule
//! names its section of RFC 9110.
//!
//! | asked | came | decision |
//! |---|---|---|
//! | whole | 200, 203 (15.3.1, 15.3.4) | accept from 0 |
//! | whole | 206 (15.3.7) | fail: nobody asked for a part |
//! | rest | 206 at the asked offset (14.4), proven the same (8.8) | accept, continue |
//! | rest | the same, without proof, and a digest of the whole is expected | accept, continue on trust |
//! | rest | 206 whose tag differs, strong time and length the same | ask once more: is the tag another each time? |
//! | rest | 206 proven another | ask for the whole: changed |
//! | rest | 206 without proof, at another offset, or multipart (14.6) | ask for the whole: no proof |
//! | rest, `If-Range` | 200, 203 that may still be the same (13.1.5) | ask for the rest without `If-Range`, compare |
//! | rest | 200, 203 otherwise (14.2) | accept from 0: changed, or range ignored |
//! | rest | 416 with `bytes */N` (15.5.17), all N held and announced as the whole | accept as complete |
//! | rest | 416 otherwise | ask for the whole: beyond the end, or changed |
//! | any | 301, 302, 303, 307, 308 with Location (15.4) | redirect; after the first three of them with GET and without a body |
//! | any | content-encoding (8.4) or transfer-coding (RFC 9112, 6.1) nobody asked for | fail |
//! | any | 408, 421, 425, 429, 500, 502, 503, 504, 511, unknown 5xx (15) | fail, a later attempt may succeed, after Retry-After (10.2.3) |
//! | any | other | fail for good |
//!
//! Where bytes are held before the asked offset, the last of them are asked for again and compared with the new ones: what
//! is accepted as a continuation and differs there is asked for whole, as changed.
//!
//! Before that, a 200 or 203 whose media type shows that it is not the content ends the attempt (`not_the_content`).
//!
//! The rest is asked for at most [`RESTS_MAX`] times in an attempt, and the whole once: it is asked for without Range, and
//! no answer to that asks again.

use std::time::{Duration, SystemTime};

use crate::media;
use crate::problem::Problem;
use crate::proof::{self, Sameness};
use crate::{Digest, Held, Restart, Start, Validators, WebErrorStatus};

/// How often the rest is asked for in one attempt: with `If-Range`, without, and once more to tell tags that are
/// another each time from a new one.
pub(super) const RESTS_MAX: u8 = 3;

/// What is asked of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// The whole resource, and why held bytes are given up for it, if any are held.
    Whole { given_up: Option<Restart> },
    /// A part of it.
    Rest(Rest),
}

/// A part that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rest {
    /// First byte, at most as far before the first missing one as the tail is long.
    pub(super) first: u64,
    /// Last byte; the last of the resource where `None`.
    pub(super) last: Option<u64>,
    /// Condition, where the validators allow one (section 13.1.5).
    pub(super) if_range: Option<String>,
    /// An entity tag other than the held one that came with the same time and length before.
    pub(super) rival: Option<String>,
    /// How often the rest was asked for, this time included.
    pub(super) turn: u8,
}

/// What an answer is measured against, the same for all of an attempt.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Terms<'a> {
    pub(super) held: Option<&'a Held>,
    pub(super) expected_bytes: Option<u64>,
    /// Redirects have led to another server than the one that gave the held bytes, which are foreign then.
    pub(super) is_elsewhere: bool,
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
    /// Drop the body and ask for the rest in another way.
    AskRest(Rest),
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
    pub(super) resumable: Option<bool>,
    /// Continued without proof; a digest will tell.
    pub(super) on_trust: bool,
    /// Bytes at the beginning of the body that are held already, to be compared with the end of those.
    pub(super) overlap_bytes: usize,
    pub(super) body: Body,
}

/// What must come in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Nothing: what is held is complete already.
    Nothing,
    /// This many bytes after the overlap, or any number where unknown; with `then_more`, they are not yet all that is due.
    Bytes { length: Option<u64>, then_more: bool },
}

/// A satisfied Content-Range (section 14.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) total: Option<u64>,
}

/// What to ask for. Without a validator that could prove the answer, or a digest that will judge it, a part is not worth
/// asking for.
pub(super) fn ask(terms: Terms<'_>) -> Ask {
    let Some(held) = terms.held.filter(|held| is_gap(held)) else {
        return Ask::Whole { given_up: None };
    };
    let is_foreign = held.foreign;
    let if_range = match (proof::strong_etag(&held.validators), &held.validators) {
        // The condition of another server, or one that is not needed, would only bring the whole.
        _ if proven_by_digest(held) => None,
        (Some(tag), _) => Some(tag.to_owned()),
        // A date is allowed in If-Range only where no entity tag is known (section 13.1.5); beside a weak tag the range is
        // asked for plainly and the answer compared. The total is part of the proof by time.
        (
            None,
            Validators {
                etag: None,
                total_bytes: Some(_),
                ..
            },
        ) if !is_foreign => proof::strong_last_modified(&held.validators).map(str::to_owned),
        (None, _) => None,
    };
    let by_validators = if is_foreign {
        if_range.is_some()
    } else {
        proof::is_provable(&held.validators)
    };
    // The answer may tell the same digest.
    let by_digest = held.digest_expected || !held.validators.digests.is_empty();
    if !(by_validators || by_digest) {
        return Ask::Whole {
            given_up: Some(Restart::NoProof),
        };
    }
    Ask::Rest(Rest {
        first: held.offset_bytes.saturating_sub(held.tail.len() as u64),
        last: held.end_bytes.map(|end| end.saturating_sub(1)),
        if_range,
        rival: None,
        turn: 1,
    })
}

/// What to ask for with another method than GET: section 14.2 defines Range for that one alone.
pub(super) fn ask_without_range(terms: Terms<'_>) -> Ask {
    Ask::Whole {
        given_up: terms.held.filter(|held| is_gap(held)).map(|_| Restart::Method),
    }
}

/// Something is held, or nothing but one gap is missing.
fn is_gap(held: &Held) -> bool {
    held.offset_bytes > 0 || held.end_bytes.is_some()
}

/// Bytes of another source that only a digest of the whole can prove.
fn proven_by_digest(held: &Held) -> bool {
    held.foreign && (held.digest_expected || !held.validators.digests.is_empty())
}

/// What to do with a response.
pub(super) fn decide(ask: &Ask, terms: Terms<'_>, reply: &Reply, now: SystemTime) -> Decision {
    match (reply.status, ask) {
        (200 | 203 | 206, _) if reply.foreign_coding.is_some() => Decision::Fail(foreign_coding(reply)),
        (200 | 203, Ask::Whole { given_up }) => {
            let start = given_up.filter(|_| terms.held.is_some());
            whole(start.map_or(Start::Beginning, Start::Restart), terms, reply)
        }
        (200 | 203, Ask::Rest(rest)) => whole_for_rest(rest, terms, reply),
        (206, Ask::Rest(rest)) => part(rest, terms, reply),
        (206, Ask::Whole { .. }) => invalid(reply, "a part (206) although the whole was asked for"),
        (416, Ask::Rest(rest)) => unsatisfied(rest, terms, reply),
        (301 | 302 | 303 | 307 | 308, _) => match &reply.location {
            Some(location) if !location.trim().is_empty() => Decision::Redirect(location.clone()),
            _ => Decision::Fail(Problem::no_location(reply.status)),
        },
        (100..=299 | 304, _) => invalid(reply, &format!("{} where content was asked for", reply.status)),
        _ => Decision::Fail(Problem::http_status(reply.status, retry_after(reply, now))),
    }
}

/// A whole answer whose media type shows that it is not the content; held bytes stay. A part needs no such look: it comes
/// under proof.
pub(super) fn not_the_content(held: Option<&Held>, expected_type: Option<&str>, reply: &Reply) -> Option<Problem> {
    if !matches!(reply.status, 200 | 203) {
        return None;
    }
    let impostor = media::impostor(expected_type, held, reply.content_type.as_deref())?;
    let make = if impostor.passes {
        Problem::transient
    } else {
        Problem::permanent
    };
    Some(make(WebErrorStatus::UNEXPECTED_CONTENT_TYPE, impostor.text))
}

/// What a response says of the bytes that are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It continues them.
    Proven,
    /// Nothing proves it, and a digest will tell.
    OnTrust,
    /// Only its entity tag speaks against it, and that may be another each time.
    Ask,
    Different,
    Unproven,
}

/// Weighs the validators of a response. An entity tag is no witness where every answer has another one; that is known once
/// two answers in a row had tags that differ from the held one and from each other.
fn weigh(held: &Held, new: &Validators, rest: &Rest) -> Verdict {
    let (old, has_tail) = (&held.validators, !held.tail.is_empty());
    let same_length = old.total_bytes.zip(new.total_bytes).is_none_or(|(old, new)| old == new);
    let only_tags_differ = !held.foreign && proof::only_tags_differ(old, new);
    match proof::compare_held(held, new) {
        Sameness::Same => Verdict::Proven,
        Sameness::Different if only_tags_differ && rest.rival.is_none() => Verdict::Ask,
        Sameness::Different if only_tags_differ && rest.rival != new.etag => Verdict::Proven,
        Sameness::Unproven if held.digest_expected => Verdict::OnTrust,
        // Against a tag, the comparison of the tail must speak for it; else it would be known only after all came.
        Sameness::Different if held.digest_expected && same_length && has_tail => Verdict::OnTrust,
        Sameness::Different => Verdict::Different,
        Sameness::Unproven => Verdict::Unproven,
    }
}

/// Sections 15.3.1 and 15.3.4: the whole resource.
fn whole(start: Start, terms: Terms<'_>, reply: &Reply) -> Decision {
    let announced = announced(reply);
    let validators = validators(reply, announced);
    if let Some(problem) = wrong_total(announced, terms.expected_bytes, reply) {
        return Decision::Fail(problem);
    }
    Decision::Accept(Accepted {
        resumable: resumable(&start, reply),
        start,
        validators,
        on_trust: false,
        overlap_bytes: 0,
        body: Body::Bytes {
            length: announced.or(terms.expected_bytes),
            then_more: false,
        },
    })
}

/// The whole in answer to a range: the condition failed, or the server ignored the range, or it ignores ranges under a
/// condition. In the last case the rest can be had without one, so nothing is given up before that was tried.
fn whole_for_rest(rest: &Rest, terms: Terms<'_>, reply: &Reply) -> Decision {
    let Some(held) = terms.held else {
        return whole(Start::Beginning, terms, reply);
    };
    let new = validators(reply, announced(reply));
    let verdict = weigh(held, &new, rest);
    let says_something = new.etag.is_some() || new.last_modified.is_some() || held.digest_expected;
    let may_be_same = match verdict {
        Verdict::Proven | Verdict::OnTrust | Verdict::Ask => true,
        Verdict::Unproven => says_something,
        Verdict::Different => false,
    };
    if may_be_same && rest.if_range.is_some() && !refuses_ranges(reply) && rest.turn < RESTS_MAX {
        return Decision::AskRest(again(rest, verdict, &new));
    }
    let restart = match proof::compare_held(held, &new) {
        Sameness::Different => Restart::Changed,
        Sameness::Same | Sameness::Unproven => Restart::RangeIgnored,
    };
    whole(Start::Restart(restart), terms, reply)
}

/// The rest once more, without condition.
fn again(rest: &Rest, verdict: Verdict, new: &Validators) -> Rest {
    let rival = if verdict == Verdict::Ask {
        new.etag.clone()
    } else {
        rest.rival.clone()
    };
    Rest {
        if_range: None,
        rival,
        turn: rest.turn + 1,
        ..rest.clone()
    }
}

/// Section 15.3.7: a part is taken only at the asked offset and under proof.
fn part(rest: &Rest, terms: Terms<'_>, reply: &Reply) -> Decision {
    let range = reply.content_range.as_deref().and_then(parse_content_range);
    let fits = |range: &ContentRange| range.first == rest.first && rest.last.is_none_or(|last| range.last <= last);
    let (Some(range), Some(held)) = (range.filter(fits), terms.held) else {
        return Decision::AskWhole(Restart::NoProof);
    };
    let new = validators(reply, range.total);
    let on_trust = match weigh(held, &new, rest) {
        Verdict::Ask if rest.turn < RESTS_MAX => return Decision::AskRest(again(rest, Verdict::Ask, &new)),
        Verdict::Different | Verdict::Ask => return Decision::AskWhole(Restart::Changed),
        Verdict::Unproven => return Decision::AskWhole(Restart::NoProof),
        Verdict::OnTrust => true,
        // By the digest, which nobody but this server would fail.
        Verdict::Proven => terms.is_elsewhere && held.digest_expected,
    };
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
    // Too short a part to compare with what is held.
    let Some(missing) = (range.last + 1).checked_sub(held.offset_bytes) else {
        return Decision::AskWhole(Restart::NoProof);
    };
    if let Framing::Length(announced) = reply.framing
        && announced != length
    {
        return Decision::Fail(length_mismatch(&format!(
            "Content-Length {announced} contradicts Content-Range of {length} bytes"
        )));
    }
    if let Some(problem) = wrong_total(Some(total), terms.expected_bytes, reply) {
        return Decision::Fail(problem);
    }
    Decision::Accept(Accepted {
        start: Start::Continue {
            offset_bytes: held.offset_bytes,
        },
        validators,
        resumable: Some(true),
        on_trust,
        overlap_bytes: usize::try_from(held.offset_bytes - range.first).unwrap_or(usize::MAX),
        body: Body::Bytes {
            length: Some(missing),
            then_more: range.last + 1 < held.end_bytes.unwrap_or(total).min(total),
        },
    })
}

/// Section 15.5.17: a server that has nothing from the offset on may mean that all is held already. That stands only
/// where the response that the held bytes came from announced the same length: then they are one whole representation.
/// Where held bytes were asked for again, they should have come.
fn unsatisfied(rest: &Rest, terms: Terms<'_>, reply: &Reply) -> Decision {
    let current = reply.content_range.as_deref().and_then(parse_unsatisfied_range);
    let Some(held) = terms.held else {
        return Decision::AskWhole(Restart::BeyondEnd);
    };
    let offset_bytes = held.offset_bytes;
    let sameness = proof::compare_held(held, &validators(reply, current));
    match (current, held.validators.total_bytes, sameness) {
        (_, _, Sameness::Different) => Decision::AskWhole(Restart::Changed),
        (Some(current), announced, sameness)
            if current == offset_bytes
                && rest.first == offset_bytes
                && (announced == Some(current) || sameness == Sameness::Same) =>
        {
            match wrong_total(current.into(), terms.expected_bytes, reply) {
                Some(problem) => Decision::Fail(problem),
                None => Decision::Accept(Accepted {
                    start: Start::Continue { offset_bytes },
                    validators: Validators {
                        total_bytes: Some(current),
                        ..held.validators.clone()
                    },
                    resumable: Some(true),
                    on_trust: false,
                    overlap_bytes: 0,
                    body: Body::Nothing,
                }),
            }
        }
        _ => Decision::AskWhole(Restart::BeyondEnd),
    }
}

fn announced(reply: &Reply) -> Option<u64> {
    if let Framing::Length(length) = reply.framing {
        Some(length)
    } else {
        None
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
    crate::sort_few_by_key(&mut new, |digest| std::cmp::Reverse(digest.algorithm()));
    new
}

/// A page where something of another size is expected is what captive portals send, and passes.
fn wrong_total(total: Option<u64>, expected: Option<u64>, reply: &Reply) -> Option<Problem> {
    let (total, expected) = (total?, expected?);
    if total == expected {
        return None;
    }
    let problem = length_mismatch(&format!("the server announces {total} bytes, {expected} are expected"));
    let page = reply.content_type.as_deref().is_some_and(media::is_page);
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

/// Section 14.3: a server may serve ranges and not say so.
fn resumable(start: &Start, reply: &Reply) -> Option<bool> {
    let ignores_them = *start == Start::Restart(Restart::RangeIgnored);
    match (says_ranges(reply), refuses_ranges(reply) || ignores_them) {
        (true, _) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    }
}

fn says_ranges(reply: &Reply) -> bool {
    let units = reply.accept_ranges.as_deref().unwrap_or_default();
    units.split(',').any(|unit| unit.trim().eq_ignore_ascii_case("bytes"))
}

/// Section 14.3: the server asks not to be asked for ranges.
fn refuses_ranges(reply: &Reply) -> bool {
    let units = reply.accept_ranges.as_deref().unwrap_or_default();
    units.trim().eq_ignore_ascii_case("none")
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
mod never_splice;
