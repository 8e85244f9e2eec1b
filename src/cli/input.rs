//! Lists of URLs: one a line, with an optional destination after it. Checked as a whole before anything is created.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::Failure;
use super::exit::Exit;

/// Longest list, in bytes (chosen without measurement: a million lines of 60 bytes).
const LIST_BYTES_MAX: u64 = 64 << 20;

/// Lines that room is made for at once, so that most lists leave none of it empty.
const EXPECTED_MAX: usize = 1 << 16;

/// One line of a list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Line {
    /// Counted from 1; 0 for an argument.
    pub(crate) number: usize,
    pub(crate) url: String,
    pub(crate) destination: Option<PathBuf>,
}

/// What a list says, and how many of its lines repeat an earlier one exactly.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct List {
    pub(crate) lines: Vec<Line>,
    pub(crate) repeated: Vec<usize>,
}

/// Reads a list from a file, or from standard input for `-`.
pub(super) fn read(path: &Path) -> Result<List, Failure> {
    let is_standard = path == Path::new("-");
    let bytes = if is_standard {
        read_limited(std::io::stdin())
    } else {
        std::fs::File::open(path).and_then(read_limited)
    };
    let refuse = |problem: String| Failure::new(Exit::BadInput, format!("input '{}': {problem}", path.display()));
    let bytes = bytes.map_err(|error| refuse(format!("cannot be read: {error}")))?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let number = bytes[..error.valid_up_to()].split(|byte| *byte == b'\n').count();
        refuse(format!(
            "line {number}: is no text in UTF-8; write other bytes in a URL as %XX"
        ))
    })?;
    Ok(parse(text))
}

fn read_limited(source: impl std::io::Read) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let count = source.take(LIST_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if count as u64 > LIST_BYTES_MAX {
        return Err(std::io::Error::other(format!(
            "is longer than {LIST_BYTES_MAX} bytes; split it"
        )));
    }
    Ok(bytes)
}

/// What a line may begin and end with that says nothing. Whatever else Unicode takes for a blank may be the end of a name.
const BLANKS: [char; 3] = [' ', '\t', '\r'];

/// Empty lines and those that begin with `#` say nothing. A URL holds no blanks, so the first blank ends it; the rest is
/// the destination, blanks within it included.
pub(crate) fn parse(text: &str) -> List {
    let count = text.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let mut seen = HashSet::with_capacity(count.min(EXPECTED_MAX));
    let mut lines = Vec::with_capacity(count.min(EXPECTED_MAX));
    let mut repeated = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_matches(BLANKS);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if !seen.insert(line) {
            repeated.push(index + 1);
            continue;
        }
        let blank = line.bytes().position(|byte| byte == b' ' || byte == b'\t');
        let (url, rest) = line.split_at(blank.unwrap_or(line.len()));
        let destination = blank.map(|_| PathBuf::from(rest.trim_start_matches(BLANKS)));
        lines.push(Line {
            number: index + 1,
            url: url.into(),
            destination,
        });
    }
    List { lines, repeated }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_urls_destinations_comments_and_notes_repeated_lines() {
        let list = parse("# head\nhttp://h/a\n\n http://h/b \t to/b c\nhttp://h/a\nhttp://h/a other\n");
        let line = |number, url: &str, destination: Option<&str>| Line {
            number,
            url: url.into(),
            destination: destination.map(PathBuf::from),
        };
        let lines = vec![
            line(2, "http://h/a", None),
            line(4, "http://h/b", Some("to/b c")),
            line(6, "http://h/a", Some("other")),
        ];
        assert_eq!(
            list,
            List {
                lines,
                repeated: vec![5]
            }
        );
    }

    #[test]
    fn a_name_that_ends_with_a_blank_of_another_script_keeps_it() {
        let list = parse("http://h/a b\u{3000}\r\n\thttp://h/b c\u{a0} \t\r");
        let names = list.lines.iter().map(|line| line.destination.clone());
        let expected = ["b\u{3000}", "c\u{a0}"].map(|name| Some(PathBuf::from(name)));
        assert!(names.eq(expected), "{list:?}");
    }
}
