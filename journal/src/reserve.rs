//! Ballast that is given up when the disk is full, so that what must be recorded still can be.

use std::io;

use crate::directory::{Directory, RESERVE};
use crate::error::Error;
use crate::storage::{Access, FileSystem};

/// Bytes of ballast written by one call. Chosen without measurement.
const BALLAST_BYTES: usize = 4096;
/// Most bytes of ballast. Chosen without measurement.
const RESERVE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The reserve file's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reserve {
    /// The options ask for none.
    Off,
    /// Space is set aside.
    Held,
    /// Not made yet in this directory.
    Missing,
    /// Given up, or never to be had: only critical records are taken.
    Spent,
}

impl Reserve {
    pub(crate) fn is_spent(self) -> bool {
        self == Reserve::Spent
    }

    /// Gives the space back to the file system.
    pub(crate) fn spend(&mut self, directory: &Directory) -> Result<(), Error> {
        if *self == Reserve::Held {
            directory.remove(RESERVE)?;
            // Some file systems hand out freed blocks only after the removal was committed.
            directory.sync()?;
        }
        if *self != Reserve::Off {
            *self = Reserve::Spent;
        }
        Ok(())
    }

    /// Sets space aside where that is not done yet. With the reserve spent it waits until the file system has `spare`
    /// bytes more than it takes, or it would be spent again at once.
    pub(crate) fn refill(&mut self, directory: &Directory, bytes: u64, spare: u64) {
        let bytes = bytes.min(RESERVE_BYTES_MAX);
        let room = match self {
            Reserve::Off | Reserve::Held => return,
            Reserve::Missing => true,
            Reserve::Spent => directory
                .storage
                .available_bytes(&directory.path)
                .is_ok_and(|free| free >= bytes + spare),
        };
        // The file needs no sync: it holds nothing, and its space is taken as soon as it is allocated.
        *self = if room && allocate(directory, bytes).is_ok() {
            Reserve::Held
        } else {
            Reserve::Spent
        };
        if self.is_spent() {
            // A part of a reserve would only be in the way of records.
            let _ = directory.remove(RESERVE);
        }
    }
}

fn allocate(directory: &Directory, bytes: u64) -> io::Result<()> {
    let path = directory.join(RESERVE);
    let file = match directory.storage.create(&path, 0o600) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            directory.storage.open(&path, Access::ReadWrite)?
        }
        answer => answer?,
    };
    match directory.storage.file_system(&directory.path)? {
        FileSystem::Ext4 | FileSystem::Xfs | FileSystem::Btrfs | FileSystem::F2fs | FileSystem::Tmpfs => {
            file.reserve(bytes)
        }
        // Elsewhere only written bytes are sure to take space, and zeros may be compressed away.
        _ => {
            let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
            let mut block = [0; BALLAST_BYTES];
            for offset in (0..bytes).step_by(BALLAST_BYTES) {
                noise.fill(&mut block);
                file.write_all_at(&block, offset)?;
            }
            Ok(())
        }
    }
}

/// A xorshift generator; its bytes need only be hard to compress.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, block: &mut [u8]) {
        for bytes in block.chunks_exact_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.copy_from_slice(&self.0.to_le_bytes());
        }
    }
}
