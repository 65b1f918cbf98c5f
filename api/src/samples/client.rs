//! A client of the API.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use reqwest::{Method, StatusCode};
use serde_json::Value;

/// How long a starting service may be unavailable.
const CLIENT_PATIENCE: Duration = Duration::from_secs(20);

pub struct Client {
    url: String,
    http: reqwest::Client,
    token: Option<String>,
}

impl Client {
    /// Creates a client of the api at this address; it ignores the environment's proxy.
    pub fn new(url: &str, token: Option<String>) -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy();
        let http = if url.starts_with("https:") { http } else { http.tls_certs_only([]) }.build()?;
        Ok(Self { url: url.to_owned(), http, token })
    }

    pub async fn get(&self, path: &str) -> Result<Value> {
        self.send(Method::GET, path, None, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.send(Method::POST, path, Some(body), None).await
    }

    /// The same with an idempotency key.
    pub async fn post_once(&self, path: &str, key: &str, body: &Value) -> Result<Value> {
        self.send(Method::POST, path, Some(body), Some(key)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Result<Value> {
        self.send(Method::PUT, path, Some(body), None).await
    }

    pub async fn delete(&self, path: &str) -> Result<Value> {
        self.send(Method::DELETE, path, None, None).await
    }

    /// Sends a request, repeatedly while the answer is 503; any other failure is an error with the answer's text.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<Value> {
        let began = Instant::now();
        loop {
            let mut request = self.http.request(method.clone(), format!("{}{path}", self.url));
            if let Some(body) = body {
                request = request.json(body);
            }
            if let Some(key) = key {
                request = request.header("Idempotency-Key", key);
            }
            if let Some(token) = &self.token {
                request = request.bearer_auth(token);
            }
            let answer = request.send().await?;
            let status = answer.status();
            if status == StatusCode::SERVICE_UNAVAILABLE && began.elapsed() < CLIENT_PATIENCE {
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
            let text = answer.text().await?;
            if !status.is_success() {
                bail!("{method} {path} was answered {status}: {text}");
            }
            return Ok(serde_json::from_str(&text).unwrap_or_default());
        }
    }
}
