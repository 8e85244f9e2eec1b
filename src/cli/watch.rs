//! `watch`: what all operations do, live.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::context::Context;
use super::exit::Exit;
use super::signals::SignalWatch;
use super::{Failure, output};
use crate::{
    CompletionGroupId, CompletionGroupView, CompletionState, Error, Filter, GroupFilter, Listing, OperationView,
    TransferId, TransferStatus, Update,
};

/// How often signals are looked for while nothing changes.
const TICK: Duration = Duration::from_millis(500);
/// Operations that one screen shows at most.
const SHOWN_MAX: usize = 40;

pub(super) fn run(context: &Context, json: bool, all_apps: bool, since: Option<u64>) -> Result<Exit, Failure> {
    let service = context.woken()?.ok_or_else(|| {
        Failure::new(
            Exit::NoEngine,
            "no engine is running here: 'daemon', 'run' or 'get' starts one; 'list' shows what is stored",
        )
    })?;
    let filter = Filter {
        app: (!all_apps).then(|| context.app.clone()),
        group: GroupFilter::Any,
    };
    let signals = SignalWatch::start()?;
    signals.heed();
    let mut monitor = service.monitor(&filter, since)?;
    let mut screen = Screen::new();
    while signals.seen().is_none() {
        let next = monitor.next_within(Some(TICK)).and_then(|update| {
            if !json && update.as_ref().is_some_and(|update| update.missed && update.caught_up) {
                screen.keep(service.list(&filter))?;
            }
            Ok(update)
        });
        let update = match next {
            Ok(Some(update)) => update,
            Ok(None) => continue,
            Err(Error::Disconnected(problem)) => {
                output::note(&format!("the engine has closed the connection: {problem}"));
                break;
            }
            Err(error) => return Err(error.into()),
        };
        let goes_on = if json {
            output::json_line(&update)
        } else {
            screen.show(update)
        };
        if !goes_on {
            break;
        }
    }
    signals.end();
    Ok(Exit::Success)
}

/// What was shown last.
struct Screen {
    live: BTreeMap<TransferId, OperationView>,
    said: BTreeMap<TransferId, TransferStatus>,
    /// Completion groups that were said to have fired.
    fired: BTreeSet<CompletionGroupId>,
    is_terminal: bool,
    has_begun: bool,
}

impl Screen {
    fn new() -> Self {
        Self {
            live: BTreeMap::new(),
            said: BTreeMap::new(),
            fired: BTreeSet::new(),
            is_terminal: output::stdout_is_terminal(),
            has_begun: false,
        }
    }

    /// Others than these are gone, and nobody has said so.
    fn keep(&mut self, there: Listing) -> Result<(), Error> {
        let mut live = BTreeMap::new();
        for view in there {
            if let Some(known) = self.live.remove(&view?.id) {
                live.insert(known.id, known);
            }
        }
        self.live = live;
        self.said.retain(|id, _| self.live.contains_key(id));
        Ok(())
    }

    /// `false` where nobody reads any more.
    fn show(&mut self, update: Update) -> bool {
        let mut lines = Vec::new();
        for view in update.operations {
            // Ends from before are history; 'list' has them.
            let is_news = self.has_begun && self.said.insert(view.id, view.status) != Some(view.status);
            if view.has_ended() {
                self.live.remove(&view.id);
                self.said.remove(&view.id);
                if self.has_begun {
                    lines.push(output::end_line(&view));
                }
            } else {
                if is_news && !self.is_terminal {
                    lines.push(output::state_line(&view));
                }
                self.live.insert(view.id, view);
            }
        }
        for id in update.removed {
            self.live.remove(&id);
            self.said.remove(&id);
        }
        lines.extend(
            update
                .completion_groups
                .iter()
                .filter_map(|group| self.fired_line(group)),
        );
        let begins = update.caught_up && !self.has_begun;
        self.has_begun |= update.caught_up;
        if self.is_terminal {
            let mut shown: Vec<&OperationView> = self.live.values().collect();
            shown.sort_by_key(|view| (view.status != TransferStatus::Running, view.created_at_ms));
            let more = shown.len().saturating_sub(SHOWN_MAX);
            shown.truncate(SHOWN_MAX);
            return output::screen(&lines, &shown, more);
        }
        if begins {
            lines.extend(self.live.values().map(output::state_line));
            self.said.extend(self.live.values().map(|view| (view.id, view.status)));
        }
        lines.iter().all(|line| output::line(line))
    }

    /// What is said of a completion group, once.
    fn fired_line(&mut self, group: &CompletionGroupView) -> Option<String> {
        let what = match &group.state {
            CompletionState::Fired => "has fired; 'completion ack' takes note of it".to_owned(),
            CompletionState::Running => "has fired; its command runs".to_owned(),
            CompletionState::Failed(problem) => format!("has fired; its command failed: {problem}"),
            CompletionState::Done => {
                self.fired.remove(&group.id);
                return None;
            }
            CompletionState::Open | CompletionState::Sealed { .. } => return None,
        };
        let is_last = matches!(group.state, CompletionState::Failed(_));
        let is_news = if is_last {
            self.fired.remove(&group.id);
            true
        } else {
            self.fired.insert(group.id)
        };
        let name = group
            .name
            .as_deref()
            .map(|name| format!(" '{name}'"))
            .unwrap_or_default();
        is_news.then(|| format!("completion group {}{name} {what}", group.id))
    }
}
