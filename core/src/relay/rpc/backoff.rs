//! Backoff from a rate-limited node. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Longest accepted `Retry-After`: a longer one is cut to this.
const LONGEST_TOLD: Duration = Duration::from_secs(600);

/// Longest pause of our own, as a multiple of the first.
const LONGEST: u32 = 60;

/// Exponential backoff after `RateLimited`: `first`, doubled with each consecutive refusal, up to 60 times `first`. The
/// node's own `Retry-After` counts if it is longer, up to ten minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::relay) struct PauseRule {
    /// The first pause.
    pub(in crate::relay) first: Duration,
}

impl Default for PauseRule {
    fn default() -> Self {
        Self { first: crate::sender::tuning::RATE_LIMIT_PAUSE }
    }
}

impl PauseRule {
    /// The pause after the `times`-th refusal in a row, counted from 1.
    pub(in crate::relay) fn pause(self, times: u32, told: Option<Duration>) -> Duration {
        let doublings = times.saturating_sub(1).min(16);
        let own = self.first.saturating_mul(1 << doublings).min(self.first.saturating_mul(LONGEST));
        own.max(told.unwrap_or_default().min(LONGEST_TOLD))
    }
}

/// Backoff state of a node.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::relay) struct Pause {
    times: u32,
    until: Option<Instant>,
}

impl Pause {
    /// Records a refusal at `now` of a call that was sent at `asked`.
    ///
    /// Calls already in flight when the pause began do not count as further refusals: ten at once make one pause.
    pub(in crate::relay) fn refused(&mut self, asked: Instant, now: Instant, told: Option<Duration>, rule: PauseRule) {
        match self.until {
            Some(until) if asked < until => {
                let wanted = now + told.unwrap_or_default().min(LONGEST_TOLD);
                self.until = Some(until.max(wanted));
            }
            _ => {
                self.times = self.times.saturating_add(1);
                self.until = Some(now + rule.pause(self.times, told));
            }
        }
    }

    /// Records an answer to a call that was sent at `asked`. If that was after the pause, the backoff is reset.
    pub(in crate::relay) fn answered(&mut self, asked: Instant) {
        if self.until.is_none_or(|until| asked >= until) {
            *self = Self::default();
        }
    }

    /// Remaining pause; `None` if there is none.
    pub(in crate::relay) fn left(&self, now: Instant) -> Option<Duration> {
        self.until.and_then(|until| until.checked_duration_since(now)).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: PauseRule = PauseRule { first: Duration::from_millis(500) };

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn pauses_double_up_to_a_bound() {
        let pauses: Vec<_> = (1..=9).map(|times| RULE.pause(times, None).as_millis()).collect();
        assert_eq!(pauses, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(RULE.pause(u32::MAX, None), ms(30_000));
        assert_eq!(RULE.pause(1, Some(ms(7_000))), ms(7_000), "the node's word counts where it is longer");
        assert_eq!(RULE.pause(4, Some(ms(1_000))), ms(4_000));
        assert_eq!(RULE.pause(1, Some(Duration::from_secs(86_400))), Duration::from_secs(600));
    }

    #[test]
    fn calls_that_were_under_way_make_one_pause() {
        let start = Instant::now();
        let mut pause = Pause::default();
        assert_eq!(pause.left(start), None);
        for late in 0..10 {
            pause.refused(start, start + ms(late), None, RULE);
        }
        assert_eq!(pause.left(start), Some(ms(500)));
        // One of those names a `Retry-After`.
        pause.refused(start, start + ms(20), Some(ms(2_000)), RULE);
        assert_eq!(pause.left(start), Some(ms(2_020)));
        assert_eq!(pause.left(start + ms(2_020)), None);
        // Asked again after the pause, and refused again: twice as long.
        let again = start + ms(2_100);
        pause.refused(again, again, None, RULE);
        assert_eq!(pause.left(again), Some(ms(1_000)));
        // An answer to a call from before the pause changes nothing; an answer to a later call resets the backoff.
        pause.answered(again);
        assert_eq!(pause.left(again), Some(ms(1_000)));
        let later = again + ms(1_000);
        pause.answered(later);
        pause.refused(later, later, None, RULE);
        assert_eq!(pause.left(later), Some(ms(500)));
    }
}
