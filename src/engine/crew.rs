//! Several connections for one transfer: each fetches a piece of the file at a time, under the same proof as a resume.
//!
//! Invariants: a byte is written at the place that the response's own proof gave it, and nowhere else; only the thread of
//! the attempt restarts a transfer, and only when no other connection is left.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use backhaul_backends::{
    Backend, Failure, FailureKind, Head, Held, Interrupt, Refused, Request, Restart, Sink, Start, WebErrorStatus, place,
};

use super::attempt::Attempt;
use super::fault::Fault;
use super::ledger::Ledger;
use super::part::{Part, tail};
use super::worker::WRITEBACK_BYTES;
use crate::pieces::Pieces;
use crate::threads::{self, Role};

/// Failures of one connection that are followed by another try at once, each after some bytes came.
const FAILURES_MAX: u32 = 8;

/// What the connections of one attempt share.
pub(super) struct Crew {
    pub(super) backend: Arc<dyn Backend>,
    /// What is asked for, without what is held.
    pub(super) request: Request,
    /// What is said of all that is held.
    pub(super) response: Held,
    pub(super) total_bytes: u64,
    pub(super) bytes_min: u64,
    pub(super) part: Part,
    pub(super) ledger: Arc<Ledger>,
    pub(super) attempt: Arc<Attempt>,
    /// Raised with that of the attempt, and alone where the connections contradict each other.
    pub(super) interrupt: Interrupt,
    /// A server said that the resource is another one now.
    has_changed: AtomicBool,
    /// A connection was called away from a response that it was given.
    was_steered: AtomicBool,
    /// What ends the response that a connection reads, by the piece that it fetches. Locked before the ledger.
    responses: Mutex<Vec<(usize, Interrupt)>>,
    failure: Mutex<Option<Failure>>,
    fault: Mutex<Option<Fault>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Crew {
    pub(super) fn new(
        backend: Arc<dyn Backend>,
        request: Request,
        (response, total_bytes, bytes_min): (Held, u64, u64),
        part: Part,
        ledger: Arc<Ledger>,
        (attempt, interrupt): (Arc<Attempt>, Interrupt),
    ) -> Arc<Self> {
        Arc::new(Self {
            backend,
            request,
            response,
            total_bytes,
            bytes_min,
            part,
            ledger,
            attempt,
            interrupt,
            has_changed: AtomicBool::new(false),
            was_steered: AtomicBool::new(false),
            responses: Mutex::new(Vec::new()),
            failure: Mutex::new(None),
            fault: Mutex::new(None),
            threads: Mutex::new(Vec::new()),
        })
    }

    /// Starts more connections, each on a thread of its own. Where no thread can be had, there are fewer.
    pub(super) fn hire(self: &Arc<Self>, count: usize) {
        for _ in 0..count {
            let crew = Arc::clone(self);
            match threads::for_a(Role::Segment).spawn(move || crew.work()) {
                Ok(thread) => self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread),
                Err(error) => {
                    log::warn!("a transfer goes on over fewer connections: {error}");
                    return;
                }
            }
        }
    }

    /// Fetches piece after piece until nothing is left to take, or this connection is of no use.
    pub(super) fn work(&self) {
        let mut failures = 0;
        while !self.interrupt.is_raised() {
            let Some(piece) = self.ledger.with_pieces(|pieces| pieces.take(self.bytes_min)) else {
                break;
            };
            let before = self.ledger.with_pieces(|pieces| pieces.get(piece).next);
            let result = self.fetch(piece);
            let (was_called, after) = self.release(piece);
            match result {
                Ok(()) => {}
                Err(failure) if was_called && is_own_doing(&failure) => {}
                // A connection that broke in mid-way is one of the accidents that this is all about.
                Err(failure) if after > before && failures < FAILURES_MAX && is_accident(&failure) => failures += 1,
                Err(failure) => {
                    self.retire(failure);
                    return;
                }
            }
        }
    }

    /// Keeps why a connection ended.
    pub(super) fn retire(&self, failure: Failure) {
        log::debug!("a connection of several ends: {failure}");
        let mut kept = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        // The one that says most. What one connection is refused for good another one is given: where any of them ended
        // by an accident, the next attempt finds out over one.
        if kept.as_ref().is_none_or(|kept| weight(kept) <= weight(&failure)) {
            *kept = Some(failure);
        }
    }

    /// Enters the response to be read for a piece, so that whoever reads it can be called away.
    pub(super) fn enter(&self, index: usize, response: Interrupt) {
        self.responses().push((index, response));
    }

    /// Gives a piece back; whether it was to be left for another one, and up to where it is there.
    pub(super) fn release(&self, index: usize) -> (bool, u64) {
        // Under this lock nobody calls away, so that a call never ends the response that comes after.
        let mut responses = self.responses();
        responses.retain(|(piece, _)| *piece != index);
        let (was_called, next) = self
            .ledger
            .with_pieces(|pieces| (pieces.release(index), pieces.get(index).next));
        self.was_steered.fetch_or(was_called, Ordering::Relaxed);
        (was_called, next)
    }

    /// Calls connections away for what somebody waits for and nobody is about to fetch: their responses end at once.
    pub(super) fn steer(&self) {
        let responses = self.responses();
        while let Some(called) = self.ledger.with_pieces(Pieces::call_away) {
            for (_, response) in responses.iter().filter(|(piece, _)| *piece == called) {
                response.raise();
            }
        }
    }

    /// Whether the connection that fetches a piece is to leave it; after each of its steps others may have to.
    pub(super) fn is_called_away(&self, index: usize) -> bool {
        if self.ledger.with_pieces(|pieces| pieces.has_wants()) {
            self.steer();
        }
        self.ledger.with_pieces(|pieces| pieces.is_called(index))
    }

    fn responses(&self) -> MutexGuard<'_, Vec<(usize, Interrupt)>> {
        self.responses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fetch(&self, index: usize) -> Result<(), Failure> {
        let response = self.interrupt.child();
        self.enter(index, response.clone());
        if self.ledger.with_pieces(|pieces| pieces.is_called(index)) {
            return Ok(());
        }
        let piece = self.ledger.with_pieces(|pieces| pieces.get(index));
        let tail = match tail(self.part.file.as_ref(), piece.first, piece.next) {
            Ok(tail) => tail,
            Err(error) => return Err(self.stop(Fault::io("read", &self.part.path, &error))),
        };
        let held = Held {
            offset_bytes: piece.next,
            end_bytes: Some(piece.end),
            tail,
            ..self.response.clone()
        };
        let request = Request {
            held: Some(held),
            ..self.request.clone()
        };
        let mut segment = Segment {
            crew: self,
            index,
            next: piece.next,
            asked_end: piece.end,
            crc: crc32fast::Hasher::new_with_initial_len(piece.crc32, piece.next - piece.first),
            started_bytes: piece.next,
            has_begun: false,
            end: None,
        };
        let result = call(self.backend.as_ref(), &request, &mut segment, &response);
        match (result, segment.end) {
            (_, Some(End::Fault(fault))) => Err(self.stop(fault)),
            (_, Some(End::Useless(why))) => Err(useless(why)),
            // Asked once more it could end like that for ever.
            (Ok(()), None) if segment.next < self.ledger.with_pieces(|pieces| pieces.get(index).end) => {
                Err(useless("the server gave less than the piece that was asked for"))
            }
            (_, Some(End::Complete)) | (Ok(()), None) => Ok(()),
            (Err(failure), None) => Err(failure),
        }
    }

    /// A fault of this side ends all connections.
    fn stop(&self, fault: Fault) -> Failure {
        Fault::keep(&mut self.fault.lock().unwrap_or_else(PoisonError::into_inner), fault);
        self.interrupt.raise();
        interrupted()
    }

    /// Ends what is under way: somebody was told that the resource changed, and the next attempt finds out.
    fn doubt(&self) {
        self.has_changed.store(true, Ordering::Relaxed);
        self.interrupt.raise();
    }

    /// Waits for the other connections. What is then missing was given up by all of them, and why.
    pub(super) fn join(&self) -> Result<(), CrewEnd> {
        loop {
            let thread = self.threads.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(thread) = thread else { break };
            // A panic of one has been printed; its piece stays open, and the transfer incomplete.
            let _ = thread.join();
        }
        if let Some(fault) = self.fault.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(CrewEnd::Fault(fault));
        }
        if self.ledger.with_pieces(|pieces| pieces.is_complete()) {
            return Ok(());
        }
        if self.attempt.interrupt.is_raised() {
            return Err(CrewEnd::Failure(interrupted()));
        }
        if self.has_changed.load(Ordering::Relaxed) {
            return Err(CrewEnd::Failure(changed()));
        }
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        Err(CrewEnd::Failure(match failure {
            // The response that was left for this one had been given: the next attempt finds out what is refused for good.
            Some(failure) if weight(&failure) < 2 && self.was_steered.load(Ordering::Relaxed) => useless(&format!(
                "a part was refused of what had been given: {}",
                failure.message
            )),
            Some(failure) => failure,
            None => useless("the connections ended before all was there"),
        }))
    }
}

/// Asks a backend. One that panics must not, and nothing is known of what it has left: only this attempt ends of it. A
/// program that is built to abort on a panic does.
pub(super) fn call(
    backend: &dyn Backend,
    request: &Request,
    sink: &mut dyn Sink,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let asked = catch_unwind(AssertUnwindSafe(|| backend.download(request, sink, interrupt)));
    // What it panicked with has been printed, and may hold secrets.
    asked.unwrap_or_else(|_| {
        Err(Failure {
            kind: FailureKind::Permanent,
            status: WebErrorStatus::UNEXPECTED_CLIENT_ERROR,
            code: None,
            message: format!("{}: the backend panicked, which is a defect of it", place(&request.url)),
        })
    })
}

/// How all connections together ended before all was there.
pub(super) enum CrewEnd {
    Fault(Fault),
    Failure(Failure),
}

/// How much a failure of one connection says of all.
fn weight(failure: &Failure) -> u8 {
    match failure.kind {
        FailureKind::Interrupted => 0,
        FailureKind::Permanent | FailureKind::StaleTarget => 1,
        _ => 2,
    }
}

/// It ended because this side ended it.
pub(super) fn is_own_doing(failure: &Failure) -> bool {
    matches!(failure.kind, FailureKind::Interrupted | FailureKind::SinkRefused)
}

/// Nothing that the server said, and so no reason not to ask again at once.
pub(super) fn is_accident(failure: &Failure) -> bool {
    matches!(failure.kind, FailureKind::Transient { retry_after: None }) && failure.code.is_none()
}

fn useless(why: &str) -> Failure {
    Failure {
        kind: FailureKind::Transient { retry_after: None },
        status: WebErrorStatus::UNEXPECTED_SERVER_ERROR,
        code: None,
        message: why.to_owned(),
    }
}

/// What the next attempt is told by: it asks over one connection what became of the resource.
pub(super) fn changed() -> Failure {
    useless("a connection was told that the resource has changed, while others were fetching it")
}

fn interrupted() -> Failure {
    Failure {
        kind: FailureKind::Interrupted,
        status: WebErrorStatus::OPERATION_CANCELED,
        code: None,
        message: "interrupted".to_owned(),
    }
}

/// One piece on its way into the file.
struct Segment<'a> {
    crew: &'a Crew,
    index: usize,
    next: u64,
    /// The response ends here by itself.
    asked_end: u64,
    crc: crc32fast::Hasher,
    started_bytes: u64,
    has_begun: bool,
    end: Option<End>,
}

enum End {
    /// The rest of the response is somebody else's now, or is left for later.
    Complete,
    /// The response does not continue what is held.
    Useless(&'static str),
    Fault(Fault),
}

impl Sink for Segment<'_> {
    fn begin(&mut self, head: &Head) -> Result<(), Refused> {
        if self.end.is_some() {
            return Err(Refused);
        }
        let is_ours = !std::mem::replace(&mut self.has_begun, true)
            && matches!(head.start, Start::Continue { offset_bytes } if offset_bytes == self.next)
            && head.validators.total_bytes == Some(self.crew.total_bytes);
        if is_ours {
            if head.on_trust {
                self.crew.ledger.note_trust();
            }
            return Ok(());
        }
        if head.start == Start::Restart(Restart::Changed) {
            self.crew.doubt();
        }
        self.end = Some(End::Useless("the server did not give the piece that was asked for"));
        Err(Refused)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        if !self.has_begun || self.end.is_some() {
            self.end.get_or_insert(End::Useless("bytes came before a response"));
            return Err(Refused);
        }
        let granted = self
            .crew
            .ledger
            .with_pieces(|pieces| pieces.grant(self.index, bytes.len()));
        let file = &self.crew.part.file;
        if let Err(error) = file.write_all_at(&bytes[..granted], self.next) {
            self.end = Some(End::Fault(Fault::io("write", &self.crew.part.path, &error)));
            return Err(Refused);
        }
        self.crc.update(&bytes[..granted]);
        self.next += granted as u64;
        let unstarted_bytes = self.next - self.started_bytes;
        if unstarted_bytes >= WRITEBACK_BYTES {
            file.start_writeback(self.started_bytes, unstarted_bytes);
            self.started_bytes = self.next;
        }
        let crc32 = self.crc.clone().finalize();
        if let Err(fault) = self.crew.ledger.advance(self.index, self.next, crc32) {
            self.end = Some(End::Fault(fault));
            return Err(Refused);
        }
        let (end, received) = self
            .crew
            .ledger
            .with_pieces(|pieces| (pieces.get(self.index).end, pieces.received_bytes()));
        // Several threads tell; the largest is the latest.
        self.crew.attempt.received_bytes.fetch_max(received, Ordering::Relaxed);
        if self.next >= end && end < self.asked_end || self.crew.is_called_away(self.index) {
            self.end = Some(End::Complete);
            return Err(Refused);
        }
        Ok(())
    }
}
