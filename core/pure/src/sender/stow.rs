//! Included transactions without their bytes: these are needed again only after a reorg, so until finality they stay in
//! the ledger, and memory keeps an outline of each request, so that a million of them fit.
//!
//! A lane's command that needs the bytes waits, with the later ones for the same nonce, until they are read. A member that
//! returns to the queue waits there as an outline; its payload is read when it is composed again.

use std::sync::Arc;

use super::{
    flight::Flight,
    host::Host,
    input::{Command, Whole},
    state::Sender,
};
use crate::{
    lane::{AttemptKey, AttemptKind, Command as LaneCommand},
    request::outcome::MemberOutcome,
};

impl<H: Host> Sender<H> {
    /// Drops the bytes of an included transaction, and of the members it executed.
    pub fn stow(&mut self, index: usize, nonce: u64) {
        if !H::HAS_LEDGER {
            return;
        }
        let lane = &mut self.lanes[index];
        let Some(flight) = lane.flights.get_mut(&nonce) else { return };
        let Some(mined) = &mut flight.mined else { return };
        // A nonce with earlier contents is rare, and its members may be elsewhere.
        if mined.kind != AttemptKind::Payload || !flight.earlier.is_empty() || flight.members.is_empty() {
            return;
        }
        if flight.sizes.is_empty() {
            let is_data_charged = self.facts.spec.family.has_data_fee() || !mined.receipt.extra_fee_wei.is_zero();
            let size = |member| self.facts.size_of(flight.key, member, is_data_charged);
            flight.sizes = flight.members.iter().map(size).collect();
        }
        for (member, outcome) in flight.members.iter_mut().zip(&mined.outcomes) {
            let is_whole = *outcome == MemberOutcome::Untouched || flight.gone.contains(&member.id());
            if !is_whole && !member.is_outline() {
                *member = Arc::new(member.outline());
                self.queue.replace(member.clone());
            }
        }
        // A majority is asked about a transaction only if it left a member out.
        if !mined.outcomes.contains(&MemberOutcome::Untouched) {
            mined.receipt.logs = Vec::new();
        }
        lane.machine.forget_calldata(nonce);
        lane.reduce_attempts(nonce);
        if let Some(flight) = lane.flights.get_mut(&nonce) {
            flight.stowed.get_or_insert_default();
        }
    }

    /// Holds back a command that needs missing bytes, and those after it; returns every other one.
    pub fn wait_for_bytes(&mut self, index: usize, command: LaneCommand) -> Option<LaneCommand> {
        if !H::HAS_LEDGER {
            return Some(command);
        }
        let (nonce, needs_bytes) = match &command {
            LaneCommand::Sign { key, .. } | LaneCommand::Persist { key } | LaneCommand::Broadcast { key } => {
                (key.nonce, true)
            }
            // The content may be sent again under the vacant nonce.
            LaneCommand::ReportRefused { nonce, .. } => (*nonce, true),
            LaneCommand::ReportBroadcast { nonce }
            | LaneCommand::ReportUnincluded { nonce }
            | LaneCommand::ReportLost { nonce }
            | LaneCommand::ReportIncluded { nonce, .. }
            | LaneCommand::ReportFinal { nonce, .. } => (*nonce, false),
            LaneCommand::Poll { .. } | LaneCommand::Alert(_) => return Some(command),
        };
        let flight = self.lanes[index].flights.get_mut(&nonce);
        let stowed = flight.and_then(|flight| flight.stowed.as_mut());
        let Some(stowed) = stowed.filter(|stowed| needs_bytes || stowed.has_commands()) else { return Some(command) };
        stowed.commands.push(command);
        self.fetch(index, nonce);
        None
    }

    /// Reads the bytes that commands wait for.
    fn fetch(&mut self, index: usize, nonce: u64) {
        let lane = &mut self.lanes[index];
        let id = lane.batch_id(nonce);
        let Some(flight) = lane.flights.get_mut(&nonce) else { return };
        let Some(stowed) = flight.stowed.as_mut().filter(|stowed| !stowed.is_fetching) else { return };
        stowed.is_fetching = true;
        self.command(Command::Fetch { lane: index, nonce, id });
    }

    /// Retries failed reads.
    pub fn fetch_again(&mut self) {
        if !H::HAS_LEDGER {
            return;
        }
        for index in 0..self.lanes.len() {
            let waits = |flight: &Flight| {
                flight.stowed.as_ref().is_some_and(|stowed| stowed.has_commands() && !stowed.is_fetching)
            };
            let flights = self.lanes[index].flights.iter();
            let waiting: Vec<u64> = flights.filter(|(_, flight)| waits(flight)).map(|(nonce, _)| *nonce).collect();
            waiting.into_iter().for_each(|nonce| self.fetch(index, nonce));
        }
    }

    /// Restores the bytes and executes the commands that waited for them.
    pub fn on_fetched(&mut self, index: usize, nonce: u64, found: Option<Whole>) {
        let Some(lane) = self.lanes.get_mut(index) else { return };
        let Some(flight) = lane.flights.get_mut(&nonce) else { return };
        let Some(stowed) = flight.stowed.as_mut() else { return };
        stowed.is_fetching = false;
        let Some(Whole { attempts, calldata: data }) = found else { return };
        let commands = flight.stowed.take().map(|stowed| stowed.commands).unwrap_or_default();
        lane.machine.give_calldata(nonce, data.clone());
        for attempt in attempts {
            lane.durable.insert(AttemptKey { nonce, index: attempt.get().index }, attempt);
        }
        for mut command in commands {
            if let LaneCommand::Sign { tx, .. } = &mut command
                && tx.kind == AttemptKind::Payload
            {
                tx.payload.data = data.clone();
            }
            self.obey(index, command);
        }
        self.drain(index);
    }
}
