//! A scripted chain behind JSON-RPC, with a forwarder on it.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_sol_types::{SolCall, SolEvent, SolValue};
use serde_json::{Value, json};
use slackwater_client::local::CallAnswer;
use slackwater_core::{
    chain::Fees,
    contracts::forwarder::{self, ExecutedForwardRequest, executeBatchCall, noncesCall, verifyCall},
};

pub(crate) const GWEI: u128 = 1_000_000_000;
pub(crate) const FORWARDER: Address = Address::repeat_byte(0xf0);
/// A target that always fails.
pub(crate) const BROKEN: Address = Address::repeat_byte(0xbb);
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
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) hash: B256,
    pub(crate) timestamp: u64,
    pub(crate) base_fee: u128,
    pub(crate) txs: Vec<Tx>,
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
    fn run(&mut self, tx: &Tx, timestamp: u64) -> (bool, Vec<Value>) {
        self.account += 1;
        if tx.is_foreign || tx.to != FORWARDER {
            let is_success = tx.to != BROKEN;
            if !tx.is_foreign && !tx.data.is_empty() {
                self.ran.entry(tx.data.clone()).or_default().push(is_success);
            }
            return (is_success, Vec::new());
        }
        let batch = executeBatchCall::abi_decode(&tx.data).expect("a batch");
        assert_ne!(batch.refundReceiver, Address::ZERO, "never atomic");
        let mut logs = Vec::new();
        for request in batch.requests {
            let next = self.users.entry(request.from).or_default();
            // The last byte of a test's data is the signed nonce.
            let signed = u64::from(*request.data.last().expect("data"));
            if signed != *next || request.deadline.to::<u64>() < timestamp {
                continue;
            }
            let nonce = *next;
            *next += 1;
            let success = request.to != BROKEN;
            self.ran.entry(request.signature.clone()).or_default().push(success);
            let event = ExecutedForwardRequest { signer: request.from, nonce: U256::from(nonce), success };
            let data = event.encode_log_data();
            logs.push(json!({ "address": FORWARDER, "topics": data.topics(), "data": data.data }));
        }
        (true, logs)
    }
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
        self.blocks.push(Block { hash, timestamp: now_s.max(after), base_fee: self.base_fee, txs });
    }

    pub(crate) fn state_at(&self, height: u64) -> State {
        let mut state = State::default();
        for block in self.blocks.iter().take(usize::try_from(height).unwrap() + 1) {
            block.txs.iter().for_each(|tx| drop(state.run(tx, block.timestamp)));
        }
        state
    }

    pub(crate) fn state(&self) -> State {
        self.state_at(self.height())
    }

    pub(crate) fn mine(&mut self, now_s: u64, is_empty: bool) {
        let mut nonce = self.state().account;
        let mut txs = Vec::new();
        while !is_empty && let Some(tx) = self.pool.get(&nonce).filter(|tx| tx.fees.is_includable(self.base_fee)) {
            txs.push(tx.clone());
            nonce += 1;
        }
        self.pool.retain(|pooled, _| *pooled >= nonce);
        self.push(txs, now_s);
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
        self.salt += 1;
        let (hash, nonce) = (keccak256(self.salt.to_le_bytes()), self.state().account);
        let (to, fees) = (Address::ZERO, Fees::default());
        let (raw, data) = (Bytes::new(), Bytes::new());
        let tx = Tx { hash, raw, nonce, fees, gas: 21_000, to, value: U256::ZERO, data, is_foreign: true };
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
        let worst = |tx: &Tx| U256::from(tx.gas) * U256::from(tx.fees.max_fee_per_gas) + tx.value;
        let others = self.pool.values().filter(|held| held.nonce != tx.nonce).map(worst).sum::<U256>();
        if others + worst(&tx) > self.balance {
            return error(-32_000, "insufficient funds for gas * price + value");
        }
        if let Some(held) = self.pool.get(&tx.nonce) {
            let bumped = |old: u128, new: u128| new >= old + old / 10;
            let fits = bumped(held.fees.max_fee_per_gas, tx.fees.max_fee_per_gas)
                && bumped(held.fees.max_priority_fee_per_gas, tx.fees.max_priority_fee_per_gas);
            if !fits {
                self.refused_replacements += 1;
                return error(-32_000, "replacement transaction underpriced");
            }
        }
        let hash = tx.hash;
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
        let full = |tx: &Tx| json!({ "hash": tx.hash, "from": self.sender, "nonce": format!("{:#x}", tx.nonce) });
        let txs: Vec<Value> = block.txs.iter().map(|tx| if is_full { full(tx) } else { json!(tx.hash) }).collect();
        json!({
            "number": format!("{number:#x}"), "hash": block.hash, "parentHash": parent,
            "timestamp": format!("{:#x}", block.timestamp), "baseFeePerGas": format!("{:#x}", block.base_fee),
            "gasUsed": "0x0", "gasLimit": "0x1c9c380", "transactions": txs,
        })
    }

    fn receipt(&self, hash: B256) -> Value {
        let mut state = State::default();
        for (number, block) in self.blocks.iter().enumerate() {
            for tx in &block.txs {
                let (is_success, logs) = state.run(tx, block.timestamp);
                if tx.hash == hash && !tx.is_foreign {
                    return json!({
                        "transactionHash": hash, "blockNumber": format!("{number:#x}"), "blockHash": block.hash,
                        "status": if is_success { "0x1" } else { "0x0" }, "gasUsed": format!("{:#x}", tx.gas / 2),
                        "effectiveGasPrice": format!("{:#x}", tx.fees.effective_gas_price(block.base_fee)), "logs": logs,
                    });
                }
            }
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
                let mut state = self.state();
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
                let time = self.blocks.last().expect("a head").timestamp;
                let calls: Vec<Value> = calls
                    .iter()
                    .map(|call| {
                        let (is_success, logs) = state.run(&call_of(call), time);
                        json!({ "status": if is_success { "0x1" } else { "0x0" }, "returnData": "0x", "logs": logs })
                    })
                    .collect();
                json!([{ "calls": calls }])
            }
            "eth_call" => return self.call(&params[0]),
            _ => return error(-32_601, "the method does not exist"),
        };
        CallAnswer::Result(result.to_string())
    }

    fn number(&self, value: &Value) -> u64 {
        let hex = value.as_str().and_then(|text| text.strip_prefix("0x")).expect("hex");
        u64::from_str_radix(hex, 16).expect("a number")
    }

    fn call(&self, call: &Value) -> CallAnswer {
        let tx = call_of(call);
        let word = |value: u64| CallAnswer::Result(json!(Bytes::from(U256::from(value).abi_encode())).to_string());
        if let Ok(noncesCall { owner }) = noncesCall::abi_decode(&tx.data) {
            return word(self.state().users.get(&owner).copied().unwrap_or(0));
        }
        if let Ok(verifyCall { request }) = verifyCall::abi_decode(&tx.data) {
            let next = self.state().users.get(&request.from).copied().unwrap_or(0);
            return word(u64::from(u64::from(*request.data.last().expect("data")) == next));
        }
        if tx.to == BROKEN {
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
    }
}
