//! The outbox state machine: events in, commands out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    Addressee, Command, Enqueue, EntryView, LoadReport, OutboxConfig, OutboxError, Outcome, Place,
    index::{Entry, Index, State},
    record::Record,
};
use crate::{
    Problem,
    api::{self, BatchResults, Look, SUBMIT_PATH},
    error::ClientError,
    http::{self, ApiCall, HttpAnswer, HttpCall, TransportError},
    nonces::Nonces,
    request::RequestId,
    submit::{IdempotencyKey, MAX_SUBMIT_BYTES, Submit},
    time::Timestamp,
    verify::{ExpectedPromise, PromiseFault, pin_for, verify_accepted},
    wire::Accepted,
};

/// A call without an answer.
#[derive(Debug)]
enum Call {
    Single(u64),
    Batch(Vec<u64>),
    Lookup(u64, RequestId),
}

/// Requests to be delivered to a relayer: a state machine without clock, storage, randomness or socket.
///
/// After every call, carry out [`Self::next_command`] until there is none, and call [`Self::timeout`] at
/// [`Self::next_timeout`].
///
/// ```
/// use slackwater_client::{CallAsk, Command, Enqueue, HttpAnswer, Outbox, OutboxConfig, Outcome, Submit};
/// use slackwater_core::Timestamp;
/// # use alloy_primitives::{Address, U256};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let ask = CallAsk { to: Address::ZERO, value: U256::ZERO, gas: 60_000, data: Default::default(), any_sender: true };
/// let mut outbox = Outbox::new(OutboxConfig::default());
/// let now = Timestamp(1_000);
/// let key = outbox.enqueue(now, &Submit::call(8453, ask, b"order 7"), Enqueue::default())?;
/// // First it is stored …
/// let Some(Command::Store { revision, .. }) = outbox.next_command() else { panic!("stored first") };
/// assert_eq!(outbox.next_command(), None, "and nothing is sent before that");
/// outbox.stored(now, &key, revision);
/// // … then it is sent,
/// let now = outbox.next_timeout().expect("it lingers for company");
/// outbox.timeout(now);
/// let Some(Command::Send { send, .. }) = outbox.next_command() else { panic!("sent next") };
/// // and what is answered is stored before it is reported.
/// let refused = HttpAnswer { status: 403, body: br#"{"code":"policy_denied"}"#.to_vec(), ..HttpAnswer::default() };
/// outbox.answered(now, send, Ok(refused), 42);
/// let Some(Command::Store { revision, .. }) = outbox.next_command() else { panic!("the outcome is stored") };
/// outbox.stored(now, &key, revision);
/// assert!(matches!(outbox.next_command(), Some(Command::Report { outcome: Outcome::Refused { .. }, .. })));
/// outbox.acknowledge(&key);
/// assert_eq!(outbox.next_command(), Some(Command::Remove { key }));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Outbox {
    config: OutboxConfig,
    addressee: Option<Addressee>,
    nonces: Nonces,
    counts_nonces: bool,
    /// Storage keys of entries for other relayers.
    foreign: Vec<String>,
    index: Index,
    calls: BTreeMap<u64, Call>,
    commands: VecDeque<Command>,
    next_order: u64,
    next_send: u64,
    /// Never reused, so that the write of a forgotten entry is not mistaken for one of its successor.
    next_revision: u64,
    /// Limit on items in a batch, as far as the relayer's is known.
    batch_items: usize,
}

impl Outbox {
    /// An empty outbox.
    pub fn new(config: OutboxConfig) -> Self {
        Self {
            batch_items: config.max_batch_items.max(1),
            config,
            addressee: None,
            nonces: Nonces::default(),
            counts_nonces: false,
            foreign: Vec::new(),
            index: Index::default(),
            calls: BTreeMap::new(),
            commands: VecDeque::new(),
            next_order: 1,
            next_send: 1,
            next_revision: 1,
        }
    }

    /// Sets the destination relayer. Records state their relayer: those for another one are left untouched. With
    /// identities, an acceptance not promised by one of them does not count: it ends as `bad_promise`, and may be
    /// executed.
    ///
    /// Without this, the outbox accepts any promise, and its storage must be used for one relayer only.
    #[must_use]
    pub fn addressed_to(mut self, addressee: Addressee) -> Self {
        self.addressee = Some(addressee);
        self
    }

    /// Makes entries hold their nonces, and accepted requests too, beyond their entries: [`Self::nonces`] assigns others
    /// to new requests. Storage gets a record for each nonce of an accepted request that has not ended.
    #[must_use]
    pub const fn counting_nonces(mut self) -> Self {
        self.counts_nonces = true;
        self
    }

    /// Nonces that requests hold. [`Nonces::changes`] come as commands of this outbox.
    pub const fn nonces(&mut self) -> &mut Nonces {
        &mut self.nonces
    }

    /// Reads the nonces of accepted requests anew from a storage that other outboxes change too, once its pending commands
    /// are carried out. Returns the nonces that entries of others hold.
    pub fn reload_nonces<K, R>(&mut self, now: Timestamp, records: impl IntoIterator<Item = (K, R)>) -> Vec<Place>
    where
        K: AsRef<str>,
        R: AsRef<str>,
    {
        self.nonces.reload();
        let mut elsewhere = Vec::new();
        for (key, text) in records {
            if !self.nonces.load(now, key.as_ref(), text.as_ref())
                && let Some(record) = Record::decode(key.as_ref(), text.as_ref())
                && record.outcome.is_none()
                && self.index.order_of(&record.key).is_none()
            {
                elsewhere.extend(record.place);
            }
        }
        elsewhere
    }

    /// Loads the stored records: once, before anything else. Unfinished entries are sent again, with the same key and
    /// the same bytes; finished ones are reported again. Records of earlier versions, which state no relayer, are
    /// assigned to this outbox.
    pub fn load<K, R>(&mut self, now: Timestamp, records: impl IntoIterator<Item = (K, R)>) -> LoadReport
    where
        K: AsRef<str>,
        R: AsRef<str>,
    {
        let mut report = LoadReport::default();
        for (key, text) in records {
            if self.nonces.load(now, key.as_ref(), text.as_ref()) {
                continue;
            }
            let Some(record) = Record::decode(key.as_ref(), text.as_ref()) else {
                report.damaged.push(http::excerpt(key.as_ref()));
                continue;
            };
            if self.index.order_of(&record.key).is_some() {
                continue;
            }
            if let Some(other) = self.foreign_addressee(&record) {
                report.foreign.push(http::excerpt(&other.url));
                self.foreign.push(record.key.as_str().to_owned());
                continue;
            }
            report.loaded += 1;
            // Two tabs may have assigned the same number: the next free one keeps both.
            let mut order = record.order;
            while self.index.get(order).is_some() {
                order = order.saturating_add(1);
            }
            let mut entry = Entry::new(record);
            let own = self.addressee.as_ref().map(Addressee::encode);
            let is_moved = own.is_some() && entry.record.addressee != own;
            entry.record.addressee = own;
            match entry.record.outcome.take() {
                Some(outcome) => {
                    entry.state = State::Ended;
                    // Not acknowledged yet, and the pins may be newer than the outcome.
                    let outcome = self.checked(&entry, None, outcome);
                    if self.counts_nonces {
                        settle_nonce(&mut self.nonces, now, &entry.record, &outcome);
                    }
                    let key = entry.record.key.clone();
                    self.commands.push_back(Command::Report { key, outcome: outcome.clone() });
                    entry.record.outcome = Some(outcome);
                }
                None => {
                    // It may have been sent before the crash.
                    entry.may_be_accepted = true;
                    entry.state = State::Waiting(now);
                    self.hold_nonce(&entry.record);
                }
            }
            self.index.insert(order, entry);
            if is_moved {
                // The relayer's address or identities have changed: the next change starts from these.
                self.store(order);
            }
        }
        self.next_order = self.next_order.max(self.index.last_order().saturating_add(1));
        self.pump(now);
        report
    }

    /// Accepts a request. The same request again is the same entry; if it has ended, it is reported again.
    ///
    /// # Errors
    /// [`OutboxError`]; nothing was kept, and a nonce that was assigned to it is free.
    pub fn enqueue(
        &mut self,
        now: Timestamp,
        submit: &Submit,
        options: Enqueue,
    ) -> Result<IdempotencyKey, OutboxError> {
        let taken = self.take_in(now, submit, options);
        if let (Err(_), Some(id)) = (&taken, options.request_id) {
            self.nonces.free(id);
        }
        taken
    }

    fn take_in(&mut self, now: Timestamp, submit: &Submit, options: Enqueue) -> Result<IdempotencyKey, OutboxError> {
        let (key, body) = (submit.key(), submit.body());
        if let Some(entry) = self.index.order_of(&key).and_then(|order| self.index.get(order)) {
            if entry.record.body != body {
                return Err(OutboxError::KeyConflict(key));
            }
            if let (State::Ended, Some(outcome)) = (&entry.state, &entry.record.outcome) {
                self.commands.push_back(Command::Report { key: key.clone(), outcome: outcome.clone() });
            }
            return Ok(key);
        }
        if self.foreign.iter().any(|foreign| foreign == key.as_str()) {
            return Err(OutboxError::OtherRelayer(key));
        }
        if self.index.len() >= self.config.max_entries {
            return Err(OutboxError::Full { entries: self.index.len(), limit: self.config.max_entries });
        }
        if body.len() > MAX_SUBMIT_BYTES {
            return Err(OutboxError::TooLarge { bytes: body.len(), limit: MAX_SUBMIT_BYTES });
        }
        let ends = submit.expires_at(now).into_iter().chain(options.expires_at);
        let expires_at = ends.min().unwrap_or_else(|| now.saturating_add(self.config.default_expiry));
        if expires_at <= now {
            return Err(OutboxError::Expired { expired_at: expires_at });
        }
        let order = self.next_order;
        self.next_order += 1;
        let mut record = Record::new(submit, key.clone(), body, order, expires_at, options.request_id);
        record.addressee = self.addressee.as_ref().map(Addressee::encode);
        self.hold_nonce(&record);
        self.index.insert(order, Entry::new(record));
        self.store(order);
        Ok(key)
    }

    /// The next command, if any.
    pub fn next_command(&mut self) -> Option<Command> {
        if self.commands.is_empty() {
            for (key, record) in self.nonces.changes() {
                // A nonce's key is always a valid one. Nobody waits for its record, so it needs no revision.
                let Ok(key) = IdempotencyKey::new(key) else { continue };
                self.commands.push_back(match record {
                    Some(record) => Command::Store { key, revision: 0, record },
                    None => Command::Remove { key },
                });
            }
        }
        self.commands.pop_front()
    }

    fn hold_nonce(&mut self, record: &Record) {
        if let Some(place) = record.place.filter(|_| self.counts_nonces) {
            self.nonces.queued(place, record.request_id);
        }
    }

    /// Reports that the record of this revision is durable.
    pub fn stored(&mut self, now: Timestamp, key: &IdempotencyKey, revision: u64) {
        let Some(order) = self.index.order_of(key) else { return };
        let outcome = self.index.update(order, |entry| {
            if entry.revision != revision {
                return None;
            }
            (entry.store_again_at, entry.store_failures) = (None, 0);
            match entry.state {
                State::Storing => entry.state = State::Waiting(now),
                State::Ending => {
                    entry.state = State::Ended;
                    return entry.record.outcome.clone();
                }
                State::Waiting(_) | State::Calling | State::Ended => {}
            }
            None
        });
        if let Some(outcome) = outcome.flatten() {
            self.commands.push_back(Command::Report { key: key.clone(), outcome });
        }
        self.pump(now);
    }

    /// Reports that the record of this revision could not be stored; the write is retried. `entropy` is a random
    /// number.
    pub fn store_failed(&mut self, now: Timestamp, key: &IdempotencyKey, revision: u64, entropy: u64) {
        let Some(order) = self.index.order_of(key) else { return };
        let retry = self.config.retry;
        self.index.update(order, |entry| {
            if entry.revision == revision && matches!(entry.state, State::Storing | State::Ending) {
                entry.store_failures = entry.store_failures.saturating_add(1);
                entry.store_again_at = Some(now.saturating_add(retry.back_off(entry.store_failures, entropy)));
            }
        });
        self.pump(now);
    }

    /// Processes the result of a [`Command::Send`]. `entropy` is a random number.
    pub fn answered(&mut self, now: Timestamp, send: u64, answer: Result<HttpAnswer, TransportError>, entropy: u64) {
        let Some(call) = self.calls.remove(&send) else { return };
        let answer = answer.map_err(ClientError::from);
        match call {
            Call::Single(order) => {
                let result = answer.and_then(|answer| single_call(String::new()).parse(&answer));
                self.settle(now, order, result, entropy);
            }
            Call::Batch(orders) => {
                let result = answer.and_then(|answer| api::submit_bodies(std::iter::empty()).parse(&answer));
                self.batch_answered(now, &orders, result, entropy);
            }
            Call::Lookup(order, id) => {
                let result = answer.and_then(|answer| api::look(id).parse(&answer));
                self.looked_up(now, order, result.map(Look::accepted), entropy);
            }
        }
        self.pump(now);
    }

    /// Time of the next [`Self::timeout`] call; `None` if none is needed.
    pub fn next_timeout(&self) -> Option<Timestamp> {
        let has_call = self.calls.len() < self.config.max_calls;
        let due = self.index.next_due().filter(|_| has_call).map(|(at, _)| at.saturating_add(self.config.linger));
        let expiry = self.index.next_expiry().map(|(at, _)| at);
        let rewrite = self.index.next_rewrite().map(|(at, _)| at);
        [due, expiry, rewrite].into_iter().flatten().min()
    }

    /// Handles everything that is due at `now`.
    pub fn timeout(&mut self, now: Timestamp) {
        self.pump(now);
    }

    /// Confirms that the outcome was processed: the entry is forgotten. `false` if it has not ended, or is unknown.
    pub fn acknowledge(&mut self, key: &IdempotencyKey) -> bool {
        let Some(order) = self.index.order_of(key) else { return false };
        if self.index.get(order).is_none_or(|entry| entry.state != State::Ended) {
            return false;
        }
        self.forget(order);
        true
    }

    /// Withdraws an entry that was certainly never sent. `false` if it may have been: then cancel it at the relayer.
    pub fn withdraw(&mut self, now: Timestamp, key: &IdempotencyKey) -> bool {
        let Some(order) = self.index.order_of(key) else { return false };
        let is_unsent = self.index.get(order).is_some_and(|entry| {
            matches!(entry.state, State::Storing | State::Waiting(_)) && !entry.may_be_accepted && entry.attempts == 0
        });
        if is_unsent {
            if let Some(Entry { record, .. }) = self.index.get(order)
                && let Some(place) = record.place
            {
                self.nonces.unqueued(place, record.request_id);
            }
            self.forget(order);
            self.pump(now);
        }
        is_unsent
    }

    fn forget(&mut self, order: u64) {
        if let Some(entry) = self.index.remove(order) {
            self.commands.push_back(Command::Remove { key: entry.record.key });
        }
    }

    /// All entries, in order of arrival.
    pub fn entries(&self) -> impl Iterator<Item = EntryView> {
        self.index.iter().map(Entry::view)
    }

    /// One entry.
    pub fn entry(&self, key: &IdempotencyKey) -> Option<EntryView> {
        self.index.get(self.index.order_of(key)?).map(Entry::view)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// True if there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn store(&mut self, order: u64) {
        let revision = self.next_revision;
        self.next_revision += 1;
        let command = self.index.update(order, |entry| {
            entry.revision = revision;
            entry.store_again_at = None;
            Command::Store { key: entry.record.key.clone(), revision, record: entry.record.encode() }
        });
        self.commands.extend(command);
    }

    /// The relayer of a record, if it is another one.
    fn foreign_addressee(&self, record: &Record) -> Option<Addressee> {
        let addressee = Addressee::decode(record.addressee.as_deref()?);
        (!self.addressee.as_ref().is_some_and(|own| own.is_same(&addressee))).then_some(addressee)
    }

    fn accept(&mut self, now: Timestamp, order: u64, accepted: Accepted) {
        let Some(entry) = self.index.get(order) else { return };
        let outcome = self.checked(entry, Some(now), Outcome::Accepted { accepted: Box::new(accepted) });
        self.end(now, order, outcome);
    }

    /// Accepts an outcome only if a pinned identity promises it as requested. A request accepted by a stranger may be
    /// executed, so this is not a plain refusal; and looking it up at the stranger proves nothing. `now` is the time of
    /// the answer; `None` for an old one.
    fn checked(&self, entry: &Entry, now: Option<Timestamp>, outcome: Outcome) -> Outcome {
        let Outcome::Accepted { accepted } = &outcome else { return outcome };
        match self.check_promise(entry, now, accepted) {
            Ok(()) => outcome,
            Err(fault) => bad_promise(&fault),
        }
    }

    fn check_promise(&self, entry: &Entry, now: Option<Timestamp>, accepted: &Accepted) -> Result<(), PromiseFault> {
        let record = &entry.record;
        let identities = self.addressee.as_ref().map(|addressee| addressee.identities.as_slice()).unwrap_or_default();
        let Some(relayer) = pin_for(identities, &accepted.promise) else { return Ok(()) };
        let submit = Submit::from_json(&record.body, None).ok();
        let submit = submit.as_ref();
        let expected = ExpectedPromise {
            // Only the relayer knows the id of a call.
            request: record.request_id.unwrap_or(accepted.id),
            chain_id: submit.map_or(accepted.chain_id, Submit::chain_id),
            relayer,
            // A repeated earlier answer promises the time requested then.
            not_after: submit.filter(|_| !accepted.duplicate).and_then(|submit| submit.promised_by(now?)),
        };
        verify_accepted(accepted, &expected)?;
        // Two entries may share a request only if they are the same signed one.
        let is_other = |other: &Entry| record.place.is_none() || other.record.place != record.place;
        let mut holders = self.index.iter().filter(|other| other.record.key != record.key && other.holds(accepted.id));
        if record.request_id.is_none() && holders.any(is_other) {
            return Err(PromiseFault::Taken(accepted.id));
        }
        Ok(())
    }

    fn end(&mut self, now: Timestamp, order: u64, outcome: Outcome) {
        if self.counts_nonces
            && let Some(entry) = self.index.get(order)
        {
            settle_nonce(&mut self.nonces, now, &entry.record, &outcome);
        }
        self.index.update(order, |entry| {
            entry.state = State::Ending;
            entry.record.outcome = Some(outcome);
        });
        self.store(order);
    }

    /// Handles everything that is due.
    fn pump(&mut self, now: Timestamp) {
        while let Some((at, order)) = self.index.next_rewrite()
            && at <= now
        {
            self.store(order);
        }
        while let Some((at, order)) = self.index.next_expiry()
            && at <= now
        {
            let Some(entry) = self.index.get(order) else { break };
            let may_be_accepted = entry.may_be_accepted;
            if may_be_accepted && entry.record.request_id.is_some() {
                // It can't be sent any more, but can be looked up.
                self.look_up(now, order, Outcome::Expired { may_be_accepted: false });
            } else {
                self.end(now, order, Outcome::Expired { may_be_accepted });
            }
        }
        while self.calls.len() < self.config.max_calls && self.call_next(now) {}
    }

    fn look_up(&mut self, at: Timestamp, order: u64, otherwise: Outcome) {
        self.index.update(order, |entry| {
            entry.lookup = Some(otherwise);
            entry.state = State::Waiting(at);
        });
    }

    /// Makes the next due call. `false` if there is none.
    fn call_next(&mut self, now: Timestamp) -> bool {
        let Some((first_due, first)) = self.index.next_due().filter(|(at, _)| *at <= now) else { return false };
        let Some(entry) = self.index.get(first) else { return false };
        if let (Some(_), Some(id)) = (&entry.lookup, entry.record.request_id) {
            self.call(Call::Lookup(first, id), api::look(id).http().clone());
            return true;
        }
        if entry.is_solo {
            self.call_with(vec![first]);
            return true;
        }
        let (members, is_full) = self.company(now);
        // Others may be arriving: unless the call is full, the first one lingers for them.
        if !is_full && now < first_due.saturating_add(self.config.linger) {
            return false;
        }
        self.call_with(members);
        true
    }

    /// Entries that would share the next call; the flag is true if there is no room for more.
    fn company(&self, now: Timestamp) -> (Vec<u64>, bool) {
        let mut members = Vec::new();
        let mut bytes = 0;
        let mut taken = BTreeSet::new();
        for head in self.index.due_at(now) {
            for order in self.index.line_from(head, now) {
                let Some(entry) = self.index.get(order) else { break };
                if entry.is_solo || entry.lookup.is_some() || !taken.insert(order) {
                    break;
                }
                bytes += entry.record.body.len() + 1;
                if !members.is_empty() && bytes > self.config.max_batch_bytes {
                    return (members, true);
                }
                members.push(order);
                if members.len() >= self.batch_items {
                    return (members, true);
                }
            }
        }
        (members, false)
    }

    fn call_with(&mut self, members: Vec<u64>) {
        let bodies: Vec<&str> =
            members.iter().filter_map(|order| self.index.get(*order)).map(|entry| entry.record.body.as_str()).collect();
        match (members.as_slice(), bodies.as_slice()) {
            ([order], [body]) => {
                let http = single_call((*body).to_owned()).http().clone();
                self.call(Call::Single(*order), http);
            }
            _ => {
                let http = api::submit_bodies(bodies.into_iter()).http().clone();
                self.call(Call::Batch(members), http);
            }
        }
    }

    fn call(&mut self, call: Call, http: HttpCall) {
        let members = match &call {
            Call::Single(order) | Call::Lookup(order, _) => std::slice::from_ref(order),
            Call::Batch(orders) => orders,
        };
        for order in members {
            self.index.update(*order, |entry| {
                entry.state = State::Calling;
                entry.attempts = entry.attempts.saturating_add(1);
            });
        }
        let send = self.next_send;
        self.next_send += 1;
        self.calls.insert(send, call);
        self.commands.push_back(Command::Send { send, http });
    }

    fn batch_answered(
        &mut self,
        now: Timestamp,
        orders: &[u64],
        result: Result<BatchResults, ClientError>,
        entropy: u64,
    ) {
        let error = match result {
            Ok(results) if results.len() == orders.len() => {
                for (order, result) in orders.iter().zip(results) {
                    self.settle(now, *order, result, entropy);
                }
                return;
            }
            Ok(results) => {
                let detail = format!("{} results for {} requests", results.len(), orders.len());
                ClientError::Unreadable { status: 207, detail }
            }
            Err(error) => error,
        };
        let status = match &error {
            ClientError::Problem(problem) => problem.status,
            ClientError::Status { status, .. } => *status,
            _ => 0,
        };
        match status {
            413 => {
                // The relayer, or a proxy, accepts fewer at a time than assumed.
                self.batch_items = (orders.len() / 2).max(1);
                self.again(now, orders, false);
            }
            // A final error about the call as a whole, and not about authorisation: perhaps one of the entries is the
            // cause. Each is sent alone, for an answer of its own.
            400..500 if !error.is_retryable() && !matches!(status, 401..=403) => self.again(now, orders, true),
            _ => {
                for order in orders {
                    self.settle(now, *order, Err(error.clone()), entropy);
                }
            }
        }
    }

    fn again(&mut self, now: Timestamp, orders: &[u64], is_solo: bool) {
        for order in orders {
            self.index.update(*order, |entry| {
                entry.state = State::Waiting(now);
                entry.is_solo |= is_solo;
            });
        }
    }

    /// Applies the result of an attempt to one entry.
    fn settle(&mut self, now: Timestamp, order: u64, result: Result<Accepted, ClientError>, entropy: u64) {
        let Some(entry) = self.index.get(order) else { return };
        let result = result.and_then(|accepted| check_id(entry.record.request_id, accepted));
        let error = match result {
            Ok(accepted) => return self.accept(now, order, accepted),
            Err(error) => error,
        };
        let may_be_accepted = entry.may_be_accepted || error.is_ambiguous();
        let attempts = entry.attempts;
        let can_ask = entry.record.request_id.is_some();
        let is_waited_for = error.is_retryable() || error.code() == "nonce_too_far";
        self.index.update(order, |entry| {
            entry.may_be_accepted = may_be_accepted;
            entry.last_error_code = Some(error.code().to_owned());
        });
        if is_waited_for {
            let wait = self.wait(attempts, &error, entropy);
            self.index.update(order, |entry| entry.state = State::Waiting(now.saturating_add(wait)));
            return;
        }
        let problem = error.problem().cloned().map(Box::new);
        let code = error.code().to_owned();
        // A request submitted by another tenant is accepted, but its look-up finds nothing.
        if may_be_accepted && can_ask && code != ClientError::ALREADY_SUBMITTED {
            // Time, prices and policies change: a refusal now does not mean that an earlier attempt was refused.
            self.look_up(now, order, Outcome::Refused { code, problem, may_be_accepted: false });
        } else {
            self.end(now, order, Outcome::Refused { code, problem, may_be_accepted });
        }
    }

    fn wait(&self, attempts: u32, error: &ClientError, entropy: u64) -> std::time::Duration {
        let asked = error.retry_after().unwrap_or_default().min(self.config.retry.max_retry_after);
        // At least a moment, so that a relayer that answers immediately is not called in a tight loop.
        asked.saturating_add(self.config.retry.back_off(attempts, entropy)).max(std::time::Duration::from_millis(1))
    }

    fn looked_up(&mut self, now: Timestamp, order: u64, result: Result<Accepted, ClientError>, entropy: u64) {
        let Some(entry) = self.index.get(order) else { return };
        let otherwise = entry.lookup.clone().unwrap_or(Outcome::Expired { may_be_accepted: true });
        let result = result.and_then(|accepted| check_id(entry.record.request_id, accepted));
        let error = match result {
            Ok(accepted) => return self.accept(now, order, accepted),
            Err(error) => error,
        };
        if error.code() == "not_found" {
            return self.end(now, order, otherwise);
        }
        let (attempts, expires_at) = (entry.attempts, entry.record.expires_at);
        let wait = self.wait(attempts, &error, entropy);
        let again_at = now.saturating_add(wait);
        if !error.is_retryable() || again_at > expires_at.saturating_add(self.config.lookup_grace) {
            return self.end(now, order, in_doubt(otherwise));
        }
        self.index.update(order, |entry| {
            entry.last_error_code = Some(error.code().to_owned());
            entry.state = State::Waiting(again_at);
        });
    }
}

/// Holds or frees the nonce of an entry that has ended.
fn settle_nonce(nonces: &mut Nonces, now: Timestamp, record: &Record, outcome: &Outcome) {
    let Some(place) = record.place else { return };
    match outcome {
        Outcome::Accepted { accepted } => {
            let until = accepted.valid_until_ms.unwrap_or(accepted.deadline_at_ms);
            nonces.accepted(place, Some(accepted.id), until);
            if let Some(status) = accepted.status.known() {
                nonces.told(now, accepted.id, status);
            }
        }
        Outcome::Refused { may_be_accepted: true, .. } | Outcome::Expired { may_be_accepted: true } => {
            // The receiver can have it executed until the chain refuses it.
            let submit = Submit::from_json(&record.body, None).ok();
            let signed = submit.and_then(|submit| submit.kind().chain_deadline_s());
            nonces.accepted(place, record.request_id, signed.map_or(record.expires_at, Timestamp::from_secs));
        }
        Outcome::Refused { code, .. } if matches!(code.as_str(), "nonce_conflict" | "nonce_used") => {
            nonces.doubted(now, place);
        }
        _ => nonces.unqueued(place, record.request_id),
    }
}

fn single_call(body: String) -> ApiCall<Accepted> {
    ApiCall::new(HttpCall::post(SUBMIT_PATH, body), http::parsed)
}

/// Rejects an acceptance of another request.
fn check_id(expected: Option<RequestId>, accepted: Accepted) -> Result<Accepted, ClientError> {
    match expected {
        Some(expected) if expected != accepted.id => {
            let detail = format!("it accepts request {} instead of {expected}", accepted.id);
            Err(ClientError::Unreadable { status: 202, detail })
        }
        _ => Ok(accepted),
    }
}

/// Outcome of a request accepted with a promise that does not count.
fn bad_promise(fault: &PromiseFault) -> Outcome {
    let problem = Problem {
        kind: "urn:slackwater:problem:bad_promise".into(),
        code: ClientError::BAD_PROMISE.into(),
        title: "The promise is not by a relayer that is pinned, or not what was asked for".into(),
        detail: fault.to_string().into(),
        ambiguous: true,
        ..Problem::default()
    };
    Outcome::Refused {
        code: ClientError::BAD_PROMISE.to_owned(),
        problem: Some(Box::new(problem)),
        may_be_accepted: true,
    }
}

fn in_doubt(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Refused { code, problem, .. } => Outcome::Refused { code, problem, may_be_accepted: true },
        Outcome::Expired { .. } => Outcome::Expired { may_be_accepted: true },
        Outcome::Accepted { accepted } => Outcome::Accepted { accepted },
    }
}
