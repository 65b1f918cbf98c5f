//! The addresses under which the systems before this one had their documents and their state: each redirects to the
//! present one.

use axum::{
    http::{Method, StatusCode},
    response::Redirect,
};

use super::docs::{DOCS_PATH, DOCUMENT_PATH};
use crate::{
    auth::access::{Access, Routes},
    http::openapi::{Answer, Operation},
};

/// An old path, the present one, and the id and summary of the redirect.
const OLD_ADDRESSES: [(&str, &str, &str, &str); 6] = [
    ("/v3/api-docs", DOCUMENT_PATH, "redirectApiDocs", "Redirect to `/openapi.json`"),
    ("/swagger-ui.html", DOCS_PATH, "redirectSwaggerUi", "Redirect to `/docs`"),
    ("/docs/", DOCS_PATH, "redirectDocs", "Redirect to `/docs`"),
    ("/actuator/health", "/health/ready", "redirectHealth", "Redirect to `/health/ready`"),
    (
        "/actuator/circuitbreakers",
        "/admin/circuit-breakers",
        "redirectCircuitBreakers",
        "Redirect to `/admin/circuit-breakers`",
    ),
    ("/actuator/metrics", "/metrics", "redirectMetrics", "Redirect to `/metrics`"),
];

pub fn routes<S: Clone + Send + Sync + 'static>() -> Routes<S> {
    OLD_ADDRESSES.into_iter().fold(Routes::default(), |routes, (old, present, id, summary)| {
        let operation = Operation::new(id, summary).answer(
            Answer::empty(StatusCode::PERMANENT_REDIRECT, "It is at another path.")
                .header("Location", "The path."),
        );
        routes.on(Method::GET, old, Access::Open, async move || Redirect::permanent(present), operation)
    })
}
