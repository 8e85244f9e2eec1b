//! Several connections over a scripted backend: one that is refused, lied to or failed by the disk harms no other.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod crashing;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use backhaul::{
    Backend, Config, Connections, Engine, Environment, NewDownload, OperationView, RetryPolicy, TransferStatus, Until,
    WebErrorStatus,
};
use backhaul_backends::{
    Act, Capabilities, Failure, FailureKind, Interrupt, MemoryBackend, Request, Resource, Sink, Validators,
};

use crashing::CrashingDisk;

const URL: &str = "mem://host/file";
const LENGTH: usize = 1 << 20;

struct Lab {
    _home: tempfile::TempDir,
    state: PathBuf,
    file: PathBuf,
    config: Config,
}

impl Lab {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let ms = Duration::from_millis;
        let mut config = Config {
            connections: Connections {
                max: 4,
                at_once: true,
                bytes_min: 4 << 10,
                ..Connections::default()
            },
            retry: RetryPolicy {
                failures_max: 5,
                delay_first: ms(1),
                delay_max: ms(4),
                ..RetryPolicy::default()
            },
            buffer_bytes: 16 << 10,
            ..Config::default()
        };
        config.window.claim_bytes = 32 << 10;
        config.window.unclaimed_bytes_max = 64 << 10;
        config.window.short_path_bytes_max = 16 << 10;
        Self {
            state: home.path().join("state"),
            file: home.path().join("file"),
            config,
            _home: home,
        }
    }

    fn open(&self, environment: Environment, backend: Arc<dyn Backend>) -> Engine {
        Engine::open(&self.state, self.config.clone(), environment, vec![backend]).unwrap()
    }

    fn download(&self, sha256: Option<[u8; 32]>) -> NewDownload {
        NewDownload {
            url: URL.into(),
            destination: self.file.clone(),
            app: "test".into(),
            sha256,
            ..NewDownload::default()
        }
    }
}

/// Runs on threads until the operation has ended.
fn run(engine: Engine, what: &str) -> OperationView {
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || {
        engine.run(Until::Idle, None, |_| ()).unwrap();
        let [view] = engine.views().try_into().unwrap();
        sender.send(view).unwrap();
    });
    let view = ended.recv_timeout(Duration::from_secs(20));
    view.unwrap_or_else(|_| panic!("it hangs: {what}"))
}

fn content(seed: u8) -> Vec<u8> {
    (0..LENGTH)
        .map(|index| index.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()[0] ^ seed)
        .collect()
}

fn failure(kind: FailureKind, status: WebErrorStatus) -> Failure {
    Failure {
        kind,
        status,
        code: None,
        message: status.to_string(),
    }
}

#[test]
fn a_disk_that_fails_while_several_connections_wait_for_it_ends_all_of_them() {
    for _ in 0..5 {
        let lab = Lab::new();
        let backend = Arc::new(MemoryBackend::new());
        backend.put(URL, Resource::new(content(0), "a"));
        let environment = Environment::system_on(Arc::new(CrashingDisk::without_syncs_of_parts()));
        let engine = lab.open(environment, backend);
        engine.create(&[lab.download(None)]).unwrap();
        let view = run(engine, "connections that wait for a disk that has failed");
        assert_eq!(view.status, TransferStatus::Error, "{view:?}");
        let error = view.error.unwrap();
        assert!(error.message.contains("the disk fails"), "{error:?}");
    }
}

#[test]
fn a_digest_that_pieces_of_two_versions_do_not_have_starts_the_transfer_again() {
    let lab = Lab::new();
    let (old, new) = (content(0), content(1));
    let unmarked = |bytes: &Vec<u8>| Resource {
        validators: Validators {
            total_bytes: Some(LENGTH as u64),
            ..Validators::default()
        },
        ..Resource::new(bytes.clone(), "")
    };
    let backend = Arc::new(MemoryBackend::new());
    backend.put(URL, unmarked(&old));
    backend.script(URL, Act::Serve);
    backend.script(URL, Act::Replace(unmarked(&new)));
    let digest = ring::digest::digest(&ring::digest::SHA256, &new);
    let engine = lab.open(Environment::system(), Arc::new(Slow(Arc::clone(&backend))));
    let sha256 = Some(digest.as_ref().try_into().unwrap());
    engine.create(&[lab.download(sha256)]).unwrap();
    let view = run(engine, "a server of two versions");
    assert_eq!(view.status, TransferStatus::Completed, "{view:?}");
    assert_eq!(view.restarts, 1, "{view:?}");
    assert!(std::fs::read(&lab.file).unwrap() == new);
    // Where several brought two things, one is asked.
    let begun = backend
        .attempts()
        .iter()
        .rposition(|attempt| attempt.end_bytes.is_none());
    assert_eq!(begun, Some(backend.attempts().len() - 1));
}

#[test]
fn pause_cancel_and_stop_end_several_connections_that_hang_and_keep_what_they_brought() {
    for what in ["pause", "cancel", "stop"] {
        let lab = Lab::new();
        let backend = Arc::new(MemoryBackend::new());
        backend.put(URL, Resource::new(content(0), "a"));
        let quarter = LENGTH as u64 / 4;
        // The first two that come read a little; the pieces are handed out from the end on.
        for offset in [quarter / 2, LENGTH as u64 - 1000, 0, 0] {
            backend.script(URL, Act::HangAt(offset));
        }
        let engine = Arc::new(lab.open(Environment::system(), Arc::clone(&backend) as _));
        let id = engine.create(&[lab.download(None)]).unwrap()[0];
        let mut acted: Option<Instant> = None;
        let acting = Arc::clone(&engine);
        let until = if what == "stop" { Until::Stopped } else { Until::Idle };
        let tick = Some(Duration::from_millis(5));
        engine
            .run(until, tick, |engine| {
                if acted.is_none() && backend.attempts().len() == 4 && engine.view(id).unwrap().bytes_done > quarter / 3
                {
                    acted = Some(Instant::now());
                    match what {
                        "pause" => acting.pause(id).unwrap(),
                        "cancel" => acting.cancel(id).unwrap(),
                        _ => acting.stop(),
                    }
                }
            })
            .unwrap();
        assert!(acted.unwrap().elapsed() < Duration::from_secs(1), "{what}");
        let held = engine.view(id).unwrap().bytes_done;
        if what == "cancel" {
            assert!(!lab.file.exists() && std::fs::read_dir(lab.file.parent().unwrap()).unwrap().count() == 1);
            continue;
        }
        if what == "pause" {
            engine.resume(id).unwrap();
        }
        engine.run(Until::Idle, None, |_| ()).unwrap();
        let view = engine.view(id).unwrap();
        assert_eq!(view.status, TransferStatus::Completed, "{what}: {view:?}");
        assert!(held >= quarter / 2 && view.restarts == 0, "{what}: {held} {view:?}");
        assert!(std::fs::read(&lab.file).unwrap() == content(0));
    }
}

/// Refuses every connection beside the first for good. If it is to, it then loses the first, and is whole after that.
#[derive(Default)]
struct OneOnly {
    loses_the_first: bool,
    inner: MemoryBackend,
    requests: AtomicUsize,
    refused: AtomicUsize,
    is_whole: AtomicBool,
}

struct Watched<'a> {
    sink: &'a mut dyn Sink,
    server: &'a OneOnly,
}

impl Sink for Watched<'_> {
    fn begin(&mut self, head: &backhaul_backends::Head) -> Result<(), backhaul_backends::Refused> {
        self.sink.begin(head)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), backhaul_backends::Refused> {
        let end = Instant::now() + Duration::from_secs(30);
        while self.server.refused.load(Ordering::SeqCst) < 3 {
            assert!(
                Instant::now() < end,
                "the other connections should have been refused by now"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        self.sink.write(bytes)
    }
}

impl Backend for OneOnly {
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
        if self.is_whole.load(Ordering::SeqCst) {
            return self.inner.download(request, sink, interrupt);
        }
        if self.requests.fetch_add(1, Ordering::SeqCst) == 0 {
            if self.loses_the_first {
                self.inner.script(URL, Act::CutAt(100_000));
            }
            let mut sink = Watched { sink, server: self };
            return self.inner.download(request, &mut sink, interrupt);
        }
        if self.refused.fetch_add(1, Ordering::SeqCst) < 3 || !self.loses_the_first {
            let refused = failure(FailureKind::Permanent, WebErrorStatus::FORBIDDEN);
            return Err(Failure {
                code: Some(403),
                ..refused
            });
        }
        self.is_whole.store(true, Ordering::SeqCst);
        let kind = FailureKind::Transient { retry_after: None };
        Err(failure(kind, WebErrorStatus::CANNOT_CONNECT))
    }
}

#[test]
fn connections_that_a_server_refuses_for_good_end_no_transfer_that_another_one_carries() {
    for loses_the_first in [true, false] {
        let lab = Lab::new();
        let server = Arc::new(OneOnly {
            loses_the_first,
            ..OneOnly::default()
        });
        server.inner.put(URL, Resource::new(content(0), "a"));
        let engine = lab.open(Environment::system(), server);
        engine.create(&[lab.download(None)]).unwrap();
        let view = run(engine, "a server that takes one connection");
        assert_eq!(view.status, TransferStatus::Completed, "{view:?}");
        assert_eq!(view.restarts, 0, "{view:?}");
        assert!(std::fs::read(&lab.file).unwrap() == content(0));
    }
}

/// Serves so slowly that one connection never seems enough.
struct Slow(Arc<MemoryBackend>);

struct SlowSink<'a>(&'a mut dyn Sink);

impl Sink for SlowSink<'_> {
    fn begin(&mut self, head: &backhaul_backends::Head) -> Result<(), backhaul_backends::Refused> {
        self.0.begin(head)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), backhaul_backends::Refused> {
        std::thread::sleep(Duration::from_millis(2));
        self.0.write(bytes)
    }
}

impl Backend for Slow {
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
        self.0.download(request, &mut SlowSink(sink), interrupt)
    }
}

#[test]
fn a_small_file_that_comes_slowly_and_without_proof_is_asked_over_one_connection() {
    let mut lab = Lab::new();
    lab.config.buffer_bytes = 256;
    lab.config.window.claim_after = Duration::from_millis(2);
    lab.config.window.unclaimed_age_max = Duration::from_millis(4);
    lab.config.connections = Connections {
        max: 4,
        at_once: false,
        after: Duration::from_millis(20),
        rest_max: Duration::from_millis(1),
        bytes_min: 16,
    };
    let backend = Arc::new(MemoryBackend::new());
    let small = content(0)[..16 << 10].to_vec();
    let validators = Validators {
        total_bytes: Some(small.len() as u64),
        ..Validators::default()
    };
    let resource = Resource::new(small.clone(), "");
    backend.put(URL, Resource { validators, ..resource });
    let engine = lab.open(Environment::system(), Arc::new(Slow(Arc::clone(&backend))));
    engine.create(&[lab.download(None)]).unwrap();
    let view = run(engine, "a slow server");
    assert_eq!(view.status, TransferStatus::Completed, "{view:?}");
    assert!(std::fs::read(&lab.file).unwrap() == small);
    assert_eq!(backend.attempts().len(), 1);
}
