//! What is promised of every server, whatever it is. Each server's module says how it is started and has all of these
//! tests by the macro at the end.
//!
//! Every server sends files with all validators it has, but those in `tagless/` without entity tags, those in `proofless/`,
//! which are called `.raw`, without any validator, and those in `coded/` with gzip to whoever asks for it.

use std::fs::File;
use std::time::{Duration, SystemTime};

use crate::server::Server;
use crate::support::{Seeded, figure};
use crate::visit::{Stop, Visit, WINDOW_BYTES, Way, assert_continued, assert_restarted};

/// Long enough that a kill may cost a whole window and still leave something to continue.
const LONG_BYTES: usize = 24 << 20;
const LONG_STOP_BYTES: u64 = 20 << 20;

/// Long enough to be claimed in parts.
pub(crate) const SHORT_BYTES: usize = 3 << 20;
pub(crate) const SHORT_STOP_BYTES: u64 = 2 << 20;

/// New lengths of a resource that changes, in bytes: the same one; less than what is held; less, and more than what is
/// held; more.
const CHANGES: [usize; 4] = [SHORT_BYTES, 1 << 20, (5 << 20) / 2, 4 << 20];

pub(crate) fn whole_files_come_as_they_are(server: &Server, way: Way) {
    for length in [0, 1, 70_000, SHORT_BYTES] {
        let name = format!("whole-{length}.bin");
        let bytes = server.put_seeded(&name, length);
        let visit = Visit::new(server, way, &name);
        let shown = visit.complete(&bytes);
        assert_continued(&visit, &shown, &bytes, 0);
        assert_eq!(shown["attempts"], 1, "{shown}");
    }
}

pub(crate) fn a_kill_costs_a_window_at_most(server: &Server, way: Way) {
    let bytes = server.put_seeded("long.bin", LONG_BYTES);
    let visit = Visit::new(server, way, "long.bin");
    visit.stop_after(LONG_STOP_BYTES, Stop::Kill);
    let shown = visit.complete(&bytes);
    assert_continued(&visit, &shown, &bytes, WINDOW_BYTES);
    figure(&format!(
        "{}{}, killed at 20 of 24 MiB: {} KiB fetched again, at most 16384",
        server.name(),
        if way == Way::Tls { " over TLS" } else { "" },
        visit.fetched_again(&bytes) >> 10,
    ));
}

pub(crate) fn an_orderly_stop_costs_nothing(server: &Server, way: Way, name: &str) {
    let bytes = server.put_seeded(name, SHORT_BYTES);
    let visit = Visit::new(server, way, name);
    let claimed = visit.stop_after(SHORT_STOP_BYTES, Stop::Terminate);
    assert!(claimed > SHORT_STOP_BYTES / 2, "only {claimed} bytes are claimed");
    let shown = visit.complete(&bytes);
    assert_continued(&visit, &shown, &bytes, 0);
}

pub(crate) fn a_time_alone_is_proof(server: &Server, way: Way, name: &str) {
    an_orderly_stop_costs_nothing(server, way, name);
    let head = server.ask_head(&format!("/{name}"), "");
    assert!(!head.contains("\netag:") && head.contains("\nlast-modified:"), "{head}");
}

pub(crate) fn a_cut_connection_costs_nothing(server: &Server, way: Way) {
    let bytes = server.put_seeded("cut.bin", SHORT_BYTES);
    let visit = Visit::new(server, way, "cut.bin");
    let running = visit.hold_after(SHORT_STOP_BYTES);
    visit.relay.cut();
    visit.relay.release();
    running.finish().expect_code(0);
    let shown = visit.check(&bytes);
    assert_eq!(shown["attempts"], 2, "{shown}");
    assert_continued(&visit, &shown, &bytes, 0);
}

pub(crate) fn without_proof_it_starts_again_and_says_so(server: &Server, way: Way, name: &str) {
    let bytes = server.put_seeded(name, SHORT_BYTES);
    let visit = Visit::new(server, way, name);
    let claimed = visit.stop_after(SHORT_STOP_BYTES, Stop::Terminate);
    let shown = visit.complete(&bytes);
    assert_restarted(&shown, claimed);
    assert!(visit.fetched_again(&bytes) >= claimed, "less came than the whole again");
}

/// `folder` is empty or ends with a slash; `extension` belongs to it.
pub(crate) fn a_changed_resource_is_never_mixed(server: &Server, way: Way, folder: &str, extension: &str) {
    for length in CHANGES {
        let name = format!("{folder}changed-{length}.{extension}");
        let old = server.put_seeded(&name, SHORT_BYTES);
        let visit = Visit::new(server, way, &name);
        let claimed = visit.stop_after(SHORT_STOP_BYTES, Stop::Terminate);
        let new = Seeded::new(99).bytes(length);
        assert_ne!(old[..1000], new[..1000]);
        server.put(&name, &new, Duration::from_secs(1800));
        let shown = visit.complete(&new);
        assert_restarted(&shown, claimed);
    }
}

/// The tags of nginx and caddy hold the length and the time in whole seconds, and look strong.
pub(crate) fn a_second_change_within_a_second_is_never_mixed(server: &Server, way: Way) {
    let [first, second] = [1, 2].map(|seed| Seeded::new(seed).bytes(SHORT_BYTES));
    for attempt in 0..10 {
        let name = format!("fresh-{attempt}.bin");
        // As by the clock of a file server that is a second ahead, which leaves the test more time.
        let changed = SystemTime::now() + Duration::from_secs(1);
        server.put_changed_at(&name, &first, changed);
        let visit = Visit::new(server, way, &name);
        let claimed = visit.stop_after(SHORT_STOP_BYTES, Stop::Terminate);
        if SystemTime::now() > changed {
            // Too slow: the answer may have been made when the second was over.
            continue;
        }
        server.put_changed_at(&name, &second, changed);
        let shown = visit.complete(&second);
        return assert_restarted(&shown, claimed);
    }
    panic!("no download begins within a second");
}

/// A server whose file becomes shorter under its hands cannot send what it announced.
pub(crate) fn a_file_cut_short_while_it_is_sent_is_fetched_anew(server: &Server, way: Way) {
    let old = server.put_seeded("cut-short.bin", LONG_BYTES);
    let visit = Visit::new(server, way, "cut-short.bin");
    let running = visit.hold_after(SHORT_STOP_BYTES);
    // What the server has read ahead is much less than the rest.
    let file = File::options().write(true).open(server.file("cut-short.bin")).unwrap();
    file.set_len(SHORT_BYTES as u64).unwrap();
    visit.relay.release();
    running.finish().expect_code(0);
    let shown = visit.check(&old[..SHORT_BYTES]);
    assert_eq!(shown["restarts"], 1, "{shown}");
}

pub(crate) fn where_the_server_compresses_the_plain_content_is_stored(server: &Server, way: Way) {
    let name = "coded/text.txt";
    let text = "A line that compresses well, and then the same again.\n".repeat(SHORT_BYTES / 54 + 1);
    server.put(name, text.as_bytes(), Duration::from_secs(3600));
    let head = server.ask_head(&format!("/{name}"), "Accept-Encoding: gzip\r\n");
    assert!(
        head.contains("content-encoding: gzip"),
        "the server does not compress: {head}"
    );
    let visit = Visit::new(server, way, name);
    visit.stop_after(SHORT_STOP_BYTES, Stop::Terminate);
    let shown = visit.complete(text.as_bytes());
    assert_continued(&visit, &shown, text.as_bytes(), 0);
    a_changed_resource_is_never_mixed(server, way, "coded/", "txt");
}

/// The tests of one server; `$start` starts it.
macro_rules! promises_hold {
    ($start:path) => {
        use crate::promises as of;
        use crate::visit::Way;

        #[test]
        fn whole_files_come_as_they_are() {
            of::whole_files_come_as_they_are(&$start(), Way::Plain);
        }

        #[test]
        fn whole_files_come_as_they_are_over_tls() {
            of::whole_files_come_as_they_are(&$start(), Way::Tls);
        }

        #[test]
        fn a_kill_in_the_middle_costs_a_window_at_most() {
            of::a_kill_costs_a_window_at_most(&$start(), Way::Plain);
        }

        #[test]
        fn a_kill_in_the_middle_costs_a_window_at_most_over_tls() {
            of::a_kill_costs_a_window_at_most(&$start(), Way::Tls);
        }

        #[test]
        fn an_orderly_stop_in_the_middle_fetches_nothing_again() {
            of::an_orderly_stop_costs_nothing(&$start(), Way::Plain, "stopped.bin");
        }

        #[test]
        fn an_orderly_stop_in_the_middle_fetches_nothing_again_over_tls() {
            of::an_orderly_stop_costs_nothing(&$start(), Way::Tls, "stopped.bin");
        }

        #[test]
        fn a_connection_cut_in_the_middle_is_made_again_and_continued() {
            of::a_cut_connection_costs_nothing(&$start(), Way::Plain);
        }

        #[test]
        fn a_connection_cut_in_the_middle_is_made_again_and_continued_over_tls() {
            of::a_cut_connection_costs_nothing(&$start(), Way::Tls);
        }

        #[test]
        fn an_old_modification_time_alone_is_proof_enough_to_continue() {
            of::a_time_alone_is_proof(&$start(), Way::Plain, "tagless/stopped.bin");
        }

        #[test]
        fn without_any_proof_it_starts_again_from_zero_and_says_so() {
            let server = $start();
            of::without_proof_it_starts_again_and_says_so(&server, Way::Plain, "proofless/stopped.raw");
            let head = server.ask_head("/proofless/stopped.raw", "");
            assert!(
                !head.contains("\netag:") && !head.contains("\nlast-modified:"),
                "{head}"
            );
        }

        #[test]
        fn a_resource_that_changed_in_between_is_fetched_anew_and_never_mixed() {
            of::a_changed_resource_is_never_mixed(&$start(), Way::Plain, "", "bin");
        }

        #[test]
        fn a_resource_that_changed_in_between_is_fetched_anew_and_never_mixed_over_tls() {
            of::a_changed_resource_is_never_mixed(&$start(), Way::Tls, "", "bin");
        }

        #[test]
        fn a_change_that_only_the_modification_time_shows_is_noticed() {
            of::a_changed_resource_is_never_mixed(&$start(), Way::Plain, "tagless/", "bin");
        }

        #[test]
        fn a_change_that_nothing_shows_is_never_mixed() {
            of::a_changed_resource_is_never_mixed(&$start(), Way::Plain, "proofless/", "raw");
        }

        #[test]
        fn a_file_that_changes_twice_within_a_second_is_never_mixed() {
            of::a_second_change_within_a_second_is_never_mixed(&$start(), Way::Plain);
        }

        #[test]
        fn a_file_cut_short_while_it_is_sent_is_fetched_anew() {
            of::a_file_cut_short_while_it_is_sent_is_fetched_anew(&$start(), Way::Plain);
        }

        #[test]
        fn where_the_server_compresses_the_plain_content_is_stored_and_continued() {
            of::where_the_server_compresses_the_plain_content_is_stored(&$start(), Way::Plain);
        }
    };
}

pub(crate) use promises_hold;
