//! Limits of time and of rate: what they end, and what they do not.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::attempt::{
    AGAIN, CUT, GUARD, Moment, Outcome, Witness, attempt, begin, contents, fetch, held_after, no_limits, request, small,
};
use super::interrupts::limited;
use super::{Act, Astray, Bell, Content, Place, Rig, Served};
use crate::{Interrupt, Limits, Request, WebErrorStatus};

/// A limit that is reached soon.
const SHORT: Duration = Duration::from_millis(300);

/// Enough to reach the server, also where a process has to be started for it.
const ENOUGH: Duration = Duration::from_secs(2);

fn timed_out(outcome: Outcome) -> Witness {
    outcome.failed(AGAIN, WebErrorStatus::TIMEOUT)
}

fn limited_to(limits: Limits, url: &str) -> Request {
    Request {
        limits,
        ..request(url, None)
    }
}

fn hang(place: Place) -> Act {
    let (unheard, _) = Bell::new();
    Act::Hang(place, unheard)
}

pub(super) fn silence_in_the_content_is_a_timeout(rig: &mut dyn Rig) {
    let [small, large] = contents();
    let limits = Limits {
        stall: SHORT,
        ..no_limits()
    };
    let attempts = [(small, CUT), (large, large.total_bytes - 1)].map(|(content, offset)| {
        let url = rig.serve(Served::new(content), vec![hang(Place::Byte(offset))]);
        let request = limited_to(limits, &url);
        let running = begin(rig, &request, Witness::new(content), &Interrupt::new());
        (url, content, offset, running)
    });
    for (url, content, offset, running) in attempts {
        let witness = timed_out(running.end());
        assert_eq!(witness.next, offset, "what came is kept");
        fetch(rig, &url, held_after(&witness), content).whole();
    }
}

pub(super) fn silence_before_the_head_is_a_timeout(rig: &mut dyn Rig) {
    let content = small();
    let place = Place::Step(rig.protocol().asked);
    let url = rig.serve(Served::new(content), vec![hang(place)]);
    let limits = Limits {
        response: SHORT,
        ..no_limits()
    };
    let witness = timed_out(attempt(rig, &limited_to(limits, &url), content));
    assert!(witness.heads.is_empty());
    fetch(rig, &url, None, content).whole();
}

pub(super) fn silence_at_any_step_is_a_timeout(rig: &mut dyn Rig) {
    let content = small();
    let limits = Limits {
        connect: ENOUGH,
        response: SHORT,
        stall: SHORT,
    };
    // All at once, so that they wait together.
    let mut attempts = Vec::new();
    for step in rig.protocol().steps {
        let (bell, rung) = Bell::new();
        let url = rig.serve(Served::new(content), vec![Act::Hang(Place::Step(step), bell)]);
        let request = limited_to(limits, &url);
        let running = begin(rig, &request, Witness::new(content), &Interrupt::new());
        attempts.push((step, url, rung, running));
    }
    for (step, url, rung, running) in attempts {
        let outcome = running.end();
        // Otherwise it is the next attempt that the server leaves hanging.
        rung.recv_timeout(GUARD)
            .unwrap_or_else(|_| panic!("the server never came to '{step}'"));
        let witness = if outcome.result.is_ok() {
            // Some know that all came before the server has said so.
            outcome.whole()
        } else {
            timed_out(outcome)
        };
        fetch(rig, &url, held_after(&witness), content).whole();
    }
}

pub(super) fn a_connection_that_is_not_made_in_time_is_a_timeout(rig: &mut dyn Rig) {
    let (unheard, _) = Bell::new();
    let url = rig.astray(Astray::Unanswered(unheard)).expect("the rig reaches hosts");
    let limits = Limits {
        connect: SHORT,
        ..no_limits()
    };
    let witness = timed_out(attempt(rig, &limited_to(limits, &url), small()));
    assert!(witness.heads.is_empty());
}

/// The sink blocks for longer than any silence is borne, at the head and at the first bytes, while the server wants to go
/// on sending.
pub(super) fn a_slow_consumer_is_no_silence(rig: &mut dyn Rig) {
    // More than lies between the two, so that the server is held up as well.
    let content = Content {
        seed: 6,
        total_bytes: 12_000_001,
    };
    let url = rig.serve(Served::new(content), Vec::new());
    let (blocked, is_blocked) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let witness = Witness::hooked(content, move |moment| {
        let is_early = moment == Moment::Head || matches!(moment, Moment::Bytes(came) if came <= 2 * CUT);
        // Whoever left early has seen enough.
        if is_early && blocked.send(()).is_ok() {
            let _ = released.recv_timeout(GUARD);
        }
        Ok(())
    });
    let limits = Limits {
        stall: SHORT,
        ..no_limits()
    };
    let running = begin(rig, &limited_to(limits, &url), witness, &Interrupt::new());
    for _ in 0..2 {
        is_blocked.recv_timeout(GUARD).expect("the sink blocks");
        // Time itself is what is tried here, and nothing is waited for by it.
        thread::sleep(3 * SHORT / 2);
        let _ = release.send(());
    }
    drop((is_blocked, release));
    running.end().whole();
}

pub(super) fn a_rate_limit_holds(rig: &mut dyn Rig) {
    let content = small();
    let rate = 2 * content.total_bytes;
    let url = rig.serve(Served::new(content), Vec::new());
    let limited = limited(rig, rate);
    let began = Instant::now();
    fetch(&limited, &url, None, content).whole();
    // A quarter of a second's worth may come at once, and the rest not before its time: 0.5 s less 0.25 s.
    let least = Duration::from_millis(250);
    assert!(
        began.elapsed() >= least,
        "{} bytes at {rate} a second took {:?}",
        content.total_bytes,
        began.elapsed()
    );
}
