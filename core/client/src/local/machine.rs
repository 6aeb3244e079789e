//! The way of inputs to the sender, and of its commands to node and storage.

use std::sync::Arc;

use alloy_primitives::U256;

use super::{
    command::LocalCommand,
    config::{ConfigError, LocalConfig, LocalTiming, lane_config},
    host::{Payer, Timing},
    key::SessionKey,
    parts::{Errand, Heads, OpenNonce, Spenders},
    state::{LANE, LocalRelay},
};
use crate::{
    chain::data_fee::with_margin,
    lane::Lane,
    ordered::Map,
    policy::Pauses,
    sender::{Command, Input, Notice, Open, Pricing, Sender, SenderLane, Surroundings},
    table::Table,
    time::Timestamp,
};

impl LocalRelay {
    /// A relay with empty state; [`Self::load`] the stored records before anything else.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn new(config: LocalConfig, key: SessionKey) -> Result<Self, ConfigError> {
        config.validate()?;
        let facts = Arc::new(config.facts(key.address()));
        let fees = match config.timing {
            LocalTiming::Immediate => Timing::Now,
            LocalTiming::Percentile => Timing::Gate(Box::new(config.gate())),
        };
        let pricing = Pricing::new(&facts.spec, &facts.tuning);
        let around = surroundings(None, false);
        let sender = Sender::new(Timestamp(0), facts, (Payer, fees), around, pricing, None, Open::default());
        let mut relay = Self {
            sender,
            config,
            key,
            entries: Table::new(),
            nonces: Table::new(),
            closing: Table::new(),
            final_next: 0,
            asked: None,
            lacks_simulate: false,
            forwarders: Table::new(),
            data_fee: U256::ZERO,
            fee_cap_wei: None,
            heads: Heads::default(),
            look: None,
            polls: Table::new(),
            spenders: Spenders::default(),
            readings: Table::new(),
            read_at: Table::new(),
            calls: Table::new(),
            next_id: 0,
            seq: 0,
            due: None,
            writing: Table::new(),
            commands: Default::default(),
        };
        let machine = Lane::restore(lane_config(&relay.config, relay.key.address()), None, Vec::new());
        let lane = SenderLane::new(machine, true, relay.sender.facts.params, Map::new(), Map::new());
        relay.sender.take_over(Open { queue: relay.queue(), lanes: vec![lane], ..Open::default() });
        Ok(relay)
    }

    /// The next command; `None` if there is none.
    pub fn next_command(&mut self) -> Option<LocalCommand> {
        self.commands.pop_front()
    }

    /// Cost of the newest quoted data fee, with its margin, wei.
    pub(super) fn data_fee_bound(&self) -> U256 {
        with_margin(self.data_fee, self.config.fees.l1_fee_margin_percent)
    }

    // ---- the sender ----

    /// Tells the sender what happened, and carries out what it wants.
    pub(super) fn tell(&mut self, now: Timestamp, input: Input) {
        let is_fresh = self.heads.looked_at.is_some_and(|at| now.since(at) <= self.config.stale_after);
        // An unknown balance would pay for anything.
        let is_funded = self.sender.lane(LANE).is_some_and(|lane| lane.machine.balance().is_some());
        self.sender.handle(now, surroundings(self.fee_cap_wei, is_fresh && is_funded), input);
        self.obey(now);
    }

    /// Carries out the sender's commands until there are none.
    pub(super) fn obey(&mut self, now: Timestamp) {
        loop {
            while let Some(command) = self.sender.poll_command() {
                self.carry_out(now, command);
            }
            if !self.sender.go_on() {
                return;
            }
        }
    }

    fn carry_out(&mut self, now: Timestamp, command: Command) {
        match command {
            Command::Commit { id, writes, .. } => self.commit(now, id, writes),
            Command::Sign { lane, key, tx } => {
                let signed = self.key.sign_transaction(&tx);
                let payload = Some(tx.payload.clone());
                self.nonces.get_or_insert_with(key.nonce, OpenNonce::default).payload = payload;
                self.tell(now, Input::Signed { lane, key, tx, signed });
            }
            Command::Broadcast { key, attempt, .. } => self.broadcast(now, key, &attempt),
            Command::FindReceipts { nonce, hashes, purpose, .. } => self.find_receipts(now, nonce, hashes, purpose),
            // There is nobody else to ask: the next head asks again.
            Command::AgreeOnReceipt { lane, nonce, at_block, .. } => {
                self.tell(now, Input::Agreed { lane, nonce, at_block, found: None });
            }
            Command::Simulate { candidate, environment, block, .. } => {
                self.simulate(now, candidate, environment, block);
            }
            Command::Inspect { order, users, .. } => self.read_users(now, Errand::Inspect(order), users),
            Command::LookUpNonces(users) => self.read_users(now, Errand::LookUp, users),
            Command::RecheckNonce(user) => self.read_users(now, Errand::Recheck, vec![user]),
            Command::LookAtGaps(users) => self.read_users(now, Errand::Gaps, users),
            Command::ConfirmNonces { users, final_block } => self.confirm_users(now, users, final_block),
            Command::NonceClosed { nonce, .. } => drop(self.spenders.pauses.remove(&nonce)),
            Command::Notice(notice) => self.notice(notice),
            // Without several nodes and a ledger none of these comes, or none is of use.
            Command::SuggestTip
            | Command::ShowLeftOut { .. }
            | Command::FindPayments { .. }
            | Command::ProveContracts { .. }
            | Command::Fetch { .. }
            | Command::Load { .. }
            | Command::NoncesRaised(_)
            | Command::NonceLowered(..)
            | Command::Demote(_) => {}
        }
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::NotTaken { error, .. } => self.alert("not_sent", error),
            Notice::NonceLost(batch) => {
                let nonce = batch.nonce;
                let detail =
                    format!("nonce {nonce} was used by a transaction that is not ours: somebody else has the key");
                self.alert("nonce_lost", detail);
            }
            Notice::LaneAlert { alert, .. } => self.alert(alert.name(), format!("{alert:?}")),
            _ => {}
        }
    }

    // ---- time ----

    /// Latest time to call [`Self::timeout`]; `None` while nothing is under way.
    pub fn next_timeout(&self) -> Option<Timestamp> {
        let writes = self.writing.values().filter_map(|writing| writing.retry_at);
        let calls = self.calls.values().map(|pending| pending.until);
        let kept = self.entries.values().filter_map(|entry| entry.ended_at);
        let kept = kept.map(|at| at.saturating_add(self.config.keep_ended));
        let poll = self.heads.next_poll.filter(|_| self.look.is_none());
        writes.chain(calls).chain(kept).chain(poll).chain(self.due).min()
    }

    /// Processes everything due at `now`.
    pub fn timeout(&mut self, now: Timestamp) {
        self.store_again(now);
        self.forget_old(now);
        self.expire_calls(now);
        self.go_on(now);
    }

    /// Schedules a poll of the head at once, if something is under way.
    pub(super) fn wake(&mut self, now: Timestamp) {
        if self.sender.is_busy() && self.heads.next_poll.is_none_or(|at| at > now) {
            self.heads.next_poll = Some(now);
        }
    }

    /// Does all work due now; runs after every input.
    pub(super) fn go_on(&mut self, now: Timestamp) {
        self.tell(now, Input::Tick);
        self.poll_head(now);
        let open = self.entries.values().filter(|entry| entry.is_open()).map(|entry| entry.request.deadline());
        let deadline = open.filter(|deadline| *deadline > now).min();
        self.due = self.sender.next_due(now).into_iter().chain(deadline).min();
    }
}

fn surroundings(fee_cap_wei: Option<u128>, may_send: bool) -> Surroundings {
    let pauses = Arc::<Pauses>::default();
    Surroundings { nodes: 1, head_tolerance: 0, fee_cap_wei, may_send, is_following: false, pauses }
}
