//! Token payments (EIP-3009): the token, what payers authorize, and whoever executes it in front of the relay.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes, Log, U256};
use alloy_sol_types::{SolCall as _, SolEvent as _, SolValue as _};
use serde_json::{Value, json};
use slackwater_core::{
    Timestamp,
    chain::{Fees, data_fee::TxSize},
    contracts::{
        capped_calls::{self, Executed},
        eip3009::{
            IERC3009::{self, AuthorizationCanceled, AuthorizationUsed},
            IERC3009Bytes, IEip712Token, eip712DomainCall, eip712DomainReturn,
        },
        fiat_token::IFiatToken::Transfer,
    },
    request::{Authorization, Reason, RequestId, Status, Submission, TokenDomain},
};

use crate::{
    chain::{self, Block, Content, Receipt, Signatures, State, Surroundings, Tx},
    plan::{Operation, Plan},
    rng::Rng,
    world::{EPOCH_MS, Event, World, short},
};

/// The token.
pub(crate) const TOKEN: Address = Address::repeat_byte(0x70);
/// Code of the token: any but none.
pub(crate) const TOKEN_CODE: &[u8] = &[0x60, 0x70];
const NAME: &str = "Simulated Coin";
const VERSION: &str = "2";

/// First number of the operations that are payments.
pub(crate) const FIRST_PAYMENT: u64 = 5_000;

/// Accounts of those who execute payments in front of the relay: blocks order transactions by account, so that some come
/// before the lanes' and some after.
pub(crate) const PAYERS_FRIENDS: [Address; 4] =
    [Address::repeat_byte(0x01), Address::repeat_byte(0x02), Address::repeat_byte(0xfd), Address::repeat_byte(0xfe)];

/// Gas of a transaction without calls.
const BASE_GAS: u64 = 21_000;
/// Gas of a payment that the token refuses.
const REFUSED_GAS: u64 = 9_000;
/// Gas that `CappedCalls` keeps for a call beside its cap and its data, as in `sol/CappedCalls.sol`.
const KEPT_GAS: u64 = 12_000;
/// Gas that `CappedCalls` uses for a call beside the target and its data.
const CALL_GAS: u64 = 7_500;

/// A payer's behaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payer {
    /// Has the amount.
    Honest,
    /// Lacks it.
    Poor,
    /// Lacks it in blocks only: the money is moved in front of each.
    Drained,
    /// Lacks it in every third block.
    Fickle,
    /// Has code that, in blocks only, burns all gas of its call.
    Burns,
}

/// What a payer signed.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    authorization: Authorization,
    payer: Payer,
}

/// Payments in a transaction: one that calls the token itself, or several through `CappedCalls`.
#[derive(Debug, Clone)]
pub(crate) struct Payments {
    /// The transaction's sender.
    caller: Address,
    /// True if they go through `CappedCalls`.
    is_shared: bool,
    /// True if the relay made the transaction.
    is_ours: bool,
    members: Vec<Member>,
}

#[derive(Debug, Clone)]
struct Member {
    authorization: Authorization,
    payer: Payer,
    /// True if the payer signed exactly this.
    is_signed: bool,
    /// Gas of its call.
    gas: u64,
    /// Bytes of calldata.
    bytes: u64,
    /// True if it voids the nonce instead of paying.
    is_void: bool,
}

/// What a foreign transaction did with a payment's nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ForeignUse {
    hash: B256,
    block: u64,
    /// True if it made this very payment.
    is_made: bool,
}

/// The operation that a payment is for, in the first bytes of its nonce.
pub(crate) fn op_of_nonce(nonce: B256) -> u64 {
    chain::op_of(nonce.as_slice())
}

fn log(address: Address, event: &impl alloy_sol_types::SolEvent) -> Log {
    Log { address, data: event.encode_log_data() }
}

/// The payments that a transaction of the relay to `to` makes; `None` if it makes none.
pub(crate) fn decode(to: Address, sender: Address, data: &[u8], signatures: &Signatures) -> Option<Payments> {
    let all = |members: Vec<Member>, is_shared| Payments { caller: sender, is_shared, is_ours: true, members };
    if to == TOKEN {
        return Some(all(vec![member(data, u64::MAX, signatures)?], false));
    }
    if to != capped_calls::ADDRESS {
        return None;
    }
    let calls = capped_calls::executeCall::abi_decode(data).ok()?.calls;
    let member = |call: &capped_calls::Call| {
        (call.target == TOKEN).then(|| member(&call.data, call.gas.saturating_to(), signatures)).flatten()
    };
    Some(all(calls.iter().map(member).collect::<Option<_>>()?, true))
}

fn member(data: &[u8], gas: u64, signatures: &Signatures) -> Option<Member> {
    let authorization = if let Ok(call) = IERC3009::transferWithAuthorizationCall::abi_decode(data) {
        let signature: Bytes = [call.r.as_slice(), call.s.as_slice(), &[call.v]].concat().into();
        authorization((call.from, call.to, call.value), (call.validAfter, call.validBefore), call.nonce, signature)
    } else {
        let call = IERC3009Bytes::transferWithAuthorizationCall::abi_decode(data).ok()?;
        authorization((call.from, call.to, call.value), (call.validAfter, call.validBefore), call.nonce, call.signature)
    };
    let signed = signatures.payment(&authorization.signature);
    Some(Member {
        payer: signed.map_or(Payer::Honest, |signed| signed.payer),
        is_signed: signed.is_some_and(|signed| signed.authorization == authorization),
        authorization,
        gas,
        bytes: data.len() as u64,
        is_void: false,
    })
}

const fn authorization(
    (from, to, value): (Address, Address, U256),
    (valid_after, valid_before): (U256, U256),
    nonce: B256,
    signature: Bytes,
) -> Authorization {
    Authorization { token: TOKEN, from, to, value, valid_after, valid_before, nonce, signature }
}

impl Member {
    fn op(&self) -> u64 {
        op_of_nonce(self.authorization.nonce)
    }

    /// Executes it with `gas` on `state`. Returns success and gas used.
    fn run(&self, gas: u64, state: &mut State, around: &Surroundings, logs: &mut Vec<Log>) -> (bool, u64) {
        let Authorization { from, to, value, nonce, ref signature, .. } = self.authorization;
        let has_amount = match self.payer {
            Payer::Burns if around.is_real => return (false, gas),
            Payer::Honest | Payer::Burns => true,
            Payer::Poor => false,
            Payer::Drained => !around.is_real,
            Payer::Fickle => !around.number.is_multiple_of(3),
        };
        let is_open = self.is_signed && !state.paid.contains(&(from, nonce));
        if self.is_void {
            if is_open {
                state.paid.insert((from, nonce));
                logs.push(log(TOKEN, &AuthorizationCanceled { authorizer: from, nonce }));
            }
            return (is_open, REFUSED_GAS.min(gas));
        }
        if !is_open || !has_amount || !self.authorization.is_valid_at(around.timestamp_s) {
            return (false, REFUSED_GAS.min(gas));
        }
        // A payee without balance, and a payer with code, take more.
        let used = 38_000 + if self.op().is_multiple_of(2) { 22_000 } else { 0 };
        let used = used + if signature.len() == 65 { 0 } else { 12_000 };
        if used > gas {
            return (false, gas);
        }
        state.paid.insert((from, nonce));
        logs.push(log(TOKEN, &AuthorizationUsed { authorizer: from, nonce }));
        logs.push(log(TOKEN, &Transfer { from, to, value }));
        (true, used)
    }
}

impl Payments {
    pub(crate) fn ops(&self) -> impl Iterator<Item = u64> {
        self.members.iter().map(Member::op)
    }

    /// True if a member failed behind a foreign transaction among `before`, in the same block, that used its nonce.
    pub(crate) fn is_beaten(&self, receipt: &Receipt, before: &[(Arc<Tx>, Receipt)]) -> bool {
        let is_used = |wanted: &Authorization| {
            before.iter().any(|(tx, receipt)| match &tx.content {
                Content::Payments(others) => tx.is_stranger && others.used(wanted, &receipt.logs).is_some(),
                _ => false,
            })
        };
        let failed = self.members.iter().filter(|member| !receipt.executed.iter().any(|(op, _)| *op == member.op()));
        failed.into_iter().any(|member| is_used(&member.authorization))
    }

    /// As if all payers had the amount.
    pub(crate) fn praise(&mut self) {
        self.members.iter_mut().for_each(|member| member.payer = Payer::Honest);
    }

    /// Executes them: success, gas used, logs, and the operations that the relay executed.
    pub(crate) fn run(
        &self,
        gas_limit: u64,
        state: &mut State,
        around: &Surroundings,
    ) -> (bool, u64, Vec<Log>, Vec<(u64, bool)>) {
        let (mut gas, mut logs, mut executed) = (BASE_GAS, Vec::new(), Vec::new());
        let mut note = |member: &Member| executed.extend(self.is_ours.then(|| (member.op(), true)));
        if !self.is_shared {
            let Some(alone) = self.members.first() else { return (true, gas, logs, executed) };
            let (is_success, used) = alone.run(gas_limit.saturating_sub(gas), state, around, &mut logs);
            if is_success {
                note(alone);
            }
            return (is_success, (gas + used).min(gas_limit), logs, executed);
        }
        let need = |member: &Member| {
            [member.gas / 63, member.bytes, KEPT_GAS].into_iter().fold(member.gas, u64::saturating_add)
        };
        let needed = self.members.iter().map(need).fold(gas, u64::saturating_add);
        if self.is_ours && needed > gas_limit {
            return (false, gas + 5_000, logs, executed);
        }
        for (index, member) in self.members.iter().enumerate() {
            let (success, used) = member.run(member.gas, state, around, &mut logs);
            gas = gas.saturating_add(used).saturating_add(CALL_GAS + member.bytes);
            if success {
                note(member);
            }
            let index = U256::from(index);
            logs.push(log(capped_calls::ADDRESS, &Executed { caller: self.caller, target: TOKEN, index, success }));
        }
        (true, gas.min(gas_limit), logs, executed)
    }

    /// What they did with the nonce of `wanted`, by the logs of their transaction.
    fn used(&self, wanted: &Authorization, logs: &[Log]) -> Option<bool> {
        let place = logs.iter().position(|log| {
            let used = AuthorizationUsed::decode_log(log).map(|used| (used.authorizer, used.nonce));
            let voided = AuthorizationCanceled::decode_log(log).map(|void| (void.authorizer, void.nonce));
            [used, voided].into_iter().flatten().any(|place| place == (wanted.from, wanted.nonce))
        })?;
        let moved = logs.get(place + 1).and_then(|log| Transfer::decode_log(log).ok());
        Some(moved.is_some_and(|moved| (moved.from, moved.to, moved.value) == (wanted.from, wanted.to, wanted.value)))
    }
}

/// The token's answer to a question; `None` if it reverts.
pub(crate) fn view(input: &Bytes, state: &State, chain_id: u64, tells_domain: bool) -> Option<Bytes> {
    if let Ok(call) = IERC3009::authorizationStateCall::abi_decode(input) {
        let is_used = state.paid.contains(&(call.authorizer, call.nonce));
        return Some(U256::from(u8::from(is_used)).abi_encode().into());
    }
    if IEip712Token::DOMAIN_SEPARATORCall::abi_decode(input).is_ok() {
        return Some(domain(chain_id).separator().abi_encode().into());
    }
    if tells_domain {
        eip712DomainCall::abi_decode(input).ok()?;
        let domain = eip712DomainReturn {
            fields: [0x0f].into(),
            name: NAME.to_owned(),
            version: VERSION.to_owned(),
            chainId: U256::from(chain_id),
            verifyingContract: TOKEN,
            salt: B256::ZERO,
            extensions: Vec::new(),
        };
        return Some(eip712DomainCall::abi_encode_returns(&domain).into());
    }
    let text = match () {
        () if IEip712Token::nameCall::abi_decode(input).is_ok() => NAME,
        () if IEip712Token::versionCall::abi_decode(input).is_ok() => VERSION,
        () => return None,
    };
    Some(text.abi_encode().into())
}

fn domain(chain_id: u64) -> TokenDomain {
    TokenDomain::new(NAME, VERSION, chain_id, TOKEN)
}

/// Logs of a node's chain, as `eth_getLogs` filters them by blocks, contract and topics.
pub(crate) fn logs(
    tip: &Arc<Block>,
    blocks: std::ops::RangeInclusive<u64>,
    address: Address,
    topics: &[B256],
) -> Value {
    let mut found = Vec::new();
    for block in tip.back().filter(|block| blocks.contains(&block.number)) {
        for (tx, receipt) in &block.txs {
            let mut logs = receipt.logs.iter();
            if logs.any(|log| log.address == address && log.data.topics() == topics) {
                found.push(json!({
                    "address": address, "topics": topics, "transactionHash": tx.hash, "blockHash": block.hash,
                    "blockNumber": format!("{:#x}", block.number),
                }));
            }
        }
    }
    found.reverse();
    json!(found)
}

impl Plan {
    /// The payments that callers want made; from a generator of their own.
    pub(crate) fn payment_operations(
        &self,
        rng: &mut Rng,
        chain_id: u64,
        signatures: &mut Signatures,
    ) -> Vec<Operation> {
        let mut operations = Vec::new();
        for op in FIRST_PAYMENT..FIRST_PAYMENT + self.payments {
            let at = EPOCH_MS
                + if self.is_burst { rng.within(500, 2_500) } else { rng.within(500, self.calm_after_ms * 3 / 4) };
            let slack = rng.within(self.slack_ms.start, self.slack_ms.end);
            let (payment, payer, deadline) = self.payment(rng, (op, at, slack), chain_id);
            signatures.insert_payment(Signed { authorization: payment.clone(), payer });
            let submission = Submission::authorization(chain_id, payment);
            let mut submission = match deadline {
                Some(deadline) => submission.deadline(deadline),
                None => submission.within(Duration::from_millis(slack)),
            };
            submission.max_cost_wei = rng
                .permille(100)
                .then(|| U256::from(self.base_fee + 2_500_000_000) * U256::from(rng.within(150_000, 3_000_000)));
            submission.idempotency_key = rng.permille(500).then(|| format!("key-{op}"));
            let tenant = *rng.pick(&["alpha", "beta"]);
            operations.push(Operation {
                op,
                tenant,
                item: submission,
                next_at: at,
                gives_up_at: at + slack,
                tries: if rng.permille(self.twins) { 2 } else { 1 },
                withdraw_at: rng.permille(self.withdrawn).then(|| at + rng.within(50, 4_000)),
                accepted: BTreeSet::new(),
                end: None,
                under_way: 0,
                was_lost: false,
            });
        }
        operations
    }

    /// A payment, its payer's behaviour, and its deadline; `None` if the caller names none.
    fn payment(
        &self,
        rng: &mut Rng,
        (op, at, slack): (u64, u64, u64),
        chain_id: u64,
    ) -> (Authorization, Payer, Option<Timestamp>) {
        let mut nonce = B256::repeat_byte(0x5a);
        nonce[..8].copy_from_slice(&op.to_be_bytes());
        let payer = if rng.permille(self.poison) {
            *rng.pick(&[Payer::Poor, Payer::Drained, Payer::Fickle, Payer::Burns])
        } else {
            Payer::Honest
        };
        let now_s = at / 1_000;
        let valid_after = match rng.below(10) {
            0..5 => 0,
            5..8 => now_s - 60,
            // Not valid yet.
            _ => now_s + rng.within(1, 6),
        };
        let end_s = (at + slack) / 1_000 + 3;
        let is_tight = rng.permille(500);
        let valid_before = if is_tight { U256::from(end_s + 1) } else { U256::MAX };
        let deadline = Timestamp((at + slack).min((end_s - 2) * 1_000));
        let payee = Address::repeat_byte(0xd0 + (rng.below(3) as u8));
        let what = (payee, U256::from(rng.within(1, 1_000_000)));
        let when = (U256::from(valid_after), valid_before);
        let of = |from, signature| authorization((from, what.0, what.1), when, nonce, signature);
        let payment = if rng.permille(600) && !self.payers.is_empty() {
            let signer = rng.pick(&self.payers);
            let unsigned = of(signer.address(), Bytes::new());
            let signature = signer.identity().sign(domain(chain_id).digest(&unsigned));
            of(signer.address(), signature)
        } else {
            // A payer with code, which knows its own signatures.
            let from = Address::repeat_byte(0xc0 + (rng.below(3) as u8));
            let mut signature = op.to_be_bytes().repeat(12);
            signature.extend_from_slice(from.as_slice());
            of(from, signature.into())
        };
        (payment, payer, (is_tight || rng.permille(500)).then_some(deadline))
    }
}

impl Signed {
    /// Its signature.
    pub(crate) const fn signature(&self) -> &Bytes {
        &self.authorization.signature
    }
}

impl World {
    fn authorization(&self, op: u64) -> Option<Authorization> {
        let operation = self.operations.iter().find(|operation| operation.op == op)?;
        operation.item.kind.as_authorization().cloned()
    }

    /// Somebody else executes payments in front of the relay, pays otherwise with their nonces, or voids them.
    pub(crate) fn pay_elsewhere(&mut self) {
        let head = self.head.clone();
        let now = self.now();
        let open: Vec<u64> = self
            .operations
            .iter()
            .filter(|operation| operation.next_at <= now + 2_000)
            .filter_map(|operation| Some((operation.op, operation.item.kind.as_authorization()?)))
            .filter(|(_, payment)| !head.state.paid.contains(&(payment.from, payment.nonce)))
            .map(|(op, _)| op)
            .collect();
        if open.is_empty() {
            return;
        }
        let mut chosen = BTreeMap::new();
        for _ in 0..*self.rng.pick(&[1, 1, 1, 2, 4]) {
            let op = *self.rng.pick(&open);
            let way = self.rng.below(10);
            chosen.entry(op).or_insert(way);
        }
        let members: Vec<Member> = chosen.iter().filter_map(|(op, way)| self.foreign_member(*op, *way)).collect();
        let caller = *self.rng.pick(&PAYERS_FRIENDS);
        let nonce = head.state.nonce(caller);
        self.salt += 1;
        let content = Payments { caller, is_shared: members.len() > 1, is_ours: false, members };
        let tx = Arc::new(Tx {
            hash: chain::block_hash(B256::repeat_byte(0x58), nonce, self.salt),
            sender: caller,
            nonce,
            fees: Fees::new(head.base_fee.saturating_mul(8).saturating_add(100_000_000_000), 50_000_000_000),
            gas_limit: 1_000_000,
            to: TOKEN,
            data: Bytes::new(),
            content: Content::Payments(content),
            size: TxSize::of_signed(&[]),
            is_stranger: true,
        });
        let ops: Vec<String> = chosen.keys().map(|op| format!("#{op}")).collect();
        self.note(format_args!("stranger {} uses the nonces of {}", short(tx.hash), ops.join(" ")));
        self.known.insert(tx.hash, tx.clone());
        if self.rng.permille(500) {
            for node in &mut self.nodes {
                node.pool.insert((caller, nonce), tx.clone());
            }
        } else {
            let (base_fee, number) = (head.next_base_fee(&self.spec), head.number + 1);
            let timestamp_s = self.timestamp(now, &head);
            let (mut state, model) = (head.state.clone(), self.data_fee_at(number));
            if let Some(receipt) = chain::include(&tx, &mut state, number, base_fee, timestamp_s, &model) {
                self.extend(now, head, vec![(tx, receipt)], state);
            }
        }
        if self.faults.takes_back_spends {
            let later = now + self.rng.within(1_500, (self.plan.finality - 1) * 900);
            self.at(later, Event::TakeBack);
        }
    }

    /// The payment of `op`, as somebody else executes it.
    fn foreign_member(&mut self, op: u64, way: u64) -> Option<Member> {
        let mut authorization = self.authorization(op)?;
        let payer = self.signatures.payment(&authorization.signature)?.payer;
        let (mut is_void, mut is_honest) = (false, false);
        match way {
            0 => {
                // The payer signed another payment with the same nonce.
                authorization.value += U256::from(1);
                is_honest = true;
                self.count("payer's nonce used for another payment");
            }
            1 => {
                is_void = true;
                self.count("payment voided");
            }
            _ => self.count("payment made elsewhere"),
        }
        let payer = if is_honest { Payer::Honest } else { payer };
        Some(Member { authorization, payer, is_signed: true, gas: 110_000, bytes: 300, is_void })
    }

    /// What a foreign transaction up to block `last` did with the payment's nonce; `None` if none used it.
    fn foreign_use(&self, wanted: &Authorization, last: u64) -> Option<ForeignUse> {
        let from = self.head.at(last.min(self.head.number))?;
        from.back().find_map(|block| {
            block.txs.iter().find_map(|(tx, receipt)| {
                let Content::Payments(payments) = &tx.content else { return None };
                let is_made = payments.used(wanted, &receipt.logs).filter(|_| tx.is_stranger)?;
                Some(ForeignUse { hash: tx.hash, block: block.number, is_made })
            })
        })
    }

    /// The problem with a payment that ended so, by the chain up to its block `last`; `None` if they agree. `is_over`: nothing
    /// is left to happen.
    pub(crate) fn payment_problem(
        &mut self,
        (id, op): (RequestId, u64),
        (status, reason): (Status, Option<Reason>),
        last: u64,
        is_over: bool,
    ) -> Option<String> {
        let payment = self.authorization(op)?;
        let record = self.store.request(id)?;
        let foreign = self.foreign_use(&payment, last);
        let (ours, all) = (self.our_executions(op, last), self.our_executions(op, self.head.number));
        let is_proven = payment.signature.len() == 65;
        let agrees = match (status, reason) {
            (Status::Finalized, Some(Reason::ExecutedElsewhere)) => {
                self.count("payment executed elsewhere");
                let told = record.tx_hash.zip(record.block_number);
                is_proven
                    && all.is_empty()
                    && foreign.is_some_and(|found| found.is_made && told == Some((found.hash, found.block)))
            }
            (Status::Finalized, _) => {
                let told = record.tx_hash.zip(record.block_number);
                ours.len() == 1 && foreign.is_none() && told == ours.first().copied()
            }
            // Anybody who saw a payment whose signature only the chain can check could claim it as made.
            (Status::Rejected, Some(Reason::NonceUsedElsewhere)) => {
                self.count("payment's nonce used elsewhere");
                all.is_empty() && foreign.is_some_and(|found| !(found.is_made && is_proven))
            }
            // A token that refuses a payment has not executed it.
            (Status::Reverted, _) => false,
            // The caller took it back, whatever others do with it.
            (Status::Cancelled, _) => all.is_empty(),
            // What is still valid then may be paid by others later.
            _ => all.is_empty() && (is_over || foreign.is_none()),
        };
        (!agrees).then(|| {
            let told = (record.tx_hash.map(short), record.block_number);
            format!(
                "I1: payment op #{op} ends as {status} ({reason:?}) by {told:?}; ours up to {last}: {ours:?}, in any block: \
                 {all:?}, foreign: {foreign:?}"
            )
        })
    }

    /// Our transactions that executed an operation, with their blocks, up to block `last`, newest first.
    fn our_executions(&self, op: u64, last: u64) -> Vec<(B256, u64)> {
        let Some(from) = self.head.at(last.min(self.head.number)) else { return Vec::new() };
        let mut found = Vec::new();
        for block in from.back() {
            let executes = |(_, receipt): &&(Arc<Tx>, Receipt)| receipt.executed.iter().any(|(other, _)| *other == op);
            found.extend(block.txs.iter().filter(executes).map(|(tx, _)| (tx.hash, block.number)));
        }
        found
    }
}
