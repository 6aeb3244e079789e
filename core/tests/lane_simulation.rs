//! The lane on a scripted chain: lost and late answers, reorgs, spikes, crashes, strangers with the same key. After every
//! step its invariants are checked; once the faults stop, everything must end.
//!
//! A seed is a run: every failure prints it.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use slackwater::{
    Timestamp,
    chain::{ClientRule, Fees, ReplacementRule, RpcErrorClass},
    lane::{
        AttemptKey, AttemptKind, Command, Event, HeadInfo, Lane, LaneAlert, LaneConfig, LaneError, Plan, PollPurpose,
        RestoredSlot, SendOutcome, TxToSign,
    },
    request::{LaneId, outcome::TxReceipt, vehicle::Payload},
};

const GWEI: u128 = 1_000_000_000;
const SENDER: Address = Address::repeat_byte(0x5e);
const FINALITY: u64 = 6;
const BLOCK_MS: u64 = 2_000;
const CANCEL_GAS: u64 = 21_000;
const MAX_ATTEMPTS: u32 = 4;
const MAX_IN_FLIGHT: usize = 5;
const BUMP_AFTER: u64 = 3;
const CANCEL_CEILING: u128 = 5_000 * GWEI;

/// splitmix64.
#[derive(Debug, Clone)]
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Tx {
    nonce: u64,
    hash: B256,
    fees: Fees,
    gas: u64,
    is_foreign: bool,
}

#[derive(Debug, Clone)]
struct Block {
    hash: B256,
    base_fee: u128,
    txs: Vec<Tx>,
}

/// What the chain and the nodes do. Percentages.
#[derive(Debug, Clone, Copy)]
struct Faults {
    lost_send: u64,
    silent_send: u64,
    refused_send: u64,
    late: u64,
    twice: u64,
    incomplete: u64,
    stale_read: u64,
    missing_read: u64,
    reorg: u64,
    eviction: u64,
    foreign: u64,
    old_attempt: u64,
    crash: u64,
    abandon: u64,
    empty_block: u64,
    spike: u64,
    drained: u64,
}

impl Faults {
    const NONE: Self = Self {
        lost_send: 0,
        silent_send: 0,
        refused_send: 0,
        late: 0,
        twice: 0,
        incomplete: 0,
        stale_read: 0,
        missing_read: 0,
        reorg: 0,
        eviction: 0,
        foreign: 0,
        old_attempt: 0,
        crash: 0,
        abandon: 0,
        empty_block: 0,
        spike: 0,
        drained: 0,
    };

    fn random(rng: &mut Rng) -> Self {
        let mut some = |most: u64| if rng.chance(50) { rng.below(most) } else { 0 };
        Self {
            lost_send: some(30),
            silent_send: some(40),
            refused_send: some(30),
            late: some(60),
            twice: some(20),
            incomplete: some(50),
            stale_read: some(60),
            missing_read: some(40),
            reorg: some(25),
            eviction: some(20),
            foreign: some(6),
            old_attempt: some(80),
            crash: some(8),
            abandon: some(8),
            empty_block: some(60),
            spike: some(8),
            drained: some(10),
        }
    }
}

/// What a shell does with a command, later.
#[derive(Debug, Clone)]
enum Task {
    Persist(AttemptKey),
    Send(AttemptKey),
    Poll { nonce: u64, hashes: Vec<B256>, purpose: PollPurpose, at_block: u64 },
    Tell(Event),
}

#[derive(Debug, Clone)]
struct Attempt {
    kind: AttemptKind,
    fees: Fees,
    hash: B256,
    /// A node took it at some time.
    is_accepted: bool,
    /// The lane was left in doubt about it.
    is_ambiguous: bool,
    /// On the wire.
    is_sending: bool,
    /// A node said that it holds something for this nonce. May be outbid, need not be.
    is_suspect: bool,
}

impl Attempt {
    /// What a replacement has to beat, as far as anybody can know.
    const fn is_held(&self) -> bool {
        self.is_accepted || self.is_ambiguous || self.is_sending
    }
}

#[derive(Debug, Clone, Default)]
struct Ledger {
    plans: BTreeMap<u64, Plan>,
    attempts: BTreeMap<u64, Vec<Attempt>>,
    is_broadcast: BTreeSet<u64>,
    is_included: BTreeSet<u64>,
    ended: BTreeSet<u64>,
}

struct World {
    rng: Rng,
    faults: Faults,
    config: LaneConfig,
    clients: Vec<ClientRule>,
    refuses_gaps: bool,
    lane: Lane,
    now: Timestamp,
    blocks: Vec<Block>,
    salt: u64,
    base_fee: u128,
    spike_left: u64,
    /// One pool per client.
    pools: Vec<BTreeMap<u64, Tx>>,
    /// Everything that some builder may still hold.
    builders: BTreeMap<u64, Vec<Tx>>,
    balance: U256,
    signed: BTreeMap<AttemptKey, TxToSign>,
    ledger: Ledger,
    /// Plans of nonces that are being committed.
    planned: BTreeMap<u64, Plan>,
    tasks: Vec<Task>,
    head: HeadInfo,
    alerts: Vec<LaneAlert>,
    finals: BTreeMap<u64, B256>,
    lost: BTreeSet<u64>,
    broadcasts: u64,
    highest_latest: u64,
    sent_once: BTreeSet<u64>,
}

fn hash_of(tx: &TxToSign) -> B256 {
    keccak256(format!("{tx:?}"))
}

fn config(replacement: ReplacementRule) -> LaneConfig {
    LaneConfig {
        id: LaneId { chain_id: 1, sender: SENDER },
        max_in_flight: MAX_IN_FLIGHT,
        replacement,
        bump_after_blocks: BUMP_AFTER,
        rebroadcast_after_blocks: 2,
        max_attempts: MAX_ATTEMPTS,
        max_fee_ceiling_wei_per_gas: CANCEL_CEILING,
        cancel_gas: CANCEL_GAS,
    }
}

impl World {
    fn new(seed: u64, faults: Faults, replacement: ReplacementRule, clients: Vec<ClientRule>) -> Self {
        let config = config(replacement);
        let mut rng = Rng(seed);
        let refuses_gaps = rng.chance(50);
        let mut world = Self {
            lane: Lane::restore(config.clone(), None, Vec::new()),
            faults,
            pools: vec![BTreeMap::new(); clients.len()],
            clients,
            refuses_gaps,
            config,
            now: Timestamp(1_000_000_000),
            blocks: Vec::new(),
            salt: 0,
            base_fee: 10 * GWEI,
            spike_left: 0,
            builders: BTreeMap::new(),
            balance: ether(100),
            signed: BTreeMap::new(),
            ledger: Ledger::default(),
            planned: BTreeMap::new(),
            tasks: Vec::new(),
            head: HeadInfo { number: 0, timestamp_s: 0, next_base_fee: 0, quote: Fees::default(), final_block: None },
            alerts: Vec::new(),
            finals: BTreeMap::new(),
            lost: BTreeSet::new(),
            broadcasts: 0,
            highest_latest: 0,
            sent_once: BTreeSet::new(),
            rng,
        };
        for _ in 0..FINALITY {
            world.push_block(Vec::new());
        }
        world.look();
        world
    }

    // ---- the chain ----

    fn push_block(&mut self, txs: Vec<Tx>) {
        self.salt += 1;
        let hash = keccak256([self.salt.to_be_bytes(), (self.blocks.len() as u64).to_be_bytes()].concat());
        self.blocks.push(Block { hash, base_fee: self.base_fee, txs });
    }

    fn nonce_at(&self, height: u64) -> u64 {
        self.blocks.iter().take(usize::try_from(height).unwrap() + 1).map(|block| block.txs.len() as u64).sum()
    }

    fn height(&self) -> u64 {
        self.blocks.len() as u64 - 1
    }

    fn nonce(&self) -> u64 {
        self.nonce_at(self.height())
    }

    fn find(&self, hash: B256, height: u64) -> Option<Box<TxReceipt>> {
        let blocks = self.blocks.iter().enumerate().take(usize::try_from(height).unwrap() + 1);
        blocks.flat_map(|(number, block)| block.txs.iter().map(move |tx| (number, block, tx))).find_map(
            |(number, block, tx)| {
                (tx.hash == hash && !tx.is_foreign).then(|| {
                    Box::new(TxReceipt {
                        hash,
                        block_number: number as u64,
                        block_hash: block.hash,
                        is_success: true,
                        gas_used: tx.gas,
                        effective_gas_price: tx.fees.effective_gas_price(block.base_fee),
                        extra_fee_wei: U256::ZERO,
                        logs: Vec::new(),
                    })
                })
            },
        )
    }

    /// The transaction that the canonical chain holds for `nonce`.
    fn mined(&self, nonce: u64) -> Option<(u64, &Tx)> {
        self.blocks
            .iter()
            .enumerate()
            .find_map(|(number, block)| block.txs.iter().find(|tx| tx.nonce == nonce).map(|tx| (number as u64, tx)))
    }

    fn mine(&mut self) {
        if self.spike_left > 0 {
            self.spike_left -= 1;
            if self.spike_left == 0 {
                self.base_fee = 10 * GWEI;
            }
        } else if self.rng.chance(self.faults.spike) {
            self.base_fee = self.base_fee.saturating_mul(100);
            self.spike_left = 1 + self.rng.below(20);
        }
        let step = self.base_fee / 8;
        self.base_fee = if self.rng.chance(50) { self.base_fee + step } else { (self.base_fee - step).max(GWEI / 10) };
        self.base_fee = self.base_fee.min(20_000 * GWEI);
        let mut txs = Vec::new();
        if !self.rng.chance(self.faults.empty_block) {
            let mut nonce = self.nonce();
            if self.rng.chance(self.faults.foreign) {
                self.salt += 1;
                let hash = keccak256(self.salt.to_le_bytes());
                txs.push(Tx { nonce, hash, fees: Fees::default(), gas: 21_000, is_foreign: true });
                nonce += 1;
            }
            while let Some(tx) = self.choose(nonce) {
                let cost = U256::from(tx.gas) * U256::from(tx.fees.effective_gas_price(self.base_fee));
                self.balance = self.balance.saturating_sub(cost);
                txs.push(tx);
                nonce += 1;
            }
        }
        self.push_block(txs);
    }

    /// What a builder takes for `nonce`: usually the newest, sometimes one that was replaced long ago.
    fn choose(&mut self, nonce: u64) -> Option<Tx> {
        let base_fee = self.base_fee;
        let fits = |tx: &&Tx| tx.fees.is_includable(base_fee);
        let held: Vec<Tx> = self.builders.get(&nonce).into_iter().flatten().filter(fits).cloned().collect();
        if !held.is_empty() && self.rng.chance(self.faults.old_attempt) {
            let index = usize::try_from(self.rng.below(held.len() as u64)).unwrap();
            return Some(held[index].clone());
        }
        self.pools.iter().filter_map(|pool| pool.get(&nonce)).find(fits).cloned()
    }

    fn reorg(&mut self, depth: u64) {
        let keep = self.blocks.len() - usize::try_from(depth).unwrap();
        let orphaned = self.blocks.split_off(keep);
        for tx in orphaned.into_iter().flat_map(|block| block.txs).filter(|tx| !tx.is_foreign) {
            if self.rng.chance(50) {
                self.pools[0].entry(tx.nonce).or_insert(tx);
            }
        }
        for _ in 0..depth {
            self.mine();
        }
    }

    /// A node's answer to these bytes.
    fn accept(&mut self, client: usize, tx: &Tx) -> SendOutcome {
        use RpcErrorClass as C;
        let account = self.nonce();
        if tx.nonce < account {
            let known = self.mined(tx.nonce).is_some_and(|(_, mined)| mined.hash == tx.hash);
            return if known { SendOutcome::Taken } else { SendOutcome::Maybe(C::NonceTooLow) };
        }
        if self.pools[client].get(&tx.nonce).is_some_and(|held| held.hash == tx.hash) {
            return SendOutcome::Taken;
        }
        let worst = |tx: &Tx| U256::from(tx.gas) * U256::from(tx.fees.max_fee_per_gas);
        let pooled = self.pools[client].range(account..).filter(|(nonce, _)| **nonce != tx.nonce);
        let pooled = pooled.fold(U256::ZERO, |sum, (_, tx)| sum + worst(tx));
        if pooled + worst(tx) > self.balance {
            return SendOutcome::Refused(C::InsufficientFunds);
        }
        if let Some(held) = self.pools[client].get(&tx.nonce)
            && !self.clients[client].accepts(held.fees, tx.fees, self.base_fee)
        {
            return SendOutcome::Refused(C::ReplacementUnderpriced);
        }
        if self.refuses_gaps && (account..tx.nonce).any(|nonce| !self.pools[client].contains_key(&nonce)) {
            return SendOutcome::Refused(C::NonceGap);
        }
        self.pools[client].insert(tx.nonce, tx.clone());
        self.builders.entry(tx.nonce).or_default().push(tx.clone());
        SendOutcome::Taken
    }

    // ---- the shell ----

    fn event(&mut self, event: Event) {
        if let Event::Sent { key, outcome } = event
            && let Some(attempt) = self.attempt(key)
        {
            attempt.is_sending = false;
            // A nonce that is used up may be used by this very attempt.
            let is_doubtful =
                matches!(outcome, SendOutcome::Maybe(_) | SendOutcome::Refused(RpcErrorClass::NonceTooLow));
            attempt.is_ambiguous |= is_doubtful;
            let attempts = self.ledger.attempts.get_mut(&key.nonce).into_iter().flatten();
            if outcome == SendOutcome::Refused(RpcErrorClass::ReplacementUnderpriced) {
                // Somebody holds something, whatever we believed.
                attempts.filter(|attempt| !attempt.is_sending).for_each(|attempt| attempt.is_suspect = true);
            }
        }
        self.lane.handle_event(self.now, event);
        self.drain();
    }

    fn drain(&mut self) {
        let bound = 8 * (self.lane.in_flight() + self.lane.unfinal()) + 40;
        let mut count = 0;
        while let Some(command) = self.lane.poll_command() {
            count += 1;
            assert!(count <= bound, "a busy loop: {count} commands after one event, the last {command:?}");
            self.obey(command);
        }
    }

    fn attempt(&mut self, key: AttemptKey) -> Option<&mut Attempt> {
        self.ledger.attempts.get_mut(&key.nonce)?.get_mut(key.index as usize)
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Sign { key, tx } => {
                self.check_price(key, &tx);
                if self.rng.chance(self.faults.abandon) {
                    self.lane.handle_event(self.now, Event::Abandoned { key });
                    return;
                }
                let hash = hash_of(&tx);
                self.signed.insert(key, tx);
                self.lane.handle_event(self.now, Event::Signed { key, hash });
            }
            Command::Persist { key } => self.tasks.push(Task::Persist(key)),
            Command::Broadcast { key } => {
                self.check_broadcast(key);
                self.broadcasts += 1;
                self.tasks.push(Task::Send(key));
            }
            Command::Poll { nonce, hashes, purpose } => {
                let known: Vec<B256> =
                    self.ledger.attempts.get(&nonce).into_iter().flatten().map(|attempt| attempt.hash).collect();
                assert_eq!(hashes, known, "nonce {nonce}: every durable attempt is asked for");
                self.tasks.push(Task::Poll { nonce, hashes, purpose, at_block: self.height() });
            }
            Command::ReportBroadcast { nonce } => {
                assert!(self.sent_once.insert(nonce), "nonce {nonce}: reported as broadcast twice");
                self.ledger.is_broadcast.insert(nonce);
            }
            Command::ReportIncluded { nonce, kind, receipt } => {
                self.check_receipt(nonce, kind, &receipt);
                self.ledger.is_included.insert(nonce);
            }
            Command::ReportUnincluded { nonce } => {
                assert!(self.ledger.is_included.remove(&nonce), "nonce {nonce}: was not reported as included");
            }
            Command::ReportFinal { nonce, kind, receipt } => {
                self.check_receipt(nonce, kind, &receipt);
                assert_eq!(self.finals.insert(nonce, receipt.hash), None, "nonce {nonce} ends twice");
                assert!(!self.lost.contains(&nonce), "nonce {nonce} ends twice");
                let (number, mined) = self.mined(nonce).expect("what is final is in the chain");
                assert_eq!(mined.hash, receipt.hash, "nonce {nonce}: another transaction is final");
                assert!(number + FINALITY <= self.height(), "nonce {nonce}: not final at all");
                self.ledger.ended.insert(nonce);
            }
            Command::ReportLost { nonce } => {
                assert!(self.lost.insert(nonce), "nonce {nonce} is lost twice");
                assert!(!self.finals.contains_key(&nonce), "nonce {nonce} ends twice");
                let (number, mined) = self.mined(nonce).expect("a lost nonce is used");
                assert!(mined.is_foreign, "nonce {nonce}: one of our own is in the chain");
                assert!(number + FINALITY <= self.height(), "nonce {nonce}: not final at all");
                self.ledger.ended.insert(nonce);
            }
            Command::Alert(alert) => self.alerts.push(alert),
        }
    }

    /// I3, I4, I6 at the moment of signing.
    fn check_price(&self, key: AttemptKey, tx: &TxToSign) {
        assert_eq!((tx.nonce, tx.chain_id), (key.nonce, 1));
        let attempts = self.ledger.attempts.get(&key.nonce).map_or(&[][..], Vec::as_slice);
        assert_eq!(key.index as usize, attempts.len(), "nonce {}: attempts are counted without gaps", key.nonce);
        assert!(key.index <= MAX_ATTEMPTS, "nonce {}: {} attempts", key.nonce, key.index);
        let Fees { max_fee_per_gas: cap, max_priority_fee_per_gas: tip } = tx.fees;
        assert!(tip <= cap, "nonce {}: tip {tip} above cap {cap}", key.nonce);
        match tx.kind {
            AttemptKind::Payload => {
                let plan = self.ledger.plans.get(&key.nonce).or_else(|| self.planned.get(&key.nonce)).expect("planned");
                assert_eq!(tx.payload, plan.payload, "nonce {}: the payload changed (I3)", key.nonce);
                assert!(cap <= plan.ceiling_wei_per_gas, "nonce {}: above the ceiling", key.nonce);
                let gave_up = attempts.iter().any(|attempt| attempt.kind == AttemptKind::Cancel);
                assert!(!gave_up, "nonce {}: the payload comes back after a cancel", key.nonce);
            }
            AttemptKind::Cancel => {
                assert_eq!((tx.payload.to, tx.payload.value), (SENDER, U256::ZERO));
                assert!(tx.payload.data.is_empty() && tx.payload.gas_limit == CANCEL_GAS);
                assert!(cap <= CANCEL_CEILING, "nonce {}: above the ceiling", key.nonce);
            }
        }
        let highest = self.ledger.attempts.keys().next_back().map_or(0, |nonce| nonce + 1);
        assert!(key.nonce <= highest.max(self.highest_latest), "nonce {} leaves a gap (I4)", key.nonce);
        let base_fee = self.head.next_base_fee;
        if self.config.replacement.is_supported() {
            let highest = attempts.iter().map(|attempt| attempt.fees).reduce(Fees::max_of_each).unwrap_or_default();
            let least = self.config.replacement.min_replacement(highest, base_fee);
            let is_beyond = least.is_none_or(|least| least.max_fee_per_gas > CANCEL_CEILING);
            for held in attempts.iter().filter(|attempt| attempt.is_held()) {
                for client in rules(self.config.replacement) {
                    // A cancel that can't outbid under the ceiling is worth a try: nodes may have forgotten the payload.
                    assert!(
                        (tx.kind == AttemptKind::Cancel && is_beyond) || client.accepts(held.fees, tx.fees, base_fee),
                        "nonce {}: {client:?} refuses {:?} after {:?} at {base_fee} (I6)",
                        key.nonce,
                        tx.fees,
                        held.fees
                    );
                }
            }
        }
        if !attempts.iter().any(|attempt| attempt.is_held() || attempt.is_suspect) {
            // Nobody holds anything: no reason to pay more than the quote.
            assert!(cap <= self.head.quote.max_fee_per_gas, "nonce {}: ratchet", key.nonce);
        }
        assert!(
            attempts.iter().all(|attempt| attempt.hash != hash_of(tx)),
            "nonce {}: the same bytes twice",
            key.nonce
        );
    }

    /// I2, I7.
    fn check_broadcast(&mut self, key: AttemptKey) {
        let (now, head) = (self.now, self.head);
        let deadline = self.ledger.plans.get(&key.nonce).expect("a committed plan").deadline;
        let attempt = self.attempt(key).expect("I2: only committed bytes are sent");
        attempt.is_sending = true;
        if attempt.kind == AttemptKind::Payload {
            assert!(now < deadline, "I7: sent at {now}, deadline {deadline}");
            assert!(Timestamp::from_secs(head.timestamp_s) < deadline, "I7: past by the chain's clock");
        }
        assert!(!self.ledger.ended.contains(&key.nonce));
    }

    fn check_receipt(&self, nonce: u64, kind: AttemptKind, receipt: &TxReceipt) {
        let attempt = self.ledger.attempts[&nonce].iter().find(|attempt| attempt.hash == receipt.hash);
        assert_eq!(attempt.expect("one of ours").kind, kind);
        assert!(!self.ledger.ended.contains(&nonce));
    }

    fn tell(&mut self, event: Event) {
        if self.rng.chance(self.faults.late) {
            self.tasks.push(Task::Tell(event));
            return;
        }
        if self.rng.chance(self.faults.twice) {
            self.tasks.push(Task::Tell(event.clone()));
        }
        self.event(event);
    }

    fn run(&mut self, task: Task) {
        match task {
            Task::Persist(key) => {
                if self.rng.chance(self.faults.abandon) {
                    self.signed.remove(&key);
                    self.event(Event::Abandoned { key });
                } else if self.commit(key) {
                    // A commit is told at once: the machine counts on order here, as the shell's journal keeps it.
                    self.event(Event::Persisted { key });
                    if self.rng.chance(self.faults.twice) {
                        self.event(Event::Persisted { key });
                    }
                }
            }
            Task::Send(key) => {
                let outcome = self.send(key);
                if self.rng.chance(self.faults.late) {
                    self.tasks.push(Task::Tell(Event::Sent { key, outcome }));
                } else {
                    self.event(Event::Sent { key, outcome });
                }
            }
            Task::Poll { nonce, hashes, purpose, at_block } => {
                if self.rng.chance(self.faults.incomplete) {
                    self.tell(Event::Receipts { nonce, purpose, found: None, is_complete: false, at_block });
                    return;
                }
                let lag = match purpose {
                    PollPurpose::Inclusion if self.rng.chance(self.faults.stale_read) => self.rng.below(4),
                    _ => 0,
                };
                let height = self.height().saturating_sub(lag);
                let found = hashes.iter().find_map(|hash| self.find(*hash, height));
                self.tell(Event::Receipts { nonce, purpose, found, is_complete: true, at_block });
            }
            Task::Tell(event) => self.event(event),
        }
    }

    fn commit(&mut self, key: AttemptKey) -> bool {
        let Some(tx) = self.signed.remove(&key) else { return false };
        if self.ledger.ended.contains(&key.nonce) {
            return false;
        }
        let plan = self.planned.remove(&key.nonce).unwrap_or_else(|| Plan {
            payload: tx.payload.clone(),
            deadline: Timestamp(u64::MAX),
            ceiling_wei_per_gas: CANCEL_CEILING,
            extra_wei: U256::ZERO,
        });
        self.ledger.plans.entry(key.nonce).or_insert(plan);
        let attempts = self.ledger.attempts.entry(key.nonce).or_default();
        assert_eq!(attempts.len(), key.index as usize);
        let hash = hash_of(&tx);
        let (kind, fees) = (tx.kind, tx.fees);
        attempts.push(Attempt {
            kind,
            fees,
            hash,
            is_accepted: false,
            is_ambiguous: false,
            is_sending: false,
            is_suspect: false,
        });
        true
    }

    fn send(&mut self, key: AttemptKey) -> SendOutcome {
        use RpcErrorClass as C;
        let Some(attempt) = self.attempt(key).cloned() else { return SendOutcome::Refused(C::Timeout) };
        let gas = match attempt.kind {
            AttemptKind::Payload => self.ledger.plans[&key.nonce].payload.gas_limit,
            AttemptKind::Cancel => CANCEL_GAS,
        };
        let tx = Tx { nonce: key.nonce, hash: attempt.hash, fees: attempt.fees, gas, is_foreign: false };
        if self.rng.chance(self.faults.lost_send) {
            return SendOutcome::Maybe(C::Timeout);
        }
        if self.rng.chance(self.faults.refused_send) {
            let class = self.rng.pick(&C::ALL);
            if class.taken() == slackwater::chain::Taken::No {
                return SendOutcome::Refused(class);
            }
            return SendOutcome::Maybe(class);
        }
        let mut merged = None;
        for client in 0..self.clients.len() {
            let answer = self.accept(client, &tx);
            if answer == SendOutcome::Taken
                && let Some(attempt) = self.attempt(key)
            {
                attempt.is_accepted = true;
            }
            merged = Some(match (merged, answer) {
                (None, answer) => answer,
                (Some(SendOutcome::Taken), _) | (_, SendOutcome::Taken) => SendOutcome::Taken,
                (Some(maybe @ SendOutcome::Maybe(_)), _) | (_, maybe @ SendOutcome::Maybe(_)) => maybe,
                (Some(refused), _) => refused,
            });
        }
        if self.rng.chance(self.faults.silent_send) {
            return SendOutcome::Maybe(C::Timeout);
        }
        merged.unwrap()
    }

    /// Tells the lane what the chain looks like.
    fn look(&mut self) {
        let height = self.height();
        let lag = |world: &mut Self| if world.rng.chance(world.faults.stale_read) { world.rng.below(3) } else { 0 };
        let final_block = height.checked_sub(FINALITY);
        if !self.rng.chance(self.faults.missing_read) {
            let behind = lag(self);
            let latest = self.nonce_at(height - behind);
            self.highest_latest = self.highest_latest.max(latest);
            let is_told = !self.rng.chance(self.faults.missing_read);
            let finalized = final_block.filter(|_| is_told).map(|block| self.nonce_at(block));
            self.event(Event::AccountNonce { latest, finalized });
        }
        if !self.rng.chance(self.faults.missing_read) {
            self.event(Event::Balance(self.balance));
        }
        let tip = GWEI;
        let quote = Fees::new(self.base_fee * 2 + tip, tip);
        // What the watcher computes; the simulated next block may differ by a step, as with every forecast.
        self.head = HeadInfo {
            number: height,
            timestamp_s: self.now.as_secs() + self.salt % 3,
            next_base_fee: self.base_fee,
            quote,
            final_block,
        };
        self.event(Event::Head(self.head));
    }

    fn step(&mut self) {
        self.now = Timestamp(self.now.0 + BLOCK_MS);
        if self.rng.chance(self.faults.drained) {
            self.balance = U256::from(self.rng.below(1_000_000)) * U256::from(GWEI);
        } else if self.rng.chance(self.faults.drained) {
            self.balance = ether(100);
        }
        let before = self.height();
        let depth = if self.rng.chance(self.faults.reorg) { 1 + self.rng.below(FINALITY - 2) } else { 0 };
        if depth > 0 {
            self.reorg(depth);
        }
        self.mine();
        if self.rng.chance(self.faults.eviction) {
            let pool = usize::try_from(self.rng.below(self.pools.len() as u64)).unwrap();
            self.pools[pool].pop_last();
        }
        let account = self.nonce();
        for pool in &mut self.pools {
            *pool = pool.split_off(&account);
        }
        for number in (before + 1).saturating_sub(depth)..=self.height() {
            let hash = self.blocks[usize::try_from(number).unwrap()].hash;
            self.event(Event::Canonical { number, hash });
        }
        self.look();
        let mut patience = 40;
        while !self.tasks.is_empty() && patience > 0 {
            patience -= 1;
            if self.rng.chance(self.faults.late / 2) {
                break;
            }
            let index = usize::try_from(self.rng.below(self.tasks.len() as u64)).unwrap();
            let task = self.tasks.remove(index);
            self.run(task);
            if self.rng.chance(self.faults.crash) && self.rng.chance(15) {
                self.crash();
            }
        }
    }

    fn settle_tasks(&mut self) {
        let mut patience = 500;
        while let Some(task) = (!self.tasks.is_empty()).then(|| self.tasks.remove(0)) {
            patience -= 1;
            assert!(patience > 0, "the lane keeps itself busy");
            self.run(task);
        }
    }

    fn plan(&mut self) -> Plan {
        let within = 2 + self.rng.below(60);
        let data = self.rng.next().to_be_bytes();
        Plan {
            payload: Payload {
                to: Address::repeat_byte(0xf0),
                value: U256::ZERO,
                data: Bytes::copy_from_slice(&data),
                gas_limit: 100_000 + self.rng.below(2_000_000),
            },
            deadline: Timestamp(self.now.0 + within * BLOCK_MS),
            ceiling_wei_per_gas: self.rng.pick(&[15 * GWEI, 50 * GWEI, 300 * GWEI, 10_000 * GWEI]),
            extra_wei: U256::ZERO,
        }
    }

    fn submit(&mut self, plan: Plan) -> Result<u64, LaneError> {
        let next = self.lane.next_nonce();
        // An offer of its own, the next block's fee or more of what is quoted, or none. Where nothing can be replaced the
        // relay never offers less than the quote.
        let quote = self.head.quote;
        let fees = [self.head.next_base_fee.saturating_add(quote.max_priority_fee_per_gas), quote.max_fee_per_gas];
        let cap = self.rng.pick(&fees).min(quote.max_fee_per_gas);
        let offer = Fees::new(cap, quote.max_priority_fee_per_gas.min(cap));
        let offer = (self.config.replacement.is_supported() && self.rng.chance(30)).then_some(offer);
        match self.lane.submit_offering(self.now, plan.clone(), offer) {
            Ok(id) => {
                assert_eq!(Some(id.nonce), next);
                assert!(!self.ledger.plans.contains_key(&id.nonce), "nonce {} is taken twice (I3)", id.nonce);
                self.planned.insert(id.nonce, plan);
                self.drain();
                Ok(id.nonce)
            }
            Err(error) => {
                assert_eq!(self.lane.next_nonce(), next, "a refused plan burns no nonce");
                self.drain();
                Err(error)
            }
        }
    }

    /// The process dies; what was not committed is gone, what was on the wire may arrive.
    fn crash(&mut self) {
        for task in std::mem::take(&mut self.tasks) {
            match task {
                // Writes are committed in order, so nothing of a later nonce is durable before this one.
                Task::Persist(key) if self.rng.chance(50) && self.may_commit(key) => {
                    self.commit(key);
                }
                Task::Send(key) if self.rng.chance(50) => {
                    self.send(key);
                }
                _ => {}
            }
        }
        self.signed.clear();
        self.planned.clear();
        let open = self.ledger.attempts.iter().filter(|(nonce, _)| !self.ledger.ended.contains(nonce));
        let slots = open
            .map(|(nonce, attempts)| RestoredSlot {
                nonce: *nonce,
                plan: self.ledger.plans[nonce].clone(),
                attempts: attempts.iter().map(|attempt| (attempt.kind, attempt.fees, attempt.hash)).collect(),
                was_broadcast: self.ledger.is_broadcast.contains(nonce),
                was_included: self.ledger.is_included.contains(nonce),
            })
            .collect();
        for attempt in self.ledger.attempts.values_mut().flatten() {
            attempt.is_ambiguous = true;
        }
        let next = self.ledger.attempts.keys().next_back().map(|nonce| nonce + 1);
        self.lane = Lane::restore(self.config.clone(), next, slots);
        // What is in the ledger was reported; the new lane knows.
        self.sent_once = self.ledger.is_broadcast.clone();
    }

    fn may_commit(&self, key: AttemptKey) -> bool {
        let attempts = self.ledger.attempts.get(&key.nonce).map_or(0, Vec::len);
        key.index as usize == attempts
    }

    /// No more faults: everything must end.
    fn calm(&mut self) {
        self.faults = Faults::NONE;
        self.spike_left = 0;
        self.base_fee = 2 * GWEI;
        self.balance = ether(1_000_000);
        for _ in 0..150 {
            self.base_fee = self.base_fee.min(8 * GWEI);
            self.step();
            self.settle_tasks();
            if self.lane.in_flight() + self.lane.unfinal() == 0 {
                break;
            }
        }
        let open: Vec<u64> = (0..self.nonce() + 50).filter(|nonce| self.lane.holds(*nonce)).collect();
        assert!(open.is_empty(), "nonces {open:?} never end; account {}, {:?}", self.nonce(), self.lane);
        for nonce in self.ledger.attempts.keys() {
            let has_ended = self.finals.contains_key(nonce) || self.lost.contains(nonce);
            assert!(has_ended, "nonce {nonce} was committed and never ended");
        }
        // And it takes work again.
        let mut plan = self.plan();
        (plan.ceiling_wei_per_gas, plan.deadline) = (10_000 * GWEI, Timestamp(self.now.0 + 100 * BLOCK_MS));
        let mut nonce = None;
        for _ in 0..20 {
            nonce = nonce.or_else(|| self.submit(plan.clone()).ok());
            self.step();
            self.settle_tasks();
        }
        let nonce = nonce.unwrap_or_else(|| panic!("the lane takes no work any more: {:?}", self.lane.ready()));
        assert!(self.finals.contains_key(&nonce), "the next batch is mined and settled");
    }
}

fn ether(count: u64) -> U256 {
    U256::from(count) * U256::from(1_000_000_000_000_000_000u64)
}

/// Clients that a rule promises to satisfy.
fn rules(rule: ReplacementRule) -> Vec<ClientRule> {
    let effective = [ClientRule::Besu, ClientRule::NethermindOld];
    let mut rules = ClientRule::PRICED.to_vec();
    if rule == ReplacementRule::CAPS {
        rules.retain(|client| !effective.contains(client));
    }
    rules
}

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// Says which run it was when a check fails.
struct Announce;

impl Drop for Announce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            SEED.with(|seed| {
                let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("seed {}\n", seed.get()).as_bytes());
            });
        }
    }
}

fn run(seed: u64) -> World {
    SEED.with(|cell| cell.set(seed));
    let mut rng = Rng(seed ^ 0xfeed);
    let faults = Faults::random(&mut rng);
    let rule = rng.pick(&[ReplacementRule::SAFE_EVERYWHERE, ReplacementRule::CAPS, ReplacementRule::SAFE_EVERYWHERE]);
    let known = rules(rule);
    let clients = (0..1 + rng.below(2)).map(|_| rng.pick(&known)).collect();
    let mut world = World::new(seed, faults, rule, clients);
    for _ in 0..60 {
        world.step();
        for _ in 0..world.rng.below(3) {
            let plan = world.plan();
            let _ = world.submit(plan);
        }
    }
    world.calm();
    world
}

fn seeds(range: std::ops::Range<u64>) {
    let _announce = Announce;
    let (mut finals, mut lost, mut broadcasts, mut cancelled) = (0, 0, 0, 0);
    let mut seen = BTreeSet::new();
    for seed in range.clone() {
        let world = run(seed);
        finals += world.finals.len();
        lost += world.lost.len();
        broadcasts += world.broadcasts;
        seen.extend(world.alerts.iter().map(LaneAlert::name));
        let by_hash = world.ledger.attempts.values().flatten().filter(|attempt| attempt.kind == AttemptKind::Cancel);
        let cancels: BTreeSet<B256> = by_hash.map(|attempt| attempt.hash).collect();
        cancelled += world.finals.values().filter(|hash| cancels.contains(*hash)).count();
    }
    // The runs did something: without that the checks would prove nothing.
    let runs = usize::try_from(range.end - range.start).unwrap();
    assert!(finals > 5 * runs, "{finals} batches settled");
    let all =
        ["attempts_exhausted", "ceiling_reached", "foreign_nonce", "nonce_gap", "refused", "resumed", "underfunded"];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), all);
    assert!(cancelled > 0 && cancelled < finals, "{cancelled} of {finals} were cancels");
    assert!(lost > 0 && broadcasts > finals as u64, "{lost} lost, {broadcasts} sent");
}

#[test]
fn seeds_a() {
    seeds(0..600);
}

#[test]
fn seeds_b() {
    seeds(1_000..1_600);
}

#[test]
fn seeds_c() {
    seeds(2_000..2_600);
}

#[test]
fn seeds_d() {
    seeds(3_000..3_600);
}

/// No replacement on this chain: only the same bytes again, and a single cancel.
#[test]
fn chains_without_replacement() {
    let _announce = Announce;
    for seed in 10_000..10_200 {
        SEED.with(|cell| cell.set(seed));
        let faults =
            Faults { foreign: 3, lost_send: 20, silent_send: 20, stale_read: 20, empty_block: 30, ..Faults::NONE };
        let mut world = World::new(seed, faults, ReplacementRule::NoPool, vec![ClientRule::Arbitrum]);
        for _ in 0..40 {
            world.step();
            let plan = world.plan();
            let _ = world.submit(plan);
        }
        world.calm();
        for attempts in world.ledger.attempts.values() {
            let payloads = attempts.iter().filter(|attempt| attempt.kind == AttemptKind::Payload).count();
            assert!(payloads <= 1 && attempts.len() <= 2, "{attempts:?}");
        }
    }
}
