//! Receipts in the format of nodes' answers.

use alloy_primitives::{Address, B256, Bytes, Log, U64, U128, U256};
use serde::Deserialize;

use super::outcome::TxReceipt;
use crate::chain::data_fee::{OpFork, OpL1Params};

/// A receipt in a node's answer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RpcReceipt {
    /// Hash of the transaction.
    pub transaction_hash: B256,
    block_number: Option<U64>,
    block_hash: Option<B256>,
    #[serde(default)]
    status: Option<U64>,
    gas_used: U64,
    #[serde(default)]
    effective_gas_price: Option<U128>,
    /// L1 data fee, wei (OP Stack, Scroll).
    #[serde(default, rename = "l1Fee")]
    l1_fee: Option<U256>,
    /// Scalar and constant of the operator fee (OP Stack from Isthmus).
    #[serde(default)]
    operator_fee_scalar: Option<U64>,
    #[serde(default)]
    operator_fee_constant: Option<U64>,
    /// Present on the OP Stack from Jovian, which has a larger unit for the operator fee.
    #[serde(default)]
    da_footprint_gas_scalar: Option<U64>,
    /// Only for a transaction with blobs: never ours, but possibly a foreign one.
    #[serde(default)]
    blob_gas_used: Option<U64>,
    #[serde(default)]
    blob_gas_price: Option<U128>,
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
    pub fn into_receipt(self) -> Option<TxReceipt> {
        let fork = if self.da_footprint_gas_scalar.is_some() { OpFork::Jovian } else { OpFork::Isthmus };
        let params = OpL1Params {
            operator_fee_scalar: self.operator_fee_scalar.map_or(0, |scalar| scalar.saturating_to()),
            operator_fee_constant: self.operator_fee_constant.map_or(0, |constant| constant.to()),
            ..OpL1Params::default()
        };
        let operator_fee = params.operator_fee(fork, self.gas_used.to());
        let blob_gas = U256::from(self.blob_gas_used.map_or(0, |gas| gas.to::<u64>()));
        let blob_fee = blob_gas.saturating_mul(U256::from(self.blob_gas_price.map_or(0, |price| price.to::<u128>())));
        Some(TxReceipt {
            hash: self.transaction_hash,
            block_number: self.block_number?.to(),
            block_hash: self.block_hash?,
            // Before Byzantium there was no status; every chain served here has one.
            is_success: self.status.is_some_and(|status| status == U64::from(1)),
            gas_used: self.gas_used.to(),
            effective_gas_price: self.effective_gas_price.map_or(0, |price| price.to()),
            extra_fee_wei: self.l1_fee.unwrap_or(U256::ZERO).saturating_add(operator_fee).saturating_add(blob_fee),
            logs: self.logs.into_iter().filter_map(|log| Log::new(log.address, log.topics, log.data)).collect(),
        })
    }
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
        assert_eq!(extra(r#","blobGasUsed":"0x20000","blobGasPrice":"0x3""#), U256::from(131_072 * 3));
    }
}
