//! Places on the network from which no answer comes; good for every protocol.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use backhaul_backends::conformance::Bell;
use rustix::net::{AddressFamily, SocketType};

/// Longest time that anybody is waited for.
const GUARD: Duration = Duration::from_secs(60);

/// Keeps the places as they are while it lives.
#[derive(Default)]
pub(crate) struct Nowhere {
    bound: Vec<OwnedFd>,
    queued: Vec<TcpStream>,
}

fn bound() -> (OwnedFd, SocketAddr) {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
    let address = rustix::net::getsockname(&socket).unwrap().try_into().unwrap();
    (socket, address)
}

impl Nowhere {
    /// An address where nobody listens, and nobody else will.
    pub(crate) fn refused(&mut self) -> SocketAddr {
        let (socket, address) = bound();
        self.bound.push(socket);
        address
    }

    /// An address that answers no connection; it rings once one is waited for. A listener whose queue is full drops what
    /// comes.
    pub(crate) fn unanswered(&mut self, bell: Bell) -> SocketAddr {
        let (socket, address) = bound();
        rustix::net::listen(&socket, 0).unwrap();
        self.bound.push(TcpListener::from(socket).into());
        let mut queued = 0;
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            self.queued.push(stream);
            queued += 1;
            assert!(queued < 64, "the queue of the listener does not fill");
        }
        thread::spawn(move || {
            let began = Instant::now();
            while began.elapsed() < GUARD {
                if is_connecting(address) {
                    return bell.ring();
                }
                thread::yield_now();
            }
        });
        address
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
