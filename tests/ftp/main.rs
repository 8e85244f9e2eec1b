//! The real command against FTP servers that nobody here wrote: vsftpd, Pure-FTPd, `ProFTPD` and pyftpdlib. One module for
//! each, so that `cargo test --test ftp vsftpd` runs those of vsftpd.
//!
//! A relay between the two stops a transfer at an exact byte, counts what came and notes what was said.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
#[path = "../support/mod.rs"]
mod support;

mod proftpd;
mod promises;
mod pureftpd;
mod pyftpdlib;
mod relay;
#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod server;
mod visit;
mod vsftpd;
