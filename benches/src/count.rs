//! Outcome of requests and transactions, counted on the chain.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::{SolCall, SolEvent};
use serde_json::{Value, json};
use slackwater_contracts::{
    forwarder::{ExecutedForwardRequest, noncesCall},
    guestbook::IGuestbook::{Signed, marksCall},
    multicall3::{Call3, aggregate3Call},
};

use crate::{
    error::{BenchError, Result},
    node::Node,
    wallet::SignedRequest,
    world::World,
};

/// Calls per `eth_call`.
const CHUNK: usize = 500;

/// Executions of requests, as the guest book counts them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Executions {
    /// Executed once.
    pub once: usize,
    /// Never executed.
    pub never: Vec<B256>,
    /// Executed more than once, with the number.
    pub repeated: Vec<(B256, u64)>,
}

impl Executions {
    /// Every request ran exactly once.
    pub const fn is_exactly_once(&self) -> bool {
        self.never.is_empty() && self.repeated.is_empty()
    }

    fn add(&mut self, id: B256, count: u64) {
        match count {
            0 => self.never.push(id),
            1 => self.once += 1,
            more => self.repeated.push((id, more)),
        }
    }
}

/// Number of executions of each request, by its tag.
///
/// # Errors
/// If the node does not answer.
pub async fn executions(node: &Node, world: &World, requests: &[SignedRequest]) -> Result<Executions> {
    let calls = requests.iter().map(|request| marksCall { tag: request.tag }.abi_encode());
    let counts = read_words(node, world, world.guestbook, calls).await?;
    let mut executions = Executions::default();
    for (request, count) in requests.iter().zip(counts) {
        executions.add(request.id, u64::try_from(count).unwrap_or(u64::MAX));
    }
    Ok(executions)
}

/// Number of executions of each request in blocks `from` to `to`, by the guest book's events: also for requests that
/// mark nothing.
///
/// # Errors
/// If the node does not answer.
pub async fn executions_by_event(
    node: &Node,
    world: &World,
    requests: &[SignedRequest],
    from: u64,
    to: u64,
) -> Result<Executions> {
    let mut counts: BTreeMap<(Address, B256), u64> = BTreeMap::new();
    for (user, _, tag) in entries(node, world, from, to).await? {
        *counts.entry((user, tag)).or_default() += 1;
    }
    let mut executions = Executions::default();
    for request in requests {
        let count = counts.get(&(request.forward.from, request.tag)).copied().unwrap_or(0);
        executions.add(request.id, count);
    }
    Ok(executions)
}

/// The forwarder's nonce of each user.
///
/// # Errors
/// If the node does not answer.
pub async fn nonces(node: &Node, world: &World, users: &[Address]) -> Result<Vec<u64>> {
    let calls = users.iter().map(|&owner| noncesCall { owner }.abi_encode());
    let words = read_words(node, world, world.forwarder, calls).await?;
    Ok(words.into_iter().map(|word| u64::try_from(word).unwrap_or(u64::MAX)).collect())
}

async fn read_words(
    node: &Node,
    world: &World,
    target: Address,
    calls: impl Iterator<Item = Vec<u8>>,
) -> Result<Vec<U256>> {
    let calls: Vec<Call3> = calls.map(|data| Call3 { target, allowFailure: false, callData: data.into() }).collect();
    let mut words = Vec::with_capacity(calls.len());
    for chunk in calls.chunks(CHUNK) {
        let data = aggregate3Call { calls: chunk.to_vec() }.abi_encode();
        let answer = node.read(world.multicall3, data).await?;
        let results =
            aggregate3Call::abi_decode_returns(&answer).map_err(|error| BenchError::unexpected("aggregate3", error))?;
        words.extend(results.iter().map(|result| U256::try_from_be_slice(&result.returnData).unwrap_or_default()));
    }
    Ok(words)
}

/// A transaction of the relayer.
#[derive(Debug, Clone)]
pub struct RelayedTransaction {
    /// Hash.
    pub hash: B256,
    /// Sender.
    pub sender: Address,
    /// Account nonce.
    pub nonce: u64,
    /// Called account.
    pub to: Option<Address>,
    /// Height.
    pub block: u64,
    /// Seconds.
    pub block_timestamp: u64,
    /// Status 1.
    pub is_success: bool,
    /// Gas used.
    pub gas_used: u64,
    /// Cost in wei, without value.
    pub cost_wei: U256,
    /// Requests that the forwarder executed, in order: user, user's nonce, success of the inner call.
    pub executed: Vec<(Address, u64, bool)>,
    /// Tags that the guest book marked, in order.
    pub tags: Vec<B256>,
}

/// Transactions of the relayer's accounts in a range of blocks.
#[derive(Debug, Clone, Default)]
pub struct Relayed {
    /// In order of the chain.
    pub transactions: Vec<RelayedTransaction>,
}

impl Relayed {
    /// Everything that `senders` sent in blocks `from` to `to`, both included.
    ///
    /// # Errors
    /// If the node does not answer, or lacks a block.
    pub async fn scan(node: &Node, world: &World, senders: &[Address], from: u64, to: u64) -> Result<Self> {
        let senders: BTreeSet<_> = senders.iter().collect();
        let mut transactions = Vec::new();
        for number in from..=to {
            let block = node.block(number).await?;
            let block = block.ok_or_else(|| BenchError::unexpected(format!("block {number}"), "missing"))?;
            if !block.transactions.iter().any(|transaction| senders.contains(&transaction.from)) {
                continue;
            }
            let receipts = node.block_receipts(number).await?;
            for (transaction, receipt) in block.transactions.iter().zip(receipts) {
                if transaction.hash != receipt.transaction_hash {
                    return Err(BenchError::unexpected(format!("receipts of block {number}"), "in another order"));
                }
                if !senders.contains(&transaction.from) {
                    continue;
                }
                let mut executed = Vec::new();
                let mut tags = Vec::new();
                for log in &receipt.logs {
                    let topics = || log.topics.iter().copied();
                    if log.address == world.forwarder {
                        if let Ok(event) = ExecutedForwardRequest::decode_raw_log(topics(), &log.data) {
                            let nonce = u64::try_from(event.nonce).unwrap_or(u64::MAX);
                            executed.push((event.signer, nonce, event.success));
                        }
                    } else if log.address == world.guestbook
                        && let Ok(event) = Signed::decode_raw_log(topics(), &log.data)
                    {
                        tags.push(event.tag);
                    }
                }
                transactions.push(RelayedTransaction {
                    hash: transaction.hash,
                    sender: transaction.from,
                    nonce: transaction.nonce.to(),
                    to: transaction.to,
                    block: number,
                    block_timestamp: block.timestamp.to(),
                    is_success: receipt.status.to::<u64>() == 1,
                    gas_used: receipt.gas_used.to(),
                    cost_wei: receipt.cost_wei(),
                    executed,
                    tags,
                });
            }
        }
        Ok(Self { transactions })
    }

    /// Transactions that executed at least one request.
    pub fn batches(&self) -> impl Iterator<Item = &RelayedTransaction> {
        self.transactions.iter().filter(|transaction| !transaction.executed.is_empty())
    }

    /// Requests that the forwarder executed, with or without success.
    pub fn requests(&self) -> usize {
        self.transactions.iter().map(|transaction| transaction.executed.len()).sum()
    }

    /// Requests per transaction that executed any, in hundredths, rounded down.
    pub fn requests_per_batch_x100(&self) -> usize {
        (self.requests() * 100).checked_div(self.batches().count()).unwrap_or(0)
    }

    /// Gas of all transactions per executed request, rounded up.
    pub fn gas_per_request(&self) -> u64 {
        let gas: u64 = self.transactions.iter().map(|transaction| transaction.gas_used).sum();
        gas.div_ceil((self.requests() as u64).max(1))
    }

    /// Cost of all transactions in wei.
    pub fn cost_wei(&self) -> U256 {
        self.transactions.iter().fold(U256::ZERO, |sum, transaction| sum.saturating_add(transaction.cost_wei))
    }

    /// Users whose requests were not executed in the order of their nonces, or with one missing.
    pub fn out_of_order(&self) -> Vec<Address> {
        let mut next: BTreeMap<Address, u64> = BTreeMap::new();
        let mut wrong = BTreeSet::new();
        for (user, nonce, _) in self.transactions.iter().flat_map(|transaction| &transaction.executed) {
            let expected = next.entry(*user).or_insert(*nonce);
            if expected != nonce {
                wrong.insert(*user);
            }
            *expected = nonce + 1;
        }
        wrong.into_iter().collect()
    }

    /// Gaps in the account nonces of each sender: `(sender, missing nonce)`.
    pub fn nonce_gaps(&self) -> Vec<(Address, u64)> {
        let mut next: BTreeMap<Address, u64> = BTreeMap::new();
        let mut gaps = Vec::new();
        for transaction in &self.transactions {
            let expected = next.entry(transaction.sender).or_insert(transaction.nonce);
            gaps.extend((*expected..transaction.nonce).map(|nonce| (transaction.sender, nonce)));
            *expected = transaction.nonce + 1;
        }
        gaps
    }
}

/// Entries in the guest book of blocks `from` to `to`, in order: user, user's count, tag.
///
/// # Errors
/// If the node does not answer.
pub async fn entries(node: &Node, world: &World, from: u64, to: u64) -> Result<Vec<(Address, u64, B256)>> {
    let topics = json!([Signed::SIGNATURE_HASH, Value::Null, Value::Null]);
    let mut entries = Vec::new();
    let mut next = from;
    while next <= to {
        // A few blocks at a time: an answer of a hundred thousand events is slow to make and to read.
        let last = (next + 9).min(to);
        for log in node.logs(world.guestbook, topics.clone(), next, last).await? {
            let event = Signed::decode_raw_log(log.topics.iter().copied(), &log.data)
                .map_err(|error| BenchError::unexpected("Signed", error))?;
            entries.push((event.user, u64::try_from(event.count).unwrap_or(u64::MAX), event.tag));
        }
        next = last + 1;
    }
    Ok(entries)
}
