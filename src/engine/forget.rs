//! Cleaning up after an app: what is live is canceled, and nothing stays but complete files.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Engine, Filter, GroupFilter};
use crate::error::Error;
use crate::operation::TransferId;

/// How long attempts may take to end before the rest is left to another call.
const END_MAX: Duration = Duration::from_secs(30);
/// Operations that are looked at in one go.
const STEP: usize = 256;

impl Engine {
    /// Cancels all operations of an app and removes their part files, records and secrets, and its groups. Complete files stay. Gives how
    /// many operations are gone; no completion group of it fires any more. Doing it again after a crash goes on where it stopped.
    ///
    /// # Errors
    /// [`Error::NotNow`] where an attempt did not end within 30 s; what is gone is gone.
    pub fn forget_app(&self, app: &str) -> Result<u64, Error> {
        let filter = Filter {
            app: Some(app.to_owned()),
            group: GroupFilter::Any,
        };
        // First: nobody is left to be told that its operations were canceled.
        self.forget_completion_groups(app)?;
        let end = Instant::now() + END_MAX;
        let observer = self.observe(None);
        let mut gone = 0;
        // What is created meanwhile is not waited for for ever.
        while let Some(ids) = self.some_of(&filter) {
            let mut live = BTreeSet::new();
            for id in ids {
                if !self.view(id).is_ok_and(|view| view.status.is_ended()) {
                    // One that has ended or is being published meanwhile needs no cancel.
                    match self.cancel(id) {
                        Ok(()) | Err(Error::NotNow { .. } | Error::UnknownId(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
                match self.remove(id) {
                    Ok(()) => gone += 1,
                    Err(Error::UnknownId(_)) => {}
                    Err(Error::NotNow { .. }) => {
                        live.insert(id);
                    }
                    Err(error) => return Err(error),
                }
            }
            if let Some(id) = live.first() {
                self.let_end(&live);
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    let problem = format!(
                        "has not ended yet, and {} others of app '{app}'; try again",
                        live.len() - 1
                    );
                    return Err(Error::NotNow { id: *id, problem });
                }
                observer.wait(Some(left));
            }
        }
        for group in self.groups(Some(app)) {
            match self.remove_group(app, &group.name) {
                // Somebody else has removed it meanwhile.
                Ok(()) | Err(Error::UnknownGroup { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.core.sync_all()?;
        Ok(gone)
    }

    fn some_of(&self, filter: &Filter) -> Option<Vec<TransferId>> {
        let page = self.list(filter, None, STEP).views;
        let ids: Vec<TransferId> = page.into_iter().map(|view| view.id).collect();
        (!ids.is_empty()).then_some(ids)
    }

    /// Where no thread works, what an end takes is done here.
    fn let_end(&self, ids: &BTreeSet<TransferId>) {
        if !self.core.is_threaded() {
            self.restrict_to(Some(ids.clone()));
            while self.step() {}
            self.restrict_to(None);
        }
    }
}
