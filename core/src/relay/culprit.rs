//! Looks for the request that took what no simulation had shown of a final transaction: in the transaction's trace where nodes serve
//! one, else in a simulation on the block before it. A majority's word counts (I15). It decides which request of the tenant, whose
//! transaction it is, bears what it took.

use std::sync::Arc;

use alloy_primitives::{Address, U64};
use serde_json::json;

use super::{
    admission::ChainShared,
    fees::Header,
    restore::stored,
    simulate::{Question, gas_alone},
};
use crate::{
    ledger::Ledger,
    request::{
        VerifiedRequest,
        outcome::TxReceipt,
        settlement::{Culprit, Payer, culprit},
        simulation::{Ahead, Environment},
        trace::{self, Trace},
        vehicle::{VehicleKey, VehicleParams},
    },
};

/// Transactions that are looked at at the same time: a trace may be as large as an answer may be.
pub(super) const MAX_SEARCHES: usize = 1;

const TRACE: &str = "debug_traceTransaction";

/// A final transaction that took more gas than its members were known to take.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) key: VehicleKey,
    /// Whom the transaction called.
    pub(super) contract: Address,
    pub(super) members: Vec<Arc<VerifiedRequest>>,
    pub(super) payers: Vec<Payer>,
    pub(super) receipt: TxReceipt,
    /// Of the lane that sent it.
    pub(super) params: VehicleParams,
}

/// The member that a majority of the nodes shows to be the one, with the least that one of them says it took.
pub(super) async fn find(shared: &ChainShared, ledger: &dyn Ledger, case: &Case) -> Option<Culprit> {
    let traced = traced(shared, case).await;
    let told = match shared.pool.is_majority(traced.len()) {
        true => traced,
        false => simulated(shared, ledger, case).await?,
    };
    let told: Vec<Culprit> = told.into_iter().flatten().collect();
    (0..case.members.len()).find_map(|place| {
        let named = told.iter().filter(|culprit| culprit.place == place);
        let least = named.clone().min_by_key(|culprit| culprit.excess_gas)?;
        shared.pool.is_majority(named.count()).then_some(*least)
    })
}

/// What each node's trace shows, of those that have one. One after the other: a trace may be large, as its transaction's members
/// like it.
async fn traced(shared: &ChainShared, case: &Case) -> Vec<Option<Culprit>> {
    let (pool, params) = (&shared.pool, trace::params(case.receipt.hash));
    let targets: Vec<Address> = case.members.iter().map(|member| member.target()).collect();
    let mut told = Vec::new();
    for place in (0..pool.len()).filter(|place| pool.may_have(*place, TRACE)) {
        let answer = pool.call_at::<Trace>(place, TRACE, &params).await;
        // One that is too large, or takes too long, is of no use either.
        pool.note_use(place, TRACE, answer.is_ok());
        let used = answer.ok().and_then(|trace| trace::gas_of_members(&trace, case.key, case.contract, &targets));
        // Calldata and the forwarder's checks, which are not in it, are in what was known of each: nobody's is overstated.
        told.extend(used.map(|used| culprit(&case.receipt, &case.payers, &used)));
    }
    told
}

/// What each node's simulation in the transaction's own block shows, on the state of the block before. `None` where a majority does
/// not tell that block, or the requests can't be read.
async fn simulated(shared: &ChainShared, ledger: &dyn Ledger, case: &Case) -> Option<Vec<Option<Culprit>>> {
    let number = case.receipt.block_number;
    let block: Option<Header> =
        shared.pool.call_agreed("eth_getBlockByNumber", json!([U64::from(number), false])).await.ok()?;
    let block = block.filter(|block| block.hash == case.receipt.block_hash)?;
    let parent = number.checked_sub(1)?;
    let mut members = Vec::with_capacity(case.members.len());
    for member in &case.members {
        members.push(match member.is_outline() {
            true => Arc::new(stored(ledger, member.id()).await.ok()?),
            false => Arc::clone(member),
        });
    }
    let ahead = Ahead::new();
    let question = Question {
        key: case.key,
        members: &members,
        ahead: &ahead,
        is_known_forwarder: true,
        params: &case.params,
        environment: Environment {
            base_fee_per_gas: block.base_fee(),
            priority_fee_per_gas: case.receipt.effective_gas_price.saturating_sub(block.base_fee()),
            balance_wei: None,
            parent: Some(parent),
            number: Some(number),
            timestamp_s: Some(block.timestamp.to()),
            fee_recipient: block.miner,
        },
        multicall3: shared.multicall3(),
        block: parent,
        patience: shared.tuning.heads.patience(shared.spec.block_time()),
        is_wary: false,
    };
    let base_gas = case.params.schedule.tx_base_gas;
    let own = |used: Vec<Option<u64>>| {
        let used = used.iter().map(|used| used.unwrap_or_default().saturating_sub(base_gas));
        culprit(&case.receipt, &case.payers, &used.collect::<Vec<_>>())
    };
    Some(gas_alone(&shared.pool, &question).await.into_iter().map(own).collect())
}
