//! One call with its retries, and a client of typed calls over any transport.

use std::{fmt, future::Future, time::Duration};

use alloy_primitives::Address;

use super::{
    RequestDetail, api,
    error::ClientError,
    http::{self, ApiCall, HttpAnswer, HttpCall, Method, TransportError},
    retry::{Retry, RetryPolicy},
    submit::Submit,
    verify::{ExpectedPromise, pin_for, verify_accepted},
};
use crate::{
    request::{BatchId, RequestId, Status},
    time::Timestamp,
    wire::{Accepted, Batch, ChainFees, ChainForecast, Chains, Quote, RequestPage, RequestSummary},
};

/// The relayer's code for a request that can't be withdrawn (any more).
const TOO_LATE: &str = "too_late";

/// Next action of an [`Exchange`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// Send this call, and pass the result to [`Exchange::answer`].
    Send(&'a HttpCall),
    /// Ask again at this instant.
    Wait(Timestamp),
}

/// One call with its retries: a state machine without clock, randomness or socket.
///
/// ```
/// use slackwater_client::{Exchange, HttpAnswer, RetryPolicy, Step, api};
/// use slackwater_core::Timestamp;
///
/// let mut exchange = Exchange::new(api::quote(8453, 100_000, None), RetryPolicy::default(), None);
/// let now = Timestamp(0);
/// assert!(matches!(exchange.step(now), Step::Send(call) if call.path == "/v1/quotes"));
/// let busy = HttpAnswer { status: 503, ..HttpAnswer::default() };
/// assert!(exchange.answer(now, Ok(busy), 42).is_none(), "not the last word");
/// assert!(matches!(exchange.step(now), Step::Wait(_) | Step::Send(_)));
/// ```
#[derive(Debug, Clone)]
pub struct Exchange<T> {
    call: ApiCall<T>,
    policy: RetryPolicy,
    deadline: Option<Timestamp>,
    attempt: u32,
    not_before: Timestamp,
    /// True if an attempt without an answer may have succeeded.
    may_be_done: bool,
    /// Pending look-up after a withdrawal that came too late, perhaps because an earlier attempt of it succeeded: the
    /// look-up call, and the refusal that stands unless the request is withdrawn.
    look: Option<(HttpCall, ClientError)>,
}

impl<T> Exchange<T> {
    /// An exchange of `call`, with retries by `policy`, and none at or after `deadline`.
    pub const fn new(call: ApiCall<T>, policy: RetryPolicy, deadline: Option<Timestamp>) -> Self {
        Self { call, policy, deadline, attempt: 0, not_before: Timestamp(0), may_be_done: false, look: None }
    }

    /// The next action at `now`.
    pub fn step(&self, now: Timestamp) -> Step<'_> {
        let call = self.look.as_ref().map_or(self.call.http(), |(look, _)| look);
        if now < self.not_before { Step::Wait(self.not_before) } else { Step::Send(call) }
    }

    /// Number of completed attempts.
    pub const fn attempts(&self) -> u32 {
        self.attempt
    }

    /// Processes the result of an attempt; returns the final result, or `None` if [`Self::step`] continues. `entropy`
    /// is a random number.
    pub fn answer(
        &mut self,
        now: Timestamp,
        answer: Result<HttpAnswer, TransportError>,
        entropy: u64,
    ) -> Option<Result<T, ClientError>> {
        self.attempt = self.attempt.saturating_add(1);
        let result = answer.map_err(ClientError::from).and_then(|answer| self.read(&answer));
        let error = match result {
            Ok(value) => return Some(Ok(value)),
            Err(error) => error,
        };
        let http = self.call.http();
        if self.look.is_none() && self.may_be_done && http.method == Method::Delete && error.code() == TOO_LATE {
            self.look = Some((HttpCall::get(http.path.clone()), error));
            return None;
        }
        self.may_be_done |= error.is_ambiguous();
        let is_safe = self.call.is_safe_to_repeat();
        match self.policy.next(self.attempt, &error, is_safe, now, self.deadline, entropy) {
            Retry::Wait(wait) => {
                self.not_before = now.saturating_add(wait);
                None
            }
            Retry::GiveUp(_) => Some(Err(self.look.take().map_or(error, |(_, refusal)| refusal))),
        }
    }

    fn read(&self, answer: &HttpAnswer) -> Result<T, ClientError> {
        if let Some((_, refusal)) = &self.look {
            http::check(answer)?;
            let request: serde_json::Value = http::parsed(answer)?;
            if request["status"] != Status::Cancelled.as_str() {
                return Err(refusal.clone());
            }
        }
        self.call.parse(answer)
    }
}

/// I/O, clock and timer of a client: a browser's `fetch`, a runtime's HTTP client, a test.
///
/// It adds the base URL and the credentials, sets a time limit, reads no more than
/// [`MAX_ANSWER_BYTES`](super::MAX_ANSWER_BYTES) of a body and follows no redirect. Futures need not be `Send`; if an
/// implementation's are, those of its [`Client`] are too.
pub trait Transport {
    /// Sends `call` once.
    fn send(&self, call: &HttpCall) -> impl Future<Output = Result<HttpAnswer, TransportError>>;
    /// Waits for `wait`.
    fn sleep(&self, wait: Duration) -> impl Future<Output = ()>;
    /// Current time.
    fn now(&self) -> Timestamp;
    /// A random number; it spreads retries, and no secret depends on it.
    fn entropy(&self) -> u64;
}

/// A typed client of one relayer.
///
/// Retries whatever is safe to repeat. Its state is lost when it is dropped: for durable requests, use an
/// [`Outbox`](super::Outbox).
#[derive(Clone)]
pub struct Client<T> {
    transport: T,
    policy: RetryPolicy,
    identities: Vec<Address>,
}

impl<T> fmt::Debug for Client<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl<T: Transport> Client<T> {
    /// A client over `transport` with the default [`RetryPolicy`].
    pub fn over(transport: T) -> Self {
        Self { transport, policy: RetryPolicy::default(), identities: Vec::new() }
    }

    /// The same client with another policy.
    #[must_use]
    pub const fn retry(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// The same client over a changed transport.
    #[must_use]
    pub fn map_transport(self, change: impl FnOnce(T) -> T) -> Self {
        Self { transport: change(self.transport), policy: self.policy, identities: self.identities }
    }

    /// The same client, accepting promises of these identities only: of a relayer known from another source. Several
    /// while an identity is rotated. Default: any promise, for the caller to check.
    #[must_use]
    pub fn identities(mut self, identities: impl IntoIterator<Item = Address>) -> Self {
        self.identities = identities.into_iter().collect();
        self
    }

    /// The accepted identities; empty for any.
    pub fn pinned(&self) -> &[Address] {
        &self.identities
    }

    /// The client's transport.
    pub const fn transport(&self) -> &T {
        &self.transport
    }

    /// Makes any call, with retries.
    ///
    /// # Errors
    /// The last attempt's error.
    pub async fn call<A>(&self, call: ApiCall<A>) -> Result<A, ClientError> {
        self.call_until(call, None).await
    }

    /// Makes any call, with retries before `deadline`.
    ///
    /// # Errors
    /// The last attempt's error.
    pub async fn call_until<A>(&self, call: ApiCall<A>, deadline: Option<Timestamp>) -> Result<A, ClientError> {
        let mut exchange = Exchange::new(call, self.policy, deadline);
        loop {
            let now = self.transport.now();
            match exchange.step(now) {
                Step::Wait(until) => self.transport.sleep(until.since(now)).await,
                Step::Send(http) => {
                    let answer = self.transport.send(http).await;
                    if let Some(result) = exchange.answer(self.transport.now(), answer, self.transport.entropy()) {
                        return result;
                    }
                }
            }
        }
    }

    /// Submits one request, a [`Submit`] or a [`Submission`](slackwater_core::request::Submission); see [`api::submit`].
    ///
    /// # Errors
    /// [`ClientError`]; if it [is ambiguous](ClientError::is_ambiguous), submit the same again later, or ask by id.
    pub async fn submit<S>(&self, submission: S) -> Result<Accepted, ClientError>
    where
        S: TryInto<Submit>,
        ClientError: From<S::Error>,
    {
        let submit = &submission.try_into()?;
        let deadline = submit.expires_at(self.transport.now());
        self.checked(submit, self.call_until(api::submit(submit), deadline).await?)
    }

    /// Checks that an acceptance is promised by a pinned identity, within the requested time. The request's id is taken
    /// from the relayer: only the signer knows it, and compares.
    fn checked(&self, submit: &Submit, accepted: Accepted) -> Result<Accepted, ClientError> {
        if let Some(relayer) = pin_for(&self.identities, &accepted.promise) {
            let (request, chain_id) = (accepted.id, submit.chain_id());
            let not_after = submit.promised_by(self.transport.now()).filter(|_| !accepted.duplicate);
            verify_accepted(&accepted, &ExpectedPromise { request, chain_id, relayer, not_after })?;
        }
        Ok(accepted)
    }

    /// Submits many requests; see [`api::submit_batch`].
    ///
    /// # Errors
    /// [`ClientError`] if the batch as a whole failed; [`ClientError::Unreadable`] if results are missing.
    pub async fn submit_batch(&self, submits: &[Submit]) -> Result<api::BatchResults, ClientError> {
        let results = self.call(api::submit_batch(submits)).await?;
        if results.len() != submits.len() {
            let detail = format!("{} results for {} requests", results.len(), submits.len());
            return Err(ClientError::Unreadable { status: 207, detail });
        }
        let checked = |(submit, result): (_, Result<Accepted, _>)| result.and_then(|one| self.checked(submit, one));
        Ok(submits.iter().zip(results).map(checked).collect())
    }

    /// Quotes a price; see [`api::quote`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn quote(&self, chain_id: u64, gas: u64, within: Option<Duration>) -> Result<Quote, ClientError> {
        self.call(api::quote(chain_id, gas, within)).await
    }

    /// Fetches the details of one request.
    ///
    /// # Errors
    /// [`ClientError`]; `not_found` for an unknown request.
    pub async fn request(&self, id: RequestId) -> Result<RequestDetail, ClientError> {
        self.call(api::request(id)).await
    }

    /// Lists a page of requests.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn requests(&self, filter: &api::ListFilter) -> Result<RequestPage, ClientError> {
        self.call(api::requests(filter)).await
    }

    /// Withdraws a request that is still queued. If the answer is lost and the next one is `too_late`, the request is
    /// looked up: the first attempt may have withdrawn it.
    ///
    /// # Errors
    /// [`ClientError`]; `too_late` once it is in a transaction, or has ended.
    pub async fn cancel(&self, id: RequestId) -> Result<RequestSummary, ClientError> {
        self.call(api::cancel(id)).await
    }

    /// Lists the supported chains.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn chains(&self) -> Result<Chains, ClientError> {
        self.call(api::chains()).await
    }

    /// Fetches a chain's current prices.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn fees(&self, chain_id: u64) -> Result<ChainFees, ClientError> {
        self.call(api::fees(chain_id)).await
    }

    /// Fetches the base fee forecast.
    ///
    /// # Errors
    /// [`ClientError`]; `not_found` where the relayer sends at once.
    pub async fn forecast(&self, chain_id: u64, horizon: Option<Duration>) -> Result<ChainForecast, ClientError> {
        self.call(api::forecast(chain_id, horizon)).await
    }

    /// Fetches one batch.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn batch(&self, id: BatchId) -> Result<Batch, ClientError> {
        self.call(api::batch(id)).await
    }
}
