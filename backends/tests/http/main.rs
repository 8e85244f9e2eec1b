//! The HTTP backend against servers that misbehave on purpose.
#![cfg(feature = "http")]
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod bodies;
mod digests;
mod fallback;
mod framing;
mod interrupts;
mod proxies;
mod redirects;
mod reuse;
mod server;
mod throttle;
#[cfg(feature = "tls")]
mod tls;
mod transfer;
