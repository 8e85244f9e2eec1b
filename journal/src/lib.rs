//! An append-only journal with checksums, group commit and proven recovery; opaque records in, the same records out.
//!
//! A journal is a directory of files. [`Journal::open`] replays what it holds, [`Journal::append`] adds a record and
//! [`Journal::sync`] makes it durable: many threads that sync at once share one write and one sync of the disk. What
//! was durable comes back after any crash, in order and unchanged; what cannot be had any more is reported, never left
//! out in silence.
//!
//! A writer holds a [`Lock`]. Reading ([`read`], [`verify`], [`dump`]) needs none and writes nothing. A damaged journal
//! is not opened; [`salvage`] copies what is intact into a new directory.
//!
//! Checksums find accidents, not forgers: who may write to the directory may write any record.
//!
#![doc = include_str!("../FORMAT.md")]

mod checkpoint;
mod checksum;
mod damaged;
mod directory;
mod disk;
mod error;
mod format;
mod frame;
mod group;
mod inspect;
mod lock;
mod open;
mod options;
mod read;
mod reader;
mod recovery;
mod replay;
mod report;
mod reserve;
mod salvage;
mod segment;
#[cfg(feature = "simulation")]
pub mod simulation;
mod snapshot;
#[doc(hidden)]
pub mod steps;
mod storage;
mod sync;
mod sys;
mod whole;
mod writer;

pub use disk::Disk;
pub use error::{Corruption, Error, ReplayError};
pub use format::{BODY_BYTES_MAX, RECORD_BYTES_MAX};
pub use frame::FrameKind;
pub use inspect::{Entry, dump, verify};
pub use lock::Lock;
pub use options::{Options, Preallocate, Urgency};
pub use read::read;
pub use replay::{Lsn, Replay};
pub use report::{Report, SegmentReport, SnapshotReport, Tail, Verdict};
pub use salvage::{LINEAGE_BYTES, Salvaged, salvage};
pub use snapshot::SnapshotWriter;
pub use storage::{Access, FileKind, FileSystem, Stat, Storage, StorageFile, StorageLock, Synced};
pub use writer::{Journal, Stats};
