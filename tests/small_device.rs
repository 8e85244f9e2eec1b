//! A device with 16 MiB for the whole service, the cache of its files included.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::fmt::Write as _;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use backhaul::{CompletionAction, CompletionState, NewDownload, Service};
use rustix::process::Signal;
use support::cgroup::MemoryGroup;
use support::nginx::Nginx;
use support::{Home, Running, assert_same, figure, until};

const MIB: u64 = 1 << 20;
/// What all of it may take.
const GROUP_BYTES: u64 = 16 * MIB;
/// What the engine is told to stay within, in MiB.
const LIMIT_MIB: u64 = 12;
/// Longest time for all transfers, in a build without optimisation on a slow disk.
const END_MAX: Duration = Duration::from_secs(300);
const LARGE: usize = 8;
const SMALL: usize = 1_000;
const HELD: usize = 12_000;

/// Most operations of one completion group.
const MEMBERS: usize = 10_000;

/// Memory of a process that is no file, in bytes; 0 once it has ended.
fn anonymous_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.map_or(0, |line| {
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    })
}

/// Large files over HTTP and HTTPS in turn, then small ones; and many that only stand in the queue.
fn queue(home: &Home, nginx: &Nginx) {
    let mut list = String::new();
    for number in 0..LARGE + SMALL {
        let name = if number < LARGE { "large.bin" } else { "small.bin" };
        let path = format!("/{name}?{number}");
        let url = if number % 2 == 0 {
            nginx.url(&path)
        } else {
            nginx.tls_url("valid", &path)
        };
        writeln!(list, "{url} {}", home.download(&format!("{name}-{number}")).display()).unwrap();
    }
    let mut held = String::new();
    for number in 0..HELD {
        let destination = home.download(&format!("held-{number}"));
        writeln!(
            held,
            "{} {}",
            nginx.url(&format!("/small.bin?held-{number}")),
            destination.display()
        )
        .unwrap();
    }
    for (list, more) in [(list, None), (held, Some("--hold"))] {
        let arguments: Vec<&str> = ["add", "-i", "-"].into_iter().chain(more).collect();
        let mut command = home.command(&arguments);
        Running::spawn_with_input(&mut command, list.as_bytes())
            .finish()
            .expect_code(0);
    }
}

#[test]
fn eight_transfers_and_a_long_queue_complete_within_sixteen_mebibytes() {
    let Some(group) = MemoryGroup::make(GROUP_BYTES) else {
        return;
    };
    let nginx = Nginx::start_tls();
    let large = nginx.put_seeded("large.bin", 24 << 20);
    let small = nginx.put_seeded("small.bin", 3_000);
    let home = Home::new();
    queue(&home, &nginx);
    let limit = format!("{LIMIT_MIB}M");
    let bundle = nginx.ca_file();
    let arguments = [
        "--ca-bundle",
        bundle.to_str().unwrap(),
        "run",
        "--until-idle",
        "--jobs",
        "8",
        "--connections",
        "4",
        "--memory-limit",
        &limit,
    ];
    let mut running = Running::spawn(&mut home.command_under(&group.starter(), &arguments));
    let (started, mut peak_bytes) = (Instant::now(), 0);
    while !running.has_ended() && started.elapsed() < END_MAX {
        peak_bytes = peak_bytes.max(anonymous_bytes(running.id()));
        // Between two looks at what the system says; no step relies on how long this takes.
        thread::sleep(Duration::from_millis(2));
    }
    let ended = running.finish();
    assert_eq!(group.killed(), 0, "{}", ended.stderr);
    ended.expect_code(0);
    for number in 0..LARGE + SMALL {
        let (name, bytes) = if number < LARGE {
            ("large.bin", &large)
        } else {
            ("small.bin", &small)
        };
        assert_same(&home.download(&format!("{name}-{number}")), bytes);
    }
    figure(&format!(
        "in a cgroup of {} MiB with a limit of {LIMIT_MIB} MiB: {LARGE} transfers of 24 MiB at once and {} operations took {} KiB",
        GROUP_BYTES / MIB,
        SMALL + HELD,
        peak_bytes >> 10
    ));
    assert!(
        peak_bytes > 0 && peak_bytes <= LIMIT_MIB * MIB,
        "{} KiB",
        peak_bytes >> 10
    );
}

/// Does something, and gives what the process took at most meanwhile of memory that is no file, in bytes.
fn peak_while<T: Send>(pid: u32, act: impl FnOnce() -> T + Send) -> (T, u64) {
    thread::scope(|scope| {
        let acting = scope.spawn(act);
        let mut peak_bytes = 0;
        while !acting.is_finished() {
            peak_bytes = peak_bytes.max(anonymous_bytes(pid));
            // Between two looks at what the system says; no step relies on how long this takes.
            thread::sleep(Duration::from_millis(1));
        }
        (acting.join().unwrap(), peak_bytes)
    })
}

#[test]
fn a_wait_for_all_of_the_largest_completion_group_and_its_report_stay_within_the_limit_of_a_daemon() {
    let Some(cgroup) = MemoryGroup::make(GROUP_BYTES) else {
        return;
    };
    let home = Home::new();
    let limit = format!("{LIMIT_MIB}M");
    let arguments = ["daemon", "--memory-limit", &limit];
    let daemon = Running::spawn(&mut home.command_under(&cgroup.starter(), &arguments));
    let service = until("the daemon listens", || Service::find(home.state()).unwrap());
    let report = home.path().join("report");
    let script = format!("cat > '{0}.part' && mv '{0}.part' '{0}'", report.display());
    let command = ["/bin/sh", "-c", &script].map(str::to_owned).to_vec();
    let group = service
        .create_completion_group(None, &CompletionAction::Command(command))
        .unwrap();
    let member = |number: usize| NewDownload {
        url: format!("http://localhost:1/{number:0400}"),
        destination: home.download(&number.to_string()),
        completion_group: Some(group),
        hold: true,
        ..NewDownload::default()
    };
    let list: Vec<NewDownload> = (0..MEMBERS).map(member).collect();
    let ids = service.create(&list).unwrap();
    let (waited, peak_wait) = peak_while(daemon.id(), || service.wait(&ids, Some(Duration::ZERO)).unwrap());
    assert_eq!(waited.len(), MEMBERS);
    service.cancel(&ids).unwrap();
    let ((), peak_report) = peak_while(daemon.id(), || {
        service.enable_completion_group(group).unwrap();
        until("its command has run", || {
            let state = service.completion_group(group).unwrap().state;
            (state == CompletionState::Done).then_some(())
        });
    });
    let report: serde_json::Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    let told = report["downloads"].as_array().unwrap();
    assert_eq!(told.len(), MEMBERS);
    daemon.signal(Signal::TERM);
    daemon.finish().expect_code(0);
    assert_eq!(cgroup.killed(), 0);
    figure(&format!(
        "a daemon in a cgroup of {} MiB with a limit of {LIMIT_MIB} MiB: a wait for {MEMBERS} operations took {} KiB, the report of them {} KiB",
        GROUP_BYTES / MIB,
        peak_wait >> 10,
        peak_report >> 10
    ));
    for peak_bytes in [peak_wait, peak_report] {
        assert!(
            peak_bytes > 0 && peak_bytes <= LIMIT_MIB * MIB,
            "{} KiB",
            peak_bytes >> 10
        );
    }
}
