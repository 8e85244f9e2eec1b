//! Targets over text that people and scripts give: what is accepted has one form, and no secret is shown.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use backhaul::fuzzing::{destination, digest, header, list, media_type, sha256, shown_url, url, url_after};

/// A secret that stands nowhere else.
const SECRET: &str = "hush9";

/// Any text as a list of URLs.
pub(crate) fn input_list(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (lines, repeated) = list(text);
    let mut numbers: Vec<usize> = lines.iter().map(|line| line.number).collect();
    assert!(numbers.is_sorted(), "the lines of a list are out of order");
    numbers.extend(&repeated);
    numbers.sort_unstable();
    let count = text.lines().count();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "a line counts twice");
    assert!(
        numbers.iter().all(|number| (1..=count).contains(number)),
        "a line is none of the text's"
    );
    let mut written = String::new();
    for line in &lines {
        let is_url = !line.url.is_empty() && !line.url.contains([' ', '\t', '\n']);
        assert!(is_url && !line.url.starts_with('#'), "{:?} is no URL", line.url);
        written.push_str(&line.url);
        if let Some(destination) = &line.destination {
            let destination = destination.to_str().expect("a destination from a text is text");
            assert!(!destination.is_empty(), "a destination is empty");
            written.push(' ');
            written.push_str(destination);
        }
        written.push('\n');
    }
    let (again, _) = list(&written);
    // Two lines that differ only in the blanks between URL and destination have become one.
    let mut expected: Vec<_> = lines.iter().map(|line| (&line.url, &line.destination)).collect();
    let mut found: Vec<_> = again.iter().map(|line| (&line.url, &line.destination)).collect();
    for pairs in [&mut expected, &mut found] {
        pairs.sort_unstable();
        pairs.dedup();
    }
    assert_eq!(found, expected, "a list that is written again says something else");
}

/// URLs, headers, digests, media types and destinations.
pub(crate) fn address(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    if kind % 8 == 0 {
        check_destination(Path::new(OsStr::from_bytes(rest)));
        return;
    }
    let Some(text) = std::str::from_utf8(rest)
        .ok()
        .filter(|text| !decoded(text).contains(SECRET))
    else {
        return;
    };
    match kind % 8 {
        1 => check_header(text),
        2 => check_digest(text),
        3 => check_secret_url(text),
        4 => {
            let shown = shown_url(&format!("http://{text}"));
            assert_eq!(shown_url(&shown), shown, "a shown URL is shown otherwise");
        }
        6 => {
            check_media_type(text);
            check_url(text);
        }
        _ => check_url(text),
    }
}

fn check_media_type(text: &str) {
    let Ok(expected) = media_type(text) else { return };
    assert_eq!(media_type(&expected).as_ref(), Ok(&expected), "it reads back otherwise");
    let is_plain = expected
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase());
    assert!(is_plain && expected.matches('/').count() == 1 && !expected.contains(';'));
}

fn check_url(text: &str) {
    let read = url(text);
    let third_slash = text.match_indices('/').nth(2).map_or(text.len(), |(at, _)| at);
    for before in [text, &text[..third_slash], "http://h/a", "HTTP://H:80/?a"] {
        assert_eq!(
            url_after(Some(before), text),
            read,
            "{text:?} reads otherwise after {before:?}"
        );
    }
    // The same behind a host that is known.
    let path = format!("http://h/{text}");
    assert_eq!(
        url_after(Some("http://h/"), &path),
        url(&path),
        "{path:?} reads otherwise in a list"
    );
    let Ok(address) = read else { return };
    let shown = &address.shown;
    let (_, rest) = shown.split_once("://").expect("a checked URL has a scheme");
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    assert!(
        !authority.contains('@') && !shown.contains('#'),
        "{shown:?} shows what is not of the URL"
    );
    for field in shown.split_once('?').map_or("", |(_, query)| query).split('&') {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        let is_secret = ["sig", "token", "password", "x-amz-signature"].contains(&name.to_ascii_lowercase().as_str());
        assert!(
            !is_secret || value.is_empty() || value == "***",
            "{shown:?} shows a secret"
        );
    }
    let again = url(shown).expect("a URL as it is shown is a URL");
    assert_eq!(
        (&again.shown, again.credential),
        (shown, None),
        "a URL as it is shown is another one"
    );
    if let Some(full) = &address.secret_url {
        let again = url(full).expect("a URL as it is requested is a URL");
        assert_eq!(
            (&again.shown, &again.secret_url),
            (shown, &address.secret_url),
            "the requested URL is another one"
        );
    }
    let name = &address.file_name;
    let is_name = !name.is_empty() && name != "." && name != ".." && !name.contains('/');
    assert!(
        is_name && !name.chars().any(char::is_control),
        "{name:?} is no file name"
    );
}

/// A secret where secrets belong is shown nowhere, also where the rest is no URL.
fn check_secret_url(text: &str) {
    let mut pieces = text.splitn(3, ['/', '?', '#', '\\']);
    let mut piece = || pieces.next().unwrap_or_default();
    let (scheme, user, rest) = (piece(), piece(), piece());
    let scheme = if scheme.is_empty() { "https" } else { scheme };
    let text = format!("{scheme}://{user}:{SECRET}@{rest}?a=b&token={SECRET}&sig={SECRET}");
    let said = match url(&text) {
        Ok(address) => {
            assert!(!address.file_name.contains(SECRET), "a secret is in a file name");
            address.shown
        }
        Err(error) => error,
    };
    assert!(!said.contains(SECRET), "{said:?} shows the secret of {text:?}");
}

/// In lower case and without percent-encodings, as a host is normalised.
fn decoded(text: &str) -> String {
    let mut pieces = text.split('%');
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match piece.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => out.extend([char::from(byte)].into_iter().chain(piece[2..].chars())),
            None => out.push_str(piece),
        }
    }
    out.to_ascii_lowercase()
}

fn check_header(text: &str) {
    if let Ok((name, value, is_secret)) = header(text) {
        assert!(
            !name.is_empty() && name.is_ascii() && !name.contains([' ', ':']),
            "{name:?} is no header name"
        );
        assert!(!value.contains(['\r', '\n', '\0']), "{value:?} would end the header");
        let again = header(&format!("{name}: {value}"));
        assert_eq!(
            again,
            Ok((name, value, is_secret)),
            "a header that is written again is another one"
        );
    }
    let name = text.split(':').next().unwrap_or_default();
    if let Err(said) = header(&format!("{name}: {SECRET}{text}")) {
        assert!(!said.contains(SECRET), "{said:?} shows the value of a header");
    }
}

fn check_digest(text: &str) {
    if let Ok(shown) = digest(text) {
        assert_eq!(
            digest(&shown).as_ref(),
            Ok(&shown),
            "a digest that is written again is another one"
        );
    }
    if let Ok(bytes) = sha256(text) {
        let hex = bytes.map(|byte| format!("{byte:02x}")).concat();
        assert_eq!(sha256(&hex), Ok(bytes), "a digest that is written again is another one");
    }
}

fn check_destination(path: &Path) {
    let Ok(checked) = destination(path, Path::new("/current")) else {
        return;
    };
    assert!(
        checked.is_absolute() && checked.file_name().is_some(),
        "{} is no absolute file name",
        checked.display()
    );
    let mut components = checked.components();
    assert!(
        components.all(|component| matches!(component, Component::RootDir | Component::Normal(_))),
        "{} climbs",
        checked.display()
    );
    assert_eq!(
        destination(&checked, Path::new("/other")),
        Ok(checked),
        "a checked destination is another one"
    );
}
