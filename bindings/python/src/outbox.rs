//! Outbox of requests that must neither be lost nor sent twice.

use std::time::Duration;

use pyo3::prelude::*;
use slackwater::client::{self, Addressee, Command, Enqueue, EntryView, IdempotencyKey, OutboxConfig};

use crate::{
    error::{client as client_error, failure},
    submission::Submission,
    value::{Call, Came, call, instant, span, text, write},
    verify::Relayers,
};

/// Outbox of requests. After every call carry out the commands of `next_command` until there are none, and call
/// `timeout` at the time of `next_timeout`.
#[pyclass(module = "slackwater")]
#[derive(Debug)]
pub(crate) struct Outbox(client::Outbox);

fn key(text: &str) -> PyResult<IdempotencyKey> {
    IdempotencyKey::new(text).map_err(|error| client_error(&error))
}

/// A command: its name, the key, a number to pass back, a text, a call.
type CommandOut = (&'static str, Option<String>, u64, Option<String>, Option<Call>);

#[pymethods]
impl Outbox {
    #[new]
    #[pyo3(signature = (*, url, relayer=None, max_entries=None, max_batch_items=None, max_calls=None, linger=None))]
    fn new(
        url: &str,
        relayer: Option<Relayers>,
        max_entries: Option<usize>,
        max_batch_items: Option<usize>,
        max_calls: Option<usize>,
        linger: Option<f64>,
    ) -> PyResult<Self> {
        let default = OutboxConfig::default();
        let at_least_one = |value: Option<usize>, default: usize| value.unwrap_or(default).max(1);
        let linger: Option<Duration> = span("linger", linger)?;
        let identities = relayer.map(|relayer| relayer.addresses()).transpose()?.unwrap_or_default();
        let outbox = client::Outbox::new(OutboxConfig {
            max_entries: at_least_one(max_entries, default.max_entries),
            max_batch_items: at_least_one(max_batch_items, default.max_batch_items),
            max_calls: at_least_one(max_calls, default.max_calls),
            linger: linger.unwrap_or(default.linger),
            ..default
        });
        Ok(Self(outbox.addressed_to(Addressee::new(url, identities))))
    }

    /// Loads the stored records. Returns the keys of unreadable records, and the addresses of other relayers that
    /// entries are for.
    fn load(&mut self, now: u64, records: Vec<(String, String)>) -> (Vec<String>, Vec<String>) {
        let report = self.0.load(instant(now), records);
        (report.damaged, report.foreign)
    }

    #[pyo3(signature = (now, submission, expires_at=None))]
    fn enqueue(&mut self, now: u64, submission: &Submission, expires_at: Option<u64>) -> PyResult<String> {
        let request_id = submission.id.as_deref().map(|id| text("id", id)).transpose()?;
        let enqueue = Enqueue { expires_at: expires_at.map(instant), request_id };
        let taken = self.0.enqueue(instant(now), &submission.inner, enqueue);
        taken.map(|key| key.to_string()).map_err(|error| failure("outbox_refused", error))
    }

    fn next_command(&mut self) -> PyResult<Option<CommandOut>> {
        let Some(command) = self.0.next_command() else { return Ok(None) };
        Ok(Some(match command {
            Command::Store { key, revision, record } => ("store", Some(key.to_string()), revision, Some(record), None),
            Command::Remove { key } => ("remove", Some(key.to_string()), 0, None, None),
            Command::Send { send, http } => ("send", None, send, None, Some(call(&http))),
            Command::Report { key, outcome } => ("report", Some(key.to_string()), 0, Some(write(&outcome)?), None),
        }))
    }

    fn stored(&mut self, now: u64, name: &str, revision: u64) -> PyResult<()> {
        self.0.stored(instant(now), &key(name)?, revision);
        Ok(())
    }

    fn store_failed(&mut self, now: u64, name: &str, revision: u64, entropy: u64) -> PyResult<()> {
        self.0.store_failed(instant(now), &key(name)?, revision, entropy);
        Ok(())
    }

    fn answered(&mut self, now: u64, send: u64, came: Came, entropy: u64) {
        self.0.answered(instant(now), send, came.result(), entropy);
    }

    fn next_timeout(&self) -> Option<u64> {
        self.0.next_timeout().map(|at| at.0)
    }

    fn timeout(&mut self, now: u64) {
        self.0.timeout(instant(now));
    }

    fn acknowledge(&mut self, name: &str) -> PyResult<bool> {
        Ok(self.0.acknowledge(&key(name)?))
    }

    fn withdraw(&mut self, now: u64, name: &str) -> PyResult<bool> {
        Ok(self.0.withdraw(instant(now), &key(name)?))
    }

    fn entries(&self) -> PyResult<String> {
        write(&self.0.entries().collect::<Vec<EntryView>>())
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }
}
