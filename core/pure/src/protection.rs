//! Named protections, so that the simulator can switch one off and show that its absence is detected. Without the
//! feature `simulation` every protection is on, and the compiler sees no branch.

/// A mechanism that enforces an invariant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Protection {
    /// Nothing is broadcast before its bytes are durable (I2). Without the switch a type and a test enforce it.
    #[cfg(feature = "simulation")]
    PersistFirst,
    /// Receipts are polled for every attempt, not only the newest (I3).
    PollEveryAttempt,
    /// Terminal facts are read by quorum from a majority of the nodes (I3).
    ReadQuorum,
    /// A node's answer about a block is final only if that block is final for the node itself (I9).
    OwnFinality,
    /// An inclusion in an orphaned block is revoked (I9).
    ReorgFallback,
    /// Members of a lost nonce return to the queue at finality only (I3).
    LostAtFinality,
    /// Nothing is settled before it is final (I9).
    SettleAtFinality,
    /// Replacements are rounded up (I6).
    CeilReplacement,
    /// Replacements outbid every attempt that a node may hold, even after an ambiguous answer (I5, I6).
    AmbiguityIsHeld,
    /// The worst case is reserved, not the expected cost (I8).
    ReserveWorstCase,
    /// Reservations are restored at a start (I8).
    RestoreReservations,
    /// A repeated idempotency key returns its first request (I1).
    Idempotency,
    /// A lane reconciles with the chain's nonce before its first send after a start (I4).
    Reconcile,
    /// Nothing is sent after its deadline (I7).
    Deadline,
    /// A commit in doubt stops everything until a restart (I2).
    StopInDoubt,
    /// A user's forwarder nonce is lowered again after a reorg reverts it (I9).
    LowerUserNonce,
    /// Members leave a batch for good only if the chain executed or skipped them, by their events (I11).
    OutcomeByEvent,
    /// A refusal by simulation is confirmed by a second node (I15).
    SecondWord,
    /// Simulations run in the same environment as the transaction (I11).
    Surroundings,
    /// A target not named in any policy is batched only with requests of the same signer, until it has a record (I13).
    NamedCompany,
    /// A named target that deviated from its simulation when alone is batched only with the same signer's requests, for
    /// a while (I14).
    SuspectTargets,
    /// Cost of a final transaction not borne by requests is booked on an account (I12).
    EveryWei,
    /// Spent parts of a reservation are not available for another attempt (I8).
    SpentReservation,
    /// Tenants have shares of a lane, regardless of their deadlines (I14).
    TenantShares,
    /// The followed head is one that most nodes have reached (I15).
    OthersHeads,
    /// L1 prices are agreed by most nodes (I15).
    AgreedPrices,
    /// Transactions of a signer removed from the configuration are watched to their end (I1).
    WatchRemoved,
    /// A transaction stays within the limits of blocks and nodes, as learned from refusals (I14).
    NodeLimits,
    /// A tip demanded by nodes is offered (I14).
    DemandedTip,
    /// A transaction kept out of the next block by its ceiling makes way for younger ones (I14).
    PricedOutYields,
    /// A transaction passed over at a sufficient price makes way (I14).
    IgnoredYields,
    /// A tenant whose transaction was passed over goes after all other tenants for as long as that lasted (I14).
    IgnoredGoesLast,
    /// A lane accepts whatever its balance covers, regardless of order (I14).
    BalanceAware,
    /// A request refused for good while an earlier transaction may execute it waits for that transaction's outcome
    /// (I1).
    HoldEntangled,
}

impl Protection {
    /// Every protection.
    #[cfg(feature = "simulation")]
    pub const ALL: [Self; 34] = [
        Self::PersistFirst,
        Self::PollEveryAttempt,
        Self::ReadQuorum,
        Self::OwnFinality,
        Self::ReorgFallback,
        Self::LostAtFinality,
        Self::SettleAtFinality,
        Self::CeilReplacement,
        Self::AmbiguityIsHeld,
        Self::ReserveWorstCase,
        Self::RestoreReservations,
        Self::Idempotency,
        Self::Reconcile,
        Self::Deadline,
        Self::StopInDoubt,
        Self::LowerUserNonce,
        Self::OutcomeByEvent,
        Self::SecondWord,
        Self::Surroundings,
        Self::NamedCompany,
        Self::SuspectTargets,
        Self::EveryWei,
        Self::SpentReservation,
        Self::TenantShares,
        Self::OthersHeads,
        Self::AgreedPrices,
        Self::WatchRemoved,
        Self::NodeLimits,
        Self::DemandedTip,
        Self::PricedOutYields,
        Self::IgnoredYields,
        Self::IgnoredGoesLast,
        Self::BalanceAware,
        Self::HoldEntangled,
    ];

    /// True if the protection is on.
    #[cfg(not(feature = "simulation"))]
    #[inline]
    pub const fn is_on(self) -> bool {
        true
    }

    /// True if the protection is on for this thread.
    #[cfg(feature = "simulation")]
    pub fn is_on(self) -> bool {
        OFF.get() & (1 << self as u64) == 0
    }

    /// Switches `only` off on this thread, and all others on.
    #[cfg(feature = "simulation")]
    pub fn switch_off(only: Option<Self>) {
        OFF.set(only.map_or(0, |protection| 1 << protection as u64));
    }
}

#[cfg(feature = "simulation")]
thread_local! {
    static OFF: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}
