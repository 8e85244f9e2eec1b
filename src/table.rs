//! Operations by id, rebuilt by replay, with the indexes that keep a decision cheap however many there are. Pure.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use crate::operation::{
    BatchId, Deadline, Doubt, Event, Fact, Lack, Now, Operation, Outcome, Phase, Rejected, TransferId, Wish, millis,
};
use crate::queue::{Entry, Place, Queue, Wait};

/// All operations of one state directory.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Boxed: the map keeps room to grow, and a row is large.
    rows: HashMap<TransferId, Box<Row>>,
    /// Those that may start now or at a moment, but for those in the hands of a worker; and those that run.
    queue: Queue,
    /// Begun to end, with a part file that may still be there.
    ending: BTreeSet<(u64, TransferId)>,
    /// Being published, by when it may be looked at again.
    finishing: BTreeSet<(u64, TransferId)>,
    /// Live operations by the hash of their destination, and by that of app and URL.
    destinations: BTreeSet<(u64, TransferId)>,
    urls: BTreeSet<(u64, TransferId)>,
    /// Ended ones by the time of their end.
    acknowledged: BTreeSet<(u64, TransferId)>,
    unacknowledged: BTreeSet<(u64, TransferId)>,
    /// Operations of batches that are not committed yet.
    uncommitted: HashMap<[u8; 16], Vec<TransferId>>,
    /// In the hands of a worker.
    busy: BTreeSet<TransferId>,
    /// Whether records were lost, and whose operations the others speak of without their creation being known.
    has_gap: bool,
    strangers: BTreeSet<TransferId>,
    /// Only these may be scheduled, where set.
    only: Option<BTreeSet<TransferId>>,
    unacknowledged_lost: u64,
    /// First LSN that is not contained in the totals.
    totals_as_of: u64,
}

#[derive(Debug)]
struct Row {
    /// First LSN that is not contained in `operation`.
    as_of: u64,
    /// Not before this moment of the boot-time clock is an unfinished publication looked at again.
    finish_at_ms: u64,
    finish_failures: u32,
    operation: Operation,
}

/// Operations remembered of those whose creation is not known. Beyond it what they left on the disk stays.
const STRANGERS_MAX: usize = 4_096;

/// How long ended operations are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Acknowledged ends kept at most.
    pub acknowledged_max: usize,
    /// Longest time that an acknowledged end is kept.
    pub acknowledged_for: Duration,
    /// Unacknowledged ends kept at most; beyond it the oldest go and are counted as lost.
    pub unacknowledged_max: usize,
}

impl Default for Retention {
    /// 1,000 acknowledged ends for 7 days; 10,000 unacknowledged ones.
    fn default() -> Self {
        Self {
            acknowledged_max: 1_000,
            acknowledged_for: Duration::from_secs(7 * 24 * 3600),
            unacknowledged_max: 10_000,
        }
    }
}

impl Table {
    /// Applies one fact that the journal holds at `lsn`. Facts that the table contains already, and facts about
    /// operations that it does not know, change nothing: replaying twice is harmless.
    ///
    /// # Errors
    /// [`Rejected`] where the event does not fit; nothing has changed.
    pub(crate) fn apply(&mut self, fact: Fact, lsn: u64) -> Result<(), Rejected> {
        let Fact { id, at_ms, event } = fact;
        if let Event::Created { spec, started, batch } = event {
            if !self.rows.contains_key(&id) {
                let mut operation = Operation::created(id, spec, lsn, at_ms);
                operation.batch = batch;
                if let Some(batch) = batch {
                    self.uncommitted.entry(batch.0).or_default().push(id);
                }
                if started {
                    operation.wish = Wish::Run;
                }
                self.insert(operation, lsn + 1);
            }
            return Ok(());
        }
        let Some(row) = self.rows.get(&id) else {
            if self.strangers.len() < STRANGERS_MAX {
                self.strangers.insert(id);
            }
            return Ok(());
        };
        if lsn < row.as_of {
            return Ok(());
        }
        // Only what was committed is ever worked on: a later fact proves a commit whose own record was lost.
        if let Some(batch) = row.operation.batch {
            self.commit(batch, lsn.saturating_sub(1));
        }
        let Some(row) = self.rows.get(&id) else { return Ok(()) };
        let leaves = matches!(event, Event::Removed | Event::Forgotten);
        let lost = matches!(event, Event::Forgotten) && row.operation.acknowledged_at_ms.is_none();
        let again = row.operation.doubt.is_some().then(|| event.clone());
        let next = row.operation.clone().apply(event, at_ms).or_else(|rejected| {
            let mended = again.and_then(|event| row.operation.clone().mended(event, at_ms));
            mended.ok_or(rejected)
        })?;
        self.take(id);
        if leaves {
            self.unacknowledged_lost += u64::from(lost && lsn >= self.totals_as_of);
        } else {
            self.insert(next, lsn + 1);
        }
        Ok(())
    }

    /// From `lsn` on the operations of a batch count.
    pub(crate) fn commit(&mut self, batch: BatchId, lsn: u64) {
        for id in self.uncommitted.remove(&batch.0).unwrap_or_default() {
            if let Some(mut row) = self.take(id) {
                row.operation.batch = None;
                self.insert(row.operation, lsn + 1);
            }
        }
    }

    /// Records from `first` to before `next` were lost, and with them perhaps facts about every operation that has not ended.
    pub(crate) fn gap(&mut self, first: u64, next: u64) {
        self.has_gap = true;
        self.commit_what_may_be();
        for row in self.rows.values_mut() {
            let contains_all = row.as_of > first && row.as_of >= next;
            if !contains_all && !row.operation.has_ended() {
                row.operation.doubt = Some(Doubt::Unseen);
            }
        }
    }

    /// The commit of a batch may be among what was lost. Its operations count, as what was accepted must not go in silence,
    /// but for those whose destination another one has taken meanwhile.
    fn commit_what_may_be(&mut self) {
        let mut ids: Vec<TransferId> = std::mem::take(&mut self.uncommitted).into_values().flatten().collect();
        ids.sort_unstable();
        for id in ids {
            let Some(mut row) = self.take(id) else { continue };
            if self.live_for_destination(&row.operation.spec.destination).is_none() {
                row.operation.batch = None;
                self.insert(row.operation, row.as_of);
            }
        }
    }

    /// Whether anything may have been left on the disk by what lost records spoke of.
    pub(crate) fn is_salvaged(&self) -> bool {
        self.has_gap || self.in_doubt().next().is_some()
    }

    /// Operations of which nothing on the disk has been looked at since records were lost.
    pub(crate) fn in_doubt(&self) -> impl Iterator<Item = &Operation> {
        let operations = self.rows.values().map(|row| &row.operation);
        operations.filter(|operation| operation.doubt == Some(Doubt::Unseen))
    }

    /// Whether records speak of an operation whose creation was lost.
    pub(crate) fn is_stranger(&self, id: TransferId) -> bool {
        self.has_gap && self.strangers.contains(&id)
    }

    /// How many operations records speak of whose creation was lost.
    pub(crate) fn strangers(&self) -> usize {
        if self.has_gap { self.strangers.len() } else { 0 }
    }

    /// Forgets the operations of batches that were never committed: they were never accepted.
    pub(crate) fn drop_uncommitted(&mut self) {
        for id in std::mem::take(&mut self.uncommitted).into_values().flatten() {
            self.take(id);
        }
    }

    /// Whether the event would be applied.
    ///
    /// # Errors
    /// [`Rejected`] where it would not.
    pub(crate) fn check(&self, id: TransferId, event: &Event) -> Result<(), Rejected> {
        let row = self.rows.get(&id).ok_or(Rejected {
            event: "found",
            state: "was removed",
        })?;
        row.operation.clone().apply(event.clone(), 0).map(|_| ())
    }

    /// Puts in an operation from a snapshot.
    pub(crate) fn restore(&mut self, operation: Operation, as_of: u64) {
        self.take(operation.id);
        if let Some(batch) = operation.batch {
            self.uncommitted.entry(batch.0).or_default().push(operation.id);
        }
        self.insert(operation, as_of);
    }

    /// Totals from a snapshot.
    pub(crate) fn restore_totals(&mut self, unacknowledged_lost: u64, as_of: u64) {
        self.unacknowledged_lost = unacknowledged_lost;
        self.totals_as_of = as_of;
    }

    /// Makes the state of a table that was just replayed the state at the start of an engine.
    pub(crate) fn reopened(&mut self, now: Now) {
        self.drop_uncommitted();
        let attempts = self.rows.values().map(|row| u64::from(row.operation.attempts));
        self.queue.count_on_from(attempts.sum());
        for id in self.ids() {
            if let Some(row) = self.take(id) {
                self.insert(row.operation.reopened(now), row.as_of);
            }
        }
    }

    /// From now on only these operations are scheduled.
    pub(crate) fn restrict_to(&mut self, only: Option<BTreeSet<TransferId>>) {
        let rows: Vec<Box<Row>> = self.ids().into_iter().filter_map(|id| self.take(id)).collect();
        self.only = only;
        for row in rows {
            self.insert(row.operation, row.as_of);
        }
    }

    /// Whether an operation is one of those that scheduling was restricted to.
    pub(crate) fn is_chosen(&self, id: TransferId) -> bool {
        self.only.as_ref().is_some_and(|only| only.contains(&id))
    }

    /// Those that scheduling was restricted to, where it was.
    pub(crate) fn chosen(&self) -> Option<&BTreeSet<TransferId>> {
        self.only.as_ref()
    }

    /// How many operations may be scheduled, where they were restricted.
    pub(crate) fn restricted_to(&self) -> Option<usize> {
        self.only.as_ref().map(BTreeSet::len)
    }

    pub(crate) fn find(&self, id: TransferId) -> Option<&Operation> {
        self.rows.get(&id).map(|row| &row.operation)
    }

    /// All operations in the order of their creation.
    pub(crate) fn in_order(&self) -> Vec<&Operation> {
        let mut operations: Vec<&Operation> = self.rows.values().map(|row| &row.operation).collect();
        operations.sort_unstable_by_key(|operation| operation.order);
        operations
    }

    /// An operation with the first LSN that it does not contain, for a snapshot.
    pub(crate) fn row(&self, id: TransferId) -> Option<(u64, &Operation)> {
        self.rows.get(&id).map(|row| (row.as_of, &row.operation))
    }

    pub(crate) fn ids(&self) -> Vec<TransferId> {
        self.rows.keys().copied().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn totals_as_of(&self) -> u64 {
        self.totals_as_of
    }

    pub(crate) fn unacknowledged_lost(&self) -> u64 {
        self.unacknowledged_lost
    }

    /// The live operation for a destination, if there is one.
    pub(crate) fn live_for_destination(&self, destination: &Path) -> Option<&Operation> {
        let key = hash(&destination);
        self.candidates(&self.destinations, key)
            .find(|operation| operation.spec.destination == destination)
    }

    /// The live operations of an app for a URL as it is shown.
    pub(crate) fn live_for_url(&self, app: &str, url: &str) -> impl Iterator<Item = &Operation> {
        let key = hash(&(app, url));
        self.candidates(&self.urls, key)
            .filter(move |operation| operation.spec.app == app && operation.spec.url == url)
    }

    /// Completed operations whose end nobody has acknowledged.
    pub(crate) fn unacknowledged_completed(&self) -> impl Iterator<Item = &Operation> {
        let ended = self.unacknowledged.iter().filter_map(|(_, id)| self.find(*id));
        ended.filter(|operation| operation.phase == Phase::Ended(Outcome::Completed))
    }

    fn candidates<'a>(
        &'a self,
        index: &'a BTreeSet<(u64, TransferId)>,
        key: u64,
    ) -> impl Iterator<Item = &'a Operation> {
        let range = (key, TransferId([0; 16]))..=(key, TransferId([u8::MAX; 16]));
        index.range(range).filter_map(|(_, id)| self.find(*id))
    }

    /// How many attempts may run at one host; only while none runs.
    pub(crate) fn limit_hosts(&mut self, per_host_max: Option<NonZeroUsize>) {
        self.queue.limit_hosts(per_host_max);
    }

    /// The operation that starts next, if a slot is free.
    pub(crate) fn next_start(&mut self, now: Now) -> Option<TransferId> {
        self.queue.mature(now.boot_ms);
        self.queue.next()
    }

    /// The next moment after now at which anything may be done, in milliseconds of the boot-time clock.
    pub(crate) fn next_moment(&self, now: Now) -> Option<u64> {
        let later = (now.boot_ms.saturating_add(1), TransferId([0; 16]));
        let free = |(_, id): &&(u64, TransferId)| !self.busy.contains(id);
        let timer = self.timers().next().map(|(due_ms, _)| due_ms);
        let others = [&self.finishing, &self.ending];
        let others = others
            .into_iter()
            .filter_map(|waiting| waiting.range(later..).find(free));
        timer.into_iter().chain(others.map(|(due_ms, _)| *due_ms)).min()
    }

    /// Operations that wait for a moment (milliseconds of the boot-time clock) that had not come at the last decision,
    /// earliest first.
    pub(crate) fn timers(&self) -> impl Iterator<Item = (u64, TransferId)> {
        self.queue.timers()
    }

    /// Notes that an attempt begins, or that it is over: that gives its slot to others.
    pub(crate) fn set_running(&mut self, id: TransferId, runs: bool) {
        if !runs {
            self.queue.end(id);
        } else if let Some(row) = self.rows.get(&id) {
            self.queue.start(id, place(&row.operation));
        }
    }

    /// For a table that was replayed beside its engine: the attempts that run there are those that the journal knows of.
    pub(crate) fn assume_running(&mut self, per_host_max: Option<NonZeroUsize>) {
        self.limit_hosts(per_host_max);
        for row in self.rows.values().filter(|row| row.operation.phase == Phase::Running) {
            self.queue.start(row.operation.id, place(&row.operation));
        }
    }

    /// What an operation lacks that may start.
    pub(crate) fn lack(&self, operation: &Operation) -> Lack {
        if self.queue.is_full(place(operation).host) {
            Lack::HostSlot
        } else {
            Lack::Slot
        }
    }

    /// Operations that have begun to end and that no worker holds.
    pub(crate) fn sweepable(&self) -> impl Iterator<Item = (u64, TransferId)> {
        self.ending.iter().copied().filter(|(_, id)| !self.busy.contains(id))
    }

    /// Operations whose publication was left unfinished, with the moment at which to look at them, earliest first.
    pub(crate) fn finishable(&self) -> impl Iterator<Item = (u64, TransferId)> {
        self.finishing.iter().copied().filter(|(_, id)| !self.busy.contains(id))
    }

    /// An unfinished publication, or an end whose part file is still there, is left alone for a while. Gives how often
    /// that was so.
    pub(crate) fn postpone_finish(&mut self, id: TransferId, now: Now, delay: Duration) -> u32 {
        let Some(row) = self.rows.get_mut(&id) else { return 0 };
        for waiting in [&mut self.finishing, &mut self.ending] {
            if waiting.remove(&(row.finish_at_ms, id)) {
                row.finish_at_ms = now.boot_ms.saturating_add(millis(delay));
                row.finish_failures += 1;
                waiting.insert((row.finish_at_ms, id));
                return row.finish_failures;
            }
        }
        0
    }

    /// How often an unfinished publication was left alone.
    pub(crate) fn finish_failures(&self, id: TransferId) -> u32 {
        self.rows.get(&id).map_or(0, |row| row.finish_failures)
    }

    /// Nothing is left that an engine could do now or later by itself, as far as it is about those it works on.
    pub(crate) fn is_idle(&self) -> bool {
        let counts = |id: &TransferId| self.only.as_ref().is_none_or(|only| only.contains(id));
        self.queue.is_empty()
            && !self.ending.iter().any(|(_, id)| counts(id))
            && self.finishing.is_empty()
            && self.busy.is_empty()
    }

    /// Moves the moment that a blocked operation waits for, in memory only: looking again changed nothing.
    pub(crate) fn postpone(&mut self, id: TransferId, now: Now, delay: Duration) {
        if let Some(mut row) = self.take(id) {
            if let Phase::Blocked { probe_at, .. } = &mut row.operation.phase {
                *probe_at = Deadline::after(now, millis(delay));
            }
            self.insert(row.operation, row.as_of);
        }
    }

    /// A worker takes an operation into its hands, or lets it go.
    pub(crate) fn set_busy(&mut self, id: TransferId, busy: bool) {
        if busy == self.busy.contains(&id) {
            return;
        }
        // Its entry is known only while it is free.
        self.busy.remove(&id);
        if let Some(entry) = self.rows.get(&id).and_then(|row| self.entry(&row.operation)) {
            self.queue.put(&entry, !busy);
        }
        if busy {
            self.busy.insert(id);
        }
    }

    pub(crate) fn is_busy(&self, id: TransferId) -> bool {
        self.busy.contains(&id)
    }

    /// Ended operations that the history has no room or time for, oldest first.
    pub(crate) fn expired(&self, wall_ms: u64, retention: &Retention) -> Vec<TransferId> {
        let keep_ms = millis(retention.acknowledged_for);
        let surplus = self.acknowledged.len().saturating_sub(retention.acknowledged_max);
        let is_old = |ended_at_ms: u64| wall_ms.saturating_sub(ended_at_ms) > keep_ms;
        let acknowledged = self.acknowledged.iter().enumerate();
        let acknowledged =
            acknowledged.take_while(|(index, (ended_at_ms, _))| *index < surplus || is_old(*ended_at_ms));
        let lost = self.unacknowledged.len().saturating_sub(retention.unacknowledged_max);
        let unacknowledged = self.unacknowledged.iter().take(lost);
        acknowledged
            .map(|(_, (_, id))| *id)
            .chain(unacknowledged.map(|(_, id)| *id))
            .collect()
    }

    fn insert(&mut self, operation: Operation, as_of: u64) {
        let id = operation.id;
        self.index(&operation, true);
        let row = Row {
            as_of,
            finish_at_ms: 0,
            finish_failures: 0,
            operation,
        };
        self.rows.insert(id, Box::new(row));
    }

    fn take(&mut self, id: TransferId) -> Option<Box<Row>> {
        let row = self.rows.remove(&id)?;
        self.index(&row.operation, false);
        self.finishing.remove(&(row.finish_at_ms, id));
        self.ending.remove(&(row.finish_at_ms, id));
        Some(row)
    }

    /// Adds an operation to the indexes it belongs to, or takes it out of them: one list of rules for both.
    fn index(&mut self, operation: &Operation, add: bool) {
        let id = operation.id;
        if operation.batch.is_some() {
            return;
        }
        if operation.is_live() {
            put(
                &mut self.destinations,
                (hash(&operation.spec.destination.as_path()), id),
                add,
            );
            put(
                &mut self.urls,
                (hash(&(operation.spec.app.as_str(), operation.spec.url.as_str())), id),
                add,
            );
        }
        if let Some(ended_at_ms) = operation.ended_at_ms {
            let acknowledged = operation.acknowledged_at_ms.is_some();
            let ended = if acknowledged {
                &mut self.acknowledged
            } else {
                &mut self.unacknowledged
            };
            put(ended, (ended_at_ms, id), add);
        }
        if matches!(operation.phase, Phase::Ending(_)) {
            put(&mut self.ending, (0, id), add);
        }
        if self.only.as_ref().is_some_and(|only| !only.contains(&id)) {
            return;
        }
        if matches!(operation.phase, Phase::Publishing(_)) && add {
            self.finishing.insert((0, id));
        }
        if let Some(entry) = self.entry(operation) {
            self.queue.put(&entry, add);
        }
    }

    /// What the queue holds of an operation, if it is to start now or at a moment and no worker holds it.
    fn entry(&self, operation: &Operation) -> Option<Entry> {
        let id = operation.id;
        let is_out = operation.batch.is_some() || self.busy.contains(&id);
        if is_out || self.only.as_ref().is_some_and(|only| !only.contains(&id)) {
            return None;
        }
        let wait = match operation.deadline() {
            Some(deadline) => Wait::Until(deadline.boot_ms()),
            None if operation.phase == Phase::Ready && operation.wish == Wish::Run => {
                Wait::Turn(operation.spec.priority)
            }
            None => return None,
        };
        Some(Entry {
            id,
            order: operation.order,
            place: place(operation),
            wait,
        })
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Table {
    /// Those that wait for their turn, best first as if no other ran.
    pub(crate) fn ranked(&self) -> Vec<TransferId> {
        self.queue.ranked()
    }
}

#[cfg(test)]
impl Table {
    /// What all changes and decisions have cost so far, in entries of indexes.
    pub(crate) fn looks(&self) -> u64 {
        self.queue.looks()
    }
}

fn place(operation: &Operation) -> Place {
    Place {
        app: hash(operation.spec.app.as_str()),
        host: hash(operation.host()),
    }
}

fn put<T: Ord>(set: &mut BTreeSet<T>, value: T, add: bool) {
    if add {
        set.insert(value);
    } else {
        set.remove(&value);
    }
}

fn hash<T: Hash + ?Sized>(value: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
