//! One API call with its retries.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use slackwater::client::{self, ApiCall, HttpAnswer, RetryPolicy, Step, TransportError, api};
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};

use super::{HttpView, answer, entropy, transport_error};
use crate::{
    interop::{Failure, read, write},
    node::JsUnknown,
    scalar::{JsQuantity, Quantity, instant, number, request_id},
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
    inner: client::Exchange<Value>,
}

fn exchange<T>(call: ApiCall<T>) -> Exchange {
    Exchange { inner: client::Exchange::new(call.untyped(), RetryPolicy::default(), None) }
}

fn chain(id: &JsQuantity) -> Result<u64, Failure> {
    Ok(read::<Quantity<u64>>("chainId", id)?.0)
}

fn span(ms: Option<f64>) -> Option<Duration> {
    ms.map(|ms| instant(ms).since(instant(0.0)))
}

#[wasm_bindgen]
impl Exchange {
    /// `POST /v1/quotes`.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub fn quote(chain_id: &JsQuantity, gas: &JsQuantity, within_ms: Option<f64>) -> Result<Self, Failure> {
        let gas: Quantity<u64> = read("gas", gas)?;
        Ok(exchange(api::quote(chain(chain_id)?, gas.0, span(within_ms))))
    }

    /// `GET /v1/requests/{id}`.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub fn request(id: &str) -> Result<Self, Failure> {
        Ok(exchange(api::request(request_id(id)?)))
    }

    /// `DELETE /v1/requests/{id}`.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub fn cancel(id: &str) -> Result<Self, Failure> {
        Ok(exchange(api::cancel(request_id(id)?)))
    }

    /// `GET /v1/chains`.
    pub fn chains() -> Self {
        exchange(api::chains())
    }

    /// `GET /v1/chains/{id}/fees`.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub fn fees(chain_id: &JsQuantity) -> Result<Self, Failure> {
        Ok(exchange(api::fees(chain(chain_id)?)))
    }

    /// `GET /v1/chains/{id}/forecast`.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub fn forecast(chain_id: &JsQuantity, horizon_ms: Option<f64>) -> Result<Self, Failure> {
        Ok(exchange(api::forecast(chain(chain_id)?, span(horizon_ms))))
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
