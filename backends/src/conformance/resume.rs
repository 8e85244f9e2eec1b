//! What becomes of held bytes: continued under proof, otherwise begun again, and never joined to what they do not belong to.

use super::attempt::{
    AGAIN, CUT, HUGE, HUGE_HELD, LOST, Witness, contents, cut, fetch, held_after, held_at, other, small,
};
use super::{Act, Content, Place, Rig, Served};
use crate::{Held, Restart, Start};

const CONTINUED: Start = Start::Continue { offset_bytes: CUT };

/// Cuts a first attempt, and makes a second one that the server answers with `then`, out of `content`.
fn go_on(rig: &mut dyn Rig, served: &Served, then: Act, content: Content) -> Witness {
    go_on_with(rig, served, then, content, |held| held)
}

/// The same, with something else held.
fn go_on_with(
    rig: &mut dyn Rig,
    served: &Served,
    then: Act,
    content: Content,
    change: impl Fn(Held) -> Held,
) -> Witness {
    let url = rig.serve(served.clone(), vec![Act::HangUp(Place::Byte(CUT)), then]);
    let first = cut(rig, &url, served.content);
    fetch(rig, &url, held_after(&first).map(change), content).whole()
}

pub(super) fn what_came_before_a_cut_is_kept_and_continued(rig: &mut dyn Rig) {
    for content in contents() {
        let served = Served::new(content);
        let witness = go_on(rig, &served, Act::Serve, content);
        let head = witness.head();
        assert_eq!(head.start, CONTINUED);
        assert!(
            head.resumable == Some(true) && head.provable && !head.on_trust,
            "{head:?}"
        );
        assert_eq!(witness.came, content.total_bytes - CUT);
        // Without anything to compare, too.
        let no_tail = |held| Held {
            tail: Vec::new(),
            ..held
        };
        let witness = go_on_with(rig, &served, Act::Serve, content, no_tail);
        assert_eq!(witness.head().start, CONTINUED);
    }
}

pub(super) fn everything_held_is_enough(rig: &mut dyn Rig) {
    let content = small();
    let total = content.total_bytes;
    let url = rig.serve(Served::new(content), Vec::new());
    let first = fetch(rig, &url, None, content).whole();
    let held = held_at(total, content, &first.head().validators);
    let no_tail = Held {
        tail: Vec::new(),
        ..held.clone()
    };
    for held in [held, no_tail] {
        let witness = fetch(rig, &url, Some(held), content).whole();
        assert_eq!(witness.head().start, Start::Continue { offset_bytes: total });
        assert_eq!(witness.came, 0);
    }
}

pub(super) fn nothing_held_is_a_beginning(rig: &mut dyn Rig) {
    let content = small();
    let url = rig.serve(Served::new(content), Vec::new());
    let first = fetch(rig, &url, None, content).whole();
    let held = held_at(0, content, &first.head().validators);
    let witness = fetch(rig, &url, Some(held), content).whole();
    assert_eq!(witness.head().start, Start::Beginning);
}

pub(super) fn a_changed_resource_starts_again(rig: &mut dyn Rig) {
    for content in contents() {
        let served = Served::new(content);
        let longer = Content {
            total_bytes: content.total_bytes + 1,
            ..content
        };
        // Of another version, of another length, and shorter than what is held.
        let shorter = Content {
            total_bytes: CUT - 1,
            ..content
        };
        for (version, changed) in [(2, other(content)), (2, longer), (1, longer), (1, shorter)] {
            let then = Act::Replace(Served {
                version,
                ..Served::new(changed)
            });
            let witness = go_on(rig, &served, then, changed);
            let start = &witness.head().start;
            let is_beyond_end = *start == Start::Restart(Restart::BeyondEnd) && changed.total_bytes < CUT;
            assert!(is_beyond_end || *start == Start::Restart(Restart::Changed), "{start:?}");
        }
    }
}

pub(super) fn a_resource_without_proof_starts_again(rig: &mut dyn Rig) {
    let content = small();
    let served = Served {
        proof: false,
        ..Served::new(content)
    };
    let witness = go_on(rig, &served, Act::Serve, content);
    let head = witness.head();
    assert_eq!(head.start, Start::Restart(Restart::NoProof));
    assert!(!head.provable, "{head:?}");
}

pub(super) fn a_server_that_cannot_continue_starts_again(rig: &mut dyn Rig) {
    for content in contents() {
        let served = Served {
            resumable: false,
            ..Served::new(content)
        };
        let witness = go_on(rig, &served, Act::Serve, content);
        let head = witness.head();
        assert_eq!(head.start, Start::Restart(Restart::RangeIgnored));
        assert_eq!(head.resumable, Some(false), "{head:?}");
        assert_eq!(witness.came, content.total_bytes);
    }
}

/// The validators agree, and yet it is another content.
pub(super) fn a_tail_that_differs_starts_again(rig: &mut dyn Rig) {
    for content in contents() {
        let then = Act::Replace(Served::new(other(content)));
        let witness = go_on(rig, &Served::new(content), then, other(content));
        assert_eq!(witness.head().start, Start::Restart(Restart::Changed));
    }
}

pub(super) fn bytes_beyond_4_gib_are_continued(rig: &mut dyn Rig) {
    let url = rig.serve(Served::new(HUGE), vec![Act::HangUp(Place::Byte(CUT))]);
    let first = cut(rig, &url, HUGE);
    let held = held_at(HUGE_HELD, HUGE, &first.head().validators);
    let witness = fetch(rig, &url, Some(held), HUGE).whole();
    let offset_bytes = HUGE_HELD;
    assert_eq!(witness.head().start, Start::Continue { offset_bytes });
    assert_eq!(witness.came, HUGE.total_bytes - HUGE_HELD);
    let told = rig.protocol().tells_length.then_some(HUGE.total_bytes);
    assert_eq!(witness.head().validators.total_bytes, told);
}

pub(super) fn bytes_of_another_source_are_continued_only_under_what_holds_for_all(rig: &mut dyn Rig) {
    let content = small();
    let served = Served::new(content);
    let foreign = |held| Held { foreign: true, ..held };
    let witness = go_on_with(rig, &served, Act::Serve, content, foreign);
    let expected = if rig.protocol().proves_across_sources {
        CONTINUED
    } else {
        Start::Restart(Restart::NoProof)
    };
    assert_eq!(witness.head().start, expected);
    // What sources make up on their own may differ: it says nothing.
    let then = || {
        Act::Replace(Served {
            version: 2,
            ..served.clone()
        })
    };
    let witness = go_on_with(rig, &served, then(), content, foreign);
    assert_eq!(witness.head().start, Start::Restart(Restart::NoProof));
    let under_digest = |held| Held {
        foreign: true,
        digest_expected: true,
        ..held
    };
    let witness = go_on_with(rig, &served, then(), content, under_digest);
    assert_eq!(witness.head().start, CONTINUED);
}

pub(super) fn a_digest_that_is_expected_continues_bytes_on_trust(rig: &mut dyn Rig) {
    for content in contents() {
        let served = Served {
            proof: false,
            ..Served::new(content)
        };
        let under_digest = |held| Held {
            digest_expected: true,
            ..held
        };
        let witness = go_on_with(rig, &served, Act::Serve, content, under_digest);
        let head = witness.head();
        assert_eq!((head.start.clone(), head.on_trust), (CONTINUED, true));
        // Where there is proof, no trust is needed.
        let witness = go_on_with(rig, &Served::new(content), Act::Serve, content, under_digest);
        let head = witness.head();
        assert_eq!((head.start.clone(), head.on_trust), (CONTINUED, false));
        // Another length is another content, whatever will judge it.
        let longer = Content {
            total_bytes: content.total_bytes + 1,
            ..content
        };
        let then = Act::Replace(Served {
            content: longer,
            ..served.clone()
        });
        let witness = go_on_with(rig, &served, then, longer, under_digest);
        assert_eq!(witness.head().start, Start::Restart(Restart::Changed));
    }
}

pub(super) fn a_tail_that_differs_starts_again_even_on_trust(rig: &mut dyn Rig) {
    let served = Served {
        proof: false,
        ..Served::new(small())
    };
    let changed = other(small());
    for foreign in [false, true] {
        let then = Act::Replace(Served {
            content: changed,
            ..served.clone()
        });
        let under_digest = |held| Held {
            digest_expected: true,
            foreign,
            ..held
        };
        let witness = go_on_with(rig, &served, then, changed, under_digest);
        assert_eq!(witness.head().start, Start::Restart(Restart::Changed));
    }
}

pub(super) fn a_resource_that_never_continues_is_fetched_whole_each_time(rig: &mut dyn Rig) {
    let content = small();
    let url = rig.serve(Served::new(content), vec![Act::HangUp(Place::Byte(CUT))]);
    let first = fetch(rig, &url, None, content).failed_as(AGAIN, LOST);
    let witness = fetch(rig, &url, held_after(&first), content).whole();
    let head = witness.head();
    assert!(matches!(head.start, Start::Restart(_)), "{head:?}");
    assert_ne!(head.resumable, Some(true), "{head:?}");
}
