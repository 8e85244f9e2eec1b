//! `get`: creates or goes on with downloads, runs them, says how they end, and acknowledges what it said.

use std::sync::Arc;
use std::time::Duration;

use signal_hook::consts::SIGTERM;

use super::args::{Download, Running};
use super::context::{Context, backends};
use super::exit::Exit;
use super::input::Line;
use super::progress::Progress;
use super::transfer::{SignalWatch, at_line, checked, close, lines, new_downloads, spool_standard_input};
use super::{Failure, output};
use crate::{CheckedDownload, Engine, Error, OperationView, TransferId, TransferStatus, Until, check_free};

/// How often progress is looked at.
const TICK: Duration = Duration::from_millis(200);
/// Options that `set` changes.
const CHANGEABLE: [&str; 3] = ["header", "secret-header", "priority"];
/// Operations that an interrupted `get` names one by one.
const KEPT_SHOWN_MAX: usize = 8;

pub(super) fn run(
    context: &Context,
    download: &Download,
    running: &Running,
    json: bool,
    quiet: bool,
) -> Result<Exit, Failure> {
    let lines = lines(download)?;
    let config = context.config_for(running);
    let backends = backends(&config)?;
    let mut asked = new_downloads(context, download, &lines, false)?;
    let mut downloads = checked(context, &config, &backends, &asked, &lines)?;
    if !context.state_directory.exists() {
        check_free(&downloads, &context.environment).map_err(|(index, error)| at_line(&lines, index, error))?;
    }
    let engine = Arc::new(context.open(&config, &backends)?);
    if spool_standard_input(&engine, download, &mut asked)? {
        downloads = checked(context, &config, &backends, &asked, &lines)?;
    }
    drop(asked);
    let (ids, done) = adopt_or_create(&engine, downloads, &lines)?;
    let from_list = lines.len() > 1 || download.input.is_some();
    drop(lines);
    engine.restrict_to(Some(ids.iter().copied().collect()));
    let signals = SignalWatch::start(&engine)?;
    let mut account = Account::new(json, Progress::new(quiet || json, &ids));
    account.note(&engine, done);
    let result = engine.run(Until::Idle, Some(TICK), |engine| account.take(engine));
    let signal = signals.end();
    account.close(&engine)?;
    result?;
    keep(&engine, &ids, from_list);
    let all_completed = account.completed == ids.len();
    close(engine)?;
    Ok(match signal {
        Some(SIGTERM) => Exit::Terminated,
        Some(_) => Exit::Interrupted,
        None if all_completed => Exit::Success,
        None => Exit::TransferFailed,
    })
}

/// What has ended, said once and then acknowledged.
struct Account {
    progress: Progress,
    seen: usize,
    completed: usize,
    /// Ends for the JSON array, which is printed at the end; they are acknowledged after that.
    views: Option<Vec<OperationView>>,
    fault: Option<Error>,
}

impl Account {
    fn new(json: bool, progress: Progress) -> Self {
        let views = json.then(Vec::new);
        Self {
            progress,
            seen: 0,
            completed: 0,
            views,
            fault: None,
        }
    }

    fn take(&mut self, engine: &Engine) {
        let (ends, seen) = engine.ends(self.seen);
        self.seen = seen;
        self.note(engine, ends);
    }

    fn note(&mut self, engine: &Engine, ends: Vec<OperationView>) {
        self.completed += ends
            .iter()
            .filter(|view| view.status == TransferStatus::Completed)
            .count();
        self.progress.show(engine, &ends);
        match &mut self.views {
            Some(views) => views.extend(ends),
            None => self.acknowledge(engine, &ends),
        }
    }

    fn acknowledge(&mut self, engine: &Engine, ends: &[OperationView]) {
        let ids: Vec<TransferId> = ends.iter().map(|view| view.id).collect();
        if let Err(error) = engine.acknowledge(&ids) {
            self.fault.get_or_insert(error);
        }
    }

    fn close(&mut self, engine: &Engine) -> Result<(), Error> {
        self.take(engine);
        self.progress.clear();
        if let Some(views) = self.views.take() {
            let was_told = output::json_list(&views);
            // A list longer than the history has room for has lost its first records by now; it was told all the same.
            let kept: Vec<OperationView> = views.into_iter().filter(|view| engine.view(view.id).is_ok()).collect();
            if was_told {
                self.acknowledge(engine, &kept);
            }
        }
        self.fault.take().map_or(Ok(()), Err)
    }
}

/// Says what is kept of those that have not ended, and how to go on.
fn keep(engine: &Engine, ids: &[TransferId], from_list: bool) {
    let views = ids.iter().filter_map(|id| engine.view(*id).ok());
    let mut open = 0;
    for view in views.filter(|view| !view.status.is_ended()) {
        open += 1;
        if open <= KEPT_SHOWN_MAX {
            output::kept(&view, from_list);
        }
    }
    if open > KEPT_SHOWN_MAX {
        output::note(&format!("{open} operations are kept in all; 'list' shows them"));
    }
}

/// Goes on with what is there already, and creates the rest, all of it or none. Gives all ids, and those that had
/// completed before anybody was told.
fn adopt_or_create(
    engine: &Engine,
    downloads: Vec<CheckedDownload>,
    lines: &[Line],
) -> Result<(Vec<TransferId>, Vec<OperationView>), Failure> {
    let same = engine.find_same(&downloads);
    let (mut fresh, mut places, mut adopted) = (Vec::with_capacity(downloads.len()), Vec::new(), Vec::new());
    for (index, (download, same)) in downloads.into_iter().zip(same).enumerate() {
        if let Some(id) = same {
            adopted.push((id, download));
        } else {
            places.push(index);
            fresh.push(download);
        }
    }
    for (id, download) in &adopted {
        if !engine.view(*id)?.status.is_ended() {
            engine.check_expectations(*id, download)?;
        }
    }
    let created = engine.accept(fresh);
    let mut ids = created.map_err(|(index, error)| at_line(lines, places.get(index).copied().unwrap_or(0), error))?;
    let mut done = Vec::new();
    for (id, download) in adopted {
        for name in engine.differences(id, &download)? {
            let way = if CHANGEABLE.contains(&name) {
                format!("to change it: 'backhaul set {id}'")
            } else {
                "to change it, cancel that one first".into()
            };
            output::note(&format!(
                "--{name} differs from what operation {id} was created with, which counts; {way}"
            ));
        }
        let view = engine.view(id)?;
        if view.status.is_ended() {
            done.push(view);
        } else {
            go_on(engine, &view)?;
        }
        ids.push(id);
    }
    Ok((ids, done))
}

fn go_on(engine: &Engine, view: &OperationView) -> Result<(), Error> {
    let id = view.id;
    output::note(&format!(
        "goes on with operation {id}: {} bytes are there",
        view.bytes_done
    ));
    match view.status {
        TransferStatus::Idle => engine.start(id),
        // What is queued or being published needs no push.
        TransferStatus::Queued | TransferStatus::Running => Ok(()),
        _ => engine.resume(id),
    }
}
