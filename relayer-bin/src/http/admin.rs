//! Operators' actions on the relayer as a whole: pause, resume, reload.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{Response, StatusCode},
};
use slackwater_core::{
    policy::{self, PauseNote, PauseScope},
    wire::{self, Pause, PauseBody, Pauses, Reload},
};

use super::{Shared, auth::Caller, body, problem::Problem, recorded};

type Answer = Result<Response<Body>, Problem>;

fn pauses_of(pauses: &policy::Pauses) -> Pauses {
    let pause = |all, chain_id, tenant, note: &PauseNote| {
        let (by, at_ms) = (note.by.clone(), note.at_ms);
        Pause { all, chain_id, tenant, by, at_ms }
    };
    let all = pauses.all.iter().map(|note| pause(true, None, None, note));
    let chains = pauses.chains.iter().map(|(id, note)| pause(false, Some(*id), None, note));
    let tenants = pauses.tenants.iter().map(|(id, note)| pause(false, None, Some(id.clone()), note));
    Pauses { pauses: all.chain(chains).chain(tenants).collect() }
}

/// The pauses in force. Operators only.
#[utoipa::path(
    get, path = "/v1/admin/pauses", tag = "administration",
    responses((status = 200, description = "The pauses", body = Pauses))
)]
pub(super) async fn pauses(State(app): State<Shared>) -> Response<Body> {
    body::json(StatusCode::OK, &pauses_of(&app.relay.pauses()))
}

/// Pauses a tenant, a chain, or everything: nothing more is accepted and no new batch is made. Operators only.
///
/// Submissions get `503 paused`. Transactions in flight are bumped, cancelled and settled as before. The pause is
/// durable when this is answered, and in force on every instance soon after.
/// force on every instance soon after.
#[utoipa::path(
    post, path = "/v1/admin/pause", tag = "administration", request_body = PauseBody,
    responses(
        (status = 200, description = "Paused: all pauses in force", body = Pauses),
        (status = "4XX", description = "Refused", body = wire::Problem<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn pause(State(app): State<Shared>, caller: Caller, request: Request) -> Answer {
    let scope = scope(&app, &caller, request).await?;
    let pauses = app.relay.pause(&scope, &caller.name()).await?;
    Ok(body::json(StatusCode::OK, &pauses_of(&pauses)))
}

/// Ends a pause of exactly this scope. Operators only.
#[utoipa::path(
    post, path = "/v1/admin/resume", tag = "administration", request_body = PauseBody,
    responses(
        (status = 200, description = "Ended: the pauses still in force", body = Pauses),
        (status = "4XX", description = "Refused", body = wire::Problem<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn resume(State(app): State<Shared>, caller: Caller, request: Request) -> Answer {
    let scope = scope(&app, &caller, request).await?;
    let pauses = app.relay.resume(&scope, &caller.name()).await?;
    Ok(body::json(StatusCode::OK, &pauses_of(&pauses)))
}

/// Reloads the configuration and applies all changes, or none. Operators only.
///
/// Changeable are, of tenants: keys with their scopes, targets, limits, rates, weight and the limit of the budget; and
/// tenants can be added that make no calls. `409 needs_restart` names the changes that need a restart. Event streams
/// end, and their callers reconnect.
#[utoipa::path(
    post, path = "/v1/admin/reload", tag = "administration",
    responses(
        (status = 200, description = "Taken over: what changed", body = Reload),
        (status = "4XX", description = "Refused; nothing is changed", body = wire::Problem<'static>, content_type = "application/problem+json"),
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
    Ok(body::json(StatusCode::OK, &Reload { changed }))
}

async fn scope(app: &Shared, caller: &Caller, request: Request) -> Result<PauseScope, Problem> {
    let (parts, body) = request.into_parts();
    let body::Read { bytes, .. } = body::read(app, caller, &parts.headers, body, app.limits.single()).await?;
    let PauseBody { all, chain_id, tenant } = body::parse(&bytes)?;
    match (all, chain_id, tenant) {
        (Some(true), None, None) => Ok(PauseScope::All),
        (None, Some(chain), None) => Ok(PauseScope::Chain(chain.0)),
        (None, None, Some(tenant)) => Ok(PauseScope::Tenant(tenant)),
        _ => Err(Problem::new("invalid_field", "name one of `all`: true, `chainId` and `tenant`")),
    }
}
