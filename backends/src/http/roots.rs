//! The TLS set-up, made of the root certificates at the first https request, because a run without one should not pay for
//! it.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, KeyProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor};
use rustls::sign::SigningKey;
use rustls::{ClientConfig, RootCertStore};

use super::HttpConfig;
use crate::ConfigError;
use crate::roots::{self, Sources, Store, USUAL_BUNDLES};

/// What is trusted where the device has no bundle at all.
#[cfg(feature = "embedded-roots")]
const EMBEDDED: &[TrustAnchor] = webpki_roots::TLS_SERVER_ROOTS;
#[cfg(not(feature = "embedded-roots"))]
const EMBEDDED: &[TrustAnchor] = &[];

/// Roots as rustls takes them.
#[derive(Debug)]
struct Roots(RootCertStore);

impl Default for Roots {
    fn default() -> Self {
        Self(RootCertStore::empty())
    }
}

impl Store for Roots {
    fn add(&mut self, pem: &[u8]) {
        let certificates = CertificateDer::pem_slice_iter(pem);
        self.0.add_parsable_certificates(certificates.filter_map(Result::ok));
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Makes the TLS set-up once, when it is first wanted.
#[derive(Debug)]
pub(super) struct TlsSetup {
    sources: Sources,
    config: OnceLock<Result<Arc<ClientConfig>, String>>,
}

impl TlsSetup {
    /// # Errors
    /// Names the bundle of the configuration, where it holds no certificate.
    pub(super) fn new(config: &HttpConfig) -> Result<Self, ConfigError> {
        if let Some(bundle) = &config.ca_bundle {
            check_bundle(bundle).map_err(|reason| ConfigError {
                field: "ca_bundle",
                reason,
            })?;
        }
        let sources = Sources {
            bundle: config.ca_bundle.clone(),
            environment_file: config.ssl_cert_file.clone(),
            environment_directory: config.ssl_cert_dir.clone(),
        };
        Ok(Self {
            sources,
            config: OnceLock::new(),
        })
    }

    /// # Errors
    /// One line that says where roots were looked for and what to do.
    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, String> {
        self.config
            .get_or_init(|| build(load(&self.sources, USUAL_BUNDLES)?))
            .clone()
    }
}

/// This side shows no certificate, so it has no keys; whatever would read them is left out of the program.
#[derive(Debug)]
struct NoKeys;

impl KeyProvider for NoKeys {
    fn load_private_key(&self, _: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        Err(rustls::Error::General("there are no private keys here".to_owned()))
    }
}

fn build(roots: RootCertStore) -> Result<Arc<ClientConfig>, String> {
    let provider = CryptoProvider {
        key_provider: &NoKeys,
        ..rustls::crypto::ring::default_provider()
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("the TLS library cannot be set up: {error}"))?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

fn load(sources: &Sources, usual: &[&str]) -> Result<RootCertStore, String> {
    let embedded = Roots(RootCertStore {
        roots: EMBEDDED.to_vec(),
    });
    roots::load(sources, usual, embedded).map(|roots| roots.0)
}

/// Checks a bundle that the user named.
fn check_bundle(path: &Path) -> Result<(), String> {
    roots::read_bundle::<Roots>(path).map(|_| ())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_passed_over_and_the_others_count() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = directory.path().join("bundle.pem");
        let certificate = |name: &str| {
            let certified = rcgen::generate_simple_self_signed(vec![name.to_owned()]);
            certified.unwrap().cert.pem()
        };
        let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&bundle, [&certificate("one"), bad, &certificate("two")].concat()).unwrap();
        let sources = Sources {
            bundle: Some(bundle.clone()),
            ..Sources::default()
        };
        assert_eq!(load(&sources, &[]).unwrap().len(), 2);
        std::fs::write(&bundle, bad).unwrap();
        assert!(check_bundle(&bundle).unwrap_err().contains("no usable certificate"));
    }

    #[test]
    fn the_embedded_roots_serve_only_where_nothing_else_does() {
        let roots = load(&Sources::default(), &["/nowhere"]);
        if cfg!(feature = "embedded-roots") {
            assert!(roots.unwrap().len() > 100);
        } else {
            assert!(roots.unwrap_err().contains("/nowhere"));
        }
    }
}
