//! Settings of a run: the callers' operations, and the faults injected.

use std::{collections::BTreeSet, ops::Range, time::Duration};

use alloy_primitives::U256;
use slackwater::LocalSigner;
use slackwater_core::{
    Timestamp,
    chain::{ChainFamily, ChainSpec, FinalityRule},
    request::{Call, Forward, ForwarderDomain, RequestId, Submission},
};

use crate::{
    chain::{BURNS, FORWARDER, GOOD, MULTICALL, REVERTS, Signatures, TRAP, op_data},
    hostile::Hostility,
    rng::{Rng, mix},
    world::{EPOCH_MS, key},
};

/// Name in the forwarder's EIP-712 domain.
pub(crate) const DOMAIN: &str = "Simulated";

/// Faults: chances in thousandths, or numbers of events until the calm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Calls that do not reach the node.
    pub lost_before: u32,
    /// Calls that reach the node but whose answer is lost.
    pub lost_after: u32,
    /// Calls that arrive long after the caller's timeout.
    pub late: u32,
    /// Calls that arrive twice.
    pub twice: u32,
    /// Errors in the words of real nodes.
    pub errors: u32,
    /// Answers that are not JSON-RPC.
    pub garbage: u32,
    /// Transactions that are accepted and answered with an ambiguous error.
    pub unclear: u32,
    /// Existing receipts that are not shown.
    pub missing_receipts: u32,
    /// Answers of lying nodes that are lies.
    pub lies: u32,
    /// Answers that are delayed, by up to `slow_ms`.
    pub slow: u32,
    /// Longest delay of a slow answer, ms.
    pub slow_ms: u64,
    /// Nodes that lag.
    pub lag: u32,
    /// Transactions that a pool evicts at once.
    pub evicted: u32,
    /// Transactions that do not spread.
    pub gossip_lost: u32,
    /// Senders whose turn a miner skips.
    pub ignored_by_miner: u32,
    /// Blocks in which any attempt may be mined, not only the best.
    pub any_attempt: u32,
    /// Blocks in which replaced attempts may be mined.
    pub revenants: u32,
    /// Commits before or after which the process crashes.
    pub crash_at_commit: u32,
    /// Broadcasts around which the process crashes.
    pub crash_at_call: u32,
    /// Commands of the sender before which the process crashes.
    pub crash_at_command: u32,
    /// Commits that fail without effect.
    pub storage_errors: u32,
    /// Commits whose outcome is in doubt.
    pub in_doubt: u32,
    /// Crashes at random moments.
    pub crashes: u64,
    /// Reorganisations.
    pub reorgs: u64,
    /// Outages of a node for some seconds.
    pub outages: u64,
    /// Transactions of a stranger with a lane's key.
    pub strangers: u64,
    /// Forwarder nonces of users that are used outside the relay.
    pub foreign_spends: u64,
    /// Transactions of others that execute or void payments.
    pub foreign_payments: u64,
    /// Orderly stops at random moments.
    pub stops: u64,
    /// True if the ledger is lost, and an older copy is restored.
    pub restores_backup: bool,
    /// True if a reorg reverts the use of a user's or a payer's nonce outside the relay.
    pub takes_back_spends: bool,
}

impl Faults {
    /// All faults at once, each at random strength.
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

    /// The same with half of each chance.
    pub(crate) fn halved(self) -> Self {
        Self {
            lost_before: self.lost_before / 2,
            lost_after: self.lost_after / 2,
            late: self.late / 2,
            twice: self.twice / 2,
            errors: self.errors / 2,
            garbage: self.garbage / 2,
            unclear: self.unclear / 2,
            missing_receipts: self.missing_receipts / 2,
            lies: self.lies / 2,
            slow: self.slow / 2,
            lag: self.lag / 2,
            evicted: self.evicted / 2,
            gossip_lost: self.gossip_lost / 2,
            ignored_by_miner: self.ignored_by_miner / 2,
            any_attempt: self.any_attempt / 2,
            revenants: self.revenants / 2,
            crash_at_commit: self.crash_at_commit / 2,
            crash_at_call: self.crash_at_call / 2,
            storage_errors: self.storage_errors / 2,
            in_doubt: self.in_doubt / 2,
            ..self
        }
    }
}

/// An event at a time that the scenario sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// Somebody with the lanes' keys takes their money.
    Drain,
    /// A reorg of the greatest possible depth.
    Reorg,
}

/// L1 data fee: OP Stack, Fjord.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFee {
    /// L1 base fee, wei per gas.
    pub l1_base_fee: u64,
    /// Blocks with another price, counted from the first one.
    pub rise: Range<u64>,
    /// Factor on the price in those blocks.
    pub factor: u64,
}

/// Number of blocks by which another tenant may delay a request: a bound for the check, not a setting of the relay.
const MAX_DELAY_BLOCKS: u64 = 3;

/// Settings of a run.
#[derive(Debug)]
pub struct Plan {
    /// Faults until the calm.
    pub faults: Faults,
    /// Number of nodes.
    pub nodes: usize,
    /// Number of lanes.
    pub lanes: usize,
    /// Each lane's balance, wei.
    pub balance: U256,
    /// First base fee, wei per gas.
    pub base_fee: u128,
    /// Number of blocks until one is final.
    pub finality: u64,
    /// True if the chain has a finalized tag.
    pub has_tag: bool,
    /// Time at which the faults end, ms.
    pub calm_after_ms: u64,
    /// Time at which lane 0 gets money, ms; 0 for never.
    pub top_up_after_ms: u64,
    /// Range of full blocks.
    pub spike: Range<u64>,
    /// Users who sign.
    pub users: Vec<LocalSigner>,
    /// Number of operations.
    pub operations: u64,
    /// Share of calls, thousandths; the rest are forwards.
    pub calls: u32,
    /// Number of token payments, beside the operations.
    pub payments: u64,
    /// Payers with a key; others have code.
    pub payers: Vec<LocalSigner>,
    /// True if `CappedCalls` is deployed.
    pub has_capped_calls: bool,
    /// True if the token tells its domain by `eip712Domain()`; else by name and version.
    pub token_tells_domain: bool,
    /// Share of bad targets and payers, thousandths.
    pub poison: u32,
    /// Shortest and longest time to the deadline, ms.
    pub slack_ms: Range<u64>,
    /// Budget of tenant `alpha`, wei; `None` for no limit.
    pub budget: Option<U256>,
    /// Share of operations that are submitted twice at once, thousandths.
    pub twins: u32,
    /// Share of requests that are withdrawn, thousandths.
    pub withdrawn: u32,
    /// True if all operations come at once, at the start.
    pub is_burst: bool,
    /// Highest number of a lane's transactions in flight.
    pub max_in_flight: usize,
    /// Highest number of requests in one transaction.
    pub max_batch: usize,
    /// Number of blocks before a bump.
    pub bump_after: u64,
    /// Lead of block timestamps over the relay's clock, seconds.
    pub skew_s: i64,
    /// True if forecasts decide the time of sending.
    pub has_forecast: bool,
    /// Bytes of payloads in memory from which on requests wait without; `None` for the default.
    pub payload_memory: Option<usize>,
    /// Largest lag of all nodes but one, ms; 0 for none.
    pub behind_ms: u64,
    /// True if nothing keeps requests from being sent: an executable request that expires has starved.
    pub is_strict: bool,
    /// True if the lanes' funder checks for money reverted by a reorg.
    pub watches_money: bool,
    /// Time between blocks, ms; 0 for the preset's.
    pub block_ms: u64,
    /// L1 data fee; `None` if there is none.
    pub data_fee: Option<DataFee>,
    /// True if random choices do not depend on the requests, so that the run can be compared with another one.
    pub is_paired: bool,
    /// Number of blocks by which a request may be executed later than in that other run.
    pub max_delay_blocks: u64,
    /// True if every accepted request of an honest tenant to an honest target must be finalized.
    pub must_land: bool,
    /// Events at set times, ms; in addition to the faults.
    pub timeline: Vec<(u64, Happening)>,
    /// Hostile elements.
    pub hostility: Hostility,
    /// Users who sign for the hostile tenant.
    pub hostile_users: Vec<LocalSigner>,
}

impl Plan {
    /// A world without faults.
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
            payments: 0,
            payers: Vec::new(),
            has_capped_calls: false,
            token_tells_domain: false,
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
            // Not drawn, so that no other choice depends on it.
            payload_memory: [None, Some(0), Some(2_000)][(mix(seed ^ 0x9a71) % 3) as usize],
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

    /// Price for the tenant with the budget, percent of cost.
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

    /// The callers' operations.
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
            let mut submission = if is_call {
                let any_sender = rng.permille(400) && to == GOOD;
                let call = Call { to, value: U256::ZERO, gas, data: op_data(op), any_sender, salt: String::new() };
                Submission::call(chain_id, call).within(Duration::from_millis(slack))
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
                let deadline = Timestamp((at + slack).min((deadline_s - 2) * 1_000));
                Submission::forward(chain_id, forward).deadline(deadline)
            };
            let has_limit = rng.permille(150) && !self.is_strict && !self.must_land;
            submission.max_cost_wei = has_limit
                .then(|| U256::from(self.base_fee + 2_500_000_000) * U256::from(rng.within(150_000, 3_000_000)));
            submission.idempotency_key = (is_call || rng.permille(600)).then(|| format!("key-{op}"));
            operations.push(Operation {
                op,
                tenant,
                item: submission,
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

/// An operation that a caller wants executed once.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) op: u64,
    pub(crate) tenant: &'static str,
    pub(crate) item: Submission,
    /// Time of its next submission.
    pub(crate) next_at: u64,
    /// Time after which it is not submitted any more.
    pub(crate) gives_up_at: u64,
    /// Number of concurrent submissions still to be made.
    pub(crate) tries: u32,
    pub(crate) withdraw_at: Option<u64>,
    /// Request ids in the answers.
    pub(crate) accepted: BTreeSet<RequestId>,
    /// Reason why it was refused or given up; `None` if neither.
    pub(crate) end: Option<String>,
    pub(crate) under_way: u32,
    /// True if the ledger that had accepted it was lost.
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
