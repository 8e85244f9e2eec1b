//! Many files of one file system are synced as the whole of it: one commit and a few writes stand for all of them, where each
//! file by itself asks for a commit, and waits for it.

use std::io;
use std::os::fd::BorrowedFd;

use crate::disk::{file_system_of, retry};
use crate::storage::FileSystem;
use crate::sys;

/// Files from which on it pays (chosen: a quarter of a full batch).
const FILES_MIN: usize = 32;

/// How much may have to be written to all disks of this machine when it is done, by whomever: a writer that never rests must
/// hold nobody up for long, and what others will delete again soon should not wear out the flash (chosen: a slow card takes
/// that in some seconds, and with 512 MiB of memory Linux begins to write no later by itself).
const WAITING_BYTES_MAX: u64 = 64 << 20;

/// Makes several files of one file system durable, as `fsync(2)` does each: one result for each, or `None` for those that have
/// to be synced by themselves. `None` for all where that is better or the only way: where they are few, lie on a file system
/// whose promise is not known, or where much waits to be written.
///
/// Source: `sync(2)`, NOTES: on Linux syncfs gives the same guarantees as an fsync of every file of the file system.
pub(crate) fn sync(files: &[BorrowedFd<'_>]) -> Option<Vec<Option<io::Result<()>>>> {
    sync_within(files, WAITING_BYTES_MAX)
}

fn sync_within(files: &[BorrowedFd<'_>], waiting_bytes_max: u64) -> Option<Vec<Option<io::Result<()>>>> {
    let (first, last) = (files.first()?, files.last()?);
    if files.len() < FILES_MIN || waiting_bytes()? > waiting_bytes_max || !is_known(*first) {
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
        assert!(
            sync_within(&descriptors, 0).is_none(),
            "they wait themselves, which is too much"
        );
        let synced = sync_within(&descriptors, u64::MAX);
        assert_eq!(synced.is_some(), is_known(descriptors[0]));
        for result in synced.into_iter().flatten() {
            result.unwrap().unwrap();
        }
        assert!(sync_within(&descriptors[1..], u64::MAX).is_none(), "one is missing");
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
