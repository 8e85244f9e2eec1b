//! Protocol backends of backhaul: one trait, one folder a protocol, one line in the registry.
//!
//! # Writing a backend
//!
//! A [`Backend`] knows one protocol, and nothing of what stands above it: no journal, no part file, no retry, no other
//! transfer. One call of [`Backend::download`] is one attempt. It sees four things:
//!
//! - the [`Request`]: what to fetch, and what is held of it already ([`Request::held`]);
//! - the [`Sink`], which takes a [`Head`] and then the bytes, in order;
//! - the [`Limits`] of this attempt, in the request, and the size of its buffer;
//! - the [`Interrupt`], by which others end the attempt.
//!
//! An attempt has these steps:
//!
//! 1. Find out what the resource is now: its [`Validators`], its length and type. No byte of it is handed on yet.
//! 2. [`start`] says whether the held bytes can be continued. Without proof they cannot: two versions of a resource must
//!    never become one file. [`refusal`] says whether the response is what was asked for at all.
//! 3. [`Sink::begin`] with the head, once. Then [`Sink::write`] for each run of bytes, none larger than
//!    [`Request::buffer_bytes`].
//! 4. `Ok(())` once the protocol itself has said that this was all; else a [`Failure`]. What the sink took stays valid and is
//!    continued the next time, so a backend hands on no byte that it does not believe.
//!
//! What it must do:
//!
//! - End in well under a second once the interrupt is raised, with [`FailureKind::Interrupted`]. [`Interrupt::bind`] a
//!   socket (or any other [`Severable`]) before the first wait on it; look at [`Interrupt::is_raised`] between steps that do
//!   not wait; wait with [`Interrupt::sleep`].
//! - Keep to the limits: [`Limits::connect`], [`Limits::response`], [`Limits::stall`]. No wait is without an end.
//! - End with [`FailureKind::SinkRefused`] as soon as the sink refuses, without asking why.
//! - Classify every failure by what may be done about it ([`FailureKind`]), and name it ([`WebErrorStatus`]).
//! - Say in [`Capabilities`] what its protocol can do, and nothing more: nobody asks which backend it is. Whoever creates an
//!   operation that needs more is refused before anything is tried.
//!
//! What it must never do:
//!
//! - retry, or wait for a better moment: what follows from a failure is decided elsewhere;
//! - keep anything about a transfer between two attempts, or touch the file it goes to;
//! - show or log a secret: query values of the URL ([`place`] leaves them out), credentials, headers marked as secret;
//! - panic, or leave a thread, process or descriptor behind.
//!
//! Several attempts run at the same time, on threads with a stack of 512 KiB, also on the same URL where
//! [`Capabilities::ranges`] says that parts can be fetched.
//!
//! The suite in `conformance` (feature `memory`) holds a backend to all of this.

mod backend;
mod body;
#[cfg(any(feature = "http", feature = "ftp"))]
mod config_error;
#[cfg(feature = "memory")]
pub mod conformance;
mod decide;
mod digest;
mod failure;
mod few;
#[cfg(feature = "ftp")]
mod ftp;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing {
    //! Doors for fuzz targets.
    pub use crate::http::fuzzing::*;

    pub mod ftp {
        //! Those of FTP.
        pub use crate::ftp::fuzzing::*;
    }
}
mod header_fields;
#[cfg(feature = "helper")]
mod helper;
#[cfg(feature = "http")]
mod http;
mod interrupt;
mod media;
#[cfg(feature = "memory")]
mod memory;
mod method;
#[cfg(any(feature = "http", feature = "ftp"))]
mod net;
#[cfg(any(feature = "http", feature = "memory"))]
mod outgoing;
#[cfg(any(feature = "http", feature = "ftp"))]
mod parsed;
mod plain_path;
#[cfg(any(feature = "http", feature = "ftp", feature = "helper"))]
mod problem;
mod proof;
mod proxy;
mod registry;
#[cfg(any(feature = "tls", feature = "ftps"))]
mod roots;
#[cfg(feature = "ftp")]
mod sys;
mod throttle;
mod web_error_status;

pub use backend::{
    Backend, Capabilities, Credential, Head, Header, Held, Limits, RESERVED_HEADERS, Refused, Request, Restart, Sink,
    Start, TAIL_BYTES_MAX, UrlForm, Validators,
};
pub use body::BodySource;
#[cfg(any(feature = "http", feature = "ftp"))]
pub use config_error::ConfigError;
pub use decide::{place, refusal, start};
pub use digest::{Digest, DigestAlgorithm};
pub use failure::{Failure, FailureKind};
pub use few::sort_few_by_key;
#[cfg(feature = "ftp")]
pub use ftp::{FtpBackend, FtpConfig};
pub use header_fields::HeaderFields;
#[cfg(feature = "helper")]
pub use helper::{HELPERS_MAX, HelperBackend};
#[cfg(feature = "http")]
pub use http::{HttpBackend, HttpConfig};
pub use interrupt::{Binding, Interrupt, Severable};
pub use media::is_page;
#[cfg(feature = "memory")]
pub use memory::{Act, Attempted, MemoryBackend, Resource};
pub use method::{METHOD_BYTES_MAX, Method};
pub use plain_path::is_plain_path;
pub use proof::{Sameness, compare_held, http_date, is_provable};
pub use proxy::{PROXY_BYTES_MAX, Proxies, Proxy, ProxyProtocol};
pub use registry::{Registry, is_scheme};
pub use throttle::{RateLimit, Throttle};
pub use web_error_status::WebErrorStatus;
