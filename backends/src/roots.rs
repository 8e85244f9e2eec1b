//! Where root certificates come from: which files, in which order. What is made of them is up to who trusts them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Where distributions keep the bundle: Debian and Alpine, Fedora, openSUSE, the BSDs and Alpine again, and `OpenWrt`.
pub(crate) const USUAL_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs/ca-bundle.crt",
];

/// Largest bundle or certificate file that is read; Debian's bundle has about 220 KiB.
const BUNDLE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Where roots may come from, in the order of their rank.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    /// Given by the user: then nothing else counts.
    pub(crate) bundle: Option<PathBuf>,
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR`: both count where both are set, and then nothing below.
    pub(crate) environment_file: Option<PathBuf>,
    pub(crate) environment_directory: Option<PathBuf>,
}

/// Certificates as one library takes them.
pub(crate) trait Store: Default {
    /// Adds those of a file in PEM form. What is not understood is passed over: a bundle of a distribution may hold such a
    /// certificate, and the others still count.
    fn add(&mut self, pem: &[u8]);

    /// Whether there is none.
    fn is_empty(&self) -> bool;
}

/// The certificates that count. `reserve` are those for where the device has no bundle at all.
///
/// # Errors
/// One line that says where roots were looked for and what to do.
pub(crate) fn load<S: Store>(sources: &Sources, usual: &[&str], reserve: S) -> Result<S, String> {
    if let Some(bundle) = &sources.bundle {
        return read_bundle(bundle);
    }
    if sources.environment_file.is_some() || sources.environment_directory.is_some() {
        return load_environment(sources);
    }
    let mut found = usual.iter().filter_map(|path| read_bundle(Path::new(path)).ok());
    let roots = found.next().unwrap_or(reserve);
    if roots.is_empty() {
        let places = usual.join(", ");
        return Err(format!(
            "no root certificates: none of {places} holds any; give a CA bundle or set SSL_CERT_FILE"
        ));
    }
    Ok(roots)
}

fn load_environment<S: Store>(sources: &Sources) -> Result<S, String> {
    let mut roots = S::default();
    if let Some(file) = &sources.environment_file {
        add_file(&mut roots, file).map_err(|text| format!("SSL_CERT_FILE: {text}"))?;
    }
    if let Some(directories) = &sources.environment_directory {
        for directory in std::env::split_paths(directories) {
            add_directory(&mut roots, &directory).map_err(|text| format!("SSL_CERT_DIR: {text}"))?;
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

/// A bundle that must hold a certificate, as one that the user names must.
pub(crate) fn read_bundle<S: Store>(path: &Path) -> Result<S, String> {
    let mut roots = S::default();
    add_file(&mut roots, path)?;
    if roots.is_empty() {
        return Err(format!("{}: holds no usable certificate in PEM form", path.display()));
    }
    Ok(roots)
}

fn add_file<S: Store>(roots: &mut S, path: &Path) -> Result<(), String> {
    let metadata = std::fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    if !metadata.is_file() {
        return Err(format!("{}: is not a file", path.display()));
    }
    if metadata.len() > BUNDLE_BYTES_MAX {
        return Err(format!("{}: is larger than {BUNDLE_BYTES_MAX} bytes", path.display()));
    }
    let pem = std::fs::read(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
    roots.add(&pem);
    Ok(())
}

/// Every readable certificate of a directory, whatever its file is called. The same certificate usually lies there
/// twice, under its name and under its hash, so names that look like a hash only count where they are no link.
fn add_directory<S: Store>(roots: &mut S, path: &Path) -> Result<(), String> {
    let entries = std::fs::read_dir(path).map_err(|error| format!("{}: {error}", path.display()))?;
    // Once: every step of a path that is resolved costs a system call, and some 150 hash links lie here.
    let directory = std::fs::canonicalize(path).ok();
    for entry in entries.filter_map(Result::ok) {
        let linked = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        if linked && is_hash_name(&entry.file_name()) {
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            // What is named without a directory lies here, too, under its own name or as a link that was made for that.
            let is_beside = target.components().count() == 1 && path.join(&target).exists();
            let lies_here = || {
                std::fs::canonicalize(entry.path())
                    .ok()
                    .as_deref()
                    .and_then(Path::parent)
                    == directory.as_deref()
            };
            if is_beside || lies_here() {
                continue;
            }
        }
        // What cannot be read there is no certificate.
        let _ = add_file(roots, &entry.path());
    }
    Ok(())
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

    /// Counts beginnings of certificates.
    #[derive(Debug, Default, PartialEq)]
    struct Count(usize);

    impl Store for Count {
        fn add(&mut self, pem: &[u8]) {
            self.0 += String::from_utf8_lossy(pem).matches("BEGIN CERTIFICATE").count();
        }

        fn is_empty(&self) -> bool {
            self.0 == 0
        }
    }

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\n";

    fn count(sources: &Sources, usual: &[&str]) -> Result<usize, String> {
        load(sources, usual, Count(0)).map(|count| count.0)
    }

    #[test]
    fn the_given_bundle_outranks_the_environment_and_that_outranks_the_usual_places() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("one.pem"), CERTIFICATE).unwrap();
        fs::write(path("two.pem"), CERTIFICATE.repeat(2)).unwrap();
        let usual = path("two.pem").to_str().unwrap().to_owned();
        let count = |sources: &Sources| count(sources, &["/nowhere", &usual]).unwrap();
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
        fs::write(directory.path().join("ca.pem"), CERTIFICATE).unwrap();
        std::os::unix::fs::symlink("ca.pem", directory.path().join("0a1b2c3d.0")).unwrap();
        fs::write(directory.path().join("4e5f6a7b.0"), CERTIFICATE).unwrap();
        fs::write(directory.path().join("README"), "no certificate").unwrap();
        let mut roots = Count(0);
        add_directory(&mut roots, directory.path()).unwrap();
        assert_eq!(roots, Count(2));
    }

    #[test]
    fn an_environment_that_leads_nowhere_is_an_error_and_not_skipped() {
        let directory = tempfile::tempdir().unwrap();
        let empty = Sources {
            environment_directory: Some(directory.path().to_owned()),
            ..Sources::default()
        };
        let told = count(&empty, &[]).unwrap_err();
        assert!(told.contains("no certificate was found there"), "{told}");
        let missing = Sources {
            environment_file: Some("/nowhere".into()),
            ..Sources::default()
        };
        let told = count(&missing, &[]).unwrap_err();
        assert!(told.starts_with("SSL_CERT_FILE: /nowhere: "), "{told}");
    }

    #[test]
    fn the_reserve_serves_only_where_nothing_else_does() {
        assert_eq!(load(&Sources::default(), &["/nowhere"], Count(3)), Ok(Count(3)));
        let told = count(&Sources::default(), &["/nowhere"]).unwrap_err();
        assert!(told.contains("/nowhere"), "{told}");
    }
}
