//! Threads for calls that may block. There are as many as there is work for, and none while there is no work.

use crate::threads::{self, Role};
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most threads for calls: so many share one sync of the journal (chosen without measurement).
pub(super) const CALLS_MAX: usize = 16;
/// Most threads for calls that wait for more than a disk; the others are not held up by them (chosen without measurement).
pub(super) const WAITING_CALLS_MAX: usize = 64;
/// A thread that has nothing to do for so long ends.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// Something to be done on a thread.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Its threads and what they have to do. The caller bounds the jobs: one for each connection.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads_max: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// There is a job, or the pool stops.
    work: Condvar,
    /// A thread has ended.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    stopping: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// One of at most so many threads.
    pub(crate) fn new(threads_max: usize) -> Self {
        Self {
            shared: Arc::default(),
            threads_max,
        }
    }

    /// Has a job done.
    ///
    /// # Errors
    /// There is no thread, and the system gives none; the job is dropped.
    pub(crate) fn submit(&self, job: Job) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() || state.threads >= self.threads_max {
            drop(state);
            self.shared.work.notify_one();
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        match threads::for_a(Role::Call).spawn(move || work(&shared)) {
            // It finds the job when this lock is given back.
            Ok(_) => state.threads += 1,
            Err(error) if state.threads == 0 => {
                state.jobs.pop_back();
                return Err(error);
            }
            // Those that there are come to it.
            Err(_) => {}
        }
        Ok(())
    }

    /// Lets the threads go, and waits for them until `end`. One that is still in a call then ends after it.
    pub(crate) fn stop(&self, end: Instant) {
        let mut state = self.shared.lock();
        state.stopping = true;
        state.jobs.clear();
        self.shared.work.notify_all();
        while state.threads > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.shared.ended.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn work(shared: &Shared) {
    while let Some(job) = next(shared) {
        // What a job promises it keeps when it is dropped, and a panic has been printed.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
    shared.ended.notify_all();
    let is_last = {
        let state = shared.lock();
        state.threads == 0 && !state.stopping
    };
    if is_last {
        crate::sys::give_back_memory();
    }
}

/// The next job; `None` where the thread is to end, which then counts no more.
fn next(shared: &Shared) -> Option<Job> {
    let mut state = shared.lock();
    let end = Instant::now() + IDLE_MAX;
    loop {
        if let Some(job) = state.jobs.pop_front() {
            return Some(job);
        }
        let left = end.saturating_duration_since(Instant::now());
        if state.stopping || left.is_zero() {
            state.threads -= 1;
            return None;
        }
        state.idle += 1;
        let waited = shared.work.wait_timeout(state, left);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.idle -= 1;
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const THREADS_MAX: usize = 4;

    #[test]
    fn a_panic_in_a_job_ends_neither_its_thread_nor_the_pool() {
        let pool = Pool::new(THREADS_MAX);
        let (sender, receiver) = mpsc::channel();
        for number in 0..100 {
            let sender = sender.clone();
            let job = move || {
                assert!(number % 2 == 0, "a panic that is asked for");
                sender.send(number).unwrap();
            };
            pool.submit(Box::new(job)).unwrap();
        }
        let mut done: Vec<u32> = (0..50).map(|_| receiver.recv().unwrap()).collect();
        done.sort_unstable();
        assert_eq!(done, (0..100).step_by(2).collect::<Vec<_>>());
        pool.stop(Instant::now() + Duration::from_secs(60));
        assert_eq!(pool.shared.lock().threads, 0);
    }

    #[test]
    fn no_more_threads_are_started_than_there_may_be() {
        let pool = Pool::new(THREADS_MAX);
        let (gate, held) = (Arc::new(Mutex::new(())), mpsc::channel());
        let closed = gate.lock().unwrap();
        for _ in 0..3 * THREADS_MAX {
            let (gate, sender) = (Arc::clone(&gate), held.0.clone());
            let job = move || {
                drop(gate.lock().unwrap());
                sender.send(()).unwrap();
            };
            pool.submit(Box::new(job)).unwrap();
        }
        assert_eq!(pool.shared.lock().threads, THREADS_MAX);
        drop(closed);
        for _ in 0..3 * THREADS_MAX {
            held.1.recv().unwrap();
        }
        pool.stop(Instant::now() + Duration::from_secs(60));
    }
}
