//! Real proxies: squid, tinyproxy and microsocks, each for one test, on a port and in a folder of its own.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::support::{free_ports, until};

/// Attempts to find a port that nobody takes between our look and the proxy's bind.
const STARTS_MAX: usize = 10;

/// Runs a proxy in a session of its own, and kills that session at the end of the standard input, which comes when the test
/// lets go of the pipe or dies.
const KEEPER: &str = r#"
    PATH="$PATH:/usr/sbin"; exec 3<&0
    setsid "$@" </dev/null 3<&- & proxy=$!
    { read -r line <&3; kill -KILL "$proxy"; } & watcher=$!
    wait "$proxy"; kill -KILL "-$proxy"; kill "$watcher"; rm -f "/dev/shm/backhaul$PORT-"*"#;

pub(crate) const USER: &str = "user";
/// Long enough to be found wherever it is written.
pub(crate) const PASSWORD: &str = "hush-8c1f4b";

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Squid,
    Tinyproxy,
    Microsocks,
}

/// A running proxy that listens.
pub(crate) struct Program {
    folder: TempDir,
    kind: Kind,
    keeper: Option<Child>,
    pub(crate) port: u16,
    /// Whom it lets in only: [`USER`] with [`PASSWORD`].
    is_closed: bool,
    /// The one port that it opens tunnels to, as the defaults of squid and tinyproxy have it for 443; any where `None`.
    secure: Option<u16>,
}

impl Program {
    /// One for everybody.
    pub(crate) fn open(kind: Kind, secure: u16) -> Self {
        Self::start(kind, false, Some(secure))
    }

    /// One for [`USER`] alone.
    pub(crate) fn closed(kind: Kind, secure: u16) -> Self {
        Self::start(kind, true, Some(secure))
    }

    /// One for [`USER`] alone, with tunnels to every port.
    pub(crate) fn closed_to_no_port(kind: Kind) -> Self {
        Self::start(kind, true, None)
    }

    fn start(kind: Kind, is_closed: bool, secure: Option<u16>) -> Self {
        let folder = TempDir::with_prefix("backhaul-proxy-").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let mut program = Self {
            folder,
            kind,
            keeper: None,
            port: 0,
            is_closed,
            secure,
        };
        for _ in 0..STARTS_MAX {
            [program.port] = free_ports();
            program.launch();
            if program.becomes_ready() {
                return program;
            }
            program.stop();
        }
        panic!("it does not start: {}", program.said());
    }

    fn words(&self) -> Vec<String> {
        let port = self.port.to_string();
        let configuration = self.path("configuration").display().to_string();
        let mut words = match self.kind {
            Kind::Squid => vec!["squid", "-N", "-n", "NAME", "-f", &configuration],
            Kind::Tinyproxy => vec!["tinyproxy", "-d", "-c", &configuration],
            Kind::Microsocks => vec!["microsocks", "-i", "127.0.0.1", "-p", &port],
        };
        let name = format!("backhaul{port}");
        for word in words.iter_mut().filter(|word| **word == "NAME") {
            *word = &name;
        }
        if self.kind == Kind::Microsocks && self.is_closed {
            words.extend(["-u", USER, "-P", PASSWORD]);
        }
        words.into_iter().map(str::to_owned).collect()
    }

    fn configuration(&self) -> String {
        let is_root = rustix::process::geteuid().is_root();
        let (port, folder) = (self.port, self.folder.path().display());
        match self.kind {
            Kind::Squid => {
                let account = if is_root {
                    "cache_effective_user nobody\ncache_effective_group nogroup\n"
                } else {
                    ""
                };
                let (login, known) = if self.is_closed {
                    let helper = "/usr/lib/squid/basic_ncsa_auth";
                    let login = format!(
                        "auth_param basic program {helper} {folder}/passwords\nauth_param basic children 1\nacl known proxy_auth REQUIRED\n"
                    );
                    (login, "known")
                } else {
                    (String::new(), "all")
                };
                let tunnels = self.secure.map_or_else(String::new, |secure| {
                    format!("acl secure port {secure}\nhttp_access deny connecting !secure\n")
                });
                format!(
                    "http_port 127.0.0.1:{port}
{login}acl connecting method CONNECT
{tunnels}http_access allow {known}
http_access deny all
hosts_file {folder}/hosts
cache deny all
logformat ours %un %rm %ru %>Hs
access_log stdio:{folder}/access ours
cache_log {folder}/log
coredump_dir {folder}
pid_filename {folder}/pid
pinger_enable off
shutdown_lifetime 0 seconds
visible_hostname localhost
{account}"
                )
            }
            Kind::Tinyproxy => {
                let account = if is_root { "User nobody\nGroup nogroup\n" } else { "" };
                let login = if self.is_closed {
                    format!("BasicAuth {USER} {PASSWORD}\n")
                } else {
                    String::new()
                };
                let tunnels = self
                    .secure
                    .map_or_else(String::new, |secure| format!("ConnectPort {secure}\n"));
                format!(
                    "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 50\n{tunnels}\
                     LogFile \"{folder}/access\"\nLogLevel Connect\n{account}{login}"
                )
            }
            Kind::Microsocks => String::new(),
        }
    }

    fn launch(&mut self) {
        fs::write(self.path("configuration"), self.configuration()).unwrap();
        // squid looks names up here: nobody else knows this one.
        fs::write(self.path("hosts"), "127.0.0.1 localhost inner.test\n").unwrap();
        fs::write(self.path("passwords"), passwords()).unwrap();
        let out = fs::File::create(self.path("out")).unwrap();
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "sh"])
            .args(self.words())
            .current_dir(self.folder.path())
            .env("PORT", self.port.to_string())
            .stdin(Stdio::piped())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .expect("sh can be started");
        self.keeper = Some(keeper);
    }

    fn becomes_ready(&mut self) -> bool {
        let port = self.port;
        let keeper = self.keeper.as_mut().unwrap();
        until("the proxy to listen or to give up", || {
            if keeper.try_wait().unwrap().is_some() {
                return Some(false);
            }
            TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(true)
        })
    }

    /// Kills it; every connection through it breaks.
    pub(crate) fn stop(&mut self) {
        let Some(mut keeper) = self.keeper.take() else { return };
        drop(keeper.stdin.take());
        let _ = keeper.wait();
    }

    /// Starts it again on the same port after [`Program::stop`].
    pub(crate) fn start_again(&mut self) {
        self.launch();
        assert!(self.becomes_ready(), "{}", self.said());
    }

    /// `SCHEME://[LOGIN@]127.0.0.1:PORT`.
    pub(crate) fn url(&self, scheme: &str, login: &str) -> String {
        let at = if login.is_empty() { "" } else { "@" };
        format!("{scheme}://{login}{at}127.0.0.1:{}", self.port)
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("access")).unwrap_or_default()
    }

    fn said(&self) -> String {
        let read = |name| fs::read_to_string(self.path(name)).unwrap_or_default();
        format!("{}{}", read("out"), read("log"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What squid checks passwords with.
fn passwords() -> String {
    let hashed = Command::new("openssl")
        .args(["passwd", "-apr1", PASSWORD])
        .output()
        .unwrap();
    assert!(hashed.status.success());
    format!("{USER}:{}", String::from_utf8(hashed.stdout).unwrap())
}
