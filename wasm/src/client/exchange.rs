//! One API call with its retries.

use serde::Serialize;
use serde_json::Value;
use slackwater_client::{HttpAnswer, RetryPolicy, Step, TransportError, api};
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};

use super::{HttpView, answer, entropy, transport_error};
use crate::{
    interop::{Failure, text, write},
    node::JsUnknown,
    scalar::{instant, number},
};

#[wasm_bindgen]
extern "C" {
    /// `Step` of `types.d.ts`.
    #[wasm_bindgen(typescript_type = "ExchangeStep")]
    #[derive(Debug)]
    pub type JsStep;
}

/// The next instruction of an exchange.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
enum StepView<'a> {
    /// Send this call.
    Send(HttpView<'a>),
    /// Call `step` again at this instant, Unix ms.
    Wait(f64),
}

/// One call of the relayer's API with its retries. Call [`Self::step`], carry out its instruction, and pass the
/// outcome back.
///
/// Answers are passed on as the relayer wrote them: parsing each into its type and serialising it again would be half
/// of the code that a page loads.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Exchange {
    inner: slackwater_client::Exchange<Value>,
}

#[wasm_bindgen]
impl Exchange {
    /// The call `name` of the API with `args`: an object as `slackwater_client::api::by_name` says.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub fn call(name: &str, args: &JsUnknown) -> Result<Self, Failure> {
        let call = api::any(api::by_name(name, &text("arguments", args)?)?);
        Ok(Self { inner: slackwater_client::Exchange::new(call, RetryPolicy::default(), None) })
    }

    /// The next instruction at `now`, Unix ms.
    ///
    /// # Errors
    /// `internal` only.
    pub fn step(&self, now: f64) -> Result<JsStep, Failure> {
        write(&match self.inner.step(instant(now)) {
            Step::Send(call) => StepView::Send(call.into()),
            Step::Wait(until) => StepView::Wait(number(until)),
        })
    }

    /// Passes in an answer. Returns the result, or `undefined` if [`Self::step`] has a further instruction. `random`
    /// is a value of `Math.random()`.
    ///
    /// # Errors
    /// The reason why the call failed for good.
    pub fn answered(
        &mut self,
        now: f64,
        status: u16,
        retry_after: Option<String>,
        body: &[u8],
        random: f64,
    ) -> Result<JsUnknown, Failure> {
        self.took(now, Ok(answer(status, retry_after, body)), random)
    }

    /// Passes in the lack of an answer: `kind` is `unreachable` if certainly nothing was sent, `timeout`, or `broken`.
    ///
    /// # Errors
    /// The reason why the call failed for good.
    pub fn failed(&mut self, now: f64, kind: &str, detail: &str, random: f64) -> Result<JsUnknown, Failure> {
        self.took(now, Err(transport_error(kind, detail)), random)
    }

    fn took(
        &mut self,
        now: f64,
        answer: Result<HttpAnswer, TransportError>,
        random: f64,
    ) -> Result<JsUnknown, Failure> {
        match self.inner.answer(instant(now), answer, entropy(random)) {
            None => Ok(JsUnknown::from(JsValue::UNDEFINED)),
            Some(result) => write(&result?),
        }
    }
}
