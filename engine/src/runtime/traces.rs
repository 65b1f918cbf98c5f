//! The spans of the engine: what it processes, and the commands that follow.
//!
//! A command's span is below the span of what caused it. What has no nearer cause (a timer, an operator) is below the
//! span of the request that the saga was born of, however long ago that ended: so no span lasts as long as its saga.

use std::{sync::Arc, time::SystemTime};

use amends_protocol::{
    Command,
    trace::{
        self, OpenSpan, SpanKind, TraceContext,
        conventions::{self, Operation},
    },
    transport::Inbound,
};
use uuid::Uuid;

use crate::core::{Event, Saga};

/// The service that an engine's spans belong to.
pub(super) const ENGINE: &str = "engine";
/// The service of what the api sends itself: births, and events from outside.
pub(super) const API: &str = "api";

/// The spans of what a batch's commands follow from.
#[derive(Debug)]
pub(super) struct Causes {
    service: &'static str,
    /// Sorted by saga; of a saga, in the order of what happened to it.
    spans: Vec<(Uuid, OpenSpan)>,
}

impl Causes {
    /// Nothing is recorded that the commands follow from.
    pub fn none(service: &'static str) -> Self {
        Self { service, spans: Vec::new() }
    }

    /// Adds the processing of a reply; replies come sorted by saga. It is below the span of the command's sending, which a worker repeats whether or
    /// not it records spans.
    pub fn replied(&mut self, saga: Uuid, message: &Inbound, event: &Event) {
        let context = message.traceparent.as_deref().and_then(|text| text.parse().ok());
        let Some(context) = context else { return };
        let span = conventions::message(self.service, Operation::Process, &message.topic, context);
        let Some(mut span) = span else { return };
        span.set(conventions::MESSAGING_DESTINATION_PARTITION_ID, message.partition.to_string());
        span.set(conventions::MESSAGING_KAFKA_OFFSET, message.offset);
        if let Event::Replied(reply) = event {
            span.set(conventions::MESSAGING_MESSAGE_ID, reply.command_id.to_string());
            span.set(conventions::STEP, reply.step.clone());
            span.set(conventions::COMMAND_KIND, reply.kind.as_str());
            span.set(conventions::OUTCOME, reply.outcome.as_str());
        }
        self.spans.push((saga, of_saga(span, saga)));
    }

    /// These sagas are due.
    pub fn woken<'a>(sagas: impl Iterator<Item = &'a Saga>) -> Self {
        let mut causes = Self::none(ENGINE);
        if trace::is_recording() {
            let span = |saga: &Saga| {
                let span = trace::begin(ENGINE, "wake saga", SpanKind::Internal, saga.trace())?;
                Some((saga.id, of_saga(span, saga.id)))
            };
            causes.spans.extend(sagas.filter_map(span));
            causes.spans.sort_by_key(|(saga, _)| *saga);
        }
        causes
    }

    /// The cause is a request for an event. The request has a trace of its own, and the event's span links to it.
    pub fn asked(Asked { event, at, by }: Asked, row: Option<&Arc<Saga>>) -> Self {
        let mut causes = Self::none(API);
        if let (Some(at), Some(saga)) = (at, row)
            && let Some(span) = trace::begin(API, "apply event", SpanKind::Internal, saga.trace())
        {
            let mut span = of_saga(span.since(at), saga.id).with(conventions::EVENT, event);
            by.into_iter().for_each(|request| span.link(request));
            causes.spans.push((saga.id, span));
        }
        causes
    }

    /// Begins the span in which a command is sent; `None` if its saga is not sampled.
    pub fn sending(&self, saga: &Saga, command: &Command, topic: &str) -> Option<OpenSpan> {
        if !trace::is_recording() {
            return None;
        }
        let root = saga.trace();
        let after = self.spans.partition_point(|(of, _)| *of <= saga.id);
        let cause = after.checked_sub(1).map(|last| &self.spans[last]).filter(|(of, _)| *of == saga.id);
        // Headers are not signed: a reply may name another trace.
        let is_of_trace = |context: &TraceContext| context.trace_id() == root.trace_id();
        let cause = cause.map(|(_, span)| span.context()).filter(is_of_trace).unwrap_or(root);
        let span = conventions::message(self.service, Operation::Send, topic, cause)?;
        let attempt = i64::from(command.attempt);
        Some(
            of_saga(span, saga.id)
                .with(conventions::MESSAGING_MESSAGE_ID, command.command_id.to_string())
                .with(conventions::WORKFLOW, saga.workflow.clone())
                .with(conventions::STEP, command.step.clone())
                .with(conventions::COMMAND_KIND, command.kind.as_str())
                .with(conventions::ATTEMPT, attempt),
        )
    }

    /// Records the spans of these sagas.
    pub fn end(self, is_settled: impl Fn(&Uuid) -> bool) {
        self.spans.into_iter().filter(|(saga, _)| is_settled(saga)).for_each(|(_, span)| span.end());
    }
}

/// An event from outside, and the request that asks for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    event: &'static str,
    /// When it was asked for; `None` if nothing is recorded.
    at: Option<SystemTime>,
    by: Option<TraceContext>,
}

impl Asked {
    /// It is asked for now.
    pub fn now(event: &Event) -> Self {
        Self { event: name(event), at: trace::now(), by: trace::current() }
    }
}

/// Records the sending of messages.
pub(super) fn end(spans: Vec<OpenSpan>, sent: bool) {
    for mut span in spans {
        if !sent {
            span.fail("transport");
        }
        span.end();
    }
}

/// Returns the context of a command whose sending is not recorded here. Others may record spans below it, so it differs
/// from command to command: its parent id is the half of the command's id that differs.
pub(super) fn unrecorded(saga: &Saga, command: &Command) -> TraceContext {
    let mut span_id = [0; 8];
    span_id.copy_from_slice(&command.command_id.as_bytes()[8..]);
    saga.trace().with_span(span_id)
}

fn of_saga(span: OpenSpan, saga: Uuid) -> OpenSpan {
    let id = saga.to_string();
    span.with(conventions::MESSAGING_MESSAGE_CONVERSATION_ID, id.clone()).with(conventions::SAGA, id)
}

fn name(event: &Event) -> &'static str {
    match event {
        Event::Started(_) => "start",
        Event::Replied(_) => "reply",
        Event::Woke => "wake",
        Event::CancelRequested(_) => "cancel",
        Event::RetryRequested(_) => "retry",
        Event::ResendRequested(_) => "resend",
        Event::Resolved(_) => "resolve",
        Event::Poisoned(_) => "poison",
        Event::Signalled(_) => "signal",
    }
}
