//! A disk that a process loses hold of: after a number of calls nothing reaches it any more, as after `kill -9`.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use backhaul_journal::{Access, Disk, FileSystem, Stat, Storage, StorageFile, StorageLock};

/// The real disk, up to a number of calls.
#[derive(Clone)]
pub(crate) struct CrashingDisk {
    left: Arc<AtomicU64>,
}

struct CrashingFile {
    inner: Box<dyn StorageFile>,
    left: Arc<AtomicU64>,
}

impl CrashingDisk {
    /// One that does `calls - 1` more calls; the one after fails, and all others too.
    pub(crate) fn after(calls: u64) -> Self {
        Self {
            left: Arc::new(AtomicU64::new(calls)),
        }
    }

    /// Whether the last call that it does is over.
    pub(crate) fn has_crashed(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    fn file(&self, inner: Box<dyn StorageFile>) -> Box<dyn StorageFile> {
        Box::new(CrashingFile {
            inner,
            left: Arc::clone(&self.left),
        })
    }
}

fn tick(left: &AtomicU64) -> io::Result<()> {
    let before = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(left.saturating_sub(1)));
    match before {
        Ok(before) if before > 1 => Ok(()),
        _ => Err(io::Error::other("the process is dead")),
    }
}

macro_rules! storage_calls {
    ($($name:ident($($arg:ident: $type:ty),*) -> $out:ty;)*) => {
        $(fn $name(&self, $($arg: $type),*) -> io::Result<$out> {
            tick(&self.left)?;
            Disk.$name($($arg),*)
        })*
    };
}

impl Storage for CrashingDisk {
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn StorageFile>> {
        tick(&self.left)?;
        Disk.create(path, mode).map(|file| self.file(file))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn StorageFile>> {
        tick(&self.left)?;
        Disk.open(path, access).map(|file| self.file(file))
    }

    storage_calls! {
        list(directory: &Path) -> Vec<OsString>;
        create_directory(path: &Path, mode: u32) -> ();
        rename(from: &Path, to: &Path) -> ();
        rename_noreplace(from: &Path, to: &Path) -> ();
        remove(path: &Path) -> ();
        sync_directory(path: &Path) -> ();
        stat(path: &Path) -> Stat;
        lock(path: &Path) -> Box<dyn StorageLock>;
        file_system(path: &Path) -> FileSystem;
        available_bytes(path: &Path) -> u64;
        resolve(path: &Path) -> PathBuf;
        check_writable(directory: &Path) -> ();
    }
}

macro_rules! file_calls {
    ($($name:ident($($arg:ident: $type:ty),*) -> $out:ty;)*) => {
        $(fn $name(&self, $($arg: $type),*) -> io::Result<$out> {
            tick(&self.left)?;
            self.inner.$name($($arg),*)
        })*
    };
}

impl StorageFile for CrashingFile {
    file_calls! {
        stat() -> Stat;
        read_at(buffer: &mut [u8], offset_bytes: u64) -> usize;
        write_at(bytes: &[u8], offset_bytes: u64) -> usize;
        sync_data() -> ();
        sync_all() -> ();
        set_len(len_bytes: u64) -> ();
        reserve(len_bytes: u64) -> ();
        set_mode(mode: u32) -> ();
        set_modified(modified: SystemTime) -> ();
    }

    fn start_writeback(&self, offset_bytes: u64, len_bytes: u64) {
        self.inner.start_writeback(offset_bytes, len_bytes);
    }

    fn drop_cache(&self) {
        self.inner.drop_cache();
    }
}
