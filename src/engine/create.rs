//! Creation: everything is checked first, then everything is durable before the first id is given out.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use backhaul_journal::{FileKind, Lsn, Urgency};

use super::Engine;
use crate::address::{Address, HEADERS_MAX, parse_destination, parse_header};
use crate::config::Config;
use crate::environment::Environment;
use crate::error::Error;
use crate::operation::{
    Collision, Event, Kind, Operation, Priority, RequestHeader, Shared, Spec, TransferId, directory_of,
};
use crate::vault::Secrets;

/// A download to be created.
#[derive(Clone, Debug, Default)]
pub struct NewDownload {
    /// What to fetch. User info becomes a sealed credential.
    pub url: String,
    /// Where the file goes: a path with a file name, or a directory with a `/` at its end, which takes the file name
    /// from the URL.
    pub destination: PathBuf,
    /// Request headers, each as `Name: value`.
    pub headers: Vec<String>,
    /// Request headers whose values are sealed.
    pub secret_headers: Vec<String>,
    /// The SHA-256 that the content must have.
    pub sha256: Option<[u8; 32]>,
    /// The length that the content must have, in bytes.
    pub expected_bytes: Option<u64>,
    /// What happens where the destination exists.
    pub collision: Collision,
    /// Its rank among those that wait.
    pub priority: Priority,
    /// The application it belongs to.
    pub app: String,
    /// It stays idle until [`Engine::start`].
    pub hold: bool,
}

/// A download that passed all checks that need no engine, with the id it will have.
#[derive(Debug)]
pub struct CheckedDownload {
    id: TransferId,
    spec: Shared<Spec>,
    secrets: Secrets,
    hold: bool,
}

/// Checks downloads as far as it can be done without an engine: nothing is written, no lock is taken. `schemes` are
/// those that the backends serve.
///
/// # Errors
/// The position of the first one that is refused, and why: [`Error::Invalid`] naming the field,
/// [`Error::DestinationExists`], [`Error::LimitReached`].
pub fn check_downloads(
    downloads: &[NewDownload],
    config: &Config,
    environment: &Environment,
    schemes: &[&str],
) -> Result<Vec<CheckedDownload>, (usize, Error)> {
    let mut checked: Vec<CheckedDownload> = Vec::with_capacity(downloads.len());
    let mut checks = Checker {
        config,
        environment,
        schemes,
        directory: None,
    };
    for (index, download) in downloads.iter().enumerate() {
        checked.push(checks.check(download).map_err(|error| (index, error))?);
    }
    check_distinct(&checked)?;
    Ok(checked)
}

impl Engine {
    /// Creates downloads. All of them are checked first: where one is refused, none is created. They are durable on
    /// return.
    ///
    /// # Errors
    /// The position of the first one that is refused, and why: as [`check_downloads`] and [`Engine::accept`].
    pub fn create(&self, downloads: &[NewDownload]) -> Result<Vec<TransferId>, (usize, Error)> {
        let core = &self.core;
        self.accept(check_downloads(
            downloads,
            &core.config,
            &core.environment,
            &core.backends.schemes(),
        )?)
    }

    /// Creates downloads that were checked; all of them or none. They are durable on return.
    ///
    /// # Errors
    /// The position of the first one that is refused, and why: [`Error::Conflict`], [`Error::LimitReached`], or what
    /// vault or journal answered.
    pub fn accept(&self, checked: Vec<CheckedDownload>) -> Result<Vec<TransferId>, (usize, Error)> {
        self.check_limit(checked.len()).map_err(|error| (0, error))?;
        for (index, one) in checked.iter().enumerate() {
            self.check_exclusive(&one.spec).map_err(|error| (index, error))?;
        }
        for (index, one) in checked.iter().enumerate().filter(|(_, one)| one.spec.has_secrets) {
            self.core
                .vault
                .seal(one.id, &one.secrets)
                .map_err(|error| (index, error))?;
        }
        self.record_creation(&checked).map_err(|error| (0, error))?;
        Ok(checked.into_iter().map(|one| one.id).collect())
    }

    /// The live operation for the same URL and destination, if there is one.
    #[must_use]
    pub fn find_live(&self, checked: &CheckedDownload) -> Option<TransferId> {
        let state = self.core.state();
        let live = state.table.live_for_destination(&checked.spec.destination);
        let spec = &checked.spec;
        live.filter(|operation| operation.spec.url == spec.url && operation.spec.app == spec.app)
            .map(|operation| operation.id)
    }

    /// What a checked download wants otherwise than the operation that is there already. What was not asked for counts
    /// as the same.
    ///
    /// # Errors
    /// [`Error::UnknownId`].
    pub fn differences(&self, id: TransferId, checked: &CheckedDownload) -> Result<Vec<&'static str>, Error> {
        let operation = self.find(id)?;
        let (stored, asked) = (&operation.spec, &checked.spec);
        let pairs = [
            ("sha256", asked.sha256.is_some() && stored.sha256 != asked.sha256),
            (
                "size",
                asked.expected_bytes.is_some() && stored.expected_bytes != asked.expected_bytes,
            ),
            (
                "collision",
                asked.collision != Collision::default() && stored.collision != asked.collision,
            ),
            (
                "priority",
                asked.priority != Priority::default() && stored.priority != asked.priority,
            ),
            ("header", !asked.headers.is_empty() && stored.headers != asked.headers),
            (
                "secret-header",
                asked.has_secrets && self.core.vault.open(id).ok().as_ref() != Some(&checked.secrets),
            ),
        ];
        Ok(pairs
            .into_iter()
            .filter(|(_, differs)| *differs)
            .map(|(name, _)| name)
            .collect())
    }

    fn check_exclusive(&self, spec: &Spec) -> Result<(), Error> {
        let state = self.core.state();
        let conflict = |field, value: String, operation: &Operation| {
            Err(Error::Conflict {
                field,
                value,
                id: operation.id,
                status: operation.status(),
            })
        };
        if let Some(other) = state.table.live_for_destination(&spec.destination) {
            return conflict("destination", spec.destination.display().to_string(), other);
        }
        match state.table.live_for_url(&spec.app, &spec.url) {
            Some(other) => conflict("url", spec.url.clone(), other),
            None => Ok(()),
        }
    }

    fn check_limit(&self, more: usize) -> Result<(), Error> {
        let max = self.core.config.operations_max;
        if self.core.state().table.len().saturating_add(more) > max {
            return Err(Error::LimitReached {
                limit: "operations",
                max: max as u64,
            });
        }
        Ok(())
    }

    fn record_creation(&self, checked: &[CheckedDownload]) -> Result<(), Error> {
        let mut last: Option<Lsn> = None;
        let mut state = self.core.state();
        for one in checked {
            let created = Event::Created(one.spec.clone());
            last = Some(self.core.record_as(&mut state, one.id, created, Urgency::Normal)?);
            if !one.hold {
                last = Some(
                    self.core
                        .record_as(&mut state, one.id, Event::Started, Urgency::Normal)?,
                );
            }
        }
        drop(state);
        last.map_or(Ok(()), |last| self.core.sync(last))?;
        self.core.wake_all();
        Ok(())
    }
}

/// Checks one download after another; lists mostly name one directory, which is then looked at once.
struct Checker<'a> {
    config: &'a Config,
    environment: &'a Environment,
    schemes: &'a [&'a str],
    /// The last directory, as given and resolved, that can be written to.
    directory: Option<(PathBuf, PathBuf)>,
}

impl Checker<'_> {
    fn check(&mut self, download: &NewDownload) -> Result<CheckedDownload, Error> {
        let address = Address::parse(&download.url, self.schemes)?;
        let destination = self.destination(&download.destination, &address)?;
        check_free(self.environment, &destination, download.collision)?;
        let (headers, secret_headers) = check_headers(download)?;
        let secrets = Secrets::new(address.secret_url, address.credential, secret_headers);
        let spec = Spec {
            kind: Kind::Download,
            url: address.shown,
            destination,
            app: download.app.clone(),
            owner_uid: rustix::process::getuid().as_raw(),
            group: None,
            headers,
            has_secrets: !secrets.is_empty(),
            sha256: download.sha256,
            expected_bytes: download.expected_bytes,
            collision: download.collision,
            priority: download.priority,
        };
        let mut id = [0; 16];
        self.environment.random.fill(&mut id);
        Ok(CheckedDownload {
            id: TransferId(id),
            spec: Shared::new(spec),
            secrets,
            hold: download.hold,
        })
    }

    /// The absolute destination, with the symlinks of its directory resolved: one file has one name here.
    fn destination(&mut self, asked: &Path, address: &Address) -> Result<PathBuf, Error> {
        let is_directory = asked.as_os_str().as_encoded_bytes().ends_with(b"/");
        let asked = if is_directory {
            asked.join(address.file_name())
        } else {
            asked.to_path_buf()
        };
        let current = std::env::current_dir().map_err(|error| Error::io("find", "current directory", error))?;
        let path = parse_destination(&asked, &current)?;
        let resolved = self.directory(&path)?.join(path.file_name().unwrap_or_default());
        let roots = &self.config.roots;
        if !roots.is_empty() && !roots.iter().any(|root| resolved.starts_with(root)) {
            let roots: Vec<String> = roots.iter().map(|root| root.display().to_string()).collect();
            return Err(refused(
                &path,
                format!("is outside of the allowed directories: {}", roots.join(", ")),
            ));
        }
        Ok(resolved)
    }

    /// The directory of a destination, resolved, and writable.
    fn directory(&mut self, path: &Path) -> Result<PathBuf, Error> {
        let directory = directory_of(path);
        if let Some((_, resolved)) = self.directory.as_ref().filter(|(given, _)| given == directory) {
            return Ok(resolved.clone());
        }
        let storage = &self.environment.storage;
        let shown = directory.display();
        let resolved = storage.resolve(directory).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => refused(path, format!("its directory '{shown}' does not exist; make it first")),
            io::ErrorKind::NotADirectory => refused(path, format!("'{shown}' is no directory")),
            _ => refused(path, format!("its directory cannot be looked at: {error}")),
        })?;
        let writable = storage.check_writable(&resolved);
        writable.map_err(|error| refused(path, format!("its directory cannot be written to: {error}")))?;
        self.directory = Some((directory.to_path_buf(), resolved.clone()));
        Ok(resolved)
    }
}

fn refused(path: &Path, problem: impl Into<String>) -> Error {
    Error::invalid("destination", path.display().to_string(), problem)
}

/// Nothing stands under the destination that must not be replaced.
fn check_free(environment: &Environment, path: &Path, collision: Collision) -> Result<(), Error> {
    let kind = match environment.storage.stat(path) {
        Ok(stat) => stat.kind,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused(path, format!("cannot be looked at: {error}"))),
    };
    match kind {
        FileKind::Directory => Err(refused(path, "is a directory; give a file name, or end it with '/'")),
        FileKind::Symlink => Err(refused(path, "is a symlink; give the file it points to")),
        FileKind::Other => Err(refused(path, "is no regular file")),
        FileKind::File if collision == Collision::Fail => Err(Error::DestinationExists(path.to_path_buf())),
        FileKind::File => Ok(()),
    }
}

/// Within one call, too, each destination and each URL of an app may appear only once.
fn check_distinct(checked: &[CheckedDownload]) -> Result<(), (usize, Error)> {
    let (mut destinations, mut urls) = (HashSet::new(), HashSet::new());
    for (index, spec) in checked.iter().map(|one| &*one.spec).enumerate() {
        let problem = "appears twice; one operation at a time has it";
        if !destinations.insert(&spec.destination) {
            let shown = spec.destination.display().to_string();
            return Err((index, Error::invalid("destination", shown, problem)));
        }
        if !urls.insert((&spec.app, &spec.url)) {
            return Err((index, Error::invalid("url", &*spec.url, problem)));
        }
    }
    Ok(())
}

/// Plain headers and secret ones.
fn check_headers(download: &NewDownload) -> Result<(Vec<RequestHeader>, Vec<RequestHeader>), Error> {
    if download.headers.len() + download.secret_headers.len() > HEADERS_MAX {
        return Err(Error::LimitReached {
            limit: "headers of one operation",
            max: HEADERS_MAX as u64,
        });
    }
    let (mut plain, mut secret) = (Vec::new(), Vec::new());
    for text in &download.headers {
        let (header, is_secret) = parse_header("header", text)?;
        if is_secret {
            secret.push(header);
        } else {
            plain.push(header);
        }
    }
    for text in &download.secret_headers {
        secret.push(parse_header("secret-header", text)?.0);
    }
    Ok((plain, secret))
}
