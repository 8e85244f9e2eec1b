//! Facts that come after lost records: what such a fact proves is taken, although what led to it is not known.
//!
//! Only for operations in doubt, and only in a replay: what is recorded anew keeps to [`Operation::apply`].

use super::event::{Amendment, Event, OperationError, Outcome};
use super::state::{Operation, Phase, Wish};

/// Number of the status for local data that was damaged.
const LOCAL_DATA_DAMAGED: i32 = 1005;

impl Operation {
    /// The state after an event that [`Operation::apply`] refused; `None` where the operation is in no doubt, or the event
    /// proves nothing.
    pub(crate) fn mended(self, event: Event, at_ms: u64) -> Option<Self> {
        if self.doubt.is_none() || self.has_ended() {
            return None;
        }
        match event {
            // Only what has ended is removed, and only what has ended is acknowledged.
            Event::Removed | Event::Forgotten => Some(self),
            Event::Acknowledged => self.ended_somehow(at_ms).apply(event, at_ms).ok(),
            Event::Ended(Outcome::Completed) => Some(self.completed_somewhere(at_ms)),
            _ if !self.is_live() => None,
            Event::Started | Event::Resumed => Some(Self {
                wish: Wish::Run,
                ..self
            }),
            Event::Paused => Some(Self {
                wish: Wish::Pause,
                ..self
            }),
            Event::Ending(outcome) => Some(Self {
                phase: Phase::Ending(outcome),
                ..self
            }),
            // Only what nobody works on is changed.
            Event::Amended(Amendment::Made { .. }) => Self {
                phase: Phase::Ready,
                ..self
            }
            .apply(event, at_ms)
            .ok(),
            event => self.caught_up(&event)?.apply(event, at_ms).ok(),
        }
    }

    /// The operation as it must have been when a worker or the publisher recorded this.
    fn caught_up(self, event: &Event) -> Option<Self> {
        let generation = match event {
            Event::Progressed(claim) => claim.generation,
            Event::Publishing(intent) => intent.generation,
            Event::Restarted { generation, .. } => generation.checked_sub(1)?,
            Event::Claimed { .. }
            | Event::Responded(_)
            | Event::Released
            | Event::Waited { .. }
            | Event::Blocked { .. }
            | Event::Amended(Amendment::Needed(_)) => self.generation,
            _ => return None,
        };
        if generation < self.generation {
            return None;
        }
        let is_same = generation == self.generation;
        let wish = match (event, self.wish) {
            (Event::Claimed { .. }, _) | (_, Wish::Hold) => Wish::Run,
            (_, wish) => wish,
        };
        Some(Self {
            phase: Phase::Running,
            wish,
            generation,
            // What is known of an older generation never counts for a newer one.
            claim: self.claim.filter(|_| is_same),
            response: self.response.filter(|_| is_same),
            ..self
        })
    }

    /// It completed; under which name and with how many bytes is known only as far as it was asked for or announced.
    fn completed_somewhere(self, at_ms: u64) -> Self {
        Self {
            published_bytes: self.total_bytes(),
            claim: None,
            error: None,
            doubt: None,
            phase: Phase::Ended(Outcome::Completed),
            ended_at_ms: Some(at_ms),
            ..self
        }
    }

    /// It ended, and somebody was told how.
    fn ended_somehow(self, at_ms: u64) -> Self {
        let outcome = match &self.phase {
            Phase::Publishing(_) => Outcome::Completed,
            Phase::Ending(outcome) => outcome.clone(),
            _ => Outcome::Failed(OperationError {
                status: LOCAL_DATA_DAMAGED,
                code: None,
                message: "it has ended and was acknowledged; how it ended was lost with a part of the journal".into(),
            }),
        };
        match self.clone().apply(Event::Ended(outcome), at_ms) {
            Ok(ended) => ended,
            Err(_) => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::state::tests::{CLAIMED, after, claim, intent, made, needed, restarted, waited};
    use crate::operation::{Claim, Doubt, Shared};

    fn doubtful(events: &[Event]) -> Operation {
        Operation {
            doubt: Some(Doubt::Unseen),
            ..after(events)
        }
    }

    fn claim_of(generation: u32, durable_bytes: u64) -> Event {
        let Event::Progressed(claim) = claim(durable_bytes) else {
            unreachable!()
        };
        Event::Progressed(Shared::new(Claim {
            generation,
            ..(*claim).clone()
        }))
    }

    fn mended(state: Operation, event: Event) -> Operation {
        let shown = format!("{event:?} on {state:?}");
        assert!(state.clone().apply(event.clone(), 70_000).is_err(), "{shown}");
        state.mended(event, 70_000).unwrap_or_else(|| panic!("{shown}"))
    }

    #[test]
    fn nothing_is_mended_where_no_record_was_lost() {
        for event in crate::operation::state::tests::events() {
            assert_eq!(after(&[]).mended(event, 0), None);
        }
    }

    #[test]
    fn what_a_worker_recorded_proves_that_it_was_at_work() {
        let state = mended(doubtful(&[]), CLAIMED);
        assert_eq!((state.wish, state.phase), (Wish::Run, Phase::Running));
        let state = mended(doubtful(&[Event::Started]), claim(5));
        assert_eq!((state.durable_bytes(), state.phase), (5, Phase::Running));
        let state = mended(doubtful(&[Event::Started]), waited());
        assert!(matches!(state.phase, Phase::Waiting { .. }));
        let state = mended(doubtful(&[Event::Started]), intent());
        assert!(matches!(state.phase, Phase::Publishing(_)));
    }

    #[test]
    fn a_claim_of_an_older_generation_never_comes_back_and_one_of_a_newer_counts_alone() {
        let state = doubtful(&[Event::Started, CLAIMED, claim(10)]);
        let newer = mended(state.clone(), claim_of(2, 4));
        assert_eq!((newer.generation, newer.durable_bytes()), (2, 4));
        assert_eq!(newer.clone().mended(claim_of(1, 20), 0), None);
        assert_eq!(newer.mended(restarted(), 0), None, "generation 1 is over");
        let later = Event::Restarted {
            generation: 5,
            restarts: 5,
            bytes_wasted: 9,
            cause: "changed".into(),
        };
        let later = mended(state, later);
        assert_eq!((later.generation, later.claim, later.restarts), (5, None, 5));
    }

    #[test]
    fn an_end_that_is_proven_stays_an_end() {
        let running = doubtful(&[Event::Started, CLAIMED]);
        let done = mended(running.clone(), Event::Ended(Outcome::Completed));
        assert_eq!((done.phase, done.doubt), (Phase::Ended(Outcome::Completed), None));
        let told = mended(running.clone(), Event::Acknowledged);
        assert!(matches!(told.phase, Phase::Ended(Outcome::Failed(_))) && told.acknowledged_at_ms.is_some());
        let published = mended(doubtful(&[Event::Started, CLAIMED, intent()]), Event::Acknowledged);
        assert_eq!(published.phase, Phase::Ended(Outcome::Completed));
        assert!(running.clone().mended(Event::Removed, 0).is_some());
        let ended = mended(running, Event::Ended(Outcome::Completed));
        for event in [CLAIMED, claim(1), Event::Started, Event::Released] {
            assert_eq!(ended.clone().mended(event, 0), None);
        }
    }

    #[test]
    fn a_change_proves_that_nobody_worked_on_it_and_a_need_of_one_that_somebody_did() {
        let changed = mended(doubtful(&[Event::Started, CLAIMED, claim(5), intent()]), made());
        assert_eq!((&changed.phase, changed.sealed_revision), (&Phase::Ready, 1));
        assert_eq!(changed.durable_bytes(), 5, "it costs no bytes");
        let stopped = mended(doubtful(&[Event::Started]), needed());
        assert_eq!((stopped.phase, stopped.wish), (Phase::Recoverable, Wish::Run));
    }

    #[test]
    fn a_look_at_the_disk_ends_the_doubt_or_says_what_is_left_of_it() {
        let state = doubtful(&[Event::Started, CLAIMED]);
        let look = |unplaced| {
            state
                .clone()
                .apply(Event::Examined { unplaced }, 0)
                .map(|state| state.doubt)
        };
        assert_eq!(look(false), Ok(None));
        assert_eq!(look(true), Ok(Some(Doubt::Unplaced)));
    }
}
