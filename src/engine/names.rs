//! Names that must last before anything is promised: that of the state directory, and those of the directories above it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use backhaul_journal::{Storage, steps};

use crate::error::Error;
use crate::operation::directory_of;
use crate::vault::make_directory;

/// The name of a state directory, which may not be durable yet.
pub(super) struct Names<'a> {
    directory: &'a Path,
    /// It was made just now, and not perhaps by an earlier start that was cut short.
    is_new: bool,
}

impl<'a> Names<'a> {
    /// Makes a state directory where it is missing, and those above it, whose names last then.
    pub(super) fn make(storage: &Arc<dyn Storage>, directory: &'a Path) -> Result<Self, Error> {
        let mut is_new = !exists(storage, directory)?;
        if is_new {
            make_above(storage, directory)?;
            match storage.create_directory(directory, 0o700) {
                // Another process begins here as well.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => is_new = false,
                made => made.map_err(|error| Error::io("create", directory, error))?,
            }
        }
        Ok(Self { directory, is_new })
    }

    /// Whether the directory was made just now, so that its name is left to a new journal in it.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Makes its name durable where it was there, and those in it: what is found in it is told, and acted on.
    pub(super) fn sync_found(&self, storage: &Arc<dyn Storage>) -> Result<(), Error> {
        if self.is_new { Ok(()) } else { self.sync(storage) }
    }

    /// The same where it is new and its journal is not: another process was quicker. A new journal makes these names durable
    /// before its first file counts.
    pub(super) fn sync_overtaken(&self, storage: &Arc<dyn Storage>, is_journal_new: bool) -> Result<(), Error> {
        if self.is_new && !is_journal_new {
            self.sync(storage)?;
        }
        Ok(())
    }

    fn sync(&self, storage: &Arc<dyn Storage>) -> Result<(), Error> {
        let directory = self.directory;
        sync_above(storage, directory)?;
        if steps::is_taken("sync of the state directory at the start") {
            let synced = storage.sync_directory_to_go_on(directory);
            synced.map_err(|error| Error::io("sync", directory, error))?;
        }
        Ok(())
    }
}

/// Makes the directories above a missing one, each once the name of the one above it lasts: the next start looks only at
/// the name of the lowest one that it finds. Where no name could be made to last, nothing is made: a later start would take
/// what it finds for made by somebody else.
fn make_above(storage: &Arc<dyn Storage>, directory: &Path) -> Result<(), Error> {
    let parent = directory_of(directory);
    if directory.parent() != Some(parent) {
        // The directory that this process stands in.
        return check_lasts(storage, directory, parent);
    }
    if exists(storage, parent)? {
        check_lasts(storage, directory, parent)?;
        return sync_above(storage, parent);
    }
    make_above(storage, parent)?;
    make_directory(storage, parent)
}

/// Whether this process can make a directory and its name durable.
fn check_lasts(storage: &Arc<dyn Storage>, directory: &Path, parent: &Path) -> Result<(), Error> {
    let refused = |error: io::Error| {
        if error.kind() != io::ErrorKind::PermissionDenied {
            return error;
        }
        let directory = directory.display();
        let problem = format!(
            "{error}; a new name lasts only where the directory may be read as well as written: allow both, or make \
             '{directory}' by hand"
        );
        io::Error::new(error.kind(), problem)
    };
    let checked = storage.check_writable(parent);
    checked.map_err(|error| Error::io("make a directory in", parent, refused(error)))
}

/// Makes the name of a directory durable that may have been made by a start that was cut short before it did so.
fn sync_above(storage: &Arc<dyn Storage>, directory: &Path) -> Result<(), Error> {
    if directory.parent().is_none() || !steps::is_taken("directory sync above a directory that is there") {
        return Ok(());
    }
    match storage.sync_directory_to_go_on(directory_of(directory)) {
        // Who may not read the parent has made no directory in it.
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => {
            Err(Error::io("sync the parent of", directory, error))
        }
        _ => Ok(()),
    }
}

fn exists(storage: &Arc<dyn Storage>, directory: &Path) -> Result<bool, Error> {
    match storage.stat(directory) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("look at", directory, error)),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use std::io;
    use std::path::Path;
    use std::sync::Arc;

    use backhaul_backends::MemoryBackend;
    use backhaul_journal::simulation::{Call, Choices, SimDisk};

    use super::Names;
    use crate::config::Config;
    use crate::engine::{Engine, NewDownload, read_catalog};
    use crate::environment::FixedEnvironment;
    use crate::error::Error;
    use crate::operation::TransferId;
    use crate::vault::SealedName;

    fn open(disk: &SimDisk) -> Engine {
        open_as(disk, false)
    }

    fn open_as(disk: &SimDisk, is_short_lived: bool) -> Engine {
        let environment = FixedEnvironment::new(1).on(disk.storage());
        let backends = vec![Arc::new(MemoryBackend::new()) as _];
        let config = Config {
            is_short_lived,
            ..Config::default()
        };
        Engine::open(Path::new("/state"), config, environment, backends).unwrap()
    }

    fn download(name: &str, secret_headers: Vec<String>) -> NewDownload {
        NewDownload {
            url: format!("mem://host/{name}"),
            destination: format!("/data/{name}").into(),
            secret_headers,
            hold: true,
            ..NewDownload::default()
        }
    }

    #[test]
    fn the_name_of_a_new_state_directory_lasts_once_something_in_it_was_accepted() {
        let disk = SimDisk::new();
        disk.put_directory(Path::new("/data"));
        for is_short_lived in [true, false] {
            let disk = disk.kill();
            let engine = open_as(&disk, is_short_lived);
            let id = engine.create(&[download("a", Vec::new())]).unwrap()[0];
            open(&disk.lose_unsynced()).find(id).unwrap();
        }
    }

    #[test]
    fn what_a_quicker_process_left_in_a_new_state_directory_lasts_before_it_is_relied_on() {
        let disk = SimDisk::new();
        disk.put_directory(Path::new("/data"));
        let secret = |name| download(name, vec!["X-Token: hush".into()]);
        // The state directory is made, and before it is locked, another process has begun its vault and been killed.
        let (other, mut is_done) = (disk.clone(), false);
        disk.fail_with(move |call, path| {
            if call == Call::Lock && path == Path::new("/state/LOCK") && !is_done {
                is_done = true;
                let engine = open(&other);
                engine.create(&[download("plain", Vec::new())]).unwrap();
                other
                    .storage()
                    .create_directory(Path::new("/state/vault"), 0o700)
                    .unwrap();
            }
            None::<io::Error>
        });
        let engine = open(&disk);
        let id = engine.create(&[secret("b")]).unwrap()[0];
        let engine = open(&disk.lose_unsynced());
        let operation = engine.find(id).unwrap();
        engine.core.vault.open(SealedName::of(&operation)).unwrap();
    }

    fn start(disk: &SimDisk, is_short_lived: bool, name: &str) -> Result<TransferId, Error> {
        let environment = FixedEnvironment::new(name.len() as u64).on(disk.storage());
        let backends = vec![Arc::new(MemoryBackend::new()) as _];
        let config = Config {
            is_short_lived,
            ..Config::default()
        };
        let engine = Engine::open(Path::new("/one/two/state"), config, environment, backends)?;
        let download = NewDownload {
            url: format!("mem://host/{name}"),
            ..download(name, vec!["X-Token: hush".into()])
        };
        let created = engine.create(&[download]).map_err(|(_, error)| error)?;
        Ok(created[0])
    }

    #[test]
    fn whichever_call_of_a_first_start_fails_the_next_one_succeeds_and_what_was_accepted_lasts() {
        for (is_short_lived, kind) in [true, false]
            .into_iter()
            .flat_map(|short| [(short, io::ErrorKind::Other), (short, io::ErrorKind::StorageFull)])
        {
            for failing in 0.. {
                let disk = SimDisk::new();
                disk.put_directory(Path::new("/data"));
                let mut calls = 0;
                disk.fail_with(move |call, _| {
                    calls += u64::from(call.is_change());
                    (call.is_change() && calls == failing + 1).then(|| io::Error::from(kind))
                });
                let first = start(&disk, is_short_lived, "first");
                disk.fail_no_more();
                for seed in (0..12).rev() {
                    let again = match seed {
                        0 => disk.clone(),
                        1 => disk.kill(),
                        seed => disk.cut_power(&mut Choices::seeded(seed)),
                    };
                    let second = start(&again, !is_short_lived, "second").unwrap();
                    let environment = FixedEnvironment::new(1).on(again.lose_unsynced().storage());
                    let catalog = read_catalog(Path::new("/one/two/state"), &environment).unwrap();
                    let has = |id: TransferId| catalog.operations.iter().any(|operation| operation.id == id);
                    assert!(has(second), "{failing} {seed}");
                    if let Ok(first) = &first {
                        assert!(has(*first), "{failing} {seed}");
                    }
                }
                if disk.changes() < failing {
                    break;
                }
            }
        }
    }

    #[test]
    fn a_state_directory_that_another_process_makes_meanwhile_is_none_of_this_one() {
        let disk = SimDisk::new();
        let other = disk.clone();
        disk.fail_with(move |call, path| {
            if call == Call::CreateDirectory && path == Path::new("/state") {
                let _ = other.storage().create_directory(path, 0o700);
            }
            None::<io::Error>
        });
        assert!(!Names::make(&disk.storage(), Path::new("/state")).unwrap().is_new());
    }

    #[test]
    fn a_name_that_a_killed_process_left_lasts_before_it_is_relied_on() {
        let disk = SimDisk::new();
        disk.put_directory(Path::new("/data"));
        let engine = open(&disk);
        engine.create(&[download("plain", Vec::new())]).unwrap();
        engine.close().unwrap();
        let secret = |name| download(name, vec!["X-Token: hush".into()]);
        let engine = open(&disk);
        // The vault is made, and its name never synced.
        disk.fail_with(|call, path| {
            let is_refused = call == Call::SyncDirectory && path == Path::new("/state");
            is_refused.then(|| io::Error::from(io::ErrorKind::StorageFull))
        });
        engine.create(&[secret("a")]).unwrap_err();
        drop(engine);
        disk.fail_no_more();
        let id = open(&disk).create(&[secret("b")]).unwrap()[0];
        let engine = open(&disk.lose_unsynced());
        let operation = engine.find(id).unwrap();
        engine.core.vault.open(SealedName::of(&operation)).unwrap();
    }
}
