//! The tests' own tools do what the other tests rely on.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::io::Write;
use std::process::{Command, Stdio};

use support::nginx::Nginx;

/// A request through openssl's own client, which knows nothing of ours: the answer, or what it disliked.
fn ask_over_tls(nginx: &Nginx, leaf: &str, path: &str) -> String {
    let url = nginx.tls_url(leaf, path);
    let authority = url.trim_start_matches("https://").split('/').next().unwrap();
    let mut client = Command::new("openssl");
    client.args([
        "s_client",
        "-quiet",
        "-verify_return_error",
        "-verify_hostname",
        "localhost",
        "-connect",
        authority,
    ]);
    client.arg("-CAfile").arg(nginx.ca_file());
    client
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = client.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    // A client that refused the certificate has gone already.
    let _ = stdin.write_all(request.as_bytes());
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn nginx_serves_files_and_counts_the_bytes() {
    let nginx = Nginx::start();
    let bytes = nginx.put_seeded("some/file.bin", 300_000);
    assert_eq!(
        bytes,
        nginx.put_seeded("some/file.bin", 300_000),
        "the same name gives the same bytes"
    );
    let answer = nginx.ask_bytes("/rate/900k/some/file.bin", "Range: bytes=100000-\r\n");
    assert!(answer.starts_with(b"HTTP/1.1 206 "));
    assert!(answer.ends_with(&bytes[100_000..]));
    assert_eq!(nginx.bytes_served("some/file.bin"), 200_000);
    let served = nginx.served();
    assert_eq!(
        (served.len(), served[0].status, served[0].range.as_str()),
        (1, 206, "bytes=100000-"),
        "{served:?}"
    );
}

#[test]
fn a_client_that_hangs_up_is_counted_only_for_what_could_reach_it() {
    let nginx = Nginx::start();
    nginx.put_seeded("big.bin", 64 << 20);
    nginx.hang_up_after("/rate/8000k/big.bin", 1 << 20);
    let served = nginx.bytes_served("big.bin");
    // The bytes read, and what lay in the two socket buffers and in one step of the rate limit.
    assert!((1 << 20..12 << 20).contains(&served), "{served}");
}

#[test]
fn tls_is_trusted_exactly_where_it_should_be() {
    let nginx = Nginx::start_tls();
    nginx.put("hello.txt", b"hello over tls");
    let answer = ask_over_tls(&nginx, "valid", "/hello.txt");
    assert!(answer.contains("hello over tls"), "{answer}");
    for (leaf, complaint) in [
        ("expired", "certificate has expired"),
        ("wronghost", "hostname mismatch"),
        ("stranger", "unable to get"),
    ] {
        let answer = ask_over_tls(&nginx, leaf, "/hello.txt");
        assert!(!answer.contains("hello over tls"), "{leaf}: {answer}");
        assert!(answer.to_lowercase().contains(complaint), "{leaf}: {answer}");
    }
}

#[test]
fn nginx_says_what_each_path_promises() {
    let nginx = Nginx::start();
    nginx.put("a.bin", b"12345");
    for (path, status) in [
        ("/a.bin", 200),
        ("/missing", 404),
        ("/gone", 410),
        ("/broken", 500),
        ("/busy", 503),
        ("/redirect/301/a.bin", 301),
        ("/redirect/302/a.bin", 302),
        ("/redirect/307/a.bin", 307),
        ("/redirect/308/a.bin", 308),
        ("/loop", 302),
    ] {
        let answer = nginx.ask(path);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
    }
    assert!(nginx.ask("/busy").contains("Retry-After: 1\r\n"));
    assert!(nginx.ask("/a.bin").contains("ETag: \"") && nginx.ask("/a.bin").contains("Last-Modified: "));
    assert!(!nginx.ask("/noetag/a.bin").contains("ETag"));
    let bare = nginx.ask("/novalidator/a.bin");
    assert!(!bare.contains("ETag") && !bare.contains("Last-Modified"), "{bare}");
    assert!(nginx.ask("/a.bin").contains("Accept-Ranges: bytes"));
    assert!(!nginx.ask("/norange/a.bin").contains("Accept-Ranges"));
}

#[test]
fn nginx_starts_again_where_it_was() {
    let mut nginx = Nginx::start();
    nginx.put("a.bin", b"12345");
    nginx.stop();
    nginx.start_again();
    assert!(nginx.ask("/a.bin").ends_with("12345"));
}
