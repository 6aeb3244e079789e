//! A JSON-RPC proxy between relayer and node that injects faults and enforces what anvil does not.

mod fault;
mod lies;
mod words;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use alloy_consensus::{Transaction as _, TxEnvelope};
use alloy_eips::eip2718::Decodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, U64, keccak256};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::{Bytes as Payload, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use slackwater_core::{
    chain::{
        ClientRule, Fees, RpcErrorClass,
        data_fee::{OpFork, OpL1Params, TxSize},
    },
    request::recover,
};
use tokio::{net::TcpListener, task::AbortHandle, task::JoinSet};

use crate::{
    error::{BenchError, Result},
    http::{Http, post_json},
    rng::Rng,
};

pub use self::{
    fault::{CLIENTS, FALSE_TIP_WEI, Fault, READ_REFUSALS, ReceiptLie, Rule, SEND_REFUSALS, Storm},
    words::error_text,
};
use self::{
    lies::{hide_newer, inflate, invent, lie_about, make_stale, quantity, tell_half_the_truth, wide_quantity},
    words::refusal,
};

/// Rules of a transaction pool that anvil does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrictPool {
    /// Condition on which a transaction replaces another of the same nonce.
    pub replacement: ClientRule,
    /// Client whose error texts are used, such as `geth`.
    pub client: String,
    /// Gas limit of one transaction (EIP-7825); `None` for no limit.
    pub max_tx_gas: Option<u64>,
}

/// Limits of a node on transactions; refusals use geth's error texts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeLimits {
    /// Gas limit of one transaction; `None` for no limit.
    pub max_gas: Option<u64>,
    /// Highest cost of a transaction: gas limit × fee cap, wei (`--rpc.txfeecap`).
    pub max_fee_wei: Option<u128>,
    /// Lowest tip, wei per gas.
    pub min_tip_wei: Option<u128>,
    /// Wording of a refusal for the tip.
    pub tip_words: TipWords,
}

/// Wording of a refusal for a low tip.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TipWords {
    /// With the required tip, as geth words it.
    #[default]
    Geth,
    /// With the required tip in another form.
    Other,
    /// Without the required tip.
    Bare,
}

impl NodeLimits {
    /// The refusal of a transaction beyond the limits; `None` if it is within them.
    fn refuse(self, id: &Value, sent: &Sent) -> Option<Value> {
        let ether = |wei: u128| format!("{:.2} ether", wei as f64 / 1e18);
        let tip = sent.fees.max_priority_fee_per_gas;
        let worst = u128::from(sent.gas).saturating_mul(sent.fees.max_fee_per_gas);
        let message = match self {
            Self { max_gas: Some(most), .. } if sent.gas > most => "exceeds block gas limit".to_owned(),
            Self { max_fee_wei: Some(most), .. } if worst > most => {
                format!("tx fee ({}) exceeds the configured cap ({})", ether(worst), ether(most))
            }
            Self { min_tip_wei: Some(least), .. } if tip < least => match self.tip_words {
                TipWords::Geth => {
                    format!("transaction gas price below minimum: gas tip cap {tip}, minimum needed {least}")
                }
                TipWords::Other => {
                    format!("FeeTooLow: offered {tip} wei, this node wants {} gwei", least / 1_000_000_000)
                }
                TipWords::Bare => "transaction underpriced".to_owned(),
            },
            _ => return None,
        };
        Some(json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32_000, "message": message } }))
    }
}

/// Counts of calls and injected faults so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Injected {
    /// Calls by method.
    pub calls: BTreeMap<String, u64>,
    /// Highest number of concurrent unanswered calls, by method.
    pub most_at_once: BTreeMap<String, u64>,
    /// Faults by name.
    pub faults: BTreeMap<&'static str, u64>,
    /// Replacements that the strict pool accepted.
    pub replacements_taken: u64,
    /// Replacements that the strict pool refused.
    pub replacements_refused: u64,
    /// Transactions that the strict pool refused for their gas.
    pub gas_refused: u64,
    /// Transactions that [`NodeLimits`] refused.
    pub limits_refused: u64,
    /// Hashes of the transactions that the node accepted, in order.
    pub taken: Vec<B256>,
}

/// A transaction that was sent to the proxy, whatever its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Its hash.
    pub hash: B256,
    /// Its sender.
    pub sender: Address,
    /// Account nonce.
    pub nonce: u64,
    /// The signed bytes.
    pub raw: Bytes,
    /// Time at which the connection was accepted.
    pub connected_at: Instant,
    /// Time at which the call had arrived completely.
    pub at: Instant,
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
    storm: Option<Storm>,
    strict: Option<StrictPool>,
    limits: NodeLimits,
    l1: Option<OpL1Params>,
    held: BTreeMap<(Address, u64), (Fees, B256)>,
    /// Unanswered calls, by method.
    open: BTreeMap<String, u64>,
    injected: Injected,
    arrivals: Vec<Arrival>,
}

/// Id of an added rule, to remove it.
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
            storm: None,
            strict: None,
            limits: NodeLimits::default(),
            l1: None,
            held: BTreeMap::new(),
            open: BTreeMap::new(),
            injected: Injected::default(),
            arrivals: Vec::new(),
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

    /// Starts a storm: a share of all calls has one fault each, in addition to the rules.
    pub fn storm(&self, storm: Storm) {
        self.shared.state().storm = Some(storm);
    }

    /// Removes all faults, a storm included; a strict pool stays.
    pub fn clear(&self) {
        let mut state = self.shared.state();
        state.rules.clear();
        state.storm = None;
    }

    /// Sets the pool's rules; `None` removes them.
    pub fn strict(&self, pool: Option<StrictPool>) {
        self.shared.state().strict = pool;
    }

    /// Sets the node's limits; transactions beyond them are refused.
    pub fn limits(&self, limits: NodeLimits) {
        self.shared.state().limits = limits;
    }

    /// Adds to receipts an L1 data fee by these parameters (OP Stack since Fjord). The node itself charges none.
    pub fn l1_fees(&self, params: OpL1Params) {
        self.shared.state().l1 = Some(params);
    }

    /// Counts of calls and injected faults so far.
    pub fn injected(&self) -> Injected {
        self.shared.state().injected.clone()
    }

    /// Every transaction that was sent, in order, including those that a fault kept from the node.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.shared.state().arrivals.clone()
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
        let connected_at = Instant::now();
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { shared.serve(request, connected_at).await }
            });
            // An error here is a connection cut by either side.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

const SEND: &str = "eth_sendRawTransaction";

/// The connection is to be closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("dropped on purpose")]
struct Dropped;

/// An unanswered call, until it is answered or cut.
struct Open<'a> {
    shared: &'a Shared,
    method: &'a str,
}

impl<'a> Open<'a> {
    fn new(shared: &'a Shared, method: &'a str) -> Self {
        let mut state = shared.state();
        let open = state.open.entry(method.to_owned()).or_default();
        *open += 1;
        let open = *open;
        let most = state.injected.most_at_once.entry(method.to_owned()).or_default();
        *most = open.max(*most);
        drop(state);
        Self { shared, method }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Some(open) = self.shared.state().open.get_mut(self.method) {
            *open -= 1;
        }
    }
}

enum Reply {
    Answer(Value),
    Status(u16),
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(
        &self,
        request: Request<Incoming>,
        connected_at: Instant,
    ) -> Result<Response<Full<Payload>>, Dropped> {
        let body = request.into_body().collect().await.map_err(|_| Dropped)?.to_bytes();
        let at = Instant::now();
        let calls: Value = serde_json::from_slice(&body).map_err(|_| Dropped)?;
        let answer = match calls {
            Value::Array(calls) => {
                let mut answers = Vec::with_capacity(calls.len());
                for call in calls {
                    match self.call(call, connected_at, at).await? {
                        Reply::Answer(answer) => answers.push(answer),
                        Reply::Status(status) => return Ok(status_only(status)),
                    }
                }
                Value::Array(answers)
            }
            call => match self.call(call, connected_at, at).await? {
                Reply::Answer(answer) => answer,
                Reply::Status(status) => return Ok(status_only(status)),
            },
        };
        let mut response = Response::new(Full::new(Payload::from(answer.to_string())));
        response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
        Ok(response)
    }

    async fn call(&self, mut call: Value, connected_at: Instant, at: Instant) -> Result<Reply, Dropped> {
        let id = call["id"].clone();
        let method = call["method"].as_str().unwrap_or_default().to_owned();
        let _open = Open::new(self, &method);
        let sent = if method == SEND { decode(&call["params"][0]) } else { None };
        if let Some((Sent { sender, nonce, hash, .. }, raw)) = &sent {
            let arrival = Arrival { hash: *hash, sender: *sender, nonce: *nonce, raw: raw.clone(), connected_at, at };
            self.state().arrivals.push(arrival);
        }
        let sent = sent.map(|(sent, _)| sent);
        let faults = self.state().roll(&method);
        let mut stale = 0;
        let mut frozen = None;
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
                Fault::FrozenAt { block } => frozen = Some(*block),
                Fault::DropAfter | Fault::Duplicate | Fault::Receipt(_) | Fault::Fees { .. } | Fault::HalfTruth => {}
            }
        }
        let newest = if stale > 0 { self.newest(stale).await? } else { None };
        let newest = frozen.or(newest);
        if let Some(newest) = newest {
            make_stale(&mut call, &method, newest);
        }
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
                Fault::Receipt(ReceiptLie::Invented { block }) => {
                    let header = json!({
                        "jsonrpc": "2.0", "id": 1, "method": "eth_getBlockByNumber", "params": [U64::from(*block), false],
                    });
                    if answer["result"].is_null() {
                        answer["result"] = invent(&call["params"][0], &self.forward(&header).await?["result"]);
                    }
                }
                Fault::Receipt(lie) => lie_about(&mut answer["result"], *lie),
                Fault::Fees { times } => inflate(&mut answer["result"]["baseFeePerGas"], *times),
                Fault::HalfTruth => tell_half_the_truth(&mut answer["result"]),
                Fault::DropAfter => return Err(Dropped),
                _ => {}
            }
        }
        let l1 = self.state().l1;
        if let Some(params) = l1 {
            match (method.as_str(), &mut answer["result"]) {
                ("eth_getTransactionReceipt", receipt) => self.add_l1_fee(receipt, &params).await?,
                ("eth_getBlockReceipts", Value::Array(receipts)) => {
                    for receipt in receipts {
                        self.add_l1_fee(receipt, &params).await?;
                    }
                }
                _ => {}
            }
        }
        Ok(Reply::Answer(answer))
    }

    async fn add_l1_fee(&self, receipt: &mut Value, params: &OpL1Params) -> Result<(), Dropped> {
        if receipt.is_null() {
            return Ok(());
        }
        let raw = self.ask("eth_getRawTransactionByHash", json!([receipt["transactionHash"]])).await?;
        let raw: Bytes = serde_json::from_value(raw).map_err(|_| Dropped)?;
        receipt["l1Fee"] = json!(params.l1_data_fee(OpFork::Fjord, &TxSize::of_signed(&raw)));
        Ok(())
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

    /// The newest block known to a node `blocks` blocks behind.
    async fn newest(&self, blocks: u64) -> Result<Option<u64>, Dropped> {
        let head = self.ask("eth_blockNumber", json!([])).await?;
        Ok(quantity(&head).map(|head| head.saturating_sub(blocks)))
    }

    /// The strict pool's refusal of a transaction; `None` if it accepts it.
    async fn refuse(&self, id: &Value, sent: &Sent) -> Result<Option<Value>, Dropped> {
        let (strict, held) = {
            let mut state = self.state();
            if let Some(refused) = state.limits.refuse(id, sent) {
                state.injected.limits_refused += 1;
                return Ok(Some(refused));
            }
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
        // The pool may have dropped it, or a block may hold it: then the node decides.
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
    /// The faults of this call, each with a random fraction for its parameters.
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
        if let Some(fault) = self.storm.and_then(|storm| storm.strike(&mut self.rng, method)) {
            *self.injected.faults.entry(fault.name()).or_default() += 1;
            faults.push((fault, self.rng.below(1_000) as f64 / 1_000.0));
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

fn decode(raw: &Value) -> Option<(Sent, Bytes)> {
    let raw: Bytes = serde_json::from_value(raw.clone()).ok()?;
    let transaction = TxEnvelope::decode_2718(&mut raw.as_ref()).ok()?;
    let signature = transaction.signature();
    let sender = recover(transaction.signature_hash(), &signature.as_bytes()).ok()?;
    let tip = transaction.max_priority_fee_per_gas().unwrap_or_else(|| transaction.max_fee_per_gas());
    let sent = Sent {
        sender,
        nonce: transaction.nonce(),
        fees: Fees::new(transaction.max_fee_per_gas(), tip),
        gas: transaction.gas_limit(),
        hash: keccak256(&raw),
    };
    Some((sent, raw))
}

fn status_only(status: u16) -> Response<Full<Payload>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::BAD_GATEWAY);
    response
}
