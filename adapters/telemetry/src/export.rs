//! The task that exports.

use std::{borrow::Cow, collections::BTreeMap, pin::pin, time::Duration};

use amends_protocol::trace::Span;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{otlp::Exporters, queue::EXPORT_FAILED, settings::TraceSettings};

/// Number of spans in a batch at most.
const EXPORT_BATCH: usize = 1024;
/// How long a batch waits for more.
const EXPORT_LINGER: Duration = Duration::from_millis(100);
/// How long a stopping process waits until its last spans are taken.
const LAST_SPANS_PATIENCE: Duration = Duration::from_secs(2);

/// Exports what is recorded.
#[derive(Debug)]
pub struct Export {
    exporters: Exporters,
    spans: mpsc::Receiver<Span>,
    /// Whether the last batch failed.
    failing: bool,
}

impl Export {
    /// Creates it over the end of a queue.
    pub fn new(settings: TraceSettings, spans: mpsc::Receiver<Span>) -> Self {
        Self { exporters: Exporters::new(settings), spans, failing: false }
    }

    /// Exports until stopped, then what waits, for a moment.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                taken = self.spans.recv_many(&mut batch, EXPORT_BATCH) => if taken == 0 { return },
                () = stop.cancelled() => break,
            }
            if batch.len() < EXPORT_BATCH {
                tokio::select! {
                    () = tokio::time::sleep(EXPORT_LINGER) => {}
                    () = stop.cancelled() => {}
                }
                while batch.len() < EXPORT_BATCH
                    && let Ok(span) = self.spans.try_recv()
                {
                    batch.push(span);
                }
            }
            let mut exporting = pin!(self.export(std::mem::take(&mut batch)));
            tokio::select! {
                () = &mut exporting => {}
                () = stop.cancelled() => {
                    let _ = timeout(LAST_SPANS_PATIENCE, exporting).await;
                    break;
                }
            }
        }
        let _ = timeout(LAST_SPANS_PATIENCE, self.last(batch)).await;
    }

    /// The loops of the process end while this one does: it takes their last spans too.
    async fn last(&mut self, mut batch: Vec<Span>) {
        loop {
            let taken = timeout(EXPORT_LINGER * 5, self.spans.recv_many(&mut batch, EXPORT_BATCH)).await;
            if batch.is_empty() && !matches!(taken, Ok(1..)) {
                return;
            }
            self.export(std::mem::take(&mut batch)).await;
        }
    }

    async fn export(&mut self, batch: Vec<Span>) {
        let mut by_service: BTreeMap<Cow<'static, str>, Vec<Span>> = BTreeMap::new();
        for span in batch {
            by_service.entry(span.service.clone()).or_default().push(span);
        }
        for (service, spans) in by_service {
            let count = spans.len() as u64;
            match self.exporters.send(service, spans).await {
                Ok(()) => {
                    metrics::counter!("amends_trace_spans_exported_total").increment(count);
                    if std::mem::replace(&mut self.failing, false) {
                        tracing::info!("spans are exported again");
                    }
                }
                Err(error) => {
                    metrics::counter!("amends_trace_spans_dropped_total", "reason" => EXPORT_FAILED)
                        .increment(count);
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!(%error, "spans cannot be exported and are dropped; orders go on");
                    }
                }
            }
        }
    }
}
