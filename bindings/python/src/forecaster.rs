//! Forecasts of the base fee.

use std::time::Duration;

use pyo3::prelude::*;
use serde::Serialize;
use slackwater_core::{
    BlockTimestamp,
    forecast::{self, ForecastConfig, HorizonForecast},
    market::{FeePoint, Tips, Utilisation},
};

use crate::{
    error::{argument, failure, internal},
    value::{Uint, parse, span, write},
};

/// Highest number of trees of one horizon in a refit.
const MAX_TREES: usize = 500;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ForecastOut {
    number: u64,
    next_base_fee_wei_per_gas: String,
    next_is_exact: bool,
    model: String,
    horizons: Vec<HorizonOut>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HorizonOut {
    blocks: u32,
    point_wei_per_gas: String,
    q10_wei_per_gas: String,
    q50_wei_per_gas: String,
    q90_wei_per_gas: String,
    log_point: f64,
}

impl From<&HorizonForecast> for HorizonOut {
    fn from(horizon: &HorizonForecast) -> Self {
        Self {
            blocks: horizon.steps,
            point_wei_per_gas: horizon.point.to_string(),
            q10_wei_per_gas: horizon.q10.to_string(),
            q50_wei_per_gas: horizon.q50.to_string(),
            q90_wei_per_gas: horizon.q90.to_string(),
            log_point: horizon.log_point,
        }
    }
}

/// Utilisation of blocks: gas used and limit, or ratios.
#[derive(FromPyObject)]
enum Usage {
    Gas(Vec<(Uint<u64>, Uint<u64>)>),
    Ratios(Vec<f64>),
}

impl Usage {
    const fn len(&self) -> usize {
        match self {
            Self::Gas(blocks) => blocks.len(),
            Self::Ratios(blocks) => blocks.len(),
        }
    }

    fn of(&self, index: usize) -> Utilisation {
        match self {
            Self::Gas(blocks) => Utilisation::Gas { used: blocks[index].0.0, limit: blocks[index].1.0 },
            Self::Ratios(blocks) => Utilisation::Ratio(blocks[index]),
        }
    }
}

/// Forecasts the base fee of one chain from its blocks.
#[pyclass(subclass, module = "slackwater")]
#[derive(Debug)]
pub(crate) struct Forecaster(forecast::Forecaster);

#[pymethods]
impl Forecaster {
    #[new]
    #[pyo3(signature = (*, horizons=None, block_time=None, window=None, refit_every=None, trees=None, seed=None))]
    fn new(
        horizons: Option<Vec<u32>>,
        block_time: Option<f64>,
        window: Option<usize>,
        refit_every: Option<u64>,
        trees: Option<usize>,
        seed: Option<u64>,
    ) -> PyResult<Self> {
        let default = ForecastConfig::default();
        if let Some(trees) = trees.filter(|trees| *trees > MAX_TREES) {
            return Err(argument(format_args!("trees: {trees}, limit {MAX_TREES}")));
        }
        let step: Option<Duration> = span("block_time", block_time)?;
        let config = ForecastConfig {
            horizons: horizons.unwrap_or(default.horizons),
            step: step.unwrap_or(default.step),
            window: window.unwrap_or(default.window),
            refit_every: refit_every.unwrap_or(default.refit_every),
            trees: trees.unwrap_or(default.trees),
            seed: seed.unwrap_or(default.seed),
            ..default
        };
        forecast::Forecaster::new(config).map(Self).map_err(argument)
    }

    /// Takes in consecutive blocks. A number at or below the last one replaces the tail of the observed blocks. With
    /// `known`, the blocks are only stored and not learned from, because an imported state has already learned from
    /// them.
    fn observe_all(
        &mut self,
        py: Python<'_>,
        first_number: Uint<u64>,
        base_fees: Vec<Uint<u128>>,
        usage: Option<Usage>,
        timestamps: Option<Vec<Uint<u64>>>,
        known: bool,
    ) -> PyResult<()> {
        // As in an answer of `eth_feeHistory`, there may be one more base fee than blocks: that of the next block.
        let blocks = usage.as_ref().map_or(base_fees.len(), Usage::len);
        let is_next_known = base_fees.len() == blocks + 1;
        if base_fees.len() != blocks && !is_next_known {
            return Err(argument(format_args!("{} base fees, and gas of {blocks} blocks", base_fees.len())));
        }
        if timestamps.as_ref().is_some_and(|timestamps| timestamps.len() != blocks) {
            return Err(argument("as many timestamps as blocks are needed"));
        }
        first_number.0.checked_add(blocks as u64).ok_or_else(|| argument("first_number: too large"))?;
        py.detach(|| {
            for (index, number) in (0..blocks).zip(first_number.0..) {
                let point = FeePoint {
                    number,
                    timestamp: timestamps.as_ref().map(|timestamps| BlockTimestamp(timestamps[index].0)),
                    base_fee: base_fees[index].0,
                    utilisation: usage.as_ref().map(|usage| usage.of(index)),
                    tips: Tips::default(),
                    next_base_fee: base_fees.get(index + 1).map(|fee| fee.0),
                };
                if known { self.0.observe_known(&point) } else { self.0.observe(&point) }
            }
        });
        Ok(())
    }

    /// JSON; `None` before the first block.
    fn forecast_json(&self) -> PyResult<Option<String>> {
        let Some(forecast) = self.0.forecast() else { return Ok(None) };
        write(&ForecastOut {
            number: forecast.number,
            next_base_fee_wei_per_gas: forecast.next_base_fee.to_string(),
            next_is_exact: forecast.next_is_exact,
            model: forecast.model.to_string(),
            horizons: forecast.horizons.iter().map(HorizonOut::from).collect(),
        })
        .map(Some)
    }

    /// Base fee, wei per gas, that is not exceeded with probability `p` at `blocks` blocks ahead.
    fn quantile(&self, blocks: u32, p: f64) -> PyResult<u128> {
        if !(0.0..=1.0).contains(&p) {
            return Err(argument(format_args!("p: {p} is not between 0 and 1")));
        }
        Ok(self.horizon(blocks)?.quantile(p))
    }

    /// Probability that the base fee is at most `fee` wei per gas at `blocks` blocks ahead.
    fn probability_below(&self, blocks: u32, fee: Uint<u128>) -> PyResult<f64> {
        Ok(self.horizon(blocks)?.probability_below(fee.0))
    }

    #[getter]
    fn refit_due(&self) -> bool {
        self.0.refit_due()
    }

    /// Refits the models, without the interpreter's lock; false if too few blocks were observed.
    fn refit(&mut self, py: Python<'_>) -> bool {
        let Some(job) = self.0.refit_job() else { return false };
        let fitted = py.detach(|| job.run());
        self.0.install(fitted);
        true
    }

    /// Learned state of the experts and their intervals, as JSON; without blocks and fitted models.
    fn export_state(&self) -> PyResult<String> {
        serde_json::to_string(&self.0.export_state()).map_err(internal)
    }

    fn import_state(&mut self, state: &str) -> PyResult<()> {
        let state = parse("state", state)?;
        self.0.import_state(state).map_err(|error| failure("invalid_model", error))
    }
}

impl Forecaster {
    fn horizon(&self, blocks: u32) -> PyResult<HorizonForecast> {
        let forecast = self.0.forecast().ok_or_else(|| failure("not_ready", "no block has been seen"))?;
        let found = forecast.horizons.into_iter().find(|horizon| horizon.steps == blocks);
        found.ok_or_else(|| argument(format_args!("blocks: {blocks} is not one of the horizons")))
    }
}
