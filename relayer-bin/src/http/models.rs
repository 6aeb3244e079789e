//! The forecast models: everybody may list them; operators promote, pin, roll back, export and import them.

use axum::{
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderValue, Response, StatusCode, header},
};
use slackwater::{ChainStatus, ModelError, ModelInfo, Relay};
use slackwater_core::wire::{self, ModelVersion, Models};

use super::{Shared, auth::Caller, body, dto, problem::Problem, recorded};

type Answer = Result<Response<Body>, Problem>;

/// The fitted models, with training range and scores.
#[utoipa::path(
    get, path = "/v1/models", tag = "operations",
    responses((status = 200, description = "The models", body = Models))
)]
pub(super) async fn list(State(app): State<Shared>) -> Response<Body> {
    let of_chain = |chain: ChainStatus| {
        app.relay
            .forecast(chain.chain_id)
            .map_or_else(Vec::new, |view| dto::models(chain.chain_id, &view.models).models)
    };
    let models = app.relay.chains().into_iter().flat_map(of_chain).collect();
    body::json(StatusCode::OK, &Models { models })
}

fn parse_chain(id: &str) -> Result<u64, Problem> {
    id.parse().map_err(|_| Problem::new("malformed_id", "a chain's id is a decimal integer"))
}

/// Makes a change, records who made it, and answers with the chain's models.
async fn change<F>(
    app: &Shared,
    caller: &Caller,
    action: &'static str,
    chain_id: u64,
    act: impl FnOnce(Relay) -> F + Send + 'static,
) -> Answer
where
    F: Future<Output = Result<Vec<ModelInfo>, ModelError>> + Send,
{
    let (relay, by) = (app.relay.clone(), caller.name());
    let models = recorded(async move {
        let models = act(relay.clone()).await?;
        relay.record_action(&by, action, &format!("models of chain {chain_id}")).await?;
        Ok(models)
    });
    Ok(body::json(StatusCode::OK, &dto::models(chain_id, &models.await?)))
}

async fn version(app: &Shared, caller: &Caller, request: Request) -> Result<u32, Problem> {
    let (parts, body) = request.into_parts();
    let body::Read { bytes, .. } = body::read(app, caller, &parts.headers, body, app.limits.single()).await?;
    body::parse::<ModelVersion>(&bytes).map(|body| body.version)
}

/// Activates a version of a chain's models until the next refit. Operators only.
#[utoipa::path(
    post, path = "/v1/models/{id}/promote", tag = "operations",
    params(("id" = u64, Path, description = "EIP-155 chain id")),
    request_body = ModelVersion,
    responses(
        (status = 200, description = "In force, and durable: the chain's models", body = Models),
        (status = "4XX", description = "Refused; nothing is changed", body = wire::Problem<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn promote(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    request: Request,
) -> Answer {
    let chain_id = parse_chain(&id)?;
    let version = version(&app, &caller, request).await?;
    change(
        &app,
        &caller,
        "promote",
        chain_id,
        move |relay| async move { relay.models(chain_id).promote(version).await },
    )
    .await
}

/// Activates a version of a chain's models and keeps it active, across restarts too. Operators only.
#[utoipa::path(
    post, path = "/v1/models/{id}/pin", tag = "operations",
    params(("id" = u64, Path, description = "EIP-155 chain id")),
    request_body = ModelVersion,
    responses(
        (status = 200, description = "Pinned, and durable: the chain's models", body = Models),
        (status = "4XX", description = "Refused; nothing is changed", body = wire::Problem<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn pin(State(app): State<Shared>, caller: Caller, Path(id): Path<String>, request: Request) -> Answer {
    let chain_id = parse_chain(&id)?;
    let version = version(&app, &caller, request).await?;
    change(&app, &caller, "pin", chain_id, move |relay| async move { relay.models(chain_id).pin(version).await }).await
}

/// Lets the next version that is fitted become active. Operators only.
#[utoipa::path(
    post, path = "/v1/models/{id}/unpin", tag = "operations",
    params(("id" = u64, Path, description = "EIP-155 chain id")),
    responses(
        (status = 200, description = "Done, and durable: the chain's models", body = Models),
        (status = "4XX", description = "Refused", body = wire::Problem<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn unpin(State(app): State<Shared>, caller: Caller, Path(id): Path<String>) -> Answer {
    let chain_id = parse_chain(&id)?;
    change(&app, &caller, "unpin", chain_id, move |relay| async move { relay.models(chain_id).unpin().await }).await
}

/// Activates the previously active version again. Operators only.
#[utoipa::path(
    post, path = "/v1/models/{id}/rollback", tag = "operations",
    params(("id" = u64, Path, description = "EIP-155 chain id")),
    responses(
        (status = 200, description = "In force, and durable: the chain's models", body = Models),
        (status = "4XX", description = "Refused; nothing is changed", body = wire::Problem<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn roll_back(State(app): State<Shared>, caller: Caller, Path(id): Path<String>) -> Answer {
    let chain_id = parse_chain(&id)?;
    change(&app, &caller, "rollback", chain_id, move |relay| async move { relay.models(chain_id).roll_back().await })
        .await
}

/// All models of a chain with scores and pin, as one JSON for `/import`. Operators only.
#[utoipa::path(
    get, path = "/v1/models/{id}/export", tag = "operations",
    params(("id" = u64, Path, description = "EIP-155 chain id")),
    responses(
        (status = 200, description = "The export", body = Object),
        (status = "4XX", description = "Refused", body = wire::Problem<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn export(State(app): State<Shared>, Path(id): Path<String>) -> Answer {
    let chain_id = parse_chain(&id)?;
    let mut response = Response::new(Body::from(app.relay.models(chain_id).export().await?));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Replaces a chain's models by those of an export. Each is checked against its content hash first. Operators only.
#[utoipa::path(
    post, path = "/v1/models/{id}/import", tag = "operations",
    params(("id" = u64, Path, description = "EIP-155 chain id")),
    request_body = Object,
    responses(
        (status = 200, description = "Done, and durable: the chain's models", body = Models),
        (status = "4XX", description = "Refused; nothing is changed", body = wire::Problem<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn import(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    request: Request,
) -> Answer {
    let chain_id = parse_chain(&id)?;
    let (parts, body) = request.into_parts();
    let body::Read { bytes, held: _held } =
        body::read(&app, &caller, &parts.headers, body, app.limits.import()).await?;
    let text = String::from_utf8(bytes.into()).map_err(|_| Problem::new("malformed_json", "the body is not UTF-8"))?;
    change(&app, &caller, "import", chain_id, move |relay| async move { relay.models(chain_id).import(text).await })
        .await
}
