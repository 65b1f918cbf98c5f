//! A span in OpenTelemetry's terms, and its exporters.

use std::{borrow::Cow, collections::HashMap, time::Duration};

use amends_protocol::trace::{Span, SpanId as OwnSpanId, SpanKind, TraceContext, Value, conventions};
use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{Link, SpanContext, SpanId, SpanKind as OtelKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol as OtlpProtocol, SpanExporter, WithExportConfig, WithHttpConfig,
    WithTonicConfig, tonic_types::transport::ClientTlsConfig,
};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanExporter as _, SpanLinks},
};

use crate::settings::{Protocol, TraceSettings};

/// What all services of a deployment belong to.
const NAMESPACE: &str = "amends";

/// The exporters of a process: one a service, because a request names one resource.
#[derive(Debug)]
pub(crate) struct Exporters {
    settings: TraceSettings,
    instance: String,
    by_service: HashMap<Cow<'static, str>, SpanExporter>,
}

/// A batch was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("no exporter: {0}")]
    Build(#[from] ExporterBuildError),
    #[error("no HTTP client: {0}")]
    Client(#[from] reqwest::Error),
    #[error("{0}")]
    Refused(#[from] opentelemetry_sdk::error::OTelSdkError),
    #[error("no answer within {}s", .0.as_secs_f32())]
    Late(Duration),
}

impl Exporters {
    pub(crate) fn new(settings: TraceSettings) -> Self {
        let instance = format!("{:032x}", rand::random::<u128>());
        Self { settings, instance, by_service: HashMap::new() }
    }

    /// Sends the spans of one service.
    pub(crate) async fn send(&mut self, service: Cow<'static, str>, spans: Vec<Span>) -> Result<(), Error> {
        if !self.by_service.contains_key(&service) {
            let exporter = self.exporter(&service)?;
            self.by_service.insert(service.clone(), exporter);
        }
        let Some(exporter) = self.by_service.get(&service) else { return Ok(()) };
        let sending = exporter.export(spans.into_iter().map(data).collect());
        let limit = self.settings.timeout;
        Ok(tokio::time::timeout(limit, sending).await.map_err(|_| Error::Late(limit))??)
    }

    fn exporter(&self, service: &str) -> Result<SpanExporter, Error> {
        let TraceSettings { protocol, timeout, .. } = self.settings;
        let url = self.settings.url();
        let mut exporter = match protocol {
            Protocol::Grpc => {
                let is_encrypted = url.starts_with("https://");
                let builder = SpanExporter::builder().with_tonic().with_endpoint(url).with_timeout(timeout);
                match is_encrypted {
                    true => builder.with_tls_config(ClientTlsConfig::new().with_native_roots()).build()?,
                    false => builder.build()?,
                }
            }
            Protocol::Http => {
                // The collector is ours: no proxy from the environment.
                let client = reqwest::Client::builder().no_proxy().timeout(timeout).build()?;
                let builder = SpanExporter::builder().with_http().with_http_client(client);
                let builder = builder.with_protocol(OtlpProtocol::HttpBinary).with_endpoint(url);
                builder.with_timeout(timeout).build()?
            }
        };
        let attributes = [
            KeyValue::new(conventions::SERVICE_NAME, format!("{NAMESPACE}-{service}")),
            KeyValue::new(conventions::SERVICE_NAMESPACE, NAMESPACE),
            KeyValue::new(conventions::SERVICE_VERSION, env!("CARGO_PKG_VERSION")),
            KeyValue::new(conventions::SERVICE_INSTANCE_ID, self.instance.clone()),
        ];
        let resource = Resource::builder_empty().with_schema_url(attributes, conventions::SCHEMA_URL).build();
        exporter.set_resource(&resource);
        Ok(exporter)
    }
}

fn data(span: Span) -> SpanData {
    let mut links = SpanLinks::default();
    links.links = span.links.into_iter().map(|to| Link::new(context(to, true), Vec::new(), 0)).collect();
    let scope = InstrumentationScope::builder(NAMESPACE)
        .with_version(env!("CARGO_PKG_VERSION"))
        .with_schema_url(conventions::SCHEMA_URL)
        .build();
    let attribute = |(name, value)| match value {
        Value::Text(text) => KeyValue::new(name, text.into_owned()),
        Value::Number(number) => KeyValue::new(name, number),
    };
    SpanData {
        span_context: context(span.context, false),
        parent_span_id: span.parent.map_or(SpanId::INVALID, span_id),
        // Parents are mostly in other processes; and nothing depends on it.
        parent_span_is_remote: span.parent.is_some(),
        span_kind: match span.kind {
            SpanKind::Server => OtelKind::Server,
            SpanKind::Client => OtelKind::Client,
            SpanKind::Producer => OtelKind::Producer,
            SpanKind::Consumer => OtelKind::Consumer,
            SpanKind::Internal => OtelKind::Internal,
        },
        name: span.name,
        start_time: span.start,
        end_time: span.end,
        attributes: span.attributes.into_iter().map(attribute).collect(),
        dropped_attributes_count: 0,
        events: Default::default(),
        links,
        status: span.error.map_or(Status::Unset, Status::error),
        instrumentation_scope: scope,
    }
}

fn context(of: TraceContext, is_remote: bool) -> SpanContext {
    let flags = if of.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let trace = TraceId::from_bytes(of.trace_id());
    SpanContext::new(trace, span_id(of.span_id()), flags, is_remote, TraceState::default())
}

fn span_id(id: OwnSpanId) -> SpanId {
    SpanId::from_bytes(id)
}
