//! A complete file on its way to its final name.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::core::Core;
use super::destination::check_roots;
use super::fault::Fault;
use super::part::{NAME_BYTES_MAX, Part, cut};
use crate::operation::{Intent, Operation, Shared, Spec, TransferId, path_in};

/// A complete part file that waits for its final name.
pub(crate) struct Ready {
    pub(super) id: TransferId,
    pub(super) spec: Shared<Spec>,
    pub(super) generation: u32,
    pub(super) part: Part,
    pub(super) len_bytes: u64,
    pub(super) crc32: u32,
    /// It was in doubt when its attempt began; afterwards nothing brings it there.
    pub(super) was_in_doubt: bool,
    /// Device and inode of its file, once the publisher has looked at it.
    pub(super) place: (u64, u64),
    /// The intent that stands for it in the journal already.
    pub(super) declared: Option<Intent>,
    /// Number of the name to try next; 0 is the destination itself.
    pub(super) name_index: u32,
}

impl Ready {
    pub(crate) fn new(operation: &Operation, generation: u32, part: Part, len_bytes: u64, crc32: u32) -> Self {
        Self {
            id: operation.id,
            spec: operation.spec.clone(),
            generation,
            part,
            len_bytes,
            crc32,
            was_in_doubt: operation.doubt.is_some(),
            place: (0, 0),
            declared: None,
            name_index: 0,
        }
    }

    pub(super) fn write_out(&self, core: &Core) -> Result<(), Fault> {
        check_roots(core, self.spec.directory())?;
        self.part.write_out(core.environment.storage.as_ref())
    }

    /// The device that its file lies on; 0 before the publisher has looked at it.
    pub(super) fn device(&self) -> u64 {
        self.place.0
    }

    pub(super) fn final_path(&self) -> PathBuf {
        self.path_at(self.name_index)
    }

    /// The final name that comes at this place among those that may be tried.
    pub(super) fn path_at(&self, index: u32) -> PathBuf {
        let name = self.spec.destination.file_name().unwrap_or_default();
        path_in(self.spec.directory(), &numbered(name, index))
    }
}

/// `name.ext` for 0, `name (2).ext` for 1, and so on.
fn numbered(name: &OsStr, index: u32) -> OsString {
    if index == 0 {
        return name.to_os_string();
    }
    let bytes = name.as_bytes();
    // A leading dot begins a hidden file, not an extension.
    let dot = bytes
        .iter()
        .rposition(|byte| *byte == b'.')
        .filter(|position| *position > 0);
    let (stem, extension) = bytes.split_at(dot.unwrap_or(bytes.len()));
    let number = format!(" ({})", index + 1);
    let room = NAME_BYTES_MAX.saturating_sub(number.len() + extension.len());
    OsString::from_vec([cut(stem, room), number.as_bytes(), extension].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unique_names_count_from_two_before_the_extension() {
        let name = |text: &str, index| numbered(OsStr::new(text), index).to_string_lossy().into_owned();
        assert_eq!(name("a.tar.gz", 0), "a.tar.gz");
        assert_eq!(name("a.img", 1), "a (2).img");
        assert_eq!(name("noext", 2), "noext (3)");
        assert_eq!(name(".hidden", 1), ".hidden (2)");
        assert_eq!(name(&"ü".repeat(127), 1), format!("{} (2)", "ü".repeat(125)));
    }
}
