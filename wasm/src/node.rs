//! Queries to the user's own node.

use alloy_primitives::Address;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use slackwater_client::rpc::{self, BlockRef, RpcCall, RpcError};
use slackwater_core::{chain::FinalityRule, request::ForwarderDomain};
use wasm_bindgen::prelude::wasm_bindgen;

use crate::{
    interop::{Failure, write},
    request::{JsDomain, JsForward, JsHex, bytes, hex},
};

#[wasm_bindgen]
extern "C" {
    /// Any value; the package's own types are more precise.
    #[wasm_bindgen(typescript_type = "unknown")]
    #[derive(Debug)]
    pub type JsUnknown;
    /// `RequestArguments` of EIP-1193.
    #[wasm_bindgen(typescript_type = "RpcRequest")]
    #[derive(Debug)]
    pub type JsRpcRequest;
    /// `Finality` of `types.shared.d.ts`.
    #[wasm_bindgen(typescript_type = "Finality | undefined")]
    #[derive(Debug)]
    pub type JsFinality;
    /// `ForwarderDomain` of `types.shared.d.ts`.
    #[wasm_bindgen(typescript_type = "ForwarderDomain")]
    #[derive(Debug)]
    pub type JsDomainOut;
}

#[derive(Debug, Serialize)]
struct RpcRequest<'a> {
    method: &'static str,
    params: &'a Value,
}

fn request<T>(call: &RpcCall<T>) -> Result<JsRpcRequest, Failure> {
    let (method, params) = call.parts();
    write(&RpcRequest { method, params })
}

pub(crate) fn node_error(error: RpcError) -> Failure {
    Failure::new("node_error", error)
}

pub(crate) fn address(what: &str, text: &str) -> Result<Address, Failure> {
    text.parse().map_err(|_| Failure::argument(format_args!("{what}: not an address")))
}

/// The JSON-RPC request for a user's next nonce at a forwarder.
///
/// # Errors
/// `invalid_argument`.
#[wasm_bindgen(js_name = nonceCall)]
pub fn nonce_call(forwarder: &str, owner: &str) -> Result<JsRpcRequest, Failure> {
    request(&rpc::nonces(address("forwarder", forwarder)?, address("owner", owner)?, BlockRef::Tag("latest")))
}

/// The JSON-RPC request for a forwarder's EIP-712 domain.
///
/// # Errors
/// `invalid_argument`.
#[cfg(feature = "page")]
#[wasm_bindgen(js_name = forwarderDomainCall)]
pub fn forwarder_domain_call(forwarder: &str) -> Result<JsRpcRequest, Failure> {
    request(&rpc::forwarder_domain(address("forwarder", forwarder)?))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DomainView<'a> {
    name: &'a str,
    chain_id: String,
    verifying_contract: String,
}

/// Reads the answer to `forwarderDomainCall`.
///
/// # Errors
/// `invalid_argument`, `node_error` if there is no forwarder.
#[cfg(feature = "page")]
#[wasm_bindgen(js_name = readForwarderDomain)]
pub fn read_forwarder_domain(result: &JsUnknown) -> Result<JsDomainOut, Failure> {
    let call = rpc::forwarder_domain(Address::ZERO);
    domain_out(&call.parse_result(crate::interop::read("result", result)?).map_err(node_error)?)
}

/// A domain as a JavaScript value.
pub(crate) fn domain_out(domain: &ForwarderDomain) -> Result<JsDomainOut, Failure> {
    write(&DomainView {
        name: domain.name(),
        chain_id: domain.chain_id().to_string(),
        verifying_contract: domain.forwarder().to_string(),
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Finality {
    kind: String,
    #[serde(default)]
    blocks: Option<u64>,
    #[serde(default)]
    fallback_depth: Option<u64>,
}

impl Finality {
    pub(crate) fn rule(&self) -> Result<FinalityRule, Failure> {
        match (self.kind.as_str(), self.blocks, self.fallback_depth) {
            ("depth", Some(blocks), None) => Ok(FinalityRule::Depth { blocks }),
            ("safe", None, None) => Ok(FinalityRule::SafeTag),
            ("finalized", None, depth) => Ok(FinalityRule::FinalizedTag { fallback_depth: depth.unwrap_or(0) }),
            _ => Err(Failure::argument("finality: not one of its kinds with the members of that kind")),
        }
    }
}

/// The signature in the forwarder's form, if it was made by the request's user. `v` may be 0 or 1, as from some
/// wallets.
///
/// # Errors
/// `invalid_argument`, also for another account's signature.
#[wasm_bindgen(js_name = checkedSignature)]
pub fn checked_signature(domain: &JsDomain, forward: &JsForward, signature: &str) -> Result<JsHex, Failure> {
    let unsigned = crate::request::unsigned(domain, forward)?;
    let forward = unsigned.with_signature(&bytes("signature", signature)?)?;
    Ok(hex(&forward.signature.to_string()))
}
