//! HTTPS with an authority of our own: trusted where it was named, refused in every other case, and no secret leaves.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::fs;

use support::nginx::Nginx;
use support::{Home, assert_same, names_in};

#[test]
fn a_bundle_given_by_flag_is_trusted() {
    let nginx = Nginx::start_tls();
    let bytes = nginx.put_seeded("a.bin", 3_000_000);
    let home = Home::new();
    let bundle = nginx.ca_file();
    let url = nginx.tls_url("valid", "/a.bin");
    let destination = home.download("a.bin");
    let arguments = [
        "--ca-bundle",
        bundle.to_str().unwrap(),
        "get",
        &url,
        "-o",
        destination.to_str().unwrap(),
    ];
    home.run(&arguments).expect_code(0);
    assert_same(&destination, &bytes);
}

#[test]
fn a_bundle_named_by_the_environment_is_trusted() {
    let nginx = Nginx::start_tls();
    nginx.put("a.txt", b"hello");
    let home = Home::new();
    let url = nginx.tls_url("valid", "/a.txt");
    let destination = home.download("a.txt");
    let mut command = home.command(&["get", &url, "-o", destination.to_str().unwrap()]);
    support::Running::spawn(command.env("SSL_CERT_FILE", nginx.ca_file()))
        .finish()
        .expect_code(0);
    assert_same(&destination, b"hello");
}

#[test]
fn a_certificate_that_is_wrong_in_any_way_ends_the_download_at_once_and_publishes_nothing() {
    let nginx = Nginx::start_tls();
    nginx.put("a.txt", b"hello");
    for (leaf, status) in [
        ("expired", "CertificateExpired"),
        ("wronghost", "CertificateCommonNameIsIncorrect"),
        ("stranger", "CertificateIsInvalid"),
    ] {
        let home = Home::new();
        let destination = home.download("a.txt");
        let bundle = nginx.ca_file();
        let url = nginx.tls_url(leaf, "/a.txt");
        let arguments = [
            "--ca-bundle",
            bundle.to_str().unwrap(),
            "get",
            &url,
            "-o",
            destination.to_str().unwrap(),
        ];
        let ended = home.run(&arguments).expect_code(1);
        assert!(ended.stderr.contains("certificate"), "{leaf}: {}", ended.stderr);
        assert!(names_in(&home.downloads()).is_empty(), "{leaf}");
        let shown = home.operation();
        assert_eq!(
            (&shown["status"], &shown["error"]["status"]),
            (&"Error".into(), &status.into()),
            "{leaf}: {shown}"
        );
    }
    assert!(
        nginx.served().is_empty(),
        "a request was sent over a connection that is not trusted"
    );
}

#[test]
fn a_bundle_that_holds_no_certificate_is_refused_before_anything_is_created() {
    let home = Home::new();
    let empty = home.path().join("empty.pem");
    fs::write(&empty, "no certificate here\n").unwrap();
    for bundle in ["/nowhere/ca.pem", empty.to_str().unwrap()] {
        let arguments = [
            "--ca-bundle",
            bundle,
            "get",
            "https://localhost:1/a",
            "-o",
            "downloads/a",
        ];
        let ended = home.run(&arguments).expect_code(2);
        assert!(ended.stderr.contains(bundle), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    }
    assert!(home.listing().is_empty());
}

#[test]
fn a_redirect_from_https_to_http_is_refused() {
    let nginx = Nginx::start_tls();
    nginx.put("a.txt", b"hello");
    let home = Home::new();
    let bundle = nginx.ca_file();
    let url = nginx.tls_url("valid", "/downgrade/a.txt");
    let arguments = [
        "--ca-bundle",
        bundle.to_str().unwrap(),
        "get",
        &url,
        "-o",
        "downloads/a.txt",
    ];
    home.run(&arguments).expect_code(1);
    assert!(names_in(&home.downloads()).is_empty());
    assert_eq!(nginx.served().len(), 1, "the plain server was asked");
}
