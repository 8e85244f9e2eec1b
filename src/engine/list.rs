//! Recording a creation. A list may come part by part, so that it is never there as a whole, and counts as one.

use std::collections::HashMap;
use std::io;
use std::sync::{MutexGuard, PoisonError};

use backhaul_journal::{Lsn, Urgency, steps};

use super::Engine;
use super::create::{CheckedDownload, check_free};
use super::spool::{self, SpooledBody};
use crate::error::Error;
use crate::operation::{BatchId, CompletionGroupId, Event, TransferId};
use crate::vault::SealedName;

/// What the record of a creation takes besides its texts, rounded up.
const RECORD_BYTES: usize = 160;
/// What the record of a request body takes besides its path, rounded up.
const BODY_BYTES: usize = 64;
/// What the record of a digest takes, rounded up.
const DIGEST_BYTES: usize = 80;
/// What the journal takes besides the records of a list: a segment made in advance, and its reserve.
const JOURNAL_BYTES: u64 = 768 * 1024;

/// A list that is being created. Where it is dropped before its last part was recorded, nothing of it was ever there.
///
/// Nobody else creates anything meanwhile. Between two parts listings show what was recorded so far, so that only who has an
/// engine for himself may hand in more than one.
pub(crate) struct Creation<'a> {
    engine: &'a Engine,
    _alone: MutexGuard<'a, ()>,
    /// Where there is more than one.
    batch: Option<BatchId>,
    /// What the journal needs for all so far, and the room that there was for it at the beginning.
    needed_bytes: u64,
    available_bytes: Option<u64>,
    last: Option<Lsn>,
    /// How many of them join each completion group.
    joining: HashMap<CompletionGroupId, usize>,
    /// What has to be taken back if it comes to nothing.
    sealed: Vec<TransferId>,
    spooled: Vec<SpooledBody>,
    is_committed: bool,
}

impl Engine {
    /// Creates downloads that were checked; all of them or none. They are durable on return.
    ///
    /// # Errors
    /// The position of the first one that is refused, and why: [`Error::Conflict`],
    /// [`Error::DestinationExists`], [`Error::LimitReached`], or what vault or journal answered.
    pub fn accept(&self, checked: Vec<CheckedDownload>) -> Result<Vec<TransferId>, (usize, Error)> {
        let mut creation = self.begin_creation(checked.len()).map_err(|error| (0, error))?;
        creation.add(&checked, true)?;
        creation.finish().map_err(|error| (0, error))?;
        Ok(checked.into_iter().map(|one| one.id).collect())
    }

    /// Begins to create so many downloads.
    ///
    /// # Errors
    /// [`Error::Io`] where the state directory is not the one that was opened.
    pub(crate) fn begin_creation(&self, count: usize) -> Result<Creation<'_>, Error> {
        let alone = self.core.creating.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_place()?;
        let is_list = count > 1 && steps::is_taken("commit of a list");
        let batch = is_list.then(|| {
            let mut id = [0; 16];
            self.core.environment.random.fill(&mut id);
            BatchId(id)
        });
        let available = (count > 1).then(|| {
            let directory = &self.core.state_directory;
            self.core.environment.storage.available_bytes(directory).ok()
        });
        Ok(Creation {
            engine: self,
            _alone: alone,
            batch,
            needed_bytes: JOURNAL_BYTES,
            available_bytes: available.flatten(),
            last: None,
            joining: HashMap::new(),
            sealed: Vec::new(),
            spooled: Vec::new(),
            is_committed: false,
        })
    }
}

impl Creation<'_> {
    /// Records some more of them where nothing stands against it. With the last ones all of them count.
    ///
    /// # Errors
    /// As [`Engine::accept`], with the position among these. Nothing of the whole list is created then.
    pub(crate) fn add(&mut self, checked: &[CheckedDownload], is_last: bool) -> Result<(), (usize, Error)> {
        self.check(checked)?;
        spool::hand_over(&self.engine.core, checked)?;
        self.spooled
            .extend(checked.iter().filter_map(|one| one.spooled.clone()));
        self.seal(checked)?;
        self.record(checked, is_last).map_err(|error| (0, error))
    }

    /// Whether anything stands against some more of them, as far as it can be told before they are recorded.
    ///
    /// # Errors
    /// As [`Creation::add`].
    pub(crate) fn check(&mut self, checked: &[CheckedDownload]) -> Result<(), (usize, Error)> {
        let engine = self.engine;
        engine.check_limit(checked.len()).map_err(|error| (0, error))?;
        engine.check_app_limits(checked)?;
        self.check_room(checked).map_err(|error| (0, error))?;
        for (index, one) in checked.iter().enumerate() {
            engine.check_exclusive(one).map_err(|error| (index, error))?;
        }
        engine.check_groups(checked)?;
        engine.check_completion_groups(checked, &mut self.joining)?;
        check_free(checked, &engine.core.environment)
    }

    /// They are durable on return.
    ///
    /// # Errors
    /// What the journal answers.
    pub(crate) fn finish(self) -> Result<(), Error> {
        let (core, last) = (&self.engine.core, self.last);
        // No lock is held: they stand in the table, where whoever asks for the same destination finds them, and all that
        // wait here share the journal's syncs.
        drop(self);
        if let Some(last) = last
            && steps::is_taken("sync of a creation")
        {
            core.sync(last)?;
        }
        // A worker that takes some of it wakes the next one for the rest.
        core.work.notify_one();
        Ok(())
    }

    fn seal(&mut self, checked: &[CheckedDownload]) -> Result<(), (usize, Error)> {
        let secret = checked.iter().enumerate().filter(|(_, one)| one.spec.has_secrets);
        for (index, one) in secret {
            self.sealed.push(one.id);
            let sealed = self.engine.core.vault.seal(SealedName::first(one.id), &one.secrets);
            sealed.map_err(|error| (index, error))?;
        }
        Ok(())
    }

    /// A long list must not take the room that is set aside for ends and cancels.
    fn check_room(&mut self, checked: &[CheckedDownload]) -> Result<(), Error> {
        self.needed_bytes += checked.iter().map(record_bytes).sum::<usize>() as u64;
        let needed = self.needed_bytes;
        match self.available_bytes {
            Some(available) if available < needed => {
                let problem = format!("{needed} bytes are needed for so long a list, {available} are free");
                Err(Error::io(
                    "add to the journal in",
                    &self.engine.core.state_directory,
                    io::Error::new(io::ErrorKind::StorageFull, problem),
                ))
            }
            _ => Ok(()),
        }
    }

    /// All of a list stand under one commit: a crash before it leaves none of them.
    fn record(&mut self, checked: &[CheckedDownload], is_last: bool) -> Result<(), Error> {
        let core = &self.engine.core;
        let mut state = core.state();
        for one in checked {
            let (spec, started) = (one.spec.clone(), !one.hold);
            let created = Event::Created {
                spec,
                started,
                batch: self.batch,
            };
            self.last = Some(core.record_as(&mut state, one.id, created, Urgency::Normal)?);
        }
        if let Some(batch) = self.batch.filter(|_| is_last && self.last.is_some()) {
            self.last = Some(core.commit(&mut state, batch)?);
        }
        // From here on they may come out of the journal whatever is answered, and then they need their secrets.
        self.is_committed = is_last;
        Ok(())
    }
}

impl Drop for Creation<'_> {
    fn drop(&mut self) {
        if self.is_committed {
            return;
        }
        let core = &self.engine.core;
        core.state().table.drop_uncommitted();
        if core.trouble.is_there() {
            // After a panic it is not known what the journal has of them; the next start sweeps what nobody needs.
            return;
        }
        for spooled in &self.spooled {
            spooled.give_back();
        }
        for id in &self.sealed {
            // What stays is swept at the next start.
            let _ = core.vault.remove(SealedName::first(*id));
        }
    }
}

/// What one takes in the journal, rounded up.
fn record_bytes(one: &CheckedDownload) -> usize {
    let headers: usize = one
        .spec
        .headers
        .iter()
        .map(|header| header.name.len() + header.value.len() + 8)
        .sum();
    let mirrors: usize = one.spec.mirrors.iter().map(|mirror| mirror.len() + 8).sum();
    let digests = one.spec.digests.len() * DIGEST_BYTES;
    let body = one.spec.body.as_ref().map_or(0, |body| body.shown().len() + BODY_BYTES);
    let group = one.spec.group.as_deref().map_or(0, str::len);
    let proxy = one.spec.proxy.as_deref().map_or(0, str::len);
    let paths = one.spec.url.len() + one.spec.destination.as_os_str().len();
    body + RECORD_BYTES + paths + headers + mirrors + digests + group + proxy
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use backhaul_backends::MemoryBackend;
    use backhaul_journal::simulation::SimDisk;

    use super::*;
    use crate::config::Config;
    use crate::engine::NewDownload;
    use crate::environment::FixedEnvironment;

    fn open(disk: &SimDisk) -> Engine {
        let environment = FixedEnvironment::new(1).on(disk.storage());
        let backend = Arc::new(MemoryBackend::new());
        let opened = Engine::open(Path::new("/state"), Config::default(), environment, vec![backend]);
        opened.expect("it opens")
    }

    fn list() -> Vec<NewDownload> {
        let download = |number| NewDownload {
            url: format!("mem://host/{number}"),
            destination: format!("/data/{number}").into(),
            hold: true,
            ..NewDownload::default()
        };
        (0..4).map(download).collect()
    }

    #[test]
    fn of_a_list_whose_creation_is_given_up_nothing_stays_and_it_can_be_created_again() {
        let disk = SimDisk::new();
        disk.put_directory(Path::new("/data"));
        let engine = open(&disk);
        let checked = engine.checks(4).check(&list()).expect("it is in order");
        let mut creation = engine.begin_creation(4).expect("it begins");
        creation.add(&checked[..2], false).expect("nothing stands against it");
        assert_eq!(engine.core.state().table.len(), 2);
        drop(creation);
        assert_eq!(engine.core.state().table.len(), 0);
        let again = engine.create(&list()).expect("nothing stands in its way");
        let ids = engine.core.state().table.ids();
        assert_eq!(ids, again);
        engine.close().expect("it closes");
        assert_eq!(open(&disk).core.state().table.ids(), again, "nor after a restart");
    }

    #[test]
    fn what_is_not_accepted_yet_cannot_be_changed_so_that_no_record_of_it_proves_an_acceptance() {
        let is_refused = |result| matches!(result, Err(Error::NotNow { .. }));
        for is_given_up in [true, false] {
            let disk = SimDisk::new();
            disk.put_directory(Path::new("/data"));
            let engine = open(&disk);
            let checked = engine.checks(4).check(&list()).expect("it is in order");
            let ids: Vec<TransferId> = checked.iter().map(CheckedDownload::id).collect();
            let mut creation = engine.begin_creation(4).expect("it begins");
            creation.add(&checked[..2], false).expect("nothing stands against it");
            assert!(is_refused(engine.start(ids[0])));
            assert!(is_refused(engine.cancel(ids[1])));
            assert!(is_refused(engine.remove(ids[1])));
            assert!(is_refused(engine.acknowledge(&ids[..1])));
            if is_given_up {
                drop(creation);
                engine.core.sync_all().expect("the disk takes everything");
                assert!(open(&disk.kill()).core.state().table.ids().is_empty());
            } else {
                creation.add(&checked[2..], true).expect("nothing stands against it");
                creation.finish().expect("it is durable");
                engine.start(ids[0]).expect("it is accepted now");
                assert_eq!(engine.core.state().table.ranked(), ids[..1]);
                engine.cancel(ids[1]).expect("it is accepted now");
            }
        }
    }

    #[test]
    fn a_list_counts_with_its_last_part_and_all_of_it_may_start_then() {
        let disk = SimDisk::new();
        disk.put_directory(Path::new("/data"));
        let engine = open(&disk);
        let mut checked = engine.checks(4).check(&list()).expect("it is in order");
        for one in &mut checked {
            one.hold = false;
        }
        let mut creation = engine.begin_creation(4).expect("it begins");
        creation.add(&checked[..2], false).expect("nothing stands against it");
        assert!(engine.core.state().table.ranked().is_empty());
        creation.add(&checked[2..], true).expect("nothing stands against it");
        creation.finish().expect("it is durable");
        let ids: Vec<TransferId> = checked.iter().map(CheckedDownload::id).collect();
        assert_eq!(engine.core.state().table.ranked(), ids);
        drop(engine);
        assert_eq!(
            open(&disk).core.state().table.ids(),
            ids,
            "a crash takes nothing of it back"
        );
    }
}
