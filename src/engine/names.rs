//! Names that must last before anything is promised: that of the state directory, and those of the directories above it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use backhaul_journal::{Storage, steps};

use crate::error::Error;
use crate::operation::directory_of;

/// Directories in which a name may not be durable yet.
#[derive(Default)]
pub(crate) struct Names(Mutex<Vec<Above>>);

struct Above {
    directory: PathBuf,
    /// The name in it was made just now, and not perhaps by an earlier start that was cut short.
    is_new: bool,
}

impl Names {
    /// Makes a state directory where it is missing, and those above it.
    pub(super) fn make(storage: &dyn Storage, directory: &Path) -> Result<Self, Error> {
        let mut above = Vec::new();
        make(storage, directory, &mut above)?;
        Ok(Self(Mutex::new(above)))
    }

    /// Makes what stands in the state directory durable, too, at a start that finds a journal: what that holds is told, and
    /// acted on. On most file systems there is nothing to do where nothing was written since.
    pub(super) fn sync_found(&self, storage: &dyn Storage, directory: &Path) -> Result<(), Error> {
        if steps::is_taken("directory sync above a directory that is there") {
            self.sync(storage)?;
        }
        if steps::is_taken("sync of the state directory at the start") {
            let synced = storage.sync_directory(directory);
            synced.map_err(|error| Error::io("sync", directory, error))?;
        }
        Ok(())
    }

    /// Makes them durable before the first record of a new journal counts: after its sync, which has taken them along on most
    /// file systems.
    pub(super) fn sync_above_first_records(&self, storage: &dyn Storage) -> Result<(), Error> {
        if steps::is_taken("sync of the names above the first records") {
            self.sync(storage)
        } else {
            Ok(())
        }
    }

    fn sync(&self, storage: &dyn Storage) -> Result<(), Error> {
        // Held meanwhile: nobody else may take them for durable before they are.
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(Above { directory, is_new }) = left.last() {
            match storage.sync_directory(directory) {
                // Who may not read it has not made a name in it.
                Err(error) if *is_new || error.kind() != io::ErrorKind::PermissionDenied => {
                    return Err(Error::io("sync", directory, error));
                }
                _ => {}
            }
            left.pop();
        }
        Ok(())
    }
}

fn make(storage: &dyn Storage, directory: &Path, above: &mut Vec<Above>) -> Result<(), Error> {
    let is_there = match storage.stat(directory) {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(Error::io("look at", directory, error)),
    };
    let parent = directory_of(directory);
    if !is_there {
        if parent != directory && parent != Path::new(".") {
            make(storage, parent, above)?;
        }
        match storage.create_directory(directory, 0o700) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io("create", directory, error));
            }
            _ => {}
        }
    }
    if directory.parent().is_some() {
        above.push(Above {
            directory: parent.to_path_buf(),
            is_new: !is_there,
        });
    }
    Ok(())
}
