//! Spans, and the process's recorder of them.

use std::{borrow::Cow, sync::OnceLock, time::SystemTime};

use super::{Recorder, SpanId, TraceContext, conventions};

static RECORDER: OnceLock<Box<dyn Recorder>> = OnceLock::new();

/// Installs the recorder of this process; returns whether it is the first.
pub fn install(recorder: Box<dyn Recorder>) -> bool {
    RECORDER.set(recorder).is_ok()
}

/// Returns whether this process records spans.
pub fn is_recording() -> bool {
    RECORDER.get().is_some()
}

/// Returns the time, if this process records spans.
pub fn now() -> Option<SystemTime> {
    RECORDER.get().map(|recorder| recorder.now())
}

/// What a span stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// A request is served.
    Server,
    /// A request is made.
    Client,
    /// A message is sent.
    Producer,
    /// A message is processed.
    Consumer,
    /// Anything else.
    Internal,
}

/// Value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A text without personal data.
    Text(Cow<'static, str>),
    /// A number.
    Number(i64),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// A finished span.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// The service that recorded it: `engine`, `payment`.
    pub service: Cow<'static, str>,
    /// Its name, one of few: no id is in it.
    pub name: Cow<'static, str>,
    /// What it stands for.
    pub kind: SpanKind,
    /// Its trace and its id.
    pub context: TraceContext,
    /// The id of its parent in the same trace.
    pub parent: Option<SpanId>,
    /// Spans of this or other traces that led to it.
    pub links: Vec<TraceContext>,
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
    /// What is known of it; the names are in [`conventions`].
    pub attributes: Vec<(&'static str, Value)>,
    /// What kind of error it ended with.
    pub error: Option<Cow<'static, str>>,
}

/// A span that has begun. It is recorded when it ends; if it is dropped before, it is not.
#[derive(Debug, Clone)]
pub struct OpenSpan(Span);

/// Begins a span below another one. `None` if the trace is not sampled, or if this process records no spans.
pub fn begin(
    service: impl Into<Cow<'static, str>>,
    name: impl Into<Cow<'static, str>>,
    kind: SpanKind,
    parent: TraceContext,
) -> Option<OpenSpan> {
    let recorder = RECORDER.get().filter(|_| parent.is_sampled())?;
    let context = parent.with_span(recorder.span_id());
    Some(open(&**recorder, service.into(), name.into(), kind, context, Some(parent.span_id())))
}

/// Begins a span that has a trace of its own; `None` if that is not sampled, or if this process records no spans.
pub fn begin_root(
    service: impl Into<Cow<'static, str>>,
    name: impl Into<Cow<'static, str>>,
    kind: SpanKind,
) -> Option<OpenSpan> {
    let recorder = RECORDER.get()?;
    let context = Some(recorder.root()).filter(|root| root.is_sampled())?;
    Some(open(&**recorder, service.into(), name.into(), kind, context, None))
}

fn open(
    recorder: &dyn Recorder,
    service: Cow<'static, str>,
    name: Cow<'static, str>,
    kind: SpanKind,
    context: TraceContext,
    parent: Option<SpanId>,
) -> OpenSpan {
    let now = recorder.now();
    OpenSpan(Span {
        service,
        name,
        kind,
        context,
        parent,
        links: Vec::new(),
        start: now,
        end: now,
        attributes: Vec::new(),
        error: None,
    })
}

impl OpenSpan {
    /// Returns the context for what this span leads to.
    pub fn context(&self) -> TraceContext {
        self.0.context
    }

    /// Gives it this context of the same trace, instead of a random one.
    #[must_use]
    pub fn at(mut self, context: TraceContext) -> Self {
        self.0.context = context;
        self
    }

    /// Gives it the beginning of another span.
    #[must_use]
    pub fn since(mut self, start: SystemTime) -> Self {
        self.0.start = start;
        self
    }

    /// Returns when it began.
    pub fn start(&self) -> SystemTime {
        self.0.start
    }

    /// Replaces its name.
    pub fn rename(&mut self, name: impl Into<Cow<'static, str>>) {
        self.0.name = name.into();
    }

    /// Adds an attribute. It must contain no personal data.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.set(name, value);
        self
    }

    /// Adds an attribute. It must contain no personal data.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.attributes.push((name, value.into()));
    }

    /// Adds a link, unless that span is the parent.
    pub fn link(&mut self, to: TraceContext) {
        let is_parent = to.trace_id() == self.0.context.trace_id() && Some(to.span_id()) == self.0.parent;
        if !is_parent {
            self.0.links.push(to);
        }
    }

    /// Says that it failed, with a word of few.
    pub fn fail(&mut self, kind: impl Into<Cow<'static, str>>) {
        let kind = kind.into();
        self.0.attributes.push((conventions::ERROR_TYPE, Value::Text(kind.clone())));
        self.0.error = Some(kind);
    }

    /// Records it as ended now.
    pub fn end(self) {
        if let Some(recorder) = RECORDER.get() {
            let end = recorder.now().max(self.0.start);
            recorder.record(Span { end, ..self.0 });
        }
    }
}
