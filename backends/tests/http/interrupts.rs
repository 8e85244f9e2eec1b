//! An interrupt ends an attempt wherever it waits, and reaches no other.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use backhaul_backends::{Backend, FailureKind, HttpBackend, Interrupt, Limits, Request, WebErrorStatus};

use crate::server::{Kept, Server, Step, backend, fetch, request, response};

#[test]
fn two_downloads_share_a_connection_and_an_old_interrupt_does_not_reach_the_new_one() {
    let (tell, heard) = mpsc::channel();
    let (open, gate) = mpsc::channel();
    let script = vec![
        Step::Take,
        Step::Send(response("200 OK", "", b"one")),
        Step::Take,
        Step::Tell(tell),
        Step::Await(gate),
        Step::Send(response("200 OK", "", b"two")),
    ];
    let server = Server::new(vec![script]);
    let backend = Arc::new(backend());
    let old = Interrupt::new();
    backend
        .download(&request(&server.url("/")), &mut Kept::default(), &old)
        .unwrap();
    let (other, url) = (Arc::clone(&backend), server.url("/"));
    let second = thread::spawn(move || {
        let mut kept = Kept::default();
        let result = other.download(&request(&url), &mut kept, &Interrupt::new());
        (result, kept.bytes)
    });
    heard.recv_timeout(Duration::from_secs(30)).unwrap();
    old.raise();
    open.send(()).unwrap();
    let (result, bytes) = second.join().unwrap();
    result.unwrap();
    assert_eq!(bytes, b"two");
}

/// Runs an attempt on a thread, raises its interrupt when `ready` has come and the thread sleeps in its wait, and wants
/// to hear of it.
fn assert_interruptible(backend: HttpBackend, request: Request, ready: &mpsc::Receiver<()>) {
    let interrupt = Interrupt::new();
    let raised = interrupt.clone();
    // No limit may end what the interrupt must end.
    let hour = Duration::from_secs(3600);
    let request = Request {
        limits: Limits {
            connect: hour,
            response: hour,
            stall: hour,
        },
        ..request
    };
    let (start, started) = mpsc::channel();
    let (done, result) = mpsc::channel();
    thread::spawn(move || {
        start.send(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
        done.send(backend.download(&request, &mut Kept::default(), &raised))
            .unwrap();
    });
    let thread = started.recv().unwrap();
    ready.recv_timeout(Duration::from_secs(30)).unwrap();
    while !is_asleep(&thread) {
        thread::yield_now();
    }
    interrupt.raise();
    let failure = result
        .recv_timeout(Duration::from_secs(30))
        .expect("the attempt should end")
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::Interrupted, "{failure}");
    assert_eq!(failure.status, WebErrorStatus::OPERATION_CANCELED);
}

/// Whether the kernel says that a thread waits for something.
fn is_asleep(thread: &Path) -> bool {
    let status = std::fs::read_to_string(Path::new("/proc").join(thread).join("stat")).unwrap();
    status.rsplit_once(") ").unwrap().1.starts_with('S')
}

#[test]
fn an_interrupt_ends_the_wait_for_a_response() {
    let (tell, heard) = mpsc::channel();
    let server = Server::new(vec![vec![Step::Take, Step::Tell(tell), Step::Hold]]);
    assert_interruptible(backend(), request(&server.url("/")), &heard);
}

#[test]
fn an_interrupt_ends_a_read_of_the_body_whatever_its_framing() {
    let long = "Content-Length: 5000000\r\n";
    for framing in ["Content-Length: 100\r\n", long, "", "Transfer-Encoding: chunked\r\n"] {
        let (tell, heard) = mpsc::channel();
        let beginning = format!("HTTP/1.1 200 OK\r\n{framing}\r\n64\r\n");
        let server = Server::new(vec![vec![
            Step::Take,
            Step::Send(beginning.into_bytes()),
            Step::Tell(tell),
            Step::Hold,
        ]]);
        assert_interruptible(backend(), request(&server.url("/")), &heard);
    }
}

/// Whether the kernel has sent a SYN there and waits for the answer.
fn is_connecting(address: SocketAddr) -> bool {
    let SocketAddr::V4(address) = address else {
        panic!("the listener is on IPv4")
    };
    let ip = u32::from_ne_bytes(address.ip().octets());
    let remote = format!(" {ip:08X}:{:04X} 02 ", address.port());
    std::fs::read_to_string("/proc/net/tcp").unwrap().contains(&remote)
}

#[test]
fn an_interrupt_ends_a_connect_that_nobody_answers() {
    // A listener whose queue is full drops what comes, so a connect waits for its limit.
    let listener =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&listener, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let listener = TcpListener::from(listener);
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        queued.push(stream);
        assert!(queued.len() < 64, "the queue of the listener does not fill");
    }
    let (tell, heard) = mpsc::channel();
    let connecting = thread::spawn(move || {
        while !is_connecting(address) {
            thread::yield_now();
        }
        tell.send(()).unwrap();
    });
    assert_interruptible(backend(), request(&format!("http://{address}/")), &heard);
    connecting.join().unwrap();
    let limits = Limits {
        connect: Duration::from_millis(100),
        ..Limits::default()
    };
    let failure = fetch(&Request {
        limits,
        ..request(&format!("http://{address}/"))
    })
    .0
    .unwrap_err();
    assert_eq!(failure.status, WebErrorStatus::TIMEOUT, "{failure}");
}

#[test]
fn an_interrupt_raised_before_the_attempt_sends_nothing() {
    let server = Server::once(response("200 OK", "", b""));
    let interrupt = Interrupt::new();
    interrupt.raise();
    let failure = backend()
        .download(&request(&server.url("/")), &mut Kept::default(), &interrupt)
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::Interrupted);
    assert!(server.no_more_requests());
}
