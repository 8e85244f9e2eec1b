//! What is recorded, and when that is durable.

use std::sync::PoisonError;

use backhaul_journal::{Lsn, Urgency, steps};

use super::core::{Core, State};
use super::watch::Changed;
use crate::error::Error;
use crate::operation::{BatchId, Entry, Event, Fact, Operation, Outcome, Rejected, TransferId, encode, encode_fact};

impl Core {
    /// Records an event; durable only after [`Core::sync`] of what it returns.
    pub(crate) fn record(&self, state: &mut State, id: TransferId, event: Event) -> Result<Lsn, Error> {
        self.record_as(state, id, event, Urgency::Critical)
    }

    pub(crate) fn record_as(
        &self,
        state: &mut State,
        id: TransferId,
        event: Event,
        urgency: Urgency,
    ) -> Result<Lsn, Error> {
        self.record_step(state, id, event, urgency).map(|(lsn, _)| lsn)
    }

    /// Records that the history has no room or time for an operation any more; gives it without its
    /// response.
    pub(super) fn forget(&self, state: &mut State, id: TransferId) -> Result<Option<Box<Operation>>, Error> {
        let forgotten = self.record_step(state, id, Event::Forgotten, Urgency::Critical)?;
        Ok(forgotten.1)
    }

    /// Gives the operation that has left with the event, too.
    fn record_step(
        &self,
        state: &mut State,
        id: TransferId,
        event: Event,
        urgency: Urgency,
    ) -> Result<(Lsn, Option<Box<Operation>>), Error> {
        let rejected = |rejected: Rejected| Error::NotNow {
            id,
            problem: rejected.to_string(),
        };
        let at_ms = self.environment.clock.wall_ms();
        let outcome = match &event {
            Event::Ended(outcome) => Some((*outcome == Outcome::Completed, matches!(outcome, Outcome::Failed(_)))),
            _ => None,
        };
        let fact = Fact { id, at_ms, event };
        state.record.clear();
        encode_fact(&fact, &mut state.record);
        let (lsn, left) = if let Event::Created { .. } = fact.event {
            let lsn = self.append(&state.record, urgency)?;
            state.table.apply(fact, lsn.0).map_err(rejected)?;
            (lsn, None)
        } else {
            let step = state.table.step(id, fact.event, at_ms).map_err(rejected)?;
            let lsn = self.append(&state.record, urgency)?;
            (lsn, state.table.take_step(step, lsn.0))
        };
        if let Some((is_completed, is_failure)) = outcome {
            state.ended += 1;
            state.failed += u64::from(is_failure);
            if state.table.is_chosen(id) {
                state.ends.push((id, is_completed));
            }
        }
        self.gates.announce(id);
        state.observers.changed(Changed::Operation(id));
        Ok((self.fire(state)?.unwrap_or(lsn), left))
    }

    /// Records that a batch of creations counts.
    pub(crate) fn commit(&self, state: &mut State, batch: BatchId) -> Result<Lsn, Error> {
        let lsn = self.append_entry(&Entry::Committed { batch }, Urgency::Normal)?;
        state.table.commit(batch);
        Ok(lsn)
    }

    pub(super) fn append_entry(&self, entry: &Entry, urgency: Urgency) -> Result<Lsn, Error> {
        let mut record = Vec::new();
        encode(entry, &mut record);
        self.append(&record, urgency)
    }

    fn append(&self, record: &[u8], urgency: Urgency) -> Result<Lsn, Error> {
        self.trouble.check()?;
        let lsn = self.journal.append(record, urgency)?;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(lsn);
        Ok(lsn)
    }

    /// Records an event and waits until it is durable.
    pub(crate) fn record_durably(&self, id: TransferId, event: Event) -> Result<(), Error> {
        self.record_durably_if(id, event, |_| Ok(()))
    }

    /// The same where `check` lets it, with nothing happening in between.
    pub(crate) fn record_durably_if(
        &self,
        id: TransferId,
        event: Event,
        check: impl FnOnce(&Operation) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let lsn = {
            let mut state = self.state();
            state.table.find(id).map_or(Ok(()), |operation| check(&operation))?;
            self.record(&mut state, id, event)?
        };
        if steps::is_taken("sync of a wish or of a failure") {
            self.sync(lsn)
        } else {
            Ok(())
        }
    }

    /// Waits until everything up to `lsn` is durable.
    pub(crate) fn sync(&self, lsn: Lsn) -> Result<(), Error> {
        self.journal.sync(lsn).map_err(Error::from)
    }

    /// Waits until everything recorded so far is durable.
    pub(crate) fn sync_all(&self) -> Result<(), Error> {
        // The lock is not held meanwhile: whoever appends takes it, with that of the state in his hands.
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.map_or(Ok(()), |lsn| self.sync(lsn))
    }
}
