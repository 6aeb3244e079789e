//! Reading receipts: one node for a first look, a majority before anything terminal.

use alloy_primitives::{B256, U256};
use serde_json::json;

use crate::{
    lane::PollPurpose,
    protection::Protection,
    relay::rpc::RpcPool,
    request::{outcome::TxReceipt, receipt::RpcReceipt},
};

/// Parses a receipt. True if `input` is one.
#[cfg(feature = "fuzzing")]
pub(in crate::relay) fn read_any(input: &[u8]) -> bool {
    let receipt = serde_json::from_slice::<Option<RpcReceipt>>(input).ok().flatten();
    receipt.map(|receipt| receipt.into_receipt().map(|receipt| receipt.cost_wei())).is_some()
}

/// Result of a receipt query for a nonce's attempts.
#[derive(Debug)]
pub(in crate::relay) struct Found {
    pub(in crate::relay) receipt: Option<Box<TxReceipt>>,
    /// True if absence of a receipt is reliable.
    pub(in crate::relay) is_complete: bool,
    /// Purpose that the result serves: a receipt above the final block only proves inclusion, whatever was asked.
    pub(in crate::relay) purpose: PollPurpose,
}

/// Searches for a receipt of any of `hashes`. For inclusion at one node, and at all if that one shows none; for
/// finality at the nodes for which `last`, the final block, is final too.
pub(in crate::relay) async fn find(pool: &RpcPool, hashes: &[B256], purpose: PollPurpose, last: Option<u64>) -> Found {
    match (purpose, last) {
        (PollPurpose::Finality, None) => Found { receipt: None, is_complete: false, purpose },
        (PollPurpose::Finality, Some(last)) => find_settled(pool, hashes, last).await,
        (PollPurpose::Inclusion, _) => find_any(pool, hashes).await,
    }
}

async fn find_any(pool: &RpcPool, hashes: &[B256]) -> Found {
    let found = find_first(pool, hashes).await;
    if found.receipt.is_some() || pool.len() < 2 {
        return found;
    }
    // The account's nonce is used, but that node shows nothing: it may have no receipts, and must not stop the lane
    // alone (I15).
    for hash in hashes {
        if let Some(receipt) = find_agreed(pool, *hash).await {
            return Found { receipt: Some(Box::new(receipt)), is_complete: true, ..found };
        }
    }
    found
}

async fn find_first(pool: &RpcPool, hashes: &[B256]) -> Found {
    let mut found = Found { receipt: None, is_complete: true, purpose: PollPurpose::Inclusion };
    for hash in hashes {
        match pool.call::<Option<RpcReceipt>>("eth_getTransactionReceipt", json!([hash])).await {
            Ok(Some(receipt)) if receipt.transaction_hash == *hash => {
                if let Some(receipt) = receipt.into_receipt() {
                    return Found { receipt: Some(Box::new(receipt)), is_complete: true, ..found };
                }
            }
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => found.is_complete = false,
        }
    }
    found
}

/// The receipt of `hash` that a majority of all nodes reports now.
pub(in crate::relay) async fn find_agreed(pool: &RpcPool, hash: B256) -> Option<TxReceipt> {
    let told = pool.call_all::<Option<RpcReceipt>>("eth_getTransactionReceipt", json!([hash])).await;
    let told = told.into_iter().filter_map(|told| told.ok().flatten()?.into_receipt());
    agreed(pool, told.filter(|told| told.hash == hash))
}

/// **Invariant I9:** a majority of all nodes must report the same, and only nodes for which `last` is final count.
async fn find_settled(pool: &RpcPool, hashes: &[B256], last: u64) -> Found {
    let mut found = Found { receipt: None, is_complete: true, purpose: PollPurpose::Finality };
    for hash in hashes {
        let answers: Vec<Option<RpcReceipt>> =
            pool.call_settled("eth_getTransactionReceipt", json!([hash]), last).await;
        let count = answers.len();
        let its = |answer: RpcReceipt| answer.into_receipt().filter(|receipt| receipt.hash == *hash);
        let receipts: Vec<TxReceipt> = answers.into_iter().flatten().filter_map(its).collect();
        let absent = count - receipts.len();
        if let Some(receipt) = agreed(pool, receipts) {
            if receipt.block_number > last && Protection::SettleAtFinality.is_on() {
                found.purpose = PollPurpose::Inclusion;
            }
            return Found { receipt: Some(Box::new(receipt)), is_complete: true, ..found };
        }
        found.is_complete &= pool.is_majority(absent);
    }
    found
}

/// The receipt reported by a majority of all nodes. Not every node reports fees beyond gas; the lower median of those
/// that do counts, so that one liar among three changes nothing.
pub(in crate::relay) fn agreed(pool: &RpcPool, told: impl IntoIterator<Item = TxReceipt>) -> Option<TxReceipt> {
    let mut votes: Vec<(TxReceipt, Vec<U256>)> = Vec::new();
    for receipt in told {
        let fee = receipt.extra_fee_wei;
        match votes.iter_mut().find(|(other, _)| says_the_same(other, &receipt)) {
            Some((_, fees)) => fees.push(fee),
            None => votes.push((receipt, vec![fee])),
        }
    }
    let (mut receipt, mut fees) = votes.into_iter().find(|(_, fees)| pool.is_majority(fees.len()))?;
    fees.retain(|fee| !fee.is_zero());
    fees.sort_unstable();
    receipt.extra_fee_wei = fees.get(fees.len().saturating_sub(1) / 2).copied().unwrap_or_default();
    Some(receipt)
}

/// True if two nodes report the same about a transaction. Fees beyond gas are not compared, because not every node
/// reports them.
pub(in crate::relay) fn says_the_same(a: &TxReceipt, b: &TxReceipt) -> bool {
    a.block_hash == b.block_hash
        // A hash fixes the number, but we can't derive it.
        && a.block_number == b.block_number
        && a.is_success == b.is_success
        && a.gas_used == b.gas_used
        && a.effective_gas_price == b.effective_gas_price
        && a.logs == b.logs
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::relay::rpc::RpcEndpoint;

    /// The first of three nodes claims a block that has long been final.
    #[test]
    fn one_nodes_block_number_is_no_majoritys() {
        let receipt = |block_number| TxReceipt {
            hash: B256::repeat_byte(1),
            block_number,
            block_hash: B256::repeat_byte(2),
            is_success: true,
            gas_used: 21_000,
            effective_gas_price: 1,
            extra_fee_wei: U256::ZERO,
            logs: Vec::new(),
        };
        let endpoints = ["a", "b", "c"].map(|name| RpcEndpoint::new(name, "http://localhost:1"));
        let pool = RpcPool::new(endpoints.into(), Duration::from_secs(1));
        let number = |told: [u64; 3]| agreed(&pool, told.map(receipt)).map(|receipt| receipt.block_number);
        assert_eq!(number([3, 101, 101]), Some(101));
        assert_eq!(number([1 << 40, 101, 101]), Some(101));
        assert_eq!(number([3, 101, 102]), None);
    }
}
