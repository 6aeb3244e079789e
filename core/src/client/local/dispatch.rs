//! From the composer's selection to a plan for the lane: checks of the forwarder's code, the L1 data fee, the
//! simulation.

use std::sync::Arc;

use alloy_primitives::{Bytes, U256};
use alloy_sol_types::SolCall;
use serde_json::{Value, json};
use slackwater_contracts::{
    forwarder::{forwarder_version, verifyCall},
    rollup::GasPriceOracle::getL1FeeCall,
};

use super::{
    calls::{CallAnswer, Purpose, User, eth_call, parse, word},
    flights::Flight,
    machine::{LocalCommand, LocalRelay},
    record::End,
};
use crate::{
    chain::{RpcErrorClass, is_execution_failure},
    lane::{Event, LaneError, Plan},
    request::{
        Reason, RequestId, Status, VerifiedRequest,
        outcome::MemberOutcome,
        simulation::{self, Ahead, Environment, MemberSimulation, SimulatedBlock, Verdict},
        vehicle::{Payload, VehicleKey, forward_data},
    },
    schedule::{Selection, Short},
    table::Table,
    time::Timestamp,
};

/// Consecutive inconclusive simulations after which a batch is sent without one.
const MAX_SILENT_SIMULATIONS: u32 = 3;

/// Longest revert text kept for display, characters.
const MAX_DETAIL_CHARS: usize = 256;

/// Assumed envelope size of a transaction, bytes, for its L1 data fee.
const ENVELOPE_BYTES: usize = 120;

/// A batch on its way to the lane.
#[derive(Debug)]
pub(super) struct Candidate {
    id: u64,
    selection: Selection,
    pub(super) members: Vec<Arc<VerifiedRequest>>,
    payload: Payload,
    /// Users with predecessors in flight, with the nonce expected after those.
    ahead: Ahead,
    extra_wei: U256,
    /// Without `eth_simulateV1`: each member's outcome as known so far.
    outcomes: Vec<MemberSimulation>,
    /// True if some call was not answered.
    is_silent: bool,
    waits: usize,
}

impl Candidate {
    pub(super) fn holds(&self, id: RequestId) -> bool {
        self.members.iter().any(|member| member.id() == id)
    }
}

impl LocalRelay {
    fn may_send(&self, now: Timestamp) -> bool {
        let is_fresh = self.heads.looked_at.is_some_and(|at| now.since(at) <= self.config.stale_after);
        is_fresh && self.candidate.is_none() && self.lane.ready().is_ok()
    }

    /// Time at which composing may next select something; `None` if nothing can be sent.
    pub(super) fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let limits = self.limits().filter(|_| self.may_send(now))?;
        self.queue.next_due(now, &limits, &self.pricing.outlook)
    }

    /// Composes a batch, if the lane can send.
    pub(super) fn dispatch(&mut self, now: Timestamp) {
        if !self.may_send(now) {
            return;
        }
        let Some(limits) = self.limits() else { return };
        let lane = self.lane.id();
        let Some(selection) = self.queue.compose(now, lane, &limits, &self.pricing.outlook) else {
            if let Some(Short { needed_wei, until }) = self.queue.short() {
                self.lane_event(now, Event::Short { needed_wei, until });
            }
            return;
        };
        let members: Vec<Arc<VerifiedRequest>> =
            selection.members.iter().filter_map(|id| self.queue.get(*id)).map(|entry| entry.request.clone()).collect();
        // The forwarder would skip a request behind a held one, which is in no transaction.
        let behind: Vec<bool> = members.iter().map(|member| self.is_behind_held(member)).collect();
        if behind.contains(&true) {
            for (member, is_behind) in members.iter().zip(behind) {
                match is_behind {
                    true => self.held.push(member.id()),
                    false => self.queue.put_back(member.id()),
                }
            }
            return self.dispatch(now);
        }
        let mut ahead = Ahead::new();
        let mut seen: Vec<User> = Vec::new();
        for member in &members {
            if let Some((forwarder, signer, nonce)) = member.sequence()
                && !seen.contains(&(forwarder, signer))
            {
                seen.push((forwarder, signer));
                if self.queue.has_unsettled_before(forwarder, signer, nonce) {
                    ahead.insert((forwarder, signer), nonce);
                }
            }
        }
        let payload = self.params.payload(selection.key, &members);
        self.next_id += 1;
        let outcomes = vec![MemberSimulation::of(MemberOutcome::Executed); members.len()];
        let extra_wei = U256::ZERO;
        let id = self.next_id;
        self.candidate =
            Some(Candidate { id, selection, members, payload, ahead, extra_wei, outcomes, is_silent: false, waits: 0 });
        self.check_code(now);
    }

    fn is_behind_held(&self, member: &VerifiedRequest) -> bool {
        let Some((forwarder, signer, nonce)) = member.sequence() else { return false };
        let held = self.held.iter().filter_map(|id| self.queue.get(*id)?.request.sequence());
        held.into_iter().any(|(at, of, first)| (at, of) == (forwarder, signer) && first < nonce)
    }

    fn current(&self, id: u64) -> Option<&Candidate> {
        self.candidate.as_ref().filter(|candidate| candidate.id == id)
    }

    // ---- the forwarder ----

    fn check_code(&mut self, now: Timestamp) {
        let Some(candidate) = &self.candidate else { return };
        let id = candidate.id;
        match candidate.selection.key {
            VehicleKey::Forwarder(forwarder) if !self.forwarders.contains_key(&forwarder) => {
                let params = json!([forwarder, "latest"]);
                self.call(now, Purpose::Code { candidate: id, forwarder }, "eth_getCode", params);
            }
            VehicleKey::Forwarder(forwarder)
                if self.forwarders.get(&forwarder) == Some(&false) && !self.config.allow_unknown_forwarder =>
            {
                let Some(candidate) = self.candidate.take() else { return };
                // A lagging node may not have the code yet, so the next batch asks again. The cache is cleared whole,
                // which costs one more call per known forwarder; the simplest code for a page.
                self.forwarders = Table::new();
                for member in &candidate.members {
                    let mut end = End::new(Status::Rejected, Some(Reason::InvalidOnChain), now);
                    end.detail = Some(format!("the code at {forwarder} is no known forwarder"));
                    self.queue.put_back(member.id());
                    self.end_with_successors(now, member.id(), end);
                }
            }
            _ => self.ask_data_fee(now),
        }
    }

    pub(super) fn on_code(
        &mut self,
        now: Timestamp,
        id: u64,
        forwarder: alloy_primitives::Address,
        code: Option<Bytes>,
    ) {
        if let Some(code) = &code {
            self.forwarders.insert(forwarder, forwarder_version(code).is_some());
        }
        if self.current(id).is_none() {
            return;
        }
        match code {
            Some(_) => self.check_code(now),
            None => self.hold_candidate(),
        }
    }

    // ---- the L1 data fee ----

    fn ask_data_fee(&mut self, now: Timestamp) {
        let Some(candidate) = &self.candidate else { return };
        let Some(oracle) = self.config.l1_fee_oracle else { return self.simulate(now) };
        let id = candidate.id;
        let mut bytes = candidate.payload.data.to_vec();
        bytes.extend(std::iter::repeat_n(0xff, ENVELOPE_BYTES));
        let data = getL1FeeCall { unsignedTx: bytes.into() }.abi_encode();
        self.call(now, Purpose::DataFee { candidate: id }, "eth_call", eth_call(oracle, data, "latest".into()));
    }

    pub(super) fn on_data_fee(&mut self, now: Timestamp, id: u64, answer: Option<Bytes>) {
        let percent = U256::from(u64::from(self.config.fees.l1_fee_margin_percent) + 100);
        let fee = answer.filter(|data| data.len() == 32).map(|data| U256::from_be_slice(&data));
        let Some(candidate) = self.candidate.as_mut().filter(|candidate| candidate.id == id) else { return };
        let Some(fee) = fee else { return self.hold_candidate() };
        candidate.extra_wei = fee.saturating_mul(percent) / U256::from(100);
        // A cancel has less data.
        let wei = candidate.extra_wei;
        self.lane.handle_event(now, Event::CancelExtra(wei));
        self.simulate(now);
    }

    // ---- the simulation ----

    fn simulate(&mut self, now: Timestamp) {
        let Some(candidate) = &self.candidate else { return };
        let key = candidate.selection.key;
        let id = candidate.id;
        let is_known = match key {
            VehicleKey::Forwarder(forwarder) => self.forwarders.get(&forwarder) == Some(&true),
            _ => true,
        };
        if !candidate.ahead.is_empty() && !is_known {
            // The storage slot of an unknown forwarder's nonces is not known.
            return self.launch(now);
        }
        let sender = self.key.address();
        let priority_fee_per_gas =
            self.offer(now, candidate.selection.deadline).map_or(0, |fees| fees.max_priority_fee_per_gas);
        let environment = Environment {
            base_fee_per_gas: self.head.map_or(0, |head| head.next_base_fee),
            priority_fee_per_gas,
            fee_recipient: self.heads.proposer,
            ..Environment::default()
        };
        if self.lacks_simulate {
            // The batch as a whole succeeds whatever its members do, so each member is called as its target will see
            // it.
            let block = json!("latest");
            let environment = Environment::default();
            let calls: Vec<Value> = candidate
                .members
                .iter()
                .map(|member| simulation::member_params(sender, key, &self.params, member, &block, &environment))
                .collect();
            if let Some(candidate) = &mut self.candidate {
                candidate.waits = calls.len();
            }
            for (place, params) in calls.into_iter().enumerate() {
                self.call(now, Purpose::Member { candidate: id, place }, "eth_call", params);
            }
        } else {
            let params = simulation::params(&self.params, key, &candidate.members, &candidate.ahead, &environment);
            self.call(now, Purpose::Simulate { candidate: id }, "eth_simulateV1", params);
        }
    }

    pub(super) fn on_simulated(&mut self, now: Timestamp, id: u64, answer: CallAnswer) {
        let Some(candidate) = self.current(id) else { return };
        let (key, members) = (candidate.selection.key, candidate.members.clone());
        let verdict = match (answer.class(), answer) {
            (None, CallAnswer::Result(text)) => match parse::<Vec<SimulatedBlock>>(&text) {
                Some(blocks) => simulation::verdict(blocks, key, &members),
                None => Verdict::Unknown,
            },
            (Some(RpcErrorClass::Reverted), CallAnswer::Error { message, .. }) => Verdict::Whole(message),
            (Some(RpcErrorClass::EndpointUnusable | RpcErrorClass::BadTransaction), _) => {
                // Wallets and older nodes do not know the method.
                self.lacks_simulate = true;
                return self.simulate(now);
            }
            _ => Verdict::Unknown,
        };
        self.on_verdict(now, verdict);
    }

    pub(super) fn on_member(&mut self, now: Timestamp, id: u64, place: usize, answer: CallAnswer) {
        let Some(candidate) = self.candidate.as_mut().filter(|candidate| candidate.id == id) else { return };
        candidate.waits = candidate.waits.saturating_sub(1);
        match (answer.class(), &answer) {
            (None, CallAnswer::Result(_)) => {}
            (Some(class), CallAnswer::Error { message, .. })
                if class == RpcErrorClass::Reverted || is_execution_failure(message) =>
            {
                // A later request of the same user will execute on a different state.
                let is_first = candidate.members.get(place).is_some_and(|member| member.sequence().is_none())
                    || simulation::verifiable(&candidate.members, &candidate.ahead).contains(&place);
                if is_first && let Some(outcome) = candidate.outcomes.get_mut(place) {
                    outcome.outcome = MemberOutcome::Failed;
                    outcome.detail = Some(simulation::call_revert_text(message, None));
                }
            }
            _ => candidate.is_silent = true,
        }
        if candidate.waits > 0 {
            return;
        }
        if candidate.is_silent {
            return self.on_verdict(now, Verdict::Unknown);
        }
        self.verify_members(now);
    }

    /// Calls the forwarder's `verify` for the members that can be verified on the present state.
    fn verify_members(&mut self, now: Timestamp) {
        let Some(candidate) = self.candidate.as_mut() else { return };
        let id = candidate.id;
        let VehicleKey::Forwarder(forwarder) = candidate.selection.key else {
            let outcomes = candidate.outcomes.clone();
            return self.on_verdict(now, Verdict::Members(outcomes));
        };
        let calls: Vec<(usize, Value)> = simulation::verifiable(&candidate.members, &candidate.ahead)
            .into_iter()
            .filter_map(|place| {
                let request = forward_data(&candidate.members[place])?;
                Some((place, eth_call(forwarder, verifyCall { request }.abi_encode(), "latest".into())))
            })
            .collect();
        candidate.waits = calls.len();
        if calls.is_empty() {
            let outcomes = candidate.outcomes.clone();
            return self.on_verdict(now, Verdict::Members(outcomes));
        }
        for (place, params) in calls {
            self.call(now, Purpose::Verify { candidate: id, place }, "eth_call", params);
        }
    }

    pub(super) fn on_verified(&mut self, now: Timestamp, id: u64, place: usize, answer: CallAnswer) {
        let class = answer.class();
        let Some(candidate) = self.candidate.as_mut().filter(|candidate| candidate.id == id) else { return };
        candidate.waits = candidate.waits.saturating_sub(1);
        let is_valid = match answer.read::<Bytes>() {
            Some(data) => word(&data) == Some(1),
            // A missing answer is inconclusive.
            None => class != Some(RpcErrorClass::Reverted),
        };
        if !is_valid && let Some(outcome) = candidate.outcomes.get_mut(place) {
            outcome.outcome = MemberOutcome::Untouched;
        }
        if candidate.waits == 0 {
            let outcomes = candidate.outcomes.clone();
            self.on_verdict(now, Verdict::Members(outcomes));
        }
    }

    fn on_verdict(&mut self, now: Timestamp, verdict: Verdict) {
        if !matches!(verdict, Verdict::Unknown) {
            self.silent_simulations = 0;
        }
        match verdict {
            Verdict::Unknown => {
                self.silent_simulations += 1;
                if self.silent_simulations < MAX_SILENT_SIMULATIONS {
                    self.hold_candidate();
                } else {
                    // The node answers other calls; the receipt will show the outcome.
                    self.launch(now);
                }
            }
            Verdict::Members(simulated) => self.sift(now, simulated),
            Verdict::Whole(detail) => {
                let Some(candidate) = self.candidate.take() else { return };
                let is_alone = candidate.members.len() == 1;
                for member in &candidate.members {
                    let id = member.id();
                    if is_alone {
                        self.failed_simulation(now, id, &candidate.ahead, Reason::SimulationReverted, Some(&detail));
                    } else {
                        // Retried in ever smaller batches, until the faulty one is alone.
                        if let Some(entry) = self.queue.get_mut(id) {
                            entry.batch_failures += 1;
                        }
                        self.queue.put_back(id);
                    }
                }
            }
        }
    }

    /// Holds the members until the next block.
    fn hold_candidate(&mut self) {
        if let Some(candidate) = self.candidate.take() {
            self.held.extend(candidate.members.iter().map(|member| member.id()));
        }
    }

    /// Sends the members that would succeed; the others wait for another block, or end.
    fn sift(&mut self, now: Timestamp, simulated: Vec<MemberSimulation>) {
        if simulated.iter().all(|member| member.outcome == MemberOutcome::Executed) {
            return self.launch(now);
        }
        let Some(mut candidate) = self.candidate.take() else { return };
        let mut broken: Vec<User> = Vec::new();
        let mut good = Vec::with_capacity(candidate.members.len());
        let mut failed = Vec::new();
        for (member, simulated) in std::mem::take(&mut candidate.members).into_iter().zip(simulated) {
            let user = member.sequence().map(|(forwarder, signer, _)| (forwarder, signer));
            if user.is_some_and(|user| broken.contains(&user)) {
                // Its predecessor is left out, so its own outcome is inconclusive.
                self.held.push(member.id());
                continue;
            }
            let reason = match simulated.outcome {
                MemberOutcome::Executed => {
                    good.push(member);
                    continue;
                }
                MemberOutcome::Untouched if user.is_some() => Reason::InvalidOnChain,
                MemberOutcome::Failed | MemberOutcome::Untouched => Reason::SimulationReverted,
            };
            broken.extend(user);
            failed.push((member.id(), user, reason, simulated.detail));
        }
        for (id, user, reason, detail) in failed {
            if reason == Reason::InvalidOnChain
                && let Some(user) = user
            {
                // The nonce may have been used elsewhere: read it again before judging.
                self.recheck_user(now, user);
            }
            self.failed_simulation(now, id, &candidate.ahead, reason, detail.as_deref());
        }
        if good.is_empty() {
            return;
        }
        candidate.payload = self.params.payload(candidate.selection.key, &good);
        candidate.members = good;
        // The data fee quoted for the larger batch covers the smaller one.
        self.candidate = Some(candidate);
        self.launch(now);
    }

    fn failed_simulation(
        &mut self,
        now: Timestamp,
        id: RequestId,
        ahead: &Ahead,
        reason: Reason,
        detail: Option<&str>,
    ) {
        let limit = self.config.max_simulations;
        let Some(queued) = self.queue.get_mut(id) else { return };
        let sequence = queued.request.sequence();
        // With predecessors in flight it will execute on a different state than the simulated one.
        if !sequence.is_some_and(|(forwarder, signer, _)| ahead.contains_key(&(forwarder, signer))) {
            queued.simulations += 1;
        }
        if queued.simulations < limit {
            self.held.push(id);
            return;
        }
        self.queue.put_back(id);
        let mut end = End::new(Status::Rejected, Some(reason), now);
        end.detail = detail.map(|detail| detail.chars().take(MAX_DETAIL_CHARS).collect());
        self.end_with_successors(now, id, end);
    }

    // ---- the lane ----

    /// Highest price per gas within every member's cost limit, after its share of costs beyond gas (I8), wei per gas.
    fn batch_ceiling(&self, members: &[Arc<VerifiedRequest>], weights: &[u64], extra_wei: U256) -> u128 {
        let sum = weights.iter().fold(U256::ZERO, |sum, weight| sum.saturating_add(U256::from(*weight)));
        let ceilings = members.iter().zip(weights).map(|(member, weight)| {
            // Rounded up.
            let share = extra_wei.saturating_mul(U256::from(*weight)).div_ceil(sum.max(U256::from(1)));
            self.ceiling(member, share)
        });
        ceilings.min().unwrap_or(0)
    }

    /// Submits the plan to the lane; if the lane refuses it, the members wait for the next block.
    fn launch(&mut self, now: Timestamp) {
        let Some(candidate) = self.candidate.take() else { return };
        let Candidate { selection, members, payload, extra_wei, .. } = candidate;
        let weights: Vec<u64> = members.iter().map(|member| self.params.member_gas(member)).collect();
        let ceiling = self.batch_ceiling(&members, &weights, extra_wei).min(selection.ceiling_wei_per_gas);
        let plan = Plan {
            payload,
            deadline: selection.deadline,
            ceiling_wei_per_gas: ceiling,
            extra_wei,
            is_guarded: members.iter().all(|member| member.sequence().is_some()),
            is_alone: members.len() == 1,
        };
        let offer = self.offer(now, selection.deadline);
        match self.lane.submit_offering(now, plan.clone(), offer) {
            Ok(batch) => {
                for member in &members {
                    if let Some(entry) = self.entries.get_mut(&member.id()) {
                        entry.is_bound = true;
                    }
                }
                let planned_block = self.heads.nonce_floor;
                let (key, absent_weight, is_stored) = (selection.key, None, false);
                let flight = Flight { key, members, weights, absent_weight, plan, planned_block, is_stored };
                self.flights.insert(batch.nonce, flight);
            }
            Err(error) => {
                if !matches!(error, LaneError::Full { .. } | LaneError::Busy { .. } | LaneError::Underfunded { .. }) {
                    let detail = error.to_string();
                    self.command(LocalCommand::Alert { code: "not_sent", detail });
                }
                // A lane that refuses now will refuse at once again.
                self.held.extend(members.iter().map(|member| member.id()));
            }
        }
        self.drain(now);
    }
}
