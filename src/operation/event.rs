//! Facts about an operation, and what they carry, as the journal stores them.

use minicbor::{Decode, Encode};

use super::deadline::Deadline;
use super::digest::StoredDigest;
use super::headers::{Beside, StoredHeaders};
use super::shared::Shared;
use super::source::{Origin, Round, site};
use super::spec::Spec;

/// Identity of operations that were created together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(transparent)]
pub(crate) struct BatchId(#[cbor(n(0), with = "minicbor::bytes")] pub(crate) [u8; 16]);

/// A fact about one operation.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Event {
    #[n(0)]
    Created {
        #[n(0)]
        spec: Shared<Spec>,
        /// It was started in the same breath.
        #[n(1)]
        started: bool,
        /// It counts only once this batch is committed: a list is accepted as a whole or not at all.
        #[n(2)]
        batch: Option<BatchId>,
    },
    #[n(1)]
    Started,
    #[n(2)]
    Paused,
    /// Ends a pause; also ends a wait early.
    #[n(3)]
    Resumed,
    /// A worker took it; `attempts` counts this attempt.
    #[n(4)]
    Claimed {
        #[n(0)]
        attempts: u32,
    },
    #[n(5)]
    Responded(#[n(0)] Shared<Response>),
    #[n(6)]
    Progressed(#[n(0)] Shared<Claim>),
    /// All bytes so far are given up; totals are absolute.
    #[n(7)]
    Restarted {
        #[n(0)]
        generation: u32,
        #[n(1)]
        restarts: u32,
        #[n(2)]
        bytes_wasted: u64,
        #[n(3)]
        cause: String,
    },
    /// The attempt ended without a failure (pause, stop).
    #[n(8)]
    Released,
    #[n(9)]
    Waited {
        #[n(0)]
        until: Deadline,
        #[n(1)]
        reason: WaitReason,
        #[n(2)]
        failures_in_row: u32,
        #[n(3)]
        error: Shared<OperationError>,
        /// How far the sources were gone through, where that changed.
        #[n(4)]
        round: Option<Round>,
    },
    #[n(10)]
    Blocked {
        #[n(0)]
        condition: Condition,
        #[n(1)]
        probe_at: Deadline,
        #[n(2)]
        error: Shared<OperationError>,
        #[n(3)]
        room_bytes: Option<u64>,
        #[n(4)]
        try_at: Deadline,
    },
    #[n(11)]
    Publishing(#[n(0)] Intent),
    #[n(12)]
    Ending(#[n(0)] Outcome),
    #[n(13)]
    Ended(#[n(0)] Outcome),
    #[n(14)]
    Acknowledged,
    /// Its record is gone by wish; the table forgets it.
    #[n(15)]
    Removed,
    /// Its record went out of the history; the table forgets it, and counts it where nobody had acknowledged it.
    #[n(16)]
    Forgotten,
    /// The disk was looked at after a salvage. `unplaced`: no part file was there and something stands under the final
    /// name, which may be this operation's own file.
    #[n(17)]
    Examined {
        #[n(0)]
        unplaced: bool,
    },
    /// What its owner has to amend, or has amended.
    #[n(18)]
    Amended(#[n(0)] Amendment),
    /// It goes to the front of its transfer group.
    #[n(19)]
    Promoted,
}

/// A change of what was asked for, or the need of one.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Amendment {
    /// An attempt failed for good with an error that the owner can mend; all bytes stay.
    #[n(0)]
    Needed(#[n(0)] Shared<OperationError>),
    /// From now on this is asked for; its secrets are sealed under this revision.
    #[n(1)]
    Made {
        #[n(0)]
        spec: Shared<Spec>,
        #[n(1)]
        sealed_revision: u32,
    },
}

/// How an operation ends.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Outcome {
    #[n(0)]
    Completed,
    #[n(1)]
    Canceled,
    #[n(2)]
    Failed(#[n(0)] OperationError),
}

/// An error as it is stored and shown.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct OperationError {
    /// Number of the `WebErrorStatus`.
    #[n(0)]
    pub(crate) status: i32,
    /// HTTP status or FTP reply.
    #[n(1)]
    pub(crate) code: Option<u16>,
    #[n(2)]
    pub(crate) message: String,
}

/// Longest message of an error that is stored, in bytes (chosen without measurement): servers have a say in it.
const MESSAGE_BYTES_MAX: usize = 1024;

impl OperationError {
    /// A message that is too long is cut.
    pub(crate) fn new(status: i32, code: Option<u16>, mut message: String) -> Self {
        if message.len() > MESSAGE_BYTES_MAX {
            const MARK: &str = "\u{2026}";
            let mut ends = (0..=MESSAGE_BYTES_MAX - MARK.len()).rev();
            let end = ends.find(|end| message.is_char_boundary(*end));
            message.truncate(end.unwrap_or(0));
            message.push_str(MARK);
        }
        Self { status, code, message }
    }
}

/// What identifies one representation, as stored (see `backhaul_backends::Validators`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Decode)]
#[cbor(map)]
pub(crate) struct StoredValidators {
    #[n(0)]
    pub(crate) etag: Option<String>,
    #[n(1)]
    pub(crate) last_modified: Option<String>,
    #[n(2)]
    pub(crate) date: Option<String>,
    #[n(3)]
    pub(crate) total_bytes: Option<u64>,
}

/// What the server said of the representation that is being fetched.
#[derive(Clone, Debug, PartialEq, Eq, Decode)]
#[cbor(map)]
pub(crate) struct Response {
    #[n(0)]
    pub(crate) validators: StoredValidators,
    #[n(1)]
    pub(crate) actual_url: String,
    #[n(2)]
    pub(crate) status_code: u16,
    #[n(3)]
    pub(crate) resumable: bool,
    #[n(4)]
    pub(crate) content_type: Option<String>,
    /// Digests of the whole that a server told, strongest first.
    #[cbor(n(5), default, skip_if = "Vec::is_empty")]
    pub(crate) digests: Vec<StoredDigest>,
    /// Mirrors that the server named, best first; the same ones for all bytes of a generation.
    #[cbor(n(6), default, skip_if = "Vec::is_empty")]
    pub(crate) mirrors: Vec<String>,
    /// Where the bytes that follow it come from.
    #[cbor(n(7), default, skip_if = "Origin::is_default")]
    pub(crate) origin: Origin,
    /// Header fields of the response.
    #[cbor(n(8), default, skip_if = "StoredHeaders::is_empty")]
    pub(crate) headers: StoredHeaders,
}

#[cfg(any(test, feature = "fuzzing"))]
impl Response {
    /// One that says nothing but that this URL answered.
    pub(crate) fn of(url: &str) -> Self {
        Self {
            validators: StoredValidators::default(),
            actual_url: url.into(),
            status_code: 200,
            resumable: true,
            content_type: None,
            digests: Vec::new(),
            mirrors: Vec::new(),
            origin: Origin::default(),
            headers: StoredHeaders::default(),
        }
    }
}

impl Response {
    /// Scheme, host and port of who answered.
    pub(crate) fn server(&self) -> &str {
        site(&self.actual_url)
    }

    /// What is stored of it besides its header fields.
    pub(crate) fn beside(&self) -> Beside<'_> {
        Beside {
            validators: &self.validators,
            content_type: self.content_type.as_deref(),
        }
    }
}

/// Bytes of a file that lie side by side: `[first, end)`, and their CRC-32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Stretch {
    #[n(0)]
    pub(crate) first: u64,
    #[n(1)]
    pub(crate) end: u64,
    #[n(2)]
    pub(crate) crc32: u32,
}

impl Stretch {
    pub(crate) fn len_bytes(&self) -> u64 {
        self.end.saturating_sub(self.first)
    }
}

/// Bytes that are durable: `[0, durable_bytes)` of the part file of `generation`, fetched under `validators`, and what
/// several connections have fetched further on.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Claim {
    #[n(0)]
    pub(crate) generation: u32,
    #[n(1)]
    pub(crate) durable_bytes: u64,
    /// CRC-32 of those bytes; tells bytes that were damaged behind our back.
    #[n(2)]
    pub(crate) crc32: u32,
    #[n(3)]
    pub(crate) validators: StoredValidators,
    /// In order, with gaps between them and before the first.
    #[n(4)]
    pub(crate) beyond: Option<Vec<Stretch>>,
    /// Some of the bytes continue others without proof: only a digest of the whole will tell.
    #[n(6)]
    pub(crate) on_trust: Option<bool>,
    /// Where they came from.
    #[cbor(n(5), default, skip_if = "Origin::is_default")]
    pub(crate) origin: Origin,
}

impl Claim {
    /// The same once the URL leads to another server.
    pub(crate) fn after_url_changed(&self) -> Self {
        Self {
            origin: self.origin.after_url_changed(),
            ..self.clone()
        }
    }

    /// The stretches after the first gap.
    pub(crate) fn beyond(&self) -> &[Stretch] {
        self.beyond.as_deref().unwrap_or_default()
    }

    /// `[first, end)` of everything that is durable, in order.
    pub(crate) fn ranges(&self) -> Vec<(u64, u64)> {
        let prefix = (0, self.durable_bytes);
        let beyond = self.beyond().iter().map(|stretch| (stretch.first, stretch.end));
        std::iter::once(prefix)
            .chain(beyond)
            .filter(|(first, end)| first < end)
            .collect()
    }

    /// All bytes that are durable.
    pub(crate) fn held_bytes(&self) -> u64 {
        let beyond = self.beyond().iter().map(Stretch::len_bytes);
        beyond.fold(self.durable_bytes, u64::saturating_add)
    }
}

/// What is about to be published, durable before the rename: enough to tell our file from another one afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Decode)]
#[cbor(map)]
pub(crate) struct Intent {
    #[n(0)]
    pub(crate) generation: u32,
    /// File name in the directory of the destination, as bytes.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub(crate) final_name: Vec<u8>,
    #[n(2)]
    pub(crate) device: u64,
    #[n(3)]
    pub(crate) inode: u64,
    #[n(4)]
    pub(crate) len_bytes: u64,
    #[n(5)]
    pub(crate) crc32: u32,
    #[cbor(n(6), with = "minicbor::bytes")]
    pub(crate) boot_id: [u8; 16],
    /// Device and inode of the directory. Another one there has neither name of the file, whichever it had. Unknown in records
    /// of before.
    #[n(7)]
    pub(crate) directory_device: Option<u64>,
    #[n(8)]
    pub(crate) directory_inode: Option<u64>,
}

/// Why a time is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum WaitReason {
    #[n(0)]
    BackOff,
    #[n(1)]
    RetryAfter,
    #[n(2)]
    ClockNotSet,
}

/// A condition of the system that stops an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Condition {
    #[n(0)]
    NoNetwork,
    #[n(1)]
    DiskFull,
}
