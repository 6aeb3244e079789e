//! Looks for the request that took what no simulation had shown of a final transaction: in the transaction's trace where nodes serve
//! one, else in a simulation on the block before it. A majority's word counts (I15), and it decides only which request shows that
//! cost: the transaction is one tenant's.

use std::sync::Arc;

use alloy_primitives::{Address, U64};
use futures_util::future::join_all;
use serde_json::json;

use super::{
    admission::ChainShared,
    fees::Header,
    restore::stored,
    simulate::{Question, gas_alone, note_use},
};
use crate::{
    ledger::Ledger,
    request::{
        VerifiedRequest,
        outcome::TxReceipt,
        settlement::{Payer, culprit},
        simulation::{Ahead, Environment},
        trace::{self, Trace},
        vehicle::{VehicleKey, VehicleParams},
    },
};

const TRACE: &str = "debug_traceTransaction";

/// A final transaction that took more gas than its members were known to take.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) key: VehicleKey,
    pub(super) members: Vec<Arc<VerifiedRequest>>,
    pub(super) payers: Vec<Payer>,
    pub(super) receipt: TxReceipt,
    /// Of the lane that sent it.
    pub(super) params: VehicleParams,
}

/// The place of the member that a majority of the nodes shows to be the one, if there is one.
pub(super) async fn find(shared: &ChainShared, ledger: &dyn Ledger, case: &Case) -> Option<usize> {
    let traced = traced(shared, case).await;
    let told = match shared.pool.is_majority(traced.len()) {
        true => traced,
        false => simulated(shared, ledger, case).await?,
    };
    let count = |place: usize| told.iter().filter(|told| **told == Some(place)).count();
    (0..case.members.len()).find(|place| shared.pool.is_majority(count(*place)))
}

/// What each node's trace shows, of those that have one.
async fn traced(shared: &ChainShared, case: &Case) -> Vec<Option<usize>> {
    let (pool, params) = (&shared.pool, trace::params(case.receipt.hash));
    let targets: Vec<Address> = case.members.iter().map(|member| member.target()).collect();
    let ask = |place: usize| {
        let (params, targets) = (&params, &targets);
        async move {
            if !pool.may_have(place, TRACE) {
                return None;
            }
            let answer = pool.call_at::<Trace>(place, TRACE, params).await;
            note_use(pool, place, TRACE, answer.as_ref().err());
            let calls = trace::gas_of_members(&answer.ok()?, case.key, targets)?;
            // Beside its calls, a member has its calldata and the forwarder's checks.
            let used = calls.iter().zip(&case.payers).map(|(gas, payer)| gas.saturating_add(payer.skip_gas));
            Some(culprit(&case.receipt, &case.payers, &used.collect::<Vec<_>>()))
        }
    };
    join_all((0..pool.len()).map(ask)).await.into_iter().flatten().collect()
}

/// What each node's simulation in the transaction's own block shows, on the state of the block before. `None` where a majority does
/// not tell that block, or the requests can't be read.
async fn simulated(shared: &ChainShared, ledger: &dyn Ledger, case: &Case) -> Option<Vec<Option<usize>>> {
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
        patience: shared.tuning.patience(shared.spec.block_time()),
        is_wary: false,
    };
    let base_gas = case.params.schedule.tx_base_gas;
    let own = |used: Vec<Option<u64>>| {
        let used = used.iter().map(|used| used.unwrap_or_default().saturating_sub(base_gas));
        culprit(&case.receipt, &case.payers, &used.collect::<Vec<_>>())
    };
    Some(gas_alone(&shared.pool, &question).await.into_iter().map(own).collect())
}
