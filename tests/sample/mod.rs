//! A server that behaves as the pages of the official sample of `Windows.Networking.BackgroundTransfer` do, on plain
//! sockets, and a place to download to. Where the sample goes slowly, it stands still until the test lets it go on.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::Seeded;

const REQUEST_BYTES_MAX: usize = 4 << 20;
const SEND_BYTES: usize = 16 * 1024;
/// Silence after which a connection is given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Length of everything that is served.
pub(crate) const LENGTH: usize = 640 * 1024;

/// One request as it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    /// By their names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Where the range begins that is asked for; 0 without one.
    pub(crate) fn first(&self) -> usize {
        let first = self.header("range").strip_prefix("bytes=");
        let first = first.and_then(|range| range.split('-').next()?.parse().ok());
        first.unwrap_or(0)
    }

    /// Behind the last byte that is asked for.
    fn end(&self) -> usize {
        let last = self.header("range").rsplit('-').next();
        let last = last.and_then(|last| last.parse::<usize>().ok());
        last.map_or(LENGTH, |last| (last + 1).min(LENGTH))
    }
}

/// The pages, each with a query of its own, which makes it another resource of the same bytes:
///
/// - `/download` with an entity tag; a range only where If-Range is that
/// - `/bitmap` the same; 400 where the last digit of the query is odd
/// - `/random` with a fixed Last-Modified and no entity tag
/// - `/recoverable?expire=yes` hangs up past half way, then 403 to whatever does not begin at 0
/// - `/changing` the same as `/download`, until it becomes another file under another tag
/// - `/moved` redirects to `/download`
/// - `/echo` answers with the body of the request
/// - `/missing` 404
pub(crate) struct Sample {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    content: Vec<u8>,
    /// What `/changing` serves once it has changed.
    changed_content: Vec<u8>,
}

#[derive(Default)]
struct State {
    has_changed: bool,
    asked: Vec<Asked>,
    /// No byte between these offsets is sent.
    held: Option<Range<usize>>,
    /// The hold ends with the first connection that is held and goes.
    until_left: bool,
    stopping: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until bytes from an offset on may go, and says up to where; `None` where the server stops.
    fn allowed(&self, stream: &TcpStream, first: usize, end: usize) -> Option<usize> {
        let mut state = self.lock();
        loop {
            if state.stopping {
                return None;
            }
            match &state.held {
                Some(held) if held.contains(&first) => {
                    if state.until_left && has_gone(stream) {
                        state.held = None;
                        self.changed.notify_all();
                        return None;
                    }
                    // Between two looks at whether the client is still there.
                    let waited = self.changed.wait_timeout(state, Duration::from_millis(5));
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Some(held) if first < held.start => return Some(end.min(held.start)),
                _ => return Some(end),
            }
        }
    }
}

impl Sample {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            content: Seeded::new(5).bytes(LENGTH),
            changed_content: Seeded::new(6).bytes(LENGTH),
            ..Shared::default()
        });
        let serving = Arc::clone(&shared);
        let thread = thread::spawn(move || accept(&listener, &serving));
        Self {
            port,
            shared,
            thread: Some(thread),
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// What every page but `/echo` serves.
    pub(crate) fn content(&self) -> &[u8] {
        &self.shared.content
    }

    /// What `/changing` serves after this; gives that.
    pub(crate) fn change(&self) -> &[u8] {
        self.shared.lock().has_changed = true;
        &self.shared.changed_content
    }

    /// Nothing at or beyond this offset is sent until [`Sample::release`].
    pub(crate) fn hold_at(&self, offset: usize) {
        self.hold_between(offset, LENGTH);
    }

    /// The same until the first client that is held has closed its connection.
    pub(crate) fn hold_until_left(&self, offset: usize) {
        self.hold_at(offset);
        self.shared.lock().until_left = true;
    }

    /// Nothing between these offsets is sent until [`Sample::release`].
    pub(crate) fn hold_between(&self, first: usize, end: usize) {
        self.shared.lock().held = Some(first..end);
    }

    pub(crate) fn release(&self) {
        self.shared.lock().held = None;
        self.shared.changed.notify_all();
    }

    /// All requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.lock().asked.clone()
    }

    /// Paths and queries of all requests so far.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.path).collect()
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.changed.notify_all();
        // The one who accepts looks up.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn has_gone(stream: &TcpStream) -> bool {
    let set = stream.set_nonblocking(true);
    let peeked = stream.peek(&mut [0]);
    let back = stream.set_nonblocking(false);
    let is_there = matches!(&peeked, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
    set.is_err() || back.is_err() || !is_there
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.lock().stopping {
            return;
        }
        let Ok(stream) = stream else { continue };
        let shared = Arc::clone(shared);
        // It ends with its connection, or with the server.
        thread::spawn(move || {
            let _ = serve(&stream, &shared);
            let _ = stream.shutdown(Shutdown::Both);
        });
    }
}

fn serve(mut stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    let Some(asked) = read_request(stream)? else {
        return Ok(());
    };
    shared.lock().asked.push(asked.clone());
    let page = asked.path.split('?').next().unwrap_or_default();
    let mut simple = |status: &str, more: &str, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{more}\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)
    };
    match page {
        "/changing" if shared.lock().has_changed => content(stream, shared, &asked, "ETag: \"changed\"\r\n"),
        "/download" | "/changing" => content(stream, shared, &asked, "ETag: \"one\"\r\n"),
        "/bitmap" if asked.path.ends_with(['1', '3', '5', '7', '9']) => simple("400 Bad Request", "", b"no"),
        "/bitmap" => content(stream, shared, &asked, "ETag: \"two\"\r\n"),
        "/random" => content(
            stream,
            shared,
            &asked,
            "Last-Modified: Wed, 01 Jan 2020 00:00:00 GMT\r\n",
        ),
        "/recoverable" if asked.path.ends_with("expire=yes") && asked.first() > 0 => simple("403 Forbidden", "", b""),
        "/recoverable" => content(stream, shared, &asked, "ETag: \"three\"\r\n"),
        "/moved" => simple("302 Found", "Location: /download\r\n", b""),
        "/echo" => simple("200 OK", "X-Echo: yes\r\n", &asked.body),
        _ => simple("404 Not Found", "", b""),
    }
}

/// The content, or the range of it that is asked for, under a validator.
fn content(mut stream: &TcpStream, shared: &Shared, asked: &Asked, validator: &str) -> std::io::Result<()> {
    let value = validator.split_once(": ").map_or("", |(_, value)| value.trim_end());
    let is_range = !asked.header("range").is_empty() && ["", value].contains(&asked.header("if-range"));
    let (mut first, end) = if is_range {
        (asked.first(), asked.end())
    } else {
        (0, LENGTH)
    };
    let status = if is_range { "206 Partial Content" } else { "200 OK" };
    let range = if is_range {
        format!("Content-Range: bytes {first}-{}/{LENGTH}\r\n", end - 1)
    } else {
        String::new()
    };
    let head = format!(
        "HTTP/1.1 {status}\r\n{range}{validator}Content-Length: {}\r\nAccept-Ranges: bytes\r\n\
         Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Type: application/octet-stream\r\nConnection: close\r\n\r\n",
        end - first
    );
    stream.write_all(head.as_bytes())?;
    let expires = asked.path.ends_with("expire=yes");
    let stop = if expires { LENGTH / 2 + 1 } else { end };
    while first < end.min(stop) {
        let Some(allowed) = shared.allowed(stream, first, end.min(stop)) else {
            return Ok(());
        };
        let next = allowed.min(first + SEND_BYTES);
        let bytes = if validator.contains("changed") {
            &shared.changed_content
        } else {
            &shared.content
        };
        stream.write_all(&bytes[first..next])?;
        first = next;
    }
    Ok(())
}

fn read_request(mut stream: &TcpStream) -> std::io::Result<Option<Asked>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        match stream.read(&mut buffer)? {
            0 => return Ok(None),
            count if bytes.len() < REQUEST_BYTES_MAX => bytes.extend_from_slice(&buffer[..count]),
            _ => return Ok(None),
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let fields = lines.filter_map(|line| line.split_once(':'));
    let headers: BTreeMap<String, String> = fields
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.get("content-length").and_then(|length| length.parse().ok());
    let mut body = bytes.split_off(head_end + 4);
    while body.len() < length.unwrap_or(0).min(REQUEST_BYTES_MAX) {
        match stream.read(&mut buffer)? {
            0 => return Ok(None),
            count => body.extend_from_slice(&buffer[..count]),
        }
    }
    Ok(Some(Asked {
        method: method.into(),
        path: path.into(),
        headers,
        body,
    }))
}

/// A fresh folder with a state directory and a place for downloads.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let folder = TempDir::with_prefix("backhaul-api-").unwrap();
        fs::create_dir(folder.path().join("downloads")).unwrap();
        Self(folder)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.path().join("socket")
    }

    pub(crate) fn downloads(&self) -> PathBuf {
        self.0.path().join("downloads")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.downloads().join(name)
    }
}
