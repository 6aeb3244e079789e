//! How long a node that says that it is asked too often is left alone. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Longest pause that a node can ask for (`Retry-After`): whoever wants more is asked again all the same.
const LONGEST_TOLD: Duration = Duration::from_secs(600);

/// Longest pause of our own, in times of the first.
const LONGEST: u32 = 60;

/// First pause unless told otherwise.
pub(in crate::relay) const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// How a node is left alone that says `RateLimited`: `first`, twice that the next time in a row, and so on up to 60 times
/// `first`. What it asks for itself counts if it is longer, up to ten minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::relay) struct PauseRule {
    /// The first pause.
    pub(in crate::relay) first: Duration,
}

impl Default for PauseRule {
    fn default() -> Self {
        Self { first: FIRST_PAUSE }
    }
}

impl PauseRule {
    /// The pause after the `times`-th refusal in a row, counted from 1.
    pub(super) fn pause(self, times: u32, told: Option<Duration>) -> Duration {
        let doublings = times.saturating_sub(1).min(16);
        let own = self.first.saturating_mul(1 << doublings).min(self.first.saturating_mul(LONGEST));
        own.max(told.unwrap_or_default().min(LONGEST_TOLD))
    }
}

/// Whether a node is left alone.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pause {
    times: u32,
    until: Option<Instant>,
}

impl Pause {
    /// The node refused, at `now`, a call that was sent at `asked`.
    ///
    /// Calls that were on their way when the pause began are no further refusals: ten at once make one pause.
    pub(super) fn refused(&mut self, asked: Instant, now: Instant, told: Option<Duration>, rule: PauseRule) {
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

    /// The node answered a call that was sent at `asked`. If that was after the pause, the next pause is a first one again.
    pub(super) fn answered(&mut self, asked: Instant) {
        if self.until.is_none_or(|until| asked >= until) {
            *self = Self::default();
        }
    }

    /// How much longer it is left alone.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
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
        // Of those, one says how long.
        pause.refused(start, start + ms(20), Some(ms(2_000)), RULE);
        assert_eq!(pause.left(start), Some(ms(2_020)));
        assert_eq!(pause.left(start + ms(2_020)), None);
        // Asked again after the pause, and refused again: twice as long.
        let again = start + ms(2_100);
        pause.refused(again, again, None, RULE);
        assert_eq!(pause.left(again), Some(ms(1_000)));
        // An answer to what was asked before says nothing; an answer to what was asked after it ends the row.
        pause.answered(again);
        assert_eq!(pause.left(again), Some(ms(1_000)));
        let later = again + ms(1_000);
        pause.answered(later);
        pause.refused(later, later, None, RULE);
        assert_eq!(pause.left(later), Some(ms(500)));
    }
}
