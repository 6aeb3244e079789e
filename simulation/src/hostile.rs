//! Those who mean harm: a tenant, its targets and its signers, nodes with limits and lies of their own, other people's
//! transactions. All of it is drawn from a second generator, so that a seed without them stays the run that it was.

use std::collections::BTreeSet;

use alloy_primitives::{Address, U256};
use slackwater::{
    Timestamp,
    relay::{LocalSigner, SubmitItem},
    request::{Deadline, Forward, ForwarderDomain, Submission, SubmissionKind},
};

use crate::{
    chain::{FORWARDER, Signatures, op_data},
    plan::{DOMAIN, Operation, Plan},
    rng::Rng,
    world::EPOCH_MS,
};

/// Honest in every simulation, burns all its gas on chain: it looks at fee, block or time fields.
pub(crate) const MIRAGE: Address = Address::repeat_byte(0xa5);
/// Burns where a transaction in front has flipped it.
pub(crate) const FLIPPED: Address = Address::repeat_byte(0xa6);
/// Honest [`PATIENCE`] times, then as [`MIRAGE`].
pub(crate) const PATIENT: Address = Address::repeat_byte(0xa7);
/// First byte of targets that are used once, each as [`MIRAGE`].
const FRESH: u8 = 0xb0;
/// See [`PATIENT`].
pub(crate) const PATIENCE: u64 = 20;

/// The tenant that means harm.
pub(crate) const TENANT: &str = "mallory";
/// Its operations are numbered from here.
const FIRST_OP: u64 = 1_000_000;

/// A target that deceives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostileTarget {
    /// Harmless; its signer may not be.
    None,
    /// Honest in simulation, burns on chain.
    Mirage,
    /// Flipped by a transaction in front.
    Flipped,
    /// Another one for each request.
    Fresh,
    /// Honest twenty times.
    Patient,
}

/// A signer who deceives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostileSigner {
    /// Signs as others do.
    None,
    /// Leaves out a nonce, and sends it last or never.
    Gap,
    /// Always the shortest deadline.
    Hasty,
    /// A ceiling just above the price.
    Tight,
    /// The largest calldata beside small members.
    Bulky,
}

/// What is hostile in a run. [`Self::NONE`] by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hostility {
    /// Requests of the hostile tenant.
    pub operations: u64,
    /// Its budget, gas at the first base fee.
    pub budget_gas: u64,
    /// Its targets.
    pub target: HostileTarget,
    /// Its signers.
    pub signer: HostileSigner,
    /// Blocks in whose front the target is flipped, thousandths.
    pub flips: u32,
    /// Simulations of one node that it answers with a refusal, thousandths.
    pub simulation_lies: u32,
    /// When one node stands still for good, ms; 0 for never.
    pub frozen_at_ms: u64,
    /// When one node is gone for good and answers with a web page, ms; 0 for never.
    pub gone_at_ms: u64,
    /// Most that each node lets a transaction cost, wei; 0 for no limit.
    pub fee_cap_wei: u128,
    /// No node has `eth_simulateV1`.
    pub has_no_simulation: bool,
    /// Blocks of which nodes still have the state; 0 for all.
    pub state_blocks: u64,
    /// Nodes refuse a nonce above what they hold: there is no pool.
    pub has_no_pool: bool,
    /// Until when no node shows a receipt, ms.
    pub receipts_after_ms: u64,
    /// Blocks that begin a run of empty ones, thousandths.
    pub empty_slots: u32,
    /// The operator takes the last lane's key out at the next orderly stop.
    pub removes_signer: bool,
}

impl Hostility {
    /// Nobody means harm.
    pub const NONE: Self = Self {
        operations: 0,
        budget_gas: 0,
        target: HostileTarget::None,
        signer: HostileSigner::None,
        flips: 0,
        simulation_lies: 0,
        frozen_at_ms: 0,
        gone_at_ms: 0,
        fee_cap_wei: 0,
        has_no_simulation: false,
        state_blocks: 0,
        has_no_pool: false,
        receipts_after_ms: 0,
        empty_slots: 0,
        removes_signer: false,
    };
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

/// Whether a target that is asked to do something honest burns its gas instead.
pub(crate) fn burns(to: Address, is_flipped: bool, served: u64, is_real: bool) -> bool {
    match to {
        MIRAGE => is_real,
        FLIPPED => is_flipped,
        PATIENT => is_real && served >= PATIENCE,
        _ => is_real && to[0] == FRESH && to[1] == FRESH,
    }
}

fn fresh(op: u64) -> Address {
    let mut bytes = [FRESH; 20];
    bytes[12..].copy_from_slice(&op.to_be_bytes());
    Address::from(bytes)
}

impl Plan {
    /// What the hostile tenant may spend, wei.
    pub(crate) fn hostile_budget(&self) -> U256 {
        U256::from(self.base_fee + 3_000_000_000).saturating_mul(U256::from(self.hostility.budget_gas))
    }

    /// What the hostile tenant asks for: forwards of its own users, all through the time in which honest ones come.
    pub(crate) fn hostile_operations(
        &self,
        rng: &mut Rng,
        chain_id: u64,
        signatures: &mut Signatures,
    ) -> Vec<Operation> {
        let hostility = &self.hostility;
        let domain = ForwarderDomain::new(DOMAIN, chain_id, FORWARDER);
        let mut ats: Vec<u64> =
            (0..hostility.operations).map(|_| EPOCH_MS + rng.within(500, self.calm_after_ms * 3 / 4)).collect();
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
            // The missing ones come after all.
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
        let to = match hostility.target {
            HostileTarget::None => crate::chain::GOOD,
            HostileTarget::Mirage => MIRAGE,
            HostileTarget::Flipped => FLIPPED,
            HostileTarget::Fresh => fresh(op),
            HostileTarget::Patient => PATIENT,
        };
        let slack = match hostility.signer {
            HostileSigner::Hasty => 2_600,
            _ => rng.within(self.slack_ms.start, self.slack_ms.end),
        };
        let gas = U256::from(rng.within(60_000, 400_000));
        let mut data = op_data(op).to_vec();
        if hostility.signer == HostileSigner::Bulky {
            data.resize(20_000, 0xa5);
        }
        let deadline_s = (at + slack) / 1_000 + 3;
        let mut forward = Forward {
            forwarder: FORWARDER,
            from: signer.address(),
            to,
            value: U256::ZERO,
            gas,
            nonce: U256::from(nonce),
            deadline: deadline_s,
            data: data.into(),
            signature: alloy_primitives::Bytes::new(),
        };
        forward.signature = signer.identity().sign(domain.digest(&forward));
        signatures.insert(forward.signature.clone(), (signer.address(), nonce));
        let deadline = Deadline::At(Timestamp((at + slack).min((deadline_s - 2) * 1_000)));
        let max_cost_wei = (hostility.signer == HostileSigner::Tight)
            .then(|| U256::from(self.base_fee + self.base_fee / 8 + 1_000_000_000) * (gas + U256::from(120_000)));
        let submission =
            Submission { chain_id, kind: SubmissionKind::Forward(forward), deadline: Some(deadline), max_cost_wei };
        Operation {
            op,
            tenant: TENANT,
            item: SubmitItem { submission, idempotency_key: None },
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
}
