//! vsftpd 3.0, and what is the same with any server: families of addresses, active mode, limits, many at once.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use backhaul_backends::{
    Backend, FtpBackend, FtpConfig, Head, Held, Interrupt, Limits, Method, Refused, Request, Sink, Start,
};
use serde_json::json;

use crate::promises::{LONG_BYTES, SHORT_BYTES, SHORT_STOP_BYTES, outcome};
use crate::server::{Kind, Options};
use crate::support::{Home, Seeded, assert_same, figure, names_in, until};
use crate::visit::{Visit, WINDOW_BYTES, assert_continued, stored_bytes};

crate::promises::promises_hold!(Kind::Vsftpd);

fn with(lines: &[&str]) -> Option<Server> {
    let options = Options {
        lines,
        ..Options::default()
    };
    Server::start_with(Kind::Vsftpd, &options)
}

#[test]
fn a_wrong_password_ends_the_command_with_the_reply() {
    let Some(server) = of::locked(Kind::Vsftpd) else { return };
    server.put_seeded("mine.bin", 1000);
    let home = Home::new();
    let wrong = server.url("ftp", "anonymous:wr0ng@", "mine.bin");
    let ended = home.run(&["get", &wrong, "-o", "downloads/file"]).expect_code(1);
    assert!(ended.stderr.contains("530"), "{}", ended.stderr);
    let shown = home.operation();
    assert_eq!(
        json!([shown["status"], shown["error"]["status"], shown["error"]["code"]]),
        json!(["Error", "Unauthorized", 530]),
        "{shown}"
    );
}

/// Takes the first bytes of an answer, or all of them.
struct Taker {
    head: Option<Head>,
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl Sink for Taker {
    fn begin(&mut self, head: &Head) -> Result<(), Refused> {
        self.head = Some(head.clone());
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > self.bytes_max {
            Err(Refused)
        } else {
            Ok(())
        }
    }
}

/// Without the engine, which would fetch all that comes before.
#[test]
fn a_file_beyond_four_gib_is_gone_on_with_near_its_end() {
    let Some(server) = Server::start(Kind::Vsftpd) else {
        return;
    };
    let length = (4_u64 << 30) + (3 << 20);
    let mut file = fs::File::create(server.file("huge.bin")).unwrap();
    let end = Seeded::new(7).bytes(2 << 20);
    file.seek(SeekFrom::Start(length - end.len() as u64)).unwrap();
    file.write_all(&end).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600))
        .unwrap();

    let backend = FtpBackend::new(FtpConfig::default()).unwrap();
    let mut request = Request {
        url: server.url("ftp", "", "huge.bin"),
        method: Method::default(),
        body: None,
        headers: Vec::new(),
        credential: None,
        proxies: Arc::default(),
        held: None,
        expected_bytes: None,
        expected_type: None,
        limits: Limits::default(),
        buffer_bytes: 64 << 10,
    };
    let fetch = |request: &Request, bytes_max: usize| {
        let mut taker = Taker {
            head: None,
            bytes: Vec::new(),
            bytes_max,
        };
        let outcome = backend.download(request, &mut taker, &Interrupt::default());
        (taker, outcome)
    };
    let (first, _) = fetch(&request, 0);
    let validators = first.head.unwrap().validators;
    assert_eq!(validators.total_bytes, Some(length));
    let offset_bytes = length - (1 << 20);
    request.held = Some(Held {
        offset_bytes,
        tail: end[(1 << 20) - 1000..1 << 20].to_vec(),
        validators,
        ..Held::default()
    });
    let (rest, outcome) = fetch(&request, usize::MAX);
    outcome.unwrap();
    assert_eq!(rest.head.unwrap().start, Start::Continue { offset_bytes });
    assert!(rest.bytes == end[1 << 20..], "other bytes came");
}

#[test]
fn over_ipv6_a_file_comes_as_it_is() {
    let options = Options {
        v6: true,
        ..Options::default()
    };
    let Some(server) = Server::start_with(Kind::Vsftpd, &options) else {
        return;
    };
    let bytes = server.put_seeded("six.bin", SHORT_BYTES);
    let home = Home::new();
    for more in [&[][..], &["--ftp-active"]] {
        let mut arguments = vec!["get", "--collision", "replace", "-o", "downloads/file"];
        let url = server.url("ftp", "", "six.bin");
        arguments.push(&url);
        arguments.extend_from_slice(more);
        home.run(&arguments).expect_code(0);
        assert_same(&home.download("file"), &bytes);
        fs::remove_file(home.download("file")).unwrap();
        let id = home.operation()["id"].as_str().unwrap().to_owned();
        home.run(&["remove", &id]).expect_code(0);
    }
}

#[test]
fn where_extended_passive_mode_is_forbidden_the_old_one_is_used() {
    let Some(server) = with(&["cmds_denied=EPSV"]) else {
        return;
    };
    let bytes = server.put_seeded("old.bin", SHORT_BYTES);
    let visit = Visit::new(&server, "old.bin");
    let shown = visit.complete(&bytes);
    assert_eq!(outcome(&shown), json!(["Completed", 1, 0]), "{shown}");
    let commands = visit.relay.commands();
    assert!(commands.iter().any(|line| line == "PASV"), "{commands:?}");
}

#[test]
fn in_active_mode_the_server_connects_to_this_device_and_a_stop_costs_nothing() {
    // No command of passive mode is there.
    let Some(server) = with(&["pasv_enable=NO", "anon_max_rate=2000000"]) else {
        return;
    };
    let bytes = server.put_seeded("active.bin", SHORT_BYTES);
    let visit = Visit::new(&server, "active.bin").with(&["--ftp-active"]);
    let mut running = visit.start();
    until("some of the file", || {
        assert!(!running.has_ended(), "{}", visit.home.operation());
        (stored_bytes(&visit.home) > 1 << 20).then_some(())
    });
    running.signal(rustix::process::Signal::TERM);
    running.finish();
    let shown = visit.complete(&bytes);
    assert_eq!(outcome(&shown), json!(["Completed", 2, 0]), "{shown}");
    let commands = visit.relay.commands();
    let active = |line: &String| line.starts_with("EPRT ") || line.starts_with("PORT ");
    assert!(commands.iter().any(active), "{commands:?}");
    assert!(!commands.iter().any(|line| line.ends_with("PASV")), "{commands:?}");
}

#[test]
fn a_server_with_too_many_connections_is_waited_for() {
    let Some(server) = with(&["max_per_ip=1", "anon_max_rate=2000000"]) else {
        return;
    };
    let home = Home::new();
    let files: Vec<(String, Vec<u8>)> = (0..3)
        .map(|number| {
            let name = format!("file-{number}");
            let bytes = server.put_seeded(&name, 1_000_000 + number);
            home.add(&server.url("ftp", "", &name), &home.download(&name), &[]);
            (name, bytes)
        })
        .collect();
    home.run(&["run", "--until-idle", "--jobs", "3"]).expect_code(0);
    let mut attempts = 0;
    for (name, bytes) in &files {
        assert_same(&home.download(name), bytes);
    }
    for shown in home.listing() {
        attempts += shown["attempts"].as_u64().unwrap();
        assert_eq!(shown["restarts"], 0, "{shown}");
    }
    assert!(attempts > 3, "no connection was refused");
}

#[test]
fn fifty_downloads_by_several_jobs_all_come() {
    let Some(server) = Server::start(Kind::Vsftpd) else {
        return;
    };
    let home = Home::new();
    let mut list = String::new();
    for number in 0..50 {
        server.put_seeded(&format!("many-{number}"), number * 5000);
        list.push_str(&server.url("ftp", "", &format!("many-{number}\n")));
    }
    fs::write(home.path().join("list"), list).unwrap();
    let folder = format!("{}/", home.downloads().display());
    home.run(&["get", "-q", "--jobs", "8", "-i", "list", "-o", &folder])
        .expect_code(0);
    for number in 0..50 {
        let bytes = Seeded::new(number * 5000).bytes(usize::try_from(number * 5000).unwrap());
        assert_same(&home.download(&format!("many-{number}")), &bytes);
    }
    assert_eq!(names_in(&home.downloads()).len(), 50);
}

#[test]
fn a_transfer_is_paused_gone_on_with_and_cancelled() {
    let Some(server) = Server::start(Kind::Vsftpd) else {
        return;
    };
    let bytes = server.put_seeded("wished.bin", SHORT_BYTES);
    let visit = Visit::new(&server, "wished.bin");
    let destination = visit.home.download("file");
    let id = visit.home.add(&visit.url, &destination, &[]);
    visit.relay.hold_after(SHORT_STOP_BYTES);
    let daemon = visit.home.spawn(&["daemon"]);
    until("the held part", || {
        (stored_bytes(&visit.home) > SHORT_STOP_BYTES - (128 << 10)).then_some(())
    });
    visit.home.run(&["pause", &id]).expect_code(0);
    until("the pause", || {
        (visit.home.operation()["status"] == "PausedByApplication").then_some(())
    });
    visit.relay.cut();
    visit.relay.release();
    visit.home.run(&["resume", &id]).expect_code(0);
    visit.home.run(&["wait", &id, "--timeout", "60"]).expect_code(0);
    let shown = visit.check(&bytes);
    assert_continued(&visit, &shown, &bytes, 0);

    let other = visit.home.download("other");
    visit.relay.hold_after(SHORT_STOP_BYTES);
    let id = visit.home.add(&visit.url, &other, &[]);
    until("the held part", || {
        (stored_bytes(&visit.home) > SHORT_BYTES as u64 + SHORT_STOP_BYTES - (128 << 10)).then_some(())
    });
    visit.home.run(&["cancel", &id]).expect_code(0);
    until("the end of the part file", || {
        (names_in(&visit.home.downloads()) == ["file"]).then_some(())
    });
    visit.relay.release();
    drop(daemon);
}

#[test]
fn a_limit_of_the_rate_holds() {
    let Some(server) = Server::start(Kind::Vsftpd) else {
        return;
    };
    let bytes = server.put_seeded("slow.bin", SHORT_BYTES);
    let visit = Visit::new(&server, "slow.bin").with(&["--limit-rate", "2M"]);
    let started = std::time::Instant::now();
    visit.complete(&bytes);
    let took = started.elapsed();
    // 3 MiB at 2 MiB a second are 1.5 s, less what a limit lets through at once.
    assert!(took > Duration::from_secs(1), "took {took:?}");
}

#[test]
fn kills_at_random_moments_cost_a_window_each_at_most() {
    let Some(server) = with(&["anon_max_rate=40000000"]) else {
        return;
    };
    let (mut dice, seed) = Seeded::from_environment();
    let bytes = server.put_seeded("big.bin", 96 << 20);
    let visit = Visit::new(&server, "big.bin");
    let mut kills = 0_u64;
    loop {
        let mut running = visit.start();
        let before = stored_bytes(&visit.home);
        let more = dice.below(24 << 20);
        let killed = kills < 8
            && until("the moment to kill", || {
                if running.has_ended() {
                    return Some(false);
                }
                // A part file may be cut; what is more than before is there all the same, in the end.
                (stored_bytes(&visit.home) >= before.saturating_add(more).min(bytes.len() as u64 - 1)).then_some(true)
            });
        if !killed {
            running.finish().expect_code(0);
            break;
        }
        running.kill();
        kills += 1;
        // Killed after it had said how the download ended: given again, the command would ask for another one.
        if visit.home.listing().iter().any(|shown| shown["acknowledged"] == true) {
            break;
        }
    }
    let shown = visit.check(&bytes);
    let again = visit.fetched_again(&bytes);
    figure(&format!(
        "96 MiB from vsftpd, {kills} kills (seed {seed}): {} KiB fetched again a kill, at most 16384",
        (again >> 10) / kills.max(1)
    ));
    assert_eq!(shown["restarts"], 0, "seed {seed}: {shown}");
    // The window, and what had passed the relay and lay in the sockets.
    assert!(
        again <= kills * (WINDOW_BYTES + (8 << 20)),
        "seed {seed}: {again} bytes again"
    );
}

#[test]
fn a_server_that_loses_patience_in_the_middle_costs_nothing() {
    let Some(server) = with(&["idle_session_timeout=1", "data_connection_timeout=1"]) else {
        return;
    };
    let bytes = server.put_seeded("stalled.bin", LONG_BYTES);
    let visit = Visit::new(&server, "stalled.bin");
    // Nothing is taken from the server until it ends the session.
    let running = visit.hold_after(SHORT_STOP_BYTES);
    until("the server to give up", || {
        (visit.relay.ended_by_server() > 0).then_some(())
    });
    visit.relay.release();
    running.finish().expect_code(0);
    let shown = visit.check(&bytes);
    assert_eq!(outcome(&shown), json!(["Completed", 2, 0]), "{shown}");
}
