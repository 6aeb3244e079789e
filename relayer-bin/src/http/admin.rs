//! Operators' actions on the relayer as a whole: pause, resume, reload.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{Response, StatusCode},
};
use serde::{Deserialize, Serialize};
use slackwater::policy::{PauseNote, PauseScope, Pauses};
use utoipa::ToSchema;

use super::{
    Shared,
    auth::Caller,
    body,
    problem::{Problem, ProblemBody},
    recorded,
    reload::Change,
};
use crate::scalar::Count;

type Answer = Result<Response<Body>, Problem>;

/// Scope of a pause: exactly one of the members.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PauseBody {
    /// Everything.
    all: Option<bool>,
    /// One chain.
    #[schema(value_type = Option<u64>)]
    chain_id: Option<Count>,
    /// One tenant.
    tenant: Option<String>,
}

impl PauseBody {
    fn scope(self) -> Result<PauseScope, Problem> {
        match (self.all, self.chain_id, self.tenant) {
            (Some(true), None, None) => Ok(PauseScope::All),
            (None, Some(chain), None) => Ok(PauseScope::Chain(chain.0)),
            (None, None, Some(tenant)) => Ok(PauseScope::Tenant(tenant)),
            _ => Err(Problem::new("invalid_field", "name one of `all`: true, `chainId` and `tenant`")),
        }
    }
}

/// A pause in force.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Pause)]
pub(super) struct PauseView {
    /// Everything is paused.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    all: bool,
    /// This chain is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    chain_id: Option<u64>,
    /// This tenant is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    /// Id of the API key that set the pause.
    by: String,
    /// Time at which it was set, Unix ms.
    at_ms: u64,
}

/// The pauses in force.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Pauses)]
pub(super) struct PausesView {
    /// The widest first.
    pauses: Vec<PauseView>,
}

impl From<&Pauses> for PausesView {
    fn from(pauses: &Pauses) -> Self {
        let view = |all, chain_id, tenant, note: &PauseNote| {
            let (by, at_ms) = (note.by.clone(), note.at_ms);
            PauseView { all, chain_id, tenant, by, at_ms }
        };
        let all = pauses.all.iter().map(|note| view(true, None, None, note));
        let chains = pauses.chains.iter().map(|(id, note)| view(false, Some(*id), None, note));
        let tenants = pauses.tenants.iter().map(|(id, note)| view(false, None, Some(id.clone()), note));
        Self { pauses: all.chain(chains).chain(tenants).collect() }
    }
}

/// The pauses in force. Operators only.
#[utoipa::path(
    get, path = "/v1/admin/pauses", tag = "administration",
    responses((status = 200, description = "The pauses", body = PausesView))
)]
pub(super) async fn pauses(State(app): State<Shared>) -> Response<Body> {
    body::json(StatusCode::OK, &PausesView::from(&*app.relay.pauses()))
}

/// Pauses a tenant, a chain, or everything: nothing more is accepted and no new batch is made. Operators only.
///
/// Submissions get `503 paused`. Transactions in flight are bumped, cancelled and settled as before. The pause is
/// durable when this is answered, and in force on every instance soon after.
/// force on every instance soon after.
#[utoipa::path(
    post, path = "/v1/admin/pause", tag = "administration", request_body = PauseBody,
    responses(
        (status = 200, description = "Paused: all pauses in force", body = PausesView),
        (status = "4XX", description = "Refused", body = ProblemBody<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn pause(State(app): State<Shared>, caller: Caller, request: Request) -> Answer {
    let scope = scope(&app, &caller, request).await?;
    let pauses = app.relay.pause(&scope, &caller.name()).await?;
    Ok(body::json(StatusCode::OK, &PausesView::from(&*pauses)))
}

/// Ends a pause of exactly this scope. Operators only.
#[utoipa::path(
    post, path = "/v1/admin/resume", tag = "administration", request_body = PauseBody,
    responses(
        (status = 200, description = "Ended: the pauses still in force", body = PausesView),
        (status = "4XX", description = "Refused", body = ProblemBody<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn resume(State(app): State<Shared>, caller: Caller, request: Request) -> Answer {
    let scope = scope(&app, &caller, request).await?;
    let pauses = app.relay.resume(&scope, &caller.name()).await?;
    Ok(body::json(StatusCode::OK, &PausesView::from(&*pauses)))
}

/// Result of a reload.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Reload)]
pub(super) struct ReloadView {
    /// Values that changed; none if nothing did.
    changed: Vec<Change>,
}

/// Reloads the configuration and applies all changes, or none. Operators only.
///
/// Changeable are, of tenants: keys with their scopes, targets, limits, rates, weight and the limit of the budget; and
/// tenants can be added that make no calls. `409 needs_restart` names the changes that need a restart. Event streams
/// end, and their callers reconnect.
#[utoipa::path(
    post, path = "/v1/admin/reload", tag = "administration",
    responses(
        (status = 200, description = "Taken over: what changed", body = ReloadView),
        (status = "4XX", description = "Refused; nothing is changed", body = ProblemBody<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn reload(State(app): State<Shared>, caller: Caller) -> Answer {
    let changed = recorded(async move {
        // Reading files blocks.
        let reading = Arc::clone(&app);
        let reloaded = tokio::task::spawn_blocking(move || reading.reload()).await;
        let changed = reloaded.map_err(|_| Problem::shutting_down())??;
        app.record_reload(&caller.name(), changed.len()).await?;
        Ok(changed)
    })
    .await?;
    Ok(body::json(StatusCode::OK, &ReloadView { changed }))
}

async fn scope(app: &Shared, caller: &Caller, request: Request) -> Result<PauseScope, Problem> {
    let (parts, body) = request.into_parts();
    let body::Read { bytes, .. } = body::read(app, caller, &parts.headers, body, app.limits.single()).await?;
    body::parse::<PauseBody>(&bytes)?.scope()
}
