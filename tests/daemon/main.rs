//! The daemon as a device has it: the real binary, killed, stopped, spoken to by commands, by strangers and by a service
//! manager.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

mod beside;
mod life;
mod manager;
mod place;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};

use support::{Ended, Home, STEP_MAX, until};

/// The most that one end costs, in bytes; and what is asked for again to be compared, with what is on its way.
const WINDOW_BYTES: u64 = 16 << 20;
const OVERLAP_BYTES: u64 = 256 << 10;
/// Somebody who is neither root nor whoever runs the tests.
const STRANGER: &str = "64998";

/// A fresh folder, and a place for the socket of a daemon.
struct Lab {
    home: Home,
}

impl Lab {
    fn new() -> Self {
        Self { home: Home::new() }
    }

    fn socket(&self) -> PathBuf {
        self.home.path().join("socket")
    }

    fn log(&self) -> PathBuf {
        self.home.path().join("log")
    }

    /// The command that starts a daemon.
    fn daemon_command(&self, options: &[&str]) -> Command {
        let socket = self.socket();
        let words = [&["--socket", socket.to_str().unwrap(), "daemon"], options].concat();
        self.home.command(&words)
    }

    /// A daemon that listens.
    fn start(&self, options: &[&str]) -> Daemon {
        self.start_command(&mut self.daemon_command(options))
    }

    fn start_command(&self, command: &mut Command) -> Daemon {
        let mut daemon = Daemon::spawn(command, &self.log());
        let socket = self.socket();
        until("the daemon to listen", || {
            assert!(!daemon.has_ended(), "the daemon has ended: {}", daemon.log());
            UnixStream::connect(&socket).ok()
        });
        daemon
    }

    /// Writes a configuration file.
    fn configure(&self, text: &str) -> PathBuf {
        let file = self.home.path().join("backhaul.toml");
        fs::write(&file, text).unwrap();
        file
    }

    fn call(&self, method: &str, parameters: &Value) -> Value {
        Client::connect(&self.socket()).call(method, parameters)
    }

    /// Waits until a file has arrived under its final name.
    fn until_arrived(&self, name: &str) {
        let path = self.home.download(name);
        until(name, || path.exists().then_some(()));
    }

    /// Waits until there is one operation, and bytes of it are durable.
    fn until_claimed(&self) {
        let claimed = || self.home.listing().len() == 1 && self.home.claimed_bytes() > 0;
        until("durable bytes", || claimed().then_some(()));
    }
}

/// A daemon whose log is a file; killed when the test lets go of it.
struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    fn spawn(command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let log = log.to_owned();
        Self { child, log }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// SIGKILL, and no process is left when this returns.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    fn finish(&mut self) -> ExitStatus {
        until("the end of the daemon", || self.child.try_wait().unwrap())
    }

    /// Ends it by SIGTERM; asserts that it says it did well, and gives what it has logged.
    fn stop(mut self) -> String {
        self.signal(Signal::TERM);
        let status = self.finish();
        assert_eq!(status.code(), Some(0), "{}", self.log());
        self.log()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One connection to the interface.
struct Client {
    stream: UnixStream,
}

impl Client {
    fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(STEP_MAX)).unwrap();
        Self { stream }
    }

    fn send(&mut self, method: &str, parameters: &Value, more: bool) {
        let message =
            json!({ "method": format!("io.backhaul.Transfer.{method}"), "parameters": parameters, "more": more });
        self.stream.write_all(message.to_string().as_bytes()).unwrap();
        self.stream.write_all(b"\0").unwrap();
    }

    /// The next message, if one comes before the end.
    fn receive(&mut self) -> Option<Value> {
        let mut message = Vec::new();
        let mut byte = [0];
        while self.stream.read(&mut byte).unwrap() == 1 {
            if byte == [0] {
                return Some(serde_json::from_slice(&message).unwrap());
            }
            message.push(byte[0]);
        }
        assert!(message.is_empty(), "half a message");
        None
    }

    /// The parameters of the answer, which must be no error.
    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.send(method, parameters, false);
        let answer = self.receive().unwrap();
        assert_eq!(answer["error"], Value::Null, "{method}: {answer}");
        answer["parameters"].clone()
    }
}

/// Whether the tests may act as somebody else.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A copy of the binary that somebody else may execute, too, wherever this tree stands; and the words that make one somebody
/// else.
fn as_stranger(home: &Home) -> Vec<String> {
    use std::os::unix::fs::PermissionsExt;
    let copy = home.path().join("backhaul");
    fs::copy(env!("CARGO_BIN_EXE_backhaul"), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let words = [
        "setpriv",
        "--reuid",
        STRANGER,
        "--regid",
        STRANGER,
        "--clear-groups",
        copy.to_str().unwrap(),
    ];
    words.map(str::to_owned).to_vec()
}

/// Runs a command of somebody else.
fn run_as_stranger(home: &Home, words: &[&str]) -> Ended {
    run_as(home, &as_stranger(home), words)
}

/// The same with the copy of the binary that is there already.
fn run_as(home: &Home, stranger: &[String], words: &[&str]) -> Ended {
    let mut command = Command::new(&stranger[0]);
    command.args(&stranger[1..]).args(words).current_dir(home.path());
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HOME", home.path()).env("XDG_RUNTIME_DIR", home.path());
    support::Running::spawn(&mut command).finish()
}

/// Milliseconds since a moment, for figures.
fn milliseconds_since(moment: Instant) -> u128 {
    moment.elapsed().as_millis()
}
