//! What was asked for: the part of an operation that its creator decides.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use backhaul_backends::{Digest, DigestAlgorithm, Method};
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::body::StoredBody;
use super::digest::{StoredDigest, digests};
use super::form::bytes_of;
use super::id::CompletionGroupId;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// Fetches a resource into a file.
    #[n(0)]
    Download,
}

/// What happens where the destination exists when a download is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Collision {
    /// The operation ends in an error; the existing file stays as it is.
    #[default]
    #[n(0)]
    Fail,
    /// The existing file is replaced, atomically.
    #[n(1)]
    Replace,
    /// The first free name of `name (2).ext`, `name (3).ext` … is taken.
    #[n(2)]
    Unique,
}

/// Rank of an operation among those that wait. One start of eight goes to the oldest, whatever its rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Priority {
    /// After all others.
    #[n(0)]
    Low,
    /// In the order of creation.
    #[default]
    #[n(1)]
    Default,
    /// Before all others.
    #[n(2)]
    High,
}

impl Priority {
    /// Its number in `BackgroundTransferPriority`, where numbers are in no order of rank: 2 for Low, 0 for Default, 1 for
    /// High.
    #[must_use]
    pub fn as_winrt(self) -> i32 {
        match self {
            Self::Default => 0,
            Self::High => 1,
            Self::Low => 2,
        }
    }
}

/// What a transfer may cost, as its owner wants it. It is stored, shown, and can be changed.
///
/// This version knows no metered networks: it takes every network for an unrestricted one, so that all three let a transfer
/// run alike, and none of them ever makes it [`TransferStatus::PausedCostedNetwork`](super::TransferStatus).
///
/// Stands for `BackgroundTransferCostPolicy`, whose numbers [`CostPolicy::as_winrt`] gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CostPolicy {
    /// Metered networks are allowed.
    #[default]
    #[n(0)]
    Default,
    /// Metered networks are not allowed.
    #[n(1)]
    UnrestrictedOnly,
    /// Every network is allowed, roaming included.
    #[n(2)]
    Always,
}

impl CostPolicy {
    /// Its number in `BackgroundTransferCostPolicy`.
    #[must_use]
    pub fn as_winrt(self) -> i32 {
        self as i32
    }
}

impl fmt::Display for CostPolicy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Default => "default",
            Self::UnrestrictedOnly => "unrestricted_only",
            Self::Always => "always",
        })
    }
}

/// One request header that is no secret; secret ones are in the vault.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct RequestHeader {
    #[n(0)]
    pub(crate) name: String,
    #[n(1)]
    pub(crate) value: String,
}

impl RequestHeader {
    /// Whatever the case: RFC 9110, section 5.1.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// What was asked for. Holds no secret: user info is gone from the URL and secret query values read `***`.
#[derive(Clone, Debug, PartialEq, Eq, Decode)]
#[cbor(map)]
pub(crate) struct Spec {
    #[n(0)]
    pub(crate) kind: Kind,
    #[n(1)]
    pub(crate) url: String,
    #[cbor(n(2), with = "path_bytes")]
    pub(crate) destination: PathBuf,
    #[n(3)]
    pub(crate) app: String,
    #[cbor(n(4), default, skip_if = "is_default")]
    pub(crate) owner_uid: u32,
    #[n(5)]
    pub(crate) group: Option<String>,
    #[cbor(n(6), default, skip_if = "Vec::is_empty")]
    pub(crate) headers: Vec<RequestHeader>,
    /// The vault holds secrets under this operation's id.
    #[cbor(n(7), default, skip_if = "is_default")]
    pub(crate) has_secrets: bool,
    #[cbor(n(8), with = "minicbor::bytes")]
    pub(crate) sha256: Option<[u8; 32]>,
    #[n(9)]
    pub(crate) expected_bytes: Option<u64>,
    #[cbor(n(10), default, skip_if = "is_default")]
    pub(crate) collision: Collision,
    #[cbor(n(11), default, skip_if = "is_default")]
    pub(crate) priority: Priority,
    /// Media type that the content must have where the server names one; see `backhaul_backends::Request`.
    #[n(13)]
    pub(crate) expected_type: Option<String>,
    /// Numbers of the `WebErrorStatus`es that its owner can mend.
    #[cbor(n(14), default, skip_if = "Vec::is_empty")]
    pub(crate) recoverable: Vec<i32>,
    /// Digests that the content must have, besides `sha256`.
    #[cbor(n(12), default, skip_if = "Vec::is_empty")]
    pub(crate) digests: Vec<StoredDigest>,
    /// Other URLs of the same bytes, as they may be shown, best first.
    #[cbor(n(15), default, skip_if = "Vec::is_empty")]
    pub(crate) mirrors: Vec<String>,
    /// The completion group it joined when it was created.
    #[n(16)]
    pub(crate) completion_group: Option<CompletionGroupId>,
    #[cbor(n(17), default, skip_if = "Method::is_get", with = "method_text")]
    pub(crate) method: Method,
    /// What is sent along.
    #[n(18)]
    pub(crate) body: Option<Box<StoredBody>>,
    #[cbor(n(20), default, skip_if = "is_default")]
    pub(crate) cost_policy: CostPolicy,
    /// Reads of it steer the fetch.
    #[cbor(n(19), default, skip_if = "is_default")]
    pub(crate) random_access: bool,
    /// The proxy it goes through, without user info, or `direct`; that of the engine where `None`.
    #[n(21)]
    pub(crate) proxy: Option<String>,
}

/// What has the value that most have is not stored: a record is written and read for each event, and the bytes of what nobody
/// works on stay in memory.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Most bytes of a [`Spec`] in the journal: with everything that comes to be known of an operation it must fit one record.
pub(crate) const SPEC_BYTES_MAX: usize = 17 * 1024;

impl Spec {
    /// How many bytes it takes in the journal.
    pub(crate) fn encoded_bytes(&self) -> usize {
        bytes_of(self).len()
    }

    /// Directory of the destination; part file and final file both stand in it.
    pub(crate) fn directory(&self) -> &Path {
        directory_of(&self.destination)
    }

    /// All digests that the content must have.
    pub(crate) fn expected_digests(&self) -> Vec<Digest> {
        let sha256 = self
            .sha256
            .and_then(|value| Digest::new(DigestAlgorithm::Sha256, value));
        sha256.into_iter().chain(digests(&self.digests)).collect()
    }

    /// One of them proves the content whoever sent it.
    pub(crate) fn expects_strong_digest(&self) -> bool {
        let mut others = digests(&self.digests).into_iter();
        self.sha256.is_some() || others.any(|digest| digest.algorithm().is_strong())
    }
}

/// The directory that holds a file; `.` for a bare name.
pub(crate) fn directory_of(path: &Path) -> &Path {
    // `parent` looks at every part of a path, and this is asked several times for each file. What it would make shorter still
    // is left to it: what ends with a slash or a dot.
    let bytes = path.as_os_str().as_bytes();
    if let Some(slash) = bytes.iter().rposition(|byte| *byte == b'/')
        && let (directory, [b'/', name @ ..]) = bytes.split_at(slash)
        && !matches!(directory.last(), None | Some(b'/' | b'.'))
        && !matches!(name, [] | b".")
    {
        return Path::new(OsStr::from_bytes(directory));
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The path of a name, or of any path that is not absolute, in a directory.
pub(crate) fn path_in(directory: &Path, name: &OsStr) -> PathBuf {
    // In one piece: `join` copies the directory first and then makes room.
    let mut path = OsString::with_capacity(directory.as_os_str().len() + 1 + name.len());
    path.push(directory);
    if !matches!(path.as_bytes().last(), None | Some(b'/')) {
        path.push("/");
    }
    path.push(name);
    PathBuf::from(path)
}

/// A method as it is sent. One that this version refuses is of another version.
mod method_text {
    use super::Method;
    use minicbor::Decoder;
    use minicbor::decode::Error as DecodeError;

    pub(super) fn decode<C>(decoder: &mut Decoder<'_>, _context: &mut C) -> Result<Method, DecodeError> {
        let position = decoder.position();
        let method = decoder.str()?.parse();
        method.map_err(|problem: String| DecodeError::message(problem).at(position))
    }
}

/// Paths are bytes on Linux; they need not be UTF-8.
pub(super) mod path_bytes {
    use super::{OsStrExt, OsStringExt, PathBuf};
    use minicbor::decode::Error as DecodeError;
    use minicbor::encode::{Error as EncodeError, Write};
    use minicbor::{Decoder, Encoder};
    use std::ffi::OsString;

    #[expect(clippy::ptr_arg, reason = "the derive passes the field as it is")]
    pub(in crate::operation) fn encode<C, W: Write>(
        path: &PathBuf,
        encoder: &mut Encoder<W>,
        _context: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        encoder.bytes(path.as_os_str().as_bytes())?.ok()
    }

    pub(in crate::operation) fn decode<C>(decoder: &mut Decoder<'_>, _context: &mut C) -> Result<PathBuf, DecodeError> {
        Ok(PathBuf::from(OsString::from_vec(decoder.bytes()?.to_vec())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_a_path_is_what_its_components_say() {
        let paths = [
            "/data/file",
            "/data/a b/file",
            "data/file",
            "/file",
            "file",
            "/",
            "",
            ".",
            "..",
            "/data/",
            "/data//",
            "/data/.",
            "/data/..",
            "//file",
            "/data//file",
            "/data/./file",
            "/data/../file",
            "./file",
            "../file",
            "a.b/c.d",
            "/a./b",
            "/.a/.b",
            "/a/./.",
            "/a/b/./",
        ];
        for path in paths.map(Path::new) {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            // Byte for byte: paths are compared part by part.
            let expected = parent.map_or(".", |parent| parent.to_str().unwrap_or_default());
            assert_eq!(directory_of(path).to_str(), Some(expected), "{path:?}");
        }
    }

    #[test]
    fn priorities_order_by_rank() {
        assert!(Priority::Low < Priority::Default && Priority::Default < Priority::High);
    }

    #[test]
    fn priorities_and_cost_policies_have_the_numbers_of_winrt() {
        let priorities = [Priority::Default, Priority::High, Priority::Low];
        assert_eq!(priorities.map(Priority::as_winrt), [0, 1, 2]);
        let policies = [CostPolicy::Default, CostPolicy::UnrestrictedOnly, CostPolicy::Always];
        assert_eq!(policies.map(CostPolicy::as_winrt), [0, 1, 2]);
    }
}
