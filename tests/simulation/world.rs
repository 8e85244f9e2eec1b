//! A device on which the real engine lives: a simulated disk, a scripted server, a clock that stands still until it is
//! moved, and one thread that takes every step.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use backhaul::{
    Body, Catalog, Changes, Collision, Config, Connections, Engine, Environment, Error, FixedEnvironment, Method,
    Priority, TransferId, TransferStatus, WebErrorStatus, Window, read_catalog,
};
use backhaul_backends::{Act, Failure, FailureKind, MemoryBackend};
use backhaul_journal::FileSystem;
use backhaul_journal::simulation::{Call, Choices, Fault, SimDisk};

use super::guard::KeyGuard;
use super::model::{
    Asked, CLAIM_BYTES, DATA, Known, Model, NEEDS_KEY, SECRET, SHORT_BYTES, STATE, Served, WINDOW_BYTES, body,
    has_ended, is_publishing, url,
};

/// How long the first boot has lasted when a life begins.
const FIRST_BOOT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Fewest bytes of a file that are worth a connection of their own.
const SEGMENT_BYTES_MIN: u64 = 300;
/// Rounds of waiting after which everything has to have ended.
const ROUNDS_MAX: u32 = 60;
/// Steps of one round.
const STEPS_MAX: usize = 1_000;

/// A download to ask for.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
pub(crate) struct New {
    pub(crate) url: usize,
    pub(crate) name: &'static str,
    pub(crate) collision: Collision,
    /// The digest of the version that is served now is expected, or that of the next one.
    pub(crate) digest: Option<Digest>,
    pub(crate) is_secret: bool,
    /// It is asked for by a POST, with a body that the engine has taken a copy of.
    pub(crate) is_post: bool,
    /// It has a header so long that few of its kind fit into one frame of the journal.
    pub(crate) is_long: bool,
    pub(crate) hold: bool,
    /// These stop it and do not end it.
    pub(crate) recoverable: &'static [WebErrorStatus],
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Digest {
    Now,
    Next,
}

/// What an application wants of one of its operations.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wish {
    Start,
    Pause,
    Resume,
    Cancel,
    Acknowledge,
    Remove,
    /// Other headers, secret ones among them, and a higher rank.
    Change,
}

/// Something that happens.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// Asks for downloads in one call.
    Create(Vec<New>),
    /// Lets the engine do so many pieces of work, as far as there is any.
    Step(usize),
    Pass(Duration),
    /// To the operation that was asked for at this place.
    Wish(Wish, usize),
    /// The same, in the middle of the next step, when so many more writes to part files were made.
    WishAt(Wish, usize, usize),
    /// The server hangs up at this byte of the next attempt.
    CutAt(usize, u64),
    /// The server answers the next attempt so.
    Fail(usize, FailureKind),
    /// The resource becomes another one.
    Change(usize),
    /// A network that wants a login answers with a web page of its own from now on, or does not any more.
    Portal(usize, bool),
    /// The resource is gone.
    Withdraw(usize),
    Offline,
    /// No write to the disk does more bytes at once.
    WriteMax(usize),
    /// Somebody puts a file of his own there.
    Put(&'static str),
    /// The same, in the middle of the next step, just before a file gets its name.
    PutAtRename(&'static str),
    /// Somebody takes a file away.
    Take(&'static str),
    /// The file system makes names durable by itself.
    Settle,
    Close,
    /// Ends the process and starts it again.
    Restart,
}

/// How a call to the disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    Io,
    Full,
    Interrupted,
    Short,
    SyncLoses,
    SyncReverts,
}

pub(crate) const BREAKS: [Break; 6] = [
    Break::Io,
    Break::Full,
    Break::Interrupted,
    Break::Short,
    Break::SyncLoses,
    Break::SyncReverts,
];

impl Break {
    fn fault(self, call: Call) -> Option<Fault> {
        match self {
            Self::Io => Some(std::io::Error::other("the disk does not answer").into()),
            Self::Full if call.is_change() && call != Call::Remove => {
                Some(std::io::Error::from(std::io::ErrorKind::StorageFull).into())
            }
            Self::Interrupted => Some(std::io::Error::from(std::io::ErrorKind::Interrupted).into()),
            Self::Short if call == Call::Write => Some(Fault::Short(1)),
            Self::SyncLoses if call == Call::Sync => Some(Fault::SyncLoses(std::io::Error::other("lost"))),
            Self::SyncReverts if call == Call::Sync => Some(Fault::SyncReverts(std::io::Error::other("reverted"))),
            _ => None,
        }
    }
}

/// Changes to the disk before the call that failed, once it has.
pub(crate) type FailedAt = Arc<Mutex<Option<u64>>>;

/// An operation, and what had been known of its cancel, its removal, its acknowledgement and its change.
type About = (TransferId, [Known; 4]);

pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) model: Model,
    server: Arc<MemoryBackend>,
    outside: Arc<FixedEnvironment>,
    engine: Option<Arc<Engine>>,
    /// A call failed since the engine was opened, so that errors are to be expected.
    failing: Arc<AtomicBool>,
    /// The disk has no room, so that errors are to be expected after the next open as well.
    is_full: bool,
    /// The model at each number of changes to the disk, where that is wanted.
    pub(crate) history: Option<Vec<(u64, Model)>>,
    /// Where time and chance of this world are, for those that branch off.
    clock: Clock,
    pub(crate) images: u64,
}

#[derive(Clone, Copy, Debug)]
struct Clock {
    passed: Duration,
    boots: u32,
    seed: u64,
}

impl Clock {
    fn environment(self) -> Arc<FixedEnvironment> {
        // Far apart, so that no two worlds draw the same id.
        let outside = FixedEnvironment::new(self.seed.wrapping_mul(self.seed).wrapping_mul(0xD6E8_FEB8_6659_FD93));
        // The first boot was long ago: its moments lie far beyond those of the next one.
        outside.advance(FIRST_BOOT);
        if self.boots == 0 {
            outside.advance(self.passed);
        }
        (0..self.boots).for_each(|_| outside.reboot());
        if self.boots > 0 {
            outside.advance(self.passed);
        }
        outside
    }
}

fn config(connections: usize) -> Config {
    Config {
        connections: Connections {
            max: connections,
            at_once: connections > 1,
            bytes_min: SEGMENT_BYTES_MIN,
            ..Connections::default()
        },
        buffer_bytes: 512,
        window: Window {
            claim_bytes: CLAIM_BYTES,
            unclaimed_bytes_max: WINDOW_BYTES,
            short_path_bytes_max: SHORT_BYTES,
            ..Window::default()
        },
        is_short_lived: true,
        checkpoint_bytes: 4 << 10,
        ..Config::default()
    }
}

fn path(name: &str) -> PathBuf {
    Path::new(DATA).join(name)
}

impl World {
    /// A device with nothing but `/data`, and a server.
    pub(crate) fn new(served: Vec<Served>, file_system: FileSystem, sector_bytes: usize) -> Self {
        let disk = SimDisk::with_sectors(sector_bytes);
        disk.put_directory(Path::new(DATA));
        disk.set_file_system(file_system);
        let clock = Clock {
            passed: Duration::ZERO,
            boots: 0,
            seed: 1,
        };
        Self::on(disk, Model::new(served), clock)
    }

    fn on(disk: SimDisk, model: Model, clock: Clock) -> Self {
        Self {
            disk,
            server: Arc::new(model.server()),
            model,
            outside: clock.environment(),
            engine: None,
            failing: Arc::default(),
            is_full: false,
            history: None,
            clock,
            images: 0,
        }
    }

    /// The world that goes on from what a crash left of this one.
    pub(crate) fn branch(&self, image: SimDisk, model: Model, is_power_cut: bool) -> Self {
        let clock = Clock {
            boots: self.clock.boots + u32::from(is_power_cut),
            // No id is ever given twice.
            seed: self.clock.seed + 1 + self.disk.changes(),
            ..self.clock
        };
        let mut model = model;
        model.settle_foreign(&image);
        Self::on(image, model, clock)
    }

    fn environment(&self) -> Environment {
        self.outside.on(self.disk.storage())
    }

    fn note(&mut self) {
        if let Some(history) = &mut self.history {
            history.push((self.disk.changes(), self.model.clone()));
        }
    }

    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed) || self.disk.has_stopped()
    }

    /// The value of an answer; an error only where one is to be expected, after which the engine is started again.
    fn taken<T>(&mut self, answer: Result<T, Error>) -> Option<T> {
        let error = match answer {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let refuses = matches!(
            error,
            Error::NotNow { .. } | Error::UnknownId(_) | Error::Conflict { .. } | Error::DestinationExists(_)
        );
        if refuses {
            return None;
        }
        assert!(self.is_failing(), "nothing failed, and yet: {error:?}");
        if let Error::Journal(error) = &error {
            let is_damage = matches!(**error, backhaul_journal::Error::Corrupt(_));
            assert!(!is_damage, "a failing call is taken for damage: {error:?}");
        }
        self.failing.store(true, Ordering::Relaxed);
        self.engine = None;
        None
    }

    /// Opens the engine if it is not open.
    pub(crate) fn open(&mut self) -> Option<Arc<Engine>> {
        if self.engine.is_none() {
            let server = Arc::new(KeyGuard(Arc::clone(&self.server)));
            let answer = Engine::open(
                Path::new(STATE),
                config(self.model.connections),
                self.environment(),
                vec![server],
            );
            let engine = self.taken(answer)?;
            self.failing.store(self.is_full, Ordering::Relaxed);
            self.model.settle(&engine.views());
            self.engine = Some(Arc::new(engine));
            self.note();
        }
        self.engine.clone()
    }

    /// Lets something happen, as far as the disk lets it.
    pub(crate) fn apply(&mut self, op: &Op) {
        trace(|| format!("{op:?}, {} changes so far", self.disk.changes()));
        match op {
            Op::CutAt(index, offset) => self.server.script(&url(*index), Act::CutAt(*offset)),
            Op::Fail(index, kind) => self.refuse(*index, *kind),
            Op::Change(index) => {
                let served = &mut self.model.served[*index];
                served.version += 1;
                if !served.is_withdrawn {
                    self.server.put(&url(*index), served.resource(*index));
                }
            }
            Op::Portal(index, is_there) => {
                let mut resource = self.model.served[*index].resource(*index);
                if *is_there {
                    resource.content.fill(b'?');
                    resource.content_type = Some("text/html".into());
                }
                self.server.put(&url(*index), resource);
            }
            Op::Withdraw(index) => {
                let served = &mut self.model.served[*index];
                (served.is_withdrawn, served.has_refused) = (true, true);
                self.server.remove(&url(*index));
            }
            Op::WriteMax(bytes) => self.disk.set_write_max(*bytes),
            Op::Offline => self.outside.set_online(false),
            Op::Pass(duration) => self.pass(*duration),
            Op::Put(name) => self.put(name),
            Op::Take(name) => self.take(name),
            Op::Settle => self.disk.storage().sync_directory(Path::new(DATA)).unwrap_or_default(),
            Op::Restart => self.engine = None,
            Op::Close => self.close(),
            Op::Create(_) | Op::Step(_) | Op::Wish(..) | Op::WishAt(..) | Op::PutAtRename(_) => {
                if let Some(engine) = self.open() {
                    self.ask(&engine, op);
                }
            }
        }
        self.note();
    }

    /// What needs an engine.
    fn ask(&mut self, engine: &Arc<Engine>, op: &Op) {
        match op {
            Op::Create(new) => self.create(engine, new),
            Op::Step(count) => self.step(engine, *count),
            Op::Wish(wish, index) => {
                if let Some(about) = self.about_to(engine, *wish, *index) {
                    let answer = wish.on(engine, about.0);
                    self.answered(*wish, about, answer);
                }
            }
            Op::PutAtRename(name) => self.put_at_rename(engine, name),
            Op::WishAt(wish, index, writes) => self.wish_during_a_step(engine, *wish, *index, *writes),
            _ => unreachable!("{op:?} needs no engine"),
        }
    }

    fn close(&mut self) {
        if self.open().is_some()
            && let Some(engine) = self.engine.take().and_then(Arc::into_inner)
        {
            let answer = engine.close();
            self.taken(answer);
        }
    }

    fn pass(&mut self, duration: Duration) {
        self.outside.advance(duration);
        self.clock.passed += duration;
    }

    fn refuse(&mut self, index: usize, kind: FailureKind) {
        self.model.served[index].has_refused |= kind == FailureKind::Permanent;
        let failure = Failure {
            kind,
            status: WebErrorStatus::FORBIDDEN,
            code: Some(403),
            message: "no".into(),
        };
        self.server.script(&url(index), Act::Fail(failure));
    }

    fn put(&mut self, name: &str) {
        let path = path(name);
        if self.disk.find(&path).is_none() {
            let bytes = format!("somebody else's {name}").into_bytes();
            self.disk.put(&path, &bytes);
            self.model.foreign.insert(path, bytes);
        }
    }

    fn put_at_rename(&mut self, engine: &Engine, name: &str) {
        let (path, bytes) = (path(name), format!("put there at the last moment: {name}").into_bytes());
        let (disk, to, put) = (self.disk.clone(), path.clone(), bytes.clone());
        let mut has_come = false;
        self.disk.fail_with(move |call, from| {
            if call == Call::Rename && from.starts_with(DATA) && !has_come && disk.find(&to).is_none() {
                disk.put(&to, &put);
                has_come = true;
            }
            None::<Fault>
        });
        self.model.foreign_at_rename = Some((path, bytes));
        self.note();
        self.step(engine, 1);
        self.disk.fail_no_more();
        let disk = self.disk.clone();
        self.model.settle_foreign(&disk);
    }

    fn take(&mut self, name: &str) {
        let path = path(name);
        self.model.taken.insert(path.clone());
        self.note();
        let _ = self.disk.storage().remove(&path);
    }

    fn create(&mut self, engine: &Engine, new: &[New]) {
        self.model.calls += 1;
        let before = self.model.asked.len();
        let mut requests = Vec::new();
        for new in new {
            let body = new.is_post.then(|| {
                let answer = engine.spool(&mut &*body(new.url), u64::MAX);
                self.taken(answer).map(Body::Spooled)
            });
            if body.as_ref().is_some_and(Option::is_none) {
                self.model.asked.truncate(before);
                return;
            }
            let served = &self.model.served[new.url];
            let asked = Asked {
                id: None,
                call: self.model.calls,
                url: new.url,
                since: served.version,
                destination: path(new.name),
                collision: new.collision,
                digest: new.digest.map(|digest| match digest {
                    Digest::Now => served.version,
                    Digest::Next => served.version + 1,
                }),
                held: new.hold,
                is_post: new.is_post,
                canceled: Known::No,
                removed: Known::No,
                acknowledged: Known::No,
                changed: Known::No,
                ended: None,
                published: None,
            };
            let mut request = self.model.request(&asked, new.is_secret, new.hold);
            request.recoverable.extend_from_slice(new.recoverable);
            request
                .headers
                .extend(new.is_long.then(|| format!("X-Long: {}", "l".repeat(5_000))));
            if let Some(body) = body {
                (request.method, request.body) = (Method::POST, body);
            }
            requests.push(request);
            self.model.asked.push(asked);
        }
        self.note();
        let answer = engine.create(&requests).map_err(|(_, error)| error);
        let is_refused = answer.as_ref().is_err_and(|error| {
            matches!(
                error,
                Error::Conflict { .. } | Error::DestinationExists(_) | Error::Invalid { .. }
            )
        });
        match answer {
            _ if is_refused => self.model.asked.truncate(before),
            answer => {
                let ids = self.taken(answer).unwrap_or_default();
                for (asked, id) in self.model.asked[before..].iter_mut().zip(ids) {
                    asked.id = Some(id);
                }
            }
        }
    }

    fn step(&mut self, engine: &Engine, count: usize) {
        for _ in 0..count {
            if !engine.step() {
                break;
            }
            self.note_ends(engine);
        }
    }

    /// Writes down the ends that are durable.
    fn note_ends(&mut self, engine: &Engine) {
        if self.is_failing() {
            return;
        }
        for asked in self.model.asked.iter_mut().filter(|asked| asked.ended.is_none()) {
            let Some(view) = asked.id.and_then(|id| engine.view(id).ok()) else {
                continue;
            };
            asked.note_end(&view);
        }
        self.note();
    }

    /// The operation that a wish is about; what it may change is written down before it does.
    fn about_to(&mut self, engine: &Engine, wish: Wish, index: usize) -> Option<About> {
        let asked = self.model.asked.get_mut(index)?;
        let id = asked.id?;
        let before = [asked.canceled, asked.removed, asked.acknowledged, asked.changed];
        match wish {
            Wish::Cancel if asked.canceled == Known::No => asked.canceled = Known::Maybe,
            Wish::Acknowledge if asked.acknowledged == Known::No => asked.acknowledged = Known::Maybe,
            Wish::Change if asked.changed == Known::No => asked.changed = Known::Maybe,
            Wish::Start => asked.held = false,
            Wish::Remove => {
                // Where its file is will not be shown any more.
                let view = engine
                    .view(id)
                    .ok()
                    .filter(|view| view.status == TransferStatus::Completed);
                asked.published = asked.published.take().or(view.map(|view| view.destination));
                if asked.removed == Known::No {
                    asked.removed = Known::Maybe;
                }
            }
            _ => {}
        }
        self.note();
        Some((id, before))
    }

    fn answered(&mut self, wish: Wish, (id, before): About, answer: Result<(), Error>) {
        let is_done = self.taken(answer).is_some();
        let is_failing = self.is_failing();
        let Some(asked) = self.model.asked.iter_mut().find(|asked| asked.id == Some(id)) else {
            return;
        };
        match wish {
            Wish::Cancel if is_done => asked.canceled = Known::Yes,
            Wish::Acknowledge if is_done => asked.acknowledged = Known::Yes,
            Wish::Change if is_done => asked.changed = Known::Yes,
            Wish::Remove if is_done => {
                asked.removed = Known::Yes;
                let sealed = self.disk.names(&Path::new(STATE).join("vault"));
                let of_it = sealed.iter().find(|name| name.starts_with(&id.to_string()));
                assert_eq!(of_it, None, "secrets outlive their operation");
            }
            // A refusal says that nothing has changed.
            _ if !is_failing && !is_done => {
                [asked.canceled, asked.removed, asked.acknowledged, asked.changed] = before;
            }
            _ => {}
        }
        if let Some(engine) = self.engine.clone() {
            self.note_ends(&engine);
        }
    }

    /// Pause, cancel and the like in the middle of an attempt: from inside a call to the disk, as another thread would.
    fn wish_during_a_step(&mut self, engine: &Arc<Engine>, wish: Wish, index: usize, writes: usize) {
        let Some(about) = self.about_to(engine, wish, index) else {
            return;
        };
        let id = about.0;
        let answer = Arc::new(Mutex::new(None));
        let (mut left, inside, to) = (writes, Arc::clone(engine), Arc::clone(&answer));
        self.disk.fail_with(move |call, path| {
            if call == Call::Write && path.starts_with(DATA) {
                if left == 0 {
                    to.lock().unwrap().get_or_insert_with(|| wish.on(&inside, id));
                }
                left = left.saturating_sub(1);
            }
            None::<Fault>
        });
        self.step(engine, 1);
        self.disk.fail_no_more();
        let answer = answer.lock().unwrap().take();
        self.answered(wish, about, answer.unwrap_or(Err(Error::UnknownId(id))));
    }

    /// Lets the `nth` call from now on that can fail so do it.
    pub(crate) fn break_at(&mut self, how: Break, nth: usize) -> FailedAt {
        trace(|| format!("{how:?} at call {nth}"));
        let failed_at = FailedAt::default();
        let (to, disk, failing) = (Arc::clone(&failed_at), self.disk.clone(), Arc::clone(&self.failing));
        let mut left = nth;
        // Interruptions and short writes are no failures: the storage goes on by itself.
        let is_failure = !matches!(how, Break::Interrupted | Break::Short);
        self.model.is_faulty |= is_failure;
        self.model.faults += u32::from(is_failure);
        self.disk.fail_with(move |call, path| {
            let fault = how.fault(call)?;
            let mut at = to.lock().unwrap();
            let is_it = left == 0 && at.is_none();
            left = left.saturating_sub(1);
            if is_it {
                trace(|| format!("{how:?}: {call:?} of '{}'", path.display()));
                *at = Some(disk.changes());
                failing.fetch_or(is_failure, Ordering::Relaxed);
            }
            is_it.then_some(fault)
        });
        failed_at
    }

    pub(crate) fn fill_disk(&mut self, left_bytes: usize) {
        trace(|| format!("{left_bytes} bytes are left on the disk"));
        self.disk.set_capacity(self.disk.used() + left_bytes);
        self.failing.store(true, Ordering::Relaxed);
        self.is_full = true;
        self.model.is_faulty = true;
        self.model.faults += 2;
    }

    /// Judges what a crash left, goes on from there until everything has ended, and judges that.
    pub(crate) fn judge(&mut self, image: SimDisk, is_power_cut: bool) {
        let model = self.model.clone();
        self.judge_as(image, model, is_power_cut, true);
    }

    /// As [`World::judge`], against what had been promised at that time.
    fn judge_as(&mut self, image: SimDisk, model: Model, is_power_cut: bool, to_the_end: bool) {
        trace(|| {
            format!(
                "judged, after a power cut: {is_power_cut}: {:?}",
                image.names(Path::new(DATA))
            )
        });
        self.images += 1;
        let before = self.disk.clone();
        let mut after = self.branch(image, model, is_power_cut);
        let catalog = after.look(&before);
        if to_the_end {
            after.finish(&catalog);
        }
    }

    /// Compares the listing of a disk that nobody has opened with what was promised.
    pub(crate) fn look(&self, before: &SimDisk) -> Catalog {
        let catalog = read_catalog(Path::new(STATE), &self.environment()).unwrap();
        self.model.judge(before, &self.disk, &catalog);
        catalog
    }

    /// Starts what stands still, lets time pass until everything has ended, and judges the end.
    pub(crate) fn finish(&mut self, before: &Catalog) {
        let engine = self.open().expect("nothing fails");
        let mut rounds = 0;
        loop {
            for view in engine.views() {
                let answer = match view.status {
                    TransferStatus::Idle => engine.start(view.id),
                    TransferStatus::PausedByApplication | TransferStatus::PausedRecoverableWebErrorStatus => {
                        engine.resume(view.id)
                    }
                    _ => Ok(()),
                };
                answer.unwrap();
            }
            let steps = (0..STEPS_MAX).take_while(|_| engine.step()).count();
            assert!(steps < STEPS_MAX, "the engine does not come to rest");
            if engine.views().iter().all(has_ended) {
                break;
            }
            rounds += 1;
            assert!(rounds < ROUNDS_MAX, "something never ends: {:?}", engine.views());
            self.pass(Duration::from_secs(601));
        }
        self.judge_resumption(before);
        self.model.judge_end(&self.disk, &engine.views());
    }

    /// What was claimed is not fetched again: the first attempt goes on where the claim ends.
    fn judge_resumption(&self, before: &Catalog) {
        if self.model.is_faulty || self.model.is_rotten {
            return;
        }
        // The answer to another method is never continued, and several operations may ask one URL with it.
        let mut attempts = self.server.attempts();
        attempts.retain(|attempt| attempt.method.is_get());
        let open = before.operations.iter().filter(|view| !view.status.is_ended());
        for view in open.filter(|view| view.method.is_get()) {
            let first = attempts.iter().find(|attempt| attempt.url == view.url);
            let is_publishing = is_publishing(view);
            let Some(first) = first.filter(|_| !is_publishing) else {
                continue;
            };
            let Some(total) = view.bytes_total.filter(|_| first.end_bytes.is_some()) else {
                assert_eq!(
                    first.offset_bytes, view.bytes_done,
                    "claimed bytes are fetched again: {view:?}"
                );
                continue;
            };
            // Gaps, each asked for once before anything is asked for again.
            let mut asked: Vec<std::ops::Range<u64>> = Vec::new();
            for attempt in attempts.iter().filter(|attempt| attempt.url == view.url) {
                let Some(end) = attempt.end_bytes else { break };
                if asked
                    .iter()
                    .any(|range| attempt.offset_bytes < range.end && range.start < end)
                {
                    break;
                }
                asked.push(attempt.offset_bytes..end);
            }
            let asked_bytes: u64 = asked.iter().map(|range| range.end - range.start).sum();
            assert!(
                asked_bytes <= total - view.bytes_done,
                "claimed bytes are fetched again: {asked:?} of {view:?}"
            );
        }
    }

    /// Goes on from an image, which from then on is the disk of this world.
    pub(crate) fn go_on_with(&mut self, image: SimDisk, is_power_cut: bool) {
        trace(|| {
            format!(
                "goes on, after a power cut: {is_power_cut}: {:?}",
                image.names(Path::new(DATA))
            )
        });
        self.engine = None;
        let model = self.model.clone();
        let images = self.images;
        *self = self.branch(image, model, is_power_cut);
        self.images = images;
    }

    /// What a crash leaves of the disk, and whether it was a power cut.
    pub(crate) fn crash(&mut self, choices: &mut Choices) -> (SimDisk, bool) {
        match choices.below(5) {
            0 => (self.disk.kill(), false),
            1 => (self.disk.lose_unsynced(), true),
            _ => (self.disk.cut_power(choices), true),
        }
    }
}

/// Tells what happens, where `BACKHAUL_TRACE` asks for it.
pub(crate) fn trace(what: impl FnOnce() -> String) {
    static IS_WANTED: OnceLock<bool> = OnceLock::new();
    if *IS_WANTED.get_or_init(|| std::env::var_os("BACKHAUL_TRACE").is_some()) {
        super::trials::say(&what());
    }
}

impl Wish {
    fn on(self, engine: &Engine, id: TransferId) -> Result<(), Error> {
        match self {
            Self::Start => engine.start(id),
            Self::Pause => engine.pause(id),
            Self::Resume => engine.resume(id),
            Self::Cancel => engine.cancel(id),
            Self::Acknowledge => engine.acknowledge(&[id]),
            Self::Remove => engine.remove(id),
            Self::Change => engine.view(id).and_then(|view| {
                let changes = Changes {
                    headers: vec![NEEDS_KEY.into()],
                    // Another one at another time, so that the secrets change, too.
                    secret_headers: vec![
                        format!("X-Key: {SECRET}"),
                        format!("X-Turn: {SECRET}-{}", view.attempts),
                    ],
                    priority: Some(Priority::High),
                    ..Changes::default()
                };
                engine.set(id, &changes)
            }),
        }
    }
}
