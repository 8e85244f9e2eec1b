//! Gaps in the middle of what is held.

use super::attempt::{AGAIN, CUT, HUGE, HUGE_HELD, LOST, contents, cut, fetch, held_at, other, small};
use super::{Act, Content, Place, Rig, Served};
use crate::{Held, Restart, Start, Validators};

/// A gap of the small content, of several buffers.
const GAP_END: u64 = CUT + 140_009;

fn gap(begin: u64, end: u64, content: Content, validators: &Validators) -> Held {
    Held {
        end_bytes: Some(end),
        ..held_at(begin, content, validators)
    }
}

/// Serves a content, and gives its validators as a first attempt heard them.
fn serve(rig: &mut dyn Rig, content: Content, then: Vec<Act>) -> (String, Validators) {
    let acts = [vec![Act::HangUp(Place::Byte(CUT))], then].concat();
    let url = rig.serve(Served::new(content), acts);
    let first = cut(rig, &url, content);
    let validators = first.head().validators.clone();
    (url, validators)
}

pub(super) fn a_gap_is_fetched_alone(rig: &mut dyn Rig) {
    for content in contents() {
        let (url, validators) = serve(rig, content, Vec::new());
        for (begin, end) in [
            (CUT, GAP_END),
            (CUT, CUT + 1),
            (content.total_bytes - 1, content.total_bytes),
        ] {
            let held = gap(begin, end, content, &validators);
            let witness = fetch(rig, &url, Some(held), content).to(end);
            assert_eq!(witness.head().start, Start::Continue { offset_bytes: begin });
            assert_eq!(witness.came, end - begin);
        }
    }
}

pub(super) fn a_gap_at_the_beginning_is_fetched_alone(rig: &mut dyn Rig) {
    let content = small();
    let (url, validators) = serve(rig, content, Vec::new());
    let held = gap(0, CUT, content, &validators);
    let witness = fetch(rig, &url, Some(held), content).to(CUT);
    assert_eq!(witness.head().start, Start::Continue { offset_bytes: 0 });
}

pub(super) fn a_gap_beyond_4_gib_is_fetched_alone(rig: &mut dyn Rig) {
    let (url, validators) = serve(rig, HUGE, Vec::new());
    let end = HUGE_HELD + 70_001;
    let held = gap(HUGE_HELD, end, HUGE, &validators);
    let witness = fetch(rig, &url, Some(held), HUGE).to(end);
    let offset_bytes = HUGE_HELD;
    assert_eq!(witness.head().start, Start::Continue { offset_bytes });
}

pub(super) fn a_gap_of_a_changed_resource_starts_again(rig: &mut dyn Rig) {
    let content = small();
    let changed = other(content);
    // By its validators, and by its bytes alone.
    for version in [2, 1] {
        let then = Act::Replace(Served {
            version,
            ..Served::new(changed)
        });
        let (url, validators) = serve(rig, content, vec![then]);
        let held = gap(CUT, GAP_END, content, &validators);
        let witness = fetch(rig, &url, Some(held), changed).whole();
        assert_eq!(witness.head().start, Start::Restart(Restart::Changed));
    }
}

pub(super) fn a_gap_that_is_cut_is_no_success(rig: &mut dyn Rig) {
    let content = small();
    let until = CUT + 70_001;
    let (url, validators) = serve(rig, content, vec![Act::HangUp(Place::Byte(until))]);
    let held = gap(CUT, GAP_END, content, &validators);
    let witness = fetch(rig, &url, Some(held), content).failed_as(AGAIN, LOST);
    assert_eq!(witness.next, until, "what came is kept");
    let held = gap(until, GAP_END, content, &validators);
    fetch(rig, &url, Some(held), content).to(GAP_END);
}
