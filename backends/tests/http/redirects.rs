//! Redirects: followed here, bounded, and never with secrets to another origin.

use backhaul_backends::{Credential, FailureKind, Request, Restart, Start, WebErrorStatus};

use crate::server::{Server, Step, answer, fetch, header, request, response, rest, transient};

fn redirect(status: &str, location: &str) -> Vec<u8> {
    response(status, &format!("Location: {location}\r\n"), b"moved")
}

#[test]
fn each_redirect_status_is_followed_on_the_same_connection() {
    let statuses = [
        "301 Moved",
        "302 Found",
        "303 See Other",
        "307 Temporary",
        "308 Permanent",
    ];
    for status in statuses {
        let server = Server::new(vec![vec![
            Step::Take,
            Step::Send(redirect(status, "b/../c?d=e#f")),
            Step::Take,
            Step::Send(response("200 OK", "", b"here")),
        ]]);
        let (result, kept) = fetch(&request(&server.url("/a/x")));
        result.unwrap();
        assert_eq!(kept.bytes, b"here");
        assert_eq!(kept.head().actual_url, server.url("/a/c?***"));
        assert!(server.request().starts_with("get /a/x "));
        assert!(server.request().starts_with("get /a/c?d=e "));
    }
}

#[test]
fn a_range_follows_the_redirect() {
    let part = response(
        "206 Partial Content",
        "ETag: \"v1\"\r\nContent-Range: bytes 3-4/5\r\n",
        b"lo",
    );
    let target = Server::once(part);
    let server = Server::once(redirect("302 Found", &target.url("/")));
    let (result, kept) = fetch(&rest(&server.url("/"), 3, 5));
    result.unwrap();
    assert_eq!(kept.head().start, Start::Continue { offset_bytes: 3 });
    let asked = target.request();
    assert!(
        asked.contains("range: bytes=3-\r\n") && asked.contains("if-range: \"v1\"\r\n"),
        "{asked}"
    );
}

#[test]
fn a_time_counts_only_where_the_redirect_leads_to_the_server_that_told_it() {
    let times = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nDate: Sun, 06 Nov 1994 08:50:37 GMT\r\n";
    let part = response("206 X", &format!("{times}Content-Range: bytes 3-4/5\r\n"), b"lo");
    let go_on = Start::Continue { offset_bytes: 3 };
    let anew = Start::Restart(Restart::NoProof);
    for (is_same, digest_expected, start) in [
        (true, false, (go_on.clone(), false)),
        (false, false, (anew, false)),
        (false, true, (go_on, true)),
    ] {
        let whole = response("200 OK", times, b"HELLO");
        let target = Server::new(vec![
            [answer(part.clone()), answer(whole)].into_iter().flatten().collect(),
        ]);
        let server = Server::once(redirect("302 Found", &target.url("/")));
        let mut request = rest(&server.url("/"), 3, 5);
        if let Some(held) = &mut request.held {
            held.validators.etag = None;
            held.validators.last_modified = Some("Sun, 06 Nov 1994 08:49:37 GMT".to_owned());
            held.validators.date = Some("Sun, 06 Nov 1994 08:50:37 GMT".to_owned());
            held.server = Some(if is_same { target.url("") } else { server.url("") });
            held.digest_expected = digest_expected;
        }
        let (result, kept) = fetch(&request);
        result.unwrap();
        let head = kept.head();
        assert_eq!((head.start.clone(), head.on_trust), start);
        assert!(target.request().contains("range: bytes=3-\r\n"));
    }
}

#[test]
fn secrets_stay_with_the_origin_they_were_given_for() {
    let headers = vec![
        header("X-Device", "42", false),
        header("X-Api-Key", "hush", true),
        header("Cookie", "session=hush", false),
    ];
    let credential = Some(Credential {
        user: "u".to_owned(),
        password: "hush".to_owned(),
    });
    let other = Server::new(vec![answer(response("200 OK", "", b"x"))]);
    let server = Server::new(vec![
        answer(redirect("302 Found", "/next")),
        answer(redirect("302 Found", &other.url("/"))),
    ]);
    let (result, _) = fetch(&Request {
        headers,
        credential,
        ..request(&server.url("/"))
    });
    result.unwrap();
    for own in [server.request(), server.request()] {
        assert!(
            own.contains("x-api-key: hush\r\n") && own.contains("cookie: session=hush\r\n"),
            "{own}"
        );
        assert!(own.contains("authorization: basic dtpodxno\r\n"), "{own}");
    }
    let foreign = other.request();
    assert!(foreign.contains("x-device: 42\r\n"), "{foreign}");
    assert!(
        !foreign.contains("hush") && !foreign.contains("authorization"),
        "{foreign}"
    );
}

#[test]
fn an_own_authorization_header_stays_too_and_outranks_the_credential() {
    let other = Server::once(response("200 OK", "", b"x"));
    let server = Server::once(redirect("302 Found", &other.url("/")));
    let headers = vec![header("Authorization", "Bearer t", false)];
    let credential = Some(Credential {
        user: "u".to_owned(),
        password: "p".to_owned(),
    });
    fetch(&Request {
        headers,
        credential,
        ..request(&server.url("/"))
    })
    .0
    .unwrap();
    assert!(server.request().contains("authorization: bearer t\r\n"));
    assert!(!other.request().contains("authorization"));
}

#[test]
fn user_info_in_a_location_is_not_sent() {
    let other = Server::once(response("200 OK", "", b"x"));
    let location = format!("http://eve:hush@{}/", other.address);
    let server = Server::once(redirect("302 Found", &location));
    let (result, kept) = fetch(&request(&server.url("/")));
    result.unwrap();
    assert!(!other.request().contains("authorization"));
    assert_eq!(kept.head().actual_url, other.url("/"));
}

#[test]
fn a_loop_ends_and_is_named() {
    let server = Server::new(vec![
        answer(redirect("302 Found", "/b")),
        answer(redirect("302 Found", "/a")),
    ]);
    let failure = fetch(&request(&server.url("/a"))).0.unwrap_err();
    assert_eq!(
        (failure.kind, failure.status),
        (FailureKind::Permanent, WebErrorStatus::REDIRECT_FAILED)
    );
    assert!(
        failure.message.contains("loop, back to") && failure.message.contains("/a"),
        "{failure}"
    );
}

#[test]
fn ten_redirects_are_followed_and_no_more() {
    let chain = |length: usize| (1..=length).map(|n| answer(redirect("302 Found", &format!("/{n}"))));
    let enough = chain(10).chain([answer(response("200 OK", "", b"end"))]).collect();
    fetch(&request(&Server::new(enough).url("/"))).0.unwrap();
    let failure = fetch(&request(&Server::new(chain(11).collect()).url("/")))
        .0
        .unwrap_err();
    assert_eq!(
        (failure.kind, failure.status),
        (FailureKind::Permanent, WebErrorStatus::REDIRECT_FAILED)
    );
    assert!(failure.message.contains("more than 10"), "{failure}");
}

#[test]
fn a_location_that_cannot_be_followed_is_a_named_failure() {
    for (location, part) in [
        ("ftp://x/", "scheme ftp"),
        ("http://", "bad URL"),
        ("http://[::1", "bad URL"),
    ] {
        let server = Server::once(redirect("302 Found", location));
        let failure = fetch(&request(&server.url("/"))).0.unwrap_err();
        assert_eq!(
            (failure.kind, failure.status),
            (FailureKind::Permanent, WebErrorStatus::REDIRECT_FAILED)
        );
        assert!(failure.message.contains(part), "{failure}");
    }
    for headers in ["", "Location: \r\n", "Location: /a\r\nLocation: /b\r\n"] {
        let server = Server::once(response("302 Found", headers, b""));
        let failure = fetch(&request(&server.url("/"))).0.unwrap_err();
        assert_eq!(
            (failure.kind, failure.status, failure.code),
            (FailureKind::Permanent, WebErrorStatus::REDIRECT_FAILED, Some(302)),
            "{headers:?}"
        );
        assert!(failure.message.contains("Location"), "{failure}");
    }
}

#[test]
fn a_place_that_a_redirect_led_to_and_that_refuses_in_the_middle_is_worth_another_look() {
    let refusals = ["401 Unauthorized", "403 Forbidden", "404 Not Found", "410 Gone"];
    for refusal in refusals {
        let target = || Server::once(response(refusal, "", b"expired"));
        let redirected = |target: &Server| Server::once(redirect("302 Found", &target.url("/signed")));
        let stale = target();
        let failure = fetch(&rest(&redirected(&stale).url("/"), 3, 5)).0.unwrap_err();
        assert_eq!(failure.kind, FailureKind::StaleTarget, "{refusal}: {failure}");
        let fresh = target();
        let failure = fetch(&request(&redirected(&fresh).url("/"))).0.unwrap_err();
        assert_eq!(
            failure.kind,
            FailureKind::Permanent,
            "{refusal}, nothing held: {failure}"
        );
        let failure = fetch(&rest(&target().url("/"), 3, 5)).0.unwrap_err();
        assert_eq!(
            failure.kind,
            FailureKind::Permanent,
            "{refusal}, not redirected: {failure}"
        );
    }
    let gone = Server::once(response("451 Unavailable For Legal Reasons", "", b""));
    let server = Server::once(redirect("302 Found", &gone.url("/")));
    let failure = fetch(&rest(&server.url("/"), 3, 5)).0.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Permanent, "{failure}");
}

#[test]
fn a_login_page_behind_a_redirect_gives_up_no_held_byte() {
    let page = response(
        "200 OK",
        "Content-Type: text/html; charset=utf-8\r\n",
        b"<html>login</html>",
    );
    let portal = Server::once(page);
    let server = Server::once(redirect("302 Found", &portal.url("/login")));
    let (result, kept) = fetch(&rest(&server.url("/"), 3, 5));
    let failure = result.unwrap_err();
    assert!(transient(failure.kind), "{failure}");
    assert_eq!(failure.status, WebErrorStatus::UNEXPECTED_CONTENT_TYPE);
    assert!(kept.heads.is_empty(), "nothing was begun, so nothing was given up");
}

#[test]
fn another_type_than_expected_is_refused_before_the_first_byte() {
    for (kind, passes) in [("text/html", true), ("application/json", false)] {
        let server = Server::once(response("200 OK", &format!("Content-Type: {kind}\r\n"), b"{}"));
        let (result, kept) = fetch(&Request {
            expected_type: Some("application/octet-stream".to_owned()),
            ..request(&server.url("/"))
        });
        let failure = result.unwrap_err();
        assert_eq!(failure.status, WebErrorStatus::UNEXPECTED_CONTENT_TYPE);
        assert_eq!(transient(failure.kind), passes, "{failure}");
        assert!(failure.message.contains(kind), "{failure}");
        assert!(kept.heads.is_empty());
    }
}
