//! Foreign transactions, sent with a lane's key by another party, and their cost (invariant I12, account `foreign`).

use alloy_primitives::{B256, U256};

use super::{pruned, receipts};
use crate::{
    lane::PollPurpose,
    relay::rpc::RpcPool,
    sender::{ForeignTransaction, Taken},
};

/// Reads the cost of the transaction `hash` in `block`, by a majority of the nodes for which `last` is final (invariant
/// I15). `value_wei`: value it moves to other accounts if it succeeds.
pub(in crate::relay) async fn look(
    pool: &RpcPool,
    hash: B256,
    block: u64,
    value_wei: Option<U256>,
    last: u64,
) -> ForeignTransaction {
    let taken = match value_wei {
        Some(value_wei) => taken(pool, hash, block, value_wei, last).await,
        None => None,
    };
    ForeignTransaction { hash, block, taken }
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
