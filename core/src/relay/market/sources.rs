//! Fee histories of all nodes, and the fee book that decides which of them to believe.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;

use super::header::Header;
use crate::relay::rpc::{RpcError, RpcPool};
use crate::{
    chain::{BaseFeeRule, RpcErrorClass},
    market::{
        BookConfig, FeeBook, FeeHistory, FeePoint, MAX_HISTORY_BLOCKS, REWARD_PERCENTILES, Report, SourceId,
        SourceStatus, Tips, UTILISATION_TOLERANCE, Utilisation,
    },
    time::{BlockTimestamp, Timestamp},
};

/// Fee history answers of all nodes, in the order of configuration.
#[derive(Debug, Clone, Default)]
pub(in crate::relay) struct Histories {
    answers: Vec<Option<(FeeHistory, Duration)>>,
    /// No node answered, and at least one refused rather than being away: a request for fewer blocks may succeed.
    is_refused: bool,
}

impl Histories {
    /// Reads the newest `blocks` blocks from every node. If most nodes do not know block `head` yet, retries once after
    /// `patience`.
    pub(in crate::relay) async fn read(pool: &RpcPool, blocks: u64, head: u64, patience: Duration) -> Self {
        let blocks = blocks.clamp(1, MAX_HISTORY_BLOCKS);
        let params = json!([format!("{blocks:#x}"), "latest", REWARD_PERCENTILES]);
        let ask = async || {
            let answers: Vec<_> = pool.call_all_timed::<FeeHistory>("eth_feeHistory", params.clone()).await;
            // A node that is away or rate-limited would not answer for fewer blocks either.
            let is_away =
                |error: &RpcError| matches!(error.class, RpcErrorClass::NodeUnavailable | RpcErrorClass::RateLimited);
            let is_refused = answers.iter().all(|(answer, _)| answer.is_err())
                && answers.iter().any(|(answer, _)| answer.as_ref().is_err_and(|error| !is_away(error)));
            let answers =
                answers.into_iter().map(|(answer, latency)| answer.ok().map(|answer| (answer, latency))).collect();
            Self { answers, is_refused }
        };
        let first = ask().await;
        if first.knowing(head) * 2 > first.answers.len() {
            return first;
        }
        tokio::time::sleep(patience).await;
        ask().await
    }

    /// True if every reachable node refused this number of blocks.
    pub(in crate::relay) const fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// Number of nodes that know block `head`.
    fn knowing(&self, head: u64) -> usize {
        let newest = |history: &FeeHistory| {
            let blocks = u64::try_from(history.base_fee_per_gas.len()).unwrap_or(0).saturating_sub(1);
            (history.oldest_block.to::<u64>()).saturating_add(blocks).saturating_sub(1)
        };
        self.answers.iter().flatten().filter(|(history, _)| newest(history) >= head).count()
    }

    fn reports(&self) -> Vec<Option<Vec<Report>>> {
        self.answers.iter().map(|answer| answer.as_ref().map(|(history, latency)| reports(history, *latency))).collect()
    }
}

/// The blocks of one node's answer, oldest first.
fn reports(history: &FeeHistory, latency: Duration) -> Vec<Report> {
    history.points().map(|point| Report { hash: None, point, latency }).collect()
}

/// Believed result of processing a head.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::relay) struct AgreedHead {
    /// New or replaced blocks, oldest first.
    pub(in crate::relay) points: Vec<FeePoint>,
    /// Base fee of the next block, wei per gas.
    pub(in crate::relay) next_base_fee: u128,
    /// True if the header agrees with the sources' vote.
    pub(in crate::relay) is_header_agreed: bool,
    /// True if the sources voted on the head.
    pub(in crate::relay) is_voted: bool,
}

/// One chain's fees as reported by its sources.
#[derive(Debug)]
pub(in crate::relay) struct ChainMarket {
    book: FeeBook,
    names: Vec<String>,
    tolerance_bps: u32,
}

impl ChainMarket {
    /// A market over the endpoints `names`.
    pub(in crate::relay) fn new(config: BookConfig, names: Vec<String>) -> Self {
        let sources = u16::try_from(names.len()).unwrap_or(u16::MAX);
        Self { book: FeeBook::new(config, sources), names, tolerance_bps: config.tolerance_bps }
    }

    /// Absorbs all nodes' histories up to the head and returns the new or replaced blocks, oldest first.
    ///
    /// The head's `header` comes from one node. If it agrees with the sources' vote, the header and the chain's own
    /// rule (`next_base_fee`) are more exact than a fee history; otherwise the vote counts. With only one source there
    /// was no vote: the header then moves the fee no further from the newest block with a vote than the chain's `rule`
    /// allows (invariant I15).
    pub(in crate::relay) fn on_head(
        &mut self,
        now: Timestamp,
        histories: &Histories,
        header: &Header,
        next_base_fee: u128,
        rule: &BaseFeeRule,
    ) -> AgreedHead {
        let number = header.number();
        let has_vote = histories.knowing(number) > 1;
        let mut points = self.absorb(now, histories);
        let is_voted = has_vote || self.names.len() < 2;
        let known = || self.book.window().rev().find(|point| point.number == number).copied();
        let Some(voted) = points.iter().rfind(|point| point.number == number).copied().or_else(known) else {
            return self.unvoted(points, number, next_base_fee, rule);
        };
        if voted.base_fee != header.base_fee() {
            let next_base_fee = voted.price();
            return AgreedHead { points, next_base_fee, is_header_agreed: false, is_voted };
        }
        if !is_voted {
            return self.unvoted(points, number, next_base_fee, rule);
        }
        let told = header.utilisation();
        let is_same_use = match (told.and_then(Utilisation::ratio), voted.utilisation.and_then(Utilisation::ratio)) {
            (Some(told), Some(voted)) if has_vote => (told - voted).abs() <= UTILISATION_TOLERANCE,
            (None, Some(_)) => !has_vote,
            _ => true,
        };
        let spread = |fee: u128| (fee / 10_000).saturating_mul(u128::from(self.tolerance_bps));
        let is_same_next = match voted.next_base_fee {
            Some(next) if has_vote => next.abs_diff(next_base_fee) <= spread(next),
            _ => true,
        };
        if let Some(point) = points.iter_mut().rfind(|point| point.number == number) {
            point.timestamp = Some(BlockTimestamp(header.timestamp.to()));
            if is_same_use {
                point.utilisation = told.or(point.utilisation);
            }
            if is_same_next {
                point.next_base_fee = Some(next_base_fee);
            }
        }
        let next_base_fee = if is_same_next { next_base_fee } else { voted.price() };
        AgreedHead { points, next_base_fee, is_header_agreed: is_same_next && is_same_use, is_voted }
    }

    /// Result for a head reported by only one of several sources.
    fn unvoted(&self, points: Vec<FeePoint>, number: u64, told: u128, rule: &BaseFeeRule) -> AgreedHead {
        let is_voted = self.names.len() < 2;
        let allowed = self.allowed(number, rule).filter(|_| !is_voted);
        let next_base_fee = allowed.map_or(told, |(least, most)| told.clamp(least, most.max(least)));
        AgreedHead { points, next_base_fee, is_header_agreed: next_base_fee == told, is_voted }
    }

    /// Least and highest base fee of the block after `number` that the newest block with a vote allows, wei per gas.
    fn allowed(&self, number: u64, rule: &BaseFeeRule) -> Option<(u128, u128)> {
        let voted = self.book.window().rev().find(|point| point.number < number)?;
        let blocks = number.saturating_add(1).saturating_sub(voted.number);
        let price = voted.price();
        // Without a bound per step, at most double.
        let doubled = price.saturating_mul(2).max(1);
        let most = match rule {
            BaseFeeRule::Backlog { .. } | BaseFeeRule::Operator { .. } => doubled,
            _ => rule.max_after(price, blocks, &[]).unwrap_or(doubled),
        };
        // At most an eighth per block, as on Ethereum: a faster fall is believed once the other nodes report it.
        let least = (0..blocks.min(64)).fold(price, |fee, _| fee - fee / 8);
        Some((least, most))
    }

    /// Absorbs all nodes' histories and returns the new or replaced blocks, oldest first.
    pub(in crate::relay) fn absorb(&mut self, now: Timestamp, histories: &Histories) -> Vec<FeePoint> {
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
        // A known block that at least half of its reporters confirm is not settled again.
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
            let witnesses = reports.len();
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
            let mut point = outcome.point;
            if self.names.len() > 2 && witnesses < 2 {
                // The tips of a block reported by one of several sources are ignored (I15).
                point.tips = Tips::default();
            }
            settled.push(point);
        }
        settled
    }

    /// The believed blocks.
    pub(in crate::relay) const fn book(&self) -> &FeeBook {
        &self.book
    }

    /// Every source by name.
    pub(in crate::relay) fn sources(&self) -> Vec<(String, SourceStatus)> {
        self.book.sources().map(|(id, status)| (self.names[usize::from(id.0)].clone(), *status)).collect()
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;
    use serde_json::Value;

    use super::*;
    use crate::chain::BaseFeeParams;

    const BASE_FEE: u64 = 1_000_000_000;

    const RULE: BaseFeeRule = BaseFeeRule::Eip1559(BaseFeeParams::ETHEREUM);

    /// A chain of half-full blocks: the base fee stays constant.
    fn history(head: u64, blocks: u64) -> Value {
        let of = |value: Value| vec![value; usize::try_from(blocks).unwrap()];
        let mut fees = of(json!(format!("{BASE_FEE:#x}")));
        fees.push(json!(format!("{BASE_FEE:#x}")));
        json!({
            "oldestBlock": format!("{:#x}", head + 1 - blocks),
            "baseFeePerGas": fees,
            "gasUsedRatio": of(json!(0.5)),
            "reward": of(json!(["0x10", "0x20", "0x30"])),
        })
    }

    /// Correct base fees; everything else is false.
    fn half_truth(mut history: Value) -> Value {
        let blocks = history["gasUsedRatio"].as_array().unwrap().len();
        history["gasUsedRatio"] = json!(vec![1.0; blocks]);
        history["reward"] = json!(vec![["0xffffffff", "0xffffffff", "0xffffffff"]; blocks]);
        history["baseFeePerGas"][blocks] = json!(format!("{:#x}", BASE_FEE * 9 / 8));
        history
    }

    fn header(number: u64, used: u64) -> Header {
        serde_json::from_value(json!({
            "number": format!("{number:#x}"), "hash": B256::repeat_byte(1), "parentHash": B256::repeat_byte(2),
            "timestamp": "0x10", "gasUsed": format!("{used:#x}"), "gasLimit": format!("{:#x}", 30_000_000),
            "baseFeePerGas": format!("{BASE_FEE:#x}"),
        }))
        .unwrap()
    }

    fn market(nodes: usize) -> ChainMarket {
        ChainMarket::new(BookConfig::default(), (0..nodes).map(|node| format!("rpc-{node}")).collect())
    }

    fn histories(answers: &[Value]) -> Histories {
        let read = |answer: &Value| Some((serde_json::from_value(answer.clone()).unwrap(), Duration::from_millis(9)));
        Histories { answers: answers.iter().map(read).collect(), is_refused: false }
    }

    /// The node that reports heads lies about gas, tips and the next fee, in headers and histories: nothing changes.
    #[test]
    fn a_lying_main_node_changes_nothing() {
        let (mut honest, mut lied_to) = (market(3), market(3));
        let next = u128::from(BASE_FEE);
        for head in 100..160_u64 {
            let now = Timestamp(head * 12_000);
            let truth = history(head, 10);
            let word = honest.on_head(
                now,
                &histories(&[truth.clone(), truth.clone(), truth.clone()]),
                &header(head, 15_000_000),
                next,
                &RULE,
            );
            assert!(word.is_header_agreed && word.next_base_fee == next);
            // Its header claims full blocks: by the rule the next base fee would be an eighth higher.
            let answers = histories(&[half_truth(truth.clone()), truth.clone(), truth.clone()]);
            let told = lied_to.on_head(now, &answers, &header(head, 30_000_000), next * 9 / 8, &RULE);
            assert_eq!((told.next_base_fee, told.is_header_agreed), (next, false), "block {head}");
            let seen = |points: &[FeePoint]| {
                let of = |point: &FeePoint| {
                    (
                        point.number,
                        point.base_fee,
                        point.utilisation.and_then(Utilisation::ratio),
                        point.tips,
                        point.price(),
                    )
                };
                points.iter().map(of).collect::<Vec<_>>()
            };
            assert_eq!(seen(&told.points), seen(&word.points), "block {head}");
        }
        let (name, liar) = lied_to.sources().swap_remove(0);
        assert!(name == "rpc-0" && !liar.is_active() && liar.deviations > 40, "{liar:?}");
        assert!(lied_to.sources()[1..].iter().all(|(_, status)| status.is_active() && status.deviations == 0));
    }

    /// An honest header gives the exact values, also for a block that the book knew before the head was reported, and
    /// with one node.
    #[test]
    fn an_honest_header_is_believed() {
        for nodes in [1, 3] {
            let mut market = market(nodes);
            let now = Timestamp(1_200_000);
            let answers = histories(&vec![history(100, 10); nodes]);
            let word = market.on_head(now, &answers, &header(100, 15_000_001), u128::from(BASE_FEE) + 4, &RULE);
            assert_eq!((word.next_base_fee, word.is_header_agreed), (u128::from(BASE_FEE) + 4, true));
            let newest = word.points.last().unwrap();
            assert_eq!(newest.utilisation, Some(Utilisation::Gas { used: 15_000_001, limit: 30_000_000 }));
            assert_eq!(newest.next_base_fee, Some(u128::from(BASE_FEE) + 4));
            let again = market.on_head(now, &answers, &header(100, 15_000_001), u128::from(BASE_FEE) + 4, &RULE);
            assert!(again.points.is_empty() && again.is_header_agreed);
            // Known before, then reported wrongly by the head.
            let lie = market.on_head(now, &answers, &header(100, 30_000_000), u128::from(BASE_FEE) * 9 / 8, &RULE);
            assert_eq!(lie.is_header_agreed, nodes == 1, "one source alone is believed");
        }
    }

    /// The fastest node alone reports a next block, and invents it: the others' blocks bound its fee.
    #[test]
    fn a_block_that_one_node_alone_has_moves_the_fee_by_the_rule_only() {
        let mut market = market(3);
        let (now, truth, price) = (Timestamp(1_200_000), history(100, 10), u128::from(BASE_FEE));
        let answers = histories(&[truth.clone(), truth.clone(), truth]);
        market.on_head(now, &answers, &header(100, 15_000_000), price, &RULE);
        for (told, believed) in
            [(price * 1_000, price * 9 / 8 * 9 / 8), (0, price * 7 / 8 * 7 / 8), (price * 9 / 8, price * 9 / 8)]
        {
            let word = market.on_head(now, &answers, &header(101, 15_000_000), told, &RULE);
            assert!(word.next_base_fee.abs_diff(believed) < 3, "{} for {told}", word.next_base_fee);
            assert_eq!((word.is_header_agreed, word.is_voted), (told == believed, false));
        }
    }
}
