//! The real disk under a folder, with names of its own and counts of what is asked of it.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use backhaul_journal::{Access, Disk, FileSystem, Stat, Storage, StorageFile, StorageLock};

/// What was asked of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Calls of any kind.
    pub(crate) calls: u64,
    /// Bytes and calls of writes to files of the journal.
    pub(crate) journal_bytes: u64,
    pub(crate) journal_writes: u64,
    /// Syncs of files of the journal.
    pub(crate) journal_syncs: u64,
    /// Writes to any other file.
    pub(crate) writes: u64,
    /// Syncs of any other file.
    pub(crate) syncs: u64,
    /// Syncs of directories, the journal's among them.
    pub(crate) directory_syncs: u64,
    /// Names that were made, changed or removed.
    pub(crate) names: u64,
}

/// The disk below `root`, which is called `/` here: what is recorded of a path, and so its bytes, is the same on every
/// machine. It passes as ext4, whatever it is. A sync is counted and not done: nothing here is judged by what is durable.
#[derive(Clone)]
pub(crate) struct CountingDisk {
    root: PathBuf,
    asked: Arc<Mutex<Asked>>,
}

struct CountingFile {
    inner: Box<dyn StorageFile>,
    disk: CountingDisk,
    is_journal: bool,
}

impl CountingDisk {
    pub(crate) fn new(root: &Path) -> Self {
        let root = root.canonicalize().expect("the folder is there");
        Self {
            root,
            asked: Arc::default(),
        }
    }

    /// What was asked since it was asked this last.
    pub(crate) fn take(&self) -> Asked {
        std::mem::take(&mut *self.asked.lock().expect("no thread has panicked"))
    }

    /// Counts one call.
    fn note(&self, count: impl FnOnce(&mut Asked)) {
        let mut asked = self.asked.lock().expect("no thread has panicked");
        asked.calls += 1;
        count(&mut asked);
    }

    fn place(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The place of what a call is about that changes nothing that is counted.
    fn other(&self, path: &Path) -> PathBuf {
        self.note(|_| {});
        self.place(path)
    }

    /// The place of a name that a call makes, changes or removes.
    fn named(&self, path: &Path) -> PathBuf {
        self.note(|asked| asked.names += 1);
        self.place(path)
    }

    fn counted(&self, path: &Path, inner: Box<dyn StorageFile>) -> Box<dyn StorageFile> {
        let is_journal = path.components().any(|part| part.as_os_str() == "journal");
        Box::new(CountingFile {
            inner,
            disk: self.clone(),
            is_journal,
        })
    }
}

impl Storage for CountingDisk {
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn StorageFile>> {
        let file = Disk.create(&self.named(path), mode)?;
        Ok(self.counted(path, file))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn StorageFile>> {
        let file = Disk.open(&self.other(path), access)?;
        Ok(self.counted(path, file))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        Disk.list(&self.other(directory))
    }

    fn create_directory(&self, path: &Path, mode: u32) -> io::Result<()> {
        Disk.create_directory(&self.named(path), mode)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk.rename(&self.named(from), &self.place(to))
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk.rename_noreplace(&self.named(from), &self.place(to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Disk.remove(&self.named(path))
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.note(|asked| asked.directory_syncs += 1);
        Disk.stat(&self.place(path)).map(drop)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        Disk.stat(&self.other(path))
    }

    fn resolve(&self, directory: &Path) -> io::Result<PathBuf> {
        let resolved = Disk.resolve(&self.other(directory))?;
        let inside = resolved.strip_prefix(&self.root).map_err(|_| io::ErrorKind::NotFound)?;
        Ok(Path::new("/").join(inside))
    }

    fn check_writable(&self, directory: &Path) -> io::Result<()> {
        Disk.check_writable(&self.other(directory))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        Disk.lock(&self.other(path))
    }

    fn file_system(&self, _path: &Path) -> io::Result<FileSystem> {
        self.note(|_| {});
        Ok(FileSystem::Ext4)
    }

    fn available_bytes(&self, path: &Path) -> io::Result<u64> {
        Disk.available_bytes(&self.other(path))
    }
}

impl CountingFile {
    fn note_sync(&self) {
        self.disk.note(|asked| {
            if self.is_journal {
                asked.journal_syncs += 1;
            } else {
                asked.syncs += 1;
            }
        });
    }
}

impl StorageFile for CountingFile {
    fn stat(&self) -> io::Result<Stat> {
        self.disk.note(|_| {});
        self.inner.stat()
    }

    fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        self.disk.note(|_| {});
        self.inner.read_at(buffer, offset_bytes)
    }

    fn write_at(&self, bytes: &[u8], offset_bytes: u64) -> io::Result<usize> {
        let written = self.inner.write_at(bytes, offset_bytes)?;
        self.disk.note(|asked| {
            if self.is_journal {
                asked.journal_writes += 1;
                asked.journal_bytes += written as u64;
            } else {
                asked.writes += 1;
            }
        });
        Ok(written)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.note_sync();
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.note_sync();
        Ok(())
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.disk.note(|_| {});
        self.inner.set_len(len_bytes)
    }

    fn reserve(&self, len_bytes: u64) -> io::Result<()> {
        self.disk.note(|_| {});
        self.inner.reserve(len_bytes)
    }

    fn start_writeback(&self, offset_bytes: u64, len_bytes: u64) {
        self.disk.note(|_| {});
        self.inner.start_writeback(offset_bytes, len_bytes);
    }

    fn drop_cache(&self) {
        self.disk.note(|_| {});
        self.inner.drop_cache();
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.disk.note(|_| {});
        self.inner.set_mode(mode)
    }

    fn set_modified(&self, modified: SystemTime) -> io::Result<()> {
        self.disk.note(|_| {});
        self.inner.set_modified(modified)
    }
}
