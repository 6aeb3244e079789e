//! Which transaction used a nonce, when no node shows a receipt of ours.
//!
//! Missing receipts prove nothing: nodes index them late, or lose them. Before a batch is planned anew, the transaction that
//! took its nonce must be known (invariant I3).

use alloy_primitives::{Address, B256, U64};
use serde::Deserialize;
use serde_json::json;

use super::rpc::RpcPool;

/// Blocks that are read one by one where nodes have no state for a search.
const MAX_SCAN_BLOCKS: u64 = 1_024;

#[derive(Debug, Deserialize)]
struct Block {
    transactions: Vec<Transaction>,
}

#[derive(Debug, Deserialize)]
struct Transaction {
    hash: B256,
    from: Address,
    nonce: U64,
}

impl Block {
    fn used(&self, sender: Address, nonce: u64) -> Option<B256> {
        let is_it = |transaction: &&Transaction| transaction.from == sender && transaction.nonce == U64::from(nonce);
        self.transactions.iter().find(is_it).map(|transaction| transaction.hash)
    }
}

/// What is known about the use of a nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spender {
    /// This transaction used it, as a majority of the nodes has it.
    Known(B256),
    /// It is still free.
    Nobody,
    /// It can't be told now.
    Unknown,
}

/// Which transaction of `sender` with `nonce` is in a block up to `last`.
pub(super) async fn find(pool: &RpcPool, sender: Address, nonce: u64, last: u64) -> Spender {
    let number = match first_above(pool, sender, nonce, last).await {
        Search::Found(number) => Some(number),
        Search::NoState { below } => scan(pool, sender, nonce, below).await,
        Search::Nowhere => return Spender::Nobody,
    };
    let Some(number) = number else { return Spender::Unknown };
    let blocks: Vec<Option<Block>> =
        pool.call_settled("eth_getBlockByNumber", json!([U64::from(number), true]), last).await;
    let used: Vec<B256> = blocks.into_iter().flatten().filter_map(|block| block.used(sender, nonce)).collect();
    let agree = |hash: &B256| pool.is_majority(used.iter().filter(|other| *other == hash).count());
    used.iter().find(|hash| agree(hash)).map_or(Spender::Unknown, |hash| Spender::Known(*hash))
}

enum Search {
    /// The first block after which the account's nonce is above.
    Found(u64),
    /// In or before this block, for which the nodes still have the state.
    NoState { below: u64 },
    /// Not up to the last block.
    Nowhere,
}

/// Gallops back from `last`, then halves.
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

/// The sender's nonce after a block; `None` if no node says.
async fn count(pool: &RpcPool, sender: Address, block: u64) -> Option<u64> {
    let count: Result<U64, _> = pool.call("eth_getTransactionCount", json!([sender, U64::from(block)])).await;
    count.ok().map(|count| count.to())
}

/// Looks into the blocks themselves, from `last` backwards.
async fn scan(pool: &RpcPool, sender: Address, nonce: u64, last: u64) -> Option<u64> {
    for number in (last.saturating_sub(MAX_SCAN_BLOCKS)..=last).rev() {
        let block: Option<Block> =
            pool.call("eth_getBlockByNumber", json!([U64::from(number), true])).await.ok().flatten();
        if block?.used(sender, nonce).is_some() {
            return Some(number);
        }
    }
    None
}
