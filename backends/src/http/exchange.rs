//! One request and the head of its response, through ureq.

use std::io::{self, Read};

use ureq::http::{self, HeaderMap, HeaderValue, Request, Response, Uri, Version, header};
use ureq::{Agent, Body, SendBody};

use super::attempt::{Attempt, Fault, Phase};
use super::fields::Fields;
use super::response::{Ask, Framing, Reply};
use super::target::Target;
use super::{digests, links};
use crate::outgoing::Outgoing;
use crate::problem::Problem;
use crate::{BodySource, Digest, Method, WebErrorStatus};

/// Body of a response that is not wanted: up to here it is read, so that the connection can be used again; beyond, a
/// new connection is cheaper.
const DRAIN_BYTES_MAX: u64 = 16 * 1024;

/// What is asked of a server, and what goes along.
#[derive(Clone)]
pub(super) struct Errand<'a> {
    pub(super) method: Method,
    pub(super) body: Option<&'a dyn BodySource>,
}

/// Sends a request and gives what came. A connection from the pool that the server had closed meanwhile is replaced once;
/// where it matters how often a request arrives, none is taken from there (RFC 9110, section 9.2.2).
pub(super) fn make(
    agent: &Agent,
    attempt: &Attempt,
    errand: &Errand<'_>,
    target: &Target,
    fields: &Fields,
    ask: &Ask,
) -> Result<(Box<Reply>, Body), Problem> {
    let fresh_only = !errand.method.is_idempotent();
    let mut sent = send(agent, attempt, errand, target, fields.head(ask)?, fresh_only);
    if sent.is_err() && attempt.reused_connection_was_dead() {
        sent = send(agent, attempt, errand, target, fields.head(ask)?, true);
    }
    let response = match sent {
        Ok(response) => response,
        Err(error) => return Err(problem(&error, attempt)),
    };
    let (reply, is_certain) = read_head(&response)?;
    check_taken(attempt, errand, reply.status)?;
    if is_certain {
        attempt.trust_framing(reply.framing == Framing::Chunked);
    }
    attempt.enter_phase(Phase::Body);
    Ok((reply, response.into_body()))
}

fn send(
    agent: &Agent,
    attempt: &Attempt,
    errand: &Errand<'_>,
    target: &Target,
    head: HeaderMap,
    fresh_only: bool,
) -> Result<Response<Body>, ureq::Error> {
    attempt.begin_exchange(fresh_only);
    let fields_bytes =
        |head: &HeaderMap| -> usize { head.iter().map(|(name, value)| name.as_str().len() + value.len()).sum() };
    attempt.expect_request(match errand.body {
        Some(_) => usize::MAX,
        // The host is in two places.
        None => 2 * target.as_str().len() + fields_bytes(&head),
    });
    // The length is known, so that the body is never sent in chunks.
    let length = match errand.body {
        Some(body) => Some(body.len_bytes()),
        None => errand.method.expects_body().then_some(0),
    };
    let method = http::Method::from_bytes(errand.method.as_str().as_bytes()).map_err(http::Error::from)?;
    // Without its builder, which moves the whole of it at each step.
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = Uri::try_from(target.as_str().to_owned()).map_err(http::Error::from)?;
    if !head.is_empty() {
        *request.headers_mut() = head;
    }
    if let Some(length) = length {
        request
            .headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let Some(body) = errand.body else {
        return agent.run(request);
    };
    // Before a connection is made for it.
    let outgoing = Outgoing::open(body).map_err(|error| attempt.fail(Fault::Body(error)))?;
    if length == Some(0) {
        return agent.run(request);
    }
    let mut sending = Sending {
        outgoing,
        has_begun: false,
        attempt,
    };
    agent.run(request.map(|()| SendBody::from_reader(&mut sending)))
}

/// What answers a request that did not go out whole is no success, whatever it says; a redirect or an error counts as it is.
fn check_taken(attempt: &Attempt, errand: &Errand<'_>, status: u16) -> Result<(), Problem> {
    let is_success = (200..300).contains(&status);
    let Some((taken, body)) = attempt.refused_after().zip(errand.body).filter(|_| is_success) else {
        return Ok(());
    };
    let text = format!(
        "the server answered {status} and took no more of the request body after {taken} of its {} bytes",
        body.len_bytes()
    );
    Err(Problem::transient(WebErrorStatus::DISCONNECTED, text))
}

/// A request body as ureq takes it from us.
struct Sending<'a> {
    outgoing: Outgoing<'a>,
    has_begun: bool,
    attempt: &'a Attempt,
}

impl Read for Sending<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.attempt.interrupt.is_raised() {
            return Err(self.attempt.fail(Fault::Interrupted));
        }
        if self.has_begun && !self.attempt.sends_body() {
            // The server wants no more of it: ureq must have as much as was announced, and it goes nowhere.
            let left = usize::try_from(self.outgoing.left_bytes()).unwrap_or(usize::MAX);
            let amount = left.min(buffer.len());
            buffer[..amount].fill(0);
            self.outgoing.skip(amount);
            return Ok(amount);
        }
        self.has_begun = true;
        self.attempt.begin_body();
        let read = self.outgoing.read(buffer);
        read.map_err(|error| self.attempt.fail(Fault::Body(error)))
    }
}

/// Reads what is left of an unwanted body, if that is little.
pub(super) fn drain(reply: &Reply, body: Body) {
    if let Framing::Length(0..=DRAIN_BYTES_MAX) = reply.framing {
        let mut rest = body.into_reader().take(DRAIN_BYTES_MAX + 1);
        // If it fails, the connection is closed instead of used again.
        let _ = io::copy(&mut rest, &mut io::sink());
    }
}

fn problem(error: &ureq::Error, attempt: &Attempt) -> Problem {
    if let Some(fault) = attempt.take_fault() {
        return fault.into();
    }
    if attempt.interrupt.is_raised() {
        return Problem::interrupted();
    }
    if attempt.has_ended() {
        return Problem::transient(
            WebErrorStatus::DISCONNECTED,
            "the server closed the connection before its response",
        );
    }
    let text = format!("the response cannot be understood: {error}");
    match error {
        ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) => {
            Problem::permanent(WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE, text)
        }
        ureq::Error::Http(_) | ureq::Error::BadUri(_) => Problem::permanent(
            WebErrorStatus::UNEXPECTED_CLIENT_ERROR,
            format!("the request cannot be made: {error}"),
        ),
        _ => Problem::transient(WebErrorStatus::UNKNOWN, format!("the exchange failed: {error}")),
    }
}

/// What the head says, and whether it leaves no doubt about where the response ends.
fn read_head(response: &Response<Body>) -> Result<(Box<Reply>, bool), Problem> {
    let status = response.status().as_u16();
    let headers = response.headers();
    let mut told = Told::default();
    for (name, value) in headers {
        told.note(name.as_str(), value);
    }
    let foreign_coding = told.has_coding.then(|| foreign_coding(headers)).flatten();
    let digests = if told.has_digest && foreign_coding.is_none() {
        digests_of(status, headers)
    } else {
        Vec::new()
    };
    let mirrors = if told.has_link {
        let links = headers.get_all(header::LINK).iter();
        links::duplicates(links.filter_map(|value| value.to_str().ok()))
    } else {
        Vec::new()
    };
    let framing = framing(response, &told)?;
    let is_certain = is_certain(status, headers, &told);
    // Boxed, because it is handed on several times.
    let reply = Box::new(Reply {
        status,
        framing,
        foreign_coding,
        content_range: told.content_range.text(),
        content_type: told.content_type.text(),
        etag: told.etag.text(),
        last_modified: told.last_modified.text(),
        date: told.date.text(),
        accept_ranges: told.accept_ranges.text(),
        location: told.location.text(),
        retry_after: told.retry_after.text(),
        digests,
        mirrors,
    });
    Ok((reply, is_certain))
}

/// A field that says one thing. One that is there twice with two values says nothing, and neither does one that is not
/// text.
#[derive(Clone, Copy, Default)]
enum Single<'a> {
    #[default]
    Absent,
    Value(&'a HeaderValue),
    Contradicted,
}

impl<'a> Single<'a> {
    fn note(&mut self, value: &'a HeaderValue) {
        *self = match self {
            Self::Absent => Self::Value(value),
            Self::Value(first) if *first == value => return,
            _ => Self::Contradicted,
        };
    }

    fn as_str(self) -> Option<&'a str> {
        match self {
            Self::Value(value) => value.to_str().ok(),
            Self::Absent | Self::Contradicted => None,
        }
    }

    fn text(self) -> Option<String> {
        self.as_str().map(str::to_owned)
    }
}

/// What a head says, found by going over it once: to look a field up costs more than all of this.
#[derive(Default)]
struct Told<'a> {
    accept_ranges: Single<'a>,
    content_length: Single<'a>,
    content_range: Single<'a>,
    content_type: Single<'a>,
    date: Single<'a>,
    etag: Single<'a>,
    last_modified: Single<'a>,
    location: Single<'a>,
    retry_after: Single<'a>,
    has_coding: bool,
    has_digest: bool,
    has_link: bool,
}

impl<'a> Told<'a> {
    fn note(&mut self, name: &str, value: &'a HeaderValue) {
        let field = match name {
            "accept-ranges" => &mut self.accept_ranges,
            "content-length" => &mut self.content_length,
            "content-range" => &mut self.content_range,
            "content-type" => &mut self.content_type,
            "date" => &mut self.date,
            "etag" => &mut self.etag,
            "last-modified" => &mut self.last_modified,
            "location" => &mut self.location,
            "retry-after" => &mut self.retry_after,
            _ => {
                self.has_coding |= matches!(name, "content-encoding" | "transfer-encoding");
                self.has_digest |= matches!(name, "content-digest" | "digest" | "repr-digest");
                self.has_link |= name == "link";
                return;
            }
        };
        field.note(value);
    }
}

/// Digests of the whole representation. Only these two statuses speak of the resource as the origin has it: what a proxy
/// changed (203) is another one. The content of a part is not the representation, so that Content-Digest counts only
/// with the whole; bytes of a part reach the sink before its digest could be judged, and are proven otherwise. Nothing is
/// asked of a content that came in a coding.
fn digests_of(status: u16, headers: &HeaderMap) -> Vec<Digest> {
    if !matches!(status, 200 | 206) {
        return Vec::new();
    }
    // Several lines of one field are one list (RFC 9110, section 5.3).
    let list = |name: &str| {
        let values = headers.get_all(name).iter();
        values
            .map(|value| value.to_str().ok())
            .collect::<Option<Vec<_>>>()
            .unwrap_or_default()
            .join(", ")
    };
    let mut told = vec![
        digests::parse_dictionary(&list("repr-digest")),
        digests::parse_instance_digests(&list("digest")),
    ];
    if status == 200 {
        told.push(digests::parse_dictionary(&list("content-digest")));
    }
    digests::together(&told)
}

/// As ureq frames the body, which follows RFC 9112, section 6.3.
fn framing(response: &Response<Body>, told: &Told<'_>) -> Result<Framing, Problem> {
    let coded = told.has_coding && response.headers().contains_key(header::TRANSFER_ENCODING);
    if coded && response.version() == Version::HTTP_10 {
        // RFC 9112, section 6.1: an HTTP/1.0 message with a transfer coding has faulty framing.
        let status = WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE;
        return Err(Problem::permanent(
            status,
            "the server used a transfer coding in HTTP/1.0",
        ));
    }
    if coded {
        return Ok(Framing::Chunked);
    }
    // ureq knows no length of a body that is empty. One that it accepted is a number.
    let header = || told.content_length.as_str()?.trim().parse().ok();
    let length = response.body().content_length().or_else(header);
    Ok(length.map_or(Framing::Close, Framing::Length))
}

/// Whether nobody can take another place for the end of this response. A length beside a transfer coding is a mark of an
/// attempt to split responses, a coding other than chunked hides the end, and 204 has no content that could be announced:
/// what such a server goes on to say may belong to what it said before.
///
/// Source: RFC 9112, sections 6.1 and 6.3; RFC 9110, section 8.6.
fn is_certain(status: u16, headers: &HeaderMap, told: &Told<'_>) -> bool {
    let has_no_length = matches!(told.content_length, Single::Absent);
    if told.has_coding {
        let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
        if let Some(coding) = codings.next() {
            let is_alone = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
            return is_alone && has_no_length && status != 204;
        }
    }
    status != 204 || has_no_length || told.content_length.as_str() == Some("0")
}

fn foreign_coding(headers: &HeaderMap) -> Option<String> {
    let foreign = |name, own: &str| {
        let values = headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let all = values.collect::<Vec<_>>().join(",");
        all.split(',')
            .map(str::trim)
            .any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(own))
            .then_some(all)
    };
    foreign(header::CONTENT_ENCODING, "identity").or_else(|| foreign(header::TRANSFER_ENCODING, "chunked"))
}
