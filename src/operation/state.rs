//! The life of an operation as a fold over its events: `state = events.fold(created, apply)`.
//!
//! The wish of the application and the phase of the engine are stored apart, so that neither hides the other. Events
//! carry absolute values, so that applying one twice changes nothing that counts.

use std::fmt;

use minicbor::{Decode, Encode};

use super::deadline::{Deadline, Now};
use super::event::{
    Amendment, BatchId, Claim, Condition, Event, Intent, OperationError, Outcome, Response, WaitReason,
};
use super::id::TransferId;
use super::shared::Shared;
use super::source::{Round, site};
use super::spec::Spec;

/// One stored transfer, as its events say.
#[derive(Clone, Debug, PartialEq, Eq, Decode)]
#[cbor(map)]
pub(crate) struct Operation {
    #[n(0)]
    pub(crate) id: TransferId,
    #[n(1)]
    pub(crate) spec: Shared<Spec>,
    /// Position among all operations ever created here: the LSN of its creation.
    #[n(2)]
    pub(crate) order: u64,
    #[n(3)]
    pub(crate) wish: Wish,
    #[n(4)]
    pub(crate) phase: Phase,
    /// Number of the part file; a restart takes the next one, so that an old claim can never vouch for new bytes.
    #[cbor(n(5), default, skip_if = "is_default")]
    pub(crate) generation: u32,
    /// What is durable of the current generation.
    #[n(6)]
    pub(crate) claim: Option<Shared<Claim>>,
    #[n(7)]
    pub(crate) response: Option<Shared<Response>>,
    #[cbor(n(8), default, skip_if = "is_default")]
    pub(crate) attempts: u32,
    /// Failed attempts since the last durable progress; decides back-off and giving up.
    #[cbor(n(9), default, skip_if = "is_default")]
    pub(crate) failures_in_row: u32,
    #[cbor(n(10), default, skip_if = "is_default")]
    pub(crate) restarts: u32,
    #[cbor(n(11), default, skip_if = "is_default")]
    pub(crate) bytes_wasted: u64,
    /// The last error, also of an attempt that is retried.
    #[n(12)]
    pub(crate) error: Option<Shared<OperationError>>,
    /// Wall clock, milliseconds since 1970.
    #[n(13)]
    pub(crate) created_at_ms: u64,
    #[n(14)]
    pub(crate) ended_at_ms: Option<u64>,
    #[n(15)]
    pub(crate) acknowledged_at_ms: Option<u64>,
    /// Length of the published file.
    #[n(16)]
    pub(crate) published_bytes: Option<u64>,
    /// Inode of the published file: another file of that length under its name is another file.
    #[cbor(n(25), default)]
    pub(crate) published_inode: Option<u64>,
    /// Where the file was published, where that is not the destination asked for (`unique`).
    #[cbor(n(17), with = "minicbor::bytes")]
    pub(crate) published_name: Option<Vec<u8>>,
    /// The most bytes that were ever durable, in any generation. Only more than that is progress: a server that always
    /// cuts at the same byte and cannot continue must not be asked for ever.
    #[cbor(n(18), default, skip_if = "is_default")]
    pub(crate) best_bytes: u64,
    /// Created as one of a batch that is not committed yet; it does not count.
    #[n(19)]
    pub(crate) batch: Option<BatchId>,
    /// Records that spoke of it may have been lost with a part of the journal.
    #[n(20)]
    pub(crate) doubt: Option<Doubt>,
    /// Which of the sealed files of this operation counts; every change of its secrets takes a new one.
    #[cbor(n(21), default, skip_if = "is_default")]
    pub(crate) sealed_revision: u32,
    /// How far its sources were gone through since the last back-off.
    #[cbor(n(24), default, skip_if = "is_default")]
    pub(crate) round: Round,
    /// The LSN at which it went to the front of its transfer group; the last one to do so stands first.
    #[n(22)]
    pub(crate) promoted: Option<u64>,
}

/// What is not known of an operation after a salvage of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Doubt {
    /// Anything: what the disk holds of it has not been looked at since.
    #[n(0)]
    Unseen,
    /// Whether the file under its final name is its own.
    #[n(1)]
    Unplaced,
}

/// What the application wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Wish {
    /// Created, not started.
    #[n(0)]
    Hold,
    /// To be transferred.
    #[n(1)]
    Run,
    /// To stand still.
    #[n(2)]
    Pause,
}

/// What the engine has got to.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Phase {
    /// May be claimed by a worker.
    #[n(0)]
    Ready,
    /// A worker is on it.
    #[n(1)]
    Running,
    /// Waits until a time.
    #[n(2)]
    Waiting {
        #[n(0)]
        until: Deadline,
        #[n(1)]
        reason: WaitReason,
    },
    /// Waits for the system; looked at again at `probe_at`.
    #[n(3)]
    Blocked {
        #[n(0)]
        condition: Condition,
        #[n(1)]
        probe_at: Deadline,
        /// Room that there was, in bytes, where that is the condition and the need is not known.
        #[n(2)]
        room_bytes: Option<u64>,
        /// When an attempt is made whatever the look says.
        #[n(3)]
        try_at: Deadline,
    },
    /// All bytes are durable; the final name is being given.
    #[n(4)]
    Publishing(#[n(0)] Intent),
    /// It will end so, once its part file is gone.
    #[n(5)]
    Ending(#[n(0)] Outcome),
    /// It has ended so.
    #[n(6)]
    Ended(#[n(0)] Outcome),
    /// It failed with an error that its owner can mend, and waits for that; all bytes stay.
    #[n(7)]
    Recoverable,
}

/// An event that does not fit the state. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejected {
    /// What was refused, as a verb.
    pub(crate) event: &'static str,
    /// What the operation is.
    pub(crate) state: &'static str,
}

impl fmt::Display for Rejected {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "an operation that {} cannot be {}", self.state, self.event)
    }
}

impl Operation {
    /// The operation right after its creation.
    pub(crate) fn created(id: TransferId, spec: Shared<Spec>, order: u64, at_ms: u64) -> Self {
        Self {
            id,
            spec,
            order,
            wish: Wish::Hold,
            phase: Phase::Ready,
            generation: 0,
            claim: None,
            response: None,
            attempts: 0,
            failures_in_row: 0,
            restarts: 0,
            bytes_wasted: 0,
            error: None,
            created_at_ms: at_ms,
            ended_at_ms: None,
            acknowledged_at_ms: None,
            published_bytes: None,
            published_inode: None,
            published_name: None,
            best_bytes: 0,
            batch: None,
            doubt: None,
            sealed_revision: 0,
            round: Round::default(),
            promoted: None,
        }
    }

    /// The state after one more event, recorded at `at_ms` on the wall clock.
    ///
    /// # Errors
    /// [`Rejected`] where the event does not fit; the state is as before.
    pub(crate) fn apply(self, event: Event, at_ms: u64) -> Result<Self, Rejected> {
        match event {
            Event::Created { .. } => Err(self.rejects("created")),
            Event::Started | Event::Paused | Event::Resumed => self.wish(&event),
            Event::Claimed { attempts } => self.claimed(attempts),
            Event::Responded(response) if self.is_running() => Ok(Self {
                response: Some(response),
                ..self
            }),
            Event::Responded(_) => Err(self.rejects("answered")),
            Event::Progressed(claim) => self.progressed(claim),
            Event::Restarted {
                generation,
                restarts,
                bytes_wasted,
                cause: _,
            } => self.restarted(generation, restarts, bytes_wasted),
            Event::Released | Event::Waited { .. } | Event::Blocked { .. } => self.let_go(event),
            Event::Publishing(intent) => self.publishing(intent),
            // The final name may be given already.
            Event::Ending(Outcome::Canceled) if matches!(self.phase, Phase::Publishing(_)) => {
                Err(self.rejects("canceled"))
            }
            Event::Ending(outcome) if self.is_live() => Ok(Self {
                phase: Phase::Ending(outcome),
                ..self
            }),
            Event::Ending(_) => Err(self.rejects("ended")),
            Event::Ended(outcome) => self.ended(outcome, at_ms),
            Event::Acknowledged if self.has_ended() => Ok(Self {
                acknowledged_at_ms: self.acknowledged_at_ms.or(Some(at_ms)),
                ..self
            }),
            Event::Acknowledged => Err(self.rejects("acknowledged")),
            Event::Removed | Event::Forgotten if self.has_ended() => Ok(self),
            Event::Removed | Event::Forgotten => Err(self.rejects("removed")),
            Event::Examined { unplaced } if self.is_live() && self.doubt.is_some() => Ok(Self {
                doubt: unplaced.then_some(Doubt::Unplaced),
                ..self
            }),
            Event::Examined { .. } => Err(self.rejects("examined")),
            Event::Amended(amendment) => self.amended(amendment),
            // Where that is depends on when it was recorded, which the table knows.
            Event::Promoted if self.is_live() => Ok(self),
            Event::Promoted => Err(self.rejects("moved to the front")),
        }
    }

    /// The state at the start of an engine: no worker is on it any more, and its deadlines are on this boot's clock.
    pub(crate) fn reopened(mut self, now: Now) -> Self {
        match &mut self.phase {
            Phase::Running => self.phase = Phase::Ready,
            Phase::Waiting { until, .. } => *until = until.rebased(now),
            Phase::Blocked { probe_at, try_at, .. } => {
                *probe_at = probe_at.rebased(now);
                *try_at = try_at.rebased(now);
            }
            _ => {}
        }
        self.round = self.round.at(now);
        self
    }

    /// Whether [`Operation::reopened`] may change anything.
    pub(crate) fn is_reopened_otherwise(&self) -> bool {
        matches!(
            self.phase,
            Phase::Running | Phase::Waiting { .. } | Phase::Blocked { .. }
        ) || !self.round.is_default()
    }

    /// It is over, and nothing of it is left to do.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }

    /// It has neither ended nor begun to end.
    pub(crate) fn is_live(&self) -> bool {
        !matches!(self.phase, Phase::Ended(_) | Phase::Ending(_))
    }

    /// It is live, and nobody works on it: what is asked for may be changed.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.is_live() && !matches!(self.phase, Phase::Running | Phase::Publishing(_))
    }

    fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running)
    }

    /// The moment that ends its wait, if it waits for one.
    pub(crate) fn deadline(&self) -> Option<Deadline> {
        match (&self.phase, self.wish) {
            (Phase::Waiting { until: deadline, .. } | Phase::Blocked { probe_at: deadline, .. }, Wish::Run) => {
                Some(*deadline)
            }
            _ => None,
        }
    }

    /// The moments at which something is tried, earliest first, if it waits for any.
    pub(crate) fn next_looks(&self) -> impl Iterator<Item = Deadline> + use<> {
        let try_at = match (&self.phase, self.wish) {
            (Phase::Blocked { try_at, .. }, Wish::Run) => Some(*try_at),
            _ => None,
        };
        self.deadline().into_iter().chain(try_at)
    }

    /// It waited for a moment that has come.
    pub(crate) fn wait_is_over(&self, now: Now) -> bool {
        matches!(self.phase, Phase::Waiting { until, .. } if until.rebased(now).boot_ms() <= now.boot_ms)
    }

    /// Durable bytes of the current generation.
    pub(crate) fn durable_bytes(&self) -> u64 {
        self.published_bytes
            .or(self.claim.as_ref().map(|claim| claim.held_bytes()))
            .unwrap_or(0)
    }

    /// Complete length, where known.
    pub(crate) fn total_bytes(&self) -> Option<u64> {
        self.published_bytes
            .or_else(|| {
                self.response
                    .as_ref()
                    .and_then(|response| response.validators.total_bytes)
            })
            .or(self.spec.expected_bytes)
    }

    /// Bytes of room that one blocked by a full disk needs before another attempt is worth its cost: the whole file where
    /// nothing is held and its length is known; else some more than the `room_bytes` that there were, as its part file
    /// may have its room already.
    pub(crate) fn room_needed(&self, room_bytes: Option<u64>) -> u64 {
        const SOME: u64 = 1 << 20;
        match (self.total_bytes(), &self.claim) {
            (Some(total), None) => total,
            _ => room_bytes.unwrap_or(0).saturating_add(SOME),
        }
    }

    fn wish(self, event: &Event) -> Result<Self, Rejected> {
        let (word, wish) = match (event, self.wish) {
            (Event::Started, Wish::Hold) => ("started", Some(Wish::Run)),
            (Event::Paused, Wish::Run) => ("paused", Some(Wish::Pause)),
            (Event::Resumed, Wish::Run | Wish::Pause) => ("resumed", Some(Wish::Run)),
            (Event::Started, _) => ("started", None),
            (Event::Paused, _) => ("paused", None),
            (_, _) => ("resumed", None),
        };
        match wish {
            Some(wish) if self.is_live() => {
                let ends_wait = matches!(event, Event::Resumed) && self.wish == Wish::Run;
                let phase = match self.phase {
                    Phase::Waiting { .. } | Phase::Blocked { .. } if ends_wait => Phase::Ready,
                    // Whoever lets it go on has mended it, or wants to see, whether he had paused it besides or not.
                    Phase::Recoverable if matches!(event, Event::Resumed) => Phase::Ready,
                    phase => phase,
                };
                Ok(Self { wish, phase, ..self })
            }
            _ => Err(self.rejects(word)),
        }
    }

    fn claimed(self, attempts: u32) -> Result<Self, Rejected> {
        match (&self.phase, self.wish) {
            // A running one is claimed anew after a crash took its worker.
            (Phase::Ready | Phase::Running | Phase::Waiting { .. } | Phase::Blocked { .. }, Wish::Run) => Ok(Self {
                phase: Phase::Running,
                attempts,
                ..self
            }),
            _ => Err(self.rejects("claimed")),
        }
    }

    fn progressed(self, claim: Shared<Claim>) -> Result<Self, Rejected> {
        let held = self.claim.as_ref().map_or(0, |claim| claim.held_bytes());
        let bytes = claim.held_bytes();
        if !self.is_running() || claim.generation != self.generation || bytes < held {
            return Err(self.rejects("continued"));
        }
        let is_progress = bytes > self.best_bytes;
        // The source that gave them is worth waiting for again.
        let stays = if is_progress { 0 } else { self.round.stays };
        Ok(Self {
            round: Round { stays, ..self.round },
            failures_in_row: if is_progress { 0 } else { self.failures_in_row },
            best_bytes: self.best_bytes.max(bytes),
            claim: Some(claim),
            ..self
        })
    }

    fn restarted(self, generation: u32, restarts: u32, bytes_wasted: u64) -> Result<Self, Rejected> {
        let may = matches!(
            self.phase,
            Phase::Running | Phase::Publishing(_) | Phase::Ready | Phase::Blocked { .. }
        );
        if !may || generation != self.generation.wrapping_add(1) {
            return Err(self.rejects("restarted"));
        }
        let phase = match self.phase {
            Phase::Publishing(_) => Phase::Ready,
            phase => phase,
        };
        Ok(Self {
            phase,
            generation,
            restarts,
            bytes_wasted,
            claim: None,
            response: None,
            ..self
        })
    }

    fn let_go(self, event: Event) -> Result<Self, Rejected> {
        if !matches!(self.phase, Phase::Running | Phase::Publishing(_)) {
            return Err(self.rejects("let go"));
        }
        Ok(match event {
            Event::Waited {
                until,
                reason,
                failures_in_row,
                error,
                round,
            } => Self {
                phase: Phase::Waiting { until, reason },
                round: round.unwrap_or(self.round),
                failures_in_row,
                error: Some(error),
                ..self
            },
            Event::Blocked {
                condition,
                probe_at,
                error,
                room_bytes,
                try_at,
            } => Self {
                phase: Phase::Blocked {
                    condition,
                    probe_at,
                    room_bytes,
                    try_at,
                },
                error: Some(error),
                ..self
            },
            _ => Self {
                phase: Phase::Ready,
                ..self
            },
        })
    }

    fn amended(self, amendment: Amendment) -> Result<Self, Rejected> {
        match amendment {
            Amendment::Needed(error) if self.is_running() => Ok(Self {
                phase: Phase::Recoverable,
                // What comes after it is a new beginning, with all its attempts and sources.
                failures_in_row: 0,
                round: Round::default(),
                error: Some(error),
                ..self
            }),
            Amendment::Needed(_) => Err(self.rejects("let go")),
            Amendment::Made { spec, sealed_revision } => self.changed(spec, sealed_revision),
        }
    }

    fn changed(self, spec: Shared<Spec>, sealed_revision: u32) -> Result<Self, Rejected> {
        // Where the file goes and whose it is stays: others may have taken another place meanwhile.
        let fixed = |spec: &Spec| {
            (
                spec.destination.clone(),
                spec.app.clone(),
                spec.group.clone(),
                spec.completion_group,
            )
        };
        let stays = fixed(&spec) == fixed(&self.spec);
        if !stays || !self.is_live() || matches!(self.phase, Phase::Publishing(_)) {
            return Err(self.rejects("changed"));
        }
        let phase = match self.phase {
            // A crash took its worker, and no record tells of that but this one: only what is at rest is changed.
            Phase::Running => Phase::Ready,
            phase => phase,
        };
        // What failed under another URL or with other headers says nothing of the next attempt.
        let before = (&self.spec.url, &self.spec.headers, self.sealed_revision);
        let is_other_request = before != (&spec.url, &spec.headers, sealed_revision);
        // Servers make up entity tags and times on their own.
        let claim = if site(&self.spec.url) == site(&spec.url) {
            self.claim
        } else {
            self.claim.map(|claim| Shared::new(claim.after_url_changed()))
        };
        Ok(Self {
            phase,
            claim,
            failures_in_row: if is_other_request { 0 } else { self.failures_in_row },
            round: if is_other_request { Round::default() } else { self.round },
            spec,
            sealed_revision,
            ..self
        })
    }

    fn publishing(self, intent: Intent) -> Result<Self, Rejected> {
        if !matches!(self.phase, Phase::Running | Phase::Publishing(_)) || intent.generation != self.generation {
            return Err(self.rejects("published"));
        }
        Ok(Self {
            phase: Phase::Publishing(intent),
            ..self
        })
    }

    fn ended(self, outcome: Outcome, at_ms: u64) -> Result<Self, Rejected> {
        let mut next = match (&self.phase, &outcome) {
            (Phase::Publishing(intent), Outcome::Completed) => {
                let published_bytes = Some(intent.len_bytes);
                let published_inode = Some(intent.inode);
                let asked = self
                    .spec
                    .destination
                    .file_name()
                    .map(std::os::unix::ffi::OsStrExt::as_bytes);
                let published_name = (asked != Some(&intent.final_name[..])).then(|| intent.final_name.clone());
                Self {
                    published_bytes,
                    published_inode,
                    published_name,
                    claim: None,
                    error: None,
                    ..self
                }
            }
            (Phase::Ended(_), _) | (_, Outcome::Completed) => return Err(self.rejects("ended")),
            (_, Outcome::Canceled) => self,
            (_, Outcome::Failed(error)) => Self {
                error: Some(Shared::new(error.clone())),
                ..self
            },
        };
        next.doubt = None;
        next.phase = Phase::Ended(outcome);
        next.ended_at_ms = Some(at_ms);
        Ok(next)
    }

    fn rejects(&self, event: &'static str) -> Rejected {
        let state = match (&self.phase, self.wish) {
            (Phase::Ended(Outcome::Completed), _) => "is completed",
            (Phase::Ended(Outcome::Canceled) | Phase::Ending(Outcome::Canceled), _) => "is canceled",
            (Phase::Ended(_) | Phase::Ending(_), _) => "has failed",
            (Phase::Publishing(_), _) => "is being published",
            (Phase::Running, _) => "is running",
            (Phase::Recoverable, _) => "waits for its owner to mend it",
            (_, Wish::Hold) => "is not started",
            (_, Wish::Pause) => "is paused",
            (Phase::Ready, Wish::Run) => "is queued",
            (Phase::Waiting { .. } | Phase::Blocked { .. }, Wish::Run) => "waits",
        };
        Rejected { event, state }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
pub(super) mod tests;
