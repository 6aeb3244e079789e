//! `eth_feeHistory`: one node's report of its recent blocks.

use std::collections::VecDeque;

use alloy_primitives::{U64, U128};
use serde::Deserialize;

use super::{FeePoint, Tips, Utilisation};

/// Reward percentiles to request: the tips of a patient, a usual and a hurried sender. [`FeeHistory::points`] reads
/// them in this order.
pub const REWARD_PERCENTILES: [u8; 3] = [20, 50, 90];

/// Most blocks of one `eth_feeHistory` call: the limit of geth and similar nodes.
pub const MAX_HISTORY_BLOCKS: u64 = 1_024;

/// Answer of `eth_feeHistory`, requested with [`REWARD_PERCENTILES`]. Fields that a node omits are empty.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FeeHistory {
    /// Height of the first block.
    #[serde(default)]
    pub oldest_block: U64,
    /// Base fee of each block and, last, of the block after them; wei per gas.
    #[serde(default)]
    pub base_fee_per_gas: Vec<U128>,
    /// Metered gas over gas limit of each block.
    #[serde(default)]
    pub gas_used_ratio: Vec<Option<f64>>,
    /// Tips of each block at the requested percentiles, wei per gas.
    #[serde(default)]
    pub reward: Option<Vec<Vec<U128>>>,
}

impl FeeHistory {
    /// The blocks, oldest first. The last base fee is the next block's and gives no point of its own.
    pub fn points(&self) -> impl Iterator<Item = FeePoint> + '_ {
        let oldest = self.oldest_block.to::<u64>();
        let fee = |index: usize| self.base_fee_per_gas.get(index).map(|fee: &U128| fee.to::<u128>());
        let blocks = self.base_fee_per_gas.len().saturating_sub(1);
        (0..blocks).filter_map(move |index| {
            let rewards = self.reward.as_ref().and_then(|rewards| rewards.get(index));
            let reward = |place: usize| rewards.and_then(|block| block.get(place)).map(|tip| tip.to::<u128>());
            Some(FeePoint {
                number: oldest.checked_add(u64::try_from(index).ok()?)?,
                timestamp: None,
                base_fee: fee(index)?,
                utilisation: self.gas_used_ratio.get(index).copied().flatten().map(Utilisation::Ratio),
                tips: Tips { min: reward(0), typical: reward(1), mean: None, max: reward(2) },
                next_base_fee: fee(index + 1),
            })
        })
    }
}

/// Number of blocks whose fees are remembered, to detect a reorg.
const REMEMBERED: usize = 256;

/// Extracts new points from one node's overlapping answers. A relayer compares several nodes with a [`super::FeeBook`];
/// a client with one node only, such as a wallet, can do no better than this.
#[derive(Debug, Clone, Default)]
pub struct HistoryFeed {
    /// Height, base fee and next base fee, ascending by height.
    seen: VecDeque<(u64, u128, Option<u128>)>,
}

impl HistoryFeed {
    /// Points of `history` from the first that is unknown or differs from the one returned before; empty if none is
    /// new. Blocks older than any remembered one are not returned.
    pub fn news(&mut self, history: &FeeHistory) -> Vec<FeePoint> {
        let points: Vec<FeePoint> = history.points().collect();
        let newest = self.seen.back().map(|seen| seen.0);
        let is_news = |point: &FeePoint| {
            if newest.is_none_or(|newest| point.number > newest) {
                return true;
            }
            let known = self.seen.iter().find(|seen| seen.0 == point.number);
            known.is_some_and(|seen| (seen.1, seen.2) != (point.base_fee, point.next_base_fee))
        };
        let Some(first) = points.iter().position(is_news) else { return Vec::new() };
        let news = points[first..].to_vec();
        for point in &news {
            while self.seen.back().is_some_and(|seen| seen.0 >= point.number) {
                self.seen.pop_back();
            }
            self.seen.push_back((point.number, point.base_fee, point.next_base_fee));
            if self.seen.len() > REMEMBERED {
                self.seen.pop_front();
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(oldest: u64, fees: &[u128]) -> FeeHistory {
        FeeHistory {
            oldest_block: U64::from(oldest),
            base_fee_per_gas: fees.iter().map(|fee| U128::from(*fee)).collect(),
            ..FeeHistory::default()
        }
    }

    fn numbers(points: &[FeePoint]) -> Vec<u64> {
        points.iter().map(|point| point.number).collect()
    }

    #[test]
    fn an_answer_becomes_points() {
        let text = r#"{"oldestBlock":"0x10","baseFeePerGas":["0x7","0x8","0x9"],"gasUsedRatio":[0.25,null],
            "reward":[["0x1","0x2","0x3"],[]],"more":1}"#;
        let history: FeeHistory = serde_json::from_str(text).unwrap();
        let points: Vec<FeePoint> = history.points().collect();
        assert_eq!(numbers(&points), [16, 17]);
        assert_eq!((points[0].base_fee, points[0].next_base_fee), (7, Some(8)));
        assert_eq!(points[0].utilisation, Some(Utilisation::Ratio(0.25)));
        assert_eq!(points[0].tips, Tips { min: Some(1), typical: Some(2), mean: None, max: Some(3) });
        assert_eq!((points[1].utilisation, points[1].tips), (None, Tips::default()));
        assert_eq!(FeeHistory::default().points().count(), 0);
        let last = history_at_the_end();
        assert_eq!(numbers(&last.points().collect::<Vec<_>>()), [u64::MAX]);
    }

    fn history_at_the_end() -> FeeHistory {
        history(u64::MAX, &[1, 2, 3])
    }

    #[test]
    fn only_news_is_told() {
        let mut feed = HistoryFeed::default();
        assert_eq!(numbers(&feed.news(&history(5, &[1, 2, 3]))), [5, 6]);
        assert!(feed.news(&history(5, &[1, 2, 3])).is_empty());
        assert_eq!(numbers(&feed.news(&history(6, &[2, 3, 4]))), [7]);
        // A gap gives no points for the blocks in it.
        assert_eq!(numbers(&feed.news(&history(20, &[9, 9]))), [20]);
        assert!(feed.news(&history(10, &[1, 1])).is_empty());
    }

    #[test]
    fn a_reorganisation_is_news_from_where_it_differs() {
        let mut feed = HistoryFeed::default();
        feed.news(&history(1, &[10, 11, 12, 13]));
        assert_eq!(numbers(&feed.news(&history(1, &[10, 11, 20, 21]))), [2, 3]);
        // A shorter branch replaces the tail.
        assert_eq!(numbers(&feed.news(&history(1, &[10, 30]))), [1]);
        assert_eq!(numbers(&feed.news(&history(1, &[10, 30, 31]))), [2]);
    }
}
