//! The scripted chain: blocks with their state, execution of transactions, admission to a node's pool.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use alloy_consensus::{Transaction as _, TxEnvelope};
use alloy_eips::eip2718::Decodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, Log, U256, keccak256};
use alloy_sol_types::{SolCall as _, SolEvent as _};
use slackwater_core::{
    chain::{
        ChainSpec, FeeHeader, Fees,
        data_fee::{DataFeeModel, TxSize},
    },
    contracts::{forwarder, multicall3},
};

use crate::{
    hostile::{self, Deed, HostileTarget},
    payments::{self, Payments, Signed},
};

pub(crate) const FORWARDER: Address = Address::repeat_byte(0xf0);
pub(crate) const MULTICALL: Address = multicall3::ADDRESS;
/// Accepts every call.
pub(crate) const GOOD: Address = Address::repeat_byte(0xa1);
/// Reverts, in simulation and on chain.
pub(crate) const REVERTS: Address = Address::repeat_byte(0xa2);
/// Reverts on chain only.
pub(crate) const TRAP: Address = Address::repeat_byte(0xa3);
/// Uses all gas of its call.
pub(crate) const BURNS: Address = Address::repeat_byte(0xa4);

pub(crate) const BLOCK_GAS: u64 = 30_000_000;

/// Decoded content of a transaction.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// Forward requests in a batch, identified by their signatures.
    Batch(Vec<Item>),
    /// All or nothing: (target, operation).
    Multicall(Vec<(Address, u64)>),
    /// One call: target and operation.
    Call(Address, u64),
    /// Token payments.
    Payments(Payments),
    /// A transfer of zero wei to the sender itself (a cancel).
    Nothing,
}

#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) user: Address,
    /// The forwarder nonce; `None` if the signature is nobody's.
    pub(crate) nonce: Option<u64>,
    pub(crate) op: u64,
    pub(crate) to: Address,
    pub(crate) gas: u64,
    pub(crate) deadline_s: u64,
}

#[derive(Debug)]
pub(crate) struct Tx {
    pub(crate) hash: B256,
    pub(crate) sender: Address,
    pub(crate) nonce: u64,
    pub(crate) fees: Fees,
    pub(crate) gas_limit: u64,
    pub(crate) to: Address,
    pub(crate) data: Bytes,
    pub(crate) content: Content,
    /// Size that L1 charges for.
    pub(crate) size: TxSize,
    /// True if the relay did not make it.
    pub(crate) is_stranger: bool,
}

impl Tx {
    pub(crate) const fn is_payload(&self) -> bool {
        !matches!(self.content, Content::Nothing) && !self.is_stranger
    }

    pub(crate) fn worst_case(&self) -> U256 {
        U256::from(self.gas_limit) * U256::from(self.fees.max_fee_per_gas)
    }

    /// Operations in it.
    pub(crate) fn ops(&self) -> Vec<u64> {
        match &self.content {
            Content::Batch(items) => items.iter().map(|item| item.op).collect(),
            Content::Multicall(calls) => calls.iter().map(|(_, op)| *op).collect(),
            Content::Call(_, op) => vec![*op],
            Content::Payments(payments) => payments.ops().collect(),
            Content::Nothing => Vec::new(),
        }
    }
}

/// Operation encoded in calldata.
pub(crate) fn op_of(data: &[u8]) -> u64 {
    data.get(..8).and_then(|bytes| bytes.try_into().ok()).map_or(u64::MAX, u64::from_be_bytes)
}

pub(crate) fn op_data(op: u64) -> Bytes {
    let mut data = op.to_be_bytes().to_vec();
    data.resize(32, 0x5a);
    data.into()
}

/// What was signed, by signature: stands in for recovery.
#[derive(Debug, Default)]
pub(crate) struct Signatures {
    /// User and nonce of forwards.
    forwards: HashMap<Bytes, (Address, u64)>,
    payments: HashMap<Bytes, Signed>,
}

impl Signatures {
    pub(crate) fn insert(&mut self, signature: Bytes, signed: (Address, u64)) {
        self.forwards.insert(signature, signed);
    }

    pub(crate) fn get(&self, signature: &Bytes) -> Option<&(Address, u64)> {
        self.forwards.get(signature)
    }

    pub(crate) fn insert_payment(&mut self, signed: Signed) {
        self.payments.insert(signed.signature().clone(), signed);
    }

    pub(crate) fn payment(&self, signature: &Bytes) -> Option<&Signed> {
        self.payments.get(signature)
    }
}

pub(crate) fn content(to: Address, sender: Address, data: &[u8], signatures: &Signatures) -> Content {
    if to == sender && data.is_empty() {
        return Content::Nothing;
    }
    if to == FORWARDER
        && let Ok(call) = forwarder::executeBatchCall::abi_decode(data)
    {
        let item = |request: forwarder::ForwardRequestData| {
            let signed = signatures.get(&request.signature).filter(|(user, _)| *user == request.from);
            Item {
                user: request.from,
                nonce: signed.map(|(_, nonce)| *nonce),
                op: op_of(&request.data),
                to: request.to,
                gas: request.gas.saturating_to(),
                deadline_s: request.deadline.to(),
            }
        };
        return Content::Batch(call.requests.into_iter().map(item).collect());
    }
    if to == MULTICALL
        && let Ok(call) = multicall3::aggregate3ValueCall::abi_decode(data)
    {
        return Content::Multicall(call.calls.iter().map(|call| (call.target, op_of(&call.callData))).collect());
    }
    if let Some(payments) = payments::decode(to, sender, data, signatures) {
        return Content::Payments(payments);
    }
    Content::Call(to, op_of(data))
}

/// Decodes raw bytes as a node does.
pub(crate) fn decode(raw: &Bytes, signatures: &Signatures) -> Option<Tx> {
    let tx = TxEnvelope::decode_2718(&mut raw.as_ref()).ok()?;
    let TxEnvelope::Eip1559(signed) = &tx else { return None };
    let sender = slackwater_core::request::recover(signed.signature_hash(), &signed.signature().as_bytes()).ok()?;
    let to = tx.to()?;
    let data = tx.input().clone();
    Some(Tx {
        hash: *tx.tx_hash(),
        sender,
        nonce: tx.nonce(),
        fees: Fees::new(tx.max_fee_per_gas(), tx.max_priority_fee_per_gas().unwrap_or(0)),
        gas_limit: tx.gas_limit(),
        to,
        content: content(to, sender, &data, signatures),
        size: TxSize::of_signed(raw),
        data,
        is_stranger: false,
    })
}

#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) nonces: BTreeMap<Address, u64>,
    pub(crate) balances: BTreeMap<Address, U256>,
    /// Forwarder nonces.
    pub(crate) users: BTreeMap<Address, u64>,
    /// Payers' used nonces at the token.
    pub(crate) paid: BTreeSet<(Address, B256)>,
    /// True while a transaction in front has flipped [`HostileTarget::Flipped`].
    pub(crate) is_flipped: bool,
    /// Number of times that the patient target was honest.
    pub(crate) served: u64,
}

impl State {
    pub(crate) fn nonce(&self, account: Address) -> u64 {
        self.nonces.get(&account).copied().unwrap_or(0)
    }

    pub(crate) fn balance(&self, account: Address) -> U256 {
        self.balances.get(&account).copied().unwrap_or(U256::ZERO)
    }

    pub(crate) fn user(&self, user: Address) -> u64 {
        self.users.get(&user).copied().unwrap_or(0)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Receipt {
    pub(crate) is_success: bool,
    pub(crate) gas_used: u64,
    pub(crate) price: u128,
    pub(crate) logs: Vec<Log>,
    /// L1 data fee, wei.
    pub(crate) data_fee: U256,
    /// (operation, success of the target call).
    pub(crate) executed: Vec<(u64, bool)>,
}

impl Receipt {
    pub(crate) fn cost(&self) -> U256 {
        U256::from(self.gas_used) * U256::from(self.price) + self.data_fee
    }
}

/// Execution environment visible to a contract.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings {
    pub(crate) number: u64,
    pub(crate) timestamp_s: u64,
    pub(crate) base_fee: u128,
    pub(crate) gas_price: u128,
    pub(crate) coinbase: Address,
    /// True in a block, false in a simulation: visible only to the simulator's own targets.
    pub(crate) is_real: bool,
}

/// Proposer of all blocks.
pub(crate) const PROPOSER: Address = Address::repeat_byte(0x9b);

impl Surroundings {
    /// The environment in a block.
    pub(crate) const fn real(number: u64, timestamp_s: u64, base_fee: u128, gas_price: u128) -> Self {
        Self { number, timestamp_s, base_fee, gas_price, coinbase: PROPOSER, is_real: true }
    }

    /// The environment of a plain call on the state of a block: no fees, no proposer.
    pub(crate) const fn call(number: u64, timestamp_s: u64) -> Self {
        Self { number, timestamp_s, base_fee: 0, gas_price: 0, coinbase: Address::ZERO, is_real: false }
    }
}

#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) number: u64,
    pub(crate) hash: B256,
    pub(crate) parent: Option<Arc<Self>>,
    pub(crate) timestamp_s: u64,
    pub(crate) base_fee: u128,
    pub(crate) gas_used: u64,
    pub(crate) gas_limit: u64,
    pub(crate) tip: u128,
    pub(crate) txs: Vec<(Arc<Tx>, Receipt)>,
    pub(crate) state: State,
}

impl Block {
    pub(crate) fn at(self: &Arc<Self>, number: u64) -> Option<&Arc<Self>> {
        let mut block = self;
        while block.number > number {
            block = block.parent.as_ref()?;
        }
        (block.number == number).then_some(block)
    }

    pub(crate) fn find(self: &Arc<Self>, hash: B256) -> Option<(&Arc<Self>, usize)> {
        let mut block = self;
        loop {
            if let Some(place) = block.txs.iter().position(|(tx, _)| tx.hash == hash) {
                return Some((block, place));
            }
            block = block.parent.as_ref()?;
        }
    }

    /// The transaction that used a nonce of `sender`, with its receipt; `None` if none did.
    pub(crate) fn spender(self: &Arc<Self>, sender: Address, nonce: u64) -> Option<(&Arc<Tx>, &Receipt)> {
        let mut block = self;
        loop {
            if let Some((tx, receipt)) = block.txs.iter().find(|(tx, _)| tx.sender == sender && tx.nonce == nonce) {
                return Some((tx, receipt));
            }
            block = block.parent.as_ref()?;
        }
    }

    pub(crate) fn header(&self) -> FeeHeader {
        FeeHeader {
            number: self.number,
            timestamp: self.timestamp_s,
            base_fee_per_gas: self.base_fee,
            gas_used: self.gas_used,
            gas_limit: self.gas_limit,
            blob_gas_used: None,
            excess_blob_gas: None,
        }
    }

    pub(crate) fn next_base_fee(&self, spec: &ChainSpec) -> u128 {
        spec.base_fee.next(&self.header(), &[]).map_or(self.base_fee, |fee| fee.value())
    }

    /// This block and all its ancestors, newest first.
    pub(crate) fn back(self: &Arc<Self>) -> impl Iterator<Item = &Arc<Self>> {
        std::iter::successors(Some(self), |block| block.parent.as_ref())
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // Without recursion: chains are long.
        let mut parent = self.parent.take();
        while let Some(block) = parent {
            parent = Arc::into_inner(block).and_then(|mut block| block.parent.take());
        }
    }
}

/// Executes a transaction's content on `state`, which is changed.
pub(crate) fn run(
    content: &Content,
    gas_limit: u64,
    state: &mut State,
    around: &Surroundings,
) -> (bool, u64, Vec<Log>, Vec<(u64, bool)>) {
    let fails = |to: Address| to == REVERTS || (to == TRAP && around.is_real);
    let (mut gas, mut logs, mut executed) = (21_000u64, Vec::new(), Vec::new());
    match content {
        Content::Nothing => {}
        Content::Payments(payments) => return payments.run(gas_limit, state, around),
        Content::Call(to, op) => {
            gas += 25_000;
            if fails(*to) {
                // Its own transaction failed: that is the request's outcome.
                return (false, gas.min(gas_limit), logs, vec![(*op, false)]);
            }
            executed.push((*op, true));
        }
        Content::Multicall(calls) => {
            gas += 25_000 * calls.len() as u64;
            if calls.iter().any(|(to, _)| fails(*to)) {
                return (false, gas.min(gas_limit), logs, executed);
            }
            executed.extend(calls.iter().map(|(_, op)| (*op, true)));
        }
        Content::Batch(items) => {
            let (before, served) = (state.users.clone(), state.served);
            for item in items {
                gas += 12_000;
                let is_valid = item.nonce.is_some_and(|nonce| nonce == state.user(item.user))
                    && item.deadline_s >= around.timestamp_s;
                if !is_valid {
                    continue;
                }
                let deed = hostile::deed(item.to, state, around);
                if deed == Deed::TakesAll {
                    // The trust check uses all but a 64th of the remaining gas, and does not return true: the request
                    // is skipped.
                    let left = gas_limit.saturating_sub(gas);
                    gas += left - left / 64;
                    continue;
                }
                let is_patient = HostileTarget::at(item.to).is_some_and(|(kind, _)| kind == HostileTarget::Patient);
                state.served += u64::from(is_patient);
                let nonce = state.user(item.user);
                let success = !fails(item.to) && deed == Deed::Honest;
                state.users.insert(item.user, nonce + 1);
                gas += 30_000 + if item.to == BURNS || deed == Deed::UsesOwn { item.gas } else { item.gas / 3 };
                executed.push((item.op, success));
                let event = forwarder::ExecutedForwardRequest { signer: item.user, nonce: U256::from(nonce), success };
                logs.push(Log { address: FORWARDER, data: event.encode_log_data() });
            }
            if gas > gas_limit {
                // All gas is consumed.
                (state.users, state.served) = (before, served);
                return (false, gas_limit, Vec::new(), Vec::new());
            }
        }
    }
    (true, gas.min(gas_limit), logs, executed)
}

/// Executes `tx` in the block under construction; `None` if it is not valid there.
pub(crate) fn include(
    tx: &Tx,
    state: &mut State,
    number: u64,
    base_fee: u128,
    timestamp_s: u64,
    model: &DataFeeModel,
) -> Option<Receipt> {
    let (cap, balance) = (tx.fees.max_fee_per_gas, state.balance(tx.sender));
    let data_fee = model.data_fee(&tx.size);
    if state.nonce(tx.sender) != tx.nonce || cap < base_fee || balance < tx.worst_case() + data_fee {
        return None;
    }
    let price = tx.fees.effective_gas_price(base_fee);
    let around = Surroundings::real(number, timestamp_s, base_fee, price);
    let (is_success, gas_used, logs, executed) = run(&tx.content, tx.gas_limit, state, &around);
    let receipt = Receipt { is_success, gas_used, price, logs, data_fee, executed };
    state.nonces.insert(tx.sender, tx.nonce + 1);
    state.balances.insert(tx.sender, balance - receipt.cost());
    Some(receipt)
}

pub(crate) fn block_hash(parent: B256, number: u64, salt: u64) -> B256 {
    let mut bytes = parent.to_vec();
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&salt.to_be_bytes());
    keccak256(bytes)
}
