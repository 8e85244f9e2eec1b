//! Attempts that fail, and what may be done about it.

use super::attempt::{
    AGAIN, CUT, LOST, Moment, Witness, at_each_step, attempt, begin, contents, fetch, held_after, request, small,
};
use super::{Act, Astray, Content, Place, Rig, Served};
use crate::{Credential, FailureKind, Interrupt, Refused, Request, Start, WebErrorStatus};

pub(super) fn a_missing_resource_fails_for_good(rig: &mut dyn Rig) {
    let url = rig.missing();
    fetch(rig, &url, None, small()).failed_before_the_head(FailureKind::Permanent, WebErrorStatus::NOT_FOUND);
}

pub(super) fn the_right_credential_opens_and_any_other_fails_for_good(rig: &mut dyn Rig) {
    let credential = |user: &str, password: &str| Credential {
        user: user.to_owned(),
        password: password.to_owned(),
    };
    // Not all of it are letters, and some of it means something in URLs.
    let right = credential("an/a", "s%73 ecret:@\u{e9}");
    let content = small();
    let served = Served {
        credential: Some(right.clone()),
        ..Served::new(content)
    };
    let url = rig.serve(served, Vec::new());
    let wrong = credential("an/a", "secret");
    let unknown = credential("bob", &right.password);
    for shown in [None, Some(wrong), Some(unknown)] {
        let asked = Request {
            credential: shown,
            ..request(&url, None)
        };
        let outcome = attempt(rig, &asked, content);
        let failure = outcome.result.as_ref().expect_err("it is refused");
        assert!(!format!("{failure:?}").contains("ecret"), "a failure shows no secret");
        outcome.failed_before_the_head(FailureKind::Permanent, WebErrorStatus::UNAUTHORIZED);
    }
    let asked = Request {
        credential: Some(right.clone()),
        ..request(&url, None)
    };
    let witness = attempt(rig, &asked, content).whole();
    assert!(
        !format!("{:?}", witness.head()).contains("ecret"),
        "a head shows no secret"
    );
}

pub(super) fn a_refused_connection_may_be_tried_again(rig: &mut dyn Rig) {
    let url = rig.astray(Astray::Refused).expect("the rig reaches hosts");
    fetch(rig, &url, None, small()).failed_before_the_head(AGAIN, WebErrorStatus::CANNOT_CONNECT);
}

/// Where no name server is reached, which nobody can tell apart here, it is the network that is away.
pub(super) fn a_host_that_does_not_exist_may_be_tried_again(rig: &mut dyn Rig) {
    let url = rig.astray(Astray::UnknownHost).expect("the rig reaches hosts");
    let outcome = fetch(rig, &url, None, small());
    let kind = match &outcome.result {
        Err(failure) if failure.kind == FailureKind::Unreachable => FailureKind::Unreachable,
        _ => AGAIN,
    };
    outcome.failed_before_the_head(kind, WebErrorStatus::HOST_NAME_NOT_RESOLVED);
}

pub(super) fn a_hang_up_at_any_step_may_be_tried_again(rig: &mut dyn Rig) {
    at_each_step(rig, &Act::HangUp, |rig, url, held| {
        let outcome = fetch(rig, url, held.clone(), small());
        let witness = if outcome.result.is_ok() {
            // Some know that all came before the server has said so.
            outcome.whole()
        } else {
            // A connection beside the first may be what is lost.
            outcome.failed_as(AGAIN, &[LOST, &[WebErrorStatus::CANNOT_CONNECT]].concat())
        };
        fetch(rig, url, held_after(&witness).or(held), small()).whole();
    });
}

pub(super) fn a_hang_up_in_the_content_may_be_tried_again(rig: &mut dyn Rig) {
    for content in contents() {
        for offset in [0, 1, CUT, content.total_bytes - 1] {
            let act = Act::HangUp(Place::Byte(offset));
            let url = rig.serve(Served::new(content), vec![act]);
            let witness = fetch(rig, &url, None, content).failed_as(AGAIN, LOST);
            assert_eq!(witness.next, offset, "everything that came is kept");
            fetch(rig, &url, held_after(&witness), content).whole();
        }
    }
}

pub(super) fn a_hang_up_in_the_rest_may_be_tried_again(rig: &mut dyn Rig) {
    for content in contents() {
        let places = [CUT, CUT + 1, CUT + 70_001, content.total_bytes - 1];
        let acts = places.iter().map(|offset| Act::HangUp(Place::Byte(*offset))).collect();
        let url = rig.serve(Served::new(content), acts);
        let mut held = None;
        for offset in places {
            let witness = fetch(rig, &url, held, content).failed_as(AGAIN, LOST);
            assert_eq!(witness.next, offset, "everything that came is kept");
            held = held_after(&witness);
        }
        let witness = fetch(rig, &url, held, content).whole();
        let offset_bytes = content.total_bytes - 1;
        assert_eq!(witness.head().start, Start::Continue { offset_bytes });
    }
}

fn refused_at(rig: &dyn Rig, url: &str, content: Content, from_bytes: u64) -> Witness {
    let witness = Witness::hooked(content, move |moment| match moment {
        Moment::Bytes(came) if came < from_bytes => Ok(()),
        Moment::Head if from_bytes > 0 => Ok(()),
        _ => Err(Refused),
    });
    let outcome = begin(rig, &request(url, None), witness, &Interrupt::new()).end();
    outcome.failed(FailureKind::SinkRefused, WebErrorStatus::FILE_ACCESS)
}

pub(super) fn a_refusal_of_the_sink_ends_the_attempt(rig: &mut dyn Rig) {
    for content in contents() {
        let url = rig.serve(Served::new(content), Vec::new());
        assert_eq!(
            refused_at(rig, &url, content, 0).came,
            0,
            "nothing follows a refused head"
        );
        for from in [1, CUT, content.total_bytes] {
            let witness = refused_at(rig, &url, content, from);
            assert!(witness.came >= from);
        }
        fetch(rig, &url, None, content).whole();
    }
}
