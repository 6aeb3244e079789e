//! One API call with its retries.

use pyo3::prelude::*;
use serde::{Deserialize, Serialize};
use slackwater_client::{
    ApiCall, ChainFees, Chains, Forecast, HttpAnswer, Quote, RequestDetail, RequestSummary, RetryPolicy, Step,
    TransportError, api,
};
use slackwater_core::Timestamp;

use crate::{
    error::client as client_error,
    value::{Call, Came, call, instant, parse, text, write},
};

/// An exchange of any result type, whose answer is passed to Python as JSON.
trait AnyExchange: Send + Sync {
    fn step(&self, now: Timestamp) -> Result<Call, Timestamp>;
    fn answer(
        &mut self,
        now: Timestamp,
        answer: Result<HttpAnswer, TransportError>,
        entropy: u64,
    ) -> PyResult<Option<String>>;
}

impl<T: Serialize> AnyExchange for slackwater_client::Exchange<T> {
    fn step(&self, now: Timestamp) -> Result<Call, Timestamp> {
        match Self::step(self, now) {
            Step::Send(http) => Ok(call(http)),
            Step::Wait(until) => Err(until),
        }
    }

    fn answer(
        &mut self,
        now: Timestamp,
        answer: Result<HttpAnswer, TransportError>,
        entropy: u64,
    ) -> PyResult<Option<String>> {
        match Self::answer(self, now, answer, entropy) {
            None => Ok(None),
            Some(Ok(value)) => write(&value).map(Some),
            Some(Err(error)) => Err(client_error(&error)),
        }
    }
}

/// One API call with its retries. Call `step`, carry out its instruction, pass the outcome to `answered`.
#[pyclass(module = "slackwater")]
pub(crate) struct Exchange(Box<dyn AnyExchange>);

fn exchange<T: Serialize + 'static>(call: ApiCall<T>) -> Exchange {
    Exchange(Box::new(slackwater_client::Exchange::new(call, RetryPolicy::default(), None)))
}

#[derive(Deserialize)]
struct OfBatch {
    id: String,
}

#[pymethods]
impl Exchange {
    /// The call `name` of the API, with arguments in JSON as `slackwater_client::api::by_name` says.
    #[new]
    fn new(name: &str, arguments: &str) -> PyResult<Self> {
        match name {
            "batch" => return Ok(exchange(api::batch(text("id", &parse::<OfBatch>("arguments", arguments)?.id)?))),
            "requests" => return Ok(exchange(api::requests(&parse("arguments", arguments)?))),
            _ => {}
        }
        let http = api::by_name(name, arguments).map_err(|error| client_error(&error))?;
        Ok(match name {
            "quote" => exchange(api::any::<Quote>(http)),
            "request" => exchange(api::any::<RequestDetail>(http)),
            "cancel" => exchange(api::any::<RequestSummary>(http)),
            "chains" => exchange(api::any::<Chains>(http)),
            "fees" => exchange(api::any::<ChainFees>(http)),
            _ => exchange(api::any::<Forecast>(http)),
        })
    }

    /// The call to send, or the time (Unix ms) until which to wait.
    fn step(&self, now: u64) -> (Option<Call>, Option<u64>) {
        match self.0.step(instant(now)) {
            Ok(call) => (Some(call), None),
            Err(until) => (None, Some(until.0)),
        }
    }

    /// The result as JSON; `None` if `step` has a further instruction.
    fn answered(&mut self, now: u64, came: Came, entropy: u64) -> PyResult<Option<String>> {
        self.0.answer(instant(now), came.result(), entropy)
    }
}
