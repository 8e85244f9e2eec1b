//! How a command comes to an engine: the one that runs on the state directory, or one of its own.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backhaul_backends::Backend;

use super::context::Context;
use super::{Failure, output};
use crate::config::{Layout, default_state_directory};
use crate::service::socket::{self, default_path};
use crate::{Config, Engine, Error, Service, Serving};

/// How long a writing command waits for another process to let go of the state directory.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// Engines that may come and go while a command is at work.
pub(super) const ENGINES_MAX: usize = 16;
/// How often it looks.
const LOCK_LOOK: Duration = Duration::from_millis(50);

/// An engine that a command can work with.
pub(super) enum Reached {
    /// That of another process.
    Running(Service),
    /// One of its own, whose lock this process holds.
    Own(Arc<Engine>, Service),
}

impl Reached {
    pub(super) fn service(&self) -> &Service {
        match self {
            Self::Running(service) | Self::Own(_, service) => service,
        }
    }

    /// Ends what is this command's own.
    pub(super) fn close(self) -> Result<(), Failure> {
        match self {
            Self::Running(_) => Ok(()),
            Self::Own(engine, service) => {
                drop(service);
                close(engine)
            }
        }
    }
}

/// Closes an engine, unless somebody else still holds it; what it recorded is durable then.
pub(super) fn close(engine: Arc<Engine>) -> Result<(), Failure> {
    match Arc::try_unwrap(engine) {
        Ok(engine) => Ok(engine.close()?),
        Err(engine) => Ok(engine.sync()?),
    }
}

impl Context {
    /// The engine of another process on the state directory, if one runs and can be spoken to.
    pub(super) fn running(&self) -> Result<Option<Service>, Failure> {
        self.seen(false)
    }

    /// The same, or one that a service manager starts, as it listens for it.
    pub(super) fn woken(&self) -> Result<Option<Service>, Failure> {
        self.seen(true)
    }

    fn seen(&self, wakes: bool) -> Result<Option<Service>, Failure> {
        match self.look(wakes) {
            // It is about to end, or takes no more clients.
            Err(Error::Disconnected(_)) => Ok(None),
            result => Ok(result?),
        }
    }

    fn look(&self, wakes: bool) -> Result<Option<Service>, Error> {
        let service = match &self.socket {
            Some(socket) => match Service::connect(socket) {
                Ok(service) if self.names_state_directory && !service.works_on(&self.state_directory) => {
                    let problem = format!(
                        "belongs to an engine on another state directory than '{}'; leave out one of the two",
                        self.state_directory.display()
                    );
                    return Err(Error::invalid("socket", socket.display().to_string(), problem));
                }
                Ok(service) => Some(service),
                // Without an engine there a command works as without the option.
                Err(Error::Io(..)) if wakes => Service::look_for(&self.state_directory, None)?,
                Err(Error::Io(..)) => Service::working_on(&self.state_directory)?,
                Err(error) => return Err(error),
            },
            None if wakes => Service::look_for(&self.state_directory, Some(&self.socket_path()))?,
            None => Service::working_on(&self.state_directory)?,
        };
        Ok(service.map(|service| service.with_app(&self.app)))
    }

    /// The engine that runs, or else one of its own; waits a while for a process that is about to let go of the state
    /// directory, or to listen; `again`: also for that of another user, which may be started anew.
    pub(super) fn reach(
        &self,
        config: &Config,
        backends: &[Arc<dyn Backend>],
        again: bool,
    ) -> Result<Reached, Failure> {
        let end = Instant::now() + LOCK_WAIT;
        loop {
            let refused = match self.look(true) {
                Ok(Some(service)) => return Ok(Reached::Running(service)),
                Ok(None) => None,
                Err(error @ Error::Disconnected(_)) => Some(error),
                Err(error) => return Err(error.into()),
            };
            match self.try_open(config, backends) {
                Err(Error::Locked { .. }) if Instant::now() < end => std::thread::sleep(LOCK_LOOK),
                Err(_) if again && self.is_of_another() && Instant::now() < end => std::thread::sleep(LOCK_LOOK),
                // One that answers is not ending: what it said is the reason.
                Err(error @ Error::Locked { .. }) => return Err(refused.unwrap_or(error).into()),
                Err(error) => return Err(error.into()),
                Ok(engine) => {
                    let engine = Arc::new(engine);
                    let service = Service::on(&engine).with_app(&self.app);
                    return Ok(Reached::Own(engine, service));
                }
            }
        }
    }

    /// Does something with the engine that runs, or with one of its own; where that engine ends in the middle, again with
    /// the next. `act` is told whether it is again: what was asked for before may have been done.
    pub(super) fn with_engine<T>(
        &self,
        config: &Config,
        backends: &[Arc<dyn Backend>],
        mut act: impl FnMut(&Service, bool) -> Result<T, Error>,
    ) -> Result<T, Failure> {
        let mut engines = 0;
        loop {
            let reached = self.reach(config, backends, engines > 0)?;
            match act(reached.service(), engines > 0) {
                Err(Error::Disconnected(_)) if engines < ENGINES_MAX => engines += 1,
                result => {
                    let done = result?;
                    reached.close()?;
                    return Ok(done);
                }
            }
        }
    }

    /// Asks the engine that runs; `None` where none does, also where it ends in the middle.
    pub(super) fn ask<T>(&self, act: impl FnOnce(&Service) -> Result<T, Error>) -> Result<Option<T>, Failure> {
        match self.running()?.as_ref().map(act) {
            None | Some(Err(Error::Disconnected(_))) => Ok(None),
            Some(result) => Ok(Some(result?)),
        }
    }

    /// Opens an engine of its own; waits a while for another process to let go.
    pub(super) fn open(&self, config: &Config, backends: &[Arc<dyn Backend>]) -> Result<Engine, Failure> {
        let end = Instant::now() + LOCK_WAIT;
        loop {
            match self.try_open(config, backends) {
                Err(Error::Locked { .. }) if Instant::now() < end => std::thread::sleep(LOCK_LOOK),
                result => return Ok(result?),
            }
        }
    }

    fn try_open(&self, config: &Config, backends: &[Arc<dyn Backend>]) -> Result<Engine, Error> {
        self.check_owner()?;
        Engine::open(
            &self.state_directory,
            config.clone(),
            self.environment.clone(),
            backends.to_vec(),
        )
    }

    /// Whether this is root, and another user's engine works here or has done so: what root's would leave behind, that one
    /// could not open. Anybody else is kept out by the modes.
    pub(super) fn is_of_another(&self) -> bool {
        self.other_owner().is_some()
    }

    fn other_owner(&self) -> Option<u32> {
        let lock = std::fs::metadata(Layout::new(&self.state_directory).lock()).ok()?;
        (rustix::process::geteuid().is_root() && lock.uid() != 0).then(|| lock.uid())
    }

    fn check_owner(&self) -> Result<(), Error> {
        let Some(owner) = self.other_owner() else {
            return Ok(());
        };
        if crate::engine::holder(&self.state_directory).works {
            // It is about to listen, or to end.
            return Err(Error::Locked {
                path: Layout::new(&self.state_directory).lock(),
                holder: None,
            });
        }
        let problem = format!(
            "belongs to the engine of user {owner}, which could open nothing any more that root writes there; start that \
             engine, or give the command as that user"
        );
        Err(Error::invalid(
            "state-dir",
            self.state_directory.display().to_string(),
            problem,
        ))
    }

    /// Where an engine on the state directory listens.
    pub(super) fn socket_path(&self) -> PathBuf {
        if let Some(socket) = &self.socket {
            return socket.clone();
        }
        let is_root = rustix::process::geteuid().is_root();
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let is_default = default_state_directory(is_root, variable).as_deref() == Some(&self.state_directory);
        default_path(&self.state_directory, is_default, is_root, variable)
    }

    /// Refuses a socket that was asked for and can never be, before anything is made or created.
    pub(super) fn check_socket(&self) -> Result<(), Failure> {
        Ok(self.socket.as_deref().map_or(Ok(()), socket::check)?)
    }

    /// Lets other processes speak to an engine of this one. Where that cannot be, it works all the same: only who has asked
    /// for a certain socket is refused.
    pub(super) fn serve(&self, service: &Service) -> Result<Option<Serving>, Failure> {
        match service.serve(self.socket_path()) {
            Ok(serving) => Ok(Some(serving)),
            Err(error) if self.socket.is_some() => Err(error.into()),
            Err(error) => {
                output::note(&format!("other commands cannot speak to this one: {error}"));
                Ok(None)
            }
        }
    }
}
