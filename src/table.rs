//! Operations by id, rebuilt by replay, with the indexes that keep a decision cheap however many there are. Pure.

mod batches;
mod grouped;
mod rest;
mod step;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use self::batches::Batch;
use self::step::{Step, leaves};
use crate::groups::Groups;
use crate::hashed::{ByHash, ById, Ids};
use crate::history::{History, Retention};
use crate::listing::hash;
use crate::operation::{
    Deadline, Doubt, Event, Fact, Now, Operation, Outcome, Phase, Rejected, TransferId, Wish, encode_packed, millis,
    pack,
};
use crate::queue::{Entry, Place, Queue, Spot, Wait};
use crate::rows::Rows;
use crate::shelf::Shelf;
use crate::sorted::{Index, Positions};

/// All operations of one state directory.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Open while it is busy, and for a while once it has ended; packed else.
    rows: Rows,
    /// Those that may start now or at a moment, but for those in the hands of a worker; and those that run.
    queue: Queue,
    /// Begun to end, with a part file that may still be there, in no worker's hands; by when it may be looked at again.
    ending: BTreeSet<(u64, TransferId)>,
    /// The same of those that are being published, as far as they may be scheduled.
    finishing: BTreeSet<(u64, TransferId)>,
    /// Of both, the ones that were left alone for a while: until which moment of the boot-time clock, and how often.
    postponed: ById<(u64, u32)>,
    /// Orders of live operations, those that do not count yet among them, by the hash of their destination, and by that of
    /// app and URL.
    destinations: Index,
    urls: Index,
    history: History,
    groups: Groups,
    /// Those that were moved to the front of their group, by their position in the queue.
    promoted: HashMap<i64, TransferId>,
    /// Batches that are not committed yet.
    uncommitted: ByHash<[u8; 16], Batch>,
    /// In the hands of a worker.
    busy: Ids,
    /// Whether records were lost, and whose operations the others speak of without their creation being known.
    has_gap: bool,
    strangers: BTreeSet<TransferId>,
    /// Nothing on the disk has been looked at for these since records were lost.
    in_doubt: BTreeSet<TransferId>,
    /// Orders of those that the start of an engine may change.
    unsettled: Positions,
    /// Attempts of all that are here.
    attempts: u64,
    /// Only these may be scheduled, where set.
    only: Option<Ids>,
    unacknowledged_lost: u64,
    /// First LSN that is not contained in the totals.
    totals_as_of: u64,
}

/// Indexes in which a step leaves an operation where it is.
#[derive(Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is another index")]
struct Stays {
    in_groups: bool,
    among_live: bool,
    among_unsettled: bool,
    in_history: bool,
    /// A worker holds it: it is not to be scheduled, and nothing of it is left to anybody.
    in_hand: bool,
}

/// Operations remembered of those whose creation is not known. Beyond it what they left on the disk stays.
const STRANGERS_MAX: usize = 4_096;

impl Table {
    /// An empty one, whose packed operations go on this shelf.
    pub(crate) fn on(shelf: Box<dyn Shelf>) -> Self {
        Self {
            rows: Rows::on(shelf),
            ..Self::default()
        }
    }

    /// Applies one fact that the journal holds at `lsn`. Facts that the table contains already, and facts about
    /// operations that it does not know, change nothing: replaying twice is harmless.
    ///
    /// # Errors
    /// [`Rejected`] where the event does not fit; nothing has changed.
    pub(crate) fn apply(&mut self, fact: Fact, lsn: u64) -> Result<(), Rejected> {
        let Fact { id, at_ms, event } = fact;
        if let Event::Created { spec, started, batch } = event {
            if !self.rows.contains(id) {
                let mut operation = Operation::created(id, spec, lsn, at_ms);
                operation.batch = batch;
                if started {
                    operation.wish = Wish::Run;
                }
                self.insert(operation, lsn + 1);
            }
            return Ok(());
        }
        let Some(as_of) = self.rows.as_of(id) else {
            if self.strangers.len() < STRANGERS_MAX {
                self.strangers.insert(id);
            }
            return Ok(());
        };
        if lsn < as_of {
            return Ok(());
        }
        let Some(mut before) = self.find(id).map(Cow::into_owned) else {
            return Ok(());
        };
        // Only what was committed is ever worked on: a later fact proves a commit whose own record was lost.
        if let Some(batch) = before.batch.take() {
            self.commit(batch);
        }
        let (leaves, is_promoted) = (leaves(&event), event == Event::Promoted);
        let again = before.doubt.is_some().then(|| event.clone());
        let next = before.clone().apply(event, at_ms).or_else(|rejected| {
            let mended = again.and_then(|event| before.clone().mended(event, at_ms));
            mended.ok_or(rejected)
        })?;
        let before = Some(Box::new(before));
        let step = match leaves {
            Some(is_forgotten) => Step::Leaves {
                id,
                before,
                is_forgotten,
            },
            None => Step::Changes {
                before,
                next: Box::new(next),
                is_promoted,
            },
        };
        self.take_step(step, lsn);
        Ok(())
    }

    /// Records from `first` to before `next` were lost, and with them perhaps facts about every operation that has not ended.
    pub(crate) fn gap(&mut self, first: u64, next: u64) {
        self.has_gap = true;
        self.commit_what_may_be();
        for id in self.ids() {
            let contains_all = self.rows.as_of(id).is_some_and(|as_of| as_of > first && as_of >= next);
            let is_over = |operation: Cow<'_, Operation>| operation.has_ended();
            if contains_all || self.find(id).is_none_or(is_over) {
                continue;
            }
            if let Some((mut operation, as_of)) = self.take(id) {
                operation.doubt = Some(Doubt::Unseen);
                self.insert(operation, as_of);
            }
        }
    }

    /// Whether anything may have been left on the disk by what lost records spoke of.
    pub(crate) fn is_salvaged(&self) -> bool {
        self.has_gap || !self.in_doubt.is_empty()
    }

    /// How many operations there are of which nothing on the disk has been looked at since records were lost.
    pub(crate) fn in_doubt(&self) -> usize {
        self.in_doubt.len()
    }

    /// Whether records speak of an operation whose creation was lost.
    pub(crate) fn is_stranger(&self, id: TransferId) -> bool {
        self.has_gap && self.strangers.contains(&id)
    }

    /// How many operations records speak of whose creation was lost.
    pub(crate) fn strangers(&self) -> usize {
        if self.has_gap { self.strangers.len() } else { 0 }
    }

    /// Puts in an operation from a snapshot.
    pub(crate) fn restore(&mut self, operation: Operation, as_of: u64) {
        self.take(operation.id);
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
        self.groups.reopened(now);
        let unsettled: Vec<u64> = self.unsettled.iter().collect();
        for order in unsettled {
            if let Some((operation, as_of)) = self.rows.at(order).and_then(|id| self.take(id)) {
                self.insert(operation.reopened(now), as_of);
            }
        }
        self.queue.count_on_from(self.attempts);
    }

    /// From now on only these operations are scheduled.
    pub(crate) fn restrict_to(&mut self, only: Option<Ids>) {
        let changed: Vec<TransferId> = self
            .rows
            .ids()
            .filter(|id| chooses(self.only.as_ref(), *id) != chooses(only.as_ref(), *id))
            .collect();
        let (gone, new): (Vec<TransferId>, Vec<TransferId>) =
            changed.into_iter().partition(|id| chooses(self.only.as_ref(), *id));
        for id in gone {
            if let Some(operation) = self.find(id).map(Cow::into_owned) {
                self.schedule(&operation, false);
            }
        }
        self.only = only;
        for id in new {
            if let Some(operation) = self.find(id).map(Cow::into_owned) {
                self.schedule(&operation, true);
            }
        }
    }

    /// Whether an operation is one of those that scheduling was restricted to.
    pub(crate) fn is_chosen(&self, id: TransferId) -> bool {
        self.only.as_ref().is_some_and(|only| only.contains(&id))
    }

    /// Those that scheduling was restricted to, where it was.
    pub(crate) fn chosen(&self) -> Option<&Ids> {
        self.only.as_ref()
    }

    /// How many operations may be scheduled, where they were restricted.
    pub(crate) fn restricted_to(&self) -> Option<usize> {
        self.only.as_ref().map(Ids::len)
    }

    /// An operation: borrowed where it stands open, and else unpacked for the caller.
    pub(crate) fn find(&self, id: TransferId) -> Option<Cow<'_, Operation>> {
        let Some(batch) = self.batch_of(id) else {
            return self.rows.find(id);
        };
        let mut operation = self.rows.find(id)?.into_owned();
        operation.batch = Some(batch);
        Some(Cow::Owned(operation))
    }

    /// All operations in the order of their creation, one unpacked after the other.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = Cow<'_, Operation>> {
        self.rows.in_order()
    }

    /// Appends the entry of a snapshot for one operation, if it is there.
    pub(crate) fn encode(&self, id: TransferId, buffer: &mut Vec<u8>) {
        if self.batch_of(id).is_none() {
            // What stands in the rows says nothing of a batch, and goes as it is.
            self.rows.encode(id, buffer);
        } else if let Some((as_of, operation)) = self.rows.as_of(id).zip(self.find(id)) {
            encode_packed(&pack(&operation), as_of, buffer);
        }
    }

    pub(crate) fn contains(&self, id: TransferId) -> bool {
        self.rows.contains(id)
    }

    pub(crate) fn ids(&self) -> Vec<TransferId> {
        self.rows.ids().collect()
    }

    /// Ids from an order on, each with its order, ascending.
    pub(crate) fn ids_from(&self, order: u64) -> impl Iterator<Item = (u64, TransferId)> {
        self.rows.ids_from(order)
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// How many operations an app has.
    pub(crate) fn count_of_app(&self, app: &str) -> usize {
        self.rows.count_of_app(app)
    }

    /// All operations, for listings.
    pub(crate) fn rows(&self) -> &Rows {
        &self.rows
    }

    pub(crate) fn totals_as_of(&self) -> u64 {
        self.totals_as_of
    }

    pub(crate) fn unacknowledged_lost(&self) -> u64 {
        self.unacknowledged_lost
    }

    /// The live operation for a destination, if there is one.
    pub(crate) fn live_for_destination(&self, destination: &Path) -> Option<Cow<'_, Operation>> {
        let key = self.has_live().then(|| hash(destination.as_os_str()));
        self.candidates(&self.destinations, key)
            .find(|operation| operation.spec.destination == destination)
    }

    /// The live operations of an app for a URL as it is shown.
    pub(crate) fn live_for_url(&self, app: &str, url: &str) -> impl Iterator<Item = Cow<'_, Operation>> {
        let key = self.has_live().then(|| hash(&(app, url)));
        self.candidates(&self.urls, key)
            .filter(move |operation| operation.spec.app == app && operation.spec.url == url)
    }

    /// Completed operations whose end nobody has acknowledged.
    pub(crate) fn unacknowledged_completed(&self) -> impl Iterator<Item = Cow<'_, Operation>> {
        let completed = self.completed(self.history.unacknowledged());
        completed.filter(|operation| operation.acknowledged_at_ms.is_none())
    }

    /// Completed operations whose end somebody has acknowledged, as far as they are kept.
    pub(crate) fn acknowledged_completed(&self) -> impl Iterator<Item = Cow<'_, Operation>> {
        self.completed(self.history.acknowledged())
    }

    fn completed(&self, ended: impl Iterator<Item = TransferId>) -> impl Iterator<Item = Cow<'_, Operation>> {
        let ended = ended.filter_map(|id| self.find(id));
        ended.filter(|operation| operation.phase == Phase::Ended(Outcome::Completed))
    }

    /// Operations that count under a key, and under those that look like it.
    fn candidates<'a>(&'a self, index: &'a Index, key: Option<u64>) -> impl Iterator<Item = Cow<'a, Operation>> {
        let orders = key.into_iter().flat_map(|key| index.positions(key));
        let found = orders.filter_map(|order| self.find(self.rows.at(order)?));
        found.filter(|operation| operation.batch.is_none())
    }

    /// How many ended operations may stay unpacked until they are acknowledged; only while none does.
    pub(crate) fn limit_lingering(&mut self, max: usize) {
        self.rows.limit_lingering(max);
    }

    /// How many attempts may run at one host; only while none runs.
    pub(crate) fn limit_hosts(&mut self, per_host_max: Option<NonZeroUsize>) {
        self.queue.limit_hosts(per_host_max);
    }

    /// The next moment after now at which anything may be done, in milliseconds of the boot-time clock.
    pub(crate) fn next_moment(&self, now: Now) -> Option<u64> {
        let later = (now.boot_ms.saturating_add(1), TransferId([0; 16]));
        let timer = self.timers().next().map(|(due_ms, _)| due_ms);
        let others = [&self.finishing, &self.ending];
        let others = others.into_iter().filter_map(|waiting| waiting.range(later..).next());
        let others = others.map(|(due_ms, _)| *due_ms);
        timer.into_iter().chain(others).chain(self.next_run(now)).min()
    }

    /// Operations that wait for a moment (milliseconds of the boot-time clock) that had not come at the last decision,
    /// earliest first.
    pub(crate) fn timers(&self) -> impl Iterator<Item = (u64, TransferId)> {
        let timers = self.queue.timers();
        timers.filter_map(|(due_ms, position)| Some((due_ms, self.at(position)?)))
    }

    /// Nothing is left that an engine could do now or later by itself, as far as it is about those it works on.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty()
            && !self.ending.iter().any(|(_, id)| chooses(self.only.as_ref(), *id))
            && self.finishing.is_empty()
            && self.busy.is_empty()
            && self.runs().next().is_none()
    }

    /// Moves the moment that a blocked operation waits for, in memory only: looking again changed nothing.
    pub(crate) fn postpone(&mut self, id: TransferId, now: Now, delay: Duration) {
        if let Some((mut operation, as_of)) = self.take(id) {
            if let Phase::Blocked { probe_at, .. } = &mut operation.phase {
                *probe_at = Deadline::after(now, millis(delay));
            }
            self.insert(operation, as_of);
        }
    }

    /// A worker takes an operation into its hands, or lets it go.
    pub(crate) fn set_busy(&mut self, id: TransferId, busy: bool) {
        if busy == self.busy.contains(&id) {
            return;
        }
        // It stands to be scheduled only while it is free.
        self.busy.remove(&id);
        if busy {
            self.rows.set_open(id, true);
        } else {
            self.queue.let_go(id);
        }
        let (rest, entry) = match self.find(id) {
            Some(operation) => (self.rest(&operation), self.entry(&operation)),
            None => (None, None),
        };
        self.leave(rest, !busy);
        if let Some(entry) = entry {
            self.queue.put(&entry, !busy);
        }
        if busy {
            self.busy.insert(id);
        } else {
            self.rows.set_open(id, false);
        }
    }

    pub(crate) fn is_busy(&self, id: TransferId) -> bool {
        self.busy.contains(&id)
    }

    /// Up to `max` of the ended operations that the history has no room or time for, oldest first.
    pub(crate) fn expired(&self, wall_ms: u64, retention: &Retention, max: usize) -> Vec<TransferId> {
        self.history.expired(wall_ms, retention, max)
    }

    fn insert(&mut self, mut operation: Operation, as_of: u64) {
        self.rows.place(&mut operation);
        self.index(&operation, true);
        if let Some(batch) = operation.batch.take() {
            self.wait_for(batch, &operation);
        }
        let open = self.busy.contains(&operation.id);
        self.rows.put(operation, as_of, open);
    }

    fn take(&mut self, id: TransferId) -> Option<(Operation, u64)> {
        let as_of = self.rows.as_of(id)?;
        let operation = self.find(id)?.into_owned();
        self.remove(&operation);
        Some((operation, as_of))
    }

    /// Takes out the state that [`Table::find`] gave.
    fn remove(&mut self, operation: &Operation) {
        self.index(operation, false);
        self.rows.remove(operation);
        if let Some(batch) = operation.batch
            && let Some(batched) = self.uncommitted.get_mut(&batch.0)
            && batched.remove(operation.order)
        {
            self.uncommitted.remove(&batch.0);
        }
    }

    /// Adds an operation to the indexes it belongs to, or takes it out of them: one list of rules for both.
    fn index(&mut self, operation: &Operation, add: bool) {
        self.index_but(operation, add, Stays::default());
    }

    fn index_but(&mut self, operation: &Operation, add: bool, stays: Stays) {
        let id = operation.id;
        if operation.doubt == Some(Doubt::Unseen) {
            put(&mut self.in_doubt, id, add);
        }
        if !stays.among_unsettled && operation.is_reopened_otherwise() {
            self.unsettled.put(operation.order, add);
        }
        let attempts = u64::from(operation.attempts);
        if add {
            self.attempts += attempts;
        } else {
            self.attempts -= attempts;
        }
        if operation.is_live() && !stays.among_live {
            let (spec, order) = (&operation.spec, operation.order);
            self.destinations.put(hash(spec.destination.as_os_str()), order, add);
            self.urls.put(hash(&(spec.app.as_str(), spec.url.as_str())), order, add);
        }
        if operation.batch.is_none() {
            self.index_committed(operation, add, stays);
        }
    }

    /// The same for the indexes that hold only what counts.
    fn index_committed(&mut self, operation: &Operation, add: bool, stays: Stays) {
        if !stays.in_groups {
            self.groups.index(operation, add);
        }
        if operation.is_live() && !stays.among_live {
            self.index_promoted(operation, add);
        }
        if !stays.in_history {
            self.history.put(operation, self.groups.holds(operation), add);
        }
        if !stays.in_hand {
            if matches!(operation.phase, Phase::Ending(_)) {
                self.leave(self.rest(operation), add);
            }
            self.schedule(operation, add);
        }
        if !add {
            self.postponed.remove(&operation.id);
        }
    }

    /// The same for the indexes that hold only what is to be scheduled.
    fn schedule(&mut self, operation: &Operation, add: bool) {
        if matches!(operation.phase, Phase::Publishing(_)) {
            self.leave(self.rest(operation), add);
        }
        if let Some(entry) = self.entry(operation) {
            self.queue.put(&entry, add);
        }
    }

    /// What the queue holds of an operation, if it is to start now or at a moment and no worker holds it.
    fn entry(&self, operation: &Operation) -> Option<Entry> {
        let id = operation.id;
        if operation.batch.is_some() {
            return None;
        }
        let wait = match operation.deadline() {
            Some(deadline) => Wait::Until(deadline.boot_ms()),
            None if operation.phase == Phase::Ready && operation.wish == Wish::Run => {
                Wait::Turn(operation.spec.priority)
            }
            None => return None,
        };
        // Last, as it takes longest.
        if self.busy.contains(&id) || !chooses(self.only.as_ref(), id) {
            return None;
        }
        Some(Entry {
            spot: spot(operation),
            place: place(operation),
            wait,
            group: self.groups.serialized(operation),
        })
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Table {
    /// Those that wait for their turn, best first as if no other ran.
    pub(crate) fn ranked(&self) -> Vec<TransferId> {
        let ranked = self.queue.ranked();
        ranked.into_iter().filter_map(|position| self.at(position)).collect()
    }
}

#[cfg(test)]
impl Table {
    /// What all changes and decisions have cost so far, in entries of indexes.
    pub(crate) fn looks(&self) -> u64 {
        self.queue.looks()
    }
}

/// Whether scheduling that is restricted so is about an operation.
fn chooses(only: Option<&Ids>, id: TransferId) -> bool {
    only.is_none_or(|only| only.contains(&id))
}

fn spot(operation: &Operation) -> Spot {
    Spot::new(operation.spec.priority, operation.order, operation.promoted)
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

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
