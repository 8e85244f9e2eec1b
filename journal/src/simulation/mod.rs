//! A simulated disk, for tests: it can lose its power at any moment, fail at any call, fill up and rot.
//!
//! One disk carries the journal, the vault and the data files, so that what is promised about all of them together can be
//! judged. What a power cut leaves of unsynced work is a matter of [`Choices`]: all of them in turn, or as a seed or a
//! fuzzer says.
//!
//! The model, per power cut:
//!
//! - A file's sectors that were written since its last sync are each as before, as after any of the writes, half of one
//!   and half of the other, or, where the file had no such sector before, zeros or what the medium held there.
//! - Its length is any that it had since the sync, or one in between at a sector's edge.
//! - Directory entries that were made, renamed or removed since the directory's sync have happened or not, each for
//!   itself, but never one without those that it rests on.
//! - What was synced stays as it is. Rot, which knows no such limit, is done to a disk by [`SimDisk::edit`].
//!
//! A sync can fail in the two ways known of Linux file systems: the pages count as clean from then on and go with the
//! power, or the old content is back at once.

mod choices;
mod content;
mod disk;
mod file;
mod names;
mod storage;

pub use choices::Choices;
pub use disk::{Call, Fault, SimDisk};
