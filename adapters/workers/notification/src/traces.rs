//! The spans of notifications: an event is processed, a message is sent.

use amends_protocol::{
    trace::{
        self, OpenSpan, SpanKind, TraceContext,
        conventions::{self, Operation},
    },
    transport::Inbound,
};

use crate::{
    event::{Channel, Event},
    store::Claimed,
};

const SERVICE: &str = "notification";

/// Begins the span in which an event is processed.
pub(crate) fn processing(message: &Inbound, event: &Event) -> Option<OpenSpan> {
    let sent: TraceContext = message.traceparent.as_deref()?.parse().ok()?;
    let span = conventions::message(SERVICE, Operation::Process, &message.topic, sent)?;
    Some(
        span.with(conventions::MESSAGING_DESTINATION_PARTITION_ID, message.partition.to_string())
            .with(conventions::MESSAGING_KAFKA_OFFSET, message.offset)
            .with(conventions::MESSAGING_MESSAGE_ID, event.id.clone())
            .with(conventions::ORDER, event.data.order_id.to_string()),
    )
}

/// Begins the span in which a message is sent to the customer. Nothing in it says to whom.
pub(crate) fn sending(claimed: &Claimed, channel: Channel) -> Option<OpenSpan> {
    if !trace::is_recording() {
        return None;
    }
    let processed: TraceContext = claimed.traceparent.as_deref()?.parse().ok()?;
    let span = trace::begin(SERVICE, format!("send {}", channel.as_str()), SpanKind::Client, processed)?;
    Some(
        span.with(conventions::CHANNEL, channel.as_str())
            .with(conventions::ATTEMPT, i64::from(claimed.attempts))
            .with(conventions::ORDER, claimed.order_id.to_string()),
    )
}

/// Records how the attempt ended.
pub(crate) fn sent(span: Option<OpenSpan>, outcome: &'static str) {
    let Some(mut span) = span else { return };
    span.set(conventions::OUTCOME, outcome);
    if matches!(outcome, "retried" | "failed") {
        span.fail(outcome);
    }
    span.end();
}
