//! What all commands share, checked: where the state is, whose operations, under which settings.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use backhaul_backends::Backend;

use super::Failure;
use super::args::{Global, Running};
use super::exit::Exit;
use crate::config::default_state_directory;
use crate::{Config, Environment, Error, Settings};

/// Longest name of an app, in bytes.
const APP_BYTES_MAX: usize = 64;

/// What all commands share, checked.
pub(super) struct Context {
    pub(super) state_directory: PathBuf,
    pub(super) app: String,
    pub(super) environment: Environment,
    /// Where the engine listens, where that was asked for.
    pub(super) socket: Option<PathBuf>,
    /// The state directory was asked for, too.
    pub(super) names_state_directory: bool,
    ca_bundle: Option<PathBuf>,
    roots: Vec<PathBuf>,
    helper_path: Vec<PathBuf>,
    allow_network_file_system: bool,
}

impl Context {
    pub(super) fn new(global: Global) -> Result<Self, Failure> {
        let is_root = rustix::process::geteuid().is_root();
        let names_state_directory = global.state_dir.is_some();
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
        check_app(&app)?;
        let roots = global
            .root
            .iter()
            .map(|root| resolved_root(root))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            state_directory,
            app,
            environment: Environment::system(),
            socket: global.socket.map(absolute).transpose()?,
            names_state_directory,
            ca_bundle: global.ca_bundle,
            roots,
            helper_path: helper_path(global.helper_path)?,
            allow_network_file_system: global.allow_network_fs,
        })
    }

    pub(super) fn config(&self) -> Config {
        Config {
            roots: self.roots.clone(),
            ca_bundle: self.ca_bundle.clone(),
            helper_path: self.helper_path.clone(),
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

    /// For transfers in this process, through the proxies of its environment.
    pub(super) fn config_for(&self, running: &Running) -> Result<Config, Failure> {
        let mut settings = Settings::default();
        running.set(&mut settings);
        with_proxies(Config {
            roots: self.roots.clone(),
            ca_bundle: self.ca_bundle.clone(),
            helper_path: self.helper_path.clone(),
            allow_network_file_system: self.allow_network_file_system,
            salvage: false,
            ..settings.config()
        })
    }
}

/// Refuses what no app is called.
pub(super) fn check_app(app: &str) -> Result<(), Failure> {
    if app.is_empty() || app.len() > APP_BYTES_MAX || app.chars().any(|letter| letter.is_control() || letter == '/') {
        let problem = format!("is no app name: 1 to {APP_BYTES_MAX} bytes without '/' and control characters");
        return Err(Error::invalid("app", app, problem).into());
    }
    Ok(())
}

/// Where helpers are looked for: as typed, or where packages put them.
pub(super) fn helper_path(typed: Vec<PathBuf>) -> Result<Vec<PathBuf>, Failure> {
    if typed.is_empty() {
        return Ok(Settings::default().helper_path);
    }
    typed.into_iter().map(absolute).collect()
}

fn absolute(path: PathBuf) -> Result<PathBuf, Failure> {
    std::path::absolute(&path).map_err(|error| Error::io("find", path, error).into())
}

pub(super) fn resolved_root(root: &Path) -> Result<PathBuf, Failure> {
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

/// With the proxies of the environment, where none are configured.
pub(super) fn with_proxies(config: Config) -> Result<Config, Failure> {
    Ok(crate::with_environment_proxies(config, |name| std::env::var_os(name))?)
}

/// The backends of this build, with what the environment says of certificates.
pub(super) fn backends(config: &Config) -> Result<Vec<Arc<dyn Backend>>, Failure> {
    Ok(crate::backends(config, |name| {
        std::env::var_os(name).map(PathBuf::from)
    })?)
}
