//! Limits and pace of a chain: every field is a configuration key.

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use crate::tuning::{BatchTuning, FeeTuning, LaneTuning};
use crate::{
    chain::{ChainFamily, ChainSpec},
    forecast::{MAX_HORIZONS, MAX_STEPS},
    market::{BenchRule, BookConfig},
    request::Unsimulated,
    schedule::{RecordRule, timing::MAX_SLACK},
    tuning::{Group, Key, OutOfRange, choice, keys},
};

/// Default least wait for a node's answer before a second node is asked.
pub const HEDGE_FLOOR: Duration = Duration::from_millis(50);
/// Default most reads that are asked of a second node, percent of all.
pub const HEDGE_BUDGET_PERCENT: u32 = 10;
/// Default first pause of a rate-limited node.
pub const RATE_LIMIT_PAUSE: Duration = Duration::from_millis(500);

/// Timing of requests, with regard to the price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimingMode {
    /// Sent when waiting is not expected to pay any more: forecast and policies learned online.
    #[default]
    Forecast,
    /// Sent when the price ranks low among the recent ones, relaxing towards the deadline.
    Percentile,
    /// Sent at once.
    Immediate,
}

choice!(TimingMode: Forecast "forecast", Percentile "percentile", Immediate "immediate");

/// Limits and pace of one chain, in groups. Every field of a group is a configuration key `chain.<key>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainTuning {
    /// Questions to nodes.
    #[serde(flatten)]
    pub rpc: RpcTuning,
    /// Looks at heads.
    #[serde(flatten)]
    pub heads: HeadTuning,
    /// Size of transactions.
    #[serde(flatten)]
    pub batch: BatchTuning,
    /// Transactions outside blocks.
    #[serde(flatten)]
    pub lane: LaneTuning,
    /// Return of requests.
    #[serde(flatten)]
    pub retry: RetryTuning,
    /// Suspicion of targets.
    #[serde(flatten)]
    pub targets: RecordRule,
    /// Offers per gas.
    #[serde(flatten)]
    pub fees: FeeTuning,
    /// Trust in fee sources.
    #[serde(flatten)]
    pub market: MarketTuning,
    /// Timing of requests that can wait.
    #[serde(flatten)]
    pub timing: TimingTuning,
    /// Forecasts.
    #[serde(flatten)]
    pub forecast: ForecastTuning,
    /// Conditions of acceptance.
    #[serde(flatten)]
    pub admission: AdmissionTuning,
    /// Simulation of requests.
    #[serde(flatten)]
    pub simulation: SimulationTuning,
    /// Waiting requests.
    #[serde(flatten)]
    pub queue: QueueTuning,
}

keys! {
    /// Questions to nodes: their limits, and second askings.
    #[derive(Copy)]
    #[non_exhaustive]
    pub struct RpcTuning;

    /// Longest wait for one RPC answer.
    rpc_timeout "rpc_timeout_ms": Duration [100..=600_000] = Duration::from_secs(10);
    /// Least wait for one node's answer to a read before a second one is asked; later where this node's answers usually take
    /// longer (mean plus four deviations of what was measured).
    hedge_floor "hedge_floor_ms": Duration [1..=600_000] = HEDGE_FLOOR;
    /// Most reads that are asked of a second node too, percent of all, beyond ten at once; 0 is none.
    hedge_budget_percent: u32 [0..=100] = HEDGE_BUDGET_PERCENT;
    /// First pause for a node that says that it is asked too often; twice as long every further time in a row,
    /// up to 60 times this. If it names a longer time itself (`Retry-After`), that counts, up to ten minutes. Transactions
    /// are sent to it all the same.
    rate_limit_pause "rate_limit_pause_ms": Duration [10..=600_000] = RATE_LIMIT_PAUSE;
    /// Receipts that are asked for at a time: where many transactions become final at once, a node's quota must hold.
    max_receipt_polls: usize [1..=1_000] = 8;
    /// Blocks of one question for events (`eth_getLogs`). Many providers refuse more.
    log_blocks: u64 [1..=1_000_000] = 2_000;
    /// Questions for the event of one payment, newest blocks first, before it counts as not made: somebody else may have made
    /// it long before it came here.
    max_log_questions: u64 [1..=10_000] = 5;
}

keys! {
    /// Heads: pace of the looks at them, and greatest age.
    #[derive(Copy)]
    #[non_exhaustive]
    pub struct HeadTuning = for_spec(spec: &ChainSpec);

    /// Time between polls of the head.
    poll_interval "poll_interval_ms": Duration [10..=600_000]
        = quarter(spec.block_time()) => "a quarter of the block time, 100 to 2000";
    /// Time between polls of the head while a subscription (`rpc.ws_url`) tells heads; at least `poll_interval_ms`.
    subscribed_poll_interval "subscribed_poll_interval_ms": Duration [10..=3_600_000]
        = Duration::ZERO => "the block time, at least 4 times `poll_interval_ms`";
    /// Silence of all subscriptions after which the head is polled every `poll_interval_ms` again. A subscription that is
    /// silent for 8 times this, and for 30 s, is made anew.
    subscription_silence "subscription_silence_ms": Duration [100..=3_600_000]
        = (spec.block_time() * 4).max(Duration::from_secs(1)) => "4 block times, at least 1000";
    /// Age of the newest block from which on the chain is `unavailable` and nothing is accepted (`chain_unavailable`): its
    /// prices are too old. 0: none, for chains that make blocks on demand only.
    max_head_age "max_head_age_ms": Duration [0..=86_400_000]
        = (spec.block_time() * 10).max(Duration::from_secs(15)) => "10 block times, at least 15000";
}

keys! {
    /// Return of requests that a transaction left out, or that nodes refused.
    #[derive(Copy)]
    #[non_exhaustive]
    pub struct RetryTuning = for_spec(spec: &ChainSpec);

    /// Blocks for which a lane's oldest transaction may stay out of blocks although its price would do, while others wait behind it: then
    /// it is replaced by a cancel, and its requests go on in half the company; at least as many as come in 12 seconds. For as many
    /// blocks more its tenant goes after all others. A request that was alone in `max_refusals` such transactions ends `rejected`. 0
    /// for never.
    abandon_after_blocks: u64 [0..=100_000] = 12;
    /// Blocks that a transaction is deep, its own included, before forwards that it skipped, or that a cancel left out, enter
    /// another one. The chain's usual reorganisations are shorter.
    replan_after_blocks: u64 [1..=100_000] = spec.replan_after_blocks
        => "the preset's: 2 on Ethereum and most rollups, 4 on Polygon and Arbitrum; else 3";
    /// Times that every node refuses a request's own transaction because of its size before the request ends `rejected`. A
    /// node may be wrong once.
    max_refusals: u32 [1..=10_000] = 3;
    /// Answers that leave open what used a payment's nonce, one per head, before the payment ends `rejected`: as not made.
    max_unclear_payment_answers: u32 [1..=100_000] = 64;
}

keys! {
    /// Blocks that fees are learned from, and trust in their sources.
    #[derive(Copy)]
    #[non_exhaustive]
    pub struct MarketTuning;

    /// Blocks, and transactions of our own, that the tip is learned from.
    tip_window_blocks: usize [1..=100_000] = 200;
    /// Blocks of fees that are kept in memory.
    fee_window_blocks: usize [64..=1_000_000] = BookConfig::default().window_blocks;
    /// Blocks that a fee source may be behind the others before it loses trust.
    source_max_lag_blocks: u64 [0..=10_000] = BookConfig::default().max_lag_blocks;
    /// Difference between a source's base fee and the believed one that is no fault, basis points.
    source_tolerance_bps: u32 [0..=10_000] = BookConfig::default().tolerance_bps;
    /// First time for which a fee source that lost trust is not believed; every further one is twice as long, up to 60 times
    /// this.
    source_bench "source_bench_ms": Duration [1_000..=86_400_000] = BookConfig::default().bench.first;
}

keys! {
    /// Timing of requests that can wait.
    #[derive(Copy)]
    #[non_exhaustive]
    pub struct TimingTuning = for_spec(spec: &ChainSpec);

    /// Timing of requests that can wait: `forecast` (until waiting is not expected to pay any more), `percentile` (until
    /// the price ranks low among the recent ones) or `immediate`.
    mode "timing": TimingMode = usual_timing(spec) => "forecast; immediate on anvil";
    /// Share of recent base fees that must be above the current one to send early, percent; relaxes as time runs out.
    patience_percentile: u8 [0..=100] = 40;
    /// Time to the deadline below which price does not matter, until 100 inclusions were measured: from then on the measured
    /// guard time counts. It is never less than the blocks that one bump needs.
    urgent_within "urgent_within_ms": Duration [0..=86_400_000] = spec.block_time() * 15 => "15 block times";
    /// Least guard time (time to the deadline below which price does not matter, learned from how long our transactions take
    /// to be included).
    guard_time_floor "guard_time_floor_ms": Duration [0..=86_400_000] = spec.block_time() * 2 => "2 block times";
    /// Longest guard time, as `guard_time_floor_ms` defines it.
    guard_time_ceiling "guard_time_ceiling_ms": Duration [0..=86_400_000]
        = (spec.block_time() * 60).max(Duration::from_secs(60)) => "60 block times, at least 60000 and `urgent_within_ms`";
}

keys! {
    /// Forecasts of the base fee, and their memory.
    #[non_exhaustive]
    pub struct ForecastTuning = for_spec(spec: &ChainSpec);

    /// Wanted chance that the base fee stays below the fee cap until the deadline (or as far as is forecast), thousandths.
    /// Without a forecast the cap survives six full blocks.
    cap_target_permille: u32 [1..=999] = 990;
    /// Blocks ahead for which the base fee is forecast, each 1 to 1000.
    forecast_blocks: Vec<u32> [1..=u64::from(MAX_STEPS)] = vec![1, 2, 5, 10, 25, 50, 150];
    /// Times ahead for which the base fee is forecast, ms. With `forecast_blocks` at most 64 horizons.
    forecast_times "forecast_times_ms": Vec<Duration> = usual_times(spec.block_time())
        => "[60000, 300000, 1800000], where that is not too many blocks";
    /// Slacks for which waiting is valued, ascending, ms; a request uses the class at or below its own slack.
    slack_classes "slack_classes_ms": Vec<Duration> = Vec::new()
        => "1, 2, 5, 10, 30 minutes, 2, 12, 24 hours, up to `max_slack_blocks`";
    /// Longest slack class, blocks. Memory and time for timing grow with it.
    max_slack_blocks: u32 [1..=u64::from(MAX_SLACK)] = 7_200;
    /// Time after which what was learned about prices is written to the ledger again, for the next start.
    learned_save "learned_save_ms": Duration [1_000..=86_400_000] = Duration::from_secs(5 * 60);
    /// Largest text of models, or of what was learned, that is kept in the ledger or imported. A larger one is not kept,
    /// with a warning.
    learned_max_bytes: usize [65_536..=268_435_456] = 16 << 20;
}

keys! {
    /// Conditions of acceptance.
    #[derive(Copy)]
    #[non_exhaustive]
    pub struct AdmissionTuning = for_spec(spec: &ChainSpec);

    /// Shortest deadline that is accepted.
    min_slack "min_slack_ms" was "guard_ms": Duration [0..=3_600_000]
        = spec.block_time() * 2 + Duration::from_millis(500) => "2 block times + 500";
    /// Most nonces that a request may be ahead of the signer's next one.
    max_nonce_gap: u64 [0..=1_000_000] = 65_536;
    /// Longest wait for a first look at a new signer's nonce at acceptance; afterwards it is accepted unseen and
    /// checked before it is sent.
    nonce_lookup "nonce_lookup_ms": Duration [0..=60_000] = Duration::from_millis(250);
    /// Most of a block's gas that one transaction may have, percent. A request that needs more is refused
    /// (`gas_out_of_range`).
    max_block_share_percent: u32 [1..=100] = 75;
    /// Margin of the worst case that is reserved above the price at acceptance, percent.
    budget_headroom_percent: u32 [0..=100_000] = 300;
}

keys! {
    /// Waiting requests.
    #[derive(Copy)]
    #[non_exhaustive]
    pub struct QueueTuning;

    /// Memory for the payloads (calldata and signatures) of requests that are not in a block. Beyond it, those that begin to wait
    /// leave theirs in the ledger, from where it is read when they are to be sent.
    payload_memory_bytes: usize [0..] = 64 << 20;
}

keys! {
    /// Simulation of requests before they are sent.
    #[derive(Copy)]
    #[non_exhaustive]
    pub struct SimulationTuning;

    /// Simulate every batch before it is sent. Without it, a request that reverts is paid for.
    simulate: bool = true;
    /// Heads at which a request must fail in simulation before it is rejected. Where there are several endpoints, two of them must
    /// have said so, or the same one at two heads `reject_after_ms` apart.
    max_simulations: u32 [1..=1_000] = 3;
    /// Most batches that are simulated at one head; 0 is twice the `max_in_flight` of all lanes. Each tenant has a share by its
    /// weight, and what others do not need goes round; what comes beyond waits for the next head.
    simulations_per_head: Option<u32> [0..=1_000_000] = None;
    /// Time between two failed simulations at the same node that together reject a request, where no second node can be asked.
    reject_after "reject_after_ms": Duration [0..=3_600_000] = Duration::from_secs(10);
    /// End of a request that no node can simulate. It waits until the next block is the last that can take it; then
    /// `hold` ends it (`rejected: not_simulated`), and `send` sends it alone, whatever it does being paid for.
    unsimulated: Unsimulated = Unsimulated::Hold;
}

impl ChainTuning {
    /// Defaults that fit the chain's block time.
    pub fn for_spec(spec: &ChainSpec) -> Self {
        let mut tuning = Self {
            rpc: RpcTuning::default(),
            heads: HeadTuning::for_spec(spec),
            batch: BatchTuning::for_spec(spec),
            lane: LaneTuning::for_spec(spec),
            retry: RetryTuning::for_spec(spec),
            targets: RecordRule::default(),
            fees: FeeTuning::for_spec(spec),
            market: MarketTuning::default(),
            timing: TimingTuning::for_spec(spec),
            forecast: ForecastTuning::for_spec(spec),
            admission: AdmissionTuning::for_spec(spec),
            simulation: SimulationTuning::default(),
            queue: QueueTuning::default(),
        };
        tuning.fill(spec.block_time(), |_| false);
        tuning
    }

    /// Sets what follows from other keys, unless it was given itself.
    pub fn fill(&mut self, block: Duration, is_given: impl Fn(&str) -> bool) {
        let Self { heads, timing, forecast, .. } = self;
        if !is_given("subscribed_poll_interval_ms") {
            heads.subscribed_poll_interval = heads.poll_interval.saturating_mul(4).max(block);
        }
        if !is_given("guard_time_ceiling_ms") {
            timing.guard_time_ceiling = timing.guard_time_ceiling.max(timing.urgent_within);
        }
        if !is_given("slack_classes_ms") {
            forecast.slack_classes = usual_slacks(block, forecast.max_slack_blocks);
        }
    }

    /// [`SimulationTuning::simulations_per_head`] for so many lanes.
    pub fn simulations_at_head(&self, lanes: usize) -> u32 {
        let usual = lanes.max(1).saturating_mul(self.lane.max_in_flight).saturating_mul(2);
        self.simulation.simulations_per_head.unwrap_or_else(|| u32::try_from(usual).unwrap_or(u32::MAX))
    }

    /// Faults of the keys on a chain with this time between blocks: key, and detail.
    pub fn problems(&self, block: Duration) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        self.check(&mut |key, n, range| problems.push((key, format!("{n} is not {range}"))));
        let mut fail = |key, detail| problems.push((key, detail));
        let ms = |time: &Duration| time.as_millis();
        let (timing, forecast) = (&self.timing, &self.forecast);
        let ceiling = ms(&timing.guard_time_ceiling);
        for (key, time) in
            [("guard_time_floor_ms", ms(&timing.guard_time_floor)), ("urgent_within_ms", ms(&timing.urgent_within))]
        {
            if time > ceiling {
                fail(key, format!("{time} is above guard_time_ceiling_ms = {ceiling}"));
            }
        }
        if let Some(time) = forecast.forecast_times.iter().find(|time| !is_forecast(block, **time)) {
            let blocks = blocks_in(block, *time);
            fail("forecast_times_ms", format!("{} ms are {blocks} blocks, must be 1 to {MAX_STEPS}", ms(time)));
        }
        let horizons = self.forecast_steps(block).len();
        if !(1..=MAX_HORIZONS).contains(&horizons) {
            fail("forecast_blocks", format!("{horizons} horizons with forecast_times_ms, must be 1 to {MAX_HORIZONS}"));
        }
        let longest = u128::from(forecast.max_slack_blocks);
        if let Some(slack) =
            forecast.slack_classes.iter().find(|slack| !(1..=longest).contains(&blocks_in(block, **slack)))
        {
            let blocks = blocks_in(block, *slack);
            let detail = format!("{} ms are {blocks} blocks, must be 1 to {longest} (`max_slack_blocks`)", ms(slack));
            fail("slack_classes_ms", detail);
        }
        if forecast.slack_classes.is_empty()
            || !forecast.slack_classes.is_sorted_by(|a, b| blocks_in(block, *a) < blocks_in(block, *b))
        {
            fail("slack_classes_ms", "there must be classes, ascending by at least a block".to_owned());
        }
        problems
    }

    /// Fault of [`HeadTuning::subscribed_poll_interval`].
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

impl Group for ChainTuning {
    fn keys() -> Vec<Key> {
        [
            RpcTuning::keys(),
            HeadTuning::keys(),
            BatchTuning::keys(),
            LaneTuning::keys(),
            RetryTuning::keys(),
            RecordRule::keys(),
            FeeTuning::keys(),
            MarketTuning::keys(),
            TimingTuning::keys(),
            ForecastTuning::keys(),
            AdmissionTuning::keys(),
            SimulationTuning::keys(),
            QueueTuning::keys(),
        ]
        .concat()
    }

    fn take(&mut self, other: Self) {
        *self = other;
    }

    fn check(&self, fail: &mut OutOfRange<'_>) {
        self.rpc.check(fail);
        self.heads.check(fail);
        self.batch.check(fail);
        self.lane.check(fail);
        self.retry.check(fail);
        self.targets.check(fail);
        self.fees.check(fail);
        self.market.check(fail);
        self.timing.check(fail);
        self.forecast.check(fail);
        self.admission.check(fail);
        self.simulation.check(fail);
        self.queue.check(fail);
    }
}

impl HeadTuning {
    /// How long a node gets to learn of a block that others know.
    pub fn patience(&self, block: Duration) -> Duration {
        self.poll_interval.min(quarter(block))
    }
}

/// Longest time on the bench, in times of the first.
const LONGEST_BENCH: u32 = 60;

impl MarketTuning {
    /// The rules by which sources are believed.
    pub fn book(&self) -> BookConfig {
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

/// A local node's base fee says nothing about any market.
fn usual_timing(spec: &ChainSpec) -> TimingMode {
    if spec.family == ChainFamily::Anvil { TimingMode::Immediate } else { TimingMode::Forecast }
}

/// Times ahead that every chain is forecast for unless told otherwise, where they are not too many blocks.
fn usual_times(block: Duration) -> Vec<Duration> {
    [60, 5 * 60, 30 * 60].map(Duration::from_secs).into_iter().filter(|time| is_forecast(block, *time)).collect()
}

/// Slack classes from a minute to a day, as far as `longest` blocks reach; where they do not reach a day, the last class is
/// that long.
fn usual_slacks(block: Duration, longest: u32) -> Vec<Duration> {
    let reaches = |slack: &Duration| (1..=u128::from(longest)).contains(&blocks_in(block, *slack));
    let mut slacks: Vec<Duration> = SLACKS.into_iter().filter(reaches).collect();
    let last = block.saturating_mul(longest);
    if slacks.len() < SLACKS.len() && slacks.last().is_none_or(|slack| blocks_in(block, *slack) < u128::from(longest)) {
        slacks.push(last);
    }
    slacks
}

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

const fn blocks_in(block: Duration, time: Duration) -> u128 {
    let block = block.as_millis();
    time.as_millis() / if block == 0 { 1 } else { block }
}

/// Whether `time` ahead is a number of blocks that can be forecast.
fn is_forecast(block: Duration, time: Duration) -> bool {
    (1..=u128::from(MAX_STEPS)).contains(&blocks_in(block, time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "presets")]
    #[test]
    fn the_defaults_of_every_preset_are_in_their_ranges_and_come_back_from_toml() {
        for name in crate::chain::preset_names() {
            let spec = ChainSpec::preset(name).unwrap();
            let tuning = ChainTuning::for_spec(&spec);
            assert_eq!(tuning.problems(spec.block_time()), [], "{name}");
            assert_eq!(tuning.pace_problem(), None, "{name}");
            let table = serde_json::to_value(&tuning).unwrap();
            assert_eq!(serde_json::from_value::<ChainTuning>(table.clone()).unwrap(), tuning);
            let written: std::collections::BTreeSet<_> = table.as_object().unwrap().keys().cloned().collect();
            let told: std::collections::BTreeSet<_> =
                ChainTuning::keys().iter().map(|key| key.name.to_owned()).collect();
            assert_eq!(written, told, "every key once, and no other");
        }
    }

    #[test]
    fn a_default_that_depends_on_nothing_is_told_as_it_is() {
        let told = |name: &str| ChainTuning::keys().into_iter().find(|key| key.name == name).unwrap().default;
        assert_eq!(told("max_batch"), "100");
        assert_eq!(told("rpc_timeout_ms"), "10000");
        assert_eq!(told("unsimulated"), "\"hold\"");
        assert_eq!(told("forecast_blocks"), "[1, 2, 5, 10, 25, 50, 150]");
        assert_eq!(told("linger_ms"), "the block time, 50 to 2000");
    }

    #[test]
    fn what_is_out_of_range_or_contradicts_is_told_by_key() {
        let spec = ChainSpec::preset("ethereum").unwrap();
        let keys = |change: fn(&mut ChainTuning)| {
            let mut tuning = ChainTuning::for_spec(&spec);
            change(&mut tuning);
            tuning.problems(spec.block_time()).into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(keys(|tuning| tuning.batch.max_batch = 0), ["max_batch"]);
        assert_eq!(keys(|tuning| tuning.lane.cancel_gas = 20_999), ["cancel_gas"]);
        assert_eq!(keys(|tuning| tuning.timing.patience_percentile = 101), ["patience_percentile"]);
        assert_eq!(keys(|tuning| tuning.forecast.forecast_blocks.push(1_001)), ["forecast_blocks"]);
        assert_eq!(keys(|tuning| tuning.forecast.forecast_blocks = (1..=64).collect()), ["forecast_blocks"]);
        assert_eq!(keys(|tuning| tuning.forecast.forecast_times.push(Duration::ZERO)), ["forecast_times_ms"]);
        assert_eq!(keys(|tuning| tuning.forecast.slack_classes.clear()), ["slack_classes_ms"]);
        assert_eq!(keys(|tuning| tuning.forecast.max_slack_blocks = 10), ["slack_classes_ms"]);
        assert_eq!(keys(|tuning| tuning.timing.urgent_within = Duration::from_secs(721)), ["urgent_within_ms"]);
        assert_eq!(keys(|tuning| tuning.timing.guard_time_floor = Duration::from_secs(721)), ["guard_time_floor_ms"]);
    }

    #[test]
    fn what_follows_from_other_keys_does_unless_it_was_given() {
        let spec = ChainSpec::preset("ethereum").unwrap();
        let mut tuning = ChainTuning::for_spec(&spec);
        assert_eq!(tuning.heads.subscribed_poll_interval, Duration::from_secs(12));
        tuning.heads.poll_interval = Duration::from_secs(5);
        tuning.timing.urgent_within = Duration::from_secs(900);
        tuning.forecast.max_slack_blocks = 10;
        tuning.fill(spec.block_time(), |key| key == "guard_time_ceiling_ms");
        assert_eq!(tuning.heads.subscribed_poll_interval, Duration::from_secs(20));
        assert_eq!(tuning.timing.guard_time_ceiling, Duration::from_secs(720));
        assert_eq!(tuning.forecast.slack_classes, [Duration::from_secs(60), Duration::from_secs(120)]);
        tuning.fill(spec.block_time(), |_| false);
        assert_eq!(tuning.timing.guard_time_ceiling, Duration::from_secs(900));
    }
}
