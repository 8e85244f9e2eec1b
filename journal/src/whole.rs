//! Many files of one file system are synced as the whole of it: one commit and a few writes stand for all of them, where each
//! file by itself asks for a commit, and waits for it.

use std::io;
use std::os::fd::BorrowedFd;

use crate::disk::{file_system_of, retry};
use crate::storage::FileSystem;
use crate::sys;

/// Files from which on it pays (chosen: a quarter of a full batch).
const FILES_MIN: usize = 32;

/// How much of what others have written, to any file system, may have to go to the disk beside it: a writer that never rests
/// must hold nobody up, and what others will delete again soon should not wear out the flash (chosen: a slow card
/// takes that in some seconds).
const OTHERS_BYTES_MAX: u64 = 16 << 20;

/// Makes several files durable, as `fsync(2)` does each: one result for each, or `None` for those that have to be synced by
/// themselves. `None` for all where that is better or the only way: where they are few, lie on several file systems or on
/// one whose promise is not known, or where others have much to write.
///
/// Source: `sync(2)`, NOTES: on Linux syncfs gives the same guarantees as an fsync of every file of the file system.
pub(crate) fn sync(files: &[BorrowedFd<'_>]) -> Option<Vec<Option<io::Result<()>>>> {
    sync_beside(files, OTHERS_BYTES_MAX)
}

fn sync_beside(files: &[BorrowedFd<'_>], others_bytes_max: u64) -> Option<Vec<Option<io::Result<()>>>> {
    let (first, last) = (files.first()?, files.last()?);
    if files.len() < FILES_MIN || !is_known(*first) {
        return None;
    }
    let own_bytes = bytes_on_one_disk(files)?;
    if waiting_bytes()? > own_bytes.saturating_add(others_bytes_max) {
        return None;
    }
    retry(|| Ok(rustix::fs::syncfs(first)?)).ok()?;
    // It speaks for the file system, and before Linux 5.8 not of what could not be written; each file does for itself.
    let written = files.iter().map(|file| retry(|| sys::written_back(*file)));
    let mut results: Vec<_> = written.map(Some).collect();
    // Not every file system has the device empty its cache for it, as a sync of a file does.
    if let Err(error) = retry(|| Ok(rustix::fs::fsync(last)?)) {
        for result in results.iter_mut().filter(|result| matches!(result, Some(Ok(())))) {
            *result = None;
        }
        if let Some(result @ None) = results.last_mut() {
            *result = Some(Err(error));
        }
    }
    Some(results)
}

/// Those on which it was tested, also by cutting their power.
fn is_known(file: BorrowedFd<'_>) -> bool {
    let statfs = rustix::fs::fstatfs(file);
    statfs.is_ok_and(|statfs| matches!(file_system_of(&statfs), FileSystem::Ext4 | FileSystem::Xfs))
}

/// How long the files are, all together; `None` where they do not lie on one file system.
fn bytes_on_one_disk(files: &[BorrowedFd<'_>]) -> Option<u64> {
    let mut disk = None;
    let mut bytes = 0_u64;
    for file in files {
        let stat = rustix::fs::fstat(file).ok()?;
        if *disk.get_or_insert(stat.st_dev) != stat.st_dev {
            return None;
        }
        bytes = bytes.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
    }
    Some(bytes)
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
    use std::fs::{self, File};
    use std::os::fd::AsFd;
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
    fn many_files_have_an_answer_each_where_the_file_system_is_a_known_one_and_few_have_none() {
        let files = Files::new("whole", FILES_MIN);
        let descriptors = files.descriptors();
        let synced = sync_beside(&descriptors, u64::MAX);
        assert_eq!(synced.is_some(), is_known(descriptors[0]));
        for result in synced.into_iter().flatten() {
            result.unwrap().unwrap();
        }
        assert!(sync_beside(&descriptors[1..], u64::MAX).is_none(), "one is missing");
    }

    #[test]
    fn files_of_two_file_systems_are_synced_by_themselves() {
        let files = Files::new("two", FILES_MIN);
        let elsewhere = File::open("/proc/self/status").unwrap();
        let mut descriptors = files.descriptors();
        assert_eq!(bytes_on_one_disk(&descriptors), Some(3 * FILES_MIN as u64));
        descriptors.push(elsewhere.as_fd());
        assert_eq!(bytes_on_one_disk(&descriptors), None);
        assert!(sync_beside(&descriptors, u64::MAX).is_none());
    }

    #[test]
    fn what_others_have_to_write_is_what_waits_and_what_is_on_its_way() {
        let text = "nr_dirty_threshold 9\nnr_dirty 5\nnr_writeback_temp 8\nnr_writeback 7\n";
        assert_eq!(waiting_pages(text), Some(12));
        assert_eq!(waiting_pages("nr_dirty 5\n"), None);
        assert_eq!(waiting_pages("nr_dirty x\nnr_writeback 7\n"), None);
        assert!(waiting_bytes().is_some(), "this system says it");
    }
}
