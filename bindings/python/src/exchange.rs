//! One API call with its retries.

use pyo3::prelude::*;
use serde::Serialize;
use slackwater::{
    Timestamp,
    client::{
        self, ApiCall, HttpAnswer, RetryPolicy, Step, TransportError,
        api::{self, ListFilter},
    },
    request::Status,
};

use crate::{
    error::{argument, client as client_error},
    value::{Call, Came, Uint, call, instant, span, text, write},
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

impl<T: Serialize> AnyExchange for client::Exchange<T> {
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
    Exchange(Box::new(client::Exchange::new(call, RetryPolicy::default(), None)))
}

#[pymethods]
impl Exchange {
    #[staticmethod]
    #[pyo3(signature = (chain_id, gas, within=None))]
    fn quote(chain_id: Uint<u64>, gas: Uint<u64>, within: Option<f64>) -> PyResult<Self> {
        Ok(exchange(api::quote(chain_id.0, gas.0, span("within", within)?)))
    }

    #[staticmethod]
    fn request(id: &str) -> PyResult<Self> {
        Ok(exchange(api::request(text("id", id)?)))
    }

    #[staticmethod]
    #[pyo3(signature = (status=None, chain_id=None, cursor=None, limit=None))]
    fn requests(
        status: Option<&str>,
        chain_id: Option<Uint<u64>>,
        cursor: Option<String>,
        limit: Option<u16>,
    ) -> PyResult<Self> {
        let status: Option<Status> = status
            .map(|status| serde_json::from_value(status.into()).map_err(|_| argument("status: there is none such")))
            .transpose()?;
        Ok(exchange(api::requests(&ListFilter { status, chain_id: chain_id.map(|id| id.0), cursor, limit })))
    }

    #[staticmethod]
    fn cancel(id: &str) -> PyResult<Self> {
        Ok(exchange(api::cancel(text("id", id)?)))
    }

    #[staticmethod]
    fn chains() -> Self {
        exchange(api::chains())
    }

    #[staticmethod]
    fn fees(chain_id: Uint<u64>) -> Self {
        exchange(api::fees(chain_id.0))
    }

    #[staticmethod]
    #[pyo3(signature = (chain_id, horizon=None))]
    fn forecast(chain_id: Uint<u64>, horizon: Option<f64>) -> PyResult<Self> {
        Ok(exchange(api::forecast(chain_id.0, span("horizon", horizon)?)))
    }

    #[staticmethod]
    fn batch(id: &str) -> PyResult<Self> {
        Ok(exchange(api::batch(text("id", id)?)))
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
