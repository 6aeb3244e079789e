//! What goes into a lane and what comes out.

use alloy_primitives::{B256, ChainId, U256};
use serde::{Deserialize, Serialize};

use crate::{
    chain::{Fees, ReplacementRule, RpcErrorClass},
    request::{LaneId, outcome::TxReceipt, vehicle::Payload},
    time::Timestamp,
};

/// How a lane behaves. All of it is configuration or data of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneConfig {
    /// Which lane.
    pub id: LaneId,
    /// Most transactions outside blocks.
    pub max_in_flight: usize,
    /// How a transaction is replaced on this chain.
    pub replacement: ReplacementRule,
    /// Blocks without inclusion after which the oldest attempt is replaced.
    pub bump_after_blocks: u64,
    /// Blocks without inclusion after which the same bytes are sent again.
    pub rebroadcast_after_blocks: u64,
    /// Blocks for which the oldest transaction may stay out of blocks although its price would do, while others wait behind it: then it
    /// is replaced by a cancel. 0 for never.
    pub abandon_after_blocks: u64,
    /// Most attempts for one nonce; a cancel is always possible once more.
    pub max_attempts: u32,
    /// Most plans of one nonce that every node refuses before it is cancelled instead of given to the next.
    pub max_refused_plans: u32,
    /// No cancel offers more per gas.
    pub max_fee_ceiling_wei_per_gas: u128,
    /// Gas of a plain transfer, for cancels.
    pub cancel_gas: u64,
}

/// What the composer hands over: one transaction's content with its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What the transaction says.
    pub payload: Payload,
    /// Earliest deadline of the members: the payload is never sent after it.
    pub deadline: Timestamp,
    /// No attempt offers more than this per gas.
    pub ceiling_wei_per_gas: u128,
    /// Wei beyond gas that the balance must cover (value is in the payload; this is L1 data fee and the like).
    pub extra_wei: U256,
    /// Every member's replay guard is on chain (a forward's nonce): what every node refused may be planned anew at once.
    pub is_guarded: bool,
    /// It has one member: it can't be made smaller.
    pub is_alone: bool,
}

/// What nodes are known to take, beyond what a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeTerms {
    /// They refuse a transaction whose gas limit × fee cap is above this, wei; `None` if nothing is known.
    pub fee_cap_wei: Option<u128>,
    /// Least tip that they take, wei per gas, as far as their answers tell.
    pub least_tip_wei_per_gas: u128,
    /// Tip that nodes suggest, wei per gas, if they were asked lately: what is not taken is raised to it. 0: nothing is known.
    pub suggested_tip_wei_per_gas: u128,
    /// No tip is raised above this because of refusals or of patience, wei per gas. 0: such tips are not raised at all. The
    /// chain's rule of replacement may still ask for more.
    pub tip_bound_wei_per_gas: u128,
}

/// The newest block, and what an attempt would offer now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadInfo {
    /// Block number.
    pub number: u64,
    /// Block timestamp, seconds.
    pub timestamp_s: u64,
    /// Base fee of the next block, wei per gas.
    pub next_base_fee: u128,
    /// Fees for inclusion soon.
    pub quote: Fees,
    /// Newest block that counts as final.
    pub final_block: Option<u64>,
}

/// What an attempt carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[repr(u8)]
pub enum AttemptKind {
    /// The batch's calls.
    Payload = 0,
    /// A transfer of 0 wei to the sender itself, to free the nonce.
    Cancel = 1,
}

/// Names one attempt of the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptKey {
    /// Account nonce: the batch.
    pub nonce: u64,
    /// Counted from 0.
    pub index: u32,
}

/// An unsigned EIP-1559 transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxToSign {
    /// EIP-155 chain id.
    pub chain_id: ChainId,
    /// Account nonce.
    pub nonce: u64,
    /// Payload or cancel.
    pub kind: AttemptKind,
    /// Content; for a cancel a transfer of 0 wei to the sender itself.
    pub payload: Payload,
    /// Fee caps.
    pub fees: Fees,
}

/// Why receipts are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PollPurpose {
    /// Is one of them in a block? Any endpoint may answer.
    Inclusion,
    /// Before a terminal statement: by quorum, at finality.
    Finality,
}

/// What a broadcast came to, over all endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendOutcome {
    /// At least one node took it, or knew it.
    Taken,
    /// Nobody is known to have taken it, somebody may have.
    Maybe(RpcErrorClass),
    /// Every node refused it.
    Refused(RpcErrorClass),
}

/// What the shell reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The account's nonces as the chain sees them: at `latest`, and at the newest final block if known.
    AccountNonce {
        /// At the head.
        latest: u64,
        /// At the final block.
        finalized: Option<u64>,
    },
    /// `Sign` was done.
    Signed {
        /// Which attempt.
        key: AttemptKey,
        /// Its hash.
        hash: B256,
    },
    /// `Persist` was done: the attempt (and with the first one, the batch) is committed.
    Persisted {
        /// Which attempt.
        key: AttemptKey,
    },
    /// `Sign` or `Persist` failed for sure: nothing is durable.
    Abandoned {
        /// Which attempt.
        key: AttemptKey,
    },
    /// `Broadcast` came back.
    Sent {
        /// Which attempt.
        key: AttemptKey,
        /// What the nodes said.
        outcome: SendOutcome,
    },
    /// `Poll` came back: for each hash its receipt, or none.
    Receipts {
        /// Which nonce.
        nonce: u64,
        /// As asked.
        purpose: PollPurpose,
        /// Receipt of one of the attempts, if any is in a block.
        found: Option<Box<TxReceipt>>,
        /// Every hash was answered (no error, no lagging node): absence means something.
        is_complete: bool,
        /// The head when it was asked.
        at_block: u64,
    },
    /// Wei beyond gas that a cancel must be able to pay from now on: L1 data fee and the like.
    CancelExtra(U256),
    /// What nodes take from now on.
    Terms(NodeTerms),
    /// A vacant nonce is to be used without waiting for another plan: what became of its former members is known only then.
    Fill {
        /// Which.
        nonce: u64,
    },
    /// What waits for this lane needs more than it has, at the least `needed_wei`; nobody needs it any more from `until` on.
    Short {
        /// Wei.
        needed_wei: U256,
        /// Latest deadline of what waits.
        until: Timestamp,
    },
    /// A new head.
    Head(HeadInfo),
    /// The canonical block at `number` is `hash`: included transactions in another block there are orphaned.
    Canonical {
        /// Height.
        number: u64,
        /// Hash.
        hash: B256,
    },
    /// The account's balance at the head, wei.
    Balance(U256),
}

/// What the shell is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "an undone command stalls the lane"]
pub enum Command {
    /// Sign, then report `Signed`.
    Sign {
        /// Names the result.
        key: AttemptKey,
        /// What.
        tx: TxToSign,
    },
    /// Commit the signed attempt (with the batch if `key.index == 0`), then report `Persisted`.
    Persist {
        /// Which.
        key: AttemptKey,
    },
    /// Send the durable bytes to every node, then report `Sent`.
    Broadcast {
        /// Which.
        key: AttemptKey,
    },
    /// Ask for the receipts of all these hashes, then report `Receipts`.
    Poll {
        /// Which nonce.
        nonce: u64,
        /// All attempts ever signed for it.
        hashes: Vec<B256>,
        /// Why.
        purpose: PollPurpose,
    },
    /// The batch was sent for the first time.
    ReportBroadcast {
        /// Which nonce.
        nonce: u64,
    },
    /// An attempt is in a block.
    ReportIncluded {
        /// Which nonce.
        nonce: u64,
        /// Payload or cancel.
        kind: AttemptKind,
        /// Its receipt.
        receipt: Box<TxReceipt>,
    },
    /// The block was orphaned; the batch is pending again.
    ReportUnincluded {
        /// Which nonce.
        nonce: u64,
    },
    /// An attempt is final: settle.
    ReportFinal {
        /// Which nonce.
        nonce: u64,
        /// Payload or cancel.
        kind: AttemptKind,
        /// Its receipt.
        receipt: Box<TxReceipt>,
    },
    /// At finality the nonce is consumed by none of our hashes: give the members back.
    ReportLost {
        /// Which nonce.
        nonce: u64,
    },
    /// Every node refused whatever was signed for it (or nothing was sent), so that nobody can hold it: give the members back.
    /// The next plan gets the nonce, or a cancel closes it if younger ones wait too long.
    ReportRefused {
        /// Which nonce.
        nonce: u64,
        /// What they said last; `None` if nothing was sent.
        class: Option<RpcErrorClass>,
    },
    /// Tell the operator.
    Alert(LaneAlert),
}

/// What an operator should know. Also says when it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LaneAlert {
    /// The balance can't cover the next transaction; the lane waits for a top-up.
    Underfunded {
        /// Needed, wei.
        needed_wei: U256,
        /// There is, wei.
        balance_wei: U256,
    },
    /// The lane sends again.
    Resumed,
    /// Someone else uses the key: the chain's nonce passed ours.
    ForeignNonce {
        /// Ours.
        ours: u64,
        /// The chain's.
        chain: u64,
    },
    /// A replacement would exceed the ceiling; the lane waits for lower fees.
    CeilingReached {
        /// The nonce.
        nonce: u64,
        /// Needed per gas, wei.
        needed_wei_per_gas: u128,
        /// Allowed per gas, wei.
        ceiling_wei_per_gas: u128,
    },
    /// A nonce has had `max_attempts` attempts that somebody may hold. It goes on slowly, at the market's price.
    AttemptsExhausted {
        /// The nonce.
        nonce: u64,
    },
    /// Its price has left its ceiling behind, and others wait: it is replaced by a cancel.
    PricedOut {
        /// The nonce.
        nonce: u64,
        /// Allowed per gas, wei.
        ceiling_wei_per_gas: u128,
    },
    /// No block takes it although its price would do, and others wait: it is replaced by a cancel.
    Ignored {
        /// The nonce.
        nonce: u64,
        /// Blocks that could have taken it.
        blocks: u64,
    },
    /// Nodes want a higher tip than may be offered; the lane waits.
    TipRefused {
        /// The nonce.
        nonce: u64,
        /// What was offered, wei per gas.
        tip_wei_per_gas: u128,
    },
    /// Nonces from `lowest` on, below ours, that nothing explains: a restored backup, a chain that was reset, a lying node.
    /// They are filled with cancels, unless there are too many of them: then the lane stops and needs a decision.
    NonceGap {
        /// The first of them.
        lowest: u64,
        /// How many, at least.
        count: u64,
        /// Whether they are filled.
        is_filled: bool,
    },
    /// Every node refuses it for good; its members travel in smaller company, or a cancel takes its place.
    Refused {
        /// The nonce.
        nonce: u64,
        /// What they say.
        class: RpcErrorClass,
    },
}

impl LaneAlert {
    /// Name in logs and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Underfunded { .. } => "underfunded",
            Self::Resumed => "resumed",
            Self::ForeignNonce { .. } => "foreign_nonce",
            Self::CeilingReached { .. } => "ceiling_reached",
            Self::AttemptsExhausted { .. } => "attempts_exhausted",
            Self::PricedOut { .. } => "priced_out",
            Self::Ignored { .. } => "ignored",
            Self::TipRefused { .. } => "tip_refused",
            Self::NonceGap { .. } => "nonce_gap",
            Self::Refused { .. } => "refused",
        }
    }
}

/// What keeps a lane's lowest open nonce out of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trouble {
    /// The least working price is above its ceiling.
    AboveCeiling,
    /// It has had `max_attempts` attempts.
    AttemptsExhausted,
    /// Every node refuses it.
    Refused(RpcErrorClass),
}

impl Trouble {
    /// Name in the API and in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AboveCeiling => "ceiling_reached",
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::Refused(class) => class.as_str(),
        }
    }
}

/// A lane whose lowest open nonce does not get into a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blockage {
    /// The nonce.
    pub nonce: u64,
    /// Why.
    pub trouble: Trouble,
}

/// Why a lane refused a plan. Nothing was allocated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaneError {
    /// The lane has not compared its nonces with the chain yet.
    #[error("lane is not reconciled with the chain yet")]
    NotReconciled,
    /// `max_in_flight` transactions are outside blocks; retry after one is included.
    #[error("lane holds {in_flight} in-flight transactions, limit {limit} (`chain.max_in_flight`)")]
    Full {
        /// Now.
        in_flight: usize,
        /// Limit.
        limit: usize,
    },
    /// The nonce before is still being committed (invariant I4).
    #[error("nonce {nonce} is still being committed")]
    Busy {
        /// Which one.
        nonce: u64,
    },
    /// The balance does not cover the worst case.
    #[error("needs {needed_wei} wei, balance left is {available_wei} wei")]
    Underfunded {
        /// Needed.
        needed_wei: U256,
        /// Balance minus the worst case of what is in flight.
        available_wei: U256,
    },
    /// The current quote is above the plan's ceiling.
    #[error("quote {quote_wei_per_gas} wei per gas is above the ceiling {ceiling_wei_per_gas}")]
    AboveCeiling {
        /// Needed.
        quote_wei_per_gas: u128,
        /// Allowed.
        ceiling_wei_per_gas: u128,
    },
    /// The plan's deadline has passed.
    #[error("deadline has passed")]
    DeadlinePassed,
}

/// A slot as a restart reads it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredSlot {
    /// Account nonce.
    pub nonce: u64,
    /// What it carries.
    pub plan: Plan,
    /// Durable attempts in order: kind, fees, hash.
    pub attempts: Vec<(AttemptKind, Fees, B256)>,
    /// Plans that it carried before this one.
    pub refused_plans: u32,
    /// It was reported as broadcast before.
    pub was_broadcast: bool,
    /// It was reported as included before: the chain decides again.
    pub was_included: bool,
}
