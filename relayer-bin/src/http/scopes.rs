//! Scopes of each operation. The only table: authorization uses it, `docs/api.md` shows it, and a test compares the
//! OpenAPI document with it.

use axum::http::Method;

use super::auth::{Scope, Scopes};

/// Permission that an operation requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Everybody.
    Nothing,
    /// A key with one of these scopes.
    OneOf(Scopes),
    /// As `server.metrics` says: everybody, a key with the scope `metrics`, or nobody.
    Metrics,
}

/// An operation of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Its method.
    pub method: &'static str,
    /// Its path, as in the OpenAPI document.
    pub path: &'static str,
    /// Permission that it requires.
    pub need: Need,
    /// A page key may call it too, within its caps.
    pub is_for_pages: bool,
}

const fn open(method: &'static str, path: &'static str) -> Operation {
    Operation { method, path, need: Need::Nothing, is_for_pages: true }
}

const fn one_of(method: &'static str, path: &'static str, scopes: &[Scope]) -> Operation {
    Operation { method, path, need: Need::OneOf(Scopes::of(scopes)), is_for_pages: false }
}

const fn page(method: &'static str, path: &'static str, scopes: &[Scope]) -> Operation {
    Operation { is_for_pages: true, ..one_of(method, path, scopes) }
}

/// Every operation.
pub const OPERATIONS: &[Operation] = {
    use Scope::{Cancel, Operate, Read, Submit};
    &[
        page("POST", "/v1/requests", &[Submit]),
        page("POST", "/v1/requests/batch", &[Submit]),
        one_of("GET", "/v1/requests", &[Read]),
        page("GET", "/v1/requests/{id}", &[Read]),
        page("DELETE", "/v1/requests/{id}", &[Cancel]),
        page("POST", "/v1/quotes", &[Submit, Read, Operate]),
        page("GET", "/v1/events", &[Read]),
        page("GET", "/v1/requests/{id}/events", &[Read]),
        page("GET", "/v1/chains", &[Submit, Read, Cancel, Operate]),
        page("GET", "/v1/chains/{id}/fees", &[Submit, Read, Operate]),
        page("GET", "/v1/chains/{id}/forecast", &[Submit, Read, Operate]),
        one_of("GET", "/v1/models", &[Read, Operate]),
        one_of("POST", "/v1/models/{id}/promote", &[Operate]),
        one_of("POST", "/v1/models/{id}/pin", &[Operate]),
        one_of("POST", "/v1/models/{id}/unpin", &[Operate]),
        one_of("POST", "/v1/models/{id}/rollback", &[Operate]),
        one_of("GET", "/v1/models/{id}/export", &[Operate]),
        one_of("POST", "/v1/models/{id}/import", &[Operate]),
        one_of("GET", "/v1/lanes", &[Read, Operate]),
        one_of("GET", "/v1/sources", &[Read, Operate]),
        one_of("GET", "/v1/counts", &[Operate]),
        one_of("GET", "/v1/batches/{id}", &[Read]),
        one_of("GET", "/v1/admin/pauses", &[Operate]),
        one_of("POST", "/v1/admin/pause", &[Operate]),
        one_of("POST", "/v1/admin/resume", &[Operate]),
        one_of("POST", "/v1/admin/reload", &[Operate]),
        open("GET", "/v1/log/head"),
        open("GET", "/healthz"),
        open("GET", "/readyz"),
        Operation { method: "GET", path: "/metrics", need: Need::Metrics, is_for_pages: false },
        open("GET", "/openapi.json"),
        open("GET", "/docs"),
        open("GET", "/"),
    ]
};

/// Permission that `method` on the route `path` requires, and true if a page key may call it. An unknown operation
/// requires none: it is refused anyway.
pub(crate) fn need(method: &Method, path: &str) -> (Need, bool) {
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    let is_it = |operation: &&Operation| operation.method == method && operation.path == path;
    OPERATIONS.iter().find(is_it).map_or((Need::Nothing, true), |operation| (operation.need, operation.is_for_pages))
}

/// The table of `docs/api.md`.
pub fn table() -> String {
    let mut out = String::from("| operation |");
    for scope in Scope::ALL {
        out.extend([" `", scope.as_str(), "` |"]);
    }
    out.push_str(" page key | no key |\n|---|---|---|---|---|---|---|---|\n");
    for operation in OPERATIONS {
        out.extend(["| `", operation.method, " ", operation.path, "` |"]);
        let mark = |is_allowed: bool| if is_allowed { " yes |" } else { " |" };
        for scope in Scope::ALL {
            out.push_str(match operation.need {
                Need::Nothing => mark(true),
                Need::OneOf(scopes) => mark(scopes.has(scope)),
                Need::Metrics => " as configured |",
            });
        }
        out.push_str(match operation.need {
            Need::Metrics => " as configured |",
            _ => mark(operation.is_for_pages),
        });
        out.push_str(match operation.need {
            Need::Nothing => mark(true),
            Need::OneOf(_) => mark(false),
            Need::Metrics => " as configured |",
        });
        out.push('\n');
    }
    out
}
