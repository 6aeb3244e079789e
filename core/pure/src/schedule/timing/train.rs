//! Training of a prior's model on recorded chains.

use std::time::Duration;

use super::{
    boost::Boosting,
    features::Features,
    stopping::{Episode, FitPlan, RUNGS, Stopping, fit},
};
use crate::market::FeePoint;

/// A recorded chain.
#[derive(Debug, Clone)]
pub struct TrainingFile {
    /// Time between points.
    pub step: Duration,
    /// Points in order of time.
    pub points: Vec<FeePoint>,
}

/// Fits one model on several files of about the same step (of at least one L1 slot); numbers are rounded to six digits.
///
/// `None` if there is too little data.
pub fn train(files: &[TrainingFile], slip: u32, seed: u64) -> Option<Stopping> {
    let episodes: Vec<Episode> = files
        .iter()
        .map(|file| {
            let mut features = Features::new(file.step);
            let mut episode = Episode::default();
            for point in &file.points {
                #[expect(clippy::cast_precision_loss, reason = "a float values waiting")]
                let price = point.price() as f64;
                let row = features.push(libm::log(price.max(1e-3)), point.timestamp.map(|at| at.0));
                episode.prices.push(price);
                episode.rows.push(row);
            }
            episode
        })
        .collect();
    let plan = FitPlan {
        steps_per_unit: 1.0,
        slip: slip as usize,
        rungs: RUNGS.len(),
        share: 0.03,
        start_rows: 0.0,
        boosting: Boosting { trees: 60, rate: 0.08, shrink: 0.005, seed },
    };
    let mut model = fit(&episodes, None, plan)?;
    model.round();
    Some(model)
}
