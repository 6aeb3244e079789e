//! Following one request to its end.

use pyo3::prelude::*;
use serde::Serialize;
use slackwater_client::{FollowStep, Until};

use crate::{
    error::{client as client_error, failure},
    value::{Call, Came, call, instant, span, text, write},
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChangeOut<'a> {
    from: Option<&'a str>,
    event: &'a slackwater_client::Event,
    is_fallback: bool,
}

/// Follows one request. Call `step`, carry out its instruction, pass the outcome back, take the changes.
#[pyclass(module = "slackwater")]
#[derive(Debug)]
pub(crate) struct Follow(slackwater_client::Follow);

#[pymethods]
impl Follow {
    #[new]
    #[pyo3(signature = (id, *, to_inclusion=false, poll=None))]
    fn new(id: &str, to_inclusion: bool, poll: Option<f64>) -> PyResult<Self> {
        let until = if to_inclusion { Until::Included } else { Until::Terminal };
        let follow = slackwater_client::Follow::new(text("id", id)?).until(until);
        Ok(Self(match span("poll", poll)? {
            Some(every) => follow.polling(every),
            None => follow,
        }))
    }

    /// The next instruction: `open` and `look` with a call, `wait` with a time in Unix ms, `read`, `done`.
    fn step(&mut self, now: u64) -> (&'static str, Option<Call>, Option<u64>) {
        match self.0.step(instant(now)) {
            FollowStep::Open(http) => ("open", Some(call(&http)), None),
            FollowStep::Look(http) => ("look", Some(call(&http)), None),
            FollowStep::Wait(until) => ("wait", None, Some(until.0)),
            FollowStep::Read => ("read", None, None),
            FollowStep::Done => ("done", None, None),
        }
    }

    fn opened(&mut self, now: u64, came: Came, entropy: u64) {
        self.0.opened(instant(now), came.result(), entropy);
    }

    /// False if the stream can't be read any further: close it.
    fn fed(&mut self, chunk: &[u8]) -> bool {
        self.0.bytes(chunk).is_ok()
    }

    fn closed(&mut self, now: u64, entropy: u64) {
        self.0.closed(instant(now), entropy);
    }

    fn looked(&mut self, now: u64, came: Came, entropy: u64) {
        self.0.looked(instant(now), came.result(), entropy);
    }

    fn next_change(&mut self) -> PyResult<Option<String>> {
        let Some(change) = self.0.next_change() else { return Ok(None) };
        let from = change.from.as_ref().map(slackwater_client::Open::as_str);
        write(&ChangeOut { from, event: &change.event, is_fallback: change.is_fallback }).map(Some)
    }

    fn state(&self) -> PyResult<Option<String>> {
        self.0.state().map(write).transpose()
    }

    /// Raises if following was given up, or the relayer contradicted a final status.
    fn check(&self) -> PyResult<()> {
        if let Some(event) = self.0.contradiction() {
            return Err(failure("contradiction", format_args!("the relayer says `{}` after the end", event.status)));
        }
        self.0.failure().map_or(Ok(()), |error| Err(client_error(error)))
    }
}
