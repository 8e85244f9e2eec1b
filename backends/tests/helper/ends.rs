//! However an attempt ends, its helper ends with it, and nothing of it stays.

use std::fs;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use backhaul_backends::{Backend, Failure, FailureKind, Interrupt, Limits, Request, WebErrorStatus};

use crate::lab::{Ear, Kept, LONG, backend, fetch, is_our_child, request};

/// Starts an attempt on a thread of its own; no limit ends what the interrupt must end.
fn start(url: &str, refuses_at: Option<usize>) -> (Interrupt, mpsc::Receiver<Result<(), Failure>>) {
    let interrupt = Interrupt::new();
    let (raised, hour) = (interrupt.clone(), Duration::from_secs(3600));
    let request = Request {
        limits: Limits {
            connect: hour,
            response: hour,
            stall: hour,
        },
        ..request(url)
    };
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || {
        let mut kept = Kept {
            refuses_at,
            ..Kept::default()
        };
        sender.send(backend().download(&request, &mut kept, &raised))
    });
    (interrupt, ended)
}

#[test]
fn an_interrupt_ends_a_helper_at_every_stage_and_leaves_no_process() {
    for act in [
        "hang-hello",
        "hang-head",
        "hang-data/0",
        "hang-data/70000",
        "hang-frame",
        "hang-end/1000",
        "close-and-hang/1000",
    ] {
        let ear = Ear::new();
        let (interrupt, ended) = start(&format!("lab:{act}?tell={}", ear.path().display()), None);
        let told = ear.hear();
        let raised = Instant::now();
        interrupt.raise();
        let failure = ended.recv_timeout(LONG).unwrap().unwrap_err();
        let took = raised.elapsed();
        assert_eq!(failure.kind, FailureKind::Interrupted, "{act}: {failure}");
        assert_eq!(failure.status, WebErrorStatus::OPERATION_CANCELED);
        // On an idle machine it is some milliseconds.
        assert!(took < Duration::from_secs(5), "{act} took {took:?}");
        assert!(!is_our_child(told.pid), "{act} left its process");
        told.await_gone();
    }
}

#[test]
fn a_helper_has_ended_once_its_own_process_has_whatever_holds_its_output_open() {
    let ear = Ear::new();
    let (result, kept) = fetch(&request(&format!("lab:survived/1000?tell={}", ear.path().display())));
    result.unwrap();
    assert_eq!(kept.bytes.len(), 1000);
    let told = ear.hear();
    assert!(!is_our_child(told.pid));
    told.await_gone();
    let failure = fetch(&request("lab:survived-more/1000")).0.unwrap_err();
    assert_eq!(
        failure.status,
        WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE,
        "{failure}"
    );
}

#[test]
fn an_interrupt_that_comes_first_starts_nothing() {
    let interrupt = Interrupt::new();
    interrupt.raise();
    let result = backend().download(&request("lab:full/1"), &mut Kept::default(), &interrupt);
    assert_eq!(result.unwrap_err().kind, FailureKind::Interrupted);
}

#[test]
fn a_refusal_of_the_sink_ends_the_helper() {
    for refuses_at in [0, 50_000] {
        let mut kept = Kept {
            refuses_at: Some(refuses_at),
            ..Kept::default()
        };
        let result = backend().download(&request("lab:full/100000000"), &mut kept, &Interrupt::new());
        assert_eq!(result.unwrap_err().kind, FailureKind::SinkRefused);
        assert!(kept.bytes.len() <= refuses_at + (64 << 10));
    }
}

#[test]
fn what_a_helper_has_started_ends_with_it() {
    let ear = Ear::new();
    let (interrupt, ended) = start(&format!("lab:family?tell={}", ear.path().display()), None);
    let child = ear.hear();
    interrupt.raise();
    ended.recv_timeout(LONG).unwrap().unwrap_err();
    child.await_gone();
}

#[test]
fn a_hundred_attempts_at_once_leave_no_zombie() {
    let attempts: Vec<_> = (0..100)
        .map(|number| {
            let act = ["pid", "crash/1", "pid", "full/100000"][number % 4];
            thread::spawn(move || (act, fetch(&request(&format!("lab:{act}")))))
        })
        .collect();
    let mut pids = Vec::new();
    for attempt in attempts {
        let (act, (result, kept)) = attempt.join().unwrap();
        assert_eq!(result.is_ok(), act != "crash/1", "{act}: {result:?}");
        if act == "pid" {
            pids.push(String::from_utf8(kept.bytes).unwrap().parse::<u32>().unwrap());
        }
    }
    assert_eq!(pids.len(), 50);
    for pid in pids {
        assert!(!is_our_child(pid), "{pid} is there still");
    }
}

/// Descriptors that whoever started these tests has left open for everybody.
fn handed_down() -> Vec<String> {
    let all = fs::read_dir("/proc/self/fdinfo").unwrap();
    let names = all.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let is_handed_down = |name: &String| {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{name}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        flags.is_some_and(|flags| i64::from_str_radix(flags.trim(), 8).unwrap() & CLOSE_ON_EXEC == 0)
    };
    names.filter(is_handed_down).collect()
}

/// Of the flags in `fdinfo`: proc(5), `O_CLOEXEC`.
const CLOSE_ON_EXEC: i64 = 0o2_000_000;

#[test]
fn a_helper_inherits_no_descriptor_but_its_three_and_no_blocked_signal() {
    let handed_down = handed_down();
    let (result, kept) = fetch(&request("bare:x"));
    result.unwrap();
    let seen = String::from_utf8(kept.bytes).unwrap();
    let (fds, mask) = seen.rsplit_once('\n').unwrap();
    assert_eq!(mask, "SigBlk:\t0000000000000000");
    let own = fds.lines().filter(|fd| !handed_down.iter().any(|known| known == fd));
    let own: Vec<&str> = own.filter(|fd| !["0", "1", "2"].contains(fd)).collect();
    // That of the folder that is listed.
    assert_eq!(own.len(), 1, "{seen}");
}
