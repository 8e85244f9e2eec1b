//! Reads of files that are being fetched: what is there is read whenever there is an engine, and for random access a read
//! says what is fetched next.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use backhaul::{
    Backend, Collision, Config, Engine, Environment, Error, FixedEnvironment, NewDownload, ReadOutcome, TransferId,
    TransferStatus, Until, WebErrorStatus, Window, backends,
};
use backhaul_backends::{
    Act, Capabilities, Failure, Head, Interrupt, MemoryBackend, Method, Refused, Request, Resource, Sink,
};
use backhaul_journal::Disk;
use support::nginx::Nginx;
use support::{Seeded, assert_same, names_in, until};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// For reads that are expected to bring something.
const LONG: Duration = Duration::from_secs(60);

/// A state directory and a place for files.
struct Lab {
    home: tempfile::TempDir,
    config: Config,
}

impl Lab {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("data")).unwrap();
        let mut config = Config::default();
        config.window.claim_bytes = 256 * KIB;
        config.retry.delay_first = Duration::from_millis(1);
        config.retry.delay_max = Duration::from_millis(8);
        Self { home, config }
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    fn file(&self) -> PathBuf {
        self.data().join("file")
    }

    fn open(&self) -> Arc<Engine> {
        Arc::new(open(self.home.path(), self.config.clone()))
    }

    fn open_on(&self, backend: Arc<dyn Backend>, environment: Environment) -> Arc<Engine> {
        let state = self.home.path().join("state");
        Arc::new(Engine::open(&state, self.config.clone(), environment, vec![backend]).unwrap())
    }

    fn download(&self, url: &str) -> NewDownload {
        NewDownload {
            url: url.into(),
            destination: self.file(),
            app: "test".into(),
            random_access: true,
            ..NewDownload::default()
        }
    }
}

fn open(home: &Path, config: Config) -> Engine {
    let backends = backends(&config, |_| None).unwrap();
    Engine::open(&home.join("state"), config, Environment::system(), backends).unwrap()
}

fn add(engine: &Engine, download: NewDownload) -> TransferId {
    engine.create(&[download]).unwrap()[0]
}

/// An engine at work, until it is let go.
struct AtWork {
    engine: Arc<Engine>,
    thread: Option<JoinHandle<()>>,
}

impl AtWork {
    fn start(engine: &Arc<Engine>) -> Self {
        let (running, tick) = (Arc::clone(engine), Some(Duration::from_millis(5)));
        let (sender, has_begun) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            running
                .run(Until::Stopped, tick, |_| {
                    let _ = sender.send(());
                })
                .unwrap();
        });
        has_begun.recv().unwrap();
        Self {
            engine: Arc::clone(engine),
            thread: Some(thread),
        }
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.engine.stop();
        let _ = self.thread.take().unwrap().join();
    }
}

fn wait_for(engine: &Engine, id: TransferId, status: TransferStatus) {
    until("the end", || {
        let view = engine.view(id).unwrap();
        let is_over = view.ended_at_ms.is_some();
        assert!(!is_over || view.status == status, "{view:?}");
        is_over.then_some(())
    });
}

/// Reads all of a range, as whoever plays a file does.
fn read_all(engine: &Engine, id: TransferId, first: u64, end: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while first + (bytes.len() as u64) < end {
        let at = first + bytes.len() as u64;
        let max = usize::try_from((end - at).min(64 * KIB)).unwrap();
        let outcome = engine.read_at(id, at, max, LONG).unwrap();
        assert!(!outcome.bytes.is_empty(), "nothing came at {at}");
        bytes.extend(outcome.bytes);
    }
    bytes
}

fn slice(content: &[u8], first: u64, end: u64) -> &[u8] {
    &content[usize::try_from(first).unwrap()..usize::try_from(end).unwrap()]
}

// ---- a slow server ----

/// Serves one file at a limited rate for each connection, with ranges and a fixed Last-Modified, and without entity tags.
struct Slow {
    shared: Arc<Shared>,
    port: u16,
}

struct Shared {
    /// The content, and what is said of it; a later one takes the place of the one before.
    versions: Vec<Vec<u8>>,
    version: AtomicUsize,
    bytes_per_second: AtomicU64,
    served_bytes: AtomicU64,
    refuses_next_range: AtomicBool,
    ranges: Mutex<Vec<Option<(u64, u64)>>>,
    is_over: AtomicBool,
}

impl Slow {
    fn start(versions: Vec<Vec<u8>>, bytes_per_second: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            versions,
            version: AtomicUsize::new(0),
            bytes_per_second: AtomicU64::new(bytes_per_second),
            served_bytes: AtomicU64::new(0),
            refuses_next_range: AtomicBool::new(false),
            ranges: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.is_over.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                // A client that hangs up ends its thread, and that is all.
                thread::spawn(move || drop(shared.serve(stream.unwrap())));
            }
        });
        Self { shared, port }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/file", self.port)
    }

    fn served(&self) -> u64 {
        self.shared.served_bytes.load(Ordering::SeqCst)
    }

    fn hurry(&self) {
        self.shared.bytes_per_second.store(u64::MAX, Ordering::SeqCst);
    }

    fn ranges(&self) -> Vec<Option<(u64, u64)>> {
        self.shared.ranges.lock().unwrap().clone()
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        self.hurry();
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let mut range = None;
        loop {
            let line = lines.next().ok_or(std::io::ErrorKind::UnexpectedEof)??.to_lowercase();
            if let Some(asked) = line.strip_prefix("range: bytes=") {
                range = asked
                    .split_once('-')
                    .map(|(first, last)| (first.to_owned(), last.to_owned()));
            }
            if line.is_empty() {
                break;
            }
        }
        let version = self.version.load(Ordering::SeqCst);
        let content = &self.versions[version];
        let total = content.len() as u64;
        let asked = range.map(|(first, last)| {
            let last = last.parse().unwrap_or(total - 1);
            (first.parse::<u64>().unwrap(), last.min(total - 1) + 1)
        });
        self.ranges.lock().unwrap().push(asked);
        let modified = format!("Sun, 06 Nov 1994 08:49:{:02} GMT", 10 + version);
        let common = format!(
            "Date: Mon, 07 Nov 1994 08:49:37 GMT\r\nLast-Modified: {modified}\r\nAccept-Ranges: bytes\r\nConnection: close\r\n"
        );
        let (first, end) = asked.unwrap_or((0, total));
        let length = end - first;
        let status = match asked {
            Some(_) if self.refuses_next_range.swap(false, Ordering::SeqCst) => {
                return stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
            Some(_) => format!(
                "206 Partial Content\r\nContent-Range: bytes {first}-{}/{total}",
                end - 1
            ),
            None => "200 OK".to_owned(),
        };
        let head = format!("HTTP/1.1 {status}\r\n{common}Content-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        for chunk in slice(content, first, end).chunks(16 << 10) {
            stream.write_all(chunk)?;
            self.served_bytes.fetch_add(chunk.len() as u64, Ordering::SeqCst);
            let rate = self.bytes_per_second.load(Ordering::SeqCst);
            // The pace of this server; no test waits for it.
            thread::sleep(Duration::from_nanos(chunk.len() as u64 * 1_000_000_000 / rate));
        }
        Ok(())
    }
}

#[test]
fn a_read_near_the_end_of_a_slow_file_has_that_fetched_first_and_the_rest_afterwards() {
    let lab = Lab::new();
    let content = Seeded::new(1).bytes(20_000_000);
    let server = Slow::start(vec![content.clone()], 1_000_000);
    let engine = lab.open();
    let id = add(&engine, lab.download(&server.url()));
    let at_work = AtWork::start(&engine);
    // So that there is something of the beginning before the read goes elsewhere.
    engine.read_at(id, 0, 1, LONG).unwrap();
    let outcome = engine.read_at(id, 18_000_000, 100_000, LONG).unwrap();
    let before_it = server.served();
    assert!(
        !outcome.bytes.is_empty() && !outcome.end_of_file,
        "{}",
        outcome.bytes.len()
    );
    assert_eq!(
        outcome.bytes,
        slice(&content, 18_000_000, 18_000_000 + outcome.bytes.len() as u64)
    );
    // In order, 18 MB come before it.
    assert!(
        before_it < 6_000_000,
        "{before_it} bytes were served before the read had its own"
    );
    let (generation, ranges) = engine.downloaded_ranges(id).unwrap();
    assert!(generation == 0 && ranges.len() >= 2, "{ranges:?}");
    assert!(
        ranges.iter().any(|(first, end)| *first == 18_000_000 && end > first),
        "{ranges:?}"
    );
    server.hurry();
    wait_for(&engine, id, TransferStatus::Completed);
    assert_same(&lab.file(), &content);
    assert_eq!(engine.view(id).unwrap().restarts, 0);
    assert_eq!(engine.downloaded_ranges(id).unwrap(), (0, vec![(0, 20_000_000)]));
    drop(at_work);
    // What was there when it went elsewhere was not fetched twice, but for what lay in its sockets and the bytes compared.
    assert!(server.served() < 20_000_000 + 10 * MIB, "{}", server.served());
}

#[test]
fn an_ordinary_download_is_read_as_it_comes_and_no_read_moves_it() {
    let lab = Lab::new();
    let content = Seeded::new(2).bytes(3_000_000);
    let server = Slow::start(vec![content.clone()], 1_500_000);
    let engine = lab.open();
    let ordinary = NewDownload {
        random_access: false,
        ..lab.download(&server.url())
    };
    let id = add(&engine, ordinary);
    let _at_work = AtWork::start(&engine);
    let outcome = engine.read_at(id, 2_900_000, 1000, Duration::ZERO).unwrap();
    assert!(outcome.bytes.is_empty() && !outcome.end_of_file);
    // Each read waits for what comes next.
    assert!(read_all(&engine, id, 0, 3_000_000) == content);
    wait_for(&engine, id, TransferStatus::Completed);
    assert_eq!(server.ranges(), [None], "one response, from the first byte on");
    assert_eq!(engine.view(id).unwrap().attempts, 1);
}

#[test]
fn a_read_of_a_changed_file_tells_its_generation_and_has_bytes_of_that_alone() {
    let lab = Lab::new();
    let old = Seeded::new(3).bytes(4_000_000);
    let new = Seeded::new(4).bytes(4_100_000);
    let server = Slow::start(vec![old.clone(), new.clone()], 1_000_000);
    let engine = lab.open();
    let id = add(&engine, lab.download(&server.url()));
    let _at_work = AtWork::start(&engine);
    let before = engine.read_at(id, 0, 10_000, LONG).unwrap();
    assert!(before.generation == 0 && !before.bytes.is_empty());
    assert!(old.starts_with(&before.bytes));
    server.shared.version.store(1, Ordering::SeqCst);
    let after = engine.read_at(id, 3_000_000, 10_000, LONG).unwrap();
    assert_eq!(after.generation, 1);
    assert_eq!(
        after.bytes,
        slice(&new, 3_000_000, 3_000_000 + after.bytes.len() as u64)
    );
    assert!(!after.bytes.is_empty());
    server.hurry();
    wait_for(&engine, id, TransferStatus::Completed);
    assert_same(&lab.file(), &new);
    assert_eq!(engine.read_at(id, 4_100_000, 10, LONG).unwrap().generation, 1);
}

#[test]
fn a_server_that_refuses_the_parts_of_what_it_gives_as_a_whole_is_left_to_give_it_whole() {
    let mut lab = Lab::new();
    lab.config.connections.max = 1;
    let content = Seeded::new(5).bytes(2_000_000);
    let server = Slow::start(vec![content.clone()], 1_000_000);
    server.shared.refuses_next_range.store(true, Ordering::SeqCst);
    let engine = lab.open();
    let id = add(&engine, lab.download(&server.url()));
    let at_work = AtWork::start(&engine);
    assert!(engine.read_at(id, 0, 10, LONG).unwrap().bytes.len() <= 10);
    let reader = Arc::clone(&engine);
    let reader = thread::spawn(move || reader.read_at(id, 1_900_000, 10, LONG));
    // The range that the read asks for is refused; what comes after it is not.
    until("the refusal", || {
        server.ranges().iter().any(Option::is_some).then_some(())
    });
    server.hurry();
    let outcome = reader.join().unwrap().unwrap();
    assert_eq!(outcome.bytes, slice(&content, 1_900_000, 1_900_010));
    wait_for(&engine, id, TransferStatus::Completed);
    assert_same(&lab.file(), &content);
    drop(at_work);
}

// ---- nginx ----

#[test]
fn a_server_that_cannot_do_what_random_access_needs_fails_it_before_a_byte_is_kept() {
    let nginx = Nginx::start();
    nginx.put_seeded("file", 3_000_000);
    for (path, status) in [
        ("/norange/file", WebErrorStatus::INSUFFICIENT_RANGE_SUPPORT),
        ("/novalidator/file", WebErrorStatus::INSUFFICIENT_RANGE_SUPPORT),
        ("/nolength/file", WebErrorStatus::MISSING_CONTENT_LENGTH_SUPPORT),
    ] {
        let lab = Lab::new();
        let engine = lab.open();
        let id = add(&engine, lab.download(&nginx.url(path)));
        let _at_work = AtWork::start(&engine);
        let read = engine.read_at(id, 1000, 10, LONG);
        let Err(Error::Unsuccessful {
            error, status: ended, ..
        }) = read
        else {
            panic!("{path}: {read:?}");
        };
        assert_eq!((error, ended), (Some(status), TransferStatus::Error), "{path}");
        wait_for(&engine, id, TransferStatus::Error);
        let view = engine.view(id).unwrap();
        assert_eq!((view.attempts, view.bytes_wasted), (1, 0), "{path}: {view:?}");
        assert_eq!(engine.downloaded_ranges(id).unwrap(), (0, Vec::new()), "{path}");
        assert!(names_in(&lab.data()).is_empty(), "{path}: {:?}", names_in(&lab.data()));
    }
    // The same server is good enough for an ordinary download, and its plain path for random access without entity tags.
    for (path, random_access) in [("/norange/file", false), ("/noetag/file", true)] {
        let lab = Lab::new();
        let engine = lab.open();
        let download = NewDownload {
            random_access,
            ..lab.download(&nginx.url(path))
        };
        let id = add(&engine, download);
        let _at_work = AtWork::start(&engine);
        wait_for(&engine, id, TransferStatus::Completed);
    }
}

#[test]
fn several_threads_read_at_once_all_over_a_file_and_it_is_published_whole() {
    let nginx = Nginx::start();
    let content = Arc::new(nginx.put_seeded("file", 6_000_000));
    let lab = Lab::new();
    let engine = lab.open();
    let id = add(&engine, lab.download(&nginx.url("/rate/2000k/file")));
    let _at_work = AtWork::start(&engine);
    let readers: Vec<_> = (0..6_u64)
        .map(|number| {
            let (engine, content) = (Arc::clone(&engine), Arc::clone(&content));
            thread::spawn(move || {
                let mut dice = Seeded::new(number);
                for _ in 0..6 {
                    let first = dice.below(6_000_000 - 40_000);
                    let end = first + 1 + dice.below(40_000);
                    assert!(
                        read_all(&engine, id, first, end) == slice(&content, first, end),
                        "{first}..{end}"
                    );
                }
            })
        })
        .collect();
    for reader in readers {
        reader.join().unwrap();
    }
    wait_for(&engine, id, TransferStatus::Completed);
    assert_same(&lab.file(), &content);
    let view = engine.view(id).unwrap();
    assert_eq!((view.restarts, view.attempts), (0, 1), "{view:?}");
    assert!(view.random_access);
}

#[test]
fn an_empty_and_a_tiny_file_can_be_had_with_random_access() {
    let nginx = Nginx::start();
    for length in [0, 1, 1000] {
        let content = nginx.put_seeded("file", length);
        let lab = Lab::new();
        let engine = lab.open();
        let id = add(&engine, lab.download(&nginx.url("/file")));
        let _at_work = AtWork::start(&engine);
        assert!(read_all(&engine, id, 0, length as u64) == content);
        let end = engine.read_at(id, length as u64, 10, LONG).unwrap();
        assert!(end.end_of_file && end.bytes.is_empty());
        wait_for(&engine, id, TransferStatus::Completed);
        assert_same(&lab.file(), &content);
        nginx.put("file", b"");
    }
}

// ---- a crash ----

const HOME: &str = "BACKHAUL_TEST_RANDOM_ACCESS_HOME";
const KILLED_SEEK: u64 = 6_000_000;

/// Nothing by itself: the process that the test after it starts and kills runs this test alone, with a home to work in.
#[test]
fn whoever_is_killed_has_claimed_what_lies_on_both_sides_of_a_gap() {
    let Some(home) = std::env::var_os(HOME).map(PathBuf::from) else {
        return;
    };
    let mut config = Lab::new().config;
    config.connections.max = 1;
    let engine = Arc::new(open(&home, config));
    let id = engine.views()[0].id;
    let _at_work = AtWork::start(&engine);
    drop(engine.read_at(id, 0, 1000, LONG).unwrap());
    drop(engine.read_at(id, KILLED_SEEK, 1000, LONG).unwrap());
    let ranges = || Some(engine.view(id).unwrap().ranges).filter(|ranges| ranges.len() == 2);
    let first = until("a claim of both", ranges);
    // Claims follow each other, and each is durable before the next one is made.
    until("the next claim", || ranges().filter(|ranges| *ranges != first));
    // To standard error, of which the test harness takes nothing away.
    writeln!(std::io::stderr(), "both").unwrap();
    thread::park();
}

#[test]
fn both_sides_of_a_gap_outlive_a_kill_and_the_gap_is_filled_by_the_next_process() {
    let lab = Lab::new();
    let content = Seeded::new(6).bytes(8_000_000);
    let server = Slow::start(vec![content.clone()], 1_000_000);
    let engine = lab.open();
    let id = add(&engine, lab.download(&server.url()));
    Arc::into_inner(engine).unwrap().close().unwrap();
    let mut killed = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .arg("whoever_is_killed_has_claimed_what_lies_on_both_sides_of_a_gap")
        .env(HOME, lab.home.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(killed.stderr.take().unwrap()).lines();
    let has_both = lines.any(|line| line.unwrap() == "both");
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(has_both, "it ended too early");
    let engine = lab.open();
    let (generation, ranges) = engine.downloaded_ranges(id).unwrap();
    let [(0, before), (KILLED_SEEK, after)] = ranges[..] else {
        panic!("{ranges:?}");
    };
    assert_eq!(generation, 0);
    // Nobody works on it yet.
    assert!(read_all(&engine, id, 0, before) == slice(&content, 0, before));
    assert!(read_all(&engine, id, KILLED_SEEK, after) == slice(&content, KILLED_SEEK, after));
    assert!(engine.read_at(id, before, 10, Duration::ZERO).unwrap().bytes.is_empty());
    let asked_before = server.ranges().len();
    server.hurry();
    let _at_work = AtWork::start(&engine);
    wait_for(&engine, id, TransferStatus::Completed);
    assert_same(&lab.file(), &content);
    let view = engine.view(id).unwrap();
    assert_eq!((view.restarts, view.bytes_wasted), (0, 0), "{view:?}");
    let asked: Vec<(u64, u64)> = server.ranges()[asked_before..]
        .iter()
        .map(|range| range.unwrap())
        .collect();
    // The bytes before a gap are compared once more, 4 KiB at most; all others that were claimed are not asked for again.
    let is_missing =
        |(first, end): &(u64, u64)| *first >= before - 4 * KIB && *end <= KILLED_SEEK || *first >= after - 4 * KIB;
    assert!(
        !asked.is_empty() && asked.iter().all(is_missing),
        "{asked:?}, of {ranges:?}"
    );
}

// ---- a scripted backend ----

const URL: &str = "mem://host/file";

/// Does something with the engine between two writes.
type Between = dyn Fn(u64) + Send + Sync;

/// The scripted backend, with somebody who reads in the middle of it.
#[derive(Default)]
struct Watched {
    inner: MemoryBackend,
    between: Mutex<Option<Arc<Between>>>,
}

struct WatchedSink<'a> {
    sink: &'a mut dyn Sink,
    between: Option<Arc<Between>>,
    bytes: u64,
}

impl Sink for WatchedSink<'_> {
    fn begin(&mut self, head: &Head) -> Result<(), Refused> {
        self.sink.begin(head)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        self.sink.write(bytes)?;
        self.bytes += bytes.len() as u64;
        if let Some(between) = &self.between {
            between(self.bytes);
        }
        Ok(())
    }
}

impl Backend for Watched {
    fn schemes(&self) -> Vec<&str> {
        vec!["mem"]
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            resume: true,
            ranges: true,
            methods: true,
            headers: true,
            proxies: false,
            ..Capabilities::default()
        }
    }

    fn download(&self, request: &Request, sink: &mut dyn Sink, interrupt: &Interrupt) -> Result<(), Failure> {
        let between = self.between.lock().unwrap().clone();
        let mut sink = WatchedSink {
            sink,
            between,
            bytes: 0,
        };
        self.inner.download(request, &mut sink, interrupt)
    }
}

fn scripted(length: u64) -> (Arc<Watched>, Vec<u8>) {
    let content = Seeded::new(7).bytes(usize::try_from(length).unwrap());
    let server = Arc::new(Watched::default());
    server.inner.put(URL, Resource::new(content.clone(), "a"));
    (server, content)
}

fn small(lab: &mut Lab) {
    lab.config.buffer_bytes = 16 << 10;
    lab.config.window.claim_bytes = 32 * KIB;
    lab.config.window.unclaimed_bytes_max = 64 * KIB;
    lab.config.window.short_path_bytes_max = 16 * KIB;
}

#[test]
fn a_stepped_engine_follows_the_reads_that_come_between_its_writes() {
    let mut lab = Lab::new();
    small(&mut lab);
    let (server, content) = scripted(4 * MIB);
    let engine = lab.open_on(Arc::clone(&server) as _, FixedEnvironment::new(1).on(Arc::new(Disk)));
    let id = add(&engine, lab.download(URL));
    // Seeks to the end, to the middle and back, each once some bytes have come.
    let seeks = Mutex::new(VecDeque::from([3 * MIB, MIB, 2 * MIB]));
    let reader = Arc::downgrade(&engine);
    let between = move |bytes: u64| {
        if bytes == 64 * KIB
            && let (Some(engine), Some(offset)) = (reader.upgrade(), seeks.lock().unwrap().pop_front())
        {
            let outcome = engine.read_at(id, offset, 1000, Duration::ZERO).unwrap();
            assert!(outcome.bytes.is_empty() && !outcome.end_of_file);
        }
    };
    *server.between.lock().unwrap() = Some(Arc::new(between));
    assert!(engine.step());
    let offsets: Vec<u64> = server
        .inner
        .attempts()
        .iter()
        .map(|attempt| attempt.offset_bytes)
        .collect();
    assert_eq!(offsets[..4], [0, 3 * MIB, MIB, 2 * MIB], "{offsets:?}");
    assert!(
        engine.read_at(id, 0, 100, LONG).unwrap().bytes == content[..100],
        "before it has its name"
    );
    assert_eq!(engine.downloaded_ranges(id).unwrap(), (0, vec![(0, 4 * MIB)]));
    while engine.step() {}
    assert_eq!(engine.view(id).unwrap().status, TransferStatus::Completed);
    assert_same(&lab.file(), &content);
}

#[test]
fn a_server_that_falls_silent_is_left_for_what_somebody_waits_for() {
    let mut lab = Lab::new();
    small(&mut lab);
    lab.config.connections.max = 1;
    let (server, content) = scripted(2 * MIB);
    server.inner.script(URL, Act::HangAt(100_000));
    let written = Arc::new(AtomicU64::new(0));
    let writes = Arc::clone(&written);
    *server.between.lock().unwrap() = Some(Arc::new(move |bytes| writes.store(bytes, Ordering::SeqCst)));
    let engine = lab.open_on(Arc::clone(&server) as _, Environment::system());
    let id = add(&engine, lab.download(URL));
    let _at_work = AtWork::start(&engine);
    // From here on the connection looks at nothing any more.
    until("the silence", || {
        (written.load(Ordering::SeqCst) == 100_000).then_some(())
    });
    let outcome = engine.read_at(id, MIB, 1000, LONG).unwrap();
    assert!(!outcome.bytes.is_empty());
    assert_eq!(outcome.bytes, slice(&content, MIB, MIB + outcome.bytes.len() as u64));
    wait_for(&engine, id, TransferStatus::Completed);
    assert_same(&lab.file(), &content);
    assert_eq!(engine.view(id).unwrap().attempts, 1);
}

#[test]
fn a_read_that_waits_is_woken_by_the_bytes_and_needs_no_claim() {
    // On the short path, which has no ledger, and off it.
    for short_path_bytes_max in [MIB, 16 * KIB] {
        let mut lab = Lab::new();
        lab.config.buffer_bytes = 16 << 10;
        let never = Duration::from_secs(3600);
        lab.config.window = Window {
            claim_bytes: 1 << 30,
            claim_after: never,
            unclaimed_bytes_max: 1 << 30,
            unclaimed_age_max: never,
            short_path_bytes_max,
        };
        let (server, content) = scripted(200_000);
        server.inner.script(URL, Act::HangAt(100_000));
        let engine = lab.open_on(server, Environment::system());
        let ordinary = NewDownload {
            random_access: false,
            ..lab.download(URL)
        };
        let id = add(&engine, ordinary);
        let waiting = Arc::clone(&engine);
        let waiting = thread::spawn(move || waiting.read_at(id, 99_990, 10, LONG).unwrap());
        let _at_work = AtWork::start(&engine);
        assert_eq!(waiting.join().unwrap().bytes, slice(&content, 99_990, 100_000));
        assert_eq!(engine.downloaded_ranges(id).unwrap(), (0, vec![(0, 100_000)]));
        assert_eq!(engine.view(id).unwrap().ranges, []);
    }
}

#[test]
fn what_is_there_of_a_paused_download_is_read_and_a_read_that_waits_goes_on_with_it() {
    let mut lab = Lab::new();
    small(&mut lab);
    let (server, content) = scripted(2 * MIB);
    server.inner.script(URL, Act::HangAt(100_000));
    let engine = lab.open_on(Arc::clone(&server) as _, Environment::system());
    let id = add(&engine, lab.download(URL));
    let at_work = AtWork::start(&engine);
    assert!(read_all(&engine, id, 0, 100_000) == content[..100_000]);
    engine.pause(id).unwrap();
    until("the pause", || {
        (engine.view(id).unwrap().status == TransferStatus::PausedByApplication).then_some(())
    });
    assert!(read_all(&engine, id, 0, 100_000) == content[..100_000]);
    assert_eq!(engine.downloaded_ranges(id).unwrap(), (0, vec![(0, 100_000)]));
    let end = engine.read_at(id, 2 * MIB, 10, Duration::ZERO).unwrap();
    assert!(end.end_of_file && end.bytes.is_empty(), "the length is known");
    let waiting = Arc::clone(&engine);
    let waiting = thread::spawn(move || waiting.read_at(id, MIB, 10, LONG).unwrap());
    engine.resume(id).unwrap();
    assert_eq!(waiting.join().unwrap().bytes, slice(&content, MIB, MIB + 10));
    wait_for(&engine, id, TransferStatus::Completed);
    drop(at_work);
    // With no engine at work, and after another start of it.
    drop(engine);
    let engine = lab.open_on(server, Environment::system());
    assert!(read_all(&engine, id, 0, 2 * MIB) == content);
}

#[test]
fn the_published_file_is_read_under_whatever_name_it_has_and_only_as_it_was_published() {
    let mut lab = Lab::new();
    small(&mut lab);
    let (server, content) = scripted(200_000);
    let engine = lab.open_on(server, FixedEnvironment::new(1).on(Arc::new(Disk)));
    std::fs::write(lab.file(), b"somebody's").unwrap();
    let unique = NewDownload {
        collision: Collision::Unique,
        ..lab.download(URL)
    };
    let id = add(&engine, unique);
    while engine.step() {}
    assert!(read_all(&engine, id, 0, 200_000) == content);
    let end = engine.read_at(id, 200_000, 10, LONG).unwrap();
    assert!(end.end_of_file && end.bytes.is_empty());
    std::fs::write(lab.data().join("file (2)"), b"another one").unwrap();
    assert!(matches!(engine.read_at(id, 0, 10, LONG), Err(Error::NotNow { .. })));
    // Another file of that very length, in its place by a rename.
    std::fs::write(lab.data().join("new"), vec![7; 200_000]).unwrap();
    std::fs::rename(lab.data().join("new"), lab.data().join("file (2)")).unwrap();
    assert!(matches!(engine.read_at(id, 0, 10, LONG), Err(Error::NotNow { .. })));
    std::fs::remove_file(lab.data().join("file (2)")).unwrap();
    assert!(matches!(engine.read_at(id, 0, 10, LONG), Err(Error::NotNow { .. })));
}

#[test]
fn a_read_that_can_never_bring_anything_says_why() {
    let lab = Lab::new();
    let (server, _) = scripted(200_000);
    let engine = lab.open_on(Arc::clone(&server) as _, FixedEnvironment::new(1).on(Arc::new(Disk)));
    let id = add(&engine, lab.download(URL));
    for max_bytes in [0, (1 << 20) + 1] {
        let read = engine.read_at(id, 0, max_bytes, LONG);
        assert!(matches!(read, Err(Error::Invalid { .. })), "{max_bytes}: {read:?}");
    }
    let posted = NewDownload {
        method: Method::POST,
        ..lab.download(URL)
    };
    let refused = engine.create(&[posted]);
    assert!(
        matches!(&refused, Err((0, Error::Invalid { field, .. })) if field == "random_access"),
        "{refused:?}"
    );
    let unknown = "ab".repeat(16).parse().unwrap();
    assert!(matches!(engine.read_at(unknown, 0, 1, LONG), Err(Error::UnknownId(_))));
    assert!(matches!(engine.downloaded_ranges(unknown), Err(Error::UnknownId(_))));
    let nothing = engine.read_at(id, 0, 1, Duration::ZERO).unwrap();
    assert_eq!(
        (nothing.bytes.len(), nothing.generation, nothing.end_of_file),
        (0, 0, false)
    );
    // Whoever waits hears of the end.
    let waiting = Arc::clone(&engine);
    let waiting = thread::spawn(move || waiting.read_at(id, 0, 1, LONG));
    engine.cancel(id).unwrap();
    let canceled = waiting.join().unwrap();
    let is_canceled = |read: &Result<ReadOutcome, Error>| {
        let Err(Error::Unsuccessful { status, error, .. }) = read else {
            return false;
        };
        (*status, *error) == (TransferStatus::Canceled, None)
    };
    assert!(is_canceled(&canceled), "{canceled:?}");
    let failed = NewDownload {
        url: "mem://host/missing".into(),
        ..lab.download(URL)
    };
    let id = add(&engine, failed);
    while engine.step() {}
    let read = engine.read_at(id, 0, 1, LONG);
    let Err(Error::Unsuccessful { error, .. }) = read else {
        panic!("{read:?}")
    };
    assert_eq!(error, Some(WebErrorStatus::NOT_FOUND));
    assert_eq!(engine.downloaded_ranges(id).unwrap(), (0, Vec::new()));
}
