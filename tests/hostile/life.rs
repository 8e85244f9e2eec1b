//! One life of a client: the real engine with the real HTTP backend on a directory, in this process or in a child that
//! can be killed.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use backhaul::{
    Config, Connections, Engine, Environment, Limits, NewDownload, OperationView, RetryPolicy, Until, Window, backends,
};
use rustix::process::Pid;

use crate::resource::Version;
use crate::server::{Kill, Server, Victim};

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

impl Task {
    /// Fetches the resource of a server into a fresh directory.
    pub(crate) fn new(home: &Path, server: &Server) -> Self {
        std::fs::create_dir(home.join("files")).unwrap();
        Self {
            home: home.to_path_buf(),
            url: server.url(),
            ..Self::default()
        }
    }

    pub(crate) fn expecting_digest_of(self, version: &Version) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, &version.bytes);
        let sha256 = Some(digest.as_ref().try_into().unwrap());
        Self { sha256, ..self }
    }

    pub(crate) fn expecting_length_of(self, version: &Version) -> Self {
        let expected_bytes = Some(version.len() as u64);
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
        let config = config(self.connections);
        let backends = backends(&config, |_| None).unwrap();
        let engine = Engine::open(&self.state(), config, Environment::system(), backends).unwrap();
        if engine.views().is_empty() {
            engine.create(&[self.download()]).unwrap();
        }
        let started = Instant::now();
        let watch = |engine: &Engine| {
            if started.elapsed() > LIFE_MAX {
                engine.stop();
            }
        };
        engine.run(Until::Idle, Some(Duration::from_secs(1)), watch).unwrap();
        let views = engine.views();
        engine.close().unwrap();
        assert!(started.elapsed() < LIFE_MAX, "it hangs: {views:?}");
        let [view] = views.try_into().unwrap();
        view
    }

    /// The same in a process of its own, which the server kills.
    pub(crate) fn live_until_killed(&self, server: &Server, kill: Kill) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "life::a_client_completes_what_an_honest_server_gives"])
            .env(TASK, self.to_text())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).unwrap();
        let state = self.state();
        server.arm(kill, Victim { pid, state });
        // Both pipes end with the process. A life that hangs ends itself.
        let (mut stdout, mut stderr) = (String::new(), String::new());
        let _ = child.stdout.take().unwrap().read_to_string(&mut stdout);
        let _ = child.stderr.take().unwrap().read_to_string(&mut stderr);
        server.disarm();
        let status = child.wait().unwrap();
        assert!(
            status.success() || status.code().is_none(),
            "a client failed: {status}\n{stdout}\n{stderr}"
        );
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

/// Claims come early and often, nothing is waited for long, and little is worth a connection.
fn config(connections: usize) -> Config {
    let ms = Duration::from_millis;
    Config {
        jobs_max: 1,
        retry: RetryPolicy {
            failures_max: 12,
            delay_first: ms(1),
            delay_max: ms(4),
            retry_after_min: ms(1),
            retry_after_max: ms(4),
            probe_every: ms(4),
            clock_probe_every: ms(4),
        },
        limits: Limits {
            connect: Duration::from_secs(10),
            response: Duration::from_secs(10),
            stall: Duration::from_secs(10),
        },
        window: Window {
            claim_bytes: 64 << 10,
            claim_after: ms(10),
            unclaimed_bytes_max: 128 << 10,
            unclaimed_age_max: ms(100),
            short_path_bytes_max: 16 << 10,
        },
        buffer_bytes: 16 << 10,
        connections: Connections {
            max: connections.max(1),
            at_once: true,
            bytes_min: 2 << 10,
            ..Connections::default()
        },
        ..Config::default()
    }
}

/// A child of the other tests lives its life in here.
#[test]
fn a_client_completes_what_an_honest_server_gives() {
    if let Ok(text) = std::env::var(TASK) {
        Task::from_text(&text).live();
        return;
    }
    let versions = vec![Version::new(1, 0, 300_000).tagged("\"a\"")];
    let server = Server::start(crate::server::Scene {
        versions: versions.clone(),
        page: Vec::new(),
        script: Vec::new(),
    });
    for connections in [1, 4] {
        let home = tempfile::tempdir().unwrap();
        let task = Task::new(home.path(), &server).expecting_digest_of(&versions[0]);
        let view = task.over(connections).live();
        assert_eq!(view.status, backhaul::TransferStatus::Completed, "{view:?}");
        assert_eq!(
            std::fs::read(home.path().join("files/file")).unwrap(),
            *versions[0].bytes
        );
        assert_eq!(server.record().pieces() > 0, connections > 1);
    }
}
