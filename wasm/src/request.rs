//! Forward requests and their signatures.

#[cfg(feature = "client")]
use alloy_primitives::B256;
use alloy_primitives::{Bytes, U256};
use serde::Deserialize;
use slackwater_client::{ForwardBuilder, UnsignedForward};
#[cfg(feature = "client")]
use slackwater_core::request;
use slackwater_core::request::{Forward, ForwarderDomain};
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};

use crate::{
    interop::{Failure, check_size, decode, read},
    scalar::{Account, HexBytes, Quantity},
};

#[wasm_bindgen]
extern "C" {
    /// `ForwarderDomain` of `types.d.ts`.
    #[wasm_bindgen(typescript_type = "ForwarderDomain")]
    #[derive(Debug)]
    pub type JsDomain;
    /// `ForwardRequest` of `types.d.ts`.
    #[wasm_bindgen(typescript_type = "ForwardRequest")]
    #[derive(Debug)]
    pub type JsForward;
    /// `ForwardTypedData` of `types.d.ts`.
    #[wasm_bindgen(typescript_type = "ForwardTypedData")]
    #[derive(Debug)]
    pub type JsTypedData;
    /// Hex string, in TypeScript's type.
    #[wasm_bindgen(typescript_type = "Hex")]
    #[derive(Debug)]
    pub type JsHex;
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Domain {
    name: String,
    #[serde(default)]
    version: Option<String>,
    chain_id: Quantity<u64>,
    verifying_contract: Account,
}

/// A `signature` member is allowed beside it; it is not signed.
#[derive(Debug, Deserialize)]
struct Body {
    from: Account,
    to: Account,
    #[serde(default)]
    value: Quantity<U256>,
    gas: Quantity<U256>,
    nonce: Quantity<U256>,
    deadline: Quantity<u64>,
    #[serde(default)]
    data: HexBytes,
}

/// Largest value of Solidity's `uint48`.
const MAX_UINT48: u64 = (1 << 48) - 1;

pub(crate) fn read_forward(domain: &JsValue, forward: &JsValue) -> Result<(ForwarderDomain, Forward), Failure> {
    let Domain { name, version, chain_id, verifying_contract } = read("domain", domain)?;
    if version.is_some_and(|version| version != "1") {
        return Err(Failure::argument("domain: an ERC2771Forwarder has version `1`"));
    }
    let body: Body = read("request", forward)?;
    if body.deadline.0 > MAX_UINT48 {
        return Err(Failure::argument(format_args!("request: deadline {} does not fit uint48", body.deadline.0)));
    }
    let forward = Forward {
        forwarder: verifying_contract.0,
        from: body.from.0,
        to: body.to.0,
        value: body.value.0,
        gas: body.gas.0,
        nonce: body.nonce.0,
        deadline: body.deadline.0,
        data: body.data.0,
        signature: Bytes::new(),
    };
    Ok((ForwarderDomain::new(name, chain_id.0, verifying_contract.0), forward))
}

/// The request in the client's builder, but for its nonce, which is returned.
pub(crate) fn builder(domain: &JsValue, forward: &JsValue) -> Result<(ForwardBuilder, U256), Failure> {
    let (domain, forward) = read_forward(domain, forward)?;
    let gas = u64::try_from(forward.gas).map_err(|_| Failure::argument("request: gas is out of range"))?;
    let builder = ForwardBuilder::new(domain, forward.from, forward.to).data(forward.data).value(forward.value);
    Ok((builder.gas(gas).deadline_s(forward.deadline), forward.nonce))
}

/// The request, checked by the client's builder.
pub(crate) fn unsigned(domain: &JsValue, forward: &JsValue) -> Result<UnsignedForward, Failure> {
    let (builder, nonce) = builder(domain, forward)?;
    Ok(builder.nonce(nonce).build()?)
}

/// The typed data for `eth_signTypedData_v4`.
///
/// # Errors
/// `invalid_argument`, also for a request without gas.
#[wasm_bindgen(js_name = forwardTypedData)]
pub fn forward_typed_data(domain: &JsDomain, request: &JsForward) -> Result<JsTypedData, Failure> {
    decode(&unsigned(domain, request)?.typed_data())
        .map(JsTypedData::from)
        .map_err(|_| Failure::new("internal", "the typed data are no JSON"))
}

/// The EIP-712 digest that the user signs. It is also the request's id.
///
/// # Errors
/// `invalid_argument`.
#[wasm_bindgen(js_name = forwardDigest)]
pub fn forward_digest(domain: &JsDomain, request: &JsForward) -> Result<JsHex, Failure> {
    let (domain, forward) = read_forward(domain, request)?;
    Ok(hex(&domain.digest(&forward).to_string()))
}

/// The address whose key made `signature` over `digest`, with its checksum.
///
/// # Errors
/// `invalid_argument`; `invalid_signature` on anything that an OpenZeppelin forwarder would refuse.
#[cfg(feature = "client")]
#[wasm_bindgen(js_name = recoverSigner)]
pub fn recover_signer(digest: &str, signature: &str) -> Result<JsHex, Failure> {
    let digest: B256 = digest.parse().map_err(|_| Failure::argument("digest: not a hash of 32 bytes"))?;
    let signature = bytes("signature", signature)?;
    let signer = request::recover(digest, &signature).map_err(|error| Failure::new("invalid_signature", error))?;
    Ok(hex(&signer.to_string()))
}

pub(crate) fn hex(text: &str) -> JsHex {
    JsHex::from(JsValue::from_str(text))
}

pub(crate) fn bytes(what: &str, text: &str) -> Result<Bytes, Failure> {
    check_size(what, text)?;
    text.parse().map_err(|_| Failure::argument(format_args!("{what}: not hex bytes")))
}
