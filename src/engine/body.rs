//! What a request sends along: checked when an operation is created, and read anew for each time it is sent.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use backhaul_backends::{BodySource, Method};
use backhaul_journal::{Access, FileKind, Stat, Storage, StorageFile};

use super::spool::{SpooledBody, spooled_path};
use crate::environment::Environment;
use crate::error::Error;
use crate::operation::{StoredBody, directory_of};

/// What is sent along with a request, again in each attempt.
///
/// Source: `BackgroundDownloader.CreateDownload` with a body file, and `CreateDownloadAsync` with a body stream.
#[derive(Clone)]
#[non_exhaustive]
pub enum Body {
    /// The content of a regular file, which has to stay as it is until the operation has ended: where its length, its time
    /// of modification or the file itself is another one, the operation ends in an error.
    File(PathBuf),
    /// A copy that [`super::Engine::spool`] took.
    Spooled(SpooledBody),
}

impl fmt::Debug for Body {
    /// A path, or a number of bytes: the content may be secret.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => formatter.debug_tuple("File").field(path).finish(),
            Self::Spooled(spooled) => formatter.debug_tuple("Spooled").field(spooled).finish(),
        }
    }
}

/// Checks what is to be sent, and says what to store of it.
pub(super) fn check_body(
    environment: &Environment,
    method: &Method,
    body: Option<&Body>,
) -> Result<Option<Box<StoredBody>>, Error> {
    let Some(body) = body else { return Ok(None) };
    check_takes_body(method, || match body {
        Body::File(path) => path.display().to_string(),
        Body::Spooled(spooled) => format!("{} bytes", spooled.len_bytes()),
    })?;
    let stored = match body {
        Body::File(path) => check_file(environment, path)?,
        Body::Spooled(spooled) => spooled.stored()?,
    };
    Ok(Some(Box::new(stored)))
}

/// Checks that a method may have a body, which is told of as `shown`.
pub(crate) fn check_takes_body(method: &Method, shown: impl FnOnce() -> String) -> Result<(), Error> {
    if method.is_get() {
        let problem = "GET takes no body; give the method that it is for, like POST";
        return Err(Error::invalid("body", shown(), problem));
    }
    Ok(())
}

fn check_file(environment: &Environment, asked: &Path) -> Result<StoredBody, Error> {
    let refused = |problem: String| Error::invalid("body", asked.display().to_string(), problem);
    let storage = &environment.storage;
    let current = std::env::current_dir().map_err(|error| Error::io("find", "current directory", error))?;
    let absolute = current.join(asked);
    let name = absolute.file_name().filter(|_| !asked.as_os_str().is_empty());
    let name = name.ok_or_else(|| refused("is no file name".into()))?;
    let directory = storage.resolve(directory_of(&absolute));
    let directory = directory.map_err(|error| refused(format!("its directory cannot be looked at: {error}")))?;
    let path = directory.join(name);
    let stat = storage.stat(&path);
    let stat = stat.map_err(|error| refused(format!("cannot be looked at: {error}")))?;
    match stat.kind {
        FileKind::File => {}
        FileKind::Directory => return Err(refused("is a directory; give a file".into())),
        FileKind::Symlink => return Err(refused("is a symlink; give the file it points to".into())),
        FileKind::Other => {
            return Err(refused(
                "is no regular file; with '-' its content is read at once".into(),
            ));
        }
    }
    let opened = storage.open(&path, Access::Read).and_then(|file| file.stat());
    let stat = opened.map_err(|error| refused(format!("cannot be read: {error}")))?;
    Ok(StoredBody::File {
        path,
        len_bytes: stat.len_bytes,
        modified_ns: modified_ns(&stat),
        inode: stat.inode,
        boot_id: environment.clock.now().boot_id,
    })
}

fn modified_ns(stat: &Stat) -> u64 {
    let since = stat.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A body as an operation has it.
pub(super) struct StoredSource {
    storage: Arc<dyn Storage>,
    body: StoredBody,
    path: PathBuf,
    boot_id: [u8; 16],
}

impl StoredSource {
    /// `spool` is the directory of spooled bodies.
    pub(super) fn new(environment: &Environment, spool: &Path, body: &StoredBody) -> Self {
        let path = match body {
            StoredBody::File { path, .. } => path.clone(),
            StoredBody::Spooled { id, .. } => spooled_path(spool, *id),
        };
        Self {
            storage: Arc::clone(&environment.storage),
            body: body.clone(),
            path,
            boot_id: environment.clock.now().boot_id,
        }
    }

    /// Refuses another file than the one that the operation was created with.
    fn check(&self, stat: &Stat) -> io::Result<()> {
        let is_same = stat.len_bytes == self.body.len_bytes()
            && match &self.body {
                StoredBody::File {
                    modified_ns: modified,
                    inode,
                    boot_id,
                    ..
                } => modified_ns(stat) == *modified && (stat.inode == *inode || *boot_id != self.boot_id),
                StoredBody::Spooled { .. } => true,
            };
        if is_same { Ok(()) } else { Err(self.changed()) }
    }

    fn changed(&self) -> io::Error {
        let text = match &self.body {
            StoredBody::File { .. } => format!(
                "'{}' is not as it was when the operation was created; create it anew",
                self.path.display()
            ),
            StoredBody::Spooled { .. } => format!("'{}' is damaged; create the operation anew", self.path.display()),
        };
        io::Error::new(io::ErrorKind::InvalidData, text)
    }

    fn named(&self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("'{}': {error}", self.path.display()))
    }
}

impl BodySource for StoredSource {
    fn len_bytes(&self) -> u64 {
        self.body.len_bytes()
    }

    fn open(&self) -> io::Result<Box<dyn Read + '_>> {
        let opened = self.storage.open(&self.path, Access::Read);
        let file = opened.map_err(|error| self.named(&error))?;
        self.check(&file.stat().map_err(|error| self.named(&error))?)?;
        Ok(Box::new(StoredReader {
            source: self,
            file,
            offset_bytes: 0,
            crc: crc32fast::Hasher::new(),
        }))
    }
}

struct StoredReader<'a> {
    source: &'a StoredSource,
    file: Box<dyn StorageFile>,
    offset_bytes: u64,
    crc: crc32fast::Hasher,
}

impl StoredReader<'_> {
    /// Before the last bytes go out, they and all before them have to be those that were there at the beginning.
    fn check_end(&self) -> io::Result<()> {
        let source = self.source;
        source.check(&self.file.stat().map_err(|error| source.named(&error))?)?;
        match &source.body {
            StoredBody::Spooled { crc32, .. } if self.crc.clone().finalize() != *crc32 => Err(source.changed()),
            _ => Ok(()),
        }
    }
}

impl Read for StoredReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset_bytes);
        let amount = read.map_err(|error| self.source.named(&error))?;
        self.crc.update(&buffer[..amount]);
        self.offset_bytes += amount as u64;
        // Its length was the right one when it was opened.
        if amount == 0 && self.offset_bytes < self.source.len_bytes() {
            return Err(self.source.changed());
        }
        if amount > 0 && self.offset_bytes >= self.source.len_bytes() {
            self.check_end()?;
        }
        Ok(amount)
    }
}
