//! Which operations are meant.

use super::view::OperationView;
use crate::listing::Filter;

impl Filter {
    /// Whether an operation is meant.
    #[must_use]
    pub fn matches(&self, view: &OperationView) -> bool {
        self.has(&view.app, view.group.as_deref())
    }
}
