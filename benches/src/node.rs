//! JSON-RPC to a local node, including anvil's own methods.

use std::{collections::BTreeMap, time::Duration};

use alloy_primitives::{Address, B256, Bytes, U64, U256};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    error::{BenchError, Result},
    http::{Http, post_json},
};

/// A node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Node {
    http: Http,
}

/// A block with its transactions.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Block {
    /// Height.
    pub number: U64,
    /// Hash.
    pub hash: B256,
    /// Unix seconds.
    pub timestamp: U64,
    /// Wei per gas.
    #[serde(default)]
    pub base_fee_per_gas: U256,
    /// Gas used by all transactions.
    pub gas_used: U64,
    /// Block gas limit.
    pub gas_limit: U64,
    /// Transactions, in order.
    pub transactions: Vec<Transaction>,
}

/// A transaction of a block.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transaction {
    /// Hash.
    pub hash: B256,
    /// Sender.
    pub from: Address,
    /// The called account; `None` for a creation.
    pub to: Option<Address>,
    /// Account nonce.
    pub nonce: U64,
    /// Gas limit.
    pub gas: U64,
    /// Calldata.
    pub input: Bytes,
}

/// A receipt.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// Transaction.
    pub transaction_hash: B256,
    /// Sender.
    pub from: Address,
    /// The called account.
    pub to: Option<Address>,
    /// 1 for success.
    pub status: U64,
    /// Height.
    pub block_number: U64,
    /// Block.
    pub block_hash: B256,
    /// Gas used.
    pub gas_used: U64,
    /// Effective gas price, wei per gas.
    pub effective_gas_price: U256,
    /// The created contract; `None` if none was created.
    pub contract_address: Option<Address>,
    /// Events.
    pub logs: Vec<Log>,
}

impl Receipt {
    /// Cost in wei, without value.
    pub fn cost_wei(&self) -> U256 {
        U256::from(self.gas_used).saturating_mul(self.effective_gas_price)
    }
}

/// An event.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Log {
    /// The contract.
    pub address: Address,
    /// Topics.
    pub topics: Vec<B256>,
    /// Data.
    pub data: Bytes,
    /// Height.
    pub block_number: U64,
    /// Index in the block.
    pub log_index: U64,
    /// Transaction.
    pub transaction_hash: B256,
}

/// A transaction that [`Node::send`] sends from an account whose key the node holds.
#[derive(Debug, Clone, Default)]
pub struct TestTransaction {
    /// The called account; `None` creates a contract.
    pub to: Option<Address>,
    /// Calldata or init code.
    pub data: Bytes,
    /// Wei.
    pub value: U256,
    /// Gas limit.
    pub gas: u64,
    /// Account nonce; the node's choice if absent.
    pub nonce: Option<u64>,
}

#[derive(Deserialize)]
struct RpcAnswer {
    #[serde(default)]
    result: Value,
    error: Option<RpcFailure>,
}

#[derive(Deserialize)]
struct RpcFailure {
    code: i64,
    message: String,
    data: Option<Value>,
}

impl Node {
    /// The node at `url`, on this machine.
    ///
    /// # Errors
    /// As [`Http::new`].
    pub fn new(url: &str) -> Result<Self> {
        Ok(Self { http: Http::new(url)? })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.http.address())
    }

    /// The same node, with another limit on the time of one answer.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { http: self.http.with_timeout(timeout) }
    }

    /// Calls `method` with `params`, which is a JSON array.
    ///
    /// # Errors
    /// [`BenchError::Rpc`] if the node says so, others if it says nothing sensible.
    pub async fn call<T: DeserializeOwned>(&self, method: &str, params: Value) -> Result<T> {
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let answer = self.http.send(post_json("/", request.to_string())).await?;
        let answer: RpcAnswer =
            serde_json::from_slice(&answer.body).map_err(|error| BenchError::unexpected(method, error))?;
        if let Some(RpcFailure { code, message, data }) = answer.error {
            return Err(BenchError::Rpc { method: method.to_owned(), code, message, data });
        }
        serde_json::from_value(answer.result).map_err(|error| BenchError::unexpected(method, error))
    }

    async fn quantity(&self, method: &str, params: Value) -> Result<u64> {
        Ok(self.call::<U64>(method, params).await?.to())
    }

    async fn tell(&self, method: &str, params: Value) -> Result<()> {
        self.call::<Value>(method, params).await.map(drop)
    }
}

/// Standard methods of every node.
impl Node {
    /// EIP-155 chain id.
    ///
    /// # Errors
    /// As [`Self::call`]; so for all below.
    pub async fn chain_id(&self) -> Result<u64> {
        self.quantity("eth_chainId", json!([])).await
    }

    /// Height of the head.
    pub async fn block_number(&self) -> Result<u64> {
        self.quantity("eth_blockNumber", json!([])).await
    }

    /// A block with its transactions; `None` above the head.
    pub async fn block(&self, number: u64) -> Result<Option<Block>> {
        self.call("eth_getBlockByNumber", json!([U64::from(number), true])).await
    }

    /// The head with its transactions.
    pub async fn head(&self) -> Result<Block> {
        self.call("eth_getBlockByNumber", json!(["latest", true])).await
    }

    /// Receipts of a block, in order.
    pub async fn block_receipts(&self, number: u64) -> Result<Vec<Receipt>> {
        self.call("eth_getBlockReceipts", json!([U64::from(number)])).await
    }

    /// Receipt of a transaction; `None` if it is in no block.
    pub async fn receipt(&self, hash: B256) -> Result<Option<Receipt>> {
        self.call("eth_getTransactionReceipt", json!([hash])).await
    }

    /// Account nonce at the head.
    pub async fn nonce(&self, account: Address) -> Result<u64> {
        self.quantity("eth_getTransactionCount", json!([account, "latest"])).await
    }

    /// Account nonce including the pool's transactions.
    pub async fn pending_nonce(&self, account: Address) -> Result<u64> {
        self.quantity("eth_getTransactionCount", json!([account, "pending"])).await
    }

    /// Balance in wei.
    pub async fn balance(&self, account: Address) -> Result<U256> {
        self.call("eth_getBalance", json!([account, "latest"])).await
    }

    /// Runtime code.
    pub async fn code(&self, account: Address) -> Result<Bytes> {
        self.call("eth_getCode", json!([account, "latest"])).await
    }

    /// Reads a contract at the head.
    pub async fn read(&self, to: Address, data: impl Into<Bytes>) -> Result<Bytes> {
        self.call("eth_call", json!([{ "to": to, "data": data.into() }, "latest"])).await
    }

    /// Sends signed bytes.
    pub async fn send_raw(&self, raw: impl Into<Bytes>) -> Result<B256> {
        self.call("eth_sendRawTransaction", json!([raw.into()])).await
    }

    /// Events of `address` from block `from` to block `to`, both included, whose topics match (`null` is any).
    pub async fn logs(&self, address: Address, topics: Value, from: u64, to: u64) -> Result<Vec<Log>> {
        let filter =
            json!({ "address": address, "topics": topics, "fromBlock": U64::from(from), "toBlock": U64::from(to) });
        self.call("eth_getLogs", json!([filter])).await
    }

    /// Numbers of pending and of queued transactions in the pool.
    pub async fn pool(&self) -> Result<(u64, u64)> {
        let status: BTreeMap<String, U64> = self.call("txpool_status", json!([])).await?;
        let of = |name: &str| status.get(name).map_or(0, |count| count.to());
        Ok((of("pending"), of("queued")))
    }
}

/// Anvil's own methods. Names as in its documentation.
impl Node {
    /// Accounts whose keys the node holds.
    pub async fn accounts(&self) -> Result<Vec<Address>> {
        self.call("eth_accounts", json!([])).await
    }

    /// Sends from an account whose key the node holds, or that is impersonated.
    pub async fn send(&self, from: Address, transaction: &TestTransaction) -> Result<B256> {
        let mut object = json!({
            "from": from,
            "data": transaction.data,
            "value": transaction.value,
            "gas": U64::from(transaction.gas),
        });
        if let Some(to) = transaction.to {
            object["to"] = json!(to);
        }
        if let Some(nonce) = transaction.nonce {
            object["nonce"] = json!(U64::from(nonce));
        }
        self.call("eth_sendTransaction", json!([object])).await
    }

    /// Waits until `hash` is in a block.
    ///
    /// # Errors
    /// [`BenchError::Timeout`] after `timeout`.
    pub async fn wait_receipt(&self, hash: B256, timeout: Duration) -> Result<Receipt> {
        let poll = async {
            loop {
                if let Some(receipt) = self.receipt(hash).await? {
                    return Ok(receipt);
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        };
        match tokio::time::timeout(timeout, poll).await {
            Ok(result) => result,
            Err(_) => Err(BenchError::Timeout { what: format!("inclusion of {hash}"), after: timeout }),
        }
    }

    /// Sets an account's balance.
    pub async fn set_balance(&self, account: Address, wei: U256) -> Result<()> {
        self.tell("anvil_setBalance", json!([account, wei])).await
    }

    /// Sets an account's nonce.
    pub async fn set_nonce(&self, account: Address, nonce: u64) -> Result<()> {
        self.tell("anvil_setNonce", json!([account, U64::from(nonce)])).await
    }

    /// Sets an account's code.
    pub async fn set_code(&self, account: Address, code: impl Into<Bytes>) -> Result<()> {
        self.tell("anvil_setCode", json!([account, code.into()])).await
    }

    /// Sets one storage word.
    pub async fn set_storage(&self, account: Address, slot: U256, value: B256) -> Result<()> {
        self.tell("anvil_setStorageAt", json!([account, slot, value])).await
    }

    /// Mines `blocks` blocks at once.
    pub async fn mine(&self, blocks: u64) -> Result<()> {
        self.tell("anvil_mine", json!([U64::from(blocks)])).await
    }

    /// Sets the base fee of the next block, wei per gas.
    pub async fn set_next_base_fee(&self, wei_per_gas: u128) -> Result<()> {
        self.tell("anvil_setNextBlockBaseFeePerGas", json!([U256::from(wei_per_gas)])).await
    }

    /// Sets the timestamp of the next block, Unix seconds.
    pub async fn set_next_timestamp(&self, seconds: u64) -> Result<()> {
        self.tell("evm_setNextBlockTimestamp", json!([seconds])).await
    }

    /// Replaces the newest `depth` blocks by as many others, without their transactions.
    pub async fn reorg(&self, depth: u64) -> Result<()> {
        self.tell("anvil_reorg", json!([depth, []])).await
    }

    /// Replaces the newest `depth` blocks by as many others that hold `transactions`: raw bytes and the index of the
    /// block in the new branch, from 0.
    pub async fn reorg_with(&self, depth: u64, transactions: &[(Bytes, u64)]) -> Result<()> {
        self.tell("anvil_reorg", json!([depth, transactions])).await
    }

    /// Removes the newest `depth` blocks.
    pub async fn rollback(&self, depth: u64) -> Result<()> {
        self.tell("anvil_rollback", json!([depth])).await
    }

    /// The whole state, compressed.
    pub async fn dump_state(&self) -> Result<Bytes> {
        self.call("anvil_dumpState", json!([])).await
    }

    /// Merges a state of [`Self::dump_state`].
    pub async fn load_state(&self, state: &Bytes) -> Result<bool> {
        self.call("anvil_loadState", json!([state])).await
    }

    /// Takes a snapshot of the state, for [`Self::revert`].
    pub async fn snapshot(&self) -> Result<U256> {
        self.call("evm_snapshot", json!([])).await
    }

    /// Restores a snapshot.
    pub async fn revert(&self, snapshot: U256) -> Result<bool> {
        self.call("evm_revert", json!([snapshot])).await
    }

    /// Lets [`Self::send`] send from `account` without its key.
    pub async fn impersonate(&self, account: Address) -> Result<()> {
        self.tell("anvil_impersonateAccount", json!([account])).await
    }

    /// Ends [`Self::impersonate`].
    pub async fn stop_impersonating(&self, account: Address) -> Result<()> {
        self.tell("anvil_stopImpersonatingAccount", json!([account])).await
    }

    /// Lets [`Self::send`] send from every account.
    pub async fn auto_impersonate(&self, on: bool) -> Result<()> {
        self.tell("anvil_autoImpersonateAccount", json!([on])).await
    }

    /// Turns mining of one block per transaction on or off.
    pub async fn set_automine(&self, on: bool) -> Result<()> {
        self.tell("evm_setAutomine", json!([on])).await
    }

    /// Mines a block every `seconds`; 0 stops it.
    pub async fn set_interval_mining(&self, seconds: u64) -> Result<()> {
        self.tell("evm_setIntervalMining", json!([seconds])).await
    }

    /// Takes a transaction out of the pool.
    pub async fn drop_transaction(&self, hash: B256) -> Result<()> {
        self.tell("anvil_dropTransaction", json!([hash])).await
    }

    /// Empties the pool.
    pub async fn drop_all_transactions(&self) -> Result<()> {
        self.tell("anvil_dropAllTransactions", json!([])).await
    }
}
