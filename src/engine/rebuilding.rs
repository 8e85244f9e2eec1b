//! The table as the journal tells it.

use backhaul_journal::{Lsn, Replay, ReplayError};

use super::scratch::Shelving;
use crate::operation::{Entry, decode};
use crate::table::Table;

/// Rebuilds the table from the journal's records.
#[derive(Default)]
pub(crate) struct Rebuilding {
    pub(crate) table: Table,
    /// Where packed operations go; in memory where `None`.
    shelving: Option<Shelving>,
}

impl Rebuilding {
    pub(super) fn on(shelving: Option<Shelving>) -> Self {
        let table = shelving.as_ref().map(|shelving| Table::on(shelving.shelf()));
        Self {
            table: table.unwrap_or_default(),
            shelving,
        }
    }
}

impl Replay for Rebuilding {
    fn reset(&mut self) -> Result<(), ReplayError> {
        *self = Self::on(self.shelving.take());
        Ok(())
    }

    fn snapshot(&mut self, record: &[u8]) -> Result<(), ReplayError> {
        match decode(record)? {
            Entry::Operation { as_of, operation } => self.table.restore(*operation, as_of),
            Entry::Totals {
                unacknowledged_lost,
                as_of,
            } => self.table.restore_totals(unacknowledged_lost, as_of),
            Entry::Group { as_of, group } => self.table.restore_group(&group, as_of),
            Entry::Completion { as_of, completion } => self.table.restore_completion(completion, as_of),
            Entry::Fact(_) | Entry::Committed { .. } | Entry::GroupFact(_) | Entry::CompletionFact(_) => {
                return Err("a fact stands in a snapshot".into());
            }
        }
        Ok(())
    }

    fn record(&mut self, lsn: Lsn, record: &[u8]) -> Result<(), ReplayError> {
        let fact = match decode(record)? {
            Entry::Fact(fact) => fact,
            Entry::Committed { batch } => {
                self.table.commit(batch);
                return Ok(());
            }
            Entry::GroupFact(fact) => {
                self.table.apply_group(fact, lsn.0);
                return Ok(());
            }
            Entry::CompletionFact(fact) => {
                self.table.apply_completion(fact, lsn.0);
                return Ok(());
            }
            _ => return Err("a snapshot's entry stands in the log".into()),
        };
        let id = fact.id;
        if let Err(rejected) = self.table.apply(fact, lsn.0) {
            log::warn!("{id}: record {} changes nothing: {rejected}", lsn.0);
        }
        Ok(())
    }

    fn gap(&mut self, first: Lsn, next: Lsn) {
        self.table.gap(first.0, next.0);
    }
}
