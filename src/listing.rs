//! Which operations a listing shows, and where they stand: a page costs what it returns. Pure.

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BinaryHeap};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::operation::Spec;
use crate::sorted::Positions;

/// Whose operations are meant, and which of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Those of this application; of all where `None`.
    pub app: Option<String>,
    /// Those of these groups.
    pub group: GroupFilter,
}

/// Operations by their transfer group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum GroupFilter {
    /// Whatever has a group, and what has none.
    #[default]
    Any,
    /// What has no group.
    Ungrouped,
    /// The group of this name; of each application, unless one is named, too.
    Named(String),
}

impl Filter {
    /// Whether all are meant.
    pub(crate) fn is_all(&self) -> bool {
        self.app.is_none() && self.group == GroupFilter::Any
    }

    /// Whether what belongs to an app and a group is meant.
    pub(crate) fn has(&self, app: &str, group: Option<&str>) -> bool {
        let has_group = match &self.group {
            GroupFilter::Any => true,
            GroupFilter::Ungrouped => group.is_none(),
            GroupFilter::Named(name) => group == Some(name),
        };
        has_group && self.app.as_ref().is_none_or(|named| *named == app)
    }

    /// Hash of the group, where one is meant, or none at all.
    fn group(&self) -> Option<u64> {
        match &self.group {
            GroupFilter::Any => None,
            GroupFilter::Ungrouped => Some(hash(&None::<&str>)),
            GroupFilter::Named(name) => Some(hash(&Some(name.as_str()))),
        }
    }
}

/// Orders of operations by app and group. It tells them by hashes; two that collide are listed together.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// By the hashes of app and group. None of the sets is empty.
    orders: BTreeMap<(u64, u64), Positions>,
}

impl Places {
    /// Adds an order, or takes it out.
    pub(crate) fn put(&mut self, spec: &Spec, order: u64, add: bool) {
        match self.orders.entry(place(spec)) {
            Entry::Vacant(entry) if add => entry.insert(Positions::default()).put(order, true),
            Entry::Vacant(_) => {}
            Entry::Occupied(mut entry) => {
                entry.get_mut().put(order, add);
                if entry.get().is_empty() {
                    entry.remove();
                }
            }
        }
    }

    /// How many operations an app has.
    pub(crate) fn count(&self, app: &str) -> usize {
        let app = hash(app);
        self.orders
            .range((app, 0)..=(app, u64::MAX))
            .map(|(_, orders)| orders.len())
            .sum()
    }

    /// Orders from `first` on, ascending, of what a filter means, and of what collides with that. Beginning costs a search
    /// for each group that is meant; where a group but no app is named, a look at each group of each app, too.
    pub(crate) fn from(&self, filter: &Filter, first: u64) -> impl Iterator<Item = u64> + use<'_> {
        let group = filter.group();
        let apps = match filter.app.as_deref().map(hash) {
            Some(app) => (app, group.unwrap_or(0))..=(app, group.unwrap_or(u64::MAX)),
            None => (0, 0)..=(u64::MAX, u64::MAX),
        };
        let places = self.orders.range(apps);
        let places = places.filter(|((_, of), _)| group.is_none_or(|group| *of == group));
        let mut runs: Vec<_> = places.map(|(_, orders)| orders.from(first)).collect();
        let heads = runs.iter_mut().enumerate();
        let mut heads: BinaryHeap<_> = heads
            .filter_map(|(index, run)| Some(Reverse((run.next()?, index))))
            .collect();
        std::iter::from_fn(move || {
            let Reverse((order, index)) = heads.pop()?;
            heads.extend(runs[index].next().map(|next| Reverse((next, index))));
            Some(order)
        })
    }
}

fn place(spec: &Spec) -> (u64, u64) {
    (hash(spec.app.as_str()), hash(&spec.group.as_deref()))
}

/// What stands for a value in an index; two that collide are told apart by whoever looks.
pub(crate) fn hash<T: Hash + ?Sized>(value: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
