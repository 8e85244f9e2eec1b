//! `ProFTPD` 1.3.8, which can forbid single commands.

use std::time::{Duration, Instant};

use crate::promises::{SHORT_BYTES, SHORT_STOP_BYTES};
use crate::server::{Kind, Options};
use crate::support::Home;
use crate::visit::{Stop, Visit, assert_continued, assert_restarted};

crate::promises::promises_hold!(Kind::Proftpd);

/// `ProFTPD` says that a file is complete when the client has ended the data connection, or after ten seconds.
#[test]
fn the_server_is_not_kept_waiting_for_the_end_of_a_data_connection() {
    let Some(server) = Server::start(Kind::Proftpd) else {
        return;
    };
    let home = Home::new();
    let started = Instant::now();
    for number in 0..3 {
        let name = format!("small-{number}");
        server.put_seeded(&name, 1000);
        let url = server.url("ftp", "", &name);
        home.run(&["get", &url, "-o", &format!("downloads/{name}")])
            .expect_code(0);
    }
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "took {:?}",
        started.elapsed()
    );
}

/// A server on which some commands are not there.
fn without(commands: &str) -> Option<Server> {
    let forbidden = format!("<Limit {commands}>\nDenyAll\n</Limit>\n<Anonymous ~ftp>\n</Anonymous>");
    let options = Options {
        lines: &[&forbidden],
        ..Options::default()
    };
    Server::start_with(Kind::Proftpd, &options)
}

/// Stopped in the middle, it starts again, as nothing proves that the rest belongs to what is there; and says so.
fn starts_again_for_want_of_proof(server: &Server) {
    let bytes = server.put_seeded("stopped.bin", SHORT_BYTES);
    let visit = Visit::new(server, "stopped.bin");
    let claimed = visit.stop_after(SHORT_STOP_BYTES, Stop::Terminate);
    let shown = visit.complete(&bytes);
    assert_restarted(&shown, claimed);
    assert!(visit.fetched_again(&bytes) >= claimed, "less came than the whole again");
}

#[test]
fn without_a_time_of_modification_it_starts_again_and_says_so() {
    if let Some(server) = without("MDTM") {
        starts_again_for_want_of_proof(&server);
    }
}

#[test]
fn without_a_length_it_starts_again_and_says_so() {
    if let Some(server) = without("SIZE") {
        starts_again_for_want_of_proof(&server);
    }
}

#[test]
fn without_length_and_time_whole_files_come_as_they_are() {
    let Some(server) = without("SIZE MDTM MLST MLSD") else {
        return;
    };
    for length in [0, 70_000, SHORT_BYTES] {
        let name = format!("whole-{length}.bin");
        let bytes = server.put_seeded(&name, length);
        Visit::new(&server, &name).complete(&bytes);
    }
}

#[test]
fn where_going_on_is_forbidden_it_starts_again_and_says_so() {
    let options = Options {
        lines: &["AllowRetrieveRestart off\n<Limit REST>\nDenyAll\n</Limit>"],
        ..Options::default()
    };
    let Some(server) = Server::start_with(Kind::Proftpd, &options) else {
        return;
    };
    starts_again_for_want_of_proof(&server);
}

#[test]
fn a_control_connection_that_the_server_gives_up_during_a_long_transfer_costs_nothing() {
    let options = Options {
        lines: &["TimeoutIdle 1\nTimeoutNoTransfer 2\nTimeoutStalled 2\nTransferRate RETR 1024"],
        ..Options::default()
    };
    let Some(server) = Server::start_with(Kind::Proftpd, &options) else {
        return;
    };
    let bytes = server.put_seeded("long.bin", 4 << 20);
    let visit = Visit::new(&server, "long.bin");
    let shown = visit.complete(&bytes);
    assert_continued(&visit, &shown, &bytes, 0);
}
