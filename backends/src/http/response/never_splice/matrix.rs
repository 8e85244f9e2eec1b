//! The matrix that is published: what is held and expected, times what comes, gives what is done.

use std::fmt::Write as _;
use std::path::Path;

use super::super::*;
use super::rows::{LATER, OLD, OLDER, held, reply, word};

/// Bytes 0 to 3 of 10 are held in each.
fn columns() -> Vec<(&'static str, Option<Held>, bool)> {
    let gap = Held {
        end_bytes: Some(8),
        ..held("\"a\"", "", Some(10))
    };
    vec![
        ("nothing", None, false),
        ("strong tag", Some(held("\"a\"", "", Some(10))), false),
        ("strong tag, gap to 7", Some(gap), false),
        ("strong tag and time", Some(held("\"a\"", OLD, Some(10))), false),
        ("strong time, length", Some(held("", OLD, Some(10))), false),
        (
            "weak tag, strong time, length",
            Some(held("W/\"a\"", OLD, Some(10))),
            false,
        ),
        ("weak tag", Some(held("W/\"a\"", "", Some(10))), false),
        ("weak tag, digest expected", Some(held("W/\"a\"", "", Some(10))), true),
        ("nothing to prove it, digest expected", Some(held("", "", None)), true),
    ]
}

struct Came {
    section: &'static str,
    name: &'static str,
    reply: Reply,
}

type Row = (&'static str, &'static str, Reply);

fn came() -> Vec<Came> {
    let rows = wholes().into_iter().chain(parts()).chain(others());
    rows.map(|(section, name, reply)| Came { section, name, reply })
        .collect()
}

fn of(status: u16, range: &str, etag: &str, modified: &str, length: u64) -> Reply {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Reply {
        framing: if length > 0 {
            Framing::Length(length)
        } else {
            Framing::Chunked
        },
        content_range: text(range),
        etag: text(etag),
        last_modified: text(modified),
        date: text(LATER),
        ..reply(status)
    }
}

fn whole(etag: &str, modified: &str, length: u64) -> Reply {
    of(200, "", etag, modified, length)
}

fn part(range: &str, etag: &str, modified: &str) -> Reply {
    of(206, range, etag, modified, 0)
}

fn wholes() -> Vec<Row> {
    let no_ranges = Reply {
        accept_ranges: Some("none".to_owned()),
        ..whole("\"a\"", OLD, 10)
    };
    vec![
        ("15.3.1", "200, the same tag and time", whole("\"a\"", OLD, 10)),
        ("15.3.1", "200, no length", whole("\"a\"", OLD, 0)),
        ("15.3.1", "200, another tag", whole("\"b\"", "", 10)),
        ("15.3.1", "200, another tag, the same time", whole("\"b\"", OLD, 10)),
        ("8.8.1", "200, the tag turned weak", whole("W/\"a\"", "", 10)),
        ("15.3.1", "200, another time", whole("", OLDER, 10)),
        ("15.3.1", "200, another length", whole("\"a\"", OLD, 11)),
        ("15.3.1", "200, no validator", whole("", "", 10)),
        ("14.3", "200, Accept-Ranges: none", no_ranges),
        ("15.3.4", "203, another tag", of(203, "", "\"b\"", "", 10)),
    ]
}

fn parts() -> Vec<Row> {
    vec![
        (
            "15.3.7",
            "206 of the rest, the same tag and time",
            part("bytes 4-9/10", "\"a\"", OLD),
        ),
        (
            "15.3.7",
            "206 of the gap, the same tag and time",
            part("bytes 4-7/10", "\"a\"", OLD),
        ),
        ("15.3.7", "206 of less than asked", part("bytes 4-5/10", "\"a\"", OLD)),
        (
            "15.3.7",
            "206, the same tag, total unsaid",
            part("bytes 4-9/*", "\"a\"", ""),
        ),
        ("8.8.2", "206, no tag, the same time", part("bytes 4-9/10", "", OLD)),
        ("8.8.3", "206, another tag", part("bytes 4-9/10", "\"b\"", "")),
        (
            "8.8.3",
            "206, another tag, the same time",
            part("bytes 4-9/10", "\"b\"", OLD),
        ),
        ("8.8.1", "206, the tag turned weak", part("bytes 4-9/10", "W/\"a\"", "")),
        ("8.8", "206, no validator", part("bytes 4-9/10", "", "")),
        ("8.8.2", "206, another time", part("bytes 4-9/10", "", OLDER)),
        ("14.4", "206 from an earlier offset", part("bytes 3-9/10", "\"a\"", OLD)),
        ("14.4", "206 from a later offset", part("bytes 5-9/10", "\"a\"", OLD)),
        ("14.4", "206 with another total", part("bytes 4-10/11", "\"a\"", OLD)),
        ("14.4", "206 without Content-Range", part("", "\"a\"", OLD)),
        (
            "14.6",
            "206 multipart/byteranges",
            Reply {
                content_type: Some("multipart/byteranges; boundary=x".to_owned()),
                ..part("", "\"a\"", OLD)
            },
        ),
        (
            "8.6",
            "206, Content-Length contradicts",
            of(206, "bytes 4-9/10", "\"a\"", OLD, 7),
        ),
        (
            "8.4",
            "200 in a coding",
            Reply {
                foreign_coding: Some("gzip".to_owned()),
                ..whole("\"a\"", OLD, 10)
            },
        ),
        (
            "8.4",
            "206 in a coding",
            Reply {
                foreign_coding: Some("gzip".to_owned()),
                ..part("bytes 4-9/10", "\"a\"", OLD)
            },
        ),
    ]
}

fn others() -> Vec<Row> {
    let mut all = vec![
        ("15.5.17", "416, the held length", of(416, "bytes */4", "", "", 0)),
        ("15.5.17", "416, the known total", of(416, "bytes */10", "", "", 0)),
        ("15.5.17", "416, no length", reply(416)),
        (
            "15.4",
            "301, 302, 303, 307, 308",
            Reply {
                location: Some("/x".to_owned()),
                ..reply(302)
            },
        ),
        ("15.4", "a redirect without Location", reply(302)),
    ];
    let statuses = [
        ("15.3.5", "204", 204),
        ("15.4.5", "304", 304),
        ("15.5.2", "401", 401),
        ("15.5.4", "403", 403),
        ("15.5.5", "404", 404),
        ("15.5.8", "407", 407),
        ("15.5.9", "408", 408),
        ("15.5.11", "410", 410),
        ("15.5.13", "412", 412),
        ("RFC 8470", "425", 425),
        ("RFC 6585", "429", 429),
        ("15.6", "500, 502, 503, 504", 503),
        ("15.6.2", "501", 501),
    ];
    all.extend(statuses.map(|(section, name, status)| (section, name, reply(status))));
    all
}

fn published() -> String {
    let columns = columns();
    let mut text = String::from(
        "# What an answer makes of the bytes that are held\n\n\
         Of a resource of 10 bytes the first 4 are held. A column says what identifies them, a row what comes when the rest \
         is asked for (in the first column: the whole), with the section of RFC 9110 that defines it. \"ask rest again\" \
         means without `If-Range`; what is asked again is judged by the same rules, at most three times. \"ask whole\" is \
         asked without Range, and gives the held bytes up. Times are strong (8.8.2.2). With another method than GET nothing but \
         the first column counts: Range is defined for GET alone (14.2), so that held bytes are given up, and the whole is \
         asked for.\n\n| section | came |",
    );
    for (name, ..) in &columns {
        let _ = write!(text, " {name} |");
    }
    let _ = writeln!(text, "\n|---|---|{}", "---|".repeat(columns.len()));
    for came in came() {
        let _ = write!(text, "| {} | {} |", came.section, came.name);
        for (_, held, digest_expected) in &columns {
            let held = held.clone().map(|held| Held {
                digest_expected: *digest_expected,
                ..held
            });
            let terms = Terms {
                held: held.as_ref(),
                ..Terms::default()
            };
            let decision = decide(&ask(terms), terms, &came.reply, SystemTime::UNIX_EPOCH);
            let _ = write!(text, " {} |", word(&decision));
        }
        text.push('\n');
    }
    text
}

/// `BACKHAUL_WRITE=1` writes it anew; what changed is then for a reader to judge.
#[test]
fn the_published_matrix_is_what_the_state_machine_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("MATRIX.md");
    if std::env::var_os("BACKHAUL_WRITE").is_some() {
        std::fs::write(&path, published()).expect("the matrix can be written");
    }
    let stored = std::fs::read_to_string(&path).expect("the matrix is there");
    assert_eq!(stored, published(), "BACKHAUL_WRITE=1 writes it anew");
}
