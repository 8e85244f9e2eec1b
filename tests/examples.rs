//! The examples do what they show, on an engine of their own and on one behind a socket.

#![expect(clippy::duplicate_mod, reason = "each example is a program of its own")]
#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod sample;
#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

#[path = "../examples/completion_group.rs"]
#[expect(dead_code, reason = "the tests call what its main function calls")]
mod completion_group;
#[path = "../examples/custom_backend.rs"]
#[expect(dead_code, reason = "the tests call what its main function calls")]
mod custom_backend;
#[path = "../examples/downloader.rs"]
#[expect(dead_code, reason = "the tests call what its main function calls")]
mod downloader;
#[path = "../examples/groups.rs"]
#[expect(dead_code, reason = "the tests call what its main function calls")]
mod groups;
#[path = "../examples/random_access.rs"]
#[expect(dead_code, reason = "the tests call what its main function calls")]
mod random_access;
#[path = "../examples/recoverable.rs"]
#[expect(dead_code, reason = "the tests call what its main function calls")]
mod recoverable;

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use backhaul::{BackgroundDownloader, Config, Service, TransferStatus};
use sample::{LENGTH, Place, Sample};
use support::{names_in, until};

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
        let mut out = Vec::new();
        example(self.arguments(arguments), &mut out).unwrap();
        lines_of(out)
    }

    fn arguments(&self, arguments: &[&str]) -> Vec<String> {
        let arguments = arguments.iter().map(ToString::to_string);
        self.service.iter().cloned().chain(arguments).collect()
    }

    fn assert_whole(&self, name: &str) {
        support::assert_same(&self.place.file(name), self.server.content());
    }
}

fn lines_of(text: Vec<u8>) -> Vec<String> {
    let text = String::from_utf8(text).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// What an example prints, and somebody who reads along.
struct Watched<'a> {
    text: Vec<u8>,
    told: Box<dyn Fn(&str) + 'a>,
}

impl Write for Watched<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.text.extend_from_slice(bytes);
        (self.told)(&String::from_utf8_lossy(&self.text));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
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

#[test]
fn a_serialized_group_fetches_one_at_a_time_and_the_current_one_next() {
    each_way(|stage| {
        // The first one holds up the others until the last one was moved.
        stage.server.hold_at(LENGTH / 2);
        let directory = stage.place.downloads().into_os_string().into_string().unwrap();
        let urls: Vec<String> = (0..5).map(|number| stage.url(&format!("/download?{number}"))).collect();
        let mut arguments = vec![directory.as_str()];
        arguments.extend(urls.iter().map(String::as_str));
        let mut out = Watched {
            text: Vec::new(),
            told: Box::new(|text| {
                if text.contains(" is next") {
                    stage.server.release();
                } else if text.contains(" in the group") {
                    // Before another one is moved to the front.
                    until("the first one to be asked for", || {
                        (!stage.server.paths().is_empty()).then_some(())
                    });
                }
            }),
        };
        groups::run(stage.arguments(&arguments), &mut out).unwrap();
        let lines = lines_of(out.text);
        assert_eq!(lines[0], "5 in the group, 0 in none");
        assert!(lines[2..].iter().all(|line| line.starts_with("Completed")), "{lines:?}");
        let order: Vec<String> = stage.server.paths();
        assert_eq!(
            order,
            ["0", "4", "1", "2", "3"].map(|number| format!("/download?{number}"))
        );
        for number in 0..5 {
            stage.assert_whole(&format!("part-{number}"));
        }
    });
}

#[test]
fn what_has_failed_of_a_completion_group_is_fetched_from_elsewhere_by_another_one() {
    each_way(|stage| {
        let directory = stage.place.downloads().into_os_string().into_string().unwrap();
        let (url, elsewhere) = (stage.url("/bitmap?"), stage.url("/download?"));
        let lines = stage.run(
            |arguments, out| completion_group::run(arguments, out),
            &[&directory, &url, &elsewhere],
        );
        assert_eq!(
            lines,
            ["5 of 10 have failed", "0 of 5 have failed", "10 are there, 0 are not"]
        );
        for number in 0..10 {
            stage.assert_whole(&format!("image-{number}"));
        }
    });
}

/// A service that knows files, slow enough to be paused on the way.
fn slow_service_for_files(place: &Place) -> Service {
    let config = Config {
        rate_max: NonZeroU64::new(2 << 20),
        ..Config::default()
    };
    let backend = Arc::new(custom_backend::FileBackend);
    let builder = Service::builder().state_directory(place.state());
    builder.config(config).backend(backend).open().unwrap()
}

fn write_as_of(path: &Path, content: &[u8], modified: SystemTime) {
    std::fs::write(path, content).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(modified).unwrap();
}

#[test]
fn a_backend_of_ones_own_copies_a_file_and_says_what_it_cannot() {
    let place = Place::new();
    let run = |arguments: &[&str]| {
        let state = ["--state".to_owned(), place.state().to_str().unwrap().to_owned()];
        let mut out = Vec::new();
        let arguments = state.into_iter().chain(arguments.iter().map(ToString::to_string));
        custom_backend::run(arguments, &mut out).unwrap();
        lines_of(out)
    };
    let demonstration = run(&[]);
    assert!(demonstration[0].starts_with("Completed: "), "{demonstration:?}");
    let (source, copy) = (place.file("a source"), place.file("copy"));
    let content: Vec<u8> = (0..750_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&source, &content).unwrap();
    let (source, copy) = (source.to_str().unwrap(), copy.to_str().unwrap());
    assert_eq!(run(&[source, copy]), [format!("Completed: {copy}")]);
    support::assert_same(Path::new(copy), &content);
    let missing = run(&["/no/such/file", place.file("b").to_str().unwrap()]);
    assert!(missing[0].contains("NotFound"), "{missing:?}");
    let folder = run(&["/", place.file("b").to_str().unwrap()]);
    assert!(folder[0].contains("BadRequest"), "{folder:?}");
}

/// Pauses in the middle, ends the engine, lets `meanwhile` happen, and goes on with another engine; how often it had to
/// start again.
fn restarts_of(modified: SystemTime, meanwhile: impl FnOnce(&Path)) -> u32 {
    let place = Place::new();
    let (source, copy) = (place.file("source"), place.file("copy"));
    write_as_of(&source, &vec![b'a'; 3 << 20], modified);
    let url = format!("file://{}", source.display());
    let service = slow_service_for_files(&place);
    let downloader = BackgroundDownloader::new(&service);
    let download = downloader.create_download(&url, &copy).unwrap();
    download.start().unwrap();
    let mut progress = download.progress();
    assert!(progress.any(|progress| progress.bytes_received >= 1 << 20));
    drop(progress);
    download.pause().unwrap();
    drop((download, downloader, service));
    meanwhile(&source);
    let service = slow_service_for_files(&place);
    let download = BackgroundDownloader::current_downloads(&service).unwrap().remove(0);
    download.resume().unwrap();
    let done = download.wait().unwrap();
    assert_eq!(done.status, TransferStatus::Completed);
    assert_eq!(done.restarts > 0, done.bytes_wasted > 0);
    support::assert_same(&copy, &std::fs::read(&source).unwrap());
    done.restarts
}

#[test]
fn a_copy_goes_on_with_its_bytes_only_where_the_file_is_provably_the_same() {
    let old = SystemTime::now() - Duration::from_secs(60);
    assert_eq!(restarts_of(old, |_| ()), 0);
    let newer = old + Duration::from_secs(30);
    assert_eq!(
        restarts_of(old, |source| write_as_of(source, &vec![b'b'; 3 << 20], newer)),
        1
    );
    let to_come = SystemTime::now() + Duration::from_secs(3600);
    assert_eq!(restarts_of(to_come, |_| ()), 1, "a time that proves nothing");
}

#[test]
fn a_time_of_modification_proves_nothing_before_it_is_two_seconds_old() {
    let place = Place::new();
    let now = SystemTime::now();
    let is_provable = |age_ms: u64| {
        let file = place.file("file");
        write_as_of(&file, b"content", now - Duration::from_millis(age_ms));
        let validators = custom_backend::validators_of(&file.metadata().unwrap(), now);
        backhaul::backend::is_provable(&validators)
    };
    assert!(is_provable(2_001) && is_provable(60_000));
    assert!(!is_provable(1_999) && !is_provable(0));
}
