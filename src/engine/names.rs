//! Names that must last before anything is promised: that of the state directory, and those of the directories above it.

use std::io;
use std::path::{Path, PathBuf};

use backhaul_journal::{Storage, steps};

use crate::error::Error;
use crate::operation::directory_of;

/// Directories in which a name may not be durable yet.
pub(crate) struct Names(Vec<Above>);

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
        Ok(Self(above))
    }

    /// Makes them durable, and those in the state directory itself: what is found in it is told, and acted on.
    pub(super) fn sync(self, storage: &dyn Storage, directory: &Path) -> Result<(), Error> {
        for Above { directory, is_new } in self.0.iter().rev() {
            let step = if *is_new {
                "directory sync above a new state directory"
            } else {
                "directory sync above a directory that is there"
            };
            if !steps::is_taken(step) {
                continue;
            }
            match storage.sync_directory(directory) {
                // Who may not read it has not made a name in it.
                Err(error) if *is_new || error.kind() != io::ErrorKind::PermissionDenied => {
                    return Err(Error::io("sync", directory, error));
                }
                _ => {}
            }
        }
        if steps::is_taken("sync of the state directory at the start") {
            let synced = storage.sync_directory(directory);
            synced.map_err(|error| Error::io("sync", directory, error))?;
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
