//! A server with limits of its own, spoken to by raw connections.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Server, ServerLimits};
use crate::engine::{Engine, NewDownload};
use crate::environment::Environment;
use crate::operation::TransferId;
use crate::service::socket::Socket;
use crate::{Changes, Config};

const STEP_MAX: Duration = Duration::from_secs(60);

struct Lab {
    server: Option<Server>,
    engine: Arc<Engine>,
    home: tempfile::TempDir,
}

impl Lab {
    fn new(limits: ServerLimits) -> Self {
        let home = tempfile::tempdir().unwrap();
        let backends = crate::backends(&Config::default(), |_| None).unwrap();
        let engine = Engine::open(
            &home.path().join("state"),
            Config::default(),
            Environment::system(),
            backends,
        );
        let engine = Arc::new(engine.unwrap());
        let socket = Socket::bind(&home.path().join("socket")).unwrap();
        let server = Server::start(Arc::clone(&engine), vec![socket], limits).unwrap();
        Self {
            server: Some(server),
            engine,
            home,
        }
    }

    fn connect(&self) -> Raw {
        let stream = UnixStream::connect(self.home.path().join("socket")).unwrap();
        stream.set_read_timeout(Some(STEP_MAX)).unwrap();
        Raw(BufReader::new(stream))
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    fn held(&self, name: &str) -> TransferId {
        let download = NewDownload {
            url: format!("http://localhost:1/{name}"),
            destination: self.home.path().join(name),
            hold: true,
            app: "a".into(),
            ..NewDownload::default()
        };
        self.engine.create(&[download]).unwrap()[0]
    }
}

struct Raw(BufReader<UnixStream>);

impl Raw {
    fn say(&self, message: &Value) {
        let text = format!("{message}\0");
        self.0.get_ref().write_all(text.as_bytes()).unwrap();
    }

    fn monitor(&self) {
        let parameters = json!({ "selection": { "all_apps": true } });
        self.say(&json!({ "method": "io.backhaul.Transfer.Monitor", "parameters": parameters, "more": true }));
    }

    fn hear(&mut self) -> Option<Value> {
        let mut bytes = Vec::new();
        let _ = self.0.read_until(0, &mut bytes);
        (bytes.pop() == Some(0)).then(|| serde_json::from_slice(&bytes).unwrap())
    }

    /// What the service says at last, and that it is the last.
    fn reason(&mut self) -> String {
        let message = std::iter::from_fn(|| self.hear()).last().expect("no reason is given");
        assert_eq!(message["error"], "io.backhaul.Transfer.Disconnected", "{message}");
        message["parameters"]["message"].as_str().unwrap().to_owned()
    }
}

#[test]
fn who_does_not_read_is_disconnected_with_a_reason_while_others_are_told() {
    let lab = Lab::new(ServerLimits {
        stall_max: Duration::from_millis(300),
        ..ServerLimits::default()
    });
    let (mut slow, mut quick) = (lab.connect(), lab.connect());
    slow.monitor();
    quick.monitor();
    assert_eq!(quick.hear().unwrap()["parameters"]["caught_up"], true);
    let id = lab.held("one");
    // An operation with a long name: soon more is told the system keeps for one that does not read.
    let mut told = 0;
    let started = Instant::now();
    while lab.server().connections() == 2 {
        assert!(
            started.elapsed() < STEP_MAX,
            "the slow one stays, and was told of {told} changes"
        );
        let changes = Changes {
            url: Some(format!("http://localhost:1/{}/{told}", "x".repeat(7_000))),
            ..Changes::default()
        };
        lab.engine.set(id, &changes).unwrap();
        quick.hear().unwrap();
        told += 1;
    }
    assert!(told > 0);
    let reason = slow.reason();
    assert!(reason.contains("read nothing"), "{reason}");
    lab.held("two");
    while !quick.hear().unwrap()["parameters"]["operations"]
        .to_string()
        .contains("/two")
    {}
}

#[test]
fn one_connection_too_many_is_told_the_limit() {
    let limits = [
        ServerLimits {
            connections_max: 3,
            ..ServerLimits::default()
        },
        ServerLimits {
            connections_per_peer_max: 3,
            ..ServerLimits::default()
        },
    ];
    for limits in limits {
        let lab = Lab::new(limits);
        let mut served: Vec<Raw> = (0..3).map(|_| lab.connect()).collect();
        for raw in &mut served {
            raw.say(&json!({ "method": "org.varlink.service.GetInfo" }));
            raw.hear().unwrap();
        }
        let reason = lab.connect().reason();
        assert!(reason.contains("the limit of 3 is reached"), "{reason}");
        drop(served.pop());
        until("there is room again", || {
            (lab.server().connections() == 2).then_some(())
        });
        let mut raw = lab.connect();
        raw.say(&json!({ "method": "org.varlink.service.GetInfo" }));
        assert!(raw.hear().unwrap()["error"].is_null());
    }
}

#[test]
fn one_monitor_too_many_is_refused_and_may_do_something_else() {
    let lab = Lab::new(ServerLimits {
        monitors_max: 1,
        ..ServerLimits::default()
    });
    let mut first = lab.connect();
    first.monitor();
    first.hear().unwrap();
    let mut second = lab.connect();
    let wait = json!({ "ids": [lab.held("one")] });
    second.monitor();
    assert_eq!(second.hear().unwrap()["parameters"]["max"], 1);
    second.say(&json!({ "method": "io.backhaul.Transfer.Wait", "parameters": wait }));
    assert_eq!(second.hear().unwrap()["error"], "io.backhaul.Transfer.LimitReached");
    drop(first);
    until("the first is gone", || (lab.server().connections() == 1).then_some(()));
    second.monitor();
    assert!(second.hear().unwrap()["error"].is_null());
}

#[test]
fn whoever_watches_is_told_when_the_first_client_comes_and_when_the_last_is_gone() {
    let lab = Lab::new(ServerLimits::default());
    let (sender, told) = mpsc::channel();
    lab.server().watch_connections(move |count| sender.send(count).unwrap());
    assert_eq!(told.recv(), Ok(0));
    let (first, second) = (lab.connect(), lab.connect());
    assert_eq!(told.recv(), Ok(1));
    drop((first, second));
    assert_eq!(told.recv(), Ok(0));
}

#[test]
fn a_server_that_stops_ends_every_connection_with_a_reason() {
    let mut lab = Lab::new(ServerLimits::default());
    let (mut idle, mut monitor, mut waits) = (lab.connect(), lab.connect(), lab.connect());
    monitor.monitor();
    monitor.hear().unwrap();
    let wait = json!({ "ids": [lab.held("one")] });
    waits.say(&json!({ "method": "io.backhaul.Transfer.Wait", "parameters": wait }));
    idle.say(&json!({ "method": "org.varlink.service.GetInfo" }));
    idle.hear().unwrap();
    let started = Instant::now();
    lab.server = None;
    assert!(started.elapsed() < Duration::from_secs(10));
    for raw in [&mut idle, &mut monitor, &mut waits] {
        assert_eq!(raw.reason(), "the service has stopped");
    }
    assert!(!lab.home.path().join("socket").exists());
}

#[test]
fn those_that_look_on_and_wait_are_told_that_the_engine_has_stopped() {
    let lab = Lab::new(ServerLimits::default());
    let (mut monitor, mut waits) = (lab.connect(), lab.connect());
    monitor.monitor();
    monitor.hear().unwrap();
    let wait = json!({ "ids": [lab.held("one")] });
    waits.say(&json!({ "method": "io.backhaul.Transfer.Wait", "parameters": wait }));
    lab.engine.stop();
    for raw in [&mut monitor, &mut waits] {
        let last = std::iter::from_fn(|| raw.hear()).find(|message| !message["error"].is_null());
        assert_eq!(last.unwrap()["error"], "io.backhaul.Transfer.Disconnected");
        raw.say(&json!({ "method": "org.varlink.service.GetInfo" }));
        assert!(raw.hear().unwrap()["error"].is_null(), "the connection is served on");
    }
}

#[test]
fn nothing_wakes_up_while_nothing_happens() {
    let lab = Lab::new(ServerLimits::default());
    let mut monitors: Vec<Raw> = (0..20).map(|_| lab.connect()).collect();
    let wait = json!({ "ids": [lab.held("one")] });
    for raw in &mut monitors {
        raw.monitor();
        raw.hear().unwrap();
    }
    let waits = lab.connect();
    waits.say(&json!({ "method": "io.backhaul.Transfer.Wait", "parameters": wait }));
    let mut other = lab.connect();
    other.say(&json!({ "method": "org.varlink.service.GetInfo" }));
    other.hear().unwrap();
    // Once nothing is on its way any more, the thread sleeps.
    let turns = || lab.server().shared.turns.load(Ordering::Relaxed);
    let mut before = turns();
    until("it is quiet for a while", || {
        std::thread::sleep(Duration::from_millis(500));
        let now = turns();
        (std::mem::replace(&mut before, now) == now).then_some(())
    });
}

fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = check() {
            return answer;
        }
        assert!(started.elapsed() < STEP_MAX, "waited {STEP_MAX:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
