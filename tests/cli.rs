//! The command as its user sees it: what it prints, what it leaves, how it ends.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::nginx::Nginx;
use support::{Home, Running, assert_same, bytes_in, get, names_in, until};

/// SHA-256 of `hello`, in both spellings.
const HELLO_HEX: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
const HELLO_BASE64: &str = "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=";

/// The fields that every listing has, whatever else a later version adds.
const FIELDS: [&str; 19] = [
    "id",
    "kind",
    "owner_uid",
    "app",
    "group",
    "url",
    "destination",
    "status",
    "reason",
    "next_attempt_at",
    "bytes_done",
    "ranges",
    "bytes_total",
    "restarts",
    "attempts",
    "bytes_wasted",
    "error",
    "created_at",
    "ended_at",
];

// ---- get ----

#[test]
fn get_fetches_a_file_and_acknowledges_it() {
    let nginx = Nginx::start();
    let bytes = nginx.put_seeded("a.bin", 5_000_000);
    let home = Home::new();
    get(&home, &nginx.url("/a.bin"), "downloads/a.bin", &[]).expect_code(0);
    assert_same(&home.download("a.bin"), &bytes);
    assert_eq!(names_in(&home.downloads()), ["a.bin"]);
    assert_eq!(nginx.bytes_served("a.bin"), bytes.len() as u64);
    let shown = home.operation();
    for field in FIELDS {
        assert!(shown.get(field).is_some(), "no field {field}: {shown}");
    }
    assert_eq!(shown["status"], "Completed");
    assert_eq!(shown["kind"], "download");
    assert_eq!(shown["app"], "backhaul");
    assert_eq!(shown["url"], nginx.url("/a.bin"));
    assert_eq!(shown["destination"], home.download("a.bin").to_str().unwrap());
    assert_eq!(
        (&shown["bytes_done"], &shown["bytes_total"]),
        (&5_000_000.into(), &5_000_000.into())
    );
    assert_eq!(
        (&shown["restarts"], &shown["attempts"], &shown["bytes_wasted"]),
        (&0.into(), &1.into(), &0.into())
    );
    assert_eq!(shown["acknowledged"], true, "get has reported it: {shown}");
}

#[test]
fn get_takes_the_name_from_the_url_into_a_folder_or_the_current_one() {
    let nginx = Nginx::start();
    nginx.put("some/a b.txt", b"a");
    nginx.put("c.txt", b"c");
    let home = Home::new();
    let (first, second) = (nginx.url("/some/a%20b.txt"), nginx.url("/c.txt?x=1"));
    home.run(&["get", &first, &second, "-o", "downloads/"]).expect_code(0);
    assert_same(&home.download("a b.txt"), b"a");
    assert_same(&home.download("c.txt"), b"c");
    home.run(&["get", &nginx.url("/c.txt?x=2")]).expect_code(0);
    assert_same(&home.path().join("c.txt"), b"c");
}

#[test]
fn empty_files_and_files_of_unknown_length_arrive_whole() {
    let nginx = Nginx::start();
    nginx.put("empty", b"");
    let bytes = nginx.put_seeded("a.bin", 3_000_000);
    let home = Home::new();
    get(&home, &nginx.url("/empty"), "downloads/empty", &[]).expect_code(0);
    assert_same(&home.download("empty"), b"");
    for path in ["nolength", "noetag", "norange", "novalidator"] {
        get(
            &home,
            &nginx.url(&format!("/{path}/a.bin")),
            &format!("downloads/{path}"),
            &[],
        )
        .expect_code(0);
        assert_same(&home.download(path), &bytes);
    }
}

#[test]
fn get_json_prints_one_array_in_the_shape_of_the_listing() {
    let nginx = Nginx::start();
    nginx.put("a.txt", b"hello");
    let home = Home::new();
    let shown = get(&home, &nginx.url("/a.txt"), "downloads/a.txt", &["--json"])
        .expect_code(0)
        .json();
    assert_eq!(
        (&shown[0]["status"], shown.as_array().unwrap().len()),
        (&"Completed".into(), 1),
        "{shown}"
    );
}

#[test]
fn digests_are_checked_in_both_spellings_and_a_wrong_one_publishes_nothing() {
    let nginx = Nginx::start();
    nginx.put("a.txt", b"hello");
    for digest in [HELLO_HEX, &HELLO_HEX.to_uppercase(), HELLO_BASE64] {
        let home = Home::new();
        get(&home, &nginx.url("/a.txt"), "downloads/a.txt", &["--sha256", digest]).expect_code(0);
        assert_same(&home.download("a.txt"), b"hello");
    }
    let home = Home::new();
    let wrong = HELLO_HEX.replace('2', "3");
    let ended = get(&home, &nginx.url("/a.txt"), "downloads/a.txt", &["--sha256", &wrong]).expect_code(1);
    assert!(
        ended.stderr.to_lowercase().contains("sha-256") || ended.stderr.contains("sha256"),
        "{}",
        ended.stderr
    );
    assert!(
        names_in(&home.downloads()).is_empty(),
        "{:?}",
        names_in(&home.downloads())
    );
    assert_eq!(home.operation()["status"], "Error");
}

#[test]
fn a_mirror_brings_what_the_url_refuses_and_every_listing_tells_the_sources() {
    let nginx = Nginx::start();
    nginx.put("a.txt", b"hello");
    let home = Home::new();
    let (url, mirror) = (nginx.url("/missing"), nginx.url("/a.txt"));
    let digest = format!("sha-256:{HELLO_HEX}");
    let options = ["--mirror", &mirror, "--digest", &digest];
    home.add(&url, &home.download("a.txt"), &options);
    let explained = home.run(&["explain"]).expect_code(0).stdout;
    assert!(explained.contains(&format!("source: {url}")), "{explained}");
    get(&home, &url, "downloads/a.txt", &options).expect_code(0);
    assert_same(&home.download("a.txt"), b"hello");
    let shown = home.operation();
    assert_eq!(shown["sources"], serde_json::json!([url, mirror]), "{shown}");
    assert_eq!(
        (&shown["actual_url"], &shown["source"]),
        (&mirror.as_str().into(), &mirror.as_str().into())
    );
    assert_eq!(shown["digests"], serde_json::json!([digest]));
    let details = home.run(&["show", shown["id"].as_str().unwrap()]).expect_code(0).stdout;
    assert!(details.contains(&format!("mirror         {mirror}")), "{details}");
}

#[test]
fn answers_that_are_no_success_end_in_an_error_with_their_code() {
    let nginx = Nginx::start();
    let home = Home::new();
    for (path, code) in [("/missing", 404), ("/gone", 410)] {
        let ended = get(&home, &nginx.url(path), "downloads/a", &[]).expect_code(1);
        assert!(ended.stderr.contains(&code.to_string()), "{}", ended.stderr);
        let listing = home.listing();
        let shown = listing.iter().find(|shown| shown["url"] == nginx.url(path)).unwrap();
        assert_eq!(
            (&shown["status"], &shown["error"]["code"]),
            (&"Error".into(), &code.into()),
            "{shown}"
        );
        assert_eq!(shown["attempts"], 1, "a permanent error was tried again: {shown}");
    }
    assert!(names_in(&home.downloads()).is_empty());
}

#[test]
fn one_failure_among_several_downloads_is_the_exit_code_and_stops_no_other() {
    let nginx = Nginx::start();
    nginx.put("a.txt", b"a");
    nginx.put("c.txt", b"c");
    let home = Home::new();
    let urls = ["/a.txt", "/missing", "/c.txt"].map(|path| nginx.url(path));
    home.run(&["get", &urls[0], &urls[1], &urls[2], "-o", "downloads/"])
        .expect_code(1);
    assert_eq!(names_in(&home.downloads()), ["a.txt", "c.txt"]);
}

#[test]
fn a_quiet_get_says_nothing_and_leaves_and_ends_as_one_that_tells() {
    let nginx = Nginx::start();
    nginx.put("a.txt", b"a");
    let urls = ["/a.txt", "/missing"].map(|path| nginx.url(path));
    let left = [false, true].map(|is_quiet| {
        let home = Home::new();
        let words = ["get", &urls[0], &urls[1], "-o", "downloads/", "-q"];
        let ended = home.run(&words[..5 + usize::from(is_quiet)]).expect_code(1);
        assert_eq!((ended.stdout + &ended.stderr).is_empty(), is_quiet);
        let shown = home.listing().into_iter();
        let shown = shown.map(|one| ["url", "status", "acknowledged"].map(|field| one[field].to_string()));
        shown.collect::<Vec<_>>()
    });
    assert!(
        left[0].iter().all(|[_, _, acknowledged]| acknowledged == "true"),
        "{left:?}"
    );
    assert_eq!((left[0].len(), &left[0]), (2, &left[1]));
}

#[test]
fn redirects_are_followed_and_a_loop_is_an_error() {
    let nginx = Nginx::start();
    nginx.put("a.txt", b"hello");
    let home = Home::new();
    for code in ["301", "302", "307", "308"] {
        get(
            &home,
            &nginx.url(&format!("/redirect/{code}/a.txt")),
            &format!("downloads/{code}"),
            &[],
        )
        .expect_code(0);
        assert_same(&home.download(code), b"hello");
    }
    let ended = get(&home, &nginx.url("/loop"), "downloads/loop", &[]).expect_code(1);
    assert!(ended.stderr.contains("redirect"), "{}", ended.stderr);
    let asked = nginx.served().iter().filter(|served| served.path == "/loop").count();
    assert!(asked <= 11, "{asked} requests");
}

#[test]
fn headers_reach_the_server_and_secret_ones_stay_with_their_origin_and_out_of_sight() {
    let nginx = Nginx::start();
    nginx.put("a.txt", b"hello");
    let home = Home::new();
    let headers = [
        "--header",
        "X-Device: 42",
        "--secret-header",
        "Authorization: Bearer hunter2",
    ];
    get(&home, &nginx.url("/a.txt"), "downloads/a.txt", &headers).expect_code(0);
    get(&home, &nginx.url("/onward/a.txt"), "downloads/b.txt", &headers).expect_code(0);
    let served = nginx.served();
    let seen: Vec<_> = served
        .iter()
        .map(|served| (served.status, served.authorization.as_str()))
        .collect();
    assert_eq!(seen, [(200, "Bearer hunter2"), (302, "Bearer hunter2"), (200, "")]);
    assert_eq!(served[0].device, "42");

    let id = home.listing()[0]["id"].as_str().unwrap().to_owned();
    for arguments in [
        &["list", "--json"][..],
        &["show", &id],
        &["show", &id, "--json"],
        &["explain"],
        &["journal", "dump"],
    ] {
        let ended = home.run(arguments).expect_code(0);
        assert!(
            !ended.stdout.contains("hunter2") && !ended.stderr.contains("hunter2"),
            "{arguments:?}"
        );
    }
    assert_not_stored(&home.state(), b"hunter2");
}

#[test]
fn passwords_and_signed_query_values_are_used_and_not_stored_in_clear() {
    let nginx = Nginx::start();
    nginx.put("a.txt", b"hello");
    let home = Home::new();
    let url = nginx
        .url("/a.txt?X-Amz-Signature=hunter2&part=1")
        .replace("http://", "http://ann:hunter2@");
    home.add(&url, &home.download("a.txt"), &["--hold"]);
    assert_not_stored(&home.state(), b"hunter2");
    let id = home.operation()["id"].as_str().unwrap().to_owned();
    home.run(&["start", &id]).expect_code(0);
    home.run(&["run", "--until-idle"]).expect_code(0);
    let served = &nginx.served()[0];
    // ann:hunter2 in base64, as RFC 7617 has it.
    assert_eq!(served.authorization, "Basic YW5uOmh1bnRlcjI=", "{served:?}");
    assert!(served.path.contains("X-Amz-Signature=hunter2"), "{served:?}");
    assert!(!home.operation().to_string().contains("hunter2"));
}

/// Asserts that no file below a folder holds these bytes.
fn assert_not_stored(folder: &Path, secret: &[u8]) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_not_stored(&path, secret);
        } else {
            let bytes = fs::read(&path).unwrap();
            assert!(
                !bytes.windows(secret.len()).any(|window| window == secret),
                "{} holds a secret",
                path.display()
            );
        }
    }
}

#[test]
fn the_collision_rule_decides_over_a_file_that_is_there() {
    let nginx = Nginx::start();
    nginx.put("a.txt", b"new");
    let home = Home::new();
    fs::write(home.download("a.txt"), "old").unwrap();
    let url = nginx.url("/a.txt");
    let ended = get(&home, &url, "downloads/a.txt", &[]).expect_code(2);
    assert!(ended.stderr.contains("--collision"), "{}", ended.stderr);
    assert_same(&home.download("a.txt"), b"old");
    get(&home, &url, "downloads/a.txt", &["--collision", "unique"]).expect_code(0);
    assert_same(&home.download("a.txt"), b"old");
    assert_same(&home.download("a (2).txt"), b"new");
    get(&home, &url, "downloads/a.txt", &["--collision", "replace"]).expect_code(0);
    assert_same(&home.download("a.txt"), b"new");
}

#[test]
fn a_file_that_appears_meanwhile_is_not_overwritten() {
    let nginx = Nginx::start();
    nginx.put("a.txt", b"new");
    let home = Home::new();
    home.add(&nginx.url("/a.txt"), &home.download("a.txt"), &[]);
    fs::write(home.download("a.txt"), "mine").unwrap();
    home.run(&["run", "--until-idle"]).expect_code(1);
    assert_same(&home.download("a.txt"), b"mine");
    assert_eq!(names_in(&home.downloads()), ["a.txt"]);
}

#[test]
fn a_file_that_appears_at_the_last_moment_is_not_overwritten() {
    let nginx = Nginx::start();
    nginx.put("a.txt", b"new");
    let home = Home::new();
    home.add(&nginx.url("/a.txt"), &home.download("a.txt"), &[]);
    // The rename is held up for long enough to take its place.
    let engine = home.command(&["run", "--until-idle"]);
    let mut strace = Command::new("strace");
    strace.args([
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=renameat2",
        "-e",
        "inject=renameat2:delay_enter=3000000",
    ]);
    strace
        .arg(engine.get_program())
        .args(engine.get_args())
        .current_dir(home.path());
    let running = Running::spawn(&mut strace);
    until("the intent to publish", || {
        (home.operation()["reason"] == "verifying").then_some(())
    });
    fs::write(home.download("a.txt"), "mine").unwrap();
    running.finish().expect_code(1);
    assert_same(&home.download("a.txt"), b"mine");
    assert_eq!(names_in(&home.downloads()), ["a.txt"]);
}

#[test]
fn a_limited_rate_is_kept() {
    let nginx = Nginx::start();
    let bytes = nginx.put_seeded("a.bin", 3 << 20);
    let home = Home::new();
    let started = Instant::now();
    get(&home, &nginx.url("/a.bin"), "downloads/a.bin", &["--limit-rate", "1M"]).expect_code(0);
    // Three seconds, less what the bucket may hold at the start.
    assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
    assert_same(&home.download("a.bin"), &bytes);
}

#[test]
fn a_list_of_many_files_arrives_whole() {
    let nginx = Nginx::start();
    let home = Home::new();
    let mut list = String::from("# many\n\n");
    for number in 0..300 {
        nginx.put(&format!("{number}.txt"), number.to_string().as_bytes());
        list += &nginx.url(&format!("/{number}.txt\n"));
    }
    nginx.put("named", b"named");
    list += &(nginx.url("/named") + "\tby-tab\n");
    list += &(nginx.url("/named?2") + "   by spaces\n");
    let mut command = home.command(&["get", "-i", "-", "-o", "downloads/", "--jobs", "16"]);
    Running::spawn_with_input(&mut command, list.as_bytes())
        .finish()
        .expect_code(0);
    assert_eq!(names_in(&home.downloads()).len(), 302);
    for number in 0..300 {
        assert_same(&home.download(&format!("{number}.txt")), number.to_string().as_bytes());
    }
    assert_same(&home.download("by-tab"), b"named");
    assert_same(&home.download("by spaces"), b"named");
}

// ---- faults of servers ----

#[test]
fn a_server_that_goes_away_in_the_middle_is_waited_for() {
    let mut nginx = Nginx::start();
    let bytes = nginx.put_seeded("a.bin", 20 << 20);
    let home = Home::new();
    home.add(&nginx.url("/rate/10000k/a.bin"), &home.download("a.bin"), &[]);
    let mut engine = home.spawn(&["run", "--until-idle"]);
    until("some bytes", || (bytes_in(&home) > 9 << 20).then_some(()));
    nginx.stop();
    until("the wait", || (home.operation()["status"] == "Waiting").then_some(()));
    let shown = home.operation();
    assert_eq!(shown["reason"], "back-off", "{shown}");
    assert!(
        !shown["next_attempt_at"].is_null() && !shown["error"].is_null(),
        "{shown}"
    );
    assert!(!engine.has_ended());
    nginx.start_again();
    engine.finish().expect_code(0);
    assert_same(&home.download("a.bin"), &bytes);
    let shown = home.operation();
    assert!(
        shown["attempts"].as_u64().unwrap() >= 2 && shown["restarts"] == 0,
        "{shown}"
    );
}

#[test]
fn a_resource_that_changed_is_never_spliced() {
    let nginx = Nginx::start();
    nginx.put_seeded("a.bin", 30 << 20);
    let home = Home::new();
    home.add(&nginx.url("/rate/15000k/a.bin"), &home.download("a.bin"), &[]);
    let mut engine = home.spawn(&["run", "--until-idle"]);
    until("a claim", || {
        (home.claimed_bytes() > 8 << 20 || engine.has_ended()).then_some(())
    });
    engine.kill();
    // One byte longer, so that the entity tag, made of time and length, is another one whatever the clock says.
    let new = support::Seeded::new(99).bytes((30 << 20) + 1);
    nginx.put("a.bin", &new);
    home.run(&["run", "--until-idle"]).expect_code(0);
    assert_same(&home.download("a.bin"), &new);
    assert_eq!(names_in(&home.downloads()), ["a.bin"], "the old partial data is left");
    let shown = home.operation();
    assert_eq!(shown["restarts"], 1, "{shown}");
    assert!(shown["bytes_wasted"].as_u64().unwrap() > 8 << 20, "{shown}");
}

// ---- the other commands ----

#[test]
fn add_prints_the_id_alone_and_hold_waits_for_start() {
    let nginx = Nginx::start();
    nginx.put("a.txt", b"hello");
    let home = Home::new();
    let id = home.add(&nginx.url("/a.txt"), &home.download("a.txt"), &["--hold"]);
    let shown = home.operation();
    assert_eq!(
        (&shown["id"], &shown["status"], &shown["reason"]),
        (&id.as_str().into(), &"Idle".into(), &"not-started".into())
    );
    home.run(&["run", "--until-idle"]).expect_code(0);
    assert!(names_in(&home.downloads()).is_empty(), "a held operation was run");
    home.run(&["start", &id]).expect_code(0);
    assert_eq!(home.operation()["status"], "Queued");
    home.run(&["run", "--until-idle"]).expect_code(0);
    assert_same(&home.download("a.txt"), b"hello");
    let shown = home.run(&["show", &id, "--json"]).expect_code(0).json();
    assert_eq!(shown, home.operation(), "show and list differ");
    home.run(&["wait", &id]).expect_code(0);
    home.run(&["remove", &id]).expect_code(0);
    assert!(home.listing().is_empty());
    assert_same(&home.download("a.txt"), b"hello");
}

#[test]
fn pause_and_resume_are_remembered_and_cancel_removes_the_partial_data() {
    let nginx = Nginx::start();
    nginx.put_seeded("a.bin", 20 << 20);
    let home = Home::new();
    let id = home.add(&nginx.url("/rate/10000k/a.bin"), &home.download("a.bin"), &[]);
    let mut engine = home.spawn(&["run"]);
    until("a claim", || {
        (home.claimed_bytes() > 0 || engine.has_ended()).then_some(())
    });
    engine.kill();
    assert_eq!(names_in(&home.downloads()).len(), 1);
    home.run(&["pause", &id]).expect_code(0);
    let shown = home.operation();
    assert_eq!(
        (&shown["status"], &shown["reason"]),
        (&"PausedByApplication".into(), &"paused-by-application".into())
    );
    home.run(&["run", "--until-idle"]).expect_code(0);
    assert_eq!(home.operation()["status"], "PausedByApplication");
    home.run(&["resume", &id]).expect_code(0);
    assert_eq!(home.operation()["status"], "Queued");
    home.run(&["cancel", &id]).expect_code(0);
    assert_eq!(home.operation()["status"], "Canceled");
    assert!(
        names_in(&home.downloads()).is_empty(),
        "partial data is left: {:?}",
        names_in(&home.downloads())
    );
    home.run(&["ack", &id]).expect_code(0);
    home.run(&["remove", &id]).expect_code(0);
}

#[test]
fn wait_says_that_no_engine_came_and_ends_with_the_code_of_a_timeout() {
    let home = Home::new();
    let id = home.add("http://127.0.0.1:9/a", &home.download("a"), &["--hold"]);
    let started = Instant::now();
    let ended = home.run(&["wait", &id, "--timeout", "1"]).expect_code(8);
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    home.run(&["cancel", &id]).expect_code(0);
    home.run(&["wait", &id]).expect_code(1);
}

#[test]
fn wait_sees_the_end_that_another_process_brings_about() {
    let nginx = Nginx::start();
    nginx.put_seeded("a.bin", 2 << 20);
    let home = Home::new();
    let id = home.add(&nginx.url("/rate/1000k/a.bin"), &home.download("a.bin"), &[]);
    let waiting = home.spawn(&["wait", &id, "--timeout", "50"]);
    home.run(&["run", "--until-idle"]).expect_code(0);
    waiting.finish().expect_code(0);
}

#[test]
fn a_server_that_asks_for_patience_is_obeyed_and_the_time_is_shown() {
    let nginx = Nginx::start();
    let home = Home::new();
    home.add(&nginx.url("/busy"), &home.download("a"), &[]);
    let mut engine = home.spawn(&["run"]);
    until("the wait", || {
        (home.operation()["reason"] == "retry-after").then_some(())
    });
    let shown = home.operation();
    assert_eq!(shown["status"], "Waiting", "{shown}");
    assert!(!shown["next_attempt_at"].is_null(), "{shown}");
    assert_eq!(shown["error"]["code"], 503, "{shown}");
    let started = Instant::now();
    until("a third attempt", || {
        (home.operation()["attempts"].as_u64() >= Some(3)).then_some(())
    });
    assert!(
        started.elapsed() >= Duration::from_millis(900),
        "Retry-After: 1 was shortened"
    );
    engine.kill();
}

#[test]
fn priorities_decide_what_comes_first() {
    let nginx = Nginx::start();
    let home = Home::new();
    for (name, priority) in [("low", "low"), ("default", "default"), ("high", "high")] {
        nginx.put(name, b"x");
        home.add(
            &nginx.url(&format!("/{name}")),
            &home.download(name),
            &["--priority", priority],
        );
    }
    home.run(&["run", "--until-idle", "--jobs", "1"]).expect_code(0);
    let order: Vec<String> = nginx.served().iter().map(|served| served.path.clone()).collect();
    assert_eq!(order, ["/high", "/default", "/low"]);
}

#[test]
fn apps_see_their_own_operations() {
    let home = Home::new();
    home.add("http://127.0.0.1:9/a", &home.download("a"), &["--hold"]);
    home.run(&[
        "--app",
        "other",
        "add",
        "http://127.0.0.1:9/a",
        "-o",
        "downloads/b",
        "--hold",
    ])
    .expect_code(0);
    let own = home.run(&["list", "--json"]).expect_code(0).json();
    assert_eq!((own.as_array().unwrap().len(), &own[0]["app"]), (1, &"backhaul".into()));
    assert_eq!(home.listing().len(), 2);
}

#[test]
fn explain_says_of_everything_that_stands_still_why() {
    let home = Home::new();
    let id = home.add("http://127.0.0.1:9/a", &home.download("a"), &["--hold"]);
    for arguments in [&["explain"][..], &["explain", &id]] {
        let ended = home.run(arguments).expect_code(0);
        assert!(
            ended.stdout.contains("not-started") && ended.stdout.contains("start"),
            "{}",
            ended.stdout
        );
    }
}

#[test]
fn explain_tells_beside_a_running_engine_what_waits_for_its_host() {
    for (limits, reason) in [
        (["--jobs", "4", "--jobs-per-host", "1"], "waiting-for-host-slot"),
        (["--jobs", "1", "--jobs-per-host", "2"], "waiting-for-slot"),
    ] {
        let nginx = Nginx::start();
        let home = Home::new();
        for name in ["a", "b"] {
            nginx.put_seeded(name, 4 << 20);
            home.add(&nginx.url(&format!("/rate/200k/{name}")), &home.download(name), &[]);
        }
        let running = home.spawn(&[&["run"][..], &limits].concat());
        let waiting = until("one that runs and one that waits", || {
            let listing = home.listing();
            let runs = listing.iter().any(|shown| shown["status"] == "Running");
            let waiting = listing.into_iter().find(|shown| shown["status"] == "Queued");
            waiting.filter(|_| runs)
        });
        assert_eq!(waiting["reason"], reason);
        let told = home.run(&["explain"]).expect_code(0).stdout;
        assert!(told.contains(reason), "{told}");
        running.signal(Signal::TERM);
        running.finish().expect_code(0);
    }
}

#[test]
fn help_version_completions_and_the_manual_are_there() {
    let home = Home::new();
    let help = home.run(&["--help"]).expect_code(0).stdout;
    for command in [
        "get",
        "add",
        "start",
        "run",
        "list",
        "show",
        "explain",
        "pause",
        "resume",
        "cancel",
        "remove",
        "ack",
        "wait",
        "journal",
        "completions",
        "man",
    ] {
        assert!(help.contains(command), "--help does not name {command}");
        home.run(&[command, "--help"]).expect_code(0);
    }
    assert!(home.run(&["--version"]).expect_code(0).stdout.starts_with("backhaul "));
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            home.run(&["completions", shell])
                .expect_code(0)
                .stdout
                .contains("backhaul"),
            "{shell}"
        );
    }
    let manual = home.run(&["man"]).expect_code(0).stdout;
    for part in [
        ".TH",
        "\"JOURNAL REPAIR\"",
        "\"COMPLETION CREATE\"",
        ".SH \"EXIT CODES\"\n.nf\n  0    done\n",
    ] {
        assert!(manual.contains(part), "the manual has no {part}");
    }
    home.run(&["completions", "nosuchshell"]).expect_code(2);
    home.run(&["nosuchcommand"]).expect_code(2);
    home.run(&[] as &[&str]).expect_code(2);
    assert!(!home.state().exists());
}

#[test]
fn output_for_a_pipe_is_plain_lines() {
    let nginx = Nginx::start();
    nginx.put_seeded("a.bin", 1 << 20);
    let home = Home::new();
    let ended = get(&home, &nginx.url("/a.bin"), "downloads/a.bin", &[]).expect_code(0);
    for text in [ended.stdout + &ended.stderr, home.run(&["list"]).expect_code(0).stdout] {
        assert!(
            !text.contains('\u{1b}') && !text.contains('\r'),
            "control codes in a pipe: {text:?}"
        );
    }
}

#[test]
fn what_is_said_of_a_failure_stays_on_its_line_and_steers_no_terminal() {
    let nginx = Nginx::start();
    nginx.put("a.txt", b"hello");
    let home = Home::new();
    let folder = home.download("gone");
    fs::create_dir(&folder).unwrap();
    let id = home.add(&nginx.url("/a.txt"), &folder.join("\u{1b}[31ma\nbackhaul: forged"), &[]);
    fs::remove_dir(&folder).unwrap();
    let mut run = home.command(&["run", "--until-idle", "--retries", "0"]);
    let ran = Running::spawn(run.env("BACKHAUL_LOG", "info")).finish().expect_code(1);
    let commands: [&[&str]; 3] = [&["show", &id], &["explain", &id], &["list"]];
    let mut said: Vec<String> = commands
        .iter()
        .map(|command| home.run(command).expect_code(0).stdout)
        .collect();
    said.push(ran.stderr);
    said.push(home.run(&["wait", &id]).expect_code(1).stderr);
    assert!(said[1].contains("cannot create"), "{}", said[1]);
    for text in said {
        let is_forged = text.lines().any(|line| line.starts_with("backhaul: forged"));
        assert!(!text.contains('\u{1b}') && !is_forged, "{text:?}");
    }
}

#[test]
fn help_that_cannot_be_written_is_an_error_like_any_other_output() {
    for option in ["--help", "--version"] {
        let home = Home::new();
        let mut command = home.command(&[option]);
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = command.stdout(full).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(6), "{option}: {said}");
        assert!(said.contains("cannot write to standard output"), "{option}: {said}");
    }
}

#[test]
fn a_closed_pipe_ends_a_listing_quietly() {
    let home = Home::new();
    home.add("http://127.0.0.1:9/a", &home.download("a"), &["--hold"]);
    let binary = env!("CARGO_BIN_EXE_backhaul");
    let script = format!("'{binary}' --state-dir '{}' list --json | true", home.state().display());
    let ended = Running::spawn(Command::new("sh").args(["-c", &script]))
        .finish()
        .expect_code(0);
    assert_eq!(ended.stderr, "");
}

// ---- journal ----

#[test]
fn verify_tells_clean_torn_and_corrupt_apart_and_changes_nothing() {
    let home = Home::new();
    for number in 0..5 {
        home.add(
            &format!("http://127.0.0.1:9/{number}"),
            &home.download(&number.to_string()),
            &["--hold"],
        );
    }
    home.run(&["journal", "verify"]).expect_code(0);
    let segment = newest_segment(&home);
    let clean = fs::read(&segment).unwrap();
    // Space behind the last frame is laid down as zeros.
    let end = clean.iter().rposition(|byte| *byte != 0).unwrap() + 1;

    // A write that a crash cut: the last bytes of the last frame never came.
    let mut torn = clean.clone();
    torn[end - 5..end].fill(0);
    fs::write(&segment, &torn).unwrap();
    home.run(&["journal", "verify"]).expect_code(1);
    assert_eq!(fs::read(&segment).unwrap(), torn, "verify has repaired");

    // Rot in the middle, with good frames behind it.
    let mut rotten = clean.clone();
    rotten[usize::midpoint(64, end)] ^= 0x40;
    fs::write(&segment, &rotten).unwrap();
    let ended = home.run(&["journal", "verify"]).expect_code(2);
    let shown = ended.stdout + &ended.stderr;
    assert!(
        shown.contains(segment.file_name().unwrap().to_str().unwrap()),
        "{shown}"
    );
    let ended = home
        .run(&["add", "http://127.0.0.1:9/x", "-o", "downloads/x"])
        .expect_code(5);
    assert!(
        ended.stderr.contains("backhaul journal repair --to DIR"),
        "does not say what to do: {}",
        ended.stderr
    );
    assert_eq!(fs::read(&segment).unwrap(), rotten, "a corrupt journal was changed");

    let repaired = home.path().join("repaired");
    home.run(&["journal", "repair", "--to", repaired.to_str().unwrap()])
        .expect_code(0);
    assert_eq!(fs::read(&segment).unwrap(), rotten, "repair has changed the original");
    assert!(!names_in(&repaired).is_empty());
}

/// The last segment; names sort in the order of creation.
fn newest_segment(home: &Home) -> std::path::PathBuf {
    let journal = home.state().join("journal");
    let is_segment = |path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == "seg");
    let mut paths = names_in(&journal).into_iter().map(|name| journal.join(name));
    paths.rfind(is_segment).unwrap()
}

#[test]
fn dump_shows_every_record_and_no_binary() {
    let home = Home::new();
    let id = home.add("http://127.0.0.1:9/a", &home.download("a"), &["--hold"]);
    let dump = home.run(&["journal", "dump"]).expect_code(0).stdout;
    assert!(dump.contains(&id) || dump.lines().count() > 0, "{dump}");
    assert!(
        dump.chars()
            .all(|letter| letter == '\n' || letter == '\t' || !letter.is_control()),
        "{dump:?}"
    );
}

// ---- errors that can be mended ----

#[test]
fn a_refused_url_stops_the_transfer_and_another_one_goes_on_with_its_bytes() {
    let nginx = Nginx::start();
    let bytes = nginx.put_seeded("a.bin", 20 << 20);
    let home = Home::new();
    let url = nginx.url("/rate/10000k/a.bin?sig=old-secret");
    let id = home.add(&url, &home.download("a.bin"), &["--recoverable", "Forbidden,404"]);
    let mut engine = home.spawn(&["run"]);
    until("a claim", || {
        (home.claimed_bytes() > 0 || engine.has_ended()).then_some(())
    });
    engine.kill();
    nginx.rename("a.bin", "b.bin");
    home.run(&["run", "--until-idle"]).expect_code(0);
    let shown = home.operation();
    assert_eq!(
        (&shown["status"], &shown["reason"], &shown["error"]["code"]),
        (
            &"PausedRecoverableWebErrorStatus".into(),
            &"needs-new-url".into(),
            &404.into()
        ),
        "{shown}"
    );
    assert_eq!(shown["recoverable"], serde_json::json!(["Forbidden", "NotFound"]));
    assert!(shown["bytes_done"].as_u64() > Some(0), "{shown}");
    let explained = home.run(&["explain"]).expect_code(0).stdout;
    assert!(
        explained.contains("'set'") && explained.contains("'resume'"),
        "{explained}"
    );
    let get = get(&home, &url, "downloads/a.bin", &[]).expect_code(1);
    assert!(get.stderr.contains(&format!("backhaul set {id}")), "{}", get.stderr);
    let other = nginx.url("/b.bin?sig=new-secret");
    let taken = home.run(&["add", &other, "-o", "downloads/a.bin"]).expect_code(7);
    assert!(taken.stderr.contains(&format!("set {id}")), "{}", taken.stderr);
    home.run(&[
        "set",
        &id,
        "--url",
        &other,
        "--secret-header",
        "X-Device: dev-secret",
        "--priority",
        "high",
    ])
    .expect_code(0);
    let shown = home.operation();
    assert_eq!(shown["url"], nginx.url("/b.bin?sig=***"));
    assert_eq!(
        (&shown["status"], &shown["priority"]),
        (&"PausedRecoverableWebErrorStatus".into(), &"high".into()),
        "it waits for 'resume'"
    );
    home.run(&["resume", &id]).expect_code(0);
    home.run(&["run", "--until-idle"]).expect_code(0);
    assert_same(&home.download("a.bin"), &bytes);
    let shown = home.operation();
    assert_eq!(
        (&shown["status"], &shown["restarts"]),
        (&"Completed".into(), &0.into()),
        "{shown}"
    );
    let last = nginx.served().pop().unwrap();
    assert_eq!(last.device, "dev-secret");
    for secret in ["old-secret", "new-secret", "dev-secret"] {
        assert_not_stored(&home.state(), secret.as_bytes());
    }
    home.run(&["set", &id, "--priority", "low"]).expect_code(7);
}

#[test]
fn a_web_page_in_place_of_the_expected_type_is_not_published() {
    let nginx = Nginx::start();
    nginx.put("a.html", b"<html>login</html>");
    nginx.put("a.bin", b"hello");
    let home = Home::new();
    let page = nginx.url("/a.html");
    let ended = get(
        &home,
        &page,
        "downloads/a",
        &["--type", "application/octet-stream", "--retries", "0"],
    )
    .expect_code(1);
    assert!(ended.stderr.contains("UnexpectedContentType"), "{}", ended.stderr);
    get(&home, &nginx.url("/a.bin"), "downloads/b", &["--type", "text/*"]).expect_code(1);
    assert!(names_in(&home.downloads()).is_empty());
    get(&home, &nginx.url("/a.bin"), "downloads/b", &["--type", "application/*"]).expect_code(0);
    assert_same(&home.download("b"), b"hello");
}

#[test]
fn what_is_wrong_with_a_change_is_said_with_its_field_and_changes_nothing() {
    let home = Home::new();
    let id = home.add("http://127.0.0.1:9/a", &home.download("a"), &["--hold"]);
    let before = home.operation();
    for (given, says) in [
        (&[][..], &["--url", "--priority"][..]),
        (&["--url", "nonsense"], &["url 'nonsense'"]),
        (&["--url", "gopher://host/a"], &["url", "scheme 'gopher'"]),
        (&["--header", "no colon"], &["header", ":"]),
        (&["--secret-header", "X-Key hush"], &["secret-header"]),
        (&["--header", "Range: bytes=0-"], &["header 'Range'"]),
        (&["--priority", "urgent"], &["priority", "urgent"]),
    ] {
        let ended = home.run(&[&["set", &id], given].concat()).expect_code(2);
        for word in says {
            assert!(
                ended.stderr.contains(word) && !ended.stderr.contains("hush"),
                "{}",
                ended.stderr
            );
        }
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    }
    assert_eq!(home.operation(), before);
    let unknown = "0123456789abcdef0123456789abcdef";
    let ended = home.run(&["set", unknown, "--priority", "low"]).expect_code(3);
    assert!(ended.stderr.contains(unknown), "{}", ended.stderr);
}
