//! What runs: chains, lanes, forecasts, sources.

use std::{collections::BTreeMap, time::Duration};

use alloy_primitives::{B256, U256};
use serde::{Deserialize, Serialize};
use slackwater::{
    market::Standing,
    relay::{ChainHealth, ChainStatus, EndpointStatus, FeeSource, ForecastView, LaneStatus, ModelInfo},
    request::Status,
};
use utoipa::ToSchema;

use super::story::FeesView;
use crate::scalar::{Account, Uint};

/// A forwarder that is served.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Forwarder)]
pub struct ForwarderView {
    /// The contract.
    address: Account,
    /// `name` of its EIP-712 domain; the version is `1`.
    name: String,
}

/// An RPC endpoint. Operators only.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Endpoint)]
pub struct EndpointView {
    /// Configured name.
    name: String,
    /// Usable now.
    healthy: bool,
    /// Newest block that it told.
    head: Option<u64>,
    /// How that stands to the other endpoints' heads: `with_the_others`, `behind`, `frozen` or `ahead`; in the last three cases
    /// it is asked last.
    place: String,
    /// Simulations of it that a receipt contradicted.
    false_simulations: u64,
    /// Calls made.
    calls: u64,
    /// Calls that failed.
    failures: u64,
    /// Moving average of the answer time.
    latency_ms: u64,
    /// Last error.
    last_error: Option<String>,
    /// Its subscription to heads is up; `null` without `ws_url`.
    subscribed: Option<bool>,
}

impl From<EndpointStatus> for EndpointView {
    fn from(status: EndpointStatus) -> Self {
        Self {
            name: status.name,
            healthy: status.is_healthy,
            head: status.head,
            place: status.place,
            false_simulations: status.false_simulations,
            calls: status.calls,
            failures: status.failures,
            latency_ms: status.latency_ms,
            last_error: status.last_error,
            subscribed: status.is_subscribed,
        }
    }
}

/// A chain that is served.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Chain)]
pub struct ChainView {
    /// EIP-155 chain id.
    chain_id: u64,
    /// Name of the preset, or the configured one.
    name: String,
    /// `starting`, `healthy`, `impaired` or `unavailable`.
    #[schema(value_type = String)]
    health: ChainHealth,
    /// Why it is not healthy.
    detail: Option<String>,
    /// Head block number.
    head: Option<u64>,
    /// Head block timestamp, Unix seconds.
    head_timestamp_s: Option<u64>,
    /// Newest block that counts as final.
    final_block: Option<u64>,
    /// Base fee of the next block.
    next_base_fee_wei_per_gas: Option<Uint>,
    /// What a transaction would offer now.
    fees: Option<FeesView>,
    /// Requests that wait.
    queued: u64,
    /// Requests in transactions that are not final.
    in_flight: u64,
    /// Shortest deadline that is accepted.
    guard_ms: u64,
    /// Time before a deadline at which a request is sent whatever the price: learned from how long transactions take.
    guard_time_ms: u64,
    /// Inclusions whose delay was measured; the last 10 000 count.
    inclusions_measured: u64,
    /// Forwarders that are served.
    forwarders: Vec<ForwarderView>,
    /// Since when too few endpoints tell what is final, Unix ms: nothing becomes final meanwhile. `null` if enough do.
    finality_stalled_since_ms: Option<u64>,
    /// What the operator should know of the configuration: what one or two endpoints cost, for instance. For operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    warnings: Option<Vec<String>>,
    /// RPC endpoints; for operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoints: Option<Vec<EndpointView>>,
}

impl ChainView {
    /// `status` as an operator or another tenant may see it.
    pub fn new(status: ChainStatus, is_operator: bool) -> Self {
        // An endpoint's error names it.
        let is_telling = |detail: &String| status.endpoints.iter().any(|endpoint| detail.contains(&endpoint.name));
        let detail = status.detail.filter(|detail| is_operator || !is_telling(detail));
        let forwarders = status
            .forwarders
            .into_iter()
            .zip(status.forwarder_names)
            .map(|(address, name)| ForwarderView { address: Account(address), name })
            .collect();
        Self {
            chain_id: status.chain_id,
            name: status.name,
            health: status.health,
            detail,
            head: status.head,
            head_timestamp_s: status.head_timestamp_s,
            final_block: status.final_block,
            next_base_fee_wei_per_gas: status.next_base_fee_wei_per_gas.map(|wei| Uint(U256::from(wei))),
            fees: status.quote.map(FeesView::from),
            queued: status.queued,
            in_flight: status.in_flight,
            guard_ms: status.guard_ms,
            guard_time_ms: status.guard_time_ms,
            inclusions_measured: status.inclusions_measured,
            forwarders,
            finality_stalled_since_ms: status.finality_stalled_since_ms,
            warnings: is_operator.then_some(status.warnings),
            endpoints: is_operator.then(|| status.endpoints.into_iter().map(EndpointView::from).collect()),
        }
    }
}

/// The chains that are served.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Chains)]
pub struct ChainsView {
    /// Address of the identity key that signs promises.
    pub relayer: Account,
    /// The chains.
    pub chains: Vec<ChainView>,
}

/// Fees of a chain now.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ChainFees)]
pub struct ChainFeesView {
    /// EIP-155 chain id.
    chain_id: u64,
    /// Head block number that the fees follow.
    head: Option<u64>,
    /// Head block timestamp, Unix seconds.
    head_timestamp_s: Option<u64>,
    /// Base fee of the next block.
    next_base_fee_wei_per_gas: Option<Uint>,
    /// What a transaction would offer now.
    #[serde(flatten)]
    fees: Option<FeesView>,
}

impl From<&ChainStatus> for ChainFeesView {
    fn from(status: &ChainStatus) -> Self {
        Self {
            chain_id: status.chain_id,
            head: status.head,
            head_timestamp_s: status.head_timestamp_s,
            next_base_fee_wei_per_gas: status.next_base_fee_wei_per_gas.map(|wei| Uint(U256::from(wei))),
            fees: status.quote.map(FeesView::from),
        }
    }
}

/// One sender account on one chain.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Lane)]
pub struct LaneView {
    /// EIP-155 chain id.
    chain_id: u64,
    /// The account.
    sender: Account,
    /// Nonce of the next batch; absent before reconciliation.
    next_nonce: Option<u64>,
    /// Transactions that are not in a block.
    in_flight: usize,
    /// Transactions in a block that is not final.
    unfinal: usize,
    /// Limit on `inFlight`.
    max_in_flight: usize,
    /// Balance, when last read.
    balance_wei: Option<Uint>,
    /// Why it does not send.
    paused: Option<String>,
}

impl From<LaneStatus> for LaneView {
    fn from(lane: LaneStatus) -> Self {
        Self {
            chain_id: lane.chain_id,
            sender: Account(lane.sender),
            next_nonce: lane.next_nonce,
            in_flight: lane.in_flight,
            unfinal: lane.unfinal,
            max_in_flight: lane.max_in_flight,
            balance_wei: lane.balance_wei.map(Uint),
            paused: lane.paused,
        }
    }
}

/// The lanes.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Lanes)]
pub struct LanesView {
    /// The lanes.
    pub lanes: Vec<LaneView>,
}

/// The base fee so many blocks ahead.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Horizon)]
pub struct HorizonView {
    /// Blocks ahead; 1 is the next block.
    blocks: u32,
    /// About so long from now, ms.
    ahead_ms: u64,
    /// Best single guess.
    point_wei_per_gas: Uint,
    /// 10 % quantile.
    q10_wei_per_gas: Uint,
    /// Median.
    q50_wei_per_gas: Uint,
    /// 90 % quantile.
    q90_wei_per_gas: Uint,
    /// Weights of the experts behind it; they add up to 1.
    experts: BTreeMap<String, f64>,
}

/// What is done with a request that may wait so long.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Slack)]
pub struct SlackView {
    /// Time left, in blocks.
    blocks: u32,
    /// Time left, ms.
    slack_ms: u64,
    /// It is sent now.
    send_now: bool,
    /// Base fee up to which it would be sent now.
    reservation_wei_per_gas: Uint,
    /// What waiting is expected to save.
    expected_saving_wei_per_gas: Uint,
    /// The timing policy with the largest weight.
    policy: String,
    /// Weights of the timing policies above 1 %.
    policies: BTreeMap<String, f64>,
}

/// One fitted set of models.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Model)]
pub struct ModelView {
    /// EIP-155 chain id.
    chain_id: u64,
    /// Counts up from 1, never given twice.
    version: u32,
    /// Content hash.
    #[schema(value_type = String)]
    id: B256,
    /// In force.
    is_active: bool,
    /// In force until it is unpinned: later fits wait.
    is_pinned: bool,
    /// First block of the training data.
    first_block: u64,
    /// Last block of the training data.
    last_block: u64,
    /// By horizon in blocks.
    scores: BTreeMap<u32, ScoresView>,
}

/// Mean absolute errors of log fee on held-back data.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ModelScores)]
pub struct ScoresView {
    /// Of the ridge regression.
    ridge: f64,
    /// Of the next base fee, taken to stay.
    persistence: f64,
}

impl ModelView {
    /// The models of a chain.
    pub fn of(chain_id: u64, models: &[ModelInfo]) -> Vec<Self> {
        let model = |model: &ModelInfo| Self {
            chain_id,
            version: model.version,
            id: model.id.0,
            is_active: model.is_active,
            is_pinned: model.is_pinned,
            first_block: model.blocks.0,
            last_block: model.blocks.1,
            scores: model
                .scores
                .iter()
                .map(|(steps, scores)| (*steps, ScoresView { ridge: scores.ridge, persistence: scores.persistence }))
                .collect(),
        };
        models.iter().map(model).collect()
    }
}

/// Which version of the models.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ModelVersion)]
pub struct VersionBody {
    /// As listed.
    pub version: u32,
}

/// The fitted models.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Models)]
pub struct ModelsView {
    /// The models.
    pub models: Vec<ModelView>,
}

/// What a chain's base fee is expected to be.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ChainForecast)]
pub struct ForecastBody {
    /// EIP-155 chain id.
    chain_id: u64,
    /// The block after which it was made.
    head: u64,
    /// Base fee of the next block.
    next_base_fee_wei_per_gas: Uint,
    /// The protocol fixes `nextBaseFeeWeiPerGas`.
    next_is_exact: bool,
    /// Content hash of the models in force.
    #[schema(value_type = String)]
    model: B256,
    /// Content hash of this forecast; decisions that used it name it.
    #[schema(value_type = String)]
    inputs: B256,
    /// By horizon.
    horizons: Vec<HorizonView>,
    /// By slack.
    slacks: Vec<SlackView>,
}

impl ForecastBody {
    /// A forecast; only the horizon nearest to `horizon`, if one is asked for.
    pub fn new(chain_id: u64, view: &ForecastView, horizon: Option<Duration>) -> Self {
        let wei = |wei: u128| Uint(U256::from(wei));
        let ms = |blocks: u32| u64::try_from((view.step * blocks).as_millis()).unwrap_or(u64::MAX);
        let forecast = &view.forecast;
        let nearest = horizon.and_then(|asked| {
            let asked = u64::try_from(asked.as_millis()).unwrap_or(u64::MAX);
            forecast.horizons.iter().map(|horizon| horizon.steps).min_by_key(|steps| ms(*steps).abs_diff(asked))
        });
        let horizons = forecast.horizons.iter().filter(|horizon| nearest.is_none_or(|steps| steps == horizon.steps));
        let horizons = horizons.map(|horizon| HorizonView {
            blocks: horizon.steps,
            ahead_ms: ms(horizon.steps),
            point_wei_per_gas: wei(horizon.point),
            q10_wei_per_gas: wei(horizon.q10),
            q50_wei_per_gas: wei(horizon.q50),
            q90_wei_per_gas: wei(horizon.q90),
            experts: view.experts.get(&horizon.steps).into_iter().flatten().cloned().collect(),
        });
        let slacks = view.waits.iter().map(|(blocks, decision)| SlackView {
            blocks: *blocks,
            slack_ms: ms(*blocks),
            send_now: decision.send,
            reservation_wei_per_gas: wei(decision.reservation),
            expected_saving_wei_per_gas: wei(decision.expected_saving),
            policy: decision.policy.to_string(),
            policies: view.policies.get(blocks).into_iter().flatten().filter(|(_, w)| *w > 0.01).cloned().collect(),
        });
        Self {
            chain_id,
            head: forecast.number,
            next_base_fee_wei_per_gas: wei(forecast.next_base_fee),
            next_is_exact: forecast.next_is_exact,
            model: forecast.model.0,
            inputs: view.inputs,
            horizons: horizons.collect(),
            slacks: slacks.collect(),
        }
    }
}

/// One endpoint as a source of fees.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Source)]
pub struct SourceView {
    /// EIP-155 chain id.
    chain_id: u64,
    /// Configured name; for operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    /// `active`: its word counts. `probation`: it is compared with the others and does not count. `benched`: it does not
    /// count.
    standing: &'static str,
    /// When its probation begins, Unix ms.
    benched_until_ms: Option<u64>,
    /// Share of good blocks among the last, thousandths.
    reputation_permille: u32,
    /// Newest block that it reported.
    head: Option<u64>,
    /// Smoothed time that an answer takes, ms.
    latency_ms: u64,
    /// Good blocks.
    good: u64,
    /// Times that it did not answer.
    errors: u64,
    /// Blocks at which it was too far behind.
    lags: u64,
    /// Blocks at which it differed from the others.
    deviations: u64,
}

impl SourceView {
    /// `source` as an operator or another tenant may see it.
    pub fn new(source: FeeSource, is_operator: bool) -> Self {
        let status = source.status;
        let (standing, benched_until_ms) = match status.standing {
            Standing::Active => ("active", None),
            Standing::Probation { .. } => ("probation", None),
            Standing::Benched { until } => ("benched", Some(until.0)),
        };
        Self {
            chain_id: source.chain_id,
            endpoint: is_operator.then_some(source.endpoint),
            standing,
            benched_until_ms,
            reputation_permille: status.reputation_permille,
            head: status.head,
            latency_ms: u64::try_from(status.latency.as_millis()).unwrap_or(u64::MAX),
            good: status.good,
            errors: status.errors,
            lags: status.lags,
            deviations: status.deviations,
        }
    }
}

/// The fee sources.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Sources)]
pub struct SourcesView {
    /// The sources.
    pub sources: Vec<SourceView>,
}

/// How many requests stand where.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = CountRow)]
pub struct CountView {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Status.
    #[schema(value_type = String)]
    pub status: Status,
    /// Number of requests.
    pub count: u64,
}

/// Numbers of requests by chain and status, of all tenants.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Counts)]
pub struct CountsView {
    /// The numbers.
    pub counts: Vec<CountView>,
    /// Newest event's sequence number.
    pub last_event_seq: u64,
}

/// The newest entry of the decision log.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LogHead)]
pub struct LogHeadView {
    /// Its number, from 1 on; 0 before the first.
    pub seq: u64,
    /// Its hash, to which all entries before lead.
    #[schema(value_type = String)]
    pub hash: B256,
}
