//! Commands that create and run operations: `add`, `run`, and what `get` shares with them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use backhaul_backends::{Backend, Registry};

use super::args::{ChangeArgs, Download, Running};
use super::context::{Context, backends};
use super::exit::Exit;
use super::input::{self, Line};
use super::reach::close;
use super::signals::SignalWatch;
use super::{Failure, output};
use crate::{
    Body, Changes, CheckedDownload, Config, Error, NewDownload, Service, TransferId, Until, check_changes,
    check_downloads, check_free,
};

pub(super) fn add(context: &Context, download: &Download, hold: bool) -> Result<Exit, Failure> {
    let lines = lines(download)?;
    let config = context.config_for_one_command();
    let backends = backends(&config)?;
    let mut downloads = new_downloads(context, download, &lines, hold)?;
    let checked = checked(context, &config, &backends, &downloads, &lines)?;
    check_free(&checked, &context.environment).map_err(|(index, error)| at_line(&lines, index, error))?;
    let mut refused = None;
    let mut input = StandardInput::new(download);
    let created = context.with_engine(&config, &backends, |service, again| {
        input.spool(service, &mut downloads)?;
        // What the engine before has created counts.
        let created = service.create_or_go_on(&downloads, again);
        created.map_err(|(index, error)| {
            refused = Some((index, error.clone()));
            error
        })
    });
    let created = created.map_err(|failure| match refused {
        Some((index, error)) => at_line(&lines, index, error),
        None => failure,
    })?;
    output::ids(&created.iter().map(|one| one.id).collect::<Vec<_>>());
    Ok(Exit::Success)
}

/// Changes one operation. As with `add`, what is typed is checked before the lock is waited for.
pub(super) fn set(context: &Context, id: TransferId, changes: ChangeArgs) -> Result<Exit, Failure> {
    let config = context.config_for_one_command();
    let backends = backends(&config)?;
    let changes = Changes {
        url: changes.url,
        clear_headers: changes.clear_headers,
        headers: changes.header,
        secret_headers: changes.secret_header,
        priority: changes.priority.map(Into::into),
        proxy: changes.proxy,
        ..Changes::default()
    };
    check_changes(&changes, &Registry::new(backends.clone()))?;
    context.with_engine(&config, &backends, |service, _| service.set(id, &changes))?;
    Ok(Exit::Success)
}

/// Removes all that belongs to an app but its complete files.
pub(super) fn forget(context: &Context, app: &str) -> Result<Exit, Failure> {
    let config = context.config_for_one_command();
    let count = context.with_engine(&config, &[], |service, _| service.forget_app(app))?;
    output::note(&format!("{count} operations of app '{app}' are gone"));
    Ok(Exit::Success)
}

pub(super) fn run(context: &Context, until_idle: bool, salvage: bool, running: &Running) -> Result<Exit, Failure> {
    let config = Config {
        salvage,
        ..context.config_for(running)?
    };
    let engine = Arc::new(context.open(&config, &backends(&config)?)?);
    let serving = context.serve(&Service::on(&engine))?;
    let signals = SignalWatch::start()?;
    signals.stops(&engine);
    let until = if until_idle { Until::Idle } else { Until::Stopped };
    let result = engine.run(until, None, |_| ());
    signals.end();
    drop(serving);
    let (_, failed) = engine.ended();
    let closed = result.map_err(Failure::from).and_then(|()| close(engine));
    if failed > 0 && closed.is_err() {
        // The exit code is that of what stopped the engine, and tells nothing of them.
        log::warn!("{failed} operations had ended in an error before; 'list' names them");
    }
    closed?;
    Ok(if failed > 0 {
        Exit::TransferFailed
    } else {
        Exit::Success
    })
}

/// Everything is checked before the state directory is made or its lock waited for.
pub(super) fn checked(
    context: &Context,
    config: &Config,
    backends: &[Arc<dyn Backend>],
    downloads: &[NewDownload],
    lines: &[Line],
) -> Result<Vec<CheckedDownload>, Failure> {
    let registry = Registry::new(backends.to_vec());
    let checked = check_downloads(downloads, config, &context.environment, &registry);
    checked.map_err(|(index, error)| at_line(lines, index, error))
}

/// The body that comes from standard input, where one does.
pub(super) struct StandardInput {
    is_wanted: bool,
    was_read: bool,
}

impl StandardInput {
    pub(super) fn new(download: &Download) -> Self {
        Self {
            is_wanted: is_standard(download.body.as_deref()),
            was_read: false,
        }
    }

    /// Hands it over, for all of these.
    ///
    /// # Errors
    /// [`Error::Service`]: the engine that had it has ended, and it cannot be read twice.
    pub(super) fn spool(&mut self, service: &Service, asked: &mut [NewDownload]) -> Result<(), Error> {
        if !self.is_wanted {
            return Ok(());
        }
        if std::mem::replace(&mut self.was_read, true) {
            let problem = "the engine ended that had taken in standard input as the body; give the command again";
            return Err(Error::Service(problem.into()));
        }
        let spooled = service.spool(&mut std::io::stdin().lock(), u64::MAX)?;
        for one in asked {
            one.body = Some(Body::Spooled(spooled.clone()));
        }
        Ok(())
    }
}

fn is_standard(path: Option<&Path>) -> bool {
    path == Some(Path::new("-"))
}

/// Standard input gives one body for one operation, and nothing else besides.
fn check_standard_body(download: &Download, lines: &[Line]) -> Result<(), Failure> {
    let refuse = |problem: &str| Err(Error::invalid("body", "-", problem).into());
    if !is_standard(download.body.as_deref()) {
        return Ok(());
    }
    if download.method.is_get() {
        return refuse("GET takes no body; give the method that it is for, like --method POST");
    }
    if is_standard(download.input.as_deref()) || download.urls.iter().any(|url| url == "-") {
        return refuse("the list of URLs comes from standard input already; give one of the two as a file");
    }
    if lines.len() > 1 {
        return refuse("is one body for one operation; for several URLs give a file");
    }
    Ok(())
}

/// The URLs of the arguments and of the list, in this order.
pub(super) fn lines(download: &Download) -> Result<Vec<Line>, Failure> {
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

pub(super) fn new_downloads(
    context: &Context,
    download: &Download,
    lines: &[Line],
    hold: bool,
) -> Result<Vec<NewDownload>, Failure> {
    check_standard_body(download, lines)?;
    let output = download.output.clone().unwrap_or_else(|| PathBuf::from("./"));
    let is_directory = output.as_os_str().as_encoded_bytes().ends_with(b"/");
    if lines.len() > 1 && !is_directory {
        let problem = "names one file for several URLs; end it with '/' to make it a directory";
        return Err(Error::invalid("output", output.display().to_string(), problem).into());
    }
    let for_one = [
        (download.sha256.is_some(), "sha256: one digest"),
        (!download.digest.is_empty(), "digest: one digest"),
        (!download.mirror.is_empty(), "mirror: one mirror"),
    ];
    if let Some((_, what)) = for_one.iter().find(|(given, _)| *given && lines.len() > 1) {
        return Err(Failure::new(
            Exit::BadInput,
            format!("{what} is given for several URLs; give one URL at a time"),
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
            method: download.method.clone(),
            // What comes from standard input is read once everything else was checked.
            body: download
                .body
                .clone()
                .filter(|path| !is_standard(Some(path.as_path())))
                .map(Body::File),
            destination: destination(line),
            headers: download.header.clone(),
            secret_headers: download.secret_header.clone(),
            sha256: download.sha256,
            digests: download.digest.clone(),
            mirrors: download.mirror.clone(),
            expected_bytes: download.size,
            collision: download.collision.into(),
            priority: download.priority.into(),
            group: download.group.clone(),
            completion_group: download.completion_group,
            expected_type: download.media_type.clone(),
            recoverable: download.recoverable.clone(),
            proxy: download.proxy.clone(),
            app: context.app.clone(),
            hold,
            ..NewDownload::default()
        })
        .collect())
}

pub(super) fn at_line(lines: &[Line], index: usize, error: Error) -> Failure {
    let mut failure = Failure::from(error);
    if let Some(number) = lines.get(index).map(|line| line.number).filter(|number| *number > 0) {
        failure.message = format!("input line {number}: {}", failure.message);
    }
    failure
}
