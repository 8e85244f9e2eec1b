//! What a real response tells of the digests of the resource and of its mirrors.

use backhaul_backends::{Held, Restart, Start, Validators};

use crate::server::{Server, answer, fetch, request, rest};

/// SHA-256 of `hello`, in base64.
const HELLO: &str = "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=";
const HELLO_HEX: &str = "sha-256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

fn ok(fields: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n{fields}\r\nhello")
}

fn part(fields: &str) -> String {
    format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-4/5\r\nContent-Length: 3\r\n{fields}\r\nllo")
}

#[test]
fn a_response_tells_the_digest_of_the_whole_in_each_of_its_fields_and_no_other() {
    let other = HELLO.replace('L', "M");
    let rows = [
        (ok(&format!("Repr-Digest: sha-256=:{HELLO}:\r\n")), true),
        (ok(&format!("Content-Digest: sha-256=:{HELLO}:\r\n")), true),
        (ok(&format!("Digest: SHA-256={HELLO}\r\n")), true),
        (
            ok(&format!(
                "Repr-Digest: md5=:AAAA:\r\nRepr-Digest: sha-256=:{HELLO}:\r\n"
            )),
            true,
        ),
        (
            ok(&format!(
                "Repr-Digest: sha-256=:{HELLO}:\r\nDigest: SHA-256={other}\r\n"
            )),
            false,
        ),
        (ok(&format!("Repr-Digest: sha-256=:{HELLO}:, what\t\r\n")), true),
        (ok(&format!("Repr-Digest: sha-256=:{HELLO}:, \"\r\n")), false),
        (ok(""), false),
        // A proxy that changed the content has another one.
        (
            ok(&format!("Repr-Digest: sha-256=:{HELLO}:\r\n")).replace("200 OK", "203 Changed"),
            false,
        ),
    ];
    for (response, is_told) in rows {
        let server = Server::once(response.clone());
        let (result, kept) = fetch(&request(&server.url("/a")));
        result.unwrap();
        let told: Vec<String> = kept.head().validators.digests.iter().map(ToString::to_string).collect();
        assert_eq!(told, if is_told { vec![HELLO_HEX] } else { Vec::new() }, "{response}");
    }
}

#[test]
fn a_part_tells_the_digest_of_the_whole_by_repr_digest_alone() {
    for (field, is_told) in [("Repr-Digest", true), ("Content-Digest", false)] {
        let server = Server::once(part(&format!("ETag: \"v1\"\r\n{field}: sha-256=:{HELLO}:\r\n")));
        let (result, kept) = fetch(&rest(&server.url("/a"), 2, 5));
        result.unwrap();
        assert_eq!(kept.head().start, Start::Continue { offset_bytes: 2 });
        assert_eq!(kept.head().validators.digests.len(), usize::from(is_told), "{field}");
    }
}

#[test]
fn another_server_continues_under_the_digest_without_a_condition_and_starts_again_where_it_has_another() {
    let foreign = |server: &Server, digest_expected| {
        let mut request = rest(&server.url("/a"), 2, 5);
        request.held = Some(Held {
            foreign: true,
            digest_expected,
            ..request.held.unwrap()
        });
        request
    };
    // Its entity tag is its own.
    let server = Server::once(part("ETag: \"other\"\r\n"));
    let (result, kept) = fetch(&foreign(&server, true));
    result.unwrap();
    let asked = server.request();
    assert!(
        asked.contains("range: bytes=2-") && !asked.contains("if-range"),
        "{asked}"
    );
    assert_eq!(kept.head().start, Start::Continue { offset_bytes: 2 });
    assert_eq!(kept.head().validators.etag.as_deref(), Some("\"other\""));

    let mut request = foreign(&server, false);
    let digests = {
        let hello = Server::once(ok(&format!("Repr-Digest: sha-256=:{HELLO}:\r\n")));
        let (_, kept) = fetch(&crate::server::request(&hello.url("/")));
        kept.head().validators.digests.clone()
    };
    let other = HELLO.replace('L', "M");
    let server = Server::new(vec![
        answer(part(&format!(
            "Repr-Digest: sha-256=:{other}:\r\nConnection: close\r\n"
        ))),
        answer(ok(&format!("Repr-Digest: sha-256=:{other}:\r\n"))),
    ]);
    request.url = server.url("/a");
    request.held = request.held.map(|held| Held {
        validators: Validators {
            digests,
            ..held.validators
        },
        ..held
    });
    let (result, kept) = fetch(&request);
    result.unwrap();
    assert_eq!(kept.head().start, Start::Restart(Restart::Changed));
}

#[test]
fn mirrors_are_told_absolute_and_best_first() {
    let links = "Link: <http://b.example/x>; rel=duplicate; pri=2\r\nLink: </copy>; rel=\"duplicate\"; pri=1, <ftp://c/x>; \
                 rel=duplicate, </a>; rel=duplicate, </next>; rel=next\r\n";
    let server = Server::once(ok(links));
    let (result, kept) = fetch(&request(&server.url("/a")));
    result.unwrap();
    assert_eq!(
        kept.head().mirrors,
        [server.url("/copy"), "http://b.example/x".to_owned()]
    );
}
