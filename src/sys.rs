//! The few system calls that no safe crate offers. The only unsafe code of this package.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

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

/// Gives memory that is free, but still held for later, back to the system. glibc keeps what many threads have freed for
/// good otherwise; other C libraries do not, and there this does nothing.
pub(crate) fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "std knows nothing of the allocator below it")]
    // SAFETY: malloc_trim(3) may be called at any time and from any thread; it takes the allocator's own locks and touches
    // only memory that nobody has.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
