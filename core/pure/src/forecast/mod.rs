//! Base fee forecasts.
//!
//! A [`Forecaster`] observes one [`FeePoint`](crate::market::FeePoint) after the other and forecasts the base fee some
//! steps ahead, with calibrated intervals. The next block's base fee is computed, not learned, wherever the protocol
//! fixes it.
//!
//! For each horizon, experts predict the move of the log fee: persistence, return to a moving average, online ridges,
//! and ridge and boosted trees of smartcore that are fitted on a window elsewhere ([`RefitJob`]). They are weighted
//! online by their absolute losses. The interval around the mixture consists of quantiles of errors, in units of a
//! local scale, adjusted after each hit and miss. Outcomes arrive `h` steps late; nothing is learned before.

mod combine;
mod config;
mod drift;
mod explain;
mod features;
mod forecaster;
mod interval;
mod linear;
mod model;
mod output;
mod prior;
mod protocol;
mod refit;
mod registry;
mod state;
#[cfg(test)]
mod tests;

pub use config::{ForecastConfig, ForecastError, MAX_HORIZONS, MAX_STEPS, Tuning};
pub use explain::Explanation;
pub use features::{FEATURE_NAMES, FEATURES, FeatureRow};
pub use forecaster::{EXPERT_NAMES, Forecaster};
pub use model::{BoostParams, Boosted, FitError, ModelId, Regressor, Ridge, RidgeParams};
pub use output::{Forecast, HorizonForecast};
pub use prior::{Prior, PriorError, PriorHorizon};
pub use protocol::ProtocolRule;
pub use refit::{Fitted, HorizonModels, Refit, RefitJob, Scores, train_prior};
pub use registry::{MAX_VERSIONS, ModelRegistry, ModelVersion, RegistryError};
pub use state::{ForecasterState, StateError};
