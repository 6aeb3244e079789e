//! Inspects signed transactions and their prices, and keeps them waiting.

use alloy_primitives::{B256, U256};
use serde::Deserialize;
use serde_json::{Value, json};
use slackwater_benches::{Node, Result, wallet::SignedRequest};
use slackwater_core::chain::Fees;

use crate::stage::{PATIENCE, Stage, until};

/// More than any transaction here needs, gas.
const ROOMY_BLOCK_GAS: u64 = 400_000_000;
/// Less than any transaction here needs, gas.
const TIGHT_BLOCK_GAS: u64 = 100_000;

/// A batch as the API shows it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Batch {
    pub(crate) state: String,
    pub(crate) included_hash: Option<B256>,
    pub(crate) attempts: Vec<Attempt>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attempt {
    pub(crate) kind: String,
    pub(crate) max_fee_wei_per_gas: U256,
    pub(crate) priority_fee_wei_per_gas: U256,
    pub(crate) tx_hash: B256,
}

impl Attempt {
    pub(crate) fn fees(&self) -> Fees {
        Fees::new(self.max_fee_wei_per_gas.to(), self.priority_fee_wei_per_gas.to())
    }
}

impl Stage {
    /// The batch that carries `request`, once there is one.
    pub(crate) async fn batch_of(&self, request: &SignedRequest) -> Result<Batch> {
        let id = until("a batch", PATIENCE, async || Ok(self.client().request(request.id).await?.batch)).await?;
        self.client().get_json(&format!("/v1/batches/{id}")).await
    }

    pub(crate) async fn wait_attempts(&self, request: &SignedRequest, count: usize) -> Result<Vec<Attempt>> {
        until(&format!("{count} attempts"), PATIENCE, async || {
            let batch = self.batch_of(request).await?;
            Ok((batch.attempts.len() >= count).then_some(batch.attempts))
        })
        .await
    }

    /// Mines a block without room for any transaction: transactions in the pool keep waiting.
    pub(crate) async fn mine_tight(&self, base_fee: u128) -> Result<()> {
        self.set_block_gas_limit(TIGHT_BLOCK_GAS).await?;
        self.node().set_next_base_fee(base_fee).await?;
        self.node().mine(1).await?;
        self.set_block_gas_limit(ROOMY_BLOCK_GAS).await
    }
}

/// Base fee at which a pool compares effective prices, wei per gas.
pub(crate) async fn next_base_fee(node: &Node) -> Result<u128> {
    let pending: Value = node.call("eth_getBlockByNumber", json!(["pending", false])).await?;
    let fee: U256 = serde_json::from_value(pending["baseFeePerGas"].clone()).expect("a base fee");
    Ok(fee.to())
}
