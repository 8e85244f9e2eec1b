//! Starts, kills and stops.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use super::support::nginx::Nginx;
use super::support::{assert_same, figure, names_in, until};
use super::{Client, Lab, OVERLAP_BYTES, WINDOW_BYTES, milliseconds_since};

/// What is asked for is 2 s; a machine that is busy with other tests has more.
const STOP_MAX: Duration = Duration::from_secs(10);

#[test]
fn what_was_added_arrives_although_client_and_daemon_are_killed() {
    let nginx = Nginx::start();
    let content = nginx.put_seeded("file.bin", 24 << 20);
    let other = nginx.put_seeded("other.bin", 100_000);
    let lab = Lab::new();
    let mut daemon = lab.start(&[]);
    let destination = lab.home.download("file.bin");
    let mut client = lab.home.spawn(&[
        "get",
        &nginx.url("/rate/8000k/file.bin"),
        "-o",
        destination.to_str().unwrap(),
    ]);
    lab.until_claimed();
    // One more is accepted just before the end.
    lab.home
        .add(&nginx.url("/rate/50k/other.bin"), &lab.home.download("other.bin"), &[]);
    client.kill();
    daemon.kill();
    assert!(!destination.exists());

    let daemon = lab.start(&[]);
    lab.until_arrived("file.bin");
    lab.until_arrived("other.bin");
    assert_same(&destination, &content);
    assert_same(&lab.home.download("other.bin"), &other);
    let served = nginx.bytes_served("file.bin");
    assert!(
        served <= (24 << 20) + WINDOW_BYTES + OVERLAP_BYTES,
        "{served} bytes served"
    );
    assert_eq!(daemon.stop(), "");
    assert_eq!(names_in(&lab.home.downloads()), ["file.bin", "other.bin"]);
}

#[test]
fn a_stopped_daemon_ends_soon_and_costs_no_more_than_a_window() {
    let nginx = Nginx::start();
    let content = nginx.put_seeded("file.bin", 48 << 20);
    let lab = Lab::new();
    let mut daemon = lab.start(&["--connections", "1"]);
    lab.home
        .add(&nginx.url("/rate/20000k/file.bin"), &lab.home.download("file.bin"), &[]);
    lab.until_claimed();
    let asked = Instant::now();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.finish().code(), Some(0));
    let taken = asked.elapsed();
    figure(&format!(
        "the daemon has stopped {} ms after SIGTERM, in a fast transfer",
        milliseconds_since(asked)
    ));
    assert!(taken < STOP_MAX, "{taken:?}");
    assert!(!lab.socket().exists() && !lab.home.download("file.bin").exists());

    let daemon = lab.start(&[]);
    lab.until_arrived("file.bin");
    assert_same(&lab.home.download("file.bin"), &content);
    let served = nginx.bytes_served("file.bin");
    assert!(
        served <= (48 << 20) + WINDOW_BYTES + OVERLAP_BYTES,
        "{served} bytes served"
    );
    assert_eq!(daemon.stop(), "");
}

#[test]
fn clients_are_told_why_their_connection_ends() {
    let lab = Lab::new();
    let daemon = lab.start(&[]);
    let mut idle = Client::connect(&lab.socket());
    let mut monitor = Client::connect(&lab.socket());
    monitor.send("Monitor", &json!({}), true);
    assert_eq!(monitor.receive().unwrap()["parameters"]["caught_up"], true);
    idle.call("Describe", &json!({}));
    daemon.stop();
    for client in [&mut idle, &mut monitor] {
        // The end of a call that goes on, and that of its connection.
        let last: Vec<_> = std::iter::from_fn(|| client.receive()).collect();
        assert!((1..=2).contains(&last.len()), "{last:?}");
        for told in last {
            assert_eq!(told["error"], "io.backhaul.Transfer.Disconnected", "{told}");
            let message = told["parameters"]["message"].as_str().unwrap();
            assert!(message.contains("has stopped"), "{message}");
        }
    }
}

#[test]
fn an_idle_daemon_ends_after_its_time_and_one_with_a_client_does_not() {
    let lab = Lab::new();
    let watched = super::manager::Watched::new(&lab);
    let mut command = lab.daemon_command(&["--exit-idle", "0.5"]);
    let mut daemon = lab.start_command(watched.watched_over(&mut command));
    let client = Client::connect(&lab.socket());
    // Five messages in each second: much more than the time after which it would end.
    for _ in 0..15 {
        watched.until("WATCHDOG=1");
    }
    assert!(!daemon.has_ended());
    drop(client);
    assert_eq!(daemon.finish().code(), Some(0), "{}", daemon.log());
    assert!(!lab.socket().exists());
}

#[test]
fn a_configuration_that_turned_bad_changes_nothing_and_is_told_in_one_line() {
    let lab = Lab::new();
    let file = lab.configure("monitors-max = 1\nlog = \"error\"\n");
    let watched = super::manager::Watched::new(&lab);
    let mut command = lab.daemon_command(&["--config", file.to_str().unwrap()]);
    let daemon = lab.start_command(watched.told(&mut command));
    watched.until("READY=1");
    let mut monitor = Client::connect(&lab.socket());
    monitor.send("Monitor", &json!({}), true);
    monitor.receive().unwrap();

    lab.configure("monitors-max = 2\nlog = \"trace\"\njobs = 0\n");
    daemon.signal(Signal::HUP);
    watched.until("READY=1");
    let log = daemon.log();
    let place = format!("{} line 3: jobs: 0 is out of range", file.display());
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains(&place) && log.contains("nothing has changed"), "{log}");
    // Neither limit nor log is another one now, and who looked on still does.
    let mut second = Client::connect(&lab.socket());
    second.send("Monitor", &json!({}), true);
    let refused = second.receive().unwrap();
    assert!(refused["error"].is_string(), "{refused}");
    let created = json!([{ "url": "http://localhost:1/", "destination": lab.home.download("x"), "hold": true }]);
    lab.call("Create", &json!({ "downloads": created }));
    let told = monitor.receive().unwrap();
    assert_eq!(told["parameters"]["operations"][0]["status"], "Idle", "{told}");
    assert_eq!(daemon.stop().lines().count(), 1);
}

#[test]
fn a_configuration_that_is_read_anew_counts() {
    let lab = Lab::new();
    let file = lab.configure("monitors-max = 1\n");
    let watched = super::manager::Watched::new(&lab);
    let mut command = lab.daemon_command(&["--config", file.to_str().unwrap()]);
    let daemon = lab.start_command(watched.told(&mut command));
    watched.until("READY=1");
    lab.configure("monitors-max = 2\njobs = 7\n");
    daemon.signal(Signal::HUP);
    watched.until("READY=1");
    let mut monitors = [Client::connect(&lab.socket()), Client::connect(&lab.socket())];
    for monitor in &mut monitors {
        monitor.send("Monitor", &json!({}), true);
        let first = monitor.receive().unwrap();
        assert_eq!(first["error"], json!(null), "{first}");
    }
    let log = daemon.stop();
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains("a restart is needed to change jobs"), "{log}");
}

#[test]
fn every_mistake_in_a_configuration_is_told_with_its_file_and_line() {
    let lab = Lab::new();
    let cases = [
        ("\n\njobs = 0\n", 3, "jobs"),
        ("jobs = 2\njobs = 3\n", 2, "jobs"),
        ("job = 2\n", 1, "job"),
        ("# a comment\nlog = \"loud\"\n", 2, "log"),
        ("jobs = \"2\"\n", 1, "jobs"),
        ("jobs = 2\nlimit-rate = \"fast\"\n", 2, "limit-rate"),
        ("memory-limit = \"5M\"\n", 1, "memory-limit"),
        ("jobs = 2\nflash-friendly = 64\n", 2, "flash-friendly"),
        ("exit-idle = -1\n", 1, "exit-idle"),
        ("socket = \"relative\"\n", 1, "socket"),
        ("jobs = 2\n\nroots = [\"/srv\",\n  \"srv\"]\n", 3, "roots"),
        ("jobs = 2\nwhat is this\n", 2, ""),
        ("[section]\njobs = 2\n", 1, "section"),
    ];
    for (text, line, key) in cases {
        let file = lab.configure(text);
        let command = &["daemon", "--config", file.to_str().unwrap()];
        let ended = lab.home.run(command).expect_code(2);
        let place = format!("{} line {line}: {key}", file.display());
        assert!(ended.stderr.contains(&place), "{text:?}: {}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(!lab.home.state().exists());
    }
    let missing = lab.home.path().join("missing.toml");
    let ended = lab
        .home
        .run(&["daemon", "--config", missing.to_str().unwrap()])
        .expect_code(2);
    assert!(ended.stderr.contains(missing.to_str().unwrap()), "{}", ended.stderr);
    let file = lab.configure("roots = ['/missing']");
    let command = &["daemon", "--config", file.to_str().unwrap()];
    let ended = lab.home.run(command).expect_code(2);
    let place = format!("{}: roots: root '/missing'", file.display());
    assert!(ended.stderr.contains(&place), "{}", ended.stderr);
}

#[test]
fn two_daemons_never_share_a_state_directory() {
    let lab = Lab::new();
    let daemon = lab.start(&[]);
    let other = lab.home.path().join("other");
    let ended = lab
        .home
        .run(&["--socket", other.to_str().unwrap(), "daemon"])
        .expect_code(4);
    let pid = daemon.child.id().to_string();
    assert!(ended.stderr.contains(&pid), "who holds it, {pid}: {}", ended.stderr);
    assert!(
        ended.stderr.contains(lab.home.state().to_str().unwrap()),
        "{}",
        ended.stderr
    );
    assert!(!other.exists(), "it never listened");
    lab.call("Describe", &json!({}));
    assert_eq!(daemon.stop(), "");
}

#[test]
fn a_killed_daemon_leaves_nothing_that_stops_the_next() {
    let lab = Lab::new();
    for _ in 0..3 {
        let mut daemon = lab.start(&[]);
        lab.call("Describe", &json!({}));
        daemon.kill();
        assert!(lab.socket().exists(), "nobody was there to remove it");
    }
    let found = until("nothing", || Some(fs::symlink_metadata(lab.socket())));
    assert!(found.is_ok());
    let daemon = lab.start(&[]);
    assert_eq!(daemon.stop(), "");
    assert!(!lab.socket().exists());
}

/// Resident memory that stands in files, too: code and constants of the program and of its libraries.
fn code_bytes(daemon: &super::Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn an_idle_daemon_gives_back_the_pages_of_its_code_and_works_on() {
    let nginx = Nginx::start();
    let content = nginx.put_seeded("file.bin", 100_000);
    let lab = Lab::new();
    let daemon = lab.start(&[]);
    // Unoptimised it touches 12 MiB at its start, and so it does in a transfer.
    for name in ["one", "two"] {
        until("pages of code to be given back", || {
            (code_bytes(&daemon) < 8 << 20).then_some(())
        });
        lab.home
            .add(&nginx.url(&format!("/file.bin?{name}")), &lab.home.download(name), &[]);
        lab.until_arrived(name);
        assert_same(&lab.home.download(name), &content);
    }
    assert_eq!(daemon.stop(), "");
}
