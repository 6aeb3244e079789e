//! Chains: spec, endpoints, forwarders, tuning.

use std::collections::BTreeSet;

use slackwater::{
    ForwarderSetup, TokenSetup,
    internal::{DEFAULT_TRANSFER_GAS, UrlFault, check_http_url, check_ws_url},
    tuning::ChainTuning,
};
use slackwater_core::chain::{ChainSpec, PresetError, SpecError, preset_for_chain_id, preset_names};
use toml::Table;

use super::{Check, is_http_url, is_ws_url, layered};
use crate::config::{
    ChainConfig, EndpointConfig, RawChain, RawForwarder, RawRpc, RawSigner, RawToken, SignerConfig, UrlText,
    layers::{join, merge},
    plain,
    schema::nearest,
    secret::SecretRef,
};

/// Range of `chain.tokens.transfer_gas`.
const TRANSFER_GAS: std::ops::RangeInclusive<u64> = 30_000..=10_000_000;

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
    let tokens = tokens(check, key, &raw.tokens);
    let spec = spec?;
    let tuning = tuning(check, key, &raw.given, &spec);
    Some(ChainConfig { spec, tuning, endpoints, signers, forwarders, tokens })
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
    let mut table = Table::new();
    match &raw.preset {
        Some(name) => match ChainSpec::preset(name) {
            Ok(spec) => match Table::try_from(&spec) {
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
            check.fail(&at, None, plain::expectation(&message), "see core/pure/presets for the keys");
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
        setups.push(ForwarderSetup::new(address).with_unknown_code(allow_unknown_code));
    }
    setups
}

pub(super) fn tokens(check: &mut Check<'_>, key: &str, raw: &[RawToken]) -> Vec<TokenSetup> {
    let mut setups: Vec<TokenSetup> = Vec::new();
    for (index, token) in raw.iter().enumerate() {
        let key = format!("{key}.tokens.{index}");
        let address_key = join(&key, "address");
        let Some(text) = &token.address else {
            check.fail(&address_key, None, "is missing", "name the contract");
            continue;
        };
        let Some(address) = check.address(&address_key, text) else { continue };
        if setups.iter().any(|setup| setup.address == address) {
            check.fail(&address_key, Some(text), "is listed twice", "remove one");
        }
        let transfer_gas = token.transfer_gas.unwrap_or(DEFAULT_TRANSFER_GAS);
        if !TRANSFER_GAS.contains(&transfer_gas) {
            let (key, text) = (join(&key, "transfer_gas"), transfer_gas.to_string());
            check.fail(&key, Some(&text), "is out of range", "30000 to 10000000; a payment of USDC uses up to 91000");
        }
        let (name, version) = (token.name.clone(), token.version.clone());
        setups.push(TokenSetup::new(address).with_domain(name, version).with_transfer_gas(transfer_gas));
    }
    setups
}

fn tuning(check: &mut Check<'_>, key: &str, given: &Table, spec: &ChainSpec) -> ChainTuning {
    let block = spec.block_time();
    let mut tuning = layered(check, key, given, ChainTuning::for_spec(spec));
    tuning.fill(block, |name| given.contains_key(name));
    let pace = tuning.pace_problem().map(|problem| ("subscribed_poll_interval_ms", problem));
    for (name, problem) in tuning.problems(block).into_iter().chain(pace) {
        check.fail(&join(key, name), None, problem, "see docs/configuration.md for the range");
    }
    tuning
}
