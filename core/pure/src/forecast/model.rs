//! Batch-fitted models: ridge and boosted trees of smartcore behind one trait.

use std::fmt;

use alloy_primitives::{B256, keccak256};
use serde::{Deserialize, Serialize};
use smartcore::{
    linalg::basic::{arrays::Array as _, matrix::DenseMatrix},
    linear::ridge_regression::{RidgeRegression, RidgeRegressionParameters},
    xgboost::{XGRegressor, XGRegressorParameters},
};

use super::features::{FEATURES, FeatureRow};

/// Version of the arithmetic: part of every content hash, raised when the same data would give other forecasts.
pub(super) const ALGORITHM: u32 = 2;

/// Content hash of a model: Keccak-256 of its canonical JSON (keys sorted, floats in their shortest exact form).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelId(pub B256);

impl ModelId {
    pub(super) fn of(value: &serde_json::Value) -> Self {
        Self(keccak256(value.to_string()))
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Failure of a fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FitError {
    /// Too few examples for a fit.
    #[error("{rows} examples, needs {least}")]
    TooFew {
        /// Available examples.
        rows: usize,
        /// Required examples.
        least: usize,
    },
    /// The solver failed, or its result is not finite.
    #[error("no solution: {0}")]
    NoSolution(String),
}

/// A model of log moves, given features.
pub trait Regressor: Sized {
    /// Parameters of a fit.
    type Params;

    /// Fits `y` to `rows`.
    ///
    /// # Errors
    /// [`FitError`] if there are too few examples or no solution.
    fn fit(rows: &[FeatureRow], y: &[f64], params: &Self::Params) -> Result<Self, FitError>;

    /// Predicted log move after a row.
    fn predict(&self, row: &FeatureRow) -> f64;

    /// Contribution of each feature to [`Self::predict`]; with [`Self::constant`] they add up to it.
    fn contributions(&self, row: &FeatureRow) -> FeatureRow;

    /// The constant part, which no feature explains.
    fn constant(&self) -> f64;
}

/// Ridge regression on standardised features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ridge {
    constant: f64,
    coefficients: Vec<f64>,
}

/// Parameters of a ridge fit.
#[derive(Debug, Clone, PartialEq)]
pub struct RidgeParams {
    /// Feature columns to use.
    pub columns: Vec<usize>,
    /// Penalty on standardised coefficients.
    pub alpha: f64,
}

const LEAST_ROWS: usize = 60;

impl Ridge {
    pub(super) fn is_sound(&self) -> bool {
        self.constant.is_finite()
            && self.coefficients.len() == FEATURES
            && self.coefficients.iter().all(|coefficient| coefficient.is_finite())
    }
}

impl Regressor for Ridge {
    type Params = RidgeParams;

    fn fit(rows: &[FeatureRow], y: &[f64], params: &RidgeParams) -> Result<Self, FitError> {
        let least = LEAST_ROWS.max(2 * params.columns.len());
        if rows.len() < least || rows.len() != y.len() {
            return Err(FitError::TooFew { rows: rows.len().min(y.len()), least });
        }
        // A constant column cannot be standardised and carries no information.
        let columns: Vec<usize> =
            params.columns.iter().copied().filter(|column| *column < FEATURES && moves(rows, *column)).collect();
        if columns.is_empty() {
            return Ok(Self { constant: 0.0, coefficients: vec![0.0; FEATURES] });
        }
        let values: Vec<f64> = columns.iter().flat_map(|column| rows.iter().map(|row| row[*column])).collect();
        let failed = |error: smartcore::error::Failed| FitError::NoSolution(error.to_string());
        let x = DenseMatrix::new(rows.len(), columns.len(), values, true).map_err(failed)?;
        let parameters = RidgeRegressionParameters::default().with_alpha(params.alpha);
        let fit = RidgeRegression::fit(&x, &y.to_vec(), parameters).map_err(failed)?;
        let mut coefficients = vec![0.0; FEATURES];
        for (index, column) in columns.iter().enumerate() {
            coefficients[*column] = *fit.coefficients().get((index, 0));
        }
        let model = Self { constant: *fit.intercept(), coefficients };
        if model.constant.is_finite() && model.coefficients.iter().all(|coefficient| coefficient.is_finite()) {
            Ok(model)
        } else {
            Err(FitError::NoSolution("not finite".to_owned()))
        }
    }

    fn predict(&self, row: &FeatureRow) -> f64 {
        self.constant + self.coefficients.iter().zip(row).map(|(coefficient, x)| coefficient * x).sum::<f64>()
    }

    fn contributions(&self, row: &FeatureRow) -> FeatureRow {
        let mut out = *row;
        for (cell, coefficient) in out.iter_mut().zip(&self.coefficients) {
            *cell *= coefficient;
        }
        out
    }

    fn constant(&self) -> f64 {
        self.constant
    }
}

fn moves(rows: &[FeatureRow], column: usize) -> bool {
    let (low, high) = rows
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), row| (low.min(row[column]), high.max(row[column])));
    high - low > 1e-6
}

/// One tree node; a leaf if `left` is 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "(u8, f32, u16, u16, f32)", into = "(u8, f32, u16, u16, f32)")]
struct Node {
    feature: u8,
    threshold: f32,
    left: u16,
    right: u16,
    value: f32,
}

impl From<(u8, f32, u16, u16, f32)> for Node {
    fn from((feature, threshold, left, right, value): (u8, f32, u16, u16, f32)) -> Self {
        Self { feature, threshold, left, right, value }
    }
}

impl From<Node> for (u8, f32, u16, u16, f32) {
    fn from(node: Node) -> Self {
        (node.feature, node.threshold, node.left, node.right, node.value)
    }
}

/// Boosted trees that minimise the absolute error (Friedman 2001, LAD-TreeBoost): each tree is a smartcore tree fitted
/// to the signs of the residuals, and each of its leaves then takes the median residual.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boosted {
    constant: f64,
    trees: Vec<Vec<Node>>,
}

/// Parameters of boosting.
#[derive(Debug, Clone, PartialEq)]
pub struct BoostParams {
    /// Number of trees.
    pub trees: usize,
    /// Depth of each tree.
    pub depth: u16,
    /// Learning rate: applied share of each leaf's median.
    pub rate: f64,
    /// Share of the examples sampled for each tree.
    pub sample: f64,
    /// Least number of examples in a leaf.
    pub least_leaf: usize,
    /// Seed of the sampling.
    pub seed: u64,
}

impl Boosted {
    /// Flattens the tree of a smartcore regressor into `nodes`; returns its root's index, `None` for an unknown shape.
    fn flatten(value: &serde_json::Value, nodes: &mut Vec<Node>) -> Option<u16> {
        let at = u16::try_from(nodes.len()).ok()?;
        nodes.push(Node { feature: 0, threshold: 0.0, left: 0, right: 0, value: 0.0 });
        if !value["left"].is_null() {
            let feature = u8::try_from(value["split_feature_idx"].as_u64()?).ok()?;
            if usize::from(feature) >= FEATURES {
                return None;
            }
            #[expect(clippy::cast_possible_truncation, reason = "a threshold may be rounded")]
            let threshold = value["threshold"].as_f64()? as f32;
            let left = Self::flatten(&value["left"], nodes)?;
            let right = Self::flatten(&value["right"], nodes)?;
            nodes[usize::from(at)] = Node { feature, threshold, left, right, value: 0.0 };
        }
        Some(at)
    }

    /// Index of the leaf for a row.
    fn leaf(nodes: &[Node], row: &FeatureRow) -> usize {
        let mut at = 0;
        while let Some(node) = nodes.get(at) {
            if node.left == 0 {
                break;
            }
            let goes_left = row[usize::from(node.feature)] <= f64::from(node.threshold);
            at = usize::from(if goes_left { node.left } else { node.right });
        }
        at
    }

    /// True if all links lead forward to existing nodes and all values are finite: an import must not loop.
    pub(super) fn is_sound(&self) -> bool {
        self.constant.is_finite()
            && self.trees.iter().all(|nodes| {
                !nodes.is_empty()
                    && nodes.iter().enumerate().all(|(at, node)| {
                        let forward = |to: u16| usize::from(to) > at && usize::from(to) < nodes.len();
                        let links = node.left == 0 && node.right == 0 || forward(node.left) && forward(node.right);
                        links && usize::from(node.feature) < FEATURES && node.value.is_finite()
                    })
            })
    }
}

impl Regressor for Boosted {
    type Params = BoostParams;

    #[expect(clippy::cast_possible_truncation, reason = "leaf values may be rounded")]
    fn fit(rows: &[FeatureRow], y: &[f64], params: &BoostParams) -> Result<Self, FitError> {
        if rows.len() < LEAST_ROWS || rows.len() != y.len() {
            return Err(FitError::TooFew { rows: rows.len().min(y.len()), least: LEAST_ROWS });
        }
        let failed = |error: smartcore::error::Failed| FitError::NoSolution(error.to_string());
        let mut residuals = y.to_vec();
        let constant = median(&mut residuals.clone());
        for residual in &mut residuals {
            *residual -= constant;
        }
        let mut model = Self { constant, trees: Vec::new() };
        let take = ((rows.len() as f64 * params.sample) as usize).clamp(LEAST_ROWS.min(rows.len()), rows.len());
        let mut chance = params.seed ^ 0x9e37_79b9_7f4a_7c15;
        for _ in 0..params.trees {
            let chosen = sample(rows.len(), take, &mut chance);
            let values: Vec<f64> =
                (0..FEATURES).flat_map(|column| chosen.iter().map(move |i| rows[*i][column])).collect();
            let x = DenseMatrix::new(chosen.len(), FEATURES, values, true).map_err(failed)?;
            let signs: Vec<f64> = chosen.iter().map(|i| sign(residuals[*i])).collect();
            let parameters = XGRegressorParameters::default()
                .with_n_estimators(1)
                .with_learning_rate(1.0)
                .with_max_depth(params.depth)
                .with_min_child_weight(params.least_leaf)
                .with_lambda(1.0)
                .with_base_score(0.0)
                .with_seed(params.seed);
            let fit = XGRegressor::fit(&x, &signs, parameters).map_err(failed)?;
            let tree = serde_json::to_value(&fit).map_err(|error| FitError::NoSolution(error.to_string()))?;
            let mut nodes = Vec::new();
            if Self::flatten(&tree["regressors"][0], &mut nodes).is_none() {
                return Err(FitError::NoSolution("a tree of unknown shape".to_owned()));
            }
            let mut leaves: Vec<Vec<f64>> = vec![Vec::new(); nodes.len()];
            for i in &chosen {
                leaves[Self::leaf(&nodes, &rows[*i])].push(residuals[*i]);
            }
            // Inner nodes hold the mean of their subtree, for explanations only.
            let mut counts = vec![0.0; nodes.len()];
            for at in (0..nodes.len()).rev() {
                let (left, right) = (usize::from(nodes[at].left), usize::from(nodes[at].right));
                if left == 0 {
                    counts[at] = leaves[at].len() as f64;
                    nodes[at].value =
                        if leaves[at].is_empty() { 0.0 } else { (params.rate * median(&mut leaves[at])) as f32 };
                } else {
                    counts[at] = counts[left] + counts[right];
                    let sum =
                        counts[left] * f64::from(nodes[left].value) + counts[right] * f64::from(nodes[right].value);
                    nodes[at].value = (sum / f64::max(counts[at], 1.0)) as f32;
                }
            }
            for (residual, row) in residuals.iter_mut().zip(rows) {
                *residual -= f64::from(nodes[Self::leaf(&nodes, row)].value);
            }
            model.trees.push(nodes);
        }
        Ok(model)
    }

    fn predict(&self, row: &FeatureRow) -> f64 {
        let leaf = |nodes: &Vec<Node>| nodes.get(Self::leaf(nodes, row)).map_or(0.0, |node| f64::from(node.value));
        self.constant + self.trees.iter().map(leaf).sum::<f64>()
    }

    fn contributions(&self, row: &FeatureRow) -> FeatureRow {
        let mut out = [0.0; FEATURES];
        for nodes in &self.trees {
            let mut at = 0;
            while nodes[at].left != 0 {
                let feature = usize::from(nodes[at].feature);
                let goes_left = row[feature] <= f64::from(nodes[at].threshold);
                let next = usize::from(if goes_left { nodes[at].left } else { nodes[at].right });
                out[feature] += f64::from(nodes[next].value) - f64::from(nodes[at].value);
                at = next;
            }
        }
        out
    }

    fn constant(&self) -> f64 {
        let roots = self.trees.iter().filter_map(|nodes| nodes.first()).map(|node| f64::from(node.value));
        self.constant + roots.sum::<f64>()
    }
}

fn sign(x: f64) -> f64 {
    if x > 0.0 {
        1.0
    } else if x < 0.0 {
        -1.0
    } else {
        0.0
    }
}

/// Median of a non-empty slice; reorders it.
fn median(values: &mut [f64]) -> f64 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// `take` of `count` indices without repetition, in order (selection sampling, SplitMix64).
fn sample(count: usize, take: usize, state: &mut u64) -> Vec<usize> {
    let mut chosen = Vec::with_capacity(take);
    for i in 0..count {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let left = (count - i) as u64;
        if z % left < (take - chosen.len()) as u64 {
            chosen.push(i);
        }
    }
    chosen
}
