//! Bytes of one source, continued by another.

use super::super::Decision::Accept;
use super::super::*;
use super::rows::{OLD, answer, held, part, word};
use crate::Digest;

fn digest(byte: u8) -> Vec<Digest> {
    Digest::new(crate::DigestAlgorithm::Sha256, [byte; 32])
        .into_iter()
        .collect()
}

fn foreign(etag: &str, modified: &str, told: Vec<Digest>, digest_expected: bool) -> Held {
    let held = held(etag, modified, Some(10));
    Held {
        validators: Validators {
            digests: told,
            ..held.validators
        },
        foreign: true,
        digest_expected,
        ..held
    }
}

fn asked(held: &Held) -> Ask {
    ask(Terms {
        held: Some(held),
        ..Terms::default()
    })
}

#[test]
fn bytes_of_another_source_are_continued_under_a_digest_or_a_tag_with_its_length_and_never_under_a_time() {
    let told = |range: &str, etag: &str, digests| Reply {
        digests,
        ..part(range, etag)
    };
    let expected = foreign("\"a\"", OLD, Vec::new(), true);
    let hello = foreign("\"a\"", "", digest(1), false);
    // Each row: what is held, what came, whether a condition is sent, and the decision.
    #[rustfmt::skip]
    let rows = [
        (&expected, told("bytes 4-9/10", "\"b\"", Vec::new()), false, "continue"),
        (&expected, told("bytes 4-8/9", "\"a\"", Vec::new()), false, "ask whole, changed"),
        (&expected, told("bytes 4-9/*", "\"b\"", Vec::new()), false, "continue"),
        (&hello, told("bytes 4-9/10", "\"b\"", digest(1)), false, "continue"),
        (&hello, told("bytes 4-9/10", "\"a\"", digest(2)), false, "ask whole, changed"),
        (&hello, told("bytes 4-9/10", "\"b\"", Vec::new()), false, "ask whole, no proof"),
        (&foreign("\"a\"", "", Vec::new(), false), told("bytes 4-9/10", "\"a\"", Vec::new()), true, "continue"),
        (&foreign("\"a\"", "", Vec::new(), false), told("bytes 4-9/10", "\"b\"", Vec::new()), true, "ask whole, no proof"),
    ];
    for (held, reply, is_conditional, decision) in rows {
        let has_condition = matches!(asked(held), Ask::Rest(Rest { if_range: Some(_), .. }));
        assert_eq!(has_condition, is_conditional, "{held:?}");
        assert_eq!(word(&answer(Some(held), None, &reply)), decision, "{held:?} {reply:?}");
    }
}

#[test]
fn a_time_of_another_source_proves_nothing_and_its_word_is_not_taken_over() {
    let timed = foreign("", OLD, Vec::new(), false);
    assert!(matches!(
        asked(&timed),
        Ask::Whole {
            given_up: Some(Restart::NoProof)
        }
    ));
    let expected = foreign("\"a\"", OLD, Vec::new(), true);
    // What the other server said on its own account does not become a word of this one.
    let Accept(accepted) = answer(Some(&expected), None, &part("bytes 4-9/10", "")) else {
        panic!("it is continued")
    };
    assert_eq!(
        (accepted.validators.last_modified, accepted.validators.total_bytes),
        (None, Some(10))
    );
}
