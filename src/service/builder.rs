//! A service with more than the defaults: where its state is, its settings, and backends of the application's own.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use backhaul_backends::{Backend, is_scheme};

use super::embedded::Embedded;
use super::{Link, Service};
use crate::config::{Config, default_state_directory};
use crate::error::Error;

/// Opens a state directory in this process; made by [`Service::builder`].
#[derive(Clone, Default)]
#[must_use = "nothing is opened before `open`"]
pub struct ServiceBuilder {
    state_directory: Option<PathBuf>,
    config: Config,
    backends: Vec<Arc<dyn Backend>>,
    app: Option<String>,
}

impl ServiceBuilder {
    /// Where journal and vault are. Without it `$STATE_DIRECTORY`, `/var/lib/backhaul` for root,
    /// `$XDG_STATE_HOME/backhaul` or `~/.local/state/backhaul`, as for the command.
    pub fn state_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.state_directory = Some(directory.into());
        self
    }

    /// Settings; those of [`Config::default`] without it.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Registers a backend for the schemes that it serves. It comes before those that are built in and before those that
    /// are registered after it. Operations that were stored with such a scheme fail with
    /// [`crate::WebErrorStatus::UNSUPPORTED_SCHEME`] where a later engine on the same directory has no backend for it.
    pub fn backend(mut self, backend: Arc<dyn Backend>) -> Self {
        self.backends.push(backend);
        self
    }

    /// Whose operations are created and listed; the file name of the executable without it. See [`Service::with_app`].
    pub fn app(mut self, app: impl Into<String>) -> Self {
        self.app = Some(app.into());
        self
    }

    /// Opens the directory and works on it as [`Service::open`].
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `backend`, where one serves no scheme, or what is no URL scheme in lower case, or
    /// `state_directory`, where none is given and none is known; otherwise as [`crate::Engine::open`].
    pub fn open(self) -> Result<Service, Error> {
        for backend in &self.backends {
            check_schemes(&backend.schemes())?;
        }
        let is_root = rustix::process::geteuid().is_root();
        let default = || default_state_directory(is_root, |name| std::env::var_os(name).map(PathBuf::from));
        let directory = self.state_directory.or_else(default).ok_or_else(|| {
            let problem = "none is known: give one, or set HOME";
            Error::invalid("state_directory", "", problem)
        })?;
        let embedded = Embedded::open(&directory, self.config, self.backends)?;
        let service = Service::new(Link::Embedded(Arc::new(embedded)));
        Ok(match self.app {
            Some(app) => service.with_app(&app),
            None => service,
        })
    }
}

impl fmt::Debug for ServiceBuilder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schemes: Vec<Vec<&str>> = self.backends.iter().map(|backend| backend.schemes()).collect();
        formatter
            .debug_struct("ServiceBuilder")
            .field("state_directory", &self.state_directory)
            .field("config", &self.config)
            .field("backends", &schemes)
            .field("app", &self.app)
            .finish()
    }
}

fn check_schemes(schemes: &[&str]) -> Result<(), Error> {
    if schemes.is_empty() {
        return Err(Error::invalid("backend", "", "serves no URL scheme"));
    }
    match schemes.iter().find(|scheme| !is_scheme(scheme)) {
        Some(wrong) => {
            let problem = "is no URL scheme in lower case; a letter, then letters, digits, '+', '-' and '.' are";
            Err(Error::invalid("backend", *wrong, problem))
        }
        None => Ok(()),
    }
}
