//! A service on a socket, raw connections to it, and a server to download from.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use backhaul::{Config, NewDownload, OperationView, Proxies, Service, Serving, TransferId};
use serde_json::{Value, json};

/// No single step of a test takes longer than this; a step that does has hung.
pub(crate) const STEP_MAX: Duration = Duration::from_secs(60);

/// Repeats `check` until it answers.
pub(crate) fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = check() {
            return answer;
        }
        assert!(started.elapsed() < STEP_MAX, "waited {STEP_MAX:?} in vain for: {what}");
        // Between two looks at something that another thread does; no step relies on how long this takes.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A service with an engine, the socket that it can be spoken to on, and a server to download from.
pub(crate) struct Lab {
    pub(crate) serving: Option<Serving>,
    pub(crate) embedded: Option<Service>,
    pub(crate) origin: Origin,
    home: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let mut lab = Self {
            serving: None,
            embedded: None,
            origin: Origin::start(),
            home: tempfile::tempdir().unwrap(),
        };
        lab.open();
        lab
    }

    /// Opens the engine and serves it.
    pub(crate) fn open(&mut self) {
        // Whatever the environment of the tests says.
        let config = Config {
            proxies: Some(Proxies::direct()),
            ..Config::default()
        };
        let embedded = Service::open_with(self.state(), config).unwrap();
        self.serving = Some(embedded.serve(self.socket()).unwrap());
        self.embedded = Some(embedded);
    }

    /// Ends the service and the engine.
    pub(crate) fn close(&mut self) {
        self.serving = None;
        self.embedded = None;
    }

    pub(crate) fn embedded(&self) -> &Service {
        self.embedded.as_ref().unwrap()
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.home().join("state")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.home().join("socket")
    }

    pub(crate) fn connect(&self) -> Service {
        Service::connect(self.socket()).unwrap()
    }

    pub(crate) fn raw(&self) -> Raw {
        Raw::connect(&self.socket())
    }

    /// A download of its own of a path of the server.
    pub(crate) fn download(&self, path: &str, name: &str) -> NewDownload {
        NewDownload {
            url: self.origin.url(&format!("{path}/{name}")),
            destination: self.home().join(name),
            ..NewDownload::default()
        }
    }

    /// A download that stays where it is.
    pub(crate) fn held(&self, name: &str) -> NewDownload {
        NewDownload {
            hold: true,
            ..self.download("/1", name)
        }
    }
}

/// Creates one download and gives its id.
pub(crate) fn create(service: &Service, download: NewDownload) -> TransferId {
    service.create(&[download]).unwrap()[0]
}

/// Views by their ids.
pub(crate) fn ids(views: &[OperationView]) -> Vec<TransferId> {
    views.iter().map(|view| view.id).collect()
}

/// A connection without a client behind it.
pub(crate) struct Raw(BufReader<UnixStream>);

impl Raw {
    pub(crate) fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(STEP_MAX)).unwrap();
        stream.set_write_timeout(Some(STEP_MAX)).unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) fn stream(&self) -> &UnixStream {
        self.0.get_ref()
    }

    /// Sends bytes; that nobody takes them any more is no error.
    pub(crate) fn send(&self, bytes: &[u8]) {
        let _ = self.stream().write_all(bytes);
    }

    /// Sends a message.
    pub(crate) fn say(&self, message: &Value) {
        self.send(&framed(message));
    }

    /// Calls a method of the service.
    pub(crate) fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.say(&json!({ "method": format!("io.backhaul.Transfer.{method}"), "parameters": parameters }));
        self.hear().unwrap()
    }

    /// The next message; nothing where the connection ends.
    pub(crate) fn hear(&mut self) -> Option<Value> {
        let mut bytes = Vec::new();
        // Who is reset has been told why before, if it was told.
        let _ = self.0.read_until(0, &mut bytes);
        (bytes.pop() == Some(0)).then(|| serde_json::from_slice(&bytes).unwrap())
    }

    /// The name of the error in the next message, without the interface.
    pub(crate) fn hear_error(&mut self) -> String {
        let message = self.hear().expect("the connection ends without a reason");
        let name = message["error"]
            .as_str()
            .unwrap_or_else(|| panic!("no error: {message}"));
        name.rsplit('.').next().unwrap().to_owned()
    }
}

pub(crate) fn framed(message: &Value) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(message).unwrap();
    bytes.push(0);
    bytes
}

/// A server: `/N` has N bytes; of `/gate` the second half comes only when the gate is open.
pub(crate) struct Origin {
    address: SocketAddr,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

const GATED_BYTES: usize = 200_000;

impl Origin {
    fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let origin = Self {
            address: listener.local_addr().unwrap(),
            gate: Arc::default(),
        };
        let gate = Arc::clone(&origin.gate);
        // It ends with the test.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let gate = Arc::clone(&gate);
                std::thread::spawn(move || drop(answer(stream, &gate)));
            }
        });
        origin
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn open_gate(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }
}

fn answer(mut stream: TcpStream, gate: &(Mutex<bool>, Condvar)) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut request = String::new();
        while !request.ends_with("\r\n\r\n") {
            if reader.read_line(&mut request)? == 0 {
                return Ok(());
            }
        }
        let path = request.split(' ').nth(1).unwrap_or_default();
        let is_gated = path.starts_with("/gate");
        let digits = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        let length = if is_gated {
            GATED_BYTES
        } else {
            digits.parse().unwrap_or(0)
        };
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nETag: \"e\"\r\n\r\n"
        )?;
        let first = if is_gated { length / 2 } else { length };
        std::io::copy(&mut std::io::repeat(b'x').take(first as u64), &mut stream)?;
        if is_gated {
            drop(gate.1.wait_while(gate.0.lock().unwrap(), |open| !*open).unwrap());
            std::io::copy(&mut std::io::repeat(b'x').take((length - first) as u64), &mut stream)?;
        }
    }
}
