//! A target over what servers say on connections that they keep: whatever it is, the bytes of one exchange are no part of the
//! answer to another request, and who said more or less than one clear response to each request is asked no other.

use std::sync::Arc;

use backhaul_backends::fuzzing::reuse::{Servers, Turn};
use backhaul_backends::{BodySource, Limits, Method, Request};

use super::http::Taken;

/// Bytes between the answers of a script.
const SEPARATOR: u8 = 0xFF;
/// Enough for each download, and for some to be sent on or asked again.
const ANSWERS_MAX: usize = 10;
/// Connections that wait: fewer than there can be.
const IDLE_MAX: usize = 2;

/// Several downloads, one after the other, from servers that keep their connections.
pub(crate) fn http_reuse(bytes: &[u8]) {
    let Some(([flags, piece_bytes], script)) = bytes.split_first_chunk() else {
        return;
    };
    let answers: Vec<&[u8]> = script.split(|byte| *byte == SEPARATOR).take(ANSWERS_MAX).collect();
    let servers = Servers::new(&answers, usize::from(*piece_bytes) * 4, IDLE_MAX);
    for number in 0..(flags & 3) + 2 {
        let is_other = number % 2 == 1;
        let host = if is_other && flags & 4 != 0 {
            "i.example"
        } else {
            "h.example"
        };
        let is_post = is_other && flags & 8 != 0;
        let request = Request {
            proxies: Arc::default(),
            url: format!("http://{host}/{number}"),
            method: if is_post { Method::POST } else { Method::GET },
            body: is_post.then(|| Arc::new(vec![b'b'; usize::from(*piece_bytes)]) as Arc<dyn BodySource>),
            headers: Vec::new(),
            credential: None,
            held: None,
            expected_bytes: None,
            expected_type: None,
            limits: Limits::default(),
            buffer_bytes: 4096,
        };
        let mut taken = Taken::default();
        let (result, turns) = servers.download(&request, &mut taken);
        turns.iter().for_each(check_turn);
        check_taken(&taken, result.is_ok(), &turns);
        assert!(
            !is_post || turns.first().is_none_or(|turn| turn.earlier == 0),
            "a request that must not arrive twice goes over a connection that may be dead"
        );
        let died = turns
            .last()
            .is_some_and(|turn| turn.earlier > 0 && turn.answer.is_empty());
        assert!(
            result.is_ok() || !died,
            "a connection that died while it waited is a failure"
        );
        assert!(servers.idle() <= IDLE_MAX, "{} connections wait", servers.idle());
    }
}

/// What a connection has seen when it carries another request.
fn check_turn(turn: &Turn) {
    assert_eq!(turn.host, turn.opened_for, "a connection serves another server");
    let mut heard = &turn.heard[..];
    for number in 0..turn.earlier {
        let whole = request(heard);
        heard = whole.unwrap_or_else(|| panic!("another request follows number {number}, which was not sent whole"));
    }
    assert!(heard.is_empty(), "more was sent than the requests");
    let mut said = &turn.said[..];
    for number in 0..turn.earlier {
        let Some(response) = response(said) else {
            let said = String::from_utf8_lossy(said);
            panic!("response {number} of a connection that is used again has no clear end: {said:?}");
        };
        said = response.rest;
    }
    let left = String::from_utf8_lossy(said);
    assert!(said.is_empty(), "more was said before it was asked for: {left:?}");
}

/// What a download takes is of the answers to its own requests, and where those are clear, all of the last.
fn check_taken(taken: &Taken, is_ok: bool, turns: &[Turn]) {
    let mut answers = turns.iter().flat_map(|turn| &turn.answer);
    assert!(
        taken.bytes.iter().all(|byte| answers.any(|other| other == byte)),
        "bytes are taken that answer another request"
    );
    let last = turns.last().and_then(|turn| response(&turn.answer));
    if let Some(response) = last.filter(|_| is_ok) {
        assert_eq!(taken.bytes, response.body, "another body is taken");
    }
}

/// What follows the first request.
fn request(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length = length.map_or(0, |length| length.parse().expect("a length that we sent is a number"));
    bytes.get(end + length..)
}

/// A response of which every reader says that it ends here, and that another may follow it.
struct Response<'a> {
    body: Vec<u8>,
    rest: &'a [u8],
}

/// The first response, with those before it that are only informational, as RFC 9112 has them, section 6.3. `None` where it is
/// not whole, or its end is in doubt, or the connection ends with it.
fn response(bytes: &[u8]) -> Option<Response<'_>> {
    let (head, rest) = head(bytes)?;
    let status: u16 = head.status.parse().ok()?;
    if status != 101 && status / 100 == 1 {
        return response(rest);
    }
    let (lengths, codings, wishes) = (
        head.list("content-length"),
        head.list("transfer-encoding"),
        head.list("connection"),
    );
    let goes_on = if head.is_old {
        wishes.iter().any(|wish| wish == "keep-alive")
    } else {
        status != 101
    };
    if !goes_on || wishes.iter().any(|wish| wish == "close") {
        return None;
    }
    let mut numbers = lengths.iter().map(|length| number(length.as_bytes(), 10));
    let length = match numbers.next() {
        None => None,
        Some(first) => Some(first.filter(|_| numbers.all(|other| other == first))?),
    };
    let is_chunked = codings == ["chunked"];
    let is_empty = matches!(status, 204 | 304);
    match (codings.is_empty(), length) {
        (true, None) if is_empty => with_length(rest, 0),
        // Of 304 it is the length that the content would have.
        (true, Some(length)) if is_empty => with_length(rest, 0).filter(|_| status == 304 || length == 0),
        (true, Some(length)) => with_length(rest, length),
        (false, None) if is_chunked && !head.is_old && status == 304 => with_length(rest, 0),
        (false, None) if is_chunked && !head.is_old && status != 204 => chunks(rest),
        _ => None,
    }
}

fn number(text: &[u8], radix: u32) -> Option<usize> {
    // Otherwise a sign would do.
    let is_number = text.iter().all(|digit| char::from(*digit).is_digit(radix));
    let text = std::str::from_utf8(text).ok().filter(|_| is_number)?;
    usize::from_str_radix(text, radix).ok()
}

fn with_length(bytes: &[u8], length: usize) -> Option<Response<'_>> {
    let (body, rest) = bytes.split_at_checked(length)?;
    let body = body.to_vec();
    Some(Response { body, rest })
}

/// A line, without its end in CR and LF.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = bytes[..end].strip_suffix(b"\r")?;
    (!line.contains(&b'\r')).then_some((line, &bytes[end + 1..]))
}

fn chunks(mut bytes: &[u8]) -> Option<Response<'_>> {
    let mut body = Vec::new();
    loop {
        let (size, rest) = line(bytes)?;
        let end = size.iter().position(|byte| *byte == b';').unwrap_or(size.len());
        let size = number(size[..end].trim_ascii_end(), 16)?;
        bytes = rest;
        if size == 0 {
            break;
        }
        let (chunk, rest) = bytes.split_at_checked(size)?;
        body.extend_from_slice(chunk);
        bytes = rest.strip_prefix(b"\r\n")?;
    }
    loop {
        let (trailer, rest) = line(bytes)?;
        bytes = rest;
        if trailer.is_empty() {
            return Some(Response { body, rest });
        }
        trailer.iter().position(|byte| *byte == b':').filter(|name| *name > 0)?;
    }
}

struct Head {
    is_old: bool,
    status: String,
    fields: Vec<(String, String)>,
}

impl Head {
    /// All that the fields of this name list, in lower case.
    fn list(&self, name: &str) -> Vec<String> {
        let values = self.fields.iter().filter(|(other, _)| other == name);
        values
            .flat_map(|(_, value)| value.split(',').map(|item| item.trim_matches([' ', '\t']).to_owned()))
            .collect()
    }
}

/// The head, which lines without CR may have, and empty lines may precede (RFC 9112, section 2.2), and what comes after it.
fn head(mut bytes: &[u8]) -> Option<(Head, &[u8])> {
    let mut head = None;
    loop {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let line =
            String::from_utf8_lossy(bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end])).to_ascii_lowercase();
        bytes = &bytes[end + 1..];
        match &mut head {
            None if line.is_empty() => {}
            None => {
                let rest = line.strip_prefix("http/1.")?;
                let status = rest.get(2..5)?.to_owned();
                head = Some(Head {
                    is_old: rest.starts_with('0'),
                    status,
                    fields: Vec::new(),
                });
            }
            Some(_) if line.is_empty() => return head.map(|head| (head, bytes)),
            Some(head) => {
                let (name, value) = line.split_once(':')?;
                head.fields.push((name.to_owned(), value.trim().to_owned()));
            }
        }
    }
}
