//! The directory tree: as programs see it, and what a power cut may leave of it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::choices::Choices;
use super::content::{Fate, Mood};

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

/// Paths are compared as bytes, which is much faster than part by part; see [`key`].
type Tree = BTreeMap<Arc<OsStr>, Node>;

#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    live: Arc<Tree>,
    durable: Arc<Tree>,
    /// Changes whose directory was not synced since, in order.
    unsynced: Vec<Change>,
}

/// The form in which a path is held.
fn key(path: &Path) -> &OsStr {
    match path.as_os_str().as_bytes() {
        [front @ .., b'/'] if !front.is_empty() => OsStr::from_bytes(front),
        bytes => OsStr::from_bytes(bytes),
    }
}

impl Names {
    pub(super) fn find(&self, path: &Path) -> Option<Node> {
        self.live.get(key(path)).copied()
    }

    /// Everything that stands in a directory, sorted.
    pub(super) fn inside(&self, directory: &Path) -> impl Iterator<Item = (&Path, Node)> {
        let mut front = key(directory).to_owned();
        if front != "/" {
            front.push("/");
        }
        let from = self
            .live
            .range::<OsStr, _>((Bound::Excluded(&*front), Bound::Unbounded));
        let len = front.len();
        from.take_while(move |(path, _)| path.as_bytes().starts_with(front.as_bytes()))
            .filter(move |(path, _)| !path.as_bytes()[len..].contains(&b'/'))
            .map(|(path, node)| (Path::new(&**path), *node))
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.live.iter().filter_map(|(path, node)| match node {
            Node::File(inode) => Some((Path::new(&**path), *inode)),
            Node::Directory => None,
        })
    }

    /// Puts a name there as if it had always been.
    pub(super) fn put(&mut self, path: &Path, node: Node) {
        if self.find(path) == Some(node) && self.unsynced.is_empty() {
            return;
        }
        Arc::make_mut(&mut self.live).insert(key(path).into(), node);
        Arc::make_mut(&mut self.durable).insert(key(path).into(), node);
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
        change.apply(Arc::make_mut(&mut self.live));
        self.unsynced.push(change);
    }

    /// Makes the changes in a directory durable, and those elsewhere that they go on from: a file that was renamed into
    /// it is no longer where it was.
    pub(super) fn sync(&mut self, directory: &Path) {
        let mut is_durable = vec![false; self.unsynced.len()];
        for index in (0..self.unsynced.len()).rev() {
            let change = &self.unsynced[index];
            let later = self.unsynced.iter().zip(&is_durable).skip(index + 1);
            let goes_on = later
                .filter(|(_, is_durable)| **is_durable)
                .any(|(later, _)| later.goes_on_from(change));
            is_durable[index] = goes_on || change.touches(directory);
        }
        for (change, is_durable) in std::mem::take(&mut self.unsynced).into_iter().zip(is_durable) {
            if is_durable {
                change.apply(Arc::make_mut(&mut self.durable));
            } else {
                self.unsynced.push(change);
            }
        }
    }

    /// What a power cut leaves.
    pub(super) fn after_power_cut(&self, mood: Mood, choices: &mut Choices) -> Self {
        if self.unsynced.is_empty() {
            return Self {
                live: Arc::clone(&self.durable),
                durable: Arc::clone(&self.durable),
                unsynced: Vec::new(),
            };
        }
        let mut left = (*self.durable).clone();
        let mut lost: Vec<&Change> = Vec::new();
        for change in &self.unsynced {
            // What rests on a lost change is lost, too.
            let can_be = !lost.iter().any(|earlier| change.rests_on(earlier));
            let is_kept = can_be
                && match mood.decide(choices) {
                    Fate::Lost => false,
                    Fate::Kept => true,
                    Fate::Any => choices.below(2) == 1,
                };
            if is_kept {
                change.apply(&mut left);
            } else {
                lost.push(change);
            }
        }
        // Nothing is in a directory whose own name did not last. A directory sorts before what is in it.
        let mut reachable = Tree::new();
        for (path, node) in left {
            let parent = Path::new(&*path).parent();
            if parent.is_none_or(|parent| reachable.get(key(parent)) == Some(&Node::Directory)) {
                reachable.insert(path, node);
            }
        }
        let reachable = Arc::new(reachable);
        Self {
            live: Arc::clone(&reachable),
            durable: reachable,
            unsynced: Vec::new(),
        }
    }
}

impl Change {
    fn apply(&self, names: &mut Tree) {
        match self {
            Self::Made(path, node) => {
                names.insert(key(path).into(), *node);
            }
            Self::Removed(path, _) => {
                names.remove(key(path));
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
        self.goes_on_from(earlier)
            || self.meets(earlier, |mine, other| {
                mine.starts_with(other) || other.starts_with(mine)
            })
    }

    /// Whether an earlier change speaks of the same name or of the same file.
    fn goes_on_from(&self, earlier: &Self) -> bool {
        let one_file = |node: Option<Node>| matches!(node, Some(Node::File(_))) && earlier.nodes().contains(&node);
        self.nodes().into_iter().any(one_file) || self.meets(earlier, |mine, other| mine == other)
    }

    fn meets(&self, earlier: &Self, how: impl Fn(&Path, &Path) -> bool) -> bool {
        let mine = self.paths();
        let mut mine = mine.into_iter().flatten();
        mine.any(|mine| earlier.paths().into_iter().flatten().any(|other| how(mine, other)))
    }
}

/// Renames a name and, where it is a directory, everything in it.
fn move_inside(names: &mut Tree, from: &Path, to: &Path, node: Node) {
    if node == Node::Directory {
        let inside: Vec<Arc<OsStr>> = names
            .keys()
            .filter(|path| Path::new(path).starts_with(from) && &***path != key(from))
            .cloned()
            .collect();
        for path in inside {
            if let (Some(node), Ok(rest)) = (names.remove(&path), Path::new(&path).strip_prefix(from)) {
                names.insert(key(&to.join(rest)).into(), node);
            }
        }
    }
    names.remove(key(from));
    names.insert(key(to).into(), node);
}
