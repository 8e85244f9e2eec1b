//! Messages of the Varlink protocol: JSON objects, each with a zero byte behind it. Pure.
//!
//! Source: varlink.org, "Service Interface" and "Method Calls".

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::fault::{Fault, without_value};

/// Longest reply that is taken, in bytes: a service that sends more is none of ours.
pub(crate) const REPLY_BYTES_MAX: usize = 32 << 20;

/// Bytes of a list or of a request body that go with one call. With the rest of the call around them, and a body as base64,
/// they fit the longest call that is taken where memory is limited.
pub(crate) const PART_BYTES_MAX: usize = 256 << 10;

/// A call as it comes in.
#[derive(Debug, Deserialize)]
pub(crate) struct Request<'a> {
    /// Interface and method.
    #[serde(borrow)]
    pub(crate) method: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) parameters: Option<&'a RawValue>,
    /// Several replies are wanted.
    #[serde(default)]
    pub(crate) more: bool,
    /// No reply is wanted.
    #[serde(default)]
    pub(crate) oneway: bool,
    /// Another protocol is wanted; this service has none.
    #[serde(default)]
    pub(crate) upgrade: bool,
}

/// A call as it goes out.
#[derive(Debug, Serialize)]
pub(crate) struct Call<'a, T> {
    pub(crate) method: &'a str,
    pub(crate) parameters: &'a T,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) more: bool,
}

/// A reply as it comes in.
#[derive(Debug, Deserialize)]
pub(crate) struct Reply<'a> {
    #[serde(borrow, default)]
    pub(crate) parameters: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(crate) error: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(crate) continues: bool,
}

#[derive(Serialize)]
struct Answer<'a, T> {
    parameters: &'a T,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    continues: bool,
}

/// Bytes of a stream, cut into messages.
#[derive(Debug)]
pub(crate) struct Incoming {
    buffer: Vec<u8>,
    /// Up to here no zero byte was found.
    searched: usize,
    bytes_max: usize,
}

/// A message is longer than is allowed. Nothing after it can be understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Incoming {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            buffer: Vec::new(),
            searched: 0,
            bytes_max,
        }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, without its zero byte.
    ///
    /// # Errors
    /// [`TooLong`].
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        let found = self.buffer[self.searched..].iter().position(|byte| *byte == 0);
        let Some(end) = found.map(|found| self.searched + found) else {
            self.searched = self.buffer.len();
            return if self.buffer.len() > self.bytes_max {
                Err(TooLong)
            } else {
                Ok(None)
            };
        };
        if end > self.bytes_max {
            return Err(TooLong);
        }
        let rest = self.buffer.split_off(end + 1);
        let mut message = std::mem::replace(&mut self.buffer, rest);
        message.pop();
        self.searched = 0;
        // What a burst has grown is not kept by one that is quiet.
        if self.buffer.is_empty() {
            self.buffer = Vec::new();
        }
        Ok(Some(message))
    }

    /// Bytes that are here and belong to no whole message.
    pub(crate) fn rest_bytes(&self) -> usize {
        self.buffer.len()
    }
}

/// Reads a call.
///
/// # Errors
/// What is wrong with it, on one line: it is no call at all, and the stream cannot be trusted any more.
pub(crate) fn parse_request(bytes: &[u8]) -> Result<Request<'_>, String> {
    if bytes.first().is_some_and(|byte| *byte == b'[') {
        return Err("the message is no call: a list is no object".to_owned());
    }
    let told = |error: serde_json::Error| format!("the message is no call: {}", without_value(&error.to_string()));
    serde_json::from_slice(bytes).map_err(told)
}

/// Reads the parameters of a call; those that are left out are taken for an empty object.
///
/// # Errors
/// `org.varlink.service.InvalidParameter`, with the name of the parameter.
pub(crate) fn parse_parameters<T: DeserializeOwned>(parameters: Option<&RawValue>) -> Result<T, Fault> {
    let text = parameters.map_or("{}", RawValue::get);
    // Else it would be taken for the fields in their order.
    if text.starts_with('[') {
        return Err(Fault::invalid_parameter("parameters", "a list is no object"));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        Fault::invalid_parameter(&path, &error.into_inner().to_string())
    })
}

/// The bytes of a reply.
pub(crate) fn reply<T: Serialize>(parameters: &T, continues: bool) -> Vec<u8> {
    framed(&Answer { parameters, continues })
}

/// The bytes of a reply that says why a call was refused.
pub(crate) fn refusal(fault: &Fault) -> Vec<u8> {
    framed(fault)
}

/// The bytes of a call.
///
/// # Errors
/// What of it has no JSON form: a path that is not UTF-8.
pub(crate) fn call<T: Serialize>(method: &str, parameters: &T, more: bool) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = serde_json::to_vec(&Call {
        method,
        parameters,
        more,
    })?;
    bytes.push(0);
    Ok(bytes)
}

fn framed<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = match serde_json::to_vec(value) {
        Ok(bytes) => bytes,
        Err(error) => unreachable!("what a service answers has a JSON form: {error}"),
    };
    bytes.push(0);
    bytes
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    #[test]
    fn messages_come_whole_however_the_stream_is_cut() {
        let stream = b"{\"a\":1}\0\0{\"b\":2}\0{\"c\"";
        for step in 1..=stream.len() {
            let mut incoming = Incoming::new(64);
            let mut messages = Vec::new();
            for bytes in stream.chunks(step) {
                incoming.push(bytes);
                while let Some(message) = incoming.next().unwrap() {
                    messages.push(message);
                }
            }
            assert_eq!(messages, [&b"{\"a\":1}"[..], b"", b"{\"b\":2}"], "in steps of {step}");
            assert_eq!(incoming.rest_bytes(), 4);
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_refused_before_it_is_all_there() {
        let mut incoming = Incoming::new(4);
        incoming.push(b"1234\0");
        assert_eq!(incoming.next(), Ok(Some(b"1234".to_vec())));
        incoming.push(b"12345");
        assert_eq!(incoming.next(), Err(TooLong));
        let mut incoming = Incoming::new(4);
        incoming.push(b"12345\0");
        assert_eq!(incoming.next(), Err(TooLong));
    }

    #[test]
    fn a_wrong_parameter_is_named() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "only read from JSON")]
        struct Wanted {
            ids: Vec<u32>,
        }
        let parse = |text: &str| {
            let raw: Box<RawValue> = serde_json::from_str(text).unwrap();
            parse_parameters::<Wanted>(Some(&raw)).unwrap_err()
        };
        assert_eq!(parse("{\"ids\":[1,\"x\"]}").parameter(), Some("ids[1]"));
        assert_eq!(parse("{\"odd\":1}").parameter(), Some("odd"));
        assert_eq!(parse("{}").parameter(), Some("ids"));
        assert_eq!(parse("[]").parameter(), Some("parameters"), "a list is no object");
        assert_eq!(parse("[[1]]").parameter(), Some("parameters"), "a list is no object");
        assert_eq!(parse("5").parameter(), Some("parameters"), "a number is no name");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_not_repeated() {
        #[derive(Debug, Deserialize)]
        #[expect(dead_code, reason = "only read from JSON")]
        struct Wanted {
            secret_headers: Vec<String>,
        }
        let values = [
            r#""hunter2""#,
            r#""a\", expected \"hunter2""#,
            r#""hunter2`, expected x""#,
            r#"[["hunter2"]]"#,
            "7702",
            "[7702.5]",
            r#"{"hunter2":1}"#,
        ];
        for value in values {
            let raw: Box<RawValue> = serde_json::from_str(&format!("{{\"secret_headers\":{value}}}")).unwrap();
            let fault = parse_parameters::<Wanted>(Some(&raw)).unwrap_err();
            let told = String::from_utf8(refusal(&fault)).unwrap();
            assert!(told.contains("secret_headers") && told.contains("expected"), "{told}");
            assert!(
                !told.contains("hunter2") && !told.contains("7702"),
                "{value} is told: {told}"
            );
            let message = format!("{{\"method\":\"a.b\",\"more\":{value}}}");
            let told = parse_request(message.as_bytes()).unwrap_err();
            assert!(
                !told.contains("hunter2") && !told.contains("7702"),
                "{value} is told: {told}"
            );
        }
    }
}
