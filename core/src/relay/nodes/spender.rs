//! Search for the transaction that used a nonce when no node shows a receipt of ours.
//!
//! Missing receipts prove nothing: nodes index them late, or lose them. Before a batch is replanned, the transaction
//! that took its nonce must be known (invariant I3).

use alloy_primitives::{Address, B256, U64, U256};
use serde::Deserialize;
use serde_json::json;

use crate::relay::{chain::keys::Scans, rpc::RpcPool};

#[derive(Debug, Deserialize)]
struct Block {
    transactions: Vec<Transaction>,
}

#[derive(Debug, Deserialize)]
struct Transaction {
    hash: B256,
    from: Address,
    nonce: U64,
    /// Recipient; `None` for a contract creation.
    #[serde(default)]
    to: Option<Address>,
    #[serde(default)]
    value: Option<U256>,
}

impl Transaction {
    /// Value moved to other accounts if it succeeds, wei; `None` if the node does not report it.
    fn moves(&self) -> Option<U256> {
        if self.to == Some(self.from) { Some(U256::ZERO) } else { self.value }
    }
}

impl Block {
    fn used(&self, sender: Address, nonce: u64) -> Option<&Transaction> {
        let is_it = |transaction: &&Transaction| transaction.from == sender && transaction.nonce == U64::from(nonce);
        self.transactions.iter().find(is_it)
    }
}

/// Knowledge about the use of a nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::relay) enum Spender {
    /// Used by this transaction, in this block, for a majority of the nodes. `value_wei`: value moved to other accounts
    /// if it succeeds; `None` without a majority.
    Known { hash: B256, block: u64, value_wei: Option<U256> },
    /// The nonce is still free.
    Nobody,
    /// Not known at present.
    Unknown,
}

/// Finds the transaction of `sender` with `nonce` in a block up to `last`. If the nodes lack old state for a bisection,
/// at most `blocks` are read one by one, and the next call resumes there.
pub(in crate::relay) async fn find(
    pool: &RpcPool,
    sender: Address,
    nonce: u64,
    last: u64,
    scans: &Scans,
    blocks: u64,
) -> Spender {
    let number = match first_above(pool, sender, nonce, last).await {
        Search::Found(number) => Some(number),
        Search::NoState { below } => scan(pool, sender, nonce, below, scans, blocks).await,
        Search::Nowhere => return Spender::Nobody,
    };
    let Some(number) = number else { return Spender::Unknown };
    let blocks: Vec<Option<Block>> =
        pool.call_settled("eth_getBlockByNumber", json!([U64::from(number), true]), last).await;
    let used = blocks.iter().flatten().filter_map(|block| block.used(sender, nonce));
    let used: Vec<(B256, Option<U256>)> = used.map(|transaction| (transaction.hash, transaction.moves())).collect();
    let agree = |hash: B256| pool.is_majority(used.iter().filter(|(other, _)| *other == hash).count());
    let Some(&(hash, _)) = used.iter().find(|(hash, _)| agree(*hash)) else { return Spender::Unknown };
    let is_agreed = |told: &&(B256, Option<U256>)| pool.is_majority(used.iter().filter(|other| other == told).count());
    let value_wei =
        used.iter().filter(|(other, _)| *other == hash).find(is_agreed).and_then(|(_, value_wei)| *value_wei);
    Spender::Known { hash, block: number, value_wei }
}

enum Search {
    /// The first block after which the account's nonce is above the searched one.
    Found(u64),
    /// Used in or before `below`, the oldest block with state at the nodes.
    NoState { below: u64 },
    /// Not used up to the last block.
    Nowhere,
}

/// Exponential search back from `last`, then bisection.
async fn first_above(pool: &RpcPool, sender: Address, nonce: u64, last: u64) -> Search {
    match count(pool, sender, last).await {
        Some(count) if count > nonce => {}
        Some(_) => return Search::Nowhere,
        None => return Search::NoState { below: last },
    }
    let (mut high, mut step) = (last, 1);
    let mut low = loop {
        let Some(low) = high.checked_sub(step) else { return Search::NoState { below: high } };
        match count(pool, sender, low).await {
            Some(count) if count <= nonce => break low,
            Some(_) => high = low,
            None => return Search::NoState { below: high },
        }
        step *= 2;
    };
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match count(pool, sender, middle).await {
            Some(count) if count <= nonce => low = middle,
            Some(_) => high = middle,
            None => return Search::NoState { below: high },
        }
    }
    Search::Found(high)
}

/// The sender's nonce after a block; `None` if no node reports it.
async fn count(pool: &RpcPool, sender: Address, block: u64) -> Option<u64> {
    let count: Result<U64, _> = pool.call("eth_getTransactionCount", json!([sender, U64::from(block)])).await;
    count.ok().map(|count| count.to())
}

/// Reads the blocks themselves, from `below` backwards, or from where the last scan stopped.
async fn scan(pool: &RpcPool, sender: Address, nonce: u64, below: u64, scans: &Scans, blocks: u64) -> Option<u64> {
    let mut number = scans.next(nonce).map_or(below, |next| next.min(below));
    for _ in 0..blocks {
        let block: Option<Block> =
            pool.call("eth_getBlockByNumber", json!([U64::from(number), true])).await.ok().flatten();
        if block?.used(sender, nonce).is_some() {
            scans.set(nonce, Some(number));
            return Some(number);
        }
        // At the first block of the chain start over: a node may have left something out.
        let next = number.checked_sub(1);
        scans.set(nonce, next);
        number = next?;
    }
    None
}
