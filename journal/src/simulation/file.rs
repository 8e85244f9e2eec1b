//! One open file of the simulated disk.

use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use super::disk::{Call, Fault, SimDisk};
use crate::storage::{FileKind, Stat, StorageFile, StorageLock};

pub(super) struct SimFile {
    pub(super) disk: SimDisk,
    pub(super) inode: u64,
    /// The name it was opened under, for faults.
    pub(super) path: PathBuf,
}

pub(super) struct SimLock {
    pub(super) disk: SimDisk,
    pub(super) path: PathBuf,
}

impl StorageFile for SimFile {
    fn stat(&self) -> io::Result<Stat> {
        let (state, _) = self.disk.enter(Call::Stat, &self.path)?;
        let links = state.names.files().filter(|(_, inode)| *inode == self.inode).count();
        Ok(Stat {
            kind: FileKind::File,
            device: 1,
            inode: self.inode,
            len_bytes: state.content(self.inode)?.live().len() as u64,
            links: links as u64,
            modified: SystemTime::UNIX_EPOCH,
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        let (mut state, _) = self.disk.enter(Call::Read, &self.path)?;
        let live = state.content(self.inode)?.live();
        let start = position(offset_bytes)?.min(live.len());
        let count = buffer.len().min(live.len() - start);
        buffer[..count].copy_from_slice(&live[start..start + count]);
        state.read_bytes += count as u64;
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset_bytes: u64) -> io::Result<usize> {
        let (mut state, fault) = self.disk.enter(Call::Write, &self.path)?;
        let mut bytes = &bytes[..bytes.len().min(state.write_bytes_max)];
        if let Some(Fault::Short(count)) = fault {
            bytes = &bytes[..bytes.len().min(count.max(1))];
        }
        let start = position(offset_bytes)?;
        state.take_space(self.inode, start + bytes.len())?;
        state.content_mut(self.inode)?.write(bytes, start);
        Ok(bytes.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        // What is written while the sync goes on need not be part of it.
        let begun = self.disk.state().content(self.inode)?.mark();
        let (mut state, fault) = self.disk.enter(Call::Sync, &self.path)?;
        let content = state.content_mut(self.inode)?;
        match fault {
            Some(Fault::SyncLoses(error)) => {
                content.sync_and_lose();
                Err(error)
            }
            Some(Fault::SyncReverts(error)) => {
                content.sync_and_revert();
                Err(error)
            }
            _ => {
                content.sync(begun);
                Ok(())
            }
        }
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        let (mut state, _) = self.disk.enter(Call::SetLen, &self.path)?;
        let len_bytes = position(len_bytes)?;
        state.take_space(self.inode, len_bytes)?;
        state.content_mut(self.inode)?.set_len(len_bytes);
        Ok(())
    }

    fn reserve(&self, len_bytes: u64) -> io::Result<()> {
        let (mut state, _) = self.disk.enter(Call::Reserve, &self.path)?;
        let len_bytes = position(len_bytes)?;
        state.take_space(self.inode, len_bytes)?;
        state.content_mut(self.inode)?.reserved_bytes = len_bytes;
        Ok(())
    }

    fn start_writeback(&self, _offset_bytes: u64, _len_bytes: u64) {}

    fn drop_cache(&self) {}

    fn set_mode(&self, _mode: u32) -> io::Result<()> {
        Ok(())
    }

    fn set_modified(&self, _modified: SystemTime) -> io::Result<()> {
        Ok(())
    }
}

/// Simulated files are held in memory.
fn position(bytes: u64) -> io::Result<usize> {
    const LEN_BYTES_MAX: u64 = 1 << 30;
    usize::try_from(bytes)
        .ok()
        .filter(|_| bytes <= LEN_BYTES_MAX)
        .ok_or_else(|| io::ErrorKind::FileTooLarge.into())
}

impl StorageLock for SimLock {
    fn describe(&self, text: &str) -> io::Result<()> {
        self.disk.put(&self.path, text.as_bytes());
        Ok(())
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.state().locked.remove(&self.path);
    }
}
