//! Which connections carry another request, whatever a server does between two of them.

use std::sync::mpsc;
use std::time::Duration;

use backhaul_backends::{Backend, Failure, HttpBackend, HttpConfig, Interrupt, WebErrorStatus};

use crate::server::{Kept, Server, Step, answer, backend, request, response, transient};

/// One download from a server, by a backend that may know it already.
fn get(backend: &HttpBackend, server: &Server) -> (Result<(), Failure>, Kept) {
    let mut kept = Kept::default();
    let result = backend.download(&request(&server.url("/")), &mut kept, &Interrupt::new());
    (result, kept)
}

/// Asks twice a server whose first connection begins with this, and stays open: what came of the first request, and whether
/// the second one went over the same connection.
fn ask_twice(first: &[u8]) -> (Result<(), Failure>, Kept, bool) {
    let kept_open = vec![
        Step::Take,
        Step::Send(first.to_vec()),
        Step::Take,
        Step::Send(response("200 OK", "", b"same")),
        Step::Hold,
    ];
    let server = Server::new(vec![kept_open, answer(response("200 OK", "", b"fresh"))]);
    let backend = backend();
    let (result, kept) = get(&backend, &server);
    let (second, content) = get(&backend, &server);
    second.unwrap();
    let is_same = content.bytes == b"same";
    assert!(is_same || content.bytes == b"fresh", "{:?}", content.bytes);
    (result, kept, is_same)
}

#[test]
fn a_response_whose_end_is_known_leaves_a_connection_for_the_next_request() {
    let rows: [(&str, &[u8]); 9] = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none", b"one"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\none", b"one"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\none\r\n0\r\n\r\n",
            b"one",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\none\r\n0\r\nX-Sum: 1\r\n\r\n",
            b"one",
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
             HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none",
            b"one",
        ),
        (
            "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 3\r\n\r\none",
            b"one",
        ),
        // Failures, which are no fault of the connection.
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\none", b""),
        ("HTTP/1.1 204 No Content\r\n\r\n", b""),
    ];
    for (first, content) in rows {
        let (_, kept, is_same) = ask_twice(first.as_bytes());
        assert_eq!(kept.bytes, content, "{first}");
        assert!(is_same, "{first}");
    }
}

#[test]
fn a_server_that_says_more_than_its_response_is_asked_over_a_fresh_connection() {
    let forged = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged";
    let rows = [
        // A second response before it is asked for.
        format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none{forged}"),
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n{forged}"),
        format!("HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\none{forged}"),
        format!("HTTP/1.1 204 No Content\r\n\r\n{forged}"),
        // A body longer than its length, and one where none may be.
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none and more".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\none".to_owned(),
        "HTTP/1.1 204 No Content\r\n\r\none".to_owned(),
        // A word about the next response.
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\noneHTTP/1.1 100 Continue\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none\r\n".to_owned(),
    ];
    for first in rows {
        let (result, kept, is_same) = ask_twice(first.as_bytes());
        if result.is_ok() && kept.head().status_code == 200 {
            let content: &[u8] = if first.contains("Length: 0\r\n") { b"" } else { b"one" };
            assert_eq!(kept.bytes, content, "{first}");
        }
        assert!(!is_same, "{first}");
    }
}

#[test]
fn a_connection_is_not_used_again_where_the_end_of_its_response_is_in_doubt() {
    let rows = [
        // A length beside the coding that outranks it.
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
        // Content is announced where none may come: whoever sends it sends it late.
        "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
        // A coding that may not come twice, one that hides the end, and one of a version that knows none.
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n3\r\none\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.0 304 Not Modified\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
        // Chunks that are read all the same, and that another reader takes for others.
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+3\r\none\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\n\r\none\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\nHTTP/1.1 204 x\r\n\r\n",
        // Another protocol follows.
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    ];
    for first in rows {
        assert!(!ask_twice(first.as_bytes()).2, "{first}");
    }
}

#[test]
fn a_connection_that_the_server_gives_up_is_not_used_again_although_it_stays_open() {
    let rows = [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\none",
        "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 3\r\n\r\none",
        "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nConnection: close\r\nContent-Length: 3\r\n\r\none",
        "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n",
        // So does an older one that says nothing of it.
        "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\none",
    ];
    for first in rows {
        let (result, kept, is_same) = ask_twice(first.as_bytes());
        result.unwrap();
        assert_eq!(kept.bytes, b"one", "{first}");
        assert!(!is_same, "{first}");
    }
}

#[test]
fn a_body_that_is_cut_fails_alone_and_the_next_request_goes_over_a_fresh_connection() {
    for first in [
        "HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\none",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n",
    ] {
        let server = Server::new(vec![answer(first), answer(response("200 OK", "", b"fresh"))]);
        let backend = backend();
        let (result, kept) = get(&backend, &server);
        let failure = result.unwrap_err();
        assert!(transient(failure.kind), "{failure}");
        assert_eq!(failure.status, WebErrorStatus::DISCONNECTED, "{failure}");
        assert_eq!(kept.bytes, b"one");
        let (result, kept) = get(&backend, &server);
        result.unwrap();
        assert_eq!(kept.bytes, b"fresh");
    }
}

#[test]
fn a_connection_that_is_reset_under_the_second_request_is_replaced_without_a_failure() {
    // An orderly end there is in `transfer`; a reset is heard of in another place.
    let first = vec![
        Step::Take,
        Step::Send(response("200 OK", "", b"one")),
        Step::Take,
        Step::Reset,
    ];
    let server = Server::new(vec![first, answer(response("200 OK", "", b"two"))]);
    let backend = backend();
    for content in [b"one", b"two"] {
        let (result, kept) = get(&backend, &server);
        result.unwrap();
        assert_eq!(kept.bytes, content);
    }
    (0..3).for_each(|_| assert!(server.request().starts_with("get / ")));
}

#[test]
fn a_connection_is_replaced_once_and_only_before_it_has_said_anything() {
    for (said, requests) in [("", 3), ("HTTP/1.1 200", 2)] {
        let first = vec![
            Step::Take,
            Step::Send(response("200 OK", "", b"one")),
            Step::Take,
            Step::Send(said.into()),
        ];
        let server = Server::new(vec![first, vec![Step::Take], answer(response("200 OK", "", b"two"))]);
        let backend = backend();
        get(&backend, &server).0.unwrap();
        let failure = get(&backend, &server).0.unwrap_err();
        assert!(transient(failure.kind), "{failure}");
        assert_eq!(failure.status, WebErrorStatus::DISCONNECTED, "{failure}");
        let count = std::iter::from_fn(|| (!server.no_more_requests()).then_some(())).count();
        assert_eq!(count, requests, "{said:?}");
    }
}

#[test]
fn a_connection_that_ended_while_it_waited_costs_no_request() {
    let (closed, heard) = mpsc::channel();
    let ending = vec![
        Step::Take,
        Step::Send(response("200 OK", "", b"one")),
        Step::Close,
        Step::Tell(closed),
    ];
    let server = Server::new(vec![ending, answer(response("200 OK", "", b"two"))]);
    let backend = backend();
    get(&backend, &server).0.unwrap();
    heard.recv_timeout(Duration::from_secs(30)).unwrap();
    let (result, kept) = get(&backend, &server);
    result.unwrap();
    assert_eq!(kept.bytes, b"two");
    (0..2).for_each(|_| assert!(server.request().starts_with("get / ")));
    assert!(server.no_more_requests());
}

#[test]
fn no_more_connections_wait_than_are_wanted() {
    let turn = |content: &'static [u8]| [Step::Take, Step::Send(response("200 OK", "", content))];
    for (idle_max, expected) in [(0, b"fresh" as &[u8]), (1, b"same")] {
        let held = turn(b"one").into_iter().chain(turn(b"same")).collect();
        let server = Server::new(vec![held, turn(b"fresh").into()]);
        let config = HttpConfig {
            idle_max,
            ..HttpConfig::default()
        };
        let backend = HttpBackend::new(config).unwrap();
        get(&backend, &server).0.unwrap();
        assert_eq!(get(&backend, &server).1.bytes, expected, "{idle_max}");
    }
}
