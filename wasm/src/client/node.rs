//! Checks of a relayer's word at the user's own node.

use serde::Serialize;
use slackwater::{
    chain::FinalityRule,
    client::{
        Event,
        verify::{self, Binding, InclusionClaim, Verdict},
    },
    request::Forward,
};
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};

use crate::{
    interop::{Failure, parse, read, write},
    node::{Finality, JsFinality, address},
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
    chain_id: &JsQuantity,
    relayer: &str,
    not_after_ms: Option<f64>,
) -> Result<(), Failure> {
    let chain_id: Quantity<u64> = read("chainId", chain_id)?;
    let expected = verify::ExpectedPromise {
        request: request_id(request)?,
        chain_id: chain_id.0,
        relayer: address("relayer", relayer)?,
        not_after: not_after_ms.map(instant),
    };
    let accepted = parse("accepted", accepted)?;
    verify::verify_accepted(&accepted, &expected).map_err(|fault| Failure::new("bad_promise", fault))
}
