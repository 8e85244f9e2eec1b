//! One attempt: claim, fetch into the part file, report. Blocking, on a worker's thread or stepped.

mod gather;
mod intake;
mod stored;
mod verdict;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use backhaul_backends::{
    Backend, BodySource, Capabilities, Failure, FailureKind, Head, Held, Request, Restart, Start, Validators,
    WebErrorStatus,
};

use backhaul_journal::steps;

use self::gather::{CrewTerms, Watch};
use self::intake::overlong;
use self::stored::{given_by, stored_response, unstored};
use super::access::Gate;
use super::attempt::Attempt;
use super::body::StoredSource;
use super::core::Core;
use super::crew::{Crew, call};
use super::doubt;
use super::fault::Fault;
use super::ledger::{Basis, Ledger};
use super::origin::{self, Source};
use super::part::{Part, Sums, part_path, tail};
use super::proxied;
use super::ready::Ready;
use super::settle::{self, End};
use crate::config::Layout;
use crate::error::Error;
use crate::operation::{Doubt, Event, Operation, Response, Shared, Stretch, millis};
use crate::pieces::Pieces;
use crate::threads::{self, Role};
use crate::vault::{SealedName, Secrets};

/// Writeback is asked for in steps of this size, so that the sync of a claim finds most of it done (on ext4, 1 GiB with a
/// sync every 8 MiB took 0.39 s with such steps and 0.53 to 1.1 s without).
pub(super) const WRITEBACK_BYTES: u64 = 1 << 20;

/// A file of up to so many bytes is written without a look at the room there is for it: the first write or the second finds
/// out, and little was sent for nothing (chosen: what a socket takes in by itself).
const UNSEEN_BYTES_MAX: u64 = 64 << 10;

/// A file of up to so many bytes is in memory until all of it has come (chosen: 64 that wait to be written out are half a
/// megabyte; 4 MiB where the disk takes none of all that may wait for their names).
const DRAFT_BYTES_MAX: u64 = 8 << 10;

const TRANSIENT: FailureKind = FailureKind::Transient { retry_after: None };

/// Makes one attempt of an operation that was just claimed by this thread. Gives the complete file, which is to be handed
/// over to the publisher; where there is none, the attempt is over.
pub(crate) fn attempt(core: &Arc<Core>, operation: &Operation, attempt: &Arc<Attempt>) -> Option<Ready> {
    let mut transfer = Transfer::new(core, operation, attempt);
    let result = transfer.run();
    let settled = match result {
        Ok(ready) => return Some(ready),
        Err(end) => settle::attempt(core, operation.id, end),
    };
    if let Err(error) = settled {
        core.fail(error);
    }
    drop(transfer);
    core.attempt_is_over(operation.id);
    None
}

/// An attempt in progress: takes the bytes from the backend and brings them into the part file.
struct Transfer<'a> {
    core: &'a Arc<Core>,
    operation: &'a Operation,
    attempt: &'a Arc<Attempt>,
    generation: u32,
    part: Option<Part>,
    sums: Sums,
    received_bytes: u64,
    /// Up to here writeback was asked for.
    started_bytes: u64,
    /// Bytes of this generation that were claimed before this attempt.
    held_bytes: u64,
    /// What is held after the first gap.
    beyond: Vec<Stretch>,
    /// Some of the bytes continue others without proof.
    on_trust: bool,
    total_bytes: Option<u64>,
    source: Source,
    /// Who speaks the protocol of the source.
    backend: Option<Arc<dyn Backend>>,
    response: Option<Shared<Response>>,
    begun_at_ms: u64,
    /// What a further connection needs; where none may be opened, nothing.
    terms: Option<CrewTerms>,
    /// How the first connection is watched, while it is the only one.
    watch: Watch,
    crew: Option<Arc<Crew>>,
    /// The crew has one connection, and may have more.
    may_grow: bool,
    /// Those who read what is there meanwhile, and how much that is while there is no ledger.
    gate: Arc<Gate>,
    shown_bytes: Arc<AtomicU64>,
    /// The rest of this connection's response is others' work.
    is_done: bool,
    /// CRC-32 of all bytes, where some of them came over other connections.
    unseen_crc32: Option<u32>,
    ledger: Option<(Arc<Ledger>, Option<JoinHandle<()>>)>,
    fault: Option<Fault>,
}

impl<'a> Transfer<'a> {
    fn new(core: &'a Arc<Core>, operation: &'a Operation, attempt: &'a Arc<Attempt>) -> Self {
        let source = Source::new(operation);
        let backend = core.backends.by_scheme(source.scheme(operation)).cloned();
        Self {
            core,
            operation,
            attempt,
            generation: operation.generation,
            part: None,
            sums: Sums::new(&operation.spec, &[]),
            received_bytes: 0,
            started_bytes: 0,
            held_bytes: 0,
            beyond: Vec::new(),
            on_trust: false,
            total_bytes: None,
            source,
            backend,
            response: None,
            begun_at_ms: core.now().boot_ms,
            terms: None,
            watch: Watch {
                since_ms: core.now().boot_ms,
                from_bytes: 0,
            },
            crew: None,
            may_grow: false,
            gate: core.gates.gate(operation.id),
            shown_bytes: Arc::default(),
            is_done: false,
            unseen_crc32: None,
            ledger: None,
            fault: None,
        }
    }

    fn run(&mut self) -> Result<Ready, End> {
        self.remove_given_up()?;
        let looked = doubt::look(self.core, self.operation)?;
        let held = self.prove_held()?;
        if let Some(looked) = looked {
            // Before a part file is made, which would be taken for one that was there.
            self.core
                .record_durably(self.operation.id, looked)
                .map_err(Fault::from)?;
        }
        let request = self.request(held)?;
        let Some(backend) = self.backend.clone() else {
            let scheme = self.source.scheme(self.operation);
            let message = format!("no backend of this build speaks '{scheme}'");
            return Err(failure(
                FailureKind::Permanent,
                WebErrorStatus::UNSUPPORTED_SCHEME,
                message,
            ));
        };
        // Held until the end: it hands what is raised on to the first.
        let interrupt = self.attempt.interrupt.child();
        let first = interrupt.child();
        self.terms = Some(CrewTerms {
            backend: Arc::clone(&backend),
            request: Request {
                held: None,
                ..request.clone()
            },
            interrupt: interrupt.clone(),
            first: first.clone(),
        });
        let result = call(backend.as_ref(), &request, self, &first);
        let result = self.end_crew(result);
        let fault = self.close_ledger(result.is_err());
        match (result, self.fault.take().or(fault)) {
            (_, Some(fault)) => Err(End::Fault(fault)),
            (Err(failure), None) if self.has_gone_astray(&failure) => Err(self.astray(failure)),
            (Err(failure), None) => Err(End::Failure(failure)),
            (Ok(()), None) => self.finished(),
        }
    }

    /// What the backend of the source can do.
    fn can(&self) -> Capabilities {
        let backend = self.backend.as_ref();
        backend.map(|backend| backend.capabilities()).unwrap_or_default()
    }

    /// The part file of the generation before may have refused to go when it was given up; there is never more than one.
    fn remove_given_up(&self) -> Result<(), Fault> {
        let Some(before) = self.generation.checked_sub(1) else {
            return Ok(());
        };
        let (id, spec) = (self.operation.id, &self.operation.spec);
        let old = part_path(spec, self.core.journal.id(), id, before);
        settle::remove_given_up(self.core, &old)
    }

    /// Opens the part file and proves the claimed bytes. Where they cannot be proved, they are given up first.
    fn prove_held(&mut self) -> Result<Option<Held>, Fault> {
        let Some(claim) = self.operation.claim.clone() else {
            return Ok(None);
        };
        if claim.beyond.is_some() && self.backend.is_some() && !self.can().ranges {
            self.restart("its source fetches no gaps", claim.held_bytes())?;
            return Ok(None);
        }
        let path = self.part_path();
        let storage = &self.core.environment.storage;
        let error = self.operation.error.as_ref();
        let suspicious = self.operation.doubt == Some(Doubt::Unseen)
            || error.is_some_and(|error| error.status == WebErrorStatus::FILE_ACCESS.0);
        let interrupt = &self.attempt.interrupt;
        let reopened = Part::reopen(
            storage,
            path.clone(),
            &claim,
            suspicious,
            Sums::new(&self.operation.spec, &self.source.told),
            interrupt,
        );
        let reopened = reopened.map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => Fault::Superseded,
            _ => Fault::io("read", &path, &error),
        });
        let Some((part, sums)) = reopened? else {
            log::warn!(
                "{}: the {} bytes claimed of '{}' are gone or damaged",
                self.operation.id,
                claim.durable_bytes,
                path.display()
            );
            self.restart("stored bytes are gone or damaged", claim.held_bytes())?;
            return Ok(None);
        };
        let tail =
            tail(part.file.as_ref(), 0, claim.durable_bytes).map_err(|error| Fault::io("read", &path, &error))?;
        self.part = Some(part);
        self.sums = sums;
        self.received_bytes = claim.durable_bytes;
        self.started_bytes = claim.durable_bytes;
        self.held_bytes = claim.held_bytes();
        self.beyond = claim.beyond().to_vec();
        self.on_trust = claim.on_trust == Some(true);
        Ok(Some(Held {
            offset_bytes: claim.durable_bytes,
            end_bytes: self.beyond.first().map(|stretch| stretch.first),
            tail,
            validators: Validators {
                digests: self.source.told.clone(),
                ..unstored(&claim.validators)
            },
            foreign: self.source.is_foreign(),
            digest_expected: self.operation.spec.expects_strong_digest(),
            ..given_by(self.operation.response.as_deref())
        }))
    }

    fn request(&self, held: Option<Held>) -> Result<Request, Fault> {
        let spec = &self.operation.spec;
        let secrets = if spec.has_secrets {
            self.open_secrets()?
        } else {
            Secrets::default()
        };
        let url = self.source.url(self.operation, &secrets);
        let credential = secrets
            .credential()
            .filter(|_| origin::is_at_home(&url, self.operation));
        Ok(Request {
            proxies: proxied::proxies(&self.core.config, spec, &secrets)?,
            headers: if self.can().headers {
                origin::headers_for(&url, self.operation, &secrets)
            } else {
                Vec::new()
            },
            url,
            method: spec.method.clone(),
            body: self.body(),
            credential,
            held,
            expected_bytes: spec.expected_bytes,
            expected_type: spec.expected_type.clone(),
            limits: self.core.config.limits,
            buffer_bytes: self.core.config.buffer_bytes,
        })
    }

    fn body(&self) -> Option<Arc<dyn BodySource>> {
        let body = self.operation.spec.body.as_ref()?;
        let spool = Layout::new(&self.core.state_directory).spool();
        Some(Arc::new(StoredSource::new(&self.core.environment, &spool, body)))
    }

    fn open_secrets(&self) -> Result<Secrets, Fault> {
        let opened = self.core.vault.open(SealedName::of(self.operation));
        opened.map_err(|error| match error {
            // What the disk refuses now it may give later; what is not there, or was damaged, stays so.
            Error::Io(tried, path, cause) if cause.kind() != io::ErrorKind::NotFound => {
                Fault::io(&tried, &path, &cause)
            }
            error => Fault::unacceptable(WebErrorStatus::CREDENTIAL_UNAVAILABLE, error.to_string()),
        })
    }

    /// Gives up all bytes so far: durable before the first byte of the new generation is written.
    fn restart(&mut self, cause: &str, wasted_bytes: u64) -> Result<(), Fault> {
        let old = self.part_path();
        self.gate.show(None);
        self.attempt.set_durable(None);
        let lsn = {
            let mut state = self.core.state();
            let operation = state.table.find(self.operation.id).ok_or(Fault::Superseded)?;
            let event = settle::restarted(&operation, wasted_bytes, cause);
            self.core.record(&mut state, self.operation.id, event)?
        };
        if steps::is_taken("sync of a restart before its part goes") {
            self.core.sync(lsn)?;
        }
        log::info!("{}: starts again from zero: {cause}", self.operation.id);
        self.generation += 1;
        self.part = None;
        self.sums = Sums::new(&self.operation.spec, &[]);
        self.received_bytes = 0;
        self.started_bytes = 0;
        self.held_bytes = 0;
        self.beyond.clear();
        self.on_trust = false;
        settle::remove_given_up(self.core, &old)
    }

    fn accept(&mut self, head: &Head) -> Result<(), Fault> {
        if self.response.is_some() {
            return Err(Fault::Local("the backend began twice".into()));
        }
        self.require_access(head)?;
        self.source.accept(head)?;
        let is_within = head
            .validators
            .total_bytes
            .is_none_or(|total| total >= self.held_until());
        match head.start {
            Start::Continue { offset_bytes }
                if self.part.is_some() && offset_bytes == self.received_bytes && is_within => {}
            Start::Beginning if self.part.is_none() => {}
            Start::Restart(cause) => self.restart(cause_text(cause), self.held_bytes)?,
            _ => {
                return Err(Fault::Local(
                    "the backend went on at an offset that is not held, or lies beyond the end".into(),
                ));
            }
        }
        if self.received_bytes == 0 {
            self.sums = Sums::new(&self.operation.spec, &self.source.told);
        }
        self.total_bytes = head.validators.total_bytes;
        self.on_trust |= head.on_trust;
        let there_bytes = self.received_bytes + self.beyond.iter().map(Stretch::len_bytes).sum::<u64>();
        self.attempt.received_bytes.store(there_bytes, Ordering::Relaxed);
        self.attempt
            .total_bytes
            .store(self.total_bytes.unwrap_or(0), Ordering::Relaxed);
        let response = Shared::new(stored_response(head, &self.source, self.is_provable(head)));
        // Not synced: bytes count only once they are claimed, and every claim carries the validators again.
        self.core.record(
            &mut self.core.state(),
            self.operation.id,
            Event::Responded(response.clone()),
        )?;
        self.response = Some(response);
        self.make_room()?;
        let short_max = self.core.config.window.short_path_bytes_max;
        let short_max = if self.operation.spec.random_access {
            0
        } else {
            short_max
        };
        let is_large = |total: u64| total > short_max;
        if self.total_bytes.is_some_and(is_large) || !self.beyond.is_empty() {
            self.open_ledger()?;
            self.open_crew(head);
        } else {
            // Whoever is not asked whether it can be spread is not spread.
            self.terms = None;
            self.show();
        }
        Ok(())
    }

    /// Whether the whole file may be in memory until it has come. Where memory is limited nothing is set aside for that.
    fn fits_a_draft(&self) -> bool {
        let config = &self.core.config;
        let bytes_max = DRAFT_BYTES_MAX.min(config.window.short_path_bytes_max);
        let is_small = self.total_bytes.is_some_and(|total| total <= bytes_max);
        is_small && config.memory_limit.is_none() && !self.operation.spec.random_access
    }

    /// First byte after all that is held, gaps included.
    fn held_until(&self) -> u64 {
        self.beyond.last().map_or(self.received_bytes, |stretch| stretch.end)
    }

    /// Opens a fresh part file where none is held, and reserves the space that is still missing.
    fn make_room(&mut self) -> Result<(), Fault> {
        let storage = &self.core.environment.storage;
        let directory = self.operation.spec.directory();
        super::destination::check_roots(self.core, directory)?;
        let looked_at = self.total_bytes.filter(|total| *total > UNSEEN_BYTES_MAX);
        if let (None, Some(total)) = (&self.part, looked_at) {
            let available = storage
                .available_bytes(directory)
                .map_err(|error| Fault::io("look at", directory, &error))?;
            if available < total {
                let message = format!(
                    "'{}' has room for {available} bytes, and {total} are needed",
                    directory.display()
                );
                return Err(Fault::DiskFull(message));
            }
        }
        if self.part.is_none() {
            let path = self.part_path();
            self.part = Some(if self.fits_a_draft() {
                Part::draft(path, self.total_bytes)
            } else {
                Part::create(storage, path.clone()).map_err(|error| Fault::io("create", &path, &error))?
            });
        }
        match (&self.part, self.total_bytes) {
            (Some(part), Some(total)) if total > self.core.config.window.short_path_bytes_max => part
                .file
                .reserve(total)
                .map_err(|error| Fault::io("reserve space for", &part.path, &error)),
            _ => Ok(()),
        }
    }

    /// Leaves the short path: from here on bytes are claimed.
    fn open_ledger(&mut self) -> Result<(), Fault> {
        let (Some(part), Some(response)) = (self.part.clone(), self.response.clone()) else {
            return Err(Fault::Local("bytes came before a response".into()));
        };
        part.write_out(self.core.environment.storage.as_ref())?;
        let basis = Basis {
            id: self.operation.id,
            generation: self.generation,
            part,
            directory: self.operation.spec.directory().to_path_buf(),
            response,
            attempt: Arc::clone(self.attempt),
            gate: Arc::clone(&self.gate),
        };
        // What is claimed, and not what came since on the short path: that is claimed with the next step.
        let (claimed_bytes, crc32) = match &self.operation.claim {
            Some(claim) if self.held_bytes > 0 => (claim.durable_bytes, claim.crc32),
            _ => (0, 0),
        };
        let mut pieces = Pieces::new(claimed_bytes, crc32, &self.beyond, self.total_bytes);
        pieces.take_first();
        let ledger = Ledger::new(self.core, basis, pieces, self.on_trust);
        let claimer = self.core.is_threaded().then(|| {
            let ledger = Arc::clone(&ledger);
            threads::for_a(Role::Claimer).spawn(move || ledger.claim_until_closed())
        });
        let claimer = claimer
            .transpose()
            .map_err(|error| Fault::Local(format!("cannot start a thread: {error}")))?;
        self.ledger = Some((ledger, claimer));
        self.show();
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        // What is held has a part already, to which nothing belongs that no response has announced.
        let (Some(part), Some(_)) = (&self.part, &self.response) else {
            return Err(Fault::Local("bytes came before a response".into()));
        };
        if let Some(total) = self
            .total_bytes
            .filter(|total| total - self.received_bytes < bytes.len() as u64)
        {
            return Err(Fault::Source(overlong(total)));
        }
        let granted = match &self.ledger {
            Some((ledger, _)) => ledger.with_pieces(|pieces| pieces.grant_onward(0, bytes.len())),
            None => bytes.len(),
        };
        // What was left out of them is another's: after it nothing may be written.
        let is_cut = granted < bytes.len();
        let bytes = &bytes[..granted];
        part.file
            .write_all_at(bytes, self.received_bytes)
            .map_err(|error| Fault::io("write", &part.path, &error))?;
        self.sums.update(bytes);
        self.received_bytes += bytes.len() as u64;
        let unstarted_bytes = self.received_bytes - self.started_bytes;
        if unstarted_bytes >= WRITEBACK_BYTES {
            part.file.start_writeback(self.started_bytes, unstarted_bytes);
            self.started_bytes = self.received_bytes;
        }
        if self.ledger.is_none() && self.outgrew_the_short_path() {
            self.open_ledger()?;
        }
        let there_bytes = if let Some((ledger, _)) = &self.ledger {
            ledger.advance(0, self.received_bytes, self.sums.crc32())?;
            ledger.with_pieces(|pieces| {
                let is_at_end = self.received_bytes >= pieces.get(0).end;
                self.is_done = self.crew.is_some() && (is_cut || is_at_end && !pieces.extend(0));
                pieces.received_bytes()
            })
        } else {
            self.shown_bytes.store(self.received_bytes, Ordering::SeqCst);
            self.gate.announce();
            self.received_bytes
        };
        self.is_done |= self.crew.as_ref().is_some_and(|crew| crew.is_called_away(0));
        self.attempt.received_bytes.fetch_max(there_bytes, Ordering::Relaxed);
        if self.crew.is_none() || self.may_grow {
            self.watch_pace();
        }
        Ok(())
    }

    fn outgrew_the_short_path(&self) -> bool {
        let window = &self.core.config.window;
        let age_ms = self.core.now().boot_ms.saturating_sub(self.begun_at_ms);
        self.received_bytes > window.short_path_bytes_max || age_ms >= millis(window.unclaimed_age_max)
    }

    /// Ends the claims. After a failure everything that was received is claimed, so that the next attempt has it.
    fn close_ledger(&mut self, claim_rest: bool) -> Option<Fault> {
        if claim_rest && self.fault.is_none() && self.ledger.is_none() && self.received_bytes > self.held_bytes {
            if let Err(fault) = self.open_ledger() {
                return Some(fault);
            }
            if let Some((ledger, _)) = &self.ledger
                && let Err(fault) = ledger.advance(0, self.received_bytes, self.crc32())
            {
                return Some(fault);
            }
        }
        let (ledger, claimer) = self.ledger.take()?;
        self.account_for(&ledger);
        let fault = ledger.close();
        if let Some(claimer) = claimer {
            // A panic of the claimer has been printed; its bytes stay unclaimed.
            let _ = claimer.join();
        }
        let fault = fault.or_else(|| ledger.close());
        if fault.is_none() && claim_rest && self.fault.is_none() {
            return ledger.claim().err();
        }
        fault
    }

    fn part_path(&self) -> std::path::PathBuf {
        part_path(
            &self.operation.spec,
            self.core.journal.id(),
            self.operation.id,
            self.generation,
        )
    }
}

fn cause_text(cause: Restart) -> &'static str {
    match cause {
        Restart::Changed => "the resource changed",
        Restart::RangeIgnored => "the server sent the whole resource",
        Restart::NoProof => "nothing proves that new bytes continue the old ones",
        Restart::BeyondEnd => "the server says that the held bytes reach beyond the resource",
        Restart::Method => "the answer to another method than GET always comes whole",
        _ => "the server could not continue",
    }
}

fn failure(kind: FailureKind, status: WebErrorStatus, message: String) -> End {
    End::Failure(Failure {
        kind,
        status,
        code: None,
        message,
    })
}
