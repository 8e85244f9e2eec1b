//! When everything has come: whether it is what was asked for.

use backhaul_backends::{Digest, Failure, FailureKind, WebErrorStatus};

use super::super::fault::Fault;
use super::super::ready::Ready;
use super::super::settle::End;
use super::{TRANSIENT, Transfer, failure};
use crate::hex;

/// A file of fewer bytes is written by the sync that it shares with others (measured with 10,000 files of 1 KiB: asking for
/// each of them earlier took 5 % more CPU and a tenth more flushes, and was no faster).
const EARLY_BYTES_MIN: u64 = 16 << 10;

impl Transfer<'_> {
    /// Everything is there by the backend's word; now by ours.
    pub(super) fn finished(&mut self) -> Result<Ready, End> {
        // What was held before has a part file, too.
        if self.response.is_none() {
            return Err(Fault::Local("the backend ended without a response".into()).into());
        }
        self.read_again()?;
        let received = self.received_bytes;
        if let Some(total) = self.total_bytes.filter(|total| *total != received) {
            let message = format!("{received} bytes came, {total} were announced");
            return Err(failure(TRANSIENT, WebErrorStatus::LENGTH_MISMATCH, message));
        }
        if let Some((status, message)) = self.unexpected() {
            return Err(self.impostor(status, message));
        }
        if let Some((told, actual)) = self.sums.mismatch(&self.source.told) {
            let message = differs(&actual, told, TOLD);
            return Err(self.void(TRANSIENT, message));
        }
        let Some(part) = self.part.take() else {
            return Err(Fault::Local("the content has no file".into()).into());
        };
        if received >= EARLY_BYTES_MIN {
            part.file.start_writeback(0, received);
        }
        Ok(Ready::new(
            self.operation,
            self.generation,
            part,
            received,
            self.crc32(),
        ))
    }

    /// What is wrong with the content, measured against what was expected of it.
    fn unexpected(&self) -> Option<(WebErrorStatus, String)> {
        let spec = &self.operation.spec;
        let received = self.received_bytes;
        if let Some(expected) = spec.expected_bytes.filter(|expected| *expected != received) {
            let message = format!("the resource has {received} bytes, {expected} were expected");
            return Some((WebErrorStatus::LENGTH_MISMATCH, message));
        }
        let expected = spec.expected_digests();
        let (expected, actual) = self.sums.mismatch(&expected)?;
        let message = differs(&actual, expected, EXPECTED);
        Some((WebErrorStatus::DIGEST_MISMATCH, message))
    }

    /// Gives up content that has another digest than it should. It is claimed first: else each time a little more of it
    /// could count as progress, and it would be fetched for ever.
    fn void(&mut self, kind: FailureKind, message: String) -> End {
        if let Some(fault) = self.close_ledger(true) {
            return fault.into();
        }
        match self.restart("the content has another digest than it should", self.received_bytes) {
            Ok(()) => failure(kind, WebErrorStatus::DIGEST_MISMATCH, message),
            Err(fault) => fault.into(),
        }
    }

    /// A rest that is longer than it can be came from another place than was asked for, as of a server that takes REST and
    /// sends all: nobody knows where what came of it belongs, and the comparison with the end of what is held did not see it.
    pub(super) fn has_gone_astray(&self, failure: &Failure) -> bool {
        let is_length = failure.status == WebErrorStatus::LENGTH_MISMATCH && failure.kind == TRANSIENT;
        let came_all = self.total_bytes.is_some_and(|total| self.received_bytes >= total);
        is_length && came_all && self.held_bytes > 0 && self.response.is_some()
    }

    /// Gives up what such a rest made of the held bytes.
    pub(super) fn astray(&mut self, failure: Failure) -> End {
        let cause = "the rest came longer than it can be";
        match self.restart(cause, self.received_bytes) {
            Ok(()) => End::Failure(failure),
            Err(fault) => fault.into(),
        }
    }

    /// A web page in the place of the content is what a captive portal puts there: it goes away by itself. Anything else
    /// stays what it is.
    fn impostor(&mut self, status: WebErrorStatus, message: String) -> End {
        let content_type = self
            .response
            .as_ref()
            .and_then(|response| response.content_type.as_deref());
        let is_digest = status == WebErrorStatus::DIGEST_MISMATCH;
        if content_type.is_some_and(backhaul_backends::is_page) {
            let cause = "a web page came in place of the content";
            if let Err(fault) = self.restart(cause, self.received_bytes) {
                return fault.into();
            }
            let message = format!("{message}; a web page came, as from a network that wants a login");
            return failure(TRANSIENT, status, message);
        }
        // Of several sources one is wrong, and it is not known which; or some bytes continue others without proof.
        if is_digest && (self.source.origin.mixed || self.on_trust) {
            return self.void(TRANSIENT, message);
        }
        if is_digest && self.operation.source_count() > 1 {
            return self.void(FailureKind::Permanent, message);
        }
        failure(FailureKind::Permanent, status, message)
    }

    /// Of everything that is there from the first byte on.
    pub(super) fn crc32(&self) -> u32 {
        self.unseen_crc32.unwrap_or_else(|| self.sums.crc32())
    }
}

/// By whom, or as what, it was said what the content should have.
const EXPECTED: &str = "expected";
const TOLD: &str = "told by its server";

fn differs(actual: &Digest, wanted: &Digest, by: &str) -> String {
    let name = actual.algorithm().name().to_uppercase();
    let hex = |digest: &Digest| hex::encode(digest.value());
    format!("the resource has {name} {}, {} was {by}", hex(actual), hex(wanted))
}

#[cfg(test)]
mod tests {
    use backhaul_backends::DigestAlgorithm;

    use super::*;

    #[test]
    fn what_the_content_should_have_been_reads_as_a_sentence_whoever_said_it() {
        let digest = |byte| Digest::new(DigestAlgorithm::Sha256, [byte; 32]);
        let (Some(actual), Some(wanted)) = (digest(0xaa), digest(0xbb)) else {
            panic!("32 bytes are a SHA-256")
        };
        let (is, should) = ("aa".repeat(32), "bb".repeat(32));
        for (by, words) in [(EXPECTED, "was expected"), (TOLD, "was told by its server")] {
            let text = format!("the resource has SHA-256 {is}, {should} {words}");
            assert_eq!(differs(&actual, &wanted, by), text);
        }
    }
}
