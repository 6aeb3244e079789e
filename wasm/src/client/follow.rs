//! Following one request to its end.

use serde::Serialize;
use slackwater_client::{FollowStep, Until};
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};

use super::{HttpView, answer, entropy, transport_error};
use crate::{
    interop::{Failure, write},
    scalar::{instant, number, request_id},
};

#[wasm_bindgen]
extern "C" {
    /// `FollowStep` of `types.d.ts`.
    #[wasm_bindgen(typescript_type = "FollowStep")]
    #[derive(Debug)]
    pub type JsFollowStep;
    /// `Change` of `types.d.ts`.
    #[wasm_bindgen(typescript_type = "Change | undefined")]
    #[derive(Debug)]
    pub type JsChange;
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
enum FollowView<'a> {
    Open(HttpView<'a>),
    Look(HttpView<'a>),
    Wait(f64),
    Read,
    Done,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ChangeView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    event: &'a slackwater_client::Event,
    is_fallback: bool,
}

/// Follows one request through broken connections, repeated events and reorganisations. Call [`Self::step`], carry out
/// its instruction, pass the outcome back, and take the changes.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Follow {
    inner: slackwater_client::Follow,
}

#[wasm_bindgen]
impl Follow {
    /// Follows request `id` until it has ended, or, if `to_inclusion`, until it is in a block.
    ///
    /// # Errors
    /// `invalid_argument`.
    #[wasm_bindgen(constructor)]
    pub fn new(id: &str, to_inclusion: bool) -> Result<Self, Failure> {
        let until = if to_inclusion { Until::Included } else { Until::Terminal };
        Ok(Self { inner: slackwater_client::Follow::new(request_id(id)?).until(until) })
    }

    /// The next instruction at `now`, Unix ms.
    ///
    /// # Errors
    /// `internal` only.
    pub fn step(&mut self, now: f64) -> Result<JsFollowStep, Failure> {
        write(&match &self.inner.step(instant(now)) {
            FollowStep::Open(call) => FollowView::Open(call.into()),
            FollowStep::Look(call) => FollowView::Look(call.into()),
            FollowStep::Wait(until) => FollowView::Wait(number(*until)),
            FollowStep::Read => FollowView::Read,
            FollowStep::Done => FollowView::Done,
        })
    }

    /// The stream was opened or refused; if refused, `body` is that of the answer.
    pub fn opened(&mut self, now: f64, status: u16, retry_after: Option<String>, body: &[u8], random: f64) {
        self.inner.opened(instant(now), Ok(answer(status, retry_after, body)), entropy(random));
    }

    /// Passes in bytes of the stream. False if the stream can't be read any further: close it.
    pub fn bytes(&mut self, bytes: &[u8]) -> bool {
        self.inner.bytes(bytes).is_ok()
    }

    /// The stream has ended or is broken.
    pub fn closed(&mut self, now: f64, random: f64) {
        self.inner.closed(instant(now), entropy(random));
    }

    /// Passes in the answer to `look`.
    pub fn looked(&mut self, now: f64, status: u16, retry_after: Option<String>, body: &[u8], random: f64) {
        self.inner.looked(instant(now), Ok(answer(status, retry_after, body)), entropy(random));
    }

    /// Neither a stream nor an answer came.
    pub fn failed(&mut self, now: f64, kind: &str, detail: &str, random: f64) {
        let error = transport_error(kind, detail);
        // Only one of them is waited for; the other ignores the call.
        self.inner.opened(instant(now), Err(error.clone()), entropy(random));
        self.inner.looked(instant(now), Err(error), entropy(random));
    }

    /// The next change that was not taken yet.
    ///
    /// # Errors
    /// `internal` only.
    #[wasm_bindgen(js_name = nextChange)]
    pub fn next_change(&mut self) -> Result<JsChange, Failure> {
        let Some(change) = self.inner.next_change() else { return Ok(JsChange::from(JsValue::UNDEFINED)) };
        let from = change.from.as_ref().map(slackwater_client::Open::as_str);
        write(&ChangeView { from, event: &change.event, is_fallback: change.is_fallback })
    }

    /// Fails if following was given up, or the relayer contradicted a final status.
    ///
    /// # Errors
    /// The reason.
    pub fn check(&self) -> Result<(), Failure> {
        if let Some(event) = self.inner.contradiction() {
            let message = format!("the relayer says `{}` after the end", event.status);
            return Err(Failure::new("contradiction", message));
        }
        self.inner.failure().map_or(Ok(()), |error| Err(error.clone().into()))
    }
}
