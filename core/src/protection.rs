//! Protections by name, so that the simulator can switch one off and show that it is noticed. Without the feature
//! `simulation` every protection is on, and the compiler sees no branch.

/// Something that keeps an invariant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Protection {
    /// Nothing is broadcast before its bytes are durable (I2). Without the switch the types see to it.
    #[cfg(feature = "simulation")]
    PersistFirst,
    /// The receipts of every attempt are asked for, not only of the newest (I3).
    PollEveryAttempt,
    /// What is terminal is read from a majority of the nodes (I3).
    ReadQuorum,
    /// A node's word about a block is final only if that block is final for the node itself (I9).
    OwnFinality,
    /// An inclusion whose block is gone is taken back (I9).
    ReorgFallback,
    /// Members of a lost nonce go back to the queue at finality only (I3).
    LostAtFinality,
    /// Nothing is settled before it is final (I9).
    SettleAtFinality,
    /// Replacements are rounded up (I6).
    CeilReplacement,
    /// Replacements outbid what a node may hold, also after an unclear answer (I5, I6).
    AmbiguityIsHeld,
    /// The worst case is reserved, not the expected cost (I8).
    ReserveWorstCase,
    /// Reservations are read back at a start (I8).
    RestoreReservations,
    /// An idempotency key answers with what it was used for (I1).
    Idempotency,
    /// A lane looks at the chain's nonce before it sends after a start (I4).
    Reconcile,
    /// Nothing is sent after its deadline (I7).
    Deadline,
    /// A commit in doubt stops everything until a restart (I2).
    StopInDoubt,
    /// A user's forwarder nonce that a reorg takes back is lowered again (I9).
    LowerUserNonce,
    /// Members leave a batch for good only if the chain executed or skipped them, by their events (I11).
    OutcomeByEvent,
    /// A second node is asked before a simulation refuses a request (I15).
    SecondWord,
    /// Simulations run in the surroundings in which the transaction will (I11).
    Surroundings,
    /// A target that no policy names meets one signer's requests only, until it has a record (I13).
    NamedCompany,
    /// A named target whose request surprised alone meets the same signer's requests only, for a while (I14).
    SuspectTargets,
    /// What no request bears of a final transaction goes to an account (I12).
    EveryWei,
    /// What was burnt is not there for another try (I8).
    SpentReservation,
    /// Tenants have shares of a lane, whatever their deadlines (I14).
    TenantShares,
    /// The head that is followed is one that most nodes have reached (I15).
    OthersHeads,
    /// What L1 charges is what most nodes say (I15).
    AgreedPrices,
    /// Transactions of a signer that is not configured any more are watched to their end (I1).
    WatchRemoved,
    /// A transaction stays within what blocks and nodes hold, as their refusals say (I14).
    NodeLimits,
    /// A tip that nodes demand is offered (I14).
    DemandedTip,
    /// What its ceiling keeps out of the next block makes way for those behind it (I14).
    PricedOutYields,
    /// What no block takes although its price would do makes way (I14).
    IgnoredYields,
    /// Whose transaction no block took goes after all other tenants for as long as that took (I14).
    IgnoredGoesLast,
    /// A lane takes what its balance holds, whatever comes first (I14).
    BalanceAware,
    /// What is refused for good while an earlier transaction may execute it waits for what becomes of that (I1).
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

    /// Whether it works.
    #[cfg(not(feature = "simulation"))]
    #[inline]
    pub(crate) const fn is_on(self) -> bool {
        true
    }

    /// Whether it works on this thread.
    #[cfg(feature = "simulation")]
    pub(crate) fn is_on(self) -> bool {
        OFF.get() & (1 << self as u64) == 0
    }

    /// Switches it off on this thread, and all others on.
    #[cfg(feature = "simulation")]
    pub fn switch_off(only: Option<Self>) {
        OFF.set(only.map_or(0, |protection| 1 << protection as u64));
    }
}

#[cfg(feature = "simulation")]
thread_local! {
    static OFF: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}
