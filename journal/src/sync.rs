//! Where threads meet: the locks, the waiting and the delays of the journal.
//!
//! The feature `shuttle` puts those of a schedule explorer in their place, which runs all threads of a test in one and
//! decides at each of these calls who goes on. It is for `tests/schedules.rs` only; nothing else works with it.

#[cfg(feature = "shuttle")]
pub(crate) use shuttle::{
    sync::{Condvar, Mutex, MutexGuard},
    thread::{sleep, yield_now},
};
#[cfg(not(feature = "shuttle"))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard},
    thread::{sleep, yield_now},
};
