//! What can be shown.

use alloy_primitives::{Address, B256, U256};
use serde::{Serialize, Serializer};

use super::{machine::LocalRelay, requests::Entry};
use crate::{
    chain::decimal,
    request::{Reason, RequestId, Status},
    table::Table,
    time::Timestamp,
};

/// A request, for showing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalView {
    /// Its id.
    pub id: RequestId,
    /// `forward` or `call`.
    pub kind: &'static str,
    /// A forward's place in its user's sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<LocalPlace>,
    /// Where it stands.
    pub status: Status,
    /// Why it ended otherwise than `finalized`, or what went wrong in the block that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// More about that, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The transaction that holds it, once included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_hash: Option<B256>,
    /// Its block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_number: Option<u64>,
    /// Its share of what the transaction cost, value included; once it has ended. Wei.
    #[serde(skip_serializing_if = "Option::is_none", with = "decimal::option")]
    pub cost_wei: Option<U256>,
    /// When it was taken, Unix ms.
    pub accepted_at: Timestamp,
    /// Latest inclusion, Unix ms.
    pub deadline_at: Timestamp,
}

/// Whose request it is, and which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalPlace {
    /// The forwarder.
    #[serde(serialize_with = "checksummed")]
    pub forwarder: Address,
    /// The user.
    #[serde(serialize_with = "checksummed")]
    pub from: Address,
    /// The user's nonce there.
    #[serde(with = "decimal")]
    pub nonce: u64,
}

/// The session key's account, for showing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountView {
    /// Its address: top it up here.
    #[serde(serialize_with = "checksummed")]
    pub address: Address,
    /// Balance when it was last read, wei; `None` before that.
    #[serde(skip_serializing_if = "Option::is_none", with = "decimal::option")]
    pub balance_wei: Option<U256>,
    /// Transactions outside blocks.
    pub in_flight: usize,
    /// Transactions in blocks that are not final.
    pub unfinal: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// It waits for a top-up.
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
    /// A request; `None` for one that is not known (any more).
    pub fn request(&self, id: RequestId) -> Option<LocalView> {
        self.entries.get(&id).map(Entry::view)
    }

    /// All requests that are known, in order of arrival.
    pub fn requests(&self) -> Vec<LocalView> {
        let mut views = Table::new();
        for view in self.entries.values().map(Entry::view) {
            views.insert((view.accepted_at, view.id), view);
        }
        views.into_iter().map(|(_, view)| view).collect()
    }

    /// The account that pays.
    pub fn account(&self) -> AccountView {
        AccountView {
            address: self.key.address(),
            balance_wei: self.lane.balance(),
            in_flight: self.lane.in_flight(),
            unfinal: self.lane.unfinal(),
            waiting: self.entries.values().filter(|entry| entry.status == Status::Queued).count(),
            is_underfunded: self.lane.is_underfunded(),
        }
    }
}
