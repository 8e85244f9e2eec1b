//! Which source of an operation is tried next. Pure: what failed and how in, the next turn out.
//!
//! Sources are numbered: 0 is the URL itself, then the mirrors that were asked for, then those that the server named.
//! A round tries each of them once, without a wait in between; then the back-off of the operation counts. A source that
//! asked for time is passed over until it has had it; where all that are worth another attempt did, the first that has had
//! it is waited for.

use crate::operation::{Deadline, Origin, Round, SOURCES_MAX};

/// Most mirrors that may be asked for.
pub(crate) const MIRRORS_MAX: usize = 16;
/// Most mirrors named by a server that are kept.
pub(crate) const LINKED_MAX: usize = 8;
/// Failures in a row after which a source is left although no other can continue what is held of it (chosen without
/// measurement: each costs a back-off, and going elsewhere costs all bytes).
const STAYS_MAX: u32 = 3;

const _: () = assert!(1 + MIRRORS_MAX + LINKED_MAX == SOURCES_MAX as usize);

/// An attempt that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    /// The source that was tried.
    pub(crate) source: u32,
    /// How many there are; at least 1.
    pub(crate) sources: u32,
    /// Asking this source again is useless.
    pub(crate) for_good: bool,
    /// It asked to be left alone until then.
    pub(crate) rest_until: Option<Deadline>,
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
    /// All that are worth another attempt asked for time: the first one that has had it is waited for, until then on
    /// `CLOCK_BOOTTIME`, in milliseconds.
    Rest(Round, u64),
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
    let rested = failed.rest_until.map(|until| round.with_rest(failed.source, until));
    let round = rested.unwrap_or(round);
    let awake = all & !round.resting;
    let begin = |next, round| Round {
        next,
        tried: 0,
        useless: 0,
        stays: 0,
        ..round
    };
    if awake & !tried != 0 {
        return Turn::Next(Round {
            tried,
            useless,
            ..begin((awake & !tried).trailing_zeros(), round)
        });
    }
    if useless == all {
        return Turn::GiveUp;
    }
    // What refused for good is not worth asking again before those that only want time.
    let first = round.first_rested(all).filter(|_| awake & !useless == 0);
    match (first, failed.rest_until) {
        (Some((first, until_ms)), _) => Turn::Rest(begin(first, round.without_rest(first)), until_ms),
        (None, None) => Turn::BackOff(begin(awake.trailing_zeros(), round)),
        (None, Some(_)) => Turn::OtherBackOff(begin(awake.trailing_zeros(), round)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Now;

    fn failed(source: u32, sources: u32, for_good: bool) -> Failed {
        Failed {
            source,
            sources,
            for_good,
            rest_until: None,
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
                Turn::OtherBackOff(_) | Turn::Rest(..) => panic!("nobody asked for time"),
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

    const NOW: Now = Now {
        boot_ms: 1_000,
        wall_ms: 50_000,
        boot_id: [1; 16],
    };

    fn later(ms: u64) -> Now {
        Now {
            boot_ms: NOW.boot_ms + ms,
            wall_ms: NOW.wall_ms + ms,
            ..NOW
        }
    }

    /// One that asked for that many milliseconds, at the beginning.
    fn busy(source: u32, sources: u32, for_ms: u64) -> Failed {
        Failed {
            rest_until: Some(Deadline::after(NOW, for_ms)),
            ..failed(source, sources, false)
        }
    }

    fn resting(next: u32, rests: &[(u32, u64)]) -> Round {
        let round = Round {
            next,
            ..Round::default()
        };
        let rest =
            |round: Round, (source, for_ms): &(u32, u64)| round.with_rest(*source, Deadline::after(NOW, *for_ms));
        rests.iter().fold(round, rest)
    }

    #[test]
    fn a_source_that_wants_rest_is_passed_over_until_it_has_had_it() {
        let tried = |tried, round| Round { tried, ..round };
        // The first wants rest: the second is tried at once, and again after every back-off.
        let second = resting(1, &[(0, 100)]);
        assert_eq!(after(Round::default(), busy(0, 2, 100)), Turn::Next(tried(1, second)));
        assert_eq!(after(tried(1, second), failed(1, 2, false)), Turn::BackOff(second));
        // Once the first has had it, it is tried again.
        let back = tried(2, resting(0, &[]));
        assert_eq!(after(second.at(later(100)), failed(1, 2, false)), Turn::Next(back));
        // A refusal of the others ends nothing while one rests.
        let first = Turn::Rest(Round::default(), later(100).boot_ms);
        assert_eq!(after(second.at(later(99)), failed(1, 2, true)), first);
        // Only the last one wants rest: the others are not made to wait as long.
        let last = tried(1, resting(1, &[]));
        assert_eq!(
            after(last, busy(1, 2, 100)),
            Turn::OtherBackOff(resting(0, &[(1, 100)]))
        );
    }

    #[test]
    fn where_all_want_rest_the_first_that_has_had_it_is_waited_for_and_each_of_the_others_has_all_of_its_own() {
        for (one, two, three) in [(100, 500, 900), (900, 100, 500), (500, 900, 100), (100, 100, 100)] {
            let rests = [(0, one), (1, two), (2, three)];
            let round = resting(2, &rests[..2]);
            let shortest = rests.iter().min_by_key(|(_, for_ms)| *for_ms);
            let (next, for_ms) = *shortest.expect("there are three");
            let others: Vec<_> = rests.iter().copied().filter(|(source, _)| *source != next).collect();
            let waited = Turn::Rest(resting(next, &others), later(for_ms).boot_ms);
            assert_eq!(after(round, busy(2, 3, three)), waited, "{rests:?}");
        }
        let round = resting(0, &[(1, 900), (2, 500)]);
        assert_eq!(round.at(later(499)), round);
        assert_eq!(round.at(later(500)), resting(0, &[(1, 900)]));
        assert_eq!(round.at(later(900)), resting(0, &[]));
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
