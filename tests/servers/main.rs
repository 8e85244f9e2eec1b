//! The real command against servers that nobody here wrote: nginx, Apache, lighttpd and caddy, plain and over TLS, and
//! squid before one of them. One module for each, so that `cargo test --test servers nginx` runs those of nginx.
//!
//! A relay between the two stops a transfer at an exact byte and counts what came: no test waits for a clock.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
#[path = "../support/mod.rs"]
mod support;

mod apache;
mod caddy;
mod lighttpd;
mod nginx;
mod promises;
mod relay;
mod server;
mod squid;
mod visit;
