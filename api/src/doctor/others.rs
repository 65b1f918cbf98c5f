//! What else the api asks: Redis, the keys of tokens, and the workers that serve it.

use std::time::Duration;

use amends_notification::channels::email::{self, Unusability};
use amends_redis::Script;
use reqwest::{Client, StatusCode, Url};

use super::finding::Finding;
use crate::{auth::KeyCache, links, messages, routes::health::READY, settings::Settings};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks at what the settings name.
pub(super) async fn examine(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(redis(settings).await);
    findings.extend(token_keys(settings).await);
    findings.extend(mail(settings).await);
    // Only an api asks them, and it has the engine's database.
    if settings.database_of("api").is_ok() || settings.database_of("engine").is_ok() {
        for worker in crate::services::listening().map(|service| service.name) {
            let url = settings.url_of(worker);
            if !url.is_empty() {
                findings.push(server(worker, url).await);
            }
        }
    }
    findings
}

async fn redis(settings: &Settings) -> Option<Finding> {
    const SUBJECT: &str = "Redis";
    let redis = match links::redis(settings) {
        Ok(redis) => redis?,
        Err(error) => return Some(Finding::wrong(SUBJECT, format!("{error:#}"), "Correct redis_url.")),
    };
    if let Err(refused) = redis.check().await {
        return Some(Finding::wrong(SUBJECT, refused.to_string(), "Correct redis_url, or redis_ca_file."));
    }
    let asked: Result<i64, _> = redis.run(&Script::new("return 1"), &[], &[] as &[&str]).await;
    Some(match asked {
        Ok(_) => Finding::good(SUBJECT, "answers"),
        Err(away) => Finding::warning(
            SUBJECT,
            away.to_string(),
            "Everything is right without it, and slower; each api has limits of its own meanwhile.",
        ),
    })
}

/// Reads the keys as an api does: what it would not take is no key here either.
async fn token_keys(settings: &Settings) -> Option<Finding> {
    const SUBJECT: &str = "token keys";
    let url = settings.jwks_url.as_ref()?;
    let keys = match Url::parse(url).map(KeyCache::of_url) {
        Ok(Ok(keys)) => keys,
        Ok(Err(error)) => return Some(Finding::skipped(SUBJECT, error.to_string())),
        Err(error) => return Some(Finding::wrong(SUBJECT, error.to_string(), "Correct jwks_url.")),
    };
    Some(match keys.read().await {
        Ok(count) => Finding::good(SUBJECT, format!("{count} at {url}")),
        Err(why) => Finding::wrong(
            SUBJECT,
            why,
            "An api that has never read any answers 503: correct jwks_url, or see its server.",
        ),
    })
}

/// Connects to the mail server as for a message, and sends none.
async fn mail(settings: &Settings) -> Option<Finding> {
    const SUBJECT: &str = "mail server";
    let email = match messages::sending(settings) {
        Ok(sending) => sending.email?,
        Err(error) => return Some(Finding::wrong(SUBJECT, format!("{error:#}"), "Correct the setting.")),
    };
    Some(match email::check(&email, PATIENCE).await {
        Ok(()) => Finding::good(SUBJECT, "takes connections as they are set"),
        Err(Unusability::Refused(why)) => Finding::wrong(
            SUBJECT,
            why,
            "Correct smtp_url, smtp_ca_file, or the login: no e-mail is sent, and the notification worker does not start.",
        ),
        Err(Unusability::Away(why)) => {
            Finding::warning(SUBJECT, why, "E-mails wait. See whether it runs and can be reached from here.")
        }
    })
}

/// Asks a worker that serves the api whether it is ready.
async fn server(worker: &str, url: &str) -> Finding {
    let subject = format!("worker {worker}");
    let advice =
        "The api answers 503 where it needs it. See whether it runs, and its address in the api's settings.";
    let ready = Url::parse(url).and_then(|url| url.join(READY));
    let Ok(ready) = ready else { return Finding::wrong(&subject, format!("{url} is no URL"), advice) };
    let client = Client::builder().no_proxy().tls_certs_only([]).timeout(PATIENCE).build();
    let Ok(client) = client else { return Finding::skipped(&subject, "there is no HTTP client") };
    match client.get(ready.clone()).send().await {
        Ok(answer) if answer.status() == StatusCode::OK => {
            Finding::good(&subject, format!("is ready at {url}"))
        }
        // Its health may have an address of its own.
        Ok(answer) if answer.status() == StatusCode::NOT_FOUND => {
            Finding::good(&subject, format!("answers at {url}"))
        }
        Ok(answer) => {
            Finding::warning(&subject, format!("{url} answers {}", answer.status().as_u16()), advice)
        }
        Err(error) => Finding::warning(&subject, format!("{url}: {}", error.without_url()), advice),
    }
}

#[cfg(test)]
mod tests {
    use axum::{Json, Router, routing::get};
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;
    use crate::{auth::OwnKey, doctor::finding::Grade};

    /// Serves keys, a worker that is ready, and one that is not; returns the address.
    async fn served() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let keys = OwnKey::from_pem(OwnKey::draw().unwrap().as_bytes()).unwrap().jwks();
        let router = Router::new()
            .route("/keys", get(async || Json(keys)))
            .route("/none", get(async || Json(json!({ "keys": [{ "kty": "oct", "k": "AA" }] }))))
            .route("/health/ready", get(async || StatusCode::SERVICE_UNAVAILABLE));
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    fn settings(flags: &[(&str, &str)]) -> Settings {
        let flags: Vec<_> = flags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Settings::read(&crate::services::names(), None, &flags).unwrap()
    }

    async fn keys(url: &str) -> (Grade, String) {
        let flags = [("jwks_url", url), ("jwt_issuer", "i"), ("jwt_audience", "a")];
        let found = token_keys(&settings(&flags)).await.unwrap();
        (found.grade, found.found)
    }

    #[tokio::test]
    async fn keys_that_cannot_be_read_are_wrong_and_say_why() {
        let at = served().await;
        assert_eq!(keys(&format!("{at}/keys")).await.0, Grade::Good);
        for (path, why) in [("/none", "RS256"), ("/nothing", "404")] {
            let (grade, found) = keys(&format!("{at}{path}")).await;
            assert_eq!(grade, Grade::Wrong);
            assert!(found.contains(why), "{found}");
        }
        assert_eq!(keys("http://127.0.0.1:1/keys").await.0, Grade::Wrong);
    }

    #[tokio::test]
    async fn a_worker_that_is_not_ready_or_away_is_named() {
        let not_ready = server("inventory", &served().await).await;
        assert_eq!((not_ready.grade, not_ready.subject.as_str()), (Grade::Warning, "worker inventory"));
        assert!(not_ready.found.contains("503"), "{}", not_ready.found);
        assert_eq!(server("inventory", "http://127.0.0.1:1").await.grade, Grade::Warning);
    }

    #[tokio::test]
    async fn a_redis_that_is_away_is_no_error() {
        assert!(redis(&settings(&[])).await.is_none());
        let away = redis(&settings(&[("redis_url", "redis://127.0.0.1:1")])).await.unwrap();
        assert_eq!(away.grade, Grade::Warning);
    }
}
