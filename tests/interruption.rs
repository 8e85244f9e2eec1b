//! Commands that are interrupted, given again, or given beside each other.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::nginx::Nginx;
use support::{Home, assert_same, bytes_in, get, names_in, until};

#[test]
fn ctrl_c_checkpoints_says_how_to_go_on_and_get_goes_on() {
    let nginx = Nginx::start();
    let bytes = nginx.put_seeded("a.bin", 6 << 20);
    let home = Home::new();
    let url = nginx.url("/rate/2000k/a.bin");
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let running = home.spawn(&["get", &url, "-o", "downloads/a.bin"]);
        let before = bytes_in(&home);
        until("some bytes of this attempt", || {
            (bytes_in(&home) > before + 500_000).then_some(())
        });
        let asked = Instant::now();
        running.signal(signal);
        let ended = running.finish().expect_code(code);
        assert!(asked.elapsed() < Duration::from_secs(5), "took {:?}", asked.elapsed());
        assert!(
            ended.stderr.contains("get") || ended.stderr.contains("run"),
            "does not say how to go on: {}",
            ended.stderr
        );
        assert_eq!(home.operation()["status"], "Queued");
        assert!(!home.download("a.bin").exists());
    }
    get(&home, &url, "downloads/a.bin", &[]).expect_code(0);
    assert_same(&home.download("a.bin"), &bytes);
    assert_eq!(home.listing().len(), 1, "get has made a second operation");
    let refetched = nginx.bytes_served("a.bin") - bytes.len() as u64;
    // An orderly stop records what it has; only what was in the sockets may come again.
    assert!(refetched <= 2 << 20, "{refetched} bytes again after two orderly stops");
}

#[test]
fn a_run_that_is_interrupted_before_all_is_done_does_not_end_as_if_it_were() {
    let nginx = Nginx::start();
    nginx.put_seeded("a.bin", 6 << 20);
    let home = Home::new();
    home.add(&nginx.url("/rate/400k/a.bin"), &home.download("a.bin"), &[]);
    let runs: [(&[&str], Signal, i32); 4] = [
        (&["run", "--until-idle"], Signal::INT, 130),
        (&["run", "--until-idle"], Signal::TERM, 143),
        (&["run"], Signal::INT, 130),
        // As a service manager ends what is to run without end.
        (&["run"], Signal::TERM, 0),
    ];
    for (command, signal, code) in runs {
        let running = home.spawn(command);
        until("it runs", || (home.operation()["status"] == "Running").then_some(()));
        running.signal(signal);
        running.finish().expect_code(code);
    }
}

#[test]
fn a_list_that_was_interrupted_and_is_given_again_goes_on_with_what_it_has_not_completed() {
    let nginx = Nginx::start();
    let bytes = nginx.put_seeded("slow.bin", 2 << 20);
    nginx.put("a.txt", b"first");
    nginx.put("b.txt", b"second");
    let home = Home::new();
    let list = home.path().join("list");
    let lines = ["/a.txt", "/b.txt", "/rate/400k/slow.bin"].map(|path| nginx.url(path));
    fs::write(&list, lines.join("\n")).unwrap();
    let command = ["get", "-i", list.to_str().unwrap(), "-o", "downloads/", "--jobs", "1"];
    for signal in [Signal::KILL, Signal::INT] {
        let before = bytes_in(&home);
        let running = home.spawn(&command);
        until("what is short, and some of the rest", || {
            (home.download("b.txt").exists() && bytes_in(&home) > before + 100_000).then_some(())
        });
        running.signal(signal);
        running.finish();
    }
    // An engine that runs already is asked in the same way.
    let engine = home.spawn(&["run"]);
    until("the engine", || {
        let runs = |one: &serde_json::Value| one["status"] == "Running";
        home.listing().iter().any(runs).then_some(())
    });
    home.run(&command).expect_code(0);
    engine.signal(Signal::TERM);
    engine.finish().expect_code(0);
    home.run(&command).expect_code(0);
    assert_same(&home.download("slow.bin"), &bytes);
    assert_eq!(nginx.bytes_served("a.txt"), 5, "it was there already");
    assert_eq!(nginx.bytes_served("b.txt"), 6, "it was there already");
    assert_eq!(names_in(&home.downloads()).len(), 3);
    // What was written to since, or is another file, is not what came.
    let refused = || {
        let refused = home.run(&command).expect_code(2);
        let says = |words| refused.stderr.contains(words);
        assert!(says("exists") && says("'backhaul run' goes on"), "{}", refused.stderr);
    };
    fs::write(home.download("a.txt"), b"FIRST").unwrap();
    refused();
    fs::remove_file(home.download("a.txt")).unwrap();
    fs::copy(home.download("b.txt"), home.download("a.txt")).unwrap();
    fs::write(home.download("a.txt"), b"first").unwrap();
    refused();
    fs::remove_file(home.download("a.txt")).unwrap();
    home.run(&command).expect_code(0);
    assert_eq!(nginx.bytes_served("a.txt"), 10, "it was gone");
}

#[test]
fn a_get_does_not_wait_for_another_one_that_has_slots_left() {
    let nginx = Nginx::start();
    nginx.put_seeded("slow.bin", 20 << 20);
    nginx.put("a.txt", b"short");
    let home = Home::new();
    let first = home.spawn(&["get", &nginx.url("/rate/200k/slow.bin"), "-o", "downloads/"]);
    until("some bytes of the first", || (bytes_in(&home) > 0).then_some(()));
    let ended = get(
        &home,
        &nginx.url("/a.txt"),
        "downloads/",
        &["--retries", "0", "--jobs", "1"],
    )
    .expect_code(0);
    assert_same(&home.download("a.txt"), b"short");
    let note = "not counted: --jobs, --retries; the engine that runs";
    assert!(ended.stderr.contains(note), "{}", ended.stderr);
    first.signal(Signal::INT);
    first.finish().expect_code(130);
}

#[test]
fn run_stops_on_sigterm_with_success_and_leaves_the_operation_queued() {
    let nginx = Nginx::start();
    nginx.put_seeded("a.bin", 4 << 20);
    let home = Home::new();
    home.add(&nginx.url("/rate/200k/a.bin"), &home.download("a.bin"), &[]);
    let running = home.spawn(&["run"]);
    until("the attempt to run", || {
        (home.operation()["status"] == "Running").then_some(())
    });
    let asked = Instant::now();
    running.signal(Signal::TERM);
    running.finish().expect_code(0);
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "took {:?} to stop",
        asked.elapsed()
    );
    let shown = home.operation();
    assert_eq!(
        (&shown["status"], &shown["reason"]),
        (&"Queued".into(), &"no-engine".into())
    );
}
