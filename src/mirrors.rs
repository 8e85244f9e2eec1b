//! Which source of an operation is tried next. Pure: what failed and how in, the next turn out.
//!
//! Sources are numbered: 0 is the URL itself, then the mirrors that were asked for, then those that the server named.
//! A round tries each of them once, without a wait in between; then the back-off of the operation counts. A source that
//! asked for time is passed over until it has had it, or waited for where there is no other.

use crate::operation::{Origin, Round};

/// Most mirrors that may be asked for.
pub(crate) const MIRRORS_MAX: usize = 16;
/// Most mirrors named by a server that are kept.
pub(crate) const LINKED_MAX: usize = 8;
/// Failures in a row after which a source is left although no other can continue what is held of it (chosen without
/// measurement: each costs a back-off, and going elsewhere costs all bytes).
const STAYS_MAX: u32 = 3;

// A bit of a word stands for each source.
const _: () = assert!(1 + MIRRORS_MAX + LINKED_MAX <= u32::BITS as usize);

/// An attempt that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    /// The source that was tried.
    pub(crate) source: u32,
    /// How many there are; at least 1.
    pub(crate) sources: u32,
    /// Asking this source again is useless.
    pub(crate) for_good: bool,
    /// It asked for time before it is asked again.
    pub(crate) wants_rest: bool,
    /// Where the bytes that are held came from, if only their own source can continue them.
    pub(crate) bound_to: Option<Origin>,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Another source is tried at once.
    Next(Round),
    /// The round is over, or the source of the held bytes is worth a wait: that of the failure.
    BackOff(Round),
    /// The round is over, and what the source of the failure asked for binds no other: the back-off is that of a failure
    /// that asked for nothing.
    OtherBackOff(Round),
    /// All that are worth another attempt asked for time: they are waited for.
    Rest(Round),
    /// No source is left that is worth another attempt.
    GiveUp,
}

/// Decides what follows from a failure, within the round so far.
pub(crate) fn after(round: Round, failed: Failed) -> Turn {
    let bit = |source: u32| 1_u32.checked_shl(source).unwrap_or(0);
    let all = bit(failed.sources).wrapping_sub(1);
    let holds = failed.bound_to.is_some_and(|origin| origin.source == failed.source);
    if failed.sources > 1 && holds && !failed.for_good && round.stays + 1 < STAYS_MAX {
        return Turn::BackOff(Round {
            next: failed.source,
            stays: round.stays + 1,
            ..round
        });
    }
    let tried = (round.tried | bit(failed.source)) & all;
    let useless = if failed.for_good {
        round.useless | bit(failed.source)
    } else {
        round.useless
    } & all;
    let wants_rest = if failed.wants_rest { bit(failed.source) } else { 0 };
    let resting = (round.resting | wants_rest) & all;
    let at_once = all & !tried & !resting;
    if at_once != 0 {
        return Turn::Next(Round {
            next: at_once.trailing_zeros(),
            tried,
            useless,
            stays: 0,
            resting,
            rest_until: round.rest_until,
        });
    }
    if useless == all {
        return Turn::GiveUp;
    }
    let begin = |next, resting| Round {
        next,
        tried: resting,
        useless: 0,
        stays: 0,
        resting,
        rest_until: round.rest_until.filter(|_| resting != 0),
    };
    // What refused for good is not worth asking again before those that only want time.
    match all & !resting & !useless {
        0 if wants_rest == 0 => Turn::Rest(Round::default()),
        // The wait that it asked for is that of the operation.
        0 => Turn::BackOff(begin(failed.source, resting & !bit(failed.source))),
        _ if wants_rest == 0 => Turn::BackOff(begin((!resting).trailing_zeros(), resting)),
        _ => Turn::OtherBackOff(begin((!resting).trailing_zeros(), resting)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(source: u32, sources: u32, for_good: bool) -> Failed {
        Failed {
            source,
            sources,
            for_good,
            wants_rest: false,
            bound_to: None,
        }
    }

    /// The sources that are tried until the operation waits or gives up, and whether it gives up.
    fn walk(sources: u32, useless: &[u32]) -> (Vec<u32>, bool) {
        let (mut round, mut tried) = (Round::default(), Vec::new());
        loop {
            tried.push(round.next);
            assert!(tried.len() <= 32, "a round has an end");
            match after(round, failed(round.next, sources, useless.contains(&round.next))) {
                Turn::Next(next) => round = next,
                Turn::BackOff(next) => {
                    assert_eq!(next, Round::default(), "the next round begins anew");
                    return (tried, false);
                }
                Turn::OtherBackOff(_) | Turn::Rest(_) => panic!("nobody asked for time"),
                Turn::GiveUp => return (tried, true),
            }
        }
    }

    #[test]
    fn a_round_tries_each_source_once_and_gives_up_only_where_all_are_useless() {
        let rows: [(u32, &[u32], &[u32], bool); 7] = [
            (1, &[], &[0], false),
            (1, &[0], &[0], true),
            (3, &[], &[0, 1, 2], false),
            (3, &[0, 1], &[0, 1, 2], false),
            (3, &[1, 2], &[0, 1, 2], false),
            (3, &[0, 1, 2], &[0, 1, 2], true),
            (2, &[1], &[0, 1], false),
        ];
        for (sources, useless, tried, gives_up) in rows {
            assert_eq!(
                walk(sources, useless),
                (tried.to_vec(), gives_up),
                "{sources} {useless:?}"
            );
        }
        let most = 1 + u32::try_from(MIRRORS_MAX + LINKED_MAX).unwrap_or(0);
        assert_eq!(walk(most, &[]).0.len(), 25);
    }

    #[test]
    fn the_source_of_bytes_that_no_other_continues_is_left_after_three_failures_in_a_row() {
        let bound = |source, for_good| Failed {
            bound_to: Some(Origin {
                source: 1,
                mixed: false,
            }),
            ..failed(source, 3, for_good)
        };
        let mut round = Round {
            next: 1,
            tried: 1,
            ..Round::default()
        };
        for stays in 1..STAYS_MAX {
            match after(round, bound(1, false)) {
                Turn::BackOff(next) => round = next,
                other => panic!("{other:?}"),
            }
            assert_eq!((round.next, round.stays, round.tried), (1, stays, 1));
        }
        let left = Round {
            next: 2,
            tried: 0b11,
            ..Round::default()
        };
        assert_eq!(after(round, bound(1, false)), Turn::Next(left));
        let elsewhere = Round { stays: 0, ..round };
        assert!(
            matches!(after(elsewhere, bound(1, true)), Turn::Next(_)),
            "a refusal ends the stay"
        );
        assert!(
            matches!(after(elsewhere, bound(2, false)), Turn::Next(_)),
            "another source holds nothing"
        );
    }

    #[test]
    fn a_source_that_wants_rest_is_passed_over_and_waited_for_only_where_all_do() {
        let busy = |source| Failed {
            wants_rest: true,
            ..failed(source, 2, false)
        };
        let resting = |next, resting| Round {
            next,
            tried: resting,
            resting,
            ..Round::default()
        };
        // The first wants rest: the second is tried at once, and again after every back-off.
        assert_eq!(after(Round::default(), busy(0)), Turn::Next(resting(1, 1)));
        assert_eq!(after(resting(1, 1), failed(1, 2, false)), Turn::BackOff(resting(1, 1)));
        // Then the second wants it too, and is waited for.
        assert_eq!(after(resting(1, 1), busy(1)), Turn::BackOff(resting(1, 1)));
        // A refusal of the others ends nothing while one rests.
        assert_eq!(after(resting(1, 1), failed(1, 2, true)), Turn::Rest(Round::default()));
        // Only the last one wants rest: the others are not made to wait as long.
        let tried = Round {
            next: 1,
            tried: 1,
            ..Round::default()
        };
        assert_eq!(after(tried, busy(1)), Turn::OtherBackOff(resting(0, 2)));
    }

    #[test]
    fn a_number_that_is_no_source_any_more_ends_no_round_early_and_goes_on_for_ever_neither() {
        let round = Round {
            next: 20,
            tried: u32::MAX,
            useless: u32::MAX,
            stays: 9,
            ..Round::default()
        };
        assert_eq!(after(round, failed(20, 2, false)), Turn::GiveUp);
        let fresh = Round {
            next: 20,
            ..Round::default()
        };
        assert!(matches!(
            after(fresh, failed(20, 2, true)),
            Turn::Next(Round { next: 0, .. })
        ));
    }
}
