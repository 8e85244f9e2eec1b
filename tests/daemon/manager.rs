//! What a service manager is told, and what it hands over.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use serde_json::json;

use super::support::nginx::Nginx;
use super::support::{Running, STEP_MAX, assert_same, left_out, until};
use super::{Client, Lab, STRANGER, is_root};

/// A service manager that is told of one daemon.
pub(super) struct Watched {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Watched {
    pub(super) fn new(lab: &Lab) -> Self {
        let path = lab.home.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(STEP_MAX)).unwrap();
        Self { socket, path }
    }

    /// A daemon that tells what it does.
    pub(super) fn told<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("NOTIFY_SOCKET", &self.path)
    }

    /// A daemon that has to say that it lives, every 200 ms.
    pub(super) fn watched_over<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        self.told(command).env("WATCHDOG_USEC", "400000")
    }

    fn receive(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    /// The next message that begins so; others are passed over.
    pub(super) fn until(&self, begin: &str) -> String {
        until(begin, || {
            Some(self.receive()).filter(|message| message.starts_with(begin))
        })
    }
}

#[test]
fn a_service_manager_is_told_of_start_life_reload_and_end() {
    let lab = Lab::new();
    let watched = Watched::new(&lab);
    let mut command = lab.daemon_command(&[]);
    let mut daemon = lab.start_command(watched.watched_over(&mut command));
    assert_eq!(watched.receive(), "READY=1", "the first message");
    for _ in 0..3 {
        watched.until("WATCHDOG=1");
    }
    daemon.signal(Signal::HUP);
    let reloading = watched.until("RELOADING=1");
    let since = reloading
        .lines()
        .find_map(|line| line.strip_prefix("MONOTONIC_USEC="))
        .unwrap();
    assert!(since.parse::<u64>().unwrap() > 0);
    watched.until("READY=1");
    let status = watched.until("STATUS=");
    assert_eq!(status, "STATUS=0 transfers run, 0 clients");
    daemon.signal(Signal::TERM);
    watched.until("STOPPING=1");
    assert_eq!(daemon.finish().code(), Some(0));
    assert_eq!(daemon.log(), "");
}

#[test]
fn who_is_ready_listens() {
    let lab = Lab::new();
    let watched = Watched::new(&lab);
    let mut command = lab.daemon_command(&[]);
    let daemon = super::Daemon::spawn(watched.told(&mut command), &lab.log());
    watched.until("READY=1");
    Client::connect(&lab.socket()).call("Describe", &json!({}));
    daemon.stop();
}

/// Makes a socket as a service manager does, and becomes the daemon that it hands it over to.
const ACTIVATE: &str = "
import os, socket, sys
path, *command = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX)
if os.path.exists(path):
    os.remove(path)
listener.bind(path)
os.chmod(path, 0o600)
listener.listen(16)
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')
os.execv(command[0], command)
";

#[test]
fn a_daemon_that_a_client_wakes_works_and_leaves_the_socket_to_its_maker() {
    let nginx = Nginx::start();
    let content = nginx.put_seeded("file.bin", 100_000);
    let lab = Lab::new();
    let daemon = lab.daemon_command(&["--exit-idle", "1"]);
    let mut command = Command::new("python3");
    command
        .args(["-c", ACTIVATE])
        .arg(lab.socket())
        .arg(daemon.get_program())
        .args(daemon.get_args());
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", lab.home.path());
    // The socket is there before the daemon: who comes early waits, and is served.
    let mut daemon = lab.start_command(&mut command);
    let created = json!([{ "url": nginx.url("/file.bin"), "destination": lab.home.download("file.bin") }]);
    let created = lab.call("Create", &json!({ "downloads": created }));
    let id = created["operations"][0]["id"].clone();
    lab.call("Wait", &json!({ "ids": [id] }));
    assert_same(&lab.home.download("file.bin"), &content);
    assert_eq!(daemon.finish().code(), Some(0), "{}", daemon.log());
    assert!(
        fs::symlink_metadata(lab.socket()).is_ok(),
        "the socket belongs to whoever made it"
    );
    assert_eq!(daemon.log(), "");
}

/// Listens as a service manager does, and starts the daemon each time that somebody connects and none runs, as often as it is
/// told to.
const MANAGE: &str = "
import os, select, socket, sys
path, times, *command = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(16)
open(os.path.join(os.path.dirname(path), 'listens'), 'w').close()
for _ in range(int(times)):
    select.select([listener], [], [])
    child = os.fork()
    if child == 0:
        os.dup2(listener.fileno(), 3)
        os.set_inheritable(3, True)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')
        os.execv(command[0], command)
    os.waitpid(child, 0)
";

#[test]
fn a_command_wakes_the_daemon_that_a_manager_listens_for_whether_it_has_ended_or_never_ran() {
    let nginx = Nginx::start();
    let lab = Lab::new();
    let state = lab.home.state();
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    let place = fs::metadata(&state).unwrap();
    let usual = lab.home.path().join("backhaul");
    fs::create_dir(&usual).unwrap();
    let usual = usual.join(format!("io.backhaul.Transfer-{:x}-{:x}", place.dev(), place.ino()));
    let daemon = lab.home.command(&["daemon", "--exit-idle", "1"]);
    let mut manager = Command::new("python3");
    manager
        .args(["-c", MANAGE])
        .arg(&usual)
        .arg("2")
        .arg(daemon.get_program())
        .args(daemon.get_args())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", lab.home.path());
    let manager = Running::spawn(&mut manager);
    until("it listens", || usual.with_file_name("listens").exists().then_some(()));
    for (name, runtime) in [
        // It has never run: where it would listen by itself.
        ("a", lab.home.path()),
        // It has said where it listens.
        ("b", std::path::Path::new("/nowhere")),
    ] {
        let content = nginx.put_seeded(name, 100_000);
        let (url, to) = (nginx.url(&format!("/{name}")), lab.home.download(name));
        let mut add = lab.home.command(&["add", &url, "-o", to.to_str().unwrap()]);
        let added = Running::spawn(add.env("XDG_RUNTIME_DIR", runtime));
        added.finish().expect_code(0);
        // Nobody else would do it.
        until("it is there", || to.exists().then_some(()));
        assert_same(&to, &content);
        until("the daemon has ended", || {
            let lock = fs::File::open(state.join("LOCK")).unwrap();
            lock.try_lock_shared().ok()
        });
    }
    manager.finish().expect_code(0);
}

/// Listens as another user where an engine did, takes connections, and says nothing.
const LISTEN_AS: &str = "
import os, socket, sys
user, path, ready = sys.argv[1:]
os.setgid(int(user))
os.setuid(int(user))
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
os.chmod(path, 0o666)
listener.listen(16)
open(ready, 'w').close()
taken = []
while True:
    taken.append(listener.accept())
";

#[test]
fn a_stranger_who_listens_where_an_engine_did_is_told_nothing_and_not_waited_for() {
    if !is_root() {
        left_out("want of root: only root can act as somebody else");
        return;
    }
    let lab = Lab::new();
    fs::set_permissions(lab.home.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    lab.start(&[]).stop();
    let ready = lab.home.path().join("ready");
    let mut stranger = Command::new("python3");
    stranger.args(["-c", LISTEN_AS, STRANGER]).arg(lab.socket()).arg(&ready);
    let stranger = Running::spawn(&mut stranger);
    until("he listens", || ready.exists().then_some(()));
    let add = lab.home.spawn(&["add", "http://127.0.0.1:1/a", "-o", "downloads/a"]);
    add.finish().expect_code(0);
    assert_eq!(lab.home.listing().len(), 1);
    stranger.signal(Signal::KILL);
    stranger.finish();
}

#[test]
fn what_is_handed_over_and_is_no_socket_is_refused_by_name() {
    let lab = Lab::new();
    let daemon = lab.daemon_command(&[]);
    let script = "exec 3</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"";
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh"])
        .arg(daemon.get_program())
        .args(daemon.get_args());
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", lab.home.path());
    let ended = Running::spawn(&mut command).finish().expect_code(2);
    assert!(ended.stderr.contains("LISTEN_FDS"), "{}", ended.stderr);
    assert!(!lab.socket().exists());
}
