//! A JSON-RPC proxy between relayer and node that injects faults and enforces what anvil does not.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use alloy_consensus::{Transaction as _, TxEnvelope};
use alloy_eips::eip2718::Decodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, U64, U256, keccak256};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::{Bytes as Payload, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use slackwater::{
    chain::{ClientRule, Fees, RpcErrorClass},
    request::recover,
};
use tokio::{net::TcpListener, task::AbortHandle, task::JoinSet};

use crate::{
    error::{BenchError, Result},
    http::{Http, post_json},
    rng::Rng,
};

/// What goes wrong with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It reaches the node late, by a time between these. Concurrent calls overtake each other.
    Delay {
        /// Least.
        min: Duration,
        /// Most.
        max: Duration,
    },
    /// The connection is closed before the node sees it.
    DropBefore,
    /// The node sees it and answers, but the connection is closed before the answer is passed on.
    DropAfter,
    /// The node sees it twice; the second answer is passed on.
    Duplicate,
    /// The node does not see it; the error of another client is answered instead.
    Refuse {
        /// Which client's words, such as `geth`.
        client: String,
        /// Which error.
        class: RpcErrorClass,
    },
    /// The node does not see it; this HTTP status is answered instead.
    HttpStatus(u16),
    /// The node is this many blocks behind: its head, states and receipts.
    StaleHead {
        /// Blocks.
        blocks: u64,
    },
    /// Receipts are not what they are.
    Receipt(ReceiptLie),
    /// Base fees are this many times what they are, in headers and fee histories.
    Fees {
        /// Factor.
        times: u64,
    },
    /// Base fees are right, and nothing beside them: blocks are full in headers and fee histories, tips are
    /// [`FALSE_TIP_WEI`], and the next block's base fee is an eighth above the last.
    HalfTruth,
}

/// What [`Fault::HalfTruth`] says that everybody paid, wei per gas.
pub const FALSE_TIP_WEI: u64 = 150_000_000_000;

/// What is wrong with a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReceiptLie {
    /// There is none.
    Null,
    /// The transaction failed, without events.
    Failed,
    /// It is in a block that does not exist.
    OtherBlock,
}

impl Fault {
    /// Name in [`Injected::faults`].
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Delay { .. } => "delay",
            Self::DropBefore => "drop_before",
            Self::DropAfter => "drop_after",
            Self::Duplicate => "duplicate",
            Self::Refuse { .. } => "refuse",
            Self::HttpStatus(_) => "http_status",
            Self::StaleHead { .. } => "stale_head",
            Self::Receipt(_) => "receipt",
            Self::Fees { .. } => "fees",
            Self::HalfTruth => "half_truth",
        }
    }
}

/// A fault with when it strikes.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The fault.
    pub fault: Fault,
    /// Methods that it concerns; empty means all.
    pub methods: Vec<String>,
    /// Probability for each call, basis points.
    pub chance_bps: u32,
    /// How many times at most.
    pub limit: Option<u64>,
}

impl Rule {
    /// `fault` on every call.
    pub const fn always(fault: Fault) -> Self {
        Self { fault, methods: Vec::new(), chance_bps: 10_000, limit: None }
    }

    /// Only on this method; may be repeated.
    #[must_use]
    pub fn on(mut self, method: &str) -> Self {
        self.methods.push(method.to_owned());
        self
    }

    /// Only with this probability, basis points.
    #[must_use]
    pub const fn chance_bps(mut self, bps: u32) -> Self {
        self.chance_bps = bps;
        self
    }

    /// Only the first `times` times.
    #[must_use]
    pub const fn times(mut self, times: u64) -> Self {
        self.limit = Some(times);
        self
    }
}

/// A pool's rules that anvil does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrictPool {
    /// When a transaction replaces another of the same nonce.
    pub replacement: ClientRule,
    /// In whose words it is refused, such as `geth`.
    pub client: String,
    /// Most gas of one transaction (EIP-7825).
    pub max_tx_gas: Option<u64>,
}

/// What was done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Injected {
    /// Calls by method.
    pub calls: BTreeMap<String, u64>,
    /// Faults by name.
    pub faults: BTreeMap<&'static str, u64>,
    /// Replacements that the strict pool took.
    pub replacements_taken: u64,
    /// Replacements that the strict pool refused.
    pub replacements_refused: u64,
    /// Transactions that the strict pool refused for their gas.
    pub gas_refused: u64,
    /// Transactions that the node took: hash of each, in order.
    pub taken: Vec<B256>,
}

/// A running proxy. Ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    url: String,
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    upstream: Http,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    next_rule: u64,
    rules: BTreeMap<u64, Rule>,
    strict: Option<StrictPool>,
    held: BTreeMap<(Address, u64), (Fees, B256)>,
    injected: Injected,
}

/// Names a rule that was added, to remove it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleId(u64);

impl Proxy {
    /// A proxy of the node at `upstream`, without faults. The same `seed` makes the same choices in the same order of
    /// calls.
    ///
    /// # Errors
    /// If no port is free.
    pub async fn spawn(upstream: &str, seed: u64) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(BenchError::io("proxy"))?;
        let address: SocketAddr = listener.local_addr().map_err(BenchError::io("proxy"))?;
        let state = State {
            rng: Rng::new(seed),
            next_rule: 0,
            rules: BTreeMap::new(),
            strict: None,
            held: BTreeMap::new(),
            injected: Injected::default(),
        };
        let shared = Arc::new(Shared { upstream: Http::new(upstream)?, state: Mutex::new(state) });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Ok(Self { url: format!("http://{address}"), shared, task })
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Adds a fault. Faults of several rules add up; the first refusal wins.
    pub fn add(&self, rule: Rule) -> RuleId {
        let mut state = self.shared.state();
        let id = state.next_rule;
        state.next_rule += 1;
        state.rules.insert(id, rule);
        RuleId(id)
    }

    /// Removes a fault.
    pub fn remove(&self, id: RuleId) {
        self.shared.state().rules.remove(&id.0);
    }

    /// Removes all faults; a strict pool stays.
    pub fn clear(&self) {
        self.shared.state().rules.clear();
    }

    /// Enforces a pool's rules, or none.
    pub fn strict(&self, pool: Option<StrictPool>) {
        self.shared.state().strict = pool;
    }

    /// What was done so far.
    pub fn injected(&self) -> Injected {
        self.shared.state().injected.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { shared.serve(request).await }
            });
            // An error here is a connection that was cut, by us or by them.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// The connection is to be closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("dropped on purpose")]
struct Dropped;

enum Reply {
    Answer(Value),
    Status(u16),
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(&self, request: Request<Incoming>) -> Result<Response<Full<Payload>>, Dropped> {
        let body = request.into_body().collect().await.map_err(|_| Dropped)?.to_bytes();
        let calls: Value = serde_json::from_slice(&body).map_err(|_| Dropped)?;
        let answer = match calls {
            Value::Array(calls) => {
                let mut answers = Vec::with_capacity(calls.len());
                for call in calls {
                    match self.call(call).await? {
                        Reply::Answer(answer) => answers.push(answer),
                        Reply::Status(status) => return Ok(status_only(status)),
                    }
                }
                Value::Array(answers)
            }
            call => match self.call(call).await? {
                Reply::Answer(answer) => answer,
                Reply::Status(status) => return Ok(status_only(status)),
            },
        };
        let mut response = Response::new(Full::new(Payload::from(answer.to_string())));
        response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
        Ok(response)
    }

    async fn call(&self, mut call: Value) -> Result<Reply, Dropped> {
        let id = call["id"].clone();
        let method = call["method"].as_str().unwrap_or_default().to_owned();
        let faults = self.state().roll(&method);
        let mut stale = 0;
        for (fault, fraction) in &faults {
            match fault {
                Fault::Delay { min, max } => {
                    let span = max.saturating_sub(*min);
                    tokio::time::sleep(*min + span.mul_f64(*fraction)).await;
                }
                Fault::DropBefore => return Err(Dropped),
                Fault::HttpStatus(status) => return Ok(Reply::Status(*status)),
                Fault::Refuse { client, class } => return Ok(Reply::Answer(refusal(&id, client, *class))),
                Fault::StaleHead { blocks } => stale = stale.max(*blocks),
                Fault::DropAfter | Fault::Duplicate | Fault::Receipt(_) | Fault::Fees { .. } | Fault::HalfTruth => {}
            }
        }
        let newest = if stale > 0 { self.newest(stale).await? } else { None };
        if let Some(newest) = newest {
            make_stale(&mut call, &method, newest);
        }
        let sent = if method == "eth_sendRawTransaction" { decode(&call["params"][0]) } else { None };
        if let Some(sent) = &sent
            && let Some(refused) = self.refuse(&id, sent).await?
        {
            return Ok(Reply::Answer(refused));
        }
        let mut answer = self.forward(&call).await?;
        if faults.iter().any(|(fault, _)| *fault == Fault::Duplicate) {
            answer = self.forward(&call).await?;
        }
        if let Some(sent) = sent
            && answer["error"].is_null()
        {
            self.state().take(sent);
        }
        if let Some(newest) = newest {
            hide_newer(&mut answer, &method, newest);
        }
        for (fault, _) in &faults {
            match fault {
                Fault::Receipt(lie) => lie_about(&mut answer["result"], *lie),
                Fault::Fees { times } => inflate(&mut answer["result"]["baseFeePerGas"], *times),
                Fault::HalfTruth => tell_half_the_truth(&mut answer["result"]),
                Fault::DropAfter => return Err(Dropped),
                _ => {}
            }
        }
        Ok(Reply::Answer(answer))
    }

    async fn forward(&self, call: &Value) -> Result<Value, Dropped> {
        let answer = self.upstream.send(post_json("/", call.to_string())).await.map_err(|_| Dropped)?;
        serde_json::from_slice(&answer.body).map_err(|_| Dropped)
    }

    async fn ask(&self, method: &str, params: Value) -> Result<Value, Dropped> {
        let mut answer =
            self.forward(&json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })).await?;
        Ok(answer["result"].take())
    }

    /// The newest block that a node `blocks` behind knows.
    async fn newest(&self, blocks: u64) -> Result<Option<u64>, Dropped> {
        let head = self.ask("eth_blockNumber", json!([])).await?;
        Ok(quantity(&head).map(|head| head.saturating_sub(blocks)))
    }

    /// The strict pool's answer to a transaction, if it refuses it.
    async fn refuse(&self, id: &Value, sent: &Sent) -> Result<Option<Value>, Dropped> {
        let (strict, held) = {
            let state = self.state();
            let Some(strict) = state.strict.clone() else { return Ok(None) };
            (strict, state.held.get(&(sent.sender, sent.nonce)).copied())
        };
        if strict.max_tx_gas.is_some_and(|max| sent.gas > max) {
            self.state().injected.gas_refused += 1;
            return Ok(Some(refusal(id, &strict.client, RpcErrorClass::GasTooHigh)));
        }
        let Some((old, old_hash)) = held else { return Ok(None) };
        if old_hash == sent.hash {
            return Ok(None);
        }
        // The pool may have lost it, or a block may hold it: then it is the node's question.
        let pooled = self.ask("eth_getTransactionByHash", json!([old_hash])).await?;
        if pooled.is_null() || !pooled["blockNumber"].is_null() {
            return Ok(None);
        }
        let pending = self.ask("eth_getBlockByNumber", json!(["pending", false])).await?;
        let base_fee = u128::try_from(wide_quantity(&pending["baseFeePerGas"])).unwrap_or(u128::MAX);
        let taken = strict.replacement.accepts(old, sent.fees, base_fee);
        let mut state = self.state();
        if taken {
            state.injected.replacements_taken += 1;
            return Ok(None);
        }
        state.injected.replacements_refused += 1;
        Ok(Some(refusal(id, &strict.client, RpcErrorClass::ReplacementUnderpriced)))
    }
}

impl State {
    /// The faults that strike this call, each with a fraction for what it leaves to chance.
    fn roll(&mut self, method: &str) -> Vec<(Fault, f64)> {
        *self.injected.calls.entry(method.to_owned()).or_default() += 1;
        let mut faults = Vec::new();
        for rule in self.rules.values_mut() {
            let concerns = rule.methods.is_empty() || rule.methods.iter().any(|name| name == method);
            if !concerns || rule.limit == Some(0) || !self.rng.chance_bps(rule.chance_bps) {
                continue;
            }
            if let Some(limit) = &mut rule.limit {
                *limit -= 1;
            }
            *self.injected.faults.entry(rule.fault.name()).or_default() += 1;
            faults.push((rule.fault.clone(), self.rng.below(1_000) as f64 / 1_000.0));
        }
        faults
    }

    fn take(&mut self, sent: Sent) {
        let Sent { sender, nonce, fees, hash, .. } = sent;
        self.held.insert((sender, nonce), (fees, hash));
        self.injected.taken.push(hash);
    }
}

/// A transaction on its way to the node.
#[derive(Debug, Clone, Copy)]
struct Sent {
    sender: Address,
    nonce: u64,
    fees: Fees,
    gas: u64,
    hash: B256,
}

fn decode(raw: &Value) -> Option<Sent> {
    let raw: Bytes = serde_json::from_value(raw.clone()).ok()?;
    let transaction = TxEnvelope::decode_2718(&mut raw.as_ref()).ok()?;
    let signature = transaction.signature();
    let sender = recover(transaction.signature_hash(), &signature.as_bytes()).ok()?;
    let tip = transaction.max_priority_fee_per_gas().unwrap_or_else(|| transaction.max_fee_per_gas());
    Some(Sent {
        sender,
        nonce: transaction.nonce(),
        fees: Fees::new(transaction.max_fee_per_gas(), tip),
        gas: transaction.gas_limit(),
        hash: keccak256(&raw),
    })
}

/// Methods with a block parameter, and its place.
const BLOCK_PARAMETERS: [(&str, usize); 8] = [
    ("eth_getBlockByNumber", 0),
    ("eth_getBlockReceipts", 0),
    ("eth_getTransactionCount", 1),
    ("eth_getBalance", 1),
    ("eth_getCode", 1),
    ("eth_call", 1),
    ("eth_estimateGas", 1),
    ("eth_feeHistory", 1),
];

/// Replaces the tags that mean the head.
fn make_stale(call: &mut Value, method: &str, newest: u64) {
    let Some((_, place)) = BLOCK_PARAMETERS.iter().find(|(name, _)| *name == method) else { return };
    if let Some(parameter) = call["params"].get_mut(*place)
        && matches!(parameter.as_str(), Some("latest" | "pending"))
    {
        *parameter = json!(U64::from(newest));
    }
}

/// Takes away what a node that knows no block after `newest` can't know.
fn hide_newer(answer: &mut Value, method: &str, newest: u64) {
    let result = &mut answer["result"];
    match method {
        "eth_blockNumber" => *result = json!(U64::from(newest)),
        "eth_getTransactionReceipt" if quantity(&result["blockNumber"]).is_some_and(|block| block > newest) => {
            *result = Value::Null;
        }
        "eth_getTransactionByHash" if quantity(&result["blockNumber"]).is_some_and(|block| block > newest) => {
            for field in ["blockNumber", "blockHash", "transactionIndex"] {
                result[field] = Value::Null;
            }
        }
        "eth_getBlockByNumber" | "eth_getBlockByHash"
            if quantity(&result["number"]).is_some_and(|block| block > newest) =>
        {
            *result = Value::Null;
        }
        "eth_getBlockReceipts" if quantity(&result[0]["blockNumber"]).is_some_and(|block| block > newest) => {
            *result = Value::Null;
        }
        _ => {}
    }
}

fn lie_about(result: &mut Value, lie: ReceiptLie) {
    if lie == ReceiptLie::Null {
        *result = Value::Null;
        return;
    }
    let receipts: Vec<&mut Value> = match result {
        Value::Array(receipts) => receipts.iter_mut().collect(),
        Value::Object(_) => vec![result],
        _ => Vec::new(),
    };
    for receipt in receipts {
        match lie {
            ReceiptLie::Null => {}
            ReceiptLie::Failed => {
                receipt["status"] = json!("0x0");
                receipt["logs"] = json!([]);
            }
            ReceiptLie::OtherBlock => receipt["blockHash"] = json!(B256::repeat_byte(0xee)),
        }
    }
}

/// One fee, or a list of them.
fn inflate(fees: &mut Value, times: u64) {
    match fees {
        Value::Array(fees) => fees.iter_mut().for_each(|fee| inflate(fee, times)),
        Value::String(_) => *fees = json!(wide_quantity(fees).saturating_mul(U256::from(times))),
        _ => {}
    }
}

/// Makes up everything but the base fees of blocks that are there.
fn tell_half_the_truth(result: &mut Value) {
    if let Some(header) = result.as_object_mut().filter(|header| header.contains_key("gasLimit")) {
        header["gasUsed"] = header["gasLimit"].clone();
    }
    if let Some(ratios) = result["gasUsedRatio"].as_array_mut() {
        ratios.iter_mut().for_each(|ratio| *ratio = json!(1.0));
    }
    if let Some(blocks) = result["reward"].as_array_mut() {
        let tips = blocks.iter_mut().filter_map(Value::as_array_mut).flatten();
        tips.for_each(|tip| *tip = json!(U64::from(FALSE_TIP_WEI)));
    }
    if let Some([.., last, next]) = result["baseFeePerGas"].as_array_mut().map(Vec::as_mut_slice) {
        let fee = wide_quantity(last);
        *next = json!(fee + fee / U256::from(8));
    }
}

fn quantity(value: &Value) -> Option<u64> {
    serde_json::from_value::<U64>(value.clone()).ok().map(|number| number.to())
}

fn wide_quantity(value: &Value) -> U256 {
    serde_json::from_value(value.clone()).unwrap_or_default()
}

fn status_only(status: u16) -> Response<Full<Payload>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::BAD_GATEWAY);
    response
}

#[derive(Deserialize)]
struct Corpus {
    rows: Vec<CorpusRow>,
}

#[derive(Deserialize)]
struct CorpusRow {
    class: String,
    client: String,
    code: Option<i64>,
    message: String,
}

/// The real words of `client` for an error of `class`: code and text. If the corpus has none of that client, another
/// client's.
///
/// # Panics
/// If the corpus has none at all for `class`.
pub fn error_text(client: &str, class: RpcErrorClass) -> (i64, String) {
    let corpus: Corpus = serde_json::from_str(include_str!("../../core/tests/vectors/rpc_errors.json"))
        .unwrap_or_else(|error| panic!("rpc_errors.json: {error}"));
    let name = format!("{class:?}");
    let mut rows: Vec<_> = corpus.rows.into_iter().filter(|row| row.class == name).collect();
    // Stable: the corpus has the current text of each client first.
    rows.sort_by_key(|row| row.client != client);
    let row = rows.into_iter().next().unwrap_or_else(|| panic!("rpc_errors.json has no {name}"));
    (row.code.unwrap_or(-32_000), row.message)
}

fn refusal(id: &Value, client: &str, class: RpcErrorClass) -> Value {
    let (code, message) = error_text(client, class);
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_each_client() {
        let (code, text) = error_text("besu", RpcErrorClass::ReplacementUnderpriced);
        assert_eq!((code, text.as_str()), (-32_000, "Replacement transaction underpriced"));
        let (_, text) = error_text("reth", RpcErrorClass::PoolFull);
        assert!(!text.is_empty());
    }

    #[test]
    fn a_stale_node_knows_nothing_newer() {
        let mut call = json!({ "params": ["0x00", "latest"] });
        make_stale(&mut call, "eth_getTransactionCount", 7);
        assert_eq!(call["params"][1], "0x7");
        let mut answer = json!({ "result": { "blockNumber": "0x8", "status": "0x1" } });
        hide_newer(&mut answer, "eth_getTransactionReceipt", 8);
        assert!(!answer["result"].is_null());
        hide_newer(&mut answer, "eth_getTransactionReceipt", 7);
        assert!(answer["result"].is_null());
    }
}
