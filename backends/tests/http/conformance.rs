//! The suite that every backend must pass, against memory and against a raw HTTP server.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::thread;

use backhaul_backends::conformance::{self, Rig};
use backhaul_backends::{Act, Backend, HttpBackend, HttpConfig, MemoryBackend, RateLimit, Resource, Throttle};

use crate::server::take;

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
}

struct HttpRig {
    backend: Arc<dyn Backend>,
}

impl HttpRig {
    fn listen(script: Arc<Mutex<(Option<Resource>, VecDeque<Act>)>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let script = Arc::clone(&script);
                thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    while answer(&mut stream, &script).is_some() {}
                });
            }
        });
        format!("http://{address}/resource")
    }
}

impl Rig for HttpRig {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.backend)
    }

    fn serve(&mut self, resource: Resource, acts: Vec<Act>) -> String {
        Self::listen(Arc::new(Mutex::new((Some(resource), acts.into()))))
    }

    fn missing(&mut self) -> String {
        Self::listen(Arc::new(Mutex::new((None, VecDeque::new()))))
    }
}

/// Answers one request as an origin server does (RFC 9110, sections 13.1.5 and 14); `None` ends the connection.
fn answer(stream: &mut TcpStream, script: &Mutex<(Option<Resource>, VecDeque<Act>)>) -> Option<()> {
    let asked = take(stream)?;
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
    conformance::run(&mut HttpRig {
        backend: Arc::new(HttpBackend::new(HttpConfig::default()).unwrap()),
    });
}

#[test]
fn a_throttled_backend_conforms() {
    let http = HttpBackend::new(HttpConfig::default()).unwrap();
    // Fast enough to be over soon, slow enough to wait.
    let limit = RateLimit::new(NonZeroU64::new(20_000_000).unwrap());
    conformance::run(&mut HttpRig {
        backend: Arc::new(Throttle::new(Arc::new(http), Arc::new(limit))),
    });
}
