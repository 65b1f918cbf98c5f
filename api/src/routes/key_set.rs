//! `/.well-known/jwks.json`: the public half of the key with which `amends dev` and `amends token` sign.

use std::sync::Arc;

use amends_http::{ProblemDetails, accept};
use axum::{
    Json,
    extract::State,
    http::{Method, StatusCode},
    middleware::from_fn,
};
use serde_json::Value;

use crate::{
    auth::access::{Access, Routes},
    http::openapi::{Answer, Operation, schema::KeySet},
    problem::{Problem, problem_types},
    state::Api,
};

const PATH: &str = "/.well-known/jwks.json";

pub fn routes() -> Routes<Arc<Api>> {
    let operation = Operation::new("readKeySet", "Read the public keys that verify tokens")
        .about("Only `amends dev` has keys of its own. Elsewhere tokens are those of another issuer: 404.")
        .answer(Answer::json::<KeySet>(StatusCode::OK, "The keys."))
        .problems(&[problem_types::NOT_FOUND]);
    Routes::default()
        .on(Method::GET, PATH, Access::Open, read, operation)
        .each(|routes| routes.route_layer(from_fn(accept::json)))
}

/// An api that checks tokens of another issuer has no keys of its own.
async fn read(State(api): State<Arc<Api>>) -> Result<Json<Value>, Problem> {
    api.auth.published().cloned().map(Json).ok_or_else(|| ProblemDetails::no_such_path().into())
}
