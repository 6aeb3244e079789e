//! Reading receipts: one node for a first look, a quorum before anything terminal is said.

use alloy_primitives::{Address, B256, Bytes, Log, U64, U128, U256};
use serde::Deserialize;
use serde_json::json;

use super::rpc::RpcPool;
use crate::{
    chain::data_fee::{OpFork, OpL1Params},
    lane::PollPurpose,
    protection::Protection,
    request::outcome::TxReceipt,
};

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
    /// OP Stack from Jovian, which counts the operator fee in larger units.
    #[serde(default)]
    da_footprint_gas_scalar: Option<U64>,
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
        let fork = if self.da_footprint_gas_scalar.is_some() { OpFork::Jovian } else { OpFork::Isthmus };
        let params = OpL1Params {
            operator_fee_scalar: self.operator_fee_scalar.map_or(0, |scalar| scalar.saturating_to()),
            operator_fee_constant: self.operator_fee_constant.map_or(0, |constant| constant.to()),
            ..OpL1Params::default()
        };
        let operator_fee = params.operator_fee(fork, self.gas_used.to());
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

/// Reads a receipt. `true` if it is one.
#[cfg(feature = "fuzzing")]
pub(super) fn read_any(input: &[u8]) -> bool {
    let receipt = serde_json::from_slice::<Option<RpcReceipt>>(input).ok().flatten();
    receipt.map(|receipt| receipt.into_receipt().map(|receipt| receipt.cost_wei())).is_some()
}

/// What the nodes know of a nonce's attempts.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) receipt: Option<Box<TxReceipt>>,
    /// Absence can be relied on.
    pub(super) is_complete: bool,
    /// What the answer is good for: a receipt above the final block shows an inclusion, whatever was asked.
    pub(super) purpose: PollPurpose,
}

/// Looks for a receipt of any of `hashes`: at one node for a first look, else at those for which `last`, the final block, is
/// final too.
pub(super) async fn find(pool: &RpcPool, hashes: &[B256], purpose: PollPurpose, last: Option<u64>) -> Found {
    match (purpose, last) {
        (PollPurpose::Finality, None) => Found { receipt: None, is_complete: false, purpose },
        (PollPurpose::Finality, Some(last)) => find_settled(pool, hashes, last).await,
        (PollPurpose::Inclusion, _) => find_any(pool, hashes).await,
    }
}

async fn find_any(pool: &RpcPool, hashes: &[B256]) -> Found {
    let mut found = Found { receipt: None, is_complete: true, purpose: PollPurpose::Inclusion };
    for hash in hashes {
        match pool.call::<Option<RpcReceipt>>("eth_getTransactionReceipt", json!([hash])).await {
            Ok(Some(receipt)) if receipt.transaction_hash == *hash => {
                if let Some(receipt) = receipt.into_receipt() {
                    return Found { receipt: Some(Box::new(receipt)), is_complete: true, ..found };
                }
            }
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => found.is_complete = false,
        }
    }
    found
}

/// **Invariant I9:** a majority of all nodes must tell the same, and only those count for which `last` is final.
async fn find_settled(pool: &RpcPool, hashes: &[B256], last: u64) -> Found {
    let mut found = Found { receipt: None, is_complete: true, purpose: PollPurpose::Finality };
    for hash in hashes {
        let answers: Vec<Option<RpcReceipt>> =
            pool.call_settled("eth_getTransactionReceipt", json!([hash]), last).await;
        let mut votes: Vec<(usize, TxReceipt)> = Vec::new();
        let mut absent = 0;
        for answer in answers {
            let receipt = answer.filter(|receipt| receipt.transaction_hash == *hash).and_then(RpcReceipt::into_receipt);
            match receipt {
                Some(receipt) => match votes.iter_mut().find(|(_, other)| says_the_same(other, &receipt)) {
                    Some((count, _)) => *count += 1,
                    None => votes.push((1, receipt)),
                },
                None => absent += 1,
            }
        }
        if let Some((_, receipt)) = votes.into_iter().find(|(count, _)| pool.is_majority(*count)) {
            if receipt.block_number > last && Protection::SettleAtFinality.is_on() {
                found.purpose = PollPurpose::Inclusion;
            }
            return Found { receipt: Some(Box::new(receipt)), is_complete: true, ..found };
        }
        found.is_complete &= pool.is_majority(absent);
    }
    found
}

/// Whether two nodes tell the same about a transaction. Fees beyond gas are left out: not every node names them.
fn says_the_same(a: &TxReceipt, b: &TxReceipt) -> bool {
    a.block_hash == b.block_hash
        && a.is_success == b.is_success
        && a.gas_used == b.gas_used
        && a.effective_gas_price == b.effective_gas_price
        && a.logs == b.logs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extra(fees: &str) -> U256 {
        let text = format!(
            r#"{{"transactionHash":"{0}","blockNumber":"0x1","blockHash":"{0}","status":"0x1","gasUsed":"0x3e8",
                "effectiveGasPrice":"0x1","logs":[]{fees}}}"#,
            B256::ZERO
        );
        let receipt: RpcReceipt = serde_json::from_str(&text).expect("a receipt");
        receipt.into_receipt().expect("in a block").extra_fee_wei
    }

    #[test]
    fn fees_beyond_gas_are_counted() {
        assert_eq!(extra(""), U256::ZERO);
        assert_eq!(extra(r#","l1Fee":"0x64""#), U256::from(100));
        let isthmus = r#","l1Fee":"0x64","operatorFeeScalar":"0x3e8","operatorFeeConstant":"0xa""#;
        assert_eq!(extra(isthmus), U256::from(100 + 11));
        let jovian = format!(r#"{isthmus},"daFootprintGasScalar":"0x190""#);
        assert_eq!(extra(&jovian), U256::from(100 + 100_000_010));
    }
}
