//! One attempt: what is said to a helper, what it may say when, and what its end means.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::channel::{Channel, Fault, violation};
use super::process::{self, Process, Started};
use super::secrets::Secrets;
use super::wire::{HELLO, Reported, Resource, Said, harmless, read_bytes, request_text};
use crate::problem::Problem;
use crate::{
    Failure, Head, HeaderFields, Interrupt, Request, Restart, Sink, Start, WebErrorStatus, is_provable, place, proof,
    refusal, start,
};

/// How long a helper may take to end after its last word.
const END_MAX: Duration = Duration::from_secs(5);
/// How long the end of one is waited for that has closed its output too early: to say how it ended, and for nothing else.
const EARLY_END_MAX: Duration = Duration::from_millis(200);

/// What came of a conversation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Complete,
    /// The bytes that are held are not those of the resource, although its validators say so.
    OtherTail,
}

/// Fetches with a helper; a second process is started only where the first one's bytes show that nothing can be continued.
pub(super) fn run(
    program: Option<&Path>,
    request: &Request,
    sink: &mut dyn Sink,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let Some(program) = program else {
        let problem = Problem::permanent(
            WebErrorStatus::UNSUPPORTED_SCHEME,
            "no helper program speaks this protocol",
        );
        return Err(problem.at(&place(&request.url)));
    };
    let mut attempt = Attempt {
        program,
        request,
        sink,
        interrupt,
        starts_again: false,
    };
    if attempt.converse()? == Outcome::OtherTail {
        attempt.starts_again = true;
        attempt.converse()?;
    }
    Ok(())
}

struct Attempt<'a> {
    program: &'a Path,
    request: &'a Request,
    sink: &'a mut dyn Sink,
    interrupt: &'a Interrupt,
    /// Nothing is continued, whatever the validators say.
    starts_again: bool,
}

impl Attempt<'_> {
    fn converse(&mut self) -> Result<Outcome, Failure> {
        if self.interrupt.is_raised() {
            return Err(self.failure(&Problem::interrupted(), None));
        }
        let started = process::start(self.program).map_err(|error| self.failure(&not_started(&error), None))?;
        let Started {
            mut process,
            socket,
            complaints,
        } = started;
        let socket = Arc::new(socket);
        let binding = self.interrupt.bind(Arc::<UnixStream>::clone(&socket));
        let buffer_bytes = read_bytes(self.request);
        let mut channel = Channel::new(Arc::clone(&socket), complaints, buffer_bytes, self.interrupt);
        let result = self.talk(&mut channel);
        let ended = match result {
            Ok(Outcome::OtherTail) => return Ok(Outcome::OtherTail),
            Ok(Outcome::Complete) => self.await_end(&socket, &mut channel, &mut process),
            Err(fault) => Err(fault),
        };
        let ended = ended.map(|()| Outcome::Complete);
        if matches!(ended, Err(Fault::Ended)) {
            process.await_end(EARLY_END_MAX, self.interrupt);
        }
        let status = process.end();
        drop(binding);
        let problem = match (ended, status) {
            (Ok(outcome), Some(status)) if status.success() => return Ok(outcome),
            (Err(Fault::Failure(failure)), _) => return Err(self.without_secrets(&failure)),
            (Err(Fault::Problem(problem)), _) => problem,
            (Err(Fault::Ended) | Ok(_), _) if self.interrupt.is_raised() => Problem::interrupted(),
            (Err(Fault::Ended), status) => ended_early("before its work was done", status),
            (Ok(_), status) => ended_early("after its last byte", status),
        };
        let is_its_own = problem.status != WebErrorStatus::OPERATION_CANCELED;
        let complaint = is_its_own.then(|| channel.last_complaint()).flatten();
        Err(self.failure(&problem, complaint.as_deref()))
    }

    /// From the first word to the last.
    fn talk(&mut self, channel: &mut Channel<'_>) -> Result<Outcome, Fault> {
        let limits = self.request.limits;
        let until = Instant::now() + limits.connect;
        // Whoever has closed its side already may have said why.
        allow_end(channel.say(&request_text(self.request), limits.connect))?;
        match said(channel, until, limits.connect)?.as_str() {
            HELLO => {}
            other => return Err(violation(&format!("not '{HELLO}' first, but '{other}'")).into()),
        }
        let resource = self.resource(channel)?;
        let (start, on_trust) = if self.starts_again {
            (Start::Restart(Restart::Changed), false)
        } else {
            start(self.request, &resource.validators, resource.can_continue)
        };
        let (content_type, validators) = (resource.content_type.as_deref(), &resource.validators);
        if let Some(failure) = refusal(self.request, &start, validators, content_type) {
            return Err(Fault::Failure(failure));
        }
        let mut body = Body {
            at: 0,
            len_bytes: validators.total_bytes.or(self.request.expected_bytes),
            is_announced: validators.total_bytes.is_some(),
            frame_bytes: 0,
            stall: limits.stall,
        };
        let head = self.head(start, on_trust, resource);
        if let Start::Continue { offset_bytes } = head.start {
            let tail = self.request.held.as_ref().map_or(&[][..], |held| &held.tail);
            body.at = offset_bytes.saturating_sub(tail.len() as u64);
            allow_end(channel.say(&format!("continue {}\n", body.at), limits.stall))?;
            if !body.repeats(channel, tail)? {
                return Ok(Outcome::OtherTail);
            }
            self.begin(&head)?;
        } else {
            self.begin(&head)?;
            allow_end(channel.say("whole\n", limits.stall))?;
        }
        while let Some(bytes) = body.next(channel, read_bytes(self.request))? {
            self.sink.write(bytes).map_err(|_| Problem::refused())?;
        }
        Ok(Outcome::Complete)
    }

    fn resource(&self, channel: &mut Channel<'_>) -> Result<Resource, Fault> {
        let limit = self.request.limits.response;
        let until = Instant::now() + limit;
        let mut resource = Resource::default();
        // Each line is a field, and each field comes once.
        loop {
            let line = said(channel, until, limit)?;
            if resource.take(&line).map_err(|what| violation(&what))? {
                return Ok(resource);
            }
        }
    }

    fn begin(&mut self, head: &Head) -> Result<(), Fault> {
        self.sink.begin(head).map_err(|_| Problem::refused().into())
    }

    fn head(&self, start: Start, on_trust: bool, resource: Resource) -> Head {
        let is_continued = matches!(start, Start::Continue { .. });
        let is_get = self.request.method.is_get();
        Head {
            start,
            actual_url: place(&self.request.url),
            status_code: if is_continued { 206 } else { 200 },
            resumable: Some(resource.can_continue && is_get),
            provable: is_get && is_provable(&resource.validators),
            on_trust,
            content_type: resource.content_type,
            modified: resource.validators.last_modified.as_deref().and_then(proof::date),
            mirrors: Vec::new(),
            headers: HeaderFields::default(),
            validators: resource.validators,
        }
    }

    /// Nothing comes after its last word but its end. One that it has started may hold its side of the socket open for longer,
    /// so that its own end counts, too.
    fn await_end(&self, socket: &UnixStream, channel: &mut Channel<'_>, process: &mut Process) -> Result<(), Fault> {
        // One that reads to the end of its input shall find it. An error means that it has gone already.
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let limit = self.request.limits.stall.min(END_MAX);
        let until = Instant::now() + limit;
        let left = || until.saturating_duration_since(Instant::now());
        let mut look = process::LOOK_MIN;
        while !left().is_zero() {
            let is_over = process.is_over();
            // What it said before it ended is there by then.
            if channel.expect_end(if is_over { Duration::ZERO } else { look.min(left()) })? {
                break;
            }
            if is_over {
                return Ok(());
            }
            look = (look * 2).min(process::LOOK_MAX);
        }
        if process.await_end(left(), self.interrupt) {
            return Ok(());
        }
        if self.interrupt.is_raised() {
            return Err(Problem::interrupted().into());
        }
        let text = format!("it did not end within {} s after 'end'", limit.as_secs_f32());
        Err(Problem::transient(WebErrorStatus::TIMEOUT, text).into())
    }

    fn without_secrets(&self, failure: &Failure) -> Failure {
        let message = harmless(&Secrets::of(self.request).hidden(&failure.message));
        Failure {
            message,
            ..failure.clone()
        }
    }

    /// What an error says: where it happened, in which program, and what that said last, without the secrets of the request.
    fn failure(&self, problem: &Problem, complaint: Option<&str>) -> Failure {
        let secrets = Secrets::of(self.request);
        let shown = |text: &str| harmless(&secrets.hidden(text));
        let name = self.program.file_name().unwrap_or_default().to_string_lossy();
        let mut text = format!("{name}: {}", shown(&problem.text));
        if let Some(complaint) = complaint {
            text = format!("{text}; its last words: {}", shown(complaint));
        }
        let problem = Problem {
            text,
            ..problem.clone()
        };
        problem.at(&place(&self.request.url))
    }
}

/// Runs of bytes, held to what was announced.
struct Body {
    /// Where in the resource the next byte belongs.
    at: u64,
    /// How long it is, or has to be.
    len_bytes: Option<u64>,
    /// The helper said so itself.
    is_announced: bool,
    /// What is left of the run under way.
    frame_bytes: usize,
    stall: Duration,
}

impl Body {
    /// The next bytes, so many at most; none after the last.
    fn next<'c>(&mut self, channel: &'c mut Channel<'_>, most: usize) -> Result<Option<&'c [u8]>, Fault> {
        if self.frame_bytes == 0 {
            let line = said(channel, Instant::now() + self.stall, self.stall)?;
            match Said::parse(&line).map_err(|what| violation(&what))? {
                Said::Data(count) => self.frame_bytes = count,
                Said::End => return self.end().map(|()| None),
            }
            let after = self.at.saturating_add(self.frame_bytes as u64);
            if let Some(len_bytes) = self.len_bytes.filter(|len_bytes| after > *len_bytes) {
                return Err(self.too_long(len_bytes).into());
            }
        }
        let bytes = channel.bytes(self.frame_bytes.min(most), self.stall)?;
        self.frame_bytes -= bytes.len();
        self.at += bytes.len() as u64;
        Ok(Some(bytes))
    }

    /// Whether the next bytes are these.
    fn repeats(&mut self, channel: &mut Channel<'_>, tail: &[u8]) -> Result<bool, Fault> {
        let mut rest = tail;
        while !rest.is_empty() {
            let Some(bytes) = self.next(channel, rest.len())? else {
                return Ok(false);
            };
            let Some(after) = rest.strip_prefix(bytes) else {
                return Ok(false);
            };
            rest = after;
        }
        Ok(true)
    }

    fn end(&self) -> Result<(), Fault> {
        match self.len_bytes.filter(|len_bytes| *len_bytes > self.at) {
            Some(len_bytes) if self.is_announced => {
                let text = format!("it ended after {} bytes, {len_bytes} were announced", self.at);
                Err(Problem::transient(WebErrorStatus::LENGTH_MISMATCH, text).into())
            }
            Some(len_bytes) => {
                let text = format!("it ended after {} bytes, {len_bytes} are expected", self.at);
                Err(Problem::permanent(WebErrorStatus::LENGTH_MISMATCH, text).into())
            }
            None => Ok(()),
        }
    }

    fn too_long(&self, len_bytes: u64) -> Problem {
        if self.is_announced {
            return violation(&format!("more than the {len_bytes} bytes that it announced"));
        }
        let text = format!("the resource has more than {len_bytes} bytes, which are expected");
        Problem::permanent(WebErrorStatus::LENGTH_MISMATCH, text)
    }
}

/// The next line, unless it reports a failure.
fn said(channel: &mut Channel<'_>, until: Instant, limit: Duration) -> Result<String, Fault> {
    let line = channel.line(until, limit)?;
    let Some(reported) = Reported::parse(&line) else {
        return Ok(line);
    };
    let reported = reported.map_err(|what| violation(&what))?;
    let problem = Problem {
        kind: reported.kind,
        status: reported.status,
        code: reported.code,
        text: format!("{}: {}", reported.status, reported.text),
    };
    Err(problem.into())
}

fn allow_end(result: Result<(), Fault>) -> Result<(), Fault> {
    match result {
        Err(Fault::Ended) => Ok(()),
        result => result,
    }
}

/// A program that is gone, or that this user may not execute, stays so; for a process there may be room later.
fn not_started(error: &std::io::Error) -> Problem {
    use std::io::ErrorKind::{NotFound, PermissionDenied};
    let text = format!("it could not be started: {error}");
    // ENOEXEC has no kind of its own.
    let is_no_program = error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error());
    if is_no_program || matches!(error.kind(), NotFound | PermissionDenied) {
        return Problem::permanent(WebErrorStatus::UNSUPPORTED_SCHEME, text);
    }
    Problem::transient(WebErrorStatus::CANNOT_CONNECT, text)
}

fn ended_early(when: &str, status: Option<ExitStatus>) -> Problem {
    let how = status.map_or("and was killed".into(), |status| format!("with {status}"));
    Problem::transient(WebErrorStatus::DISCONNECTED, format!("it ended {when}, {how}"))
}
