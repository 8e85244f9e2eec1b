//! What a request sends along.

use std::io::{self, Read};

/// A body that can be read from its beginning as often as it has to be sent. Its length is fixed.
///
/// An error of kind `UnexpectedEof`, `InvalidData`, `NotFound` or `PermissionDenied` ends the transfer; any other is taken
/// for one that may pass.
pub trait BodySource: Send + Sync {
    /// Its length in bytes: as much is announced and sent, or the attempt fails.
    fn len_bytes(&self) -> u64;

    /// Opens it at its first byte.
    ///
    /// # Errors
    /// What keeps it from being read, naming it.
    fn open(&self) -> io::Result<Box<dyn Read + '_>>;
}

impl BodySource for Vec<u8> {
    fn len_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn open(&self) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(self.as_slice()))
    }
}
