//! What is held, times what the server says of the file, gives what to do. Pure.
//!
//! | asked | server says | decision |
//! |---|---|---|
//! | whole | a length that is not the expected one | fail |
//! | whole | anything else | take it from 0 |
//! | rest | another length or time | whole: changed; beyond the end where it is now shorter than what is held |
//! | rest | the same length and time, the time proof | go on; where all is held, its end is compared all the same |
//! | rest | no proof, and a digest of the whole is expected | go on, on trust |
//! | rest | no proof | whole: no proof |
//! | rest | REST is refused (RFC 3659, section 5) | whole: range ignored |
//!
//! Proof is what `proof` says of it (RFC 9110, section 8.8.2.2): the same time of modification and the same length, where
//! that time was at least [`PROOF_AGE`] ago when the server said it.

use std::time::{Duration, SystemTime};

use super::replies::{self, Facts};
use crate::problem::Problem;
use crate::proof::{self, Sameness};
use crate::{Held, Restart, Validators, WebErrorStatus, http_date};

/// How old a time of modification must be: FAT keeps times in steps of two seconds, everything else in finer ones, so that
/// no second change can hide behind it.
pub(super) const PROOF_AGE: Duration = Duration::from_secs(2);

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// All of it; held bytes are given up, and why if that is known already.
    Whole { given_up: Option<Restart> },
    /// From the held bytes on.
    Rest,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Take the whole; held bytes are given up for this reason, where there are any.
    Whole(Option<Restart>),
    /// Go on behind the held bytes.
    Continue {
        /// Without proof.
        on_trust: bool,
    },
    /// All is held, and there is nothing to compare.
    Complete {
        /// Without proof.
        on_trust: bool,
    },
    /// This answer is of no use; ask for the whole.
    AskWhole(Restart),
    /// End the attempt.
    Fail(Problem),
}

/// Asks for the rest only where an answer can prove that it is the rest.
pub(super) fn ask(held: Option<&Held>) -> Ask {
    let Some(held) = held.filter(|held| held.offset_bytes > 0) else {
        return Ask::Whole { given_up: None };
    };
    // The time of another server proves nothing.
    let by_validators = !held.foreign && proof::is_provable(&held.validators);
    if by_validators || held.digest_expected {
        Ask::Rest
    } else {
        Ask::Whole {
            given_up: Some(Restart::NoProof),
        }
    }
}

/// Validators of what the server says at a time by our clock: FTP has no command that asks for its own.
pub(super) fn validators(facts: &Facts, now: SystemTime) -> Validators {
    let modified = facts.modified.as_deref().and_then(replies::time);
    let is_old = modified.is_some_and(|time| now.duration_since(time).is_ok_and(|age| age >= PROOF_AGE));
    Validators {
        last_modified: modified.and_then(http_date),
        date: is_old.then(|| http_date(now)).flatten(),
        total_bytes: facts.size,
        ..Validators::default()
    }
}

pub(super) fn decide(ask: Ask, held: Option<&Held>, new: &Validators, expected_bytes: Option<u64>) -> Decision {
    if let (Some(total), Some(expected)) = (new.total_bytes, expected_bytes)
        && total != expected
    {
        let text = format!("the server announces {total} bytes, {expected} are expected");
        return Decision::Fail(Problem::permanent(WebErrorStatus::LENGTH_MISMATCH, text));
    }
    match (ask, held) {
        (Ask::Rest, Some(held)) => rest(held, new),
        (Ask::Whole { given_up }, Some(held)) => {
            let reason = given_up.map(|reason| match (reason, contradiction(held, new)) {
                (Restart::NoProof, Some(contradiction)) => contradiction,
                _ => reason,
            });
            Decision::Whole(reason)
        }
        (_, None) => Decision::Whole(None),
    }
}

fn rest(held: &Held, new: &Validators) -> Decision {
    let (old, has_tail) = (&held.validators, !held.tail.is_empty());
    let total = new.total_bytes.or(old.total_bytes);
    if total.is_some_and(|total| total < held.offset_bytes) {
        return Decision::AskWhole(Restart::BeyondEnd);
    }
    let same_length = old.total_bytes.zip(new.total_bytes).is_none_or(|(old, new)| old == new);
    let on_trust = match proof::compare_held(held, new) {
        Sameness::Same => false,
        Sameness::Unproven if held.digest_expected => true,
        // Against a time, the comparison of the tail must speak for it; else it would be known only after all came.
        Sameness::Different if held.digest_expected && same_length && has_tail => true,
        Sameness::Different => return Decision::AskWhole(Restart::Changed),
        Sameness::Unproven => return Decision::AskWhole(Restart::NoProof),
    };
    match total {
        // Where nobody ever said how long the file is, its end proves nothing.
        None => Decision::AskWhole(Restart::NoProof),
        // Only its own end says that nothing follows: a length that is told too small would make all of what is held.
        Some(total) if total == held.offset_bytes && !has_tail => Decision::Complete { on_trust },
        Some(_) => Decision::Continue { on_trust },
    }
}

/// What speaks against held bytes, if anything does.
fn contradiction(held: &Held, new: &Validators) -> Option<Restart> {
    if new.total_bytes.is_some_and(|total| total < held.offset_bytes) {
        return Some(Restart::BeyondEnd);
    }
    (proof::compare_held(held, new) == Sameness::Different).then_some(Restart::Changed)
}

/// What became of a file while it was fetched, by what was said of it before and afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Afterwards {
    /// All is said again.
    Same,
    /// Something else is said.
    Changed,
    /// Something is not said again. A file that is written to while it is sent has another time afterwards, and nothing else
    /// need tell.
    Unconfirmed,
}

/// Compares the facts before a transfer with those after it, when that many bytes were there. With `is_gone`, the server says
/// of nothing but that it is not there any more, and what came of it was one answer from its beginning on: servers that hand
/// a file out once and remove it are common, and a second attempt would find nothing.
pub(super) fn afterwards(first: &Facts, later: &Facts, bytes: u64, is_gone: bool) -> Afterwards {
    // A length that was not told before is that of what came.
    let size = first.size.unwrap_or(bytes);
    let differs = later.size.is_some_and(|later| later != size)
        || first.modified.is_some() && later.modified.is_some() && later.modified != first.modified;
    let is_silent =
        (first.size.is_some() && later.size.is_none()) || (first.modified.is_some() && later.modified.is_none());
    match (differs, is_silent) {
        (true, _) => Afterwards::Changed,
        (false, true) if !is_gone => Afterwards::Unconfirmed,
        (false, _) => Afterwards::Same,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    const MODIFIED: &str = "20240229000000";

    fn facts(size: u64, modified: &str) -> Facts {
        Facts {
            size: (size > 0).then_some(size),
            modified: (!modified.is_empty()).then(|| modified.to_owned()),
        }
    }

    fn later(seconds: u64) -> SystemTime {
        replies::time(MODIFIED).unwrap() + Duration::from_secs(seconds)
    }

    fn said(size: u64, modified: &str) -> Validators {
        validators(&facts(size, modified), later(1000))
    }

    fn held(offset_bytes: u64, validators: Validators) -> Held {
        Held {
            offset_bytes,
            tail: vec![1],
            validators,
            ..Held::default()
        }
    }

    #[test]
    fn a_time_of_modification_is_proof_only_two_seconds_after_it() {
        for (seconds, is_proof) in [(0, false), (1, false), (2, true), (1000, true)] {
            let validators = validators(&facts(9, MODIFIED), later(seconds));
            assert_eq!(proof::is_provable(&validators), is_proof, "{seconds}");
            assert_eq!(
                validators.last_modified.as_deref(),
                Some("Thu, 29 Feb 2024 00:00:00 GMT")
            );
            assert_eq!(validators.total_bytes, Some(9));
        }
        let before = validators(
            &facts(9, MODIFIED),
            replies::time(MODIFIED).unwrap() - Duration::from_secs(9),
        );
        assert_eq!(before.date, None, "a clock that is behind proves nothing");
        assert!(!proof::is_provable(&said(0, MODIFIED)), "a time without a length");
        assert!(!proof::is_provable(&said(9, "")), "a length without a time");
    }

    #[test]
    fn the_rest_is_asked_for_only_where_it_can_be_proven_or_is_judged_by_a_digest() {
        let ask = |held: Held| ask(Some(&held));
        let give_up = Ask::Whole {
            given_up: Some(Restart::NoProof),
        };
        assert_eq!(ask(held(0, said(9, MODIFIED))), Ask::Whole { given_up: None });
        assert_eq!(ask(held(4, said(9, MODIFIED))), Ask::Rest);
        assert_eq!(ask(held(4, said(9, ""))), give_up);
        let foreign = Held {
            foreign: true,
            ..held(4, said(9, MODIFIED))
        };
        assert_eq!(ask(foreign.clone()), give_up);
        let digest_expected = true;
        assert_eq!(
            ask(Held {
                digest_expected,
                ..foreign
            }),
            Ask::Rest
        );
        assert_eq!(
            ask(Held {
                digest_expected,
                ..held(4, said(0, ""))
            }),
            Ask::Rest
        );
        assert_eq!(super::ask(None), Ask::Whole { given_up: None });
    }

    #[test]
    fn held_bytes_are_continued_only_under_proof() {
        use Decision::{AskWhole, Continue};
        let proven = said(9, MODIFIED);
        let no_proof = AskWhole(Restart::NoProof);
        let changed = AskWhole(Restart::Changed);
        let go_on = Continue { on_trust: false };
        let young = validators(&facts(9, MODIFIED), later(1));
        // Each row: how much is held, of what, what the server says now, the answer.
        let rows = [
            (4, proven.clone(), said(9, MODIFIED), go_on.clone()),
            (4, proven.clone(), said(9, "20240229000000.0"), go_on.clone()),
            (9, proven.clone(), said(9, MODIFIED), go_on),
            (4, proven.clone(), said(8, MODIFIED), changed.clone()),
            (4, proven.clone(), said(9, "20240229000001"), changed.clone()),
            (4, proven.clone(), said(3, MODIFIED), AskWhole(Restart::BeyondEnd)),
            (
                4,
                proven.clone(),
                said(3, "20240229000001"),
                AskWhole(Restart::BeyondEnd),
            ),
            (4, proven.clone(), said(9, ""), no_proof.clone()),
            (4, proven.clone(), said(0, MODIFIED), no_proof.clone()),
            (4, proven, said(0, ""), no_proof.clone()),
            (4, young, said(9, MODIFIED), no_proof.clone()),
            (4, said(9, ""), said(9, ""), no_proof),
        ];
        for (offset, old, new, decision) in rows {
            let answer = decide(Ask::Rest, Some(&held(offset, old.clone())), &new, None);
            assert_eq!(answer, decision, "{offset} of {old:?}, now {new:?}");
        }
    }

    #[test]
    fn under_a_digest_held_bytes_are_continued_unless_the_length_contradicts() {
        use Decision::{AskWhole, Complete, Continue};
        let on_trust = true;
        let judge = |held: Held, new: &Validators| {
            let held = Held {
                digest_expected: true,
                ..held
            };
            decide(Ask::Rest, Some(&held), new, None)
        };
        let foreign = |validators| Held {
            foreign: true,
            ..held(4, validators)
        };
        let no_tail = Held {
            tail: Vec::new(),
            ..held(4, said(9, MODIFIED))
        };
        let all_without_tail = Held {
            tail: Vec::new(),
            ..held(9, said(9, ""))
        };
        let rows = [
            (
                held(4, said(9, MODIFIED)),
                said(9, MODIFIED),
                Continue { on_trust: false },
            ),
            (held(4, said(9, "")), said(9, ""), Continue { on_trust }),
            (held(9, said(9, "")), said(9, ""), Continue { on_trust }),
            (all_without_tail, said(9, ""), Complete { on_trust }),
            (
                held(4, said(9, MODIFIED)),
                said(9, "20250101000000"),
                Continue { on_trust },
            ),
            (no_tail, said(9, "20250101000000"), AskWhole(Restart::Changed)),
            (
                held(4, said(9, MODIFIED)),
                said(8, MODIFIED),
                AskWhole(Restart::Changed),
            ),
            (held(4, said(0, "")), said(0, ""), AskWhole(Restart::NoProof)),
            (
                foreign(said(9, MODIFIED)),
                said(9, "20250101000000"),
                Continue { on_trust: false },
            ),
            (
                foreign(said(9, MODIFIED)),
                said(8, MODIFIED),
                AskWhole(Restart::Changed),
            ),
        ];
        for (held, new, decision) in rows {
            assert_eq!(judge(held.clone(), &new), decision, "{held:?}, now {new:?}");
        }
        let undigested = foreign(said(9, MODIFIED));
        let answer = decide(Ask::Rest, Some(&undigested), &said(9, MODIFIED), None);
        assert_eq!(answer, AskWhole(Restart::NoProof), "the time of another server");
    }

    #[test]
    fn the_whole_says_why_held_bytes_are_given_up() {
        let reason = |given_up, new: &Validators| {
            let given_up = Some(given_up);
            decide(Ask::Whole { given_up }, Some(&held(4, said(9, MODIFIED))), new, None)
        };
        let rows = [
            (Restart::NoProof, said(0, ""), Restart::NoProof),
            (Restart::NoProof, said(8, ""), Restart::Changed),
            (Restart::NoProof, said(3, ""), Restart::BeyondEnd),
            (Restart::RangeIgnored, said(9, MODIFIED), Restart::RangeIgnored),
            (Restart::Changed, said(9, MODIFIED), Restart::Changed),
        ];
        for (given_up, new, expected) in rows {
            assert_eq!(reason(given_up, &new), Decision::Whole(Some(expected)), "{given_up:?}");
        }
        let whole = Ask::Whole { given_up: None };
        assert_eq!(decide(whole, None, &said(9, MODIFIED), None), Decision::Whole(None));
    }

    #[test]
    fn another_length_than_expected_is_refused_however_it_was_asked() {
        for ask in [Ask::Rest, Ask::Whole { given_up: None }] {
            let Decision::Fail(problem) = decide(ask, Some(&held(4, said(9, MODIFIED))), &said(9, MODIFIED), Some(8))
            else {
                panic!("{ask:?} is accepted");
            };
            assert_eq!(problem.status, WebErrorStatus::LENGTH_MISMATCH);
        }
        let whole = Ask::Whole { given_up: None };
        assert_eq!(decide(whole, None, &said(0, ""), Some(8)), Decision::Whole(None));
        assert_eq!(decide(whole, None, &said(8, ""), Some(8)), Decision::Whole(None));
    }

    #[test]
    fn a_file_is_the_same_only_where_the_server_says_all_of_it_again_in_the_end() {
        use Afterwards::{Changed, Same, Unconfirmed};
        let first = facts(9, MODIFIED);
        let rows = [
            (first.clone(), facts(9, MODIFIED), Same),
            (first.clone(), facts(8, MODIFIED), Changed),
            (first.clone(), facts(9, "20240229000001"), Changed),
            (first.clone(), facts(9, "20240229000000.5"), Changed),
            (first.clone(), facts(8, ""), Changed),
            (first.clone(), facts(9, ""), Unconfirmed),
            (first.clone(), facts(0, MODIFIED), Unconfirmed),
            (first.clone(), facts(0, ""), Unconfirmed),
            // What was not said at first is no contradiction, but for the length of what came.
            (facts(0, ""), first.clone(), Same),
            (facts(0, ""), facts(8, MODIFIED), Changed),
            (facts(0, ""), facts(0, ""), Same),
        ];
        for (first, later, answer) in rows {
            assert_eq!(
                afterwards(&first, &later, 9, false),
                answer,
                "{first:?}, then {later:?}"
            );
        }
        assert_eq!(afterwards(&first, &facts(0, ""), 9, true), Same, "handed out once");
        assert_eq!(afterwards(&first, &facts(8, ""), 9, true), Changed);
    }
}
