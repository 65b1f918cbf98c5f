//! Limits of requests, by subject and by address: so many a minute, which may come at once.
//!
//! A caller's requests are counted as by a leaky bucket (the generic cell rate algorithm): one number a caller, the time
//! at which the bucket is empty again. With Redis all apis share it; while Redis is away, each api counts alone.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use amends_http::PeerAddress;
use amends_redis::{Redis, Script};
use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{auth::Caller, problem::Problem};

/// The period of a quota.
const WINDOW: Duration = Duration::from_secs(60);
/// Number of callers that one api counts at most; of further ones it counts none.
const CALLERS_MOST: usize = 100_000;
/// `RateLimit` and `RateLimit-Policy` (the IETF's draft of these names).
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const FORWARDED_FOR: &str = "x-forwarded-for";

/// Whom a limit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitedBy {
    /// Each subject of a token.
    Subject,
    /// Each address that requests come from, token or not.
    Address,
}

impl LimitedBy {
    fn as_str(self) -> &'static str {
        match self {
            Self::Subject => "subject",
            Self::Address => "address",
        }
    }
}

/// Limits the requests of each caller.
#[derive(Debug, Clone)]
pub struct RateLimit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    by: LimitedBy,
    quota: Quota,
    redis: Option<Redis>,
    /// Number of proxies in front of the api that say where a request comes from.
    proxies: usize,
    alone: Mutex<HashMap<String, u64>>,
}

/// The number of requests that are allowed in a [`WINDOW`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Quota(u32);

/// What is decided about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Decision {
    is_admitted: bool,
    /// When the bucket is empty, in microseconds.
    empty_at: u64,
    now: u64,
}

const WINDOW_MICROS: u64 = WINDOW.as_secs() * 1_000_000;

impl Quota {
    /// Time that one request takes of the window.
    fn interval(self) -> u64 {
        WINDOW_MICROS / u64::from(self.0.max(1))
    }

    /// Decides about a request of a caller whose bucket is empty at this time.
    fn decide(self, empty_at: Option<u64>, now: u64) -> Decision {
        let before = empty_at.unwrap_or(now).max(now);
        let after = before + self.interval();
        match after - now <= WINDOW_MICROS {
            true => Decision { is_admitted: true, empty_at: after, now },
            false => Decision { is_admitted: false, empty_at: before, now },
        }
    }

    fn remaining(self, decision: Decision) -> u64 {
        (WINDOW_MICROS - (decision.empty_at - decision.now).min(WINDOW_MICROS)) / self.interval()
    }

    /// Time until one more request is admitted.
    fn wait(self, decision: Decision) -> Duration {
        let free_at = decision.empty_at + self.interval();
        Duration::from_micros((free_at - decision.now).saturating_sub(WINDOW_MICROS))
    }
}

/// The same decision in Redis, by its clock. Returns whether the request is admitted, and both times.
const DECIDE: &str = "
    local time = redis.call('TIME')
    local now = time[1] * 1000000 + time[2]
    local before = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
    local after = before + tonumber(ARGV[1])
    if after - now > tonumber(ARGV[2]) then
        return {0, string.format('%.0f', before), string.format('%.0f', now)}
    end
    redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', math.ceil((after - now) / 1000) + 1)
    return {1, string.format('%.0f', after), string.format('%.0f', now)}";

impl RateLimit {
    /// Creates a limit of so many requests a minute; `None` if it is 0.
    pub fn new(by: LimitedBy, a_minute: u32, redis: Option<Redis>, proxies: u32) -> Option<Self> {
        if a_minute == 0 {
            return None;
        }
        let (quota, proxies) = (Quota(a_minute), proxies as usize);
        Some(Self(Arc::new(Inner { by, quota, redis, proxies, alone: Mutex::default() })))
    }

    async fn decide(&self, caller: &str) -> Decision {
        let Inner { by, quota, redis, alone, .. } = &*self.0;
        if let Some(redis) = redis {
            let key = format!("amends:limit:{}:{caller}", by.as_str());
            let arguments = [quota.interval(), WINDOW_MICROS];
            let decided = redis.run::<(i64, u64, u64)>(&Script::new(DECIDE), &[key], &arguments).await;
            if let Ok((admitted, empty_at, now)) = decided {
                return Decision { is_admitted: admitted == 1, empty_at, now };
            }
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX / 2);
        let mut alone = alone.lock().unwrap_or_else(PoisonError::into_inner);
        let decision = quota.decide(alone.get(caller).copied(), now);
        if alone.len() >= CALLERS_MOST {
            alone.retain(|_, empty_at| *empty_at > now);
        }
        if alone.len() < CALLERS_MOST || alone.contains_key(caller) {
            alone.insert(caller.to_owned(), decision.empty_at);
        }
        decision
    }

    /// Returns whose request this is, as far as this limit is concerned.
    fn caller_of(&self, request: &Request) -> Option<String> {
        match self.0.by {
            LimitedBy::Subject => Some(request.extensions().get::<Caller>()?.subject().to_owned()),
            LimitedBy::Address => {
                let peer = request.extensions().get::<PeerAddress>()?.0;
                Some(network(address(peer, request.headers(), self.0.proxies)).to_string())
            }
        }
    }

    fn note(&self, headers: &mut HeaderMap, decision: Decision) {
        let Inner { by, quota, .. } = &*self.0;
        let (name, window) = (by.as_str(), WINDOW.as_secs());
        let seconds = (decision.empty_at.saturating_sub(decision.now)).div_ceil(1_000_000);
        let now = format!("\"{name}\";r={};t={seconds}", quota.remaining(decision));
        for (header, value) in
            [(RATE_LIMIT_POLICY, format!("\"{name}\";q={};w={window}", quota.0)), (RATE_LIMIT, now)]
        {
            // Several limits are a list.
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.append(header, value);
            }
        }
    }
}

/// The layer of a limit. Health and metrics are not limited: those who watch ask all the time.
pub async fn limit(State(limit): State<RateLimit>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_limited = path.starts_with("/api") || path.starts_with("/admin");
    let Some(caller) = limit.caller_of(&request).filter(|_| is_limited) else {
        return next.run(request).await;
    };
    let decision = limit.decide(&caller).await;
    let mut response = if decision.is_admitted {
        next.run(request).await
    } else {
        metrics::counter!("amends_api_limited_total", "by" => limit.0.by.as_str()).increment(1);
        Problem::TooMany(limit.0.quota.wait(decision)).into_response()
    };
    limit.note(response.headers_mut(), decision);
    response
}

/// Returns the address that a request comes from. Each proxy appends the address that it was asked from; what stands
/// before those is the client's own word.
fn address(peer: IpAddr, headers: &HeaderMap, proxies: usize) -> IpAddr {
    if proxies == 0 {
        return peer;
    }
    let texts: Vec<&str> =
        headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    let hops = texts.join(",");
    let hops: Vec<&str> = hops.split(',').map(str::trim).collect();
    let stated = hops.len().checked_sub(proxies).and_then(|n| hops.get(n)?.parse().ok());
    stated.unwrap_or(peer)
}

/// A subscriber has all of an IPv6 network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, middleware::from_fn_with_state, routing::get};
    use tower::ServiceExt;

    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn a_quota_may_come_at_once_and_is_regained_evenly() {
        let (quota, mut empty_at, mut now) = (Quota(6), None, 5 * SECOND);
        let mut ask = |after: u64| {
            now += after;
            let decision = quota.decide(empty_at, now);
            empty_at = Some(decision.empty_at);
            (decision.is_admitted, quota.remaining(decision), quota.wait(decision).as_secs())
        };
        let at_once: Vec<_> = (0..7).map(|_| ask(0)).collect();
        let admitted: Vec<bool> = at_once.iter().map(|(admitted, ..)| *admitted).collect();
        assert_eq!(admitted, [true, true, true, true, true, true, false]);
        assert_eq!((at_once[0].1, at_once[5].1, at_once[6]), (5, 0, (false, 0, 10)));
        assert_eq!(ask(9 * SECOND), (false, 0, 1));
        assert_eq!(ask(SECOND), (true, 0, 10), "a tenth of a minute later there is one more");
        assert_eq!(ask(120 * SECOND).1, 5, "an idle caller has the whole quota again");
    }

    #[test]
    fn an_address_is_what_the_proxies_say_and_not_what_the_client_says() {
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        let of = |values: &[&str], proxies| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(FORWARDED_FOR, value.parse().unwrap());
            }
            address(peer, &headers, proxies).to_string()
        };
        assert_eq!(of(&["1.1.1.1"], 0), "10.0.0.1", "no proxy is trusted");
        assert_eq!(of(&["6.6.6.6, 1.1.1.1"], 1), "1.1.1.1");
        assert_eq!(of(&["6.6.6.6", "1.1.1.1, 10.0.0.2"], 2), "1.1.1.1");
        for values in [[].as_slice(), &["x"], &["6.6.6.6, x"]] {
            assert_eq!(of(values, 1), "10.0.0.1", "{values:?}");
        }
        assert_eq!(network("2001:db8::1:2:3:4".parse().unwrap()).to_string(), "2001:db8::");
        assert_eq!(network("::ffff:1.2.3.4".parse().unwrap()).to_string(), "1.2.3.4");
    }

    /// Returns the answer to a request from this address.
    async fn ask(limit: &RateLimit, from: &str, path: &str) -> Response {
        let routes = Router::new().route("/api/x", get(|| async {})).route("/health/live", get(|| async {}));
        let app = routes.layer(from_fn_with_state(limit.clone(), super::limit));
        let mut request = Request::builder().uri(path).body(Body::empty()).unwrap();
        request.extensions_mut().insert(PeerAddress(from.parse().unwrap()));
        app.oneshot(request).await.unwrap()
    }

    /// Sends four requests of this address at once; returns whether they were counted together, up to the last.
    async fn are_counted_together(one: &RateLimit, other: &RateLimit, from: &str) -> bool {
        let mut seen = Vec::new();
        for limit in [one, other, one, other] {
            let answer = ask(limit, from, "/api/x").await;
            assert_eq!(answer.headers()["ratelimit-policy"], "\"address\";q=3;w=60");
            let left =
                answer.headers()["ratelimit"].to_str().unwrap().split(";t=").next().unwrap().to_owned();
            let wait =
                answer.headers().get("retry-after").map(|wait| wait.to_str().unwrap().parse().unwrap());
            assert!(wait.is_none_or(|wait: u64| (1..=21).contains(&wait)), "{wait:?}");
            seen.push((answer.status().as_u16(), wait.is_some(), left));
        }
        println!("{seen:?}");
        let expected = [(200, false, 2), (200, false, 1), (200, false, 0), (429, true, 0)];
        seen == expected.map(|(status, waits, rest)| (status, waits, format!("\"address\";r={rest}")))
    }

    async fn is_limited_by_address(one: &RateLimit, other: &RateLimit) {
        let mut attempts = 0;
        // There is one request more after 20 seconds, and Redis is not waited for: on a busy machine, from another address.
        while !are_counted_together(one, other, &format!("1.1.{attempts}.1")).await {
            attempts += 1;
            assert!(attempts < 20, "they do not count together");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(ask(one, "1.2.1.2", "/api/x").await.status(), 200, "another address has its own quota");
        let probe = ask(one, &format!("1.1.{attempts}.1"), "/health/live").await;
        assert!(probe.status() == 200 && !probe.headers().contains_key("ratelimit"));
    }

    #[tokio::test]
    async fn one_api_limits_alone() {
        let limit = RateLimit::new(LimitedBy::Address, 3, None, 0).unwrap();
        is_limited_by_address(&limit, &limit).await;
    }

    #[tokio::test]
    async fn two_apis_limit_together_by_redis_and_alone_while_it_is_away() {
        let mut server = amends_testkit::redis::RedisServer::start();
        let limit = || {
            let redis = Redis::new(&server.url()).unwrap();
            RateLimit::new(LimitedBy::Address, 3, Some(redis), 0).unwrap()
        };
        let (one, other) = (limit(), limit());
        is_limited_by_address(&one, &other).await;
        server.kill();
        for limit in [&one, &other] {
            let mut answers = Vec::new();
            for _ in 0..4 {
                answers.push(ask(limit, "1.1.1.3", "/api/x").await.status().as_u16());
            }
            assert_eq!(answers, [200, 200, 200, 429]);
        }
    }

    #[test]
    fn a_limit_of_0_is_none() {
        assert!(RateLimit::new(LimitedBy::Subject, 0, None, 0).is_none());
    }
}
