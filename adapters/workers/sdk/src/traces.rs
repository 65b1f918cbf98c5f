//! The spans of a worker: what it does about a command, below the span in which the command was sent.
//!
//! A reply repeats the command's `traceparent`, so that workers without spans are no gap. The id of the span in which a
//! command is handled is computed from it ([`TraceContext::handling`]): so its call, and its reply, are below that span
//! without a word of it in rows.

use std::{future::Future, time::SystemTime};

use amends_protocol::{
    Command, Outcome, Reply,
    trace::{
        self, OpenSpan, SpanKind, TraceContext,
        conventions::{self, Operation},
    },
    transport::Inbound,
};

use crate::{executor::Answer, settings::Settings};

/// When a batch arrived, and when its transaction began. Empty if this process records no spans.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    arrived: Option<SystemTime>,
    begun: Option<SystemTime>,
}

impl Times {
    /// A batch arrives now.
    pub(crate) fn arrived() -> Self {
        let now = trace::now();
        Self { arrived: now, begun: now }
    }

    /// Its transaction, or the next one, begins now.
    pub(crate) fn begun(self) -> Self {
        Self { begun: trace::now(), ..self }
    }

    /// The transaction has committed what it does about these commands.
    pub(crate) fn committed<'a>(
        self,
        settings: &Settings,
        count: usize,
        commands: impl Iterator<Item = (&'a Command, &'a Inbound)>,
    ) {
        let (Some(arrived), Some(begun)) = (self.arrived, self.begun) else { return };
        for (command, message) in commands {
            let Some(sent) = context(message.traceparent.as_deref()) else { continue };
            let name = settings.name.clone();
            let span = conventions::message(name.clone(), Operation::Process, &message.topic, sent);
            let Some(span) = span else { continue };
            let handling = sent.handling();
            let transaction = trace::begin(name, "transaction", SpanKind::Internal, handling);
            if let Some(transaction) = transaction {
                transaction
                    .since(begun)
                    .with(conventions::DB_SYSTEM_NAME, conventions::POSTGRESQL)
                    .with(conventions::MESSAGING_BATCH_MESSAGE_COUNT, count)
                    .end();
            }
            of_command(span, command)
                .at(handling)
                .since(arrived)
                .with(conventions::MESSAGING_DESTINATION_PARTITION_ID, message.partition.to_string())
                .with(conventions::MESSAGING_KAFKA_OFFSET, message.offset)
                .end();
        }
    }
}

/// Begins the spans in which these replies are sent.
pub(crate) fn replying<'a>(
    settings: &Settings,
    replies: impl Iterator<Item = (&'a Reply, Option<&'a str>)>,
) -> Vec<OpenSpan> {
    if !trace::is_recording() {
        return Vec::new();
    }
    let span = |(reply, traceparent): (&Reply, Option<&str>)| {
        let handling = context(traceparent)?.handling();
        let span =
            conventions::message(settings.name.clone(), Operation::Send, &settings.reply_topic, handling)?;
        let saga = reply.saga_id.to_string();
        Some(
            span.with(conventions::MESSAGING_MESSAGE_ID, reply.command_id.to_string())
                .with(conventions::MESSAGING_MESSAGE_CONVERSATION_ID, saga.clone())
                .with(conventions::SAGA, saga)
                .with(conventions::STEP, reply.step.clone())
                .with(conventions::COMMAND_KIND, reply.kind.as_str())
                .with(conventions::OUTCOME, reply.outcome.as_str()),
        )
    };
    replies.filter_map(span).collect()
}

/// Records the sending of replies.
pub(crate) fn replied(spans: Vec<OpenSpan>, sent: bool) {
    for mut span in spans {
        if !sent {
            span.fail("transport");
        }
        span.end();
    }
}

/// The external system gave no answer that can be used.
const UNKNOWN: &str = "unknown";

/// The name of the result of an external call.
pub(crate) trait CallResult {
    /// Returns the name.
    fn as_str(&self) -> &'static str;
}

impl CallResult for Answer {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Succeeded { .. } => Outcome::Succeeded.as_str(),
            Self::Refused(_) => Outcome::Refused.as_str(),
            Self::Failed { transient: true, .. } => Outcome::FailedTransient.as_str(),
            Self::Failed { transient: false, .. } => Outcome::FailedForGood.as_str(),
            Self::Unknown(_) => UNKNOWN,
            Self::PassedOver => "passed_over",
        }
    }
}

impl CallResult for crate::executor::LookUp {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Found(answer) => answer.as_str(),
            Self::Nothing => "nothing",
            Self::NoAnswer(_) => UNKNOWN,
        }
    }
}

impl CallResult for crate::executor::Void {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Voided => "voided",
            Self::TooLate => "too_late",
            Self::NoAnswer(_) => UNKNOWN,
        }
    }
}

/// Makes an external call, in a span below the one in which its command is handled. The executor finds the span by
/// [`trace::current`], for the request that it makes. `None`: there was no answer in time.
pub(crate) async fn calling<T: CallResult>(
    settings: &Settings,
    verb: &'static str,
    command: &Command,
    traceparent: Option<&str>,
    call: impl Future<Output = Option<T>>,
) -> Option<T> {
    let sent = if trace::is_recording() { context(traceparent) } else { None };
    let span = sent.and_then(|sent| {
        let name = format!("{verb} {}", settings.name);
        trace::begin(settings.name.clone(), name, SpanKind::Client, sent.handling())
    });
    let Some(span) = span else { return call.await };
    let mut span = of_command(span, command);
    let answer = trace::scope(Some(span.context()), call).await;
    match answer.as_ref().map(CallResult::as_str) {
        Some(UNKNOWN) => span.fail("no_answer"),
        Some(word) => span.set(conventions::OUTCOME, word),
        None => span.fail("timeout"),
    }
    span.end();
    answer
}

fn of_command(span: OpenSpan, command: &Command) -> OpenSpan {
    let saga = command.saga_id.to_string();
    span.with(conventions::MESSAGING_MESSAGE_ID, command.command_id.to_string())
        .with(conventions::MESSAGING_MESSAGE_CONVERSATION_ID, saga.clone())
        .with(conventions::SAGA, saga)
        .with(conventions::STEP, command.step.clone())
        .with(conventions::COMMAND_KIND, command.kind.as_str())
        .with(conventions::ATTEMPT, i64::from(command.attempt))
}

fn context(traceparent: Option<&str>) -> Option<TraceContext> {
    traceparent?.parse().ok().filter(|context: &TraceContext| context.is_sampled())
}
