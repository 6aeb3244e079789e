//! Retries of failed calls: exponential back-off with full jitter, and the relayer's `Retry-After`.

use std::time::Duration;

use super::error::ClientError;
use crate::time::{Timestamp, millis};

/// Longest accepted `Retry-After`, seconds: a day. A longer one is cut to it.
const MAX_RETRY_AFTER_S: u64 = 86_400;

/// Number and pace of a call's retries.
///
/// The wait before attempt `n + 1` is uniform in `0 ..= min(cap, base · 2^(n−1))` ("full jitter": callers that failed
/// together do not come back together), and never shorter than the `Retry-After`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Upper bound of the first wait. Default 250 ms.
    pub base: Duration,
    /// Upper bound of every wait. Default 20 s.
    pub cap: Duration,
    /// Limit on attempts, including the first; 0: no limit but the deadline. Default 6.
    pub max_attempts: u32,
    /// Longest acceptable `Retry-After`; a longer one ends the call. Default 5 min.
    pub max_retry_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(250),
            cap: Duration::from_secs(20),
            max_attempts: 6,
            max_retry_after: Duration::from_secs(300),
        }
    }
}

/// Decision after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Retry after this wait.
    Wait(Duration),
    /// Don't retry.
    GiveUp(GiveUp),
}

/// Reason not to retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// The error would recur.
    Final,
    /// It may have succeeded, and repeating it is not safe.
    Ambiguous,
    /// [`RetryPolicy::max_attempts`] is reached.
    Attempts,
    /// The next attempt would come after the deadline.
    Deadline,
    /// The relayer's `Retry-After` exceeds [`RetryPolicy::max_retry_after`].
    RetryAfter,
}

impl RetryPolicy {
    /// Decides after attempt number `attempt` (from 1) failed with `error` at `now`.
    ///
    /// `entropy` is any random number; the same arguments give the same decision.
    pub fn next(
        &self,
        attempt: u32,
        error: &ClientError,
        is_safe_to_repeat: bool,
        now: Timestamp,
        deadline: Option<Timestamp>,
        entropy: u64,
    ) -> Retry {
        if !error.is_retryable() {
            return Retry::GiveUp(GiveUp::Final);
        }
        if error.is_ambiguous() && !is_safe_to_repeat {
            return Retry::GiveUp(GiveUp::Ambiguous);
        }
        if self.max_attempts != 0 && attempt >= self.max_attempts {
            return Retry::GiveUp(GiveUp::Attempts);
        }
        let asked = error.retry_after().unwrap_or(Duration::ZERO);
        if asked > self.max_retry_after {
            return Retry::GiveUp(GiveUp::RetryAfter);
        }
        let wait = asked.saturating_add(self.back_off(attempt, entropy));
        match deadline {
            Some(deadline) if now.saturating_add(wait) >= deadline => Retry::GiveUp(GiveUp::Deadline),
            _ => Retry::Wait(wait),
        }
    }

    /// A random wait, uniform in `0 ..= min(cap, base · 2^(attempt−1))`, in whole milliseconds.
    pub fn back_off(&self, attempt: u32, entropy: u64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(63);
        let bound = u128::from(millis(self.base)) << doublings;
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).min(millis(self.cap));
        // Multiply and shift instead of a remainder: no bias towards small waits.
        let scaled = (u128::from(entropy) * (u128::from(bound) + 1)) >> 64;
        Duration::from_millis(u64::try_from(scaled).unwrap_or(bound))
    }
}

/// `Retry-After` in milliseconds. Only the form in seconds: the other one is a date, and there is no clock here.
pub(super) fn retry_after_ms(header: &str) -> Option<u64> {
    let seconds: u64 = header.trim().parse().ok()?;
    Some(seconds.min(MAX_RETRY_AFTER_S) * 1_000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::{TransportError, TransportErrorKind};

    fn broken() -> ClientError {
        TransportError::new(TransportErrorKind::Broken, "x").into()
    }

    fn busy(retry_after_ms: u64) -> ClientError {
        ClientError::Status { status: 503, retry_after_ms: Some(retry_after_ms) }
    }

    #[test]
    fn what_is_not_repeated() {
        let policy = RetryPolicy::default();
        let next = |attempt, error: &ClientError, is_safe, deadline: Option<u64>| {
            policy.next(attempt, error, is_safe, Timestamp(1_000), deadline.map(Timestamp), u64::MAX)
        };
        let refused = ClientError::Status { status: 404, retry_after_ms: None };
        assert_eq!(next(1, &refused, true, None), Retry::GiveUp(GiveUp::Final));
        assert_eq!(next(1, &broken(), false, None), Retry::GiveUp(GiveUp::Ambiguous));
        assert_eq!(next(6, &broken(), true, None), Retry::GiveUp(GiveUp::Attempts));
        assert_eq!(next(1, &broken(), true, Some(1_250)), Retry::GiveUp(GiveUp::Deadline));
        assert_eq!(next(1, &broken(), true, Some(1_251)), Retry::Wait(Duration::from_millis(250)));
        assert_eq!(next(1, &busy(300_001), true, None), Retry::GiveUp(GiveUp::RetryAfter));
        assert_eq!(next(2, &busy(3_000), true, None), Retry::Wait(Duration::from_millis(3_500)));
        let unreachable = TransportError::new(TransportErrorKind::Unreachable, "x").into();
        assert!(matches!(next(1, &unreachable, false, None), Retry::Wait(_)), "nothing was sent");
    }

    #[test]
    fn retry_after_is_read() {
        assert_eq!(retry_after_ms(" 2 "), Some(2_000));
        assert_eq!(retry_after_ms("99999999"), Some(86_400_000));
        for bad in ["", "-1", "1.5", "Wed, 21 Oct 2026 07:28:00 GMT"] {
            assert_eq!(retry_after_ms(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn waits_are_bounded(attempt in 0_u32..200, entropy: u64, asked in 0_u64..300_000) {
            let policy = RetryPolicy { max_attempts: 0, ..RetryPolicy::default() };
            let error = busy(asked);
            let Retry::Wait(wait) = policy.next(attempt, &error, true, Timestamp(0), None, entropy) else {
                return Err(TestCaseError::fail("gave up"));
            };
            let asked = Duration::from_millis(asked);
            prop_assert!(wait >= asked && wait <= asked + policy.cap);
            if attempt == 1 {
                prop_assert!(wait <= asked + policy.base);
            }
        }
    }

    #[test]
    fn jitter_is_full() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.back_off(3, 0), Duration::ZERO);
        assert_eq!(policy.back_off(3, u64::MAX), Duration::from_millis(1_000));
        assert_eq!(policy.back_off(3, u64::MAX / 2 + 1), Duration::from_millis(500));
        assert_eq!(policy.back_off(200, u64::MAX), policy.cap);
    }
}
