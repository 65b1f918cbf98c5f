//! A collector of this test: it takes OTLP over HTTP, and may hang.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
};
use prost::Message;
use tokio::{net::TcpListener, task::JoinHandle};

use super::{Backend, Seen};

/// The collector.
pub struct Sink {
    address: SocketAddr,
    state: Arc<SinkState>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct SinkState {
    /// By the trace's id.
    spans: Mutex<BTreeMap<String, Vec<Seen>>>,
    hangs: AtomicBool,
}

impl Sink {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<SinkState>::default();
        let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&state));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, state, serving }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on it answers nothing.
    pub fn hangs(&self) {
        self.state.hangs.store(true, Ordering::Relaxed);
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Backend for Sink {
    async fn spans(&self, trace_id: &str) -> Vec<Seen> {
        self.state.spans.lock().unwrap().get(trace_id).cloned().unwrap_or_default()
    }
}

async fn take(State(state): State<Arc<SinkState>>, body: Bytes) -> StatusCode {
    if state.hangs.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    let mut spans = state.spans.lock().unwrap();
    for resource in request.resource_spans {
        assert_eq!(resource.schema_url, amends_protocol::trace::conventions::SCHEMA_URL);
        let of_resource = resource.resource.map(|resource| texts(resource.attributes)).unwrap_or_default();
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            let parent = Some(hex::encode(span.parent_span_id)).filter(|parent| !parent.is_empty());
            let seen = Seen {
                id: hex::encode(span.span_id),
                parent,
                name: span.name.to_lowercase(),
                service: of_resource["service.name"].clone(),
                attributes: texts(span.attributes),
                micros: (span.end_time_unix_nano - span.start_time_unix_nano) / 1000,
            };
            spans.entry(hex::encode(span.trace_id)).or_default().push(seen);
        }
    }
    StatusCode::OK
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.into_iter().map(|attribute| (attribute.key, text(attribute.value))).collect()
}
