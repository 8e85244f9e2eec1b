//! Who is told what: monitors, what each has been told, and what waits for those that read slowly. Pure.
//!
//! What has changed is made into bytes once for all monitors of one subject. One that has not taken its last update is
//! given no other: what changes meanwhile is noted once for each operation and completion group, and told as it is when it
//! reads again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::shared::Token;
use crate::engine::{Changed, CompletionGroupView, Filter, OperationView};
use crate::operation::{CompletionGroupId, TransferId, TransferStatus};
use crate::service::message::reply;
use crate::service::methods::groups::CompletionGroup;
use crate::service::monitor::{Told, UPDATE_MAX};

/// Changes noted for one monitor that reads slowly; with more than that it reads everything again from its cursor.
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

/// An operation or a completion group as it is now.
#[derive(Debug)]
pub(crate) enum Change {
    Operation {
        id: TransferId,
        /// Nothing where its record is gone.
        now: Option<Box<(OperationView, Box<RawValue>)>>,
    },
    CompletionGroup {
        id: CompletionGroupId,
        app: String,
        json: Box<RawValue>,
    },
}

impl Change {
    pub(crate) fn of_operation(id: TransferId, view: Option<OperationView>) -> Self {
        let now = view.and_then(|view| to_raw_value(&view).ok().map(|json| Box::new((view, json))));
        Self::Operation { id, now }
    }

    /// Nothing where monitors are not told of it.
    pub(crate) fn of_completion_group(view: CompletionGroupView) -> Option<Self> {
        if !view.is_told() {
            return None;
        }
        let (id, app) = (view.id, view.app.clone());
        let json = to_raw_value(&CompletionGroup::from(view)).ok()?;
        Some(Self::CompletionGroup { id, app, json })
    }

    fn what(&self) -> Changed {
        match self {
            Self::Operation { id, .. } => Changed::Operation(*id),
            Self::CompletionGroup { id, .. } => Changed::CompletionGroup(*id),
        }
    }

    /// The operation it is about, and what that is now, where its record is not gone.
    pub(crate) fn operation(&self) -> Option<(TransferId, Option<&OperationView>)> {
        match self {
            Self::Operation { id, now } => Some((*id, now.as_ref().map(|now| &now.0))),
            Self::CompletionGroup { .. } => None,
        }
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
        match change {
            Change::Operation { id, now } => {
                let is_named = self.ids.as_ref().is_none_or(|ids| ids.contains(id));
                is_named && now.as_ref().is_none_or(|now| self.filter.matches(&now.0))
            }
            Change::CompletionGroup { app, .. } => {
                self.ids.is_none() && self.filter.app.as_ref().is_none_or(|wanted| wanted == app)
            }
        }
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
    pending: BTreeSet<Changed>,
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

    fn note(&mut self, changed: impl Iterator<Item = Changed>) {
        if self.has_missed {
            return;
        }
        self.pending.extend(changed);
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
    Changed(Vec<Changed>),
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
    /// Operations that run, as they were told last, without what progress changes.
    running: HashMap<TransferId, OperationView>,
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
        if self.monitors.is_empty() {
            self.running = HashMap::new();
        }
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

    /// Whether more has changed than the progress of an attempt, which is told in its own time.
    fn is_news(&mut self, change: &Change) -> bool {
        let Some((id, view)) = change.operation() else {
            return true;
        };
        let Some(view) = view.filter(|view| view.status == TransferStatus::Running) else {
            self.running.remove(&id);
            return true;
        };
        let mut still = view.clone();
        still.bytes_done = 0;
        still.ranges = Vec::new();
        let before = self.running.insert(id, still);
        before.as_ref() != self.running.get(&id)
    }

    /// Tells all of what has changed. `cursor`: whatever lies below it has been noted before, and is among these or was told.
    pub(crate) fn tell(&mut self, changes: &[Change], cursor: u64) -> Vec<(Token, Message)> {
        self.cursor = self.cursor.max(cursor);
        let news: Vec<&Change> = changes.iter().filter(|change| self.is_news(change)).collect();
        let mut messages = Vec::new();
        for group in self.groups.values() {
            let news = news.iter().copied();
            let wanted: Vec<&Change> = news.filter(|change| group.subject.wants(change)).collect();
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
                    monitor.note(wanted.iter().map(|change| change.what()));
                }
            }
        }
        messages
    }

    /// More has changed than was noted: all look for themselves what they have missed.
    pub(crate) fn all_missed(&mut self) {
        self.running = HashMap::new();
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
        let mut changed = Vec::new();
        while changed.len() < UPDATE_MAX
            && let Some(one) = monitor.pending.pop_first()
        {
            changed.push(one);
        }
        if changed.is_empty() {
            Next::Nothing
        } else {
            Next::Changed(changed)
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

/// As [`crate::service::Update`], with contents that are JSON already.
#[derive(Default, Serialize)]
struct Written<'a> {
    operations: Vec<&'a RawValue>,
    removed: Vec<TransferId>,
    cursor: u64,
    caught_up: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    completion_groups: Vec<&'a RawValue>,
}

fn update(changes: &[&Change], cursor: u64) -> Message {
    let mut written = Written {
        cursor,
        caught_up: true,
        ..Written::default()
    };
    for change in changes {
        match change {
            Change::Operation { now: Some(now), .. } => written.operations.push(&now.1),
            Change::Operation { id, now: None } => written.removed.push(*id),
            Change::CompletionGroup { json, .. } => written.completion_groups.push(json),
        }
    }
    reply(&written, true).into()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    use crate::service::Update;
    use crate::service::monitor::{Monitoring, Selection};

    fn id(number: u16) -> TransferId {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&number.to_be_bytes());
        TransferId(id)
    }

    fn change(number: u16, app: &str) -> Change {
        Change::of_operation(id(number), Some(view(number, app, "Idle", 0)))
    }

    fn view(number: u16, app: &str, status: &str, bytes_done: u64) -> OperationView {
        let view = json!({
            "id": id(number), "kind": "download", "owner_uid": 0, "app": app, "group": null, "url": "",
            "destination": "/d", "priority": "low", "status": status, "reason": null, "next_attempt_at": null,
            "bytes_done": bytes_done, "ranges": [[0, bytes_done]], "bytes_total": null, "restarts": 0, "attempts": 0, "bytes_wasted": 0,
            "error": null, "created_at": "1970-01-01T00:00:00.001Z", "ended_at": null, "acknowledged": false,
            "actual_url": null, "status_code": null, "content_type": null, "resumable": null, "expected_type": null,
            "recoverable": [], "sources": [], "source": "", "digests": [], "unverified": false
        });
        serde_json::from_value(view).unwrap()
    }

    fn gone(number: u16) -> Change {
        Change::of_operation(id(number), None)
    }

    fn told(app: &str, progress_ms: u64) -> Told {
        let mut told = Told::new(Monitoring {
            selection: Selection {
                app: Some(app.into()),
                ..Selection::default()
            },
            progress_ms: Some(progress_ms),
            ..Monitoring::default()
        })
        .unwrap();
        told.caught_up_at(0);
        told
    }

    /// Monitors of these apps, all of them caught up.
    fn fanout(apps: &[&str]) -> Fanout {
        let mut fanout = Fanout::default();
        for (token, app) in (0..).zip(apps) {
            fanout.add(token, told(app, 0), Instant::now());
        }
        fanout
    }

    fn read(message: &Message) -> Update {
        let (zero, text) = message.split_last().unwrap();
        assert_eq!(*zero, 0);
        let message: Value = serde_json::from_slice(text).unwrap();
        assert_eq!(message["continues"], true);
        serde_json::from_value(message["parameters"].clone()).unwrap()
    }

    /// Which operations the first monitor is to be told of now.
    fn pending(fanout: &mut Fanout) -> Vec<TransferId> {
        let Next::Changed(changed) = fanout.drained(0) else {
            panic!("nothing is pending")
        };
        let ids = changed.into_iter().map(|changed| match changed {
            Changed::Operation(id) => id,
            Changed::CompletionGroup(id) => panic!("completion group {id} is pending"),
        });
        ids.collect()
    }

    fn fired(number: u8, app: &str) -> CompletionGroupView {
        let group = json!({
            "id": CompletionGroupId([number; 16]), "app": app, "name": null, "command": null, "state": "fired",
            "remaining": 0, "members": [], "runs": 0, "problem": null, "next_run_at": null,
            "created_at": "1970-01-01T00:00:00.001Z", "sealed_at": null, "fired_at": null, "closed_at": null
        });
        let group: CompletionGroup = serde_json::from_value(group).unwrap();
        group.into()
    }

    fn fired_change(number: u8, app: &str) -> Change {
        Change::of_completion_group(fired(number, app)).unwrap()
    }

    /// Which operations a message is about, and where it stands.
    fn content(message: &Message) -> (Vec<TransferId>, Vec<TransferId>, u64) {
        let update = read(message);
        let ids = update.operations.iter().map(|view| view.id).collect();
        (ids, update.removed, update.cursor)
    }

    #[test]
    fn monitors_of_one_subject_share_the_bytes_and_others_are_told_their_own() {
        let mut fanout = fanout(&["a", "b", "a"]);
        let messages = fanout.tell(&[change(1, "a"), change(2, "b"), gone(3)], 7);
        let tokens: Vec<Token> = messages.iter().map(|(token, _)| *token).collect();
        assert_eq!(tokens, [0, 2, 1]);
        assert!(Arc::ptr_eq(&messages[0].1, &messages[1].1));
        assert_eq!(content(&messages[0].1), (vec![id(1)], vec![id(3)], 7));
        assert_eq!(content(&messages[2].1), (vec![id(2)], vec![id(3)], 7));
        assert!(fanout.tell(&[change(4, "c")], 8).is_empty());
    }

    #[test]
    fn who_reads_slowly_is_told_each_operation_once_and_as_it_is_when_it_reads_again() {
        let mut fanout = fanout(&["a", "a"]);
        assert_eq!(fanout.tell(&[change(1, "a")], 5).len(), 2);
        assert!(matches!(fanout.drained(1), Next::Nothing), "the second one reads");
        for cursor in 6..9 {
            let messages = fanout.tell(&[change(2, "a"), change(3, "a")], cursor);
            assert_eq!(messages.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [1]);
            assert!(matches!(fanout.drained(1), Next::Nothing));
        }
        let ids = pending(&mut fanout);
        assert_eq!(ids, [id(2), id(3)]);
        let message = fanout.update_for(0, &[change(2, "a"), change(3, "a")]).unwrap();
        assert_eq!(content(&message), (vec![id(2), id(3)], vec![], 8));
        assert!(matches!(fanout.drained(0), Next::Nothing));
    }

    #[test]
    fn a_cursor_never_lies_above_what_was_not_told() {
        let mut fanout = fanout(&["a"]);
        assert_eq!(fanout.tell(&[change(0, "a")], 5).len(), 1);
        let many: Vec<Change> = (1..=300).map(|number| change(number, "a")).collect();
        assert!(fanout.tell(&many, 400).is_empty());
        let ids = pending(&mut fanout);
        let first: Vec<Change> = (1..=256).map(|number| change(number, "a")).collect();
        assert_eq!(ids.len(), first.len());
        let (told, _, cursor) = content(&fanout.update_for(0, &first).unwrap());
        assert_eq!((told.len(), cursor), (256, 5), "44 operations are not told yet");
        let ids = pending(&mut fanout);
        assert_eq!(ids.len(), 44);
        let rest: Vec<Change> = (257..=300).map(|number| change(number, "a")).collect();
        assert_eq!(content(&fanout.update_for(0, &rest).unwrap()).2, 400);
    }

    #[test]
    fn who_has_missed_more_than_is_noted_reads_everything_again_from_its_cursor() {
        let mut fanout = fanout(&["a"]);
        assert_eq!(fanout.tell(&[change(0, "a")], 5).len(), 1);
        for number in 1..=1_100 {
            assert!(fanout.tell(&[change(number, "a")], 5 + u64::from(number)).is_empty());
        }
        let Next::CatchUp(mut told) = fanout.drained(0) else {
            panic!("it has missed nothing")
        };
        assert_eq!((told.cursor(), told.caught_up()), (5, false));
        // What changes while a thread looks is not lost.
        assert!(fanout.tell(&[change(7, "a")], 2_000).is_empty());
        told.caught_up_at(1_500);
        fanout.caught_up(0, told);
        assert!(
            fanout.tell(&[change(8, "a")], 2_001).is_empty(),
            "its update is not taken yet"
        );
        let ids = pending(&mut fanout);
        assert_eq!(ids, [id(7), id(8)]);
    }

    #[test]
    fn progress_is_told_as_often_as_is_asked_for_and_seldom_where_many_look_on() {
        let start = Instant::now();
        let mut fanout = Fanout::default();
        assert_eq!(fanout.progress_at(), None);
        fanout.add(0, told("a", 0), start);
        assert_eq!(fanout.progress_at(), None, "it wants none");
        fanout.add(1, told("a", 300), start);
        let at = fanout.progress_at().unwrap();
        assert_eq!(at, start + Duration::from_millis(300));
        assert!(fanout.tell_progress(&[change(1, "a")], start).is_empty());
        assert_eq!(fanout.tell_progress(&[change(1, "a")], at).len(), 1);
        assert_eq!(fanout.progress_at(), Some(at + Duration::from_millis(300)));
        let later = at + Duration::from_secs(1);
        assert!(
            fanout.tell_progress(&[change(1, "a")], later).is_empty(),
            "it has not read the last one"
        );
        for token in 2..1_000 {
            fanout.add(token, told("a", 300), later);
        }
        let later = later + Duration::from_secs(1);
        assert_eq!(fanout.tell_progress(&[change(1, "a")], later).len(), 998);
        assert_eq!(
            fanout.progress_at(),
            Some(later + Duration::from_secs(1)),
            "1,000 messages a second"
        );
    }

    #[test]
    fn mere_progress_is_told_only_in_its_own_time() {
        let mut fanout = fanout(&["a"]);
        let mut told = |status: &str, bytes_done: u64| {
            let change = Change::of_operation(id(1), Some(view(1, "a", status, bytes_done)));
            let messages = fanout.tell(&[change], 1);
            fanout.drained(0);
            !messages.is_empty()
        };
        assert!(told("Queued", 0));
        assert!(told("Running", 0), "an attempt has begun");
        assert!(!told("Running", 1_000));
        assert!(!told("Running", 2_000));
        assert!(told("Waiting", 2_000), "it is over");
        assert!(told("Running", 2_000), "another one has begun");
        fanout.all_missed();
        assert!(fanout.running.is_empty());
    }

    #[test]
    fn nothing_is_kept_of_those_that_are_gone() {
        let mut fanout = fanout(&["a", "b", "a"]);
        for token in 0..3 {
            assert!(fanout.contains(token));
            fanout.remove(token);
        }
        assert!(fanout.monitors.is_empty() && fanout.groups.is_empty() && fanout.numbers.is_empty());
        fanout.remove(0);
    }

    #[test]
    fn an_update_is_written_as_one_that_is_read() {
        let change = change(1, "a");
        let expected = Update {
            operations: vec![view(1, "a", "Idle", 0)],
            removed: vec![id(2)],
            cursor: 9,
            caught_up: true,
            ..Update::default()
        };
        assert_eq!(*update(&[&change, &gone(2)], 9), *reply(&expected, true));
        let expected = Update {
            completion_groups: vec![fired(3, "a")],
            ..expected
        };
        let all = [&change, &fired_change(3, "a"), &gone(2)];
        let written = update(&all, 9);
        assert_eq!(*written, *reply(&expected, true));
        assert_eq!(read(&written), expected);
    }

    #[test]
    fn a_completion_group_is_told_to_those_who_look_at_its_app_and_name_no_ids() {
        let mut fanout = fanout(&["a", "b"]);
        let mut add = |token, monitoring| {
            let mut told = Told::new(monitoring).unwrap();
            told.caught_up_at(0);
            fanout.add(token, told, Instant::now());
        };
        let of_a = || Selection {
            app: Some("a".into()),
            ..Selection::default()
        };
        let all_apps = || Selection {
            all_apps: true,
            ..Selection::default()
        };
        let selections = [
            Selection {
                group: Some("g".into()),
                ..of_a()
            },
            Selection {
                ungrouped: true,
                ..of_a()
            },
            all_apps(),
        ];
        for (token, selection) in (2..).zip(selections) {
            add(
                token,
                Monitoring {
                    selection,
                    ..Monitoring::default()
                },
            );
        }
        for (token, selection) in (5..).zip([of_a(), all_apps()]) {
            let ids = Some([id(1)].into());
            add(
                token,
                Monitoring {
                    selection,
                    ids,
                    ..Monitoring::default()
                },
            );
        }
        let messages = fanout.tell(&[fired_change(3, "a")], 1);
        let tokens: BTreeSet<Token> = messages.iter().map(|(token, _)| *token).collect();
        assert_eq!(tokens, [0, 2, 3, 4].into());
        for (_, message) in messages {
            assert_eq!(read(&message).completion_groups, [fired(3, "a")]);
        }
    }

    #[test]
    fn who_reads_slowly_is_told_of_a_completion_group_when_it_reads_again() {
        let mut fanout = fanout(&["a"]);
        assert_eq!(fanout.tell(&[change(1, "a")], 5).len(), 1);
        for cursor in 6..8 {
            assert!(fanout.tell(&[fired_change(3, "a"), change(2, "a")], cursor).is_empty());
        }
        let Next::Changed(changed) = fanout.drained(0) else {
            panic!("nothing is pending")
        };
        let expected = [
            Changed::CompletionGroup(CompletionGroupId([3; 16])),
            Changed::Operation(id(2)),
        ];
        assert_eq!(changed, expected);
        let message = fanout.update_for(0, &[fired_change(3, "a"), change(2, "a")]).unwrap();
        assert_eq!(read(&message).completion_groups, [fired(3, "a")]);
        assert_eq!(content(&message), (vec![id(2)], vec![], 7));
    }
}
