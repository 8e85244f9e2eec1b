//! Digests of a whole resource: the algorithms that are known, and values of the right length.

use std::fmt;

/// An algorithm, weakest first.
///
/// Source: RFC 9530, section 5 (names of the registry); SHA-1 stands in old lists of mirrors alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DigestAlgorithm {
    /// SHA-1: weak. It tells damage, and proves nothing against somebody who means it.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl DigestAlgorithm {
    /// Every algorithm, weakest first.
    #[must_use]
    pub fn all() -> &'static [Self] {
        &[Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512]
    }

    /// Its name, in lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha-1",
            Self::Sha256 => "sha-256",
            Self::Sha384 => "sha-384",
            Self::Sha512 => "sha-512",
        }
    }

    /// The algorithm of a name, in lower or upper case.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        let mut all = Self::all().iter().copied();
        all.find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    /// Length of its digests, in bytes.
    #[must_use]
    pub fn len_bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// Two contents of one digest are one content, whoever made them.
    #[must_use]
    pub fn is_strong(self) -> bool {
        self > Self::Sha1
    }
}

/// The digest of a whole resource. `Display` gives `ALGORITHM:` and lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Digest {
    algorithm: DigestAlgorithm,
    value: Vec<u8>,
}

impl Digest {
    /// A digest; `None` where the value has not the length of the algorithm.
    #[must_use]
    pub fn new(algorithm: DigestAlgorithm, value: impl Into<Vec<u8>>) -> Option<Self> {
        let value = value.into();
        (value.len() == algorithm.len_bytes()).then_some(Self { algorithm, value })
    }

    /// The algorithm that made it.
    #[must_use]
    pub fn algorithm(&self) -> DigestAlgorithm {
        self.algorithm
    }

    /// Its bytes; as many as [`DigestAlgorithm::len_bytes`] says.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.value
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:", self.algorithm.name())?;
        self.value.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lengths_and_ranks_fit_together() {
        for algorithm in DigestAlgorithm::all() {
            assert_eq!(DigestAlgorithm::by_name(algorithm.name()), Some(*algorithm));
            assert!(Digest::new(*algorithm, vec![7; algorithm.len_bytes()]).is_some());
            assert!(Digest::new(*algorithm, vec![7; algorithm.len_bytes() - 1]).is_none());
            assert_eq!(algorithm.is_strong(), *algorithm != DigestAlgorithm::Sha1);
        }
        assert!(DigestAlgorithm::all().is_sorted());
        assert_eq!(DigestAlgorithm::by_name("md5"), None);
    }
}
