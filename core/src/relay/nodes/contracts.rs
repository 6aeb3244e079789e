//! Targets that are contracts with fixed code.

use alloy_primitives::{Address, Bytes};
use serde_json::json;

use crate::relay::chain::shared::ChainShared;

/// Prefix of the code of an account with a delegation (EIP-7702).
const DELEGATION: [u8; 3] = [0xef, 0x01, 0x00];

/// The targets that are contracts with fixed code (no EIP-7702 delegation), according to a majority of the nodes.
/// Targets without a majority are left out.
pub(in crate::relay) async fn contracts_among(shared: &ChainShared, targets: &[Address]) -> Vec<Address> {
    let mut contracts = Vec::new();
    for target in targets {
        let mut is_contract = shared.contracts.get(target).await;
        if is_contract.is_none() {
            let told = shared.pool.call_all::<Bytes>("eth_getCode", json!([target, "latest"])).await;
            let told: Vec<bool> =
                told.into_iter().flatten().map(|code| !code.is_empty() && !code.starts_with(&DELEGATION)).collect();
            let agrees = |word: bool| shared.pool.is_majority(told.iter().filter(|told| **told == word).count());
            is_contract = [true, false].into_iter().find(|word| agrees(*word));
            if let Some(word) = is_contract {
                shared.contracts.insert(*target, word).await;
            }
        }
        contracts.extend(is_contract.filter(|is_contract| *is_contract).map(|_| *target));
    }
    contracts
}
