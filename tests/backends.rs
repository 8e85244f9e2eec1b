//! Backends that can do less than HTTP: what they cannot is refused by name, and never asked of them.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use backhaul::backend::{
    Backend, Capabilities, Failure, FailureKind, Head, Interrupt, Refused, Request, Sink, Start, WebErrorStatus,
};
use backhaul::{
    Body, Changes, Config, Connections, Engine, Environment, Error, NewDownload, OperationView, Service,
    TransferStatus, Until,
};
use backhaul_backends::{MemoryBackend, Resource};

const LENGTH: usize = 1 << 20;
const RICH: &str = "mem://host/file";
const POOR: &str = "poor://host/file";

fn content() -> Vec<u8> {
    (0..LENGTH)
        .map(|place| place.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()[0])
        .collect()
}

/// Serves `poor:` from memory, and can resume, but nothing else.
#[derive(Default)]
struct Poor(MemoryBackend);

impl Backend for Poor {
    fn schemes(&self) -> Vec<&str> {
        vec!["poor"]
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            resume: true,
            ..Capabilities::default()
        }
    }

    fn download(&self, request: &Request, sink: &mut dyn Sink, interrupt: &Interrupt) -> Result<(), Failure> {
        self.0.download(request, sink, interrupt)
    }
}

/// Serves `mem:` until so many bytes have gone, and then refuses everybody. The connection that begins at 0 waits for another
/// one to have brought something.
struct Dying {
    inner: MemoryBackend,
    left_bytes: AtomicU64,
    others_bring: Interrupt,
}

struct DyingSink<'a> {
    sink: &'a mut dyn Sink,
    server: &'a Dying,
    is_first: bool,
}

impl Sink for DyingSink<'_> {
    fn begin(&mut self, head: &Head) -> Result<(), Refused> {
        self.is_first = head.start == Start::Beginning;
        self.sink.begin(head)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let left = &self.server.left_bytes;
        if self.is_first && left.load(Ordering::SeqCst) > 0 {
            assert!(
                self.server.others_bring.sleep(Duration::from_secs(30)),
                "no other connection came"
            );
        }
        let take = |left: u64| left.checked_sub(bytes.len() as u64);
        left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
            .map_err(|_| Refused)?;
        let written = self.sink.write(bytes);
        if !self.is_first {
            self.server.others_bring.raise();
        }
        written
    }
}

impl Backend for Dying {
    fn schemes(&self) -> Vec<&str> {
        self.inner.schemes()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn download(&self, request: &Request, sink: &mut dyn Sink, interrupt: &Interrupt) -> Result<(), Failure> {
        let mut sink = DyingSink {
            sink,
            server: self,
            is_first: false,
        };
        self.inner.download(request, &mut sink, interrupt).map_err(|failure| {
            if interrupt.is_raised() {
                return failure;
            }
            Failure {
                kind: FailureKind::Permanent,
                status: WebErrorStatus::FORBIDDEN,
                ..failure
            }
        })
    }
}

struct Lab {
    home: tempfile::TempDir,
    rich: Arc<Dying>,
    poor: Arc<Poor>,
}

impl Lab {
    /// The backend of `mem:` dies after so many bytes.
    fn new(left_bytes: u64) -> Self {
        let inner = MemoryBackend::new();
        inner.put(RICH, Resource::new(content(), "a"));
        let poor = Poor::default();
        poor.0.put(POOR, Resource::new(content(), "a"));
        Self {
            home: tempfile::tempdir().unwrap(),
            rich: Arc::new(Dying {
                inner,
                left_bytes: AtomicU64::new(left_bytes),
                others_bring: Interrupt::new(),
            }),
            poor: Arc::new(poor),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn config() -> Config {
        let mut config = Config {
            connections: Connections {
                max: 4,
                at_once: true,
                bytes_min: 4 << 10,
                ..Connections::default()
            },
            buffer_bytes: 16 << 10,
            ..Config::default()
        };
        config.window.claim_bytes = 32 << 10;
        config.window.short_path_bytes_max = 16 << 10;
        config
    }

    fn open(&self) -> Engine {
        let backends = vec![Arc::clone(&self.rich) as _, Arc::clone(&self.poor) as _];
        Engine::open(&self.file("state"), Self::config(), Environment::system(), backends).unwrap()
    }

    fn download(&self, url: &str) -> NewDownload {
        NewDownload {
            url: url.into(),
            destination: self.file("file"),
            app: "app".into(),
            ..NewDownload::default()
        }
    }

    fn fetch(&self, download: NewDownload) -> OperationView {
        let engine = Arc::new(self.open());
        let id = engine.create(&[download]).unwrap()[0];
        let (sender, ended) = mpsc::channel();
        let running = Arc::clone(&engine);
        std::thread::spawn(move || sender.send(running.run(Until::Idle, None, |_| ())));
        ended.recv_timeout(Duration::from_secs(60)).unwrap().unwrap();
        let view = engine.view(id).unwrap();
        assert_eq!(view.status, TransferStatus::Completed, "{view:?}");
        assert!(std::fs::read(self.file("file")).unwrap() == content());
        view
    }
}

type Wish = fn(NewDownload, &Path) -> NewDownload;

fn field_of(error: Error) -> (String, String) {
    match error {
        Error::Invalid { field, problem, .. } => (field.into_owned(), problem),
        other => panic!("{other}"),
    }
}

#[test]
fn what_the_backend_of_a_url_cannot_do_is_refused_by_the_name_of_its_field() {
    let lab = Lab::new(0);
    let engine = lab.open();
    let plain = |url| lab.download(url);
    let body = lab.file("body");
    std::fs::write(&body, "x").unwrap();
    let wishes: [(&str, Wish); 5] = [
        ("method", |plain, _| NewDownload {
            method: "POST".parse().unwrap(),
            ..plain
        }),
        ("method", |plain, body| NewDownload {
            method: "POST".parse().unwrap(),
            body: Some(Body::File(body.to_owned())),
            ..plain
        }),
        ("header", |plain, _| NewDownload {
            headers: vec!["X-A: b".into()],
            ..plain
        }),
        ("header", |plain, _| NewDownload {
            secret_headers: vec!["X-A: hush".into()],
            ..plain
        }),
        ("random_access", |plain, _| NewDownload {
            random_access: true,
            ..plain
        }),
    ];
    for (expected, wish) in wishes {
        let (_, error) = engine.create(&[wish(plain(POOR), &body)]).unwrap_err();
        let (field, problem) = field_of(error);
        assert_eq!(field, expected);
        assert!(problem.contains("'poor'") && !problem.contains("hush"), "{problem}");
        let held = NewDownload {
            hold: true,
            ..wish(plain(RICH), &body)
        };
        let id = engine.create(&[held]).unwrap()[0];
        let before = engine.view(id).unwrap();
        let is_secret = !wish(plain(RICH), &body).secret_headers.is_empty();
        let changes = Changes {
            url: Some(POOR.into()),
            ..Changes::default()
        };
        // Secret headers do not follow to another origin, so that nothing is in the way then.
        let moved = engine.set(id, &changes);
        if is_secret {
            moved.unwrap();
        } else {
            assert_eq!(field_of(moved.unwrap_err()).0, expected);
            assert_eq!(engine.view(id).unwrap().url, before.url, "nothing has changed");
        }
        engine.cancel(id).unwrap();
    }
    let held = NewDownload {
        hold: true,
        ..plain(POOR)
    };
    let id = engine.create(&[held]).unwrap()[0];
    let changes = Changes {
        headers: vec!["X-A: b".into()],
        ..Changes::default()
    };
    assert_eq!(field_of(engine.set(id, &changes).unwrap_err()).0, "header");
}

#[test]
fn a_backend_without_parts_is_asked_over_one_connection() {
    let lab = Lab::new(0);
    lab.fetch(lab.download(POOR));
    let attempts = lab.poor.0.attempts();
    assert_eq!(attempts.len(), 1, "{attempts:?}");
    let lab = Lab::new(u64::MAX);
    lab.fetch(lab.download(RICH));
    assert!(lab.rich.inner.attempts().len() > 1, "one that has them is not");
}

#[test]
fn a_mirror_of_another_scheme_gets_no_headers_that_mean_nothing_to_it() {
    let lab = Lab::new(0);
    let download = NewDownload {
        headers: vec!["X-A: b".into()],
        mirrors: vec![POOR.into()],
        ..lab.download(RICH)
    };
    lab.fetch(download);
    assert!(
        lab.rich
            .inner
            .attempts()
            .iter()
            .all(|attempt| attempt.headers.len() == 1)
    );
    assert!(lab.poor.0.attempts().iter().all(|attempt| attempt.headers.is_empty()));
}

#[test]
fn gaps_that_several_connections_have_left_are_never_asked_of_a_backend_without_parts() {
    let lab = Lab::new(LENGTH as u64 / 4);
    let download = NewDownload {
        mirrors: vec![POOR.into()],
        ..lab.download(RICH)
    };
    let view = lab.fetch(download);
    let attempts = lab.poor.0.attempts();
    assert!(
        attempts.iter().all(|attempt| attempt.end_bytes.is_none()),
        "{attempts:?}"
    );
    assert_eq!((view.restarts, attempts[0].offset_bytes), (1, 0), "{view:?}");
    assert!(
        lab.rich
            .inner
            .attempts()
            .iter()
            .any(|attempt| attempt.end_bytes.is_some())
    );
}

/// One whose schemes are these.
struct Named(Vec<&'static str>);

impl Backend for Named {
    fn schemes(&self) -> Vec<&str> {
        self.0.clone()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn download(&self, request: &Request, _: &mut dyn Sink, _: &Interrupt) -> Result<(), Failure> {
        Err(Failure {
            kind: FailureKind::Permanent,
            status: WebErrorStatus::GONE,
            code: None,
            message: format!("{} is not told", request.url),
        })
    }
}

#[test]
fn a_backend_that_is_registered_comes_before_one_that_is_built_in() {
    let lab = Lab::new(0);
    let builder = || Service::builder().state_directory(lab.file("state"));
    let opened = builder().backend(Arc::new(Named(vec!["https"])));
    let service = opened.backend(Arc::new(Poor::default())).app("app").open().unwrap();
    assert_eq!(service.app(), "app");
    let ids = service.create(&[lab.download("https://host/whatever")]).unwrap();
    let view = service.wait(&ids, Some(Duration::from_secs(60))).unwrap().remove(0);
    assert_eq!(view.error.unwrap().status, WebErrorStatus::GONE);
    for wrong in [vec![], vec!["Up"], vec!["ok", "a b"]] {
        let error = builder().backend(Arc::new(Named(wrong))).open().unwrap_err();
        assert_eq!(field_of(error).0, "backend");
    }
}
