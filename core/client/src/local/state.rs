//! State of a local relay: the sender, and its edge to node and storage.

use std::collections::VecDeque;

use alloy_primitives::{Address, B256, U256};

use super::{
    command::LocalCommand,
    config::LocalConfig,
    host::Page,
    key::SessionKey,
    parts::{
        Asked, Closing, Entry, Heads, Kept, Look, OpenNonce, Pending, PollRun, Purpose, Reading, Spenders, Writing,
    },
};
use crate::{
    request::RequestId,
    sender::{Sender, User},
    table::Table,
    time::Timestamp,
};

/// Index of the only lane.
pub(super) const LANE: usize = 0;

/// A relay of one chain and one session key.
#[derive(Debug)]
pub struct LocalRelay {
    pub(super) config: LocalConfig,
    pub(super) key: SessionKey,
    pub(super) sender: Sender<Page>,
    pub(super) entries: Table<RequestId, Entry>,
    /// Nonces that are not settled.
    pub(super) nonces: Table<u64, OpenNonce>,
    pub(super) closing: Table<u64, Closing>,
    /// One more than the highest final nonce.
    pub(super) final_next: u64,
    pub(super) asked: Option<Asked>,
    /// True if the node has no `eth_simulateV1`.
    pub(super) lacks_simulate: bool,
    /// Checked forwarders; true if the code is a known version.
    pub(super) forwarders: Table<Address, bool>,
    /// Newest answer of the L1 fee oracle, wei.
    pub(super) data_fee: U256,
    /// Highest gas limit × fee cap accepted by the node, wei, learned from its refusals; `None` if none was refused.
    pub(super) fee_cap_wei: Option<u128>,
    pub(super) heads: Heads,
    pub(super) look: Option<Look>,
    pub(super) polls: Table<u64, PollRun>,
    pub(super) spenders: Spenders,
    pub(super) readings: Table<u64, Reading>,
    /// A suspect's nonce, with the block at which it was read.
    pub(super) read_at: Table<User, (u64, B256, u64)>,
    pub(super) calls: Table<u64, Pending>,
    pub(super) next_id: u64,
    pub(super) seq: u64,
    /// Time at which something may be sent or expire, if nothing else happens before.
    pub(super) due: Option<Timestamp>,
    pub(super) writing: Table<String, Writing>,
    pub(super) commands: VecDeque<LocalCommand>,
}

impl LocalRelay {
    /// A new id for a call, a write or a task.
    pub(super) const fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn command(&mut self, command: LocalCommand) {
        self.commands.push_back(command);
    }

    pub(super) fn alert(&mut self, code: &'static str, detail: String) {
        self.command(LocalCommand::Alert { code, detail });
    }

    pub(super) fn changed(&mut self, id: RequestId) {
        if self.commands.back() != Some(&LocalCommand::Changed { id }) {
            self.command(LocalCommand::Changed { id });
        }
    }

    pub(super) fn call(&mut self, now: Timestamp, purpose: Purpose, method: &'static str, params: serde_json::Value) {
        let call = self.id();
        let until = now.saturating_add(self.config.rpc_timeout);
        self.calls.insert(call, Pending { purpose, until });
        self.command(LocalCommand::Call { call, method, params });
    }

    pub(super) fn store(&mut self, key: String, record: String, kept: Kept) {
        let revision = self.id();
        self.command(LocalCommand::Store { key: key.clone(), revision, record: record.clone() });
        self.writing.insert(key, Writing { revision, record, kept, failures: 0, retry_at: None });
    }

    /// Number of the head; 0 before the first.
    pub(super) fn head(&self) -> u64 {
        self.sender.head.map_or(0, |head| head.number)
    }

    /// The newest final block; `None` if unknown.
    pub(super) fn final_block(&self) -> Option<u64> {
        self.sender.head.and_then(|head| head.final_block)
    }
}
