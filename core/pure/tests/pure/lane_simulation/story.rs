//! Events of a run: steps, submissions, crashes.

use super::*;

impl World {
    /// Reports the state of the chain to the lane.
    pub(crate) fn look(&mut self) {
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
        // As the watcher computes it; the simulated next block may differ by a step, as with every forecast.
        self.head = HeadInfo {
            number: height,
            timestamp_s: self.now.as_secs() + self.salt % 3,
            next_base_fee: self.base_fee,
            quote,
            final_block,
        };
        self.event(Event::Head(self.head));
    }

    pub(crate) fn step(&mut self) {
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

    pub(crate) fn settle_tasks(&mut self) {
        let mut patience = 500;
        while let Some(task) = (!self.tasks.is_empty()).then(|| self.tasks.remove(0)) {
            patience -= 1;
            assert!(patience > 0, "the lane keeps itself busy");
            self.run(task);
        }
    }

    pub(crate) fn plan(&mut self) -> Plan {
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
            is_guarded: self.salt.is_multiple_of(2),
            is_alone: self.salt.is_multiple_of(3),
        }
    }

    pub(crate) fn submit(&mut self, plan: Plan) -> Result<u64, LaneError> {
        let next = self.lane.next_nonce();
        // An offer of its own, either the next block's fee or the quoted cap, or none. Without replacements the relay
        // never offers less than the quote.
        let quote = self.head.quote;
        let fees = [self.head.next_base_fee.saturating_add(quote.max_priority_fee_per_gas), quote.max_fee_per_gas];
        let cap = self.rng.pick(&fees).min(quote.max_fee_per_gas);
        let offer = Fees::new(cap, quote.max_priority_fee_per_gas.min(cap));
        let offer = (self.config.replacement.is_supported() && self.rng.chance(30)).then_some(offer);
        match self.lane.submit_offering(self.now, plan.clone(), offer) {
            Ok(id) => {
                if !self.ledger.vacant.contains(&id.nonce) {
                    assert_eq!(Some(id.nonce), next);
                    assert!(!self.ledger.plans.contains_key(&id.nonce), "nonce {} is taken twice (I3)", id.nonce);
                }
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

    /// The process crashes; uncommitted work is lost, transactions being sent may still arrive.
    pub(crate) fn crash(&mut self) {
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
                plan: Plan {
                    // As the relay restores a nonce without members.
                    deadline: match self.ledger.vacant.contains(nonce) {
                        true => Timestamp(0),
                        false => self.ledger.plans[nonce].deadline,
                    },
                    ..self.ledger.plans[nonce].clone()
                },
                attempts: attempts.iter().map(|attempt| (attempt.kind, attempt.fees, attempt.hash)).collect(),
                refused_plans: 0,
                was_broadcast: self.ledger.is_broadcast.contains(nonce),
                was_included: self.ledger.is_included.contains(nonce),
            })
            .collect();
        for attempt in self.ledger.attempts.values_mut().flatten() {
            attempt.is_ambiguous = true;
        }
        let next = self.ledger.attempts.keys().next_back().map(|nonce| nonce + 1);
        self.lane = Lane::restore(self.config.clone(), next, slots);
        // Everything in the ledger was reported; the new lane knows.
        self.sent_once = self.ledger.is_broadcast.clone();
    }

    pub(crate) fn may_commit(&self, key: AttemptKey) -> bool {
        let attempts = self.ledger.attempts.get(&key.nonce).map_or(0, Vec::len);
        key.index as usize == attempts
    }

    /// Stops the faults: every batch must end.
    pub(crate) fn calm(&mut self) {
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
        let is_vacant = |nonce: &u64| self.ledger.vacant.contains(nonce);
        let open = (0..self.nonce() + 50).filter(|nonce| self.lane.holds(*nonce) && !is_vacant(nonce));
        let open: Vec<u64> = open.collect();
        assert!(open.is_empty(), "nonces {open:?} never end; account {}, {:?}", self.nonce(), self.lane);
        for nonce in self.ledger.attempts.keys().filter(|nonce| !is_vacant(nonce)) {
            let has_ended = self.finals.contains_key(nonce) || self.lost.contains(nonce);
            assert!(has_ended, "nonce {nonce} was committed and never ended");
        }
        // And it accepts work again.
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
