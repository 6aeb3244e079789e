//! A scripted chain behind JSON-RPC, with a forwarder on it.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_sol_types::{SolCall, SolEvent, SolValue};
use serde_json::{Value, json};
use slackwater_client::local::CallAnswer;
use slackwater_core::{
    chain::{ClientRule, Fees},
    contracts::forwarder::{self, ExecutedForwardRequest, executeBatchCall, noncesCall, verifyCall},
};

pub(crate) const GWEI: u128 = 1_000_000_000;
/// The relay's `max_fee_ceiling_wei_per_gas`.
const HIGHEST_OFFER: u128 = 1_000 * GWEI;
pub(crate) const FORWARDER: Address = Address::repeat_byte(0xf0);
/// A target that works.
pub(crate) const TARGET: Address = Address::repeat_byte(0x11);
/// A target that always fails.
pub(crate) const BROKEN: Address = Address::repeat_byte(0xbb);
/// A target that fails if its transaction has a price.
pub(crate) const PRICED: Address = Address::repeat_byte(0xcc);
/// A target that takes all gas of its transaction, and not in simulations.
pub(crate) const HIDDEN: Address = Address::repeat_byte(0xdd);
/// A target that fails from some block on.
pub(crate) const FICKLE: Address = Address::repeat_byte(0xee);
/// Confirmation depth at which a block is final.
pub(crate) const FINALITY: u64 = 4;
pub(crate) const CHAIN_ID: u64 = 31_337;
pub(crate) const BLOCK_S: u64 = 2;

/// A decoded EIP-1559 transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tx {
    pub(crate) hash: B256,
    pub(crate) raw: Bytes,
    pub(crate) nonce: u64,
    pub(crate) fees: Fees,
    pub(crate) gas: u64,
    pub(crate) to: Address,
    pub(crate) value: U256,
    pub(crate) data: Bytes,
    pub(crate) is_foreign: bool,
    /// User whose forwarder nonce it uses, from an account of its own; `None` for a transaction of the key.
    pub(crate) spends: Option<Address>,
}

/// One RLP item: its payload, and the bytes after it.
fn item(bytes: &[u8]) -> (&[u8], &[u8]) {
    let long = |base: u8| {
        let digits = usize::from(bytes[0] - base);
        let length = bytes[1..=digits].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        (1 + digits, length)
    };
    let (head, length) = match bytes[0] {
        0..0x80 => (0, 1),
        0x80..=0xb7 => (1, usize::from(bytes[0] - 0x80)),
        0xb8..=0xbf => long(0xb7),
        0xc0..=0xf7 => (1, usize::from(bytes[0] - 0xc0)),
        0xf8..=0xff => long(0xf7),
    };
    (&bytes[head..head + length], &bytes[head + length..])
}

impl Tx {
    pub(crate) fn decode(raw: &Bytes) -> Self {
        assert_eq!(raw[0], 2);
        let (mut rest, after) = item(&raw[1..]);
        assert!(after.is_empty());
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let (field, next) = item(rest);
            fields.push(field);
            rest = next;
        }
        assert_eq!(fields.len(), 12);
        let number = |place: usize| U256::from_be_slice(fields[place]);
        assert_eq!(number(0), U256::from(CHAIN_ID));
        let fees = Fees { max_priority_fee_per_gas: number(2).to(), max_fee_per_gas: number(3).to() };
        Self {
            hash: keccak256(raw),
            raw: raw.clone(),
            nonce: number(1).to(),
            fees,
            gas: number(4).to(),
            to: Address::from_slice(fields[5]),
            value: number(6),
            data: Bytes::copy_from_slice(fields[7]),
            is_foreign: false,
            spends: None,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) hash: B256,
    pub(crate) timestamp: u64,
    pub(crate) base_fee: u128,
    pub(crate) txs: Vec<Tx>,
    /// State after it.
    pub(crate) state: State,
    /// Success and logs of each of its transactions.
    results: Vec<(bool, Vec<Value>)>,
}

/// What a contract sees of its surroundings.
#[derive(Debug, Clone, Copy)]
struct Around {
    timestamp: u64,
    price: u128,
    is_simulated: bool,
    /// True if [`FICKLE`] fails.
    has_turned: bool,
}

impl Block {
    /// Half of the limit; all of it if the transaction failed.
    fn gas_used(&self, place: usize) -> u64 {
        let gas = self.txs[place].gas;
        if self.results[place].0 { gas / 2 } else { gas }
    }
}

/// Executions on the chain, up to some block.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) account: u64,
    pub(crate) users: BTreeMap<Address, u64>,
    /// By signature of the forward, or data of the call: success of each execution.
    pub(crate) ran: BTreeMap<Bytes, Vec<bool>>,
}

impl State {
    fn run(&mut self, tx: &Tx, around: Around) -> (bool, Vec<Value>) {
        if let Some(user) = tx.spends {
            *self.users.entry(user).or_default() += 1;
            return (true, Vec::new());
        }
        self.account += 1;
        let fails = |to: Address| match to {
            PRICED => around.price > 0,
            HIDDEN => !around.is_simulated,
            FICKLE => around.has_turned,
            _ => to == BROKEN,
        };
        if tx.is_foreign || tx.to != FORWARDER {
            let is_success = !fails(tx.to);
            if !tx.is_foreign && !tx.data.is_empty() {
                self.ran.entry(tx.data.clone()).or_default().push(is_success);
            }
            return (is_success, Vec::new());
        }
        let batch = executeBatchCall::abi_decode(&tx.data).expect("a batch");
        assert_ne!(batch.refundReceiver, Address::ZERO, "never atomic");
        let (before, mut logs) = (self.clone(), Vec::new());
        for request in batch.requests {
            let next = self.users.entry(request.from).or_default();
            // The last byte of a test's data is the signed nonce.
            let signed = u64::from(*request.data.last().expect("data"));
            if signed != *next || request.deadline.to::<u64>() < around.timestamp {
                continue;
            }
            if request.to == HIDDEN && !around.is_simulated {
                *self = before;
                return (false, Vec::new());
            }
            let nonce = *next;
            *next += 1;
            let success = !fails(request.to);
            self.ran.entry(request.signature.clone()).or_default().push(success);
            let event = ExecutedForwardRequest { signer: request.from, nonce: U256::from(nonce), success };
            let data = event.encode_log_data();
            logs.push(json!({ "address": FORWARDER, "topics": data.topics(), "data": data.data }));
        }
        (true, logs)
    }
}

/// What a node and the blocks refuse.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) block_gas: u64,
    /// Highest cost of a transaction, wei.
    pub(crate) fee_cap: u128,
    pub(crate) least_tip: u128,
}

impl Limits {
    pub(crate) const NONE: Self = Self { block_gas: 30_000_000, fee_cap: u128::MAX, least_tip: 1 };
}

pub(crate) struct Chain {
    pub(crate) sender: Address,
    pub(crate) blocks: Vec<Block>,
    pub(crate) pool: BTreeMap<u64, Tx>,
    pub(crate) base_fee: u128,
    pub(crate) balance: U256,
    pub(crate) has_simulate: bool,
    pub(crate) code: Bytes,
    /// Number of blocks that become final together.
    pub(crate) epoch: u64,
    salt: u64,
    pub(crate) refused_replacements: u64,
    /// Every transaction that the node took, by nonce: any of them may be mined.
    pub(crate) taken: BTreeMap<u64, Vec<Tx>>,
    pub(crate) rule: ClientRule,
    pub(crate) limits: Limits,
    /// Block after which [`FICKLE`] fails.
    pub(crate) turns_at: u64,
}

/// The forwarder's runtime code, extracted from its creation code.
pub(crate) fn runtime_code() -> Bytes {
    let code = forwarder::creation_code();
    let start = (0..code.len()).find(|start| forwarder::forwarder_version(&code[*start..]).is_some());
    Bytes::copy_from_slice(&code[start.expect("the runtime code is in there")..])
}

fn error(code: i64, message: &str) -> CallAnswer {
    CallAnswer::Error { code, message: message.to_owned() }
}

impl Chain {
    pub(crate) fn new(sender: Address, code: Bytes) -> Self {
        let mut chain = Self {
            sender,
            blocks: Vec::new(),
            pool: BTreeMap::new(),
            base_fee: 10 * GWEI,
            balance: U256::from(10u64).pow(U256::from(20)),
            has_simulate: true,
            code,
            epoch: 1,
            salt: 0,
            refused_replacements: 0,
            taken: BTreeMap::new(),
            rule: ClientRule::Geth,
            limits: Limits::NONE,
            turns_at: u64::MAX,
        };
        (0..=FINALITY).for_each(|_| chain.push(Vec::new(), 1_000_000));
        chain
    }

    pub(crate) fn height(&self) -> u64 {
        self.blocks.len() as u64 - 1
    }

    /// The newest final block.
    pub(crate) fn final_height(&self) -> u64 {
        let height = self.height().saturating_sub(FINALITY);
        height - height % self.epoch
    }

    fn push(&mut self, txs: Vec<Tx>, now_s: u64) {
        self.salt += 1;
        let hash = keccak256([self.salt.to_be_bytes(), (self.blocks.len() as u64).to_be_bytes()].concat());
        let after = self.blocks.last().map_or(0, |block| block.timestamp + 1);
        let (timestamp, base_fee) = (now_s.max(after), self.base_fee);
        let mut state = self.blocks.last().map(|block| block.state.clone()).unwrap_or_default();
        let has_turned = self.has_turned();
        let around = |tx: &Tx| {
            let price = tx.fees.effective_gas_price(base_fee);
            Around { timestamp, price, is_simulated: false, has_turned }
        };
        let results = txs.iter().map(|tx| state.run(tx, around(tx))).collect();
        self.blocks.push(Block { hash, timestamp, base_fee, txs, state, results });
    }

    fn has_turned(&self) -> bool {
        self.blocks.len() as u64 > self.turns_at
    }

    pub(crate) fn state_at(&self, height: u64) -> &State {
        &self.blocks[usize::try_from(height).unwrap()].state
    }

    pub(crate) fn state(&self) -> &State {
        self.state_at(self.height())
    }

    /// Every transaction up to `height`, with its price per gas and the gas that it used.
    pub(crate) fn paid_until(&self, height: u64) -> impl Iterator<Item = (&Tx, u128, u64)> {
        let blocks = self.blocks.iter().take(usize::try_from(height).unwrap() + 1);
        blocks.flat_map(|block| {
            block
                .txs
                .iter()
                .enumerate()
                .map(|(place, tx)| (tx, tx.fees.effective_gas_price(block.base_fee), block.gas_used(place)))
        })
    }

    pub(crate) fn mine(&mut self, now_s: u64, is_empty: bool) {
        self.mine_behind(Vec::new(), now_s, is_empty);
    }

    fn mine_behind(&mut self, mut txs: Vec<Tx>, now_s: u64, is_empty: bool) {
        let mut nonce = self.state().account;
        let is_paid = |tx: &&Tx| tx.fees.is_includable(self.base_fee);
        while !is_empty && let Some(tx) = self.pool.get(&nonce).filter(is_paid) {
            txs.push(tx.clone());
            nonce += 1;
        }
        self.pool.retain(|pooled, _| *pooled >= nonce);
        self.push(txs, now_s);
    }

    /// A user's forwarder nonce is used in front of everything else in the next block.
    pub(crate) fn spend(&mut self, user: Address, now_s: u64) {
        let spending = Tx { spends: Some(user), ..self.foreign(0) };
        self.mine_behind(vec![spending], now_s, false);
    }

    fn foreign(&mut self, nonce: u64) -> Tx {
        self.salt += 1;
        Tx {
            hash: keccak256(self.salt.to_le_bytes()),
            raw: Bytes::new(),
            nonce,
            fees: Fees::default(),
            gas: 21_000,
            to: Address::ZERO,
            value: U256::ZERO,
            data: Bytes::new(),
            is_foreign: true,
            spends: None,
        }
    }

    /// Replaces the newest blocks by empty ones; their transactions return to the pool, or are lost.
    pub(crate) fn reorg(&mut self, depth: u64, keeps: bool, now_s: u64) {
        let orphaned = self.blocks.split_off(self.blocks.len() - usize::try_from(depth).unwrap());
        for tx in orphaned.into_iter().flat_map(|block| block.txs).filter(|tx| keeps && !tx.is_foreign) {
            self.pool.entry(tx.nonce).or_insert(tx);
        }
        (0..depth).for_each(|_| self.push(Vec::new(), now_s));
        self.push(Vec::new(), now_s);
    }

    /// Somebody else uses the key.
    pub(crate) fn stranger(&mut self, now_s: u64) {
        let nonce = self.state().account;
        let tx = self.foreign(nonce);
        self.pool.remove(&nonce);
        self.push(vec![tx], now_s);
    }

    fn send(&mut self, raw: &Bytes) -> CallAnswer {
        let tx = Tx::decode(raw);
        let account = self.state().account;
        if tx.nonce < account {
            return error(-32_000, "nonce too low");
        }
        if self.pool.get(&tx.nonce).is_some_and(|held| held.hash == tx.hash) {
            return error(-32_000, "already known");
        }
        let limits = self.limits;
        let cost = u128::from(tx.gas).saturating_mul(tx.fees.max_fee_per_gas);
        if tx.gas > limits.block_gas {
            return error(-32_000, "exceeds block gas limit");
        }
        if cost > limits.fee_cap {
            let [cost, cap] = [cost, limits.fee_cap].map(|wei| wei as f64 / 1e18);
            return error(-32_000, &format!("tx fee ({cost:.2} ether) exceeds the configured cap ({cap:.2} ether)"));
        }
        let (tip, least) = (tx.fees.max_priority_fee_per_gas, limits.least_tip);
        if tip < least {
            let message = format!("transaction underpriced: gas tip cap {tip}, minimum needed {least}");
            return error(-32_000, &message);
        }
        let worst = |tx: &Tx| U256::from(tx.gas) * U256::from(tx.fees.max_fee_per_gas) + tx.value;
        let others = self.pool.values().filter(|held| held.nonce != tx.nonce).map(worst).sum::<U256>();
        if others + worst(&tx) > self.balance {
            return error(-32_000, "insufficient funds for gas * price + value");
        }
        if let Some(held) = self.pool.get(&tx.nonce) {
            let fits = self.rule.accepts(held.fees, tx.fees, self.base_fee);
            if !fits {
                // At the highest offer a nonce can only be freed by luck: a node may have forgotten what it held.
                self.refused_replacements += u64::from(tx.fees.max_fee_per_gas < HIGHEST_OFFER);
                return error(-32_000, "replacement transaction underpriced");
            }
        }
        let hash = tx.hash;
        self.taken.entry(tx.nonce).or_default().push(tx.clone());
        self.pool.insert(tx.nonce, tx);
        CallAnswer::Result(json!(hash).to_string())
    }

    fn height_of(&self, block: &Value) -> Option<u64> {
        match block.as_str()? {
            "latest" => Some(self.height()),
            "finalized" => Some(self.final_height()),
            hex => u64::from_str_radix(hex.strip_prefix("0x")?, 16).ok().filter(|number| *number <= self.height()),
        }
    }

    fn block(&self, number: u64, is_full: bool) -> Value {
        let at = usize::try_from(number).unwrap();
        let block = &self.blocks[at];
        let parent = at.checked_sub(1).map_or(B256::ZERO, |at| self.blocks[at].hash);
        let from = |tx: &Tx| tx.spends.unwrap_or(self.sender);
        let full = |tx: &Tx| json!({ "hash": tx.hash, "from": from(tx), "nonce": format!("{:#x}", tx.nonce) });
        let txs: Vec<Value> = block.txs.iter().map(|tx| if is_full { full(tx) } else { json!(tx.hash) }).collect();
        json!({
            "number": format!("{number:#x}"), "hash": block.hash, "parentHash": parent,
            "timestamp": format!("{:#x}", block.timestamp), "baseFeePerGas": format!("{:#x}", block.base_fee),
            "gasUsed": "0x0", "gasLimit": format!("{:#x}", self.limits.block_gas), "transactions": txs,
        })
    }

    fn receipt(&self, hash: B256) -> Value {
        for (number, block) in self.blocks.iter().enumerate() {
            let Some(place) = block.txs.iter().position(|tx| tx.hash == hash && !tx.is_foreign) else { continue };
            let (tx, (is_success, logs)) = (&block.txs[place], &block.results[place]);
            return json!({
                "transactionHash": hash, "blockNumber": format!("{number:#x}"), "blockHash": block.hash,
                "status": if *is_success { "0x1" } else { "0x0" },
                "gasUsed": format!("{:#x}", block.gas_used(place)),
                "effectiveGasPrice": format!("{:#x}", tx.fees.effective_gas_price(block.base_fee)), "logs": logs,
            });
        }
        Value::Null
    }

    /// Answers like a node.
    pub(crate) fn answer(&mut self, method: &str, params: &Value) -> CallAnswer {
        let result = match method {
            "eth_sendRawTransaction" => {
                return self.send(&serde_json::from_value(params[0].clone()).expect("bytes"));
            }
            "eth_getBlockByNumber" => {
                self.height_of(&params[0]).map_or(Value::Null, |number| self.block(number, params[1] == json!(true)))
            }
            "eth_feeHistory" => {
                let Some(newest) = self.height_of(&params[1]) else { return error(-32_000, "unknown block") };
                let count = self.number(&params[0]).min(newest + 1);
                let oldest = newest + 1 - count;
                let fees = (oldest..=newest).map(|number| self.blocks[usize::try_from(number).unwrap()].base_fee);
                let next = self.blocks.get(usize::try_from(newest + 1).unwrap()).map_or(self.base_fee, |b| b.base_fee);
                let fees: Vec<String> = fees.chain([next]).map(|fee| format!("{fee:#x}")).collect();
                json!({
                    "oldestBlock": format!("{oldest:#x}"), "baseFeePerGas": fees,
                    "gasUsedRatio": vec![0.5; usize::try_from(count).unwrap()],
                    "reward": vec![["0x3b9aca00", "0x3b9aca00", "0x3b9aca00"]; usize::try_from(count).unwrap()],
                })
            }
            "eth_getTransactionCount" => match self.height_of(&params[1]) {
                Some(number) => json!(format!("{:#x}", self.state_at(number).account)),
                None => return error(-32_000, "header not found"),
            },
            "eth_getBalance" => json!(self.balance),
            "eth_getTransactionReceipt" => self.receipt(serde_json::from_value(params[0].clone()).expect("a hash")),
            "eth_getCode" => json!(self.code),
            "eth_simulateV1" if self.has_simulate => {
                let block = &params[0]["blockStateCalls"][0];
                let calls = block["calls"].as_array().expect("calls");
                let (mut state, has_turned) = (self.state().clone(), self.has_turned());
                for (_, slots) in block["stateOverrides"].as_object().expect("overrides") {
                    if let Some(slots) = slots["stateDiff"].as_object() {
                        let users: BTreeSet<Address> = calls
                            .iter()
                            .flat_map(|call| {
                                executeBatchCall::abi_decode(&call_of(call).data).expect("a batch").requests
                            })
                            .map(|request| request.from)
                            .collect();
                        for (slot, nonce) in slots {
                            let is_it =
                                |user: &&Address| keccak256((**user, U256::from(2)).abi_encode()).to_string() == *slot;
                            let nonce: U256 = nonce.as_str().expect("a word").parse().expect("a number");
                            let owner = users.iter().find(is_it).expect("a user's slot");
                            state.users.insert(*owner, nonce.to());
                        }
                    }
                }
                let timestamp = self.blocks.last().expect("a head").timestamp;
                let calls: Vec<Value> = calls
                    .iter()
                    .map(|call| {
                        let price = u128::from(self.number(&call["maxFeePerGas"]));
                        let (is_success, logs) =
                            state.run(&call_of(call), Around { timestamp, price, is_simulated: true, has_turned });
                        json!({ "status": if is_success { "0x1" } else { "0x0" }, "returnData": "0x", "logs": logs })
                    })
                    .collect();
                json!([{ "calls": calls }])
            }
            "eth_call" => {
                let Some(number) = self.height_of(&params[1]) else { return error(-32_000, "header not found") };
                return self.call(&params[0], self.state_at(number));
            }
            _ => return error(-32_601, "the method does not exist"),
        };
        CallAnswer::Result(result.to_string())
    }

    fn number(&self, value: &Value) -> u64 {
        let hex = value.as_str().and_then(|text| text.strip_prefix("0x")).expect("hex");
        u64::from_str_radix(hex, 16).expect("a number")
    }

    fn call(&self, call: &Value, state: &State) -> CallAnswer {
        let tx = call_of(call);
        let word = |value: u64| CallAnswer::Result(json!(Bytes::from(U256::from(value).abi_encode())).to_string());
        if let Ok(noncesCall { owner }) = noncesCall::abi_decode(&tx.data) {
            return word(state.users.get(&owner).copied().unwrap_or(0));
        }
        if let Ok(verifyCall { request }) = verifyCall::abi_decode(&tx.data) {
            let next = state.users.get(&request.from).copied().unwrap_or(0);
            return word(u64::from(u64::from(*request.data.last().expect("data")) == next));
        }
        if tx.to == BROKEN || (tx.to == FICKLE && self.has_turned()) {
            return error(3, "execution reverted");
        }
        CallAnswer::Result("\"0x\"".to_owned())
    }
}

fn call_of(call: &Value) -> Tx {
    let data = call.get("input").or_else(|| call.get("data")).cloned().unwrap_or_else(|| json!("0x"));
    Tx {
        hash: B256::ZERO,
        raw: Bytes::new(),
        nonce: 0,
        fees: Fees::default(),
        gas: 0,
        to: serde_json::from_value(call["to"].clone()).expect("an address"),
        value: U256::ZERO,
        data: serde_json::from_value(data).expect("bytes"),
        is_foreign: false,
        spends: None,
    }
}
