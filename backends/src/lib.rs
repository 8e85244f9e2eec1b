//! Protocol backends of backhaul: one trait, one folder a protocol, one line in the registry.

mod backend;
mod failure;
mod interrupt;
mod web_error_status;

pub use backend::{
    Backend, Capabilities, Credential, Head, Header, Held, Limits, Refused, Request, Restart, Sink, Start, Validators,
};
pub use failure::{Failure, FailureKind};
pub use interrupt::Interrupt;
pub use web_error_status::WebErrorStatus;
