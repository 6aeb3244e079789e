//! What became of a token payment that no transaction of ours has made.

use alloy_primitives::{B256, Bytes, U64};
use alloy_sol_types::{SolCall as _, SolEvent as _};
use serde::Deserialize;
use serde_json::{Value, json};
use slackwater_contracts::eip3009::IERC3009::{AuthorizationUsed, authorizationStateCall};

use super::receipts::find_agreed;
use crate::{
    relay::{chain::shared::ChainShared, rpc::RpcPool},
    request::Payment,
    sender::{Paid, tuning::RpcTuning},
};

/// An event log, reduced to its transaction.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FoundLog {
    transaction_hash: B256,
}

/// What the chain says, by a majority of the nodes; `None` without one, and while the nonce is used in a block that is not
/// final.
pub(in crate::relay) async fn find(shared: &ChainShared, payment: &Payment, final_block: u64) -> Option<Paid> {
    let pool = &shared.pool;
    let input: Bytes = authorizationStateCall { authorizer: payment.from, nonce: payment.nonce }.abi_encode().into();
    let call = json!({ "to": payment.token, "input": input });
    let told = pool.call_all::<Bytes>("eth_call", json!([call, "latest"])).await;
    if is_used(pool, told.into_iter().flatten())? {
        let told = pool.call_settled::<Bytes>("eth_call", json!([call, U64::from(final_block)]), final_block).await;
        return match is_used(pool, told)? {
            true => Some(used_by(pool, payment, final_block, &shared.tuning.rpc).await),
            false => None,
        };
    }
    Some(Paid::Unused)
}

/// The majority's answer; `None` without one.
fn is_used(pool: &RpcPool, told: impl IntoIterator<Item = Bytes>) -> Option<bool> {
    let told: Vec<bool> =
        told.into_iter().filter_map(|output| authorizationStateCall::abi_decode_returns(&output).ok()).collect();
    [true, false].into_iter().find(|word| pool.is_majority(told.iter().filter(|told| *told == word).count()))
}

/// The answer of a majority, whichever node answers first: a transaction, or that there is none. `None` without one.
fn agreed(told: &[Option<B256>], is_majority: impl Fn(usize) -> bool) -> Option<Option<B256>> {
    told.iter().copied().find(|word| is_majority(told.iter().filter(|other| *other == word).count()))
}

/// What used the payment's nonce up to the final block.
async fn used_by(pool: &RpcPool, payment: &Payment, final_block: u64, limits: &RpcTuning) -> Paid {
    let topics = json!([AuthorizationUsed::SIGNATURE_HASH, payment.from.into_word(), payment.nonce]);
    let mut last = final_block;
    for _ in 0..limits.max_log_questions {
        let first = last.saturating_sub(limits.log_blocks - 1);
        let filter: Value = json!({
            "address": payment.token, "topics": topics, "fromBlock": U64::from(first), "toBlock": U64::from(last),
        });
        let told = pool.call_settled::<Vec<FoundLog>>("eth_getLogs", json!([filter]), final_block).await;
        let told: Vec<Option<B256>> = told.iter().map(|logs| logs.first().map(|log| log.transaction_hash)).collect();
        let Some(agreed) = agreed(&told, |count| pool.is_majority(count)) else { return Paid::Untold };
        if let Some(hash) = agreed {
            return match find_agreed(pool, hash).await.filter(|receipt| receipt.block_number <= final_block) {
                None => Paid::Untold,
                Some(receipt) if receipt.is_success && payment.is_made_by(&receipt.logs) => {
                    Paid::Made { tx_hash: hash, block_number: receipt.block_number }
                }
                Some(_) => Paid::Otherwise,
            };
        }
        if first == 0 {
            break;
        }
        last = first - 1;
    }
    Paid::Otherwise
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_lying_node_neither_makes_nor_hides_a_payment() {
        let (real, lie) = (B256::repeat_byte(1), B256::repeat_byte(2));
        let of_three = |told: &[Option<B256>]| agreed(told, |count| count >= 2);
        for place in 0..3 {
            let mut told = [Some(real); 3];
            told[place] = Some(lie);
            assert_eq!(of_three(&told), Some(Some(real)));
            told[place] = None;
            assert_eq!(of_three(&told), Some(Some(real)));
            let mut told = [None; 3];
            told[place] = Some(lie);
            assert_eq!(of_three(&told), Some(None));
        }
        assert_eq!(of_three(&[Some(real), Some(lie), None]), None);
        assert_eq!(of_three(&[Some(real)]), None, "two are silent");
    }
}
