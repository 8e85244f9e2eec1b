//! The open journal: appends into memory, and commits in groups that one thread leads for all.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use crate::directory::Directory;
use crate::error::Error;
use crate::format::{BODY_BYTES_MAX, FILES_MAX, RECORD_BYTES_MAX, RECORD_PREFIX_BYTES};
use crate::group::Group;
use crate::lock::Lock;
use crate::open;
use crate::options::{Options, Urgency};
use crate::replay::{Lsn, Replay};
use crate::report::{Report, SnapshotReport};
use crate::segment::{Log, LogCounts, SegmentEntry};
use crate::snapshot::SnapshotWriter;
use crate::steps;
use crate::storage::Storage;
use crate::sync::{Condvar, Mutex, MutexGuard, sleep, yield_now};

/// Most segments, so that files are left for snapshots.
const SEGMENTS_MAX: usize = FILES_MAX - 1024;
/// A checkpoint is due beyond this many segments to replay.
const SEGMENTS_DUE: usize = 512;

/// A journal open for writing. All methods may be called from many threads at once.
///
/// Dropping it without [`Journal::close`] is like a crash: what was synced stays, the rest is lost.
pub struct Journal {
    pub(crate) directory: Directory,
    pub(crate) id: [u8; 16],
    pub(crate) options: Options,
    pub(crate) state: Mutex<State>,
    pub(crate) progress: Condvar,
    pub(crate) checkpointing: Mutex<()>,
    pub(crate) _lock: Lock,
}

/// What the threads share.
pub(crate) struct State {
    /// Appended and not yet on its way to the disk.
    pub pending: Group,
    /// The group before: its memory is for the one after, its number of records tells how busy it is.
    pub spare: Group,
    /// Taken out by the thread that leads; whoever finds it here may lead.
    pub log: Option<Box<Log>>,
    pub durable: u64,
    pub poison: Option<Arc<Error>>,
    pub reserve_spent: bool,
    /// Oldest first; the last one is written to or was the last to be.
    pub segments: Vec<SegmentEntry>,
    /// The snapshot that replay would begin with.
    pub snapshot: Option<SnapshotReport>,
    /// The one before, made or taken over by this process.
    pub previous: Option<SnapshotReport>,
    /// Further snapshots found at the open, older or damaged: LSN and parts. The next checkpoint makes them obsolete.
    pub other_snapshots: Vec<(u64, Vec<u32>)>,
    /// Snapshots to be removed.
    pub obsolete: Vec<(u64, Vec<u32>)>,
    pub segments_since_snapshot: usize,
    pub bytes_since_snapshot: u64,
    pub stats: Stats,
}

/// Counters since the journal was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Calls that made frames durable, those that begin a segment included.
    pub syncs: u64,
    /// Commits.
    pub groups: u64,
    /// Records made durable.
    pub records: u64,
    /// Bytes of frames made durable.
    pub bytes: u64,
    /// Writes of groups into the active segment. A group that begins a segment is written with it and not counted.
    pub writes: u64,
    /// Segments made.
    pub rotations: u64,
    /// Snapshots made.
    pub checkpoints: u64,
    /// Most records in one commit.
    pub group_records_max: u64,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Journal")
            .field("directory", &self.directory.path)
            .finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens the journal in a directory for writing, and makes both where they are missing (mode 0700). `replay` gets
    /// the newest intact snapshot and every record after it.
    ///
    /// A clean journal is not written to before the first commit. What a crash left unproven is written anew first.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where there is damage that no crash explains, [`Error::Unsupported`], [`Error::Refused`] by
    /// the replay, [`Error::Incomplete`], [`Error::DiskFull`], [`Error::Io`]. Nothing that was there is changed then.
    pub fn open(
        storage: Arc<dyn Storage>,
        directory: &Path,
        lock: Lock,
        options: Options,
        replay: &mut dyn Replay,
    ) -> Result<(Journal, Report), Error> {
        open::open(
            Directory {
                storage,
                path: directory.to_owned(),
            },
            lock,
            options.bounded(),
            replay,
        )
    }

    /// The random number that the journal got when it was made.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.id
    }

    /// Adds a record, at most [`RECORD_BYTES_MAX`] bytes, and returns its LSN. It is durable once [`Journal::sync`]
    /// says so. Where too much waits for a commit, this call leads one, or waits for the thread that does.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::DiskFull`] for a normal record while the reserve is spent; [`Error::Poisoned`].
    pub fn append(&self, record: &[u8], urgency: Urgency) -> Result<Lsn, Error> {
        check_record(record)?;
        let mut state = self.room(RECORD_PREFIX_BYTES + record.len(), urgency)?;
        state.pending.push(record);
        Ok(Lsn(state.pending.next() - 1))
    }

    /// Adds records that come back all or not at all, and returns the LSN of the last. They share one frame of at most
    /// [`BODY_BYTES_MAX`] bytes, of which each record takes two more than its length.
    ///
    /// # Errors
    /// [`Error::EmptyBatch`], and as [`Journal::append`].
    pub fn append_batch(&self, records: &[&[u8]], urgency: Urgency) -> Result<Lsn, Error> {
        if records.is_empty() {
            return Err(Error::EmptyBatch);
        }
        records.iter().try_for_each(|record| check_record(record))?;
        let body_len = records.iter().fold(0_usize, |len, record| {
            len.saturating_add(RECORD_PREFIX_BYTES + record.len())
        });
        if body_len > BODY_BYTES_MAX {
            return Err(Error::TooLarge("a batch", body_len as u64, BODY_BYTES_MAX as u64));
        }
        let mut state = self.room(body_len, urgency)?;
        state.pending.push_batch(records);
        Ok(Lsn(state.pending.next() - 1))
    }

    /// Returns once every record up to and including `upto` is durable. One of the threads that wait here writes and
    /// syncs for all of them.
    ///
    /// # Errors
    /// [`Error::NotAppended`]; [`Error::Poisoned`], after which it is unknown which of the records not yet
    /// acknowledged are on the disk.
    pub fn sync(&self, upto: Lsn) -> Result<(), Error> {
        let mut state = self.lock();
        loop {
            // What was durable before a failure still is.
            if upto.0 < state.durable {
                return Ok(());
            }
            state.usable()?;
            if upto.0 >= state.pending.next() {
                return Err(Error::NotAppended(upto, Lsn(state.pending.next())));
            }
            state = self.lead_or_wait(state);
        }
    }

    /// Every record below this one is durable.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        Lsn(self.lock().durable)
    }

    /// Whether the log has grown so much that a checkpoint is worth its bytes: beyond
    /// [`Options::checkpoint_bytes`] and four times the last snapshot, or 512 segments.
    #[must_use]
    pub fn checkpoint_due(&self) -> bool {
        let state = self.lock();
        let snapshot_bytes = state.snapshot.map_or(0, |snapshot| snapshot.bytes);
        // Four times, so that snapshots cost at most a quarter of what the log does.
        state.bytes_since_snapshot > self.options.checkpoint_bytes.max(snapshot_bytes.saturating_mul(4))
            || state.segments_since_snapshot > SEGMENTS_DUE
    }

    /// Writes a snapshot of the application's state and removes what replay no longer needs. Two snapshots are kept.
    /// Returns the LSN that the snapshot covers: the effect of every record below is in it.
    ///
    /// Appends go on meanwhile, so the state may hold the effect of later records too, which are replayed on top of it.
    /// Two duties follow for the caller. A record's effect must be visible to `write` as soon as `append` has returned
    /// its LSN: append under the lock that guards the state, and take that lock in `write`. And replaying a record whose
    /// effect is there already must change nothing.
    ///
    /// Where nothing was appended since the last snapshot, that one stands and `write` is not called. `write` must not
    /// call `checkpoint`.
    ///
    /// # Errors
    /// What `write` returns, what the file system refuses, [`Error::Poisoned`]. Only the last concerns the log: after
    /// another error the journal goes on, and the next checkpoint may succeed.
    pub fn checkpoint(
        &self,
        write: &mut dyn FnMut(&mut SnapshotWriter<'_>) -> Result<(), Error>,
    ) -> Result<Lsn, Error> {
        let _alone = self.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        let (lsn, bytes_before) = {
            let state = self.lock();
            state.usable()?;
            if state.segments.is_empty() && state.pending.records() == 0 {
                // A new journal that waits for its first records has no file yet, and a snapshot alone is no journal.
                return Ok(Lsn(state.pending.next()));
            }
            (state.pending.next(), state.bytes_since_snapshot)
        };
        if self.lock().snapshot.is_none_or(|snapshot| snapshot.lsn.0 != lsn) {
            let mut writer = SnapshotWriter::new(&self.directory, self.id, lsn)?;
            write(&mut writer)?;
            // The state may hold the effect of records appended while it was written. Were they lost in a crash, their
            // numbers would be given to other records, which the snapshot would then seem to contain.
            let reach = if steps::is_taken("sync of the log before a snapshot's end") {
                self.sync_all()?
            } else {
                self.lock().pending.next()
            };
            let report = writer.finish(reach)?;
            self.lock().adopt(report, bytes_before);
        }
        self.remove_obsolete();
        Ok(Lsn(lsn))
    }

    /// What was done since the journal was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.lock().stats
    }

    /// Makes everything durable and says so in the log, so that the next open has nothing to write.
    ///
    /// # Errors
    /// [`Error::Poisoned`], [`Error::Io`]. Only in the first case records may be missing.
    pub fn close(self) -> Result<(), Error> {
        self.sync_all()?;
        let mut state = self.lock();
        let next = state.durable;
        match &mut state.log {
            Some(log) => log.close(next),
            None => Ok(()),
        }
    }

    /// Makes durable whatever was appended, and returns the LSN after it.
    fn sync_all(&self) -> Result<u64, Error> {
        let next = {
            let state = self.lock();
            state.usable()?;
            state.pending.next()
        };
        self.sync(Lsn(next - 1))?;
        Ok(next)
    }

    /// Waits until a body of this length may be appended.
    fn room(&self, body_len: usize, urgency: Urgency) -> Result<MutexGuard<'_, State>, Error> {
        let mut state = self.lock();
        loop {
            state.usable()?;
            if state.reserve_spent && urgency == Urgency::Normal {
                state = self.refill(state);
                if state.reserve_spent {
                    return Err(Error::DiskFull(self.directory.path.clone()));
                }
                continue;
            }
            if state.pending.fits(body_len, self.options.group_bytes_max as usize) {
                return Ok(state);
            }
            state = self.lead_or_wait(state);
        }
    }

    /// Tries to set the reserve aside again, unless a commit is under way, which tries it too.
    fn refill<'j>(&'j self, mut state: MutexGuard<'j, State>) -> MutexGuard<'j, State> {
        if let Some(log) = state.log.take() {
            let snapshot_bytes = state.snapshot.map_or(0, |snapshot| snapshot.bytes);
            drop(state);
            let mut turn = Turn::new(self, log);
            turn.log().refill_reserve(snapshot_bytes);
            turn.outcome = Outcome::Idle;
            drop(turn);
            state = self.lock();
        }
        state
    }

    /// Commits what is pending, or waits for the thread that is at it. Whether that went well, the state tells.
    fn lead_or_wait<'j>(&'j self, mut state: MutexGuard<'j, State>) -> MutexGuard<'j, State> {
        let Some(log) = state.log.take() else {
            return self.progress.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        let mut turn = Turn::new(self, log);
        if !self.options.commit_delay.is_zero() {
            drop(state);
            sleep(self.options.commit_delay);
            state = self.lock();
        } else if state.spare.records() > 1 {
            // The threads that the group before has just released are about to append again. Letting them go first
            // brings nearly all of them into this group; else two halves of the threads would take turns.
            drop(state);
            yield_now();
            state = self.lock();
        }
        let next = state.pending.next();
        let mut empty = std::mem::take(&mut state.spare);
        empty.clear(next);
        turn.group = std::mem::replace(&mut state.pending, empty);
        let snapshot_bytes = state.snapshot.map_or(0, |snapshot| snapshot.bytes);
        let segments = state.segments.len();
        drop(state);
        turn.commit(segments, snapshot_bytes);
        drop(turn);
        self.lock()
    }

    /// Removes what neither the newest snapshot nor the one before it needs, oldest first. What cannot be removed, or
    /// comes back because the removal was not synced, is only in the way until a later open's checkpoint.
    fn remove_obsolete(&self) {
        let names = self.lock().take_obsolete();
        for name in names {
            let _ = self.directory.remove(&name);
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the state whole: a leader's is turned into poison by its turn.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stats {
    fn count_log(&mut self, counts: LogCounts) {
        self.syncs = counts.syncs;
        self.writes = counts.writes;
        self.rotations = counts.rotations;
    }

    fn count_group(&mut self, group: &Group) {
        self.groups += 1;
        self.records += group.records();
        self.bytes += group.len_bytes() as u64;
        self.group_records_max = self.group_records_max.max(group.records());
    }
}

impl State {
    /// An earlier failure is the one to tell of.
    fn poison(&mut self, error: Error) {
        self.poison.get_or_insert_with(|| Arc::new(error));
    }

    fn usable(&self) -> Result<(), Error> {
        match &self.poison {
            Some(cause) => Err(Error::Poisoned(Arc::clone(cause))),
            None => Ok(()),
        }
    }
}

fn check_record(record: &[u8]) -> Result<(), Error> {
    if record.len() > RECORD_BYTES_MAX {
        return Err(Error::TooLarge(
            "a record",
            record.len() as u64,
            RECORD_BYTES_MAX as u64,
        ));
    }
    Ok(())
}

/// One thread's turn at the log. However it ends, also by a panic, the log comes back and every waiter wakes.
struct Turn<'j> {
    journal: &'j Journal,
    log: Option<Box<Log>>,
    group: Group,
    outcome: Outcome,
}

enum Outcome {
    /// What counts if the turn does not come to its end.
    Panicked,
    /// Nothing was to be written.
    Idle,
    Committed(Option<SegmentEntry>),
    Failed(Error),
}

impl<'j> Turn<'j> {
    fn new(journal: &'j Journal, log: Box<Log>) -> Turn<'j> {
        Turn {
            journal,
            log: Some(log),
            group: Group::default(),
            outcome: Outcome::Panicked,
        }
    }

    fn log(&mut self) -> &mut Log {
        self.log
            .as_mut()
            .expect("the log leaves the turn only when it is dropped")
    }

    fn commit(&mut self, segments: usize, snapshot_bytes: u64) {
        let log = self
            .log
            .as_mut()
            .expect("the log leaves the turn only when it is dropped");
        let outcome = if segments >= SEGMENTS_MAX && log.must_rotate(&self.group) {
            Err(Error::TooMany(
                "segments without a checkpoint",
                segments as u64 + 1,
                SEGMENTS_MAX as u64,
            ))
        } else {
            log.commit(&mut self.group, segments)
        };
        self.outcome = match outcome {
            Ok(made) => {
                log.refill_reserve(snapshot_bytes);
                Outcome::Committed(made)
            }
            Err(error) => Outcome::Failed(error),
        };
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.journal.lock();
        if let Some(log) = self.log.take() {
            state.reserve_spent = log.reserve.is_spent();
            state.stats.count_log(log.counts);
            state.log = Some(log);
        }
        match std::mem::replace(&mut self.outcome, Outcome::Idle) {
            Outcome::Committed(made) => {
                state.durable = self.group.next();
                state.bytes_since_snapshot += self.group.len_bytes() as u64;
                state.stats.count_group(&self.group);
                state.spare = std::mem::take(&mut self.group);
                if let Some(entry) = made {
                    state.segments.push(entry);
                    state.segments_since_snapshot += 1;
                }
            }
            Outcome::Failed(error) if steps::is_taken("poisoning") => state.poison(error),
            Outcome::Idle | Outcome::Failed(_) => {}
            Outcome::Panicked => state.poison(Error::Panicked(self.journal.directory.path.clone())),
        }
        drop(state);
        self.journal.progress.notify_all();
    }
}
