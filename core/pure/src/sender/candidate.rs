//! A batch on its way through the simulation.

use std::sync::Arc;

use alloy_primitives::U256;

use super::host::ForecastRef;
use crate::{
    request::{VerifiedRequest, simulation::Ahead, vehicle::Payload},
    schedule::Selection,
};

/// A batch on its way through the simulation.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Place in the queue, lane and ceiling, as composed.
    pub selection: Selection,
    /// Requests in the order of the calldata.
    pub members: Vec<Arc<VerifiedRequest>>,
    /// Target, calldata and gas of the transaction.
    pub payload: Payload,
    /// Users with predecessors in flight, with the forwarder nonce they will have after those.
    pub ahead: Ahead,
    /// The chain's own estimate of its data cost.
    pub data_quote: DataQuote,
    /// The forecast by which it was composed: another one may be active when it is signed.
    pub forecast_ref: Option<ForecastRef>,
    /// Gas of each member in a transaction of its own, as simulated; empty before the simulation, or without one.
    pub used: Vec<Option<u64>>,
}

/// The chain's own estimate for one payload; `None` fields where the chain family has none or did not answer.
#[derive(Debug, Clone, Copy, Default)]
pub struct DataQuote {
    /// Arbitrum: poster gas, padded.
    pub poster_gas: Option<u64>,
    /// Scroll: L1 data fee, wei.
    pub data_fee: Option<U256>,
}
