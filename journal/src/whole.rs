//! Many files of one file system are synced as the whole of it: one commit and a few writes stand for all of them, where each
//! file by itself asks for a commit, and waits for it.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use crate::disk::{file_system_of, lacks, retry};
use crate::storage::FileSystem;
use crate::sys;

/// How much may have to be written to all disks of this machine when it is done, by whomever, for each file that is synced
/// with it, and for all: a writer that never rests must hold nobody up for long, and what others will delete again soon should
/// not wear out the flash (chosen: a slow card takes the latter in some seconds, and with 512 MiB of memory Linux begins to
/// write no later by itself).
const WAITING_BYTES_EACH: u64 = 2 << 20;
const WAITING_BYTES_MAX: u64 = 64 << 20;

/// It has failed once, or was refused, and files are synced by themselves until this process ends: a failure may be that of
/// somebody else's file, and would come again.
static HAS_FAILED: AtomicBool = AtomicBool::new(false);

/// Makes several files of one file system durable, as `fsync(2)` does each. `None` where they have to be synced by themselves:
/// where there is only one or the first is a directory, where they lie on several file systems or on one whose promise is not
/// known, where much waits to be written, where the kernel or who runs this refuses or something failed that need not be
/// theirs, and from then on.
///
/// # Errors
/// Of one of them or of their file system; no file is durable then, and none may be asked: an fsync finds nothing left to do for
/// what a commit has failed for.
///
/// Source: `sync(2)`, NOTES: on Linux syncfs gives the same guarantees as an fsync of every file of the file system.
pub(crate) fn sync(files: &[BorrowedFd<'_>]) -> Option<io::Result<()>> {
    if HAS_FAILED.load(Ordering::Relaxed) {
        return None;
    }
    let waiting_bytes_max = WAITING_BYTES_EACH
        .saturating_mul(files.len() as u64)
        .min(WAITING_BYTES_MAX);
    sync_within(files, waiting_bytes_max)
}

fn sync_within(files: &[BorrowedFd<'_>], waiting_bytes_max: u64) -> Option<io::Result<()>> {
    let [first, second, ..] = *files else { return None };
    if !is_regular(first) {
        return None;
    }
    let flushed = match known(first)? {
        FileSystem::Xfs if is_regular(second) => Some(second),
        FileSystem::Xfs => return None,
        _ => None,
    };
    if !are_of_one_file_system(files) || waiting_bytes()? > waiting_bytes_max {
        return None;
    }
    let answer = sync_all(files, first, flushed);
    HAS_FAILED.fetch_or(!matches!(answer, Ok(true)), Ordering::Relaxed);
    match answer {
        Ok(is_done) => is_done.then_some(Ok(())),
        Err(error) if lacks(&error, &[Errno::NOSYS, Errno::PERM, Errno::ACCESS]) => None,
        Err(error) => Some(Err(error)),
    }
}

/// `changed` is the one of them that shows whether their file system takes a change; `flushed` is one more that is synced by
/// itself. Both must be regular files. `false`: each can be synced by itself, and has to be.
fn sync_all(files: &[BorrowedFd<'_>], changed: BorrowedFd<'_>, flushed: Option<BorrowedFd<'_>>) -> io::Result<bool> {
    for file in files {
        // ext4 tells nobody else that it found no room for what was written, and goes on without it.
        retry(|| sys::write_back(*file))?;
    }
    let synced = retry(|| Ok(rustix::fs::syncfs(changed)?));
    match (synced, check_changes(changed)) {
        (Ok(()), Ok(())) => {}
        // It speaks of what could not be written of any file, by whomever, also of what nobody has been told of that was before
        // these were there. No commit has failed: what became of each file, its own sync says.
        (Err(_), Ok(())) => return Ok(false),
        (Err(error), Err(_)) | (Ok(()), Err(error)) => return Err(error),
    }
    if let Some(file) = flushed {
        // Where files lie on a device of their own, XFS empties that one's cache for a sync of such a file alone.
        retry(|| Ok(rustix::fs::fsync(file)?))?;
    }
    for file in files {
        // Before Linux 5.8 syncfs does not speak of what could not be written, nor ever of what its descriptor came too late for.
        retry(|| sys::written_back(*file))?;
    }
    Ok(true)
}

/// Whether the file system takes a change, which it does not once its journal has failed: then all that was committed before
/// was written. The sync itself need not say so: where the commit of somebody else has failed by the time it comes to wait for
/// that, ext4 finds nothing left to wait for.
///
/// ext4 keeps to itself that it could not begin the change, and refuses the next one.
fn check_changes(file: BorrowedFd<'_>) -> io::Result<()> {
    let mode = Mode::from_raw_mode(retry(|| Ok(rustix::fs::fstat(file)?))?.st_mode);
    for _ in 0..2 {
        retry(|| Ok(rustix::fs::fchmod(file, mode)?))?;
    }
    Ok(())
}

/// Those on which it was tested, also by cutting their power and by making their journals fail: ext4 with a journal, and XFS
/// on one device. Without a journal ext4 empties the cache of the device before it writes the last of what it has.
fn known(file: BorrowedFd<'_>) -> Option<FileSystem> {
    let kind = file_system_of(&rustix::fs::fstatfs(file).ok()?);
    let device = rustix::fs::fstat(file).ok()?.st_dev;
    let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let is_known = match kind {
        FileSystem::Ext4 => has_journal(&device)?,
        FileSystem::Xfs => !has_realtime(&std::fs::read_to_string("/proc/self/mountinfo").ok()?, &device),
        _ => false,
    };
    is_known.then_some(kind)
}

/// `None` where the system does not say.
///
/// Source: Linux, Documentation/ABI/testing/sysfs-fs-ext4, `journal_task`: its number, or none.
fn has_journal(device: &str) -> Option<bool> {
    let device = std::fs::read_link(Path::new("/sys/dev/block").join(device)).ok()?;
    let known = Path::new("/sys/fs/ext4").join(device.file_name()?);
    let task = std::fs::read_to_string(known.join("journal_task")).ok()?;
    Some(task.trim().parse::<u32>().is_ok())
}

/// Whether an XFS has a device for files of their own kind.
///
/// Source: `proc_pid_mountinfo(5)`, fields 3 and 11; `xfs(5)`, `rtdev`.
fn has_realtime(mounts: &str, device: &str) -> bool {
    let mut options = mounts.lines().filter_map(|line| {
        let is_meant = line.split(' ').nth(2) == Some(device);
        line.rsplit(' ').next().filter(|_| is_meant)
    });
    options.any(|options| options.split(',').any(|option| option.starts_with("rtdev=")))
}

fn is_regular(file: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

fn are_of_one_file_system(files: &[BorrowedFd<'_>]) -> bool {
    let mut devices = files
        .iter()
        .map(|file| rustix::fs::fstat(file).ok().map(|stat| stat.st_dev));
    let first = devices.next().flatten();
    first.is_some() && devices.all(|device| device == first)
}

/// What waits to be written to any disk of this machine or is on its way there; `None` where the system does not say.
///
/// Source: `proc_vmstat(5)`.
fn waiting_bytes() -> Option<u64> {
    let pages = waiting_pages(&std::fs::read_to_string("/proc/vmstat").ok()?)?;
    Some(pages.saturating_mul(rustix::param::page_size() as u64))
}

fn waiting_pages(text: &str) -> Option<u64> {
    let count = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line?.trim().parse::<u64>().ok()
    };
    count("nr_dirty")?.checked_add(count("nr_writeback")?)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::fs::{self, File, Permissions};
    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    /// Files in a directory that goes with them.
    struct Files {
        directory: PathBuf,
        files: Vec<File>,
    }

    impl Files {
        fn new(name: &str, count: usize) -> Self {
            let directory = std::env::temp_dir().join(format!("backhaul-journal-{name}-{}", std::process::id()));
            fs::create_dir_all(&directory).unwrap();
            let files = (0..count).map(|number| {
                let path = directory.join(number.to_string());
                fs::write(&path, "abc").unwrap();
                fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
                File::open(&path).unwrap()
            });
            let files = files.collect();
            Self { directory, files }
        }

        fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
            self.files.iter().map(AsFd::as_fd).collect()
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }

    #[test]
    fn files_have_an_answer_where_their_file_system_is_a_known_one_and_one_alone_or_scattered_ones_have_none() {
        let files = Files::new("whole", 2);
        let descriptors = files.descriptors();
        assert!(
            sync_within(&descriptors, 0).is_none(),
            "they wait themselves, which is too much"
        );
        let synced = sync_within(&descriptors, u64::MAX);
        assert_eq!(synced.is_some(), known(descriptors[0]).is_some());
        assert!(synced.is_none_or(|answer| answer.is_ok()));
        let mode = files.files[0].metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640, "nothing of them has changed");
        assert!(sync_within(&descriptors[1..], u64::MAX).is_none(), "it is alone");
        let directory = File::open(&files.directory).unwrap();
        let other: Vec<_> = [directory.as_fd()]
            .into_iter()
            .chain(descriptors.iter().copied())
            .collect();
        assert!(sync_within(&other, u64::MAX).is_none(), "a directory comes first");
        let elsewhere = File::open("/proc/self/status").unwrap();
        let mixed: Vec<_> = descriptors.iter().copied().chain([elsewhere.as_fd()]).collect();
        assert!(sync_within(&mixed, u64::MAX).is_none(), "one lies elsewhere");
    }

    #[test]
    fn a_device_for_files_of_their_own_kind_is_seen_where_the_file_system_has_one() {
        let mounts = "30 1 8:1 / / rw - ext4 /dev/sda1 rw,rtdev=no\n31 30 8:2 / /m rw shared:1 - xfs /dev/sda2 rw,noquota\n\
                      32 30 8:3 / /n rw - xfs /dev/sda3 rw,rtdev=/dev/sdb,noquota\n";
        assert!(!has_realtime(mounts, "8:2") && has_realtime(mounts, "8:3") && !has_realtime(mounts, "8:4"));
    }

    #[test]
    fn what_is_to_be_written_is_what_waits_and_what_is_on_its_way() {
        let text = "nr_dirty_threshold 9\nnr_dirty 5\nnr_writeback_temp 8\nnr_writeback 7\n";
        assert_eq!(waiting_pages(text), Some(12));
        assert_eq!(waiting_pages("nr_dirty 5\n"), None);
        assert_eq!(waiting_pages("nr_dirty x\nnr_writeback 7\n"), None);
        assert!(waiting_bytes().is_some(), "this system says it");
    }
}
