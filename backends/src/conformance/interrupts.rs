//! An interrupt ends an attempt wherever it is. A pause and a cancel are one thing here.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use super::attempt::{
    CUT, GUARD, Moment, Outcome, Running, Witness, at_each_step, begin, contents, fetch, held_after, request, small,
};
use super::{Act, Astray, Bell, Content, Place, Protocol, Rig, Served};
use crate::{Backend, FailureKind, Interrupt, RateLimit, Request, Throttle, WebErrorStatus};

fn interrupted(outcome: Outcome) -> Witness {
    outcome.failed(FailureKind::Interrupted, WebErrorStatus::OPERATION_CANCELED)
}

pub(super) fn an_interrupt_before_the_attempt_ends_it(rig: &mut dyn Rig) {
    let content = small();
    let url = rig.serve(Served::new(content), Vec::new());
    let interrupt = Interrupt::new();
    interrupt.raise();
    let outcome = begin(rig, &request(&url, None), Witness::new(content), &interrupt).end_soon();
    assert!(interrupted(outcome).heads.is_empty(), "nothing began");
    // One interrupt ends one attempt.
    fetch(rig, &url, None, content).whole();
}

/// Raises the interrupt of an attempt once the bell has rung and it waits, and says how it ended.
fn raise_after(rung: &Receiver<()>, running: Running, interrupt: &Interrupt) -> Outcome {
    rung.recv_timeout(GUARD).expect("the attempt comes so far");
    running.await_sleep();
    interrupt.raise();
    running.end_soon()
}

/// The same for an attempt that begins here.
fn raised_after(rig: &dyn Rig, request: &Request, witness: Witness, rung: &Receiver<()>) -> Outcome {
    let interrupt = Interrupt::new();
    let running = begin(rig, request, witness, &interrupt);
    raise_after(rung, running, &interrupt)
}

pub(super) fn an_interrupt_ends_a_connection_in_the_making(rig: &mut dyn Rig) {
    let (bell, rung) = Bell::new();
    let url = rig.astray(Astray::Unanswered(bell)).expect("the rig reaches hosts");
    let outcome = raised_after(rig, &request(&url, None), Witness::new(small()), &rung);
    assert!(interrupted(outcome).heads.is_empty());
}

pub(super) fn an_interrupt_ends_the_wait_at_any_step(rig: &mut dyn Rig) {
    let (bell, rung) = Bell::new();
    let act = |place| Act::Hang(place, bell.clone());
    at_each_step(rig, &act, |rig, url, held| {
        let asked = request(url, held);
        let outcome = raised_after(rig, &asked, Witness::new(small()), &rung);
        let witness = if outcome.result.is_ok() {
            // Some know that all came before the server has said so.
            outcome.whole()
        } else {
            interrupted(outcome)
        };
        fetch(rig, url, held_after(&witness).or(asked.held), small()).whole();
    });
}

/// A sink that rings once so many bytes came.
fn ringing_at(bytes: u64, content: Content, bell: Bell) -> Witness {
    Witness::hooked(content, move |moment| {
        if moment == Moment::Bytes(bytes) || bytes == 0 && moment == Moment::Head {
            bell.ring();
        }
        Ok(())
    })
}

pub(super) fn an_interrupt_ends_the_wait_for_content(rig: &mut dyn Rig) {
    let offsets = |content: Content| [0, CUT, content.total_bytes - 1].map(|offset| (content, offset));
    // All at once, so that they wait together.
    let mut attempts = Vec::new();
    for (content, offset) in contents().into_iter().flat_map(offsets) {
        let ((sent, is_sent), (bell, rung)) = (Bell::new(), Bell::new());
        let act = Act::Hang(Place::Byte(offset), sent);
        let url = rig.serve(Served::new(content), vec![act]);
        let interrupt = Interrupt::new();
        let witness = ringing_at(offset, content, bell);
        let running = begin(rig, &request(&url, None), witness, &interrupt);
        // The last of what is sent has come. Where that is nothing, the head may wait for what follows it.
        let rung = if offset == 0 { is_sent } else { rung };
        attempts.push((url, content, offset, rung, running, interrupt));
    }
    for (url, content, offset, rung, running, interrupt) in attempts {
        let witness = interrupted(raise_after(&rung, running, &interrupt));
        assert_eq!(witness.next, offset, "what came is kept");
        fetch(rig, &url, held_after(&witness), content).whole();
    }
}

/// A sink that raises the interrupt itself.
fn raising(content: Content, interrupt: &Interrupt, at: impl Fn(Moment) -> bool + Send + 'static) -> Witness {
    let interrupt = interrupt.clone();
    Witness::hooked(content, move |moment| {
        if at(moment) {
            interrupt.raise();
        }
        Ok(())
    })
}

pub(super) fn an_interrupt_at_the_head_ends_the_attempt(rig: &mut dyn Rig) {
    for content in contents() {
        let url = rig.serve(Served::new(content), Vec::new());
        let interrupt = Interrupt::new();
        let witness = raising(content, &interrupt, |moment| moment == Moment::Head);
        let outcome = begin(rig, &request(&url, None), witness, &interrupt).end_soon();
        let witness = interrupted(outcome);
        fetch(rig, &url, held_after(&witness), content).whole();
    }
}

pub(super) fn an_interrupt_ends_content_that_flows(rig: &mut dyn Rig) {
    for content in contents() {
        let url = rig.serve(Served::new(content), Vec::new());
        let interrupt = Interrupt::new();
        let witness = raising(content, &interrupt, |moment| matches!(moment, Moment::Bytes(_)));
        let outcome = begin(rig, &request(&url, None), witness, &interrupt).end_soon();
        let witness = interrupted(outcome);
        assert!(witness.came > 0);
        fetch(rig, &url, held_after(&witness), content).whole();
    }
}

/// The rig with its backend behind a limit.
struct Limited<'a> {
    rig: &'a mut dyn Rig,
    limit: Arc<RateLimit>,
}

impl Rig for Limited<'_> {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::new(Throttle::new(self.rig.backend(), Arc::clone(&self.limit)))
    }

    fn protocol(&self) -> Protocol {
        self.rig.protocol()
    }

    fn serve(&mut self, served: Served, acts: Vec<Act>) -> String {
        self.rig.serve(served, acts)
    }

    fn missing(&mut self) -> String {
        self.rig.missing()
    }
}

/// A rig whose backend lets through at most so many bytes a second.
pub(super) fn limited(rig: &mut dyn Rig, bytes_per_second: u64) -> impl Rig + '_ {
    let rate = NonZeroU64::new(bytes_per_second).expect("a rate above 0");
    Limited {
        rig,
        limit: Arc::new(RateLimit::new(rate)),
    }
}

/// Bytes per second at which a single buffer takes minutes.
const SLOW: u64 = 256;

pub(super) fn an_interrupt_ends_the_wait_for_the_rate(rig: &mut dyn Rig) {
    let content = small();
    let url = rig.serve(Served::new(content), Vec::new());
    let (bell, rung) = Bell::new();
    // The head comes at once; what comes after it is waited for.
    let outcome = raised_after(
        &limited(rig, SLOW),
        &request(&url, None),
        ringing_at(0, content, bell),
        &rung,
    );
    let witness = interrupted(outcome);
    assert!(witness.next < content.total_bytes);
    fetch(rig, &url, held_after(&witness), content).whole();
}
