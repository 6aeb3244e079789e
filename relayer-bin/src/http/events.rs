//! Server-sent events: gap-free, resumable from any sequence number (invariant I10).
//!
//! A stream first replays from the ledger, then follows the live feed. Whenever it can't be sure to have seen
//! everything (it lagged, or a sequence number is missing) it reads from the ledger again.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fmt::Write as _,
    sync::Arc,
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::{Extension, Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
};
use serde::Deserialize;
use slackwater_core::{
    request::{RequestId, Status},
    wire,
};
use slackwater_ledger::{EventFilter, EventRecord, LedgerError};
use tokio::sync::{
    OwnedSemaphorePermit,
    broadcast::{self, error::RecvError},
};
use utoipa::IntoParams;

use super::{
    Group, Shared,
    auth::{Access, Caller},
    connection::Presence,
    dto,
    peer::{Network, Peer},
    problem::Problem,
    requests::{find, parse_id, query},
};

/// Most events read from the ledger at a time.
const PAGE: usize = 100;
/// Size of a stream's piece, which ends with the event that reaches it, bytes. One piece, and the connection's buffer,
/// waits for a peer that does not read; the rest stays in the ledger.
pub(super) const PIECE_BYTES: usize = 16 << 10;

/// Most requests that one stream can follow.
const MAX_IDS: usize = 100;
/// Suggested wait before a place for a stream may be free again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Start and filter of a stream.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// Only events with a greater sequence number. The header `Last-Event-ID` wins over it.
    after: Option<u64>,
    /// Only events of these requests, by id, separated by commas, at most 100; the stream ends when they have ended.
    /// `/v1/events` only.
    requests: Option<String>,
}

/// Streams the events of the tenant's requests (of every tenant's, for operators), or of the requests that are named.
///
/// Each message has the event's sequence number as `id` and the event as JSON in `data`. Without `after` and
/// `Last-Event-ID` it starts with the next event. Delivery is at least once.
#[utoipa::path(
    get, path = "/v1/events", tag = "events", params(EventsQuery),
    responses(
        (status = 200, description = "A stream, endless without `requests`", body = wire::Event<'static>, content_type = "text/event-stream"),
        (status = 204, description = "The named requests have ended, and nothing is left to say"),
        (status = "4XX", description = "Refused", body = wire::Problem<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn all(
    State(app): State<Shared>,
    caller: Caller,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    params: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Response<Body>, Problem> {
    let query = query(params)?;
    let after = start(&headers, &query)?;
    if let Some(ids) = &query.requests {
        let ids = parse_ids(ids)?;
        return of_ids(&app, &caller, &peer, ids, after.unwrap_or(0)).await;
    }
    if caller.is_page {
        let detail = format!("`{}` is a page key: name the requests, `?requests=0x…,0x…`", caller.key);
        return Err(Problem::new("scope_missing", detail));
    }
    let receiver = app.relay.subscribe();
    let after = match after {
        Some(after) => after,
        None => app.relay.history().last_event_seq().await?,
    };
    stream(&app, &caller, &peer, receiver, after, None)
}

/// Streams the events of one request, from its first one until it has ended.
///
/// Answers 204 if it has ended and no event is left to send; `EventSource` then stops reconnecting.
#[utoipa::path(
    get, path = "/v1/requests/{id}/events", tag = "events",
    params(("id" = String, Path, description = "The request's id"), EventsQuery),
    responses(
        (status = 200, description = "A stream that ends with the request", body = wire::Event<'static>, content_type = "text/event-stream"),
        (status = 204, description = "It has ended, and nothing is left to say"),
        (status = "4XX", description = "Refused", body = wire::Problem<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn of_request(
    State(app): State<Shared>,
    caller: Caller,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
    headers: HeaderMap,
    params: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Response<Body>, Problem> {
    let id = parse_id(&id)?;
    let after = start(&headers, &query(params)?)?.unwrap_or(0);
    of_ids(&app, &caller, &peer, BTreeSet::from([id]), after).await
}

fn parse_ids(text: &str) -> Result<BTreeSet<RequestId>, Problem> {
    let ids = text.split(',').map(|id| parse_id(id.trim())).collect::<Result<BTreeSet<_>, _>>()?;
    let count = ids.len();
    if count > MAX_IDS {
        return Err(Problem::new("invalid_query", format!("{count} requests on one stream are more than {MAX_IDS}")));
    }
    Ok(ids)
}

/// A stream of the events of these requests after `after`, until they have ended.
async fn of_ids(
    app: &Shared,
    caller: &Caller,
    peer: &Peer,
    ids: BTreeSet<RequestId>,
    after: u64,
) -> Result<Response<Body>, Problem> {
    let receiver = app.relay.subscribe();
    let mut open = Followed::new();
    for &id in &ids {
        let record = find(app, caller, id).await?;
        let filter = EventFilter { after, request: Some(record.seq), tenant: None, limit: 1 };
        if !record.status.is_terminal() || !app.relay.history().events(&filter).await?.is_empty() {
            open.insert(id, (record.seq, record.tenant));
        }
    }
    if open.is_empty() {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    }
    stream(app, caller, peer, receiver, after, Some(open))
}

fn start(headers: &HeaderMap, query: &EventsQuery) -> Result<Option<u64>, Problem> {
    match headers.get("last-event-id") {
        // Browsers send an empty header after a stream without ids.
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
    caller: &Caller,
    peer: &Peer,
    receiver: broadcast::Receiver<Arc<[EventRecord]>>,
    after: u64,
    requests: Option<Followed>,
) -> Result<Response<Body>, Problem> {
    let tenant = if requests.is_some() { None } else { caller.scope() };
    let too_many = |limit: usize, what: &str| {
        let detail =
            format!("{limit} event streams are open, limit {limit} (`{what}`); ask `/v1/requests/{{id}}` now and then");
        Problem::new("too_many_streams", detail).retry_after(RETRY_AFTER)
    };
    let access = app.access();
    let limit = access.max_streams(caller);
    let enter = |is_page, limit, what| {
        let presence = app.listeners.enter((Arc::clone(&caller.tenant), is_page), limit);
        presence.ok_or_else(|| too_many(limit, what))
    };
    // Page keys get at most half of the tenant's streams.
    let of_pages = match caller.is_page {
        true => Some(enter(true, limit / 2, "half of tenant.max_streams, for page keys")?),
        false => None,
    };
    let presence = enter(false, limit, "tenant.max_streams")?;
    let client = match caller.is_page {
        true => {
            let client = (Arc::clone(&caller.tenant), Arc::clone(&caller.key), peer.network());
            Some(app.page_listeners.enter(client, 1).ok_or_else(|| too_many(1, "one for each client of a page key"))?)
        }
        false => None,
    };
    let permit = Arc::clone(&app.streams).try_acquire_owned();
    let permit = permit.map_err(|_| too_many(app.limits.max_streams, "server.max_streams"))?;
    let feed = Feed {
        app: Arc::clone(app),
        access,
        receiver,
        seen: after,
        tenant,
        requests,
        is_behind: true,
        has_ended: false,
        is_new: true,
        live: None,
        _places: (permit, presence, of_pages, client),
    };
    let chunks = futures_util::stream::unfold(feed, async |mut feed| {
        let chunk = feed.next().await?;
        Some((Ok::<_, Infallible>(chunk), feed))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Makes buffering proxies forward every message at once.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// By request id: sequence number of its acceptance, and its tenant when the stream began. The id may become another
/// tenant's.
type Followed = BTreeMap<RequestId, (u64, String)>;

/// Tenant, key, address.
pub(super) type PageClient = (Arc<str>, Arc<str>, Network);

struct Feed {
    app: Shared,
    /// The set of API keys that admitted the stream.
    access: Arc<Access>,
    receiver: broadcast::Receiver<Arc<[EventRecord]>>,
    /// All events up to this sequence number were sent, or are not for this stream.
    seen: u64,
    tenant: Option<String>,
    /// Requests followed that have not ended; `None` if the stream is not limited to some.
    requests: Option<Followed>,
    is_behind: bool,
    has_ended: bool,
    is_new: bool,
    /// A group of events committed together, and how many of them are handled.
    live: Option<(Arc<[EventRecord]>, usize)>,
    _places: Places,
}

/// The places that a stream holds while it lasts: one among all, one of its tenant's, one of its tenant's page keys',
/// one of its page client's.
type Places = (OwnedSemaphorePermit, Presence<Group>, Option<Presence<Group>>, Option<Presence<PageClient>>);

impl Feed {
    /// The next messages; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        if std::mem::take(&mut self.is_new) {
            // Sent at once, so that the client knows it is connected.
            return Some(Bytes::from_static(b"retry: 1000\n\n"));
        }
        loop {
            // Also while there is more to read: a removed key gets no further page.
            if self.has_ended || self.app.closing.is_cancelled() || self.access.has_ended() {
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
            if let Some((events, from)) = self.live.take() {
                let (chunk, taken) = self.take(&events[from..]);
                if from + taken < events.len() && !self.is_behind {
                    self.live = Some((events, from + taken));
                }
                if !chunk.is_empty() {
                    return Some(chunk.into());
                }
                continue;
            }
            let keep_alive = self.app.limits.keep_alive;
            let received = tokio::select! {
                () = self.app.closing.cancelled() => return None,
                () = self.access.ended() => return None,
                received = tokio::time::timeout(keep_alive, self.receiver.recv()) => received,
            };
            match received {
                Err(_) => return Some(Bytes::from_static(b": keep-alive\n\n")),
                Ok(Err(RecvError::Closed)) => return None,
                Ok(Err(RecvError::Lagged(_))) => self.is_behind = true,
                Ok(Ok(events)) => self.live = Some((events, 0)),
            }
        }
    }

    /// Reads one page from the ledger.
    async fn catch_up(&mut self) -> Result<String, LedgerError> {
        // Read before the page: a page that is not full is complete up to here.
        let horizon = self.app.relay.history().last_event_seq().await?;
        let (page, mut is_whole) = self.page(horizon).await?;
        let mut chunk = String::with_capacity(page.len() * 320);
        for event in &page {
            if chunk.len() >= PIECE_BYTES {
                is_whole = false;
                break;
            }
            self.push(&mut chunk, event);
        }
        if is_whole {
            self.is_behind = false;
            self.seen = self.seen.max(horizon);
        }
        Ok(chunk)
    }

    /// The next events from the ledger, complete up to a sequence number of at most `horizon`; and true if none is
    /// left.
    async fn page(&self, horizon: u64) -> Result<(Vec<EventRecord>, bool), LedgerError> {
        let of = |request, tenant| EventFilter { after: self.seen, request, tenant, limit: PAGE };
        let Some(requests) = &self.requests else {
            let page = self.app.relay.history().events(&of(None, self.tenant.clone())).await?;
            let is_whole = page.len() < PAGE;
            return Ok((page, is_whole));
        };
        let mut events = Vec::new();
        // The pages of all requests are complete up to here: each is read at another moment.
        let mut end = horizon;
        let mut is_whole = true;
        for (seq, _) in requests.values() {
            let page = self.app.relay.history().events(&of(Some(*seq), None)).await?;
            if let Some(last) = page.last().filter(|_| page.len() >= PAGE) {
                end = end.min(last.seq);
                is_whole = false;
            }
            events.extend(page);
        }
        events.retain(|event| event.seq <= end);
        events.sort_by_key(|event| event.seq);
        Ok((events, is_whole))
    }

    /// Writes live events up to one piece. Returns the piece and the number of events handled; falls behind if an
    /// earlier event is missing.
    fn take(&mut self, events: &[EventRecord]) -> (String, usize) {
        let mut chunk = String::new();
        for (index, event) in events.iter().enumerate() {
            if chunk.len() >= PIECE_BYTES {
                return (chunk, index);
            }
            if event.seq <= self.seen {
                continue;
            }
            if event.seq > self.seen + 1 {
                self.is_behind = true;
                break;
            }
            self.seen = event.seq;
            let is_followed = |followed: &Followed| {
                followed.get(&event.request_id).is_some_and(|(_, tenant)| *tenant == event.tenant)
            };
            let is_ours = self.requests.as_ref().is_none_or(is_followed)
                && self.tenant.as_deref().is_none_or(|tenant| tenant == event.tenant);
            if is_ours {
                self.push(&mut chunk, event);
            }
        }
        (chunk, events.len())
    }

    fn push(&mut self, chunk: &mut String, event: &EventRecord) {
        self.seen = self.seen.max(event.seq);
        write_message(chunk, event);
        if let Some(requests) = &mut self.requests
            && is_last(event.status)
        {
            requests.remove(&event.request_id);
            self.has_ended = requests.is_empty();
        }
    }
}

const fn is_last(status: Status) -> bool {
    status.is_terminal()
}

/// Appends one message: `id: SEQ`, `data: JSON`, and an empty line. JSON has no line breaks.
fn write_message(chunk: &mut String, event: &EventRecord) {
    let json = serde_json::to_string(&dto::event(event))
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
        let query = EventsQuery { after: Some(3), requests: None };
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
