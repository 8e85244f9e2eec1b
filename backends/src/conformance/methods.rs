//! Methods other than GET, and request bodies.

use std::io::{self, Read};
use std::sync::Arc;

use super::attempt::{AGAIN, CUT, LOST, attempt, held_after, request, small};
use super::{Act, Content, Place, Rig, Served};
use crate::{BodySource, FailureKind, Method, Request, Restart, Start, WebErrorStatus};

pub(super) fn a_request_body_is_sent_whole_in_every_attempt_and_nothing_held_is_continued(rig: &mut dyn Rig) {
    let content = small();
    let url = rig.serve(Served::new(content), vec![Act::HangUp(Place::Byte(CUT))]);
    let body = Content {
        seed: 9,
        total_bytes: 500_009,
    };
    let body = body.bytes(0..body.total_bytes);
    let post = |held| Request {
        method: Method::POST,
        body: Some(Arc::new(body.clone())),
        ..request(&url, held)
    };
    let first = attempt(rig, &post(None), content).failed_as(AGAIN, LOST);
    assert_eq!(first.next, CUT, "everything that came is kept");
    assert!(first.head().resumable == Some(false) && !first.head().provable);
    let second = attempt(rig, &post(held_after(&first)), content).whole();
    assert_eq!(second.head().start, Start::Restart(Restart::Method));
    let received = rig.received(&url);
    assert_eq!(received.len(), 2);
    let is_whole = |(method, got): &(Method, Vec<u8>)| *method == Method::POST && *got == body;
    assert!(received.iter().all(is_whole), "both attempts send all of it");
}

/// A body that announces one byte more than there is, or one less.
struct Lying(u64);

impl BodySource for Lying {
    fn len_bytes(&self) -> u64 {
        self.0
    }

    fn open(&self) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(io::repeat(b'x').take(100_000)))
    }
}

pub(super) fn a_request_body_that_is_not_as_long_as_announced_fails_for_good(rig: &mut dyn Rig) {
    for announced in [99_999, 100_001] {
        let url = rig.serve(Served::new(small()), Vec::new());
        let put = Request {
            method: Method::PUT,
            body: Some(Arc::new(Lying(announced))),
            ..request(&url, None)
        };
        attempt(rig, &put, small()).failed_before_the_head(FailureKind::Permanent, WebErrorStatus::FILE_ACCESS);
        assert!(rig.received(&url).is_empty(), "no server takes it for whole");
    }
}
