//! pyftpdlib 1.5.

use crate::server::Kind;

crate::promises::promises_hold!(Kind::Pyftpdlib);
