//! What follows from a failed attempt. Pure: the failure, the count and a random number in, a decision out.

use std::time::Duration;

use backhaul_backends::{Failure, FailureKind};

use crate::operation::WaitReason;

/// How failed attempts are repeated. A repeated attempt always continues from the durable bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Failed attempts in a row, without durable progress between them, after which an operation ends in an error.
    pub failures_max: u32,
    /// Delay after the first failure; doubles with each further one.
    pub delay_first: Duration,
    /// Longest delay of the doubling.
    pub delay_max: Duration,
    /// Shortest delay that a server may ask for by Retry-After.
    pub retry_after_min: Duration,
    /// Longest delay that a server may ask for by Retry-After.
    pub retry_after_max: Duration,
    /// How often the network or the room that an operation waits for is looked at. Looking is no attempt; one is made
    /// every `delay_max` whatever the look says. At least 1 ms.
    pub probe_every: Duration,
    /// How often an operation that waits for the right time on the clock is tried.
    pub clock_probe_every: Duration,
}

impl Default for RetryPolicy {
    /// 20 failures in a row; 1 s doubling to 10 min; Retry-After held to 1 s … 24 h; network and room looked at every
    /// 5 s, the clock every 60 s. With these an unreachable service is tried for about 2 h 20 min. Chosen without
    /// measurement, between curl (1 s doubling to 10 min) and Android's download manager (Retry-After to 24 h).
    fn default() -> Self {
        Self {
            failures_max: 20,
            delay_first: Duration::from_secs(1),
            delay_max: Duration::from_secs(600),
            retry_after_min: Duration::from_secs(1),
            retry_after_max: Duration::from_secs(24 * 3600),
            probe_every: Duration::from_secs(5),
            clock_probe_every: Duration::from_secs(60),
        }
    }
}

/// What to do after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Try again after a delay.
    Retry { after: Duration, reason: WaitReason },
    /// There is no network: no attempt was spent; look again after a delay.
    AwaitNetwork { probe_after: Duration },
    /// Trying again is useless.
    Fail,
}

/// Decides what follows from `failure`.
///
/// `failures_in_row` counts this one; `is_repeated` says whether the one before it in the row had the same status. `online` says whether the device has any route out. `jitter` is a random number
/// in `[0, 1)`: back-off delays are spread over the upper half of their value, so that a fleet does not come back in
/// step; a Retry-After is only ever lengthened, by up to a tenth.
pub(crate) fn decide(
    failure: &Failure,
    failures_in_row: u32,
    is_repeated: bool,
    online: bool,
    jitter: f64,
    policy: &RetryPolicy,
) -> Decision {
    let used_up = failures_in_row >= policy.failures_max;
    match failure.kind {
        FailureKind::Permanent => Decision::Fail,
        // The link may have run out. Whether it has, one attempt from the original URL tells.
        FailureKind::StaleTarget if is_repeated => Decision::Fail,
        FailureKind::Unreachable if !online => Decision::AwaitNetwork {
            probe_after: policy.probe_every,
        },
        // A wrong clock is no fault of the server; it is waited out however long it takes.
        FailureKind::ClockNotSet => Decision::Retry {
            after: policy.clock_probe_every,
            reason: WaitReason::ClockNotSet,
        },
        _ if used_up => Decision::Fail,
        FailureKind::Transient {
            retry_after: Some(asked),
        } => {
            let clamped = asked.clamp(policy.retry_after_min, policy.retry_after_max);
            let after = clamped.mul_f64(1.0 + jitter / 10.0).min(policy.retry_after_max);
            Decision::Retry {
                after,
                reason: WaitReason::RetryAfter,
            }
        }
        _ => Decision::Retry {
            after: back_off(failures_in_row, jitter, policy),
            reason: WaitReason::BackOff,
        },
    }
}

fn back_off(failures_in_row: u32, jitter: f64, policy: &RetryPolicy) -> Duration {
    let doublings = failures_in_row.saturating_sub(1).min(31);
    let full = policy.delay_first.saturating_mul(1 << doublings).min(policy.delay_max);
    full.mul_f64(0.5 + jitter / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use backhaul_backends::WebErrorStatus;

    fn failure(kind: FailureKind) -> Failure {
        Failure {
            kind,
            status: WebErrorStatus::UNKNOWN,
            code: None,
            message: String::new(),
        }
    }

    fn decided(kind: FailureKind, failures_in_row: u32, online: bool, jitter: f64) -> Decision {
        decide(
            &failure(kind),
            failures_in_row,
            false,
            online,
            jitter,
            &RetryPolicy::default(),
        )
    }

    const PLAIN: FailureKind = FailureKind::Transient { retry_after: None };

    fn asked(seconds: u64) -> FailureKind {
        FailureKind::Transient {
            retry_after: Some(Duration::from_secs(seconds)),
        }
    }

    #[test]
    fn delays_double_to_the_cap_and_jitter_keeps_them_in_the_upper_half() {
        let delay = |failures, jitter| match decided(PLAIN, failures, true, jitter) {
            Decision::Retry {
                after,
                reason: WaitReason::BackOff,
            } => after.as_millis(),
            other => panic!("{other:?}"),
        };
        assert_eq!([delay(1, 0.0), delay(2, 0.0), delay(3, 0.0)], [500, 1000, 2000]);
        assert_eq!(delay(19, 0.0), 300_000);
        assert!((999..=1000).contains(&delay(1, 0.999_999)));
    }

    #[test]
    fn an_operation_gives_up_after_the_configured_failures_in_a_row() {
        assert!(matches!(decided(PLAIN, 19, true, 0.0), Decision::Retry { .. }));
        assert_eq!(decided(PLAIN, 20, true, 0.0), Decision::Fail);
    }

    #[test]
    fn retry_after_is_honoured_within_its_bounds_and_never_shortened() {
        let delay = |seconds, jitter| match decided(asked(seconds), 1, true, jitter) {
            Decision::Retry {
                after,
                reason: WaitReason::RetryAfter,
            } => after,
            other => panic!("{other:?}"),
        };
        assert_eq!(delay(0, 0.0), Duration::from_secs(1));
        assert_eq!(delay(30, 0.0), Duration::from_secs(30));
        assert!(delay(30, 0.9) >= Duration::from_secs(30));
        assert_eq!(delay(10_000_000, 0.9), Duration::from_secs(24 * 3600));
    }

    #[test]
    fn being_offline_costs_no_attempt_however_often() {
        let probe_after = Duration::from_secs(5);
        assert_eq!(
            decided(FailureKind::Unreachable, 1_000, false, 0.0),
            Decision::AwaitNetwork { probe_after }
        );
        assert!(matches!(
            decided(FailureKind::Unreachable, 1, true, 0.0),
            Decision::Retry { .. }
        ));
    }

    #[test]
    fn a_link_that_may_have_run_out_is_looked_up_once_more_and_no_second_time_in_a_row() {
        let stale = failure(FailureKind::StaleTarget);
        let policy = RetryPolicy::default();
        let decided = |failures_in_row, is_repeated| decide(&stale, failures_in_row, is_repeated, true, 0.0, &policy);
        for failures_in_row in [1, 5, 19] {
            assert!(matches!(decided(failures_in_row, false), Decision::Retry { .. }));
            assert_eq!(decided(failures_in_row, true), Decision::Fail);
        }
        assert_eq!(
            decided(20, false),
            Decision::Fail,
            "within the failures that are allowed"
        );
    }

    #[test]
    fn a_permanent_failure_ends_at_once_and_a_wrong_clock_never_does() {
        assert_eq!(decided(FailureKind::Permanent, 1, true, 0.0), Decision::Fail);
        assert!(matches!(
            decided(FailureKind::ClockNotSet, 1_000, true, 0.0),
            Decision::Retry {
                reason: WaitReason::ClockNotSet,
                ..
            }
        ));
    }
}
