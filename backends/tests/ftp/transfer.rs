//! A download from its beginning.

use std::io::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use backhaul_backends::{Backend, Credential, FailureKind, FtpBackend, FtpConfig, Request, Start, WebErrorStatus};

use crate::kit::{BUFFER_BYTES, attempt_with, content, failure, fetch, is_transient, request};
use crate::server::{Data, Fault, File, Protection, Script, Server};

#[test]
fn a_download_is_whole_and_says_what_the_server_said() {
    for content in [content(), b"x".to_vec(), Vec::new()] {
        let server = Server::start();
        let url = server.put("/a/b/file", File::new(content.clone()));
        let kept = fetch(&request(&url));
        assert!(kept.bytes == content, "all of it comes");
        let head = kept.head();
        assert_eq!(head.start, Start::Beginning);
        assert_eq!(head.validators.total_bytes, Some(content.len() as u64));
        assert_eq!(
            head.validators.last_modified.as_deref(),
            Some("Thu, 29 Feb 2024 12:00:00 GMT")
        );
        assert!(head.provable && head.resumable == Some(true) && !head.on_trust);
        assert_eq!((head.status_code, &head.actual_url), (150, &url));
        let said = [
            ("MDTM", "20240229120000".to_owned()),
            ("SIZE", content.len().to_string()),
        ];
        assert_eq!(head.headers, said.into_iter().collect());
        assert!(head.modified.is_some() && head.content_type.is_none() && head.mirrors.is_empty());
        assert!(kept.largest <= BUFFER_BYTES, "no piece is larger than the buffer");
        assert_eq!(server.connections(), 1);
    }
}

#[test]
fn the_commands_are_as_few_as_they_can_be_and_end_with_a_second_look() {
    let server = Server::start();
    let url = server.put("/a/file", File::new("abc"));
    fetch(&request(&url));
    server.wait_for("QUIT");
    let expected = [
        "USER anonymous",
        "PASS anonymous@",
        "PWD",
        "CWD a",
        "EPSV",
        "TYPE I",
        "MDTM file",
        "SIZE file",
        "REST 0",
        "RETR file",
        "MDTM file",
        "SIZE file",
        "QUIT",
    ];
    assert_eq!(server.commands(), expected.map(|command| format!("1 {command}")));
}

#[test]
fn the_credential_of_the_request_outranks_that_of_the_url() {
    let server = Server::start();
    let url = server.put("/file", File::new("abc"));
    let in_url = url.replace("ftp://", "ftp://us%40er:pass%20word@");
    let given = Credential {
        user: "other".to_owned(),
        password: "secret".to_owned(),
    };
    for (url, credential, user, password) in [
        (&in_url, None, "us@er", "pass word"),
        (&in_url, Some(given.clone()), "other", "secret"),
        (&url, Some(given), "other", "secret"),
    ] {
        server.script(Script {
            user: Some((user.to_owned(), password.to_owned())),
            ..Script::default()
        });
        let kept = fetch(&Request {
            credential,
            ..request(url)
        });
        assert_eq!(kept.head().actual_url, server.url("/file"), "it names nobody");
    }
}

#[test]
fn a_refused_login_wants_a_credential_and_never_shows_it() {
    let server = Server::start();
    let url = server.put("/file", File::new("abc"));
    let nosy = Fault::Say("530 ann-of-us, your hush-hush is wrong\r\n".to_owned());
    server.script(Script::fault("PASS", nosy));
    let credential = Some(Credential {
        user: "ann-of-us".to_owned(),
        password: "hush-hush".to_owned(),
    });
    let (failure, kept) = failure(&Request {
        credential,
        ..request(&url)
    });
    assert_eq!((failure.kind, failure.code), (FailureKind::Permanent, Some(530)));
    assert!(failure.status.wants_credential());
    let expected = format!("{url}: the server answered 530 (***, your *** is wrong)");
    assert_eq!(failure.message, expected);
    assert!(kept.heads.is_empty());
}

#[test]
fn nobody_logs_in_with_a_name_that_would_be_two_commands() {
    let server = Server::start();
    let url = server.put("/file", File::new("abc"));
    for (user, password) in [("a\r\nDELE file", "b"), ("a", "b\nDELE file"), ("a\0", "b")] {
        let credential = Some(Credential {
            user: user.to_owned(),
            password: password.to_owned(),
        });
        let (failure, _) = failure(&Request {
            credential,
            ..request(&url)
        });
        assert_eq!(failure.kind, FailureKind::Permanent);
    }
    let (failure, _) = failure(&request(&url.replace("ftp://", "ftp://a%0D%0ADELE%20file:b@")));
    assert_eq!(failure.kind, FailureKind::Permanent);
    assert_eq!(server.connections(), 0);
}

#[test]
fn a_missing_file_fails_for_good_and_shows_the_reply() {
    let server = Server::start();
    let url = server.url("/nothing");
    let (failure, kept) = failure(&request(&url));
    assert_eq!(
        (failure.kind, failure.status, failure.code),
        (FailureKind::Permanent, WebErrorStatus::NOT_FOUND, Some(550))
    );
    assert_eq!(
        failure.message,
        format!("{url}: the server answered 550 (no such file)")
    );
    assert!(kept.heads.is_empty());
}

#[test]
fn only_what_ftp_can_do_is_done() {
    let server = Server::start();
    let url = server.put("/file", File::new("abc"));
    let posted = Request {
        method: backhaul_backends::Method::POST,
        ..request(&url)
    };
    assert_eq!(failure(&posted).0.kind, FailureKind::Permanent);
    let can = crate::kit::backend().capabilities();
    assert!(can.resume && can.proxies && !can.ranges && !can.methods && !can.headers);
}

#[test]
fn another_length_than_expected_is_refused_before_the_first_byte() {
    let server = Server::start();
    let url = server.put("/file", File::new("abc"));
    let expected = |bytes| Request {
        expected_bytes: Some(bytes),
        ..request(&url)
    };
    let (failure, kept) = failure(&expected(4));
    assert_eq!(
        (failure.kind, failure.status),
        (FailureKind::Permanent, WebErrorStatus::LENGTH_MISMATCH)
    );
    assert!(kept.heads.is_empty());
    assert_eq!(fetch(&expected(3)).bytes, b"abc");
}

#[test]
fn without_a_size_the_expected_length_is_measured_in_the_end() {
    for (data, expected) in [(Data::Whole, 4), (Data::Extra(2), 3)] {
        let server = Server::start();
        let url = server.put("/file", File::new("abc"));
        for _ in 0..2 {
            server.script(Script {
                data,
                ..Script::without(&["SIZE", "MLST"])
            });
        }
        let (failure, kept) = failure(&Request {
            expected_bytes: Some(expected),
            ..request(&url)
        });
        assert_eq!(
            (failure.kind, failure.status),
            (FailureKind::Permanent, WebErrorStatus::LENGTH_MISMATCH)
        );
        assert_eq!(kept.bytes, b"abc");
    }
}

#[test]
fn a_server_that_only_knows_the_oldest_commands_will_do() {
    let server = Server::start();
    let url = server.put("/file", File::new(content()));
    let old = Script::without(&["SIZE", "MDTM", "MLST", "REST", "EPSV", "PWD"]);
    server.script(old.clone());
    server.script(old);
    let kept = fetch(&request(&url));
    assert!(kept.bytes == content());
    let head = kept.head();
    assert!(!head.provable && head.resumable == Some(false));
    assert_eq!(head.validators.total_bytes, None);
    assert!(head.headers.is_empty());
}

#[test]
fn mlst_says_what_size_and_mdtm_do_not() {
    for lacks in [&["SIZE"][..], &["MDTM"], &["SIZE", "MDTM"]] {
        let server = Server::start();
        let url = server.put("/file", File::new(content()));
        server.script(Script::without(lacks));
        server.script(Script::without(lacks));
        let kept = fetch(&request(&url));
        assert!(kept.bytes == content());
        assert!(kept.head().provable, "without {lacks:?}");
        assert!(
            !server.verbs(1).contains(&"MLST".to_owned()),
            "it is asked only where it is needed"
        );
        assert_eq!(server.verbs(2).iter().filter(|verb| *verb == "MLST").count(), 2);
    }
}

#[test]
fn a_data_connection_goes_to_the_server_whatever_address_it_names() {
    let server = Server::start();
    let url = server.put("/file", File::new(content()));
    server.script(Script {
        address: Some([192, 0, 2, 1]),
        ..Script::without(&["EPSV", "MLST"])
    });
    assert!(fetch(&request(&url)).bytes == content());
    assert_eq!(server.data_connections(), 1);
}

#[test]
fn ipv6_works_by_address_and_localhost_by_name() {
    let server = Server::start_on(IpAddr::V6(Ipv6Addr::LOCALHOST), Protection::Never);
    let url = server.put("/file", File::new(content()));
    assert!(url.starts_with("ftp://[::1]:"));
    assert!(fetch(&request(&url)).bytes == content());
    let server = Server::start();
    let url = server.put("/file", File::new(content()));
    assert!(fetch(&request(&url.replace("127.0.0.1", "localhost"))).bytes == content());
}

#[test]
fn in_active_mode_the_server_opens_the_data_connection() {
    let active = FtpConfig {
        active: true,
        ..FtpConfig::default()
    };
    let backend = FtpBackend::new(active).expect("a good configuration");
    for (address, without) in [
        ("127.0.0.1", &["MLST"][..]),
        ("127.0.0.1", &["MLST", "EPRT"]),
        ("::1", &["MLST"]),
    ] {
        let server = Server::start_on(address.parse().expect("an address"), Protection::Never);
        let url = server.put("/file", File::new(content()));
        server.script(Script::without(without));
        let (result, kept) = attempt_with(&backend, &request(&url));
        result.expect("the attempt ends well");
        assert!(kept.bytes == content());
        assert!(!server.verbs(1).contains(&"EPSV".to_owned()));
    }
}

#[test]
fn in_active_mode_only_the_server_may_open_the_data_connection() {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let server = Server::start();
    let url = server.put("/file", File::new(content()));
    server.script(Script {
        refuses_data: true,
        ..Script::default()
    });
    let active = FtpConfig {
        active: true,
        ..FtpConfig::default()
    };
    let backend = FtpBackend::new(active).expect("a good configuration");
    let (result, kept) = std::thread::scope(|scope| {
        scope.spawn(|| {
            server.wait_for("RETR");
            let commands = server.commands();
            let ours = commands.iter().find_map(|command| command.strip_prefix("1 EPRT "));
            let port = ours.and_then(|address| address.split('|').nth(3)).expect("a port");
            let here = SocketAddr::from(([127, 0, 0, 2], 0));
            let there = SocketAddr::from(([127, 0, 0, 1], port.parse().expect("a number")));
            let stranger = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
            bind(&stranger, &here).expect("all of 127.0.0.0/8 is this machine");
            connect(&stranger, &there).expect("somebody listens");
            let stranger = std::net::TcpStream::from(stranger);
            // It may be closed already.
            let _ = (&stranger).write_all(b"not the file");
        });
        attempt_with(&backend, &request(&url))
    });
    let failure = result.expect_err("a stranger is no server");
    assert!(
        failure.message.contains("a data connection from 127.0.0.2"),
        "{failure}"
    );
    assert!(kept.heads.is_empty());
}

#[test]
fn a_file_that_changes_while_it_is_fetched_never_ends_well() {
    let rows = [
        File::new(content()).modified("20240229120001"),
        File::new(content()).modified("20240229120000.5"),
        File::new([content(), b"more".to_vec()].concat()),
        File::new("less"),
    ];
    for then in rows {
        let server = Server::start();
        let url = server.put("/file", File::new(content()));
        server.script(Script {
            then: Some(then.clone()),
            ..Script::default()
        });
        let (failure, kept) = failure(&request(&url));
        assert!(is_transient(&failure), "{failure}");
        assert_eq!(failure.status, WebErrorStatus::LENGTH_MISMATCH);
        assert!(kept.bytes == content(), "what came is kept");
        assert!(
            fetch(&request(&url)).bytes == then.content,
            "the next attempt has the new one"
        );
    }
}

#[test]
fn more_or_less_than_announced_never_ends_well() {
    let rows = [
        (Script::data(Data::Extra(1)), content().len()),
        (Script::data(Data::EndAt(1000)), 1000),
        (
            Script {
                size: Some(1000),
                ..Script::default()
            },
            1000,
        ),
    ];
    for (script, kept_bytes) in rows {
        let server = Server::start();
        let url = server.put("/file", File::new(content()));
        server.script(script);
        let (failure, kept) = failure(&request(&url));
        assert!(is_transient(&failure), "{failure}");
        assert_eq!(failure.status, WebErrorStatus::LENGTH_MISMATCH);
        assert_eq!(kept.bytes.len(), kept_bytes);
    }
}

#[test]
fn without_a_size_what_size_says_in_the_end_must_be_what_came() {
    let server = Server::start();
    let url = server.put("/file", File::new(content()));
    let unsure = Fault::Say("451 not now\r\n".to_owned());
    server.script(Script {
        data: Data::EndAt(1000),
        ..Script::fault("SIZE", unsure.clone())
    });
    let (failure, _) = failure(&request(&url));
    assert!(is_transient(&failure), "{failure}");
    server.script(Script::fault("SIZE", unsure));
    assert!(fetch(&request(&url)).bytes == content());
}
