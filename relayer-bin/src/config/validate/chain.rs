//! Chains: spec, endpoints, forwarders, tuning.

use std::{collections::BTreeSet, time::Duration};

use slackwater::{
    chain::{ChainSpec, PresetError, SpecError, preset_for_chain_id, preset_names},
    relay::{
        AdmissionTuning, BatchTuning, ChainTuning, FeeTuning, ForecastTuning, ForwarderSetup, HeadTuning, LaneTuning,
        MarketTuning, RetryTuning, RpcTuning, SimulationTuning, TimingMode, TimingTuning, UrlFault, check_http_url,
        check_ws_url,
    },
    schedule::RecordRule,
};

use super::{Check, is_http_url, is_ws_url, millis, size, span};
use crate::config::{
    ChainConfig, EndpointConfig, RawChain, RawForwarder, RawRpc, RawSigner, SignerConfig, UrlText,
    layers::{join, merge},
    plain,
    schema::nearest,
    secret::SecretRef,
};

pub(super) fn chain_config(check: &mut Check<'_>, key: &str, raw: RawChain) -> Option<ChainConfig> {
    let spec = chain_spec(check, key, &raw);
    let endpoints = endpoints(check, key, &raw.rpc);
    let signers: Vec<SignerConfig> = raw
        .signers
        .iter()
        .enumerate()
        .filter_map(|(index, signer)| signer_config(check, &format!("{key}.signers.{index}"), signer))
        .collect();
    if raw.signers.is_empty() {
        check.fail(
            &join(key, "signers"),
            None,
            "is missing: nobody would pay for gas",
            "name at least one key by reference",
        );
    }
    for (index, signer) in signers.iter().enumerate() {
        if signers[..index].iter().any(|other| other.key == signer.key) {
            check.fail(
                &format!("{key}.signers.{index}"),
                None,
                "is listed twice",
                "two lanes would fight over its nonces",
            );
        }
    }
    if let Some(name) = &raw.name {
        check.name(&join(key, "name"), name);
    }
    let forwarders = forwarders(check, key, &raw.forwarders);
    let spec = spec?;
    let tuning = tuning(check, key, &raw, &spec);
    Some(ChainConfig { spec, tuning, endpoints, signers, forwarders })
}

fn signer_config(check: &mut Check<'_>, key: &str, raw: &RawSigner) -> Option<SignerConfig> {
    let (key, tenants) = match raw {
        RawSigner::Key(_) => (key.to_owned(), Vec::new()),
        RawSigner::Bound(bound) => (join(key, "key"), bound.tenants.clone()),
    };
    let Some(text) = raw.key() else {
        check.fail(&key, None, "is missing", "name the account's key by reference");
        return None;
    };
    Some(SignerConfig { key: check.secret(&key, text)?, tenants })
}

/// The preset with the operator's facts over it.
pub(super) fn chain_spec(check: &mut Check<'_>, key: &str, raw: &RawChain) -> Option<ChainSpec> {
    let mut table = toml::Table::new();
    match &raw.preset {
        Some(name) => match ChainSpec::preset(name) {
            Ok(spec) => match toml::Table::try_from(&spec) {
                Ok(preset) => table = preset,
                Err(error) => check.fail(&join(key, "preset"), Some(name), error.to_string(), ""),
            },
            Err(error) => {
                let known = preset_names();
                let near = nearest(name, known.iter().copied());
                let fix = near.map_or_else(
                    || format!("known are {}", known.join(", ")),
                    |near| format!("did you mean {near:?}?"),
                );
                let problem = match error {
                    PresetError::Unknown { .. } => "is no chain preset".to_owned(),
                    other => other.to_string(),
                };
                check.fail(&join(key, "preset"), Some(name), problem, fix);
                return None;
            }
        },
        None if raw.spec.is_none() => {
            let known = raw.chain_id.and_then(preset_for_chain_id);
            let fix = match known {
                Some(spec) => format!("write preset = {:?}", spec.name),
                None => "name a preset, or give all facts in [chain.spec]".to_owned(),
            };
            check.fail(&join(key, "preset"), None, "is missing: nothing is known about the chain", fix);
            return None;
        }
        None => {}
    }
    if let Some(over) = &raw.spec {
        // A rule of another kind has other keys: it replaces the preset's as a whole.
        for (name, value) in over {
            if let (Some(toml::Value::Table(below)), toml::Value::Table(above)) = (table.get(name), value)
                && above.contains_key("kind")
                && below.get("kind") != above.get("kind")
            {
                table.remove(name);
            }
        }
        merge(&mut table, over.clone());
    }
    if let Some(chain_id) = raw.chain_id {
        table.insert("chain_id".to_owned(), toml::Value::Integer(i64::try_from(chain_id).unwrap_or(i64::MAX)));
    }
    if let Some(name) = &raw.name {
        table.insert("name".to_owned(), toml::Value::String(name.clone()));
    }
    let spec_key = join(key, "spec");
    let spec: ChainSpec = match serde_path_to_error::deserialize(toml::Value::Table(table)) {
        Ok(spec) => spec,
        Err(error) => {
            let path = error.path().to_string();
            let at = if path == "." { spec_key } else { join(&spec_key, &path) };
            let message = error.into_inner().to_string();
            check.fail(&at, None, plain::expectation(&message), "see core/presets for the keys");
            return None;
        }
    };
    if let Err(errors) = spec.validate() {
        for error in errors {
            let told = match error {
                SpecError::Malformed { key, value, expected } => {
                    format!("{key} = {:?} must be {expected}", plain::shown(&value))
                }
                other => other.to_string(),
            };
            check.fail(&spec_key, None, told, "");
        }
        return None;
    }
    Some(spec)
}

pub(super) fn endpoints(check: &mut Check<'_>, key: &str, raw: &[RawRpc]) -> Vec<EndpointConfig> {
    if raw.is_empty() {
        check.fail(
            &join(key, "rpc"),
            None,
            "is missing: the chain can't be reached",
            "add rpc = [{ url = \"https://…\" }]",
        );
    }
    let mut names = BTreeSet::new();
    let mut endpoints = Vec::new();
    for (index, rpc) in raw.iter().enumerate() {
        let key = format!("{key}.rpc.{index}");
        let name = rpc.name.clone().unwrap_or_else(|| format!("rpc-{index}"));
        check.name(&join(&key, "name"), &name);
        if !names.insert(name.clone()) {
            check.fail(&join(&key, "name"), Some(&name), "is used twice", "give each endpoint its own name");
        }
        let Some(url) = &rpc.url else {
            check.fail(&join(&key, "url"), None, "is missing", "write the node's https:// URL, or env:NAME");
            continue;
        };
        let ws_url = rpc.ws_url.as_ref().and_then(|text| {
            let reference = url_reference(text, is_ws_url);
            if reference.is_none() {
                check.fail(
                    &join(&key, "ws_url"),
                    None,
                    "is neither a WebSocket URL nor a reference (hidden)",
                    "write wss://…, env:NAME or file:PATH",
                );
            }
            reference
        });
        let is_insecure = rpc.insecure.unwrap_or(false);
        let clear_text = |text: &UrlText| {
            !is_insecure && [check_http_url(&text.0), check_ws_url(&text.0)].contains(&Err(UrlFault::ClearText))
        };
        for (name, text) in [("url", Some(url)), ("ws_url", rpc.ws_url.as_ref())] {
            if text.is_some_and(clear_text) {
                check.fail(
                    &join(&key, name),
                    None,
                    "goes in clear text to another machine: whoever is in between decides what the chain looks like (hidden)",
                    "use https:// or wss://, or write insecure = true beside it",
                );
            }
        }
        match url_reference(url, is_http_url) {
            Some(url) => {
                let rate_limit_per_s = rpc.rate_limit_per_s.unwrap_or(0);
                endpoints.push(EndpointConfig { name, url, ws_url, is_insecure, rate_limit_per_s });
            }
            None => check.fail(
                &join(&key, "url"),
                None,
                "is neither an http(s) URL nor a reference (hidden)",
                "write https://…, env:NAME or file:PATH; a WebSocket URL belongs in ws_url, beside it",
            ),
        }
    }
    endpoints
}

/// A URL that stands there itself, or says where it is.
pub(super) fn url_reference(text: &UrlText, is_url: impl Fn(&str) -> bool) -> Option<SecretRef> {
    if is_url(&text.0) {
        return Some(SecretRef::Inline(crate::config::Secret::new(&text.0)));
    }
    SecretRef::parse(&text.0).ok().filter(|reference| matches!(reference, SecretRef::Env(_) | SecretRef::File(_)))
}

pub(super) fn forwarders(check: &mut Check<'_>, key: &str, raw: &[RawForwarder]) -> Vec<ForwarderSetup> {
    let mut setups: Vec<ForwarderSetup> = Vec::new();
    for (index, forwarder) in raw.iter().enumerate() {
        let key = format!("{key}.forwarders.{index}");
        let address_key = join(&key, "address");
        let Some(text) = &forwarder.address else {
            check.fail(&address_key, None, "is missing", "name the contract");
            continue;
        };
        let Some(address) = check.address(&address_key, text) else { continue };
        if setups.iter().any(|setup| setup.address == address) {
            check.fail(&address_key, Some(text), "is listed twice", "remove one");
        }
        let allow_unknown_code = forwarder.allow_unknown_code.unwrap_or(false);
        setups.push(ForwarderSetup { address, allow_unknown_code });
    }
    setups
}

pub(super) fn tuning(check: &mut Check<'_>, key: &str, raw: &RawChain, spec: &ChainSpec) -> ChainTuning {
    let (defaults, block) = (ChainTuning::for_spec(spec), spec.block_time());
    let ceiling_key = join(key, "max_fee_ceiling_wei_per_gas");
    let tip_key = join(key, "tip_ceiling_wei_per_gas");
    let urgent_within = span(raw.urgent_within_ms, defaults.timing.urgent_within);
    let spans = |given: &Option<Vec<u64>>, default: Vec<Duration>| {
        given.as_ref().map_or(default, |given| given.iter().copied().map(Duration::from_millis).collect())
    };
    let poll_interval = span(raw.poll_interval_ms, defaults.heads.poll_interval);
    let subscribed_poll = ChainTuning::usual_subscribed_poll(poll_interval, block);
    let max_slack_blocks = raw.max_slack_blocks.unwrap_or(defaults.forecast.max_slack_blocks);
    // Without `..`: a new field must get its key.
    let tuning = ChainTuning {
        rpc: RpcTuning {
            rpc_timeout: span(raw.rpc_timeout_ms, defaults.rpc.rpc_timeout),
            hedge_floor: span(raw.hedge_floor_ms, defaults.rpc.hedge_floor),
            hedge_budget_percent: raw.hedge_budget_percent.unwrap_or(defaults.rpc.hedge_budget_percent),
            rate_limit_pause: span(raw.rate_limit_pause_ms, defaults.rpc.rate_limit_pause),
            max_receipt_polls: size(raw.max_receipt_polls, defaults.rpc.max_receipt_polls),
        },
        heads: HeadTuning {
            poll_interval,
            subscribed_poll_interval: span(raw.subscribed_poll_interval_ms, subscribed_poll),
            subscription_silence: span(raw.subscription_silence_ms, defaults.heads.subscription_silence),
            max_head_age: span(raw.max_head_age_ms, defaults.heads.max_head_age),
        },
        batch: BatchTuning {
            max_batch: size(raw.max_batch, defaults.batch.max_batch),
            max_batch_gas: raw.max_batch_gas.unwrap_or(defaults.batch.max_batch_gas),
            linger: span(raw.linger_ms, defaults.batch.linger),
            waiting_cost_percent: raw.waiting_cost_percent.unwrap_or(defaults.batch.waiting_cost_percent),
            forward_overhead_gas: raw.forward_overhead_gas.unwrap_or(defaults.batch.forward_overhead_gas),
        },
        lane: LaneTuning {
            max_in_flight: size(raw.max_in_flight, defaults.lane.max_in_flight),
            bump_after_blocks: raw.bump_after_blocks.unwrap_or(defaults.lane.bump_after_blocks),
            rebroadcast_after_blocks: raw.rebroadcast_after_blocks.unwrap_or(defaults.lane.rebroadcast_after_blocks),
            max_attempts: raw.max_attempts.unwrap_or(defaults.lane.max_attempts),
            max_refused_plans: raw.max_refused_plans.unwrap_or(defaults.lane.max_refused_plans),
            cancel_gas: raw.cancel_gas.unwrap_or(defaults.lane.cancel_gas),
            spender_scan_blocks: raw.spender_scan_blocks.unwrap_or(defaults.lane.spender_scan_blocks),
        },
        retry: RetryTuning {
            abandon_after_blocks: raw.abandon_after_blocks.unwrap_or(defaults.retry.abandon_after_blocks),
            replan_after_blocks: raw.replan_after_blocks.unwrap_or(defaults.retry.replan_after_blocks),
            max_refusals: raw.max_refusals.unwrap_or(defaults.retry.max_refusals),
        },
        targets: RecordRule {
            suspect: span(raw.suspect_ms, defaults.targets.suspect),
            max_records: size(raw.max_target_records, defaults.targets.max_records),
        },
        fees: FeeTuning {
            max_fee_ceiling_wei_per_gas: check.narrow(
                &ceiling_key,
                raw.max_fee_ceiling_wei_per_gas,
                defaults.fees.max_fee_ceiling_wei_per_gas,
            ),
            tip_target_permille: raw.tip_target_permille.unwrap_or(defaults.fees.tip_target_permille),
            tip_within_blocks: raw.tip_within_blocks.unwrap_or(defaults.fees.tip_within_blocks),
            tip_ceiling_wei_per_gas: check.narrow(
                &tip_key,
                raw.tip_ceiling_wei_per_gas,
                defaults.fees.tip_ceiling_wei_per_gas,
            ),
            l1_fee_margin_percent: raw.l1_fee_margin_percent.unwrap_or(defaults.fees.l1_fee_margin_percent),
            fee_history_blocks: raw.fee_history_blocks.unwrap_or(defaults.fees.fee_history_blocks),
        },
        market: MarketTuning {
            tip_window_blocks: size(raw.tip_window_blocks, defaults.market.tip_window_blocks),
            fee_window_blocks: size(raw.fee_window_blocks, defaults.market.fee_window_blocks),
            source_max_lag_blocks: raw.source_max_lag_blocks.unwrap_or(defaults.market.source_max_lag_blocks),
            source_tolerance_bps: raw.source_tolerance_bps.unwrap_or(defaults.market.source_tolerance_bps),
            source_bench: span(raw.source_bench_ms, defaults.market.source_bench),
        },
        timing: TimingTuning {
            mode: raw.timing.map_or(defaults.timing.mode, TimingMode::from),
            patience_percentile: raw.patience_percentile.unwrap_or(defaults.timing.patience_percentile),
            urgent_within,
            guard_time_floor: span(raw.guard_time_floor_ms, defaults.timing.guard_time_floor),
            guard_time_ceiling: span(raw.guard_time_ceiling_ms, defaults.timing.guard_time_ceiling.max(urgent_within)),
        },
        forecast: ForecastTuning {
            cap_target_permille: raw.cap_target_permille.unwrap_or(defaults.forecast.cap_target_permille),
            forecast_blocks: raw.forecast_blocks.clone().unwrap_or(defaults.forecast.forecast_blocks),
            forecast_times: spans(&raw.forecast_times_ms, defaults.forecast.forecast_times),
            slack_classes: spans(&raw.slack_classes_ms, ChainTuning::usual_slacks(block, max_slack_blocks)),
            max_slack_blocks,
            learned_save: span(raw.learned_save_ms, defaults.forecast.learned_save),
            learned_max_bytes: size(raw.learned_max_bytes, defaults.forecast.learned_max_bytes),
        },
        admission: AdmissionTuning {
            min_slack: span(raw.guard_ms, defaults.admission.min_slack),
            max_nonce_gap: raw.max_nonce_gap.unwrap_or(defaults.admission.max_nonce_gap),
            nonce_lookup: span(raw.nonce_lookup_ms, defaults.admission.nonce_lookup),
            max_block_share_percent: raw.max_block_share_percent.unwrap_or(defaults.admission.max_block_share_percent),
            budget_headroom_percent: raw.budget_headroom_percent.unwrap_or(defaults.admission.budget_headroom_percent),
        },
        simulation: SimulationTuning {
            simulate: raw.simulate.unwrap_or(defaults.simulation.simulate),
            max_simulations: raw.max_simulations.unwrap_or(defaults.simulation.max_simulations),
            simulations_per_head: raw.simulations_per_head.or(defaults.simulation.simulations_per_head),
            reject_after: span(raw.reject_after_ms, defaults.simulation.reject_after),
            unsimulated: raw.unsimulated.map_or(defaults.simulation.unsimulated, Into::into),
        },
    };
    let pace = tuning.pace_problem().map(|problem| ("subscribed_poll_interval_ms", problem));
    for (name, problem) in tuning.problems(block).into_iter().chain(pace) {
        check.fail(&join(key, name), None, problem, "see docs/configuration.md for the range");
    }
    tuning
}

/// The values of a tuning by key, for `config show`.
pub(super) fn tuning_values(tuning: &ChainTuning) -> Vec<(&'static str, String)> {
    let ms = |duration: Duration| millis(duration).to_string();
    let ChainTuning { rpc, heads, batch, lane, retry, targets, fees, market, timing, forecast, admission, simulation } =
        tuning;
    let list = |times: &[Duration]| format!("{:?}", times.iter().map(|time| millis(*time)).collect::<Vec<_>>());
    vec![
        ("poll_interval_ms", ms(heads.poll_interval)),
        ("subscribed_poll_interval_ms", ms(heads.subscribed_poll_interval)),
        ("subscription_silence_ms", ms(heads.subscription_silence)),
        ("rpc_timeout_ms", ms(rpc.rpc_timeout)),
        ("hedge_floor_ms", ms(rpc.hedge_floor)),
        ("hedge_budget_percent", rpc.hedge_budget_percent.to_string()),
        ("rate_limit_pause_ms", ms(rpc.rate_limit_pause)),
        ("max_head_age_ms", ms(heads.max_head_age)),
        ("max_receipt_polls", rpc.max_receipt_polls.to_string()),
        ("spender_scan_blocks", lane.spender_scan_blocks.to_string()),
        ("max_batch", batch.max_batch.to_string()),
        ("max_batch_gas", batch.max_batch_gas.to_string()),
        ("linger_ms", ms(batch.linger)),
        ("waiting_cost_percent", batch.waiting_cost_percent.to_string()),
        ("max_in_flight", lane.max_in_flight.to_string()),
        ("bump_after_blocks", lane.bump_after_blocks.to_string()),
        ("rebroadcast_after_blocks", lane.rebroadcast_after_blocks.to_string()),
        ("abandon_after_blocks", retry.abandon_after_blocks.to_string()),
        ("replan_after_blocks", retry.replan_after_blocks.to_string()),
        ("suspect_ms", ms(targets.suspect)),
        ("max_target_records", targets.max_records.to_string()),
        ("max_attempts", lane.max_attempts.to_string()),
        ("max_refused_plans", lane.max_refused_plans.to_string()),
        ("max_refusals", retry.max_refusals.to_string()),
        ("max_fee_ceiling_wei_per_gas", fees.max_fee_ceiling_wei_per_gas.to_string()),
        ("budget_headroom_percent", admission.budget_headroom_percent.to_string()),
        ("l1_fee_margin_percent", fees.l1_fee_margin_percent.to_string()),
        ("forward_overhead_gas", batch.forward_overhead_gas.to_string()),
        ("fee_history_blocks", fees.fee_history_blocks.to_string()),
        ("fee_window_blocks", market.fee_window_blocks.to_string()),
        ("source_max_lag_blocks", market.source_max_lag_blocks.to_string()),
        ("source_tolerance_bps", market.source_tolerance_bps.to_string()),
        ("source_bench_ms", ms(market.source_bench)),
        ("timing", timing.mode.as_str().to_owned()),
        ("patience_percentile", timing.patience_percentile.to_string()),
        ("urgent_within_ms", ms(timing.urgent_within)),
        ("guard_time_floor_ms", ms(timing.guard_time_floor)),
        ("guard_time_ceiling_ms", ms(timing.guard_time_ceiling)),
        ("tip_target_permille", fees.tip_target_permille.to_string()),
        ("tip_within_blocks", fees.tip_within_blocks.to_string()),
        ("tip_window_blocks", market.tip_window_blocks.to_string()),
        ("tip_ceiling_wei_per_gas", fees.tip_ceiling_wei_per_gas.to_string()),
        ("cap_target_permille", forecast.cap_target_permille.to_string()),
        ("forecast_blocks", format!("{:?}", forecast.forecast_blocks)),
        ("forecast_times_ms", list(&forecast.forecast_times)),
        ("slack_classes_ms", list(&forecast.slack_classes)),
        ("max_slack_blocks", forecast.max_slack_blocks.to_string()),
        ("learned_save_ms", ms(forecast.learned_save)),
        ("learned_max_bytes", forecast.learned_max_bytes.to_string()),
        ("max_nonce_gap", admission.max_nonce_gap.to_string()),
        ("nonce_lookup_ms", ms(admission.nonce_lookup)),
        ("max_simulations", simulation.max_simulations.to_string()),
        (
            "simulations_per_head",
            simulation
                .simulations_per_head
                .map_or_else(|| "twice max_in_flight of all lanes".to_owned(), |most| most.to_string()),
        ),
        ("max_block_share_percent", admission.max_block_share_percent.to_string()),
        ("reject_after_ms", ms(simulation.reject_after)),
        ("unsimulated", simulation.unsimulated.as_str().to_owned()),
        ("guard_ms", ms(admission.min_slack)),
        ("simulate", simulation.simulate.to_string()),
        ("cancel_gas", lane.cancel_gas.to_string()),
    ]
}
