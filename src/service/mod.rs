//! The service: an engine in this process, or in another one behind a local socket. Both are spoken to with the same
//! calls (`methods`), which travel as messages of the Varlink protocol where there is a socket between.

mod builder;
mod client;
mod creating;
mod download;
mod embedded;
mod fault;
mod message;
mod methods;
mod monitor;
#[expect(dead_code, reason = "the daemon, which is to come, is its one user")]
pub(crate) mod notify;
pub(crate) mod server;
mod serving;
pub(crate) mod socket;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::client::Client;
use self::embedded::Embedded;
use self::fault::Refused;
use self::methods::{
    Acknowledge, Attend, Cancel, Describe, ForgetApp, List, Method, Pause, Remove, Resume, Set, Show, Start,
};
use self::monitor::{FROM_NOW, IDS_MAX, Monitoring, Selection, UPDATE_MAX, Waited, Waiting};
use crate::config::Config;
use crate::engine::{Changes, Description, Engine, Filter, Holder, OperationView, SpooledBody, holder};
use crate::error::Error;
use crate::operation::TransferId;

pub use self::builder::ServiceBuilder;
pub(crate) use self::creating::parts_of;
pub(crate) use self::methods::reading::{READ_BYTES_MAX, Reading};
pub(crate) use self::monitor::Stand;
pub use self::monitor::{Monitor, Update};
#[cfg(feature = "fuzzing")]
pub(crate) use self::server::heard;
pub use self::serving::Serving;

/// Operations of one listing that come with one call.
const PAGE: usize = 256;

/// An engine, in this process or in another one. The same calls do the same with both; clones are the same service.
#[derive(Clone)]
pub struct Service {
    link: Link,
    /// Whose operations are created and listed.
    app: Arc<str>,
}

#[derive(Clone)]
enum Link {
    Embedded(Arc<Embedded>),
    Remote(Client),
}

impl std::fmt::Debug for Service {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.link {
            Link::Embedded(_) => "embedded",
            Link::Remote(_) => "remote",
        };
        formatter
            .debug_struct("Service")
            .field("link", &kind)
            .field("app", &self.app)
            .finish()
    }
}

impl Service {
    /// Opens a state directory in this process, with the default settings, and works on it until the last clone is dropped, and
    /// whatever it has given: operations, and [what serves it](Service::serve). A monitor ends then.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_with(directory, Config::default())
    }

    /// The same with other settings.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open_with(directory: impl AsRef<Path>, config: Config) -> Result<Self, Error> {
        Self::builder()
            .state_directory(directory.as_ref())
            .config(config)
            .open()
    }

    /// Opens a state directory in this process with what the builder is told, backends of one's own among it.
    pub fn builder() -> ServiceBuilder {
        ServiceBuilder::default()
    }

    /// Connects to the engine of another process by its socket.
    ///
    /// # Errors
    /// [`Error::Io`] where nobody listens there.
    pub fn connect(socket: impl AsRef<Path>) -> Result<Self, Error> {
        Client::connect(socket.as_ref()).map(|client| Self::new(Link::Remote(client)))
    }

    /// The same engine over another connection, where it is in another process.
    fn connect_again(&self) -> Result<Self, Error> {
        let link = match &self.link {
            Link::Embedded(embedded) => Link::Embedded(Arc::clone(embedded)),
            Link::Remote(client) => Link::Remote(client.connect_again()?),
        };
        let app = Arc::clone(&self.app);
        Ok(Self { link, app })
    }

    /// Connects to the engine that works on a state directory, wherever its socket is; `None` where none does, or where it
    /// has no socket. One that has ended, for which a service manager listens, is started by that.
    ///
    /// # Errors
    /// What the socket answers.
    pub fn find(directory: impl AsRef<Path>) -> Result<Option<Self>, Error> {
        match Self::look_for(directory.as_ref(), None) {
            // It has gone since.
            Err(Error::Disconnected(_)) => Ok(None),
            result => result,
        }
    }

    /// As [`Self::find`], but an engine that closes the connection at once is an error, which says why, and none is started.
    pub(crate) fn working_on(directory: &Path) -> Result<Option<Self>, Error> {
        Self::held_by(&holder(directory), directory)
    }

    fn held_by(holder: &Holder, directory: &Path) -> Result<Option<Self>, Error> {
        let socket = holder.socket.as_deref().filter(|_| holder.works);
        socket.map_or(Ok(None), |socket| {
            Self::on_directory(directory, Client::connect(socket).map(Some))
        })
    }

    /// As [`Self::working_on`], or else one that a service manager starts: it listens where the last engine has said that it
    /// does, or in the `usual` place.
    pub(crate) fn look_for(directory: &Path, usual: Option<&Path>) -> Result<Option<Self>, Error> {
        let holder = holder(directory);
        if holder.works {
            return Self::held_by(&holder, directory);
        }
        for socket in holder.socket.as_deref().into_iter().chain(usual) {
            if !socket::is_there(socket) {
                continue;
            }
            // Anybody could listen where the socket of an engine is gone.
            match Self::on_directory(directory, Client::connect_trusted(socket)) {
                // It was started, and does not work.
                Err(error @ Error::Disconnected(_)) => return Err(error),
                Ok(Some(service)) => return Ok(Some(service)),
                // What listens there is something else.
                Ok(None) | Err(_) => {}
            }
        }
        Ok(None)
    }

    /// The engine that answers, where one does, and it is that of a state directory.
    fn on_directory(directory: &Path, connected: Result<Option<Client>, Error>) -> Result<Option<Self>, Error> {
        let client = match connected {
            Err(Error::Io(..)) => return Ok(None),
            result => result?,
        };
        let meant = client.filter(|client| client.works_on(directory));
        Ok(meant.map(|client| Self::new(Link::Remote(client))))
    }

    /// A service on an engine that this process runs already.
    pub(crate) fn on(engine: &Arc<Engine>) -> Self {
        Self::new(Link::Embedded(Arc::new(Embedded::on(engine))))
    }

    /// Lets other processes speak to the engine of this one, until what is returned is dropped: on a socket at this path,
    /// which only root and the user of this process can use. [`Service::find`] finds it by the state directory.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `socket`: the path is too long or taken, or the engine is in another process.
    pub fn serve(&self, socket: impl AsRef<Path>) -> Result<Serving, Error> {
        let socket = socket.as_ref();
        match &self.link {
            Link::Embedded(embedded) => Serving::start(embedded, socket),
            Link::Remote(_) => {
                let problem = "cannot be served from here: the engine is in another process";
                Err(Error::invalid("socket", socket.display().to_string(), problem))
            }
        }
    }

    fn new(link: Link) -> Self {
        Self {
            link,
            app: Arc::from(default_app()),
        }
    }

    /// The same service for another app: what it creates and lists belongs to that. By default it is the file name of the
    /// executable, which an empty one stands for, too.
    #[must_use]
    pub fn with_app(mut self, app: &str) -> Self {
        self.app = if app.is_empty() {
            Arc::from(default_app())
        } else {
            Arc::from(app)
        };
        self
    }

    /// Whose operations are created and listed.
    #[must_use]
    pub fn app(&self) -> &str {
        &self.app
    }

    /// The engine is in another process.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        matches!(self.link, Link::Remote(_))
    }

    pub(crate) fn call<M: Method>(&self, method: M) -> Result<M::Reply, Refused> {
        match &self.link {
            Link::Embedded(embedded) => method.perform(&embedded.engine),
            Link::Remote(client) => client.call(&method),
        }
    }

    /// Copies a request body, for [`crate::Body::Spooled`]; see [`Engine::spool`].
    ///
    /// # Errors
    /// As there.
    pub fn spool(&self, reader: &mut dyn std::io::Read, len_max: u64) -> Result<SpooledBody, Error> {
        match &self.link {
            Link::Embedded(embedded) => embedded.engine.spool(reader, len_max),
            Link::Remote(_) => self.spool_there(reader, len_max),
        }
    }

    /// Starts operations that were created on hold.
    ///
    /// # Errors
    /// As [`Engine::start`]. An unknown id refuses all; those before one that its state refuses are started.
    pub fn start(&self, ids: &[TransferId]) -> Result<(), Error> {
        self.on_each(ids, |ids| Start { ids })
    }

    /// Asks operations to stand still; their attempts end in under a second each. [`Service::wait_until_still`] waits for
    /// that.
    ///
    /// # Errors
    /// As [`Engine::pause`] and [`Service::start`].
    pub fn pause(&self, ids: &[TransferId]) -> Result<(), Error> {
        self.on_each(ids, |ids| Pause { ids })
    }

    /// Lets paused operations go on.
    ///
    /// # Errors
    /// As [`Engine::resume`] and [`Service::start`].
    pub fn resume(&self, ids: &[TransferId]) -> Result<(), Error> {
        self.on_each(ids, |ids| Resume { ids })
    }

    /// Cancels operations and removes their part files.
    ///
    /// # Errors
    /// As [`Engine::cancel`] and [`Service::start`].
    pub fn cancel(&self, ids: &[TransferId]) -> Result<(), Error> {
        self.on_each(ids, |ids| Cancel { ids })
    }

    /// Removes the records of operations that have ended.
    ///
    /// # Errors
    /// As [`Engine::remove`] and [`Service::start`].
    pub fn remove(&self, ids: &[TransferId]) -> Result<(), Error> {
        self.on_each(ids, |ids| Remove { ids })
    }

    /// Acknowledges ends, so that the history may drop them.
    ///
    /// # Errors
    /// As [`Engine::acknowledge`].
    pub fn acknowledge(&self, ids: &[TransferId]) -> Result<(), Error> {
        self.on_each(ids, |ids| Acknowledge { ids })
    }

    /// Changes an operation that does not run.
    ///
    /// # Errors
    /// As [`Engine::set`].
    pub fn set(&self, id: TransferId, changes: &Changes) -> Result<(), Error> {
        let changes = changes.into();
        self.done(Set { id, changes })
    }

    /// An engine that works on chosen operations only, like that of a `get`, works on these, too, from now on.
    pub(crate) fn attend(&self, ids: &[TransferId]) -> Result<(), Error> {
        self.on_each(ids, |ids| Attend { ids })
    }

    /// Cleans up after an app, as when it is uninstalled: cancels its operations, removes their part files, records and
    /// secrets, and its groups. Files that are complete stay. Gives how many operations are gone.
    ///
    /// # Errors
    /// [`Error::NotNow`] where an attempt did not end in time; what is gone is gone, and the rest goes with the next call.
    pub fn forget_app(&self, app: &str) -> Result<u64, Error> {
        let app = app.to_owned();
        Ok(self.call(ForgetApp { app })?.operations)
    }

    /// What the engine is, and on what it works.
    ///
    /// # Errors
    /// [`Error::Io`] where its state directory cannot be looked at.
    pub fn describe(&self) -> Result<Description, Error> {
        Ok(self.call(Describe {})?)
    }

    /// Whether it works on this state directory.
    pub(crate) fn works_on(&self, directory: &Path) -> bool {
        match &self.link {
            Link::Embedded(_) => true,
            Link::Remote(client) => client.works_on(directory),
        }
    }

    /// A list of ids that is longer than a message may be goes in parts, one after the other.
    fn on_each<M: Method>(&self, ids: &[TransferId], method: impl Fn(Vec<TransferId>) -> M) -> Result<(), Error> {
        let (first, more) = ids.split_at(ids.len().min(IDS_MAX));
        self.done(method(first.into()))?;
        more.chunks(IDS_MAX).try_for_each(|ids| self.done(method(ids.into())))
    }

    fn done<M: Method>(&self, method: M) -> Result<(), Error> {
        self.call(method).map(|_| ()).map_err(Error::from)
    }

    /// One operation.
    ///
    /// # Errors
    /// [`Error::UnknownId`].
    pub fn view(&self, id: TransferId) -> Result<OperationView, Error> {
        Ok(self.call(Show { id })?.operation)
    }

    /// Operations in the order of their creation, a part at a time.
    #[must_use]
    pub fn list(&self, filter: &Filter) -> Listing {
        Listing {
            service: self.clone(),
            selection: filter.into(),
            page: Vec::new().into_iter(),
            after: None,
            is_over: false,
        }
    }

    /// Waits until all of these operations have ended, or until the time is over; gives them as they are then. In another
    /// process more than 256 are waited for in parts, one after the other.
    ///
    /// # Errors
    /// [`Error::UnknownId`]; [`Error::Disconnected`] where the engine stops.
    pub fn wait(&self, ids: &[TransferId], time: Option<Duration>) -> Result<Vec<OperationView>, Error> {
        self.wait_for(ids, Stand::Ended, time).map(|waited| waited.operations)
    }

    /// Waits until none of these operations runs, whatever else it does.
    ///
    /// # Errors
    /// As [`Service::wait`].
    pub fn wait_until_still(&self, ids: &[TransferId], time: Option<Duration>) -> Result<Vec<OperationView>, Error> {
        self.wait_for(ids, Stand::Still, time).map(|waited| waited.operations)
    }

    pub(crate) fn wait_for(&self, ids: &[TransferId], until: Stand, time: Option<Duration>) -> Result<Waited, Error> {
        match &self.link {
            Link::Embedded(embedded) => embedded.wait(ids, until, time),
            Link::Remote(client) => wait_there(client, ids, until, time),
        }
    }

    /// Looks on: first all operations of the filter, or those that have changed since `cursor`, then whatever changes.
    ///
    /// # Errors
    /// [`Error::LimitReached`] where too many look on already.
    pub fn monitor(&self, filter: &Filter, cursor: Option<u64>) -> Result<Monitor, Error> {
        self.monitor_with(Monitoring {
            selection: filter.into(),
            cursor,
            ..Monitoring::default()
        })
    }

    /// Looks on at these operations only.
    ///
    /// # Errors
    /// As [`Service::monitor`].
    pub fn monitor_ids(&self, ids: &[TransferId], cursor: Option<u64>) -> Result<Monitor, Error> {
        self.monitor_with(Monitoring {
            selection: Selection {
                all_apps: true,
                ..Selection::default()
            },
            ids: Some(ids.iter().copied().collect()),
            cursor,
            progress_ms: None,
        })
    }

    /// Looks on at one operation, at what changes from now on. An update without it may say that too much has changed to be
    /// told: whoever gets one looks for himself.
    pub(crate) fn monitor_from_now(&self, id: TransferId) -> Result<Monitor, Error> {
        self.monitor_ids(&[id], Some(FROM_NOW))
    }

    pub(crate) fn monitor_with(&self, monitoring: Monitoring) -> Result<Monitor, Error> {
        match &self.link {
            Link::Embedded(embedded) => Monitor::embedded(&embedded.engine, monitoring),
            Link::Remote(client) => Monitor::remote(client.another()?, &monitoring),
        }
    }
}

/// Operations of a service in the order of their creation; asks for the next part as it is needed.
#[derive(Debug)]
pub struct Listing {
    service: Service,
    selection: Selection,
    page: std::vec::IntoIter<OperationView>,
    after: Option<u64>,
    is_over: bool,
}

impl Iterator for Listing {
    type Item = Result<OperationView, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(view) = self.page.next() {
                return Some(Ok(view));
            }
            if self.is_over {
                return None;
            }
            let part = self.service.call(List {
                selection: self.selection.clone(),
                after: self.after,
                max: Some(PAGE),
            });
            match part {
                Ok(part) => {
                    self.is_over = part.next.is_none();
                    self.after = part.next;
                    self.page = part.operations.into_iter();
                }
                Err(refused) => {
                    self.is_over = true;
                    return Some(Err(refused.error));
                }
            }
        }
    }
}

/// Waits in another process: for as many operations as one call may name, then for the others.
fn wait_there(client: &Client, ids: &[TransferId], until: Stand, time: Option<Duration>) -> Result<Waited, Error> {
    let end = time.and_then(|time| Instant::now().checked_add(time));
    let mut connection = client.another()?;
    let mut ask = |ids: &[TransferId], time: Option<Duration>| {
        let waiting = Waiting {
            ids: ids.to_vec(),
            until: Some(until),
            timeout_ms: time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        };
        connection.send("Wait", &waiting, false)?;
        Ok::<Waited, Error>(connection.receive(None)?.0)
    };
    if ids.len() <= UPDATE_MAX {
        return ask(ids, time);
    }
    // All are looked at before any is waited for: an id that is unknown is told at once.
    let parts = ids.chunks(UPDATE_MAX);
    let looked = parts.clone().map(|part| ask(part, Some(Duration::ZERO)));
    let mut parts_waited = looked.collect::<Result<Vec<Waited>, Error>>()?;
    for (part, waited) in parts.zip(&mut parts_waited).filter(|(_, waited)| waited.timed_out) {
        *waited = ask(part, left(end))?;
    }
    Ok(Waited {
        timed_out: parts_waited.iter().any(|waited| waited.timed_out),
        operations: parts_waited.into_iter().flat_map(|waited| waited.operations).collect(),
    })
}

/// The file name of the executable, and without `/proc` of the word that called it.
fn default_app() -> String {
    let executable = std::env::current_exe().ok();
    let executable = executable.or_else(|| std::env::args_os().next().map(PathBuf::from));
    let name = executable.as_deref().and_then(app_of);
    name.unwrap_or_else(|| "backhaul".to_owned())
}

/// The app that an executable at this path is. The kernel marks one that was replaced or removed since it was started.
///
/// Source: `proc_pid_exe(5)`.
fn app_of(executable: &Path) -> Option<String> {
    let name = executable.file_name()?.to_string_lossy();
    let unmarked = name.strip_suffix(" (deleted)").filter(|name| !name.is_empty());
    // It may be called so.
    let unmarked = unmarked.filter(|_| !executable.exists());
    Some(unmarked.unwrap_or(&name).to_owned())
}

/// What is left of a time.
pub(crate) fn left(end: Option<Instant>) -> Option<Duration> {
    end.map(|end| end.saturating_duration_since(Instant::now()))
}
