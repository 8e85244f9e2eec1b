//! Which backend serves which scheme.

use std::sync::Arc;

use crate::Backend;

/// The backends of a process. Where two serve one scheme, the first counts.
#[derive(Clone)]
pub struct Registry {
    backends: Vec<Arc<dyn Backend>>,
}

impl Registry {
    /// One of these backends.
    #[must_use]
    pub fn new(backends: Vec<Arc<dyn Backend>>) -> Self {
        Self { backends }
    }

    /// The backend of a scheme, written in any case.
    #[must_use]
    pub fn by_scheme(&self, scheme: &str) -> Option<&Arc<dyn Backend>> {
        let serves = |name: &&str| name.eq_ignore_ascii_case(scheme);
        self.backends
            .iter()
            .find(|backend| backend.schemes().iter().any(serves))
    }

    /// Every scheme served, in the order of the backends.
    #[must_use]
    pub fn schemes(&self) -> Vec<&'static str> {
        self.backends
            .iter()
            .flat_map(|backend| backend.schemes())
            .copied()
            .collect()
    }
}
