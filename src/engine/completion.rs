//! Completion groups: what is done once when all operations of a group have ended, whatever how.
//!
//! A group is recorded as fired together with the last end among its operations, or when it is sealed after that. Its
//! command is recorded as begun, durably, before it runs: a crash between that and the record of its end runs it again,
//! and one that takes the device down with it does so a few times at most.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use backhaul_backends::Interrupt;
use backhaul_journal::{Lsn, Urgency};

use super::Engine;
use super::core::{Core, State, Work};
use super::create::CheckedDownload;
use super::groups::check_name;
use super::view::OperationView;
use super::watch::Changed;
use crate::environment::{Input, Ran};
use crate::error::Error;
use crate::groups::{Groups, MEMBERS_MAX, RUNS_MAX, UNFINISHED_MAX, run_again_after};
use crate::operation::{
    Completion, CompletionAction, CompletionEvent, CompletionFact, CompletionGroupId, Deadline, Entry, Lack, Stage,
    TransferId, millis,
};
use crate::threads::{self, Role};

/// Most parts of a command, its program included.
const COMMAND_PARTS_MAX: usize = 64;
/// Most bytes of a command, all parts together.
const COMMAND_BYTES_MAX: usize = 8 * 1024;
/// Longest message of a failure that is stored, in bytes.
const PROBLEM_BYTES_MAX: usize = 1024;
/// Longest time that a command may take.
const RUN_MAX: Duration = Duration::from_secs(600);

/// Writes the report that a command finds on its standard input: of its group, and of those operations of it that were not
/// removed, in the order of their creation; each is looked at when it is taken. It may be called again for the same command.
pub type Report = fn(&CompletionGroupView, &mut dyn Iterator<Item = OperationView>, &mut dyn Write) -> io::Result<()>;

/// One consistent look at a completion group. Times are wall-clock milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompletionGroupView {
    /// Its identity.
    pub id: CompletionGroupId,
    /// The application it belongs to.
    pub app: String,
    /// Its name, for people.
    pub name: Option<String>,
    /// What is done when all of its operations have ended.
    pub action: CompletionAction,
    /// What it has got to.
    pub state: CompletionState,
    /// Its operations in the order of their creation, but for those that were removed.
    pub members: Vec<TransferId>,
    /// How often its command was begun.
    pub runs: u32,
    /// What was wrong with the last run of its command.
    pub problem: Option<String>,
    /// When its command is run next, where it waits for that.
    pub next_run_at_ms: Option<u64>,
    /// When it was created.
    pub created_at_ms: u64,
    /// When it was enabled.
    pub sealed_at_ms: Option<u64>,
    /// When the last of its operations had ended.
    pub fired_at_ms: Option<u64>,
    /// When its command had ended well or for the last time, or when it was acknowledged.
    pub closed_at_ms: Option<u64>,
}

/// What a completion group has got to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompletionState {
    /// Operations may join.
    Open,
    /// None may join.
    Sealed {
        /// How many have not ended.
        remaining: usize,
    },
    /// All have ended. It waits for the run of its command, or for [`Engine::acknowledge_completion_group`].
    Fired,
    /// Its command runs.
    Running,
    /// Its command ended well, or it was acknowledged.
    Done,
    /// Its command failed for the last time, as this says.
    Failed(String),
}

/// The commands that run.
pub(crate) struct Commands {
    pub(crate) running: HashMap<CompletionGroupId, Interrupt>,
    threads: Vec<JoinHandle<()>>,
    report: Report,
}

impl Default for Commands {
    fn default() -> Self {
        Self {
            running: HashMap::new(),
            threads: Vec::new(),
            report: |_, _, _| Ok(()),
        }
    }
}

impl CompletionGroupView {
    pub(super) fn new(completion: &Completion, groups: &Groups) -> Self {
        Self {
            members: groups.members(completion.id),
            ..Self::without_members(completion, groups)
        }
    }

    /// Monitors are told of it: it has fired and waits for somebody who acknowledges that, or its command runs or has ended.
    pub(crate) fn is_told(&self) -> bool {
        match self.state {
            CompletionState::Fired => self.action == CompletionAction::Event,
            CompletionState::Running | CompletionState::Done | CompletionState::Failed(_) => true,
            CompletionState::Open | CompletionState::Sealed { .. } => false,
        }
    }

    fn without_members(completion: &Completion, groups: &Groups) -> Self {
        let state = match completion.stage {
            Stage::Open => CompletionState::Open,
            Stage::Sealed => CompletionState::Sealed {
                remaining: groups.remaining(completion.id),
            },
            Stage::Fired { .. } => CompletionState::Fired,
            Stage::Running => CompletionState::Running,
            Stage::Done => CompletionState::Done,
            Stage::Failed => CompletionState::Failed(completion.problem.clone().unwrap_or_default()),
        };
        let run_at = match completion.stage {
            Stage::Fired { run_at } => run_at,
            _ => None,
        };
        Self {
            id: completion.id,
            app: completion.app.clone(),
            name: completion.name.clone(),
            action: completion.action.clone(),
            state,
            members: Vec::new(),
            runs: completion.runs,
            problem: completion.problem.clone(),
            next_run_at_ms: run_at.map(Deadline::wall_ms),
            created_at_ms: completion.created_at_ms,
            sealed_at_ms: completion.sealed_at_ms,
            fired_at_ms: completion.fired_at_ms,
            closed_at_ms: completion.closed_at_ms,
        }
    }
}

impl Engine {
    /// Makes a completion group, which operations join when they are created. It does nothing before it is enabled.
    /// Durable on return. A command has at most 64 parts and 8 KiB, runs for at most 10 min, beside at most three others,
    /// and is begun at most 5 times, those not counted that a stop of the engine ended.
    ///
    /// Stands for the constructor of `BackgroundTransferCompletionGroup`, and for its `Trigger`.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the field; [`Error::LimitReached`] where the app has 1,000 groups that are not delivered.
    pub fn create_completion_group(
        &self,
        app: &str,
        name: Option<String>,
        action: CompletionAction,
    ) -> Result<CompletionGroupId, Error> {
        check_name("app", app)?;
        name.as_deref().map_or(Ok(()), |name| check_name("name", name))?;
        if let CompletionAction::Command(parts) = &action {
            check_command(parts)?;
        }
        let mut id = [0; 16];
        self.core.environment.random.fill(&mut id);
        let id = CompletionGroupId(id);
        let created = CompletionEvent::Created {
            app: app.into(),
            name,
            action,
        };
        let lsn = {
            let mut state = self.core.state();
            if state.table.groups().unfinished(app) >= UNFINISHED_MAX {
                return Err(Error::limit(
                    "completion groups of one app that are not delivered (enable, acknowledge or remove some)",
                    UNFINISHED_MAX as u64,
                ));
            }
            self.core.record_completion(&mut state, id, created, Urgency::Normal)?
        };
        self.core.sync(lsn)?;
        Ok(id)
    }

    /// Seals a completion group: no operation joins it any more, and it fires once all have ended, at once where none is
    /// live. Durable on return.
    ///
    /// Stands for `BackgroundTransferCompletionGroup.Enable`.
    ///
    /// # Errors
    /// [`Error::UnknownCompletionGroup`]; [`Error::CompletionGroupNotNow`] where it is enabled already.
    pub fn enable_completion_group(&self, id: CompletionGroupId) -> Result<(), Error> {
        // Whoever is being created has joined before, or is refused.
        let _alone = self.core.creating.lock().unwrap_or_else(PoisonError::into_inner);
        self.change(id, CompletionEvent::Sealed, |completion, _| {
            let problem = "is enabled already; that happens once";
            (completion.stage != Stage::Open).then(|| problem.into())
        })?;
        self.core.wake_all();
        Ok(())
    }

    /// Takes note that a group has fired whose action is [`CompletionAction::Event`]. Durable on return.
    ///
    /// # Errors
    /// [`Error::UnknownCompletionGroup`]; [`Error::CompletionGroupNotNow`] where it has not fired, was acknowledged
    /// already, or has a command.
    pub fn acknowledge_completion_group(&self, id: CompletionGroupId) -> Result<(), Error> {
        self.change(id, CompletionEvent::Done, |completion, _| {
            let problem = match (completion.stage, &completion.action) {
                (Stage::Done, _) => "is done already",
                (_, CompletionAction::Command(_)) => "has a command, whose end acknowledges it",
                (Stage::Fired { .. }, _) => return None,
                _ => "has not fired; there is nothing to acknowledge",
            };
            Some(problem.into())
        })?;
        self.core.sweep_history()
    }

    /// Removes a group that is done or has failed, or one that is not enabled and none of whose operations is live. These
    /// stay.
    ///
    /// # Errors
    /// [`Error::UnknownCompletionGroup`]; [`Error::CompletionGroupNotNow`] otherwise.
    pub fn remove_completion_group(&self, id: CompletionGroupId) -> Result<(), Error> {
        let _alone = self.core.creating.lock().unwrap_or_else(PoisonError::into_inner);
        self.change(id, CompletionEvent::Removed, |completion, groups| {
            let remaining = groups.remaining(id);
            match (completion.stage, &completion.action) {
                (Stage::Done | Stage::Failed, _) => None,
                (Stage::Open, _) if remaining == 0 => None,
                (Stage::Open | Stage::Sealed, _) => Some(format!(
                    "has {remaining} operations that have not ended; cancel them first"
                )),
                (_, CompletionAction::Event) => Some("has fired, and nobody has acknowledged it; do that first".into()),
                _ => Some("has a command that has not ended; wait for it".into()),
            }
        })?;
        self.core.sweep_history()
    }

    /// The completion groups of an app, or of all apps, in the order of their creation. Of those that are done or have
    /// failed, the last 1,000 are kept.
    #[must_use]
    pub fn completion_groups(&self, app: Option<&str>) -> Vec<CompletionGroupView> {
        let state = self.core.state();
        let groups = state.table.groups();
        let all = groups.completions(app).into_iter();
        all.map(|completion| CompletionGroupView::new(completion, groups))
            .collect()
    }

    /// One completion group.
    ///
    /// # Errors
    /// [`Error::UnknownCompletionGroup`].
    pub fn completion_group(&self, id: CompletionGroupId) -> Result<CompletionGroupView, Error> {
        let state = self.core.state();
        let groups = state.table.groups();
        let found = groups.completion(id);
        let completion = found.ok_or(Error::UnknownCompletionGroup(id))?;
        Ok(CompletionGroupView::new(completion, groups))
    }

    /// One completion group without its operations, if it is there.
    pub(crate) fn brief_completion_group(&self, id: CompletionGroupId) -> Option<CompletionGroupView> {
        let state = self.core.state();
        let groups = state.table.groups();
        let completion = groups.completion(id)?;
        Some(CompletionGroupView::without_members(completion, groups))
    }

    /// Completion groups of an app, or of all apps, that have fired, have no command, and were not acknowledged: by app and id,
    /// those behind `after`, at most so many, without their operations.
    pub(crate) fn fired(
        &self,
        app: Option<&str>,
        after: Option<&(String, CompletionGroupId)>,
        max: usize,
    ) -> Vec<CompletionGroupView> {
        let state = self.core.state();
        let groups = state.table.groups();
        let fired = groups.fired(app, after).take(max);
        fired
            .map(|completion| CompletionGroupView::without_members(completion, groups))
            .collect()
    }

    /// How the reports for commands are made, from now on; without it they are empty.
    pub fn report_by(&self, report: Report) {
        self.core.state().commands.report = report;
    }

    /// Refuses creations that may not join the completion group they name.
    pub(super) fn check_completion_groups(
        &self,
        checked: &[CheckedDownload],
        joining: &mut HashMap<CompletionGroupId, usize>,
    ) -> Result<(), (usize, Error)> {
        let state = self.core.state();
        for (index, one) in checked.iter().enumerate() {
            let Some(id) = one.spec.completion_group else { continue };
            let count = joining.entry(id).or_default();
            *count += 1;
            let joined = check_joining(state.table.groups(), id, &one.spec.app, *count);
            joined.map_err(|error| (index, error))?;
        }
        Ok(())
    }

    /// Removes all completion groups of an app, whatever they wait for: none of them fires any more, and a command that runs
    /// is ended.
    pub(super) fn forget_completion_groups(&self, app: &str) -> Result<(), Error> {
        for group in self.completion_groups(Some(app)) {
            match self.change(group.id, CompletionEvent::Removed, |_, _| None) {
                // Somebody else has removed it meanwhile, or the history had no room for it.
                Ok(()) | Err(Error::UnknownCompletionGroup(_)) => {}
                Err(error) => return Err(error),
            }
            if let Some(interrupt) = self.core.state().commands.running.get(&group.id) {
                interrupt.raise();
            }
        }
        Ok(())
    }

    /// Records an event where `refuse` does not say why not, durably.
    fn change(
        &self,
        id: CompletionGroupId,
        event: CompletionEvent,
        refuse: impl FnOnce(&Completion, &Groups) -> Option<String>,
    ) -> Result<(), Error> {
        let lsn = {
            let mut state = self.core.state();
            let groups = state.table.groups();
            let completion = groups.completion(id).ok_or(Error::UnknownCompletionGroup(id))?;
            if let Some(problem) = refuse(completion, groups) {
                return Err(Error::CompletionGroupNotNow { id, problem });
            }
            self.core.record_completion(&mut state, id, event, Urgency::Critical)?
        };
        self.core.sync(lsn)
    }
}

fn check_joining(groups: &Groups, id: CompletionGroupId, app: &str, count: usize) -> Result<(), Error> {
    let completion = groups.completion(id).ok_or(Error::UnknownCompletionGroup(id))?;
    if completion.app != app {
        let problem = format!("belongs to app '{}'", completion.app);
        return Err(Error::invalid("completion-group", id.to_string(), problem));
    }
    if completion.stage != Stage::Open {
        let problem = "is enabled; no operation joins it any more".into();
        return Err(Error::CompletionGroupNotNow { id, problem });
    }
    if groups.member_count(id) + count > MEMBERS_MAX {
        return Err(Error::limit("operations of one completion group", MEMBERS_MAX as u64));
    }
    Ok(())
}

fn check_command(parts: &[String]) -> Result<(), Error> {
    let invalid = |problem: String| Err(Error::invalid("command", parts.join(" "), problem));
    match parts.first() {
        Some(program) if Path::new(program).is_absolute() => {}
        _ => return invalid("does not begin with the absolute path of a program".into()),
    }
    let bytes: usize = parts.iter().map(String::len).sum();
    if parts.len() > COMMAND_PARTS_MAX || bytes > COMMAND_BYTES_MAX {
        let problem = format!("is too long: at most {COMMAND_PARTS_MAX} parts and {COMMAND_BYTES_MAX} bytes");
        return Err(Error::invalid("command", parts[0].clone(), problem));
    }
    if parts.iter().any(|part| part.contains('\0')) {
        return invalid("holds a NUL, which no program can be given".into());
    }
    Ok(())
}

impl Core {
    /// Records an event that fits, and what follows from it; durable only after [`Core::sync`] of what it returns.
    pub(super) fn record_completion(
        &self,
        state: &mut State,
        id: CompletionGroupId,
        event: CompletionEvent,
        urgency: Urgency,
    ) -> Result<Lsn, Error> {
        if !state.table.groups().fits(id, &event) {
            let problem = format!("cannot take {event:?} now");
            return Err(Error::CompletionGroupNotNow { id, problem });
        }
        let at_ms = self.now().wall_ms;
        let fact = CompletionFact { id, at_ms, event };
        let lsn = self.append_entry(&Entry::CompletionFact(fact.clone()), urgency)?;
        state.table.apply_completion(fact, lsn.0);
        state.observers.changed(Changed::CompletionGroup(id));
        Ok(self.fire(state)?.unwrap_or(lsn))
    }

    /// Records of each sealed group whose operations have all ended that it fires.
    pub(super) fn fire(&self, state: &mut State) -> Result<Option<Lsn>, Error> {
        let mut last = None;
        while let Some(id) = state.table.groups().complete() {
            let at_ms = self.now().wall_ms;
            let event = CompletionEvent::Fired;
            let fact = CompletionFact { id, at_ms, event };
            let lsn = self.append_entry(&Entry::CompletionFact(fact.clone()), Urgency::Critical)?;
            state.table.apply_completion(fact, lsn.0);
            state.observers.changed(Changed::CompletionGroup(id));
            last = Some(lsn);
        }
        Ok(last)
    }

    /// Takes the command of a group that has fired.
    pub(super) fn begin_command(&self, state: &mut State, id: CompletionGroupId) -> Result<Work, Error> {
        let unknown = || Error::UnknownCompletionGroup(id);
        let runs = state.table.groups().completion(id).ok_or_else(unknown)?.runs + 1;
        self.record_completion(state, id, CompletionEvent::Begun { runs }, Urgency::Critical)?;
        let completion = state.table.groups().completion(id).ok_or_else(unknown)?.clone();
        let stop = Interrupt::new();
        state.commands.running.insert(id, stop.clone());
        Ok(Work::Command(Box::new(completion), stop))
    }

    /// Waits for the threads of commands; after [`Core::stop`], which ends them.
    pub(super) fn join_commands(&self) {
        let threads = std::mem::take(&mut self.state().commands.threads);
        for thread in threads {
            let _ = thread.join();
        }
    }
}

/// Runs a command that was begun: on a thread of its own, but for a stepped engine.
pub(super) fn run(core: &Arc<Core>, completion: Box<Completion>, stop: Interrupt) {
    if !core.is_threaded() {
        return run_here(core, &completion, &stop);
    }
    let id = completion.id;
    let (runs, shared) = (completion.runs, Arc::clone(core));
    match threads::for_a(Role::Command).spawn(move || {
        // It is the command of somebody else.
        crate::sys::interrupt_as_any();
        shared.stop_on_panic(|| run_here(&shared, &completion, &stop));
    }) {
        Ok(thread) => {
            let mut state = core.state();
            state.commands.threads.retain(|thread| !thread.is_finished());
            state.commands.threads.push(thread);
        }
        Err(error) => {
            let failed = Ran::Failed(format!("a thread for it could not be started: {error}"));
            conclude(core, id, runs, failed);
        }
    }
}

fn run_here(core: &Arc<Core>, completion: &Completion, stop: &Interrupt) {
    let ran = match &completion.action {
        // Nobody began it; there is nothing to run.
        CompletionAction::Event => Ran::Well,
        CompletionAction::Command(_) if completion.runs > RUNS_MAX => Ran::Failed(format!(
            "it was begun {RUNS_MAX} times, and the last time the engine ended before it"
        )),
        CompletionAction::Command(parts) => {
            // What runs must be known to have been begun, whatever it does to this device.
            if let Err(error) = core.sync_all() {
                core.state().commands.running.remove(&completion.id);
                return core.fail(error);
            }
            let input = Input {
                write: &|to| report(core, completion, to),
                // What stands in memory counts as such, whoever reads it.
                directory: core.config.memory_limit.map(|_| &*core.state_directory),
            };
            core.environment.runner.run(parts, &input, RUN_MAX, stop)
        }
    };
    conclude(core, completion.id, completion.runs, ran);
}

/// Writes the report operation by operation: ten thousand of them take no more memory than one.
fn report(core: &Core, completion: &Completion, to: &mut dyn Write) -> io::Result<()> {
    let now = core.now();
    let (report, view) = {
        let state = core.state();
        let view = CompletionGroupView::new(completion, state.table.groups());
        (state.commands.report, view)
    };
    let operations = view.members.iter().filter_map(|id| core.find(*id));
    let mut views = operations.map(|operation| OperationView::new(&operation, now, Lack::Slot, None));
    report(&view, &mut views, to)
}

/// Records what came of a run, durably.
fn conclude(core: &Arc<Core>, id: CompletionGroupId, runs: u32, ran: Ran) {
    let run_at = |delay: Duration| Deadline::after(core.now(), millis(delay));
    let event = match ran {
        Ran::Well => CompletionEvent::Done,
        // That it was stopped is no fault of the command.
        Ran::Stopped => CompletionEvent::Postponed {
            runs: runs.saturating_sub(1),
            run_at: run_at(Duration::ZERO),
            problem: "it was stopped together with the engine".into(),
        },
        Ran::Failed(problem) => {
            let problem = shortened(problem);
            match run_again_after(runs) {
                Some(delay) => CompletionEvent::Postponed {
                    runs,
                    run_at: run_at(delay),
                    problem,
                },
                None => CompletionEvent::Failed { problem },
            }
        }
    };
    log::info!("completion group {id}: {event:?}");
    let recorded = {
        let mut state = core.state();
        state.commands.running.remove(&id);
        // Of a group whose app was forgotten meanwhile there is nothing to record.
        let is_there = state.table.groups().completion(id).is_some();
        is_there.then(|| core.record_completion(&mut state, id, event, Urgency::Critical))
    };
    if let Err(error) = recorded
        .transpose()
        .and_then(|lsn| lsn.map_or(Ok(()), |lsn| core.sync(lsn)))
        .and_then(|()| core.sweep_history())
    {
        core.fail(error);
    }
    core.wake_all();
}

fn shortened(mut problem: String) -> String {
    let mut ends = (0..=PROBLEM_BYTES_MAX.min(problem.len())).rev();
    let end = ends.find(|end| problem.is_char_boundary(*end));
    problem.truncate(end.unwrap_or(0));
    problem
}
