//! What the tests share: a sink that keeps, requests, and one attempt.

use std::sync::{Arc, mpsc};
#[cfg(feature = "ftps")]
use std::time::Duration;

use backhaul_backends::{
    Backend, Failure, FailureKind, FtpBackend, FtpConfig, Head, Held, Interrupt, Limits, Method, Refused, Request, Sink,
};

pub(crate) const BUFFER_BYTES: usize = 64 * 1024;

/// Keeps what it is given.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) heads: Vec<Head>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) largest: usize,
    pub(crate) refuses: bool,
    /// Tells when there are so many bytes.
    pub(crate) tell_at: Option<(usize, mpsc::Sender<()>)>,
}

impl Sink for Kept {
    fn begin(&mut self, head: &Head) -> Result<(), Refused> {
        assert!(self.bytes.is_empty() && self.heads.is_empty(), "the head comes once");
        self.heads.push(head.clone());
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        assert_eq!(self.heads.len(), 1, "the head comes before the bytes");
        self.largest = self.largest.max(bytes.len());
        self.bytes.extend_from_slice(bytes);
        if let Some((_, teller)) = self.tell_at.take_if(|(at, _)| self.bytes.len() >= *at) {
            teller.send(()).expect("somebody listens");
        }
        if self.refuses { Err(Refused) } else { Ok(()) }
    }
}

impl Kept {
    pub(crate) fn head(&self) -> &Head {
        self.heads.first().expect("something was begun")
    }

    /// What the next attempt holds, with a tail of at most so many bytes.
    pub(crate) fn held(&self, tail: usize) -> Held {
        Held {
            offset_bytes: self.bytes.len() as u64,
            tail: self.bytes[self.bytes.len().saturating_sub(tail)..].to_vec(),
            validators: self.head().validators.clone(),
            ..Held::default()
        }
    }
}

/// Larger than every buffer in use, and different in every place.
pub(crate) fn content() -> Vec<u8> {
    (0_u32..200_000)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect()
}

/// A point inside of it, on no boundary of anything.
pub(crate) const CUT: usize = 300_007;

pub(crate) fn request(url: &str) -> Request {
    Request {
        url: url.to_owned(),
        method: Method::GET,
        body: None,
        headers: Vec::new(),
        credential: None,
        proxies: Arc::default(),
        held: None,
        expected_bytes: None,
        expected_type: None,
        limits: Limits::default(),
        buffer_bytes: BUFFER_BYTES,
    }
}

#[cfg(feature = "ftps")]
pub(crate) fn impatient(url: &str) -> Request {
    let limit = Duration::from_millis(200);
    Request {
        limits: Limits {
            connect: limit,
            response: limit,
            stall: limit,
        },
        ..request(url)
    }
}

pub(crate) fn resume(url: &str, held: Held) -> Request {
    Request {
        held: Some(held),
        ..request(url)
    }
}

pub(crate) fn backend() -> FtpBackend {
    FtpBackend::new(FtpConfig::default()).expect("the defaults are good")
}

pub(crate) fn attempt(request: &Request) -> (Result<(), Failure>, Kept) {
    attempt_with(&backend(), request)
}

pub(crate) fn attempt_with(backend: &FtpBackend, request: &Request) -> (Result<(), Failure>, Kept) {
    let mut kept = Kept::default();
    let result = backend.download(request, &mut kept, &Interrupt::new());
    (result, kept)
}

/// What came, where all is well.
pub(crate) fn fetch(request: &Request) -> Kept {
    let (result, kept) = attempt(request);
    result.expect("the attempt ends well");
    kept
}

pub(crate) fn failure(request: &Request) -> (Failure, Kept) {
    let (result, kept) = attempt(request);
    (result.expect_err("the attempt fails"), kept)
}

pub(crate) fn is_transient(failure: &Failure) -> bool {
    matches!(failure.kind, FailureKind::Transient { .. })
}
