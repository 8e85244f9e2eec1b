//! What is held is continued, or given up, and never spliced.

use backhaul_backends::{Failure, FailureKind, Held, Request, Restart, Start, Validators, WebErrorStatus};

use crate::kit::{CUT, Kept, attempt, content, failure, fetch, is_transient, request, resume};
use crate::server::{Data, Fault, File, Script, Server};

/// What a first attempt leaves that is cut.
fn cut(server: &Server, url: &str) -> Kept {
    server.script(Script::data(Data::CutAt(CUT)));
    let (failure, kept) = failure(&request(url));
    assert!(is_transient(&failure), "{failure}");
    assert_eq!(failure.code, Some(426));
    assert!(kept.bytes == content()[..CUT], "what came before the cut is kept");
    kept
}

fn restarted(kept: &Kept, reason: Restart) {
    assert_eq!(kept.head().start, Start::Restart(reason));
}

#[test]
fn held_bytes_are_continued_with_a_look_at_the_last_of_them() {
    for tail in [0, 1, 4096] {
        let server = Server::start();
        let url = server.put("/file", File::new(content()));
        let first = cut(&server, &url);
        let second = fetch(&resume(&url, first.held(tail)));
        assert_eq!(
            second.head().start,
            Start::Continue {
                offset_bytes: CUT as u64
            }
        );
        assert!([first.bytes, second.bytes].concat() == content());
        let rest = format!("2 REST {}", CUT - tail);
        assert!(server.commands().contains(&rest), "{rest}");
        assert_eq!(server.connections(), 2, "one connection for each attempt");
    }
}

#[test]
fn all_that_is_held_needs_nothing_more() {
    let server = Server::start();
    let url = server.put("/file", File::new(content()));
    let first = fetch(&request(&url));
    let second = fetch(&resume(&url, first.held(4096)));
    assert_eq!(
        second.head().start,
        Start::Continue {
            offset_bytes: content().len() as u64
        }
    );
    assert!(second.bytes.is_empty());
    // A length that is told too small would make anything complete, so that the end itself is compared.
    let end = format!("2 REST {}", content().len() - 4096);
    assert!(server.commands().contains(&end), "{end}");
}

#[test]
fn a_server_that_leaves_right_after_each_transfer_is_believed_when_it_says_the_same_on_the_next_visit() {
    for leaving in [Fault::Close, Fault::SayAndClose("421 enough\r\n".to_owned())] {
        let leaves = Script::later_fault("MDTM", 2, leaving);
        let server = Server::start();
        let url = server.put("/file", File::new(content()));
        server.script(leaves.clone());
        let (first_failure, first) = failure(&request(&url));
        assert!(is_transient(&first_failure), "{first_failure}");
        assert!(first.bytes == content());
        server.script(leaves.clone());
        assert!(fetch(&resume(&url, first.held(4096))).bytes.is_empty());
        // What came in this very visit is confirmed by nothing but an answer after it.
        server.script(leaves.clone());
        let most = Kept {
            bytes: first.bytes[..CUT].to_vec(),
            heads: first.heads.clone(),
            ..Kept::default()
        };
        let (second_failure, _) = failure(&resume(&url, most.held(4096)));
        assert!(is_transient(&second_failure), "{second_failure}");
        // And what is another file by then is fetched.
        server.put("/file", File::new("other"));
        let other = fetch(&resume(&url, first.held(4096)));
        restarted(&other, Restart::BeyondEnd);
    }
}

#[test]
fn a_changed_file_comes_whole() {
    let rows = [
        (File::new(content()).modified("20250101000000"), Restart::Changed),
        (File::new([content(), b"more".to_vec()].concat()), Restart::Changed),
        (File::new(&content()[..=CUT]), Restart::Changed),
        (File::new("less"), Restart::BeyondEnd),
    ];
    for (file, reason) in rows {
        let server = Server::start();
        let url = server.put("/file", File::new(content()));
        let first = cut(&server, &url);
        server.put("/file", file.clone());
        let second = fetch(&resume(&url, first.held(4096)));
        restarted(&second, reason);
        assert!(second.bytes == file.content);
    }
}

#[test]
fn a_changed_file_of_the_same_time_and_length_shows_where_its_tail_differs() {
    let server = Server::start();
    let url = server.put("/file", File::new(content()));
    let first = cut(&server, &url);
    let other: Vec<u8> = content().iter().map(|byte| !byte).collect();
    server.put("/file", File::new(other.clone()));
    let second = fetch(&resume(&url, first.held(1)));
    restarted(&second, Restart::Changed);
    assert!(second.bytes == other);
    assert_eq!(second.heads.len(), 1);
}

#[test]
fn without_proof_the_file_comes_whole() {
    let future = File::new(content()).modified("99991231235959");
    let year_2000 = File::new(content()).modified("19100010203040506");
    // Where a command is lacking, MLST is asked for on another connection.
    for (file, script, connections) in [
        (future, Script::default(), 1),
        (year_2000, Script::default(), 1),
        (File::new(content()), Script::without(&["MDTM", "MLST"]), 2),
        (File::new(content()), Script::without(&["SIZE", "MLST"]), 2),
    ] {
        let server = Server::start();
        let url = server.put("/file", file);
        for _ in 0..connections {
            server.script(Script {
                data: Data::CutAt(CUT),
                ..script.clone()
            });
        }
        let (_, first) = failure(&request(&url));
        assert!(!first.head().provable);
        for _ in 0..connections {
            server.script(script.clone());
        }
        let second = fetch(&resume(&url, first.held(4096)));
        restarted(&second, Restart::NoProof);
        assert!(second.bytes == content());
    }
}

#[test]
fn a_server_that_cannot_go_on_sends_the_whole() {
    for refusal in ["500 what?\r\n", "554 no\r\n", "200 fine\r\n", "501 not in ASCII\r\n"] {
        let server = Server::start();
        let url = server.put("/file", File::new(content()));
        let first = cut(&server, &url);
        server.script(Script::fault("REST", Fault::Say(refusal.to_owned())));
        let second = fetch(&resume(&url, first.held(4096)));
        restarted(&second, Restart::RangeIgnored);
        assert!(second.bytes == content(), "{refusal}");
    }
}

#[test]
fn a_rest_that_may_work_later_gives_up_nothing() {
    let server = Server::start();
    let url = server.put("/file", File::new(content()));
    let first = cut(&server, &url);
    server.script(Script::fault("REST", Fault::Say("450 busy\r\n".to_owned())));
    let (failure, kept) = failure(&resume(&url, first.held(4096)));
    assert!(is_transient(&failure), "{failure}");
    assert_eq!(failure.code, Some(450));
    assert!(kept.heads.is_empty(), "nothing was begun, so what is held stays");
}

#[test]
fn the_rest_is_cut_and_continued_as_often_as_need_be() {
    let server = Server::start();
    let url = server.put("/file", File::new(content()));
    let mut all = cut(&server, &url);
    for place in [CUT + 1, CUT + 5000, content().len() - 1] {
        server.script(Script::data(Data::CutAt(place)));
        let (failure, kept) = failure(&resume(&url, all.held(4096)));
        assert!(is_transient(&failure), "{failure}");
        all.bytes.extend(kept.bytes);
        assert!(all.bytes == content()[..place]);
    }
    all.bytes.extend(fetch(&resume(&url, all.held(4096))).bytes);
    assert!(all.bytes == content());
}

#[test]
fn a_rest_that_changes_while_it_is_fetched_never_ends_well() {
    let server = Server::start();
    let url = server.put("/file", File::new(content()));
    let first = cut(&server, &url);
    server.script(Script {
        then: Some(File::new(content()).modified("20250101000000")),
        ..Script::default()
    });
    let (failure, _) = failure(&resume(&url, first.held(4096)));
    assert!(is_transient(&failure), "{failure}");
}

fn foreign(held: Held, digest_expected: bool) -> Held {
    Held {
        foreign: true,
        digest_expected,
        ..held
    }
}

#[test]
fn bytes_of_another_server_are_continued_only_under_a_digest() {
    let server = Server::start();
    let url = server.put("/file", File::new(content()));
    let first = cut(&server, &url);
    let second = fetch(&resume(&url, foreign(first.held(4096), false)));
    restarted(&second, Restart::NoProof);
    let mirror = Server::start();
    let url = mirror.put("/other", File::new(content()).modified("20250101000000"));
    let second = fetch(&resume(&url, foreign(first.held(4096), true)));
    assert!([&first.bytes[..], &second.bytes].concat() == content());
    let longer = [content(), b"more".to_vec()].concat();
    let url = mirror.put("/longer", File::new(longer.clone()));
    let second = fetch(&resume(&url, foreign(first.held(4096), true)));
    restarted(&second, Restart::Changed);
    assert!(second.bytes == longer);
}

#[test]
fn without_proof_but_under_a_digest_the_rest_comes_on_trust() {
    let server = Server::start();
    let url = server.put("/file", File::new(content()).modified("no time"));
    let first = cut(&server, &url);
    let held = Held {
        digest_expected: true,
        ..first.held(4096)
    };
    let second = fetch(&resume(&url, held));
    assert!(second.head().on_trust);
    assert!([first.bytes, second.bytes].concat() == content());
}

#[test]
fn what_is_held_of_something_unheard_of_is_given_up() {
    let server = Server::start();
    let url = server.put("/file", File::new("abc"));
    let held = Held {
        offset_bytes: 2,
        validators: Validators {
            etag: Some("\"of another protocol\"".to_owned()),
            total_bytes: Some(3),
            ..Validators::default()
        },
        ..Held::default()
    };
    let second = fetch(&resume(&url, held));
    restarted(&second, Restart::NoProof);
    assert_eq!(second.bytes, b"abc");
}

#[test]
fn another_length_than_expected_keeps_what_is_held() {
    let server = Server::start();
    let url = server.put("/file", File::new(content()));
    let first = cut(&server, &url);
    let (result, kept): (Result<(), Failure>, Kept) = attempt(&Request {
        expected_bytes: Some(1),
        ..resume(&url, first.held(4096))
    });
    let failure = result.expect_err("it is not what is expected");
    assert_eq!(
        (failure.kind, failure.status),
        (FailureKind::Permanent, WebErrorStatus::LENGTH_MISMATCH)
    );
    assert!(kept.heads.is_empty());
}
