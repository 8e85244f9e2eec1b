//! Full and read-only disks, on a small tmpfs: the operation waits or fails with a reason, and nothing partial shows.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::fs;

use support::mount::SmallDisk;
use support::nginx::Nginx;
use support::{Home, Running, assert_same, names_in, until};

#[test]
fn a_full_disk_pauses_and_room_lets_it_go_on_by_itself() {
    let Some(disk) = SmallDisk::mount(16 << 20) else { return };
    let nginx = Nginx::start();
    let bytes = nginx.put_seeded("a.bin", 6 << 20);
    let home = Home::new();
    let ballast = disk.fill_but(2 << 20);
    let destination = disk.path().join("a.bin");
    home.add(&nginx.url("/a.bin"), &destination, &[]);
    let mut engine = home.spawn(&["run", "--until-idle"]);
    until("the pause for a full disk", || {
        assert!(!engine.has_ended(), "run --until-idle gave up on a full disk");
        (home.operation()["status"] == "PausedDiskFull").then_some(())
    });
    let shown = home.operation();
    assert_eq!(shown["reason"], "disk-full", "{shown}");
    assert!(!shown["next_attempt_at"].is_null(), "{shown}");
    assert!(!destination.exists());
    let explained = home.run(&["explain"]).expect_code(0).stdout;
    assert!(
        explained.contains("looked at again at") && !explained.contains("next attempt"),
        "a look for room is no attempt: {explained}"
    );
    assert!(
        explained.contains("disk-full") || explained.contains("room"),
        "{explained}"
    );

    fs::remove_file(ballast).unwrap();
    engine.finish().expect_code(0);
    assert_same(&destination, &bytes);
    assert_eq!(names_in(disk.path()), ["a.bin"]);
}

#[test]
fn a_disk_that_fills_up_in_the_middle_costs_nothing_but_time() {
    let Some(disk) = SmallDisk::mount(48 << 20) else { return };
    let nginx = Nginx::start();
    // Without an announced length nothing can be known before the first byte.
    let bytes = nginx.put_seeded("a.bin", 6 << 20);
    let home = Home::new();
    let ballast = disk.fill_but(3 << 20);
    let destination = disk.path().join("a.bin");
    home.add(&nginx.url("/nolength/a.bin"), &destination, &[]);
    let mut engine = home.spawn(&["run", "--until-idle"]);
    until("the pause for a full disk", || {
        assert!(!engine.has_ended(), "run --until-idle gave up on a full disk");
        (home.operation()["status"] == "PausedDiskFull").then_some(())
    });
    assert!(!destination.exists());
    fs::remove_file(ballast).unwrap();
    engine.finish().expect_code(0);
    assert_same(&destination, &bytes);
    assert_eq!(names_in(disk.path()), ["a.bin"]);
}

#[test]
fn a_full_disk_stops_only_what_is_stored_there() {
    let Some(disk) = SmallDisk::mount(8 << 20) else { return };
    let nginx = Nginx::start();
    let bytes = nginx.put_seeded("a.bin", 6 << 20);
    let home = Home::new();
    disk.fill_but(1 << 20);
    home.add(&nginx.url("/a.bin"), &disk.path().join("a.bin"), &[]);
    let other = home.add(&nginx.url("/a.bin?other"), &home.download("a.bin"), &[]);
    let _engine = home.spawn(&["run", "--until-idle"]);
    until("the other download", || {
        let listing = home.listing();
        let shown = listing.iter().find(|shown| shown["id"] == other.as_str()).unwrap();
        (shown["status"] == "Completed").then_some(())
    });
    assert_same(&home.download("a.bin"), &bytes);
}

#[test]
fn a_full_state_directory_refuses_new_work_and_keeps_the_old() {
    let Some(disk) = SmallDisk::mount(4 << 20) else { return };
    let nginx = Nginx::start();
    let bytes = nginx.put_seeded("a.bin", 100_000);
    let home = Home::with_state(disk.path().join("state"));
    home.run(&["add", &nginx.url("/a.bin"), "-o", "downloads/a.bin"])
        .expect_code(0);
    let ballast = disk.fill_but(0);
    // Space that is laid down beforehand takes some more; then each refusal is clean and nothing half is accepted.
    let mut accepted = 1;
    let refused = (0..200).find_map(|number| {
        let list: Vec<String> = (0..100)
            .map(|line| nginx.url(&format!("/missing/{number}-{line}\n")))
            .collect();
        let mut command = home.command(&["add", "--hold", "-i", "-", "-o", "downloads/"]);
        let ended = Running::spawn_with_input(&mut command, list.concat().as_bytes()).finish();
        if ended.code() == Some(0) {
            accepted += ended.stdout.lines().count();
            return None;
        }
        Some(ended)
    });
    let refused = refused.expect("a full disk takes no end of operations").expect_code(6);
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    assert_eq!(
        refused.stdout, "",
        "an id was printed for an operation that is not durable"
    );
    fs::remove_file(ballast).unwrap();
    home.run(&["run", "--until-idle"]).expect_code(0);
    assert_same(&home.download("a.bin"), &bytes);
    assert_eq!(names_in(&home.downloads()), ["a.bin"]);
    assert_eq!(home.listing().len(), accepted);
}

#[test]
fn a_disk_that_holds_everything_and_fills_up_during_a_run_loses_nothing() {
    let Some(disk) = SmallDisk::mount(24 << 20) else { return };
    let nginx = Nginx::start();
    let files: Vec<_> = (0..300).map(|number| format!("{number:03}.bin")).collect();
    let files = files.into_iter().map(|name| (nginx.put_seeded(&name, 20_000), name));
    let files: Vec<_> = files.collect();
    let home = Home::with_state(disk.path().join("state"));
    let (ballast, folder) = (disk.fill_but(2 << 20), disk.path().join("files"));
    fs::create_dir(&folder).unwrap();
    let list: String = files.iter().map(|(_, name)| nginx.url(&format!("/{name}\n"))).collect();
    let mut add = home.command(&["add", "-i", "-", "-o", &format!("{}/", folder.display())]);
    let added = Running::spawn_with_input(&mut add, list.as_bytes())
        .finish()
        .expect_code(0);
    let mut engine = home.spawn(&["run", "--until-idle"]);
    until("a full disk", || {
        (engine.has_ended() || home.only_waits_for_room()).then_some(())
    });
    if !engine.has_ended() {
        engine.signal(rustix::process::Signal::TERM);
    }
    let code = engine.finish().code();
    assert!(matches!(code, Some(0 | 6)), "{code:?}");
    let listed = home.listing();
    assert!(
        added
            .stdout
            .lines()
            .all(|id| listed.iter().any(|shown| shown["id"] == id))
    );
    let published = files.iter().filter(|(_, name)| folder.join(name).exists());
    let published = published
        .inspect(|(bytes, name)| assert_same(&folder.join(name), bytes))
        .count();
    assert!((1..files.len()).contains(&published), "{published} files had room");

    fs::remove_file(ballast).unwrap();
    for id in home.ids_with("PausedDiskFull") {
        home.run(&["resume", &id]).expect_code(0);
    }
    home.run(&["run", "--until-idle"]).expect_code(0);
    for (bytes, name) in &files {
        assert_same(&folder.join(name), bytes);
    }
    assert_eq!(names_in(&folder).len(), files.len());
    home.run(&["journal", "verify"]).expect_code(0);
}

#[test]
fn a_read_only_destination_is_refused_when_it_is_given() {
    let Some(disk) = SmallDisk::mount(1 << 20) else { return };
    disk.make_read_only();
    let home = Home::new();
    let destination = disk.path().join("a.bin");
    for command in ["add", "get"] {
        let ended = home
            .run(&[command, "http://127.0.0.1:9/a.bin", "-o", destination.to_str().unwrap()])
            .expect_code(2);
        assert!(ended.stderr.starts_with("backhaul: destination"), "{}", ended.stderr);
        assert!(ended.stderr.contains(destination.to_str().unwrap()), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    }
    assert!(home.listing().is_empty());
}

#[test]
fn a_destination_that_turns_read_only_ends_the_download_in_an_error_that_says_so() {
    let Some(disk) = SmallDisk::mount(1 << 20) else { return };
    let nginx = Nginx::start();
    nginx.put("a.txt", b"hello");
    let home = Home::new();
    let destination = disk.path().join("a.txt");
    home.add(&nginx.url("/a.txt"), &destination, &[]);
    disk.make_read_only();
    home.run(&["run", "--until-idle"]).expect_code(1);
    let shown = home.operation();
    assert_eq!(shown["status"], "Error", "{shown}");
    let message = shown["error"]["message"].as_str().unwrap();
    assert!(
        message.contains(disk.path().to_str().unwrap()),
        "the message names no path: {message}"
    );
    disk.make_writable();
    assert!(names_in(disk.path()).is_empty());
}
