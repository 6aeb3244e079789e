//! Life cycle of a request, and the reasons for its end.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Status of a request.
///
/// | from | may become |
/// |---|---|
/// | `queued` | `batched`, `rejected`, `expired`, `cancelled` |
/// | `batched` | `broadcast`, `included`, `queued`, `rejected`, `expired`, `reverted`, `finalized` |
/// | `broadcast` | `included`, `queued`, `rejected`, `expired`, `reverted`, `finalized` |
/// | `included` | `finalized`, `reverted`, `broadcast`, `queued`, `rejected`, `expired` |
/// | `finalized`, `reverted`, `rejected`, `expired`, `cancelled` | nothing: terminal |
///
/// **Invariant I9:** `included` may be taken back, `finalized` never; every terminal status about on-chain execution is
/// reached at finality only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[repr(u8)]
pub enum Status {
    /// Durable and promised; waiting to be sent.
    Queued = 0,
    /// Bound to a (lane, nonce); its transaction is signed and durable.
    Batched = 1,
    /// Sent to at least one node.
    Broadcast = 2,
    /// Executed in a block that may still be reorganised away.
    Included = 3,
    /// Executed, and final.
    Finalized = 4,
    /// The target reverted; the user's nonce is consumed. Final.
    Reverted = 5,
    /// Will not be executed by the relayer; see the reason.
    Rejected = 6,
    /// The deadline passed before it could be executed.
    Expired = 7,
    /// Withdrawn by its owner before it was batched.
    Cancelled = 8,
}

impl Status {
    /// Every status, in order of its code.
    pub const ALL: [Self; 9] = [
        Self::Queued,
        Self::Batched,
        Self::Broadcast,
        Self::Included,
        Self::Finalized,
        Self::Reverted,
        Self::Rejected,
        Self::Expired,
        Self::Cancelled,
    ];

    /// True if no further change is possible.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Finalized | Self::Reverted | Self::Rejected | Self::Expired | Self::Cancelled)
    }

    /// True if the table above allows this change.
    pub const fn can_become(self, next: Self) -> bool {
        use Status::{Batched, Broadcast, Cancelled, Expired, Finalized, Included, Queued, Rejected, Reverted};
        match self {
            // A node may keep a transaction that it refused, and execute it after the request went back.
            Queued => matches!(next, Batched | Rejected | Expired | Cancelled | Finalized | Reverted),
            // A crash may hide that it was sent, so that the restart finds it final.
            Batched => matches!(next, Broadcast | Included | Queued | Rejected | Expired | Reverted | Finalized),
            Broadcast => matches!(next, Included | Queued | Rejected | Expired | Reverted | Finalized),
            Included => matches!(next, Finalized | Reverted | Broadcast | Queued | Rejected | Expired),
            Finalized | Reverted | Rejected | Expired | Cancelled => false,
        }
    }

    /// The name used in the API, in metrics and in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Batched => "batched",
            Self::Broadcast => "broadcast",
            Self::Included => "included",
            Self::Finalized => "finalized",
            Self::Reverted => "reverted",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status with this code (the ledger's representation).
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The status with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $code:literal,)+) => {
        /// Reason for a terminal status, or for a return to the queue. None for what a transaction of ours has executed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Reason { $($(#[$doc])* $variant,)+ }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The stable code that SDKs switch on.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }
        }
    };
}

reasons! {
    /// The target reverted (or ran out of the gas the user signed); the user's nonce is consumed.
    TargetReverted = "target_reverted",
    /// The target reverts in simulation, repeatedly; nothing was sent.
    SimulationReverted = "simulation_reverted",
    /// No node could simulate it before the last block that could take it (`chain.unsimulated` is `hold`); nothing was sent.
    NotSimulated = "not_simulated",
    /// The forwarder would skip it: signature, trust or deadline do not hold on chain.
    InvalidOnChain = "invalid_on_chain",
    /// The user's nonce was consumed by another transaction, perhaps a foreign submission of this very request.
    NonceUsedElsewhere = "nonce_used_elsewhere",
    /// A final transaction that is not ours made this payment: anybody may submit what the payer authorized. With
    /// `finalized`, whose transaction it names.
    ExecutedElsewhere = "executed_elsewhere",
    /// An earlier nonce of the same signer ended without being consumed, so this one can never execute.
    PredecessorFailed = "predecessor_failed",
    /// No transaction with it could land before its deadline.
    DeadlinePassed = "deadline_passed",
    /// It is not in a block by the promised time, but still valid: it stays in progress. The request's status is
    /// unchanged.
    PromiseMissed = "promise_missed",
    /// Its owner withdrew it.
    CancelledByOwner = "cancelled_by_owner",
    /// Transactions that carried it failed as a whole, even alone.
    BatchFailed = "batch_failed",
    /// Failed transactions with it left too little of its reservation for another one.
    ReservationSpent = "reservation_spent",
    /// Nodes refuse a transaction with it for good (too large, too much gas). With `queued`: they refused a shared one,
    /// and it travels in a smaller one.
    RefusedByNodes = "refused_by_nodes",
    /// Until it expired, nodes demanded a higher price than it could offer.
    BelowNodeMinimum = "below_node_minimum",
    /// Until it expired, its gas limit × the fee cap needed for the next block was above the nodes' limit.
    AboveNodeFeeCap = "above_node_fee_cap",
    /// The lane's nonce was consumed by a transaction that is not ours.
    LaneNonceTaken = "lane_nonce_taken",
    /// The ledger was restored from a backup in which this call still waits, although it may have been sent since. No
    /// on-chain rule would prevent a second execution, so it is not sent (again); check the chain.
    OutcomeUnknown = "outcome_unknown",
    /// Its transaction was cancelled because another member's deadline had passed.
    BatchCancelled = "batch_cancelled",
    /// The forwarder skipped it although it is still valid; it is retried.
    SkippedByForwarder = "skipped_by_forwarder",
}

impl Reason {
    /// The reason with this code.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == name)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_round_trip() {
        for (code, status) in Status::ALL.into_iter().enumerate() {
            assert_eq!(Status::from_code(u8::try_from(code).unwrap()), Some(status));
            assert_eq!(Status::from_name(status.as_str()), Some(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
        assert_eq!(Status::from_code(9), None);
        for reason in Reason::ALL {
            assert_eq!(Reason::from_name(reason.as_str()), Some(*reason));
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }

    #[test]
    fn terminal_is_the_end() {
        for from in Status::ALL {
            let exits = Status::ALL.into_iter().filter(|to| from.can_become(*to)).count();
            assert_eq!(exits == 0, from.is_terminal(), "{from}");
            assert!(!from.can_become(from));
        }
    }
}
