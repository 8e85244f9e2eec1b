//! The engine: joins journal, table, scheduler, workers and files. The only place where they meet.

mod access;
mod adopt;
mod amend;
mod attempt;
mod backends;
mod believed;
mod body;
mod checkpoint;
mod completion;
mod core;
mod create;
mod crew;
mod destination;
mod doubt;
mod draft;
mod expected;
mod fault;
mod filter;
mod forget;
mod groups;
mod ledger;
mod list;
mod names;
mod origin;
mod panicked;
mod part;
mod places;
mod proxied;
mod publish;
mod ready;
mod rebuilding;
mod record;
mod room;
mod salvage;
mod scratch;
mod serve;
mod settle;
mod spool;
mod uploads;
mod view;
mod waiting;
mod watch;
mod worker;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use backhaul_backends::{Backend, RateLimit, Registry, Throttle};
use backhaul_journal::{Lock, Storage, steps};

use self::core::{Core, Role, Stored, TOGETHER_MAX, Work};
use self::names::Names;
use self::ready::Ready;
pub(crate) use self::rebuilding::Rebuilding;
use self::room::Room;
use self::scratch::{Shelving, Trouble};
use crate::config::{Config, Layout};
use crate::environment::Environment;
use crate::error::Error;
use crate::groups::GroupView;
use crate::operation::{Event, Lack, Operation, Outcome, TransferId};
use crate::table::Table;
use crate::threads;
use crate::vault::{SealedName, Vault};

pub use self::access::{READ_BYTES_MAX, ReadOutcome};
pub use self::amend::{Changes, check_changes};
pub use self::backends::{PACKAGED_HELPERS, backends};
pub use self::body::Body;
pub(crate) use self::body::check_takes_body;
pub use self::completion::{CompletionGroupView, CompletionState, Report};
pub use self::create::{CheckedDownload, NewDownload, check_downloads, check_free};
pub(crate) use self::create::{Checks, Series};
pub use self::proxied::with_environment_proxies;
pub use self::salvage::damaged_journals;
pub(crate) use self::salvage::journal_directory;
pub use self::serve::Description;
pub(crate) use self::serve::{Holder, holder};
pub use self::spool::SpooledBody;
pub use self::view::{OperationView, ViewError};
pub(crate) use self::watch::{Changed, Noted, Observer};
pub use crate::listing::{Filter, GroupFilter};

/// Most connections of one transfer, whatever is asked for: servers take more for an attack.
const CONNECTIONS_MAX: usize = 16;

/// Shortest pause between two looks at what an operation waits for.
const PROBE_EVERY_MIN: Duration = Duration::from_millis(1);

/// Before the limit of one host in the text of the lock file, by which others can tell what waits for it.
const PER_HOST: &str = "jobs-per-host ";

/// One engine on one state directory: everything that is stored there, and the threads that transfer it.
///
/// There is at most one at a time, in any process (see [`Error::Locked`]).
pub struct Engine {
    core: Arc<Core>,
}

/// Until when [`Engine::run`] works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Until [`Engine::stop`].
    Stopped,
    /// Until nothing can go on by itself.
    Idle,
}

impl Engine {
    /// Opens a state directory, makes it where it is missing, recovers what a crash left, and takes its lock until
    /// dropped.
    ///
    /// # Errors
    /// [`Error::Locked`] where another process has it; [`Error::Journal`] where the journal is damaged or of another
    /// format, and [`Error::NotSalvaged`] where that was tried: nothing is changed then.
    pub fn open(
        directory: &Path,
        mut config: Config,
        environment: Environment,
        backends: Vec<Arc<dyn Backend>>,
    ) -> Result<Self, Error> {
        // Whoever calls may change the current directory later, as programs do that go on in the background.
        let directory = &std::path::absolute(directory).map_err(|error| Error::io("find", directory, error))?;
        config.connections.max = config.connections.max.clamp(1, CONNECTIONS_MAX);
        let (mut config, budget) = config.within_memory()?;
        // A look without a pause before the next one would be a loop without end.
        config.retry.probe_every = config.retry.probe_every.max(PROBE_EVERY_MIN);
        let layout = Layout::new(directory);
        let storage = &environment.storage;
        let names = Names::make(storage, directory)?;
        let lock = Lock::acquire_untold(storage, &layout.lock(), config.allow_network_file_system)?;
        // Before anything is written, so that on most file systems there is nothing to do where nothing is new.
        names.sync_found(storage)?;
        lock.add_lines("");
        let connections_max = config.connections.max;
        let room = Room::fit(config.jobs_max, connections_max, environment.open_files_max).ok_or(Error::limit(
            "open files (raise RLIMIT_NOFILE)",
            environment.open_files_max as u64,
        ))?;
        let room = room.with_ready(budget.ready_max);
        let options = salvage::journal_options(&config, &environment, names.is_new());
        let trouble = Arc::new(Trouble::default());
        let terms = salvage::Terms {
            options,
            salvage: config.salvage,
            shelving: Shelving::within(budget.shelf_bytes, storage, &layout, &trouble),
        };
        let (journal, report, rebuilding) = salvage::open(storage, &layout, &lock, &terms)?;
        names.sync_overtaken(storage, report.created)?;
        log::debug!(
            "{}: {} operations, journal up to {}, {:?}",
            directory.display(),
            rebuilding.table.len(),
            report.next.0,
            report.tail
        );
        let mut table = rebuilding.table;
        table.reopened(environment.clock.now());
        table.limit_hosts(config.jobs_per_host_max);
        table.limit_lingering(budget.lingering_max());
        let vault = Vault::new(layout.vault(), environment.clone());
        if !table.is_salvaged() {
            sweep_state(&layout, storage, &vault, &table, &trouble)?;
        }
        trouble.check()?;
        let backends = throttled(backends, config.rate_max);
        let place = serve::place_of(storage, directory)?;
        let stored = Stored {
            directory: directory.clone(),
            place,
            journal,
            vault,
            table,
            lock,
            trouble,
            next_lsn: report.next.0,
        };
        let core = Arc::new(Core::new(environment, config, room, Registry::new(backends), stored));
        core.note_in_lock("");
        doubt::sweep(&core);
        // A crash between the last end and the firing of a group is made up for.
        core.fire(&mut core.state())?;
        core.sweep_history()?;
        Ok(Self { core })
    }

    /// Starts an operation that was created on hold.
    ///
    /// # Errors
    /// [`Error::UnknownId`]; [`Error::NotNow`] where it was started before.
    pub fn start(&self, id: TransferId) -> Result<(), Error> {
        self.command(id, Event::Started)
    }

    /// Asks an operation to stand still; its attempt ends in under a second, with what it received claimed.
    ///
    /// # Errors
    /// [`Error::UnknownId`]; [`Error::NotNow`] where it has ended, is paused, or was never started.
    pub fn pause(&self, id: TransferId) -> Result<(), Error> {
        self.command(id, Event::Paused)?;
        self.core.interrupt(id);
        Ok(())
    }

    /// Lets a paused operation go on; one that waits, or stopped with an error that its owner can mend, tries at once.
    ///
    /// # Errors
    /// [`Error::UnknownId`]; [`Error::NotNow`] where it has ended or was never started.
    pub fn resume(&self, id: TransferId) -> Result<(), Error> {
        self.command(id, Event::Resumed)
    }

    /// Cancels an operation and removes its part file.
    ///
    /// # Errors
    /// [`Error::UnknownId`]; [`Error::NotNow`] where it has ended or is being published.
    pub fn cancel(&self, id: TransferId) -> Result<(), Error> {
        self.command(id, Event::Ending(Outcome::Canceled))?;
        self.core.interrupt(id);
        self.sweep_if_free(id)
    }

    /// Removes the record of an operation that has ended.
    ///
    /// # Errors
    /// [`Error::UnknownId`]; [`Error::NotNow`] where it has not ended.
    pub fn remove(&self, id: TransferId) -> Result<(), Error> {
        let operation = self.find(id)?;
        self.command(id, Event::Removed)?;
        if operation.spec.has_secrets {
            self.core.vault.remove(SealedName::of(&operation))
        } else {
            Ok(())
        }
    }

    /// Acknowledges ends: from now on the history may drop them.
    ///
    /// # Errors
    /// [`Error::UnknownId`]; [`Error::NotNow`] where one has not ended. Those before it are acknowledged.
    pub fn acknowledge(&self, ids: &[TransferId]) -> Result<(), Error> {
        let result = self.acknowledge_soon(ids);
        self.core.sync_all()?;
        result
    }

    /// The same, durable with what is made durable next: a crash before that has the ends told once more.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn acknowledge_soon(&self, ids: &[TransferId]) -> Result<(), Error> {
        let mut unknown = None;
        let acknowledged = ids.chunks(TOGETHER_MAX).try_for_each(|ids| {
            let mut state = self.core.state();
            ids.iter().try_for_each(|id| {
                match self.core.record(&mut state, *id, Event::Acknowledged) {
                    // An unknown id costs no other its acknowledgement.
                    Err(Error::NotNow { .. }) if !state.table.contains(*id) => {
                        unknown.get_or_insert(*id);
                        Ok(())
                    }
                    result => result.map(|_| ()),
                }
            })
        });
        acknowledged.and_then(|()| unknown.map_or(Ok(()), |id| Err(Error::UnknownId(id))))?;
        self.core.sweep_history()
    }

    /// Works until told otherwise, on threads of its own. `observe` is called on this thread about every `tick`.
    ///
    /// # Errors
    /// What made the engine stop by itself: a journal or a disk that refuses.
    pub fn run(&self, until: Until, tick: Option<Duration>, mut observe: impl FnMut(&Self)) -> Result<(), Error> {
        let result = self.run_watched(until, |engine| {
            if tick.is_some() {
                observe(engine);
            }
            tick
        });
        if tick.is_none() {
            observe(self);
        }
        result
    }

    /// The same; `observe` is called at the beginning, whenever all work is done, at [`Engine::wake`], and after the time that
    /// it gave when it was called last.
    ///
    /// # Errors
    /// As [`Engine::run`].
    pub(crate) fn run_watched(
        &self,
        until: Until,
        mut observe: impl FnMut(&Self) -> Option<Duration>,
    ) -> Result<(), Error> {
        let core = &self.core;
        core.set_threaded(true);
        core.state().has_stopped = false;
        let mut threads = Vec::new();
        self.start_missing(&mut threads);
        let mut tick = observe(self);
        let mut state = core.state();
        while !state.stopping && !is_over(&state, until) {
            state = core.watch(state, tick);
            drop(state);
            self.start_missing(&mut threads);
            tick = observe(self);
            state = core.state();
        }
        drop(state);
        core.stop();
        for thread in threads {
            // None of them panics.
            let _ = thread.join();
        }
        core.join_commands();
        observe(self);
        core.sync_all()?;
        let mut state = core.state();
        state.stopping = false;
        state.has_stopped = true;
        state.fault.take().map_or(Ok(()), Err)
    }

    /// Lets whoever runs the engine look at it now.
    pub(crate) fn wake(&self) {
        self.core.watchers.notify_all();
    }

    /// Does one piece of work on this thread, if there is one; for tests that decide what happens when.
    #[must_use]
    pub fn step(&self) -> bool {
        match self.core.next_now() {
            Some(work) => {
                if let Some(ready) = perform(&self.core, work) {
                    self.core.end_attempt(&mut self.core.state(), ready.id, Some(ready));
                }
                true
            }
            None => false,
        }
    }

    /// Ends [`Engine::run`]: attempts are interrupted, and what they received is claimed.
    pub fn stop(&self) {
        self.core.stop();
    }

    /// Only these operations are worked on from now on; all where `None`.
    pub fn restrict_to(&self, only: Option<BTreeSet<TransferId>>) {
        let only = only.map(|only| only.into_iter().collect());
        self.core.state().table.restrict_to(only);
        self.core.wake_all();
    }

    /// Nothing is left that could go on by itself.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        Core::is_idle(&self.core.state())
    }

    /// Operations that ended, and how many of them in an error, since the engine was opened.
    #[must_use]
    pub fn ended(&self) -> (u64, u64) {
        let state = self.core.state();
        (state.ended, state.failed)
    }

    /// Writes the mark of a clean end and lets go of the lock.
    ///
    /// # Errors
    /// [`Error::Journal`] where the last records could not be made durable.
    pub fn close(self) -> Result<(), Error> {
        // Short-lived processes, too, must not let the journal grow for ever.
        self.core.checkpoint_if_due();
        match Arc::try_unwrap(self.core) {
            Ok(core) => core.journal.close().map_err(Error::from),
            // Somebody else still holds the engine: what it has recorded is durable, without the mark of a clean end.
            Err(core) => core.sync_all(),
        }
    }

    /// Nothing was ever recorded here: the first record has the number 1.
    pub(crate) fn is_blank(&self) -> bool {
        self.core.next_lsn() <= 1
    }

    /// Makes durable what was recorded; for who cannot close it, as somebody else still holds it.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.core.sync_all()
    }

    fn command(&self, id: TransferId, event: Event) -> Result<(), Error> {
        self.find(id)?;
        self.core.record_durably(id, event)?;
        self.core.wake_all();
        Ok(())
    }

    fn find(&self, id: TransferId) -> Result<Operation, Error> {
        let found = self.core.find(id);
        // What cannot be read any more is not unknown.
        self.core.trouble.check()?;
        found.ok_or(Error::UnknownId(id))
    }

    /// Sweeps at once where no worker holds the operation; else the worker's end makes it due.
    fn sweep_if_free(&self, id: TransferId) -> Result<(), Error> {
        let operation = {
            let mut state = self.core.state();
            if state.table.is_busy(id) {
                return Ok(());
            }
            state.table.set_busy(id, true);
            state.table.find(id).map(Cow::into_owned)
        };
        let result = operation.map_or(Ok(()), |operation| publish::sweep(&self.core, &operation));
        self.core.let_go(&[id], 0);
        result
    }

    /// Starts the threads that there should be besides these: the publisher, and as many workers as there are slots or, where
    /// only some operations count, as those can use, which may become more.
    fn start_missing(&self, threads: &mut Vec<JoinHandle<()>>) {
        let jobs_max = self.core.room.jobs_max;
        let chosen = self.core.state().table.restricted_to();
        let workers = chosen.map_or(jobs_max, |count| jobs_max.min(count).max(1));
        while threads.len() <= workers {
            let (role, thread) = if threads.is_empty() {
                (Role::Publisher, threads::Role::Publisher)
            } else {
                (Role::Worker, threads::Role::Worker)
            };
            let core = Arc::clone(&self.core);
            match threads::for_a(thread).spawn(move || work(&core, role)) {
                Ok(thread) => threads.push(thread),
                // Those that run already are ended like those of any engine that cannot go on.
                Err(error) => return self.core.fail(Error::io("start a thread for", "engine", error)),
            }
        }
    }
}

fn work(core: &Arc<Core>, role: Role) {
    if role == Role::Worker {
        crate::sys::interrupt_nobody();
    }
    core.stop_on_panic(|| {
        let mut ready = None;
        while let Some(work) = core.next(role, ready.take()) {
            ready = perform(core, work);
        }
    });
    // The publisher waits for the last attempt; a worker that leaves may have been that.
    core.publisher.notify_all();
}

/// Does a piece of work; gives the complete file that an attempt has brought, if it did.
fn perform(core: &Arc<Core>, work: Work) -> Option<Ready> {
    match work {
        Work::Attempt(operation, attempt) => {
            let ready = worker::attempt(core, &operation, &attempt);
            if ready.is_some() {
                // Nothing has ended yet, and the publisher looks at the history.
                return ready;
            }
        }
        Work::WriteOut(drafts) => {
            publish::write_out(core, drafts);
            // Nothing has ended, as above.
            return None;
        }
        Work::Publish(batch) => publish::publish(core, batch),
        Work::Command(completion, stop) => completion::run(core, completion, stop),
        Work::Finish(operation) => {
            if let Err(error) = publish::finish(core, &operation) {
                core.fail(error);
            }
            core.let_go(&[operation.id], 0);
        }
        Work::Sweep(operation) => {
            if let Err(error) = publish::sweep(core, &operation) {
                core.fail(error);
            }
            core.let_go(&[operation.id], 0);
        }
        Work::DropUploads => core.drop_stale_uploads(),
        Work::Shorten => {}
    }
    match core.sweep_history() {
        Ok(()) => core.checkpoint_if_due(),
        Err(error) => core.fail(error),
    }
    None
}

fn is_over(state: &core::State, until: Until) -> bool {
    match until {
        Until::Stopped => false,
        Until::Idle => Core::is_idle(state),
    }
}

/// Removes what the state directory keeps for operations that are no more. After a salvage it belongs to what may be found
/// again by hand, where the creation of an operation was lost.
fn sweep_state(
    layout: &Layout,
    storage: &Arc<dyn Storage>,
    vault: &Vault,
    table: &Table,
    trouble: &Trouble,
) -> Result<(), Error> {
    if steps::is_taken("removal of secrets that nobody needs") {
        let is_needed = |sealed: SealedName| table.find(sealed.id).is_some_and(|one| SealedName::of(&one) == sealed);
        vault.sweep(|sealed| is_needed(sealed) || trouble.is_there())?;
    }
    spool::sweep(storage, &layout.spool(), table, trouble)
}

fn throttled(backends: Vec<Arc<dyn Backend>>, rate_max: Option<NonZeroU64>) -> Vec<Arc<dyn Backend>> {
    let Some(rate_max) = rate_max else { return backends };
    let limit = Arc::new(RateLimit::new(rate_max));
    backends
        .into_iter()
        .map(|backend| Arc::new(Throttle::new(backend, Arc::clone(&limit))) as _)
        .collect()
}

/// What a state directory holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Catalog {
    /// All operations, in the order of their creation.
    pub operations: Vec<OperationView>,
    /// Ends that went out of the history before anybody acknowledged them.
    pub unacknowledged_lost: u64,
    /// Damaged journals that salvages have kept here. As long as one is there, listings tell of it; whoever has looked at
    /// it moves it away.
    pub damaged_journals: Vec<PathBuf>,
    /// All transfer groups, by app and name.
    pub groups: Vec<GroupView>,
    /// All completion groups, in the order of their creation.
    pub completion_groups: Vec<CompletionGroupView>,
}

/// Reads a state directory as its journal tells it, without its lock and without writing anything.
///
/// # Errors
/// [`Error::Journal`] where the journal is damaged or of another format.
pub fn read_catalog(directory: &Path, environment: &Environment) -> Result<Catalog, Error> {
    let layout = Layout::new(directory);
    let journal = journal_directory(&environment.storage, &layout)?;
    let mut rebuilding = Rebuilding::default();
    match backhaul_journal::read(&environment.storage, &journal, &mut rebuilding) {
        // Nothing was ever accepted here: a first start that was cut short leaves no more than directories.
        Err(backhaul_journal::Error::NoJournal(_)) => return Ok(Catalog::default()),
        result => result?,
    };
    let holder = crate::environment::engine_holder(&layout.lock());
    let mut table = rebuilding.table;
    table.drop_uncommitted();
    let now = environment.clock.now();
    match &holder {
        Some(holder) => table.assume_running(per_host_max(holder)),
        None => table.reopened(now),
    }
    let lack = |operation: &Operation| match holder {
        Some(_) => table.lack(operation),
        None => Lack::Engine,
    };
    let view = |operation: Cow<'_, Operation>| OperationView::new(&operation, now, lack(&operation), None);
    let unacknowledged_lost = table.unacknowledged_lost();
    let groups = table.groups();
    let completions = groups.completions(None).into_iter();
    let completions = completions.map(|completion| CompletionGroupView::new(completion, groups));
    Ok(Catalog {
        groups: groups.list(None),
        completion_groups: completions.collect(),
        operations: table.in_order().map(view).collect(),
        unacknowledged_lost,
        damaged_journals: salvage::evidence(&environment.storage, &layout)?,
    })
}

/// The limit of one host in what a lock file says of its holder.
fn per_host_max(holder: &str) -> Option<NonZeroUsize> {
    let mut lines = holder.lines();
    lines.find_map(|line| line.strip_prefix(PER_HOST)?.parse().ok())
}
