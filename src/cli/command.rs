//! The arguments as they are meant: dispatch, and what all commands share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backhaul_backends::Backend;

use super::args::{Args, Command, Global, Ids, Running};
use super::exit::Exit;
use super::{Failure, get, journal, output, reading, transfer};
use crate::config::default_state_directory;
use crate::{Config, Engine, Environment, Error, TransferId};

/// How long a writing command waits for another process to let go of the state directory.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// How often it looks.
const LOCK_LOOK: Duration = Duration::from_millis(50);
/// Longest name of an app, in bytes.
const APP_BYTES_MAX: usize = 64;

/// What all commands share, checked.
pub(super) struct Context {
    pub(super) state_directory: PathBuf,
    pub(super) app: String,
    pub(super) environment: Environment,
    ca_bundle: Option<PathBuf>,
    roots: Vec<PathBuf>,
    allow_network_file_system: bool,
}

pub(super) fn run(args: Args) -> Result<Exit, Failure> {
    match args.command {
        Command::Completions { shell } => return Ok(output::completions(shell)),
        Command::Man => return Ok(output::manual()),
        _ => {}
    }
    let context = Context::new(args.global)?;
    match args.command {
        Command::Get {
            download,
            running,
            json,
            quiet,
        } => get::run(&context, &download, &running, json, quiet),
        Command::Add { download, hold } => transfer::add(&context, &download, hold),
        Command::Run { until_idle, running } => transfer::run(&context, until_idle, &running),
        Command::Start(ids) => each(&context, &ids, Engine::start),
        Command::Pause(ids) => each(&context, &ids, Engine::pause),
        Command::Resume(ids) => each(&context, &ids, Engine::resume),
        Command::Cancel(ids) => each(&context, &ids, Engine::cancel),
        Command::Remove(ids) => each(&context, &ids, Engine::remove),
        Command::Ack(ids) => each(&context, &ids, |engine, id| engine.acknowledge(&[id])),
        Command::Wait { ids, timeout } => reading::wait(&context, &ids.ids, timeout),
        Command::List { json, all_apps } => reading::list(&context, json, all_apps),
        Command::Show { id, json } => reading::show(&context, id, json),
        Command::Explain { id } => reading::explain(&context, id),
        Command::Journal(command) => journal::run(&context, &command),
        Command::Completions { .. } | Command::Man => Ok(Exit::Success),
    }
}

/// Does one thing to several operations. An unknown id refuses all of them; the first that is refused by its state ends
/// it, and those before it are done.
fn each(context: &Context, ids: &Ids, act: impl Fn(&Engine, TransferId) -> Result<(), Error>) -> Result<Exit, Failure> {
    let engine = context.open(&context.config_for_one_command(), &[])?;
    for id in &ids.ids {
        engine.view(*id)?;
    }
    for id in &ids.ids {
        act(&engine, *id)?;
    }
    engine.close()?;
    Ok(Exit::Success)
}

impl Context {
    fn new(global: Global) -> Result<Self, Failure> {
        let is_root = rustix::process::geteuid().is_root();
        let given = global
            .state_dir
            .or_else(|| default_state_directory(is_root, |name| std::env::var_os(name).map(PathBuf::from)));
        let state_directory = given.filter(|path| !path.as_os_str().is_empty()).ok_or_else(|| {
            Failure::new(
                Exit::BadInput,
                "state-dir: none is known: give --state-dir DIR, or set HOME",
            )
        })?;
        let state_directory =
            std::path::absolute(&state_directory).map_err(|error| Error::io("find", &state_directory, error))?;
        if let Ok(metadata) = std::fs::metadata(&state_directory)
            && !metadata.is_dir()
        {
            return Err(Error::invalid("state-dir", state_directory.display().to_string(), "is no directory").into());
        }
        let app = global.app;
        if app.is_empty() || app.len() > APP_BYTES_MAX || app.chars().any(|letter| letter.is_control() || letter == '/')
        {
            let problem = format!("is no app name: 1 to {APP_BYTES_MAX} bytes without '/' and control characters");
            return Err(Error::invalid("app", app, problem).into());
        }
        let roots = global
            .root
            .iter()
            .map(|root| resolved_root(root))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            state_directory,
            app,
            environment: Environment::system(),
            ca_bundle: global.ca_bundle,
            roots,
            allow_network_file_system: global.allow_network_fs,
        })
    }

    pub(super) fn config(&self) -> Config {
        Config {
            roots: self.roots.clone(),
            ca_bundle: self.ca_bundle.clone(),
            allow_network_file_system: self.allow_network_file_system,
            ..Config::default()
        }
    }

    pub(super) fn config_for_one_command(&self) -> Config {
        Config {
            is_short_lived: true,
            ..self.config()
        }
    }

    pub(super) fn config_for(&self, running: &Running) -> Config {
        let mut config = self.config();
        config.jobs_max = usize::from(running.jobs);
        config.rate_max = running.limit_rate;
        config.retry.failures_max = running.retries.saturating_add(1);
        config.limits.connect = running.connect_timeout;
        config.limits.response = running.response_timeout;
        config.limits.stall = running.stall_timeout;
        config
    }

    /// Opens the engine; waits a while for another process to let go.
    pub(super) fn open(&self, config: &Config, backends: &[Arc<dyn Backend>]) -> Result<Engine, Failure> {
        let end = Instant::now() + LOCK_WAIT;
        loop {
            let opened = Engine::open(
                &self.state_directory,
                config.clone(),
                self.environment.clone(),
                backends.to_vec(),
            );
            match opened {
                Err(Error::Locked { .. }) if Instant::now() < end => std::thread::sleep(LOCK_LOOK),
                result => return Ok(result?),
            }
        }
    }
}

fn resolved_root(root: &Path) -> Result<PathBuf, Failure> {
    let resolved = std::fs::canonicalize(root);
    let is_directory = resolved.as_deref().is_ok_and(Path::is_dir);
    match resolved {
        Ok(path) if is_directory => Ok(path),
        Ok(_) => Err(Error::invalid("root", root.display().to_string(), "is no directory").into()),
        Err(error) => {
            Err(Error::invalid("root", root.display().to_string(), format!("cannot be used: {error}")).into())
        }
    }
}

/// The backends of this build, with what the environment says of certificates.
pub(super) fn backends(config: &Config) -> Result<Vec<Arc<dyn Backend>>, Failure> {
    Ok(crate::backends(config, |name| {
        std::env::var_os(name).map(PathBuf::from)
    })?)
}
