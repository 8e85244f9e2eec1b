//! What the tests of the command share: a real nginx, the real binary, deterministic files, bounded waits.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world has failed")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub(crate) mod certificates;
pub(crate) mod cgroup;
pub(crate) mod crashes;
pub(crate) mod keeper;
pub(crate) mod loop_disk;
pub(crate) mod mount;
pub(crate) mod nginx;
pub(crate) mod strace;

/// No single step of a test takes longer than this; a step that does has hung.
pub(crate) const STEP_MAX: Duration = Duration::from_secs(60);

/// Repeats `check` until it answers, for at most [`STEP_MAX`].
///
/// # Panics
/// If the time is over; `what` says what never came.
pub(crate) fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = check() {
            return answer;
        }
        assert!(started.elapsed() < STEP_MAX, "waited {STEP_MAX:?} in vain for: {what}");
        // Between two looks at something that another process does; no step relies on how long this takes.
        thread::sleep(Duration::from_millis(2));
    }
}

/// A line that reaches the summary of `tests/run` although the test passes: the test harness swallows only `print!`.
pub(crate) fn figure(line: &str) {
    let _ = writeln!(std::io::stderr(), "figure: {line}");
}

/// Says in the summary of `tests/run` that a test could not do its work here.
pub(crate) fn left_out(why: &str) {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "left out: {name}, for {why}");
}

/// A number from the environment, for runs that are longer than the usual.
pub(crate) fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|error| panic!("{variable}={text}: {error}")))
}

/// Repeatable numbers (`SplitMix64`).
pub(crate) struct Seeded(u64);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A seed that differs from run to run, unless `BACKHAUL_TEST_SEED` fixes it.
    pub(crate) fn from_environment() -> (Self, u64) {
        let fixed = number_from("BACKHAUL_TEST_SEED");
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let seed = fixed.unwrap_or(u64::from(now.subsec_nanos()) ^ now.as_secs());
        (Self(seed), seed)
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.number().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

/// How a command ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Asserts the exit code and shows everything otherwise.
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.code(),
            Some(code),
            "stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("not JSON: {error}\n{}", self.stdout))
    }
}

/// A running command, killed when the test lets go of it.
pub(crate) struct Running {
    child: Child,
    stdout: mpsc::Receiver<String>,
    stderr: mpsc::Receiver<String>,
}

impl Running {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        Self::spawn_with_input(command, b"")
    }

    pub(crate) fn spawn_with_input(command: &mut Command, input: &[u8]) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // A command that refuses its arguments may end without reading its input.
        thread::spawn(move || drop(stdin.write_all(&input)));
        let stdout = collect(child.stdout.take().unwrap());
        let stderr = collect(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// SIGKILL, and no process is left when this returns.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.unwrap(), signal).unwrap();
    }

    /// Waits for the end, for at most `limit`; then the command has hung, is killed, and the test fails.
    pub(crate) fn finish_within(mut self, limit: Duration) -> Ended {
        let started = Instant::now();
        // Both pipes close when the process ends; that is the signal waited for.
        let stdout = self.stdout.recv_timeout(limit);
        let stderr = self
            .stderr
            .recv_timeout(limit.saturating_sub(started.elapsed()).max(Duration::from_secs(1)));
        let (Ok(stdout), Ok(stderr)) = (stdout, stderr) else {
            self.child.kill().unwrap();
            let stderr = self.stderr.recv_timeout(Duration::from_secs(5)).unwrap_or_default();
            panic!("still running after {limit:?}; stderr:\n{stderr}");
        };
        Ended {
            status: self.child.wait().unwrap(),
            stdout,
            stderr,
        }
    }

    pub(crate) fn finish(self) -> Ended {
        self.finish_within(STEP_MAX)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

/// A fresh folder with a state directory and a place for downloads, and the binary to run in it.
pub(crate) struct Home {
    folder: TempDir,
    state: PathBuf,
}

impl Home {
    pub(crate) fn new() -> Self {
        let folder = TempDir::with_prefix("backhaul-test-").unwrap();
        fs::create_dir(folder.path().join("downloads")).unwrap();
        let state = folder.path().join("state");
        Self { folder, state }
    }

    /// The same with the state directory at another place.
    pub(crate) fn with_state(state: PathBuf) -> Self {
        Self { state, ..Self::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.state.clone()
    }

    pub(crate) fn downloads(&self) -> PathBuf {
        self.folder.path().join("downloads")
    }

    pub(crate) fn download(&self, name: &str) -> PathBuf {
        self.downloads().join(name)
    }

    /// The binary under test with this state directory, in an environment that holds nothing of the developer's.
    pub(crate) fn command<Argument: AsRef<std::ffi::OsStr>>(&self, arguments: &[Argument]) -> Command {
        self.command_under(&[], arguments)
    }

    /// The same, started by another program, such as strace with its options.
    pub(crate) fn command_under<Argument: AsRef<std::ffi::OsStr>>(
        &self,
        starter: &[String],
        arguments: &[Argument],
    ) -> Command {
        let binary = env!("CARGO_BIN_EXE_backhaul");
        let mut words = starter.iter().map(String::as_str).chain([binary]);
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path())
            // A kill leaves its socket: it goes with the folder.
            .env("XDG_RUNTIME_DIR", self.path())
            .env("RUST_BACKTRACE", "1")
            .current_dir(self.path())
            .arg("--state-dir")
            .arg(self.state())
            .args(arguments);
        command
    }

    pub(crate) fn run<Argument: AsRef<std::ffi::OsStr>>(&self, arguments: &[Argument]) -> Ended {
        Running::spawn(&mut self.command(arguments)).finish()
    }

    pub(crate) fn spawn<Argument: AsRef<std::ffi::OsStr>>(&self, arguments: &[Argument]) -> Running {
        Running::spawn(&mut self.command(arguments))
    }

    /// `list --json` of all apps.
    pub(crate) fn listing(&self) -> Vec<serde_json::Value> {
        let json = self.run(&["list", "--json", "--all-apps"]).expect_code(0).json();
        json.as_array()
            .unwrap_or_else(|| panic!("not an array: {json}"))
            .clone()
    }

    /// Ids of the operations with this status.
    pub(crate) fn ids_with(&self, status: &str) -> Vec<String> {
        let listed = self.listing().into_iter().filter(|shown| shown["status"] == status);
        listed.map(|shown| shown["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Some operations wait for room, and all others have ended.
    pub(crate) fn only_waits_for_room(&self) -> bool {
        let listed = self.listing();
        let waiting = listed
            .iter()
            .filter(|shown| shown["status"] == "PausedDiskFull")
            .count();
        let ended = listed.iter().filter(|shown| !shown["ended_at"].is_null()).count();
        waiting > 0 && waiting + ended == listed.len()
    }

    /// The only operation there is, as `list --json` shows it.
    pub(crate) fn operation(&self) -> serde_json::Value {
        let mut all = self.listing();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    /// Bytes of it that are durable: what a running engine has received besides is not among them.
    pub(crate) fn claimed_bytes(&self) -> u64 {
        let shown = self.operation();
        let ranges = shown["ranges"].as_array().unwrap();
        let bound = |range: &serde_json::Value, end: usize| range[end].as_u64().unwrap();
        ranges.iter().map(|range| bound(range, 1) - bound(range, 0)).sum()
    }

    /// Adds one download and returns its id.
    pub(crate) fn add(&self, url: &str, destination: &Path, more: &[&str]) -> String {
        let mut arguments = vec!["add", url, "-o", destination.to_str().unwrap()];
        arguments.extend_from_slice(more);
        let ended = self.run(&arguments).expect_code(0);
        let id = ended.stdout.trim_end().to_owned();
        assert!(
            !id.is_empty() && !id.contains(char::is_whitespace),
            "not one id alone: {:?}",
            ended.stdout
        );
        id
    }
}

/// Names of the files in a folder, sorted; none if there is no such folder.
pub(crate) fn names_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Gets one URL.
pub(crate) fn get(home: &Home, url: &str, destination: &str, more: &[&str]) -> Ended {
    let mut arguments = vec!["get", url, "-o", destination];
    arguments.extend_from_slice(more);
    home.run(&arguments)
}

/// Bytes in the download folder, partial data included.
pub(crate) fn bytes_in(home: &Home) -> u64 {
    let sizes = names_in(&home.downloads())
        .into_iter()
        .map(|name| fs::metadata(home.download(&name)).map(|m| m.len()));
    sizes.map(|size| size.unwrap_or(0)).sum()
}

/// Asserts that a file holds exactly these bytes, and says where it first differs.
pub(crate) fn assert_same(path: &Path, expected: &[u8]) {
    let found = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // Looked for only where there is one: byte by byte takes its time in a build without optimisation.
    let differs = || found.iter().zip(expected).position(|(a, b)| a != b);
    assert!(
        found == expected,
        "{}: {} bytes, expected {}; first difference at {:?}",
        path.display(),
        found.len(),
        expected.len(),
        differs(),
    );
}

/// Ports that were free a moment ago, each another one: all are held until the last is found. Another process may take
/// one first, so whoever binds them retries with new ones.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

/// One plain request over a connection of its own; `headers` are whole lines.
fn connect(port: u16, path: &str, headers: &str) -> std::io::Result<TcpStream> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    Ok(stream)
}

/// The answer as it came: status line, headers and body.
pub(crate) fn fetch_raw(port: u16, path: &str, headers: &str) -> std::io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    connect(port, path, headers)?.read_to_end(&mut answer)?;
    Ok(answer)
}
