//! What is promised of every FTP server, whatever it is. Each server's module has all of these tests by the macro at the end.

use std::fs;
use std::io::Write;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::server::{Kind, Options, PASSWORD, PASSWORD_IN_URL, Server};
use crate::support::{Home, Seeded, assert_same, figure, names_in, until};
use crate::visit::{Stop, Visit, WINDOW_BYTES, assert_continued, assert_restarted};

/// Long enough that a kill may cost a whole window and still leave something to continue.
pub(crate) const LONG_BYTES: usize = 24 << 20;
const LONG_STOP_BYTES: u64 = 20 << 20;

/// Long enough to be claimed in parts.
pub(crate) const SHORT_BYTES: usize = 3 << 20;
pub(crate) const SHORT_STOP_BYTES: u64 = 2 << 20;

/// New lengths of a file that changes, in bytes: the same one; less than what is held; less, and more than what is held;
/// more.
const CHANGES: [usize; 4] = [SHORT_BYTES, 1 << 20, (5 << 20) / 2, 4 << 20];

/// Names that mean something to a URL, to a shell, to a listing, or to nobody: the file's, and how a URL has it.
const NAMES: &[(&str, &str)] = &[
    ("two words.bin", "two%20words.bin"),
    ("100% of it.bin", "100%25%20of%20it.bin"),
    ("%41.bin", "%2541.bin"),
    ("Grüße.bin", "Gr%C3%BC%C3%9Fe.bin"),
    ("number #1.bin", "number%20%231.bin"),
    ("what?.bin", "what%3F.bin"),
    ("plus+and&more=;x.bin", "plus+and&more=;x.bin"),
    (".hidden", ".hidden"),
    ("folder/in it/[1] it's.bin", "folder/in%20it/%5B1%5D%20it's.bin"),
    ("-l", "-l"),
];

pub(crate) fn whole_files_come_as_they_are(server: &Server) {
    for length in [0, 1, 70_000, SHORT_BYTES] {
        let name = format!("whole-{length}.bin");
        let bytes = server.put_seeded(&name, length);
        let visit = Visit::new(server, &name);
        let shown = visit.complete(&bytes);
        assert_continued(&visit, &shown, &bytes, 0);
        assert_eq!(shown["attempts"], 1, "{shown}");
    }
}

pub(crate) fn names_of_all_kinds_are_fetched_under_their_names(server: &Server) {
    let home = Home::new();
    let mut list = String::new();
    for (number, (name, encoded)) in NAMES.iter().enumerate() {
        server.put_seeded(name, 100 + number);
        list.push_str(&server.url("ftp", &server.login(), encoded));
        list.push('\n');
    }
    fs::write(home.path().join("list"), list).unwrap();
    let folder = format!("{}/", home.downloads().display());
    home.run(&["get", "-q", "-i", "list", "-o", &folder]).expect_code(0);
    for (number, (name, _)) in NAMES.iter().enumerate() {
        let name = name.rsplit('/').next().unwrap();
        let length = 100 + number;
        assert_same(&home.download(name), &Seeded::new(length as u64).bytes(length));
    }
    assert_eq!(names_in(&home.downloads()).len(), NAMES.len());
}

pub(crate) fn a_kill_costs_a_window_at_most(server: &Server) {
    let bytes = server.put_seeded("long.bin", LONG_BYTES);
    let visit = Visit::new(server, "long.bin");
    visit.stop_after(LONG_STOP_BYTES, Stop::Kill);
    let shown = visit.complete(&bytes);
    assert_continued(&visit, &shown, &bytes, WINDOW_BYTES);
    figure(&format!(
        "{:?}, killed at 20 of 24 MiB: {} KiB fetched again, at most 16384",
        server.kind(),
        visit.fetched_again(&bytes) >> 10,
    ));
}

pub(crate) fn an_orderly_stop_costs_nothing(server: &Server) {
    let bytes = server.put_seeded("stopped.bin", SHORT_BYTES);
    let visit = Visit::new(server, "stopped.bin");
    let claimed = visit.stop_after(SHORT_STOP_BYTES, Stop::Terminate);
    assert!(claimed > SHORT_STOP_BYTES / 2, "only {claimed} bytes are claimed");
    let shown = visit.complete(&bytes);
    assert_continued(&visit, &shown, &bytes, 0);
    let commands = visit.relay.commands();
    assert!(commands.iter().any(|line| line.starts_with("REST ")), "{commands:?}");
}

/// Which connections a network loses.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lost {
    Data,
    Control,
    Both,
}

pub(crate) fn a_cut_connection_costs_nothing(server: &Server, lost: Lost) {
    let bytes = server.put_seeded("cut.bin", SHORT_BYTES);
    let visit = Visit::new(server, "cut.bin");
    let running = visit.hold_after(SHORT_STOP_BYTES);
    match lost {
        Lost::Data => visit.relay.cut_data(),
        Lost::Control => visit.relay.cut_control(),
        Lost::Both => visit.relay.cut(),
    }
    visit.relay.release();
    running.finish().expect_code(0);
    let shown = visit.check(&bytes);
    assert_eq!(shown["attempts"], 2, "{lost:?}: {shown}");
    assert_continued(&visit, &shown, &bytes, 0);
}

pub(crate) fn a_changed_file_is_never_mixed(server: &Server) {
    for length in CHANGES {
        let name = format!("changed-{length}.bin");
        let old = server.put_seeded(&name, SHORT_BYTES);
        let visit = Visit::new(server, &name);
        let claimed = visit.stop_after(SHORT_STOP_BYTES, Stop::Terminate);
        // Of the same length, it differs only where nobody looks for it: its time alone tells.
        let new = if length == old.len() {
            with_another_beginning(&old)
        } else {
            Seeded::new(99).bytes(length)
        };
        server.put(&name, &new, Duration::from_secs(1800));
        let shown = visit.complete(&new);
        assert_restarted(&shown, claimed);
    }
}

fn with_another_beginning(bytes: &[u8]) -> Vec<u8> {
    let mut other = bytes.to_vec();
    for byte in &mut other[..1000] {
        *byte = !*byte;
    }
    other
}

/// A file that is as long as before, as old as before and another one: only its last held bytes can tell. If even those are
/// the same, nothing does: whoever sets the times of files back can hide a change from FTP.
pub(crate) fn a_file_of_the_same_length_and_time_is_told_by_its_bytes(server: &Server) {
    let changed = SystemTime::now() - Duration::from_secs(3600);
    let [old, new] = [1, 2].map(|seed| Seeded::new(seed).bytes(SHORT_BYTES));
    server.put_changed_at("same.bin", &old, changed);
    let visit = Visit::new(server, "same.bin");
    let claimed = visit.stop_after(SHORT_STOP_BYTES, Stop::Terminate);
    server.put_changed_at("same.bin", &new, changed);
    let shown = visit.complete(&new);
    assert_restarted(&shown, claimed);
}

pub(crate) fn a_time_that_is_too_young_is_no_proof(server: &Server) {
    // As by the clock of a server that is ahead, which leaves the test all the time it needs.
    let changed = SystemTime::now() + Duration::from_secs(3600);
    let first = Seeded::new(1).bytes(SHORT_BYTES);
    let second = with_another_beginning(&first);
    server.put_changed_at("young.bin", &first, changed);
    let visit = Visit::new(server, "young.bin");
    let claimed = visit.stop_after(SHORT_STOP_BYTES, Stop::Terminate);
    server.put_changed_at("young.bin", &second, changed);
    let shown = visit.complete(&second);
    assert_restarted(&shown, claimed);
}

/// The server goes on reading a file that is written anew under its hands.
pub(crate) fn a_file_overwritten_while_it_is_sent_is_never_published_mixed(server: &Server) {
    let old = server.put_seeded("overwritten.bin", LONG_BYTES);
    let visit = Visit::new(server, "overwritten.bin");
    let running = visit.hold_after(SHORT_STOP_BYTES);
    let new = Seeded::new(99).bytes(LONG_BYTES);
    let mut file = fs::File::options()
        .write(true)
        .open(server.file("overwritten.bin"))
        .unwrap();
    file.write_all(&new).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(1800))
        .unwrap();
    assert_ne!(old[..1000], new[..1000]);
    visit.relay.release();
    running.finish().expect_code(0);
    let shown = visit.check(&new);
    assert_eq!(shown["restarts"], 1, "{shown}");
}

/// Whoever replaces a file properly leaves those that read it with the old one.
pub(crate) fn a_file_replaced_while_it_is_sent_is_never_published_mixed(server: &Server) {
    let old = server.put_seeded("replaced.bin", LONG_BYTES);
    let visit = Visit::new(server, "replaced.bin");
    let running = visit.hold_after(SHORT_STOP_BYTES);
    let new = Seeded::new(99).bytes(LONG_BYTES - 1000);
    server.put("replaced.bin", &new, Duration::from_secs(1800));
    visit.relay.release();
    running.finish().expect_code(0);
    let found = fs::read(visit.home.download("file")).unwrap();
    assert!(found == old || found == new, "neither the old nor the new file");
}

pub(crate) fn a_file_cut_short_while_it_is_sent_is_fetched_anew(server: &Server) {
    let old = server.put_seeded("cut-short.bin", LONG_BYTES);
    let visit = Visit::new(server, "cut-short.bin");
    let running = visit.hold_after(SHORT_STOP_BYTES);
    // What the server has read ahead is much less than the rest.
    let file = fs::File::options()
        .write(true)
        .open(server.file("cut-short.bin"))
        .unwrap();
    file.set_len(SHORT_BYTES as u64).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(1800))
        .unwrap();
    visit.relay.release();
    running.finish().expect_code(0);
    let shown = visit.check(&old[..SHORT_BYTES]);
    assert_eq!(shown["restarts"], 1, "{shown}");
}

pub(crate) fn what_is_not_there_and_what_is_no_file_say_so(server: &Server) {
    fs::create_dir(server.file("folder")).unwrap();
    let home = Home::new();
    for path in ["missing.bin", "missing/too.bin", "folder"] {
        let url = server.url("ftp", &server.login(), path);
        let ended = home.run(&["get", &url, "-o", "downloads/none"]).expect_code(1);
        assert!(ended.stderr.contains("550"), "{path}: {}", ended.stderr);
        assert_eq!(names_in(&home.downloads()), Vec::<String>::new(), "{path}");
    }
    for shown in home.listing() {
        assert_eq!(
            json!([shown["status"], shown["error"]["status"], shown["error"]["code"]]),
            json!(["Error", "NotFound", 550]),
            "{shown}"
        );
    }
}

/// A server that lets nobody in without a password.
pub(crate) fn locked(kind: Kind) -> Option<Server> {
    let options = Options {
        locked: true,
        ..Options::default()
    };
    Server::start_with(kind, &options)
}

pub(crate) fn a_user_with_a_password_gets_in(server: &Server) {
    let bytes = server.put_seeded("mine.bin", SHORT_BYTES);
    let login = format!("{}:{PASSWORD_IN_URL}@", server.user());
    let visit = Visit::with_login(server, &login, "mine.bin");
    visit.stop_after(SHORT_STOP_BYTES, Stop::Terminate);
    let shown = visit.complete(&bytes);
    assert_continued(&visit, &shown, &bytes, 0);
    let commands = visit.relay.commands();
    for line in [format!("USER {}", server.user()), format!("PASS {PASSWORD}")] {
        assert!(commands.contains(&line), "{line} is not among {commands:?}");
    }
}

pub(crate) fn a_wrong_password_is_refused_and_can_be_mended(server: &Server) {
    let bytes = server.put_seeded("mine.bin", 70_000);
    let user = server.user();
    let home = Home::new();
    let destination = home.download("file");
    let wrong = server.url("ftp", &format!("{user}:wr0ng@"), "mine.bin");
    let right = server.url("ftp", &format!("{user}:{PASSWORD_IN_URL}@"), "mine.bin");

    let id = home.add(&wrong, &destination, &["--recoverable", "Unauthorized"]);
    home.run(&["run", "--until-idle"]);
    let shown = home.operation();
    assert_eq!(
        json!([shown["status"], shown["error"]["status"], shown["error"]["code"]]),
        json!(["PausedRecoverableWebErrorStatus", "Unauthorized", 530]),
        "{shown}"
    );
    home.run(&["set", &id, "--url", &right]).expect_code(0);
    home.run(&["resume", &id]).expect_code(0);
    home.run(&["run", "--until-idle"]).expect_code(0);
    assert_same(&destination, &bytes);
    assert_eq!(home.operation()["status"], "Completed");
}

pub(crate) fn a_password_stands_nowhere(server: &Server) {
    let bytes = server.put_seeded("mine.bin", SHORT_BYTES);
    let login = format!("{}:{PASSWORD_IN_URL}@", server.user());
    let visit = Visit::with_login(server, &login, "mine.bin");
    let mut said = String::new();
    let mut command = visit.home.command(&["-vv", "get", &visit.url, "-o", "downloads/file"]);
    visit.relay.hold_after(SHORT_STOP_BYTES);
    command.env("RUST_LOG", "trace").env("BACKHAUL_LOG", "trace");
    let running = crate::support::Running::spawn(&mut command);
    until("the held part of the file", || {
        (crate::visit::stored_bytes(&visit.home) > SHORT_STOP_BYTES / 2).then_some(())
    });
    visit.relay.cut();
    visit.relay.release();
    let ended = running.finish().expect_code(0);
    said.push_str(&ended.stdout);
    said.push_str(&ended.stderr);
    assert_same(&visit.home.download("file"), &bytes);
    // One that fails, too.
    let missing = visit.url.replace("mine.bin", "missing.bin");
    let mut command = visit.home.command(&["-vv", "get", &missing, "-o", "downloads/none"]);
    command.env("RUST_LOG", "trace").env("BACKHAUL_LOG", "trace");
    let ended = crate::support::Running::spawn(&mut command).finish().expect_code(1);
    said.push_str(&ended.stdout);
    said.push_str(&ended.stderr);
    let more: [&[&str]; 3] = [&["list", "--json"], &["explain"], &["journal", "dump"]];
    for arguments in more {
        let ended = visit.home.run(arguments);
        said.push_str(&ended.stdout);
        said.push_str(&ended.stderr);
    }
    assert!(said.contains("missing.bin"), "nothing was said at all");
    assert_free_of_password("what was said", said.as_bytes());
    let mut folders = vec![visit.home.path().to_owned()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                assert_free_of_password(&path.display().to_string(), &fs::read(&path).unwrap());
                files += 1;
            }
        }
    }
    assert!(
        files > 2,
        "only {files} files: neither journal nor download was looked at"
    );
}

/// The password in none of the forms that it takes on its way.
fn assert_free_of_password(place: &str, text: &[u8]) {
    let base64 = |text: &str| data_encoding::BASE64.encode(text.as_bytes());
    let forms = [
        PASSWORD.to_owned(),
        PASSWORD_IN_URL.to_owned(),
        PASSWORD_IN_URL.to_lowercase(),
        PASSWORD.replace('%', "%25").replace(' ', "%20"),
        // Its beginning, which no encoding of URLs changes.
        "sesame".to_owned(),
        base64(PASSWORD),
        data_encoding::HEXLOWER.encode(PASSWORD.as_bytes()),
    ];
    for form in forms {
        let found = text.windows(form.len()).any(|window| window == form.as_bytes());
        assert!(!found, "{place}: the password stands in it, as {form}");
    }
}

pub(crate) fn an_end_that_was_cut_off_is_not_taken_for_the_end(server: &Server) {
    // The whole file came, and the connection over which the server would have said so is gone.
    let bytes = server.put_seeded("unsaid.bin", SHORT_BYTES);
    let visit = Visit::new(server, "unsaid.bin");
    let running = visit.hold_after(SHORT_BYTES as u64 - 1);
    visit.relay.cut_control();
    visit.relay.release();
    running.finish().expect_code(0);
    let shown = visit.check(&bytes);
    assert_eq!(
        (&shown["attempts"], &shown["restarts"]),
        (&2.into(), &0.into()),
        "{shown}"
    );
}

/// What of `show --json` says how it went.
pub(crate) fn outcome(shown: &Value) -> Value {
    json!([shown["status"], shown["attempts"], shown["restarts"]])
}

/// The tests of one server.
macro_rules! promises_hold {
    ($kind:expr) => {
        use crate::promises as of;
        use crate::server::Server;

        fn with_usual(check: impl Fn(&Server)) {
            if let Some(server) = Server::start($kind) {
                check(&server);
            }
        }

        fn with_locked(check: impl Fn(&Server)) {
            if let Some(server) = of::locked($kind) {
                check(&server);
            }
        }

        #[test]
        fn whole_files_come_as_they_are() {
            with_usual(of::whole_files_come_as_they_are);
        }

        #[test]
        fn names_of_all_kinds_are_fetched_under_their_names() {
            with_usual(of::names_of_all_kinds_are_fetched_under_their_names);
        }

        #[test]
        fn a_kill_in_the_middle_costs_a_window_at_most() {
            with_usual(of::a_kill_costs_a_window_at_most);
        }

        #[test]
        fn an_orderly_stop_in_the_middle_fetches_nothing_again() {
            with_usual(of::an_orderly_stop_costs_nothing);
        }

        #[test]
        fn a_data_connection_cut_in_the_middle_is_made_again_and_continued() {
            with_usual(|server| of::a_cut_connection_costs_nothing(server, of::Lost::Data));
        }

        #[test]
        fn a_control_connection_cut_in_the_middle_is_made_again_and_continued() {
            with_usual(|server| of::a_cut_connection_costs_nothing(server, of::Lost::Control));
        }

        #[test]
        fn both_connections_cut_in_the_middle_are_made_again_and_continued() {
            with_usual(|server| of::a_cut_connection_costs_nothing(server, of::Lost::Both));
        }

        #[test]
        fn without_the_word_of_the_server_a_file_is_not_taken_for_whole() {
            with_usual(of::an_end_that_was_cut_off_is_not_taken_for_the_end);
        }

        #[test]
        fn a_file_that_changed_in_between_is_fetched_anew_and_never_mixed() {
            with_usual(of::a_changed_file_is_never_mixed);
        }

        #[test]
        fn a_file_of_the_same_length_and_time_is_told_by_its_bytes() {
            with_usual(of::a_file_of_the_same_length_and_time_is_told_by_its_bytes);
        }

        #[test]
        fn a_time_that_is_too_young_is_no_proof() {
            with_usual(of::a_time_that_is_too_young_is_no_proof);
        }

        #[test]
        fn a_file_overwritten_while_it_is_sent_is_never_published_mixed() {
            with_usual(of::a_file_overwritten_while_it_is_sent_is_never_published_mixed);
        }

        #[test]
        fn a_file_replaced_while_it_is_sent_is_never_published_mixed() {
            with_usual(of::a_file_replaced_while_it_is_sent_is_never_published_mixed);
        }

        #[test]
        fn a_file_cut_short_while_it_is_sent_is_fetched_anew() {
            with_usual(of::a_file_cut_short_while_it_is_sent_is_fetched_anew);
        }

        #[test]
        fn what_is_not_there_and_what_is_no_file_say_so() {
            with_usual(of::what_is_not_there_and_what_is_no_file_say_so);
        }

        #[test]
        fn a_user_with_a_password_gets_in() {
            with_locked(of::a_user_with_a_password_gets_in);
        }

        #[test]
        fn a_wrong_password_is_refused_and_can_be_mended() {
            with_locked(of::a_wrong_password_is_refused_and_can_be_mended);
        }

        #[test]
        fn a_password_stands_nowhere() {
            with_locked(of::a_password_stands_nowhere);
        }
    };
}

pub(crate) use promises_hold;
