//! Asks an api, and turns its problems into one line and an exit status.

use std::{env, time::Duration};

use reqwest::{Client, Method, StatusCode, Url, redirect};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use crate::cli::saga::Remote;

/// The environment variable with the token. It is no setting of a role.
pub const TOKEN_VARIABLE: &str = "AMENDS_TOKEN";
/// How long an answer may take: longer than an api lets a request take.
const ANSWER_LONGEST: Duration = Duration::from_secs(40);

/// Why a command has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit status.
    pub status: u8,
    /// What has failed, in one line.
    pub why: String,
}

impl Failure {
    /// Creates a failure.
    pub fn new(status: u8, why: impl Into<String>) -> Self {
        Self { status, why: why.into() }
    }
}

/// Checks that an api can be asked at this URL.
///
/// # Errors
/// It is not one of http or https.
pub fn check_scheme(api: &Url) -> Result<(), Failure> {
    let is_http = ["http", "https"].contains(&api.scheme());
    is_http.then_some(()).ok_or_else(|| Failure::new(2, "--api must be a URL of http or https"))
}

/// Returns the token of the environment, if there is one.
pub fn token() -> Option<String> {
    env::var(TOKEN_VARIABLE).ok().filter(|token| !token.is_empty())
}

/// An api.
pub(super) struct RemoteApi {
    http: Client,
    url: Url,
    token: Option<SecretString>,
}

impl RemoteApi {
    /// Prepares to ask it; the token is the environment's.
    ///
    /// # Errors
    /// There is no HTTP client, or the URL cannot be asked.
    pub(super) fn at(remote: &Remote) -> Result<Self, Failure> {
        check_scheme(&remote.api)?;
        let http = Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(ANSWER_LONGEST);
        let http = if remote.api.scheme() == "https" { http } else { http.tls_certs_only([]) };
        let http = http.build().map_err(|error| Failure::new(1, error.to_string()))?;
        Ok(Self { http, url: remote.api.clone(), token: token().map(SecretString::from) })
    }

    /// Reads a resource.
    ///
    /// # Errors
    /// As for [`RemoteApi::ask`].
    pub(super) async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value, Failure> {
        self.ask(Method::GET, path, query, None).await
    }

    /// Sends a request with a body.
    ///
    /// # Errors
    /// As for [`RemoteApi::ask`].
    pub(super) async fn post(&self, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        self.ask(Method::POST, path, &[], body).await
    }

    /// Asks, and returns the answer's body.
    ///
    /// # Errors
    /// The api does not answer, or answers with a problem.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let mut url = self.url.clone();
        // Whatever stands in an argument stays one segment of the path.
        url.path_segments_mut()
            .map_err(|()| Failure::new(2, "--api must be a URL of http or https"))?
            .pop_if_empty()
            .extend(path.split('/').filter(|segment| !segment.is_empty()));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let shown = format!("{method} {}", url.path());
        let mut request = self.http.request(method, url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let away = |error: reqwest::Error| {
            let what = if error.is_timeout() { "does not answer in time" } else { "cannot be reached" };
            Failure::new(1, format!("{} {what}", origin(&self.url)))
        };
        let answer = request.send().await.map_err(away)?;
        let status = answer.status();
        let text = answer.text().await.map_err(away)?;
        let read: Result<Value, _> = serde_json::from_str(&text);
        match (status.is_success(), read) {
            (true, Ok(body)) => Ok(body),
            (true, Err(_)) => Err(Failure::new(1, format!("{shown}: the answer is no JSON; is it an api?"))),
            (false, read) => Err(refusal(&shown, status, &read.unwrap_or_default())),
        }
    }
}

/// Turns a problem into a failure.
fn refusal(request: &str, status: StatusCode, problem: &Value) -> Failure {
    let text = |field: &str| problem[field].as_str().unwrap_or_default().to_owned();
    let mut why = format!("{request}: {}", status.as_u16());
    for said in [text("title"), text("detail")].into_iter().filter(|said| !said.is_empty()) {
        why.push_str(if why.ends_with('.') { " " } else { ": " });
        why.push_str(&said);
    }
    let faults = problem["errors"].as_array().into_iter().flatten();
    for fault in faults {
        let place = ["pointer", "parameter", "header"].into_iter().find_map(|member| fault[member].as_str());
        let detail = fault["detail"].as_str().unwrap_or_default();
        why.push_str(&format!(" {} {detail}.", place.unwrap_or_default().trim_start_matches('/')));
    }
    let exit = match status.as_u16() {
        400 | 413 | 414 | 415 => 2,
        401 | 403 => 5,
        404 => 3,
        409 | 412 | 422 => 4,
        _ => 1,
    };
    Failure::new(exit, why)
}

/// The URL without what may be secret.
fn origin(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_problem_is_one_line_and_a_status_of_its_kind() {
        let of = |status: u16, problem| refusal("GET /x", StatusCode::from_u16(status).unwrap(), &problem);
        let stale =
            of(409, json!({ "title": "The saga has changed since you looked", "detail": "Look again." }));
        let line = "GET /x: 409: The saga has changed since you looked: Look again.";
        assert_eq!(stale, Failure::new(4, line));
        let invalid = of(
            400,
            json!({ "title": "Invalid", "errors": [{ "pointer": "/reason", "detail": "must be text" }] }),
        );
        assert_eq!(invalid, Failure::new(2, "GET /x: 400: Invalid reason must be text."));
        let statuses = [(401, 5), (403, 5), (404, 3), (412, 4), (422, 4), (429, 1), (500, 1), (503, 1)];
        for (status, exit) in statuses {
            assert_eq!(of(status, Value::Null).status, exit, "{status}");
        }
    }

    #[test]
    fn a_url_is_shown_without_a_password() {
        let url = Url::parse("https://olga:secret@api.example:8443/base?x=1").unwrap();
        assert_eq!(origin(&url), "https://api.example:8443");
    }
}
