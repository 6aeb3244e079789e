//! Included transactions without their bytes: these are needed again only after a reorg, so until finality they stay in
//! the ledger, and memory keeps an outline of each request, so that a million of them fit.
//!
//! A lane's command that needs the bytes waits, with the later ones for the same nonce, until they are read.

use std::sync::Arc;

use alloy_primitives::Bytes;

use super::{
    admission::ChainShared,
    chain_service::{ChainService, Done},
    restore::{newest_calldata, stored},
};
use crate::{
    lane::{AttemptKey, AttemptKind, Command},
    ledger::{AttemptRecord, Durable, Ledger, LedgerError},
    request::{BatchId, RequestId, VerifiedRequest, outcome::MemberOutcome, vehicle::VehicleKey},
};

/// Concurrent reads of transactions' bytes: the ledger has few readers, and other tasks need them too.
pub(super) const MAX_READS: usize = 2;

/// Inputs of a member's cost share that depend on its bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct MemberSize {
    /// Gas used if the forwarder skips it.
    pub(super) skip_gas: u64,
    /// Compressed length in bytes of a transaction that carries it alone; 1 on chains without a data fee.
    pub(super) data_bytes: u64,
}

impl ChainShared {
    /// The size of a member with its bytes in memory.
    pub(super) fn size_of(&self, key: VehicleKey, member: &Arc<VerifiedRequest>, is_data_charged: bool) -> MemberSize {
        let data_bytes = if is_data_charged { self.params.size_alone(key, member).flz } else { 1 };
        MemberSize { skip_gas: self.params.skip_gas(member), data_bytes }
    }
}

/// State of a transaction whose bytes (members, calldata, attempts) are in the ledger only.
#[derive(Debug, Default)]
pub(super) struct Stowed {
    is_fetching: bool,
    /// The lane's commands that wait for the bytes, in order.
    commands: Vec<Command>,
}

impl Stowed {
    /// True if commands wait for the bytes: the transaction has left its block, or had another outcome there.
    pub(super) const fn has_commands(&self) -> bool {
        !self.commands.is_empty()
    }
}

/// Result of reading the bytes back.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) lane: usize,
    pub(super) nonce: u64,
    /// `None` if the ledger could not be read; retried at the next head.
    pub(super) found: Option<Whole>,
}

/// The bytes of a transaction.
#[derive(Debug)]
pub(super) struct Whole {
    attempts: Vec<Durable<AttemptRecord>>,
    requests: Vec<Arc<VerifiedRequest>>,
}

/// An attempt without its bytes, which can't be sent.
pub(super) fn without_bytes(attempt: Durable<AttemptRecord>) -> Durable<AttemptRecord> {
    attempt.reduced(|attempt| attempt.raw = Bytes::new())
}

async fn read(ledger: &dyn Ledger, id: BatchId, members: &[RequestId]) -> Result<Whole, LedgerError> {
    let found = ledger.open_batches(id.lane, id.nonce, 1).await?.pop().filter(|(record, ..)| record.id == id);
    let missing = || LedgerError::Damaged { what: "batch", detail: format!("{id} is not there") };
    let (_, attempts, _) = found.ok_or_else(missing)?;
    let mut requests = Vec::with_capacity(members.len());
    for member in members {
        requests.push(Arc::new(stored(ledger, *member).await?));
    }
    Ok(Whole { attempts, requests })
}

impl ChainService {
    /// Drops the bytes of an included transaction, and of the members it executed.
    pub(super) fn stow(&mut self, index: usize, nonce: u64) {
        let lane = &mut self.lanes[index];
        let Some(flight) = lane.flights.get_mut(&nonce) else { return };
        let Some(mined) = &mut flight.mined else { return };
        // A nonce with earlier contents is rare, and its members may be elsewhere.
        if mined.kind != AttemptKind::Payload || !flight.earlier.is_empty() || flight.members.is_empty() {
            return;
        }
        if flight.sizes.is_empty() {
            let is_data_charged = self.shared.spec.family.has_data_fee() || !mined.receipt.extra_fee_wei.is_zero();
            let size = |member| self.shared.size_of(flight.key, member, is_data_charged);
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

    /// True if a returning member's bytes are missing, or an earlier command waits for them.
    pub(super) fn lacks_bytes(&self, index: usize, nonce: u64, outcomes: &[MemberOutcome]) -> bool {
        let flight = self.lanes[index].flights.get(&nonce);
        flight.is_some_and(|flight| {
            let comes_back = |(member, outcome): (&Arc<VerifiedRequest>, &MemberOutcome)| {
                member.is_outline() && *outcome == MemberOutcome::Untouched
            };
            flight.stowed.as_ref().is_some_and(Stowed::has_commands)
                || flight.members.iter().zip(outcomes).any(comes_back)
        })
    }

    /// Holds back a command that needs missing bytes; returns every other one.
    pub(super) fn wait_for_bytes(&mut self, index: usize, command: Command) -> Option<Command> {
        let nonce = match &command {
            Command::Sign { key, .. } | Command::Persist { key } | Command::Broadcast { key } => key.nonce,
            Command::ReportBroadcast { nonce }
            | Command::ReportUnincluded { nonce }
            | Command::ReportLost { nonce }
            | Command::ReportRefused { nonce, .. } => *nonce,
            // The outcomes of these two are evaluated first.
            Command::ReportIncluded { .. } | Command::ReportFinal { .. } => return Some(command),
            Command::Poll { .. } | Command::Alert(_) => return Some(command),
        };
        self.hold_back(index, nonce, command)
    }

    /// Holds back a command for a nonce with missing bytes, and starts reading them.
    pub(super) fn hold_back(&mut self, index: usize, nonce: u64, command: Command) -> Option<Command> {
        let flight = self.lanes[index].flights.get_mut(&nonce);
        let Some(stowed) = flight.and_then(|flight| flight.stowed.as_mut()) else { return Some(command) };
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
        let outlines = flight.members.iter().filter(|member| member.is_outline());
        let members: Vec<RequestId> = outlines.map(|member| member.id()).collect();
        let (ledger, reads) = (self.ledger.clone(), self.reads.clone());
        let work = async move {
            // The semaphore is never closed.
            let _turn = reads.acquire_owned().await;
            let found = read(&*ledger, id, &members).await;
            let found = found.inspect_err(|error| {
                tracing::error!(batch = %id, %error, "a transaction that left its block can't be read back: tried again with the next head");
            });
            Done::Fetched(Fetched { lane: index, nonce, found: found.ok() })
        };
        self.start(work, move || Done::Fetched(Fetched { lane: index, nonce, found: None }));
    }

    /// Retries failed reads.
    pub(super) fn fetch_again(&mut self) {
        for index in 0..self.lanes.len() {
            let waits = |flight: &super::lane_shell::Flight| {
                flight.stowed.as_ref().is_some_and(|stowed| stowed.has_commands() && !stowed.is_fetching)
            };
            let flights = self.lanes[index].flights.iter();
            let waiting: Vec<u64> = flights.filter(|(_, flight)| waits(flight)).map(|(nonce, _)| *nonce).collect();
            waiting.into_iter().for_each(|nonce| self.fetch(index, nonce));
        }
    }

    /// Restores the bytes and executes the commands that waited for them.
    pub(super) fn on_fetched(&mut self, fetched: Fetched) {
        let Fetched { lane: index, nonce, found } = fetched;
        let Some(lane) = self.lanes.get_mut(index) else { return };
        let Some(flight) = lane.flights.get_mut(&nonce) else { return };
        let Some(stowed) = flight.stowed.as_mut() else { return };
        stowed.is_fetching = false;
        let Some(Whole { attempts, requests }) = found else { return };
        let data = match newest_calldata(&attempts) {
            Ok((data, _)) => data,
            Err(error) => {
                tracing::error!(batch = %lane.batch_id(nonce), %error, "a stored attempt can't be read");
                return;
            }
        };
        for request in requests {
            if let Some(member) = flight.members.iter_mut().find(|member| member.id() == request.id()) {
                *member = request.clone();
                self.queue.replace(request);
            }
        }
        let commands = flight.stowed.take().map(|stowed| stowed.commands).unwrap_or_default();
        lane.machine.give_calldata(nonce, data.clone());
        for attempt in attempts {
            lane.durable.insert(AttemptKey { nonce, index: attempt.get().index }, attempt);
        }
        for mut command in commands {
            if let Command::Sign { tx, .. } = &mut command
                && tx.kind == AttemptKind::Payload
            {
                tx.payload.data = data.clone();
            }
            self.obey(index, command);
        }
        self.drain(index);
    }
}

#[cfg(test)]
mod tests;
