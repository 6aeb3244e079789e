//! Fee book: agreement on blocks from the reports of several sources.
//!
//! Honest nodes agree to the wei once they have seen a block, so nothing is averaged: the base fee is that of the
//! weighted median report, and among the reports that agree with it each further number (utilisation, each tip, the
//! next base fee) is the weighted median by itself. So a source with the right base fee and false other numbers has one
//! vote on each, and changes nothing while the others outweigh it. A source that lies, lags or flaps loses its vote;
//! its presence then changes nothing.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use alloy_primitives::B256;

use super::{
    FeePoint, Tips, Utilisation,
    source::{BenchRule, Fault, SourceStatus},
};
use crate::Timestamp;

/// Difference between two nodes' utilisation ratios that is only due to rounding.
pub const UTILISATION_TOLERANCE: f64 = 1e-3;

/// Most unsettled blocks kept per source.
pub const PENDING_BLOCKS: usize = 64;

/// Index of a source, in the order of configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u16);

/// One source's report of one block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Report {
    /// Hash of the block; `None` if unknown.
    pub hash: Option<B256>,
    /// Fees of the block. Each number is voted on separately.
    pub point: FeePoint,
    /// Response time of the source.
    pub latency: Duration,
}

/// Limits of a [`FeeBook`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BookConfig {
    /// Number of blocks kept (`fee_window_blocks`).
    pub window_blocks: usize,
    /// Blocks that a source may lag behind the one being settled (`source_max_lag_blocks`).
    pub max_lag_blocks: u64,
    /// Multiples of the median absolute deviation beyond which a report is an outlier.
    pub mad_multiple: u32,
    /// Deviation that is never an outlier, in basis points (`source_tolerance_bps`).
    pub tolerance_bps: u32,
    /// Rules for the return of benched sources.
    pub bench: BenchRule,
}

impl Default for BookConfig {
    fn default() -> Self {
        Self {
            window_blocks: 4_096,
            max_lag_blocks: 3,
            mad_multiple: 5,
            tolerance_bps: 1,
            bench: BenchRule {
                first: Duration::from_secs(60),
                longest: Duration::from_secs(3_600),
                probation_blocks: 8,
            },
        }
    }
}

/// Result of settling a block.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    /// The accepted block.
    pub point: FeePoint,
    /// Number of blocks accepted before and now removed: by a reorg, or because a single source was wrong.
    pub replaced: usize,
    /// Sources whose report was not followed, with the fault.
    pub faults: Vec<(SourceId, Fault)>,
}

/// A chain's recent blocks, agreed from several sources. Pure: reports and time in, accepted blocks out.
#[derive(Debug, Clone)]
pub struct FeeBook {
    config: BookConfig,
    sources: BTreeMap<SourceId, SourceStatus>,
    /// Reports by source and block: a source that reports nonsense crowds out only itself.
    reports: BTreeMap<SourceId, BTreeMap<u64, Report>>,
    window: VecDeque<(FeePoint, Option<B256>)>,
}

impl FeeBook {
    /// An empty book for `sources` sources.
    pub fn new(config: BookConfig, sources: u16) -> Self {
        Self {
            config,
            sources: (0..sources).map(|id| (SourceId(id), SourceStatus::default())).collect(),
            reports: BTreeMap::new(),
            window: VecDeque::new(),
        }
    }

    /// Accepted blocks, oldest first. Numbers ascend; there may be gaps.
    pub fn window(&self) -> impl DoubleEndedIterator<Item = &FeePoint> + ExactSizeIterator {
        self.window.iter().map(|(point, _)| point)
    }

    /// The newest accepted block.
    pub fn newest(&self) -> Option<&FeePoint> {
        self.window.back().map(|(point, _)| point)
    }

    /// Status of each source.
    pub fn sources(&self) -> impl Iterator<Item = (SourceId, &SourceStatus)> {
        self.sources.iter().map(|(id, status)| (*id, status))
    }

    /// Records a source's report of a block. A later report of the same block replaces the earlier one. At most
    /// [`PENDING_BLOCKS`] blocks per source wait for [`Self::settle`]; the oldest are dropped first.
    pub fn report(&mut self, source: SourceId, report: Report) {
        let Some(status) = self.sources.get_mut(&source) else { return };
        let number = report.point.number;
        status.answered(number, report.latency);
        let pending = self.reports.entry(source).or_default();
        pending.insert(number, report);
        while pending.len() > PENDING_BLOCKS {
            pending.pop_first();
        }
    }

    /// Settles block `number` with the reports at hand; a silent source is blamed for lag if it is too far behind, or
    /// for an error if it never reported any block. Call it when every source has answered or had enough time.
    ///
    /// `None` if no report can be accepted yet: there is none, or the reporting sources have less than a majority of
    /// the total weight (half is enough if the median names the fee that the parent block determines). The block then
    /// stays open, and a later call may settle it.
    pub fn settle(&mut self, now: Timestamp, number: u64) -> Option<Settled> {
        for status in self.sources.values_mut() {
            status.wake(now, &self.config.bench);
        }
        let reports: BTreeMap<SourceId, Report> =
            self.reports.iter().filter_map(|(id, pending)| Some((*id, *pending.get(&number)?))).collect();
        let expected = self.expected(number);
        let median = self.median(&reports, expected)?;
        let all: u64 = self.sources.values().map(SourceStatus::weight).sum();
        let heard: u64 = reports.keys().filter_map(|id| self.sources.get(id)).map(SourceStatus::weight).sum();
        let is_expected = expected == Some(median.point.base_fee);
        if heard * 2 < all || (heard * 2 == all && all > 0 && !is_expected) {
            return None;
        }
        let spread = self.spread(&reports, median.point.base_fee);
        let agreeing: Vec<(&Report, u64)> = reports
            .iter()
            .filter(|(_, report)| is_same(report, &median, spread))
            .map(|(id, report)| (report, self.sources.get(id).map_or(0, SourceStatus::weight)))
            .collect();
        let ballot = Ballot::of(&agreeing);
        let point = FeePoint {
            utilisation: ballot.utilisation.map(|(voted, _)| voted),
            tips: ballot.tips,
            next_base_fee: ballot.next_base_fee.map(|(voted, _)| voted),
            ..median.point
        };
        let mut faults = Vec::new();
        for (id, status) in &mut self.sources {
            let fault = match reports.get(id) {
                Some(report) if is_same(report, &median, spread) && !ballot.refutes(&report.point, spread) => None,
                Some(_) => Some(Fault::Deviation),
                None => match status.head {
                    Some(head) if head.saturating_add(self.config.max_lag_blocks) >= number => continue,
                    Some(_) => Some(Fault::Lag),
                    None => Some(Fault::Error),
                },
            };
            match fault {
                None => status.praise(),
                Some(fault) => {
                    status.blame(now, fault, &self.config.bench);
                    faults.push((*id, fault));
                }
            }
        }
        for pending in self.reports.values_mut() {
            *pending = pending.split_off(&number.saturating_add(1));
        }
        let replaced = self.believe(Report { point, ..median });
        Some(Settled { point, replaced, faults })
    }

    /// Records that a source did not answer at all.
    pub fn fail(&mut self, now: Timestamp, source: SourceId) {
        if let Some(status) = self.sources.get_mut(&source) {
            status.wake(now, &self.config.bench);
            status.blame(now, Fault::Error, &self.config.bench);
        }
    }

    /// Base fee of block `number` as determined by its parent; `None` if unknown.
    fn expected(&self, number: u64) -> Option<u128> {
        let before = number.checked_sub(1)?;
        self.window.iter().rev().find(|(point, _)| point.number == before)?.0.next_base_fee
    }

    /// Median report by base fee, weighted by the sources' reputation. The fee determined by the parent block has a
    /// vote as well, so that of two sources that disagree the possible one is followed; it is not a report, and never
    /// the result. If no active source reported, those on probation or benched decide with equal weights.
    fn median(&self, reports: &BTreeMap<SourceId, Report>, expected: Option<u128>) -> Option<Report> {
        let weight_of = |id: &SourceId| self.sources.get(id).map_or(0, SourceStatus::weight);
        let nobody = reports.keys().all(|id| weight_of(id) == 0);
        let mut votes: Vec<(u128, u64, Option<Report>)> = reports
            .iter()
            .map(|(id, report)| (report.point.base_fee, if nobody { 1 } else { weight_of(id) }, Some(*report)))
            .filter(|(_, weight, _)| *weight > 0)
            .collect();
        if votes.is_empty() {
            return None;
        }
        if let Some(expected) = expected {
            let lightest = votes.iter().map(|(_, weight, _)| *weight).min().unwrap_or(1);
            votes.push((expected, lightest.div_ceil(2), None));
        }
        votes.sort_by_key(|(fee, _, _)| *fee);
        let total: u64 = votes.iter().map(|(_, weight, _)| weight).sum();
        let mut sum = 0;
        let middle = votes.iter().find(|(_, weight, _)| {
            sum += weight;
            sum * 2 >= total
        })?;
        let fee = middle.0;
        // The parent's vote stands for the report nearest to it.
        votes.iter().filter_map(|(_, _, report)| *report).min_by_key(|report| report.point.base_fee.abs_diff(fee))
    }

    /// Largest distance from the median that is not an outlier, wei per gas.
    fn spread(&self, reports: &BTreeMap<SourceId, Report>, median: u128) -> u128 {
        let mut distances: Vec<u128> = reports
            .iter()
            .filter(|(id, _)| self.sources.get(id).is_some_and(SourceStatus::is_active))
            .map(|(_, report)| report.point.base_fee.abs_diff(median))
            .collect();
        distances.sort_unstable();
        // The lower median: with two sources the honest one's own distance, 0.
        let mad = distances.get(distances.len().saturating_sub(1) / 2).copied().unwrap_or(0);
        let tolerance = (median / 10_000).saturating_mul(u128::from(self.config.tolerance_bps));
        mad.saturating_mul(u128::from(self.config.mad_multiple)).max(tolerance)
    }

    /// Appends the block in place of those at or above its number; returns how many of these were other blocks.
    fn believe(&mut self, report: Report) -> usize {
        let mut replaced = 0;
        while let Some((newest, hash)) = self.window.back()
            && newest.number >= report.point.number
        {
            let is_same_block = newest.number == report.point.number && *hash == report.hash && hash.is_some();
            replaced += usize::from(!is_same_block);
            self.window.pop_back();
        }
        self.window.push_back((report.point, report.hash));
        while self.window.len() > self.config.window_blocks.max(1) {
            self.window.pop_front();
        }
        replaced
    }
}

/// Votes on the further numbers, among the reports that agree on the base fee.
#[derive(Debug, Clone, Copy, Default)]
struct Ballot {
    /// Utilisation; true if more than half of the votes are for it.
    utilisation: Option<(Utilisation, bool)>,
    tips: Tips,
    /// The next block's base fee; true if more than half of the votes are for it.
    next_base_fee: Option<(u128, bool)>,
}

impl Ballot {
    /// The weighted median of each number. If all weights are 0, all count the same.
    fn of(reports: &[(&Report, u64)]) -> Self {
        let nobody = reports.iter().all(|(_, weight)| *weight == 0);
        let weigh = |weight: &u64| if nobody { 1 } else { *weight };
        let all: u64 = reports.iter().map(|(_, weight)| weigh(weight)).sum();
        // A number reported by less than half of the votes is left out: a liar can't add one that the others don't
        // have.
        let votes = |value: &dyn Fn(&FeePoint) -> Option<u128>| -> Vec<(u128, u64)> {
            let votes: Vec<(u128, u64)> = reports
                .iter()
                .filter_map(|(report, weight)| Some((value(&report.point)?, weigh(weight))))
                .filter(|(_, weight)| *weight > 0)
                .collect();
            let heard: u64 = votes.iter().map(|(_, weight)| weight).sum();
            if heard * 2 >= all { votes } else { Vec::new() }
        };
        let tip = |value: fn(&Tips) -> Option<u128>| middle(votes(&|point| value(&point.tips))).map(|(tip, _)| tip);
        let utilisation = middle(votes(&use_key)).and_then(|(key, _)| {
            let voted = reports.iter().find(|(report, _)| use_key(&report.point) == Some(key))?.0.point.utilisation?;
            Some((voted, is_majority(&votes(&use_key), |(other, _)| is_near_ratio(ratio_of(*other), voted))))
        });
        let next = |point: &FeePoint| point.next_base_fee;
        let next_base_fee =
            middle(votes(&next)).map(|(voted, _)| (voted, is_majority(&votes(&next), |(fee, _)| *fee == voted)));
        Self {
            utilisation,
            tips: Tips {
                min: tip(|tips| tips.min),
                typical: tip(|tips| tips.typical),
                mean: tip(|tips| tips.mean),
                max: tip(|tips| tips.max),
            },
            next_base_fee,
        }
    }

    /// True if a majority contradicts the report on numbers that the chain fixes. Tips are left out: clients compute
    /// percentiles differently.
    fn refutes(&self, point: &FeePoint, spread: u128) -> bool {
        let is_other_use = match (self.utilisation, point.utilisation.and_then(Utilisation::ratio)) {
            (Some((voted, true)), Some(ratio)) => !is_near_ratio(ratio, voted),
            _ => false,
        };
        let is_other_next = match (self.next_base_fee, point.next_base_fee) {
            (Some((voted, true)), Some(next)) => next.abs_diff(voted) > spread,
            _ => false,
        };
        is_other_use || is_other_next
    }
}

/// Sort key of a utilisation: ratio, then gas limit. `None` for an invalid one, which has no vote.
fn use_key(point: &FeePoint) -> Option<u128> {
    let utilisation = point.utilisation?;
    let limit = match utilisation {
        Utilisation::Gas { limit, .. } => limit,
        Utilisation::Ratio(_) => 0,
    };
    // Ratios of 0 to 1 keep their order as bits.
    Some(u128::from(utilisation.ratio()?.abs().to_bits()) << 64 | u128::from(limit))
}

/// The ratio in a [`use_key`].
fn ratio_of(key: u128) -> f64 {
    f64::from_bits(u64::try_from(key >> 64).unwrap_or(0))
}

fn is_near_ratio(ratio: f64, voted: Utilisation) -> bool {
    voted.ratio().is_some_and(|voted| (ratio - voted).abs() <= UTILISATION_TOLERANCE)
}

/// True if the votes that pass outweigh the others.
fn is_majority(votes: &[(u128, u64)], passes: impl Fn(&(u128, u64)) -> bool) -> bool {
    let all: u64 = votes.iter().map(|(_, weight)| weight).sum();
    votes.iter().filter(|vote| passes(vote)).map(|(_, weight)| weight).sum::<u64>() * 2 > all
}

/// The weighted median; the lower of two.
fn middle(mut votes: Vec<(u128, u64)>) -> Option<(u128, u64)> {
    votes.sort_unstable();
    let total: u64 = votes.iter().map(|(_, weight)| weight).sum();
    let mut sum = 0;
    votes.into_iter().find(|(_, weight)| {
        sum += weight;
        sum * 2 >= total
    })
}

/// True if the report shows the same block as the accepted one, or, without hashes, a base fee within `spread`.
fn is_same(report: &Report, believed: &Report, spread: u128) -> bool {
    let is_near = report.point.base_fee.abs_diff(believed.point.base_fee) <= spread;
    match (report.hash, believed.hash) {
        (Some(one), Some(other)) => one == other && is_near,
        _ => is_near,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::market::{Tips, Utilisation};

    const STEP: Duration = Duration::from_secs(12);

    fn point(number: u64, base_fee: u128) -> FeePoint {
        FeePoint {
            number,
            timestamp: None,
            base_fee,
            utilisation: Some(Utilisation::Gas { used: 15_000_000, limit: 30_000_000 }),
            tips: Tips::default(),
            next_base_fee: Some(base_fee),
        }
    }

    fn report(number: u64, base_fee: u128) -> Report {
        let hash = B256::from(alloy_primitives::U256::from(u128::from(number) << 64 | base_fee));
        Report { hash: Some(hash), point: point(number, base_fee), latency: Duration::from_millis(40) }
    }

    /// A fee that wanders by up to 12 % per block.
    fn truth(number: u64) -> u128 {
        let mut fee: u128 = 20_000_000_000;
        for block in 0..number % 500 {
            let step = block.wrapping_mul(6_364_136_223_846_793_005).rotate_left(17) % 25;
            fee = fee * (988 + u128::from(step)) / 1_000;
        }
        fee
    }

    /// Accepted blocks when two honest sources are joined by a third that answers as `third` does.
    fn believed(third: impl Fn(u64) -> Option<Report>) -> (Vec<FeePoint>, FeeBook) {
        let mut book = FeeBook::new(BookConfig::default(), 3);
        let mut now = Timestamp(0);
        for number in 1_000..1_400 {
            now = now.saturating_add(STEP);
            for id in [0, 2] {
                book.report(SourceId(id), report(number, truth(number)));
            }
            if let Some(third) = third(number) {
                book.report(SourceId(1), third);
            } else {
                book.fail(now, SourceId(1));
            }
            assert!(book.settle(now, number).is_some(), "block {number} was settled");
        }
        (book.window().copied().collect(), book)
    }

    #[test]
    fn one_bad_source_changes_nothing() {
        let (honest, book) = believed(|number| Some(report(number, truth(number))));
        assert_eq!(honest.len(), 400);
        assert!(book.sources().all(|(_, status)| status.is_active() && status.reputation_permille > 980));

        let (liar, book) = believed(|number| Some(report(number, truth(number) * 100)));
        assert_eq!(liar, honest);
        let status = book.sources().nth(1).unwrap().1;
        assert!(!status.is_active() && status.deviations > 390 && status.benchings > 1, "{status:?}");

        let (low, _) = believed(|number| Some(report(number, truth(number) / 100)));
        assert_eq!(low, honest);

        let (lagging, book) = believed(|number| Some(report(number - 20, truth(number - 20))));
        assert_eq!(lagging, honest);
        assert!(book.sources().nth(1).unwrap().1.lags > 390);

        let (flapping, book) = believed(|number| {
            number.is_multiple_of(3).then(|| report(number, if number.is_multiple_of(2) { 1 } else { truth(number) }))
        });
        assert_eq!(flapping, honest);
        assert!(book.sources().nth(1).unwrap().1.errors > 100);

        let (ahead, _) = believed(|number| Some(report(number + 1_000_000, 7)));
        assert_eq!(ahead, honest);
    }

    /// Right base fee with false gas, tips and next fee: only the separate votes reveal it.
    #[test]
    fn half_a_truth_changes_nothing() {
        let full = |number: u64| {
            let tip = |share: u128| Some(share * 1_000_000 + u128::from(number % 7));
            let tips = Tips { min: tip(1), typical: tip(2), mean: None, max: tip(9) };
            let point = FeePoint { tips, next_base_fee: Some(truth(number + 1)), ..point(number, truth(number)) };
            Report { point, ..report(number, truth(number)) }
        };
        type Lie = fn(FeePoint) -> FeePoint;
        let lies: [(&str, Lie, bool); 5] = [
            (
                "gas",
                |point| FeePoint { utilisation: Some(Utilisation::Gas { used: 1, limit: 30_000_000 }), ..point },
                true,
            ),
            ("ratio", |point| FeePoint { utilisation: Some(Utilisation::Ratio(0.999)), ..point }, true),
            ("next fee", |point| FeePoint { next_base_fee: point.next_base_fee.map(|fee| fee * 3), ..point }, true),
            (
                "tips",
                |point| {
                    let tip = Some(u128::from(u64::MAX));
                    FeePoint { tips: Tips { min: tip, typical: tip, mean: tip, max: tip }, ..point }
                },
                false,
            ),
            (
                "no tips",
                |point| FeePoint { tips: Tips::default(), next_base_fee: None, utilisation: None, ..point },
                false,
            ),
        ];
        for (what, lie, is_fault) in lies {
            // The liar reports first, in the middle and last: no complete report is taken over.
            for place in 0..3_u16 {
                let mut book = FeeBook::new(BookConfig::default(), 3);
                for number in 1_000..1_100_u64 {
                    for id in 0..3 {
                        let honest = full(number);
                        let told = if id == place { Report { point: lie(honest.point), ..honest } } else { honest };
                        book.report(SourceId(id), told);
                    }
                    let settled = book.settle(Timestamp(number * 12_000), number).unwrap();
                    assert_eq!(settled.point, full(number).point, "{what} from {place}, block {number}");
                }
                let status = book.sources().nth(usize::from(place)).unwrap().1;
                assert_eq!(status.deviations > 90, is_fault, "{what} from {place}: {status:?}");
                assert_eq!(status.is_active(), !is_fault, "{what} from {place}: {status:?}");
                let others = book.sources().filter(|(id, _)| id.0 != place);
                assert!(others.into_iter().all(|(_, status)| status.deviations == 0 && status.is_active()));
            }
        }
    }

    /// Of two sources that disagree about gas neither is blamed: it is unknown which is right.
    #[test]
    fn half_a_truth_of_one_of_two_is_nobodys_fault() {
        let mut book = FeeBook::new(BookConfig::default(), 2);
        for number in 1_000..1_050_u64 {
            let honest = report(number, truth(number));
            let use_of = |used| Some(Utilisation::Gas { used, limit: 30_000_000 });
            book.report(SourceId(0), honest);
            book.report(SourceId(1), Report { point: FeePoint { utilisation: use_of(1), ..honest.point }, ..honest });
            let settled = book.settle(Timestamp(number * 12_000), number).unwrap();
            assert_eq!((settled.point.base_fee, settled.faults.len()), (truth(number), 0));
        }
    }

    #[test]
    fn of_two_that_disagree_the_possible_one_is_followed() {
        for liar_is_first in [true, false] {
            for lie in [truth(12) * 100, truth(12) / 100] {
                let mut book = FeeBook::new(BookConfig::default(), 2);
                let before = Report {
                    point: FeePoint { next_base_fee: Some(truth(12)), ..point(11, truth(11)) },
                    ..report(11, 0)
                };
                book.report(SourceId(0), before);
                book.report(SourceId(1), before);
                book.settle(Timestamp(1), 11).unwrap();
                let (liar, honest) = if liar_is_first { (0, 1) } else { (1, 0) };
                book.report(SourceId(liar), report(12, lie));
                book.report(SourceId(honest), report(12, truth(12)));
                let settled = book.settle(Timestamp(2), 12).unwrap();
                assert_eq!(settled.point.base_fee, truth(12));
                assert_eq!(settled.faults, [(SourceId(liar), Fault::Deviation)]);
            }
        }
    }

    #[test]
    fn the_first_to_speak_is_not_believed_alone() {
        let mut book = FeeBook::new(BookConfig::default(), 3);
        for id in 0..3 {
            book.report(SourceId(id), report(11, truth(11)));
        }
        book.settle(Timestamp(1), 11).unwrap();
        book.report(SourceId(1), report(12, truth(12) * 100));
        assert_eq!(book.settle(Timestamp(2), 12), None);
        book.report(SourceId(0), report(12, truth(12)));
        book.report(SourceId(2), report(12, truth(12)));
        assert_eq!(book.settle(Timestamp(3), 12).unwrap().point.base_fee, truth(12));
    }

    #[test]
    fn a_benched_source_comes_back_after_probation() {
        let mut book = FeeBook::new(BookConfig::default(), 3);
        let mut now = Timestamp(0);
        let mut back_at = None;
        for number in 1..200 {
            now = now.saturating_add(STEP);
            let is_lying = (20..40).contains(&number);
            for id in 0..3 {
                let fee = if id == 1 && is_lying { 1 } else { truth(number) };
                book.report(SourceId(id), report(number, fee));
            }
            assert_eq!(book.settle(now, number).unwrap().point.base_fee, truth(number));
            let status = book.sources().nth(1).unwrap().1;
            if number == 39 {
                assert!(!status.is_active());
            }
            if number >= 40 && status.is_active() && back_at.is_none() {
                back_at = Some(number);
            }
        }
        let back_at = back_at.expect("it was forgiven");
        assert!((47..80).contains(&back_at), "{back_at}");
    }

    #[test]
    fn a_reorg_replaces_the_tail_and_gaps_stay_gaps() {
        let mut book = FeeBook::new(BookConfig { window_blocks: 8, ..BookConfig::default() }, 1);
        let mut settle = |number, fee| {
            book.report(SourceId(0), report(number, fee));
            book.settle(Timestamp(number * 12_000), number).map(|settled| settled.replaced)
        };
        for number in 1..=10 {
            assert_eq!(settle(number, 100 + u128::from(number)), Some(0));
        }
        assert_eq!(settle(9, 50), Some(2));
        assert_eq!(settle(10, 51), Some(0));
        assert_eq!(settle(10, 51), Some(0), "the same block again");
        assert_eq!(settle(20, 60), Some(0));
        assert!(book.settle(Timestamp(1), 21).is_none(), "nobody said anything");
        let numbers: Vec<u64> = book.window().map(|point| point.number).collect();
        assert_eq!(numbers, [4, 5, 6, 7, 8, 9, 10, 20]);
    }
}
