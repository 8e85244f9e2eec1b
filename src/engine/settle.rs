//! What follows from an attempt or a publication that failed: one event, durable.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backhaul_backends::{Failure, FailureKind, WebErrorStatus};
use backhaul_journal::{Lsn, steps};

use super::core::Core;
use super::fault::Fault;
use super::part::part_path;
use crate::error::Error;
use crate::mirrors::{self, Failed, Turn};
use crate::operation::{
    Amendment, Condition, Deadline, Event, Operation, OperationError, Outcome, Phase, Round, Shared, TransferId,
    WaitReason, directory_of, millis,
};
use crate::retry::{Decision, decide};

/// How often the delay between two looks for the room that a name needs doubles: from 5 s to 640 s by default.
const ROOM_DOUBLINGS_MAX: u32 = 7;

/// Why an attempt did not bring the whole resource.
pub(crate) enum End {
    Failure(Failure),
    Fault(Fault),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Records what follows from an attempt that did not bring the whole resource, durably.
pub(crate) fn attempt(core: &Arc<Core>, id: TransferId, end: End) -> Result<(), Error> {
    let recorded = match end {
        // Pause, stop and cancel end an attempt without a failure.
        End::Failure(Failure {
            kind: FailureKind::Interrupted,
            ..
        }) => record_if_held(core, id, Event::Released),
        End::Failure(failure) => failed(core, id, failure),
        End::Fault(fault) => fault_soon(core, id, fault),
    };
    sync(core, recorded?)
}

/// Records what follows from a fault of this side, durably.
pub(crate) fn fault(core: &Arc<Core>, id: TransferId, fault: Fault) -> Result<(), Error> {
    let recorded = fault_soon(core, id, fault)?;
    sync(core, recorded)
}

/// Makes durable what was recorded of failures, where anything was.
pub(super) fn sync(core: &Core, recorded: Option<Lsn>) -> Result<(), Error> {
    match recorded {
        Some(lsn) if steps::is_taken("sync of a wish or of a failure") => core.sync(lsn),
        _ => Ok(()),
    }
}

/// The same as [`fault`]; durable only after [`sync`] of what it returns, which several faults may share.
pub(super) fn fault_soon(core: &Arc<Core>, id: TransferId, fault: Fault) -> Result<Option<Lsn>, Error> {
    match fault {
        Fault::Engine(error) => Err(error),
        Fault::Superseded => record_if_held(core, id, Event::Released),
        Fault::Unacceptable(error) => end_failed(core, id, error),
        Fault::Source(failure) => failed(core, id, failure),
        Fault::DiskFull(message) => await_room(core, id, message),
        Fault::Local(message) => {
            let status = WebErrorStatus::FILE_ACCESS;
            let operation = core.find(id);
            let last = operation.as_ref().and_then(|operation| operation.error.as_ref());
            // A second failure of this device's own files in a row is no chance event any more.
            let kind = match last {
                Some(last) if last.status == status.0 => FailureKind::Permanent,
                _ => FailureKind::Transient { retry_after: None },
            };
            failed_here(
                core,
                id,
                Failure {
                    kind,
                    status,
                    code: None,
                    message,
                },
            )
        }
    }
}

/// A source failed: another one may do better.
fn failed(core: &Arc<Core>, id: TransferId, mut failure: Failure) -> Result<Option<Lsn>, Error> {
    let offline = failure.kind == FailureKind::Unreachable && !core.environment.network.is_online();
    let operation = core.find(id);
    let operation = operation.filter(|operation| operation.source_count() > 1 && !offline);
    let Some(operation) = operation.filter(|_| failure.kind != FailureKind::ClockNotSet) else {
        return failed_here(core, id, failure);
    };
    let claim = operation.claim.as_ref().filter(|_| !operation.knows_strong_digest());
    let tried = Failed {
        source: operation.source(),
        sources: operation.source_count(),
        for_good: failure.kind == FailureKind::Permanent,
        rest_until: wanted_rest(&failure).map(|asked| {
            let policy = &core.config.retry;
            let rest = asked.clamp(policy.retry_after_min, policy.retry_after_max);
            Deadline::after(core.now(), millis(rest))
        }),
        bound_to: claim.map(|claim| claim.origin),
    };
    match mirrors::after(operation.round.at(core.now()), tried) {
        Turn::Next(round) => {
            log::info!("{id}: {}; another source is tried", failure.message);
            let now = Deadline::after(core.now(), 0);
            let error = stored(failure);
            let waited = waited(now, WaitReason::BackOff, operation.failures_in_row, error, Some(round));
            record_if_held(core, id, waited)
        }
        Turn::BackOff(round) => {
            if tried.for_good {
                // Others of the round may still answer.
                failure.kind = FailureKind::Transient { retry_after: None };
            }
            give_time(core, id, failure, Some(round))
        }
        Turn::Rest(round, until_ms) => {
            let rest_ms = until_ms.saturating_sub(core.now().boot_ms);
            failure.kind = FailureKind::Transient {
                retry_after: Some(Duration::from_millis(rest_ms)),
            };
            give_time(core, id, failure, Some(round))
        }
        Turn::OtherBackOff(round) => {
            failure.kind = FailureKind::Transient { retry_after: None };
            give_time(core, id, failure, Some(round))
        }
        Turn::GiveUp => failed_here(core, id, failure),
    }
}

/// How long the server wants to be left alone.
fn wanted_rest(failure: &Failure) -> Option<Duration> {
    match failure.kind {
        FailureKind::Transient { retry_after } => retry_after,
        _ => None,
    }
}

fn stored(failure: Failure) -> OperationError {
    OperationError::new(failure.status.0, failure.code, failure.message)
}

/// No other source would change anything.
fn failed_here(core: &Arc<Core>, id: TransferId, failure: Failure) -> Result<Option<Lsn>, Error> {
    give_time(core, id, failure, None)
}

fn give_time(core: &Arc<Core>, id: TransferId, failure: Failure, round: Option<Round>) -> Result<Option<Lsn>, Error> {
    let (failures_in_row, is_repeated) = core.state().table.find(id).map_or((1, false), |operation| {
        let last = operation.error.as_ref().filter(|_| operation.failures_in_row > 0);
        let is_repeated = last.is_some_and(|last| last.status == failure.status.0);
        (operation.failures_in_row + 1, is_repeated)
    });
    let jitter = core.environment.random.fraction();
    let online = failure.kind != FailureKind::Unreachable || core.environment.network.is_online();
    let retry = &core.config.retry;
    let decision = decide(&failure, failures_in_row, is_repeated, online, jitter, retry);
    let error = stored(failure);
    log::info!("{id}: {}: {decision:?}", error.message);
    let deadline = |delay: Duration| Deadline::after(core.now(), millis(delay));
    let event = match decision {
        Decision::Fail => return end_failed(core, id, error),
        Decision::Retry { after, reason } => waited(deadline(after), reason, failures_in_row, error, round),
        Decision::AwaitNetwork { probe_after } => Event::Blocked {
            condition: Condition::NoNetwork,
            probe_at: deadline(probe_after),
            error: Shared::new(error),
            room_bytes: None,
            try_at: deadline(core.config.retry.delay_max),
        },
    };
    record_if_held(core, id, event)
}

fn waited(
    until: Deadline,
    reason: WaitReason,
    failures_in_row: u32,
    error: OperationError,
    round: Option<Round>,
) -> Event {
    Event::Waited {
        until,
        reason,
        failures_in_row,
        error: Shared::new(error),
        round,
    }
}

/// Waits for room. Bytes that cannot be continued would only take the room that is waited for, so they go.
fn await_room(core: &Arc<Core>, id: TransferId, message: String) -> Result<Option<Lsn>, Error> {
    let Some(operation) = core.find(id) else {
        return Ok(None);
    };
    if let Phase::Publishing(_) = operation.phase {
        // The complete file has its intent, and needs room for no more than a name: it stays, and is finished later.
        let mut state = core.state();
        let doublings = state.table.finish_failures(id).min(ROOM_DOUBLINGS_MAX);
        let delay = core.config.retry.probe_every * 2_u32.pow(doublings);
        state.table.postpone_finish(id, core.now(), delay);
        log::warn!("{id}: {message}");
        return Ok(None);
    }
    let can_continue =
        operation.claim.is_some() && operation.response.as_ref().is_some_and(|response| response.resumable);
    if !can_continue {
        if let Some(claim) = &operation.claim {
            let cause = "there was no room, and the server cannot continue";
            let recorded = record_if_held(core, id, restarted(&operation, claim.held_bytes(), cause))?;
            // Before its part goes.
            sync(core, recorded)?;
        }
        let path = part_path(&operation.spec, core.journal.id(), id, operation.generation);
        if let Err(fault) = remove_given_up(core, &path) {
            log::warn!("{id}: {fault}");
        }
    }
    let event = Event::Blocked {
        condition: Condition::DiskFull,
        probe_at: Deadline::after(core.now(), millis(core.config.retry.probe_every)),
        error: Shared::new(OperationError::new(WebErrorStatus::DISK_FULL.0, None, message)),
        room_bytes: core
            .environment
            .storage
            .available_bytes(operation.spec.directory())
            .ok(),
        try_at: Deadline::after(core.now(), millis(core.config.retry.delay_max)),
    };
    record_if_held(core, id, event)
}

/// All bytes so far are given up; totals grow by what is wasted.
pub(crate) fn restarted(operation: &Operation, wasted_bytes: u64, cause: &str) -> Event {
    Event::Restarted {
        generation: operation.generation + 1,
        restarts: operation.restarts + 1,
        bytes_wasted: operation.bytes_wasted + wasted_bytes,
        cause: cause.into(),
    }
}

/// Records, unless somebody ended the operation meanwhile.
fn record_if_held(core: &Arc<Core>, id: TransferId, event: Event) -> Result<Option<Lsn>, Error> {
    match core.record(&mut core.state(), id, event) {
        Err(Error::NotNow { .. }) => Ok(None),
        result => result.map(Some),
    }
}

/// Begins the end of an operation; the scheduler sees to the rest. Where its owner can mend the error, it stops instead,
/// with all its bytes.
fn end_failed(core: &Arc<Core>, id: TransferId, error: OperationError) -> Result<Option<Lsn>, Error> {
    let is_recoverable = {
        let state = core.state();
        let operation = state.table.find(id);
        operation.is_some_and(|operation| operation.spec.recoverable.contains(&error.status))
    };
    let event = if is_recoverable {
        Event::Amended(Amendment::Needed(Shared::new(error)))
    } else {
        Event::Ending(Outcome::Failed(error))
    };
    record_if_held(core, id, event)
}

/// Removes the part file of a generation that was given up, durably: else, after two power cuts, more of them could be
/// left than the next attempt looks for.
pub(crate) fn remove_given_up(core: &Core, path: &Path) -> Result<(), Fault> {
    let directory = directory_of(path);
    if !remove_if_there(core, path)? || !steps::is_taken("directory sync after a given-up part is removed") {
        return Ok(());
    }
    settle_directory(core, directory)
}

/// Makes durable what was removed in a directory.
pub(crate) fn settle_directory(core: &Core, directory: &Path) -> Result<(), Fault> {
    match core.environment.storage.sync_directory(directory) {
        // What was in it is gone with it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => result.map_err(|error| Fault::io("sync", directory, &error))?,
    }
    core.state().settled.insert(directory.to_path_buf());
    Ok(())
}

/// Removes a file of ours; one that is gone already is as good, and `false`.
pub(crate) fn remove_if_there(core: &Core, path: &Path) -> Result<bool, Fault> {
    match core.environment.storage.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Fault::io("remove", path, &error)),
        Ok(()) => {
            core.state().settled.remove(directory_of(path));
            Ok(true)
        }
    }
}
