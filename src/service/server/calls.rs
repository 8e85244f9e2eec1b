//! What calls begin and what comes of them.

use std::sync::Arc;

use super::asked::{self, Asked};
use super::event_loop::{EventLoop, STOPPED};
use super::pool::{Job, Pool};
use super::shared::{Done, Outcome, Shared, Token};
use super::traffic::Call;
use crate::error::Error;
use crate::service::fault::{Fault, Refused};
use crate::service::message::{parse_request, refusal};
use crate::service::methods::Perform;

impl EventLoop {
    pub(super) fn begin(&mut self, token: Token, message: Vec<u8>) {
        match asked::read(&message) {
            Asked::Answered(Some(answer)) => self.answer(token, answer),
            Asked::Answered(None) => {}
            Asked::Broken(problem) => self.break_off(token, &problem),
            Asked::Perform { waits, oneway, perform } => {
                let job = self.job(token, message, perform, oneway);
                Self::submit_to(if waits { &self.waiting_pool } else { &self.pool }, job);
            }
            Asked::Monitor(monitoring) => self.begin_monitor(token, monitoring),
            Asked::Wait(waiting) => self.begin_wait(token, waiting),
        }
    }

    pub(super) fn answer(&mut self, token: Token, answer: Vec<u8>) {
        if let Some(link) = self.links.get_mut(&token) {
            link.traffic.send(answer.into());
        }
    }

    fn job(&mut self, token: Token, message: Vec<u8>, perform: Perform, oneway: bool) -> Job {
        if let Some(link) = self.links.get_mut(&token) {
            link.traffic.call = Some(Call::Work { oneway });
        }
        let promise = self.promise(token);
        let engine = Arc::clone(&self.engine);
        Box::new(move || {
            let answer = match parse_request(&message) {
                Ok(request) => perform(&engine, request.parameters),
                Err(problem) => Err(Fault::disconnected(&problem)),
            };
            promise.keep(Outcome::Answer(answer.unwrap_or_else(|fault| refusal(&fault))));
        })
    }

    /// What a thread is to give for the call in progress.
    pub(super) fn promise(&self, token: Token) -> Promise {
        Promise {
            shared: Arc::clone(&self.shared),
            token,
            serial: self.links.get(&token).map_or(0, |link| link.serial),
            is_kept: false,
        }
    }

    pub(super) fn submit(&self, job: Job) {
        Self::submit_to(&self.pool, job);
    }

    fn submit_to(pool: &Pool, job: Job) {
        // A job that is dropped has kept its promise.
        if let Err(error) = pool.submit(job) {
            log::warn!("the service cannot start a thread: {error}");
        }
    }

    /// A thread has done something for a connection.
    pub(super) fn finish(&mut self, done: Done) {
        let token = done.token;
        if self.links.get(&token).is_none_or(|link| link.serial != done.serial) {
            return;
        }
        match done.outcome {
            Outcome::Answer(answer) => {
                self.end_call(token, Some(answer));
                if self.is_winding_down {
                    self.break_off(token, STOPPED);
                }
                self.pump(token);
            }
            Outcome::CaughtUp(told, message) => self.caught_up(token, *told, message),
            Outcome::Open(open) => self.looked(token, open),
        }
    }

    /// The call of a connection is over, with this answer.
    pub(super) fn end_call(&mut self, token: Token, answer: Option<Vec<u8>>) {
        let Some(link) = self.links.get_mut(&token) else { return };
        let call = link.traffic.call.take();
        link.serial += 1;
        if let Some(answer) = answer.filter(|_| call.is_some_and(Call::is_answered)) {
            link.traffic.send(answer.into());
        }
        let named = std::mem::take(&mut link.named);
        self.telling.remove(token, named);
    }
}

/// What a thread owes a connection: something, also where it panics or is never begun.
pub(super) struct Promise {
    shared: Arc<Shared>,
    token: Token,
    serial: u64,
    is_kept: bool,
}

impl Promise {
    pub(super) fn keep(mut self, outcome: Outcome) {
        self.is_kept = true;
        self.give(outcome);
    }

    fn give(&self, outcome: Outcome) {
        self.shared.done(Done {
            token: self.token,
            serial: self.serial,
            outcome,
        });
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if !self.is_kept {
            let error = Error::Service("the call could not be done; see the log of the service".into());
            self.give(Outcome::Answer(refusal(&Fault::from(Refused::from(error)))));
        }
    }
}
