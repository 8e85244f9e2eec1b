//! The HTTP backend against servers that misbehave on purpose.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod conformance;
mod redirects;
mod server;
mod tls;
mod transfer;
