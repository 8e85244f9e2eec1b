//! Transfer groups and completion groups as they are stored, and what happens to them.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::deadline::Deadline;
use super::id::CompletionGroupId;

/// How the operations of a transfer group run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum TransferBehavior {
    /// As if there were no group.
    #[default]
    #[n(0)]
    Parallel,
    /// One at a time, whatever their priorities. `WinRT` lets those of high priority run beside the one.
    #[n(1)]
    Serialized,
}

/// What is done once when all operations of a completion group have ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum CompletionAction {
    /// The group is shown as fired until somebody acknowledges that.
    #[n(0)]
    Event,
    /// A command is run, with a report of the operations on its standard input: the absolute path of a program, then its
    /// arguments. All of it is stored and shown in clear text: it is no place for secrets.
    #[n(1)]
    Command(#[n(0)] Vec<String>),
}

/// A transfer group: named by its app, and what its operations may do at the same time.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Group {
    #[n(0)]
    pub(crate) app: String,
    #[n(1)]
    pub(crate) name: String,
    #[n(2)]
    pub(crate) behavior: TransferBehavior,
}

/// Something that happened to a transfer group.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum GroupFact {
    /// It is there, with this behavior, whether it was there before or not.
    #[n(0)]
    Set(#[n(0)] Group),
    /// It is there no more.
    #[n(1)]
    Removed {
        #[n(0)]
        app: String,
        #[n(1)]
        name: String,
    },
}

/// A completion group, as its events say. Who its members are, they say themselves.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Completion {
    #[n(0)]
    pub(crate) id: CompletionGroupId,
    #[n(1)]
    pub(crate) app: String,
    #[n(2)]
    pub(crate) name: Option<String>,
    #[n(3)]
    pub(crate) action: CompletionAction,
    #[n(4)]
    pub(crate) stage: Stage,
    /// Wall clock, milliseconds since 1970.
    #[n(5)]
    pub(crate) created_at_ms: u64,
    #[n(6)]
    pub(crate) sealed_at_ms: Option<u64>,
    #[n(7)]
    pub(crate) fired_at_ms: Option<u64>,
    /// When it was done, acknowledged, or had failed for good.
    #[n(8)]
    pub(crate) closed_at_ms: Option<u64>,
    /// How often its command was begun and not taken back.
    #[n(9)]
    pub(crate) runs: u32,
    /// What was wrong with the last run.
    #[n(10)]
    pub(crate) problem: Option<String>,
    /// Position among all that were ever created here: the LSN of its creation. 0 in snapshots of earlier versions.
    #[cbor(n(11), default)]
    pub(crate) order: u64,
}

/// What a completion group has got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Stage {
    /// Operations may join.
    #[n(0)]
    Open,
    /// None may join; some have not ended, as far as is recorded.
    #[n(1)]
    Sealed,
    /// All have ended. Where it has a command, that is run at `run_at`, or at once.
    #[n(2)]
    Fired {
        #[n(0)]
        run_at: Option<Deadline>,
    },
    /// Its command was begun, and its end is not recorded.
    #[n(3)]
    Running,
    /// Its command ended well, or somebody has acknowledged that it fired.
    #[n(4)]
    Done,
    /// Its command failed as often as it may.
    #[n(5)]
    Failed,
}

/// Something that happened to a completion group.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct CompletionFact {
    #[n(0)]
    pub(crate) id: CompletionGroupId,
    /// Wall clock, milliseconds since 1970.
    #[n(1)]
    pub(crate) at_ms: u64,
    #[n(2)]
    pub(crate) event: CompletionEvent,
}

/// What can happen to a completion group. Numbers are absolute, so that a fact that is applied twice changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum CompletionEvent {
    #[n(0)]
    Created {
        #[n(0)]
        app: String,
        #[n(1)]
        name: Option<String>,
        #[n(2)]
        action: CompletionAction,
    },
    #[n(1)]
    Sealed,
    /// All of its operations have ended.
    #[n(2)]
    Fired,
    /// Its command is about to run; `runs` counts this one.
    #[n(3)]
    Begun {
        #[n(0)]
        runs: u32,
    },
    /// Its command failed, or was stopped with the engine; it is run again at the moment given.
    #[n(4)]
    Postponed {
        #[n(0)]
        runs: u32,
        #[n(1)]
        run_at: Deadline,
        #[n(2)]
        problem: String,
    },
    /// Its command ended well, or its firing was acknowledged.
    #[n(5)]
    Done,
    /// Its command failed, and will not be run again.
    #[n(6)]
    Failed {
        #[n(0)]
        problem: String,
    },
    /// It is there no more.
    #[n(7)]
    Removed,
}

impl Completion {
    /// A new one, to which operations may join.
    pub(crate) fn created(
        id: CompletionGroupId,
        app: String,
        name: Option<String>,
        action: CompletionAction,
        (order, at_ms): (u64, u64),
    ) -> Self {
        Self {
            id,
            app,
            name,
            action,
            stage: Stage::Open,
            created_at_ms: at_ms,
            sealed_at_ms: None,
            fired_at_ms: None,
            closed_at_ms: None,
            runs: 0,
            problem: None,
            order,
        }
    }

    /// The state after one more event, recorded at `at_ms`; `None`, and nothing has changed, where it does not fit.
    pub(crate) fn apply(&self, event: CompletionEvent, at_ms: u64) -> Option<Self> {
        use CompletionEvent as Happens;
        let mut next = self.clone();
        next.stage = match (self.stage, event) {
            (Stage::Open, Happens::Sealed) => {
                next.sealed_at_ms = Some(at_ms);
                Stage::Sealed
            }
            (Stage::Sealed, Happens::Fired) => {
                next.fired_at_ms = Some(at_ms);
                Stage::Fired { run_at: None }
            }
            // A crash may have taken the record of how the last run ended.
            (Stage::Fired { .. } | Stage::Running, Happens::Begun { runs }) => {
                next.runs = runs;
                Stage::Running
            }
            (Stage::Running, Happens::Postponed { runs, run_at, problem }) => {
                (next.runs, next.problem) = (runs, Some(problem));
                Stage::Fired { run_at: Some(run_at) }
            }
            (Stage::Fired { .. } | Stage::Running, Happens::Done) => {
                (next.closed_at_ms, next.problem) = (Some(at_ms), None);
                Stage::Done
            }
            (Stage::Fired { .. } | Stage::Running, Happens::Failed { problem }) => {
                (next.closed_at_ms, next.problem) = (Some(at_ms), Some(problem));
                Stage::Failed
            }
            _ => return None,
        };
        Some(next)
    }

    /// What it promised is delivered; its operations are held for it no longer.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.stage, Stage::Done | Stage::Failed)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::operation::Now;

    const NOW: Now = Now {
        boot_ms: 1_000,
        wall_ms: 50_000,
        boot_id: [1; 16],
    };

    pub(crate) fn events() -> Vec<CompletionEvent> {
        vec![
            CompletionEvent::Created {
                app: "app".into(),
                name: Some("name".into()),
                action: CompletionAction::Command(vec!["/bin/true".into(), "x".into()]),
            },
            CompletionEvent::Sealed,
            CompletionEvent::Fired,
            CompletionEvent::Begun { runs: 1 },
            CompletionEvent::Postponed {
                runs: 1,
                run_at: Deadline::after(NOW, 5),
                problem: "exit status 1".into(),
            },
            CompletionEvent::Done,
            CompletionEvent::Failed {
                problem: "exit status 2".into(),
            },
            CompletionEvent::Removed,
        ]
    }

    fn open() -> Completion {
        let id = CompletionGroupId([5; 16]);
        Completion::created(id, "app".into(), None, CompletionAction::Event, (3, 7))
    }

    /// Which events each stage takes, by their place in [`events`].
    #[test]
    fn every_event_fits_the_stages_it_was_made_for_and_no_other() {
        let run_at = None;
        let rows: [(Stage, &[usize]); 6] = [
            (Stage::Open, &[1]),
            (Stage::Sealed, &[2]),
            (Stage::Fired { run_at }, &[3, 5, 6]),
            (Stage::Running, &[3, 4, 5, 6]),
            (Stage::Done, &[]),
            (Stage::Failed, &[]),
        ];
        for (stage, fitting) in rows {
            let state = Completion { stage, ..open() };
            for (index, event) in events().into_iter().enumerate() {
                let fits = state.apply(event.clone(), 9).is_some();
                assert_eq!(fits, fitting.contains(&index), "{event:?} on {stage:?}");
            }
        }
    }

    #[test]
    fn an_id_reads_back_as_it_was_shown() {
        let id = CompletionGroupId([0xcd; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("abc".parse::<CompletionGroupId>().is_err());
    }
}
