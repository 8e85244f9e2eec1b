//! The examples do what they show, on an engine of their own and on one behind a socket.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod sample;
#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

#[path = "../examples/downloader.rs"]
#[expect(dead_code, reason = "the tests call what its main function calls")]
mod downloader;
#[path = "../examples/random_access.rs"]
#[expect(dead_code, reason = "the tests call what its main function calls")]
mod random_access;
#[path = "../examples/recoverable.rs"]
#[expect(dead_code, reason = "the tests call what its main function calls")]
mod recoverable;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;

use backhaul::Service;
use sample::{LENGTH, Place, Sample};
use support::names_in;

/// What an example runs on.
struct Stage {
    server: Sample,
    place: Place,
    /// The arguments that name the service.
    service: [String; 2],
}

type Run = fn(Vec<String>, &mut dyn Write) -> Result<(), Box<dyn Error>>;

impl Stage {
    fn url(&self, path: &str) -> String {
        self.server.url(path)
    }

    fn file(&self, name: &str) -> String {
        let path: PathBuf = self.place.file(name);
        path.into_os_string().into_string().unwrap()
    }

    /// What an example prints.
    fn run(&self, example: Run, arguments: &[&str]) -> Vec<String> {
        let arguments = arguments.iter().map(ToString::to_string);
        let mut out = Vec::new();
        example(self.service.iter().cloned().chain(arguments).collect(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn assert_whole(&self, name: &str) {
        support::assert_same(&self.place.file(name), self.server.content());
    }
}

fn each_way(test: impl Fn(&Stage)) {
    let (server, place) = (Sample::start(), Place::new());
    let service = ["--state".into(), place.state().to_str().unwrap().into()];
    test(&Stage { server, place, service });

    let (server, place) = (Sample::start(), Place::new());
    let engine = Service::open(place.state()).unwrap();
    let serving = engine.serve(place.socket()).unwrap();
    let service = ["--socket".into(), serving.socket().to_str().unwrap().into()];
    test(&Stage { server, place, service });
    drop((serving, engine));
}

#[test]
fn a_download_arrives_and_is_not_found_again() {
    each_way(|stage| {
        let run = |arguments: &[&str]| stage.run(|arguments, out| downloader::run(arguments, out), arguments);
        let lines = run(&[&stage.url("/download"), &stage.file("a")]);
        let last = format!("Completed: {}", stage.file("a"));
        assert_eq!(lines.last(), Some(&last), "{lines:?}");
        assert_eq!(run(&[]), Vec::<String>::new());
        stage.assert_whole("a");
    });
}

#[test]
fn a_download_that_was_left_is_found_and_goes_on_with_its_bytes() {
    each_way(|stage| {
        let run = |arguments: &[&str]| stage.run(|arguments, out| downloader::run(arguments, out), arguments);
        stage.server.hold_at(LENGTH / 2);
        let half = (LENGTH / 2).to_string();
        let lines = run(&[&stage.url("/download"), &stage.file("a"), "--leave-at", &half]);
        assert_eq!(lines.last().unwrap(), &format!("paused at {half} bytes"));
        stage.server.release();
        let lines = run(&[]);
        assert!(
            lines[0].ends_with(&format!("PausedByApplication: {half} bytes")),
            "{lines:?}"
        );
        assert!(lines.last().unwrap().starts_with("Completed"), "{lines:?}");
        stage.assert_whole("a");
        assert!(stage.server.asked().last().unwrap().first() > 0);
    });
}

#[test]
fn a_download_is_paused_and_resumed_or_canceled_on_the_way() {
    each_way(|stage| {
        let run = |arguments: &[&str]| stage.run(|arguments, out| downloader::run(arguments, out), arguments);
        stage.server.hold_until_left(LENGTH / 2);
        let lines = run(&[&stage.url("/download?1"), &stage.file("a"), "--pause-at", "1"]);
        assert!(lines.iter().any(|line| line.starts_with("paused at ")), "{lines:?}");
        assert!(lines.last().unwrap().starts_with("Completed"), "{lines:?}");
        stage.assert_whole("a");
        stage.server.hold_at(LENGTH / 2);
        let lines = run(&[&stage.url("/download?2"), &stage.file("b"), "--cancel-at", "1"]);
        assert!(lines.last().unwrap().starts_with("Canceled"), "{lines:?}");
        assert_eq!(names_in(&stage.place.downloads()), ["a"]);
    });
}

#[test]
fn a_url_that_expires_is_replaced_and_no_byte_is_fetched_twice() {
    each_way(|stage| {
        let urls = ["yes", "no"].map(|expire| stage.url(&format!("/recoverable?expire={expire}")));
        let lines = stage.run(
            |arguments, out| recoverable::run(arguments, out),
            &[&urls[0], &urls[1], &stage.file("a")],
        );
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].starts_with("Forbidden at ") && !lines[0].contains(" 0 bytes"),
            "{lines:?}"
        );
        assert_eq!(lines[1], "Completed with 0 restarts, 0 bytes wasted");
        stage.assert_whole("a");
    });
}

#[test]
fn a_file_is_read_from_its_end_long_before_it_is_there() {
    each_way(|stage| {
        let lines = stage.run(
            |arguments, out| random_access::run(arguments, out),
            &[&stage.url("/random"), &stage.file("a")],
        );
        let content = stage.server.content();
        assert_eq!(lines[0], format!("the last bytes: {:02x?}", &content[LENGTH - 16..]));
        assert_eq!(lines[2], format!("the first bytes: {:02x?}", &content[..16]));
        assert_eq!(lines.last().unwrap(), &format!("Completed: {LENGTH} bytes"));
        stage.assert_whole("a");
    });
}
