//! The lines that go to and fro: a keyword and values with one blank between, values percent-encoded. Pure.
//!
//! `docs/BACKENDS.md` has the grammar.

use std::fmt::Write as _;
use std::time::Duration;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::{FailureKind, Header, Request, Validators, WebErrorStatus};

/// Longest line, in bytes, with its end.
pub(super) const LINE_BYTES_MAX: usize = 8 * 1024;

/// Most bytes that one `data` announces.
pub(super) const DATA_BYTES_MAX: usize = 64 * 1024;
/// Least that is read at once: nothing at all would never end.
const READ_BYTES_MIN: usize = 4 * 1024;

/// What each side says first: the protocol, and its version.
pub(super) const HELLO: &str = "backhaul 1";

/// Longest part of an error's text that comes from a helper, in bytes.
const TEXT_BYTES_MAX: usize = 300;

/// Longest wait that a helper can ask for: a day.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What would end a value or a line, and the sign of an encoding itself; `utf8_percent_encode` adds all that is not ASCII.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// A value as it stands in a line.
pub(super) fn encoded(value: &str) -> String {
    utf8_percent_encode(value, ENCODED).to_string()
}

fn decoded(value: &str) -> Result<String, String> {
    let text = percent_decode_str(value).decode_utf8();
    let text = text.map_err(|_| format!("a value that is no UTF-8: '{value}'"))?;
    if text.chars().any(char::is_control) {
        return Err(format!("a value with a control character: '{value}'"));
    }
    Ok(text.into_owned())
}

/// All that a helper is told of a request before it says what its resource is. What is held it is not told: it could say
/// that back.
pub(super) fn request_text(request: &Request) -> String {
    let mut text = format!("{HELLO}\nurl {}\n", encoded(&request.url));
    let mut say = |line: std::fmt::Arguments<'_>| {
        // Writing to a text cannot fail.
        let _ = text.write_fmt(line);
    };
    if let Some(credential) = &request.credential {
        say(format_args!(
            "credential {} {}\n",
            encoded(&credential.user),
            encoded(&credential.password)
        ));
    }
    for Header { name, value, secret } in &request.headers {
        let keyword = if *secret { "secret-header" } else { "header" };
        say(format_args!("{keyword} {} {}\n", encoded(name), encoded(value)));
    }
    if let Some(bytes) = request.expected_bytes {
        say(format_args!("expected-bytes {bytes}\n"));
    }
    if let Some(media_type) = &request.expected_type {
        say(format_args!("expected-type {}\n", encoded(media_type)));
    }
    let limits = &request.limits;
    say(format_args!(
        "limits {} {} {}\nbuffer {}\ngo\n",
        limits.connect.as_millis(),
        limits.response.as_millis(),
        limits.stall.as_millis(),
        read_bytes(request)
    ));
    text
}

/// What is read at once, in bytes: no more than one run of them has, as the buffer for it is there from the beginning.
pub(super) fn read_bytes(request: &Request) -> usize {
    request.buffer_bytes.clamp(READ_BYTES_MIN, DATA_BYTES_MAX)
}

/// What a helper says of its resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) validators: Validators,
    pub(super) content_type: Option<String>,
    pub(super) can_continue: bool,
}

impl Resource {
    /// Takes a line of the head; `Ok(true)` after the last one.
    pub(super) fn take(&mut self, line: &str) -> Result<bool, String> {
        let (keyword, value) = line.split_once(' ').unwrap_or((line, ""));
        let field = match keyword {
            "ready" if value.is_empty() => return Ok(true),
            "can-continue" if value.is_empty() && !self.can_continue => {
                self.can_continue = true;
                return Ok(false);
            }
            "bytes" if self.validators.total_bytes.is_none() => {
                self.validators.total_bytes = Some(number(value)?);
                return Ok(false);
            }
            "etag" => &mut self.validators.etag,
            "last-modified" => &mut self.validators.last_modified,
            "date" => &mut self.validators.date,
            "type" => &mut self.content_type,
            _ => return Err(unknown(line)),
        };
        if field.is_some() || value.is_empty() || value.contains(' ') {
            return Err(unknown(line));
        }
        *field = Some(decoded(value)?);
        Ok(false)
    }
}

/// What a helper says after the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// So many bytes follow.
    Data(usize),
    End,
}

impl Said {
    pub(super) fn parse(line: &str) -> Result<Self, String> {
        if line == "end" {
            return Ok(Self::End);
        }
        let count = line.strip_prefix("data ").ok_or_else(|| unknown(line))?;
        let count = number(count)?;
        match usize::try_from(count) {
            Ok(count) if (1..=DATA_BYTES_MAX).contains(&count) => Ok(Self::Data(count)),
            _ => Err(format!("{count} bytes at once, and 1 to {DATA_BYTES_MAX} may be")),
        }
    }
}

/// A failure that a helper reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reported {
    pub(super) kind: FailureKind,
    pub(super) status: WebErrorStatus,
    pub(super) code: Option<u16>,
    pub(super) text: String,
}

impl Reported {
    /// Reads `fail KIND STATUS TEXT [SECONDS]`; `None` where the line is another one.
    pub(super) fn parse(line: &str) -> Option<Result<Self, String>> {
        let rest = line.strip_prefix("fail ")?;
        let parts: Vec<&str> = rest.split(' ').collect();
        Some(match parts[..] {
            [kind, status, text] => Self::read(kind, status, text, None),
            [kind, status, text, seconds] => Self::read(kind, status, text, Some(seconds)),
            _ => Err(unknown(line)),
        })
    }

    fn read(kind: &str, status: &str, text: &str, seconds: Option<&str>) -> Result<Self, String> {
        let retry_after = seconds.map(number).transpose()?.map(Duration::from_secs);
        let retry_after = retry_after.map(|wait| wait.min(RETRY_AFTER_MAX));
        let kind = match kind {
            "transient" => FailureKind::Transient { retry_after },
            "unreachable" => FailureKind::Unreachable,
            "permanent" => FailureKind::Permanent,
            other => return Err(format!("a failure of kind '{other}'")),
        };
        // What happens on this device is not for a helper to say.
        let known: Option<WebErrorStatus> = status
            .parse()
            .ok()
            .filter(|status: &WebErrorStatus| status.is_mendable());
        let status = known.unwrap_or(WebErrorStatus::UNKNOWN);
        let text = percent_decode_str(text).decode_utf8_lossy();
        Ok(Self {
            kind,
            status,
            code: u16::try_from(status.0).ok().filter(|code| (300..600).contains(code)),
            text: text.into_owned(),
        })
    }
}

fn number(text: &str) -> Result<u64, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = text.parse().ok().filter(|_| is_number);
    parsed.ok_or_else(|| format!("what is no number: '{text}'"))
}

fn unknown(line: &str) -> String {
    format!("what has no place there: '{line}'")
}

/// A text of a helper as it may be shown: on one line, without control characters, and cut where it is long.
pub(super) fn harmless(text: &str) -> String {
    let plain = text.trim().chars().map(|letter| {
        if letter.is_control() || ('\u{202a}'..='\u{202e}').contains(&letter) || letter == '\u{feff}' {
            ' '
        } else {
            letter
        }
    });
    let mut shown = String::new();
    for letter in plain {
        if shown.len() + letter.len_utf8() > TEXT_BYTES_MAX {
            shown.push('…');
            break;
        }
        shown.push(letter);
    }
    shown
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Credential, Held, Limits, Method};

    fn request() -> Request {
        let header = |name: &str, value: &str, secret| Header {
            name: name.into(),
            value: value.into(),
            secret,
        };
        Request {
            url: "x://host/a?b=c%20d".into(),
            method: Method::GET,
            body: None,
            headers: vec![header("X-A", "b c", false), header("X-B", "ü\n%", true)],
            credential: Some(Credential {
                user: String::new(),
                password: "p w".into(),
            }),
            proxies: Arc::default(),
            held: Some(Held {
                offset_bytes: 77,
                validators: Validators {
                    etag: Some("\"tag\"".into()),
                    ..Validators::default()
                },
                ..Held::default()
            }),
            expected_bytes: Some(9),
            expected_type: Some("image/*".into()),
            limits: Limits::default(),
            buffer_bytes: 4096,
        }
    }

    #[test]
    fn no_value_breaks_a_line_and_nothing_that_is_held_is_told() {
        assert_eq!(
            request_text(&request()),
            "backhaul 1\nurl x://host/a?b=c%2520d\ncredential  p%20w\nheader X-A b%20c\nsecret-header X-B %C3%BC%0A%25\n\
             expected-bytes 9\nexpected-type image/*\nlimits 30000 60000 60000\nbuffer 4096\ngo\n"
        );
    }

    #[test]
    fn a_read_is_never_larger_than_a_run_and_never_empty() {
        for (asked, read) in [(0, 4096), (16_384, 16_384), (512 << 10, 65_536), (usize::MAX, 65_536)] {
            let request = Request {
                buffer_bytes: asked,
                ..request()
            };
            assert_eq!(read_bytes(&request), read);
            assert!(request_text(&request).contains(&format!("\nbuffer {read}\n")));
        }
    }

    #[test]
    fn a_head_is_read_line_by_line_and_each_field_once() {
        let mut resource = Resource::default();
        for line in [
            "bytes 12",
            "etag \"a%20b\"",
            "last-modified x",
            "date y",
            "type a/b",
            "can-continue",
        ] {
            assert_eq!(resource.take(line), Ok(false), "{line}");
            assert!(resource.clone().take(line).is_err(), "{line} twice");
        }
        assert_eq!(resource.take("ready"), Ok(true));
        assert_eq!(resource.validators.etag.as_deref(), Some("\"a b\""));
        assert_eq!(resource.validators.total_bytes, Some(12));
        for line in [
            "",
            "bytes",
            "bytes -1",
            "bytes +1",
            "bytes 1 2",
            "bytes 18446744073709551616",
            "etag",
            "etag ",
            "etag a b",
            "etag %0A",
            "etag %FF",
            "ready now",
            "can-continue 1",
            "data 5",
            "end",
            "Ready",
            " ready",
        ] {
            assert!(Resource::default().take(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn data_is_announced_in_pieces_of_bounded_size() {
        assert_eq!(Said::parse("data 1"), Ok(Said::Data(1)));
        assert_eq!(Said::parse("data 65536"), Ok(Said::Data(65536)));
        assert_eq!(Said::parse("end"), Ok(Said::End));
        for line in [
            "data 0",
            "data 65537",
            "data",
            "data ",
            "data 1 ",
            "data 0x1",
            "end ",
            "ready",
            "",
        ] {
            assert!(Said::parse(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn a_failure_says_kind_status_and_text_and_nothing_of_this_device() {
        let parse = |line| Reported::parse(line).unwrap().unwrap();
        let reported = parse("fail transient 503 try%20later 7");
        assert_eq!(
            reported,
            Reported {
                kind: FailureKind::Transient {
                    retry_after: Some(Duration::from_secs(7))
                },
                status: WebErrorStatus::SERVICE_UNAVAILABLE,
                code: Some(503),
                text: "try later".into()
            }
        );
        assert_eq!(
            harmless(&parse("fail permanent NotFound %1b[31mgone%0a").text),
            " [31mgone"
        );
        assert_eq!(parse("fail permanent DiskFull x").status, WebErrorStatus::UNKNOWN);
        assert_eq!(parse("fail unreachable nonsense x").kind, FailureKind::Unreachable);
        assert!(harmless(&"ä".repeat(5000)).len() <= TEXT_BYTES_MAX + '…'.len_utf8());
        for line in [
            "fail odd 404 x",
            "fail permanent 404",
            "fail permanent 404 x y",
            "fail permanent 404 x 1 2",
        ] {
            assert!(Reported::parse(line).unwrap().is_err(), "{line}");
        }
        assert!(Reported::parse("failure").is_none());
    }
}
