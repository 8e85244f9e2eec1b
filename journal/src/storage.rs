//! The disk as a trait: what the journal and the data files need of a file system, and nothing more.
//!
//! One trait carries both, so that one simulated disk can judge them together. Paths are absolute or relative as the
//! caller gives them; no method follows a symlink in the last component.

use std::ffi::OsString;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A file system as seen by the journal and by the data-file protocol.
///
/// Nothing is durable before the matching sync returned `Ok`: file content and length after [`StorageFile::sync_data`],
/// names after [`Storage::sync_directory`]. Interrupted calls (EINTR) are retried inside the implementation.
pub trait Storage: Send + Sync {
    /// Creates a file that must not exist yet and opens it for reading and writing. `mode` is the permission bits
    /// before the umask.
    ///
    /// # Errors
    /// `AlreadyExists` where any directory entry has this name, dangling symlinks included.
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn StorageFile>>;

    /// Opens an existing regular file; a symlink in the last component is refused.
    ///
    /// # Errors
    /// `NotFound` where no such file exists.
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn StorageFile>>;

    /// Names in a directory, without `.` and `..`, in no particular order.
    ///
    /// # Errors
    /// `NotFound` where the directory does not exist.
    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>>;

    /// Whether nothing stands in a directory, however much that is.
    ///
    /// # Errors
    /// As the operating system gives them.
    fn is_empty(&self, directory: &Path) -> io::Result<bool> {
        self.list(directory).map(|names| names.is_empty())
    }

    /// Creates one directory; its parent must exist.
    ///
    /// # Errors
    /// `AlreadyExists` where the name is taken.
    fn create_directory(&self, path: &Path, mode: u32) -> io::Result<()>;

    /// Renames a file over whatever has the new name, or a directory to a name that is free.
    ///
    /// # Errors
    /// The operating system's answer.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Renames only where the new name is free, decided atomically. Where the file system cannot, link and unlink take
    /// its place, so that a crash may leave both names on one inode.
    ///
    /// # Errors
    /// `AlreadyExists` where the new name is taken; nothing has changed then.
    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes one name of a file.
    ///
    /// # Errors
    /// `NotFound` where the name does not exist.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes creations, renames and removals in this directory durable.
    ///
    /// # Errors
    /// The operating system's answer; after an error nothing may be assumed durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// As [`Storage::sync_directory`], for a caller who goes on at once with new files on the same file system: where it has died
    /// meanwhile, by the sync of somebody else, those are refused, and the last certainty need not be paid for here.
    ///
    /// # Errors
    /// As [`Storage::sync_directory`].
    fn sync_directory_to_go_on(&self, path: &Path) -> io::Result<()> {
        self.sync_directory(path)
    }

    /// Makes each of these files durable, as [`StorageFile::sync_all`] does, and the names in each of these directories, as
    /// [`Storage::sync_directory`] does. Gives one result for each, in their order. A disk that can lets them share its work.
    fn sync_many(&self, files: &[&dyn StorageFile], directories: &[&Path]) -> Synced {
        Synced {
            files: files.iter().map(|file| file.sync_all()).collect(),
            directories: directories.iter().map(|path| self.sync_directory(path)).collect(),
        }
    }

    /// What stands under a name; a symlink is described, not followed.
    ///
    /// # Errors
    /// `NotFound` where the name does not exist.
    fn stat(&self, path: &Path) -> io::Result<Stat>;

    /// The absolute path of a directory, with every symlink in it followed.
    ///
    /// # Errors
    /// `NotFound` or `NotADirectory` where there is no such directory.
    fn resolve(&self, directory: &Path) -> io::Result<PathBuf>;

    /// Whether this process may make files in a directory.
    ///
    /// # Errors
    /// What making one would answer: `PermissionDenied`, `ReadOnlyFilesystem`, `NotFound`.
    fn check_writable(&self, directory: &Path) -> io::Result<()>;

    /// Takes an exclusive lock on a file, creating it (mode 0600) where it is missing, and never waits.
    ///
    /// # Errors
    /// `WouldBlock` where somebody else holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>>;

    /// The kind of file system that holds `path`.
    ///
    /// # Errors
    /// The operating system's answer.
    fn file_system(&self, path: &Path) -> io::Result<FileSystem>;

    /// Bytes that an unprivileged writer may still add on the file system that holds `path`.
    ///
    /// # Errors
    /// The operating system's answer.
    fn available_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// One open file.
pub trait StorageFile: Send + Sync {
    /// What [`Storage::stat`] says, of the open file.
    ///
    /// # Errors
    /// The operating system's answer.
    fn stat(&self) -> io::Result<Stat>;

    /// Reads at `offset_bytes`; may be short, 0 only at the end of the file.
    ///
    /// # Errors
    /// The operating system's answer.
    fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize>;

    /// Writes at `offset_bytes`; may be short, never 0 for a non-empty buffer.
    ///
    /// # Errors
    /// The operating system's answer.
    fn write_at(&self, bytes: &[u8], offset_bytes: u64) -> io::Result<usize>;

    /// Writes all of it, however short the single writes are.
    ///
    /// # Errors
    /// As [`StorageFile::write_at`]; a part may be written then.
    fn write_all_at(&self, mut bytes: &[u8], mut offset_bytes: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, offset_bytes)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => {
                    bytes = bytes.get(count..).ok_or(io::ErrorKind::InvalidData)?;
                    offset_bytes += count as u64;
                }
            }
        }
        Ok(())
    }

    /// Makes content and length durable (fdatasync).
    ///
    /// # Errors
    /// Any error means that unsynced writes may be lost, and that a later sync proves nothing about them.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes content, length and metadata durable (fsync).
    ///
    /// # Errors
    /// As [`StorageFile::sync_data`].
    fn sync_all(&self) -> io::Result<()>;

    /// The descriptor, where the file is one of the operating system's.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Cuts or extends the file to this length.
    ///
    /// # Errors
    /// The operating system's answer.
    fn set_len(&self, len_bytes: u64) -> io::Result<()>;

    /// Reserves space for `[0, len_bytes)` without changing the file's length (fallocate with `KEEP_SIZE`). A file system
    /// that cannot reserve answers `Ok`.
    ///
    /// # Errors
    /// `StorageFull`, or the operating system's answer.
    fn reserve(&self, len_bytes: u64) -> io::Result<()>;

    /// Asks for writeback of a range to begin, without waiting and without any promise (`sync_file_range`, WRITE).
    fn start_writeback(&self, offset_bytes: u64, len_bytes: u64);

    /// Drops clean cached pages of the whole file, so that the next read comes from the disk where that can be had.
    fn drop_cache(&self);

    /// Sets the permission bits.
    ///
    /// # Errors
    /// The operating system's answer.
    fn set_mode(&self, mode: u32) -> io::Result<()>;

    /// Sets the time of last modification.
    ///
    /// # Errors
    /// The operating system's answer.
    fn set_modified(&self, modified: SystemTime) -> io::Result<()>;
}

/// What [`Storage::sync_many`] answers.
#[derive(Debug)]
pub struct Synced {
    /// Of each file.
    pub files: Vec<io::Result<()>>,
    /// Of each directory.
    pub directories: Vec<io::Result<()>>,
}

/// A held lock; dropping it lets go.
pub trait StorageLock: Send + Sync {
    /// Replaces the text of the lock file, which tells others who holds it. Only for messages: the lock itself counts.
    ///
    /// # Errors
    /// The operating system's answer.
    fn describe(&self, text: &str) -> io::Result<()>;
}

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// What stands under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: FileKind,
    /// Device number of the file system.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Length in bytes.
    pub len_bytes: u64,
    /// Number of names (hard links).
    pub links: u64,
    /// Time of last modification.
    pub modified: SystemTime,
}

/// What a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, pipe or socket.
    Other,
}

/// Kinds of file system whose writing costs differ or whose locks cannot be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileSystem {
    /// ext2, ext3 or ext4.
    Ext4,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
    /// F2FS.
    F2fs,
    /// UBIFS.
    Ubifs,
    /// tmpfs or ramfs.
    Tmpfs,
    /// overlayfs.
    Overlay,
    /// NFS, CIFS, 9p or FUSE: locks may not exclude anybody.
    Network,
    /// Anything else.
    Other,
}
