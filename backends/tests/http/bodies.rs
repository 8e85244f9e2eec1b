//! Methods other than GET, and what is sent along: whole or not at all, again after a redirect that says so, and never to
//! continue what is held.

use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use backhaul_backends::{
    Backend, BodySource, FailureKind, Interrupt, Limits, Method, Request, Restart, Start, WebErrorStatus,
};

use crate::server::{Kept, Server, Step, backend, fetch, header, post, request, response, rest, transient};

/// A body that is not what it announces; counts how often it was opened.
struct Lying {
    announced: u64,
    there: Vec<u8>,
    opened: AtomicUsize,
}

impl Lying {
    fn new(announced: u64, there: usize) -> Self {
        Self {
            announced,
            there: vec![b'x'; there],
            opened: AtomicUsize::new(0),
        }
    }
}

impl BodySource for Lying {
    fn len_bytes(&self) -> u64 {
        self.announced
    }

    fn open(&self) -> io::Result<Box<dyn Read + '_>> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.there.open()
    }
}

fn redirect(status: &str, location: &str) -> Vec<u8> {
    response(status, &format!("Location: {location}\r\n"), b"moved")
}

#[test]
fn a_method_and_a_body_arrive_whole_under_their_length() {
    let body: String = ('a'..='z').cycle().take(300_000).collect();
    for (method, body) in [("POST", &*body), ("PUT", "x"), ("PROPFIND", "y"), ("DELETE", "z")] {
        let server = Server::new(vec![vec![
            Step::TakeWhole,
            Step::Send(response("200 OK", "", b"answer")),
        ]]);
        let (result, kept) = fetch(&Request {
            method: method.parse().unwrap(),
            headers: vec![header("Content-Type", "text/x-odd", false)],
            ..post(&server.url("/a"), body)
        });
        result.unwrap();
        assert_eq!((&*kept.bytes, &kept.head().start), (&b"answer"[..], &Start::Beginning));
        let got = server.request();
        assert!(
            got.starts_with(&format!("{} /a http/1.1\r\n", method.to_ascii_lowercase())),
            "{method}"
        );
        assert!(got.contains(&format!("content-length: {}\r\n", body.len())) && !got.contains("transfer-encoding"));
        assert!(got.contains("content-type: text/x-odd\r\n"));
        assert!(
            got.ends_with(&format!("\r\n\r\n{body}")),
            "{method}: the body is another one"
        );
    }
}

#[test]
fn a_request_without_a_body_says_so_where_its_method_is_for_one() {
    for (method, body, says) in [
        ("POST", None, true),
        ("PUT", Some(Vec::new()), true),
        ("DELETE", None, false),
        ("GET", None, false),
    ] {
        let server = Server::new(vec![vec![Step::TakeWhole, Step::Send(response("200 OK", "", b""))]]);
        let (result, _) = fetch(&Request {
            method: method.parse().unwrap(),
            body: body.map(|body: Vec<u8>| Arc::new(body) as Arc<dyn BodySource>),
            ..request(&server.url("/"))
        });
        result.unwrap();
        let got = server.request();
        assert_eq!(got.contains("content-length: 0\r\n"), says, "{got}");
        assert!(
            !got.contains("content-type") && !got.contains("transfer-encoding"),
            "nobody asked for it: {got}"
        );
    }
}

#[test]
fn a_redirect_keeps_method_and_body_where_its_status_says_so_and_fetches_otherwise() {
    for status in [
        "307 Temporary",
        "308 Permanent",
        "301 Moved",
        "302 Found",
        "303 See Other",
    ] {
        let keeps = status.starts_with("307") || status.starts_with("308");
        let server = Server::new(vec![
            vec![Step::TakeWhole, Step::Send(redirect(status, "/next"))],
            vec![Step::TakeWhole, Step::Send(response("200 OK", "", b"here"))],
        ]);
        let (result, kept) = fetch(&Request {
            headers: vec![header("Content-Type", "a/b", false), header("X-Own", "c", false)],
            ..post(&server.url("/a"), "hello")
        });
        // A response that came over the connection of the first request would leave the second script unused.
        result.unwrap_or_else(|failure| panic!("{status}: {failure}"));
        assert_eq!(kept.bytes, b"here");
        assert!(server.request().ends_with("\r\n\r\nhello"));
        let second = server.request();
        assert!(second.contains("x-own: c\r\n"));
        if keeps {
            assert!(
                second.starts_with("post /next ") && second.ends_with("\r\n\r\nhello"),
                "{second}"
            );
            assert!(second.contains("content-type: a/b\r\n"));
        } else {
            assert!(
                second.starts_with("get /next ") && second.ends_with("\r\n\r\n"),
                "{second}"
            );
            assert!(
                !second.contains("content-"),
                "what spoke of the body went along: {second}"
            );
        }
    }
}

#[test]
fn what_was_posted_may_be_fetched_from_the_same_place_and_a_loop_still_ends() {
    let again = |status| vec![Step::TakeWhole, Step::Send(redirect(status, "/a"))];
    let server = Server::new(vec![
        again("303 See Other"),
        vec![Step::TakeWhole, Step::Send(response("200 OK", "", b"made"))],
    ]);
    let (result, kept) = fetch(&post(&server.url("/a"), "x"));
    result.unwrap();
    assert_eq!(kept.bytes, b"made");
    let server = Server::new(vec![again("307 Temporary"), again("307 Temporary")]);
    let failure = fetch(&post(&server.url("/a"), "x")).0.unwrap_err();
    assert_eq!(failure.status, WebErrorStatus::REDIRECT_FAILED);
}

#[test]
fn held_bytes_are_never_continued_with_another_method() {
    let headers = "ETag: \"v1\"\r\nAccept-Ranges: bytes\r\nLink: <http://h/x>; rel=duplicate\r\n";
    let server = Server::new(vec![vec![
        Step::TakeWhole,
        Step::Send(response("200 OK", headers, b"whole")),
    ]]);
    let (result, kept) = fetch(&Request {
        method: Method::POST,
        body: Some(Arc::new(b"b".to_vec())),
        ..rest(&server.url("/"), 3, 5)
    });
    result.unwrap();
    let head = kept.head();
    assert_eq!(head.start, Start::Restart(Restart::Method));
    assert!(head.resumable == Some(false) && !head.provable && head.mirrors.is_empty());
    assert_eq!(kept.bytes, b"whole");
    let got = server.request();
    assert!(!got.contains("range"), "{got}");
}

#[test]
fn a_body_that_became_shorter_or_longer_fails_for_good_and_is_never_sent_whole() {
    for (announced, there) in [(200_000, 150_000), (5, 0), (150_000, 200_000), (0, 1)] {
        let server = Server::new(vec![vec![
            Step::TakeWhole,
            Step::Send(response("200 OK", "", b"taken")),
        ]]);
        let lying = Arc::new(Lying::new(announced, there));
        let (result, kept) = fetch(&Request {
            body: Some(Arc::<Lying>::clone(&lying)),
            ..post(&server.url("/"), "")
        });
        let failure = result.unwrap_err();
        assert_eq!(
            (failure.kind, failure.status),
            (FailureKind::Permanent, WebErrorStatus::FILE_ACCESS),
            "{failure}"
        );
        assert!(
            failure.message.contains("the request body cannot be sent: "),
            "{failure}"
        );
        assert!(failure.message.contains(&announced.to_string()), "{failure}");
        assert!(
            kept.heads.is_empty() && server.no_more_requests(),
            "it was taken for whole"
        );
        assert_eq!(lying.opened.load(Ordering::Relaxed), 1, "it was tried again");
    }
}

#[test]
fn a_connection_that_breaks_while_a_body_is_sent_may_be_tried_again() {
    let server = Server::new(vec![vec![Step::TakePart(1000), Step::Reset]]);
    let failure = fetch(&post(&server.url("/"), vec![b'x'; 20_000_000])).0.unwrap_err();
    assert!(transient(failure.kind), "{failure}");
}

#[test]
fn an_answer_that_comes_before_the_body_was_sent_counts_and_ends_the_sending() {
    // More than any socket buffers hold: whoever goes on sending would never come to read.
    let large = || vec![b'x'; 64_000_000];
    let (finish, gate) = mpsc::channel();
    let refusal = response("413 Content Too Large", "Connection: close\r\n", b"no");
    let scripts = vec![vec![Step::TakePart(1000), Step::Send(refusal), Step::Await(gate)]];
    let server = Server::new(scripts);
    let failure = fetch(&post(&server.url("/"), large())).0.unwrap_err();
    assert_eq!(
        (failure.kind, failure.code),
        (FailureKind::Permanent, Some(413)),
        "{failure}"
    );
    finish.send(()).unwrap();
    let (finish, gate) = mpsc::channel();
    let server = Server::new(vec![
        vec![
            Step::TakePart(1000),
            Step::Send(redirect("303 See Other", "/next")),
            Step::Await(gate),
        ],
        vec![Step::Take, Step::Send(response("200 OK", "", b"there"))],
    ]);
    let (result, kept) = fetch(&post(&server.url("/"), large()));
    result.unwrap();
    assert_eq!(
        kept.bytes, b"there",
        "the second request came over a connection of its own"
    );
    finish.send(()).unwrap();
}

#[test]
fn a_success_that_answers_a_part_of_a_body_is_none_and_any_other_answer_counts() {
    let answered = |status: &str| {
        let answer = response(status, "Connection: close\r\n", b"early");
        // What it leaves unread makes a reset of the end.
        let scripts = vec![vec![Step::TakePart(1000), Step::Send(answer), Step::Close]];
        fetch(&post(&Server::new(scripts).url("/"), vec![b'x'; 64_000_000]))
    };
    for status in ["200 OK", "203 Non-Authoritative Information", "201 Created"] {
        let (result, kept) = answered(status);
        let failure = result.unwrap_err();
        assert!(transient(failure.kind), "{failure}");
        assert_eq!(failure.status, WebErrorStatus::DISCONNECTED, "{failure}");
        let words: Vec<&str> = failure.message.split(' ').collect();
        let after = words.iter().position(|word| *word == "after").unwrap();
        let taken: u64 = words[after + 1].parse().unwrap();
        assert!((1000..64_000_000).contains(&taken), "{failure}");
        assert!(failure.message.ends_with("of its 64000000 bytes"), "{failure}");
        assert!(kept.heads.is_empty(), "its content was taken");
    }
    let failure = answered("413 Content Too Large").0.unwrap_err();
    assert_eq!(failure.code, Some(413), "{failure}");
}

#[test]
fn a_request_that_must_not_arrive_twice_never_goes_over_a_connection_that_may_be_dead() {
    let get = || vec![Step::Take, Step::Send(response("200 OK", "", b"x"))];
    let take_post = vec![Step::TakeWhole, Step::Send(response("200 OK", "", b"y"))];
    // The first connection stays open and would be used again.
    let mut first = get();
    first.push(Step::Hold);
    let server = Server::new(vec![first, take_post]);
    let backend = backend();
    let download = |request: &Request| backend.download(request, &mut Kept::default(), &Interrupt::new());
    download(&request(&server.url("/"))).unwrap();
    download(&post(&server.url("/"), "b")).unwrap();
    assert!(server.request().starts_with("get ") && server.request().starts_with("post "));
}

#[test]
fn an_interrupt_ends_an_attempt_that_is_sending() {
    let (tell, heard) = mpsc::channel();
    let (finish, gate) = mpsc::channel();
    let server = Server::new(vec![vec![Step::TakePart(1000), Step::Tell(tell), Step::Await(gate)]]);
    let hour = Duration::from_secs(3600);
    let request = Request {
        limits: Limits {
            connect: hour,
            response: hour,
            stall: hour,
        },
        ..post(&server.url("/"), vec![b'x'; 64_000_000])
    };
    let interrupt = Interrupt::new();
    let raised = interrupt.clone();
    let result = std::thread::scope(|scope| {
        scope.spawn(move || {
            heard.recv_timeout(Duration::from_secs(30)).unwrap();
            raised.raise();
        });
        backend().download(&request, &mut Kept::default(), &interrupt)
    });
    let failure = result.unwrap_err();
    assert_eq!(
        (failure.kind, failure.status),
        (FailureKind::Interrupted, WebErrorStatus::OPERATION_CANCELED),
        "{failure}"
    );
    finish.send(()).unwrap();
}

#[test]
fn a_server_that_takes_nothing_of_a_body_ends_the_attempt_at_the_limit() {
    let (finish, gate) = mpsc::channel();
    let server = Server::new(vec![vec![Step::TakePart(1000), Step::Await(gate)]]);
    let limits = Limits {
        response: Duration::from_millis(300),
        ..Limits::default()
    };
    let failure = fetch(&Request {
        limits,
        ..post(&server.url("/"), vec![b'x'; 64_000_000])
    });
    let failure = failure.0.unwrap_err();
    assert_eq!(failure.status, WebErrorStatus::TIMEOUT, "{failure}");
    finish.send(()).unwrap();
}

#[test]
fn a_server_that_answers_while_it_still_reads_is_named_as_what_ends_the_attempt() {
    let limits = Limits {
        response: Duration::from_secs(1),
        ..Limits::default()
    };
    // One that goes on answering, and one that has answered.
    for answer in [
        response("200 OK", "", &vec![b'y'; 64_000_000]),
        response("200 OK", "", b"early"),
    ] {
        let (finish, gate) = mpsc::channel();
        let scripts = vec![vec![Step::TakePart(1000), Step::Send(answer), Step::Await(gate)]];
        let server = Server::new(scripts);
        let (result, kept) = fetch(&Request {
            limits,
            ..post(&server.url("/"), vec![b'x'; 64_000_000])
        });
        let failure = result.unwrap_err();
        assert_eq!(failure.status, WebErrorStatus::TIMEOUT, "{failure}");
        assert!(
            transient(failure.kind) && failure.message.contains("answers while it still reads"),
            "{failure}"
        );
        assert!(kept.heads.is_empty(), "its content was taken");
        // The first script has ended with its connection.
        let _ = finish.send(());
    }
}

#[test]
fn the_header_fields_of_the_accepted_response_are_kept_as_they_were_sent() {
    let headers = "X-First: 1\r\nETag: \"e\"\r\nx-FIRST:  2 \r\nSet-Cookie: id=hush\r\n";
    let server = Server::new(vec![vec![
        Step::Take,
        Step::Send(redirect("302 Found", "/b")),
        Step::Take,
        Step::Send(b"HTTP/1.1 103 Early Hints\r\nX-Hint: 1\r\n\r\n".to_vec()),
        Step::Send(response("200 OK", headers, b"HTTP/1.1 200 OK\r\nX-Body: 1\r\n\r\n")),
    ]]);
    let (result, kept) = fetch(&request(&server.url("/")));
    result.unwrap();
    let pairs: Vec<(&str, &str)> = kept.head().headers.iter().collect();
    let expected = [
        ("X-First", "1"),
        ("ETag", "\"e\""),
        ("x-FIRST", "2"),
        ("Content-Length", "30"),
    ];
    assert_eq!(pairs, expected);
}
