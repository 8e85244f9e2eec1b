//! The backends of this build, and what they cannot do.

use std::path::PathBuf;
use std::sync::Arc;

use backhaul_backends::{Backend, Capabilities};

use super::proxied;
use crate::address::{capabilities_of, scheme_of};
#[cfg(feature = "http")]
use crate::budget::idle_connections_max;
use crate::config::Config;
use crate::error::Error;
use crate::operation::Spec;
use crate::vault::Secrets;

/// Where packages put helper programs.
pub const PACKAGED_HELPERS: &str = "/usr/lib/backhaul/backends";

/// The backends that this build has, one for each protocol feature, and at last the helper programs of
/// `config.helper_path`. `variable` reads the environment.
///
/// # Errors
/// [`Error::Invalid`] where `config.ca_bundle` holds no certificate, or nothing of this build looks at one.
#[cfg_attr(
    not(any(feature = "http", feature = "ftp")),
    expect(unused_variables, reason = "only protocols of this build's own read the environment")
)]
#[cfg_attr(
    not(any(feature = "http", feature = "ftp", feature = "helper")),
    expect(unused_mut, reason = "nothing is set up without a protocol")
)]
pub fn backends(config: &Config, variable: impl Fn(&str) -> Option<PathBuf>) -> Result<Vec<Arc<dyn Backend>>, Error> {
    let mut backends: Vec<Arc<dyn Backend>> = Vec::new();
    check_bundle_has_a_use(config)?;
    #[cfg(feature = "http")]
    {
        let defaults = backhaul_backends::HttpConfig::default();
        let http = backhaul_backends::HttpConfig {
            idle_max: idle_connections_max(defaults.idle_max, config.memory_limit),
            ca_bundle: config.ca_bundle.clone(),
            ssl_cert_file: variable("SSL_CERT_FILE"),
            ssl_cert_dir: variable("SSL_CERT_DIR"),
            ..defaults
        };
        let backend = backhaul_backends::HttpBackend::new(http);
        backends.push(Arc::new(backend.map_err(|error| bad_bundle(config, error.reason))?));
    }
    #[cfg(feature = "ftp")]
    {
        let ftp = backhaul_backends::FtpConfig {
            active: config.ftp_active,
            ca_bundle: config.ca_bundle.clone(),
            ssl_cert_file: variable("SSL_CERT_FILE"),
            ssl_cert_dir: variable("SSL_CERT_DIR"),
        };
        let backend = backhaul_backends::FtpBackend::new(ftp);
        backends.push(Arc::new(backend.map_err(|error| bad_bundle(config, error.reason))?));
    }
    #[cfg(feature = "helper")]
    backends.extend(helpers(config));
    Ok(backends)
}

/// Whoever names certificates believes that connections are secure: a build that makes none takes no such word.
fn check_bundle_has_a_use(config: &Config) -> Result<(), Error> {
    match &config.ca_bundle {
        Some(bundle) if !cfg!(any(feature = "tls", feature = "ftps")) => {
            let problem = "means nothing to a backhaul built without the features 'tls' and 'ftps'; leave it out";
            Err(Error::invalid("ca-bundle", bundle.display().to_string(), problem))
        }
        _ => Ok(()),
    }
}

/// What is not used of the helpers is said once, at the start.
#[cfg(feature = "helper")]
fn helpers(config: &Config) -> Option<Arc<dyn Backend>> {
    let is_there = |path: &&PathBuf| path.as_os_str() != PACKAGED_HELPERS || path.exists();
    let directories: Vec<PathBuf> = config.helper_path.iter().filter(is_there).cloned().collect();
    let (backend, refused) = backhaul_backends::HelperBackend::find(&directories);
    for line in refused {
        log::warn!("{line}");
    }
    (!backend.programs().is_empty()).then(|| Arc::new(backend) as _)
}

/// The one field that a backend may refuse.
#[cfg(any(feature = "http", feature = "ftp"))]
fn bad_bundle(config: &Config, reason: String) -> Error {
    let bundle = config.ca_bundle.as_deref().map(|path| path.display().to_string());
    Error::invalid("ca-bundle", bundle.unwrap_or_default(), reason)
}

/// Refuses what the backend of the URL cannot do. A mirror gets of it what its own backend can: no headers where those mean
/// nothing, and no part where it has no parts.
pub(super) fn check_abilities(spec: &Spec, secrets: &Secrets, served: &[(&str, Capabilities)]) -> Result<(), Error> {
    let can = capabilities_of(&spec.url, served);
    let refuse = |field, value: String, what: &str| {
        let problem = format!("{what} mean nothing to '{}'; leave it out", scheme_of(&spec.url));
        Err(Error::invalid(field, value, problem))
    };
    if !can.methods && !spec.method.is_get() {
        return refuse("method", spec.method.to_string(), "methods other than GET");
    }
    if let Some(body) = spec.body.as_ref().filter(|_| !can.methods) {
        return refuse("body", body.shown(), "request bodies");
    }
    let first = spec.headers.first().or(secrets.headers.first());
    if let Some(header) = first.filter(|_| !can.headers) {
        return refuse("header", header.name.clone(), "request headers");
    }
    if spec.random_access && !can.ranges {
        return refuse("random_access", "true".into(), "parts of a resource");
    }
    let Some(proxy) = proxied::asked(spec, secrets) else {
        return Ok(());
    };
    // A mirror that is asked directly would tell what the proxy is to hide.
    let mut urls = std::iter::once(&spec.url).chain(&spec.mirrors);
    if let Some(url) = urls.find(|url| !capabilities_of(url, served).proxies) {
        let problem = format!("'{}' is never asked through a proxy; leave it out", scheme_of(url));
        return Err(Error::invalid("proxy", proxy.to_owned(), problem));
    }
    Ok(())
}

#[cfg(all(test, not(any(feature = "tls", feature = "ftps"))))]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_refused_by_a_build_that_looks_at_none() {
        let config = Config {
            ca_bundle: Some("/etc/ca.pem".into()),
            ..Config::default()
        };
        let Err(Error::Invalid { field, problem, .. }) = backends(&config, |_| None) else {
            panic!("it was taken")
        };
        assert_eq!(field, "ca-bundle");
        assert!(problem.contains("'tls'"), "{problem}");
    }
}
