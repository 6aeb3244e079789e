//! Formatting of measurements for people.

use std::time::Duration;

use alloy_primitives::U256;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Latencies, from 1 µs to 10 min with three digits.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, 600_000_000, 3).expect("valid bounds"))
    }
}

impl Latencies {
    /// Adds one.
    pub fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(micros.max(1));
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        // Same bounds, so it can't fail.
        let _ = self.0.add(&other.0);
    }

    /// Number of recorded latencies.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// True if nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The latency that `percent` of all do not exceed.
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_micros(self.0.value_at_percentile(percent))
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }

    /// p50, p90, p99, p99.9 and the maximum in microseconds.
    pub fn json(&self) -> Value {
        let at = |percent| self.0.value_at_percentile(percent);
        json!({
            "count": self.0.len(), "p50_us": at(50.0), "p90_us": at(90.0), "p99_us": at(99.0), "p99_9_us": at(99.9),
            "max_us": self.0.max(),
        })
    }
}

/// `12 345 678`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.char_indices() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// `850 µs`, `12.3 ms`, `4.56 s`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        s if s < 0.001 => format!("{:.0} µs", s * 1e6),
        s if s < 0.1 => format!("{:.1} ms", s * 1e3),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

/// An amount in ether with six significant digits at least, or in gwei when it is small.
pub fn ether(wei: U256) -> String {
    let wei = u128::try_from(wei).unwrap_or(u128::MAX) as f64;
    if wei >= 1e14 { format!("{:.6} ETH", wei / 1e18) } else { format!("{:.3} gwei", wei / 1e9) }
}

/// `part` of `whole` in percent, rounded to the nearest.
pub fn percent(part: u64, whole: u64) -> u64 {
    (part * 100 + whole / 2).checked_div(whole).unwrap_or(0)
}

/// `12.3 MiB`.
pub fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1_u32 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1 234 567");
        assert_eq!(duration(Duration::from_micros(850)), "850 µs");
        assert_eq!(duration(Duration::from_micros(12_345)), "12.3 ms");
        assert_eq!(duration(Duration::from_millis(345)), "345 ms");
        assert_eq!(duration(Duration::from_millis(4_560)), "4.56 s");
        assert_eq!(percent(1, 3), 33);
        assert_eq!(percent(2, 3), 67);
        assert_eq!(ether(U256::from(10_u64.pow(18))), "1.000000 ETH");
        assert_eq!(ether(U256::from(1_500_000_000_u64)), "1.500 gwei");
    }
}
