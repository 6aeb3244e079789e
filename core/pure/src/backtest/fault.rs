//! Source faults: a history seen through three sources of which one is faulty, or with a gap.

use std::{collections::VecDeque, time::Duration};

use crate::{
    Timestamp,
    market::{BookConfig, FeeBook, FeePoint, Report, SourceId, Tips, Utilisation},
};

/// Factor of a lying source.
const LIE: u128 = 100;
/// Lag of a lagging source, blocks.
const LAG: usize = 20;
/// Missing blocks in a gap.
const HOLE: usize = 10;

/// Fault in the sources of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceFault {
    /// One of three sources reports fees a hundred times too high.
    Liar,
    /// One of three sources reports correct base fees, with false gas, tips and next base fees.
    HalfTruth,
    /// One of three sources is 20 blocks behind.
    Lag,
    /// No source saw ten blocks in the middle.
    Gap,
}

impl SourceFault {
    /// The history as settled under this fault.
    pub fn apply(self, points: &[FeePoint]) -> Vec<FeePoint> {
        if self == Self::Gap {
            let middle = points.len() / 2;
            let kept = |(row, _): &(usize, &FeePoint)| !(middle..middle + HOLE).contains(row);
            return points.iter().enumerate().filter(kept).map(|(_, point)| *point).collect();
        }
        let mut book = FeeBook::new(BookConfig::default(), 3);
        let mut behind: VecDeque<FeePoint> = VecDeque::with_capacity(LAG + 1);
        let mut believed = Vec::with_capacity(points.len());
        let mut now = Timestamp(0);
        for point in points {
            now = now.saturating_add(Duration::from_secs(12));
            behind.push_back(*point);
            let bad = match self {
                Self::Liar => Some(FeePoint {
                    base_fee: point.base_fee.saturating_mul(LIE),
                    next_base_fee: point.next_base_fee.map(|fee| fee.saturating_mul(LIE)),
                    ..*point
                }),
                Self::HalfTruth => Some(half_truth(*point)),
                _ if behind.len() > LAG => behind.pop_front(),
                _ => None,
            };
            let report = |point: FeePoint| Report { hash: None, point, latency: Duration::from_millis(50) };
            book.report(SourceId(0), report(*point));
            match bad {
                Some(bad) => book.report(SourceId(1), report(bad)),
                None => book.fail(now, SourceId(1)),
            }
            book.report(SourceId(2), report(*point));
            believed.extend(book.settle(now, point.number).map(|settled| settled.point));
        }
        believed
    }
}

/// The block with all fields but its base fee falsified: an empty block looks full and vice versa.
fn half_truth(point: FeePoint) -> FeePoint {
    let is_full = point.utilisation.and_then(Utilisation::ratio).is_some_and(|ratio| ratio > 0.5);
    let tip = Some(point.base_fee.saturating_mul(LIE));
    FeePoint {
        utilisation: Some(Utilisation::Ratio(if is_full { 0.0 } else { 1.0 })),
        tips: Tips { min: tip, typical: tip, mean: tip, max: tip },
        next_base_fee: Some(point.base_fee.saturating_mul(LIE)),
        ..point
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_source_of_three_changes_nothing_and_a_hole_is_ten_blocks() {
        let points: Vec<FeePoint> = (0..500_u64)
            .map(|number| FeePoint {
                number: 7 + number,
                timestamp: None,
                base_fee: 1_000 + u128::from(number * number % 97),
                utilisation: Some(Utilisation::Gas { used: number * 37 % 30_000_000, limit: 30_000_000 }),
                tips: Tips { min: Some(1), typical: Some(u128::from(number)), mean: None, max: Some(9_000) },
                next_base_fee: Some(1_000 + u128::from((number + 1) * (number + 1) % 97)),
            })
            .collect();
        assert_eq!(SourceFault::Liar.apply(&points), points);
        assert_eq!(SourceFault::Lag.apply(&points), points);
        assert_eq!(SourceFault::HalfTruth.apply(&points), points);
        let gap = SourceFault::Gap.apply(&points);
        assert_eq!(gap.len(), 490);
        assert_eq!((gap[249].number, gap[250].number), (256, 267));
    }
}
