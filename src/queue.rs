//! Who is next among those that may start. Pure; every question and every change costs the logarithm of what is queued.
//!
//! Operations stand in lanes, one for each app and host. A lane whose host has no slot left is taken off the list of its
//! app as a whole, so that nobody walks past it, however long it is; the end of an attempt there puts it back.
//!
//! Order: first those whose moment has come, then by priority. Within one class the app goes first that has the fewest
//! attempts running, then the one whose last start is longest ago; within an app, the moment or the age decides. Every
//! [`TURN`]th start goes to the oldest of an app instead, whatever its priority. Age is counted in starts and not in time
//! on purpose: a backlog of a day must not make `High` mean nothing, and a wrong clock neither promotes nor starves.
//!
//! Of a serialized group only the first stands in a lane, and nobody while one of them is at work; the others stand behind
//! it in a set of their own, in the order of the group: those that were moved to its front, then by priority and age.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::num::NonZeroUsize;

use crate::hashed::{ByHash, ById};
use crate::operation::{Priority, TransferId};
use crate::sorted::{Positions, SortedSet};

/// One start of so many goes to the oldest (chosen without measurement: rank decides seven of eight, and what has the
/// lowest rank still moves at an eighth of the speed).
pub(crate) const TURN: u64 = 8;

/// Apps that are remembered at most while they have nothing queued and nothing running.
const APPS_IDLE_MAX: usize = 4_096;

/// Those whose moment has come, then `High`, `Default`, `Low`.
const CLASSES: usize = 4;
const DUE: usize = 0;

/// Whose operation it is, and where it goes next: hashes of the app and of scheme, host and port. Two that collide share
/// their limits, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) app: u64,
    pub(crate) host: u64,
}

impl Hash for Place {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Both are hashes, and many places have one of them in common.
        state.write_u64(self.app.rotate_left(32) ^ self.host);
    }
}

/// What a queued operation waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Its turn.
    Turn(Priority),
    /// A moment on the boot-time clock in milliseconds, and then its turn.
    Until(u64),
}

/// One operation that may start, now or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) spot: Spot,
    pub(crate) place: Place,
    pub(crate) wait: Wait,
    /// Its transfer group, where that is a serialized one.
    pub(crate) group: Option<u64>,
}

/// Where an operation stands in its transfer group; the least comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Spot {
    /// 0 for those that were moved to the front, then the classes of priorities.
    rank: u8,
    /// Position among all operations ever created; below 0, and the later the lower, where it was moved to the front. It
    /// stands for the operation here: no two have the same.
    position: i64,
}

impl Spot {
    pub(crate) fn position(self) -> i64 {
        self.position
    }

    /// `order` is the LSN of its creation, `promoted` that of its move to the front.
    pub(crate) fn new(priority: Priority, order: u64, promoted: Option<u64>) -> Self {
        let signed = |lsn: u64| i64::try_from(lsn).unwrap_or(i64::MAX);
        match promoted {
            Some(lsn) => Self {
                rank: 0,
                position: -1 - signed(lsn),
            },
            None => Self {
                rank: class_of(priority),
                position: signed(order),
            },
        }
    }
}

/// Moment (0 where there is none), and position, which no two have in common.
type Key = (u64, i64);

/// How an app stands in a class: attempts that run, its last start, its first operation there, itself. The least is next.
type Standing = (usize, u64, Key, u64);

/// All that wait and all that run.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// Moments that had not come when [`Queue::take_due`] looked, by moment and position.
    timers: SortedSet<Key>,
    lanes: ByHash<Place, Lane>,
    apps: ByHash<u64, App>,
    hosts: ByHash<u64, Host>,
    best: [BTreeSet<Standing>; CLASSES],
    running: ById<Place>,
    /// Transfer groups of which somebody waits or is at work.
    groups: HashMap<u64, Group>,
    /// Those that have the turn of their group, which they keep until their worker and the publisher have let go of them.
    turns: ById<u64>,
    /// All that wait in serialized groups.
    grouped: usize,
    /// Attempts ever started, as far as known.
    starts: u64,
    per_host_max: Option<NonZeroUsize>,
    /// Entries of indexes that were read, put in or taken out so far: what all of this costs, exactly.
    looks: u64,
}

#[derive(Debug, Default)]
struct Lane {
    due: SortedSet<Key>,
    /// Positions in the other classes, which know no moments.
    turns: [Positions; CLASSES - 1],
}

impl Lane {
    fn put(&mut self, class: usize, key: Key, add: bool) {
        match class.checked_sub(1).and_then(|class| self.turns.get_mut(class)) {
            Some(turns) => turns.put(unsigned(key.1), add),
            None => {
                self.due.put(key, add);
            }
        }
    }

    /// The first of one class.
    fn first(&self, class: usize) -> Option<Key> {
        match class.checked_sub(1).and_then(|class| self.turns.get(class)) {
            Some(turns) => turns.first().map(|position| (0, signed(position))),
            None => self.due.first(),
        }
    }

    /// The first of each class.
    fn firsts(&self) -> impl Iterator<Item = Option<Key>> {
        (0..CLASSES).map(|class| self.first(class))
    }

    fn is_empty(&self) -> bool {
        self.due.is_empty() && self.turns.iter().all(Positions::is_empty)
    }
}

/// A position as a number whose order is the same.
fn unsigned(position: i64) -> u64 {
    position.cast_unsigned() ^ (1 << 63)
}

fn signed(position: u64) -> i64 {
    (position ^ (1 << 63)).cast_signed()
}

#[derive(Debug, Default)]
struct App {
    running: usize,
    /// Number of its last start. Whoever comes new joins at the end of the round.
    last: u64,
    lanes: usize,
    /// First of each lane whose host has a slot, with that host.
    heads: [BTreeSet<(Key, u64)>; CLASSES],
}

#[derive(Debug, Default)]
struct Group {
    /// How many have the turn. More than one only where they were begun before the group was serialized.
    at_work: usize,
    /// Those that could start if it were not for the others.
    waiting: BTreeMap<Spot, Standby>,
    /// The one of them that stands in a lane.
    head: Option<Standby>,
}

/// Where one of a serialized group will stand once it is the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standby {
    place: Place,
    class: usize,
    key: Key,
}

#[derive(Debug, Default)]
struct Host {
    running: usize,
    /// Those that have a lane there.
    apps: BTreeSet<u64>,
}

impl Entry {
    fn key(&self) -> Key {
        match self.wait {
            Wait::Turn(_) => (0, self.spot.position),
            Wait::Until(due_ms) => (due_ms, self.spot.position),
        }
    }

    fn standby(&self) -> Standby {
        let class = match self.wait {
            Wait::Turn(priority) => usize::from(class_of(priority)),
            Wait::Until(_) => DUE,
        };
        Standby {
            place: self.place,
            class,
            key: self.key(),
        }
    }
}

fn class_of(priority: Priority) -> u8 {
    match priority {
        Priority::High => 1,
        Priority::Default => 2,
        Priority::Low => 3,
    }
}

impl Queue {
    /// Sets how many attempts may run at one host. Only while none runs.
    pub(crate) fn limit_hosts(&mut self, per_host_max: Option<NonZeroUsize>) {
        debug_assert!(
            self.running.is_empty(),
            "lanes are taken off their lists as attempts start"
        );
        self.per_host_max = per_host_max;
    }

    /// The count of starts goes on from here: an engine that is often restarted must not begin each round anew.
    pub(crate) fn count_on_from(&mut self, starts: u64) {
        self.starts = starts;
    }

    /// Adds an operation, or takes it out.
    pub(crate) fn put(&mut self, entry: &Entry, add: bool) {
        self.looks += 1;
        match entry.wait {
            Wait::Until(_) if add => {
                self.timers.insert(entry.key());
            }
            Wait::Until(_) if self.timers.remove(entry.key()) => {}
            _ => self.admit(entry, add),
        }
    }

    /// Takes out the first whose moment has come, by its position: the caller lets it [wait for its turn](Queue::mature), once
    /// for each wait, so that no decision walks past it again.
    pub(crate) fn take_due(&mut self, boot_ms: u64) -> Option<i64> {
        let first = self.timers.first().filter(|(due_ms, _)| *due_ms <= boot_ms)?;
        self.timers.remove(first);
        self.looks += 1;
        Some(first.1)
    }

    /// What [`Queue::take_due`] took out waits for its turn from now on.
    pub(crate) fn mature(&mut self, entry: &Entry) {
        self.admit(entry, true);
    }

    /// Who starts next, by its position, if a slot is free.
    pub(crate) fn next(&mut self) -> Option<i64> {
        let oldest = if (self.starts + 1).is_multiple_of(TURN) {
            self.oldest()
        } else {
            None
        };
        oldest.or_else(|| self.best_in_rank())
    }

    fn best_in_rank(&mut self) -> Option<i64> {
        self.looks += CLASSES as u64 + 1;
        let (class, best) = self.best.iter().enumerate().find(|(_, best)| !best.is_empty())?;
        let (_, _, _, app) = best.first()?;
        let ((_, position), _) = self.apps.get(app)?.heads[class].first()?;
        Some(*position)
    }

    /// Those whose moment has come are no part of it: they go first anyway.
    fn oldest(&mut self) -> Option<i64> {
        self.looks += 2 * CLASSES as u64;
        let bests = self.best[DUE + 1..].iter();
        let (_, _, _, app) = bests.filter_map(BTreeSet::first).min()?;
        let heads = self.apps.get(app)?.heads[DUE + 1..].iter();
        let ((_, position), _) = heads.filter_map(BTreeSet::first).min()?;
        Some(*position)
    }

    /// An attempt begins; the operation is not among those that wait. `group` is its transfer group, serialized or not.
    pub(crate) fn start(&mut self, id: TransferId, place: Place, group: Option<u64>) {
        self.starts += 1;
        if let Some(number) = group
            && self.turns.insert(id, number).is_none()
        {
            self.groups.entry(number).or_default().at_work += 1;
            self.settle(number);
        }
        self.running.insert(id, place);
        let running = self.hosts.entry(place.host).or_default().running + 1;
        if self.per_host_max.is_some_and(|max| running == max.get()) {
            self.list_host(place.host, false);
        }
        self.hosts.entry(place.host).or_default().running = running;
        self.remember(place.app);
        self.stand(place.app, false);
        let starts = self.starts;
        if let Some(app) = self.apps.get_mut(&place.app) {
            app.running += 1;
            app.last = starts;
        }
        self.stand(place.app, true);
    }

    /// An attempt is over.
    pub(crate) fn end(&mut self, id: TransferId) {
        let Some(place) = self.running.remove(&id) else { return };
        self.stand(place.app, false);
        if let Some(app) = self.apps.get_mut(&place.app) {
            app.running -= 1;
        }
        self.stand(place.app, true);
        let was_full = self.is_full(place.host);
        if let Some(host) = self.hosts.get_mut(&place.host) {
            host.running -= 1;
        }
        if was_full {
            self.list_host(place.host, true);
        }
        self.forget_host_if_empty(place.host);
    }

    /// Nobody has the operation in hand any more: the turn of its group goes to the next one.
    pub(crate) fn let_go(&mut self, id: TransferId) {
        let Some(number) = self.turns.remove(&id) else { return };
        if let Some(group) = self.groups.get_mut(&number) {
            group.at_work -= 1;
        }
        self.settle(number);
    }

    /// Whether an operation that may start has to let another one of its serialized group go first.
    pub(crate) fn is_behind(&self, group: u64, id: TransferId, spot: Spot) -> bool {
        let Some(group) = self.groups.get(&group) else {
            return false;
        };
        let is_other = |head: Standby| head.key.1 != spot.position;
        group.at_work > usize::from(self.turns.contains_key(&id)) || group.head.is_some_and(is_other)
    }

    /// Whether a host has no slot left.
    pub(crate) fn is_full(&self, host: u64) -> bool {
        let running = self.hosts.get(&host).map_or(0, |host| host.running);
        self.per_host_max.is_some_and(|max| running >= max.get())
    }

    /// Nobody waits for a turn or for a moment.
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.timers.is_empty() && self.grouped == 0
    }

    /// Those that wait for a moment that has not come, by moment and position, earliest first.
    pub(crate) fn timers(&self) -> impl Iterator<Item = (u64, i64)> {
        self.timers.iter()
    }

    /// Puts one that may start where it stands, or takes it away.
    fn admit(&mut self, entry: &Entry, add: bool) {
        let standby = entry.standby();
        let Some(number) = entry.group else {
            return self.put_in_lane(standby, add);
        };
        self.looks += 1;
        let waiting = &mut self.groups.entry(number).or_default().waiting;
        let before = waiting.len();
        if add {
            waiting.insert(entry.spot, standby);
        } else {
            waiting.remove(&entry.spot);
        }
        self.grouped = self.grouped + waiting.len() - before;
        self.settle(number);
    }

    /// Lets the first of a group stand in a lane, where none of them is at work, and nobody else.
    fn settle(&mut self, number: u64) {
        self.looks += 1;
        let Some(group) = self.groups.get_mut(&number) else {
            return;
        };
        let first = group.waiting.first_key_value().map(|(_, standby)| *standby);
        let next = first.filter(|_| group.at_work == 0);
        let before = std::mem::replace(&mut group.head, next);
        if group.at_work == 0 && group.waiting.is_empty() {
            self.groups.remove(&number);
        }
        if before == next {
            return;
        }
        if let Some(standby) = before {
            self.put_in_lane(standby, false);
        }
        if let Some(standby) = next {
            self.put_in_lane(standby, true);
        }
    }

    fn put_in_lane(&mut self, standby: Standby, add: bool) {
        let Standby { place, class, key } = standby;
        self.looks += 1;
        let is_new = !self.lanes.contains_key(&place);
        let lane = self.lanes.entry(place).or_default();
        let before = lane.first(class);
        lane.put(class, key, add);
        let after = lane.first(class);
        let is_empty = lane.is_empty();
        if is_new || is_empty {
            self.open_or_close(place, is_new, is_empty);
        }
        // Nobody asks for more of a lane than the first of each class.
        if before != after && !self.is_full(place.host) {
            self.move_head(place, class, before, after);
        }
    }

    /// A lane has come into being with its first entry, or has lost its last one.
    fn open_or_close(&mut self, place: Place, is_new: bool, is_empty: bool) {
        self.remember(place.app);
        let host = self.hosts.entry(place.host).or_default();
        if is_empty {
            self.lanes.remove(&place);
            host.apps.remove(&place.app);
        } else {
            host.apps.insert(place.app);
        }
        if let Some(app) = self.apps.get_mut(&place.app) {
            app.lanes += usize::from(is_new);
            app.lanes -= usize::from(is_empty);
        }
        self.forget_host_if_empty(place.host);
    }

    /// Another one is the first of its class in a lane: on the list of its app, and where it is the first there, too, among
    /// the apps.
    fn move_head(&mut self, place: Place, class: usize, before: Option<Key>, after: Option<Key>) {
        self.looks += 2;
        let Some(app) = self.apps.get_mut(&place.app) else {
            return;
        };
        let heads = &mut app.heads[class];
        let first_before = heads.first().copied();
        if let Some(before) = before {
            heads.remove(&(before, place.host));
        }
        if let Some(after) = after {
            heads.insert((after, place.host));
        }
        let first_after = heads.first().copied();
        if first_before == first_after {
            return;
        }
        for (first, add) in [(first_before, false), (first_after, true)] {
            if let Some((first, _)) = first {
                put(&mut self.best[class], (app.running, app.last, first, place.app), add);
            }
        }
    }

    /// Puts the firsts of all lanes at a host on the lists of their apps, or takes them off.
    fn list_host(&mut self, host: u64, add: bool) {
        let apps: Vec<u64> = self
            .hosts
            .get(&host)
            .map(|host| host.apps.iter().copied().collect())
            .unwrap_or_default();
        for app in apps {
            self.stand(app, false);
            self.list(Place { app, host }, add);
            self.stand(app, true);
        }
    }

    /// Puts the firsts of one lane on the list of its app, or takes them off. One at a full host is on none.
    fn list(&mut self, place: Place, add: bool) {
        if self.is_full(place.host) {
            return;
        }
        let (Some(lane), Some(app)) = (self.lanes.get(&place), self.apps.get_mut(&place.app)) else {
            return;
        };
        for (first, heads) in lane.firsts().zip(&mut app.heads) {
            self.looks += 1;
            if let Some(first) = first {
                put(heads, (first, place.host), add);
            }
        }
    }

    /// Gives an app its place among the others, or takes it out, for a change of what decides on that.
    fn stand(&mut self, number: u64, add: bool) {
        let Some(app) = self.apps.get(&number) else { return };
        for (heads, best) in app.heads.iter().zip(&mut self.best) {
            self.looks += 1;
            if let Some((first, _)) = heads.first() {
                put(best, (app.running, app.last, *first, number), add);
            }
        }
    }

    fn remember(&mut self, app: u64) {
        if self.apps.contains_key(&app) {
            return;
        }
        if self.apps.len() >= APPS_IDLE_MAX + self.lanes.len() + self.running.len() {
            self.apps.retain(|_, app| app.lanes + app.running > 0);
        }
        let last = self.starts;
        self.apps.insert(app, App { last, ..App::default() });
    }

    fn forget_host_if_empty(&mut self, host: u64) {
        if self
            .hosts
            .get(&host)
            .is_some_and(|host| host.running == 0 && host.apps.is_empty())
        {
            self.hosts.remove(&host);
        }
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Lane {
    /// All that stand there, by class.
    fn all(&self) -> impl Iterator<Item = (usize, Key)> {
        let turns = self.turns.iter().enumerate();
        let turns =
            turns.flat_map(|(class, turns)| turns.iter().map(move |position| (class + 1, (0, signed(position)))));
        self.due.iter().map(|key| (DUE, key)).chain(turns)
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Queue {
    /// Those that wait for their turn, best first as if no other ran and no turn came.
    pub(crate) fn ranked(&self) -> Vec<i64> {
        let lanes = self.lanes.values();
        let mut all: Vec<(usize, Key)> = lanes.flat_map(Lane::all).collect();
        let groups = self.groups.values().flat_map(|group| group.waiting.values());
        all.extend(groups.map(|standby| (standby.class, standby.key)));
        all.sort_unstable();
        all.dedup();
        all.into_iter().map(|(_, (_, position))| position).collect()
    }
}

#[cfg(test)]
impl Queue {
    pub(crate) fn looks(&self) -> u64 {
        self.looks
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
    use super::*;

    impl Queue {
        /// What decides on the next start is what follows from who stands in the lanes.
        pub(crate) fn check(&self) {
            let mut heads: HashMap<u64, [BTreeSet<(Key, u64)>; CLASSES]> = HashMap::new();
            let mut lanes: HashMap<u64, usize> = HashMap::new();
            for (place, lane) in &self.lanes {
                assert!(!lane.is_empty() && self.hosts[&place.host].apps.contains(&place.app));
                *lanes.entry(place.app).or_default() += 1;
                if self.is_full(place.host) {
                    continue;
                }
                for class in 0..CLASSES {
                    let all = lane.all().filter(|(of, _)| *of == class);
                    if let Some(first) = all.map(|(_, key)| key).min() {
                        heads.entry(place.app).or_default()[class].insert((first, place.host));
                    }
                }
            }
            let mut best: [BTreeSet<Standing>; CLASSES] = Default::default();
            for (number, app) in &self.apps {
                assert_eq!(app.lanes, lanes.remove(number).unwrap_or_default());
                assert_eq!(app.heads, heads.remove(number).unwrap_or_default());
                for (heads, best) in app.heads.iter().zip(&mut best) {
                    best.extend(heads.first().map(|(first, _)| (app.running, app.last, *first, *number)));
                }
            }
            assert!(lanes.is_empty() && heads.is_empty());
            assert_eq!(self.best, best);
            let listed = self.hosts.values().map(|host| host.apps.len());
            assert_eq!(listed.sum::<usize>(), self.lanes.len());
        }
    }
}
