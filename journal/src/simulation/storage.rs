//! The simulated disk as the journal and the engine see it.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::disk::{Call, SimDisk, State};
use super::file::{SimFile, SimLock};
use super::names::Node;
use crate::storage::{Access, FileKind, FileSystem, Stat, Storage, StorageFile, StorageLock};

impl SimDisk {
    fn file(&self, path: &Path, inode: u64) -> Box<dyn StorageFile> {
        Box::new(SimFile {
            disk: self.clone(),
            inode,
            path: path.to_owned(),
        })
    }
}

fn find(state: &State, path: &Path) -> io::Result<Node> {
    state.names.find(path).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn find_file(state: &State, path: &Path) -> io::Result<u64> {
    match find(state, path)? {
        Node::File(inode) => Ok(inode),
        Node::Directory => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn find_directory(state: &State, path: &Path) -> io::Result<()> {
    match find(state, path)? {
        Node::Directory => Ok(()),
        Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
    }
}

/// Whether a new name may be made.
fn is_free(state: &State, path: &Path) -> io::Result<()> {
    find_directory(state, path.parent().unwrap_or(Path::new("/")))?;
    match state.names.find(path) {
        Some(_) => Err(io::ErrorKind::AlreadyExists.into()),
        None => Ok(()),
    }
}

fn rename(state: &mut State, from: &Path, to: &Path) -> io::Result<()> {
    let node = find(state, from)?;
    find_directory(state, to.parent().unwrap_or(Path::new("/")))?;
    match (node, state.names.find(to)) {
        (Node::File(_), Some(Node::Directory)) => return Err(io::ErrorKind::IsADirectory.into()),
        (Node::Directory, Some(Node::File(_))) => return Err(io::ErrorKind::NotADirectory.into()),
        (Node::Directory, Some(Node::Directory)) if state.names.inside(to).next().is_some() => {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        (_, Some(Node::File(replaced))) => state.bury(replaced),
        _ => {}
    }
    state.names.rename(from, to, node);
    Ok(())
}

impl Storage for SimDisk {
    fn create(&self, path: &Path, _mode: u32) -> io::Result<Box<dyn StorageFile>> {
        let (mut state, _) = self.enter(Call::Create, path)?;
        is_free(&state, path)?;
        let inode = state.add_file(path);
        drop(state);
        Ok(self.file(path, inode))
    }

    fn open(&self, path: &Path, _access: Access) -> io::Result<Box<dyn StorageFile>> {
        let (state, _) = self.enter(Call::Open, path)?;
        let inode = find_file(&state, path)?;
        drop(state);
        Ok(self.file(path, inode))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        let (state, _) = self.enter(Call::List, directory)?;
        find_directory(&state, directory)?;
        let inside = state.names.inside(directory);
        Ok(inside
            .filter_map(|(path, _)| path.file_name().map(ToOwned::to_owned))
            .collect())
    }

    fn create_directory(&self, path: &Path, _mode: u32) -> io::Result<()> {
        let (mut state, _) = self.enter(Call::CreateDirectory, path)?;
        is_free(&state, path)?;
        state.names.make(path, Node::Directory);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut state, _) = self.enter(Call::Rename, from)?;
        rename(&mut state, from, to)
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut state, _) = self.enter(Call::Rename, from)?;
        is_free(&state, to)?;
        rename(&mut state, from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (mut state, _) = self.enter(Call::Remove, path)?;
        let inode = find_file(&state, path)?;
        state.bury(inode);
        state.names.remove(path, Node::File(inode));
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let (mut state, _) = self.enter(Call::SyncDirectory, path)?;
        find_directory(&state, path)?;
        state.names.sync(path);
        Ok(())
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let (state, _) = self.enter(Call::Stat, path)?;
        let node = find(&state, path)?;
        drop(state);
        match node {
            Node::File(inode) => self.file(path, inode).stat(),
            Node::Directory => Ok(Stat {
                kind: FileKind::Directory,
                device: 1,
                inode: 0,
                len_bytes: 0,
                links: 2,
                modified: SystemTime::UNIX_EPOCH,
            }),
        }
    }

    fn resolve(&self, directory: &Path) -> io::Result<PathBuf> {
        let (state, _) = self.enter(Call::Stat, directory)?;
        find_directory(&state, directory)?;
        Ok(directory.to_owned())
    }

    fn check_writable(&self, directory: &Path) -> io::Result<()> {
        let (state, _) = self.enter(Call::Stat, directory)?;
        find_directory(&state, directory)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        let (mut state, _) = self.enter(Call::Lock, path)?;
        if state.names.find(path).is_none() {
            is_free(&state, path)?;
            state.add_file(path);
        }
        if !state.locked.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        drop(state);
        Ok(Box::new(SimLock {
            disk: self.clone(),
            path: path.to_owned(),
        }))
    }

    fn file_system(&self, path: &Path) -> io::Result<FileSystem> {
        let (state, _) = self.enter(Call::Stat, path)?;
        Ok(state.file_system)
    }

    fn available_bytes(&self, path: &Path) -> io::Result<u64> {
        let (state, _) = self.enter(Call::Stat, path)?;
        Ok(state.available() as u64)
    }
}
