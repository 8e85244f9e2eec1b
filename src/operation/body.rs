//! What a request sends along, as the journal stores it.

use std::fmt;
use std::path::{Path, PathBuf};

use minicbor::{Decode, Encode};

use super::spec::path_bytes;

/// Identity of a spooled body: 128 random bits, shown as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub(crate) struct SpoolId(#[cbor(n(0), with = "minicbor::bytes")] pub(crate) [u8; 16]);

impl fmt::Display for SpoolId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for SpoolId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Where a body is, and what it was when the operation was created.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum StoredBody {
    /// A file of somebody else's, which has to stay as it is.
    #[n(0)]
    File {
        /// Absolute, without symlinks.
        #[cbor(n(0), with = "path_bytes")]
        path: PathBuf,
        #[n(1)]
        len_bytes: u64,
        /// Time of last modification, nanoseconds since 1970.
        #[n(2)]
        modified_ns: u64,
        #[n(3)]
        inode: u64,
        /// Not every file system keeps inode numbers over a reboot, so that they are compared within this boot.
        #[cbor(n(4), with = "minicbor::bytes")]
        boot_id: [u8; 16],
    },
    /// A copy of our own.
    #[n(1)]
    Spooled {
        #[n(0)]
        id: SpoolId,
        #[n(1)]
        len_bytes: u64,
        #[n(2)]
        crc32: u32,
    },
}

impl StoredBody {
    pub(crate) fn len_bytes(&self) -> u64 {
        let (Self::File { len_bytes, .. } | Self::Spooled { len_bytes, .. }) = self;
        *len_bytes
    }

    pub(crate) fn spool_id(&self) -> Option<SpoolId> {
        match self {
            Self::Spooled { id, .. } => Some(*id),
            Self::File { .. } => None,
        }
    }

    /// The same bytes will be sent, as far as is known: those of the same file, or of two copies.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Spooled { len_bytes, crc32, .. },
                Self::Spooled {
                    len_bytes: other_len,
                    crc32: other_crc32,
                    ..
                },
            ) => (len_bytes, crc32) == (other_len, other_crc32),
            (
                Self::File {
                    path,
                    len_bytes,
                    modified_ns,
                    ..
                },
                Self::File {
                    path: other_path,
                    len_bytes: other_len,
                    modified_ns: other_modified,
                    ..
                },
            ) => (path, len_bytes, modified_ns) == (other_path, other_len, other_modified),
            _ => false,
        }
    }

    /// How it is shown: its path, or what it is.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::File { path, .. } => Path::display(path).to_string(),
            Self::Spooled { len_bytes, .. } => format!("{len_bytes} spooled bytes"),
        }
    }
}
