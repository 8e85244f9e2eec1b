//! Roots for FTP under TLS, as libcurl takes them: certificates in PEM form.

use std::path::Path;
use std::sync::OnceLock;

use crate::roots::{self, Sources, Store, USUAL_BUNDLES};

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
const END: &[u8] = b"-----END CERTIFICATE-----";

/// Certificates one after the other. What else stands in a bundle, as remarks and keys, is left out.
#[derive(Clone, Debug, Default)]
struct Pem(Vec<u8>);

impl Store for Pem {
    fn add(&mut self, mut pem: &[u8]) {
        while let Some(begin) = find(pem, BEGIN) {
            pem = &pem[begin..];
            let Some(length) = find(pem, END).map(|end| end + END.len()) else {
                return;
            };
            self.0.extend_from_slice(&pem[..length]);
            self.0.push(b'\n');
            pem = &pem[length..];
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// Reads the roots once, when they are first wanted.
#[derive(Debug)]
pub(super) struct Roots {
    sources: Sources,
    pem: OnceLock<Result<Vec<u8>, String>>,
}

impl Roots {
    pub(super) fn new(sources: Sources) -> Self {
        Self {
            sources,
            pem: OnceLock::new(),
        }
    }

    /// # Errors
    /// One line that says where roots were looked for and what to do.
    pub(super) fn pem(&self) -> Result<&[u8], &str> {
        // Those that are built in elsewhere are not in a form that OpenSSL takes, so there is no reserve.
        let load = || roots::load(&self.sources, USUAL_BUNDLES, Pem::default()).map(|pem| pem.0);
        self.pem.get_or_init(load).as_deref().map_err(String::as_str)
    }
}

/// Checks a bundle that the user named.
pub(super) fn check_bundle(path: &Path) -> Result<(), String> {
    roots::read_bundle::<Pem>(path).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_certificates_of_a_bundle_are_kept() {
        let one = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
        let mut pem = Pem::default();
        pem.add(
            format!("# remark\n{one}-----BEGIN PRIVATE KEY-----\nBB==\n-----END PRIVATE KEY-----\n{one}").as_bytes(),
        );
        pem.add(b"-----BEGIN CERTIFICATE-----\ncut off");
        assert_eq!(String::from_utf8_lossy(&pem.0), one.repeat(2));
    }
}
