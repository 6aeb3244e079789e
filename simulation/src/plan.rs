//! What a run asks of the relay, and what is done to it.

use std::{collections::BTreeSet, ops::Range, time::Duration};

use alloy_primitives::U256;
use slackwater::{
    Timestamp,
    chain::{ChainFamily, ChainSpec, FinalityRule},
    relay::{LocalSigner, SubmitItem},
    request::{Call, Deadline, Forward, ForwarderDomain, RequestId, Submission, SubmissionKind},
};

use crate::{
    chain::{BURNS, FORWARDER, GOOD, MULTICALL, REVERTS, Signatures, TRAP, op_data},
    hostile::Hostility,
    rng::Rng,
    world::{EPOCH_MS, key},
};

/// The name in the forwarder's domain.
pub(crate) const DOMAIN: &str = "Simulated";

/// Faults: chances in thousandths, or numbers of events until it calms down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Calls that do not reach the node.
    pub lost_before: u32,
    /// Calls that reach it, and whose answer is lost.
    pub lost_after: u32,
    /// Calls that arrive long after the caller gave up.
    pub late: u32,
    /// Calls that arrive twice.
    pub twice: u32,
    /// Errors in a node's own words.
    pub errors: u32,
    /// Answers that are no JSON-RPC.
    pub garbage: u32,
    /// Transactions that are taken, with an unclear error.
    pub unclear: u32,
    /// Receipts that are there and not told.
    pub missing_receipts: u32,
    /// Answers of liars that are lies.
    pub lies: u32,
    /// Answers that are slow, by up to `slow_ms`.
    pub slow: u32,
    /// See `slow`.
    pub slow_ms: u64,
    /// Nodes that lag.
    pub lag: u32,
    /// Transactions that a pool forgets at once.
    pub evicted: u32,
    /// Transactions that do not spread.
    pub gossip_lost: u32,
    /// Senders whose turn a miner skips.
    pub ignored_by_miner: u32,
    /// Blocks in which any attempt may be mined, not the best.
    pub any_attempt: u32,
    /// Blocks in which attempts that were replaced may be mined.
    pub revenants: u32,
    /// Commits after which the process dies, and before which.
    pub crash_at_commit: u32,
    /// Calls after which the process dies.
    pub crash_at_call: u32,
    /// Commits that fail and leave nothing.
    pub storage_errors: u32,
    /// Commits in doubt.
    pub in_doubt: u32,
    /// Crashes at random moments.
    pub crashes: u64,
    /// Reorganisations.
    pub reorgs: u64,
    /// Nodes that are away for some seconds.
    pub outages: u64,
    /// Transactions of somebody else with a lane's key.
    pub strangers: u64,
    /// Forwarder nonces of users that are used elsewhere.
    pub foreign_spends: u64,
    /// Orderly stops at random moments.
    pub stops: u64,
    /// The ledger is lost, and an older copy comes back.
    pub restores_backup: bool,
    /// What a stranger does with a user's nonce is taken back by a reorg.
    pub takes_back_spends: bool,
}

impl Faults {
    /// Everything at once, each more or less.
    pub(crate) fn any(rng: &mut Rng) -> Self {
        let mut some = |chance: u32, most: u64| {
            if rng.permille(chance) { u32::try_from(rng.within(1, most)).unwrap_or(0) } else { 0 }
        };
        let mut faults = Self {
            lost_before: some(500, 80),
            lost_after: some(500, 80),
            late: some(300, 30),
            twice: some(400, 60),
            errors: some(600, 80),
            garbage: some(300, 20),
            unclear: some(300, 100),
            missing_receipts: some(400, 200),
            lies: some(400, 400),
            slow: some(500, 60),
            slow_ms: 0,
            lag: some(500, 600),
            evicted: some(300, 150),
            gossip_lost: some(500, 500),
            ignored_by_miner: some(500, 500),
            any_attempt: some(500, 600),
            revenants: some(400, 400),
            crash_at_commit: some(500, 12),
            crash_at_call: some(400, 3),
            storage_errors: some(300, 80),
            in_doubt: some(300, 10),
            ..Self::default()
        };
        faults.slow_ms = rng.within(100, 4_000);
        faults.crashes = rng.below(4);
        faults.stops = rng.below(3);
        faults.takes_back_spends = rng.permille(500);
        faults.reorgs = rng.below(6);
        faults.outages = rng.below(5);
        faults.strangers = if rng.permille(250) { rng.within(1, 2) } else { 0 };
        faults.foreign_spends = if rng.permille(300) { rng.within(1, 3) } else { 0 };
        faults.restores_backup = rng.permille(60);
        faults
    }
}

/// Something that happens at a moment that the scenario names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// Somebody with the lanes' keys takes their money.
    Drain,
    /// The newest blocks are replaced, as deep as can be.
    Reorg,
}

/// What L1 charges for data: OP Stack, Fjord.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFee {
    /// L1 base fee, wei per gas.
    pub l1_base_fee: u64,
    /// Blocks with another price, from the first one on.
    pub rise: Range<u64>,
    /// How many times as much it is then.
    pub factor: u64,
}

/// How many blocks later a request may be executed because of somebody else: what is checked, nothing that a relay decides by.
const MAX_DELAY_BLOCKS: u64 = 3;

/// A run's frame.
#[derive(Debug)]
pub struct Plan {
    /// Faults until it calms down.
    pub faults: Faults,
    /// Nodes.
    pub nodes: usize,
    /// Lanes.
    pub lanes: usize,
    /// Each lane's balance, wei.
    pub balance: U256,
    /// First base fee, wei per gas.
    pub base_fee: u128,
    /// Blocks until one is final.
    pub finality: u64,
    /// The chain has a finalized tag.
    pub has_tag: bool,
    /// When the faults end, ms.
    pub calm_after_ms: u64,
    /// When lane 0 gets money, ms; 0 for never.
    pub top_up_after_ms: u64,
    /// Blocks that are full.
    pub spike: Range<u64>,
    /// Users who sign.
    pub users: Vec<LocalSigner>,
    /// Operations.
    pub operations: u64,
    /// Share of calls, thousandths; the rest are forwards.
    pub calls: u32,
    /// Share of bad targets, thousandths.
    pub poison: u32,
    /// Shortest and longest time to the deadline, ms.
    pub slack_ms: Range<u64>,
    /// Tenant `alpha` has a budget of so many wei.
    pub budget: Option<U256>,
    /// Share of operations that are submitted twice at once, thousandths.
    pub twins: u32,
    /// Share of requests that are withdrawn, thousandths.
    pub withdrawn: u32,
    /// All operations come at once, at the start.
    pub is_burst: bool,
    /// Most transactions of a lane outside blocks.
    pub max_in_flight: usize,
    /// Most requests in one transaction.
    pub max_batch: usize,
    /// Blocks before a bump.
    pub bump_after: u64,
    /// How far block timestamps are ahead of the relay's clock, seconds.
    pub skew_s: i64,
    /// Forecasts decide when to send.
    pub has_forecast: bool,
    /// All nodes but one are so many ms behind at most; 0 for none.
    pub behind_ms: u64,
    /// Nothing keeps a request from being sent: what expires although it could have been executed has starved.
    pub is_strict: bool,
    /// Whoever gave the lanes money looks whether a reorg took it back.
    pub watches_money: bool,
    /// Time between blocks, ms; 0 for the preset's.
    pub block_ms: u64,
    /// What L1 charges for data, if it does.
    pub data_fee: Option<DataFee>,
    /// Chance does not depend on what is asked, so that the run can be compared with another one.
    pub is_paired: bool,
    /// How many blocks later than in that other run a request may be executed.
    pub max_delay_blocks: u64,
    /// Every accepted request of an honest tenant to an honest target is finalized.
    pub must_land: bool,
    /// What happens when, ms; beside what faults bring.
    pub timeline: Vec<(u64, Happening)>,
    /// Those who mean harm.
    pub hostility: Hostility,
    /// Users who sign for them.
    pub hostile_users: Vec<LocalSigner>,
}

impl Plan {
    /// A quiet world.
    pub(crate) fn quiet(seed: u64, rng: &mut Rng) -> Self {
        let users = (0..rng.within(1, 5)).map(|user| key(seed, 0x05e4_0000 + user)).collect();
        Self {
            faults: Faults { slow_ms: 500, ..Faults::default() },
            nodes: *rng.pick(&[1, 2, 3, 3, 3, 4, 5]),
            lanes: *rng.pick(&[1, 1, 2]),
            balance: U256::from(10u128.pow(20)),
            base_fee: *rng.pick(&[7, 1_000_000_000, 15_297_156, 20_000_000_000]),
            finality: rng.within(3, 8),
            has_tag: rng.permille(500),
            calm_after_ms: 45_000,
            top_up_after_ms: 0,
            spike: 0..0,
            users,
            operations: rng.within(6, 16),
            calls: 400,
            poison: 0,
            slack_ms: 8_000..40_000,
            budget: None,
            twins: 0,
            withdrawn: 0,
            is_burst: false,
            max_in_flight: usize::try_from(rng.within(1, 4)).unwrap_or(1),
            max_batch: usize::try_from(rng.within(1, 6)).unwrap_or(1),
            bump_after: rng.within(1, 3),
            skew_s: 0,
            has_forecast: false,
            behind_ms: 0,
            is_strict: false,
            watches_money: true,
            block_ms: 0,
            data_fee: None,
            is_paired: false,
            max_delay_blocks: MAX_DELAY_BLOCKS,
            must_land: false,
            timeline: Vec::new(),
            hostility: Hostility::NONE,
            hostile_users: (0..3).map(|user| key(seed, 0x0bad_0000 + user)).collect(),
        }
    }

    /// All faults.
    pub(crate) fn random(seed: u64, rng: &mut Rng) -> Self {
        let mut plan = Self::quiet(seed, rng);
        plan.faults = Faults::any(rng);
        plan.poison = if rng.permille(500) { u32::try_from(rng.within(50, 300)).unwrap_or(0) } else { 0 };
        plan.twins = if rng.permille(300) { 300 } else { 0 };
        plan.withdrawn = if rng.permille(200) { 150 } else { 0 };
        plan.calls = *rng.pick(&[0, 300, 500, 1_000]);
        plan.is_burst = rng.permille(300);
        plan.skew_s = i64::try_from(rng.below(5)).unwrap_or(0) - 2;
        plan.has_forecast = rng.permille(30);
        if rng.permille(200) {
            let from = rng.within(5, 20);
            plan.spike = from..from + rng.within(5, 20);
        }
        if rng.permille(250) {
            plan.budget =
                Some(U256::from(plan.base_fee + 3_000_000_000) * U256::from(rng.within(1_000_000, 20_000_000)));
        }
        if rng.permille(100) {
            plan.balance = U256::from(plan.base_fee + 2_000_000_000) * U256::from(rng.within(300_000, 3_000_000));
            plan.top_up_after_ms = rng.within(10_000, 40_000);
        }
        plan
    }

    /// What the tenant with the budget is charged, percent of cost.
    pub(crate) fn price_percent(&self) -> u32 {
        let choice = self.budget.map_or(0, |wei| (wei % U256::from(3)).saturating_to::<usize>());
        [100, 150, 50][choice]
    }

    pub(crate) fn spec(&self) -> ChainSpec {
        let mut spec = ChainSpec::preset("anvil").expect("an embedded preset");
        spec.multicall3 = Some(MULTICALL);
        if self.block_ms > 0 {
            spec.block_time_ms = self.block_ms;
        }
        if self.data_fee.is_some() {
            let rollup = ChainSpec::preset("base").expect("an embedded preset");
            (spec.family, spec.base_fee) = (ChainFamily::OpStack, rollup.base_fee);
        }
        spec.finality = if self.has_tag {
            FinalityRule::FinalizedTag { fallback_depth: 0 }
        } else {
            FinalityRule::Depth { blocks: self.finality }
        };
        spec
    }

    /// What the callers will ask for.
    pub(crate) fn operations(&self, rng: &mut Rng, chain_id: u64, signatures: &mut Signatures) -> Vec<Operation> {
        let domain = ForwarderDomain::new(DOMAIN, chain_id, FORWARDER);
        let mut nonces = vec![0u64; self.users.len()];
        let mut found = Vec::new();
        for op in 1..=self.operations {
            let at_ms =
                if self.is_burst { rng.within(500, 2_500) } else { rng.within(500, self.calm_after_ms * 3 / 4) };
            found.push((op, EPOCH_MS + at_ms));
        }
        found.sort_by_key(|(_, at)| *at);
        let mut operations = Vec::new();
        for (op, at) in found {
            let slack = rng.within(self.slack_ms.start, self.slack_ms.end);
            let to = if rng.permille(self.poison) { *rng.pick(&[REVERTS, TRAP, BURNS, REVERTS]) } else { GOOD };
            let is_call = rng.permille(self.calls) || self.users.is_empty();
            let gas = U256::from(rng.within(30_000, 120_000));
            let tenant = *rng.pick(&["alpha", "beta"]);
            let (kind, deadline) = if is_call {
                let any_sender = rng.permille(400) && to == GOOD;
                let call = Call { to, value: U256::ZERO, gas, data: op_data(op), any_sender, salt: String::new() };
                (SubmissionKind::Call(call), Deadline::Within(Duration::from_millis(slack)))
            } else {
                let place = usize::try_from(rng.below(self.users.len() as u64)).unwrap_or(0);
                let signer = &self.users[place];
                let nonce = nonces[place];
                nonces[place] += 1;
                let deadline_s = (at + slack) / 1_000 + 3;
                let mut forward = Forward {
                    forwarder: FORWARDER,
                    from: signer.address(),
                    to,
                    value: U256::ZERO,
                    gas,
                    nonce: U256::from(nonce),
                    deadline: deadline_s,
                    data: op_data(op),
                    signature: alloy_primitives::Bytes::new(),
                };
                forward.signature = signer.identity().sign(domain.digest(&forward));
                signatures.insert(forward.signature.clone(), (signer.address(), nonce));
                let deadline = Deadline::At(Timestamp((at + slack).min((deadline_s - 2) * 1_000)));
                (SubmissionKind::Forward(forward), deadline)
            };
            let has_limit = rng.permille(150) && !self.is_strict && !self.must_land;
            let max_cost_wei = has_limit
                .then(|| U256::from(self.base_fee + 2_500_000_000) * U256::from(rng.within(150_000, 3_000_000)));
            let submission = Submission { chain_id, kind, deadline: Some(deadline), max_cost_wei };
            let key = (is_call || rng.permille(600)).then(|| format!("key-{op}"));
            operations.push(Operation {
                op,
                tenant,
                item: SubmitItem { submission, idempotency_key: key, submitted_by: None },
                next_at: at,
                gives_up_at: at + slack,
                tries: if rng.permille(self.twins) { 2 } else { 1 },
                withdraw_at: rng.permille(self.withdrawn).then(|| at + rng.within(50, 4_000)),
                accepted: BTreeSet::new(),
                end: None,
                under_way: 0,
                was_lost: false,
            });
        }
        operations
    }
}

/// Something that a caller wants to happen once.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) op: u64,
    pub(crate) tenant: &'static str,
    pub(crate) item: SubmitItem,
    /// When it is submitted next.
    pub(crate) next_at: u64,
    /// Nobody submits it after this.
    pub(crate) gives_up_at: u64,
    /// Submissions that are still to be made at once.
    pub(crate) tries: u32,
    pub(crate) withdraw_at: Option<u64>,
    /// Ids that were answered with.
    pub(crate) accepted: BTreeSet<RequestId>,
    /// Refused, or given up: why.
    pub(crate) end: Option<String>,
    pub(crate) under_way: u32,
    /// The ledger that had accepted it is gone.
    pub(crate) was_lost: bool,
}

impl Operation {
    pub(crate) fn forget_unless(&mut self, kept: &BTreeSet<RequestId>) {
        if !self.accepted.is_subset(kept) {
            self.accepted.clear();
            self.was_lost = true;
            self.end = Some("lost with the ledger".to_owned());
        }
    }
}
