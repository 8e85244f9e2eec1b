//! Those that look on or wait, as far as the event loop has to do with them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::event_loop::EventLoop;
use super::fanout::{Change, Fanout, Message, Next};
use super::shared::{Outcome, Token};
use super::traffic::Call;
use super::waits::{Look, Waits};
use crate::engine::{Changed, Engine, Noted, Observer};
use crate::error::Error;
use crate::operation::TransferId;
use crate::service::fault::{Fault, Refused};
use crate::service::message::{refusal, reply};
use crate::service::monitor::{Monitoring, Told, UPDATE_MAX, Waited, Waiting};

/// Operations that all monitors and waits name together, at most (chosen: a few tens of megabytes).
const NAMED_MAX: usize = 500_000;

/// Who looks on and who waits, and what is still to be told.
pub(super) struct Telling {
    pub(super) fanout: Fanout,
    pub(super) waits: Waits,
    /// There only while somebody looks on or waits.
    observer: Option<Arc<Observer>>,
    /// What has changed and was not told yet.
    noted: Noted,
    /// When it is told.
    flush_at: Option<Instant>,
    last_flush: Option<Instant>,
    /// An attempt runs.
    is_running: bool,
    /// Operations that they name together.
    named: usize,
}

impl Telling {
    pub(super) fn new() -> Self {
        Self {
            fanout: Fanout::default(),
            waits: Waits::default(),
            observer: None,
            noted: Noted::default(),
            flush_at: None,
            last_flush: None,
            is_running: false,
            named: 0,
        }
    }

    fn progress_at(&self) -> Option<Instant> {
        self.fanout.progress_at().filter(|_| self.is_running)
    }

    /// When something is to be told although nothing happens.
    pub(super) fn next_moment(&self) -> Option<Instant> {
        [self.flush_at, self.progress_at()].into_iter().flatten().min()
    }

    /// Something has changed. What an observer that is gone has noted last is told to nobody.
    pub(super) fn is_noted(&mut self, now: Instant) {
        if self.observer.is_none() {
            return;
        }
        let every = self.fanout.flush_every();
        let at = self.last_flush.map_or(now, |last| now.max(last + every));
        self.flush_at.get_or_insert(at);
    }

    /// A connection looks on and waits no more.
    pub(super) fn remove(&mut self, token: Token, named: usize) {
        self.named -= named;
        self.fanout.remove(token);
        self.waits.remove(token);
        if self.fanout.len() + self.waits.len() == 0 {
            // Nobody is woken for nothing.
            self.observer = None;
            self.noted = Noted::default();
            self.flush_at = None;
            self.is_running = false;
        }
    }
}

impl EventLoop {
    // ---- beginning ----

    pub(super) fn begin_monitor(&mut self, token: Token, monitoring: Monitoring) {
        let named = monitoring.ids.as_ref().map_or(0, BTreeSet::len);
        let told = self.check_room_to_tell(named).and_then(|()| Told::new(monitoring));
        match told {
            Ok(told) => {
                self.look_on(token, Call::Monitor, named);
                self.telling.fanout.add(token, told, Instant::now());
                self.go_on(token);
            }
            Err(error) => self.refuse(token, error),
        }
    }

    pub(super) fn begin_wait(&mut self, token: Token, waiting: Waiting) {
        let named = waiting.ids.len();
        if let Err(error) = self.check_room_to_tell(named).and_then(|()| waiting.check()) {
            return self.refuse(token, error);
        }
        self.look_on(token, Call::Wait, named);
        let time = waiting.timeout_ms.map(Duration::from_millis);
        // A time that no clock reaches is none.
        let end = time.and_then(|time| Instant::now().checked_add(time));
        self.telling.waits.add(token, waiting, end);
        self.look(token);
    }

    fn check_room_to_tell(&self, named: usize) -> Result<(), Error> {
        let max = self.limits.monitors_max;
        if self.telling.fanout.len() + self.telling.waits.len() >= max {
            return Err(Error::limit("connections that look on or wait", max as u64));
        }
        if self.telling.named + named > NAMED_MAX {
            let limit = "operations that all who look on or wait name";
            return Err(Error::limit(limit, NAMED_MAX as u64));
        }
        Ok(())
    }

    fn refuse(&mut self, token: Token, error: Error) {
        self.answer(token, refusal(&Fault::from(Refused::from(error))));
    }

    /// From here on nothing that changes is missed.
    fn look_on(&mut self, token: Token, call: Call, named: usize) {
        if let Some(link) = self.links.get_mut(&token) {
            link.traffic.call = Some(call);
            link.named = named;
        }
        self.telling.named += named;
        if self.telling.observer.is_none() {
            let shared = Arc::clone(&self.shared);
            self.telling.observer = Some(self.engine.observe(Some(Box::new(move || shared.note()))));
            self.telling.is_running = self.engine.running_count() > 0;
        }
    }

    // ---- telling ----

    /// Tells what is to be told at this moment.
    pub(super) fn tell_what_is_due(&mut self, now: Instant) {
        if self.telling.flush_at.is_some_and(|at| at <= now) {
            self.flush(now);
        }
        if self.telling.progress_at().is_some_and(|at| at <= now) {
            let running = self.engine.running().into_iter();
            let running: Vec<Change> = running.map(|view| Change::of_operation(view.id, Some(view))).collect();
            let messages = self.telling.fanout.tell_progress(&running, now);
            self.send_all(messages);
        }
    }

    fn flush(&mut self, now: Instant) {
        self.telling.flush_at = None;
        let Some(observer) = self.telling.observer.clone() else {
            return;
        };
        self.telling.last_flush = Some(now);
        // Whatever lies below this cursor has been noted by now.
        let cursor = self.engine.cursor();
        let mut noted = std::mem::take(&mut self.telling.noted);
        noted.add(observer.take());
        if noted.overflowed {
            noted.changed.clear();
            self.tell_all_that_they_missed(cursor);
        } else {
            let changes = self.changes_of(noted.take_part(UPDATE_MAX));
            // What is told later must not lie below the cursor.
            let cursor = if noted.changed.is_empty() { cursor } else { 0 };
            let messages = self.telling.fanout.tell(&changes, cursor);
            self.send_all(messages);
            let ready = self.telling.waits.changed(&changes);
            self.look_all(ready);
        }
        if noted.attempts {
            self.telling.is_running = self.engine.running_count() > 0;
        }
        if noted.stopped {
            return self.end_all_that_look_on();
        }
        if !noted.changed.is_empty() && self.telling.observer.is_some() {
            self.telling.noted.changed = noted.changed;
            self.telling.flush_at = Some(now);
        }
    }

    /// What they are now.
    fn changes_of(&self, changed: Vec<Changed>) -> Vec<Change> {
        let change = |changed| match changed {
            Changed::Operation(id) => Some(Change::of_operation(id, self.engine.view(id).ok())),
            Changed::CompletionGroup(id) => {
                let view = self.engine.brief_completion_group(id)?;
                Change::of_completion_group(view)
            }
        };
        changed.into_iter().filter_map(change).collect()
    }

    fn tell_all_that_they_missed(&mut self, cursor: u64) {
        self.telling.fanout.tell(&[], cursor);
        self.telling.fanout.all_missed();
        for token in self.telling.fanout.tokens() {
            self.go_on(token);
        }
        let ready = self.telling.waits.all_changed();
        self.look_all(ready);
    }

    /// The engine has stopped: nothing changes any more.
    fn end_all_that_look_on(&mut self) {
        let mut tokens = self.telling.fanout.tokens();
        tokens.extend(self.telling.waits.tokens());
        for token in tokens {
            let fault = Fault::disconnected("it has stopped");
            self.end_call(token, Some(refusal(&fault)));
            self.pump(token);
        }
    }

    fn send_all(&mut self, messages: Vec<(Token, Message)>) {
        for (token, message) in messages {
            self.send_update(token, message);
        }
    }

    fn send_update(&mut self, token: Token, message: Message) {
        if let Some(link) = self.links.get_mut(&token) {
            link.traffic.send(message);
            link.write();
        }
        self.go_on(token);
    }

    /// Tells one that has taken its last update what has changed meanwhile.
    pub(super) fn go_on(&mut self, token: Token) {
        while self.links.get(&token).is_some_and(|link| link.traffic.is_drained()) {
            match self.telling.fanout.drained(token) {
                Next::Nothing => break,
                Next::CatchUp(told) => {
                    self.catch_up(token, told);
                    break;
                }
                Next::Changed(missed) => {
                    let changes = self.changes_of(missed);
                    let message = self.telling.fanout.update_for(token, &changes);
                    if let Some((message, link)) = message.zip(self.links.get_mut(&token)) {
                        link.traffic.send(message);
                        link.write();
                    }
                }
            }
        }
        self.settle(token);
    }

    // ---- on threads ----

    fn catch_up(&mut self, token: Token, mut told: Told) {
        let promise = self.promise(token);
        let engine = Arc::clone(&self.engine);
        self.submit(Box::new(move || {
            let update = loop {
                let update = told.catch_up(&engine);
                if update.caught_up || !update.is_empty() {
                    break update;
                }
            };
            let message = reply(&update, true).into();
            promise.keep(Outcome::CaughtUp(Box::new(told), message));
        }));
    }

    pub(super) fn caught_up(&mut self, token: Token, told: Told, message: Message) {
        if self.telling.fanout.contains(token) {
            self.telling.fanout.caught_up(token, told);
            self.send_update(token, message);
        }
    }

    fn look_all(&mut self, tokens: Vec<Token>) {
        for token in tokens {
            self.look(token);
        }
    }

    /// Looks whether the operations of one that waits are as it wants them.
    pub(super) fn look(&mut self, token: Token) {
        let Some(look) = self.telling.waits.look(token, Instant::now()) else {
            return;
        };
        let promise = self.promise(token);
        let engine = Arc::clone(&self.engine);
        self.submit(Box::new(move || {
            let outcome = match answer_of(&engine, &look) {
                Ok(Ok(waited)) => Outcome::Answer(reply(&waited, false)),
                Ok(Err(open)) => Outcome::Open(open),
                Err(error) => Outcome::Answer(refusal(&Fault::from(Refused::from(error)))),
            };
            promise.keep(outcome);
        }));
        self.settle(token);
    }

    pub(super) fn looked(&mut self, token: Token, open: BTreeSet<TransferId>) {
        if self.telling.waits.looked(token, open) {
            self.look(token);
        } else {
            self.settle(token);
        }
    }
}

/// The answer to a wait, or those that are not as it wants them.
fn answer_of(engine: &Engine, look: &Look) -> Result<Result<Waited, BTreeSet<TransferId>>, Error> {
    let until = look.waiting.until.unwrap_or_default();
    let mut operations = Vec::with_capacity(look.waiting.ids.len());
    let mut open = BTreeSet::new();
    for id in &look.waiting.ids {
        let view = engine.view(*id)?;
        if !until.is_reached(&view) {
            open.insert(*id);
        }
        operations.push(view);
    }
    if !open.is_empty() && !look.is_last {
        return Ok(Err(open));
    }
    Ok(Ok(Waited {
        operations,
        timed_out: !open.is_empty(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_is_noted_when_nobody_looks_on_any_more_wakes_nobody_again() {
        let mut telling = Telling::new();
        telling.is_noted(Instant::now());
        assert_eq!(telling.next_moment(), None);
    }
}
