//! Several connections for one file: right bytes, kept over kills, and given up for one where the server contradicts itself.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::path::Path;

use support::nginx::Nginx;
use support::{Home, Seeded, assert_same, figure, names_in, until};

/// What a kill may cost, and what each connection asks for once more to compare it.
const WINDOW_BYTES: u64 = 16 << 20;
const OVERLAP_BYTES: u64 = 4096;

fn get<'a>(url: &'a str, destination: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["get", url, "-o", destination.to_str().unwrap()];
    arguments.extend(more);
    arguments
}

fn parts_served(nginx: &Nginx, name: &str) -> usize {
    let served = nginx.served();
    let parts = served
        .iter()
        .filter(|served| served.path.ends_with(name) && served.status == 206);
    parts.count()
}

#[test]
fn several_connections_bring_one_file_and_each_asks_under_proof() {
    let nginx = Nginx::start();
    let bytes = nginx.put_seeded("a.bin", 24 << 20);
    let home = Home::new();
    let destination = home.download("a.bin");
    let url = nginx.url("/rate/8000k/a.bin");
    home.run(&get(&url, &destination, &["--connections", "4"]))
        .expect_code(0);
    assert_same(&destination, &bytes);
    assert_eq!(names_in(&home.downloads()), ["a.bin"]);
    let served = nginx.served();
    let parts: Vec<_> = served.iter().filter(|served| served.status == 206).collect();
    assert!(parts.len() >= 3, "{served:?}");
    assert!(parts.iter().all(|part| part.if_range.starts_with('"')), "{served:?}");
    let again = nginx.bytes_served("a.bin") - bytes.len() as u64;
    figure(&format!(
        "24 MiB over 4 connections in {} requests: {again} bytes sent again",
        served.len()
    ));
    // What a connection had on its way when the rest of its piece went to another one.
    assert!(again < 8 << 20, "{again}");
}

#[test]
fn a_server_without_proof_is_asked_over_one_connection() {
    let nginx = Nginx::start();
    let bytes = nginx.put_seeded("a.bin", 8 << 20);
    let home = Home::new();
    for (prefix, more) in [("novalidator", &[][..]), ("norange", &[])] {
        let destination = home.download(prefix);
        let url = nginx.url(&format!("/{prefix}/a.bin"));
        let arguments = [&["--connections", "4"], more].concat();
        home.run(&get(&url, &destination, &arguments)).expect_code(0);
        assert_same(&destination, &bytes);
    }
    assert_eq!(parts_served(&nginx, "a.bin"), 0, "{:?}", nginx.served());
    assert_eq!(nginx.bytes_served("a.bin"), 2 * bytes.len() as u64);
}

#[test]
fn several_connections_killed_at_random_moments_lose_a_window_at_most_and_leave_one_version() {
    let (mut dice, seed) = Seeded::from_environment();
    let nginx = Nginx::start();
    let bytes = nginx.put_seeded("big.bin", 64 << 20);
    let home = Home::new();
    home.add(&nginx.url("/rate/6000k/big.bin"), &home.download("big.bin"), &[]);
    let mut kills = 0_u64;
    let mut gaps = 0;
    while kills < 6 {
        let before = home.claimed_bytes();
        let goal = before + dice.below(10 << 20);
        let mut running = home.spawn(&["run", "--until-idle", "--connections", "4"]);
        let has_ended = until("enough to have come", || {
            if running.has_ended() {
                return Some(true);
            }
            (home.claimed_bytes() >= goal).then_some(false)
        });
        if has_ended {
            running.finish().expect_code(0);
            break;
        }
        running.kill();
        kills += 1;
        gaps += usize::from(home.operation()["ranges"].as_array().unwrap().len() > 1);
    }
    home.run(&["run", "--until-idle", "--connections", "4"]).expect_code(0);
    assert_same(&home.download("big.bin"), &bytes);
    assert_eq!(names_in(&home.downloads()), ["big.bin"], "seed {seed}");
    let again = nginx.bytes_served("big.bin").saturating_sub(bytes.len() as u64);
    figure(&format!(
        "64 MiB over 4 connections, {kills} kills, {gaps} with gaps (seed {seed}): {:.1} MiB sent again",
        f64::from(u32::try_from(again >> 10).unwrap()) / 1024.0
    ));
    assert!(kills > 0 && gaps > 0, "seed {seed}: {kills} kills, {gaps} with gaps");
    assert!(
        again <= (kills + 1) * (WINDOW_BYTES + 8 * OVERLAP_BYTES),
        "seed {seed}: {again}"
    );
    assert_eq!(home.operation()["restarts"], 0, "seed {seed}");
}

#[test]
fn a_resource_that_changes_under_several_connections_comes_as_the_new_one() {
    let mut nginx = Nginx::start();
    let old = nginx.put_seeded("a.bin", 32 << 20);
    let home = Home::new();
    home.add(&nginx.url("/rate/3000k/a.bin"), &home.download("a.bin"), &[]);
    let running = home.spawn(&["run", "--until-idle", "--connections", "4"]);
    until("some of the old to be there", || {
        (home.claimed_bytes() > 1 << 20).then_some(())
    });
    let mut new = old;
    new.reverse();
    nginx.stop();
    nginx.replace("a.bin", &new);
    nginx.start_again();
    running.finish().expect_code(0);
    assert_same(&home.download("a.bin"), &new);
    let shown = home.operation();
    assert_eq!(shown["restarts"], 1, "{shown}");
    assert!(shown["bytes_wasted"].as_u64() > Some(0), "{shown}");
}

#[test]
fn a_digest_is_checked_over_what_several_connections_brought() {
    let nginx = Nginx::start();
    let bytes = nginx.put_seeded("a.bin", 12 << 20);
    let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
    let right = data_encoding::HEXLOWER.encode(digest.as_ref());
    let home = Home::new();
    // Without a validator the digest alone is what the connections go by.
    for (prefix, parts) in [("rate/8000k", 3), ("novalidator", 6)] {
        let destination = home.download(&prefix.replace('/', "-"));
        let url = nginx.url(&format!("/{prefix}/a.bin"));
        home.run(&get(&url, &destination, &["--connections", "4", "--sha256", &right]))
            .expect_code(0);
        assert_same(&destination, &bytes);
        assert!(parts_served(&nginx, "a.bin") >= parts, "{prefix}");
    }
    let wrong = right.replace(['0', '1', '2'], "3");
    let destination = home.download("wrong");
    let url = nginx.url("/rate/9000k/a.bin");
    home.run(&get(&url, &destination, &["--connections", "4", "--sha256", &wrong]))
        .expect_code(1);
    assert!(!destination.exists());
    assert_eq!(names_in(&home.downloads()).len(), 2);
}

#[test]
fn one_connection_is_enough_for_a_fast_server_and_a_slow_one_gets_more() {
    let nginx = Nginx::start();
    let bytes = nginx.put_seeded("a.bin", 12 << 20);
    let home = Home::new();
    let fast = home.download("fast");
    home.run(&get(&nginx.url("/a.bin"), &fast, &[])).expect_code(0);
    assert_eq!(nginx.served().len(), 1);
    let slow = home.download("slow");
    home.run(&get(&nginx.url("/rate/1000k/a.bin"), &slow, &[]))
        .expect_code(0);
    assert_same(&slow, &bytes);
    assert!(parts_served(&nginx, "a.bin") >= 3, "{:?}", nginx.served());
}
