//! A disk in memory. A crash loses or keeps everything that was not synced; nothing in between, which is the simulated
//! disk's business.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use backhaul_journal::{Access, FileKind, FileSystem, Stat, Storage, StorageFile, StorageLock};

/// A call to the disk, for faults and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    Create,
    Open,
    List,
    CreateDirectory,
    Rename,
    Remove,
    SyncDirectory,
    Read,
    Write,
    Sync,
    Reserve,
}

/// What a crash does to everything that was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsynced {
    Lost,
    Kept,
}

type Fault = Box<dyn FnMut(Call, &Path) -> Option<io::Error> + Send>;

#[derive(Clone)]
pub(crate) struct MemoryDisk(Arc<Mutex<Inner>>);

struct Inner {
    files: BTreeMap<u64, Content>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    unsynced_names: BTreeSet<PathBuf>,
    directories: BTreeSet<PathBuf>,
    durable_directories: BTreeSet<PathBuf>,
    locked: BTreeSet<PathBuf>,
    calls: BTreeMap<Call, u64>,
    fault: Option<Fault>,
    file_system: FileSystem,
    capacity_bytes: u64,
    write_bytes_max: usize,
    inodes: u64,
}

#[derive(Clone, Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
    reserved_bytes: u64,
}

struct MemoryFile {
    disk: MemoryDisk,
    inode: u64,
    path: PathBuf,
}

struct MemoryLock {
    disk: MemoryDisk,
    path: PathBuf,
}

impl MemoryDisk {
    /// An empty disk with the directory `/state`.
    pub(crate) fn new() -> MemoryDisk {
        MemoryDisk(Arc::new(Mutex::new(Inner {
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: BTreeSet::new(),
            directories: BTreeSet::from([PathBuf::from("/state")]),
            durable_directories: BTreeSet::from([PathBuf::from("/state")]),
            locked: BTreeSet::new(),
            calls: BTreeMap::new(),
            fault: None,
            file_system: FileSystem::Ext4,
            capacity_bytes: u64::MAX,
            write_bytes_max: usize::MAX,
            inodes: 0,
        })))
    }

    pub(crate) fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.clone())
    }

    /// A disk with the same content, unsynced parts and all, and no faults.
    pub(crate) fn copy(&self) -> MemoryDisk {
        let inner = self.inner();
        let copy = MemoryDisk::new();
        {
            let mut other = copy.inner();
            other.files.clone_from(&inner.files);
            other.names.clone_from(&inner.names);
            other.durable_names.clone_from(&inner.durable_names);
            other.unsynced_names.clone_from(&inner.unsynced_names);
            other.directories.clone_from(&inner.directories);
            other.durable_directories.clone_from(&inner.durable_directories);
            other.file_system = inner.file_system;
            other.inodes = inner.inodes;
        }
        copy
    }

    /// The disk after a power cut or a kill.
    pub(crate) fn crash(&self, unsynced: Unsynced) -> MemoryDisk {
        let copy = self.copy();
        {
            let inner = &mut *copy.inner();
            if unsynced == Unsynced::Lost {
                inner.directories.clone_from(&inner.durable_directories);
                inner.names.clone_from(&inner.durable_names);
                let directories = &inner.directories;
                inner
                    .names
                    .retain(|name, _| name.parent().is_some_and(|parent| directories.contains(parent)));
                inner.unsynced_names.clear();
                inner
                    .files
                    .values_mut()
                    .for_each(|content| content.live.clone_from(&content.durable));
            }
        }
        copy
    }

    /// Asks before each call whether it fails.
    pub(crate) fn fail_with(&self, fault: impl FnMut(Call, &Path) -> Option<io::Error> + Send + 'static) {
        self.inner().fault = Some(Box::new(fault));
    }

    pub(crate) fn fail_no_more(&self) {
        self.inner().fault = None;
    }

    pub(crate) fn set_file_system(&self, file_system: FileSystem) {
        self.inner().file_system = file_system;
    }

    /// Limits the bytes of all files together.
    pub(crate) fn set_capacity(&self, capacity_bytes: u64) {
        self.inner().capacity_bytes = capacity_bytes;
    }

    /// Makes every write shorter than this.
    pub(crate) fn set_write_max(&self, bytes_max: usize) {
        self.inner().write_bytes_max = bytes_max;
    }

    pub(crate) fn used(&self) -> u64 {
        self.inner().used()
    }

    pub(crate) fn calls(&self, call: Call) -> u64 {
        self.inner().calls.get(&call).copied().unwrap_or(0)
    }

    /// Calls that change something.
    pub(crate) fn changes(&self) -> u64 {
        [
            Call::Create,
            Call::CreateDirectory,
            Call::Rename,
            Call::Remove,
            Call::Write,
        ]
        .map(|call| self.calls(call))
        .iter()
        .sum()
    }

    /// File names in a directory, sorted.
    pub(crate) fn names(&self, directory: &Path) -> Vec<String> {
        let inner = self.inner();
        let inside = inner.names.keys().filter(|path| path.parent() == Some(directory));
        inside
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect()
    }

    pub(crate) fn content(&self, path: &Path) -> Vec<u8> {
        let inner = self.inner();
        let inode = inner.names.get(path).expect("the file exists");
        inner.files[inode].live.clone()
    }

    /// Puts a file there, as if it had always been.
    pub(crate) fn put(&self, path: &Path, bytes: &[u8]) {
        let mut inner = self.inner();
        let inode = match inner.names.get(path) {
            Some(inode) => *inode,
            None => inner.add(path),
        };
        inner.durable_names.insert(path.to_owned(), inode);
        let content = inner.files.entry(inode).or_default();
        content.live = bytes.to_vec();
        content.durable = bytes.to_vec();
    }

    /// All files with their bytes, to compare.
    pub(crate) fn everything(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let inner = self.inner();
        inner
            .names
            .iter()
            .map(|(path, inode)| (path.clone(), inner.files[inode].live.clone()))
            .collect()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no test panics inside the disk")
    }

    fn enter(&self, call: Call, path: &Path) -> io::Result<MutexGuard<'_, Inner>> {
        let mut inner = self.inner();
        *inner.calls.entry(call).or_default() += 1;
        let mut fault = inner.fault.take();
        // The lock is open while the test decides, so that it may look at the disk.
        drop(inner);
        let failure = fault.as_mut().and_then(|fault| fault(call, path));
        let mut inner = self.inner();
        if inner.fault.is_none() {
            inner.fault = fault;
        }
        failure.map_or(Ok(inner), Err)
    }
}

impl Inner {
    fn add(&mut self, path: &Path) -> u64 {
        self.inodes += 1;
        self.files.insert(self.inodes, Content::default());
        self.names.insert(path.to_owned(), self.inodes);
        self.unsynced_names.insert(path.to_owned());
        self.inodes
    }

    fn used(&self) -> u64 {
        let named: BTreeSet<_> = self.names.values().collect();
        named
            .iter()
            .map(|inode| &self.files[inode])
            .map(|file| (file.live.len() as u64).max(file.reserved_bytes))
            .sum()
    }

    fn inode(&self, path: &Path) -> io::Result<u64> {
        self.names
            .get(path)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Grows a file to this length, if there is room.
    fn take_space(&mut self, inode: u64, len_bytes: u64) -> io::Result<()> {
        if self.capacity_bytes == u64::MAX {
            return Ok(());
        }
        let has = &self.files[&inode];
        let more = len_bytes.saturating_sub((has.live.len() as u64).max(has.reserved_bytes));
        if more > 0 && self.used() + more > self.capacity_bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn content(&mut self, inode: u64) -> &mut Content {
        self.files.get_mut(&inode).expect("an open file has content")
    }
}

impl Storage for MemoryDisk {
    fn create(&self, path: &Path, _mode: u32) -> io::Result<Box<dyn StorageFile>> {
        let mut inner = self.enter(Call::Create, path)?;
        if inner.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !path.parent().is_some_and(|parent| inner.directories.contains(parent)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inode = inner.add(path);
        Ok(Box::new(MemoryFile {
            disk: self.clone(),
            inode,
            path: path.to_owned(),
        }))
    }

    fn open(&self, path: &Path, _access: Access) -> io::Result<Box<dyn StorageFile>> {
        let inode = self.enter(Call::Open, path)?.inode(path)?;
        Ok(Box::new(MemoryFile {
            disk: self.clone(),
            inode,
            path: path.to_owned(),
        }))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        let inner = self.enter(Call::List, directory)?;
        if !inner.directories.contains(directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = inner.names.keys().filter(|path| path.parent() == Some(directory));
        Ok(inside
            .filter_map(|path| path.file_name().map(ToOwned::to_owned))
            .collect())
    }

    fn create_directory(&self, path: &Path, _mode: u32) -> io::Result<()> {
        let mut inner = self.enter(Call::CreateDirectory, path)?;
        if inner.directories.insert(path.to_owned()) {
            Ok(())
        } else {
            Err(io::ErrorKind::AlreadyExists.into())
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.enter(Call::Rename, from)?;
        let inode = inner.inode(from)?;
        inner.names.remove(from);
        inner.unsynced_names.extend([from.to_owned(), to.to_owned()]);
        inner.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.inner().names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.enter(Call::Remove, path)?;
        inner.inode(path)?;
        inner.names.remove(path);
        inner.unsynced_names.insert(path.to_owned());
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.enter(Call::SyncDirectory, path)?;
        let inside: Vec<_> = inner
            .directories
            .iter()
            .filter(|inside| inside.parent() == Some(path))
            .cloned()
            .collect();
        inner.durable_directories.extend(inside);
        let unsynced = std::mem::take(&mut inner.unsynced_names);
        let (here, elsewhere) = unsynced.into_iter().partition(|name| name.parent() == Some(path));
        inner.unsynced_names = elsewhere;
        for name in here {
            match inner.names.get(&name).copied() {
                Some(inode) => inner.durable_names.insert(name, inode),
                None => inner.durable_names.remove(&name),
            };
        }
        Ok(())
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let inode = self.inner().inode(path)?;
        MemoryFile {
            disk: self.clone(),
            inode,
            path: path.to_owned(),
        }
        .stat()
    }

    fn resolve(&self, directory: &Path) -> io::Result<PathBuf> {
        Ok(directory.to_owned())
    }

    fn check_writable(&self, _directory: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        let mut inner = self.inner();
        if !inner.names.contains_key(path) {
            inner.add(path);
        }
        if !inner.locked.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(MemoryLock {
            disk: self.clone(),
            path: path.to_owned(),
        }))
    }

    fn file_system(&self, _path: &Path) -> io::Result<FileSystem> {
        Ok(self.inner().file_system)
    }

    fn available_bytes(&self, _path: &Path) -> io::Result<u64> {
        let inner = self.inner();
        Ok(inner.capacity_bytes.saturating_sub(inner.used()))
    }
}

impl StorageFile for MemoryFile {
    fn stat(&self) -> io::Result<Stat> {
        let mut inner = self.disk.inner();
        let len_bytes = inner.content(self.inode).live.len() as u64;
        Ok(Stat {
            kind: FileKind::File,
            device: 1,
            inode: self.inode,
            len_bytes,
            links: 1,
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        let mut inner = self.disk.enter(Call::Read, &self.path)?;
        let live = &inner.content(self.inode).live;
        let start = usize::try_from(offset_bytes)
            .expect("test files are small")
            .min(live.len());
        let count = buffer.len().min(live.len() - start);
        buffer[..count].copy_from_slice(&live[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset_bytes: u64) -> io::Result<usize> {
        let mut inner = self.disk.enter(Call::Write, &self.path)?;
        let bytes = &bytes[..bytes.len().min(inner.write_bytes_max)];
        inner.take_space(self.inode, offset_bytes + bytes.len() as u64)?;
        let start = usize::try_from(offset_bytes).expect("test files are small");
        let live = &mut inner.content(self.inode).live;
        live.resize(live.len().max(start + bytes.len()), 0);
        live[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(bytes.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.disk.enter(Call::Sync, &self.path)?;
        let content = inner.content(self.inode);
        content.durable.clone_from(&content.live);
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        let mut inner = self.disk.enter(Call::Write, &self.path)?;
        inner.take_space(self.inode, len_bytes)?;
        inner
            .content(self.inode)
            .live
            .resize(usize::try_from(len_bytes).expect("test files are small"), 0);
        Ok(())
    }

    fn reserve(&self, len_bytes: u64) -> io::Result<()> {
        let mut inner = self.disk.enter(Call::Reserve, &self.path)?;
        inner.take_space(self.inode, len_bytes)?;
        inner.content(self.inode).reserved_bytes = len_bytes;
        Ok(())
    }

    fn start_writeback(&self, _offset_bytes: u64, _len_bytes: u64) {}

    fn drop_cache(&self) {}

    fn set_mode(&self, _mode: u32) -> io::Result<()> {
        Ok(())
    }

    fn set_modified(&self, _modified: SystemTime) -> io::Result<()> {
        Ok(())
    }
}

impl StorageLock for MemoryLock {
    fn describe(&self, text: &str) -> io::Result<()> {
        self.disk.put(&self.path, text.as_bytes());
        Ok(())
    }
}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.disk.inner().locked.remove(&self.path);
    }
}
