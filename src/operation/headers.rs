//! Header fields of a response, as the journal stores them: few, and none of what stands beside them twice.

use std::borrow::Cow;

use backhaul_backends::HeaderFields;
use minicbor::data::Type;
use minicbor::decode::Error as DecodeError;
use minicbor::{Decode, Decoder};

use super::event::StoredValidators;
use super::form::{Form, Put, encode_as_put};

/// Most bytes of names and values that are kept of one response (chosen without measurement; common servers send 200 to
/// 600).
pub(crate) const HEADERS_BYTES_MAX: usize = 1536;

/// Room for the fields of a common response, before they are put where they are kept.
const ROOM_BYTES: usize = 256;

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
#[derive(Clone, Debug, Default, PartialEq, Eq, Decode)]
#[cbor(map)]
pub(crate) struct StoredHeaders {
    #[n(0)]
    fields: Fields,
    /// There were more of them.
    #[n(1)]
    is_cut: bool,
}

/// Fields as the bytes of their journal form, an array of arrays of one or two texts: they are copied much more often than
/// they are looked at, and many small texts would take several times as much.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Fields {
    count: u64,
    bytes: Box<[u8]>,
}

impl Fields {
    /// The next field: its name, and its value where that does not stand beside it.
    fn next<'b>(decoder: &mut Decoder<'b>) -> Result<(&'b str, Option<&'b str>), DecodeError> {
        let count = decoder.array()?;
        let count = count.ok_or_else(|| DecodeError::message("a header field without a length"))?;
        let name = decoder.str()?;
        let value = match count {
            0 | 1 => None,
            _ if decoder.datatype()? == Type::Null => {
                decoder.null()?;
                None
            }
            _ => Some(decoder.str()?),
        };
        for _ in 2..count {
            decoder.skip()?;
        }
        Ok((name, value))
    }

    fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let mut decoder = Decoder::new(&self.bytes);
        (0..self.count).filter_map(move |_| Self::next(&mut decoder).ok())
    }
}

encode_as_put!(StoredHeaders);

impl Put for StoredHeaders {
    fn put(&self, form: &mut Form<'_>) {
        form.map(|map| {
            map.key(0).array_of(self.fields.count, &self.fields.bytes);
            map.key(1).flag(self.is_cut);
        });
    }
}

impl<'b, C> Decode<'b, C> for Fields {
    fn decode(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Self, DecodeError> {
        let count = decoder.array()?;
        let count = count.ok_or_else(|| DecodeError::message("header fields without their number"))?;
        let start = decoder.position();
        for _ in 0..count {
            Self::next(decoder)?;
        }
        let bytes = decoder.input().get(start..decoder.position()).unwrap_or_default();
        let bytes = bytes.into();
        Ok(Self { count, bytes })
    }
}

impl StoredHeaders {
    /// Keeps what fits into [`HEADERS_BYTES_MAX`].
    pub(crate) fn new(sent: &HeaderFields, beside: Beside<'_>) -> Self {
        let (mut count, mut is_cut) = (0, false);
        let mut left = HEADERS_BYTES_MAX;
        let mut bytes = Vec::with_capacity(if sent.is_empty() { 0 } else { ROOM_BYTES });
        let mut form = Form::at_end_of(&mut bytes);
        for (name, value) in sent.iter() {
            if OF_THE_CONNECTION.iter().any(|other| other.eq_ignore_ascii_case(name)) {
                continue;
            }
            let Some(rest) = left.checked_sub(name.len() + value.len() + FIELD_BYTES) else {
                is_cut = true;
                continue;
            };
            left = rest;
            count += 1;
            let is_beside = beside.value(name).as_deref() == Some(value);
            form.array(if is_beside { 1 } else { 2 });
            form.text(name);
            if !is_beside {
                form.text(value);
            }
        }
        let bytes = bytes.into_boxed_slice();
        let fields = Fields { count, bytes };
        Self { fields, is_cut }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.fields.count == 0 && !self.is_cut
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Names and values as they were sent.
    pub(crate) fn pairs(&self, beside: Beside<'_>) -> Vec<(String, String)> {
        let pair = |(name, value): (&str, Option<&str>)| {
            let value = value.map(Cow::Borrowed).or_else(|| beside.value(name));
            (name.to_owned(), value.map(Cow::into_owned).unwrap_or_default())
        };
        self.fields.iter().map(pair).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minicbor::Encode;

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    fn fields(sent: &[(String, String)]) -> HeaderFields {
        sent.iter().map(|(name, value)| (name, value)).collect()
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
        let stored = StoredHeaders::new(&fields(&sent), beside);
        let expected: Vec<_> = sent.iter().filter(|(name, _)| name != "Connection").cloned().collect();
        assert_eq!(stored.pairs(beside), expected);
        assert!(!stored.is_cut());
        let bytes = minicbor::to_vec(&stored).map_or(0, |bytes| bytes.len());
        assert!(bytes < 110, "{bytes} bytes: a value is stored twice");
    }

    /// The form in which the fields were derived from texts.
    #[derive(Encode, Decode)]
    struct Field {
        #[n(0)]
        name: String,
        #[n(1)]
        value: Option<String>,
    }

    #[test]
    fn the_fields_are_in_the_journal_what_a_list_of_texts_would_be() {
        let validators = StoredValidators {
            etag: Some("\"1\"".into()),
            ..StoredValidators::default()
        };
        let beside = Beside {
            validators: &validators,
            content_type: None,
        };
        let stored = StoredHeaders::new(&fields(&[pair("Server", "nginx"), pair("ETag", "\"1\"")]), beside);
        let mut bytes = Vec::new();
        Form::at_end_of(&mut bytes).array_of(stored.fields.count, &stored.fields.bytes);
        let fields: Vec<Field> = minicbor::decode(&bytes).unwrap_or_default();
        let shown: Vec<_> = fields
            .iter()
            .map(|field| (&*field.name, field.value.as_deref()))
            .collect();
        assert_eq!(shown, [("Server", Some("nginx")), ("ETag", None)]);
        assert_eq!(minicbor::to_vec(&fields).unwrap_or_default(), bytes);
        assert_eq!(
            minicbor::decode::<StoredHeaders>(&minicbor::to_vec(&stored).unwrap_or_default()).ok(),
            Some(stored)
        );
        // A name that is no text.
        assert!(minicbor::decode::<Fields>(&[0x81, 0x81, 1]).is_err());
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
        let stored = StoredHeaders::new(&fields(&sent), beside);
        let names: Vec<String> = stored.pairs(beside).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["A", "B"]);
        assert!(stored.is_cut());
        let tiny = vec![pair("A", ""); 2 * HEADERS_BYTES_MAX];
        let stored = minicbor::to_vec(StoredHeaders::new(&fields(&tiny), beside)).map_or(0, |bytes| bytes.len());
        assert!(stored <= HEADERS_BYTES_MAX + 16, "{stored} bytes of many small fields");
    }
}
