//! What is asked of a server (RFC 9110, section 9).

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// Longest method, in bytes (chosen without measurement; the longest registered one, UPDATEREDIRECTREF, has 17).
pub const METHOD_BYTES_MAX: usize = 32;

/// Methods with a meaning of their own here or in RFC 9110; in any other case than this they are a slip.
const KNOWN: &[&str] = &[
    "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
];

/// The method of a request: a token of at most [`METHOD_BYTES_MAX`] bytes, GET by default. Methods are case-sensitive.
/// CONNECT, TRACE and HEAD are none: no answer to them is the content of a file.
///
/// Source: RFC 9110, sections 9.1 and 5.6.2.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Method(Cow<'static, str>);

impl Method {
    /// Fetches a resource.
    pub const GET: Self = Self(Cow::Borrowed("GET"));
    /// Has the resource process what is sent.
    pub const POST: Self = Self(Cow::Borrowed("POST"));
    /// Puts what is sent in the place of the resource.
    pub const PUT: Self = Self(Cow::Borrowed("PUT"));

    /// The method as it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// It is GET, the only one whose answer can be continued.
    #[must_use]
    pub fn is_get(&self) -> bool {
        self.0 == "GET"
    }

    /// Asking twice has the effect of asking once, as far as the method says.
    ///
    /// Source: RFC 9110, section 9.2.2.
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        matches!(self.as_str(), "GET" | "PUT" | "DELETE" | "OPTIONS")
    }

    /// A request without a body says so (`Content-Length: 0`), because the method is for sending one.
    ///
    /// Source: RFC 9110, section 8.6.
    #[must_use]
    pub fn expects_body(&self) -> bool {
        matches!(self.as_str(), "POST" | "PUT" | "PATCH")
    }
}

impl Default for Method {
    fn default() -> Self {
        Self::GET
    }
}

impl fmt::Display for Method {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Method {
    type Err = String;

    /// Says what is wrong with a text that is no method for a transfer.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > METHOD_BYTES_MAX || !text.bytes().all(is_token_byte) {
            return Err(format!(
                "is no method: letters, digits and !#$%&'*+-.^_`|~ alone, 1 to {METHOD_BYTES_MAX} of them"
            ));
        }
        match KNOWN.iter().find(|known| known.eq_ignore_ascii_case(text)) {
            Some(known) if *known != text => Err(format!("methods are case-sensitive; write {known}")),
            Some(&("CONNECT" | "TRACE" | "HEAD")) => Err("is answered without the content of a file".into()),
            Some(known) => Ok(Self(Cow::Borrowed(*known))),
            None => Ok(Self(Cow::Owned(text.to_owned()))),
        }
    }
}

/// RFC 9110, section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_a_token_in_its_own_case_whose_answer_is_content() {
        for right in ["GET", "POST", "PUT", "PROPFIND", "M-SEARCH", "x", &"A".repeat(32)] {
            assert_eq!(
                right.parse::<Method>().map(|method| method.to_string()),
                Ok(right.to_owned())
            );
        }
        let wrong = [
            "",
            "PO ST",
            "POST\r\n",
            "P\u{d6}ST",
            "(x)",
            "a,b",
            "post",
            "Get",
            &"A".repeat(33),
        ];
        for wrong in wrong.into_iter().chain(["CONNECT", "TRACE", "HEAD", "head"]) {
            assert!(wrong.parse::<Method>().is_err(), "{wrong:?}");
        }
        assert_eq!(Method::default(), Method::GET);
    }
}
