//! Fitted optimal stopping: the value of waiting, learned backwards from the deadline on an observed path.

use serde::{Deserialize, Serialize};

use super::{
    boost::{Binned, Boosting, Forest},
    features::{FEATURES, Row, UNIT},
    ridge::{self, Coefficients, Normal, Scaling, count, six_digits},
};

/// Slacks at which waiting is valued, in units; between them the value is interpolated in the logarithm.
pub(super) const RUNGS: [f64; 18] =
    [1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 14.0, 20.0, 30.0, 45.0, 70.0, 100.0, 150.0, 220.0, 300.0, 450.0, 600.0];
/// Advantage of waiting at each rung, as a share of the price: below 0 waiting is expected to pay.
pub(super) type Ladder = [f64; RUNGS.len()];

/// Longest slack for which sending now is right, in units: up to there no rung favours waiting.
pub(super) fn send_within(ladder: &Ladder) -> f64 {
    let Some(first) = ladder.iter().position(|value| *value < 0.0) else { return f64::INFINITY };
    if first == 0 {
        return 0.0;
    }
    let (low, high) = (RUNGS[first - 1], RUNGS[first]);
    let (at, next) = (ladder[first - 1], ladder[first]);
    if !at.is_finite() || !next.is_finite() {
        return low;
    }
    low * libm::pow(high / low, at / (at - next))
}

/// Interpolated value at a slack.
pub(super) fn at_slack(ladder: &Ladder, units: f64) -> f64 {
    let above = RUNGS.partition_point(|rung| *rung <= units);
    if above == 0 {
        return ladder[0];
    }
    if above == RUNGS.len() {
        return ladder[RUNGS.len() - 1];
    }
    let share = libm::log(units / RUNGS[above - 1]) / libm::log(RUNGS[above] / RUNGS[above - 1]);
    ladder[above - 1] + share * (ladder[above] - ladder[above - 1])
}

/// One rung's models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Rung {
    /// Ridge coefficients, intercept first.
    b: Coefficients,
    /// Boosted trees.
    trees: Forest,
}

/// A fitted value of waiting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stopping {
    scaling: Scaling,
    rungs: Vec<Rung>,
}

impl Stopping {
    pub(super) fn is_valid(&self) -> bool {
        self.scaling.is_valid()
            && (1..=RUNGS.len()).contains(&self.rungs.len())
            && self.rungs.iter().all(|rung| {
                rung.b.len() == FEATURES + 1 && rung.b.iter().all(|value| value.is_finite()) && rung.trees.is_valid()
            })
    }

    /// Advantage of waiting by ridge and by trees.
    pub(super) fn ladders(&self, row: &Row) -> (Ladder, Ladder) {
        let scaled = self.scaling.apply(row);
        let unit = row[UNIT];
        let (mut linear, mut boosted) = ([0.0; RUNGS.len()], [0.0; RUNGS.len()]);
        for index in 0..RUNGS.len() {
            let rung = &self.rungs[index.min(self.rungs.len() - 1)];
            if index < self.rungs.len() {
                linear[index] = unit * ridge::predict(&rung.b, &scaled);
                boosted[index] = unit * rung.trees.predict(row);
            } else {
                linear[index] = linear[index - 1];
                boosted[index] = boosted[index - 1];
            }
        }
        (linear, boosted)
    }

    /// Cuts all numbers to six digits.
    pub(super) fn round(&mut self) {
        self.scaling.round();
        for rung in &mut self.rungs {
            rung.b.iter_mut().for_each(|value| *value = six_digits(*value));
            rung.trees.round();
        }
    }
}

/// A stretch of history.
#[derive(Debug, Clone, Default)]
pub(super) struct Episode {
    /// Price per step, any scale.
    pub(super) prices: Vec<f64>,
    /// Features known at each step.
    pub(super) rows: Vec<Row>,
}

/// Clip of outcomes, in mean absolute outcomes, with little slack and with much.
const CLIP: [f64; 2] = [6.0, 10.0];
/// Threshold between little and much slack, in units.
const CLIP_FROM: f64 = 12.0;

/// Parameters of a fit.
#[derive(Debug, Clone, Copy)]
pub(super) struct FitPlan {
    pub(super) steps_per_unit: f64,
    pub(super) slip: usize,
    /// Rungs of [`RUNGS`] to fit.
    pub(super) rungs: usize,
    /// Ridge, as a share of the total weight.
    pub(super) share: f64,
    /// Weight of the start, in rows.
    pub(super) start_rows: f64,
    pub(super) boosting: Boosting,
}

/// Backward pass. With `slip` steps between decision and inclusion a decision at i pays the price of i + slip.
///
/// `start`: the initial model, towards which the regressions are shrunk. `None` if there is too little data.
pub(super) fn fit(episodes: &[Episode], start: Option<&Stopping>, plan: FitPlan) -> Option<Stopping> {
    let rows: Vec<Row> = episodes.iter().flat_map(|episode| episode.rows.iter().copied()).collect();
    if rows.len() < 100 {
        return None;
    }

    let scaling = start.map_or_else(|| Scaling::of(&rows), |start| start.scaling.clone());
    let scaled: Vec<Row> = rows.iter().map(|row| scaling.apply(row)).collect();
    let binned = Binned::new(&rows);
    let offsets: Vec<usize> = episodes
        .iter()
        .scan(0, |at, episode| {
            let here = *at;
            *at += episode.rows.len();
            Some(here)
        })
        .collect();

    // Cost of following the policy with r steps left, per step; shorter by one with each r.
    let paid: Vec<&[f64]> = episodes.iter().map(|e| e.prices.get(plan.slip..).unwrap_or(&[])).collect();
    let mut cost: Vec<Vec<f64>> = paid.iter().map(|prices| prices.to_vec()).collect();
    let mut advantage = vec![f64::INFINITY; rows.len()];
    let mut rungs: Vec<Rung> = Vec::new();
    let (mut targets, mut used) = (vec![0.0; rows.len()], vec![0.0; rows.len()]);
    let mut steps = 0;
    for units in RUNGS.iter().take(plan.rungs) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 600 000")]
        let until = (libm::round(units * plan.steps_per_unit) as usize).max(steps + 1);
        while steps < until {
            steps += 1;
            if steps == until {
                let index = rungs.len();
                let begun = start.and_then(|start| start.rungs.get(index.min(start.rungs.len() - 1)));
                let mut enough = 0;
                let mut size = 0.0;
                for (episode, offset) in offsets.iter().enumerate() {
                    let next = cost[episode].get(1..).unwrap_or(&[]);
                    used[*offset..offset + episodes[episode].rows.len()].fill(0.0);
                    for (step, after) in next.iter().enumerate() {
                        let at = offset + step;
                        let price = episodes[episode].prices[step].max(1e-9);
                        targets[at] = ((after - paid[episode][step]) / price).clamp(-1.0, 1.0) / rows[at][UNIT];
                        used[at] = 1.0;
                        size += targets[at].abs();
                        enough += 1;
                    }
                }
                let most = CLIP[usize::from(*units > CLIP_FROM)] * size / count(enough.max(1));
                let mut normal = Normal::new();
                for (at, target) in targets.iter_mut().enumerate().filter(|(at, _)| used[*at] > 0.0) {
                    *target = target.clamp(-most, most);
                    let base = begun.map_or(0.0, |rung| ridge::predict(&rung.b, &scaled[at]));
                    normal.add(&scaled[at], *target - base);
                }
                // With too few independent outcomes a longer slack teaches nothing.
                if enough < (4 * until).max(100) {
                    return (!rungs.is_empty()).then_some(Stopping { scaling, rungs });
                }
                let mut b = normal.solve(plan.share, if begun.is_some() { plan.start_rows } else { 0.0 })?;
                if let Some(rung) = begun {
                    b.iter_mut().zip(&rung.b).for_each(|(value, base)| *value += base);
                }
                let residual: Vec<f64> = targets
                    .iter()
                    .zip(&rows)
                    .map(|(y, row)| y - begun.map_or(0.0, |rung| rung.trees.predict(row)))
                    .collect();
                let mut trees = begun.map(|rung| rung.trees.clone()).unwrap_or_default();
                let how = Boosting { seed: plan.boosting.seed ^ (index as u64), ..plan.boosting };
                trees.extend(binned.boost(&residual, &used, how));
                for (at, value) in advantage.iter_mut().enumerate() {
                    *value = 0.5 * (ridge::predict(&b, &scaled[at]) + trees.predict(&rows[at]));
                }
                rungs.push(Rung { b, trees });
            }
            for (episode, offset) in offsets.iter().enumerate() {
                let Some(left) = cost[episode].len().checked_sub(1) else { continue };
                for step in 0..left {
                    let sends = advantage[offset + step] >= 0.0;
                    cost[episode][step] = if sends { paid[episode][step] } else { cost[episode][step + 1] };
                }
                cost[episode].truncate(left);
            }
        }
    }
    Some(Stopping { scaling, rungs })
}
