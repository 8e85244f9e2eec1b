//! Helper programs through the real command: found where they may be, and gone on with after a kill.
#![cfg(feature = "helper")]
#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use support::{Ended, Home, Running, assert_same, names_in, until};

const LENGTH: usize = 12 << 20;

/// Serves the same bytes always. As long as there is no file `gate` in the folder of the URL, it sends 10 MiB and then waits
/// for the end of its input, as one does that waits for a slow server.
const GATED: &str = r#"#!/usr/bin/env python3
import os, sys
ours, theirs = sys.stdout.buffer, sys.stdin.buffer
for line in theirs:
    words = line.decode().split()
    if words[0] == "url":
        folder = words[1].partition("://")[2]
    if words[0] == "go":
        break
content = bytes(range(256)) * (12 * 4096)
ours.write(b'backhaul 1\nbytes %d\netag "1"\ncan-continue\nready\n' % len(content))
ours.flush()
answer = theirs.readline().decode().strip()
with open(folder + "/told", "a") as told:
    print(os.getpid(), answer, file=told)
begin = int(answer.split()[1]) if answer != "whole" else 0
is_open = os.path.exists(folder + "/gate")
end = len(content) if is_open else 10 << 20
for place in range(begin, end, 65536):
    frame = content[place:min(place + 65536, end)]
    ours.write(b"data %d\n" % len(frame) + frame)
ours.flush()
if not is_open:
    theirs.read()
    sys.exit(0)
ours.write(b"end\n")
"#;

/// A folder with the sample and with the program above.
fn programs(home: &Home) -> PathBuf {
    let folder = home.path().join("helpers");
    fs::create_dir(&folder).unwrap();
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/backhaul-backend-data");
    fs::copy(sample, folder.join("backhaul-backend-data")).unwrap();
    fs::write(folder.join("backhaul-backend-gated"), GATED).unwrap();
    for name in names_in(&folder) {
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

fn arguments<'a>(folder: &'a Path, rest: &[&'a str]) -> Vec<&'a str> {
    [&["--helper-path", folder.to_str().unwrap()], rest].concat()
}

fn get(home: &Home, folder: &Path, url: &str, name: &str) -> Ended {
    let file = home.download(name);
    home.run(&arguments(folder, &["get", "-o", file.to_str().unwrap(), url]))
}

#[test]
fn a_url_that_is_its_own_content_is_fetched_by_the_sample() {
    let home = Home::new();
    let folder = programs(&home);
    let long = format!("data:,{}", "0123456789".repeat(1500));
    for (name, url, content) in [
        ("plain", "data:,hello%20there", "hello there"),
        (
            "base64",
            "data:text/plain;charset=utf-8;base64,aGVsbG8gdGhlcmU",
            "hello there",
        ),
        ("empty", "data:,", ""),
        ("slashes", "data:text/plain,a//b/../c?d=e", "a//b/../c?d=e"),
        ("long", &long, &long[6..]),
    ] {
        get(&home, &folder, url, name).expect_code(0);
        assert_eq!(fs::read_to_string(home.download(name)).unwrap(), content, "{url}");
    }
    let ended = get(&home, &folder, "data:text/plain;base64,a*b", "wrong").expect_code(1);
    assert!(ended.stderr.contains("BadRequest"), "{}", ended.stderr);
    let ended = get(&home, &folder, "data:no-comma", "wrong").expect_code(1);
    assert!(ended.stderr.contains("a comma before its content"), "{}", ended.stderr);
}

#[test]
fn helpers_are_used_only_from_where_somebody_said() {
    let home = Home::new();
    let folder = programs(&home);
    let file = home.download("file");
    let words = ["get", "-o", file.to_str().unwrap(), "data:,hello"];
    let mut command = home.command(&words);
    command.current_dir(&folder).env("PATH", &folder);
    let ended = Running::spawn(&mut command).finish().expect_code(2);
    assert!(
        ended.stderr.contains("is no URL; write it like https://host/path"),
        "{}",
        ended.stderr
    );
    let open = folder.join("backhaul-backend-data");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let ended = home.run(&arguments(&folder, &words)).expect_code(2);
    let warning = format!(
        "'{}' is not used: others than its owner may write to it",
        open.display()
    );
    assert!(ended.stderr.contains(&warning), "{}", ended.stderr);
    assert_eq!(names_in(&home.downloads()), Vec::<String>::new());
}

#[test]
fn what_no_helper_can_do_is_refused_by_name_before_anything_is_there() {
    let home = Home::new();
    let folder = programs(&home);
    let file = home.download("file");
    let words = ["get", "-o", file.to_str().unwrap(), "--method", "POST", "data:,hello"];
    let ended = home.run(&arguments(&folder, &words)).expect_code(2);
    assert!(
        ended
            .stderr
            .contains("method 'POST': methods other than GET mean nothing to 'data'"),
        "{}",
        ended.stderr
    );
    assert!(!home.state().exists());
}

#[test]
fn what_only_the_running_engine_has_a_helper_for_is_asked_of_that_engine() {
    let home = Home::new();
    let folder = programs(&home);
    let (add, file) = (home.download("added"), home.download("got"));
    let add = ["add", "-o", add.to_str().unwrap(), "data:,first"];
    let alone = home.run(&add).expect_code(2);
    assert!(alone.stderr.contains("is no URL"), "{}", alone.stderr);
    let mut engine = home.spawn(&arguments(&folder, &["run"]));
    until("the engine listens", || backhaul::Service::find(home.state()).unwrap());
    let id = home.run(&add).expect_code(0).stdout.trim().to_owned();
    home.run(&["wait", &id]).expect_code(0);
    home.run(&["get", "-o", file.to_str().unwrap(), "data:,second"])
        .expect_code(0);
    assert_eq!(fs::read_to_string(file).unwrap(), "second");
    let refused = home
        .run(&["add", "-o", home.download("x").to_str().unwrap(), "other:x"])
        .expect_code(2);
    // Given again, it goes on with what is there.
    let held = home.download("held");
    let words = ["-o", held.to_str().unwrap(), "data:,third"];
    home.run(&[&["add", "--hold"], &words[..]].concat()).expect_code(0);
    home.run(&[&["get"], &words[..]].concat()).expect_code(0);
    assert_eq!(fs::read_to_string(held).unwrap(), "third");
    // A list that goes to the engine in several parts, of which only that engine can judge some.
    let padding = "p".repeat(2000);
    let far = (0..300).map(|number| format!("http://127.0.0.1:1/{number}?{padding} downloads/{number}"));
    let lines: Vec<String> = far
        .chain(["data:,x downloads/x".into(), "other:x downloads/y".into()])
        .collect();
    let list = home.path().join("list");
    fs::write(&list, lines.join("\n")).unwrap();
    let before = home.listing().len();
    let all = home
        .run(&["add", "-i", list.to_str().unwrap(), "-o", "./"])
        .expect_code(2);
    assert!(all.stderr.contains("line 302"), "{}", all.stderr);
    assert_eq!(home.listing().len(), before, "a bad line refuses all");
    assert!(
        refused.stderr.contains("'other'") || refused.stderr.contains("is no URL"),
        "{}",
        refused.stderr
    );
    engine.kill();
    let dumped = home.run(&["journal", "dump"]).expect_code(0).stdout;
    assert!(dumped.contains("data:,third"), "{dumped}");
    assert!(
        !dumped.contains("127.0.0.1:1/"),
        "a part of the list was there for a while"
    );
}

/// What the helper was told, attempt by attempt: its process id, and where to begin.
fn told(home: &Home) -> Vec<(u32, String)> {
    let text = fs::read_to_string(home.path().join("told")).unwrap_or_default();
    let lines = text.lines().map(|line| line.split_once(' ').unwrap());
    lines
        .map(|(pid, answer)| (pid.parse().unwrap(), answer.to_owned()))
        .collect()
}

#[test]
fn after_a_kill_of_the_engine_its_helper_ends_and_the_next_one_goes_on() {
    let home = Home::new();
    let folder = programs(&home);
    let url = format!("gated://{}", home.path().display());
    let file = home.download("file");
    let words = arguments(&folder, &["get", "-o", file.to_str().unwrap(), &url]);
    let mut running = home.spawn(&words);
    let part = || names_in(&home.downloads()).into_iter().next();
    // What is claimed is shown only by an engine that answers; the file has at least as much.
    let claimed = |_: &str| home.claimed_bytes() >= 8 << 20;
    until("8 MiB that are durable", || part().filter(|name| claimed(name)));
    running.kill();
    let (pid, answer) = told(&home).remove(0);
    assert_eq!(answer, "whole");
    until("the end of the helper", || {
        (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
    fs::write(home.path().join("gate"), "").unwrap();
    home.run(&words).expect_code(0);
    let content: Vec<u8> = (0..=255).cycle().take(LENGTH).collect();
    assert_same(&file, &content);
    let all = told(&home);
    assert_eq!(all.len(), 2, "{all:?}");
    let begin: u64 = all[1].1.strip_prefix("continue ").unwrap().parse().unwrap();
    assert!(begin >= (8 << 20) - 4096, "{all:?}");
    assert_eq!(names_in(&home.downloads()), ["file"]);
}
