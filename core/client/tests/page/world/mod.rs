//! The machine with its shell: storage, a network that loses and delays, and a clock. A crash may come between any two
//! commands.
//!
//! The simulator runs these files too, without one protection after the other, so nothing here knows of switches.

pub(crate) mod chain;
pub(crate) mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use alloy_primitives::{Address, Bytes, U256};
use serde_json::Value;
use slackwater_client::{
    ForwardBuilder, KeySigner,
    local::{CallAnswer, LocalAsk, LocalCommand, LocalConfig, LocalRelay, LocalTiming, LocalView, SessionKey},
};
use slackwater_core::{
    Timestamp,
    chain::FinalityRule,
    request::{Call, ForwarderDomain, Reason, RequestId, Status, vehicle::VehicleParams},
};

use chain::{BLOCK_S, CHAIN_ID, Chain, FINALITY, FORWARDER, GWEI, HIDDEN, PRICED, Tx, runtime_code};

/// Time within which everything that can land must be in a block once the faults are over.
const LANDS_WITHIN: Duration = Duration::from_secs(400);
/// Time for which a target is suspect at least, after its first surprise.
const IS_SUSPECT_FOR: Duration = Duration::from_secs(1_200);
/// Time for the relay to send what it had composed before.
const SENDS_WITHIN: Duration = Duration::from_secs(60);

/// splitmix64.
#[derive(Debug, Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A second generator, whose numbers no choice of this one depends on.
    pub(crate) fn fork(&self) -> Self {
        Self(Self(!self.0).next())
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Probabilities of faults, percent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// A call that does not reach the node.
    pub(crate) lost_call: u64,
    /// An answer that is lost.
    pub(crate) lost_answer: u64,
    /// A malformed answer.
    pub(crate) nonsense: u64,
    /// An answer that arrives twice.
    pub(crate) twice: u64,
    /// An answer that arrives out of order.
    pub(crate) late: u64,
    /// A write that fails.
    pub(crate) failed_write: u64,
    /// The process ends before the next command.
    pub(crate) crash: u64,
    pub(crate) reorg: u64,
    pub(crate) eviction: u64,
    pub(crate) stranger: u64,
    pub(crate) empty_block: u64,
    pub(crate) spike: u64,
    /// A user's forwarder nonce that is used elsewhere.
    pub(crate) spend: u64,
    /// An earlier attempt that is in the pool again.
    pub(crate) revival: u64,
}

/// Expected properties of a request.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    /// Bytes that identify it on the chain.
    pub(crate) mark: Bytes,
    pub(crate) deadline: Timestamp,
    pub(crate) max_cost_wei: Option<U256>,
    pub(crate) gas_alone: u64,
    pub(crate) to: Address,
    /// Place of its user, and its forwarder nonce; `None` for a call.
    pub(crate) user: Option<(usize, u8)>,
}

#[derive(Debug)]
enum Task {
    Store { key: String, revision: u64, record: String },
    Remove { key: String },
    Call { call: u64, method: &'static str, params: Value },
    Answer { call: u64, answer: CallAnswer },
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    /// Generator of the faults that came later: the seeds of old failures keep their meaning.
    second: Rng,
    pub(crate) faults: Faults,
    pub(crate) chain: Chain,
    pub(crate) config: LocalConfig,
    key: SessionKey,
    pub(crate) relay: LocalRelay,
    pub(crate) storage: BTreeMap<String, String>,
    pub(crate) now: Timestamp,
    next_block: Timestamp,
    /// Storage preserves order; the network does not.
    writes: Vec<Task>,
    network: Vec<Task>,
    pub(crate) known: BTreeMap<RequestId, Known>,
    pub(crate) statuses: BTreeMap<RequestId, Status>,
    pub(crate) ended: BTreeMap<RequestId, LocalView>,
    pub(crate) alerts: BTreeSet<&'static str>,
    payloads: BTreeMap<u64, Tx>,
    pub(crate) sends: u64,
    pub(crate) users: Vec<(KeySigner, u8)>,
    salt: u64,
    /// Lowest base fee, wei per gas.
    pub(crate) least_base_fee: u128,
    /// The key's final nonce when this process began.
    began: u64,
    /// Records that this process found.
    found: String,
    /// Time at which a request to [`HIDDEN`] has failed alone, for good; `None` while none has, or if processes end.
    suspected_at: Option<Timestamp>,
    /// True if every question is answered.
    pub(crate) is_clear: bool,
    /// Requests that must be in a block by then.
    must_land: Option<(Timestamp, Vec<RequestId>)>,
    /// Hash of everything that happened, in order.
    pub(crate) hash: u64,
    pub(crate) lines: Vec<String>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

pub(crate) fn config() -> LocalConfig {
    LocalConfig {
        finality: FinalityRule::Depth { blocks: FINALITY },
        timing: LocalTiming::Immediate,
        min_priority_fee_wei_per_gas: 1,
        poll_interval: Duration::from_millis(500),
        rpc_timeout: Duration::from_secs(4),
        deadline_skew: Duration::from_secs(2),
        ..LocalConfig::new(CHAIN_ID, Duration::from_secs(BLOCK_S))
    }
}

impl World {
    pub(crate) fn new(seed: u64, faults: Faults, config: LocalConfig) -> Self {
        let key = SessionKey::from_bytes(&[7; 32]).unwrap();
        let now = Timestamp(1_000_020_000);
        let users = (1..=3u8).map(|byte| (KeySigner::from_bytes(&[byte; 32]).unwrap(), 0)).collect();
        Self {
            second: Rng(seed).fork(),
            rng: Rng(seed),
            is_clear: faults.lost_call + faults.lost_answer + faults.nonsense + faults.late == 0,
            faults,
            chain: Chain::new(key.address(), runtime_code()),
            relay: LocalRelay::new(config.clone(), key.clone()).unwrap(),
            config,
            key,
            storage: BTreeMap::new(),
            now,
            next_block: now,
            writes: Vec::new(),
            network: Vec::new(),
            known: BTreeMap::new(),
            statuses: BTreeMap::new(),
            ended: BTreeMap::new(),
            alerts: BTreeSet::new(),
            payloads: BTreeMap::new(),
            sends: 0,
            users,
            salt: 0,
            least_base_fee: GWEI,
            began: 0,
            found: String::new(),
            suspected_at: None,
            must_land: None,
            hash: seed,
            lines: Vec::new(),
            counts: BTreeMap::new(),
        }
    }

    fn note(&mut self, line: &str) {
        let line = format!("{} {line}", self.now);
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.lines.push(line);
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// True with this chance; counted.
    fn strikes(&mut self, what: &'static str, percent: u64) -> bool {
        let strikes = self.rng.chance(percent);
        if strikes {
            self.count(what);
        }
        strikes
    }

    // ---- requests ----

    fn params(&self) -> VehicleParams {
        VehicleParams {
            sender: self.key.address(),
            multicall3: None,
            has_capped_calls: false,
            schedule: *self.config.fork.gas_schedule(),
            forward_overhead_gas: self.config.batch.forward_overhead_gas,
        }
    }

    pub(crate) fn domain() -> ForwarderDomain {
        ForwarderDomain::new("Slackwater", CHAIN_ID, FORWARDER)
    }

    /// The next request of a user.
    pub(crate) fn forward(&mut self, user: usize, to: Address, within: Duration, max_cost: Option<u128>) -> RequestId {
        let (signer, nonce) = self.users[user].clone();
        self.users[user].1 += 1;
        let until = self.now.saturating_add(within).as_secs() + 60;
        let forward = ForwardBuilder::new(Self::domain(), signer.address(), to)
            .data(vec![user as u8, nonce])
            .gas(50_000)
            .nonce(U256::from(nonce))
            .deadline_s(until)
            .build()
            .unwrap()
            .sign(&signer)
            .unwrap();
        let mark = forward.signature.clone();
        let ask = LocalAsk::Forward { forward, domain: Self::domain() };
        self.submit(ask, mark, to, Some((user, nonce)), within, max_cost)
    }

    pub(crate) fn call(&mut self, to: Address, within: Duration, max_cost: Option<u128>) -> RequestId {
        self.call_with(to, 40_000, within, max_cost)
    }

    /// A call with this gas.
    pub(crate) fn call_with(&mut self, to: Address, gas: u64, within: Duration, max_cost: Option<u128>) -> RequestId {
        self.salt += 1;
        let data = Bytes::from(alloy_primitives::keccak256(self.salt.to_be_bytes()).to_vec());
        let salt = self.salt.to_string();
        let (value, gas) = (U256::from(5), U256::from(gas));
        let call = Call { to, value, gas, data: data.clone(), any_sender: false, salt };
        self.submit(LocalAsk::Call(call), data, to, None, within, max_cost)
    }

    fn submit(
        &mut self,
        ask: LocalAsk,
        mark: Bytes,
        to: Address,
        user: Option<(usize, u8)>,
        within: Duration,
        max_cost: Option<u128>,
    ) -> RequestId {
        let call_gas = if let LocalAsk::Call(call) = &ask { Some(21_000 + call.gas.to::<u64>()) } else { None };
        let max_cost_wei = max_cost.map(U256::from);
        let admitted = self.relay.admit(self.now, ask, Some(within), max_cost_wei, 0).unwrap();
        let deadline = self.now.saturating_add(within);
        let gas_alone = call_gas.unwrap_or_else(|| 50_000 + self.params().base_gas());
        let known = Known { mark, deadline, max_cost_wei, gas_alone, to, user };
        self.note(&format!("request {} to {to}, {user:?}, within {within:?}, at most {max_cost:?}", admitted.id));
        self.known.insert(admitted.id, known);
        self.storage.insert(admitted.key.clone(), admitted.record.clone());
        self.relay.take(self.now, &admitted.key, &admitted.record).unwrap();
        self.obey();
        admitted.id
    }

    // ---- the shell ----

    pub(crate) fn crash(&mut self) {
        self.count("crash");
        self.note("crash");
        // Writes in progress: some more of them complete, in order.
        let done = usize::try_from(self.rng.below(self.writes.len() as u64 + 1)).unwrap();
        for task in std::mem::take(&mut self.writes).into_iter().take(done) {
            match task {
                Task::Store { key, record, .. } => drop(self.storage.insert(key, record)),
                Task::Remove { key } => drop(self.storage.remove(&key)),
                Task::Call { .. } | Task::Answer { .. } => unreachable!("no writes"),
            }
        }
        // Calls in transit may still reach the node; their answers are lost.
        self.network.retain(|task| matches!(task, Task::Call { method: "eth_sendRawTransaction", .. }));
        self.relay = LocalRelay::new(self.config.clone(), self.key.clone()).unwrap();
        let report = self.relay.load(self.now, self.storage.clone()).unwrap();
        self.began = self.chain.state_at(self.chain.final_height()).account;
        self.found = self.storage.values().map(String::as_str).collect();
        assert_eq!(report.damaged, [""; 0]);
        // Every request is still known, and ended requests are unchanged.
        for (id, ended) in &self.ended {
            assert_eq!(self.relay.request(*id).as_ref(), Some(ended), "an end was forgotten");
        }
        for id in self.known.keys() {
            let view = self.relay.request(*id).expect("a request was lost");
            self.statuses.insert(*id, view.status);
            if view.status.is_terminal() {
                self.ended.insert(*id, view);
            }
        }
        self.obey();
    }

    /// Carries out commands until there are none.
    fn obey(&mut self) {
        let mut count = 0;
        while let Some(command) = self.relay.next_command() {
            count += 1;
            assert!(count < 2_000, "a busy loop: {command:?}");
            match command {
                LocalCommand::Store { key, revision, record } => {
                    self.writes.push(Task::Store { key, revision, record });
                }
                LocalCommand::Remove { key } => self.writes.push(Task::Remove { key }),
                LocalCommand::Call { call, method, params } => {
                    if method == "eth_sendRawTransaction" {
                        self.check_send(&params);
                    }
                    self.network.push(Task::Call { call, method, params });
                }
                LocalCommand::Changed { id } => self.check_change(id),
                LocalCommand::Alert { code, detail } => {
                    self.note(&format!("alert {code}: {detail}"));
                    self.alerts.insert(code);
                }
            }
            if self.rng.chance(self.faults.crash) {
                return self.crash();
            }
        }
    }

    fn check_change(&mut self, id: RequestId) {
        let view = self.relay.request(id).expect("changed, so known");
        let before = self.statuses.insert(id, view.status).unwrap_or(Status::Queued);
        self.note(&format!("request {id} is {}, {:?}", view.status, view.reason));
        assert!(!self.ended.contains_key(&id) || self.ended[&id] == view, "{id} changed after its end");
        // Several changes may be reported as one; none of them leaves a terminal status.
        assert!(before == view.status || !before.is_terminal(), "{id}: {before} became {}", view.status);
        if view.status != Status::Included {
            self.suspect(id);
        }
        if view.status.is_terminal() {
            let stored = &self.storage[&format!("r:{id}")];
            assert!(stored.contains(&format!("\"status\":\"{}\"", view.status)), "told before it was stored");
            self.count(view.status.as_str());
            self.check_end(&view);
            self.ended.insert(id, view);
        }
    }

    /// A terminal status agrees with the final chain (I1, I9).
    fn check_end(&self, view: &LocalView) {
        let known = &self.known[&view.id];
        let last = self.chain.final_height();
        let ran = self.chain.state_at(last).ran.get(&known.mark).cloned().unwrap_or_default();
        match view.status {
            Status::Finalized => assert_eq!(ran, [true], "I1: {view:?}"),
            // A transaction that fails as a whole leaves no trace of its members.
            Status::Reverted if known.to == HIDDEN => {}
            Status::Reverted => assert_eq!(ran, [false], "I1: {view:?}"),
            _ => assert!(ran.is_empty(), "I1: {view:?} ran all the same"),
        }
        if view.reason == Some(Reason::NonceUsedElsewhere) {
            assert!(self.is_nonce_gone(known), "I9: the nonce of {view:?} is not used");
        }
        if let (Some(cost), Some(most)) = (view.cost_wei, known.max_cost_wei) {
            assert!(cost <= most, "I8: {view:?} cost more than {most}");
        }
    }

    /// True if its forwarder nonce is used for good.
    fn is_nonce_gone(&self, known: &Known) -> bool {
        let Some((user, nonce)) = known.user else { return false };
        let users = &self.chain.state_at(self.chain.final_height()).users;
        users.get(&self.users[user].0.address()).is_some_and(|next| *next > u64::from(nonce))
    }

    /// Requests in this transaction.
    fn members(&self, tx: &Tx) -> impl Iterator<Item = &Known> {
        let data = tx.data.clone();
        self.known.values().filter(move |known| contains(&data, &known.mark))
    }

    /// I2, I3, I4, I7, I8, I11, I14 whenever a transaction is sent.
    fn check_send(&mut self, params: &Value) {
        self.sends += 1;
        let tx = sent(params);
        self.note(&format!("send nonce {} {} for {:?}, {} gas", tx.nonce, tx.hash, tx.fees, tx.gas));
        let text = tx.raw.to_string();
        let is_stored = self.storage.values().any(|record| record.contains(&text));
        assert!(is_stored, "I2: sent before it was stored");
        let is_cancel = tx.to == self.key.address() && tx.data.is_empty() && tx.value.is_zero();
        if is_cancel {
            return;
        }
        let members: Vec<Known> = self.members(&tx).cloned().collect();
        for known in &members {
            assert!(self.now < known.deadline, "I7: sent at {}, deadline {}", self.now, known.deadline);
            if let Some(most) = known.max_cost_wei {
                let worst = U256::from(known.gas_alone) * U256::from(tx.fees.max_fee_per_gas);
                assert!(worst <= most, "I8: {worst} may be above {most}");
            }
            let is_heard = self.chain.has_simulate && self.is_clear;
            assert!(!is_heard || known.to != PRICED, "I11: a target told the simulation by its price");
        }
        if let Some(before) = self.payloads.insert(tx.nonce, tx.clone()) {
            let same = (before.to, before.value, &before.data) == (tx.to, tx.value, &tx.data);
            assert!(same, "I3: nonce {} has a second payload", tx.nonce);
            return;
        }
        let is_new = tx.nonce >= self.began || self.found.contains(&text);
        assert!(is_new, "I4: nonce {} was used for good when the process began", tx.nonce);
        let signers: BTreeSet<Option<usize>> = members.iter().map(|known| known.user.map(|(user, _)| user)).collect();
        let is_suspect = members.iter().any(|known| known.to == HIDDEN)
            && self.suspected_at.is_some_and(|at| {
                self.now > at.saturating_add(SENDS_WITHIN) && self.now < at.saturating_add(IS_SUSPECT_FOR)
            });
        assert!(!is_suspect || signers.len() == 1, "I14: a suspect target's requests have company");
    }

    /// I3 whenever a node takes a transaction: requests leave another nonce only once that is used for good.
    fn check_taken(&self, tx: &Tx) {
        let settled = self.chain.state_at(self.chain.final_height()).account;
        let others = self.chain.taken.iter().filter(|(nonce, _)| **nonce != tx.nonce && **nonce >= settled);
        for (nonce, held) in others {
            for known in self.members(tx) {
                let is_in = held.iter().any(|held| contains(&held.data, &known.mark));
                assert!(!is_in, "I3: a request of nonce {nonce} goes with {} too", tx.nonce);
            }
        }
    }

    /// A nonce keeps its payload only once a node may have it.
    fn drop_refused(&mut self, nonce: u64) {
        let is_on_its_way = |task: &Task| match task {
            Task::Call { method: "eth_sendRawTransaction", params, .. } => sent(params).nonce == nonce,
            _ => false,
        };
        if !self.chain.taken.contains_key(&nonce) && !self.network.iter().any(is_on_its_way) {
            self.payloads.remove(&nonce);
        }
    }

    /// Advances to the next thing that happens.
    pub(crate) fn step(&mut self) {
        if !self.writes.is_empty() && self.rng.chance(60) {
            let task = self.writes.remove(0);
            self.run(task);
        } else if !self.network.is_empty() && self.rng.chance(90) {
            let place =
                if self.strikes("late", self.faults.late) { self.rng.below(self.network.len() as u64) } else { 0 };
            let task = self.network.remove(usize::try_from(place).unwrap());
            self.run(task);
        } else if self.writes.is_empty() {
            self.pass_time();
        }
        self.obey();
    }

    fn pass_time(&mut self) {
        let due = self.relay.next_timeout().unwrap_or(self.next_block).min(self.next_block);
        let least = Timestamp(self.now.0 + 1);
        self.now = due.max(least);
        if self.now >= self.next_block {
            self.next_block = self.now.saturating_add(Duration::from_secs(BLOCK_S));
            self.live();
            self.check_once();
        }
        self.relay.timeout(self.now);
    }

    /// Events of the chain in one block's time.
    fn live(&mut self) {
        let now_s = self.now.as_secs();
        let faults = self.faults;
        if self.strikes("spike", faults.spike) {
            self.chain.base_fee = (self.chain.base_fee * 8).min(2_000 * GWEI);
        } else {
            self.chain.base_fee = (self.chain.base_fee * 7 / 8).max(self.least_base_fee);
        }
        if self.strikes("eviction", faults.eviction) {
            self.chain.pool.clear();
        }
        if self.second.chance(faults.revival) {
            self.revive();
        }
        let spent = if self.second.chance(faults.spend) { self.spendable() } else { None };
        if self.strikes("stranger", faults.stranger) {
            self.chain.stranger(now_s);
        } else if self.strikes("reorg", faults.reorg) {
            let depth = 1 + self.rng.below(FINALITY - 1);
            let keeps = self.rng.chance(50);
            self.note(&format!("reorg of {depth} blocks"));
            self.chain.reorg(depth, keeps, now_s);
        } else if let Some(user) = spent {
            self.count("user nonce spent");
            self.note(&format!("{user} uses a nonce elsewhere"));
            self.chain.spend(user, now_s);
        } else {
            let is_empty = self.strikes("empty block", faults.empty_block);
            self.chain.mine(now_s, is_empty);
        }
        let head = self.chain.blocks.last().unwrap();
        let txs: Vec<String> = head.txs.iter().map(|tx| tx.hash.to_string()).collect();
        let line = format!("block {}, base fee {}: {txs:?}", self.chain.height(), head.base_fee);
        self.note(&line);
        assert_eq!(self.chain.refused_replacements, 0, "I6: a pool refused a replacement");
        self.check_landed();
    }

    /// Puts an attempt that a node once took back into the pool, in place of another one with its nonce.
    fn revive(&mut self) {
        let account = self.chain.state().account;
        let taken: Vec<&Tx> = self.chain.taken.range(account..).flat_map(|(_, taken)| taken).collect();
        if taken.is_empty() {
            return;
        }
        let tx = taken[usize::try_from(self.second.below(taken.len() as u64)).unwrap()].clone();
        self.count("earlier attempt back");
        self.note(&format!("{} is in the pool again", tx.hash));
        self.chain.pool.insert(tx.nonce, tx);
    }

    /// A user's nonce is used elsewhere, and some blocks later a reorg takes that back.
    pub(crate) fn take_back(&mut self, blocks: u64) {
        let Some(user) = self.spendable() else { return };
        self.count("user nonce taken back");
        self.note(&format!("{user} uses a nonce elsewhere"));
        let before = self.chain.height();
        self.chain.spend(user, self.now.as_secs());
        while self.chain.height() < before + blocks {
            self.step();
        }
        let depth = (self.chain.height() - before).min(self.chain.height() - self.chain.final_height());
        self.note(&format!("reorg of {depth} blocks"));
        self.chain.reorg(depth, true, self.now.as_secs());
    }

    /// A user with a request for the next forwarder nonce.
    fn spendable(&mut self) -> Option<Address> {
        let (signer, next) = &self.users[usize::try_from(self.second.below(3)).unwrap()];
        let user = signer.address();
        let used = self.chain.state().users.get(&user).copied().unwrap_or(0);
        (used < u64::from(*next)).then_some(user)
    }

    /// Notes that the relay has seen this request to [`HIDDEN`] fail alone, for good. Suspicion ends with the process.
    fn suspect(&mut self, id: RequestId) {
        let has_crashed = self.counts.contains_key("crash") || self.faults.crash > 0;
        // A call that fails is no surprise: it takes nobody else's gas.
        let is_hidden = self.known[&id].to == HIDDEN && self.known[&id].user.is_some();
        if self.suspected_at.is_some() || has_crashed || !is_hidden {
            return;
        }
        let mut failed = self.chain.paid_until(self.chain.final_height()).filter(|(tx, _, gas)| *gas == tx.gas);
        let is_alone = |tx: &Tx| {
            let mut members = self.members(tx);
            members.next().is_some_and(|known| known.mark == self.known[&id].mark) && members.next().is_none()
        };
        if failed.any(|(tx, _, _)| !tx.is_foreign && is_alone(tx)) {
            self.suspected_at = Some(self.now);
        }
    }

    /// Ends the faults. From now on whatever nothing stands in the way of must land in time.
    pub(crate) fn calm_down(&mut self, gas: u64) {
        self.faults = Faults::default();
        self.note("the faults are over");
        let by = self.now.saturating_add(LANDS_WITHIN);
        let is_open = |id: &RequestId| !self.ended.contains_key(id);
        let may = |known: &Known| {
            let is_long = known.deadline > by.saturating_add(LANDS_WITHIN);
            is_long && known.max_cost_wei.is_none() && known.gas_alone <= gas && known.to == chain::TARGET
        };
        let is_free = |known: &Known| {
            let is_before = |other: &Known| match (other.user, known.user) {
                (Some((user, nonce)), Some((own, last))) => user == own && nonce < last,
                _ => false,
            };
            self.known.iter().filter(|(id, other)| is_open(id) && is_before(other)).all(|(_, other)| may(other))
        };
        let must = self.known.iter().filter(|(id, known)| is_open(id) && may(known) && is_free(known));
        self.must_land = Some((by, must.map(|(id, _)| *id).collect()));
    }

    fn check_landed(&mut self) {
        let Some((_, ids)) = self.must_land.take_if(|(by, _)| self.now >= *by) else { return };
        for id in ids {
            self.count("had to land");
            let view = self.relay.request(id).expect("known");
            let is_over = match view.reason {
                Some(Reason::NonceUsedElsewhere) => true,
                Some(Reason::PredecessorFailed) => self.known[&id].user.is_some_and(|(user, nonce)| {
                    let mut ended = self.ended.iter().filter(|(_, view)| view.status == Status::Rejected);
                    ended.any(|(id, _)| self.known[id].user.is_some_and(|(of, before)| of == user && before < nonce))
                }),
                _ => false,
            };
            let has_landed = matches!(view.status, Status::Included | Status::Finalized | Status::Reverted);
            assert!(has_landed || is_over, "I14: nothing stood in the way of {view:?}");
        }
    }

    /// I1 at every block.
    fn check_once(&self) {
        for (mark, ran) in &self.chain.state().ran {
            assert!(ran.len() <= 1, "I1: {mark} ran {} times", ran.len());
        }
    }

    fn run(&mut self, task: Task) {
        match task {
            Task::Store { key, revision, record } => {
                if self.strikes("failed write", self.faults.failed_write) {
                    self.relay.store_failed(self.now, &key, revision);
                } else {
                    self.storage.insert(key.clone(), record);
                    self.relay.stored(self.now, &key, revision);
                }
            }
            Task::Remove { key } => drop(self.storage.remove(&key)),
            Task::Call { call, method, params } => {
                if self.strikes("lost call", self.faults.lost_call) {
                    return;
                }
                let mut answer = self.chain.answer(method, &params);
                if method == "eth_sendRawTransaction" {
                    let tx = sent(&params);
                    match answer {
                        CallAnswer::Result(_) => self.check_taken(&tx),
                        _ => self.drop_refused(tx.nonce),
                    }
                }
                if self.strikes("garbage answer", self.faults.nonsense) {
                    let texts =
                        ["{}", "[]", "true", "\"x\"", "", "[[1]]", "{\"number\":\"0x1\"}", "\"0x1234567890123456789\""];
                    let text = texts[usize::try_from(self.rng.below(texts.len() as u64)).unwrap()];
                    answer = CallAnswer::Result(text.to_owned());
                }
                if !self.strikes("lost answer", self.faults.lost_answer) {
                    self.network.push(Task::Answer { call, answer });
                }
            }
            Task::Answer { call, answer } => {
                if self.strikes("answer twice", self.faults.twice) {
                    self.network.push(Task::Answer { call, answer: answer.clone() });
                }
                self.relay.answered(self.now, call, answer);
            }
        }
    }

    /// Steps until `is_done`, at most `steps` times.
    pub(crate) fn until(&mut self, what: &str, steps: usize, mut is_done: impl FnMut(&Self) -> bool) {
        for _ in 0..steps {
            if is_done(self) {
                return;
            }
            self.step();
        }
        let (account, keys) = (self.relay.account(), self.storage.keys());
        let (requests, alerts) = (self.relay.requests(), &self.alerts);
        panic!("not within {steps} steps: {what}; {account:?}, {keys:?}, {requests:?}, alerts {alerts:?}");
    }

    pub(crate) fn status(&self, id: RequestId) -> Status {
        self.relay.request(id).expect("known").status
    }

    pub(crate) fn reason(&self, id: RequestId) -> Option<Reason> {
        self.relay.request(id).expect("known").reason
    }

    pub(crate) fn all_ended(&self) -> bool {
        self.known.keys().all(|id| self.ended.contains_key(id))
    }

    /// Checks that, once every request has ended, nothing is left to do and only ends are stored.
    pub(crate) fn check_rest(&mut self) {
        self.until("rest", 20_000, |world| {
            let account = world.relay.account();
            let is_idle = account.in_flight == 0 && account.unfinal == 0;
            is_idle && world.writes.is_empty() && !world.storage.keys().any(|key| key.starts_with("a:"))
        });
        for view in self.ended.values() {
            self.check_end(view);
        }
        self.check_costs();
    }

    /// I8: what a request paid for alone, over all its transactions, is within its maximum.
    fn check_costs(&self) {
        let mut costs: BTreeMap<&Bytes, (U256, U256)> = BTreeMap::new();
        for (tx, price, gas) in self.chain.paid_until(self.chain.final_height()).filter(|(tx, _, _)| !tx.is_foreign) {
            let members: Vec<&Known> = self.members(tx).collect();
            let [known] = members[..] else { continue };
            let Some(most) = known.max_cost_wei else { continue };
            costs.entry(&known.mark).or_insert((U256::ZERO, most)).0 += U256::from(price) * U256::from(gas);
        }
        for (mark, (cost, most)) in costs {
            assert!(cost <= most, "I8: {mark} cost {cost}, more than {most}");
        }
    }
}

/// The transaction of a call that sends one.
fn sent(params: &Value) -> Tx {
    Tx::decode(&serde_json::from_value(params[0].clone()).unwrap())
}

/// True if `data` contains `mark`.
fn contains(data: &[u8], mark: &[u8]) -> bool {
    data.windows(mark.len()).any(|window| window == mark)
}
