//! Commands that create and run operations: `get`, `add`, `run`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use backhaul_backends::{Backend, Registry};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use super::args::{Download, Running};
use super::command::{Context, backends};
use super::exit::Exit;
use super::input::{self, Line};
use super::progress::Progress;
use super::{Failure, output};
use crate::{CheckedDownload, Config, Engine, Error, NewDownload, TransferId, TransferStatus, Until, check_downloads};

/// Operations that an interrupted `get` names one by one.
const KEPT_SHOWN_MAX: usize = 8;

pub(super) fn add(context: &Context, download: &Download, hold: bool) -> Result<Exit, Failure> {
    let lines = lines(download)?;
    let config = context.config();
    let backends = backends(&config)?;
    let downloads = checked(
        context,
        &config,
        &backends,
        &new_downloads(context, download, &lines, hold)?,
        &lines,
    )?;
    let engine = context.open(&config, &backends)?;
    let ids = engine
        .accept(downloads)
        .map_err(|(index, error)| at_line(&lines, index, error))?;
    engine.close()?;
    output::ids(&ids);
    Ok(Exit::Success)
}

pub(super) fn get(
    context: &Context,
    download: &Download,
    running: &Running,
    json: bool,
    quiet: bool,
) -> Result<Exit, Failure> {
    let lines = lines(download)?;
    let config = context.config_for(running);
    let backends = backends(&config)?;
    let downloads = checked(
        context,
        &config,
        &backends,
        &new_downloads(context, download, &lines, false)?,
        &lines,
    )?;
    let engine = Arc::new(context.open(&config, &backends)?);
    let ids = adopt_or_create(&engine, downloads, &lines)?;
    drop(lines);
    engine.restrict_to(Some(ids.iter().copied().collect()));
    let signals = SignalWatch::start(&engine)?;
    let mut progress = Progress::new(quiet || json, ids.len());
    let tick = progress.tick();
    let result = engine.run(Until::Idle, tick, |engine| progress.show(engine));
    let signal = signals.end();
    progress.finish(&engine);
    result?;
    let exit = report(&engine, &ids, signal, json, download)?;
    close(engine)?;
    Ok(exit)
}

pub(super) fn run(context: &Context, until_idle: bool, running: &Running) -> Result<Exit, Failure> {
    let config = context.config_for(running);
    let engine = Arc::new(context.open(&config, &backends(&config)?)?);
    let signals = SignalWatch::start(&engine)?;
    let until = if until_idle { Until::Idle } else { Until::Stopped };
    let result = engine.run(until, None, |_| ());
    signals.end();
    result?;
    let (_, failed) = engine.ended();
    close(engine)?;
    Ok(if failed > 0 {
        Exit::TransferFailed
    } else {
        Exit::Success
    })
}

/// Everything is checked before the state directory is made or its lock waited for.
fn checked(
    context: &Context,
    config: &Config,
    backends: &[Arc<dyn Backend>],
    downloads: &[NewDownload],
    lines: &[Line],
) -> Result<Vec<CheckedDownload>, Failure> {
    let schemes = Registry::new(backends.to_vec()).schemes();
    let checked = check_downloads(downloads, config, &context.environment, &schemes);
    checked.map_err(|(index, error)| at_line(lines, index, error))
}

/// Goes on with what is there already, and creates the rest, all of it or none.
fn adopt_or_create(
    engine: &Engine,
    downloads: Vec<CheckedDownload>,
    lines: &[Line],
) -> Result<Vec<TransferId>, Failure> {
    let mut ids = Vec::with_capacity(downloads.len());
    let mut adopted = Vec::new();
    let (mut fresh, mut places) = (Vec::with_capacity(downloads.len()), Vec::with_capacity(downloads.len()));
    for (index, download) in downloads.into_iter().enumerate() {
        if let Some(id) = engine.find_live(&download) {
            adopted.push((id, download));
        } else {
            places.push(index);
            fresh.push(download);
        }
    }
    let created = engine.accept(fresh);
    let created = created.map_err(|(index, error)| at_line(lines, places[index], error))?;
    for (id, download) in adopted {
        for name in engine.differences(id, &download)? {
            output::note(&format!(
                "--{name} differs from what operation {id} was created with, which counts; to change it, cancel that one first"
            ));
        }
        go_on(engine, id)?;
        ids.push(id);
    }
    ids.extend(created);
    Ok(ids)
}

fn go_on(engine: &Engine, id: TransferId) -> Result<(), Error> {
    let view = engine.view(id)?;
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

/// Says what is kept of those that have not ended, acknowledges the ends, and finds the exit code.
fn report(
    engine: &Engine,
    ids: &[TransferId],
    signal: Option<i32>,
    json: bool,
    download: &Download,
) -> Result<Exit, Failure> {
    if json {
        output::json_list(&ids.iter().filter_map(|id| engine.view(*id).ok()).collect::<Vec<_>>());
    }
    let from_list = download.input.is_some() || ids.len() > 1;
    let (mut all_completed, mut open) = (true, 0);
    let mut ended = Vec::with_capacity(ids.len());
    for view in ids.iter().filter_map(|id| engine.view(*id).ok()) {
        all_completed &= view.status == TransferStatus::Completed;
        if view.status.is_ended() {
            ended.push(view.id);
        } else {
            open += 1;
            if open <= KEPT_SHOWN_MAX {
                output::kept(&view, from_list);
            }
        }
    }
    if open > KEPT_SHOWN_MAX {
        output::note(&format!("{open} operations are kept in all; 'list' shows them"));
    }
    engine.acknowledge(&ended)?;
    Ok(match signal {
        Some(SIGTERM) => Exit::Terminated,
        Some(_) => Exit::Interrupted,
        None if all_completed => Exit::Success,
        None => Exit::TransferFailed,
    })
}

fn close(engine: Arc<Engine>) -> Result<(), Failure> {
    match Arc::into_inner(engine) {
        Some(engine) => Ok(engine.close()?),
        None => Ok(()),
    }
}

/// The URLs of the arguments and of the list, in this order.
fn lines(download: &Download) -> Result<Vec<Line>, Failure> {
    let mut lines = Vec::new();
    let mut lists: Vec<PathBuf> = download.input.iter().cloned().collect();
    for url in &download.urls {
        if url == "-" {
            lists.push(PathBuf::from("-"));
        } else {
            lines.push(Line {
                number: 0,
                url: url.clone(),
                destination: None,
            });
        }
    }
    for path in lists {
        let list = input::read(&path)?;
        for number in list.repeated {
            output::note(&format!(
                "input '{}': line {number} repeats an earlier one and is skipped",
                path.display()
            ));
        }
        lines.extend(list.lines);
    }
    if lines.is_empty() {
        return Err(Failure::new(
            Exit::BadInput,
            "url: none is given; write one, or a list of them with -i FILE",
        ));
    }
    Ok(lines)
}

fn new_downloads(
    context: &Context,
    download: &Download,
    lines: &[Line],
    hold: bool,
) -> Result<Vec<NewDownload>, Failure> {
    let output = download.output.clone().unwrap_or_else(|| PathBuf::from("./"));
    let is_directory = output.as_os_str().as_encoded_bytes().ends_with(b"/");
    if lines.len() > 1 && !is_directory {
        let problem = "names one file for several URLs; end it with '/' to make it a directory";
        return Err(Error::invalid("output", output.display().to_string(), problem).into());
    }
    if lines.len() > 1 && download.sha256.is_some() {
        return Err(Failure::new(
            Exit::BadInput,
            "sha256: one digest is given for several URLs; give one URL at a time",
        ));
    }
    let destination = |line: &Line| match &line.destination {
        Some(path) if is_directory => output.join(path),
        Some(path) => path.clone(),
        None => output.clone(),
    };
    Ok(lines
        .iter()
        .map(|line| NewDownload {
            url: line.url.clone(),
            destination: destination(line),
            headers: download.header.clone(),
            secret_headers: download.secret_header.clone(),
            sha256: download.sha256,
            expected_bytes: download.size,
            collision: download.collision.into(),
            priority: download.priority.into(),
            app: context.app.clone(),
            hold,
        })
        .collect())
}

fn at_line(lines: &[Line], index: usize, error: Error) -> Failure {
    let mut failure = Failure::from(error);
    if let Some(number) = lines.get(index).map(|line| line.number).filter(|number| *number > 0) {
        failure.message = format!("input line {number}: {}", failure.message);
    }
    failure
}

/// Stops the engine on SIGINT and SIGTERM; a second signal ends the process, which loses one window at most.
struct SignalWatch {
    handle: Handle,
    thread: std::thread::JoinHandle<()>,
    seen: Arc<AtomicI32>,
}

impl SignalWatch {
    fn start(engine: &Arc<Engine>) -> Result<Self, Failure> {
        let failed = |error| Failure::from(Error::io("watch for", "signals", error));
        let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
        let handle = signals.handle();
        let seen = Arc::new(AtomicI32::new(0));
        let (engine, noted) = (Arc::clone(engine), Arc::clone(&seen));
        let thread = std::thread::Builder::new()
            .name("signals".into())
            .stack_size(128 * 1024)
            .spawn(move || {
                for signal in signals.forever() {
                    if noted.swap(signal, Ordering::SeqCst) != 0 {
                        std::process::exit(128 + signal);
                    }
                    engine.stop();
                }
            });
        Ok(Self {
            handle,
            thread: thread.map_err(failed)?,
            seen,
        })
    }

    /// The signal that came, if one did.
    fn end(self) -> Option<i32> {
        self.handle.close();
        // It only waits for signals; a panic in it has been printed.
        let _ = self.thread.join();
        Some(self.seen.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }
}
