//! One nonce and every attempt ever signed for it.

use alloy_primitives::{B256, U256};

use super::event::{AttemptKind, Plan, Trouble};
use crate::{
    chain::{Fees, RpcErrorClass},
    protection::Protection,
    request::outcome::TxReceipt,
};

/// Degree of certainty that a node holds an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Held {
    /// Being signed or committed: no node can have seen it.
    Unsent,
    /// Every node refused it.
    Refused,
    /// Sent, or restored from the ledger; a node may hold it.
    Maybe,
    /// A node confirmed that it holds it.
    Yes,
}

#[derive(Debug, Clone)]
pub(super) struct Attempt {
    pub(super) kind: AttemptKind,
    pub(super) fees: Fees,
    pub(super) hash: Option<B256>,
    pub(super) is_durable: bool,
    pub(super) held: Held,
    /// Value of `held` before the broadcast under way: a refusal reverts only that broadcast.
    pub(super) held_before: Held,
    /// Head number at the last send.
    pub(super) sent_at: Option<u64>,
    /// A broadcast is under way.
    pub(super) is_sending: bool,
    /// Class of the last refusal by every node.
    pub(super) refused: Option<RpcErrorClass>,
}

/// A transaction and the block that includes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MinedIn {
    pub(super) hash: B256,
    pub(super) number: u64,
    pub(super) block_hash: B256,
}

impl MinedIn {
    pub(super) const fn of(receipt: &TxReceipt) -> Self {
        Self { hash: receipt.hash, number: receipt.block_number, block_hash: receipt.block_hash }
    }
}

#[derive(Debug, Clone)]
pub(super) enum Phase {
    Pending,
    Included { block: MinedIn, is_confirming: bool },
}

#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) plan: Plan,
    pub(super) attempts: Vec<Attempt>,
    pub(super) phase: Phase,
    pub(super) was_broadcast: bool,
    /// True while the layer above believes that it is in a block.
    pub(super) is_reported_included: bool,
    /// The payload must not be sent any more: its deadline passed, or it was refused permanently.
    pub(super) is_abandoned: bool,
    /// Head number at the newest attempt; `None` until the first head after a start.
    pub(super) attempted_at: Option<u64>,
    /// Consecutive blocks that could have included it, as the oldest and at its price; and the head of that count.
    pub(super) could: Option<(u64, u64)>,
    /// True if it carries no calls and only closes a nonce gap.
    pub(super) is_filler: bool,
    /// First head from which a quorum at finality is known to count the nonce as used.
    pub(super) consumed_from: Option<u64>,
    /// A receipt poll is under way.
    pub(super) is_polling: bool,
    /// Last trouble reported to the operator.
    pub(super) trouble: Option<Trouble>,
    /// Index of the first attempt with the current plan; earlier ones belong to plans that every node refused.
    pub(super) plan_from: usize,
    /// Number of earlier plans that every node refused, without the current one.
    pub(super) refused_plans: u32,
    /// No node can hold any attempt of it, and its members were given back: the next plan takes the nonce.
    pub(super) is_vacant: bool,
    /// Head number since which younger nonces wait behind the vacancy.
    pub(super) vacant_since: Option<u64>,
    /// Lowest tip of the next attempt, wei per gas: lower ones were refused or not included.
    pub(super) tip_floor: u128,
    /// True once the operator was told that no higher tip is permitted.
    pub(super) is_tip_told: bool,
}

impl Attempt {
    pub(super) const fn new(kind: AttemptKind, fees: Fees) -> Self {
        Self {
            kind,
            fees,
            hash: None,
            is_durable: false,
            held: Held::Unsent,
            held_before: Held::Unsent,
            sent_at: None,
            is_sending: false,
            refused: None,
        }
    }

    /// An attempt restored from the ledger: committed, so it may have been sent before the crash.
    pub(super) const fn restored(kind: AttemptKind, fees: Fees, hash: B256) -> Self {
        Self {
            hash: Some(hash),
            is_durable: true,
            held: Held::Maybe,
            held_before: Held::Maybe,
            ..Self::new(kind, fees)
        }
    }
}

impl Slot {
    pub(super) const fn new(plan: Plan, attempts: Vec<Attempt>) -> Self {
        Self {
            plan,
            attempts,
            phase: Phase::Pending,
            was_broadcast: false,
            is_reported_included: false,
            is_abandoned: false,
            is_filler: false,
            consumed_from: None,
            attempted_at: None,
            could: None,
            is_polling: false,
            trouble: None,
            plan_from: 0,
            refused_plans: 0,
            is_vacant: false,
            vacant_since: None,
            tip_floor: 0,
            is_tip_told: false,
        }
    }

    pub(super) fn hashes(&self) -> Vec<B256> {
        let mut durable = self.attempts.iter().filter(|attempt| attempt.is_durable).filter_map(|attempt| attempt.hash);
        if !Protection::PollEveryAttempt.is_on() {
            return durable.next_back().into_iter().collect();
        }
        durable.collect()
    }

    pub(super) const fn is_included(&self) -> bool {
        matches!(self.phase, Phase::Included { .. })
    }

    /// True while the current plan's first attempt is not durable yet.
    pub(super) fn is_signing(&self) -> bool {
        self.attempts.get(self.plan_from).is_some_and(|attempt| !attempt.is_durable)
    }

    /// Occupies a place in the lane: not in a block, and not vacant.
    pub(super) const fn is_in_flight(&self) -> bool {
        !self.is_included() && !self.is_vacant
    }

    /// Marks a vacant nonce to be taken by an empty transaction.
    pub(super) const fn fill(&mut self) {
        (self.is_vacant, self.is_abandoned, self.is_filler) = (false, true, true);
    }

    /// True if no node can hold any attempt of it: each was never sent, or every node refused it.
    pub(super) fn is_held_by_nobody(&self) -> bool {
        self.attempts.iter().all(|attempt| attempt.is_durable && !attempt.is_sending && attempt.held <= Held::Refused)
    }

    /// Class of the refusal of the newest attempt.
    pub(super) fn refused(&self) -> Option<RpcErrorClass> {
        self.attempts.last().and_then(|attempt| attempt.refused)
    }

    /// Number of attempts that a node may hold.
    pub(super) fn held_attempts(&self) -> usize {
        self.attempts.iter().filter(|attempt| attempt.held >= Held::Maybe).count()
    }

    /// True while an attempt is being signed or committed.
    pub(super) fn is_busy(&self) -> bool {
        self.attempts.last().is_some_and(|attempt| !attempt.is_durable)
    }

    /// The highest fees, field by field, that a node may hold; a replacement must beat them (invariant I6).
    pub(super) fn held_fees(&self) -> Option<Fees> {
        self.attempts
            .iter()
            .filter(|attempt| attempt.held >= Held::Maybe)
            .map(|attempt| attempt.fees)
            .reduce(Fees::max_of_each)
    }

    /// Blocks since the last signature or send of this nonce.
    pub(super) fn quiet_blocks(&self, head: u64) -> u64 {
        let sent = self.attempts.iter().filter_map(|attempt| attempt.sent_at).max();
        head.saturating_sub(sent.max(self.attempted_at).unwrap_or(head))
    }

    /// Index of the attempt to send: the newest durable one whose payload may still be sent, else the newest cancel. If every
    /// node refuses it for its cost, an earlier one that a node may have taken goes again: the node may have dropped it.
    pub(super) fn best(&self) -> Option<usize> {
        let is_sendable = |(index, attempt): &(usize, &Attempt)| {
            let is_current = attempt.kind == AttemptKind::Cancel || (!self.is_abandoned && *index >= self.plan_from);
            attempt.is_durable && is_current
        };
        let mut sendable = self.attempts.iter().enumerate().rev().filter(is_sendable);
        let (newest, attempt) = sendable.next()?;
        let is_too_dear = attempt.held == Held::Refused && attempt.refused == Some(RpcErrorClass::InvalidFees);
        let earlier = sendable.find(|(_, attempt)| is_too_dear && attempt.held >= Held::Maybe);
        Some(earlier.map_or(newest, |(index, _)| index))
    }

    /// Highest cost of any attempt of this slot, cancels included, wei.
    pub(super) fn worst_case_wei(&self, cancel: CancelCost) -> U256 {
        let price = self.attempts.iter().map(|attempt| attempt.fees.max_fee_per_gas).max().unwrap_or(0);
        let planned = worst_case_wei(&self.plan, price);
        let has_cancel = self.is_filler || self.attempts.iter().any(|attempt| attempt.kind == AttemptKind::Cancel);
        if has_cancel { planned.max(cancel.worst_case_wei(price)) } else { planned }
    }
}

/// Cost of a cancel.
#[derive(Debug, Clone, Copy)]
pub(super) struct CancelCost {
    pub(super) gas: u64,
    /// Cost beyond gas, wei.
    pub(super) extra_wei: U256,
}

impl CancelCost {
    fn worst_case_wei(self, price: u128) -> U256 {
        U256::from(self.gas).saturating_mul(U256::from(price)).saturating_add(self.extra_wei)
    }
}

/// Highest cost of a transaction with this plan at `price` wei per gas, in wei.
pub(super) fn worst_case_wei(plan: &Plan, price: u128) -> U256 {
    U256::from(plan.payload.gas_limit)
        .saturating_mul(U256::from(price))
        .saturating_add(plan.payload.value)
        .saturating_add(plan.extra_wei)
}
