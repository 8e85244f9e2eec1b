//! A sorted set for many small values, in the room that they take themselves: the tree of the standard library leaves
//! half of each node empty where values come in order. Pure.

/// Most values of one run. A change moves those of one run at most, and finding its run takes a binary search.
const RUN_MAX: usize = 512;
/// A run grows by so many values at a time, which bounds what it leaves empty.
const GROWTH: usize = 32;

/// A set of values in their order, as runs that follow each other. None of them is empty.
#[derive(Debug)]
pub(crate) struct SortedSet<T> {
    runs: Vec<Vec<T>>,
}

/// Positions by the hash of what is looked for. Two values may have one hash: whoever looks tells them apart. It takes 12
/// bytes for each.
#[derive(Debug, Default)]
pub(crate) struct Index {
    entries: SortedSet<Hashed>,
}

/// Halves of numbers, so that nothing between them is lost to alignment. Compared from the first half on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Hashed {
    hash: u32,
    position: [u32; 2],
}

impl Hashed {
    #[expect(clippy::cast_possible_truncation, reason = "halves are what is wanted")]
    fn new(hash: u64, position: u64) -> Self {
        Self {
            hash: (hash >> 32) as u32,
            position: [(position >> 32) as u32, position as u32],
        }
    }

    fn position(self) -> u64 {
        let [high, low] = self.position.map(u64::from);
        high << 32 | low
    }
}

impl Index {
    /// Adds a position, or takes it out; without effect where that is done already.
    pub(crate) fn put(&mut self, hash: u64, position: u64, add: bool) {
        self.entries.put(Hashed::new(hash, position), add);
    }

    /// Positions in their order, of this hash and of those that look like it.
    pub(crate) fn positions(&self, hash: u64) -> impl Iterator<Item = u64> + use<'_> {
        let first = Hashed::new(hash, 0);
        let found = self
            .entries
            .from(first)
            .take_while(move |entry| entry.hash == first.hash);
        found.map(Hashed::position)
    }
}

impl<T> Default for SortedSet<T> {
    fn default() -> Self {
        Self { runs: Vec::new() }
    }
}

impl<T: Ord + Copy> SortedSet<T> {
    /// Adds a value, or takes it out; without effect where that is done already.
    pub(crate) fn put(&mut self, value: T, add: bool) {
        if add {
            self.insert(value);
        } else {
            self.remove(value);
        }
    }

    pub(crate) fn insert(&mut self, value: T) {
        let number = self.run_of(value);
        let Some(run) = self.runs.get_mut(number) else {
            self.runs.push(vec![value]);
            return;
        };
        let Err(place) = run.binary_search(&value) else { return };
        if run.len() == run.capacity() {
            run.reserve_exact(GROWTH);
        }
        run.insert(place, value);
        if run.len() > RUN_MAX {
            // What comes in order leaves full runs behind.
            let is_last = number + 1 == self.runs.len() && place + 1 == self.runs[number].len();
            self.split(number, if is_last { RUN_MAX } else { RUN_MAX / 2 });
        }
    }

    pub(crate) fn remove(&mut self, value: T) {
        let number = self.run_of(value);
        let Some(run) = self.runs.get_mut(number) else { return };
        let Ok(place) = run.binary_search(&value) else { return };
        run.remove(place);
        if run.len() + 2 * GROWTH < run.capacity() {
            run.shrink_to(run.len() + GROWTH);
        }
        self.join(number);
    }

    /// Those that are not less than `first`, in order.
    pub(crate) fn from(&self, first: T) -> impl Iterator<Item = T> + use<'_, T> {
        let number = self.run_of(first);
        let place = self
            .runs
            .get(number)
            .map_or(0, |run| run.partition_point(|value| *value < first));
        let rest = self.runs.get(number..).unwrap_or_default();
        rest.iter().flatten().skip(place).copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = T> + use<'_, T> {
        self.runs.iter().flatten().copied()
    }

    pub(crate) fn first(&self) -> Option<T> {
        self.runs.first().and_then(|run| run.first()).copied()
    }

    pub(crate) fn contains(&self, value: T) -> bool {
        let run = self.runs.get(self.run_of(value));
        run.is_some_and(|run| run.binary_search(&value).is_ok())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many values there are: a look at each run.
    pub(crate) fn len(&self) -> usize {
        self.runs.iter().map(Vec::len).sum()
    }

    /// Puts a value in the place of the one that it equals, where there is one.
    pub(crate) fn replace(&mut self, value: T) {
        let number = self.run_of(value);
        let Some(run) = self.runs.get_mut(number) else { return };
        if let Ok(place) = run.binary_search(&value) {
            run[place] = value;
        }
    }

    /// The last run that begins with no more than `value`, or the first one.
    fn run_of(&self, value: T) -> usize {
        let after = self
            .runs
            .partition_point(|run| run.first().is_some_and(|first| *first <= value));
        after.saturating_sub(1)
    }

    fn split(&mut self, number: usize, at: usize) {
        let run = &mut self.runs[number];
        let rest = run.split_off(at);
        run.shrink_to(at);
        self.runs.insert(number + 1, rest);
    }

    /// Takes out a run that is empty, or joins it with the next where both are short, so that few are.
    fn join(&mut self, number: usize) {
        if self.runs[number].is_empty() {
            self.runs.remove(number);
            return;
        }
        let next = self.runs.get(number + 1).map_or(RUN_MAX, Vec::len);
        if self.runs[number].len() + next <= RUN_MAX / 2 {
            let rest = self.runs.remove(number + 1);
            self.runs[number].reserve_exact(rest.len());
            self.runs[number].extend(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Numbers that repeat with every run of this test.
    fn numbers(seed: u64) -> impl Iterator<Item = u64> {
        std::iter::successors(Some(seed), |last| {
            Some(
                last.wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407),
            )
        })
        .map(|number| number >> 33)
    }

    fn assert_same(set: &SortedSet<u64>, model: &BTreeSet<u64>) {
        assert!(set.iter().eq(model.iter().copied()));
        assert!(set.runs.iter().all(|run| !run.is_empty() && run.len() <= RUN_MAX));
    }

    #[test]
    fn it_holds_what_a_tree_holds_whatever_comes_and_goes() {
        for (seed, range) in [(1, 50), (2, 3_000), (3, 20_000)] {
            let (mut set, mut model) = (SortedSet::default(), BTreeSet::new());
            let mut drawn = numbers(seed);
            for step in 0..60_000 {
                let value = drawn.next().unwrap_or_default() % range;
                // It fills, and empties again.
                let add = drawn.next().unwrap_or_default() % 100 < if step < 30_000 { 70 } else { 30 };
                set.put(value, add);
                if add {
                    model.insert(value)
                } else {
                    model.remove(&value)
                };
                if step % 1_000 == 0 {
                    assert_same(&set, &model);
                    assert_eq!(set.contains(value), model.contains(&value));
                    assert_eq!((set.len(), set.first()), (model.len(), model.first().copied()));
                    assert!(set.from(value).take(9).eq(model.range(value..).copied().take(9)));
                }
            }
            for value in 0..range {
                set.remove(value);
            }
            assert!(set.is_empty());
        }
    }

    #[test]
    fn an_index_gives_every_position_of_a_hash_in_order_however_large_they_are() {
        let mut index = Index::default();
        let positions = [0, 1, u64::from(u32::MAX), 1 << 32, u64::MAX];
        for hash in [0, 7 << 32, u64::MAX] {
            for position in positions.iter().rev() {
                index.put(hash, *position, true);
            }
        }
        for hash in [0, 7 << 32, u64::MAX] {
            assert!(index.positions(hash).eq(positions));
        }
        index.put(7 << 32, 1 << 32, false);
        assert_eq!(index.positions(7 << 32).count(), 4);
        assert_eq!(index.positions(8 << 32).count(), 0);
        assert_eq!(size_of::<Hashed>(), 12);
    }

    #[test]
    fn it_leaves_a_sixteenth_of_its_room_empty_whether_values_come_in_order_or_not() {
        for in_order in [true, false] {
            let mut set = SortedSet::default();
            for (index, number) in (0..100_000).zip(numbers(5)) {
                set.insert(if in_order { index } else { number });
            }
            let held: usize = set.runs.iter().map(Vec::len).sum();
            let room: usize = set.runs.iter().map(Vec::capacity).sum();
            assert!(room - held <= held / 16, "{room} for {held}");
        }
    }
}
