//! The OpenAPI 3.1 document.

use utoipa::{
    Modify, OpenApi,
    openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};

use super::{admin, events, models, operations, requests};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Slackwater",
        description = "Meta-transaction relayer: accepts signed requests with a deadline, and brings them on chain in \
                       time at low cost, each at most once. Errors are RFC 9457 `application/problem+json` with a \
                       stable `code`.",
        license(name = "MIT OR Apache-2.0"),
    ),
    paths(
        requests::submit, requests::submit_batch, requests::list, requests::show, requests::cancel, requests::quote,
        events::all, events::of_request,
        operations::chains, operations::fees, operations::forecast, models::list, models::promote, models::pin, models::unpin, models::roll_back, models::export, models::import, operations::lanes, operations::sources, operations::counts, operations::batch, operations::log_head,
        admin::pauses, admin::pause, admin::resume, admin::reload,
        operations::healthz, operations::readyz, operations::metrics, operations::openapi,
    ),
    tags(
        (name = "requests", description = "Submit, ask, list, cancel, quote"),
        (name = "events", description = "What happens, as it happens: gap-free and resumable"),
        (name = "operations", description = "Chains, lanes, batches"),
        (name = "administration", description = "Pause, resume, reload"),
        (name = "probes", description = "For orchestrators and monitoring"),
        (name = "pages", description = "This document"),
    ),
    modifiers(&Security),
)]
struct Api;

struct Security;

impl Modify for Security {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("API key `sw_<tenant>_<secret>`"))
            .build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        components.add_security_scheme("apiKey", SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-Api-Key"))));
        let none: [&str; 0] = [];
        openapi.security =
            Some(vec![SecurityRequirement::new("bearer", none), SecurityRequirement::new("apiKey", none)]);
    }
}

/// The document as JSON.
pub fn document() -> String {
    let mut api = Api::openapi();
    slackwater_core::wire::schema::inline(&mut api);
    api.to_json().unwrap_or_else(|error| unreachable!("the document is always JSON: {error}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn small_schemas_stand_where_they_are_used() {
        let document = super::document();
        assert!(document.contains(r#""requestId":{"type":"string""#), "{document}");
        assert!(!document.contains("inline."), "{document}");
    }
}
