//! Commands that create and run operations: `add`, `run`, and what `get` shares with them.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backhaul_backends::{Backend, Registry};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::args::{ChangeArgs, Download, Running};
use super::context::{Context, backends, check_app};
use super::exit::Exit;
use super::input::{self, Line};
use super::reach::close;
use super::signals::SignalWatch;
use super::{Failure, output};
use crate::address::scheme_of;
use crate::engine::{Checks, Series};
use crate::service::parts_of;
use crate::{
    Body, Changes, Config, Error, NewDownload, Service, SpooledBody, TransferId, Until, check_changes, check_free,
};

pub(super) fn add(context: &Context, download: &Download, hold: bool) -> Result<Exit, Failure> {
    let lines = lines(download)?;
    let config = context.config_for_one_command();
    let backends = backends(&config)?;
    let mut asked = Asked::new(context, download, &lines, hold)?;
    asked.check(&config, &backends, true)?;
    let mut refused = None;
    let created = context.with_engine(&config, &backends, |service, again| {
        // What the engine before has said is no reason any more.
        refused = None;
        asked.spool(service)?;
        // What the engine before has created counts.
        let set = |index, one: &mut NewDownload| asked.set(index, one);
        let created = service.create_list(lines.len(), Series::new(asked.common(), &set), again);
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
    let registry = Registry::new(backends.clone());
    let is_foreign = |url: &str| registry.by_scheme(scheme_of(url)).is_none();
    // An engine that runs may have a backend for what this command has none for, and checks everything by itself.
    if !(changes.url.as_deref().is_some_and(is_foreign) && context.woken()?.is_some()) {
        check_changes(&changes, &registry)?;
    }
    context.with_engine(&config, &backends, |service, _| service.set(id, &changes))?;
    Ok(Exit::Success)
}

/// Removes all that belongs to an app but its complete files.
pub(super) fn forget(context: &Context, app: &str) -> Result<Exit, Failure> {
    check_app(app)?;
    let config = context.config_for_one_command();
    let count = context.with_engine(&config, &[], |service, _| service.forget_app(app))?;
    output::note(&format!("{count} operations of app '{app}' are gone"));
    Ok(Exit::Success)
}

pub(super) fn run(context: &Context, until_idle: bool, salvage: bool, running: &Running) -> Result<Exit, Failure> {
    context.check_socket()?;
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
    let signal = signals.end();
    drop(serving);
    let (_, failed) = engine.ended();
    let closed = result.map_err(Failure::from).and_then(|()| close(engine));
    if failed > 0 && closed.is_err() {
        // The exit code is that of what stopped the engine, and tells nothing of them.
        log::warn!("{failed} operations had ended in an error before; 'list' names them");
    }
    closed?;
    Ok(match signal {
        _ if failed > 0 => Exit::TransferFailed,
        Some(SIGINT) => Exit::Interrupted,
        // A service manager ends by it what is to run without end.
        Some(SIGTERM) if until_idle => Exit::Terminated,
        _ => Exit::Success,
    })
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

/// What is asked for, line by line.
pub(super) struct Asked<'a> {
    context: &'a Context,
    download: &'a Download,
    lines: &'a [Line],
    output: PathBuf,
    hold: bool,
    /// The body that came from standard input, where one does.
    spooled: Option<SpooledBody>,
    /// Something of standard input may have been read: what is left of it is not the whole body.
    has_begun_to_read: bool,
}

impl<'a> Asked<'a> {
    /// Checks what the lines have in common.
    pub(super) fn new(
        context: &'a Context,
        download: &'a Download,
        lines: &'a [Line],
        hold: bool,
    ) -> Result<Self, Failure> {
        check_standard_body(download, lines)?;
        let output = download.output.clone().unwrap_or_else(|| PathBuf::from("./"));
        let asked = Self {
            context,
            download,
            lines,
            output,
            hold,
            spooled: None,
            has_begun_to_read: false,
        };
        if lines.len() > 1 && !asked.is_to_directory() {
            let problem = "names one file for several URLs; end it with '/' to make it a directory";
            return Err(Error::invalid("output", asked.output.display().to_string(), problem).into());
        }
        if let Some(line) = lines
            .iter()
            .find(|line| line.destination.is_some() && !asked.is_to_directory())
        {
            let problem = format!(
                "names a file, and so does line {} of the input; leave out one of the two, or end it with '/' to make it a \
                 directory",
                line.number
            );
            return Err(Error::invalid("output", asked.output.display().to_string(), problem).into());
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
        Ok(asked)
    }

    /// Everything is checked before the state directory is made or its lock waited for; what this command has no backend for by
    /// the engine that runs, if one does and may have one. `free`: the destinations, too, must not exist yet.
    pub(super) fn check(&self, config: &Config, backends: &[Arc<dyn Backend>], free: bool) -> Result<(), Failure> {
        let (registry, environment) = (Registry::new(backends.to_vec()), &self.context.environment);
        let is_foreign = |line: &Line| {
            let mut urls = self.download.mirror.iter().chain([&line.url]);
            urls.any(|url| registry.by_scheme(scheme_of(url)).is_none())
        };
        let other = if self.lines.iter().any(is_foreign) {
            self.context.woken()?
        } else {
            None
        };
        let mut checks = Checks::new(config, environment, &registry, self.lines.len());
        let set = |index, one: &mut NewDownload| self.set(index, one);
        let mut series = Series::new(self.common(), &set);
        let parts =
            parts_of(self.lines.len()).flat_map(|part| self.runs_of(part, |line| other.is_some() && is_foreign(line)));
        for range in parts {
            let lines = &self.lines[range.clone()];
            if let Some(service) = other.as_ref().filter(|_| lines.iter().any(is_foreign)) {
                for (index, line) in range.zip(lines) {
                    let checked = service.check(series.at(index), !free);
                    checked.map_err(|error| at_line(std::slice::from_ref(line), 0, error))?;
                }
                continue;
            }
            let checked = checks.check_some(&mut series, range).and_then(|checked| {
                if free {
                    check_free(&checked, environment)
                } else {
                    Ok(())
                }
            });
            checked.map_err(|(index, error)| at_line(lines, index, error))?;
        }
        Ok(())
    }

    /// A part of the list in pieces that are of one kind each.
    fn runs_of(&self, part: Range<usize>, kind: impl Fn(&Line) -> bool) -> Vec<Range<usize>> {
        let first = part.start;
        let runs = self.lines[part].chunk_by(|one, other| kind(one) == kind(other));
        let ends = runs.scan(first, |end, run| {
            let begin = *end;
            *end += run.len();
            Some(begin..*end)
        });
        ends.collect()
    }

    /// Hands over the body that comes from standard input, where one does.
    ///
    /// # Errors
    /// [`Error::Service`]: the engine that had it, or a part of it, has ended, and it cannot be read twice.
    pub(super) fn spool(&mut self, service: &Service) -> Result<(), Error> {
        if !is_standard(self.download.body.as_deref()) {
            return Ok(());
        }
        if std::mem::replace(&mut self.has_begun_to_read, true) {
            let problem = "the engine ended that had taken in standard input as the body; give the command again";
            return Err(Error::Service(problem.into()));
        }
        self.spooled = Some(service.spool(&mut std::io::stdin().lock(), u64::MAX)?);
        Ok(())
    }

    fn is_to_directory(&self) -> bool {
        self.output.as_os_str().as_encoded_bytes().ends_with(b"/")
    }

    /// What is asked for with every line.
    pub(super) fn common(&self) -> NewDownload {
        let download = self.download;
        // What comes from standard input is read once everything else was checked.
        let file = download.body.clone().filter(|path| !is_standard(Some(path.as_path())));
        NewDownload {
            method: download.method.clone(),
            body: self.spooled.clone().map(Body::Spooled).or(file.map(Body::File)),
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
            app: self.context.app.clone(),
            hold: self.hold,
            ..NewDownload::default()
        }
    }

    /// Makes of [`Asked::common`], or of what another line has made of that, what a line asks for.
    pub(super) fn set(&self, index: usize, one: &mut NewDownload) {
        let Some(line) = self.lines.get(index) else { return };
        one.url.clone_from(&line.url);
        one.destination.clone_from(&self.output);
        // Then it is a directory.
        if let Some(path) = &line.destination {
            one.destination.push(path);
        }
    }
}

pub(super) fn at_line(lines: &[Line], index: usize, error: Error) -> Failure {
    let was_here = matches!(error, Error::DestinationExists(_)) && lines.len() > 1;
    let mut failure = Failure::from(error);
    if was_here {
        // The history may have lost what this list has brought before.
        failure.message += "; where this list was begun before, 'backhaul run' goes on with what is open";
    }
    if let Some(number) = lines.get(index).map(|line| line.number).filter(|number| *number > 0) {
        failure.message = format!("input line {number}: {}", failure.message);
    }
    failure
}
