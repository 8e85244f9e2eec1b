//! Who waits for which operations. Pure: looking is done by a thread, this says when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use super::fanout::Change;
use super::shared::Token;
use crate::operation::TransferId;
use crate::service::monitor::{Stand, Waiting};

/// One that waits.
struct Wait {
    waiting: Arc<Waiting>,
    until: Stand,
    end: Option<Instant>,
    stand: State,
}

enum State {
    /// A thread looks; whether anything has changed since it began.
    Looking { changed: bool },
    /// These were not so when a thread looked.
    Open(BTreeSet<TransferId>),
}

/// A look at the operations of one that waits.
pub(crate) struct Look {
    pub(crate) waiting: Arc<Waiting>,
    /// The time is over: it is answered however they stand.
    pub(crate) is_last: bool,
}

#[derive(Default)]
pub(crate) struct Waits(BTreeMap<Token, Wait>);

impl Waits {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn tokens(&self) -> Vec<Token> {
        self.0.keys().copied().collect()
    }

    pub(crate) fn remove(&mut self, token: Token) {
        self.0.remove(&token);
    }

    /// When the time of one is over.
    pub(crate) fn end(&self, token: Token) -> Option<Instant> {
        let wait = self.0.get(&token)?;
        // A look that is under way is the last where its time is over, or another one follows it.
        wait.end.filter(|_| matches!(wait.stand, State::Open(_)))
    }

    /// One more waits. It is looked at first.
    pub(crate) fn add(&mut self, token: Token, waiting: Waiting, end: Option<Instant>) {
        let wait = Wait {
            until: waiting.until.unwrap_or_default(),
            waiting: Arc::new(waiting),
            end,
            stand: State::Looking { changed: false },
        };
        self.0.insert(token, wait);
    }

    /// Begins a look, where none is under way.
    pub(crate) fn look(&mut self, token: Token, now: Instant) -> Option<Look> {
        let wait = self.0.get_mut(&token)?;
        wait.stand = State::Looking { changed: false };
        Some(Look {
            waiting: Arc::clone(&wait.waiting),
            is_last: wait.end.is_some_and(|end| end <= now),
        })
    }

    /// A look has found that these are not so; whether it has to be repeated.
    pub(crate) fn looked(&mut self, token: Token, open: BTreeSet<TransferId>) -> bool {
        let Some(wait) = self.0.get_mut(&token) else {
            return false;
        };
        let changed = matches!(wait.stand, State::Looking { changed: true });
        wait.stand = State::Open(open);
        changed
    }

    /// These have changed; gives those that have to be looked at again.
    pub(crate) fn changed(&mut self, changes: &[Change]) -> Vec<Token> {
        let mut ready = Vec::new();
        for (token, wait) in &mut self.0 {
            let open = match &mut wait.stand {
                State::Looking { changed } => {
                    *changed = true;
                    continue;
                }
                State::Open(open) => open,
            };
            let before = open.len();
            let mut is_gone = false;
            for change in changes {
                let Some((id, view)) = change.operation() else {
                    continue;
                };
                match view {
                    Some(view) if wait.until.is_reached(view) => {
                        open.remove(&id);
                    }
                    Some(_) => {}
                    None => is_gone |= open.contains(&id),
                }
            }
            if is_gone || (open.len() < before && open.is_empty()) {
                ready.push(*token);
            }
        }
        ready
    }

    /// What has changed is not known: all are to be looked at again.
    pub(crate) fn all_changed(&mut self) -> Vec<Token> {
        let mut ready = Vec::new();
        for (token, wait) in &mut self.0 {
            match &mut wait.stand {
                State::Looking { changed } => *changed = true,
                State::Open(_) => ready.push(*token),
            }
        }
        ready
    }
}
