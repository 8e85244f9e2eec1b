//! `daemon`: the engine as a service of the system, which others speak to.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use super::args::{DaemonArgs, Global};
use super::context::{Context, backends, helper_path, resolved_root, with_proxies};
use super::exit::Exit;
use super::reach::close;
use super::{Failure, output};
use crate::service::notify::{Notify, listen_fds, watchdog_interval};
use crate::service::server::{Server, ServerLimits};
use crate::service::socket::Socket;
use crate::threads::{self, Role};
use crate::{Config, Engine, Environment, Error, Settings, SettingsFile, Until};

/// Files that are asked for besides the sockets of clients, where the system allows it.
const OPEN_FILES_WANTED: u64 = 4_096;
/// Shortest time until an idle daemon looks again whether it is to end.
const LOOK_MIN: Duration = Duration::from_millis(10);

pub(super) fn run(mut global: Global, args: &DaemonArgs) -> Result<Exit, Failure> {
    // Before anything is opened here, which would have the number of one that is not there.
    let inherited = listen_fds()?;
    // One that comes before there is an engine waits for it, and does not end the process.
    let signals = Signals::new([SIGHUP]).map_err(cannot_watch)?;
    let is_root = rustix::process::geteuid().is_root();
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let file = SettingsFile::find(args.config.clone(), is_root, variable);
    if !global.helper_path.is_empty() {
        global.helper_path = helper_path(global.helper_path)?;
    }
    let options = global.clone();
    let settings = load(file.as_ref(), &options, args)?;
    if global.verbose == 0 {
        output::set_log_level(settings.log);
    }
    global.state_dir.clone_from(&settings.state_dir);
    global.socket.clone_from(&settings.socket);
    let mut context = Context::new(global)?;
    if inherited.is_none() {
        context.check_socket()?;
    }
    let notify = Arc::new(Notify::from_environment());
    raise_open_files(settings.connections_max);
    context.environment = Environment::system();
    let config = config(&settings, file.as_ref().filter(|_| options.root.is_empty()))?;
    let engine = Arc::new(context.open(&config, &backends(&config)?)?);
    // From here on no signal ends the process by itself: there will be a socket to remove.
    for signal in [SIGINT, SIGTERM] {
        signals.handle().add_signal(signal).map_err(cannot_watch)?;
    }
    let socket = match inherited {
        Some(listener) => Socket::inherited(listener),
        None => Socket::bind(&context.socket_path())?,
    };
    engine.note_socket(&socket.path);
    log::info!("listens on '{}'", socket.path.display());
    let server = Server::start(Arc::clone(&engine), vec![socket], limits(&settings))?;
    let server = Arc::new(server);
    let current = Arc::new(Mutex::new(settings));
    let reloading = Reloading {
        current: Arc::clone(&current),
        server: Arc::downgrade(&server),
        file,
        options: Options {
            global: options,
            args: args.clone(),
        },
    };
    let signals = SignalThread::start(signals, &engine, &notify, reloading)?;
    notify.ready();
    notify.status("waits for work");
    let result = work(&engine, &server, &notify, &current);
    notify.stopping();
    let signal = signals.end();
    drop(server);
    result?;
    close(engine)?;
    log::info!("has stopped");
    Ok(match signal {
        Some(SIGINT) => Exit::Interrupted,
        _ => Exit::Success,
    })
}

/// The settings of a configuration file, with what the command line gave in their place.
fn load(file: Option<&SettingsFile>, global: &Global, args: &DaemonArgs) -> Result<Settings, Failure> {
    let loaded = Settings::load(file, |settings| {
        args.running.set(settings);
        settings.state_dir = global.state_dir.clone().or(settings.state_dir.take());
        settings.socket = global.socket.clone().or(settings.socket.take());
        settings.ca_bundle = global.ca_bundle.clone().or(settings.ca_bundle.take());
        if !global.root.is_empty() {
            settings.roots.clone_from(&global.root);
        }
        if !global.helper_path.is_empty() {
            settings.helper_path.clone_from(&global.helper_path);
        }
        settings.allow_network_fs |= global.allow_network_fs;
        settings.exit_idle = args.exit_idle.or(settings.exit_idle);
    });
    loaded.map_err(|error| Failure::new(Exit::BadInput, format!("configuration {error}")))
}

/// Works until a signal comes, or until there was nothing to do for long enough.
fn work(engine: &Arc<Engine>, server: &Server, notify: &Notify, current: &Mutex<Settings>) -> Result<(), Error> {
    let watchdog = watchdog_interval();
    let waked = Arc::downgrade(engine);
    server.watch_connections(move |_| {
        if let Some(engine) = waked.upgrade() {
            engine.wake();
        }
    });
    let mut idle: Option<(u64, Instant)> = None;
    engine.run_watched(Until::Stopped, |engine| {
        if watchdog.is_some() {
            notify.watchdog();
        }
        let clients = server.connections();
        notify.status(&format!("{} transfers run, {clients} clients", engine.running_count()));
        let exit_idle = current.lock().unwrap_or_else(PoisonError::into_inner).exit_idle;
        // What was done between two looks shows in the journal.
        let stand = engine.cursor();
        let is_idle = engine.is_idle() && clients == 0;
        idle = idle.filter(|(since, _)| is_idle && *since == stand);
        let (_, since) = *idle.get_or_insert((stand, Instant::now()));
        let left = exit_idle.map(|time| time.saturating_sub(since.elapsed()));
        if is_idle && left == Some(Duration::ZERO) {
            log::info!("has nothing to do, and ends");
            engine.stop();
        }
        let look = left.filter(|_| is_idle).map(|left| left.max(LOOK_MIN));
        [watchdog, look].into_iter().flatten().min()
    })
}

/// What the engine is to do, with every directory that destinations must be in as it really is. `file`: what names those.
fn config(settings: &Settings, file: Option<&SettingsFile>) -> Result<Config, Failure> {
    let mut config = settings.config();
    let resolved = settings.roots.iter().map(|root| {
        resolved_root(root).map_err(|failure| match file {
            Some(file) => {
                let message = format!("configuration {}: roots: {}", file.path.display(), failure.message);
                Failure::new(failure.exit, message)
            }
            None => failure,
        })
    });
    config.roots = resolved.collect::<Result<_, _>>()?;
    let config = with_proxies(config)?;
    Ok(Config {
        proxies: config.proxies.map(|proxies| settings.without_exceptions(proxies)),
        ..config
    })
}

fn limits(settings: &Settings) -> ServerLimits {
    ServerLimits {
        message_bytes_max: settings.message_bytes_max,
        connections_max: settings.connections_max,
        connections_per_peer_max: settings.connections_per_peer_max,
        monitors_max: settings.monitors_max,
        ..ServerLimits::default()
    }
}

/// Raises the limit of open files as far as it is of use and allowed: each client needs one.
fn raise_open_files(clients_max: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = OPEN_FILES_WANTED + clients_max as u64;
    let wanted = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted);
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            log::warn!("the limit of open files cannot be raised to {wanted}: {error}");
        }
    }
}

/// What the command line gave.
struct Options {
    global: Global,
    args: DaemonArgs,
}

/// What a reload reads, and what it changes.
struct Reloading {
    current: Arc<Mutex<Settings>>,
    server: Weak<Server>,
    file: Option<SettingsFile>,
    options: Options,
}

impl Reloading {
    /// Takes over what may change while the daemon runs. A file that cannot be used changes nothing.
    fn reload(&self) {
        let new = match load(self.file.as_ref(), &self.options.global, &self.options.args) {
            Ok(new) => new,
            Err(failure) => {
                log::error!("{}; nothing has changed", failure.message);
                return;
            }
        };
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (merged, needs_restart) = current.reloaded(&new);
        if self.options.global.verbose == 0 {
            output::set_log_level(merged.log);
        }
        if let Some(server) = self.server.upgrade() {
            server.set_limits(limits(&merged));
        }
        *current = merged;
        if !needs_restart.is_empty() {
            log::warn!(
                "configuration: a restart is needed to change {}",
                needs_restart.join(", ")
            );
        }
    }
}

/// Waits for signals: SIGTERM and SIGINT stop the engine, SIGHUP reloads. A second SIGTERM ends the process, which loses
/// one window at most.
struct SignalThread {
    handle: Handle,
    thread: JoinHandle<()>,
    seen: Arc<AtomicI32>,
}

fn cannot_watch(error: std::io::Error) -> Failure {
    Error::io("watch for", "signals", error).into()
}

impl SignalThread {
    fn start(
        mut signals: Signals,
        engine: &Arc<Engine>,
        notify: &Arc<Notify>,
        reloading: Reloading,
    ) -> Result<Self, Failure> {
        let handle = signals.handle();
        let seen = Arc::new(AtomicI32::new(0));
        let (engine, notify, noted) = (Arc::downgrade(engine), Arc::clone(notify), Arc::clone(&seen));
        let thread = threads::for_a(Role::Signals).spawn(move || {
            for signal in signals.forever() {
                if signal == SIGHUP {
                    notify.reloading();
                    reloading.reload();
                    notify.ready();
                    if let Some(engine) = engine.upgrade() {
                        engine.wake();
                    }
                    continue;
                }
                if noted.swap(signal, Ordering::SeqCst) != 0 {
                    std::process::exit(128 + signal);
                }
                notify.stopping();
                if let Some(engine) = engine.upgrade() {
                    engine.stop();
                }
            }
        });
        Ok(Self {
            handle,
            thread: thread.map_err(cannot_watch)?,
            seen,
        })
    }

    fn end(self) -> Option<i32> {
        self.handle.close();
        // A panic in it has been printed.
        let _ = self.thread.join();
        Some(self.seen.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }
}
