//! The timing policies.

use super::{rules, stopping::RUNGS};

/// Shares of thresholds in the blends, in percent.
pub(super) const BLENDS: [u8; 2] = [20, 40];
/// Rungs after which thresholds take over from the fit.
pub(super) const SWITCHES: [usize; 4] = [3, 6, 8, 10];

/// A timing policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Policy {
    /// Send at once.
    Now,
    /// Send at or below a quantile of the last `window` units; with slack r the quantile is 1 / (1 + 10 r / `pace_tenths`).
    Threshold {
        /// Window, in units of time.
        window: u16,
        /// Units per independent price, in tenths.
        pace_tenths: u16,
    },
    /// Send below a moving average, the further below the more slack there is.
    Level {
        /// Index of the moving average.
        mean: u8,
    },
    /// Wait while the price is below a moving average, that is while it falls.
    Trend {
        /// Index of the moving average.
        mean: u8,
    },
    /// Recognise a chain at its floor.
    Floor,
    /// Fitted optimal stopping, ridge.
    Ridge,
    /// Fitted optimal stopping, boosted trees.
    Trees,
    /// Weighted mean of ridge and trees.
    Fitted,
    /// Fitted for the last `upto` units of slack, thresholds before: once a price is low enough, the fit's outlook for
    /// the next blocks decides when it is taken.
    Switch {
        /// Slack up to which the fit alone decides, in units.
        upto: u8,
        /// Units per independent price of the thresholds, in tenths.
        pace_tenths: u16,
    },
    /// Fitted with a share of thresholds.
    Blend {
        /// Share of the thresholds, in percent.
        percent: u8,
    },
}

impl core::fmt::Display for Policy {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Now => f.write_str("now"),
            Self::Threshold { window, pace_tenths } => write!(f, "threshold-{window}-{pace_tenths}"),
            Self::Level { mean } => write!(f, "level-{mean}"),
            Self::Trend { mean } => write!(f, "trend-{mean}"),
            Self::Floor => f.write_str("floor"),
            Self::Ridge => f.write_str("ridge"),
            Self::Trees => f.write_str("trees"),
            Self::Fitted => f.write_str("fitted"),
            Self::Switch { upto, pace_tenths } => write!(f, "switch-{upto}-{pace_tenths}"),
            Self::Blend { percent } => write!(f, "blend-{percent}"),
        }
    }
}

/// All policies, in a fixed order.
pub fn policies() -> Vec<Policy> {
    let mut all = vec![Policy::Now];
    for window in 0..rules::RULE_WINDOWS.len() {
        for pace in rules::RULE_PACES {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small constants")]
            let (window, pace_tenths) = (rules::window_units(window) as u16, (pace * 10.0) as u16);
            all.push(Policy::Threshold { window, pace_tenths });
        }
    }
    all.extend([0, 1, 2].map(|mean| Policy::Level { mean }));
    all.extend([0, 1, 2].map(|mean| Policy::Trend { mean }));
    all.extend([Policy::Floor, Policy::Ridge, Policy::Trees, Policy::Fitted]);
    all.extend(BLENDS.map(|percent| Policy::Blend { percent }));
    for rungs in SWITCHES {
        for pace in rules::RULE_PACES {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small constants")]
            let (upto, pace_tenths) = (RUNGS[rungs - 1] as u8, (pace * 10.0) as u16);
            all.push(Policy::Switch { upto, pace_tenths });
        }
    }
    all
}

/// Expected captured share of a policy before any observation: the steady thresholds lead.
pub(super) const fn cold_share(policy: Policy) -> f64 {
    match policy {
        Policy::Threshold { window: 300, pace_tenths: 40 } => 0.4,
        Policy::Now => 0.0,
        _ => 0.3,
    }
}
