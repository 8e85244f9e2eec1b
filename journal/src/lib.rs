//! An append-only journal with checksums, group commit and proven recovery; opaque records in, the same records out.

mod storage;

pub use storage::{Access, FileKind, FileSystem, Stat, Storage, StorageFile, StorageLock};
