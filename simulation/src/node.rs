//! Answers of nodes, and their loss on the way.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_sol_types::{SolCall as _, SolValue as _};
use async_trait::async_trait;
use serde_json::{Value, json};
use slackwater::internal::{RpcReply, RpcTransport};
use slackwater_core::{
    chain::{Fees, Taken, TransportFailure, classify, data_fee::DataFeeModel},
    contracts::{
        capped_calls,
        eip3009::IERC3009,
        forwarder, multicall3,
        rollup::{self, GasPriceOracle, L1Block},
    },
};

use crate::{
    blocks::Refusal,
    chain::{self, BLOCK_GAS, Block, Content, FORWARDER, GOOD, MULTICALL, PROPOSER, State, Surroundings},
    hostile::Lie,
    payments::{self, TOKEN, TOKEN_CODE},
    plan::DOMAIN,
    world::{EPOCH_MS, Event, World, short},
};

pub(crate) type Shared = Arc<Mutex<World>>;

pub(crate) fn lock(world: &Shared) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Error texts of real nodes by class: the corpus that the classifier is tested with.
fn texts() -> &'static Vec<(String, i64, String)> {
    static TEXTS: OnceLock<Vec<(String, i64, String)>> = OnceLock::new();
    TEXTS.get_or_init(|| {
        let corpus: Value =
            serde_json::from_str(include_str!("../../core/pure/tests/vectors/rpc_errors.json")).expect("JSON");
        let rows = corpus["rows"].as_array().expect("rows");
        rows.iter()
            .filter_map(|row| {
                Some((row["class"].as_str()?.to_owned(), row["code"].as_i64()?, row["message"].as_str()?.to_owned()))
            })
            .collect()
    })
}

fn forwarder_code() -> &'static Bytes {
    static CODE: OnceLock<Bytes> = OnceLock::new();
    CODE.get_or_init(|| {
        include_str!("../../bindings/contracts/artifacts/ERC2771Forwarder.runtime.hex").trim().parse().expect("hex")
    })
}

/// Transport to one node.
pub(crate) struct Wire {
    pub(crate) world: Shared,
    pub(crate) node: usize,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("node", &self.node).finish_non_exhaustive()
    }
}

/// Fate of one call.
enum Fate {
    Normal,
    Unreachable,
    LostBefore,
    LostAfter,
    Late,
    Twice,
    Error(i64, String),
    Garbage,
    /// The node is gone for good, from this time on.
    Gone(u64),
    Unclear(i64, String),
}

struct Journey {
    there: u64,
    back: u64,
    fate: Fate,
}

#[async_trait]
impl RpcTransport for Wire {
    async fn exchange(&self, body: String) -> Result<RpcReply, TransportFailure> {
        let call: Value = serde_json::from_str(&body).map_err(|_| TransportFailure::Nonsense)?;
        let (id, method, params) =
            (call["id"].clone(), call["method"].as_str().unwrap_or("").to_owned(), &call["params"]);
        let journey = {
            let mut world = lock(&self.world);
            if world.is_crashed { None } else { Some(world.journey(self.node, &method, params)) }
        };
        let Some(journey) = journey else { return dead().await };
        tokio::time::sleep(Duration::from_millis(journey.there)).await;
        let arrive = || {
            let mut world = lock(&self.world);
            if world.is_crashed { None } else { Some(world.arrive(self.node, &method, params, &journey.fate)) }
        };
        let Some(mut answer) = arrive() else { return dead().await };
        if matches!(answer, Answer::Held(..)) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let Some(later) = arrive() else { return dead().await };
            answer = later;
        }
        tokio::time::sleep(Duration::from_millis(journey.back)).await;
        if lock(&self.world).is_crashed {
            return dead().await;
        }
        if method == "eth_sendRawTransaction" {
            let is_refused = match (&journey.fate, &answer) {
                (Fate::Error(code, message), _) => is_clear(*code, message),
                (Fate::Normal | Fate::Twice, Answer::Error(code, message, _)) => is_clear(*code, message),
                (fate, _) => matches!(fate, Fate::Unreachable),
            };
            if is_refused {
                lock(&self.world).note_refusal(&bytes(&params[0]));
            }
        }
        let reply = |value: Value| RpcReply::new(200, value.to_string().into_bytes());
        let error = |code: i64, message: &str| {
            reply(json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } }))
        };
        match journey.fate {
            Fate::Unreachable => Err(TransportFailure::NotConnected),
            Fate::LostBefore | Fate::LostAfter => Err(TransportFailure::Interrupted),
            Fate::Late => std::future::pending().await,
            Fate::Error(code, message) | Fate::Unclear(code, message) => Ok(error(code, &message)),
            Fate::Gone(now) => Ok(match now % 4 {
                0 => RpcReply::new(403, b"Forbidden".to_vec()),
                1 => RpcReply::new(200, b"<html>this service has ended</html>".to_vec()),
                2 => RpcReply::new(404, br#"{"message":"no such project"}"#.to_vec()),
                _ => error(-32_099, "this endpoint was retired; see our blog"),
            }),
            Fate::Garbage => Ok(RpcReply::new(502, b"<html>bad gateway</html>".to_vec())),
            Fate::Normal | Fate::Twice => Ok(match answer {
                Answer::Result(value) => reply(json!({ "jsonrpc": "2.0", "id": id, "result": value })),
                Answer::Held(code, message) => error(code, &message),
                Answer::Error(code, message, data) => reply(
                    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message, "data": data } }),
                ),
            }),
        }
    }
}

/// True if the answer to a broadcast certainly means that the transaction was not accepted.
fn is_clear(code: i64, message: &str) -> bool {
    classify(code, message, None).taken() == Taken::No
}

/// Never completes: the process is dead.
async fn dead<T>() -> T {
    std::future::pending().await
}

enum Answer {
    Result(Value),
    Error(i64, String, Option<String>),
    /// A nonce above the next one, if there is no pool: the node tries it again in a second.
    Held(i64, String),
}

fn quantity(value: u64) -> Value {
    json!(format!("{value:#x}"))
}

fn number(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}

fn wei(value: &Value) -> u128 {
    value.as_str().and_then(|text| u128::from_str_radix(text.strip_prefix("0x")?, 16).ok()).unwrap_or(0)
}

fn address(value: &Value) -> Address {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn bytes(value: &Value) -> Bytes {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

impl World {
    fn text(&mut self, class: &str) -> (i64, String) {
        let fitting: Vec<&(String, i64, String)> = texts().iter().filter(|row| row.0 == class).collect();
        let (_, code, message) = self.rng.pick(&fitting);
        (*code, message.clone())
    }

    fn journey(&mut self, node: usize, method: &str, params: &Value) -> Journey {
        let is_send = method == "eth_sendRawTransaction";
        let faults = self.faults;
        let mut there = self.rng.within(1, 20);
        let mut back = self.rng.within(1, 20);
        if self.rng.permille(faults.slow) {
            self.count("slow");
            let wait = self.rng.within(0, faults.slow_ms);
            if self.rng.permille(500) { there += wait } else { back += wait }
        }
        let now = self.now();
        if self.is_harmful(node) {
            (there, back) = (1, 1);
        }
        let fate = if self.is_gone(node) {
            self.count("gone");
            Fate::Gone(now)
        } else if self.nodes[node].is_down_until > now {
            Fate::Unreachable
        } else if self.rng.permille(faults.lost_before) {
            self.count("lost before delivery");
            Fate::LostBefore
        } else if self.rng.permille(faults.lost_after) {
            self.count("lost after delivery");
            Fate::LostAfter
        } else if self.rng.permille(faults.late) {
            self.count("timeout");
            Fate::Late
        } else if self.rng.permille(faults.twice) {
            self.count("duplicate");
            Fate::Twice
        } else if self.rng.permille(faults.errors) {
            self.count("error");
            let classes = ["RateLimited", "NodeUnavailable", "PoolFull", "Underpriced", "Unknown"];
            let class = *self.rng.pick(if is_send { &classes[..4] } else { &classes[..2] });
            let (code, message) = self.text(class);
            Fate::Error(code, message)
        } else if self.rng.permille(faults.garbage) {
            self.count("garbage");
            Fate::Garbage
        } else if is_send && self.rng.permille(faults.unclear) {
            self.count("unclear answer");
            let class = *self.rng.pick(&["NodeUnavailable", "Timeout"]);
            let has_text = texts().iter().any(|row| row.0 == class);
            let (code, message) = if has_text { self.text(class) } else { (-32_000, "request timed out".to_owned()) };
            Fate::Unclear(code, message)
        } else {
            Fate::Normal
        };
        if is_send {
            self.check_send(&bytes(&params[0]));
        }
        if self.rng.permille(faults.crash_at_call) && is_send {
            // Between the decision to send and the send, or right after.
            let when = self.now() + self.rng.within(0, 30);
            self.at(when, Event::Crash);
        }
        Journey { there, back, fate }
    }

    fn arrive(&mut self, node: usize, method: &str, params: &Value, fate: &Fate) -> Answer {
        let nothing = Answer::Result(Value::Null);
        match fate {
            Fate::Unreachable | Fate::LostBefore | Fate::Garbage | Fate::Gone(_) | Fate::Error(..) => nothing,
            Fate::Late => {
                if method == "eth_sendRawTransaction" && self.rng.permille(500) {
                    let at = self.now() + self.rng.within(100, 8_000);
                    self.at(at, Event::Late { node, raw: bytes(&params[0]) });
                }
                nothing
            }
            Fate::Twice => {
                let first = self.answer(node, method, params);
                let _ = self.answer(node, method, params);
                first
            }
            Fate::Normal | Fate::LostAfter | Fate::Unclear(..) => {
                let answer = self.answer(node, method, params);
                if self.is_harmful(node) && self.plan.hostility.lie != Lie::None {
                    self.lie_in_one_thing(node, method, params, answer)
                } else if self.nodes[node].is_liar && self.rng.permille(self.faults.lies) {
                    self.lie(node, method, params, answer)
                } else {
                    answer
                }
            }
        }
    }

    fn block(&self, node: usize, tag: &Value) -> Option<Arc<Block>> {
        let tip = &self.nodes[node].tip;
        match tag.as_str()? {
            "latest" | "pending" => Some(tip.clone()),
            "finalized" | "safe" => self.finalized(node),
            _ => tip.at(number(tag)?).cloned(),
        }
    }

    fn finalized(&self, node: usize) -> Option<Arc<Block>> {
        let place = &self.nodes[node];
        let last = place.tip.number.saturating_sub(self.plan.finality).max(1_000).min(self.final_number());
        let last = (last - last % self.plan.hostility.finality_step.max(1)).max(1_000);
        if place.has_tag { place.tip.at(last).cloned() } else { None }
    }

    fn answer(&mut self, node: usize, method: &str, params: &Value) -> Answer {
        let missing = || Answer::Error(-32_000, "header not found".to_owned(), None);
        match method {
            "eth_chainId" => Answer::Result(quantity(self.spec.chain_id)),
            "eth_blockNumber" => Answer::Result(quantity(self.nodes[node].tip.number)),
            "eth_getBlockByNumber" => {
                let block = self.block(node, &params[0]);
                Answer::Result(block.map_or(Value::Null, |block| header(&block, params[1] == json!(true))))
            }
            "eth_feeHistory" => Answer::Result(self.fee_history(node, number(&params[0]).unwrap_or(1))),
            "eth_getTransactionCount" | "eth_getBalance" | "eth_call" => {
                let Some(block) = self.block(node, &params[1]) else { return missing() };
                let kept = self.plan.hostility.state_blocks;
                if kept > 0 && block.number + kept < self.nodes[node].tip.number {
                    self.count("state pruned");
                    return Answer::Error(-32_000, "missing trie node (path )".to_owned(), None);
                }
                match method {
                    "eth_getTransactionCount" => Answer::Result(quantity(block.state.nonce(address(&params[0])))),
                    "eth_getBalance" => Answer::Result(json!(block.state.balance(address(&params[0])))),
                    _ => self.call(node, &params[0], &block),
                }
            }
            "eth_getCode" => Answer::Result(match address(&params[0]) {
                FORWARDER => json!(forwarder_code()),
                MULTICALL => json!(Bytes::from_static(multicall3::runtime_code())),
                TOKEN if self.plan.payments > 0 => json!(Bytes::from_static(TOKEN_CODE)),
                capped_calls::ADDRESS if self.plan.has_capped_calls => {
                    json!(Bytes::from_static(capped_calls::runtime_code()))
                }
                _ => json!("0x"),
            }),
            "eth_simulateV1" if self.nodes[node].has_simulate => {
                let asked = self.plan.is_paired.then(|| self.block(node, &params[1]));
                let Some(block) = asked.unwrap_or_else(|| Some(self.nodes[node].tip.clone())) else { return missing() };
                self.simulate(node, &params[0], &block)
            }
            "eth_getTransactionReceipt" => {
                let hash: B256 = params[0].as_str().and_then(|text| text.parse().ok()).unwrap_or_default();
                if self.elapsed() < self.plan.hostility.receipts_after_ms {
                    self.count("receipt not told");
                    return Answer::Result(Value::Null);
                }
                if self.rng.permille(self.faults.missing_receipts) {
                    self.count("receipt not told");
                    return Answer::Result(Value::Null);
                }
                let tip = &self.nodes[node].tip;
                Answer::Result(tip.find(hash).map_or(Value::Null, |(block, place)| receipt(block, place)))
            }
            "eth_sendRawTransaction" => self.send(node, &bytes(&params[0])),
            "eth_getLogs" if self.plan.payments > 0 => Answer::Result(self.logs(node, &params[0])),
            _ => Answer::Error(-32_601, format!("the method {method} does not exist/is not available"), None),
        }
    }

    fn send(&mut self, node: usize, raw: &Bytes) -> Answer {
        let answer = self.receive(node, raw);
        let shown = short(keccak256(raw));
        let class = match &answer {
            Ok(hash) => {
                self.note(format_args!("node {node} takes {shown}"));
                return Answer::Result(json!(hash));
            }
            Err(Refusal::Malformed) => "BadTransaction",
            Err(Refusal::NonceTooLow) => "NonceTooLow",
            Err(Refusal::Known) => "AlreadyKnown",
            Err(Refusal::Replacement { held }) => {
                self.check_replacement(node, held, raw);
                "ReplacementUnderpriced"
            }
            Err(Refusal::Funds) => "InsufficientFunds",
            Err(Refusal::Gap) => "NonceGap",
            Err(Refusal::BlockGas) => "GasTooHigh",
            Err(Refusal::Tip { least }) => {
                self.count("least tip");
                let message = format!("transaction underpriced: gas tip cap 1, minimum needed {least}");
                self.note(format_args!("node {node} refuses {shown}: {message}"));
                return Answer::Error(-32_000, message, None);
            }
            Err(Refusal::PoolLimit { held }) => {
                self.count("pool limit");
                self.note(format_args!("node {node} refuses {shown}: pooled {held} already"));
                return Answer::Error(-32_000, format!("account limit exceeded: pooled {held} txs"), None);
            }
            Err(Refusal::FeeCap { cost, cap }) => {
                self.count("fee cap");
                self.note(format_args!("node {node} refuses {shown}: costs up to {cost}, cap {cap}"));
                // In geth's format: ether with two decimals.
                let ether = |wei: f64| wei / 1e18;
                let (cost, cap) = (ether(cost.to_string().parse().unwrap_or(0.0)), ether(*cap as f64));
                let message = format!("tx fee ({cost:.2} ether) exceeds the configured cap ({cap:.2} ether)");
                return Answer::Error(-32_000, message, None);
            }
        };
        let (code, message) = self.text(class);
        self.note(format_args!("node {node} refuses {shown}: {class}"));
        if class == "NonceGap" && self.plan.hostility.has_no_pool {
            self.count("nonce held");
            return Answer::Held(code, message);
        }
        Answer::Error(code, message, None)
    }

    fn logs(&self, node: usize, filter: &Value) -> Value {
        let block = |key: &str| number(&filter[key]).unwrap_or(u64::MAX);
        let topics = filter["topics"].as_array().map_or(&[][..], Vec::as_slice);
        let topics: Vec<B256> = topics.iter().filter_map(|topic| topic.as_str()?.parse().ok()).collect();
        let tip = &self.nodes[node].tip;
        payments::logs(tip, block("fromBlock")..=block("toBlock"), address(&filter["address"]), &topics)
    }

    fn fee_history(&self, node: usize, count: u64) -> Value {
        let tip = &self.nodes[node].tip;
        let mut blocks: Vec<&Arc<Block>> = tip.back().take(usize::try_from(count).unwrap_or(1)).collect();
        blocks.reverse();
        let mut fees: Vec<String> = blocks.iter().map(|block| format!("{:#x}", block.base_fee)).collect();
        fees.push(format!("{:#x}", tip.next_base_fee(&self.spec)));
        let ratios: Vec<f64> = blocks.iter().map(|block| block.gas_used as f64 / block.gas_limit as f64).collect();
        let reward = |block: &&Arc<Block>| {
            let tip = |share: u128| format!("{:#x}", block.tip * share / 100);
            [tip(50), tip(100), tip(200)]
        };
        let rewards: Vec<[String; 3]> = blocks.iter().map(reward).collect();
        json!({
            "oldestBlock": format!("{:#x}", blocks[0].number),
            "baseFeePerGas": fees, "gasUsedRatio": ratios, "reward": rewards,
        })
    }

    fn call(&self, node: usize, call: &Value, block: &Block) -> Answer {
        let (to, input) = (address(&call["to"]), bytes(&call["input"]));
        if call.get("from").is_some() {
            let content = self.content(node, to, address(&call["from"]), &input);
            let mut state = block.state.clone();
            let limit = number(&call["gas"]).unwrap_or(BLOCK_GAS);
            let around = Surroundings::call(block.number, block.timestamp_s + 1);
            let (is_success, ..) = chain::run(&content, limit, &mut state, &around);
            return if is_success { Answer::Result(json!("0x")) } else { reverted() };
        }
        match self.view(node, to, &input, block) {
            Some(output) => Answer::Result(json!(output)),
            None => reverted(),
        }
    }

    /// Decoded content of a call; a node that praises everything treats its targets as good ones.
    fn content(&self, node: usize, to: Address, from: Address, input: &Bytes) -> Content {
        let mut content = chain::content(to, from, input, &self.signatures);
        if self.is_harmful(node) && self.plan.hostility.lie == Lie::Praises {
            match &mut content {
                Content::Batch(items) => items.iter_mut().for_each(|item| item.to = GOOD),
                Content::Multicall(calls) => calls.iter_mut().for_each(|call| call.0 = GOOD),
                Content::Call(to, _) => *to = GOOD,
                Content::Payments(payments) => payments.praise(),
                Content::Nothing => {}
            }
        }
        content
    }

    /// L1 prices, by this node.
    fn l1_answer(&self, node: usize, to: Address, input: &Bytes, block: &Block) -> Option<Bytes> {
        let DataFeeModel::OpStack(_, mut params) = self.data_fee_at(block.number) else { return None };
        if self.is_harmful(node) && self.plan.hostility.lie == Lie::DataFee {
            params.l1_base_fee *= U256::from(100_000_000);
        }
        let selector: [u8; 4] = input.get(..4)?.try_into().ok()?;
        let value = match (to, selector) {
            (rollup::L1_BLOCK, L1Block::basefeeCall::SELECTOR) => params.l1_base_fee,
            (rollup::L1_BLOCK, L1Block::baseFeeScalarCall::SELECTOR) => U256::from(params.base_fee_scalar),
            (rollup::L1_BLOCK, L1Block::blobBaseFeeCall::SELECTOR) => params.blob_base_fee,
            (rollup::L1_BLOCK, L1Block::blobBaseFeeScalarCall::SELECTOR) => U256::from(params.blob_base_fee_scalar),
            (rollup::GAS_PRICE_ORACLE, GasPriceOracle::l1BaseFeeCall::SELECTOR) => params.l1_base_fee,
            (
                rollup::GAS_PRICE_ORACLE,
                GasPriceOracle::isEcotoneCall::SELECTOR | GasPriceOracle::isFjordCall::SELECTOR,
            ) => U256::from(1),
            _ => return None,
        };
        Some(value.abi_encode().into())
    }

    fn view(&self, node: usize, to: Address, input: &Bytes, block: &Block) -> Option<Bytes> {
        let (state, timestamp_s) = (&block.state, block.timestamp_s);
        if to == FORWARDER {
            if forwarder::eip712DomainCall::abi_decode(input).is_ok() {
                let domain = forwarder::eip712DomainReturn {
                    fields: [0x0f].into(),
                    name: DOMAIN.to_owned(),
                    version: "1".to_owned(),
                    chainId: U256::from(self.spec.chain_id),
                    verifyingContract: FORWARDER,
                    salt: B256::ZERO,
                    extensions: Vec::new(),
                };
                return Some(forwarder::eip712DomainCall::abi_encode_returns(&domain).into());
            }
            if let Ok(call) = forwarder::noncesCall::abi_decode(input) {
                return Some(U256::from(state.user(call.owner)).abi_encode().into());
            }
            let request = forwarder::verifyCall::abi_decode(input).ok()?.request;
            let signed = self.signatures.get(&request.signature);
            let is_valid = signed.is_some_and(|(user, nonce)| *user == request.from && *nonce == state.user(*user))
                && request.deadline.to::<u64>() >= timestamp_s;
            return Some(U256::from(u8::from(is_valid)).abi_encode().into());
        }
        if to == MULTICALL {
            let call = multicall3::aggregate3Call::abi_decode(input).ok()?;
            let results: Vec<multicall3::Result> = call
                .calls
                .iter()
                .map(|call| {
                    let output = self.view(node, call.target, &call.callData, block);
                    multicall3::Result { success: output.is_some(), returnData: output.unwrap_or_default() }
                })
                .collect();
            return Some(multicall3::aggregate3Call::abi_encode_returns(&results).into());
        }
        if to == TOKEN && self.plan.payments > 0 {
            return payments::view(input, state, self.spec.chain_id, self.plan.token_tells_domain);
        }
        self.l1_answer(node, to, input, block)
    }

    fn simulate(&self, node: usize, request: &Value, block: &Block) -> Answer {
        let mut state = block.state.clone();
        let wanted = request["blockStateCalls"].as_array().map_or(&[][..], Vec::as_slice);
        let mut blocks = Vec::with_capacity(wanted.len());
        for (place, wanted) in (1..).zip(wanted) {
            self.override_state(&mut state, wanted);
            let given = &wanted["blockOverrides"];
            let (base_fee, coinbase) = (wei(&given["baseFeePerGas"]), address(&given["feeRecipient"]));
            let run = |call: &Value, state: &mut State| {
                let (to, from) = (address(&call["to"]), address(&call["from"]));
                let content = self.content(node, to, from, &bytes(&call["input"]));
                let limit = number(&call["gas"]).unwrap_or(BLOCK_GAS);
                let tip = wei(&call["maxPriorityFeePerGas"]);
                let around = Surroundings {
                    number: number(&given["number"]).unwrap_or(block.number + place),
                    timestamp_s: number(&given["time"]).unwrap_or(block.timestamp_s + place),
                    base_fee,
                    gas_price: wei(&call["maxFeePerGas"]).min(base_fee + tip),
                    coinbase,
                    is_real: false,
                };
                let (is_success, gas, logs, _) = chain::run(&content, limit, state, &around);
                let logs: Vec<Value> = logs
                    .iter()
                    .map(|log| json!({ "address": log.address, "topics": log.data.topics(), "data": log.data.data }))
                    .collect();
                json!({
                    "status": if is_success { "0x1" } else { "0x0" }, "gasUsed": format!("{gas:#x}"),
                    "returnData": "0x", "logs": logs,
                })
            };
            let calls = wanted["calls"].as_array().map_or(&[][..], Vec::as_slice);
            let calls: Vec<Value> = calls.iter().map(|call| run(call, &mut state)).collect();
            blocks.push(json!({ "calls": calls }));
        }
        Answer::Result(json!(blocks))
    }

    fn override_state(&self, state: &mut State, wanted: &Value) {
        let Some(slots) = wanted["stateOverrides"][FORWARDER.to_string()]["stateDiff"].as_object() else { return };
        let users = self.plan.users.iter().chain(&self.plan.hostile_users);
        for user in users.map(slackwater::LocalSigner::address) {
            let slot = keccak256((user, U256::from(2)).abi_encode()).to_string();
            if let Some(value) = slots.get(&slot).and_then(Value::as_str).and_then(|text| text.parse::<U256>().ok()) {
                state.users.insert(user, value.saturating_to());
            }
        }
    }

    /// Answer of a node that lies in one thing.
    fn lie_in_one_thing(&mut self, node: usize, method: &str, params: &Value, truth: Answer) -> Answer {
        let is_simulation = method == "eth_simulateV1" || (method == "eth_call" && params[0].get("from").is_some());
        let is_lie = match self.plan.hostility.lie {
            Lie::Refuses => is_simulation,
            Lie::Time => method == "eth_getBlockByNumber",
            Lie::Tip => method == "eth_feeHistory",
            Lie::Head => {
                method == "eth_blockNumber" || (method == "eth_getBlockByNumber" && params[0] == json!("latest"))
            }
            Lie::BlockAbove | Lie::BlockBelow => method == "eth_getTransactionReceipt",
            Lie::Branch => method == "eth_blockNumber" || method == "eth_getBlockByNumber",
            Lie::NoReceipts => {
                method == "eth_getTransactionReceipt"
                    || (method == "eth_getTransactionCount"
                        && params[1] != json!("latest")
                        && params[1] != json!("pending"))
            }
            // Told elsewhere, in the answer itself.
            Lie::Praises | Lie::DataFee | Lie::None => false,
        };
        let Answer::Result(mut value) = truth else { return truth };
        if matches!(self.plan.hostility.lie, Lie::Praises | Lie::DataFee) && method == "eth_call" {
            self.count("lie in one thing");
        }
        if !is_lie || value.is_null() {
            return Answer::Result(value);
        }
        self.count("lie in one thing");
        match self.plan.hostility.lie {
            Lie::Refuses => return reverted(),
            Lie::BlockAbove => value["blockNumber"] = quantity(1 << 40),
            Lie::BlockBelow => value["blockNumber"] = quantity(1_001),
            Lie::NoReceipts if method == "eth_getTransactionReceipt" => value = Value::Null,
            Lie::NoReceipts => value = quantity(0),
            Lie::Branch if method == "eth_blockNumber" => value = quantity(number(&value).unwrap_or(0) + 1),
            Lie::Branch => {
                let mut block = number(&value["number"]).unwrap_or(0);
                if params[0] == json!("latest") {
                    block += 1;
                    value["number"] = quantity(block);
                    value["baseFeePerGas"] = json!(format!("{:#x}", wei(&value["baseFeePerGas"]) * 1_000));
                }
                let hash = |number: u64| json!(keccak256([b"branch".as_slice(), &number.to_be_bytes()].concat()));
                (value["hash"], value["parentHash"]) = (hash(block), hash(block - 1));
            }
            Lie::Time => value["timestamp"] = quantity(number(&value["timestamp"]).unwrap_or(0) + 3_600),
            Lie::Tip => {
                let tips = value["reward"].as_array_mut().into_iter().flatten();
                for tip in tips.filter_map(Value::as_array_mut).flatten() {
                    *tip = json!(format!("{:#x}", wei(tip) * 1_000));
                }
            }
            _ => {
                let ahead = self.nodes[node].tip.number + 1_000;
                if method == "eth_blockNumber" {
                    return Answer::Result(quantity(ahead));
                }
                value["number"] = quantity(ahead);
                value["hash"] = json!(keccak256(ahead.to_be_bytes()));
            }
        }
        Answer::Result(value)
    }

    /// A lying node's answer instead of the true one.
    fn lie(&mut self, node: usize, method: &str, params: &Value, truth: Answer) -> Answer {
        self.count("lie");
        let Answer::Result(mut value) = truth else { return truth };
        match method {
            "eth_getTransactionReceipt" => {
                let tip = self.nodes[node].tip.clone();
                if value.is_null() {
                    // Claims that it is in a block, and well executed.
                    let events = self.made_up(params);
                    value = json!({
                        "transactionHash": params[0], "blockNumber": quantity(tip.number.saturating_sub(self.rng.below(10))), "blockHash": tip.hash,
                        "status": "0x1", "gasUsed": "0x5208", "effectiveGasPrice": "0x1", "logs": events,
                    });
                } else if self.rng.permille(500) {
                    value = Value::Null;
                } else {
                    value["logs"] = json!([]);
                    value["status"] = json!(if self.rng.permille(500) { "0x0" } else { "0x1" });
                }
            }
            "eth_getTransactionCount" => {
                let told = number(&value).unwrap_or(0);
                let more = self.rng.within(1, 4);
                value = quantity(if self.rng.permille(500) { told + more } else { told.saturating_sub(more) });
            }
            "eth_blockNumber" => value = quantity(number(&value).unwrap_or(0) + 20),
            "eth_getBlockByNumber" if params[0] == json!("finalized") => {
                value = header(&self.nodes[node].tip.clone(), false);
            }
            "eth_getBlockByNumber" if params[0] == json!("latest") && !value.is_null() => {
                let fee =
                    u128::from_str_radix(value["baseFeePerGas"].as_str().unwrap_or("0x0").trim_start_matches("0x"), 16);
                match self.rng.below(3) {
                    0 => value["baseFeePerGas"] = json!(format!("{:#x}", fee.unwrap_or(0).saturating_mul(50))),
                    1 => value["gasUsed"] = json!(format!("{BLOCK_GAS:#x}")),
                    _ => {
                        // Claims a chain that is far ahead.
                        let ahead = number(&value["number"]).unwrap_or(0) + 20;
                        value["number"] = quantity(ahead);
                        value["hash"] = json!(keccak256(ahead.to_be_bytes()));
                    }
                }
            }
            "eth_getBalance" => value = json!("0x0"),
            "eth_feeHistory" => value["baseFeePerGas"] = json!(["0x1", "0x1"]),
            "eth_call" => {
                // Claims forwarder nonces that were never used.
                let mut data = bytes(&value).to_vec();
                let to = address(&params[0]["to"]);
                let is_domain = forwarder::eip712DomainCall::abi_decode(&bytes(&params[0]["input"])).is_ok();
                if (to == FORWARDER || to == MULTICALL) && !is_domain && !data.is_empty() {
                    let last = data.len() - 1;
                    data[last] = data[last].wrapping_add(1 + (self.rng.below(3) as u8));
                    value = json!(Bytes::from(data));
                } else if to == TOKEN
                    && IERC3009::authorizationStateCall::abi_decode(&bytes(&params[0]["input"])).is_ok()
                    && let Some(last) = data.last_mut()
                {
                    *last = 1 - *last;
                    value = json!(Bytes::from(data));
                }
            }
            "eth_getLogs" => {
                // Claims that nobody used a nonce, or names a transaction that nobody knows.
                let hash = keccak256(params[0].to_string());
                value = if self.rng.permille(500) { json!([]) } else { json!([{ "transactionHash": hash }]) };
            }
            _ => {}
        }
        Answer::Result(value)
    }

    fn made_up(&self, params: &Value) -> Vec<Value> {
        let hash: B256 = params[0].as_str().and_then(|text| text.parse().ok()).unwrap_or_default();
        let Some(tx) = self.known.get(&hash) else { return Vec::new() };
        let mut state = self.head.state.clone();
        let around =
            Surroundings::real(self.head.number + 1, self.now() / 1_000, self.head.base_fee, self.head.base_fee);
        let (_, _, logs, _) = chain::run(&tx.content, tx.gas_limit, &mut state, &around);
        logs.iter()
            .map(|log| json!({ "address": log.address, "topics": log.data.topics(), "data": log.data.data }))
            .collect()
    }

    /// Fees of the transaction in raw bytes; `None` if it is unknown.
    pub(crate) fn fees_of(&self, raw: &Bytes) -> Option<Fees> {
        self.known.get(&keccak256(raw)).map(|tx| tx.fees)
    }

    pub(crate) fn elapsed(&self) -> u64 {
        self.now() - EPOCH_MS
    }
}

fn reverted() -> Answer {
    Answer::Error(3, "execution reverted".to_owned(), Some("0x".to_owned()))
}

fn header(block: &Block, is_full: bool) -> Value {
    let parent = block.parent.as_ref().map_or(B256::ZERO, |parent| parent.hash);
    let mut value = json!({
        "number": quantity(block.number), "hash": block.hash, "parentHash": parent, "timestamp": quantity(block.timestamp_s),
        "gasUsed": quantity(block.gas_used), "gasLimit": quantity(block.gas_limit),
        "baseFeePerGas": format!("{:#x}", block.base_fee), "extraData": "0x", "miner": PROPOSER,
    });
    if is_full {
        let of = |(tx, _): &(Arc<chain::Tx>, chain::Receipt)| json!({ "hash": tx.hash, "from": tx.sender, "nonce": quantity(tx.nonce), "to": tx.to, "value": "0x0" });
        value["transactions"] = block.txs.iter().map(of).collect();
    }
    value
}

fn receipt(block: &Block, place: usize) -> Value {
    let (tx, receipt) = &block.txs[place];
    let logs: Vec<Value> = receipt
        .logs
        .iter()
        .map(|log| json!({ "address": log.address, "topics": log.data.topics(), "data": log.data.data }))
        .collect();
    let mut value = json!({
        "transactionHash": tx.hash, "blockNumber": quantity(block.number), "blockHash": block.hash,
        "status": if receipt.is_success { "0x1" } else { "0x0" }, "gasUsed": quantity(receipt.gas_used),
        "effectiveGasPrice": format!("{:#x}", receipt.price), "logs": logs,
    });
    if !receipt.data_fee.is_zero() {
        value["l1Fee"] = json!(receipt.data_fee);
    }
    value
}
