//! `/.well-known/jwks.json`: the public half of the key with which `amends dev` and `amends token` sign.

use std::sync::Arc;

use amends_http::{ProblemDetails, query};
use axum::{Json, Router, extract::State, middleware::from_fn, routing::get};
use serde_json::Value;

use crate::{auth::access::Routes, problem::Problem, state::Api};

const PATH: &str = "/.well-known/jwks.json";

pub fn routes() -> Routes<Arc<Api>> {
    let router = Router::new().route(PATH, get(read)).route_layer(from_fn(query::none));
    Routes::default().open(router, &[PATH])
}

/// An api that checks tokens of another issuer has no keys of its own.
async fn read(State(api): State<Arc<Api>>) -> Result<Json<Value>, Problem> {
    api.auth.published().cloned().map(Json).ok_or_else(|| ProblemDetails::no_such_path().into())
}
