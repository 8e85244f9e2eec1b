//! Where a simulation's decisions come from.

/// One source of decisions with three drivers: every possibility in turn, a seed, or given bytes.
#[derive(Clone, Debug)]
pub struct Choices(Driver);

#[derive(Clone, Debug)]
enum Driver {
    /// The choices of this round with their bounds, and how many of them were taken.
    Exhaustive {
        round: Vec<(usize, usize)>,
        taken: usize,
    },
    Seeded(u64),
    Bytes {
        bytes: Vec<u8>,
        taken: usize,
    },
}

impl Choices {
    /// All possibilities, one a round: `loop { …; if !choices.next_round() { break } }`. The questions of a round must
    /// follow from the answers before them alone.
    #[must_use]
    pub fn exhaustive() -> Self {
        Self(Driver::Exhaustive {
            round: Vec::new(),
            taken: 0,
        })
    }

    /// Choices that look like chance and repeat with the seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Driver::Seeded(seed))
    }

    /// Choices as a fuzzer gives them; 0 once the bytes are used up.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(Driver::Bytes {
            bytes: bytes.to_vec(),
            taken: 0,
        })
    }

    /// A number below `bound`, which is at least 1.
    ///
    /// # Panics
    /// In an exhaustive search whose questions do not follow from the answers before them.
    pub fn below(&mut self, bound: usize) -> usize {
        debug_assert!(bound > 0, "there is nothing to choose from");
        match &mut self.0 {
            Driver::Exhaustive { round, taken } => {
                if *taken == round.len() {
                    round.push((0, bound));
                }
                let (value, asked) = round[*taken];
                assert_eq!(asked, bound, "a round's questions must follow from its answers");
                *taken += 1;
                value
            }
            Driver::Seeded(state) => {
                // SplitMix64 (Steele, Lea and Flood, 2014).
                *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let mut mixed = *state;
                mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                reduce(mixed ^ (mixed >> 31), bound)
            }
            Driver::Bytes { bytes, taken } => {
                // As few bytes as the bound takes, so that each bit of a fuzzer's input decides something.
                let width = if bound <= 256 { 1 } else { 4 };
                let mut value = 0_usize;
                for _ in 0..width {
                    value = value << 8 | usize::from(bytes.get(*taken).copied().unwrap_or(0));
                    *taken += 1;
                }
                value % bound
            }
        }
    }

    /// One time in `of`; never first in an exhaustive search.
    pub fn one_in(&mut self, of: usize) -> bool {
        self.below(of) + 1 == of
    }

    /// Goes on to the next possibility; `false` once all were tried, and always for the other drivers.
    pub fn next_round(&mut self) -> bool {
        let Driver::Exhaustive { round, taken } = &mut self.0 else {
            return false;
        };
        *taken = 0;
        while let Some((value, bound)) = round.pop() {
            if value + 1 < bound {
                round.push((value + 1, bound));
                return true;
            }
        }
        false
    }

    /// Whether every possibility is tried in turn.
    #[must_use]
    pub fn is_exhaustive(&self) -> bool {
        matches!(self.0, Driver::Exhaustive { .. })
    }

    /// Whether a fuzzer's bytes are used up; never for the other drivers.
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        matches!(&self.0, Driver::Bytes { bytes, taken } if taken >= &bytes.len())
    }
}

fn reduce(value: u64, bound: usize) -> usize {
    // The high half of the product: no bias that matters for bounds this small.
    let product = u128::from(value) * bound as u128;
    usize::try_from(product >> 64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exhaustive_search_meets_every_possibility_once() {
        let mut choices = Choices::exhaustive();
        let mut met = Vec::new();
        loop {
            let first = choices.below(3);
            // A question that is asked only after one of the answers.
            let second = if first == 1 { choices.below(2) } else { 9 };
            met.push((first, second));
            if !choices.next_round() {
                break;
            }
        }
        assert_eq!(met, [(0, 9), (1, 0), (1, 1), (2, 9)]);
    }

    #[test]
    fn a_seed_repeats_and_stays_below_the_bound() {
        let draw = |seed| {
            let mut choices = Choices::seeded(seed);
            (1..200).map(|bound| choices.below(bound)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(draw(7).iter().zip(1..).all(|(value, bound)| *value < bound));
    }

    #[test]
    fn bytes_decide_until_they_are_used_up() {
        let mut choices = Choices::from_bytes(&[5, 1]);
        assert_eq!((choices.below(4), choices.below(256)), (1, 1));
        assert!(choices.is_used_up());
        assert_eq!(choices.below(256), 0);
    }
}
