//! Result of a broadcast, and the nodes' limits learned from their refusals.

use std::time::Duration;

use tokio::time::Instant;

use super::RpcError;
use crate::{
    chain::{Fees, Hint, RpcErrorClass, hint, least_price, refused_fee_cap},
    sender::SendReport,
};

/// Lifetime of a learned fee cap: the node may have been restarted with another.
const CAP_LASTS: Duration = Duration::from_secs(3_600);

/// Learns the limits named in a refusal of these fees. One accepting node is enough, so the lowest demand counts.
pub(in crate::relay) fn learn(report: &mut SendReport, error: &RpcError, fees: Fees) {
    let named = hint(error.class, &error.message, error.data.as_deref());
    match (error.class, named) {
        (RpcErrorClass::Underpriced, named) => {
            let named = match named {
                Some(Hint::MinPrice(price)) => Some(price),
                _ => None,
            };
            let wanted = named.filter(|price| *price > fees.max_priority_fee_per_gas);
            let wanted = wanted.or_else(|| least_price(&error.message, fees.max_priority_fee_per_gas));
            report.least_tip = report.least_tip.into_iter().chain(wanted).min();
        }
        (RpcErrorClass::GasTooHigh, Some(Hint::MaxGas(gas))) => {
            report.most_gas = report.most_gas.max(Some(gas));
        }
        _ => {}
    }
}

/// Highest gas limit × fee cap accepted by one node, learned from its refusals.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::relay) struct LearnedCap(Option<(u128, Instant)>);

impl LearnedCap {
    pub(in crate::relay) fn get(self, now: Instant) -> Option<u128> {
        self.0.filter(|(_, at)| now.duration_since(*at) < CAP_LASTS).map(|(cap, _)| cap)
    }

    /// Records that it refused `worst_wei` because of its cap.
    pub(in crate::relay) fn refused(&mut self, error: &RpcError, worst_wei: u128, now: Instant) {
        if error.class == RpcErrorClass::InvalidFees
            && let Some(named) = refused_fee_cap(&error.message)
        {
            let below = worst_wei.saturating_sub(1);
            let known = self.get(now).unwrap_or(u128::MAX);
            self.0 = Some((named.unwrap_or(known).min(below), now));
        }
    }

    /// Records that it accepted `worst_wei`.
    pub(in crate::relay) fn taken(&mut self, worst_wei: u128) {
        if self.0.is_some_and(|(cap, _)| cap < worst_wei) {
            self.0 = None;
        }
    }
}

/// The fee cap of a chain: the highest of its healthy nodes' caps, `learned`. `None` if one node has none. A single one
/// of several nodes can't lower it below `configured`.
pub(in crate::relay) fn chain_cap(learned: &[Option<u128>], nodes: usize, configured: Option<u128>) -> Option<u128> {
    let caps = learned.iter().map(|cap| cap.or(configured)).collect::<Option<Vec<u128>>>()?;
    let highest = caps.into_iter().max().or(configured)?;
    let Some(configured) = configured else { return Some(highest) };
    let is_one_word = learned.iter().flatten().filter(|cap| **cap < configured).count() == 1 && nodes > 1;
    Some(if is_one_word { highest.max(configured) } else { highest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_cap_counts_and_no_single_word_lowers_the_configured_one() {
        let ether = 1_000_000_000_000_000_000;
        assert_eq!(chain_cap(&[None, None], 2, None), None);
        assert_eq!(chain_cap(&[None, None], 2, Some(ether)), Some(ether));
        assert_eq!(chain_cap(&[Some(ether / 2), None], 2, Some(ether)), Some(ether));
        assert_eq!(chain_cap(&[Some(ether / 2), None], 2, None), None, "the other has none, as far as is known");
        assert_eq!(chain_cap(&[Some(ether / 2)], 3, Some(ether)), Some(ether), "the others are away");
        assert_eq!(chain_cap(&[Some(ether / 2), Some(ether / 4)], 2, Some(ether)), Some(ether / 2));
        assert_eq!(chain_cap(&[Some(ether / 2)], 1, Some(ether)), Some(ether / 2), "there is nobody else");
        assert_eq!(chain_cap(&[Some(2 * ether), None], 2, Some(ether)), Some(2 * ether));
        assert_eq!(chain_cap(&[], 2, Some(ether)), Some(ether));
        assert_eq!(chain_cap(&[], 2, None), None);
    }
}
