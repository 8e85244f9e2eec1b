//! Transfer groups: made, changed and removed. What they do to the order of starts, `queue` decides.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use backhaul_journal::{Lsn, Urgency};

use super::Engine;
use super::core::{Core, State};
use super::create::CheckedDownload;
use crate::error::Error;
use crate::groups::{GROUPS_MAX, GroupView};
use crate::operation::{Entry, Event, Group, GroupFact, TransferBehavior, TransferId};

/// Longest name of a group, in bytes.
const NAME_BYTES_MAX: usize = 128;
/// Moves to the front that are recorded under one hold of the lock.
const MOVES_STEP: usize = 256;

impl Engine {
    /// A transfer group of an app: the one that is there, as it is, or a new one, which runs its operations as `behavior`
    /// says, in parallel where it says nothing. Durable on return.
    ///
    /// Stands for `BackgroundTransferGroup.CreateGroup`.
    ///
    /// # Errors
    /// [`Error::Invalid`] where app or name is not 1 to 128 bytes without control characters; [`Error::LimitReached`] where
    /// the app has 1,000 groups.
    pub fn create_group(&self, app: &str, name: &str, behavior: Option<TransferBehavior>) -> Result<GroupView, Error> {
        check_name("app", app)?;
        check_name("group", name)?;
        let _alone = self.core.creating.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = self.core.state().table.groups().find(app, name) {
            return Ok(found);
        }
        self.check_group_limit(app, 1)?;
        self.set_group(app, name, behavior.unwrap_or_default())
    }

    /// The transfer groups of an app, or of all apps, by app and name.
    #[must_use]
    pub fn groups(&self, app: Option<&str>) -> Vec<GroupView> {
        self.core.state().table.groups().list(app)
    }

    /// Changes how the operations of a group run, those that wait included. Those that run go on: where a group becomes
    /// serialized, its next one starts after the last of them. Durable on return.
    ///
    /// Stands for `BackgroundTransferGroup.TransferBehavior`.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub fn set_group_behavior(&self, app: &str, name: &str, behavior: TransferBehavior) -> Result<GroupView, Error> {
        let _alone = self.core.creating.lock().unwrap_or_else(PoisonError::into_inner);
        let found = self.find_group(app, name)?;
        if found.behavior == behavior {
            return Ok(found);
        }
        self.set_group(app, name, behavior)
    }

    /// Removes a group all of whose operations have ended; these keep its name. `WinRT` has no such call.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`]; [`Error::GroupInUse`] where some have not ended.
    pub fn remove_group(&self, app: &str, name: &str) -> Result<(), Error> {
        let _alone = self.core.creating.lock().unwrap_or_else(PoisonError::into_inner);
        let found = self.find_group(app, name)?;
        if found.live_members > 0 {
            return Err(Error::GroupInUse {
                app: found.app,
                name: found.name,
                live_members: found.live_members,
            });
        }
        let (app, name) = (found.app, found.name);
        let removed = GroupFact::Removed { app, name };
        let lsn = self
            .core
            .record_group(&mut self.core.state(), removed, Urgency::Critical)?;
        self.core.sync(lsn)
    }

    /// Moves an operation to the front of its transfer group, together with everything that is queued behind it: those
    /// before it go behind. It interrupts nobody. No effect where it is in no group, is the first, or runs already. In a
    /// parallel group the front is that of its priority in the whole app. Durable on return; a crash meanwhile leaves the
    /// same order begun at another place. Costs a record for each operation that goes to the front.
    ///
    /// Stands for `MakeCurrentInTransferGroup`.
    ///
    /// # Errors
    /// [`Error::UnknownId`]; [`Error::NotNow`] where it has ended.
    pub fn make_current(&self, id: TransferId) -> Result<(), Error> {
        let operation = self.find(id)?;
        if !operation.is_live() {
            return Err(Error::NotNow {
                id,
                problem: "has ended, and goes to no front any more".into(),
            });
        }
        let moves = self.core.state().table.rotation(&operation);
        for moves in moves.chunks(MOVES_STEP) {
            let mut state = self.core.state();
            for id in moves {
                match self.core.record_as(&mut state, *id, Event::Promoted, Urgency::Normal) {
                    // It has ended meanwhile.
                    Err(Error::NotNow { .. }) | Ok(_) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        self.core.sync_all()?;
        self.core.wake_all();
        Ok(())
    }

    /// Refuses creations that would make more groups than an app may have.
    pub(super) fn check_groups(&self, checked: &[CheckedDownload]) -> Result<(), (usize, Error)> {
        let mut new = BTreeSet::new();
        for (index, one) in checked.iter().enumerate() {
            let app = &one.spec.app;
            let Some(name) = &one.spec.group else { continue };
            let is_new = self.core.state().table.groups().find(app, name).is_none();
            if is_new && new.insert((app, name)) {
                let more = new.iter().filter(|(other, _)| *other == app).count();
                self.check_group_limit(app, more).map_err(|error| (index, error))?;
            }
        }
        Ok(())
    }

    fn check_group_limit(&self, app: &str, more: usize) -> Result<(), Error> {
        if self.core.state().table.groups().count(app) + more > GROUPS_MAX {
            return Err(Error::limit(
                "transfer groups of one app (remove those that are not needed)",
                GROUPS_MAX as u64,
            ));
        }
        Ok(())
    }

    fn find_group(&self, app: &str, name: &str) -> Result<GroupView, Error> {
        let found = self.core.state().table.groups().find(app, name);
        found.ok_or_else(|| Error::UnknownGroup {
            app: app.into(),
            name: name.into(),
        })
    }

    fn set_group(&self, app: &str, name: &str, behavior: TransferBehavior) -> Result<GroupView, Error> {
        let group = Group {
            app: app.into(),
            name: name.into(),
            behavior,
        };
        let set = GroupFact::Set(group);
        let lsn = self.core.record_group(&mut self.core.state(), set, Urgency::Normal)?;
        self.core.sync(lsn)?;
        self.core.wake_all();
        self.find_group(app, name)
    }
}

impl Core {
    fn record_group(&self, state: &mut State, fact: GroupFact, urgency: Urgency) -> Result<Lsn, Error> {
        let entry = Entry::GroupFact(fact.clone());
        let lsn = self.append_entry(&entry, urgency)?;
        state.table.apply_group(fact, lsn.0);
        Ok(lsn)
    }
}

/// A name that people read and type.
pub(super) fn check_name(field: &'static str, name: &str) -> Result<(), Error> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        let problem = format!("is no name: 1 to {NAME_BYTES_MAX} bytes without control characters");
        return Err(Error::invalid(field, name, problem));
    }
    Ok(())
}

/// The name of the group that a download asks for.
pub(super) fn checked_group(name: Option<&str>) -> Result<Option<String>, Error> {
    name.map_or(Ok(()), |name| check_name("group", name))?;
    Ok(name.map(str::to_owned))
}
