//! What is shown of an operation: a status, and for one that does not move exactly one reason.

use std::fmt;

use backhaul_backends::WebErrorStatus;
use serde::{Deserialize, Serialize};

use super::event::{Condition, Outcome, WaitReason};
use super::state::{Operation, Phase, Wish};

/// Status of an operation. The first ten names are those of `BackgroundTransferStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum TransferStatus {
    /// Created, not started.
    Idle,
    /// An attempt is in progress.
    Running,
    /// The application asked it to stand still.
    PausedByApplication,
    /// The cost policy forbids the network at hand.
    PausedCostedNetwork,
    /// There is no network.
    PausedNoNetwork,
    /// Ended: the file is published.
    Completed,
    /// Ended: canceled.
    Canceled,
    /// Ended: failed for good.
    Error,
    /// An error that the application can mend.
    PausedRecoverableWebErrorStatus,
    /// The device spares its resources.
    PausedSystemPolicy,
    /// Started, and waits for its turn.
    Queued,
    /// Waits until a time.
    Waiting,
    /// Waits for room on the disk.
    PausedDiskFull,
}

impl TransferStatus {
    /// The operation has ended.
    #[must_use]
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Canceled | Self::Error)
    }

    /// An engine that runs brings it on without anybody doing anything.
    #[must_use]
    pub fn goes_on_by_itself(self) -> bool {
        match self {
            Self::Idle
            | Self::PausedByApplication
            | Self::PausedRecoverableWebErrorStatus
            | Self::Completed
            | Self::Canceled
            | Self::Error => false,
            Self::Running
            | Self::PausedCostedNetwork
            | Self::PausedNoNetwork
            | Self::PausedSystemPolicy
            | Self::Queued
            | Self::Waiting
            | Self::PausedDiskFull => true,
        }
    }

    /// The operation stands still although it was started: by the wish of its application, or for a condition of the
    /// system.
    #[must_use]
    pub fn is_paused(self) -> bool {
        match self {
            Self::PausedByApplication
            | Self::PausedCostedNetwork
            | Self::PausedNoNetwork
            | Self::PausedRecoverableWebErrorStatus
            | Self::PausedSystemPolicy
            | Self::PausedDiskFull => true,
            Self::Idle
            | Self::Running
            | Self::Completed
            | Self::Canceled
            | Self::Error
            | Self::Queued
            | Self::Waiting => false,
        }
    }

    /// Its number in `BackgroundTransferStatus`. There is a gap between 8 and 32. What only this service tells apart has the
    /// number of what `WinRT` shows in such a case: Idle for Queued, Running for Waiting, `PausedSystemPolicy` for
    /// `PausedDiskFull`.
    #[must_use]
    pub fn as_winrt(self) -> i32 {
        match self {
            Self::Idle | Self::Queued => 0,
            Self::Running | Self::Waiting => 1,
            Self::PausedByApplication => 2,
            Self::PausedCostedNetwork => 3,
            Self::PausedNoNetwork => 4,
            Self::Completed => 5,
            Self::Canceled => 6,
            Self::Error => 7,
            Self::PausedRecoverableWebErrorStatus => 8,
            Self::PausedSystemPolicy | Self::PausedDiskFull => 32,
        }
    }

    /// What it means, on one line.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Idle => "created, not started",
            Self::Running => "an attempt is in progress, or the file is being published",
            Self::PausedByApplication => "the application asked it to stand still",
            Self::PausedCostedNetwork => "the cost policy forbids the network at hand",
            Self::PausedNoNetwork => "there is no network",
            Self::Completed => "the file is published",
            Self::Canceled => "canceled",
            Self::Error => "failed for good",
            Self::PausedRecoverableWebErrorStatus => "an error that the application can mend",
            Self::PausedSystemPolicy => "the device spares its resources",
            Self::Queued => "started, and waits for its turn",
            Self::Waiting => "waits until a time",
            Self::PausedDiskFull => "waits for room on the disk",
        }
    }

    /// Every status, for tables and completions.
    #[must_use]
    pub fn all() -> &'static [Self] {
        &[
            Self::Idle,
            Self::Running,
            Self::PausedByApplication,
            Self::PausedCostedNetwork,
            Self::PausedNoNetwork,
            Self::Completed,
            Self::Canceled,
            Self::Error,
            Self::PausedRecoverableWebErrorStatus,
            Self::PausedSystemPolicy,
            Self::Queued,
            Self::Waiting,
            Self::PausedDiskFull,
        ]
    }
}

impl fmt::Display for TransferStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&format!("{self:?}"))
    }
}

/// Why an operation does not move: one word of a closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reason {
    /// Created and not started: `start` ends it.
    NotStarted,
    /// No engine works on it: `run` ends it, or a `get` for it where another `get` runs.
    NoEngine,
    /// Every slot is taken: the next free one ends it.
    WaitingForSlot,
    /// As many transfers as may run at its host do: the end of one of them ends it.
    WaitingForHostSlot,
    /// Another one of its serialized group has the turn: the end of that one's attempt ends it.
    SerializedGroup,
    /// An attempt failed; the time of the next one ends it.
    BackOff,
    /// The server named a time; that time ends it.
    RetryAfter,
    /// No route leads to the server: a network ends it.
    NoNetwork,
    /// No room: free space ends it.
    DiskFull,
    /// The application paused it: `resume` ends it.
    PausedByApplication,
    /// The server wants another credential: one, by `set`, then `resume` end it.
    NeedsCredential,
    /// The server refuses this URL: another one, by `set`, then `resume` end it.
    NeedsNewUrl,
    /// The certificate is not valid yet: the right time on the clock ends it.
    ClockNotSet,
    /// All bytes are there and are being checked and published.
    Verifying,
    /// It has ended, and what it left is being removed.
    Sweeping,
}

impl Reason {
    /// Every reason, with what it means and what ends it.
    #[must_use]
    pub fn all() -> &'static [(Self, &'static str)] {
        &[
            (Self::NotStarted, "created and not started; 'start' ends it"),
            (
                Self::NoEngine,
                "no engine works on it; 'run' ends it, or a 'get' for it where another 'get' runs",
            ),
            (Self::WaitingForSlot, "every slot is taken; the next free one ends it"),
            (
                Self::WaitingForHostSlot,
                "as many transfers as may run at its host do; the end of one of them ends it",
            ),
            (
                Self::SerializedGroup,
                "another one of its serialized group has the turn; the end of that one's attempt ends it",
            ),
            (Self::BackOff, "an attempt failed; the time of the next one ends it"),
            (Self::RetryAfter, "the server named a time; that time ends it"),
            (Self::NoNetwork, "no route leads to the server; a network ends it"),
            (Self::DiskFull, "no room for the file; free space ends it"),
            (Self::PausedByApplication, "the application paused it; 'resume' ends it"),
            (
                Self::NeedsCredential,
                "a credential is missing or refused; 'set' with another one, then 'resume', end it",
            ),
            (
                Self::NeedsNewUrl,
                "the URL is refused; 'set' with another URL or header, then 'resume', end it",
            ),
            (
                Self::ClockNotSet,
                "the certificate is not valid yet; the right time on the clock ends it",
            ),
            (
                Self::Verifying,
                "all bytes are there and are being checked and published",
            ),
            (Self::Sweeping, "it has ended, and what it left is being removed"),
        ]
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::NotStarted => "not-started",
            Self::NoEngine => "no-engine",
            Self::WaitingForSlot => "waiting-for-slot",
            Self::WaitingForHostSlot => "waiting-for-host-slot",
            Self::SerializedGroup => "serialized-group",
            Self::BackOff => "back-off",
            Self::RetryAfter => "retry-after",
            Self::NoNetwork => "no-network",
            Self::DiskFull => "disk-full",
            Self::PausedByApplication => "paused-by-application",
            Self::NeedsCredential => "needs-credential",
            Self::NeedsNewUrl => "needs-new-url",
            Self::ClockNotSet => "clock-not-set",
            Self::Verifying => "verifying",
            Self::Sweeping => "sweeping",
        })
    }
}

/// What an operation lacks that would go on by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// An engine that works on its state directory.
    Engine,
    /// To be among those that the engine works on which is there.
    Choice,
    /// A slot.
    Slot,
    /// A slot of its host.
    HostSlot,
    /// The turn of its serialized group.
    GroupTurn,
}

impl Operation {
    /// The status to show. The wish of the application hides no ended state, and is hidden by none of the system's.
    pub(crate) fn status(&self) -> TransferStatus {
        match (&self.phase, self.wish) {
            (Phase::Ended(outcome) | Phase::Ending(outcome), _) => outcome.status(),
            (Phase::Running | Phase::Publishing(_), _) => TransferStatus::Running,
            (_, Wish::Hold) => TransferStatus::Idle,
            (_, Wish::Pause) => TransferStatus::PausedByApplication,
            (Phase::Recoverable, Wish::Run) => TransferStatus::PausedRecoverableWebErrorStatus,
            (Phase::Ready, Wish::Run) => TransferStatus::Queued,
            (Phase::Waiting { .. }, Wish::Run) => TransferStatus::Waiting,
            (
                Phase::Blocked {
                    condition: Condition::NoNetwork,
                    ..
                },
                Wish::Run,
            ) => TransferStatus::PausedNoNetwork,
            (
                Phase::Blocked {
                    condition: Condition::DiskFull,
                    ..
                },
                Wish::Run,
            ) => TransferStatus::PausedDiskFull,
        }
    }

    /// The one reason why it does not move; `None` for one that runs or has ended. `lack` is what it lacks if it
    /// is ready, or an engine.
    pub(crate) fn reason(&self, lack: Lack) -> Option<Reason> {
        match (&self.phase, self.wish) {
            (Phase::Ended(_) | Phase::Running, _) => None,
            // Whatever was begun is brought to its end by any engine.
            (Phase::Ending(_) | Phase::Publishing(_), _) if lack == Lack::Engine => Some(Reason::NoEngine),
            (Phase::Ending(_), _) => Some(Reason::Sweeping),
            (Phase::Publishing(_), _) => Some(Reason::Verifying),
            (_, Wish::Hold) => Some(Reason::NotStarted),
            (_, Wish::Pause) => Some(Reason::PausedByApplication),
            (Phase::Recoverable, Wish::Run) => Some(self.what_is_missing()),
            (Phase::Ready, Wish::Run) => Some(match lack {
                Lack::Engine | Lack::Choice => Reason::NoEngine,
                Lack::Slot => Reason::WaitingForSlot,
                Lack::HostSlot => Reason::WaitingForHostSlot,
                Lack::GroupTurn => Reason::SerializedGroup,
            }),
            // Nobody is there at that time, or looks whether that is over.
            (Phase::Waiting { .. } | Phase::Blocked { .. }, Wish::Run)
                if matches!(lack, Lack::Engine | Lack::Choice) =>
            {
                Some(Reason::NoEngine)
            }
            (Phase::Waiting { reason, .. }, Wish::Run) => Some(reason.shown()),
            (Phase::Blocked { condition, .. }, Wish::Run) => Some(condition.shown()),
        }
    }
}

impl Operation {
    /// What its owner has to give to one that stopped with an error that he can mend.
    fn what_is_missing(&self) -> Reason {
        let status = self.error.as_ref().map(|error| WebErrorStatus(error.status));
        if status.is_some_and(WebErrorStatus::wants_credential) {
            Reason::NeedsCredential
        } else {
            Reason::NeedsNewUrl
        }
    }
}

impl Outcome {
    fn status(&self) -> TransferStatus {
        match self {
            Self::Completed => TransferStatus::Completed,
            Self::Canceled => TransferStatus::Canceled,
            Self::Failed(_) => TransferStatus::Error,
        }
    }
}

impl WaitReason {
    fn shown(self) -> Reason {
        match self {
            Self::BackOff => Reason::BackOff,
            Self::RetryAfter => Reason::RetryAfter,
            Self::ClockNotSet => Reason::ClockNotSet,
        }
    }
}

impl Condition {
    fn shown(self) -> Reason {
        match self {
            Self::NoNetwork => Reason::NoNetwork,
            Self::DiskFull => Reason::DiskFull,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::state::tests::states;

    #[test]
    fn without_an_engine_nothing_is_said_to_be_done_or_looked_at() {
        let mut changed = 0;
        for (name, operation) in states() {
            let reason = operation.reason(Lack::Engine);
            let of_an_engine = [
                Reason::Verifying,
                Reason::Sweeping,
                Reason::NoNetwork,
                Reason::DiskFull,
                Reason::WaitingForSlot,
                Reason::BackOff,
                Reason::RetryAfter,
                Reason::ClockNotSet,
            ];
            assert!(
                !reason.is_some_and(|reason| of_an_engine.contains(&reason)),
                "{name}: {reason:?}"
            );
            let beside = operation.reason(Lack::Slot);
            assert_eq!(reason.is_some(), beside.is_some(), "{name}");
            changed += usize::from(reason != beside);
        }
        assert!(changed > 3, "{changed}");
    }
}
