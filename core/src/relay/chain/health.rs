//! Health of a chain, judged from its signs. Pure.

use std::time::Duration;

use crate::{
    relay::{handle::status::ChainHealth, rpc::Conditions},
    time::Timestamp,
};

/// Lead of the chain's clock over ours above which it is reported.
pub(in crate::relay) const CLOCK_TOLERANCE: Duration = Duration::from_secs(15);

/// Age of a new block's timestamp above which it is reported, but never less than five block times.
const CLOCK_LAG: Duration = Duration::from_secs(60);

/// Block times without a new block, and the least time, after which it is reported.
const LATE_BLOCKS: u32 = 4;
const LATE_LEAST: Duration = Duration::from_secs(5);

/// Time without a majority on the final block after which it is reported.
const NO_MAJORITY_LEAST: Duration = Duration::from_secs(10);

/// Inputs of a chain's health.
#[derive(Debug)]
pub(in crate::relay) struct Signs<'a> {
    pub(in crate::relay) now: Timestamp,
    /// Block time.
    pub(in crate::relay) block: Duration,
    /// Arrival of the newest head; `None` before the first.
    pub(in crate::relay) head_at: Option<Timestamp>,
    /// Start of the service.
    pub(in crate::relay) started_at: Timestamp,
    /// Age of the newest head above which nothing is accepted (`chain.max_head_age_ms`); zero disables the limit.
    pub(in crate::relay) max_head_age: Duration,
    pub(in crate::relay) conditions: &'a Conditions,
    /// Newest head's timestamp minus our clock at its arrival, ms; negative if the head is behind.
    pub(in crate::relay) clock_skew_ms: i64,
    /// Reason why the L1 data fee is unknown; `None` if it is known or not needed.
    pub(in crate::relay) data_fee_fault: Option<String>,
    /// Reason why no lane can send, or why one is blocked; `None` if neither holds.
    pub(in crate::relay) no_lane: Option<String>,
}

/// True if the newest head is too old to accept requests at its price.
pub(in crate::relay) fn is_stale(now: Timestamp, head_at: Timestamp, max_head_age: Duration) -> bool {
    !max_head_age.is_zero() && now.since(head_at) > max_head_age
}

/// Description of a fault of the chain's clock; `None` if there is none.
pub(in crate::relay) fn clock_fault(skew_ms: i64, block: Duration) -> Option<String> {
    let by = Duration::from_millis(skew_ms.unsigned_abs());
    if skew_ms > 0 && by > CLOCK_TOLERANCE {
        Some(format!(
            "the chain's clock is {} s ahead of this machine's: deadlines nearer than that can't be kept; set the clock right",
            by.as_secs()
        ))
    } else if skew_ms < 0 && by > CLOCK_LAG.max(block * 5) {
        Some(format!("new blocks are {} s old: the nodes lag, or this machine's clock is ahead", by.as_secs()))
    } else {
        None
    }
}

/// A chain's health, and the reason if it is not healthy.
pub(in crate::relay) fn judge(signs: &Signs<'_>) -> (ChainHealth, Option<String>) {
    let Signs { now, block, max_head_age, conditions, .. } = *signs;
    let unfollowed = conditions
        .unfollowed
        .as_ref()
        .map(|(since, text)| format!("no node tells its newest block, for {} s: {text}", now.since(*since).as_secs()));
    let Some(head_at) = signs.head_at else {
        let health = match is_stale(now, signs.started_at, max_head_age) {
            true => ChainHealth::Unavailable,
            false => ChainHealth::Starting,
        };
        return (health, Some(unfollowed.unwrap_or_else(|| "no block has been seen yet".to_owned())));
    };
    let age = now.since(head_at);
    let no_block = || format!("no new block for {} s", age.as_secs());
    if is_stale(now, head_at, max_head_age) {
        let limit =
            format!("{}; nothing is accepted (`chain.max_head_age_ms` {})", no_block(), max_head_age.as_millis());
        return (ChainHealth::Unavailable, Some(unfollowed.unwrap_or(limit)));
    }
    let is_late = !max_head_age.is_zero() && age > (block * LATE_BLOCKS).max(LATE_LEAST);
    let no_majority = conditions.no_majority_since.filter(|since| now.since(*since) >= NO_MAJORITY_LEAST);
    let impaired = signs
        .data_fee_fault
        .clone()
        .or(unfollowed)
        .or_else(|| is_late.then(no_block))
        .or_else(|| clock_fault(signs.clock_skew_ms, block))
        .or_else(|| {
            let since = no_majority?;
            Some(format!("too few nodes tell what is final, for {} s: nothing becomes final", now.since(since).as_secs()))
        })
        .or_else(|| {
            let text = "the nodes keep no state of the newest final block: cancelled and failed transactions can't be settled; \
                        use nodes that keep it";
            conditions.has_no_final_state.then(|| text.to_owned())
        })
        .or_else(|| signs.no_lane.clone());
    match impaired {
        Some(detail) => (ChainHealth::Impaired, Some(detail)),
        None => (ChainHealth::Healthy, None),
    }
}

/// Warning for the operator about a chain with fewer than three endpoints; `None` with three or more.
pub(in crate::relay) fn cost_of_few(endpoints: usize) -> Option<&'static str> {
    match endpoints {
        0 | 1 => Some(
            "1 endpoint: its word alone decides what is final, what is rejected by simulation, tips, heads and time, and \
             nothing works while it is away; use 3",
        ),
        2 => Some(
            "2 endpoints: both are needed before anything becomes final, is settled or rejected by simulation; use 3, or 1 to \
             depend on one only",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const START: Timestamp = Timestamp(1_000_000_000);

    fn judged(change: impl FnOnce(&mut Signs<'_>)) -> (ChainHealth, String) {
        let conditions = Conditions::default();
        judged_with(&conditions, change)
    }

    fn judged_with(conditions: &Conditions, change: impl FnOnce(&mut Signs<'_>)) -> (ChainHealth, String) {
        let mut signs = Signs {
            now: START.saturating_add(SECOND),
            block: SECOND,
            head_at: Some(START),
            started_at: START,
            max_head_age: SECOND * 15,
            conditions,
            clock_skew_ms: -300,
            data_fee_fault: None,
            no_lane: None,
        };
        change(&mut signs);
        let (health, detail) = judge(&signs);
        (health, detail.unwrap_or_default())
    }

    #[test]
    fn a_chain_that_can_not_be_followed_is_not_healthy() {
        let after = |seconds: u32| judged(|signs| signs.now = START.saturating_add(SECOND * seconds));
        assert_eq!(after(4).0, ChainHealth::Healthy);
        assert_eq!(after(6), (ChainHealth::Impaired, "no new block for 6 s".to_owned()));
        let (health, detail) = after(16);
        assert!(health == ChainHealth::Unavailable && detail.contains("chain.max_head_age_ms"), "{detail}");
        // With blocks on demand, their absence says nothing.
        let on_demand =
            judged(|signs| (signs.now, signs.max_head_age) = (START.saturating_add(SECOND * 900), Duration::ZERO));
        assert_eq!(on_demand.0, ChainHealth::Healthy);
        let conditions =
            Conditions { unfollowed: Some((START, "node-0: timed out".to_owned())), ..Conditions::default() };
        let (health, detail) = judged_with(&conditions, |_| {});
        assert!(health == ChainHealth::Impaired && detail.contains("node-0: timed out"), "{detail}");
        let never =
            judged_with(&conditions, |signs| (signs.head_at, signs.now) = (None, START.saturating_add(SECOND * 16)));
        assert_eq!(never.0, ChainHealth::Unavailable);
        assert_eq!(judged(|signs| signs.head_at = None).0, ChainHealth::Starting);
    }

    #[test]
    fn a_clock_that_is_ahead_or_behind_is_told() {
        let with = |skew_ms: i64| judged(|signs| signs.clock_skew_ms = skew_ms);
        assert_eq!(with(10_000).0, ChainHealth::Healthy);
        assert_eq!(with(-50_000).0, ChainHealth::Healthy);
        let (health, detail) = with(60_000);
        assert!(health == ChainHealth::Impaired && detail.contains("60 s ahead"), "{detail}");
        let (health, detail) = with(-90_000);
        assert!(health == ChainHealth::Impaired && detail.contains("90 s old"), "{detail}");
        assert_eq!(clock_fault(-90_000, Duration::from_secs(60)), None, "blocks of a minute");
    }

    #[test]
    fn what_keeps_things_from_becoming_final_is_told() {
        let conditions = Conditions { no_majority_since: Some(START), ..Conditions::default() };
        assert_eq!(judged_with(&conditions, |_| {}).0, ChainHealth::Healthy, "a hiccup");
        let (health, detail) = judged_with(&conditions, |signs| {
            (signs.now, signs.head_at) = (START.saturating_add(SECOND * 60), Some(START.saturating_add(SECOND * 59)));
        });
        assert!(health == ChainHealth::Impaired && detail.contains("for 60 s"), "{detail}");
        assert!(cost_of_few(1).is_some() && cost_of_few(2).is_some_and(|text| text.contains("both")));
        assert_eq!(cost_of_few(3), None);
    }
}
