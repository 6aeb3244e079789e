//! Search for the member of a final transaction that used gas no simulation had shown: in the transaction's trace if
//! the nodes serve one, else in a simulation on the block before it. A majority decides (invariant I15). The result
//! determines which request of the transaction's tenant bears the excess.

use std::sync::Arc;

use alloy_primitives::{Address, U64};
use serde_json::json;

use super::simulate::{Question, gas_alone};
use crate::{
    ledger::Ledger,
    relay::{chain::shared::ChainShared, market::header::Header, start::restore::stored},
    request::{
        settlement::{Culprit, culprit},
        simulation::{Ahead, Environment},
        trace::{self, Trace},
    },
    sender::Case,
};

/// Most transactions searched at the same time: a trace may be as large as the largest allowed answer.
pub(in crate::relay) const MAX_SEARCHES: usize = 1;

const TRACE: &str = "debug_traceTransaction";

/// The culprit according to a majority of the nodes, with the least excess that any of them reports; `None` without a
/// majority.
pub(in crate::relay) async fn find(shared: &ChainShared, ledger: &dyn Ledger, case: &Case) -> Option<Culprit> {
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

/// The result of each node that serves a trace. The nodes are asked one after the other, because a trace may be large,
/// at the choice of the transaction's members.
async fn traced(shared: &ChainShared, case: &Case) -> Vec<Option<Culprit>> {
    let (pool, params) = (&shared.pool, trace::params(case.receipt.hash));
    let targets: Vec<Address> = case.members.iter().map(|member| member.target()).collect();
    let mut told = Vec::new();
    for place in (0..pool.len()).filter(|place| pool.may_have(*place, TRACE)) {
        let answer = pool.call_at::<Trace>(place, TRACE, &params).await;
        // A trace that is too large or takes too long is of no use either.
        pool.note_use(place, TRACE, answer.is_ok());
        let used = answer.ok().and_then(|trace| trace::gas_of_members(&trace, case.key, case.contract, &targets));
        // Calldata and the forwarder's checks are not in the trace but are in each member's known gas, so no excess is
        // overstated.
        told.extend(used.map(|used| culprit(&case.receipt, &case.payers, &used)));
    }
    told
}

/// The result of each node's simulation in the transaction's own block, on the state of the block before. `None` if no
/// majority confirms that block, or the requests can't be read.
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
