//! One nonce and everything that was ever signed for it.

use alloy_primitives::{B256, U256};

use super::event::{AttemptKind, Plan, Trouble};
use crate::{
    chain::{Fees, RpcErrorClass},
    protection::Protection,
    request::outcome::TxReceipt,
};

/// Whether a node may hold an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Held {
    /// Being signed or committed: no node can have seen it.
    Unsent,
    /// Every node refused it.
    Refused,
    /// Sent, or read back from the ledger; somebody may hold it.
    Maybe,
    /// A node said that it holds it.
    Yes,
}

#[derive(Debug, Clone)]
pub(super) struct Attempt {
    pub(super) kind: AttemptKind,
    pub(super) fees: Fees,
    pub(super) hash: Option<B256>,
    pub(super) is_durable: bool,
    pub(super) held: Held,
    /// What `held` was before the broadcast that is under way: a refusal only takes that one back.
    pub(super) held_before: Held,
    /// Head number when it was last sent.
    pub(super) sent_at: Option<u64>,
    /// A broadcast is under way.
    pub(super) is_sending: bool,
    /// Why every node refused it last.
    pub(super) refused: Option<RpcErrorClass>,
}

/// Which transaction is in which block.
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
    /// The upper floor believes that it is in a block.
    pub(super) is_reported_included: bool,
    /// The payload must not be sent any more: its deadline passed, or it was refused for good.
    pub(super) is_abandoned: bool,
    /// Head number when the newest attempt was made; `None` until the first head after a start.
    pub(super) attempted_at: Option<u64>,
    /// Blocks that could have taken it, as the oldest and at its price, one after the other; and the head at which that was counted.
    pub(super) could: Option<(u64, u64)>,
    /// It carries nobody's calls: it only closes a hole.
    pub(super) is_filler: bool,
    /// First head from which on a quorum at finality is known to count the nonce as used.
    pub(super) consumed_from: Option<u64>,
    /// A receipt poll is under way.
    pub(super) is_polling: bool,
    /// What the operator was told about it last.
    pub(super) trouble: Option<Trouble>,
    /// Index of the first attempt that carries the plan: those before carried one that every node refused.
    pub(super) plan_from: usize,
    /// Plans that every node refused, the present one not among them.
    pub(super) refused_plans: u32,
    /// Nobody can hold anything that was signed for it, and its members are gone: the next plan gets it.
    pub(super) is_vacant: bool,
    /// Head since when younger ones wait behind the vacancy.
    pub(super) vacant_since: Option<u64>,
    /// Least tip that the next attempt offers, wei per gas: nodes refused lower ones, or nobody took them.
    pub(super) tip_floor: u128,
    /// The operator was told that no higher tip may be offered.
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

    /// As the ledger remembers it: committed, so it may have been sent before the crash.
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

    /// The plan's first attempt is not durable yet.
    pub(super) fn is_signing(&self) -> bool {
        self.attempts.get(self.plan_from).is_some_and(|attempt| !attempt.is_durable)
    }

    /// Takes room in the lane: not in a block, and it carries something.
    pub(super) const fn is_in_flight(&self) -> bool {
        !self.is_included() && !self.is_vacant
    }

    /// An empty transaction is to take a vacant nonce.
    pub(super) const fn fill(&mut self) {
        (self.is_vacant, self.is_abandoned, self.is_filler) = (false, true, true);
    }

    /// Nobody can hold anything that was ever signed for it: it was never sent, or every node refused it.
    pub(super) fn is_held_by_nobody(&self) -> bool {
        self.attempts.iter().all(|attempt| attempt.is_durable && !attempt.is_sending && attempt.held <= Held::Refused)
    }

    /// Why every node refused what was sent last.
    pub(super) fn refused(&self) -> Option<RpcErrorClass> {
        self.attempts.last().and_then(|attempt| attempt.refused)
    }

    /// Attempts that a node may hold.
    pub(super) fn held_attempts(&self) -> usize {
        self.attempts.iter().filter(|attempt| attempt.held >= Held::Maybe).count()
    }

    /// An attempt is being signed or committed.
    pub(super) fn is_busy(&self) -> bool {
        self.attempts.last().is_some_and(|attempt| !attempt.is_durable)
    }

    /// The highest fees, field by field, that a node may hold: what a replacement must beat (invariant I6).
    pub(super) fn held_fees(&self) -> Option<Fees> {
        self.attempts
            .iter()
            .filter(|attempt| attempt.held >= Held::Maybe)
            .map(|attempt| attempt.fees)
            .reduce(Fees::max_of_each)
    }

    /// Blocks since anything of this nonce was signed or sent.
    pub(super) fn quiet_blocks(&self, head: u64) -> u64 {
        let sent = self.attempts.iter().filter_map(|attempt| attempt.sent_at).max();
        head.saturating_sub(sent.max(self.attempted_at).unwrap_or(head))
    }

    /// The attempt to send: the newest durable one whose payload may still be sent, else the newest cancel.
    pub(super) fn best(&self) -> Option<usize> {
        let is_sendable = |(index, attempt): &(usize, &Attempt)| {
            let is_current = attempt.kind == AttemptKind::Cancel || (!self.is_abandoned && *index >= self.plan_from);
            attempt.is_durable && is_current
        };
        self.attempts.iter().enumerate().rfind(is_sendable).map(|(index, _)| index)
    }

    /// Most that any attempt of this slot can take from the balance, cancels included.
    pub(super) fn worst_case_wei(&self, cancel: CancelCost) -> U256 {
        let price = self.attempts.iter().map(|attempt| attempt.fees.max_fee_per_gas).max().unwrap_or(0);
        let planned = worst_case_wei(&self.plan, price);
        let has_cancel = self.is_filler || self.attempts.iter().any(|attempt| attempt.kind == AttemptKind::Cancel);
        if has_cancel { planned.max(cancel.worst_case_wei(price)) } else { planned }
    }
}

/// What a cancel takes from the balance.
#[derive(Debug, Clone, Copy)]
pub(super) struct CancelCost {
    pub(super) gas: u64,
    /// Wei beyond gas.
    pub(super) extra_wei: U256,
}

impl CancelCost {
    fn worst_case_wei(self, price: u128) -> U256 {
        U256::from(self.gas).saturating_mul(U256::from(price)).saturating_add(self.extra_wei)
    }
}

/// Most that a transaction with this plan can take from the balance at `price` wei per gas.
pub(super) fn worst_case_wei(plan: &Plan, price: u128) -> U256 {
    U256::from(plan.payload.gas_limit)
        .saturating_mul(U256::from(price))
        .saturating_add(plan.payload.value)
        .saturating_add(plan.extra_wei)
}
