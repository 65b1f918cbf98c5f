//! Which callers are allowed. Without tokens (`amends dev`), any caller that reaches a listener may do everything; so a
//! listener on loopback must not be reachable through a browser that shows a page of another site.
//!
//! - The `Host` must be a loopback name or address (or one of `allowed_hosts`): a name that was made to point here (DNS
//!   rebinding) is refused with 421.
//! - An `Origin` must be that of the host itself (or one of `cors_origins`), and `Sec-Fetch-Site` must not say
//!   `cross-site`: 403.

use std::net::{IpAddr, SocketAddr};

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderValue, Method, StatusCode, header,
        request::Parts,
        uri::{Authority, Uri},
    },
    response::Response,
};

use crate::{Fault, ProblemDetails};

/// A setting that is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a host name or address.
    #[error(
        "setting allowed_hosts: each must be a host name or an address, without port, separated by commas"
    )]
    Host,
    /// Not an origin.
    #[error(
        "setting cors_origins: each must be like https://shop.example, without path, separated by commas"
    )]
    Origin,
}

/// The rules of one listener.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    is_loopback: bool,
    hosts: Vec<String>,
    origins: Vec<String>,
}

const SEC_FETCH_SITE: &str = "sec-fetch-site";

impl Rules {
    /// Creates the rules of a listener at `address`. Other hosts and origins come from the settings, separated by
    /// commas.
    ///
    /// # Errors
    /// The entry that is not a host or an origin.
    pub fn new(address: SocketAddr, allowed_hosts: &str, cors_origins: &str) -> Result<Self, Error> {
        let listed = |setting: &str| -> Vec<String> {
            let trimmed = setting.split(',').map(|item| item.trim().to_ascii_lowercase());
            trimmed.filter(|item| !item.is_empty()).collect()
        };
        let (hosts, origins) = (listed(allowed_hosts), listed(cors_origins));
        if !hosts.iter().all(|host| host_of(host).is_some_and(|(name, port)| name == *host && port.is_none()))
        {
            return Err(Error::Host);
        }
        if !origins.iter().all(|origin| split_origin(origin).is_some()) {
            return Err(Error::Origin);
        }
        Ok(Self { is_loopback: address.ip().is_loopback(), hosts, origins })
    }

    /// Checks host and origin of a request. Returns the origin that must be allowed to read the answer.
    pub(crate) fn check(&self, request: &Parts) -> Result<Option<HeaderValue>, ProblemDetails> {
        let (host, port) = stated_host(&request.headers)?;
        let target = request.uri.authority().map(|authority| (lower_host(authority), authority.port_u16()));
        let is_foreign =
            |host: &str| self.is_loopback && !is_loopback(host) && !self.hosts.iter().any(|h| h == host);
        if is_foreign(&host) || target.is_some_and(|(target, _)| target != host) {
            return Err(ProblemDetails::foreign_host());
        }
        let mut origins = request.headers.get_all(header::ORIGIN).iter();
        let origin = match (origins.next(), origins.next()) {
            (None, _) => None,
            (Some(origin), None) => Some(origin),
            (Some(_), Some(_)) => return Err(ProblemDetails::foreign_origin()),
        };
        let text = origin.map(|origin| origin.to_str().unwrap_or_default().to_ascii_lowercase());
        if let Some(text) = &text
            && self.origins.contains(text)
        {
            return Ok(origin.cloned());
        }
        let is_same = |origin: &str| {
            split_origin(origin).is_some_and(|(name, stated, default)| {
                name == host && stated.unwrap_or(default) == port.unwrap_or(default)
            })
        };
        let is_cross_site = request.headers.get_all(SEC_FETCH_SITE).iter().any(|site| site == "cross-site");
        if is_cross_site || text.is_some_and(|origin| !is_same(&origin)) {
            return Err(ProblemDetails::foreign_origin());
        }
        Ok(None)
    }
}

/// Returns the only `Host` of a request: name or address, and port.
fn stated_host(headers: &HeaderMap) -> Result<(String, Option<u16>), ProblemDetails> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok().and_then(host_of),
        _ => None,
    };
    let fault = || Fault::header("Host", "must be given once, and be a host");
    host.ok_or_else(|| ProblemDetails::invalid(vec![fault()]))
}

fn host_of(text: &str) -> Option<(String, Option<u16>)> {
    let authority = text.parse::<Authority>().ok()?;
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return None;
    }
    // `Authority` ignores an invalid port.
    let rest = &authority.as_str()[authority.host().len()..];
    let is_whole = rest.is_empty() || authority.port_u16().is_some();
    is_whole.then(|| (lower_host(&authority), authority.port_u16()))
}

fn lower_host(authority: &Authority) -> String {
    authority.host().trim_end_matches('.').to_ascii_lowercase()
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Returns host, stated port, and the default port of the scheme.
fn split_origin(origin: &str) -> Option<(String, Option<u16>, u16)> {
    let (scheme, rest) = origin.split_once("://")?;
    let default = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let (host, port) = host_of(rest)?;
    Some((host, port, default))
}

/// Returns the answer to a browser that asks whether a page of `origin` may send a request.
pub(crate) fn preflight(method: &Method, headers: &HeaderMap, origin: &HeaderValue) -> Option<Response> {
    if method != Method::OPTIONS || !headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let answers = response.headers_mut();
    let methods = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");
    let asked = HeaderValue::from_static(
        "authorization, content-type, idempotency-key, if-match, if-none-match, last-event-id, x-request-id",
    );
    answers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    answers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked);
    answers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(600));
    allow(&mut response, origin);
    Some(response)
}

/// Lets a page of `origin` read an answer.
pub(crate) fn allow(response: &mut Response, origin: &HeaderValue) {
    let headers = response.headers_mut();
    let read = HeaderValue::from_static(
        "etag, idempotency-replayed, link, location, ratelimit, ratelimit-policy, retry-after, x-request-id",
    );
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, read);
    headers.append(header::VARY, HeaderValue::from_static("origin"));
}

/// Returns whether a path has dot segments, in any spelling.
pub(crate) fn has_dot_segments(uri: &Uri) -> bool {
    let spelt = uri.path().to_ascii_lowercase().replace("%2e", ".").replace("%5c", "\\");
    spelt.split(['/', '\\']).any(|segment| segment == "." || segment == "..")
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn status(rules: &Rules, uri: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        rules.check(&parts).map_or_else(|problem| problem.status().as_u16(), |_| 200)
    }

    fn at(address: &str, hosts: &str, origins: &str) -> Rules {
        Rules::new(address.parse().unwrap(), hosts, origins).unwrap()
    }

    #[test]
    fn on_loopback_only_loopback_hosts_and_listed_ones_are_served() {
        let rules = at("127.0.0.1:8080", "shop.internal, 10.0.0.7", "");
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "localhost.",
            "127.0.0.1:8080",
            "127.8.9.1",
            "[::1]:8080",
            "a.localhost",
            "shop.internal:443",
            "10.0.0.7",
        ] {
            assert_eq!(status(&rules, "/", &[("host", host)]), 200, "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "10.0.0.8", "0.0.0.0", "[::2]", "127.0.0.1.nip.io"]
        {
            assert_eq!(status(&rules, "/", &[("host", host)]), 421, "{host}");
            assert_eq!(status(&at("0.0.0.0:80", "", ""), "/", &[("host", host)]), 200, "{host}");
        }
        for host in ["", "user@localhost", "local host", "localhost:http", "localhost:99999", "localhost/x"] {
            assert_eq!(status(&rules, "/", &[("host", host)]), 400, "{host}");
        }
        assert_eq!(status(&rules, "/", &[]), 400);
        assert_eq!(status(&rules, "/", &[("host", "localhost"), ("host", "localhost")]), 400);
        assert_eq!(status(&rules, "http://evil.example/", &[("host", "localhost")]), 421);
        assert_eq!(status(&rules, "http://localhost/", &[("host", "localhost")]), 200);
    }

    #[test]
    fn only_pages_of_the_host_itself_and_of_listed_origins_may_ask() {
        let host = ("host", "localhost:8080");
        let rules = at("127.0.0.1:8080", "", "https://shop.example");
        for others in [
            [].as_slice(),
            &[("origin", "http://localhost:8080")],
            &[("origin", "https://shop.example"), ("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none")],
        ] {
            assert_eq!(status(&rules, "/", &[&[host], others].concat()), 200, "{others:?}");
        }
        for others in [
            [("origin", "http://evil.example")].as_slice(),
            &[("origin", "null")],
            &[("origin", "http://localhost:3000")],
            &[("origin", "http://shop.example")],
            &[("origin", "https://shop.example:8443")],
            &[("origin", "https://shop.example"), ("origin", "http://evil.example")],
            &[("sec-fetch-site", "cross-site")],
            &[("origin", "http://localhost:8080"), ("sec-fetch-site", "cross-site")],
        ] {
            assert_eq!(status(&rules, "/", &[&[host], others].concat()), 403, "{others:?}");
        }
        let plain = [("host", "localhost"), ("origin", "http://localhost")];
        assert_eq!(status(&rules, "/", &plain), 200, "the scheme's port need not be stated");
    }

    #[test]
    fn a_setting_that_is_no_host_or_no_origin_is_refused() {
        let new = |hosts: &str, origins: &str| Rules::new("127.0.0.1:1".parse().unwrap(), hosts, origins);
        for hosts in ["http://a", "a:80", "a b", "a/b"] {
            assert_eq!(new(hosts, "").err(), Some(Error::Host), "{hosts}");
        }
        for origins in ["a", "ftp://a", "https://a/b", "https://", "null", "*"] {
            assert_eq!(new("", origins).err(), Some(Error::Origin), "{origins}");
        }
    }

    #[test]
    fn dot_segments_are_seen_however_they_are_spelt() {
        for path in ["/a/../b", "/a/%2E%2e/b", "/.", "/a/.%2e", "/a%5c..%5cb"] {
            assert!(has_dot_segments(&path.parse().unwrap()), "{path}");
        }
        for path in ["/a.b/..c/...", "/", "/a?x=../.."] {
            assert!(!has_dot_segments(&path.parse().unwrap()), "{path}");
        }
    }
}
