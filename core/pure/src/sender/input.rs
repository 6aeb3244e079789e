//! Inputs and commands of the sender: what its shell tells it, and what it wants done.
//!
//! Each command with a result names the input that brings the result back. A command that is lost may be given again: the
//! sender asks anew where it must.

use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes, U256};

use super::{
    candidate::{Candidate, DataQuote},
    foreign::ForeignTransaction,
    settlement::Case,
};
use crate::{
    chain::{RpcErrorClass, data_fee::DataFeeModel},
    lane::{AttemptKey, PollPurpose, SendOutcome, TxToSign},
    market::FeePoint,
    ordered::Map,
    provenance::Decision,
    record::{AttemptRecord, Durable, Tracked, Write, WriteOutcome},
    request::{
        BatchId, LaneId, Payment, Reason, RequestId, Status, VerifiedRequest, gate::Word, outcome::TxReceipt,
        settlement::Culprit, simulation::Environment,
    },
    schedule::{QueuedRequest, Selection},
    time::Timestamp,
};

/// A user at a forwarder: (forwarder, signer).
pub type User = (Address, Address);

/// Identifies a [`Command::Commit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteId(pub u64);

/// The chain as of a new head.
#[derive(Debug, Clone)]
pub struct HeadFacts {
    /// Block number.
    pub number: u64,
    /// Block timestamp, seconds.
    pub timestamp_s: u64,
    /// Base fee of the next block as it is agreed, wei per gas.
    pub next_base_fee: u128,
    /// New or replaced blocks, oldest first.
    pub points: Vec<FeePoint>,
    /// Extra data of the header; `None` if it is not to be used: the last agreed one stays.
    pub extra_data: Option<Bytes>,
    /// True if the header is what the sources agree on.
    pub is_agreed: bool,
    /// Proposer of the block; `None` if unknown.
    pub proposer: Option<Address>,
    /// Gas limit of the block; `None` if it is not agreed.
    pub gas_limit: Option<u64>,
    /// Newest final block; `None` if unknown.
    pub final_block: Option<u64>,
    /// New or replaced canonical blocks (number, hash), ascending.
    pub canonical: Vec<(u64, B256)>,
    /// Accounts of the lanes.
    pub accounts: Vec<Account>,
    /// L1 fee parameters; `None` if they could not be read.
    pub data_fee: Option<DataFeeModel>,
}

/// A lane's account at the head. Fields are `None` where nodes did not answer.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    /// Its address.
    pub sender: Address,
    /// Nonce at the head.
    pub latest_nonce: Option<u64>,
    /// Nonce at the final block.
    pub final_nonce: Option<u64>,
    /// Balance at the head, wei.
    pub balance: Option<U256>,
}

/// The nodes' joint answer to a broadcast, and the limits that their refusals name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendReport {
    /// The joint answer.
    pub outcome: SendOutcome,
    /// Least tip or price that a node demands, wei per gas; `None` if none is named.
    pub least_tip: Option<u128>,
    /// Highest gas limit that a node allows; `None` if none is named.
    pub most_gas: Option<u64>,
}

impl SendReport {
    /// An answer without named limits.
    pub const fn of(outcome: SendOutcome) -> Self {
        Self { outcome, least_tip: None, most_gas: None }
    }
}

/// The nodes' joint answer to the simulation of a batch.
#[derive(Debug, Clone, Default)]
pub struct Simulation {
    /// One answer per member, in order.
    pub words: Vec<Word>,
    /// Gas of each member in a transaction of its own, as simulated by the nodes for which it executes; the lowest answer.
    pub used: Vec<Option<u64>>,
    /// Error of the transaction as a whole; `None` unless all answers say that it fails.
    pub whole: Option<String>,
    /// Number of nodes that say so.
    pub whole_words: usize,
    /// Places of the nodes that speak against each member.
    pub against: Vec<Vec<usize>>,
    /// Members on which two nodes contradict each other on the same block: the place that accepts, the place that refuses.
    pub contradicted: Vec<(RequestId, usize, usize)>,
    /// Number of the simulated parent block.
    pub block: u64,
}

/// A majority's answer about a transaction before finality.
#[derive(Debug)]
pub struct LeftOut {
    /// Index of the lane.
    pub lane: usize,
    /// Nonce of the transaction.
    pub nonce: u64,
    /// Hash of the queried block: after a reorg the same transaction is in another block, less deep.
    pub block_hash: B256,
    /// True if a majority has the transaction in that block with the presumed receipt.
    pub is_shown: bool,
    /// Users with an upper bound of their next nonce.
    pub unused: Vec<(User, u64)>,
}

/// Bytes of a transaction, read back.
#[derive(Debug)]
pub struct Whole {
    /// Attempts with their bytes.
    pub attempts: Vec<Durable<AttemptRecord>>,
    /// Calldata of the newest payload.
    pub calldata: Bytes,
}

/// A suspect's forwarder nonces: (user, lower bound at the final block, upper bound at the head); `None` without a majority.
pub type Confirmed = (User, Option<u64>, Option<u64>);

/// What the chain says about a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paid {
    /// Its nonce is unused at the head.
    Unused,
    /// A final transaction made it.
    Made {
        /// The transaction.
        tx_hash: B256,
        /// Its block.
        block_number: u64,
    },
    /// Its nonce is used at the final block, but not by this payment: voided, or used for another one.
    Otherwise,
    /// Its nonce is used at the final block, and no majority could say by what.
    Untold,
}

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// Durable requests to be sent.
    Accepted(Vec<QueuedRequest>),
    /// Requests withdrawn on another instance.
    Withdrawn(Vec<RequestId>),
    /// A new head.
    Head(Box<HeadFacts>),
    /// Time has passed. Given every few milliseconds while something waits.
    Tick,
    /// Result of [`Command::Sign`]; `None` if the key can't sign it.
    Signed {
        /// Index of the lane.
        lane: usize,
        /// The attempt.
        key: AttemptKey,
        /// What was signed.
        tx: Box<TxToSign>,
        /// Transaction hash and bytes.
        signed: Option<(B256, Bytes)>,
    },
    /// Result of [`Command::Commit`]: outcomes of its writes; `None` if they will never be durable.
    Committed {
        /// The command's.
        id: WriteId,
        /// In the order of the writes.
        outcomes: Option<Vec<Tracked>>,
    },
    /// Result of [`Command::Broadcast`].
    Sent {
        /// Index of the lane.
        lane: usize,
        /// The attempt.
        key: AttemptKey,
        /// The nodes' joint answer.
        report: SendReport,
    },
    /// Result of [`Command::SuggestTip`]: the tip that a majority reaches, wei per gas; `None` if too few nodes answered.
    Suggested(Option<u128>),
    /// Result of [`Command::FindReceipts`].
    Receipts {
        /// Index of the lane.
        lane: usize,
        /// The nonce.
        nonce: u64,
        /// Purpose that the answer is good for.
        purpose: PollPurpose,
        /// The receipt of one of the attempts.
        found: Option<Box<TxReceipt>>,
        /// True if the absence of a receipt can be relied on.
        is_complete: bool,
        /// Head at the time of the question.
        at_block: u64,
        /// The foreign transaction that used the nonce.
        stranger: Option<ForeignTransaction>,
    },
    /// Result of [`Command::AgreeOnReceipt`]: the receipt that a majority has; `None` without one.
    Agreed {
        /// Index of the lane.
        lane: usize,
        /// The nonce.
        nonce: u64,
        /// Head at the time of the question.
        at_block: u64,
        /// The receipt.
        found: Option<Box<TxReceipt>>,
    },
    /// Result of [`Command::Simulate`].
    Simulated {
        /// Index of the lane.
        lane: usize,
        /// The command's.
        candidate: Box<Candidate>,
        /// The nodes' joint answer.
        simulation: Simulation,
        /// The chain's own estimate of the data cost.
        data_quote: DataQuote,
    },
    /// Result of [`Command::Inspect`]; `None` if nothing was found out: the next block asks again.
    Inspected {
        /// Key of the settlement.
        order: (Timestamp, BatchId),
        /// The findings.
        found: Option<Inspection>,
    },
    /// Result of [`Command::ProveContracts`].
    Contracts {
        /// Index of the lane.
        lane: usize,
        /// The nonce.
        nonce: u64,
        /// The transaction.
        hash: B256,
        /// The targets that are contracts.
        contracts: Vec<Address>,
    },
    /// Result of [`Command::ShowLeftOut`].
    LeftOut(LeftOut),
    /// Result of [`Command::Fetch`]; `None` if the bytes could not be read: the next head asks again.
    Fetched {
        /// Index of the lane.
        lane: usize,
        /// The nonce.
        nonce: u64,
        /// The bytes.
        found: Option<Whole>,
    },
    /// Result of [`Command::Load`].
    Loaded {
        /// Index of the lane.
        lane: usize,
        /// The selection.
        selection: Box<Selection>,
        /// The requests with their payloads, without those that are damaged; `None` if the ledger could not be read.
        found: Option<Vec<Arc<VerifiedRequest>>>,
    },
    /// Result of [`Command::LookUpNonces`].
    Nonces {
        /// Users that were asked about; empty if no node was reachable.
        asked: Vec<User>,
        /// Next nonces at the head.
        found: Vec<(User, u64)>,
    },
    /// Result of [`Command::RecheckNonce`].
    Rechecked(Vec<(User, u64)>),
    /// Result of [`Command::ConfirmNonces`].
    Confirmed(Vec<Confirmed>),
    /// Result of [`Command::FindPayments`]. Payments without an answer are left out: the next head asks again.
    Payments(Vec<(RequestId, Paid)>),
    /// Result of [`Command::LookAtGaps`].
    Gaps(Vec<(User, u64)>),
}

/// Findings about a final transaction.
#[derive(Debug, Default)]
pub struct Inspection {
    /// Next nonces of the users whose requests it left untouched, at least.
    pub nonces: Map<User, u64>,
    /// Contracts among its unproven targets.
    pub contracts: Vec<Address>,
    /// The member responsible for cost that no simulation had shown.
    pub culprit: Option<Culprit>,
}

/// Something to be done. In order: a commit must reach the ledger before those after it.
#[derive(Debug)]
pub enum Command {
    /// Commit writes and decisions in one transaction, with an fsync. Gives [`Input::Committed`].
    Commit {
        /// To be given back.
        id: WriteId,
        /// In order.
        writes: Vec<Write>,
        /// For the decision log.
        decisions: Vec<Decision>,
        /// Ended requests with what counts against the tenant's budget, wei: to be booked once the writes are durable, and not
        /// before, since a crash in between would open them again.
        settled: Vec<(Arc<str>, RequestId, U256)>,
    },
    /// Sign with the lane's key. Gives [`Input::Signed`].
    Sign {
        /// Index of the lane.
        lane: usize,
        /// To be given back.
        key: AttemptKey,
        /// To be signed, and given back.
        tx: Box<TxToSign>,
    },
    /// Send committed bytes to all nodes (invariant I2). Gives [`Input::Sent`].
    Broadcast {
        /// Index of the lane.
        lane: usize,
        /// The attempt.
        key: AttemptKey,
        /// Its bytes.
        attempt: Durable<AttemptRecord>,
        /// Its gas limit.
        gas_limit: u64,
        /// Not to be sent from then on; `None` for a cancel.
        until: Option<Timestamp>,
    },
    /// Ask for receipts of a nonce's attempts, and without one for the transaction that used the nonce. Gives
    /// [`Input::Receipts`].
    FindReceipts {
        /// Index of the lane.
        lane: usize,
        /// The nonce.
        nonce: u64,
        /// Hashes of its attempts.
        hashes: Vec<B256>,
        /// Inclusion or finality.
        purpose: PollPurpose,
        /// Number of the head.
        at_block: u64,
        /// Newest final block.
        final_block: Option<u64>,
    },
    /// Ask all nodes for one receipt. Gives [`Input::Agreed`].
    AgreeOnReceipt {
        /// Index of the lane.
        lane: usize,
        /// The nonce.
        nonce: u64,
        /// Number of the head.
        at_block: u64,
        /// The transaction.
        hash: B256,
    },
    /// Read payloads of a selection from the ledger. Gives [`Input::Loaded`].
    Load {
        /// Index of the lane.
        lane: usize,
        /// The selection.
        selection: Box<Selection>,
        /// Members whose payload is not in memory.
        missing: Vec<RequestId>,
    },
    /// Simulate a batch. Gives [`Input::Simulated`].
    Simulate {
        /// Index of the lane.
        lane: usize,
        /// The batch.
        candidate: Box<Candidate>,
        /// The block that is to take it.
        environment: Environment,
        /// L1 fee parameters.
        model: DataFeeModel,
        /// Number of the head.
        block: u64,
        /// True if two nodes must accept it.
        is_wary: bool,
    },
    /// Ask nodes which tip they suggest. Gives [`Input::Suggested`].
    SuggestTip,
    /// Ask a majority about a transaction that left members out. Gives [`Input::LeftOut`].
    ShowLeftOut {
        /// Index of the lane.
        lane: usize,
        /// The nonce.
        nonce: u64,
        /// Its presumed receipt.
        believed: TxReceipt,
        /// Block from which on a node's word counts.
        deep: u64,
        /// Users whose next nonce is asked for.
        users: Vec<User>,
    },
    /// Ask which targets are contracts with fixed code. Gives [`Input::Contracts`].
    ProveContracts {
        /// Index of the lane.
        lane: usize,
        /// The nonce.
        nonce: u64,
        /// The transaction.
        hash: B256,
        /// Unproven targets.
        targets: Vec<Address>,
    },
    /// Look into a final transaction. Gives [`Input::Inspected`].
    Inspect {
        /// Key of the settlement.
        order: (Timestamp, BatchId),
        /// Users whose requests it left untouched.
        users: Vec<User>,
        /// Targets that may be contracts.
        targets: Vec<Address>,
        /// Facts for the search of a culprit; `None` if there is nothing to search for.
        case: Option<Box<Case>>,
        /// Newest final block.
        final_block: Option<u64>,
    },
    /// Read bytes back from the ledger. Gives [`Input::Fetched`].
    Fetch {
        /// Index of the lane.
        lane: usize,
        /// The nonce.
        nonce: u64,
        /// The batch.
        id: BatchId,
    },
    /// Read next nonces of users that nobody has looked at. Gives [`Input::Nonces`].
    LookUpNonces(Vec<User>),
    /// Read one user's next nonce afresh. Gives [`Input::Rechecked`].
    RecheckNonce(User),
    /// Read suspects' next nonces as a majority has them. Gives [`Input::Confirmed`].
    ConfirmNonces {
        /// The suspects.
        users: Vec<User>,
        /// Newest final block.
        final_block: u64,
    },
    /// Read what became of payments, by a majority. Gives [`Input::Payments`].
    FindPayments {
        /// The payments.
        payments: Vec<(RequestId, Payment)>,
        /// Newest final block.
        final_block: u64,
    },
    /// Read next nonces of users with a gap as a majority has them. Gives [`Input::Gaps`].
    LookAtGaps(Vec<User>),
    /// Executed requests raised next nonces to at least these.
    NoncesRaised(Map<User, u64>),
    /// A reorg lowered a user's next nonce.
    NonceLowered(User, u64),
    /// Nothing about this nonce is searched any more.
    NonceClosed {
        /// Index of the lane.
        lane: usize,
        /// The nonce.
        nonce: u64,
    },
    /// A final receipt shows that the node at this place simulated wrongly.
    Demote(usize),
    /// Tell somebody.
    Notice(Notice),
}

/// Something for logs and metrics.
#[derive(Debug)]
pub enum Notice {
    /// Simulations for this head are used up; the rest waits.
    SimulationsUsedUp,
    /// A simulation refused a batch, or members of it.
    SimulationFailed,
    /// Members wait because their reservations don't cover a rise of the data fee.
    DataFeeWaits(u64),
    /// A batch was planned.
    Planned {
        /// Why now.
        trigger: &'static str,
        /// Number of its members.
        members: usize,
    },
    /// The lane did not take a batch.
    NotTaken {
        /// The lane.
        lane: LaneId,
        /// Its reason.
        error: String,
    },
    /// The account nonce was used by a transaction that is not ours.
    NonceLost(BatchId),
    /// An attempt replaces an earlier one.
    Replacing {
        /// The batch.
        batch: BatchId,
        /// The new attempt.
        attempt: Box<AttemptRecord>,
    },
    /// The ledger refused an attempt.
    AttemptRefused {
        /// The batch.
        batch: BatchId,
        /// The ledger's answer.
        outcome: Option<WriteOutcome>,
    },
    /// No node took a transaction.
    NobodyTook {
        /// The batch.
        batch: BatchId,
        /// The refusal; `None` if it was not sent.
        class: Option<RpcErrorClass>,
        /// Number of its members.
        members: usize,
    },
    /// A reorg took an inclusion back.
    TakenBack(BatchId),
    /// A node kept a transaction that it said it refused, and it was mined.
    KeptInSpite(BatchId),
    /// A transaction is in a block.
    Included {
        /// The batch.
        batch: BatchId,
        /// Number of the block.
        block: u64,
        /// Number of its members.
        members: usize,
        /// Time since it was planned.
        waited: std::time::Duration,
    },
    /// A lane needs attention, or goes on.
    LaneAlert {
        /// The lane.
        lane: LaneId,
        /// The alert.
        alert: crate::lane::LaneAlert,
    },
    /// Requests ended.
    Ended {
        /// Their status.
        status: Status,
        /// Their reason.
        reason: Option<Reason>,
        /// Their number.
        count: u64,
    },
    /// Promises were missed.
    PromisesMissed(usize),
    /// Requests left a transaction before it was final.
    Replanned(usize),
    /// An account bears a part of a transaction's cost.
    AccountBears {
        /// The batch.
        batch: BatchId,
        /// Name of the account.
        account: &'static str,
        /// The tenant; `None` for the operator.
        tenant: Option<String>,
        /// The part, wei.
        wei: U256,
    },
    /// A named target did on chain what no simulation showed.
    Surprise {
        /// The target.
        target: Address,
        /// The transaction.
        hash: B256,
        /// It is suspect until then.
        until: Timestamp,
    },
    /// The cost of a foreign transaction is not known by a majority, and not booked.
    ForeignUnbooked {
        /// The batch that lost its nonce.
        batch: BatchId,
        /// The foreign transaction.
        hash: B256,
        /// Its block.
        block: u64,
    },
    /// An offered tip was or was not enough.
    TipJudged {
        /// True if it was included in time.
        was_included: bool,
    },
}

impl Notice {
    /// An attempt that replaces an earlier one; its bytes are left out.
    pub fn replacing(batch: BatchId, attempt: &AttemptRecord) -> Self {
        let attempt = AttemptRecord { raw: Bytes::new(), ..attempt.clone() };
        Self::Replacing { batch, attempt: Box::new(attempt) }
    }
}
