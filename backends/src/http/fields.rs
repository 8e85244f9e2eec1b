//! The request head: what the caller gave, checked, and what this backend adds.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, header};

use super::problem::Problem;
use super::response::Ask;
use crate::{Credential, Header, RESERVED_HEADERS, WebErrorStatus};

/// Headers that never follow to another origin, whatever their flag (RFC 9110, section 15.4, on redirects).
const ORIGIN_BOUND: &[&str] = &["authorization", "cookie", "host", "proxy-authorization"];

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

    /// The head of one request.
    pub(super) fn head(&self, ask: &Ask) -> Result<HeaderMap, Problem> {
        let mut head = HeaderMap::with_capacity(self.fields.len() + 4);
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
