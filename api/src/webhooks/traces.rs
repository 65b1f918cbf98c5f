//! The span of an attempt to deliver a webhook. It is below the request that the event's saga was born of.

use amends_orders::{webhook_deliveries::DueDelivery, webhooks::LeasedWebhook};
use amends_protocol::trace::{self, OpenSpan, SpanKind, TraceContext, conventions};
use amends_webhooks::{Answer, SendFault};
use reqwest::Url;
use serde::Deserialize;

/// The part of an event that is read here.
#[derive(Deserialize)]
struct Traced {
    traceparent: Option<TraceContext>,
}

/// Begins the span of an attempt. A URL may contain secrets, so only its host is recorded.
pub(super) fn sending(webhook: &LeasedWebhook, delivery: &DueDelivery) -> Option<OpenSpan> {
    if !trace::is_recording() {
        return None;
    }
    let born_of = serde_json::from_str::<Traced>(&delivery.event).ok()?.traceparent?;
    let mut span = trace::begin("engine", "POST webhook", SpanKind::Client, born_of)?
        .with(conventions::HTTP_REQUEST_METHOD, "POST")
        .with(conventions::WEBHOOK, webhook.id.to_string())
        .with(conventions::ATTEMPT, i64::from(delivery.tries).saturating_add(1));
    if let Some(host) = Url::parse(&webhook.url).ok().and_then(|url| url.host_str().map(str::to_owned)) {
        span.set(conventions::SERVER_ADDRESS, host);
    }
    if let Some(order) = delivery.order_id {
        span.set(conventions::ORDER, order.to_string());
    }
    Some(span)
}

/// Records how the attempt ended.
pub(super) fn sent(span: Option<OpenSpan>, answer: &Result<Answer, SendFault>) {
    let Some(mut span) = span else { return };
    match answer {
        Ok(answer) => {
            span.set(conventions::HTTP_RESPONSE_STATUS_CODE, i64::from(answer.status));
            if !(200..300).contains(&answer.status) {
                span.fail(answer.status.to_string());
            }
        }
        Err(fault) => span.fail(match fault {
            SendFault::Closed => "closed",
            SendFault::Unresolved => "unresolved",
            SendFault::Certificate(_) => "certificate",
            SendFault::Unconnected => "unconnected",
            SendFault::Late => "timeout",
            SendFault::Broken => "broken",
        }),
    }
    span.end();
}
