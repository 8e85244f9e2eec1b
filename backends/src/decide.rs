//! What every backend decides alike, from the request and from what the other side says of the resource now. Pure.

use crate::{Failure, FailureKind, Held, Request, Restart, Sameness, Start, Validators, WebErrorStatus};
use crate::{compare_held, media};

/// Longest place that an error names, in bytes: a URL can be the whole content.
const PLACE_BYTES_MAX: usize = 120;

/// Where the bytes of a new response belong, and whether they would continue held ones without proof, as
/// [`Held::digest_expected`] allows it ([`crate::Head::on_trust`]).
///
/// `now` is what the other side says of the resource as it is now, before any byte of it is taken; `can_continue` says
/// whether it can begin at [`Held::offset_bytes`]. A backend that hands the bytes on as this says never splices two
/// versions of a resource.
#[must_use]
pub fn start(request: &Request, now: &Validators, can_continue: bool) -> (Start, bool) {
    let is_gap = |held: &&Held| held.offset_bytes > 0 || held.end_bytes.is_some();
    let Some(held) = request.held.as_ref().filter(is_gap) else {
        return (Start::Beginning, false);
    };
    let restart = |why| (Start::Restart(why), false);
    if !request.method.is_get() {
        return restart(Restart::Method);
    }
    match compare_held(held, now) {
        Sameness::Different => restart(Restart::Changed),
        Sameness::Unproven if !held.digest_expected => restart(Restart::NoProof),
        _ if !can_continue => restart(Restart::RangeIgnored),
        _ if now.total_bytes.is_some_and(|total| held.offset_bytes > total) => restart(Restart::BeyondEnd),
        sameness => {
            let offset_bytes = held.offset_bytes;
            (Start::Continue { offset_bytes }, sameness == Sameness::Unproven)
        }
    }
}

/// Why a response cannot be what was asked for, by its length and its media type; to be asked before [`crate::Sink::begin`].
/// A web page in place of the content is what a network that wants a login sends: that passes, and nothing held is given
/// up for it.
#[must_use]
pub fn refusal(request: &Request, start: &Start, now: &Validators, content_type: Option<&str>) -> Option<Failure> {
    let is_whole = !matches!(start, Start::Continue { .. });
    let impostor = media::impostor(request.expected_type.as_deref(), request.held.as_ref(), content_type);
    let (status, passes, text) = if let Some(impostor) = impostor.filter(|_| is_whole) {
        let status = WebErrorStatus::UNEXPECTED_CONTENT_TYPE;
        (status, impostor.passes, impostor.text)
    } else {
        let (expected, total) = request.expected_bytes.zip(now.total_bytes)?;
        let text = (expected != total).then(|| format!("the resource has {total} bytes, {expected} are expected"))?;
        let passes = content_type.is_some_and(media::is_page);
        (WebErrorStatus::LENGTH_MISMATCH, passes, text)
    };
    let kind = if passes {
        FailureKind::Transient { retry_after: None }
    } else {
        FailureKind::Permanent
    };
    let message = format!("{}: {text}", place(&request.url));
    Some(Failure {
        kind,
        status,
        code: None,
        message,
    })
}

/// A URL as an error may name it: without query and fragment, which may hold secrets, and cut where it is long.
#[must_use]
pub fn place(url: &str) -> String {
    let shown = url.split(['?', '#']).next().unwrap_or_default();
    if shown.len() <= PLACE_BYTES_MAX {
        return shown.to_owned();
    }
    let end = (0..=PLACE_BYTES_MAX).rev().find(|end| shown.is_char_boundary(*end));
    format!("{}…", &shown[..end.unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Limits, Method};

    fn request(offset_bytes: u64, etag: &str) -> Request {
        let held = Held {
            offset_bytes,
            validators: tagged(etag),
            ..Held::default()
        };
        Request {
            url: "x://host/file?token=hush".into(),
            method: Method::GET,
            body: None,
            headers: Vec::new(),
            credential: None,
            proxies: Arc::default(),
            held: Some(held),
            expected_bytes: None,
            expected_type: None,
            limits: Limits::default(),
            buffer_bytes: 4096,
        }
    }

    fn tagged(etag: &str) -> Validators {
        Validators {
            etag: (!etag.is_empty()).then(|| format!("\"{etag}\"")),
            total_bytes: Some(100),
            ..Validators::default()
        }
    }

    #[test]
    fn bytes_continue_held_ones_only_under_proof_or_under_a_digest() {
        let go_on = Start::Continue { offset_bytes: 40 };
        for (held, now, can_continue, expected) in [
            ("a", "a", true, go_on.clone()),
            ("a", "b", true, Start::Restart(Restart::Changed)),
            ("a", "", true, Start::Restart(Restart::NoProof)),
            ("a", "a", false, Start::Restart(Restart::RangeIgnored)),
        ] {
            assert_eq!(start(&request(40, held), &tagged(now), can_continue), (expected, false));
        }
        let mut trusting = request(40, "a");
        if let Some(held) = &mut trusting.held {
            held.digest_expected = true;
        }
        assert_eq!(start(&trusting, &tagged(""), true), (go_on, true));
        assert_eq!(start(&request(0, "a"), &tagged("a"), true), (Start::Beginning, false));
        let beyond = Start::Restart(Restart::BeyondEnd);
        assert_eq!(start(&request(101, "a"), &tagged("a"), true), (beyond, false));
        let mut posted = request(40, "a");
        posted.method = "POST".parse().unwrap_or_default();
        let again = Start::Restart(Restart::Method);
        assert_eq!(start(&posted, &tagged("a"), true), (again, false));
    }

    #[test]
    fn another_length_or_type_than_expected_is_refused_and_a_page_may_pass() {
        let mut asked = request(40, "a");
        let whole = Start::Restart(Restart::Changed);
        assert_eq!(refusal(&asked, &whole, &tagged("a"), None), None);
        asked.expected_bytes = Some(99);
        let refused = refusal(&asked, &whole, &tagged("a"), None);
        let is_refused = |status, permanent: bool, failure: Option<Failure>| {
            failure.is_some_and(|failure| {
                failure.status == status
                    && (failure.kind == FailureKind::Permanent) == permanent
                    && !failure.message.contains("hush")
            })
        };
        assert!(is_refused(WebErrorStatus::LENGTH_MISMATCH, true, refused));
        asked.expected_type = Some("image/*".into());
        for (sent, permanent) in [("text/plain", true), ("text/html", false)] {
            let refused = refusal(&asked, &whole, &tagged("a"), Some(sent));
            assert!(is_refused(WebErrorStatus::UNEXPECTED_CONTENT_TYPE, permanent, refused));
        }
    }

    #[test]
    fn a_place_holds_no_query_and_is_never_long() {
        assert_eq!(place("x://host/file?token=hush#top"), "x://host/file");
        let long = place(&format!("data:,{}", "ä".repeat(4000)));
        assert!(
            long.len() <= PLACE_BYTES_MAX + '…'.len_utf8() && long.ends_with('…'),
            "{long}"
        );
    }
}
