//! Questions of the sender to nodes and ledger, each answered by one input. Nothing here decides.

use std::{collections::BTreeMap, sync::Arc};

use alloy_primitives::{Address, B256, U64, U128};
use serde_json::json;
use tokio::sync::Semaphore;

use super::{keys::Scans, shared::ChainShared};
use crate::{
    chain::data_fee::DataFeeModel,
    lane::PollPurpose,
    ledger::{Ledger, LedgerError},
    protection::Protection,
    record::{AttemptRecord, Durable},
    relay::{
        nodes::{
            contracts::contracts_among,
            culprit, data_fee, foreign, payments, pruned,
            receipts::{self, says_the_same},
            simulate::{AgreedNonce, At, Question, agreed_nonces, forwarder_nonces, settled_nonces, simulate},
            spender::{self, Spender},
        },
        start::restore::{newest_calldata, parse, stored},
    },
    request::{
        BatchId, Payment, RequestId, VerifiedRequest, gate::Word, outcome::TxReceipt, receipt::RpcReceipt,
        simulation::Environment, vehicle::VehicleParams,
    },
    schedule::Selection,
    sender::{Candidate, Case, Confirmed, Input, Inspection, LeftOut, Simulation, User, Whole},
    time::Timestamp,
};

/// Bounds on work of one kind at a time. Never closed.
#[derive(Debug, Clone)]
pub(in crate::relay) struct Turns {
    /// Receipts asked for: many become final at once, and the nodes' quotas must hold.
    pub(in crate::relay) polls: Arc<Semaphore>,
    /// Transactions read back: the ledger has few readers, and others need them too.
    pub(in crate::relay) reads: Arc<Semaphore>,
    /// Searches for a culprit: each may be large.
    pub(in crate::relay) searches: Arc<Semaphore>,
}

/// Transactions whose bytes are read back at the same time.
const MAX_READS: usize = 2;

impl Turns {
    pub(in crate::relay) fn new(max_receipt_polls: usize) -> Self {
        let turns = |count: usize| Arc::new(Semaphore::new(count.clamp(1, Semaphore::MAX_PERMITS)));
        Self { polls: turns(max_receipt_polls), reads: turns(MAX_READS), searches: turns(culprit::MAX_SEARCHES) }
    }
}

/// A lane's nonce whose receipts are looked for.
#[derive(Debug)]
pub(in crate::relay) struct Poll {
    pub(in crate::relay) lane: usize,
    pub(in crate::relay) sender: Address,
    pub(in crate::relay) nonce: u64,
    pub(in crate::relay) hashes: Vec<B256>,
    pub(in crate::relay) purpose: PollPurpose,
    pub(in crate::relay) at_block: u64,
    pub(in crate::relay) final_block: Option<u64>,
    pub(in crate::relay) scans: Arc<Scans>,
}

impl Poll {
    /// The answer if nothing was found out.
    pub(in crate::relay) const fn lost(lane: usize, nonce: u64, purpose: PollPurpose, at_block: u64) -> Input {
        Input::Receipts { lane, nonce, purpose, found: None, is_complete: false, at_block, stranger: None }
    }
}

/// Receipts of a nonce's attempts; without one, at finality, the transaction that used the nonce (invariant I3).
pub(in crate::relay) async fn find_receipts(shared: &ChainShared, turns: Turns, poll: Poll) -> Input {
    let Poll { lane, sender, nonce, hashes, purpose, at_block, final_block: last, scans } = poll;
    let _turn = turns.polls.acquire_owned().await;
    let pool = &shared.pool;
    let found = receipts::find(pool, &hashes, purpose, last).await;
    let (mut found, mut is_complete, mut purpose) = (found.receipt, found.is_complete, found.purpose);
    let mut stranger = None;
    if found.is_none() && is_complete && purpose == PollPurpose::Finality && Protection::LostAtFinality.is_on() {
        // No receipt is no proof; only a known transaction of another party is.
        let used = match last {
            Some(last) => {
                spender::find(pool, sender, nonce, last, &scans, shared.tuning.lane.spender_scan_blocks).await
            }
            None => Spender::Unknown,
        };
        match used {
            // Ours, and its receipt is gone.
            Spender::Known { hash, block, .. } if hashes.contains(&hash) => {
                let last = last.unwrap_or(block);
                found = pruned::rebuild(pool, hash, block, last).await.map(Box::new);
                is_complete = found.is_some();
                match is_complete {
                    true => {
                        tracing::warn!(%sender, nonce, %hash, block, "no node has the receipt by its hash: settled by its block's receipts");
                    }
                    false => {
                        tracing::error!(%sender, nonce, %hash, block, "no node has the receipt: an endpoint that keeps it is needed to settle");
                    }
                }
            }
            Spender::Known { hash, block, value_wei } => {
                let last = last.unwrap_or(block);
                stranger = Some(foreign::look(pool, hash, block, value_wei, last).await);
            }
            Spender::Nobody => purpose = PollPurpose::Inclusion,
            Spender::Unknown => is_complete = false,
        }
        tracing::debug!(%sender, nonce, ?used, "no node shows a receipt for a nonce that should be final");
    }
    Input::Receipts { lane, nonce, purpose, found, is_complete, at_block, stranger }
}

/// Simulation of a batch, and the chain's word on its data fee.
pub(in crate::relay) async fn simulate_batch(
    shared: &ChainShared,
    (lane, params): (usize, VehicleParams),
    candidate: Box<Candidate>,
    environment: Environment,
    model: DataFeeModel,
    block: u64,
    is_wary: bool,
) -> Input {
    let nonce_contract = candidate.selection.key.nonce_contract();
    let is_known_forwarder = nonce_contract.is_none_or(|contract| shared.known_forwarders.contains(&contract));
    let data_quote = data_fee::ask(&shared.pool, &model, &candidate.payload, block);
    let question = Question {
        key: candidate.selection.key,
        members: &candidate.members,
        ahead: &candidate.ahead,
        is_known_forwarder,
        params: &params,
        environment,
        multicall3: shared.multicall3(),
        block,
        patience: shared.tuning.heads.patience(shared.spec.block_time()),
        is_wary,
    };
    let simulation = simulate(&shared.pool, &question);
    let (data_quote, simulation) = tokio::join!(data_quote, simulation);
    Input::Simulated { lane, candidate, simulation, data_quote }
}

/// The answer to a simulation that was lost.
pub(in crate::relay) fn unsimulated(lane: usize, candidate: Box<Candidate>) -> Input {
    let simulation = Simulation { words: vec![Word::Unknown; candidate.members.len()], ..Simulation::default() };
    Input::Simulated { lane, candidate, simulation, data_quote: Default::default() }
}

/// The tip that a majority of the nodes suggests.
pub(in crate::relay) async fn suggested_tip(shared: &ChainShared) -> Input {
    let told = shared.pool.call_all::<U128>("eth_maxPriorityFeePerGas", json!([])).await;
    let told = told.into_iter().flatten().map(|tip| tip.to::<u128>()).collect();
    // One node alone raises no tip where there are more.
    Input::Suggested(shared.pool.reached(told))
}

/// A majority's word on a transaction before finality, and on the next nonces of users that it left out.
pub(in crate::relay) async fn left_out(
    shared: &ChainShared,
    lane: usize,
    nonce: u64,
    believed: TxReceipt,
    deep: u64,
    users: Vec<User>,
) -> Input {
    let (pool, hash) = (&shared.pool, believed.hash);
    // A node that has not come so far may be on a stale branch, where the transaction is less deep. The heads are asked
    // first: the other way round a node could change branches in between.
    let heads = pool.call_all::<U64>("eth_blockNumber", json!([])).await;
    let told = pool.call_all::<Option<RpcReceipt>>("eth_getTransactionReceipt", json!([hash])).await;
    let told = heads.into_iter().zip(told).filter(|(head, _)| head.as_ref().is_ok_and(|head| head.to::<u64>() >= deep));
    let told = told.filter_map(|(_, told)| told.ok().flatten()).filter_map(RpcReceipt::into_receipt);
    // Not only its block: the amount drawn for it is money too (I15).
    let shown = told.filter(|told| told.hash == hash && says_the_same(told, &believed));
    let is_shown = pool.is_majority(shown.count());
    let nonces = agreed_nonces(pool, &users, shared.multicall3(), At::Head).await;
    let unused = users.into_iter().zip(nonces).filter_map(|(user, nonce)| Some((user, nonce?.at_most)));
    let block_hash = believed.block_hash;
    Input::LeftOut(LeftOut { lane, nonce, block_hash, is_shown, unused: unused.collect() })
}

/// Findings about a final transaction.
pub(in crate::relay) async fn inspect(
    shared: &ChainShared,
    (ledger, turns): (&dyn Ledger, Turns),
    order: (Timestamp, BatchId),
    users: Vec<User>,
    targets: Vec<Address>,
    case: Option<Box<Case>>,
    final_block: Option<u64>,
) -> Input {
    let contracts = contracts_among(shared, &targets).await;
    // Without a majority's answer nothing can be said about them, so ask until there is one.
    let nonces = match users.is_empty() {
        true => Vec::new(),
        false => settled_nonces(shared, &users, final_block).await,
    };
    let nonces = users.into_iter().zip(nonces).filter_map(|(user, nonce)| Some((user, nonce?.at_least))).collect();
    let culprit = match &case {
        Some(case) => {
            let _turn = turns.searches.acquire_owned().await;
            culprit::find(shared, ledger, case).await
        }
        None => None,
    };
    Input::Inspected { order, found: Some(Inspection { nonces, contracts, culprit }) }
}

/// Bytes of a transaction, from the ledger.
pub(in crate::relay) async fn fetch(
    ledger: &dyn Ledger,
    turns: Turns,
    (lane, nonce): (usize, u64),
    id: BatchId,
) -> Input {
    let _turn = turns.reads.acquire_owned().await;
    let found = read(ledger, id).await.inspect_err(|error| {
        tracing::error!(batch = %id, %error, "a transaction that left its block can't be read back: tried again with the next head");
    });
    Input::Fetched { lane, nonce, found: found.ok() }
}

/// Requests of a selection with their payloads, from the ledger.
pub(in crate::relay) async fn load(
    ledger: &dyn Ledger,
    turns: Turns,
    lane: usize,
    selection: Box<Selection>,
    missing: Vec<RequestId>,
) -> Input {
    let _turn = turns.reads.acquire_owned().await;
    let found = payloads(ledger, &missing).await.inspect_err(|error| {
        tracing::error!(%error, "requests that are to be sent can't be read back: tried again with the next head");
    });
    Input::Loaded { lane, selection, found: found.ok() }
}

/// These requests from the ledger, without those that are damaged.
async fn payloads(ledger: &dyn Ledger, ids: &[RequestId]) -> Result<Vec<Arc<VerifiedRequest>>, LedgerError> {
    let all = ledger.requests_by_id(ids).await;
    if let Ok(Ok(found)) = all.map(|all| all.iter().map(parse).collect::<Result<Vec<_>, _>>()) {
        return Ok(found.into_iter().map(Arc::new).collect());
    }
    // One by one, so that a damaged one does not keep the others back.
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        match stored(ledger, *id).await {
            Ok(request) => found.push(Arc::new(request)),
            Err(error @ LedgerError::Damaged { .. }) => {
                tracing::error!(%id, %error, "a request can't be read back, so it is not sent");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

async fn read(ledger: &dyn Ledger, id: BatchId) -> Result<Whole, LedgerError> {
    let found = ledger.open_batches(id.lane, id.nonce, 1).await?.pop().filter(|(record, ..)| record.id == id);
    let missing = || LedgerError::Damaged { what: "batch", detail: format!("{id} is not there") };
    let (_, attempts, _): (_, Vec<Durable<AttemptRecord>>, _) = found.ok_or_else(missing)?;
    let (calldata, _) = newest_calldata(&attempts)?;
    Ok(Whole { attempts, calldata })
}

/// Next nonces of users, from the cache or a node.
pub(in crate::relay) async fn look_up(shared: &ChainShared, users: Vec<User>) -> Input {
    let mut asked = users.clone();
    let mut found = Vec::with_capacity(users.len());
    let mut missing = Vec::new();
    for user in users {
        match shared.nonces.get(&user).await {
            Some(nonce) => found.push((user, nonce)),
            None => missing.push(user),
        }
    }
    if !missing.is_empty() {
        match forwarder_nonces(&shared.pool, &missing, shared.multicall3(), &json!("latest")).await {
            Ok(nonces) => {
                for (user, nonce) in missing.into_iter().zip(nonces) {
                    if let Some(nonce) = nonce {
                        shared.nonces.insert(user, nonce).await;
                        found.push((user, nonce));
                    }
                }
            }
            Err(_) => {
                // No node is reachable: that says nothing about any forwarder.
                asked.clear();
                tokio::time::sleep(shared.tuning.heads.poll_interval).await;
            }
        }
    }
    Input::Nonces { asked, found }
}

/// One user's next nonce, read afresh.
pub(in crate::relay) async fn recheck(shared: &ChainShared, user: User) -> Input {
    let nonces = forwarder_nonces(&shared.pool, &[user], None, &json!("latest")).await;
    let found = nonces.ok().and_then(|nonces| nonces.first().copied().flatten());
    if let Some(nonce) = found {
        shared.nonces.insert(user, nonce).await;
    }
    Input::Rechecked(found.map(|nonce| (user, nonce)).into_iter().collect())
}

/// Suspects' next nonces, by a majority: at the final block, and at the head.
pub(in crate::relay) async fn confirm(shared: &ChainShared, users: Vec<User>, final_block: u64) -> Input {
    let (pool, multicall3) = (&shared.pool, shared.multicall3());
    let settled = agreed_nonces(pool, &users, multicall3, At::Final(final_block));
    let latest = agreed_nonces(pool, &users, multicall3, At::Head);
    let (settled, latest) = tokio::join!(settled, latest);
    let found = users.into_iter().zip(settled.into_iter().zip(latest)).map(|(user, (settled, latest))| {
        let confirmed: Confirmed = (user, settled.map(|nonce| nonce.at_least), latest.map(|nonce| nonce.at_most));
        confirmed
    });
    Input::Confirmed(found.collect())
}

/// What became of payments, by a majority.
pub(in crate::relay) async fn find_payments(
    shared: &ChainShared,
    payments: Vec<(RequestId, Payment)>,
    final_block: u64,
) -> Input {
    let mut found = Vec::new();
    for (id, payment) in payments {
        found.extend(payments::find(shared, &payment, final_block).await.map(|paid| (id, paid)));
    }
    Input::Payments(found)
}

/// Next nonces of users with a gap, by a majority.
pub(in crate::relay) async fn look_at_gaps(shared: &ChainShared, users: Vec<User>) -> Input {
    let nonces = agreed_nonces(&shared.pool, &users, shared.multicall3(), At::Head).await;
    let mut found = Vec::new();
    for (user, nonce) in users.into_iter().zip(nonces) {
        if let Some(AgreedNonce { at_least: nonce, .. }) = nonce {
            // A lagging node must not lower a known nonce.
            raise(shared, user, nonce).await;
            found.push((user, nonce));
        }
    }
    Input::Gaps(found)
}

async fn raise(shared: &ChainShared, user: User, nonce: u64) {
    if shared.nonces.get(&user).await.is_none_or(|known| known < nonce) {
        shared.nonces.insert(user, nonce).await;
    }
}

/// Updates admission's nonce cache after executed requests.
pub(in crate::relay) async fn raise_nonces(shared: &ChainShared, nonces: BTreeMap<User, u64>) {
    for (user, nonce) in nonces {
        let known = shared.nonces.get(&user).await.unwrap_or(0);
        if known < nonce {
            shared.nonces.insert(user, nonce).await;
        }
    }
}
