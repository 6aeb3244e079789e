//! Gradient boosting with symmetric trees: each level of a tree asks one question of all rows.

use serde::{Deserialize, Serialize};

use super::{
    features::{FEATURES, Row, UNIT},
    ridge::six_digits,
};

/// Questions per tree.
const DEPTH: usize = 3;
const LEAVES: usize = 1 << DEPTH;
const BINS: usize = 32;

/// A tree: three questions and eight answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Tree {
    /// Feature of each question.
    f: [u8; DEPTH],
    /// Threshold of each question ("above this?").
    t: [f64; DEPTH],
    /// Answers; bit k of the index is the answer to question k.
    v: [f64; LEAVES],
}

impl Tree {
    fn value(&self, row: &Row) -> f64 {
        let mut leaf = 0;
        for (bit, (feature, threshold)) in self.f.iter().zip(self.t).enumerate() {
            leaf |= usize::from(row[usize::from(*feature)] > threshold) << bit;
        }
        self.v[leaf]
    }
}

/// A sum of trees.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Forest(Vec<Tree>);

impl Forest {
    pub(super) fn predict(&self, row: &Row) -> f64 {
        self.0.iter().map(|tree| tree.value(row)).sum()
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(super) fn is_valid(&self) -> bool {
        self.0.iter().all(|tree| {
            tree.f.iter().all(|feature| usize::from(*feature) < FEATURES)
                && tree.t.iter().chain(&tree.v).all(|value| value.is_finite())
        })
    }

    pub(super) fn round(&mut self) {
        for tree in &mut self.0 {
            for value in tree.t.iter_mut().chain(&mut tree.v) {
                *value = six_digits(*value);
            }
        }
    }
}

/// Parameters of boosting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Boosting {
    pub(super) trees: usize,
    pub(super) rate: f64,
    /// Added to the weight of a leaf, as a share of the total weight.
    pub(super) shrink: f64,
    pub(super) seed: u64,
}

/// Rows cut into bins once, for many fits.
#[derive(Debug)]
pub(super) struct Binned {
    edges: Vec<Vec<f64>>,
    /// Feature-major.
    bins: Vec<u8>,
    rows: usize,
}

/// A well mixed 64-bit number (SplitMix64).
pub(super) const fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Binned {
    pub(super) fn new(rows: &[Row]) -> Self {
        let mut edges = Vec::with_capacity(FEATURES);
        let mut bins = vec![0; FEATURES * rows.len()];
        for feature in 0..FEATURES {
            let mut values: Vec<f64> = rows.iter().map(|row| row[feature]).collect();
            values.sort_by(f64::total_cmp);
            let mut cuts: Vec<f64> =
                (1..BINS).filter_map(|cut| values.get(cut * values.len() / BINS).copied()).map(six_digits).collect();
            cuts.dedup();
            for (row, bin) in rows.iter().zip(&mut bins[feature * rows.len()..]) {
                *bin = u8::try_from(cuts.partition_point(|cut| *cut < row[feature])).unwrap_or(u8::MAX);
            }
            edges.push(cuts);
        }
        Self { edges, bins, rows: rows.len() }
    }

    /// Fits `targets` (one per row; rows beyond its end are left out).
    pub(super) fn boost(&self, targets: &[f64], weights: &[f64], how: Boosting) -> Forest {
        let count = targets.len().min(self.rows);
        let mut residual = targets[..count].to_vec();
        let total: f64 = weights[..count].iter().sum();
        let mut forest = Forest::default();
        let mut leaf_of = vec![0_u8; count];
        for tree in 0..how.trees {
            let salt = mix(how.seed ^ mix(tree as u64));
            let Some(grown) = self.grow(&residual, weights, &mut leaf_of, salt, how, total) else { break };
            for (rest, leaf) in residual.iter_mut().zip(&leaf_of) {
                *rest -= grown.v[usize::from(*leaf)];
            }
            forest.0.push(grown);
        }
        forest
    }

    fn grow(
        &self,
        residual: &[f64],
        weights: &[f64],
        leaf_of: &mut [u8],
        salt: u64,
        how: Boosting,
        total: f64,
    ) -> Option<Tree> {
        let count = residual.len();
        let shrink = how.shrink * total;
        leaf_of.fill(0);
        // Seven of ten rows and six of ten features per tree: less correlated trees, better on average.
        let bag: Vec<u32> = (0..count)
            .filter(|row| mix(salt ^ (*row as u64)) % 10 < 7)
            .filter_map(|row| u32::try_from(row).ok())
            .collect();
        let (mut features, mut thresholds) = ([0_u8; DEPTH], [0.0; DEPTH]);
        for level in 0..DEPTH {
            let leaves = 1 << level;
            let mut best: Option<(f64, usize, usize)> = None;
            for feature in
                (0..FEATURES).filter(|f| *f != UNIT).filter(|f| mix(salt ^ mix(1 << 40 | *f as u64)) % 10 < 6)
            {
                let cuts = self.edges[feature].len();
                if cuts == 0 {
                    continue;
                }
                let column = &self.bins[feature * self.rows..];
                let mut sums = [[(0.0, 0.0); BINS]; LEAVES];
                for row in &bag {
                    let row = *row as usize;
                    let cell = &mut sums[usize::from(leaf_of[row])][usize::from(column[row])];
                    cell.0 += weights[row] * residual[row];
                    cell.1 += weights[row];
                }
                let mut gains = [0.0; BINS];
                for leaf in &sums[..leaves] {
                    let all = leaf.iter().fold((0.0, 0.0), |a, c| (a.0 + c.0, a.1 + c.1));
                    let mut low = (0.0, 0.0);
                    for (gain, cell) in gains.iter_mut().zip(leaf).take(cuts) {
                        low = (low.0 + cell.0, low.1 + cell.1);
                        let high = (all.0 - low.0, all.1 - low.1);
                        *gain += low.0 * low.0 / (low.1 + shrink) + high.0 * high.0 / (high.1 + shrink);
                    }
                }
                for (cut, gain) in gains.iter().enumerate().take(cuts) {
                    if best.is_none_or(|(top, ..)| *gain > top) {
                        best = Some((*gain, feature, cut));
                    }
                }
            }
            let (_, feature, cut) = best?;
            features[level] = u8::try_from(feature).ok()?;
            thresholds[level] = self.edges[feature][cut];
            let column = &self.bins[feature * self.rows..];
            for (leaf, bin) in leaf_of.iter_mut().zip(column) {
                *leaf |= u8::from(usize::from(*bin) > cut) << level;
            }
        }
        let mut sums = [(0.0, 0.0); LEAVES];
        for row in &bag {
            let row = *row as usize;
            let sum = &mut sums[usize::from(leaf_of[row])];
            *sum = (sum.0 + weights[row] * residual[row], sum.1 + weights[row]);
        }
        let values = sums.map(|(y, weight)| six_digits(how.rate * y / (weight + shrink + 1e-300)));
        Some(Tree { f: features, t: thresholds, v: values })
    }
}
