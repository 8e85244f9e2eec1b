//! The backends of this build, and what they cannot do.

use std::path::PathBuf;
use std::sync::Arc;

use backhaul_backends::{Backend, Capabilities};

use crate::address::capabilities_of;
use crate::config::Config;
use crate::error::Error;
use crate::operation::Spec;
use crate::vault::Secrets;

/// The backends that this build has, one for each protocol feature. `variable` reads the environment.
///
/// # Errors
/// [`Error::Invalid`] where `config.ca_bundle` holds no certificate.
pub fn backends(config: &Config, variable: impl Fn(&str) -> Option<PathBuf>) -> Result<Vec<Arc<dyn Backend>>, Error> {
    let _ = (config, &variable);
    Ok(vec![
        #[cfg(feature = "http")]
        http(config, &variable)?,
        #[cfg(feature = "ftp")]
        ftp(config, &variable)?,
    ])
}

#[cfg(feature = "http")]
fn http(config: &Config, variable: impl Fn(&str) -> Option<PathBuf>) -> Result<Arc<dyn Backend>, Error> {
    let http = backhaul_backends::HttpConfig {
        ca_bundle: config.ca_bundle.clone(),
        ssl_cert_file: variable("SSL_CERT_FILE"),
        ssl_cert_dir: variable("SSL_CERT_DIR"),
        ..backhaul_backends::HttpConfig::default()
    };
    let backend = backhaul_backends::HttpBackend::new(http).map_err(|error| unusable_bundle(config, error.reason))?;
    Ok(Arc::new(backend))
}

#[cfg(feature = "ftp")]
fn ftp(config: &Config, variable: impl Fn(&str) -> Option<PathBuf>) -> Result<Arc<dyn Backend>, Error> {
    let ftp = backhaul_backends::FtpConfig {
        active: config.ftp_active,
        ca_bundle: config.ca_bundle.clone(),
        ssl_cert_file: variable("SSL_CERT_FILE"),
        ssl_cert_dir: variable("SSL_CERT_DIR"),
    };
    let backend = backhaul_backends::FtpBackend::new(ftp).map_err(|error| unusable_bundle(config, error.reason))?;
    Ok(Arc::new(backend))
}

#[cfg(any(feature = "http", feature = "ftp"))]
fn unusable_bundle(config: &Config, reason: String) -> Error {
    let shown = config.ca_bundle.as_deref().unwrap_or_else(|| std::path::Path::new(""));
    Error::invalid("ca-bundle", shown.display().to_string(), reason)
}

/// Refuses what the backend of the URL cannot do. A mirror gets of it what its own backend can: no headers where those mean
/// nothing, and no part where it has no parts.
pub(super) fn check_abilities(spec: &Spec, secrets: &Secrets, served: &[(&str, Capabilities)]) -> Result<(), Error> {
    let can = capabilities_of(&spec.url, served);
    let scheme = spec.url.split(':').next().unwrap_or_default();
    let refuse = |field, value: String, what: &str| {
        let problem = format!("{what} mean nothing to '{scheme}'; leave it out");
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
    Ok(())
}
