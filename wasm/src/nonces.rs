//! Nonces that requests get when they are signed.

use alloy_primitives::Address;
use slackwater_client::{Place, rpc};
#[cfg(feature = "page")]
use wasm_bindgen::prelude::wasm_bindgen;

#[cfg(feature = "page")]
use crate::scalar::number;
use crate::{
    interop::{Failure, read},
    node::{JsUnknown, node_error},
    request::{JsDomain, JsForward, builder},
    scalar::{instant, request_id},
};

/// Assigns a nonce to a request, and returns it. `answer` is the node's to `nonceCall`; `held` are names of nonces that
/// others hold, one per line, like those of `elsewhere`.
pub(crate) fn assign(
    nonces: &mut slackwater_client::Nonces,
    now: f64,
    request: (&JsDomain, &JsForward),
    answer: &JsUnknown,
    held: &str,
    mut elsewhere: Vec<Place>,
) -> Result<String, Failure> {
    elsewhere.extend(held.split('\n').filter_map(Place::from_key));
    let (builder, nonce) = builder(request.0, request.1)?;
    let (builder, on_chain) = if answer.is_undefined() {
        (builder.nonce(nonce), None)
    } else {
        let call = rpc::nonces(Address::ZERO, Address::ZERO, rpc::BlockRef::Tag("latest"));
        (builder, Some(call.parse_result(read("answer", answer)?).map_err(node_error)?))
    };
    Ok(nonces.assign(instant(now), builder, on_chain, &elsewhere)?.forward().nonce.to_string())
}

/// Passes in that a request was signed, or else that it will not be. False if it was, and does not hold its nonce (any
/// more).
pub(crate) fn signed(
    nonces: &mut slackwater_client::Nonces,
    now: f64,
    id: &str,
    is_signed: bool,
) -> Result<bool, Failure> {
    let id = request_id(id)?;
    if is_signed {
        return Ok(nonces.signed(instant(now), id));
    }
    nonces.free(id);
    Ok(true)
}

/// Nonces of requests that are being signed, or were and are not queued.
#[cfg(feature = "page")]
#[wasm_bindgen]
#[derive(Debug, Default)]
pub struct Nonces {
    inner: slackwater_client::Nonces,
}

#[cfg(feature = "page")]
#[wasm_bindgen]
impl Nonces {
    /// None.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Assigns a nonce to a request that is to be signed now, and returns it: the user's first free one, or its own if
    /// `answer` is `undefined`. `answer` is the node's to `nonceCall`; `held` are names of nonces that others hold, one
    /// per line.
    ///
    /// # Errors
    /// `invalid_argument`, `node_error`. Nothing is held.
    pub fn assign(
        &mut self,
        now: f64,
        domain: &JsDomain,
        request: &JsForward,
        answer: &JsUnknown,
        held: &str,
    ) -> Result<String, Failure> {
        assign(&mut self.inner, now, (domain, request), answer, held, Vec::new())
    }

    /// Time by which a request that is assigned now must be signed, Unix ms.
    ///
    /// # Errors
    /// `invalid_argument`.
    #[wasm_bindgen(js_name = signBy)]
    pub fn sign_by(&self, now: f64, id: &str) -> Result<f64, Failure> {
        Ok(number(self.inner.sign_by(instant(now), request_id(id)?)))
    }

    /// The request was signed, and holds its nonce on; or it will not be signed, or not submitted. False if it was, and
    /// does not hold its nonce (any more).
    ///
    /// # Errors
    /// `invalid_argument`.
    pub fn signed(&mut self, now: f64, id: &str, is_signed: bool) -> Result<bool, Failure> {
        signed(&mut self.inner, now, id, is_signed)
    }
}
