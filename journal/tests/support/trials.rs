//! What the tests on a simulated disk share: work on all processors, seeds, figures, and how to repeat a failure.

use std::cell::Cell;
use std::io::Write as _;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A line for the summary of the tests, which shows also where tests pass.
pub(crate) fn figure(line: &str) {
    say(&format!("figure: {line}"));
}

/// A line that is seen whatever the test harness swallows.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

pub(crate) fn number_from(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// The seed that the environment gives, or else always the same: a change is judged by what it does, not by its luck.
/// `tests/soak` draws new ones.
pub(crate) fn seed() -> u64 {
    number_from("BACKHAUL_TEST_SEED").unwrap_or(1)
}

thread_local! {
    /// Whether a panic on this thread is what a test is after.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, panics on this thread are not printed.
pub(crate) struct Quiet;

impl Quiet {
    pub(crate) fn begin() -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let loud = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                if !QUIET.get() {
                    loud(panic);
                }
            }));
        });
        QUIET.set(true);
        Self
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        QUIET.set(false);
    }
}

/// Says how to repeat what was going on when a test failed.
pub(crate) struct Repeat(pub(crate) String);

impl Drop for Repeat {
    fn drop(&mut self) {
        if std::thread::panicking() && !QUIET.get() {
            say(&self.0);
        }
    }
}

/// Runs something for each item, on as many threads as there are processors.
pub(crate) fn in_parallel<T: Sync>(items: &[T], run: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(2, Into::into);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    run(item);
                }
            });
        }
    });
}
