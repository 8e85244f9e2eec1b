//! A URL as this backend uses it.
//!
//! Source: RFC 1738, section 3.2.

use std::fmt::Write;

use percent_encoding::percent_decode_str;
use url::Url;

use crate::problem::Problem;
use crate::{Credential, WebErrorStatus};

/// Longest URL that is taken: the longest path that Linux has, each byte escaped, and room for the rest.
const URL_BYTES_MAX: usize = 16 * 1024;

/// Most directories in a path; libcurl takes as many.
const DEPTH_MAX: usize = 999;

/// How the connections are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protection {
    /// `ftp`: not at all.
    None,
    /// `ftps`: from the first byte on.
    #[cfg(feature = "ftps")]
    Implicit,
    /// `ftpes`: from AUTH TLS on, which comes before anything else.
    #[cfg(feature = "ftps")]
    Explicit,
}

/// Schemes, how each is protected, and its port (RFC 959; IANA's registry for ftps).
pub(super) const SCHEMES: &[(&str, Protection, u16)] = &[
    ("ftp", Protection::None, 21),
    #[cfg(feature = "ftps")]
    ("ftps", Protection::Implicit, 990),
    #[cfg(feature = "ftps")]
    ("ftpes", Protection::Explicit, 21),
];

/// One file on one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    scheme: &'static str,
    pub(super) protection: Protection,
    /// A name, or an address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// The path with all that is special in it escaped, without its first slash and without a type.
    path: String,
    /// What commands call the file, in the directory that the path leads to: bytes of no certain encoding.
    pub(super) file: Vec<u8>,
    shown: String,
    has_query: bool,
}

impl Target {
    /// Also gives the user info, where the URL has any.
    pub(super) fn parse(text: &str) -> Result<(Self, Option<Credential>), Problem> {
        if text.len() > URL_BYTES_MAX {
            return wrong(format!("a URL of {} bytes is longer than {URL_BYTES_MAX}", text.len()));
        }
        let (scheme, rest) = text.trim().split_once(':').unwrap_or_default();
        let known = SCHEMES.iter().find(|(known, ..)| scheme.eq_ignore_ascii_case(known));
        let Some(&(scheme, protection, default_port)) = known else {
            let known: Vec<&str> = SCHEMES.iter().map(|(known, ..)| *known).collect();
            let text = format!("the scheme is not one of {}", known.join(", "));
            return Err(Problem::permanent(WebErrorStatus::UNSUPPORTED_SCHEME, text));
        };
        // Only of the schemes that it knows, the parser checks the host; only of others, it keeps every port.
        let url = Url::parse(&format!("ftp:{rest}")).map_err(bad_url)?;
        let port = Url::parse(&format!("x-ftp:{rest}")).ok().and_then(|url| url.port());
        let host = url.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return wrong("the URL names no host".to_owned());
        }
        let port = port.unwrap_or(default_port);
        let shown_port = if port == default_port {
            String::new()
        } else {
            format!(":{port}")
        };
        let shown = format!("{scheme}://{}{shown_port}{}", bracketed(&host), url.path());
        let (path, file) = path(&url)?;
        let target = Self {
            scheme,
            protection,
            host,
            port,
            path,
            file,
            shown,
            has_query: url.query().is_some(),
        };
        Ok((target, credential(&url)))
    }

    /// What goes to libcurl.
    pub(super) fn as_libcurl_has_it(&self) -> String {
        // Explicit protection is an option there, not a scheme.
        let scheme = if self.scheme == "ftps" { "ftps" } else { "ftp" };
        format!("{scheme}://{}:{}/{}", bracketed(&self.host), self.port, self.path)
    }

    /// The protection is asked for on a connection that begins without.
    pub(super) fn is_explicit(&self) -> bool {
        self.scheme == "ftpes"
    }

    /// What is shown: no query, as with every URL.
    pub(super) fn place(&self) -> &str {
        &self.shown
    }

    /// What is stored as the URL that answered: the query is marked, not kept.
    pub(super) fn without_secrets(&self) -> String {
        format!("{}{}", self.shown, if self.has_query { "?***" } else { "" })
    }
}

/// An IPv6 address as it stands in URLs.
pub(super) fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

/// The escaped path, and the name of the file. FTP knows no query: a question mark is part of a name.
fn path(url: &Url) -> Result<(String, Vec<u8>), Problem> {
    let escaped = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let escaped = escaped.strip_prefix('/').unwrap_or(&escaped);
    let escaped = without_type(escaped)?;
    let bytes: Vec<u8> = percent_decode_str(escaped).collect();
    if bytes.iter().any(u8::is_ascii_control) {
        return wrong("the path holds a control character (%00 to %1F, %7F), which no command can carry".to_owned());
    }
    if bytes.split(|&byte| byte == b'/').count() > DEPTH_MAX + 1 {
        return wrong(format!("the path has more than {DEPTH_MAX} directories"));
    }
    let file = bytes.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    if file.is_empty() {
        return wrong("the path ends in a slash: it is a directory, and only a file can be fetched".to_owned());
    }
    Ok((escape(&bytes), file.to_vec()))
}

/// RFC 1738, section 3.2.2: `;type=` and one letter.
fn without_type(path: &str) -> Result<&str, Problem> {
    let Some((before, letter)) = path.len().checked_sub(7).and_then(|at| path.split_at_checked(at)) else {
        return Ok(path);
    };
    let Some((";type=", letter)) = letter.split_at_checked(6) else {
        return Ok(path);
    };
    match letter {
        "i" | "I" => Ok(before),
        "a" | "A" => wrong("the URL asks for conversion of text (;type=a); only ;type=i keeps the bytes".to_owned()),
        "d" | "D" => wrong("the URL asks for a listing (;type=d), and only a file can be fetched".to_owned()),
        _ => Ok(path),
    }
}

/// All that means something in a URL, and slashes kept.
fn escape(path: &[u8]) -> String {
    path.iter().fold(String::new(), |mut escaped, &byte| {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
        escaped
    })
}

fn wrong<T>(text: String) -> Result<T, Problem> {
    Err(Problem::permanent(WebErrorStatus::UNEXPECTED_CLIENT_ERROR, text))
}

fn bad_url(error: url::ParseError) -> Problem {
    let hint = match error {
        url::ParseError::IdnaError => "; write an international host name in its xn-- form",
        _ => "",
    };
    let text = format!("not a URL: {error}{hint}");
    Problem::permanent(WebErrorStatus::UNEXPECTED_CLIENT_ERROR, text)
}

fn credential(url: &Url) -> Option<Credential> {
    let password = url.password();
    if url.username().is_empty() && password.is_none() {
        return None;
    }
    let decode = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
    Some(Credential {
        user: decode(url.username()),
        password: decode(password.unwrap_or_default()),
    })
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
        let (target, credential) = Target::parse("FTP://us%40er:p%3Ass@Example.COM/a%20b?sig=hush#part").unwrap();
        assert_eq!(target.place(), "ftp://example.com/a%20b");
        assert_eq!(target.without_secrets(), "ftp://example.com/a%20b?***");
        assert_eq!(target.as_libcurl_has_it(), "ftp://example.com:21/a%20b%3Fsig%3Dhush");
        assert_eq!(target.file, b"a b?sig=hush");
        let expected = Credential {
            user: "us@er".to_owned(),
            password: "p:ss".to_owned(),
        };
        assert!(credential == Some(expected));
        assert!(Target::parse("ftp://example.com/a").unwrap().1.is_none());
    }

    /// Source: RFC 1738, section 3.2.2.
    #[test]
    fn a_path_is_relative_to_the_login_unless_it_begins_with_an_escaped_slash() {
        let rows = [
            ("ftp://h/a/b/c", "a/b/c", "c"),
            ("ftp://h/%2Fetc/motd", "/etc/motd", "motd"),
            ("ftp://h//etc/motd", "/etc/motd", "motd"),
            ("ftp://h/a%2Fb", "a/b", "b"),
            ("ftp://h/a/../b", "b", "b"),
            ("ftp://h/a;type=i", "a", "a"),
            ("ftp://h/a;type=I", "a", "a"),
            ("ftp://h/a;type=x", "a%3Btype%3Dx", "a;type=x"),
            ("ftp://h/a%3Btype=a", "a%3Btype%3Da", "a;type=a"),
            ("ftp://h/;type=i/x", "%3Btype%3Di/x", "x"),
            ("ftp://h/%C3%A9t%C3%A9 *", "%C3%A9t%C3%A9%20%2A", "\u{e9}t\u{e9} *"),
            ("ftp://h/a%25b", "a%25b", "a%b"),
        ];
        for (text, path, file) in rows {
            let target = target(text);
            assert_eq!(
                (target.path.as_str(), &target.file[..]),
                (path, file.as_bytes()),
                "{text}"
            );
        }
    }

    #[test]
    fn hosts_and_ports_come_in_every_form() {
        let rows = [
            ("ftp://EXAMPLE.com/a", "example.com", 21),
            ("ftp://example.com:21/a", "example.com", 21),
            ("ftp://127.0.0.1:2121/a", "127.0.0.1", 2121),
            ("ftp://[::1]:2121/a", "::1", 2121),
            ("ftp://xn--bcher-kva.example/a", "xn--bcher-kva.example", 21),
        ];
        for (text, host, port) in rows {
            let target = target(text);
            assert_eq!((target.host.as_str(), target.port), (host, port), "{text}");
        }
        assert_eq!(target("ftp://h/%E9%fe").file, b"\xe9\xfe");
        assert_eq!(target("ftp://[::1]:2121/a").as_libcurl_has_it(), "ftp://[::1]:2121/a");
        assert_eq!(target("ftp://u@[::1]:2121/a").place(), "ftp://[::1]:2121/a");
    }

    #[cfg(feature = "ftps")]
    #[test]
    fn each_scheme_has_its_protection_and_its_port() {
        let rows = [
            ("ftps://h/a", Protection::Implicit, 990, "ftps://h:990/a", "ftps://h/a"),
            (
                "ftps://h:21/a",
                Protection::Implicit,
                21,
                "ftps://h:21/a",
                "ftps://h:21/a",
            ),
            ("FTPES://H/a", Protection::Explicit, 21, "ftp://h:21/a", "ftpes://h/a"),
            (
                "ftpes://h:990/a",
                Protection::Explicit,
                990,
                "ftp://h:990/a",
                "ftpes://h:990/a",
            ),
        ];
        for (text, protection, port, libcurl, shown) in rows {
            let target = target(text);
            assert_eq!((target.protection, target.port), (protection, port), "{text}");
            assert_eq!(
                (target.as_libcurl_has_it().as_str(), target.place()),
                (libcurl, shown),
                "{text}"
            );
        }
    }

    #[test]
    fn a_url_that_cannot_be_fetched_says_why() {
        let rows = [
            ("http://h/a", "not one of ftp"),
            ("h/a", "not one of ftp"),
            ("ftp://", "empty host"),
            ("ftp://[::1/a", "invalid IPv6"),
            ("ftp://h:99999/a", "invalid port"),
            ("ftp://b\u{fc}cher.example/a", "xn--"),
            ("ftp://h", "directory"),
            ("ftp://h/", "directory"),
            ("ftp://h/a/", "directory"),
            ("ftp://h/a%2F", "directory"),
            ("ftp://h/a/;type=i", "directory"),
            ("ftp://h/a;type=a", ";type=a"),
            ("ftp://h/a;type=D", ";type=d"),
            ("ftp://h/a%0d%0aDELE%20b", "control character"),
            ("ftp://h/a%00", "control character"),
            ("ftp://h/%0A/a", "control character"),
        ];
        for (text, words) in rows {
            let problem = Target::parse(text).unwrap_err();
            assert!(problem.text.contains(words), "{text}: {}", problem.text);
        }
        for (long, words) in [
            (format!("ftp://h/{}", "x".repeat(URL_BYTES_MAX)), "longer than"),
            (format!("ftp://h/{}a", "x/".repeat(DEPTH_MAX + 1)), "directories"),
        ] {
            assert!(Target::parse(&long).unwrap_err().text.contains(words));
        }
    }
}
