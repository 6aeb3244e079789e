//! Reading receipts: one node for a first look, a quorum before anything terminal is said.

use alloy_primitives::{Address, B256, Bytes, Log, U64, U128, U256};
use serde::Deserialize;
use serde_json::json;

use super::rpc::RpcPool;
use crate::{lane::PollPurpose, request::outcome::TxReceipt};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RpcReceipt {
    transaction_hash: B256,
    block_number: Option<U64>,
    block_hash: Option<B256>,
    #[serde(default)]
    status: Option<U64>,
    gas_used: U64,
    #[serde(default)]
    effective_gas_price: Option<U128>,
    /// OP Stack, Scroll.
    #[serde(default, rename = "l1Fee")]
    l1_fee: Option<U256>,
    /// OP Stack from Isthmus: scalar and constant of the operator fee.
    #[serde(default)]
    operator_fee_scalar: Option<U64>,
    #[serde(default)]
    operator_fee_constant: Option<U64>,
    #[serde(default)]
    logs: Vec<RpcLog>,
}

#[derive(Debug, Deserialize)]
struct RpcLog {
    address: Address,
    topics: Vec<B256>,
    data: Bytes,
}

impl RpcReceipt {
    /// `None` for a pre-confirmation without a block: that is not inclusion.
    fn into_receipt(self) -> Option<TxReceipt> {
        let operator_fee = U256::from(self.gas_used.to::<u64>())
            .saturating_mul(self.operator_fee_scalar.map_or(U256::ZERO, |scalar| U256::from(scalar.to::<u64>())))
            / U256::from(1_000_000)
            + self.operator_fee_constant.map_or(U256::ZERO, |constant| U256::from(constant.to::<u64>()));
        Some(TxReceipt {
            hash: self.transaction_hash,
            block_number: self.block_number?.to(),
            block_hash: self.block_hash?,
            // Before Byzantium there was no status; every chain served here has one.
            is_success: self.status.is_some_and(|status| status == U64::from(1)),
            gas_used: self.gas_used.to(),
            effective_gas_price: self.effective_gas_price.map_or(0, |price| price.to()),
            extra_fee_wei: self.l1_fee.unwrap_or(U256::ZERO).saturating_add(operator_fee),
            logs: self.logs.into_iter().filter_map(|log| Log::new(log.address, log.topics, log.data)).collect(),
        })
    }
}

/// Looks for a receipt of any of `hashes`. The flag says whether absence (or, for finality, the answer) can be relied on.
pub(super) async fn find(pool: &RpcPool, hashes: &[B256], purpose: PollPurpose) -> (Option<Box<TxReceipt>>, bool) {
    match purpose {
        PollPurpose::Inclusion => {
            let mut is_complete = true;
            for hash in hashes {
                match pool.call::<Option<RpcReceipt>>("eth_getTransactionReceipt", json!([hash])).await {
                    Ok(Some(receipt)) if receipt.transaction_hash == *hash => {
                        if let Some(receipt) = receipt.into_receipt() {
                            return (Some(Box::new(receipt)), true);
                        }
                    }
                    Ok(None) => {}
                    Ok(Some(_)) | Err(_) => is_complete = false,
                }
            }
            (None, is_complete)
        }
        PollPurpose::Finality => {
            let mut is_complete = true;
            for hash in hashes {
                let answers: Option<Vec<Option<RpcReceipt>>> =
                    pool.call_quorum("eth_getTransactionReceipt", json!([hash])).await;
                let Some(answers) = answers else {
                    is_complete = false;
                    continue;
                };
                let asked = pool.len();
                let mut votes: Vec<(usize, TxReceipt)> = Vec::new();
                let mut absent = 0;
                for answer in answers {
                    let receipt =
                        answer.filter(|receipt| receipt.transaction_hash == *hash).and_then(RpcReceipt::into_receipt);
                    match receipt {
                        Some(receipt) => match votes.iter_mut().find(|(_, other)| says_the_same(other, &receipt)) {
                            Some((count, _)) => *count += 1,
                            None => votes.push((1, receipt)),
                        },
                        None => absent += 1,
                    }
                }
                if let Some((_, receipt)) = votes.into_iter().find(|(count, _)| count * 2 > asked) {
                    return (Some(Box::new(receipt)), true);
                }
                is_complete &= absent * 2 > asked;
            }
            (None, is_complete)
        }
    }
}

/// Whether two nodes tell the same about a transaction. Fees beyond gas are left out: not every node names them.
fn says_the_same(a: &TxReceipt, b: &TxReceipt) -> bool {
    a.block_hash == b.block_hash
        && a.is_success == b.is_success
        && a.gas_used == b.gas_used
        && a.effective_gas_price == b.effective_gas_price
        && a.logs == b.logs
}
