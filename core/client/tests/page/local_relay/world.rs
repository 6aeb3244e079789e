//! The machine with its shell: storage, a network that loses and delays, and a clock. A crash may come between any two
//! commands.

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

use super::chain::{BLOCK_S, CHAIN_ID, Chain, FORWARDER, Tx, runtime_code};

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
}

/// Expected properties of a request.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    /// Bytes that identify it on the chain.
    pub(crate) mark: Bytes,
    pub(crate) deadline: Timestamp,
    pub(crate) max_cost_wei: Option<U256>,
    pub(crate) gas_alone: u64,
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
    pub(crate) crashes: u64,
    pub(crate) users: Vec<(KeySigner, u8)>,
    salt: u64,
}

pub(crate) fn config() -> LocalConfig {
    LocalConfig {
        finality: FinalityRule::Depth { blocks: super::chain::FINALITY },
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
            rng: Rng(seed),
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
            crashes: 0,
            users,
            salt: 0,
        }
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
        self.submit(LocalAsk::Forward { forward, domain: Self::domain() }, mark, within, max_cost)
    }

    pub(crate) fn call(&mut self, to: Address, within: Duration, max_cost: Option<u128>) -> RequestId {
        self.salt += 1;
        let data = Bytes::from(alloy_primitives::keccak256(self.salt.to_be_bytes()).to_vec());
        let salt = self.salt.to_string();
        let (value, gas) = (U256::from(5), U256::from(40_000));
        let call = Call { to, value, gas, data: data.clone(), any_sender: false, salt };
        self.submit(LocalAsk::Call(call), data, within, max_cost)
    }

    fn submit(&mut self, ask: LocalAsk, mark: Bytes, within: Duration, max_cost: Option<u128>) -> RequestId {
        let is_call = matches!(ask, LocalAsk::Call(_));
        let max_cost_wei = max_cost.map(U256::from);
        let admitted = self.relay.admit(self.now, ask, Some(within), max_cost_wei, 0).unwrap();
        let deadline = self.now.saturating_add(within);
        let base = if is_call { 0 } else { self.params().base_gas() };
        let gas_alone = if is_call { 61_000 } else { 50_000 + base };
        let known = Known { mark, deadline, max_cost_wei, gas_alone };
        self.known.insert(admitted.id, known);
        self.storage.insert(admitted.key.clone(), admitted.record.clone());
        self.relay.take(self.now, &admitted.key, &admitted.record).unwrap();
        self.obey();
        admitted.id
    }

    // ---- the shell ----

    pub(crate) fn crash(&mut self) {
        self.crashes += 1;
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
                LocalCommand::Alert { code, .. } => drop(self.alerts.insert(code)),
            }
            if self.rng.chance(self.faults.crash) {
                return self.crash();
            }
        }
    }

    fn check_change(&mut self, id: RequestId) {
        let view = self.relay.request(id).expect("changed, so known");
        let before = self.statuses.insert(id, view.status).unwrap_or(Status::Queued);
        assert!(!self.ended.contains_key(&id) || self.ended[&id] == view, "{id} changed after its end");
        // Several changes may be reported as one; none of them leaves a terminal status.
        assert!(before == view.status || !before.is_terminal(), "{id}: {before} became {}", view.status);
        if view.status.is_terminal() {
            let stored = &self.storage[&format!("r:{id}")];
            assert!(stored.contains(&format!("\"status\":\"{}\"", view.status)), "told before it was stored");
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
            Status::Finalized => assert_eq!(ran, [true], "{view:?}"),
            Status::Reverted => assert_eq!(ran, [false], "{view:?}"),
            _ => assert!(ran.is_empty(), "{view:?} ran all the same"),
        }
        if let (Some(cost), Some(most)) = (view.cost_wei, known.max_cost_wei) {
            assert!(cost <= most, "{view:?} cost more than {most} (I8)");
        }
    }

    /// I2, I3, I7, I8 whenever a transaction is sent.
    fn check_send(&mut self, params: &Value) {
        self.sends += 1;
        let raw: Bytes = serde_json::from_value(params[0].clone()).unwrap();
        let is_stored = self.storage.values().any(|record| record.contains(&raw.to_string()));
        assert!(is_stored, "I2: sent before it was stored");
        let tx = Tx::decode(&raw);
        let is_cancel = tx.to == self.key.address() && tx.data.is_empty() && tx.value.is_zero();
        if is_cancel {
            return;
        }
        let known = self.known.values().filter(|known| contains(&tx.data, &known.mark));
        for known in known {
            assert!(self.now < known.deadline, "I7: sent at {}, deadline {}", self.now, known.deadline);
            if let Some(most) = known.max_cost_wei {
                let worst = U256::from(known.gas_alone) * U256::from(tx.fees.max_fee_per_gas);
                assert!(worst <= most, "I8: {worst} may be above {most}");
            }
        }
        if let Some(before) = self.payloads.insert(tx.nonce, tx.clone()) {
            let same = (before.to, before.value, &before.data) == (tx.to, tx.value, &tx.data);
            assert!(same, "I3: nonce {} has a second payload", tx.nonce);
        }
    }

    /// Advances to the next thing that happens.
    pub(crate) fn step(&mut self) {
        if !self.writes.is_empty() && self.rng.chance(60) {
            let task = self.writes.remove(0);
            self.run(task);
        } else if !self.network.is_empty() && self.rng.chance(90) {
            let place = if self.rng.chance(self.faults.late) { self.rng.below(self.network.len() as u64) } else { 0 };
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
        if self.rng.chance(faults.spike) {
            self.chain.base_fee = (self.chain.base_fee * 8).min(2_000 * super::chain::GWEI);
        } else {
            self.chain.base_fee = (self.chain.base_fee * 7 / 8).max(super::chain::GWEI);
        }
        if self.rng.chance(faults.eviction) {
            self.chain.pool.clear();
        }
        if self.rng.chance(faults.stranger) {
            self.chain.stranger(now_s);
        } else if self.rng.chance(faults.reorg) {
            let depth = 1 + self.rng.below(super::chain::FINALITY - 1);
            let keeps = self.rng.chance(50);
            self.chain.reorg(depth, keeps, now_s);
        } else {
            let is_empty = self.rng.chance(faults.empty_block);
            self.chain.mine(now_s, is_empty);
        }
    }

    /// I1 at every block.
    fn check_once(&self) {
        for (mark, ran) in self.chain.state().ran {
            assert!(ran.len() <= 1, "I1: {mark} ran {} times", ran.len());
        }
    }

    fn run(&mut self, task: Task) {
        match task {
            Task::Store { key, revision, record } => {
                if self.rng.chance(self.faults.failed_write) {
                    self.relay.store_failed(self.now, &key, revision);
                } else {
                    self.storage.insert(key.clone(), record);
                    self.relay.stored(self.now, &key, revision);
                }
            }
            Task::Remove { key } => drop(self.storage.remove(&key)),
            Task::Call { call, method, params } => {
                if self.rng.chance(self.faults.lost_call) {
                    return;
                }
                let mut answer = self.chain.answer(method, &params);
                if self.rng.chance(self.faults.nonsense) {
                    let texts =
                        ["{}", "[]", "true", "\"x\"", "", "[[1]]", "{\"number\":\"0x1\"}", "\"0x1234567890123456789\""];
                    let text = texts[usize::try_from(self.rng.below(texts.len() as u64)).unwrap()];
                    answer = CallAnswer::Result(text.to_owned());
                }
                if !self.rng.chance(self.faults.lost_answer) {
                    self.network.push(Task::Answer { call, answer });
                }
            }
            Task::Answer { call, answer } => {
                if self.rng.chance(self.faults.twice) {
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
        panic!("not within {steps} steps: {what}; {:?}; alerts {:?}", self.relay.requests(), self.alerts);
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
    }
}

/// True if `data` contains `mark`.
fn contains(data: &[u8], mark: &[u8]) -> bool {
    data.windows(mark.len()).any(|window| window == mark)
}
