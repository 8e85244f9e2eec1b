//! The simulated disk as a test handles it: faults, counts, power cuts.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::choices::Choices;
use super::content::{Content, Mood};
use super::names::{Names, Node};
use crate::storage::{FileSystem, Storage};

/// Sector of most media, in bytes.
const SECTOR_BYTES: usize = 512;
/// How often in a row a call is tried again after an interruption; a test that goes on interrupting means an error.
const INTERRUPTIONS_MAX: u32 = 100;
/// Contents of removed files that may show up again where a file had nothing before.
const STALE_MAX: usize = 4;

/// A call to the disk, for faults and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they are named after the calls of the storage trait")]
pub enum Call {
    Create,
    Open,
    List,
    CreateDirectory,
    Rename,
    Remove,
    SyncDirectory,
    Stat,
    Lock,
    Read,
    Write,
    SetLen,
    Sync,
    Reserve,
}

const CALLS: usize = Call::Reserve as usize + 1;

impl Call {
    /// Whether it may change what a power cut leaves.
    #[must_use]
    pub fn is_change(self) -> bool {
        !matches!(self, Self::Open | Self::List | Self::Stat | Self::Lock | Self::Read)
    }
}

/// How a call fails.
#[derive(Debug)]
pub enum Fault {
    /// With this error; nothing is done. A call that is interrupted is tried again, as the storage trait promises, and
    /// so is counted and asked about again.
    Error(io::Error),
    /// A write that does only so many bytes, at least 1.
    Short(usize),
    /// A sync that reports this error, after which the pages count as clean: programs read what they wrote, no later
    /// sync writes it, and it goes with the power unless the disk had it already (ext4, XFS). For a directory, as
    /// [`Fault::Error`].
    SyncLoses(io::Error),
    /// A sync that reports this error and brings the old content back at once (btrfs).
    SyncReverts(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Error(error)
    }
}

type Decide = Arc<dyn Fn(Call, &Path) -> Option<Fault> + Send + Sync>;

/// A disk in memory with the directory `/`. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

pub(super) struct State {
    pub(super) names: Names,
    /// Shared with the disks that were copied from this one, until somebody writes.
    pub(super) files: BTreeMap<u64, Arc<Content>>,
    pub(super) locked: BTreeSet<PathBuf>,
    pub(super) file_system: FileSystem,
    pub(super) write_bytes_max: usize,
    capacity_bytes: usize,
    sector_bytes: usize,
    inodes: u64,
    stale: Vec<Arc<Vec<u8>>>,
    calls: [u64; CALLS],
    pub(super) read_bytes: u64,
    changes: u64,
    changes_max: Option<u64>,
    moments: Option<Vec<SimDisk>>,
    decide: Option<Decide>,
}

impl std::fmt::Debug for SimDisk {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state();
        out.debug_struct("SimDisk")
            .field("names", &state.names)
            .field("changes", &state.changes)
            .finish_non_exhaustive()
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk with sectors of 512 bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::with_sectors(SECTOR_BYTES)
    }

    /// An empty disk with other sectors, at least 2 bytes long: small ones make for more ways to tear a write.
    #[must_use]
    pub fn with_sectors(sector_bytes: usize) -> Self {
        let mut names = Names::default();
        names.put(Path::new("/"), Node::Directory);
        Self(Arc::new(Mutex::new(State {
            names,
            files: BTreeMap::new(),
            locked: BTreeSet::new(),
            file_system: FileSystem::Ext4,
            write_bytes_max: usize::MAX,
            capacity_bytes: usize::MAX,
            sector_bytes: sector_bytes.max(2),
            inodes: 0,
            stale: Vec::new(),
            calls: [0; CALLS],
            read_bytes: 0,
            changes: 0,
            changes_max: None,
            moments: None,
            decide: None,
        })))
    }

    /// This disk as the journal and the engine take it.
    #[must_use]
    pub fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.clone())
    }

    /// The disk after `kill -9`: everything is there as programs saw it, synced or not. No lock, fault or limit is.
    #[must_use]
    pub fn kill(&self) -> Self {
        let state = self.state();
        Self::of(&state, state.names.clone(), state.files.clone())
    }

    /// The disk after a power cut; `choices` decides what is left of what was not synced.
    #[must_use]
    pub fn cut_power(&self, choices: &mut Choices) -> Self {
        let mood = Mood::choose(choices);
        self.cut_power_in(mood, choices)
    }

    /// The disk after a power cut that loses everything that was not synced.
    #[must_use]
    pub fn lose_unsynced(&self) -> Self {
        self.cut_power_in(Mood::AllLost, &mut Choices::seeded(0))
    }

    fn cut_power_in(&self, mood: Mood, choices: &mut Choices) -> Self {
        let state = self.state();
        let names = state.names.after_power_cut(mood, choices);
        let removed = state.stale.last().map_or(&[][..], |bytes| bytes);
        let mut files = BTreeMap::new();
        for (_, inode) in names.files() {
            if let Some(content) = state.files.get(&inode) {
                files.entry(inode).or_insert_with(|| {
                    if content.is_settled() {
                        Arc::clone(content)
                    } else {
                        Arc::new(content.after_power_cut(mood, removed, choices))
                    }
                });
            }
        }
        Self::of(&state, names, files)
    }

    fn of(state: &State, names: Names, files: BTreeMap<u64, Arc<Content>>) -> Self {
        // File systems use the inodes of removed files again.
        let inodes = files.keys().next_back().copied().unwrap_or(0);
        let disk = Self::with_sectors(state.sector_bytes);
        {
            let mut other = disk.state();
            other.names = names;
            other.files = files;
            other.inodes = inodes;
            other.file_system = state.file_system;
            other.stale.clone_from(&state.stale);
        }
        disk
    }

    /// Lets `changes` more calls that change something through; that of `changes + 1` and all calls after it fail, as
    /// for a process that is dead.
    pub fn stop_after(&self, changes: u64) {
        let mut state = self.state();
        state.changes_max = Some(state.changes + changes);
    }

    /// Whether a call failed because of [`SimDisk::stop_after`].
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        let state = self.state();
        state.changes_max.is_some_and(|max| state.changes > max)
    }

    /// Keeps the disk as it is before each call that changes something, from now on.
    pub fn keep_moments(&self) {
        self.state().moments = Some(Vec::new());
    }

    /// The disk as it was before each change since [`SimDisk::keep_moments`], and as it is now. The number of a moment
    /// is that of [`SimDisk::changes`] then, less what it was at the beginning.
    #[must_use]
    pub fn moments(&self) -> Vec<Self> {
        let mut moments = self.state().moments.take().unwrap_or_default();
        moments.push(self.kill());
        moments
    }

    /// Asks before each call whether and how it fails. The disk may be looked at meanwhile; calls that are made meanwhile
    /// are not asked about.
    pub fn fail_with<F: Into<Fault>>(&self, decide: impl FnMut(Call, &Path) -> Option<F> + Send + 'static) {
        let decide = Mutex::new(decide);
        self.fail_each_with(move |call, path| decide.try_lock().ok().and_then(|mut decide| decide(call, path)));
    }

    /// As [`SimDisk::fail_with`], and asks about the calls of several threads at once.
    pub fn fail_each_with<F: Into<Fault>>(&self, decide: impl Fn(Call, &Path) -> Option<F> + Send + Sync + 'static) {
        self.state().decide = Some(Arc::new(move |call, path| decide(call, path).map(Into::into)));
    }

    /// No call fails from now on.
    pub fn fail_no_more(&self) {
        self.state().decide = None;
    }

    /// Pretends to be a file system of another kind.
    pub fn set_file_system(&self, file_system: FileSystem) {
        self.state().file_system = file_system;
    }

    /// Limits the bytes of all files together.
    pub fn set_capacity(&self, capacity_bytes: usize) {
        self.state().capacity_bytes = capacity_bytes;
    }

    /// Makes every write at most this long.
    pub fn set_write_max(&self, bytes_max: usize) {
        self.state().write_bytes_max = bytes_max;
    }

    /// Bytes of all files together, reserved ones included.
    #[must_use]
    pub fn used(&self) -> usize {
        self.state().used()
    }

    /// Calls of one kind so far, failed ones included.
    #[must_use]
    pub fn calls(&self, call: Call) -> u64 {
        self.state().calls[call as usize]
    }

    /// Bytes that were read so far, each as often as it was.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.state().read_bytes
    }

    /// Calls so far that may change what a power cut leaves, failed ones included.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.state().changes
    }

    /// File names in a directory, sorted.
    #[must_use]
    pub fn names(&self, directory: &Path) -> Vec<String> {
        let state = self.state();
        let inside = state.names.inside(directory);
        inside
            .filter(|(_, node)| *node != Node::Directory)
            .filter_map(|(path, _)| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect()
    }

    /// What programs read from a file.
    ///
    /// # Panics
    /// Where there is no such file.
    #[must_use]
    pub fn content(&self, path: &Path) -> Vec<u8> {
        self.find(path).expect("a file that a test reads is there")
    }

    /// What programs read from a file; `None` where there is none.
    #[must_use]
    pub fn find(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        let Some(Node::File(inode)) = state.names.find(path) else {
            return None;
        };
        Some(state.files.get(&inode)?.live().to_vec())
    }

    /// Puts a file there with these bytes, durable, as if it had always been; directories above it as well.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state();
        if let Some(parent) = path.parent() {
            state.put_directories(parent);
        }
        let inode = match state.names.find(path) {
            Some(Node::File(inode)) => inode,
            _ => state.new_inode(),
        };
        state.names.put(path, Node::File(inode));
        let content = Content::settled(bytes.to_vec(), state.sector_bytes);
        state.files.insert(inode, Arc::new(content));
    }

    /// Puts a directory there, durable, as if it had always been; those above it as well.
    pub fn put_directory(&self, path: &Path) {
        self.state().put_directories(path);
    }

    /// Changes what the medium holds of a file, behind everybody's back.
    ///
    /// # Panics
    /// Where there is no such file.
    pub fn edit(&self, path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.content(path);
        edit(&mut bytes);
        self.put(path, &bytes);
    }

    /// All files with what programs read from them, to compare.
    #[must_use]
    pub fn everything(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.state();
        state
            .names
            .files()
            .map(|(path, inode)| (path.to_owned(), state.files[&inode].live().to_vec()))
            .collect()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A test that panics under the lock has said why.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call and fails it where that is due; `Err` of the outer result ends the call, the inner fault changes
    /// how it is done.
    pub(super) fn enter(&self, call: Call, path: &Path) -> io::Result<(MutexGuard<'_, State>, Option<Fault>)> {
        for _ in 0..INTERRUPTIONS_MAX {
            match self.enter_once(call, path) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                answer => return answer,
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    fn enter_once(&self, call: Call, path: &Path) -> io::Result<(MutexGuard<'_, State>, Option<Fault>)> {
        let mut state = self.state();
        state.count(call);
        if state.changes_max.is_some_and(|max| state.changes > max) {
            return Err(io::Error::other("the machine is off"));
        }
        let Some(decide) = state.decide.clone() else {
            return Ok((state, None));
        };
        // The lock is open while the test decides, so that it may look at the disk.
        drop(state);
        match decide(call, path) {
            Some(Fault::Error(error)) => Err(error),
            Some(Fault::SyncLoses(error) | Fault::SyncReverts(error)) if call != Call::Sync => Err(error),
            fault => Ok((self.state(), fault)),
        }
    }
}

impl State {
    fn count(&mut self, call: Call) {
        self.calls[call as usize] += 1;
        if !call.is_change() {
            return;
        }
        if self.moments.is_some() {
            let moment = SimDisk::of(self, self.names.clone(), self.files.clone());
            self.moments.get_or_insert_default().push(moment);
        }
        self.changes += 1;
    }

    pub(super) fn new_inode(&mut self) -> u64 {
        self.inodes += 1;
        self.inodes
    }

    pub(super) fn add_file(&mut self, path: &Path) -> u64 {
        let inode = self.new_inode();
        self.files.insert(inode, Arc::new(Content::new(self.sector_bytes)));
        self.names.make(path, Node::File(inode));
        inode
    }

    fn put_directories(&mut self, path: &Path) {
        if let Some(parent) = path.parent() {
            self.put_directories(parent);
        }
        if self.names.find(path).is_none() {
            self.names.put(path, Node::Directory);
        }
    }

    /// Remembers what a file that loses its last name held.
    pub(super) fn bury(&mut self, inode: u64) {
        let Some(content) = self.files.get(&inode) else { return };
        if self.stale.len() == STALE_MAX {
            self.stale.remove(0);
        }
        self.stale.push(Arc::clone(content.live()));
    }

    fn used(&self) -> usize {
        let named: BTreeSet<u64> = self.names.files().map(|(_, inode)| inode).collect();
        named
            .iter()
            .filter_map(|inode| self.files.get(inode))
            .map(|content| content.live().len().max(content.reserved_bytes))
            .sum()
    }

    pub(super) fn available(&self) -> usize {
        self.capacity_bytes.saturating_sub(self.used())
    }

    /// Room for a file to grow to this length, as an error where there is none.
    pub(super) fn take_space(&self, inode: u64, len_bytes: usize) -> io::Result<()> {
        if self.capacity_bytes == usize::MAX {
            return Ok(());
        }
        let content = self.content(inode)?;
        let more = len_bytes.saturating_sub(content.live().len().max(content.reserved_bytes));
        if more > self.available() && more > 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    pub(super) fn content(&self, inode: u64) -> io::Result<&Content> {
        let content = self.files.get(&inode);
        content
            .map(|content| &**content)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn content_mut(&mut self, inode: u64) -> io::Result<&mut Content> {
        let content = self.files.get_mut(&inode).map(Arc::make_mut);
        content.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
