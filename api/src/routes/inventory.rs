//! `/api/inventory/*`: forwarded to the inventory worker, which owns the stock.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    extract::{OriginalUri, State},
    http::{HeaderMap, Method, header},
    response::{IntoResponse, Response},
};

use crate::{
    auth::{
        Right,
        access::{Access, Routes},
    },
    problem::Problem,
    state::Api,
};

const FORWARD_LONGEST: Duration = Duration::from_secs(5);

pub fn routes() -> Routes<Arc<Api>> {
    Routes::default()
        .on(Method::GET, "/api/inventory", Access::Needs(Right::ReadStock), forward)
        .on(Method::GET, "/api/inventory/{productId}", Access::Needs(Right::ReadStock), forward)
        .on(Method::PUT, "/api/inventory/{productId}/stock", Access::Needs(Right::SetStock), forward)
}

/// The caller's token is not forwarded.
async fn forward(
    State(api): State<Arc<Api>>,
    method: Method,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let away = || Problem::Unavailable("The inventory worker is unavailable.".to_owned());
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let url = format!("{}{path}", api.inventory_url.trim_end_matches('/'));
    // For HEAD, the body is left out on its way to the client, but its length is sent.
    let method = if method == Method::HEAD { Method::GET } else { method };
    let mut request = api.http.request(method, url).timeout(FORWARD_LONGEST).body(body);
    for kind in headers.get_all(header::CONTENT_TYPE) {
        request = request.header(header::CONTENT_TYPE, kind);
    }
    let answer = request.send().await.map_err(|_| away())?;
    let status = answer.status();
    let kept = [header::CONTENT_TYPE, header::ALLOW, header::RETRY_AFTER];
    let headers: HeaderMap = kept
        .into_iter()
        .filter_map(|name| Some((name.clone(), answer.headers().get(&name)?.clone())))
        .collect();
    let bytes = answer.bytes().await.map_err(|_| away())?;
    Ok((status, headers, bytes).into_response())
}
