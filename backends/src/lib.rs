//! Protocol backends of backhaul: one trait, one folder a protocol, one line in the registry.

mod backend;
mod body;
#[cfg(feature = "memory")]
pub mod conformance;
mod digest;
mod failure;
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
mod problem;
#[cfg(any(feature = "http", feature = "memory", feature = "ftp", feature = "helper"))]
mod proof;
mod proxy;
mod registry;
#[cfg(any(feature = "http", feature = "ftps"))]
mod roots;
#[cfg(feature = "ftp")]
mod sys;
mod throttle;
mod web_error_status;

pub use backend::{
    Backend, Capabilities, Credential, Head, Header, Held, Limits, RESERVED_HEADERS, Refused, Request, Restart, Sink,
    Start, TAIL_BYTES_MAX, Validators,
};
pub use body::BodySource;
pub use digest::{Digest, DigestAlgorithm};
pub use failure::{Failure, FailureKind};
#[cfg(feature = "ftp")]
pub use ftp::{FtpBackend, FtpConfig, FtpConfigError};
#[cfg(feature = "http")]
pub use http::{HttpBackend, HttpConfig, HttpConfigError};
pub use interrupt::{Binding, Interrupt, Severable};
pub use media::is_page;
#[cfg(feature = "memory")]
pub use memory::{Act, Attempted, MemoryBackend, Resource};
pub use method::{METHOD_BYTES_MAX, Method};
pub use proxy::{Proxies, Proxy};
pub use registry::Registry;
pub use throttle::{RateLimit, Throttle};
pub use web_error_status::WebErrorStatus;
