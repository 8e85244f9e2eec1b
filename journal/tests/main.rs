//! Tests of the journal through its public interface.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod checkpoint;
mod corruption;
mod disk;
mod faults;
mod format;
mod full_disk;
mod group_commit;
mod inspect;
mod recovery;
mod support;
mod threads;
mod truncation;
