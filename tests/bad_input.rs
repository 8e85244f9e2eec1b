//! Every kind of wrong input: one line that names field, value and what would be right, the documented exit code,
//! nothing created and nothing lost.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use support::nginx::Nginx;
use support::{Ended, Home, Running, names_in};

/// A refusal: what is given, and what the one line on stderr must hold.
struct Case {
    given: &'static [&'static str],
    says: &'static [&'static str],
}

const fn wrong(given: &'static [&'static str], says: &'static [&'static str]) -> Case {
    Case { given, says }
}

const URL: &str = "http://127.0.0.1:9/a";
const DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const ID: &str = "0123456789abcdef0123456789abcdef";

/// Wrong arguments of `add`; `get` checks the same. `folder`, `link` and `file` exist below `downloads`.
const WRONG: &[Case] = &[
    // ---- URL
    wrong(&["nonsense", "-o", "downloads/a"], &["url", "nonsense", "https://"]),
    wrong(&["", "-o", "downloads/a"], &["url", "https://"]),
    wrong(&["http://", "-o", "downloads/a"], &["url", "http://"]),
    wrong(&["http://127.0.0.1:99999/", "-o", "downloads/a"], &["url", "99999"]),
    wrong(
        &["http://host/with space", "-o", "downloads/a"],
        &["url", "with space", "%"],
    ),
    wrong(&["http://host/line\nbreak", "-o", "downloads/a"], &["url", "break"]),
    wrong(&["gopher://host/a", "-o", "downloads/a"], &["url", "gopher", "http"]),
    wrong(&["file:///etc/passwd", "-o", "downloads/a"], &["url", "file", "http"]),
    // ---- headers
    wrong(
        &[URL, "-o", "downloads/a", "--header", "X-A: b\r\nX-Evil: 1"],
        &["header"],
    ),
    wrong(
        &[URL, "-o", "downloads/a", "--header", "X-A: b\nX-Evil: 1"],
        &["header"],
    ),
    wrong(&[URL, "-o", "downloads/a", "--header", "no colon"], &["header", ":"]),
    wrong(&[URL, "-o", "downloads/a", "--header", ": value"], &["header"]),
    wrong(
        &[URL, "-o", "downloads/a", "--header", "Bad Name: value"],
        &["header", "Bad"],
    ),
    wrong(
        &[URL, "-o", "downloads/a", "--header", "Range: bytes=0-"],
        &["header", "Range"],
    ),
    wrong(
        &[
            URL,
            "-o",
            "downloads/a",
            "--header",
            "Host: a",
            "--secret-header",
            "host: b",
        ],
        &["header", "host", "twice"],
    ),
    wrong(
        &[URL, "-o", "downloads/a", "--header", "Authorization: Bearer \u{fc}"],
        &["header", "Authorization"],
    ),
    wrong(
        &[URL, "-o", "downloads/a", "--secret-header", "X-A: b\r\nX-Evil: 1"],
        &["secret-header"],
    ),
    wrong(
        &[URL, "-o", "downloads/a", "--secret-header", "no colon"],
        &["secret-header"],
    ),
    // ---- destination
    wrong(
        &[URL, "-o", "downloads/folder"],
        &["destination", "downloads/folder", "director"],
    ),
    wrong(
        &[URL, "-o", "downloads/link"],
        &["destination", "downloads/link", "link"],
    ),
    wrong(
        &[URL, "-o", "downloads/nowhere/a"],
        &["destination", "downloads/nowhere"],
    ),
    wrong(
        &[URL, "-o", "downloads/nowhere/"],
        &["destination", "downloads/nowhere"],
    ),
    wrong(&[URL, "-o", "downloads/file/a"], &["destination", "downloads/file"]),
    wrong(&[URL, "-o", "downloads/../a"], &["destination", ".."]),
    wrong(&[URL, "-o", ""], &["--output"]),
    wrong(
        &["--root", "downloads/folder", "add", URL, "-o", "downloads/a"],
        &["destination", "downloads/a", "outside"],
    ),
    // ---- the file that is there already, and the rule for it
    wrong(
        &[URL, "-o", "downloads/file"],
        &["destination", "downloads/file", "--collision"],
    ),
    wrong(
        &[URL, "-o", "downloads/a", "--collision", "maybe"],
        &["collision", "maybe", "fail"],
    ),
    // ---- digest
    wrong(&[URL, "-o", "downloads/a", "--sha256", "abc"], &["sha256", "abc", "64"]),
    wrong(&[URL, "-o", "downloads/a", "--sha256", "zz"], &["sha256", "zz"]),
    wrong(
        &[URL, "http://127.0.0.1:9/b", "-o", "downloads/", "--sha256", DIGEST],
        &["sha256"],
    ),
    wrong(
        &[URL, "-o", "downloads/a", "--digest", "abc"],
        &["digest", "abc", "ALGORITHM:VALUE"],
    ),
    wrong(
        &[URL, "-o", "downloads/a", "--digest", "md5:00"],
        &["digest", "md5", "sha-512"],
    ),
    wrong(
        &[URL, "-o", "downloads/a", "--digest", "sha-512:00"],
        &["digest", "128 hexadecimal"],
    ),
    wrong(
        &[
            URL,
            "-o",
            "downloads/a",
            "--sha256",
            DIGEST,
            "--digest",
            "sha-256:0000000000000000000000000000000000000000000000000000000000000000",
        ],
        &["digest", "sha-256:0000", "another value"],
    ),
    // ---- mirrors
    wrong(
        &[URL, "-o", "downloads/a", "--mirror", "nonsense"],
        &["mirror", "nonsense", "https://"],
    ),
    wrong(
        &[URL, "-o", "downloads/a", "--mirror", "gopher://h/a"],
        &["mirror", "gopher", "http"],
    ),
    wrong(
        &[URL, "-o", "downloads/a", "--mirror", "http://ann:hush@h/a"],
        &["mirror", "http://h/a", "user name"],
    ),
    wrong(&[URL, "-o", "downloads/a", "--mirror", URL], &["mirror", URL, "twice"]),
    wrong(
        &[
            URL,
            "http://127.0.0.1:9/b",
            "-o",
            "downloads/",
            "--mirror",
            "http://h/a",
        ],
        &["mirror"],
    ),
    // ---- words
    wrong(
        &[URL, "-o", "downloads/a", "--priority", "urgent"],
        &["priority", "urgent", "high"],
    ),
    wrong(&[URL, "-o", "downloads/a", "--size", "big"], &["size", "big"]),
    wrong(
        &[URL, "-o", "downloads/a", "--size", "9223372036854775808"],
        &["size", "9223372036854775808", "at most 9223372036854775807"],
    ),
    // ---- errors that can be mended, and the type that is expected
    wrong(
        &[URL, "-o", "downloads/a", "--recoverable", "403,teapot"],
        &["recoverable", "teapot", "Forbidden"],
    ),
    wrong(
        &[URL, "-o", "downloads/a", "--recoverable", "418"],
        &["recoverable", "418"],
    ),
    wrong(
        &[URL, "-o", "downloads/a", "--recoverable", "DiskFull"],
        &["recoverable", "DiskFull", "mended"],
    ),
    wrong(
        &[URL, "-o", "downloads/a", "--type", "zip"],
        &["type", "zip", "application/zip"],
    ),
    wrong(&[URL, "-o", "downloads/a", "--type", "*/*"], &["type", "*/*"]),
    // ---- shape of the command
    wrong(&["-o", "downloads/a"], &["url"]),
    wrong(&[URL, "-o", "downloads/a", "--unknown"], &["--unknown"]),
    wrong(
        &[URL, "http://127.0.0.1:9/b", "-o", "downloads/a"],
        &["output", "downloads/a", "/"],
    ),
    wrong(&["-i", "nowhere.txt", "-o", "downloads/"], &["nowhere.txt"]),
];

/// Wrong arguments of `run`; `get` checks the same.
const WRONG_RUNNING: &[Case] = &[
    wrong(&["--jobs", "0"], &["jobs", "0"]),
    wrong(&["--jobs", "many"], &["jobs", "many"]),
    wrong(&["--jobs-per-host", "0"], &["jobs-per-host", "0"]),
    wrong(&["--jobs-per-host", "257"], &["jobs-per-host", "257"]),
    wrong(&["--memory-limit", "little"], &["memory-limit", "little", "M"]),
    wrong(&["--memory-limit", "5M"], &["memory-limit", "5M", "6M"]),
    wrong(&["--memory-limit", "2048G"], &["memory-limit", "2048G", "1024G"]),
    wrong(&["--flash-friendly=very"], &["flash-friendly", "very"]),
    wrong(&["--limit-rate", "fast"], &["limit-rate", "fast", "M"]),
    wrong(&["--limit-rate", "0"], &["limit-rate", "0"]),
    wrong(&["--limit-rate", "1T"], &["limit-rate", "1T"]),
];

/// A home in which the paths of [`WRONG`] exist, with one operation that must be there afterwards as it was.
fn prepared() -> Home {
    let home = Home::new();
    fs::create_dir(home.download("folder")).unwrap();
    symlink("file", home.download("link")).unwrap();
    fs::write(home.download("file"), "kept").unwrap();
    home.add("http://127.0.0.1:9/first", &home.download("first"), &["--hold"]);
    home
}

/// The commands that a wrong input is given to, with the case for each.
fn all_wrong() -> Vec<(Vec<&'static str>, &'static Case)> {
    let mut all = Vec::new();
    for command in ["add", "get"] {
        for case in WRONG {
            let mut arguments = case.given.to_vec();
            match arguments.iter_mut().find(|argument| **argument == "add") {
                Some(found) => *found = command,
                None => arguments.insert(0, command),
            }
            all.push((arguments, case));
        }
    }
    for prefix in [&["run", "--until-idle"][..], &["get", URL, "-o", "downloads/a"]] {
        all.extend(WRONG_RUNNING.iter().map(|case| ([prefix, case.given].concat(), case)));
    }
    all
}

/// What is wrong with the answer to a wrong input.
fn complaints(ended: &Ended, case: &Case) -> Vec<String> {
    let mut complaints = Vec::new();
    if ended.code() != Some(2) {
        complaints.push("the exit code is not 2".to_owned());
    }
    if ended.stderr.lines().count() != 1 || !ended.stderr.starts_with("backhaul: ") || !ended.stdout.is_empty() {
        complaints.push("not one line on stderr that begins with 'backhaul: ', and nothing on stdout".to_owned());
    }
    let missing = case.says.iter().filter(|text| !ended.stderr.contains(**text));
    complaints.extend(missing.map(|text| format!("nothing is said of '{text}'")));
    complaints
}

#[test]
fn wrong_arguments_are_refused_by_one_line_that_names_them_and_change_nothing() {
    let home = prepared();
    let (operations, files) = (home.listing(), names_in(&home.downloads()));
    let mut wrongs = Vec::new();
    for (arguments, case) in all_wrong() {
        let ended = home.run(&arguments);
        let mut found = complaints(&ended, case);
        if home.listing() != operations || names_in(&home.downloads()) != files {
            found.push("something has changed".to_owned());
        }
        if !found.is_empty() {
            let (code, stderr) = (ended.code(), ended.stderr);
            wrongs.push(format!(
                "{arguments:?}: {}; code {code:?}, stderr: {stderr}",
                found.join("; ")
            ));
        }
    }
    assert!(
        wrongs.is_empty(),
        "{} wrong answers:\n{}",
        wrongs.len(),
        wrongs.join("\n")
    );
    assert_eq!(fs::read(home.download("file")).unwrap(), b"kept");
}

#[test]
fn wrong_input_makes_no_state_directory() {
    for (arguments, _) in all_wrong() {
        // The same paths exist, but nothing was ever added.
        let home = Home::new();
        fs::create_dir(home.download("folder")).unwrap();
        symlink("file", home.download("link")).unwrap();
        fs::write(home.download("file"), "kept").unwrap();
        let ended = home.run(&arguments);
        assert_eq!(ended.code(), Some(2), "{arguments:?}: {}", ended.stderr);
        assert!(!home.state().join("journal").exists(), "{arguments:?} began a journal");
    }
}

#[test]
fn secrets_are_not_repeated_in_the_complaint() {
    let home = Home::new();
    for given in [
        ["gopher://ann:hunter2@host/a", "--priority", "low"],
        [URL, "--secret-header", "X-Key hunter2"],
        [URL, "--secret-header", "X-Key: hunter2\r\nX: y"],
        [URL, "--header", "Authorization: hunter2\nX: y"],
        ["http://ann:hunter2@host:port/a", "--priority", "low"],
        ["http://ann:hunter2#x@host/a", "--priority", "low"],
        ["http://ann:hunter2?x@host/a", "--priority", "low"],
        [URL, "--mirror", "http://ann:hunter2#x@host/a"],
        [URL, "--secret-header", "Authorization Bearer hunter2:x"],
        [URL, "--header", "X-Key=hunter2: x"],
    ] {
        let mut arguments = vec!["add", "-o", "downloads/a"];
        arguments.extend(given);
        let ended = home.run(&arguments).expect_code(2);
        assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    }
}

#[test]
fn an_unknown_id_is_named_and_has_an_exit_code_of_its_own() {
    let home = prepared();
    let operations = home.listing();
    for command in [
        "start", "pause", "resume", "cancel", "remove", "ack", "show", "explain", "wait",
    ] {
        let ended = home.run(&[command, ID]).expect_code(3);
        assert!(
            ended.stderr.starts_with("backhaul: id") && ended.stderr.contains(ID),
            "{command}: {}",
            ended.stderr
        );
        assert_eq!(ended.stderr.lines().count(), 1, "{command}: {}", ended.stderr);
        let ended = home.run(&[command, "not-an-id"]).expect_code(2);
        assert!(
            ended.stderr.contains("not-an-id") && ended.stderr.contains("32"),
            "{command}: {}",
            ended.stderr
        );
    }
    assert_eq!(home.listing(), operations);
}

#[test]
fn one_unknown_id_among_known_ones_changes_none_of_them() {
    let home = prepared();
    let before = home.listing();
    let known = before[0]["id"].as_str().unwrap().to_owned();
    home.run(&["cancel", &known, ID]).expect_code(3);
    assert_eq!(home.listing(), before);
}

#[test]
fn a_second_operation_for_the_same_destination_or_url_is_refused_with_the_id_of_the_first() {
    let home = Home::new();
    let id = home.add("http://127.0.0.1:9/a%7Eb", &home.download("a"), &["--hold"]);
    for (url, destination) in [
        ("http://127.0.0.1:9/other", "downloads/a"),
        ("HTTP://127.0.0.1:9/a~b#top", "downloads/b"),
    ] {
        let ended = home.run(&["add", url, "-o", destination]).expect_code(7);
        assert!(ended.stderr.contains(&id), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    }
    assert_eq!(home.listing().len(), 1);
}

#[test]
fn what_the_state_of_an_operation_does_not_allow_is_refused() {
    let home = Home::new();
    let id = home.add("http://127.0.0.1:9/a", &home.download("a"), &["--hold"]);
    home.run(&["ack", &id]).expect_code(7);
    home.run(&["resume", &id]).expect_code(7);
    home.run(&["cancel", &id]).expect_code(0);
    for command in ["start", "pause", "resume", "cancel"] {
        let ended = home.run(&[command, &id]).expect_code(7);
        assert!(ended.stderr.contains(&id), "{command}: {}", ended.stderr);
    }
    assert_eq!(home.operation()["status"], "Canceled");
}

#[test]
fn a_bad_line_refuses_the_whole_list_by_its_number() {
    let home = Home::new();
    let good = "http://127.0.0.1:9/good downloads/good\n";
    for (line, says) in [
        ("nonsense", "nonsense"),
        ("gopher://host/a", "gopher"),
        ("http://127.0.0.1:9/b downloads/nowhere/b", "downloads/nowhere"),
        ("http://127.0.0.1:9/good\tdownloads/other", "http://127.0.0.1:9/good"),
        ("http://127.0.0.1:9/b\tdownloads/good", "downloads/good"),
    ] {
        let list = format!("# a comment\n\n{good}{line}\n");
        for command in ["add", "get"] {
            let mut list_command = home.command(&[command, "-i", "-"]);
            let ended = Running::spawn_with_input(&mut list_command, list.as_bytes())
                .finish()
                .expect_code(2);
            assert!(
                ended.stderr.contains("line 4"),
                "{line}: no line number: {}",
                ended.stderr
            );
            assert!(ended.stderr.contains(says), "{line}: {}", ended.stderr);
            assert_eq!(ended.stderr.lines().count(), 1, "{line}: {}", ended.stderr);
            assert!(home.listing().is_empty(), "{line}: a part of the list was taken");
        }
    }
}

#[test]
fn what_is_wrong_far_down_a_long_list_refuses_all_of_it() {
    let home = Home::new();
    let lines: Vec<String> = (0..700)
        .map(|number| format!("http://127.0.0.1:9/{number} downloads/{number}"))
        .collect();
    home.run(&["add", "--hold", "http://127.0.0.1:9/other", "-o", "downloads/650"])
        .expect_code(0);
    let long = |last: &str| format!("{}\n{last}\n", lines.join("\n"));
    for (list, number, code) in [
        (long("http://127.0.0.1:9/3 downloads/more"), 701, 2),
        (long("http://127.0.0.1:9/more downloads/3"), 701, 2),
        (lines.join("\n"), 651, 7),
    ] {
        let mut command = home.command(&["add", "-i", "-"]);
        let ended = Running::spawn_with_input(&mut command, list.as_bytes()).finish();
        assert!(ended.stderr.contains(&format!("line {number}")), "{}", ended.stderr);
        ended.expect_code(code);
        assert_eq!(home.listing().len(), 1, "line {number}: a part of the list was taken");
    }
}

#[test]
fn duplicate_lines_of_a_list_are_skipped_with_a_note() {
    let home = Home::new();
    let list = "http://127.0.0.1:9/a downloads/a\nhttp://127.0.0.1:9/b downloads/b\nhttp://127.0.0.1:9/a downloads/a\n";
    let mut command = home.command(&["add", "--hold", "-i", "-"]);
    let ended = Running::spawn_with_input(&mut command, list.as_bytes())
        .finish()
        .expect_code(0);
    assert_eq!(ended.stdout.lines().count(), 2, "{}", ended.stdout);
    assert!(ended.stderr.contains("line 3"), "no note: {}", ended.stderr);
    assert_eq!(home.listing().len(), 2);
}

#[test]
fn a_file_that_is_given_beside_a_line_with_a_destination_of_its_own_is_refused() {
    let home = Home::new();
    for name in ["other", "downloads/one"] {
        let mut command = home.command(&["add", "--hold", "-i", "-", "-o", "downloads/one"]);
        let ended = Running::spawn_with_input(&mut command, format!("# head\n{URL} {name}\n").as_bytes())
            .finish()
            .expect_code(2);
        for word in ["output", "downloads/one", "line 2"] {
            assert!(ended.stderr.contains(word), "no {word}: {}", ended.stderr);
        }
        assert!(!home.state().exists());
    }
}

#[test]
fn a_list_that_is_not_text_is_refused() {
    let home = Home::new();
    let mut command = home.command(&["add", "-i", "-", "-o", "downloads/"]);
    let ended = Running::spawn_with_input(&mut command, b"http://127.0.0.1:9/a\n\xff\xfe\0\n")
        .finish()
        .expect_code(2);
    assert!(ended.stderr.contains("line 2"), "{}", ended.stderr);
    assert!(home.listing().is_empty());
}

#[test]
fn a_destination_that_cannot_be_written_is_refused() {
    let home = Home::new();
    let folder = home.download("locked");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    // Root may write everywhere; for root the read-only mount of the disk tests stands for this.
    let may_write = fs::write(folder.join("probe"), "").is_ok();
    let ended = home.run(&["add", URL, "-o", "downloads/locked/a", "--hold"]);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let ended = ended.expect_code(if may_write { 0 } else { 2 });
    assert!(
        may_write || ended.stderr.contains("downloads/locked"),
        "{}",
        ended.stderr
    );
}

#[test]
fn destinations_inside_a_root_are_taken_and_tricks_are_not() {
    let home = Home::new();
    fs::create_dir(home.download("in")).unwrap();
    fs::create_dir(home.download("out")).unwrap();
    symlink("../out", home.download("in/way-out")).unwrap();
    let root = home.download("in");
    let with_root = |destination: &str| {
        home.run(&[
            "--root",
            root.to_str().unwrap(),
            "add",
            URL,
            "--hold",
            "-o",
            destination,
        ])
    };
    for destination in [
        "downloads/in/way-out/a",
        "downloads/in/../out/a",
        "downloads/inside",
        "/tmp/a",
    ] {
        let ended = with_root(destination).expect_code(2);
        assert!(
            ended.stderr.starts_with("backhaul: destination"),
            "{destination}: {}",
            ended.stderr
        );
    }
    assert!(home.listing().is_empty());
    with_root("downloads/in/a").expect_code(0);
}

#[test]
fn a_socket_that_cannot_be_is_refused_before_anything_is_created() {
    let home = Home::new();
    fs::write(home.path().join("file"), "").unwrap();
    let long = "s".repeat(200);
    let commands: [&[&str]; 3] = [
        &["get", URL, "-o", "downloads/a"],
        &["run", "--until-idle"],
        &["daemon"],
    ];
    for (socket, problem) in [("file", "is no socket"), (&long, "has ")] {
        for command in commands {
            let ended = home.run(&[&["--socket", socket], command].concat()).expect_code(2);
            for word in ["socket '", problem, "--socket"] {
                assert!(ended.stderr.contains(word), "{command:?}: no {word}: {}", ended.stderr);
            }
            assert!(!home.state().exists(), "{command:?}: something was made");
        }
    }
}

#[test]
fn a_state_directory_of_another_format_is_refused_and_left_alone() {
    let home = Home::new();
    home.add("http://127.0.0.1:9/a", &home.download("a"), &["--hold"]);
    let journal = home.state().join("journal");
    let segments: Vec<_> = names_in(&journal).into_iter().map(|name| journal.join(name)).collect();
    assert!(!segments.is_empty());
    // The version is a number of two bytes at offset 8, and the header ends with its CRC-32.
    for segment in segments
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
    {
        let mut bytes = fs::read(segment).unwrap();
        bytes[8..10].copy_from_slice(&0x77_u16.to_le_bytes());
        let sum = crc32(&bytes[..60]);
        bytes[60..64].copy_from_slice(&sum.to_le_bytes());
        fs::write(segment, bytes).unwrap();
    }
    let before: Vec<_> = segments.iter().map(|path| fs::read(path).unwrap()).collect();
    for arguments in [
        &["add", "http://127.0.0.1:9/b", "-o", "downloads/b"][..],
        &["list"],
        &["run", "--until-idle"],
    ] {
        let ended = home.run(arguments).expect_code(5);
        assert_eq!(ended.stderr.lines().count(), 1, "{arguments:?}: {}", ended.stderr);
        assert!(
            ended.stderr.contains(journal.to_str().unwrap()),
            "{arguments:?}: {}",
            ended.stderr
        );
    }
    let after: Vec<_> = segments.iter().map(|path| fs::read(path).unwrap()).collect();
    assert_eq!(before, after, "a refused state directory was changed");
}

/// The common CRC-32, bit by bit, independent of the one under test.
fn crc32(bytes: &[u8]) -> u32 {
    let fold = |sum: u32, byte: &u8| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0xEDB8_8320 & (sum & 1).wrapping_neg())
        })
    };
    !bytes.iter().fold(!0, fold)
}

#[test]
fn a_state_directory_that_cannot_be_made_is_named() {
    let home = Home::new();
    fs::write(home.state(), "a file").unwrap();
    let ended = home.run(&["add", URL, "-o", "downloads/a"]).expect_code(2);
    assert!(ended.stderr.contains("state-dir"), "{}", ended.stderr);
    assert!(
        ended.stderr.contains(home.state().to_str().unwrap()),
        "{}",
        ended.stderr
    );
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    assert_eq!(fs::read(home.state()).unwrap(), b"a file");
}

#[test]
fn names_chosen_by_the_server_or_the_url_never_leave_the_folder() {
    let nginx = Nginx::start();
    nginx.put("a/b.txt", b"x");
    for url in ["/a/..%2f..%2fevil", "/%2e%2e", "/a/%00x", "/a/"] {
        let home = Home::new();
        let ended = home.run(&["add", "--hold", &nginx.url(url), "-o", "downloads/"]);
        if ended.code() == Some(0) {
            let shown = home.listing();
            let destination = shown.last().unwrap()["destination"].as_str().unwrap().to_owned();
            let destination = Path::new(&destination);
            assert_eq!(
                destination.parent(),
                Some(home.downloads().as_path()),
                "{url}: {}",
                destination.display()
            );
            assert!(destination.file_name().is_some(), "{url}: {}", destination.display());
        } else {
            ended.expect_code(2);
        }
    }
}

#[test]
fn a_level_of_the_log_that_is_none_is_refused_and_an_empty_one_is_not_given() {
    let home = Home::new();
    let mut wrong = home.command(&["list"]);
    let ended = Running::spawn(wrong.env("BACKHAUL_LOG", "warning"))
        .finish()
        .expect_code(2);
    assert!(ended.stderr.contains("BACKHAUL_LOG 'warning'"), "{}", ended.stderr);
    assert!(!home.state().exists());
    let mut empty = home.command(&["list"]);
    Running::spawn(empty.env("BACKHAUL_LOG", "")).finish().expect_code(0);
}
