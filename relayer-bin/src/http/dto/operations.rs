//! The relayer itself: chains, lanes, forecasts, models, sources.

use std::time::Duration;

use slackwater::{ChainStatus, EndpointStatus, FeeSource, ForecastView, LaneStatus, ModelInfo, TokenStatus};
use slackwater_core::{
    market::Standing,
    wire::{
        Account, Chain, ChainFees, ChainForecast, Endpoint, Forwarder, Horizon, Lane, Model, ModelScores, Models,
        Slack, Source, Token, Uint,
    },
};

use super::name;

fn endpoint(status: EndpointStatus) -> Endpoint {
    Endpoint {
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

fn token(token: TokenStatus) -> Token {
    let TokenStatus { address, name, version, transfer_gas, .. } = token;
    Token { address: Account(address), name, version, transfer_gas }
}

/// The chain, as an operator or another tenant may see it.
pub fn chain(status: ChainStatus, is_operator: bool) -> Chain {
    // An endpoint's error names it.
    let is_telling = |detail: &String| status.endpoints.iter().any(|endpoint| detail.contains(&endpoint.name));
    let detail = status.detail.filter(|detail| is_operator || !is_telling(detail));
    let forwarders = status.forwarders.into_iter().zip(status.forwarder_names);
    Chain {
        chain_id: status.chain_id,
        name: status.name,
        health: name(status.health),
        detail,
        head: status.head,
        head_timestamp_s: status.head_timestamp_s,
        final_block: status.final_block,
        next_base_fee_wei_per_gas: status.next_base_fee_wei_per_gas.map(Uint),
        fees: status.quote.map(Into::into),
        queued: status.queued,
        in_flight: status.in_flight,
        guard_ms: status.guard_ms,
        guard_time_ms: status.guard_time_ms,
        inclusions_measured: status.inclusions_measured,
        forwarders: forwarders.map(|(address, name)| Forwarder { address: Account(address), name }).collect(),
        tokens: status.tokens.into_iter().map(token).collect(),
        finality_stalled_since_ms: status.finality_stalled_since_ms,
        warnings: is_operator.then_some(status.warnings),
        endpoints: is_operator.then(|| status.endpoints.into_iter().map(endpoint).collect()),
    }
}

/// The chain's fees now.
pub fn fees(status: &ChainStatus) -> ChainFees {
    ChainFees {
        chain_id: status.chain_id,
        head: status.head,
        head_timestamp_s: status.head_timestamp_s,
        next_base_fee_wei_per_gas: status.next_base_fee_wei_per_gas.map(Uint),
        fees: status.quote.map(Into::into),
    }
}

/// The lane.
pub fn lane(lane: LaneStatus) -> Lane {
    Lane {
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

/// The models of a chain.
pub fn models(chain_id: u64, models: &[ModelInfo]) -> Models {
    let score = |(steps, scores): (&u32, &slackwater_core::forecast::Scores)| {
        (*steps, ModelScores { ridge: scores.ridge, persistence: scores.persistence })
    };
    let model = |model: &ModelInfo| Model {
        chain_id,
        version: model.version,
        id: model.id.0,
        is_active: model.is_active,
        is_pinned: model.is_pinned,
        first_block: model.blocks.0,
        last_block: model.blocks.1,
        scores: model.scores.iter().map(score).collect(),
    };
    Models { models: models.iter().map(model).collect() }
}

/// A forecast; only the horizon nearest to `horizon`, if one is asked for.
pub fn forecast(chain_id: u64, view: &ForecastView, horizon: Option<Duration>) -> ChainForecast {
    let ms = |blocks: u32| u64::try_from((view.step * blocks).as_millis()).unwrap_or(u64::MAX);
    let forecast = &view.forecast;
    let nearest = horizon.and_then(|asked| {
        let asked = u64::try_from(asked.as_millis()).unwrap_or(u64::MAX);
        forecast.horizons.iter().map(|horizon| horizon.steps).min_by_key(|steps| ms(*steps).abs_diff(asked))
    });
    let horizons = forecast.horizons.iter().filter(|horizon| nearest.is_none_or(|steps| steps == horizon.steps));
    let horizons = horizons.map(|horizon| Horizon {
        blocks: horizon.steps,
        ahead_ms: ms(horizon.steps),
        point_wei_per_gas: Uint(horizon.point),
        q10_wei_per_gas: Uint(horizon.q10),
        q50_wei_per_gas: Uint(horizon.q50),
        q90_wei_per_gas: Uint(horizon.q90),
        experts: view.experts.get(&horizon.steps).into_iter().flatten().cloned().collect(),
    });
    let slacks = view.waits.iter().map(|(blocks, decision)| Slack {
        blocks: *blocks,
        slack_ms: ms(*blocks),
        send_now: decision.send,
        reservation_wei_per_gas: Uint(decision.reservation),
        expected_saving_wei_per_gas: Uint(decision.expected_saving),
        policy: decision.policy.to_string(),
        policies: view.policies.get(blocks).into_iter().flatten().filter(|(_, w)| *w > 0.01).cloned().collect(),
    });
    ChainForecast {
        chain_id,
        head: forecast.number,
        next_base_fee_wei_per_gas: Uint(forecast.next_base_fee),
        next_is_exact: forecast.next_is_exact,
        model: forecast.model.0,
        inputs: view.inputs,
        horizons: horizons.collect(),
        slacks: slacks.collect(),
    }
}

/// The source, as an operator or another tenant may see it.
pub fn source(source: FeeSource, is_operator: bool) -> Source {
    let status = source.status;
    let (standing, benched_until_ms) = match status.standing {
        Standing::Active => ("active", None),
        Standing::Probation { .. } => ("probation", None),
        Standing::Benched { until } => ("benched", Some(until)),
    };
    Source {
        chain_id: source.chain_id,
        endpoint: is_operator.then_some(source.endpoint),
        standing: standing.into(),
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
