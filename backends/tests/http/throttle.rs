//! The rate limit around a backend.

use std::num::NonZeroU64;
use std::sync::{Arc, mpsc};
use std::thread;

use backhaul_backends::{
    Backend, FailureKind, Interrupt, MemoryBackend, RateLimit, Request, Resource, Throttle, WebErrorStatus,
};

use crate::server::{Kept, request};

fn slow(content: &[u8]) -> Throttle {
    let memory = MemoryBackend::new();
    memory.put("mem://a", Resource::new(content, "v1"));
    // A byte in a second: a test that had to wait for the end would not end.
    Throttle::new(Arc::new(memory), Arc::new(RateLimit::new(NonZeroU64::MIN)))
}

#[test]
fn an_interrupt_ends_the_wait_and_what_was_received_still_reaches_the_sink() {
    let throttle = slow(&[7; 5_000]);
    let (tell, heard) = mpsc::channel();
    let interrupt = Interrupt::new();
    let raised = interrupt.clone();
    let thread = thread::spawn(move || {
        heard.recv().unwrap();
        raised.raise();
    });
    let mut kept = Kept {
        tell: Some(tell),
        ..Kept::default()
    };
    let request = Request {
        buffer_bytes: 5_000,
        ..request("mem://a")
    };
    let failure = throttle.download(&request, &mut kept, &interrupt).unwrap_err();
    assert_eq!(
        (failure.kind, failure.status),
        (FailureKind::Interrupted, WebErrorStatus::OPERATION_CANCELED)
    );
    assert_eq!(kept.bytes.len(), 5_000);
    thread.join().unwrap();
}

#[test]
fn a_refusal_of_the_sink_stays_its_own() {
    let mut kept = Kept {
        refuse_after: Some(1),
        ..Kept::default()
    };
    let failure = slow(b"hello")
        .download(&request("mem://a"), &mut kept, &Interrupt::new())
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::SinkRefused);
    assert_eq!(kept.bytes.len(), 1);
}
