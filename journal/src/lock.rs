//! The lock that makes a process the only writer.

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::error::Error;
use crate::steps;
use crate::storage::{Access, FileSystem, Storage, StorageLock};

/// Most bytes read of a holder's text.
const HOLDER_BYTES_MAX: usize = 256;

/// A held lock. It is let go when the last clone is dropped, or when the process ends in whatever way.
#[derive(Clone)]
pub struct Lock {
    held: Option<Arc<dyn StorageLock>>,
}

impl std::fmt::Debug for Lock {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Lock").finish_non_exhaustive()
    }
}

impl Lock {
    /// Takes the lock on this file, which is made where it is missing, and never waits. The directory must exist. Its
    /// text, which says who holds it, is only for messages.
    ///
    /// # Errors
    /// [`Error::Locked`] where somebody else holds it; [`Error::NetworkFileSystem`] where a lock may exclude nobody and
    /// that was not allowed; [`Error::Io`].
    pub fn acquire(storage: &Arc<dyn Storage>, path: &Path, allow_network_file_system: bool) -> Result<Lock, Error> {
        let lock = Self::acquire_untold(storage, path, allow_network_file_system)?;
        // The lock holds with or without the text, for which a full disk may have no room.
        lock.add_lines("");
        Ok(lock)
    }

    /// The same, with what the lock file says left as it is until [`Lock::add_lines`]: until then a lock file that is there
    /// is not written to, and whoever asks is told of the holder before.
    ///
    /// # Errors
    /// As [`Lock::acquire`].
    pub fn acquire_untold(
        storage: &Arc<dyn Storage>,
        path: &Path,
        allow_network_file_system: bool,
    ) -> Result<Lock, Error> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let file_system = storage
            .file_system(directory)
            .map_err(Error::io("find the file system of", directory))?;
        if file_system == FileSystem::Network && !allow_network_file_system {
            return Err(Error::NetworkFileSystem(directory.to_owned()));
        }
        if !steps::is_taken("lock") {
            return Ok(Lock { held: None });
        }
        let held = match storage.lock(path) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(Error::Locked {
                    path: path.to_owned(),
                    holder: holder(&**storage, path),
                });
            }
            answer => answer.map_err(Error::io("lock", path))?,
        };
        Ok(Lock {
            held: Some(Arc::from(held)),
        })
    }

    /// Adds lines to what the lock file says of its holder, for those who only look. Whether that succeeds changes
    /// nothing of the lock.
    pub fn add_lines(&self, lines: &str) {
        if let Some(held) = &self.held {
            let _ = held.describe(&(description() + lines));
        }
    }
}

fn description() -> String {
    // It stays the same for as long as a process can live.
    static BOOT: OnceLock<String> = OnceLock::new();
    let boot = BOOT.get_or_init(|| std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default());
    format!(
        "pid {}\nboot {}\nversion {}\n",
        std::process::id(),
        boot.trim(),
        env!("CARGO_PKG_VERSION")
    )
}

/// The first line of the lock file, where it is one that a holder writes.
fn holder(storage: &dyn Storage, path: &Path) -> Option<String> {
    let file = storage.open(path, Access::Read).ok()?;
    let mut buffer = [0; HOLDER_BYTES_MAX];
    let count = file.read_at(&mut buffer, 0).ok()?;
    let text = std::str::from_utf8(&buffer[..count]).ok()?;
    let pid: u32 = text.lines().next()?.strip_prefix("pid ")?.parse().ok()?;
    Some(format!("pid {pid}"))
}
