//! The suite that every backend must pass, against memory and against a raw HTTP server.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::thread;

use backhaul_backends::conformance::{self, Rig};
use backhaul_backends::{Act, Backend, HttpBackend, HttpConfig, MemoryBackend, Method, RateLimit, Resource, Throttle};

use crate::server::{length_of, take};

struct MemoryRig {
    memory: Arc<MemoryBackend>,
    served: usize,
}

impl Rig for MemoryRig {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::<MemoryBackend>::clone(&self.memory)
    }

    fn serve(&mut self, resource: Resource, acts: Vec<Act>) -> String {
        self.served += 1;
        let url = format!("mem://test/{}", self.served);
        self.memory.put(&url, resource);
        for act in acts {
            self.memory.script(&url, act);
        }
        url
    }

    fn missing(&mut self) -> String {
        "mem://test/missing".to_owned()
    }

    fn received(&self, url: &str) -> Vec<(Method, Vec<u8>)> {
        let attempts = self.memory.attempts().into_iter().filter(|attempt| attempt.url == url);
        attempts
            .filter_map(|attempt| Some((attempt.method, attempt.body?)))
            .collect()
    }
}

type Received = Arc<Mutex<BTreeMap<String, Vec<(Method, Vec<u8>)>>>>;

struct HttpRig {
    backend: Arc<dyn Backend>,
    received: Received,
}

impl HttpRig {
    fn new(backend: Arc<dyn Backend>) -> Self {
        Self {
            backend,
            received: Received::default(),
        }
    }

    fn listen(&self, script: Arc<Mutex<(Option<Resource>, VecDeque<Act>)>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("http://{address}/resource");
        let (own, received) = (url.clone(), Arc::clone(&self.received));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (script, own, received) = (Arc::clone(&script), own.clone(), Arc::clone(&received));
                thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let note = |request| received.lock().unwrap().entry(own.clone()).or_default().push(request);
                    while answer(&mut stream, &script, &note).is_some() {}
                });
            }
        });
        url
    }
}

impl Rig for HttpRig {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.backend)
    }

    fn serve(&mut self, resource: Resource, acts: Vec<Act>) -> String {
        self.listen(Arc::new(Mutex::new((Some(resource), acts.into()))))
    }

    fn missing(&mut self) -> String {
        self.listen(Arc::new(Mutex::new((None, VecDeque::new()))))
    }

    fn received(&self, url: &str) -> Vec<(Method, Vec<u8>)> {
        self.received.lock().unwrap().get(url).cloned().unwrap_or_default()
    }
}

/// Answers one request as an origin server does (RFC 9110, sections 13.1.5 and 14); `None` ends the connection.
fn answer(
    stream: &mut TcpStream,
    script: &Mutex<(Option<Resource>, VecDeque<Act>)>,
    note: &dyn Fn((Method, Vec<u8>)),
) -> Option<()> {
    let asked = take(stream)?;
    let mut body = vec![0; length_of(&asked).unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    let method = asked.split(' ').next()?.to_ascii_uppercase();
    note((method.parse().ok()?, body));
    let (resource, act) = {
        let mut script = script.lock().unwrap();
        let act = script.1.pop_front().unwrap_or(Act::Serve);
        if let Act::Replace(resource) = &act {
            script.0 = Some(resource.clone());
        }
        (script.0.clone(), act)
    };
    let Some(resource) = resource else {
        return stream
            .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone")
            .ok();
    };
    let etag = resource.validators.etag.clone().unwrap();
    let field = |name: &str| asked.lines().find_map(|line| line.strip_prefix(name));
    let from = field("range: bytes=")
        .and_then(|range| range.strip_suffix('-'))
        .and_then(|text| text.parse().ok());
    let from: Option<usize> = from.filter(|_| resource.resumable && field("if-range: ") == Some(&etag));
    let total = resource.content.len();
    let ranges = if resource.resumable {
        "Accept-Ranges: bytes\r\n"
    } else {
        ""
    };
    let kind = resource.content_type.as_ref();
    let kind = kind.map_or_else(String::new, |kind| format!("Content-Type: {kind}\r\n"));
    let first = from.unwrap_or(0);
    let (status, range) = match from {
        Some(from) => (
            "206 Partial Content",
            format!("Content-Range: bytes {from}-{}/{total}\r\n", total - 1),
        ),
        None => ("200 OK", String::new()),
    };
    let length = total - first;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nETag: {etag}\r\n{ranges}{range}{kind}Content-Length: {length}\r\n\r\n"
    )
    .ok()?;
    match act {
        Act::CutAt(offset) => {
            stream
                .write_all(&resource.content[first..usize::try_from(offset).unwrap()])
                .ok()?;
            None
        }
        Act::HangAt(offset) => {
            stream
                .write_all(&resource.content[first..usize::try_from(offset).unwrap()])
                .ok()?;
            take(stream).map(|_| ())
        }
        _ => stream.write_all(&resource.content[first..]).ok(),
    }
}

#[test]
fn memory_conforms() {
    conformance::run(&mut MemoryRig {
        memory: Arc::new(MemoryBackend::new()),
        served: 0,
    });
}

#[test]
fn http_conforms() {
    let http = HttpBackend::new(HttpConfig::default()).unwrap();
    conformance::run(&mut HttpRig::new(Arc::new(http)));
}

#[test]
fn a_throttled_backend_conforms() {
    let http = HttpBackend::new(HttpConfig::default()).unwrap();
    // Fast enough to be over soon, slow enough to wait.
    let limit = RateLimit::new(NonZeroU64::new(20_000_000).unwrap());
    let throttle = Throttle::new(Arc::new(http), Arc::new(limit));
    conformance::run(&mut HttpRig::new(Arc::new(throttle)));
}
