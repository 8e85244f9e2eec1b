//! The backends of this build.

use std::path::PathBuf;
use std::sync::Arc;

use backhaul_backends::Backend;

use crate::config::Config;
use crate::error::Error;

/// The backends that this build has, one for each protocol feature. `variable` reads the environment.
///
/// # Errors
/// [`Error::Invalid`] where `config.ca_bundle` holds no certificate.
#[cfg(feature = "http")]
pub fn backends(config: &Config, variable: impl Fn(&str) -> Option<PathBuf>) -> Result<Vec<Arc<dyn Backend>>, Error> {
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
    Ok(vec![Arc::new(backend)])
}

/// The backends that this build has: none, as no protocol feature is on.
///
/// # Errors
/// None.
#[cfg(not(feature = "http"))]
pub fn backends(_config: &Config, _variable: impl Fn(&str) -> Option<PathBuf>) -> Result<Vec<Arc<dyn Backend>>, Error> {
    Ok(Vec::new())
}
