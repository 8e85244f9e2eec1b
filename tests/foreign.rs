//! A client that nobody here wrote: the Python package varlink, which learns the interface from the service itself; and the
//! example in README, word for word.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::nginx::Nginx;
use support::{Ended, Home, Running, assert_same, until};

/// The Python with that package, as `tests/run --prepare` makes it.
fn python() -> PathBuf {
    let python = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python/bin/python");
    assert!(
        python.exists(),
        "{} is missing: tests/run --prepare makes it",
        python.display()
    );
    python
}

fn run(program: &Path, arguments: &[&str]) -> Ended {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("LC_ALL", "C.UTF-8");
    Running::spawn(&mut command).finish()
}

/// A daemon that listens in a fresh folder.
struct Service {
    home: Home,
    daemon: Running,
}

impl Service {
    fn start() -> Self {
        let home = Home::new();
        let socket = home.path().join("socket");
        let mut daemon = home.spawn(&["--socket", socket.to_str().unwrap(), "daemon"]);
        until("the daemon to listen", || {
            assert!(!daemon.has_ended(), "the daemon has ended");
            UnixStream::connect(&socket).ok()
        });
        Self { home, daemon }
    }

    fn socket(&self) -> String {
        self.home.path().join("socket").to_str().unwrap().to_owned()
    }

    /// Ends it, and asserts that it has nothing to complain about.
    fn stop(self) {
        self.daemon.signal(rustix::process::Signal::TERM);
        let ended = self.daemon.finish().expect_code(0);
        assert_eq!(ended.stderr, "");
    }
}

#[test]
fn a_foreign_client_creates_follows_pauses_resumes_lists_and_removes() {
    let nginx = Nginx::start();
    let content = nginx.put_seeded("file.bin", 3 << 20);
    let service = Service::start();
    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign/client.py");
    let url = nginx.url("/rate/1000k/file.bin");
    let downloads = service.home.downloads();
    let words = [
        "-B",
        client.to_str().unwrap(),
        &service.socket(),
        &url,
        downloads.to_str().unwrap(),
    ];
    let ended = run(&python(), &words).expect_code(0);
    assert!(ended.stdout.contains("kept: a removal is told"), "{}", ended.stdout);
    assert_same(&service.home.download("file.bin"), &content);
    service.stop();
}

#[test]
fn a_foreign_command_line_shows_describes_and_calls_the_service() {
    let service = Service::start();
    let id = service
        .home
        .add("http://localhost:1/file", &service.home.download("file"), &["--hold"]);
    let address = format!("unix:{}", service.socket());
    let cli = |words: &[&str]| run(&python(), &[&["-B", "-m", "varlink.cli"], words].concat()).expect_code(0);

    let told = cli(&["info", &address]).stdout;
    let version = format!("Version: {}\n", env!("CARGO_PKG_VERSION"));
    assert!(
        told.contains("Product: backhaul\n") && told.contains(&version),
        "{told}"
    );
    assert!(told.contains("io.backhaul.Transfer"), "{told}");

    let described = cli(&["help", &format!("{address}/io.backhaul.Transfer")]).stdout;
    let description = include_str!("../src/service/io.backhaul.Transfer.varlink");
    assert_eq!(described.trim_end(), description.trim_end());

    let listed = cli(&["call", &format!("{address}/io.backhaul.Transfer.List")]).json();
    assert_eq!(listed["operations"][0]["id"], *id);
    assert_eq!(listed["operations"][0]["status"], "Idle");
    let method = format!("{address}/io.backhaul.Transfer.Cancel");
    assert_eq!(cli(&["call", &method, &format!("{{\"ids\": [\"{id}\"]}}")]).stderr, "");
    assert_eq!(service.home.operation()["status"], "Canceled");
    service.stop();
}

/// The only block of Python in README.
fn example() -> String {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let blocks: Vec<&str> = readme.split("```python\n").skip(1).collect();
    assert_eq!(blocks.len(), 1, "one block of Python in README");
    let (block, _) = blocks[0].split_once("```\n").unwrap();
    block.to_owned()
}

#[test]
fn the_example_in_readme_fetches_a_file_and_tells_of_an_error() {
    let nginx = Nginx::start();
    let content = nginx.put_seeded("file.bin", 1 << 20);
    let service = Service::start();
    let script = service.home.path().join("example.py");
    fs::write(&script, example()).unwrap();
    let destination = service.home.download("file.bin");
    let fetch = |url: &str| {
        let socket = service.socket();
        let words = [
            "-I",
            script.to_str().unwrap(),
            &socket,
            url,
            destination.to_str().unwrap(),
        ];
        run(&python(), &words)
    };

    let ended = fetch(&nginx.url("/rate/2000k/file.bin")).expect_code(0);
    assert!(
        ended.stdout.lines().last().unwrap().starts_with("Completed 1048576"),
        "{}",
        ended.stdout
    );
    assert_same(&destination, &content);
    assert!(!service.home.operation()["acknowledged"].is_null());

    fs::remove_file(&destination).unwrap();
    let ended = fetch(&nginx.url("/gone")).expect_code(1);
    assert!(
        ended.stdout.lines().last().unwrap().starts_with("Error"),
        "{}",
        ended.stdout
    );

    let ended = fetch("gopher://example.com/").expect_code(1);
    assert!(
        ended.stderr.contains("io.backhaul.Transfer.Invalid"),
        "{}",
        ended.stderr
    );
    service.stop();
}
