//! Makes the bytes of a response out of an answer, the request and the resource.

use std::fmt::Write as _;

use crate::answer::{Answer, Asked, End, Forged, Form, Framing, Marks, Part, Total};
use crate::resource::Version;

/// Largest chunk of a chunked body.
const CHUNK_BYTES: usize = 10_000;

/// A response that nobody has asked for.
const SECOND: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nETag: \"a\"\r\n\r\nsmuggled";

/// What the server knows while it answers.
pub(crate) struct World<'a> {
    pub(crate) versions: &'a [Version],
    /// The state that the resource is in.
    pub(crate) current: usize,
    /// What a captive portal shows.
    pub(crate) page: &'a [u8],
    /// Number of this request.
    pub(crate) request: usize,
}

/// A response as it goes out.
#[derive(Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: Vec<u8>,
    pub(crate) body: Vec<u8>,
    pub(crate) close: bool,
    /// It carries bytes of the current version.
    pub(crate) serves_version: bool,
    pub(crate) serves_page: bool,
}

/// A response before it is framed.
struct Draft {
    status: u16,
    fields: String,
    body: Vec<u8>,
    content: Content,
}

#[derive(Clone, Copy, PartialEq)]
enum Content {
    Version,
    Page,
    Other,
}

pub(crate) fn reply(answer: &Answer, asked: &Asked, world: &World) -> Reply {
    let draft = draft(answer, asked, world);
    let mut fields = draft.fields;
    if draft.content == Content::Version {
        fields += &marks(answer.marks, world);
    }
    let mut body = draft.body;
    let is_empty = matches!(draft.status, 204 | 304);
    let framing = if answer.only_parts && draft.status != 206 {
        Framing::Length
    } else {
        answer.framing
    };
    let ends_early = end(&answer.end, &mut body, world, &mut fields, framing, is_empty);
    let close = !answer.keep || ends_early || matches!(framing, Framing::Close | Framing::LengthOff(1..));
    if close {
        fields += "Connection: close\r\n";
    }
    let mut head = format!("HTTP/1.1 {} Scripted\r\n{fields}\r\n", draft.status).into_bytes();
    let mut reply = Reply {
        status: draft.status,
        close,
        serves_version: draft.content == Content::Version,
        serves_page: draft.content == Content::Page,
        ..Reply::default()
    };
    if let Form::Hangup(bytes) = answer.form {
        // Never the whole head: without a length, that would say that the resource is empty.
        head.truncate(bytes.min(head.len() - 1));
        body.clear();
        reply.close = true;
    }
    Reply { head, body, ..reply }
}

fn draft(answer: &Answer, asked: &Asked, world: &World) -> Draft {
    let version = &world.versions[world.current];
    match &answer.form {
        Form::Part(_) | Form::Multipart | Form::Unsatisfied(_) if asked.offset.is_none() && !answer.unasked => {
            right(asked, version)
        }
        Form::Right | Form::Hangup(_) => right(asked, version),
        Form::Whole(status) => whole(*status, version),
        Form::Part(part) => self::part(part, answer.unasked, asked, world),
        Form::Multipart => multipart(asked, version),
        Form::Status(204 | 304, _) => other(answer, ""),
        Form::Status(status, _) => other(answer, &format!("<p>This is the page of the error {status}.</p>\n")),
        Form::Redirect(..) => other(answer, "elsewhere\n"),
        Form::Unsatisfied(total) => unsatisfied(*total, asked.offset.unwrap_or(0), version),
        Form::Coded => {
            let mut draft = right(asked, version);
            draft.fields += "Content-Encoding: gzip\r\n";
            draft.body.iter_mut().for_each(|byte| *byte ^= 0x5a);
            draft
        }
        Form::Page => Draft {
            status: 200,
            fields: "Content-Type: text/html\r\n".into(),
            body: world.page.to_vec(),
            content: Content::Page,
        },
    }
}

/// RFC 9110, sections 13.1.5 and 14.2.
fn right(asked: &Asked, version: &Version) -> Draft {
    let Some(offset) = asked.offset.filter(|_| condition_holds(asked, version)) else {
        return whole(200, version);
    };
    if offset >= version.len() {
        return unsatisfied(Total::Right, offset, version);
    }
    let end = asked.end(version.len()).max(offset + 1);
    let fields = content_range(offset, end, &version.len().to_string());
    let body = version.bytes[offset..end].to_vec();
    of_version(206, fields, body)
}

/// By strong comparison.
fn condition_holds(asked: &Asked, version: &Version) -> bool {
    let Some(condition) = &asked.if_range else {
        return true;
    };
    let tag = version.etag.as_ref().filter(|tag| !tag.starts_with("W/"));
    let time = version.time.as_ref().map(|time| &time.modified);
    Some(condition) == tag || Some(condition) == time
}

fn whole(status: u16, version: &Version) -> Draft {
    of_version(status, "Accept-Ranges: bytes\r\n".into(), version.bytes.to_vec())
}

fn part(part: &Part, goes_on: bool, asked: &Asked, world: &World) -> Draft {
    let version = &world.versions[world.current];
    let offset = asked.offset.unwrap_or(0);
    if offset >= version.len() {
        return unsatisfied(Total::Right, offset, version);
    }
    let last = i64::try_from(version.len() - 1).unwrap();
    let first = (i64::try_from(offset).unwrap() + part.shift).clamp(0, last);
    let first = usize::try_from(first).unwrap();
    let asked_end = if goes_on {
        version.len()
    } else {
        asked.end(version.len())
    };
    let end = asked_end
        .max(first + 1)
        .min(first + part.bytes_max.unwrap_or(usize::MAX - first).max(1));
    let total = said(part.total, asked.offset.unwrap_or(0), version).unwrap_or("*".into());
    let mut body = version.bytes[first..end].to_vec();
    match part.forged {
        Some(Forged::Version(other)) => overwrite(&mut body, 0, &world.versions[other].bytes, first),
        Some(Forged::Shift(by)) => overwrite(&mut body, 0, &version.bytes, first.saturating_sub(by)),
        None => {}
    }
    of_version(206, content_range(first, end, &total), body)
}

/// Takes the body from `from` on from other bytes, as far as those reach.
fn overwrite(body: &mut [u8], from: usize, other: &[u8], at: usize) {
    for (byte, other) in body.iter_mut().skip(from).zip(other.iter().skip(at + from)) {
        *byte = *other;
    }
}

fn multipart(asked: &Asked, version: &Version) -> Draft {
    let offset = asked.offset.unwrap_or(0).min(version.len());
    let total = version.len();
    let mut body = Vec::new();
    for (first, end) in [(0, offset), (offset, total)]
        .into_iter()
        .filter(|(first, end)| first < end)
    {
        body.extend_from_slice(
            format!("\r\n--cut\r\n{}\r\n", content_range(first, end, &total.to_string())).as_bytes(),
        );
        body.extend_from_slice(&version.bytes[first..end]);
    }
    body.extend_from_slice(b"\r\n--cut--\r\n");
    of_version(206, "Content-Type: multipart/byteranges; boundary=cut\r\n".into(), body)
}

fn unsatisfied(total: Total, offset: usize, version: &Version) -> Draft {
    let fields = said(total, offset, version).map(|total| format!("Content-Range: bytes */{total}\r\n"));
    // RFC 9110 gives no content to it, but its validators are those of the resource.
    of_version(416, fields.unwrap_or_default(), Vec::new())
}

fn other(answer: &Answer, page: &str) -> Draft {
    let mut fields = String::from("Content-Type: text/html\r\n");
    let status = match &answer.form {
        Form::Status(status, retry_after) => {
            if let Some(seconds) = retry_after {
                let _ = write!(fields, "Retry-After: {seconds}\r\n");
            }
            *status
        }
        Form::Redirect(status, place) => {
            let _ = write!(fields, "Location: {place}\r\n");
            *status
        }
        form => panic!("{form:?} has no page"),
    };
    let body = page.as_bytes().to_vec();
    Draft {
        status,
        fields,
        body,
        content: Content::Other,
    }
}

fn of_version(status: u16, fields: String, body: Vec<u8>) -> Draft {
    Draft {
        status,
        fields,
        body,
        content: Content::Version,
    }
}

fn content_range(first: usize, end: usize, total: &str) -> String {
    format!("Content-Range: bytes {first}-{}/{total}\r\n", end.saturating_sub(1))
}

fn said(total: Total, offset: usize, version: &Version) -> Option<String> {
    let right = version.len();
    match total {
        Total::Right => Some(right.to_string()),
        Total::Off(by) => Some((i64::try_from(right).unwrap() + by).max(0).to_string()),
        Total::Asked => Some(offset.to_string()),
        Total::Unsaid => None,
    }
}

fn marks(marks: Marks, world: &World) -> String {
    let of = match marks {
        Marks::Stolen(other) => other,
        _ => world.current,
    };
    let version = &world.versions[of];
    let tag = match (marks, &version.etag) {
        (Marks::NoTag | Marks::Neither, _) | (_, None) => None,
        (Marks::Weak, Some(tag)) => Some(format!("W/{}", tag.trim_start_matches("W/"))),
        (Marks::Fresh, Some(_)) => Some(format!("\"fresh-{of}-{}\"", world.request)),
        (_, Some(tag)) => Some(tag.clone()),
    };
    let mut fields = tag.map_or(String::new(), |tag| format!("ETag: {tag}\r\n"));
    if let Some(time) = version
        .time
        .as_ref()
        .filter(|_| !matches!(marks, Marks::NoTime | Marks::Neither))
    {
        let _ = write!(fields, "Last-Modified: {}\r\n", time.modified);
        if let Some(date) = &time.date {
            let _ = write!(fields, "Date: {date}\r\n");
        }
    }
    fields
}

/// Frames the body and lets it end as told; `true` where the connection must be closed then.
fn end(end: &End, body: &mut Vec<u8>, world: &World, fields: &mut String, framing: Framing, is_empty: bool) -> bool {
    if is_empty {
        body.clear();
        return false;
    }
    if let End::Switch(from, other) = end {
        overwrite(body, *from, &world.versions[*other].bytes, 0);
    }
    let share = match end {
        End::CutShare(share) => End::Cut(body.len() * share / 1_000),
        end => *end,
    };
    let end = &share;
    let length = i64::try_from(body.len()).unwrap();
    if let End::Extra(bytes) = end {
        body.extend(std::iter::repeat_n(b'+', *bytes));
    }
    if let End::Second = end {
        body.extend_from_slice(SECOND);
    }
    match framing {
        Framing::Length => drop(write!(fields, "Content-Length: {length}\r\n")),
        Framing::LengthOff(by) => drop(write!(fields, "Content-Length: {}\r\n", (length + by).max(0))),
        Framing::Chunked => {
            *fields += "Transfer-Encoding: chunked\r\n";
            return chunk(end, body);
        }
        Framing::Close => {}
    }
    match end {
        End::Cut(bytes) | End::BadChunk(bytes) => {
            body.truncate(*bytes);
            true
        }
        // On a connection that is kept, what is too much stands where the next response is looked for.
        _ => false,
    }
}

fn chunk(end: &End, body: &mut Vec<u8>) -> bool {
    let plain = std::mem::take(body);
    let bytes = match end {
        End::Cut(bytes) | End::BadChunk(bytes) => (*bytes).min(plain.len()),
        _ => plain.len(),
    };
    for piece in plain[..bytes].chunks(CHUNK_BYTES) {
        body.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        body.extend_from_slice(piece);
        body.extend_from_slice(b"\r\n");
    }
    match end {
        End::Cut(_) => true,
        End::BadChunk(_) => {
            body.extend_from_slice(b"no size\r\n");
            true
        }
        _ => {
            body.extend_from_slice(b"0\r\n\r\n");
            false
        }
    }
}
