//! Which operations are meant.

use super::view::OperationView;

/// Whose operations, and which of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Those of this app; of all where `None`.
    pub app: Option<String>,
    /// Those of this group.
    pub group: GroupFilter,
}

/// Operations by their transfer group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum GroupFilter {
    /// All, whatever their group.
    #[default]
    Any,
    /// Those that have none.
    Ungrouped,
    /// Those of the group with this name.
    Named(String),
}

impl Filter {
    /// Whether an operation is meant.
    #[must_use]
    pub fn matches(&self, view: &OperationView) -> bool {
        let group = view.group.as_deref();
        self.app.as_ref().is_none_or(|app| *app == view.app)
            && match &self.group {
                GroupFilter::Any => true,
                GroupFilter::Ungrouped => group.is_none(),
                GroupFilter::Named(name) => group == Some(name),
            }
    }
}
