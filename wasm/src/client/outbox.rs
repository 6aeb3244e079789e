//! Outbox of requests that must neither be lost nor sent twice.

use std::time::Duration;

use alloy_primitives::U256;
use serde::Serialize;
use slackwater_client::{Addressee, Command, Enqueue, EntryView, IdempotencyKey, OutboxConfig, Submit, read_json};
use slackwater_core::request::{Forward, RequestId, Status};
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};

use super::{
    HttpView, answer, entropy,
    node::{JsTexts, identities},
    transport_error,
};
use crate::{
    interop::{Failure, read, write},
    node::JsUnknown,
    nonces,
    request::{JsDomain, JsForward, bytes, read_forward},
    scalar::{JsQuantity, Quantity, instant, number, request_id, whole},
};

#[wasm_bindgen]
extern "C" {
    /// `OutboxCommand` of `types.d.ts`.
    #[wasm_bindgen(typescript_type = "OutboxCommand | undefined")]
    #[derive(Debug)]
    pub type JsCommand;
    /// `OutboxEntry` of `types.d.ts`.
    #[wasm_bindgen(typescript_type = "OutboxEntry[]")]
    #[derive(Debug)]
    pub type JsEntries;
    /// `OutboxLoad` of `types.d.ts`.
    #[wasm_bindgen(typescript_type = "OutboxLoad")]
    #[derive(Debug)]
    pub type JsLoad;
}

#[derive(Debug, Serialize)]
struct LoadView<'a> {
    damaged: &'a [String],
    foreign: &'a [String],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
enum CommandView<'a> {
    Store { key: &'a IdempotencyKey, revision: u64, record: &'a str },
    Remove { key: &'a IdempotencyKey },
    Send { id: u64, http: HttpView<'a> },
    Report { key: &'a IdempotencyKey, outcome: &'a slackwater_client::Outcome },
}

impl<'a> From<&'a Command> for CommandView<'a> {
    fn from(command: &'a Command) -> Self {
        match command {
            Command::Store { key, revision, record } => Self::Store { key, revision: *revision, record },
            Command::Remove { key } => Self::Remove { key },
            Command::Send { send, http } => Self::Send { id: *send, http: http.into() },
            Command::Report { key, outcome } => Self::Report { key, outcome },
        }
    }
}

/// Keeps submissions until they have ended, through crashes, reloads and broken connections. After every call carry
/// out the commands of [`Self::next_command`] until there are none, and call [`Self::timeout`] at
/// [`Self::next_timeout`].
#[wasm_bindgen]
#[derive(Debug)]
pub struct Outbox {
    inner: slackwater_client::Outbox,
}

fn key(text: &str) -> Result<IdempotencyKey, Failure> {
    Ok(IdempotencyKey::new(text)?)
}

/// Records of storage. No limit of size: it is the page's own.
fn parsed(records: &str) -> Result<Vec<(String, String)>, Failure> {
    read_json(records.as_bytes()).map_err(Failure::argument)
}

#[wasm_bindgen]
impl Outbox {
    /// An empty outbox for the relayer at `url`. Each promise must be signed by one of `relayers`, unless that list is
    /// empty.
    ///
    /// # Errors
    /// `invalid_argument` for an invalid address.
    #[wasm_bindgen(constructor)]
    pub fn new(url: &str, relayers: &JsTexts) -> Result<Self, Failure> {
        let addressee = Addressee::new(url, identities(relayers)?);
        Ok(Self {
            inner: slackwater_client::Outbox::new(OutboxConfig::default()).addressed_to(addressee).counting_nonces(),
        })
    }

    /// Loads the stored records, a JSON list of pairs of key and record: once, before any other call. Returns the keys
    /// of unreadable records, and the addresses of other relayers that records are for; both kinds of records stay in
    /// storage.
    ///
    /// # Errors
    /// `invalid_argument` if `records` is not such a list.
    pub fn load(&mut self, now: f64, records: &str) -> Result<JsLoad, Failure> {
        let report = self.inner.load(instant(now), parsed(records)?);
        write(&LoadView { damaged: &report.damaged, foreign: &report.foreign })
    }

    /// Assigns a nonce to a request that is to be signed now, and returns it: the user's first free one, or its own if
    /// `answer` is `undefined`. `answer` is the node's to `nonceCall`; `held` are names of nonces that others hold,
    /// one per line; `records` is what storage holds now, as for [`Self::load`].
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
        records: &str,
    ) -> Result<String, Failure> {
        let elsewhere = self.inner.reload_nonces(instant(now), parsed(records)?);
        nonces::assign(self.inner.nonces(), now, (domain, request), answer, held, elsewhere)
    }

    /// Time by which a request that is assigned now must be signed, Unix ms.
    ///
    /// # Errors
    /// `invalid_argument`.
    #[wasm_bindgen(js_name = signBy)]
    pub fn sign_by(&mut self, now: f64, id: &str) -> Result<f64, Failure> {
        Ok(number(self.inner.nonces().sign_by(instant(now), request_id(id)?)))
    }

    /// The request was signed, and holds its nonce on; or it will not be signed, or not submitted. False if it was, and
    /// does not hold its nonce (any more).
    ///
    /// # Errors
    /// `invalid_argument`.
    pub fn signed(&mut self, now: f64, id: &str, is_signed: bool) -> Result<bool, Failure> {
        nonces::signed(self.inner.nonces(), now, id, is_signed)
    }

    /// Passes in the status of an accepted request.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub fn told(&mut self, now: f64, id: &str, status: &str) -> Result<(), Failure> {
        if let Some(status) = Status::from_name(status) {
            self.inner.nonces().told(instant(now), request_id(id)?, status);
        }
        Ok(())
    }

    /// Adds a signed request, and returns its key. Idempotent: the same submission is the same entry.
    ///
    /// # Errors
    /// `invalid_argument`; `outbox_refused` if the outbox is full, or the request is too large or expired. A nonce that was
    /// assigned to it is free.
    pub fn enqueue(
        &mut self,
        now: f64,
        domain: &JsDomain,
        request: &JsForward,
        signature: &str,
        within_ms: Option<f64>,
        max_cost: &JsQuantity,
    ) -> Result<String, Failure> {
        let (domain, forward) = read_forward(domain, request)?;
        let id = RequestId(domain.digest(&forward));
        let submit = bytes("signature", signature).and_then(|signature| {
            let mut submit = Submit::forward(domain.chain_id(), Forward { signature, ..forward });
            if let Some(ms) = within_ms {
                submit = submit.within(Duration::from_millis(whole(ms.ceil())));
            }
            if !max_cost.is_undefined() {
                submit = submit.max_cost_wei(read::<Quantity<U256>>("maxCost", max_cost)?.0);
            }
            Ok(submit)
        });
        let submit = submit.inspect_err(|_| self.inner.nonces().free(id))?;
        let taken = self.inner.enqueue(instant(now), &submit, Enqueue { request_id: Some(id), ..Enqueue::default() });
        taken.map(|key| key.to_string()).map_err(|error| Failure::new("outbox_refused", error))
    }

    /// Adds a request that is written as the API's JSON, and returns its key. Idempotent: the same submission is the same
    /// entry.
    ///
    /// # Errors
    /// `invalid_argument`; `outbox_refused` if the outbox is full, or the request is too large or expired.
    #[wasm_bindgen(js_name = enqueueText)]
    pub fn enqueue_text(&mut self, now: f64, submission: &str) -> Result<String, Failure> {
        let submit = Submit::from_json(submission, None)?;
        let taken = self.inner.enqueue(instant(now), &submit, Enqueue::default());
        taken.map(|key| key.to_string()).map_err(|error| Failure::new("outbox_refused", error))
    }

    /// The next command; `undefined` if there is none.
    ///
    /// # Errors
    /// `internal` only.
    #[wasm_bindgen(js_name = nextCommand)]
    pub fn next_command(&mut self) -> Result<JsCommand, Failure> {
        match self.inner.next_command() {
            None => Ok(JsCommand::from(JsValue::UNDEFINED)),
            Some(command) => write(&CommandView::from(&command)),
        }
    }

    /// The record of this revision is durable.
    ///
    /// # Errors
    /// `invalid_argument` for an invalid key.
    pub fn stored(&mut self, now: f64, name: &str, revision: f64) -> Result<(), Failure> {
        self.inner.stored(instant(now), &key(name)?, whole(revision));
        Ok(())
    }

    /// The record of this revision could not be stored.
    ///
    /// # Errors
    /// `invalid_argument` for an invalid key.
    #[wasm_bindgen(js_name = storeFailed)]
    pub fn store_failed(&mut self, now: f64, name: &str, revision: f64, random: f64) -> Result<(), Failure> {
        self.inner.store_failed(instant(now), &key(name)?, whole(revision), entropy(random));
        Ok(())
    }

    /// Passes in the answer to a `send`.
    pub fn answered(
        &mut self,
        now: f64,
        send: f64,
        status: u16,
        retry_after: Option<String>,
        body: &[u8],
        random: f64,
    ) {
        self.inner.answered(instant(now), whole(send), Ok(answer(status, retry_after, body)), entropy(random));
    }

    /// No answer to a `send` came.
    pub fn failed(&mut self, now: f64, send: f64, kind: &str, detail: &str, random: f64) {
        self.inner.answered(instant(now), whole(send), Err(transport_error(kind, detail)), entropy(random));
    }

    /// Time at which to call [`Self::timeout`], Unix ms; `undefined` if there is none.
    #[wasm_bindgen(js_name = nextTimeout)]
    pub fn next_timeout(&self) -> Option<f64> {
        self.inner.next_timeout().map(number)
    }

    /// Handles the passing of time; see [`Self::next_timeout`].
    pub fn timeout(&mut self, now: f64) {
        self.inner.timeout(instant(now));
    }

    /// Forgets an entry whose outcome was taken.
    ///
    /// # Errors
    /// `invalid_argument` for an invalid key.
    pub fn acknowledge(&mut self, name: &str) -> Result<bool, Failure> {
        Ok(self.inner.acknowledge(&key(name)?))
    }

    /// Withdraws an entry that was certainly never sent. False if it may have been sent.
    ///
    /// # Errors
    /// `invalid_argument` for an invalid key.
    pub fn withdraw(&mut self, now: f64, name: &str) -> Result<bool, Failure> {
        Ok(self.inner.withdraw(instant(now), &key(name)?))
    }

    /// All entries, in order of arrival.
    ///
    /// # Errors
    /// `internal` only.
    pub fn entries(&self) -> Result<JsEntries, Failure> {
        write(&self.inner.entries().collect::<Vec<EntryView>>())
    }
}
