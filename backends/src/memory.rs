//! Serves scripted resources from memory, scheme `mem`: deterministic, for tests of what stands above the backends.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::conformance::Content;
use crate::media;
use crate::outgoing::{self, Outgoing};
use crate::proof;
use crate::{
    Backend, Capabilities, Credential, Failure, FailureKind, Head, Header, HeaderFields, Interrupt, Method, Request,
    Restart, Sink, Start, UrlForm, Validators, WebErrorStatus,
};

/// Most bytes of a tail that are compared: few, so that tests of the caller's own check of what it holds are not helped.
const COMPARED_BYTES_MAX: usize = 16;

/// What one URL serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The bytes.
    pub content: Vec<u8>,
    /// Bytes that are made when they are asked for, in the place of `content`: for what is larger than memory.
    pub made: Option<Content>,
    /// What identifies them; `total_bytes` here is what the head announces, and `None` announces nothing.
    pub validators: Validators,
    /// Whether it can be continued from an offset.
    pub resumable: bool,
    /// Whether the head says so.
    pub tells_resumable: bool,
    /// Media type that the head names.
    pub content_type: Option<String>,
    /// Other URLs that the head names for the same bytes.
    pub mirrors: Vec<String>,
    /// Who shows another credential, or none, is refused with 401.
    pub credential: Option<Credential>,
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
            made: None,
            validators,
            resumable: true,
            tells_resumable: true,
            content_type: None,
            mirrors: Vec::new(),
            credential: None,
        }
    }

    fn len_bytes(&self) -> u64 {
        self.made.map_or(self.content.len() as u64, |made| made.total_bytes)
    }

    /// The bytes of a range that lies inside.
    fn bytes(&self, range: Range<u64>) -> Cow<'_, [u8]> {
        if let Some(made) = self.made {
            return Cow::Owned(made.bytes(range));
        }
        // What is in memory has offsets that fit in usize.
        let place = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
        Cow::Borrowed(&self.content[place(range.start)..place(range.end)])
    }
}

/// What happens in one attempt on a URL, instead of serving it whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "a script has few acts, and tests write them by hand"
)]
pub enum Act {
    /// Serves the resource.
    Serve,
    /// Replaces the resource for this attempt and all later ones, then serves it.
    Replace(Resource),
    /// Serves up to this offset of the resource, then hangs up.
    CutAt(u64),
    /// Serves up to this offset of the resource, then says nothing for as long as it is waited for.
    HangAt(u64),
    /// Says nothing at all, for as long as it is waited for.
    Hang,
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
            return Err(interrupted(&request.url));
        }
        match act {
            Act::Fail(failure) => return Err(failure),
            Act::Hang => return Err(silence(request, request.limits.response, interrupt)),
            _ => {}
        }
        let resource = permitted(request, resource)?;
        let (start, on_trust) = start(request, &resource);
        if !matches!(start, Start::Continue { .. }) {
            check_type(request, &resource)?;
        }
        check_length(request, &resource)?;
        let extent = Extent::new(request, &resource, &start);
        let head = Head {
            on_trust,
            ..head(request, &resource, start)
        };
        sink.begin(&head).map_err(|_| refused(&request.url))?;
        let until = match act {
            Act::CutAt(offset) | Act::HangAt(offset) => offset.min(extent.end()),
            _ => extent.end(),
        };
        send(request, &resource, extent.from..until.max(extent.from), sink, interrupt)?;
        match act {
            Act::CutAt(_) => Err(cut(&request.url)),
            Act::HangAt(_) => Err(silence(request, request.limits.stall, interrupt)),
            _ => extent.check_end(&request.url),
        }
    }
}

/// The bytes of an answer: which are due, and which are there.
struct Extent {
    from: u64,
    /// First byte that is not asked for, where that is known, and whether the server has said so.
    due: Option<(u64, bool)>,
    there: u64,
}

impl Extent {
    fn new(request: &Request, resource: &Resource, start: &Start) -> Self {
        let (from, gap_end) = match start {
            Start::Continue { offset_bytes } => {
                let held = request.held.as_ref();
                (*offset_bytes, held.and_then(|held| held.end_bytes))
            }
            Start::Beginning | Start::Restart(_) => (0, None),
        };
        let told = gap_end.or(resource.validators.total_bytes).map(|end| (end, true));
        Self {
            from,
            due: told.or(request.expected_bytes.map(|end| (end, false))),
            there: gap_end.map_or(resource.len_bytes(), |end| end.min(resource.len_bytes())),
        }
    }

    fn end(&self) -> u64 {
        self.due.map_or(self.there, |(due, _)| due.min(self.there))
    }

    /// Whether what was there is what was due.
    fn check_end(&self, url: &str) -> Result<(), Failure> {
        match self.due {
            Some((due, true)) if self.there < due => Err(cut(url)),
            Some((due, _)) if self.there != due => {
                Err(failure(FailureKind::Permanent, WebErrorStatus::LENGTH_MISMATCH, url))
            }
            _ => Ok(()),
        }
    }
}

/// What is served, to those who may have it.
fn permitted(request: &Request, resource: Option<Resource>) -> Result<Resource, Failure> {
    let (status, code) = match resource {
        Some(resource) if resource.credential.is_none() || resource.credential == request.credential => {
            return Ok(resource);
        }
        Some(_) => (WebErrorStatus::UNAUTHORIZED, 401),
        None => (WebErrorStatus::NOT_FOUND, 404),
    };
    Err(Failure {
        code: Some(code),
        ..failure(FailureKind::Permanent, status, &request.url)
    })
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
            message: format!("{}: {message}", request.url),
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
    let decided = crate::start(request, &resource.validators, resource.resumable);
    let (Start::Continue { offset_bytes }, Some(held)) = (&decided.0, &request.held) else {
        return decided;
    };
    let tail = &held.tail[held.tail.len().saturating_sub(COMPARED_BYTES_MAX)..];
    let tail_begin = offset_bytes.checked_sub(tail.len() as u64);
    let same_tail = || tail_begin.is_some_and(|begin| *resource.bytes(begin..*offset_bytes) == *tail);
    if *offset_bytes > resource.len_bytes() {
        (Start::Restart(Restart::BeyondEnd), false)
    } else if same_tail() {
        decided
    } else {
        (Start::Restart(Restart::Changed), false)
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
        resumable: match (request.method.is_get(), resource.tells_resumable) {
            (false, _) => Some(false),
            (true, true) => Some(resource.resumable),
            (true, false) => None,
        },
        provable: request.method.is_get() && proof::is_provable(&resource.validators),
        on_trust: false,
        content_type: resource.content_type.clone(),
        modified: resource.validators.last_modified.as_deref().and_then(proof::date),
        mirrors: resource.mirrors.clone(),
        headers: HeaderFields::default(),
    }
}

fn send(
    request: &Request,
    resource: &Resource,
    range: Range<u64>,
    sink: &mut dyn Sink,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let mut at = range.start;
    while at < range.end {
        if interrupt.is_raised() {
            return Err(interrupted(&request.url));
        }
        let end = range.end.min(at + request.buffer_bytes.max(1) as u64);
        sink.write(&resource.bytes(at..end))
            .map_err(|_| refused(&request.url))?;
        at = end;
    }
    Ok(())
}

/// Waits for what never comes, and says how that ended.
fn silence(request: &Request, limit: Duration, interrupt: &Interrupt) -> Failure {
    if interrupt.sleep(limit) {
        return interrupted(&request.url);
    }
    let kind = FailureKind::Transient { retry_after: None };
    failure(kind, WebErrorStatus::TIMEOUT, &request.url)
}

fn cut(url: &str) -> Failure {
    let kind = FailureKind::Transient { retry_after: None };
    failure(kind, WebErrorStatus::DISCONNECTED, url)
}

fn interrupted(url: &str) -> Failure {
    failure(FailureKind::Interrupted, WebErrorStatus::OPERATION_CANCELED, url)
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
