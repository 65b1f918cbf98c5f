//! Asks the api how a customer can be reached, and for the order that a message is about. It is asked when a message is
//! sent: personal data stays in the api's one table, and what was erased is never written to.

use std::time::Duration;

use reqwest::{Client, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

/// How long the api may take to answer.
const API_ANSWER_LONGEST: Duration = Duration::from_secs(5);
/// The largest answer that is read.
const API_ANSWER_LARGEST: usize = 1 << 20;

/// What the api knows of an order, for a message about it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Addressee {
    /// Whether the customer's data was erased.
    pub is_erased: bool,
    pub contact: Option<Contact>,
    /// The language that the order asks for.
    #[serde(default)]
    pub locale: Option<String>,
    /// The order, as its customer sees it.
    pub order: Value,
}

/// How to reach a customer.
#[derive(Deserialize)]
pub(crate) struct Contact {
    pub email: Option<String>,
    pub phone: Option<String>,
}

impl std::fmt::Debug for Addressee {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Addressee(hidden)")
    }
}

/// The api could not be asked, or gave no answer that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the api: {0}")]
pub(crate) struct Unanswered(String);

/// The api, with the token between services.
#[derive(Debug, Clone)]
pub struct OrderApi {
    http: Client,
    url: String,
    token: Option<SecretString>,
}

impl OrderApi {
    /// Creates it at this URL, `http://HOST:PORT`.
    ///
    /// # Errors
    /// There is no HTTP client.
    pub fn new(url: &str, token: Option<SecretString>) -> Result<Self, reqwest::Error> {
        // The api is ours, and speaks plain HTTP here: no proxy from the environment, no certificates of the system.
        let http = Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .redirect(reqwest::redirect::Policy::none())
            .timeout(API_ANSWER_LONGEST)
            .build()?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), token })
    }

    /// Returns what the api knows of an order; `None` if there is no such order any more.
    pub(crate) async fn addressee(&self, order_id: Uuid) -> Result<Option<Addressee>, Unanswered> {
        let failed = |error: reqwest::Error| Unanswered(error.without_url().to_string());
        let mut request = self.http.get(format!("{}/internal/orders/{order_id}/addressee", self.url));
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose_secret()));
        }
        let mut answer = request.send().await.map_err(failed)?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND if is_of_an_order(&answer) => return Ok(None),
            other => return Err(Unanswered(other.to_string())),
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > API_ANSWER_LARGEST {
                return Err(Unanswered("its answer is too large".to_owned()));
            }
        }
        serde_json::from_slice(&body)
            .map(Some)
            .map_err(|_| Unanswered("its answer cannot be read".to_owned()))
    }
}

/// The header by which the api says that there is no such order. An api without the route answers 404 too.
pub const NO_SUCH_ORDER: &str = "x-amends-no-such-order";

fn is_of_an_order(answer: &reqwest::Response) -> bool {
    answer.headers().contains_key(NO_SUCH_ORDER)
}
