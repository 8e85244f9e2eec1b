//! What a URL of FTP must not hold. Pure.
//!
//! Sources: RFC 959, section 5.3 (a command ends with its line); RFC 1738, section 3.2 (paths and types).

use backhaul_backends::Credential;
use url::Url;

use super::percent_decoded_bytes;

/// Schemes whose URLs lead to commands of FTP.
const SCHEMES: &[&str] = &["ftp", "ftps", "ftpes"];

/// Why a URL of FTP leads to no file, or to commands that nobody meant; `None` for any other URL.
pub(super) fn problem(url: &Url, credential: Option<&Credential>) -> Option<&'static str> {
    if !SCHEMES.contains(&url.scheme()) {
        return None;
    }
    let path = percent_decoded_bytes(url.path());
    // A question mark is part of the name there.
    let query = percent_decoded_bytes(url.query().unwrap_or_default());
    if path.iter().chain(&query).any(u8::is_ascii_control) {
        return Some("its path holds a control character (%00 to %1F, %7F), which no FTP command can carry");
    }
    let ends_command = |text: &str| text.contains(['\r', '\n', '\0']);
    if credential.is_some_and(|credential| ends_command(&credential.user) || ends_command(&credential.password)) {
        return Some("its user name or password holds an end of line or a zero byte, which no FTP command can carry");
    }
    let (name, kind) = match url.path().rsplit_once(';') {
        Some((name, kind)) => (percent_decoded_bytes(name), kind.to_ascii_lowercase()),
        None => (path.clone(), String::new()),
    };
    match kind.as_str() {
        "type=a" => return Some("it asks for a conversion of text (;type=a); only ;type=i keeps the bytes"),
        "type=d" => return Some("it asks for a listing (;type=d), and only a file can be fetched"),
        _ => {}
    }
    let name = if kind == "type=i" { name } else { path };
    let is_directory = url.query().is_none() && name.last().is_none_or(|&last| last == b'/');
    is_directory.then_some("it ends in a slash: that is a directory, and only a file can be fetched over FTP")
}

/// A last segment of a path without `;type=i`, which is for the protocol and no part of a name. The other types are refused.
pub(super) fn without_type<'a>(scheme: &str, segment: &'a str) -> &'a str {
    match segment.rsplit_once(';') {
        Some((name, kind)) if SCHEMES.contains(&scheme) && kind.eq_ignore_ascii_case("type=i") => name,
        _ => segment,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use backhaul_backends::Capabilities;

    use crate::Error;
    use crate::address::Address;

    fn served() -> Vec<(&'static str, Capabilities)> {
        let schemes = ["http", "ftp", "ftps", "ftpes"];
        schemes.map(|scheme| (scheme, Capabilities::default())).to_vec()
    }

    #[test]
    fn a_url_that_would_end_a_command_early_or_lead_to_no_file_is_refused_with_its_field() {
        for scheme in ["ftp", "ftps", "ftpes"] {
            for (rest, word) in [
                ("h/a%0D%0ADELE%20b", "control character"),
                ("h/a%0aNOOP", "control character"),
                ("h/a%00.txt", "control character"),
                ("h/a%7F", "control character"),
                ("h/fold%0Der/a", "control character"),
                ("h/a?b=%0A", "control character"),
                ("us%0D%0Aer:hush9@h/a", "user name or password"),
                ("user:hush9%0A@h/a", "user name or password"),
                ("user:hush9%00@h/a", "user name or password"),
                ("h/a;type=a", ";type=i"),
                ("h/a;TYPE=A", ";type=i"),
                ("h/folder;type=d", "listing"),
                ("h/", "directory"),
                ("h", "directory"),
                ("h/folder/", "directory"),
                ("h/folder%2F", "directory"),
                ("h/folder/;type=i", "directory"),
                ("h/folder/..", "directory"),
            ] {
                let text = format!("{scheme}://{rest}");
                let error = Address::parse(&text, &served()).unwrap_err();
                let Error::Invalid { field, .. } = &error else {
                    panic!("{text}: {error}");
                };
                assert_eq!(*field, "url", "{text}");
                let shown = error.to_string();
                assert!(shown.contains(word), "{text}: {shown}");
                assert!(!shown.contains("hush9"), "{text}: {shown}");
            }
        }
    }

    #[test]
    fn what_may_stand_in_a_name_and_what_other_schemes_have_is_taken() {
        for text in [
            "ftp://h/a",
            "ftp://h/a;type=i",
            "ftp://h/a;type=x",
            "ftp://h/a;b",
            "ftp://h/%C3%A4%20%FF",
            "ftp://h/a?",
            "ftp://h/a?b=c",
            "ftp://us%40er:p%3Ass@h/%2Fetc/motd",
            "ftpes://h:2121/a",
            "http://h/a%0D%0A",
            "http://h/folder/",
            "http://h/a;type=a",
        ] {
            assert!(Address::parse(text, &served()).is_ok(), "{text}");
        }
    }
}
