//! `/openapi.json`, and Swagger UI at `/docs`.

use std::sync::{Arc, LazyLock};

use amends_http::{ProblemDetails, accept};
use axum::{
    extract::Path,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::from_fn,
    response::{IntoResponse, Response},
};
use utoipa_swagger_ui::{Config, serve};

use super::DOCUMENT;
use crate::{
    auth::access::{Access, Routes},
    http::openapi::{Answer, Operation, schema::OpenApiDocument},
    problem::Problem,
};

/// The path of the document.
pub const DOCUMENT_PATH: &str = "/openapi.json";
/// The path of Swagger UI.
pub const DOCS_PATH: &str = "/docs";
const HTML: &str = "text/html";
/// The page. It stands at `/docs`, and its files below it.
const PAGE: &str = "<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<title>Amends: the API</title>
<link rel=\"stylesheet\" href=\"docs/swagger-ui.css\">
<link rel=\"stylesheet\" href=\"docs/index.css\">
<link rel=\"icon\" type=\"image/png\" href=\"docs/favicon-32x32.png\">
</head>
<body>
<div id=\"swagger-ui\"></div>
<script src=\"docs/swagger-ui-bundle.js\"></script>
<script src=\"docs/swagger-ui-standalone-preset.js\"></script>
<script src=\"docs/swagger-initializer.js\"></script>
</body>
</html>
";
/// The files that the page loads, and their media types.
const FILES: [(&str, &str); 6] = [
    ("swagger-ui.css", "text/css"),
    ("index.css", "text/css"),
    ("swagger-ui-bundle.js", "text/javascript"),
    ("swagger-ui-standalone-preset.js", "text/javascript"),
    ("swagger-initializer.js", "text/javascript"),
    ("favicon-32x32.png", "image/png"),
];
/// The page loads what it needs from here only, and sends requests only to this host. Its pictures stand in its styles.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// They are the same for everyone, until another version is deployed.
const PUBLIC: (HeaderName, HeaderValue) =
    (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));

pub fn routes<S: Clone + Send + Sync + 'static>() -> Routes<S> {
    let kinds = ["text/css", "text/javascript", "image/png"];
    Routes::default()
        .on(
            Method::GET,
            DOCUMENT_PATH,
            Access::Open,
            document,
            Operation::new("readOpenApi", "Read this document")
                .answer(Answer::json::<OpenApiDocument>(StatusCode::OK, "The OpenAPI document.")),
        )
        .each(|routes| routes.route_layer(from_fn(accept::json)))
        .on(
            Method::GET,
            DOCS_PATH,
            Access::Open,
            page,
            Operation::new("readDocs", "Read and try this document in a browser").answer(Answer::of(
                &[HTML],
                StatusCode::OK,
                "Swagger UI.",
            )),
        )
        .on(
            Method::GET,
            "/docs/{file}",
            Access::Open,
            file,
            Operation::new("readDocsFile", "Load a part of the page at `/docs`").answer(Answer::of(
                &kinds,
                StatusCode::OK,
                "The file.",
            )),
        )
}

async fn document() -> Result<Response, Problem> {
    static TEXT: LazyLock<Option<String>> = LazyLock::new(|| DOCUMENT.to_json().ok());
    let text = TEXT.as_deref().ok_or(Problem::Internal)?;
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(([kind, PUBLIC], text).into_response())
}

async fn page(headers: HeaderMap) -> Result<Response, Problem> {
    accept::chosen(&headers, &[HTML])?;
    Ok(answered("text/html; charset=utf-8", PAGE))
}

async fn file(headers: HeaderMap, Path(name): Path<String>) -> Result<Response, Problem> {
    let known = FILES.iter().find(|(file, _)| *file == name);
    let (name, kind) = known.ok_or_else(ProblemDetails::no_such_path)?;
    accept::chosen(&headers, &[kind])?;
    Ok(answered(kind, bytes(name)?))
}

fn bytes(name: &str) -> Result<Vec<u8>, Problem> {
    // Relative to `/docs`.
    let config = Config::from("openapi.json");
    match serve(name, Arc::new(config)) {
        Ok(Some(file)) => Ok(file.bytes.into_owned()),
        Ok(None) => Err(Problem::Internal),
        Err(error) => {
            tracing::error!(%error, name, "a file of Swagger UI cannot be served");
            Err(Problem::Internal)
        }
    }
}

fn answered(kind: &'static str, content: impl IntoResponse) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        PUBLIC,
    ];
    (headers, content.into_response().into_body()).into_response()
}
