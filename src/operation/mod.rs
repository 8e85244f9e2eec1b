//! An operation: one stored transfer. Everything here is pure: facts in, state out.

mod body;
mod codec;
mod deadline;
mod digest;
mod event;
mod form;
mod group;
mod headers;
mod id;
mod mend;
mod put;
mod shared;
mod source;
mod spec;
mod state;
mod status;

pub(crate) use body::{SpoolId, StoredBody};
#[cfg(test)]
pub(crate) use codec::OPENED;
pub(crate) use codec::{Entry, Fact, decode, encode, encode_fact, encode_packed, pack, pack_into, unpack};
pub(crate) use deadline::{Deadline, Now, millis};
pub(crate) use digest::{digests, stored_digests};
pub(crate) use event::{
    Amendment, BatchId, Claim, Condition, Event, Intent, OperationError, Outcome, Response, StoredValidators, Stretch,
    WaitReason,
};
pub(crate) use group::{Completion, CompletionEvent, CompletionFact, Group, GroupFact, Stage};
pub use group::{CompletionAction, TransferBehavior};
pub(crate) use headers::{Beside, StoredHeaders};
pub use id::{CompletionGroupId, TransferId};
pub(crate) use shared::Shared;
pub(crate) use source::{Origin, Round, SOURCES_MAX};
pub use spec::{Collision, CostPolicy, Kind, Priority};
pub(crate) use spec::{RequestHeader, SPEC_BYTES_MAX, Spec, directory_of, path_in};
pub(crate) use state::{Doubt, Extent, Operation, Phase, Rejected, Wish};
pub(crate) use status::Lack;
pub use status::{Reason, TransferStatus};
