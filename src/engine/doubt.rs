//! Operations of which records were lost with a part of the journal: what the disk holds of them is looked at before
//! anything rests on it.
//!
//! A part file proves that its operation was not published. Where there is none and something stands under the final
//! name, that may be the operation's own file, so it is neither replaced nor given another name before its content was
//! compared with what is fetched anew.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use backhaul_backends::WebErrorStatus;
use backhaul_journal::{Access, FileKind, Stat};

use super::core::Core;
use super::fault::Fault;
use super::part::{file_crc32, part_owner, part_path};
use super::publish::{self, UNIQUE_MAX};
use super::ready::Ready;
use super::settle::remove_if_there;
use crate::operation::{Collision, Doubt, Event, Intent, Operation, Outcome};

/// Removes part files that lost records spoke of: those of other generations than the ones that count, and those of
/// operations whose creation was lost. They stand where parts of this journal may be, and carry its name.
pub(super) fn sweep(core: &Core) {
    let directories: BTreeSet<PathBuf> = {
        let state = core.state();
        if !state.table.is_salvaged() {
            return;
        }
        let all = state.table.in_order();
        all.map(|operation| operation.spec.directory().to_path_buf()).collect()
    };
    for directory in directories {
        let names = match core.environment.storage.list(&directory) {
            Ok(names) => names,
            Err(error) => {
                log::warn!("cannot look for old part files in '{}': {error}", directory.display());
                continue;
            }
        };
        for name in names.iter().filter(|name| is_stray(core, name)) {
            if let Err(fault) = remove_if_there(core, &directory.join(name)) {
                log::warn!("an old part file stays: {fault}");
            }
        }
    }
}

fn is_stray(core: &Core, name: &std::ffi::OsStr) -> bool {
    let Some((id, generation)) = part_owner(name, core.journal.id()) else {
        return false;
    };
    let state = core.state();
    match state.table.find(id) {
        Some(operation) => operation.has_ended() || operation.generation != generation,
        None => state.table.is_stranger(id),
    }
}

/// What an attempt has to find out of an operation in doubt before it touches its part file: whether the file under the
/// final name may be its own. `None` where there is nothing to find out.
pub(super) fn look(core: &Core, operation: &Operation) -> Result<Option<Event>, Fault> {
    if operation.doubt != Some(Doubt::Unseen) {
        return Ok(None);
    }
    let part = part_path(&operation.spec, core.journal.id(), operation.id, operation.generation);
    let unplaced = stat(core, &part)?.is_none() && stat(core, &operation.spec.destination)?.is_some();
    Ok(Some(Event::Examined { unplaced }))
}

/// Settles, with the whole content at hand, whether the file was published before. Ends the operation if so, which is
/// [`Fault::Superseded`] to the publication.
pub(super) fn resolve(core: &Core, ready: &Ready) -> Result<(), Fault> {
    // Nearly none was, and then the lock is not taken.
    if !ready.was_in_doubt {
        return Ok(());
    }
    let doubt = core.state().table.find(ready.id).and_then(|operation| operation.doubt);
    if doubt != Some(Doubt::Unplaced) {
        return Ok(());
    }
    for index in 0..UNIQUE_MAX {
        let path = ready.path_at(index);
        let Some(stat) = stat(core, &path)? else {
            return Ok(());
        };
        if is_same(core, &path, &stat, ready)? {
            return conclude(core, ready, &path, &stat);
        }
        match ready.spec.collision {
            Collision::Unique => {}
            Collision::Fail => return Ok(()),
            Collision::Replace => {
                let message = format!(
                    "'{}' exists, and since records of the journal were lost it is not known whether it was published \
                     here; it stays as it is",
                    path.display()
                );
                return Err(Fault::unacceptable(WebErrorStatus::DESTINATION_EXISTS, message));
            }
        }
    }
    Ok(())
}

fn is_same(core: &Core, path: &Path, stat: &Stat, ready: &Ready) -> Result<bool, Fault> {
    if stat.kind != FileKind::File || stat.len_bytes != ready.len_bytes {
        return Ok(false);
    }
    let storage = &core.environment.storage;
    let failed = |tried| move |error: io::Error| Fault::io(tried, path, &error);
    // Whoever put it there may not have made it durable.
    let file = storage.open(path, Access::Read).map_err(failed("open"))?;
    file.sync_all().map_err(failed("sync"))?;
    let crc32 = file_crc32(storage, path, ready.len_bytes).map_err(failed("read"))?;
    Ok(crc32 == Some(ready.crc32))
}

fn conclude(core: &Core, ready: &Ready, path: &Path, stat: &Stat) -> Result<(), Fault> {
    let intent = Intent {
        generation: ready.generation,
        final_name: path.file_name().unwrap_or_default().as_bytes().to_vec(),
        device: stat.device,
        inode: stat.inode,
        len_bytes: ready.len_bytes,
        crc32: ready.crc32,
        boot_id: core.now().boot_id,
        directory_device: None,
        directory_inode: None,
    };
    core.record_durably(ready.id, Event::Publishing(intent))?;
    remove_if_there(core, &ready.part.path)?;
    let directory = ready.spec.directory();
    let storage = &core.environment.storage;
    storage
        .sync_directory(directory)
        .map_err(|error| Fault::io("sync", directory, &error))?;
    log::info!("{}: '{}' was published already", ready.id, path.display());
    publish::end(core, &mut core.state(), ready.id, Outcome::Completed)?;
    Err(Fault::Superseded)
}

fn stat(core: &Core, path: &Path) -> Result<Option<Stat>, Fault> {
    publish::exists(&core.environment.storage, path)
}
