//! The few system calls that no safe crate offers. The only unsafe code of this package.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

// Unwinding has other signatures on ARM of 32 bits.
#[cfg(all(
    target_env = "gnu",
    target_pointer_width = "64",
    any(test, all(target_feature = "crt-static", panic = "abort"))
))]
mod absent;

/// The first descriptor that a service manager hands over.
///
/// Source: `sd_listen_fds(3)`, `SD_LISTEN_FDS_START`.
pub(crate) const LISTEN_FDS_START: RawFd = 3;

static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes over the descriptor [`LISTEN_FDS_START`], which the process was started with: at most once in its life. `None`
/// where it was taken before, or is not open.
///
/// To be called only where the service manager says that it handed that descriptor to this very process: `LISTEN_PID` is
/// its own, and `LISTEN_FDS` counts at least one.
pub(crate) fn take_inherited_descriptor() -> Option<OwnedFd> {
    if IS_TAKEN.swap(true, Ordering::Relaxed) {
        return None;
    }
    #[expect(
        unsafe_code,
        reason = "rustix asks only about descriptors that somebody owns already"
    )]
    // SAFETY: fcntl with F_GETFD takes no pointer, changes nothing, and fails with EBADF where the number is not open.
    let flags = unsafe { libc::fcntl(LISTEN_FDS_START, libc::F_GETFD) };
    if flags < 0 {
        return None;
    }
    #[expect(unsafe_code, reason = "std takes over a number only on the word of its caller")]
    // SAFETY: the descriptor is open, as fcntl has just said. Nobody else in this process owns it: the caller knows that it
    // was open when the process began, so that no later open was given its number, and of what was there from the beginning
    // Rust's runtime owns 0 to 2 only. `IS_TAKEN` makes sure that this function hands it out once.
    let descriptor = unsafe { OwnedFd::from_raw_fd(LISTEN_FDS_START) };
    Some(descriptor)
}

/// Gives back to the system what memory is not needed while nothing happens. Costs some milliseconds, and page faults at the
/// next work.
///
/// That is memory which is free, but still held for later: glibc keeps what many threads have freed for good otherwise. And,
/// where the process is ours, pages of code and constants: they stay in the page cache as long as the system has no better
/// use for them. The breakpoints of a debugger, which are written into such pages, go with them.
pub(crate) fn give_back_memory() {
    give_back_free_memory();
    if IS_OURS.load(Ordering::Relaxed) {
        give_back_code();
    }
}

/// This process is the program itself, not one that embeds the engine, whose code is not ours to give back.
pub(crate) fn this_process_is_ours() {
    IS_OURS.store(true, Ordering::Relaxed);
}

static IS_OURS: AtomicBool = AtomicBool::new(false);

/// Lets the allocator hold as little as it can beside what is in use. To be called before there are threads.
///
/// glibc gives each thread an arena of its own, up to eight for each processor, and keeps in each what was freed there: with
/// eight transfers over HTTPS that is more than what is in use (measured). Allocations are rare while bytes flow, so that one
/// arena for all is no place where threads meet. From a quarter of a megabyte on an allocation is a mapping of its own, which
/// goes back at once; without this the border moves up with what is freed. Small pieces are joined with their neighbours when they
/// are freed, and not kept apart for the next small one: 10,000 files took 0.6 MiB less with that, and 0.4 % more instructions.
pub(crate) fn keep_memory_together() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, ARENAS_MAX),
        (libc::M_MMAP_THRESHOLD, MAPPED_BYTES),
        (libc::M_TRIM_THRESHOLD, FREE_BYTES_MAX),
        (libc::M_MXFAST, FAST_BYTES_MAX),
    ] {
        tune(parameter, value);
    }
}

/// Takes some of that back for many small files, of each of which several threads allocate and free a hundred pieces: with
/// four arenas 10,000 files took 4 % less CPU and half a megabyte more. To be called before there are threads.
pub(crate) fn let_threads_allocate() {
    #[cfg(target_env = "gnu")]
    if IS_OURS.load(Ordering::Relaxed) {
        tune(libc::M_ARENA_MAX, ARENAS_OF_MANY_FILES);
    }
}

#[cfg(target_env = "gnu")]
fn tune(parameter: libc::c_int, value: libc::c_int) {
    #[expect(unsafe_code, reason = "std knows nothing of the allocator below it")]
    // SAFETY: mallopt(3) takes no pointer; there are no other threads yet.
    unsafe {
        libc::mallopt(parameter, value);
    }
}

#[cfg(target_env = "gnu")]
const ARENAS_MAX: libc::c_int = 1;
#[cfg(target_env = "gnu")]
const ARENAS_OF_MANY_FILES: libc::c_int = 4;
#[cfg(target_env = "gnu")]
const MAPPED_BYTES: libc::c_int = 256 << 10;
#[cfg(target_env = "gnu")]
const FREE_BYTES_MAX: libc::c_int = 128 << 10;
#[cfg(target_env = "gnu")]
const FAST_BYTES_MAX: libc::c_int = 0;

/// Has the scheduler take this thread for one of many that work through a batch: woken, it does not take the processor from
/// whoever runs. It keeps its share; what it starts is like it. Where that is forbidden, or somebody has chosen another policy
/// for this process, nothing changes.
///
/// With 10,000 files of 1 KiB the thread that gives the names waited for the processor half as long, 5 % less time in all.
///
/// Source: `sched(7)`, `SCHED_BATCH`.
pub(crate) fn interrupt_nobody() {
    if change_policy(libc::SCHED_OTHER, libc::SCHED_BATCH) {
        INTERRUPTS_NOBODY.store(true, Ordering::Relaxed);
    }
}

/// Some thread of this process has that policy from here, and not from whoever started the process.
static INTERRUPTS_NOBODY: AtomicBool = AtomicBool::new(false);

/// Takes that back for this thread, which may have it from the one that started it.
pub(crate) fn interrupt_as_any() {
    if INTERRUPTS_NOBODY.load(Ordering::Relaxed) {
        change_policy(libc::SCHED_BATCH, libc::SCHED_OTHER);
    }
}

/// Whether it was changed.
fn change_policy(from: libc::c_int, to: libc::c_int) -> bool {
    // `struct sched_param` of the kernel, which has this one member.
    let priority: libc::c_int = 0;
    #[expect(
        unsafe_code,
        reason = "no safe crate here asks for it, and musl's functions of these names refuse"
    )]
    // SAFETY: the second call reads one number, which lives until it returns; 0 is the calling thread.
    unsafe {
        libc::syscall(libc::SYS_sched_getscheduler, 0) == libc::c_long::from(from)
            && libc::syscall(libc::SYS_sched_setscheduler, 0, to, &raw const priority) == 0
    }
}

fn give_back_free_memory() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "std knows nothing of the allocator below it")]
    // SAFETY: malloc_trim(3) may be called at any time and from any thread; it takes the allocator's own locks and touches
    // only memory that nobody has.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn give_back_code() {
    #[expect(unsafe_code, reason = "std knows nothing of how programs are loaded")]
    // SAFETY: `visit` is given what dl_iterate_phdr(3) promises, unwinds nowhere, and keeps no pointer.
    unsafe {
        libc::dl_iterate_phdr(Some(visit), std::ptr::null_mut());
    }
}

/// Tags of dynamic sections that tell of code which differs from its file, because addresses were written into it.
///
/// Source: elf(5), `Elf64_Dyn`; the System V ABI, "Dynamic Section".
const DT_NULL: usize = 0;
const DT_TEXTREL: usize = 22;
const DT_FLAGS: usize = 30;
const DF_TEXTREL: usize = 4;

/// Gives back the pages of one loaded file that are as in that file.
#[expect(unsafe_code, reason = "dl_iterate_phdr and madvise take pointers")]
unsafe extern "C" fn visit(
    object: *mut libc::dl_phdr_info,
    _size_bytes: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the caller gives a valid object, whose headers stay loaded until this function returns: the loader's lock is
    // held, so that nothing is unloaded meanwhile. A dynamic section is an array of pairs of words that ends with DT_NULL.
    unsafe {
        let base = usize::try_from((*object).dlpi_addr).unwrap_or(0);
        if (*object).dlpi_phdr.is_null() {
            return 0;
        }
        let headers = std::slice::from_raw_parts((*object).dlpi_phdr, usize::from((*object).dlpi_phnum));
        let place = |address| base.wrapping_add(usize::try_from(address).unwrap_or(0));
        for header in headers.iter().filter(|header| header.p_type == libc::PT_DYNAMIC) {
            let mut pair = place(header.p_vaddr) as *const [usize; 2];
            while (*pair)[0] != DT_NULL {
                let [tag, value] = *pair;
                if tag == DT_TEXTREL || (tag == DT_FLAGS && value & DF_TEXTREL != 0) {
                    return 0;
                }
                pair = pair.add(1);
            }
        }
        let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(usize::MAX);
        for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD) {
            // What is not writable was not written, so that the file still has it. Whole pages only: others may belong to
            // two segments.
            if header.p_flags & libc::PF_W == 0 {
                let begin = place(header.p_vaddr).next_multiple_of(page);
                let length = usize::try_from(header.p_filesz).unwrap_or(0);
                let end = place(header.p_vaddr).saturating_add(length) / page * page;
                if end > begin {
                    libc::madvise(begin as *mut libc::c_void, end - begin, libc::MADV_DONTNEED);
                }
            }
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The policy of the thread that reads it. Source: `proc_pid_stat(5)`, field 41.
    fn policy(stat: &str) -> Option<libc::c_int> {
        let after_name = stat.rsplit(')').next()?;
        after_name.split_whitespace().nth(38)?.parse().ok()
    }

    #[test]
    fn a_thread_that_interrupts_nobody_changes_itself_and_no_other() {
        let own = || policy(&std::fs::read_to_string("/proc/thread-self/stat").expect("it is there"));
        let before = own();
        let thread = std::thread::spawn(move || {
            interrupt_nobody();
            let quiet = own();
            let child = std::thread::spawn(move || {
                interrupt_as_any();
                own()
            });
            (quiet, child.join().expect("it ends"), own())
        });
        let batch = Some(libc::SCHED_BATCH);
        let expected = if before == Some(libc::SCHED_OTHER) {
            (batch, before, batch)
        } else {
            (before, before, before)
        };
        assert_eq!(thread.join().expect("it ends"), expected);
        assert_eq!(own(), before);
    }

    #[test]
    fn memory_can_be_given_back_while_others_allocate() {
        let threads: Vec<_> = (0..4_usize)
            .map(|number| {
                std::thread::spawn(move || {
                    let mut sum = 0;
                    for round in 0..200 {
                        let bytes = vec![1_u8; (round + number) * 512];
                        give_back_memory();
                        sum += bytes.iter().map(|byte| usize::from(*byte)).sum::<usize>();
                    }
                    sum
                })
            })
            .collect();
        for (number, thread) in threads.into_iter().enumerate() {
            let expected: usize = (0..200).map(|round| (round + number) * 512).sum();
            assert_eq!(thread.join().expect("ends"), expected);
        }
    }
}
