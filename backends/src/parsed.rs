//! What backends that parse URLs have in common.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use url::{ParseError, Url};

use crate::problem::Problem;
use crate::{Credential, WebErrorStatus};

/// Why a text is no URL.
pub(crate) fn bad_url(error: ParseError) -> Problem {
    let hint = match error {
        ParseError::IdnaError => "; write an international host name in its xn-- form",
        ParseError::RelativeUrlWithoutBase => "; it must begin with its scheme, as http:// or ftp://",
        _ => "",
    };
    let text = format!("not a URL: {error}{hint}");
    Problem::permanent(WebErrorStatus::UNEXPECTED_CLIENT_ERROR, text)
}

/// The user info of a URL, decoded; `None` where it has none.
pub(crate) fn credential(url: &Url) -> Result<Option<Credential>, Problem> {
    let password = url.password();
    if url.username().is_empty() && password.is_none() {
        return Ok(None);
    }
    let decode = |text| percent_decode_str(text).decode_utf8().map(Cow::into_owned);
    match (decode(url.username()), decode(password.unwrap_or_default())) {
        (Ok(user), Ok(password)) => Ok(Some(Credential { user, password })),
        _ => Err(Problem::permanent(
            WebErrorStatus::UNEXPECTED_CLIENT_ERROR,
            "the user name or the password is no UTF-8 once each %XX is read",
        )),
    }
}
