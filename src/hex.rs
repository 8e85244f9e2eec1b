//! Bytes as hexadecimal digits, two for each. Pure.
//!
//! Source: RFC 4648, section 8.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// In lower case.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    push(&mut text, bytes);
    text
}

/// The same, behind what a text says already.
pub(crate) fn push(text: &mut String, bytes: &[u8]) {
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 0xF));
    }
}

/// In either case; `None` where there is anything but digits, or an odd number of them.
pub(crate) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 2);
    for pair in text.chunks_exact(2) {
        bytes.push(value(pair[0])? << 4 | value(pair[1])?);
    }
    Some(bytes)
}

fn value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn every_byte_comes_back_from_its_digits_in_either_case() {
        let all: Vec<u8> = (0..=u8::MAX).collect();
        let text = encode(&all);
        assert!(text.starts_with("000102") && text.ends_with("fdfeff"), "{text}");
        assert_eq!(decode(text.as_bytes()), Some(all.clone()));
        assert_eq!(decode(text.to_uppercase().as_bytes()), Some(all));
    }

    #[test]
    fn what_is_no_pair_of_digits_has_no_bytes() {
        for text in ["0", "0g", "g0", "+1", "0 ", "00:", "0x00", "@@", "``", "//", "ä"] {
            assert_eq!(decode(text.as_bytes()), None, "{text}");
        }
        assert_eq!(decode(b""), Some(Vec::new()));
    }
}
