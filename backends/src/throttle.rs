//! One limit on the bytes per second of all transfers together.

use std::io::{self, Read};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{
    Backend, BodySource, Capabilities, Failure, FailureKind, Head, Interrupt, Refused, Request, Sink, WebErrorStatus,
};

/// How far a transfer may run ahead of the rate, as a share of a second (chosen without measurement).
const BURST_PER_SECOND: u64 = 4;

/// A token bucket. Takers reserve in the order they come and may go into debt, so that each waits for its own share
/// and none is starved. Times are counted from any fixed moment.
#[derive(Debug)]
struct Bucket {
    bytes_per_second: u128,
    burst: Duration,
    /// When everything that was reserved so far will have passed at the rate.
    paid_until: Duration,
}

impl Bucket {
    fn new(bytes_per_second: NonZeroU64) -> Self {
        let burst = Duration::from_secs(1) / u32::try_from(BURST_PER_SECOND).unwrap_or(1);
        Self {
            bytes_per_second: u128::from(bytes_per_second.get()),
            burst,
            paid_until: Duration::ZERO,
        }
    }

    /// Reserves `bytes` and says how long to wait before they may pass.
    fn reserve(&mut self, bytes: u64, now: Duration) -> Duration {
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / self.bytes_per_second;
        let cost = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        // An idle bucket fills up to one burst and no further.
        self.paid_until = self.paid_until.max(now.saturating_sub(self.burst)).saturating_add(cost);
        self.paid_until.saturating_sub(now)
    }
}

/// The limit that any number of [`Throttle`]s share.
#[derive(Debug)]
pub struct RateLimit {
    bucket: Mutex<Bucket>,
    start: Instant,
    piece_bytes: usize,
}

impl RateLimit {
    /// At most this many bytes in a second, and a quarter of it at once.
    #[must_use]
    pub fn new(bytes_per_second: NonZeroU64) -> Self {
        let piece = (bytes_per_second.get() / BURST_PER_SECOND).max(1);
        Self {
            bucket: Mutex::new(Bucket::new(bytes_per_second)),
            start: Instant::now(),
            piece_bytes: usize::try_from(piece).unwrap_or(usize::MAX),
        }
    }

    fn reserve(&self, bytes: usize) -> Duration {
        let now = self.start.elapsed();
        self.bucket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .reserve(bytes as u64, now)
    }
}

/// A backend held to a [`RateLimit`].
pub struct Throttle {
    inner: Arc<dyn Backend>,
    limit: Arc<RateLimit>,
}

impl Throttle {
    /// Holds `inner` to `limit`.
    #[must_use]
    pub fn new(inner: Arc<dyn Backend>, limit: Arc<RateLimit>) -> Self {
        Self { inner, limit }
    }
}

impl Backend for Throttle {
    fn schemes(&self) -> Vec<&str> {
        self.inner.schemes()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn download(&self, request: &Request, sink: &mut dyn Sink, interrupt: &Interrupt) -> Result<(), Failure> {
        let mut slowed = Slowed {
            sink,
            limit: &self.limit,
            interrupt,
            cut: false,
        };
        let result = match &request.body {
            None => self.inner.download(request, &mut slowed, interrupt),
            Some(body) => {
                let body = SlowedBody {
                    body: Arc::clone(body),
                    limit: Arc::clone(&self.limit),
                    interrupt: interrupt.clone(),
                };
                let request = Request {
                    body: Some(Arc::new(body)),
                    ..request.clone()
                };
                self.inner.download(&request, &mut slowed, interrupt)
            }
        };
        match result {
            Err(failure) if slowed.cut => Err(Failure {
                kind: FailureKind::Interrupted,
                status: WebErrorStatus::OPERATION_CANCELED,
                ..failure
            }),
            other => other,
        }
    }
}

/// A request body at the same rate as everything else.
struct SlowedBody {
    body: Arc<dyn BodySource>,
    limit: Arc<RateLimit>,
    interrupt: Interrupt,
}

struct SlowedReader<'a> {
    reader: Box<dyn Read + 'a>,
    limit: &'a RateLimit,
    interrupt: &'a Interrupt,
}

impl BodySource for SlowedBody {
    fn len_bytes(&self) -> u64 {
        self.body.len_bytes()
    }

    fn open(&self) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(SlowedReader {
            reader: self.body.open()?,
            limit: &self.limit,
            interrupt: &self.interrupt,
        }))
    }
}

impl Read for SlowedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(self.limit.piece_bytes);
        let amount = self.reader.read(&mut buffer[..room])?;
        // Whoever sends looks at the interrupt before anything goes out.
        let _ = self.interrupt.sleep(self.limit.reserve(amount));
        Ok(amount)
    }
}

struct Slowed<'a> {
    sink: &'a mut dyn Sink,
    limit: &'a RateLimit,
    interrupt: &'a Interrupt,
    /// A wait was cut short, so the refusal is ours and not the sink's.
    cut: bool,
}

impl Sink for Slowed<'_> {
    fn begin(&mut self, head: &Head) -> Result<(), Refused> {
        self.sink.begin(head)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        for piece in bytes.chunks(self.limit.piece_bytes) {
            // These bytes were received already: when the wait is cut they still go on, only at once.
            self.cut = self.cut || self.interrupt.sleep(self.limit.reserve(piece.len()));
            self.sink.write(piece).inspect_err(|_| self.cut = false)?;
        }
        if self.cut { Err(Refused) } else { Ok(()) }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn bucket(rate: u64) -> Bucket {
        Bucket::new(NonZeroU64::new(rate).unwrap())
    }

    #[test]
    fn an_idle_bucket_lets_one_burst_through_and_no_more() {
        let mut bucket = bucket(1000);
        let hour = Duration::from_secs(3600);
        assert_eq!(bucket.reserve(250, hour), Duration::ZERO);
        assert_eq!(bucket.reserve(250, hour), Duration::from_millis(250));
    }

    #[test]
    fn takers_queue_up_behind_each_other_at_the_rate() {
        let mut bucket = bucket(1000);
        let waits: Vec<_> = (0..4)
            .map(|_| bucket.reserve(500, Duration::ZERO).as_millis())
            .collect();
        assert_eq!(waits, [500, 1000, 1500, 2000]);
        assert_eq!(
            bucket.reserve(0, Duration::from_secs(1)),
            Duration::from_secs(1),
            "half of the debt is paid"
        );
    }

    #[test]
    fn the_rate_holds_over_many_small_pieces() {
        let mut bucket = bucket(3);
        let mut now = Duration::ZERO;
        for _ in 0..30_000 {
            now += bucket.reserve(1, now);
        }
        let seconds = now.as_secs();
        assert!(
            (9_999..=10_000).contains(&seconds),
            "30,000 bytes at 3 a second took {seconds} s"
        );
    }

    #[test]
    fn the_largest_reservation_does_not_overflow() {
        let mut bucket = bucket(1);
        assert!(bucket.reserve(u64::MAX, Duration::from_secs(1)) > Duration::from_secs(1));
        assert!(bucket.reserve(u64::MAX, Duration::from_secs(1)) > Duration::from_secs(1));
    }
}
