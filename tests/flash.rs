//! What `--flash-friendly` spares, counted exactly, and what a crash may cost with it.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

#[path = "../benches/counters/disk.rs"]
mod disk;

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backhaul::backend::{
    Backend, Capabilities, Failure, FailureKind, Head, HeaderFields, Interrupt, Request, Sink, Start, Validators,
    WebErrorStatus,
};
use backhaul::{Config, Engine, FixedEnvironment, NewDownload, TransferStatus, Window, read_catalog};

use disk::{Asked, CountingDisk};

const MIB: u64 = 1 << 20;
/// What the backend hands over at once.
const RUN: usize = 64 << 10;
const RUN_BYTES: u64 = RUN as u64;

/// Called with the number of bytes that an attempt has handed over, before the next ones.
type Watch = Box<dyn Fn(u64) + Send + Sync>;

/// Serves `tap:`, one resource, and notes from where it was asked.
struct Tap {
    len_bytes: u64,
    asked: Mutex<Vec<u64>>,
    watch: Watch,
}

impl Tap {
    fn new(len_bytes: u64, watch: impl Fn(u64) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            len_bytes,
            asked: Mutex::default(),
            watch: Box::new(watch),
        })
    }

    fn head(&self, request: &Request) -> Head {
        let validators = Validators {
            etag: Some("\"tap\"".into()),
            total_bytes: Some(self.len_bytes),
            ..Validators::default()
        };
        let (start, _) = backhaul::backend::start(request, &validators, true);
        Head {
            start,
            validators,
            actual_url: request.url.clone(),
            status_code: 200,
            resumable: Some(true),
            provable: true,
            on_trust: false,
            content_type: None,
            modified: None,
            mirrors: Vec::new(),
            headers: HeaderFields::default(),
        }
    }
}

impl Backend for Tap {
    fn schemes(&self) -> Vec<&str> {
        vec!["tap"]
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            resume: true,
            ..Capabilities::default()
        }
    }

    fn download(&self, request: &Request, sink: &mut dyn Sink, _: &Interrupt) -> Result<(), Failure> {
        let refused = |_| Failure {
            kind: FailureKind::SinkRefused,
            status: WebErrorStatus::DISCONNECTED,
            code: None,
            message: "the sink refused".into(),
        };
        let head = self.head(request);
        let mut offset = match head.start {
            Start::Continue { offset_bytes } => offset_bytes,
            _ => 0,
        };
        self.asked.lock().unwrap().push(offset);
        sink.begin(&head).map_err(refused)?;
        let run = vec![7; RUN];
        while offset < self.len_bytes {
            (self.watch)(offset);
            sink.write(&run).map_err(refused)?;
            offset += RUN_BYTES;
        }
        Ok(())
    }
}

fn config(window: Window) -> Config {
    Config {
        window,
        ..Config::default()
    }
}

/// A folder that holds `data`.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("data")).unwrap();
    home
}

fn download() -> NewDownload {
    NewDownload {
        url: "tap://host/file".into(),
        destination: "/data/file".into(),
        app: "app".into(),
        ..NewDownload::default()
    }
}

/// Works until nothing is left to do, and everything is there.
fn work(engine: &Engine) {
    while engine.step() {}
    let all_are_there = engine
        .views()
        .iter()
        .all(|view| view.status == TransferStatus::Completed);
    assert!(all_are_there, "{:?}", engine.views());
}

/// What one download of this length asks of the disk.
fn cost(window: Window, len_bytes: u64) -> Asked {
    let home = home();
    let disk = CountingDisk::new(home.path());
    let outside = FixedEnvironment::new(1).on(Arc::new(disk.clone()));
    let engine = Engine::open(
        Path::new("/state"),
        config(window),
        outside,
        vec![Tap::new(len_bytes, |_| {})],
    )
    .unwrap();
    disk.take();
    engine.create(&[download()]).unwrap();
    work(&engine);
    disk.take()
}

#[test]
fn a_long_transfer_costs_an_eighth_of_the_syncs() {
    let (usual, spared) = (
        cost(Window::default(), 256 * MIB),
        cost(Window::flash_friendly(), 256 * MIB),
    );
    // The last step makes the file whole, and its publication vouches for it: one sync without a claim.
    assert_eq!((usual.syncs, spared.syncs), (32, 4));
    // Accepted, publishing, ended, and the claims.
    assert_eq!((usual.journal_syncs, spared.journal_syncs), (3 + 31, 3 + 3));
    assert_eq!((usual.journal_writes, spared.journal_writes), (3 + 31, 3 + 3));
    // Before the first claim, and after the rename.
    assert_eq!((usual.directory_syncs, spared.directory_syncs), (2, 2));
    // A claim is 104 bytes.
    assert_eq!((usual.journal_bytes, spared.journal_bytes), (752 + 28 * 104, 752));
}

#[test]
fn a_short_transfer_is_as_durable_and_costs_the_same() {
    for len_bytes in [RUN_BYTES, MIB, 8 * MIB] {
        assert_eq!(
            cost(Window::default(), len_bytes),
            cost(Window::flash_friendly(), len_bytes)
        );
    }
}

/// What is received and not claimed at each moment of a transfer of so many bytes, of which each run takes so long: what a
/// process that is killed then, or a power cut, costs.
fn unclaimed(len_bytes: u64, pace: Duration) -> Vec<u64> {
    let home = home();
    let outside = FixedEnvironment::new(1);
    let disk = Arc::new(CountingDisk::new(home.path()));
    let environment = outside.on(Arc::clone(&disk) as _);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (noted, looking) = (Arc::clone(&seen), environment.clone());
    let tap = Tap::new(len_bytes, move |received| {
        outside.advance(pace);
        if received % MIB == 0 || !pace.is_zero() {
            let claimed = read_catalog(Path::new("/state"), &looking).unwrap().operations[0].bytes_done;
            noted.lock().unwrap().push(received - claimed);
        }
    });
    let config = config(Window::flash_friendly());
    let engine = Engine::open(Path::new("/state"), config, environment, vec![tap]).unwrap();
    engine.create(&[download()]).unwrap();
    work(&engine);
    seen.lock().unwrap().clone()
}

#[test]
fn a_crash_costs_at_most_what_is_claimed_at_once() {
    // Reading goes on while a claim is made, up to twice that: `Window::is_full`.
    let fast = unclaimed(200 * MIB, Duration::ZERO);
    assert_eq!(fast.iter().max(), Some(&(63 * MIB)), "{fast:?}");
    // A claim is made with the run that comes in 60 s after the first one.
    let slow = unclaimed(8 * MIB, Duration::from_secs(1));
    assert_eq!(slow.iter().max(), Some(&(60 * RUN_BYTES)), "{slow:?}");
}

#[test]
fn what_was_claimed_is_not_fetched_again_after_a_kill() {
    let (home, image) = (home(), home());
    let (from, to) = (home.path().join("."), image.path().to_owned());
    let tap = Tap::new(200 * MIB, move |received| {
        // Just before the second claim: what a killed process leaves.
        if received == 128 * MIB - RUN_BYTES {
            let copied = Command::new("cp").arg("-a").arg(&from).arg(&to).status().unwrap();
            assert!(copied.success());
        }
    });
    let open = |home: &Path, tap: &Arc<Tap>| {
        let outside = FixedEnvironment::new(1).on(Arc::new(CountingDisk::new(home)));
        let backends = vec![Arc::clone(tap) as _];
        Engine::open(Path::new("/state"), config(Window::flash_friendly()), outside, backends).unwrap()
    };
    let engine = open(home.path(), &tap);
    engine.create(&[download()]).unwrap();
    work(&engine);
    let tap = Tap::new(200 * MIB, |_| {});
    work(&open(image.path(), &tap));
    assert_eq!(*tap.asked.lock().unwrap(), [64 * MIB]);
}
