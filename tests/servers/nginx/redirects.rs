//! Redirects: where they lead, what they must not carry along, and URLs that are good for a while only.

use std::fs;

use super::nginx;
use crate::promises::{SHORT_BYTES, SHORT_STOP_BYTES};
use crate::server::{Place, Server};
use crate::support::names_in;
use crate::visit::{Stop, Visit, Way, assert_continued};

const SECRETS: [&str; 6] = [
    "--secret-header",
    "Authorization: Bearer hush",
    "--secret-header",
    "X-Token: hush",
    "--header",
    "Cookie: session=hush",
];

/// A token is good while a file of its name lies in `tokens`; `/signing/` leads to whichever is good.
pub(super) fn locations(place: &Place) -> String {
    let Place { folder, plain, tls, .. } = place;
    format!(
        "location ~ ^/(?<code>30[12378])/(?<file>.+)$ {{ rewrite ^ /to/$code/$file last; }}
         location ~ ^/to/301/(?<file>.+)$ {{ return 301 /$file; }}
         location ~ ^/to/302/(?<file>.+)$ {{ return 302 /$file; }}
         location ~ ^/to/303/(?<file>.+)$ {{ return 303 /$file; }}
         location ~ ^/to/307/(?<file>.+)$ {{ return 307 /$file; }}
         location ~ ^/to/308/(?<file>.+)$ {{ return 308 /$file; }}
         location = /loop {{ return 302 /loop; }}
         location = /ping {{ return 307 /pong; }}
         location = /pong {{ return 308 /ping; }}
         location ~ ^/down/(?<file>.+)$ {{ return 302 http://127.0.0.1:{plain}/$file; }}
         location ~ ^/away/(?<file>.+)$ {{ return 302 http://localhost:{plain}/$file; }}
         location ~ ^/up/(?<file>.+)$ {{ return 302 https://localhost:{tls}/$file; }}
         location ~ ^/roundabout/(?<file>.+)$ {{ return 302 http://localhost:{plain}/back/$file; }}
         location ~ ^/back/(?<file>.+)$ {{ return 302 http://127.0.0.1:{plain}/$file; }}
         location ~ ^/signing/(?<file>.+)$ {{
          if (-f {folder}/www/tokens/second) {{ return 302 /signed/$file?token=second; }}
          return 302 /signed/$file?token=first;
         }}
         location ~ ^/signed/(?<file>.+)$ {{
          if (!-f {folder}/www/tokens/$arg_token) {{ return 403; }}
          alias {folder}/www/$file;
         }}"
    )
}

fn grant(server: &Server, token: &str) {
    fs::create_dir_all(server.file("tokens")).unwrap();
    fs::write(server.file("tokens").join(token), "").unwrap();
}

fn revoke(server: &Server, token: &str) {
    fs::remove_file(server.file("tokens").join(token)).unwrap();
}

/// Path, Authorization, X-Token and Cookie of each request so far.
fn secrets_seen(server: &Server, requests: usize) -> Vec<[String; 4]> {
    let log = server.log_of(requests);
    assert_eq!(log.len(), requests, "{log:?}");
    let fields = |line: &Vec<String>| {
        let field = |index: usize| line.get(index).cloned().unwrap_or_default();
        [field(0), field(3), field(4), field(5)]
    };
    log.iter().map(fields).collect()
}

#[test]
fn every_kind_of_redirect_is_followed() {
    let server = nginx();
    let bytes = server.put_seeded("a.bin", 5000);
    for code in [301, 302, 303, 307, 308] {
        let shown = Visit::new(&server, Way::Plain, &format!("{code}/a.bin")).complete(&bytes);
        let actual = shown["actual_url"].as_str().unwrap();
        assert!(
            actual.ends_with("/a.bin") && !actual.contains(&format!("/{code}/")),
            "{actual}"
        );
    }
}

#[test]
fn redirects_in_a_circle_end_the_transfer_by_name() {
    let server = nginx();
    for path in ["loop", "ping"] {
        let visit = Visit::new(&server, Way::Plain, path);
        let ended = visit.run().expect_code(1);
        assert!(ended.stderr.contains("redirected in a loop"), "{}", ended.stderr);
        assert_eq!(visit.home.operation()["error"]["status"], "RedirectFailed");
    }
    assert_eq!(server.log_of(3).len(), 3, "the loop was gone round more than once");
}

#[test]
fn a_redirect_from_https_to_http_is_refused_by_name_and_the_plain_server_is_not_asked() {
    let server = nginx();
    server.put_seeded("a.bin", 5000);
    let visit = Visit::new(&server, Way::Tls, "down/a.bin");
    let ended = visit.run().expect_code(1);
    assert!(ended.stderr.contains("from https to"), "{}", ended.stderr);
    assert_eq!(visit.home.operation()["error"]["status"], "HttpsToHttpOnRedirection");
    assert!(names_in(&visit.home.downloads()).is_empty());
    assert_eq!(server.log_of(1).len(), 1);
}

#[test]
fn a_redirect_within_the_origin_keeps_what_authorizes_the_request() {
    let server = nginx();
    let bytes = server.put_seeded("a.bin", 5000);
    Visit::new(&server, Way::Plain, "302/a.bin")
        .with(&SECRETS)
        .complete(&bytes);
    for [path, authorization, token, cookie] in secrets_seen(&server, 2) {
        assert_eq!(
            (authorization.as_str(), token.as_str(), cookie.as_str()),
            ("Bearer hush", "hush", "session=hush"),
            "{path}"
        );
    }
}

#[test]
fn a_redirect_to_another_origin_takes_no_secret_along_not_even_on_the_way_back() {
    for (path, requests) in [("away/a.bin", 2), ("up/a.bin", 2), ("roundabout/a.bin", 3)] {
        let server = nginx();
        let bytes = server.put_seeded("a.bin", 5000);
        let url = format!("http://127.0.0.1:{}/{path}", server.plain_port());
        Visit::new(&server, Way::Plain, path)
            .at(url)
            .with(&SECRETS)
            .complete(&bytes);
        let seen = secrets_seen(&server, requests);
        assert_eq!(seen[0][1..], ["Bearer hush", "hush", "session=hush"], "{path}");
        for later in &seen[1..] {
            assert_eq!(later[1..], ["", "", ""], "{path}: {later:?}");
        }
    }
}

#[test]
fn a_password_in_the_url_is_not_taken_to_another_origin() {
    let server = nginx();
    let bytes = server.put_seeded("a.bin", 5000);
    let url = format!("http://user:hush@127.0.0.1:{}/away/a.bin", server.plain_port());
    Visit::new(&server, Way::Plain, "").at(url).complete(&bytes);
    let seen = secrets_seen(&server, 2);
    assert!(seen[0][1].starts_with("Basic "), "{seen:?}");
    assert_eq!(seen[1][1], "", "{seen:?}");
}

#[test]
fn when_a_signed_url_expires_in_the_middle_the_next_attempt_gets_a_new_one_and_goes_on() {
    let server = nginx();
    let bytes = server.put_seeded("a.bin", SHORT_BYTES);
    grant(&server, "first");
    let visit = Visit::new(&server, Way::Plain, "signing/a.bin");
    let running = visit.hold_after(SHORT_STOP_BYTES);
    revoke(&server, "first");
    grant(&server, "second");
    visit.relay.cut();
    visit.relay.release();
    running.finish().expect_code(0);
    let shown = visit.check(&bytes);
    assert_continued(&visit, &shown, &bytes, 0);
    assert_eq!(shown["attempts"], 2, "{shown}");
    assert!(
        !shown.to_string().contains("token=second"),
        "a signature is shown: {shown}"
    );
    // The one that was cut is logged when nginx notices, before or after the others.
    let log = server.log_of(4);
    let continued: Vec<_> = log.iter().filter(|line| line[1] == "206").collect();
    assert!(
        matches!(continued[..], [line] if line[0].ends_with("token=second") && line[2].starts_with("bytes=")),
        "{log:?}"
    );
}

#[test]
fn a_signed_url_that_expired_while_nothing_ran_is_resolved_again_and_continued() {
    let server = nginx();
    let bytes = server.put_seeded("a.bin", SHORT_BYTES);
    grant(&server, "first");
    let visit = Visit::new(&server, Way::Plain, "signing/a.bin");
    visit.stop_after(SHORT_STOP_BYTES, Stop::Terminate);
    revoke(&server, "first");
    grant(&server, "second");
    let shown = visit.complete(&bytes);
    assert_continued(&visit, &shown, &bytes, 0);
}
