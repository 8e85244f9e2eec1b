//! A URL as this backend uses it: checked, without user info and fragment, and shown without its query.

use url::Url;

use super::problem::Problem;
use crate::{Credential, WebErrorStatus};

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
        let credential = credential(&url);
        Ok((Self::check(url)?, credential))
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
        if !matches!(url.scheme(), "http" | "https") {
            let text = format!("the scheme {} is not http or https", url.scheme());
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

fn bad_url(error: url::ParseError) -> Problem {
    let hint = match error {
        url::ParseError::IdnaError => "; write an international host name in its xn-- form",
        url::ParseError::RelativeUrlWithoutBase => "; it must begin with http:// or https://",
        _ => "",
    };
    Problem::permanent(
        WebErrorStatus::UNEXPECTED_CLIENT_ERROR,
        format!("not a URL: {error}{hint}"),
    )
}

fn credential(url: &Url) -> Option<Credential> {
    let password = url.password();
    if url.username().is_empty() && password.is_none() {
        return None;
    }
    let decode = |text| {
        percent_encoding::percent_decode_str(text)
            .decode_utf8_lossy()
            .into_owned()
    };
    Some(Credential {
        user: decode(url.username()),
        password: decode(password.unwrap_or_default()),
    })
}
