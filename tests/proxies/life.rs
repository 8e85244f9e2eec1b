//! Proxies that go away, change, fall silent or lie, and the daemon that is told of one.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{Kind, PASSWORD, Program, USER, World};
use crate::support::{Running, STEP_MAX, assert_same, names_in, until};

/// The operation that has not ended, once there is one.
fn live(world: &World) -> Option<serde_json::Value> {
    let listed = world.home.run(&["list", "--json", "--all-apps"]);
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).ok()?;
    let mut live = listed.as_array()?.iter().filter(|shown| shown["ended_at"].is_null());
    live.next().cloned()
}

#[test]
fn a_proxy_that_is_killed_in_the_middle_and_comes_back_costs_no_byte_that_was_stored() {
    let mut world = World::new();
    // Long after the first claim, which is made after 2.5 s, there is still something to fetch.
    world.bytes = world.nginx.put_seeded("a.bin", 10_000_000);
    for (kind, scheme) in [(Kind::Microsocks, "socks5h"), (Kind::Tinyproxy, "http")] {
        let mut proxy = Program::closed(kind, world.secure());
        let by = proxy.url(scheme, &format!("{USER}:{PASSWORD}"));
        let before = world.nginx.served().len();
        let url = world.nginx.url("/rate/1000k/a.bin");
        let running = Running::spawn(&mut world.get(&url, &["--proxy", &by, "--connections", "1"]));
        let claimed = until("a claim of some bytes", || live(&world)?["ranges"][0][1].as_u64());
        proxy.stop();
        until("the failure to be known", || {
            let shown = live(&world)?;
            shown["error"].is_object().then_some(())
        });
        proxy.start_again();
        running.finish().expect_code(0);
        assert_same(&world.destination(), &world.bytes);
        fs::remove_file(world.destination()).unwrap();
        // Nothing claimed is asked for again, but for the end that is compared.
        let served = world.nginx.served().split_off(before);
        let rest = served.iter().filter(|served| served.status == 206);
        let firsts = rest.filter_map(|served| served.range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let first: u64 = firsts.min().unwrap_or_default();
        assert!(first + 4096 >= claimed, "with {claimed} bytes claimed: {served:?}");
    }
    world.assert_quiet(&[]);
}

#[test]
fn another_password_lets_a_transfer_go_on_that_the_proxy_had_stopped() {
    let world = World::new();
    let proxy = Program::closed(Kind::Squid, world.secure());
    let by = |password: &str| proxy.url("http", &format!("{USER}:{password}"));
    let url = world.nginx.url("/a.bin");
    let options = ["--proxy", &by("wrong"), "--recoverable", "407"];
    let id = world.home.add(&url, &world.destination(), &options);
    world.home.run(&["run", "--until-idle"]).expect_code(0);
    let shown = world.home.operation();
    assert_eq!(shown["status"], "PausedRecoverableWebErrorStatus", "{shown}");
    assert_eq!(shown["reason"], "needs-credential", "{shown}");
    world.home.run(&["set", &id, "--proxy", &by(PASSWORD)]).expect_code(0);
    world.home.run(&["resume", &id]).expect_code(0);
    world.home.run(&["run", "--until-idle"]).expect_code(0);
    assert_same(&world.destination(), &world.bytes);
    world.assert_quiet(&[world.home.run(&["list", "--json"])]);
}

#[test]
fn the_daemon_goes_through_the_proxy_of_its_configuration() {
    let world = World::new();
    let proxy = Program::closed(Kind::Tinyproxy, world.secure());
    let (file, socket) = (
        world.home.path().join("backhaul.toml"),
        world.home.path().join("socket"),
    );
    let by = proxy.url("http", &format!("{USER}:{PASSWORD}"));
    fs::write(&file, format!("proxy = '{by}'\nno-proxy = ['elsewhere.test']\n")).unwrap();
    let words = [
        "--socket",
        socket.to_str().unwrap(),
        "daemon",
        "--config",
        file.to_str().unwrap(),
    ];
    let mut command = world.home.command(&words);
    let daemon = Running::spawn(
        command
            .env("BACKHAUL_LOG", "trace")
            .env("http_proxy", "http://127.0.0.1:1"),
    );
    until("the daemon to listen", || socket.exists().then_some(()));
    world.fetched(&world.nginx.url("/a.bin"), &[]);
    daemon.signal(Signal::TERM);
    let ended = daemon.finish();
    assert!(proxy.log().contains("GET http://"), "{}", proxy.log());
    world.assert_quiet(&[ended]);
}

/// A proxy that does this with the first connection, and then holds it.
fn raw(act: impl FnOnce(&mut std::net::TcpStream) + Send + 'static) -> (String, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, done) = mpsc::channel();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        act(&mut stream);
        let _ = sender.send(());
        while stream.read(&mut [0; 4096]).is_ok_and(|amount| amount > 0) {}
    });
    (address, done)
}

#[test]
fn an_interrupt_ends_a_get_at_once_while_the_proxy_is_silent() {
    let world = World::new();
    for scheme in ["http", "socks5h"] {
        let (address, asked) = raw(|stream| stream.read_exact(&mut [0; 3]).unwrap());
        let by = format!("{scheme}://{address}");
        let mut running = Running::spawn(&mut world.get(&world.urls()[1], &["--proxy", &by]));
        asked.recv_timeout(STEP_MAX).unwrap();
        assert!(!running.has_ended());
        running.signal(Signal::INT);
        let sent = Instant::now();
        let ended = running.finish();
        assert_eq!(ended.code(), Some(130), "{}", ended.stderr);
        // Far below every time limit of a transfer.
        assert!(sent.elapsed() < Duration::from_secs(10));
        let id = world.home.operation()["id"].as_str().unwrap().to_owned();
        world.home.run(&["cancel", &id]).expect_code(0);
        world.home.run(&["remove", &id]).expect_code(0);
    }
}

#[test]
fn what_a_lying_proxy_says_is_no_content_and_ends_the_transfer() {
    let endless = || [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'y'; 1 << 20]].concat();
    let rows: Vec<(&str, Vec<u8>, &str)> = vec![
        ("http", endless(), "ErrorHttpInvalidServerResponse"),
        (
            "http",
            b"220 ftp.example ready\r\n".to_vec(),
            "ErrorHttpInvalidServerResponse",
        ),
        (
            "http",
            b"HTTP/1.1 407 No\r\nContent-Length: 999999\r\n\r\n".to_vec(),
            "ProxyAuthenticationRequired",
        ),
        ("socks5h", vec![0; 512], "ErrorHttpInvalidServerResponse"),
        (
            "socks5h",
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            "ErrorHttpInvalidServerResponse",
        ),
    ];
    let world = World::new();
    for (scheme, answer, status) in rows {
        let (address, _) = raw(move |stream| {
            stream.read_exact(&mut [0; 3]).unwrap();
            // Whoever has heard enough goes away in the middle of it.
            let _ = stream.write_all(&answer);
        });
        let by = format!("{scheme}://{address}");
        let ended = world.failed(&world.urls()[1], &["--proxy", &by], status);
        assert!(ended.stderr.contains(&format!("the proxy {by}")), "{}", ended.stderr);
    }
    assert!(names_in(&world.home.downloads()).is_empty());
}

#[test]
fn bytes_behind_the_answer_to_connect_are_no_secure_server() {
    let world = World::new();
    let (address, _) = raw(|stream| {
        stream.read_exact(&mut [0; 3]).unwrap();
        let page = b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlies";
        let _ = stream.write_all(page);
    });
    let by = format!("http://{address}");
    let options = ["--proxy", &by, "--retries", "0"];
    let ended = Running::spawn(&mut world.get(&world.urls()[1], &options))
        .finish()
        .expect_code(1);
    assert!(ended.stderr.contains("TLS"), "{}", ended.stderr);
    assert!(names_in(&world.home.downloads()).is_empty());
}
