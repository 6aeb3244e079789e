//! Hedged reads: delay before a second node is asked, and the budget of such calls. Pure.

use std::time::Duration;

/// Hedge delay for a method never measured at a node (RFC 6298 §2.1).
pub(in crate::relay) const UNMEASURED: Duration = Duration::from_secs(1);

/// Least hedge delay, regardless of the configured floor.
const SHORTEST: Duration = Duration::from_millis(1);

/// Burst of hedges allowed before the share of calls limits them.
const BURST: u64 = 10;

/// Rule for asking a second node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::relay) struct HedgeRule {
    /// Least hedge delay.
    pub(in crate::relay) floor: Duration,
    /// Most hedges, percent of the reads, beyond a burst of ten. 0 disables hedging.
    pub(in crate::relay) budget_percent: u32,
}

impl HedgeRule {
    /// No hedging.
    pub(in crate::relay) const NEVER: Self = Self { floor: crate::sender::tuning::HEDGE_FLOOR, budget_percent: 0 };
}

/// A node's answer time: a smoothed mean and the mean deviation from it, as TCP measures round trips (RFC 6298).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::relay) struct Latency {
    mean: Duration,
    deviation: Duration,
}

impl Latency {
    /// Starts a record with the first answer's time.
    pub(in crate::relay) fn first(took: Duration) -> Self {
        Self { mean: took, deviation: took / 2 }
    }

    /// Records another answer's time, which weighs an eighth in the mean, a quarter in the deviation.
    pub(in crate::relay) fn measured(&mut self, took: Duration) {
        self.deviation = (self.deviation * 3 + self.mean.abs_diff(took)) / 4;
        self.mean = (self.mean * 7 + took) / 8;
    }
}

/// Wait for a node before another one is asked too: longer than nearly all of its answers to this method in `record`;
/// at least `floor`, at most `timeout`, at which the call is given up anyway.
///
/// Mean plus four deviations (RFC 6298 §2.3). A node that answers in 20 ± 5 ms gets 40 ms.
pub(in crate::relay) fn hedge_after(record: Option<&Latency>, floor: Duration, timeout: Duration) -> Duration {
    let usual = record.map_or(UNMEASURED, |latency| latency.mean + latency.deviation * 4);
    usual.max(floor).max(SHORTEST).min(timeout)
}

/// Remaining hedges: a share of the calls, and [`BURST`] at once. If all nodes are slow, hedges are useless and add
/// load; the budget then stops them.
#[derive(Debug, Clone, Copy)]
pub(in crate::relay) struct HedgeBudget {
    percent: u64,
    /// Remaining budget, hundredths of a hedge.
    left: u64,
}

impl HedgeBudget {
    pub(in crate::relay) fn new(percent: u32) -> Self {
        let percent = u64::from(percent);
        Self { percent, left: if percent == 0 { 0 } else { BURST * 100 } }
    }

    /// Counts a call towards the budget.
    pub(in crate::relay) fn called(&mut self) {
        self.left = (self.left + self.percent).min(BURST * 100);
    }

    /// Takes a hedge; false if none is left.
    pub(in crate::relay) fn take(&mut self) -> bool {
        let is_left = self.percent > 0 && self.left >= 100;
        if is_left {
            self.left -= 100;
        }
        is_left
    }

    /// Returns a hedge that found no node to ask.
    pub(in crate::relay) fn give_back(&mut self) {
        self.left = (self.left + 100).min(BURST * 100);
    }
}

/// True if `method` is known to only read, so that asking twice is harmless. Any other method is asked once.
pub(in crate::relay) fn is_read(method: &str) -> bool {
    const READS: [&str; 10] = [
        "eth_blobBaseFee",
        "eth_blockNumber",
        "eth_call",
        "eth_chainId",
        "eth_createAccessList",
        "eth_estimateGas",
        "eth_feeHistory",
        "eth_gasPrice",
        "eth_maxPriorityFeePerGas",
        "eth_simulateV1",
    ];
    READS.contains(&method)
        || (method.starts_with("eth_get") && !method.starts_with("eth_getFilter") && method != "eth_getWork")
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_hedge_comes_after_nearly_all_answers() {
        let mut latency = Latency::first(ms(80));
        assert_eq!(hedge_after(Some(&latency), ms(50), ms(10_000)), ms(240), "one answer is little to go by");
        for _ in 0..200 {
            latency.measured(ms(80));
        }
        // Steady: nearly at the mean, and never sooner than the floor.
        let steady = hedge_after(Some(&latency), ms(50), ms(10_000));
        assert!(steady >= ms(80) && steady < ms(82), "{steady:?}");
        assert_eq!(hedge_after(Some(&latency), ms(200), ms(10_000)), ms(200));
        // As unsteady as 20 to 140 ms: beyond all of them.
        for turn in 0..200 {
            latency.measured(if turn % 2 == 0 { ms(20) } else { ms(140) });
        }
        let unsteady = hedge_after(Some(&latency), ms(50), ms(10_000));
        assert!(unsteady > ms(140) && unsteady < ms(400), "{unsteady:?}");
        // Given up anyway.
        assert_eq!(hedge_after(Some(&latency), ms(50), ms(100)), ms(100));
        assert_eq!(hedge_after(None, ms(50), ms(10_000)), UNMEASURED);
        assert_eq!(hedge_after(None, ms(50), ms(400)), ms(400));
        assert_eq!(hedge_after(None, ms(500), ms(400)), ms(400), "a floor above the timeout hedges nothing");
    }

    #[test]
    fn the_budget_is_a_share_of_the_calls() {
        let mut budget = HedgeBudget::new(10);
        let spent = |budget: &mut HedgeBudget, calls: u64| {
            (0..calls)
                .filter(|_| {
                    budget.called();
                    budget.take()
                })
                .count() as u64
        };
        assert_eq!(spent(&mut budget, 1_000), 1_000 / 10 + BURST - 1);
        // A quiet time saves no more than a burst.
        (0..100_000).for_each(|_| budget.called());
        let burst = std::iter::repeat_with(|| budget.take()).take_while(|is_left| *is_left).count() as u64;
        assert_eq!(burst, BURST);
        budget.give_back();
        assert!(budget.take() && !budget.take());
        let mut none = HedgeBudget::new(0);
        assert_eq!(spent(&mut none, 1_000), 0);
        assert_eq!(spent(&mut HedgeBudget::new(100), 1_000), 1_000);
    }

    #[test]
    fn what_writes_is_asked_once() {
        for read in
            ["eth_call", "eth_getBalance", "eth_getTransactionReceipt", "eth_getBlockByNumber", "eth_simulateV1"]
        {
            assert!(is_read(read), "{read}");
        }
        for other in [
            "eth_sendRawTransaction",
            "eth_sendTransaction",
            "eth_sendRawTransactionSync",
            "eth_getFilterChanges",
            "eth_newFilter",
            "evm_mine",
            "anvil_setBalance",
            "",
        ] {
            assert!(!is_read(other), "{other}");
        }
    }
}
