//! Header fields of a response, as the journal stores them: few, and none of what stands beside them twice.

use std::borrow::Cow;

use minicbor::{Decode, Encode};

use super::event::StoredValidators;

/// Most bytes of names and values that are kept of one response (chosen without measurement; common servers send 200 to
/// 600).
pub(crate) const HEADERS_BYTES_MAX: usize = 1536;

/// What a field takes in the journal besides name and value, at most: counted too, as there are fields of a few bytes.
const FIELD_BYTES: usize = 7;

/// Fields that say something of one connection and nothing of the response, in lower case.
///
/// Source: RFC 9110, section 7.6.1.
const OF_THE_CONNECTION: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What of a response is stored elsewhere: the values of these fields need not be stored again.
#[derive(Clone, Copy)]
pub(crate) struct Beside<'a> {
    pub(crate) validators: &'a StoredValidators,
    pub(crate) content_type: Option<&'a str>,
}

impl Beside<'_> {
    fn value(&self, name: &str) -> Option<Cow<'_, str>> {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let validators = self.validators;
        let text = if is("etag") {
            validators.etag.as_deref()
        } else if is("last-modified") {
            validators.last_modified.as_deref()
        } else if is("date") {
            validators.date.as_deref()
        } else if is("content-type") {
            self.content_type
        } else if is("content-length") {
            return validators.total_bytes.map(|total| total.to_string().into());
        } else {
            None
        };
        text.map(Cow::Borrowed)
    }
}

/// Header fields in the order and the case that they were sent in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct StoredHeaders {
    #[n(0)]
    fields: Vec<Field>,
    /// There were more of them.
    #[n(1)]
    is_cut: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct Field {
    #[n(0)]
    name: String,
    /// What is stored beside it where `None`.
    #[n(1)]
    value: Option<String>,
}

impl StoredHeaders {
    /// Keeps what fits into [`HEADERS_BYTES_MAX`].
    pub(crate) fn new(sent: &[(String, String)], beside: Beside<'_>) -> Self {
        let mut stored = Self::default();
        let mut left = HEADERS_BYTES_MAX;
        for (name, value) in sent {
            if OF_THE_CONNECTION.iter().any(|other| other.eq_ignore_ascii_case(name)) {
                continue;
            }
            let Some(rest) = left.checked_sub(name.len() + value.len() + FIELD_BYTES) else {
                stored.is_cut = true;
                continue;
            };
            left = rest;
            let is_beside = beside.value(name).as_deref() == Some(value);
            stored.fields.push(Field {
                name: name.clone(),
                value: (!is_beside).then(|| value.clone()),
            });
        }
        stored
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.fields.is_empty() && !self.is_cut
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Names and values as they were sent.
    pub(crate) fn pairs(&self, beside: Beside<'_>) -> Vec<(String, String)> {
        let fields = self.fields.iter();
        let value = |field: &Field| {
            field
                .value
                .clone()
                .or_else(|| beside.value(&field.name).map(Cow::into_owned))
        };
        fields
            .map(|field| (field.name.clone(), value(field).unwrap_or_default()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn fields_come_back_as_they_were_sent_and_what_stands_beside_them_is_stored_once() {
        let validators = StoredValidators {
            etag: Some("\"0123456789abcdef\"".into()),
            last_modified: Some("Sun, 06 Nov 1994 08:49:37 GMT".into()),
            date: Some("Sun, 06 Nov 1994 08:49:38 GMT".into()),
            total_bytes: Some(1234),
        };
        let beside = Beside {
            validators: &validators,
            content_type: Some("application/octet-stream"),
        };
        let sent = [
            pair("Server", "nginx"),
            pair("ETag", "\"0123456789abcdef\""),
            pair("etag", "another"),
            pair("Connection", "keep-alive"),
            pair("LAST-MODIFIED", "Sun, 06 Nov 1994 08:49:37 GMT"),
            pair("Date", "Sun, 06 Nov 1994 08:49:38 GMT"),
            pair("content-type", "application/octet-stream"),
            pair("Content-Length", "1234"),
        ];
        let stored = StoredHeaders::new(&sent, beside);
        let expected: Vec<_> = sent.iter().filter(|(name, _)| name != "Connection").cloned().collect();
        assert_eq!(stored.pairs(beside), expected);
        assert!(!stored.is_cut());
        let bytes = minicbor::to_vec(&stored).map_or(0, |bytes| bytes.len());
        assert!(bytes < 110, "{bytes} bytes: a value is stored twice");
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_said_to_be() {
        let validators = StoredValidators::default();
        let beside = Beside {
            validators: &validators,
            content_type: None,
        };
        let sent = [
            pair("A", &"x".repeat(HEADERS_BYTES_MAX - 2 * FIELD_BYTES - 3)),
            pair("Long", "does not fit"),
            pair("B", "c"),
            pair("D", ""),
        ];
        let stored = StoredHeaders::new(&sent, beside);
        let names: Vec<String> = stored.pairs(beside).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["A", "B"]);
        assert!(stored.is_cut());
        let tiny = vec![pair("A", ""); 2 * HEADERS_BYTES_MAX];
        let stored = minicbor::to_vec(StoredHeaders::new(&tiny, beside)).map_or(0, |bytes| bytes.len());
        assert!(stored <= HEADERS_BYTES_MAX + 16, "{stored} bytes of many small fields");
    }
}
