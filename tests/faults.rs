//! System calls that fail: the n-th sync, write, rename, removal or reservation of room answers with an error, for every
//! n. Nothing is acknowledged wrongly, nothing hangs, and a start without faults completes everything.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::sync::atomic::{AtomicU32, Ordering};

use support::figure;
use support::strace::{Scene, Tampered, Work};

/// Many cases wait for the next attempt after a fault, so more of them than there are cores run at once.
const WORKERS: usize = 6;

/// Exit codes that a fault of this device's own files may lead to: none, a failed operation, a file that cannot be used; and
/// the signal by which the test ends what waits for room.
fn is_documented(code: Option<i32>) -> bool {
    matches!(code, Some(0 | 1 | 6 | 143))
}

/// Fails every call of `run` and of `add` in turn; says how many commands met a fault, and how many operations ended by it.
fn fails_cleanly(error: &str) {
    let ends = AtomicU32::new(0);
    let cases = [Work::Run, Work::Add].map(|work| fails_cleanly_at(work, error, &ends));
    figure(&format!(
        "system calls that fail with {error}: {} commands, {} operations ended in an error, all others completed",
        cases.iter().sum::<u32>(),
        ends.into_inner()
    ));
}

fn fails_cleanly_at(work: Work, error: &str, ends: &AtomicU32) -> u32 {
    let scene = Scene::new();
    let case = |tampered: &Tampered, place: &str| {
        let Tampered { home, ended, .. } = tampered;
        assert!(
            is_documented(ended.code()),
            "{place}: {:?}\n{}",
            ended.status,
            ended.stderr
        );
        scene.check(tampered, work, place);
        // A thread of its own may meet the same fault at the next attempt: the second in a row ends an operation, and
        // that is told; unless yet another thread meets it at the journal, which stops the engine, and then that is.
        // Nothing of it is left.
        let failed = home.ids_with("Error");
        assert!(
            failed.is_empty()
                || ended.code() == Some(1)
                || ended.code() == Some(6) && ended.stderr.contains("ended in an error"),
            "{place}: {failed:?} failed, and nobody was told: {:?}\n{}",
            ended.status,
            ended.stderr
        );
        ends.fetch_add(u32::try_from(failed.len()).unwrap(), Ordering::Relaxed);
        scene.finish(tampered, place);
    };
    let touched = scene.at_every_call(WORKERS, work, |count| format!("error={error}:when={count}"), case);
    touched.iter().map(|(_, calls)| calls).sum()
}

#[test]
fn a_failing_disk_is_never_acknowledged_and_a_restart_completes_everything() {
    fails_cleanly("EIO");
}

#[test]
fn a_disk_without_room_at_any_call_is_waited_for_or_reported() {
    fails_cleanly("ENOSPC");
}

#[test]
fn an_interrupted_call_is_not_noticed() {
    let cases = [Work::Run, Work::Add, Work::Get].map(|work| {
        let scene = Scene::new();
        let case = |tampered: &Tampered, place: &str| {
            let ended = &tampered.ended;
            assert_eq!(ended.code(), Some(0), "{place}: {}", ended.stderr);
            scene.check(tampered, work, place);
            scene.finish(tampered, place);
        };
        scene.at_every_call(2, work, |count| format!("error=EINTR:when={count}"), case)
    });
    figure(&format!(
        "system calls that are interrupted: {} cases",
        cases.iter().flatten().map(|(_, cases)| cases).sum::<u32>()
    ));
}
