//! Whole downloads, resumes, cuts and stalls over plain HTTP.

use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use backhaul_backends::{Backend, FailureKind, Interrupt, Limits, Request, Restart, Start, WebErrorStatus};

use crate::server::{Kept, Server, Step, answer, backend, fetch, request, response, rest, transient};

#[test]
fn a_download_tells_the_head_then_the_bytes() {
    let headers = "ETag: \"v1\"\r\nAccept-Ranges: bytes\r\nContent-Type: text/plain\r\n\
                   Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let server = Server::once(response("200 OK", headers, b"hello"));
    let (result, kept) = fetch(&request(&server.url("/a?token=1#part")));
    result.unwrap();
    assert_eq!(kept.bytes, b"hello");
    let head = kept.head();
    assert_eq!(head.start, Start::Beginning);
    assert_eq!(head.validators.etag.as_deref(), Some("\"v1\""));
    assert_eq!(head.validators.total_bytes, Some(5));
    assert_eq!(head.actual_url, server.url("/a?***"));
    assert!(head.resumable == Some(true) && head.modified.is_some());
    assert_eq!(
        (head.status_code, head.content_type.as_deref()),
        (200, Some("text/plain"))
    );
    let asked = server.request();
    assert!(asked.starts_with("get /a?token=1 http/1.1\r\n"), "{asked}");
    assert!(asked.contains("accept-encoding: identity\r\n"), "{asked}");
    assert!(asked.contains("user-agent: backhaul/"), "{asked}");
    assert!(!asked.contains("range"), "{asked}");
}

#[test]
fn a_server_that_does_not_say_whether_it_serves_ranges_may_serve_them() {
    for (header, resumable) in [
        ("Accept-Ranges: bytes\r\n", Some(true)),
        ("Accept-Ranges: none\r\n", Some(false)),
        ("", None),
    ] {
        let headers = format!("ETag: \"v1\"\r\n{header}");
        let server = Server::once(response("200 OK", &headers, b"hello"));
        let (result, kept) = fetch(&request(&server.url("/")));
        result.unwrap();
        assert_eq!((kept.head().resumable, kept.head().provable), (resumable, true));
    }
    let scripts = (0..2).map(|_| answer(response("200 OK", "ETag: \"v1\"\r\n", b"hello")));
    let server = Server::new(scripts.collect());
    let (result, kept) = fetch(&rest(&server.url("/"), 3, 5));
    result.unwrap();
    assert_eq!(kept.head().start, Start::Restart(Restart::RangeIgnored));
    assert_eq!(kept.head().resumable, Some(false), "it was asked, and did not");
}

#[test]
fn a_resume_asks_for_the_rest_under_if_range() {
    let headers = "ETag: \"v1\"\r\nContent-Range: bytes 3-4/5\r\n";
    let server = Server::once(response("206 Partial Content", headers, b"lo"));
    let (result, kept) = fetch(&rest(&server.url("/"), 3, 5));
    result.unwrap();
    assert_eq!(kept.bytes, b"lo");
    assert_eq!(kept.head().start, Start::Continue { offset_bytes: 3 });
    let asked = server.request();
    assert!(
        asked.contains("range: bytes=3-\r\n") && asked.contains("if-range: \"v1\"\r\n"),
        "{asked}"
    );
}

#[test]
fn a_changed_resource_starts_again_within_the_attempt() {
    let part = response(
        "206 Partial Content",
        "ETag: \"v2\"\r\nContent-Range: bytes 3-4/5\r\n",
        b"LO",
    );
    let whole = response("200 OK", "ETag: \"v2\"\r\n", b"HELLO");
    let server = Server::new(vec![vec![Step::Take, Step::Send(part), Step::Take, Step::Send(whole)]]);
    let (result, kept) = fetch(&rest(&server.url("/"), 3, 5));
    result.unwrap();
    assert_eq!(kept.bytes, b"HELLO");
    assert_eq!(kept.head().start, Start::Restart(Restart::Changed));
    assert!(server.request().contains("range: bytes=3-"));
    assert!(
        !server.request().contains("range:"),
        "the second request asks for the whole"
    );
}

#[test]
fn a_whole_answer_to_a_range_starts_again() {
    for (tag, reason) in [("\"v1\"", Restart::RangeIgnored), ("\"v2\"", Restart::Changed)] {
        let whole = response("200 OK", &format!("ETag: {tag}\r\n"), b"HELLO");
        // The same tag may mean a server that ignores ranges only under a condition, so it is asked without one, too.
        let server = Server::new(vec![answer(whole.clone()), answer(whole)]);
        let (result, kept) = fetch(&rest(&server.url("/"), 3, 5));
        result.unwrap();
        assert_eq!(kept.bytes, b"HELLO");
        assert_eq!(kept.head().start, Start::Restart(reason));
    }
}

#[test]
fn a_weak_tag_alone_asks_for_no_range_at_all() {
    let server = Server::once(response("200 OK", "ETag: W/\"v1\"\r\n", b"HELLO"));
    let mut request = rest(&server.url("/"), 3, 5);
    request.held.as_mut().unwrap().validators.etag = Some("W/\"v1\"".to_owned());
    let (result, kept) = fetch(&request);
    result.unwrap();
    assert_eq!(kept.head().start, Start::Restart(Restart::NoProof));
    assert!(!server.request().contains("range"));
}

#[test]
fn a_large_body_that_is_cut_keeps_what_came() {
    let body = vec![7; 2_000_000];
    let beginning = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n".to_vec(),
        body.clone(),
    ]
    .concat();
    let server = Server::once(beginning.clone());
    let (result, kept) = fetch(&request(&server.url("/")));
    assert!(kept.bytes == body);
    assert_eq!(result.unwrap_err().status, WebErrorStatus::DISCONNECTED);
    let server = Server::new(vec![vec![Step::Take, Step::Send(beginning), Step::Hold]]);
    let limits = Limits {
        stall: Duration::from_millis(100),
        ..Limits::default()
    };
    let (result, kept) = fetch(&Request {
        limits,
        ..request(&server.url("/"))
    });
    assert!(kept.bytes == body);
    assert_eq!(result.unwrap_err().status, WebErrorStatus::TIMEOUT);
}

#[test]
fn a_backend_goes_on_after_a_large_body() {
    let large = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n".to_vec(),
        vec![7; 2_000_000],
    ]
    .concat();
    let server = Server::new(vec![answer(large), answer(response("200 OK", "", b"small"))]);
    let backend = backend();
    for expected in [2_000_000, 5] {
        let mut kept = Kept::default();
        backend
            .download(&request(&server.url("/")), &mut kept, &Interrupt::new())
            .unwrap();
        assert_eq!(kept.bytes.len(), expected);
    }
}

#[test]
fn an_early_close_keeps_what_came_and_may_be_tried_again() {
    let server = Server::once("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello");
    let (result, kept) = fetch(&request(&server.url("/")));
    let failure = result.unwrap_err();
    assert_eq!(kept.bytes, b"hello");
    assert!(transient(failure.kind));
    assert_eq!(failure.status, WebErrorStatus::DISCONNECTED, "{failure}");
}

#[test]
fn a_reset_keeps_what_came_and_may_be_tried_again() {
    for framing in ["Content-Length: 100\r\n", "", "Transfer-Encoding: chunked\r\n"] {
        let (tell, heard) = mpsc::channel();
        let body = if framing.starts_with('T') {
            "64\r\nhello"
        } else {
            "hello"
        };
        let beginning = format!("HTTP/1.1 200 OK\r\n{framing}\r\n{body}");
        let server = Server::new(vec![vec![
            Step::Take,
            Step::Send(beginning.into_bytes()),
            Step::Await(heard),
            Step::Reset,
        ]]);
        let mut kept = Kept {
            tell: Some(tell),
            ..Kept::default()
        };
        let failure = backend()
            .download(&request(&server.url("/")), &mut kept, &Interrupt::new())
            .unwrap_err();
        assert_eq!(kept.bytes, b"hello", "{framing}");
        assert!(transient(failure.kind), "{framing}{failure}");
        assert_eq!(failure.status, WebErrorStatus::CONNECTION_RESET, "{framing}{failure}");
    }
}

#[test]
fn silence_in_the_body_ends_the_attempt_after_the_stall_limit() {
    let server = Server::new(vec![vec![
        Step::Take,
        Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello".to_vec()),
        Step::Hold,
    ]]);
    let limits = Limits {
        stall: Duration::from_millis(100),
        ..Limits::default()
    };
    let (result, kept) = fetch(&Request {
        limits,
        ..request(&server.url("/"))
    });
    let failure = result.unwrap_err();
    assert_eq!(kept.bytes, b"hello");
    assert!(transient(failure.kind));
    assert_eq!(failure.status, WebErrorStatus::TIMEOUT, "{failure}");
}

#[test]
fn silence_instead_of_a_response_ends_the_attempt_after_the_response_limit() {
    let server = Server::new(vec![vec![Step::Take, Step::Hold]]);
    let limits = Limits {
        response: Duration::from_millis(100),
        ..Limits::default()
    };
    let failure = fetch(&Request {
        limits,
        ..request(&server.url("/"))
    })
    .0
    .unwrap_err();
    assert_eq!(failure.status, WebErrorStatus::TIMEOUT, "{failure}");
}

#[test]
fn a_trickle_is_no_stall_and_reaches_the_sink_piece_by_piece() {
    let (tell, heard) = mpsc::channel();
    let (open, gate) = mpsc::channel();
    let mut script = vec![
        Step::Take,
        Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nh".to_vec()),
    ];
    script.extend([Step::Await(gate), Step::Send(b"ey".to_vec())]);
    let server = Server::new(vec![script]);
    // The server sends the rest only after the sink has seen the beginning, although no buffer is full.
    let relay = thread::spawn(move || {
        heard.recv_timeout(Duration::from_secs(30)).unwrap();
        open.send(()).unwrap();
        while heard.recv().is_ok() {}
    });
    let mut kept = Kept {
        tell: Some(tell),
        ..Kept::default()
    };
    backend()
        .download(&request(&server.url("/")), &mut kept, &Interrupt::new())
        .unwrap();
    assert_eq!(kept.bytes, b"hey");
    drop(kept);
    relay.join().unwrap();
}

#[test]
fn a_body_that_comes_quickly_is_handed_over_in_ever_larger_pieces_up_to_the_bound() {
    let server = Server::once(response("200 OK", "", &vec![7; 8 << 20]));
    let request = Request {
        buffer_bytes: 100_000,
        ..request(&server.url("/"))
    };
    let (result, kept) = fetch(&request);
    result.unwrap();
    assert_eq!(kept.bytes.len(), 8 << 20);
    assert!(kept.writes[0] <= 16 << 10, "it begins small: {:?}", kept.writes);
    let largest = kept.writes.iter().copied().max();
    assert!(
        largest.is_some_and(|largest| (16 << 10) + 1 < largest && largest <= 100_000),
        "{largest:?}"
    );
}

#[test]
fn a_steady_drip_reaches_the_sink_although_no_buffer_fills_and_no_silence_comes() {
    let (tell, gate) = mpsc::channel();
    let beginning = b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n".to_vec();
    let server = Server::new(vec![vec![Step::Take, Step::Send(beginning), Step::Drip(gate)]]);
    let mut kept = Kept {
        tell: Some(tell),
        ..Kept::default()
    };
    let failure = backend()
        .download(&request(&server.url("/")), &mut kept, &Interrupt::new())
        .unwrap_err();
    assert_eq!(failure.status, WebErrorStatus::DISCONNECTED);
    assert!(
        kept.bytes.len() < 1000,
        "the drip went on until its end before the sink heard of it"
    );
}

#[test]
fn less_than_the_rest_is_kept_and_more_must_be_asked_for() {
    let part = response(
        "206 Partial Content",
        "ETag: \"v1\"\r\nContent-Range: bytes 3-4/9\r\n",
        b"lo",
    );
    let server = Server::once(part);
    let (result, kept) = fetch(&rest(&server.url("/"), 3, 9));
    assert_eq!(kept.bytes, b"lo");
    assert!(transient(result.unwrap_err().kind));
}

#[test]
fn all_bytes_held_already_end_well_without_another() {
    let server = Server::once(response(
        "416 Range Not Satisfiable",
        "Content-Range: bytes */5\r\n",
        b"no",
    ));
    let (result, kept) = fetch(&rest(&server.url("/"), 5, 5));
    result.unwrap();
    assert_eq!(kept.head().start, Start::Continue { offset_bytes: 5 });
    assert!(kept.bytes.is_empty());
}

#[test]
fn a_refused_connection_names_the_address_and_may_be_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let failure = fetch(&request(&format!("http://user:pass@{address}/x?sig=1")))
        .0
        .unwrap_err();
    assert!(transient(failure.kind));
    assert_eq!(failure.status, WebErrorStatus::CANNOT_CONNECT);
    assert!(
        failure.message.starts_with(&format!("http://{address}/x: ")),
        "{failure}"
    );
    assert!(
        !failure.message.contains("sig") && !failure.message.contains("pass"),
        "{failure}"
    );
}

#[test]
fn an_error_status_is_a_failure_and_its_body_no_content() {
    for (status, code, again) in [("404 Not Found", 404, false), ("503 Busy", 503, true)] {
        let server = Server::once(response(status, "Retry-After: 7\r\n", b"page"));
        let (result, kept) = fetch(&request(&server.url("/")));
        let failure = result.unwrap_err();
        assert!(kept.heads.is_empty() && kept.bytes.is_empty());
        assert_eq!(failure.code, Some(code));
        assert_eq!(failure.status, WebErrorStatus(i32::from(code)));
        let expected = if again {
            FailureKind::Transient {
                retry_after: Some(Duration::from_secs(7)),
            }
        } else {
            FailureKind::Permanent
        };
        assert_eq!(failure.kind, expected);
    }
}

#[test]
fn a_pooled_connection_that_died_is_replaced_without_a_failure() {
    // The server takes the second request and hangs up without a word, as one does whose idle time just ran out.
    let first = vec![Step::Take, Step::Send(response("200 OK", "", b"one")), Step::Take];
    let server = Server::new(vec![first, answer(response("200 OK", "", b"two"))]);
    let backend = backend();
    for expected in ["one", "two"] {
        let mut kept = Kept::default();
        backend
            .download(&request(&server.url("/")), &mut kept, &Interrupt::new())
            .unwrap();
        assert_eq!(kept.bytes, expected.as_bytes());
    }
    let requests: Vec<_> = (0..3).map(|_| server.request()).collect();
    assert!(requests.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a_fresh_connection_that_dies_is_not_tried_again_in_the_attempt() {
    let server = Server::new(vec![vec![Step::Take], answer(response("200 OK", "", b"two"))]);
    let failure = fetch(&request(&server.url("/"))).0.unwrap_err();
    assert_eq!(failure.status, WebErrorStatus::DISCONNECTED, "{failure}");
    server.request();
    assert!(server.no_more_requests());
}

#[test]
fn a_sink_that_refuses_ends_the_attempt() {
    let server = Server::once(response("200 OK", "", &vec![7; 100_000]));
    let mut kept = Kept {
        refuse_after: Some(1),
        ..Kept::default()
    };
    let mut request = request(&server.url("/"));
    request.buffer_bytes = 4096;
    let failure = backend().download(&request, &mut kept, &Interrupt::new()).unwrap_err();
    assert_eq!(failure.kind, FailureKind::SinkRefused);
    assert_eq!(kept.bytes.len(), 4096);
}
