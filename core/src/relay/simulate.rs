//! Simulation gates sending: one call per batch tells who would succeed, so that one poison item harms only itself (I11).

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use alloy_primitives::{Address, Bytes, U64, U256};
use alloy_sol_types::SolCall;
use serde_json::json;
use slackwater_contracts::{forwarder, multicall3};

use super::rpc::{RpcError, RpcPool};
pub(super) use crate::request::simulation::{Environment, MemberSimulation, Verdict};
use crate::{
    chain::RpcErrorClass,
    request::{
        VerifiedRequest,
        outcome::MemberOutcome,
        simulation::{self, SimulatedBlock},
        vehicle::{Payload, VehicleKey, VehicleParams, forward_data},
    },
};

/// Simulates `members`, one after the other, in `environment`; `payload` is all of them, for nodes that can't.
///
/// `ahead` holds forwarder nonces of members whose predecessors are in flight: they are assumed to have executed. That
/// needs to know where the forwarder stores them, hence only known code (`is_known_forwarder`).
#[expect(clippy::too_many_arguments, reason = "everything that a simulation depends on")]
pub(super) async fn simulate(
    pool: &RpcPool,
    vehicle: &VehicleParams,
    payload: &Payload,
    key: VehicleKey,
    members: &[Arc<VerifiedRequest>],
    ahead: &BTreeMap<(Address, Address), u64>,
    environment: &Environment,
    is_known_forwarder: bool,
) -> Verdict {
    if !ahead.is_empty() && !is_known_forwarder {
        return Verdict::Unknown;
    }
    let params = simulation::params(vehicle, key, members, ahead, environment);
    let answer: Result<Vec<SimulatedBlock>, RpcError> = pool.call("eth_simulateV1", params).await;
    match answer {
        Ok(blocks) => simulation::verdict(blocks, key, members),
        Err(error) if error.class == RpcErrorClass::EndpointUnusable => {
            by_call(pool, vehicle.sender, payload, key, members, ahead).await
        }
        Err(error) if error.class == RpcErrorClass::Reverted => Verdict::Whole(error.message),
        Err(error) => {
            tracing::debug!(class = error.class.as_str(), message = %error.message, "simulation gave no answer");
            Verdict::Unknown
        }
    }
}

/// For nodes without `eth_simulateV1`: one `eth_call` of the whole, and `verify` of each forward through Multicall3.
async fn by_call(
    pool: &RpcPool,
    sender: Address,
    payload: &Payload,
    key: VehicleKey,
    members: &[Arc<VerifiedRequest>],
    ahead: &BTreeMap<(Address, Address), u64>,
) -> Verdict {
    let call = simulation::call(sender, payload);
    let answer: Result<Bytes, RpcError> = pool.call("eth_call", json!([call, "latest"])).await;
    match answer {
        Err(error) if error.class == RpcErrorClass::Reverted => return Verdict::Whole(error.message),
        Err(_) => return Verdict::Unknown,
        Ok(_) => {}
    }
    let VehicleKey::Forwarder(forwarder) = key else {
        return Verdict::Members(vec![MemberSimulation::of(MemberOutcome::Executed); members.len()]);
    };
    let firsts: Vec<(usize, forwarder::ForwardRequestData)> = simulation::verifiable(members, ahead)
        .into_iter()
        .filter_map(|index| Some((index, forward_data(&members[index])?)))
        .collect();
    let calls = firsts
        .iter()
        .map(|(_, request)| multicall3::Call3 {
            target: forwarder,
            allowFailure: true,
            callData: forwarder::verifyCall { request: request.clone() }.abi_encode().into(),
        })
        .collect();
    let input: Bytes = multicall3::aggregate3Call { calls }.abi_encode().into();
    let params = json!([{ "to": multicall3::ADDRESS, "input": input }, "latest"]);
    let Ok(output) = pool.call::<Bytes>("eth_call", params).await else { return Verdict::Unknown };
    let Ok(results) = multicall3::aggregate3Call::abi_decode_returns(&output) else { return Verdict::Unknown };
    let mut outcomes = vec![MemberSimulation::of(MemberOutcome::Executed); members.len()];
    for ((index, _), result) in firsts.iter().zip(results) {
        let is_valid = result.success && result.returnData.last() == Some(&1);
        if !is_valid {
            outcomes[*index].outcome = MemberOutcome::Untouched;
        }
    }
    Verdict::Members(outcomes)
}

/// A user's forwarder nonce as a majority of the nodes sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AgreedNonce {
    /// A majority is there, or further.
    pub(super) at_least: u64,
    /// A majority is there, or not so far.
    pub(super) at_most: u64,
}

/// The forwarder's nonces of many signers, in order, by a majority: what a statement for good needs (I9). `None` where fewer
/// answered.
///
/// At the final block `settled`, as those nodes see it for which it is final; without one, at each node's head.
pub(super) async fn agreed_nonces(
    pool: &RpcPool,
    signers: &[(Address, Address)],
    has_multicall: bool,
    settled: Option<u64>,
) -> Vec<Option<AgreedNonce>> {
    let mut told: Vec<Vec<u64>> = vec![Vec::new(); signers.len()];
    let mut note = |place: usize, nonce: Option<u64>| told[place].extend(nonce);
    let ask = async |to: Address, input: Bytes| -> Vec<Bytes> {
        let call = json!({ "to": to, "input": input });
        match settled {
            Some(block) => pool.call_settled("eth_call", json!([call, U64::from(block)]), block).await,
            None => pool.call_all("eth_call", json!([call, "latest"])).await.into_iter().flatten().collect(),
        }
    };
    if has_multicall && signers.len() > 1 {
        for output in ask(multicall3::ADDRESS, nonces_input(signers)).await {
            for (place, nonce) in nonces_output(&output, signers.len()).into_iter().flatten().enumerate() {
                note(place, nonce);
            }
        }
    } else {
        for (place, (forwarder, signer)) in signers.iter().enumerate() {
            for output in ask(*forwarder, forwarder::noncesCall { owner: *signer }.abi_encode().into()).await {
                note(place, word(&output));
            }
        }
    }
    let agree = |told: Vec<u64>| {
        let at_most = pool.reached(told.iter().copied().map(Reverse).collect())?.0;
        Some(AgreedNonce { at_least: pool.reached(told)?, at_most })
    };
    told.into_iter().map(agree).collect()
}

fn nonces_input(signers: &[(Address, Address)]) -> Bytes {
    let calls = signers
        .iter()
        .map(|(forwarder, signer)| multicall3::Call3 {
            target: *forwarder,
            allowFailure: true,
            callData: forwarder::noncesCall { owner: *signer }.abi_encode().into(),
        })
        .collect();
    multicall3::aggregate3Call { calls }.abi_encode().into()
}

fn nonces_output(output: &[u8], count: usize) -> Option<Vec<Option<u64>>> {
    let results = multicall3::aggregate3Call::abi_decode_returns(output).ok()?;
    let nonce = |result: multicall3::Result| result.success.then(|| word(&result.returnData)).flatten();
    (results.len() == count).then(|| results.into_iter().map(nonce).collect())
}

/// The forwarder's nonces of many signers at `block`, in order; one call through Multicall3 where it is deployed.
pub(super) async fn forwarder_nonces(
    pool: &RpcPool,
    signers: &[(Address, Address)],
    has_multicall: bool,
    block: &serde_json::Value,
) -> Result<Vec<Option<u64>>, RpcError> {
    if has_multicall && signers.len() > 1 {
        let input = nonces_input(signers);
        let output: Bytes =
            pool.call("eth_call", json!([{ "to": multicall3::ADDRESS, "input": input }, block])).await?;
        if let Some(nonces) = nonces_output(&output, signers.len()) {
            return Ok(nonces);
        }
    }
    let mut nonces = Vec::with_capacity(signers.len());
    for (forwarder, signer) in signers {
        let input: Bytes = forwarder::noncesCall { owner: *signer }.abi_encode().into();
        let output: Bytes = pool.call("eth_call", json!([{ "to": forwarder, "input": input }, block])).await?;
        nonces.push(word(&output));
    }
    Ok(nonces)
}

fn word(data: &[u8]) -> Option<u64> {
    let word: [u8; 32] = data.get(..32)?.try_into().ok()?;
    u64::try_from(U256::from_be_bytes(word)).ok()
}
