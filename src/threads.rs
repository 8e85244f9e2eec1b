//! Every thread of this package: what it is called, and how large its stack is.

use std::thread::Builder;

/// What a thread is there for.
///
/// A stack is a reservation of addresses; memory is what of it was touched. Measured is that, in an optimised build on `x86_64`, while each of them did its deepest work; builds without optimisation take up to
/// three times as much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Makes attempts; the deepest calls are those of TLS.
    Worker,
    /// Gives files their names.
    Publisher,
    /// One more connection of an attempt.
    Segment,
    /// Claims what a transfer has received; it calls little but the journal.
    Claimer,
    /// Runs the command of a completion group.
    Command,
    /// Waits for the end of that command, and calls nothing else.
    Waiter,
    /// Waits for all sockets of a service; the deepest calls read JSON.
    Service,
    /// Does the calls of clients; the deepest ones check and create downloads.
    Call,
    /// Waits for signals; in the daemon it reads the configuration, too.
    Signals,
    /// Looks after an engine that an application has opened.
    Engine,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Publisher => "publisher",
            Self::Segment => "segment",
            Self::Claimer => "claimer",
            Self::Command => "command",
            Self::Waiter => "waiter",
            Self::Service => "service",
            Self::Call => "call",
            Self::Signals => "signals",
            Self::Engine => "engine",
        }
    }

    const fn stack_bytes(self) -> usize {
        match self {
            Self::Worker | Self::Publisher | Self::Segment | Self::Service | Self::Call => 512 << 10,
            Self::Signals | Self::Engine => 256 << 10,
            Self::Claimer | Self::Command => 128 << 10,
            Self::Waiter => 64 << 10,
        }
    }
}

/// The only way to a thread.
pub(crate) fn for_a(role: Role) -> Builder {
    Builder::new().name(role.name().into()).stack_size(role.stack_bytes())
}
