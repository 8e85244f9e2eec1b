//! The FTP backend against a server of our own.
#![cfg(feature = "ftp")]
#![cfg_attr(
    feature = "ftps",
    expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

mod faults;
mod kit;
mod resume;
#[cfg_attr(not(feature = "ftps"), expect(dead_code, reason = "only TLS needs all of it"))]
mod server;
#[cfg(feature = "ftps")]
mod tls;
mod transfer;
