//! Assessment of the current price: send now or wait.

use std::{collections::VecDeque, time::Duration};

/// Price outlook for the scheduler, from fee history or from a forecast.
pub trait FeeOutlook {
    /// Longest slack for which sending now beats waiting. `Duration::MAX`: the price is acceptable for every request.
    /// Zero: every request that can wait should wait.
    fn send_within(&self) -> Duration;

    /// As [`Self::send_within`], for a request that would save `saving_permille` thousandths of its cost by being sent
    /// now, because it shares a transaction that goes anyway. Never shorter than [`Self::send_within`].
    fn send_within_saving(&self, saving_permille: u32) -> Duration;
}

/// `price` less `permille` thousandths; 0 from 1 000 on.
pub fn less(price: u128, permille: u32) -> u128 {
    let left = u128::from(1_000 - permille.min(1_000));
    price / 1_000 * left + price % 1_000 * left / 1_000
}

/// Percentile gate over recent prices, relaxing as the slack runs out.
///
/// A request with slack `s` may be sent when the current price ranks at or below
/// `patience + (100 − patience) · (1 − (s − urgent) / (horizon − urgent))` percent of the window, so at `s ≤ urgent` any
/// price will do. Prices within 1 % of each other count as equal, so that a chain at its floor always sends.
#[derive(Debug, Clone)]
pub struct PercentileOutlook {
    window: VecDeque<u128>,
    capacity: usize,
    patience_percent: u8,
    urgent: Duration,
    horizon: Duration,
    price: Option<u128>,
}

impl PercentileOutlook {
    /// An outlook over the last `capacity` blocks; `patience_percent` above 100 counts as 100.
    pub fn new(capacity: usize, patience_percent: u8, urgent: Duration, horizon: Duration) -> Self {
        Self {
            window: VecDeque::with_capacity(capacity),
            capacity: capacity.max(1),
            patience_percent: patience_percent.min(100),
            urgent,
            horizon: horizon.max(urgent),
            price: None,
        }
    }

    /// Records the price of a block: base fee plus usual tip, wei per gas.
    pub fn record(&mut self, wei_per_gas: u128) {
        if self.window.len() == self.capacity {
            self.window.pop_front();
        }
        self.window.push_back(wei_per_gas);
    }

    /// Sets the price of the next block, wei per gas.
    pub const fn set_price(&mut self, wei_per_gas: u128) {
        self.price = Some(wei_per_gas);
    }

    /// Blocks in the window.
    pub fn len(&self) -> usize {
        self.window.len()
    }

    /// True if no block was recorded yet.
    pub fn is_empty(&self) -> bool {
        self.window.is_empty()
    }

    /// Percent of the window that was cheaper than the next block by more than 1 %; `None` without data.
    pub fn rank_percent(&self) -> Option<u8> {
        self.rank_of(self.price?)
    }

    fn rank_of(&self, price: u128) -> Option<u8> {
        if self.window.is_empty() {
            return None;
        }
        let cheaper = self.window.iter().filter(|fee| fee.saturating_mul(100) < price.saturating_mul(99)).count();
        u8::try_from(cheaper * 100 / self.window.len()).ok()
    }
}

impl FeeOutlook for PercentileOutlook {
    fn send_within(&self) -> Duration {
        self.send_within_saving(0)
    }

    fn send_within_saving(&self, saving_permille: u32) -> Duration {
        let price = self.price.map(|price| less(price, saving_permille));
        // Without data there is no reason to wait.
        let Some(rank) = price.and_then(|price| self.rank_of(price)) else { return Duration::MAX };
        let patience = u32::from(self.patience_percent);
        let rank = u32::from(rank);
        if rank <= patience {
            return Duration::MAX;
        }
        self.urgent + (self.horizon - self.urgent) * (100 - rank) / (100 - patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlook(fees: &[u128], price: u128) -> PercentileOutlook {
        let mut outlook = PercentileOutlook::new(8, 40, Duration::from_secs(60), Duration::from_secs(31 * 60));
        fees.iter().for_each(|fee| outlook.record(*fee));
        outlook.set_price(price);
        outlook
    }

    #[test]
    fn the_worked_example_holds() {
        let outlook = outlook(&[8, 9, 10, 10, 11, 12, 12, 14].map(|gwei| gwei * 1_000_000_000), 11_000_000_000);
        assert_eq!(outlook.rank_percent(), Some(50));
        assert_eq!(outlook.send_within(), Duration::from_secs(26 * 60));
        // At 9.9 gwei two of eight were cheaper, so a request that saves a tenth may go; a saving of a twentieth
        // changes nothing.
        assert_eq!(outlook.send_within_saving(100), Duration::MAX);
        assert_eq!(outlook.send_within_saving(50), Duration::from_secs(26 * 60));
    }

    #[test]
    fn floor_and_cheap_blocks_send_everything() {
        assert_eq!(outlook(&[7; 8], 7).send_within(), Duration::MAX);
        assert_eq!(outlook(&[1_000, 1_005, 1_000], 1_005).send_within(), Duration::MAX);
        assert_eq!(outlook(&[], 5).send_within(), Duration::MAX);
    }

    #[test]
    fn a_spike_leaves_only_the_urgent() {
        assert_eq!(outlook(&[10; 8], 100).send_within(), Duration::from_secs(60));
        assert_eq!(outlook(&[u128::MAX; 8], u128::MAX).send_within(), Duration::MAX);
    }
}
