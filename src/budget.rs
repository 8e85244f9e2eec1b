//! What follows from a limit of memory: how much of everything there may be at once. Pure.
//!
//! The limit is shared out: first what the program takes for itself, then at most two fifths of the rest for what is
//! transferred, an eighth for those who ask, and what is left for the queue and the history.

use std::ops::RangeInclusive;

use crate::history::Retention;

/// Limits that can be kept, in bytes. Below, not even one transfer over HTTPS fits.
pub(crate) const MEMORY_LIMITS: RangeInclusive<u64> = 6 << 20..=1 << 40;

/// What the program takes whatever it does: the certificates that it trusts, its threads, the journal's buffers (measured:
/// 1.1 MiB of anonymous memory with the certificates of Debian; the rest is for what nobody measured).
const BASE_BYTES: u64 = 2 << 20;
/// What a connection takes besides its read buffer: those of TLS, of its request and of its response head, the touched part
/// of its stack, and of the stack of the thread that claims (measured: 180 to 202 KiB with TLS).
const CONNECTION_BYTES: u64 = 208 << 10;
/// Smallest read buffer that is cut to before connections are: the most of one record of TLS.
const BUFFER_BYTES_MIN: u64 = 16 << 10;
/// Steps in which read buffers are cut.
const BUFFER_STEP_BYTES: u64 = 4 << 10;
/// What a complete file that waits for its name takes: its operation, and what was received for it.
const READY_BYTES: u64 = 4 << 10;
/// What is in memory of each operation that is not: 45 bytes, which `tests/memory.rs` holds it below; and 48 more of each of
/// those that have ended, of which there are so few that it comes to 3 more for each of all.
const ROW_BYTES: u64 = 48;
/// One of so many operations is kept once it has ended and that was acknowledged, and one of so many where it was not.
const ACKNOWLEDGED_SHARE: usize = 64;
const UNACKNOWLEDGED_SHARE: usize = 32;
/// What a client takes that is connected.
const CLIENT_BYTES: u64 = 8 << 10;
/// What a call takes: its message, what it is taken for, and its answer.
const CALL_BYTES: u64 = 512 << 10;
/// Longest message where memory is limited: it holds a part of a list, or of a request body, as clients send
/// them.
const MESSAGE_BYTES: u64 = 512 << 10;
/// What a connection takes that waits for the next request.
#[cfg(feature = "http")]
const IDLE_CONNECTION_BYTES: u64 = 32 << 10;

/// What was asked for, and what of it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Attempts at the same time.
    pub(crate) jobs_max: usize,
    /// Connections of one attempt.
    pub(crate) connections_max: usize,
    /// Read buffer of one connection, in bytes.
    pub(crate) buffer_bytes: usize,
    /// Operations that are held, those that have ended included.
    pub(crate) operations_max: usize,
    pub(crate) retention: Retention,
    /// Bytes of packed operations that stay in memory; all where `None`.
    pub(crate) shelf_bytes: Option<usize>,
    /// Complete files that wait for their names; as many as files allow where `None`.
    pub(crate) ready_max: Option<usize>,
}

impl Budget {
    /// Cuts what was asked for to what fits.
    pub(crate) fn fit(self, limit_bytes: Option<u64>) -> Self {
        let Some(limit_bytes) = limit_bytes else { return self };
        let free = limit_bytes.saturating_sub(BASE_BYTES);
        let ready_max = self.ready_max.unwrap_or(usize::MAX).min(count(free / 32 / READY_BYTES));
        let for_ready = ready_max as u64 * READY_BYTES;
        let (jobs_max, connections_max, buffer_bytes) = self.fit_transfers(free * 2 / 5 - for_ready);
        let connections = (jobs_max * connections_max) as u64;
        let for_transfers = for_ready + connections * (CONNECTION_BYTES + buffer_bytes as u64);
        let for_queue = free.saturating_sub(for_transfers + free / 8);
        // Some of the packed ones stay in memory, so that a short queue costs no disk.
        let for_shelf = for_queue / 32;
        let rows_max = count((for_queue - for_shelf) / ROW_BYTES);
        Self {
            jobs_max,
            connections_max,
            buffer_bytes,
            operations_max: self.operations_max.min(rows_max),
            retention: Retention {
                acknowledged_max: self.retention.acknowledged_max.min(rows_max / ACKNOWLEDGED_SHARE),
                unacknowledged_max: self.retention.unacknowledged_max.min(rows_max / UNACKNOWLEDGED_SHARE),
                ..self.retention
            },
            shelf_bytes: Some(self.shelf_bytes.unwrap_or(usize::MAX).min(count(for_shelf))),
            ready_max: Some(ready_max),
        }
    }

    /// Ended operations that may stay unpacked for a while: each takes a kilobyte, or with long headers twenty, and what waits for
    /// its name leaves room for a few of those.
    pub(crate) fn lingering_max(self) -> usize {
        self.ready_max.map_or(usize::MAX, |ready_max| ready_max / 4)
    }

    /// First the buffers become smaller, then each transfer has fewer connections, and last there are fewer transfers.
    fn fit_transfers(self, bytes: u64) -> (usize, usize, usize) {
        let asked = self.buffer_bytes as u64;
        let least = CONNECTION_BYTES + asked.min(BUFFER_BYTES_MIN);
        let connections_max = (1..=self.connections_max)
            .rev()
            .find(|connections| (self.jobs_max as u64).saturating_mul(*connections as u64 * least) <= bytes)
            .unwrap_or(1);
        let jobs_max = self
            .jobs_max
            .min(count(bytes / (connections_max as u64 * least)))
            .max(1);
        let each = bytes / (jobs_max * connections_max) as u64;
        let left = each.saturating_sub(CONNECTION_BYTES) / BUFFER_STEP_BYTES * BUFFER_STEP_BYTES;
        let buffer_bytes = asked.min(left.max(BUFFER_BYTES_MIN));
        (jobs_max, connections_max, count(buffer_bytes))
    }
}

/// What those who ask may take together.
#[expect(clippy::struct_field_names, reason = "each is the most of something")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clients {
    /// Longest message, in bytes.
    pub(crate) message_bytes_max: usize,
    pub(crate) connections_max: usize,
    /// Of them those that look on or wait.
    pub(crate) monitors_max: usize,
    /// Calls at the same time.
    pub(crate) calls_max: usize,
    /// Calls that wait for more than a disk at the same time.
    pub(crate) waiting_calls_max: usize,
}

impl Clients {
    /// Cuts what was asked for to what fits.
    pub(crate) fn fit(self, limit_bytes: Option<u64>) -> Self {
        let Some(limit_bytes) = limit_bytes else { return self };
        let free = limit_bytes.saturating_sub(BASE_BYTES) / 8;
        let connections_max = self.connections_max.min(count(free / 2 / CLIENT_BYTES).max(8));
        Self {
            message_bytes_max: self.message_bytes_max.min(count(MESSAGE_BYTES)),
            connections_max,
            // Others come through.
            monitors_max: self.monitors_max.min(connections_max * 3 / 4),
            calls_max: self.calls_max.min(count(free / 4 / CALL_BYTES).max(1)),
            waiting_calls_max: self.waiting_calls_max.min(count(free / 4 / CALL_BYTES).max(1)),
        }
    }
}

/// Connections that wait for another request, at most.
#[cfg(feature = "http")]
pub(crate) fn idle_connections_max(asked: usize, limit_bytes: Option<u64>) -> usize {
    limit_bytes.map_or(asked, |limit_bytes| {
        let free = limit_bytes.saturating_sub(BASE_BYTES) / 16;
        asked.min(count(free / IDLE_CONNECTION_BYTES).max(1))
    })
}

fn count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(jobs_max: usize, connections_max: usize, buffer_bytes: usize) -> Budget {
        Budget {
            jobs_max,
            connections_max,
            buffer_bytes,
            operations_max: 1_000_000,
            retention: Retention::default(),
            shelf_bytes: None,
            ready_max: None,
        }
    }

    #[test]
    fn without_a_limit_everything_is_as_it_was_asked_for() {
        let all = asked(256, 16, 1 << 20);
        assert_eq!(all.fit(None), all);
        assert_eq!(idle_connections_max(64, None), 64);
    }

    #[test]
    fn buffers_are_cut_first_then_connections_and_jobs_last() {
        // MiB; jobs, connections and KiB of buffers that are asked for; those that there are.
        let rows = [
            (6, (8, 4, 64), (6, 1, 40)),
            (6, (4, 4, 64), (4, 1, 64)),
            (8, (8, 4, 64), (8, 1, 64)),
            (12, (8, 4, 64), (8, 2, 28)),
            (12, (4, 4, 64), (4, 4, 28)),
            (12, (1, 16, 64), (1, 16, 28)),
            (16, (8, 4, 64), (8, 2, 64)),
            (32, (4, 4, 64), (4, 4, 64)),
            (64, (8, 4, 64), (8, 4, 64)),
            (64, (256, 16, 64), (104, 1, 16)),
            (1 << 20, (256, 16, 1024), (256, 16, 1024)),
        ];
        for (limit, (jobs, connections, buffer), fits) in rows {
            let budget = asked(jobs, connections, buffer << 10).fit(Some(limit << 20));
            let there = (budget.jobs_max, budget.connections_max, budget.buffer_bytes >> 10);
            assert_eq!(there, fits, "{limit} MiB");
        }
    }

    #[test]
    fn twelve_mebibytes_hold_a_hundred_thousand_operations_beside_eight_transfers() {
        let budget = asked(8, 4, 64 << 10).fit(Some(12 << 20));
        assert!(budget.jobs_max == 8 && budget.operations_max >= 100_000, "{budget:?}");
        let Retention {
            acknowledged_max,
            unacknowledged_max,
            ..
        } = budget.retention;
        let ended = (acknowledged_max + unacknowledged_max) as u64;
        assert!(
            ended * 48 <= budget.operations_max as u64 * (ROW_BYTES - 45),
            "{budget:?}"
        );
    }

    #[test]
    fn as_many_jobs_as_can_be_counted_are_cut_like_any_others() {
        let budget = asked(usize::MAX, 16, 64 << 10).fit(Some(64 << 20));
        assert_eq!((budget.jobs_max, budget.connections_max), (104, 1));
    }

    #[test]
    fn what_there_may_be_at_once_fits_whatever_the_limit() {
        let mut before = asked(1, 1, 4 << 10).fit(Some(*MEMORY_LIMITS.start()));
        for limit_bytes in (*MEMORY_LIMITS.start()..256 << 20).step_by(300_007) {
            let budget = asked(16, 16, 1 << 20).fit(Some(limit_bytes));
            let connections = (budget.jobs_max * budget.connections_max) as u64;
            let taken = BASE_BYTES
                + connections * (CONNECTION_BYTES + budget.buffer_bytes as u64)
                + budget.operations_max as u64 * ROW_BYTES
                + budget.shelf_bytes.unwrap_or_default() as u64
                + (limit_bytes - BASE_BYTES) / 8
                + budget.ready_max.unwrap_or_default() as u64 * READY_BYTES;
            assert!(taken <= limit_bytes, "{taken} of {limit_bytes}");
            assert!(budget.jobs_max >= before.jobs_max && budget.operations_max >= 1_000);
            assert!(budget.retention.unacknowledged_max > 0 && budget.buffer_bytes > 0);
            before = budget;
        }
    }

    #[test]
    fn clients_and_idle_connections_are_bounded_and_never_shut_out() {
        let all = Clients {
            message_bytes_max: 1 << 20,
            connections_max: 2_048,
            monitors_max: 1_536,
            calls_max: 16,
            waiting_calls_max: 64,
        };
        assert_eq!(all.fit(None), all);
        for limit_bytes in [*MEMORY_LIMITS.start(), 12 << 20, 1 << 30] {
            let clients = all.fit(Some(limit_bytes));
            assert!(clients.connections_max >= 8 && clients.monitors_max < clients.connections_max);
            assert!(clients.calls_max >= 1 && clients.waiting_calls_max >= 1);
        }
        assert_eq!(all.fit(Some(1 << 40)).calls_max, 16);
        assert_eq!(idle_connections_max(64, Some(12 << 20)), 20);
    }
}
