//! Which backend serves which scheme.

use std::sync::Arc;

use crate::Backend;

/// The backends of a process. Where two serve one scheme, the first counts.
#[derive(Clone, Default)]
pub struct Registry {
    /// In the order in which they were registered.
    backends: Vec<(String, Arc<dyn Backend>)>,
}

impl Registry {
    /// One of these backends.
    #[must_use]
    pub fn new(backends: Vec<Arc<dyn Backend>>) -> Self {
        let mut served: Vec<(String, Arc<dyn Backend>)> = Vec::new();
        for backend in backends {
            for scheme in backend.schemes() {
                if !served.iter().any(|(known, _)| known == scheme) {
                    served.push((scheme.to_owned(), Arc::clone(&backend)));
                }
            }
        }
        Self { backends: served }
    }

    /// The backend of a scheme, written in any case.
    #[must_use]
    pub fn by_scheme(&self, scheme: &str) -> Option<&Arc<dyn Backend>> {
        let serves = |(name, _): &&(String, _)| name.eq_ignore_ascii_case(scheme);
        self.backends.iter().find(serves).map(|(_, backend)| backend)
    }

    /// Every scheme served, in the order of the backends.
    #[must_use]
    pub fn schemes(&self) -> Vec<&str> {
        self.backends.iter().map(|(scheme, _)| scheme.as_str()).collect()
    }
}
