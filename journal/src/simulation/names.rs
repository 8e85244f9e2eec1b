//! The directory tree: as programs see it, and what a power cut may leave of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::choices::Choices;
use super::content::Mood;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Directory,
    /// A file, by its inode.
    File(u64),
}

#[derive(Clone, Debug)]
enum Change {
    Made(PathBuf, Node),
    Removed(PathBuf, Node),
    Renamed {
        from: PathBuf,
        to: PathBuf,
        node: Node,
        replaced: Option<Node>,
    },
}

#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    live: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    /// Changes whose directory was not synced since, in order.
    unsynced: Vec<Change>,
}

impl Names {
    pub(super) fn find(&self, path: &Path) -> Option<Node> {
        self.live.get(path).copied()
    }

    /// Everything that stands in a directory.
    pub(super) fn inside<'a>(&'a self, directory: &'a Path) -> impl Iterator<Item = (&'a Path, Node)> {
        // Children sort right behind their parent, mixed with deeper ones only.
        let from = self
            .live
            .range::<Path, _>((std::ops::Bound::Excluded(directory), std::ops::Bound::Unbounded));
        from.take_while(move |(path, _)| path.starts_with(directory))
            .filter(move |(path, _)| path.parent() == Some(directory))
            .map(|(path, node)| (path.as_path(), *node))
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.live.iter().filter_map(|(path, node)| match node {
            Node::File(inode) => Some((path.as_path(), *inode)),
            Node::Directory => None,
        })
    }

    /// Puts a name there as if it had always been.
    pub(super) fn put(&mut self, path: &Path, node: Node) {
        self.live.insert(path.to_owned(), node);
        self.durable.insert(path.to_owned(), node);
    }

    pub(super) fn make(&mut self, path: &Path, node: Node) {
        self.change(Change::Made(path.to_owned(), node));
    }

    pub(super) fn remove(&mut self, path: &Path, node: Node) {
        self.change(Change::Removed(path.to_owned(), node));
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path, node: Node) {
        let replaced = self.find(to);
        self.change(Change::Renamed {
            from: from.to_owned(),
            to: to.to_owned(),
            node,
            replaced,
        });
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.unsynced.push(change);
    }

    /// Makes the changes in a directory durable.
    pub(super) fn sync(&mut self, directory: &Path) {
        for change in std::mem::take(&mut self.unsynced) {
            if change.touches(directory) {
                change.apply(&mut self.durable);
            } else {
                self.unsynced.push(change);
            }
        }
    }

    /// What a power cut leaves.
    pub(super) fn after_power_cut(&self, mood: Mood, choices: &mut Choices) -> Self {
        let mut left = self.durable.clone();
        let mut lost: Vec<&Change> = Vec::new();
        for change in &self.unsynced {
            // What rests on a lost change is lost, too.
            let can_be = !lost.iter().any(|earlier| change.rests_on(earlier));
            let is_kept = can_be
                && match mood {
                    Mood::AllLost => false,
                    Mood::AllKept => true,
                    Mood::Mixed => choices.below(2) == 1,
                };
            if is_kept {
                change.apply(&mut left);
            } else {
                lost.push(change);
            }
        }
        // Nothing is in a directory whose own name did not last.
        let mut reachable = BTreeMap::new();
        for (path, node) in left {
            let parent_is_there = path
                .parent()
                .is_none_or(|parent| reachable.get(parent) == Some(&Node::Directory));
            if parent_is_there {
                reachable.insert(path, node);
            }
        }
        Self {
            live: reachable.clone(),
            durable: reachable,
            unsynced: Vec::new(),
        }
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Made(path, node) => {
                names.insert(path.clone(), *node);
            }
            Self::Removed(path, _) => {
                names.remove(path);
            }
            Self::Renamed { from, to, node, .. } => {
                move_inside(names, from, to, *node);
            }
        }
    }

    fn paths(&self) -> [Option<&Path>; 2] {
        match self {
            Self::Made(path, _) | Self::Removed(path, _) => [Some(path), None],
            Self::Renamed { from, to, .. } => [Some(from), Some(to)],
        }
    }

    fn nodes(&self) -> [Option<Node>; 2] {
        match self {
            Self::Made(_, node) | Self::Removed(_, node) => [Some(*node), None],
            Self::Renamed { node, replaced, .. } => [Some(*node), *replaced],
        }
    }

    fn touches(&self, directory: &Path) -> bool {
        self.paths()
            .into_iter()
            .flatten()
            .any(|path| path.parent() == Some(directory))
    }

    /// Whether this change makes no sense without an earlier one: they speak of one name, of one file, or of a
    /// directory and what is in it.
    fn rests_on(&self, earlier: &Self) -> bool {
        let one_file = |node: Option<Node>| matches!(node, Some(Node::File(_))) && earlier.nodes().contains(&node);
        if self.nodes().into_iter().any(one_file) {
            return true;
        }
        let mine = self.paths().into_iter().flatten();
        mine.into_iter().any(|mine| {
            earlier
                .paths()
                .into_iter()
                .flatten()
                .any(|other| mine.starts_with(other) || other.starts_with(mine))
        })
    }
}

/// Renames a name and, where it is a directory, everything in it.
fn move_inside(names: &mut BTreeMap<PathBuf, Node>, from: &Path, to: &Path, node: Node) {
    if node == Node::Directory {
        let inside: Vec<PathBuf> = names
            .keys()
            .filter(|path| path.starts_with(from) && *path != from)
            .cloned()
            .collect();
        for path in inside {
            if let (Some(node), Ok(rest)) = (names.remove(&path), path.strip_prefix(from)) {
                names.insert(to.join(rest), node);
            }
        }
    }
    names.remove(from);
    names.insert(to.to_owned(), node);
}
