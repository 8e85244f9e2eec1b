//! Servers that slow a client down, turn it away for a while, or let it in one at a time.

use super::nginx;
use crate::promises::{SHORT_BYTES, SHORT_STOP_BYTES};
use crate::server::Server;
use crate::support::{Running, until};
use crate::visit::{Visit, Way, assert_continued};

pub(super) const ZONES: &str = "
    limit_req_zone $binary_remote_addr zone=asked:1m rate=20r/m;
    limit_req_zone $binary_remote_addr zone=busy:1m rate=30r/m;
    limit_conn_zone $binary_remote_addr zone=one:1m;";

pub(super) const LOCATIONS: &str = "
    location /slow/ { limit_rate 2m; }
    location /asked/ { limit_req zone=asked; limit_req_status 429; add_header Retry-After 3 always; }
    location /busy/ { limit_req zone=busy; limit_req_status 503; }
    location /single/ { limit_conn one 1; limit_conn_status 503; }";

/// The running transfer waits for this reason, for which `explain` and `list --json` have the same word, and a time.
fn assert_waits(visit: &Visit, running: &mut Running, reason: &str, code: u16) {
    let (shown, explained) = until("a look while it waits", || {
        assert!(!running.has_ended(), "ended without a wait: {}", visit.home.operation());
        let explained = visit.home.run(&["explain"]).expect_code(0).stdout;
        let shown = visit.home.listing().pop()?;
        (shown["status"] == "Waiting" && explained.contains("Waiting")).then_some((shown, explained))
    });
    assert_eq!(
        (&shown["reason"], &shown["error"]["code"]),
        (&reason.into(), &code.into()),
        "{shown}"
    );
    assert!(shown["next_attempt_at"].is_string(), "{shown}");
    assert!(
        explained.contains(reason) && explained.contains(&code.to_string()),
        "{explained}"
    );
}

/// Another request uses up what the limit allows, so that the first one of the transfer is turned away.
fn turned_away(server: &Server, name: &str, reason: &str, code: u16) {
    let bytes = server.put_seeded(name, SHORT_BYTES);
    let visit = Visit::new(server, Way::Plain, name);
    server.ask(&format!("/{name}"), "Range: bytes=0-0\r\n");
    let mut running = visit.start();
    assert_waits(&visit, &mut running, reason, code);
    running.finish().expect_code(0);
    let shown = visit.check(&bytes);
    assert_continued(&visit, &shown, &bytes, 0);
    assert!(shown["attempts"].as_u64() >= Some(2), "{shown}");
}

#[test]
fn a_slow_server_is_waited_for_in_one_attempt() {
    let server = nginx();
    let bytes = server.put_seeded("slow/a.bin", SHORT_BYTES);
    let visit = Visit::new(&server, Way::Plain, "slow/a.bin");
    let shown = visit.complete(&bytes);
    assert_eq!(shown["attempts"], 1, "{shown}");
}

#[test]
fn a_server_that_says_when_to_come_again_is_taken_at_its_word() {
    turned_away(&nginx(), "asked/a.bin", "retry-after", 429);
}

#[test]
fn a_server_that_only_says_it_is_busy_is_asked_again() {
    turned_away(&nginx(), "busy/a.bin", "back-off", 503);
}

#[test]
fn a_server_that_serves_one_connection_at_a_time_serves_both_in_the_end() {
    let server = nginx();
    let bytes = server.put_seeded("single/a.bin", 4 * SHORT_BYTES);
    let first = Visit::new(&server, Way::Plain, "single/a.bin");
    let second = Visit::new(&server, Way::Plain, "single/a.bin");
    let holding = first.hold_after(SHORT_STOP_BYTES);
    let mut waiting = second.start();
    assert_waits(&second, &mut waiting, "back-off", 503);
    first.relay.release();
    holding.finish().expect_code(0);
    waiting.finish().expect_code(0);
    assert_eq!(first.check(&bytes)["attempts"], 1);
    assert_continued(&second, &second.check(&bytes), &bytes, 0);
}

#[test]
fn a_transfer_turned_away_in_the_middle_goes_on_with_its_bytes() {
    let server = nginx();
    let bytes = server.put_seeded("single/b.bin", 4 * SHORT_BYTES);
    let held = Visit::new(&server, Way::Plain, "single/b.bin");
    let stopped = Visit::new(&server, Way::Plain, "single/b.bin");
    let claimed = stopped.stop_after(SHORT_STOP_BYTES, crate::visit::Stop::Terminate);
    let holding = held.hold_after(SHORT_STOP_BYTES);
    let mut waiting = stopped.start();
    assert_waits(&stopped, &mut waiting, "back-off", 503);
    assert_eq!(stopped.home.operation()["bytes_done"], claimed);
    held.relay.release();
    holding.finish().expect_code(0);
    waiting.finish().expect_code(0);
    assert_continued(&stopped, &stopped.check(&bytes), &bytes, 0);
}
