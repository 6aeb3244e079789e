//! What a transaction did, where no node shows its receipt any more: nodes drop receipts, and the index of transactions, long
//! before blocks.

use alloy_primitives::{Address, B256, Bytes, Log, U64, U128, U256};
use serde::Deserialize;
use serde_json::json;

use super::{receipts::agreed, rpc::RpcPool};
use crate::request::{outcome::TxReceipt, receipt::RpcReceipt};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Block {
    hash: B256,
    gas_used: U64,
    transactions: Vec<Transaction>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Transaction {
    hash: B256,
    gas: U64,
    /// What was paid, of a transaction in a block.
    gas_price: U128,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BlockLog {
    address: Address,
    topics: Vec<B256>,
    data: Bytes,
    transaction_hash: B256,
}

/// The receipt of `hash`, which is in block `number`, as a majority of the nodes tells it for which `last` is final: from the
/// block's receipts; else from the block and its events.
///
/// Without the receipt, gas is counted up to the transaction's limit (or what its block used), and fees beyond gas are not known.
/// Where no node has the events either, there are none in it: members are then judged by their users' nonces. `None` where
/// that can't tell (`has_calls`), or too few nodes answer.
pub(super) async fn rebuild(pool: &RpcPool, hash: B256, number: u64, last: u64, has_calls: bool) -> Option<TxReceipt> {
    let params = json!([U64::from(number)]);
    let told: Vec<Option<Vec<RpcReceipt>>> = pool.call_settled("eth_getBlockReceipts", params, last).await;
    let its = |receipts: Vec<RpcReceipt>| receipts.into_iter().find(|receipt| receipt.transaction_hash == hash);
    let receipts = told.into_iter().flatten().filter_map(|receipts| its(receipts)?.into_receipt());
    if let Some(receipt) = agreed(pool, receipts) {
        return Some(receipt);
    }
    let params = json!([U64::from(number), true]);
    let blocks: Vec<Option<Block>> = pool.call_settled("eth_getBlockByNumber", params, last).await;
    let receipt = |block: Block| {
        let transaction = block.transactions.iter().find(|transaction| transaction.hash == hash)?;
        Some(TxReceipt {
            hash,
            block_number: number,
            block_hash: block.hash,
            is_success: true,
            gas_used: transaction.gas.min(block.gas_used).to(),
            effective_gas_price: transaction.gas_price.to(),
            extra_fee_wei: U256::ZERO,
            logs: Vec::new(),
        })
    };
    let receipt = agreed(pool, blocks.into_iter().flatten().filter_map(receipt))?;
    let params = json!([{ "blockHash": receipt.block_hash }]);
    let told: Vec<Vec<BlockLog>> = pool.call_settled("eth_getLogs", params, last).await;
    let logs = told.into_iter().map(|logs| {
        let its = logs.into_iter().filter(|log| log.transaction_hash == hash);
        let logs = its.filter_map(|log| Log::new(log.address, log.topics, log.data)).collect();
        TxReceipt { logs, ..receipt.clone() }
    });
    // Events prove that it did not revert. None prove nothing: nodes drop them, too.
    match agreed(pool, logs.filter(|receipt| !receipt.logs.is_empty())) {
        None if has_calls => None,
        told => Some(told.unwrap_or(receipt)),
    }
}

#[cfg(test)]
mod tests;
