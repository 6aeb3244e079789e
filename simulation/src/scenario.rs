//! The named scenarios.

use alloy_primitives::U256;

use crate::{
    hostile::{self, HostileSigner, HostileTarget, Lie},
    plan::{DataFee, Faults, Happening, Plan},
    rng::{Rng, mix},
    world::key,
};

/// Subject of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// All faults at once.
    Random,
    /// S1: a crash between any two steps.
    Crash,
    /// S1: a crash between any two commands of the sender.
    Command,
    /// S2: an earlier attempt is mined after a bump, or a replacement loses.
    OldAttempt,
    /// S3: wrong reads of receipts and nonces.
    WrongReads,
    /// S4: the nonce counter and the chain disagree.
    NonceDrift,
    /// S5: replacements at the boundary, rejected bumps.
    Replacement,
    /// S6: reorganisations.
    Reorg,
    /// S6: a reorg reverts the use of a user's nonce outside the relay.
    TakenBack,
    /// S6: most nodes are still on a branch that a reorg has replaced.
    Behind,
    /// S7: deadlines and withdrawals race with sending.
    Deadline,
    /// S8: poison in a batch.
    Poison,
    /// S9: money runs out, fees explode.
    Funds,
    /// S10: duplicates and ambiguity.
    Duplicate,
    /// S6: simulations permanently refuse a request that an earlier transaction may have executed, and reorgs reverse
    /// that.
    Entangled,
    /// S9: a reorg reverts the payment that ends a shortage, with transactions in flight.
    MoneyTakenBack,
    /// S9: money for a few requests at a time, while a whole batch of them waits.
    Scarce,
    /// S11: no pool: a nonce is refused while one below it is missing, and one broadcast in ten gets lost.
    NoPool,
    /// S12: receipts are null for 45 minutes.
    LateReceipts,
    /// S13: slots stay empty, in runs.
    EmptySlots,
    /// S15: a provider is gone for good, the others have neither simulations nor old states.
    Gone,
    /// S16: a target that is honest in simulation and burns on chain: it detects the transaction's gas price.
    GasPrice,
    /// S16: as before, by the base fee.
    BaseFee,
    /// S16: as before, by the proposer of the block.
    Coinbase,
    /// S16: as before, by the block's number.
    BlockNumber,
    /// S16: as before, by the block's time.
    Clock,
    /// S16: a target that a transaction in front flips.
    Flipped,
    /// S16: a new target for each request.
    Fresh,
    /// S16: a target that is honest twenty times.
    Patient,
    /// S16: a target that burns again whenever its requests are replanned.
    Relapse,
    /// S16: a deceptive target that its tenant's policy names.
    Suspect,
    /// S16: calls that revert on chain only.
    Reverting,
    /// S17: a signer who leaves out a nonce.
    Gap,
    /// S17: the shortest deadline in each batch.
    Hasty,
    /// S17: ceilings at the next block's price with the shortest deadline, so that lanes must cancel.
    Tight,
    /// S17: ceilings at the next block's price and usual deadlines, so that requests priced out block the lanes.
    PricedOut,
    /// S9: requests that the lanes can't pay for, ahead of those that they can.
    Huge,
    /// S17: the largest calldata before L1's price rises.
    Bulky,
    /// S17: members whose nonce is used in front of the batch.
    Skipped,
    /// S17: transactions that pools accept and no block includes, such as those for which a rollup's provers lack
    /// room.
    Ignored,
    /// S18: nodes that refuse transactions above a cost, in geth's words.
    FeeCap,
    /// S18: blocks with less gas than a batch may have.
    BlockGas,
    /// S18: nodes that require a minimum tip, and name it.
    LeastTip,
    /// S18: pools with a low limit of transactions per account.
    PoolLimit,
    /// S19: a frozen node.
    Frozen,
    /// S19: a lagging node that keeps advancing.
    Lagging,
    /// S19: a node reports that simulations fail.
    Refuses,
    /// S19: a node reports that simulations succeed.
    Praises,
    /// S19: a node lies about time.
    LyingTime,
    /// S19: a node lies about tips.
    LyingTip,
    /// S19: a node lies about its head.
    LyingHead,
    /// S19: a node lies about the L1 data fee.
    LyingDataFee,
    /// S19: a node lies about the blocks of transactions, some of which a reorg reverts.
    LyingReceipts,
    /// S19: a node invents the next block, and the branch below it.
    LyingBranch,
    /// S19: a node has no receipts, and counts no nonce as used in final blocks.
    NoReceipts,
    /// S20: the operator removes a key with transactions in flight.
    RemovedSigner,
    /// Keys elsewhere answer late, not at all, or wrongly; so does the identity's.
    AskedSigner,
    /// S20: the operator adds a key.
    AddedSigner,
    /// S20: the chain's clock is ahead, or behind.
    WrongClock,
    /// Token payments beside forwards and calls, with all faults, some of them executed or voided by others.
    Payments,
}

impl Scenario {
    /// The scenarios that take turns over the seeds.
    pub const ALL: [Self; 14] = [
        Self::Random,
        Self::Crash,
        Self::Command,
        Self::OldAttempt,
        Self::WrongReads,
        Self::NonceDrift,
        Self::Replacement,
        Self::Reorg,
        Self::TakenBack,
        Self::Behind,
        Self::Deadline,
        Self::Poison,
        Self::Funds,
        Self::Duplicate,
    ];

    /// Scenarios with a hostile party, with payments, or whose faults come from a second generator. They are run by name,
    /// so that the seeds of all scenarios in turn keep their meaning.
    pub const HOSTILE: [Self; 46] = [
        Self::Entangled,
        Self::MoneyTakenBack,
        Self::Scarce,
        Self::NoPool,
        Self::LateReceipts,
        Self::EmptySlots,
        Self::Gone,
        Self::GasPrice,
        Self::BaseFee,
        Self::Coinbase,
        Self::BlockNumber,
        Self::Clock,
        Self::Flipped,
        Self::Fresh,
        Self::Patient,
        Self::Relapse,
        Self::Suspect,
        Self::Reverting,
        Self::Gap,
        Self::Hasty,
        Self::Tight,
        Self::PricedOut,
        Self::Huge,
        Self::Bulky,
        Self::Skipped,
        Self::Ignored,
        Self::FeeCap,
        Self::BlockGas,
        Self::LeastTip,
        Self::PoolLimit,
        Self::Frozen,
        Self::Lagging,
        Self::Refuses,
        Self::Praises,
        Self::LyingTime,
        Self::LyingTip,
        Self::LyingHead,
        Self::LyingDataFee,
        Self::LyingReceipts,
        Self::LyingBranch,
        Self::NoReceipts,
        Self::RemovedSigner,
        Self::AskedSigner,
        Self::AddedSigner,
        Self::WrongClock,
        Self::Payments,
    ];

    /// Its settings for a seed.
    pub fn plan(self, seed: u64) -> Plan {
        let mut rng = Rng::new(mix(seed ^ 0x91a2));
        if self == Self::Random {
            return Plan::random(seed, &mut rng);
        }
        let mut plan = Plan::quiet(seed, &mut rng);
        match self {
            Self::Random => {}
            Self::Crash => {
                plan.faults = Faults {
                    crash_at_commit: 40,
                    crash_at_call: 15,
                    crashes: rng.within(1, 6),
                    lost_after: 50,
                    in_doubt: 10,
                    storage_errors: 20,
                    ..plan.faults
                };
            }
            Self::Command => plan.faults = Faults { crash_at_command: 30, lost_after: 50, ..plan.faults },
            Self::OldAttempt => {
                plan.bump_after = 1;
                plan.nodes = 3;
                plan.faults = Faults {
                    ignored_by_miner: 600,
                    any_attempt: 800,
                    revenants: 600,
                    missing_receipts: 200,
                    gossip_lost: 500,
                    crashes: rng.below(3),
                    ..plan.faults
                };
                plan.slack_ms = 6_000..25_000;
            }
            Self::WrongReads => {
                plan.nodes = *rng.pick(&[3, 5]);
                plan.faults = Faults {
                    lies: 300,
                    missing_receipts: 250,
                    errors: 80,
                    lag: 500,
                    slow: 100,
                    late: 20,
                    reorgs: rng.below(4),
                    ..plan.faults
                };
            }
            Self::NonceDrift => {
                plan.faults = Faults {
                    strangers: rng.below(4),
                    stops: rng.below(3),
                    reorgs: rng.below(3),
                    crashes: rng.within(1, 3),
                    foreign_spends: rng.below(3),
                    restores_backup: rng.permille(600),
                    ..plan.faults
                };
            }
            Self::Replacement => {
                plan.bump_after = 1;
                plan.spike = 4..rng.within(8, 24);
                plan.faults = Faults {
                    ignored_by_miner: 700,
                    evicted: 150,
                    gossip_lost: 600,
                    unclear: 250,
                    lost_after: 80,
                    ..plan.faults
                };
                if rng.permille(500) {
                    // One node, with mostly ambiguous answers.
                    (plan.nodes, plan.faults.unclear, plan.faults.evicted) = (1, 800, 0);
                }
                plan.base_fee = *rng.pick(&[7, 9, 10, 11, 15_297_156, 1_000_000_000]);
            }
            Self::Reorg => {
                plan.faults = Faults {
                    reorgs: rng.within(3, 12),
                    any_attempt: 300,
                    crashes: rng.below(3),
                    foreign_spends: rng.below(4),
                    strangers: rng.below(2),
                    ..plan.faults
                };
            }
            Self::TakenBack => {
                plan.calls = 0;
                plan.operations = 16;
                plan.finality = rng.within(5, 8);
                plan.users.truncate(2);
                plan.slack_ms = 25_000..40_000;
                plan.is_strict = true;
                plan.faults = Faults { foreign_spends: rng.within(2, 6), takes_back_spends: true, ..plan.faults };
            }
            Self::Behind => {
                plan.nodes = 3;
                plan.finality = rng.within(3, 5);
                plan.behind_ms = (plan.finality + 3) * 1_000;
                plan.slack_ms = 15_000..40_000;
                plan.faults = Faults { lies: 500, reorgs: rng.within(6, 16), any_attempt: 300, ..plan.faults };
            }
            Self::Deadline => {
                plan.skew_s = i64::try_from(rng.below(5)).unwrap_or(0) - 2;
                plan.slack_ms = 1_600..9_000;
                plan.withdrawn = 250;
                plan.faults = Faults {
                    ignored_by_miner: 600,
                    revenants: 400,
                    slow: 100,
                    late: 40,
                    crashes: rng.below(3),
                    outages: rng.below(4),
                    ..plan.faults
                };
            }
            Self::Poison => {
                plan.poison = 400;
                plan.max_batch = usize::try_from(rng.within(2, 8)).unwrap_or(2);
                plan.faults = Faults { foreign_spends: rng.below(5), reorgs: rng.below(2), ..plan.faults };
            }
            Self::Funds => {
                plan.spike = 6..rng.within(12, 26);
                plan.balance = U256::from(plan.base_fee + 2_000_000_000) * U256::from(rng.within(200_000, 2_500_000));
                plan.top_up_after_ms = rng.within(15_000, 40_000);
                plan.budget =
                    Some(U256::from(plan.base_fee + 3_000_000_000) * U256::from(rng.within(500_000, 10_000_000)));
                plan.is_burst = rng.permille(500);
                plan.faults = Faults { crashes: rng.below(3), ..plan.faults };
            }
            Self::Duplicate => {
                plan.twins = 600;
                plan.calls = 700;
                plan.faults = Faults {
                    crash_at_commit: 20,
                    lost_after: 60,
                    twice: 150,
                    unclear: 100,
                    late: 20,
                    in_doubt: 40,
                    storage_errors: 60,
                    ..plan.faults
                };
            }
            Self::Entangled => {
                (plan.calls, plan.operations) = (0, 16);
                // Longer than it takes until simulations refuse permanently.
                plan.finality = 14;
                plan.users.truncate(2);
                plan.max_batch = usize::try_from(rng.within(2, 6)).unwrap_or(2);
                plan.slack_ms = 25_000..40_000;
                plan.faults = Faults {
                    foreign_spends: rng.within(2, 6),
                    takes_back_spends: true,
                    reorgs: rng.within(3, 12),
                    ..plan.faults
                };
            }
            Self::MoneyTakenBack => {
                plan.nodes = 1;
                plan.finality = 6;
                plan.bump_after = 1;
                plan.is_burst = true;
                plan.slack_ms = 10_000..20_000;
                // Transactions are in a pool, and not in a block, when their lane's money is drained. More comes at
                // the calm, and the block with that payment is replaced a second later.
                plan.faults = Faults { ignored_by_miner: 1_000, ..plan.faults };
                plan.top_up_after_ms = plan.calm_after_ms;
                plan.timeline = vec![(5_000, Happening::Drain), (plan.calm_after_ms + 1_024, Happening::Reorg)];
            }
            Self::Payments => payments(&mut plan, seed, &mut rng),
            _ => self.harm(&mut plan, seed, &mut rng),
        }
        plan
    }

    /// Sets its hostile elements, from the second generator.
    fn harm(self, plan: &mut Plan, seed: u64, rng: &mut Rng) {
        let mut second = hostile::generator(mix(seed));
        plan.nodes = *rng.pick(&[1, 3, 3, 5]);
        plan.slack_ms = 20_000..40_000;
        plan.max_batch = usize::try_from(rng.within(2, 8)).unwrap_or(2);
        (plan.is_paired, plan.must_land) = (true, true);
        match self {
            Self::Scarce | Self::NoPool | Self::LateReceipts | Self::EmptySlots | Self::Gone => {
                self.trouble(plan, &mut second);
            }
            Self::Frozen
            | Self::Lagging
            | Self::Refuses
            | Self::Praises
            | Self::LyingTime
            | Self::LyingTip
            | Self::LyingHead
            | Self::LyingDataFee
            | Self::LyingReceipts
            | Self::LyingBranch
            | Self::NoReceipts => self.bad_node(plan, &mut second),
            Self::FeeCap | Self::BlockGas | Self::LeastTip | Self::PoolLimit => self.limits(plan, &mut second),
            Self::RemovedSigner | Self::AddedSigner | Self::AskedSigner | Self::WrongClock => {
                self.operations(plan, &mut second)
            }
            _ => self.bad_tenant(plan, &mut second),
        }
        // Drawn last: no other choice of a seed depends on it.
        if second.permille(400) {
            plan.hostility.finality_step = second.within(4, 12);
        }
    }

    fn trouble(self, plan: &mut Plan, second: &mut Rng) {
        let hostility = &mut plan.hostility;
        match self {
            Self::Scarce => {
                (plan.lanes, plan.calls, plan.operations) = (1, 0, 7);
                (plan.is_burst, plan.max_batch, plan.base_fee) = (true, 8, 20_000_000_000);
                plan.balance = U256::from(plan.base_fee) * U256::from(second.within(1_250_000, 1_350_000));
            }
            Self::NoPool => {
                plan.max_in_flight = 4;
                plan.faults.lost_before = 100;
                hostility.has_no_pool = true;
            }
            Self::LateReceipts => {
                (plan.operations, plan.max_in_flight) = (4, 8);
                plan.block_ms = 12_000;
                plan.slack_ms = 60_000..120_000;
                // The faults last until receipts are shown again.
                plan.calm_after_ms = 2_760_000;
                plan.is_burst = true;
                hostility.receipts_after_ms = 2_700_000;
            }
            Self::EmptySlots => hostility.empty_slots = u32::try_from(second.within(10, 60)).unwrap_or(10),
            _ => {
                plan.nodes = 3;
                hostility.gone_at_ms = second.within(3_000, 30_000);
                hostility.has_no_simulation = true;
                // Some providers have dropped the state of a block by the time it becomes final.
                let kept = [plan.finality + 8, plan.finality / 2 + 2];
                hostility.state_blocks = *second.pick(&kept);
            }
        }
    }

    fn bad_node(self, plan: &mut Plan, second: &mut Rng) {
        plan.nodes = 3;
        let hostility = &mut plan.hostility;
        match self {
            Self::Frozen => hostility.frozen_at_ms = second.within(2_000, 30_000),
            Self::Lagging => hostility.behind_ms = second.within(5_000, 40_000),
            Self::Refuses => hostility.lie = Lie::Refuses,
            Self::Praises => {
                plan.poison = 300;
                hostility.lie = Lie::Praises;
            }
            Self::LyingTime => hostility.lie = Lie::Time,
            Self::LyingTip => hostility.lie = Lie::Tip,
            Self::LyingHead => hostility.lie = Lie::Head,
            Self::LyingBranch => hostility.lie = Lie::Branch,
            Self::NoReceipts => hostility.lie = Lie::NoReceipts,
            Self::LyingReceipts => {
                hostility.lie = *second.pick(&[Lie::BlockAbove, Lie::BlockBelow]);
                plan.faults.reorgs = second.within(1, 6);
            }
            _ => {
                plan.data_fee = Some(DataFee { l1_base_fee: 30_000_000_000, ..data_fee(second, 0..0) });
                hostility.lie = Lie::DataFee;
            }
        }
    }

    fn limits(self, plan: &mut Plan, second: &mut Rng) {
        plan.operations = second.within(8, 16);
        plan.is_burst = second.permille(500);
        match self {
            Self::FeeCap => {
                // The highest cost of a few requests; reported in ether with two decimals.
                plan.base_fee = 40_000_000_000;
                plan.max_batch = 8;
                plan.hostility.fee_cap_wei = u128::from(second.within(3, 6)) * 10_000_000_000_000_000;
            }
            Self::BlockGas => {
                plan.max_batch = 100;
                plan.hostility.block_gas = second.within(600_000, 2_000_000);
            }
            Self::LeastTip => plan.hostility.least_tip = u128::from(second.within(3, 30)) * 1_000_000_000,
            _ => {
                plan.max_in_flight = 8;
                plan.max_batch = 1;
                plan.hostility.pool_limit = second.within(1, 4);
            }
        }
    }

    fn operations(self, plan: &mut Plan, second: &mut Rng) {
        plan.lanes = 2;
        plan.faults.stops = 1;
        match self {
            Self::RemovedSigner => {
                plan.faults.ignored_by_miner = 300;
                plan.hostility.removes_signer = true;
            }
            Self::AddedSigner => plan.hostility.adds_signer = true,
            Self::AskedSigner => {
                plan.must_land = false;
                plan.faults.crashes = 2;
                plan.faults.reorgs = 2;
                plan.hostility.asks_signers = true;
                plan.hostility.has_dead_signer = second.below(2) == 0;
            }
            _ => {
                plan.must_land = false;
                plan.skew_s = i64::try_from(second.below(81)).unwrap_or(0) - 40;
            }
        }
    }

    fn bad_tenant(self, plan: &mut Plan, second: &mut Rng) {
        plan.calm_after_ms = 24_000;
        plan.slack_ms = 15_000..25_000;
        plan.max_in_flight = usize::try_from(second.within(3, 8)).unwrap_or(3);
        let hostility = &mut plan.hostility;
        hostility.operations = second.within(8, 30);
        hostility.budget_gas = second.within(2_000_000, 40_000_000);
        hostility.takes_all = second.permille(500);
        hostility.is_flood = second.permille(300);
        if hostility.is_flood {
            (hostility.operations, hostility.budget_gas) =
                (second.within(30, 60), second.within(40_000_000, 120_000_000));
        }
        match self {
            Self::GasPrice => hostility.target = HostileTarget::GasPrice,
            Self::BaseFee => hostility.target = HostileTarget::BaseFee,
            Self::Coinbase => hostility.target = HostileTarget::Coinbase,
            Self::BlockNumber => hostility.target = HostileTarget::BlockNumber,
            Self::Clock => hostility.target = HostileTarget::Clock,
            Self::Flipped => {
                hostility.target = HostileTarget::Flipped;
                hostility.in_front = u32::try_from(second.within(300, 1_000)).unwrap_or(300);
            }
            Self::Fresh => hostility.target = HostileTarget::Fresh,
            Self::Patient => {
                hostility.target = HostileTarget::Patient;
                hostility.operations = second.within(25, 40);
                hostility.budget_gas = 80_000_000;
            }
            Self::Relapse => {
                // Each of its requests is skipped, and its nonce stays unused.
                (hostility.target, hostility.takes_all) = (HostileTarget::Hidden, true);
                hostility.budget_gas = second.within(20_000_000, 80_000_000);
            }
            Self::Suspect => {
                // After one failure each travels alone; the next ones come while that is known.
                (hostility.target, hostility.takes_all) = (HostileTarget::Hidden, true);
                (hostility.is_named, hostility.is_flood) = (true, false);
                (hostility.operations, hostility.budget_gas) = (second.within(30, 50), 300_000_000);
                (plan.max_batch, plan.calm_after_ms) = (4, 45_000);
            }
            Self::Reverting => hostility.target = HostileTarget::Reverting,
            Self::Gap => hostility.signer = HostileSigner::Gap,
            Self::Hasty => hostility.signer = HostileSigner::Hasty,
            Self::Tight => {
                hostility.signer = HostileSigner::Tight;
                plan.spike = 4..second.within(10, 24);
            }
            Self::PricedOut => {
                hostility.signer = HostileSigner::PricedOut;
                plan.base_fee = 20_000_000_000;
                plan.spike = 6..second.within(14, 18);
            }
            Self::Huge => {
                hostility.signer = HostileSigner::Huge;
                hostility.budget_gas = 2_000_000_000;
                plan.balance = U256::from(plan.base_fee + 2_000_000_000) * U256::from(8_000_000);
            }
            Self::Ignored => {
                hostility.signer = HostileSigner::Ignored;
                (hostility.is_flood, hostility.operations) = (false, second.within(4, 9));
                (plan.calm_after_ms, plan.slack_ms) = (45_000, 100_000..150_000);
                // A later request waits until each one before it is given up after 12 blocks, and cancelled. Prices
                // leave room for cancels.
                plan.max_delay_blocks = 15 * (plan.max_in_flight as u64 + 1);
                plan.base_fee = *second.pick(&[7, 15_297_156, 1_000_000_000]);
            }
            Self::Bulky => {
                hostility.signer = HostileSigner::Bulky;
                let from = second.within(4, 20);
                plan.data_fee = Some(data_fee(second, from..from + 30));
            }
            _ => {
                hostility.signer = HostileSigner::Skipped;
                hostility.in_front = 800;
            }
        }
    }
}

/// Sets payments, and all faults at moderate strength.
fn payments(plan: &mut Plan, seed: u64, rng: &mut Rng) {
    plan.payments = rng.within(5, 16);
    plan.operations = rng.within(2, 8);
    plan.payers = (0..rng.within(1, 4)).map(|payer| key(seed, 0x3009_0000 + payer)).collect();
    plan.has_capped_calls = rng.permille(500);
    plan.token_tells_domain = rng.permille(500);
    plan.poison = if rng.permille(600) { 250 } else { 0 };
    plan.twins = if rng.permille(250) { 300 } else { 0 };
    plan.withdrawn = if rng.permille(250) { 150 } else { 0 };
    plan.is_burst = rng.permille(600);
    plan.skew_s = i64::try_from(rng.below(5)).unwrap_or(0) - 2;
    plan.max_batch = usize::try_from(rng.within(1, 12)).unwrap_or(1);
    if rng.permille(200) {
        plan.budget = Some(U256::from(plan.base_fee + 3_000_000_000) * U256::from(rng.within(1_000_000, 20_000_000)));
    }
    plan.faults = Faults::any(rng).halved();
    plan.faults.reorgs = rng.within(1, 6);
    plan.faults.foreign_payments = rng.below(10);
    plan.faults.crash_at_command = if rng.permille(200) { 10 } else { 0 };
    if rng.permille(300) {
        plan.slack_ms = 2_500..12_000;
    }
    match rng.below(10) {
        // Every node refuses large transactions, whose members then go elsewhere.
        0 => plan.hostility.block_gas = rng.within(300_000, 900_000),
        1 => {
            plan.base_fee = 40_000_000_000;
            plan.hostility.fee_cap_wei = u128::from(rng.within(2, 5)) * 10_000_000_000_000_000;
        }
        2 => plan.hostility.has_no_simulation = true,
        3 => plan.hostility.finality_step = rng.within(4, 12),
        4 => {
            plan.spike = 6..rng.within(12, 26);
            plan.balance = U256::from(plan.base_fee + 2_000_000_000) * U256::from(rng.within(300_000, 2_500_000));
            plan.top_up_after_ms = rng.within(15_000, 40_000);
        }
        _ => {}
    }
}

fn data_fee(second: &mut Rng, rise: std::ops::Range<u64>) -> DataFee {
    DataFee { l1_base_fee: second.within(1_000_000_000, 50_000_000_000), rise, factor: second.within(2, 10) }
}
