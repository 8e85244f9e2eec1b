//! The names in a journal's directory, and what they make up.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Error;
use crate::format::{FILES_MAX, NUMBER_MAX};
use crate::storage::Storage;

/// Ballast that is given up when the disk is full.
pub(crate) const RESERVE: &str = "reserve";
/// Marks a directory into which a salvage has not finished copying.
pub(crate) const INCOMPLETE: &str = "INCOMPLETE";
/// The name under which a lock file may stand beside the journal's files.
pub(crate) const LOCK: &str = "LOCK";
/// Most parts of one snapshot.
pub(crate) const PARTS_MAX: u32 = 0x1000;

/// A directory of journal files on some storage.
#[derive(Clone)]
pub(crate) struct Directory {
    pub storage: Arc<dyn Storage>,
    pub path: PathBuf,
}

/// What the names in the directory say; nothing was opened.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    pub segments: BTreeSet<u64>,
    /// Parts found, by the LSN that the snapshot covers.
    pub snapshots: BTreeMap<u64, BTreeSet<u32>>,
    pub temporaries: Vec<OsString>,
    pub has_reserve: bool,
    pub incomplete: bool,
    pub unknown: Vec<OsString>,
}

#[derive(Debug, PartialEq, Eq)]
enum Name {
    Segment(u64),
    Snapshot(u64, u32),
    Temporary,
    Reserve,
    Incomplete,
    Lock,
    Unknown,
}

pub(crate) fn segment_name(seq: u64) -> String {
    format!("{seq:016x}.seg")
}

pub(crate) fn segment_temporary(seq: u64) -> String {
    format!("{seq:016x}.tmp")
}

pub(crate) fn snapshot_name(lsn: u64, part: u32) -> String {
    format!("{lsn:016x}-{part:04x}.snap")
}

pub(crate) fn snapshot_temporary(lsn: u64, part: u32) -> String {
    format!("{lsn:016x}-{part:04x}.tmp")
}

impl Directory {
    pub(crate) fn new(storage: &Arc<dyn Storage>, path: &Path) -> Directory {
        Directory {
            storage: Arc::clone(storage),
            path: path.to_owned(),
        }
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.storage
            .sync_directory(&self.path)
            .map_err(Error::io("sync the directory", &self.path))
    }

    /// Where a rename in it comes next (see [`Storage::sync_directory_to_go_on`]).
    pub(crate) fn sync_to_go_on(&self) -> Result<(), Error> {
        self.storage
            .sync_directory_to_go_on(&self.path)
            .map_err(Error::io("sync the directory", &self.path))
    }

    /// Removes a file that may be gone already.
    pub(crate) fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.join(name);
        match self.storage.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::Io("remove", path, error)),
            _ => Ok(()),
        }
    }

    /// Reads and sorts the names; nothing where the directory does not exist.
    pub(crate) fn layout(&self) -> Result<Option<Layout>, Error> {
        let names = match self.storage.list(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            answer => answer.map_err(Error::io("list", &self.path))?,
        };
        let mut layout = Layout::default();
        for name in names {
            layout.add(name);
        }
        let files = layout.segments.len() + layout.snapshots.values().map(BTreeSet::len).sum::<usize>();
        if files > FILES_MAX {
            return Err(Error::TooMany(
                "journal files in one directory",
                files as u64,
                FILES_MAX as u64,
            ));
        }
        Ok(Some(layout))
    }
}

impl Layout {
    fn add(&mut self, name: OsString) {
        match parse(&name) {
            Name::Segment(seq) => {
                self.segments.insert(seq);
            }
            Name::Snapshot(lsn, part) => {
                self.snapshots.entry(lsn).or_default().insert(part);
            }
            Name::Temporary => self.temporaries.push(name),
            Name::Reserve => self.has_reserve = true,
            Name::Incomplete => self.incomplete = true,
            Name::Lock => {}
            Name::Unknown => self.unknown.push(name),
        }
    }

    /// Whether every file is still there in a later look.
    pub(crate) fn is_within(&self, later: &Layout) -> bool {
        let snapshots = self
            .snapshots
            .iter()
            .all(|(lsn, parts)| later.snapshots.get(lsn).is_some_and(|later| parts.is_subset(later)));
        snapshots && self.segments.is_subset(&later.segments)
    }

    /// Whether nothing of a journal is here.
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.snapshots.is_empty()
    }
}

fn parse(name: &OsString) -> Name {
    let Some(name) = name.to_str() else {
        return Name::Unknown;
    };
    match name {
        RESERVE => return Name::Reserve,
        INCOMPLETE => return Name::Incomplete,
        LOCK => return Name::Lock,
        _ => {}
    }
    let Some((stem, extension)) = name.split_once('.') else {
        return Name::Unknown;
    };
    match (numbers(stem), extension) {
        (Some((seq, None)), "seg") if seq > 0 && seq < NUMBER_MAX => Name::Segment(seq),
        (Some((lsn, Some(part))), "snap") if lsn < NUMBER_MAX && part < PARTS_MAX => Name::Snapshot(lsn, part),
        (Some(_), "tmp") => Name::Temporary,
        _ => Name::Unknown,
    }
}

/// `0000000000000007` or `0000000000000007-0001`, in lower-case hexadecimal digits and exactly so many.
fn numbers(stem: &str) -> Option<(u64, Option<u32>)> {
    let (first, second) = match stem.split_once('-') {
        Some((first, second)) => (first, Some(second)),
        None => (stem, None),
    };
    let first = hexadecimal(first, 16)?;
    match second {
        Some(second) => Some((first, Some(u32::try_from(hexadecimal(second, 4)?).ok()?))),
        None => Some((first, None)),
    }
}

fn hexadecimal(digits: &str, len: usize) -> Option<u64> {
    let proper = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (proper && digits.len() == len).then(|| u64::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_as_they_were_made() {
        let cases = [
            (segment_name(7), Name::Segment(7)),
            (segment_name(NUMBER_MAX - 1), Name::Segment(NUMBER_MAX - 1)),
            (snapshot_name(0xa41c3, 2), Name::Snapshot(0xa41c3, 2)),
            (segment_temporary(9), Name::Temporary),
            (snapshot_temporary(9, 1), Name::Temporary),
            (RESERVE.to_owned(), Name::Reserve),
            (INCOMPLETE.to_owned(), Name::Incomplete),
            (LOCK.to_owned(), Name::Lock),
        ];
        for (name, expected) in cases {
            assert_eq!(parse(&OsString::from(&name)), expected, "{name}");
        }
    }

    #[test]
    fn a_name_that_differs_in_anything_is_unknown() {
        let names = [
            "",
            ".",
            "7.seg",
            "0000000000000000.seg",
            "000000000000000A.seg",
            "8000000000000000.seg",
            "8000000000000000-0000.snap",
            "+000000000000007.seg",
            "00000000000000007.seg",
            "0000000000000007.seg.bak",
            "0000000000000007.SEG",
            "0000000000000007.snap",
            "0000000000000007-001.snap",
            "0000000000000007-ffff.snap",
            "0000000000000007-0001-0001.snap",
            "0000000000000007",
            "lock",
        ];
        for name in names {
            assert_eq!(parse(&OsString::from(name)), Name::Unknown, "{name}");
        }
    }
}
