//! Who is told what: monitors, what each has been told, and what waits for those that read slowly. Pure.
//!
//! What has changed is made into bytes once for all monitors of one subject. One that has not taken its last update is
//! given no other: what changes meanwhile is noted once for each operation, and told as it is when it reads again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::shared::Token;
use crate::engine::{Filter, OperationView};
use crate::operation::TransferId;
use crate::service::message::reply;
use crate::service::monitor::{Told, UPDATE_MAX};

/// Operations noted for one monitor that reads slowly; with more than that it reads everything again from its cursor.
const PENDING_MAX: usize = 1_024;
/// Shortest time between two updates, and how much longer it is for each monitor, up to the longest: a burst of changes
/// is told as few updates, and costs a full-speed transfer little however many look on.
const FLUSH_EVERY_MIN: Duration = Duration::from_millis(20);
const FLUSH_PER_MONITOR: Duration = Duration::from_micros(200);
const FLUSH_EVERY_MAX: Duration = Duration::from_millis(500);
/// Shortest time between two reports of progress for each monitor: all together get at most 1,000 a second.
const PROGRESS_PER_MONITOR: Duration = Duration::from_millis(1);

/// The bytes of one update.
pub(crate) type Message = Arc<[u8]>;

/// An operation as it is now.
#[derive(Debug)]
pub(crate) struct Change {
    id: TransferId,
    /// Nothing where its record is gone.
    now: Option<(OperationView, Box<RawValue>)>,
}

impl Change {
    pub(crate) fn new(id: TransferId, view: Option<OperationView>) -> Self {
        let now = view.and_then(|view| to_raw_value(&view).ok().map(|json| (view, json)));
        Self { id, now }
    }

    pub(crate) fn id(&self) -> TransferId {
        self.id
    }

    pub(crate) fn view(&self) -> Option<&OperationView> {
        self.now.as_ref().map(|(view, _)| view)
    }
}

/// What monitors are told of, and how often of progress.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Subject {
    filter: Filter,
    ids: Option<Arc<BTreeSet<TransferId>>>,
    every: Option<Duration>,
}

impl Subject {
    /// Whose record is gone has no app any more: whoever did not name its ids is told.
    fn wants(&self, change: &Change) -> bool {
        let is_named = self.ids.as_ref().is_none_or(|ids| ids.contains(&change.id));
        is_named && change.view().is_none_or(|view| self.filter.matches(view))
    }
}

/// Monitors that are told the same.
struct Group {
    subject: Subject,
    members: BTreeSet<Token>,
    /// When it is told of progress next.
    progress_at: Instant,
}

struct Monitor {
    group: u64,
    /// What it has been told; elsewhere while a thread looks for what it has missed.
    told: Option<Told>,
    pending: BTreeSet<TransferId>,
    /// It has missed more than is noted.
    has_missed: bool,
    /// Its last update was taken by the system.
    is_drained: bool,
}

impl Monitor {
    /// It may be told at once what all are told.
    fn is_ready(&self) -> bool {
        let is_caught_up = self.told.as_ref().is_some_and(Told::caught_up);
        is_caught_up && self.is_drained && self.pending.is_empty() && !self.has_missed
    }

    fn note(&mut self, ids: impl Iterator<Item = TransferId>) {
        if self.has_missed {
            return;
        }
        self.pending.extend(ids);
        if self.pending.len() > PENDING_MAX {
            self.miss();
        }
    }

    fn miss(&mut self) {
        self.pending = BTreeSet::new();
        self.has_missed = true;
    }
}

/// What one monitor is to be told next.
pub(crate) enum Next {
    /// A thread has to look for what it has missed, and give this back.
    CatchUp(Told),
    /// These have changed.
    Changed(Vec<TransferId>),
    /// Nothing now.
    Nothing,
}

#[derive(Default)]
pub(crate) struct Fanout {
    monitors: BTreeMap<Token, Monitor>,
    groups: BTreeMap<u64, Group>,
    numbers: HashMap<Subject, u64>,
    next_group: u64,
    /// Everything that was noted below this cursor has been told or is pending.
    cursor: u64,
}

impl Fanout {
    pub(crate) fn len(&self) -> usize {
        self.monitors.len()
    }

    pub(crate) fn contains(&self, token: Token) -> bool {
        self.monitors.contains_key(&token)
    }

    pub(crate) fn tokens(&self) -> Vec<Token> {
        self.monitors.keys().copied().collect()
    }

    /// One more looks on; it begins with what it has missed.
    pub(crate) fn add(&mut self, token: Token, told: Told, now: Instant) {
        let (filter, ids) = told.subject();
        let subject = Subject {
            filter: filter.clone(),
            ids: ids.cloned().map(Arc::new),
            every: told.progress_every(),
        };
        let number = *self.numbers.entry(subject.clone()).or_insert(self.next_group);
        self.next_group += u64::from(number == self.next_group);
        let group = self.groups.entry(number).or_insert_with(|| Group {
            progress_at: now + subject.every.unwrap_or_default(),
            subject,
            members: BTreeSet::new(),
        });
        group.members.insert(token);
        let monitor = Monitor {
            group: number,
            told: Some(told),
            pending: BTreeSet::new(),
            has_missed: false,
            is_drained: true,
        };
        self.monitors.insert(token, monitor);
    }

    pub(crate) fn remove(&mut self, token: Token) {
        let Some(monitor) = self.monitors.remove(&token) else {
            return;
        };
        let Some(group) = self.groups.get_mut(&monitor.group) else {
            return;
        };
        group.members.remove(&token);
        if group.members.is_empty() {
            self.numbers.remove(&group.subject);
            self.groups.remove(&monitor.group);
        }
    }

    // ---- all monitors ----

    /// Shortest time between two updates now.
    pub(crate) fn flush_every(&self) -> Duration {
        let monitors = u32::try_from(self.len()).unwrap_or(u32::MAX);
        (FLUSH_PER_MONITOR * monitors).clamp(FLUSH_EVERY_MIN, FLUSH_EVERY_MAX)
    }

    /// Tells all of what has changed. `cursor`: whatever lies below it has been noted before, and is among these or was told.
    pub(crate) fn tell(&mut self, changes: &[Change], cursor: u64) -> Vec<(Token, Message)> {
        self.cursor = self.cursor.max(cursor);
        let mut messages = Vec::new();
        for group in self.groups.values() {
            let wanted: Vec<&Change> = changes.iter().filter(|change| group.subject.wants(change)).collect();
            if wanted.is_empty() {
                continue;
            }
            let mut shared = None;
            for token in &group.members {
                let Some(monitor) = self.monitors.get_mut(token) else {
                    continue;
                };
                if monitor.is_ready() {
                    let message = shared.get_or_insert_with(|| update(&wanted, self.cursor));
                    messages.push((*token, Arc::clone(message)));
                    monitor.is_drained = false;
                    if let Some(told) = &mut monitor.told {
                        told.advance(self.cursor);
                    }
                } else {
                    monitor.note(wanted.iter().map(|change| change.id));
                }
            }
        }
        messages
    }

    /// More has changed than was noted: all look for themselves what they have missed.
    pub(crate) fn all_missed(&mut self) {
        for monitor in self.monitors.values_mut() {
            monitor.miss();
        }
    }

    // ---- progress ----

    /// When somebody is told of progress next, if anybody wants it.
    pub(crate) fn progress_at(&self) -> Option<Instant> {
        let groups = self.groups.values();
        groups
            .filter(|group| group.subject.every.is_some())
            .map(|group| group.progress_at)
            .min()
    }

    /// Tells of operations that run those whose time has come. Who has not read its last update is left out.
    pub(crate) fn tell_progress(&mut self, running: &[Change], now: Instant) -> Vec<(Token, Message)> {
        let monitors = u32::try_from(self.len()).unwrap_or(u32::MAX);
        let mut messages = Vec::new();
        for group in self.groups.values_mut() {
            let Some(every) = group.subject.every.filter(|_| group.progress_at <= now) else {
                continue;
            };
            group.progress_at = now + every.max(PROGRESS_PER_MONITOR * monitors);
            let wanted: Vec<&Change> = running.iter().filter(|change| group.subject.wants(change)).collect();
            if wanted.is_empty() {
                continue;
            }
            let mut shared = None;
            for token in &group.members {
                let Some(monitor) = self.monitors.get_mut(token).filter(|monitor| monitor.is_ready()) else {
                    continue;
                };
                let message = shared.get_or_insert_with(|| update(&wanted, self.cursor));
                messages.push((*token, Arc::clone(message)));
                monitor.is_drained = false;
            }
        }
        messages
    }

    // ---- one monitor ----

    /// What a monitor is to be told next, now that it has taken its last update.
    pub(crate) fn drained(&mut self, token: Token) -> Next {
        let Some(monitor) = self.monitors.get_mut(&token) else {
            return Next::Nothing;
        };
        monitor.is_drained = true;
        let Some(mut told) = monitor.told.take() else {
            return Next::Nothing;
        };
        if std::mem::take(&mut monitor.has_missed) {
            told.begin_again();
        }
        if !told.caught_up() {
            return Next::CatchUp(told);
        }
        monitor.told = Some(told);
        let mut ids = Vec::new();
        while ids.len() < UPDATE_MAX
            && let Some(id) = monitor.pending.pop_first()
        {
            ids.push(id);
        }
        if ids.is_empty() {
            Next::Nothing
        } else {
            Next::Changed(ids)
        }
    }

    /// A thread has looked for what a monitor had missed, and has an update for it.
    pub(crate) fn caught_up(&mut self, token: Token, told: Told) {
        if let Some(monitor) = self.monitors.get_mut(&token) {
            monitor.told = Some(told);
            monitor.is_drained = false;
        }
    }

    /// The update for what [`Fanout::drained`] gave, if it is told of any of that.
    pub(crate) fn update_for(&mut self, token: Token, changes: &[Change]) -> Option<Message> {
        let monitor = self.monitors.get_mut(&token)?;
        let group = self.groups.get(&monitor.group)?;
        let told = monitor.told.as_mut()?;
        // What is still pending must not lie below the cursor.
        if monitor.pending.is_empty() {
            told.advance(self.cursor);
        }
        let wanted: Vec<&Change> = changes.iter().filter(|change| group.subject.wants(change)).collect();
        if wanted.is_empty() {
            return None;
        }
        monitor.is_drained = false;
        Some(update(&wanted, told.cursor()))
    }
}

/// As [`crate::service::Update`], with operations that are JSON already.
#[derive(Serialize)]
struct Written<'a> {
    operations: Vec<&'a RawValue>,
    removed: Vec<TransferId>,
    cursor: u64,
    caught_up: bool,
}

fn update(changes: &[&Change], cursor: u64) -> Message {
    let operations = changes.iter().filter_map(|change| change.now.as_ref());
    let removed = changes.iter().filter(|change| change.now.is_none());
    let written = Written {
        operations: operations.map(|(_, json)| json.as_ref()).collect(),
        removed: removed.map(|change| change.id).collect(),
        cursor,
        caught_up: true,
    };
    reply(&written, true).into()
}
