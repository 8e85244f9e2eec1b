//! What whoever serves an engine to other processes needs of it besides.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backhaul_journal::Storage;
use serde::{Deserialize, Serialize};

use super::core::{Core, State};
use super::{Engine, PER_HOST};
use crate::config::Layout;
use crate::environment::last_holder;
use crate::error::Error;
use crate::hex;
use crate::operation::{TransferId, TransferStatus};

/// Before the path of the socket in the text of the lock file, in hexadecimal digits: a path may hold anything.
const SOCKET: &str = "socket ";

/// What an engine is, and on what it works.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Description {
    /// Version of the program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// The state directory, absolute.
    pub state_directory: String,
    /// Device of the state directory, by which, with the inode, a client tells whether it is the one it means.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// Operations that it knows.
    pub operations: u64,
    /// Attempts that run.
    pub running: u64,
    /// Ends that went out of the history before anybody acknowledged them.
    pub unacknowledged_lost: u64,
}

impl Engine {
    /// What this engine is, and on what it works.
    pub(crate) fn describe(&self) -> Result<Description, Error> {
        let directory = &self.core.state_directory;
        let (device, inode) = place_of(&self.core.environment.storage, directory)?;
        let state = self.core.state();
        Ok(Description {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            state_directory: directory.to_string_lossy().into_owned(),
            device,
            inode,
            operations: state.table.len() as u64,
            running: state.attempts.len() as u64,
            unacknowledged_lost: state.table.unacknowledged_lost(),
        })
    }

    /// The state directory is where it was opened: in one that was moved or deleted nobody would find what is accepted.
    pub(super) fn check_place(&self) -> Result<(), Error> {
        let core = &self.core;
        match place_of(&core.environment.storage, &core.state_directory) {
            Ok(place) if place == core.place => Ok(()),
            Err(Error::Io(_, _, error)) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::Io("look at".into(), core.state_directory.clone(), error))
            }
            _ => {
                let problem = "it was moved, replaced or deleted while the engine works on it; stop the engine";
                let error = io::Error::new(io::ErrorKind::NotFound, problem);
                Err(Error::io("accept anything in", &core.state_directory, error))
            }
        }
    }

    /// An engine that works on chosen operations only works on these, too, from now on.
    pub(crate) fn attend(&self, ids: impl Iterator<Item = TransferId>) {
        let mut state = self.core.state();
        if let Some(only) = state.table.chosen() {
            let more: Vec<TransferId> = ids.filter(|id| !only.contains(id)).collect();
            let mut only = only.clone();
            only.extend(&more);
            state.table.restrict_to(Some(only));
            state.besides.extend(more);
            drop(state);
            self.core.wake_all();
        }
    }

    /// Acknowledged ends that its history keeps at most.
    pub(crate) fn acknowledged_max(&self) -> usize {
        self.core.config.retention.acknowledged_max
    }

    /// The most memory that it is to take, in bytes.
    pub(crate) fn memory_limit(&self) -> Option<u64> {
        self.core.config.memory_limit
    }

    /// Most files that this engine has open at once.
    pub(crate) fn files_max(&self) -> usize {
        self.core.room.files_max()
    }

    /// Writes into the lock file where this engine can be spoken to.
    pub(crate) fn note_socket(&self, socket: &Path) {
        let hex = hex::encode(socket.as_os_str().as_bytes());
        self.core.note_in_lock(&format!("{SOCKET}{hex}\n"));
    }
}

impl Core {
    /// Lines for those who look at the lock file: what is the same as long as the engine lives, then `more`.
    pub(super) fn note_in_lock(&self, more: &str) {
        let per_host = self.config.jobs_per_host_max;
        let per_host = per_host.map(|per_host_max| format!("{PER_HOST}{per_host_max}\n"));
        let lines = per_host.unwrap_or_default() + more;
        if !lines.is_empty() {
            self.lock.add_lines(&lines);
        }
    }
}

impl State {
    /// Of those that this engine is there for, none goes on by itself.
    pub(super) fn is_at_rest_but_for_others(&self) -> bool {
        let table = &self.table;
        let mut own = table
            .chosen()
            .into_iter()
            .flatten()
            .filter(|id| !self.besides.contains(id));
        own.all(|id| {
            let status = table.find(*id).map(|operation| operation.status());
            !table.is_busy(*id) && !status.is_some_and(TransferStatus::goes_on_by_itself)
        })
    }
}

/// Device and inode of a directory.
pub(super) fn place_of(storage: &Arc<dyn Storage>, directory: &Path) -> Result<(u64, u64), Error> {
    let stat = storage.stat(directory);
    let stat = stat.map_err(|error| Error::io("look at", directory, error))?;
    Ok((stat.device, stat.inode))
}

/// Who works on a state directory, or did so last, as its lock file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) works: bool,
    /// Where it can be spoken to.
    pub(crate) socket: Option<PathBuf>,
}

/// The process that works on a state directory, or has done so.
pub(crate) fn holder(state_directory: &Path) -> Holder {
    let Some((text, works)) = last_holder(&Layout::new(state_directory).lock()) else {
        return Holder::default();
    };
    let hex = text.lines().find_map(|line| line.strip_prefix(SOCKET));
    let bytes = hex.and_then(|digits| hex::decode(digits.as_bytes()));
    let socket = bytes.map(|bytes| {
        use std::os::unix::ffi::OsStringExt;
        PathBuf::from(std::ffi::OsString::from_vec(bytes))
    });
    Holder { works, socket }
}
