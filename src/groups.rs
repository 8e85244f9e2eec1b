//! Which transfer groups and completion groups there are, who is in them, and which of them have something to do. Pure;
//! every question and every change costs the logarithm of what is there.
//!
//! A transfer group is there once somebody made it or an operation joined it. The members of both kinds are what the
//! operations say they are: no record repeats it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::operation::{
    Completion, CompletionAction, CompletionEvent, CompletionFact, CompletionGroupId, Deadline, Group, GroupFact, Now,
    Operation, Stage, TransferBehavior, TransferId,
};

/// Transfer groups of one app.
pub(crate) const GROUPS_MAX: usize = 1_000;
/// Operations of one completion group.
pub(crate) const MEMBERS_MAX: usize = 10_000;
/// Completion groups of one app whose promise is not kept yet.
pub(crate) const UNFINISHED_MAX: usize = 1_000;
/// Completion groups that are kept after that; beyond it the oldest go.
const CLOSED_MAX: usize = 1_000;
/// How often a command is begun, at most.
pub(crate) const RUNS_MAX: u32 = 5;
/// After the first failure of a command, and by how much it grows after each other (chosen without measurement).
const RUN_AGAIN_AFTER: Duration = Duration::from_secs(10);
const RUN_AGAIN_FACTOR: u32 = 3;

/// How long a command is left alone that failed for the `runs`th time; `None` where that is enough.
pub(crate) fn run_again_after(runs: u32) -> Option<Duration> {
    (runs < RUNS_MAX).then(|| RUN_AGAIN_AFTER * RUN_AGAIN_FACTOR.pow(runs.saturating_sub(1)))
}

/// All groups of one state directory.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// By app and name.
    transfer: BTreeMap<String, BTreeMap<String, Row>>,
    /// Groups that were ever made.
    numbered: u64,
    completions: BTreeMap<CompletionGroupId, Kept>,
    members: HashMap<CompletionGroupId, Members>,
    /// Sealed, and all have ended.
    complete: BTreeSet<CompletionGroupId>,
    /// Commands by the moment of their next run, in milliseconds of the boot-time clock.
    runs: BTreeSet<(u64, CompletionGroupId)>,
    /// Events that have fired and that nobody has acknowledged, by app.
    fired: BTreeSet<(String, CompletionGroupId)>,
    /// Those that are done or have failed, by when that was.
    closed: BTreeSet<(u64, CompletionGroupId)>,
    /// How many others each app has.
    unfinished: HashMap<String, usize>,
}

#[derive(Debug, Default)]
struct Row {
    number: u64,
    behavior: TransferBehavior,
    /// First LSN that is not contained in the behavior.
    as_of: u64,
    /// First LSN after the creation of its youngest member: no removal before it counts.
    joined: u64,
    /// Those that have not ended.
    live: BTreeSet<(u64, TransferId)>,
}

#[derive(Debug)]
struct Kept {
    as_of: u64,
    completion: Completion,
}

#[derive(Debug, Default)]
struct Members {
    /// In the order of their creation.
    all: BTreeSet<(u64, TransferId)>,
    live: usize,
}

/// A transfer group as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GroupView {
    /// The application it belongs to.
    pub app: String,
    /// Its name, one of its app.
    pub name: String,
    /// How its operations run.
    pub behavior: TransferBehavior,
    /// How many of its operations have not ended.
    pub live_members: usize,
}

impl Groups {
    // ---- transfer groups ----

    pub(crate) fn find(&self, app: &str, name: &str) -> Option<GroupView> {
        let row = self.row(app, name)?;
        Some(row.view(app, name))
    }

    /// All of an app, or of all apps, by name.
    pub(crate) fn list(&self, app: Option<&str>) -> Vec<GroupView> {
        let apps = self.transfer.iter();
        let apps = apps.filter(|(name, _)| app.is_none_or(|app| app == *name));
        apps.flat_map(|(app, rows)| rows.iter().map(|(name, row)| row.view(app, name)))
            .collect()
    }

    pub(crate) fn count(&self, app: &str) -> usize {
        self.transfer.get(app).map_or(0, BTreeMap::len)
    }

    /// The number of the group that an operation is in, serialized or not.
    pub(crate) fn number_of(&self, operation: &Operation) -> Option<u64> {
        self.row_of(operation).map(|row| row.number)
    }

    /// The same where that is a serialized one.
    pub(crate) fn serialized(&self, operation: &Operation) -> Option<u64> {
        let row = self.row_of(operation)?;
        (row.behavior == TransferBehavior::Serialized).then_some(row.number)
    }

    /// Those of a group that have not ended, in the order of their creation.
    pub(crate) fn live(&self, app: &str, name: &str) -> Vec<TransferId> {
        let live = self.row(app, name).map(|row| &row.live);
        live.into_iter().flatten().map(|(_, id)| *id).collect()
    }

    /// Applies a fact that the journal holds at `lsn`; one that is contained already changes nothing.
    pub(crate) fn apply(&mut self, fact: GroupFact, lsn: u64) {
        match fact {
            GroupFact::Set(group) => self.restore(&group, lsn + 1),
            GroupFact::Removed { app, name } => {
                let Some(row) = self.row_mut(&app, &name).filter(|row| lsn >= row.as_of) else {
                    return;
                };
                if lsn < row.joined {
                    // It was made again by those that joined it since.
                    (row.behavior, row.as_of) = (TransferBehavior::default(), lsn + 1);
                    return;
                }
                if let Some(rows) = self.transfer.get_mut(&app) {
                    rows.remove(&name);
                    if rows.is_empty() {
                        self.transfer.remove(&app);
                    }
                }
            }
        }
    }

    /// Puts in a group as of a position in the journal.
    pub(crate) fn restore(&mut self, group: &Group, as_of: u64) {
        let row = self.join(&group.app, &group.name);
        if as_of > row.as_of {
            (row.behavior, row.as_of) = (group.behavior, as_of);
        }
    }

    fn row(&self, app: &str, name: &str) -> Option<&Row> {
        self.transfer.get(app)?.get(name)
    }

    fn row_mut(&mut self, app: &str, name: &str) -> Option<&mut Row> {
        self.transfer.get_mut(app)?.get_mut(name)
    }

    fn row_of(&self, operation: &Operation) -> Option<&Row> {
        let name = operation.spec.group.as_deref()?;
        self.row(&operation.spec.app, name)
    }

    /// The group, made where it is not there.
    fn join(&mut self, app: &str, name: &str) -> &mut Row {
        let rows = self.transfer.entry(app.to_owned()).or_default();
        rows.entry(name.to_owned()).or_insert_with(|| {
            self.numbered += 1;
            Row {
                number: self.numbered,
                ..Row::default()
            }
        })
    }

    // ---- members of both ----

    /// Notes an operation that counts with its groups, or takes it out of them.
    pub(crate) fn index(&mut self, operation: &Operation, add: bool) {
        let (place, is_live) = ((operation.order, operation.id), !operation.has_ended());
        if let Some(name) = operation.spec.group.as_deref().filter(|_| is_live) {
            let app = &operation.spec.app;
            if add {
                let row = self.join(app, name);
                row.joined = row.joined.max(operation.order + 1);
                row.live.insert(place);
            } else if let Some(row) = self.row_mut(app, name) {
                row.live.remove(&place);
            }
        }
        let Some(id) = operation.spec.completion_group else {
            return;
        };
        let members = self.members.entry(id).or_default();
        if add {
            members.all.insert(place);
            members.live += usize::from(is_live);
        } else {
            members.all.remove(&place);
            members.live -= usize::from(is_live);
        }
        if members.all.is_empty() {
            self.members.remove(&id);
        }
        self.note_completeness(id);
    }

    // ---- completion groups ----

    pub(crate) fn completion(&self, id: CompletionGroupId) -> Option<&Completion> {
        self.completions.get(&id).map(|kept| &kept.completion)
    }

    /// All of an app, or of all apps, in the order of their creation.
    pub(crate) fn completions(&self, app: Option<&str>) -> Vec<&Completion> {
        let all = self.completions.values().map(|kept| &kept.completion);
        let mut all: Vec<&Completion> = all.filter(|one| app.is_none_or(|app| app == one.app)).collect();
        // Many may be of one moment, and the clock may have been set back.
        all.sort_by_key(|completion| (completion.order, completion.created_at_ms));
        all
    }

    /// Events that have fired and that nobody has acknowledged, of an app or of all apps, by app and id; those behind `after`.
    pub(crate) fn fired(
        &self,
        app: Option<&str>,
        after: Option<&(String, CompletionGroupId)>,
    ) -> impl Iterator<Item = &Completion> {
        let first = (app.unwrap_or_default().to_owned(), CompletionGroupId([0; 16]));
        let from = match after {
            Some(after) if *after >= first => Bound::Excluded(after.clone()),
            _ => Bound::Included(first),
        };
        let all = self.fired.range((from, Bound::Unbounded));
        all.take_while(move |(of, _)| app.is_none_or(|app| app == of))
            .filter_map(|(_, id)| self.completion(*id))
    }

    /// Its operations that are still known, in the order of their creation.
    pub(crate) fn members(&self, id: CompletionGroupId) -> Vec<TransferId> {
        let all = self.members.get(&id).map(|members| &members.all);
        all.into_iter().flatten().map(|(_, id)| *id).collect()
    }

    pub(crate) fn member_count(&self, id: CompletionGroupId) -> usize {
        self.members.get(&id).map_or(0, |members| members.all.len())
    }

    /// How many of them have not ended.
    pub(crate) fn remaining(&self, id: CompletionGroupId) -> usize {
        self.members.get(&id).map_or(0, |members| members.live)
    }

    pub(crate) fn unfinished(&self, app: &str) -> usize {
        self.unfinished.get(app).copied().unwrap_or(0)
    }

    /// Whether the end of an operation must stay known, because its completion group has not been delivered.
    pub(crate) fn holds(&self, operation: &Operation) -> bool {
        let id = operation.spec.completion_group;
        id.is_some_and(|id| self.holds_members(id))
    }

    /// The same of all operations of a completion group.
    pub(crate) fn holds_members(&self, id: CompletionGroupId) -> bool {
        self.completion(id).is_some_and(|completion| !completion.is_closed())
    }

    /// A sealed group whose operations have all ended, and that has not fired.
    pub(crate) fn complete(&self) -> Option<CompletionGroupId> {
        self.complete.first().copied()
    }

    /// Commands to be run, with the moments from which on, earliest first.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u64, CompletionGroupId)> {
        self.runs.iter().copied()
    }

    /// The first moment after this one from which on a command is to be run.
    pub(crate) fn next_run(&self, boot_ms: u64) -> Option<u64> {
        let later = (boot_ms.saturating_add(1), CompletionGroupId([0; 16]));
        self.runs.range(later..).next().map(|(due_ms, _)| *due_ms)
    }

    /// Groups that were delivered so long ago that there is no room for them any more, oldest first.
    pub(crate) fn expired(&self) -> Vec<CompletionGroupId> {
        let surplus = self.closed.len().saturating_sub(CLOSED_MAX);
        self.closed.iter().take(surplus).map(|(_, id)| *id).collect()
    }

    /// Whether the event fits. Members have no say in it.
    pub(crate) fn fits(&self, id: CompletionGroupId, event: &CompletionEvent) -> bool {
        match (self.completion(id), event) {
            (found, CompletionEvent::Created { .. }) => found.is_none(),
            (found, CompletionEvent::Removed) => found.is_some(),
            (Some(completion), event) => completion.apply(event.clone(), 0).is_some(),
            (None, _) => false,
        }
    }

    /// Applies a fact that the journal holds at `lsn`; one that is contained already, or does not fit, changes nothing.
    pub(crate) fn apply_completion(&mut self, fact: CompletionFact, lsn: u64) {
        let CompletionFact { id, at_ms, event } = fact;
        let kept = self.completions.get(&id);
        if kept.is_some_and(|kept| lsn < kept.as_of) {
            return;
        }
        let next = match (kept, event) {
            (None, CompletionEvent::Created { app, name, action }) => {
                Some(Completion::created(id, app, name, action, (lsn, at_ms)))
            }
            (Some(_), CompletionEvent::Removed) => None,
            (Some(kept), event) => match kept.completion.apply(event, at_ms) {
                Some(next) => Some(next),
                None => return,
            },
            (None, _) => return,
        };
        self.exchange(id, next, lsn + 1);
    }

    /// Puts in a completion group from a snapshot.
    pub(crate) fn restore_completion(&mut self, completion: Completion, as_of: u64) {
        self.exchange(completion.id, Some(completion), as_of);
    }

    /// Makes the state the one at the start of an engine: no command runs, and waits are on this boot's clock.
    pub(crate) fn reopened(&mut self, now: Now) {
        let all: Vec<(u64, Completion)> = self
            .completions
            .values()
            .map(|kept| (kept.as_of, kept.completion.clone()))
            .collect();
        for (as_of, mut completion) in all {
            completion.stage = match completion.stage {
                Stage::Running => Stage::Fired { run_at: None },
                Stage::Fired { run_at } => Stage::Fired {
                    run_at: run_at.map(|run_at| run_at.rebased(now)),
                },
                stage => stage,
            };
            self.exchange(completion.id, Some(completion), as_of);
        }
    }

    fn exchange(&mut self, id: CompletionGroupId, next: Option<Completion>, as_of: u64) {
        if let Some(old) = self.completions.remove(&id) {
            self.file(&old.completion, false);
        }
        if let Some(completion) = next {
            self.file(&completion, true);
            self.completions.insert(id, Kept { as_of, completion });
        }
        self.note_completeness(id);
    }

    /// Adds a group to the indexes it belongs to, or takes it out of them: one list of rules for both.
    fn file(&mut self, completion: &Completion, add: bool) {
        let id = completion.id;
        match (completion.stage, &completion.action) {
            (Stage::Fired { run_at }, CompletionAction::Command(_)) => {
                put(&mut self.runs, (run_at.map_or(0, Deadline::boot_ms), id), add);
            }
            (Stage::Fired { .. }, CompletionAction::Event) => {
                put(&mut self.fired, (completion.app.clone(), id), add);
            }
            _ => {}
        }
        if completion.is_closed() {
            put(&mut self.closed, (completion.closed_at_ms.unwrap_or(0), id), add);
            return;
        }
        let count = self.unfinished.entry(completion.app.clone()).or_default();
        *count = if add { *count + 1 } else { *count - 1 };
        if *count == 0 {
            self.unfinished.remove(&completion.app);
        }
    }

    fn note_completeness(&mut self, id: CompletionGroupId) {
        let is_sealed = self.completion(id).is_some_and(|one| one.stage == Stage::Sealed);
        let is_complete = is_sealed && self.remaining(id) == 0;
        put(&mut self.complete, id, is_complete);
    }

    // ---- snapshots ----

    /// All transfer groups, each with the first LSN that it does not contain.
    pub(crate) fn rows(&self) -> Vec<(u64, Group)> {
        let rows = |(app, rows): (&String, &BTreeMap<String, Row>)| {
            let rows = rows.iter().map(|(name, row)| {
                let group = Group {
                    app: app.clone(),
                    name: name.clone(),
                    behavior: row.behavior,
                };
                (row.as_of, group)
            });
            rows.collect::<Vec<_>>()
        };
        self.transfer.iter().flat_map(rows).collect()
    }

    /// All completion groups in the same way.
    pub(crate) fn completion_rows(&self) -> impl Iterator<Item = (u64, &Completion)> {
        self.completions.values().map(|kept| (kept.as_of, &kept.completion))
    }
}

impl Row {
    fn view(&self, app: &str, name: &str) -> GroupView {
        GroupView {
            app: app.to_owned(),
            name: name.to_owned(),
            behavior: self.behavior,
            live_members: self.live.len(),
        }
    }
}

fn put<T: Ord>(set: &mut BTreeSet<T>, value: T, add: bool) {
    if add {
        set.insert(value);
    } else {
        set.remove(&value);
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::operation::{Collision, Event, Kind, Outcome, Priority, Shared, Spec};

    fn member(number: u8, order: u64) -> Operation {
        let spec = Spec {
            kind: Kind::Download,
            url: format!("http://host/{number}"),
            destination: PathBuf::from(format!("/data/{number}")),
            app: "app".into(),
            owner_uid: 0,
            group: Some("group".into()),
            headers: Vec::new(),
            has_secrets: false,
            sha256: None,
            expected_bytes: None,
            collision: Collision::Fail,
            priority: Priority::Default,
            expected_type: None,
            recoverable: Vec::new(),
            digests: Vec::new(),
            mirrors: Vec::new(),
            method: backhaul_backends::Method::GET,
            body: None,
            cost_policy: crate::operation::CostPolicy::Default,
            proxy: None,
            random_access: false,
            completion_group: Some(CompletionGroupId([7; 16])),
        };
        Operation::created(TransferId([number; 16]), Shared::new(spec), order, 0)
    }

    fn set(behavior: TransferBehavior) -> GroupFact {
        GroupFact::Set(Group {
            app: "app".into(),
            name: "group".into(),
            behavior,
        })
    }

    fn removed() -> GroupFact {
        GroupFact::Removed {
            app: "app".into(),
            name: "group".into(),
        }
    }

    fn behavior(groups: &Groups) -> Option<TransferBehavior> {
        groups.find("app", "group").map(|group| group.behavior)
    }

    fn completion_fact(number: u8, event: CompletionEvent) -> CompletionFact {
        CompletionFact {
            id: CompletionGroupId([number; 16]),
            at_ms: u64::from(number),
            event,
        }
    }

    fn made() -> CompletionEvent {
        CompletionEvent::Created {
            app: "app".into(),
            name: None,
            action: CompletionAction::Event,
        }
    }

    #[test]
    fn a_removal_that_is_older_than_a_member_only_takes_the_behavior_back() {
        // A snapshot that was written while the journal went on knows the member, and the group as it was before.
        let mut groups = Groups::default();
        groups.apply(set(TransferBehavior::Serialized), 4);
        groups.index(&member(1, 10), true);
        groups.apply(removed(), 7);
        assert_eq!(behavior(&groups), Some(TransferBehavior::Parallel));
        groups.apply(set(TransferBehavior::Serialized), 6);
        assert_eq!(behavior(&groups), Some(TransferBehavior::Parallel), "that was before");
        groups.apply(set(TransferBehavior::Serialized), 8);
        assert_eq!(behavior(&groups), Some(TransferBehavior::Serialized));
        groups.apply(removed(), 12);
        assert_eq!(behavior(&groups), None);
    }

    #[test]
    fn a_fact_that_a_snapshot_contains_changes_nothing() {
        let mut groups = Groups::default();
        groups.apply(set(TransferBehavior::Serialized), 9);
        for (as_of, group) in groups.rows() {
            let mut restored = Groups::default();
            restored.restore(&group, as_of);
            restored.apply(set(TransferBehavior::Parallel), 8);
            restored.apply(removed(), 3);
            assert_eq!(behavior(&restored), Some(TransferBehavior::Serialized));
        }
    }

    #[test]
    fn a_group_is_complete_where_it_is_sealed_and_nobody_of_it_lives() {
        let mut groups = Groups::default();
        let id = CompletionGroupId([7; 16]);
        // The member comes out of a snapshot, and its group out of the log after it.
        let live = member(1, 3);
        groups.index(&live, true);
        groups.apply_completion(completion_fact(7, made()), 2);
        groups.apply_completion(completion_fact(7, CompletionEvent::Sealed), 4);
        assert_eq!((groups.complete(), groups.remaining(id)), (None, 1));
        let ended = live.clone().apply(Event::Ended(Outcome::Canceled), 5);
        let ended = ended.expect("it may end");
        groups.index(&live, false);
        groups.index(&ended, true);
        assert_eq!((groups.complete(), groups.holds(&ended)), (Some(id), true));
        groups.apply_completion(completion_fact(7, CompletionEvent::Fired), 6);
        assert_eq!((groups.complete(), groups.unfinished("app")), (None, 1));
        groups.apply_completion(completion_fact(7, CompletionEvent::Done), 7);
        assert_eq!((groups.holds(&ended), groups.unfinished("app")), (false, 0));
    }

    #[test]
    fn of_groups_that_are_delivered_the_last_thousand_are_kept() {
        let mut groups = Groups::default();
        for number in 0..1_003_u64 {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            let fact = |event| CompletionFact {
                id: CompletionGroupId(id),
                at_ms: 5_000 - number,
                event,
            };
            let life = [
                made(),
                CompletionEvent::Sealed,
                CompletionEvent::Fired,
                CompletionEvent::Done,
            ];
            for (step, event) in (0..).zip(life) {
                groups.apply_completion(fact(event), 4 * number + step);
            }
        }
        let expired: Vec<u8> = groups.expired().iter().map(|id| id.0[7]).collect();
        assert_eq!(
            expired,
            [1_002_u64, 1_001, 1_000].map(|number| number.to_be_bytes()[7]),
            "oldest first"
        );
    }

    #[test]
    fn a_command_waits_longer_after_each_failure_and_not_after_the_last() {
        let waits: Vec<Option<u64>> = (1..=6)
            .map(|runs| run_again_after(runs).map(|wait| wait.as_secs()))
            .collect();
        assert_eq!(waits, [Some(10), Some(30), Some(90), Some(270), None, None]);
    }
}
