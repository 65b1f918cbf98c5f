//! An issuer of tokens whose key set is served over HTTP, and clients with its tokens.

use std::{net::SocketAddr, sync::LazyLock};

use amends_api::auth::{OwnKey, Role};
use axum::{Json, Router, routing::get};
use chrono::Utc;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The key of every test's issuer.
static KEY: LazyLock<OwnKey> =
    LazyLock::new(|| OwnKey::from_pem(OwnKey::draw().unwrap().as_bytes()).unwrap());

/// The settings of an api that takes the tokens of the issuer at this address.
pub fn settings(address: SocketAddr) -> [(&'static str, String); 4] {
    [
        ("AMENDS_NO_AUTH", "false".to_owned()),
        ("AMENDS_JWKS_URL", format!("http://{address}/.well-known/jwks.json")),
        ("AMENDS_JWT_ISSUER", "amends-dev".to_owned()),
        ("AMENDS_JWT_AUDIENCE", "amends".to_owned()),
    ]
}

/// Serves the key set until the test ends; returns the address.
pub async fn serve_at(address: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/.well-known/jwks.json", get(async || Json(KEY.jwks())));
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// Returns a token for ten minutes.
pub fn token(subject: &str, roles: &[Role]) -> String {
    KEY.mint(subject, roles, 600).unwrap()
}

/// Returns a token that has expired.
pub fn expired(subject: &str, roles: &[Role]) -> String {
    let names: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    let then: i64 = Utc::now().timestamp() - 3600;
    let claims: Value =
        json!({ "iss": "amends-dev", "aud": "amends", "sub": subject, "roles": names, "exp": then });
    KEY.sign(&claims).unwrap()
}
