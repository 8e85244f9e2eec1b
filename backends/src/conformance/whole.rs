//! Whole resources: their lengths and types, told, not told and not kept to.

use super::attempt::{AGAIN, CUT, LOST, attempt, contents, cut, fetch, held_after, request, small};
use super::{Act, Content, Place, Rig, Served};
use crate::{FailureKind, Request, Start, WebErrorStatus};

/// A type that is no page.
const IMAGE: &str = "image/png";

fn page() -> Served {
    let content = Content {
        seed: 77,
        total_bytes: 20,
    };
    Served {
        content_type: Some("text/html; charset=utf-8".to_owned()),
        version: 77,
        ..Served::new(content)
    }
}

pub(super) fn a_download_is_whole(rig: &mut dyn Rig) {
    let protocol = rig.protocol();
    let one = Content {
        seed: 3,
        total_bytes: 1,
    };
    for content in contents().into_iter().chain([one]) {
        let served = Served {
            content_type: Some(IMAGE.to_owned()),
            ..Served::new(content)
        };
        let url = rig.serve(served, Vec::new());
        let witness = fetch(rig, &url, None, content).whole();
        let head = witness.head();
        assert_eq!(head.start, Start::Beginning);
        let told = protocol.tells_length.then_some(content.total_bytes);
        assert_eq!(head.validators.total_bytes, told);
        assert_eq!(head.content_type.as_deref(), protocol.tells_type.then_some(IMAGE));
        assert_eq!(head.actual_url, url);
        assert!(head.provable || !rig.backend().capabilities().resume, "{head:?}");
        assert!(!head.on_trust);
    }
}

pub(super) fn an_empty_resource_is_whole(rig: &mut dyn Rig) {
    let content = Content {
        seed: 1,
        total_bytes: 0,
    };
    let url = rig.serve(Served::new(content), Vec::new());
    // Once more, for whatever the first left behind.
    for _ in 0..2 {
        let witness = fetch(rig, &url, None, content).whole();
        assert_eq!(witness.came, 0);
        let told = rig.protocol().tells_length.then_some(0);
        assert_eq!(witness.head().validators.total_bytes, told);
    }
}

pub(super) fn a_body_that_is_shorter_than_announced_is_no_success(rig: &mut dyn Rig) {
    for content in contents() {
        let announced = content.total_bytes + 1000;
        let url = rig.serve(Served::new(content), vec![Act::Announce(announced)]);
        // Some cannot tell a lost end from a resource that has become shorter.
        let statuses = [LOST, &[WebErrorStatus::LENGTH_MISMATCH]].concat();
        let witness = fetch(rig, &url, None, content).failed_as(AGAIN, &statuses);
        assert_eq!(witness.next, content.total_bytes, "what came is kept");
        let held = held_after(&witness);
        fetch(rig, &url, held, content).whole();
    }
}

pub(super) fn a_body_that_is_longer_than_announced_brings_nothing_beyond_it(rig: &mut dyn Rig) {
    for content in contents() {
        let announced = content.total_bytes - 1000;
        let url = rig.serve(Served::new(content), vec![Act::Announce(announced)]);
        let outcome = fetch(rig, &url, None, content);
        match rig.protocol().excess {
            None => {
                outcome.to(announced);
            }
            Some((kind, status)) => {
                let witness = outcome.failed(kind, status);
                assert!(witness.next <= announced, "{} bytes came", witness.next);
            }
        }
        // What was too much is part of no later answer.
        fetch(rig, &url, None, content).whole();
    }
}

pub(super) fn a_resource_of_unknown_length_is_whole_and_its_cut_is_noticed(rig: &mut dyn Rig) {
    for content in contents() {
        let served = Served {
            tells_length: false,
            ..Served::new(content)
        };
        let acts = vec![Act::Serve, Act::HangUp(Place::Byte(CUT))];
        let url = rig.serve(served, acts);
        let witness = fetch(rig, &url, None, content).whole();
        assert_eq!(witness.head().validators.total_bytes, None);
        let held = held_after(&cut(rig, &url, content));
        fetch(rig, &url, held, content).whole();
    }
}

pub(super) fn an_expected_length_holds_where_none_is_announced(rig: &mut dyn Rig) {
    let content = small();
    let served = Served {
        tells_length: false,
        ..Served::new(content)
    };
    let total = content.total_bytes;
    for expected in [total - 1, total, total + 1] {
        let url = rig.serve(served.clone(), Vec::new());
        let asked = Request {
            expected_bytes: Some(expected),
            ..request(&url, None)
        };
        let outcome = attempt(rig, &asked, content);
        if expected == total {
            outcome.whole();
            continue;
        }
        let witness = outcome.failed(FailureKind::Permanent, WebErrorStatus::LENGTH_MISMATCH);
        assert!(witness.next <= expected, "{} bytes came", witness.next);
    }
}

pub(super) fn another_length_than_expected_is_refused(rig: &mut dyn Rig) {
    let content = small();
    for expected in [0, content.total_bytes - 1, content.total_bytes + 1] {
        let url = rig.serve(Served::new(content), Vec::new());
        let asked = Request {
            expected_bytes: Some(expected),
            ..request(&url, None)
        };
        attempt(rig, &asked, content).failed_before_the_head(FailureKind::Permanent, WebErrorStatus::LENGTH_MISMATCH);
        let asked = Request {
            expected_bytes: Some(content.total_bytes),
            ..asked
        };
        attempt(rig, &asked, content).whole();
    }
}

pub(super) fn another_type_than_expected_is_refused(rig: &mut dyn Rig) {
    let image = Served {
        content_type: Some(IMAGE.to_owned()),
        ..Served::new(small())
    };
    // A page may be that of a network that wants somebody to log in.
    for (served, kind) in [(image, FailureKind::Permanent), (page(), AGAIN)] {
        let content = served.content;
        let url = rig.serve(served, Vec::new());
        let asked = Request {
            expected_type: Some("application/*".to_owned()),
            ..request(&url, None)
        };
        attempt(rig, &asked, content).failed_before_the_head(kind, WebErrorStatus::UNEXPECTED_CONTENT_TYPE);
    }
}

pub(super) fn a_page_in_place_of_the_rest_gives_up_nothing(rig: &mut dyn Rig) {
    let served = Served {
        content_type: Some(IMAGE.to_owned()),
        ..Served::new(small())
    };
    let content = served.content;
    let acts = vec![
        Act::HangUp(Place::Byte(CUT)),
        Act::Replace(page()),
        Act::Replace(served.clone()),
    ];
    let url = rig.serve(served, acts);
    let held = held_after(&cut(rig, &url, content));
    fetch(rig, &url, held.clone(), content).failed_before_the_head(AGAIN, WebErrorStatus::UNEXPECTED_CONTENT_TYPE);
    let witness = fetch(rig, &url, held, content).whole();
    assert_eq!(witness.head().start, Start::Continue { offset_bytes: CUT });
}
