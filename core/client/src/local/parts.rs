//! State of a local relay's edge: calls to its node, records on their way to storage, requests as they are shown.

use std::{sync::Arc, time::Duration};

use alloy_primitives::{Address, B256, U64, U128, U256};
use serde::Deserialize;

use super::record::{End, RequestRecord};
use crate::{
    lane::{AttemptKey, PollPurpose},
    market::{FeeHistory, HistoryFeed},
    record::AttemptRecord,
    request::{
        BatchId, Reason, RequestId, Status, VerifiedRequest, gate::Word, outcome::TxReceipt, simulation::Environment,
        vehicle::Payload,
    },
    sender::{Candidate, DataQuote, User, WriteId},
    table::Table,
    time::Timestamp,
};

// ---- calls ----

/// Purpose of a call, which routes its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Head,
    Tagged,
    History,
    AccountNonce,
    Balance,
    /// The block at this height, on the walk back to known blocks.
    Ancestor(u64),
    Send(AttemptKey),
    /// Receipt of one hash, for a poll.
    Receipt {
        poll: u64,
        hash: B256,
    },
    /// The account nonce at an older block.
    SpenderCount {
        poll: u64,
        block: u64,
    },
    /// A block with its transactions.
    SpenderBlock {
        poll: u64,
        block: u64,
    },
    Code {
        asked: u64,
        forwarder: Address,
    },
    DataFee {
        asked: u64,
    },
    Simulate {
        asked: u64,
    },
    Member {
        asked: u64,
        place: usize,
    },
    Verify {
        asked: u64,
        place: usize,
    },
    /// A user's forwarder nonce.
    UserNonce {
        reading: u64,
        user: User,
    },
}

impl Purpose {
    /// True for the calls of a head poll.
    pub(super) const fn is_of_look(self) -> bool {
        matches!(self, Self::Tagged | Self::History | Self::AccountNonce | Self::Balance | Self::Ancestor(_))
    }
}

/// A call in flight.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) purpose: Purpose,
    pub(super) until: Timestamp,
}

// ---- heads ----

/// A block header, reduced to the fields used here.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Header {
    pub(super) number: U64,
    pub(super) hash: B256,
    pub(super) parent_hash: B256,
    pub(super) timestamp: U64,
    #[serde(default)]
    pub(super) gas_limit: Option<U64>,
    #[serde(default)]
    pub(super) base_fee_per_gas: Option<U128>,
    #[serde(default)]
    pub(super) miner: Option<Address>,
}

/// Known state of the chain's blocks.
#[derive(Debug, Default)]
pub(super) struct Heads {
    pub(super) hash: Option<B256>,
    /// Start of the last poll that confirmed the newest head; `None` before the first.
    pub(super) looked_at: Option<Timestamp>,
    pub(super) next_poll: Option<Timestamp>,
    pub(super) failures: u32,
    /// Canonical hashes by height, from the newest final block on.
    pub(super) seen: Table<u64, B256>,
    pub(super) feed: HistoryFeed,
    /// The account's nonce at the newest head.
    pub(super) latest_nonce: Option<u64>,
    /// A block that was final when the nonce was last read: a nonce free at that time was free there.
    pub(super) nonce_floor: u64,
    /// (block number, block hash, account nonce) wherever the nonce rose.
    pub(super) nonces: Vec<(u64, B256, u64)>,
}

impl Heads {
    pub(super) fn is_canonical(&self, number: u64, hash: B256) -> bool {
        self.seen.get(&number) == Some(&hash)
    }

    /// True if another block is known to be canonical at this height.
    pub(super) fn is_other(&self, number: u64, hash: B256) -> bool {
        self.seen.get(&number).is_some_and(|known| *known != hash)
    }

    /// True if the account's nonce at the newest head is not above `nonce`.
    pub(super) fn is_free(&self, nonce: u64) -> bool {
        self.latest_nonce.is_some_and(|latest| latest <= nonce)
    }

    /// The first block at which the account's nonce was seen above `nonce`.
    pub(super) fn first_above(&self, nonce: u64) -> Option<u64> {
        self.nonces.iter().find(|(_, _, count)| *count > nonce).map(|(number, _, _)| *number)
    }
}

/// A poll of the head under way.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) header: Option<Header>,
    pub(super) started: Timestamp,
    pub(super) waits: usize,
    /// Number and hash of the newest final block.
    pub(super) tagged: Option<(u64, B256)>,
    pub(super) history: Option<FeeHistory>,
    pub(super) nonce: Option<u64>,
    pub(super) balance: Option<U256>,
    /// Newest first.
    pub(super) canonical: Vec<(u64, B256)>,
    pub(super) is_walk_over: bool,
}

impl Look {
    pub(super) const fn started(at: Timestamp) -> Self {
        Self {
            header: None,
            started: at,
            waits: 1,
            tagged: None,
            history: None,
            nonce: None,
            balance: None,
            canonical: Vec::new(),
            is_walk_over: false,
        }
    }
}

// ---- receipts ----

/// A receipt poll under way.
#[derive(Debug)]
pub(super) struct PollRun {
    pub(super) nonce: u64,
    pub(super) purpose: PollPurpose,
    pub(super) hashes: Vec<B256>,
    pub(super) is_complete: bool,
    pub(super) found: Option<Box<TxReceipt>>,
    pub(super) at_block: u64,
    pub(super) waits: usize,
}

/// A search for the transaction that used a nonce, which was free after block `low` and used after block `high`.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) low: u64,
    pub(super) high: u64,
    /// Blocks that may still be read one by one; `None` while the node has old state for bisection.
    pub(super) scan_left: Option<u64>,
    /// True once the search was restarted from block 0 because its lower bound was wrong.
    pub(super) is_widened: bool,
}

/// Searches under way, and pauses after searches without result.
#[derive(Debug, Default)]
pub(super) struct Spenders {
    pub(super) searches: Table<u64, Search>,
    /// By nonce: (head number before which no search starts, length of the pause in blocks).
    pub(super) pauses: Table<u64, (u64, u64)>,
}

// ---- the simulation ----

/// A batch whose simulation is under way.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) id: u64,
    pub(super) candidate: Box<Candidate>,
    pub(super) environment: Environment,
    /// Number of the head.
    pub(super) block: u64,
    pub(super) data_quote: DataQuote,
    /// Without `eth_simulateV1`: the result for each member so far.
    pub(super) words: Vec<Word>,
    pub(super) waits: usize,
}

// ---- users ----

/// Purpose of a read of users' forwarder nonces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Errand {
    LookUp,
    Recheck,
    Gaps,
    /// Suspects, read at the block with this number and hash; `final_block` is the newest final one.
    Confirm {
        number: u64,
        hash: B256,
        final_block: u64,
    },
    /// Users left out by the final transaction with this place in the order of settlement.
    Inspect((Timestamp, BatchId)),
}

/// A read of users' forwarder nonces under way.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) errand: Errand,
    pub(super) users: Vec<User>,
    pub(super) waits: usize,
    /// Users about whom the node said something.
    pub(super) told: Vec<User>,
    pub(super) found: Vec<(User, u64)>,
}

// ---- storage ----

/// First pause after a failed write; each further one is twice as long.
const FIRST_STORE_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause after a failed write.
const MAX_STORE_PAUSE: Duration = Duration::from_secs(30);

/// Purpose of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kept {
    /// An attempt; with true, the first one of a content.
    Attempt(WriteId, Box<AttemptRecord>, bool),
    End(RequestId),
    Other,
}

/// A record on its way to storage.
#[derive(Debug)]
pub(super) struct Writing {
    pub(super) revision: u64,
    pub(super) record: String,
    pub(super) kept: Kept,
    pub(super) failures: u32,
    pub(super) retry_at: Option<Timestamp>,
}

impl Writing {
    /// Plans the next try after a failed one.
    pub(super) fn failed(&mut self, now: Timestamp) {
        let pause = FIRST_STORE_PAUSE.saturating_mul(1 << self.failures.min(10)).min(MAX_STORE_PAUSE);
        self.failures += 1;
        self.retry_at = Some(now.saturating_add(pause));
    }
}

/// A settled nonce: once all these records are durable, its attempts are deleted.
#[derive(Debug, Default)]
pub(super) struct Closing {
    pub(super) waits: Vec<String>,
    pub(super) attempts: Vec<AttemptKey>,
}

/// A nonce that is not settled.
#[derive(Debug, Default)]
pub(super) struct OpenNonce {
    /// Number of attempts in storage, or on their way there.
    pub(super) attempts: u32,
    /// A block that was final at planning time: the nonce was still free there.
    pub(super) planned_block: u64,
    /// The transaction signed last: its calldata is stored with the first attempt of a content.
    pub(super) payload: Option<Payload>,
}

// ---- requests ----

/// A known request.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) request: Arc<VerifiedRequest>,
    pub(super) accepted_at: Timestamp,
    pub(super) ceiling_wei_per_gas: u128,
    /// Failures of whole transactions that held it.
    pub(super) batch_failures: u32,
    /// Charged to it so far, wei.
    pub(super) spent_wei: U256,
    pub(super) status: Status,
    pub(super) reason: Option<Reason>,
    pub(super) detail: Option<String>,
    pub(super) tx_hash: Option<B256>,
    pub(super) block_number: Option<u64>,
    pub(super) cost_wei: Option<U256>,
    pub(super) ended_at: Option<Timestamp>,
    /// Its end, on the way to storage; reported once durable.
    pub(super) ending: Option<End>,
}

impl Entry {
    pub(super) fn new(record: RequestRecord) -> Self {
        let mut entry = Self {
            request: Arc::new(record.request),
            accepted_at: record.accepted_at,
            ceiling_wei_per_gas: record.ceiling_wei_per_gas,
            batch_failures: record.batch_failures,
            spent_wei: record.spent_wei,
            status: Status::Queued,
            reason: None,
            detail: None,
            tx_hash: None,
            block_number: None,
            cost_wei: None,
            ended_at: None,
            ending: None,
        };
        if let Some(end) = record.end {
            entry.apply(end);
        }
        entry
    }

    pub(super) fn apply(&mut self, end: End) {
        self.status = end.status;
        self.reason = end.reason;
        self.detail = end.detail;
        self.tx_hash = end.tx_hash;
        self.block_number = end.block_number;
        self.cost_wei = end.cost_wei;
        self.ended_at = Some(end.at);
    }

    /// True while it has not ended, and is not about to.
    pub(super) const fn is_open(&self) -> bool {
        self.ending.is_none() && self.ended_at.is_none()
    }

    /// Its record, with this end.
    pub(super) fn record(&self, end: Option<&End>) -> String {
        let (failures, spent_wei) = (self.batch_failures, self.spent_wei);
        RequestRecord::encode(&self.request, self.accepted_at, self.ceiling_wei_per_gas, failures, spent_wei, end)
    }
}
