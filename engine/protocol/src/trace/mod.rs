//! Traces: the context that messages carry, and the spans that a process records.
//!
//! Spans are recorded through one [`Recorder`] of the process, like metrics through the recorder of the crate
//! `metrics`. Without one nothing is built: [`begin`] returns `None`, and costs a comparison.
//!
//! A span is recorded whole, when it ends. So no span lasts as long as a saga, and none is lost because it never ended.

mod context;
pub mod conventions;
mod scope;
mod span;

pub use context::{Malformed, SpanId, TraceContext};
pub use scope::{Scoped, current, scope};
pub use span::{OpenSpan, Span, SpanKind, Value, begin, begin_root, install, is_recording, now};

/// Takes finished spans. It must not block, and may drop them.
pub trait Recorder: Send + Sync {
    /// Returns the time.
    fn now(&self) -> std::time::SystemTime;

    /// Returns 8 random bytes, not all of them zero.
    fn span_id(&self) -> SpanId;

    /// Returns the context of a new trace, and decides whether it is sampled.
    fn root(&self) -> TraceContext;

    /// Takes a span.
    fn record(&self, span: Span);
}
