//! Commands beside an engine that runs: a daemon, a `run` or a `get`.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use super::Lab;
use super::support::nginx::Nginx;
use super::support::{Home, Running, assert_same, until};

fn status_of(home: &Home, id: &str) -> String {
    let shown = home.run(&["show", id, "--json"]).expect_code(0).json();
    shown["status"].as_str().unwrap().to_owned()
}

fn until_status(home: &Home, id: &str, wanted: &str) {
    until(wanted, || (status_of(home, id) == wanted).then_some(()));
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

/// Connections that the daemon holds. Source: `proc_pid_net(5)`, `unix`; 03 is connected.
fn connections(lab: &Lab) -> usize {
    let path = lab.socket().display().to_string();
    let all = fs::read_to_string("/proc/net/unix").unwrap();
    let is_held = |line: &&str| line.ends_with(&path) && line.split_whitespace().nth(5) == Some("03");
    all.lines().filter(is_held).count()
}

#[test]
fn a_get_that_is_interrupted_leaves_its_transfer_to_the_daemon() {
    let nginx = Nginx::start();
    let content = nginx.put_seeded("file.bin", 3 << 20);
    let lab = Lab::new();
    let daemon = lab.start(&[]);
    let destination = lab.home.download("file.bin");
    let get = lab
        .home
        .spawn(&["get", &nginx.url("/rate/1000k/file.bin"), "-o", text(&destination)]);
    until("the transfer to run", || lab.home.ids_with("Running").pop());
    get.signal(Signal::INT);
    let ended = get.finish().expect_code(130);
    assert!(
        ended.stderr.contains("go on in the engine that runs"),
        "{}",
        ended.stderr
    );
    assert!(!destination.exists(), "the file is there too early for this test");
    lab.until_arrived("file.bin");
    assert_same(&destination, &content);
    assert_eq!(daemon.stop(), "");
}

#[test]
fn a_get_takes_up_the_work_of_a_daemon_that_was_killed() {
    let nginx = Nginx::start();
    let content = nginx.put_seeded("file.bin", 4 << 20);
    let lab = Lab::new();
    let mut daemon = lab.start(&[]);
    let destination = lab.home.download("file.bin");
    let get = lab
        .home
        .spawn(&["get", &nginx.url("/rate/1000k/file.bin"), "-o", text(&destination)]);
    lab.until_claimed();
    daemon.kill();
    get.finish().expect_code(0);
    assert_same(&destination, &content);
    assert_eq!(lab.home.operation()["restarts"], 0);
}

#[test]
fn a_get_that_reads_slowly_ends_although_somebody_else_removes_what_it_asked_for() {
    let lab = Lab::new();
    let daemon = lab.start(&["--jobs", "1"]);
    // More than is noted for one that does not read, and than fits between the two.
    let lines: Vec<String> = (0..2_000)
        .map(|number| format!("http://127.0.0.1:1/{number}\n"))
        .collect();
    let list = lab.home.path().join("list");
    fs::write(&list, lines.concat()).unwrap();
    let get = lab.home.spawn(&["get", "-i", text(&list), "-o", "downloads/"]);
    let ids = until("all of them", || {
        let ids: Vec<String> = lab
            .home
            .listing()
            .iter()
            .map(|one| one["id"].as_str().unwrap().into())
            .collect();
        (ids.len() == 2_000).then_some(ids)
    });
    // It looks on over a connection of its own.
    until("two connections", || (connections(&lab) >= 2).then_some(()));
    get.signal(Signal::STOP);
    for word in ["cancel", "remove"] {
        let words: Vec<&str> = std::iter::once(word).chain(ids.iter().map(String::as_str)).collect();
        lab.home.run(&words).expect_code(0);
    }
    get.signal(Signal::CONT);
    get.finish().expect_code(1);
    assert_eq!(daemon.stop(), "");
}

#[test]
fn a_get_goes_on_with_a_daemon_that_was_started_anew() {
    let nginx = Nginx::start();
    let content = nginx.put_seeded("file.bin", 4 << 20);
    let lab = Lab::new();
    let mut get;
    {
        let mut daemon = lab.start(&[]);
        let destination = lab.home.download("file.bin");
        get = lab
            .home
            .spawn(&["get", &nginx.url("/rate/1000k/file.bin"), "-o", text(&destination)]);
        lab.until_claimed();
        daemon.kill();
    }
    // Whichever of the two gets the state directory, the other one works with it or is told of it.
    let daemon = super::Daemon::spawn(&mut lab.daemon_command(&[]), &lab.log());
    lab.until_arrived("file.bin");
    until("the end of get", || get.has_ended().then_some(()));
    get.finish().expect_code(0);
    assert_same(&lab.home.download("file.bin"), &content);
    drop(daemon);
}

/// All that can be done beside an engine, with operations that it does not care for itself.
fn commands_work_beside(home: &Home, nginx: &Nginx) {
    let slow = nginx.url("/rate/100k/slow.bin");
    let id = home.add(&slow, &home.download("slow.bin"), &[]);
    let held = home.add(&nginx.url("/held.bin"), &home.download("held.bin"), &["--hold"]);
    assert_eq!(status_of(home, &held), "Idle");
    home.run(&["pause", &id]).expect_code(0);
    until_status(home, &id, "PausedByApplication");
    home.run(&["set", &held, "--priority", "high"]).expect_code(0);
    let shown = home.run(&["show", &held, "--json"]).expect_code(0).json();
    assert_eq!(shown["priority"], "high", "{shown}");
    home.run(&["set", &id, "--url", &nginx.url("/slow.bin")]).expect_code(0);
    let ids: Vec<Value> = home.listing().iter().map(|shown| shown["id"].clone()).collect();
    assert!(
        ids.contains(&Value::from(id.as_str())) && ids.contains(&Value::from(held.as_str())),
        "{ids:?}"
    );
    home.run(&["cancel", &held]).expect_code(0);
    until_status(home, &held, "Canceled");
    home.run(&["cancel", &id]).expect_code(0);
    until_status(home, &id, "Canceled");
    home.run(&["cancel", &id]).expect_code(7);
    home.run(&["pause", "00000000000000000000000000000000"]).expect_code(3);
    home.run(&["remove", &held, &id]).expect_code(0);
}

#[test]
fn commands_work_beside_a_run() {
    let nginx = Nginx::start();
    nginx.put_seeded("slow.bin", 4 << 20);
    let content = nginx.put_seeded("file.bin", 100_000);
    let home = Home::new();
    let run = home.spawn(&["run"]);
    home.add(&nginx.url("/file.bin"), &home.download("file.bin"), &[]);
    until("the file", || home.download("file.bin").exists().then_some(()));
    assert_same(&home.download("file.bin"), &content);
    commands_work_beside(&home, &nginx);
    run.signal(Signal::TERM);
    let ended = run.finish();
    assert_eq!(
        (ended.code(), ended.stderr.as_str()),
        (Some(0), ""),
        "as without commands beside it"
    );
}

#[test]
fn commands_work_beside_a_get() {
    let nginx = Nginx::start();
    nginx.put_seeded("slow.bin", 4 << 20);
    let content = nginx.put_seeded("file.bin", 4 << 20);
    let home = Home::new();
    let destination = home.download("file.bin");
    let get = home.spawn(&["get", &nginx.url("/rate/500k/file.bin"), "-o", text(&destination)]);
    let id = until("the transfer to run", || home.ids_with("Running").pop());
    commands_work_beside(&home, &nginx);
    // What the get itself waits for can be hurried by hand: another URL of the same bytes.
    home.run(&["pause", &id]).expect_code(0);
    let ended = get.finish();
    assert_eq!(ended.code(), Some(1), "nothing can go on by itself: {}", ended.stderr);
    home.run(&["set", &id, "--url", &nginx.url("/file.bin")]).expect_code(0);
    home.run(&["resume", &id]).expect_code(0);
    home.run(&["run", "--until-idle"]).expect_code(0);
    assert_same(&destination, &content);
}

#[test]
fn a_get_beside_a_get_is_seen_through_by_whoever_has_the_engine() {
    let nginx = Nginx::start();
    let first = nginx.put_seeded("first.bin", 3 << 20);
    let second = nginx.put_seeded("second.bin", 5 << 20);
    let home = Home::new();
    let one = home.spawn(&[
        "get",
        &nginx.url("/rate/500k/first.bin"),
        "-o",
        text(&home.download("first.bin")),
    ]);
    until("the first to run", || home.ids_with("Running").pop());
    // The first engine takes on the second, and stays for it.
    let other = home.spawn(&[
        "get",
        &nginx.url("/rate/1000k/second.bin"),
        "-o",
        text(&home.download("second.bin")),
    ]);
    until("both", || (home.listing().len() == 2).then_some(()));
    one.finish().expect_code(0);
    other.finish().expect_code(0);
    assert_same(&home.download("first.bin"), &first);
    assert_same(&home.download("second.bin"), &second);
}

#[test]
fn a_watch_tells_of_each_change_in_a_line_of_json() {
    let nginx = Nginx::start();
    nginx.put_seeded("file.bin", 1 << 20);
    let lab = Lab::new();
    let daemon = lab.start(&[]);
    let lines: PathBuf = lab.home.path().join("lines");
    let mut watch = lab.home.command(&["watch", "--json"]);
    let output = fs::File::create(&lines).unwrap();
    watch.stdin(Stdio::null()).stdout(output).stderr(Stdio::null());
    let mut watch = watch.spawn().unwrap();
    let told = || -> Vec<Value> {
        let text = fs::read_to_string(&lines).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    until("what is there", || {
        told().iter().any(|update| update["caught_up"] == true).then_some(())
    });
    let id = lab
        .home
        .add(&nginx.url("/rate/1000k/file.bin"), &lab.home.download("file.bin"), &[]);
    let statuses = || -> Vec<String> {
        let updates = told();
        let operations = updates
            .iter()
            .flat_map(|update| update["operations"].as_array().unwrap().clone());
        let ours = operations.filter(|operation| operation["id"] == *id);
        ours.map(|operation| operation["status"].as_str().unwrap().to_owned())
            .collect()
    };
    until("its end", || statuses().contains(&"Completed".to_owned()).then_some(()));
    assert!(statuses().contains(&"Running".to_owned()), "{:?}", statuses());
    assert!(told().iter().all(|update| update["cursor"].is_u64()));
    // The end of the daemon is the end of the watch.
    daemon.stop();
    let status = until("the end of the watch", || watch.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_watch_without_an_engine_says_so() {
    let lab = Lab::new();
    let ended = lab.home.run(&["watch"]).expect_code(9);
    assert!(ended.stderr.contains("no engine is running here"), "{}", ended.stderr);
}

#[test]
fn an_app_that_is_forgotten_leaves_only_its_complete_files() {
    let nginx = Nginx::start();
    let content = nginx.put_seeded("done.bin", 10_000);
    nginx.put_seeded("file.bin", 4 << 20);
    let lab = Lab::new();
    let daemon = lab.start(&[]);
    let app = |words: &[&str]| lab.home.run(&[&["--app", "player"], words].concat()).expect_code(0);
    app(&[
        "get",
        &nginx.url("/done.bin"),
        "-o",
        text(&lab.home.download("done.bin")),
    ]);
    app(&[
        "add",
        &nginx.url("/rate/100k/file.bin"),
        "-o",
        text(&lab.home.download("file.bin")),
    ]);
    let other = lab
        .home
        .add(&nginx.url("/other.bin"), &lab.home.download("other.bin"), &["--hold"]);
    until("the transfer to run", || lab.home.ids_with("Running").pop());
    let ended = lab.home.run(&["app", "forget", "player"]).expect_code(0);
    assert!(
        ended.stderr.contains("2 operations of app 'player'"),
        "{}",
        ended.stderr
    );
    let left: Vec<Value> = lab.home.listing().iter().map(|shown| shown["id"].clone()).collect();
    assert_eq!(left, [Value::from(other)]);
    assert_eq!(super::support::names_in(&lab.home.downloads()), ["done.bin"]);
    assert_same(&lab.home.download("done.bin"), &content);
    assert_eq!(daemon.stop(), "");
}

#[test]
fn a_running_command_is_seen_through_by_a_wait() {
    let nginx = Nginx::start();
    let content = nginx.put_seeded("file.bin", 2 << 20);
    let lab = Lab::new();
    let daemon = lab.start(&[]);
    let id = lab
        .home
        .add(&nginx.url("/rate/1000k/file.bin"), &lab.home.download("file.bin"), &[]);
    lab.home.run(&["wait", &id, "--timeout", "0.05"]).expect_code(8);
    lab.home.run(&["wait", &id]).expect_code(0);
    assert_same(&lab.home.download("file.bin"), &content);
    let failed = lab.home.add(&nginx.url("/gone"), &lab.home.download("gone"), &[]);
    Running::spawn(&mut lab.home.command(&["wait", &failed]))
        .finish()
        .expect_code(1);
    daemon.stop();
}
