//! One life of a client: the real engine with a real backend on a directory, in this process or in a child that can be
//! killed.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Once, mpsc};
use std::time::{Duration, Instant};

use backhaul::{Engine, Environment, Error, NewDownload, OperationView, TransferStatus, Until};
use rustix::process::{Pid, Signal};

use super::killer::{End, Kill, Killer, Victim};
use crate::client;

/// In the environment of a child: what it is to fetch.
const TASK: &str = "BACKHAUL_HOSTILE_TASK";
/// A life that takes longer hangs. It is far beyond what all attempts and their delays add up to.
const LIFE_MAX: Duration = Duration::from_secs(60);

/// What a client is to fetch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Task {
    pub(crate) home: PathBuf,
    pub(crate) url: String,
    pub(crate) sha256: Option<[u8; 32]>,
    pub(crate) expected_bytes: Option<u64>,
    /// Most connections; 0 is as good as 1.
    pub(crate) connections: usize,
}

/// How a life ends that is no process of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Stop {
    /// In good order.
    Closed,
    /// Its engine is dropped, without the mark of a clean end.
    Dropped,
    /// The operation is paused, and resumed in the same engine: nothing ends.
    Paused,
}

impl Task {
    /// Fetches a resource into a fresh directory.
    pub(crate) fn new(home: &Path, url: String) -> Self {
        std::fs::create_dir(home.join("files")).unwrap();
        Self {
            home: home.to_path_buf(),
            url,
            ..Self::default()
        }
    }

    pub(crate) fn expecting_digest_of(self, bytes: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        let sha256 = Some(digest.as_ref().try_into().unwrap());
        Self { sha256, ..self }
    }

    pub(crate) fn expecting_length_of(self, bytes: &[u8]) -> Self {
        let expected_bytes = Some(bytes.len() as u64);
        Self { expected_bytes, ..self }
    }

    pub(crate) fn over(self, connections: usize) -> Self {
        Self { connections, ..self }
    }

    pub(crate) fn files(&self) -> PathBuf {
        self.home.join("files")
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.files().join("file")
    }

    fn state(&self) -> PathBuf {
        self.home.join("state")
    }

    /// Goes on with the download, or begins it, until it has ended.
    pub(crate) fn live(&self) -> OperationView {
        let engine = self.open();
        let view = run(&engine);
        engine.close().unwrap();
        view
    }

    /// The same, until a bell rings. Whatever it says of the operation then may be its end or not.
    pub(crate) fn live_until(&self, stop: Stop, killer: &Killer, kill: Kill) {
        let engine = self.open();
        let (bell, rung) = mpsc::channel();
        let (end, state) = (End::Bell(bell), self.state());
        killer.arm(kill, Victim { end, state });
        std::thread::scope(|scope| {
            let engine = &engine;
            scope.spawn(move || {
                // An error says that the killer was disarmed, and the life has ended by itself.
                if rung.recv().is_err() {
                    return;
                }
                match stop {
                    Stop::Closed | Stop::Dropped => engine.stop(),
                    // Refused where the operation has ended meanwhile.
                    Stop::Paused => drop(engine.views().first().map(|view| engine.pause(view.id))),
                }
            });
            let disarmed_in_the_end = Disarmed(killer);
            let view = run(engine);
            drop(disarmed_in_the_end);
            if view.status == TransferStatus::PausedByApplication {
                engine.resume(view.id).unwrap();
                run(engine);
            }
        });
        match stop {
            Stop::Dropped => drop(engine),
            Stop::Closed | Stop::Paused => engine.close().unwrap(),
        }
    }

    /// The same in a process of its own, which is killed.
    pub(crate) fn live_until_killed(&self, killer: &Killer, kill: Kill) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", client::CHILD])
            .env(TASK, self.to_text())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).unwrap();
        let (end, state) = (End::Process(pid), self.state());
        killer.arm(kill, Victim { end, state });
        // Both pipes end with the process. A life that hangs ends itself.
        let (mut stdout, mut stderr) = (String::new(), String::new());
        let _ = child.stdout.take().unwrap().read_to_string(&mut stdout);
        let _ = child.stderr.take().unwrap().read_to_string(&mut stderr);
        killer.disarm();
        let status = child.wait().unwrap();
        assert!(
            status.success() || status.signal() == Some(Signal::KILL.as_raw()),
            "a client failed: {status}\n{stdout}\n{stderr}"
        );
    }

    /// The life that this process was started for, if it was started for one.
    pub(crate) fn of_this_process() -> Option<Self> {
        let text = std::env::var(TASK).ok()?;
        Some(Self::from_text(&text))
    }

    fn open(&self) -> Engine {
        abort_where_an_engine_panics();
        let config = client::config(self.connections);
        let open = || {
            let backends = client::backends(&config);
            Engine::open(&self.state(), config.clone(), Environment::system(), backends)
        };
        let (started, mut opened) = (Instant::now(), open());
        // A child that another test starts just now holds the files of its parent, and with them locks, until it has
        // become another program.
        while matches!(opened, Err(Error::Locked { .. })) && started.elapsed() < LIFE_MAX {
            std::thread::sleep(Duration::from_millis(1));
            opened = open();
        }
        let engine = opened.unwrap();
        if engine.views().is_empty() {
            engine.create(&[self.download()]).unwrap();
        }
        engine
    }

    fn download(&self) -> NewDownload {
        NewDownload {
            url: self.url.clone(),
            destination: self.file(),
            app: "hostile".into(),
            sha256: self.sha256,
            expected_bytes: self.expected_bytes,
            ..NewDownload::default()
        }
    }

    fn to_text(&self) -> String {
        let digest = self.sha256.map(|digest| data_encoding::HEXLOWER.encode(&digest));
        let bytes = self.expected_bytes.map(|bytes| bytes.to_string());
        let home = self.home.to_str().unwrap();
        let connections = self.connections.to_string();
        [
            home,
            &self.url,
            &digest.unwrap_or_default(),
            &bytes.unwrap_or_default(),
            &connections,
        ]
        .join("\n")
    }

    fn from_text(text: &str) -> Self {
        let [home, url, digest, bytes, connections] = text.split('\n').collect::<Vec<_>>().try_into().unwrap();
        let digest = data_encoding::HEXLOWER.decode(digest.as_bytes()).unwrap();
        Self {
            home: home.into(),
            url: url.into(),
            sha256: digest.try_into().ok(),
            expected_bytes: bytes.parse().ok(),
            connections: connections.parse().unwrap(),
        }
    }
}

/// A panic on a thread of an engine ends the process, as it does in a release, and is seen: the engine would wait for that
/// thread for ever.
fn abort_where_an_engine_panics() {
    const THREADS: &[&str] = &["worker", "publisher", "segment", "claimer", "command"];
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let thread = std::thread::current();
            if thread.name().is_some_and(|name| THREADS.contains(&name)) {
                // Past the test harness, which would keep it to itself.
                let _ = writeln!(std::io::stderr(), "an engine panicked: {panic}");
                std::process::abort();
            }
            usual(panic);
        }));
    });
}

/// Disarms a killer also where a life fails: whoever listens for its bell would listen for ever.
struct Disarmed<'a>(&'a Killer);

impl Drop for Disarmed<'_> {
    fn drop(&mut self) {
        self.0.disarm();
    }
}

/// Runs an engine until nothing goes on by itself, or somebody stops it.
fn run(engine: &Engine) -> OperationView {
    let started = Instant::now();
    let watch = |engine: &Engine| {
        if started.elapsed() > LIFE_MAX {
            engine.stop();
        }
    };
    engine.run(Until::Idle, Some(Duration::from_secs(1)), watch).unwrap();
    let views = engine.views();
    assert!(started.elapsed() < LIFE_MAX, "it hangs: {views:?}");
    let [view] = views.try_into().unwrap();
    view
}
