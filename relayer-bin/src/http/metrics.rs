//! Counters of the API: bounded labels, and handles that are made once.

use std::time::Duration;

use axum::{
    extract::{MatchedPath, Request},
    http::{Method, StatusCode},
};
use metrics::{Counter, Histogram, counter, histogram};

macro_rules! routes {
    ($($variant:ident = $name:literal,)+) => {
        /// A route, as a metric label.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Route { $($variant,)+ }

        const NAMES: &[&str] = &[$($name,)+];
    };
}

routes! {
    Submit = "submit",
    SubmitBatch = "submit_batch",
    Request = "request",
    Requests = "requests",
    Events = "events",
    Quotes = "quotes",
    Operations = "operations",
    Probe = "probe",
    Page = "page",
    Unknown = "unknown",
}

impl Route {
    pub(crate) fn of(request: &Request) -> Self {
        let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
        match path {
            "/v1/requests" if *request.method() == Method::POST => Self::Submit,
            "/v1/requests" => Self::Requests,
            "/v1/requests/batch" => Self::SubmitBatch,
            "/v1/requests/{id}" => Self::Request,
            "/v1/events" | "/v1/requests/{id}/events" => Self::Events,
            "/v1/quotes" => Self::Quotes,
            "/healthz" | "/readyz" | "/metrics" => Self::Probe,
            "/" | "/docs" | "/openapi.json" => Self::Page,
            "" => Self::Unknown,
            _ => Self::Operations,
        }
    }

    /// Probes are never limited: a limited probe restarts a healthy relayer.
    pub(crate) const fn is_limited(self) -> bool {
        !matches!(self, Self::Probe)
    }
}

const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

struct RouteMetrics {
    answers: [Counter; CLASSES.len()],
    duration: Histogram,
}

/// One set of handles for each route.
pub(crate) struct Routes(Vec<RouteMetrics>);

impl std::fmt::Debug for Routes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Routes")
    }
}

impl Routes {
    pub(crate) fn new() -> Self {
        let make = |route: &'static str| RouteMetrics {
            answers: CLASSES.map(|class| counter!("slackwater_http_answers_total", "route" => route, "class" => class)),
            duration: histogram!("slackwater_http_duration_seconds", "route" => route),
        };
        Self(NAMES.iter().copied().map(make).collect())
    }

    pub(crate) fn observe(&self, route: Route, status: StatusCode, took: Duration) {
        let Some(metrics) = self.0.get(route as usize) else { return };
        let class = usize::from(status.as_u16() / 100).clamp(2, 5) - 2;
        metrics.answers[class].increment(1);
        metrics.duration.record(took);
    }
}
