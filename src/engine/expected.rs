//! What the content of a download is held to, and which errors its owner mends, checked when it is created.

use backhaul_backends::{Digest, DigestAlgorithm, WebErrorStatus, sort_few_by_key};

use super::create::NewDownload;
use super::origin::FILE_BYTES_MAX;
use crate::error::Error;

/// Most digests of one operation.
const DIGESTS_MAX: usize = 4;
/// Errors that one operation names as such that its owner can mend.
const RECOVERABLE_MAX: usize = 64;

/// The SHA-256 where there is one, and the others.
pub(super) fn check_digests(download: &NewDownload) -> Result<(Option<[u8; 32]>, Vec<Digest>), Error> {
    let sha256 = download
        .sha256
        .and_then(|value| Digest::new(DigestAlgorithm::Sha256, value));
    let mut digests: Vec<Digest> = Vec::new();
    for digest in sha256.iter().chain(&download.digests) {
        match digests.iter().find(|other| other.algorithm() == digest.algorithm()) {
            Some(other) if other == digest => {}
            Some(_) => {
                let problem = "is given beside another value of the same algorithm; no content has both";
                return Err(Error::invalid("digest", digest.to_string(), problem));
            }
            None => digests.push(digest.clone()),
        }
    }
    if digests.len() > DIGESTS_MAX {
        return Err(Error::limit("digests of one operation", DIGESTS_MAX as u64));
    }
    // Older versions know only this one, in a place of its own.
    let is_sha256 = |digest: &Digest| digest.algorithm() == DigestAlgorithm::Sha256;
    let sha256 = digests.iter().find(|digest| is_sha256(digest));
    let sha256 = sha256.and_then(|digest| digest.value().try_into().ok());
    digests.retain(|digest| !is_sha256(digest));
    Ok((sha256, digests))
}

/// The length that the content must have, where one is asked for.
pub(super) fn check_size(asked: Option<u64>) -> Result<Option<u64>, Error> {
    match asked.filter(|bytes| *bytes > FILE_BYTES_MAX) {
        Some(bytes) => {
            let problem = format!("is longer than any file; give at most {FILE_BYTES_MAX} bytes");
            Err(Error::invalid("size", bytes.to_string(), problem))
        }
        None => Ok(asked),
    }
}

/// Errors that the owner of an operation can mend, each one once.
pub(super) fn check_recoverable(asked: &[WebErrorStatus]) -> Result<Vec<i32>, Error> {
    if asked.len() > RECOVERABLE_MAX {
        return Err(Error::limit(
            "recoverable errors of one operation",
            RECOVERABLE_MAX as u64,
        ));
    }
    if let Some(status) = asked.iter().find(|status| !status.is_mendable()) {
        let problem = if status.name().is_some() {
            "cannot be mended with another URL, header or credential"
        } else {
            "is no error status that has a name"
        };
        return Err(Error::invalid("recoverable", status.to_string(), problem));
    }
    let mut numbers: Vec<i32> = asked.iter().map(|status| status.0).collect();
    sort_few_by_key(&mut numbers, |number| *number);
    numbers.dedup();
    Ok(numbers)
}
