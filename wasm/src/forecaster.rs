//! Forecasts of the base fee.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use slackwater_core::{
    BlockTimestamp,
    forecast::{self, ForecastConfig, HorizonForecast, Prior},
    market::{FeeHistory, FeePoint, HistoryFeed, Tips, Utilisation},
};
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};

use crate::{
    fees::{JsQuantity, Rule},
    interop::{Failure, check_size, read, write},
    scalar::Quantity,
};

#[wasm_bindgen]
extern "C" {
    /// `ForecasterOptions` of `types.d.ts`.
    #[wasm_bindgen(typescript_type = "ForecasterOptions | undefined")]
    #[derive(Debug)]
    pub type JsOptions;
    /// `FeeHistory` of `types.d.ts`.
    #[wasm_bindgen(typescript_type = "FeeHistory")]
    #[derive(Debug)]
    pub type JsHistory;
    /// `FeePoint` of `types.d.ts`.
    #[wasm_bindgen(typescript_type = "FeePoint")]
    #[derive(Debug)]
    pub type JsPoint;
    /// `Forecast` of `types.d.ts`.
    #[wasm_bindgen(typescript_type = "Forecast | undefined")]
    #[derive(Debug)]
    pub type JsForecast;
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Options {
    horizons: Option<Vec<u32>>,
    block_time_ms: Option<u32>,
    prior: Option<String>,
    seed: Option<u64>,
    rule: Option<Rule>,
    window: Option<u32>,
    refit_every: Option<u32>,
    trees: Option<u32>,
}

/// Highest number of trees of one horizon in a refit.
const MAX_TREES: u32 = 500;

impl Options {
    fn config(self) -> Result<ForecastConfig, Failure> {
        let default = ForecastConfig::default();
        let size = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
        if let Some(trees) = self.trees.filter(|trees| *trees > MAX_TREES) {
            return Err(Failure::argument(format_args!("options: {trees} trees, limit {MAX_TREES}")));
        }
        let prior = match self.prior {
            None => None,
            Some(text) => {
                check_size("prior", &text)?;
                Some(Prior::from_json(&text).map_err(|error| Failure::new("invalid_model", error))?)
            }
        };
        Ok(ForecastConfig {
            horizons: self.horizons.unwrap_or(default.horizons),
            step: self.block_time_ms.map_or(default.step, |ms| Duration::from_millis(u64::from(ms))),
            seed: self.seed.unwrap_or(default.seed),
            prior,
            rule: self.rule.map(|rule| rule.params()).transpose()?,
            window: self.window.map_or(default.window, size),
            refit_every: self.refit_every.map_or(default.refit_every, u64::from),
            trees: self.trees.map_or(default.trees, size),
            ..default
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Point {
    number: Quantity<u64>,
    #[serde(default)]
    timestamp: Option<Quantity<u64>>,
    base_fee: Quantity<u128>,
    #[serde(default)]
    gas_used: Option<Quantity<u64>>,
    #[serde(default)]
    gas_limit: Option<Quantity<u64>>,
    #[serde(default)]
    next_base_fee: Option<Quantity<u128>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ForecastView {
    number: u64,
    next_base_fee: String,
    next_is_exact: bool,
    model: String,
    horizons: Vec<HorizonView>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HorizonView {
    steps: u32,
    point: String,
    q10: String,
    q50: String,
    q90: String,
    log_point: f64,
    quantiles: Vec<QuantileView>,
}

#[derive(Debug, Serialize)]
struct QuantileView {
    p: f64,
    fee: String,
}

impl From<&HorizonForecast> for HorizonView {
    fn from(horizon: &HorizonForecast) -> Self {
        Self {
            steps: horizon.steps,
            point: horizon.point.to_string(),
            q10: horizon.q10.to_string(),
            q50: horizon.q50.to_string(),
            q90: horizon.q90.to_string(),
            log_point: horizon.log_point,
            quantiles: horizon.knots().map(|(p, _)| QuantileView { p, fee: horizon.quantile(p).to_string() }).collect(),
        }
    }
}

/// Forecasts the base fee of one chain from its blocks.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Forecaster {
    inner: forecast::Forecaster,
    feed: HistoryFeed,
}

#[wasm_bindgen]
impl Forecaster {
    /// A forecaster that has observed no block.
    ///
    /// # Errors
    /// `invalid_argument`, `invalid_model` for an invalid prior.
    #[wasm_bindgen(constructor)]
    pub fn new(options: &JsOptions) -> Result<Self, Failure> {
        let options = if options.is_undefined() { Options::default() } else { read("options", options)? };
        let inner = forecast::Forecaster::new(options.config()?).map_err(Failure::argument)?;
        Ok(Self { inner, feed: HistoryFeed::default() })
    }

    /// Takes in an answer of `eth_feeHistory`, and returns the number of its blocks that were new or have changed.
    ///
    /// # Errors
    /// `invalid_argument`.
    #[wasm_bindgen(js_name = observeHistory)]
    pub fn observe_history(&mut self, history: &JsHistory) -> Result<u32, Failure> {
        let history: FeeHistory = read("history", history)?;
        let news = self.feed.news(&history);
        news.iter().for_each(|point| self.inner.observe(point));
        Ok(u32::try_from(news.len()).unwrap_or(u32::MAX))
    }

    /// Takes in the next block. A number at or below the last one replaces the tail of the observed blocks.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub fn observe(&mut self, point: &JsPoint) -> Result<(), Failure> {
        let point: Point = read("point", point)?;
        let gas = point.gas_used.zip(point.gas_limit);
        self.inner.observe(&FeePoint {
            number: point.number.0,
            timestamp: point.timestamp.map(|at| BlockTimestamp(at.0)),
            base_fee: point.base_fee.0,
            utilisation: gas.map(|(used, limit)| Utilisation::Gas { used: used.0, limit: limit.0 }),
            tips: Tips::default(),
            next_base_fee: point.next_base_fee.map(|fee| fee.0),
        });
        Ok(())
    }

    /// The forecast; `undefined` before the first block.
    ///
    /// # Errors
    /// `internal` only.
    pub fn forecast(&self) -> Result<JsForecast, Failure> {
        let Some(forecast) = self.inner.forecast() else { return Ok(JsForecast::from(JsValue::UNDEFINED)) };
        write(&ForecastView {
            number: forecast.number,
            next_base_fee: forecast.next_base_fee.to_string(),
            next_is_exact: forecast.next_is_exact,
            model: forecast.model.to_string(),
            horizons: forecast.horizons.iter().map(HorizonView::from).collect(),
        })
    }

    /// Base fee, wei per gas, that is not exceeded with probability `p` at `steps` blocks ahead: suitable as a fee
    /// cap.
    ///
    /// # Errors
    /// `not_ready` before the first block, `invalid_argument` for a horizon that was not configured or a `p` outside 0
    /// to 1.
    pub fn quantile(&self, steps: u32, p: f64) -> Result<String, Failure> {
        if !(0.0..=1.0).contains(&p) {
            return Err(Failure::argument(format_args!("p: {p} is not between 0 and 1")));
        }
        Ok(self.horizon(steps)?.quantile(p).to_string())
    }

    /// Probability that the base fee is at most `fee` wei per gas at `steps` blocks ahead.
    ///
    /// # Errors
    /// As [`Self::quantile`].
    #[wasm_bindgen(js_name = probabilityBelow)]
    pub fn probability_below(&self, steps: u32, fee: &JsQuantity) -> Result<f64, Failure> {
        let fee: Quantity<u128> = read("fee", fee)?;
        Ok(self.horizon(steps)?.probability_below(fee.0))
    }

    fn horizon(&self, steps: u32) -> Result<HorizonForecast, Failure> {
        let forecast = self.inner.forecast().ok_or_else(|| Failure::new("not_ready", "no block has been seen"))?;
        let found = forecast.horizons.into_iter().find(|horizon| horizon.steps == steps);
        found.ok_or_else(|| Failure::argument(format_args!("steps: {steps} is not one of the horizons")))
    }

    /// True if [`Self::refit`] is worth its time: the fitted models are missing, old, or inaccurate.
    #[wasm_bindgen(getter, js_name = refitDue)]
    pub fn refit_due(&self) -> bool {
        self.inner.refit_due()
    }

    /// Refits the models on the observed blocks and activates them; false if there are too few blocks. It takes up to
    /// seconds: call it in a worker.
    pub fn refit(&mut self) -> bool {
        let Some(job) = self.inner.refit_job() else { return false };
        self.inner.install(job.run());
        true
    }
}
