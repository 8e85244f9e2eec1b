//! Bytes are kept under servers that make it hard to prove that they are still the same, and only then.

use backhaul_backends::{Request, Restart, Start};

use crate::server::{Server, answer, fetch, response, rest};

const TIME: &str = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
const DATE: &str = "Date: Sun, 06 Nov 1994 08:55:00 GMT\r\n";

/// The first 8 bytes of 12 are held, the last 4 of them at hand for a comparison.
fn held(url: &str, tail: &[u8]) -> Request {
    let mut request = rest(url, 8, 12);
    let held = request.held.as_mut().unwrap();
    held.tail = tail.to_vec();
    held.validators.last_modified = Some("Sun, 06 Nov 1994 08:49:37 GMT".to_owned());
    held.validators.date = Some("Sun, 06 Nov 1994 08:55:00 GMT".to_owned());
    request
}

fn part(tag: &str, first: u64, body: &[u8]) -> Vec<u8> {
    let range = format!("{TIME}{DATE}ETag: {tag}\r\nContent-Range: bytes {first}-11/12\r\n");
    response("206 Partial Content", &range, body)
}

fn whole(tag: &str, body: &[u8]) -> Vec<u8> {
    response("200 OK", &format!("{TIME}{DATE}ETag: {tag}\r\n"), body)
}

#[test]
fn the_end_of_what_is_held_comes_again_and_is_compared_before_anything_is_taken() {
    let server = Server::once(part("\"v1\"", 4, b"tailREST"));
    let (result, kept) = fetch(&held(&server.url("/"), b"tail"));
    result.unwrap();
    assert_eq!(kept.head().start, Start::Continue { offset_bytes: 8 });
    assert_eq!(kept.bytes, b"REST");
    assert!(server.request().contains("range: bytes=4-\r\n"));
}

#[test]
fn an_equal_tag_over_other_bytes_is_a_change_and_nothing_of_it_is_joined() {
    let server = Server::new(vec![
        answer(part("\"v1\"", 4, b"tAilREST")),
        answer(whole("\"v1\"", b"headtAilREST")),
    ]);
    let (result, kept) = fetch(&held(&server.url("/"), b"tail"));
    result.unwrap();
    assert_eq!(kept.head().start, Start::Restart(Restart::Changed));
    assert_eq!(kept.bytes, b"headtAilREST");
}

#[test]
fn a_server_that_ignores_ranges_under_a_condition_is_asked_without_one_and_the_bytes_are_kept() {
    let server = Server::new(vec![
        answer(whole("\"v1\"", b"headtailREST")),
        answer(part("\"v1\"", 4, b"tailREST")),
    ]);
    let (result, kept) = fetch(&held(&server.url("/"), b"tail"));
    result.unwrap();
    assert_eq!(
        (kept.head().start.clone(), kept.bytes.as_slice()),
        (Start::Continue { offset_bytes: 8 }, &b"REST"[..])
    );
    assert!(server.request().contains("if-range: \"v1\""));
    let second = server.request();
    assert!(
        second.contains("range: bytes=4-") && !second.contains("if-range"),
        "{second}"
    );
}

#[test]
fn a_tag_that_is_another_each_time_is_no_witness_against_a_strong_time() {
    let server = Server::new(vec![
        answer(whole("\"v2\"", b"headtailREST")),
        answer(part("\"v3\"", 4, b"tailREST")),
    ]);
    let (result, kept) = fetch(&held(&server.url("/"), b"tail"));
    result.unwrap();
    assert_eq!(
        (kept.head().start.clone(), kept.bytes.as_slice()),
        (Start::Continue { offset_bytes: 8 }, &b"REST"[..])
    );
}

#[test]
fn a_tag_that_stays_another_one_is_a_change_whatever_the_time_says() {
    let server = Server::new(vec![
        answer(whole("\"v2\"", b"HEADtailREST")),
        answer(part("\"v2\"", 4, b"tailREST")),
        answer(whole("\"v2\"", b"HEADtailREST")),
    ]);
    let (result, kept) = fetch(&held(&server.url("/"), b"tail"));
    result.unwrap();
    assert_eq!(kept.head().start, Start::Restart(Restart::Changed));
    assert_eq!(kept.bytes, b"HEADtailREST");
}

#[test]
fn without_any_validator_bytes_are_continued_only_on_trust_in_a_digest() {
    let bare = |first: u64, body: &[u8]| {
        let range = format!("Content-Range: bytes {first}-11/12\r\n");
        response("206 Partial Content", &range, body)
    };
    for digest_expected in [false, true] {
        let script = if digest_expected {
            vec![answer(bare(4, b"tailREST"))]
        } else {
            vec![answer(response("200 OK", "", b"headtailREST"))]
        };
        let server = Server::new(script);
        let mut request = held(&server.url("/"), b"tail");
        let bytes = request.held.as_mut().unwrap();
        bytes.digest_expected = digest_expected;
        (bytes.validators.etag, bytes.validators.last_modified) = (None, None);
        let (result, kept) = fetch(&request);
        result.unwrap();
        let head = kept.head();
        if digest_expected {
            assert_eq!(
                (&head.start, head.on_trust),
                (&Start::Continue { offset_bytes: 8 }, true)
            );
        } else {
            assert_eq!(head.start, Start::Restart(Restart::NoProof));
            assert!(!server.request().contains("range"));
        }
    }
}

#[test]
fn a_gap_is_asked_for_from_its_first_to_its_last_byte_and_no_more_of_it_is_taken() {
    let headers = format!("{TIME}{DATE}ETag: \"v1\"\r\nContent-Range: bytes 4-9/12\r\n");
    let server = Server::once(response("206 Partial Content", &headers, b"tailRE"));
    let mut request = held(&server.url("/"), b"tail");
    request.held.as_mut().unwrap().end_bytes = Some(10);
    let (result, kept) = fetch(&request);
    result.unwrap();
    assert_eq!(kept.bytes, b"RE");
    assert!(server.request().contains("range: bytes=4-9\r\n"));
    // A part that goes on beyond the gap would be written over what is there.
    let beyond = part("\"v1\"", 4, b"tailREST");
    let server = Server::new(vec![answer(beyond), answer(whole("\"v1\"", b"headtailREST"))]);
    let mut request = held(&server.url("/"), b"tail");
    request.held.as_mut().unwrap().end_bytes = Some(10);
    let (_, kept) = fetch(&request);
    assert!(matches!(kept.head().start, Start::Restart(_)));
}
