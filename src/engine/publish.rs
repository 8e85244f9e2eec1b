//! The final name: given once, to a complete file, in batches that share their syncs.
//!
//! Steps of a batch, each for all its files before the next: sync the data (R4); record the intent, durably; rename;
//! sync the directories (R5); record the ends, durably. Where another batch waits, its data is synced together with the
//! directories of the one before, and its intents are made durable together with the ends of that. After a crash [`finish`]
//! finds out which step was reached.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backhaul_backends::WebErrorStatus;
use backhaul_journal::{Stat, Storage, steps};

use super::believed::believe_none_beside_a_failure;
use super::core::{Core, State, TOGETHER_MAX};
use super::doubt;
use super::fault::Fault;
use super::part::{Part, file_crc32, part_path};
use super::ready::Ready;
use super::settle::{self, remove_given_up, remove_if_there};
use super::spool;
use crate::error::Error;
use crate::operation::{Collision, Event, Intent, Operation, Outcome, Phase, TransferId};

/// Names tried for [`Collision::Unique`] before giving up.
pub(super) const UNIQUE_MAX: u32 = 10_000;
/// How often the removal of a part file is tried before its operation ends without it (chosen without measurement: with
/// the default delay, for a quarter of a minute).
const SWEEP_FAILURES_MAX: u32 = 4;

/// Publishes a batch, and those that wait by then. Each file meets its own fate; only a journal that refuses stops them all.
pub(crate) fn publish(core: &Arc<Core>, batch: Vec<Ready>) {
    let mut next = Some(batch);
    let mut renamed = Vec::new();
    let mut held: Vec<TransferId> = Vec::new();
    while next.is_some() || !renamed.is_empty() {
        let batch = next.take().unwrap_or_default();
        let ids: Vec<TransferId> = batch.iter().map(|ready| ready.id).collect();
        let before = std::mem::take(&mut renamed);
        match publish_some(core, &before, batch) {
            Ok(more) => renamed = more,
            Err(error) => {
                core.fail(error);
                held.extend(ids);
                break;
            }
        }
        // Those before have ended.
        if !held.is_empty() {
            core.let_go(&held, held.len());
        }
        held = ids;
        if !renamed.is_empty() {
            next = core.take_ready();
        }
    }
    core.let_go(&held, held.len());
}

/// Makes the files of complete drafts, one after the other, and hands them to the publisher.
pub(crate) fn write_out(core: &Arc<Core>, drafts: Vec<Ready>) {
    let ids: Vec<TransferId> = drafts.iter().map(|ready| ready.id).collect();
    let written = match keep(core, drafts, |ready| ready.write_out(core)) {
        Ok(written) => written,
        Err(error) => {
            core.fail(error);
            Vec::new()
        }
    };
    let kept: BTreeSet<TransferId> = written.iter().map(|ready| ready.id).collect();
    core.hand_on(written);
    let failed: Vec<TransferId> = ids.into_iter().filter(|id| !kept.contains(id)).collect();
    if !failed.is_empty() {
        core.let_go(&failed, failed.len());
    }
}

/// Publishes one batch to its end.
fn publish_all(core: &Arc<Core>, batch: Vec<Ready>) -> Result<(), Error> {
    let renamed = publish_some(core, &[], batch)?;
    publish_some(core, &renamed, Vec::new()).map(|_| ())
}

/// Ends the files that were `renamed`, and brings those of a batch as far: gives the ones that have their final names.
fn publish_some(core: &Arc<Core>, renamed: &[Ready], batch: Vec<Ready>) -> Result<Vec<Ready>, Error> {
    let mut left = sync_data_and_names(core, renamed, batch)?;
    left = keep(core, left, |ready| doubt::resolve(core, ready))?;
    let mut next = Vec::with_capacity(left.len());
    let mut ends_stand = renamed.is_empty() || !steps::is_taken("sync of the ends");
    while !left.is_empty() {
        left = keep(core, left, |ready| find_name(core, ready))?;
        left = declare(core, left)?;
        if steps::is_taken("sync of the intents before the renames") {
            core.sync_all()?;
            ends_stand = true;
        }
        let (mut taken, mut failed) = (Vec::new(), None);
        for mut ready in left {
            match rename(core, &ready) {
                Ok(true) => next.push(ready),
                Ok(false) => {
                    ready.name_index += 1;
                    taken.push(ready);
                }
                Err(fault) => failed = settle::fault_soon(core, ready.id, fault)?.or(failed),
            }
        }
        settle::sync(core, failed)?;
        left = taken;
    }
    if !ends_stand {
        core.sync_all()?;
    }
    for ready in renamed {
        spool::release(core, ready.id, &ready.spec);
    }
    Ok(next)
}

/// Makes durable the data of a batch and the new names of the files before it, which have ended then; gives what is left of
/// the batch. Where the names cannot be synced the renames may or may not last: the intents stand, and [`finish`] finds out.
fn sync_data_and_names(core: &Arc<Core>, renamed: &[Ready], batch: Vec<Ready>) -> Result<Vec<Ready>, Error> {
    let batch = keep(core, batch, |ready| ready.write_out(core).and_then(|()| look_at(ready)))?;
    let files: Vec<_> = batch.iter().map(|ready| ready.part.file.as_ref()).collect();
    let files = &files[..if steps::is_taken("sync of a complete file before its intent") {
        files.len()
    } else {
        0
    }];
    // By their bytes: paths are compared part by part.
    let places: BTreeSet<&OsStr> = renamed.iter().map(|ready| ready.spec.directory().as_os_str()).collect();
    let are_synced = steps::is_taken("directory sync after the renames");
    let directories: Vec<&Path> = places.into_iter().map(Path::new).filter(|_| are_synced).collect();
    let mut synced = core.environment.storage.sync_many(files, &directories);
    if synced.files.iter().chain(&synced.directories).any(Result::is_err) {
        let of_files = batch.iter().map(Ready::device).zip(&mut synced.files);
        let of_directories = directories.iter().map(|directory| device_of(directory, renamed));
        believe_none_beside_a_failure(of_files.chain(of_directories.zip(&mut synced.directories)).collect());
    }
    let mut refused = BTreeSet::new();
    for (directory, result) in directories.into_iter().zip(synced.directories) {
        if let Err(error) = result {
            log::error!(
                "cannot sync '{}': {error}; what was published there is checked at the next start",
                directory.display()
            );
            refused.insert(directory);
        }
    }
    for some in renamed.chunks(TOGETHER_MAX) {
        let mut state = core.state();
        for ready in some {
            if !refused.is_empty() && refused.contains(ready.spec.directory()) {
                let delay = core.config.retry.probe_every;
                state.table.postpone_finish(ready.id, core.now(), delay);
            } else {
                end(core, &mut state, ready.id, Outcome::Completed)?;
            }
        }
    }
    let mut results = synced.files.into_iter();
    keep(core, batch, |ready| {
        let result = results.next().unwrap_or(Ok(()));
        result.map_err(|error| Fault::io("sync", &ready.part.path, &error))
    })
}

/// The device that a directory lies on: that of a file that has been renamed in it.
fn device_of(directory: &Path, renamed: &[Ready]) -> u64 {
    let there = renamed.iter().find(|ready| ready.spec.directory() == directory);
    there.map_or(0, Ready::device)
}

fn sync_ends(core: &Core) -> Result<(), Error> {
    if steps::is_taken("sync of the ends") {
        core.sync_all()
    } else {
        Ok(())
    }
}

/// Runs one step for each file; a file whose step fails leaves the batch. What is recorded of those shares its sync.
fn keep(
    core: &Arc<Core>,
    batch: Vec<Ready>,
    mut step: impl FnMut(&mut Ready) -> Result<(), Fault>,
) -> Result<Vec<Ready>, Error> {
    let mut kept = Vec::with_capacity(batch.len());
    let mut failed = None;
    for mut ready in batch {
        match step(&mut ready) {
            Ok(()) => kept.push(ready),
            Err(fault) => failed = settle::fault_soon(core, ready.id, fault)?.or(failed),
        }
    }
    settle::sync(core, failed)?;
    Ok(kept)
}

/// Settles on the first name that is free now, by the collision rule. The rename decides for good.
fn find_name(core: &Core, ready: &mut Ready) -> Result<(), Fault> {
    let storage = &core.environment.storage;
    if ready.spec.collision == Collision::Fail && ready.name_index == 0 {
        // The rename refuses a name that is taken.
        return Ok(());
    }
    if ready.spec.collision != Collision::Unique {
        let is_taken = ready.name_index > 0;
        ready.name_index = 0;
        let path = ready.final_path();
        return match (is_taken, ready.spec.collision, exists(storage, &path)?) {
            (false, _, None) | (false, Collision::Replace, Some(_)) => Ok(()),
            _ => Err(taken(&path)),
        };
    }
    while ready.name_index < UNIQUE_MAX {
        if exists(storage, &ready.final_path())?.is_none() {
            return Ok(());
        }
        ready.name_index += 1;
    }
    Err(taken(&ready.final_path()))
}

fn taken(path: &Path) -> Fault {
    let message = format!("'{}' exists, and must not be replaced", path.display());
    Fault::unacceptable(WebErrorStatus::DESTINATION_EXISTS, message)
}

pub(super) fn exists(storage: &Arc<dyn Storage>, path: &Path) -> Result<Option<Stat>, Fault> {
    match storage.stat(path) {
        Ok(stat) => Ok(Some(stat)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::io("look at", path, &error)),
    }
}

/// Records what is about to be renamed, so that a crash right after finds its way.
fn declare(core: &Arc<Core>, batch: Vec<Ready>) -> Result<Vec<Ready>, Error> {
    let boot_id = core.now().boot_id;
    // Most of a batch go to one directory.
    let mut directory: Option<(&Path, Option<Stat>)> = None;
    let intents = batch.iter().map(|ready| {
        let path = ready.spec.directory();
        if directory
            .as_ref()
            .is_none_or(|(known, _)| known.as_os_str() != path.as_os_str())
        {
            directory = Some((path, core.environment.storage.stat(path).ok()));
        }
        let stat = directory.as_ref().and_then(|(_, stat)| stat.as_ref());
        (ready.id, intent(ready, boot_id, stat))
    });
    let intents: Vec<_> = intents.collect();
    let mut intents = intents.into_iter().peekable();
    let mut results = Vec::with_capacity(batch.len());
    while intents.peek().is_some() {
        let mut state = core.state();
        for (id, intent) in intents.by_ref().take(TOGETHER_MAX) {
            let recorded = intent.map(|intent| core.record(&mut state, id, Event::Publishing(intent)));
            results.push(recorded.transpose().map(|_| ()));
        }
    }
    let mut results = results.into_iter();
    keep(core, batch, |_| results.next().unwrap_or(Ok(())).map_err(Fault::from))
}

/// Looks which file it is, and whether it is still as it was written.
fn look_at(ready: &mut Ready) -> Result<(), Fault> {
    let stat = ready
        .part
        .file
        .stat()
        .map_err(|error| Fault::io("look at", &ready.part.path, &error))?;
    if stat.len_bytes != ready.len_bytes {
        return Err(Fault::Local(format!(
            "'{}' has {} bytes, {} were written",
            ready.part.path.display(),
            stat.len_bytes,
            ready.len_bytes
        )));
    }
    ready.place = (stat.device, stat.inode);
    Ok(())
}

/// What is to be recorded of a complete file; nothing where that was done before, and the rename was not for want of room:
/// saying it again would take more of that.
fn intent(ready: &Ready, boot_id: [u8; 16], directory: Option<&Stat>) -> Option<Intent> {
    let (device, inode) = ready.place;
    let intent = Intent {
        generation: ready.generation,
        final_name: ready.final_path().file_name().unwrap_or_default().as_bytes().to_vec(),
        device,
        inode,
        len_bytes: ready.len_bytes,
        crc32: ready.crc32,
        boot_id,
        directory_device: directory.map(|stat| stat.device),
        directory_inode: directory.map(|stat| stat.inode),
    };
    Some(intent).filter(|intent| ready.declared.as_ref() != Some(intent))
}

/// Gives the final name; `false` where somebody took it meanwhile.
fn rename(core: &Core, ready: &Ready) -> Result<bool, Fault> {
    let path = ready.final_path();
    let storage = &core.environment.storage;
    let result = match ready.spec.collision {
        Collision::Replace => match exists(storage, &path)? {
            Some(stat) if stat.kind != backhaul_journal::FileKind::File => return Err(taken(&path)),
            _ => storage.rename(&ready.part.path, &path),
        },
        Collision::Fail | Collision::Unique => storage.rename_noreplace(&ready.part.path, &path),
    };
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(Fault::io("rename to", &path, &error)),
    }
}

pub(super) fn end(core: &Core, state: &mut State, id: TransferId, outcome: Outcome) -> Result<(), Error> {
    match core.record(state, id, Event::Ended(outcome)) {
        // Somebody ended it otherwise; that is the end that counts, and no reason to stop all others.
        Err(Error::NotNow { problem, .. }) => log::warn!("{id}: {problem}"),
        result => {
            result?;
        }
    }
    Ok(())
}

/// Removes what an operation that is ending left behind, then ends it. Where the disk refuses, it is tried again later.
pub(crate) fn sweep(core: &Arc<Core>, operation: &Operation) -> Result<(), Error> {
    let Phase::Ending(outcome) = &operation.phase else {
        return Ok(());
    };
    // The intent to end is in the table before it is durable; nothing is removed before it is.
    if steps::is_taken("sync of the intent to end") {
        core.sync_all()?;
    }
    if let Err(fault) = clear(core, operation) {
        let (id, retry) = (operation.id, &core.config.retry);
        let failures = core.state().table.postpone_finish(id, core.now(), retry.probe_every);
        log::warn!("{id}: its part file cannot be removed: {fault}");
        // Who may not write there now may be allowed to soon; but a part file that stays must not keep its operation from
        // ending for ever.
        if failures < SWEEP_FAILURES_MAX {
            return Ok(());
        }
    }
    core.record(&mut core.state(), operation.id, Event::Ended(outcome.clone()))?;
    sync_ends(core)?;
    spool::release(core, operation.id, &operation.spec);
    Ok(())
}

/// Removes the part file of an operation, durably.
fn clear(core: &Core, operation: &Operation) -> Result<(), Fault> {
    let directory = operation.spec.directory();
    // That of the generation before may have refused to go when it was given up.
    let generations = operation.generation.saturating_sub(1)..=operation.generation;
    let mut is_removed = false;
    for generation in generations {
        let path = part_path(&operation.spec, core.journal.id(), operation.id, generation);
        is_removed |= remove_if_there(core, &path)?;
    }
    let must_sync = if is_removed {
        steps::is_taken("directory sync before an end")
    } else {
        // It may have been removed before, by another process or by this one, and that need not be durable yet.
        !core.state().settled.contains(directory) && steps::is_taken("directory sync where a part is gone already")
    };
    if must_sync {
        settle::settle_directory(core, directory)
    } else {
        Ok(())
    }
}

/// Finishes a publication that a crash or a fault of the disk left unfinished. Where the disk still refuses, it is looked
/// at again later.
pub(crate) fn finish(core: &Arc<Core>, operation: &Operation) -> Result<(), Error> {
    let Phase::Publishing(intent) = &operation.phase else {
        return Ok(());
    };
    match recover_one(core, operation, intent) {
        Ok(()) => {
            sync_ends(core)?;
            spool::release(core, operation.id, &operation.spec);
            Ok(())
        }
        Err(Fault::Engine(error)) => Err(error),
        Err(Fault::Unacceptable(error)) => settle::fault(core, operation.id, Fault::Unacceptable(error)),
        Err(fault) => {
            let retry = &core.config.retry;
            let failures = core
                .state()
                .table
                .postpone_finish(operation.id, core.now(), retry.probe_every);
            let message = format!("the publication cannot be finished: {fault}");
            log::warn!("{}: {message}", operation.id);
            if failures >= retry.failures_max {
                return settle::fault(
                    core,
                    operation.id,
                    Fault::unacceptable(WebErrorStatus::FILE_ACCESS, message),
                );
            }
            Ok(())
        }
    }
}

/// What a crash between intent and end left, told apart by inode, length, checksum and boot.
fn recover_one(core: &Arc<Core>, operation: &Operation, intent: &Intent) -> Result<(), Fault> {
    let storage = &core.environment.storage;
    let part = part_path(&operation.spec, core.journal.id(), operation.id, intent.generation);
    let path = operation.spec.directory().join(OsStr::from_bytes(&intent.final_name));
    let published = exists(storage, &path)?;
    let same_boot = core.now().is_boot(intent.boot_id);
    // Not every file system keeps inode numbers over a reboot; length and checksum are compared all the same.
    let is_ours = |stat: &Stat| stat.len_bytes == intent.len_bytes && (stat.inode == intent.inode || !same_boot);
    match (exists(storage, &part)?, published) {
        // A link that took the place of a rename: both names are on our inode.
        (Some(stat), Some(published)) if stat.inode == published.inode && stat.device == published.device => {
            remove_if_there(core, &part)?;
            complete(core, operation)
        }
        (Some(stat), _) if is_ours(&stat) => publish_again(core, operation, intent, part),
        (None, Some(stat)) if is_ours(&stat) && crc_is(storage, &path, intent)? => complete(core, operation),
        // Later records may be missing, which gave this publication up: only the content will tell.
        (None, _) if operation.doubt.is_some() => start_over(core, operation, intent, &part),
        // A consumer took it away after the rename, which must have happened in this boot.
        (None, None) if same_boot => {
            check_place(storage, operation.spec.directory(), intent)?;
            complete(core, operation)
        }
        // The name of the part was lost with the power before the rename; the file there is the one to be replaced, or
        // somebody else's, beside which there are other names.
        (None, Some(_)) if operation.spec.collision != Collision::Fail && !same_boot => {
            start_over(core, operation, intent, &part)
        }
        (None, Some(_)) => {
            let message = format!(
                "'{}' is not the file that was published there; it stays as it is",
                path.display()
            );
            Err(Fault::unacceptable(WebErrorStatus::DESTINATION_EXISTS, message))
        }
        _ => start_over(core, operation, intent, &part),
    }
}

/// Where a volume is not mounted any more, or another directory has taken the place of the one it was, neither name is there,
/// whichever it was that the file had.
fn check_place(storage: &Arc<dyn Storage>, directory: &Path, intent: &Intent) -> Result<(), Fault> {
    let Some(place) = intent.directory_device.zip(intent.directory_inode) else {
        return Ok(());
    };
    match exists(storage, directory)? {
        Some(stat) if (stat.device, stat.inode) == place => Ok(()),
        _ => Err(Fault::Local(format!(
            "'{}' is not the directory that the complete file stood in; mount it, or bring it back",
            directory.display()
        ))),
    }
}

fn crc_is(storage: &Arc<dyn Storage>, path: &Path, intent: &Intent) -> Result<bool, Fault> {
    let crc32 = file_crc32(storage, path, intent.len_bytes).map_err(|error| Fault::io("read", path, &error))?;
    Ok(crc32 == Some(intent.crc32) || !steps::is_taken("comparison with the intent"))
}

fn complete(core: &Core, operation: &Operation) -> Result<(), Fault> {
    let directory = operation.spec.directory();
    let storage = &core.environment.storage;
    if !steps::is_taken("directory sync after a recovered rename") {
        return end(core, &mut core.state(), operation.id, Outcome::Completed).map_err(Fault::from);
    }
    match storage.sync_directory(directory) {
        // Whoever took the file away took its directory, too.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => result.map_err(|error| Fault::io("sync", directory, &error))?,
    }
    end(core, &mut core.state(), operation.id, Outcome::Completed)?;
    Ok(())
}

fn publish_again(core: &Arc<Core>, operation: &Operation, intent: &Intent, path: PathBuf) -> Result<(), Fault> {
    let storage = &core.environment.storage;
    if !crc_is(storage, &path, intent)? {
        return start_over(core, operation, intent, &path);
    }
    let file = storage
        .open(&path, backhaul_journal::Access::ReadWrite)
        .map_err(|error| Fault::io("open", &path, &error))?;
    let part = Part::of(path, file);
    let mut ready = Ready::new(operation, intent.generation, part, intent.len_bytes, intent.crc32);
    ready.declared = Some(intent.clone());
    publish_all(core, vec![ready])?;
    Ok(())
}

/// The bytes are gone or damaged: the transfer begins again, and says so.
fn start_over(core: &Core, operation: &Operation, intent: &Intent, part: &Path) -> Result<(), Fault> {
    let cause = "the complete file was gone or damaged before it had its name";
    let event = settle::restarted(operation, intent.len_bytes, cause);
    core.record_durably(operation.id, event)?;
    remove_given_up(core, part)
}
