//! One chain as its tasks share it: facts, nodes, caches, the way to its service, and the service's view.

use std::{
    collections::BTreeMap,
    ops::Deref,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use alloy_primitives::Address;
use tokio::sync::mpsc;

use super::{
    foresight::ForecastView,
    message::Message,
    pause::PauseBoard,
    rpc::RpcPool,
    status::{ChainStatus, LaneStatus},
};
use crate::{
    chain::data_fee::DataFeeModel,
    market::SourceStatus,
    schedule::{Backlog, Callers},
    sender::{ChainFacts, DoorLimits, Price},
    time::Timestamp,
};

/// One chain's shared state: its published view, and the data that admission needs.
#[derive(Debug)]
pub(super) struct ChainShared {
    pub(super) facts: Arc<ChainFacts>,
    pub(super) pool: RpcPool,
    /// Tenants whose calls each lane makes; `None` if every lane makes all tenants' calls.
    pub(super) callers: Option<Callers>,
    pub(super) inbox: mpsc::Sender<Message>,
    pub(super) pauses: Arc<PauseBoard>,
    /// (forwarder, user) → lower bound of the next nonce on chain.
    pub(super) nonces: moka::future::Cache<(Address, Address), u64>,
    /// (forwarder, user) → number of the head at which that nonce was last read afresh.
    pub(super) agreed_at: moka::future::Cache<(Address, Address), u64>,
    /// Target → true if it is a contract with fixed code, according to a majority of the nodes.
    pub(super) contracts: moka::future::Cache<Address, bool>,
    pub(super) view: RwLock<ChainView>,
}

/// The chain service's published view of its chain.
#[derive(Debug, Clone)]
pub(super) struct ChainView {
    pub(super) status: ChainStatus,
    pub(super) lanes: Vec<LaneStatus>,
    pub(super) price: Option<Price>,
    /// Arrival of the head from which `price` is derived.
    pub(super) priced_at: Timestamp,
    /// Lead of the chain's clock over ours; zero while it is within the tolerance.
    pub(super) clock_ahead: Duration,
    pub(super) door: DoorLimits,
    /// The newest forecast.
    pub(super) forecast: Option<Arc<ForecastView>>,
    /// Fee sources by name.
    pub(super) sources: Vec<(String, SourceStatus)>,
    /// L1 data fee model; `None` while it is unknown.
    pub(super) data_fee: Option<DataFeeModel>,
    /// Fault of the last read of `data_fee`; `None` if it succeeded.
    pub(super) data_fee_fault: Option<String>,
    /// Backlog of each tenant whose pace is measured, as of the newest head.
    pub(super) backlogs: Arc<BTreeMap<Arc<str>, Backlog>>,
}

impl Deref for ChainShared {
    type Target = ChainFacts;

    fn deref(&self) -> &ChainFacts {
        &self.facts
    }
}

impl ChainShared {
    pub(super) fn view(&self) -> ChainView {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
