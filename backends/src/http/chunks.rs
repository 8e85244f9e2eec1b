//! Follows the chunks of a body beside ureq, which takes more than their grammar allows: a sign before a size, a line feed
//! within its line, anything at all for a trailer. To read on is right, but where such a body ends another reader may find
//! elsewhere, so that nothing else may come over its connection.
//!
//! Source: RFC 9112, section 7.1.

/// Where in a chunked body its reader stands. What is told of it is consumed: whole lines, and data in any pieces.
#[derive(Debug, Default)]
pub(super) enum Chunks {
    #[default]
    Size,
    /// So many bytes of a chunk are to come.
    Data(u64),
    EndOfData,
    Trailer,
    Over,
    Doubted,
}

impl Chunks {
    pub(super) fn follow(&mut self, mut bytes: &[u8]) {
        // Ends: each step takes some of them.
        while !bytes.is_empty() {
            let Some(rest) = self.step(bytes) else {
                *self = Self::Doubted;
                return;
            };
            bytes = rest;
        }
    }

    /// Whether it ended where every reader finds its end.
    pub(super) fn are_clear(&self) -> bool {
        matches!(self, Self::Over)
    }

    fn step<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        match self {
            Self::Size => {
                let (line, rest) = line(bytes)?;
                *self = match size(line)? {
                    0 => Self::Trailer,
                    size => Self::Data(size),
                };
                Some(rest)
            }
            Self::Data(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                if *left == 0 {
                    *self = Self::EndOfData;
                }
                Some(&bytes[taken..])
            }
            Self::EndOfData => {
                *self = Self::Size;
                bytes.strip_prefix(b"\r\n")
            }
            Self::Trailer => {
                let (line, rest) = line(bytes)?;
                if line.is_empty() {
                    *self = Self::Over;
                    return Some(rest);
                }
                let name = &line[..line.iter().position(|byte| *byte == b':')?];
                let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
                is_name.then_some(rest)
            }
            Self::Over | Self::Doubted => None,
        }
    }
}

/// A whole line without its end, which stands nowhere else in it either, not even in part; and what follows.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = bytes[..end].strip_suffix(b"\r")?;
    (!line.contains(&b'\r')).then_some((line, &bytes[end + 1..]))
}

/// Extensions are skipped, and so are blanks before them or in their place, with which some servers pad.
fn size(line: &[u8]) -> Option<u64> {
    let digits = line
        .iter()
        .position(|byte| !byte.is_ascii_hexdigit())
        .unwrap_or(line.len());
    let (digits, extensions) = line.split_at(digits);
    let blanks = extensions.iter().position(|byte| !matches!(byte, b' ' | b'\t'));
    if blanks.is_some_and(|at| extensions[at] != b';') {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn are_clear(pieces: &[&str]) -> bool {
        let mut chunks = Chunks::default();
        for piece in pieces {
            chunks.follow(piece.as_bytes());
        }
        chunks.are_clear()
    }

    #[test]
    fn a_body_that_keeps_to_the_grammar_is_clear_in_whatever_pieces_its_data_comes() {
        for pieces in [
            &["0\r\n\r\n"][..],
            &["3\r\none\r\n0\r\n\r\n"],
            &["3\r\n", "o", "ne", "\r\n", "00A;a=\"b\"\r\n0123456789\r\n0\r\n", "\r\n"],
            &["3  \r\n\r\n\n\r\n0 ;a\r\nX-Sum: 1\r\nX-Empty:\r\n\r\n"],
        ] {
            assert!(are_clear(pieces), "{pieces:?}");
        }
    }

    #[test]
    fn a_body_that_another_reader_may_end_elsewhere_is_not() {
        for body in [
            "+3\r\none\r\n0\r\n\r\n",
            " 3\r\none\r\n0\r\n\r\n",
            "0x3\r\none\r\n0\r\n\r\n",
            "3\n\r\none\r\n0\r\n\r\n",
            "3\r\r\none\r\n0\r\n\r\n",
            "3\none\r\n0\r\n\r\n",
            "3 1\r\none\r\n0\r\n\r\n",
            "3;a\n1\r\none\r\n0\r\n\r\n",
            "\r\n\r\n",
            "10000000000000000\r\n",
            "3\r\none\n0\r\n\r\n",
            "3\r\noneX\r\n0\r\n\r\n",
            "0\r\nHTTP/1.1 204 x\r\n\r\n",
            "0\r\n: a\r\n\r\n",
            "0\r\nX Y: a\r\n\r\n",
            "0\r\nX: a\n\r\n\r\n",
            // Not over yet, and more than over.
            "3\r\none\r\n0\r\n",
            "0\r\n\r\n\r\n",
        ] {
            assert!(!are_clear(&[body]), "{body:?}");
        }
        assert!(!are_clear(&["3", "\r\none\r\n0\r\n\r\n"]), "half a line");
    }
}
