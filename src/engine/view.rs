//! What is shown of an operation.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use backhaul_backends::{Method, WebErrorStatus, sort_few_by_key};
use backhaul_journal::Lsn;
use serde::{Deserialize, Serialize};

use super::Engine;
use super::attempt::Attempt;
use super::core::State;
use crate::error::Error;
use crate::listing::Filter;
use crate::operation::{
    CompletionGroupId, CostPolicy, Deadline, Kind, Lack, Now, Operation, Outcome, Phase, Priority, Reason, TransferId,
    TransferStatus,
};
use crate::wire;

/// One consistent look at an operation. Times are wall-clock milliseconds since 1970.
///
/// Its JSON form is that of `list --json` and of the local interface: the same names, but for times, which lose their `_ms`
/// and are RFC 3339 in UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each says something of its own")]
#[non_exhaustive]
pub struct OperationView {
    /// Its identity.
    pub id: TransferId,
    /// What it does.
    pub kind: Kind,
    /// Who may see and change it.
    pub owner_uid: u32,
    /// The application it belongs to.
    pub app: String,
    /// Its transfer group.
    pub group: Option<String>,
    /// Its completion group.
    #[serde(default)]
    pub completion_group: Option<CompletionGroupId>,
    /// What it fetches; secrets read `***`.
    pub url: String,
    /// Where the file goes, or went.
    #[serde(with = "wire::path")]
    pub destination: PathBuf,
    /// Its rank among those that wait.
    pub priority: Priority,
    /// What it may cost.
    #[serde(default)]
    pub cost_policy: CostPolicy,
    /// Its status.
    pub status: TransferStatus,
    /// The one reason why it does not move.
    pub reason: Option<Reason>,
    /// When it will be tried again, where known; while it waits for room or a network, when that is looked at again.
    #[serde(rename = "next_attempt_at", with = "wire::maybe_time")]
    pub next_attempt_at_ms: Option<u64>,
    /// Bytes that are there; not all of them need be durable while it runs.
    pub bytes_done: u64,
    /// Which bytes are durable, as `[first, end)` in order; several where more than one connection fetches them. Empty
    /// once the operation has ended.
    pub ranges: Vec<(u64, u64)>,
    /// Bytes that there will be, where known.
    pub bytes_total: Option<u64>,
    /// How often it began again from zero.
    pub restarts: u32,
    /// How often it was tried.
    pub attempts: u32,
    /// Bytes that were fetched and given up.
    pub bytes_wasted: u64,
    /// The last error; of an attempt that is retried, too.
    pub error: Option<ViewError>,
    /// When it was created.
    #[serde(rename = "created_at", with = "wire::time")]
    pub created_at_ms: u64,
    /// When it ended.
    #[serde(rename = "ended_at", with = "wire::maybe_time")]
    pub ended_at_ms: Option<u64>,
    /// Its end was acknowledged.
    pub acknowledged: bool,
    /// URL that answered last, after redirects.
    pub actual_url: Option<String>,
    /// Status code of the last accepted response.
    pub status_code: Option<u16>,
    /// Media type of the last accepted response.
    pub content_type: Option<String>,
    /// The server can continue from an offset, as far as known.
    pub resumable: Option<bool>,
    /// The media type that the content must have.
    pub expected_type: Option<String>,
    /// Errors that its owner can mend.
    #[serde(with = "wire::texts")]
    pub recoverable: Vec<WebErrorStatus>,
    /// Where the content may be fetched from, best first: the URL itself, the mirrors asked for, and those that the server
    /// named where a digest tells if they lie. Secrets read `***`.
    pub sources: Vec<String>,
    /// The one of them that is used now or tried next.
    pub source: String,
    /// Digests that the content must have, as `ALGORITHM:` and hexadecimal digits.
    pub digests: Vec<String>,
    /// After a salvage of the journal: what the disk holds of it is checked again before it is trusted.
    pub unverified: bool,
    /// How it is asked for.
    #[serde(default, with = "wire::text")]
    pub method: Method,
    /// Header fields of the last accepted response, names and values as they were sent, in their order: without those of
    /// one connection alone, and without those that may carry a secret; 1.5 KiB at most.
    ///
    /// Source: `ResponseInformation.Headers`.
    #[serde(default)]
    pub response_headers: Vec<(String, String)>,
    /// Some of them did not fit, and were left out.
    #[serde(default)]
    pub response_headers_cut: bool,
    /// Reads of it steer the fetch: see [`NewDownload::random_access`](super::NewDownload::random_access).
    #[serde(default)]
    pub random_access: bool,
    /// The proxy that it asks for, without user name and password; `direct` for none; `None` for what the engine has.
    #[serde(default)]
    pub proxy: Option<String>,
}

/// An error as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ViewError {
    /// The error as the API names it.
    #[serde(with = "wire::status")]
    pub status: WebErrorStatus,
    /// HTTP status or FTP reply.
    pub code: Option<u16>,
    /// One line.
    pub message: String,
}

/// Operations that one call of [`Engine::changed_since`] looks at, at most, for those that are asked for (chosen: a few
/// milliseconds, for which others wait).
const LOOKS_MAX: usize = 4_096;

/// A part of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// In the order of their creation.
    pub(crate) views: Vec<OperationView>,
    /// The position behind which there are more, if there are; it stays good whatever is created or removed meanwhile.
    pub(crate) next: Option<u64>,
}

impl OperationView {
    /// Its end is recorded, and nothing of it is left to be done: it can be acknowledged and removed. Its status may tell of
    /// the end a moment earlier, while what it left is being removed.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended_at_ms.is_some()
    }

    pub(crate) fn new(operation: &Operation, now: Now, lack: Lack, attempt: Option<&Attempt>) -> Self {
        let due;
        // A wait that is over waits for a slot, or for an engine.
        let operation = if operation.wait_is_over(now) {
            due = Operation {
                phase: Phase::Ready,
                ..operation.clone()
            };
            &due
        } else {
            operation
        };
        let reason = operation.reason(lack);
        let next_looks = operation.next_looks().filter(|_| reason != Some(Reason::NoEngine));
        let next_attempt_at_ms = next_looks.map(Deadline::wall_ms).find(|at_ms| *at_ms > now.wall_ms);
        let claim = attempt.map_or_else(|| operation.claim.clone(), Attempt::durable);
        let live = attempt.map(live);
        let response = operation.response.as_deref();
        let (sources, source) = places(operation);
        let spec = &operation.spec;
        let destination = match &operation.published_name {
            Some(name) => spec.directory().join(OsStr::from_bytes(name)),
            None => spec.destination.clone(),
        };
        Self {
            id: operation.id,
            kind: spec.kind,
            owner_uid: spec.owner_uid,
            app: spec.app.clone(),
            group: spec.group.clone(),
            completion_group: spec.completion_group,
            url: spec.url.clone(),
            destination,
            priority: spec.priority,
            cost_policy: spec.cost_policy,
            status: operation.status(),
            reason,
            next_attempt_at_ms,
            bytes_done: live.map_or_else(|| operation.durable_bytes(), |(received, _)| received),
            ranges: claim.map_or_else(Vec::new, |claim| claim.ranges()),
            bytes_total: live.and_then(|(_, total)| total).or_else(|| operation.total_bytes()),
            restarts: operation.restarts,
            attempts: operation.attempts,
            bytes_wasted: operation.bytes_wasted,
            error: error(operation),
            created_at_ms: operation.created_at_ms,
            ended_at_ms: operation.ended_at_ms,
            acknowledged: operation.acknowledged_at_ms.is_some(),
            actual_url: response.map(|response| response.actual_url.clone()),
            status_code: response.map(|response| response.status_code),
            content_type: response.and_then(|response| response.content_type.clone()),
            resumable: response.map(|response| response.resumable),
            expected_type: spec.expected_type.clone(),
            recoverable: spec.recoverable.iter().copied().map(WebErrorStatus).collect(),
            sources,
            source,
            digests: spec.expected_digests().iter().map(ToString::to_string).collect(),
            unverified: operation.doubt.is_some(),
            method: spec.method.clone(),
            response_headers: response
                .map(|response| response.headers.pairs(response.beside()))
                .unwrap_or_default(),
            response_headers_cut: response.is_some_and(|response| response.headers.is_cut()),
            random_access: spec.random_access,
            proxy: spec.proxy.clone(),
        }
    }

    /// The value of a header field of the last accepted response, whatever the case of its name; the first where there
    /// are several.
    #[must_use]
    pub fn response_header(&self, name: &str) -> Option<&str> {
        let mut headers = self.response_headers.iter();
        headers
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// What an attempt has by now, and what there will be, where known.
fn live(attempt: &Attempt) -> (u64, Option<u64>) {
    let total = attempt.total_bytes.load(Ordering::Relaxed);
    (
        attempt.received_bytes.load(Ordering::Relaxed),
        Some(total).filter(|total| *total > 0),
    )
}

fn view(state: &State, operation: &Operation, now: Now) -> OperationView {
    let attempt = state.attempts.get(&operation.id).map(AsRef::as_ref);
    OperationView::new(operation, now, state.table.lack(operation), attempt)
}

fn error(operation: &Operation) -> Option<ViewError> {
    let error = match &operation.phase {
        Phase::Ended(Outcome::Failed(error)) | Phase::Ending(Outcome::Failed(error)) => error,
        _ => operation.error.as_deref()?,
    };
    Some(ViewError {
        status: WebErrorStatus(error.status),
        code: error.code,
        message: error.message.clone(),
    })
}

/// All sources, and the one that is used now or tried next.
fn places(operation: &Operation) -> (Vec<String>, String) {
    let sources: Vec<String> = operation.sources().into_iter().map(str::to_owned).collect();
    let number = usize::try_from(operation.source()).unwrap_or(0);
    let source = sources.get(number).unwrap_or(&operation.spec.url).clone();
    (sources, source)
}

impl Engine {
    /// One operation.
    ///
    /// # Errors
    /// [`Error::UnknownId`].
    pub fn view(&self, id: TransferId) -> Result<OperationView, Error> {
        let now = self.core.now();
        let state = self.core.state();
        let operation = state.table.find(id).ok_or(Error::UnknownId(id))?;
        Ok(view(&state, &operation, now))
    }

    /// All operations, in the order of their creation.
    #[must_use]
    pub fn views(&self) -> Vec<OperationView> {
        let now = self.core.now();
        let state = self.core.state();
        let all = state.table.in_order();
        all.map(|operation| view(&state, &operation, now)).collect()
    }

    /// Operations in the order of their creation: at most `max`, and at least one, behind the position `after`, and where to
    /// go on if there are more. It costs what it returns, and besides, where a filter leaves the group open, a search for
    /// each group of the app; where it leaves the app open, a look at each group of each app.
    pub(crate) fn list(&self, filter: &Filter, after: Option<u64>, max: usize) -> Page {
        let max = max.max(1);
        let now = self.core.now();
        let state = self.core.state();
        let mut found: Vec<Cow<'_, Operation>> = state.table.rows().list(filter, after).take(max + 1).collect();
        let has_more = found.len() > max;
        found.truncate(max);
        let next = found.last().map(|last| last.order).filter(|_| has_more);
        let views = found.iter().map(|operation| view(&state, operation, now)).collect();
        Page { views, next }
    }

    /// Operations by their ids, in the order of these. Those that are not there are left out.
    #[must_use]
    pub fn views_of(&self, ids: &[TransferId]) -> Vec<OperationView> {
        let now = self.core.now();
        let state = self.core.state();
        let found = ids.iter().filter_map(|id| state.table.find(*id));
        found.map(|operation| view(&state, &operation, now)).collect()
    }

    /// Operations of which the journal tells anything since the position `cursor`, oldest change first, at most `max` and at
    /// least one of them, and the position to go on from. Whoever calls until that is the `cursor` given, and keeps it,
    /// misses no creation and no end, however long it is away; a call may return none and still go on. What was removed
    /// meanwhile is not shown, and only what is recorded counts: not the bytes of an attempt that runs.
    ///
    /// Positions are those of the journal: they begin at 0, stay the same across restarts and snapshots, and are durable
    /// before they are given out, so that no crash takes one back. A salvage keeps them as well, but takes back what was
    /// lost, and gives the numbers of what was lost at the end again: after one, and where another state directory or an
    /// older copy of this one was put in its place, begin at 0.
    pub(crate) fn changed_since(&self, filter: &Filter, cursor: u64, max: usize) -> (Vec<OperationView>, u64) {
        let now = self.core.now();
        let (views, next) = {
            let state = self.core.state();
            let (changed, next) = state.table.rows().changed(filter, cursor, max.max(1), LOOKS_MAX);
            let views = changed.iter().map(|operation| view(&state, operation, now));
            (views.collect(), next)
        };
        let is_durable = next == cursor || self.core.sync(Lsn(next - 1)).is_ok();
        // A journal that refuses stops the engine; the next one begins behind what is durable.
        let durable = self.core.journal.durable().0.max(cursor);
        (views, if is_durable { next } else { next.min(durable) })
    }

    /// The operations that a worker is on, in the order of their creation.
    #[must_use]
    pub fn running(&self) -> Vec<OperationView> {
        let now = self.core.now();
        let state = self.core.state();
        let mut running: Vec<Cow<'_, Operation>> =
            state.attempts.keys().filter_map(|id| state.table.find(*id)).collect();
        sort_few_by_key(&mut running, |operation| operation.order);
        let attempts = &state.attempts;
        let views = running.into_iter();
        views
            .map(|operation| {
                OperationView::new(
                    &operation,
                    now,
                    Lack::Slot,
                    attempts.get(&operation.id).map(AsRef::as_ref),
                )
            })
            .collect()
    }

    /// The operations of a restricted engine that have ended, from the `from`-th end on, in the order of their ends, and
    /// the number of ends so far. Those that the history has dropped already are counted and not shown.
    #[must_use]
    pub fn ends(&self, from: usize) -> (Vec<OperationView>, usize) {
        self.some_ends(from, usize::MAX)
    }

    /// The same of at most `max` ends, and the number of ends up to the last of them.
    pub(crate) fn some_ends(&self, from: usize, max: usize) -> (Vec<OperationView>, usize) {
        let now = self.core.now();
        let state = self.core.state();
        let until = from.saturating_add(max).min(state.ends.len());
        let ids = state.ends.get(from..until).unwrap_or_default().iter();
        let ended = ids.filter_map(|(id, _)| state.table.find(*id));
        let views = ended.map(|operation| OperationView::new(&operation, now, Lack::Slot, None));
        (views.collect(), until)
    }

    /// At most `max` of the same ends, and of each only whether it completed: also of those that the history has dropped.
    pub(crate) fn outcomes(&self, from: usize, max: usize) -> Vec<(TransferId, bool)> {
        let state = self.core.state();
        let until = from.saturating_add(max).min(state.ends.len());
        state.ends.get(from..until).unwrap_or_default().to_vec()
    }

    /// Ends that went out of the history before anybody acknowledged them.
    #[must_use]
    pub fn unacknowledged_lost(&self) -> u64 {
        self.core.state().table.unacknowledged_lost()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use backhaul_backends::{MemoryBackend, Resource};
    use backhaul_journal::simulation::{Call, Fault, SimDisk};

    use super::*;
    use crate::config::{Config, Window};
    use crate::engine::NewDownload;
    use crate::environment::FixedEnvironment;
    use crate::listing::GroupFilter;
    use crate::operation::{Event, Intent, OperationError};

    fn open(disk: &SimDisk) -> Engine {
        let environment = FixedEnvironment::new(1).on(disk.storage());
        let backend = Arc::new(MemoryBackend::new());
        let opened = Engine::open(Path::new("/state"), Config::default(), environment, vec![backend]);
        opened.expect("it opens")
    }

    fn create(engine: &Engine, count: usize) -> Vec<TransferId> {
        let download = |number| NewDownload {
            url: format!("mem://host/{number}"),
            destination: format!("/data/{number}").into(),
            app: format!("app {}", number % 2),
            hold: true,
            ..NewDownload::default()
        };
        let list: Vec<NewDownload> = (0..count).map(download).collect();
        engine.create(&list).expect("all are created")
    }

    fn disk() -> SimDisk {
        let disk = SimDisk::new();
        disk.put_directory(Path::new("/data"));
        disk
    }

    #[test]
    fn no_crash_takes_back_a_cursor_that_was_given_out() {
        let disk = disk();
        let engine = open(&disk);
        let ids = create(&engine, 3);
        let record = |id| {
            let mut state = engine.core.state();
            engine.core.record(&mut state, id, Event::Started).expect("it fits");
        };
        let next_after_crash = || open(&disk.lose_unsynced()).core.next_lsn();
        record(ids[0]);
        assert!(engine.cursor() <= next_after_crash());
        let (changed, cursor) = engine.changed_since(&Filter::default(), 0, 9);
        assert_eq!(changed.len(), 3);
        assert!(cursor <= next_after_crash());
        assert_eq!(
            engine.changed_since(&Filter::default(), cursor, 9),
            (Vec::new(), cursor)
        );
        record(ids[1]);
        let (changed, _) = engine.changed_since(&Filter::default(), cursor, 9);
        assert_eq!(changed.iter().map(|view| view.id).collect::<Vec<_>>(), [ids[1]]);
    }

    #[test]
    fn those_who_watch_are_woken_for_many_ends_and_not_only_for_the_last() {
        let disk = disk();
        let engine = open(&disk);
        let ids = create(&engine, 100);
        engine.restrict_to(Some(ids.iter().copied().collect()));
        for id in ids {
            engine.start(id).expect("it was held");
        }
        let mut told = Vec::new();
        while engine.step() {
            let state = engine.core.state();
            told.push((state.ends.len(), state.ends_told));
        }
        told.dedup_by_key(|(_, told)| *told);
        assert_eq!(told, [(0, 0), (64, 64), (100, 100)]);
    }

    #[test]
    fn what_is_shown_as_durable_is_there_after_a_crash_at_that_moment() {
        let disk = disk();
        let config = Config {
            window: Window {
                claim_bytes: 8 << 10,
                short_path_bytes_max: 0,
                ..Window::default()
            },
            buffer_bytes: 4 << 10,
            ..Config::default()
        };
        let memory = MemoryBackend::new();
        memory.put("mem://host/0", Resource::new(vec![1; 64 << 10], "\"1\""));
        let environment = FixedEnvironment::new(1).on(disk.storage());
        let opened = Engine::open(Path::new("/state"), config, environment, vec![Arc::new(memory)]);
        let engine = Arc::new(opened.expect("it opens"));
        let download = NewDownload {
            url: "mem://host/0".into(),
            destination: "/data/0".into(),
            ..NewDownload::default()
        };
        let id = engine.create(&[download]).expect("it is created")[0];
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (looked_at, lookers, crashed) = (Arc::clone(&engine), Arc::clone(&seen), disk.clone());
        disk.fail_with(move |call, _| {
            if call == Call::Sync {
                let shown = looked_at.view(id).expect("it is there");
                let left = open(&crashed.lose_unsynced()).view(id).expect("it was durable");
                let mut seen = lookers.lock().expect("no test thread has panicked");
                seen.push((shown.ranges, left.ranges));
            }
            None::<Fault>
        });
        while engine.step() {}
        disk.fail_no_more();
        let seen = seen.lock().expect("no test thread has panicked");
        let some = seen.iter().filter(|(shown, _)| !shown.is_empty());
        assert!(some.count() > 3, "{seen:?}");
        assert!(
            seen.iter().all(|(shown, left)| shown.is_empty() || shown == left),
            "{seen:?}"
        );
    }

    #[test]
    fn a_cursor_means_the_same_after_a_restart() {
        let disk = disk();
        let engine = open(&disk);
        let ids = create(&engine, 4);
        let (_, cursor) = engine.changed_since(&Filter::default(), 0, 9);
        engine.start(ids[2]).expect("it was on hold");
        engine.close().expect("it closes");
        let engine = open(&disk);
        let (changed, _) = engine.changed_since(&Filter::default(), cursor, 9);
        assert_eq!(changed.iter().map(|view| view.id).collect::<Vec<_>>(), [ids[2]]);
    }

    #[test]
    fn outcomes_are_those_that_the_views_of_the_same_ends_show_and_those_of_what_is_gone_besides() {
        let disk = disk();
        let engine = open(&disk);
        let ids = create(&engine, 5);
        engine.restrict_to(Some(ids[..4].iter().copied().collect()));
        let end = |index: usize, outcome| {
            let mut state = engine.core.state();
            let mut record = |event| engine.core.record(&mut state, ids[index], event).expect("it fits");
            if outcome == Outcome::Completed {
                let intent = Intent {
                    generation: 0,
                    final_name: b"name".to_vec(),
                    device: 1,
                    inode: 2,
                    len_bytes: 3,
                    crc32: 4,
                    boot_id: [5; 16],
                    directory_device: None,
                    directory_inode: None,
                };
                record(Event::Started);
                record(Event::Claimed { attempts: 1 });
                record(Event::Publishing(intent));
            }
            record(Event::Ended(outcome));
        };
        end(2, Outcome::Completed);
        end(
            0,
            Outcome::Failed(OperationError::new(404, None, "it is not there".into())),
        );
        end(4, Outcome::Completed);
        end(1, Outcome::Canceled);
        end(3, Outcome::Completed);
        let shown = |from, max| -> Vec<(TransferId, bool)> {
            let (views, _) = engine.some_ends(from, max);
            let shown = views
                .iter()
                .map(|view| (view.id, view.status == TransferStatus::Completed));
            shown.collect()
        };
        let all = [(ids[2], true), (ids[0], false), (ids[1], false), (ids[3], true)];
        assert_eq!(engine.outcomes(0, usize::MAX), all);
        for (from, max) in (0..6).flat_map(|from| (0..6).map(move |max| (from, max))) {
            assert_eq!(engine.outcomes(from, max), shown(from, max), "{from} {max}");
        }
        engine.remove(ids[2]).expect("it has ended");
        assert_eq!(engine.outcomes(0, usize::MAX), all, "it has ended as it has");
        assert_eq!(shown(0, 4), all[1..]);
    }

    #[test]
    fn a_page_says_where_to_go_on_and_the_last_one_does_not() {
        let disk = disk();
        let engine = open(&disk);
        let ids = create(&engine, 7);
        let filter = Filter {
            app: Some("app 0".into()),
            group: GroupFilter::Ungrouped,
        };
        let first = engine.list(&filter, None, 2);
        let second = engine.list(&filter, first.next, 2);
        let shown: Vec<TransferId> = first.views.iter().chain(&second.views).map(|view| view.id).collect();
        assert_eq!(shown, [ids[0], ids[2], ids[4], ids[6]]);
        assert_eq!((first.next.is_some(), second.next), (true, None));
        let known = engine.views_of(&[ids[3], TransferId([9; 16]), ids[1]]);
        assert_eq!(known.iter().map(|view| view.id).collect::<Vec<_>>(), [ids[3], ids[1]]);
    }
}
