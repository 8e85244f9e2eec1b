//! The command of a completion group as the real binary runs it, and what is said of groups that fire.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::fs;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use support::nginx::Nginx;
use support::{Home, Running, until};

/// Makes a group with a command that keeps its standard input, with two downloads of the server in it, and seals it.
fn prepare(home: &Home, nginx: &Nginx) -> (String, Vec<String>) {
    let keep = ["completion", "create", "--", "/bin/sh", "-c", "cat > \"$1\"", "keep"];
    let report = home.path().join("report").to_str().unwrap().to_owned();
    let group = printed(home, &[&keep[..], &[&report]].concat());
    let add = |name: &str| {
        let (url, to) = (nginx.url(&format!("/{name}")), format!("downloads/{name}"));
        printed(home, &["add", &url, "-o", &to, "--completion-group", &group])
    };
    let ids = ["a", "b"].map(add).to_vec();
    home.run(&["completion", "enable", &group]).expect_code(0);
    (group, ids)
}

fn printed(home: &Home, arguments: &[&str]) -> String {
    home.run(arguments).expect_code(0).stdout.trim().to_owned()
}

#[test]
fn a_command_is_told_of_its_operations_also_where_there_is_no_socket() {
    let nginx = Nginx::start();
    for name in ["a", "b"] {
        nginx.put_seeded(name, 10_000);
    }
    for has_socket in [true, false] {
        let home = Home::new();
        let (group, ids) = prepare(&home, &nginx);
        let mut run = home.command(&["run", "--until-idle"]);
        // No socket has a name as long as the second.
        let runtime = if has_socket { "r".to_owned() } else { "r".repeat(150) };
        run.env("RUNTIME_DIRECTORY", home.path().join(runtime));
        let ended = Running::spawn(&mut run).finish().expect_code(0);
        let is_without = ended.stderr.contains("other commands cannot speak to this one");
        assert_eq!(is_without, !has_socket, "{}", ended.stderr);
        let report = fs::read_to_string(home.path().join("report")).unwrap();
        let report: Value = serde_json::from_str(&report).unwrap_or_else(|error| panic!("{error}: {report}"));
        assert_eq!(report["completion_group"]["id"], group);
        let downloads = report["downloads"].as_array().unwrap();
        let named: Vec<&str> = downloads.iter().map(|one| one["id"].as_str().unwrap()).collect();
        assert_eq!(named, ids);
        assert!(downloads.iter().all(|one| one["status"] == "Completed"), "{report}");
    }
}

/// The same command, started by somebody who ignores how children end.
fn where_ends_are_ignored(command: &Command) -> Command {
    // What bash ignores its programs ignore; not every shell lets it be set.
    let mut shell = Command::new("/bin/bash");
    shell
        .args(["-c", "trap '' CHLD; exec \"$@\"", "sh"])
        .arg(command.get_program());
    shell.args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        shell.current_dir(directory);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

#[test]
fn a_command_that_ends_well_runs_once_whoever_has_started_the_engine() {
    let nginx = Nginx::start();
    for name in ["a", "b"] {
        nginx.put_seeded(name, 10_000);
    }
    let home = Home::new();
    let (group, _) = prepare(&home, &nginx);
    let mut run = where_ends_are_ignored(&home.command(&["run", "--until-idle"]));
    Running::spawn(&mut run).finish().expect_code(0);
    let listed = printed(&home, &["completion", "list"]);
    assert!(listed.contains(&group), "{listed}");
    assert!(!listed.contains("failed"), "{listed}");
}

/// Lines of a file that hold this text.
fn lines_with(home: &Home, file: &str, text: &str) -> Vec<String> {
    let content = fs::read_to_string(home.path().join(file)).unwrap_or_default();
    let lines = content.lines().filter(|line| line.contains(text));
    lines.map(str::to_owned).collect()
}

fn fire(home: &Home, name: &str) -> String {
    let group = printed(home, &["completion", "create", "--name", name]);
    home.run(&["completion", "enable", &group]).expect_code(0);
    group
}

#[test]
fn watch_says_once_of_each_group_that_it_has_fired() {
    let home = Home::new();
    let waiting = fire(&home, "photos");
    let engine = home.spawn(&["run"]);
    until("the engine listens", || backhaul::Service::find(home.state()).unwrap());
    let watch = |file: &str, more: &[&str]| {
        let starter = ["/bin/sh", "-c", &format!("exec \"$@\" > {file}"), "sh"].map(str::to_owned);
        Running::spawn(&mut home.command_under(&starter, &[&["watch"], more].concat()))
    };
    let watching = [watch("plain", &[]), watch("json", &["--json"])];
    let is_said = |group: &str| {
        let is_in = |file| !lines_with(&home, file, group).is_empty();
        (is_in("plain") && is_in("json")).then_some(())
    };
    until("the group that waits is said", || is_said(&waiting));
    let live = fire(&home, "music");
    until("the group that fires is said", || is_said(&live));
    home.run(&["completion", "ack", &waiting]).expect_code(0);
    let last = fire(&home, "last");
    until("the last group is said", || is_said(&last));
    for (group, name) in [(&waiting, "photos"), (&live, "music")] {
        let said = format!("completion group {group} '{name}' has fired; 'completion ack' takes note of it");
        assert_eq!(lines_with(&home, "plain", group), [said]);
    }
    let update: Value = serde_json::from_str(&lines_with(&home, "json", &live)[0]).unwrap();
    let group = &update["completion_groups"][0];
    assert_eq!(
        (&group["id"], &group["state"]),
        (&Value::from(live), &Value::from("fired"))
    );
    for running in watching.into_iter().chain([engine]) {
        running.signal(Signal::TERM);
        running.finish();
    }
}
