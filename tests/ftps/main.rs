//! The real command against FTP servers that nobody here wrote, over TLS with OpenSSL: vsftpd, Pure-FTPd and `ProFTPD`. In a
//! program of its own, as it needs a build with the feature `ftps`: `cargo test --features ftps --test ftps`.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
#[path = "../support/mod.rs"]
mod support;

#[expect(dead_code, reason = "each test program uses its own part of this module")]
#[path = "../ftp/relay.rs"]
mod relay;
#[expect(dead_code, reason = "each test program uses its own part of this module")]
#[path = "../ftp/server.rs"]
mod server;

use std::io::Write;
use std::net::TcpListener;

use rustix::process::Signal;
use serde_json::{Value, json};

use relay::Relay;
use server::{Kind, Options, PASSWORD_IN_URL, Server, USER};
use support::{Home, Running, assert_same, figure, names_in, until};

const SHORT_BYTES: usize = 3 << 20;
const LONG_BYTES: usize = 24 << 20;
const WINDOW_BYTES: u64 = 16 << 20;

/// A server that takes nobody in without TLS, and how its URLs begin.
fn protected<'a>(kind: Kind, implicit: bool, leaf: &'a str, lines: &'a [&'a str]) -> Option<(Server, &'static str)> {
    let options = Options {
        lines,
        leaf: Some(leaf),
        implicit,
        ..Options::default()
    };
    let scheme = if implicit { "ftps" } else { "ftpes" };
    Server::start_with(kind, &options).map(|server| (server, scheme))
}

/// Starts `get` of `/path`, trusting the authority of the server.
fn start(home: &Home, server: &Server, url: &str) -> Running {
    let ca = server.ca_file();
    home.spawn(&[
        "--ca-bundle",
        ca.to_str().unwrap(),
        "get",
        url,
        "-o",
        "downloads/file",
        "--retries",
        "1",
    ])
}

fn shown(home: &Home) -> Value {
    let id = home.operation()["id"].as_str().unwrap().to_owned();
    home.run(&["show", &id, "--json"]).expect_code(0).json()
}

fn stored_bytes(home: &Home) -> u64 {
    let sizes = names_in(&home.downloads())
        .into_iter()
        .map(|name| std::fs::metadata(home.download(&name)).map_or(0, |metadata| metadata.len()));
    sizes.sum()
}

fn whole_files_come_as_they_are(kind: Kind, implicit: bool) {
    let Some((server, scheme)) = protected(kind, implicit, "valid", &[]) else {
        return;
    };
    for length in [0, 70_000, SHORT_BYTES] {
        let name = format!("whole {length}.bin");
        let bytes = server.put_seeded(&name, length);
        let home = Home::new();
        let url = server.url(scheme, &server.login(), &name.replace(' ', "%20"));
        start(&home, &server, &url).finish().expect_code(0);
        assert_same(&home.download("file"), &bytes);
        let shown = shown(&home);
        assert_eq!(json!([shown["attempts"], shown["restarts"]]), json!([1, 0]), "{shown}");
    }
}

/// Stops in the middle, twice, and goes on. `slowly` are lines with which the server takes a second or two for the file.
fn a_stop_costs_a_window_at_most(kind: Kind, implicit: bool, slowly: &[&str]) {
    let Some((server, scheme)) = protected(kind, implicit, "valid", slowly) else {
        return;
    };
    let bytes = server.put_seeded("long.bin", LONG_BYTES);
    let home = Home::new();
    let url = server.url(scheme, &server.login(), "long.bin");
    for (stop_bytes, signal) in [(6 << 20, Signal::TERM), (18 << 20, Signal::KILL)] {
        let mut running = start(&home, &server, &url);
        until("some of the file", || {
            assert!(
                !running.has_ended(),
                "ended before it was stopped: {}",
                home.operation()
            );
            (stored_bytes(&home) >= stop_bytes).then_some(())
        });
        running.signal(signal);
        running.finish();
        let claimed = home.operation()["bytes_done"].as_u64().unwrap();
        assert!(
            claimed + WINDOW_BYTES >= stop_bytes,
            "{claimed} of {stop_bytes} are claimed"
        );
        assert!(
            signal == Signal::KILL || claimed >= stop_bytes,
            "{claimed} of {stop_bytes} are claimed"
        );
    }
    start(&home, &server, &url).finish().expect_code(0);
    assert_same(&home.download("file"), &bytes);
    let shown = shown(&home);
    assert_eq!(
        json!([shown["attempts"], shown["restarts"], shown["bytes_wasted"]]),
        json!([3, 0, 0]),
        "{shown}"
    );
}

#[test]
fn vsftpd_explicit_whole_files_come_as_they_are() {
    whole_files_come_as_they_are(Kind::Vsftpd, false);
}

#[test]
fn vsftpd_implicit_whole_files_come_as_they_are() {
    whole_files_come_as_they_are(Kind::Vsftpd, true);
}

#[test]
fn proftpd_explicit_whole_files_come_as_they_are() {
    whole_files_come_as_they_are(Kind::Proftpd, false);
}

#[test]
fn proftpd_implicit_whole_files_come_as_they_are() {
    whole_files_come_as_they_are(Kind::Proftpd, true);
}

#[test]
fn pureftpd_explicit_whole_files_come_as_they_are() {
    whole_files_come_as_they_are(Kind::PureFtpd, false);
}

#[test]
fn vsftpd_explicit_a_stop_costs_a_window_at_most() {
    a_stop_costs_a_window_at_most(Kind::Vsftpd, false, &["anon_max_rate=20000000"]);
}

#[test]
fn vsftpd_implicit_a_stop_costs_a_window_at_most() {
    a_stop_costs_a_window_at_most(Kind::Vsftpd, true, &["anon_max_rate=20000000"]);
}

#[test]
fn proftpd_explicit_a_stop_costs_a_window_at_most() {
    a_stop_costs_a_window_at_most(Kind::Proftpd, false, &["TransferRate RETR 20000"]);
}

#[test]
fn pureftpd_explicit_a_stop_costs_a_window_at_most() {
    a_stop_costs_a_window_at_most(Kind::PureFtpd, false, &["-T", ":20000"]);
}

/// What an operation says after a server with this certificate.
fn refused(kind: Kind, implicit: bool, leaf: &str) -> Option<(Value, String)> {
    let (server, scheme) = protected(kind, implicit, leaf, &[])?;
    server.put_seeded("file.bin", 1000);
    let home = Home::new();
    let url = server.url(scheme, &server.login(), "file.bin");
    let ended = start(&home, &server, &url).finish().expect_code(1);
    assert_eq!(names_in(&home.downloads()), Vec::<String>::new());
    Some((home.operation(), ended.stderr))
}

fn certificates_that_are_wrong_are_refused(kind: Kind, implicit: bool) {
    for (leaf, status) in [
        ("expired", "CertificateExpired"),
        ("wronghost", "CertificateCommonNameIsIncorrect"),
        ("stranger", "CertificateIsInvalid"),
    ] {
        let Some((shown, said)) = refused(kind, implicit, leaf) else {
            return;
        };
        assert_eq!(
            json!([shown["status"], shown["error"]["status"]]),
            json!(["Error", status]),
            "{leaf}: {shown}"
        );
        assert!(said.contains("certificate"), "{said}");
    }
}

#[test]
fn vsftpd_explicit_certificates_that_are_wrong_are_refused() {
    certificates_that_are_wrong_are_refused(Kind::Vsftpd, false);
}

#[test]
fn vsftpd_implicit_certificates_that_are_wrong_are_refused() {
    certificates_that_are_wrong_are_refused(Kind::Vsftpd, true);
}

#[test]
fn proftpd_explicit_certificates_that_are_wrong_are_refused() {
    certificates_that_are_wrong_are_refused(Kind::Proftpd, false);
}

#[test]
fn pureftpd_explicit_certificates_that_are_wrong_are_refused() {
    certificates_that_are_wrong_are_refused(Kind::PureFtpd, false);
}

#[test]
fn a_certificate_that_is_not_valid_yet_is_waited_for_as_a_clock_may_be_wrong() {
    let Some((server, scheme)) = protected(Kind::Vsftpd, false, "early", &[]) else {
        return;
    };
    server.put_seeded("file.bin", 1000);
    let home = Home::new();
    let running = start(&home, &server, &server.url(scheme, "", "file.bin"));
    let shown = until("the refusal", || {
        let listed = home.listing();
        let shown = listed.into_iter().next()?;
        (!shown["error"].is_null()).then_some(shown)
    });
    assert_eq!(shown["error"]["status"], "CertificateIsInvalid", "{shown}");
    assert_ne!(shown["status"], "Error", "{shown}");
    drop(running);
    assert_eq!(names_in(&home.downloads()), Vec::<String>::new());
}

/// The server has no TLS. The relay sees what a listener on the way would see.
#[test]
fn a_server_without_tls_is_refused_and_no_password_is_sent() {
    for kind in [Kind::Vsftpd, Kind::Proftpd, Kind::PureFtpd, Kind::Pyftpdlib] {
        let Some(server) = Server::start(kind) else { continue };
        server.put_seeded("file.bin", 1000);
        let relay = Relay::to(server.address());
        let home = Home::new();
        let url = format!("ftpes://{USER}:{PASSWORD_IN_URL}@localhost:{}/file.bin", relay.port());
        let ended = home.run(&["get", &url, "-o", "downloads/file"]).expect_code(1);
        assert!(ended.stderr.contains("protect"), "{kind:?}: {}", ended.stderr);
        let shown = home.operation();
        assert_eq!(
            json!([shown["status"], shown["error"]["status"]]),
            json!(["Error", "CannotConnect"]),
            "{kind:?}: {shown}"
        );
        let commands = relay.commands();
        let allowed = |line: &String| line.starts_with("AUTH ") || line == "QUIT";
        assert!(commands.iter().all(allowed), "{kind:?}: {commands:?}");
    }
}

/// A server that takes AUTH and then speaks in clear text, and one that never speaks TLS on the port of `ftps`.
#[test]
fn a_server_that_only_claims_tls_hears_no_password() {
    for (scheme, greeting) in [("ftpes", "220 hello\r\n"), ("ftps", "")] {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            client.write_all(greeting.as_bytes()).unwrap();
            client.write_all(b"234 go on\r\n331 password\r\n230 in\r\n").unwrap();
            let mut heard = Vec::new();
            let _ = std::io::Read::read_to_end(&mut client, &mut heard);
            heard
        });
        let home = Home::new();
        let url = format!("{scheme}://{USER}:{PASSWORD_IN_URL}@localhost:{port}/file.bin");
        home.run(&["get", &url, "-o", "downloads/file", "--retries", "0"])
            .expect_code(1);
        let heard = heard.join().unwrap();
        for secret in [&b"sesame"[..], b"PASS", b"USER"] {
            let found = heard.windows(secret.len()).any(|window| window == secret);
            assert!(!found, "{scheme}: {}", String::from_utf8_lossy(&heard));
        }
    }
    figure("FTP over TLS: a server without it heard no name and no password");
}
