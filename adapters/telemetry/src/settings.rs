//! Where spans go.

use std::time::Duration;

/// The path of OTLP over HTTP for traces.
const HTTP_PATH: &str = "/v1/traces";

/// How spans are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP over gRPC; a collector's usual port is 4317.
    Grpc,
    /// OTLP over HTTP with binary protobuf; a collector's usual port is 4318.
    Http,
}

/// What is exported, and where to.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceSettings {
    /// `http://host:4317`.
    pub endpoint: String,
    /// The protocol.
    pub protocol: Protocol,
    /// Share of the traces that begin here and are recorded, from 0 to 1. A trace that a client began is recorded if the
    /// client says so.
    pub sampling: f64,
    /// How long a batch may take.
    pub timeout: Duration,
}

/// The text is no address of a collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointFault {
    /// It is no URL, or one of another scheme.
    #[error("must be a URL such as http://collector:4317")]
    NoUrl,
    /// A URL is shown by `amends config`.
    #[error("must not contain a user or a password")]
    Credentials,
    /// It has a query or a fragment.
    #[error("must be a URL without query and fragment")]
    Query,
}

impl TraceSettings {
    /// Checks an endpoint.
    ///
    /// # Errors
    /// [`EndpointFault`].
    pub fn check_endpoint(text: &str) -> Result<(), EndpointFault> {
        let url = reqwest::Url::parse(text).map_err(|_| EndpointFault::NoUrl)?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err(EndpointFault::NoUrl);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(EndpointFault::Credentials);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(EndpointFault::Query);
        }
        Ok(())
    }

    /// Returns the URL to which batches are sent. Over HTTP a URL without a path gets the usual one.
    pub(crate) fn url(&self) -> String {
        let base = self.endpoint.trim_end_matches('/');
        let has_path = base.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
        match self.protocol {
            Protocol::Http if !has_path => format!("{base}{HTTP_PATH}"),
            _ => base.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_address_without_secrets() {
        let check = TraceSettings::check_endpoint;
        for endpoint in ["http://localhost:4317", "https://otel.example/v1/traces", "http://[::1]:4318/"] {
            assert_eq!(check(endpoint), Ok(()), "{endpoint}");
        }
        for endpoint in ["localhost:4317", "collector", "grpc://c:4317", "", "http://", "ftp://c/"] {
            assert_eq!(check(endpoint), Err(EndpointFault::NoUrl), "{endpoint}");
        }
        assert_eq!(check("http://u:hunter2@c:4317"), Err(EndpointFault::Credentials));
        assert_eq!(check("http://c:4318/?key=1"), Err(EndpointFault::Query));
    }

    #[test]
    fn http_has_a_usual_path_and_grpc_has_none() {
        let url = |endpoint: &str, protocol| {
            let timeout = Duration::from_secs(1);
            TraceSettings { endpoint: endpoint.to_owned(), protocol, sampling: 1.0, timeout }.url()
        };
        assert_eq!(url("http://c:4317/", Protocol::Grpc), "http://c:4317");
        assert_eq!(url("http://c:4318/", Protocol::Http), "http://c:4318/v1/traces");
        assert_eq!(url("http://c:4318/own/path", Protocol::Http), "http://c:4318/own/path");
    }
}
