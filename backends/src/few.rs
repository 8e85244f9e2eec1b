//! Sorting of short lists. The one of the standard library is three thousand bytes of code for each type and key, which is
//! well spent only where a list can be long. Pure.

/// Sorts a list of a few hundred entries at most: in place, those with equal keys stay as they are. Its time grows with the
/// square of their number.
pub fn sort_few_by_key<T, K: Ord>(list: &mut [T], key: impl Fn(&T) -> K) {
    for entry in 1..list.len() {
        let mut place = entry;
        while place > 0 && key(&list[place]) < key(&list[place - 1]) {
            list.swap(place, place - 1);
            place -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::sort_few_by_key;

    #[test]
    fn entries_come_in_the_order_of_their_keys_and_equal_ones_stay_as_they_are() {
        // All lists of up to five entries with keys below four.
        for number in 0..4_u32.pow(5) {
            for len in 0..=5 {
                let mut few: Vec<(u32, u32)> = (0..len).map(|place| (number >> (2 * place) & 3, place)).collect();
                let mut expected = few.clone();
                expected.sort_by_key(|(key, _)| *key);
                sort_few_by_key(&mut few, |(key, _)| *key);
                assert_eq!(few, expected);
            }
        }
    }
}
