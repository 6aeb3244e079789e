//! From the composer's choice to a plan that a lane takes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use alloy_primitives::Address;

use super::{
    chain_service::{ChainService, Done},
    data_fee::{self, Told},
    lane_shell::Flight,
    pricing::Foreseen,
    simulate::{Environment, MemberSimulation, Verdict, simulate},
};
use crate::{
    lane::{Event, LaneError, Plan},
    ledger::{BatchRecord, BatchState},
    request::{
        Reason, RequestId, Status, VerifiedRequest,
        outcome::MemberOutcome,
        vehicle::{Payload, VehicleKey},
    },
    schedule::{ComposeLimits, Selection, Short},
    time::Timestamp,
};

/// Failures of the whole transaction after which a request is given up.
pub(super) const MAX_BATCH_FAILURES: u32 = 6;

/// A batch on its way through the simulation.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) selection: Selection,
    pub(super) members: Vec<Arc<VerifiedRequest>>,
    pub(super) payload: Payload,
    /// Users with predecessors in flight, with the nonce they will have then.
    pub(super) ahead: BTreeMap<(Address, Address), u64>,
    /// What the chain said of its data's cost.
    pub(super) told: Told,
    /// The forecast by which it was composed: another one may be in force when it is signed.
    pub(super) foreseen: Option<Foreseen>,
    /// Gas of each member in a transaction of its own, as simulated; empty before the simulation, or without one.
    pub(super) used: Vec<Option<u64>>,
}

impl ChainService {
    /// Lets every lane that can send choose what to send.
    pub(super) fn dispatch(&mut self, now: Timestamp) {
        if self.is_stopping || !self.may_send() {
            return;
        }
        self.end_uncertain(now);
        let Some(limits) = self.limits(now) else { return };
        for index in 0..self.lanes.len() {
            if self.lanes[index].is_simulating || self.lanes[index].machine.ready().is_err() {
                continue;
            }
            let lane = self.lanes[index].machine.id();
            let available_wei = Some(self.lanes[index].machine.available_wei());
            let limits = ComposeLimits { available_wei, ..limits };
            let Some(selection) = self.queue.compose(now, lane, &limits, &self.outlook) else {
                if let Some(Short { needed_wei, until }) = self.queue.short() {
                    self.lanes[index].machine.handle_event(now, Event::Short { needed_wei, until });
                    self.drain(index);
                }
                continue;
            };
            let candidate = self.candidate(now, index, selection);
            if self.shared.tuning.simulate {
                self.simulate(index, candidate);
            } else {
                self.launch(now, index, candidate);
            }
        }
    }

    /// Ends calls that may have been executed without the ledger's knowledge, as soon as they are not in flight.
    fn end_uncertain(&mut self, now: Timestamp) {
        if self.uncertain.is_empty() {
            return;
        }
        let waiting: Vec<RequestId> = self.uncertain.iter().copied().filter(|id| self.queue.is_waiting(*id)).collect();
        self.end_waiting(now, &waiting, Status::Rejected, Reason::OutcomeUnknown, None);
        self.uncertain.retain(|id| self.queue.get(*id).is_some());
    }

    fn candidate(&self, now: Timestamp, index: usize, selection: Selection) -> Candidate {
        let members: Vec<Arc<VerifiedRequest>> =
            selection.members.iter().filter_map(|id| self.queue.get(*id)).map(|entry| entry.request.clone()).collect();
        let mut ahead = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for member in &members {
            if let Some((forwarder, signer, nonce)) = member.sequence()
                && seen.insert((forwarder, signer))
                && self.queue.has_unsettled_before(forwarder, signer, nonce)
            {
                ahead.insert((forwarder, signer), nonce);
            }
        }
        let payload = self.lanes[index].params.payload(selection.key, &members);
        let foreseen = self.foreseen(now, selection.deadline);
        Candidate { selection, members, payload, ahead, told: Told::default(), foreseen, used: Vec::new() }
    }

    fn simulate(&mut self, index: usize, candidate: Candidate) {
        self.lanes[index].is_simulating = true;
        let shared = self.shared.clone();
        let vehicle = self.lanes[index].params;
        let environment = self.environment(super::clock::now(), index, candidate.selection.deadline);
        let model = self.data_fee().unwrap_or_default();
        self.tasks.spawn(async move {
            let is_known = match candidate.selection.key {
                VehicleKey::Forwarder(forwarder) => shared.known_forwarders.contains(&forwarder),
                _ => true,
            };
            let told = data_fee::ask(&shared.pool, &model, &candidate.payload);
            let verdict = simulate(
                &shared.pool,
                &vehicle,
                &candidate.payload,
                candidate.selection.key,
                &candidate.members,
                &candidate.ahead,
                &environment,
                is_known,
            );
            let (told, verdict) = tokio::join!(told, verdict);
            Done::Simulated { lane: index, candidate: Box::new(candidate), verdict, told }
        });
    }

    /// The block that is to take a batch with this deadline, as far as it is known.
    fn environment(&self, now: Timestamp, index: usize, deadline: Timestamp) -> Environment {
        let base_fee_per_gas = self.price.map_or(0, |price| price.next_base_fee);
        let priority_fee_per_gas = self.offer(now, deadline).map_or(0, |offer| offer.max_priority_fee_per_gas);
        let balance_wei = self.lanes[index].machine.balance();
        // On each node's newest block: one that is a block ahead or behind still answers.
        Environment { base_fee_per_gas, priority_fee_per_gas, balance_wei, parent: None }
    }

    pub(super) fn on_verdict(&mut self, now: Timestamp, index: usize, candidate: Candidate, verdict: Verdict) {
        self.lanes[index].is_simulating = false;
        match verdict {
            Verdict::Unknown => self.launch(now, index, candidate),
            Verdict::Members(simulated) => self.sift(now, index, candidate, simulated),
            Verdict::Whole(detail) => {
                metrics::counter!("slackwater_simulations_failed_total").increment(1);
                let is_alone = candidate.members.len() == 1;
                for member in &candidate.members {
                    let id = member.id();
                    if is_alone {
                        self.failed_simulation(now, id, &candidate.ahead, Reason::SimulationReverted, Some(&detail));
                    } else {
                        if let Some(entry) = self.queue.get_mut(id) {
                            entry.batch_failures += 1;
                        }
                        self.queue.put_back(id);
                    }
                }
            }
        }
        self.dispatch(now);
    }

    /// Sends those who would succeed; the others wait for another block, or end.
    fn sift(&mut self, now: Timestamp, index: usize, mut candidate: Candidate, simulated: Vec<MemberSimulation>) {
        if simulated.iter().all(|member| member.outcome == MemberOutcome::Executed) {
            candidate.used = simulated.iter().map(|member| member.gas_used).collect();
            self.launch(now, index, candidate);
            return;
        }
        metrics::counter!("slackwater_simulations_failed_total").increment(1);
        let Candidate { mut selection, members, ahead, told, foreseen, .. } = candidate;
        let mut used = Vec::with_capacity(members.len());
        let mut broken: BTreeSet<(Address, Address)> = BTreeSet::new();
        let mut good = Vec::with_capacity(members.len());
        let mut failed = Vec::new();
        for (member, MemberSimulation { outcome, gas_used, detail }) in members.into_iter().zip(simulated) {
            let sequence = member.sequence().map(|(forwarder, signer, _)| (forwarder, signer));
            if sequence.is_some_and(|sequence| broken.contains(&sequence)) {
                // Its predecessor stays behind, so its own outcome says nothing.
                self.held.push(member.id());
                continue;
            }
            match outcome {
                MemberOutcome::Executed => {
                    good.push(member);
                    used.push(gas_used);
                }
                MemberOutcome::Failed | MemberOutcome::Untouched => {
                    broken.extend(sequence);
                    let reason = if outcome == MemberOutcome::Failed || member.sequence().is_none() {
                        Reason::SimulationReverted
                    } else {
                        Reason::InvalidOnChain
                    };
                    failed.push((member.id(), sequence, reason, detail));
                }
            }
        }
        for (id, sequence, reason, detail) in failed {
            if reason == Reason::InvalidOnChain
                && let Some(signer) = sequence
            {
                // Perhaps somebody else used the nonce: look again before judging.
                self.recheck(signer);
            }
            self.failed_simulation(now, id, &ahead, reason, detail.as_deref());
        }
        if good.is_empty() {
            return;
        }
        selection.members = good.iter().map(|member| member.id()).collect();
        let payload = self.lanes[index].params.payload(selection.key, &good);
        // What was told of more members is enough for fewer.
        self.launch(now, index, Candidate { selection, members: good, payload, ahead, told, foreseen, used });
    }

    /// Reads a user's forwarder nonce afresh.
    fn recheck(&mut self, signer: (Address, Address)) {
        let shared = self.shared.clone();
        self.tasks.spawn(async move {
            let block = serde_json::json!("latest");
            let nonces = super::simulate::forwarder_nonces(&shared.pool, &[signer], false, &block).await;
            let found = match nonces.ok().and_then(|nonces| nonces.first().copied().flatten()) {
                Some(nonce) => {
                    shared.nonces.insert(signer, nonce).await;
                    vec![(signer, nonce)]
                }
                None => Vec::new(),
            };
            Done::Rechecked { found }
        });
    }

    fn failed_simulation(
        &mut self,
        now: Timestamp,
        id: RequestId,
        ahead: &BTreeMap<(Address, Address), u64>,
        reason: Reason,
        detail: Option<&str>,
    ) {
        let limit = self.shared.tuning.max_simulations;
        let Some(entry) = self.queue.get_mut(id) else { return };
        let depends =
            entry.request.sequence().is_some_and(|(forwarder, signer, _)| ahead.contains_key(&(forwarder, signer)));
        if !depends {
            // With predecessors in flight the state it will meet is not the state it was simulated on.
            entry.simulations += 1;
        }
        if entry.simulations >= limit {
            // Those of the same user that are held with it have lost their predecessor like those that wait.
            let signer = entry.request.sequence().map(|(forwarder, signer, _)| (forwarder, signer));
            let is_behind = |held: &RequestId| {
                let sequence = self.queue.get(*held).and_then(|entry| entry.request.sequence());
                signer.is_some() && sequence.map(|(forwarder, signer, _)| (forwarder, signer)) == signer
            };
            let (behind, held) = std::mem::take(&mut self.held).into_iter().partition(is_behind);
            self.held = held;
            for held in behind {
                self.queue.put_back(held);
            }
            let successors = self.queue.successors(id);
            self.end_waiting(now, &[id], Status::Rejected, reason, detail);
            self.end_waiting(now, &successors, Status::Rejected, Reason::PredecessorFailed, None);
        } else {
            self.held.push(id);
        }
    }

    /// Gives the plan to the lane; what the lane does not take goes back to the queue.
    fn launch(&mut self, now: Timestamp, index: usize, candidate: Candidate) {
        let Candidate { selection, members, mut payload, told, foreseen, used, .. } = candidate;
        let extra_wei = self.charge_data(&mut payload, told);
        let params = &self.lanes[index].params;
        let base_gas = params.schedule.tx_base_gas;
        let weights = members
            .iter()
            .enumerate()
            .map(|(index, member)| match used.get(index).copied().flatten() {
                Some(gas) => gas.saturating_sub(base_gas),
                None => params.member_gas(member),
            })
            .collect();
        let plan = Plan {
            payload: payload.clone(),
            deadline: selection.deadline,
            ceiling_wei_per_gas: selection.ceiling_wei_per_gas,
            extra_wei,
            is_guarded: members.iter().all(|member| member.sequence().is_some()),
            is_alone: members.len() == 1,
        };
        let offer = self.offer(now, selection.deadline);
        let lane = &mut self.lanes[index];
        match lane.machine.submit_offering(now, plan, offer) {
            Ok(id) => {
                metrics::counter!("slackwater_batches_planned_total", "trigger" => selection.trigger.as_str())
                    .increment(1);
                metrics::histogram!("slackwater_batch_requests").record(members.len() as f64);
                let record = BatchRecord {
                    id,
                    state: BatchState::Signed,
                    to: payload.to,
                    value: payload.value,
                    gas_limit: payload.gas_limit,
                    deadline: selection.deadline,
                    ceiling_wei_per_gas: selection.ceiling_wei_per_gas,
                    trigger: selection.trigger.as_str().to_owned(),
                    created_at: now,
                    included_hash: None,
                    block: None,
                    gas_used: None,
                    cost_wei: None,
                };
                let left = lane.flights.remove(&id.nonce).map_or_else(Vec::new, |before| before.left);
                let (key, is_planned, clean) = (selection.key, false, Vec::new());
                let flight = Flight { key, members, weights, record, foreseen, clean, is_planned, left };
                lane.flights.insert(id.nonce, flight);
            }
            Err(error) => {
                if !matches!(error, LaneError::Full { .. } | LaneError::Busy { .. }) {
                    tracing::debug!(lane = %lane.machine.id(), %error, "lane does not take the batch");
                }
                for member in members {
                    // Not before the next block: a lane that refuses now will refuse at once again.
                    self.held.push(member.id());
                }
            }
        }
        self.drain(index);
    }
}
