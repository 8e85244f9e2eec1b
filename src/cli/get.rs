//! `get`: creates or goes on with downloads, sees to it that they run, says how they end, and acknowledges what it said.
//!
//! Where an engine runs already, it is handed the downloads, and this process only looks on; where that engine ends, or
//! where there is none, this process has one of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use backhaul_backends::Backend;
use signal_hook::consts::SIGTERM;

use super::args::{Download, Running};
use super::context::{Context, backends};
use super::exit::Exit;
use super::input::Line;
use super::progress::Progress;
use super::reach::{ENGINES_MAX, Reached};
use super::signals::SignalWatch;
use super::transfer::{Asked, at_line, lines};
use super::{Failure, output};
use crate::engine::Series;
use crate::{
    Collision, Config, Engine, Error, Filter, GroupFilter, Monitor, NewDownload, OperationView, Service, TransferId,
    TransferStatus, Until,
};

/// How often progress is looked at.
const TICK: Duration = Duration::from_millis(200);
/// Options that `set` changes.
const CHANGEABLE: [&str; 4] = ["header", "secret-header", "priority", "proxy"];
/// Operations that are looked on at by name; more of them are found among all of the app.
const NAMED_MAX: usize = 1_000;
/// Downloads whose records fit the small first segment of an engine for one command (some 700 bytes each).
const BRIEF_LINES_MAX: usize = 8;
/// Ends that are looked at together, at most: what is shown of one takes some 800 bytes.
const ENDS_MAX: usize = 64;
/// A longer list leaves so much free memory behind once it is created that giving it back pays (chosen: what it leaves then
/// takes more than the milliseconds that it costs), and keeps all threads busy with small pieces of memory.
const LIST_MIN: usize = 1_000;
/// Operations that an interrupted `get` names one by one.
const KEPT_SHOWN_MAX: usize = 8;

pub(super) fn run(
    context: &Context,
    download: &Download,
    running: &Running,
    json: bool,
    quiet: bool,
) -> Result<Exit, Failure> {
    context.check_socket()?;
    let lines = lines(download)?;
    let mut config = context.config_for(running)?;
    config.is_short_lived = lines.len() <= BRIEF_LINES_MAX;
    if lines.len() > LIST_MIN && config.memory_limit.is_none() {
        crate::sys::let_threads_allocate();
    }
    let backends = backends(&config)?;
    let mut asked = Asked::new(context, download, &lines, false)?;
    let is_new = !context.state_directory.exists();
    asked.check(&config, &backends, is_new)?;
    let signals = SignalWatch::start()?;
    let place = Place {
        context,
        config: &config,
        backends: &backends,
        signals: &signals,
    };
    let (mut reached, created) = place.hand_over(&mut asked, &lines, is_new)?;
    let given = running.given();
    if let (Reached::Running(_), false) = (&reached, given.is_empty()) {
        output::note(&format!(
            "not counted: {}; the engine that runs here already has settings of its own, for as long as it runs",
            given.join(", ")
        ));
    }
    signals.heed();
    let from_list = lines.len() > 1 || download.input.is_some();
    drop(lines);
    let count = created.ids.len();
    let mut account = Account::new(json, quiet, created);
    let result = place.see_through(&mut reached, &mut account);
    let closed = account.close(reached.service());
    let signal = signals.end();
    if result.is_ok() && closed.is_ok() {
        let hint = hint(context, download, &reached, from_list.then_some(account.completed));
        keep(&reached, &account.open, &hint, signal.is_some());
    }
    let all_completed = account.completed == count;
    // Also after an error: what was told is acknowledged.
    let ended = reached.close();
    result?;
    closed?;
    ended?;
    Ok(match signal {
        Some(SIGTERM) => Exit::Terminated,
        Some(_) => Exit::Interrupted,
        None if all_completed => Exit::Success,
        None => Exit::TransferFailed,
    })
}

/// Where engines are found or opened.
struct Place<'a> {
    context: &'a Context,
    config: &'a Config,
    backends: &'a [Arc<dyn Backend>],
    signals: &'a SignalWatch,
}

/// What was handed over.
struct Handed {
    ids: Vec<TransferId>,
    /// None of them was there before.
    are_new: bool,
}

/// Why nobody looks on any more.
#[derive(PartialEq, Eq)]
enum Seen {
    /// Nothing that was asked for can go on by itself.
    All,
    /// A signal came.
    Signal,
    /// The engine has ended.
    EngineGone,
}

impl Place<'_> {
    /// Creates them in the engine that is here; where that ends meanwhile, what it has created counts with the next.
    ///
    /// `is_new`: before the checks there was no state directory.
    fn hand_over(&self, asked: &mut Asked<'_>, lines: &[Line], is_new: bool) -> Result<(Reached, Handed), Failure> {
        let mut engines = 0;
        loop {
            let reached = self.context.reach(self.config, self.backends, engines > 0)?;
            // Whoever made it meanwhile may have brought the same files, and is gone by now.
            let are_free = is_new && matches!(&reached, Reached::Own(engine, _) if engine.is_blank());
            let created = asked
                .spool(reached.service())
                .map_err(|error| (None, error))
                .and_then(|()| create(reached.service(), asked, lines.len(), are_free));
            match created {
                Ok(handed) => return Ok((reached, handed)),
                Err((_, Error::Disconnected(_))) if engines < ENGINES_MAX => engines += 1,
                Err((Some(index), error)) => return Err(at_line(lines, index, error)),
                Err((None, error)) => return Err(error.into()),
            }
        }
    }

    fn see_through(&self, reached: &mut Reached, account: &mut Account) -> Result<(), Failure> {
        for _ in 0..ENGINES_MAX {
            let seen = match &*reached {
                Reached::Own(engine, service) => self.work(engine, service, account)?,
                Reached::Running(service) => self.look_on(service, account)?,
            };
            if seen != Seen::EngineGone {
                return Ok(());
            }
            *reached = self.context.reach(self.config, self.backends, true)?;
            if let Reached::Running(service) = &*reached {
                match service.attend(&account.open_ids()) {
                    // Looking on finds out.
                    Ok(()) | Err(Error::Disconnected(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Err(Failure::new(
            Exit::Locked,
            "one engine after the other has ended here; the downloads are kept, 'run' goes on with them",
        ))
    }

    /// Runs them in this process.
    fn work(&self, engine: &Arc<Engine>, service: &Service, account: &mut Account) -> Result<Seen, Failure> {
        if account.open.len() > LIST_MIN {
            crate::sys::give_back_memory();
        }
        engine.restrict_to(Some(account.open.clone()));
        let serving = self.context.serve(service)?;
        self.signals.stops(engine);
        // Those that had completed before anybody was told.
        if account.may_have_ended {
            account.look(service)?;
        }
        account.may_have_ended = true;
        let mut seen = 0;
        let mut take = |engine: &Engine| {
            seen = account.take(engine, seen);
            if !account.is_silent() {
                let only = account.only().and_then(|id| engine.view(id).ok());
                account.show(&engine.running(), only.as_slice());
            }
            account.acknowledge_in(engine);
        };
        let result = engine.run(Until::Idle, Some(TICK), &mut take);
        take(engine);
        drop(serving);
        result?;
        Ok(match self.signals.seen() {
            Some(_) => Seen::Signal,
            None => Seen::All,
        })
    }

    /// Looks on while another process runs them.
    fn look_on(&self, service: &Service, account: &mut Account) -> Result<Seen, Failure> {
        loop {
            let monitor = match monitor(service, &account.open_ids()) {
                Err(Error::Disconnected(_)) => return Ok(Seen::EngineGone),
                result => result?,
            };
            // A monitor that has missed something is not told what is gone. A new one is told of all that is there.
            if let Some(seen) = self.look_through(monitor, service, account)? {
                return Ok(seen);
            }
        }
    }

    /// Looks on with one monitor; `None` where that has read less than there was, and begins again.
    fn look_through(
        &self,
        mut monitor: Monitor,
        service: &Service,
        account: &mut Account,
    ) -> Result<Option<Seen>, Failure> {
        let mut views: BTreeMap<TransferId, OperationView> = BTreeMap::new();
        let mut caught_up = false;
        loop {
            if self.signals.seen().is_some() {
                return Ok(Some(Seen::Signal));
            }
            let update = match monitor.next_within(Some(TICK)) {
                Ok(Some(update)) if update.missed => return Ok(None),
                Ok(update) => update.unwrap_or_default(),
                Err(Error::Disconnected(_)) => return Ok(Some(Seen::EngineGone)),
                Err(error) => return Err(error.into()),
            };
            caught_up |= update.caught_up;
            for id in update.removed {
                views.remove(&id);
                account.open.remove(&id);
            }
            let operations = update.operations.into_iter();
            let operations = operations.filter(|view| account.open.contains(&view.id));
            let (ends, open): (Vec<_>, Vec<_>) = operations.partition(OperationView::has_ended);
            views.extend(open.into_iter().map(|view| (view.id, view)));
            for view in &ends {
                views.remove(&view.id);
            }
            let of = |runs: bool| {
                views
                    .values()
                    .filter(move |view| (view.status == TransferStatus::Running) == runs)
            };
            let running: Vec<OperationView> = of(true).cloned().collect();
            let only: Vec<OperationView> = account
                .only()
                .and_then(|id| views.get(&id))
                .cloned()
                .into_iter()
                .collect();
            account.note(ends);
            account.show(&running, &only);
            account.acknowledge(|ids| service.acknowledge(ids));
            if caught_up
                && !views
                    .values()
                    .any(|view| view.status.goes_on_by_itself() || view.status.is_ended())
            {
                return Ok(Some(Seen::All));
            }
        }
    }
}

fn monitor(service: &Service, ids: &[TransferId]) -> Result<Monitor, Error> {
    if ids.len() <= NAMED_MAX {
        return service.monitor_ids(ids, None);
    }
    let filter = Filter {
        app: Some(service.app().to_owned()),
        group: GroupFilter::Any,
    };
    service.monitor(&filter, None)
}

/// Goes on with what is there already, and creates the rest, all of it or none. `are_free`: a moment ago nothing stood under any
/// destination that must be free.
///
/// # Errors
/// What is refused, with its position, or what else went wrong.
fn create(
    service: &Service,
    asked: &Asked<'_>,
    count: usize,
    are_free: bool,
) -> Result<Handed, (Option<usize>, Error)> {
    let set = |index, one: &mut NewDownload| asked.set(index, one);
    let series = Series::new(asked.common(), &set).with_free(are_free);
    let created = service.create_list(count, series, true);
    let created = created.map_err(|(index, error)| (Some(index), error))?;
    for one in created.iter().filter(|one| one.existed) {
        let id = one.id;
        for name in &one.differences {
            let way = if CHANGEABLE.contains(&name.as_str()) {
                format!("to change it: 'backhaul set {id}'")
            } else {
                "to change it, cancel that one first".into()
            };
            output::note(&format!(
                "--{name} differs from what operation {id} was created with, which counts; {way}"
            ));
        }
        let view = service.view(id).map_err(|error| (None, error))?;
        if !view.has_ended() {
            output::note(&format!(
                "goes on with operation {id}: {} bytes are there",
                view.bytes_done
            ));
        }
    }
    Ok(Handed {
        are_new: !created.iter().any(|one| one.existed),
        ids: created.into_iter().map(|one| one.id).collect(),
    })
}

/// What has ended, said once and then acknowledged.
struct Account {
    progress: Progress,
    /// Those whose end has not been said.
    open: BTreeSet<TransferId>,
    only: Option<TransferId>,
    /// Some of them may have ended already when the engine of this process begins to work.
    may_have_ended: bool,
    completed: usize,
    /// Ends for the JSON array, which is printed at the end; they are acknowledged after that.
    views: Option<Vec<OperationView>>,
    /// Ends that were said and are to be acknowledged, all at once.
    told: Vec<TransferId>,
    /// What was acknowledged last need not be durable yet.
    is_unsynced: bool,
    fault: Option<Error>,
}

impl Account {
    fn new(json: bool, quiet: bool, handed: Handed) -> Self {
        let Handed { ids, are_new } = handed;
        Self {
            progress: Progress::new(quiet || json, &ids),
            only: if let [id] = *ids { Some(id) } else { None },
            open: ids.into_iter().collect(),
            may_have_ended: !are_new,
            completed: 0,
            views: json.then(Vec::new),
            told: Vec::new(),
            is_unsynced: false,
            fault: None,
        }
    }

    fn only(&self) -> Option<TransferId> {
        self.only
    }

    fn open_ids(&self) -> Vec<TransferId> {
        self.open.iter().copied().collect()
    }

    /// Takes note of those that have ended already.
    fn look(&mut self, service: &Service) -> Result<(), Error> {
        let views = self.open.iter().map(|id| service.view(*id));
        let ended = views.filter(|view| view.as_ref().map_or(true, OperationView::has_ended));
        let ended: Vec<OperationView> = ended.collect::<Result<_, _>>()?;
        self.note(ended);
        self.acknowledge(|ids| service.acknowledge(ids));
        Ok(())
    }

    fn show(&mut self, running: &[OperationView], only: &[OperationView]) {
        self.progress.show(running, only);
    }

    /// Nobody wants to hear more of an end than how the command ended.
    fn is_silent(&self) -> bool {
        self.progress.is_silent() && self.views.is_none()
    }

    /// Takes note of what has ended in an engine of this process, from the `seen`-th end on; gives how many there are by now.
    fn take(&mut self, engine: &Engine, mut seen: usize) -> usize {
        if self.is_silent() {
            let ends = engine.outcomes(seen, usize::MAX);
            self.count(&ends);
            return seen + ends.len();
        }
        loop {
            let (ends, until) = engine.some_ends(seen, ENDS_MAX);
            if until == seen {
                return seen;
            }
            self.note(ends);
            // Of one that is gone from the history nothing can be said; it has ended as it has.
            let gone = self.count(&engine.outcomes(seen, until - seen));
            if gone > 0 {
                output::note(&format!(
                    "{gone} operations have ended, and were removed before they could be shown"
                ));
            }
            seen = until;
        }
    }

    /// Takes note of ends without a word; gives how many are news.
    fn count(&mut self, ends: &[(TransferId, bool)]) -> usize {
        let before = self.open.len();
        for (id, is_completed) in ends {
            if self.open.remove(id) {
                self.completed += usize::from(*is_completed);
                self.told.push(*id);
            }
        }
        before - self.open.len()
    }

    /// Says ends that are news.
    fn note(&mut self, mut ends: Vec<OperationView>) {
        ends.retain(|view| self.open.remove(&view.id));
        self.completed += ends
            .iter()
            .filter(|view| view.status == TransferStatus::Completed)
            .count();
        self.progress.say(&ends);
        match &mut self.views {
            Some(views) => views.extend(ends),
            None => self.told.extend(ends.iter().map(|view| view.id)),
        }
    }

    /// Acknowledges what was said to an engine of this process: durable with what it records next, or with the first look
    /// that brings nothing new. A crash before that has an end told once more.
    fn acknowledge_in(&mut self, engine: &Engine) {
        if !self.told.is_empty() {
            self.acknowledge(|ids| engine.acknowledge_soon(ids));
            self.is_unsynced = true;
        } else if std::mem::take(&mut self.is_unsynced)
            && let Err(error) = engine.sync()
        {
            self.fault.get_or_insert(error);
        }
    }

    /// Acknowledges what was said.
    fn acknowledge(&mut self, acknowledge: impl FnOnce(&[TransferId]) -> Result<(), Error>) {
        let ids = std::mem::take(&mut self.told);
        if ids.is_empty() {
            return;
        }
        match acknowledge(&ids) {
            // An end that was told and stays unacknowledged is told again: at least once. One whose record is gone by now,
            // removed by somebody or out of the history, cannot be; the others are acknowledged all the same.
            Ok(()) | Err(Error::Disconnected(_) | Error::UnknownId(_)) => {}
            Err(error) => {
                self.fault.get_or_insert(error);
            }
        }
    }

    fn close(&mut self, service: &Service) -> Result<(), Error> {
        self.progress.clear();
        if let Some(views) = self.views.take() {
            let was_told = output::json_list(&views);
            // A list longer than the history has room for has lost its first records by now; it was told all the same.
            let kept: Vec<OperationView> = views.into_iter().filter(|view| service.view(view.id).is_ok()).collect();
            if was_told {
                self.told.extend(kept.iter().map(|view| view.id));
                self.acknowledge(|ids| service.acknowledge(ids));
            }
        }
        self.fault.take().map_or(Ok(()), Err)
    }
}

/// What goes on with what is open: the same command, unless the files that it has brought would be refused or fetched once
/// more. `of_list`: how many of a list have completed.
fn hint(context: &Context, download: &Download, reached: &Reached, of_list: Option<usize>) -> String {
    let told_max = match reached {
        Reached::Own(engine, _) => engine.acknowledged_max(),
        Reached::Running(_) => 0,
    };
    let is_known =
        |completed| completed == 0 || Collision::from(download.collision) == Collision::Fail && completed <= told_max;
    let mut run = "'backhaul run'".to_owned();
    if context.names_state_directory {
        run = format!(
            "'backhaul run' with --state-dir '{}'",
            context.state_directory.display()
        );
    }
    if download.method.is_get() && of_list.is_none_or(is_known) {
        format!("the same command, or {run}")
    } else {
        run
    }
}

/// Says what is kept of those that have not ended, and how to go on.
fn keep(reached: &Reached, ids: &BTreeSet<TransferId>, hint: &str, interrupted: bool) {
    if let (Reached::Running(_), true) = (reached, interrupted) {
        output::note(&format!(
            "{} downloads go on in the engine that runs, for as long as it does, and with 'run' after that; 'wait', 'watch' and \
             'list' look on, 'cancel' ends them",
            ids.len()
        ));
        return;
    }
    let views = ids.iter().filter_map(|id| reached.service().view(*id).ok());
    let mut open = 0;
    for view in views.filter(|view| !view.has_ended()) {
        open += 1;
        if open <= KEPT_SHOWN_MAX {
            output::kept(&view, hint);
        }
    }
    if open > KEPT_SHOWN_MAX {
        output::note(&format!("{open} operations are kept in all; 'list' shows them"));
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use std::path::Path;

    use backhaul_backends::{MemoryBackend, Resource};
    use backhaul_journal::simulation::SimDisk;

    use super::*;
    use crate::FixedEnvironment;

    /// What a command knows at its end: how many have completed, the URLs of those that are open, and of those that are
    /// acknowledged.
    type Known = (usize, Vec<String>, Vec<String>);

    /// What comes of a list of which one completes, one fails, one is canceled by somebody else, one stands still, and one
    /// that has completed and one that has failed are removed by somebody else before they are looked at.
    fn known(json: bool, quiet: bool, looks_between: bool) -> Known {
        let disk = SimDisk::new();
        disk.put_directory(Path::new("/data"));
        let memory = MemoryBackend::new();
        let names = [
            "whole",
            "absent",
            "canceled",
            "held",
            "whole and gone",
            "absent and gone",
        ];
        for name in names.iter().filter(|name| !name.starts_with("absent")) {
            memory.put(
                &format!("mem://host/{}", name.replace(' ', "-")),
                Resource::new(vec![1; 9], "\"1\""),
            );
        }
        let environment = FixedEnvironment::new(1).on(disk.storage());
        let backends = vec![Arc::new(memory) as _];
        let engine = Engine::open(Path::new("/state"), Config::default(), environment, backends).unwrap();
        let download = |name: &&str| NewDownload {
            url: format!("mem://host/{}", name.replace(' ', "-")),
            destination: format!("/data/{name}").into(),
            hold: ["canceled", "held"].contains(name),
            ..NewDownload::default()
        };
        let list: Vec<NewDownload> = names.iter().map(download).collect();
        let (ids, engine) = (engine.create(&list).unwrap(), Arc::new(engine));
        let service = Service::on(&engine);
        let handed = Handed {
            ids: ids.clone(),
            are_new: true,
        };
        let mut account = Account::new(json, quiet, handed);
        engine.restrict_to(Some(account.open.clone()));
        let mut seen = 0;
        engine.cancel(ids[2]).unwrap();
        if looks_between {
            seen = account.take(&engine, seen);
            assert_eq!((seen, account.open.len()), (1, 5));
        }
        while engine.step() {}
        engine.remove(ids[4]).unwrap();
        engine.remove(ids[5]).unwrap();
        seen = account.take(&engine, seen);
        assert_eq!(account.take(&engine, seen), 5);
        account.acknowledge(|ids| engine.acknowledge_soon(ids));
        account.close(&service).unwrap();
        let is_open = |view: &OperationView| account.open.contains(&view.id);
        let of = |is: &dyn Fn(&OperationView) -> bool| {
            let views = engine.views().into_iter().filter(is);
            views.map(|view| view.url).collect()
        };
        (account.completed, of(&is_open), of(&|view| view.acknowledged))
    }

    #[test]
    fn a_quiet_get_counts_and_acknowledges_the_same_ends_as_one_that_shows_them() {
        let url = |name| format!("mem://host/{name}");
        let expected = (2, vec![url("held")], vec![url("whole"), url("absent"), url("canceled")]);
        for looks_between in [false, true] {
            assert_eq!(known(false, true, looks_between), expected, "quiet");
            assert_eq!(known(false, false, looks_between), expected, "shown");
            assert_eq!(known(true, false, looks_between), expected, "as JSON");
            assert_eq!(known(true, true, looks_between), expected, "as JSON, quiet");
        }
    }

    /// A download of one file that has ended, on this disk.
    fn ended(disk: &SimDisk) -> (Arc<Engine>, TransferId) {
        disk.put_directory(Path::new("/data"));
        let engine = open(disk);
        let download = NewDownload {
            url: "mem://host/whole".into(),
            destination: "/data/whole".into(),
            ..NewDownload::default()
        };
        let id = engine.create(&[download]).unwrap()[0];
        engine.restrict_to(Some(BTreeSet::from([id])));
        while engine.step() {}
        (Arc::new(engine), id)
    }

    fn open(disk: &SimDisk) -> Engine {
        let memory = MemoryBackend::new();
        memory.put("mem://host/whole", Resource::new(vec![1; 9], "\"1\""));
        let environment = FixedEnvironment::new(1).on(disk.storage());
        let backends = vec![Arc::new(memory) as _];
        Engine::open(Path::new("/state"), Config::default(), environment, backends).unwrap()
    }

    /// As a power cut would leave it.
    fn is_acknowledged(disk: &SimDisk, id: TransferId) -> bool {
        open(&disk.lose_unsynced()).view(id).unwrap().acknowledged
    }

    #[test]
    fn what_was_acknowledged_is_durable_at_the_end_also_where_somebody_else_holds_the_engine() {
        for is_held in [false, true] {
            let disk = SimDisk::new();
            let (engine, id) = ended(&disk);
            engine.acknowledge_soon(&[id]).unwrap();
            let held = is_held.then(|| Arc::clone(&engine));
            assert!(super::super::reach::close(engine).is_ok());
            assert!(is_acknowledged(&disk, id), "held: {is_held}");
            drop(held);
        }
    }

    #[test]
    fn what_was_acknowledged_is_durable_with_the_first_look_that_brings_nothing_new() {
        let disk = SimDisk::new();
        let (engine, id) = ended(&disk);
        let handed = Handed {
            ids: vec![id],
            are_new: true,
        };
        let mut account = Account::new(false, true, handed);
        assert_eq!(account.take(&engine, 0), 1);
        account.acknowledge_in(&engine);
        assert!(!is_acknowledged(&disk, id));
        account.acknowledge_in(&engine);
        assert!(is_acknowledged(&disk, id));
    }
}
