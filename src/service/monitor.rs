//! Looking on: what a monitor is told, and how one inside the process is.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::client::Connection;
use super::left;
use super::methods::groups::told_groups;
use crate::engine::{Changed, CompletionGroupView, Engine, Filter, GroupFilter, Noted, Observer, OperationView};
use crate::error::Error;
use crate::operation::{CompletionGroupId, TransferId};

/// Operations in one message at most, and completion groups; the rest comes with the next.
pub(crate) const UPDATE_MAX: usize = 256;
/// How often progress is told where nothing else is asked for.
pub(crate) const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Shortest time between two reports of progress, and the longest.
pub(crate) const PROGRESS_MIN: Duration = Duration::from_millis(20);
pub(crate) const PROGRESS_MAX: Duration = Duration::from_secs(3600);
/// Operations that one monitor names at most, or one call that does something to each.
pub(crate) const IDS_MAX: usize = 10_000;

/// Which operations, on the wire: those of an app (that of the command where none is named), or of all; of one group, of
/// none, or whatever their group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Selection {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) app: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) all_apps: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) ungrouped: bool,
}

impl From<&Filter> for Selection {
    fn from(filter: &Filter) -> Self {
        Self {
            app: filter.app.clone(),
            all_apps: filter.app.is_none(),
            group: match &filter.group {
                GroupFilter::Named(name) => Some(name.clone()),
                _ => None,
            },
            ungrouped: filter.group == GroupFilter::Ungrouped,
        }
    }
}

impl Selection {
    /// The filter that is meant.
    ///
    /// # Errors
    /// [`Error::Invalid`] where two parameters contradict each other.
    pub(crate) fn meant(self) -> Result<Filter, Error> {
        if self.all_apps && self.app.is_some() {
            let app = self.app.unwrap_or_default();
            return Err(Error::invalid(
                "app",
                app,
                "is given together with all_apps; give one of the two",
            ));
        }
        let app = (!self.all_apps).then(|| self.app.unwrap_or_else(|| super::download::DEFAULT_APP.to_owned()));
        let group = match (self.group, self.ungrouped) {
            (Some(name), true) => {
                return Err(Error::invalid(
                    "group",
                    name,
                    "is given together with ungrouped; give one of the two",
                ));
            }
            (Some(name), false) => GroupFilter::Named(name),
            (None, true) => GroupFilter::Ungrouped,
            (None, false) => GroupFilter::Any,
        };
        Ok(Filter { app, group })
    }
}

/// Parameters of `Monitor`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Monitoring {
    #[serde(default)]
    pub(crate) selection: Selection,
    /// Only these of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ids: Option<BTreeSet<TransferId>>,
    /// Where an earlier monitor stood: what has changed since is told first. Without it all are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cursor: Option<u64>,
    /// Time between two reports of progress in milliseconds; 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) progress_ms: Option<u64>,
}

/// What has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// Operations as they are now; each one once.
    pub operations: Vec<OperationView>,
    /// Operations whose records are gone.
    #[serde(default)]
    pub removed: Vec<TransferId>,
    /// Where the monitor stands: a later one that is given it misses no end.
    pub cursor: u64,
    /// Everything that had changed before the monitor began has been told.
    #[serde(default)]
    pub caught_up: bool,
    /// More had changed than is noted for a monitor that reads slowly: what has changed since its cursor comes again, in
    /// updates that say so, up to one that has `caught_up`. Operations whose records have gone meanwhile are not among what
    /// was `removed`: whoever keeps a picture of all looks which are still there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub missed: bool,
    /// Completion groups of the selected app, or of all apps, that have fired, without their operations. Those that have no
    /// command and that nobody has acknowledged are told of before a monitor has caught up, whatever its cursor and group; after
    /// that each one that changes, also where its command begins or ends, or where somebody acknowledges it. Who acts on one
    /// acknowledges it after that: at least once. A monitor of chosen operations is told of none.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "told_groups")]
    pub completion_groups: Vec<CompletionGroupView>,
}

impl Update {
    /// It tells of nothing but where the monitor stands.
    pub(crate) fn is_empty(&self) -> bool {
        self.operations.is_empty() && self.removed.is_empty() && self.completion_groups.is_empty()
    }
}

/// Parameters of `Wait`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Waiting {
    pub(crate) ids: Vec<TransferId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<Stand>,
    /// Longest time in milliseconds; without it, as long as it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timeout_ms: Option<u64>,
}

/// A cursor that nothing lies behind: no more is told first than that all has been told. Readers elsewhere know no larger
/// number.
pub(super) const FROM_NOW: u64 = i64::MAX as u64;

impl Waiting {
    /// The answer tells of all that are named, at once.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub(crate) fn check(&self) -> Result<(), Error> {
        let count = self.ids.len();
        if count > UPDATE_MAX {
            let problem = format!("are too many; wait for at most {UPDATE_MAX} with one call");
            return Err(Error::invalid("ids", format!("{count} ids"), problem));
        }
        Ok(())
    }
}

/// What operations are waited for to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stand {
    /// Ended.
    #[default]
    Ended,
    /// Not running, whatever else.
    Still,
}

impl Stand {
    /// Whether an operation is so.
    pub(crate) fn is_reached(self, view: &OperationView) -> bool {
        match self {
            Self::Ended => view.has_ended(),
            Self::Still => view.status != crate::operation::TransferStatus::Running,
        }
    }
}

/// The answer to `Wait`: all of them, once all are so, or once the time is over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Waited {
    pub(crate) operations: Vec<OperationView>,
    pub(crate) timed_out: bool,
}

/// What one monitor has been told already.
pub(crate) struct Told {
    filter: Filter,
    ids: Option<BTreeSet<TransferId>>,
    cursor: u64,
    caught_up: bool,
    /// It has read less than there was, and is told again.
    has_missed: bool,
    /// Which completion group it was told of last before it has caught up.
    last_group: Option<(String, CompletionGroupId)>,
    progress_every: Option<Duration>,
}

impl Told {
    /// Begins where the client stands.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the parameter.
    pub(crate) fn new(monitoring: Monitoring) -> Result<Self, Error> {
        if monitoring.ids.as_ref().is_some_and(|ids| ids.len() > IDS_MAX) {
            return Err(Error::limit("operations that one monitor names", IDS_MAX as u64));
        }
        let every = monitoring.progress_ms.map_or(PROGRESS_EVERY, Duration::from_millis);
        Ok(Self {
            filter: monitoring.selection.meant()?,
            ids: monitoring.ids,
            cursor: monitoring.cursor.unwrap_or(0),
            caught_up: false,
            has_missed: false,
            last_group: None,
            progress_every: (!every.is_zero()).then(|| every.clamp(PROGRESS_MIN, PROGRESS_MAX)),
        })
    }

    pub(crate) fn caught_up(&self) -> bool {
        self.caught_up
    }

    pub(crate) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// How often it wants progress, if at all.
    pub(crate) fn progress_every(&self) -> Option<Duration> {
        self.progress_every
    }

    /// Whether it is told of this operation.
    pub(crate) fn wants(&self, view: &OperationView) -> bool {
        self.filter.matches(view) && self.ids.as_ref().is_none_or(|ids| ids.contains(&view.id))
    }

    /// Whether it is told of this completion group.
    fn wants_group(&self, group: &CompletionGroupView) -> bool {
        let is_of_app = self.filter.app.as_ref().is_none_or(|app| *app == group.app);
        self.ids.is_none() && is_of_app && group.is_told()
    }

    /// The filter and the chosen ids, by which two monitors are told the same.
    pub(crate) fn subject(&self) -> (&Filter, Option<&BTreeSet<TransferId>>) {
        (&self.filter, self.ids.as_ref())
    }

    /// The next part of what had changed before the monitor began; `caught_up` with the last.
    pub(crate) fn catch_up(&mut self, engine: &Engine) -> Update {
        // A cursor is durable before it is given out: one that lies ahead is that of another state directory.
        if self.cursor != FROM_NOW && self.cursor > engine.cursor() {
            self.cursor = 0;
        }
        let (mut operations, cursor) = engine.changed_since(&self.filter, self.cursor, UPDATE_MAX);
        if let Some(ids) = &self.ids {
            operations.retain(|view| ids.contains(&view.id));
        }
        // Where nothing is left the cursor stays.
        let mut is_all = cursor == self.cursor;
        self.cursor = cursor;
        let mut completion_groups = Vec::new();
        if is_all && self.ids.is_none() {
            completion_groups = engine.fired(self.filter.app.as_deref(), self.last_group.as_ref(), UPDATE_MAX);
            is_all = completion_groups.len() < UPDATE_MAX;
            self.last_group = completion_groups.last().map(|last| (last.app.clone(), last.id));
        }
        self.caught_up = is_all;
        let missed = self.has_missed;
        self.has_missed &= !is_all;
        Update {
            operations,
            removed: Vec::new(),
            cursor,
            caught_up: is_all,
            missed,
            completion_groups,
        }
    }

    /// It has read less than there was: everything since the cursor comes again.
    pub(crate) fn begin_again(&mut self) {
        self.caught_up = false;
        self.has_missed = true;
        self.last_group = None;
    }

    /// As after the last part of what had changed before.
    #[cfg(test)]
    pub(crate) fn caught_up_at(&mut self, cursor: u64) {
        self.caught_up = true;
        self.cursor = cursor;
    }

    /// It was told everything up to here.
    pub(crate) fn advance(&mut self, cursor: u64) {
        self.cursor = self.cursor.max(cursor);
    }
}

/// A stream of updates of the operations and completion groups of a service; blocks until there is one. It ends with an
/// error where the engine stops or the connection ends; a new one that is given the last [`Update::cursor`] misses no end,
/// and is told of every completion group that has fired and waits for
/// [`Service::acknowledge_completion_group`](super::Service::acknowledge_completion_group): at least once each.
pub struct Monitor(Source);

enum Source {
    Embedded {
        /// It works as long as its service is there, not as long as somebody looks on.
        engine: Weak<Engine>,
        observer: Arc<Observer>,
        told: Told,
        pending: Noted,
        /// When it is told of progress next.
        progress_at: Instant,
    },
    Remote(Connection),
}

impl Monitor {
    pub(crate) fn embedded(engine: &Arc<Engine>, monitoring: Monitoring) -> Result<Self, Error> {
        let told = Told::new(monitoring)?;
        Ok(Self(Source::Embedded {
            observer: engine.observe(None),
            engine: Arc::downgrade(engine),
            told,
            pending: Noted::default(),
            progress_at: Instant::now(),
        }))
    }

    pub(crate) fn remote(mut connection: Connection, monitoring: &Monitoring) -> Result<Self, Error> {
        connection.send("Monitor", monitoring, true)?;
        Ok(Self(Source::Remote(connection)))
    }

    /// The next update; `None` where the time is over before there is one.
    ///
    /// # Errors
    /// [`Error::Disconnected`] where the engine has stopped.
    pub fn next_within(&mut self, time: Option<Duration>) -> Result<Option<Update>, Error> {
        match &mut self.0 {
            Source::Remote(connection) => connection.receive_within(time).map_err(Error::from),
            Source::Embedded {
                engine,
                observer,
                told,
                pending,
                progress_at,
            } => {
                let engine = engine.upgrade().ok_or_else(stopped)?;
                next_embedded(&engine, observer, (told, pending, progress_at), time)
            }
        }
    }
}

impl Iterator for Monitor {
    type Item = Result<Update, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_within(None).transpose()
    }
}

fn stopped() -> Error {
    Error::Disconnected(Arc::from("it has stopped"))
}

fn next_embedded(
    engine: &Engine,
    observer: &Observer,
    (told, pending, progress_at): (&mut Told, &mut Noted, &mut Instant),
    time: Option<Duration>,
) -> Result<Option<Update>, Error> {
    // A time that no clock reaches is none.
    let end = time.and_then(|time| Instant::now().checked_add(time));
    if !told.caught_up() {
        return Ok(Some(told.catch_up(engine)));
    }
    loop {
        let every = told.progress_every();
        let is_running = every.is_some() && engine.running_count() > 0;
        let tick = is_running.then(|| progress_at.saturating_duration_since(Instant::now()));
        if pending.is_empty() {
            *pending = observer.wait(left(end).into_iter().chain(tick).min());
        }
        // Whatever lies below this cursor has been noted by now.
        let cursor = engine.cursor();
        pending.add(observer.take());
        if pending.overflowed {
            *pending = Noted {
                stopped: pending.stopped,
                ..Noted::default()
            };
            told.begin_again();
            return Ok(Some(told.catch_up(engine)));
        }
        let mut update = update_of(engine, told, pending, cursor);
        let now = Instant::now();
        if let Some(every) = every.filter(|_| *progress_at <= now && !pending.stopped) {
            *progress_at = now + every;
            add_progress(engine, told, &mut update);
        }
        // Where more was noted than one update holds, the rest is still to be looked at.
        pending.attempts = false;
        if !update.is_empty() {
            told.advance(update.cursor);
            return Ok(Some(update));
        }
        if pending.stopped && pending.changed.is_empty() {
            return Err(stopped());
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return Ok(None);
        }
    }
}

/// What is to be told of what was noted; takes it out of `noted`, at most so many at once.
fn update_of(engine: &Engine, told: &Told, noted: &mut Noted, cursor: u64) -> Update {
    let mut update = Update {
        caught_up: true,
        ..Update::default()
    };
    for changed in noted.take_part(UPDATE_MAX) {
        let id = match changed {
            Changed::Operation(id) => id,
            Changed::CompletionGroup(id) => {
                let group = engine
                    .brief_completion_group(id)
                    .filter(|group| told.wants_group(group));
                update.completion_groups.extend(group);
                continue;
            }
        };
        match engine.view(id) {
            Ok(view) if told.wants(&view) => update.operations.push(view),
            Err(_) if told.subject().1.is_none_or(|ids| ids.contains(&id)) => update.removed.push(id),
            Ok(_) | Err(_) => {}
        }
    }
    // What is told later must not lie below the cursor.
    update.cursor = if noted.changed.is_empty() {
        cursor
    } else {
        told.cursor()
    };
    update
}

/// Adds what runs, where it is not told of anyway.
fn add_progress(engine: &Engine, told: &Told, update: &mut Update) {
    let is_new = |view: &OperationView| !update.operations.iter().any(|other| other.id == view.id);
    let running = engine.running().into_iter();
    let running: Vec<OperationView> = running.filter(|view| told.wants(view) && is_new(view)).collect();
    update.operations.extend(running);
}
