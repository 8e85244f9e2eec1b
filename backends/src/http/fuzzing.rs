//! Doors for fuzz targets to what servers say. Only with the feature `fuzzing`.

pub mod reuse;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::time::{Duration, SystemTime};

use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

use super::attempt::{Attempt, Phase};
use super::buffers::WireBuffers;
use super::connector::NoResolver;
use super::response::{self, Accepted, Ask, Body, Decision, Framing, Reply, Terms};
use super::target::Target;
use super::{HttpBackend, digests, links, settings};
use crate::proof::{self, Sameness};
use crate::{Backend, Digest, Failure, Held, Interrupt, Request, Restart, Sink, Start, Validators};

/// `bytes FIRST-LAST/TOTAL`: first, last and total, where the total is told.
#[must_use]
pub fn content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    response::parse_content_range(text).map(|range| (range.first, range.last, range.total))
}

/// `bytes */TOTAL`.
#[must_use]
pub fn unsatisfied_range(text: &str) -> Option<u64> {
    response::parse_unsatisfied_range(text)
}

/// A date in any of its three forms.
#[must_use]
pub fn date(text: &str) -> Option<SystemTime> {
    proof::date(text)
}

/// A date in the form that servers must send.
#[must_use]
pub fn shown_date(time: SystemTime) -> String {
    httpdate::fmt_http_date(time)
}

/// The digests of a field Repr-Digest or Content-Digest.
#[must_use]
pub fn repr_digest(text: &str) -> Vec<Digest> {
    digests::parse_dictionary(text)
}

/// The digests of the old field Digest.
#[must_use]
pub fn instance_digest(text: &str) -> Vec<Digest> {
    digests::parse_instance_digests(text)
}

/// The references of mirrors in a field Link, best first.
#[must_use]
pub fn duplicates(text: &str) -> Vec<String> {
    links::duplicates([text])
}

/// Whether two responses are proven to carry one representation, and whether they are proven not to.
#[must_use]
pub fn compare(held: &Validators, new: &Validators) -> (bool, bool) {
    let sameness = proof::compare(held, new);
    (sameness == Sameness::Same, sameness == Sameness::Different)
}

/// Where a redirect leads: what is requested, and what is shown and stored of it.
#[must_use]
pub fn redirect(base: &str, location: &str) -> Option<(String, String, String)> {
    let next = Target::parse(base).ok()?.0.join(location).ok()?;
    Some((next.as_str().to_owned(), next.place(), next.without_secrets()))
}

/// Header fields of a response, as sent.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "they are named after the header fields")]
pub struct Fields<'a> {
    pub status: u16,
    pub content_length: Option<u64>,
    pub content_range: Option<&'a str>,
    pub content_type: Option<&'a str>,
    pub etag: Option<&'a str>,
    pub last_modified: Option<&'a str>,
    pub date: Option<&'a str>,
    pub accept_ranges: Option<&'a str>,
    pub location: Option<&'a str>,
    pub retry_after: Option<&'a str>,
    pub repr_digest: Option<&'a str>,
}

/// What is made of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// Its body is taken: where it belongs, what identifies it, its length where known, and whether more must follow.
    Accepted {
        /// Where the bytes belong.
        start: Start,
        /// What identifies the representation.
        validators: Validators,
        /// Bytes that must come, where known.
        length: Option<u64>,
        /// They are not yet the rest.
        then_more: bool,
    },
    /// The rest must be asked for in another way.
    AskedRest,
    /// The whole must be asked for.
    AskedWhole(Restart),
    /// It leads elsewhere.
    Redirected(String),
    /// The attempt ends; whether it may be tried again, and not before which wait.
    Failed {
        /// A later attempt may succeed.
        is_transient: bool,
        /// The wait that the server asked for.
        retry_after: Option<Duration>,
    },
}

/// Whether the rest would be asked for, and what is made of a response to that, or to a request for the whole.
#[must_use]
pub fn decide(held: Option<&Held>, expected_bytes: Option<u64>, fields: &Fields<'_>, now: SystemTime) -> (bool, Made) {
    let terms = Terms {
        held,
        expected_bytes,
        is_elsewhere: false,
    };
    let ask = response::ask(terms);
    let text = |field: Option<&str>| field.map(str::to_owned);
    let reply = Reply {
        status: fields.status,
        framing: fields.content_length.map_or(Framing::Close, Framing::Length),
        foreign_coding: None,
        content_range: text(fields.content_range),
        content_type: text(fields.content_type),
        etag: text(fields.etag),
        last_modified: text(fields.last_modified),
        date: text(fields.date),
        accept_ranges: text(fields.accept_ranges),
        location: text(fields.location),
        retry_after: text(fields.retry_after),
        digests: fields.repr_digest.map(repr_digest).unwrap_or_default(),
        mirrors: Vec::new(),
    };
    let decision = response::decide(&ask, terms, &reply, now);
    (matches!(ask, Ask::Rest { .. }), Made::from(decision))
}

impl From<Decision> for Made {
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::Accept(Accepted {
                start,
                validators,
                body,
                ..
            }) => {
                let (length, then_more) = body.terms().unwrap_or((Some(0), false));
                debug_assert!(body == Body::Nothing || length != Some(0) || !then_more);
                Self::Accepted {
                    start,
                    validators,
                    length,
                    then_more,
                }
            }
            Decision::AskWhole(reason) => Self::AskedWhole(reason),
            Decision::AskRest(_) => Self::AskedRest,
            Decision::Redirect(location) => Self::Redirected(location),
            Decision::Fail(problem) => match problem.kind {
                crate::FailureKind::Transient { retry_after } => Self::Failed {
                    is_transient: true,
                    retry_after,
                },
                _ => Self::Failed {
                    is_transient: false,
                    retry_after: None,
                },
            },
        }
    }
}

thread_local! {
    static SERVER: RefCell<Script> = RefCell::default();
    static BACKEND: HttpBackend = HttpBackend::on(ureq::Agent::with_parts(
        settings("fuzzing".to_owned()),
        Scripted,
        NoResolver::new(),
    ));
}

/// What servers say, one answer for each connection, and what they were sent.
#[derive(Default)]
struct Script {
    answers: VecDeque<Vec<u8>>,
    piece_bytes: usize,
    requests: Vec<Sent>,
}

/// A request as a server got it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// The host that it was sent to.
    pub host: String,
    /// Its head.
    pub bytes: Vec<u8>,
}

/// Downloads from servers that say these bytes, one answer for each request, in pieces of at most so many bytes, and then
/// close in good order. Also gives the requests.
pub fn download(
    answers: &[&[u8]],
    piece_bytes: usize,
    request: &Request,
    sink: &mut dyn Sink,
) -> (Result<(), Failure>, Vec<Sent>) {
    SERVER.set(Script {
        answers: answers.iter().map(|answer| answer.to_vec()).collect(),
        piece_bytes: piece_bytes.max(1),
        requests: Vec::new(),
    });
    let result = BACKEND.with(|backend| backend.download(request, sink, &Interrupt::new()));
    (result, SERVER.take().requests)
}

/// Connects to the script of this thread.
#[derive(Debug)]
struct Scripted;

impl Connector<()> for Scripted {
    type Out = ScriptedWire;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<ScriptedWire>, ureq::Error> {
        let answer = SERVER.with_borrow_mut(|script| {
            let host = details.uri.host().unwrap_or_default().to_owned();
            let bytes = Vec::new();
            script.requests.push(Sent { host, bytes });
            script.answers.pop_front().unwrap_or_default()
        });
        Ok(Some(ScriptedWire {
            answer,
            taken: 0,
            // Small, so that its limit is met too; a whole head must fit, as in the real one.
            buffers: WireBuffers::new(super::HEAD_BYTES_MAX + 1024),
            is_tls: details.needs_tls(),
        }))
    }
}

#[derive(Debug)]
struct ScriptedWire {
    answer: Vec<u8>,
    taken: usize,
    buffers: WireBuffers,
    is_tls: bool,
}

impl Transport for ScriptedWire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        let sent = &self.buffers.output()[..amount];
        SERVER.with_borrow_mut(|script| {
            if let Some(request) = script.requests.last_mut() {
                request.bytes.extend_from_slice(sent);
            }
        });
        if let Some(attempt) = Attempt::current() {
            attempt.enter_phase(Phase::Response);
        }
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        let piece_bytes = SERVER.with_borrow(|script| script.piece_bytes);
        let room = self.buffers.input_append_buf();
        if room.is_empty() {
            return Err(io::Error::other("a line longer than the input buffer").into());
        }
        let left = &self.answer[self.taken..];
        let amount = left.len().min(room.len()).min(piece_bytes);
        room[..amount].copy_from_slice(&left[..amount]);
        self.taken += amount;
        self.buffers.input_appended(amount);
        if amount == 0
            && let Some(attempt) = Attempt::current()
        {
            attempt.note_end();
        }
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        // So each request has a connection, and an answer, of its own.
        false
    }

    fn is_tls(&self) -> bool {
        self.is_tls
    }
}
