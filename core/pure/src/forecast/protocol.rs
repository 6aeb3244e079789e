//! Recognition of a chain's EIP-1559 constants from its blocks.

use std::collections::VecDeque;

use crate::{
    chain::{BaseFeeParams, FeeHeader, GasTarget, Metering, next_base_fee},
    market::{FeePoint, Utilisation},
};

/// Remembered pairs of blocks.
const WINDOW: usize = 64;
/// Least number of pairs for a recognition.
const ENOUGH: usize = 8;
/// Largest relative error of an explained pair, if only the gas ratio is known.
const TOLERANCE: f64 = 3e-6;
/// Number of unexplained pairs among the last eight that raises an alarm.
const ALARM: usize = 3;
const LAST: usize = 8;

/// A parent and the base fee of its child.
#[derive(Debug, Clone, Copy)]
struct Pair {
    base: u128,
    ratio: f64,
    gas: Option<(u64, u64)>,
    next: u128,
}

/// The base fee recursion of a chain, inferred from its blocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProtocolRule {
    /// Its constants.
    pub params: BaseFeeParams,
    /// Largest relative error over the remembered, explained pairs; 0 if integer arithmetic reproduces all.
    pub fit_error: f64,
    /// Number of remembered pairs of consecutive blocks, and number of pairs that the rule explains.
    pub pairs: (usize, usize),
    /// True if header gas is known, so that the next base fee is computed to the wei.
    pub is_exact: bool,
    /// True if the rule no longer explains the last blocks: the chain changed its constants, or the source lies.
    pub is_alarm: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Recogniser {
    pairs: VecDeque<Pair>,
    params: Option<BaseFeeParams>,
    misses: VecDeque<bool>,
}

impl Recogniser {
    pub(super) fn new(known: Option<BaseFeeParams>) -> Self {
        Self { params: known, ..Self::default() }
    }

    /// Observes two consecutive blocks.
    pub(super) fn observe(&mut self, parent: &FeePoint, base_fee: u128) {
        let Some(used) = parent.utilisation else { return };
        let Some(ratio) = used.ratio() else { return };
        let gas = match used {
            Utilisation::Gas { used, limit } => Some((used, limit)),
            Utilisation::Ratio(_) => None,
        };
        if self.pairs.len() == WINDOW {
            self.pairs.pop_front();
        }
        let pair = Pair { base: parent.base_fee, ratio, gas, next: base_fee };
        self.pairs.push_back(pair);
        if let Some(params) = self.params {
            if self.misses.len() == LAST {
                self.misses.pop_front();
            }
            self.misses.push_back(miss(&pair, &params).is_none());
            if !self.is_alarm() {
                return;
            }
        }
        if let Some(found) = recognise(&self.pairs) {
            self.params = Some(found);
            self.misses.clear();
        }
    }

    fn is_alarm(&self) -> bool {
        self.misses.iter().filter(|missed| **missed).count() >= ALARM
    }

    /// Base fee of the block after `parent`; the flag is true if header gas makes it exact. `None` if unknown.
    pub(super) fn next(&self, parent: &FeePoint) -> Option<(u128, bool)> {
        let params = self.params.as_ref().filter(|_| !self.is_alarm() && self.pairs.len() >= LAST)?;
        match parent.utilisation? {
            Utilisation::Gas { used, limit } => {
                next_base_fee(&header(parent.base_fee, used, limit), params).ok().map(|fee| (fee, true))
            }
            used @ Utilisation::Ratio(_) => Some((estimate(parent.base_fee, used.ratio()?, params)?, false)),
        }
    }

    /// Gas over limit implied by a move from one base fee to the next.
    pub(super) fn implied_use(&self, log_move: f64) -> Option<f64> {
        let (share, denominator) = shape(self.params.as_ref()?)?;
        let ratio = (1.0 + (libm::exp(log_move) - 1.0) * denominator) * share;
        ratio.is_finite().then(|| ratio.clamp(0.0, 1.0))
    }

    /// Target as a share of the limit; a half if unknown.
    pub(super) fn target(&self) -> f64 {
        self.params.as_ref().and_then(shape).map_or(0.5, |(share, _)| share)
    }

    /// Largest log moves of one step, down and up.
    pub(super) fn bounds(&self) -> Option<(f64, f64)> {
        let (share, denominator) = shape(self.params.as_ref().filter(|_| !self.is_alarm())?)?;
        let down = libm::log((1.0 - 1.0 / denominator).max(1e-9));
        Some((down, libm::log(1.0 + (1.0 / share - 1.0) / denominator)))
    }

    /// Largest rise of one step, relative to Ethereum's.
    pub(super) fn unit(&self) -> Option<f64> {
        let (_, up) = self.bounds()?;
        let unit = up / libm::log(1.125);
        (unit > 1e-6).then_some(unit)
    }

    pub(super) fn rule(&self) -> Option<ProtocolRule> {
        let params = self.params?;
        let errors: Vec<f64> = self.pairs.iter().filter_map(|pair| miss(pair, &params)).collect();
        Some(ProtocolRule {
            params,
            fit_error: errors.iter().fold(0.0, |worst, error| worst.max(*error)),
            pairs: (self.pairs.len(), errors.len()),
            is_exact: self.pairs.back().is_some_and(|pair| pair.gas.is_some()),
            is_alarm: self.is_alarm(),
        })
    }
}

fn header(base_fee_per_gas: u128, gas_used: u64, gas_limit: u64) -> FeeHeader {
    FeeHeader {
        number: 0,
        timestamp: 0,
        base_fee_per_gas,
        gas_used,
        gas_limit,
        blob_gas_used: None,
        excess_blob_gas: None,
    }
}

/// Target share of the limit, and denominator.
#[expect(clippy::cast_precision_loss, reason = "constants of a chain are small")]
fn shape(params: &BaseFeeParams) -> Option<(f64, f64)> {
    let share = match params.target {
        GasTarget::Elasticity(0) => return None,
        GasTarget::Elasticity(elasticity) => 1.0 / elasticity as f64,
        GasTarget::Bps(bps) => f64::from(bps) / 10_000.0,
    };
    (share > 0.0 && params.denominator > 0).then_some((share, params.denominator as f64))
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float cast saturates")]
fn estimate(base: u128, ratio: f64, params: &BaseFeeParams) -> Option<u128> {
    let (share, denominator) = shape(params)?;
    let step = base as f64 * ((ratio / share - 1.0) / denominator);
    let next = if step >= 0.0 { base.saturating_add(step as u128) } else { base.saturating_sub((-step) as u128) };
    Some(next.max(params.min_base_fee))
}

/// Relative error of the rule on a pair; `None` if it does not explain the pair.
fn miss(pair: &Pair, params: &BaseFeeParams) -> Option<f64> {
    if let Some((used, limit)) = pair.gas {
        let next = next_base_fee(&header(pair.base, used, limit), params).ok()?;
        return (next == pair.next).then_some(0.0);
    }
    let next = estimate(pair.base, pair.ratio, params)?;
    #[expect(clippy::cast_precision_loss, reason = "an error")]
    let error = next.abs_diff(pair.next).saturating_sub(2) as f64 / pair.next.max(1) as f64;
    (error <= TOLERANCE).then_some(error)
}

/// Constants that explain most of the pairs: a line through the relative moves gives the candidates, the pairs decide.
fn recognise(pairs: &VecDeque<Pair>) -> Option<BaseFeeParams> {
    // The newest pairs first: after a change of constants they must suffice.
    let newest: Vec<&Pair> = pairs.iter().rev().filter(|pair| pair.base > 10_000_000).collect();
    [ENOUGH, ENOUGH * 2, ENOUGH * 4, WINDOW].into_iter().find_map(|count| {
        let used = newest.get(..count.min(newest.len())).filter(|used| used.len() >= ENOUGH)?;
        let params = line(used)?;
        let explained = used.iter().filter(|pair| miss(pair, &params).is_some()).count();
        (explained * 10 >= used.len() * 9).then_some(params)
    })
}

/// Least squares of `next / base − 1 = ratio / (share · denominator) − 1 / denominator`.
#[expect(clippy::cast_precision_loss, reason = "ratios")]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be small and positive")]
fn line(pairs: &[&Pair]) -> Option<BaseFeeParams> {
    let n = pairs.len() as f64;
    let points: Vec<(f64, f64)> = pairs
        .iter()
        .map(|pair| {
            let rise = pair.next.abs_diff(pair.base) as f64 / pair.base as f64;
            (pair.ratio, if pair.next < pair.base { -rise } else { rise })
        })
        .collect();
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / n;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / n;
    let square: f64 = points.iter().map(|(x, _)| (x - mean_x) * (x - mean_x)).sum();
    if square < 1e-6 {
        return None;
    }
    let slope = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>() / square;
    let still = mean_y - slope * mean_x;
    let denominator = libm::round(-1.0 / still);
    if !(1.0..=100_000.0).contains(&denominator) || slope <= 0.0 {
        return None;
    }
    let share = 1.0 / (slope * denominator);
    let (elasticity, bps) = (libm::round(1.0 / share), libm::round(share * 10_000.0));
    let target = if (1.0..=1_000.0).contains(&elasticity) && (1.0 / share - elasticity).abs() < 2e-3 * elasticity {
        GasTarget::Elasticity(elasticity as u64)
    } else if (1.0..=10_000.0).contains(&bps) {
        GasTarget::Bps(bps as u32)
    } else {
        return None;
    };
    Some(BaseFeeParams { denominator: denominator as u64, target, min_base_fee: 0, metering: Metering::Gas })
}
