//! URLs that come one after the other mostly name one host. Pure.

use backhaul_backends::{Capabilities, is_plain_path};

use super::Address;
use crate::error::Error;

/// How the URL begins that was parsed last, up to the `/` behind its host: as it was written, and as that reads. What is
/// plain behind the same beginning stands in the parsed URL as it is written.
///
/// Source: WHATWG URL Standard, "path state": it depends on nothing before the path but the scheme.
#[derive(Debug, Default)]
pub(crate) struct Neighbour {
    written: String,
    read: String,
}

impl Neighbour {
    /// Does what [`Address::parse`] does, at a fraction of the cost where the URL begins as the one before. The schemes that
    /// are `served` are always the same.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn parse(&mut self, text: &str, served: &[(&str, Capabilities)]) -> Result<Address, Error> {
        if let Some(shown) = self.shown(text) {
            return Ok(Address {
                shown,
                secret_url: None,
                credential: None,
            });
        }
        let address = Address::parse(text, served)?;
        if let Some((written, read)) = beginnings(text, &address) {
            written.clone_into(&mut self.written);
            read.clone_into(&mut self.read);
        }
        Ok(address)
    }

    fn shown(&self, text: &str) -> Option<String> {
        let path = text.strip_prefix(&self.written)?;
        let is_known = !self.written.is_empty() && text.len() <= super::URL_BYTES_MAX;
        (is_known && is_plain_path(path)).then(|| {
            let mut shown = String::with_capacity(self.read.len() + path.len());
            shown.push_str(&self.read);
            shown.push_str(path);
            shown
        })
    }
}

/// Where a URL of the web has no user info, what stands before its path.
fn beginnings<'a>(text: &'a str, address: &'a Address) -> Option<(&'a str, &'a str)> {
    let beginning = |url: &'a str| {
        let is_end = |byte: u8| matches!(byte, b'/' | b'?' | b'#');
        let host = url.split_once("://")?.1;
        let end = host
            .bytes()
            .position(is_end)
            .filter(|end| host[*end..].starts_with('/'))?;
        url.get(..=url.len() - host.len() + end)
    };
    let (written, read) = (beginning(text)?, beginning(&address.shown)?);
    let is_web = read.starts_with("http://") || read.starts_with("https://");
    (is_web && !written.contains('@')).then_some((written, read))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::path::Path;

    use backhaul_backends::UrlForm;

    use super::*;

    fn served() -> [(&'static str, Capabilities); 5] {
        let of = |urls| Capabilities {
            urls,
            ..Capabilities::default()
        };
        [
            ("http", of(UrlForm::Host)),
            ("https", of(UrlForm::Host)),
            ("ftp", of(UrlForm::Host)),
            ("file", of(UrlForm::Path)),
            ("any", of(UrlForm::Any)),
        ]
    }

    /// What goes before a path, taken and refused.
    const BEGINNINGS: &[&str] = &[
        "http://h",
        "HTTP://H:80",
        "https://h:80",
        "https://h:443",
        "http://127.0.0.1:8088",
        "http://0x7f.1",
        "http://[::1]:080",
        "http://b%C3%BCcher.example",
        "http://bücher.example",
        "http://xn--bcher-kva.example",
        "http://ann:hush@h",
        "http://@h",
        "http://h?q=",
        "http://h#",
        "http://",
        "http:/",
        "http:",
        "ftp://h",
        "file://",
        "any://h",
        "any:",
        "none://h",
    ];

    /// What comes after it.
    const PATHS: &[&str] = &[
        "",
        "/",
        "//",
        "///a",
        "/a",
        "/a/b.c",
        "/a..b/c.",
        "/.",
        "/..",
        "/./a",
        "/a/../b",
        "/a/./b",
        "/a/.b",
        "/a/...",
        "/a/..b",
        "/a/%2e%2E/b",
        "/a/.%2e",
        "/%41%zz%",
        "/a~b_c-d",
        "/a;type=i",
        "/a;b,c=d&e",
        "/C:/a",
        "/C|/a",
        "/a|b^c`d{e}",
        "/a\"b<c>",
        "/a'b(c)*!$+",
        "/a:b@c",
        "/a[b]",
        "/ä",
        "/a b",
        "/a\tb",
        "/a\\b",
        "/a?b",
        "/a?token=hush",
        "/a?x=../y",
        "/a#b",
        "/a/b?c#d",
        "/a@h/b",
        ":81/a",
        ".other/a",
        "x/a",
        "a",
    ];

    type Read = Result<Address, String>;

    fn alone(text: &str) -> Read {
        Address::parse(text, &served()).map_err(|error| error.to_string())
    }

    fn read_alike_after(before: &[String], texts: &[String]) {
        let alone: Vec<Read> = texts.iter().map(|text| alone(text)).collect();
        for before in before {
            let mut neighbour = Neighbour::default();
            for (text, alone) in texts.iter().zip(&alone) {
                // The one before is read each time anew: some change what is known, and some do not.
                let _ = neighbour.parse(before, &served());
                let near = neighbour.parse(text, &served()).map_err(|error| error.to_string());
                assert_eq!(&near, alone, "{text:?} after {before:?}");
            }
        }
    }

    /// Each of these with each of those behind it.
    fn joined(beginnings: &[&str], paths: &[&str]) -> Vec<String> {
        let pairs = beginnings
            .iter()
            .flat_map(|beginning| paths.iter().map(move |path| (beginning, path)));
        pairs.map(|(beginning, path)| [*beginning, *path].concat()).collect()
    }

    #[test]
    fn a_url_reads_the_same_whatever_was_read_before_it() {
        let before = joined(BEGINNINGS, &["", "/", "/a?b", "//a/../b", "?/"]);
        read_alike_after(&before, &joined(BEGINNINGS, PATHS));
    }

    #[test]
    fn a_url_of_the_fuzz_corpus_reads_the_same_whatever_was_read_before_it() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/address");
        let seeds = std::fs::read_dir(seeds).unwrap();
        let bytes = seeds.map(|seed| std::fs::read(seed.unwrap().path()).unwrap());
        let texts = bytes.filter_map(|bytes| String::from_utf8(bytes.get(1..)?.to_vec()).ok());
        let texts: Vec<String> = texts.collect();
        assert!(texts.len() > 50, "the corpus is there");
        read_alike_after(&texts, &texts);
        // What such a text is as a path, too.
        let paths: Vec<String> = texts.iter().map(|text| format!("http://H/{text}")).collect();
        read_alike_after(&joined(BEGINNINGS, &["/a"]), &paths);
    }

    #[test]
    fn every_byte_reads_the_same_in_the_path_of_a_neighbour() {
        let mut neighbour = Neighbour::default();
        neighbour.parse("http://H/", &served()).unwrap();
        for first in 0..=u8::MAX {
            for second in [b'a', b'.', b'/', b'%', first] {
                let path = [first, second].map(char::from);
                for text in [
                    format!("http://H/{}{}", path[0], path[1]),
                    format!("http://H/a/{}{}/b", path[0], path[1]),
                ] {
                    let near = neighbour.parse(&text, &served()).map_err(|error| error.to_string());
                    assert_eq!(near, alone(&text), "{text:?}");
                }
            }
        }
    }

    #[test]
    fn a_plain_url_of_the_host_before_needs_no_parser_and_another_does() {
        let mut neighbour = Neighbour::default();
        neighbour.parse("HTTP://H:80/a?b", &served()).unwrap();
        assert_eq!(neighbour.shown("HTTP://H:80/x/y.z").as_deref(), Some("http://h/x/y.z"));
        for other in ["http://h/x", "HTTP://H:80", "HTTP://H:80/.", "HTTP://H:80/%41"] {
            assert_eq!(neighbour.shown(other), None, "{other}");
        }
        let long = format!("HTTP://H:80/{}", "a".repeat(super::super::URL_BYTES_MAX));
        assert_eq!(neighbour.shown(&long), None);
    }
}
