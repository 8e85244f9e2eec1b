//! Shortening the journal: all operations as they are, in one snapshot; and what goes out of the history before that.

use std::io;
use std::sync::PoisonError;

use backhaul_journal::Urgency;

use super::core::{Core, TOGETHER_MAX};
use crate::error::Error;
use crate::operation::{CompletionEvent, Entry, TransferId, encode};
use crate::vault::SealedName;

/// Operations of a snapshot that are encoded under one hold of the lock.
const SNAPSHOT_STEP: usize = 256;

impl Core {
    /// Removes from the history what it has no room or time for: a few at a time, so that others may have the lock in between.
    pub(crate) fn sweep_history(&self) -> Result<(), Error> {
        // Ends: each turn but the last removes as many operations as it asks for.
        loop {
            let mut state = self.state();
            for id in state.table.groups().expired() {
                self.record_completion(&mut state, id, CompletionEvent::Removed, Urgency::Critical)?;
            }
            let now_ms = self.now().wall_ms;
            let expired = state.table.expired(now_ms, &self.config.retention, TOGETHER_MAX);
            for id in &expired {
                let forgotten = self.forget(&mut state, *id)?;
                if let Some(operation) = forgotten.filter(|operation| operation.spec.has_secrets) {
                    self.vault.remove(SealedName::of(&operation))?;
                }
            }
            if expired.len() < TOGETHER_MAX {
                return Ok(());
            }
        }
    }

    /// Writes a snapshot where the journal has grown enough. Transfers go on meanwhile.
    ///
    /// A snapshot that fails loses nothing: the journal goes on without, and the next one may succeed.
    pub(crate) fn checkpoint_if_due(&self) {
        if let Err(error) = self.checkpoint_now_if_due() {
            log::warn!("the journal could not be shortened: {error}");
        }
    }

    fn checkpoint_now_if_due(&self) -> Result<(), Error> {
        if !self.journal.checkpoint_due() {
            return Ok(());
        }
        self.journal.checkpoint(&mut |writer| {
            for bytes in self.encoded_groups() {
                writer.record(&bytes)?;
            }
            let mut next = Some(0);
            while let Some(first) = next {
                let (entries, after) = self.encoded(first);
                for bytes in entries {
                    writer.record(&bytes)?;
                }
                self.check_readable()?;
                next = after;
            }
            // The totals come last: what is forgotten after them still has its row in the snapshot, and is counted anew.
            let totals = self.encoded_totals();
            self.check_readable()?;
            writer.record(&totals)
        })?;
        Ok(())
    }

    /// A snapshot without the operations that cannot be read, or that a panic has left half changed, would lose them.
    fn check_readable(&self) -> Result<(), backhaul_journal::Error> {
        let unreadable =
            |error| backhaul_journal::Error::Io("snapshot", self.state_directory.clone(), io::Error::other(error));
        self.trouble.check().map_err(unreadable)
    }

    fn encoded_totals(&self) -> Vec<u8> {
        let state = self.state();
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let as_of = last.map_or(state.table.totals_as_of(), |lsn| lsn.0 + 1);
        let unacknowledged_lost = state.table.unacknowledged_lost();
        let mut bytes = Vec::new();
        encode(
            &Entry::Totals {
                unacknowledged_lost,
                as_of,
            },
            &mut bytes,
        );
        bytes
    }

    /// The groups come first: who is in them is queued as they say.
    fn encoded_groups(&self) -> Vec<Vec<u8>> {
        let state = self.state();
        let groups = state.table.groups();
        let transfer = groups.rows().into_iter();
        let transfer = transfer.map(|(as_of, group)| Entry::Group { as_of, group });
        let completion = groups.completion_rows().map(|(as_of, completion)| Entry::Completion {
            as_of,
            completion: completion.clone(),
        });
        let all = transfer.chain(completion).map(|entry| {
            let mut bytes = Vec::new();
            encode(&entry, &mut bytes);
            bytes
        });
        all.collect()
    }

    /// Some operations from an order on, and from which order on there are more. Those that are created meanwhile may be
    /// among them or not: the records of what happens to them stand behind the snapshot.
    fn encoded(&self, first: u64) -> (Vec<Vec<u8>>, Option<u64>) {
        let state = self.state();
        let some: Vec<(u64, TransferId)> = state.table.ids_from(first).take(SNAPSHOT_STEP).collect();
        let entries = some.iter().map(|(_, id)| {
            let mut bytes = Vec::new();
            state.table.encode(*id, &mut bytes);
            bytes
        });
        let last = some.last().filter(|_| some.len() == SNAPSHOT_STEP);
        (entries.collect(), last.and_then(|(order, _)| order.checked_add(1)))
    }

    /// One more than the number of the last record, as far as this engine knows.
    pub(crate) fn next_lsn(&self) -> u64 {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.map_or(self.first_lsn, |lsn| lsn.0 + 1)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use super::super::{Changes, Engine, NewDownload, Until};
    use crate::config::{Config, Layout};
    use crate::engine::room::BATCH_MAX;
    use crate::environment::Environment;

    fn has_snapshot(directory: &Path) -> bool {
        let names = std::fs::read_dir(Layout::new(directory).journal()).unwrap();
        names
            .map(|entry| entry.unwrap().file_name())
            .any(|name| name.to_string_lossy().contains(".snap"))
    }

    #[test]
    fn the_journal_is_shortened_and_the_history_swept_while_files_come_without_a_pause() {
        // Ends come in batches, and half of them in several.
        const FILES: u64 = 10 * BATCH_MAX as u64;
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("state");
        let mut config = Config {
            checkpoint_bytes: 16 << 10,
            jobs_max: 4,
            ..Config::default()
        };
        config.retention.unacknowledged_max = 64;
        let memory = backhaul_backends::MemoryBackend::new();
        let files = (0..FILES).map(|number| {
            memory.put(
                &format!("mem://host/{number}"),
                backhaul_backends::Resource::new(vec![1; 512], "\"1\""),
            );
            NewDownload {
                url: format!("mem://host/{number}"),
                destination: home.path().join(number.to_string()),
                ..NewDownload::default()
            }
        });
        let files: Vec<NewDownload> = files.collect();
        let backends = vec![std::sync::Arc::new(memory) as _];
        let engine = Engine::open(&state, config, Environment::system(), backends).unwrap();
        engine.create(&files).unwrap();
        let mut ended_before = None;
        let mut known_least = usize::MAX;
        let tick = Some(Duration::from_millis(1));
        let seen = engine.run(Until::Idle, tick, |engine| {
            let state_now = engine.core.state();
            let (ended, known) = (state_now.ended, state_now.table.len());
            drop(state_now);
            if ended < FILES / 2 {
                known_least = known_least.min(known);
            }
            if ended_before.is_none() && has_snapshot(&state) {
                ended_before = Some(ended);
            }
        });
        seen.unwrap();
        assert!(
            ended_before.is_some_and(|ended| ended < FILES / 2),
            "the first snapshot came after {ended_before:?} of {FILES}"
        );
        assert!(
            known_least < files.len(),
            "nothing was forgotten before half of them had ended"
        );
    }

    #[test]
    fn the_journal_is_shortened_also_where_only_clients_write_to_it() {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("state");
        let config = Config {
            checkpoint_bytes: 16 << 10,
            ..Config::default()
        };
        let backends = vec![std::sync::Arc::new(backhaul_backends::MemoryBackend::new()) as _];
        let engine = Engine::open(&state, config, Environment::system(), backends).unwrap();
        let held = NewDownload {
            url: "mem://host/a".into(),
            destination: home.path().join("a"),
            app: "app".into(),
            hold: true,
            ..NewDownload::default()
        };
        let id = engine.create(&[held]).unwrap()[0];
        std::thread::scope(|scope| {
            let running = scope.spawn(|| engine.run(Until::Stopped, None, |_| ()));
            for number in 0..64 {
                let headers = vec![format!("X-Number: {number:01024}")];
                let changes = Changes {
                    headers,
                    ..Changes::default()
                };
                engine.set(id, &changes).unwrap();
            }
            let end = Instant::now() + Duration::from_secs(20);
            while !has_snapshot(&state) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(2));
            }
            engine.stop();
            running.join().unwrap().unwrap();
        });
        assert!(has_snapshot(&state));
        assert_eq!(engine.view(id).unwrap().attempts, 0);
    }
}
