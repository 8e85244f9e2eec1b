//! What goes in and out of one connection: its bytes, the call in progress, and when it is over. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::service::message::{Incoming, TooLong};

/// Bytes that are read ahead while a call is in progress.
const READ_AHEAD_BYTES: usize = 16 << 10;

/// The call that a connection waits for an answer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// A thread of the pool is on it.
    Work {
        /// Nobody wants its answer.
        oneway: bool,
    },
    /// Updates go out until the connection ends.
    Monitor,
    /// Operations are waited for.
    Wait,
}

impl Call {
    /// Somebody wants its answer.
    pub(crate) fn is_answered(self) -> bool {
        self != Self::Work { oneway: true }
    }
}

/// What is to be done next for a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A message came, and no other call is in progress.
    Begin(Vec<u8>),
    /// A message is too long; nothing behind it can be understood.
    TooLong,
    /// Something else has to happen first.
    Nothing,
}

/// One connection, without its socket.
#[derive(Debug)]
pub(crate) struct Traffic {
    incoming: Incoming,
    /// Replies that the socket did not take yet; the first one from `sent` on.
    outgoing: VecDeque<Arc<[u8]>>,
    sent: usize,
    pub(crate) call: Option<Call>,
    /// Nothing more comes in.
    ended: bool,
    /// Nobody reads any more.
    gone: bool,
    /// Nothing more is begun; the connection ends when all is written.
    closing: bool,
}

impl Traffic {
    pub(crate) fn new(message_bytes_max: usize) -> Self {
        Self {
            incoming: Incoming::new(message_bytes_max),
            outgoing: VecDeque::new(),
            sent: 0,
            call: None,
            ended: false,
            gone: false,
            closing: false,
        }
    }

    pub(crate) fn received(&mut self, bytes: &[u8]) {
        self.incoming.push(bytes);
    }

    /// The next message, where it may be begun: one call after the other, and none before the last answer was taken.
    pub(crate) fn step(&mut self) -> Step {
        if self.closing || self.call.is_some() || !self.outgoing.is_empty() {
            return Step::Nothing;
        }
        match self.incoming.next() {
            Ok(Some(message)) => Step::Begin(message),
            Ok(None) => Step::Nothing,
            Err(TooLong) => Step::TooLong,
        }
    }

    /// Puts a message behind what is to be written. Where nobody reads it is dropped.
    pub(crate) fn send(&mut self, message: Arc<[u8]>) {
        if !self.gone {
            self.outgoing.push_back(message);
        }
    }

    /// What is to be written now.
    pub(crate) fn front(&self) -> Option<&[u8]> {
        self.outgoing.front().map(|message| &message[self.sent..])
    }

    /// So many bytes of [`Traffic::front`] were written.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.outgoing.front().is_some_and(|message| message.len() <= self.sent) {
            self.outgoing.pop_front();
            self.sent = 0;
        }
    }

    /// Everything was written.
    pub(crate) fn is_drained(&self) -> bool {
        self.outgoing.is_empty()
    }

    /// Nothing more comes in: what is here is still done.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    /// Nobody reads any more: answers are dropped.
    pub(crate) fn abandon(&mut self) {
        self.gone = true;
        self.outgoing.clear();
        self.sent = 0;
    }

    /// Ends after what is written already.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    /// Whether more bytes are wanted.
    pub(crate) fn wants_bytes(&self) -> bool {
        if self.ended || self.closing {
            return false;
        }
        let is_idle = self.call.is_none() && self.outgoing.is_empty();
        is_idle || self.incoming.rest_bytes() < READ_AHEAD_BYTES
    }

    /// Nothing is left to do. What a thread has begun it finishes, and its answer finds nobody.
    pub(crate) fn is_over(&self) -> bool {
        let is_idle = self.call.is_none() && self.outgoing.is_empty();
        let tells = matches!(self.call, Some(Call::Monitor | Call::Wait));
        let drained = self.outgoing.is_empty();
        (is_idle && (self.ended || self.closing)) || (tells && drained && (self.gone || self.closing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Arc<[u8]> {
        Arc::from(text.as_bytes())
    }

    #[test]
    fn calls_are_begun_one_after_the_other_and_after_the_last_answer_was_taken() {
        let mut traffic = Traffic::new(64);
        traffic.received(b"one\0two\0");
        assert_eq!(traffic.step(), Step::Begin(b"one".to_vec()));
        traffic.call = Some(Call::Work { oneway: false });
        assert_eq!(traffic.step(), Step::Nothing, "a call is in progress");
        traffic.call = None;
        traffic.send(message("answer"));
        assert_eq!(traffic.step(), Step::Nothing, "an answer is not written yet");
        traffic.wrote(2);
        assert_eq!(traffic.front(), Some(&b"swer"[..]));
        traffic.wrote(4);
        assert_eq!(traffic.step(), Step::Begin(b"two".to_vec()));
        assert_eq!(traffic.step(), Step::Nothing);
    }

    #[test]
    fn little_is_read_ahead_while_a_call_is_in_progress() {
        let mut traffic = Traffic::new(1 << 20);
        traffic.received(&[b' '; READ_AHEAD_BYTES]);
        assert!(traffic.wants_bytes(), "one message may be as long as is allowed");
        traffic.call = Some(Call::Work { oneway: false });
        assert!(!traffic.wants_bytes());
        traffic.call = None;
        traffic.send(message("answer"));
        assert!(!traffic.wants_bytes());
    }

    #[test]
    fn what_came_before_the_end_is_done_before_the_connection_is_over() {
        let mut traffic = Traffic::new(64);
        traffic.received(b"one\0half");
        traffic.end();
        assert!(!traffic.wants_bytes());
        assert_eq!(traffic.step(), Step::Begin(b"one".to_vec()));
        traffic.call = Some(Call::Work { oneway: false });
        assert!(!traffic.is_over());
        traffic.call = None;
        traffic.send(message("answer"));
        assert!(!traffic.is_over());
        traffic.wrote(6);
        assert_eq!(traffic.step(), Step::Nothing, "half a message is none");
        assert!(traffic.is_over());
    }

    #[test]
    fn who_is_gone_is_told_nothing_and_looks_on_no_longer() {
        let mut traffic = Traffic::new(64);
        traffic.call = Some(Call::Monitor);
        traffic.send(message("update"));
        traffic.abandon();
        assert!(traffic.is_over() && traffic.is_drained());
        traffic.send(message("update"));
        assert!(traffic.is_drained());
    }

    #[test]
    fn a_message_that_is_too_long_ends_the_connection_after_the_reason() {
        let mut traffic = Traffic::new(4);
        traffic.received(b"12345");
        assert_eq!(traffic.step(), Step::TooLong);
        traffic.send(message("reason"));
        traffic.close();
        assert!(!traffic.is_over() && !traffic.wants_bytes());
        traffic.wrote(6);
        assert!(traffic.is_over());
    }
}
