//! A URL as this backend uses it: checked, without user info and fragment, and shown without its query.

use std::net::Ipv4Addr;

use url::{Position, Url};

use super::tls::SCHEMES;
use crate::parsed::{bad_url, credential};
use crate::problem::Problem;
use crate::{Credential, WebErrorStatus};

/// Longest URL that is sent; servers commonly refuse more than 8 KiB, and it must fit the output buffer.
const URL_BYTES_MAX: usize = 32 * 1024;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// As the URL parser writes it.
    text: String,
    parts: Parts,
}

/// Where the parts of the text of a URL end that has a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parts {
    is_secure: bool,
    /// The host lies between these, an IPv6 address with its brackets.
    host: (usize, usize),
    /// Also where the text does not name it.
    port: u16,
    /// The path begins where the port ends.
    path: usize,
    path_end: usize,
}

impl Target {
    /// Also gives the user info, where the URL has any.
    pub(super) fn parse(text: &str) -> Result<(Self, Option<Credential>), Problem> {
        if let Some(parts) = Parts::of_plain(text) {
            let text = text.to_owned();
            return Ok((Self { text, parts }, None));
        }
        let url = Url::parse(text).map_err(bad_url)?;
        let credential = credential(&url)?;
        Ok((Self::check(url)?, credential))
    }

    /// Follows a Location. User info in it is dropped: the server has no say in who we are.
    ///
    /// Source: RFC 9110, section 10.2.2.
    pub(super) fn join(&self, location: &str) -> Result<Self, Problem> {
        let redirected = |text: String| Problem::permanent(WebErrorStatus::REDIRECT_FAILED, text);
        let url = Url::parse(&self.text)
            .and_then(|base| base.join(location))
            .map_err(|error| redirected(format!("redirected to a bad URL: {error}")))?;
        let next = Self::check(url).map_err(|problem| redirected(format!("redirected: {}", problem.text)))?;
        if self.is_secure() && !next.is_secure() {
            let status = WebErrorStatus::HTTPS_TO_HTTP_ON_REDIRECTION;
            return Err(Problem::permanent(
                status,
                format!("redirected from https to {}, refused", next.place()),
            ));
        }
        Ok(next)
    }

    fn check(mut url: Url) -> Result<Self, Problem> {
        let wrong = |text: String| Err(Problem::permanent(WebErrorStatus::UNEXPECTED_CLIENT_ERROR, text));
        if !SCHEMES.contains(&url.scheme()) {
            let text = match url.scheme() {
                "https" => "the scheme https needs a backhaul built with the feature 'tls'".to_owned(),
                other => format!("the scheme {other} is not http or https"),
            };
            return Err(Problem::permanent(WebErrorStatus::UNSUPPORTED_SCHEME, text));
        }
        if url.as_str().len() > URL_BYTES_MAX {
            return wrong(format!(
                "a URL of {} bytes is longer than {URL_BYTES_MAX}",
                url.as_str().len()
            ));
        }
        url.set_fragment(None);
        if url.set_username("").is_err() || url.set_password(None).is_err() {
            return wrong("the URL names no host".to_owned());
        }
        let parts = Parts::of(&url);
        let text = url.into();
        Ok(Self { text, parts })
    }

    /// Whether it is asked under TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.parts.is_secure
    }

    /// Scheme, host (an IPv6 address without brackets) and port of the server.
    pub(super) fn server(&self) -> (&str, &str, u16) {
        let scheme = if self.parts.is_secure { "https" } else { "http" };
        let host = self.host();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        (scheme, bare.unwrap_or(host), self.parts.port)
    }

    fn host(&self) -> &str {
        let (begin, end) = self.parts.host;
        &self.text[begin..end]
    }

    /// Everything before the path.
    pub(super) fn front(&self) -> &str {
        &self.text[..self.parts.path]
    }

    /// What goes to ureq.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// What is shown: no query, because it may be what signs the URL.
    pub(super) fn place(&self) -> String {
        self.text[..self.parts.path_end].to_owned()
    }

    /// What is stored as the URL that answered: the query is marked, not kept.
    pub(super) fn without_secrets(&self) -> String {
        let has_query = self.parts.path_end < self.text.len();
        let mark = if has_query { "?***" } else { "" };
        self.place() + mark
    }

    /// Same scheme, host and port.
    ///
    /// Source: RFC 9110, section 4.3.1.
    pub(super) fn has_origin_of(&self, other: &Self) -> bool {
        self.is_secure() == other.is_secure() && self.host() == other.host() && self.parts.port == other.parts.port
    }
}

impl Parts {
    /// Those of a URL without user info and fragment.
    fn of(url: &Url) -> Self {
        let end = |position| url[..position].len();
        Self {
            is_secure: url.scheme() == "https",
            host: (end(Position::BeforeHost), end(Position::AfterHost)),
            port: url.port_or_known_default().unwrap_or_default(),
            path: end(Position::BeforePath),
            path_end: end(Position::AfterPath),
        }
    }

    /// Those of a text that is as plain as most URLs are: the parser would find nothing in it to write in another way, and
    /// costs many times as much. `None` where that is not certain, which means nothing else.
    fn of_plain(text: &str) -> Option<Self> {
        let (after, scheme, default_port) = match text.strip_prefix("http://") {
            Some(after) => (after, "http", 80),
            None => (text.strip_prefix("https://")?, "https", 443),
        };
        if text.len() > URL_BYTES_MAX || !SCHEMES.contains(&scheme) {
            return None;
        }
        let begin = text.len() - after.len();
        // Bytes are searched with fewer instructions than a text is for its characters.
        let (front, _) = after.split_at_checked(after.bytes().position(|byte| byte == b'/')?)?;
        let path = begin + front.len();
        let (host, port) = match front.bytes().position(|byte| byte == b':') {
            None => (front, default_port),
            Some(at) => (
                front.get(..at)?,
                plain_port(front.get(at + 1..)?).filter(|port| *port != default_port)?,
            ),
        };
        let path_end = path + plain_path(&text.as_bytes()[path..])?;
        is_plain_host(host).then_some(Self {
            is_secure: scheme == "https",
            host: (begin, begin + host.len()),
            port,
            path,
            path_end,
        })
    }
}

/// Digits without a zero before them.
fn plain_port(text: &str) -> Option<u16> {
    matches!(text.as_bytes().first(), Some(b'1'..=b'9')).then(|| text.parse().ok())?
}

/// An IPv4 address of four numbers, or a name of ASCII in lower case that is neither one in another form nor an
/// internationalised one.
fn is_plain_host(host: &str) -> bool {
    if host.parse::<Ipv4Addr>().is_ok() {
        return true;
    }
    let mut before = b'.';
    let mut begins_last = b'.';
    for byte in host.bytes() {
        let is_plain = match byte {
            b'a'..=b'z' | b'0'..=b'9' => true,
            b'.' | b'-' => !matches!(before, b'.' | b'-'),
            _ => false,
        };
        if !is_plain {
            return false;
        }
        if before == b'.' {
            begins_last = byte;
        }
        before = byte;
    }
    begins_last.is_ascii_lowercase() && before != b'.'
}

/// Where a path ends that has no segments of dots, and no letter, in its query neither, that is ever encoded.
fn plain_path(text: &[u8]) -> Option<usize> {
    let mut end = text.len();
    let mut before = b' ';
    for (at, byte) in text.iter().enumerate() {
        let is_plain = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' => true,
            b'.' => before != b'/',
            // What is encoded in a path may be a dot.
            b'%' => end < at,
            b'?' => {
                end = end.min(at);
                true
            }
            other => b"-_~!$&()*+,;=:@".contains(other),
        };
        if !is_plain {
            return None;
        }
        before = *byte;
    }
    Some(end)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn target(text: &str) -> Target {
        Target::parse(text).unwrap().0
    }

    #[test]
    fn what_is_shown_holds_neither_user_info_nor_query_nor_fragment() {
        let (target, credential) = Target::parse("HTTP://us%40er:p%3Ass@Example.COM:80/a%20b?sig=hush#part").unwrap();
        assert_eq!(target.as_str(), "http://example.com/a%20b?sig=hush");
        assert_eq!(target.place(), "http://example.com/a%20b");
        assert_eq!(target.without_secrets(), "http://example.com/a%20b?***");
        assert_eq!(
            credential,
            Some(Credential {
                user: "us@er".to_owned(),
                password: "p:ss".to_owned()
            })
        );
        assert_eq!(Target::parse("http://example.com/").unwrap().1, None);
    }

    #[test]
    fn a_url_that_cannot_be_fetched_says_why() {
        let rows = [
            ("example.com/file", "must begin with its scheme"),
            ("ftp://example.com/", "scheme ftp"),
            ("http://", "empty host"),
            ("http://[::1/", "invalid IPv6"),
            ("http://a:99999/", "invalid port"),
            ("http://b\u{fc}cher.example/", "xn--"),
            ("http://a b/", "invalid"),
        ];
        for (text, words) in rows {
            let problem = Target::parse(text).unwrap_err();
            assert!(problem.text.contains(words), "{text}: {}", problem.text);
        }
        let long = format!("http://example.com/{}", "x".repeat(URL_BYTES_MAX));
        assert!(Target::parse(&long).unwrap_err().text.contains("longer than"));
    }

    /// Also that what is called plain is so: the parser writes it as it is, and finds the same parts.
    #[test]
    fn a_plain_url_is_what_the_parser_makes_of_it() {
        let hosts = [
            "a",
            "a.b",
            "a-b.c9",
            "9a.b",
            "127.0.0.1",
            "127.0.0.01",
            "127.1",
            "1.2.3.4.5",
            "0x7f.1",
            "a.1",
            "a.0x1",
            "a.b.",
            "a..b",
            ".a",
            "xn--bcher-kva.de",
            "a--b",
            "-a",
            "a-",
            "A.b",
            "a_b",
            "256.1.1.1",
            "1.2.3.4.",
            "[::1]",
            "u@a",
            "",
            "a%62",
            "b\u{fc}cher",
            "a b",
            "0x",
            "a.0x",
            "a.9x",
        ];
        let ports = [
            "", ":", ":1", ":80", ":443", ":080", ":0", ":65535", ":65536", ":+1", ":1:2", ":x",
        ];
        let paths = [
            "/",
            "",
            "/a",
            "//a",
            "/a//",
            "/a/.",
            "/./a",
            "/../a",
            "/a/..",
            "/.a",
            "/a.b",
            "/a/...",
            "/%2e",
            "/a%20",
            "/a|b",
            "/a\\b",
            "/a b",
            "/a'b",
            "/a\"b",
            "/a{b",
            "/a^b",
            "/a`b",
            "/\u{fc}",
            "/a\tb",
            "/a?",
            "/a?b",
            "/a?b=%2F&c",
            "/a?b/../c",
            "/a?b?c",
            "/a?b'c",
            "/a?b|c",
            "/a#b",
            "/a?b#c",
            "?b",
            "/~a_!$&()*+,;=:@-",
            "/?/.",
            "/a ",
            "/C:/a",
            "/a;b=c/d",
        ];
        let mut plain = 0;
        for scheme in ["http", "https", "HTTP", "ftp", "file", ""] {
            for (host, port) in hosts.iter().flat_map(|host| ports.map(|port| (*host, port))) {
                for path in paths {
                    let text = format!("{scheme}://{host}{port}{path}");
                    let Some(found) = Parts::of_plain(&text) else { continue };
                    let url = Url::parse(&text).unwrap();
                    assert_eq!((url.as_str(), Parts::of(&url)), (&*text, found));
                    assert!(
                        url.fragment().is_none() && credential(&url).unwrap().is_none(),
                        "{text}"
                    );
                    plain += 1;
                }
            }
        }
        assert!(plain > 500, "{plain}");
    }

    #[test]
    fn hosts_come_in_every_form() {
        for text in [
            "http://[::1]:8080/",
            "http://127.0.0.1/",
            "http://xn--bcher-kva.example/",
        ] {
            assert_eq!(target(text).as_str(), text);
        }
    }

    /// Source: RFC 3986, section 5.4.
    #[test]
    fn a_location_is_joined_as_the_rfc_shows() {
        let base = target("http://a/b/c/d;p?q");
        let rows = [
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g", "http://g/"),
            ("?y", "http://a/b/c/d;p?y"),
            ("g?y#s", "http://a/b/c/g?y"),
            ("", "http://a/b/c/d;p?q"),
            ("..", "http://a/b/"),
            ("../../../g", "http://a/g"),
            ("http://x:y@h/", "http://h/"),
        ];
        for (location, expected) in rows {
            assert_eq!(base.join(location).unwrap().as_str(), expected, "{location}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let base = target("http://example.com/a");
        for (other, same) in [
            ("http://EXAMPLE.com:80/b?c", true),
            ("http://example.com:8080/", false),
            ("http://www.example.com/", false),
        ] {
            assert_eq!(target(other).has_origin_of(&base), same, "{other}");
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn https_is_another_origin_and_never_left() {
        let secure = target("https://example.com/");
        assert!(!secure.has_origin_of(&target("http://example.com/")));
        let problem = secure.join("http://example.com/").unwrap_err();
        assert_eq!(problem.status, WebErrorStatus::HTTPS_TO_HTTP_ON_REDIRECTION);
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn without_tls_the_scheme_https_is_refused_also_where_a_redirect_leads_there() {
        let words = "https needs a backhaul built with the feature 'tls'";
        let problem = Target::parse("https://example.com/").unwrap_err();
        assert_eq!(problem.status, WebErrorStatus::UNSUPPORTED_SCHEME);
        assert!(problem.text.contains(words), "{}", problem.text);
        let problem = target("http://example.com/").join("https://example.com/").unwrap_err();
        assert_eq!(problem.status, WebErrorStatus::REDIRECT_FAILED);
        assert!(problem.text.contains(words), "{}", problem.text);
    }
}
