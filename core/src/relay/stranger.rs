//! Foreign transactions, sent with a lane's key by another party, and their cost (invariant I12, account `foreign`).

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

/// Time limit for which the members of a transaction that lost its nonce wait for the cost of the winner. After that
/// they go on, and the cost is not booked.
const COST_WAIT: Duration = Duration::from_secs(60);

/// A foreign transaction that used a lane's nonce, in a final block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stranger {
    pub(super) hash: B256,
    pub(super) block: u64,
    /// Its cost; `None` without a majority.
    pub(super) taken: Option<Taken>,
}

/// Cost of a transaction to its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) gas_used: u64,
    /// Gas and data fee, wei.
    pub(super) cost_wei: U256,
    /// Value moved to other accounts, wei.
    pub(super) value_wei: U256,
}

impl Taken {
    /// The bill, borne by the operator alone.
    pub(super) fn bill(&self) -> Bill {
        let wei = self.cost_wei.saturating_add(self.value_wei);
        let entry = AccountEntry { account: CostAccount::Foreign, tenant: None, wei };
        Bill { value_wei: self.value_wei, accounts: vec![entry] }
    }
}

/// Reads the cost of the transaction `hash` in `block`, by a majority of the nodes for which `last` is final (invariant
/// I15). `value_wei`: value it moves to other accounts if it succeeds.
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
    /// Records the foreign transaction that took a nonce. Returns true if the nonce can be settled: the cost is known,
    /// or the time limit has passed.
    pub(super) fn meet(&mut self, now: Timestamp, lane: usize, nonce: u64, stranger: Stranger) -> bool {
        let flight = self.lanes.get_mut(lane).and_then(|lane| lane.flights.get_mut(&nonce));
        let Some(flight) = flight else { return true };
        let since = flight.stranger.map_or(now, |(_, since)| since);
        flight.stranger = Some((stranger, since));
        stranger.taken.is_some() || now.since(since) >= COST_WAIT
    }

    /// Logs and records the foreign transaction that took a nonce, and the amount booked to the operator's account.
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
