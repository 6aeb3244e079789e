//! One chain as its tasks share it: facts, nodes, caches, the way to its service, and the service's view.

use std::{
    collections::BTreeMap,
    ops::Deref,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use alloy_primitives::Address;
use tokio::sync::mpsc;

use super::message::Message;
use crate::{
    chain::data_fee::DataFeeModel,
    market::SourceStatus,
    relay::{
        admission::pause::PauseBoard,
        handle::status::{ChainStatus, LaneStatus},
        market::forecast::ForecastView,
        rpc::RpcPool,
    },
    schedule::{Backlog, Callers},
    sender::{ChainFacts, DoorLimits, Price},
    time::Timestamp,
};

/// One chain's shared state: its published view, and the data that admission needs.
#[derive(Debug)]
pub(in crate::relay) struct ChainShared {
    pub(in crate::relay) facts: Arc<ChainFacts>,
    pub(in crate::relay) pool: RpcPool,
    /// Tenants whose calls each lane makes; `None` if every lane makes all tenants' calls.
    pub(in crate::relay) callers: Option<Callers>,
    pub(in crate::relay) inbox: mpsc::Sender<Message>,
    pub(in crate::relay) pauses: Arc<PauseBoard>,
    /// (forwarder, user) → lower bound of the next nonce on chain.
    pub(in crate::relay) nonces: moka::future::Cache<(Address, Address), u64>,
    /// (forwarder, user) → number of the head at which that nonce was last read afresh.
    pub(in crate::relay) agreed_at: moka::future::Cache<(Address, Address), u64>,
    /// Target → true if it is a contract with fixed code, according to a majority of the nodes.
    pub(in crate::relay) contracts: moka::future::Cache<Address, bool>,
    pub(in crate::relay) view: RwLock<ChainView>,
}

/// The chain service's published view of its chain.
#[derive(Debug, Clone)]
pub(in crate::relay) struct ChainView {
    pub(in crate::relay) status: ChainStatus,
    pub(in crate::relay) lanes: Vec<LaneStatus>,
    pub(in crate::relay) price: Option<Price>,
    /// Arrival of the head from which `price` is derived.
    pub(in crate::relay) priced_at: Timestamp,
    /// Lead of the chain's clock over ours; zero while it is within the tolerance.
    pub(in crate::relay) clock_ahead: Duration,
    pub(in crate::relay) door: DoorLimits,
    /// The newest forecast.
    pub(in crate::relay) forecast: Option<Arc<ForecastView>>,
    /// Fee sources by name.
    pub(in crate::relay) sources: Vec<(String, SourceStatus)>,
    /// L1 data fee model; `None` while it is unknown.
    pub(in crate::relay) data_fee: Option<DataFeeModel>,
    /// Fault of the last read of `data_fee`; `None` if it succeeded.
    pub(in crate::relay) data_fee_fault: Option<String>,
    /// Backlog of each tenant whose pace is measured, as of the newest head.
    pub(in crate::relay) backlogs: Arc<BTreeMap<Arc<str>, Backlog>>,
}

impl Deref for ChainShared {
    type Target = ChainFacts;

    fn deref(&self) -> &ChainFacts {
        &self.facts
    }
}

impl ChainShared {
    pub(in crate::relay) fn view(&self) -> ChainView {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
