//! One attempt as the suite makes it: on a thread of its own, into a sink that knows every byte, and never without end.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use super::{Act, Content, Place, Rig, Served};
use crate::{
    Failure, FailureKind, Head, Held, Interrupt, Limits, Method, Refused, Request, Sink, Start, TAIL_BYTES_MAX,
    Validators, WebErrorStatus, place as shown_place,
};

/// How long anything may take that takes no time: far more than any machine needs, so that only what hangs is caught.
pub(super) const GUARD: Duration = Duration::from_secs(60);

/// How long an attempt may take to end once it was interrupted: generous, and far less than any limit of its own.
const PROMPT: Duration = Duration::from_secs(10);

/// Sizes of a resource: one that backends may take for small, and one for large.
pub(super) const SIZES: [u64; 2] = [300_007, 2_400_003];

/// A point inside of each, on no boundary of anything.
pub(super) const CUT: u64 = 150_001;

/// Size of the read buffer, in bytes.
pub(super) const BUFFER_BYTES: usize = 64 * 1024;

/// Larger than 4 GiB, as is what is held of it.
pub(super) const HUGE: Content = Content {
    seed: 5,
    total_bytes: HUGE_HELD + 100_003,
};
pub(super) const HUGE_HELD: u64 = 5 << 30;

pub(super) const AGAIN: FailureKind = FailureKind::Transient { retry_after: None };

/// Each size, with a content of it.
pub(super) fn contents() -> [Content; 2] {
    SIZES.map(|total_bytes| Content { seed: 1, total_bytes })
}

/// A content of the small size.
pub(super) fn small() -> Content {
    contents()[0]
}

/// Another content of the same length.
pub(super) fn other(content: Content) -> Content {
    Content {
        seed: content.seed + 1,
        ..content
    }
}

/// No limit ends what something else is to end.
pub(super) fn no_limits() -> Limits {
    let hour = Duration::from_secs(3600);
    Limits {
        connect: hour,
        response: hour,
        stall: hour,
    }
}

pub(super) fn request(url: &str, held: Option<Held>) -> Request {
    Request {
        url: url.to_owned(),
        method: Method::GET,
        body: None,
        headers: Vec::new(),
        credential: None,
        proxies: Arc::default(),
        held,
        expected_bytes: None,
        expected_type: None,
        limits: no_limits(),
        buffer_bytes: BUFFER_BYTES,
    }
}

/// What a [`Witness`] is told of, for whoever wants to act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// The head came.
    Head,
    /// So many bytes came in all of this attempt.
    Bytes(u64),
}

type Hook = Box<dyn FnMut(Moment) -> Result<(), Refused> + Send>;

/// A sink that compares every byte with the content, and keeps none.
pub(super) struct Witness {
    content: Content,
    pub(super) heads: Vec<Head>,
    /// Bytes that came.
    pub(super) came: u64,
    /// Where the next byte belongs.
    pub(super) next: u64,
    /// What was done that must never be done. It is not shouted out at once: backends may have foreign code below them.
    faults: Vec<String>,
    refused: bool,
    hook: Option<Hook>,
}

impl Witness {
    pub(super) fn new(content: Content) -> Self {
        Self {
            content,
            heads: Vec::new(),
            came: 0,
            next: 0,
            faults: Vec::new(),
            refused: false,
            hook: None,
        }
    }

    /// Tells `hook` of every moment; what it answers is the answer.
    pub(super) fn hooked(content: Content, hook: impl FnMut(Moment) -> Result<(), Refused> + Send + 'static) -> Self {
        Self {
            hook: Some(Box::new(hook)),
            ..Self::new(content)
        }
    }

    fn tell(&mut self, moment: Moment) -> Result<(), Refused> {
        let answer = self.hook.as_mut().map_or(Ok(()), |hook| hook(moment));
        self.refused = answer.is_err();
        answer
    }

    fn fault(&mut self, text: impl Into<String>) {
        if self.faults.len() < 8 {
            self.faults.push(text.into());
        }
    }

    /// The only head.
    pub(super) fn head(&self) -> &Head {
        assert_eq!(self.heads.len(), 1, "the sink hears of one head");
        &self.heads[0]
    }
}

impl Sink for Witness {
    fn begin(&mut self, head: &Head) -> Result<(), Refused> {
        if !self.heads.is_empty() || self.came > 0 {
            self.fault("the head came twice, or after bytes");
        }
        self.next = match head.start {
            Start::Continue { offset_bytes } => offset_bytes,
            Start::Beginning | Start::Restart(_) => 0,
        };
        self.heads.push(head.clone());
        self.tell(Moment::Head)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        if self.heads.is_empty() {
            self.fault("bytes came before the head");
        }
        if self.refused {
            self.fault("bytes came after a refusal");
        }
        if bytes.is_empty() || bytes.len() > BUFFER_BYTES {
            self.fault(format!(
                "a piece of {} bytes came, the buffer has {BUFFER_BYTES}",
                bytes.len()
            ));
        }
        if let Some(offset) = self.content.first_difference(self.next, bytes) {
            self.fault(format!("the byte at {offset} is wrong"));
        }
        self.came += bytes.len() as u64;
        self.next += bytes.len() as u64;
        self.tell(Moment::Bytes(self.came))
    }
}

/// How an attempt ended.
pub(super) struct Outcome {
    pub(super) result: Result<(), Failure>,
    pub(super) witness: Witness,
}

impl Outcome {
    fn check(self, place: &str) -> Self {
        let faults = &self.witness.faults;
        assert!(faults.is_empty(), "{place}: {}", faults.join("; "));
        if let Err(failure) = &self.result {
            let named = shown_place(place);
            assert!(failure.message.contains(&named), "'{failure}' names '{named}'");
        }
        self
    }

    /// It ended well, with everything up to `end`.
    pub(super) fn to(self, end: u64) -> Witness {
        if let Err(failure) = &self.result {
            panic!("the attempt ends well, not so: {:?}, {failure}", failure.kind);
        }
        let head = self.witness.head();
        assert_eq!(self.witness.next, end, "all of it came, {head:?}");
        self.witness
    }

    /// It ended well, with the whole of what was served.
    pub(super) fn whole(self) -> Witness {
        let end = self.witness.content.total_bytes;
        self.to(end)
    }

    /// It failed in this way.
    pub(super) fn failed(self, kind: FailureKind, status: WebErrorStatus) -> Witness {
        self.failed_as(kind, &[status])
    }

    /// It failed in this way, by one of these names.
    pub(super) fn failed_as(self, kind: FailureKind, statuses: &[WebErrorStatus]) -> Witness {
        let failure = self.result.expect_err("the attempt fails");
        assert_eq!(failure.kind, kind, "{failure} ({})", failure.status);
        assert!(
            statuses.contains(&failure.status),
            "{failure}: {} is none of {statuses:?}",
            failure.status
        );
        assert!(!failure.message.trim().is_empty(), "it says what was tried");
        self.witness
    }

    /// It failed before any response was accepted.
    pub(super) fn failed_before_the_head(self, kind: FailureKind, status: WebErrorStatus) {
        let witness = self.failed(kind, status);
        assert!(
            witness.heads.is_empty(),
            "before the first byte, not so: {:?}",
            witness.heads
        );
    }
}

/// An attempt under way.
pub(super) struct Running {
    thread: PathBuf,
    outcome: Receiver<Outcome>,
    url: String,
}

impl Running {
    /// Waits until the thread of the attempt sleeps in a wait of any kind, or has ended.
    pub(super) fn await_sleep(&self) {
        let began = Instant::now();
        while is_awake(&self.thread) {
            assert!(began.elapsed() < GUARD, "the attempt comes to no rest");
            thread::yield_now();
        }
    }

    /// How it ended.
    pub(super) fn end(self) -> Outcome {
        self.end_within(GUARD)
    }

    /// The same, where it was interrupted.
    pub(super) fn end_soon(self) -> Outcome {
        self.end_within(PROMPT)
    }

    fn end_within(self, guard: Duration) -> Outcome {
        let outcome = self.outcome.recv_timeout(guard);
        outcome.expect("an attempt ends, and without a panic").check(&self.url)
    }
}

/// Whether the kernel says that a thread is there and waits for nothing.
fn is_awake(thread: &Path) -> bool {
    let status = fs::read_to_string(Path::new("/proc").join(thread).join("stat"));
    let state = status.as_deref().ok().and_then(|status| status.rsplit_once(") "));
    state.is_some_and(|(_, state)| !state.starts_with('S'))
}

/// Begins an attempt.
pub(super) fn begin(rig: &dyn Rig, request: &Request, mut witness: Witness, interrupt: &Interrupt) -> Running {
    let (backend, interrupt, owned) = (rig.backend(), interrupt.clone(), request.clone());
    let (start, started) = mpsc::channel();
    let (done, outcome) = mpsc::channel();
    thread::spawn(move || {
        // Whoever waits sees the end of a channel.
        let _ = start.send(fs::read_link("/proc/thread-self"));
        let result = backend.download(&owned, &mut witness, &interrupt);
        let _ = done.send(Outcome { result, witness });
    });
    let thread = started.recv().expect("a thread begins").expect("this is Linux");
    Running {
        thread,
        outcome,
        url: request.url.clone(),
    }
}

/// Makes an attempt.
pub(super) fn attempt(rig: &dyn Rig, request: &Request, content: Content) -> Outcome {
    begin(rig, request, Witness::new(content), &Interrupt::new()).end()
}

/// An attempt without anything held, or with.
pub(super) fn fetch(rig: &dyn Rig, url: &str, held: Option<Held>, content: Content) -> Outcome {
    attempt(rig, &request(url, held), content)
}

/// What is held after an attempt that did not end well.
pub(super) fn held_after(witness: &Witness) -> Option<Held> {
    let head = witness.heads.first()?;
    Some(Held {
        content_type: head.content_type.clone(),
        ..held_at(witness.next, witness.content, &head.validators)
    })
}

/// The beginning of a content, as it is held up to an offset.
pub(super) fn held_at(offset_bytes: u64, content: Content, validators: &Validators) -> Held {
    let tail_begin = offset_bytes.saturating_sub(TAIL_BYTES_MAX as u64);
    Held {
        offset_bytes,
        tail: content.bytes(tail_begin..offset_bytes),
        validators: validators.clone(),
        ..Held::default()
    }
}

/// Makes a first attempt, which the server ends in the middle.
pub(super) fn cut(rig: &dyn Rig, url: &str, content: Content) -> Witness {
    let witness = fetch(rig, url, None, content).failed_as(AGAIN, LOST);
    assert_eq!(witness.head().start, Start::Beginning);
    assert_eq!(witness.next, CUT, "everything that came before the cut is kept");
    witness
}

/// Names of a connection that was lost.
pub(super) const LOST: &[WebErrorStatus] = &[
    WebErrorStatus::DISCONNECTED,
    WebErrorStatus::CONNECTION_RESET,
    WebErrorStatus::CONNECTION_ABORTED,
];

/// Serves a content, `act` in the way of each attempt that is to be tried, and gives its URL with what is held then: for
/// every step of an attempt from the beginning, and for every step of one that continues.
pub(super) fn at_each_step(
    rig: &mut dyn Rig,
    act: &dyn Fn(Place) -> Act,
    mut run: impl FnMut(&dyn Rig, &str, Option<Held>),
) {
    let (protocol, content) = (rig.protocol(), small());
    for step in protocol.steps {
        let url = rig.serve(Served::new(content), vec![act(Place::Step(step))]);
        run(rig, &url, None);
    }
    if !rig.backend().capabilities().resume {
        return;
    }
    for step in protocol.rest_steps {
        let acts = vec![Act::HangUp(Place::Byte(CUT)), act(Place::Step(step))];
        let url = rig.serve(Served::new(content), acts);
        let held = held_after(&cut(rig, &url, content));
        run(rig, &url, held);
    }
}
