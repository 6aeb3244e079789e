//! Blocks: mining, reorganisations, actions of other parties, and admission to pools.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use alloy_primitives::{Address, B256, Bytes, U256};
use slackwater::LocalSigner;
use slackwater_core::{
    Timestamp,
    chain::{Fees, ReplacementRule, data_fee::TxSize},
};

use crate::{
    chain::{self, BLOCK_GAS, Block, Content, Receipt, State, Tx},
    hostile::{FIRST_OP, HostileSigner, HostileTarget},
    rng::{Rng, mix},
    world::{Event, World, short},
};

impl World {
    /// Removes from a pool the transactions whose nonce its node's chain has used.
    pub(crate) fn tidy(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        let state = &node.tip.state;
        node.pool.retain(|(sender, nonce), _| *nonce >= state.nonce(*sender));
    }

    pub(crate) fn see(&mut self, tip: &Arc<Block>) {
        self.seen += 1;
        let (seen, now) = (self.seen, self.now());
        for node in 0..self.nodes.len() {
            let mut wait = self.rng.within(0, 40) + self.nodes[node].lag_ms;
            if self.rng.permille(self.faults.lag / 10) {
                wait += self.rng.within(0, 5_000);
            }
            self.at(now + wait, Event::See { node, tip: tip.clone(), seen });
        }
    }

    /// All transactions that could be mined now, by (sender, nonce).
    fn candidates(&mut self) -> BTreeMap<(Address, u64), Vec<Arc<Tx>>> {
        let mut found: BTreeMap<(Address, u64), Vec<Arc<Tx>>> = BTreeMap::new();
        for node in &self.nodes {
            for (key, tx) in &node.pool {
                let entry = found.entry(*key).or_default();
                if !entry.iter().any(|other| other.hash == tx.hash) {
                    entry.push(tx.clone());
                }
            }
        }
        // A replaced transaction is not gone: some builder may still hold it.
        if self.rng.permille(self.faults.revenants) {
            let known: Vec<Arc<Tx>> = self.known.values().cloned().collect();
            for tx in known {
                if self.head.state.nonce(tx.sender) <= tx.nonce && self.rng.permille(300) {
                    let entry = found.entry((tx.sender, tx.nonce)).or_default();
                    if !entry.iter().any(|other| other.hash == tx.hash) {
                        entry.push(tx);
                    }
                }
            }
        }
        found
    }

    /// True if the next block stays empty, as slots sometimes do, in runs.
    fn is_empty_slot(&mut self) -> bool {
        let chance = self.plan.hostility.empty_slots;
        if self.empty_slots == 0 && !self.is_calm && chance > 0 && self.hostile_rng.permille(chance) {
            self.empty_slots = self.hostile_rng.within(1, 3);
            self.count("empty slots");
        }
        let is_empty = self.empty_slots > 0;
        self.empty_slots = self.empty_slots.saturating_sub(1);
        is_empty
    }

    pub(crate) fn mine(&mut self, now: u64) {
        if let Some(seed) = self.paired {
            // The same random choices with and without the hostile tenant.
            self.rng = Rng::new(mix(seed ^ (2 * self.head.number)));
        }
        let candidates = if self.is_empty_slot() { BTreeMap::new() } else { self.candidates() };
        let head = self.head.clone();
        let (state, txs) = self.fill(&head, now, candidates);
        self.extend(now, head, txs, state);
    }

    pub(crate) fn timestamp(&self, now: u64, parent: &Block) -> u64 {
        (now / 1_000).saturating_add_signed(self.plan.skew_s).max(parent.timestamp_s + 1)
    }

    fn fill(
        &mut self,
        parent: &Arc<Block>,
        now: u64,
        candidates: BTreeMap<(Address, u64), Vec<Arc<Tx>>>,
    ) -> (State, Vec<(Arc<Tx>, Receipt)>) {
        let base_fee = parent.next_base_fee(&self.spec);
        let timestamp_s = self.timestamp(now, parent);
        let mut state = parent.state.clone();
        let mut txs = Vec::new();
        let in_front = self.plan.hostility.in_front;
        let is_in_front = in_front > 0 && self.hostile_rng.permille(in_front);
        // For this block only: flipped in front of its transactions, and flipped back behind them.
        state.is_flipped = is_in_front;
        let number = parent.number + 1;
        let model = self.data_fee_at(number);
        let mut left = self.block_gas();
        for (_, mut variants) in candidates {
            self.leave_out(&mut variants);
            if self.rng.permille(self.faults.ignored_by_miner) {
                continue;
            }
            if variants.is_empty() {
                continue;
            }
            // Usually the best offer, sometimes any.
            let best = variants.iter().max_by_key(|tx| (tx.fees.effective_tip(base_fee), tx.fees.max_fee_per_gas));
            let tx = if self.rng.permille(self.faults.any_attempt) {
                self.rng.pick(&variants).clone()
            } else {
                let Some(best) = best else { continue };
                best.clone()
            };
            // The tip is too small for this builder.
            if self.paired.is_none() && self.rng.permille(150) && tx.fees.effective_tip(base_fee) < 2_000_000_000 {
                continue;
            }
            let is_too_much = self.plan.hostility.block_gas > 0 && tx.gas_limit > left;
            if is_too_much || tx.fees.effective_tip(base_fee) < self.plan.hostility.least_tip {
                continue;
            }
            if is_in_front && self.plan.hostility.signer == HostileSigner::Skipped {
                self.use_nonces(&tx, &mut state);
            }
            if let Some(receipt) = chain::include(&tx, &mut state, number, base_fee, timestamp_s, &model) {
                left = left.saturating_sub(tx.gas_limit);
                if let Content::Batch(items) = &tx.content
                    && items.iter().any(|item| HostileTarget::at(item.to).is_some())
                    && (receipt.executed.len() < items.len() || receipt.executed.iter().any(|(_, is_good)| !is_good))
                {
                    self.count("deceived");
                }
                if let Content::Payments(payments) = &tx.content
                    && tx.is_payload()
                {
                    if payments.ops().count() > 1 {
                        self.count("payments share a transaction");
                    }
                    if payments.is_beaten(&receipt, &txs) {
                        self.count("payment made in front, in the same block");
                    }
                }
                if tx.is_payload() && !receipt.is_success {
                    self.count("transaction reverted");
                }
                txs.push((tx, receipt));
            }
        }
        state.is_flipped = false;
        (state, txs)
    }

    /// Removes the hostile signers' transactions: no block takes them.
    fn leave_out(&mut self, variants: &mut Vec<Arc<Tx>>) {
        if self.plan.hostility.signer != HostileSigner::Ignored {
            return;
        }
        let is_theirs =
            |tx: &Arc<Tx>| matches!(&tx.content, Content::Batch(items) if items.iter().any(|item| item.op >= FIRST_OP));
        let before = variants.len();
        variants.retain(|tx| !is_theirs(tx));
        if variants.len() < before {
            self.count("left out");
        }
    }

    /// Hostile signers use the nonces of their requests in `tx`.
    fn use_nonces(&mut self, tx: &Tx, state: &mut State) {
        let Content::Batch(items) = &tx.content else { return };
        for item in items {
            if item.op >= FIRST_OP && item.nonce == Some(state.user(item.user)) {
                state.users.insert(item.user, state.user(item.user) + 1);
                self.count("user nonce spent");
            }
        }
    }

    /// Gas limit of a block.
    pub(crate) const fn block_gas(&self) -> u64 {
        self.plan.hostility.block_gas_or(BLOCK_GAS)
    }

    pub(crate) fn extend(&mut self, now: u64, parent: Arc<Block>, txs: Vec<(Arc<Tx>, Receipt)>, state: State) {
        let block = self.build(now, &parent, txs, state);
        self.head = block.clone();
        self.note_depth();
        self.note_block(&block);
        self.see(&block);
    }

    fn note_block(&mut self, block: &Arc<Block>) {
        let mut shown = String::new();
        for (tx, receipt) in &block.txs {
            let ops: Vec<String> = receipt
                .executed
                .iter()
                .map(|(op, is_good)| format!("#{op}{}", if *is_good { "" } else { "!" }))
                .collect();
            let what = if tx.is_stranger {
                "stranger"
            } else if tx.is_payload() {
                "payload"
            } else {
                "cancel"
            };
            let _ = write!(
                shown,
                " [{what} nonce={} {} ok:{} {}]",
                tx.nonce,
                short(tx.hash),
                receipt.is_success,
                ops.join(" ")
            );
        }
        let Block { number, base_fee, timestamp_s, .. } = **block;
        let hash = short(block.hash);
        self.note(format_args!("block {number} {hash} of {timestamp_s} s, base fee {base_fee}{shown}"));
        self.check_block(block);
    }

    fn build(&mut self, now: u64, parent: &Arc<Block>, txs: Vec<(Arc<Tx>, Receipt)>, state: State) -> Arc<Block> {
        self.salt += 1;
        if let Some(seed) = self.paired {
            self.rng = Rng::new(mix(seed ^ (2 * parent.number + 1)));
        }
        if !self.is_calm && self.rng.permille(60) {
            self.pressure = *self.rng.pick(&[200, 400, 500, 600, 800, 1_000]);
        }
        if self.plan.spike.contains(&(parent.number - 999)) {
            self.pressure = 1_000;
            self.count("full block");
        } else if self.plan.spike.end == parent.number - 999 && !self.plan.spike.is_empty() {
            self.pressure = 100;
        }
        let limit = self.block_gas();
        let others = limit / 1_000 * self.pressure.saturating_sub(self.rng.below(60)).min(1_000);
        let ours: u64 = txs.iter().map(|(_, receipt)| receipt.gas_used).sum();
        let timestamp_s = self.timestamp(now, parent);
        self.checker.see_clock(Timestamp(now), Timestamp::from_secs(timestamp_s));
        Arc::new(Block {
            number: parent.number + 1,
            hash: chain::block_hash(parent.hash, parent.number + 1, self.salt),
            timestamp_s,
            base_fee: parent.next_base_fee(&self.spec),
            gas_used: (others + ours).min(limit),
            gas_limit: limit,
            tip: self.rng.within(500_000_000, 2_000_000_000).into(),
            txs,
            state,
            parent: Some(parent.clone()),
        })
    }

    /// Newest final block.
    pub(crate) fn final_number(&self) -> u64 {
        self.head.number.saturating_sub(self.plan.finality).max(1_000)
    }

    /// Replaces the newest blocks by others.
    pub(crate) fn reorg(&mut self, now: u64, is_deepest: bool) {
        let deepest = self.plan.finality.saturating_sub(1).min(self.head.number - self.final_number());
        if deepest == 0 {
            return;
        }
        let depth = if is_deepest { deepest } else { self.rng.within(1, deepest) };
        let Some(mut parent) = self.head.at(self.head.number - depth).cloned() else { return };
        let dropped: Vec<Arc<Tx>> = self
            .head
            .back()
            .take(usize::try_from(depth).unwrap_or(0))
            .flat_map(|block| block.txs.iter().map(|(tx, _)| tx.clone()))
            .collect();
        self.count("reorg");
        self.note(format_args!("reorg of depth {depth}"));
        // Transactions of the dropped blocks are mined again, forgotten, or returned to pools.
        let mut candidates = self.candidates();
        for tx in dropped {
            match self.rng.below(4) {
                0 => {}
                1 => {
                    for node in 0..self.nodes.len() {
                        let _ = self.nodes[node].pool.entry((tx.sender, tx.nonce)).or_insert_with(|| tx.clone());
                    }
                }
                _ => candidates.entry((tx.sender, tx.nonce)).or_default().push(tx),
            }
        }
        for _ in 0..=depth {
            let (state, txs) = if self.rng.permille(500) {
                self.fill(&parent, now, candidates.clone())
            } else {
                (parent.state.clone(), Vec::new())
            };
            let block = self.build(now, &parent, txs, state);
            self.note_block(&block);
            parent = block;
        }
        let before = std::mem::replace(&mut self.head, parent.clone());
        self.note_depth();
        self.see(&parent);
        self.look_after_money(now, before);
    }

    /// The lanes' funder checks that the money has arrived for good, and sends it again if a reorg reverted it.
    fn look_after_money(&mut self, now: u64, before: Arc<Block>) {
        let is_less = |key: &LocalSigner| {
            self.head.state.balance(key.address()) < before.state.balance(key.address()) / U256::from(2)
        };
        if self.is_calm && self.plan.watches_money && self.keys.iter().any(is_less) {
            self.count("money taken back");
            self.at(now + 10, Event::TopUp);
        }
    }

    /// A stranger sends a transaction with a lane's key.
    pub(crate) fn stranger(&mut self) {
        let lane = self.rng.below(self.keys.len() as u64) as usize;
        let sender = self.keys[lane].address();
        let nonce = self.head.state.nonce(sender);
        self.salt += 1;
        let hash = chain::block_hash(B256::repeat_byte(0x57), nonce, self.salt);
        let fees = Fees::new(self.head.base_fee.saturating_mul(4), 50_000_000_000);
        let to = Address::repeat_byte(0xee);
        let tx = Arc::new(Tx {
            hash,
            sender,
            nonce,
            fees,
            gas_limit: 21_000,
            to,
            data: Bytes::new(),
            content: Content::Nothing,
            size: TxSize::of_signed(&[]),
            is_stranger: true,
        });
        self.count("stranger");
        self.note(format_args!("stranger takes nonce={nonce} of lane {lane} {}", short(hash)));
        let block = self.head.clone();
        let mut state = block.state.clone();
        let now = self.now();
        if let Some(receipt) = chain::include(
            &tx,
            &mut state,
            block.number + 1,
            block.next_base_fee(&self.spec),
            self.timestamp(now, &block),
            &self.data_fee_at(block.number + 1),
        ) {
            self.known.insert(hash, tx.clone());
            self.extend(now, block, vec![(tx, receipt)], state);
        }
    }

    /// A user's forwarder nonce is used outside the relay: by another relayer, or by the user.
    pub(crate) fn spend_user_nonce(&mut self) {
        let users: Vec<Address> = self.plan.users.iter().map(LocalSigner::address).collect();
        if users.is_empty() {
            return;
        }
        let user = *self.rng.pick(&users);
        let now = self.now();
        let head = self.head.clone();
        let mut state = head.state.clone();
        let nonce = state.user(user);
        state.users.insert(user, nonce + 1);
        self.count("user nonce spent");
        self.note(format_args!("stranger uses forwarder nonce {nonce} of {}", &user.to_string()[..8]));
        self.extend(now, head, Vec::new(), state);
        if self.faults.takes_back_spends {
            let later = now + self.rng.within(1_500, (self.plan.finality - 1) * 900);
            self.at(later, Event::TakeBack);
        }
    }

    /// Delivers raw bytes to a node.
    pub(crate) fn receive(&mut self, node: usize, raw: &Bytes) -> Result<B256, Refusal> {
        let tx = match self.decoded.get(raw) {
            Some(tx) => tx.clone(),
            None => {
                let Some(tx) = chain::decode(raw, &self.signatures) else { return Err(Refusal::Malformed) };
                let tx = Arc::new(tx);
                self.decoded.insert(raw.clone(), tx.clone());
                tx
            }
        };
        self.known.insert(tx.hash, tx.clone());
        let answer = self.take(node, &tx);
        if matches!(answer, Ok(()) | Err(Refusal::Known)) {
            self.checker.taken.insert(tx.hash);
        }
        if answer.is_ok() {
            // Gossip to its neighbours.
            let now = self.now();
            for other in 0..self.nodes.len() {
                if other != node && !self.rng.permille(self.faults.gossip_lost) {
                    let wait = self.rng.within(20, 400);
                    self.at(now + wait, Event::Gossip { node: other, tx: tx.clone() });
                }
            }
        }
        answer.map(|()| tx.hash)
    }

    /// Admits a transaction to a node's pool, or returns the refusal.
    pub(crate) fn take(&mut self, node: usize, tx: &Arc<Tx>) -> Result<(), Refusal> {
        let data_fee = self.data_fee_at(self.nodes[node].tip.number).data_fee(&tx.size);
        let limit = self.block_gas();
        let hostility = self.plan.hostility;
        let is_capped = matches!(self.spec.replacement, ReplacementRule::Bump { .. });
        let place = &mut self.nodes[node];
        let state = &place.tip.state;
        let account = state.nonce(tx.sender);
        if tx.nonce < account {
            return Err(Refusal::NonceTooLow);
        }
        let key = (tx.sender, tx.nonce);
        let pending: U256 = place
            .pool
            .range((tx.sender, 0)..(tx.sender, u64::MAX))
            .filter(|(other, _)| **other != key)
            .fold(U256::ZERO, |sum, (_, tx)| sum + tx.worst_case());
        let base_fee = place.tip.base_fee;
        match place.pool.get(&key) {
            Some(held) if held.hash == tx.hash => return Err(Refusal::Known),
            Some(held) if is_capped && !place.rule.accepts(held.fees, tx.fees, base_fee) => {
                return Err(Refusal::Replacement { held: held.clone() });
            }
            _ => {}
        }
        if state.balance(tx.sender) < pending + tx.worst_case() + data_fee {
            return Err(Refusal::Funds);
        }
        if tx.nonce > account + 64 {
            return Err(Refusal::Gap);
        }
        if hostility.has_no_pool && !(account..tx.nonce).all(|nonce| place.pool.contains_key(&(tx.sender, nonce))) {
            return Err(Refusal::Gap);
        }
        if tx.gas_limit > limit {
            return Err(Refusal::BlockGas);
        }
        if tx.fees.max_priority_fee_per_gas < hostility.least_tip {
            return Err(Refusal::Tip { least: hostility.least_tip });
        }
        if hostility.fee_cap_wei > 0 && tx.worst_case() > U256::from(hostility.fee_cap_wei) {
            return Err(Refusal::FeeCap { cost: tx.worst_case(), cap: hostility.fee_cap_wei });
        }
        let held = place.pool.range((tx.sender, 0)..(tx.sender, u64::MAX)).count() as u64;
        // The account's next nonce is always admitted.
        let is_full = hostility.pool_limit > 0 && held >= hostility.pool_limit && tx.nonce > account;
        if is_full && !place.pool.contains_key(&key) {
            return Err(Refusal::PoolLimit { held });
        }
        place.pool.insert(key, tx.clone());
        // Pools evict.
        if self.rng.permille(self.faults.evicted) {
            self.nodes[node].pool.remove(&key);
            self.count("evicted");
        }
        Ok(())
    }
}

/// Reason of a pool for refusing a transaction.
#[derive(Debug, Clone)]
pub(crate) enum Refusal {
    Malformed,
    NonceTooLow,
    Known,
    Replacement {
        held: Arc<Tx>,
    },
    Funds,
    Gap,
    /// The cost exceeds the node's own limit for a transaction, wei.
    FeeCap {
        cost: U256,
        cap: u128,
    },
    /// The gas limit exceeds that of a block.
    BlockGas,
    /// The tip is below the node's minimum, wei per gas.
    Tip {
        least: u128,
    },
    /// The pool's limit of transactions per account is reached.
    PoolLimit {
        held: u64,
    },
}
