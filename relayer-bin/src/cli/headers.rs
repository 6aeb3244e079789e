//! Blocks and fee history from a node, for the commands that read a chain without being its relayer.

use std::time::Duration;

use alloy_primitives::{B256, U64, U128};
use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use slackwater::{RpcEndpoint, RpcPool};
use slackwater_core::{
    BlockTimestamp,
    chain::preset_for_chain_id,
    market::{FeePoint, Tips, Utilisation},
};

use super::error::{CliError, Exit};

/// Most blocks of one `eth_feeHistory` (geth's limit).
pub(super) const MAX_FEE_HISTORY: u64 = 1_024;
/// Attempts of a call, and the waits between them.
const TRIES: u32 = 6;
const FIRST_WAIT: Duration = Duration::from_millis(250);
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Time limit for one answer.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Headers fetched concurrently.
const HEADERS_AT_ONCE: usize = 8;

/// The node to read from.
#[derive(Debug, Clone, Args)]
pub(super) struct NodeArgs {
    /// The node's HTTP address.
    #[arg(long, value_name = "URL", env = "SLACKWATER_RPC", hide_env_values = true)]
    pub(super) rpc: Option<String>,
    /// Calls per second at most; 0 for no limit.
    #[arg(long, value_name = "CALLS", default_value_t = 0)]
    rate_limit: u32,
}

/// A block header: fees and ancestry only.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Header {
    number: U64,
    pub(super) hash: B256,
    pub(super) parent_hash: B256,
    timestamp: U64,
    #[serde(default)]
    base_fee_per_gas: Option<U128>,
    gas_used: U64,
    gas_limit: U64,
}

impl Header {
    pub(super) fn number(&self) -> u64 {
        self.number.to()
    }

    pub(super) fn timestamp(&self) -> BlockTimestamp {
        BlockTimestamp(self.timestamp.to())
    }

    /// Its fee data; an error before EIP-1559.
    pub(super) fn point(&self) -> Result<FeePoint, CliError> {
        let number = self.number();
        let missing = || CliError::failed(format!("block {number} has no base fee: it is older than EIP-1559"));
        Ok(FeePoint {
            number,
            timestamp: Some(self.timestamp()),
            base_fee: self.base_fee_per_gas.ok_or_else(missing)?.to(),
            utilisation: Some(Utilisation::Gas { used: self.gas_used.to(), limit: self.gas_limit.to() }),
            tips: Tips::default(),
            next_base_fee: None,
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FeeHistory {
    oldest_block: U64,
    base_fee_per_gas: Vec<U128>,
    gas_used_ratio: Vec<f64>,
    #[serde(default)]
    reward: Option<Vec<Vec<U128>>>,
}

/// A node whose calls are retried.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    pool: RpcPool,
    /// The preset's name, else `chain-<id>`.
    pub(super) chain: String,
}

impl Reader {
    pub(super) async fn connect(args: &NodeArgs) -> Result<Self, CliError> {
        let Some(url) = &args.rpc else { return Err(CliError::usage("name a node with --rpc or SLACKWATER_RPC")) };
        if !(url.starts_with("http://") || url.starts_with("https://")) {
            return Err(CliError::usage("--rpc must be an http:// or https:// address"));
        }
        let endpoint = RpcEndpoint::new("the node", url.as_str()).rate_limit_per_s(args.rate_limit);
        let pool = RpcPool::new(vec![endpoint], TIMEOUT);
        // Without retries: a wrong address should be reported at once.
        let chain_id: u64 = pool.call::<U64>("eth_chainId", json!([])).await?.to();
        let chain = preset_for_chain_id(chain_id).map_or_else(|| format!("chain-{chain_id}"), |spec| spec.name);
        Ok(Self { pool, chain })
    }

    /// Retries retryable errors, with growing waits.
    async fn ask<T: DeserializeOwned>(&self, method: &'static str, params: Value) -> Result<T, CliError> {
        let mut wait = FIRST_WAIT;
        let mut tries = 1;
        loop {
            match self.pool.call(method, params.clone()).await {
                Ok(value) => return Ok(value),
                Err(error) if error.is_retryable() && tries < TRIES => tokio::time::sleep(wait).await,
                Err(error) => return Err(error.into()),
            }
            tries += 1;
            wait = (wait * 2).min(MAX_WAIT);
        }
    }

    pub(super) async fn head(&self) -> Result<u64, CliError> {
        Ok(self.ask::<U64>("eth_blockNumber", json!([])).await?.to())
    }

    /// The header of a block; retried while a node does not have a block yet that it has announced.
    pub(super) async fn header(&self, number: u64) -> Result<Header, CliError> {
        let mut wait = FIRST_WAIT;
        for _ in 0..TRIES {
            let params = json!([format!("{number:#x}"), false]);
            let header: Option<Header> = self.ask("eth_getBlockByNumber", params).await?;
            match header {
                Some(header) if header.number() == number => return Ok(header),
                Some(other) => {
                    let text = format!("the node answered block {} for block {number}", other.number());
                    return Err(CliError::failed(text));
                }
                None => tokio::time::sleep(wait).await,
            }
            wait = (wait * 2).min(MAX_WAIT);
        }
        Err(CliError::failed(format!("the node has no block {number}: too old for it, or not there yet")))
    }

    /// Headers of `from` to `to`, in order.
    pub(super) async fn headers(&self, from: u64, to: u64) -> Result<Vec<Header>, CliError> {
        stream::iter(from..=to).map(|number| self.header(number)).buffered(HEADERS_AT_ONCE).try_collect().await
    }

    /// Fee history of up to [`MAX_FEE_HISTORY`] blocks that end at `to`: base fees with the next one, ratios, and the
    /// tip at a percentile. A node may give fewer blocks than asked, never other ones.
    pub(super) async fn fee_history(&self, from: u64, to: u64, percentile: u8) -> Result<Vec<FeePoint>, CliError> {
        let count = (to - from + 1).min(MAX_FEE_HISTORY);
        let params = json!([format!("{count:#x}"), format!("{to:#x}"), [percentile]]);
        let mut wait = FIRST_WAIT;
        let mut tries = 1;
        // Some nodes write their fee history a moment after the block.
        let history = loop {
            let history: FeeHistory = self.ask("eth_feeHistory", params.clone()).await?;
            let blocks = history.gas_used_ratio.len();
            let oldest: u64 = history.oldest_block.to();
            let is_whole = blocks > 0
                && history.base_fee_per_gas.len() == blocks + 1
                && oldest.checked_add(blocks as u64 - 1) == Some(to)
                && oldest >= from;
            if is_whole {
                break history;
            }
            if tries == TRIES {
                return Err(CliError::failed(format!("eth_feeHistory up to block {to} has an unexpected form")));
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(MAX_WAIT);
            tries += 1;
        };
        let (oldest, blocks): (u64, usize) = (history.oldest_block.to(), history.gas_used_ratio.len());
        let fees: Vec<u128> = history.base_fee_per_gas.iter().map(|fee| fee.to()).collect();
        let rewards = history.reward.unwrap_or_default();
        Ok((0..blocks)
            .map(|at| FeePoint {
                number: oldest + at as u64,
                timestamp: None,
                base_fee: fees[at],
                utilisation: Some(Utilisation::Ratio(history.gas_used_ratio[at])),
                tips: Tips {
                    typical: rewards.get(at).and_then(|reward| reward.first()).map(|tip| tip.to()),
                    ..Tips::default()
                },
                next_base_fee: Some(fees[at + 1]),
            })
            .collect())
    }
}

/// A node that contradicts itself.
pub(super) fn inconsistent(text: String) -> CliError {
    CliError::new(Exit::Failed, text)
}
