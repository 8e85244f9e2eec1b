//! Servers that fall silent, hang up, say nonsense, or say too much.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use backhaul_backends::{Backend, Failure, FailureKind, Interrupt, Limits, Request, WebErrorStatus};

use crate::kit::{CUT, Kept, backend, content, failure, fetch, is_transient, request};
use crate::server::{Closed, Data, Fault, File, Script, Server};

/// Every step, and which of its repetitions.
const STEPS: &[(&str, usize)] = &[
    ("", 1),
    ("USER", 1),
    ("PASS", 1),
    ("PWD", 1),
    ("CWD", 1),
    ("EPSV", 1),
    ("TYPE", 1),
    ("MDTM", 1),
    ("SIZE", 1),
    ("REST", 1),
    ("RETR", 1),
    ("226", 1),
    ("MDTM", 2),
    ("SIZE", 2),
];

fn started() -> (Server, String) {
    let server = Server::start();
    let url = server.put("/a/file", File::new(content()));
    (server, url)
}

#[test]
fn a_server_that_hangs_up_at_any_step_is_tried_again() {
    for &(command, number) in STEPS {
        let (server, url) = started();
        server.script(Script::later_fault(command, number, Fault::Close));
        let (failure, _) = failure(&request(&url));
        assert!(is_transient(&failure), "{command} {number}: {failure}");
        assert_eq!(
            failure.status,
            WebErrorStatus::DISCONNECTED,
            "{command} {number}: {failure}"
        );
        assert!(fetch(&request(&url)).bytes == content());
    }
}

#[test]
fn a_server_that_goes_away_at_any_step_says_so_and_is_tried_again() {
    for &(command, number) in STEPS {
        let (server, url) = started();
        let away = Fault::SayAndClose("421 going down\r\n".to_owned());
        server.script(Script::later_fault(command, number, away));
        let (failure, _) = failure(&request(&url));
        assert!(is_transient(&failure), "{command} {number}: {failure}");
        assert_eq!(failure.code, Some(421), "{command} {number}: {failure}");
        assert!(failure.message.contains("(going down)"), "{failure}");
    }
}

/// The limit that counts at a step is short, and the others have no end.
fn only_limit(command: &str, number: usize) -> Limits {
    let (short, long) = (Duration::from_millis(200), Duration::MAX);
    let mut limits = Limits {
        connect: long,
        response: long,
        stall: long,
    };
    match (command, number) {
        ("" | "USER" | "PASS", _) => limits.connect = short,
        ("226", _) | (_, 2) => limits.stall = short,
        _ => limits.response = short,
    }
    limits
}

#[test]
fn a_silent_server_is_left_at_any_step() {
    thread::scope(|scope| {
        for &(command, number) in STEPS {
            scope.spawn(move || {
                let (server, url) = started();
                server.script(Script::later_fault(command, number, Fault::Silence));
                let start = Instant::now();
                let (failure, _) = failure(&Request {
                    limits: only_limit(command, number),
                    ..request(&url)
                });
                assert!(is_transient(&failure), "{command} {number}: {failure}");
                assert_eq!(failure.status, WebErrorStatus::TIMEOUT, "{command} {number}: {failure}");
                assert!(start.elapsed() < Duration::from_secs(20), "{command} {number}");
            });
        }
    });
}

#[test]
fn silence_in_the_middle_of_the_data_is_left_and_what_came_is_kept() {
    let (server, url) = started();
    server.script(Script::data(Data::HangAt(CUT)));
    let (failure, kept) = failure(&Request {
        limits: only_limit("226", 1),
        ..request(&url)
    });
    assert_eq!(failure.status, WebErrorStatus::TIMEOUT, "{failure}");
    assert!(kept.bytes == content()[..CUT]);
}

/// Runs an attempt and raises the interrupt when told to.
fn interrupted(request: &Request, kept: &mut Kept, when: impl FnOnce() + Send) -> (Failure, Duration) {
    let interrupt = Interrupt::new();
    let (raised, told) = mpsc::channel();
    thread::scope(|scope| {
        let raise = interrupt.clone();
        scope.spawn(move || {
            when();
            let now = Instant::now();
            raise.raise();
            raised.send(now).expect("somebody listens");
        });
        let result = backend().download(request, kept, &interrupt);
        let since = told.recv().expect("it is raised").elapsed();
        (result.expect_err("an interrupted attempt fails"), since)
    })
}

#[test]
fn an_interrupt_ends_a_wait_at_any_step() {
    let mut all = Duration::ZERO;
    for &(command, number) in STEPS {
        let (server, url) = started();
        server.script(Script::later_fault(command, number, Fault::Silence));
        // The end of a transfer is no command; that it was asked for is.
        let waits_for = if command == "226" { "RETR" } else { command };
        let (failure, took) = interrupted(&request(&url), &mut Kept::default(), || match waits_for {
            "" => server.wait_for_connections(1),
            verb => server.wait_for_times(verb, number),
        });
        assert_eq!(failure.kind, FailureKind::Interrupted, "{command} {number}: {failure}");
        assert_eq!(failure.status, WebErrorStatus::OPERATION_CANCELED);
        all += took;
    }
    // Where it waited for the next look around, each step would take about a second.
    assert!(all < Duration::from_secs(5), "{all:?}");
}

#[test]
fn an_interrupt_ends_a_silent_transfer_and_what_came_is_kept() {
    let (server, url) = started();
    server.script(Script::data(Data::HangAt(CUT)));
    let (teller, all_came) = mpsc::channel();
    let mut kept = Kept {
        tell_at: Some((CUT, teller)),
        ..Kept::default()
    };
    let (failure, took) = interrupted(&request(&url), &mut kept, move || {
        all_came.recv().expect("the bytes come");
    });
    assert_eq!(failure.kind, FailureKind::Interrupted, "{failure}");
    assert!(kept.bytes == content()[..CUT]);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn an_interrupt_that_is_raised_already_asks_nobody() {
    let (server, url) = started();
    let interrupt = Interrupt::new();
    interrupt.raise();
    let result = backend().download(&request(&url), &mut Kept::default(), &interrupt);
    assert_eq!(result.expect_err("it is raised").kind, FailureKind::Interrupted);
    assert!(server.commands().is_empty());
}

#[test]
fn a_refusal_of_the_sink_ends_the_attempt() {
    let (_server, url) = started();
    let mut kept = Kept {
        refuses: true,
        ..Kept::default()
    };
    let result = backend().download(&request(&url), &mut kept, &Interrupt::new());
    assert_eq!(
        result.expect_err("a refusal is no success").kind,
        FailureKind::SinkRefused
    );
    assert!(
        kept.bytes.len() <= crate::kit::BUFFER_BYTES,
        "nothing is written after it"
    );
}

#[test]
fn replies_without_end_are_left() {
    let rows = [
        Fault::SayForEver("220-and more\r\n".to_owned()),
        Fault::SayForEver("x".repeat(1000)),
        Fault::SayForEver("no reply\r\n".to_owned()),
    ];
    for fault in rows {
        for command in ["", "PWD", "SIZE"] {
            let (server, url) = started();
            server.script(Script::fault(command, fault.clone()));
            let (failure, _) = failure(&request(&url));
            assert_eq!(failure.kind, FailureKind::Permanent, "{command} {fault:?}: {failure}");
            let status = WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE;
            assert_eq!(failure.status, status, "{command} {fault:?}: {failure}");
        }
    }
}

#[test]
fn a_reply_of_several_lines_is_one_reply() {
    let (server, url) = started();
    let many = "220-Welcome\r\n 220 is not the end\r\n220-\r\n\r\n220 now\r\n";
    server.script(Script::fault("", Fault::Say(many.to_owned())));
    assert!(fetch(&request(&url)).bytes == content());
}

#[test]
fn each_refusal_of_the_transfer_is_what_it_is() {
    let rows = [
        ("425 no connection\r\n", true, WebErrorStatus::CANNOT_CONNECT),
        ("450 busy\r\n", true, WebErrorStatus::SERVICE_UNAVAILABLE),
        ("451 broken\r\n", true, WebErrorStatus::SERVICE_UNAVAILABLE),
        ("550 not for you\r\n", false, WebErrorStatus::NOT_FOUND),
        ("553 bad name\r\n", false, WebErrorStatus::NOT_FOUND),
        ("530 log in\r\n", false, WebErrorStatus::UNAUTHORIZED),
        ("502 no such thing\r\n", false, WebErrorStatus::NOT_IMPLEMENTED),
    ];
    for (reply, passes, status) in rows {
        let (server, url) = started();
        server.script(Script::fault("RETR", Fault::Say(reply.to_owned())));
        let (failure, kept) = failure(&request(&url));
        assert_eq!((is_transient(&failure), failure.status), (passes, status), "{failure}");
        assert!(failure.code.is_some_and(|code| reply.starts_with(&code.to_string())));
        assert!(kept.heads.is_empty(), "nothing begins before the server agrees");
    }
}

#[test]
fn a_server_that_is_not_ready_yet_is_tried_again() {
    for greeting in ["120 in 5 minutes\r\n", "421 too many of you\r\n"] {
        let (server, url) = started();
        server.script(Script::fault("", Fault::Say(greeting.to_owned())));
        let (failure, _) = failure(&request(&url));
        assert!(is_transient(&failure), "{failure}");
        assert_eq!(failure.status, WebErrorStatus::SERVICE_UNAVAILABLE, "{failure}");
    }
}

#[test]
fn a_server_of_another_protocol_is_none() {
    for greeting in [
        "SSH-2.0-OpenSSH\r\n",
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "554 no FTP here\r\n",
        "\0\r\n",
    ] {
        let (server, url) = started();
        server.script(Script::fault("", Fault::Say(greeting.to_owned())));
        let (failure, _) = failure(&request(&url));
        assert_eq!(failure.kind, FailureKind::Permanent, "{greeting:?}: {failure}");
    }
}

#[test]
fn a_directory_that_is_not_there_is_a_file_that_is_not_there() {
    let (server, url) = started();
    server.script(Script::fault("CWD", Fault::Say("550 no such directory\r\n".to_owned())));
    let (failure, _) = failure(&request(&url));
    assert_eq!((failure.status, failure.code), (WebErrorStatus::NOT_FOUND, Some(550)));
}

#[test]
fn a_transfer_ends_well_only_with_226_or_250() {
    for (reply, ends_well) in [
        ("226 done\r\n", true),
        ("250 done\r\n", true),
        ("200 done\r\n", false),
        ("426 cut\r\n", false),
        ("451 a read error\r\n", false),
        ("550 gone\r\n", false),
    ] {
        let (server, url) = started();
        server.script(Script::fault("226", Fault::Say(reply.to_owned())));
        let (result, kept) = crate::kit::attempt(&request(&url));
        assert_eq!(result.is_ok(), ends_well, "{reply}: {result:?}");
        assert!(kept.bytes == content(), "{reply}");
    }
}

#[test]
fn data_that_ends_early_never_ends_well() {
    for (data, code) in [(Data::CutAt(CUT), Some(426)), (Data::DropAt(CUT), None)] {
        for without in [&["MLST"][..], &["SIZE", "MDTM", "MLST"]] {
            let (server, url) = started();
            for _ in 0..2 {
                server.script(Script {
                    data,
                    ..Script::without(without)
                });
            }
            let (failure, kept) = failure(&request(&url));
            assert!(is_transient(&failure), "{failure}");
            assert_eq!(failure.code, code, "{failure}");
            assert!(kept.bytes == content()[..CUT]);
        }
    }
}

#[test]
fn a_data_port_that_refuses_is_told_from_a_server_that_is_away() {
    let (server, url) = started();
    server.script(Script {
        refuses_data: true,
        ..Script::default()
    });
    let (failure, _) = failure(&request(&url));
    assert!(is_transient(&failure), "{failure}");
    assert_eq!(failure.status, WebErrorStatus::CANNOT_CONNECT);
    assert!(failure.message.contains("no data connection"), "{failure}");
    let closed = Closed::on(server.address.ip()).expect("a free port");
    let (failure, _) = crate::kit::failure(&request(&format!("ftp://{}/file", closed.address)));
    assert_eq!(failure.status, WebErrorStatus::CANNOT_CONNECT);
    assert!(!failure.message.contains("data connection"), "{failure}");
}

#[test]
fn a_file_that_is_gone_after_it_came_whole_is_whole_and_one_of_which_less_is_said_is_not() {
    let gone = || Fault::Say("550 gone\r\n".to_owned());
    let (server, url) = started();
    let mut script = Script::later_fault("MDTM", 2, gone());
    script.faults.extend(Script::later_fault("SIZE", 2, gone()).faults);
    server.script(script);
    assert!(fetch(&request(&url)).bytes == content());
    for command in ["MDTM", "SIZE"] {
        let (server, url) = started();
        server.script(Script::later_fault(command, 2, gone()));
        let (failure, _) = failure(&request(&url));
        assert!(is_transient(&failure), "{failure}");
    }
}
