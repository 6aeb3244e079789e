//! Questions to the user's own node.

use alloy_primitives::{Address, U256};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use slackwater::{
    chain::FinalityRule,
    client::{
        Event,
        rpc::{self, BlockRef, RpcCall, RpcError},
        verify::{self, Binding, InclusionClaim, Verdict},
    },
    request::Forward,
};
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};

use super::JsUnknown;
use crate::{
    interop::{Failure, parse, read, write},
    request::{JsDomain, JsForward, JsHex, bytes, hex, read_forward},
};

#[wasm_bindgen]
extern "C" {
    /// `RequestArguments` of EIP-1193.
    #[wasm_bindgen(typescript_type = "RpcRequest")]
    #[derive(Debug)]
    pub type JsRpcRequest;
    /// `RequestEvent` of `types.d.ts`.
    #[wasm_bindgen(typescript_type = "RequestEvent")]
    #[derive(Debug)]
    pub type JsClaim;
    /// `Finality` of `types.d.ts`.
    #[wasm_bindgen(typescript_type = "Finality | undefined")]
    #[derive(Debug)]
    pub type JsFinality;
    /// `Verdict` of `types.d.ts`.
    #[wasm_bindgen(typescript_type = "Verdict | undefined")]
    #[derive(Debug)]
    pub type JsVerdict;
    /// `ForwarderDomain` of `types.d.ts`.
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

fn node_error(error: RpcError) -> Failure {
    Failure::new("node_error", error)
}

fn address(what: &str, text: &str) -> Result<Address, Failure> {
    text.parse().map_err(|_| Failure::argument(format_args!("{what}: not an address")))
}

/// Asks for a user's next nonce at a forwarder.
///
/// # Errors
/// `invalid_argument`.
#[wasm_bindgen(js_name = nonceCall)]
pub fn nonce_call(forwarder: &str, owner: &str) -> Result<JsRpcRequest, Failure> {
    request(&rpc::nonces(address("forwarder", forwarder)?, address("owner", owner)?, BlockRef::Tag("latest")))
}

/// Reads the answer to `nonceCall`, in decimal digits.
///
/// # Errors
/// `invalid_argument`, `node_error`.
#[wasm_bindgen(js_name = readNonce)]
pub fn read_nonce(result: &JsUnknown) -> Result<String, Failure> {
    let call = rpc::nonces(Address::ZERO, Address::ZERO, BlockRef::Tag("latest"));
    let nonce: U256 = call.parse_result(read("result", result)?).map_err(node_error)?;
    Ok(nonce.to_string())
}

/// Asks a forwarder for its EIP-712 domain.
///
/// # Errors
/// `invalid_argument`.
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
/// `invalid_argument`, `node_error` where there is no forwarder.
#[wasm_bindgen(js_name = readForwarderDomain)]
pub fn read_forwarder_domain(result: &JsUnknown) -> Result<JsDomainOut, Failure> {
    let call = rpc::forwarder_domain(Address::ZERO);
    let domain = call.parse_result(read("result", result)?).map_err(node_error)?;
    write(&DomainView {
        name: domain.name(),
        chain_id: domain.chain_id().to_string(),
        verifying_contract: domain.forwarder().to_string(),
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Finality {
    kind: String,
    #[serde(default)]
    blocks: Option<u64>,
    #[serde(default)]
    fallback_depth: Option<u64>,
}

impl Finality {
    fn rule(&self) -> Result<FinalityRule, Failure> {
        match (self.kind.as_str(), self.blocks, self.fallback_depth) {
            ("depth", Some(blocks), None) => Ok(FinalityRule::Depth { blocks }),
            ("safe", None, None) => Ok(FinalityRule::SafeTag),
            ("finalized", None, depth) => Ok(FinalityRule::FinalizedTag { fallback_depth: depth.unwrap_or(0) }),
            _ => Err(Failure::argument("finality: not one of its kinds with the members of that kind")),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
enum VerdictView {
    #[serde(rename_all = "camelCase")]
    Confirmed {
        is_final: bool,
        is_success: bool,
        block_number: u64,
        block_hash: String,
        binding: &'static str,
    },
    Pending,
    Mismatch {
        detail: String,
    },
    Unknown {
        detail: String,
    },
}

impl From<&Verdict> for VerdictView {
    fn from(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Confirmed { is_final, is_success, block_number, block_hash, binding } => Self::Confirmed {
                is_final: *is_final,
                is_success: *is_success,
                block_number: *block_number,
                block_hash: block_hash.to_string(),
                binding: match binding {
                    Binding::Content => "content",
                    Binding::Nonce => "nonce",
                },
            },
            Verdict::Pending => Self::Pending,
            Verdict::Mismatch(mismatch) => Self::Mismatch { detail: mismatch.to_string() },
            Verdict::Unknown(detail) => Self::Unknown { detail: detail.clone() },
        }
    }
}

/// Checks at the user's own node what a relayer says about the chain. Send [`Self::next_body`], give back the answer,
/// until there is a verdict.
#[wasm_bindgen]
#[derive(Debug)]
pub struct InclusionCheck {
    inner: verify::InclusionCheck,
}

#[wasm_bindgen]
impl InclusionCheck {
    /// A check of what `event` claims about a request. Without `signature` the check is the same, and binds less.
    ///
    /// # Errors
    /// `invalid_argument`; `no_claim` for an event that claims no execution.
    #[wasm_bindgen(constructor)]
    pub fn new(
        domain: &JsDomain,
        forward: &JsForward,
        signature: Option<String>,
        event: &JsClaim,
        finality: &JsFinality,
    ) -> Result<Self, Failure> {
        let (domain, forward) = read_forward(domain, forward)?;
        let signature = signature.map(|text| bytes("signature", &text)).transpose()?.unwrap_or_default();
        let event: Event = read("event", event)?;
        let claim = InclusionClaim::of_event(&event)
            .ok_or_else(|| Failure::new("no_claim", "the event does not say that the request was executed"))?;
        let rule = if finality.is_undefined() {
            FinalityRule::FinalizedTag { fallback_depth: 0 }
        } else {
            read::<Finality>("finality", finality)?.rule()?
        };
        Ok(Self { inner: verify::InclusionCheck::new(domain, Forward { signature, ..forward }, claim, rule) })
    }

    /// The next JSON-RPC body to send; `undefined` once there is a verdict.
    #[wasm_bindgen(js_name = nextBody)]
    pub fn next_body(&self) -> Option<String> {
        self.inner.next_body()
    }

    /// Takes the body of the node's answer.
    pub fn answer(&mut self, body: &str) {
        self.inner.answer(body.as_bytes());
    }

    /// The node did not answer.
    #[wasm_bindgen(js_name = noAnswer)]
    pub fn no_answer(&mut self, why: &str) {
        self.inner.no_answer(why);
    }

    /// What the answers amount to, once there is no question left.
    ///
    /// # Errors
    /// `internal` only.
    pub fn verdict(&self) -> Result<JsVerdict, Failure> {
        match self.inner.verdict() {
            None => Ok(JsVerdict::from(JsValue::UNDEFINED)),
            Some(verdict) => write(&VerdictView::from(verdict)),
        }
    }
}

/// Checks that an acceptance is the word of `relayer` about this request; see the package's `Slackwater`.
///
/// # Errors
/// `invalid_argument`; `bad_promise` with what is wrong.
#[wasm_bindgen(js_name = verifyAccepted)]
pub fn verify_accepted(
    accepted: &str,
    request: &str,
    chain_id: &super::exchange::JsQuantity,
    relayer: &str,
    not_after_ms: Option<f64>,
) -> Result<(), Failure> {
    let chain_id: crate::scalar::Quantity<u64> = read("chainId", chain_id)?;
    let expected = verify::ExpectedPromise {
        request: super::request_id(request)?,
        chain_id: chain_id.0,
        relayer: address("relayer", relayer)?,
        not_after: not_after_ms.map(super::instant),
    };
    let accepted = parse("accepted", accepted)?;
    verify::verify_accepted(&accepted, &expected).map_err(|fault| Failure::new("bad_promise", fault))
}

/// The signature as a forwarder takes it, if it is that of the request's user. `v` may be 0 or 1, as some wallets give it.
///
/// # Errors
/// `invalid_argument`, also for another account's signature.
#[wasm_bindgen(js_name = checkedSignature)]
pub fn checked_signature(domain: &JsDomain, forward: &JsForward, signature: &str) -> Result<JsHex, Failure> {
    let unsigned = crate::request::unsigned(domain, forward)?;
    let forward = unsigned.with_signature(&bytes("signature", signature)?)?;
    Ok(hex(&forward.signature.to_string()))
}
