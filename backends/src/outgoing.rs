//! A request body while it is read: what is made sure of.

use std::io::{self, Read};

use crate::{BodySource, FailureKind, WebErrorStatus};

/// A body on its way: exactly as many bytes as were announced. Where there are fewer or more, that is found out before the
/// last of them is handed on, so that no server takes the request for whole.
pub(crate) struct Outgoing<'a> {
    reader: Box<dyn Read + 'a>,
    len_bytes: u64,
    left_bytes: u64,
}

impl<'a> Outgoing<'a> {
    pub(crate) fn open(source: &'a dyn BodySource) -> io::Result<Self> {
        let len_bytes = source.len_bytes();
        let mut outgoing = Self {
            reader: source.open()?,
            len_bytes,
            left_bytes: len_bytes,
        };
        if len_bytes == 0 {
            outgoing.check_end()?;
        }
        Ok(outgoing)
    }

    /// Bytes that were not handed on yet.
    #[cfg(feature = "http")]
    pub(crate) fn left_bytes(&self) -> u64 {
        self.left_bytes
    }

    /// Counts bytes as handed on that nobody will look at any more.
    #[cfg(feature = "http")]
    pub(crate) fn skip(&mut self, bytes: usize) {
        self.left_bytes = self.left_bytes.saturating_sub(bytes as u64);
    }

    fn check_end(&mut self) -> io::Result<()> {
        match read(&mut *self.reader, &mut [0])? {
            0 => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "there is more of it than the {} bytes that were announced",
                    self.len_bytes
                ),
            )),
        }
    }
}

impl Read for Outgoing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left_bytes).map_or(buffer.len(), |left| left.min(buffer.len()));
        if room == 0 {
            return Ok(0);
        }
        let amount = read(&mut *self.reader, &mut buffer[..room])?;
        if amount == 0 {
            // An end that nobody reports would be waited for without end.
            let sent = self.len_bytes - self.left_bytes;
            let text = format!(
                "it ends after {sent} of the {} bytes that were announced",
                self.len_bytes
            );
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        self.left_bytes = self.left_bytes.saturating_sub(amount as u64);
        if self.left_bytes == 0 {
            self.check_end()?;
        }
        Ok(amount)
    }
}

fn read(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// How a body that cannot be read ends an attempt: a file that is gone or another one stays so.
pub(crate) fn failure(error: &io::Error) -> (FailureKind, WebErrorStatus, String) {
    use io::ErrorKind::{InvalidData, NotFound, PermissionDenied, UnexpectedEof};
    let kind = match error.kind() {
        UnexpectedEof | InvalidData | NotFound | PermissionDenied => FailureKind::Permanent,
        _ => FailureKind::Transient { retry_after: None },
    };
    let text = format!("the request body cannot be sent: {error}");
    (kind, WebErrorStatus::FILE_ACCESS, text)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    struct Lying(u64, Vec<u8>);

    impl BodySource for Lying {
        fn len_bytes(&self) -> u64 {
            self.0
        }

        fn open(&self) -> io::Result<Box<dyn Read + '_>> {
            self.1.open()
        }
    }

    #[test]
    fn a_body_that_is_shorter_or_longer_than_announced_never_ends_well() {
        for (announced, there, is_right) in [(3, 3, true), (0, 0, true), (4, 3, false), (2, 3, false), (0, 1, false)] {
            let source = Lying(announced, vec![7; there]);
            let mut sent = Vec::new();
            let result = Outgoing::open(&source).and_then(|mut outgoing| outgoing.read_to_end(&mut sent));
            assert_eq!(result.is_ok(), is_right, "{announced} announced, {there} there");
            if let Err(error) = result {
                assert_eq!(failure(&error).0, FailureKind::Permanent);
                assert!(
                    (sent.len() as u64) < announced.max(1),
                    "a server would take it for whole"
                );
            }
        }
    }

    #[test]
    fn a_body_is_read_again_from_its_beginning() {
        let source: Vec<u8> = (0..100).collect();
        for _ in 0..2 {
            let mut sent = Vec::new();
            Outgoing::open(&source).unwrap().read_to_end(&mut sent).unwrap();
            assert_eq!(sent, source);
        }
    }
}
