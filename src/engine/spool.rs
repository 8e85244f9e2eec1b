//! Bodies that came as a stream: copied into the state directory before the operation is accepted, gone once it has ended.
//!
//! A copy is durable, with its name, before anybody can refer to it. From then on it belongs to whoever holds the
//! [`SpooledBody`], and once an operation was created with it, to that operation. What belongs to nobody is swept at the start.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backhaul_journal::{Storage, StorageFile, steps};

use super::Engine;
use super::core::Core;
use super::create::CheckedDownload;
use super::scratch::Trouble;
use crate::config::Layout;
use crate::error::Error;
use crate::operation::{Phase, Spec, SpoolId, StoredBody, TransferId};
use crate::table::Table;
use crate::vault::make_directory;

/// Bytes that are copied at once.
const PIECE_BYTES: usize = 64 * 1024;
/// The room on the disk is looked at before every so many bytes.
const LOOK_EVERY_BYTES: u64 = 1 << 20;
/// Room that a copy leaves for the journal: as much as a list of downloads leaves it, rounded up.
const ROOM_BYTES: u64 = 1 << 20;
/// How the names of copies end.
const SUFFIX: &str = ".body";

/// A request body that [`Engine::spool`] took in; durable. For one operation: clones are the same body. Where none was
/// created with it, its file goes with the last clone. The engine of another process keeps it for 10 min, and for one
/// creation, also where that is refused.
#[derive(Clone)]
pub struct SpooledBody(Held);

#[derive(Clone)]
enum Held {
    /// By an engine of this process.
    Here(Arc<Copy>),
    /// By the engine of another one, under this id.
    There { id: String, len_bytes: u64 },
}

pub(super) struct Copy {
    storage: Arc<dyn Storage>,
    directory: PathBuf,
    id: SpoolId,
    len_bytes: u64,
    crc32: u32,
    /// It belongs to an operation.
    is_taken: AtomicBool,
}

impl Drop for Copy {
    fn drop(&mut self) {
        if !self.is_taken.load(Ordering::Relaxed) {
            // What stays is swept at the next start.
            let _ = self.storage.remove(&spooled_path(&self.directory, self.id));
        }
    }
}

impl SpooledBody {
    /// One that the engine of another process has.
    pub(crate) fn there(id: String, len_bytes: u64) -> Self {
        Self(Held::There { id, len_bytes })
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        match &self.0 {
            Held::Here(copy) => copy.len_bytes,
            Held::There { len_bytes, .. } => *len_bytes,
        }
    }

    /// By what the engine finds it that has it.
    pub(crate) fn id(&self) -> String {
        match &self.0 {
            Held::Here(copy) => copy.id.to_string(),
            Held::There { id, .. } => id.clone(),
        }
    }

    fn copy(&self) -> Option<&Arc<Copy>> {
        match &self.0 {
            Held::Here(copy) => Some(copy),
            Held::There { .. } => None,
        }
    }

    /// The operation that was to be created with it was not.
    pub(super) fn give_back(&self) {
        if let Some(copy) = self.copy() {
            copy.is_taken.store(false, Ordering::Relaxed);
        }
    }

    pub(super) fn stored(&self) -> Result<StoredBody, Error> {
        let copy = self.copy().ok_or_else(|| {
            let problem = "was spooled by the engine of another process; spool it with this one";
            Error::invalid("body", format!("{} bytes", self.len_bytes()), problem)
        })?;
        Ok(StoredBody::Spooled {
            id: copy.id,
            len_bytes: copy.len_bytes,
            crc32: copy.crc32,
        })
    }
}

impl fmt::Debug for SpooledBody {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SpooledBody({}, {} bytes)", self.id(), self.len_bytes())
    }
}

impl PartialEq for SpooledBody {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for SpooledBody {}

/// Where a copy stands.
pub(super) fn spooled_path(directory: &Path, id: SpoolId) -> PathBuf {
    directory.join(format!("{id}{SUFFIX}"))
}

impl Engine {
    /// Copies a request body into the state directory, for [`super::Body::Spooled`]. The copy is durable on return. At most
    /// `len_max` bytes are taken, and at most [`crate::Config::body_bytes_max`].
    ///
    /// # Errors
    /// [`Error::LimitReached`] where there are more; [`Error::Io`] where the body cannot be read or the copy not be written,
    /// also where it would leave the journal no room. No copy is left then.
    pub fn spool(&self, reader: &mut dyn Read, len_max: u64) -> Result<SpooledBody, Error> {
        let mut spooling = self.begin_spool(len_max)?;
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return spooling.end(),
                Ok(amount) => spooling.push(&buffer[..amount])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", "request body", error)),
            }
        }
    }

    /// Begins a copy.
    pub(super) fn begin_spool(&self, len_max: u64) -> Result<Spooling, Error> {
        let core = &self.core;
        let directory = Layout::new(&core.state_directory).spool();
        make_directory(&core.environment.storage, &directory)?;
        let mut id = [0; 16];
        core.environment.random.fill(&mut id);
        let copy = Copy {
            storage: Arc::clone(&core.environment.storage),
            directory,
            id: SpoolId(id),
            len_bytes: 0,
            crc32: 0,
            is_taken: AtomicBool::new(false),
        };
        let path = spooled_path(&copy.directory, copy.id);
        let created = copy.storage.create(&path, 0o600);
        let file = created.map_err(|error| Error::io("create", &path, error))?;
        Ok(Spooling {
            file,
            copy,
            path,
            crc: crc32fast::Hasher::new(),
            looked_until: 0,
            len_max: len_max.min(core.config.body_bytes_max),
        })
    }
}

/// A copy that is being made. Whatever fails, its file goes with it.
pub(super) struct Spooling {
    file: Box<dyn StorageFile>,
    copy: Copy,
    path: PathBuf,
    crc: crc32fast::Hasher,
    looked_until: u64,
    len_max: u64,
}

impl Spooling {
    pub(super) fn id(&self) -> String {
        self.copy.id.to_string()
    }

    /// What is there so far.
    pub(super) fn len_bytes(&self) -> u64 {
        self.copy.len_bytes
    }

    /// Writes what comes next.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let end = self.copy.len_bytes + bytes.len() as u64;
        if end > self.len_max {
            return Err(Error::limit("bytes of a request body", self.len_max));
        }
        if end > self.looked_until {
            self.looked_until = end + LOOK_EVERY_BYTES;
            let available = self.copy.storage.available_bytes(&self.copy.directory);
            if available.is_ok_and(|available| available < LOOK_EVERY_BYTES + ROOM_BYTES) {
                let full = io::Error::from(io::ErrorKind::StorageFull);
                return Err(Error::io("leave room for the journal beside", &self.path, full));
            }
        }
        let written = self.file.write_all_at(bytes, self.copy.len_bytes);
        written.map_err(|error| Error::io("write", &self.path, error))?;
        self.crc.update(bytes);
        self.copy.len_bytes = end;
        Ok(())
    }

    /// Ends a copy; it is durable on return.
    pub(super) fn end(self) -> Result<SpooledBody, Error> {
        let Self {
            file,
            mut copy,
            path,
            crc,
            ..
        } = self;
        copy.crc32 = crc.finalize();
        if steps::is_taken("sync of a spooled body") {
            file.sync_all().map_err(|error| Error::io("sync", &path, error))?;
        }
        if steps::is_taken("directory sync after a spooled body got its name") {
            let synced = copy.storage.sync_directory(&copy.directory);
            synced.map_err(|error| Error::io("sync", &copy.directory, error))?;
        }
        Ok(SpooledBody(Held::Here(Arc::new(copy))))
    }
}

/// Gives the copies that downloads come with to the operations that are about to be recorded; all of them or none.
///
/// # Errors
/// The position of the first that belongs to another operation, is given twice, or is not of this state directory.
pub(super) fn hand_over(core: &Core, checked: &[CheckedDownload]) -> Result<(), (usize, Error)> {
    let directory = Layout::new(&core.state_directory).spool();
    for (index, one) in checked.iter().enumerate() {
        let Some(copy) = one.spooled.as_ref().and_then(SpooledBody::copy) else {
            continue;
        };
        let problem = if copy.directory != directory {
            Some("was spooled into another state directory")
        } else if copy.is_taken.swap(true, Ordering::Relaxed) {
            Some("belongs to another operation; spool it once more")
        } else if copy.storage.stat(&spooled_path(&directory, copy.id)).is_err() {
            copy.is_taken.store(false, Ordering::Relaxed);
            Some("is not there any more; spool it once more")
        } else {
            None
        };
        if let Some(problem) = problem {
            take_back(&checked[..index]);
            let shown = format!("{} bytes", copy.len_bytes);
            return Err((index, Error::invalid("body", shown, problem)));
        }
    }
    Ok(())
}

/// The operations were not recorded.
fn take_back(checked: &[CheckedDownload]) {
    for spooled in checked.iter().filter_map(|one| one.spooled.as_ref()) {
        spooled.give_back();
    }
}

/// Removes the copy of an operation whose end is durable.
pub(super) fn release(core: &Core, id: TransferId, spec: &Spec) {
    let Some(spool_id) = spec.body.as_ref().and_then(|body| body.spool_id()) else {
        return;
    };
    let state = core.state();
    let has_ended = state
        .table
        .find(id)
        .is_none_or(|operation| matches!(operation.phase, Phase::Ended(_)));
    drop(state);
    let path = spooled_path(&Layout::new(&core.state_directory).spool(), spool_id);
    if has_ended
        && let Err(error) = core.environment.storage.remove(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        log::warn!("{id}: '{}' stays until the next start: {error}", path.display());
    }
}

/// Removes the copies that no live operation needs: a crash left them between the copy and its operation, or between an end
/// and the removal.
pub(super) fn sweep(
    storage: &Arc<dyn Storage>,
    directory: &Path,
    table: &Table,
    trouble: &Trouble,
) -> Result<(), Error> {
    let names = match storage.list(directory) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("list", directory, error)),
    };
    let bodies: Vec<&str> = names
        .iter()
        .filter_map(|name| name.to_str()?.strip_suffix(SUFFIX))
        .collect();
    if bodies.is_empty() || !steps::is_taken("removal of spooled bodies that nobody needs") {
        return Ok(());
    }
    let live = table.in_order();
    let live = live.filter(|operation| !matches!(operation.phase, Phase::Ended(_)));
    let needed: HashSet<String> = live
        .filter_map(|operation| Some(operation.spec.body.as_ref()?.spool_id()?.to_string()))
        .collect();
    trouble.check()?;
    for name in bodies.into_iter().filter(|name| !needed.contains(*name)) {
        let path = directory.join(format!("{name}{SUFFIX}"));
        storage
            .remove(&path)
            .map_err(|error| Error::io("remove", path, error))?;
    }
    Ok(())
}
