//! Digests as the journal stores them.

use backhaul_backends::{Digest, DigestAlgorithm};
use minicbor::{Decode, Encode};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
enum Algorithm {
    #[n(0)]
    Sha1,
    #[n(1)]
    Sha256,
    #[n(2)]
    Sha384,
    #[n(3)]
    Sha512,
}

/// A digest as stored.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct StoredDigest {
    #[n(0)]
    algorithm: Algorithm,
    #[cbor(n(1), with = "minicbor::bytes")]
    value: Vec<u8>,
}

/// The form to store.
pub(crate) fn stored_digests(digests: &[Digest]) -> Vec<StoredDigest> {
    let stored = |digest: &Digest| {
        let algorithm = match digest.algorithm() {
            DigestAlgorithm::Sha1 => Algorithm::Sha1,
            DigestAlgorithm::Sha256 => Algorithm::Sha256,
            DigestAlgorithm::Sha384 => Algorithm::Sha384,
            DigestAlgorithm::Sha512 => Algorithm::Sha512,
            // Nothing takes in one that cannot be stored.
            _ => return None,
        };
        let value = digest.value().to_vec();
        Some(StoredDigest { algorithm, value })
    };
    digests.iter().filter_map(stored).collect()
}

/// The digests that were stored. A value of another length than its algorithm makes can come from no writer of ours, and
/// counts for nothing.
pub(crate) fn digests(stored: &[StoredDigest]) -> Vec<Digest> {
    let digest = |stored: &StoredDigest| {
        let algorithm = match stored.algorithm {
            Algorithm::Sha1 => DigestAlgorithm::Sha1,
            Algorithm::Sha256 => DigestAlgorithm::Sha256,
            Algorithm::Sha384 => DigestAlgorithm::Sha384,
            Algorithm::Sha512 => DigestAlgorithm::Sha512,
        };
        Digest::new(algorithm, &stored.value[..])
    };
    stored.iter().filter_map(digest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_can_be_stored_and_comes_back() {
        let all: Vec<Digest> = DigestAlgorithm::all()
            .iter()
            .filter_map(|algorithm| Digest::new(*algorithm, vec![7; algorithm.len_bytes()]))
            .collect();
        assert_eq!(all.len(), DigestAlgorithm::all().len());
        assert_eq!(digests(&stored_digests(&all)), all);
    }
}
