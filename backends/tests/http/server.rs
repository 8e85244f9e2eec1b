//! A server that plays a script on raw sockets, and a sink that keeps what it gets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use backhaul_backends::{
    Backend, Failure, FailureKind, Head, Header, Held, HttpBackend, HttpConfig, Interrupt, Limits, Method, Refused,
    Request, Sink, Validators,
};

/// One thing that a connection does.
pub(crate) enum Step {
    /// Reads one request head and reports it.
    Take,
    /// Reads one request with its body, and reports both.
    TakeWhole,
    /// Reads one request head and so many bytes after it.
    TakePart(usize),
    /// Sends bytes.
    Send(Vec<u8>),
    /// Waits until the test says so.
    Await(Receiver<()>),
    /// Tells the test.
    Tell(Sender<()>),
    /// Sends a byte now and then, never silent for long, until the test says so.
    Drip(Receiver<()>),
    /// Keeps the connection open until the other side ends it.
    Hold,
    /// Ends with a reset instead of a FIN.
    Reset,
    /// Ends what it says, before the script ends.
    Close,
}

/// Plays one script for each connection, in the order they come, then accepts no more.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    requests: Receiver<String>,
}

impl Server {
    pub(crate) fn new(scripts: Vec<Vec<Step>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = mpsc::channel();
        thread::spawn(move || {
            for script in scripts {
                let (stream, _) = listener.accept().unwrap();
                let sender = sender.clone();
                thread::spawn(move || play(stream, script, &sender));
            }
        });
        Self { address, requests }
    }

    /// One response on one connection.
    pub(crate) fn once(response: impl Into<Vec<u8>>) -> Self {
        Self::new(vec![answer(response)])
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The head of the next request, in lower case.
    pub(crate) fn request(&self) -> String {
        self.requests
            .recv_timeout(Duration::from_secs(30))
            .expect("a request should have come")
    }

    pub(crate) fn no_more_requests(&self) -> bool {
        self.requests.try_recv().is_err()
    }
}

/// Takes a request, answers, closes.
pub(crate) fn answer(response: impl Into<Vec<u8>>) -> Vec<Step> {
    vec![Step::Take, Step::Send(response.into())]
}

fn play(mut stream: TcpStream, script: Vec<Step>, requests: &Sender<String>) {
    for step in script {
        match step {
            Step::Take => match take(&mut stream) {
                Some(head) => requests.send(head).unwrap(),
                None => return,
            },
            Step::TakeWhole => match take_whole(&mut stream) {
                Some(request) => requests.send(request).unwrap(),
                None => return,
            },
            Step::TakePart(bytes) => {
                let head = take(&mut stream).unwrap();
                stream.read_exact(&mut vec![0; bytes]).unwrap();
                requests.send(head).unwrap();
            }
            Step::Send(bytes) => {
                if stream.write_all(&bytes).is_err() {
                    return;
                }
            }
            Step::Await(gate) => gate.recv_timeout(Duration::from_secs(30)).unwrap(),
            Step::Drip(gate) => {
                // Far more drops than the pace of any flush needs, and far fewer than fill a buffer.
                for _ in 0..1000 {
                    if stream.write_all(b"x").is_err() || gate.recv_timeout(Duration::from_millis(20)).is_ok() {
                        break;
                    }
                }
            }
            Step::Tell(sender) => sender.send(()).unwrap(),
            Step::Hold => while stream.read(&mut [0; 4096]).is_ok_and(|amount| amount > 0) {},
            Step::Reset => {
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
            }
            Step::Close => stream.shutdown(std::net::Shutdown::Write).unwrap(),
        }
    }
}

/// A request head up to the empty line.
pub(crate) fn take(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8(head).unwrap().to_ascii_lowercase())
}

/// A request head in lower case, and after it the body that it announces, which must be text.
pub(crate) fn take_whole(stream: &mut impl Read) -> Option<String> {
    let head = take(stream)?;
    let mut body = vec![0; length_of(&head).unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    Some(head + &String::from_utf8(body).unwrap())
}

/// The length that a request head announces.
pub(crate) fn length_of(head: &str) -> Option<usize> {
    let mut lines = head.lines();
    lines.find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
}

/// A response with a length.
pub(crate) fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Keeps everything; refuses after a number of bytes if told to.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) heads: Vec<Head>,
    pub(crate) bytes: Vec<u8>,
    /// Sizes of the writes, in order.
    pub(crate) writes: Vec<usize>,
    pub(crate) refuse_after: Option<usize>,
    pub(crate) tell: Option<Sender<()>>,
}

impl Sink for Kept {
    fn begin(&mut self, head: &Head) -> Result<(), Refused> {
        self.heads.push(head.clone());
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        self.bytes.extend_from_slice(bytes);
        self.writes.push(bytes.len());
        if let Some(tell) = &self.tell {
            let _ = tell.send(());
        }
        match self.refuse_after {
            Some(limit) if self.bytes.len() >= limit => Err(Refused),
            _ => Ok(()),
        }
    }
}

impl Kept {
    pub(crate) fn head(&self) -> &Head {
        assert_eq!(self.heads.len(), 1, "begin is called once");
        &self.heads[0]
    }
}

/// A plain request.
pub(crate) fn request(url: &str) -> Request {
    Request {
        proxies: Arc::default(),
        url: url.to_owned(),
        method: Method::GET,
        body: None,
        headers: Vec::new(),
        credential: None,
        held: None,
        expected_bytes: None,
        expected_type: None,
        limits: Limits::default(),
        buffer_bytes: 64 * 1024,
    }
}

/// A POST of these bytes.
pub(crate) fn post(url: &str, body: impl Into<Vec<u8>>) -> Request {
    Request {
        proxies: Arc::default(),
        method: Method::POST,
        body: Some(Arc::new(body.into())),
        ..request(url)
    }
}

/// A request that goes on under a strong entity tag.
pub(crate) fn rest(url: &str, offset_bytes: u64, total_bytes: u64) -> Request {
    let validators = Validators {
        etag: Some("\"v1\"".to_owned()),
        total_bytes: Some(total_bytes),
        ..Validators::default()
    };
    Request {
        proxies: Arc::default(),
        held: Some(Held {
            offset_bytes,
            end_bytes: None,
            tail: Vec::new(),
            validators,
            content_type: Some("application/octet-stream".to_owned()),
            ..Held::default()
        }),
        ..request(url)
    }
}

pub(crate) fn transient(kind: FailureKind) -> bool {
    matches!(kind, FailureKind::Transient { .. })
}

pub(crate) fn header(name: &str, value: &str, secret: bool) -> Header {
    Header {
        name: name.to_owned(),
        value: value.to_owned(),
        secret,
    }
}

pub(crate) fn backend() -> HttpBackend {
    HttpBackend::new(HttpConfig::default()).unwrap()
}

/// One attempt of a fresh backend.
pub(crate) fn fetch(request: &Request) -> (Result<(), Failure>, Kept) {
    let mut kept = Kept::default();
    let result = backend().download(request, &mut kept, &Interrupt::new());
    (result, kept)
}
