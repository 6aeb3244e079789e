//! Everything outside the relay's process, and its events: blocks, nodes, messages in transit, crashes, time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fmt::Write as _,
    sync::Arc,
};

use alloy_primitives::{Address, B256, Bytes, U256};
use slackwater::LocalSigner;
use slackwater_core::{
    Timestamp,
    chain::{
        ChainSpec, ClientRule,
        data_fee::{DataFeeModel, OpFork, OpL1Params},
    },
    request::RequestId,
};
use slackwater_ledger::MemoryStore;
use tokio::{sync::Notify, time::Instant};

use crate::{
    chain::{self, BLOCK_GAS, Block, Signatures, State, Tx},
    check::Checker,
    hostile::Lie,
    payments::PAYERS_FRIENDS,
    plan::{Faults, Happening, Operation, Plan},
    rng::{Rng, mix},
};

/// Start of simulated time, Unix ms.
pub(crate) const EPOCH_MS: u64 = 1_700_000_000_000;
/// Number of lines kept for the timeline.
const KEPT_LINES: usize = 4_000;

/// One RPC node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) rule: ClientRule,
    pub(crate) tip: Arc<Block>,
    /// Sequence number of `tip`.
    pub(crate) seen: u64,
    /// Its pool, by sender and nonce.
    pub(crate) pool: BTreeMap<(Address, u64), Arc<Tx>>,
    /// Its usual lag, ms.
    pub(crate) lag_ms: u64,
    pub(crate) is_liar: bool,
    pub(crate) is_down_until: u64,
    pub(crate) has_simulate: bool,
    pub(crate) has_tag: bool,
}

#[derive(Debug)]
pub(crate) enum Event {
    Block,
    See {
        node: usize,
        tip: Arc<Block>,
        seen: u64,
    },
    Gossip {
        node: usize,
        tx: Arc<Tx>,
    },
    /// Bytes that arrive late, whether or not a caller still waits.
    Late {
        node: usize,
        raw: Bytes,
    },
    Reorg,
    Crash,
    Outage,
    Stranger,
    Spend,
    Pay,
    TopUp,
    Drain,
    CalmDown,
    Backup,
    Stop,
    /// A reorg of the greatest possible depth.
    TakeBack,
}

/// Event counts of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(pub(crate) BTreeMap<&'static str, u64>);

impl Counts {
    /// All counts, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(name, count)| (*name, *count))
    }

    /// The count of `name`; 0 if it did not occur.
    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        for (name, count) in other.iter() {
            *self.0.entry(name).or_default() += count;
        }
    }
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) spec: ChainSpec,
    pub(crate) plan: Plan,
    pub(crate) faults: Faults,
    pub(crate) is_calm: bool,
    /// tokio's clock at the start of this process; `None` while none runs.
    clock: Option<Instant>,
    /// Simulated time at that start, Unix ms.
    began: u64,
    pub(crate) wake: Arc<Notify>,
    pub(crate) events: BTreeMap<(u64, u64), Event>,
    order: u64,
    pub(crate) head: Arc<Block>,
    pub(crate) seen: u64,
    pub(crate) nodes: Vec<Node>,
    /// Every transaction that ever reached a node: any of them may be mined.
    pub(crate) known: BTreeMap<B256, Arc<Tx>>,
    pub(crate) decoded: HashMap<Bytes, Arc<Tx>>,
    pub(crate) signatures: Signatures,
    pub(crate) operations: Vec<Operation>,
    pub(crate) keys: Vec<LocalSigner>,
    /// True while the process is dead: nothing it started touches the world any more.
    pub(crate) is_crashed: bool,
    pub(crate) crash: Arc<Notify>,
    pub(crate) store: MemoryStore,
    pub(crate) backup: Option<MemoryStore>,
    pub(crate) checker: Checker,
    pub(crate) counts: Counts,
    pub(crate) hash: u64,
    lines: VecDeque<String>,
    pub(crate) violation: Option<String>,
    /// Share of a block's gas that other users take, thousandths.
    pub(crate) pressure: u64,
    pub(crate) salt: u64,
    pub(crate) incarnation: u32,
    /// True if the operator stops the process.
    pub(crate) wants_stop: bool,
    /// Generator of the hostile elements.
    pub(crate) hostile_rng: Rng,
    /// True once the last lane's key is removed from the configuration.
    pub(crate) is_signer_removed: bool,
    /// True until the last lane's key is added to the configuration.
    pub(crate) is_signer_missing: bool,
    /// Number of blocks that are still to be empty.
    pub(crate) empty_slots: u64,
    /// Seed of the random choices of each block in runs that are compared; `None` in others.
    pub(crate) paired: Option<u64>,
}

impl World {
    pub(crate) fn new(seed: u64, hostile_rng: Rng, plan: Plan, spec: ChainSpec) -> Self {
        let mut rng = Rng::new(seed);
        let keys: Vec<LocalSigner> = (0..plan.lanes).map(|lane| key(seed, 0x1a0e + lane as u64)).collect();
        let mut state = State::default();
        for key in &keys {
            state.balances.insert(key.address(), plan.balance);
        }
        if plan.payments > 0 {
            state.balances.extend(PAYERS_FRIENDS.map(|friend| (friend, U256::from(10u128.pow(24)))));
        }
        let genesis = Arc::new(Block {
            number: 1_000,
            hash: chain::block_hash(B256::ZERO, 1_000, seed),
            parent: None,
            timestamp_s: EPOCH_MS / 1_000,
            base_fee: plan.base_fee,
            gas_used: plan.hostility.block_gas_or(BLOCK_GAS) / 2,
            gas_limit: plan.hostility.block_gas_or(BLOCK_GAS),
            tip: 1_000_000_000,
            txs: Vec::new(),
            state,
        });
        let nodes = (0..plan.nodes)
            .map(|place| Node {
                rule: *rng.pick(&ClientRule::PRICED),
                tip: genesis.clone(),
                seen: 0,
                pool: BTreeMap::new(),
                lag_ms: if rng.permille(plan.faults.lag) { rng.within(0, 3_000) } else { rng.within(0, 60) },
                // A minority at most.
                is_liar: place * 2 + 2 < plan.nodes && plan.faults.lies > 0 && rng.permille(700),
                is_down_until: 0,
                has_simulate: (rng.permille(850) || plan.is_paired) && !plan.hostility.has_no_simulation,
                has_tag: true,
            })
            .collect();
        let mut world = Self {
            spec,
            faults: plan.faults,
            is_calm: false,
            clock: None,
            began: EPOCH_MS,
            wake: Arc::new(Notify::new()),
            events: BTreeMap::new(),
            order: 0,
            head: genesis,
            seen: 0,
            nodes,
            known: BTreeMap::new(),
            decoded: HashMap::new(),
            signatures: Signatures::default(),
            operations: Vec::new(),
            keys,
            is_crashed: false,
            crash: Arc::new(Notify::new()),
            store: MemoryStore::new(),
            backup: None,
            checker: Checker::default(),
            counts: Counts::default(),
            hash: seed,
            lines: VecDeque::new(),
            violation: None,
            pressure: 500,
            salt: 0,
            incarnation: 0,
            wants_stop: false,
            hostile_rng,
            is_signer_removed: false,
            is_signer_missing: plan.hostility.adds_signer,
            empty_slots: 0,
            paired: plan.is_paired.then(|| mix(seed)),
            rng,
            plan,
        };
        if world.nodes.iter().filter(|node| node.is_liar).count() * 2 >= world.nodes.len() {
            world.nodes.iter_mut().for_each(|node| node.is_liar = false);
        }
        // The lying node is one of the lagging ones.
        let behind = if world.plan.behind_ms > 0 { world.nodes.len() - 1 } else { 0 };
        for node in world.nodes.iter_mut().take(behind) {
            node.lag_ms = world.rng.within(0, world.plan.behind_ms);
        }
        if world.plan.hostility.behind_ms > 0 {
            world.nodes[0].lag_ms = world.plan.hostility.behind_ms;
        }
        // The position of the lying node is random.
        let turn = world.rng.below(world.nodes.len() as u64) as usize;
        if world.plan.hostility.behind_ms == 0 {
            world.nodes.rotate_left(turn);
        }
        world.schedule();
        world
    }

    /// Schedules the events.
    fn schedule(&mut self) {
        let (from, calm) = (EPOCH_MS, EPOCH_MS + self.plan.calm_after_ms);
        let block_ms = self.spec.block_time_ms;
        self.at(from + block_ms, Event::Block);
        self.at(calm, Event::CalmDown);
        let faults = self.faults;
        for (count, make) in [
            (faults.crashes, (|| Event::Crash) as fn() -> Event),
            (faults.reorgs, || Event::Reorg),
            (faults.stops, || Event::Stop),
            (faults.outages, || Event::Outage),
            (faults.strangers, || Event::Stranger),
            (faults.foreign_spends, || Event::Spend),
            (faults.foreign_payments, || Event::Pay),
        ] {
            for _ in 0..count {
                let at = self.rng.within(from + 2 * block_ms, calm);
                self.at(at, make());
            }
        }
        if faults.restores_backup {
            let at = self.rng.within(from + 10 * block_ms, calm);
            self.at(at, Event::Backup);
        }
        if self.plan.top_up_after_ms > 0 {
            self.at(from + self.plan.top_up_after_ms, Event::TopUp);
        }
        for (at, happening) in self.plan.timeline.clone() {
            let event = match happening {
                Happening::Drain => Event::Drain,
                Happening::Reorg => Event::TakeBack,
            };
            self.at(from + at, event);
        }
    }

    /// Starts the clock of a process: inside its runtime.
    pub(crate) fn start_clock(&mut self) {
        self.clock = Some(Instant::now());
        slackwater::internal::simulated::set_clock(Some(Timestamp(self.began)));
        self.crash = Arc::new(Notify::new());
        self.wake = Arc::new(Notify::new());
        self.is_crashed = false;
        self.wants_stop = false;
        self.incarnation += 1;
    }

    /// Stops it: still inside the process's runtime.
    pub(crate) fn stop_clock(&mut self) {
        self.began = self.now();
        self.clock = None;
        self.is_crashed = true;
        slackwater::internal::simulated::set_clock(None);
    }

    pub(crate) fn now(&self) -> u64 {
        let elapsed = self.clock.map_or(0, |start| u64::try_from(start.elapsed().as_millis()).unwrap_or(0));
        self.began + elapsed
    }

    pub(crate) fn at(&mut self, at: u64, event: Event) {
        self.order += 1;
        if at < self.next_event() {
            self.wake.notify_one();
        }
        self.events.insert((at, self.order), event);
    }

    pub(crate) fn count(&mut self, name: &'static str) {
        *self.counts.0.entry(name).or_default() += 1;
    }

    /// Records an event in one line: hashed, and kept for the timeline.
    pub(crate) fn note(&mut self, line: std::fmt::Arguments<'_>) {
        let now = self.now() - EPOCH_MS;
        let mut text = String::with_capacity(96);
        let _ = write!(text, "{:>4}.{:03} ", now / 1_000, now % 1_000);
        let _ = text.write_fmt(line);
        for chunk in text.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.hash = mix(self.hash ^ u64::from_le_bytes(word));
        }
        if self.lines.len() == KEPT_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(text);
    }

    /// Time passes without a relay: the miner mines whatever is still valid.
    pub(crate) fn epilogue(&mut self) {
        self.faults.revenants = 600;
        self.faults.any_attempt = 500;
        for _ in 0..2 * self.plan.finality + 8 {
            self.began += self.spec.block_time_ms;
            self.mine(self.began);
        }
    }

    /// Records a violation: the first one ends the run.
    pub(crate) fn violate(&mut self, what: String) {
        if self.violation.is_none() {
            self.note(format_args!("VIOLATION {what}"));
            self.violation = Some(what);
            self.crash.notify_one();
        }
    }

    /// Lines that mention the violation's subjects, and events that concern everything.
    pub(crate) fn timeline(&self) -> Vec<String> {
        let what = self.violation.clone().unwrap_or_default();
        let words: BTreeSet<&str> = what
            .split(|c: char| !(c.is_alphanumeric() || c == '#' || c == '='))
            .filter(|word| word.contains('#') || word.contains('=') || (word.starts_with("0x") && word.len() > 5))
            .collect();
        let general = ["crash", "start", "reorg", "calm", "VIOLATION", "stranger", "backup", "outage"];
        let is_near = |line: &&String| {
            general.iter().any(|word| line.contains(word)) || words.iter().any(|word| line.contains(word))
        };
        let mut found: Vec<String> = self.lines.iter().filter(is_near).cloned().collect();
        let skip = found.len().saturating_sub(70);
        found.drain(..skip);
        found
    }

    /// Every kept line.
    pub(crate) fn all_lines(&self) -> impl Iterator<Item = &String> {
        self.lines.iter()
    }

    pub(crate) fn crash_now(&mut self, why: &str) {
        if !self.is_crashed {
            self.is_crashed = true;
            self.count("crash");
            self.note(format_args!("crash: {why}"));
            self.crash.notify_one();
        }
    }

    pub(crate) fn next_event(&self) -> u64 {
        self.events.keys().next().map_or(u64::MAX, |(at, _)| *at)
    }

    /// Executes all due events.
    pub(crate) fn step(&mut self) {
        let now = self.now();
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let event = entry.remove();
            self.happen(now, event);
        }
    }

    /// L1 data fee of a block.
    pub(crate) fn data_fee_at(&self, number: u64) -> DataFeeModel {
        let Some(fee) = &self.plan.data_fee else { return DataFeeModel::None };
        let factor = if fee.rise.contains(&(number - 1_000)) { fee.factor } else { 1 };
        let params = OpL1Params {
            l1_base_fee: U256::from(fee.l1_base_fee.saturating_mul(factor)),
            base_fee_scalar: 5_227,
            blob_base_fee: U256::from(factor),
            blob_base_fee_scalar: 1_014_213,
            ..OpL1Params::default()
        };
        DataFeeModel::OpStack(OpFork::Fjord, params)
    }

    /// True for the first node, the fastest, if it lags, freezes or lies in this run.
    pub(crate) const fn is_harmful(&self, node: usize) -> bool {
        let hostility = &self.plan.hostility;
        node == 0 && (hostility.frozen_at_ms > 0 || hostility.behind_ms > 0 || !matches!(hostility.lie, Lie::None))
    }

    /// True if the node is frozen for good.
    fn is_frozen(&self, node: usize) -> bool {
        let at = self.plan.hostility.frozen_at_ms;
        at > 0 && node == 0 && self.elapsed() >= at
    }

    /// True if the node, the last one, is gone for good.
    pub(crate) fn is_gone(&self, node: usize) -> bool {
        let at = self.plan.hostility.gone_at_ms;
        at > 0 && node + 1 == self.nodes.len() && self.elapsed() >= at
    }

    /// Sets the lanes' balances with the next block.
    fn set_balances(&mut self, now: u64, wei: U256) {
        let head = self.head.clone();
        let mut state = head.state.clone();
        for key in &self.keys {
            state.balances.insert(key.address(), wei);
        }
        self.extend(now, head, Vec::new(), state);
    }

    fn happen(&mut self, now: u64, event: Event) {
        match event {
            Event::Block => {
                self.mine(now);
                let block_ms = self.spec.block_time_ms;
                // Slots are missed now and then.
                let wait = if !self.is_calm && self.rng.permille(40) { 2 * block_ms } else { block_ms };
                self.at(now + wait, Event::Block);
            }
            Event::See { node, tip, seen } => {
                if self.nodes[node].seen < seen && !self.is_frozen(node) {
                    self.nodes[node].seen = seen;
                    self.nodes[node].tip = tip;
                    self.tidy(node);
                }
            }
            Event::Gossip { node, tx } => {
                let _ = self.take(node, &tx);
            }
            Event::Late { node, raw } => {
                self.count("late delivery");
                let _ = self.receive(node, &raw);
            }
            Event::Reorg if !self.is_calm => self.reorg(now, false),
            Event::TakeBack => self.reorg(now, true),
            Event::Stop if !self.is_calm => {
                self.is_signer_removed |= self.plan.hostility.removes_signer;
                self.is_signer_missing = false;
                self.count("orderly stop");
                self.wants_stop = true;
            }
            Event::Crash if !self.is_calm => self.crash_now("at a random moment"),
            Event::Outage if !self.is_calm => {
                let node = self.rng.below(self.nodes.len() as u64) as usize;
                let until = now + self.rng.within(1_000, 15_000);
                self.nodes[node].is_down_until = until;
                self.count("outage");
                self.note(format_args!("outage of node {node}"));
            }
            Event::Stranger if !self.is_calm => self.stranger(),
            Event::Spend if !self.is_calm => self.spend_user_nonce(),
            Event::Pay if !self.is_calm => self.pay_elsewhere(),
            Event::Backup => match self.backup.take() {
                None => {
                    self.backup = Some(self.store.snapshot());
                    self.note(format_args!("backup taken"));
                    let later = now + self.rng.within(3_000, 15_000);
                    self.at(later, Event::Backup);
                }
                Some(backup) => {
                    self.crash_now("the ledger is lost");
                    self.note(format_args!("backup restored"));
                    self.count("backup restored");
                    self.store = backup;
                    self.checker.restored(&self.store);
                    let kept: BTreeSet<RequestId> = self.store.requests().into_iter().map(|record| record.id).collect();
                    for operation in &mut self.operations {
                        operation.forget_unless(&kept);
                    }
                }
            },
            Event::TopUp => {
                self.note(format_args!("top-up"));
                self.set_balances(now, U256::from(10u128.pow(21)));
            }
            Event::Drain => {
                self.count("drained");
                self.note(format_args!("somebody takes the lanes' money"));
                self.set_balances(now, U256::ZERO);
            }
            Event::CalmDown => {
                self.note(format_args!("calm from here on"));
                self.is_calm = true;
                let seconds = self.faults.slow_ms;
                self.faults = Faults { slow_ms: seconds, ..Faults::default() };
                for node in &mut self.nodes {
                    node.is_liar = false;
                    node.is_down_until = 0;
                    node.lag_ms = 20;
                }
                if self.plan.hostility.behind_ms > 0 {
                    self.nodes[0].lag_ms = self.plan.hostility.behind_ms;
                }
                self.pressure = 450;
                if self.plan.top_up_after_ms > 0 {
                    // A reorg may have reverted the first payment.
                    self.at(now + 10, Event::TopUp);
                }
            }
            Event::Reorg | Event::Stop | Event::Crash | Event::Outage | Event::Stranger | Event::Spend | Event::Pay => {
            }
        }
    }
}

pub(crate) fn short(hash: B256) -> String {
    hash.to_string()[..8].to_owned()
}

/// A key derived from a seed and a number.
pub(crate) fn key(seed: u64, number: u64) -> LocalSigner {
    let mut bytes = [0; 32];
    bytes[8..16].copy_from_slice(&mix(seed ^ number).to_be_bytes());
    bytes[16..24].copy_from_slice(&(number + 1).to_be_bytes());
    bytes[24..].copy_from_slice(&mix(number).to_be_bytes());
    LocalSigner::from_bytes(&bytes).expect("below the order of the curve")
}
