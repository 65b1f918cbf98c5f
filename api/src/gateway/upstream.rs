//! A service behind the api.

use std::time::Duration;

use amends_http::{ProblemDetails, problem_types, request_id};
use axum::{
    body::Bytes,
    http::{HeaderMap, Method, StatusCode, header},
};
use reqwest::Client;
use tokio::time::{Instant, sleep};

use super::{ServiceToken, breaker::Breaker};
use crate::problem::Problem;

/// How long a caller waits at most, over all attempts.
const ANSWER_LONGEST: Duration = Duration::from_secs(5);
/// How long one attempt of a read may take, so that there is time for another.
const READ_LONGEST: Duration = Duration::from_secs(2);
/// Number of attempts of a read. Nothing else is repeated: it may have been carried out.
const READ_ATTEMPTS: u32 = 3;
/// Pause before the second attempt, on average; before the third, twice as long.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How long a caller is asked to wait where the service's return is not foreseen.
const AWAY_WAIT: Duration = Duration::from_secs(1);

/// A service.
#[derive(Debug)]
pub struct Upstream {
    url: String,
    http: Client,
    token: ServiceToken,
    breaker: Breaker,
}

/// A request to a service.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The headers, without those of the connection.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// A service's answer.
#[derive(Debug, Clone)]
pub struct Answered {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Why an attempt has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    Late,
    Away,
}

impl Upstream {
    /// Creates a service at this URL.
    pub fn new(name: &'static str, url: &str, http: Client, token: ServiceToken) -> Self {
        let url = url.trim_end_matches('/').to_owned();
        Self { url, http, token, breaker: Breaker::new(name) }
    }

    /// Returns its breaker.
    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// Asks the service. A read is repeated if it fails, within the time of one request.
    ///
    /// # Errors
    /// 503 if the service is away, or if its breaker is open; 504 if it does not answer in time.
    pub async fn ask(&self, asked: Asked) -> Result<Answered, Problem> {
        let is_read = asked.method == Method::GET;
        let (deadline, attempts) = (Instant::now() + ANSWER_LONGEST, if is_read { READ_ATTEMPTS } else { 1 });
        let (mut attempt, mut last) = (1, None);
        loop {
            // If it opens between two attempts, the caller learns why the first one failed.
            let call = self.breaker.admit().map_err(|wait| match last {
                Some(failure) => self.failed(failure),
                None => self.open(wait),
            })?;
            let left = deadline.saturating_duration_since(Instant::now());
            let bound = if is_read { left.min(READ_LONGEST) } else { left };
            let failure = match self.attempt(&asked, bound).await {
                Ok(answered) if answered.status == StatusCode::UNAUTHORIZED => {
                    call.answered();
                    let service = self.breaker.name();
                    tracing::error!(service, "the service refuses this api's service_token");
                    return Err(self.away());
                }
                Ok(answered) if is_failure(answered.status) && attempt < attempts => Failure::Away,
                Ok(answered) => {
                    if !is_failure(answered.status) {
                        call.answered();
                    } else {
                        call.failed();
                    }
                    return Ok(answered);
                }
                Err(failure) => failure,
            };
            call.failed();
            let pause = RETRY_PAUSE.mul_f64(f64::from(attempt) * rand::random_range(0.5..1.5));
            if attempt == attempts || Instant::now() + pause >= deadline {
                return Err(self.failed(failure));
            }
            last = Some(failure);
            metrics::counter!("amends_api_retries_total", "service" => self.breaker.name()).increment(1);
            sleep(pause).await;
            attempt += 1;
        }
    }

    async fn attempt(&self, asked: &Asked, bound: Duration) -> Result<Answered, Failure> {
        let failure = |error: reqwest::Error| if error.is_timeout() { Failure::Late } else { Failure::Away };
        let mut headers = asked.headers.clone();
        headers.extend(self.token.header().map(|token| (header::AUTHORIZATION, token)));
        headers.extend(request_id::current().map(|id| (request_id::X_REQUEST_ID, id)));
        let request = self.http.request(asked.method.clone(), format!("{}{}", self.url, asked.path));
        let request = request.headers(headers).body(asked.body.clone()).timeout(bound);
        let answer = request.send().await.map_err(failure)?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        Ok(Answered { status, headers, body: answer.bytes().await.map_err(failure)? })
    }

    fn failed(&self, failure: Failure) -> Problem {
        match failure {
            Failure::Late => self.late(),
            Failure::Away => self.away(),
        }
    }

    fn open(&self, wait: Option<Duration>) -> Problem {
        let detail = format!("The {} service has failed too often. Try again later.", self.breaker.name());
        let problem = ProblemDetails::new(problem_types::CIRCUIT_OPEN, detail);
        problem.retry_after(wait.unwrap_or_default() + Duration::from_secs(1)).into()
    }

    fn away(&self) -> Problem {
        let detail = format!("The {} service cannot be reached. Try again later.", self.breaker.name());
        ProblemDetails::new(problem_types::SERVICE_AWAY, detail).retry_after(AWAY_WAIT).into()
    }

    fn late(&self) -> Problem {
        let detail = format!(
            "The {} service has not answered in time. A change may have been made: send it again with the same key.",
            self.breaker.name()
        );
        ProblemDetails::new(problem_types::SERVICE_LATE, detail).retry_after(AWAY_WAIT).into()
    }
}

/// Returns whether a status says that the service itself has failed. 503 says that it works, and cannot do this now.
fn is_failure(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::INTERNAL_SERVER_ERROR | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT
    )
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use axum::{Router, extract::State, http::HeaderValue, routing::any};
    use tokio::net::TcpListener;

    use super::*;
    use crate::gateway::breaker::BreakerState;

    /// What the service does with each request in turn, and then for ever: a status, or silence.
    #[derive(Clone)]
    struct Script {
        answers: Arc<Vec<Option<u16>>>,
        asked: Arc<AtomicUsize>,
    }

    async fn answer(State(script): State<Script>) -> (StatusCode, &'static str) {
        let n = script.asked.fetch_add(1, Ordering::SeqCst);
        let last = script.answers.len() - 1;
        match script.answers[n.min(last)] {
            Some(status) => (StatusCode::from_u16(status).unwrap(), "x"),
            None => std::future::pending().await,
        }
    }

    /// Returns a service that follows a script, and the count of requests that it has received.
    async fn service(answers: &[Option<u16>]) -> (Upstream, Arc<AtomicUsize>) {
        let script = Script { answers: Arc::new(answers.to_vec()), asked: Arc::default() };
        let asked = Arc::clone(&script.asked);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(any(answer)).with_state(script);
        tokio::spawn(async move { axum::serve(listener, app).await });
        let http = Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        (Upstream::new("inventory", &url, http, ServiceToken::default()), asked)
    }

    fn asked(method: Method) -> Asked {
        Asked { method, path: "/x".to_owned(), ..Asked::default() }
    }

    fn status(result: &Result<Answered, Problem>) -> u16 {
        match result {
            Ok(answered) => answered.status.as_u16(),
            Err(problem) => ProblemDetails::from(problem.clone()).status().as_u16(),
        }
    }

    #[tokio::test]
    async fn a_read_is_repeated_a_few_times_and_a_change_never() {
        let (service, count) = self::service(&[Some(500), Some(502), Some(200)]).await;
        assert_eq!(status(&service.ask(asked(Method::GET)).await), 200);
        assert_eq!(count.load(Ordering::SeqCst), 3);
        let (service, count) = self::service(&[Some(500)]).await;
        assert_eq!(status(&service.ask(asked(Method::PUT)).await), 500);
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn what_the_service_refuses_is_its_answer_and_no_failure() {
        for refusal in [400, 404, 409, 503] {
            let (service, count) = self::service(&[Some(refusal)]).await;
            for _ in 0..10 {
                assert_eq!(status(&service.ask(asked(Method::GET)).await), refusal);
            }
            assert_eq!(count.load(Ordering::SeqCst), 10);
            assert_eq!(service.breaker().snapshot().state, BreakerState::Closed);
        }
    }

    #[tokio::test]
    async fn a_service_that_is_away_is_503_and_soon_not_asked_any_more() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let http = Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let service = Upstream::new("inventory", &url, http, ServiceToken::default());
        let mut seen = Vec::new();
        for _ in 0..5 {
            seen.push(format!("{:?}", service.ask(asked(Method::PUT)).await.unwrap_err()));
        }
        assert!(seen.iter().all(|problem| problem.contains("service-away")), "{seen:?}");
        let problem = service.ask(asked(Method::GET)).await.unwrap_err();
        assert!(format!("{problem:?}").contains("circuit-open"), "{problem:?}");
        assert_eq!(ProblemDetails::from(problem).status(), 503);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_504_within_the_time_of_a_request_and_opens_the_breaker() {
        let (service, count) = self::service(&[None]).await;
        for method in [Method::GET, Method::PUT, Method::GET] {
            let began = Instant::now();
            let late = service.ask(asked(method.clone())).await;
            assert_eq!(status(&late), 504, "{method} {late:?}");
            assert!(began.elapsed() <= ANSWER_LONGEST + Duration::from_millis(100), "{:?}", began.elapsed());
        }
        assert!(count.load(Ordering::SeqCst) <= 7);
        assert_eq!(service.breaker().snapshot().state, BreakerState::Open);
    }

    #[tokio::test]
    async fn the_service_is_shown_the_services_token_and_nothing_of_the_callers() {
        let (mut service, _) = self::service(&[Some(401)]).await;
        service.token = ServiceToken::new(Some(&"abcdefghijklmnop".to_owned().into()));
        assert_eq!(service.token.header(), Some(HeaderValue::from_static("Bearer abcdefghijklmnop")));
        let problem = service.ask(asked(Method::GET)).await.unwrap_err();
        assert_eq!(ProblemDetails::from(problem).status(), 503, "the caller's own token was good");
    }
}
