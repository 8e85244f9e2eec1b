//! A command that comes to an engine which is just ending, or which does not answer.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::nginx::Nginx;
use support::{Ended, Home, Running, assert_same, until};

/// What an engine does before it ends.
#[derive(Clone, Copy, Debug)]
enum Ends {
    /// It has taken the connection, and says nothing.
    BeforeItAnswers,
    /// It has said who it is.
    BeforeItCreates,
    /// It has taken in a request body.
    AfterTheBody,
    /// As before all of that, and says that it ends.
    WithAReason,
}

/// Reads one message.
fn hear(stream: &mut UnixStream) {
    let mut byte = [1];
    while byte != [0] {
        stream.read_exact(&mut byte).unwrap();
    }
}

/// An engine on this state directory that ends in the middle; its socket is gone before its clients know.
fn ending_engine(state: &Path, socket: &Path, ends: Ends) -> JoinHandle<()> {
    ending_after(state, socket, ends, || ())
}

/// The same, which has done something of what it was asked for before it ends.
fn ending_after(state: &Path, socket: &Path, ends: Ends, done: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .unwrap();
    let metadata = std::fs::metadata(state).unwrap();
    let listener = UnixListener::bind(socket).unwrap();
    let socket = socket.to_path_buf();
    let description = serde_json::json!({ "parameters": {
        "version": "0", "pid": 1, "state_directory": state, "device": metadata.dev(), "inode": metadata.ino(),
        "operations": 0, "running": 0, "unacknowledged_lost": 0,
    }});
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        if !matches!(ends, Ends::BeforeItAnswers) {
            hear(&mut stream);
            stream.write_all(format!("{description}\0").as_bytes()).unwrap();
            hear(&mut stream);
            if matches!(ends, Ends::AfterTheBody) {
                let spooled = serde_json::json!({ "parameters": { "id": "0".repeat(32), "len_bytes": 1 }});
                stream.write_all(format!("{spooled}\0").as_bytes()).unwrap();
                hear(&mut stream);
            }
            done();
        }
        if matches!(ends, Ends::WithAReason) {
            let last = r#"{"error":"io.backhaul.Transfer.Disconnected","parameters":{"message":"has stopped"}}"#;
            stream.write_all(format!("{last}\0").as_bytes()).unwrap();
        }
        std::fs::remove_file(&socket).unwrap();
        drop(listener);
    })
}

#[test]
fn a_command_whose_engine_ends_while_it_hands_over_does_the_work_itself() {
    let nginx = Nginx::start();
    nginx.put("a.txt", b"hello");
    for ends in [Ends::BeforeItAnswers, Ends::BeforeItCreates, Ends::WithAReason] {
        let home = Home::new();
        let socket = home.path().join("socket");
        let typed = socket.display().to_string();
        let url = nginx.url("/a.txt");
        let engine = ending_engine(&home.state(), &socket, ends);
        home.run(&["--socket", &typed, "get", &url, "-o", "downloads/a.txt"])
            .expect_code(0);
        engine.join().unwrap();
        assert_same(&home.download("a.txt"), b"hello");
        let engine = ending_engine(&home.state(), &socket, ends);
        home.run(&["--socket", &typed, "add", &url, "-o", "downloads/b.txt"])
            .expect_code(0);
        engine.join().unwrap();
        assert_eq!(home.listing().len(), 2, "{ends:?}");
    }
}

#[test]
fn what_an_engine_has_done_to_some_before_it_ends_is_done_to_the_others_too() {
    let home = Home::new();
    let socket = home.path().join("socket");
    let typed = socket.display().to_string();
    let add = |name: &str, more: &[&str]| home.add(&format!("http://127.0.0.1:1/{name}"), &home.download(name), more);
    let held: Vec<String> = ["a", "b", "c"].map(|name| add(name, &["--hold"])).into();
    for (word, then) in [
        ("start", "Queued"),
        ("pause", "PausedByApplication"),
        ("cancel", "Canceled"),
    ] {
        let mut first = home.command(&[word, &held[0]]);
        let done = move || assert!(first.status().unwrap().success());
        let engine = ending_after(&home.state(), &socket, Ends::BeforeItCreates, done);
        let words = ["--socket", &typed, word, &held[0], &held[1], &held[2]];
        home.run(&words).expect_code(0);
        engine.join().unwrap();
        assert_eq!(home.ids_with(then).len(), 3, "{word}");
    }
    let mut first = home.command(&["remove", &held[0]]);
    let done = move || assert!(first.status().unwrap().success());
    let engine = ending_after(&home.state(), &socket, Ends::BeforeItCreates, done);
    let words = ["--socket", &typed, "remove", &held[0], &held[1], &held[2]];
    home.run(&words).expect_code(0);
    engine.join().unwrap();
    assert_eq!(home.listing().len(), 0);
}

#[test]
fn what_is_refused_is_refused_although_an_engine_has_ended_in_the_middle() {
    let home = Home::new();
    let socket = home.path().join("socket");
    let typed = socket.display().to_string();
    let nobody = "0".repeat(32);
    let queued = home.add("http://127.0.0.1:1/a", &home.download("a"), &[]);
    let refused = |words: &[&str], code: i32| {
        let engine = ending_engine(&home.state(), &socket, Ends::BeforeItCreates);
        let ended = home.run(&[&["--socket", &typed], words].concat()).expect_code(code);
        engine.join().unwrap();
        ended
    };
    for word in ["start", "pause", "resume", "cancel"] {
        refused(&[word, &nobody], 3);
    }
    refused(&["ack", &queued], 7);
    let created = refused(&["completion", "create", "--name", "c"], 6);
    assert!(created.stderr.contains("'completion list'"), "{}", created.stderr);
    assert_eq!(home.run(&["completion", "list"]).expect_code(0).stdout, "");
}

#[test]
fn what_an_engine_has_done_to_a_group_before_it_ends_is_no_error() {
    let home = Home::new();
    let socket = home.path().join("socket");
    let typed = socket.display().to_string();
    let once_done = |words: &[&str], code: i32| {
        let mut first = home.command(words);
        let done = move || assert!(first.status().is_ok());
        let engine = ending_after(&home.state(), &socket, Ends::BeforeItCreates, done);
        home.run(&[&["--socket", &typed], words].concat()).expect_code(code);
        engine.join().unwrap();
    };
    home.run(&["group", "create", "a"]).expect_code(0);
    once_done(&["group", "remove", "a"], 0);
    let created = home.run(&["completion", "create"]).expect_code(0);
    let id = created.stdout.trim_end();
    // It has not fired, whoever is asked.
    once_done(&["completion", "ack", id], 7);
    for word in ["enable", "ack", "remove"] {
        once_done(&["completion", word, id], 0);
    }
    home.run(&["completion", "remove", id]).expect_code(3);
}

/// A command that sends its standard input, with the engine at this socket.
fn post(home: &Home, socket: &str, word: &str, body: &[u8]) -> Ended {
    let url = "http://127.0.0.1:1/";
    let words = [
        "--socket",
        socket,
        word,
        "--method=POST",
        "--body=-",
        url,
        "-odownloads/a",
    ];
    Running::spawn_with_input(&mut home.command(&words), body).finish()
}

#[test]
fn what_is_left_of_standard_input_is_no_body_where_the_engine_ends_that_has_read_the_beginning() {
    // Longer than what is read of it at once.
    let body = vec![b'x'; 1 << 20];
    for ends in [Ends::BeforeItCreates, Ends::WithAReason] {
        for word in ["add", "get"] {
            let home = Home::new();
            let socket = home.path().join("socket");
            let typed = socket.display().to_string();
            let engine = ending_engine(&home.state(), &socket, ends);
            let refused = post(&home, &typed, word, &body).expect_code(6);
            engine.join().unwrap();
            let problem = "the engine ended that had taken in standard input";
            assert!(refused.stderr.contains(problem), "{ends:?}, {word}: {}", refused.stderr);
            assert_eq!(home.listing().len(), 0, "{ends:?}, {word}");
        }
    }
}

#[test]
fn why_a_command_fails_is_what_came_of_the_last_engine_and_not_of_one_before() {
    for word in ["add", "get"] {
        let home = Home::new();
        let socket = home.path().join("socket");
        let typed = socket.display().to_string();
        let engine = ending_engine(&home.state(), &socket, Ends::AfterTheBody);
        let refused = post(&home, &typed, word, b"x").expect_code(6);
        engine.join().unwrap();
        let problem = "give the command again";
        assert!(refused.stderr.contains(problem), "{word}: {}", refused.stderr);
    }
}

#[test]
fn one_interrupt_ends_a_get_that_waits_for_an_engine() {
    let home = Home::new();
    let socket = home.path().join("socket");
    let typed = socket.display().to_string();
    let listener = UnixListener::bind(&socket).unwrap();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let running = home.spawn(&["--socket", &typed, "get", "http://127.0.0.1:1/", "-o", "downloads/a"]);
        let (mut stream, _) = listener.accept().unwrap();
        hear(&mut stream);
        let asked = Instant::now();
        running.signal(signal);
        running.finish().expect_code(code);
        assert!(asked.elapsed() < Duration::from_secs(5), "took {:?}", asked.elapsed());
    }
}

/// Whether a process has asked for a signal (proc(5), `SigCgt`).
fn catches(pid: u32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
    caught & (1 << (signal.as_raw() - 1)) != 0
}

#[test]
fn a_daemon_that_is_told_to_reload_before_it_has_begun_begins_all_the_same() {
    let home = Home::new();
    let holder = home.spawn(&["run"]);
    until("the holder to heed signals", || {
        catches(holder.id(), Signal::TERM).then_some(())
    });
    let socket = home.path().join("socket");
    let daemon = home.spawn(&["--socket", &socket.display().to_string(), "daemon"]);
    until("the daemon to heed signals", || {
        catches(daemon.id(), Signal::HUP).then_some(())
    });
    daemon.signal(Signal::HUP);
    assert!(!socket.exists(), "it has begun already");
    holder.signal(Signal::TERM);
    holder.finish().expect_code(0);
    until("the daemon to listen", || UnixStream::connect(&socket).ok());
    daemon.signal(Signal::TERM);
    daemon.finish().expect_code(0);
}
