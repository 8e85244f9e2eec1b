//! Two processes on one state directory.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::time::{Duration, Instant};

use support::nginx::Nginx;
use support::{Home, assert_same, until};

#[test]
fn a_writing_command_beside_an_engine_without_a_socket_waits_ten_seconds_and_then_names_it() {
    let nginx = Nginx::start();
    nginx.put_seeded("slow.bin", 4 << 20);
    let home = Home::new();
    let id = home.add(&nginx.url("/rate/100k/slow.bin"), &home.download("slow.bin"), &[]);
    let socket = home.path().join("socket");
    let holder = home.spawn(&["run", "--socket", socket.to_str().unwrap()]);
    until("the engine to be at work", || {
        (home.operation()["status"] == "Running").then_some(())
    });
    std::fs::remove_file(&socket).unwrap();

    let started = Instant::now();
    let second = home.spawn(&[
        "add",
        &nginx.url("/other.bin"),
        "-o",
        home.download("other.bin").to_str().unwrap(),
    ]);
    // Meanwhile everything that only reads works, and is quick.
    home.run(&["list"]).expect_code(0);
    home.run(&["show", &id]).expect_code(0);
    home.run(&["explain"]).expect_code(0);
    home.run(&["journal", "verify"]).expect_code(0);
    home.run(&["journal", "dump"]).expect_code(0);
    assert!(started.elapsed() < Duration::from_secs(5), "reading waits for the lock");

    let ended = second.finish().expect_code(4);
    let waited = started.elapsed();
    assert!(
        waited >= Duration::from_secs(9) && waited < Duration::from_secs(20),
        "waited {waited:?}"
    );
    assert!(
        ended.stderr.contains(&holder.id().to_string()),
        "not the pid of the holder: {}",
        ended.stderr
    );
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    assert_eq!(ended.stdout, "");
    assert_eq!(home.listing().len(), 1, "a refused command has changed something");
}

#[test]
fn a_second_writing_command_goes_on_when_the_first_one_ends() {
    let nginx = Nginx::start();
    nginx.put_seeded("slow.bin", 4 << 20);
    let home = Home::new();
    home.add(&nginx.url("/rate/100k/slow.bin"), &home.download("slow.bin"), &[]);
    let mut holder = home.spawn(&["run"]);
    until("the engine to be at work", || {
        (home.operation()["status"] == "Running").then_some(())
    });
    let second = home.spawn(&[
        "add",
        &nginx.url("/other.bin"),
        "-o",
        home.download("other.bin").to_str().unwrap(),
    ]);
    // Half of the cases: the holder is gone without a word.
    holder.kill();
    second.finish().expect_code(0);
    assert_eq!(home.listing().len(), 2);
}

#[test]
fn reading_commands_need_no_engine_and_leave_an_empty_directory_alone() {
    let home = Home::new();
    let ended = home.run(&["list", "--json"]).expect_code(0);
    assert_eq!(ended.json(), serde_json::json!([]));
    home.run(&["explain"]).expect_code(0);
    assert!(!home.state().exists(), "a reading command has made the state directory");
}

#[test]
fn two_that_start_together_where_no_state_is_yet_fetch_a_file_once() {
    let nginx = Nginx::start();
    for round in 0..6 {
        let name = format!("{round}.bin");
        let bytes = nginx.put_seeded(&name, 300_000);
        let home = Home::new();
        let (url, destination) = (nginx.url(&format!("/{name}")), home.download(&name));
        let arguments = ["get", "-q", &url, "-o", destination.to_str().unwrap()];
        let running = [home.spawn(&arguments), home.spawn(&arguments)];
        let codes = running.map(|running| running.finish().code());
        // Who comes while it is fetched sees it through, who comes after that may not replace it.
        assert!(codes.contains(&Some(0)), "{codes:?}");
        assert!(codes.iter().all(|code| [Some(0), Some(2)].contains(code)), "{codes:?}");
        assert_same(&destination, &bytes);
        assert_eq!(nginx.bytes_served(&name), bytes.len() as u64, "{codes:?}");
    }
}
