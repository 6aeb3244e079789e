//! The shell: carries out the lane's commands, and checks each.

use super::*;

impl World {
    pub(crate) fn event(&mut self, event: Event) {
        if let Event::Sent { key, outcome } = event
            && let Some(attempt) = self.attempt(key)
        {
            attempt.is_sending = false;
            // A used nonce may have been used by this very attempt.
            let is_doubtful =
                matches!(outcome, SendOutcome::Maybe(_) | SendOutcome::Refused(RpcErrorClass::NonceTooLow));
            attempt.is_ambiguous |= is_doubtful;
            let attempts = self.ledger.attempts.get_mut(&key.nonce).into_iter().flatten();
            if outcome == SendOutcome::Refused(RpcErrorClass::ReplacementUnderpriced) {
                // Some attempt is held, contrary to what the test assumed.
                attempts.filter(|attempt| !attempt.is_sending).for_each(|attempt| attempt.is_suspect = true);
            }
        }
        self.lane.handle_event(self.now, event);
        self.drain();
    }

    pub(crate) fn drain(&mut self) {
        let bound = 8 * (self.lane.in_flight() + self.lane.unfinal()) + 40;
        let mut count = 0;
        while let Some(command) = self.lane.poll_command() {
            count += 1;
            assert!(count <= bound, "a busy loop: {count} commands after one event, the last {command:?}");
            self.obey(command);
        }
    }

    pub(crate) fn attempt(&mut self, key: AttemptKey) -> Option<&mut Attempt> {
        self.ledger.attempts.get_mut(&key.nonce)?.get_mut(key.index as usize)
    }

    pub(crate) fn obey(&mut self, command: Command) {
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
            Command::ReportRefused { nonce, .. } => {
                let attempts = self.ledger.attempts.get(&nonce).map_or(&[][..], Vec::as_slice);
                assert!(self.ledger.plans[&nonce].is_guarded, "nonce {nonce}: nothing on chain guards it");
                assert!(!attempts.iter().any(Attempt::is_held), "nonce {nonce}: somebody may hold it");
                assert!(!self.ledger.ended.contains(&nonce));
                self.ledger.vacant.insert(nonce);
                self.ledger.plan_from.insert(nonce, attempts.len());
                self.ledger.is_broadcast.remove(&nonce);
                self.sent_once.remove(&nonce);
            }
            Command::Alert(alert) => self.alerts.push(alert),
        }
    }

    /// I3, I4, I6 at the moment of signing.
    pub(crate) fn check_price(&self, key: AttemptKey, tx: &TxToSign) {
        assert_eq!((tx.nonce, tx.chain_id), (key.nonce, 1));
        let attempts = self.ledger.attempts.get(&key.nonce).map_or(&[][..], Vec::as_slice);
        assert_eq!(key.index as usize, attempts.len(), "nonce {}: attempts are counted without gaps", key.nonce);
        let plan_from = self.ledger.plan_from.get(&key.nonce).copied().unwrap_or(0);
        let Fees { max_fee_per_gas: cap, max_priority_fee_per_gas: tip } = tx.fees;
        assert!(tip <= cap, "nonce {}: tip {tip} above cap {cap}", key.nonce);
        match tx.kind {
            AttemptKind::Payload => {
                let plan = self.planned.get(&key.nonce).or_else(|| self.ledger.plans.get(&key.nonce)).expect("planned");
                assert_eq!(tx.payload, plan.payload, "nonce {}: the payload changed (I3)", key.nonce);
                assert!(cap <= plan.ceiling_wei_per_gas, "nonce {}: above the ceiling", key.nonce);
                let mut current = attempts.iter().skip(plan_from);
                let gave_up = current.any(|attempt| attempt.kind == AttemptKind::Cancel);
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
                    // A cancel that can't outbid within the ceiling is worth an attempt: nodes may have dropped the
                    // payload.
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
            // No attempt is held: there is no reason to pay more than the quote.
            assert!(cap <= self.head.quote.max_fee_per_gas, "nonce {}: ratchet", key.nonce);
        }
        assert!(
            attempts.iter().all(|attempt| attempt.hash != hash_of(tx)),
            "nonce {}: the same bytes twice",
            key.nonce
        );
    }

    /// I2, I7.
    pub(crate) fn check_broadcast(&mut self, key: AttemptKey) {
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

    pub(crate) fn check_receipt(&self, nonce: u64, kind: AttemptKind, receipt: &TxReceipt) {
        let attempt = self.ledger.attempts[&nonce].iter().find(|attempt| attempt.hash == receipt.hash);
        assert_eq!(attempt.expect("one of ours").kind, kind);
        assert!(!self.ledger.ended.contains(&nonce));
    }

    pub(crate) fn tell(&mut self, event: Event) {
        if self.rng.chance(self.faults.late) {
            self.tasks.push(Task::Tell(event));
            return;
        }
        if self.rng.chance(self.faults.twice) {
            self.tasks.push(Task::Tell(event.clone()));
        }
        self.event(event);
    }

    pub(crate) fn run(&mut self, task: Task) {
        match task {
            Task::Persist(key) => {
                if self.rng.chance(self.faults.abandon) {
                    self.signed.remove(&key);
                    self.event(Event::Abandoned { key });
                } else if self.commit(key) {
                    // A commit is reported at once: the machine relies on order here, as the shell's journal guarantees
                    // it.
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

    pub(crate) fn commit(&mut self, key: AttemptKey) -> bool {
        let Some(tx) = self.signed.remove(&key) else { return false };
        if self.ledger.ended.contains(&key.nonce) {
            return false;
        }
        if let Some(plan) = self.planned.remove(&key.nonce) {
            self.ledger.plans.insert(key.nonce, plan);
            self.ledger.vacant.remove(&key.nonce);
        }
        self.ledger.plans.entry(key.nonce).or_insert_with(|| Plan {
            payload: tx.payload.clone(),
            deadline: Timestamp(u64::MAX),
            ceiling_wei_per_gas: CANCEL_CEILING,
            extra_wei: U256::ZERO,
            is_guarded: false,
            is_alone: true,
        });
        if tx.kind == AttemptKind::Cancel {
            self.ledger.vacant.remove(&key.nonce);
        }
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

    pub(crate) fn send(&mut self, key: AttemptKey) -> SendOutcome {
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
            if class.taken() == slackwater_core::chain::Taken::No {
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
}
