//! Hostile parties: a tenant, its targets and its signers, nodes with limits and lies of their own. All of it is drawn
//! from a second generator, so that the run of a seed without them does not change.

use std::collections::BTreeSet;

use alloy_primitives::{Address, U256};
use slackwater::LocalSigner;
use slackwater_core::{
    Timestamp,
    request::{Forward, ForwarderDomain, Submission},
};

use crate::{
    chain::{FORWARDER, GOOD, Signatures, State, Surroundings, op_data},
    plan::{DOMAIN, Operation, Plan},
    rng::Rng,
    world::EPOCH_MS,
};

/// Number of honest executions of [`HostileTarget::Patient`].
pub(crate) const PATIENCE: u64 = 20;

/// The hostile tenant.
pub(crate) const TENANT: &str = "mallory";

/// First byte of hostile targets' addresses; followed by kind, gas use and, for fresh ones, the operation.
const MARK: u8 = 0xbd;

/// First number of its operations.
pub(crate) const FIRST_OP: u64 = 1_000_000;

/// A target that is honest in simulations; each variant names the sign by which it detects a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum HostileTarget {
    /// Harmless target; its signer may be hostile.
    None,
    /// The transaction has a price.
    GasPrice,
    /// The block has a base fee.
    BaseFee,
    /// The block has a proposer.
    Coinbase,
    /// The block's number is a multiple of three.
    BlockNumber,
    /// The block's time is a multiple of three.
    Clock,
    /// A transaction in front of the batch has flipped it.
    Flipped,
    /// As [`Self::Hidden`], with another address for each request.
    Fresh,
    /// Honest twenty times, then as [`Self::Hidden`].
    Patient,
    /// As [`Self::Hidden`], but it reverts instead of burning gas.
    Reverting,
    /// It detects a block whatever block context a simulation has.
    Hidden,
}

impl HostileTarget {
    const ALL: [Self; 11] = [
        Self::None,
        Self::GasPrice,
        Self::BaseFee,
        Self::Coinbase,
        Self::BlockNumber,
        Self::Clock,
        Self::Flipped,
        Self::Fresh,
        Self::Patient,
        Self::Reverting,
        Self::Hidden,
    ];

    /// Its address: of a target that takes all gas in the forwarder's trust check, or of one that uses only its
    /// request's gas.
    fn address(self, takes_all: bool, op: u64) -> Address {
        if self == Self::None {
            return GOOD;
        }
        let mut bytes = [MARK; 20];
        (bytes[1], bytes[2]) = (self as u8, u8::from(takes_all));
        if self == Self::Fresh {
            bytes[12..].copy_from_slice(&op.to_be_bytes());
        }
        Address::from(bytes)
    }

    /// The target at `address`, and true if it takes all gas.
    pub(crate) fn at(address: Address) -> Option<(Self, bool)> {
        let kind = Self::ALL.into_iter().find(|kind| *kind as u8 == address[1])?;
        (address[0] == MARK && address[3] == MARK).then_some((kind, address[2] == 1))
    }

    /// True if a simulation in the surroundings of its block shows its behaviour.
    pub(crate) const fn shows_in_simulation(self) -> bool {
        matches!(self, Self::GasPrice | Self::BaseFee | Self::Coinbase)
    }
}

/// A target's behaviour on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    Honest,
    /// It uses all but the last 64th of the remaining gas in the forwarder's trust check.
    TakesAll,
    /// It uses the gas of its request.
    UsesOwn,
    Fails,
}

/// Behaviour of the target at `to`.
pub(crate) fn deed(to: Address, state: &State, around: &Surroundings) -> Deed {
    let Some((kind, takes_all)) = HostileTarget::at(to) else { return Deed::Honest };
    let is_real = match kind {
        HostileTarget::None => false,
        HostileTarget::GasPrice => around.gas_price != 0,
        HostileTarget::BaseFee => around.base_fee != 0,
        HostileTarget::Coinbase => around.coinbase != Address::ZERO,
        HostileTarget::Hidden | HostileTarget::Fresh | HostileTarget::Reverting => around.is_real,
        HostileTarget::BlockNumber => around.number.is_multiple_of(3),
        HostileTarget::Clock => around.timestamp_s.is_multiple_of(3),
        HostileTarget::Flipped => state.is_flipped,
        HostileTarget::Patient => around.is_real && state.served >= PATIENCE,
    };
    match (is_real, kind, takes_all) {
        (false, ..) => Deed::Honest,
        (true, HostileTarget::Reverting, _) => Deed::Fails,
        (true, _, true) => Deed::TakesAll,
        (true, _, false) => Deed::UsesOwn,
    }
}

/// A deceptive signer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostileSigner {
    /// Signs honestly.
    None,
    /// Skips a nonce, and sends it last or never.
    Gap,
    /// Always the shortest deadline.
    Hasty,
    /// A ceiling at the next block's price, and the shortest deadline.
    Tight,
    /// As [`Self::Tight`], with the usual deadlines.
    PricedOut,
    /// A gas limit that the lanes can't pay for.
    Huge,
    /// The largest calldata beside small members.
    Bulky,
    /// Uses the nonce itself, in front of the batch, so that the forwarder skips the request.
    Skipped,
    /// Its requests are included in no block.
    Ignored,
}

/// A lie that a node always tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// No lie.
    None,
    /// Simulations fail.
    Refuses,
    /// Simulations succeed.
    Praises,
    /// Its blocks are an hour ahead.
    Time,
    /// Tips are a thousand times too high.
    Tip,
    /// Its head is a thousand blocks ahead.
    Head,
    /// L1 costs are a hundred million times too high.
    DataFee,
    /// Transactions are in blocks that will never exist.
    BlockAbove,
    /// Transactions are in one of the first blocks.
    BlockBelow,
    /// There is a next block, on a branch of its own, at a thousand times the price.
    Branch,
    /// No transaction has a receipt, and no nonce is used in older blocks.
    NoReceipts,
}

/// Hostile elements of a run. [`Self::NONE`] by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hostility {
    /// Requests of the hostile tenant.
    pub operations: u64,
    /// True if they come within two seconds.
    pub is_flood: bool,
    /// Its budget, gas at the first base fee.
    pub budget_gas: u64,
    /// Its targets.
    pub target: HostileTarget,
    /// True if they take all remaining gas, not only their request's.
    pub takes_all: bool,
    /// True if the tenant's policy names its target.
    pub is_named: bool,
    /// Its signers.
    pub signer: HostileSigner,
    /// Share of blocks with an attack in front of a batch, thousandths.
    pub in_front: u32,
    /// Lie of the first node.
    pub lie: Lie,
    /// Time at which the first node freezes for good, ms; 0 for never.
    pub frozen_at_ms: u64,
    /// Lag of the first node, which keeps advancing, ms; 0 for none.
    pub behind_ms: u64,
    /// Time from which the last node is gone for good and answers anything but JSON-RPC, ms; 0 for never.
    pub gone_at_ms: u64,
    /// Highest transaction cost that nodes accept, wei; 0 for no limit.
    pub fee_cap_wei: u128,
    /// Gas limit of a block; 0 for the chain's usual limit.
    pub block_gas: u64,
    /// Lowest tip that nodes accept, wei per gas; 0 for any.
    pub least_tip: u128,
    /// Highest number of transactions of one account in a node's pool; 0 for the usual.
    pub pool_limit: u64,
    /// Number of blocks that become final at once if the nodes have the tag, as epochs do; 0 for one by one.
    pub finality_step: u64,
    /// True if no node has `eth_simulateV1`.
    pub has_no_simulation: bool,
    /// Number of blocks whose state the nodes keep; 0 for all.
    pub state_blocks: u64,
    /// True if there is no pool: nodes hold a nonce above the next one for a second, and then refuse it.
    pub has_no_pool: bool,
    /// Time until which no node shows a receipt, ms.
    pub receipts_after_ms: u64,
    /// Share of blocks that begin a run of empty ones, thousandths.
    pub empty_slots: u32,
    /// True if the operator removes the last lane's key at the next orderly stop.
    pub removes_signer: bool,
    /// True if the last lane's key is added at the next start after an orderly stop.
    pub adds_signer: bool,
    /// True if the keys are elsewhere: asked, and not always answering.
    pub asks_signers: bool,
    /// True if the first of several keys never signs.
    pub has_dead_signer: bool,
}

impl Hostility {
    /// Nothing hostile.
    pub const NONE: Self = Self {
        operations: 0,
        is_flood: false,
        budget_gas: 0,
        target: HostileTarget::None,
        takes_all: false,
        is_named: false,
        signer: HostileSigner::None,
        in_front: 0,
        lie: Lie::None,
        frozen_at_ms: 0,
        behind_ms: 0,
        gone_at_ms: 0,
        fee_cap_wei: 0,
        block_gas: 0,
        least_tip: 0,
        pool_limit: 0,
        finality_step: 0,
        has_no_simulation: false,
        state_blocks: 0,
        has_no_pool: false,
        receipts_after_ms: 0,
        empty_slots: 0,
        removes_signer: false,
        adds_signer: false,
        asks_signers: false,
        has_dead_signer: false,
    };
}

impl Hostility {
    /// The target named by the hostile tenant's policy; `None` if it names none.
    pub(crate) fn named_target(&self) -> Option<Address> {
        self.is_named.then(|| self.target.address(self.takes_all, 0))
    }

    /// Gas limit of a block.
    pub(crate) const fn block_gas_or(&self, usual: u64) -> u64 {
        if self.block_gas == 0 { usual } else { self.block_gas }
    }
}

impl Default for Hostility {
    fn default() -> Self {
        Self::NONE
    }
}

/// The second generator of a seed.
pub(crate) const fn generator(seed: u64) -> Rng {
    Rng::new(crate::rng::mix(seed ^ 0x4057_11e5))
}

impl Plan {
    /// Budget of the hostile tenant, wei.
    pub(crate) fn hostile_budget(&self) -> U256 {
        U256::from(self.base_fee + 3_000_000_000).saturating_mul(U256::from(self.hostility.budget_gas))
    }

    /// Operations of the hostile tenant: forwards of its own users, spread over the time in which honest ones come.
    pub(crate) fn hostile_operations(
        &self,
        rng: &mut Rng,
        chain_id: u64,
        signatures: &mut Signatures,
    ) -> Vec<Operation> {
        let hostility = &self.hostility;
        let domain = ForwarderDomain::new(DOMAIN, chain_id, FORWARDER);
        let (from, until) = if hostility.is_flood { (2_000, 4_000) } else { (500, self.calm_after_ms * 3 / 4) };
        let mut ats: Vec<u64> = (0..hostility.operations).map(|_| EPOCH_MS + rng.within(from, until)).collect();
        ats.sort_unstable();
        let is_gapped = hostility.signer == HostileSigner::Gap;
        let mut nonces = vec![u64::from(is_gapped); self.hostile_users.len()];
        let mut operations = Vec::new();
        for (op, at) in (FIRST_OP..).zip(ats) {
            let place = usize::try_from(rng.below(self.hostile_users.len() as u64)).unwrap_or(0);
            let Some(signer) = self.hostile_users.get(place) else { continue };
            let nonce = nonces[place];
            nonces[place] += 1;
            operations.push(self.hostile_operation(rng, &domain, signer, (op, at, nonce), chain_id, signatures));
        }
        if is_gapped && rng.permille(500) {
            // The skipped nonces come after all.
            for (op, signer) in (FIRST_OP + hostility.operations..).zip(&self.hostile_users) {
                let at = EPOCH_MS + self.calm_after_ms * 4 / 5;
                operations.push(self.hostile_operation(rng, &domain, signer, (op, at, 0), chain_id, signatures));
            }
        }
        operations
    }

    fn hostile_operation(
        &self,
        rng: &mut Rng,
        domain: &ForwarderDomain,
        signer: &LocalSigner,
        (op, at, nonce): (u64, u64, u64),
        chain_id: u64,
        signatures: &mut Signatures,
    ) -> Operation {
        let hostility = &self.hostility;
        let slack = match hostility.signer {
            HostileSigner::Hasty | HostileSigner::Tight => 2_600,
            _ => rng.within(self.slack_ms.start, self.slack_ms.end),
        };
        let mut data = op_data(op).to_vec();
        if hostility.signer == HostileSigner::Bulky {
            // Random bytes, which can't be compressed.
            let words = rng.within(200, 2_500);
            data.extend((0..words).flat_map(|_| rng.next().to_be_bytes()));
        }
        let deadline_s = (at + slack) / 1_000 + 3;
        let mut forward = Forward {
            forwarder: FORWARDER,
            from: signer.address(),
            to: hostility.target.address(hostility.takes_all, op),
            value: U256::ZERO,
            gas: U256::from(match hostility.signer {
                HostileSigner::Huge => rng.within(9_000_000, 13_000_000),
                _ => rng.within(60_000, 400_000),
            }),
            nonce: U256::from(nonce),
            deadline: deadline_s,
            data: data.into(),
            signature: alloy_primitives::Bytes::new(),
        };
        forward.signature = signer.identity().sign(domain.digest(&forward));
        signatures.insert(forward.signature.clone(), (signer.address(), nonce));
        let deadline = Timestamp((at + slack).min((deadline_s - 2) * 1_000));
        let submission = Submission::forward(chain_id, forward).deadline(deadline);
        Operation {
            op,
            tenant: TENANT,
            item: submission,
            next_at: at,
            gives_up_at: at + slack,
            tries: 1,
            withdraw_at: None,
            accepted: BTreeSet::new(),
            end: None,
            under_way: 0,
            was_lost: false,
        }
    }

    /// A ceiling at the price of the next block, for a request with this gas limit, wei.
    pub(crate) fn tight_ceiling(next_base_fee: u128, gas: U256, rng: &mut Rng) -> U256 {
        // Includes the transaction around it, and the cancel that may replace it.
        let whole = gas + U256::from(110_000);
        U256::from(next_base_fee + rng.within(1_000_000_000, 2_500_000_000) as u128) * whole
    }
}
