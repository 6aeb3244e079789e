//! Receipts that no node serves by hash any more: nodes drop receipts, and the transaction index, long before blocks.

use alloy_primitives::{B256, U64};
use serde_json::json;

use super::receipts::agreed;
use crate::{
    relay::rpc::RpcPool,
    request::{outcome::TxReceipt, receipt::RpcReceipt},
};

/// The receipt of `hash` from the receipts of its block `number`, agreed by a majority of the nodes for which `last` is
/// final. `None` if too few have it; the cost is then unknown.
pub(in crate::relay) async fn rebuild(pool: &RpcPool, hash: B256, number: u64, last: u64) -> Option<TxReceipt> {
    let params = json!([U64::from(number)]);
    let told: Vec<Option<Vec<RpcReceipt>>> = pool.call_settled("eth_getBlockReceipts", params, last).await;
    let its = |receipts: Vec<RpcReceipt>| receipts.into_iter().find(|receipt| receipt.transaction_hash == hash);
    agreed(pool, told.into_iter().flatten().filter_map(|receipts| its(receipts)?.into_receipt()))
}

#[cfg(test)]
mod tests;
