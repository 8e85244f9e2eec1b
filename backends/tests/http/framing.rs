//! Where a message ends, and what is no message.

use std::sync::mpsc;
use std::time::Duration;

use backhaul_backends::{Backend, FailureKind, Interrupt, Request, WebErrorStatus};

use crate::server::{Kept, Server, Step, answer, backend, fetch, header, request, response, transient};

#[test]
fn a_large_body_comes_whole_whatever_ends_it() {
    let body: Vec<u8> = (0..3_000_000_u32)
        .map(|number| number.to_le_bytes()[0] ^ number.to_le_bytes()[1])
        .collect();
    let chunked = [b"2dc6c0\r\n".to_vec(), body.clone(), b"\r\n0\r\n\r\n".to_vec()].concat();
    let rows = [
        ("Content-Length: 3000000\r\n", body.clone()),
        // What follows the announced length is no part of it.
        ("Content-Length: 3000000\r\n", [body.clone(), vec![0; 100_000]].concat()),
        ("", body.clone()),
        ("Transfer-Encoding: chunked\r\n", chunked),
    ];
    for (framing, sent) in rows {
        let server = Server::once([format!("HTTP/1.1 200 OK\r\n{framing}\r\n").into_bytes(), sent].concat());
        let (result, kept) = fetch(&request(&server.url("/")));
        result.unwrap();
        assert!(kept.bytes == body, "{framing}");
    }
}

#[test]
fn a_body_that_only_the_close_ends_is_complete_after_an_orderly_end() {
    let server = Server::once("HTTP/1.1 200 OK\r\n\r\nhello");
    let (result, kept) = fetch(&request(&server.url("/")));
    result.unwrap();
    assert_eq!(kept.bytes, b"hello");
    assert_eq!(kept.head().validators.total_bytes, None);
}

#[test]
fn chunks_are_joined_and_a_missing_last_chunk_is_no_end() {
    let server = Server::once("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n");
    let (result, kept) = fetch(&request(&server.url("/")));
    result.unwrap();
    assert_eq!(kept.bytes, b"hello");
    for cut in ["3\r\nhel\r\n", "3\r\nhel", "3\r\nhel\r\n2"] {
        let server = Server::once(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{cut}"));
        let (result, kept) = fetch(&request(&server.url("/")));
        let failure = result.unwrap_err();
        assert_eq!(kept.bytes, b"hel");
        assert!(transient(failure.kind), "{cut:?} {failure}");
        assert_eq!(failure.status, WebErrorStatus::DISCONNECTED, "{cut:?} {failure}");
    }
}

#[test]
fn framing_without_content_ends_an_attempt_once_it_is_longer_than_a_head_may_be() {
    // As the head says it, and where two readers may find another end.
    for framing in ["", "Content-Length: 5\r\n"] {
        let trailer = |fields: usize| {
            let head = format!("HTTP/1.1 200 OK\r\n{framing}Transfer-Encoding: chunked\r\n\r\n");
            let chunks = "1\r\nx\r\n".repeat(20_000);
            format!("{head}{chunks}0\r\n{}\r\n", "X: y\r\n".repeat(fields))
        };
        let (result, kept) = fetch(&request(&Server::once(trailer(4_000)).url("/")));
        result.unwrap();
        assert_eq!(
            kept.bytes.len(),
            20_000,
            "chunks are as many as they are, and their sizes longer than they"
        );
        let (result, kept) = fetch(&request(&Server::once(trailer(100_000)).url("/")));
        let failure = result.unwrap_err();
        assert_eq!(
            (failure.kind, failure.status),
            (
                FailureKind::Permanent,
                WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE
            ),
            "{framing:?}: {failure}"
        );
        assert_eq!(kept.bytes.len(), 20_000, "what came before stays");
    }
}

#[test]
fn bytes_that_nobody_asked_for_spoil_a_connection() {
    let (open, gate) = mpsc::channel();
    let (tell, heard) = mpsc::channel();
    let script = vec![
        Step::Take,
        Step::Send(response("200 OK", "", b"one")),
        Step::Await(gate),
        Step::Send(response("200 OK", "", b"forged")),
        Step::Tell(tell),
        Step::Hold,
    ];
    let server = Server::new(vec![script, answer(response("200 OK", "", b"two"))]);
    let backend = backend();
    backend
        .download(&request(&server.url("/")), &mut Kept::default(), &Interrupt::new())
        .unwrap();
    open.send(()).unwrap();
    heard.recv_timeout(Duration::from_secs(30)).unwrap();
    let mut kept = Kept::default();
    backend
        .download(&request(&server.url("/")), &mut kept, &Interrupt::new())
        .unwrap();
    assert_eq!(kept.bytes, b"two");
}

#[test]
fn a_length_that_the_body_contradicts_is_told_apart() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let closed = "HTTP/1.1 200 OK\r\n\r\nhello";
    let rows = [
        (
            "too long",
            chunked,
            3,
            &b"hel"[..],
            false,
            WebErrorStatus::LENGTH_MISMATCH,
        ),
        ("too long", closed, 3, b"hel", false, WebErrorStatus::LENGTH_MISMATCH),
        (
            "too short by the last chunk",
            chunked,
            7,
            b"hello",
            false,
            WebErrorStatus::LENGTH_MISMATCH,
        ),
        (
            "perhaps cut short",
            closed,
            7,
            b"hello",
            true,
            WebErrorStatus::DISCONNECTED,
        ),
    ];
    for (what, sent, expected, kept_bytes, again, status) in rows {
        let server = Server::once(sent);
        let (result, kept) = fetch(&Request {
            expected_bytes: Some(expected),
            ..request(&server.url("/"))
        });
        let failure = result.unwrap_err();
        assert_eq!(kept.bytes, kept_bytes, "{what}");
        assert_eq!(
            (transient(failure.kind), failure.status),
            (again, status),
            "{what}: {failure}"
        );
    }
}

#[test]
fn a_message_that_breaks_the_protocol_is_named() {
    let rows = [
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", true),
        ("nonsense\r\n\r\n", false),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            false,
        ),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx",
            false,
        ),
    ];
    for (sent, again) in rows {
        let server = Server::new(vec![vec![Step::Take, Step::Send(sent.into()), Step::Hold]]);
        let (result, kept) = fetch(&request(&server.url("/")));
        let failure = result.unwrap_err();
        assert!(kept.bytes.is_empty(), "{sent}");
        assert_eq!(
            failure.status,
            WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE,
            "{sent}: {failure}"
        );
        assert_eq!(transient(failure.kind), again, "{sent}: {failure}");
    }
}

#[test]
fn a_head_without_end_is_refused() {
    let mut endless = b"HTTP/1.1 200 OK\r\nX-Long: ".to_vec();
    endless.resize(200_000, b'x');
    let server = Server::new(vec![vec![Step::Take, Step::Send(endless), Step::Hold]]);
    let failure = fetch(&request(&server.url("/"))).0.unwrap_err();
    assert_eq!(
        failure.status,
        WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE,
        "{failure}"
    );
}

#[test]
fn a_long_url_and_a_long_header_are_sent_whole() {
    let server = Server::once(response("200 OK", "", b"x"));
    let (path, value) = ("p".repeat(30_000), "v".repeat(30_000));
    let headers = vec![header("X-Long", &value, false)];
    fetch(&Request {
        headers,
        ..request(&server.url(&format!("/{path}")))
    })
    .0
    .unwrap();
    let asked = server.request();
    assert!(asked.contains(&path) && asked.contains(&value));
}
