//! What every node says about recent fees, and the book that decides which of it is believed.

use std::{collections::BTreeMap, time::Duration};

use alloy_primitives::U128;
use serde_json::json;

use super::{
    fees::{FeeHistory, Header, median},
    rpc::RpcPool,
};
use crate::{
    BlockTimestamp, Timestamp,
    market::{BookConfig, FeeBook, FeePoint, Report, SourceId, SourceStatus, Tips, Utilisation},
};

/// Reward percentiles that are asked for: what a patient, a usual and a hurried sender paid.
pub(super) const REWARD_PERCENTILES: [u8; 3] = [20, 50, 90];

/// Blocks behind the tip that an attempt offers.
const TIP_BLOCKS: usize = 10;

/// Blocks that one `eth_feeHistory` may ask for: what geth and its kin allow.
pub(super) const MAX_HISTORY_BLOCKS: u64 = 1_024;

/// Answers of all nodes, in the order of configuration.
#[derive(Debug, Clone, Default)]
pub(super) struct Histories(Vec<Option<(FeeHistory, Duration)>>);

impl Histories {
    /// Asks every node for the newest `blocks` blocks. Where most nodes do not know block `head` yet they are asked again,
    /// once after `patience`.
    pub(super) async fn read(pool: &RpcPool, blocks: u64, head: u64, patience: Duration) -> Self {
        let blocks = blocks.clamp(1, MAX_HISTORY_BLOCKS);
        let params = json!([format!("{blocks:#x}"), "latest", REWARD_PERCENTILES]);
        let ask = async || {
            let answers: Vec<_> = pool.call_all_timed::<FeeHistory>("eth_feeHistory", params.clone()).await;
            Self(answers.into_iter().map(|(answer, latency)| answer.ok().map(|answer| (answer, latency))).collect())
        };
        let first = ask().await;
        if first.knowing(head) * 2 > first.0.len() {
            return first;
        }
        tokio::time::sleep(patience).await;
        ask().await
    }

    /// How many nodes know block `head`.
    fn knowing(&self, head: u64) -> usize {
        let newest = |history: &FeeHistory| {
            let blocks = u64::try_from(history.base_fee_per_gas.len()).unwrap_or(0).saturating_sub(1);
            (history.oldest_block.to::<u64>()).saturating_add(blocks).saturating_sub(1)
        };
        self.0.iter().flatten().filter(|(history, _)| newest(history) >= head).count()
    }

    /// The usual tip over the last blocks: per node the median of what patient senders paid, of those the median; wei per
    /// gas. A node that lies does not reach it while most are honest.
    pub(super) fn tip(&self) -> Option<u128> {
        median(self.0.iter().flatten().filter_map(|(history, _)| history.tip(TIP_BLOCKS)).collect())
    }

    fn reports(&self) -> Vec<Option<Vec<Report>>> {
        self.0.iter().map(|answer| answer.as_ref().map(|(history, latency)| reports(history, *latency))).collect()
    }
}

/// The blocks of one node's answer, oldest first.
fn reports(history: &FeeHistory, latency: Duration) -> Vec<Report> {
    let oldest = history.oldest_block.to::<u64>();
    let fee = |index: usize| history.base_fee_per_gas.get(index).map(|fee: &U128| fee.to::<u128>());
    // The last base fee is the next block's.
    let blocks = history.base_fee_per_gas.len().saturating_sub(1);
    (0..blocks)
        .filter_map(|index| {
            let rewards = history.reward.as_ref().and_then(|rewards| rewards.get(index));
            let reward = |place: usize| rewards.and_then(|block| block.get(place)).map(|tip| tip.to::<u128>());
            let point = FeePoint {
                number: oldest.checked_add(u64::try_from(index).ok()?)?,
                timestamp: None,
                base_fee: fee(index)?,
                utilisation: history.gas_used_ratio.get(index).copied().flatten().map(Utilisation::Ratio),
                tips: Tips { min: reward(0), typical: reward(1), mean: None, max: reward(2) },
                next_base_fee: fee(index + 1),
            };
            Some(Report { hash: None, point, latency })
        })
        .collect()
}

/// One chain's fees as its sources see them.
#[derive(Debug)]
pub(super) struct ChainMarket {
    book: FeeBook,
    names: Vec<String>,
}

impl ChainMarket {
    /// A market over the endpoints `names`.
    pub(super) fn new(config: BookConfig, names: Vec<String>) -> Self {
        let sources = u16::try_from(names.len()).unwrap_or(u16::MAX);
        Self { book: FeeBook::new(config, sources), names }
    }

    /// Takes what all nodes said up to the head and returns the blocks that are new or replaced, oldest first. Of the head
    /// itself `header` and the chain's own rule (`next_base_fee`) say more than a fee history does; they are used if the
    /// sources agree with it.
    pub(super) fn on_head(
        &mut self,
        now: Timestamp,
        histories: &Histories,
        header: &Header,
        next_base_fee: u128,
    ) -> Vec<FeePoint> {
        let mut settled = self.absorb(now, histories);
        if let Some(point) = settled.last_mut()
            && (point.number, point.base_fee) == (header.number(), header.base_fee())
        {
            point.timestamp = Some(BlockTimestamp(header.timestamp.to()));
            point.utilisation = header.utilisation().or(point.utilisation);
            point.next_base_fee = Some(next_base_fee);
        }
        settled
    }

    /// Takes what all nodes said and returns the blocks that are new or replaced, oldest first.
    pub(super) fn absorb(&mut self, now: Timestamp, histories: &Histories) -> Vec<FeePoint> {
        let mut blocks: BTreeMap<u64, Vec<(SourceId, Report)>> = BTreeMap::new();
        for (source, answer) in histories.reports().into_iter().enumerate() {
            let source = SourceId(u16::try_from(source).unwrap_or(u16::MAX));
            match answer {
                Some(reports) => {
                    for report in reports {
                        blocks.entry(report.point.number).or_default().push((source, report));
                    }
                }
                None => self.book.fail(now, source),
            }
        }
        // A block that is known and that nobody sees differently is not settled again.
        let known: BTreeMap<u64, u128> = self.book.window().map(|point| (point.number, point.base_fee)).collect();
        let newest = self.book.newest().map(|point| point.number);
        let mut settled = Vec::new();
        let mut is_replacing = false;
        for (number, reports) in blocks {
            let is_known = newest.is_some_and(|newest| number <= newest);
            let differs = |report: &Report| known.get(&number).is_none_or(|fee| *fee != report.point.base_fee);
            let agreeing = reports.iter().filter(|(_, report)| !differs(report)).count();
            if is_known && !is_replacing && agreeing * 2 >= reports.len() {
                continue;
            }
            for (source, report) in reports {
                self.book.report(source, report);
            }
            let Some(outcome) = self.book.settle(now, number) else { continue };
            for (source, fault) in &outcome.faults {
                let name = self.names.get(usize::from(source.0)).map_or("", String::as_str);
                metrics::counter!("slackwater_fee_source_faults_total", "endpoint" => name.to_owned(), "kind" => fault.as_str())
                    .increment(1);
            }
            is_replacing |= outcome.replaced > 0;
            settled.push(outcome.point);
        }
        settled
    }

    /// The believed blocks.
    pub(super) const fn book(&self) -> &FeeBook {
        &self.book
    }

    /// Every source by name.
    pub(super) fn sources(&self) -> Vec<(String, SourceStatus)> {
        self.book.sources().map(|(id, status)| (self.names[usize::from(id.0)].clone(), *status)).collect()
    }
}
