//! What a response says of the digests of the resource: Repr-Digest, Content-Digest and the old Digest.
//!
//! Sources: RFC 9530, sections 2 and 3; RFC 8941, section 4.2 (a Dictionary of Byte Sequences); RFC 3230, section 4.3.2.
//! A member of an unknown algorithm is skipped, and a field that is malformed says nothing at all. Every parser goes
//! over its text once, and the text is no longer than a response head may be.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::{Digest, DigestAlgorithm};

/// Algorithms that servers are believed: those that RFC 9530, section 5, calls active.
const TAKEN: [DigestAlgorithm; 2] = [DigestAlgorithm::Sha512, DigestAlgorithm::Sha256];

/// Padding may be missing (RFC 8941, section 4.2.7).
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The digests of the whole resource that several fields tell together, strongest first. Where two of them contradict
/// each other, that algorithm says nothing.
pub(super) fn together(fields: &[Vec<Digest>]) -> Vec<Digest> {
    let of = |algorithm| {
        let mut told = fields.iter().flatten().filter(|digest| digest.algorithm() == algorithm);
        let first = told.next()?;
        told.all(|other| other == first).then(|| first.clone())
    };
    TAKEN.into_iter().filter_map(of).collect()
}

/// The members of Repr-Digest or Content-Digest; nothing where it is malformed.
pub(super) fn parse_dictionary(text: &str) -> Vec<Digest> {
    let mut parser = Parser {
        rest: text.trim_matches([' ', '\t']).as_bytes(),
    };
    parser.dictionary().unwrap_or_default()
}

/// The instance digests of the old field Digest; nothing where it is malformed.
pub(super) fn parse_instance_digests(text: &str) -> Vec<Digest> {
    let members = text.split(',').map(|member| member.trim_matches([' ', '\t']));
    let read = |member: &str| {
        let (name, value) = member.split_once('=')?;
        match taken(name) {
            Some(algorithm) => Some(Some(digest(algorithm, value.as_bytes())?)),
            None => Some(None),
        }
    };
    let read: Option<Vec<Option<Digest>>> = members.filter(|member| !member.is_empty()).map(read).collect();
    read.unwrap_or_default().into_iter().flatten().collect()
}

fn taken(name: &str) -> Option<DigestAlgorithm> {
    DigestAlgorithm::by_name(name).filter(|algorithm| TAKEN.contains(algorithm))
}

fn digest(algorithm: DigestAlgorithm, base64: &[u8]) -> Option<Digest> {
    Digest::new(algorithm, LENIENT.decode(base64).ok()?)
}

/// Reads a Dictionary (RFC 8941, section 4.2.2). Of values other than byte sequences it knows only where they end.
struct Parser<'a> {
    rest: &'a [u8],
}

/// The value of a member.
enum Value<'a> {
    /// A byte sequence: its letters.
    Bytes(&'a [u8]),
    /// Anything else.
    Other,
}

impl<'a> Parser<'a> {
    fn dictionary(&mut self) -> Option<Vec<Digest>> {
        let mut found: Vec<Digest> = Vec::new();
        while !self.rest.is_empty() {
            let key = self.key()?;
            let value = if self.takes(b'=') { self.member()? } else { Value::Other };
            self.parameters()?;
            if let Some(algorithm) = taken(key).filter(|algorithm| algorithm.name() == key) {
                // The last of equal keys counts, and only a byte sequence is a digest.
                found.retain(|digest| digest.algorithm() != algorithm);
                let Value::Bytes(letters) = value else { return None };
                found.push(digest(algorithm, letters)?);
            }
            self.blanks();
            if self.rest.is_empty() {
                break;
            }
            if !self.takes(b',') {
                return None;
            }
            self.blanks();
            if self.rest.is_empty() {
                return None;
            }
        }
        Some(found)
    }

    /// The letters of a byte sequence, or `Some(Value::Other)` for a value of another type.
    fn member(&mut self) -> Option<Value<'a>> {
        if !self.takes(b'(') {
            return self.item();
        }
        loop {
            self.spaces();
            if self.takes(b')') {
                return Some(Value::Other);
            }
            self.item()?;
            self.parameters()?;
            if !matches!(self.rest.first(), Some(b' ' | b')')) {
                return None;
            }
        }
    }

    fn item(&mut self) -> Option<Value<'a>> {
        match *self.rest.first()? {
            b':' => {
                let end = self.rest[1..].iter().position(|byte| *byte == b':')?;
                let letters = &self.rest[1..=end];
                self.rest = &self.rest[end + 2..];
                Some(Value::Bytes(letters))
            }
            b'"' => self.string(),
            b'?' => {
                let is_boolean = matches!(self.rest.get(1), Some(b'0' | b'1'));
                self.rest = self.rest.get(2..)?;
                is_boolean.then_some(Value::Other)
            }
            first if first.is_ascii_alphanumeric() || b"*-@".contains(&first) => {
                // Tokens and numbers; how a number is made up decides nothing here.
                self.while_in(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/@".contains(&byte));
                Some(Value::Other)
            }
            _ => None,
        }
    }

    fn string(&mut self) -> Option<Value<'a>> {
        let mut at = 1;
        loop {
            match *self.rest.get(at)? {
                b'"' => break,
                b'\\' if matches!(self.rest.get(at + 1), Some(b'"' | b'\\')) => at += 2,
                b'\\' => return None,
                b' '..=b'~' => at += 1,
                _ => return None,
            }
        }
        self.rest = &self.rest[at + 1..];
        Some(Value::Other)
    }

    fn parameters(&mut self) -> Option<()> {
        while self.takes(b';') {
            self.spaces();
            self.key()?;
            if self.takes(b'=') {
                self.item()?;
            }
        }
        Some(())
    }

    fn key(&mut self) -> Option<&'a str> {
        let first = *self.rest.first()?;
        if !first.is_ascii_lowercase() && first != b'*' {
            return None;
        }
        let key = self.while_in(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte));
        std::str::from_utf8(key).ok()
    }

    fn while_in(&mut self, is_in: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|byte| !is_in(*byte));
        let (taken, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        taken
    }

    fn takes(&mut self, byte: u8) -> bool {
        let is_next = self.rest.first() == Some(&byte);
        if is_next {
            self.rest = &self.rest[1..];
        }
        is_next
    }

    fn spaces(&mut self) {
        self.while_in(|byte| byte == b' ');
    }

    fn blanks(&mut self) {
        self.while_in(|byte| byte == b' ' || byte == b'\t');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of `{"hello": "world"}` and a line feed, as RFC 9530, appendix B.1, has it.
    const HELLO: &str = "RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=";
    /// SHA-512 of the same, as RFC 9530, section 2, has it.
    const HELLO_512: &str = "YMAam51Jz/jOATT6/zvHrLVgOYTGFy1d6GJiOHTohq4yP+pgk4vf2aCsyRZOtw8MjkM7iw7yZ/WkppmM44T3qg==";

    fn shown(digests: &[Digest]) -> Vec<String> {
        let short = |digest: &Digest| digest.to_string().chars().take(16).collect();
        digests.iter().map(short).collect()
    }

    #[test]
    fn a_dictionary_tells_its_known_digests_or_as_a_whole_nothing() {
        let (hello, unpadded) = (HELLO, HELLO.trim_end_matches('='));
        let rows = [
            (format!("sha-256=:{hello}:"), "sha-256:44aff4ab"),
            (format!(" sha-256=:{unpadded}:\t"), "sha-256:44aff4ab"),
            (format!("sha-256=:{hello}:;q=\"a\\\"b,\";x"), "sha-256:44aff4ab"),
            (
                format!("md5=:AAAA:, unixsum=30637, a, b=?1, c=(1 \"x\" :AA==:;p), d=tok/en , sha-256=:{hello}:"),
                "sha-256:44aff4ab",
            ),
            (format!("sha-256=:AAAA:, sha-256=:{hello}:"), ""),
            (
                format!("sha-512=:{HELLO_512}:,sha-256=:{hello}:"),
                "sha-512:60c01a9b sha-256:44aff4ab",
            ),
            (format!("sha-384=:{hello}:"), ""),
            // ---- malformed: the whole field says nothing
            (format!("sha-256=:{hello}:,"), ""),
            (format!("sha-256=:{hello}: x"), ""),
            (format!("sha-256=:{hello}:, ,a"), ""),
            (format!("sha-256=:{hello}:, B=1"), ""),
            (format!("sha-256=:{hello}:, b=(1"), ""),
            (format!("sha-256=:{hello}:, b=\"x"), ""),
            (format!("sha-256=:{hello}:, b=?2"), ""),
            (format!("sha-256=:{hello}"), ""),
            (format!("sha-256={hello}"), ""),
            ("sha-256".to_owned(), ""),
            ("sha-256=:AAAA:".to_owned(), ""),
            (format!("SHA-256=:{hello}:"), ""),
            (String::new(), ""),
        ];
        for (text, told) in rows {
            assert_eq!(shown(&parse_dictionary(&text)).join(" "), told, "{text}");
        }
    }

    #[test]
    fn the_old_field_tells_its_known_digests_in_any_case_or_as_a_whole_nothing() {
        let rows = [
            (format!("SHA-256={HELLO}"), "sha-256:44aff4ab"),
            (format!("md5=xx, sha-256={HELLO},"), "sha-256:44aff4ab"),
            (format!("unixsum=30637,SHA-512={HELLO_512}"), "sha-512:60c01a9b"),
            (format!("SHA-256={HELLO}, nothing"), ""),
            (format!("SHA-256={HELLO}, SHA-512=AAAA"), ""),
            ("SHA={}".to_owned(), ""),
        ];
        for (text, told) in rows {
            assert_eq!(shown(&parse_instance_digests(&text)).join(" "), told, "{text}");
        }
    }

    #[test]
    fn fields_that_contradict_each_other_say_nothing_of_that_algorithm() {
        let hello = parse_instance_digests(&format!("SHA-256={HELLO}, SHA-512={HELLO_512}"));
        let other = parse_dictionary(&format!("sha-256=:{}A=:", &HELLO[..42]));
        assert_eq!(other.len(), 1);
        assert_eq!(shown(&together(&[hello.clone(), other])), ["sha-512:60c01a9b"]);
        assert_eq!(together(&[hello.clone(), hello]).len(), 2);
        assert!(together(&[]).is_empty());
    }
}
