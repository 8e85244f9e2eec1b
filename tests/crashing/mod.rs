//! A disk that a process loses hold of: after a number of calls nothing reaches it any more, as after `kill -9`. Or one
//! that is full after a number of calls that take room. It remembers what it was asked to do.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use backhaul_journal::{Access, Disk, FileSystem, Stat, Storage, StorageFile, StorageLock};

/// The real disk, up to a number of calls.
#[derive(Clone)]
pub(crate) struct CrashingDisk {
    left: Left,
}

struct CrashingFile {
    inner: Box<dyn StorageFile>,
    path: PathBuf,
    left: Left,
}

/// Calls that are still done.
#[derive(Clone)]
struct Left {
    calls: Arc<AtomicU64>,
    counted: Counted,
    done: Arc<Mutex<Vec<Done>>>,
}

/// The name of a call, and the path that it was about.
pub(crate) type Done = (&'static str, PathBuf);

#[derive(Clone, Copy, PartialEq)]
enum Counted {
    All,
    /// Only those that take room count, and fail.
    Room,
    /// Only renames that replace nothing count; then all fail.
    Publications,
    /// No sync of a part file succeeds, and each takes its time.
    PartSyncs,
}

impl CrashingDisk {
    /// One that does `calls - 1` more calls; the one after fails, and all others too.
    pub(crate) fn after(calls: u64) -> Self {
        Self {
            left: Left {
                calls: Arc::new(AtomicU64::new(calls)),
                counted: Counted::All,
                done: Arc::default(),
            },
        }
    }

    /// One that has room for `calls - 1` more creations and writes.
    pub(crate) fn full_after(calls: u64) -> Self {
        let mut disk = Self::after(calls);
        disk.left.counted = Counted::Room;
        disk
    }

    /// One that does nothing more once it has given a file its final name.
    pub(crate) fn after_a_publication() -> Self {
        let mut disk = Self::after(2);
        disk.left.counted = Counted::Publications;
        disk
    }

    /// One on which every sync of a part file fails, after a while.
    pub(crate) fn without_syncs_of_parts() -> Self {
        let mut disk = Self::after(1);
        disk.left.counted = Counted::PartSyncs;
        disk
    }

    /// Whether the last call that it does is over.
    pub(crate) fn has_crashed(&self) -> bool {
        self.left.calls.load(Ordering::SeqCst) == 0
    }

    /// The calls so far.
    pub(crate) fn done(&self) -> Vec<Done> {
        self.left.done.lock().unwrap().clone()
    }

    fn file(&self, inner: Box<dyn StorageFile>, path: &Path) -> Box<dyn StorageFile> {
        Box::new(CrashingFile {
            inner,
            path: path.to_owned(),
            left: self.left.clone(),
        })
    }
}

fn tick(left: &Left, call: &'static str, path: &Path) -> io::Result<()> {
    left.done.lock().unwrap().push((call, path.to_owned()));
    let dead = || Err(io::Error::other("the process is dead"));
    match left.counted {
        Counted::Room if !["create", "create_directory", "write_at"].contains(&call) => return Ok(()),
        Counted::PartSyncs if call.starts_with("sync_") && path.extension().is_some_and(|name| name == "part") => {
            std::thread::sleep(Duration::from_millis(300));
            return Err(io::Error::other("the disk fails"));
        }
        Counted::PartSyncs => return Ok(()),
        Counted::Publications if call != "rename_noreplace" => {
            return if left.calls.load(Ordering::SeqCst) > 1 {
                Ok(())
            } else {
                dead()
            };
        }
        _ => {}
    }
    let before = left
        .calls
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(left.saturating_sub(1)));
    match before {
        Ok(before) if before > 1 => Ok(()),
        _ if left.counted == Counted::Room => Err(io::ErrorKind::StorageFull.into()),
        _ => dead(),
    }
}

macro_rules! storage_calls {
    ($($name:ident($path:ident: &Path $(, $arg:ident: $type:ty)*) -> $out:ty;)*) => {
        $(fn $name(&self, $path: &Path $(, $arg: $type)*) -> io::Result<$out> {
            tick(&self.left, stringify!($name), $path)?;
            Disk.$name($path $(, $arg)*)
        })*
    };
}

impl Storage for CrashingDisk {
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn StorageFile>> {
        tick(&self.left, "create", path)?;
        Disk.create(path, mode).map(|file| self.file(file, path))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn StorageFile>> {
        tick(&self.left, "open", path)?;
        Disk.open(path, access).map(|file| self.file(file, path))
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
            tick(&self.left, stringify!($name), &self.path)?;
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
        self.left.done.lock().unwrap().push(("drop_cache", self.path.clone()));
        self.inner.drop_cache();
    }
}
