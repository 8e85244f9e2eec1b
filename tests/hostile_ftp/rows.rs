//! One test for each kind of lie: what is published, and what it cost.

use backhaul::{OperationView, TransferStatus, WebErrorStatus};

use crate::lives::life::Task;
use crate::resource::{Times, Version};
use crate::script::{At, Body, Breach, ChannelLie, End, Hit, Preliminary, RestLie, Session, SizeLie, TimeLie};
use crate::server::{Record, Scene, Server};

const SEED: u64 = 1;
const LENGTH: usize = 100_000;
/// Thousandths of the file that come before the first transfer is cut.
const SHARE: usize = 400;
/// Answers without end are given up before so many bytes of them are taken; most of it lies in the buffers of sockets.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// What came of a script.
struct Outcome {
    view: OperationView,
    file: Option<Vec<u8>>,
    record: Record,
    versions: Vec<Version>,
}

/// Two versions of one length that have the end in common.
fn two() -> Vec<Version> {
    let first = Version::new(SEED, 0, LENGTH);
    let second = first.edited(SEED, 1, 16..10_000);
    vec![first, second]
}

fn play_at(times: Times, versions: Vec<Version>, script: &[Session]) -> Outcome {
    let server = Server::start(Scene {
        versions: versions.clone(),
        times,
        script: script.to_vec(),
        is_free: false,
    });
    let home = tempfile::tempdir().unwrap();
    let task = Task::new(home.path(), server.url());
    let view = task.live();
    let files = std::fs::read_dir(task.files()).unwrap().count();
    let file = std::fs::read(task.file()).ok();
    assert_eq!(files, usize::from(file.is_some()), "something else is left: {view:?}");
    Outcome {
        view,
        file,
        record: server.record(),
        versions,
    }
}

fn play(script: &[Session]) -> Outcome {
    play_at(Times::Distinct, two(), script)
}

/// A transfer that is cut, and what comes then.
fn cut_then(second: Session) -> Outcome {
    play(&[cut(), second])
}

fn cut() -> Session {
    Session {
        body: Body::Cut(SHARE, Breach::Close),
        end: End::Code(426),
        ..Session::default()
    }
}

impl Outcome {
    fn expect_version(&self, version: usize, restarts: u32) {
        let (view, said) = (&self.view, &self.record.talk);
        assert_eq!(view.status, TransferStatus::Completed, "{view:?}, {said:#?}");
        let file = self.file.as_ref();
        assert!(
            file.is_some_and(|file| *file == *self.versions[version].bytes),
            "another version was published: {said:#?}"
        );
        assert_eq!(view.restarts, restarts, "{view:?}, {said:#?}");
    }

    /// What was held was kept.
    fn expect_continued(&self) {
        self.expect_version(0, 0);
        assert!(self.record.rests > 0, "{:#?}", self.record.talk);
    }

    fn expect_error(&self, status: WebErrorStatus) {
        let (view, said) = (&self.view, &self.record.talk);
        assert_eq!(view.status, TransferStatus::Error, "{view:?}, {said:#?}");
        assert_eq!(
            view.error.as_ref().map(|error| error.status),
            Some(status),
            "{view:?}, {said:#?}"
        );
        assert_eq!(self.file, None);
    }
}

// ---- what continues held bytes ----

#[test]
fn a_file_with_the_same_length_and_an_old_time_is_continued() {
    cut_then(Session::default()).expect_continued();
}

#[test]
fn without_a_time_or_with_one_of_this_moment_nothing_is_continued() {
    for times in [Times::None, Times::Now] {
        // Where MDTM is unknown, the first connection asks in vain.
        let script = if times == Times::None {
            vec![Session::default(), cut()]
        } else {
            vec![cut()]
        };
        let outcome = play_at(times, two(), &script);
        outcome.expect_version(0, 1);
        assert_eq!(outcome.record.rests, 0, "{times:?}");
    }
    for time in [
        TimeLie::Refused(550),
        TimeLie::Garbage("yesterday"),
        TimeLie::Changing,
        TimeLie::Future,
    ] {
        let lying = Session { time, ..cut() };
        play(std::slice::from_ref(&lying)).expect_version(0, 1);
        cut_then(lying).expect_version(0, 1);
    }
}

#[test]
fn a_file_that_changed_before_any_command_is_fetched_whole_although_its_end_is_the_same() {
    for name in ["greeting", "USER", "TYPE", "EPSV", "MDTM"] {
        let turns = vec![At::Named(name, 1)];
        cut_then(Session {
            turns,
            ..Session::default()
        })
        .expect_version(1, 1);
    }
}

#[test]
fn a_file_that_changes_between_its_facts_and_its_bytes_is_fetched_again() {
    for name in ["SIZE", "REST", "RETR", "end of RETR"] {
        let turns = vec![At::Named(name, 1)];
        let session = Session {
            turns,
            ..Session::default()
        };
        play(std::slice::from_ref(&session)).expect_version(1, 1);
        cut_then(session).expect_version(1, 1);
    }
}

#[test]
fn a_file_that_changes_while_it_is_sent_is_fetched_again_in_whatever_way_the_change_is_told() {
    let place = |name| At::Named(name, 2);
    let changes = [
        Session::default(),
        Session {
            time: TimeLie::Once,
            ..Session::default()
        },
        Session {
            hits: vec![(place("MDTM"), Hit::Instead(b"502 no\r\n".to_vec()))],
            ..Session::default()
        },
        Session {
            hits: vec![(place("MDTM"), Hit::Instead(b"120 later\r\n".to_vec()))],
            ..Session::default()
        },
        Session {
            hits: vec![(place("MDTM"), Hit::DropBefore)],
            ..Session::default()
        },
        Session {
            hits: vec![(At::Named("end of RETR", 1), Hit::DropAfter)],
            ..Session::default()
        },
    ];
    for change in changes {
        let change = Session {
            body: Body::Replaced(50, true),
            ..change
        };
        play(std::slice::from_ref(&change)).expect_version(1, 1);
        play(&[change.clone(), change]).expect_version(1, 1);
    }
}

#[test]
fn what_comes_from_another_place_than_asked_for_is_never_written() {
    let lies = [
        RestLie::FromZero,
        RestLie::FromZeroExactly,
        RestLie::Shifted(-16),
        RestLie::Shifted(16),
        RestLie::ShiftedExactly(16),
        RestLie::ShiftedExactly(-1),
        RestLie::Refused(502),
        RestLie::RefusedAndDone(502),
    ];
    for rest in lies {
        cut_then(Session {
            rest,
            ..Session::default()
        })
        .expect_version(0, 1);
    }
}

#[test]
fn a_whole_in_place_of_the_rest_is_given_up_although_its_beginning_and_its_end_look_right() {
    let mut bytes = vec![0; 3 * LENGTH];
    bytes[LENGTH * 3 / 2..LENGTH * 8 / 5].copy_from_slice(&Version::new(SEED, 0, LENGTH / 10).bytes);
    let version = Version { bytes: bytes.into() };
    let lying = Session {
        rest: RestLie::FromZero,
        ..Session::default()
    };
    play_at(Times::Distinct, vec![version], &[cut(), lying]).expect_version(0, 1);
}

// ---- lengths ----

#[test]
fn too_few_or_too_many_bytes_under_a_good_end_are_never_taken_for_the_file() {
    // A rest that is too long is of no known place.
    for (body, restarts) in [
        (Body::Less(1), 0),
        (Body::Cut(SHARE, Breach::Close), 0),
        (Body::Extra(1), 1),
    ] {
        let session = Session {
            body,
            ..Session::default()
        };
        let outcome = play(&[session.clone(), session]);
        outcome.expect_version(0, restarts);
    }
}

#[test]
fn a_length_that_is_too_small_is_never_taken_for_the_end_however_often_it_is_told() {
    let lying = |body, end| Session {
        size: SizeLie::Smaller(5),
        body,
        end,
        ..Session::default()
    };
    let whole = lying(Body::Whole, End::Done);
    let scripts = [
        vec![whole.clone(); 40],
        [vec![lying(Body::Less(5), End::Drop)], vec![whole.clone(); 40]].concat(),
        [vec![lying(Body::Less(5), End::Code(426))], vec![whole; 40]].concat(),
    ];
    for script in scripts {
        play(&script).expect_error(WebErrorStatus::LENGTH_MISMATCH);
    }
}

#[test]
fn lengths_that_are_none_are_done_without() {
    for size in [
        SizeLie::Negative,
        SizeLie::Wrapped,
        SizeLie::Huge(true),
        SizeLie::Text,
        SizeLie::Empty,
        SizeLie::Refused(502),
    ] {
        let lying = Session {
            size,
            ..Session::default()
        };
        play(std::slice::from_ref(&lying)).expect_version(0, 0);
    }
}

#[test]
fn a_length_in_the_words_of_an_answer_counts_for_nothing() {
    for off in [-40_000, -1, 0, 1, 1_000] {
        for size in [SizeLie::True, SizeLie::Refused(502)] {
            let preliminary = Preliminary::WithLength(off);
            let session = Session {
                size,
                preliminary,
                ..Session::default()
            };
            play(&[session]).expect_version(0, 0);
        }
    }
}

// ---- the data connection ----

#[test]
fn no_answer_leads_to_another_host() {
    for channel in [ChannelLie::Foreign, ChannelLie::ForeignEpsv] {
        let lying = Session {
            channel,
            ..Session::default()
        };
        let outcome = play(&[lying]);
        assert!(!outcome.record.went_elsewhere, "{:#?}", outcome.record.talk);
        if outcome.view.status == TransferStatus::Completed {
            outcome.expect_version(0, 0);
        }
    }
}

#[test]
fn a_data_connection_that_cannot_be_had_costs_none_of_the_held_bytes() {
    for channel in [ChannelLie::Closed, ChannelLie::Port(1), ChannelLie::Refused(425)] {
        cut_then(Session {
            channel,
            ..Session::default()
        })
        .expect_continued();
    }
    for breach in [Breach::Close, Breach::Reset, Breach::Stall] {
        cut_then(Session {
            body: Body::NotAccepted(breach),
            end: End::Code(425),
            ..Session::default()
        })
        .expect_continued();
    }
}

// ---- answers ----

#[test]
fn answers_that_pass_and_connections_that_end_cost_none_of_the_held_bytes() {
    for name in [
        "greeting", "USER", "PASS", "TYPE", "EPSV", "MDTM", "SIZE", "REST", "RETR",
    ] {
        let hits = [
            Hit::DropBefore,
            Hit::DropAfter,
            Hit::DropWithin,
            Hit::Instead(b"421 going down\r\n".to_vec()),
        ];
        for hit in hits {
            let session = Session {
                hits: vec![(At::Named(name, 1), hit.clone())],
                ..Session::default()
            };
            let outcome = cut_then(session);
            assert_eq!(outcome.view.restarts, 0, "{name}, {hit:?}: {:#?}", outcome.record.talk);
            outcome.expect_continued();
        }
    }
}

#[test]
fn answers_that_stay_end_with_their_names_and_leave_nothing() {
    let rows = [
        ("PASS", "530 no", WebErrorStatus::UNAUTHORIZED),
        ("RETR", "550 no", WebErrorStatus::NOT_FOUND),
        ("RETR", "530 no", WebErrorStatus::UNAUTHORIZED),
    ];
    for (name, text, status) in rows {
        let hit = Hit::Instead(format!("{text}\r\n").into_bytes());
        cut_then(Session {
            hits: vec![(At::Named(name, 1), hit)],
            ..Session::default()
        })
        .expect_error(status);
    }
}

#[test]
fn a_server_that_is_silent_at_any_point_is_given_up_and_asked_again() {
    for name in ["greeting", "USER", "PASS", "EPSV", "SIZE", "RETR", "end of RETR"] {
        for hit in [Hit::StallBefore, Hit::StallWithin] {
            let session = Session {
                hits: vec![(At::Named(name, 1), hit)],
                ..Session::default()
            };
            cut_then(session).expect_continued();
        }
    }
}

#[test]
fn answers_without_end_are_given_up_before_they_take_much() {
    for name in ["greeting", "PASS", "SIZE", "RETR", "end of RETR"] {
        for hit in [Hit::EndlessLine, Hit::EndlessLines] {
            let session = Session {
                hits: vec![(At::Named(name, 1), hit)],
                ..Session::default()
            };
            let outcome = play(&[session]);
            let longest = outcome.record.longest_answer;
            assert!(longest < ANSWER_BYTES_MAX, "{longest} bytes of one answer were taken");
            if outcome.view.status == TransferStatus::Completed {
                outcome.expect_version(0, 0);
            }
        }
    }
}
