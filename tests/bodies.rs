//! Requests with another method than GET and with a body: sent whole or not at all, again after every failure, and gone from
//! the state directory once they have ended.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use backhaul::{
    Body, Config, Engine, Error, FixedEnvironment, Method, NewDownload, OperationView, TransferId, TransferStatus,
    WebErrorStatus,
};
use backhaul_backends::{Act, MemoryBackend, Resource};
use backhaul_journal::Disk;
use rustix::process::Signal;
use serde_json::json;

use support::{Home, Seeded, assert_same, names_in};

const URL: &str = "mem://host/endpoint";

/// What somebody does to a file.
type Change = fn(&Path);

/// A state directory, a directory for files, and a server that answers every POST with the same content.
struct Lab {
    home: tempfile::TempDir,
    server: Arc<MemoryBackend>,
    outside: Arc<FixedEnvironment>,
}

impl Lab {
    fn new() -> Self {
        let lab = Self {
            home: tempfile::tempdir().unwrap(),
            server: Arc::new(MemoryBackend::new()),
            outside: FixedEnvironment::new(1),
        };
        fs::create_dir(lab.path("data")).unwrap();
        lab.server.put(URL, Resource::new(vec![b'a'; 40_000], "v1"));
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn open(&self) -> Engine {
        let mut config = Config::default();
        config.window.short_path_bytes_max = 16 << 10;
        config.body_bytes_max = 1 << 20;
        let backends: Vec<Arc<dyn backhaul::Backend>> = vec![Arc::<MemoryBackend>::clone(&self.server)];
        Engine::open(&self.path("state"), config, self.outside.on(Arc::new(Disk)), backends).unwrap()
    }

    fn spooled(&self) -> Vec<String> {
        names_in(&self.path("state/spool"))
    }

    /// A POST of these bytes, spooled.
    fn post(&self, engine: &Engine, name: &str, body: &[u8]) -> NewDownload {
        NewDownload {
            body: Some(Body::Spooled(engine.spool(&mut &*body, u64::MAX).unwrap())),
            ..self.request(name)
        }
    }

    /// A POST of a file.
    fn post_file(&self, name: &str, body: &Path) -> NewDownload {
        NewDownload {
            body: Some(Body::File(body.to_path_buf())),
            ..self.request(name)
        }
    }

    fn request(&self, name: &str) -> NewDownload {
        NewDownload {
            url: URL.into(),
            method: Method::POST,
            destination: self.path("data").join(name),
            app: "test".into(),
            ..NewDownload::default()
        }
    }

    /// Steps until the operation has ended, letting time pass where it waits.
    fn finish(&self, engine: &Engine, id: TransferId) -> OperationView {
        for _ in 0..100 {
            while engine.step() {}
            let view = engine.view(id).unwrap();
            if view.status.is_ended() && view.reason.is_none() {
                return view;
            }
            self.outside.advance(Duration::from_secs(601));
        }
        panic!("it never ended: {:?}", engine.view(id));
    }

    /// The bodies that the server was sent, oldest first.
    fn sent(&self) -> Vec<Vec<u8>> {
        let attempts = self.server.attempts().into_iter();
        attempts.filter_map(|attempt| attempt.body).collect()
    }
}

fn create(engine: &Engine, download: NewDownload) -> Result<TransferId, Error> {
    engine.create(&[download]).map(|ids| ids[0]).map_err(|(_, error)| error)
}

/// What is said of bad input.
fn refused(engine: &Engine, download: NewDownload) -> String {
    create(engine, download).unwrap_err().to_string()
}

#[test]
fn a_body_is_sent_whole_again_after_a_cut_and_a_restart_and_its_copy_goes_with_the_end() {
    let lab = Lab::new();
    let body = Seeded::new(1).bytes(300_000);
    let engine = lab.open();
    lab.server.script(URL, Act::CutAt(30_000));
    let id = create(&engine, lab.post(&engine, "a", &body)).unwrap();
    assert_eq!(lab.spooled().len(), 1);
    while engine.step() {}
    assert_eq!(engine.view(id).unwrap().status, TransferStatus::Waiting);
    // As if it had been killed.
    drop(engine);
    let engine = lab.open();
    assert_eq!(lab.spooled().len(), 1, "what a live operation needs was swept");
    let view = lab.finish(&engine, id);
    assert_eq!((view.status, view.restarts), (TransferStatus::Completed, 1), "{view:?}");
    assert_eq!((view.bytes_wasted, view.resumable), (30_000, Some(false)));
    assert_eq!(view.method, Method::POST);
    assert_eq!(lab.sent(), [body.clone(), body]);
    assert!(
        lab.server
            .attempts()
            .iter()
            .all(|attempt| attempt.method == Method::POST)
    );
    assert_same(&lab.path("data/a"), &vec![b'a'; 40_000]);
    assert!(lab.spooled().is_empty(), "the copy outlived its operation");
}

#[test]
fn one_url_may_be_posted_to_many_times_at_once_and_fetched_once() {
    let lab = Lab::new();
    let engine = lab.open();
    let get = |name| NewDownload {
        method: Method::GET,
        ..lab.request(name)
    };
    create(&engine, get("get")).unwrap();
    let list = [lab.post(&engine, "a", b"1"), lab.post(&engine, "b", b"2")];
    engine.create(&list).unwrap();
    let third = create(&engine, lab.post(&engine, "c", b"3")).unwrap();
    let second_get = create(&engine, get("other")).unwrap_err();
    assert!(matches!(second_get, Error::Conflict { .. }), "{second_get:?}");
    let same_place = create(&engine, lab.post(&engine, "c", b"4")).unwrap_err();
    assert!(
        matches!(same_place, Error::Conflict { id, .. } if id == third),
        "{same_place:?}"
    );
    assert_eq!(lab.spooled().len(), 3);
}

#[test]
fn a_body_file_that_is_changed_or_gone_ends_the_operation_and_is_named() {
    let lab = Lab::new();
    let engine = lab.open();
    let body = lab.path("body");
    let changes: [(&str, Change); 4] = [
        ("gone", |path| fs::remove_file(path).unwrap()),
        ("shorter", |path| fs::write(path, b"short").unwrap()),
        ("touched", |path| {
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }),
        ("another", |path| {
            let modified = fs::metadata(path).unwrap().modified().unwrap();
            let other = path.with_extension("other");
            fs::write(&other, vec![b'B'; 1000]).unwrap();
            let file = fs::File::options().write(true).open(&other).unwrap();
            file.set_modified(modified).unwrap();
            fs::rename(&other, path).unwrap();
        }),
    ];
    for (name, change) in changes {
        fs::write(&body, vec![b'b'; 1000]).unwrap();
        let id = create(&engine, lab.post_file(name, &body)).unwrap();
        change(&body);
        let view = lab.finish(&engine, id);
        let error = view.error.unwrap();
        assert_eq!((view.status, view.attempts), (TransferStatus::Error, 1), "{name}");
        assert_eq!(error.status, WebErrorStatus::FILE_ACCESS);
        assert!(error.message.contains(body.to_str().unwrap()), "{}", error.message);
    }
    assert!(lab.sent().is_empty(), "a body was sent that nobody gave");
    fs::write(&body, vec![b'b'; 1000]).unwrap();
    let id = create(&engine, lab.post_file("right", &body)).unwrap();
    assert_eq!(lab.finish(&engine, id).status, TransferStatus::Completed);
    assert_eq!(lab.sent(), [vec![b'b'; 1000]]);
}

#[test]
fn a_copy_that_is_damaged_or_gone_is_never_sent() {
    let lab = Lab::new();
    let engine = lab.open();
    for is_gone in [false, true] {
        let id = create(&engine, lab.post(&engine, "a", &[b'b'; 5000])).unwrap();
        let copy = lab.path("state/spool").join(&lab.spooled()[0]);
        if is_gone {
            fs::remove_file(&copy).unwrap();
        } else {
            let mut bytes = fs::read(&copy).unwrap();
            bytes[4000] ^= 1;
            fs::write(&copy, bytes).unwrap();
        }
        let view = lab.finish(&engine, id);
        let error = view.error.unwrap();
        assert_eq!(
            (view.status, error.status),
            (TransferStatus::Error, WebErrorStatus::FILE_ACCESS)
        );
        assert!(error.message.contains(copy.to_str().unwrap()), "{}", error.message);
    }
    assert!(lab.sent().is_empty() && lab.spooled().is_empty());
}

#[test]
fn what_cannot_be_sent_is_refused_before_anything_is_stored() {
    let lab = Lab::new();
    let engine = lab.open();
    let body = lab.path("body");
    fs::write(&body, b"b").unwrap();
    std::os::unix::fs::symlink(&body, lab.path("link")).unwrap();
    let get = NewDownload {
        method: Method::GET,
        ..lab.post_file("a", &body)
    };
    assert!(refused(&engine, get).contains("GET takes no body"));
    let mirrored = NewDownload {
        mirrors: vec!["mem://other/a".into()],
        ..lab.post_file("a", &body)
    };
    assert!(refused(&engine, mirrored).contains("mirrors are for GET"));
    for (path, words) in [
        (lab.path("link"), "is a symlink"),
        (lab.path("data"), "is a directory"),
        (lab.path("missing"), "cannot be looked at"),
        (lab.path("none/body"), "its directory cannot be looked at"),
        (PathBuf::from("/dev/null"), "is no regular file"),
        (PathBuf::new(), "is no file name"),
    ] {
        let message = refused(&engine, lab.post_file("a", &path));
        assert!(message.starts_with("body '") && message.contains(words), "{message}");
    }
    for (max, config_counts) in [(999, false), (u64::MAX, true)] {
        let len = if config_counts { (1 << 20) + 1 } else { 1000 };
        let error = engine.spool(&mut io::repeat(b'x').take(len), max).unwrap_err();
        assert!(matches!(error, Error::LimitReached { .. }), "{error:?}");
    }
    let broken = engine.spool(&mut Broken, u64::MAX).unwrap_err();
    assert!(matches!(broken, Error::Io(..)), "{broken:?}");
    assert!(engine.views().is_empty() && lab.spooled().is_empty());
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("broken"))
    }
}

#[test]
fn a_copy_belongs_to_one_operation_and_goes_with_whoever_gives_it_up() {
    let lab = Lab::new();
    let engine = lab.open();
    let first = lab.post(&engine, "a", b"once");
    let twice = NewDownload {
        destination: lab.path("data/b"),
        ..first.clone()
    };
    let (index, error) = engine.create(&[first.clone(), twice.clone()]).unwrap_err();
    assert!(
        index == 1 && error.to_string().contains("belongs to another operation"),
        "{error}"
    );
    let id = create(&engine, first).unwrap();
    assert!(refused(&engine, twice).contains("belongs to another operation"));
    assert_eq!(lab.spooled().len(), 1);
    let unused = lab.post(&engine, "c", b"unused");
    assert_eq!(lab.spooled().len(), 2);
    drop(unused);
    assert_eq!(lab.spooled().len(), 1, "what nobody holds is left");
    engine.cancel(id).unwrap();
    while engine.step() {}
    assert!(lab.spooled().is_empty(), "the copy of a canceled operation is left");
    let other = Lab::new();
    let elsewhere = other.post(&other.open(), "d", b"elsewhere");
    assert!(refused(&engine, elsewhere).contains("another state directory"));
}

#[test]
fn a_start_sweeps_the_copies_that_a_crash_left_and_no_others() {
    let lab = Lab::new();
    let engine = lab.open();
    let held = NewDownload {
        hold: true,
        ..lab.post(&engine, "a", b"needed")
    };
    create(&engine, held).unwrap();
    let needed = lab.spooled();
    // Between the copy and its operation a crash leaves a file that nobody knows.
    fs::write(lab.path("state/spool").join(format!("{}.body", "0".repeat(32))), b"x").unwrap();
    fs::write(lab.path("state/spool/README"), b"somebody else's").unwrap();
    drop(engine);
    drop(lab.open());
    let left: Vec<String> = lab.spooled().into_iter().filter(|name| name != "README").collect();
    assert_eq!(left, needed);
    assert!(lab.path("state/spool/README").exists());
}

/// Answers connections one after the other, each as its script says, and reports each request: its head in lower case and
/// as much of its body as was taken.
struct Origin {
    address: std::net::SocketAddr,
    requests: mpsc::Receiver<(String, Vec<u8>)>,
    _stalled: mpsc::Receiver<TcpStream>,
}

enum Play {
    /// Takes all of the request, and answers so.
    Answer(&'static str),
    /// Takes a part of the body, and then nothing as long as the test lasts.
    Stall,
}

impl Origin {
    fn new(plays: Vec<Play>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = mpsc::channel();
        let (keep, stalled) = mpsc::channel();
        thread::spawn(move || {
            for play in plays {
                let (mut stream, _) = listener.accept().unwrap();
                let (head, len) = take_head(&mut stream);
                let len = if matches!(play, Play::Stall) { 1000 } else { len };
                let mut body = vec![0; len];
                stream.read_exact(&mut body).unwrap();
                sender.send((head, body)).unwrap();
                match play {
                    Play::Answer(answer) => stream.write_all(answer.as_bytes()).unwrap(),
                    // Reading on, or closing, would let the sender come to its end.
                    Play::Stall => keep.send(stream).unwrap(),
                }
            }
        });
        Self {
            address,
            requests,
            _stalled: stalled,
        }
    }

    fn url(&self) -> String {
        format!("http://{}/endpoint", self.address)
    }

    fn request(&self) -> (String, Vec<u8>) {
        self.requests.recv_timeout(support::STEP_MAX).unwrap()
    }
}

fn take_head(stream: &mut TcpStream) -> (String, usize) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let mut lines = head.lines();
    let len = lines.find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let len = len.unwrap_or(0);
    (head, len)
}

const DONE: &str =
    "HTTP/1.1 200 OK\r\nX-Job: 7\r\nSet-Cookie: id=hush\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\ndone";

#[test]
fn a_post_of_the_command_sends_a_file_or_its_input_and_shows_the_response() {
    let home = Home::new();
    let body = Seeded::new(2).bytes(200_000);
    let file = home.path().join("body");
    fs::write(&file, &body).unwrap();
    let origin = Origin::new(vec![Play::Answer(DONE), Play::Answer(DONE)]);
    let (url, type_header) = (origin.url(), "Content-Type: application/x-own");
    let output = home.download("answer");
    let words = |body: &'static str, output: &Path| {
        let output = output.to_str().unwrap().to_owned();
        [
            "get",
            &url,
            "-o",
            &output,
            "--method",
            "POST",
            "--header",
            type_header,
            "--body",
            body,
        ]
        .map(str::to_owned)
    };
    home.run(&words("body", &output)).expect_code(0);
    let (head, got) = origin.request();
    assert!(
        head.starts_with("post /endpoint ") && head.contains("content-type: application/x-own\r\n"),
        "{head}"
    );
    assert!(got == body, "the body is another one");
    assert_same(&output, b"done");
    let shown = home.operation();
    assert_eq!(shown["method"], "POST");
    let headers = json!([["X-Job", "7"], ["Content-Type", "text/plain"], ["Content-Length", "4"]]);
    assert_eq!(shown["response_headers"], headers, "{shown}");
    let details = home.run(&["show", shown["id"].as_str().unwrap()]).expect_code(0);
    assert!(details.stdout.contains("method         POST\n"), "{}", details.stdout);
    let mut command = home.command(&words("-", &home.download("second")));
    support::Running::spawn_with_input(&mut command, b"from standard input")
        .finish()
        .expect_code(0);
    assert_eq!(origin.request().1, b"from standard input");
    assert!(names_in(&home.state().join("spool")).is_empty());
}

#[test]
fn a_kill_while_a_body_is_sent_makes_the_next_run_send_all_of_it_again() {
    let home = Home::new();
    let body = Seeded::new(3).bytes(16 << 20);
    let origin = Origin::new(vec![Play::Stall, Play::Answer(DONE)]);
    let output = home.download("answer");
    let words = [
        "add",
        &origin.url(),
        "-o",
        output.to_str().unwrap(),
        "--method",
        "PUT",
        "--body",
        "-",
    ];
    support::Running::spawn_with_input(&mut home.command(&words), &body)
        .finish()
        .expect_code(0);
    assert_eq!(names_in(&home.state().join("spool")).len(), 1);
    let mut run = home.spawn(&["run", "--until-idle"]);
    assert_eq!(origin.request().1, body[..1000]);
    run.kill();
    home.run(&["run", "--until-idle"]).expect_code(0);
    let (head, got) = origin.request();
    assert!(head.starts_with("put /endpoint ") && !head.contains("range"), "{head}");
    assert!(got == body, "it was not sent whole");
    assert_same(&output, b"done");
    assert!(names_in(&home.state().join("spool")).is_empty());
}

#[test]
fn a_signal_ends_a_command_that_is_sending_at_once_and_the_operation_stays() {
    let home = Home::new();
    fs::write(home.path().join("body"), vec![b'x'; 64 << 20]).unwrap();
    let origin = Origin::new(vec![Play::Stall]);
    let output = home.download("answer");
    let words = [
        "get",
        &origin.url(),
        "-o",
        output.to_str().unwrap(),
        "--method",
        "POST",
        "--body",
        "body",
    ];
    let get = home.spawn(&words);
    origin.request();
    let signaled = Instant::now();
    get.signal(Signal::TERM);
    let ended = get.finish();
    let took = signaled.elapsed();
    assert!(!ended.status.success(), "{}", ended.stderr);
    // A second, and what a busy machine adds to it.
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(ended.stderr.contains("backhaul run"), "{}", ended.stderr);
    assert_eq!(home.operation()["status"], "Queued");
}

#[test]
fn the_command_refuses_what_cannot_be_sent_before_it_reads_or_stores_anything() {
    let home = Home::new();
    let rows: [(&[&str], &str); 6] = [
        (&["add", "http://h/", "--body", "-"], "GET takes no body"),
        (&["add", "http://h/", "--body", "body"], "GET takes no body"),
        (
            &["add", "-i", "-", "--method", "POST", "--body", "-"],
            "standard input already",
        ),
        (
            &["add", "http://h/a", "http://h/b", "--method", "POST", "--body", "-"],
            "for several URLs",
        ),
        (&["add", "http://h/", "--method", "post"], "write POST"),
        (
            &["add", "http://h/", "--method", "CONNECT"],
            "without the content of a file",
        ),
    ];
    fs::write(home.path().join("body"), b"b").unwrap();
    for (words, expected) in rows {
        let mut command = home.command(words);
        let ended = support::Running::spawn_with_input(&mut command, b"http://h/c\n").finish();
        assert_eq!(ended.code(), Some(2), "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(expected), "{words:?}: {}", ended.stderr);
    }
    assert!(!home.state().exists(), "something was stored");
}

#[test]
fn get_goes_on_with_the_same_post_and_refuses_to_send_another_body_in_its_place() {
    let home = Home::new();
    let body = home.path().join("body");
    fs::write(&body, b"first").unwrap();
    let origin = Origin::new(vec![Play::Answer(DONE)]);
    let output = home.download("answer");
    let words = [
        &origin.url(),
        "-o",
        output.to_str().unwrap(),
        "--method",
        "POST",
        "--body",
    ];
    let with = |command: &str, body: &str| {
        let words = [command].into_iter().chain(words).chain([body]);
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    home.run(&with("add", "body")).expect_code(0);
    fs::write(home.path().join("other"), b"other").unwrap();
    let ended = home.run(&with("get", "other"));
    assert!(
        !ended.status.success() && ended.stderr.contains("body '"),
        "{}",
        ended.stderr
    );
    home.run(&with("get", "body")).expect_code(0);
    assert_eq!(origin.request().1, b"first");
    assert_eq!(home.listing().len(), 1);
}
