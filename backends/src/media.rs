//! Media types: whether what a server sent can be the content at all. Pure.
//!
//! Source: RFC 9110, section 8.3.1. Types are compared without their parameters and in any case.

use crate::Held;

/// A response that is not the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Impostor {
    /// It goes away by itself: a page, as from a network that wants a login first (a captive portal).
    pub(crate) passes: bool,
    /// What came, and what should have come.
    pub(crate) text: String,
}

/// Whether a media type is that of a web page, which captive portals put in the place of anything.
#[must_use]
pub fn is_page(content_type: &str) -> bool {
    matches!(essence(content_type).as_str(), "text/html" | "application/xhtml+xml")
}

/// What is wrong with a whole response by its media type, if anything.
///
/// `expected` is `type/subtype` or `type/*` in lower case. Where bytes are held of a response that was no page, a page does
/// not follow on them. A response that names no type is no impostor.
pub(crate) fn impostor(expected: Option<&str>, held: Option<&Held>, actual: Option<&str>) -> Option<Impostor> {
    // Nothing is known of what should come.
    if expected.is_none() && held.is_none() {
        return None;
    }
    let actual = actual?;
    let passes = is_page(actual);
    let hint = if passes { "; it may want somebody to log in" } else { "" };
    let actual_type = essence(actual);
    let holds_no_page = || {
        let held = held.filter(|held| held.offset_bytes > 0);
        held.is_some_and(|held| !held.content_type.as_deref().is_some_and(is_page))
    };
    let text = match expected {
        Some(expected) if !matches(expected, &actual_type) => {
            format!("the server sent content of type '{actual_type}', '{expected}' is expected{hint}")
        }
        None if passes && holds_no_page() => {
            format!("the server sent a web page ('{actual_type}') in place of the rest{hint}")
        }
        _ => return None,
    };
    Some(Impostor { passes, text })
}

/// `type/subtype`, in lower case.
fn essence(content_type: &str) -> String {
    let before_parameters = content_type.split(';').next().unwrap_or_default();
    before_parameters.trim().to_ascii_lowercase()
}

fn matches(expected: &str, actual: &str) -> bool {
    match expected.strip_suffix('*') {
        Some(start) => actual.starts_with(start),
        None => actual == expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Validators;

    #[test]
    fn what_comes_is_judged_by_what_is_expected_and_by_what_is_held() {
        const IMAGE: &str = "application/octet-stream";
        const PAGE: &str = "Text/HTML; charset=utf-8";
        // Each row: what is expected, what is held, what came, and the verdict.
        #[rustfmt::skip]
        let rows = [
            ("nothing asked, nothing held", None, None, Some(PAGE), "content"),
            ("no type came", Some(IMAGE), Some(Some(IMAGE)), None, "content"),
            ("as expected", Some(IMAGE), None, Some("Application/Octet-Stream; x=y"), "content"),
            ("a class as expected", Some("image/*"), None, Some("IMAGE/png"), "content"),
            ("a class that only begins alike", Some("image/*"), None, Some("imagery/png"), "never"),
            ("another type", Some(IMAGE), None, Some("application/json"), "never"),
            ("a type that only begins alike", Some("text/x"), None, Some("text/xml"), "never"),
            ("a page for another type", Some(IMAGE), None, Some(PAGE), "later"),
            ("a page as expected", Some("text/html"), Some(Some(IMAGE)), Some(PAGE), "content"),
            ("XHTML", Some(IMAGE), None, Some("application/xhtml+xml"), "later"),
            ("a page after what was none", None, Some(Some(IMAGE)), Some(PAGE), "later"),
            ("a page after what had no type", None, Some(None), Some(PAGE), "later"),
            ("a page after a page", None, Some(Some("text/html")), Some(PAGE), "content"),
            ("another type after what was none", None, Some(Some(IMAGE)), Some("text/plain"), "content"),
        ];
        for (rule, expected, held, actual, verdict) in rows {
            let held = held.map(|content_type: Option<&str>| Held {
                offset_bytes: 5,
                validators: Validators::default(),
                content_type: content_type.map(str::to_owned),
                ..Held::default()
            });
            let word = match impostor(expected, held.as_ref(), actual) {
                None => "content",
                Some(Impostor { passes: true, .. }) => "later",
                Some(Impostor { passes: false, .. }) => "never",
            };
            assert_eq!(word, verdict, "{rule}");
        }
    }
}
