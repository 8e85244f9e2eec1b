//! Pure-FTPd 1.0.50. It takes anonymous users only where the system has a user `ftp`, so its files are those of a user of
//! its own.

use crate::server::Kind;

crate::promises::promises_hold!(Kind::PureFtpd);
