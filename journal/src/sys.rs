//! The one system call that no safe crate offers.

use std::fs::File;
use std::os::fd::AsRawFd;

/// Asks the kernel to begin writing back a range of `file`. A hint: no wait, no promise, no error.
pub(crate) fn start_writeback(file: &File, offset_bytes: u64, len_bytes: u64) {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset_bytes), i64::try_from(len_bytes)) else {
        return;
    };
    #[expect(unsafe_code, reason = "sync_file_range has no safe wrapper in the crates used here")]
    // SAFETY: the call takes a descriptor and three numbers, touches no memory of this process, and the borrow of
    // `file` keeps the descriptor open and ours until it returns.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE);
    }
}
