//! The content of a download as a stream, while it is fetched and after.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use super::progress::Watch;
use crate::error::Error;
use crate::operation::TransferId;
use crate::service::{READ_BYTES_MAX, Reading, Service};

/// The longest that one call waits for bytes; whoever waits longer calls again.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// Reads of one download, and remembers which generation of its bytes it has seen.
struct Reader {
    service: Service,
    reading: Reading,
    id: TransferId,
    generation: Option<u32>,
    timeout: Option<Duration>,
}

impl Reader {
    fn new(service: &Service, id: TransferId) -> Self {
        Self {
            service: service.clone(),
            reading: service.reading(),
            id,
            generation: None,
            timeout: None,
        }
    }

    fn read_at(&mut self, offset_bytes: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let end = self.end();
        loop {
            let wait = left(end).min(WAIT_MAX);
            let max = buffer.len().min(READ_BYTES_MAX);
            let outcome = self.reading.read_at(self.id, offset_bytes, max, wait);
            let outcome = outcome.map_err(as_io)?;
            let before = self.generation.replace(outcome.generation);
            if before.is_some_and(|before| before != outcome.generation) {
                let problem = "the download began again from zero; what was read before is of another file";
                return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
            }
            let count = outcome.bytes.len().min(buffer.len());
            if count > 0 || outcome.end_of_file {
                buffer[..count].copy_from_slice(&outcome.bytes[..count]);
                return Ok(count);
            }
            if left(end).is_zero() {
                return Err(self.timed_out());
            }
        }
    }

    /// The length of the file; waits until it is known.
    fn length(&mut self) -> io::Result<u64> {
        let end = self.end();
        let mut watch = Watch::new(&self.service, self.id);
        loop {
            let view = watch.next_within(Some(left(end).min(WAIT_MAX))).map_err(as_io)?;
            if let Some(length) = view.bytes_total {
                return Ok(length);
            }
            if view.status.is_ended() {
                let problem = "the download has ended, and its length is not known";
                return Err(io::Error::other(problem));
            }
            if left(end).is_zero() {
                return Err(self.timed_out());
            }
        }
    }

    fn end(&self) -> Option<Instant> {
        self.timeout.and_then(|timeout| Instant::now().checked_add(timeout))
    }

    fn timed_out(&self) -> io::Error {
        let waited = self.timeout.unwrap_or_default();
        let problem = format!("nothing came within {waited:?}; read again, or see what the download waits for");
        io::Error::new(io::ErrorKind::TimedOut, problem)
    }

    fn debug(&self, name: &str, offset_bytes: u64, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct(name)
            .field("id", &self.id)
            .field("offset_bytes", &offset_bytes)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

fn left(end: Option<Instant>) -> Duration {
    end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()))
}

fn as_io(error: Error) -> io::Error {
    let kind = match &error {
        Error::Io(_, _, error) => error.kind(),
        Error::UnknownId(_) => io::ErrorKind::NotFound,
        Error::Disconnected(_) => io::ErrorKind::ConnectionAborted,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

/// The content of a download from an offset on, to the end of the file: what is there comes at once, what is missing when it
/// is there. Each read of it is a call of the service, which [`BufReader`](io::BufReader) makes fewer.
///
/// A read fails with [`io::ErrorKind::InvalidData`] where the download began again from zero since the first one, from then
/// on; with [`io::ErrorKind::TimedOut`] where the time set is over, and may be repeated then; with [`io::ErrorKind::Other`]
/// and [`Error::Unsuccessful`] in it where the download has ended without its content.
///
/// Stands for what `GetResultStreamAt` gives.
pub struct ResultStream {
    reader: Reader,
    offset_bytes: u64,
    is_another_file: bool,
}

impl ResultStream {
    pub(super) fn new(service: &Service, id: TransferId, offset_bytes: u64) -> Self {
        Self {
            reader: Reader::new(service, id),
            offset_bytes,
            is_another_file: false,
        }
    }

    /// How long a read waits for bytes; as long as it takes where `None`, which is the default.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.reader.timeout = timeout;
    }
}

impl Read for ResultStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_another_file {
            let problem = "the download began again from zero; open another stream";
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        let read = self.reader.read_at(self.offset_bytes, buffer);
        if let Err(error) = &read {
            self.is_another_file = error.kind() == io::ErrorKind::InvalidData;
        }
        let count = read?;
        self.offset_bytes += count as u64;
        Ok(count)
    }
}

impl fmt::Debug for ResultStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reader.debug("ResultStream", self.offset_bytes, formatter)
    }
}

/// The content of a download that requires random access, to be read anywhere while it is fetched. A read where nothing is
/// yet waits for that, and has it fetched before all else. Each read is a call of the service, which
/// [`BufReader`](io::BufReader) makes fewer.
///
/// Seeking from the end waits until the length is known; seeking beyond the end is no error. Reads fail as those of
/// [`ResultStream`] do, but for a restart: it fails one read, and the next ones are of the new file, at the same place.
///
/// Stands for what `GetResultRandomAccessStreamReference` opens.
///
/// ```no_run
/// use std::io::{Read, Seek, SeekFrom};
/// use std::time::Duration;
///
/// use backhaul::{BackgroundDownloader, Service};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let service = Service::open("/var/lib/backhaul")?;
/// let mut downloader = BackgroundDownloader::new(&service);
/// downloader.set_random_access_required(true);
/// let film = downloader.create_download("https://example.com/film.mp4", "/data/film.mp4")?;
/// film.start()?;
/// let mut reader = film.open_random_access()?;
/// reader.set_read_timeout(Some(Duration::from_secs(30)));
/// let mut index = [0; 1024];
/// reader.seek(SeekFrom::End(-1024))?;
/// reader.read_exact(&mut index)?; // long before the rest is there
/// # Ok(())
/// # }
/// ```
pub struct RandomAccessReader {
    reader: Reader,
    offset_bytes: u64,
}

impl RandomAccessReader {
    pub(super) fn new(service: &Service, id: TransferId) -> Self {
        Self {
            reader: Reader::new(service, id),
            offset_bytes: 0,
        }
    }

    /// How long a read, or a seek from the end, waits; as long as it takes where `None`, which is the default.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.reader.timeout = timeout;
    }
}

impl Read for RandomAccessReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read_at(self.offset_bytes, buffer)?;
        self.offset_bytes += count as u64;
        Ok(count)
    }
}

impl Seek for RandomAccessReader {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        let (base, distance) = match position {
            SeekFrom::Start(offset) => (offset, 0),
            SeekFrom::Current(distance) => (self.offset_bytes, distance),
            SeekFrom::End(distance) => (self.reader.length()?, distance),
        };
        let offset = base.checked_add_signed(distance).ok_or_else(|| {
            let problem = format!("{position:?} lies before the beginning, or beyond what can be counted");
            io::Error::new(io::ErrorKind::InvalidInput, problem)
        })?;
        self.offset_bytes = offset;
        Ok(offset)
    }
}

impl fmt::Debug for RandomAccessReader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reader.debug("RandomAccessReader", self.offset_bytes, formatter)
    }
}
