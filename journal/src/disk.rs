//! The real disk.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, FileTimes, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Access as Permission, Advice, CWD, FallocateFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::storage::{Access, FileKind, FileSystem, Stat, Storage, StorageFile, StorageLock, Synced};
use crate::sys;
use crate::whole;

/// Directories that are open at once to be synced together, at most (chosen without measurement: files mostly go to few).
const DIRECTORIES_TOGETHER_MAX: usize = 4;

/// How often the lock file may be replaced between opening and locking it before that counts as contention.
const LOCK_ATTEMPTS_MAX: u32 = 8;

/// An attribute that no file has.
const ABSENT: &str = "user.backhaul.absent";

/// The file systems of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

struct DiskFile(File);

struct DiskLock(File);

impl Storage for Disk {
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn StorageFile>> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create_new(true)
            .mode(mode)
            .custom_flags(libc::O_NOFOLLOW);
        Ok(Box::new(DiskFile(options.open(path)?)))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn StorageFile>> {
        let mut options = OpenOptions::new();
        // Without O_NONBLOCK a pipe under this name would hold the caller until somebody writes to it. A regular file
        // does not notice.
        options
            .read(true)
            .write(access == Access::ReadWrite)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = options.open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Box::new(DiskFile(file)))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        std::fs::read_dir(directory)?
            .map(|entry| Ok(entry?.file_name()))
            .collect()
    }

    fn is_empty(&self, directory: &Path) -> io::Result<bool> {
        Ok(std::fs::read_dir(directory)?.next().transpose()?.is_none())
    }

    fn create_directory(&self, path: &Path, mode: u32) -> io::Result<()> {
        DirBuilder::new().mode(mode).create(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        retry(|| std::fs::rename(from, to))
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        match retry(|| Ok(rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)) {
            Err(error) if lacks(&error, &[Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP]) => link_and_unlink(from, to),
            answer => answer,
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        retry(|| std::fs::remove_file(path))
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let directory = open_directory(path)?;
        directory.sync_all()?;
        check_works(&directory)
    }

    /// With the check each time a lone `get` on ext4 was seen to cost 15 flushes instead of 11.
    fn sync_directory_to_go_on(&self, path: &Path) -> io::Result<()> {
        let directory = open_directory(path)?;
        directory.sync_all()?;
        still_there(&directory)
    }

    fn sync_many(&self, files: &[&dyn StorageFile], directories: &[&Path]) -> Synced {
        // Each takes a descriptor until all are synced, and whoever calls has few to spare.
        let (directories, others) = directories.split_at(directories.len().min(DIRECTORIES_TOGETHER_MAX));
        let opened: Vec<io::Result<File>> = directories.iter().map(|path| open_directory(path)).collect();
        let open = opened.iter().filter_map(|file| file.as_ref().ok());
        let descriptors = files.iter().filter_map(|file| file.descriptor());
        let descriptors: Vec<BorrowedFd<'_>> = descriptors.chain(open.map(AsFd::as_fd)).collect();
        let whole = whole::sync(&descriptors);
        let is_checked = whole.is_some();
        let results = match whole {
            Some(answer) => descriptors.iter().map(|_| Some(copy_of(&answer))).collect(),
            None if descriptors.len() > 1 => sys::sync_together(&descriptors).unwrap_or_default(),
            None => Vec::new(),
        };
        let mut results = results.into_iter();
        // What was not done together is done one after the other.
        let mut result_of = |has_descriptor: bool| if has_descriptor { results.next().flatten() } else { None };
        let of_files = files.iter().map(|file| {
            let result = result_of(file.descriptor().is_some());
            result.unwrap_or_else(|| file.sync_all())
        });
        let files = of_files.collect();
        let of_directories = opened.into_iter().map(|directory| {
            let directory = directory?;
            result_of(true).unwrap_or_else(|| directory.sync_all())?;
            if is_checked { Ok(()) } else { check_works(&directory) }
        });
        let others = others.iter().map(|path| self.sync_directory(path));
        Synced {
            files,
            directories: of_directories.chain(others).collect(),
        }
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        Ok(stat_of(&std::fs::symlink_metadata(path)?))
    }

    fn resolve(&self, directory: &Path) -> io::Result<PathBuf> {
        let path = std::fs::canonicalize(directory)?;
        if path.is_dir() {
            Ok(path)
        } else {
            Err(io::ErrorKind::NotADirectory.into())
        }
    }

    fn check_writable(&self, directory: &Path) -> io::Result<()> {
        Ok(rustix::fs::access(
            directory,
            // To read it as well: a directory that cannot be opened cannot be synced.
            Permission::READ_OK | Permission::WRITE_OK | Permission::EXEC_OK,
        )?)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        for _ in 0..LOCK_ATTEMPTS_MAX {
            let file = options.open(path)?;
            retry(|| fs2::FileExt::try_lock_exclusive(&file))?;
            // Somebody may have put another file under this name meanwhile: a lock on the old one excludes nobody.
            if still_named(&file, path)? {
                return Ok(Box::new(DiskLock(file)));
            }
        }
        Err(io::Error::new(
            io::ErrorKind::WouldBlock,
            "the lock file is being replaced again and again",
        ))
    }

    fn file_system(&self, path: &Path) -> io::Result<FileSystem> {
        Ok(file_system_of(&retry(|| Ok(rustix::fs::statfs(path)?))?))
    }

    fn available_bytes(&self, path: &Path) -> io::Result<u64> {
        let statvfs = retry(|| Ok(rustix::fs::statvfs(path)?))?;
        Ok(statvfs.f_frsize.saturating_mul(statvfs.f_bavail))
    }
}

impl StorageFile for DiskFile {
    fn stat(&self) -> io::Result<Stat> {
        Ok(stat_of(&self.0.metadata()?))
    }

    fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        retry(|| self.0.read_at(buffer, offset_bytes))
    }

    fn write_at(&self, bytes: &[u8], offset_bytes: u64) -> io::Result<usize> {
        match retry(|| self.0.write_at(bytes, offset_bytes))? {
            0 if !bytes.is_empty() => Err(io::ErrorKind::WriteZero.into()),
            written => Ok(written),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        retry(|| self.0.sync_data())
    }

    fn sync_all(&self) -> io::Result<()> {
        retry(|| self.0.sync_all())
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        retry(|| self.0.set_len(len_bytes))
    }

    fn reserve(&self, len_bytes: u64) -> io::Result<()> {
        if len_bytes == 0 {
            return Ok(());
        }
        match retry(|| Ok(rustix::fs::fallocate(&self.0, FallocateFlags::KEEP_SIZE, 0, len_bytes)?)) {
            Err(error) if lacks(&error, &[Errno::OPNOTSUPP, Errno::NOSYS]) => Ok(()),
            answer => answer,
        }
    }

    fn start_writeback(&self, offset_bytes: u64, len_bytes: u64) {
        sys::start_writeback(&self.0, offset_bytes, len_bytes);
    }

    fn drop_cache(&self) {
        // Only a hint: a kernel that does not take it leaves the pages where they are.
        let _ = rustix::fs::fadvise(&self.0, 0, None, Advice::DontNeed);
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        retry(|| self.0.set_permissions(Permissions::from_mode(mode)))
    }

    fn set_modified(&self, modified: SystemTime) -> io::Result<()> {
        retry(|| self.0.set_times(FileTimes::new().set_modified(modified)))
    }
}

impl StorageLock for DiskLock {
    fn describe(&self, text: &str) -> io::Result<()> {
        retry(|| self.0.set_len(0))?;
        self.0.write_all_at(text.as_bytes(), 0)
    }
}

impl Drop for DiskLock {
    /// The lock belongs to the open file, of which a child of another thread has a copy between fork and exec: closing ours
    /// alone would leave it locked until then.
    fn drop(&mut self) {
        // Nothing can be done about a failure, and the end of the process unlocks it in any case.
        let _ = fs2::FileExt::unlock(&self.0);
    }
}

/// A directory, to be synced.
fn open_directory(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECTORY).open(path)
}

/// Whether the file system of a directory still works after its sync, which need not say so: where its log has failed meanwhile, by
/// the sync of somebody else, there is nothing left to write. XFS then refuses a look, and ext4 a change.
fn check_works(directory: &File) -> io::Result<()> {
    if file_system_of(&retry(|| Ok(rustix::fs::fstatfs(directory)?))?) != FileSystem::Ext4 {
        return still_there(directory);
    }
    match begin_change(directory) {
        // Either its log has failed, which a sync says once a change was refused, or it is only read, which is no fault.
        Err(error) if lacks(&error, &[Errno::ROFS]) => directory.sync_all(),
        answer => answer,
    }
}

/// Makes the file system begin a change, and leaves everything as it is.
fn begin_change(directory: &File) -> io::Result<()> {
    let unchangeable = [Errno::PERM, Errno::ACCESS, Errno::OPNOTSUPP];
    // Of these the kernel does not know whether anything is there to be taken away before it has begun.
    match retry(|| Ok(rustix::fs::fremovexattr(directory, ABSENT)?)) {
        Err(error) if lacks(&error, &[Errno::NODATA]) => return Ok(()),
        Err(error) if lacks(&error, &unchangeable) => {}
        answer => return answer,
    }
    // In a sticky directory only its owner may do that, and everybody make a file, here one without a name.
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match retry(|| Ok(rustix::fs::openat(directory, ".", flags, Mode::RUSR)?)) {
        // Whoever may make no file in it has given no name there.
        Err(error) if lacks(&error, &unchangeable) => Ok(()),
        answer => answer.map(|_| ()),
    }
}

/// XFS whose log has failed refuses even this.
fn still_there(directory: &File) -> io::Result<()> {
    directory.metadata().map(|_| ())
}

fn copy_of(answer: &io::Result<()>) -> io::Result<()> {
    let number = |error: &io::Error| error.raw_os_error().unwrap_or(libc::EIO);
    let copy = answer
        .as_ref()
        .map_err(|error| io::Error::from_raw_os_error(number(error)));
    copy.copied()
}

/// Repeats a call until a signal no longer interrupts it.
pub(crate) fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            answer => return answer,
        }
    }
}

/// Whether the answer means that the file system or kernel does not know the call.
pub(crate) fn lacks(error: &io::Error, answers: &[Errno]) -> bool {
    answers
        .iter()
        .any(|answer| error.raw_os_error() == Some(answer.raw_os_error()))
}

/// Decides by the link, which fails where the new name is taken; a crash before the unlink leaves both names.
fn link_and_unlink(from: &Path, to: &Path) -> io::Result<()> {
    retry(|| std::fs::hard_link(from, to))?;
    retry(|| std::fs::remove_file(from)).inspect_err(|_| {
        // A refused rename promises that nothing has changed. Where this fails too, both names stay on one inode,
        // which callers have to tell apart after a crash anyway.
        let _ = std::fs::remove_file(to);
    })
}

fn still_named(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(named) => Ok(named.dev() == held.dev() && named.ino() == held.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn stat_of(metadata: &Metadata) -> Stat {
    let file_type = metadata.file_type();
    let kind = if file_type.is_file() {
        FileKind::File
    } else if file_type.is_dir() {
        FileKind::Directory
    } else if file_type.is_symlink() {
        FileKind::Symlink
    } else {
        FileKind::Other
    };
    Stat {
        kind,
        device: metadata.dev(),
        inode: metadata.ino(),
        len_bytes: metadata.len(),
        links: metadata.nlink(),
        // Every file system of Linux has one.
        modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
    }
}

pub(crate) fn file_system_of(statfs: &rustix::fs::StatFs) -> FileSystem {
    // The width and sign of this field differ between machines; the numbers are all 32 bits.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "file system numbers are 32 bits, sign-extended on some machines"
    )]
    kind_of(statfs.f_type as u32)
}

/// The numbers are those of `linux/magic.h` and of the file systems' own headers.
fn kind_of(magic: u32) -> FileSystem {
    match magic {
        0x0000_EF53 => FileSystem::Ext4,
        0x5846_5342 => FileSystem::Xfs,
        0x9123_683E => FileSystem::Btrfs,
        0xF2F5_2010 => FileSystem::F2fs,
        0x2405_1905 => FileSystem::Ubifs,
        0x0102_1994 | 0x8584_58F6 => FileSystem::Tmpfs,
        0x794C_7630 => FileSystem::Overlay,
        // NFS, SMB, CIFS, SMB2, 9p, FUSE, Ceph, AFS, Coda.
        0x0000_6969 | 0x0000_517B | 0xFF53_4D42 | 0xFE53_4D42 | 0x0102_1997 | 0x6573_5546 | 0x00C3_6400
        | 0x5346_414F | 0x7375_7245 => FileSystem::Network,
        _ => FileSystem::Other,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn a_file_that_was_replaced_after_it_was_opened_is_noticed() {
        let directory = std::env::temp_dir().join(format!("backhaul-journal-disk-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("LOCK");
        let opened = File::create(&path).unwrap();
        assert!(still_named(&opened, &path).unwrap());
        std::fs::rename(&path, directory.join("moved")).unwrap();
        assert!(!still_named(&opened, &path).unwrap());
        File::create(&path).unwrap();
        assert!(!still_named(&opened, &path).unwrap());
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_lock_that_was_given_up_is_free_although_another_process_still_has_a_copy_of_its_descriptor() {
        let directory = std::env::temp_dir().join(format!("backhaul-journal-lock-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("LOCK");
        let file = File::create(&path).unwrap();
        fs2::FileExt::try_lock_exclusive(&file).unwrap();
        let copy = file.try_clone().unwrap();
        drop(DiskLock(file));
        drop(Disk.lock(&path).unwrap());
        drop(copy);
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_link_stands_in_for_a_rename_that_the_kernel_lacks() {
        let directory = std::env::temp_dir().join(format!("backhaul-journal-link-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let (from, to) = (directory.join("from"), directory.join("to"));
        std::fs::write(&from, "from").unwrap();
        std::fs::write(&to, "to").unwrap();
        assert_eq!(
            link_and_unlink(&from, &to).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        std::fs::remove_file(&to).unwrap();
        link_and_unlink(&from, &to).unwrap();
        assert_eq!((from.exists(), std::fs::read(&to).unwrap()), (false, b"from".to_vec()));
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn the_numbers_of_file_systems_are_known() {
        assert_eq!(kind_of(0xEF53), FileSystem::Ext4);
        assert_eq!(kind_of(0x6969), FileSystem::Network);
        assert_eq!(kind_of(0x9123_683E), FileSystem::Btrfs);
        assert_eq!(kind_of(1), FileSystem::Other);
    }
}
