//! State of the sender, and its way out: commands.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use alloy_primitives::{Address, B256, U256, keccak256};

use super::{
    facts::ChainFacts,
    flight::SenderLane,
    host::{Host, Surroundings},
    input::{Command, Notice, User, WriteId},
    payments::Unread,
    price::Price,
    pricing::Pricing,
    settlement::Waiting,
    turns::SimulationTurns,
};
use crate::{
    chain::data_fee::DataFeeModel,
    lane::{AttemptKey, HeadInfo},
    ordered::{Map, Set},
    provenance::Decision,
    record::Write,
    request::{BatchId, Reason, RequestId, Status, gate::Doubt},
    schedule::{Backlog, Queue, TenantPace},
    time::Timestamp,
};

/// Lookups of which one of a kind runs at a time.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct UnderWay {
    /// Nonces of suspect users.
    pub nonces: bool,
    /// Nonces of users with a gap.
    pub gaps: bool,
    /// Final nonces of suspect users.
    pub suspects: bool,
    /// Payments that others may have made.
    pub payments: bool,
    /// Tip suggested by the nodes.
    pub tip: bool,
}

/// A missing nonce with requests behind it.
#[derive(Debug, Clone, Copy)]
pub struct Gap {
    pub missing: u64,
    /// Healthy time of the chain at which it was noticed.
    pub since: Duration,
    /// True once the forwarder was asked for the nonce since.
    pub is_seen: bool,
}

/// All requests of one chain on their way: queue, lanes, candidates and settlements as one machine without I/O.
///
/// Inputs: [`Self::handle`], `cancel`, `take_over`. Outputs: [`Self::poll_command`], to be drained after every
/// input. [`Self::go_on`] at the end of a turn, once all inputs at hand were handled: it composes what may be sent
/// now; drain again until it has nothing left. Time comes with each input and never goes backwards.
#[derive(Debug)]
pub struct Sender<H: Host> {
    /// Configuration of the chain.
    pub facts: Arc<ChainFacts>,
    pub(crate) books: H::Books,
    /// Forecast and price gate.
    pub fees: H::Fees,
    /// State of the shell that decisions depend on.
    pub around: Surroundings,
    /// Time of the input that is handled.
    pub now: Timestamp,
    /// Policy change count last applied to the queue; `None` for a new queue.
    pub policy_changes: Option<u64>,
    /// Requests that wait or are in flight.
    pub queue: Queue,
    /// Fee offers, and the guard time before a deadline.
    pub pricing: Pricing,
    /// Hashes by number of the known canonical blocks that are not final.
    pub canonical: Map<u64, B256>,
    /// Lanes, by index.
    pub lanes: Vec<SenderLane>,
    /// Final transactions not settled yet, in the order in which they were planned.
    pub settlements: Map<(Timestamp, BatchId), Waiting>,
    /// Newest agreed head; `None` before the first.
    pub head: Option<HeadInfo>,
    /// Time at which the newest head came.
    pub head_at: Timestamp,
    /// Proposer of the newest agreed block.
    pub proposer: Option<Address>,
    /// Price of the next block; `None` before the first head.
    pub price: Option<Price>,
    /// L1 fee parameters as last read; `None` before the first successful read.
    pub data_fee: Option<DataFeeModel>,
    /// Lookups that run.
    pub under_way: UnderWay,
    /// Attempts whose commit was not answered yet.
    pub committing: Map<WriteId, (usize, AttemptKey)>,
    /// Requests that wait for the next block, mostly after a failed simulation.
    pub held: Vec<RequestId>,
    /// Expired requests whose outcome depends on another transaction of ours that is not settled.
    pub undecided: Set<RequestId>,
    /// True if a transaction was settled, or left its nonce, since `undecided` was last checked.
    pub is_loosened: bool,
    /// Simulation refusals by node, per request, since the request last passed a simulation.
    pub doubts: Map<RequestId, Doubt>,
    /// Requests on whose simulation two nodes disagree: place of the node that accepts, place of the node that refuses.
    pub contradicted: Map<RequestId, (usize, usize)>,
    /// Simulations used at this head, by tenant.
    pub turns: SimulationTurns,
    /// Number of batches simulated.
    pub simulated: u64,
    /// Number of further batches to simulate on two nodes, after a surprise.
    pub wary: u64,
    /// Users with waiting requests below their forwarder nonce, until that nonce is final.
    pub suspects: Set<User>,
    /// Payments that are to end without a transaction of ours, until the chain says whether another one made them.
    pub unread: Map<RequestId, Unread>,
    /// Calls that may have been executed without the ledger's knowledge: watched while in flight, never sent (again).
    pub uncertain: Set<RequestId>,
    /// Requests withdrawn on another instance while they are in a transaction or on the way into one.
    pub withdrawn: Set<RequestId>,
    /// Last user of the previous gap lookup; the next one continues after it.
    pub gaps_after: Option<User>,
    /// The payment that was asked about last; `None` to begin with the first.
    pub unread_after: Option<RequestId>,
    /// Users with a nonce gap: no request has the nonce that their waiting requests need first.
    pub gaps: Map<User, Gap>,
    /// Accumulated healthy time of the chain: the time between heads, at most `LATE_BLOCKS` block times per head.
    pub healthy: Duration,
    /// Rate at which each tenant's requests leave the queue.
    pub paces: Map<Arc<str>, TenantPace>,
    /// Backlog of each tenant, for admission.
    pub backlogs: Arc<Map<Arc<str>, Backlog>>,
    /// Time of the last change that may let something be sent; `None` if there was none since.
    pub dispatch_at: Option<Timestamp>,
    pub(crate) is_stopping: bool,
    next_write: u64,
    commands: VecDeque<Command>,
}

/// Open requests and transactions of a chain, as they were read back.
#[derive(Debug, Default)]
pub struct Open {
    /// Waiting and in-flight requests.
    pub queue: Queue,
    /// Lanes with their transactions.
    pub lanes: Vec<SenderLane>,
    /// Calls that may have been executed without the ledger's knowledge.
    pub uncertain: Set<RequestId>,
}

impl<H: Host> Sender<H> {
    /// A sender of what is open.
    pub fn new(
        now: Timestamp,
        facts: Arc<ChainFacts>,
        (books, fees): (H::Books, H::Fees),
        around: Surroundings,
        pricing: Pricing,
        data_fee: Option<DataFeeModel>,
        open: Open,
    ) -> Self {
        let Open { queue, lanes, uncertain } = open;
        Self {
            facts,
            books,
            fees,
            around,
            now,
            policy_changes: None,
            queue,
            pricing,
            canonical: Map::new(),
            lanes,
            settlements: Map::new(),
            head: None,
            head_at: now,
            proposer: None,
            price: None,
            data_fee,
            under_way: UnderWay::default(),
            committing: Map::new(),
            held: Vec::new(),
            undecided: Set::new(),
            is_loosened: false,
            doubts: Map::new(),
            contradicted: Map::new(),
            turns: SimulationTurns::default(),
            simulated: 0,
            wary: 0,
            suspects: Set::new(),
            unread: Map::new(),
            uncertain,
            withdrawn: Set::new(),
            gaps_after: None,
            unread_after: None,
            gaps: Map::new(),
            healthy: Duration::ZERO,
            paces: Map::new(),
            backlogs: Arc::default(),
            dispatch_at: None,
            is_stopping: false,
            next_write: 0,
            commands: VecDeque::new(),
        }
    }

    /// EIP-155 chain id.
    pub fn chain_id(&self) -> u64 {
        self.facts.chain_id()
    }

    /// The next thing to be done; `None` if there is nothing.
    #[must_use = "an undone command stalls a lane"]
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    pub(crate) fn command(&mut self, command: Command) {
        self.commands.push_back(command);
    }

    /// The commands so far; those given until `resume_commands` come before them.
    pub fn suspend_commands(&mut self) -> VecDeque<Command> {
        std::mem::take(&mut self.commands)
    }

    pub(crate) fn resume_commands(&mut self, later: VecDeque<Command>) {
        self.commands.extend(later);
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        self.commands.push_back(Command::Notice(notice));
    }

    /// Has something written; `None` while another instance drives the lanes: then it is not ours to write.
    pub fn write(
        &mut self,
        writes: Vec<Write>,
        decisions: Vec<Decision>,
        settled: Vec<(Arc<str>, RequestId, U256)>,
    ) -> Option<WriteId> {
        if self.around.is_following {
            return None;
        }
        let id = WriteId(self.next_write);
        self.next_write += 1;
        self.command(Command::Commit { id, writes, decisions, settled });
        Some(id)
    }

    /// Decisions for the log; none where there is no log.
    pub fn logged<const N: usize>(decisions: impl FnOnce() -> [Decision; N]) -> Vec<Decision> {
        if H::HAS_LEDGER { decisions().into() } else { Vec::new() }
    }

    /// Has something written that nothing waits for.
    pub fn note(&mut self, writes: Vec<Write>, decisions: Vec<Decision>) {
        self.write(writes, decisions, Vec::new());
    }

    /// Counts ended requests by status and reason.
    pub fn count_ended(&mut self, status: Status, reason: Option<Reason>, count: u64) {
        self.notice(Notice::Ended { status, reason, count });
    }
}

/// A batch's name in the decision log.
pub(crate) fn batch_hash(id: BatchId) -> B256 {
    keccak256(id.to_string())
}
