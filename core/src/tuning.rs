//! Limits and pace of a chain: every field is a configuration key.

use std::time::Duration;

use crate::{
    chain::{ChainFamily, ChainSpec},
    forecast::{MAX_HORIZONS, MAX_STEPS},
    market::{BenchRule, BookConfig},
    request::Unsimulated,
    schedule::{RecordRule, timing::MAX_SLACK},
};

/// Least wait for a node's answer before a second node is asked.
pub(crate) const HEDGE_FLOOR: Duration = Duration::from_millis(50);
/// Most reads that are asked of a second node, percent of all.
pub(crate) const HEDGE_BUDGET_PERCENT: u32 = 10;
/// First pause of a rate-limited node.
pub(crate) const RATE_LIMIT_PAUSE: Duration = Duration::from_millis(500);

/// When a request goes out, with regard to the price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimingMode {
    /// When waiting is not expected to pay any more: forecast and policies learned online.
    #[default]
    Forecast,
    /// When the price ranks low among the recent ones, relaxing towards the deadline.
    Percentile,
    /// At once.
    Immediate,
}

impl TimingMode {
    /// Name in configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forecast => "forecast",
            Self::Percentile => "percentile",
            Self::Immediate => "immediate",
        }
    }
}

/// Limits and pace of one chain. Every field of its groups is a configuration key `chain.<name>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainTuning {
    /// Questions to nodes: their limits, and second askings.
    pub rpc: RpcTuning,
    /// Heads: pace of the looks at them, and greatest age.
    pub heads: HeadTuning,
    /// Size of transactions, and the wait for company.
    pub batch: BatchTuning,
    /// Transactions of one sender account that are outside blocks.
    pub lane: LaneTuning,
    /// Return of requests that a transaction left out, or that nodes refused.
    pub retry: RetryTuning,
    /// Records of targets (`suspect_ms`, `max_target_records`).
    pub targets: RecordRule,
    /// Offers per gas, and the reserve for the L1 data fee.
    pub fees: FeeTuning,
    /// Blocks that fees are learned from, and trust in their sources.
    pub market: MarketTuning,
    /// Timing of requests that can wait.
    pub timing: TimingTuning,
    /// Forecasts of the base fee, and their memory.
    pub forecast: ForecastTuning,
    /// Conditions of acceptance.
    pub admission: AdmissionTuning,
    /// Simulation of requests before they are sent.
    pub simulation: SimulationTuning,
}

/// Questions to nodes: their limits, and second askings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RpcTuning {
    /// Longest wait for one RPC answer (`rpc_timeout_ms`).
    pub rpc_timeout: Duration,
    /// A read that one node has not answered is not asked of a second one sooner (`hedge_floor_ms`); later where the node's
    /// answers usually take longer.
    pub hedge_floor: Duration,
    /// Most reads that are asked of a second node, percent of all, beyond ten at once (`hedge_budget_percent`). 0: none.
    pub hedge_budget_percent: u32,
    /// How long a node that says that it is asked too often is left alone at first (`rate_limit_pause_ms`); every further time in
    /// a row is twice as long, up to 60 times this.
    pub rate_limit_pause: Duration,
    /// Receipts that are asked for at a time (`max_receipt_polls`).
    pub max_receipt_polls: usize,
}

/// Heads: pace of the looks at them, and greatest age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadTuning {
    /// How often the head is polled (`poll_interval_ms`).
    pub poll_interval: Duration,
    /// How often the head is polled all the same while a subscription tells heads (`subscribed_poll_interval_ms`); not sooner
    /// than [`Self::poll_interval`].
    pub subscribed_poll_interval: Duration,
    /// Silence of the subscriptions after which the head is polled every [`Self::poll_interval`] again
    /// (`subscription_silence_ms`).
    pub subscription_silence: Duration,
    /// Age of the newest head from which on nothing is accepted, and the chain is unavailable (`max_head_age_ms`). Zero: none,
    /// for chains that make blocks on demand.
    pub max_head_age: Duration,
}

/// Size of transactions, and the wait for company.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchTuning {
    /// Most requests in one transaction (`max_batch`).
    pub max_batch: usize,
    /// Highest gas limit of one transaction (`max_batch_gas`).
    pub max_batch_gas: u64,
    /// Longest time that a request waits for company, from its acceptance (`linger_ms`).
    pub linger: Duration,
    /// What it costs to wait for company through all of a request's slack, percent of what it would cost alone
    /// (`waiting_cost_percent`). 0: waiting costs nothing and lasts [`Self::linger`].
    pub waiting_cost_percent: u32,
    /// Fixed cost of one forward request inside `executeBatch`, gas, beyond `request.gas` (`forward_overhead_gas`).
    pub forward_overhead_gas: u64,
}

/// Transactions of one sender account that are outside blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneTuning {
    /// Most transactions of one lane outside blocks (`max_in_flight`).
    pub max_in_flight: usize,
    /// Blocks without inclusion after which an attempt is replaced (`bump_after_blocks`).
    pub bump_after_blocks: u64,
    /// Blocks without inclusion after which the same bytes are sent again (`rebroadcast_after_blocks`).
    pub rebroadcast_after_blocks: u64,
    /// Most attempts for one nonce (`max_attempts`).
    pub max_attempts: u32,
    /// Most contents of one nonce that every node refused (`max_refused_plans`); then it is cancelled.
    pub max_refused_plans: u32,
    /// Gas of a transfer to oneself, for cancels; Arbitrum and ZK Stack need more than 21 000 (`cancel_gas`).
    pub cancel_gas: u64,
    /// Blocks that are read one by one at each head in search of the transaction that took a nonce, where nodes show no receipt
    /// and have no state that old (`spender_scan_blocks`).
    pub spender_scan_blocks: u64,
}

/// Return of requests that a transaction left out, or that nodes refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryTuning {
    /// Blocks that a transaction may be left out of although its price would do, while others wait behind it (`abandon_after_blocks`).
    pub abandon_after_blocks: u64,
    /// Blocks, its own included, that a transaction is deep before forwards that it left out enter another one
    /// (`replan_after_blocks`): the chain's usual reorganisations are shorter.
    pub replan_after_blocks: u64,
    /// Times that every node refuses a request's own transaction for its size before it ends (`max_refusals`).
    pub max_refusals: u32,
}

/// Offers per gas, and the reserve for the L1 data fee.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeeTuning {
    /// No attempt offers more per gas (`max_fee_ceiling_wei_per_gas`).
    pub max_fee_ceiling_wei_per_gas: u128,
    /// Wanted chance that a tip is enough for inclusion within [`Self::tip_within_blocks`], thousandths, 1 to 999
    /// (`tip_target_permille`).
    pub tip_target_permille: u32,
    /// Blocks within which a tip should be enough; fewer where the deadline is near (`tip_within_blocks`).
    pub tip_within_blocks: u32,
    /// No learned tip is higher, wei per gas (`tip_ceiling_wei_per_gas`). Replacements may need more.
    pub tip_ceiling_wei_per_gas: u128,
    /// How far the L1 data fee that is reserved lies above the current one, percent (`l1_fee_margin_percent`): it follows L1
    /// until inclusion, and no signature caps it.
    pub l1_fee_margin_percent: u32,
    /// Blocks of fee history that are read at start, and at most after an outage, 1 to 1 024 (`fee_history_blocks`).
    pub fee_history_blocks: u64,
}

/// Blocks that fees are learned from, and trust in their sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarketTuning {
    /// Blocks, and own offers, that a tip is learned from (`tip_window_blocks`).
    pub tip_window_blocks: usize,
    /// Blocks of fees that are kept in memory (`fee_window_blocks`).
    pub fee_window_blocks: usize,
    /// Blocks that a fee source may be behind the others before it loses trust (`source_max_lag_blocks`).
    pub source_max_lag_blocks: u64,
    /// Difference between a source's base fee and the believed one that is no fault, basis points
    /// (`source_tolerance_bps`).
    pub source_tolerance_bps: u32,
    /// First time on the bench of a fee source that lost trust (`source_bench_ms`); every further time is twice as long, up
    /// to 60 times this.
    pub source_bench: Duration,
}

/// Timing of requests that can wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimingTuning {
    /// When a request that can wait goes out (`timing`).
    pub mode: TimingMode,
    /// Smallest share of recent base fees that must be above the current one to send early, percent
    /// (`patience_percentile`); relaxes to 100 as the slack runs out.
    pub patience_percentile: u8,
    /// Guard time, that is slack below which price does not matter, until 100 inclusions were measured
    /// (`urgent_within_ms`).
    pub urgent_within: Duration,
    /// The guard time never falls below this (`guard_time_floor_ms`).
    pub guard_time_floor: Duration,
    /// The guard time never rises above this (`guard_time_ceiling_ms`).
    pub guard_time_ceiling: Duration,
}

/// Forecasts of the base fee, and their memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForecastTuning {
    /// Wanted chance that the base fee stays below the fee cap until the deadline, thousandths, 1 to 999
    /// (`cap_target_permille`). Where nothing is forecast, the cap survives six full blocks.
    pub cap_target_permille: u32,
    /// Blocks ahead for which the base fee is forecast (`forecast_blocks`).
    pub forecast_blocks: Vec<u32>,
    /// Times ahead for which the base fee is forecast (`forecast_times_ms`).
    pub forecast_times: Vec<Duration>,
    /// Slacks for which waiting is valued, ascending (`slack_classes_ms`); a request uses the class at or below its own.
    pub slack_classes: Vec<Duration>,
    /// Longest slack class, blocks (`max_slack_blocks`): memory and time grow with it.
    pub max_slack_blocks: u32,
    /// How often what was learned is written to the ledger (`learned_save_ms`).
    pub learned_save: Duration,
    /// Largest text of models, or of what was learned, that is kept in the ledger or imported (`learned_max_bytes`).
    pub learned_max_bytes: usize,
}

/// Conditions of acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionTuning {
    /// Shortest deadline that is accepted (`min_slack_ms`).
    pub min_slack: Duration,
    /// How far ahead of the signer's next nonce a request may be (`max_nonce_gap`).
    pub max_nonce_gap: u64,
    /// Longest wait for a first look at a new signer's nonce at admission (`nonce_lookup_ms`); afterwards it is
    /// accepted unseen and checked before it is sent.
    pub nonce_lookup: Duration,
    /// Most of a block's gas that one transaction may have, percent, 1 to 100 (`max_block_share_percent`): the rest is other
    /// people's, and the limit of blocks may be voted down.
    pub max_block_share_percent: u32,
    /// How far a request with a budget may exceed the price at acceptance, percent (`budget_headroom_percent`).
    pub budget_headroom_percent: u32,
}

/// Simulation of requests before they are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimulationTuning {
    /// Simulate every batch before it is sent (`simulate`).
    pub simulate: bool,
    /// Heads at which a request must fail in simulation before it is rejected (`max_simulations`); where there are several nodes,
    /// two must have said so.
    pub max_simulations: u32,
    /// Most batches that are simulated at one head (`simulations_per_head`), shared by the tenants' weights; `None`: twice what
    /// all lanes may have in flight. What comes beyond waits for the next head.
    pub simulations_per_head: Option<u32>,
    /// Least time between two failed simulations at the same node that together reject a request, where no second node can be
    /// asked (`reject_after_ms`).
    pub reject_after: Duration,
    /// What becomes of a request that no node can simulate until the last block that can take it (`unsimulated`).
    pub unsimulated: Unsimulated,
}

impl ChainTuning {
    /// Defaults that fit the chain's block time.
    pub fn for_spec(spec: &ChainSpec) -> Self {
        let block = spec.block_time();
        let (poll_interval, book) = (quarter(block), BookConfig::default());
        Self {
            rpc: RpcTuning {
                rpc_timeout: Duration::from_secs(10),
                hedge_floor: HEDGE_FLOOR,
                hedge_budget_percent: HEDGE_BUDGET_PERCENT,
                rate_limit_pause: RATE_LIMIT_PAUSE,
                max_receipt_polls: 8,
            },
            heads: HeadTuning {
                poll_interval,
                subscribed_poll_interval: Self::usual_subscribed_poll(poll_interval, block),
                subscription_silence: (block * 4).max(Duration::from_secs(1)),
                max_head_age: (block * 10).max(Duration::from_secs(15)),
            },
            batch: BatchTuning {
                max_batch: 100,
                max_batch_gas: spec.tx_gas_cap().unwrap_or(16_777_216).min(16_777_216),
                linger: block.clamp(Duration::from_millis(50), Duration::from_secs(2)),
                waiting_cost_percent: 100,
                forward_overhead_gas: 45_000,
            },
            lane: LaneTuning {
                max_in_flight: 16,
                bump_after_blocks: 3,
                rebroadcast_after_blocks: 2,
                max_attempts: 32,
                max_refused_plans: 32,
                cancel_gas: if spec.has_mempool { 21_000 } else { 1_000_000 },
                spender_scan_blocks: 128,
            },
            retry: RetryTuning {
                abandon_after_blocks: 12,
                replan_after_blocks: spec.replan_after_blocks,
                max_refusals: 3,
            },
            targets: RecordRule::default(),
            fees: FeeTuning {
                max_fee_ceiling_wei_per_gas: spec.max_fee_ceiling_wei_per_gas,
                tip_target_permille: 900,
                tip_within_blocks: 3,
                tip_ceiling_wei_per_gas: spec.tip_ceiling_wei_per_gas,
                l1_fee_margin_percent: 300,
                fee_history_blocks: 1_024,
            },
            market: MarketTuning {
                tip_window_blocks: 200,
                fee_window_blocks: book.window_blocks,
                source_max_lag_blocks: book.max_lag_blocks,
                source_tolerance_bps: book.tolerance_bps,
                source_bench: book.bench.first,
            },
            timing: TimingTuning {
                // A local node's base fee says nothing about any market.
                mode: if spec.family == ChainFamily::Anvil { TimingMode::Immediate } else { TimingMode::Forecast },
                patience_percentile: 40,
                urgent_within: block * 15,
                guard_time_floor: block * 2,
                guard_time_ceiling: (block * 60).max(Duration::from_secs(60)),
            },
            forecast: ForecastTuning {
                cap_target_permille: 990,
                forecast_blocks: BLOCK_HORIZONS.to_vec(),
                forecast_times: TIME_HORIZONS.into_iter().filter(|time| is_forecast(block, *time)).collect(),
                slack_classes: Self::usual_slacks(block, MAX_SLACK_BLOCKS),
                max_slack_blocks: MAX_SLACK_BLOCKS,
                learned_save: Duration::from_secs(5 * 60),
                learned_max_bytes: 16 << 20,
            },
            admission: AdmissionTuning {
                min_slack: block * 2 + Duration::from_millis(500),
                max_nonce_gap: 65_536,
                nonce_lookup: Duration::from_millis(250),
                max_block_share_percent: 75,
                budget_headroom_percent: 300,
            },
            simulation: SimulationTuning {
                simulate: true,
                max_simulations: 3,
                simulations_per_head: None,
                reject_after: Duration::from_secs(10),
                unsimulated: Unsimulated::Hold,
            },
        }
    }

    /// How often the head is polled while a subscription tells heads, unless told otherwise: a block time, or four intervals.
    pub fn usual_subscribed_poll(poll_interval: Duration, block: Duration) -> Duration {
        poll_interval.saturating_mul(4).max(block)
    }

    /// [`SimulationTuning::simulations_per_head`] for so many lanes.
    pub(crate) fn simulations_at_head(&self, lanes: usize) -> u32 {
        let usual = lanes.max(1).saturating_mul(self.lane.max_in_flight).saturating_mul(2);
        self.simulation.simulations_per_head.unwrap_or_else(|| u32::try_from(usual).unwrap_or(u32::MAX))
    }

    /// Slack classes from a minute to a day, as far as `longest` blocks reach; where they do not reach a day, the last class is
    /// that long.
    pub fn usual_slacks(block: Duration, longest: u32) -> Vec<Duration> {
        let reaches = |slack: &Duration| (1..=u128::from(longest)).contains(&blocks_in(block, *slack));
        let mut slacks: Vec<Duration> = SLACKS.into_iter().filter(reaches).collect();
        let last = block.saturating_mul(longest);
        if slacks.len() < SLACKS.len()
            && slacks.last().is_none_or(|slack| blocks_in(block, *slack) < u128::from(longest))
        {
            slacks.push(last);
        }
        slacks
    }

    /// Keys that are 0 and must not be.
    pub(crate) fn zeroes(&self) -> Vec<&'static str> {
        let positive: [(&str, u128); 21] = [
            ("poll_interval_ms", self.heads.poll_interval.as_millis()),
            ("subscribed_poll_interval_ms", self.heads.subscribed_poll_interval.as_millis()),
            ("subscription_silence_ms", self.heads.subscription_silence.as_millis()),
            ("hedge_floor_ms", self.rpc.hedge_floor.as_millis()),
            ("rate_limit_pause_ms", self.rpc.rate_limit_pause.as_millis()),
            ("rpc_timeout_ms", self.rpc.rpc_timeout.as_millis()),
            ("max_receipt_polls", self.rpc.max_receipt_polls as u128),
            ("spender_scan_blocks", u128::from(self.lane.spender_scan_blocks)),
            ("max_batch", self.batch.max_batch as u128),
            ("max_batch_gas", u128::from(self.batch.max_batch_gas)),
            ("max_in_flight", self.lane.max_in_flight as u128),
            ("bump_after_blocks", u128::from(self.lane.bump_after_blocks)),
            ("rebroadcast_after_blocks", u128::from(self.lane.rebroadcast_after_blocks)),
            ("replan_after_blocks", u128::from(self.retry.replan_after_blocks)),
            ("suspect_ms", self.targets.suspect.as_millis()),
            ("max_target_records", self.targets.max_records as u128),
            ("max_attempts", u128::from(self.lane.max_attempts)),
            ("max_refused_plans", u128::from(self.lane.max_refused_plans)),
            ("max_refusals", u128::from(self.retry.max_refusals)),
            ("simulations_per_head", self.simulation.simulations_per_head.map_or(1, u128::from)),
            ("max_block_share_percent", u128::from(self.admission.max_block_share_percent)),
        ];
        positive.into_iter().filter(|(_, value)| *value == 0).map(|(key, _)| key).collect()
    }

    /// What is wrong with the keys of pricing and forecasting on a chain with this time between blocks: key, and why.
    pub fn problems(&self, block: Duration) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut fail = |key, detail| problems.push((key, detail));
        let ms = |time: &Duration| time.as_millis();
        if self.timing.guard_time_floor > self.timing.guard_time_ceiling {
            let (floor, ceiling) = (ms(&self.timing.guard_time_floor), ms(&self.timing.guard_time_ceiling));
            fail("guard_time_floor_ms", format!("{floor} is above guard_time_ceiling_ms = {ceiling}"));
        }
        if self.timing.urgent_within > self.timing.guard_time_ceiling {
            let (urgent, ceiling) = (ms(&self.timing.urgent_within), ms(&self.timing.guard_time_ceiling));
            fail("urgent_within_ms", format!("{urgent} is above guard_time_ceiling_ms = {ceiling}"));
        }
        for (key, permille) in [
            ("tip_target_permille", self.fees.tip_target_permille),
            ("cap_target_permille", self.forecast.cap_target_permille),
        ] {
            if !(1..=999).contains(&permille) {
                fail(key, format!("{permille} is not between 1 and 999"));
            }
        }
        if self.admission.max_block_share_percent > 100 {
            fail("max_block_share_percent", format!("{} is above 100", self.admission.max_block_share_percent));
        }
        if self.fees.tip_within_blocks == 0 {
            fail("tip_within_blocks", "must be above 0".to_owned());
        }
        if self.market.tip_window_blocks == 0 {
            fail("tip_window_blocks", "must be above 0".to_owned());
        }
        if self.forecast.forecast_blocks.iter().any(|blocks| !(1..=MAX_STEPS).contains(blocks)) {
            fail(
                "forecast_blocks",
                format!("{:?}: each must be 1 to {MAX_STEPS} blocks", self.forecast.forecast_blocks),
            );
        }
        if let Some(time) = self.forecast.forecast_times.iter().find(|time| !is_forecast(block, **time)) {
            let blocks = blocks_in(block, *time);
            fail("forecast_times_ms", format!("{} ms are {blocks} blocks, must be 1 to {MAX_STEPS}", ms(time)));
        }
        let horizons = self.forecast_steps(block).len();
        if !(1..=MAX_HORIZONS).contains(&horizons) {
            fail("forecast_blocks", format!("{horizons} horizons with forecast_times_ms, must be 1 to {MAX_HORIZONS}"));
        }
        let longest = u128::from(self.forecast.max_slack_blocks);
        if let Some(slack) =
            self.forecast.slack_classes.iter().find(|slack| !(1..=longest).contains(&blocks_in(block, **slack)))
        {
            let blocks = blocks_in(block, *slack);
            fail(
                "slack_classes_ms",
                format!("{} ms are {blocks} blocks, must be 1 to {longest} (`max_slack_blocks`)", ms(slack)),
            );
        }
        if self.forecast.slack_classes.is_empty()
            || !self.forecast.slack_classes.is_sorted_by(|a, b| blocks_in(block, *a) < blocks_in(block, *b))
        {
            fail("slack_classes_ms", "there must be classes, ascending by at least a block".to_owned());
        }
        if !(1..=MAX_SLACK).contains(&self.forecast.max_slack_blocks) {
            fail("max_slack_blocks", format!("{} is not between 1 and {MAX_SLACK}", self.forecast.max_slack_blocks));
        }
        problems
    }

    /// What is wrong with [`HeadTuning::subscribed_poll_interval`].
    pub fn pace_problem(&self) -> Option<String> {
        let (subscribed, usual) =
            (self.heads.subscribed_poll_interval.as_millis(), self.heads.poll_interval.as_millis());
        (subscribed < usual).then(|| format!("{subscribed} is below poll_interval_ms = {usual}"))
    }

    /// All horizons in blocks, ascending.
    pub fn forecast_steps(&self, block: Duration) -> Vec<u32> {
        let of_time = |time: &Duration| u32::try_from(blocks_in(block, *time)).unwrap_or(u32::MAX);
        let mut steps: Vec<u32> = self
            .forecast
            .forecast_blocks
            .iter()
            .copied()
            .chain(self.forecast.forecast_times.iter().map(of_time))
            .collect();
        steps.sort_unstable();
        steps.dedup();
        steps
    }

    /// The slack classes in blocks, ascending.
    pub fn slack_steps(&self, block: Duration) -> Vec<u32> {
        self.forecast
            .slack_classes
            .iter()
            .map(|slack| u32::try_from(blocks_in(block, *slack)).unwrap_or(u32::MAX))
            .collect()
    }
}

impl HeadTuning {
    /// How long a node gets to learn of a block that others know.
    pub(crate) fn patience(&self, block: Duration) -> Duration {
        self.poll_interval.min(quarter(block))
    }
}

/// Longest time on the bench, in times of the first.
const LONGEST_BENCH: u32 = 60;

impl MarketTuning {
    /// The rules by which sources are believed.
    pub(crate) fn book(&self) -> BookConfig {
        let defaults = BookConfig::default();
        let longest = self.source_bench.saturating_mul(LONGEST_BENCH);
        BookConfig {
            window_blocks: self.fee_window_blocks,
            max_lag_blocks: self.source_max_lag_blocks,
            tolerance_bps: self.source_tolerance_bps,
            bench: BenchRule { first: self.source_bench, longest, ..defaults.bench },
            ..defaults
        }
    }
}

/// A quarter of the time between blocks, within reason.
fn quarter(block: Duration) -> Duration {
    (block / 4).clamp(Duration::from_millis(100), Duration::from_secs(2))
}

/// Blocks ahead that every chain is forecast for unless told otherwise.
const BLOCK_HORIZONS: [u32; 7] = [1, 2, 5, 10, 25, 50, 150];

/// Times ahead that every chain is forecast for unless told otherwise, where they are not too many blocks.
const TIME_HORIZONS: [Duration; 3] =
    [Duration::from_secs(60), Duration::from_secs(5 * 60), Duration::from_secs(30 * 60)];

/// Slacks for which waiting is valued unless told otherwise.
const SLACKS: [Duration; 8] = [
    Duration::from_secs(60),
    Duration::from_secs(2 * 60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(10 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 3_600),
    Duration::from_secs(12 * 3_600),
    Duration::from_secs(24 * 3_600),
];

/// Longest slack class unless told otherwise, blocks.
const MAX_SLACK_BLOCKS: u32 = 7_200;

const fn blocks_in(block: Duration, time: Duration) -> u128 {
    let block = block.as_millis();
    time.as_millis() / if block == 0 { 1 } else { block }
}

/// Whether `time` ahead is a number of blocks that can be forecast.
fn is_forecast(block: Duration, time: Duration) -> bool {
    (1..=u128::from(MAX_STEPS)).contains(&blocks_in(block, time))
}
