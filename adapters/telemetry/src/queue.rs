//! The recorder: a bounded queue of finished spans.

use std::time::SystemTime;

use amends_protocol::trace::{Recorder, Span, SpanId, TraceContext};
use tokio::sync::mpsc;

/// Number of spans that wait at most: some seconds of a busy process, and about 5 MB.
pub const SPANS_WAITING_MOST: usize = 8192;

/// The queue is full.
const QUEUE_FULL: &str = "queue_full";
/// The collector did not take them.
pub(crate) const EXPORT_FAILED: &str = "export_failed";

/// Creates a queue; `sampling` is the share of the new traces that are recorded.
pub fn queue(sampling: f64) -> (Queue, mpsc::Receiver<Span>) {
    let (spans, waiting) = mpsc::channel(SPANS_WAITING_MOST);
    (Queue { spans, sampling }, waiting)
}

/// Records spans into a queue.
#[derive(Debug)]
pub struct Queue {
    spans: mpsc::Sender<Span>,
    sampling: f64,
}

impl Recorder for Queue {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn span_id(&self) -> SpanId {
        rand::random::<u64>().max(1).to_be_bytes()
    }

    fn root(&self) -> TraceContext {
        let is_sampled = rand::random::<f64>() < self.sampling;
        TraceContext::new(rand::random::<u128>().max(1).to_be_bytes(), self.span_id(), is_sampled)
    }

    fn record(&self, span: Span) {
        if self.spans.try_send(span).is_err() {
            metrics::counter!("amends_trace_spans_dropped_total", "reason" => QUEUE_FULL).increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use amends_protocol::trace::SpanKind;

    use super::*;

    fn span(queue: &Queue) -> Span {
        let now = queue.now();
        Span {
            service: "test".into(),
            name: "test".into(),
            kind: SpanKind::Internal,
            context: queue.root(),
            parent: None,
            links: Vec::new(),
            start: now,
            end: now,
            attributes: Vec::new(),
            error: None,
        }
    }

    #[test]
    fn what_nobody_exports_is_dropped_and_never_waits() {
        let (queue, mut waiting) = queue(1.0);
        for _ in 0..SPANS_WAITING_MOST + 100 {
            queue.record(span(&queue));
        }
        let mut kept = 0;
        while waiting.try_recv().is_ok() {
            kept += 1;
        }
        assert_eq!(kept, SPANS_WAITING_MOST);
        drop(waiting);
        queue.record(span(&queue));
    }

    #[test]
    fn the_share_of_new_traces_that_are_recorded_is_that_of_the_settings() {
        let sampled = |share| {
            let (queue, _waiting) = queue(share);
            (0..10_000).filter(|_| queue.root().is_sampled()).count()
        };
        assert_eq!((sampled(0.0), sampled(1.0)), (0, 10_000));
        assert!((800..1_200).contains(&sampled(0.1)));
    }
}
