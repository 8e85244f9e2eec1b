//! The request head: what the caller gave, checked, and what this backend adds.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, header};

use super::response::Ask;
use crate::problem::Problem;
use crate::{Credential, Header, HeaderFields, RESERVED_HEADERS, WebErrorStatus};

/// Headers that never follow to another origin, whatever their flag (RFC 9110, section 15.4, on redirects).
const ORIGIN_BOUND: &[&str] = &["authorization", "cookie", "host"];

/// Fields to send with every request of an attempt.
#[derive(Debug)]
pub(super) struct Fields {
    fields: Vec<Field>,
}

#[derive(Debug)]
struct Field {
    name: HeaderName,
    value: HeaderValue,
    stays: bool,
}

/// Header fields of a request that speak of its body, besides those that begin with `content-`.
///
/// Source: RFC 9110, section 15.4, on redirects that change the method.
const OF_THE_BODY: &[&str] = &["digest", "last-modified", "repr-digest", "want-content-digest"];

/// Header fields of a response that are secret, or challenge for a secret, in lower case.
const SECRET_FIELDS: &[&str] = &[
    "authentication-info",
    "authorization",
    "cookie",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "set-cookie",
    "set-cookie2",
    "www-authenticate",
];

/// What the names of fields have in them whose values nobody but the receiver may know.
const SECRET_WORDS: &[&str] = &[
    "api-key",
    "apikey",
    "auth",
    "credential",
    "csrf",
    "passw",
    "secret",
    "session",
    "signature",
    "token",
];

/// Names of fields that nearly every response has: as far as the name goes they are no secret, nor a place. To be known at
/// once saves the search for the words. In the letters that servers mostly use.
const HARMLESS_FIELDS: &[&str] = &[
    "Accept-Ranges",
    "Age",
    "Cache-Control",
    "Connection",
    "Content-Length",
    "Content-Type",
    "Date",
    "ETag",
    "Expires",
    "Last-Modified",
    "Server",
    "Vary",
];

/// Room for as many fields as most responses have.
const FIELDS_USUAL: usize = 12;

impl Fields {
    pub(super) fn check(headers: &[Header], credential: Option<&Credential>) -> Result<Self, Problem> {
        let mut fields = headers.iter().map(check).collect::<Result<Vec<_>, _>>()?;
        if let Some(credential) = credential
            && !fields.iter().any(|field| field.name == header::AUTHORIZATION)
        {
            fields.push(basic(credential)?);
        }
        Ok(Self { fields })
    }

    /// Drops what must not reach another origin. It stays dropped when a redirect leads back: the way there was not
    /// chosen by the origin that the secrets were given for.
    pub(super) fn leave_origin(&mut self) {
        self.fields.retain(|field| !field.stays);
    }

    /// Drops what speaks of a body that does not follow a redirect.
    pub(super) fn leave_body(&mut self) {
        let is_of_body = |name: &str| name.starts_with("content-") || OF_THE_BODY.contains(&name);
        self.fields.retain(|field| !is_of_body(field.name.as_str()));
    }

    /// The head of one request.
    pub(super) fn head(&self, ask: &Ask) -> Result<HeaderMap, Problem> {
        let of_ask = if matches!(ask, Ask::Rest(_)) { 2 } else { 0 };
        let mut head = match self.fields.len() + of_ask {
            0 => return Ok(HeaderMap::new()),
            room => HeaderMap::with_capacity(room),
        };
        for field in &self.fields {
            head.append(&field.name, field.value.clone());
        }
        if let Ask::Rest(rest) = ask {
            let last = rest.last.map(|last| last.to_string()).unwrap_or_default();
            head.insert(header::RANGE, value("range", &format!("bytes={}-{last}", rest.first))?);
            if let Some(validator) = &rest.if_range {
                head.insert(header::IF_RANGE, value("if-range", validator)?);
            }
        }
        Ok(head)
    }
}

/// The fields of a response head as they were sent, without those that may carry a secret: by their name, or by a URL with
/// user info or a query, which may be signed.
pub(super) fn as_sent(head: &[u8]) -> HeaderFields {
    let mut fields = HeaderFields::with_capacity(FIELDS_USUAL, head.len());
    // Few have either, and then no line is searched for them.
    let has_mark = has_mark(head);
    // All of it at once, where all of it is text.
    let text = std::str::from_utf8(head).ok();
    // The head was read as one of a response, so that only its lines have to be told apart.
    let mut begin = position(head, b'\n').map_or(head.len(), |end| end + 1);
    while let Some(length) = position(&head[begin..], b'\n') {
        let end = begin + length;
        let line = match text {
            Some(text) => text.get(begin..end),
            None => std::str::from_utf8(&head[begin..end]).ok(),
        };
        if let Some((name, value)) = line.and_then(|line| shown(line, has_mark)) {
            fields.push(name, value);
        }
        begin = end + 1;
    }
    fields
}

fn position(bytes: &[u8], wanted: u8) -> Option<usize> {
    bytes.iter().position(|byte| *byte == wanted)
}

/// The field that stands in a line, where it may be shown.
fn shown(line: &str, has_mark: bool) -> Option<(&str, &str)> {
    let (name, value) = line.split_at_checked(position(line.as_bytes(), b':')?)?;
    let value = value.get(1..)?.trim_ascii();
    // Of a name that was read, only that of a folded line can have a blank in it, and then it begins with one.
    let is_name = !matches!(name.as_bytes().first(), None | Some(b' ' | b'\t'));
    (is_name && !may_be_secret(name.as_bytes(), value.as_bytes(), has_mark)).then_some((name, value))
}

/// Without a mark in any value, none is a place that may be secret.
fn may_be_secret(name: &[u8], value: &[u8], has_mark: bool) -> bool {
    let mut harmless = HARMLESS_FIELDS.iter().filter(|other| other.len() == name.len());
    if harmless.any(|other| is_same(other, name)) {
        return has_mark && names_a_place(name, value);
    }
    let has_in_it = |word: &&str| {
        let word = word.as_bytes();
        name.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))
    };
    let is_named = SECRET_FIELDS.iter().any(|other| is_same(other, name)) || SECRET_WORDS.iter().any(has_in_it);
    is_named || has_mark && (names_a_place(name, value) || is_place(name, value))
}

/// Nearly all names differ in their length, and those that do not are mostly written as they are known.
fn is_same(known: &str, name: &[u8]) -> bool {
    known.len() == name.len() && (known.as_bytes() == name || known.as_bytes().eq_ignore_ascii_case(name))
}

/// Any field may name a place; only entity tags have such letters without one.
fn names_a_place(name: &[u8], value: &[u8]) -> bool {
    has_mark(value) && value.windows(3).any(|part| part == b"://") && !is_same("ETag", name)
}

/// What stands before a query, or behind user info.
fn has_mark(text: &[u8]) -> bool {
    text.contains(&b'?') || text.contains(&b'@')
}

/// A reference without a scheme, in a field that is known to have one.
fn is_place(name: &[u8], value: &[u8]) -> bool {
    let places = [
        "content-location",
        "link",
        "location",
        "refresh",
        "sourcemap",
        "x-sourcemap",
    ];
    has_mark(value) && places.iter().any(|place| is_same(place, name))
}

fn check(given: &Header) -> Result<Field, Problem> {
    let name = HeaderName::from_bytes(given.name.as_bytes())
        .map_err(|_| wrong(format!("the request header name {:?} is not a token", given.name)))?;
    if RESERVED_HEADERS.contains(&name.as_str()) {
        return Err(wrong(format!(
            "the request header {name} cannot be given: it is set by the transfer itself"
        )));
    }
    let mut value = value(name.as_str(), &given.value)?;
    value.set_sensitive(given.secret);
    let stays = given.secret || ORIGIN_BOUND.contains(&name.as_str());
    Ok(Field { name, value, stays })
}

fn value(name: &str, text: &str) -> Result<HeaderValue, Problem> {
    // The value may be secret, so the message does not show it.
    HeaderValue::from_str(text).map_err(|_| {
        wrong(format!(
            "the value of the request header {name} has a character that is not allowed"
        ))
    })
}

/// RFC 7617.
fn basic(credential: &Credential) -> Result<Field, Problem> {
    if credential.user.contains(':') {
        return Err(wrong(
            "a user name with a colon cannot be sent in Basic authentication".to_owned(),
        ));
    }
    let pair = format!("{}:{}", credential.user, credential.password);
    let mut value = value("authorization", &format!("Basic {}", STANDARD.encode(pair)))?;
    value.set_sensitive(true);
    Ok(Field {
        name: header::AUTHORIZATION,
        value,
        stays: true,
    })
}

fn wrong(text: String) -> Problem {
    Problem::permanent(WebErrorStatus::UNEXPECTED_CLIENT_ERROR, text)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn given(name: &str, value: &str, secret: bool) -> Header {
        Header {
            name: name.to_owned(),
            value: value.to_owned(),
            secret,
        }
    }

    #[test]
    fn a_header_that_could_change_the_message_is_refused_by_name_and_never_by_value() {
        let rows = [
            ("X-A\r\nHost", "x", "name"),
            ("X A", "x", "not a token"),
            ("", "x", "not a token"),
            ("X-Key", "hush\r\nX-B: c", "x-key"),
            ("X-Key", "hush\n", "x-key"),
            ("X-Key", "hush\0", "x-key"),
            ("Range", "bytes=0-", "range"),
            ("Accept-Encoding", "gzip", "accept-encoding"),
            ("Transfer-Encoding", "chunked", "transfer-encoding"),
        ];
        for (name, value, words) in rows {
            let problem = Fields::check(&[given(name, value, true)], None).unwrap_err();
            assert!(
                problem.text.contains(words) && !problem.text.contains("hush"),
                "{}",
                problem.text
            );
        }
    }

    #[test]
    fn fields_of_one_name_are_all_sent_and_leave_with_the_origin_where_they_must() {
        let headers = [
            given("X-Tag", "a", false),
            given("X-Tag", "b", false),
            given("X-Key", "k", true),
        ];
        let credential = Credential {
            user: "Aladdin".to_owned(),
            password: "open sesame".to_owned(),
        };
        let mut fields = Fields::check(&headers, Some(&credential)).unwrap();
        let whole = Ask::Whole { given_up: None };
        let head = fields.head(&whole).unwrap();
        assert_eq!(head.get_all("x-tag").iter().count(), 2);
        // The example of RFC 7617, section 2.
        assert_eq!(head["authorization"], "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert!(head["authorization"].is_sensitive() && head["x-key"].is_sensitive());
        fields.leave_origin();
        let head = fields.head(&whole).unwrap();
        assert_eq!((head.len(), head.get_all("x-tag").iter().count()), (2, 2));
    }

    #[test]
    fn fields_of_a_response_keep_their_case_and_order_and_show_no_secret() {
        let head = "HTTP/1.1 200 OK\r\nETag: \"a://?\"\r\nX-Trace:  one two \r\nx-trace: three\r\nSet-Cookie: id=hush\r\n\
            X-Amz-Security-Token: hush\r\nX-Session-Id: hush\r\nWWW-Authenticate: Basic hush\r\n\
            Content-Location: /a?sig=hush\r\nLink: <https://h/a>; rel=duplicate\r\nX-Origin: see https://u:hush@h/\r\n\
            Empty:\r\n folded\r\n\r\n";
        let fields = as_sent(head.as_bytes());
        let pairs: Vec<(&str, &str)> = fields.iter().collect();
        let expected = [
            ("ETag", "\"a://?\""),
            ("X-Trace", "one two"),
            ("x-trace", "three"),
            ("Link", "<https://h/a>; rel=duplicate"),
            ("Empty", ""),
        ];
        assert_eq!(pairs, expected);
        assert!(
            as_sent(b"HTTP/1.1 200 OK\r\nA: \xff\r\n\r\n").is_empty(),
            "what is no text is left out"
        );
    }

    #[test]
    fn fields_that_are_known_as_harmless_have_no_name_of_a_secret_or_of_a_place() {
        for name in HARMLESS_FIELDS.iter().map(|name| name.to_ascii_lowercase()) {
            let is_secret = SECRET_FIELDS.contains(&&*name) || SECRET_WORDS.iter().any(|word| name.contains(word));
            assert!(!is_secret && !is_place(name.as_bytes(), b"?"), "{name}");
        }
        assert!(may_be_secret(b"server", b"see https://h/?sig=hush", true) && !may_be_secret(b"SERVER", b"h", true));
    }

    #[test]
    fn a_user_name_with_a_colon_is_refused() {
        let credential = Credential {
            user: "a:b".to_owned(),
            password: String::new(),
        };
        assert!(
            Fields::check(&[], Some(&credential))
                .unwrap_err()
                .text
                .contains("colon")
        );
    }

    #[test]
    fn reserved_headers_are_in_lower_case_and_in_order() {
        assert!(RESERVED_HEADERS.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(
            RESERVED_HEADERS
                .iter()
                .all(|name| name.bytes().all(|byte| !byte.is_ascii_uppercase()))
        );
    }
}
