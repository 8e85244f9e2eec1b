//! Creation: everything is checked first, then everything is durable before the first id is given out.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use backhaul_journal::{FileKind, Lsn, Urgency};

use super::Engine;
use crate::address::{Address, HEADERS_MAX, parse_destination, parse_header};
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

/// A download that passed all checks.
struct Checked {
    id: TransferId,
    spec: Shared<Spec>,
    secrets: Secrets,
    hold: bool,
}

impl Engine {
    /// Creates downloads. All of them are checked first: where one is refused, none is created. They are durable on
    /// return.
    ///
    /// # Errors
    /// The position of the first one that is refused, and why: [`Error::Invalid`] naming the field,
    /// [`Error::Conflict`], [`Error::DestinationExists`], [`Error::LimitReached`].
    pub fn create(&self, downloads: &[NewDownload]) -> Result<Vec<TransferId>, (usize, Error)> {
        let mut checked: Vec<Checked> = Vec::with_capacity(downloads.len());
        for (index, download) in downloads.iter().enumerate() {
            checked.push(self.check(download).map_err(|error| (index, error))?);
        }
        check_distinct(&checked)?;
        self.check_limit(checked.len()).map_err(|error| (0, error))?;
        for (index, one) in checked.iter().enumerate().filter(|(_, one)| one.spec.has_secrets) {
            self.core
                .vault
                .seal(one.id, &one.secrets)
                .map_err(|error| (index, error))?;
        }
        self.accept(&checked).map_err(|error| (0, error))?;
        Ok(checked.into_iter().map(|one| one.id).collect())
    }

    /// The live operation for a URL and a destination, if it is one and the same.
    ///
    /// # Errors
    /// [`Error::Invalid`] as for [`Engine::create`].
    pub fn find_live(&self, download: &NewDownload) -> Result<Option<TransferId>, Error> {
        let address = Address::parse(&download.url, &self.core.backends.schemes())?;
        let destination = self.destination(&download.destination, &address)?;
        let state = self.core.state();
        let live = state.table.live_for_destination(&destination);
        let same = live.filter(|operation| operation.spec.url == address.shown && operation.spec.app == download.app);
        Ok(same.map(|operation| operation.id))
    }

    /// What a request for a download wants otherwise than the operation that is there already.
    ///
    /// # Errors
    /// [`Error::UnknownId`].
    pub fn differences(&self, id: TransferId, download: &NewDownload) -> Result<Vec<&'static str>, Error> {
        let operation = self.find(id)?;
        let spec = &operation.spec;
        let headers = check_headers(download).map(|(plain, _)| plain)?;
        let mut differences = Vec::new();
        let mut compare = |name, given: bool, same: bool| {
            if given && !same {
                differences.push(name);
            }
        };
        compare("sha256", download.sha256.is_some(), spec.sha256 == download.sha256);
        compare(
            "collision",
            download.collision != Collision::default(),
            spec.collision == download.collision,
        );
        compare(
            "priority",
            download.priority != Priority::default(),
            spec.priority == download.priority,
        );
        compare("header", !headers.is_empty(), spec.headers == headers);
        Ok(differences)
    }

    fn check(&self, download: &NewDownload) -> Result<Checked, Error> {
        let address = Address::parse(&download.url, &self.core.backends.schemes())?;
        let destination = self.destination(&download.destination, &address)?;
        self.check_destination(&destination, download.collision)?;
        let (headers, secret_headers) = check_headers(download)?;
        self.check_exclusive(&download.app, &address.shown, &destination)?;
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
        self.core.environment.random.fill(&mut id);
        Ok(Checked {
            id: TransferId(id),
            spec: Shared::new(spec),
            secrets,
            hold: download.hold,
        })
    }

    /// The absolute destination, with the symlinks of its directory resolved: one file has one name here.
    fn destination(&self, asked: &Path, address: &Address) -> Result<PathBuf, Error> {
        let is_directory = asked.as_os_str().as_encoded_bytes().ends_with(b"/");
        let asked = if is_directory {
            asked.join(address.file_name())
        } else {
            asked.to_path_buf()
        };
        let current = std::env::current_dir().map_err(|error| Error::io("find", "current directory", error))?;
        let path = parse_destination(&asked, &current)?;
        let refuse = |problem: String| Error::invalid("destination", path.display().to_string(), problem);
        let directory = directory_of(&path);
        let resolved = self
            .core
            .environment
            .storage
            .resolve(directory)
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => refuse(format!(
                    "its directory '{}' does not exist; make it first",
                    directory.display()
                )),
                std::io::ErrorKind::NotADirectory => refuse(format!("'{}' is no directory", directory.display())),
                _ => refuse(format!("its directory cannot be looked at: {error}")),
            })?;
        let resolved = resolved.join(path.file_name().unwrap_or_default());
        let roots = &self.core.config.roots;
        if !roots.is_empty() && !roots.iter().any(|root| resolved.starts_with(root)) {
            let roots: Vec<String> = roots.iter().map(|root| root.display().to_string()).collect();
            return Err(refuse(format!(
                "is outside of the allowed directories: {}",
                roots.join(", ")
            )));
        }
        Ok(resolved)
    }

    fn check_destination(&self, path: &Path, collision: Collision) -> Result<(), Error> {
        let refuse = |problem: String| Err(Error::invalid("destination", path.display().to_string(), problem));
        let storage = &self.core.environment.storage;
        match storage.stat(path).map(|stat| stat.kind) {
            Ok(FileKind::Directory) => return refuse("is a directory; give a file name, or end it with '/'".into()),
            Ok(FileKind::Symlink) => return refuse("is a symlink; give the file it points to".into()),
            Ok(FileKind::Other) => return refuse("is no regular file".into()),
            Ok(_) if collision == Collision::Fail => return Err(Error::DestinationExists(path.to_path_buf())),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return refuse(format!("cannot be looked at: {error}")),
        }
        match storage.check_writable(directory_of(path)) {
            Ok(()) => Ok(()),
            Err(error) => refuse(format!("its directory cannot be written to: {error}")),
        }
    }

    fn check_exclusive(&self, app: &str, url: &str, destination: &Path) -> Result<(), Error> {
        let state = self.core.state();
        let conflict = |field, value: String, operation: &Operation| {
            Err(Error::Conflict {
                field,
                value,
                id: operation.id,
                status: operation.status(),
            })
        };
        if let Some(other) = state.table.live_for_destination(destination) {
            return conflict("destination", destination.display().to_string(), other);
        }
        match state.table.live_for_url(app, url) {
            Some(other) => conflict("url", url.into(), other),
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

    fn accept(&self, checked: &[Checked]) -> Result<(), Error> {
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

/// Within one call, too, each destination and each URL of an app may appear only once.
fn check_distinct(checked: &[Checked]) -> Result<(), (usize, Error)> {
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
