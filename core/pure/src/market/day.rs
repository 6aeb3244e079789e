//! The usual price of gas: the median base fee of a day.

use std::collections::VecDeque;

use crate::time::BlockTimestamp;

/// Length of one sample, and of the window, seconds.
const SAMPLE_S: u64 = 300;
const DAY_S: u64 = 24 * 3_600;

/// Base fees of the last day, one mean for every five minutes: a full window of blocks would be too many on fast chains.
#[derive(Debug, Clone, Default)]
pub struct DayFees {
    /// Start of the sample, sum of its base fees, number of its blocks.
    samples: VecDeque<(u64, u128, u128)>,
}

impl DayFees {
    /// Records a block. One older than the newest sample counts only if it belongs to that sample.
    pub fn record(&mut self, at: BlockTimestamp, base_fee: u128) {
        let start = at.0 - at.0 % SAMPLE_S;
        match self.samples.back_mut() {
            Some((last, sum, blocks)) if *last == start => {
                (*sum, *blocks) = (sum.saturating_add(base_fee), *blocks + 1);
            }
            Some((last, ..)) if *last > start => {}
            _ => self.samples.push_back((start, base_fee, 1)),
        }
        while self.samples.front().is_some_and(|(first, ..)| start.saturating_sub(*first) >= DAY_S) {
            self.samples.pop_front();
        }
    }

    /// The median, wei per gas; `None` before the first block.
    pub fn median(&self) -> Option<u128> {
        let mut means: Vec<u128> = self.samples.iter().map(|(_, sum, blocks)| sum / (*blocks).max(1)).collect();
        let middle = means.len() / 2;
        if means.is_empty() {
            return None;
        }
        let (_, median, _) = means.select_nth_unstable(middle);
        Some(*median)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_of_spikes_does_not_move_the_median_of_a_day() {
        let mut day = DayFees::default();
        assert_eq!(day.median(), None);
        (0..7_200_u64).for_each(|block| day.record(BlockTimestamp(block * 12), 20));
        assert_eq!(day.median(), Some(20));
        (7_200..7_500_u64).for_each(|block| day.record(BlockTimestamp(block * 12), 900));
        assert_eq!(day.median(), Some(20));
        (7_500..14_400_u64).for_each(|block| day.record(BlockTimestamp(block * 12), 900));
        assert_eq!(day.median(), Some(900));
        day.record(BlockTimestamp(0), 1);
        assert_eq!((day.median(), day.samples.len()), (Some(900), 288), "out of order");
    }
}
