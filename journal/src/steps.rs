//! Steps that durability rests on, by name, so that a test can leave one out and see that it is missed.

#[cfg(feature = "simulation")]
use std::cell::Cell;

#[cfg(feature = "simulation")]
use std::sync::OnceLock;

/// The step that a whole test program leaves out, on all its threads.
#[cfg(feature = "simulation")]
static LEFT_OUT_EVERYWHERE: OnceLock<&'static str> = OnceLock::new();

#[cfg(feature = "simulation")]
thread_local! {
    static LEFT_OUT: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Whether a step is taken: always, but for the one that a test leaves out on this thread.
#[cfg(not(feature = "simulation"))]
#[must_use]
#[inline]
pub const fn is_taken(_step: &'static str) -> bool {
    true
}

/// Whether a step is taken: always, but for the one that a test leaves out on this thread.
#[cfg(feature = "simulation")]
#[must_use]
pub fn is_taken(step: &'static str) -> bool {
    LEFT_OUT.get() != Some(step) && LEFT_OUT_EVERYWHERE.get() != Some(&step)
}

/// Leaves one step out from now on, on all threads of this process. Only the first call counts.
#[cfg(feature = "simulation")]
pub fn leave_out_everywhere(step: &'static str) {
    let _ = LEFT_OUT_EVERYWHERE.set(step);
}

/// Runs something on this thread with one step left out.
#[cfg(feature = "simulation")]
pub fn without<T>(step: &'static str, run: impl FnOnce() -> T) -> T {
    struct Restore(Option<&'static str>);
    impl Drop for Restore {
        fn drop(&mut self) {
            LEFT_OUT.set(self.0);
        }
    }
    // Also where it panics, which is what a missed step makes a test do.
    let _restore = Restore(LEFT_OUT.replace(Some(step)));
    run()
}
