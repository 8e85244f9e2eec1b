//! Which backend serves which scheme.

use std::sync::Arc;

use crate::{Backend, Capabilities};

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

    /// The same, with what the backend of each can do.
    #[must_use]
    pub fn served(&self) -> Vec<(&str, Capabilities)> {
        let all = self.backends.iter();
        all.map(|(scheme, backend)| (scheme.as_str(), backend.capabilities()))
            .collect()
    }
}

/// Longest scheme, in bytes: each is a part of file names (chosen without measurement; the longest that is registered
/// has 29).
const SCHEME_BYTES_MAX: usize = 64;

/// Whether a text is a URL scheme in lower case, of 1 to 64 bytes.
///
/// Source: RFC 3986, section 3.1.
#[must_use]
pub fn is_scheme(text: &str) -> bool {
    text.len() <= SCHEME_BYTES_MAX
        && text.starts_with(|letter: char| letter.is_ascii_lowercase())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_begins_with_a_letter_and_is_in_lower_case() {
        for scheme in ["a", "http", "svn+ssh", "z39.50r", "ms-secondary-screen-controller"] {
            assert!(is_scheme(scheme), "{scheme}");
        }
        for text in ["", "1a", "+a", "A", "http:", "a/b", "a_b", "ä", &"a".repeat(65)] {
            assert!(!is_scheme(text), "{text}");
        }
    }
}
