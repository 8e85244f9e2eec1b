//! A small reader of Rust: enough for the rules, and wrong only where rustfmt would not leave the code so.

use std::collections::BTreeSet;

pub(crate) fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

pub(crate) fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(is_word))
}

/// The text with comments, strings and character literals replaced by blanks; lines stay where they are.
pub(crate) fn blanked(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = end_of_text(bytes, at);
        if end == at {
            at += 1;
            continue;
        }
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8(out).unwrap()
}

/// Where the comment, string or character literal that begins here ends; `at` if none begins here.
fn end_of_text(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let after_word = at > 0 && is_word(char::from(bytes[at - 1]));
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return at + find(rest, b"*/").map_or(rest.len(), |end| end + 2);
    }
    if !after_word && (rest[0] == b'r' || rest.starts_with(b"br")) {
        let quote = if rest[0] == b'b' { 2 } else { 1 };
        let hashes = rest[quote..].iter().take_while(|byte| **byte == b'#').count();
        if rest.get(quote + hashes) == Some(&b'"') {
            let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
            let body = quote + hashes + 1;
            return at + body + find(&rest[body..], &close).map_or(rest.len() - body, |end| end + close.len());
        }
    }
    match rest[0] {
        b'"' => at + closing(rest, b'"'),
        b'\'' if rest.get(1) == Some(&b'\\') => at + closing(rest, b'\''),
        // One character, at most four bytes, and its quote; a lifetime has no closing quote there.
        b'\'' => (2..=5)
            .filter(|end| rest.get(*end) == Some(&b'\''))
            .find(|end| std::str::from_utf8(&rest[1..*end]).is_ok_and(|inner| inner.chars().count() == 1))
            .map_or(at, |end| at + end + 1),
        _ => at,
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Length of a literal up to and with its closing quote.
fn closing(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// End of the block whose opening brace is at `open`, just behind the closing one.
fn end_of_block(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return at + 1,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// Cuts out what stands under `#[cfg(test)]`, and keeps its line ends.
pub(crate) fn without_test_modules(code: &str) -> String {
    let mut kept = String::new();
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        let open = rest[at..].find(['{', ';']).map_or(rest.len(), |found| at + found);
        let end = if rest[open..].starts_with('{') {
            end_of_block(rest, open)
        } else {
            (open + 1).min(rest.len())
        };
        kept.push_str(&rest[..at]);
        // A test module is the end of its file, so its lines are not kept; other items leave theirs.
        if !rest[end..].trim().is_empty() {
            kept.extend(rest[at..end].chars().filter(|letter| *letter == '\n'));
        }
        rest = &rest[end..];
    }
    kept + rest
}

/// Name, first line and number of lines of each function with a body.
pub(crate) fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if code[..at].ends_with(is_word) {
            continue;
        }
        let name: String = code[at + 3..].chars().take_while(|letter| is_word(*letter)).collect();
        let Some(open) = body_of(code, at).filter(|_| !name.is_empty()) else {
            continue;
        };
        let line = code[..at].matches('\n').count() + 1;
        found.push((name, line, code[at..end_of_block(code, open)].lines().count()));
    }
    found
}

/// Opening brace of the body of the function declared at `at`; `None` for one that is only declared.
fn body_of(code: &str, at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (offset, byte) in code.bytes().enumerate().skip(at) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.checked_sub(1)?,
            b'{' if depth == 0 => return Some(offset),
            b';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// Every path with at least one `::` that the code names, use trees spread out, and the single names it imports.
pub(crate) fn paths_named(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = code;
    while let Some(at) = rest.find("use ") {
        let is_statement = !rest[..at].ends_with(is_word);
        let end = rest[at..].find(';').map_or(rest.len(), |end| at + end);
        if is_statement {
            let tree: String = rest[at + 4..end]
                .split(" as ")
                .map(str::trim)
                .collect::<Vec<_>>()
                .join(" ");
            spread("", &tree, &mut found);
        }
        rest = &rest[end..];
    }
    let mut path = String::new();
    for letter in code.chars().chain([' ']) {
        if is_word(letter) || letter == ':' {
            path.push(letter);
            continue;
        }
        let trimmed = path.trim_matches(':');
        if trimmed.contains("::") {
            found.insert(trimmed.to_owned());
        }
        path.clear();
    }
    found
}

/// Adds the paths of one use tree: `a::{b, c::{d, e}}` gives `a::b`, `a::c::d` and `a::c::e`.
fn spread(prefix: &str, tree: &str, found: &mut BTreeSet<String>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let name = tree.split_whitespace().next().unwrap_or_default();
        if !name.is_empty() {
            found.insert(format!("{prefix}{name}"));
        }
        return;
    };
    let inner_prefix = format!("{prefix}{}", tree[..open].trim());
    let close = end_of_block(tree, open) - 1;
    let mut depth = 0_usize;
    let mut begin = open + 1;
    for (at, byte) in tree.bytes().enumerate().take(close).skip(open + 1) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                spread(&inner_prefix, &tree[begin..at], found);
                begin = at + 1;
            }
            _ => {}
        }
    }
    spread(&inner_prefix, &tree[begin..close], found);
}

#[test]
fn texts_and_comments_are_not_read_as_code() {
    let code = blanked(
        "let a = \"fn x() { }\"; // fn y() {\nlet b = '{'; let c: &'a str = r#\"\"}\"#; /* { */ let d = '\\'';",
    );
    assert!(
        !code.contains('{') && !code.contains("fn") && code.contains("&'a str"),
        "{code}"
    );
    assert_eq!(code.lines().count(), 2);
}

#[test]
fn use_trees_are_spread_out() {
    let paths =
        paths_named("use std::{fs, io::{self, Read as R}}; use crate::x; fn f() { std::thread::sleep(y::z()) }");
    for wanted in [
        "std::fs",
        "std::io::self",
        "std::io::Read",
        "crate::x",
        "std::thread::sleep",
        "y::z",
    ] {
        assert!(paths.contains(wanted), "{wanted}: {paths:?}");
    }
}

#[test]
fn the_length_of_a_function_is_that_of_its_block() {
    let code = "trait T { fn none(&self); }\nfn three(a: [u8; 4]) {\n  if x { y }\n}\n";
    assert_eq!(functions(code), [("three".to_owned(), 2, 3)]);
}
