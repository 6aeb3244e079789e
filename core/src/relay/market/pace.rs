//! Timing of head polls. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::sender::tuning::HeadTuning;

/// Poll intervals of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::relay) struct PaceRule {
    /// Time between polls while no subscription delivers.
    pub(in crate::relay) interval: Duration,
    /// Time between polls while one does.
    pub(in crate::relay) subscribed: Duration,
    /// Silence after which a subscription counts as not delivering.
    pub(in crate::relay) silence: Duration,
    /// Least time between polls triggered by subscriptions.
    pub(in crate::relay) gap: Duration,
    /// Time until a lagging node is asked again.
    pub(in crate::relay) patience: Duration,
}

/// Inputs of the next poll's timing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::relay) struct Looks {
    /// Start of the last poll; `None` before the first.
    pub(in crate::relay) last: Option<Instant>,
    /// True if the last poll failed.
    pub(in crate::relay) has_failed: bool,
    /// True if a subscription has reported an unknown head since then.
    pub(in crate::relay) is_woken: bool,
    /// True if a subscription reported a higher block than the polls found.
    pub(in crate::relay) is_behind: bool,
    /// Time of the last head reported by an open subscription; `None` without one.
    pub(in crate::relay) heard: Option<Instant>,
}

impl PaceRule {
    /// The rule of a chain with this time between blocks.
    pub(in crate::relay) fn new(tuning: &HeadTuning, block: Duration) -> Self {
        let patience = tuning.patience(block);
        Self {
            interval: tuning.poll_interval,
            subscribed: tuning.subscribed_poll_interval.max(tuning.poll_interval),
            silence: tuning.subscription_silence,
            gap: patience / 4,
            patience,
        }
    }

    /// Time of the next poll, possibly in the past; `None` means at once.
    pub(in crate::relay) fn next_look(&self, looks: Looks) -> Option<Instant> {
        let last = looks.last?;
        if looks.is_woken {
            return Some(last + self.gap);
        }
        let usual = last + self.interval;
        match looks.heard {
            _ if looks.has_failed => Some(usual),
            // A subscription's unconfirmed report justifies no more than the usual polls.
            Some(_) if looks.is_behind => Some(last + self.patience),
            Some(heard) => Some((last + self.subscribed).min(usual.max(heard + self.silence))),
            None => Some(usual),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: PaceRule =
        PaceRule { interval: ms(250), subscribed: ms(5_000), silence: ms(4_000), gap: ms(60), patience: ms(250) };

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Time of the next poll after one at 100 000 ms, in ms after it.
    fn next(change: impl FnOnce(&mut Looks, &dyn Fn(u64) -> Instant)) -> Option<u128> {
        let start = Instant::now();
        let at = |millis| start + ms(millis);
        let mut looks =
            Looks { last: Some(at(100_000)), has_failed: false, is_woken: false, is_behind: false, heard: None };
        change(&mut looks, &at);
        RULE.next_look(looks).map(|next| next.duration_since(at(100_000)).as_millis())
    }

    #[test]
    fn without_subscriptions_it_is_polled() {
        assert_eq!(next(|looks, _| looks.last = None), None, "at once");
        assert_eq!(next(|_, _| {}), Some(250));
        assert_eq!(next(|looks, _| looks.has_failed = true), Some(250));
    }

    #[test]
    fn a_subscription_that_delivers_stretches_the_polls() {
        assert_eq!(next(|looks, at| looks.heard = Some(at(100_000))), Some(4_000), "unless it falls silent");
        // The same with a silence that lasts longer than the stretched interval.
        assert_eq!(next(|looks, at| looks.heard = Some(at(103_000))), Some(5_000));
        // Silent for a while, then for too long.
        assert_eq!(next(|looks, at| looks.heard = Some(at(96_500))), Some(500));
        assert_eq!(next(|looks, at| looks.heard = Some(at(96_000))), Some(250), "never sooner than usual");
        assert_eq!(next(|looks, at| looks.heard = Some(at(10_000))), Some(250));
    }

    #[test]
    fn a_told_head_is_looked_for_at_once_but_not_without_a_gap() {
        let woken = |looks: &mut Looks, at: &dyn Fn(u64) -> Instant| {
            (looks.is_woken, looks.heard) = (true, Some(at(100_010)));
        };
        assert_eq!(next(woken), Some(60));
        let down = |looks: &mut Looks, _: &dyn Fn(u64) -> Instant| looks.is_woken = true;
        assert_eq!(next(down), Some(60), "also if it was its last word");
    }

    #[test]
    fn what_nobody_confirms_makes_usual_polls() {
        let behind = |looks: &mut Looks, at: &dyn Fn(u64) -> Instant| {
            (looks.is_behind, looks.heard) = (true, Some(at(100_000)));
        };
        assert_eq!(next(behind), Some(250));
        let failed = |looks: &mut Looks, at: &dyn Fn(u64) -> Instant| {
            (looks.has_failed, looks.heard) = (true, Some(at(100_000)));
        };
        assert_eq!(next(failed), Some(250), "a failed poll is repeated as ever");
    }
}
