//! What somebody else's transaction took from a lane: its key was used for it (invariant I12, account `foreign`).

use std::time::Duration;

use alloy_primitives::{B256, U256};

use super::{chain_service::ChainService, pruned, receipts, rpc::RpcPool};
use crate::{
    lane::PollPurpose,
    ledger::{AccountEntry, Bill},
    provenance::Decision,
    request::{BatchId, settlement::CostAccount},
    time::Timestamp,
};

/// How long the members of a transaction that lost its nonce wait for what the winner took to be known. Then they go on, and it
/// is not booked.
const COST_WAIT: Duration = Duration::from_secs(60);

/// A transaction that is not ours and used a nonce of a lane, in a final block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stranger {
    pub(super) hash: B256,
    pub(super) block: u64,
    /// `None` if too few nodes tell it.
    pub(super) taken: Option<Taken>,
}

/// What a transaction took from its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) gas_used: u64,
    /// Gas and data fee, wei.
    pub(super) cost_wei: U256,
    /// What it moved to others, wei.
    pub(super) value_wei: U256,
}

impl Taken {
    /// The operator bears all of it.
    pub(super) fn bill(&self) -> Bill {
        let wei = self.cost_wei.saturating_add(self.value_wei);
        let entry = AccountEntry { account: CostAccount::Foreign, tenant: None, wei };
        Bill { value_wei: self.value_wei, accounts: vec![entry] }
    }
}

/// Looks what the transaction `hash` in `block` took, as a majority of the nodes tells it for which `last` is final (invariant
/// I15). `value_wei`: what it moves to others if it succeeds.
pub(super) async fn look(pool: &RpcPool, hash: B256, block: u64, value_wei: Option<U256>, last: u64) -> Stranger {
    let taken = match value_wei {
        Some(value_wei) => taken(pool, hash, block, value_wei, last).await,
        None => None,
    };
    Stranger { hash, block, taken }
}

async fn taken(pool: &RpcPool, hash: B256, block: u64, value_wei: U256, last: u64) -> Option<Taken> {
    let found = receipts::find(pool, &[hash], PollPurpose::Finality, Some(last)).await.receipt;
    let receipt = match found.filter(|receipt| receipt.block_number <= last) {
        Some(receipt) => *receipt,
        None => pruned::rebuild(pool, hash, block, last).await?,
    };
    let value_wei = if receipt.is_success { value_wei } else { U256::ZERO };
    Some(Taken { gas_used: receipt.gas_used, cost_wei: receipt.cost_wei(), value_wei })
}

impl ChainService {
    /// Notes which transaction took a nonce. Whether the nonce can be settled: what that took is known, or was asked for long
    /// enough.
    pub(super) fn meet(&mut self, now: Timestamp, lane: usize, nonce: u64, stranger: Stranger) -> bool {
        let flight = self.lanes.get_mut(lane).and_then(|lane| lane.flights.get_mut(&nonce));
        let Some(flight) = flight else { return true };
        let since = flight.stranger.map_or(now, |(_, since)| since);
        flight.stranger = Some((stranger, since));
        stranger.taken.is_some() || now.since(since) >= COST_WAIT
    }

    /// Tells which transaction took a nonce, and what of it is on the operator's account.
    pub(super) fn tell_stranger(&mut self, id: BatchId, stranger: &Stranger) {
        let Stranger { hash, block, taken } = stranger;
        let mut detail = format!("nonce {} was used by {hash} in block {block}", id.nonce);
        let code = match taken {
            Some(taken) => {
                let wei = taken.cost_wei.saturating_add(taken.value_wei);
                detail.push_str(&format!(", which took {wei} wei"));
                "foreign_booked"
            }
            None => {
                tracing::error!(batch = %id, %hash, block, "no majority of the nodes tells what somebody else's transaction took from the lane: it is not booked");
                let chain = id.lane.chain_id.to_string();
                metrics::counter!("slackwater_foreign_unbooked_total", "chain_id" => chain).increment(1);
                "foreign_unbooked"
            }
        };
        let alert = Decision::Alert { code: code.to_owned(), subject: id.lane.to_string(), detail };
        self.note(Vec::new(), vec![alert]);
    }
}
