//! Checks of a relayer's claims at the user's own node.

use alloy_primitives::Address;
use serde::Serialize;
use slackwater_client::{
    Accepted, ClientError, Event,
    verify::{self, Binding, InclusionClaim, Verdict},
};
use slackwater_core::{chain::FinalityRule, request::Forward};
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};

use crate::{
    interop::{Failure, parse, read, write},
    node::{Finality, JsDomainOut, JsFinality, address, domain_out},
    request::{JsDomain, JsForward, bytes, read_forward},
    scalar::{JsQuantity, Quantity, instant, request_id},
};

#[wasm_bindgen]
extern "C" {
    /// `RequestEvent` of `types.d.ts`.
    #[wasm_bindgen(typescript_type = "RequestEvent")]
    #[derive(Debug)]
    pub type JsClaim;
    /// `Verdict` of `types.d.ts`.
    #[wasm_bindgen(typescript_type = "Verdict | undefined")]
    #[derive(Debug)]
    pub type JsVerdict;
    /// JSON-RPC bodies.
    #[wasm_bindgen(typescript_type = "string[]")]
    #[derive(Debug)]
    pub type JsBodies;
    /// Strings.
    #[wasm_bindgen(typescript_type = "readonly string[]")]
    #[derive(Debug)]
    pub type JsTexts;
}

/// Parses the relayers' addresses.
pub(super) fn identities(texts: &JsTexts) -> Result<Vec<Address>, Failure> {
    let texts: Vec<String> = read("relayer", texts)?;
    texts.iter().map(|text| address("relayer", text)).collect()
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
    #[serde(rename = "untrusted_forwarder")]
    UntrustedForwarder {
        detail: &'static str,
    },
    #[serde(rename = "unknown_forwarder")]
    UnknownForwarder {
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
            Verdict::UntrustedForwarder => {
                Self::UntrustedForwarder { detail: "the target does not trust the forwarder" }
            }
            Verdict::UnknownForwarder { code_hash } => {
                Self::UnknownForwarder { detail: format!("code with hash {code_hash} is no known forwarder") }
            }
            Verdict::Unknown(detail) => Self::Unknown { detail: detail.clone() },
        }
    }
}

/// Checks a relayer's claims about the chain at the user's own node. Send [`Self::next_body`] and pass the answer
/// back, until there is a verdict.
#[wasm_bindgen]
#[derive(Debug)]
pub struct InclusionCheck {
    inner: verify::InclusionCheck,
}

#[wasm_bindgen]
impl InclusionCheck {
    /// A check of the claim in `event` about a request. Without `signature` the check is the same, but the verdict
    /// binds the relayer less. With `pinned`, the forwarder may have any code.
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
        pinned: bool,
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
        let check = verify::InclusionCheck::new(domain, Forward { signature, ..forward }, claim, rule);
        Ok(Self { inner: if pinned { check.pinned() } else { check } })
    }

    /// The next JSON-RPC body to send; `undefined` once there is a verdict.
    #[wasm_bindgen(js_name = nextBody)]
    pub fn next_body(&self) -> Option<String> {
        self.inner.next_body()
    }

    /// Passes in the body of the node's answer.
    pub fn answer(&mut self, body: &str) {
        self.inner.answer(body.as_bytes());
    }

    /// The node did not answer; `why` is the reason.
    #[wasm_bindgen(js_name = noAnswer)]
    pub fn no_answer(&mut self, why: &str) {
        self.inner.no_answer(why);
    }

    /// The verdict, once there is no query left.
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

/// Checks at the user's own node that a forwarder is safe to sign for: send all [`Self::bodies`], then call
/// [`Self::judge`].
#[wasm_bindgen]
#[derive(Debug)]
pub struct ForwarderCheck {
    inner: verify::ForwarderCheck,
}

#[wasm_bindgen]
impl ForwarderCheck {
    /// A check of `forwarder` for requests to `target`. With `pinned`, the forwarder may have any code.
    ///
    /// # Errors
    /// `invalid_argument`.
    #[wasm_bindgen(constructor)]
    pub fn new(chain_id: &JsQuantity, forwarder: &str, target: &str, pinned: bool) -> Result<Self, Failure> {
        let chain_id: Quantity<u64> = read("chainId", chain_id)?;
        let (forwarder, target) = (address("forwarder", forwarder)?, address("to", target)?);
        let check = verify::ForwarderCheck::new(chain_id.0, forwarder, target);
        Ok(Self { inner: if pinned { check.pinned() } else { check } })
    }

    /// JSON-RPC bodies to send.
    ///
    /// # Errors
    /// `internal` only.
    pub fn bodies(&self) -> Result<JsBodies, Failure> {
        write(&self.inner.bodies())
    }

    /// The forwarder's domain, from the bodies of the node's answers, in order.
    ///
    /// # Errors
    /// `wrong_chain`, `untrusted_forwarder`, `unknown_forwarder`, `node_error`.
    pub fn judge(&self, answers: &JsTexts) -> Result<JsDomainOut, Failure> {
        let answers: Vec<String> = read("answers", answers)?;
        let domain = self.inner.judge(&answers).map_err(|fault| Failure::new(fault.code(), fault))?;
        domain_out(&domain)
    }
}

/// Checks that an acceptance is a promise about this request signed by one of `relayers`; see the package's
/// `Slackwater`.
///
/// # Errors
/// `invalid_argument`; `bad_promise` with the fault.
#[wasm_bindgen(js_name = verifyAccepted)]
pub fn verify_accepted(
    accepted: &str,
    request: &str,
    chain_id: &JsQuantity,
    relayers: &JsTexts,
    not_after_ms: Option<f64>,
) -> Result<(), Failure> {
    let chain_id: Quantity<u64> = read("chainId", chain_id)?;
    let relayers = identities(relayers)?;
    let accepted: Accepted = parse("accepted", accepted)?;
    let expected = verify::ExpectedPromise {
        request: request_id(request)?,
        chain_id: chain_id.0,
        relayer: verify::pin_for(&relayers, &accepted.promise)
            .ok_or_else(|| Failure::argument("relayer: none is given"))?,
        not_after: not_after_ms.map(instant),
    };
    verify::verify_accepted(&accepted, &expected).map_err(|fault| ClientError::from(fault).into())
}
