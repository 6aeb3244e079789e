//! Follows one request through broken connections, repeated events and reorgs.

use std::{borrow::Cow, collections::VecDeque, time::Duration};

use super::{
    Event, Open,
    api::{self, Look},
    error::ClientError,
    http::{self, HttpAnswer, HttpCall, TransportError},
    retry::RetryPolicy,
    sse::{SseError, SseParser},
};
use crate::{
    json,
    request::{RequestId, Status},
    time::Timestamp,
};

/// Interval between look-ups without a stream, unless [`Follow::polling`] sets another.
pub const DEFAULT_POLL: Duration = Duration::from_secs(2);

/// Limit on events in a request's state (its first ones); at the limit there may be more.
const TIMELINE_LIMIT: usize = 1_000;

/// End condition of a [`Follow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Until {
    /// Included in a block, which a reorg may still revoke; or ended.
    Included,
    /// Ended: final, or for another reason.
    #[default]
    Terminal,
}

/// A status change of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Last seen status; `None` for the first change.
    pub from: Option<Open<Status>>,
    /// The event.
    pub event: Event,
    /// True for a step back, such as from `included` to `broadcast` in a reorg.
    pub is_fallback: bool,
}

/// Next action of a [`Follow`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowStep {
    /// Open this stream and pass the answer to [`Follow::opened`].
    Open(HttpCall),
    /// Give the stream's bytes to [`Follow::bytes`], and tell [`Follow::closed`] when it ends.
    Read,
    /// Send this call and pass the answer to [`Follow::looked`].
    Look(HttpCall),
    /// Ask again at this instant.
    Wait(Timestamp),
    /// Finished: see [`Follow::state`] and [`Follow::failure`].
    Done,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Mode {
    Open,
    Read,
    Look,
    Wait(Timestamp),
    Done,
}

/// Follower of one request: a state machine without clock, randomness or socket.
///
/// It reads the event stream from the first event. A stream that can't be opened, or breaks, is resumed after a wait;
/// before that the request's state is looked up, so that progress is seen even if streams never get through. With
/// [`Self::polling`] it uses look-ups only.
#[derive(Debug, Clone)]
pub struct Follow {
    id: RequestId,
    until: Until,
    policy: RetryPolicy,
    poll: Duration,
    is_polling: bool,
    mode: Mode,
    parser: SseParser,
    last: Option<Event>,
    changes: VecDeque<Change>,
    failures: u32,
    /// True once the relayer has said that there are no more events.
    has_no_more: bool,
    failure: Option<ClientError>,
    contradiction: Option<Event>,
}

impl Follow {
    /// A follower of the request until its end.
    pub fn new(id: RequestId) -> Self {
        Self {
            id,
            until: Until::Terminal,
            policy: RetryPolicy { max_attempts: 0, ..RetryPolicy::default() },
            poll: DEFAULT_POLL,
            is_polling: false,
            mode: Mode::Open,
            parser: SseParser::default(),
            last: None,
            changes: VecDeque::new(),
            failures: 0,
            has_no_more: false,
            failure: None,
            contradiction: None,
        }
    }

    /// Sets the end condition. Default [`Until::Terminal`].
    #[must_use]
    pub const fn until(mut self, until: Until) -> Self {
        self.until = until;
        self
    }

    /// Sets the back-off, and the limit on consecutive failures (0: none, the default).
    #[must_use]
    pub const fn retry(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// As [`Self::retry`], from now on.
    pub const fn set_retry(&mut self, policy: RetryPolicy) {
        self.policy = policy;
    }

    /// Looks at the state now and then instead of reading a stream.
    #[must_use]
    pub fn polling(mut self, every: Duration) -> Self {
        (self.is_polling, self.poll, self.mode) = (true, every, Mode::Look);
        self
    }

    /// The request.
    pub const fn id(&self) -> RequestId {
        self.id
    }

    /// The last event, with the current status; `None` before the first.
    pub const fn state(&self) -> Option<&Event> {
        self.last.as_ref()
    }

    /// Reason for giving up; `None` otherwise.
    pub const fn failure(&self) -> Option<&ClientError> {
        self.failure.as_ref()
    }

    /// An event after the request's end: the relayer revoked a final status.
    pub const fn contradiction(&self) -> Option<&Event> {
        self.contradiction.as_ref()
    }

    /// True if it has finished.
    pub fn is_done(&self) -> bool {
        self.mode == Mode::Done
    }

    /// The next unread change of the request.
    pub fn next_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// The next action at `now`.
    pub fn step(&mut self, now: Timestamp) -> FollowStep {
        if let Mode::Wait(until) = self.mode
            && until <= now
        {
            // First a look-up: it shows whether there is anything to wait for.
            self.mode = Mode::Look;
        }
        match self.mode {
            Mode::Open => {
                let after = self.last.as_ref().map(|event| event.seq);
                FollowStep::Open(api::events_of(self.id, after))
            }
            Mode::Read => FollowStep::Read,
            Mode::Look => FollowStep::Look(api::look(self.id).http().clone()),
            Mode::Wait(until) => FollowStep::Wait(until),
            Mode::Done => FollowStep::Done,
        }
    }

    /// The stream was opened, or not. Of an answer that is no stream, `answer` holds the body.
    pub fn opened(&mut self, now: Timestamp, answer: Result<HttpAnswer, TransportError>, entropy: u64) {
        if self.mode != Mode::Open {
            return;
        }
        match answer.map_err(ClientError::from).and_then(|answer| http::check(&answer).map(|()| answer.status)) {
            // No more events: if the end was missed, it is in the state.
            Ok(204) => {
                self.has_no_more = true;
                self.mode = if self.is_at_end() { Mode::Done } else { Mode::Look };
            }
            Ok(_) => {
                self.parser = self.parser.resumed();
                self.mode = Mode::Read;
            }
            Err(error) => self.failed(now, error, entropy),
        }
    }

    /// Processes bytes of the stream. Afterwards call [`Self::next_change`] until it returns `None`.
    ///
    /// # Errors
    /// [`SseError`] if the stream is unreadable: close it, and continue with [`Self::closed`].
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), SseError> {
        if self.mode != Mode::Read {
            return Ok(());
        }
        let result = self.parser.push(bytes);
        while let Some(message) = self.parser.next_message() {
            // What is no event is of a newer relayer, or noise: the state shows what matters.
            if let Ok(event) = json::read::<Event>(message.data.as_bytes()) {
                self.apply(event);
            }
        }
        if self.is_at_end() {
            self.mode = Mode::Done;
        }
        result
    }

    /// Reports the end or failure of the stream.
    pub fn closed(&mut self, now: Timestamp, entropy: u64) {
        if self.mode != Mode::Read {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        let asked = Duration::from_millis(self.parser.retry_ms().unwrap_or(0));
        let wait = self.policy.back_off(self.failures, entropy).saturating_add(asked);
        self.mode = Mode::Wait(now.saturating_add(wait));
    }

    /// Processes the answer to [`FollowStep::Look`].
    pub fn looked(&mut self, now: Timestamp, answer: Result<HttpAnswer, TransportError>, entropy: u64) {
        if self.mode != Mode::Look {
            return;
        }
        let look = answer.map_err(ClientError::from).and_then(|answer| api::look(self.id).parse(&answer));
        match look {
            Ok(look) => {
                self.take_look(look);
                self.mode = if self.is_at_end() || self.has_no_more {
                    Mode::Done
                } else if self.is_polling {
                    self.failures = 0;
                    Mode::Wait(now.saturating_add(self.poll))
                } else {
                    Mode::Open
                };
            }
            Err(error) => self.failed(now, error, entropy),
        }
    }

    fn take_look(&mut self, look: Look) {
        let is_cut = look.timeline.is_empty() || look.timeline.len() >= TIMELINE_LIMIT;
        for event in look.timeline {
            self.apply(event);
        }
        // The state and its story are read one after the other, so the state may be the older one. Only where the story is
        // cut, or missing, the state says more.
        let is_newer = self.last.as_ref().is_none_or(|last| look.updated_at_ms > last.at_ms);
        if is_cut && is_newer && look.id == self.id {
            let (seq, request_seq) = self.last.as_ref().map_or((0, 0), |last| (last.seq, last.request_seq));
            self.take(Event {
                seq,
                request_id: look.id,
                request_seq,
                tenant: Cow::default(),
                chain_id: look.chain_id,
                status: look.status,
                reason: look.reason,
                detail: None,
                batch: look.batch,
                tx_hash: look.tx_hash,
                block_number: look.block_number,
                at_ms: look.updated_at_ms,
            });
        }
    }

    /// Applies an event once: delivery is at least once.
    fn apply(&mut self, event: Event) {
        let is_new = self.last.as_ref().is_none_or(|last| event.request_seq > last.request_seq);
        if event.request_id == self.id && is_new {
            self.failures = 0;
            self.take(event);
        }
    }

    fn take(&mut self, event: Event) {
        let from = self.last.as_ref().map(|last| last.status.clone());
        if from.as_ref().is_some_and(Open::is_terminal) {
            self.contradiction.get_or_insert(event);
            return;
        }
        let is_fallback = from.as_ref().is_some_and(|from| rank(&event.status) < rank(from));
        self.last = Some(event.clone());
        self.changes.push_back(Change { from, event, is_fallback });
    }

    fn is_at_end(&self) -> bool {
        self.last.as_ref().is_some_and(|last| {
            last.status.is_terminal() || (self.until == Until::Included && last.status == Open::Known(Status::Included))
        })
    }

    fn failed(&mut self, now: Timestamp, error: ClientError, entropy: u64) {
        self.failures = self.failures.saturating_add(1);
        let is_last = self.policy.max_attempts != 0 && self.failures >= self.policy.max_attempts;
        if !error.is_retryable() || is_last {
            self.failure = Some(error);
            self.mode = Mode::Done;
            return;
        }
        let asked = error.retry_after().unwrap_or(Duration::ZERO).min(self.policy.max_retry_after);
        self.mode = Mode::Wait(now.saturating_add(self.policy.back_off(self.failures, entropy).saturating_add(asked)));
    }
}

/// Progress rank of a status; unknown ones rank highest.
const fn rank(status: &Open<Status>) -> u8 {
    match status {
        Open::Known(Status::Queued) => 0,
        Open::Known(Status::Batched) => 1,
        Open::Known(Status::Broadcast) => 2,
        Open::Known(Status::Included) => 3,
        Open::Known(_) => 4,
        Open::Other(_) => u8::MAX,
    }
}
