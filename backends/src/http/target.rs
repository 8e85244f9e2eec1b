//! A URL as this backend uses it: checked, without user info and fragment, and shown without its query.

use url::{Position, Url};

use super::tls::SCHEMES;
use crate::parsed::{bad_url, credential};
use crate::problem::Problem;
use crate::{Credential, WebErrorStatus, is_plain_path};

/// Longest URL that is sent; servers commonly refuse more than 8 KiB, and it must fit the output buffer.
const URL_BYTES_MAX: usize = 32 * 1024;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    url: Url,
}

impl Target {
    /// Also gives the user info, where the URL has any.
    pub(super) fn parse(text: &str) -> Result<(Self, Option<Credential>), Problem> {
        let url = Url::parse(text).map_err(bad_url)?;
        let credential = credential(&url)?;
        Ok((Self::check(url)?, credential))
    }

    /// The root of its server.
    pub(super) fn root(&self) -> Self {
        let mut url = self.url.clone();
        url.set_query(None);
        url.set_path("/");
        Self { url }
    }

    /// What [`Target::parse`] makes of a URL below this root, at a fraction of the cost; `None` where it is not below it, or
    /// not as plain as that takes.
    pub(super) fn below(&self, text: &str) -> Option<Self> {
        let path = text.strip_prefix(self.front())?;
        (path.starts_with('/') && is_plain_path(path) && text.len() <= URL_BYTES_MAX).then(|| {
            let mut url = self.url.clone();
            url.set_path(path);
            Self { url }
        })
    }

    /// Follows a Location. User info in it is dropped: the server has no say in who we are.
    ///
    /// Source: RFC 9110, section 10.2.2.
    pub(super) fn join(&self, location: &str) -> Result<Self, Problem> {
        let redirected = |text: String| Problem::permanent(WebErrorStatus::REDIRECT_FAILED, text);
        let url = self
            .url
            .join(location)
            .map_err(|error| redirected(format!("redirected to a bad URL: {error}")))?;
        let next = Self::check(url).map_err(|problem| redirected(format!("redirected: {}", problem.text)))?;
        if self.url.scheme() == "https" && next.url.scheme() == "http" {
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
        Ok(Self { url })
    }

    /// Scheme, host (an IPv6 address without brackets) and port of the server.
    pub(super) fn server(&self) -> (&str, &str, u16) {
        let host = self.url.host_str().unwrap_or_default();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let port = self.url.port_or_known_default().unwrap_or_default();
        (self.url.scheme(), bare.unwrap_or(host), port)
    }

    /// Everything before the path.
    pub(super) fn front(&self) -> &str {
        &self.url[..Position::BeforePath]
    }

    /// What goes to ureq.
    pub(super) fn as_str(&self) -> &str {
        self.url.as_str()
    }

    /// What is shown: no query, because it may be what signs the URL.
    pub(super) fn place(&self) -> String {
        let mut shown = self.url.clone();
        shown.set_query(None);
        shown.into()
    }

    /// What is stored as the URL that answered: the query is marked, not kept.
    pub(super) fn without_secrets(&self) -> String {
        let mark = if self.url.query().is_some() { "?***" } else { "" };
        self.place() + mark
    }

    /// Same scheme, host and port.
    ///
    /// Source: RFC 9110, section 4.3.1.
    pub(super) fn has_origin_of(&self, other: &Self) -> bool {
        self.url.scheme() == other.url.scheme()
            && self.url.host() == other.url.host()
            && self.url.port_or_known_default() == other.url.port_or_known_default()
    }
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

    #[test]
    fn a_url_below_a_known_root_reads_as_it_does_alone() {
        let fronts = [
            "http://h",
            "HTTP://H:80",
            "http://h:81",
            "http://127.0.0.1:8088",
            "http://[::1]:8088",
            "http://ann:hush@h",
            "http://h.other",
            "http://",
        ];
        let rests = [
            "", "/", "//a", "/a/b.c", "/a..b/c.", "/.", "/..", "/a/../b", "/a/./b", "/a/.b", "/%41", "/a?b", "/a#b",
            "/a;b", "/a\\b", "/a b", "/\u{e4}", "@h/a", ":82/a", ".other/a", "x/a", "?b", "#b", "/a@h",
        ];
        let texts = || {
            fronts
                .iter()
                .flat_map(|front| rests.iter().map(move |rest| [*front, *rest].concat()))
        };
        let mut are_known = 0;
        for root in texts().filter_map(|text| Some(Target::parse(&text).ok()?.0.root())) {
            assert_eq!(root.url.path(), "/");
            for text in texts() {
                let Some(below) = root.below(&text) else { continue };
                are_known += 1;
                assert_eq!(Target::parse(&text).unwrap(), (below, None), "{text:?} below {root:?}");
            }
        }
        assert!(are_known > 100, "{are_known}");
        let root = target("http://h:81/a?sig=hush").root();
        assert_eq!(root.below("http://h:81/b/c.d"), Some(target("http://h:81/b/c.d")));
        assert_eq!(root.below(&format!("http://h:81/{}", "x".repeat(URL_BYTES_MAX))), None);
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
