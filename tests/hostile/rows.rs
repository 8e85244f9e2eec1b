//! One test for each row of what may come in answer to a request for the rest: what is published, and what it cost.

use backhaul::{OperationView, TransferStatus, WebErrorStatus};

use crate::answer::{Answer, Asked, End, Forged, Form, Framing, Marks, Part, Total};
use crate::lives::killer::{Kill, Moment};
use crate::lives::life::Task;
use crate::resource::Version;
use crate::server::{Scene, Server};

const SEED: u64 = 1;
const LENGTH: usize = 100_000;
/// Bytes of the first response that come before it is cut.
const HELD: usize = 40_000;
/// Bytes before the first missing one that are asked for once more.
const TAIL: usize = 4096;

/// What came of a script.
struct Outcome {
    view: OperationView,
    file: Option<Vec<u8>>,
    asked: Vec<Asked>,
    versions: Vec<Version>,
}

/// Two versions of one length, with a strong tag each.
fn two() -> Vec<Version> {
    vec![
        Version::new(SEED, 0, LENGTH).tagged("\"a\""),
        Version::new(SEED, 1, LENGTH).tagged("\"b\""),
    ]
}

fn server(versions: &[Version], script: &[Answer]) -> Server {
    Server::start(Scene {
        versions: versions.to_vec(),
        page: b"<html>Please accept our terms.</html>".to_vec(),
        script: script.to_vec(),
    })
}

fn play(versions: Vec<Version>, script: &[Answer], prepare: impl Fn(Task) -> Task) -> Outcome {
    let server = server(&versions, script);
    let home = tempfile::tempdir().unwrap();
    let task = prepare(Task::new(home.path(), server.url()));
    let view = task.live();
    let files = std::fs::read_dir(task.files()).unwrap().count();
    let file = std::fs::read(task.file()).ok();
    assert_eq!(files, usize::from(file.is_some()), "something else is left: {view:?}");
    Outcome {
        view,
        file,
        asked: server.record().asked,
        versions,
    }
}

/// Where the rest is asked from.
fn from(held: usize) -> usize {
    held.saturating_sub(TAIL)
}

/// The first response is cut after [`HELD`] bytes; then comes what is given, then what is right.
fn cut_then(versions: Vec<Version>, answers: &[Answer]) -> Outcome {
    let script: Vec<Answer> = [Answer::right().cut(HELD)].iter().chain(answers).cloned().collect();
    play(versions, &script, |task| task)
}

impl Outcome {
    fn offsets(&self) -> Vec<Option<usize>> {
        self.asked.iter().map(|asked| asked.offset).collect()
    }

    /// This version was published, after giving up so many bytes so many times.
    fn expect_version(&self, version: usize, restarts: u32, bytes_wasted: usize) {
        let view = &self.view;
        assert_eq!(view.status, TransferStatus::Completed, "{view:?}");
        let is_right = self.file.as_ref() == Some(&*self.versions[version].bytes);
        assert!(is_right, "the file is not version {version}: {view:?}");
        assert_eq!(
            (view.restarts, view.bytes_wasted),
            (restarts, bytes_wasted as u64),
            "{view:?}"
        );
    }

    fn expect_continued(&self) {
        self.expect_version(0, 0, 0);
        assert!(
            self.offsets()[1..].iter().all(|offset| *offset >= Some(from(HELD))),
            "{:?}",
            self.asked
        );
    }

    /// What was held was given up, and the whole was asked for at once.
    fn expect_begun_anew(&self, version: usize) {
        self.expect_version(version, 1, HELD);
        assert_eq!(self.offsets(), [None, Some(from(HELD)), None]);
    }

    fn expect_error(&self, status: WebErrorStatus) {
        let view = &self.view;
        assert_eq!(view.status, TransferStatus::Error, "{view:?}");
        assert_eq!(view.error.as_ref().map(|error| error.status), Some(status), "{view:?}");
        assert_eq!(self.file, None);
    }
}

// ---- 206 ----

#[test]
fn a_part_at_the_asked_offset_under_the_same_strong_tag_is_continued() {
    let outcome = cut_then(two(), &[]);
    outcome.expect_continued();
    assert_eq!(outcome.asked[1].if_range.as_deref(), Some("\"a\""));
}

#[test]
fn a_part_at_another_offset_is_never_written() {
    for shift in [-40_000, -16, -1, 1, 16, 59_999] {
        let part = Part {
            shift,
            ..Part::default()
        };
        cut_then(two(), &[Answer::part(part)]).expect_begun_anew(0);
    }
}

#[test]
fn a_part_of_another_version_is_never_written_whatever_it_says_of_itself() {
    for marks in [Marks::Right, Marks::NoTag, Marks::Neither, Marks::Weak, Marks::Fresh] {
        let answer = Answer::part(Part::default()).of(1).marked(marks);
        cut_then(two(), &[answer]).expect_begun_anew(1);
    }
}

#[test]
fn a_part_of_the_same_version_without_proof_is_not_written() {
    for marks in [Marks::NoTag, Marks::Neither, Marks::Weak, Marks::Fresh] {
        let answer = Answer::part(Part::default()).marked(marks);
        cut_then(two(), &[answer]).expect_begun_anew(0);
    }
}

#[test]
fn a_part_with_another_total_is_never_written() {
    for total in [Total::Off(1), Total::Off(-1), Total::Off(50_000), Total::Asked] {
        let part = Part {
            total,
            ..Part::default()
        };
        cut_then(two(), &[Answer::part(part)]).expect_begun_anew(0);
    }
}

#[test]
fn a_part_that_leaves_its_total_open_is_continued_where_the_total_is_known() {
    let total = Total::Unsaid;
    let part = Part {
        total,
        ..Part::default()
    };
    cut_then(two(), &[Answer::part(part)]).expect_continued();
}

#[test]
fn a_part_that_contradicts_its_length_is_never_published() {
    for off in [-1, 1, 1_000] {
        let answer = Answer::part(Part::default()).framed(Framing::LengthOff(off));
        cut_then(two(), &[answer]).expect_error(WebErrorStatus::LENGTH_MISMATCH);
    }
}

#[test]
fn a_part_shorter_than_asked_is_taken_and_the_rest_asked_for() {
    let bytes_max = Some(10_000);
    let part = Part {
        bytes_max,
        ..Part::default()
    };
    let outcome = cut_then(two(), &[Answer::part(part.clone()), Answer::part(part)]);
    outcome.expect_continued();
    // Each brings so much less than it has as is compared.
    let from = [40_000, 45_904, 51_808].map(|held| Some(held - TAIL));
    assert_eq!(outcome.offsets()[1..], from);
}

#[test]
fn a_part_longer_than_it_said_is_never_published() {
    let extra = Answer {
        end: End::Extra(1),
        framing: Framing::Chunked,
        ..Answer::part(Part::default())
    };
    cut_then(two(), &[extra]).expect_error(WebErrorStatus::LENGTH_MISMATCH);
}

#[test]
fn several_parts_are_never_written() {
    cut_then(two(), &[Answer::new(Form::Multipart)]).expect_begun_anew(0);
}

#[test]
fn a_part_that_nobody_asked_for_is_never_published() {
    let unasked = Answer {
        unasked: true,
        ..Answer::part(Part::default())
    };
    let outcome = play(two(), &[unasked], |task| task);
    outcome.expect_error(WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE);
}

// ---- 200 ----

#[test]
fn the_whole_in_answer_to_a_range_takes_the_place_of_what_is_held_unless_a_part_can_be_had_after_all() {
    let whole = Answer::new(Form::Whole(200));
    let changed = cut_then(two(), &[whole.clone().of(1)]);
    changed.expect_version(1, 1, HELD);
    assert_eq!(changed.offsets(), [None, Some(from(HELD))]);
    let stubborn = cut_then(two(), &[whole.clone(), whole.clone()]);
    stubborn.expect_version(0, 1, HELD);
    assert_eq!(stubborn.offsets(), [None, Some(from(HELD)), Some(from(HELD))]);
    let without_condition = cut_then(two(), &[whole]);
    without_condition.expect_continued();
    assert_eq!(without_condition.asked[2].if_range, None);
}

#[test]
fn tags_that_change_with_every_request_cost_nothing_where_the_time_is_strong() {
    let fresh = Answer::right().marked(Marks::Fresh);
    let versions = vec![Version::new(SEED, 0, LENGTH).tagged("\"a\"").made_at(60)];
    let script = [fresh.clone().cut(HELD), fresh.clone(), fresh];
    play(versions, &script, |task| task).expect_continued();
}

#[test]
fn a_response_of_any_size_that_is_cut_is_never_taken_for_whole() {
    // Large ones are read from the socket, small ones through the HTTP library.
    for length in [2, 50_000, 2 << 20] {
        for held in [1, length / 2, length - 1] {
            let version = Version::new(SEED, 0, length).tagged("\"a\"");
            let outcome = play(vec![version], &[Answer::right().cut(held)], |task| task);
            outcome.expect_version(0, 0, 0);
            assert_eq!(outcome.offsets(), [None, Some(from(held))], "of {length} bytes");
        }
    }
}

#[test]
fn tags_that_change_with_every_request_cost_a_restart_and_no_splice() {
    let fresh = Answer::right().marked(Marks::Fresh);
    let script = [fresh.clone().cut(HELD), fresh];
    play(two(), &script, |task| task).expect_version(0, 1, HELD);
}

#[test]
fn a_length_that_lies_long_costs_a_restart_and_no_truncation() {
    let answer = Answer::right().framed(Framing::LengthOff(5));
    play(two(), &[answer], |task| task).expect_version(0, 1, LENGTH);
}

#[test]
fn a_length_that_lies_short_is_found_where_a_length_is_expected() {
    let answer = Answer::right().framed(Framing::LengthOff(-5));
    let outcome = play(two(), &[answer], |task| task.expecting_length_of(&two()[0].bytes));
    outcome.expect_error(WebErrorStatus::LENGTH_MISMATCH);
}

#[test]
fn chunks_that_are_cut_are_continued_at_the_last_byte_and_broken_ones_near_it() {
    let chunked = |end| Answer {
        end,
        ..Answer::right().framed(Framing::Chunked)
    };
    play(two(), &[chunked(End::Cut(HELD))], |task| task).expect_continued();
    // What was read together with what is no chunk is not trusted.
    let broken = play(two(), &[chunked(End::BadChunk(HELD))], |task| task);
    broken.expect_version(0, 0, 0);
    assert!(broken.offsets()[1] > Some(0), "{:?}", broken.asked);
}

#[test]
fn a_coding_that_nobody_asked_for_is_never_published() {
    let outcome = cut_then(two(), &[Answer::new(Form::Coded)]);
    outcome.expect_error(WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE);
}

#[test]
fn what_stands_behind_a_response_is_never_taken_for_the_next() {
    for end in [End::Extra(10), End::Second] {
        for status in [416, 500, 503] {
            let overfull = Answer {
                end,
                ..Answer::status(status)
            };
            // A range that is refused without a reason is asked for as a whole, over the same connection if that may be.
            let (restarts, wasted) = if status == 416 { (1, HELD) } else { (0, 0) };
            cut_then(two(), &[overfull]).expect_version(0, restarts, wasted);
        }
    }
}

// ---- captive portals and other lies that an expectation finds ----

#[test]
fn the_page_of_a_captive_portal_is_waited_out_where_something_is_expected() {
    let script = [
        Answer::new(Form::Page),
        Answer::right().cut(HELD),
        Answer::new(Form::Page),
    ];
    let with_length = play(two(), &script, |task| task.expecting_length_of(&two()[0].bytes));
    // What is held stays, as the length alone tells the page apart.
    with_length.expect_version(0, 0, 0);
    assert_eq!(with_length.offsets(), [None, None, Some(from(HELD)), Some(from(HELD))]);
    let with_digest = play(two(), &script, |task| task.expecting_digest_of(&two()[0].bytes));
    assert_eq!(
        with_digest.view.status,
        TransferStatus::Completed,
        "{:?}",
        with_digest.view
    );
    assert_eq!(with_digest.file.as_ref(), Some(&*two()[0].bytes));
}

#[test]
fn bytes_that_are_not_what_their_head_says_are_found_by_the_digest() {
    let forged = |forged| {
        Answer::part(Part {
            forged: Some(forged),
            ..Part::default()
        })
    };
    let switched = Answer {
        end: End::Switch(20_000, 1),
        ..Answer::right()
    };
    let stolen = Answer::part(Part::default()).of(1).marked(Marks::Stolen(0));
    let play = |answer| {
        let script = [Answer::right().cut(HELD), answer];
        play(two(), &script, |task| task.expecting_digest_of(&two()[0].bytes))
    };
    // Already the end of what is held tells these.
    for answer in [forged(Forged::Version(1)), forged(Forged::Shift(16))] {
        play(answer).expect_begun_anew(0);
    }
    for answer in [switched, stolen] {
        play(answer).expect_error(WebErrorStatus::DIGEST_MISMATCH);
    }
}

// ---- 416, 412 ----

#[test]
fn a_range_that_is_refused_while_bytes_are_missing_is_never_taken_for_the_end() {
    for total in [Total::Right, Total::Asked, Total::Off(7), Total::Unsaid] {
        for version in [0, 1] {
            let answer = Answer::new(Form::Unsatisfied(total)).of(version);
            cut_then(two(), &[answer]).expect_begun_anew(version);
        }
    }
}

#[test]
fn what_is_held_whole_without_being_known_to_be_completes() {
    // The last chunk is missing, so the client cannot know that it has everything.
    let answer = Answer::right().framed(Framing::Chunked).cut(LENGTH);
    let outcome = play(two(), &[answer], |task| task);
    outcome.expect_version(0, 0, 0);
    assert_eq!(outcome.offsets(), [None, Some(from(LENGTH))]);
}

#[test]
fn a_failed_precondition_ends_with_its_name() {
    cut_then(two(), &[Answer::status(412)]).expect_error(WebErrorStatus::PRECONDITION_FAILED);
}

// ---- proof by time ----

#[test]
fn a_time_that_is_strong_proves_and_one_of_the_same_second_does_not() {
    let version = |number| Version::new(SEED, number, LENGTH);
    let outcome = cut_then(vec![version(0).made_at(60)], &[]);
    outcome.expect_continued();
    assert_eq!(
        outcome.asked[1].if_range.as_deref(),
        Some("Sun, 06 Nov 1994 08:01:00 GMT")
    );
    for first in [version(0).made_just_now(60), version(0).made_at_without_clock(60)] {
        let versions = vec![first, version(1).made_at(60)];
        let outcome = cut_then(versions, &[Answer::part(Part::default()).of(1)]);
        outcome.expect_version(1, 1, HELD);
        assert_eq!(outcome.offsets(), [None, None]);
    }
}

#[test]
fn versions_that_only_their_lengths_tell_apart_are_not_spliced() {
    let versions = vec![
        Version::new(SEED, 0, LENGTH).made_at(60),
        Version::new(SEED, 1, LENGTH + 1).made_at(60),
    ];
    cut_then(versions, &[Answer::part(Part::default()).of(1)]).expect_begun_anew(1);
}

// ---- what keeps the held bytes ----

#[test]
fn errors_that_pass_cost_none_of_the_held_bytes() {
    for code in [408, 425, 429, 500, 502, 503, 504] {
        for retry_after in [None, Some(0), Some(1)] {
            let outcome = cut_then(two(), &[Answer::new(Form::Status(code, retry_after))]);
            outcome.expect_continued();
        }
    }
}

#[test]
fn a_connection_that_ends_before_or_in_a_head_costs_none_of_the_held_bytes() {
    for bytes in [0, 1, 12, 40] {
        cut_then(two(), &[Answer::new(Form::Hangup(bytes))]).expect_continued();
    }
}

#[test]
fn a_redirect_to_another_origin_is_followed_and_continued_there() {
    for code in [301, 302, 303, 307, 308] {
        let place = "http://127.0.0.1:{port}/mirror".to_owned();
        let outcome = cut_then(two(), &[Answer::new(Form::Redirect(code, place))]);
        outcome.expect_continued();
        assert_eq!(outcome.asked[2].path, "/mirror");
    }
}

#[test]
fn a_time_that_another_server_tells_behind_a_redirect_proves_nothing() {
    let old = Version::new(SEED, 0, LENGTH).made_at(60);
    let mut bytes = Version::new(SEED, 1, LENGTH).bytes.to_vec();
    // The end of what is held does not tell them apart.
    bytes[from(HELD)..HELD].copy_from_slice(&old.bytes[from(HELD)..HELD]);
    let new = Version {
        bytes: bytes.into(),
        ..old.clone()
    };
    let place = "http://127.0.0.1:{port}/mirror".to_owned();
    let redirect = Answer::new(Form::Redirect(302, place)).of(1);
    let outcome = cut_then(vec![old, new], &[redirect]);
    outcome.expect_version(1, 1, HELD);
    let held = Some(from(HELD));
    assert_eq!(outcome.offsets(), [None, held, held, None]);
}

#[test]
fn redirects_in_a_circle_end_with_their_name() {
    for place in ["/file", "/loop"] {
        let outcome = cut_then(two(), &[Answer::new(Form::Redirect(302, place.to_owned()))]);
        outcome.expect_error(WebErrorStatus::REDIRECT_FAILED);
    }
}

#[test]
fn errors_that_stay_end_with_their_names_and_leave_nothing() {
    let rows = [
        (401, WebErrorStatus::UNAUTHORIZED),
        (403, WebErrorStatus::FORBIDDEN),
        (404, WebErrorStatus::NOT_FOUND),
        (407, WebErrorStatus::PROXY_AUTHENTICATION_REQUIRED),
        (410, WebErrorStatus::GONE),
        (204, WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE),
        (304, WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE),
    ];
    for (code, status) in rows {
        cut_then(two(), &[Answer::status(code)]).expect_error(status);
    }
}

// ---- kills ----

#[test]
fn a_killed_client_continues_the_version_it_holds_and_no_other() {
    for version in [0, 1] {
        let versions = two();
        let script = [Answer::right(), Answer::part(Part::default()).of(version)];
        let server = server(&versions, &script);
        let home = tempfile::tempdir().unwrap();
        let task = Task::new(home.path(), server.url());
        let kill = Kill {
            at: Moment::Byte(90_000),
            after_a_claim: true,
        };
        task.live_until_killed(server.killer(), kill);
        let view = task.live();
        assert_eq!(server.killer().kills(), 1);
        assert_eq!(view.status, TransferStatus::Completed, "{view:?}");
        assert_eq!(
            std::fs::read(task.file()).unwrap(),
            *versions[version].bytes,
            "{view:?}"
        );
        // Without a claim, nothing was held, and nothing was given up.
        let asked = server.record().asked;
        let was_held = asked[1].offset.is_some();
        assert_eq!(
            view.restarts,
            u32::from(version == 1 && was_held),
            "{view:?}, {asked:?}"
        );
    }
}

#[test]
fn pieces_without_proof_are_not_put_beside_those_of_another_version() {
    for marks in [Marks::Neither, Marks::NoTag, Marks::Weak, Marks::Right] {
        let versions: Vec<Version> = (0..2)
            .map(|number| Version::new(5, number, 300_000).tagged(&format!("\"{number}\"")))
            .collect();
        let pieces = std::iter::repeat_n(Answer::part(Part::default()).of(1).marked(marks), 100);
        let server = Server::start(Scene {
            versions: versions.clone(),
            page: Vec::new(),
            script: std::iter::once(Answer::right().of(0)).chain(pieces).collect(),
        });
        let home = tempfile::tempdir().unwrap();
        let task = Task::new(home.path(), server.url()).over(4);
        let view = task.live();
        assert_eq!(view.status, TransferStatus::Completed, "{marks:?}: {view:?}");
        let file = std::fs::read(task.file()).unwrap();
        assert!(versions.iter().any(|version| *version.bytes == file), "{marks:?}");
    }
}
