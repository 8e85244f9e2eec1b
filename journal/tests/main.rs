//! Tests of the journal through its public interface.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod checkpoint;
mod disk;
mod full_disk;
mod group_commit;
mod recovery;
mod support;
