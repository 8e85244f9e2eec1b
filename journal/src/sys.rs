//! The system calls that no safe crate offers: writeback of a file and what became of it, and syncs of many files at once.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Mutex, TryLockError};

/// Asks the kernel to begin writing back a range of `file`. A hint: no wait, no promise, no error.
pub(crate) fn start_writeback(file: &File, offset_bytes: u64, len_bytes: u64) {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset_bytes), i64::try_from(len_bytes)) else {
        return;
    };
    let _ = sync_file_range(file.as_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE);
}

/// Begins to write back all of `file`.
///
/// # Errors
/// What stands against it, such as that there is no room; not what becomes of it, which [`written_back`] tells.
pub(crate) fn write_back(file: BorrowedFd<'_>) -> io::Result<()> {
    sync_file_range(file, 0, 0, libc::SYNC_FILE_RANGE_WRITE)
}

/// Whether all that was written back of `file` so far went well, as far as this descriptor was not told yet; waits for what is
/// under way, and begins nothing.
///
/// Source: `sync_file_range(2)`; it tells each descriptor, as `fsync(2)` does, since Linux 4.14.
pub(crate) fn written_back(file: BorrowedFd<'_>) -> io::Result<()> {
    sync_file_range(file, 0, 0, libc::SYNC_FILE_RANGE_WAIT_BEFORE)
}

/// With a length of 0 it goes to the end.
fn sync_file_range(file: BorrowedFd<'_>, offset: i64, len: i64, flags: libc::c_uint) -> io::Result<()> {
    #[expect(unsafe_code, reason = "sync_file_range has no safe wrapper in the crates used here")]
    // SAFETY: the call takes a descriptor and three numbers, touches no memory of this process, and the borrow of
    // `file` keeps the descriptor open and ours until it returns.
    let answer = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, flags) };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Files that are synced at once, at most. The kernel gives each a thread of its own while it waits.
const TOGETHER_MAX: usize = 128;

/// A request for a sync.
///
/// Source: `struct iocb` of `linux/aio_abi.h`. Two of its fields stand the other way round on machines that begin with the
/// high byte; both are zero here.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Request {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    descriptor: u32,
    buffer: u64,
    len_bytes: u64,
    offset_bytes: i64,
    reserved: u64,
    flags: u32,
    notice: u32,
}

/// The answer to one.
///
/// Source: `struct io_event` of `linux/aio_abi.h`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Answer {
    data: u64,
    request: u64,
    result: i64,
    second_result: i64,
}

/// `IOCB_CMD_FSYNC`.
const FSYNC: u16 = 2;

/// What this process has been given for such requests; it lasts until the process ends.
enum Context {
    Unasked,
    /// `aio_context_t`.
    Given(usize),
    Refused,
}

static CONTEXT: Mutex<Context> = Mutex::new(Context::Unasked);

/// Makes several files durable, as fsync(2) does each: at once, so that they share what one commit of the file system and
/// one flush of the device do for all. `None` where it was not done, as the kernel cannot, or another thread is at it. The end
/// of a process that has called it takes some 40 ms more (measured), in which the kernel takes the context away.
/// Source: `io_submit(2)`.
pub(crate) fn sync_together(files: &[BorrowedFd<'_>]) -> Option<Vec<Option<io::Result<()>>>> {
    let mut context = match CONTEXT.try_lock() {
        Ok(context) => context,
        // What a panic left is either a context or none.
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return None,
    };
    if matches!(*context, Context::Unasked) {
        *context = set_up();
    }
    let mut results = Vec::with_capacity(files.len());
    for some in files.chunks(TOGETHER_MAX) {
        results.extend(sync_some(&mut context, some));
    }
    Some(results)
}

fn set_up() -> Context {
    let mut number: usize = 0;
    #[expect(unsafe_code, reason = "no safe crate offers it")]
    // SAFETY: io_setup(2) takes a number and the place of an `aio_context_t`, an unsigned long, which on Linux is as wide as
    // `usize`; it is ours, and zero as io_setup asks for.
    let answer = unsafe { libc::syscall(libc::SYS_io_setup, TOGETHER_MAX, &raw mut number) };
    if answer == 0 {
        Context::Given(number)
    } else {
        Context::Refused
    }
}

/// One result for each file; `None` for those that the kernel did not take.
fn sync_some(context: &mut Context, files: &[BorrowedFd<'_>]) -> Vec<Option<io::Result<()>>> {
    let mut results: Vec<Option<io::Result<()>>> = files.iter().map(|_| None).collect();
    let Context::Given(number) = *context else {
        return results;
    };
    let mut requests = [Request::default(); TOGETHER_MAX];
    let mut places = [std::ptr::null_mut::<Request>(); TOGETHER_MAX];
    for ((number, file), (request, place)) in files.iter().enumerate().zip(requests.iter_mut().zip(&mut places)) {
        request.data = number as u64;
        request.opcode = FSYNC;
        // An open descriptor is not negative.
        request.descriptor = file.as_raw_fd().cast_unsigned();
        *place = request;
    }
    let asked = files.len().min(TOGETHER_MAX);
    #[expect(unsafe_code, reason = "no safe crate offers it")]
    // SAFETY: io_submit(2) reads `asked` pointers from `places`, each to a request that is valid here, and writes the key of
    // a request. It has copied them when it returns, and holds the files themselves, not their numbers. A sync touches no
    // other memory of this process. The context is one that io_setup gave, and is never destroyed.
    let taken = unsafe { libc::syscall(libc::SYS_io_submit, number, asked, places.as_mut_ptr()) };
    let mut waited = usize::try_from(taken).unwrap_or(0);
    let mut answers = [Answer::default(); TOGETHER_MAX];
    // Ends: each turn takes the answers that are to come, or some of them where a signal came.
    while waited > 0 {
        let none = std::ptr::null_mut::<libc::timespec>();
        #[expect(unsafe_code, reason = "no safe crate offers it")]
        // SAFETY: io_getevents(2) writes at most `waited` answers to the place that it is given, which has room for that many,
        // and keeps no pointer. Only this thread asks for answers of this context: the caller holds its lock.
        let count = unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                number,
                waited,
                waited,
                answers.as_mut_ptr(),
                none,
            )
        };
        let Ok(count) = usize::try_from(count) else {
            if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
                continue;
            }
            // Nothing is known to refuse it. Answers that come later must not be taken for those of another call.
            *context = Context::Refused;
            break;
        };
        take_in(&answers[..count.min(waited)], &mut results);
        waited = waited.saturating_sub(count);
    }
    // What became of one that was taken and has no answer nobody knows: a sync after one that failed proves nothing.
    let taken = results.iter_mut().take(usize::try_from(taken).unwrap_or(0));
    for result in taken.filter(|result| result.is_none()) {
        *result = Some(Err(unsaid()));
    }
    results
}

/// Answers come in any order; each goes to the file that it is about.
fn take_in(answers: &[Answer], results: &mut [Option<io::Result<()>>]) {
    for answer in answers {
        let number = usize::try_from(answer.data).unwrap_or(usize::MAX);
        if let Some(result) = results.get_mut(number) {
            *result = Some(result_of(answer.result));
        }
    }
}

/// Errors come as negative numbers; what is neither that nor zero is no word of success.
fn result_of(result: i64) -> io::Result<()> {
    match i32::try_from(result) {
        Ok(0) => Ok(()),
        Ok(error) if (-4095..0).contains(&error) => Err(io::Error::from_raw_os_error(-error)),
        _ => Err(unsaid()),
    }
}

fn unsaid() -> io::Error {
    io::Error::other("the kernel did not say whether it was synced")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn answer(data: u64, result: i64) -> Answer {
        Answer {
            data,
            result,
            ..Answer::default()
        }
    }

    #[test]
    fn an_answer_counts_for_the_file_that_it_is_about_and_for_no_other() {
        let mut results: Vec<Option<io::Result<()>>> = (0..4).map(|_| None).collect();
        let error = i64::from(libc::EIO);
        take_in(&[answer(2, -error), answer(0, 0), answer(9, 0)], &mut results);
        assert!(matches!(results[0], Some(Ok(()))), "{results:?}");
        assert!(results[1].is_none() && results[3].is_none(), "{results:?}");
        let refused = results[2].take().unwrap().unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EIO));
    }

    #[test]
    fn a_file_that_the_kernel_does_not_take_has_no_answer_and_neither_have_those_after_it() {
        let directory = File::open(env!("CARGO_MANIFEST_DIR")).unwrap();
        let (pipe, _other_end) = io::pipe().unwrap();
        let synced = sync_together(&[directory.as_fd(), pipe.as_fd(), directory.as_fd()]).unwrap();
        // Where the kernel does none of this, no file has an answer.
        assert!(synced[0].as_ref().is_none_or(Result::is_ok), "{synced:?}");
        assert!(synced[1].is_none() && synced[2].is_none(), "{synced:?}");
    }

    #[test]
    fn requests_and_answers_are_laid_out_as_the_kernel_has_them() {
        assert_eq!((size_of::<Request>(), size_of::<Answer>()), (64, 32));
        assert_eq!(std::mem::offset_of!(Request, key), 8);
        assert_eq!(std::mem::offset_of!(Request, opcode), 16);
        assert_eq!(std::mem::offset_of!(Request, descriptor), 20);
        assert_eq!(std::mem::offset_of!(Request, offset_bytes), 40);
        assert_eq!(std::mem::offset_of!(Answer, result), 16);
    }

    #[test]
    fn only_zero_is_a_success() {
        assert!(result_of(0).is_ok());
        assert_eq!(result_of(-5).unwrap_err().raw_os_error(), Some(5));
        for unknown in [1, -4096, i64::from(i32::MIN), i64::MIN, i64::MAX] {
            assert!(result_of(unknown).is_err(), "{unknown}");
        }
    }
}
