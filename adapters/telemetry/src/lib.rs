//! Exports spans to an OpenTelemetry Collector by OTLP.
//!
//! [`start`] installs the process's recorder ([`amends_protocol::trace::install`]). Recording a span puts it into a
//! bounded queue, and never waits: while the collector hangs or is away, the queue fills up, and what does not fit is
//! counted and dropped. A task of its own exports, in batches.
//!
//! | module | contains |
//! | --- | --- |
//! | [`settings`] | where to, by which protocol, and how many |
//! | [`queue`] | the recorder: sampling, ids, the queue |
//! | [`export`] | the task that empties the queue |
//! | [`otlp`] | a span in OpenTelemetry's terms; one exporter a service |
#![warn(missing_docs)]

pub mod export;
pub mod otlp;
pub mod queue;
pub mod settings;

pub use export::Export;
pub use settings::{EndpointFault, Protocol, TraceSettings};

use amends_protocol::trace;

/// Installs the recorder of this process. Returns the loop that exports; it must be run on a tokio runtime. `None` if a
/// recorder is installed already.
pub fn start(settings: TraceSettings) -> Option<Export> {
    let (queue, spans) = queue::queue(settings.sampling);
    trace::install(Box::new(queue)).then(|| Export::new(settings, spans))
}
