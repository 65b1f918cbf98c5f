//! Where spans go, and how many are recorded.

use std::time::Duration;

use amends_telemetry::{Protocol, TraceSettings};
use serde::Deserialize;

use super::{Error, Settings};

/// Share of the traces that begin here and are recorded, if the setting does not say.
const SAMPLING_USUAL: f64 = 0.1;
/// How long a collector may take for a batch. Nothing but spans waits for it.
const EXPORT_LONGEST: Duration = Duration::from_secs(5);

/// The protocol by which spans are sent.
#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum OtlpProtocol {
    Grpc,
    Http,
}

impl OtlpProtocol {
    /// Returns its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
        }
    }
}

impl Settings {
    /// Returns what is traced; `None` without an endpoint: nothing is.
    pub fn traces(&self) -> Option<TraceSettings> {
        Some(TraceSettings {
            endpoint: self.otlp_endpoint.clone().filter(|endpoint| !endpoint.is_empty())?,
            protocol: match self.otlp_protocol {
                OtlpProtocol::Grpc => Protocol::Grpc,
                OtlpProtocol::Http => Protocol::Http,
            },
            sampling: self.trace_sampling.unwrap_or(SAMPLING_USUAL),
            timeout: EXPORT_LONGEST,
        })
    }
}

/// Refuses an endpoint that is none, and a share that is none.
pub(super) fn check(settings: &Settings) -> Result<(), Error> {
    if let Some(endpoint) = settings.otlp_endpoint.as_ref().filter(|endpoint| !endpoint.is_empty()) {
        TraceSettings::check_endpoint(endpoint)
            .map_err(|fault| Error::Invalid(format!("otlp_endpoint: {fault}")))?;
    }
    if settings.trace_sampling.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
        return Err(Error::Invalid("trace_sampling: must be from 0 to 1".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &[(&str, &str)]) -> Result<Settings, Error> {
        let flags: Vec<_> = flags.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Settings::layered(&crate::services::names(), None, &flags, std::iter::empty())
    }

    #[test]
    fn without_an_endpoint_nothing_is_traced_and_with_one_a_tenth_is() {
        assert_eq!(read(&[]).unwrap().traces(), None);
        assert_eq!(read(&[("otlp_endpoint", "")]).unwrap().traces(), None);
        let traces = read(&[("otlp_endpoint", "http://c:4317")]).unwrap().traces().unwrap();
        assert_eq!((traces.protocol, traces.sampling), (Protocol::Grpc, 0.1));
        let flags = [("otlp_endpoint", "http://c:4318"), ("otlp_protocol", "http"), ("trace_sampling", "1")];
        let traces = read(&flags).unwrap().traces().unwrap();
        assert_eq!((traces.protocol, traces.sampling), (Protocol::Http, 1.0));
    }

    #[test]
    fn a_wrong_value_is_refused_in_one_line_that_hides_a_password() {
        for (key, value) in [
            ("otlp_endpoint", "collector:4317"),
            ("otlp_endpoint", "http://u:hunter2@c:4317"),
            ("otlp_protocol", "udp"),
            ("trace_sampling", "1.1"),
            ("trace_sampling", "-0.1"),
            ("trace_sampling", "NaN"),
            ("trace_sampling", "all"),
        ] {
            let error = read(&[(key, value)]).unwrap_err().to_string();
            assert!(error.contains(key) && !error.contains("hunter2") && !error.contains('\n'), "{error}");
        }
    }
}
