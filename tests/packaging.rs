//! What `packaging/` installs: the init script under busybox, the units under the rules of systemd.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use support::{STEP_MAX, left_out, until};
use tempfile::TempDir;

/// Keys that systemd 252 knows, by section; those of `Service` and `Socket` include systemd.exec(5), systemd.kill(5) and
/// systemd.resource-control(5). Not all, but all that a unit of ours may come to need.
const KEYS: &[(&str, &str)] = &[
    (
        "Unit",
        "Description Documentation After Before Wants Requires BindsTo PartOf Conflicts StartLimitIntervalSec StartLimitBurst \
         ConditionPathExists ConditionPathIsDirectory ConditionUser RequiresMountsFor",
    ),
    (
        "Service",
        "Type ExecStart ExecReload ExecStartPre ExecStop NotifyAccess User Group Environment EnvironmentFile UMask \
         WorkingDirectory StateDirectory StateDirectoryMode RuntimeDirectory RuntimeDirectoryMode RuntimeDirectoryPreserve \
         ConfigurationDirectory ConfigurationDirectoryMode CacheDirectory LogsDirectory Restart RestartSec \
         RestartPreventExitStatus SuccessExitStatus WatchdogSec TimeoutStartSec TimeoutStopSec KillMode KillSignal LimitNOFILE \
         LimitNPROC TasksMax MemoryMax MemoryHigh CPUWeight IOWeight Nice IOSchedulingClass IOSchedulingPriority \
         ReadWritePaths ReadOnlyPaths InaccessiblePaths ProtectSystem ProtectHome PrivateTmp PrivateDevices PrivateUsers \
         PrivateNetwork ProtectProc ProcSubset ProtectKernelTunables ProtectKernelModules ProtectKernelLogs \
         ProtectControlGroups ProtectClock ProtectHostname CapabilityBoundingSet AmbientCapabilities NoNewPrivileges \
         RestrictAddressFamilies RestrictNamespaces RestrictRealtime RestrictSUIDSGID RemoveIPC LockPersonality \
         MemoryDenyWriteExecute SystemCallArchitectures SystemCallFilter SystemCallErrorNumber SyslogIdentifier",
    ),
    (
        "Socket",
        "ListenStream SocketUser SocketGroup SocketMode DirectoryMode Backlog RemoveOnStop FileDescriptorName Accept Service \
         MaxConnections PassCredentials",
    ),
    ("Install", "WantedBy RequiredBy Also Alias"),
];

const UNITS: [&str; 3] = ["backhaul.service", "backhaul.socket", "user/backhaul.service"];

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging")
}

/// Section, key and value of each line that sets something.
fn settings(unit: &str) -> Vec<(String, String, String)> {
    let text = fs::read_to_string(packaging().join(unit)).unwrap();
    let mut section = String::new();
    let mut found = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else {
            let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{unit}: {line}"));
            found.push((section.clone(), key.to_owned(), value.to_owned()));
        }
    }
    found
}

// ---- units ----

#[test]
fn every_key_of_every_unit_is_one_of_systemd() {
    for unit in UNITS {
        let settings = settings(unit);
        assert!(settings.len() > 5, "{unit}");
        for (section, key, _) in settings {
            let known = KEYS.iter().find(|(name, _)| *name == section);
            let known = known.unwrap_or_else(|| panic!("{unit}: section {section}")).1;
            assert!(
                known.split_whitespace().any(|name| name == key),
                "{unit}: {section}: {key}"
            );
        }
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let Ok(output) = Command::new("systemd-analyze").arg("--version").output() else {
        return left_out("want of systemd-analyze");
    };
    assert!(output.status.success(), "{output:?}");
    // The program need not be installed here, so that the units start the one that was built.
    let directory = TempDir::new().unwrap();
    fs::create_dir(directory.path().join("user")).unwrap();
    for unit in UNITS {
        let text = fs::read_to_string(packaging().join(unit)).unwrap();
        let text = text.replace("/usr/bin/backhaul", env!("CARGO_BIN_EXE_backhaul"));
        fs::write(directory.path().join(unit), text).unwrap();
    }
    for (manager, units) in [("--system", &UNITS[..2]), ("--user", &UNITS[2..])] {
        let output = Command::new("systemd-analyze")
            .args([manager, "--man=no", "verify"])
            .args(units.iter().map(|unit| directory.path().join(unit)))
            .env("XDG_RUNTIME_DIR", directory.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.trim().is_empty(), "{said}");
    }
}

#[test]
fn the_units_agree_on_where_the_socket_is() {
    let value = |unit, key| {
        let found = settings(unit).into_iter().find(|(_, name, _)| name == key);
        found.unwrap_or_else(|| panic!("{unit}: {key}")).2
    };
    let listens = value("backhaul.socket", "ListenStream");
    let directory = format!("/run/{}", value("backhaul.service", "RuntimeDirectory"));
    assert_eq!(Path::new(&listens).parent(), Some(Path::new(&directory)));
    // Otherwise the end of the service takes the socket away on which its socket unit goes on listening.
    assert_eq!(value("backhaul.service", "RuntimeDirectoryPreserve"), "yes");
    assert_eq!(value("backhaul.socket", "SocketMode"), "0600");
    let script = fs::read_to_string(packaging().join("S90backhaul")).unwrap();
    let in_script = format!("RUN_DIR={directory}\n");
    let name = Path::new(&listens).file_name().unwrap().to_str().unwrap();
    assert!(script.contains(&in_script) && script.contains(&format!("SOCKET=$RUN_DIR/{name}\n")));
}

#[test]
fn the_guide_tells_of_every_file_and_of_no_other() {
    let guide = fs::read_to_string(packaging().join("README.md")).unwrap();
    let rows = guide
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let mut told: Vec<String> = rows.map(str::to_owned).collect();
    told.push("README.md".to_owned());
    let mut there = Vec::new();
    for folder in ["", "user/"] {
        for entry in fs::read_dir(packaging().join(folder)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                there.push(format!("{folder}{}", entry.file_name().to_str().unwrap()));
            }
        }
    }
    told.sort();
    there.sort();
    assert_eq!(told, there);
}

// ---- the init script ----

/// A device with busybox and nothing else on its PATH.
struct Device {
    directory: TempDir,
}

impl Device {
    /// `program` is what the script starts, and `settings` what the administrator set besides.
    fn new(program: &Path, settings: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let device = Self { directory };
        fs::create_dir(device.path("bin")).unwrap();
        let installed = Command::new("busybox")
            .args(["--install", "-s"])
            .arg(device.path("bin"))
            .status();
        assert!(installed.unwrap().success());
        let defaults = format!(
            "BIN={}\nSTATE_DIR={}\nRUN_DIR={}\nSOCKET={}\nCONFIG={}\nPIDFILE={}\nLOG=none\n{settings}\n",
            program.display(),
            device.path("state").display(),
            device.path("run").display(),
            device.path("run/socket").display(),
            device.path("backhaul.toml").display(),
            device.path("pid").display(),
        );
        fs::write(device.path("defaults"), defaults).unwrap();
        device
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn script(&self, action: &str) -> Output {
        Command::new(self.path("bin/sh"))
            .arg(packaging().join("S90backhaul"))
            .arg(action)
            .env("PATH", self.path("bin"))
            .env("BACKHAUL_DEFAULTS", self.path("defaults"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs the script, which must end with this exit code and say this.
    fn expect(&self, action: &str, code: i32, said: &str) {
        let output = self.script(action);
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (output.status.code(), text.contains(said)),
            (Some(code), true),
            "{action}: {text}"
        );
    }
}

/// A program of a device that only waits; it is gone with this value.
struct Waiting(Child);

impl Waiting {
    /// `program` is a copy of a program that takes a number of seconds; with `is_deaf` SIGTERM does nothing to it.
    fn start(program: &Path, is_deaf: bool) -> Self {
        let trap = if is_deaf { "trap '' TERM;" } else { "" };
        let child = Command::new("/bin/sh")
            .args(["-c", &format!("{trap} exec \"$0\" 600")])
            .arg(program)
            .spawn()
            .unwrap();
        let waiting = Self(child);
        // Until then it is the shell, which the script would rightly not take for the daemon.
        until("the program in place of the shell", || {
            let line = fs::read(format!("/proc/{}/cmdline", waiting.0.id())).ok()?;
            line.starts_with(program.as_os_str().as_encoded_bytes()).then_some(())
        });
        waiting
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A copy of `sleep` that stands for the daemon where only its life matters.
fn stand_in(directory: &TempDir) -> PathBuf {
    let program = directory.path().join("backhaul");
    fs::copy("/bin/sleep", &program).unwrap();
    program
}

#[test]
fn the_init_script_is_understood_by_busybox() {
    let output = Command::new("busybox")
        .args(["sh", "-n"])
        .arg(packaging().join("S90backhaul"))
        .output();
    let output = output.unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn without_a_daemon_the_init_script_says_so_and_starts_none() {
    let device = Device::new(Path::new("/nowhere/backhaul"), "");
    device.expect("status", 3, "is not running");
    device.expect("reload", 1, "is not running");
    device.expect("stop", 0, "is not running");
    device.expect("start", 1, "/nowhere/backhaul is not there, or no program");
    device.expect("restart", 1, "/nowhere/backhaul is not there, or no program");
    device.expect("dance", 2, "start|stop|restart|reload|status");
    device.expect("", 2, "start|stop|restart|reload|status");
    assert!(!device.path("pid").exists());
}

#[test]
fn a_daemon_that_ends_at_its_start_is_told_and_leaves_no_pid_file() {
    for log in ["LOG=none", "LOG=syslog"] {
        let device = Device::new(Path::new("/bin/false"), log);
        device.expect("start", 1, "ended at its start");
        assert!(!device.path("pid").exists() && !device.path("run/log.fifo").exists());
        device.expect("status", 3, "is not running");
    }
}

#[test]
fn the_init_script_signals_the_daemon_and_nobody_else() {
    let directory = TempDir::new().unwrap();
    let program = stand_in(&directory);
    let device = Device::new(&program, "STOP_SECONDS=1");
    let signal = |waiting: &mut Waiting| waiting.0.wait().unwrap().signal();

    // After a power cut the number in the PID file may be that of another program.
    let mut stranger = Waiting::start(Path::new("/bin/sleep"), false);
    fs::write(device.path("pid"), stranger.0.id().to_string()).unwrap();
    device.expect("status", 1, "is dead, and ");
    device.expect("reload", 1, "is not running");
    device.expect("stop", 0, "is not running");
    assert!(stranger.0.try_wait().unwrap().is_none());

    let mut daemon = Waiting::start(&program, false);
    fs::write(device.path("pid"), daemon.0.id().to_string()).unwrap();
    device.expect("status", 0, &format!("is running, PID {}", daemon.0.id()));
    device.expect("start", 0, "is running already");
    device.expect("reload", 0, "told to read its configuration again");
    assert_eq!(signal(&mut daemon), Some(1));

    for (is_deaf, ended_by, said) in [(false, 15, "stopped"), (true, 9, "does not end within 1 s; killing it")] {
        let mut daemon = Waiting::start(&program, is_deaf);
        fs::write(device.path("pid"), daemon.0.id().to_string()).unwrap();
        // It is reaped here while the script looks for it: a process that nobody has waited for counts as one that is there.
        let reaper = std::thread::spawn(move || signal(&mut daemon));
        device.expect("stop", 0, said);
        assert_eq!(reaper.join().unwrap(), Some(ended_by));
        assert!(!device.path("pid").exists());
    }
}

// ---- the daemon ----

/// The program that was built.
const PROGRAM: &str = env!("CARGO_BIN_EXE_backhaul");

/// A device on which no daemon outlives the test.
struct Attended(Device);

impl Drop for Attended {
    fn drop(&mut self) {
        self.0.script("stop");
    }
}

impl Attended {
    fn new(settings: &str) -> Self {
        Self(Device::new(Path::new(PROGRAM), &format!("STOP_SECONDS=5\n{settings}")))
    }

    fn pid(&self) -> String {
        fs::read_to_string(self.0.path("pid")).unwrap().trim().to_owned()
    }

    /// What the daemon answers to the question that every Varlink service knows.
    fn answer(&self) -> String {
        let mut stream = UnixStream::connect(self.0.path("run/socket")).unwrap();
        stream.set_read_timeout(Some(STEP_MAX)).unwrap();
        stream
            .write_all(b"{\"method\":\"org.varlink.service.GetInfo\"}\0")
            .unwrap();
        let mut bytes = Vec::new();
        BufReader::new(stream).read_until(0, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }
}

/// The daemon under a service manager that gives it its socket and listens to what it says; it is gone with this value.
struct Managed {
    daemon: Child,
    notified: UnixDatagram,
}

impl Drop for Managed {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl Managed {
    fn start(directory: &Path, socket: UnixListener) -> Self {
        let notified = UnixDatagram::bind(directory.join("notify")).unwrap();
        notified.set_read_timeout(Some(STEP_MAX)).unwrap();
        let start = r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=backhaul.socket exec "$@""#;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", start, "sh", PROGRAM, "daemon"]);
        // As the unit does it: by variables.
        command.env("NOTIFY_SOCKET", directory.join("notify"));
        command.env("STATE_DIRECTORY", directory.join("state"));
        command.env("CONFIGURATION_DIRECTORY", directory);
        command.env("RUNTIME_DIRECTORY", directory);
        command.env("WATCHDOG_USEC", "2000000").env_remove("WATCHDOG_PID");
        let daemon = command.stdin(Stdio::from(OwnedFd::from(socket))).spawn().unwrap();
        Self { daemon, notified }
    }

    /// Waits until the manager is told something that begins with this. What is told again and again is no reason to wait
    /// for ever.
    fn hear(&self, said: &str) {
        let mut bytes = [0; 4096];
        let started = Instant::now();
        while started.elapsed() < STEP_MAX {
            let length = self
                .notified
                .recv(&mut bytes)
                .unwrap_or_else(|error| panic!("{said}: {error}"));
            if bytes[..length].starts_with(said.as_bytes()) {
                return;
            }
        }
        panic!("waited {STEP_MAX:?} in vain for: {said}");
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([name, &self.daemon.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }
}

fn is_there(pid: &str) -> bool {
    // One that has ended, and that nobody has waited for yet, has no command line.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[test]
fn the_init_script_starts_reloads_and_stops_the_daemon() {
    for log in ["LOG=none", "LOG=syslog"] {
        let device = Attended::new(log);
        let config = device.0.path("backhaul.toml");
        fs::write(&config, "jobs = 2\n").unwrap();
        device.0.expect("start", 0, "started");
        let pid = device.pid();
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        assert!(
            arguments.contains(&config.as_os_str().as_encoded_bytes()),
            "{arguments:?}"
        );
        assert!(!device.0.path("run/log.fifo").exists());
        device.0.expect("status", 0, &format!("is running, PID {pid}"));
        device.0.expect("start", 0, "is running already");
        device.0.expect("reload", 0, "told to read its configuration again");
        assert!(device.answer().contains("parameters"));
        device.0.expect("status", 0, &format!("is running, PID {pid}"));
        device.0.expect("restart", 0, "started");
        assert!(device.pid() != pid && !is_there(&pid));
        let pid = device.pid();
        device.0.expect("stop", 0, "stopped");
        assert!(!is_there(&pid));
        device.0.expect("status", 3, "is not running");
    }
}

#[test]
fn a_daemon_that_was_killed_is_started_anew_over_what_it_left() {
    let device = Attended::new("");
    device.0.expect("start", 0, "started");
    let pid = device.pid();
    assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    until("the end of the daemon", || (!is_there(&pid)).then_some(()));
    device.0.expect("status", 1, "is dead, and ");
    device.0.expect("start", 0, "started");
    assert!(device.answer().contains("parameters"));
    device.0.expect("stop", 0, "stopped");
}

#[test]
fn a_service_manager_hands_its_socket_over_and_is_told_of_every_state() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("socket");
    let socket = UnixListener::bind(&path).unwrap();
    // It waits from before the start on, as a client does that has started the daemon.
    let mut client = UnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(STEP_MAX)).unwrap();
    client
        .write_all(b"{\"method\":\"org.varlink.service.GetInfo\"}\0")
        .unwrap();
    let mut managed = Managed::start(directory.path(), socket);
    managed.hear("READY=1");
    let mut answer = Vec::new();
    BufReader::new(client).read_until(0, &mut answer).unwrap();
    assert!(String::from_utf8(answer).unwrap().contains("parameters"));
    managed.hear("WATCHDOG=1");
    managed.signal("-HUP");
    managed.hear("RELOADING=1\nMONOTONIC_USEC=");
    managed.hear("READY=1");
    managed.signal("-TERM");
    managed.hear("STOPPING=1");
    assert_eq!(managed.daemon.wait().unwrap().code(), Some(0));
    // The manager goes on listening there.
    assert!(path.exists());
}

#[test]
fn a_socket_that_is_announced_and_not_handed_over_is_missed_by_its_name() {
    let directory = TempDir::new().unwrap();
    // Nothing that this process has opened since must be taken for it.
    let script = "exec 3<&-; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" daemon --state-dir \"$1\"";
    let mut command = Command::new("sh");
    command
        .args(["-c", script, PROGRAM])
        .arg(directory.path().join("state"));
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("LISTEN_FDS '1': descriptor 3 is not open"), "{said}");
    assert_eq!(output.status.code(), Some(2));
    assert!(!directory.path().join("state").exists());
}

#[test]
fn a_wrong_configuration_file_is_told_at_the_start() {
    let device = Attended::new("");
    fs::write(device.0.path("backhaul.toml"), "jobs = 0\n").unwrap();
    device.0.expect("start", 1, "ended at its start");
    let file = device.0.path("backhaul.toml");
    let mut command = Command::new(PROGRAM);
    command.args(["daemon", "--config"]).arg(&file);
    command.arg("--state-dir").arg(device.0.path("state"));
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let expected = format!("{} line 1: jobs: 0 is out of range: 1 to 256", file.display());
    assert!(said.contains(&expected), "{said}");
    // The units take this code for one that another try does not change.
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn the_daemon_knows_every_option_that_units_and_script_give_it() {
    let help = Command::new(PROGRAM).args(["daemon", "--help"]).output().unwrap();
    assert!(help.status.success(), "{help:?}");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let mut lines = vec![fs::read_to_string(packaging().join("S90backhaul")).unwrap()];
    for unit in UNITS {
        let starts = settings(unit).into_iter().filter(|(_, key, _)| key == "ExecStart");
        lines.extend(starts.map(|(_, _, value)| value));
    }
    let words = lines.iter().flat_map(|text| text.split_whitespace());
    let options: Vec<&str> = words.filter(|word| word.len() > 2 && word.starts_with("--")).collect();
    assert!(options.len() >= 3, "{options:?}");
    for option in options {
        assert!(help.contains(option), "{option} is none of {help}");
    }
}
