//! Serves scripted resources from memory, scheme `mem`: deterministic, for tests of what stands above the backends.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::media;
use crate::outgoing::{self, Outgoing};
use crate::proof::{self, Sameness};
use crate::{
    Backend, Capabilities, Credential, Failure, FailureKind, Head, Header, Held, Interrupt, Method, Request, Restart,
    Sink, Start, UrlForm, Validators, WebErrorStatus,
};

/// Most bytes of a tail that are compared: few, so that tests of the caller's own check of what it holds are not helped.
const COMPARED_BYTES_MAX: usize = 16;

/// What one URL serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The bytes.
    pub content: Vec<u8>,
    /// What identifies them; `total_bytes` here is what the head announces, and `None` announces nothing.
    pub validators: Validators,
    /// Whether it can be continued from an offset.
    pub resumable: bool,
    /// Media type that the head names.
    pub content_type: Option<String>,
    /// Other URLs that the head names for the same bytes.
    pub mirrors: Vec<String>,
}

impl Resource {
    /// One with a strong entity tag, an announced length and the ability to resume.
    #[must_use]
    pub fn new(content: impl Into<Vec<u8>>, etag: &str) -> Self {
        let content = content.into();
        let validators = Validators {
            etag: Some(format!("\"{etag}\"")),
            total_bytes: Some(content.len() as u64),
            ..Validators::default()
        };
        Self {
            content,
            validators,
            resumable: true,
            content_type: None,
            mirrors: Vec::new(),
        }
    }
}

/// What happens in one attempt on a URL, instead of serving it whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Serves the resource.
    Serve,
    /// Replaces the resource for this attempt and all later ones, then serves it.
    Replace(Resource),
    /// Serves up to this offset of the resource, then hangs up.
    CutAt(u64),
    /// Serves up to this offset of the resource, then says nothing until it is interrupted.
    HangAt(u64),
    /// Fails before the head.
    Fail(Failure),
}

/// One attempt that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempted {
    /// The URL asked for.
    pub url: String,
    /// The method.
    pub method: Method,
    /// What was sent along, where all of it could be read.
    pub body: Option<Vec<u8>>,
    /// First missing byte of what was held; 0 where nothing was.
    pub offset_bytes: u64,
    /// First byte after the gap, where only a gap was asked for.
    pub end_bytes: Option<u64>,
    /// The request headers, in order.
    pub headers: Vec<Header>,
    /// User name and password.
    pub credential: Option<Credential>,
}

/// A backend for tests. Each URL has a resource and a queue of [`Act`]s, of which every attempt takes one; an empty
/// queue serves.
#[derive(Debug, Default)]
pub struct MemoryBackend {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    resources: BTreeMap<String, Resource>,
    scripts: BTreeMap<String, VecDeque<Act>>,
    attempts: Vec<Attempted>,
}

impl MemoryBackend {
    /// One that serves nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves `resource` under `url` from now on.
    pub fn put(&self, url: &str, resource: Resource) {
        self.state().resources.insert(url.to_owned(), resource);
    }

    /// Removes what `url` serves; attempts fail with 404 from now on.
    pub fn remove(&self, url: &str) {
        self.state().resources.remove(url);
    }

    /// Appends to the script of `url`.
    pub fn script(&self, url: &str, act: Act) {
        self.state().scripts.entry(url.to_owned()).or_default().push_back(act);
    }

    /// Every attempt so far, oldest first.
    #[must_use]
    pub fn attempts(&self) -> Vec<Attempted> {
        self.state().attempts.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next act and the resource as it is after it.
    fn take(&self, request: &Request, body: Option<Vec<u8>>) -> (Act, Option<Resource>) {
        let mut state = self.state();
        let offset_bytes = request.held.as_ref().map_or(0, |held| held.offset_bytes);
        state.attempts.push(Attempted {
            url: request.url.clone(),
            method: request.method.clone(),
            body,
            offset_bytes,
            end_bytes: request.held.as_ref().and_then(|held| held.end_bytes),
            headers: request.headers.clone(),
            credential: request.credential.clone(),
        });
        let act = state
            .scripts
            .get_mut(&request.url)
            .and_then(VecDeque::pop_front)
            .unwrap_or(Act::Serve);
        if let Act::Replace(resource) = &act {
            state.resources.insert(request.url.clone(), resource.clone());
        }
        (act, state.resources.get(&request.url).cloned())
    }
}

impl Backend for MemoryBackend {
    fn schemes(&self) -> Vec<&str> {
        vec!["mem"]
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            resume: true,
            ranges: true,
            methods: true,
            headers: true,
            proxies: false,
            urls: UrlForm::Host,
        }
    }

    fn download(&self, request: &Request, sink: &mut dyn Sink, interrupt: &Interrupt) -> Result<(), Failure> {
        let body = read_body(request)?;
        let (act, resource) = self.take(request, body);
        if interrupt.is_raised() {
            return Err(failure(
                FailureKind::Interrupted,
                WebErrorStatus::OPERATION_CANCELED,
                &request.url,
            ));
        }
        if let Act::Fail(failure) = act {
            return Err(failure);
        }
        let Some(resource) = resource else {
            let missing = failure(FailureKind::Permanent, WebErrorStatus::NOT_FOUND, &request.url);
            return Err(Failure {
                code: Some(404),
                ..missing
            });
        };
        let (start, on_trust) = start(request, &resource);
        if !matches!(start, Start::Continue { .. }) {
            check_type(request, &resource)?;
        }
        check_length(request, &resource)?;
        let from = if let Start::Continue { offset_bytes } = start {
            offset_bytes
        } else {
            0
        };
        let head = Head {
            on_trust,
            ..head(request, &resource, start)
        };
        sink.begin(&head).map_err(|_| refused(&request.url))?;
        let gap_end = request.held.as_ref().and_then(|held| held.end_bytes);
        let end = match head.start {
            Start::Continue { .. } => gap_end.unwrap_or(u64::MAX).min(resource.content.len() as u64),
            _ => resource.content.len() as u64,
        };
        let until = match act {
            Act::CutAt(offset) | Act::HangAt(offset) => offset.min(end),
            _ => end,
        };
        send(request, &resource, from..until.max(from), sink, interrupt)?;
        finish(&act, request, interrupt)
    }
}

fn read_body(request: &Request) -> Result<Option<Vec<u8>>, Failure> {
    let Some(source) = &request.body else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    let read = Outgoing::open(source.as_ref()).and_then(|mut outgoing| outgoing.read_to_end(&mut bytes));
    read.map(|_| Some(bytes)).map_err(|error| {
        let (kind, status, message) = outgoing::failure(&error);
        Failure {
            kind,
            status,
            code: None,
            message,
        }
    })
}

fn check_length(request: &Request, resource: &Resource) -> Result<(), Failure> {
    let kind = if resource.content_type.as_deref().is_some_and(media::is_page) {
        FailureKind::Transient { retry_after: None }
    } else {
        FailureKind::Permanent
    };
    match (request.expected_bytes, resource.validators.total_bytes) {
        (Some(expected), Some(total)) if expected != total => {
            Err(failure(kind, WebErrorStatus::LENGTH_MISMATCH, &request.url))
        }
        _ => Ok(()),
    }
}

fn check_type(request: &Request, resource: &Resource) -> Result<(), Failure> {
    let (expected, actual) = (request.expected_type.as_deref(), resource.content_type.as_deref());
    let Some(impostor) = media::impostor(expected, request.held.as_ref(), actual) else {
        return Ok(());
    };
    let kind = if impostor.passes {
        FailureKind::Transient { retry_after: None }
    } else {
        FailureKind::Permanent
    };
    Err(failure(kind, WebErrorStatus::UNEXPECTED_CONTENT_TYPE, &request.url))
}

fn start(request: &Request, resource: &Resource) -> (Start, bool) {
    let is_gap = |held: &&Held| held.offset_bytes > 0 || held.end_bytes.is_some();
    let Some(held) = request.held.as_ref().filter(is_gap) else {
        return (Start::Beginning, false);
    };
    let restart = |why| (Start::Restart(why), false);
    if !request.method.is_get() {
        return restart(Restart::Method);
    }
    let sameness = proof::compare_held(held, &resource.validators);
    let tail = &held.tail[held.tail.len().saturating_sub(COMPARED_BYTES_MAX)..];
    let same_tail = usize::try_from(held.offset_bytes)
        .ok()
        .and_then(|end| resource.content.get(end.checked_sub(tail.len())?..end));
    match sameness {
        Sameness::Different => restart(Restart::Changed),
        Sameness::Unproven if !held.digest_expected => restart(Restart::NoProof),
        _ if !resource.resumable => restart(Restart::RangeIgnored),
        _ if held.offset_bytes > resource.content.len() as u64 => restart(Restart::BeyondEnd),
        _ if same_tail != Some(tail) => restart(Restart::Changed),
        sameness => {
            let offset_bytes = held.offset_bytes;
            (Start::Continue { offset_bytes }, sameness == Sameness::Unproven)
        }
    }
}

fn head(request: &Request, resource: &Resource, start: Start) -> Head {
    Head {
        status_code: if matches!(start, Start::Continue { .. }) {
            206
        } else {
            200
        },
        start,
        validators: resource.validators.clone(),
        actual_url: request.url.clone(),
        resumable: resource.resumable && request.method.is_get(),
        provable: request.method.is_get() && proof::is_provable(&resource.validators),
        on_trust: false,
        content_type: resource.content_type.clone(),
        modified: resource.validators.last_modified.as_deref().and_then(proof::date),
        mirrors: resource.mirrors.clone(),
        headers: Vec::new(),
    }
}

fn send(
    request: &Request,
    resource: &Resource,
    range: std::ops::Range<u64>,
    sink: &mut dyn Sink,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    // The content is in memory, so its offsets fit in usize.
    let range = usize::try_from(range.start).unwrap_or(usize::MAX)..usize::try_from(range.end).unwrap_or(usize::MAX);
    for piece in resource.content[range].chunks(request.buffer_bytes.max(1)) {
        if interrupt.is_raised() {
            return Err(failure(
                FailureKind::Interrupted,
                WebErrorStatus::OPERATION_CANCELED,
                &request.url,
            ));
        }
        sink.write(piece).map_err(|_| refused(&request.url))?;
    }
    Ok(())
}

fn finish(act: &Act, request: &Request, interrupt: &Interrupt) -> Result<(), Failure> {
    match act {
        Act::CutAt(_) => {
            let kind = FailureKind::Transient { retry_after: None };
            Err(failure(kind, WebErrorStatus::DISCONNECTED, &request.url))
        }
        Act::HangAt(_) => {
            while !interrupt.sleep(Duration::from_secs(3600)) {}
            Err(failure(
                FailureKind::Interrupted,
                WebErrorStatus::OPERATION_CANCELED,
                &request.url,
            ))
        }
        _ => Ok(()),
    }
}

fn refused(url: &str) -> Failure {
    failure(FailureKind::SinkRefused, WebErrorStatus::FILE_ACCESS, url)
}

fn failure(kind: FailureKind, status: WebErrorStatus, url: &str) -> Failure {
    Failure {
        kind,
        status,
        code: None,
        message: format!("{url}: {status}"),
    }
}
