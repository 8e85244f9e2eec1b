//! When one connection is not enough: whether others may be had, what they fetch, and what is left of it for the end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use backhaul_backends::{Backend, Failure, FailureKind, Head, Held, Interrupt, Request, Validators, WebErrorStatus};

use super::super::access::{Extent, Written};
use super::super::crew::{self, Crew, CrewEnd};
use super::super::fault::Fault;
use super::super::ledger::Ledger;
use super::super::part::{Sums, file_sums};
use super::Transfer;
use super::stored::{given_by, unstored};
use crate::operation::millis;

/// What a further connection asks for, and from whom.
pub(super) struct CrewTerms {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) request: Request,
    pub(super) interrupt: Interrupt,
    /// Ends the response of the first connection alone.
    pub(super) first: Interrupt,
}

/// Since when, and from how many bytes on, the first connection is measured.
#[derive(Clone, Copy)]
pub(super) struct Watch {
    pub(super) since_ms: u64,
    pub(super) from_bytes: u64,
}

impl Transfer<'_> {
    /// Whether the server gives what random access needs; said before anything of its response is kept.
    pub(super) fn require_access(&self, head: &Head) -> Result<(), Fault> {
        if !self.operation.spec.random_access {
            return Ok(());
        }
        let refused = |status, message: &str| {
            Err(Fault::Source(Failure {
                kind: FailureKind::Permanent,
                status,
                code: None,
                message: format!("random access is asked for, and {message}"),
            }))
        };
        match head.validators.total_bytes {
            None => refused(
                WebErrorStatus::MISSING_CONTENT_LENGTH_SUPPORT,
                "the server does not say how long the content is",
            ),
            // There is nothing of it to be asked for alone.
            Some(0) => Ok(()),
            Some(_) if !(head.resumable == Some(true) && self.can().ranges) => refused(
                WebErrorStatus::INSUFFICIENT_RANGE_SUPPORT,
                "the server does not say that it serves byte ranges",
            ),
            Some(_) if !self.is_provable(head) => refused(
                WebErrorStatus::INSUFFICIENT_RANGE_SUPPORT,
                "nothing that the server says can prove that two ranges are of one content",
            ),
            Some(_) => Ok(()),
        }
    }

    pub(super) fn is_provable(&self, head: &Head) -> bool {
        head.provable || self.operation.spec.expects_strong_digest()
    }

    /// Prepares for more connections, where they may be had, and begins with them, where they are wanted from the first
    /// byte on or gaps are left from before.
    pub(super) fn open_crew(&mut self, head: &Head) {
        // Connections that were told different things the last time, or brought them, are not asked again at the same time.
        let last = self.operation.error.as_ref().map(|error| error.status);
        let contradicted = [crew::changed().status, WebErrorStatus::DIGEST_MISMATCH];
        let has_contradicted = contradicted.iter().any(|status| last == Some(status.0));
        let may_spread =
            self.can().ranges && head.resumable == Some(true) && self.is_provable(head) && !has_contradicted;
        let steers = self.operation.spec.random_access && may_spread;
        let may_grow = may_spread && self.core.room.connections_max > 1;
        if self.beyond.is_empty() && !(may_grow || steers) {
            self.terms = None;
            return;
        }
        self.watch = Watch {
            since_ms: self.core.now().boot_ms,
            from_bytes: self.received_bytes,
        };
        let connections = &self.core.config.connections;
        let count = if may_spread && connections.at_once {
            self.core.room.connections_max
        } else {
            1
        };
        if count > 1 || steers || !self.beyond.is_empty() {
            self.gather(count);
            self.may_grow = steers && may_grow && count == 1;
        }
    }

    /// Cuts what is missing for so many connections, and opens all but this one.
    fn gather(&mut self, count: usize) {
        let (Some(terms), Some((ledger, _)), Some(part)) = (self.terms.take(), &self.ledger, &self.part) else {
            return;
        };
        let (Some(total_bytes), Some(response)) = (self.total_bytes, &self.response) else {
            return;
        };
        let bytes_min = self.core.config.connections.bytes_min.max(1);
        ledger.with_pieces(|pieces| pieces.spread(count, bytes_min));
        let held = Held {
            validators: Validators {
                digests: self.source.told.clone(),
                ..unstored(&response.validators)
            },
            digest_expected: self.operation.spec.expects_strong_digest(),
            ..given_by(Some(response))
        };
        let crew = Crew::new(
            terms.backend,
            terms.request,
            (held, total_bytes, bytes_min),
            part.clone(),
            Arc::clone(ledger),
            (Arc::clone(self.attempt), terms.interrupt),
        );
        crew.enter(0, terms.first);
        if self.core.is_threaded() {
            crew.hire(count - 1);
        }
        self.crew = Some(crew);
        self.show();
    }

    /// Shows what is there to those who read it.
    pub(super) fn show(&mut self) {
        let Some(part) = &self.part else { return };
        let extent = if let Some((ledger, _)) = &self.ledger {
            let crew = self.crew.as_ref().filter(|_| self.operation.spec.random_access);
            Extent::Pieces(Arc::downgrade(ledger), crew.map(Arc::downgrade))
        } else {
            self.shown_bytes = Arc::new(AtomicU64::new(self.received_bytes));
            Extent::Prefix(Arc::clone(&self.shown_bytes))
        };
        self.gate.show(Some(Written {
            generation: self.generation,
            end_bytes: self.total_bytes,
            file: Arc::clone(&part.file),
            path: part.path.clone(),
            extent,
        }));
    }

    /// Opens more connections, where one would take too long for the rest.
    pub(super) fn watch_pace(&mut self) {
        let connections = &self.core.config.connections;
        let Some(total) = self.total_bytes.filter(|_| self.terms.is_some() || self.may_grow) else {
            return;
        };
        let elapsed_ms = self.core.now().boot_ms.saturating_sub(self.watch.since_ms);
        if connections.at_once || !self.core.is_threaded() || elapsed_ms < millis(connections.after) {
            return;
        }
        let came = self.received_bytes.saturating_sub(self.watch.from_bytes).max(1);
        let rest_ms = u128::from(total.saturating_sub(self.received_bytes)) * u128::from(elapsed_ms) / u128::from(came);
        self.watch = Watch {
            since_ms: self.core.now().boot_ms,
            from_bytes: self.received_bytes,
        };
        if rest_ms > u128::from(millis(connections.rest_max)) {
            log::debug!("{}: more connections, {rest_ms} ms are left for one", self.operation.id);
            self.grow(self.core.room.connections_max);
        }
    }

    fn grow(&mut self, count: usize) {
        self.may_grow = false;
        match &self.crew {
            None => self.gather(count),
            Some(crew) => {
                crew.ledger.with_pieces(|pieces| pieces.spread(count, crew.bytes_min));
                crew.hire(count - 1);
            }
        }
    }

    /// After the end of this connection's response: helps the others, and waits for them.
    pub(super) fn end_crew(&mut self, result: Result<(), Failure>) -> Result<(), Failure> {
        let Some(crew) = self.crew.take() else { return result };
        let (was_called, _) = crew.release(0);
        let has_served = self.received_bytes > self.watch.from_bytes;
        match result {
            _ if self.fault.is_some() => crew.interrupt.raise(),
            Err(failure) if was_called && crew::is_own_doing(&failure) => crew.work(),
            Err(failure) if !(self.is_done || crew::is_accident(&failure) && has_served) => crew.retire(failure),
            _ => crew.work(),
        }
        match crew.join() {
            Ok(()) => Ok(()),
            Err(CrewEnd::Failure(failure)) => Err(failure),
            Err(CrewEnd::Fault(fault)) => {
                let failure = crew::changed();
                Fault::keep(&mut self.fault, fault);
                Err(failure)
            }
        }
    }

    /// Takes over what all connections together have brought, where this one has not seen it all.
    pub(super) fn account_for(&mut self, ledger: &Ledger) {
        let (received_bytes, crc32, beyond) = ledger.with_pieces(|pieces| pieces.held());
        self.on_trust |= ledger.is_on_trust();
        if beyond.is_empty() && received_bytes > self.received_bytes {
            self.unseen_crc32 = Some(crc32);
            self.received_bytes = received_bytes;
            self.beyond.clear();
        }
        if beyond.is_empty() {
            // The ledger goes, and all of it stays where it is.
            self.show();
        }
    }

    /// Reads what came over other connections, where a digest of the whole is expected.
    pub(super) fn read_again(&mut self) -> Result<(), Fault> {
        let (Some(crc32), Some(part)) = (self.unseen_crc32, &self.part) else {
            return Ok(());
        };
        let sums = Sums::new(&self.operation.spec, &self.source.told);
        if !sums.has_digests() {
            return Ok(());
        }
        let sums = file_sums(part.file.as_ref(), self.received_bytes, sums, &self.attempt.interrupt);
        let sums = sums.map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => Fault::Superseded,
            _ => Fault::io("read", &part.path, &error),
        })?;
        match sums.filter(|sums| sums.crc32() == crc32) {
            Some(sums) => self.sums = sums,
            None => {
                return Err(Fault::Local(format!(
                    "'{}' is not what was written to it",
                    part.path.display()
                )));
            }
        }
        Ok(())
    }
}
