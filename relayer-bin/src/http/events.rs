//! Server-sent events: gap-free, resumable from any sequence number (invariant I10).
//!
//! A stream first replays from the ledger, then follows the live feed. Whenever it can't be sure to have seen
//! everything (it lagged, or a sequence number is missing) it reads from the ledger again.

use std::{convert::Infallible, fmt::Write as _, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
};
use serde::Deserialize;
use slackwater::{
    ledger::{EventFilter, EventRecord, LedgerError},
    request::{RequestId, Status},
};
use tokio::sync::{
    OwnedSemaphorePermit,
    broadcast::{self, error::RecvError},
};
use utoipa::IntoParams;

use super::{
    Shared,
    auth::Caller,
    dto::EventView,
    problem::{Problem, ProblemBody},
    requests::{find, parse_id, query},
};

/// Events read from the ledger at a time.
const PAGE: usize = 500;

/// Where to start.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// Only events with a greater sequence number. The header `Last-Event-ID` wins over it.
    after: Option<u64>,
}

/// Streams what happens to the tenant's requests (every tenant's, for operators).
///
/// Each message has the event's sequence number as `id` and the event as JSON in `data`. Without `after` and
/// `Last-Event-ID` it starts with the next event. Delivery is at least once.
#[utoipa::path(
    get, path = "/v1/events", tag = "events", params(EventsQuery),
    responses(
        (status = 200, description = "An endless stream", body = EventView<'static>, content_type = "text/event-stream"),
        (status = "4XX", description = "Refused", body = ProblemBody<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn all(
    State(app): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    params: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Response<Body>, Problem> {
    let after = start(&headers, &query(params)?)?;
    let receiver = app.relay.subscribe();
    let after = match after {
        Some(after) => after,
        None => app.relay.last_event_seq().await?,
    };
    stream(&app, receiver, after, caller.scope(), None)
}

/// Streams what happens to one request, from its first event on, until it has ended.
///
/// Answers 204 if it has ended and nothing is left to say; `EventSource` then stops to reconnect.
#[utoipa::path(
    get, path = "/v1/requests/{id}/events", tag = "events",
    params(("id" = String, Path, description = "The request's id"), EventsQuery),
    responses(
        (status = 200, description = "A stream that ends with the request", body = EventView<'static>, content_type = "text/event-stream"),
        (status = 204, description = "It has ended, and nothing is left to say"),
        (status = "4XX", description = "Refused", body = ProblemBody<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn of_request(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    params: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Response<Body>, Problem> {
    let id = parse_id(&id)?;
    let after = start(&headers, &query(params)?)?.unwrap_or(0);
    let receiver = app.relay.subscribe();
    let record = find(&app, &caller, id).await?;
    if record.status.is_terminal() {
        let filter = EventFilter { after, request: Some(id), tenant: None, limit: 1 };
        if app.relay.events(&filter).await?.is_empty() {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Ok(response);
        }
    }
    stream(&app, receiver, after, None, Some(id))
}

fn start(headers: &HeaderMap, query: &EventsQuery) -> Result<Option<u64>, Problem> {
    match headers.get("last-event-id") {
        // Browsers send an empty one after a stream without ids.
        None => Ok(query.after),
        Some(value) if value.is_empty() => Ok(query.after),
        Some(value) => value
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .map(Some)
            .ok_or_else(|| Problem::new("invalid_header", "Last-Event-ID must be a sequence number")),
    }
}

fn stream(
    app: &Shared,
    receiver: broadcast::Receiver<Arc<[EventRecord]>>,
    after: u64,
    tenant: Option<String>,
    request: Option<RequestId>,
) -> Result<Response<Body>, Problem> {
    let permit = Arc::clone(&app.streams).try_acquire_owned().map_err(|_| {
        let limit = app.limits.max_streams;
        Problem::new("overloaded", format!("{limit} event streams are open, limit {limit} (`server.max_streams`)"))
            .retry_after(Duration::from_secs(5))
    })?;
    let feed = Feed {
        app: Arc::clone(app),
        receiver,
        seen: after,
        tenant,
        request,
        is_behind: true,
        has_ended: false,
        is_new: true,
        _permit: permit,
    };
    let chunks = futures_util::stream::unfold(feed, async |mut feed| {
        let chunk = feed.next().await?;
        Some((Ok::<_, Infallible>(chunk), feed))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Tells buffering proxies to pass every message on at once.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

struct Feed {
    app: Shared,
    receiver: broadcast::Receiver<Arc<[EventRecord]>>,
    /// Every event up to this one was sent, or is none of this stream's business.
    seen: u64,
    tenant: Option<String>,
    request: Option<RequestId>,
    is_behind: bool,
    has_ended: bool,
    is_new: bool,
    _permit: OwnedSemaphorePermit,
}

impl Feed {
    /// The next messages; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        if std::mem::take(&mut self.is_new) {
            // Sent at once, so that the client knows that it is connected.
            return Some(Bytes::from_static(b"retry: 1000\n\n"));
        }
        loop {
            if self.has_ended {
                return None;
            }
            if self.is_behind {
                match self.catch_up().await {
                    Ok(chunk) if chunk.is_empty() => {}
                    Ok(chunk) => return Some(chunk.into()),
                    Err(error) => {
                        tracing::warn!(%error, "an event stream could not read the ledger");
                        return None;
                    }
                }
                continue;
            }
            let keep_alive = self.app.limits.keep_alive;
            let received = tokio::select! {
                () = self.app.closing.cancelled() => return None,
                received = tokio::time::timeout(keep_alive, self.receiver.recv()) => received,
            };
            match received {
                Err(_) => return Some(Bytes::from_static(b": keep-alive\n\n")),
                Ok(Err(RecvError::Closed)) => return None,
                Ok(Err(RecvError::Lagged(_))) => self.is_behind = true,
                Ok(Ok(events)) => {
                    let chunk = self.take(&events);
                    if !chunk.is_empty() {
                        return Some(chunk.into());
                    }
                }
            }
        }
    }

    /// Reads one page from the ledger.
    async fn catch_up(&mut self) -> Result<String, LedgerError> {
        // Read before the page: up to here a page that is not full has everything.
        let horizon = self.app.relay.last_event_seq().await?;
        let filter = EventFilter { after: self.seen, request: self.request, tenant: self.tenant.clone(), limit: PAGE };
        let page = self.app.relay.events(&filter).await?;
        if page.len() < PAGE {
            self.is_behind = false;
        }
        let mut chunk = String::with_capacity(page.len() * 320);
        for event in &page {
            self.push(&mut chunk, event);
        }
        if !self.is_behind {
            self.seen = self.seen.max(horizon);
        }
        Ok(chunk)
    }

    /// Takes live events; falls behind if one is missing before them.
    fn take(&mut self, events: &[EventRecord]) -> String {
        let mut chunk = String::new();
        for event in events {
            if event.seq <= self.seen {
                continue;
            }
            if event.seq > self.seen + 1 {
                self.is_behind = true;
                break;
            }
            self.seen = event.seq;
            let is_ours = self.request.is_none_or(|id| id == event.request_id)
                && self.tenant.as_deref().is_none_or(|tenant| tenant == event.tenant);
            if is_ours {
                self.push(&mut chunk, event);
            }
        }
        chunk
    }

    fn push(&mut self, chunk: &mut String, event: &EventRecord) {
        self.seen = self.seen.max(event.seq);
        write_message(chunk, event);
        if self.request.is_some() && is_last(event.status) {
            self.has_ended = true;
        }
    }
}

const fn is_last(status: Status) -> bool {
    status.is_terminal()
}

/// Appends one message: `id: SEQ`, `data: JSON`, and an empty line. JSON has no line breaks.
fn write_message(chunk: &mut String, event: &EventRecord) {
    let json = serde_json::to_string(&EventView::from(event))
        .unwrap_or_else(|error| unreachable!("an event is always JSON: {error}"));
    let _ = write!(chunk, "id: {}\ndata: {json}\n\n", event.seq);
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;

    use super::*;

    #[test]
    fn one_message_has_one_data_line() {
        let event = EventRecord {
            seq: 7,
            request_id: RequestId(B256::repeat_byte(1)),
            request_seq: 2,
            tenant: "shop".to_owned(),
            chain_id: 31_337,
            status: Status::Rejected,
            reason: None,
            detail: Some("line one\nid: 99\r\n\r\ndata: forged".to_owned()),
            batch: None,
            tx_hash: None,
            block_number: None,
            at_ms: 1,
        };
        let mut chunk = String::new();
        write_message(&mut chunk, &event);
        assert!(chunk.starts_with("id: 7\ndata: {\"seq\":7,\"requestId\":\"0x0101"), "{chunk}");
        assert!(chunk.ends_with("}\n\n"));
        assert_eq!(chunk.lines().filter(|line| line.starts_with("data:")).count(), 1);
        assert_eq!(chunk.lines().filter(|line| line.starts_with("id:")).count(), 1);
        assert!(!chunk.contains('\r'));
    }

    #[test]
    fn starts_where_the_client_left() {
        let query = EventsQuery { after: Some(3) };
        let mut headers = HeaderMap::new();
        assert_eq!(start(&headers, &query), Ok(Some(3)));
        headers.insert("last-event-id", HeaderValue::from_static(""));
        assert_eq!(start(&headers, &query), Ok(Some(3)));
        headers.insert("last-event-id", HeaderValue::from_static("9"));
        assert_eq!(start(&headers, &query), Ok(Some(9)));
        headers.insert("last-event-id", HeaderValue::from_static("x"));
        assert_eq!(start(&headers, &query).unwrap_err().code(), "invalid_header");
    }
}
