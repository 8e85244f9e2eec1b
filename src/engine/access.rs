//! Reading a file while it is fetched: what is there of it now, and where its bytes are.
//!
//! Invariants: bytes are read from the file of the generation that they are said to be of; no file is touched under the
//! lock of `Core`; whoever waits is woken by whatever may bring him on, and asks nothing twice in the meantime.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use backhaul_backends::WebErrorStatus;
use backhaul_journal::{Access, Stat, StorageFile};

use super::Engine;
use super::create::NewDownload;
use super::crew::Crew;
use super::ledger::Ledger;
use super::part::part_path;
use crate::error::Error;
use crate::hashed::ById;
use crate::operation::{Operation, Outcome, Phase, TransferId};

/// Most bytes of one read.
pub const READ_BYTES_MAX: usize = 1 << 20;

/// Looks for a file that is renamed or given up at the same moment; then a read waits for what comes of it.
const LOOKS_MAX: u32 = 4;
/// The longest that one wait on the system takes; after it the time is looked at again.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// What a read brought.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadOutcome {
    /// The bytes from the offset on, as many as lie side by side, up to what was asked for; of one generation. Empty where
    /// none came in time, and at the end.
    pub bytes: Vec<u8>,
    /// Counts how often the download began again from zero. Bytes of different generations are not of one file.
    pub generation: u32,
    /// The offset lies at or beyond the end of the file, as far as its length is known.
    pub end_of_file: bool,
}

impl Engine {
    /// Reads of a download, at any time from its creation to its completion and after: up to `max_bytes` (1 to 1 MiB) from
    /// `offset_bytes` on, as they were written, durable or not. Where none are there yet, waits until some are, or until
    /// `wait` is over; with a `wait` of zero it never blocks.
    ///
    /// Of a download with [`NewDownload::random_access`] such a read steers: a connection
    /// that is elsewhere goes to that offset, and the rest is fetched afterwards. What was claimed before a crash is read as
    /// the disk has it; the next attempt proves it, and starts a new generation where it is damaged. Once it has completed,
    /// the published file is read.
    ///
    /// # Errors
    /// [`Error::Invalid`] where `max_bytes` is out of bounds; [`Error::UnknownId`]; [`Error::Unsuccessful`] where it ended
    /// without its content; [`Error::Disconnected`] where it would have to be waited for and the engine stops;
    /// [`Error::NotNow`] where the published file is not there any more as it was published;
    /// [`Error::Io`] where it cannot be read.
    ///
    /// Source: `GetResultStreamAt` and `GetResultRandomAccessStreamReference` of Windows.Networking.BackgroundTransfer.
    pub fn read_at(
        &self,
        id: TransferId,
        offset_bytes: u64,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<ReadOutcome, Error> {
        if !(1..=READ_BYTES_MAX).contains(&max_bytes) {
            let problem = format!("is not between 1 and {READ_BYTES_MAX}");
            return Err(Error::invalid("max_bytes", max_bytes.to_string(), problem));
        }
        let deadline = Instant::now().checked_add(wait);
        let visit = Visit::enter(&self.core.gates, id);
        let end_bytes = offset_bytes.saturating_add(max_bytes as u64);
        let mut wish = Wish::new(offset_bytes, end_bytes);
        let mut looks = 0;
        loop {
            let turn = visit.gate.turn();
            let content = self.content(id, &visit.gate)?;
            let outcome = |bytes, end_of_file| ReadOutcome {
                bytes,
                generation: content.generation,
                end_of_file,
            };
            if content.end_bytes.is_some_and(|end| offset_bytes >= end) {
                return Ok(outcome(Vec::new(), true));
            }
            let there = content.run_end(offset_bytes).min(end_bytes) - offset_bytes;
            if there > 0 && looks < LOOKS_MAX {
                let len = usize::try_from(there).unwrap_or(max_bytes);
                match self.read_content(id, &content, offset_bytes, len)? {
                    Some(bytes) => return Ok(outcome(bytes, false)),
                    None => looks += 1,
                }
                continue;
            }
            wish.tell(&content);
            let generation = content.generation;
            // Nothing of an attempt is held on to while it is waited for.
            drop(content);
            if !wait.is_zero() && self.core.state().has_nothing_to_come() {
                return Err(Error::Disconnected(Arc::from("it has stopped")));
            }
            if !visit.gate.wait(turn, deadline) {
                return Ok(ReadOutcome {
                    bytes: Vec::new(),
                    generation,
                    end_of_file: false,
                });
            }
            looks = 0;
        }
    }

    /// What of a download can be read now: its generation, and `[first, end)` of all that is there, in order and with gaps
    /// between. The whole file once it has completed, nothing once it ended otherwise.
    ///
    /// # Errors
    /// [`Error::UnknownId`].
    ///
    /// Source: `GetDownloadedRanges` of Windows.Networking.BackgroundTransfer.
    pub fn downloaded_ranges(&self, id: TransferId) -> Result<(u32, Vec<(u64, u64)>), Error> {
        let visit = Visit::enter(&self.core.gates, id);
        match self.content(id, &visit.gate) {
            Ok(content) => Ok((content.generation, content.ranges())),
            Err(Error::Unsuccessful { .. }) => Ok((self.find(id)?.generation, Vec::new())),
            Err(error) => Err(error),
        }
    }

    fn content(&self, id: TransferId, gate: &Gate) -> Result<Content, Error> {
        let operation = self.find(id)?;
        match &operation.phase {
            Phase::Ended(Outcome::Completed) => Ok(published(&operation)),
            Phase::Ended(outcome) | Phase::Ending(outcome) => Err(unsuccessful(&operation, outcome)),
            _ => Ok(gate.content().unwrap_or_else(|| self.claimed(&operation))),
        }
    }

    /// What is claimed of one that nobody works on. After a salvage it is first seen whether that is still there.
    fn claimed(&self, operation: &Operation) -> Content {
        let claim = operation.claim.as_ref().filter(|_| operation.doubt.is_none());
        let generation = operation.generation;
        let journal_id = self.core.journal.id();
        Content {
            generation,
            end_bytes: claim.and_then(|claim| claim.validators.total_bytes),
            bytes: Bytes::Stored {
                path: part_path(&operation.spec, journal_id, operation.id, generation),
                ranges: claim.map_or_else(Vec::new, |claim| claim.ranges()),
                published: None,
            },
        }
    }

    /// Bytes that are there; `None` where the file has just gone, and it is to be looked where.
    fn read_content(
        &self,
        id: TransferId,
        content: &Content,
        offset_bytes: u64,
        len: usize,
    ) -> Result<Option<Vec<u8>>, Error> {
        let failed = |path: &Path, error| Error::io("read", path, error);
        match &content.bytes {
            Bytes::Written { file, path, .. } => {
                let bytes = read_exactly(file.as_ref(), offset_bytes, len).map_err(|error| failed(path, error))?;
                Ok(Some(bytes))
            }
            Bytes::Stored { path, published, .. } => {
                let opened = self.core.environment.storage.open(path, Access::Read);
                let read = opened.and_then(|file| {
                    if let Some(published) = published
                        && file.stat().is_ok_and(|stat| !published.is(&stat))
                    {
                        return Err(io::ErrorKind::NotFound.into());
                    }
                    read_exactly(file.as_ref(), offset_bytes, len)
                });
                let is_gone =
                    |error: &io::Error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof);
                match read {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(error) if is_gone(&error) && published.is_none() => Ok(None),
                    Err(error) if is_gone(&error) => Err(Error::NotNow {
                        id,
                        problem: format!("'{}' is not the file any more that was published there", path.display()),
                    }),
                    Err(error) => Err(failed(path, error)),
                }
            }
        }
    }
}

/// Only a GET goes on from what is held, and only what goes on can be fetched out of order.
pub(super) fn check_method(download: &NewDownload) -> Result<(), Error> {
    if download.random_access && !download.method.is_get() {
        let problem = "only a GET can be asked for in parts; leave it out, or ask with GET";
        return Err(Error::invalid("random_access", download.method.to_string(), problem));
    }
    Ok(())
}

fn published(operation: &Operation) -> Content {
    let len_bytes = operation.published_bytes.unwrap_or(0);
    let path = match &operation.published_name {
        Some(name) => operation.spec.directory().join(std::ffi::OsStr::from_bytes(name)),
        None => operation.spec.destination.clone(),
    };
    Content {
        generation: operation.generation,
        end_bytes: Some(len_bytes),
        bytes: Bytes::Stored {
            path,
            ranges: Some((0, len_bytes)).filter(|_| len_bytes > 0).into_iter().collect(),
            published: Some(Published {
                len_bytes,
                inode: operation.published_inode,
            }),
        },
    }
}

fn unsuccessful(operation: &Operation, outcome: &Outcome) -> Error {
    let (error, problem) = match outcome {
        Outcome::Failed(error) => (Some(WebErrorStatus(error.status)), error.message.clone()),
        _ => (None, "it was canceled".to_owned()),
    };
    Error::Unsuccessful {
        id: operation.id,
        status: operation.status(),
        error,
        problem,
    }
}

/// What is there of a file, and where.
struct Content {
    generation: u32,
    /// Its length, where known.
    end_bytes: Option<u64>,
    bytes: Bytes,
}

enum Bytes {
    /// In the open part file of an attempt, or of one that is over and whose file is being published.
    Written {
        file: Arc<dyn StorageFile>,
        path: PathBuf,
        progress: Progress,
    },
    /// In a file that is opened for it: a part file that is claimed, or the published file.
    Stored {
        path: PathBuf,
        ranges: Vec<(u64, u64)>,
        published: Option<Published>,
    },
}

/// What the published file is known by.
struct Published {
    len_bytes: u64,
    inode: Option<u64>,
}

impl Published {
    fn is(&self, stat: &Stat) -> bool {
        stat.len_bytes == self.len_bytes && self.inode.is_none_or(|inode| inode == stat.inode)
    }
}

/// How far an attempt has come.
enum Progress {
    Prefix(u64),
    Pieces(Arc<Ledger>, Option<Arc<Crew>>),
}

impl Content {
    /// Up to where bytes lie side by side from an offset on; the offset itself where it is missing.
    fn run_end(&self, offset_bytes: u64) -> u64 {
        match &self.bytes {
            Bytes::Written { progress, .. } => match progress {
                Progress::Prefix(end) => offset_bytes.max(*end),
                Progress::Pieces(ledger, _) => ledger.with_pieces(|pieces| pieces.run_end(offset_bytes)),
            },
            Bytes::Stored { ranges, .. } => {
                let range = ranges
                    .iter()
                    .find(|(first, end)| (*first..*end).contains(&offset_bytes));
                range.map_or(offset_bytes, |(_, end)| *end)
            }
        }
    }

    fn ranges(&self) -> Vec<(u64, u64)> {
        let prefix = |end: u64| Some((0, end)).filter(|_| end > 0);
        match &self.bytes {
            Bytes::Written { progress, .. } => match progress {
                Progress::Prefix(end) => prefix(*end).into_iter().collect(),
                Progress::Pieces(ledger, _) => {
                    let (end, _, beyond) = ledger.with_pieces(|pieces| pieces.held());
                    let beyond = beyond.iter().map(|stretch| (stretch.first, stretch.end));
                    prefix(end).into_iter().chain(beyond).collect()
                }
            },
            Bytes::Stored { ranges, .. } => ranges.clone(),
        }
    }
}

/// The bytes of a range, all of them.
fn read_exactly(file: &dyn StorageFile, offset_bytes: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut bytes[filled..], offset_bytes + filled as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => filled += count,
        }
    }
    Ok(bytes)
}

/// What somebody waits for, as the attempt that runs knows it; it is taken back when dropped.
struct Wish {
    first: u64,
    end: u64,
    told: Option<Weak<Ledger>>,
}

impl Wish {
    fn new(first: u64, end: u64) -> Self {
        let told = None;
        Self { first, end, told }
    }

    /// Tells the attempt that runs, unless it knows.
    fn tell(&mut self, content: &Content) {
        let Bytes::Written {
            progress: Progress::Pieces(ledger, Some(crew)),
            ..
        } = &content.bytes
        else {
            return;
        };
        let ledger = Arc::downgrade(ledger);
        if self.told.as_ref().is_some_and(|told| told.ptr_eq(&ledger)) {
            return;
        }
        self.take_back();
        if crew.ledger.with_pieces(|pieces| pieces.want(self.first, self.end)) {
            self.told = Some(ledger);
            crew.steer();
        }
    }

    fn take_back(&mut self) {
        let ledger = self.told.take().and_then(|told| told.upgrade());
        if let Some(ledger) = ledger {
            ledger.with_pieces(|pieces| pieces.unwant(self.first, self.end));
        }
    }
}

impl Drop for Wish {
    fn drop(&mut self) {
        self.take_back();
    }
}

/// The gates of all operations that are worked on or read. They are the innermost locks: nothing else is locked under them.
#[derive(Default)]
pub(super) struct Gates {
    gates: Mutex<ById<Arc<Gate>>>,
    /// Reads that are under way.
    readers: AtomicUsize,
}

/// Where those who read one operation and those who write it meet.
#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<Opening>,
    changed: Condvar,
    readers: AtomicUsize,
}

#[derive(Default)]
struct Opening {
    written: Option<Written>,
    /// Counts what may bring a reader on.
    turn: u64,
}

/// The open part file of one generation. It holds neither ledger nor crew: both end with their attempt.
pub(super) struct Written {
    pub(super) generation: u32,
    pub(super) end_bytes: Option<u64>,
    pub(super) file: Arc<dyn StorageFile>,
    pub(super) path: PathBuf,
    pub(super) extent: Extent,
}

/// What is there of it.
#[derive(Clone)]
pub(super) enum Extent {
    /// So many bytes from 0 on.
    Prefix(Arc<AtomicU64>),
    /// What the ledger says; those who read it may call the connections of this crew away.
    Pieces(Weak<Ledger>, Option<Weak<Crew>>),
}

impl Gates {
    pub(super) fn gate(&self, id: TransferId) -> Arc<Gate> {
        Arc::clone(self.gates().entry(id).or_default())
    }

    /// Something of an operation has changed.
    pub(super) fn announce(&self, id: TransferId) {
        if self.readers.load(Ordering::SeqCst) == 0 {
            return;
        }
        if let Some(gate) = self.gates().get(&id) {
            gate.announce();
        }
    }

    /// Nothing comes any more.
    pub(super) fn announce_all(&self) {
        for gate in self.gates().values() {
            gate.announce();
        }
    }

    /// Nobody works on an operation any more.
    pub(super) fn hide(&self, id: TransferId) {
        let Some(gate) = self.gates().get(&id).cloned() else {
            return;
        };
        gate.show(None);
        self.leave(id, &gate);
    }

    /// Forgets a gate that nobody else has.
    fn leave(&self, id: TransferId, gate: &Arc<Gate>) {
        let mut gates = self.gates();
        // One in the list, and the one here.
        if Arc::strong_count(gate) == 2 && gate.state().written.is_none() {
            gates.remove(&id);
        }
    }

    fn gates(&self) -> MutexGuard<'_, ById<Arc<Gate>>> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    /// Shows a part file to those who read, or that there is none.
    pub(super) fn show(&self, written: Option<Written>) {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.written, written);
        state.turn += 1;
        // Whoever counts itself later looks later, too.
        if self.readers.load(Ordering::SeqCst) > 0 {
            self.changed.notify_all();
        }
        drop(state);
        // Closes its file, where nobody else has it.
        drop(before);
    }

    /// Wakes whoever waits for more.
    pub(super) fn announce(&self) {
        // A reader counts itself before it looks, so that whatever is written after its look finds it counted.
        if self.readers.load(Ordering::SeqCst) > 0 {
            self.state().turn += 1;
            self.changed.notify_all();
        }
    }

    fn turn(&self) -> u64 {
        self.state().turn
    }

    /// Waits until something may have changed since a turn; `false` where the time is over.
    fn wait(&self, turn: u64, deadline: Option<Instant>) -> bool {
        let mut state = self.state();
        while state.turn == turn {
            let left = deadline.map_or(WAIT_MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(state, left.min(WAIT_MAX));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn content(&self) -> Option<Content> {
        let state = self.state();
        let written = state.written.as_ref()?;
        let progress = match &written.extent {
            Extent::Prefix(end) => Progress::Prefix(end.load(Ordering::SeqCst)),
            Extent::Pieces(ledger, crew) => {
                let crew = crew.as_ref().and_then(Weak::upgrade);
                Progress::Pieces(ledger.upgrade()?, crew)
            }
        };
        Some(Content {
            generation: written.generation,
            end_bytes: written.end_bytes,
            bytes: Bytes::Written {
                file: Arc::clone(&written.file),
                path: written.path.clone(),
                progress,
            },
        })
    }

    fn state(&self) -> MutexGuard<'_, Opening> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who reads, counted while it does.
struct Visit<'a> {
    gates: &'a Gates,
    id: TransferId,
    gate: Arc<Gate>,
}

impl<'a> Visit<'a> {
    fn enter(gates: &'a Gates, id: TransferId) -> Self {
        gates.readers.fetch_add(1, Ordering::SeqCst);
        let gate = gates.gate(id);
        gate.readers.fetch_add(1, Ordering::SeqCst);
        Self { gates, id, gate }
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.gate.readers.fetch_sub(1, Ordering::SeqCst);
        self.gates.readers.fetch_sub(1, Ordering::SeqCst);
        self.gates.leave(self.id, &self.gate);
    }
}
