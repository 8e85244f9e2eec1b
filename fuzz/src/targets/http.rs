//! Targets over what servers say: no header leads to bytes being joined that are not proven to belong together, and no
//! framing to a body being taken for whole that is not.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use backhaul_backends::fuzzing::{
    Fields, Made, Sent, compare, content_range, date, decide, download, duplicates, instance_digest, redirect,
    repr_digest, shown_date, unsatisfied_range,
};
use backhaul_backends::{
    BodySource, Credential, Head, Header, Held, Limits, Method, Refused, Request, Sink, Start, Validators,
};

/// A secret for one host.
const SECRET: &str = "hush9";
const HOST: &str = "h.example";
/// Bytes between the answers of a script.
const SEPARATOR: u8 = 0xFF;
/// One more request than redirects are followed, and one more for the whole.
const ANSWERS_MAX: usize = 13;

/// Header fields of any text.
pub(crate) fn http_headers(bytes: &[u8]) {
    let Some(([status, number, flags], rest)) = bytes.split_first_chunk() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let mut lines = text.split('\n');
    let mut line = || lines.next().filter(|line| !line.is_empty());
    let fields = Fields {
        status: [200, 206, 416, 302, 503, 203, 304, 404][usize::from(status % 8)],
        content_length: (flags & 1 != 0).then_some(u64::from(*number)),
        content_range: line(),
        etag: line(),
        last_modified: line(),
        date: line(),
        retry_after: line(),
        location: line(),
        content_type: line(),
        accept_ranges: line(),
        repr_digest: None,
    };
    let of = |etag: Option<&str>, last_modified: Option<&str>, date: Option<&str>| Validators {
        etag: etag.map(str::to_owned),
        last_modified: last_modified.map(str::to_owned),
        date: date.map(str::to_owned),
        total_bytes: (flags & 2 != 0).then_some(u64::from(number & 15)),
        digests: Vec::new(),
    };
    let held = Held {
        offset_bytes: u64::from(flags >> 4),
        end_bytes: None,
        tail: Vec::new(),
        validators: of(
            line().or(fields.etag),
            line().or(fields.last_modified),
            line().or(fields.date),
        ),
        ..Held::default()
    };
    for text in [fields.content_range, fields.last_modified, fields.date]
        .into_iter()
        .flatten()
    {
        check_values(text);
    }
    check_sameness(&held.validators, &of(fields.etag, fields.last_modified, fields.date));
    let expected_bytes = (flags & 4 != 0).then_some(u64::from(number & 15));
    check_decision((flags & 8 != 0).then_some(&held), expected_bytes, &fields);
    if let Some(location) = fields.location {
        check_redirect(location);
    }
    if let Some(text) = line() {
        check_digests(text, held, &fields);
        check_mirrors(text);
    }
}

/// A field that tells digests, and what follows from them where bytes of the same or of another source are held.
fn check_digests(text: &str, held: Held, fields: &Fields<'_>) {
    for told in [repr_digest(text), instance_digest(text)] {
        assert!(
            told.len() <= text.len() / 44,
            "more digests are told than there is room for"
        );
        assert!(
            told.iter().all(|digest| digest.algorithm().is_strong()),
            "a weak digest is believed"
        );
    }
    let told = Fields {
        repr_digest: Some(text),
        ..fields.clone()
    };
    let foreign = Held {
        foreign: true,
        ..held.clone()
    };
    for mut held in [held, foreign] {
        for _ in 0..2 {
            check_decision(Some(&held), None, &told);
            held.validators.digests = repr_digest(text);
        }
    }
}

fn check_mirrors(text: &str) {
    let mirrors = duplicates(text);
    assert!(mirrors.len() <= 8, "{} mirrors are kept", mirrors.len());
    assert!(
        mirrors.iter().all(|mirror| text.contains(mirror.as_str())),
        "a mirror is named that nobody named"
    );
}

fn check_values(text: &str) {
    if let Some((first, last, total)) = content_range(text) {
        assert!(
            first <= last && total.is_none_or(|total| last < total),
            "{text:?} is taken for a range"
        );
        let total_text = total.map_or("*".to_owned(), |total| total.to_string());
        let again = content_range(&format!("bytes {first}-{last}/{total_text}"));
        assert_eq!(
            again,
            Some((first, last, total)),
            "a range that is written again is another one"
        );
    }
    if let Some(total) = unsatisfied_range(text) {
        assert_eq!(unsatisfied_range(&format!("bytes */{total}")), Some(total));
        assert_eq!(content_range(text), None, "{text:?} is a range and is none");
    }
    if let Some(time) = date(text) {
        assert_eq!(
            date(&shown_date(time)),
            Some(time),
            "a date that is written again is another one"
        );
    }
}

fn check_sameness(held: &Validators, new: &Validators) {
    let ((same, different), (_, different_back)) = (compare(held, new), compare(new, held));
    assert!(!(same && different), "two responses are the same and are not");
    assert_eq!(different, different_back, "two responses differ in one direction only");
    assert!(!compare(held, held).1, "a response differs from itself");
    let contradicts = |held: &Option<u64>, new: &Option<u64>| held.is_some() && new.is_some() && held != new;
    assert!(
        !(same && contradicts(&held.total_bytes, &new.total_bytes)),
        "two lengths are one"
    );
}

fn check_decision(held: Option<&Held>, expected_bytes: Option<u64>, fields: &Fields<'_>) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(800_000_000);
    let (asked_rest, made) = decide(held, expected_bytes, fields, now);
    match made {
        Made::Accepted {
            start: Start::Continue { offset_bytes },
            validators,
            length,
            then_more,
        } => {
            let held = held.expect("only what is held is continued");
            assert!(
                asked_rest && matches!(fields.status, 206 | 416),
                "bytes are joined that nobody asked for"
            );
            assert_eq!(offset_bytes, held.offset_bytes, "bytes are joined at another place");
            assert!(
                held.foreign || !compare(&held.validators, &validators).1,
                "bytes of two representations are joined"
            );
            let total = validators.total_bytes.expect("what is continued has a known end");
            let end = offset_bytes + length.expect("what is continued has a known length");
            assert!(
                end <= total && then_more == (end < total),
                "the rest ends at {end} of {total}"
            );
            assert!(
                expected_bytes.is_none_or(|expected| expected == total),
                "another length was expected"
            );
        }
        Made::Accepted {
            start,
            length,
            then_more,
            ..
        } => {
            assert!(
                matches!(fields.status, 200 | 203) && !then_more,
                "a part is taken for the whole"
            );
            assert_eq!(
                length,
                fields.content_length.or(expected_bytes),
                "another length was announced"
            );
            let is_first = !asked_rest && held.is_none_or(|held| held.offset_bytes == 0);
            assert!(
                is_first || start != Start::Beginning,
                "held bytes are given up in silence"
            );
        }
        Made::AskedRest => assert!(asked_rest && held.is_some(), "a rest is asked for of nothing"),
        Made::AskedWhole(_) => assert!(asked_rest, "the whole is asked for again and again"),
        Made::Redirected(location) => {
            assert!(fields.status / 100 == 3 && Some(location.as_str()) == fields.location);
        }
        Made::Failed {
            retry_after,
            is_transient,
        } => assert!(is_transient || retry_after.is_none()),
    }
}

fn check_redirect(location: &str) {
    let base = format!("https://user:{SECRET}@{HOST}/a/b?sig={SECRET}#c");
    let Some((next, place, stored)) = redirect(&base, location) else {
        return;
    };
    assert!(next.starts_with("https://"), "a redirect leads out of https");
    let authority = place
        .trim_start_matches("https://")
        .split('/')
        .next()
        .unwrap_or_default();
    assert!(
        !place.contains(['?', '#']) && !authority.contains('@'),
        "{place:?} shows more than a place"
    );
    let hidden = stored
        .strip_prefix(&place)
        .expect("what is stored begins with the place");
    assert!(
        hidden == if next.contains('?') { "?***" } else { "" },
        "{stored:?} is stored of {next:?}"
    );
    let again = redirect(&base, &next).expect("where a redirect leads can be gone to");
    assert_eq!(
        again,
        (next, place, stored),
        "a URL that is joined again is another one"
    );
}

/// Takes everything, and sees that it comes in order.
#[derive(Default)]
pub(crate) struct Taken {
    head: Option<Head>,
    pub(crate) bytes: Vec<u8>,
}

impl Sink for Taken {
    fn begin(&mut self, head: &Head) -> Result<(), Refused> {
        assert!(self.head.is_none(), "a second response is taken in one attempt");
        self.head = Some(head.clone());
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        assert!(self.head.is_some(), "bytes come before their head");
        assert!(!bytes.is_empty(), "nothing is written");
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

/// Whole conversations: heads, framing, redirects.
pub(crate) fn http_wire(bytes: &[u8]) {
    let Some(([flags, piece_bytes], script)) = bytes.split_first_chunk() else {
        return;
    };
    let answers: Vec<&[u8]> = script.split(|byte| *byte == SEPARATOR).take(ANSWERS_MAX).collect();
    let held = Held {
        offset_bytes: 5,
        end_bytes: None,
        tail: Vec::new(),
        validators: Validators {
            etag: Some("\"a\"".to_owned()),
            total_bytes: Some(10),
            ..Validators::default()
        },
        content_type: Some("application/octet-stream".to_owned()),
        ..Held::default()
    };
    let is_post = flags & 8 != 0;
    let request = Request {
        proxies: Arc::default(),
        url: format!("{}://{HOST}/a", if flags & 4 == 0 { "http" } else { "https" }),
        method: if is_post { Method::POST } else { Method::GET },
        body: is_post.then(|| Arc::new(vec![b'b'; usize::from(*piece_bytes)]) as Arc<dyn BodySource>),
        headers: vec![Header {
            name: "x-key".to_owned(),
            value: SECRET.to_owned(),
            secret: true,
        }],
        credential: Some(Credential {
            user: SECRET.to_owned(),
            password: String::new(),
        }),
        held: (flags & 1 != 0).then_some(held),
        expected_bytes: (flags & 2 != 0).then_some(10),
        expected_type: None,
        limits: Limits::default(),
        buffer_bytes: 4096,
    };
    let mut taken = Taken::default();
    let (result, sent) = download(&answers, usize::from(*piece_bytes) * 16, &request, &mut taken);
    check_requests(&sent);
    let mut script = script.iter();
    assert!(
        taken.bytes.iter().all(|byte| script.any(|other| other == byte)),
        "bytes are taken that nobody sent"
    );
    if result.is_ok() {
        check_whole(&taken, &request);
    }
}

fn check_requests(sent: &[Sent]) {
    assert!(sent.len() <= ANSWERS_MAX, "{} requests in one attempt", sent.len());
    let mut left = false;
    for request in sent {
        left |= request.host != HOST;
        let text = String::from_utf8_lossy(&request.bytes).to_ascii_lowercase();
        // As the name of a field: a server may well send us to a host with that word in its name.
        let has_credential = text.contains("\nauthorization:") || text.contains("\nproxy-authorization:");
        assert!(
            !left || !(text.contains(SECRET) || has_credential),
            "a secret went to {}",
            request.host
        );
    }
}

fn check_whole(taken: &Taken, request: &Request) {
    let head = taken.head.as_ref().expect("what ended well has begun");
    let offset = match head.start {
        Start::Continue { offset_bytes } => offset_bytes,
        Start::Beginning | Start::Restart(_) => 0,
    };
    let len = offset + taken.bytes.len() as u64;
    for whole in [head.validators.total_bytes, request.expected_bytes]
        .into_iter()
        .flatten()
    {
        assert_eq!(len, whole, "what is not whole is taken for whole");
    }
    assert!(
        request.method.is_get() || !matches!(head.start, Start::Continue { .. }),
        "an answer to a POST continues held bytes"
    );
    assert!(
        request.held.is_none() == (head.start == Start::Beginning),
        "what was held is given up in silence"
    );
}
