//! The life of an operation as a fold over its events: `state = events.fold(created, apply)`.
//!
//! The wish of the application and the phase of the engine are stored apart, so that neither hides the other. Events
//! carry absolute values, so that applying one twice changes nothing that counts.

use std::fmt;
use std::os::unix::ffi::OsStrExt;

use minicbor::decode::Error as DecodeError;
use minicbor::{Decode, Decoder, Encode};

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
#[cbor(map, context_bound = "AsRef<Extent>")]
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
    #[cbor(n(7), default, decode_with = "response_within")]
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

/// How much of a stored operation is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    Whole,
    /// All but what the server said, which is more than half of it.
    WithoutResponse,
}

impl AsRef<Extent> for Extent {
    fn as_ref(&self) -> &Extent {
        self
    }
}

/// What is written is written whole.
impl AsRef<Extent> for () {
    fn as_ref(&self) -> &Extent {
        &Extent::Whole
    }
}

fn response_within<C: AsRef<Extent>>(
    decoder: &mut Decoder<'_>,
    extent: &mut C,
) -> Result<Option<Shared<Response>>, DecodeError> {
    match extent.as_ref() {
        Extent::Whole => decoder.decode_with(extent),
        Extent::WithoutResponse => decoder.skip().map(|()| None),
    }
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
    /// [`Rejected`] where the event does not fit.
    pub(crate) fn apply(mut self, event: Event, at_ms: u64) -> Result<Self, Rejected> {
        self.advance(event, at_ms)?;
        Ok(self)
    }

    /// The same in its place.
    ///
    /// # Errors
    /// [`Rejected`] where the event does not fit; the state is as before.
    pub(crate) fn advance(&mut self, event: Event, at_ms: u64) -> Result<(), Rejected> {
        match event {
            Event::Created { .. } => return Err(self.rejects("created")),
            Event::Started | Event::Paused | Event::Resumed => self.wish(&event)?,
            Event::Claimed { attempts } => self.claimed(attempts)?,
            Event::Responded(response) if self.is_running() => self.answered(response),
            Event::Responded(_) => return Err(self.rejects("answered")),
            Event::Progressed(claim) => self.progressed(claim)?,
            Event::Restarted {
                generation,
                restarts,
                bytes_wasted,
                cause: _,
            } => self.restarted(generation, restarts, bytes_wasted)?,
            Event::Released | Event::Waited { .. } | Event::Blocked { .. } => self.let_go(event)?,
            Event::Publishing(intent) => self.publishing(intent)?,
            // The final name may be given already.
            Event::Ending(Outcome::Canceled) if matches!(self.phase, Phase::Publishing(_)) => {
                return Err(self.rejects("canceled"));
            }
            Event::Ending(outcome) if self.is_live() => self.phase = Phase::Ending(outcome),
            Event::Ending(_) => return Err(self.rejects("ended")),
            Event::Ended(outcome) => self.ended(outcome, at_ms)?,
            Event::Acknowledged if self.has_ended() => {
                self.acknowledged_at_ms.get_or_insert(at_ms);
            }
            Event::Acknowledged => return Err(self.rejects("acknowledged")),
            Event::Removed | Event::Forgotten => self.may_leave()?,
            Event::Examined { unplaced } if self.is_live() && self.doubt.is_some() => {
                self.doubt = unplaced.then_some(Doubt::Unplaced);
            }
            Event::Examined { .. } => return Err(self.rejects("examined")),
            Event::Amended(amendment) => self.amended(amendment)?,
            // Where that is depends on when it was recorded, which the table knows.
            Event::Promoted if self.is_live() => {}
            Event::Promoted => return Err(self.rejects("moved to the front")),
        }
        Ok(())
    }

    /// Whether it may be removed or forgotten.
    ///
    /// # Errors
    /// [`Rejected`] where it has not ended.
    pub(crate) fn may_leave(&self) -> Result<(), Rejected> {
        if self.has_ended() {
            Ok(())
        } else {
            Err(self.rejects("removed"))
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

    fn wish(&mut self, event: &Event) -> Result<(), Rejected> {
        let (word, wish) = match (event, self.wish) {
            (Event::Started, Wish::Hold) => ("started", Some(Wish::Run)),
            (Event::Paused, Wish::Run) => ("paused", Some(Wish::Pause)),
            (Event::Resumed, Wish::Run | Wish::Pause) => ("resumed", Some(Wish::Run)),
            (Event::Started, _) => ("started", None),
            (Event::Paused, _) => ("paused", None),
            (_, _) => ("resumed", None),
        };
        let Some(wish) = wish.filter(|_| self.is_live()) else {
            return Err(self.rejects(word));
        };
        let is_resumed = matches!(event, Event::Resumed);
        let is_over = match self.phase {
            Phase::Waiting { .. } | Phase::Blocked { .. } => is_resumed && self.wish == Wish::Run,
            // Whoever lets it go on has mended it, or wants to see, whether he had paused it besides or not.
            Phase::Recoverable => is_resumed,
            _ => false,
        };
        if is_over {
            self.phase = Phase::Ready;
        }
        self.wish = wish;
        Ok(())
    }

    fn claimed(&mut self, attempts: u32) -> Result<(), Rejected> {
        match (&self.phase, self.wish) {
            // A running one is claimed anew after a crash took its worker.
            (Phase::Ready | Phase::Running | Phase::Waiting { .. } | Phase::Blocked { .. }, Wish::Run) => {
                self.phase = Phase::Running;
                self.attempts = attempts;
                Ok(())
            }
            _ => Err(self.rejects("claimed")),
        }
    }

    fn progressed(&mut self, claim: Shared<Claim>) -> Result<(), Rejected> {
        let held = self.claim.as_ref().map_or(0, |claim| claim.held_bytes());
        let bytes = claim.held_bytes();
        if !self.is_running() || claim.generation != self.generation || bytes < held {
            return Err(self.rejects("continued"));
        }
        if bytes > self.best_bytes {
            // The source that gave them is worth waiting for again.
            self.round.stays = 0;
            self.failures_in_row = 0;
            self.best_bytes = bytes;
        }
        self.claim = Some(claim);
        Ok(())
    }

    fn restarted(&mut self, generation: u32, restarts: u32, bytes_wasted: u64) -> Result<(), Rejected> {
        let may = matches!(
            self.phase,
            Phase::Running | Phase::Publishing(_) | Phase::Ready | Phase::Blocked { .. }
        );
        if !may || generation != self.generation.wrapping_add(1) {
            return Err(self.rejects("restarted"));
        }
        if matches!(self.phase, Phase::Publishing(_)) {
            self.phase = Phase::Ready;
        }
        self.generation = generation;
        self.restarts = restarts;
        self.bytes_wasted = bytes_wasted;
        self.claim = None;
        self.response = None;
        Ok(())
    }

    fn let_go(&mut self, event: Event) -> Result<(), Rejected> {
        if !matches!(self.phase, Phase::Running | Phase::Publishing(_)) {
            return Err(self.rejects("let go"));
        }
        self.phase = match event {
            Event::Waited {
                until,
                reason,
                failures_in_row,
                error,
                round,
            } => {
                self.round = round.unwrap_or(self.round);
                self.failures_in_row = failures_in_row;
                self.error = Some(error);
                Phase::Waiting { until, reason }
            }
            Event::Blocked {
                condition,
                probe_at,
                error,
                room_bytes,
                try_at,
            } => {
                self.error = Some(error);
                Phase::Blocked {
                    condition,
                    probe_at,
                    room_bytes,
                    try_at,
                }
            }
            _ => Phase::Ready,
        };
        Ok(())
    }

    fn amended(&mut self, amendment: Amendment) -> Result<(), Rejected> {
        match amendment {
            Amendment::Needed(error) if self.is_running() => {
                self.phase = Phase::Recoverable;
                // What comes after it is a new beginning, with all its attempts and sources.
                self.failures_in_row = 0;
                self.round = Round::default();
                self.error = Some(error);
                Ok(())
            }
            Amendment::Needed(_) => Err(self.rejects("let go")),
            Amendment::Made { spec, sealed_revision } => self.changed(spec, sealed_revision),
        }
    }

    fn changed(&mut self, spec: Shared<Spec>, sealed_revision: u32) -> Result<(), Rejected> {
        // Where the file goes and whose it is stays: others may have taken another place meanwhile.
        let before = &*self.spec;
        let stays = (&spec.destination, &spec.app) == (&before.destination, &before.app)
            && (&spec.group, spec.completion_group) == (&before.group, before.completion_group);
        if !stays || !self.is_live() || matches!(self.phase, Phase::Publishing(_)) {
            return Err(self.rejects("changed"));
        }
        // What failed under another URL or with other headers says nothing of the next attempt.
        let request = (&before.url, &before.headers, self.sealed_revision);
        let is_another = request != (&spec.url, &spec.headers, sealed_revision);
        if is_another {
            self.failures_in_row = 0;
            self.round = Round::default();
        }
        // Servers make up entity tags and times on their own.
        if site(&before.url) != site(&spec.url)
            && let Some(claim) = &self.claim
        {
            self.claim = Some(Shared::new(claim.after_url_changed()));
        }
        // A crash took its worker, and no record tells of that but this one: only what is at rest is changed.
        if self.is_running() || is_another && matches!(self.phase, Phase::Waiting { .. }) {
            self.phase = Phase::Ready;
        }
        self.spec = spec;
        self.sealed_revision = sealed_revision;
        Ok(())
    }

    fn publishing(&mut self, intent: Intent) -> Result<(), Rejected> {
        if !matches!(self.phase, Phase::Running | Phase::Publishing(_)) || intent.generation != self.generation {
            return Err(self.rejects("published"));
        }
        self.phase = Phase::Publishing(intent);
        Ok(())
    }

    fn ended(&mut self, outcome: Outcome, at_ms: u64) -> Result<(), Rejected> {
        match (&self.phase, &outcome) {
            (Phase::Publishing(intent), Outcome::Completed) => {
                let asked = self.spec.destination.file_name().map(OsStrExt::as_bytes);
                self.published_bytes = Some(intent.len_bytes);
                self.published_inode = Some(intent.inode);
                self.published_name = (asked != Some(&intent.final_name[..])).then(|| intent.final_name.clone());
                self.claim = None;
                self.error = None;
            }
            (Phase::Ended(_), _) | (_, Outcome::Completed) => return Err(self.rejects("ended")),
            (_, Outcome::Canceled) => {}
            (_, Outcome::Failed(error)) => self.error = Some(Shared::new(error.clone())),
        }
        self.doubt = None;
        self.phase = Phase::Ended(outcome);
        self.ended_at_ms = Some(at_ms);
        Ok(())
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
