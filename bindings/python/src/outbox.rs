//! Outbox of requests that must neither be lost nor sent twice.

use std::time::Duration;

use alloy_primitives::U256;
use pyo3::prelude::*;
use slackwater_client::{Addressee, Command, Enqueue, EntryView, IdempotencyKey, OutboxConfig, User};
use slackwater_core::request::Status;

use crate::{
    error::{client as client_error, failure},
    forward::{ForwarderDomain, UnsignedForward, builder},
    submission::Submission,
    value::{Call, Came, Uint, call, instant, span, text, write},
    verify::Relayers,
};

/// Outbox of requests. After every call carry out the commands of `next_command` until there are none, and call
/// `timeout` at the time of `next_timeout`.
#[pyclass(module = "slackwater")]
#[derive(Debug)]
pub(crate) struct Outbox(slackwater_client::Outbox);

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
        let outbox = slackwater_client::Outbox::new(OutboxConfig {
            max_entries: at_least_one(max_entries, default.max_entries),
            max_batch_items: at_least_one(max_batch_items, default.max_batch_items),
            max_calls: at_least_one(max_calls, default.max_calls),
            linger: linger.unwrap_or(default.linger),
            ..default
        });
        Ok(Self(outbox.addressed_to(Addressee::new(url, identities)).counting_nonces()))
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

    /// True if the user's nonce must be read from the chain before `assign`.
    fn is_unread(&mut self, now: u64, domain: &ForwarderDomain, sender: &str) -> PyResult<bool> {
        let (chain_id, forwarder) = (domain.0.chain_id(), domain.0.forwarder());
        let user = User { chain_id, forwarder, from: text("sender", sender)? };
        Ok(self.0.nonces().is_unread(instant(now), user))
    }

    /// A request to be signed now. It holds its nonce: `nonce`, or the user's first free one.
    #[pyo3(signature = (now, domain, sender, to, *, deadline, on_chain=None, nonce=None, data=Vec::new(), value=None,
        gas=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn assign(
        &mut self,
        now: u64,
        domain: &ForwarderDomain,
        sender: &str,
        to: &str,
        deadline: Uint<u64>,
        on_chain: Option<Uint<U256>>,
        nonce: Option<Uint<U256>>,
        data: Vec<u8>,
        value: Option<Uint<U256>>,
        gas: Option<Uint<u64>>,
    ) -> PyResult<UnsignedForward> {
        let builder = builder(domain, sender, to, nonce, deadline, data, value, gas)?;
        let assigned = self.0.nonces().assign(instant(now), builder, on_chain.map(|next| next.0), &[]);
        assigned.map(UnsignedForward).map_err(|error| client_error(&error))
    }

    /// The request was signed. False if it does not hold its nonce any more.
    fn signed(&mut self, now: u64, id: &str) -> PyResult<bool> {
        Ok(self.0.nonces().signed(instant(now), text("id", id)?))
    }

    fn free_nonce(&mut self, id: &str) -> PyResult<()> {
        self.0.nonces().free(text("id", id)?);
        Ok(())
    }

    /// Passes in the status of an accepted request.
    fn told(&mut self, now: u64, id: &str, status: &str) -> PyResult<()> {
        if let Some(status) = Status::from_name(status) {
            self.0.nonces().told(instant(now), text("id", id)?, status);
        }
        Ok(())
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
