//! Queries to the user's own node, as JSON-RPC bodies.

use std::fmt;

use alloy_primitives::{Address, B256, Bytes, Log, U64, U256};
use alloy_sol_types::SolCall;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use slackwater_contracts::forwarder::{eip712DomainCall, isTrustedForwarderCall, noncesCall};

use super::http::{MAX_ANSWER_BYTES, excerpt};
use crate::json;
use crate::request::ForwarderDomain;

/// Failure of a node's answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RpcError {
    /// The node returned an error.
    #[error("the node answered error {code}: {message}")]
    Node {
        /// JSON-RPC error code.
        code: i64,
        /// Error message, for people.
        message: String,
    },
    /// Not JSON-RPC, or of an unexpected form.
    #[error("the node's answer can't be read: {0}")]
    Unreadable(String),
    /// The answer exceeds the size limit.
    #[error("the node's answer has {bytes} bytes, limit {limit}")]
    TooLarge {
        /// Size of the answer, bytes.
        bytes: usize,
        /// Size limit, bytes.
        limit: usize,
    },
}

/// A query to a node, with its answer's parser.
pub struct RpcCall<T> {
    method: &'static str,
    params: Value,
    read: fn(Value) -> Result<T, RpcError>,
}

impl<T> fmt::Debug for RpcCall<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcCall").field("method", &self.method).field("params", &self.params).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    result: Option<Value>,
    #[serde(default)]
    error: Option<NodeError>,
}

#[derive(Deserialize)]
struct NodeError {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
}

impl RpcError {
    /// True if the called contract reverted. Only error code 3 is recognised.
    pub const fn is_revert(&self) -> bool {
        matches!(self, Self::Node { code: 3, .. })
    }
}

impl<T> RpcCall<T> {
    const fn new(method: &'static str, params: Value, read: fn(Value) -> Result<T, RpcError>) -> Self {
        Self { method, params, read }
    }

    /// Method and parameters, for wallets that take them separately (EIP-1193).
    pub const fn parts(&self) -> (&'static str, &Value) {
        (self.method, &self.params)
    }

    /// The body to `POST` to the node.
    pub fn body(&self) -> String {
        json!({ "jsonrpc": "2.0", "id": 1, "method": self.method, "params": self.params }).to_string()
    }

    /// Parses the body of the node's answer.
    ///
    /// # Errors
    /// [`RpcError`].
    pub fn parse(&self, body: &[u8]) -> Result<T, RpcError> {
        if body.len() > MAX_ANSWER_BYTES {
            return Err(RpcError::TooLarge { bytes: body.len(), limit: MAX_ANSWER_BYTES });
        }
        let reply: Reply = json::read(body).map_err(|error| unreadable(&error))?;
        if let Some(NodeError { code, message }) = reply.error {
            return Err(RpcError::Node { code, message: excerpt(&message) });
        }
        self.parse_result(reply.result.unwrap_or(Value::Null))
    }

    /// Parses the `result` alone, as returned by an EIP-1193 provider.
    ///
    /// # Errors
    /// [`RpcError::Unreadable`].
    pub fn parse_result(&self, result: Value) -> Result<T, RpcError> {
        (self.read)(result)
    }
}

fn unreadable(error: &json::Error) -> RpcError {
    RpcError::Unreadable(excerpt(&error.to_string()))
}

fn read<T: DeserializeOwned>(result: Value) -> Result<T, RpcError> {
    json::of(result).map_err(|error| unreadable(&error))
}

/// Reference to a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockRef {
    /// `latest`, `safe` or `finalized`.
    Tag(&'static str),
    /// Block number.
    Number(u64),
}

impl BlockRef {
    fn param(self) -> Value {
        match self {
            Self::Tag(tag) => tag.into(),
            Self::Number(number) => format!("{number:#x}").into(),
        }
    }
}

/// `eth_chainId`.
pub fn chain_id() -> RpcCall<u64> {
    RpcCall::new("eth_chainId", json!([]), |result| read::<U64>(result).map(|id| id.to()))
}

fn eth_call(to: Address, data: Vec<u8>, block: BlockRef) -> Value {
    json!([{ "to": to, "data": Bytes::from(data) }, block.param()])
}

/// The next nonce of `owner` at `forwarder`, required in the next request. It does not count requests that are signed
/// but not executed yet: add those.
pub fn nonces(forwarder: Address, owner: Address, block: BlockRef) -> RpcCall<U256> {
    let data = noncesCall { owner }.abi_encode();
    RpcCall::new("eth_call", eth_call(forwarder, data, block), |result| {
        let word: Bytes = read(result)?;
        U256::try_from_be_slice(&word)
            .filter(|_| word.len() == 32)
            .ok_or_else(|| RpcError::Unreadable(format!("{} bytes instead of a word: no forwarder", word.len())))
    })
}

/// The EIP-712 domain stated by the contract at `forwarder` (ERC-5267).
pub fn forwarder_domain(forwarder: Address) -> RpcCall<ForwarderDomain> {
    let data = eip712DomainCall {}.abi_encode();
    RpcCall::new("eth_call", eth_call(forwarder, data, BlockRef::Tag("latest")), |result| {
        let bytes: Bytes = read(result)?;
        let domain = eip712DomainCall::abi_decode_returns(&bytes)
            .map_err(|_| RpcError::Unreadable("no EIP-712 domain: no forwarder".to_owned()))?;
        let chain_id = u64::try_from(domain.chainId)
            .map_err(|_| RpcError::Unreadable("the domain's chain id is above 2^64".to_owned()))?;
        if domain.version != slackwater_contracts::forwarder::DOMAIN_VERSION {
            return Err(RpcError::Unreadable(format!("the domain has version {:?}", excerpt(&domain.version))));
        }
        Ok(ForwarderDomain::new(domain.name, chain_id, domain.verifyingContract))
    })
}

/// The code of an account (`eth_getCode`); empty without code.
pub fn code(account: Address, block: BlockRef) -> RpcCall<Bytes> {
    RpcCall::new("eth_getCode", json!([account, block.param()]), read)
}

/// True if `target` trusts the sender appended by `forwarder` (ERC-2771), interpreted as OpenZeppelin's forwarder does:
/// an account without code, or a contract that returns less than a word, trusts nobody.
pub fn is_trusted_forwarder(target: Address, forwarder: Address, block: BlockRef) -> RpcCall<bool> {
    let data = isTrustedForwarderCall { forwarder }.abi_encode();
    RpcCall::new("eth_call", eth_call(target, data, block), |result| {
        let answer: Bytes = read(result)?;
        Ok(answer.get(..32).is_some_and(|word| word.iter().any(|byte| *byte != 0)))
    })
}

/// The parts of a mined transaction's receipt that verification needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Transaction hash.
    pub tx_hash: B256,
    /// Block number and hash; `None` for a pre-confirmation.
    pub block: Option<(u64, B256)>,
    /// True for status 1.
    pub is_success: bool,
    /// Emitted events.
    pub logs: Vec<Log>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RpcReceipt {
    transaction_hash: B256,
    block_number: Option<U64>,
    block_hash: Option<B256>,
    #[serde(default)]
    status: Option<U64>,
    #[serde(default)]
    logs: Vec<RpcLog>,
}

#[derive(Deserialize)]
struct RpcLog {
    address: Address,
    topics: Vec<B256>,
    data: Bytes,
}

/// `eth_getTransactionReceipt`; `None` if the node has none.
pub fn receipt(tx_hash: B256) -> RpcCall<Option<Receipt>> {
    RpcCall::new("eth_getTransactionReceipt", json!([tx_hash]), |result| {
        let receipt: Option<RpcReceipt> = read(result)?;
        Ok(receipt.map(|receipt| Receipt {
            tx_hash: receipt.transaction_hash,
            block: receipt.block_number.map(|number| number.to()).zip(receipt.block_hash),
            is_success: receipt.status == Some(U64::from(1)),
            logs: receipt.logs.into_iter().filter_map(|log| Log::new(log.address, log.topics, log.data)).collect(),
        }))
    })
}

/// A transaction's recipient and calldata.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Transaction {
    /// Transaction hash.
    pub hash: B256,
    /// Recipient; `None` for a contract creation.
    #[serde(default)]
    pub to: Option<Address>,
    /// Calldata.
    #[serde(default)]
    pub input: Bytes,
}

/// `eth_getTransactionByHash`; `None` if the node has none.
pub fn transaction(tx_hash: B256) -> RpcCall<Option<Transaction>> {
    RpcCall::new("eth_getTransactionByHash", json!([tx_hash]), read)
}

/// Identity and time of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Number.
    pub number: u64,
    /// Hash.
    pub hash: B256,
    /// Timestamp, Unix seconds.
    pub timestamp_s: u64,
}

#[derive(Deserialize)]
struct RpcBlock {
    number: U64,
    hash: B256,
    timestamp: U64,
}

/// `eth_getBlockByNumber`; `None` if the node has no such block, or does not support the tag.
pub fn block(block: BlockRef) -> RpcCall<Option<Block>> {
    RpcCall::new("eth_getBlockByNumber", json!([block.param(), false]), |result| {
        let block: Option<RpcBlock> = read(result)?;
        Ok(block.map(|block| Block { number: block.number.to(), hash: block.hash, timestamp_s: block.timestamp.to() }))
    })
}
