//! Inputs and outputs of a lane: configuration, plans, events, commands, alerts.

use alloy_primitives::{B256, ChainId, U256};
use serde::{Deserialize, Serialize};

use crate::{
    chain::{Fees, ReplacementRule, RpcErrorClass},
    request::{LaneId, outcome::TxReceipt, vehicle::Payload},
    time::Timestamp,
};

/// Configuration of a lane: operator settings and data of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneConfig {
    /// The sender and chain of the lane.
    pub id: LaneId,
    /// Limit on in-flight transactions (not in a block).
    pub max_in_flight: usize,
    /// The chain's rule for replacements.
    pub replacement: ReplacementRule,
    /// Blocks without inclusion after which the oldest transaction is bumped.
    pub bump_after_blocks: u64,
    /// Blocks without inclusion after which the same bytes are rebroadcast.
    pub rebroadcast_after_blocks: u64,
    /// Blocks for which the oldest transaction may be passed over at a sufficient price while younger ones wait behind
    /// it; then it is replaced by a cancel. 0: never.
    pub abandon_after_blocks: u64,
    /// Limit on attempts for one nonce; one cancel beyond it is always possible.
    pub max_attempts: u32,
    /// Limit on refused plans per nonce; then a cancel closes the nonce instead of another plan.
    pub max_refused_plans: u32,
    /// Highest fee cap of a cancel, wei per gas.
    pub max_fee_ceiling_wei_per_gas: u128,
    /// Gas limit of a cancel (a plain transfer).
    pub cancel_gas: u64,
}

/// One transaction's content with its limits, from the composer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Target, value, calldata and gas limit of the transaction.
    pub payload: Payload,
    /// Earliest deadline of the members; the payload is never sent after it.
    pub deadline: Timestamp,
    /// Highest fee cap of any attempt with this payload, wei per gas.
    pub ceiling_wei_per_gas: u128,
    /// Cost beyond gas and value that the balance must cover (L1 data fee and the like), wei.
    pub extra_wei: U256,
    /// True if every member's replay guard is on chain (a forward's nonce): a plan refused by every node may be
    /// replanned at once.
    pub is_guarded: bool,
    /// True if the plan has a single member and can't be made smaller.
    pub is_alone: bool,
}

/// Acceptance limits of the nodes, beyond the rules visible in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeTerms {
    /// Highest gas limit × fee cap that nodes accept, wei; `None` if unknown.
    pub fee_cap_wei: Option<u128>,
    /// Lowest tip that nodes accept, inferred from their answers, wei per gas.
    pub least_tip_wei_per_gas: u128,
    /// Recently suggested tip of the nodes, wei per gas; a transaction that is not included is raised to it.
    /// 0: unknown.
    pub suggested_tip_wei_per_gas: u128,
    /// Highest tip for raises after refusals or long waits, wei per gas. 0: no such raises. The chain's replacement
    /// rule may still require more.
    pub tip_bound_wei_per_gas: u128,
}

/// The newest block, and the current quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadInfo {
    /// Block number.
    pub number: u64,
    /// Block timestamp, seconds.
    pub timestamp_s: u64,
    /// Base fee of the next block, wei per gas.
    pub next_base_fee: u128,
    /// Fees for prompt inclusion.
    pub quote: Fees,
    /// Newest block considered final; `None` if unknown.
    pub final_block: Option<u64>,
}

/// Content of an attempt: the payload or a cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[repr(u8)]
pub enum AttemptKind {
    /// The batch's calls.
    Payload = 0,
    /// A transfer of 0 wei to the sender itself, to free the nonce.
    Cancel = 1,
}

/// Identifies one attempt of the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptKey {
    /// Account nonce; identifies the batch.
    pub nonce: u64,
    /// Index of the attempt within its nonce, from 0.
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

/// Purpose of a receipt poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PollPurpose {
    /// Look for inclusion; any endpoint may answer.
    Inclusion,
    /// Confirm before a terminal statement: by quorum, at finality.
    Finality,
}

/// Result of a broadcast over all endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendOutcome {
    /// At least one node accepted or already knew it.
    Taken,
    /// No node is known to have accepted it, but one may have.
    Maybe(RpcErrorClass),
    /// Every node refused it.
    Refused(RpcErrorClass),
}

/// Input to a lane, reported by the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The account's nonces on chain: at `latest` and, if known, at the newest final block.
    AccountNonce {
        /// Nonce at the head.
        latest: u64,
        /// Nonce at the final block; `None` if unknown.
        finalized: Option<u64>,
    },
    /// `Sign` succeeded.
    Signed {
        /// The signed attempt.
        key: AttemptKey,
        /// Its transaction hash.
        hash: B256,
    },
    /// `Persist` succeeded: the attempt (and with the first one, the batch) is committed.
    Persisted {
        /// The committed attempt.
        key: AttemptKey,
    },
    /// `Sign` or `Persist` definitely failed: nothing is durable.
    Abandoned {
        /// The failed attempt.
        key: AttemptKey,
    },
    /// Result of `Broadcast`.
    Sent {
        /// The broadcast attempt.
        key: AttemptKey,
        /// Combined result of all nodes.
        outcome: SendOutcome,
    },
    /// Result of `Poll`.
    Receipts {
        /// The polled nonce.
        nonce: u64,
        /// Purpose of the poll, as requested.
        purpose: PollPurpose,
        /// Receipt of one of the attempts; `None` if none is in a block.
        found: Option<Box<TxReceipt>>,
        /// True if every hash was answered (no error, no lagging node), so that absence is evidence.
        is_complete: bool,
        /// Head number at the time of the poll.
        at_block: u64,
    },
    /// New cost of a cancel beyond gas (L1 data fee and the like), wei.
    CancelExtra(U256),
    /// New acceptance limits of the nodes.
    Terms(NodeTerms),
    /// Closes a vacant nonce without waiting for another plan: the outcome of its former members is known only once the
    /// nonce is used.
    Fill {
        /// The vacant nonce.
        nonce: u64,
    },
    /// A waiting plan needs at least `needed_wei`, more than the lane has; the shortage lapses at `until`.
    Short {
        /// Cost of the cheapest waiting plan, wei.
        needed_wei: U256,
        /// Latest deadline of the waiting plans.
        until: Timestamp,
    },
    /// A new head.
    Head(HeadInfo),
    /// The canonical block at `number` is `hash`: included transactions in another block there are orphaned.
    Canonical {
        /// Block number.
        number: u64,
        /// Block hash.
        hash: B256,
    },
    /// The account's balance at the head, wei.
    Balance(U256),
}

/// Output of a lane, for the shell to carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "an undone command stalls the lane"]
pub enum Command {
    /// Sign, then report `Signed`.
    Sign {
        /// The attempt, for the report.
        key: AttemptKey,
        /// Transaction to sign.
        tx: TxToSign,
    },
    /// Commit the signed attempt (with the batch if `key.index == 0`), then report `Persisted`.
    Persist {
        /// The attempt to commit.
        key: AttemptKey,
    },
    /// Send the durable bytes to every node, then report `Sent`.
    Broadcast {
        /// The attempt to send.
        key: AttemptKey,
    },
    /// Ask for the receipts of all these hashes, then report `Receipts`.
    Poll {
        /// The nonce in question.
        nonce: u64,
        /// Hashes of all attempts ever signed for it.
        hashes: Vec<B256>,
        /// Purpose of the poll.
        purpose: PollPurpose,
    },
    /// The batch was sent for the first time.
    ReportBroadcast {
        /// The batch's nonce.
        nonce: u64,
    },
    /// An attempt is in a block.
    ReportIncluded {
        /// The batch's nonce.
        nonce: u64,
        /// Payload or cancel.
        kind: AttemptKind,
        /// Its receipt.
        receipt: Box<TxReceipt>,
    },
    /// The block was orphaned; the batch is pending again.
    ReportUnincluded {
        /// The batch's nonce.
        nonce: u64,
    },
    /// An attempt is final: settle the batch.
    ReportFinal {
        /// The batch's nonce.
        nonce: u64,
        /// Payload or cancel.
        kind: AttemptKind,
        /// Its receipt.
        receipt: Box<TxReceipt>,
    },
    /// At finality the nonce was consumed by none of our hashes: give the members back.
    ReportLost {
        /// The lost nonce.
        nonce: u64,
    },
    /// Every node refused each attempt of the nonce (or none was sent), so no node can hold it: give the members back.
    /// The next plan gets the nonce, or a cancel closes it if younger nonces wait too long.
    ReportRefused {
        /// The refused nonce.
        nonce: u64,
        /// Class of the last refusal; `None` if nothing was sent.
        class: Option<RpcErrorClass>,
    },
    /// Notify the operator.
    Alert(LaneAlert),
}

/// A condition the operator should know of, or the end of one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LaneAlert {
    /// The balance can't cover the next transaction; the lane waits for a top-up.
    Underfunded {
        /// Required balance, wei.
        needed_wei: U256,
        /// Current balance, wei.
        balance_wei: U256,
    },
    /// The shortage is over; the lane sends again.
    Resumed,
    /// The key is used elsewhere: the chain's nonce passed ours.
    ForeignNonce {
        /// Our next nonce.
        ours: u64,
        /// The chain's nonce.
        chain: u64,
    },
    /// A replacement would exceed the ceiling; the lane waits for lower fees.
    CeilingReached {
        /// The nonce in question.
        nonce: u64,
        /// Lowest sufficient fee cap, wei per gas.
        needed_wei_per_gas: u128,
        /// Highest permitted fee cap, wei per gas.
        ceiling_wei_per_gas: u128,
    },
    /// The nonce has had `max_attempts` attempts that a node may hold. Replacements continue slowly, at the market's
    /// price.
    AttemptsExhausted {
        /// The nonce in question.
        nonce: u64,
    },
    /// The required price exceeds the plan's ceiling while younger nonces wait: a cancel replaces the payload.
    PricedOut {
        /// The nonce in question.
        nonce: u64,
        /// Highest permitted fee cap, wei per gas.
        ceiling_wei_per_gas: u128,
    },
    /// Blocks pass it over at a sufficient price while younger nonces wait: a cancel replaces the payload.
    Ignored {
        /// The nonce in question.
        nonce: u64,
        /// Number of blocks that could have included it.
        blocks: u64,
    },
    /// Nodes require a higher tip than permitted; the lane waits.
    TipRefused {
        /// The nonce in question.
        nonce: u64,
        /// Offered tip, wei per gas.
        tip_wei_per_gas: u128,
    },
    /// Unexplained nonces from `lowest` on, below our next one: a restored backup, a chain reset, a lying node. They
    /// are filled with cancels, unless there are too many: then the lane stops until the operator decides.
    NonceGap {
        /// Lowest missing nonce.
        lowest: u64,
        /// Number of missing nonces, at least.
        count: u64,
        /// True if they are filled with cancels.
        is_filled: bool,
    },
    /// Every node refuses it permanently; its members are re-batched in smaller groups, or a cancel takes its place.
    Refused {
        /// The nonce in question.
        nonce: u64,
        /// Class of the refusal.
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

/// Obstacle that keeps a lane's lowest open nonce out of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trouble {
    /// The lowest sufficient price is above the ceiling.
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

/// A lane whose lowest open nonce is stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blockage {
    /// The stuck nonce.
    pub nonce: u64,
    /// The obstacle.
    pub trouble: Trouble,
}

/// Reason why a lane refused a plan. Nothing was allocated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaneError {
    /// The lane has not yet reconciled its nonces with the chain.
    #[error("lane is not reconciled with the chain yet")]
    NotReconciled,
    /// The limit of `max_in_flight` transactions is reached; retry after one is included.
    #[error("lane holds {in_flight} in-flight transactions, limit {limit} (`chain.max_in_flight`)")]
    Full {
        /// Transactions in flight.
        in_flight: usize,
        /// Configured limit.
        limit: usize,
    },
    /// The previous nonce is still being committed (invariant I4).
    #[error("nonce {nonce} is still being committed")]
    Busy {
        /// The nonce being committed.
        nonce: u64,
    },
    /// The balance does not cover the worst case.
    #[error("needs {needed_wei} wei, balance left is {available_wei} wei")]
    Underfunded {
        /// Worst-case cost of the plan, wei.
        needed_wei: U256,
        /// Balance minus the worst case of everything in flight, wei.
        available_wei: U256,
    },
    /// The current quote is above the plan's ceiling.
    #[error("quote {quote_wei_per_gas} wei per gas is above the ceiling {ceiling_wei_per_gas}")]
    AboveCeiling {
        /// Lowest sufficient fee cap, wei per gas.
        quote_wei_per_gas: u128,
        /// Highest permitted fee cap, wei per gas.
        ceiling_wei_per_gas: u128,
    },
    /// The plan's deadline has passed.
    #[error("deadline has passed")]
    DeadlinePassed,
}

/// A slot read back from the ledger after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredSlot {
    /// Account nonce.
    pub nonce: u64,
    /// The current plan.
    pub plan: Plan,
    /// Durable attempts in order: kind, fees, hash.
    pub attempts: Vec<(AttemptKind, Fees, B256)>,
    /// Number of earlier plans of this nonce that every node refused.
    pub refused_plans: u32,
    /// True if it was reported as broadcast before the restart.
    pub was_broadcast: bool,
    /// True if it was reported as included before the restart; the chain decides again.
    pub was_included: bool,
}
