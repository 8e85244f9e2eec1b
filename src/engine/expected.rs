//! What the content of a download is held to, checked when it is created.

use backhaul_backends::{Digest, DigestAlgorithm};

use super::create::NewDownload;
use crate::error::Error;

/// Most digests of one operation.
const DIGESTS_MAX: usize = 4;

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
