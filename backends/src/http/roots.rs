//! Which root certificates are trusted, and the TLS set-up made of them: loaded at the first https request, because a
//! run without one should not pay for it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use rustls::{ClientConfig, RootCertStore};

/// Where distributions keep the bundle: Debian and Alpine, Fedora, openSUSE, the BSDs and Alpine again, and `OpenWrt`.
const USUAL_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs/ca-bundle.crt",
];

/// What is trusted where the device has no bundle at all.
#[cfg(feature = "embedded-roots")]
const EMBEDDED: &[TrustAnchor] = webpki_roots::TLS_SERVER_ROOTS;
#[cfg(not(feature = "embedded-roots"))]
const EMBEDDED: &[TrustAnchor] = &[];

/// Largest bundle or certificate file that is read; Debian's bundle has about 220 KiB.
const BUNDLE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Where roots may come from, in the order of their rank.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    /// Given by the user: then nothing else counts.
    pub(super) bundle: Option<PathBuf>,
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR`: both count where both are set, and then nothing below.
    pub(super) environment_file: Option<PathBuf>,
    pub(super) environment_directory: Option<PathBuf>,
}

/// Makes the TLS set-up once, when it is first wanted.
#[derive(Debug)]
pub(super) struct TlsSetup {
    sources: Sources,
    config: OnceLock<Result<Arc<ClientConfig>, String>>,
}

impl TlsSetup {
    pub(super) fn new(sources: Sources) -> Self {
        Self {
            sources,
            config: OnceLock::new(),
        }
    }

    /// # Errors
    /// One line that says where roots were looked for and what to do.
    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, String> {
        self.config
            .get_or_init(|| build(load(&self.sources, USUAL_BUNDLES)?))
            .clone()
    }
}

fn build(roots: RootCertStore) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("the TLS library cannot be set up: {error}"))?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

fn load(sources: &Sources, usual: &[&str]) -> Result<RootCertStore, String> {
    if let Some(bundle) = &sources.bundle {
        return read_bundle(bundle).and_then(|roots| non_empty(roots, bundle));
    }
    if sources.environment_file.is_some() || sources.environment_directory.is_some() {
        return load_environment(sources);
    }
    let found = usual
        .iter()
        .filter_map(|path| read_bundle(Path::new(path)).ok())
        .find(|roots| !roots.is_empty());
    let roots = found.unwrap_or_else(|| RootCertStore {
        roots: EMBEDDED.to_vec(),
    });
    if roots.is_empty() {
        let places = usual.join(", ");
        return Err(format!(
            "no root certificates: none of {places} holds any; give a CA bundle or set SSL_CERT_FILE"
        ));
    }
    Ok(roots)
}

fn load_environment(sources: &Sources) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = &sources.environment_file {
        let read = read_bundle(file).map_err(|text| format!("SSL_CERT_FILE: {text}"))?;
        roots.roots.extend(read.roots);
    }
    if let Some(directories) = &sources.environment_directory {
        for directory in std::env::split_paths(directories) {
            let read = read_directory(&directory).map_err(|text| format!("SSL_CERT_DIR: {text}"))?;
            roots.roots.extend(read.roots);
        }
    }
    if roots.is_empty() {
        return Err(
            "SSL_CERT_FILE or SSL_CERT_DIR is set, but no certificate was found there; unset it or correct it"
                .to_owned(),
        );
    }
    Ok(roots)
}

/// Checks a bundle that the user named.
pub(super) fn check_bundle(path: &Path) -> Result<(), String> {
    read_bundle(path).and_then(|roots| non_empty(roots, path)).map(|_| ())
}

fn non_empty(roots: RootCertStore, path: &Path) -> Result<RootCertStore, String> {
    if roots.is_empty() {
        return Err(format!("{}: holds no usable certificate in PEM form", path.display()));
    }
    Ok(roots)
}

fn read_bundle(path: &Path) -> Result<RootCertStore, String> {
    let metadata = std::fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    if !metadata.is_file() {
        return Err(format!("{}: is not a file", path.display()));
    }
    if metadata.len() > BUNDLE_BYTES_MAX {
        return Err(format!("{}: is larger than {BUNDLE_BYTES_MAX} bytes", path.display()));
    }
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
    let mut roots = RootCertStore::empty();
    // A bundle of a distribution may hold a certificate that is not understood; the others still count.
    roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    Ok(roots)
}

/// Every readable certificate of a directory, whatever its file is called. The same certificate usually lies there
/// twice, under its name and under its hash, so names that look like a hash only count where they are no link.
fn read_directory(path: &Path) -> Result<RootCertStore, String> {
    let entries = std::fs::read_dir(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut roots = RootCertStore::empty();
    for entry in entries.filter_map(Result::ok) {
        let linked = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        if linked && is_hash_name(&entry.file_name()) {
            let target = std::fs::canonicalize(entry.path());
            let directory = std::fs::canonicalize(path);
            if target.ok().as_deref().and_then(Path::parent) == directory.ok().as_deref() {
                continue;
            }
        }
        if let Ok(read) = read_bundle(&entry.path()) {
            roots.roots.extend(read.roots);
        }
    }
    Ok(roots)
}

/// Eight hexadecimal digits, a dot and a number.
fn is_hash_name(name: &OsStr) -> bool {
    let Some((hash, number)) = name.to_str().and_then(|name| name.split_once('.')) else {
        return false;
    };
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    hash.len() == 8 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) && digits
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::fs;

    use super::*;

    fn certificate(name: &str) -> String {
        rcgen::generate_simple_self_signed(vec![name.to_owned()])
            .unwrap()
            .cert
            .pem()
    }

    #[test]
    fn the_given_bundle_outranks_the_environment_and_that_outranks_the_usual_places() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("one.pem"), certificate("one")).unwrap();
        fs::write(path("two.pem"), certificate("two") + &certificate("three")).unwrap();
        let usual = path("two.pem").to_str().unwrap().to_owned();
        let count = |sources: &Sources| load(sources, &["/nowhere", &usual]).unwrap().len();
        let mut sources = Sources::default();
        assert_eq!(count(&sources), 2, "the usual places");
        sources.environment_file = Some(path("one.pem"));
        assert_eq!(count(&sources), 1, "SSL_CERT_FILE alone");
        sources.environment_directory = Some(directory.path().to_owned());
        assert_eq!(count(&sources), 4, "SSL_CERT_FILE and SSL_CERT_DIR");
        sources.bundle = Some(path("two.pem"));
        assert_eq!(count(&sources), 2, "the given bundle");
    }

    #[test]
    fn a_directory_with_hash_links_counts_each_certificate_once() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.pem"), certificate("ca")).unwrap();
        std::os::unix::fs::symlink("ca.pem", directory.path().join("0a1b2c3d.0")).unwrap();
        fs::write(directory.path().join("4e5f6a7b.0"), certificate("only under its hash")).unwrap();
        fs::write(directory.path().join("README"), "no certificate").unwrap();
        assert_eq!(read_directory(directory.path()).unwrap().len(), 2);
    }

    #[test]
    fn an_environment_that_leads_nowhere_is_an_error_and_not_skipped() {
        let directory = tempfile::tempdir().unwrap();
        let empty = Sources {
            environment_directory: Some(directory.path().to_owned()),
            ..Sources::default()
        };
        assert!(
            load(&empty, &[])
                .unwrap_err()
                .contains("no certificate was found there")
        );
        let missing = Sources {
            environment_file: Some("/nowhere".into()),
            ..Sources::default()
        };
        assert!(
            load(&missing, &[])
                .unwrap_err()
                .starts_with("SSL_CERT_FILE: /nowhere: ")
        );
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
