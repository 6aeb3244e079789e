//! Views of requests and of the account, for display.

use alloy_primitives::{Address, B256, U256};
use serde::{Serialize, Serializer};

use super::{
    parts::Entry,
    state::{LANE, LocalRelay},
};
use crate::{
    chain::decimal,
    lane::Lane,
    request::{Reason, RequestId, Status},
    table::Table,
    time::Timestamp,
};

/// A request, for display.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalView {
    /// Id of the request.
    pub id: RequestId,
    /// `forward` or `call`.
    pub kind: &'static str,
    /// A forward's place in its user's sequence; `None` for a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<LocalPlace>,
    /// Current status.
    pub status: Status,
    /// Reason for an end other than `finalized`, or for a failure in the block that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Human-readable detail of the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Hash of the transaction that holds it; `None` before inclusion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_hash: Option<B256>,
    /// Number of that transaction's block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_number: Option<u64>,
    /// Its share of the transaction's cost including its value, wei; `None` before its end.
    #[serde(skip_serializing_if = "Option::is_none", with = "decimal::option")]
    pub cost_wei: Option<U256>,
    /// Time of acceptance, Unix ms.
    pub accepted_at: Timestamp,
    /// Deadline of inclusion, Unix ms.
    pub deadline_at: Timestamp,
}

/// A forward's forwarder, user and nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalPlace {
    /// Address of the forwarder.
    #[serde(serialize_with = "checksummed")]
    pub forwarder: Address,
    /// Address of the user.
    #[serde(serialize_with = "checksummed")]
    pub from: Address,
    /// The user's nonce in the forwarder.
    #[serde(with = "decimal")]
    pub nonce: u64,
}

/// The session key's account, for display.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountView {
    /// Address, to be topped up.
    #[serde(serialize_with = "checksummed")]
    pub address: Address,
    /// Balance at the last read, wei; `None` before the first.
    #[serde(skip_serializing_if = "Option::is_none", with = "decimal::option")]
    pub balance_wei: Option<U256>,
    /// Number of transactions in flight.
    pub in_flight: usize,
    /// Number of included transactions that are not final.
    pub unfinal: usize,
    /// Number of queued requests.
    pub waiting: usize,
    /// True while it waits for a top-up.
    pub is_underfunded: bool,
}

fn checksummed<S: Serializer>(address: &Address, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(address)
}

impl Entry {
    pub(super) fn view(&self) -> LocalView {
        LocalView {
            id: self.request.id(),
            kind: self.request.kind_name(),
            place: self.request.sequence().map(|(forwarder, from, nonce)| LocalPlace { forwarder, from, nonce }),
            status: self.status,
            reason: self.reason,
            detail: self.detail.clone(),
            tx_hash: self.tx_hash,
            block_number: self.block_number,
            cost_wei: self.cost_wei,
            accepted_at: self.accepted_at,
            deadline_at: self.request.deadline(),
        }
    }
}

impl LocalRelay {
    /// A request; `None` if it is unknown or forgotten.
    pub fn request(&self, id: RequestId) -> Option<LocalView> {
        self.entries.get(&id).map(Entry::view)
    }

    /// All known requests, in order of arrival.
    pub fn requests(&self) -> Vec<LocalView> {
        let mut views = Table::new();
        for view in self.entries.values().map(Entry::view) {
            views.insert((view.accepted_at, view.id), view);
        }
        views.into_iter().map(|(_, view)| view).collect()
    }

    /// The paying account.
    pub fn account(&self) -> AccountView {
        let lane = self.sender.lane(LANE).map(|lane| &lane.machine);
        AccountView {
            address: self.key.address(),
            balance_wei: lane.and_then(Lane::balance),
            in_flight: lane.map_or(0, Lane::in_flight),
            unfinal: lane.map_or(0, Lane::unfinal),
            waiting: self.entries.values().filter(|entry| entry.status == Status::Queued).count(),
            is_underfunded: lane.is_some_and(Lane::is_underfunded),
        }
    }
}
