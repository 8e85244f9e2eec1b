//! Proxies as programs ask for them: by the service, here and behind a socket, and by the engine itself.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use backhaul::{
    Backend, BackgroundDownloader, Changes, Config, Credential, Engine, Environment, Error, NewDownload, Proxies,
    Proxy, Service, TransferStatus, WebErrorStatus,
};
use backhaul_backends::{Capabilities, Failure, FailureKind, Interrupt, MemoryBackend, Registry, Request, Sink};

use super::{Kind, PASSWORD, Program, USER, World, assert_nowhere};
use crate::support::assert_same;

fn proxy(text: &str) -> Proxy {
    Proxy::parse(text).unwrap()
}

#[test]
fn a_credential_of_the_template_opens_the_proxy_of_the_engine_and_another_proxy_is_asked_for() {
    let world = World::new();
    let known = Program::closed(Kind::Tinyproxy, world.secure());
    let other = Program::closed(Kind::Microsocks, world.secure());
    for is_remote in [false, true] {
        let home = tempfile::tempdir().unwrap();
        let config = Config {
            proxies: Some(Proxies::all(proxy(&known.url("http", "")))),
            ..Config::default()
        };
        let engine = Service::open_with(home.path().join("state"), config).unwrap();
        let serving = is_remote.then(|| engine.serve(home.path().join("socket")).unwrap());
        let service = match &serving {
            Some(serving) => Service::connect(serving.socket()).unwrap(),
            None => engine.clone(),
        };
        let file = |name: &str| home.path().join(name);
        let url = world.nginx.url("/a.bin");
        let mut downloader = BackgroundDownloader::new(&service);

        let refused = downloader.create_download(&url, file("refused")).unwrap();
        refused.start().unwrap();
        let end = refused.wait().unwrap();
        assert_eq!(end.status, TransferStatus::Error);
        assert_eq!(end.error.unwrap().status, WebErrorStatus::PROXY_AUTHENTICATION_REQUIRED);

        downloader.set_proxy_credential(Some((USER, PASSWORD)));
        let download = downloader.create_download(&url, file("a")).unwrap();
        assert_eq!(download.proxy().unwrap(), None);
        download.start().unwrap();
        assert_eq!(download.wait().unwrap().status, TransferStatus::Completed);
        assert_same(&file("a"), &world.bytes);

        let by = other.url("socks5h", "");
        downloader.set_proxy(Some(&by));
        let download = downloader.create_download(&url, file("b")).unwrap();
        assert_eq!(download.proxy().unwrap(), Some(by));
        download.start().unwrap();
        assert_eq!(download.wait().unwrap().status, TransferStatus::Completed);

        downloader.set_proxy(None).set_proxy_credential(None);
        let download = downloader.create_download(&url, file("c")).unwrap();
        download.set_proxy("direct", None).unwrap();
        assert_eq!(download.proxy().unwrap().as_deref(), Some("direct"));
        download.start().unwrap();
        assert_eq!(download.wait().unwrap().status, TransferStatus::Completed);

        downloader.set_proxy(Some("ftp://proxy"));
        let error = downloader.create_download(&url, file("d")).unwrap_err();
        assert!(
            matches!(&error, Error::Invalid { field, .. } if field == "proxy"),
            "{error}"
        );
        assert_nowhere(home.path(), PASSWORD.as_bytes());
        assert!(!format!("{downloader:?}").contains(PASSWORD));
        drop((download, refused, downloader, service));
        drop((serving, engine));
    }
    assert_eq!(known.log().matches("GET http://").count(), 4, "{}", known.log());
}

/// A protocol that keeps what it is asked, and fails in a way that can be mended.
#[derive(Default)]
struct Seeing(Mutex<Vec<Arc<Proxies>>>);

impl Backend for Seeing {
    fn schemes(&self) -> Vec<&str> {
        vec!["see"]
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            proxies: true,
            ..Capabilities::default()
        }
    }

    fn download(&self, request: &Request, _: &mut dyn Sink, _: &Interrupt) -> Result<(), Failure> {
        self.0.lock().unwrap().push(Arc::clone(&request.proxies));
        Err(Failure {
            kind: FailureKind::Permanent,
            status: WebErrorStatus::PROXY_AUTHENTICATION_REQUIRED,
            code: None,
            message: "seen".into(),
        })
    }
}

/// An engine over it, stepped on this thread, whose own proxy is `own.test`, with a user of its own.
struct Lab {
    home: tempfile::TempDir,
    seeing: Arc<Seeing>,
}

impl Lab {
    fn new() -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            seeing: Arc::default(),
        }
    }

    fn open(&self) -> Engine {
        let own = Proxies::all(proxy("http://engine:hush@own.test:1"));
        let config = Config {
            proxies: Some(own.except("near.test").unwrap()),
            ..Config::default()
        };
        let backends = vec![Arc::clone(&self.seeing) as _, Arc::new(MemoryBackend::new()) as _];
        Engine::open(&self.home.path().join("state"), config, Environment::system(), backends).unwrap()
    }

    fn destination(&self) -> PathBuf {
        self.home.path().join("file")
    }

    fn download(&self, asked: Option<&str>, credential: Option<&str>) -> NewDownload {
        NewDownload {
            url: "see://host.test/a".into(),
            destination: self.destination(),
            app: "test".into(),
            recoverable: vec![WebErrorStatus::PROXY_AUTHENTICATION_REQUIRED],
            proxy: asked.map(str::to_owned),
            proxy_credential: credential.map(named),
            ..NewDownload::default()
        }
    }

    /// Where the last attempt would have gone to a host, and under which name.
    fn way(&self, host: &str) -> (String, String) {
        let seen = self.seeing.0.lock().unwrap();
        let proxy = seen.last().unwrap().of("see", host, 1);
        let shown = |proxy: &Proxy| {
            let user = proxy.credential().map_or("", |credential| &credential.user);
            (proxy.to_string(), user.to_owned())
        };
        proxy.map_or(("direct".into(), String::new()), shown)
    }
}

fn named(user: &str) -> Credential {
    Credential {
        user: user.into(),
        password: "hush".into(),
    }
}

fn way(proxy: &str, user: &str) -> (String, String) {
    (proxy.into(), user.into())
}

#[test]
fn an_attempt_goes_the_way_that_was_asked_for_also_after_a_restart() {
    for (asked, credential, expected) in [
        (None, None, way("http://own.test:1", "engine")),
        (None, Some("ann"), way("http://own.test:1", "ann")),
        (Some("default"), Some("ann"), way("http://own.test:1", "ann")),
        (Some("direct"), None, way("direct", "")),
        (Some("socks5://else.test"), None, way("socks5://else.test:1080", "")),
        (
            Some("socks5://bob:hush@else.test"),
            None,
            way("socks5://else.test:1080", "bob"),
        ),
        (Some("else.test:2"), Some("ann"), way("http://else.test:2", "ann")),
    ] {
        let lab = Lab::new();
        let engine = lab.open();
        let id = engine.create(&[lab.download(asked, credential)]).unwrap()[0];
        assert!(!format!("{:?}", engine.view(id)).contains("hush"));
        engine.close().unwrap();
        let engine = lab.open();
        while engine.step() {}
        assert_eq!(lab.way("host.test"), expected, "{asked:?} {credential:?}");
        // The exceptions are those of the proxies that they stand beside.
        let keeps = asked.is_none_or(|asked| asked == "default");
        assert_eq!(lab.way("near.test").0 == "direct", keeps || asked == Some("direct"));
    }
}

#[test]
fn a_credential_stays_with_the_proxy_that_it_was_given_for() {
    let first = Some("http://ann:hush@else.test:2");
    for (asked, changes, expected) in [
        (first, ("http://else.test:2", None), way("http://else.test:2", "ann")),
        (first, ("else.test:2", Some("bob")), way("http://else.test:2", "bob")),
        (
            first,
            ("http://bob:hush@else.test:2", None),
            way("http://else.test:2", "bob"),
        ),
        (first, ("http://else.test:3", None), way("http://else.test:3", "")),
        (first, ("socks5://else.test:2", None), way("socks5://else.test:2", "")),
        (first, ("direct", None), way("direct", "")),
        (first, ("default", None), way("http://own.test:1", "engine")),
        (Some("direct"), ("default", None), way("http://own.test:1", "engine")),
        (None, ("default", Some("bob")), way("http://own.test:1", "bob")),
        (None, ("else.test:2", None), way("http://else.test:2", "")),
    ] {
        let lab = Lab::new();
        let engine = lab.open();
        let id = engine.create(&[lab.download(asked, None)]).unwrap()[0];
        while engine.step() {}
        let (proxy, credential) = changes;
        let changes = Changes {
            proxy: Some(proxy.to_owned()),
            proxy_credential: credential.map(named),
            ..Changes::default()
        };
        assert!(!format!("{changes:?}").contains("hush"));
        engine.set(id, &changes).unwrap();
        engine.resume(id).unwrap();
        while engine.step() {}
        assert_eq!(lab.way("host.test"), expected, "{asked:?} {proxy}");
    }
}

#[test]
fn a_credential_alone_takes_the_place_of_the_one_before_and_direct_takes_none() {
    let lab = Lab::new();
    let engine = lab.open();
    let id = engine
        .create(&[lab.download(Some("http://ann:hush@else.test:2"), None)])
        .unwrap()[0];
    while engine.step() {}
    let alone = Changes {
        proxy_credential: Some(named("bob")),
        ..Changes::default()
    };
    engine.set(id, &alone).unwrap();
    engine.resume(id).unwrap();
    while engine.step() {}
    assert_eq!(lab.way("host.test"), way("http://else.test:2", "bob"));
    let direct = Changes {
        proxy: Some("direct".into()),
        ..Changes::default()
    };
    engine.set(id, &direct).unwrap();
    let error = engine.set(id, &alone).unwrap_err();
    assert!(
        matches!(&error, Error::Invalid { field, .. } if field == "proxy-credential"),
        "{error}"
    );
}

#[test]
fn other_changes_leave_the_proxy_and_its_credential_as_they_are() {
    let lab = Lab::new();
    let engine = lab.open();
    let id = engine
        .create(&[lab.download(Some("http://ann:hush@else.test:2"), None)])
        .unwrap()[0];
    while engine.step() {}
    let changes = Changes {
        url: Some("see://elsewhere.test/b".into()),
        clear_headers: true,
        ..Changes::default()
    };
    engine.set(id, &changes).unwrap();
    engine.resume(id).unwrap();
    while engine.step() {}
    assert_eq!(lab.way("host.test"), way("http://else.test:2", "ann"));
}

#[test]
fn a_proxy_for_a_protocol_that_is_led_through_none_is_refused() {
    let lab = Lab::new();
    let engine = lab.open();
    let base = |proxy: Option<&str>, credential| NewDownload {
        url: "mem://host.test/a".into(),
        ..lab.download(proxy, credential)
    };
    let mirrored = NewDownload {
        mirrors: vec!["mem://host.test/a".into()],
        ..lab.download(Some("else.test:2"), None)
    };
    for wrong in [base(Some("else.test:2"), None), base(None, Some("ann")), mirrored] {
        let (_, refused) = engine.create(&[wrong]).unwrap_err();
        assert!(
            matches!(&refused, Error::Invalid { field, .. } if field == "proxy"),
            "{refused}"
        );
        assert!(refused.to_string().contains("'mem' is never asked"), "{refused}");
    }
    let id = engine.create(&[base(Some("direct"), None)]).unwrap()[0];
    let changes = Changes {
        proxy: Some("else.test:2".into()),
        ..Changes::default()
    };
    let refused = engine.set(id, &changes).unwrap_err();
    assert!(
        matches!(&refused, Error::Invalid { field, .. } if field == "proxy"),
        "{refused}"
    );
}

#[test]
fn whoever_asks_for_the_same_again_through_another_proxy_is_told() {
    let lab = Lab::new();
    let engine = lab.open();
    let id = engine
        .create(&[lab.download(Some("http://ann:hush@else.test:2"), None)])
        .unwrap()[0];
    for (asked, differs) in [
        (Some("http://ann:hush@else.test:2"), false),
        (Some("http://else.test:2"), false),
        (None, false),
        (Some("http://bob:hush@else.test:2"), true),
        (Some("direct"), true),
    ] {
        let registry = Registry::new(vec![Arc::clone(&lab.seeing) as _]);
        let wanted = [lab.download(asked, None)];
        let checked =
            backhaul::check_downloads(&wanted, &Config::default(), &Environment::system(), &registry).unwrap();
        assert_eq!(engine.find_same(&checked), [Some(id)]);
        let expected: &[&str] = if differs { &["proxy"] } else { &[] };
        assert_eq!(engine.differences(id, &checked[0]).unwrap(), expected, "{asked:?}");
    }
}
