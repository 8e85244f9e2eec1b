//! The backends of this build, and what they cannot do.

use std::path::PathBuf;
use std::sync::Arc;

use backhaul_backends::{Backend, Capabilities};

use crate::address::capabilities_of;
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
/// [`Error::Invalid`] where `config.ca_bundle` holds no certificate.
pub fn backends(config: &Config, variable: impl Fn(&str) -> Option<PathBuf>) -> Result<Vec<Arc<dyn Backend>>, Error> {
    let mut all: Vec<Arc<dyn Backend>> = Vec::new();
    all.extend(http(config, variable)?);
    all.extend(helpers(config));
    Ok(all)
}

#[cfg(feature = "http")]
fn http(config: &Config, variable: impl Fn(&str) -> Option<PathBuf>) -> Result<Option<Arc<dyn Backend>>, Error> {
    let http = backhaul_backends::HttpConfig {
        ca_bundle: config.ca_bundle.clone(),
        ssl_cert_file: variable("SSL_CERT_FILE"),
        ssl_cert_dir: variable("SSL_CERT_DIR"),
        ..backhaul_backends::HttpConfig::default()
    };
    let shown = config
        .ca_bundle
        .as_deref()
        .unwrap_or_else(|| std::path::Path::new(""))
        .display()
        .to_string();
    let backend = backhaul_backends::HttpBackend::new(http);
    let backend = backend.map_err(|error| Error::invalid("ca-bundle", shown, error.reason))?;
    Ok(Some(Arc::new(backend)))
}

#[cfg(not(feature = "http"))]
#[expect(clippy::unnecessary_wraps, reason = "with the feature it can fail")]
fn http(_config: &Config, _variable: impl Fn(&str) -> Option<PathBuf>) -> Result<Option<Arc<dyn Backend>>, Error> {
    Ok(None)
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

#[cfg(not(feature = "helper"))]
fn helpers(_config: &Config) -> Option<Arc<dyn Backend>> {
    None
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
