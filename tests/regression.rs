//! Defects that were found once: each has a test that fails when it comes back.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::process::{Command, Stdio};

use support::nginx::Nginx;
use support::{Home, assert_same, names_in};

/// Runs the command under a limit that the shell sets first.
fn run_limited(home: &Home, limit: &str, arguments: &[&str]) -> support::Ended {
    let plain = home.command(arguments);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{limit}; exec \"$@\""), "sh"]);
    command.arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(folder) = plain.get_current_dir() {
        command.current_dir(folder);
    }
    support::Running::spawn(&mut command).finish()
}

#[test]
fn get_reports_what_had_completed_before_anybody_was_told() {
    let nginx = Nginx::start();
    let bytes = nginx.put_seeded("file.bin", 100_000);
    let home = Home::new();
    let path = home.download("file.bin");
    let url = nginx.url("/file.bin");
    home.add(&url, &path, &[]);
    home.run(&["run", "--until-idle"]).expect_code(0);
    let served = nginx.bytes_served("file.bin");
    home.run(&["get", &url, "-o", path.to_str().unwrap()]).expect_code(0);
    assert_same(&path, &bytes);
    assert_eq!(nginx.bytes_served("file.bin"), served, "it was fetched again");
    assert_eq!(home.operation()["acknowledged"], true);
    // Once told, the file is simply there.
    home.run(&["get", &url, "-o", path.to_str().unwrap()]).expect_code(2);
}

#[test]
fn urls_that_differ_in_a_hidden_value_are_different() {
    let home = Home::new();
    let add = |number: usize| {
        let url = format!("http://127.0.0.1:9/file?key={number}");
        let path = home.download(&number.to_string());
        home.run(&["add", "--hold", &url, "-o", path.to_str().unwrap()])
    };
    add(1).expect_code(0);
    add(2).expect_code(0);
    add(2).expect_code(7);
    for operation in home.listing() {
        assert_eq!(operation["url"], "http://127.0.0.1:9/file?key=***");
    }
}

#[test]
fn no_log_level_shows_a_secret() {
    let nginx = Nginx::start();
    nginx.put_seeded("file.bin", 1_000);
    let home = Home::new();
    let url = format!("{}?X-Amz-Signature=covert-signature", nginx.url("/file.bin"))
        .replace("http://", "http://ann:covert-password@");
    let path = home.download("file.bin");
    let mut command = home.command(&["get", &url, "-vvv", "--secret-header", "X-Key: covert-header", "-o"]);
    command.arg(&path).env("BACKHAUL_LOG", "trace");
    let ended = support::Running::spawn(&mut command).finish().expect_code(0);
    assert!(!ended.stderr.contains("covert"), "{}", ended.stderr);
    assert!(ended.stderr.contains("completed"), "{}", ended.stderr);
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let home = Home::new();
    let path = home.download("file");
    let full = || Stdio::from(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let mut add = home.command(&["add", "--hold", "http://127.0.0.1:9/file", "-o", path.to_str().unwrap()]);
    let status = add.stdout(full()).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(6));
    let mut list = home.command(&["list", "--json"]);
    assert_eq!(
        list.stdout(full()).stderr(Stdio::null()).status().unwrap().code(),
        Some(6)
    );
}

#[test]
fn a_low_limit_of_open_files_slows_down_and_breaks_nothing() {
    let nginx = Nginx::start();
    let home = Home::new();
    let mut list = String::new();
    for number in 0..200 {
        nginx.put_seeded(&format!("{number}.bin"), 1_000);
        list.push_str(&nginx.url(&format!("/{number}.bin\n")));
    }
    let file = home.path().join("list");
    std::fs::write(&file, list).unwrap();
    let folder = format!("{}/", home.downloads().display());
    let arguments = ["get", "-i", file.to_str().unwrap(), "-o", &folder, "--jobs", "64"];
    run_limited(&home, "ulimit -n 48", &arguments).expect_code(0);
    assert_eq!(names_in(&home.downloads()).len(), 200);
    let ended = run_limited(&home, "ulimit -n 20", &["get", "http://127.0.0.1:9/x", "-o", "x"]).expect_code(7);
    assert!(ended.stderr.contains("raise RLIMIT_NOFILE"), "{}", ended.stderr);
}

#[test]
fn a_limit_of_file_sizes_ends_the_download_in_an_error_that_says_so() {
    let nginx = Nginx::start();
    nginx.put_seeded("file.bin", 900_000);
    let home = Home::new();
    let path = home.download("file.bin");
    let arguments = ["get", &nginx.url("/file.bin"), "-o", path.to_str().unwrap()];
    // In blocks of 512 bytes: 512 KiB.
    let ended = run_limited(&home, "ulimit -f 1024", &arguments).expect_code(1);
    assert!(ended.stderr.contains("File too large"), "{}", ended.stderr);
    assert!(names_in(&home.downloads()).is_empty());
}

#[test]
fn a_terminal_without_abilities_gets_plain_lines() {
    let nginx = Nginx::start();
    nginx.put_seeded("file.bin", 1_000);
    let home = Home::new();
    let path = home.download("file.bin");
    let mut command = home.command(&["get", &nginx.url("/file.bin"), "-o", path.to_str().unwrap()]);
    command.env("TERM", "dumb");
    let ended = support::Running::spawn(&mut command).finish().expect_code(0);
    assert!(ended.stderr.contains("completed"), "{}", ended.stderr);
}

#[test]
fn get_never_reports_success_for_a_digest_or_size_that_nobody_checked() {
    let nginx = Nginx::start();
    nginx.put_seeded("file.bin", 1_000);
    let home = Home::new();
    let path = home.download("file.bin");
    let url = nginx.url("/file.bin");
    let get = |more: &[&str]| home.run(&[&["get", &url, "-o", path.to_str().unwrap()], more].concat());
    let zeros = "0".repeat(64);
    let id = home.add(&url, &path, &["--hold"]);
    // A live operation that is not held to it.
    assert!(get(&["--sha256", &zeros]).expect_code(7).stderr.contains("sha256"));
    assert!(get(&["--size", "7"]).expect_code(7).stderr.contains("size"));
    home.run(&["start", &id]).expect_code(0);
    home.run(&["run", "--until-idle"]).expect_code(0);
    // One that completed, and was not held to it either.
    get(&["--sha256", &zeros]).expect_code(2);
    get(&["--size", "7"]).expect_code(2);
    assert_eq!(home.operation()["acknowledged"], false);
    // Another file is asked for.
    get(&["--collision", "unique"]).expect_code(0);
    assert_eq!(names_in(&home.downloads()).len(), 2);
}

#[test]
fn get_does_not_take_a_file_that_was_written_to_for_the_one_with_the_digest() {
    let nginx = Nginx::start();
    let bytes = nginx.put_seeded("file.bin", 1_000);
    let home = Home::new();
    let path = home.download("file.bin");
    let url = nginx.url("/file.bin");
    let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
    let digest = data_encoding::HEXLOWER.encode(digest.as_ref());
    home.add(&url, &path, &["--sha256", &digest]);
    home.run(&["run", "--until-idle"]).expect_code(0);
    std::fs::write(&path, vec![b'x'; 1_000]).unwrap();
    home.run(&["get", &url, "-o", path.to_str().unwrap(), "--sha256", &digest])
        .expect_code(2);
    std::fs::write(&path, &bytes).unwrap();
    home.run(&["get", &url, "-o", path.to_str().unwrap(), "--sha256", &digest])
        .expect_code(0);
}

#[test]
fn a_first_start_that_was_cut_short_leaves_an_empty_list_and_no_error() {
    let home = Home::new();
    // What a crash or a full disk leaves before the first record of a journal.
    std::fs::create_dir_all(home.state().join("journal")).unwrap();
    assert!(home.listing().is_empty());
    home.run(&["explain"]).expect_code(0);
    home.add("http://127.0.0.1:9/a.bin", &home.download("a.bin"), &[]);
    assert_eq!(home.operation()["status"], "Queued");
}
