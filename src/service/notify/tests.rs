//! With real sockets; what only a new process can be handed, a new process of this test program is handed.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::*;

type Variables<'a> = &'a [(&'a str, &'a [u8])];

fn environment(set: Variables<'_>) -> impl Fn(&str) -> Option<OsString> {
    move |name| {
        let found = set.iter().find(|(set, _)| *set == name);
        found.map(|(_, value)| OsString::from_vec(value.to_vec()))
    }
}

fn notify(socket: &[u8]) -> Notify {
    Notify::new(environment(&[("NOTIFY_SOCKET", socket)]))
}

fn received(manager: &UnixDatagram) -> String {
    let mut bytes = [0; 4096];
    manager.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    let length = manager.recv(&mut bytes).expect("a message");
    String::from_utf8(bytes[..length].to_vec()).expect("text")
}

#[test]
fn a_manager_is_told_each_state_in_a_datagram_of_its_own() {
    let directory = TempDir::new().expect("a folder");
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("bound");
    let notify = notify(path.as_os_str().as_bytes());
    notify.ready();
    notify.status("3 transfers");
    notify.watchdog();
    notify.stopping();
    for said in ["READY=1", "STATUS=3 transfers", "WATCHDOG=1", "STOPPING=1"] {
        assert_eq!(received(&manager), said);
    }
}

#[test]
fn a_manager_with_an_abstract_name_is_reached() {
    let name = format!("backhaul-notify-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let manager = UnixDatagram::bind_addr(&address).expect("bound");
    notify(format!("@{name}").as_bytes()).ready();
    assert_eq!(received(&manager), "READY=1");
}

#[test]
fn a_reload_tells_the_time_of_the_clock_that_the_manager_has() {
    let directory = TempDir::new().expect("a folder");
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("bound");
    let now = || {
        Duration::try_from(clock_gettime(ClockId::Monotonic))
            .expect("positive")
            .as_micros()
    };
    let before = now();
    notify(path.as_os_str().as_bytes()).reloading();
    let after = now();
    let message = received(&manager);
    let time = message
        .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
        .expect("both lines");
    let time: u128 = time.parse().expect("a number");
    assert!((before..=after).contains(&time), "{time} is not in {before}..={after}");
}

#[test]
fn a_status_is_one_short_line_whatever_is_in_it() {
    assert_eq!(status_line("a\nREADY=1\r\0b"), "a READY=1  b");
    let long = status_line(&"€".repeat(1_000));
    assert_eq!(long, "€".repeat(85));
}

#[test]
fn a_manager_that_is_not_there_or_reads_nothing_holds_nobody_up() {
    let long = [b"/".as_slice(), &[b'x'; 200]].concat();
    let names: [&[u8]; 9] = [
        b"",
        b"@",
        b"relative",
        b"vsock:2:1234",
        b"/nowhere/at/all",
        b"@backhaul-nobody-listens",
        b"/\xff\xfe",
        b"/a\0b",
        &long,
    ];
    for name in names {
        notify(name).ready();
    }
    Notify::new(environment(&[])).ready();
    let directory = TempDir::new().expect("a folder");
    let path = directory.path().join("notify");
    let _deaf = UnixDatagram::bind(&path).expect("bound");
    let notify = notify(path.as_os_str().as_bytes());
    let started = std::time::Instant::now();
    // The queue of a datagram socket is full after as many (net.unix.max_dgram_qlen, 10 unless set).
    let (socket, address) = notify.to.as_ref().expect("a manager");
    socket.set_nonblocking(true).expect("set");
    while socket.send_to_addr(b"X=1", address).is_ok() {}
    socket.set_nonblocking(false).expect("set");
    notify.stopping();
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "held up for {:?}",
        started.elapsed()
    );
}

#[test]
fn the_watchdog_is_told_twice_in_its_time() {
    let of = |set: Variables<'_>| interval(environment(set), 42);
    let half = Some(Duration::from_secs(5));
    assert_eq!(of(&[("WATCHDOG_USEC", b"10000000")]), half);
    assert_eq!(of(&[("WATCHDOG_USEC", b"10000000"), ("WATCHDOG_PID", b"42")]), half);
    assert_eq!(of(&[("WATCHDOG_USEC", b"10000000"), ("WATCHDOG_PID", b"43")]), None);
    assert_eq!(of(&[]), None);
    let strange: [&[u8]; 9] = [
        b"",
        b"0",
        b"1",
        b"-1",
        b"+4",
        b"1e9",
        b" 4",
        b"\xff",
        b"99999999999999999999",
    ];
    for strange in strange {
        assert_eq!(of(&[("WATCHDOG_USEC", strange)]), None, "{strange:?}");
        assert_eq!(
            of(&[("WATCHDOG_USEC", b"4"), ("WATCHDOG_PID", strange)]),
            None,
            "{strange:?}"
        );
    }
    let longest = u64::MAX.to_string();
    assert!(of(&[("WATCHDOG_USEC", longest.as_bytes())]).is_some());
}

#[test]
fn only_what_is_meant_for_this_process_counts_as_handed_over() {
    let of = |set: Variables<'_>| is_handed_over(environment(set), 42).map_err(|error| error.to_string());
    assert_eq!(of(&[]), Ok(false));
    assert_eq!(of(&[("LISTEN_FDS", b"1")]), Ok(false));
    assert_eq!(of(&[("LISTEN_PID", b"42")]), Ok(false));
    assert_eq!(of(&[("LISTEN_PID", b"43"), ("LISTEN_FDS", b"1")]), Ok(false));
    assert_eq!(of(&[("LISTEN_PID", b"42"), ("LISTEN_FDS", b"0")]), Ok(false));
    assert_eq!(of(&[("LISTEN_PID", b"42"), ("LISTEN_FDS", b"1")]), Ok(true));
    let named: Variables<'_> = &[
        ("LISTEN_PID", b"42"),
        ("LISTEN_FDS", b"1"),
        ("LISTEN_FDNAMES", b"backhaul.socket"),
    ];
    assert_eq!(of(named), Ok(true));
    let two_names = of(&[("LISTEN_PID", b"42"), ("LISTEN_FDS", b"1"), ("LISTEN_FDNAMES", b"a:b")]);
    assert_eq!(
        two_names,
        Err("LISTEN_FDNAMES 'a:b': names several sockets where LISTEN_FDS counts 1".into())
    );
    let pids: [&[u8]; 5] = [b"", b"-42", b"+42", b"42 ", b"\xff"];
    for strange in pids {
        assert_eq!(
            of(&[("LISTEN_PID", strange), ("LISTEN_FDS", b"1")]),
            Ok(false),
            "{strange:?}"
        );
    }
    let counts: [&[u8]; 6] = [b"", b"-1", b"2", b"99999999999", b"x", b"\xff"];
    for strange in counts {
        let refused = of(&[("LISTEN_PID", b"42"), ("LISTEN_FDS", strange)]);
        assert!(refused.is_err(), "{strange:?}: {refused:?}");
    }
}

#[test]
fn only_a_listening_stream_socket_of_unix_is_accepted() {
    let directory = TempDir::new().expect("a folder");
    let refused = |descriptor: OwnedFd| listener(descriptor).expect_err("of another kind").to_string();
    let file = File::open("/dev/null").expect("open");
    assert!(refused(file.into()).starts_with("LISTEN_FDS '3': is no socket: give a listening UNIX"));
    let tcp = TcpListener::bind("127.0.0.1:0").expect("bound");
    assert!(refused(tcp.into()).contains("is no UNIX socket"));
    let udp = UdpSocket::bind("127.0.0.1:0").expect("bound");
    assert!(refused(udp.into()).contains("is no UNIX socket"));
    let datagram = UnixDatagram::unbound().expect("made");
    assert!(refused(datagram.into()).contains("is no stream socket"));
    let (connected, _other) = UnixStream::pair().expect("a pair");
    assert!(refused(connected.into()).contains("does not listen"));
    let right = UnixListener::bind(directory.path().join("socket")).expect("bound");
    right.set_nonblocking(true).expect("set");
    let taken = listener(right.into()).expect("the right kind");
    let flags = rustix::io::fcntl_getfd(&taken).expect("flags");
    assert!(flags.contains(FdFlags::CLOEXEC));
    assert!(
        !rustix::fs::fcntl_getfl(&taken)
            .expect("flags")
            .contains(rustix::fs::OFlags::NONBLOCK)
    );
}

/// Says to the process that this test starts that it is the one.
const CHILD: &str = "BACKHAUL_TEST_IS_ACTIVATED";

/// What a process says that was activated: it accepts one client, and is refused a second socket.
fn activated() {
    let socket = listen_fds().expect("one socket").expect("handed over");
    let flags = rustix::io::fcntl_getfd(&socket).expect("flags");
    assert!(flags.contains(FdFlags::CLOEXEC));
    let again = listen_fds().expect_err("taken").to_string();
    assert!(again.contains("taken before"), "{again}");
    let (mut client, _) = socket.accept().expect("a client");
    client.write_all(b"activated").expect("written");
}

#[test]
fn an_activated_process_serves_the_socket_that_it_was_started_with() {
    if std::env::var_os(CHILD).is_some() {
        return activated();
    }
    let directory = TempDir::new().expect("a folder");
    let path = directory.path().join("socket");
    let socket = UnixListener::bind(&path).expect("bound");
    // The client waits in the queue of the socket before anybody serves it: that is what activation is for.
    let mut client = UnixStream::connect(&path).expect("connected");
    client.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    let name = std::thread::current().name().expect("a test has its name").to_owned();
    let child = Command::new("/bin/sh")
        .args([
            "-c",
            r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=x exec "$@""#,
            "sh",
        ])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", &name])
        .env(CHILD, "1")
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut said = String::new();
    let read = client.read_to_string(&mut said);
    let output = child.wait_with_output().expect("it ends");
    let log = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{log}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    read.expect("an answer");
    assert_eq!(said, "activated");
}

#[test]
fn a_process_that_was_not_activated_has_no_socket() {
    // The harness of these tests may itself run under a service manager; what it was handed is not meant for this process.
    if std::env::var_os("LISTEN_PID").is_none() {
        assert!(listen_fds().expect("nothing").is_none());
    }
}
